//! A directory that is mounted somewhere else, and the processes that serve it.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Pid;
use supervisor::keeper::{self, CONTROL_SOCKET, Launch, Plan, State, Status, Token};
use wire::api::id::MountId;
use wire::api::machine::{Reconnect, Source};
use wire::api::mount::{Access, Backend, Force, SyncMode};
use wire::worker::{
    CONFIG, Decoder, Dial, FromWorker, Heartbeat, MountConfig, Owner, Place, Ready, Stopping, ToWorker,
    encode,
};

/// How long anything may take.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// A mount. It is taken away when this is dropped, whatever is left of it.
pub struct Field {
    scratch: tempfile::TempDir,
    /// What the first worker said.
    pub ready: Ready,
    keeper: supervisor::Process,
    runtime: tokio::runtime::Runtime,
}

impl Field {
    /// Mounts an empty directory; `None` where that is not possible.
    pub fn mount(backend: Backend, options: &[(&str, &str)]) -> Option<Field> {
        Field::with_fault(backend, options, "")
    }

    /// The same, with workers that panic in this operation.
    pub fn with_fault(backend: Backend, options: &[(&str, &str)], fault: &str) -> Option<Field> {
        Field::begin(backend, options, fault, None)
    }

    /// Mounts again what another one shows, which has left what was not saved in its directory.
    pub fn again(&self) -> Option<Field> {
        Field::begin(Backend::Fuse, &[], "", Some((self.source(), self.state())))
    }

    fn begin(
        backend: Backend,
        options: &[(&str, &str)],
        fault: &str,
        earlier: Option<(PathBuf, PathBuf)>,
    ) -> Option<Field> {
        if !rustix::process::geteuid().is_root() || !Path::new("/dev/fuse").exists() {
            eprintln!("skipped: needs root and /dev/fuse");
            return None;
        }
        let scratch = tempfile::tempdir().unwrap();
        let (source, mount, state) = paths(scratch.path());
        for directory in [&source, &mount, &state] {
            std::fs::create_dir(directory).unwrap();
        }
        let (shown, unsaved) = match earlier {
            Some((source, state)) => (source, vec![state.as_path().into()]),
            None => (source, Vec::new()),
        };
        let config = MountConfig {
            id: MountId::new(1),
            source: Source::parse(shown.as_os_str().as_encoded_bytes(), b"/").unwrap(),
            dir: mount.as_path().into(),
            backend,
            access: Access::ReadWrite,
            sync: SyncMode::Close,
            reconnect: Reconnect::Automatic,
            heartbeat: Heartbeat::default(),
            options: options
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect::<BTreeMap<_, _>>(),
            state_dir: state.as_path().into(),
            cache_dir: None,
            place: Place::Machine(Dial::Host),
            owner: Owner { uid: 0, gid: 0 },
            unsaved,
        };
        std::fs::write(state.join(CONFIG), serde_json::to_vec(&config).unwrap()).unwrap();
        let launch = |part: &str| Launch { program: program(), arguments: vec![part.into()] };
        let (keeper, worker) = (launch("keeper"), launch("worker"));
        Plan { token: Token::random().unwrap(), keeper, worker }.write(&state).unwrap();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().enable_all().worker_threads(1).build().unwrap();
        let keeper = {
            let _in_runtime = runtime.enter();
            let mut begun = keeper::begin(&state, None).unwrap().inherit_all_variables();
            begun = begun.variable("STEAD_HOME", scratch.path()).variable("STEAD_FAULT", fault);
            begun.spawn().unwrap()
        };
        let ready = match hear(&connect(&state)) {
            Some(FromWorker::Ready(ready)) => ready,
            other => panic!("{other:?}: {}", log(&state)),
        };
        Some(Field { scratch, ready, keeper, runtime })
    }

    /// What is mounted.
    pub fn source(&self) -> PathBuf {
        paths(self.scratch.path()).0
    }

    /// Where.
    pub fn mounted(&self) -> PathBuf {
        paths(self.scratch.path()).1
    }

    /// The mount's own directory.
    pub fn state(&self) -> PathBuf {
        paths(self.scratch.path()).2
    }

    /// What the workers said on their standard error.
    pub fn log(&self) -> String {
        log(&self.state())
    }

    /// A keeper's status that is as wanted.
    pub fn status(&self, wanted: impl Fn(&Status) -> bool) -> Status {
        let waiting = async {
            loop {
                let Ok(mut client) = keeper::Client::connect(&self.state()) else {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    continue;
                };
                while let Ok(Some(status)) = client.next().await {
                    if wanted(&status) {
                        return status;
                    }
                }
            }
        };
        let found = self.runtime.block_on(async { tokio::time::timeout(DEADLINE, waiting).await });
        found.unwrap_or_else(|_| panic!("no such status: {}", self.log()))
    }

    /// The worker that runs.
    pub fn worker(&self) -> u32 {
        let status = self.status(|status| status.state == State::Running && status.worker.is_some());
        status.worker.unwrap().pid
    }

