//! Mounts that a daemon before this one has made.
//!
//! ```text
//! row ─► keeper.sock answers with the row's token ─► the mount goes on
//!  ├─ the keeper gave up ─► it has failed
//!  └─ neither, or it had never served ─► what is left of it is ended, unmounted, removed
//!                                         └─ a worker still holds its directory ─► that stays as it is
//! ```
//!
//! That no worker is alive any more, the lock on the mount's directory says, which each of them holds; where none is to be
//! had, the processes that were noted do.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use supervisor::identity::Identity;
use supervisor::presence::{Alone, alone};
use wire::api::machine::{Machine, Reconnect, Source};
use wire::api::mount::{Access, Backend, SyncMode};
use wire::worker::{CONFIG, Dial, Heartbeat, MountConfig, Place as ShownPlace};

use super::goodbye::Goodbye;
use super::plan::{Place, Plan, Shows};
use super::remains::{Leftover, clean_up, detach};
use super::worker::{Found, Worker, end_remains};
use crate::database::{MountRow, Terms};
use crate::failure::chain;

/// How long the processes of a mount that does not go on may take to end. With the search for them this is below the half
/// minute that a daemon has to start.
const END_TIMEOUT: Duration = Duration::from_secs(17);

/// How often it is looked whether a worker still holds the directory of its mount.
const ALONE_INTERVAL: Duration = Duration::from_millis(50);

/// A mount that goes on.
#[derive(Debug)]
pub struct Adopted {
    /// What the database says of it.
    pub row: MountRow,
    /// What its worker said when it last came to serve, and for whom it is.
    pub terms: Terms,
    /// What it is.
    pub plan: Plan,
    /// The login that it reaches its machine through.
    pub login: Login,
    /// How it was found.
    pub found: Standing,
}

/// Which master a mount reaches its machine through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Login {
    /// It needs none.
    None,
    /// The one with this control socket.
    Through(PathBuf),
    /// One of those that are there.
    Unknown,
}

/// How a mount was found.
#[derive(Debug)]
pub enum Standing {
    /// Its processes are there.
    Serving(Box<Worker>),
    /// They are not, and will not be.
    Failed {
        /// Why, in one line.
        reason: String,
    },
}

/// What has become of a mount.
#[derive(Debug)]
pub enum Outcome {
    /// It goes on.
    Adopted(Box<Adopted>),
    /// Nothing of it is left here.
    Gone {
        /// What is owed to its agent.
        goodbye: Option<Goodbye>,
    },
}

/// Finds out what has become of a mount. When there is nothing to go on with, nothing of it is left here either.
pub async fn adopt(row: MountRow, state_dir: PathBuf) -> Outcome {
    let known = row.terms.clone().and_then(|terms| {
        let config = File::open(state_dir.join(CONFIG)).and_then(MountConfig::read);
        let login = login(&row, config.as_ref().ok());
        Some((plan(&row, &terms, config)?, terms, login))
    });
    let identities: Vec<Identity> = row.keeper.into_iter().chain(row.worker).collect();
    let found = match row.token {
        Some(token) => Worker::adopt(row.dir.as_path(), &state_dir, token, &identities).await,
        None => Found::Nobody,
    };
    let found = match (found, known) {
        (Found::Serving(worker), Some((plan, terms, login))) => {
            tracing::info!(mount = %row.id, source = %row.source, dir = %row.dir, "a mount is there from before");
            let found = Standing::Serving(worker);
            return Outcome::Adopted(Box::new(Adopted { row, terms, plan, login, found }));
        }
        (Found::Failed { reason }, Some((plan, terms, _))) => {
            tracing::warn!(mount = %row.id, source = %row.source, reason, "a mount has failed before");
            // Whoever noted it may have been killed before the directory was one again.
            detach_from(&row).await;
            let found = Standing::Failed { reason };
            let login = Login::None;
            return Outcome::Adopted(Box::new(Adopted { row, terms, plan, login, found }));
        }
        (found, _) => found,
    };
    tracing::warn!(mount = %row.id, source = %row.source, dir = %row.dir, "taking away what is left of a mount");
    let ending = async {
        if let Found::Serving(mut worker) = found
            && let Err(error) = worker.end(false).await
        {
            tracing::error!(mount = %row.id, error = chain(&error), "its processes do not end");
        }
        // A dead worker with a thread that waits for the mount does not end before that.
        detach_from(&row).await;
        end_remains(&state_dir, identities).await;
        nobody_else(&state_dir).await
    };
    let (leftover, ours) = match tokio::time::timeout(END_TIMEOUT, ending).await {
        Ok(ours) => (Leftover::KeepUnknown, ours),
        Err(_) => {
            tracing::error!(mount = %row.id, "its processes do not end, and are left to themselves");
            // What one of them still writes is for the next mount, once it has ended.
            (Leftover::KeepAll, None)
        }
    };
    let (dir, made) = (row.dir.as_path().to_owned(), made(&row));
    let machine = machine_of(&row);
    let caller = row.terms.map(|terms| terms.caller).unwrap_or_default();
    let clearing = tokio::task::spawn_blocking(move || {
        let machine = machine.filter(|_| leftover != Leftover::KeepAll);
        let goodbye = machine.and_then(|machine| Goodbye::owed(machine, caller, &state_dir));
        clean_up(&dir, &made, &state_dir, leftover);
        drop(ours);
        goodbye
    });
    let goodbye = clearing.await.unwrap_or_else(|error| {
        tracing::error!(mount = %row.id, %error, "clearing a mount did not end");
        None
    });
    Outcome::Gone { goodbye }
}

