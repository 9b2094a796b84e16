//! What changes on the machine, as it tells: nothing is looked at until it does.
//!
//! ```text
//!   waiting ──► begun (all that is listed is looked at once) ──► changes, again and again
//!      ▲                                                           │
//!      └────────────── cut, or over: after a while ────────────────┘
//! ```

use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use vfs::replica::Retry;
use wire::api::ErrorObject;
use wire::api::file::Progress;
use wire::api::watch::{NextChanges, Watch as Begin};

use crate::client::Client;
use crate::service::{Domain, State, thread};

type Job = Box<dyn FnOnce(&mut State) + Send>;

/// A thread that waits for changes.
pub(crate) struct Watch {
    shared: Arc<(Mutex<Shared>, Condvar)>,
}

#[derive(Default)]
struct Shared {
    is_over: bool,
    line: Option<UnixStream>,
}

impl Watch {
    pub(crate) fn start(domain: &Domain, jobs: SyncSender<Job>) -> Result<Watch, String> {
        let shared = Arc::new((Mutex::new(Shared::default()), Condvar::new()));
        let (theirs, socket) = (Arc::clone(&shared), domain.socket.clone());
        let begin = Begin { source: domain.source.clone(), recursive: true, caller: domain.caller.clone() };
        thread("watch", move || {
            let mut retry = Retry::default();
            while !lock(&theirs.0).is_over {
                let mut client = Client::patient(&socket);
                let outcome = follow(&mut client, &begin, &theirs, &jobs, &mut retry);
                if let Err(error) = outcome {
                    tracing::info!(%error, "changes of the machine are not told of for now");
                }
                wait(&theirs, &mut retry);
            }
        })?;
        Ok(Watch { shared })
    }

    pub(crate) fn stop(&self) {
        let mut shared = lock(&self.shared.0);
        shared.is_over = true;
        if let Some(line) = shared.line.take() {
            // One that has ended already is as good.
            let _ended = line.shutdown(Shutdown::Both);
        }
        self.shared.1.notify_all();
    }
}

/// Follows one watch to its end.
fn follow(
    client: &mut Client,
    begin: &Begin,
    shared: &(Mutex<Shared>, Condvar),
    jobs: &SyncSender<Job>,
    retry: &mut Retry,
) -> Result<(), ErrorObject> {
    let handle = client.call(begin.clone())?.handle;
    {
        let mut shared = lock(&shared.0);
        if shared.is_over {
            return Ok(());
        }
        shared.line = client.hangup();
    }
    let mut is_first = true;
    loop {
        let changes = client.call(NextChanges { handle })?;
        retry.reached();
        let has_begun = std::mem::take(&mut is_first);
        let is_anything = has_begun || changes.rescan;
        let paths: Vec<Vec<u8>> =
            changes.changes.into_iter().map(|change| change.path.as_bytes().to_vec()).collect();
        if is_anything || !paths.is_empty() {
            let job: Job = Box::new(move |state| {
                // What could not be looked at is looked at when the watch begins anew.
                if let Err(failure) = state.changed(&paths, is_anything) {
                    tracing::info!(?failure, "what has changed on the machine was not looked at");
                }
                if has_begun {
                    state.reached();
                }
            });
            // Waits for a place in the queue: the machine keeps what is not asked for.
            if jobs.send(job).is_err() {
                return Ok(());
            }
        }
        if changes.progress == Progress::End {
            return Ok(());
        }
    }
}

fn wait(shared: &(Mutex<Shared>, Condvar), retry: &mut Retry) {
    let random = std::process::id().wrapping_mul(0x9e37_79b9);
    let time = retry.cut(random);
    let guard = lock(&shared.0);
    // Woken early, nothing is lost.
    let _woken = shared.1.wait_timeout_while(guard, time, |shared| !shared.is_over);
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
