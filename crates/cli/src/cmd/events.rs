//! `stead events`

use rustix::event::{PollFd, PollFlags, poll};
use serde::Serialize;
use wire::api::ServerNotification;
use wire::api::event::{Event, Happened, MountWord, OperationState, ProcessState, Subscribe, Topic, VmState};
use wire::api::status::ConnectionState;

use crate::client::Client;
use crate::context::Context;
use crate::error::{Error, Result};
use crate::output::text::one_line;
use crate::output::{Output, Style};

/// Print what happens to connections, mounts and processes, as it happens.
///
/// One event a line, until interrupted. The number at the end of a line of JSON (`seq`) rises by one with each event of
/// the daemon, of whatever topic. Where events had to be dropped because they were not read fast enough, a line says
/// how many.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  stead events
  stead events --topic mount --topic connection
  stead events --json | jq -c 'select(.state == \"failed\")'")]
pub struct Args {
    /// Only events about this; may be repeated or joined with commas [default: all]
    #[arg(long, value_name = "TOPIC", value_delimiter = ',', value_parser = super::word::<Topic>(Topic::ALL.iter().map(|topic| topic.name())))]
    topic: Vec<Topic>,
}

/// The line for events that were dropped.
#[derive(Debug, Serialize)]
struct Missed {
    missed: u64,
}

/// Carries it out.
pub fn run(args: Args, context: &mut Context) -> Result<()> {
    let client = context.daemon()?;
    client.call(Subscribe { topics: args.topic })?;
    loop {
        while let Some(notification) = client.take_notification()? {
            match notification {
                ServerNotification::EventHappened(notice) => print(&notice.event, &mut context.output)?,
                ServerNotification::EventMissed(note) => print_missed(note.missed, &mut context.output)?,
                _ => {}
            }
        }
        context.output.flush()?;
        wait(&client)?;
        client.read_ready()?;
    }
}

fn wait(client: &Client) -> Result<()> {
    loop {
        match poll(&mut [PollFd::new(client, PollFlags::IN)], None) {
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(Error::io("could not wait for events", &errno.into())),
            Ok(_) => return Ok(()),
        }
    }
}

fn print(event: &Event, output: &mut Output) -> Result<()> {
    if output.is_json() {
        return output.document(event);
    }
    let happened = &event.happened;
    let word = output.styled(style(happened), happened.word());
    let line = format!("{}  {}  {}  {word}  {}", event.at, happened.topic(), happened.id(), about(happened));
    output.line(line.trim_end())
}

fn print_missed(missed: u64, output: &mut Output) -> Result<()> {
    if output.is_json() {
        return output.document(&Missed { missed });
    }
    let text = output.styled(Style::Fair, &format!("{missed} events were missed"));
    output.line(text)
}

/// What it is about, and why.
fn about(happened: &Happened) -> String {
    let what = match happened {
        Happened::Connection { machine, .. }
        | Happened::Process { machine, code: None, .. }
        | Happened::Tunnel { machine, .. } => machine.to_string(),
        Happened::Process { machine, code: Some(code), .. } => format!("{machine}  with status {code}"),
        Happened::Mount { dir, path: Some(path), of: Some(of), .. } => format!("{dir}  {path} (of {of})"),
        Happened::Mount { dir, path: Some(path), .. } => format!("{dir}  {path}"),
        Happened::Mount { dir, .. } => dir.to_string(),
        Happened::Operation { stage, .. } => stage.as_deref().map(one_line).unwrap_or_default(),
        Happened::Thread { .. } | Happened::Vm { .. } => String::new(),
    };
    match happened.reason() {
        Some(reason) => format!("{what}: {}", one_line(reason)),
        None => what,
    }
}

fn style(happened: &Happened) -> Style {
    match happened {
        Happened::Connection { state, .. } => match state {
            ConnectionState::Connected => Style::Good,
            ConnectionState::Connecting | ConnectionState::Reconnecting => Style::Fair,
            ConnectionState::Disconnected => Style::Bad,
        },
        Happened::Mount { state, .. } => match state {
            MountWord::Active => Style::Good,
            MountWord::Degraded | MountWord::Reconnecting | MountWord::Recovering | MountWord::KeptAside => {
                Style::Fair
            }
            MountWord::Disconnected | MountWord::Failed => Style::Bad,
            MountWord::Unmounted => Style::Plain,
        },
        Happened::Process { state: ProcessState::Lost, .. } => Style::Bad,
        Happened::Vm { state, .. } => match state {
            VmState::Running => Style::Good,
            VmState::Creating | VmState::Starting | VmState::Stopping => Style::Fair,
            VmState::Failed => Style::Bad,
            VmState::Stopped | VmState::Deleted => Style::Plain,
        },
        Happened::Operation { state: OperationState::Failed, .. } => Style::Bad,
        Happened::Process { .. }
        | Happened::Tunnel { .. }
        | Happened::Thread { .. }
        | Happened::Operation { .. } => Style::Plain,
    }
}
