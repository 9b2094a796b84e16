//! What happens, as it is told to whoever wants to know.

use super::*;

/// A client that is told what happens, and asks for nothing else.
pub struct Watcher {
    client: Client,
}

impl Life {
    pub fn redial(&self) -> api::machine::Redial {
        api::machine::Redial {
            machine: Machine::Host,
            reconnect: None,
            heartbeat_interval_ms: None,
            max_heartbeat_failures: None,
            caller: self.caller(),
        }
    }

    pub fn watch(&self, topics: &[Topic]) -> Watcher {
        let mut client = self.client();
        client.call(Subscribe { topics: topics.to_vec() }).unwrap();
        Watcher { client }
    }
}

impl Watcher {
    /// The next event, as its topic, id and state word.
    pub fn next(&mut self) -> String {
        match self.client.read() {
            ServerMessage::Notification(ServerNotification::EventHappened(notice)) => {
                let happened = notice.event.happened;
                format!("{} {} {}", happened.topic(), happened.id(), happened.word())
            }
            other => panic!("not an event: {other:?}"),
        }
    }

    pub fn expect(&mut self, expected: &[&str]) {
        for event in expected {
            assert_eq!(self.next(), *event);
        }
    }
}

#[test]
fn what_happens_to_mounts_and_processes_is_told_in_order_and_once() {
    let life = Life::begin();
    let mut watcher = life.watch(&[]);
    let mount = life.mount("", "m");
    watcher.expect(&["connection c1 connecting", "connection c1 connected", "mount m1 active"]);
    let mut client = life.client();
    client.call(run(&life, &["sh", "-c", "exit 3"])).unwrap();
    watcher.expect(&["process p1 running"]);
    match watcher.client.read() {
        ServerMessage::Notification(ServerNotification::EventHappened(notice)) => {
            let expected = Happened::Process {
                id: "p1".parse().unwrap(),
                machine: Machine::Host,
                state: ProcessState::Exited,
                code: Some(3),
            };
            assert_eq!((notice.event.happened, notice.event.seq), (expected, 5));
        }
        other => panic!("not an event: {other:?}"),
    }
    // A mount that does not come to serve is no event.
    life.client().call(life.create("fail", Some("n"))).unwrap_err();
    life.unmount(&mount, Force::Never).unwrap();
    watcher.expect(&["mount m1 unmounted"]);
}

/// How long an event may take to arrive after what it tells of.
const EVENT_LIMIT: Duration = Duration::from_secs(1);

#[test]
fn a_lost_link_is_told_within_a_second_and_once() {
    let life = Life::begin();
    let mount = life.mount("flaky", "m");
    let mut watcher = life.watch(&[]);
    let begin = Instant::now();
    life.client().call(life.redial()).unwrap();
    watcher.expect(&["connection c1 reconnecting", "connection c1 connected"]);
    watcher.expect(&["mount m1 reconnecting", "mount m1 active"]);
    assert!(begin.elapsed() < EVENT_LIMIT, "{:?}", begin.elapsed());
    life.unmount(&mount, Force::Never).unwrap();
    watcher.expect(&["mount m1 unmounted"]);
}

#[test]
fn a_death_and_its_successor_are_told_within_a_second_and_once() {
    let life = Life::begin();
    let mount = life.mount("", "m");
    let mut watcher = life.watch(&[]);
    for _ in 0..3 {
        let begin = Instant::now();
        kill(worker(&life.shown(&mount)));
        watcher.expect(&["mount m1 recovering"]);
        assert!(begin.elapsed() < EVENT_LIMIT, "{:?}", begin.elapsed());
        watcher.expect(&["mount m1 active"]);
    }
    life.unmount(&mount, Force::Never).unwrap();
    watcher.expect(&["mount m1 unmounted"]);
}

