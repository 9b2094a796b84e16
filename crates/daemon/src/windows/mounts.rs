//! The mounts, each with a thread that serves it and a directory of the state:
//!
//! | in `mounts` | is |
//! |---|---|
//! | `last` | the number of the last mount, which is not used again |
//! | `mID/mount.json` | [`Kept`]: a mount that has served |
//! | `mID/replica.db` | what is known of both sides |
//!
//! ```text
//!  create ──► a thread serves ──► kept ──► active ⇄ disconnected ──► removed: the thread ends, the directory is plain again
//!                  └► refused: nothing is left                └► failed: it says why, until it is removed
//! ```
//!
//! A daemon that ends takes no mount away: the next one serves it again.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use mount::cloud_files::{Options, ServeError, Stage, Stop, serve, unregister, unsent};
use mount::far::LineError;
use mount::far::ssh::Ssh;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use wire::api::daemon::Fate;
use wire::api::id::MountId;
use wire::api::machine::{Machine, Source, SshTarget};
use wire::api::mount::{Access, Backend, BackendName, Create, Force, RemovedMount, SyncMode, Target};
use wire::api::{ErrorKind, ErrorObject, status};
use wire::bytestring::ByteString;
use wire::paths::Paths;

/// A machine that was not reached is tried again after this.
const AGAIN: Duration = Duration::from_secs(30);

/// The file of a mount's state that says what it is.
const KEPT: &str = "mount.json";

/// The machine's error number for a path that is not there.
const ENOENT: u16 = 2;

/// All of them.
pub(super) struct Mounts {
    paths: Paths,
    /// Held while one is made: two that are made at once could want one directory. Whether the daemon ends, so that no more are made.
    making: Mutex<bool>,
    served: Mutex<BTreeMap<MountId, Served>>,
}

struct Served {
    directory: PathBuf,
    shown: Shown,
    stop: Arc<Stop>,
    /// Whether its thread has made the directory a sync root.
    is_registered: Arc<AtomicBool>,
    /// None of one that cannot be served at all.
    thread: Option<JoinHandle<()>>,
}

impl Served {
    fn failed(id: MountId, kept: &Kept, reason: String) -> Served {
        let shown = shown(id, kept);
        let shown = status::Mount { status: status::MountStatus::Failed { reason }, ..shown };
        let stop = Arc::new(Stop::default());
        stop.over();
        Served {
            directory: kept.directory.clone(),
            shown: Arc::new(Mutex::new(shown)),
            stop,
            is_registered: Arc::default(),
            thread: None,
        }
    }
}

/// Says so when a mount's thread ends, in whatever way.
struct Over<'a>(&'a Stop);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.over();
    }
}

type Shown = Arc<Mutex<status::Mount>>;

/// Whoever waits for a mount to serve.
type Waiting = SyncSender<Result<(), ErrorObject>>;

/// What is written of a mount.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Kept {
    source: Source,
    directory: PathBuf,
}

