//! The watch over one mount: probes it again and again, and has it taken over when it hangs.
//!
//! ```text
//!  fine ──a probe fails──► suspected ──the next one fails too──► hung: taken over ──► suspected …
//!    ▲                         │
//!    └────── a probe succeeds ─┘
//! ```

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use supervisor::keeper;
use wire::api::id::MountId;
use wire::api::status::Health;

use super::probe::MountProbe;
use crate::connection::Later;
use crate::owner::{Event, MountEvent, OwnerHandle};

/// How often a mount is probed, when nothing else was said.
pub const INTERVAL: Duration = Duration::from_secs(5);

/// How long a mount may take to answer a probe. It answers from memory; what it needs time for is to be scheduled on a
/// computer that is very busy.
const DEADLINE: Duration = Duration::from_secs(3);

/// The pause before the second look at a mount that did not answer the first.
const SECOND_LOOK: Duration = Duration::from_secs(1);

/// Unanswered probes in a row that mean that a mount hangs. One can be an accident.
const MISSES_MAX: u32 = 2;

/// How long a worker that has taken over may take until it answers, before it is replaced as well.
const TAKEOVER_PAUSE: Duration = Duration::from_secs(10);

/// Puts another worker in the place of one that hangs.
pub trait Takeover: Send + Sync + 'static {
    /// Asks for it. What comes of it is seen by the next probe.
    fn take_over(&self) -> Later<'_, std::io::Result<()>>;
}

/// Asks the mount's keeper.
pub struct KeeperTakeover {
    /// The mount's own directory, where the keeper's socket is.
    pub state_dir: PathBuf,
    /// The mounts that its directory lies in.
    pub outer: Vec<Arc<dyn MountProbe>>,
}

impl Takeover for KeeperTakeover {
    fn take_over(&self) -> Later<'_, std::io::Result<()>> {
        Box::pin(async {
            // Every request to the mount goes through these: while one of them hangs, this one's worker may be well.
            for outer in &self.outer {
                if let Health::Failed { why } = outer.probe(DEADLINE).await {
                    return Err(std::io::Error::other(format!("the mount that it lies in hangs: {why}")));
                }
            }
            let mut keeper = keeper::Client::connect(&self.state_dir)?;
            keeper.tell(keeper::Command::TakeOver).await
        })
    }
}

/// What a mount is believed to be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Belief {
    /// Probes in a row that were not answered.
    misses: u32,
}

/// What follows from a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Verdict {
    /// Whether the mount hangs.
    is_hung: bool,
    /// When to look again.
    pause: Duration,
}

impl Belief {
    /// Judges one probe. Pure.
    fn on(self, health: &Health, interval: Duration) -> (Belief, Verdict) {
        let misses = match health {
            Health::Healthy | Health::Degraded { .. } => 0,
            Health::Failed { .. } => self.misses + 1,
        };
        match misses {
            0 => (Belief::default(), Verdict { is_hung: false, pause: interval }),
            MISSES_MAX.. => (Belief::default(), Verdict { is_hung: true, pause: TAKEOVER_PAUSE }),
            misses => (Belief { misses }, Verdict { is_hung: false, pause: SECOND_LOOK.min(interval) }),
        }
    }
}

/// A watch that ends when this is dropped.
#[derive(Debug)]
pub struct Monitor(tokio::task::AbortHandle);

