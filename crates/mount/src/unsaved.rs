//! What mounts that are gone have left unsaved, replayed by the next one of the same source.
//!
//! ```text
//!  of each directory ─┬─ locked, read, its files held ─► replayed ─┬─► over: removed
//!                     │                                            └─► left: it stays as it is, and is told
//!                     ├─ another mount is at it ─► waited for, after the others ─► nothing is left, or as above
//!                     └─ it is gone, or empty ─► over
//! ```
//!
//! Each of them has a directory with its journal. One process at a time is at it: it holds a lock on the directory, which
//! none of the mount's own processes then is alive to share. When nothing in it is unsaved any more, it is removed.
//!
//! The mount is held up for [`HOLD`] at most. What takes longer is gone on with while it serves, and the files of which
//! something is unsaved are not used through it before ([`Held`]). No file is written to then that was not held before.

mod held;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use supervisor::presence::{Alone, PresenceError, alone};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use vfs::errno::Errno;
use vfs::file::{Caller, FileId};
use vfs::replay::{self, ANSWER_WAIT, Manner, ReplayError, Unsaved};
use wire::api::status::{Aside, Left, REPLAYED_BYTES_MAX, Replayed};
use wire::api::time::Timestamp;
use wire::bytestring::ByteString;
use wire::worker::{CONFIG, MountConfig};

use crate::machine::Machine;
use crate::worker::in_full;

pub(crate) use held::Held;

/// How long a mount is held up until what is unsaved is saved. A person who mounts waits for it.
pub const HOLD: Duration = Duration::from_secs(10);

/// How long another mount that is at a directory is waited for before that is left to it.
const TAKEN_WAIT: Duration = Duration::from_secs(10 * 60);

/// How often it is looked whether it still is.
const TAKEN_INTERVAL: Duration = Duration::from_millis(100);

/// Why nothing is replayed that another mount has left when this one served already.
const TOO_LATE: &str = "another mount could not save it while this one began";

/// Why something is left that a worker before this one was at.
const INTERRUPTED: &str = "it was not saved when the mount began, and is tried again by the next one";

