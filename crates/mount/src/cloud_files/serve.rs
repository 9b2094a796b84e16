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
use vfs::replica::item::{Item, SideName};
use vfs::replica::names::NameRules;
use vfs::replica::side::Refusal;
use vfs::replica::{Outcome, Replica, ReplicaError, Retry};
use windows_sys::Win32::Storage::CloudFilters as cf;

use super::catalog::Catalog;
use super::here::{Folder, unsent};
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
    goodbye: Mutex<Goodbye>,
}

/// Who waits until a mount may end with nothing unsent.
#[derive(Debug)]
enum Goodbye {
    /// These; nobody at first.
    Awaited(Vec<SyncSender<Sent>>),
    /// There is nobody left to look.
    Over,
}

impl Default for Goodbye {
    fn default() -> Goodbye {
        Goodbye::Awaited(Vec::new())
    }
}

/// Whether all that was changed here is on the machine, or why that is not so.
pub type Sent = Result<(), String>;

impl Stop {
    /// Has the mount end once all that was changed here is on the machine. Who waits is told when it ends, or why it goes on; nothing
    /// is told once [nobody serves it](Stop::over).
    pub fn once_sent(&self) -> Receiver<Sent> {
        let (tell, told) = sync_channel(1);
        if let Goodbye::Awaited(waiting) = &mut *self.goodbye.lock() {
            waiting.push(tell);
        }
        self.ring();
        told
    }

    /// Tells all who wait for [`once_sent`](Stop::once_sent).
    pub fn tell(&self, sent: &Sent) {
        if let Goodbye::Awaited(waiting) = &mut *self.goodbye.lock() {
            for who in waiting.drain(..) {
                // Whoever has gone need not know.
                let _ = who.send(sent.clone());
            }
        }
    }

    /// Nobody serves the mount from now on.
    pub fn over(&self) {
        *self.goodbye.lock() = Goodbye::Over;
    }

    fn is_awaited(&self) -> bool {
        matches!(&*self.goodbye.lock(), Goodbye::Awaited(waiting) if !waiting.is_empty())
    }

    /// The mount ends when it has done what it is at. It cannot be taken back.
    pub fn set(&self) {
        self.is_set.store(true, Ordering::SeqCst);
        self.ring();
    }

    fn ring(&self) {
        if let Some(bell) = &*self.bell.lock() {
            // A bell that rings already wakes it as well.
            let _ = bell.try_send(());
        }
    }

    /// Whether it is.
    pub fn is_set(&self) -> bool {
        self.is_set.load(Ordering::SeqCst)
    }

    /// Waits until it is set, or is to be once all is sent, at most for so long; whether it is set.
    pub fn wait(&self, at_most: Duration) -> bool {
        let (bell, rung) = sync_channel(1);
        self.rings(bell);
        if !self.is_set() && !self.is_awaited() {
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

/// How far a mount has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The directory is a sync root.
    Registered,
    /// Programs are answered.
    Serves,
}

/// Keeps both sides the same until `stop` is set, or [all is sent](Stop::once_sent) and that is wanted; its threads end then. `reached` is called at each stage. A machine that is not
/// reached at first leaves the directory as it was. The directory is a sync root afterwards too; see
/// [`unregister`](super::root::unregister).
pub fn serve(options: &Options, stop: &Stop, mut reached: impl FnMut(Stage)) -> Result<(), ServeError> {
    let folder_error = |refusal| ServeError::Folder { path: options.directory.clone(), refusal };
    let mut far = Far::attach((options.dial)()?, &options.path)?;
    register(&options.directory, &options.path).map_err(folder_error)?;
    reached(Stage::Registered);
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
    reached(Stage::Serves);
    it.run(&bell, stop)
}

/// How both sides are after a while of bringing them together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// The same, but for what was refused.
    Settled,
    /// Not the same yet: they change meanwhile, one cannot be looked at, or the mount is to end.
    Moving,
    /// The machine is not there.
    Cut,
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
            let is_awaited = stop.is_awaited();
            if is_awaited {
                // What was refused may be possible now.
                self.replica.try_again()?;
            }
            let standing = self.settle(stop)?;
            if is_awaited {
                let sent = self.sent(standing)?;
                stop.tell(&sent);
                if sent.is_ok() {
                    return Ok(());
                }
            }
            let is_reached = standing != Standing::Cut;
            let wait = if is_reached {
                self.connection.report(cf::CF_PROVIDER_STATUS_IDLE);
                self.transfers.pin(self.folder.take_pins());
                if self.replica.refused()?.is_empty() { LOOK_AGAIN } else { TRY_AGAIN }
            } else {
                self.connection.report(cf::CF_PROVIDER_STATUS_DISCONNECTED);
                self.retry.cut(random())
            };
            match bell.recv_timeout(wait) {
                _ if stop.is_awaited() => {}
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

    /// Whether all that was changed here is on the machine, after it was tried to bring both sides together.
    fn sent(&mut self, standing: Standing) -> Result<Sent, ServeError> {
        match standing {
            Standing::Settled => {}
            Standing::Cut => return Ok(Err("the machine is not reached".to_owned())),
            Standing::Moving => return Ok(Err("both sides still differ".to_owned())),
        }
        // What is on the machine alone, and cannot be here, was never changed here.
        let is_ours = |item: &Item| item.here.is_some() || item.agreed.is_some();
        let refused = self.replica.refused()?.into_iter().find(is_ours);
        if let Some(why) = refused.and_then(|item| item.refused) {
            return Ok(Err(why));
        }
        Ok(match unsent(&self.options.directory) {
            Err(refusal) => Err(refusal.to_string()),
            Ok(unsent) => match unsent.first() {
                None => Ok(()),
                Some(path) => Err(format!("`{}` is not sent", path.display())),
            },
        })
    }

    /// Brings both sides together, as far as that can be done now.
    fn settle(&mut self, stop: &Stop) -> Result<Standing, ServeError> {
        for _ in 0..LOOKS_MAX {
            let here = self.replica.look(SideName::Here, &mut self.folder)?;
            let looked = match here {
                Ok(()) => self.replica.look(SideName::There, &mut self.far)?,
                refused => refused,
            };
            self.catalog.lock().follow(&mut self.replica)?;
            match looked {
                Ok(()) => {}
                Err(Refusal::Cut) => return Ok(Standing::Cut),
                Err(Refusal::Changed) => continue,
                Err(Refusal::Refused(why)) => {
                    tracing::warn!(why, "a tree cannot be looked at");
                    return Ok(Standing::Moving);
                }
            }
            self.retry.reached();
            match self.step(stop)? {
                Outcome::Settled => return Ok(Standing::Settled),
                Outcome::Cut => return Ok(Standing::Cut),
                Outcome::Stepped | Outcome::LookAgain => {}
            }
            if stop.is_set() {
                return Ok(Standing::Moving);
            }
        }
        Ok(Standing::Moving)
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