    /// Kills the worker. Returns when its successor has been started.
    pub fn kill_worker(&self) {
        let worker = self.worker();
        kill(worker);
        self.status(|status| {
            status.state == State::Running && status.worker.is_some_and(|found| found.pid != worker)
        });
    }

    /// Connects to the worker, which says `ready` as soon as it serves.
    pub fn connect(&self) -> UnixStream {
        let stream = connect(&self.state());
        assert!(matches!(hear(&stream), Some(FromWorker::Ready(_))), "{}", self.log());
        stream
    }

    /// Tells the worker to unmount, and waits for the end of all processes. Nothing is kept.
    pub fn stop(mut self) {
        assert_eq!(self.leave(Force::Never).kept_aside, []);
        assert!(!self.state().join("journal.0").exists() && !self.state().join("journal.1").exists());
    }

    /// The same, however it may end.
    pub fn leave(&mut self, force: Force) -> Stopping {
        let stream = self.connect();
        (&stream).write_all(&encode(&ToWorker::Stop { force }).unwrap()).unwrap();
        let mut said = None;
        while let Some(heard) = hear(&stream) {
            assert!(!matches!(heard, FromWorker::Error(_)), "{heard:?}");
            said = Some(heard);
        }
        let Some(FromWorker::Stopping(stopping)) = said else { panic!("{said:?}: {}", self.log()) };
        let exit = self.runtime.block_on(self.keeper.exited()).unwrap();
        assert_eq!(exit, supervisor::Exit::Code(0), "{}", self.log());
        assert_eq!(
            std::fs::read_dir(self.mounted()).unwrap().count(),
            0,
            "the directory is a directory again"
        );
        stopping
    }

    /// Stops the agent, and waits until none of its threads goes on: the signal is taken by one of them, in its time.
    pub fn stop_agent(&self) -> Pid {
        let agent = self.agent();
        rustix::process::kill_process(agent, rustix::process::Signal::STOP).unwrap();
        let until = std::time::Instant::now() + DEADLINE;
        while !is_stopped(agent) {
            assert!(std::time::Instant::now() < until, "the agent goes on");
            std::thread::park_timeout(Duration::from_millis(1));
        }
        agent
    }

    /// The agent's process that has the source open: it outlives the one that the worker has started.
    pub fn agent(&self) -> Pid {
        let source = self.source();
        let has_source = |process: &Path| {
            let descriptors = std::fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
            let mut targets = descriptors.map(|descriptor| std::fs::read_link(descriptor.path()));
            targets.any(|target| target.is_ok_and(|target| target == source))
        };
        let processes = std::fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path());
        let mut found = processes.filter(|process| has_source(process));
        let number = found.next().expect("an agent").file_name().unwrap().to_str().unwrap().parse().unwrap();
        Pid::from_raw(number).unwrap()
    }
}

impl Drop for Field {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.log());
        }
        if let Err(error) = Plan::withdraw(&self.state()) {
            eprintln!("{error}");
        }
        if let Ok(stream) = supervisor::socket::connect_in(&self.state(), keeper::KEEPER_SOCKET) {
            let _told = (&stream).write_all(b"{\"do\":\"end\"}\n");
            let _waits = stream.set_read_timeout(Some(DEADLINE));
            let _ended = std::io::copy(&mut &stream, &mut std::io::sink());
        }
        mount::keeper::abort(&self.mounted());
    }
}

fn paths(scratch: &Path) -> (PathBuf, PathBuf, PathBuf) {
    (scratch.join("source"), scratch.join("mount"), scratch.join("state"))
}

fn program() -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    tests.parent().unwrap().parent().unwrap().join("examples/test-mount")
}

fn log(state: &Path) -> String {
    let read = |name| std::fs::read_to_string(state.join(name)).unwrap_or_default();
    format!("{}{}", read(keeper::LOG), read(keeper::KEEPER_LOG))
}

fn is_stopped(process: Pid) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{}/task", process.as_raw_nonzero())).unwrap();
    threads.flatten().all(|thread| {
        let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        // Behind the name, which may have anything in it.
        stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('T'))
    })
}

fn connect(state: &Path) -> UnixStream {
    let stream = supervisor::socket::connect_in(state, CONTROL_SOCKET).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream
}

/// The next message, but for statuses; `None` at the end.
fn hear(stream: &UnixStream) -> Option<FromWorker> {
    let mut decoder = Decoder::new();
    loop {
        match decoder.next_frame().unwrap() {
            Some(FromWorker::Status(_)) => {}
            Some(message) => return Some(message),
            None => {
                // One byte at a time: what follows is the next caller's.
                let mut byte = [0];
                match (&mut &*stream).read(&mut byte) {
                    Ok(1) => decoder.push(&byte),
                    _ => return None,
                }
            }
        }
    }
}

/// Kills a process.
pub fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(pid.try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}
