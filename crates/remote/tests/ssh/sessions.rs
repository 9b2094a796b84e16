//! More channels than a server allows through one connection.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use remote::client::{ConnectOptions, NoEvents};
use remote::transport::host::HostOptions;
use remote::transport::ssh::{
    LoginOptions, Masters, OpenMaster, OpeningMaster, SshError, SshOptions, Unattended,
};
use remote::{Connection, OpenError, connect, connect_placing};
use tokio::task::JoinSet;
use wire::api::error::ErrorKind;
use wire::bytestring::ByteString;
use wire::worker::Dial;

use super::logins::{is_running, until};
use super::machine::{DEADLINE, Machine, agents};

/// A connection: its masters, and the daemon's own channel to the agent.
pub struct Reached {
    pub masters: Masters,
    pub control: Connection,
    pub dial: Dial,
}

pub async fn reach(machine: &Machine, opener: Arc<dyn OpenMaster>) -> Reached {
    let login = LoginOptions::unattended();
    // With the agent in its place, the first channel is the only one, and sessions can be counted.
    let placing = Masters::start(machine.options(), &login, Arc::new(Unattended)).await.unwrap();
    drop(place(placing.options()).await);
    placing.close().await;
    let masters = Masters::start(machine.options(), &login, opener).await.unwrap();
    let options = masters.options();
    let control = place(options).await;
    let program = control.client.describe().await.unwrap().program;
    let dial = Dial::Ssh(options.dial(ByteString::from(program)));
    Reached { masters, control, dial }
}

async fn place(options: &SshOptions) -> Connection {
    let agents = agents();
    let placing = connect_placing(options, &agents, ConnectOptions::default(), Arc::new(NoEvents));
    tokio::time::timeout(DEADLINE, placing).await.unwrap().unwrap()
}

/// A channel to the agent, as a worker opens it.
pub async fn channel(dial: &Dial) -> Result<Connection, OpenError> {
    let host = HostOptions::default();
    let opening = connect(dial, &host, ConnectOptions::default(), Arc::new(NoEvents));
    tokio::time::timeout(DEADLINE, opening).await.unwrap()
}

async fn channels(dial: &Dial, count: usize) -> Vec<Result<Connection, OpenError>> {
    let mut opening = JoinSet::new();
    for _ in 0..count {
        let dial = dial.clone();
        opening.spawn(async move { channel(&dial).await });
    }
    opening.join_all().await
}

fn sockets(machine: &Machine) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(machine.path("run")).unwrap().map(|entry| entry.unwrap());
    entries.filter(|entry| !entry.file_type().unwrap().is_file()).map(|entry| entry.path()).collect()
}

/// The sockets that the system knows by this path: one that listens, and those it has accepted.
fn sockets_at(path: &Path) -> usize {
    let table = std::fs::read_to_string("/proc/net/unix").unwrap();
    table.lines().filter(|line| line.ends_with(path.to_str().unwrap())).count()
}

/// Counts the logins after the first.
struct Counting(Arc<AtomicUsize>);

impl OpenMaster for Counting {
    fn open(&self, options: SshOptions) -> OpeningMaster {
        self.0.fetch_add(1, Ordering::Relaxed);
        Unattended.open(options)
    }
}

#[tokio::test]
async fn as_many_masters_are_opened_as_the_channels_need_and_all_end_together() {
    let machine = Machine::start_with("MaxSessions 2");
    let logins = Arc::new(AtomicUsize::new(0));
    let reached = reach(&machine, Arc::new(Counting(logins.clone()))).await;
    let opened = channels(&reached.dial, 7).await;
    for channel in &opened {
        channel.as_ref().unwrap().client.ping().await.unwrap();
    }
    // With the control channel, eight sessions: two for each master.
    assert_eq!(logins.load(Ordering::Relaxed), 3);
    let pids = reached.masters.pids();
    assert_eq!(pids.len(), 4);
    assert!(pids.iter().all(|pid| is_running(*pid)));
    assert_eq!(sockets(&machine).len(), 5, "four of masters, one for requests");

    reached.masters.close().await;
    assert_eq!(sockets(&machine), [] as [&Path; 0]);
    assert!(!pids.iter().any(|pid| is_running(*pid)));
    assert!(!reached.masters.is_open());
    for channel in opened {
        let client = channel.unwrap().client;
        until(|| client.is_lost()).await;
    }
    let error = channel(&reached.dial).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Unreachable, "{error}");
}

