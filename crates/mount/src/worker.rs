//! The process of one mount.
//!
//! ```text
//!                      ┌─ nothing kept ─► dial ─► attach ─► mount ─► hand over ─┐          ┌─► stop ─► flush ─► unmount ─► end
//!  config, descriptors ┤                                                        ├─► serve ─┤
//!                      └─ a successor ──► restore ──────► ask for a resend ─────┘          └─► unmounted by others ─► end
//! ```
//!
//! A worker that fails before it serves undoes what it did, tells the daemon, and ends for good; a successor that cannot
//! serve just ends, and its keeper tries again. One whose daemon goes away goes on serving: people use its mount. One
//! whose keeper goes away starts another.
//!
//! A panic in any thread ends the process: a successor is better than a thread that is missing. It answers the request that
//! was being carried out with `EIO`.

mod backend;
mod control;
mod distance;
mod end;
#[cfg(any(target_os = "linux", target_os = "macos"))]
mod fuse;
#[cfg(not(any(target_os = "linux", target_os = "macos")))]
#[path = "worker/no_fuse.rs"]
mod fuse;
mod home;
pub(crate) mod log;
mod mounted;
mod nfs;
mod options;
#[cfg(any(target_os = "linux", target_os = "macos"))]
mod predecessor;
pub(crate) mod session;
mod shown;
mod spare;
pub(crate) mod succession;
#[cfg(target_os = "linux")]
mod thread;
#[cfg(not(target_os = "linux"))]
#[path = "worker/no_thread.rs"]
mod thread;

use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::Arc;

use supervisor::keeper::{ArgumentError, Inheritance, KeeperError, Tether};
use supervisor::presence::Presence;
use wire::api::ErrorKind;
use wire::worker::{Place, WorkerError};

use control::Control;
use home::Home;
use mounted::Mounted;
use thread::MountedThread;

/// Threads of the runtime: what waits for the machine is driven here, and little else.
const RUNTIME_THREADS: usize = 2;

/// Why a worker ends without having served, or in the midst of it.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Arguments(#[from] ArgumentError),
    #[error(transparent)]
    Keeper(#[from] KeeperError),
    #[error("could not {what}")]
    System {
        what: &'static str,
        #[source]
        source: std::io::Error,
    },
    #[error("could not take the mount over: {0}")]
    TakeOver(WorkerError),
}

fn system(what: &'static str) -> impl FnOnce(std::io::Error) -> Failure {
    move |source| Failure::System { what, source }
}

/// Runs the worker that a keeper has started, with the arguments behind the one that names the part.
pub fn main(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    // SAFETY: this is the beginning of the program, which has opened nothing and so owns no descriptor.
    let inheritance = unsafe { Inheritance::take(arguments) };
    log::start();
    end::leave_no_core();
    end::end_on_panic();
    let outcome = inheritance.map_err(Failure::from).and_then(|inheritance| {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(RUNTIME_THREADS)
            .thread_name("worker")
            .enable_all()
            .build()
            .map_err(system("start a runtime"))?;
        let outcome = runtime.block_on(run(inheritance));
        // A system call that hangs in the kernel must not keep the process.
        runtime.shutdown_background();
        outcome
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = in_full(&error), "the worker failed");
            ExitCode::FAILURE
        }
    }
}

/// A mount that serves.
enum Served {
    Machine(Box<Mounted>),
    Thread(Box<MountedThread>),
}

async fn run(mut inheritance: Inheritance) -> Result<(), Failure> {
    let directory = inheritance.directory.clone();
    let presence = Presence::claim(&directory)
        .await
        .inspect_err(|error| {
            tracing::warn!(error = in_full(error), "others cannot see that this worker is there")
        })
        .ok();
    let spare = succession::spare_of(std::mem::take(&mut inheritance.spares));
    let (tether, control, kept) = Tether::new(inheritance)?;
    let tether = Arc::new(tether);
    let minding = tether.clone();
    tokio::spawn(async move { minding.mind().await });
    let control = Control::new(control).map_err(system("listen to the daemon"))?;
    let is_successor = !kept.is_empty();
    let begun = match succession::read_config(&directory) {
        Ok(config) => {
            let place = config.place.clone();
            let home = Home { config, directory, tether: tether.clone(), presence };
            match &place {
                Place::Machine(dial) if is_successor => {
                    Mounted::take_over(home, dial, kept, spare).await.map(Box::new).map(Served::Machine)
                }
                Place::Machine(dial) => Mounted::begin(home, dial).await.map(Box::new).map(Served::Machine),
                Place::Thread(thread) if is_successor => {
                    MountedThread::take_over(home, thread, kept).await.map(Box::new).map(Served::Thread)
                }
                Place::Thread(thread) => {
                    MountedThread::begin(home, thread).await.map(Box::new).map(Served::Thread)
                }
            }
        }
        Err(error) => Err(failure(ErrorKind::Failure, in_full(&error))),
    };
    match begun {
        Ok(Served::Machine(mount)) => mount.serve(control).await.map_err(system("serve")),
        Ok(Served::Thread(mount)) => mount.serve(control).await.map_err(system("serve")),
        Err(error) if is_successor => Err(Failure::TakeOver(error)),
        Err(error) => {
            tracing::error!(%error, "could not mount");
            tether.leaving();
            control.refuse(error).await;
            Ok(())
        }
    }
}

fn failure(kind: ErrorKind, message: impl Into<String>) -> WorkerError {
    WorkerError { kind, message: message.into(), hint: None }
}

/// An error and all its causes in one line, in the system's own words.
pub(crate) fn in_full(error: &dyn std::error::Error) -> String {
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
pub(crate) fn plain(mut text: String) -> String {
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
