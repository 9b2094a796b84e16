//! The subcommands, each in a file of its own.

use std::ffi::OsString;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::error::ErrorKind as ClapErrorKind;
use clap::{CommandFactory, Parser, Subcommand};
use wire::api::ErrorKind;

use crate::Next;
use crate::context::Context;
use crate::error::{Error, Result};

mod attach;
mod cache;
mod cat;
mod completions;
mod connect;
mod cp;
mod daemon;
mod demo;
mod disconnect;
mod docs;
mod doctor;
mod events;
mod exec;
mod find;
mod image;
mod kill;
mod ls;
mod man;
mod mkdir;
mod mount;
mod operation;
mod place;
mod ps;
mod reconnect;
mod rm;
mod saving;
mod search;
mod shell;
mod stat;
mod status;
mod thread;
mod tunnel;
mod unmount;
mod version;
mod vm;
mod watch;
mod workspace;

/// The files, processes and ports of any machine, next to yours.
///
/// A MACHINE is `host` (this computer), `ssh://[USER@]HOST[:PORT]`, `docker://CONTAINER` or `vm://NAME`. A file on it
/// is MACHINE/PATH; `USER@HOST:PATH` and plain local paths are understood too. The daemon that does the work starts by
/// itself.
#[derive(Debug, Parser)]
#[command(
    name = "stead",
    version,
    disable_help_subcommand = true,
    infer_subcommands = false,
    after_long_help = AFTER_HELP,
    subcommand_required = true,
    arg_required_else_help = true
)]
struct Cli {
    /// Print one JSON document instead of text
    #[arg(long, global = true, display_order = 900)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

const AFTER_HELP: &str = "\
Exit codes:
  0 success        3 not found      6 unreachable
  1 failure        4 refused        7 timed out
  2 usage          5 conflict       130 interrupted
  `exec`, `shell`, `attach` and `thread run` exit with the command's own status,
  or 255 when it could not be run. `search` exits with 3 when it finds nothing,
  and `daemon status` when no daemon runs.

Environment:
  STEAD_HOME        a directory for all state and sockets, in place of the usual ones
  STEAD_LOG         what the daemon logs, such as `info` or `daemon=debug`
  STEAD_SSH_CONFIG  an ssh configuration in place of the user's
  DOCKER_HOST, DOCKER_CONTEXT, DOCKER_CONFIG
                    which engine docker:// machines are at, as docker reads them
  STEAD_AGENT       the agent to place on machines, in place of the one beside stead
  STEAD_PROBE_INTERVAL  milliseconds between two looks at each mount, 5000 without it
  NO_COLOR          no colours, whatever the terminal can do
  The daemon reads the ones that begin with STEAD when it starts.

Configuration:
  $XDG_CONFIG_HOME/stead/config.toml, or ~/.config/stead/config.toml, says what
  holds where neither a variable nor a flag does. `stead doctor` prints where each
  setting comes from.

