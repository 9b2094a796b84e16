//! The far side: files, processes, watches and tunnels of one machine.
//!
//! [`serve`] speaks the protocol of [`wire::agent`] over two byte streams until they end; [`main`] as well, and keeps the
//! session for a later stream when the client wants that. It runs as the user who started it and can do what that user can;
//! as root it makes files for the users whom the client names.
//!
//! It needs `/proc`: that is how a descriptor which only names a file is opened for use.
//!
//! It knows no mount, no kernel of the client, and of networks and other machines only what a tunnel is told to reach. It must
//! not
//! - follow a symlink, or leave the exported root, while it resolves a path of a request: [`export`] is the only way from
//!   a path to a descriptor;
//! - act on another file than the one a request names by identity;
//! - write to the output anything but frames: what is to be logged goes to standard error;
//! - hold anything without a bound for a client that does not read, or that asks for more than it reads.

#![cfg(target_os = "linux")]

mod clock;
mod counted;
mod credentials;
mod descriptors;
mod door;
mod ends;
mod export;
mod failure;
mod file;
mod file_system;
mod gates;
mod greeting;
mod handles;
mod input;
mod kept;
mod leases;
mod locks;
mod log;
mod output;
mod payloads;
mod pool;
mod processes;
mod relay;
mod replies;
mod session;
mod stat;
mod stream;
mod streamed;
mod sync;
mod ticket;
mod told;
mod tunnel;
mod user;
mod watch;
mod work;

use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;
use std::sync::Arc;

use wire::hello::SessionId;

pub use user::Options;

use ends::Ends;
use greeting::{Greeted, new_session_id};
use relay::Half;
use session::Session;
use stream::{Parting, Stream};

/// How a stream ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The client closed it.
    ByClient,
    /// It broke, or the client broke the protocol. The client was told the reason, if it was still there.
    Failed(String),
}

/// Serves one client until the stream ends. What the client left running or open ends with it, however long it wanted it
/// to be kept: that takes a process of its own, see [`main`].
///
/// The descriptors are duplicated: the caller's stay open.
pub fn serve(input: impl AsFd, output: impl AsFd, options: Options) -> Ended {
    let session = new_session_id();
    match greet(input, output, session) {
        Ok(greeted) => serve_one(session, greeted, options),
        Err(reason) => Ended::Failed(reason),
    }
}

fn greet(input: impl AsFd, output: impl AsFd, session: SessionId) -> Result<Greeted, String> {
    let duplicate = |stream: &dyn AsFd| -> std::io::Result<OwnedFd> { stream.as_fd().try_clone_to_owned() };
    match (duplicate(&input), duplicate(&output)) {
        (Ok(input), Ok(output)) => Greeted::read(&Arc::new(Ends::new(input, output)), session, || {}),
        (Err(error), _) | (_, Err(error)) => Err(format!("could not duplicate the stream: {error}")),
    }
}

/// Serves a session that ends with its stream.
fn serve_one(session: SessionId, greeted: Greeted, options: Options) -> Ended {
    let session = match Session::start(session, options) {
        Ok(session) => session,
        Err(error) => return Ended::Failed(greeted.refuse(session, error)),
    };
    if let Err(reason) = greeting::answer(&greeted.output, session.id, 0) {
        return Ended::Failed(reason);
    }
    let parting = Stream::new(&session, 1, false, greeted).serve();
    session.end();
    match parting {
        Parting::Closed | Parting::Goodbye | Parting::Replaced => Ended::ByClient,
        Parting::Failed(reason) => Ended::Failed(reason),
    }
}

/// Serves standard input and output, for the user of this process. What goes wrong is logged to standard error.
///
/// `arguments` are none, or `--tunnel`: then it is the [far end of a tunnel](wire::agent::tunnel), and not an agent. Or they
/// are `--resume SESSION`: then the streams are handed to the process that keeps this session, and
/// served by it. When there is none, a new session is served. A session that its client wants to be kept is served by a
/// process of its own, which outlives this one.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let resume = match parse(arguments) {
        Ok(Part::Tunnel) => return tunnel::main(),
        Ok(Part::Session { resume }) => resume,
        Err(wrong) => {
            log::log(format_args!("{wrong}"));
            return ExitCode::from(USAGE);
        }
    };
    if let Some(code) = resume.and_then(relay::resume) {
        return code;
    }
    // A write beyond the user's limit is to fail with EFBIG, not to end the agent.
    ignore(libc::SIGXFSZ);
    let session = new_session_id();
    let greeted = match greet(std::io::stdin(), std::io::stdout(), session) {
        Ok(greeted) => greeted,
        Err(reason) => return failed(&reason),
    };
    if greeted.theirs.keep_seconds > 0 {
        match relay::split() {
            Ok(Half::Relay(socket)) => {
                drop(greeted);
                return relay::wait(socket);
            }
            Ok(Half::Session(relay)) => return keep(session, greeted, relay),
            Err(error) => log::log(format_args!("the session cannot be kept: {error}")),
        }
    }
    match serve_one(session, greeted, Options::of_user()) {
        Ended::ByClient => ExitCode::SUCCESS,
        Ended::Failed(reason) => failed(&reason),
    }
}

/// Serves a session in a process that has just been made for it.
fn keep(id: SessionId, greeted: Greeted, relay: OwnedFd) -> ExitCode {
    relay::let_go_of_streams();
    // A hang-up of the login that started it is nothing to a session.
    ignore(libc::SIGHUP);
    let alone = rustix::process::setsid().and_then(|_| rustix::process::chdir("/"));
    let _ = rustix::thread::set_name(c"stead-session");
    let session = alone.map_err(|errno| errno.to_string());
    match session.and_then(|()| Session::start(id, Options::of_user())) {
        Ok(session) => kept::serve(session, greeted, relay),
        Err(reason) => failed(&greeted.refuse(id, reason)),
    }
}

fn ignore(signal: i32) {
    // SAFETY: ignoring a signal runs no code.
    unsafe { libc::signal(signal, libc::SIG_IGN) };
}

fn failed(reason: &str) -> ExitCode {
    log::log(format_args!("{reason}"));
    ExitCode::FAILURE
}

/// The exit status for arguments that mean nothing.
const USAGE: u8 = 2;

/// What this process is to be.
enum Part {
    /// What serves a session, or hands its streams to the one that does.
    Session { resume: Option<SessionId> },
    /// The far end of a tunnel.
    Tunnel,
}

fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Part, String> {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    match arguments.as_slice() {
        [] => Ok(Part::Session { resume: None }),
        [option] if option == wire::agent::tunnel::ARGUMENT => Ok(Part::Tunnel),
        [option, session] if option == "--resume" => {
            let session = session.to_string_lossy().parse().map_err(|wrong| format!("--resume: {wrong}"))?;
            Ok(Part::Session { resume: Some(session) })
        }
        [argument, ..] => Err(format!("unknown argument `{}`", argument.display())),
    }
}
