//! `stead version`

use serde::Serialize;
use wire::api::daemon::{Hello, Status};

use crate::context::Context;
use crate::error::{Error, Result};
use crate::output::text::one_line;

/// Print the version of this program, and of the daemon if one runs.
#[derive(Debug, clap::Args)]
pub struct Args {}

#[derive(Debug, Serialize)]
struct Document {
    version: String,
    protocol: u32,
    schema: String,
    daemon: Option<Daemon>,
}

#[derive(Debug, Serialize)]
struct Daemon {
    version: String,
    pid: u32,
}

/// Carries it out.
pub fn run(_: Args, context: &mut Context) -> Result<()> {
    let hello = Hello::ours();
    let daemon = daemon(context)?;
    let document =
        Document { version: hello.version, protocol: hello.protocol_max, schema: hello.schema, daemon };
    if context.output.is_json() {
        return context.output.document(&document);
    }
    context.output.line(format_args!("stead {}", document.version))?;
    match &document.daemon {
        Some(daemon) if daemon.version != document.version => {
            context.output.line(format_args!("daemon {} (process {})", daemon.version, daemon.pid))
        }
        _ => Ok(()),
    }
}

/// The daemon that runs, however old it is.
fn daemon(context: &mut Context) -> Result<Option<Daemon>> {
    // Without a place for state there is no daemon to ask, and a version all the same.
    let Ok(paths) = context.paths() else {
        return Ok(None);
    };
    let Some(client) = crate::client::Client::connect(&paths, context.prompter)? else {
        return Ok(None);
    };
    match client.call(Status {}) {
        Ok(status) => Ok(Some(Daemon { version: status.version, pid: status.pid })),
        // A daemon that cannot even say this is no reason to fail: it is what the version is asked for.
        Err(Error::Failed(failure)) => {
            context.output.note(format_args!("note: {}", one_line(&failure.message)));
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
