//! The life of a connection, as a pure function: what happened goes in, what to do comes out.
//!
//! ```text
//!            Opened                 Lost
//! connecting ──────► connected ────────────► reconnecting ──Opened──► connected
//!     │ Failed           │ Disconnect            │ Failed: wait, longer each time, then again
//!     ▼                  ▼                       ▼ Failed, and no try is left
//! disconnected ◄─────────┴───────────────────────┘
//!     └──Connect──► connecting
//! ```
//!
//! Nothing here dials, waits or reads a clock. The caller carries out the [`Action`]s in order, and reports what comes
//! of them as [`Event`]s.

use std::time::{Duration, Instant};

/// How a lost connection is opened again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Whether it is opened again at all.
    pub reconnect: bool,
    /// The pause before the second try; each pause is twice the one before. The first try is made at once.
    pub base: Duration,
    /// The longest of these pauses.
    pub cap: Duration,
    /// How many tries there are at these pauses.
    pub tries: u32,
    /// What comes after them.
    pub afterwards: Afterwards,
}

/// What comes after the tries of a [`Policy`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Afterwards {
    /// The connection is given up.
    GiveUp,
    /// As long as somebody needs the connection, one try each such pause.
    Slowly(Duration),
}

impl Policy {
    /// For the agent of this host: what does not start now will hardly start later.
    pub const HOST: Policy = Policy {
        reconnect: true,
        base: Duration::from_secs(2),
        cap: Duration::from_secs(30),
        tries: 3,
        afterwards: Afterwards::GiveUp,
    };

    /// For a machine over a network, which comes back some day. However long it was away, it is found again while programs
    /// wait for it: they do so for a minute.
    pub const SSH: Policy = Policy {
        reconnect: true,
        base: Duration::from_secs(2),
        cap: Duration::from_secs(30),
        tries: 5,
        afterwards: Afterwards::Slowly(Duration::from_secs(30)),
    };

    /// For a container: one that is started again is there within seconds, and one that is not is somebody's decision.
    pub const DOCKER: Policy = Policy {
        reconnect: true,
        base: Duration::from_secs(1),
        cap: Duration::from_secs(60),
        tries: 10,
        afterwards: Afterwards::GiveUp,
    };

    /// The pause before try number `attempt`, counted from 1. `chance`, from 0 to [`u32::MAX`], takes away up to a
    /// quarter of it, so that many clients of one machine do not come at once.
    fn pause(&self, attempt: u32, chance: u32) -> Duration {
        let whole = match (attempt, self.afterwards) {
            (0 | 1, _) => return Duration::ZERO,
            (late, Afterwards::Slowly(pause)) if late > self.tries => pause,
            (attempt, _) => {
                self.base.saturating_mul(1_u32.checked_shl(attempt - 2).unwrap_or(u32::MAX)).min(self.cap)
            }
        };
        shortened(whole, chance)
    }
}

/// The pause between tries that only a person can make succeed: each of them is a refused login in the machine's log.
const PERSON_PAUSE: Duration = Duration::from_secs(60);

/// The longest pause after a connection that was open, but not for long: the machine is there. Longer ones would keep who waits for
/// it from most of what a line brings that is cut again and again.
const SHORT_LIFE_PAUSE_MAX: Duration = Duration::from_secs(8);

fn shortened(pause: Duration, chance: u32) -> Duration {
    pause - pause.mul_f64(f64::from(chance) / f64::from(u32::MAX) / 4.0)
}

/// Why a try failed, as far as that decides what comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Hindrance {
    /// The machine may be there next time.
    Passing,
    /// A person has to do something first: answer a prompt, accept a host key.
    NeedsPerson,
    /// Trying again is of no use: no agent can run there.
    Lasting,
}

/// Where a connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Being opened for the first time, or again after it was given up; somebody waits for it and can be asked.
    Connecting,
    /// Open.
    Connected,
    /// Lost, and being opened again.
    Reconnecting {
        /// Which try it is, from 1.
        attempt: u32,
        /// When it is made; `None` while it is being made.
        next: Option<Instant>,
        /// What stood in the way of the last one.
        hindrance: Option<Hindrance>,
    },
    /// Not open, and nothing is done about it.
    Disconnected,
}

