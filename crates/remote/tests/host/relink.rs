//! A client whose links are cut, and whose agent is killed, with the real agent.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use remote::client::relink::{
    DialFailed, Dialed, Dialer, Event, Later, RelinkOptions, Resumption, SessionMark,
};
use remote::client::{
    AgentClient, ByteStream, CallError, ConnectOptions, EventSink, Heartbeat, Introduced, LinkLost,
    ProcessEvent,
};
use remote::link::{Afterwards, Hindrance, Policy};
use remote::transport::host::{self, HostOptions};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::net::UnixStream;
use tokio::task::AbortHandle;
use wire::agent::file::{Changed, Lock, LockFamily, LockKind, OpenFlags, Place, RenameMode, Target, WriteAt};
use wire::agent::process::ProcessRequest;
use wire::agent::{HandleId, Sequence};
use wire::hello::SessionId;

use super::{agent, attach, caller, name, soon};

/// Where the sessions of a test have their sockets.
struct Home {
    directory: TempDir,
}

impl Home {
    fn new() -> Home {
        Home { directory: tempfile::tempdir().unwrap() }
    }

    fn agent(&self) -> HostOptions {
        let HostOptions { program, arguments } = agent();
        let home = format!("{}={}", wire::paths::HOME_VARIABLE, self.directory.path().display());
        let words = [home.into(), program.into_os_string()];
        HostOptions { program: "env".into(), arguments: words.into_iter().chain(arguments).collect() }
    }

    /// Waits until nothing of any session is left.
    async fn left_empty(self) {
        let run = self.directory.path().join("run/sessions");
        let empty = async {
            while run.exists() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        soon(empty).await;
    }
}

/// Starts agents, or resumes them, through a copier that can be cut.
struct Cuttable {
    agent: HostOptions,
    copier: Mutex<Option<AbortHandle>>,
}

impl Cuttable {
    fn new(home: &Home) -> Arc<Cuttable> {
        Arc::new(Cuttable { agent: home.agent(), copier: Mutex::default() })
    }

    fn cut(&self) {
        self.copier.lock().take().expect("a link").abort();
    }
}

struct Dial(Arc<Cuttable>);

impl Dialer for Dial {
    fn dial(&self, session: SessionId) -> Later<Result<Dialed, DialFailed>> {
        let cuttable = self.0.clone();
        Box::pin(async move {
            let failed = |why: String| DialFailed { hindrance: Hindrance::Passing, why };
            let (program, mut stream) =
                host::open(&cuttable.agent, session).map_err(|error| failed(error.to_string()))?;
            let (near, mut far) = UnixStream::pair().unwrap();
            let copying = tokio::spawn(async move {
                drop(tokio::io::copy_bidirectional(&mut stream, &mut far).await);
            });
            *cuttable.copier.lock() = Some(copying.abort_handle());
            let options = ConnectOptions { session, keep_seconds: 60, ..ConnectOptions::default() };
            let near = ByteStream::try_from(near).map_err(|error| failed(error.to_string()))?;
            let stream = Introduced::over(near, options).await.map_err(|error| failed(error.to_string()))?;
            Ok(Dialed { stream, carrier: Some(program) })
        })
    }
}

#[derive(Default)]
struct Log {
    events: Mutex<Vec<Event>>,
    mark: Mutex<SessionMark>,
    watermark: Mutex<Sequence>,
}

impl EventSink for Log {
    fn changed(&self, _: Changed) {}
    fn leases_lost(&self) {}
    fn link_lost(&self, _: &LinkLost) {}
    fn link_changed(&self, event: &Event) {
        self.events.lock().push(event.clone());
    }
    fn reserved(&self, through: Sequence) {
        *self.watermark.lock() = through;
    }
    fn session_marked(&self, mark: &SessionMark) {
        *self.mark.lock() = *mark;
    }
}

impl Log {
    fn count(&self, is_it: impl Fn(&Event) -> bool) -> usize {
        self.events.lock().iter().filter(|event| is_it(event)).count()
    }

