//! The worker's side of its keeper.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::arguments::LIFE;
use super::{Channel, Inheritance, KeeperError, Kept, Orphan, Word, begin, system};
use crate::identity::Identity;
use crate::process::Process;
use crate::system;

/// How long it is waited before another keeper is tried when one could not be started, or has not lived for as long.
const RETRY: Duration = Duration::from_secs(1);

/// What a worker has to do with its keeper. When that is gone, [`mind`](Self::mind) starts another one, which is given
/// all that was handed over.
#[derive(Debug)]
pub struct Tether {
    directory: PathBuf,
    restarts: u32,
    control: OwnedFd,
    held: Mutex<Held>,
}

#[derive(Debug)]
struct Held {
    channel: Arc<Channel>,
    /// Duplicates of what the keeper has: for the next one.
    descriptors: Vec<Kept>,
    is_leaving: bool,
}

impl Tether {
    /// From what this worker was started with. Returns also its listening socket, and what was kept for it: nothing for
    /// the first of a mount.
    pub fn new(mut inheritance: Inheritance) -> Result<(Tether, OwnedFd, Vec<Kept>), KeeperError> {
        let missing = || system("find the sockets among the arguments")(io::ErrorKind::InvalidInput.into());
        let (channel, control) = inheritance.remove_sockets().ok_or_else(missing)?;
        let duplicated = |kept: &Kept| -> io::Result<Kept> {
            Ok(Kept { name: kept.name.clone(), descriptor: kept.descriptor.try_clone()? })
        };
        let descriptors: io::Result<Vec<Kept>> = inheritance.descriptors.iter().map(duplicated).collect();
        let descriptors = descriptors.map_err(system("duplicate a descriptor"))?;
        let channel = Channel::new(channel);
        let mut descriptors = descriptors;
        let shown = begin_life().and_then(|life| {
            let Some(life) = life else { return Ok(None) };
            channel.show_life(life.as_fd()).map(|()| Some(life))
        });
        match shown {
            Ok(None) => {}
            Ok(Some(life)) => descriptors.push(Kept { name: LIFE.to_owned(), descriptor: life }),
            Err(error) => {
                tracing::warn!(%error, "a worker that dies while it waits in the kernel is not replaced")
            }
        }
        let tether = Tether {
            directory: inheritance.directory,
            restarts: inheritance.restarts,
            control: control.try_clone().map_err(system("duplicate a descriptor"))?,
            held: Mutex::new(Held { channel: Arc::new(channel), descriptors, is_leaving: false }),
        };
        Ok((tether, control, inheritance.descriptors))
    }

    /// How many workers came before this one.
    pub fn restarts(&self) -> u32 {
        self.restarts
    }

    /// Gives descriptors to the keeper under a name. When this returns they outlive this process. They are held here
    /// too, as long as this lives.
    pub fn hand_over(&self, name: &str, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut held = self.held();
        for descriptor in descriptors {
            let descriptor = descriptor.try_clone_to_owned()?;
            held.descriptors.push(Kept { name: name.to_owned(), descriptor });
        }
        forgive_gone(held.channel.hand_over(name, descriptors))
    }

    /// Gives descriptors to the keeper for the next worker alone, in the place of those that it had under this name; without
    /// any, there are none from now on. They are not held here: a keeper that dies loses them.
    pub fn put_aside(&self, name: &str, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        forgive_gone(self.held().channel.put_aside(name, descriptors))
    }

    /// Whether there will be a successor when this worker dies.
    pub fn has_handed_over(&self) -> bool {
        self.held().descriptors.iter().any(|kept| kept.name != LIFE)
    }

    /// Says that this worker has made progress.
    pub fn progress(&self) {
        self.say(Word::Progress);
    }

    /// Says that this worker ends for good. Its keeper ends with it, and no other is started.
    pub fn leaving(&self) {
        self.held().is_leaving = true;
        self.say(Word::Leaving);
    }

    fn say(&self, word: Word) {
        if let Err(error) = forgive_gone(self.held().channel.say(word)) {
            tracing::error!(%error, ?word, "the keeper could not be told");
        }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts another keeper in the place of one that has died, as often as it takes. Returns when there is to be none:
    /// this worker leaves, or the mount was withdrawn. Needs a tokio runtime.
    pub async fn mind(&self) {
        loop {
            let since = Instant::now();
            let channel = Arc::clone(&self.held().channel);
            if let Err(error) = channel.lost().await {
                return tracing::error!(%error, "the keeper cannot be watched");
            }
            drop(channel);
            if since.elapsed() < RETRY {
                tokio::time::sleep(RETRY).await;
            }
            while !self.held().is_leaving {
                match self.begin_another() {
                    Ok(keeper) => {
                        tracing::warn!(pid = keeper.pid(), "the keeper was gone; there is another");
                        // Dropped, it is reaped all the same.
                        drop(keeper);
                        break;
                    }
                    Err(KeeperError::Plan { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                        return tracing::warn!("the keeper is gone, and the mount was withdrawn");
                    }
                    Err(error) => {
                        tracing::error!(error = %super::in_full(&error), "there is no keeper");
                        tokio::time::sleep(RETRY).await;
                    }
                }
            }
            if self.held().is_leaving {
                return;
            }
        }
    }

    fn begin_another(&self) -> Result<Process, KeeperError> {
        let mut held = self.held();
        let duplicate = |descriptor: BorrowedFd<'_>| {
            descriptor.try_clone_to_owned().map_err(system("duplicate a descriptor"))
        };
        let mut descriptors = Vec::new();
        for kept in &held.descriptors {
            let descriptor = duplicate(kept.descriptor.as_fd())?;
            descriptors.push(Kept { name: kept.name.clone(), descriptor });
        }
        let (channel, theirs) = Channel::pair().map_err(system("make a channel"))?;
        let orphan = Orphan {
            worker: Identity::own().map_err(io::Error::other).map_err(system("identify this process"))?,
            restarts: self.restarts,
            channel: theirs,
            control: duplicate(self.control.as_fd())?,
            descriptors,
        };
        let keeper = begin(&self.directory, Some(orphan))?.inherit_all_variables().spawn()?;
        held.channel = Arc::new(channel);
        Ok(keeper)
    }
}

/// Starts a thread that does nothing until the process ends, and names it. A process that is killed has ended for its
/// parent when its last thread has, and one that waits in the kernel for an answer of this very process ends only when a
/// successor has given it: so the end is seen by a thread that waits for nothing. None where the ends of threads cannot be seen.
fn begin_life() -> io::Result<Option<OwnedFd>> {
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::Builder::new().name("life".to_owned()).spawn(move || {
        // Who asked has failed by himself if he does not listen.
        let _told = tell.send(system::watch_this_thread());
        loop {
            std::thread::park();
        }
    })?;
    told.recv().map_err(io::Error::other)?
}

/// A keeper that is gone is replaced, and told again then.
fn forgive_gone(said: io::Result<()>) -> io::Result<()> {
    match said {
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset | io::ErrorKind::NotConnected
            ) =>
        {
            Ok(())
        }
        said => said,
    }
}