/// What happened to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Somebody wants it, and can be asked what ssh asks.
    Connect,
    /// Nobody wants it any more.
    Disconnect,
    /// The try succeeded.
    Opened,
    /// The try failed.
    Failed(Hindrance),
    /// The open connection is gone.
    Lost,
    /// It is gone before anything came of it, so many times in a row: like a try that failed.
    LostAtOnce {
        /// At least 1.
        times: u32,
    },
    /// The moment of [`Action::WakeAt`] has come.
    TimeIsUp,
    /// The computer was asleep, or its network changed: what is open may be dead, what failed may succeed.
    WorldChanged,
}

/// What the caller is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Try to open it.
    Dial {
        /// Whether somebody can be asked. A background try never asks.
        attended: bool,
    },
    /// Send [`Event::TimeIsUp`] at this moment, instead of at any said before.
    WakeAt(Instant),
    /// Ask the agent for a sign of life at once.
    Probe,
    /// Close the connection, or call the try off.
    Close,
    /// Tell everybody of the new state.
    Announce,
}

/// What an event is judged by.
#[derive(Clone, Copy, Debug)]
pub struct Circumstances<'a> {
    /// The present.
    pub now: Instant,
    /// How lost connections are opened again.
    pub policy: &'a Policy,
    /// Whether a mount, a tunnel or a process depends on the connection.
    pub needed: bool,
    /// A random number, for pauses.
    pub chance: u32,
}

impl State {
    /// Advances the connection. Performs no I/O: the caller carries out the actions. An event that makes no sense in a
    /// state, such as the outcome of a try that was called off, changes nothing.
    pub fn on(self, event: Event, circumstances: &Circumstances<'_>) -> (State, Vec<Action>) {
        match (self, event) {
            (State::Disconnected, Event::Connect) => {
                (State::Connecting, vec![Action::Announce, Action::Dial { attended: true }])
            }
            (State::Reconnecting { .. }, Event::Connect) => {
                (State::Connecting, vec![Action::Close, Action::Announce, Action::Dial { attended: true }])
            }
            (State::Connecting | State::Connected | State::Reconnecting { .. }, Event::Disconnect) => {
                (State::Disconnected, vec![Action::Close, Action::Announce])
            }
            (State::Connecting | State::Reconnecting { next: None, .. }, Event::Opened) => {
                (State::Connected, vec![Action::Announce])
            }
            (State::Connecting, Event::Failed(_)) => (State::Disconnected, vec![Action::Announce]),
            (State::Connected, Event::Lost) => circumstances.lost(),
            (State::Connected, Event::LostAtOnce { times }) => circumstances.lost_at_once(times),
            (State::Connected, Event::WorldChanged) => (self, vec![Action::Probe]),
            (State::Reconnecting { attempt, next: None, .. }, Event::Failed(hindrance)) => {
                circumstances.failed(attempt, hindrance)
            }
            (State::Reconnecting { attempt, next: Some(at), hindrance }, Event::TimeIsUp)
                if at <= circumstances.now =>
            {
                let state = State::Reconnecting { attempt, next: None, hindrance };
                (state, vec![Action::Dial { attended: false }])
            }
            // The pauses start over: what they were made longer for may be past.
            (State::Reconnecting { next: Some(_), hindrance, .. }, Event::WorldChanged) => {
                let state = State::Reconnecting { attempt: 1, next: None, hindrance };
                (state, vec![Action::Dial { attended: false }])
            }
            (state, _) => (state, Vec::new()),
        }
    }
}

