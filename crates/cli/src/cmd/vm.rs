//! `stead vm`

use std::ffi::OsString;
use std::time::Duration;

use clap::Subcommand;
use wire::api::machine::{Doctor, Machine, Verdict};
use wire::api::status::{Operation, Vm};
use wire::api::vm::{
    Create, Delete, DeleteSnapshot, Fork, Forward, Kill, List, Logs, Ping, Ports, Set, Show, Snapshot, Start,
    Stats, Stop, Vms,
};
use wire::api::{Call, ErrorKind, ErrorObject, Method};

use super::{operation, workspace};
use crate::context::Context;
use crate::error::{Error, Result};
use crate::interrupt::Interrupt;
use crate::output::text::{age, bytes, one_line};
use crate::output::{Align, Table};

/// Run microVMs: computers of their own, each with its own kernel, reached as `vm://NAME`.
///
/// A vm boots from an image and writes to a disk of its own. It goes on when the daemon ends. Where the processor does not
/// help (`stead doctor host` says so) it is emulated, and takes some seconds to start.
///
/// A vm is meant by its name or its id. To look at it, what only its name or id begins with is enough; what changes it takes the
/// whole of either.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a vm, which does not run yet
    ///
    /// An interrupt cancels that, and leaves nothing. When the terminal is closed it goes on: see `stead operation`.
    Create(CreateArgs),
    /// Start a vm and wait until it can be reached
    Start {
        /// Which one
        name: String,
    },
    /// Have a vm power itself off, with what it has written on its disk
    Stop {
        /// Which one
        name: String,
        /// How many seconds it may take before it is ended
        #[arg(long, value_name = "SECONDS", default_value_t = 60)]
        grace: u64,
    },
    /// Stop a vm and start it again
    Restart {
        /// Which one
        name: String,
    },
    /// End a vm as a power cut would
    Kill {
        /// Which one
        name: String,
    },
    /// Remove a vm with its disk and its snapshots
    Delete {
        /// Which one
        name: String,
        /// Also one that runs
        #[arg(long, short)]
        force: bool,
    },
    /// Change a vm that does not run
    Set(SetArgs),
    /// Keep what is on the disk of a vm that does not run
    ///
    /// Nothing is copied: it takes room for what the vm writes from then on. What the vm has in memory is not kept, so it has to be
    /// stopped. A snapshot goes when its vm is deleted, or with --delete: at once, or when no other vm is over it and its own one
    /// is stopped. Then what the vm has written since is put together with it, which takes time by how much that is.
    Snapshot {
        /// Which one
        name: String,
        /// What to call the snapshot [default: `snap-` and the first number that is free]
        snapshot: Option<String>,
        /// Remove this snapshot
        #[arg(long, requires = "snapshot")]
        delete: bool,
    },
    /// Make a vm of a snapshot of another one: with its disk, processors, memory and network, without its forwarded ports
    ///
    /// It is a vm of its own, with another id and host name, which boots anew. The vm of whose snapshot it was made cannot be deleted
    /// before it. An interrupt cancels that, and leaves nothing of the new vm. A snapshot that was taken for it goes with
    /// the last vm that is made of it.
    Fork {
        /// Which one
        name: String,
        /// What to call the new one
        new: String,
        /// The snapshot to fork from [default: one is taken now; the vm must not run]
        #[arg(long)]
        snapshot: Option<String>,
        /// Do not wait until it is made: print the operation, see `stead operation`
        #[arg(long)]
        detach: bool,
    },
    /// Show the vms
    List,
    /// Show a vm
    Show {
        /// Which one
        name: String,
    },
    /// Show how long a vm's agent takes to answer
    Ping {
        /// Which one
        name: String,
    },
    /// Show what a vm takes of this computer, and what it says of itself
    Stats {
        /// Which one
        name: String,
    },
    /// Look at all that a vm needs to be reached; fails if any of it is broken
    Health {
        /// Which one
        name: String,
    },
    /// Show on which TCP ports something listens in a vm
    Ports {
        /// Which one
        name: String,
    },
    /// Print the end of what a vm has said on its console
    Logs {
        /// Which one
        name: String,
    },
}

