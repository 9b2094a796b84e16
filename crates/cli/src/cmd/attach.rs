//! `stead attach`

use clap_complete::engine::ArgValueCompleter;
use wire::api::id::ProcessId;
use wire::api::process::Attach;
use wire::api::status;

use crate::completion;
use crate::context::Context;
use crate::conversation::{AtEnd, Conversation, own_size, said};
use crate::error::Result;

/// Attach to a detached process: show its output, and pass on what is typed.
///
/// It begins with what is kept of its output, up to a megabyte, and says how much was dropped that nobody has read. Exits
/// as the process does, also when that has ended within the last hour. Whoever was attached before is not any more.
///
/// At the start of a line, `~.` detaches from a process with a terminal again, `~?` says which keys there are, `~~`
/// is a tilde. One without a terminal is left by an interrupt.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Which one, as `stead ps` shows it
    #[arg(add = ArgValueCompleter::new(completion::detached_processes))]
    process: ProcessId,
}

/// Carries it out, and returns the process's own status.
pub fn run(args: Args, context: &mut Context) -> Result<u8> {
    let begun = context.daemon().and_then(|client| {
        let document = client.call(status::Get {})?;
        let known = document.processes.into_iter().find(|process| process.id == args.process);
        let size = known.as_ref().filter(|process| process.terminal).and_then(|_| own_size());
        let caller = context.caller();
        let attached = client.call(Attach { process: args.process, size, caller })?;
        Ok((client, known, attached))
    });
    let (client, known, attached) = match begun {
        Ok(begun) => begun,
        Err(error) => return said(Err(error), context),
    };
    if let Some(ended) = attached.ended {
        context.output.note("note: it has ended, and nothing of its output is kept");
        return said(Ok(ended), context);
    }
    let tty = known.as_ref().is_some_and(|process| process.terminal);
    let machines = known.into_iter().map(|process| process.machine).collect();
    let (process, replayed) = (args.process, attached.replayed);
    Conversation { process, machines, tty, at_end: AtEnd::KeepInput, replayed }.hold(&client, context)
}
