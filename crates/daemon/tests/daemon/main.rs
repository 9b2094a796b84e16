//! A real daemon with workers that only play being workers.
//!
//! The daemon, its workers and its agent are this test program itself, run again with the name of one of the ignored
//! tests below. What a worker plays is said by the mount's options.

#![allow(clippy::unwrap_used, reason = "a failure of a test's own means is a failure of the test")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use daemon::mount::worker::{Launch, Programs};
use daemon::owner::Monitoring;
use daemon::{Mode, Options};
use remote::transport::host::HostOptions;
use supervisor::Identity;
use supervisor::keeper::{DEATHS_MAX, Inheritance, KEEPER_SOCKET, Plan, Tether};
use wire::api::daemon::{DaemonStatus, Fate, Stop, Stopped};
use wire::api::event::{
    EVENTS_WAITING_MAX, Happened, ProcessState, SUBSCRIPTIONS_MAX, Subscribe, Topic, Unsubscribe,
};
use wire::api::machine::{Caller, Machine, Reconnect, Source};
use wire::api::mount::{Access, Backend, BackendName, Create, Force, Remove, Removed, SyncMode, Target};
use wire::api::status::{ConnectionState, Document, Health, Journal, Mount, MountStatus, NfsExport};
use wire::api::{
    self, Call, ErrorKind, ErrorObject, Request, RequestId, Response, ServerMessage, ServerNotification,
};
use wire::bytestring::ByteString;
use wire::paths::Paths;
use wire::worker::{
    CONFIG, Decoder, FromWorker, MountConfig, Ready, Stopping, ToWorker, WorkerError, WorkerStatus, encode,
};

mod events;
mod life;

use life::{Client, Life, start_daemon};

const DEADLINE: Duration = Duration::from_secs(60);

/// How long processes of a daemon that was killed may take to see that it is gone.
const LEAVE_TIME: Duration = Duration::from_secs(10);

fn again(test: &str) -> (PathBuf, Vec<String>) {
    let arguments = ["--ignored", "--exact", "--nocapture", "--test-threads=1", test];
    (std::env::current_exe().unwrap(), arguments.map(str::to_owned).to_vec())
}

fn eventually(what: &str, condition: impl FnMut() -> bool) {
    assert!(holds_within(DEADLINE, condition), "{what}: not within the deadline");
}

/// Whether `condition` came to hold within `time`.
fn holds_within(time: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + time;
    while !condition() {
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::park_timeout(Duration::from_millis(2));
    }
    true
}

#[test]
#[ignore = "run by the other tests as the daemon"]
fn play_daemon() {
    let home = std::env::var_os("STEAD_HOME").expect("the test sets it");
    let paths = Paths::new(0, |name| (name == "STEAD_HOME").then(|| home.clone())).unwrap();
    let part = |test| {
        let (program, arguments) = again(test);
        Launch { program, arguments: arguments.into_iter().map(Into::into).collect() }
    };
    let programs = Programs { keeper: part("play_keeper"), worker: part("play_worker") };
    let (program, arguments) = again("play_agent");
    let agent = HostOptions { program, arguments: arguments.into_iter().map(Into::into).collect() };
    let probe = part("play_probe");
    let interval = std::env::var("PROBE_INTERVAL_MS").ok().and_then(|text| text.parse().ok());
    // What a worker only plays does not answer: it is watched by the tests that are about that.
    let interval = interval.map_or(Duration::from_secs(3600), Duration::from_millis);
    let monitoring = Monitoring { interval, probe };
    let options = Options { paths, mode: Mode::Foreground, programs, agent, monitoring };
    if let Err(error) = daemon::run(options) {
        println!("{}", serde_json::to_string(&error).unwrap());
        std::process::exit(error.kind().exit_code().into());
    }
}

#[test]
#[ignore = "run by the daemon as this computer's agent"]
fn play_agent() {
    agent::main([]);
}

#[test]
#[ignore = "run by the daemon to ask the kernel"]
fn play_probe() {}

/// What follows the name of the test.
fn inheritance() -> Inheritance {
    let arguments = std::env::args_os().skip_while(|argument| argument != "--test-threads=1").skip(2);
    // SAFETY: the test harness opens nothing that it was not started with, and these are named in the arguments.
    unsafe { Inheritance::take(arguments) }.unwrap()
}

#[test]
#[ignore = "run by the daemon as a keeper"]
fn play_keeper() {
    supervisor::keeper::run(inheritance(), |_| ()).unwrap();
}