#[derive(Debug, clap::Args)]
struct CreateArgs {
    /// What to call it, also in it: up to 32 small letters, digits and `-`
    name: String,
    /// What it boots from, as `stead image list` shows it
    #[arg(long)]
    image: String,
    /// How many processors it has [default: 1]
    #[arg(long, value_name = "N")]
    cpus: Option<u32>,
    /// How much memory it has: `512M`, `2G` [default: 512M]
    #[arg(long, value_name = "SIZE", value_parser = mebibytes)]
    memory: Option<u32>,
    /// Give it a network: it reaches what this computer reaches, but not what listens on this computer's loopback, nor other vms
    #[arg(long)]
    nat: bool,
    /// Have a port of this computer's loopback lead to one of it, which has a network then; repeatable
    #[arg(long = "port", value_name = "HOST:GUEST", value_parser = forward)]
    ports: Vec<Forward>,
    /// How large its disk is: `4G` [default: as large as the image's, and never smaller]
    #[arg(long, value_name = "SIZE", value_parser = mebibytes)]
    disk: Option<u32>,
    /// Start it, and copy to it the git working copy that DIR is in, or `thread:NAME`; see `stead workspace`. A vm
    /// whose workspace could not be prepared stays
    #[arg(long, value_name = "DIR", conflicts_with = "detach")]
    workspace: Option<OsString>,
    /// Do not wait until it is made: print the operation, see `stead operation`
    #[arg(long)]
    detach: bool,
}

#[derive(Debug, clap::Args)]
struct SetArgs {
    /// Which one
    name: String,
    /// How many processors it has
    #[arg(long, value_name = "N")]
    cpus: Option<u32>,
    /// How much memory it has: `512M`, `2G`
    #[arg(long, value_name = "SIZE", value_parser = mebibytes)]
    memory: Option<u32>,
    /// How large its disk is, never smaller than it was: `4G`
    #[arg(long, value_name = "SIZE", value_parser = mebibytes)]
    disk: Option<u32>,
    /// Give it a network
    #[arg(long)]
    nat: bool,
    /// Take its network away
    #[arg(long, conflicts_with_all = ["nat", "ports"])]
    no_nat: bool,
    /// Have this port of this computer's loopback lead to it, in place of those that did; repeatable
    #[arg(long = "port", value_name = "HOST:GUEST", value_parser = forward)]
    ports: Vec<Forward>,
    /// Have no port lead to it
    #[arg(long, conflicts_with = "ports")]
    no_ports: bool,
}

/// A port here and one there.
fn forward(text: &str) -> std::result::Result<Forward, String> {
    let ports = text
        .split_once(':')
        .and_then(|(host, guest)| Some(Forward { host: host.parse().ok()?, guest: guest.parse().ok()? }));
    let ports = ports.filter(|ports| ports.host != 0 && ports.guest != 0);
    ports.ok_or_else(|| format!("`{text}` is no pair of ports such as 8080:80"))
}

/// A size as people write it, in MiB.
fn mebibytes(text: &str) -> std::result::Result<u32, String> {
    let wrong = || format!("`{text}` is no size such as 512M or 2G");
    let unit = text.trim_end_matches(['i', 'B', 'b']);
    let (digits, factor) = match unit.char_indices().last() {
        Some((at, 'M' | 'm')) => (&unit[..at], 1),
        Some((at, 'G' | 'g')) => (&unit[..at], 1024),
        _ => return Err(wrong()),
    };
    let number: u32 = digits.parse().map_err(|_| wrong())?;
    number.checked_mul(factor).ok_or_else(wrong)
}