#[test]
fn a_mount_that_fails_is_told_once_with_the_last_words_of_its_worker() {
    let life = Life::begin();
    let mount = life.mount("doomed", "m");
    let mut watcher = life.watch(&[]);
    kill(worker(&mount));
    watcher.expect(&["mount m1 recovering"]);
    match watcher.client.read() {
        ServerMessage::Notification(ServerNotification::EventHappened(notice)) => {
            let happened = notice.event.happened;
            let reason = "its worker ended with status 4: this world is not for me";
            assert_eq!((happened.word(), happened.reason()), ("failed", Some(reason)));
        }
        other => panic!("not an event: {other:?}"),
    }
    life.unmount(&mount, Force::Never).unwrap();
    watcher.expect(&["mount m1 unmounted"]);
}

#[test]
fn a_worker_that_is_stopped_is_found_by_the_probe_and_replaced() {
    let life = Life::begin_with(&[("PROBE_INTERVAL_MS", "100")]);
    let mount = life.mount("answer", "m");
    let mut watcher = life.watch(&[Topic::Mount]);
    eventually("it is found to be well", || life.shown(&mount).health == Health::Healthy);
    let pid = rustix::process::Pid::from_raw(worker(&mount).cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    watcher.expect(&["mount m1 recovering", "mount m1 active"]);
    let shown = life.shown(&mount);
    assert_eq!((shown.port, shown.worker.unwrap().restarts), (mount.port, 1));
    assert!(!exists(worker(&mount)));
    eventually("the successor answers", || life.shown(&mount).health == Health::Healthy);
    life.unmount(&mount, Force::Never).unwrap();
    watcher.expect(&["mount m1 unmounted"]);
    assert_eq!(life.leftovers(), Vec::<String>::new());
}

#[test]
fn a_subscription_has_its_topics_and_an_end() {
    let life = Life::begin();
    let mut client = life.client();
    let subscribed = client.call(Subscribe { topics: vec![Topic::Mount, Topic::Operation] }).unwrap();
    assert_eq!(subscribed.seq, 0);
    let mut watcher = Watcher { client };
    let first = life.mount("", "one");
    watcher.expect(&["mount m1 active"]);
    let subscription = subscribed.subscription;
    watcher.client.call(Unsubscribe { subscription }).unwrap();
    let again = watcher.client.call(Unsubscribe { subscription }).unwrap_err();
    assert_eq!(again.kind(), ErrorKind::NotFound);
    life.unmount(&first, Force::Never).unwrap();
    // The next thing it hears is the answer to what it asks.
    watcher.client.call(api::daemon::Status {}).unwrap();
}

#[test]
fn subscriptions_of_one_client_are_limited() {
    let life = Life::begin();
    let mut client = life.client();
    for _ in 0..SUBSCRIPTIONS_MAX {
        client.call(Subscribe { topics: vec![Topic::Operation] }).unwrap();
    }
    assert_eq!(client.call(Subscribe::default()).unwrap_err().kind(), ErrorKind::Conflict);
}

#[test]
fn a_subscriber_that_does_not_read_holds_up_nobody_and_is_told_what_it_missed() {
    let life = Life::begin();
    let mut watcher = life.watch(&[Topic::Connection]);
    // More than fits into the socket, the queue of its session and the ring together.
    let redials = EVENTS_WAITING_MAX as u64 * 3;
    let mut client = life.client();
    for _ in 0..redials {
        client.call(life.redial()).unwrap();
    }
    // One word when the link is lost and one when it is there again, but for the first.
    let count = redials * 2;
    let (mut told, mut missed, mut last) = (0, 0, 0);
    while told + missed < count {
        match watcher.client.read() {
            ServerMessage::Notification(ServerNotification::EventHappened(notice)) => {
                assert!(notice.event.seq > last, "in order, each once");
                (last, told) = (notice.event.seq, told + 1);
            }
            ServerMessage::Notification(ServerNotification::EventMissed(note)) => missed += note.missed,
            other => panic!("unexpected: {other:?}"),
        }
    }
    assert_eq!((told + missed, last), (count, count));
    assert!(missed > 0);
}
