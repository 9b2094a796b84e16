//! A real daemon with workers that only play being workers.
//!
//! The daemon, its workers and its agent are this test program itself, run again with the name of one of the ignored
//! tests below. What a worker plays is said by the mount's options.

#![allow(clippy::unwrap_used, reason = "a failure of a test's own means is a failure of the test")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use daemon::mount::worker::Launch;
use daemon::{Mode, Options};
use remote::transport::host::HostOptions;
use supervisor::Identity;
use wire::api::daemon::{DaemonStatus, Stop, Stopped};
use wire::api::machine::{Caller, Machine, Reconnect, Source};
use wire::api::mount::{Access, Backend, BackendName, Create, Force, Remove, Removed, SyncMode, Target};
use wire::api::status::{Document, Journal, Mount, MountStatus, NfsExport};
use wire::api::{
    self, Call, ErrorKind, ErrorObject, Request, RequestId, Response, ServerMessage, ServerNotification,
};
use wire::bytestring::ByteString;
use wire::paths::Paths;
use wire::worker::{
    CONTROL_DESCRIPTOR, Decoder, DescriptorPurpose, FromWorker, MountConfig, Ready, Stopping, ToWorker,
    WorkerError, WorkerStatus, encode,
};

const DEADLINE: Duration = Duration::from_secs(60);

fn again(test: &str) -> (PathBuf, Vec<String>) {
    let arguments = ["--ignored", "--exact", "--nocapture", "--test-threads=1", test];
    (std::env::current_exe().unwrap(), arguments.map(str::to_owned).to_vec())
}

fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < deadline, "{what}: not within the deadline");
        std::thread::park_timeout(Duration::from_millis(2));
    }
}

#[test]
#[ignore = "run by the other tests as the daemon"]
fn play_daemon() {
    let home = std::env::var_os("STEAD_HOME").expect("the test sets it");
    let paths = Paths::new(0, |name| (name == "STEAD_HOME").then(|| home.clone())).unwrap();
    let (program, arguments) = again("play_worker");
    let worker = Launch { program, arguments: arguments.into_iter().map(Into::into).collect() };
    let (program, arguments) = again("play_agent");
    let agent = HostOptions { program, arguments: arguments.into_iter().map(Into::into).collect() };
    let options = Options { paths, mode: Mode::Foreground, worker, agent };
    if let Err(error) = daemon::run(options) {
        println!("{}", serde_json::to_string(&error).unwrap());
        std::process::exit(error.kind().exit_code().into());
    }
}

#[test]
#[ignore = "run by the daemon as this computer's agent"]
fn play_agent() {
    agent::main();
}

#[test]
#[ignore = "run by the daemon as a worker"]
fn play_worker() {
    // SAFETY: the daemon leaves its workers this descriptor, and nobody else in this process takes it.
    let control = UnixStream::from(unsafe { OwnedFd::from_raw_fd(CONTROL_DESCRIPTOR) });
    FakeWorker { control, decoder: Decoder::new() }.play();
}

struct FakeWorker {
    control: UnixStream,
    decoder: Decoder,
}

impl FakeWorker {
    fn next(&mut self) -> Option<ToWorker> {
        loop {
            if let Some(message) = self.decoder.next_frame().unwrap() {
                return Some(message);
            }
            let mut bytes = [0; 4096];
            match self.control.read(&mut bytes).unwrap() {
                0 => return None,
                count => self.decoder.push(&bytes[..count]),
            }
        }
    }

    fn say(&self, message: &FromWorker) {
        (&self.control).write_all(&encode(message).unwrap()).unwrap();
    }

    fn hand_over(&self, count: u32) {
        let null = std::fs::File::open("/dev/null").unwrap();
        let frame =
            encode(&FromWorker::Descriptors { purpose: DescriptorPurpose::FuseDevice, count }).unwrap();
        let sent = supervisor::descriptor::send(self.control.as_fd(), &frame, &[null.as_fd()]).unwrap();
        assert_eq!(sent, frame.len());
    }

