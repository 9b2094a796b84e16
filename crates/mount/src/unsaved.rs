//! What mounts that are gone have left unsaved, replayed by the next one of the same source before it serves.
//!
//! Each of them has a directory with its journal. One process at a time is at it: it holds a lock on the directory. When
//! nothing in it is unsaved any more, it is removed.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use rustix::fs::{FlockOperation, flock};
use vfs::file::{Caller, FileId};
use vfs::replay::{self, Manner, ReplayError, Unsaved};
use wire::api::status::{Aside, Left, REPLAYED_BYTES_MAX, Replayed};
use wire::api::time::Timestamp;
use wire::bytestring::ByteString;
use wire::worker::{CONFIG, MountConfig};

use crate::machine::Machine;
use crate::worker::in_full;

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
    #[error("another mount is at it")]
    Taken,
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

/// Replays what `config` names. `None` if it names nothing.
pub(crate) async fn replay_all(config: &MountConfig, machine: Machine, root: FileId) -> Option<Replayed> {
    if config.unsaved.is_empty() {
        return None;
    }
    let machine = Arc::new(machine);
    let mut told = Told::default();
    for (round, directory) in config.unsaved.iter().enumerate() {
        let directory = directory.as_path();
        let manner = Manner {
            root,
            round: u32::try_from(round).unwrap_or(u32::MAX),
            label: label(directory),
            caller: Caller { uid: config.owner.uid, gid: config.owner.gid, umask: 0 },
        };
        match replay_one(directory, machine.clone(), manner).await {
            Ok(replayed) => told.add(config, directory, replayed),
            Err(error) => {
                let reason = in_full(&error);
                tracing::error!(directory = %directory.display(), reason, "what is unsaved was not replayed");
                told.leave(directory, reason);
            }
        }
    }
    Some(told.replayed)
}

async fn replay_one(
    directory: &Path,
    machine: Arc<Machine>,
    manner: Manner,
) -> Result<replay::Replayed, Failure> {
    let path = directory.to_owned();
    let (lock, unsaved) = tokio::task::spawn_blocking(move || -> Result<_, Failure> {
        let lock = File::open(&path).map_err(access("open", &path))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(Failure::Taken),
            Err(errno) => return Err(access("lock", &path)(errno.into())),
        }
        Ok((lock, Unsaved::read(&path)?))
    })
    .await??;
    let writes = unsaved.writes();
    tracing::info!(directory = %directory.display(), writes, "what an earlier mount had not saved is replayed");
    let replayed = replay::replay(unsaved, machine, manner).await?;
    if replayed.left.is_empty() {
        let path = directory.to_owned();
        tokio::task::spawn_blocking(move || clear(&path)).await??;
    }
    drop(lock);
    Ok(replayed)
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
        Err(error) if error.kind() != io::ErrorKind::DirectoryNotEmpty => {
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
            reason.get_or_insert_with(|| {
                let why = rustix::io::Errno::from_raw_os_error(errno.0.into());
                format!("could not save `{path}`: {}", crate::worker::plain(io::Error::from(why).to_string()))
            });
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