impl Circumstances<'_> {
    fn lost(&self) -> (State, Vec<Action>) {
        if !self.policy.reconnect || !self.needed {
            return (State::Disconnected, vec![Action::Close, Action::Announce]);
        }
        let state = State::Reconnecting { attempt: 1, next: None, hindrance: None };
        (state, vec![Action::Close, Action::Announce, Action::Dial { attended: false }])
    }

    fn lost_at_once(&self, times: u32) -> (State, Vec<Action>) {
        let (state, mut actions) = self.lost();
        if state == State::Disconnected {
            return (state, actions);
        }
        let (state, after) = self.failed_for_at_most(SHORT_LIFE_PAUSE_MAX, times, Hindrance::Passing);
        actions.truncate(1);
        actions.extend(after);
        (state, actions)
    }

    fn failed(&self, attempt: u32, hindrance: Hindrance) -> (State, Vec<Action>) {
        self.failed_for_at_most(Duration::MAX, attempt, hindrance)
    }

    /// As [`Circumstances::failed`], with no longer pause than this.
    fn failed_for_at_most(&self, most: Duration, attempt: u32, hindrance: Hindrance) -> (State, Vec<Action>) {
        let out_of_tries = attempt >= self.policy.tries && self.policy.afterwards == Afterwards::GiveUp;
        if hindrance == Hindrance::Lasting || out_of_tries || !self.needed {
            return (State::Disconnected, vec![Action::Announce]);
        }
        // Until somebody has done something about it, there is no hurry.
        let attempt = match hindrance {
            Hindrance::NeedsPerson => attempt.max(self.policy.tries) + 1,
            Hindrance::Passing | Hindrance::Lasting => attempt.saturating_add(1),
        };
        let pause = match hindrance {
            Hindrance::NeedsPerson => shortened(PERSON_PAUSE, self.chance),
            Hindrance::Passing | Hindrance::Lasting => self.policy.pause(attempt, self.chance).min(most),
        };
        let at = self.now + pause;
        let state = State::Reconnecting { attempt, next: Some(at), hindrance: Some(hindrance) };
        (state, vec![Action::Announce, Action::WakeAt(at)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    struct World {
        now: Instant,
        policy: Policy,
        needed: bool,
        state: State,
    }

    impl World {
        fn connected(policy: Policy) -> World {
            World { now: Instant::now(), policy, needed: true, state: State::Connected }
        }

        fn on(&mut self, event: Event) -> Vec<Action> {
            let circumstances =
                Circumstances { now: self.now, policy: &self.policy, needed: self.needed, chance: 0 };
            let (state, actions) = self.state.on(event, &circumstances);
            self.state = state;
            actions
        }

        /// Lets the try fail and says how long the pause before the next one is; `None` if there is none.
        fn fail(&mut self, hindrance: Hindrance) -> Option<Duration> {
            self.on(Event::Failed(hindrance));
            let State::Reconnecting { next: Some(at), .. } = self.state else { return None };
            let pause = at - self.now;
            self.now = at;
            assert_eq!(self.on(Event::TimeIsUp), [Action::Dial { attended: false }]);
            Some(pause)
        }
    }

    #[test]
    fn a_host_is_tried_three_times() {
        let mut world = World::connected(Policy::HOST);
        let actions = world.on(Event::Lost);
        assert_eq!(actions, [Action::Close, Action::Announce, Action::Dial { attended: false }]);
        let pauses: Vec<_> = (0..3).map_while(|_| world.fail(Hindrance::Passing)).collect();
        assert_eq!(pauses, [2 * SECOND, 4 * SECOND]);
        assert_eq!(world.state, State::Disconnected);
    }

    #[test]
    fn a_container_is_tried_ten_times() {
        let mut world = World::connected(Policy::DOCKER);
        world.on(Event::Lost);
        let pauses: Vec<_> =
            (0..10).map_while(|_| world.fail(Hindrance::Passing)).map(|p| p.as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!(world.state, State::Disconnected);
    }

    #[test]
    fn an_ssh_machine_is_tried_for_ever_while_it_is_needed() {
        let mut world = World::connected(Policy::SSH);
        world.on(Event::Lost);
        let pauses: Vec<_> =
            (0..8).map_while(|_| world.fail(Hindrance::Passing)).map(|p| p.as_secs()).collect();
        assert_eq!(pauses, [2, 4, 8, 16, 30, 30, 30, 30]);
        world.needed = false;
        assert_eq!(world.fail(Hindrance::Passing), None);
        assert_eq!(world.state, State::Disconnected);
    }

    #[test]
    fn a_try_that_needs_a_person_is_not_repeated_in_a_hurry() {
        let mut world = World::connected(Policy::SSH);
        world.on(Event::Lost);
        assert_eq!(world.fail(Hindrance::NeedsPerson), Some(60 * SECOND));
        let actions = world.on(Event::Connect);
        assert_eq!(actions, [Action::Close, Action::Announce, Action::Dial { attended: true }]);
        world.on(Event::Opened);
        assert_eq!(world.state, State::Connected);
    }

    #[test]
    fn what_lasts_is_not_tried_again() {
        let mut world = World::connected(Policy::SSH);
        world.on(Event::Lost);
        assert_eq!(world.fail(Hindrance::Lasting), None);
        assert_eq!(world.state, State::Disconnected);
    }

    #[test]
    fn without_reconnecting_a_lost_connection_stays_lost() {
        for (reconnect, needed) in [(false, true), (true, false)] {
            let mut world = World::connected(Policy { reconnect, ..Policy::SSH });
            world.needed = needed;
            assert_eq!(world.on(Event::Lost), [Action::Close, Action::Announce]);
            assert_eq!(world.state, State::Disconnected);
        }
    }

    #[test]
    fn waking_up_probes_what_is_open_and_tries_what_is_not() {
        let mut world = World::connected(Policy::SSH);
        assert_eq!(world.on(Event::WorldChanged), [Action::Probe]);
        world.on(Event::Lost);
        world.fail(Hindrance::Passing);
        world.on(Event::Failed(Hindrance::Passing));
        assert_eq!(world.on(Event::WorldChanged), [Action::Dial { attended: false }]);
        assert!(matches!(world.state, State::Reconnecting { attempt: 1, next: None, .. }));
    }

    #[test]
    fn what_comes_too_late_changes_nothing() {
        let stale = [Event::Opened, Event::Failed(Hindrance::Passing), Event::Lost, Event::TimeIsUp];
        let mut world = World::connected(Policy::SSH);
        world.on(Event::Disconnect);
        for event in stale {
            assert_eq!(world.on(event), []);
            assert_eq!(world.state, State::Disconnected);
        }
        let mut world = World::connected(Policy::SSH);
        world.on(Event::Lost);
        world.on(Event::Failed(Hindrance::Passing));
        let waiting = world.state;
        for event in [Event::Opened, Event::Failed(Hindrance::Passing), Event::Lost, Event::TimeIsUp] {
            assert_eq!(world.on(event), [], "{event:?} before its time");
            assert_eq!(world.state, waiting);
        }
    }

    #[test]
    fn a_connection_that_is_lost_at_once_is_not_opened_again_in_a_hurry() {
        let mut world = World::connected(Policy::SSH);
        for (times, pause) in [(1, 2), (2, 4), (3, 8), (4, 8), (100, 8)] {
            world.state = State::Connected;
            let at = world.now + pause * SECOND;
            let actions = world.on(Event::LostAtOnce { times });
            assert_eq!(actions, [Action::Close, Action::Announce, Action::WakeAt(at)]);
        }
        let mut world = World::connected(Policy { reconnect: false, ..Policy::SSH });
        assert_eq!(world.on(Event::LostAtOnce { times: 1 }), [Action::Close, Action::Announce]);
        assert_eq!(world.state, State::Disconnected);
    }

    #[test]
    fn chance_takes_away_a_quarter_at_most() {
        for attempt in 2..20 {
            let whole = Policy::SSH.pause(attempt, 0);
            let least = Policy::SSH.pause(attempt, u32::MAX);
            assert!(whole <= 60 * SECOND && least >= whole.mul_f64(0.74) && least < whole, "{attempt}");
        }
        assert_eq!(Policy::SSH.pause(1, 0), Duration::ZERO);
    }
}
