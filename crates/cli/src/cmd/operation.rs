//! `stead operation`

use clap::Subcommand;
use rustix::event::{PollFd, PollFlags, poll};
use wire::api::event::{Happened, OperationState, Subscribe, Topic};
use wire::api::id::OperationId;
use wire::api::operation::{Cancel, List, Operations, Show, Wait};
use wire::api::status::Operation;
use wire::api::{Call, ErrorKind, Method, ServerNotification};

use crate::client::{Client, Ticket};
use crate::context::Context;
use crate::error::{Error, Result};
use crate::interrupt::Interrupt;
use crate::output::text::{age, one_line};
use crate::output::{Align, Output, Table};

/// Look at what takes longer than a second, wait for it or cancel it.
///
/// An operation, such as `stead vm create`, goes on when the terminal that asked for it is closed. One that is cancelled or
/// fails leaves nothing of what it was to make, and can be asked for again; the same holds when the daemon is killed.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show the operations: those that go on, and the last that have ended
    List,
    /// Show an operation
    Show {
        /// Which one, as `stead operation list` shows it
        operation: OperationId,
    },
    /// Show the parts of an operation as they begin, until it has ended; an interrupt ends only the wait
    Wait {
        /// Which one
        operation: OperationId,
    },
    /// Have an operation end, and remove all that it has made so far
    Cancel {
        /// Which one
        operation: OperationId,
    },
}

/// What an interrupt does to an operation that is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OnInterrupt {
    /// It is cancelled.
    Cancel,
    /// Nothing more: there was one before it had begun, and so it is cancelled at once.
    Cancelled,
    /// It goes on.
    Leave,
}

/// Carries it out.
pub fn run(args: Args, context: &mut Context) -> Result<()> {
    match args.command {
        Command::List => list(context),
        Command::Show { operation } => {
            let shown = context.daemon()?.call(Show { operation })?;
            print(&shown, context)
        }
        Command::Wait { operation } => {
            let client = context.daemon()?;
            let interrupt = Interrupt::watch_keyboard()?;
            let ended = follow(&client, operation, (&interrupt, OnInterrupt::Leave), &mut context.output)?;
            succeeded(&ended)?;
            print(&ended, context)
        }
        Command::Cancel { operation } => {
            let ended = context.daemon()?.call(Cancel { operation })?;
            if ended.state != OperationState::Cancelled {
                let message = format!("{operation} came to its end before: it has {}", ended.state);
                return Err(Error::new(ErrorKind::Conflict, message));
            }
            print(&ended, context)
        }
    }
}

fn list(context: &mut Context) -> Result<()> {
    let operations = match context.running_daemon()? {
        Some(client) => client.call(List {})?,
        // It would have none.
        None => Operations::default(),
    };
    if context.output.is_json() {
        return context.output.document(&operations);
    }
    let table = table(&operations.operations, &context.output);
    context.output.list(&table, "nothing takes longer than a second at the moment")
}

/// Begins an operation and leaves it to itself.
pub(super) fn detach<M: Method<Reply = Operation> + Into<Call>>(
    params: M,
    context: &mut Context,
) -> Result<()> {
    let begun = context.daemon()?.call(params)?;
    print(&begun, context)
}

/// Carries an operation out, unless an interrupt cancels it, and says the name of what it was about.
pub(super) fn carry_out<M: Method<Reply = Operation> + Into<Call>>(
    client: &Client,
    params: M,
    interrupt: &Interrupt,
    output: &mut Output,
) -> Result<String> {
    let (begun, on_interrupt) = begin(client, params, interrupt, output)?;
    let ended = follow(client, begun.id, (interrupt, on_interrupt), output)?;
    succeeded(&ended)?;
    Ok(begun.name)
}

/// Prints one of them.
pub(super) fn print(operation: &Operation, context: &mut Context) -> Result<()> {
    if context.output.is_json() {
        return context.output.document(operation);
    }
    let table = table(std::slice::from_ref(operation), &context.output);
    context.output.table(&table)
}

/// The table of operations.
pub(super) fn table(operations: &[Operation], output: &Output) -> Table {
    let columns =
        [("OPERATION", Align::Left), ("WHAT", Align::Left), ("STATE", Align::Left), ("SINCE", Align::Left)];
    let mut table = Table::new(&columns);
    for operation in operations {
        let state = match (&operation.error, operation.state) {
            (Some(error), state) => format!("{state}: {}", one_line(&error.message)),
            (None, OperationState::Running) => progress(operation),
            (None, state) => state.to_string(),
        };
        table.row([
            operation.id.into(),
            one_line(&format!("{} {}", operation.kind, operation.name)).into(),
            state.into(),
            age(output.now(), operation.ended.unwrap_or(operation.since)).into(),
        ]);
    }
    table
}

/// How far one that goes on is: `disk, 2 of 3`.
fn progress(operation: &Operation) -> String {
    let Some(stage) = &operation.stage else { return operation.state.to_string() };
    match operation.stages.iter().position(|known| known == stage) {
        Some(at) => format!("{}, {} of {}", one_line(stage), at + 1, operation.stages.len()),
        None => one_line(stage),
    }
}