    fn play(mut self) {
        let Some(ToWorker::Start { config }) = self.next() else {
            panic!("the first message is not `start`")
        };
        let role = config.options.get("play").map(String::as_str).unwrap_or_default();
        match role {
            "fail" => {
                let hint = Some("try something else".to_owned());
                let message = "there is no such tree".to_owned();
                return self.say(&FromWorker::Error(WorkerError {
                    kind: ErrorKind::NotFound,
                    message,
                    hint,
                }));
            }
            "die" => {
                eprintln!("something went wrong in here");
                std::process::exit(3);
            }
            "babble" => {
                (&self.control).write_all(b"GET / HTTP/1.1\r\n").unwrap();
                return self.sleep();
            }
            "cheat" => {
                self.hand_over(2);
                return self.sleep();
            }
            "hang" => return self.sleep(),
            _ => {}
        }
        self.hand_over(1);
        self.say(&FromWorker::Ready(Ready {
            backend: BackendName::Nfs,
            connection: None,
            port: Some(2049),
            nfs: Some(NfsExport { port: 2049, export: "/stead".to_owned() }),
            degraded: Some("this is only a play".to_owned()),
            agent_version: None,
        }));
        self.serve(&config, role);
    }

    fn serve(mut self, config: &MountConfig, role: &str) {
        let mut requests = 0;
        while let Some(message) = self.next() {
            match message {
                ToWorker::Start { .. } => panic!("started twice"),
                ToWorker::Status => {
                    requests += 1;
                    let mut status = WorkerStatus {
                        status: MountStatus::Active,
                        journal: Journal::default(),
                        counters: Default::default(),
                        degraded: None,
                        kept_aside: Vec::new(),
                    };
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
                    return self.say(&FromWorker::Stopping(Stopping { kept_aside }));
                }
            }
        }
        // The daemon has gone: a worker goes on.
        self.sleep();
    }

    fn sleep(&self) {
        loop {
            std::thread::park();
        }
    }
}

/// A daemon in a state directory of its own. Killed when it is dropped.
struct Life {
    home: tempfile::TempDir,
    daemon: Child,
}

impl Life {
    fn begin() -> Life {
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir(home.path().join("src")).unwrap();
        let daemon = start_daemon(home.path());
        let life = Life { home, daemon };
        life.wait_until_it_listens();
        life
    }

    /// Ends this life as a crash would and begins the next.
    fn kill_and_begin_again(&mut self) {
        self.daemon.kill().unwrap();
        self.daemon.wait().unwrap();
        self.daemon = start_daemon(self.home.path());
        self.wait_until_it_listens();
    }

    fn wait_until_it_listens(&self) {
        eventually("the daemon listens", || UnixStream::connect(self.paths().socket()).is_ok());
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path().canonicalize().unwrap().join(name)
    }

    fn paths(&self) -> Paths {
        Paths::new(0, |name| (name == "STEAD_HOME").then(|| self.home.path().into())).unwrap()
    }

    fn client(&self) -> Client {
        let stream = UnixStream::connect(self.paths().socket()).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        Client { reader: BufReader::new(stream), last: 0 }
    }

    fn create(&self, role: &str, dir: Option<&str>) -> Create {
        Create {
            source: Source::files(Machine::Host, self.path("src").as_path()).unwrap(),
            dir: dir.map(ByteString::from),
            backend: Backend::Auto,
            access: Access::ReadWrite,
            sync: SyncMode::Close,
            reconnect: Reconnect::Automatic,
            options: BTreeMap::from([("play".to_owned(), role.to_owned())]),
            caller: self.caller(),
        }
    }

    fn caller(&self) -> Caller {
        Caller {
            uid: rustix::process::getuid().as_raw(),
            gid: rustix::process::getgid().as_raw(),
            cwd: self.path("").into(),
            ..Caller::default()
        }
    }

    fn mount(&self, role: &str, dir: &str) -> Mount {
        self.client().call(self.create(role, Some(dir))).unwrap()
    }

    fn unmount(&self, mount: &Mount, force: Force) -> Result<Removed, ErrorObject> {
        self.client().call(Remove { target: Target::Id(mount.id), force })
    }

    fn document(&self) -> Document {
        self.client().call(api::status::Get {}).unwrap()
    }

    /// What is in the state directory, but for what a daemon always has there.
    fn leftovers(&self) -> Vec<String> {
        let usual =
            ["src", "run", "state.db", "state.db-wal", "state.db-shm", "daemon.log", "stderr", "mounts"];
        let names = |dir: &Path| -> Vec<String> {
            let entries = std::fs::read_dir(dir).into_iter().flatten();
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
        };
        let mut left: Vec<String> =
            names(self.home.path()).into_iter().filter(|name| !usual.contains(&name.as_str())).collect();
        left.extend(names(&self.home.path().join("mounts")));
        left
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
        if std::thread::panicking()
            && let Ok(log) = std::fs::read_to_string(self.paths().log())
        {
            eprintln!("the daemon's log:\n{log}");
        }
    }
}

