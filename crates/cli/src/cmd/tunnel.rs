//! `stead tunnel`

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use clap::Subcommand;
use clap_complete::engine::ArgValueCompleter;
use wire::api::id::TunnelId;
use wire::api::status::Tunnel;
use wire::api::tunnel::{Close, List, Open, Tunnels};
use wire::endpoint::Endpoint;

use crate::completion;
use crate::context::Context;
use crate::error::{Error, Result};

/// Forward ports and unix sockets of machines to this computer, or from it to them.
///
/// A tunnel goes on when the connection is cut and opened again: what goes through it waits meanwhile, and is reset only if
/// the machine has lost it. It ends with `tunnel close`, with `disconnect`, or with the daemon.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Accept connections here and lead them to a port or a unix socket of a machine
    Open(OpenArgs),
    /// Show the tunnels, with how many connections go through each
    List,
    /// Close a tunnel and reset the connections that go through it
    Close {
        /// Which one, as `stead tunnel list` shows it
        tunnel: TunnelId,
    },
}

#[derive(Debug, clap::Args)]
struct OpenArgs {
    /// The machine at the other end
    #[arg(add = ArgValueCompleter::new(completion::machines))]
    machine: OsString,
    /// The end here and the end there: PORT, HOST:PORT or the absolute path of a unix socket, with a colon in between. A
    /// port alone is one of the loopback; where connections are accepted, 0 is any that is free
    #[arg(value_name = "LOCAL:REMOTE")]
    ends: OsString,
    /// Accept connections on the machine and lead them here
    #[arg(long, short)]
    reverse: bool,
}

/// Carries it out.
pub fn run(args: Args, context: &mut Context) -> Result<()> {
    match args.command {
        Command::Open(args) => open(args, context),
        Command::List => list(context),
        Command::Close { tunnel } => close(tunnel, context),
    }
}

fn open(args: OpenArgs, context: &mut Context) -> Result<()> {
    let machine = context.machine(&args.machine)?;
    let (local, remote) = ends(&args.ends)?;
    let open = Open { machine, local, remote, reverse: args.reverse, caller: context.caller() };
    let tunnel = context.daemon()?.call(open)?;
    if context.output.is_json() {
        return context.output.document(&tunnel);
    }
    context.output.line(format_args!("{}  {}", tunnel.id, route(&tunnel)))
}

fn ends(text: &OsStr) -> Result<(Endpoint, Endpoint)> {
    Endpoint::parse_pair(text.as_bytes()).map_err(Error::usage)
}

/// Where connections come from and where they lead.
pub(super) fn route(tunnel: &Tunnel) -> String {
    let Tunnel { machine, local, remote, .. } = tunnel;
    match tunnel.reverse {
        true => format!("{machine} {remote} -> {local}"),
        false => format!("{local} -> {machine} {remote}"),
    }
}

/// What opens it again.
pub(super) fn command(tunnel: &Tunnel) -> String {
    let Tunnel { machine, local, remote, .. } = tunnel;
    let reverse = if tunnel.reverse { " --reverse" } else { "" };
    format!("stead tunnel open {machine} {local}:{remote}{reverse}")
}

fn list(context: &mut Context) -> Result<()> {
    let tunnels = match context.running_daemon()? {
        Some(client) => client.call(List {})?,
        // It would have none.
        None => Tunnels::default(),
    };
    if context.output.is_json() {
        return context.output.document(&tunnels);
    }
    let table = super::status::tunnels(&tunnels.tunnels, context.output.now());
    context.output.list(&table, "no tunnels: `stead tunnel open` opens one")
}

fn close(tunnel: TunnelId, context: &mut Context) -> Result<()> {
    let closed = context.daemon()?.call(Close { tunnel })?;
    if context.output.is_json() {
        return context.output.document(&closed);
    }
    context.output.line(format_args!("{}  closed", closed.tunnel))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_opens_a_tunnel_again_is_read_as_it_was() {
        let tunnel = |local: &str, reverse: bool| -> Tunnel {
            let value = serde_json::json!({
                "id": "t1", "machine": "ssh://box", "local": local, "remote": "db:5432", "reverse": reverse,
                "state": "open", "since": "2026-01-01T00:00:00Z", "connections": 0,
            });
            serde_json::from_value(value).unwrap()
        };
        let again = command(&tunnel("localhost:8080", false));
        assert_eq!(again, "stead tunnel open ssh://box localhost:8080:db:5432");
        let again = command(&tunnel("/run/u/s", true));
        assert_eq!(again, "stead tunnel open ssh://box /run/u/s:db:5432 --reverse");
        let (local, remote) = ends(OsStr::new("/run/u/s:db:5432")).unwrap();
        assert_eq!((local.to_string(), remote.to_string()), ("/run/u/s".into(), "db:5432".into()));
    }

    #[test]
    fn both_ends_are_read_from_one_word_and_what_is_wrong_is_said() {
        let (local, remote) = ends(OsStr::new("8080:db:5432")).unwrap();
        assert_eq!((local.to_string(), remote.to_string()), ("localhost:8080".into(), "db:5432".into()));
        let error = ends(OsStr::new("8080")).unwrap_err();
        assert!(format!("{error:?}").contains("HOST:PORT"), "{error:?}");
    }
}
