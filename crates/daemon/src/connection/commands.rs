//! The sessions that commands run in: one for each machine, which begins with the first command, and goes on from one link
//! to the next.
//!
//! ```text
//!  none ──a command──► begun ──the last who has it goes──► goodbye ──► none
//!                        ▲  │ a detached process                  │
//!                        │  ▼                                     ▼
//!                        └─ noted ◄──── the agent keeps it for the detached process
//! ```
//!
//! A session with a detached process is noted in the database, and whoever begins the commands of that machine next, in this
//! life of the daemon or in another one, goes on with it. Each of them is a *life* of the session: what it gives names and
//! numbers to, it counts from its life on, so that no two of them give the same.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use remote::client::relink::{RelinkOptions, Resumption, SessionMark};
use remote::client::{AgentClient, NoEvents};
use remote::link::Policy;
use remote::transport::host::HostOptions;
use remote::{OpenError, WorkerDialer};
use wire::agent::Sequence;
use wire::agent::process::ProcessId;
use wire::api::ErrorObject;
use wire::api::machine::Machine;
use wire::hello::SessionId;
use wire::worker::Dial;

use crate::database::{Database, SessionRow};
use crate::failure::failure;

/// What a session gives names and numbers to in one life, as a power of two. Each life reserves 2^16 numbers at once.
const LIFE_BITS: u32 = 32;

/// How long the session of the commands may take to be reached for its end, when its own stream was lost.
const END_TIMEOUT: Duration = Duration::from_secs(2);

/// A session in which commands run. It ends with the last of those who have it, but for its detached processes.
#[derive(Debug)]
pub struct CommandSession {
    /// Speaks with the agent.
    pub client: AgentClient,
    machine: Machine,
    life: u32,
    database: Database,
}

impl CommandSession {
    /// A name for a process that nobody in this session has had.
    pub fn new_process(&self) -> ProcessId {
        ProcessId((u64::from(self.life) << LIFE_BITS) + self.client.new_process().0)
    }

    /// Has the session found again in a later life: it has a detached process from now on.
    pub async fn note(&self) -> Result<(), ErrorObject> {
        let session = self.client.peer().session;
        let row = SessionRow { machine: self.machine.clone(), session: session.to_string(), life: self.life };
        self.database.put_session(row).await.map_err(|error| failure(&error))
    }
}

/// The session of one machine, as long as somebody has it. Locked while it is begun.
type Slot = Arc<tokio::sync::Mutex<Weak<CommandSession>>>;

/// The sessions of all machines that are reached in one way.
#[derive(Debug, Clone)]
pub struct CommandSessions {
    database: Database,
    slots: Arc<Mutex<BTreeMap<Machine, Slot>>>,
}

impl CommandSessions {
    /// With what was noted in this database.
    pub fn new(database: Database) -> CommandSessions {
        CommandSessions { database, slots: Arc::default() }
    }

    /// What a new link has of its machine's session.
    pub fn of_link(&self, machine: &Machine) -> LinkCommands {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        // Whoever has one elsewhere may be about to use it.
        slots.retain(|_, slot| Arc::strong_count(slot) > 1);
        let slot = Arc::clone(slots.entry(machine.clone()).or_default());
        // Commands of the last link go on with this one, which is to end them if it is to be the last.
        let held = slot.try_lock().ok().and_then(|session| session.upgrade());
        held.iter().for_each(|commands| commands.client.reconnect());
        LinkCommands {
            machine: machine.clone(),
            database: self.database.clone(),
            slot,
            held: Mutex::new(held),
            is_last: AtomicBool::new(false),
        }
    }
}

/// What one link has of its machine's session.
pub struct LinkCommands {
    machine: Machine,
    database: Database,
    slot: Slot,
    /// Keeps the session from one command to the next.
    held: Mutex<Option<Arc<CommandSession>>>,
    is_last: AtomicBool,
}

impl LinkCommands {
    /// The session, which is begun if there is none: so, and to wait as long while the machine is away as the machine keeps
    /// it then.
    pub async fn session(
        &self,
        (dial, agent): (Dial, HostOptions),
        policy: Policy,
        kept: Duration,
    ) -> Result<Arc<CommandSession>, OpenError> {
        let mut slot = self.slot.lock().await;
        let session = match slot.upgrade().filter(|session| !session.client.is_lost()) {
            Some(session) => session,
            None => {
                let seconds = u32::try_from(kept.as_secs()).unwrap_or(u32::MAX);
                let dialer = WorkerDialer::new(dial, agent, seconds);
                Arc::new(self.begin(dialer, policy, kept).await?)
            }
        };
        *slot = Arc::downgrade(&session);
        *self.held.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&session));
        Ok(session)
    }

    async fn begin(
        &self,
        dialer: WorkerDialer,
        policy: Policy,
        offline_timeout: Duration,
    ) -> Result<CommandSession, OpenError> {
        let noted = self.noted().await;
        let wanted = noted.as_ref().map(|(session, _)| *session).unwrap_or_default();
        let first = dialer.reach(wanted).await?;
        let is_kept = wanted != SessionId::default() && first.stream.peer().session == wanted;
        let life = match noted {
            Some((_, life)) if is_kept => life.wrapping_add(1),
            _ => 0,
        };
        let row = SessionRow { machine: self.machine.clone(), session: wanted.to_string(), life };
        let written = match (is_kept, wanted == SessionId::default()) {
            (true, _) => self.database.put_session(row).await,
            // It is gone, with the processes that were in it.
            (false, false) => self.database.remove_session(self.machine.clone()).await,
            (false, true) => Ok(()),
        };
        if let Err(error) = written {
            tracing::error!(machine = %self.machine, %error, "the session of the commands was not noted");
        }
        let resumption = is_kept.then(|| Resumption {
            mark: SessionMark { session: wanted, ..SessionMark::default() },
            watermark: Sequence(u64::from(life) << LIFE_BITS),
            ..Resumption::default()
        });
        let options = RelinkOptions { policy, offline_timeout, heartbeat: RelinkOptions::HEARTBEAT };
        let client =
            AgentClient::lasting(Some(first), Arc::new(dialer), options, resumption, Arc::new(NoEvents));
        Ok(CommandSession { client, machine: self.machine.clone(), life, database: self.database.clone() })
    }

    /// The session that was noted, and its last life.
    async fn noted(&self) -> Option<(SessionId, u32)> {
        let row = match self.database.session(self.machine.clone()).await {
            Ok(row) => row?,
            Err(error) => {
                tracing::error!(machine = %self.machine, %error, "it is not known which session commands had");
                return None;
            }
        };
        Some((row.session.parse().ok()?, row.life))
    }

    /// No other link will go on with the session.
    pub fn be_last(&self) {
        self.is_last.store(true, Ordering::Relaxed);
    }

    /// The link closes. Commands that still run have the session too, and go on with it, unless this is the last link.
    pub async fn close(&self) {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner).take();
        if self.is_last.load(Ordering::Relaxed) {
            // Whoever has it locked begins it, and will find no link.
            let session = self.slot.try_lock().ok().and_then(|session| session.upgrade());
            if let Some(session) = session {
                end(&session.client).await;
            }
        }
        drop(held);
    }
}

/// Ends what runs in the session, but for what is detached.
async fn end(commands: &AgentClient) {
    if commands.away().is_some() {
        commands.reconnect();
        // Answered when there is a stream again; that there is none is seen when they are told.
        drop(tokio::time::timeout(END_TIMEOUT, commands.describe()).await);
    }
    if !commands.goodbye().await {
        tracing::warn!("commands could not be ended, and are hung up when nobody has come for them");
    }
}