fn start_daemon(home: &Path) -> Child {
    let (program, arguments) = again("play_daemon");
    let stderr = std::fs::File::options().append(true).create(true).open(home.join("stderr")).unwrap();
    Command::new(program)
        .args(arguments)
        .env("STEAD_HOME", home)
        .env("STEAD_LOG", "debug")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(stderr)
        .spawn()
        .unwrap()
}

struct Client {
    reader: BufReader<UnixStream>,
    last: u64,
}

impl Client {
    fn send(&mut self, call: impl Into<Call>) -> RequestId {
        self.last += 1;
        let request = Request { id: RequestId::Number(self.last), call: call.into() };
        self.write(&request.to_line().unwrap());
        request.id
    }

    fn write(&self, bytes: &[u8]) {
        self.reader.get_ref().write_all(bytes).unwrap();
    }

    fn read(&mut self) -> ServerMessage {
        let mut line = Vec::new();
        self.reader.read_until(b'\n', &mut line).unwrap();
        assert!(!line.is_empty(), "the daemon hung up");
        ServerMessage::decode(&line).unwrap()
    }

    fn response(&mut self) -> Response {
        match self.read() {
            ServerMessage::Response(response) => response,
            other => panic!("not a response: {other:?}"),
        }
    }

    fn call<M: api::Method>(&mut self, params: M) -> Result<M::Reply, ErrorObject>
    where
        Call: From<M>,
    {
        let id = self.send(params);
        let response = self.response();
        assert_eq!(response.id, Some(id));
        response.outcome.map(|reply| serde_json::from_value(reply).unwrap())
    }
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
        ("cheat", ErrorKind::Failure, "descriptors that it announced did not come"),
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

#[test]
fn a_killed_worker_fails_its_mount_and_no_other() {
    let life = Life::begin();
    let (one, two) = (life.mount("", "one"), life.mount("", "two"));
    let pid = rustix::process::Pid::from_raw(worker(&one) as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    let status = |mount: &Mount| {
        let document = life.document();
        document.mounts.into_iter().find(|other| other.id == mount.id).unwrap().status
    };
    eventually("the mount has failed", || status(&one) != MountStatus::Active);
    let MountStatus::Failed { reason } = status(&one) else { panic!("not failed") };
    assert!(reason.contains("signal 9"), "{reason}");
    assert_eq!(status(&two), MountStatus::Active);
    assert!(!exists(worker(&one)));

    let error = life.client().call(life.create("", Some("one"))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    life.unmount(&one, Force::Never).unwrap();
    life.mount("", "one");
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
    let error = life.client().call(Stop { force: Force::Never }).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    assert_eq!(life.document().mounts.len(), 1);
    life.mount("", "four");

    let stopped: Stopped = life.client().call(Stop { force: Force::Always }).unwrap();
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
fn what_a_killed_daemon_left_is_taken_away_by_the_next() {
    let mut life = Life::begin();
    let mount = life.mount("", "m");
    life.kill_and_begin_again();
    assert!(!exists(worker(&mount)));
    assert!(life.document().mounts.is_empty());
    assert_eq!(life.leftovers(), Vec::<String>::new());
    let next = life.mount("", "m");
    assert!(next.id > mount.id, "{} is used again", mount.id);
}

#[test]
fn there_is_one_daemon_for_a_state_directory() {
    let life = Life::begin();
    let mut second = start_daemon(life.home.path());
    assert_eq!(second.wait().unwrap().code(), Some(ErrorKind::Conflict.exit_code().into()));
    assert_eq!(life.document().daemon.pid, life.daemon.id());
}

#[test]
fn an_idle_daemon_is_small() {
    let life = Life::begin();
    let status: DaemonStatus = life.client().call(api::daemon::Status {}).unwrap();
    assert_eq!(status.pid, life.daemon.id());
    assert!(status.resident_bytes < 20 << 20, "{} bytes", status.resident_bytes);
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

    client.call(Rename { source: source("f"), to: source("g"), caller: caller.clone() }).unwrap();
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
