//! `stead connect`

use std::ffi::OsString;

use clap_complete::engine::ArgValueCompleter;
use wire::api::machine::{Connect, Reconnect};
use wire::api::status::Connection;

use crate::completion;
use crate::context::Context;
use crate::error::Result;

/// Open a connection to a machine and keep it.
///
/// Mounts and commands open connections by themselves, and those end with the last mount. One that was opened here
/// stays until `stead disconnect`. Connecting again changes the options.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where to: `ssh://[USER@]HOST[:PORT]`, HOST, `docker://CONTAINER`, `vm://NAME` or `host`
    #[arg(add = ArgValueCompleter::new(completion::machines))]
    machine: OsString,
    #[command(flatten)]
    link: Link,
}

/// How a link to a machine is kept.
#[derive(Debug, clap::Args)]
pub struct Link {
    /// Leave a lost link lost instead of opening it again
    #[arg(long)]
    no_reconnect: bool,
    /// Time between two heartbeats, in milliseconds, 100 to 3600000 [default: 5000]
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(100..=3_600_000))]
    pub heartbeat_interval: Option<u64>,
    /// Heartbeats in a row that may go unanswered before the link counts as lost; 0 for any number [default: 3]
    #[arg(long, value_name = "COUNT")]
    pub max_heartbeat_failures: Option<u32>,
}

impl Link {
    /// Whether a lost link is opened again.
    pub fn reconnect(&self) -> Reconnect {
        if self.no_reconnect { Reconnect::Never } else { Reconnect::Automatic }
    }

    /// The same, with what the configuration says where nothing was given.
    pub fn or_configured(self, context: &Context) -> Result<Link> {
        let defaults = &context.config()?.connection;
        Ok(Link {
            heartbeat_interval: self.heartbeat_interval.or(defaults.heartbeat_interval),
            max_heartbeat_failures: self.max_heartbeat_failures.or(defaults.max_heartbeat_failures),
            ..self
        })
    }

    /// The same where it was said.
    pub fn reconnect_if_said(&self) -> Option<Reconnect> {
        self.no_reconnect.then_some(Reconnect::Never)
    }

    /// The request that opens a connection so.
    pub fn request(&self, machine: wire::api::machine::Machine, context: &Context) -> Connect {
        Connect {
            machine,
            reconnect: self.reconnect(),
            heartbeat_interval_ms: self.heartbeat_interval,
            max_heartbeat_failures: self.max_heartbeat_failures,
            caller: context.caller(),
        }
    }
}

/// Carries it out.
pub fn run(args: Args, context: &mut Context) -> Result<()> {
    let link = args.link.or_configured(context)?;
    let request = link.request(context.machine(&args.machine)?, context);
    let connection = context.daemon()?.call(request)?;
    print(&connection, context)
}

/// Shows a connection.
pub fn print(connection: &Connection, context: &mut Context) -> Result<()> {
    if context.output.is_json() {
        return context.output.document(connection);
    }
    let state = connection.state.name();
    context.output.line(format_args!("{}  {}  {state}", connection.id, connection.machine))
}
