//! A mount: a directory of this computer and one of a machine, kept the same for as long as it runs.
//!
//! ```text
//!  Windows ── callbacks ──► desk ──► transfers (4 threads, each with a line of its own) ──► machine
//!  this directory's changes ──┐
//!  the machine's changes ─────┴► bell ──► one thread: look at both sides, step until nothing differs ──► machine
//! ```
//!
//! Where a line is lost, those who wait for bytes are told so at once, and the thread of the bell tries again later and later.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use vfs::replica::item::SideName;
use vfs::replica::names::NameRules;
use vfs::replica::side::Refusal;
use vfs::replica::{Outcome, Replica, ReplicaError, Retry};
use windows_sys::Win32::Storage::CloudFilters as cf;

use super::catalog::Catalog;
use super::here::Folder;
use super::root::{Connection, Desk, REQUESTS_MAX, register};
use super::transfer::Transfers;
use super::watch;
use crate::far::{Far, LineError, StreamLine};

/// Opens a line to the machine's agent. It gives up, and the line ends, when the machine does not answer for half a minute: Windows
/// waits for a minute. The line says how it is [ended](StreamLine::ended_by): else the thread that hears of the machine's changes
/// stays when a mount ends.
pub type Dial = Arc<dyn Fn() -> Result<StreamLine, LineError> + Send + Sync>;

/// What is to be mounted.
pub struct Options {
    /// The directory here. It must be there, on NTFS.
    pub directory: PathBuf,
    /// Where what is known of both sides is kept; not in the directory.
    pub database: PathBuf,
    /// What conflicting copies are named for.
    pub host: String,
    /// The directory on the machine.
    pub path: Vec<u8>,
    /// How the machine is reached.
    pub dial: Dial,
}

