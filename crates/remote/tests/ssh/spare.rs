//! Channels that are dialled ahead.

use std::sync::Arc;

use remote::WorkerDialer;
use remote::client::relink::Dialed;
use remote::spare::{Spare, SpareCarrier};
use remote::transport::host::HostOptions;
use remote::transport::ssh::Unattended;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process};
use wire::hello::SessionId;

use super::logins::until;
use super::machine::{DEADLINE, Machine};
use super::sessions::{Reached, channel, reach};

const KEEP_SECONDS: u32 = 600;

struct Rig {
    reached: Reached,
    /// The stream on which the session began.
    first: Dialed,
    session: SessionId,
    _machine: Machine,
}

impl Rig {
    async fn start(config: &str) -> Rig {
        let machine = Machine::start_with(config);
        let reached = reach(&machine, Arc::new(Unattended)).await;
        let dialer = WorkerDialer::new(reached.dial.clone(), HostOptions::default(), KEEP_SECONDS);
        let first = dialer.reach(SessionId::default()).await.unwrap();
        let session = first.stream.peer().session;
        Rig { reached, first, session, _machine: machine }
    }

    fn dialer(&self) -> WorkerDialer {
        WorkerDialer::new(self.reached.dial.clone(), HostOptions::default(), KEEP_SECONDS)
    }

    fn dial_ahead(&self) -> (Spare, SpareCarrier) {
        self.dialer().dial_ahead(self.session).unwrap().unwrap()
    }

    /// Goes on with the session as a successor does. Says which process carries the stream.
    async fn go_on(&self, spare: Option<Spare>) -> (Dialed, u32) {
        let reaching = self.dialer().with_spare(spare);
        let dialed = tokio::time::timeout(DEADLINE, reaching.reach(self.session)).await.unwrap().unwrap();
        assert_eq!(dialed.stream.peer().session, self.session);
        let pid = dialed.carrier.as_ref().unwrap().pid();
        (dialed, pid)
    }
}

async fn ended(carrier: &SpareCarrier) {
    tokio::time::timeout(DEADLINE, carrier.ended()).await.unwrap();
}

#[tokio::test]
async fn a_channel_that_was_dialled_ahead_is_gone_on_with_and_ends_with_its_stream() {
    let rig = Rig::start("").await;
    let (spare, carrier) = rig.dial_ahead();
    // Other streams of the session come and go meanwhile.
    let (other, _) = rig.go_on(None).await;
    let (dialed, pid) = rig.go_on(Some(spare)).await;
    assert_eq!(pid, carrier.pid());
    drop((other, dialed));
    ended(&carrier).await;
}

#[tokio::test]
async fn one_whose_ssh_or_whose_master_is_gone_is_replaced_by_another() {
    let rig = Rig::start("").await;
    let (spare, carrier) = rig.dial_ahead();
    kill_process(Pid::from_raw(carrier.pid() as i32).unwrap(), Signal::KILL).unwrap();
    let (_dialed, pid) = rig.go_on(Some(spare)).await;
    assert_ne!(pid, carrier.pid());
    let (spare, carrier) = rig.dial_ahead();
    rig.reached.masters.close().await;
    ended(&carrier).await;
    let reaching = rig.dialer().with_spare(Some(spare));
    reaching.reach(rig.session).await.unwrap_err();
}

#[tokio::test]
async fn one_that_nobody_takes_ends_with_its_last_descriptor_and_disturbs_nobody() {
    let rig = Rig::start("").await;
    for _ in 0..4 {
        let (spare, carrier) = rig.dial_ahead();
        drop(spare);
        ended(&carrier).await;
    }
    let held: Vec<_> = (0..4).map(|_| rig.dial_ahead()).collect();
    // No more than the last two can be used; the others have ended, or will.
    let (_dialed, pid) = rig.go_on(None).await;
    assert!(held.iter().all(|(_, carrier)| carrier.pid() != pid));
    let carriers: Vec<_> = held.into_iter().map(|(_, carrier)| carrier).collect();
    for carrier in &carriers {
        ended(carrier).await;
    }
    drop(rig.first);
}

#[tokio::test]
async fn one_gives_its_session_to_whoever_needs_it() {
    // One for the control channel, one for the stream, one in reserve.
    let rig = Rig::start("MaxSessions 3").await;
    let room = rig.dialer().room().unwrap();
    let (spare, carrier) = rig.dial_ahead();
    until(|| is_there(&spare)).await;
    assert!(!room.is_scarce());
    let giving_way = async {
        until(|| room.is_scarce()).await;
        drop(spare);
        carrier.end().await;
    };
    let (opened, ()) = tokio::join!(channel(&rig.reached.dial), giving_way);
    opened.unwrap().client.ping().await.unwrap();
    assert_eq!(rig.reached.masters.pids().len(), 1, "nobody has logged in once more");
    assert!(!rig.first.carrier.as_ref().unwrap().has_ended());
}

/// Whether the agent has greeted.
fn is_there(spare: &Spare) -> bool {
    let [stream, _] = spare.descriptors();
    let mut polled = [PollFd::from_borrowed_fd(stream, PollFlags::IN)];
    poll(&mut polled, Some(&Timespec::default())).unwrap() == 1
}