#[test]
#[ignore = "run by a keeper as its worker"]
fn play_worker() {
    let inheritance = inheritance();
    let config = std::fs::read(inheritance.directory.join(CONFIG)).unwrap();
    let config: MountConfig = serde_json::from_slice(&config).unwrap();
    let (tether, control, kept) = Tether::new(inheritance).unwrap();
    let (tether, listener) = (Arc::new(tether), UnixListener::from(control));
    let minding = Arc::clone(&tether);
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(minding.mind());
    });
    let role = config.options.get("play").cloned().unwrap_or_default();
    let mut port = 2049;
    if role == "answer" {
        port = answer_null_calls(&tether, kept.into_iter().next().map(|kept| kept.descriptor));
    } else if kept.is_empty() {
        let null = std::fs::File::open("/dev/null").unwrap();
        if !["fail", "die", "babble", "hang"].contains(&role.as_str()) {
            tether.hand_over("null", &[null.as_fd()]).unwrap();
        }
    } else if role == "doomed" {
        eprintln!("this world is not for me");
        std::process::exit(4);
    }
    // One after the other: a daemon that is killed hangs up.
    for control in listener.incoming() {
        FakeWorker { control: control.unwrap(), decoder: Decoder::new(), tether: &tether, port }
            .play(&config, &role);
    }
}

struct FakeWorker<'a> {
    control: UnixStream,
    decoder: Decoder,
    tether: &'a Tether,
    /// What it says that it listens at.
    port: u16,
}

impl FakeWorker<'_> {
    fn next(&mut self) -> Option<ToWorker> {
        loop {
            if let Some(message) = self.decoder.next_frame().unwrap() {
                return Some(message);
            }
            let mut bytes = [0; 4096];
            match self.control.read(&mut bytes) {
                Ok(0) | Err(_) => return None,
                Ok(count) => self.decoder.push(&bytes[..count]),
            }
        }
    }

    /// A daemon that is gone is not told.
    fn say(&self, message: &FromWorker) {
        let _ = (&self.control).write_all(&encode(message).unwrap());
    }

    /// Says something last, and ends.
    fn leave(&self, message: &FromWorker) -> ! {
        self.tether.leaving();
        self.say(message);
        std::process::exit(0);
    }

    fn play(self, config: &MountConfig, role: &str) {
        match role {
            "fail" => {
                let hint = Some("try something else".to_owned());
                let message = "there is no such tree".to_owned();
                self.leave(&FromWorker::Error(WorkerError { kind: ErrorKind::NotFound, message, hint }));
            }
            "die" => {
                eprintln!("something went wrong in here");
                std::process::exit(3);
            }
            "babble" => {
                (&self.control).write_all(b"GET / HTTP/1.1\r\n").unwrap();
                return self.sleep();
            }
            "hang" => return self.sleep(),
            _ => {}
        }
        self.say(&FromWorker::Ready(Ready {
            backend: BackendName::Nfs,
            connection: None,
            port: Some(self.port),
            nfs: Some(NfsExport { port: self.port, export: "/stead".to_owned() }),
            degraded: Some("this is only a play".to_owned()),
            agent_version: None,
            pid: Some(std::process::id()),
            restarts: Some(self.tether.restarts()),
            replayed: None,
        }));
        self.tether.progress();
        self.serve(config, role);
    }

    fn serve(mut self, config: &MountConfig, role: &str) {
        let mut requests = 0;
        while let Some(message) = self.next() {
            match message {
                // Its link was lost, and is there again.
                ToWorker::Reconnect if role == "flaky" => {
                    let reason = Some("the stream ended".to_owned());
                    self.say(&FromWorker::Status(Box::new(WorkerStatus {
                        reason,
                        ..status(MountStatus::Reconnecting)
                    })));
                    self.say(&FromWorker::Status(Box::new(status(MountStatus::Active))));
                }
                ToWorker::Reconnect => {}
                ToWorker::Flush { number } => self.say(&FromWorker::Flushed { through: number }),
                ToWorker::ListChanged { number, .. } => {
                    self.say(&FromWorker::ListedChanged { number, failed: None });
                }
                ToWorker::Status => {
                    requests += 1;
                    let mut status = status(MountStatus::Active);
                    status.counters.requests = requests;
                    self.say(&FromWorker::Status(Box::new(status)));
                }
                ToWorker::Stop { force: Force::Never } if role == "busy" => {
                    let message = "it is in use".to_owned();
                    self.say(&FromWorker::Error(WorkerError {
                        kind: ErrorKind::Conflict,
                        message,
                        hint: None,
                    }));
                }
                // It flushes, and is never done.
                ToWorker::Stop { force: Force::Never } if role == "slow" => {}
                ToWorker::Stop { .. } => {
                    let mut kept_aside = Vec::new();
                    if role == "keep" {
                        let kept = config.state_dir.as_path().join("conflict");
                        std::fs::write(&kept, "unsaved").unwrap();
                        kept_aside.push(ByteString::from(kept));
                    }
                    self.leave(&FromWorker::Stopping(Stopping { kept_aside }));
                }
            }
        }
        // The daemon has gone, and the next one will come.
    }

    fn sleep(&self) {
        loop {
            std::thread::park();
        }
    }
}

fn status(status: MountStatus) -> WorkerStatus {
    WorkerStatus {
        status,
        reason: None,
        journal: Journal::default(),
        counters: Default::default(),
        operations: Default::default(),
        degraded: None,
        kept_aside: Vec::new(),
        replayed: None,
    }
}

