//! Goodbyes to sessions whose mounts are over.

use super::*;
use crate::owner::goodbyes::GOODBYE_TIMEOUT;

/// A goodbye that is owed to a machine, noted in `directory`.
fn goodbye(machine: Machine, number: u8, directory: &std::path::Path) -> Goodbye {
    let session = SessionId([number; 16]);
    std::fs::write(directory.join(wire::worker::SESSION), session.to_string()).unwrap();
    Goodbye::owed(machine, Caller::default(), directory).expect("it is noted")
}

/// Waits for it, in the time of the test.
async fn comes_true(what: &str, holds: impl Fn() -> bool) {
    let holding = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(3600), holding).await.expect(what);
}

/// Machines whose sessions end when the gate says so.
fn gated() -> (Rig, Arc<Notify>) {
    let gate = Arc::new(Notify::new());
    (rig_with(FakeMachines { goodbye_gate: Some(Arc::clone(&gate)), ..FakeMachines::default() }), gate)
}

impl Rig {
    async fn say(&self, goodbye: Goodbye) {
        self.owner.send(Event::SayGoodbye(Box::new(goodbye))).await;
    }

    /// Waits until sessions have been tried to be ended so often.
    async fn tried(&self, times: usize) {
        let tried = || self.machines.goodbyes.load(Ordering::Relaxed);
        comes_true("it is tried so often", || tried() == times).await;
    }

    /// Waits until this link has been used to end these sessions, and no others.
    async fn ended(&self, link: usize, numbers: &[u8]) {
        let expected: Vec<SessionId> = numbers.iter().map(|number| SessionId([*number; 16])).collect();
        let is_there = || self.machines.links.lock().unwrap().len() > link;
        let ended = || self.link(link).ended.lock().unwrap().clone();
        comes_true("the sessions are ended", || is_there() && ended() == expected).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_goodbye_is_said_at_once_where_the_machine_is_there() {
    let (rig, directory) = (rig(), tempfile::tempdir().unwrap());
    let lease = rig.owner.acquire(wanted(ssh_box())).await.unwrap();
    rig.say(goodbye(ssh_box(), 1, directory.path())).await;
    rig.ended(0, &[1]).await;
    let note = directory.path().join(wire::worker::SESSION);
    comes_true("nothing more is owed", || !note.exists()).await;
    // This computer always is.
    rig.say(goodbye(Machine::Host, 2, directory.path())).await;
    rig.ended(1, &[2]).await;
    assert_eq!(rig.states().await, [ConnectionState::Connected], "no connection was made for it");
    drop(lease);
    rig.until(&[]).await;
}

#[tokio::test(start_paused = true)]
async fn a_goodbye_waits_for_the_next_connection_and_is_tried_twice() {
    let (rig, directory) = (rig(), tempfile::tempdir().unwrap());
    rig.say(goodbye(ssh_box(), 1, directory.path())).await;
    assert_eq!((rig.requests(), rig.states().await), (0, vec![]), "no connection is made for it");
    rig.machines.is_deaf.store(true, Ordering::Relaxed);
    let lease = rig.owner.acquire(wanted(ssh_box())).await.unwrap();
    rig.say(goodbye(ssh_box(), 2, directory.path())).await;
    // Both fail, the one that waited for the first time too.
    rig.tried(2).await;
    rig.machines.is_deaf.store(false, Ordering::Relaxed);
    rig.lose(0);
    rig.ended(1, &[1, 2]).await;
    rig.machines.is_deaf.store(true, Ordering::Relaxed);
    rig.say(goodbye(ssh_box(), 3, directory.path())).await;
    rig.tried(5).await;
    rig.lose(1);
    rig.tried(6).await;
    rig.machines.is_deaf.store(false, Ordering::Relaxed);
    rig.lose(2);
    rig.until(&[ConnectionState::Connected]).await;
    rig.say(goodbye(ssh_box(), 4, directory.path())).await;
    rig.ended(3, &[4]).await;
    drop(lease);
}

#[tokio::test(start_paused = true)]
async fn a_daemon_that_ends_waits_a_moment_for_goodbyes() {
    let (rig, gate) = gated();
    let directory = tempfile::tempdir().unwrap();
    let lease = rig.owner.acquire(wanted(ssh_box())).await.unwrap();
    rig.say(goodbye(ssh_box(), 1, directory.path())).await;
    let (answer, mut answered) = oneshot::channel();
    rig.owner.send(Event::Quit { answer }).await;
    assert!(tokio::time::timeout(GOODBYE_TIMEOUT / 2, &mut answered).await.is_err());
    assert!(!*rig.link(0).closed.borrow(), "its connection is kept as long");
    gate.notify_one();
    answered.await.unwrap();
    rig.ended(0, &[1]).await;
    assert!(*rig.link(0).closed.borrow());
    drop(lease);
}

#[tokio::test(start_paused = true)]
async fn a_disconnect_waits_a_moment_for_goodbyes() {
    let (rig, gate) = gated();
    let directory = tempfile::tempdir().unwrap();
    let lease = rig.owner.acquire(wanted(ssh_box())).await.unwrap();
    rig.say(goodbye(ssh_box(), 1, directory.path())).await;
    let (answer, mut answered) = oneshot::channel();
    rig.owner.send(Event::Disconnect { machine: ssh_box(), answer }).await;
    assert!(tokio::time::timeout(GOODBYE_TIMEOUT / 2, &mut answered).await.is_err());
    assert!(!*rig.link(0).closed.borrow(), "its connection is kept as long");
    gate.notify_one();
    assert_eq!(answered.await.unwrap().unwrap(), ConnectionState::Connected);
    rig.ended(0, &[1]).await;
    assert!(*rig.link(0).closed.borrow());
    drop(lease);
}

#[tokio::test(start_paused = true)]
async fn a_goodbye_that_comes_to_nothing_does_not_keep_the_daemon() {
    let (rig, _gate) = gated();
    let directory = tempfile::tempdir().unwrap();
    let _lease = rig.owner.acquire(wanted(ssh_box())).await.unwrap();
    rig.say(goodbye(ssh_box(), 1, directory.path())).await;
    let (answer, answered) = oneshot::channel();
    rig.owner.send(Event::Quit { answer }).await;
    let ended = tokio::time::timeout(GOODBYE_TIMEOUT * 2, answered).await;
    ended.expect("it ends").unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_goodbye_that_ends_in_a_panic_does_not_keep_the_daemon() {
    let (rig, gate) = gated();
    let directory = tempfile::tempdir().unwrap();
    rig.machines.is_broken.store(true, Ordering::Relaxed);
    let _lease = rig.owner.acquire(wanted(ssh_box())).await.unwrap();
    rig.say(goodbye(ssh_box(), 1, directory.path())).await;
    let (answer, answered) = oneshot::channel();
    rig.owner.send(Event::Quit { answer }).await;
    gate.notify_one();
    let ended = tokio::time::timeout(GOODBYE_TIMEOUT * 2, answered).await;
    ended.expect("it ends").unwrap();
}