impl Mounts {
    /// Serves those again that were kept.
    pub(super) fn open(paths: &Paths) -> io::Result<Mounts> {
        let mounts =
            Mounts { paths: paths.clone(), making: Mutex::new(false), served: Mutex::new(BTreeMap::new()) };
        for entry in fs::read_dir(paths.mount_states_dir())?.flatten() {
            let name = entry.file_name();
            let Some(id) = name.to_str().and_then(|name| name.parse::<MountId>().ok()) else { continue };
            let kept = fs::read(entry.path().join(KEPT))
                .and_then(|text| serde_json::from_slice::<Kept>(&text).map_err(io::Error::from));
            match kept {
                Ok(kept) => {
                    let served = mounts.start(id, &kept, None).unwrap_or_else(|error| {
                        tracing::warn!(mount = %id, %error, "a mount is not served");
                        Served::failed(id, &kept, error.message)
                    });
                    mounts.served.lock().insert(id, served);
                }
                // It has never served, or is gone.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    if let Err(error) = fs::remove_dir_all(entry.path()) {
                        tracing::warn!(mount = %id, %error, "what is left of a mount stays");
                    }
                }
                Err(error) => tracing::warn!(mount = %id, %error, "a mount cannot be served again"),
            }
        }
        Ok(mounts)
    }

    /// Makes one. Answered once it serves; on failure nothing is left.
    pub(super) fn create(&self, request: Create) -> Result<status::Mount, ErrorObject> {
        check(&request)?;
        target_of(&request.source)?;
        let is_ending = self.making.lock();
        if *is_ending {
            return Err(ErrorObject::new(ErrorKind::Conflict, "the daemon ends"));
        }
        let directory = directory(request.dir.as_ref())?;
        self.check_is_free(&directory)?;
        let is_new = make_directory(&directory)?;
        let made = self.make(Kept { source: request.source, directory: directory.clone() });
        if made.is_err() && is_new {
            // What somebody has put there meanwhile stays.
            let _ = fs::remove_dir(&directory);
        }
        made
    }

    fn make(&self, kept: Kept) -> Result<status::Mount, ErrorObject> {
        let cannot_keep = |error: io::Error| failure(format!("the mount cannot be written down: {error}"));
        let id = self.next_id().map_err(cannot_keep)?;
        let state = self.paths.mount_state_dir(id);
        fs::create_dir_all(&state).map_err(cannot_keep)?;
        let (waiting, told) = sync_channel(1);
        let made = self.start(id, &kept, Some(waiting)).and_then(|served| {
            // A thread that has ended without a word has panicked.
            let outcome = told.recv().unwrap_or_else(|_| Err(failure("the mount's thread has ended")));
            let text = serde_json::to_vec(&kept).map_err(io::Error::from);
            let outcome = outcome
                .and_then(|()| text.and_then(|text| replace(&state.join(KEPT), &text)).map_err(cannot_keep));
            match outcome {
                Ok(()) => Ok(served),
                Err(error) => {
                    let is_registered = Arc::clone(&served.is_registered);
                    end(served);
                    if is_registered.load(Ordering::SeqCst)
                        && let Err(refusal) = unregister(&kept.directory)
                    {
                        tracing::warn!(mount = %id, %refusal, "the directory stays a sync root");
                    }
                    Err(error)
                }
            }
        });
        match made {
            Ok(served) => {
                let shown = served.shown.lock().clone();
                self.served.lock().insert(id, served);
                Ok(shown)
            }
            Err(error) => {
                // The next daemon removes what is left.
                let _ = fs::remove_dir_all(&state);
                Err(error)
            }
        }
    }

    /// Takes mounts away: the directory stays, with what was here of its files. Unless that is forced, what was changed here is sent
    /// before. When some cannot go, the others are gone all the same, and the first error is told.
    pub(super) fn remove(&self, target: &Target, force: Force) -> Result<Vec<RemovedMount>, ErrorObject> {
        let meant: Vec<(MountId, Arc<Stop>)> = {
            let served = self.served.lock();
            let is_meant = |(id, mount): &(&MountId, &Served)| match target {
                Target::All => true,
                Target::Id(wanted) => *id == wanted,
                Target::Dir(dir) => text(dir).is_ok_and(|dir| key(Path::new(dir)) == key(&mount.directory)),
            };
            served.iter().filter(is_meant).map(|(id, mount)| (*id, Arc::clone(&mount.stop))).collect()
        };
        if meant.is_empty() && *target != Target::All {
            return Err(ErrorObject::new(ErrorKind::NotFound, "there is no such mount"));
        }
        // All send side by side.
        let sending: Vec<_> = match force {
            Force::Never => meant.iter().map(|(_, stop)| Some(stop.once_sent())).collect(),
            Force::Always => meant.iter().map(|_| None).collect(),
        };
        let (mut removed, mut first) = (Vec::new(), None);
        for ((id, _), sent) in meant.into_iter().zip(sending) {
            let sent = sent.map_or(Ok(()), |sent| {
                sent.recv().unwrap_or_else(|_| Err("the mount is not served".to_owned()))
            });
            let outcome = match sent {
                Ok(()) => self.take_away(id, force),
                Err(why) => Err(unsent_remains(id, &why)),
            };
            match outcome {
                Ok(mount) => removed.extend(mount),
                Err(error) => first = first.or(Some(error)),
            }
        }
        first.map_or(Ok(removed), Err)
    }

    /// `None` of one that somebody else has taken away.
    fn take_away(&self, id: MountId, force: Force) -> Result<Option<RemovedMount>, ErrorObject> {
        let Some(served) = self.served.lock().remove(&id) else { return Ok(None) };
        let (directory, shown) = (served.directory.clone(), served.shown.lock().clone());
        end(served);
        let state = self.paths.mount_state_dir(id);
        let cannot_remove =
            |error: io::Error| failure(format!("could not remove `{}`: {error}", state.display()));
        match fs::remove_file(state.join(KEPT)) {
            // What the next daemon would serve must stay a sync root: files without bytes would be taken for removed.
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                let error = cannot_remove(error);
                let kept = Kept { source: shown.source, directory };
                self.served.lock().insert(id, Served::failed(id, &kept, error.message.clone()));
                return Err(error);
            }
            _ => {}
        }
        let kept_aside = match force {
            Force::Never => Vec::new(),
            Force::Always => left_here(&directory),
        };
        // One that has failed may be none any more, and stays a plain directory.
        if let Err(refusal) = unregister(&directory) {
            tracing::warn!(mount = %id, %refusal, "the directory stays a sync root");
        }
        if let Err(error) = fs::remove_dir_all(&state) {
            // It is no mount any more, and the next daemon removes what is left.
            tracing::warn!(mount = %id, %error, "what is left of a mount stays");
        }
        let dir = shown.dir;
        Ok(Some(RemovedMount { id, dir, kept_aside }))
    }

    /// Ends all, and has no more made. On failure the daemon goes on. What was not sent is returned.
    pub(super) fn stop(&self, fate: Fate, force: Force) -> Result<Vec<ByteString>, ErrorObject> {
        let mut is_ending = self.making.lock();
        let removed = match fate {
            Fate::Unmounted => self.remove(&Target::All, force)?,
            Fate::Left => {
                self.leave();
                Vec::new()
            }
        };
        *is_ending = true;
        Ok(removed.into_iter().flat_map(|mount| mount.kept_aside).collect())
    }

    /// Ends all threads, and takes no mount away.
    fn leave(&self) {
        std::mem::take(&mut *self.served.lock()).into_values().for_each(end);
    }

    /// All mounts, in the order of their ids.
    pub(super) fn all(&self) -> Vec<status::Mount> {
        self.served.lock().values().map(|mount| mount.shown.lock().clone()).collect()
    }

    fn start(&self, id: MountId, kept: &Kept, waiting: Option<Waiting>) -> Result<Served, ErrorObject> {
        let ssh = Ssh::new(target_of(&kept.source)?);
        let shown: Shown = Arc::new(Mutex::new(shown(id, kept)));
        let stop = Arc::new(Stop::default());
        let Source::Files { path, .. } = &kept.source else {
            return Err(usage(format!("`{}` is no directory of a machine", kept.source)));
        };
        let options = Options {
            directory: kept.directory.clone(),
            database: self.paths.mount_state_dir(id).join("replica.db"),
            host: std::env::var("COMPUTERNAME").unwrap_or_else(|_| "windows".to_owned()),
            path: path.as_bytes().to_vec(),
            dial: Arc::new(move || ssh.dial()),
        };
        let (serves, ends) = (Arc::clone(&shown), Arc::clone(&stop));
        let is_registered = Arc::<AtomicBool>::default();
        let registers = Arc::clone(&is_registered);
        let thread = std::thread::Builder::new()
            .name(format!("stead-{id}"))
            .spawn(move || {
                let over = Over(&ends);
                keep(&options, over.0, &serves, &registers, waiting);
            })
            .map_err(|error| failure(format!("could not start a thread: {error}")))?;
        Ok(Served { directory: kept.directory.clone(), shown, stop, is_registered, thread: Some(thread) })
    }

    /// A number that no mount had. What is written down may have been lost, or a mount's directory.
    fn next_id(&self) -> io::Result<MountId> {
        let states = self.paths.mount_states_dir();
        let file = states.join("last");
        let written = match fs::read_to_string(&file) {
            Ok(text) => text.trim().parse::<u64>().unwrap_or_else(|error| {
                tracing::warn!(%error, "the last mount's number is not known");
                0
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(error) => return Err(error),
        };
        let mut last = written;
        for entry in fs::read_dir(&states)? {
            let name = entry?.file_name();
            let id = name.to_str().and_then(|name| name.parse::<MountId>().ok());
            last = last.max(id.map_or(0, MountId::number));
        }
        replace(&file, (last + 1).to_string().as_bytes())?;
        Ok(MountId::new(last + 1))
    }

    fn check_is_free(&self, directory: &Path) -> Result<(), ErrorObject> {
        let wanted = key(directory);
        let served = self.served.lock();
        let taken = served.values().find(|mount| {
            let other = key(&mount.directory);
            wanted.starts_with(&other) || other.starts_with(&wanted)
        });
        match taken {
            None => Ok(()),
            Some(mount) => {
                let (wanted, other) = (directory.display(), mount.directory.display());
                let message = format!("`{wanted}` and the mount `{other}` would be inside one another");
                Err(ErrorObject::new(ErrorKind::Conflict, message))
            }
        }
    }
}

/// Serves until it is stopped, again and again while the machine is not reached. A first time that fails is the last.
fn keep(
    options: &Options,
    stop: &Stop,
    shown: &Mutex<status::Mount>,
    is_registered: &AtomicBool,
    mut waiting: Option<Waiting>,
) {
    let tell = |state, reason: Option<String>| {
        let mut shown = shown.lock();
        (shown.status, shown.reason) = (state, reason);
    };
    loop {
        let outcome = serve(options, stop, |stage| {
            if stage == Stage::Registered {
                return is_registered.store(true, Ordering::SeqCst);
            }
            tell(status::MountStatus::Active, None);
            if let Some(waiting) = waiting.take() {
                // Whoever waits is told once, and there is room for it.
                let _ = waiting.send(Ok(()));
            }
        });
        let error = match outcome {
            Ok(()) => return,
            Err(error) => error,
        };
        if let Some(waiting) = waiting.take() {
            let _ = waiting.send(Err(refusal(&error)));
            return;
        }
        let reason = error.to_string();
        stop.tell(&Err(reason.clone()));
        tracing::warn!(directory = %options.directory.display(), reason, "a mount does not serve");
        if !matches!(error, ServeError::Line(LineError::Lost(_))) {
            tell(status::MountStatus::Failed { reason }, None);
            return;
        }
        tell(status::MountStatus::Disconnected, Some(reason));
        if stop.wait(AGAIN) {
            return;
        }
    }
}

fn end(served: Served) {
    served.stop.set();
    // A thread that has panicked has ended.
    let _ = served.thread.map(JoinHandle::join);
}

/// Writes a file as a whole: whoever reads it has what was there before, or this.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let beside = path.with_extension("new");
    let mut file = fs::File::create(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    drop(file);
    fs::rename(&beside, path)
}

/// What was changed here and is not on the machine. All of it, where that cannot be known.
fn left_here(directory: &Path) -> Vec<ByteString> {
    let left = unsent(directory).unwrap_or_else(|refusal| {
        tracing::warn!(directory = %directory.display(), %refusal, "what was not sent is not known");
        vec![directory.to_owned()]
    });
    left.iter().map(|path| ByteString::from(path.to_string_lossy().into_owned())).collect()
}

fn unsent_remains(id: MountId, why: &str) -> ErrorObject {
    let message = format!("{id} stays: what was changed in it may not be on the machine: {why}");
    ErrorObject::new(ErrorKind::Conflict, message).with_hint(format!("stead unmount --force {id}"))
}

/// What is refused here before anything is done.
fn check(request: &Create) -> Result<(), ErrorObject> {
    match request.backend {
        Backend::Auto | Backend::CloudFiles => {}
        Backend::Fuse | Backend::Nfs => {
            return Err(usage(format!("{} does not exist on Windows: here cloud-files", request.backend)));
        }
        Backend::FileProvider => return Err(usage("file-provider is for macOS: here cloud-files")),
    }
    if request.access == Access::ReadOnly {
        return Err(usage("cloud-files cannot refuse changes: mount without --read-only"));
    }
    if request.sync == SyncMode::Strict {
        return Err(usage("cloud-files sends files once they are closed: there is no `strict`"));
    }
    match request.options.keys().next() {
        Some(option) => Err(usage(format!("cloud-files has no option `{}`", option.escape_debug()))),
        None => Ok(()),
    }
}

fn target_of(source: &Source) -> Result<SshTarget, ErrorObject> {
    match source {
        Source::Files { machine: Machine::Ssh(target), .. } => Ok(target.clone()),
        other => Err(usage(format!("`{other}` cannot be mounted on Windows: it has ssh:// machines alone"))),
    }
}

fn directory(dir: Option<&ByteString>) -> Result<PathBuf, ErrorObject> {
    let dir = dir.ok_or_else(|| usage("the directory is missing: say where to mount"))?;
    let directory = PathBuf::from(text(dir)?);
    match directory.is_absolute() {
        true => Ok(directory),
        false => Err(usage(format!("`{}` is not an absolute path", directory.display()))),
    }
}

/// Whether it was made.
fn make_directory(directory: &Path) -> Result<bool, ErrorObject> {
    let shown = directory.display();
    match fs::read_dir(directory).map(|mut entries| entries.next().is_none()) {
        Ok(true) => Ok(false),
        Ok(false) => Err(ErrorObject::new(ErrorKind::Conflict, format!("`{shown}` is not empty"))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => fs::create_dir(directory)
            .map(|()| true)
            .map_err(|error| failure(format!("could not make `{shown}`: {error}"))),
        Err(error) => Err(failure(format!("could not look into `{shown}`: {error}"))),
    }
}

fn text(dir: &ByteString) -> Result<&str, ErrorObject> {
    std::str::from_utf8(dir.as_bytes()).map_err(|_| usage(format!("`{dir}` is not a path of Windows")))
}

/// What two names of one directory have in common, but for links.
fn key(directory: &Path) -> PathBuf {
    PathBuf::from(directory.to_string_lossy().to_lowercase())
}

fn shown(id: MountId, kept: &Kept) -> status::Mount {
    let dir = ByteString::from(kept.directory.to_string_lossy().into_owned());
    let status = status::MountStatus::Reconnecting;
    status::Mount::of_system(id, kept.source.clone(), dir, BackendName::CloudFiles, status)
}

/// Why it was not mounted.
fn refusal(error: &ServeError) -> ErrorObject {
    let kind = match error {
        ServeError::Line(LineError::Failed(failed)) if failed.errno.0 == ENOENT => ErrorKind::NotFound,
        ServeError::Line(LineError::Failed(_)) => ErrorKind::Refused,
        ServeError::Line(LineError::Lost(_)) => ErrorKind::Unreachable,
        ServeError::Folder { .. } | ServeError::Replica(_) | ServeError::Thread(_) => ErrorKind::Failure,
        ServeError::Another(_) => ErrorKind::Conflict,
    };
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}")).unwrap_or_default();
    ErrorObject::new(kind, format!("{error}{cause}"))
}

fn usage(message: impl Into<String>) -> ErrorObject {
    ErrorObject::new(ErrorKind::Usage, message)
}

fn failure(message: impl Into<String>) -> ErrorObject {
    ErrorObject::new(ErrorKind::Failure, message)
}
