//! A client that survives its links.
//!
//! ```text
//!            ┌────────────────────── stream lost ──────────────────────┐
//!            ▼                                                         │
//!  dial ─► hello ─┬─ the same session ──────────────────────┬─► send what has no answer ─► linked
//!    ▲            └─ another: export, open, lock, settle ───┘
//!    └── failed: wait as the policy says
//! ```
//!
//! The agent keeps the session when its stream is gone. A task of the client gets another stream and names the session;
//! what has no answer is sent again, mutations under the numbers they had, so that each is carried out once. An agent
//! that has lost the session, because it was killed or its machine was started anew, is first given everything that the
//! session held; then what may or may not have been carried out is settled by [rules](super::repeat).
//!
//! While there is no stream, requests wait: until [`RelinkOptions::offline_timeout`] after the stream was lost, and those
//! of a [patient](AgentClient::patient) client for as long as streams are tried. Then they fail, and so does what comes
//! later, at once, until there is a stream again. A request that is dropped while it waits is not sent. What such requests
//! leave to be given back (files and locks that they may have got, and those that they were to give back) is given back
//! on the next stream, before anybody may ask for it again.
//!
//! When a stream is tried again is decided by [`crate::link`].

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use wire::agent::Sequence;
use wire::hello::{Hello, SessionId};

use super::asleep;
use super::held::{Export, Held, HeldFile};
use super::pending::Patience;
use super::recover::{RecoverError, give_back, hold_again, settle_doubts};
use super::sequence::Sequences;
use super::session::{Session, Standing};
use super::{AgentClient, EventSink, Heartbeat, Introduced, LinkLost};
use crate::link::{self, Action, Circumstances, Hindrance, Policy};
use crate::transport::Program;

pub use super::recover::Losses;

/// How long a stream may take to be got and the session to be recovered over it, before another is tried.
const LINK_TIMEOUT: Duration = Duration::from_secs(120);

/// How often it is looked whether the computer was asleep.
const SLEEP_CHECK: Duration = Duration::from_secs(5);

/// A clock that stood still for so long means that the computer was asleep.
const SLEEP_MIN: Duration = Duration::from_secs(2);

/// Heartbeats come no closer than this, so that a link does nothing else beside.
const HEARTBEAT_INTERVAL_MIN: Duration = Duration::from_millis(100);

/// An answer is waited for so long at least, however close heartbeats come: a machine may be so far.
const HEARTBEAT_PATIENCE_MIN: Duration = Duration::from_millis(500);

/// A boxed future.
pub type Later<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Gets streams to one machine's agent.
pub trait Dialer: Send + Sync + 'static {
    /// Tries once. The agent is asked for this session; zeros ask for a new one.
    fn dial(&self, session: SessionId) -> Later<Result<Dialed, DialFailed>>;

    /// Waits for a sign that a try would now do better than the last one.
    fn sign(&self) -> Later<()> {
        Box::pin(std::future::pending())
    }
}

/// A stream that was got.
pub struct Dialed {
    /// The stream.
    pub stream: Introduced,
    /// The child of this process that carries it, if there is one; dismissed with the stream. It is not the agent itself,
    /// which outlives its streams.
    pub carrier: Option<Program>,
}

impl std::fmt::Debug for Dialed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dialed")
            .field("stream", &self.stream)
            .field("carrier", &self.carrier.as_ref().map(Program::pid))
            .finish()
    }
}

/// A try that failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct DialFailed {
    /// As far as it decides what comes next.
    pub hindrance: Hindrance,
    /// For a person.
    pub why: String,
}

/// How a client goes on.
#[derive(Clone, Copy, Debug)]
pub struct RelinkOptions {
    /// When a lost stream is replaced.
    pub policy: Policy,
    /// How long after the loss of a stream requests wait for another.
    pub offline_timeout: Duration,
    /// How a dead stream is found.
    pub heartbeat: Heartbeat,
}

impl RelinkOptions {
    /// What [`RelinkOptions::offline_timeout`] is unless somebody says otherwise.
    pub const OFFLINE_TIMEOUT: Duration = Duration::from_secs(60);