/// Answers calls of the NULL procedure of NFS on a socket that all workers of a mount share. Returns its port.
fn answer_null_calls(tether: &Tether, kept: Option<OwnedFd>) -> u16 {
    let listener = match kept {
        Some(listener) => TcpListener::from(listener),
        None => {
            let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
            tether.hand_over("nfs", &[listener.as_fd()]).unwrap();
            listener
        }
    };
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, mut call) = (stream.unwrap(), [0; 44]);
            // Whoever hangs up before the end wants no answer.
            if stream.read_exact(&mut call).is_ok() {
                let mut reply = [0; 28];
                reply[..4].copy_from_slice(&0x8000_0018_u32.to_be_bytes());
                reply[4..8].copy_from_slice(&call[4..8]);
                reply[11] = 1;
                let _ = stream.write_all(&reply);
            }
        }
    });
    port
}

/// Whether it runs. One that was taken away from its parent may stay a zombie where nobody reaps orphans.
fn exists(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    Identity::of(pid).is_ok() && !stat.contains(") Z ")
}

fn worker(mount: &Mount) -> u32 {
    mount.worker.unwrap().pid
}

#[test]
fn a_mount_serves_is_shown_and_goes_without_a_trace() {
    let life = Life::begin();
    let mount = life.mount("", "m");
    assert_eq!(mount.dir.as_path(), life.path("m"));
    assert_eq!((mount.backend, mount.port), (BackendName::Nfs, Some(2049)));
    assert_eq!(mount.nfs, Some(NfsExport { port: 2049, export: "/stead".to_owned() }));
    assert_eq!(mount.degraded.as_deref(), Some("this is only a play"));
    assert!(exists(worker(&mount)) && life.path("m").is_dir());

    let document = life.document();
    assert_eq!(document.mounts.len(), 1);
    assert_eq!((document.mounts[0].id, &document.mounts[0].status), (mount.id, &MountStatus::Active));
    assert_eq!(document.mounts[0].counters.requests, 1);
    assert_eq!(document.machines[0].machine, Machine::Host);

    let removed = life.unmount(&mount, Force::Never).unwrap();
    assert_eq!((removed.mounts.len(), removed.mounts[0].id), (1, mount.id));
    assert!(!exists(worker(&mount)));
    assert!(life.document().mounts.is_empty());
    assert_eq!(life.leftovers(), Vec::<String>::new());
    assert_eq!(life.unmount(&mount, Force::Never).unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn a_mount_without_a_directory_gets_one_of_its_own() {
    let life = Life::begin();
    let first: Mount = life.client().call(life.create("", None)).unwrap();
    assert_eq!(first.dir.as_path(), life.path("mnt/src"));
    let removed = life.client().call(Remove { target: Target::Dir(first.dir.clone()), force: Force::Never });
    assert_eq!(removed.unwrap().mounts[0].dir, first.dir);
    assert_eq!(life.leftovers(), Vec::<String>::new());
}

#[test]
fn workers_that_do_not_get_to_serve_leave_nothing() {
    let life = Life::begin();
    let cases = [
        ("fail", ErrorKind::NotFound, "there is no such tree"),
        ("die", ErrorKind::Failure, "its worker ended with status 3: something went wrong in here"),
        ("babble", ErrorKind::Failure, "the worker does not keep to the protocol"),
    ];
    for (role, kind, words) in cases {
        let error = life.client().call(life.create(role, Some("m"))).unwrap_err();
        assert_eq!(error.kind(), kind, "{role}: {error}");
        assert!(error.message.contains(words), "{role}: {error}");
        assert!(life.document().mounts.is_empty(), "{role}");
        assert_eq!(life.leftovers(), Vec::<String>::new(), "{role}");
    }
    assert_eq!(children_of(life.daemon.id()), Vec::<u32>::new());
}

/// Also those that have ended and were not reaped.
fn children_of(pid: u32) -> Vec<u32> {
    let mut children = Vec::new();
    for task in std::fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
        let listed = std::fs::read_to_string(task.unwrap().path().join("children")).unwrap_or_default();
        children.extend(listed.split_whitespace().map(|pid| pid.parse::<u32>().unwrap()));
    }
    children
}

#[test]
fn a_client_that_goes_away_takes_its_unfinished_mount_along() {
    let life = Life::begin();
    let mut client = life.client();
    client.send(life.create("hang", Some("m")));
    eventually("the worker runs", || !children_of(life.daemon.id()).is_empty());
    drop(client);
    eventually("the worker is gone", || children_of(life.daemon.id()).is_empty());
    eventually("nothing is left", || life.leftovers().is_empty());
}

fn kill(pid: u32) {
    signal(pid, rustix::process::Signal::KILL);
}

fn signal(pid: u32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

#[test]
fn a_killed_worker_has_a_successor_and_that_is_told() {
    let life = Life::begin();
    let (one, two) = (life.mount("", "one"), life.mount("", "two"));
    let mut watcher = life.watch(&[Topic::Mount]);
    kill(worker(&one));
    watcher.expect(&["mount m1 recovering", "mount m1 active"]);
    let shown = life.shown(&one);
    assert_eq!((&shown.status, shown.worker.unwrap().restarts), (&MountStatus::Active, 1));
    assert!(exists(worker(&shown)) && worker(&shown) != worker(&one));
    assert_eq!(life.shown(&two).worker, two.worker);
    eventually("the report is told", || life.shown(&one).crash.is_some());
    let crash = life.shown(&one).crash.unwrap();
    assert!(crash.message.contains("ended with signal 9"), "{}", crash.message);
    assert!(crash.report.as_path().exists());
    life.unmount(&one, Force::Never).unwrap();
    life.unmount(&two, Force::Never).unwrap();
    assert_eq!(life.leftovers(), Vec::<String>::new());
}

#[test]
fn a_mount_whose_workers_die_one_after_the_other_fails_and_no_other() {
    let mut life = Life::begin();
    let (one, two) = (life.mount("doomed", "one"), life.mount("", "two"));
    kill(worker(&one));
    eventually("the mount has failed", || life.shown(&one).status != MountStatus::Active);
    let check = |life: &Life| {
        let shown = life.shown(&one);
        let MountStatus::Failed { reason } = shown.status else { panic!("not failed") };
        assert_eq!(reason, "its worker ended with status 4: this world is not for me");
        assert_eq!((shown.worker, shown.crash.unwrap().message.as_str()), (None, "this world is not for me"));
        assert_eq!(life.shown(&two).status, MountStatus::Active);
    };
    check(&life);
    let reports = std::fs::read_dir(life.paths().mount_state_dir(one.id)).unwrap();
    let is_report = |name: &str| name.starts_with("crash-");
    let reports = reports.filter(|entry| is_report(entry.as_ref().unwrap().file_name().to_str().unwrap()));
    assert_eq!(reports.count(), DEATHS_MAX as usize + 1);
    // So it is for the next daemon.
    life.kill_and_begin_again();
    check(&life);

    let error = life.client().call(life.create("", Some("one"))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    life.unmount(&one, Force::Never).unwrap();
    life.mount("", "one");
}

#[test]
fn a_killed_keeper_is_replaced_and_the_mount_does_not_notice() {
    let life = Life::begin();
    let mount = life.mount("", "m");
    let keeper = life.keeper(&mount);
    kill(keeper);
    let socket = life.paths().mount_state_dir(mount.id);
    eventually("there is another keeper", || {
        let stream = supervisor::socket::connect_in(&socket, KEEPER_SOCKET);
        let mut line = String::new();
        stream.is_ok_and(|stream| BufReader::new(stream).read_line(&mut line).is_ok_and(|read| read > 0))
    });
    assert_eq!(life.shown(&mount).worker, mount.worker);
    kill(worker(&mount));
    eventually("there is a successor", || {
        life.shown(&mount).worker.is_some_and(|worker| worker.restarts == 1)
    });
    life.unmount(&mount, Force::Never).unwrap();
    assert_eq!(life.leftovers(), Vec::<String>::new());
}

#[test]
fn a_mount_whose_processes_are_all_killed_has_failed() {
    let life = Life::begin();
    let mount = life.mount("", "m");
    let keeper = life.keeper(&mount);
    // Stopped, it cannot start a successor before it is killed itself.
    let stop = rustix::process::Pid::from_raw(keeper as i32).unwrap();
    rustix::process::kill_process(stop, rustix::process::Signal::STOP).unwrap();
    kill(worker(&mount));
    kill(keeper);
    eventually("the mount has failed", || life.shown(&mount).status != MountStatus::Active);
    let MountStatus::Failed { reason } = life.shown(&mount).status else { panic!("not failed") };
    assert!(reason.contains("were killed"), "{reason}");
    life.unmount(&mount, Force::Never).unwrap();
    assert_eq!(life.leftovers(), Vec::<String>::new());
}

#[test]
fn a_mount_in_use_stays_unless_it_is_forced() {
    let life = Life::begin();
    let mount = life.mount("busy", "m");
    let error = life.unmount(&mount, Force::Never).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.message.contains("it is in use"), "{error}");
    assert_eq!(life.document().mounts[0].status, MountStatus::Active);
    life.unmount(&mount, Force::Always).unwrap();
    assert_eq!(life.leftovers(), Vec::<String>::new());
}

#[test]
fn force_ends_the_waiting_for_a_flush() {
    let life = Life::begin();
    let mount = life.mount("slow", "m");
    let mut patient = life.client();
    patient.send(Remove { target: Target::Id(mount.id), force: Force::Never });
    // It is asked how it does while it flushes, and so is known to be alive.
    eventually("the worker flushes", || life.document().mounts[0].counters.requests > 1);
    life.unmount(&mount, Force::Always).unwrap();
    assert!(patient.response().outcome.is_ok());
    assert!(!exists(worker(&mount)));
    assert_eq!(life.leftovers(), Vec::<String>::new());
}

#[test]
fn what_could_not_be_saved_is_kept_and_told() {
    let life = Life::begin();
    let mount = life.mount("keep", "m");
    let removed = life.unmount(&mount, Force::Always).unwrap();
    let kept = removed.mounts[0].kept_aside[0].as_path().to_owned();
    assert_eq!(std::fs::read_to_string(kept).unwrap(), "unsaved");
}

#[test]
fn one_directory_holds_one_mount() {
    let life = Life::begin();
    life.mount("", "m");
    let error = life.client().call(life.create("", Some("m"))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    let inside = life.client().call(life.create("", Some("src/m"))).unwrap_err();
    assert_eq!(inside.kind(), ErrorKind::Conflict, "{inside}");
    assert_eq!(life.document().mounts.len(), 1);
}

#[test]
fn a_daemon_that_is_told_to_stop_takes_its_mounts_along() {
    let mut life = Life::begin();
    let mounts = [life.mount("", "one"), life.mount("", "two"), life.mount("busy", "three")];
    let stop = |force| Stop { force, mounts: Fate::Unmounted };
    let error = life.client().call(stop(Force::Never)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    assert_eq!(life.document().mounts.len(), 1);
    life.mount("", "four");

    let stopped: Stopped = life.client().call(stop(Force::Always)).unwrap();
    assert_eq!(stopped.pid, life.daemon.id());
    assert!(life.daemon.wait().unwrap().success());
    assert!(mounts.iter().all(|mount| !exists(worker(mount))));
    assert!(!life.paths().socket().exists());
    assert_eq!(life.leftovers(), Vec::<String>::new());
}

#[test]
fn a_signal_ends_the_daemon_in_an_orderly_way() {
    let mut life = Life::begin();
    let mounts = [life.mount("", "one"), life.mount("busy", "two")];
    let pid = rustix::process::Pid::from_raw(life.daemon.id() as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert!(life.daemon.wait().unwrap().success());
    assert!(mounts.iter().all(|mount| !exists(worker(mount))));
    assert_eq!(life.leftovers(), Vec::<String>::new());
}

#[test]
fn what_a_killed_daemon_left_is_gone_on_with_by_the_next() {
    let mut life = Life::begin();
    let mount = life.mount("", "m");
    life.kill_and_begin_again();
    let shown = life.shown(&mount);
    assert_eq!((&shown.status, shown.worker), (&MountStatus::Active, mount.worker));
    assert_eq!((&shown.dir, shown.port, &shown.nfs), (&mount.dir, mount.port, &mount.nfs));
    eventually("the machine is connected to", || life.document().connections.len() == 1);
    let again = life.client().call(life.create("", Some("m"))).unwrap_err();
    assert_eq!(again.kind(), ErrorKind::Conflict, "{again}");
    let next = life.mount("", "n");
    assert!(next.id > mount.id, "{} is used again", mount.id);
    // This daemon looks after it as the one before did.
    kill(worker(&mount));
    eventually("there is a successor", || {
        life.shown(&mount).worker.is_some_and(|worker| worker.restarts == 1)
    });
    let successor = worker(&life.shown(&mount));
    life.unmount(&mount, Force::Never).unwrap();
    life.unmount(&next, Force::Never).unwrap();
    assert!(!exists(successor));
    assert_eq!(life.leftovers(), Vec::<String>::new());
}

#[test]
fn what_died_with_the_daemon_is_taken_away_by_the_next() {
    let mut life = Life::begin();
    let mount = life.mount("", "m");
    let keeper = life.keeper(&mount);
    life.daemon.kill().unwrap();
    kill(keeper);
    kill(worker(&mount));
    life.kill_and_begin_again();
    assert!(life.document().mounts.is_empty());
    assert_eq!(life.leftovers(), Vec::<String>::new());
    assert!(!exists(keeper) && !exists(worker(&mount)));
}

#[test]
fn a_mount_that_did_not_serve_when_its_daemon_was_killed_is_taken_away() {
    let mut life = Life::begin();
    let mut client = life.client();
    client.send(life.create("hang", Some("m")));
    eventually("the worker runs", || {
        children_of(life.daemon.id()).into_iter().any(|pid| !children_of(pid).is_empty())
    });
    let keepers = children_of(life.daemon.id());
    life.kill_and_begin_again();
    assert!(life.document().mounts.is_empty());
    assert_eq!(life.leftovers(), Vec::<String>::new());
    assert!(keepers.into_iter().all(|keeper| !exists(keeper)));
}

#[test]
fn a_daemon_that_leaves_its_mounts_is_followed_by_one_that_has_them() {
    let mut life = Life::begin();
    let mounts = [life.mount("", "one"), life.mount("busy", "two")];
    let mut starting = life.client();
    let unfinished = starting.send(life.create("hang", Some("three")));
    eventually("all workers run", || children_of(life.daemon.id()).len() == 3);
    let stopped = life.client().call(Stop { force: Force::Never, mounts: Fate::Left }).unwrap();
    assert_eq!(stopped.pid, life.daemon.id());
    // It cannot be left to the next daemon, and is not.
    let told = starting.response();
    assert_eq!((told.id, told.outcome.unwrap_err().kind()), (Some(unfinished), ErrorKind::Interrupted));
    assert!(life.daemon.wait().unwrap().success());
    assert!(mounts.iter().all(|mount| exists(worker(mount))));
    life.kill_and_begin_again();
    for mount in &mounts {
        let shown = life.shown(mount);
        assert_eq!((&shown.status, shown.worker), (&MountStatus::Active, mount.worker));
        life.unmount(mount, Force::Always).unwrap();
    }
    assert!(mounts.iter().all(|mount| !exists(worker(mount))));
    assert_eq!(life.leftovers(), Vec::<String>::new());
}

#[test]
fn whoever_waits_for_a_flush_is_told_that_the_daemon_leaves_the_mount() {
    let mut life = Life::begin();
    let mount = life.mount("slow", "m");
    let mut patient = life.client();
    patient.send(Remove { target: Target::Id(mount.id), force: Force::Never });
    eventually("the worker flushes", || life.document().mounts[0].counters.requests > 1);
    life.client().call(Stop { force: Force::Never, mounts: Fate::Left }).unwrap();
    assert_eq!(patient.response().outcome.unwrap_err().kind(), ErrorKind::Conflict);
    assert!(life.daemon.wait().unwrap().success());
    assert!(exists(worker(&mount)));
    life.kill_and_begin_again();
    life.unmount(&mount, Force::Always).unwrap();
}

#[test]
fn a_mount_whose_keeper_is_silent_is_gone_on_with() {
    let mut life = Life::begin();
    let mount = life.mount("", "m");
    let keeper = life.keeper(&mount);
    signal(keeper, rustix::process::Signal::STOP);
    life.kill_and_begin_again();
    assert_eq!(life.shown(&mount).status, MountStatus::Active);
    assert!(exists(worker(&mount)));
    signal(keeper, rustix::process::Signal::CONT);
    eventually("the worker is known", || life.shown(&mount).worker == mount.worker);
    life.unmount(&mount, Force::Never).unwrap();
    assert_eq!(life.leftovers(), Vec::<String>::new());
}

#[test]
fn a_mount_whose_configuration_cannot_be_read_is_gone_on_with() {
    let mut life = Life::begin();
    let mount = life.mount("", "m");
    std::fs::write(life.paths().mount_state_dir(mount.id).join(CONFIG), "{").unwrap();
    life.kill_and_begin_again();
    let shown = life.shown(&mount);
    assert_eq!((shown.status, shown.worker), (MountStatus::Active, mount.worker));
    life.unmount(&mount, Force::Never).unwrap();
    assert_eq!(life.leftovers(), Vec::<String>::new());
}

#[test]
fn there_is_one_daemon_for_a_state_directory() {
    let life = Life::begin();
    let mut second = start_daemon(life.home.path(), &[]);
    assert_eq!(second.wait().unwrap().code(), Some(ErrorKind::Conflict.exit_code().into()));
    assert_eq!(life.document().daemon.pid, life.daemon.id());
}

#[test]
fn an_idle_daemon_is_small() {
    let life = Life::begin();
    let status: DaemonStatus = life.client().call(api::daemon::Status {}).unwrap();
    assert_eq!(status.pid, life.daemon.id());
    // What is its own. The rest is of the program itself, which is several times as large here as where it is optimised.
    let said = std::fs::read_to_string(format!("/proc/{}/status", status.pid)).unwrap();
    let own = said.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    let own: u64 = own.trim().strip_suffix(" kB").unwrap().parse().unwrap();
    assert!(own < 8 << 10, "{own} KiB");
    assert!(status.resident_bytes < 32 << 20, "{} bytes", status.resident_bytes);
    assert_eq!(status.log.as_path(), life.home.path().join("daemon.log"));
}

#[test]
fn what_is_not_a_request_is_answered_and_the_session_goes_on() {
    let life = Life::begin();
    let mut client = life.client();
    client.write(b"GET / HTTP/1.1\n\n{\"jsonrpc\":\"2.0\",\"id\":5,\"method\":\"no.such\"}\n");
    let first = client.response();
    assert_eq!((first.id, first.outcome.unwrap_err().code), (None, api::error::PARSE));
    let second = client.response();
    assert_eq!(second.id, Some(RequestId::Number(5)));
    assert_eq!(second.outcome.unwrap_err().code, api::error::METHOD_NOT_FOUND);
    client.call(api::daemon::Hello::ours()).unwrap().check().unwrap();
}

#[test]
fn requests_of_one_client_run_side_by_side() {
    let life = Life::begin();
    let mut client = life.client();
    let slow = client.send(life.create("hang", Some("m")));
    let quick = client.send(api::daemon::Status {});
    assert_eq!(client.response().id, Some(quick));
    drop(slow);
}

#[test]
fn a_client_may_not_ask_on_behalf_of_others() {
    let life = Life::begin();
    let mut create = life.create("", Some("m"));
    create.caller.uid += 1;
    // Root may.
    if rustix::process::getuid().is_root() {
        return;
    }
    assert_eq!(life.client().call(create).unwrap_err().kind(), ErrorKind::Refused);
}

fn run(life: &Life, command: &[&str]) -> api::process::Run {
    api::process::Run {
        machine: Machine::Host,
        command: command.iter().map(|word| ByteString::from(*word)).collect(),
        cwd: Some(life.path("src").into()),
        environment: vec![("STEAD_TEST".into(), "seen".into())],
        terminal: None,
        detached: false,
        caller: life.caller(),
    }
}

#[test]
fn a_command_has_its_input_output_and_status_on_the_connection() {
    let life = Life::begin();
    let mut client = life.client();
    let script = "echo out $STEAD_TEST; echo err >&2; cat; exit 7";
    let started = client.call(run(&life, &["sh", "-c", script])).unwrap();
    for bytes in [&b"through\n"[..], b""] {
        let bytes = api::file::Content(bytes.to_vec());
        let note = api::ClientNotification::from(api::process::Stdin { process: started.process, bytes });
        client.write(&note.to_line().unwrap());
    }
    let (mut out, mut err, mut taken) = (Vec::new(), Vec::new(), 0);
    let outcome = loop {
        match client.read() {
            ServerMessage::Notification(ServerNotification::ProcessStdout(note)) => out.extend(note.bytes.0),
            ServerMessage::Notification(ServerNotification::ProcessStderr(note)) => err.extend(note.bytes.0),
            ServerMessage::Notification(ServerNotification::ProcessStdinTaken(note)) => taken += note.bytes,
            ServerMessage::Notification(ServerNotification::ProcessExited(note)) => break note.outcome,
            other => panic!("unexpected: {other:?}"),
        }
    };
    assert_eq!(
        (String::from_utf8(out).unwrap().as_str(), err.as_slice(), taken),
        ("out seen\nthrough\n", &b"err\n"[..], 8)
    );
    assert_eq!(outcome, api::process::Outcome::Exited { code: 7 });
    eventually("the agent is gone", || children_of(life.daemon.id()).is_empty());
}

#[test]
fn a_command_that_does_not_exist_is_an_error() {
    let life = Life::begin();
    let error = life.client().call(run(&life, &["/no/such/program"])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
}

#[test]
fn a_command_ends_with_its_client_and_takes_signals_before_that() {
    let life = Life::begin();
    let mut client = life.client();
    let started = client.call(run(&life, &["sleep", "1000"])).unwrap();
    let note = api::ClientNotification::from(api::process::Signal { process: started.process, signal: 15 });
    client.write(&note.to_line().unwrap());
    let ServerMessage::Notification(ServerNotification::ProcessExited(exited)) = client.read() else {
        panic!("not the end")
    };
    assert_eq!(exited.outcome, api::process::Outcome::Signalled { signal: 15 });

    client.call(run(&life, &["sleep", "1000"])).unwrap();
    drop(client);
    eventually("the agent is gone", || children_of(life.daemon.id()).is_empty());
}

#[test]
fn files_are_written_read_listed_and_removed_without_a_mount() {
    use api::file::*;
    let life = Life::begin();
    let mut client = life.client();
    let source = |name: &str| Source::files(Machine::Host, life.path("src").join(name).as_path()).unwrap();
    let caller = life.caller();

    let purpose = Purpose::Write { create: Creation::Truncate, mode: 0o640 };
    let opened = client.call(Open { source: source("f"), purpose, caller: caller.clone() }).unwrap();
    let content = Content(vec![7; 100_000]);
    client.call(Write { handle: opened.handle, offset: 5, content }).unwrap();
    client.call(Sync { handle: opened.handle }).unwrap();
    client.call(Close { handle: opened.handle }).unwrap();
    assert_eq!(client.call(Close { handle: opened.handle }).unwrap_err().kind(), ErrorKind::NotFound);

    let entry =
        client.call(Stat { source: source("f"), links: Links::Follow, caller: caller.clone() }).unwrap();
    assert_eq!((entry.kind, entry.size, entry.mode), (FileKind::File, 100_005, 0o640));
    let found = std::fs::metadata(life.path("src/f")).unwrap();
    assert_eq!((entry.device, entry.inode), (found.dev(), found.ino()));

    let link = MakeLink { source: source("l"), target: "f".into(), caller: caller.clone() };
    client.call(link).unwrap();
    let kept = client.call(Stat { source: source("l"), links: Links::Keep, caller: caller.clone() }).unwrap();
    assert_eq!((kept.kind, kept.target), (FileKind::Link, Some("f".into())));

    let opened =
        client.call(Open { source: source("l"), purpose: Purpose::Read, caller: caller.clone() }).unwrap();
    let chunk = client.call(Read { handle: opened.handle, offset: 4, bytes: 3 }).unwrap();
    assert_eq!(chunk.content.0, [0, 7, 7]);
    let end = client.call(Read { handle: opened.handle, offset: 100_005, bytes: 3 }).unwrap();
    assert!(end.content.0.is_empty());

    client.call(MakeDirectory { source: source("d"), mode: 0o700, caller: caller.clone() }).unwrap();
    let opened = client.call(OpenDirectory { source: source(""), caller: caller.clone() }).unwrap();
    let mut names = Vec::new();
    loop {
        let listed = client.call(List { handle: opened.handle }).unwrap();
        names.extend(listed.entries.into_iter().map(|entry| entry.name.to_string()));
        if listed.progress == Progress::End {
            break;
        }
    }
    names.sort();
    assert_eq!(names, ["d", "f", "l"]);

    let taken = Taken::Replaced;
    client.call(Rename { source: source("f"), to: source("g"), taken, caller: caller.clone() }).unwrap();
    for name in ["d", "g", "l"] {
        client.call(Remove { source: source(name), caller: caller.clone() }).unwrap();
    }
    assert_eq!(std::fs::read_dir(life.path("src")).unwrap().count(), 0);
    let missing = client.call(Stat { source: source("f"), links: Links::Keep, caller }).unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound, "{missing}");
}

#[test]
fn the_doctor_looks_at_this_computer() {
    let life = Life::begin();
    let doctor = api::machine::Doctor { machine: Machine::Host, caller: life.caller() };
    let report = life.client().call(doctor).unwrap();
    let agent = report.checks.iter().find(|check| check.name == "agent").unwrap();
    assert_eq!(agent.verdict, api::machine::Verdict::Works, "{agent:?}");
}

#[test]
fn disconnecting_takes_away_the_mounts_and_processes_of_the_machine() {
    let life = Life::begin();
    let mounts = [life.mount("", "one"), life.mount("", "two")];
    let mut client = life.client();
    let process = client.call(run(&life, &["sleep", "1000"])).unwrap().process;
    let mut watcher = life.watch(&[Topic::Connection, Topic::Process]);
    let disconnect = api::machine::Disconnect { machine: Machine::Host, force: Force::Never };
    let gone = life.client().call(disconnect.clone()).unwrap();
    assert_eq!((gone.was, gone.mounts.len()), (ConnectionState::Connected, 2));
    let ServerMessage::Notification(ServerNotification::ProcessExited(exited)) = client.read() else {
        panic!("not the end")
    };
    let reason = "its connection was closed".to_owned();
    assert_eq!((exited.process, exited.outcome), (process, api::process::Outcome::Lost { reason }));
    watcher.expect(&["process p1 lost", "connection c1 disconnected"]);
    eventually("nobody is left", || children_of(life.daemon.id()).is_empty());
    assert!(mounts.iter().all(|mount| !exists(worker(mount))));
    let document = life.document();
    assert!(document.mounts.is_empty() && document.connections.is_empty() && document.processes.is_empty());
    assert_eq!(life.client().call(disconnect).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(life.leftovers(), Vec::<String>::new());
}

#[test]
fn a_mount_in_use_keeps_its_connection_unless_it_is_forced() {
    let life = Life::begin();
    let mount = life.mount("busy", "m");
    let disconnect = |force| life.client().call(api::machine::Disconnect { machine: Machine::Host, force });
    assert_eq!(disconnect(Force::Never).unwrap_err().kind(), ErrorKind::Conflict);
    let document = life.document();
    assert_eq!(document.connections[0].state, ConnectionState::Connected);
    assert_eq!(document.mounts[0].status, MountStatus::Active);
    disconnect(Force::Always).unwrap();
    assert!(!exists(worker(&mount)));
    assert_eq!(life.leftovers(), Vec::<String>::new());
}

#[test]
fn a_connection_is_kept_as_it_is_asked_for() {
    let life = Life::begin();
    let connect = |interval, failures| api::machine::Connect {
        machine: Machine::Host,
        reconnect: Reconnect::Never,
        heartbeat_interval_ms: interval,
        max_heartbeat_failures: failures,
        caller: life.caller(),
    };
    let error = life.client().call(connect(Some(1), None)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Usage, "{error}");
    // No heartbeat need be answered.
    let connection = life.client().call(connect(Some(500), Some(0))).unwrap();
    let again = life.client().call(life.redial()).unwrap();
    assert_eq!((again.id, again.state), (connection.id, ConnectionState::Connected));
}

#[test]
fn a_mount_that_does_not_answer_is_told_by_its_probe() {
    let life = Life::begin_with(&[("PROBE_INTERVAL_MS", "100")]);
    let mut watcher = life.watch(&[Topic::Mount]);
    // Nobody listens at the port that this worker names.
    life.mount("", "m");
    watcher.expect(&["mount m1 active", "mount m1 recovering"]);
    let document = life.document();
    assert!(matches!(document.mounts[0].health, Health::Failed { .. }), "{:?}", document.mounts[0].health);
    assert_eq!(document.mounts[0].status, MountStatus::Active);
}