impl Drop for Monitor {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Monitor {
    /// Watches over a mount that serves.
    pub fn start(
        id: MountId,
        probe: Arc<dyn MountProbe>,
        takeover: impl Takeover,
        interval: Duration,
        owner: OwnerHandle,
    ) -> Monitor {
        let watch = Watch { id, probe, takeover: Arc::new(takeover), interval, owner };
        Monitor(tokio::spawn(watch.run()).abort_handle())
    }
}

struct Watch {
    id: MountId,
    probe: Arc<dyn MountProbe>,
    takeover: Arc<dyn Takeover>,
    interval: Duration,
    owner: OwnerHandle,
}

impl Watch {
    async fn run(self) {
        let mut belief = Belief::default();
        let mut pause = self.interval;
        let mut logged = Health::Healthy;
        loop {
            tokio::time::sleep(pause).await;
            let health = self.probe.probe(DEADLINE).await;
            let verdict;
            (belief, verdict) = belief.on(&health, self.interval);
            pause = verdict.pause;
            // One unanswered probe is no news yet.
            let is_certain = verdict.is_hung || belief == Belief::default();
            if is_certain {
                if health != logged {
                    tracing::info!(mount = %self.id, ?health, "health");
                    logged = health.clone();
                }
                // Told even when it is what was found before: a worker that takes over is believed to be well.
                self.owner.send(Event::Mount(self.id, MountEvent::Probed(health))).await;
            }
            if verdict.is_hung {
                tracing::warn!(mount = %self.id, "the mount hangs, and another worker is asked for");
                if let Err(error) = self.takeover.take_over().await {
                    tracing::error!(mount = %self.id, %error, "no other worker could be asked for");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicU32, Ordering};

    fn failed() -> Health {
        Health::Failed { why: "silence".to_owned() }
    }

    fn degraded() -> Health {
        Health::Degraded { why: "slow".to_owned() }
    }

    #[test]
    fn two_misses_in_a_row_are_a_hang_and_one_is_a_second_look() {
        let cases: &[(&[Health], &[bool])] = &[
            (&[failed()], &[false]),
            (&[failed(), failed()], &[false, true]),
            (&[failed(), Health::Healthy, failed()], &[false, false, false]),
            (&[failed(), degraded(), failed()], &[false, false, false]),
            // A successor gets as many chances.
            (&[failed(), failed(), failed(), failed()], &[false, true, false, true]),
        ];
        for (probes, expected) in cases {
            let mut belief = Belief::default();
            let verdicts = probes.iter().map(|health| {
                let verdict;
                (belief, verdict) = belief.on(health, INTERVAL);
                verdict.is_hung
            });
            assert_eq!(verdicts.collect::<Vec<_>>(), *expected, "{probes:?}");
        }
        let pause = |health: &Health| Belief::default().on(health, INTERVAL).1.pause;
        assert_eq!((pause(&Health::Healthy), pause(&failed())), (INTERVAL, SECOND_LOOK));
    }

    #[tokio::test]
    async fn a_mount_in_one_that_hangs_is_not_taken_over() {
        let scratch = tempfile::tempdir().unwrap();
        let keeper = supervisor::socket::listen(&scratch.path().join(keeper::KEEPER_SOCKET)).unwrap();
        keeper.set_nonblocking(true).unwrap();
        let outer: Arc<dyn MountProbe> = Arc::new(Script(Mutex::new([failed()].into())));
        let takeover = KeeperTakeover { state_dir: scratch.path().to_owned(), outer: vec![outer] };
        takeover.take_over().await.unwrap_err();
        assert_eq!(keeper.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
        // The outer one is well again.
        takeover.take_over().await.unwrap();
        keeper.accept().unwrap();
    }

    /// Finds what it is told to find, and then that all is well.
    struct Script(Mutex<VecDeque<Health>>);

    impl MountProbe for Script {
        fn probe(&self, _: Duration) -> Later<'_, Health> {
            let found = self.0.lock().unwrap().pop_front().unwrap_or_default();
            Box::pin(std::future::ready(found))
        }
    }

    struct Counted(Arc<AtomicU32>);

    impl Takeover for Counted {
        fn take_over(&self) -> Later<'_, std::io::Result<()>> {
            self.0.fetch_add(1, Ordering::Relaxed);
            Box::pin(std::future::ready(Ok(())))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_hang_is_told_and_taken_over_once_and_recovery_is_told() {
        let (owner, mut events) = OwnerHandle::new();
        let takeovers = Arc::new(AtomicU32::new(0));
        let script = [failed(), Health::Healthy, failed(), failed(), degraded(), Health::Healthy];
        let probe = Arc::new(Script(Mutex::new(script.into())));
        let monitor =
            Monitor::start(MountId::new(1), probe, Counted(Arc::clone(&takeovers)), INTERVAL, owner);
        let mut told = Vec::new();
        while told.len() < 4 {
            match events.recv().await.unwrap() {
                Event::Mount(_, MountEvent::Probed(health)) => told.push(health),
                other => panic!("unexpected: {other:?}"),
            }
        }
        assert_eq!(told, [Health::Healthy, failed(), degraded(), Health::Healthy]);
        assert_eq!(takeovers.load(Ordering::Relaxed), 1);
        drop(monitor);
        // The task, and with it the owner's last handle, is gone.
        assert!(events.recv().await.is_none());
    }
}