    /// A dead stream is found within a quarter of a minute.
    pub const HEARTBEAT: Heartbeat = Heartbeat { interval: Duration::from_secs(5), failures_max: 3 };
}

/// Which session of the agent's it is, and how far it is the one that the client had.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionMark {
    /// The session.
    pub session: SessionId,
    /// Mutations with numbers up to here may have been carried out in a session that the agent has lost.
    pub in_doubt: Sequence,
    /// Whether what was held in that one is still to be had again in this one.
    pub unrecovered: bool,
}

/// What it takes to go on with a session from another process.
///
/// A process that may die at any moment keeps it up to date by what its [`EventSink`] is told: the mark by
/// [`EventSink::session_marked`], the watermark by [`EventSink::reserved`]. The numbers are those that it has set aside and
/// not settled.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resumption {
    /// The session.
    pub mark: SessionMark,
    /// Mutations have had numbers up to here at most.
    pub watermark: Sequence,
    /// Numbers that mutations may be sent under [again](AgentClient::with_sequence): the agent keeps their replies until
    /// they are [settled](AgentClient::settled).
    pub unanswered: Vec<Sequence>,
    /// What is exported.
    pub export: Option<Export>,
    /// What is open.
    pub files: Vec<HeldFile>,
}

/// What has become of a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// There is a stream, the first.
    Connected,
    /// It is gone, and another is being tried.
    Lost {
        /// Why.
        why: LinkLost,
    },
    /// A try failed, and another will be made.
    Reconnecting {
        /// Which, from 1.
        attempt: u32,
        /// When.
        next: Instant,
        /// Why the last one failed.
        why: DialFailed,
    },
    /// Requests fail from now on. Another stream is tried all the same.
    Offline {
        /// Why the stream was lost.
        why: LinkLost,
    },
    /// There is a stream again, and the agent had kept the session.
    Resumed,
    /// There is a stream again, and the agent had not kept the session.
    Replaced(Losses),
    /// No stream is tried any more, unless somebody [asks](AgentClient::reconnect) for it.
    GaveUp {
        /// Why, for a person.
        why: String,
    },
}

/// That there is no stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Away {
    /// Why the last one was lost.
    pub why: LinkLost,
    /// Whether requests fail at once.
    pub is_offline: bool,
}

pub(super) fn away(session: &Session) -> Option<Away> {
    let why = match &*session.standing().borrow() {
        Standing::Linked => return None,
        Standing::Away(why) | Standing::Over(why) => why.clone(),
    };
    Some(Away { why, is_offline: session.refuses(Patience::Some) })
}

impl AgentClient {
    /// A client that goes on with other streams when one is lost. `first` is a stream that the dialer has got; without
    /// one, the machine is away at first. With a `resumption` it goes on where another process has stopped.
    ///
    /// Must be called within a tokio runtime. `sink` may be called before this returns.
    pub fn lasting(
        first: Option<Dialed>,
        dialer: Arc<dyn Dialer>,
        options: RelinkOptions,
        resumption: Option<Resumption>,
        sink: Arc<dyn EventSink>,
    ) -> AgentClient {
        let Resumption { mark, watermark, unanswered, export, files } = resumption.unwrap_or_default();
        let held = Held::new(export, files);
        let sequences = Sequences::resume(watermark.0, mark.in_doubt.0, &unanswered);
        let session = Session::new(Hello::new(0, mark.session), Some(held), sequences, sink);
        if mark.unrecovered {
            session.unrecover();
        }
        session.start();
        let client = AgentClient::of(session.clone());
        tokio::spawn(heartbeats(session.clone(), options.heartbeat));
        tokio::spawn(Driver::new(session, dialer, options).run(first));
        client
    }

    /// Tries to get a stream now if there is none, and looks whether it is alive if there is one.
    pub fn reconnect(&self) {
        self.session.wished.notify_one();
    }

    /// Waits until there is no stream.
    pub async fn until_away(&self) {
        let mut standing = self.session.standing();
        // Nobody tells any more: there will be none.
        drop(standing.wait_for(|standing| *standing != Standing::Linked).await);
    }

