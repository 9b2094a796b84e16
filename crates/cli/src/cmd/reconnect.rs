//! `stead reconnect`

use std::ffi::OsString;

use wire::api::ErrorKind;
use wire::api::machine::Disconnect;

use super::connect::{self, Link};
use crate::context::Context;
use crate::error::{Error, Result};

/// Close the connection to a machine and open it again.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Which machine
    machine: OsString,
    #[command(flatten)]
    link: Link,
}

/// Carries it out.
pub fn run(args: Args, context: &mut Context) -> Result<()> {
    let machine = context.machine(&args.machine)?;
    let client = context.daemon()?;
    match client.call(Disconnect { machine: machine.clone() }) {
        Ok(_) => {}
        // What is wanted is a connection that is new: there is none in the way.
        Err(Error::Failed(failure)) if failure.kind == ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let connection = client.call(args.link.request(machine, context))?;
    connect::print(&connection, context)
}