/// Carries it out.
pub fn run(args: Args, context: &mut Context) -> Result<()> {
    match args.command {
        Command::Create(args) => create(args, context),
        Command::Start { name } => {
            let vm = start(name, context)?;
            print(&vm, context)
        }
        Command::Stop { name, grace } => {
            let vm = stop(name, grace, context)?;
            print(&vm, context)
        }
        Command::Restart { name } => {
            stop(name.clone(), 60, context)?;
            let vm = start(name, context)?;
            print(&vm, context)
        }
        Command::Kill { name } => {
            let vm = context.daemon()?.call(Kill { name })?;
            print(&vm, context)
        }
        Command::Delete { name, force } => delete(name, force, context),
        Command::Set(args) => set(args, context),
        Command::Snapshot { name, snapshot: Some(snapshot), delete: true } => {
            delete_snapshot(name, snapshot, context)
        }
        Command::Snapshot { name, snapshot, .. } => self::snapshot(name, snapshot, context),
        Command::Fork { name, new, snapshot, detach } => make(Fork { name, new, snapshot }, detach, context),
        Command::List => list(context),
        Command::Show { name } => {
            let vm = context.daemon()?.call(Show { name })?;
            show(&vm, context)
        }
        Command::Ping { name } => ping(name, context),
        Command::Stats { name } => stats(name, context),
        Command::Health { name } => health(name, context),
        Command::Ports { name } => ports(name, context),
        Command::Logs { name } => logs(name, context),
    }
}

fn create(args: CreateArgs, context: &mut Context) -> Result<()> {
    let CreateArgs { name, image, cpus, memory, nat, ports, disk, workspace, detach } = args;
    let create = Create { name, image, cpus, memory_mib: memory, nat, ports, disk_mib: disk };
    let Some(workspace) = workspace else { return make(create, detach, context) };
    let (name, interrupt) = (create.name.clone(), Interrupt::watch_keyboard()?);
    made(create, &interrupt, context)?;
    started(&name, &interrupt, context)?;
    workspace::prepare(name, workspace, &interrupt, context)
}

/// Has a vm made, and waits for that unless it is to be left alone.
fn make<M: Method<Reply = Operation> + Into<Call>>(
    params: M,
    detach: bool,
    context: &mut Context,
) -> Result<()> {
    if detach {
        return operation::detach(params, context);
    }
    let vm = made(params, &Interrupt::watch_keyboard()?, context)?;
    print(&vm, context)
}

/// Has a vm made, and waits for that.
fn made<M: Method<Reply = Operation> + Into<Call>>(
    params: M,
    interrupt: &Interrupt,
    context: &mut Context,
) -> Result<Vm> {
    let client = context.daemon()?;
    let name = operation::carry_out(&client, params, interrupt, &mut context.output)?;
    client.call(Show { name })
}

fn snapshot(name: String, snapshot: Option<String>, context: &mut Context) -> Result<()> {
    let taken = context.daemon()?.call(Snapshot { name, snapshot })?;
    if context.output.is_json() {
        return context.output.document(&taken);
    }
    context.output.line(format_args!("{}  taken", taken.name))
}

fn delete_snapshot(name: String, snapshot: String, context: &mut Context) -> Result<()> {
    let gone = context.daemon()?.call(DeleteSnapshot { name, snapshot })?;
    if context.output.is_json() {
        return context.output.document(&gone);
    }
    match gone.users.is_empty() {
        true => context.output.line(format_args!("{}  deleted", gone.snapshot)),
        false => {
            context.output.line(format_args!("{}  is deleted once its disk is not needed", gone.snapshot))?;
            let others: Vec<&str> =
                gone.users.iter().filter(|user| **user != gone.name).map(String::as_str).collect();
            context.output.note(match others[..] {
                [] => {
                    format!("it goes when {} is stopped, and no vm is made of what came after it", gone.name)
                }
                _ => format!(
                    "{} {} made of it",
                    others.join(", "),
                    if others.len() == 1 { "is" } else { "are" }
                ),
            });
            Ok(())
        }
    }
}

