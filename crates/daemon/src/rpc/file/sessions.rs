//! The sessions with agents that one client's files go through: one for each machine, attached to the machine's root.
//!
//! ```text
//!   get ──► is there one? ──no──► connection ─► stream ─► attach `/` ──► kept     (who asks meanwhile waits for the same)
//!                 │ yes
//!                 └──► kept ──unused for SESSION_IDLE, lost, or the client gone──► closed
//! ```
//!
//! Any number of requests are under way in a session; what is opened in it keeps it open.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use ::remote::Connection;
use ::remote::client::{AgentClient, Attached, CallError, Located, TypedCall};
use rustix::io::Errno;
use tokio::sync::OnceCell;
use wire::agent::file::{LastLink, Place};
use wire::api::ErrorObject;
use wire::api::machine::Machine;

use super::{is, refused};
use crate::connection::{Attendant, IDLE_GRACE, Lease};
use crate::owner::{OwnerHandle, Wanted};

/// How long a session that nothing uses is kept: as long as the connection below it.
const SESSION_IDLE: Duration = IDLE_GRACE;

/// The machines that one client has sessions with at once. Each is a process or a channel of ssh; nobody copies between
/// more of them, and the one that was used longest ago makes room.
const SESSIONS_MAX: usize = 16;

/// How long it is believed which directory a path leads to: others may have moved it since.
const DIRECTORY_AGE_MAX: Duration = Duration::from_secs(2);

/// The directories whose places are kept for one session: a few hundred bytes each. All are forgotten when there are
/// more, which costs a round trip for each that is used again.
const DIRECTORIES_MAX: usize = 1024;

/// The root of every session's export.
const ROOT: &[u8] = b"/";

/// A session with a machine's agent, attached to the machine's root.
///
/// What is done in it begins with [`FarSession::locate`], which waits for the attachment; everything else needs what that gives.
pub struct FarSession {
    connection: Connection,
    machine: Machine,
    attaching: tokio::sync::Mutex<Attaching>,
    directories: Mutex<HashMap<Vec<u8>, Directory>>,
    _lease: Lease,
}

/// How far the attachment is.
enum Attaching {
    Asked(TypedCall<Attached>),
    Ended(Result<(), ErrorObject>),
}

/// A directory that a path leads to.
#[derive(Debug, Clone)]
pub struct Directory {
    /// Where it is.
    pub place: Place,
    /// When the machine was asked for it, or for the outermost directory it was derived from.
    pub since: Instant,
}

impl FarSession {
    async fn open(owner: OwnerHandle, wanted: Wanted) -> Result<Arc<FarSession>, ErrorObject> {
        let machine = wanted.machine.clone();
        let attendant = Attendant::new(&wanted.caller, wanted.prompter.clone());
        let lease = owner.acquire(wanted).await?;
        lease.link().attend(&attendant);
        let connection = lease.link().open().await?;
        let attaching = Attaching::Asked(connection.client.attach(ROOT.to_vec(), false)).into();
        Ok(Arc::new(FarSession {
            connection,
            machine,
            attaching,
            directories: Mutex::default(),
            _lease: lease,
        }))
    }

    /// Finds a file by its path. The first who asks does not wait for the attachment before he does.
    pub async fn locate(
        &self,
        path: &[u8],
        last: LastLink,
    ) -> Result<Result<Located, CallError>, ErrorObject> {
        let early = self.client().locate(path.to_vec(), last);
        self.attached().await?;
        Ok(match early.await {
            // Another of the agent's threads was faster than the one that attaches.
            Err(error) if is(&error, Errno::NOTCONN) => self.client().locate(path.to_vec(), last).await,
            located => located,
        })
    }

    async fn attached(&self) -> Result<(), ErrorObject> {
        let mut attaching = self.attaching.lock().await;
        let outcome = match &mut *attaching {
            Attaching::Ended(outcome) => return outcome.clone(),
            Attaching::Asked(asked) => asked.await,
        };
        let outcome = outcome.map(drop);
        let outcome =
            outcome.map_err(|error| refused("reach the files of", &self.machine.to_string(), &error));
        *attaching = Attaching::Ended(outcome.clone());
        outcome
    }

    /// Whether nothing can be done in it any more.
    fn is_useless(&self) -> bool {
        let is_refused = |attaching: &Attaching| matches!(attaching, Attaching::Ended(Err(_)));
        self.client().is_lost() || self.attaching.try_lock().is_ok_and(|attaching| is_refused(&attaching))
    }

    /// Speaks with the agent.
    pub fn client(&self) -> &AgentClient {
        &self.connection.client
    }

    /// The directory that the path led to a moment ago.
    pub fn known(&self, path: &[u8]) -> Option<Directory> {
        let directory = lock(&self.directories).get(path).cloned()?;
        (directory.since.elapsed() < DIRECTORY_AGE_MAX).then_some(directory)
    }

    /// Keeps where a path leads to.
    pub fn keep(&self, path: &[u8], directory: Directory) {
        let mut directories = lock(&self.directories);
        if directories.len() >= DIRECTORIES_MAX {
            directories.clear();
        }
        directories.insert(path.to_vec(), directory);
    }

    /// The same, unless it would have others forgotten.
    pub fn keep_if_room(&self, path: &[u8], directory: Directory) {
        let mut directories = lock(&self.directories);
        if directories.len() < DIRECTORIES_MAX {
            directories.insert(path.to_vec(), directory);
        }
    }

