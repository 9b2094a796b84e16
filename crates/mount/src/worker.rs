//! The process of one mount.
//!
//! ```text
//!  start{config} ─► dial the machine ─► attach the tree ─► mount ─► ready ─► serve ─┬─► stop ─► flush ─► unmount ─► end
//!         └───────────────┴──────────────────┴──────────────┴─► error ─► end        └─► unmounted by others ─► end
//! ```
//!
//! A worker that fails before `ready` undoes what it did and ends. One whose daemon goes away goes on serving: people
//! use its mount.

mod backend;
mod control;
mod distance;
mod fuse;
mod log;
mod mounted;
mod nfs;
mod options;

use std::os::fd::{FromRawFd, OwnedFd};
use std::process::ExitCode;

use wire::api::ErrorKind;
use wire::worker::{CONTROL_DESCRIPTOR, FromWorker, ToWorker, WorkerError};

use control::Control;
use mounted::Mounted;

/// Threads of the runtime: what waits for the machine is driven here, and little else.
const RUNTIME_THREADS: usize = 2;

/// Runs the worker on the control socket it was started with.
pub fn main() -> ExitCode {
    // SAFETY: whoever starts a worker leaves it this descriptor, and this process has opened nothing yet that could
    // have taken its number.
    let socket = unsafe { OwnedFd::from_raw_fd(CONTROL_DESCRIPTOR) };
    log::start();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(RUNTIME_THREADS)
        .thread_name("worker")
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "no runtime");
            return ExitCode::FAILURE;
        }
    };
    let outcome = runtime.block_on(run(socket));
    // A system call that hangs in the kernel must not keep the process.
    runtime.shutdown_background();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "the worker failed");
            ExitCode::FAILURE
        }
    }
}

async fn run(socket: OwnedFd) -> std::io::Result<()> {
    let mut control = Control::new(socket)?;
    let Some(ToWorker::Start { config }) = control.receive().await else {
        return Err(std::io::Error::other("the first message is not `start`"));
    };
    match Mounted::begin(*config).await {
        Ok((mount, ready)) => {
            control.send(&FromWorker::Ready(ready)).await;
            mount.serve(&mut control).await
        }
        Err(error) => {
            tracing::error!(%error, "could not mount");
            control.send(&FromWorker::Error(error)).await;
            Ok(())
        }
    }
}

fn failure(kind: ErrorKind, message: impl Into<String>) -> WorkerError {
    WorkerError { kind, message: message.into(), hint: None }
}

/// An error and all its causes in one line, in the system's own words.
fn in_full(error: &dyn std::error::Error) -> String {
    let mut line = plain(error.to_string());
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = plain(error.to_string());
        // Some errors print their cause themselves.
        if !line.ends_with(&next) {
            line = format!("{line}: {next}");
        }
        cause = error.source();
    }
    line
}

/// Without Rust's `(os error N)`, where that comes last.
fn plain(mut text: String) -> String {
    if let Some(at) = text.rfind(" (os error ").filter(|_| text.ends_with(')')) {
        text.truncate(at);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("could not open the thing{}", if *.told { format!(": {}", .source) } else { String::new() })]
    struct Outer {
        told: bool,
        source: std::io::Error,
    }

    #[test]
    fn causes_follow_once_in_the_systems_own_words() {
        for told in [false, true] {
            let error = Outer { told, source: std::io::Error::from_raw_os_error(2) };
            assert_eq!(in_full(&error), "could not open the thing: No such file or directory");
        }
    }
}