/// Begins an operation, which may wait for its turn before that, and says what an interrupt does to it from then on: one that comes
/// while nothing is answered cancels it as soon as it has begun, and the next one ends the wait for that.
fn begin<M: Method<Reply = Operation> + Into<Call>>(
    client: &Client,
    params: M,
    interrupt: &Interrupt,
    output: &mut Output,
) -> Result<(Operation, OnInterrupt)> {
    let beginning = client.send(params)?;
    let mut on_interrupt = OnInterrupt::Cancel;
    loop {
        // This takes the answer in. Nothing was subscribed to that could be told unasked.
        while client.take_notification()?.is_some() {}
        if client.has_answer(&beginning) {
            return Ok((client.wait(beginning)?, on_interrupt));
        }
        if !is_interrupted(client, interrupt)? {
            continue;
        }
        if on_interrupt == OnInterrupt::Cancelled {
            let left = Error::new(ErrorKind::Interrupted, "it goes on if it has begun");
            return Err(left.hint("stead operation list"));
        }
        on_interrupt = OnInterrupt::Cancelled;
        output.note(format_args!("it is cancelled as soon as it has begun"));
    }
}

/// Waits for the end of an operation, and shows its parts on the way. A second interrupt ends only the wait.
fn follow(
    client: &Client,
    id: OperationId,
    (interrupt, on_interrupt): (&Interrupt, OnInterrupt),
    output: &mut Output,
) -> Result<Operation> {
    client.call(Subscribe { topics: vec![Topic::Operation] })?;
    let now = client.call(Show { operation: id })?;
    let waiting = client.send(Wait { operation: id })?;
    let mut cancelling: Option<Ticket<Cancel>> = match on_interrupt {
        OnInterrupt::Cancelled => Some(client.send(Cancel { operation: id })?),
        OnInterrupt::Cancel | OnInterrupt::Leave => None,
    };
    let mut note = |stage: &str| {
        if output.shows_progress() {
            output.note(format_args!("{} {}: {}", now.kind, now.name, one_line(stage)));
        }
    };
    if let (OperationState::Running, Some(stage)) = (now.state, &now.stage) {
        note(stage);
    }
    loop {
        while let Some(notification) = client.take_notification()? {
            if let Some(stage) = stage_of(&notification, id) {
                note(stage);
            }
        }
        if client.has_answer(&waiting) {
            return client.wait(waiting);
        }
        if !is_interrupted(client, interrupt)? {
            continue;
        }
        match (on_interrupt, &cancelling) {
            (OnInterrupt::Cancel, None) => cancelling = Some(client.send(Cancel { operation: id })?),
            _ => {
                let left = Error::new(ErrorKind::Interrupted, format!("{id} goes on"));
                return Err(left.hint(format!("stead operation wait {id}")));
            }
        }
    }
}

/// Waits until the daemon has said something, which is then read, or there is an interrupt, which is then taken: the answer is
/// whether there was one.
///
/// What was read is no message yet: whoever waits for one takes in what there is before each of these waits.
pub(super) fn is_interrupted(client: &Client, interrupt: &Interrupt) -> Result<bool> {
    let mut awaited = [PollFd::new(client, PollFlags::IN), PollFd::new(interrupt, PollFlags::IN)];
    match poll(&mut awaited, None) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(errno) => return Err(Error::io("could not wait for an operation", &errno.into())),
    }
    let [said, interrupted] = awaited.map(|polled| !polled.revents().is_empty());
    if interrupted {
        interrupt.clear()?;
    }
    if said {
        client.read_ready()?;
    }
    Ok(interrupted)
}

fn stage_of(notification: &ServerNotification, wanted: OperationId) -> Option<&str> {
    match notification {
        ServerNotification::EventHappened(notice) => match &notice.event.happened {
            Happened::Operation { id, state: OperationState::Running, stage: Some(stage), .. }
                if *id == wanted =>
            {
                Some(stage)
            }
            _ => None,
        },
        _ => None,
    }
}

/// Fails as an operation has that did not succeed.
fn succeeded(operation: &Operation) -> Result<()> {
    match (&operation.error, operation.state) {
        (Some(error), _) => Err(error.clone().into()),
        (None, OperationState::Cancelled) => {
            let message = format!("{} was cancelled, and nothing of it is left", operation.id);
            Err(Error::new(ErrorKind::Interrupted, message))
        }
        (None, _) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use wire::api::ErrorObject;
    use wire::api::time::Timestamp;

    use super::*;

    fn operation(state: OperationState, stage: Option<&str>) -> Operation {
        Operation {
            id: OperationId::new(1),
            kind: "vm create".to_owned(),
            name: "dev".to_owned(),
            state,
            stages: ["directory", "disk", "record"].map(str::to_owned).into(),
            stage: stage.map(str::to_owned),
            since: Timestamp::from_unix(0),
            ended: None,
            error: None,
        }
    }

    #[test]
    fn how_far_one_is_is_said_by_the_part_that_was_begun() {
        let running = |stage| progress(&operation(OperationState::Running, stage));
        assert_eq!((running(None), running(Some("disk"))), ("running".into(), "disk, 2 of 3".into()));
        assert_eq!(running(Some("undoing disk")), "undoing disk");
    }

    #[test]
    fn one_that_did_not_succeed_fails_as_it_did() {
        succeeded(&operation(OperationState::Succeeded, None)).unwrap();
        let cancelled = succeeded(&operation(OperationState::Cancelled, None)).unwrap_err();
        assert_eq!(cancelled.exit_code(), 130);
        let error = Some(ErrorObject::new(ErrorKind::Conflict, "there is one"));
        let failed = Operation { error, ..operation(OperationState::Failed, None) };
        assert_eq!(succeeded(&failed).unwrap_err().exit_code(), 5);
    }
}
