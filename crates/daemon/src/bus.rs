//! Events, from the owner to whoever wants to know.
//!
//! ```text
//!   owner ──publish──► bus ──┬─► ring ──next──► a session's task ──► client
//!                            └─► ring ──next──► …
//! ```
//!
//! Publishing never waits. Each subscriber has a ring of [`EVENTS_WAITING_MAX`] events of its own: when it is full the
//! oldest event makes room, and the subscriber is told how many it missed before it gets the next one. The bus belongs
//! to the owner's task, which is why events have one order.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::Notify;
use wire::api::event::{EVENTS_WAITING_MAX, Event, Happened, Topic};
use wire::api::time::Timestamp;

/// Gives events their numbers, and to each subscriber what it wants.
#[derive(Debug, Default)]
pub struct Bus {
    last: u64,
    subscribers: Vec<Subscriber>,
}

#[derive(Debug)]
struct Subscriber {
    topics: Vec<Topic>,
    ring: Weak<Ring>,
}

#[derive(Debug, Default)]
struct Ring {
    waiting: Mutex<Waiting>,
    news: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    events: VecDeque<Event>,
    missed: u64,
    /// The bus has gone.
    ended: bool,
}

impl Ring {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // What is guarded is changed in single steps: a panic has left nothing half done.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The receiving end of a subscription, which ends when this is dropped.
#[derive(Debug)]
pub struct Subscription {
    ring: Arc<Ring>,
    since: u64,
}

/// What a subscriber gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// The next event.
    Event(Box<Event>),
    /// So many events did not fit; those that follow are newer.
    Missed(u64),
}

impl Bus {
    /// The number of the last event.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// Has events of these topics told from now on; of all when there are none.
    pub fn subscribe(&mut self, topics: Vec<Topic>) -> Subscription {
        self.subscribers.retain(|subscriber| subscriber.ring.strong_count() > 0);
        let topics = if topics.is_empty() { vec![Topic::All] } else { topics };
        let ring = Arc::new(Ring::default());
        self.subscribers.push(Subscriber { topics, ring: Arc::downgrade(&ring) });
        Subscription { ring, since: self.last }
    }

    /// Tells everybody who wants to know. Never waits.
    pub fn publish(&mut self, happened: Happened, at: Timestamp) {
        self.last += 1;
        tracing::debug!(
            topic = %happened.topic(), id = happened.id(), state = happened.word(), seq = self.last, "event"
        );
        self.subscribers.retain(|subscriber| subscriber.ring.strong_count() > 0);
        let wants = |subscriber: &&Subscriber| subscriber.topics.iter().any(|topic| topic.covers(&happened));
        for ring in self.subscribers.iter().filter(wants).filter_map(|subscriber| subscriber.ring.upgrade()) {
            let mut waiting = ring.lock();
            if waiting.events.len() >= EVENTS_WAITING_MAX {
                waiting.events.pop_front();
                waiting.missed += 1;
            }
            waiting.events.push_back(Event { happened: happened.clone(), at, seq: self.last });
            drop(waiting);
            ring.news.notify_one();
        }
    }
}

impl Drop for Bus {
    fn drop(&mut self) {
        for ring in self.subscribers.iter().filter_map(|subscriber| subscriber.ring.upgrade()) {
            ring.lock().ended = true;
            ring.news.notify_one();
        }
    }
}

impl Subscription {
    /// The number of the last event before it.
    pub fn since(&self) -> u64 {
        self.since
    }

    /// The next word, waited for; none once the bus has gone and everything has been told. May be dropped half way
    /// without loss.
    pub async fn next(&mut self) -> Option<Told> {
        loop {
            {
                let mut waiting = self.ring.lock();
                if waiting.missed > 0 {
                    return Some(Told::Missed(std::mem::take(&mut waiting.missed)));
                }
                if let Some(event) = waiting.events.pop_front() {
                    return Some(Told::Event(Box::new(event)));
                }
                if waiting.ended {
                    return None;
                }
            }
            self.ring.news.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::api::event::{MountWord, ProcessState};
    use wire::api::id::{MountId, ProcessId};
    use wire::api::machine::Machine;

    const AT: u64 = 1_767_225_600;

    fn mount(number: u64) -> Happened {
        let id = MountId::new(number);
        Happened::Mount { id, dir: "/m".into(), state: MountWord::Active, reason: None, path: None, of: None }
    }

    fn process(number: u64) -> Happened {
        let (id, state) = (ProcessId::new(number), ProcessState::Running);
        Happened::Process { id, machine: Machine::Host, state, code: None }
    }

    fn publish(bus: &mut Bus, happened: Happened) {
        bus.publish(happened, Timestamp::from_unix(AT));
    }

    /// Everything until the bus has gone: numbers of events, and what was missed as a negative number.
    async fn drain(mut subscription: Subscription) -> Vec<i64> {
        let mut told = Vec::new();
        while let Some(word) = subscription.next().await {
            told.push(match word {
                Told::Event(event) => event.seq.cast_signed(),
                Told::Missed(count) => -count.cast_signed(),
            });
        }
        told
    }

    #[tokio::test]
    async fn each_subscriber_gets_its_topics_in_order_and_once() {
        let mut bus = Bus::default();
        publish(&mut bus, mount(1));
        let (all, mounts) = (bus.subscribe(Vec::new()), bus.subscribe(vec![Topic::Mount, Topic::Operation]));
        assert_eq!((all.since(), mounts.since()), (1, 1));
        publish(&mut bus, process(1));
        publish(&mut bus, mount(1));
        publish(&mut bus, process(1));
        drop(bus);
        assert_eq!(drain(all).await, [2, 3, 4]);
        assert_eq!(drain(mounts).await, [3]);
    }

    #[tokio::test]
    async fn a_slow_subscriber_is_told_how_many_it_missed_and_holds_up_nobody() {
        let mut bus = Bus::default();
        let (slow, mut quick) = (bus.subscribe(vec![Topic::Mount]), bus.subscribe(vec![Topic::All]));
        let count = EVENTS_WAITING_MAX as u64 + 5;
        for number in 1..=count {
            publish(&mut bus, mount(number));
            // What it does not want takes no room of it.
            publish(&mut bus, process(number));
            for _ in 0..2 {
                assert!(matches!(quick.next().await, Some(Told::Event(_))));
            }
        }
        drop(bus);
        let told = drain(slow).await;
        assert_eq!((told.len(), told[0], told[1]), (EVENTS_WAITING_MAX + 1, -5, 11));
        assert!(told[1..].is_sorted());
        assert_eq!(drain(quick).await, [] as [i64; 0]);
    }

    #[tokio::test]
    async fn who_waits_is_woken_and_who_has_gone_is_forgotten() {
        let mut bus = Bus::default();
        let mut subscription = bus.subscribe(Vec::new());
        drop(bus.subscribe(Vec::new()));
        let waiting = tokio::spawn(async move { subscription.next().await });
        tokio::task::yield_now().await;
        publish(&mut bus, mount(1));
        assert!(matches!(waiting.await.unwrap(), Some(Told::Event(event)) if event.seq == 1));
        publish(&mut bus, mount(2));
        assert!(bus.subscribers.is_empty());
    }
}
