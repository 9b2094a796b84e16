//! `stead disconnect`

use std::ffi::OsString;

use wire::api::machine::Disconnect;

use crate::context::Context;
use crate::error::Result;

/// Close the connection to a machine.
///
/// Mounts of that machine stay and say that they are disconnected.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Which machine
    machine: OsString,
}

/// Carries it out.
pub fn run(args: Args, context: &mut Context) -> Result<()> {
    let machine = context.machine(&args.machine)?;
    let disconnected = context.daemon()?.call(Disconnect { machine })?;
    if context.output.is_json() {
        return context.output.document(&disconnected);
    }
    let was = super::status::connection_word(disconnected.was);
    context.output.line(format_args!("{}  disconnected (was {was})", disconnected.machine))
}
