//! `stead reconnect`

use std::ffi::OsString;

use clap_complete::engine::ArgValueCompleter;
use wire::api::machine::Redial;

use super::connect::{self, Link};
use crate::completion;
use crate::context::Context;
use crate::error::Result;

/// Close the link to a machine and open it again at once.
///
/// Mounts and running commands of that machine stay. What the login asks is asked here: a link that the daemon opens
/// again by itself never asks, and `stead status` says when it would have to. Options that are not given stay as they
/// were. Without a connection, one is opened and kept.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Which machine
    #[arg(add = ArgValueCompleter::new(completion::machines))]
    machine: OsString,
    #[command(flatten)]
    link: Link,
}

/// Carries it out.
pub fn run(args: Args, context: &mut Context) -> Result<()> {
    let redial = Redial {
        machine: context.machine(&args.machine)?,
        reconnect: args.link.reconnect_if_said(),
        heartbeat_interval_ms: args.link.heartbeat_interval,
        max_heartbeat_failures: args.link.max_heartbeat_failures,
        caller: context.caller(),
    };
    let connection = context.daemon()?.call(redial)?;
    connect::print(&connection, context)
}