    /// Forgets the path and all beneath it.
    pub fn forget(&self, path: &[u8]) {
        let is_beneath = |known: &[u8]| match known.strip_prefix(path) {
            Some(rest) => rest.is_empty() || rest.starts_with(b"/") || path.ends_with(b"/"),
            None => false,
        };
        lock(&self.directories).retain(|known, _| !is_beneath(known));
    }

    /// Forgets these names of the directory at the path, and all beneath them.
    pub fn forget_in(&self, path: &[u8], names: &HashSet<&[u8]>) {
        let is_one = |known: &[u8]| name_below(known, path).is_some_and(|name| names.contains(name));
        lock(&self.directories).retain(|known, _| !is_one(known));
    }
}

/// What came of opening a session, for all who waited for it.
type Opening = Arc<OnceCell<Result<Arc<FarSession>, ErrorObject>>>;

/// The sessions of one client.
#[derive(Default)]
pub struct Sessions {
    kept: Mutex<Vec<Kept>>,
}

struct Kept {
    machine: Machine,
    used: Instant,
    opening: Opening,
}

impl std::fmt::Debug for Sessions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sessions")
    }
}

impl Sessions {
    /// The session with a machine; opened first if there is none.
    pub async fn get(
        self: &Arc<Self>,
        owner: &OwnerHandle,
        wanted: Wanted,
    ) -> Result<Arc<FarSession>, ErrorObject> {
        let opening = self.opening(&wanted.machine);
        let open = async {
            let opened = FarSession::open(owner.clone(), wanted).await;
            if let Ok(session) = &opened {
                tokio::spawn(close_when_idle(Arc::downgrade(self), Arc::downgrade(session)));
            }
            opened
        };
        opening.get_or_init(|| open).await.clone()
    }

    fn opening(&self, machine: &Machine) -> Opening {
        let mut kept = lock(&self.kept);
        let mut closed: Vec<Kept> = kept.extract_if(.., |kept| kept.is_useless()).collect();
        let opening = match kept.iter_mut().find(|kept| kept.machine == *machine) {
            Some(found) => {
                found.used = Instant::now();
                Arc::clone(&found.opening)
            }
            None => {
                let oldest = (0..kept.len()).min_by_key(|&at| kept[at].used);
                closed.extend(oldest.filter(|_| kept.len() >= SESSIONS_MAX).map(|at| kept.swap_remove(at)));
                let opening = Opening::default();
                let (machine, used) = (machine.clone(), Instant::now());
                kept.push(Kept { machine, used, opening: Arc::clone(&opening) });
                opening
            }
        };
        drop(kept);
        // Closing a session is not done with the table locked.
        drop(closed);
        opening
    }

    /// Closes the session if nothing has used it for a while. When to look again if it stays.
    fn close_if_idle(&self, session: &Weak<FarSession>) -> Option<Instant> {
        let mut kept = lock(&self.kept);
        let at = kept.iter().position(|kept| kept.is(session))?;
        let idle_at = kept[at].used + SESSION_IDLE;
        if idle_at > Instant::now() {
            return Some(idle_at);
        }
        if session.strong_count() > 1 {
            return Some(Instant::now() + SESSION_IDLE);
        }
        let closed = kept.swap_remove(at);
        drop(kept);
        drop(closed);
        None
    }
}

impl Kept {
    /// Whether it has failed, or has been lost since it was opened.
    fn is_useless(&self) -> bool {
        match self.opening.get() {
            None => false,
            Some(Err(_)) => true,
            Some(Ok(session)) => session.is_useless(),
        }
    }

    fn is(&self, session: &Weak<FarSession>) -> bool {
        matches!(self.opening.get(), Some(Ok(own)) if std::ptr::eq(Arc::as_ptr(own), session.as_ptr()))
    }
}

async fn close_when_idle(sessions: Weak<Sessions>, session: Weak<FarSession>) {
    let mut look = Instant::now() + SESSION_IDLE;
    loop {
        tokio::time::sleep_until(look.into()).await;
        let next = sessions.upgrade().and_then(|sessions| sessions.close_if_idle(&session));
        match next {
            Some(next) => look = next,
            None => return,
        }
    }
}

/// A panic elsewhere has left nothing half done: what is guarded is changed in single steps.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The name in the directory at `directory` through which a path leads, if it leads through one.
fn name_below<'a>(path: &'a [u8], directory: &[u8]) -> Option<&'a [u8]> {
    let rest = path.strip_prefix(directory)?;
    let is_whole = directory.is_empty() || directory.ends_with(b"/");
    let below = if is_whole { rest } else { rest.strip_prefix(b"/")? };
    below.split(|&byte| byte == b'/').next().filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_leads_through_one_name_of_a_directory_above_it() {
        let cases = [
            ("/a/b", "/a", Some("b")),
            ("/a/b/c", "/a", Some("b")),
            ("/a/b", "/", Some("a")),
            ("/a/b", "/a/", Some("b")),
            ("a/b", "", Some("a")),
            ("/a", "/a", None),
            ("/ab", "/a", None),
            ("/b", "/a", None),
        ];
        for (path, directory, expected) in cases {
            let name = name_below(path.as_bytes(), directory.as_bytes());
            assert_eq!(name, expected.map(str::as_bytes), "{path} below {directory}");
        }
    }
}