#[tokio::test]
async fn sessions_that_are_given_back_are_used_again() {
    let machine = Machine::start_with("MaxSessions 2");
    let logins = Arc::new(AtomicUsize::new(0));
    let reached = reach(&machine, Arc::new(Counting(logins.clone()))).await;
    for _ in 0..5 {
        let opened = channels(&reached.dial, 3).await;
        for channel in opened {
            let Connection { client, program } = channel.unwrap();
            client.ping().await.unwrap();
            client.close_link();
            drop(client);
            program.ended().await;
        }
    }
    // Fifteen channels with the control channel are eight times two. A server that is slow to take note of the end of a
    // session may cause a login that was not needed.
    assert!(logins.load(Ordering::Relaxed) < 7);
}

#[tokio::test]
async fn the_agent_is_placed_where_a_master_has_one_session() {
    let machine = Machine::start_with("MaxSessions 1");
    let login = LoginOptions::unattended();
    let masters = Masters::start(machine.options(), &login, Arc::new(Unattended)).await.unwrap();
    // Three channels, one after the other. A server may take a moment to take note that one has ended.
    let connection = place(masters.options()).await;
    connection.client.ping().await.unwrap();
    assert_eq!(machine.placed().len(), 1);
}

#[tokio::test]
async fn a_further_master_that_is_killed_takes_its_channels_with_it_and_is_replaced() {
    let machine = Machine::start_with("MaxSessions 2");
    let reached = reach(&machine, Arc::new(Unattended)).await;
    let first = channel(&reached.dial).await.unwrap();
    let second = channel(&reached.dial).await.unwrap();
    let pids = reached.masters.pids();
    let further = *pids.last().unwrap();
    assert_eq!(pids.len(), 2);
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(further.cast_signed()).unwrap(),
        rustix::process::Signal::KILL,
    )
    .unwrap();
    until(|| second.client.is_lost()).await;
    until(|| reached.masters.pids().len() == 1).await;
    assert!(reached.masters.is_open());
    first.client.ping().await.unwrap();
    let third = channel(&reached.dial).await.unwrap();
    third.client.ping().await.unwrap();
    assert_eq!(reached.masters.pids().len(), 2);
    assert_eq!(sockets(&machine).len(), 3);
}

#[tokio::test]
async fn dropping_the_masters_ends_them() {
    let machine = Machine::start_with("MaxSessions 1");
    let reached = reach(&machine, Arc::new(Unattended)).await;
    let _second = channel(&reached.dial).await.unwrap();
    let (pids, end) = (reached.masters.pids(), reached.masters.end());
    assert_eq!(pids.len(), 2);
    assert!(!end.has_come());
    drop(reached);
    tokio::time::timeout(DEADLINE, end.wait()).await.unwrap();
    assert_eq!(sockets(&machine), [] as [&Path; 0]);
    assert!(!pids.iter().any(|pid| is_running(*pid)));
}

#[tokio::test]
async fn a_login_that_fails_is_tried_once_for_all_who_wait_and_told_to_each() {
    let machine = Machine::start_with("MaxSessions 1");
    let logins = Arc::new(AtomicUsize::new(0));
    let (gate, opened) = tokio::sync::watch::channel(false);
    let reached = reach(&machine, Arc::new(Gated { logins: logins.clone(), opened })).await;
    machine.write_client_config("other", "");
    let dial = reached.dial.clone();
    let waiting = tokio::spawn(async move { channels(&dial, 5).await });
    // The socket at which they ask, and the end of each that asks: none comes when the others have been answered.
    until(|| sockets_at(&reached.masters.options().control.with_extension("more")) == 6).await;
    gate.send_replace(true);
    for refused in waiting.await.unwrap() {
        let error = refused.err().unwrap();
        assert!(matches!(error, OpenError::Ssh(SshError::NoFurtherMaster { .. })), "{error:?}");
        assert_eq!(error.kind(), ErrorKind::Refused);
        let why = std::error::Error::source(&error).unwrap().to_string();
        assert!(why.contains("refused the login"), "{why}");
    }
    assert_eq!(logins.load(Ordering::Relaxed), 1);
    // The masters that are there go on, and a later request is another login.
    reached.control.client.ping().await.unwrap();
    machine.write_client_config("id", "");
    channel(&reached.dial).await.unwrap().client.ping().await.unwrap();
}

/// Logs in once the test lets it.
struct Gated {
    logins: Arc<AtomicUsize>,
    opened: tokio::sync::watch::Receiver<bool>,
}

impl OpenMaster for Gated {
    fn open(&self, options: SshOptions) -> OpeningMaster {
        self.logins.fetch_add(1, Ordering::Relaxed);
        let mut opened = self.opened.clone();
        Box::pin(async move {
            opened.wait_for(|opened| *opened).await.unwrap();
            Unattended.open(options).await
        })
    }
}
