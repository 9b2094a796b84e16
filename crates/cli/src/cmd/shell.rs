//! `stead shell`

use std::ffi::OsString;

use clap_complete::engine::ArgValueCompleter;
use wire::api::process::Run;

use crate::completion;
use crate::context::Context;
use crate::conversation::terminal;
use crate::error::Result;

/// Open a shell on a machine: the user's login shell, in a terminal.
///
/// Every key goes to it, interrupts too, and the size follows this terminal's. Exits as the shell does. It ends with this
/// command, but not with the connection: when that is cut, a line says so, and the shell goes on where it was when the
/// machine is back. Where the input is no terminal, the shell has none either, and does what it reads until the input ends.
///
/// At the start of a line, `~.` detaches: the shell goes on, and `stead attach` goes back to it. `~?` says which keys there
/// are, `~~` is a tilde.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  stead shell box
  stead shell ssh://ann@box:2222")]
pub struct Args {
    /// Where
    #[arg(add = ArgValueCompleter::new(completion::machines))]
    machine: OsString,
    /// The directory to start in [default: the home directory]
    #[arg(long, value_name = "DIR")]
    cwd: Option<OsString>,
}

/// Carries it out, and returns the shell's own status.
pub fn run(args: Args, context: &mut Context) -> Result<u8> {
    let request = Run {
        machine: context.machine(&args.machine)?,
        command: Vec::new(),
        cwd: args.cwd.map(Into::into),
        environment: Vec::new(),
        terminal: rustix::termios::isatty(std::io::stdin()).then(|| terminal(context)),
        detached: false,
        caller: context.caller(),
    };
    super::exec::start(request, None, context)
}