    /// What it takes to go on from another process; `None` for a session that ends with its stream. Nothing is named as
    /// unanswered.
    pub fn resumption(&self) -> Option<Resumption> {
        let held = self.session.held()?.lock();
        Some(Resumption {
            mark: self.session.mark(self.session.peer().session),
            watermark: self.session.watermark(),
            unanswered: Vec::new(),
            export: held.export(),
            files: held.files(),
        })
    }
}

/// What a try has come to.
type Linked = Result<(Event, Option<Program>), DialFailed>;

/// The task that keeps a session linked.
struct Driver {
    session: Arc<Session>,
    dialer: Arc<dyn Dialer>,
    options: RelinkOptions,
    standing: watch::Receiver<Standing>,
    state: link::State,
    /// The try under way.
    dialing: Option<Later<Linked>>,
    /// Mutations in doubt that are being settled.
    settling: Option<Later<Result<(), LinkLost>>>,
    /// A sign that a try would do better.
    sign: Option<Later<()>>,
    wake_at: Option<Instant>,
    offline_at: Option<Instant>,
    /// Why the last stream was lost.
    lost: LinkLost,
    /// Why the last try failed.
    failed: Option<DialFailed>,
    /// Streams in a row that were lost before anything was answered.
    stillborn: u32,
    carrier: Option<Program>,
}

/// What can wake the task.
enum Woken {
    Standing,
    Dialed(Linked),
    Time,
    Offline,
    Wished,
    Settled,
    Doubted,
    SleptOrNot,
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment.into()).await,
        None => std::future::pending().await,
    }
}

