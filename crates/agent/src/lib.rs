//! The far side: files, processes and watches of one machine.
//!
//! [`serve`] speaks the protocol of [`wire::agent`] over two byte streams until they end. It runs as the user who started
//! it and can do what that user can; as root it makes files for the users whom the client names.
//!
//! It needs `/proc`: that is how a descriptor which only names a file is opened for use.
//!
//! It knows no mount, no kernel of the client, no network and no other machine. It must not
//! - follow a symlink, or leave the exported root, while it resolves a path of a request: [`export`] is the only way from
//!   a path to a descriptor;
//! - act on another file than the one a request names by identity;
//! - write to the output anything but frames: what is to be logged goes to standard error;
//! - hold anything without a bound for a client that does not read, or that asks for more than it reads.

mod clock;
mod credentials;
mod descriptors;
mod export;
mod failure;
mod file;
mod file_system;
mod gates;
mod handles;
mod input;
mod leases;
mod locks;
mod log;
mod output;
mod pool;
mod processes;
mod replies;
mod session;
mod stat;
mod stream;
mod streamed;
mod sync;
mod ticket;
mod told;
mod user;
mod watch;

use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;

pub use user::Options;

/// How a stream ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The client closed it.
    ByClient,
    /// It broke, or the client broke the protocol. The client was told the reason, if it was still there.
    Failed(String),
}

/// Serves one client until the stream ends. What the client left running or open ends with it.
///
/// The descriptors are duplicated: the caller's stay open.
pub fn serve(input: impl AsFd, output: impl AsFd, options: Options) -> Ended {
    let duplicate = |stream: &dyn AsFd| -> std::io::Result<OwnedFd> { stream.as_fd().try_clone_to_owned() };
    match (duplicate(&input), duplicate(&output)) {
        (Ok(input), Ok(output)) => stream::serve(input, output, options),
        (Err(error), _) | (_, Err(error)) => {
            Ended::Failed(format!("could not duplicate the stream: {error}"))
        }
    }
}

/// Serves standard input and output, for the user of this process. What goes wrong is logged to standard error.
pub fn main() -> ExitCode {
    // A write beyond the user's limit is to fail with EFBIG, not to end the agent.
    // SAFETY: ignoring a signal runs no code.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    match serve(std::io::stdin(), std::io::stdout(), Options::of_user()) {
        Ended::ByClient => ExitCode::SUCCESS,
        Ended::Failed(reason) => {
            log::log(format_args!("{reason}"));
            ExitCode::FAILURE
        }
    }
}
