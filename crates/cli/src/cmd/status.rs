//! `stead status`

use std::time::Duration;

use rustix::event::{PollFd, poll};
use serde_json::Value;
use wire::api::ErrorKind;
use wire::api::event::ThreadState;
use wire::api::status::{
    Connection, ConnectionState, Crash, Document, Get, Health, MachineStatus, Mount, MountStatus, Process,
    Thread, Tunnel, Vm,
};
use wire::api::time::Timestamp;

use crate::client::Client;
use crate::context::Context;
use crate::error::{Error, Result};
use crate::output::text::{age, bytes, one_line};
use crate::output::{Align, Cell, Output, Style, Table};

/// How often `--watch` looks.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// How long it is told that a mount has lost a worker, if it has been well since: long enough to be seen by whoever looks
/// because something stood still, and not for as long as the mount lives.
const CRASH_SHOWN_SECONDS: u64 = 3600;

/// Moves to the top left corner and clears what is below it.
const CLEAR: &str = "\u{1b}[H\u{1b}[J";

/// Show mounts, connections and machines.
///
/// Below the tables it is said what is amiss, and what mends it. That a mount has lost a worker is said for an hour, or for as
/// long as the mount has failed; --json says it for as long as there is the mount, with the file that has the rest.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only this; may be repeated or joined with commas
    #[arg(long, value_name = "NOUN", value_delimiter = ',')]
    show: Vec<Section>,
    /// Show it again whenever it changes, until interrupted
    #[arg(long)]
    watch: bool,
}

/// A part of the document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Section {
    Machines,
    Connections,
    Mounts,
    Threads,
    Vms,
    Tunnels,
    Processes,
    Operations,
}

impl Section {
    const ALL: [Section; 8] = [
        Section::Machines,
        Section::Connections,
        Section::Mounts,
        Section::Threads,
        Section::Vms,
        Section::Tunnels,
        Section::Processes,
        Section::Operations,
    ];

    /// Its key in the document.
    fn key(self) -> &'static str {
        match self {
            Section::Machines => "machines",
            Section::Connections => "connections",
            Section::Mounts => "mounts",
            Section::Threads => "threads",
            Section::Vms => "vms",
            Section::Tunnels => "tunnels",
            Section::Processes => "processes",
            Section::Operations => "operations",
        }
    }
}

/// Carries it out.
pub fn run(args: Args, context: &mut Context) -> Result<()> {
    let sections = if args.show.is_empty() { Section::ALL.to_vec() } else { args.show };
    let client = context.daemon()?;
    let mut shown = client.call(Get {})?;
    print(&shown, &sections, &mut context.output)?;
    if !args.watch {
        return Ok(());
    }
    loop {
        context.output.flush()?;
        pause(&client)?;
        let now = client.call(Get {})?;
        // Ages go on even when nothing happens, but only a person wants to see that.
        if now == shown && !context.output.is_terminal() {
            continue;
        }
        shown = now;
        if context.output.is_terminal() && !context.output.is_json() {
            context.output.raw(CLEAR.as_bytes())?;
        }
        print(&shown, &sections, &mut context.output)?;
    }
}

/// Waits for the next look, or for the end of the daemon.
fn pause(client: &Client) -> Result<()> {
    let timeout = rustix::time::Timespec {
        tv_sec: WATCH_INTERVAL.as_secs().try_into().unwrap_or(1),
        tv_nsec: WATCH_INTERVAL.subsec_nanos().into(),
    };
    match poll(&mut [PollFd::new(client, crate::system::GONE)], Some(&timeout)) {
        Ok(0) | Err(rustix::io::Errno::INTR) => Ok(()),
        Ok(_) => Err(Error::new(ErrorKind::Failure, "the daemon went away").hint("stead daemon status")),
        Err(errno) => Err(Error::io("could not wait", &errno.into())),
    }
}

fn print(document: &Document, sections: &[Section], output: &mut Output) -> Result<()> {
    match output.is_json() {
        true => print_json(document, sections, output),
        false => print_text(document, sections, output),
    }
}

fn print_json(document: &Document, sections: &[Section], output: &mut Output) -> Result<()> {
    let could_not =
        |error| Error::new(ErrorKind::Failure, format!("could not write the status as JSON: {error}"));
    let mut value = serde_json::to_value(document).map_err(could_not)?;
    if let Value::Object(fields) = &mut value {
        let hidden = Section::ALL.iter().filter(|section| !sections.contains(section));
        for section in hidden {
            fields.remove(section.key());
        }
    }
    output.document(&value)
}