async fn or_never<T>(future: &mut Option<Later<T>>) -> T {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

impl Driver {
    fn new(session: Arc<Session>, dialer: Arc<dyn Dialer>, options: RelinkOptions) -> Driver {
        let standing = session.standing();
        Driver {
            session,
            dialer,
            options,
            standing,
            state: link::State::Reconnecting { attempt: 1, next: None, hindrance: None },
            dialing: None,
            settling: None,
            sign: None,
            wake_at: None,
            offline_at: None,
            lost: LinkLost::Closed,
            failed: None,
            stillborn: 0,
            carrier: None,
        }
    }

    async fn run(mut self, first: Option<Dialed>) {
        self.dialing = Some(match first {
            Some(dialed) => Box::pin(link_up(self.session.clone(), dialed)),
            None => self.dial(),
        });
        self.offline_at = Some(now() + self.options.offline_timeout);
        let mut slept = asleep::so_far();
        let mut sleep_checks = tokio::time::interval(SLEEP_CHECK);
        sleep_checks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while !self.session.is_over() {
            let woken = tokio::select! {
                changed = self.standing.changed() => {
                    // The session outlives its own task.
                    drop(changed);
                    Woken::Standing
                }
                linked = or_never(&mut self.dialing) => Woken::Dialed(linked),
                () = at(self.wake_at) => Woken::Time,
                () = or_never(&mut self.sign) => Woken::Wished,
                () = at(self.offline_at) => Woken::Offline,
                () = self.session.wished.notified() => Woken::Wished,
                outcome = or_never(&mut self.settling) => {
                    if let Err(error) = outcome {
                        tracing::debug!(%error, "mutations in doubt wait for the next stream");
                    }
                    Woken::Settled
                }
                () = self.session.doubted.notified(), if self.may_settle() => Woken::Doubted,
                _ = sleep_checks.tick() => Woken::SleptOrNot,
            };
            match woken {
                Woken::Standing => {}
                Woken::Dialed(linked) => self.dialed(linked),
                Woken::Time => self.on(link::Event::TimeIsUp),
                Woken::Offline => self.go_offline(),
                Woken::Wished => self.wished(),
                Woken::Settled => self.settling = None,
                Woken::Doubted => self.settle(),
                Woken::SleptOrNot => {
                    let so_far = asleep::so_far();
                    if so_far > slept + SLEEP_MIN {
                        tracing::info!("the computer was asleep");
                        self.on(link::Event::WorldChanged);
                    }
                    slept = so_far;
                }
            }
            self.look_for_loss();
        }
    }

    /// Whether mutations in doubt can be settled now. Those that come while there is no stream are settled with the next.
    fn may_settle(&self) -> bool {
        self.settling.is_none() && self.state == link::State::Connected
    }

    fn settle(&mut self) {
        let session = self.session.clone();
        self.settling = Some(Box::pin(async move { settle_doubts(&session).await }));
    }

    fn dial(&self) -> Later<Linked> {
        let (session, dialer) = (self.session.clone(), self.dialer.clone());
        Box::pin(async move {
            let linking = async {
                let dialed = dialer.dial(session.peer().session).await?;
                link_up(session.clone(), dialed).await
            };
            match tokio::time::timeout(LINK_TIMEOUT, linking).await {
                Ok(linked) => linked,
                Err(_) => {
                    session.lose(None, LinkLost::Silent { missed: 0 });
                    let why = format!("nothing came of it within {} s", LINK_TIMEOUT.as_secs());
                    Err(DialFailed { hindrance: Hindrance::Passing, why })
                }
            }
        })
    }

    fn dialed(&mut self, linked: Linked) {
        self.dialing = None;
        let (event, carrier) = match linked {
            Ok(linked) => linked,
            Err(failed) => {
                tracing::debug!(why = %failed, "the machine was not reached");
                let hindrance = failed.hindrance;
                self.failed = Some(failed);
                return self.on(link::Event::Failed(hindrance));
            }
        };
        self.carrier = carrier;
        self.offline_at = None;
        self.failed = None;
        self.on(link::Event::Opened);
        tracing::info!(?event, "linked with the agent");
        self.session.sink().link_changed(&event);
    }

    fn look_for_loss(&mut self) {
        if self.state != link::State::Connected {
            return;
        }
        let Standing::Away(lost) = self.standing.borrow_and_update().clone() else { return };
        if self.session.is_parting() {
            return;
        }
        tracing::warn!(why = %lost, "the link with the agent is lost");
        // A stream that is lost before anything came of it is like a try that failed, when it is not the first: an idle
        // one may be lost at any time.
        let is_stillborn =
            !self.session.has_heard() || matches!(lost, LinkLost::Protocol(_) | LinkLost::Closing(_));
        self.stillborn = if is_stillborn { self.stillborn + 1 } else { 0 };
        self.lost = lost.clone();
        self.offline_at = Some(now() + self.options.offline_timeout);
        if self.options.policy.reconnect {
            self.session.sink().link_changed(&Event::Lost { why: lost.clone() });
        }
        match self.stillborn.saturating_sub(1) {
            0 => self.on(link::Event::Lost),
            times => {
                self.failed = Some(DialFailed { hindrance: Hindrance::Passing, why: lost.to_string() });
                self.on(link::Event::LostAtOnce { times });
            }
        }
    }

    fn wished(&mut self) {
        self.sign = None;
        match self.state {
            link::State::Disconnected => self.on(link::Event::Connect),
            _ => self.on(link::Event::WorldChanged),
        }
    }

    fn go_offline(&mut self) {
        self.offline_at = None;
        self.session.go_offline(&self.lost, false);
        self.session.sink().link_changed(&Event::Offline { why: self.lost.clone() });
    }

    fn on(&mut self, event: link::Event) {
        use std::hash::{BuildHasher, RandomState};
        let circumstances = Circumstances {
            now: now(),
            policy: &self.options.policy,
            needed: true,
            // The standard library keys each state at random.
            chance: RandomState::new().hash_one(0) as u32,
        };
        let (state, actions) = self.state.on(event, &circumstances);
        self.state = state;
        for action in actions {
            match action {
                Action::Dial { .. } => {
                    self.wake_at = None;
                    self.sign = None;
                    self.dialing = Some(self.dial());
                }
                Action::WakeAt(moment) => {
                    self.wake_at = Some(moment);
                    self.sign = Some(self.dialer.sign());
                }
                Action::Probe => self.session.probed.notify_one(),
                Action::Close => {
                    self.dialing = None;
                    // What is still in doubt is settled before anybody may use the next stream.
                    self.settling = None;
                    self.carrier = None;
                }
                Action::Announce => self.announce(),
            }
        }
    }

    fn announce(&mut self) {
        match self.state {
            link::State::Reconnecting { attempt, next: Some(next), .. } => {
                let Some(why) = self.failed.clone() else { return };
                self.session.sink().link_changed(&Event::Reconnecting { attempt, next, why });
            }
            link::State::Disconnected => {
                (self.wake_at, self.sign, self.offline_at) = (None, None, None);
                self.session.go_offline(&self.lost, true);
                let why = self.failed.as_ref().map_or_else(|| self.lost.to_string(), DialFailed::to_string);
                tracing::error!(why, "the machine is given up");
                self.session.sink().link_changed(&Event::GaveUp { why });
            }
            link::State::Connecting | link::State::Connected | link::State::Reconnecting { .. } => {}
        }
    }
}

/// Goes on with a stream: recovers what has to be, and lets everybody send.
async fn link_up(session: Arc<Session>, dialed: Dialed) -> Linked {
    let Dialed { stream, carrier } = dialed;
    let (asked, got) = (session.peer().session, stream.peer().session);
    let is_first = asked == SessionId::default();
    session.reader_ended().await;
    if !is_first {
        session.sink().leases_lost();
    }
    if !is_first && asked != got {
        session.replace();
    }
    if asked != got {
        session.sink().session_marked(&session.mark(got));
    }
    match recover(&session, stream).await {
        Ok(Some(losses)) => Ok((Event::Replaced(losses), carrier)),
        Ok(None) if is_first => Ok((Event::Connected, carrier)),
        Ok(None) => Ok((Event::Resumed, carrier)),
        Err(error) => {
            session.lose(None, LinkLost::Closed);
            Err(DialFailed { hindrance: Hindrance::Passing, why: error.to_string() })
        }
    }
}

/// What was lost, if the session is another.
async fn recover(session: &Arc<Session>, stream: Introduced) -> Result<Option<Losses>, RecoverError> {
    let lost = || LinkLost::Ended;
    let generation = session.attach(stream.halves).ok_or_else(lost)?;
    let losses = match session.is_unrecovered() {
        true => Some(hold_again(session).await?),
        false => None,
    };
    if !session.recovered() {
        session.sink().session_marked(&session.mark(session.peer().session));
    }
    settle_doubts(session).await?;
    if let Some(held) = session.held() {
        held.lock().doubts_settled();
    }
    give_back(session).await?;
    if !session.open(generation) {
        return Err(lost().into());
    }
    Ok(losses)
}

/// Asks the agent for signs of life while there is a stream, for as long as the session lasts.
async fn heartbeats(session: Arc<Session>, heartbeat: Heartbeat) {
    let mut standing = session.standing();
    loop {
        let linked = standing.wait_for(|standing| !matches!(standing, Standing::Away(_))).await;
        let is_over = linked.map_or(true, |standing| matches!(*standing, Standing::Over(_)));
        if is_over {
            return;
        }
        beat(&session, heartbeat, &mut standing).await;
    }
}

/// The same for one stream.
async fn beat(session: &Session, heartbeat: Heartbeat, standing: &mut watch::Receiver<Standing>) {
    let Some(generation) = session.generation() else { return tokio::task::yield_now().await };
    let mut missed = 0;
    let interval = heartbeat.interval.max(HEARTBEAT_INTERVAL_MIN);
    let patience = interval.max(HEARTBEAT_PATIENCE_MIN);
    loop {
        tokio::select! {
            () = tokio::time::sleep(interval) => {}
            () = session.probed.notified() => {}
            changed = standing.changed() => {
                drop(changed);
                return;
            }
        }
        let answered = async { session.ping().await.ok()?.await.ok() };
        match tokio::time::timeout(patience, answered).await {
            Ok(Some(_)) => missed = 0,
            Ok(None) => return,
            Err(_) => missed += 1,
        }
        if heartbeat.failures_max > 0 && missed >= heartbeat.failures_max {
            return session.lose(Some(generation), LinkLost::Silent { missed });
        }
    }
}