    async fn heard(&self, times: usize, is_it: impl Fn(&Event) -> bool) {
        let heard = async {
            while self.count(&is_it) < times {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        if tokio::time::timeout(super::DEADLINE, heard).await.is_err() {
            panic!("only heard: {:?}", self.events.lock());
        }
    }
}

fn options() -> RelinkOptions {
    RelinkOptions {
        policy: Policy {
            base: Duration::from_millis(5),
            // A link that is cut as soon as it is there is as good as none, and must not be given up for that.
            afterwards: Afterwards::Slowly(Duration::from_millis(5)),
            ..Policy::HOST
        },
        offline_timeout: super::DEADLINE,
        heartbeat: Heartbeat { interval: Duration::from_secs(5), failures_max: 3 },
    }
}

struct World {
    home: Home,
    client: AgentClient,
    links: Arc<Cuttable>,
    log: Arc<Log>,
    root: Place,
}

impl World {
    async fn start(directory: &Path) -> World {
        let home = Home::new();
        let (links, log) = (Cuttable::new(&home), Arc::new(Log::default()));
        let dialer = Arc::new(Dial(links.clone()));
        let client = AgentClient::lasting(None, dialer, options(), None, log.clone());
        let root = attach(&client, directory).await;
        World { home, client, links, log, root }
    }

    /// Leaves the session to a successor, which knows what a process keeps that may be killed at any moment, and that these
    /// numbers have not been settled.
    async fn succeed(self, unanswered: Vec<Sequence>) -> World {
        let World { home, client, log, root, .. } = self;
        client.leave();
        let held = client.resumption().unwrap();
        drop(client);
        let (mark, watermark) = (*log.mark.lock(), *log.watermark.lock());
        let left = Resumption { mark, watermark, unanswered, ..held };
        let (links, log) = (Cuttable::new(&home), Arc::new(Log::default()));
        (*log.mark.lock(), *log.watermark.lock()) = (mark, watermark);
        let dialer = Arc::new(Dial(links.clone()));
        let client = AgentClient::lasting(None, dialer, options(), Some(left), log.clone());
        World { home, client, links, log, root }
    }

    /// Ends the session, of which nothing may be left then.
    async fn end(self) {
        self.client.goodbye().await;
        self.home.left_empty().await;
    }

    /// The process that has the session.
    async fn agent(&self) -> Pid {
        let words = ["sh", "-c", "echo $PPID"];
        let mut events = self.client.spawn(ProcessRequest::Spawn {
            process: self.client.new_process(),
            words: words.map(|word| word.as_bytes().to_vec().into()).to_vec(),
            environment: Vec::new(),
            directory: None,
            terminal: None,
            detached: false,
            window: 4096,
        });
        let mut printed = Vec::new();
        while let Some(event) = soon(events.next()).await {
            if let ProcessEvent::Output(_, bytes) = event.unwrap() {
                printed.extend(bytes);
            }
        }
        let pid = String::from_utf8(printed).unwrap().trim().parse().unwrap();
        Pid::from_raw(pid).unwrap()
    }

    async fn create(&self, text: &str, flags: OpenFlags) -> HandleId {
        let handle = self.client.new_handle();
        soon(self.client.create(self.root.clone(), name(text), 0o644, flags, handle, caller()))
            .await
            .unwrap();
        handle
    }
}

const READ_WRITE: OpenFlags = OpenFlags {
    read: true,
    write: true,
    append: false,
    truncate: false,
    sync: false,
    direct: false,
    exclusive: false,
};

const WHOLE: Lock = Lock { family: LockFamily::Posix, kind: LockKind::Exclusive, start: 0, end: u64::MAX };

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn appends_through_a_link_that_is_cut_again_and_again_are_there_once() {
    const LINES: usize = 2000;
    const CUTS: usize = 20;
    let directory = tempfile::tempdir().unwrap();
    let world = World::start(directory.path()).await;
    let handle = world.create("lines", OpenFlags { append: true, ..READ_WRITE }).await;
    let lock = world.client.lock(handle, 1, WHOLE, false);
    soon(lock).await.unwrap();
    let writing = {
        let client = world.client.clone();
        tokio::spawn(async move {
            for n in 0..LINES {
                let line = Bytes::from(format!("{n}\n"));
                client.write(handle, WriteAt::End, false, line).await.unwrap();
            }
        })
    };
    for cuts in 1..=CUTS {
        world.links.cut();
        world.log.heard(cuts, |event| *event == Event::Resumed).await;
    }
    soon(writing).await.unwrap();
    let text = std::fs::read_to_string(directory.path().join("lines")).unwrap();
    let expected: String = (0..LINES).map(|n| format!("{n}\n")).collect();
    assert!(text == expected, "{} lines", text.lines().count());
    assert_eq!(world.log.count(|event| matches!(event, Event::Replaced(_))), 0);
    // The session is the one that has the lock.
    let other = world.create("lines", READ_WRITE).await;
    assert!(soon(world.client.test_lock(other, 2, WHOLE)).await.unwrap().is_some());
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_agent_is_replaced_and_every_file_goes_on() {
    const ROUNDS: usize = 5;
    let directory = tempfile::tempdir().unwrap();
    let world = World::start(directory.path()).await;
    let handle = world.create("lines", OpenFlags { append: true, ..READ_WRITE }).await;
    soon(world.client.lock(handle, 1, WHOLE, false)).await.unwrap();
    let gone = world.create("gone", READ_WRITE).await;
    soon(world.client.unlink(world.root.clone(), name("gone"))).await.unwrap();
    let mut expected = String::new();
    for round in 1..=ROUNDS {
        let agent = world.agent().await;
        let calls: Vec<_> = (0..20)
            .map(|n| {
                let directory = world.root.clone();
                world.client.make_directory(directory, name(&format!("{round}-{n}")), 0o755, caller())
            })
            .collect();
        let line = format!("round {round}\n");
        let append = world.client.write(handle, WriteAt::End, false, Bytes::from(line.clone()));
        kill_process(agent, Signal::KILL).unwrap();
        for call in calls {
            soon(call).await.unwrap();
        }
        assert_eq!(soon(append).await.unwrap().bytes, line.len() as u64);
        expected.push_str(&line);
        world.log.heard(round, |event| matches!(event, Event::Replaced(_))).await;
    }
    assert_eq!(std::fs::read_to_string(directory.path().join("lines")).unwrap(), expected);
    let error = soon(world.client.stat(Target::Handle(gone))).await.unwrap_err();
    assert_eq!(error.errno().unwrap().0, 116);
    let other = world.create("lines", READ_WRITE).await;
    assert!(soon(world.client.test_lock(other, 2, WHOLE)).await.unwrap().is_some());
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_successor_of_this_process_goes_on_with_the_session() {
    let directory = tempfile::tempdir().unwrap();
    let world = World::start(directory.path()).await;
    let handle = world.create("file", READ_WRITE).await;
    let number = world.client.next_sequence().unwrap();
    let append = || Bytes::from_static(b"once");
    let first = world.client.with_sequence(number).write(handle, WriteAt::End, false, append());
    soon(first).await.unwrap();
    let world = world.succeed(vec![number]).await;
    let successor = &world.client;
    let again = successor.with_sequence(number).write(handle, WriteAt::End, false, append());
    assert_eq!(soon(again).await.unwrap().bytes, 4);
    successor.settled(number);
    soon(successor.write(handle, WriteAt::End, false, append())).await.unwrap();
    assert_eq!(std::fs::read_to_string(directory.path().join("file")).unwrap(), "onceonce");
    world.log.heard(1, |event| *event == Event::Resumed).await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_agent_ends_with_the_last_handle() {
    let directory = tempfile::tempdir().unwrap();
    let world = World::start(directory.path()).await;
    let agent = world.agent().await;
    let World { home, client, .. } = world;
    client.goodbye().await;
    let gone = async {
        while rustix::process::test_kill_process(agent).is_ok() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    soon(gone).await;
    home.left_empty().await;
}

/// Numbers that look random, the same in each run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % limit
    }
}

/// A change that does harm when it is made twice.
#[derive(Clone, Debug)]
enum Change {
    Append(String),
    Create(String, HandleId),
    Directory(String),
    Rename(String, String),
    Unlink(String),
}

impl Change {
    /// What is done in a round. Each takes up what the one before has made.
    fn of(round: usize) -> Vec<Change> {
        let mut changes = Vec::new();
        for n in 0..4 {
            changes.push(Change::Append(format!("{round}.{n}\n")));
            changes.push(Change::Create(format!("new-{round}.{n}"), HandleId(100 + 4 * round as u64 + n)));
            changes.push(Change::Directory(format!("directory-{round}.{n}")));
            if round > 0 {
                changes.push(Change::Rename(
                    format!("new-{}.{n}", round - 1),
                    format!("moved-{}.{n}", round - 1),
                ));
            }
            if round > 1 {
                changes.push(Change::Unlink(format!("moved-{}.{n}", round - 2)));
            }
        }
        changes
    }

    /// Sends it under a number, and says what it has come to.
    fn send(
        &self,
        world: &World,
        log: HandleId,
        sequence: Sequence,
    ) -> impl Future<Output = Result<(), CallError>> + Send + 'static {
        let (client, root) = (world.client.with_sequence(sequence), world.root.clone());
        // What is asked for here is in the queue when this returns.
        match self {
            Change::Append(line) => {
                let call = client.write(log, WriteAt::End, false, Bytes::from(line.clone()));
                made(async move { call.await.map(drop) })
            }
            Change::Create(new, handle) => {
                let flags = OpenFlags { exclusive: true, ..READ_WRITE };
                let call = client.create(root, name(new), 0o644, flags, *handle, caller());
                made(async move { call.await.map(drop) })
            }
            Change::Directory(new) => {
                let call = client.make_directory(root, name(new), 0o755, caller());
                made(async move { call.await.map(drop) })
            }
            Change::Rename(from, to) => {
                let call = client.rename(root.clone(), name(from), root, name(to), RenameMode::Replace);
                made(async move { call.await.map(drop) })
            }
            Change::Unlink(gone) => {
                let call = client.unlink(root, name(gone));
                made(async move { call.await.map(drop) })
            }
        }
    }
}

fn made(call: impl Future<Output = Result<(), CallError>> + Send + 'static) -> Later<Result<(), CallError>> {
    Box::pin(call)
}

const SUCCESSORS: usize = 40;

/// Processes follow each other, each gone while its changes are under way; each makes the last one's again, under the same
/// numbers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_process_had_under_way_when_it_died_is_made_once() {
    let directory = tempfile::tempdir().unwrap();
    let mut world = World::start(directory.path()).await;
    let log = world.create("log", OpenFlags { append: true, ..READ_WRITE }).await;
    let mut dice = Dice(7);
    for round in 0..SUCCESSORS {
        let changes: Vec<_> = Change::of(round)
            .into_iter()
            .map(|change| (world.client.next_sequence().unwrap(), change))
            .collect();
        let mut calls: Vec<_> =
            changes.iter().map(|(sequence, change)| change.send(&world, log, *sequence)).collect();
        // Some have been answered, some carried out, some are on their way, or in half of the rounds cut off.
        for call in calls.drain(..dice.below(changes.len())) {
            soon(call).await.unwrap();
        }
        for _ in 0..dice.below(200) {
            tokio::task::yield_now().await;
        }
        if round % 2 == 1 {
            world.links.cut();
        }
        world = world.succeed(changes.iter().map(|(sequence, _)| *sequence).collect()).await;
        drop(calls);
        let again: Vec<_> =
            changes.iter().map(|(sequence, change)| change.send(&world, log, *sequence)).collect();
        for (call, (sequence, change)) in again.into_iter().zip(&changes) {
            let made = soon(call).await;
            assert!(made.is_ok(), "round {round}: {change:?}: {made:?}");
            world.client.settled(*sequence);
        }
        assert_eq!(world.log.count(|event| matches!(event, Event::Replaced(_))), 0);
    }
    expect_once(directory.path());
    world.end().await;
}

/// What is there when each change of each round has been made once.
fn expect_once(directory: &Path) {
    let expected: String =
        (0..SUCCESSORS).flat_map(|round| (0..4).map(move |n| format!("{round}.{n}\n"))).collect();
    let written = std::fs::read_to_string(directory.join("log")).unwrap();
    assert!(written == expected, "{written}");
    let last = SUCCESSORS - 1;
    let mut names = vec!["log".to_owned()];
    for n in 0..4 {
        names.extend((0..SUCCESSORS).map(|round| format!("directory-{round}.{n}")));
        names.extend([format!("new-{last}.{n}"), format!("moved-{}.{n}", last - 1)]);
    }
    names.sort();
    let found = std::fs::read_dir(directory).unwrap();
    let mut found: Vec<_> = found.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    found.sort();
    assert_eq!(found, names);
}

/// The agent dies again and again, with writes at the end of two files under way: of one through one handle, as the kernel
/// does it, of the other through two. There it cannot always be told what has been made.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_at_the_end_that_are_under_way_when_the_agent_dies_are_made_once() {
    const ROUNDS: usize = 30;
    let directory = tempfile::tempdir().unwrap();
    let world = World::start(directory.path()).await;
    let flags = OpenFlags { append: true, ..READ_WRITE };
    let one = world.create("one", flags).await;
    let two = [world.create("two", flags).await, world.create("two", flags).await];
    let write =
        |handle, line: &str| world.client.write(handle, WriteAt::End, false, Bytes::from(line.to_owned()));
    let mut dice = Dice(13);
    let (mut lines, mut unknown) = (Vec::new(), Vec::new());
    for round in 1..=ROUNDS {
        let agent = world.agent().await;
        // Equal lines too.
        let written: Vec<_> = (0..12).map(|n| format!("{round}.{}\n", n / 3)).collect();
        let mut calls: Vec<_> = written
            .iter()
            .enumerate()
            .flat_map(|(n, line)| [write(one, line), write(two[n % 2], line)])
            .collect();
        for call in calls.drain(..2 * dice.below(6)).collect::<Vec<_>>() {
            soon(call).await.unwrap();
        }
        for _ in 0..dice.below(50) {
            tokio::task::yield_now().await;
        }
        kill_process(agent, Signal::KILL).unwrap();
        let answered = written.len() * 2 - calls.len();
        for (n, call) in calls.into_iter().enumerate().map(|(n, call)| (n + answered, call)) {
            match soon(call).await {
                Ok(_) => {}
                Err(error) if n % 2 == 1 && is_unknown(&error) => unknown.push(written[n / 2].clone()),
                Err(error) => panic!("round {round}, write {n}: {error}"),
            }
        }
        lines.extend(written);
        world.log.heard(round, |event| matches!(event, Event::Replaced(_))).await;
    }
    let read = |name: &str| std::fs::read_to_string(directory.path().join(name)).unwrap();
    let one = read("one");
    std::fs::copy(directory.path().join("one"), "/tmp/s-one").unwrap();
    let differing = one.split_inclusive('\n').zip(&lines).position(|(found, line)| found != line);
    assert!(one == lines.concat(), "line {differing:?} of {} and not {}", one.lines().count(), lines.len());
    let two = read("two");
    for line in &lines {
        let count = |lines: &mut dyn Iterator<Item = &str>| lines.filter(|found| found == line).count();
        let times = count(&mut two.split_inclusive('\n'));
        let untold = count(&mut unknown.iter().map(String::as_str));
        assert!((3 - untold..=3).contains(&times), "{line:?} is there {times} times, {untold} untold");
    }
    world.end().await;
}

/// Whether it is said that nobody knows.
fn is_unknown(error: &CallError) -> bool {
    const EIO: u16 = 5;
    error.errno().is_some_and(|errno| errno.0 == EIO)
}

/// As above, but the agent dies too: what had been sent may have been made or not, and nobody remembers. A write at the end
/// cannot be judged without knowing where the end was, and is not made twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_process_had_under_way_when_it_died_with_the_agent_is_made_once() {
    let directory = tempfile::tempdir().unwrap();
    let mut world = World::start(directory.path()).await;
    let log = world.create("log", OpenFlags { append: true, ..READ_WRITE }).await;
    let mut dice = Dice(11);
    let mut unknown = Vec::new();
    for round in 0..SUCCESSORS {
        let agent = world.agent().await;
        let changes: Vec<_> = Change::of(round)
            .into_iter()
            .map(|change| (world.client.next_sequence().unwrap(), change))
            .collect();
        let mut calls: Vec<_> =
            changes.iter().map(|(sequence, change)| change.send(&world, log, *sequence)).collect();
        let mut changes = changes.iter();
        for (call, (sequence, _)) in calls.drain(..dice.below(changes.len())).zip(&mut changes) {
            soon(call).await.unwrap();
            // What a user has been told of is not asked for again.
            world.client.settled(*sequence);
        }
        for _ in 0..dice.below(200) {
            tokio::task::yield_now().await;
        }
        kill_process(agent, Signal::KILL).unwrap();
        // The process may have begun to recover when it is gone as well.
        if round % 2 == 1 {
            world.log.heard(1, |event| matches!(event, Event::Lost { .. })).await;
        }
        for _ in 0..dice.below(2000) {
            tokio::task::yield_now().await;
        }
        world = world.succeed(changes.clone().map(|(sequence, _)| *sequence).collect()).await;
        drop(calls);
        // Its predecessor may have recovered the session to its end.
        world.log.heard(1, |event| matches!(event, Event::Replaced(_) | Event::Resumed)).await;
        let again: Vec<_> =
            changes.clone().map(|(sequence, change)| change.send(&world, log, *sequence)).collect();
        for (call, (sequence, change)) in again.into_iter().zip(changes) {
            match (soon(call).await, change) {
                (Ok(()), _) => {}
                (Err(error), Change::Append(line)) if is_unknown(&error) => unknown.push(line.clone()),
                (Err(error), change) => panic!("round {round}: {change:?}: {error}"),
            }
            world.client.settled(*sequence);
        }
    }
    let path = directory.path().join("log");
    let mut written = std::fs::read_to_string(&path).unwrap();
    let lines = (0..SUCCESSORS).flat_map(|round| (0..4).map(move |n| format!("{round}.{n}\n")));
    for line in lines {
        let times = written.split_inclusive('\n').filter(|found| *found == line).count();
        let is_unknown = unknown.contains(&line);
        assert!(times == 1 || times == 0 && is_unknown, "{line:?} is there {times} times");
    }
    written = (0..SUCCESSORS).flat_map(|round| (0..4).map(move |n| format!("{round}.{n}\n"))).collect();
    std::fs::write(&path, written).unwrap();
    expect_once(directory.path());
    world.end().await;
}