fn print_text(document: &Document, sections: &[Section], output: &mut Output) -> Result<()> {
    let mut parts = Vec::new();
    for section in sections {
        let table = match section {
            Section::Machines => machines(&document.machines),
            Section::Connections => connections(&document.connections, output),
            Section::Mounts => mounts(&document.mounts),
            Section::Threads => threads(&document.threads),
            Section::Vms => vms(&document.vms, output.now()),
            Section::Tunnels => tunnels(&document.tunnels, output.now()),
            Section::Processes => processes(&document.processes, output.now()),
            Section::Operations => super::operation::table(&document.operations, output),
        };
        if !table.is_empty() {
            parts.push(table);
        }
    }
    if parts.is_empty() {
        return match sections.len() {
            1 => output.line(format_args!("no {}", sections[0].key())),
            _ => output.line("nothing is mounted and nothing is connected"),
        };
    }
    for (index, table) in parts.iter().enumerate() {
        if index > 0 {
            output.line("")?;
        }
        output.table(table)?;
    }
    let connections = if sections.contains(&Section::Connections) { &document.connections[..] } else { &[] };
    let mounts = if sections.contains(&Section::Mounts) { &document.mounts[..] } else { &[] };
    let now = output.now();
    let of_mounts = mounts.iter().flat_map(|mount| remarks(mount, now));
    let remarks = connections.iter().flat_map(remarks_of_connection).chain(of_mounts);
    for (style, text) in remarks {
        let text = output.styled(style, &one_line(&text));
        output.line(text)?;
    }
    Ok(())
}

/// What does not fit into a column: why it is as it is, and what mends it.
fn remarks_of_connection(connection: &Connection) -> Vec<(Style, String)> {
    let Some(reason) = &connection.reason else {
        return Vec::new();
    };
    let hint = connection.hint.as_ref().map(|hint| format!(" ({hint})")).unwrap_or_default();
    let word = connection.state.name();
    vec![(Style::Fair, format!("{} is {word}: {reason}{hint}", connection.id))]
}

/// The same for a mount.
fn remarks(mount: &Mount, now: Timestamp) -> Vec<(Style, String)> {
    let id = mount.id;
    let mut remarks = Vec::new();
    match (&mount.status, &mount.reason) {
        (MountStatus::Failed { reason }, _) => {
            remarks.push((Style::Bad, format!("{id} failed: {reason}")));
            let over = format!("{id} is over: {} is a plain directory until it is mounted again", mount.dir);
            remarks.push((Style::Bad, format!("{over} (stead unmount {id})")));
        }
        (status, Some(reason)) => remarks.push((Style::Fair, format!("{id} is {}: {reason}", word(status)))),
        (_, None) => {}
    }
    match &mount.health {
        Health::Healthy => {}
        Health::Degraded { why } => remarks.push((Style::Fair, format!("{id} is degraded: {why}"))),
        Health::Failed { why } => remarks.push((Style::Bad, format!("{id} does not answer: {why}"))),
    }
    if let Some(degraded) = &mount.degraded {
        remarks.push((Style::Fair, format!("{id} is limited: {degraded}")));
    }
    for note in mount.replayed.iter().flat_map(super::mount::replay_notes) {
        remarks.push((Style::Fair, format!("{id}: {note}")));
    }
    if let Some(crash) = mount.crash.as_ref().filter(|crash| is_shown(crash, &mount.status, now)) {
        let when = crash.at.map(|at| format!(" {}", age(now, at))).unwrap_or_default();
        let text = format!("{id} has lost a worker{when}: {} (see {})", crash.message, crash.report);
        remarks.push((Style::Fair, text));
    }
    remarks
}

/// The death of a worker is the reason why a mount has failed, and old news where another one has served since.
fn is_shown(crash: &Crash, status: &MountStatus, now: Timestamp) -> bool {
    let is_recent = |at: Timestamp| now.unix().saturating_sub(at.unix()) < CRASH_SHOWN_SECONDS;
    matches!(status, MountStatus::Failed { .. }) || crash.at.is_none_or(is_recent)
}

fn machines(machines: &[MachineStatus]) -> Table {
    let mut table = Table::new(&[("MACHINE", Align::Left), ("STATE", Align::Left), ("AGENT", Align::Left)]);
    for machine in machines {
        let agent = machine.agent.as_ref().map_or("-".to_owned(), |agent| one_line(&agent.version));
        table.row([machine.machine.to_string().into(), connection_cell(machine.state), agent.into()]);
    }
    table
}

fn connections(connections: &[Connection], output: &Output) -> Table {
    let columns = [
        ("CONNECTION", Align::Left),
        ("MACHINE", Align::Left),
        ("STATE", Align::Left),
        ("SINCE", Align::Left),
        ("PROCESSES", Align::Left),
    ];
    let mut table = Table::new(&columns);
    for connection in connections {
        table.row([
            connection.id.into(),
            connection.machine.to_string().into(),
            connection_cell(connection.state),
            age(output.now(), connection.since).into(),
            listed(connection.pids.iter().map(u32::to_string)).into(),
        ]);
    }
    table
}

fn mounts(mounts: &[Mount]) -> Table {
    let columns = [
        ("MOUNT", Align::Left),
        ("SOURCE", Align::Left),
        ("DIRECTORY", Align::Left),
        ("BACKEND", Align::Left),
        ("STATE", Align::Left),
        ("UNSAVED", Align::Right),
        ("READ", Align::Right),
        ("WRITTEN", Align::Right),
    ];
    let mut table = Table::new(&columns);
    for mount in mounts {
        let unsaved = match mount.journal.operations {
            0 => Cell::styled("-", Style::Dim),
            _ => Cell::styled(bytes(mount.journal.bytes), Style::Fair),
        };
        table.row([
            mount.id.into(),
            mount.source.to_string().into(),
            mount.dir.to_string().into(),
            backend(mount).into(),
            mount_cell(&mount.status),
            unsaved,
            bytes(mount.counters.bytes_read).into(),
            bytes(mount.counters.bytes_written).into(),
        ]);
    }
    table
}