/// A mount cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Windows, or the directory.
    #[error("`{}` cannot be kept the same: {refusal}", path.display())]
    Folder {
        /// The directory here.
        path: PathBuf,
        /// Why.
        refusal: Refusal,
    },
    /// The machine.
    #[error("could not reach the machine")]
    Line(#[from] LineError),
    /// What is known of both sides.
    #[error(transparent)]
    Replica(#[from] ReplicaError),
    /// It would be taken for removed, all of it.
    #[error("the {0} is another directory than before; mount it again, elsewhere or with another name")]
    Another(&'static str),
    /// Threads.
    #[error("could not start a thread")]
    Thread(#[from] std::io::Error),
}

/// Ends a mount, from whatever thread.
#[derive(Debug, Default)]
pub struct Stop {
    is_set: AtomicBool,
    bell: Mutex<Option<SyncSender<()>>>,
}

impl Stop {
    /// The mount ends when it has done what it is at. It cannot be taken back.
    pub fn set(&self) {
        self.is_set.store(true, Ordering::SeqCst);
        if let Some(bell) = &*self.bell.lock() {
            // A bell that rings already wakes it as well.
            let _ = bell.try_send(());
        }
    }

    /// Whether it is.
    pub fn is_set(&self) -> bool {
        self.is_set.load(Ordering::SeqCst)
    }

    /// Waits until it is set, at most for so long; whether it is.
    pub fn wait(&self, at_most: Duration) -> bool {
        let (bell, rung) = sync_channel(1);
        self.rings(bell);
        if !self.is_set() {
            // Rung, or the time is over: what counts is looked at below.
            let _ = rung.recv_timeout(at_most);
        }
        self.is_set()
    }

    /// What is to be rung. Whoever has set it before is heard too: it is looked at after this.
    fn rings(&self, bell: SyncSender<()>) {
        *self.bell.lock() = Some(bell);
    }
}

/// How long to gather changes: programs make several at once.
const GATHER: Duration = Duration::from_millis(200);

/// The longest that changes are gathered, where somebody never stops.
const GATHER_MAX: Duration = Duration::from_secs(2);

/// Everything is looked at again after this, whatever has rung: a watch may have missed something.
const LOOK_AGAIN: Duration = Duration::from_secs(300);

/// What was refused, as files that were in use, is tried again after this.
const TRY_AGAIN: Duration = Duration::from_secs(30);

/// Steps before it is looked again whether the mount is to end.
const STEPS_AT_ONCE: usize = 64;

/// Looks in a row that may find something else than expected, before others are left alone for a while.
const LOOKS_MAX: usize = 16;

/// What those who fetch share with the one who steps.
pub(super) type SharedCatalog = Arc<Mutex<Catalog>>;

/// Keeps both sides the same until `stop` is set; its threads end then. `serves` is called once programs are answered. A machine that is not
/// reached at first leaves the directory as it was. The directory is a sync root afterwards too; see
/// [`unregister`](super::root::unregister).
pub fn serve(options: &Options, stop: &Stop, serves: impl FnOnce()) -> Result<(), ServeError> {
    let folder_error = |refusal| ServeError::Folder { path: options.directory.clone(), refusal };
    let mut far = Far::attach((options.dial)()?, &options.path)?;
    register(&options.directory, &options.path).map_err(folder_error)?;
    let folder = Folder::open(&options.directory).map_err(folder_error)?;
    let mut replica = Replica::open(&options.database, NameRules::Windows, &options.host)?;
    if replica.set_root(SideName::Here, folder.identity().clone())? {
        return Err(ServeError::Another("directory here"));
    }
    if replica.set_root(SideName::There, far.root().clone())? {
        return Err(ServeError::Another("directory on the machine"));
    }
    far.learn(&mut replica)?;
    let catalog = SharedCatalog::default();
    catalog.lock().follow(&mut replica)?;
    let (requests, asked) = sync_channel(REQUESTS_MAX);
    let (changed, bell) = sync_channel(1);
    let desk = Desk::new(requests, changed.clone());
    stop.rings(changed.clone());
    let transfers = Transfers::start(asked, &desk, &catalog, options)?;
    let _here = watch::here(&options.directory, changed.clone())?;
    let _there = watch::there(Arc::clone(&options.dial), options.path.clone(), changed)?;
    let connection = Connection::open(&options.directory, &desk).map_err(folder_error)?;
    let mut it =
        Mount { replica, folder, far, catalog, connection, transfers, options, retry: Retry::default() };
    serves();
    it.run(&bell, stop)
}

struct Mount<'a> {
    replica: Replica,
    folder: Folder,
    far: Far<StreamLine>,
    catalog: SharedCatalog,
    connection: Connection,
    transfers: Transfers,
    options: &'a Options,
    retry: Retry,
}

impl Mount<'_> {
    fn run(&mut self, bell: &Receiver<()>, stop: &Stop) -> Result<(), ServeError> {
        let mut tried = Instant::now();
        while !stop.is_set() {
            self.connection.report(cf::CF_PROVIDER_STATUS_SYNC_INCREMENTAL);
            let is_reached = self.settle(stop)?;
            let wait = if is_reached {
                self.connection.report(cf::CF_PROVIDER_STATUS_IDLE);
                self.transfers.pin(self.folder.take_pins());
                if self.replica.refused()?.is_empty() { LOOK_AGAIN } else { TRY_AGAIN }
            } else {
                self.connection.report(cf::CF_PROVIDER_STATUS_DISCONNECTED);
                self.retry.cut(random())
            };
            match bell.recv_timeout(wait) {
                Ok(()) => gather(bell),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
            }
            if tried.elapsed() >= TRY_AGAIN {
                self.replica.try_again()?;
                tried = Instant::now();
            }
            if !is_reached {
                self.reconnect()?;
            }
        }
        Ok(())
    }

    /// Whether both sides are the same now, but for what was refused; `false` if the machine is not there.
    fn settle(&mut self, stop: &Stop) -> Result<bool, ServeError> {
        for _ in 0..LOOKS_MAX {
            let here = self.replica.look(SideName::Here, &mut self.folder)?;
            let looked = match here {
                Ok(()) => self.replica.look(SideName::There, &mut self.far)?,
                refused => refused,
            };
            self.catalog.lock().follow(&mut self.replica)?;
            match looked {
                Ok(()) => {}
                Err(Refusal::Cut) => return Ok(false),
                Err(Refusal::Changed) => continue,
                Err(Refusal::Refused(why)) => {
                    tracing::warn!(why, "a tree cannot be looked at");
                    return Ok(true);
                }
            }
            self.retry.reached();
            match self.step(stop)? {
                Outcome::Settled => return Ok(true),
                Outcome::Cut => return Ok(false),
                Outcome::Stepped | Outcome::LookAgain => {}
            }
            if stop.is_set() {
                return Ok(true);
            }
        }
        Ok(true)
    }

    fn step(&mut self, stop: &Stop) -> Result<Outcome, ServeError> {
        loop {
            for _ in 0..STEPS_AT_ONCE {
                let outcome = self.replica.step(&mut self.folder, &mut self.far)?;
                self.catalog.lock().follow(&mut self.replica)?;
                if outcome != Outcome::Stepped {
                    return Ok(outcome);
                }
            }
            if stop.is_set() {
                return Ok(Outcome::Stepped);
            }
        }
    }

    /// Goes on with another line, if there is one.
    fn reconnect(&mut self) -> Result<(), ServeError> {
        let attached = (self.options.dial)().and_then(|line| self.far.go_on_with(line));
        match attached {
            Ok(true) => Ok(()),
            Ok(false) => Err(ServeError::Another("directory on the machine")),
            Err(error) => {
                tracing::info!(%error, "the machine is still away");
                Ok(())
            }
        }
    }
}

/// Waits until nothing rings any more, or for as long as anybody may be kept waiting.
fn gather(bell: &Receiver<()>) {
    let begun = Instant::now();
    while begun.elapsed() < GATHER_MAX && bell.recv_timeout(GATHER).is_ok() {}
}

/// So that not all come back at once.
fn random() -> u32 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(0) as u32
}

/// A thread with a name, for whoever looks at the process.
pub(super) fn thread(name: &str, run: impl FnOnce() + Send + 'static) -> std::io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name.to_owned()).spawn(run)
}