/// Why one of them was left alone, or not finished.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Replay(#[from] ReplayError),
    #[error("could not {what} `{}`", path.display())]
    Access {
        what: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Presence(#[from] PresenceError),
    #[error("another mount is at it")]
    Taken,
    #[error("{TOO_LATE}")]
    TooLate,
    #[error("reading it did not end: {0}")]
    Task(#[from] tokio::task::JoinError),
}

fn access(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Failure {
    let path = path.to_owned();
    move |source| Failure::Access { what, path, source }
}

/// Whether a mount that is gone has left anything unsaved in its directory, as far as can be read. Blocks.
pub fn is_any(directory: &Path) -> bool {
    match Unsaved::read(directory) {
        Ok(unsaved) => !unsaved.is_empty(),
        Err(error) => {
            tracing::warn!(directory = %directory.display(), error = in_full(&error), "what is unsaved cannot be read");
            true
        }
    }
}

/// How much there is to read of it, in bytes: at least what is unsaved. Blocks.
pub fn bytes(directory: &Path) -> u64 {
    let lengths = vfs::journal::FILES.iter().map(|name| std::fs::metadata(directory.join(name)));
    lengths.filter_map(|metadata| Some(metadata.ok()?.len())).sum()
}

/// Removes the journal of a mount that is gone and has left nothing unsaved, and what else is of its file system. Blocks.
pub fn remove(directory: &Path) -> io::Result<()> {
    replay::remove(directory)
}

/// What a successor says of the replay that its predecessor had begun; `None` where there was none. Blocks.
pub(crate) fn interrupted(config: &MountConfig) -> Option<Replayed> {
    if config.unsaved.is_empty() {
        return None;
    }
    let mut told = Told::default();
    for directory in &config.unsaved {
        let directory = directory.as_path();
        // What is over is gone.
        if directory.join(CONFIG).exists() {
            told.leave(directory, INTERRUPTED.to_owned());
        }
    }
    Some(told.replayed)
}

/// A replay under way. Dropped, it ends where it is.
pub(crate) struct Replaying {
    news: watch::Receiver<Replayed>,
    held: Arc<Held>,
    task: AbortHandle,
    is_over: bool,
}

impl Drop for Replaying {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Replaying {
    /// Begins to replay what `config` names; `None` if it names nothing. When this returns, all files are held of which
    /// something is unsaved.
    pub(crate) async fn begin(config: &MountConfig, machine: Machine, root: FileId) -> Option<Replaying> {
        if config.unsaved.is_empty() {
            return None;
        }
        let held = Arc::new(Held::default());
        let mut prepared = Vec::new();
        for (round, directory) in config.unsaved.iter().enumerate() {
            let directory = directory.as_path().to_owned();
            let ours = prepare(&directory, &held).await;
            prepared.push(Prepared { round: u32::try_from(round).unwrap_or(u32::MAX), directory, ours });
        }
        let replay = Replay {
            config: config.clone(),
            machine: Arc::new(machine),
            root,
            held: held.clone(),
            told: Told::default(),
            news: watch::Sender::default(),
        };
        replay.tell(&prepared);
        let news = replay.news.subscribe();
        let task = tokio::spawn(replay.run(prepared)).abort_handle();
        Some(Replaying { news, held, task, is_over: false })
    }

    /// Waits until it is over, [`HOLD`] at most.
    pub(crate) async fn hold(&mut self) {
        let until = Instant::now() + HOLD;
        while let Ok(Some(_)) = tokio::time::timeout_at(until, self.next()).await {}
    }

    /// What has come of it so far.
    pub(crate) fn so_far(&self) -> Replayed {
        self.news.borrow().clone()
    }

    /// Whether nothing more comes of it.
    pub(crate) fn is_over(&self) -> bool {
        self.is_over
    }

    /// Which files are not to be used yet.
    pub(crate) fn held(&self) -> Arc<Held> {
        self.held.clone()
    }

    /// The next news; `None` once it is over. May be dropped half way without loss.
    pub(crate) async fn next(&mut self) -> Option<Replayed> {
        if self.news.changed().await.is_err() {
            self.is_over = true;
            return None;
        }
        Some(self.so_far())
    }
}

/// A directory that is to be replayed, and whether it is this process that may.
struct Prepared {
    round: u32,
    directory: PathBuf,
    ours: Result<Option<Alone>, Failure>,
}

/// Takes a directory, and holds the files of which something is unsaved there. `None` if it is gone.
async fn prepare(directory: &Path, held: &Arc<Held>) -> Result<Option<Alone>, Failure> {
    let (path, held) = (directory.to_owned(), held.clone());
    let prepared = tokio::task::spawn_blocking(move || -> Result<_, Failure> {
        let ours = match alone(&path) {
            Ok(ours) => ours.ok_or(Failure::Taken)?,
            Err(error) if error.is_missing() => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let unsaved = Unsaved::read(&path)?;
        let files: Vec<_> = unsaved.files().map(|(id, path)| (id, Box::from(path))).collect();
        match unsaved.is_empty() || held.add(&files) {
            true => Ok(Some(ours)),
            false => Err(Failure::TooLate),
        }
    });
    prepared.await?
}

struct Replay {
    config: MountConfig,
    machine: Arc<Machine>,
    root: FileId,
    held: Arc<Held>,
    told: Told,
    news: watch::Sender<Replayed>,
}

/// Whatever ends a replay, nobody waits for it any more.
struct Lifted(Arc<Held>);

impl Drop for Lifted {
    fn drop(&mut self) {
        self.0.lift_all();
    }
}

impl Replay {
    async fn run(self, prepared: Vec<Prepared>) {
        let held = Lifted(self.held.clone());
        tokio::select! {
            () = held.0.keep_lifting() => {}
            () = self.run_all(prepared) => {}
        }
    }

    async fn run_all(mut self, prepared: Vec<Prepared>) {
        let is_taken = |prepared: &Prepared| matches!(prepared.ours, Err(Failure::Taken));
        let (taken, mut waiting): (Vec<_>, Vec<_>) = prepared.into_iter().partition(is_taken);
        waiting.extend(taken);
        while !waiting.is_empty() {
            let Prepared { round, directory, ours } = waiting.remove(0);
            let ours = match ours {
                Err(Failure::Taken) => self.await_other(&directory).await,
                ours => ours,
            };
            let outcome = match ours {
                Ok(Some(ours)) => self.replay(round, &directory, ours).await,
                Ok(None) => Ok(replay::Replayed::default()),
                Err(failure) => Err(failure),
            };
            match outcome {
                Ok(replayed) => self.told.add(&self.config, &directory, replayed),
                Err(error) => {
                    let reason = in_full(&error);
                    tracing::error!(directory = %directory.display(), reason, "what is unsaved was not replayed");
                    self.told.leave(&directory, reason);
                }
            }
            self.tell(&waiting);
        }
    }

    /// Tells what has come of it, and of which directories nothing has come yet.
    fn tell(&self, waiting: &[Prepared]) {
        let mut room = REPLAYED_BYTES_MAX;
        let mut has_room = |path: &ByteString| {
            let bytes = path.as_bytes().len();
            room = room.saturating_sub(bytes);
            room > 0
        };
        let saving = waiting.iter().map(|prepared| ByteString::from(prepared.directory.as_path()));
        let saving = saving.take_while(|path| has_room(path)).collect();
        self.news.send_replace(Replayed { saving, ..self.told.replayed.clone() });
    }

    /// Waits until the mount that is at a directory has come to an end with it.
    async fn await_other(&self, directory: &Path) -> Result<Option<Alone>, Failure> {
        let until = Instant::now() + TAKEN_WAIT;
        loop {
            match prepare(directory, &self.held).await {
                Err(Failure::Taken) if Instant::now() < until => tokio::time::sleep(TAKEN_INTERVAL).await,
                outcome => return outcome,
            }
        }
    }

    /// The lock is held until this returns.
    async fn replay(&self, round: u32, directory: &Path, _ours: Alone) -> Result<replay::Replayed, Failure> {
        note_attempt(directory);
        let path = directory.to_owned();
        let unsaved = tokio::task::spawn_blocking(move || Unsaved::read(&path)).await??;
        let mut replayed = replay::Replayed::default();
        if !unsaved.is_empty() {
            let writes = unsaved.writes();
            tracing::info!(directory = %directory.display(), writes, "what an earlier mount had not saved is replayed");
            let manner = Manner {
                root: self.root,
                round,
                label: label(directory),
                caller: Caller { uid: self.config.owner.uid, gid: self.config.owner.gid, umask: 0 },
                answer_wait: ANSWER_WAIT,
            };
            let done = |id| self.held.done(id);
            replayed = replay::replay(unsaved, self.machine.clone(), manner, done).await?;
        }
        if replayed.left.is_empty() {
            let path = directory.to_owned();
            tokio::task::spawn_blocking(move || clear(&path)).await??;
        }
        Ok(replayed)
    }
}

/// Notes that it was tried: of many, those that were tried longest ago come first.
fn note_attempt(directory: &Path) {
    let noted =
        std::fs::File::open(directory.join(CONFIG)).and_then(|file| file.set_modified(SystemTime::now()));
    if let Err(error) = noted
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(directory = %directory.display(), %error, "that it was tried to save it is not noted");
    }
}

/// Removes a directory in which nothing is unsaved any more.
fn clear(directory: &Path) -> Result<(), Failure> {
    replay::remove(directory).map_err(access("clear", directory))?;
    // While it is there, the next mount finds the rest.
    match std::fs::remove_file(directory.join(CONFIG)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(access("clear", directory)(error));
        }
        _ => {}
    }
    match std::fs::remove_dir(directory) {
        // What else is in it is not known here.
        Err(error) if !matches!(error.kind(), io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::NotFound) => {
            Err(access("remove", directory)(error))
        }
        _ => Ok(()),
    }
}

/// The day, and which mount it was.
fn label(directory: &Path) -> String {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let day = Timestamp::from_unix(since.as_secs()).to_string();
    let day = day.chars().take_while(|letter| *letter != 'T').filter(char::is_ascii_digit);
    let mount = directory.file_name().unwrap_or_default().to_string_lossy();
    let mount = mount.chars().filter(char::is_ascii_alphanumeric).take(LABEL_LETTERS_MAX);
    format!("{}-{}", day.collect::<String>(), mount.collect::<String>())
}

/// The longest name of a mount in a label. It has a letter and a number.
const LABEL_LETTERS_MAX: usize = 32;

/// What is told of it, within [`REPLAYED_BYTES_MAX`].
#[derive(Default)]
struct Told {
    replayed: Replayed,
    bytes: usize,
}

impl Told {
    fn add(&mut self, config: &MountConfig, directory: &Path, replayed: replay::Replayed) {
        self.replayed.writes += replayed.writes;
        self.replayed.bytes += replayed.bytes;
        let here = |path: &[u8]| ByteString::from([config.dir.as_bytes(), b"/", path].concat());
        for replay::Aside { of, to } in replayed.aside {
            let aside = Aside { of: here(&of), path: here(&to) };
            tracing::warn!(of = %aside.of, path = %aside.path, "what was not saved is put aside");
            if self.has_room(aside.of.as_bytes().len() + aside.path.as_bytes().len()) {
                self.replayed.aside.push(aside);
            }
        }
        let mut reason = None;
        for (path, errno) in replayed.left {
            let path = here(&path);
            tracing::error!(%path, %errno, "what was not saved stays unsaved");
            reason.get_or_insert_with(|| format!("could not save `{path}`: {}", why(errno)));
        }
        if let Some(reason) = reason {
            self.leave(directory, reason);
        }
    }

    fn leave(&mut self, directory: &Path, reason: String) {
        let path = ByteString::from(directory);
        if self.has_room(path.as_bytes().len() + reason.len()) {
            self.replayed.left.push(Left { path, reason });
        }
    }

    fn has_room(&mut self, bytes: usize) -> bool {
        let has_room = self.bytes + bytes <= REPLAYED_BYTES_MAX;
        match has_room {
            true => self.bytes += bytes,
            false => self.replayed.more += 1,
        }
        has_room
    }
}

fn why(errno: Errno) -> String {
    match errno {
        Errno::ETIMEDOUT => format!("the machine did not answer for it in {} s", ANSWER_WAIT.as_secs()),
        Errno(number) => {
            let why = remote::errno::here(wire::agent::Errno(number));
            crate::worker::plain(why.to_string())
        }
    }
}

#[cfg(test)]
mod tests;
