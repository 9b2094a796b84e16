//! `stead disconnect`

use std::ffi::OsString;

use clap_complete::engine::ArgValueCompleter;
use wire::api::machine::Disconnect;
use wire::api::mount::Force;

use crate::completion;
use crate::context::Context;
use crate::error::Result;

/// Close the connection to a machine, with everything that belongs to it.
///
/// Its mounts are unmounted, once unsaved writes are on the machine, and the commands that run through it end, but for
/// those that are detached. A mount in use keeps itself and the connection, unless it is forced.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Which machine
    #[arg(add = ArgValueCompleter::new(completion::machines))]
    machine: OsString,
    /// Unmount even what is in use, give up on what cannot be saved at once, and say what was kept aside
    #[arg(long, short)]
    force: bool,
}

/// Carries it out.
pub fn run(args: Args, context: &mut Context) -> Result<()> {
    let machine = context.machine(&args.machine)?;
    let force = if args.force { Force::Always } else { Force::Never };
    let disconnected = context.daemon()?.call(Disconnect { machine, force })?;
    if context.output.is_json() {
        return context.output.document(&disconnected);
    }
    super::unmount::print_gone(&disconnected.mounts, context)?;
    let was = disconnected.was.name();
    context.output.line(format_args!("{}  disconnected (was {was})", disconnected.machine))
}
