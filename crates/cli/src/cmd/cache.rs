//! `stead cache`

use std::ffi::OsString;

use clap::Subcommand;
use clap_complete::engine::ArgValueCompleter;
use wire::api::cache::{Clear, Show};

use crate::completion;
use crate::context::Context;
use crate::error::Result;
use crate::output::text::{bytes, counted};
use crate::output::{Align, Table};

/// Show or clear what is kept on this computer's disk of the files of other machines.
///
/// What has been read through a mount is read from here again as long as it is what the machine has, which the machine is
/// asked each time. All mounts share it; `stead mount -o cache-size=SIZE` says how much there may be.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show how much is kept of each machine, where, and how much there may be
    Show,
    /// Remove what is kept; what mounts use comes again
    Clear {
        /// Only of this machine
        #[arg(add = ArgValueCompleter::new(completion::machines))]
        machine: Option<OsString>,
    },
}

/// Carries it out.
pub fn run(args: Args, context: &mut Context) -> Result<()> {
    match args.command {
        Command::Show => show(context),
        Command::Clear { machine } => clear(machine, context),
    }
}

fn show(context: &mut Context) -> Result<()> {
    let cache = context.daemon()?.call(Show {})?;
    if context.output.is_json() {
        return context.output.document(&cache);
    }
    let (kept, limit) = (bytes(cache.bytes), bytes(cache.limit));
    context.output.line(format_args!("{}  {kept} of {limit}", cache.dir))?;
    if cache.machines.is_empty() {
        return Ok(());
    }
    let mut table = Table::new(&[("MACHINE", Align::Left), ("SIZE", Align::Right), ("FILES", Align::Right)]);
    for of in &cache.machines {
        table.row([of.machine.to_string().into(), bytes(of.bytes).into(), of.files.into()]);
    }
    context.output.table(&table)
}

fn clear(machine: Option<OsString>, context: &mut Context) -> Result<()> {
    let machine = machine.map(|machine| context.machine(&machine)).transpose()?;
    let cleared = context.daemon()?.call(Clear { machine })?;
    if context.output.is_json() {
        return context.output.document(&cleared);
    }
    let (removed, files) = (bytes(cleared.bytes), counted(cleared.files, "file"));
    context.output.line(format_args!("removed {removed} of {files}"))
}