/// Waits until no worker is there any more. `None` where that cannot be seen.
async fn nobody_else(state_dir: &Path) -> Option<Alone> {
    loop {
        match alone(state_dir) {
            Ok(Some(ours)) => return Some(ours),
            Ok(None) => tokio::time::sleep(ALONE_INTERVAL).await,
            Err(error) => {
                if !error.is_missing() {
                    tracing::warn!(error = chain(&error), "whether a worker is alive cannot be seen");
                }
                return None;
            }
        }
    }
}

fn machine_of(row: &MountRow) -> Option<Machine> {
    match &row.source {
        Source::Files { machine, .. } => Some(machine.clone()),
        Source::Thread { .. } => None,
    }
}

async fn detach_from(row: &MountRow) {
    let dir = row.dir.as_path().to_owned();
    if let Err(error) = tokio::task::spawn_blocking(move || detach(&dir)).await {
        tracing::error!(mount = %row.id, %error, "detaching did not end");
    }
}

fn made(row: &MountRow) -> Vec<PathBuf> {
    row.made.iter().map(|dir| dir.as_path().to_owned()).collect()
}

fn login(row: &MountRow, config: Option<&MountConfig>) -> Login {
    match (&row.source, config.map(|config| &config.place)) {
        (_, Some(ShownPlace::Machine(Dial::Ssh(dial)))) => {
            Login::Through(dial.control_path.as_path().to_owned())
        }
        (
            _,
            Some(ShownPlace::Machine(Dial::Host | Dial::Docker(_) | Dial::Vm(_)) | ShownPlace::Thread(_)),
        )
        | (Source::Files { machine: Machine::Host, .. } | Source::Thread { .. }, None) => Login::None,
        (_, None) => Login::Unknown,
    }
}

/// What a mount is. One whose configuration cannot be read any more serves all the same: the usual is taken for it.
fn plan(row: &MountRow, terms: &Terms, config: io::Result<MountConfig>) -> Option<Plan> {
    let shows = match (&row.source, config.as_ref().map(|config| &config.place)) {
        (Source::Files { machine, path }, _) => {
            Shows::Files { machine: machine.clone(), path: path.as_path().to_owned() }
        }
        (Source::Thread { .. }, Ok(ShownPlace::Thread(thread))) => Shows::Thread(Box::new(thread.clone())),
        (Source::Thread { .. }, _) => return None,
    };
    let usual = Plan {
        source: row.source.clone(),
        place: Place { dir: row.dir.as_path().to_owned(), shows },
        backend: Backend::default(),
        access: Access::ReadWrite,
        sync: SyncMode::default(),
        reconnect: Reconnect::default(),
        heartbeat: Heartbeat::default(),
        options: BTreeMap::new(),
        caller: terms.caller.clone(),
        made: made(row),
    };
    let config = match config {
        Ok(config) => config,
        Err(error) => {
            tracing::error!(mount = %row.id, %error, "it is not known with which options a mount serves");
            return Some(usual);
        }
    };
    Some(Plan {
        backend: config.backend,
        access: config.access,
        sync: config.sync,
        reconnect: config.reconnect,
        heartbeat: config.heartbeat,
        options: config.options,
        ..usual
    })
}

#[cfg(test)]
mod tests {
    use supervisor::presence::Presence;
    use wire::api::id::MountId;
    use wire::bytestring::ByteString;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_a_worker_still_holds_stays_until_that_has_ended() {
        let scratch = tempfile::tempdir().unwrap();
        let state_dir = scratch.path().join("m1");
        std::fs::create_dir(&state_dir).unwrap();
        let journal = state_dir.join("journal.0");
        std::fs::write(&journal, b"").unwrap();
        let row = MountRow {
            id: MountId::new(1),
            source: Source::parse(b"host:/src", b"/").unwrap(),
            dir: ByteString::from(scratch.path().join("mount").as_path()),
            made: Vec::new(),
            token: None,
            keeper: None,
            worker: None,
            terms: None,
        };
        let worker = Presence::claim(&state_dir).await.unwrap();
        assert!(matches!(adopt(row.clone(), state_dir.clone()).await, Outcome::Gone { .. }));
        assert!(journal.exists());
        drop(worker);
        assert!(matches!(adopt(row, state_dir.clone()).await, Outcome::Gone { .. }));
        assert!(!state_dir.exists());
    }
}
