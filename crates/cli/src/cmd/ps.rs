//! `stead ps`

use std::ffi::OsString;

use clap_complete::engine::ArgValueCompleter;
use serde::Serialize;
use wire::api::status;

use crate::completion;
use crate::context::Context;
use crate::error::Result;

/// Show the processes that were started on machines.
///
/// Those that run, and the detached ones that have ended within the last hour. What a machine runs besides is not shown.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only those of this one
    #[arg(add = ArgValueCompleter::new(completion::machines))]
    machine: Option<OsString>,
}

#[derive(Serialize)]
struct Document {
    processes: Vec<status::Process>,
}

/// Carries it out.
pub fn run(args: Args, context: &mut Context) -> Result<()> {
    let machine = args.machine.map(|text| context.machine(&text)).transpose()?;
    // One that is started for this begins with the processes that another one has left.
    let processes = context.daemon()?.call(status::Get {})?.processes;
    let is_wanted =
        |process: &status::Process| machine.as_ref().is_none_or(|machine| process.machine == *machine);
    let processes: Vec<_> = processes.into_iter().filter(is_wanted).collect();
    if context.output.is_json() {
        return context.output.document(&Document { processes });
    }
    let table = super::status::processes(&processes, context.output.now());
    context.output.list(&table, "no processes: `stead exec` starts one")
}