fn start(name: String, context: &mut Context) -> Result<Vm> {
    let client = context.daemon()?;
    if context.output.shows_progress() {
        context.output.note(format_args!("{name} boots"));
    }
    client.call(Start { name })
}

/// Starts a vm. An interrupt ends the wait, and not the start.
fn started(name: &str, interrupt: &Interrupt, context: &mut Context) -> Result<()> {
    let client = context.daemon()?;
    if context.output.shows_progress() {
        context.output.note(format_args!("{name} boots"));
    }
    let starting = client.send(Start { name: name.to_owned() })?;
    loop {
        // This takes the answer in. Nothing was subscribed to that could be told unasked.
        while client.take_notification()?.is_some() {}
        if client.has_answer(&starting) {
            return client.wait(starting).map(drop);
        }
        if operation::is_interrupted(&client, interrupt)? {
            let left = Error::new(ErrorKind::Interrupted, format!("{name} goes on starting"));
            return Err(left.hint(format!("stead workspace prepare {name} DIR")));
        }
    }
}

fn stop(name: String, grace: u64, context: &mut Context) -> Result<Vm> {
    let grace_ms = grace.checked_mul(1000).ok_or_else(|| Error::usage("that is too many seconds"))?;
    let client = context.daemon()?;
    if context.output.shows_progress() {
        context.output.note(format_args!("{name} powers off"));
    }
    client.call(Stop { name, grace_ms: Some(grace_ms) })
}

fn print(vm: &Vm, context: &mut Context) -> Result<()> {
    if context.output.is_json() {
        return context.output.document(vm);
    }
    context.output.line(format_args!("{}  {}", vm.name, vm.state))
}

fn show(vm: &Vm, context: &mut Context) -> Result<()> {
    if context.output.is_json() {
        return context.output.document(vm);
    }
    let now = context.output.now();
    context.output.table(&super::status::vms(std::slice::from_ref(vm), now))?;
    if let Some(from) = &vm.from {
        context.output.line(format_args!("made of the snapshot {} of {}", from.snapshot, from.vm))?;
    }
    if vm.snapshots.is_empty() {
        return Ok(());
    }
    let mut table = Table::new(&[("SNAPSHOT", Align::Left), ("AGE", Align::Left), ("STATE", Align::Left)]);
    for snapshot in &vm.snapshots {
        table.row([
            one_line(&snapshot.name).into(),
            age(now, snapshot.created).into(),
            snapshot_state(snapshot).into(),
        ]);
    }
    context.output.line("")?;
    context.output.table(&table)
}

/// Whether it is there for somebody, and why it still is if it is to go.
fn snapshot_state(snapshot: &wire::api::status::Snapshot) -> String {
    let state = match (snapshot.deleting, snapshot.for_fork) {
        (true, _) => "deleting",
        (false, true) => "for forks",
        (false, false) => "kept",
    };
    match &snapshot.reason {
        Some(reason) => format!("{state}: {}", one_line(reason)),
        None => state.to_owned(),
    }
}

fn list(context: &mut Context) -> Result<()> {
    // One without a daemon may run: it is asked for by starting one.
    let vms: Vms = context.daemon()?.call(List {})?;
    if context.output.is_json() {
        return context.output.document(&vms);
    }
    let table = super::status::vms(&vms.vms, context.output.now());
    context.output.list(&table, "no vms: `stead vm create` makes one")
}

fn delete(name: String, force: bool, context: &mut Context) -> Result<()> {
    let deleted = context.daemon()?.call(Delete { name, force })?;
    if context.output.is_json() {
        return context.output.document(&deleted);
    }
    context.output.line(format_args!("{}  deleted", deleted.name))
}

fn set(args: SetArgs, context: &mut Context) -> Result<()> {
    let SetArgs { name, cpus, memory, disk, nat, no_nat, ports, no_ports } = args;
    let ports = (no_ports || !ports.is_empty()).then_some(ports);
    let nat = (nat || no_nat).then_some(nat);
    if (cpus, memory, disk, nat, &ports) == (None, None, None, None, &None) {
        return Err(Error::usage("nothing is said that is to change: see `stead vm set --help`"));
    }
    let vm = context.daemon()?.call(Set { name, cpus, memory_mib: memory, disk_mib: disk, nat, ports })?;
    print(&vm, context)
}