    log = \"daemon=debug\"           agent, ssh-config, probe-interval
    [mount]
    sync = \"async\"                 backend, options = [\"KEY=VALUE\"]
    [connection]
    heartbeat-interval = 5000      max-heartbeat-failures

JSON:
  With --json standard output has one document and nothing else: mostly what the
  daemon answered, as docs/api.md has it. `events`, `find`, `search`, `watch` and
  `status --watch` print one a line. `cat`, `exec`, `shell`, `attach`, `thread run`,
  `daemon logs` and `completions` pass on bytes as they are, and do so with --json
  too: of these only a failure is JSON.

Errors:
  One line on standard error, then `hint:` with the command that mends it, when
  there is one. With --json: {\"error\":{\"code\",\"message\",\"hint\"}} on standard
  output; code is usage, failure, not_found, refused, conflict, unreachable,
  timed_out or interrupted.";

/// What was asked for.
#[derive(Debug, Subcommand)]
#[allow(missing_docs, reason = "each is documented by its arguments, which is where the help comes from")]
pub enum Command {
    Mount(mount::Args),
    Unmount(unmount::Args),
    Status(status::Args),
    Connect(connect::Args),
    Disconnect(disconnect::Args),
    Reconnect(reconnect::Args),
    Events(events::Args),
    Exec(exec::Args),
    Shell(shell::Args),
    Ps(ps::Args),
    Attach(attach::Args),
    Kill(kill::Args),
    Tunnel(tunnel::Args),
    Thread(thread::Args),
    Ls(ls::Args),
    Cat(cat::Args),
    Stat(stat::Args),
    Mkdir(mkdir::Args),
    Rm(rm::Args),
    Find(find::Args),
    Search(search::Args),
    Watch(watch::Args),
    Cp(cp::Args),
    Vm(vm::Args),
    Image(image::Args),
    Workspace(workspace::Args),
    Operation(operation::Args),
    Cache(cache::Args),
    Doctor(doctor::Args),
    Daemon(daemon::Args),
    Completions(completions::Args),
    Man(man::Args),
    Version(version::Args),
    Demo(demo::Args),
    #[command(hide = true)]
    Docs(docs::Args),
}

impl Command {
    /// Carries it out.
    pub fn run(self, context: &mut Context) -> Result<Next> {
        let done = |()| Next::Exit(0);
        match self {
            Command::Mount(args) => mount::run(args, context).map(done),
            Command::Unmount(args) => unmount::run(args, context).map(done),
            Command::Status(args) => status::run(args, context).map(done),
            Command::Connect(args) => connect::run(args, context).map(done),
            Command::Disconnect(args) => disconnect::run(args, context).map(done),
            Command::Reconnect(args) => reconnect::run(args, context).map(done),
            Command::Events(args) => events::run(args, context).map(done),
            Command::Exec(args) => exec::run(args, context).map(Next::Exit),
            Command::Shell(args) => shell::run(args, context).map(Next::Exit),
            Command::Ps(args) => ps::run(args, context).map(done),
            Command::Attach(args) => attach::run(args, context).map(Next::Exit),
            Command::Kill(args) => kill::run(args, context).map(done),
            Command::Tunnel(args) => tunnel::run(args, context).map(done),
            Command::Thread(args) => thread::run(args, context).map(Next::Exit),
            Command::Ls(args) => ls::run(args, context).map(done),
            Command::Cat(args) => cat::run(args, context).map(done),
            Command::Stat(args) => stat::run(args, context).map(done),
            Command::Mkdir(args) => mkdir::run(args, context).map(done),
            Command::Rm(args) => rm::run(args, context).map(done),
            Command::Find(args) => find::run(args, context).map(done),
            Command::Search(args) => search::run(args, context).map(done),
            Command::Watch(args) => watch::run(args, context).map(done),
            Command::Cp(args) => cp::run(args, context).map(done),
            Command::Vm(args) => vm::run(args, context).map(done),
            Command::Image(args) => image::run(args, context).map(done),
            Command::Workspace(args) => workspace::run(args, context).map(done),
            Command::Operation(args) => operation::run(args, context).map(done),
            Command::Cache(args) => cache::run(args, context).map(done),
            Command::Doctor(args) => doctor::run(args, context).map(done),
            Command::Daemon(args) => daemon::run(args, context),
            Command::Completions(args) => completions::run(args, context).map(done),
            Command::Man(args) => man::run(args, context).map(done),
            Command::Version(args) => version::run(args, context).map(done),
            Command::Demo(args) => demo::run(args, context).map(done),
            Command::Docs(args) => docs::run(args, context).map(done),
        }
    }
}

/// What a command line turned out to be.
pub enum Parsed {
    /// A command.
    Command {
        /// Which, with its arguments.
        command: Command,
        /// Whether the result is for a program.
        json: bool,
    },
    /// A wish for help, or for the version.
    Help(String),
    /// Nothing was asked for, so this is what could be.
    HelpWanted(String),
}

/// The definition that help, manual pages and completions come from.
pub fn definition() -> clap::Command {
    Cli::command()
}

/// Reads a command line. The first argument is the program's name.
pub fn parse(arguments: Vec<OsString>) -> Result<Parsed> {
    let error = match Cli::try_parse_from(&arguments) {
        Ok(Cli { command, json }) => return Ok(Parsed::Command { command, json }),
        Err(error) => error,
    };
    match error.kind() {
        ClapErrorKind::DisplayHelp | ClapErrorKind::DisplayVersion => {
            Ok(Parsed::Help(error.render().to_string()))
        }
        ClapErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            Ok(Parsed::HelpWanted(error.render().to_string()))
        }
        _ => Err(usage(&error, &arguments)),
    }
}

/// The first paragraph of what clap says, as one line; a suggestion or the way to the help as the hint.
fn usage(error: &clap::Error, arguments: &[OsString]) -> Error {
    let text = error.render().to_string();
    let mut paragraphs = text.split("\n\n");
    let first = paragraphs.next().unwrap_or_default().trim_start_matches("error: ");
    let line = first.split_whitespace().collect::<Vec<_>>().join(" ").replace('\'', "`");
    let suggestion = paragraphs.flat_map(str::lines).find_map(|line| {
        // Other tips tell how the mistake could be passed on as a value.
        let tip = line.trim().strip_prefix("tip: ").filter(|tip| tip.contains("similar"))?;
        Some(tip.replace('\'', "`"))
    });
    Error::new(ErrorKind::Usage, line).hint(suggestion.unwrap_or_else(|| help_for(arguments)))
}

/// `stead --json daemon logs -n x` is explained by `stead daemon logs --help`.
fn help_for(arguments: &[OsString]) -> String {
    let definition = definition();
    let (mut innermost, mut words) = (&definition, vec!["stead"]);
    for argument in arguments.iter().skip(1) {
        let bytes = argument.as_encoded_bytes();
        match innermost.find_subcommand(argument) {
            Some(command) => {
                words.push(command.get_name());
                innermost = command;
            }
            // Options of all commands may stand before the command.
            None if bytes.starts_with(b"-") && bytes != b"--" => {}
            None => break,
        }
    }
    words.push("--help");
    words.join(" ")
}

/// Reads one of the words that `T` has.
fn word<T>(words: impl IntoIterator<Item = &'static str>) -> impl TypedValueParser<Value = T>
where
    T: std::str::FromStr + Clone + Send + Sync + 'static,
    T::Err: std::error::Error + Send + Sync + 'static,
{
    PossibleValuesParser::new(words.into_iter().map(clap::builder::PossibleValue::new))
        .try_map(|word| word.parse::<T>())
}

#[cfg(test)]
mod tests;