fn backend(mount: &Mount) -> String {
    match mount.port {
        Some(port) => format!("{}:{port}", mount.backend),
        None => mount.backend.to_string(),
    }
}

/// The table of threads.
pub fn threads(threads: &[Thread]) -> Table {
    let columns = [
        ("THREAD", Align::Left),
        ("STATE", Align::Left),
        ("CHANGED", Align::Right),
        ("REPOSITORY", Align::Left),
        ("DIRECTORY", Align::Left),
    ];
    let mut table = Table::new(&columns);
    for thread in threads {
        let state = match (thread.state, thread.mount) {
            (ThreadState::Open, None) => "not mounted".to_owned(),
            (state, _) => state.to_string(),
        };
        table.row([
            one_line(&thread.name).into(),
            state.into(),
            thread.changed.into(),
            (&thread.repo).into(),
            (&thread.dir).into(),
        ]);
    }
    table
}

/// The table of microVMs.
pub fn vms(vms: &[Vm], now: Timestamp) -> Table {
    let columns = [
        ("VM", Align::Left),
        ("STATE", Align::Left),
        ("IMAGE", Align::Left),
        ("ENGINE", Align::Left),
        ("CPUS", Align::Right),
        ("MEMORY", Align::Right),
        ("SINCE", Align::Left),
    ];
    let mut table = Table::new(&columns);
    for vm in vms {
        let state = match &vm.reason {
            Some(reason) => format!("{}: {}", vm.state, one_line(reason)),
            None => vm.state.to_string(),
        };
        table.row([
            one_line(&vm.name).into(),
            state.into(),
            one_line(&vm.image).into(),
            one_line(&vm.engine).into(),
            vm.cpus.into(),
            bytes(u64::from(vm.memory_mib) << 20).into(),
            age(now, vm.since).into(),
        ]);
    }
    table
}

/// The table of tunnels.
pub fn tunnels(tunnels: &[Tunnel], now: Timestamp) -> Table {
    let columns = [
        ("TUNNEL", Align::Left),
        ("ROUTE", Align::Left),
        ("STATE", Align::Left),
        ("SINCE", Align::Left),
        ("CONNECTIONS", Align::Right),
    ];
    let mut table = Table::new(&columns);
    for tunnel in tunnels {
        let state = match &tunnel.reason {
            Some(reason) => format!("waits: {}", one_line(reason)),
            None => tunnel.state.to_string(),
        };
        table.row([
            tunnel.id.into(),
            super::tunnel::route(tunnel).into(),
            state.into(),
            age(now, tunnel.since).into(),
            tunnel.connections.into(),
        ]);
    }
    table
}

/// The table of processes.
pub fn processes(processes: &[Process], now: Timestamp) -> Table {
    let columns = [
        ("PROCESS", Align::Left),
        ("MACHINE", Align::Left),
        ("STATE", Align::Left),
        ("SINCE", Align::Left),
        ("COMMAND", Align::Left),
    ];
    let mut table = Table::new(&columns);
    for process in processes {
        let command: Vec<String> = process.command.iter().map(ToString::to_string).collect();
        let command = if command.is_empty() { "(login shell)".to_owned() } else { command.join(" ") };
        let state = match (process.code, process.detached, process.state.as_str()) {
            (Some(code), ..) => format!("exited {code}"),
            (None, true, "running") => "detached".to_owned(),
            (None, _, state) => one_line(state),
        };
        table.row([
            process.id.into(),
            process.machine.to_string().into(),
            state.into(),
            age(now, process.since).into(),
            one_line(&command).into(),
        ]);
    }
    table
}

fn listed(words: impl Iterator<Item = String>) -> String {
    let words: Vec<String> = words.collect();
    match words.is_empty() {
        true => "-".to_owned(),
        false => words.join(" "),
    }
}

fn connection_cell(state: ConnectionState) -> Cell {
    let style = match state {
        ConnectionState::Connected => Style::Good,
        ConnectionState::Connecting | ConnectionState::Reconnecting => Style::Fair,
        ConnectionState::Disconnected => Style::Bad,
    };
    Cell::styled(state.name(), style)
}

/// How a mount is, in a word.
pub fn word(status: &MountStatus) -> &'static str {
    match status {
        MountStatus::Active => "active",
        MountStatus::Reconnecting => "reconnecting",
        MountStatus::Disconnected => "disconnected",
        MountStatus::Failed { .. } => "failed",
    }
}

fn mount_cell(status: &MountStatus) -> Cell {
    let style = match status {
        MountStatus::Active => Style::Good,
        MountStatus::Reconnecting => Style::Fair,
        MountStatus::Disconnected | MountStatus::Failed { .. } => Style::Bad,
    };
    Cell::styled(word(status), style)
}