fn ping(name: String, context: &mut Context) -> Result<()> {
    let caller = context.caller();
    let pong = context.daemon()?.call(Ping { name, caller })?;
    if context.output.is_json() {
        return context.output.document(&pong);
    }
    let milliseconds = Duration::from_micros(pong.round_trip_us).as_secs_f64() * 1000.0;
    context.output.line(format_args!("{}  {milliseconds:.1} ms", pong.name))
}

fn stats(name: String, context: &mut Context) -> Result<()> {
    let caller = context.caller();
    let usage = context.daemon()?.call(Stats { name, caller })?;
    if context.output.is_json() {
        return context.output.document(&usage);
    }
    let mut table = Table::without_heading(&[Align::Left, Align::Left]);
    table.row(["cpu".into(), format!("{:.1} s", Duration::from_millis(usage.cpu_ms).as_secs_f64()).into()]);
    table.row(["memory here".into(), bytes(usage.memory_bytes).into()]);
    table.row(["disk here".into(), bytes(usage.disk_bytes).into()]);
    if let Some(guest) = &usage.guest {
        let used = guest.memory_bytes.saturating_sub(guest.available_bytes);
        table.row([
            "memory inside".into(),
            format!("{} of {}", bytes(used), bytes(guest.memory_bytes)).into(),
        ]);
        table.row(["load inside".into(), format!("{:.2}", f64::from(guest.load_hundredths) / 100.0).into()]);
        let network = format!("{} in, {} out", bytes(guest.received_bytes), bytes(guest.sent_bytes));
        table.row(["network".into(), network.into()]);
    }
    context.output.table(&table)
}

fn health(name: String, context: &mut Context) -> Result<()> {
    let caller = context.caller();
    let client = context.daemon()?;
    let machine = Machine::Vm { name: client.call(Show { name })?.name };
    let report = client.call(Doctor { machine, caller })?;
    let broken: Vec<&str> = report
        .checks
        .iter()
        .filter(|check| check.verdict == Verdict::Broken)
        .map(|check| &check.name[..])
        .collect();
    let failure = (!broken.is_empty())
        .then(|| Error::from(ErrorObject::new(ErrorKind::Failure, format!("{} broken", broken.join(", ")))));
    super::doctor::show(report, context)?;
    failure.map_or(Ok(()), Err)
}

fn ports(name: String, context: &mut Context) -> Result<()> {
    let caller = context.caller();
    let listeners = context.daemon()?.call(Ports { name, caller })?;
    if context.output.is_json() {
        return context.output.document(&listeners);
    }
    let mut table = Table::new(&[("PORT", Align::Right), ("ADDRESS", Align::Left)]);
    for listener in &listeners.ports {
        table.row([u32::from(listener.port).into(), listener.address.to_string().into()]);
    }
    context.output.list(&table, "nothing listens there")
}

fn logs(name: String, context: &mut Context) -> Result<()> {
    let console = context.daemon()?.call(Logs { name })?;
    if context.output.is_json() {
        return context.output.document(&console);
    }
    context.output.raw(console.text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_as_a_pair() {
        assert_eq!(forward("8080:80"), Ok(Forward { host: 8080, guest: 80 }));
        for wrong in ["", "80", "80:", ":80", "0:80", "80:0", "80:65536", "1:2:3", "a:b"] {
            assert!(forward(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn memory_is_read_with_its_unit_only() {
        assert_eq!((mebibytes("512M"), mebibytes("2G"), mebibytes("1GiB")), (Ok(512), Ok(2048), Ok(1024)));
        for wrong in ["", "512", "G", "-1G", "1T", "4194304G", "1.5G"] {
            assert!(mebibytes(wrong).is_err(), "{wrong}");
        }
    }
}
