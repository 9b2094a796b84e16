//! Sessions that outlive their streams: the real program, and streams that break.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::{TempDir, tempdir};
use wire::agent::file::*;
use wire::agent::process::*;
use wire::agent::*;
use wire::frame::{PREFACE, Prefix, decode_head, encode_head};
use wire::hello::{Hello, KEEP_SECONDS_MAX, SessionId};

use crate::client::*;

mod door;

/// Longer than any test: what ends by itself before is a failure.
const LONG_SECONDS: u32 = 600;

/// A place for sessions, which has to be empty in the end, and the processes that serve them.
struct Home {
    directory: TempDir,
}

impl Home {
    fn new() -> Home {
        Home { directory: tempdir().unwrap() }
    }

    fn program(&self) -> Command {
        let mut program = agent_program();
        program.env(wire::paths::HOME_VARIABLE, self.directory.path());
        program
    }

    fn start(&self, keep_seconds: u32) -> Client {
        let mut client = Client::started(&mut self.program());
        client.greet(SessionId::default(), keep_seconds);
        client
    }

    /// A session attached to a directory.
    fn attach(&self, directory: &Path) -> Client {
        let mut client = self.start(LONG_SECONDS);
        client.export(directory, false);
        client
    }

    /// A stream for a session, on which nothing has been said.
    fn knock(&self, session: SessionId) -> Client {
        Client::started(self.program().args(["--resume", &session.to_string()]))
    }

    fn resume(&self, old: &Client) -> Client {
        let mut client = self.knock(old.session);
        client.greet(old.session, LONG_SECONDS);
        assert_eq!(client.session, old.session, "the session is gone");
        client.root = old.root.clone();
        client.next = old.next;
        client
    }

    /// Cuts a client's stream and gives it a new one.
    fn cut(&self, mut old: Client) -> Client {
        old.hang_up();
        self.resume(&old)
    }

    /// As [`Home::cut`], for a stream that may end in the middle of a frame, which the agent complains of.
    fn cut_whatever_is_said(&self, mut old: Client) -> Client {
        old.stream().shutdown(std::net::Shutdown::Both).unwrap();
        old.wait_for_child();
        self.resume(&old)
    }

    fn door(&self, session: SessionId) -> PathBuf {
        self.directory.path().join(format!("run/sessions/{session}.sock"))
    }

    /// The processes that belong to this place, by their names.
    fn processes(&self) -> Vec<(i32, String)> {
        let mine = format!("{}={}", wire::paths::HOME_VARIABLE, self.directory.path().display());
        let all = std::fs::read_dir("/proc").unwrap().flatten();
        let numbers = all.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        let of_mine = numbers.filter(|number| {
            let environment = std::fs::read(format!("/proc/{number}/environ")).unwrap_or_default();
            environment.split(|byte| *byte == 0).any(|variable| variable == mine.as_bytes())
        });
        of_mine
            .map(|number| {
                let name = std::fs::read_to_string(format!("/proc/{number}/comm")).unwrap_or_default();
                (number, name.trim().to_owned())
            })
            .collect()
    }

    fn is_empty(&self) -> bool {
        self.processes().is_empty() && !self.directory.path().join("run/sessions").exists()
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for (process, _) in self.processes() {
                // SAFETY: the call touches no memory. The process is one that this test has started.
                unsafe { libc::kill(process, libc::SIGKILL) };
            }
            return;
        }
        eventually("nothing is left of the sessions", || self.is_empty());
    }
}

fn session_process(home: &Home) -> i32 {
    let mut found = None;
    eventually("the session has a process", || {
        found = home.processes().into_iter().find(|(_, name)| name == "stead-session");
        found.is_some()
    });
    found.unwrap().0
}

fn goodbye(mut client: Client) {
    client.send_frame(&ClientFrame::Goodbye, &[]);
    assert!(client.is_cut());
}

fn make_directory(client: &Client, text: &str) -> Request {
    let directory = client.root.clone();
    Request::File(FileRequest::MakeDirectory { directory, name: name(text), mode: 0o755, caller: me() })
}

fn append(handle: HandleId) -> Request {
    Request::File(FileRequest::Write { handle, at: WriteAt::End, clear_set_id: true })
}

fn flock(kind: LockKind) -> Lock {
    Lock { family: LockFamily::Flock, kind, start: 0, end: u64::MAX }
}

fn posix(kind: LockKind) -> Lock {
    Lock { family: LockFamily::Posix, kind, start: 0, end: 9 }
}

fn lock(client: &mut Client, handle: HandleId, lock: Lock) -> Result<FileReply, Failure> {
    client.file(FileRequest::Lock { handle, owner: 1, lock, wait: false })
}

#[test]
fn a_session_that_nobody_wants_to_be_kept_ends_with_its_stream() {
    let home = Home::new();
    let client = home.start(0);
    assert_eq!(client.keep_seconds, 0);
    assert_eq!(home.processes().len(), 1, "no process besides the one that was started");
    drop(client);
    assert!(home.is_empty());
}

#[test]
fn no_more_is_granted_than_there_may_be() {
    let home = Home::new();
    let client = home.start(u32::MAX);
    assert_eq!(client.keep_seconds, KEEP_SECONDS_MAX);
    assert!(home.door(client.session).exists());
    goodbye(client);
}

#[test]
fn open_files_and_the_export_go_on() {
    let home = Home::new();
    let directory = tempdir().unwrap();
    let mut client = home.attach(directory.path());
    let root = client.root.clone();
    let (named, place) = client.create(&root, "named");
    let (unnamed, _) = client.create(&root, "unnamed");
    client.write(unnamed, 0, b"still here");
    client.file(FileRequest::Unlink { directory: root.clone(), name: name("unnamed") }).unwrap();
    let mut client = home.cut(client);
    client.write(named, 0, b"more");
    assert_eq!(client.read(named, 0, 100), b"more");
    assert_eq!(client.read(unnamed, 0, 100), b"still here");
    assert_eq!(client.stat(&place).unwrap().attributes.size, 4);
    goodbye(client);
}

#[test]
fn what_comes_again_on_a_later_stream_is_answered_with_what_it_had_made() {
    let home = Home::new();
    let directory = tempdir().unwrap();
    let mut client = home.attach(directory.path());
    let root = client.root.clone();
    let place = client.put(&root, "file", b"content");
    let handle = client.open(&place, READ);
    let open = |inline_bytes| FileRequest::Open { place: place.clone(), flags: READ, handle, inline_bytes };
    let mut client = home.cut(client);
    client.export(directory.path(), false);
    let other = FileRequest::Attach { path: b"/".to_vec(), read_only: false };
    assert_eq!(errno(client.file(other)), libc::EALREADY);
    let (reply, inline) = client.call(open(100), &[]).unwrap();
    assert!(matches!(reply, FileReply::Opened { whole: true, .. }), "{reply:?}");
    assert_eq!(inline, b"content");
    // A client that has opened its files again may still have the request of one that opened them first.
    assert!(client.call(open(0), &[]).is_ok());
    let elsewhere = FileRequest::Open { place: root, flags: READ, handle, inline_bytes: 0 };
    assert_eq!(errno(client.file(elsewhere)), libc::EINVAL);
    let otherwise = FileRequest::Open { place, flags: READ_WRITE, handle, inline_bytes: 0 };
    assert_eq!(errno(client.file(otherwise)), libc::EINVAL);
    goodbye(client);
}

#[test]
fn an_answered_mutation_that_comes_again_is_answered_alike_and_not_made_again() {
    let home = Home::new();
    let directory = tempdir().unwrap();
    let mut client = home.attach(directory.path());
    let request = make_directory(&client, "d");
    let id = client.send_numbered(Sequence(1), request.clone(), &[]);
    let (_, first, _) = client.reply(id);
    assert!(first.is_ok());
    std::fs::remove_dir(directory.path().join("d")).unwrap();
    let mut client = home.cut(client);
    let id = client.send_numbered(Sequence(1), request, &[]);
    assert_eq!(client.reply(id).1, first);
    assert!(!directory.path().join("d").exists());
    goodbye(client);
}

#[test]
fn a_mutation_that_runs_at_the_cut_is_made_once_and_answered_on_the_new_stream() {
    let home = Home::new();
    let directory = tempdir().unwrap();
    let mut client = home.attach(directory.path());
    let root = client.root.clone();
    let path = directory.path().join("file");
    client.put(&root, "file", b"before");
    let leased = Leased::take(&path);
    let request = Request::File(put(&root, "file"));
    client.send_numbered(Sequence(1), request.clone(), b"after");
    eventually("the mutation runs", || has_thread_opening(&home));
    let mut client = home.cut(client);
    // What runs goes on alone: everything else is answered meanwhile.
    client.stat(&root).unwrap();
    let id = client.send_numbered(Sequence(1), request, b"after");
    assert!(!client.has_reply(id));
    drop(leased);
    assert!(client.reply(id).1.is_ok());
    assert_eq!(std::fs::read(&path).unwrap(), b"after");
    std::fs::write(&path, b"later").unwrap();
    client.stat(&root).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"later", "it was made twice");
    goodbye(client);
}

/// Whether a thread of a session waits in the kernel for a lease to be given up.
fn has_thread_opening(home: &Home) -> bool {
    home.processes().iter().any(|(process, _)| {
        let threads = std::fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
        threads.into_iter().any(|thread| {
            let open = [libc::SYS_open, libc::SYS_openat, libc::SYS_openat2];
            let call = std::fs::read_to_string(thread.path().join("syscall")).unwrap_or_default();
            let number = call.split(' ').next().and_then(|number| number.parse().ok());
            number.is_some_and(|number: i64| open.contains(&number))
        })
    })
}

#[test]
fn a_request_that_waited_for_another_at_the_cut_is_made_for_the_repeat_alone() {
    let home = Home::new();
    let directory = tempdir().unwrap();
    let mut client = home.attach(directory.path());
    let root = client.root.clone();
    let place = client.put(&root, "file", b"");
    let leased = Leased::take(&directory.path().join("file"));
    let handle = client.handle();
    let flags = OpenFlags { append: true, ..READ_WRITE };
    let open = Request::File(FileRequest::Open { place, flags, handle, inline_bytes: 0 });
    client.send(open.clone(), &[]);
    client.send_numbered(Sequence(1), append(handle), b"once");
    client.send_numbered(Sequence(2), append(handle), b"dropped");
    eventually("the open runs", || has_thread_opening(&home));
    let mut client = home.cut(client);
    let opened = client.send(open, &[]);
    let written = client.send_numbered(Sequence(1), append(handle), b"once");
    client.stat(&root).unwrap();
    drop(leased);
    assert!(client.reply(opened).1.is_ok());
    assert!(client.reply(written).1.is_ok());
    assert_eq!(client.read(handle, 0, 100), b"once");
    goodbye(client);
}

#[test]
fn locks_stay_and_can_be_given_back() {
    let home = Home::new();
    let directory = tempdir().unwrap();
    let mut client = home.attach(directory.path());
    let root = client.root.clone();
    let (handle, place) = client.create(&root, "file");
    for kind in [flock(LockKind::Exclusive), posix(LockKind::Exclusive)] {
        lock(&mut client, handle, kind).unwrap();
    }
    let mut other = Client::attach(directory.path());
    let others = other.open(&place, READ_WRITE);
    client.hang_up();
    for kind in [flock(LockKind::Exclusive), posix(LockKind::Exclusive)] {
        assert_eq!(errno(lock(&mut other, others, kind)), libc::EAGAIN);
    }
    let mut client = home.resume(&client);
    for kind in [flock(LockKind::Unlocked), posix(LockKind::Unlocked)] {
        lock(&mut client, handle, kind).unwrap();
    }
    for kind in [flock(LockKind::Exclusive), posix(LockKind::Exclusive)] {
        lock(&mut other, others, kind).unwrap();
    }
    goodbye(client);
}

#[test]
fn a_lock_that_was_waited_for_at_the_cut_is_not_taken() {
    let home = Home::new();
    let directory = tempdir().unwrap();
    let mut client = home.attach(directory.path());
    let root = client.root.clone();
    let (handle, place) = client.create(&root, "file");
    let mut other = Client::attach(directory.path());
    let others = other.open(&place, READ_WRITE);
    for kind in [posix(LockKind::Exclusive), flock(LockKind::Exclusive)] {
        lock(&mut other, others, kind).unwrap();
        let wait = FileRequest::Lock { handle, owner: 1, lock: kind, wait: true };
        client.send(Request::File(wait), &[]);
        client.stat(&root).unwrap();
        client = home.cut(client);
        lock(&mut other, others, Lock { kind: LockKind::Unlocked, ..kind }).unwrap();
        client.stat(&root).unwrap();
        lock(&mut other, others, kind).unwrap();
        // And it can be waited for again.
        let wait = FileRequest::Lock { handle, owner: 1, lock: kind, wait: true };
        let id = client.send(Request::File(wait), &[]);
        lock(&mut other, others, Lock { kind: LockKind::Unlocked, ..kind }).unwrap();
        assert!(client.reply(id).1.is_ok());
    }
    goodbye(client);
}

#[test]
fn a_new_stream_starts_without_a_lease_and_can_have_one() {
    let home = Home::new();
    let directory = tempdir().unwrap();
    let mut client = home.attach(directory.path());
    let root = client.root.clone();
    let before = client.lookup(&root, "absent").1.unwrap();
    let mut client = home.cut(client);
    std::fs::write(directory.path().join("unheard"), b"").unwrap();
    client.stat(&root).unwrap();
    assert!(client.events_so_far().is_empty());
    let lease = client.lookup(&root, "absent").1.unwrap();
    assert!(lease.epoch > before.epoch, "what the old stream told is older");
    std::fs::write(directory.path().join("heard"), b"").unwrap();
    let changed = client.changed();
    assert_eq!(changed.directory, root.id);
    assert!(changed.epoch > lease.epoch);
    goodbye(client);
}

/// A process, followed over any number of streams.
struct Followed {
    process: ProcessId,
    id: RequestId,
    output: Vec<u8>,
    status: Option<ExitStatus>,
}

impl Followed {
    fn spawn(client: &mut Client, script: &str, window: u32) -> Followed {
        let process = ProcessId(client.handle().0);
        let id = client.send(spawn(process, script, window), &[]);
        let mut followed = Followed { process, id, output: Vec::new(), status: None };
        followed.started(client);
        followed
    }

    fn started(&mut self, client: &mut Client) -> u32 {
        match client.reply(self.id) {
            (false, Ok(Reply::Process(ProcessReply::Started { pid, .. })), _) => pid,
            other => panic!("{other:?}"),
        }
    }

    fn follow(&mut self, client: &mut Client, window: u32) {
        self.follow_owing(client, window, 0);
    }

    fn follow_owing(&mut self, client: &mut Client, window: u32, owed: u32) {
        let from = self.output.len() as u64;
        let request = ProcessRequest::Follow { process: self.process, from, window, owed };
        self.id = client.send(Request::Process(request), &[]);
        self.started(client);
    }

    /// Hears one reply. Says how many bytes of output it brought.
    fn hear(&mut self, client: &mut Client) -> usize {
        match client.reply(self.id) {
            (false, Ok(Reply::Process(ProcessReply::Output(_))), bytes) => {
                self.output.extend(&bytes);
                bytes.len()
            }
            (true, Ok(Reply::Process(ProcessReply::Ended(status))), _) => {
                self.status = Some(status);
                0
            }
            other => panic!("{other:?}"),
        }
    }

    /// Takes one reply, and allows as much again: less than it took, for its head is not counted.
    fn take(&mut self, client: &mut Client) {
        let bytes = self.hear(client) as u32;
        client.send_frame(&ClientFrame::Credit { id: self.id, bytes }, &[]);
    }

    fn take_all(&mut self, client: &mut Client) {
        while self.status.is_none() {
            self.take(client);
        }
    }
}

fn spawn(process: ProcessId, script: &str, window: u32) -> Request {
    Request::Process(ProcessRequest::Spawn {
        process,
        words: ["sh", "-c", script].map(|word| word.as_bytes().to_vec().into()).into(),
        environment: Vec::new(),
        directory: Some(b"/".to_vec().into()),
        terminal: None,
        detached: false,
        window,
    })
}

#[test]
fn a_process_goes_on_and_not_a_byte_of_its_output_is_lost_or_told_twice() {
    let home = Home::new();
    let mut client = home.start(LONG_SECONDS);
    const LINES: usize = 60_000;
    let mut process = Followed::spawn(&mut client, &format!("seq 1 {LINES}; exit 3"), 100_000);
    let mut cuts = 0;
    while process.status.is_none() {
        for _ in 0..1 + cuts % 4 {
            if process.status.is_none() {
                process.take(&mut client);
            }
        }
        client = home.cut(client);
        cuts += 1;
        if process.status.is_none() {
            process.follow(&mut client, 20_000 + 10_000 * (cuts % 3));
        }
    }
    let expected: String = (1..=LINES).map(|line| format!("{line}\n")).collect();
    assert!(process.output == expected.as_bytes(), "{} of {}", process.output.len(), expected.len());
    assert_eq!(process.status, Some(ExitStatus::Exited(3)));
    assert!(cuts > 2);
    goodbye(client);
}

#[test]
fn output_is_kept_until_credit_is_given_for_it_and_not_for_what_came_before() {
    let home = Home::new();
    let mut client = home.start(LONG_SECONDS);
    const LINES: usize = 200_000;
    const WINDOW: u32 = 200_000;
    let mut process = Followed::spawn(&mut client, &format!("seq 1 {LINES}; exit 3"), WINDOW);
    loop {
        let mut owed = 0;
        // More than one of those that come next.
        while owed < WINDOW / 2 && process.status.is_none() {
            owed += process.hear(&mut client) as u32;
        }
        if process.status.is_some() {
            break;
        }
        // Credit for what has come is given when another stream has begun, and what comes on that is lost with it.
        for _ in 0..2 {
            client = home.cut(client);
            process.follow_owing(&mut client, WINDOW.saturating_sub(owed).max(1), owed);
            client.send_frame(&ClientFrame::Credit { id: process.id, bytes: owed }, &[]);
            assert!(client.reply(process.id).1.is_ok());
        }
        client = home.cut(client);
        process.follow(&mut client, WINDOW);
    }
    let expected: String = (1..=LINES).map(|line| format!("{line}\n")).collect();
    assert!(process.output == expected.as_bytes(), "{} of {}", process.output.len(), expected.len());
    goodbye(client);
}

#[test]
fn a_process_without_a_client_waits_and_is_not_ended() {
    let home = Home::new();
    let directory = tempdir().unwrap();
    let mut client = home.start(LONG_SECONDS);
    let done = directory.path().join("done");
    let script = format!("echo up; head -c 3000000 /dev/zero; touch {}; exit 5", done.display());
    let mut process = Followed::spawn(&mut client, &script, 1000);
    process.take(&mut client);
    let mut client = home.cut(client);
    client.events_so_far();
    assert!(!done.exists(), "a pipe, and what is kept, take less than three megabytes");
    process.follow(&mut client, NO_LIMIT);
    process.take_all(&mut client);
    assert_eq!((process.output.len(), process.status), (3_000_003, Some(ExitStatus::Exited(5))));
    goodbye(client);
}

#[test]
fn a_detached_process_outlives_a_goodbye_and_what_it_says_is_kept() {
    let home = Home::new();
    let directory = tempdir().unwrap();
    let go = directory.path().join("go");
    let mut client = home.start(LONG_SECONDS);
    let session = client.session;
    let script = format!("echo one; while ! test -e {}; do sleep 0.01; done; echo two; exit 4", go.display());
    let mut process = Followed::spawn(&mut client, &script, NO_LIMIT);
    process.hear(&mut client);
    let detach = ProcessRequest::Detach { process: process.process };
    let id = client.send(Request::Process(detach), &[]);
    assert_eq!(client.reply(id).1.unwrap(), Reply::Process(ProcessReply::Done));
    let other = Followed::spawn(&mut client, "exec sleep 1000", NO_LIMIT);
    client.send_frame(&ClientFrame::Goodbye, &[]);
    assert!(client.child().wait().unwrap().success());
    assert!(home.door(session).exists(), "the session goes on");
    let mut client = home.knock(session);
    client.greet(session, LONG_SECONDS);
    assert_eq!(client.session, session);
    let wait =
        |client: &mut Client, process| client.send(Request::Process(ProcessRequest::Wait { process }), &[]);
    let id = wait(&mut client, other.process);
    let ended = client.reply(id).1;
    let is_hung_up = matches!(ended, Ok(Reply::Process(ProcessReply::Ended(ExitStatus::Signalled(1)))));
    assert!(
        is_hung_up || ended.as_ref().is_err_and(|failure| failure.errno == Errno(libc::ESRCH as u16)),
        "{ended:?}"
    );
    let id = wait(&mut client, process.process);
    std::fs::write(&go, "").unwrap();
    let ended = client.reply(id).1.unwrap();
    assert_eq!(ended, Reply::Process(ProcessReply::Ended(ExitStatus::Exited(4))));
    for _ in 0..3 {
        (process.output, process.status) = (Vec::new(), None);
        process.follow(&mut client, NO_LIMIT);
        process.take_all(&mut client);
        assert_eq!(
            (process.output.as_slice(), process.status),
            (&b"one\ntwo\n"[..], Some(ExitStatus::Exited(4)))
        );
        // That it was told does not say that anybody has heard it.
        client.send_frame(&ClientFrame::Goodbye, &[]);
        assert!(client.child().wait().unwrap().success());
        client = home.resume(&client);
    }
    forget(&mut client, process.process);
    process.output.clear();
    let follow = ProcessRequest::Follow { process: process.process, from: 0, window: NO_LIMIT, owed: 0 };
    let id = client.send(Request::Process(follow), &[]);
    assert_eq!(client.reply(id).1.unwrap_err().errno, Errno(libc::ESRCH as u16));
    goodbye(client);
}

fn ask(client: &mut Client, request: ProcessRequest) -> Result<Reply, Failure> {
    let id = client.send(Request::Process(request), &[]);
    client.reply(id).1
}

fn forget(client: &mut Client, process: ProcessId) {
    assert_eq!(ask(client, ProcessRequest::Forget { process }).unwrap(), Reply::Process(ProcessReply::Done));
}

#[test]
fn a_process_that_lost_its_follower_with_the_line_can_be_released_unless_it_is_detached() {
    let home = Home::new();
    let mut client = home.start(LONG_SECONDS);
    let [wanted, unwanted] =
        [(); 2].map(|()| Followed::spawn(&mut client, "exec sleep 1000", NO_LIMIT).process);
    ask(&mut client, ProcessRequest::Detach { process: wanted }).unwrap();
    let mut client = home.cut(client);
    let ended = |status| Ok(Reply::Process(ProcessReply::Ended(status)));
    let wait = ProcessRequest::Wait { process: unwanted };
    let waiting = client.send(Request::Process(wait.clone()), &[]);
    for process in [wanted, unwanted] {
        ask(&mut client, ProcessRequest::Release { process }).unwrap();
    }
    assert_eq!(client.reply(waiting).1, ended(ExitStatus::Signalled(libc::SIGHUP as u8)));
    eventually("its end is not kept for anybody", || ask(&mut client, wait.clone()).is_err());
    let waiting = client.send(Request::Process(ProcessRequest::Wait { process: wanted }), &[]);
    assert!(!client.has_reply(waiting), "what is detached goes on");
    ask(&mut client, ProcessRequest::Signal { process: wanted, signal: libc::SIGKILL as u8 }).unwrap();
    assert_eq!(client.reply(waiting).1, ended(ExitStatus::Signalled(libc::SIGKILL as u8)));
    forget(&mut client, wanted);
    goodbye(client);
}

#[test]
fn what_writes_to_a_terminal_is_not_held_up_by_a_line_that_is_cut_in_silence() {
    let home = Home::new();
    let directory = tempdir().unwrap();
    let done = directory.path().join("done");
    let mut client = home.start(LONG_SECONDS);
    let process = ProcessId(client.handle().0);
    let script = format!("head -c 3000000 /dev/zero; : > {}; exec sleep 1000", done.display());
    let Request::Process(mut request) = spawn(process, &script, NO_LIMIT) else {
        panic!("it is of a process")
    };
    if let ProcessRequest::Spawn { terminal, .. } = &mut request {
        *terminal = Some(TerminalSize { rows: 24, columns: 80 });
    }
    client.send(Request::Process(request), &[]);
    // Nothing is said, and nothing read.
    let deadline = Instant::now() + Duration::from_secs(90);
    while !done.exists() {
        assert!(Instant::now() < deadline, "it is held up");
        std::thread::park_timeout(Duration::from_millis(20));
    }
    let mut client = home.cut_whatever_is_said(client);
    let mut followed = Followed { process, id: RequestId(0), output: Vec::new(), status: None };
    followed.follow(&mut client, NO_LIMIT);
    let dropped = client.reply(followed.id).1.unwrap();
    let Reply::Process(ProcessReply::Dropped { bytes, unread }) = dropped else { panic!("{dropped:?}") };
    assert_eq!(bytes, unread);
    while bytes + (followed.output.len() as u64) < 3_000_000 {
        followed.take(&mut client);
    }
    assert!(followed.output.len() <= SCROLLBACK_BYTES_MAX);
    goodbye(client);
}

#[test]
fn an_end_that_was_not_heard_of_is_told_again() {
    let home = Home::new();
    let mut client = home.start(LONG_SECONDS);
    let script = "echo one; echo two >&2; exit 9";
    let mut process = Followed::spawn(&mut client, script, NO_LIMIT);
    while process.status.is_none() {
        process.hear(&mut client);
    }
    // As if nothing had arrived: neither the start nor anything later.
    let mut client = home.cut(client);
    (process.output, process.status) = (Vec::new(), None);
    process.id = client.send(spawn(process.process, script, NO_LIMIT), &[]);
    process.started(&mut client);
    while process.status.is_none() {
        process.hear(&mut client);
    }
    assert_eq!((process.output.len(), process.status), (8, Some(ExitStatus::Exited(9))));
    let unknown = ProcessRequest::Follow { process: ProcessId(99), from: 0, window: 1, owed: 0 };
    let id = client.send(Request::Process(unknown), &[]);
    assert_eq!(errno(client.reply(id).1), libc::ESRCH);
    let beyond = ProcessRequest::Follow { process: process.process, from: 99, window: 1, owed: 0 };
    let id = client.send(Request::Process(beyond), &[]);
    assert_eq!(errno(client.reply(id).1), libc::ENODATA);
    goodbye(client);
}

#[test]
fn input_that_comes_again_is_given_once() {
    let home = Home::new();
    let mut client = home.start(LONG_SECONDS);
    let mut process = Followed::spawn(&mut client, "cat", NO_LIMIT);
    let of = process.process;
    let input = |client: &mut Client, from, bytes: &[u8], end| {
        client.send(Request::Process(ProcessRequest::Input { process: of, from, end }), bytes)
    };
    let id = input(&mut client, 0, b"one ", false);
    assert!(client.reply(id).1.is_ok());
    let mut client = home.cut(client);
    process.follow(&mut client, NO_LIMIT);
    for (from, bytes) in [(0, b"one ".as_slice()), (0, b"one two "), (8, b"three")] {
        let id = input(&mut client, from, bytes, from == 8);
        assert!(client.reply(id).1.is_ok());
    }
    process.take_all(&mut client);
    assert_eq!(process.output, b"one two three");
    let mut process = Followed::spawn(&mut client, "cat", NO_LIMIT);
    let of = process.process;
    let gap = ProcessRequest::Input { process: of, from: 1, end: false };
    let id = client.send(Request::Process(gap), b"x");
    assert_eq!(errno(client.reply(id).1), libc::EINVAL);
    client.send_frame(&ClientFrame::Cancel { id: process.id }, &[]);
    process.take_all(&mut client);
    goodbye(client);
}

#[test]
fn the_newest_stream_wins() {
    let home = Home::new();
    let directory = tempdir().unwrap();
    let mut old = home.attach(directory.path());
    let root = old.root.clone();
    let (handle, _) = old.create(&root, "file");
    let mut new = home.resume(&old);
    assert!(old.is_cut());
    new.write(handle, 0, b"mine");
    let greeted = home.resume(&new);
    assert!(new.is_cut());
    // One that says nothing keeps nobody out, nor does it take anything away.
    let mut silent = home.knock(greeted.session);
    silent.skip_preface();
    let mut greeted = greeted;
    assert_eq!(greeted.read(handle, 0, 10), b"mine");
    let newest = home.resume(&greeted);
    assert!(greeted.is_cut());
    // It ends with the session.
    goodbye(newest);
    silent.expect_failure();
}

/// A connection that is half dead: nobody reads what the agent sends, and nobody closes anything.
#[test]
fn a_stream_of_pipes_that_hangs_is_cut() {
    let home = Home::new();
    let directory = tempdir().unwrap();
    std::fs::write(directory.path().join("file"), vec![b'x'; 1 << 20]).unwrap();
    let mut agent = home.program().stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut input, mut output) = (agent.stdin.take().unwrap(), agent.stdout.take().unwrap());
    let hello = Hello { keep_seconds: LONG_SECONDS, ..Hello::new(0, SessionId::default()) };
    input.write_all(&[PREFACE.as_slice(), &encode_head(&hello, 0).unwrap()].concat()).unwrap();
    let mut preface = [0; PREFACE.len()];
    output.read_exact(&mut preface).unwrap();
    let theirs: Hello = decode_head(&read_frame(&mut output)).unwrap();
    let mut client = Client::started(home.program().args(["--resume", &theirs.session.to_string()]));
    client.greet(theirs.session, LONG_SECONDS);
    assert_eq!(client.session, theirs.session);
    client.export(directory.path(), true);
    let place = client.place("file");
    let handle = client.open(&place, READ);
    // The pipes again, by a relay whose streams they are, and more replies than they hold.
    let (near_input, far_input) = (rustix::pipe::pipe().unwrap(), rustix::pipe::pipe().unwrap());
    drop((input, output));
    let mut relay = home
        .program()
        .args(["--resume", &theirs.session.to_string()])
        .stdin(near_input.0)
        .stdout(far_input.1)
        .spawn()
        .unwrap();
    let (mut input, mut output) = (std::fs::File::from(near_input.1), std::fs::File::from(far_input.0));
    let hello = Hello { keep_seconds: LONG_SECONDS, ..Hello::new(0, theirs.session) };
    input.write_all(&[PREFACE.as_slice(), &encode_head(&hello, 0).unwrap()].concat()).unwrap();
    for id in 0..40 {
        let body = Request::File(FileRequest::Read { handle, offset: 0, length: 1 << 20 });
        let frame = ClientFrame::Request { id: RequestId(id), sequence: Sequence(0), body };
        input.write_all(&encode_head(&frame, 0).unwrap()).unwrap();
    }
    output.read_exact(&mut preface).unwrap();
    read_frame(&mut output);
    output.read_exact(&mut [0; 1000]).unwrap();
    assert!(client.is_cut());
    let mut client = home.resume(&client);
    assert_eq!(client.read(handle, 0, 3), b"xxx");
    // What was written before the cut is still there; then it ends.
    output.read_to_end(&mut Vec::new()).unwrap();
    assert!(relay.wait().unwrap().success() && agent.wait().unwrap().success());
    drop(input);
    goodbye(client);
}

fn read_frame(stream: &mut impl Read) -> Vec<u8> {
    let mut prefix = [0; wire::frame::PREFIX_BYTES];
    stream.read_exact(&mut prefix).unwrap();
    let mut head = vec![0; Prefix::parse(prefix).unwrap().head as usize];
    stream.read_exact(&mut head).unwrap();
    head
}

/// Says that it runs, and does not end when it is hung up.
const STUBBORN: &str = "trap '' HUP; echo up; while :; do sleep 1000; done";

#[test]
fn goodbye_ends_the_session_with_all_it_has() {
    let home = Home::new();
    let mut client = home.start(LONG_SECONDS);
    let session = client.session;
    let mut process = Followed::spawn(&mut client, STUBBORN, NO_LIMIT);
    process.hear(&mut client);
    client.send_frame(&ClientFrame::Goodbye, &[]);
    // The process that was started for the stream ends when everything has.
    assert!(client.child().wait().unwrap().success());
    assert!(!home.door(session).exists());
    // A killed child of the process is gone when the kernel has come to it.
    eventually("no process is left", || home.processes().iter().all(|(_, name)| name == "stead-session"));
}

#[test]
fn a_session_that_nobody_comes_for_ends_by_itself() {
    let home = Home::new();
    let mut client = home.start(1);
    let mut process = Followed::spawn(&mut client, STUBBORN, NO_LIMIT);
    process.hear(&mut client);
    client.hang_up();
    assert!(home.door(client.session).exists(), "it is kept for a second");
    eventually("nothing is left", || home.is_empty());
    let mut late = home.knock(client.session);
    late.greet(client.session, 0);
    assert_ne!(late.session, client.session, "a session that is gone cannot be resumed");
}

#[test]
fn a_session_that_holds_nothing_yet_is_not_kept() {
    let home = Home::new();
    let mut client = home.start(LONG_SECONDS);
    client.hang_up();
    eventually("nothing is left", || home.is_empty());
    let mut client = home.start(LONG_SECONDS);
    let mut process = Followed::spawn(&mut client, "true", NO_LIMIT);
    process.take_all(&mut client);
    // The end of a process may not have been heard of.
    let client = home.cut(client);
    goodbye(client);
}

/// A request may be cut anywhere: it is made once all the same.
#[test]
fn a_request_cut_at_any_of_its_bytes_is_made_once() {
    let home = Home::new();
    let directory = tempdir().unwrap();
    let mut client = home.attach(directory.path());
    let root = client.root.clone();
    let (log, _) = client.create(&root, "log");
    let frame = |client: &Client, n: usize| {
        let id = RequestId(client.next + 1000);
        let frame = ClientFrame::Request { id, sequence: Sequence(n as u64 + 1), body: append(log) };
        [encode_head(&frame, record(n).len()).unwrap(), record(n).into_bytes()].concat()
    };
    let length = frame(&client, 0).len();
    for cut in 0..=length {
        let whole = frame(&client, cut);
        client.stream().write_all(&whole[..cut.min(whole.len())]).unwrap();
        client = home.cut_whatever_is_said(client);
        let id = client.send_numbered(Sequence(cut as u64 + 1), append(log), record(cut).as_bytes());
        assert!(client.reply(id).1.is_ok());
    }
    let expected: String = (0..=length).map(record).collect();
    assert_eq!(std::fs::read_to_string(directory.path().join("log")).unwrap(), expected);
    goodbye(client);
}

#[test]
fn a_later_client_may_keep_the_session_for_another_time() {
    let home = Home::new();
    let directory = tempdir().unwrap();
    let mut client = home.attach(directory.path());
    client.hang_up();
    let mut later = home.knock(client.session);
    later.greet(client.session, 0);
    assert_eq!((later.session, later.keep_seconds), (client.session, 0));
    later.hang_up();
    assert!(!home.door(client.session).exists());
}

/// How many cuts the session has to survive.
const CUTS: usize = 100;

/// How many mutations are under way at a cut.
const UNDER_WAY: usize = 24;

/// Records are appended, each once, while the stream is cut again and again: with replies on their way, requests half
/// sent, and some of the work not begun.
#[test]
fn a_hundred_cuts_under_load_lose_nothing_and_repeat_nothing() {
    let home = Home::new();
    let directory = tempdir().unwrap();
    let mut client = home.attach(directory.path());
    let root = client.root.clone();
    let (log, _) = client.create(&root, "log");
    let mut answered = 0;
    for cut in 0..CUTS {
        let mut ids = Vec::new();
        for n in answered..answered + UNDER_WAY {
            let sequence = Sequence(2 * n as u64 + 1);
            ids.push(client.send_numbered(sequence, append(log), record(n).as_bytes()));
            let made = Sequence(2 * n as u64 + 2);
            ids.push(client.send_numbered(made, make_directory(&client, &format!("d{n}")), &[]));
            client.send(Request::File(FileRequest::Read { handle: log, offset: 0, length: 1 << 20 }), &[]);
        }
        // Whatever of it has been answered by now is not asked for again.
        let heard = (cut * 7) % (ids.len() + 1);
        for id in &ids[..heard] {
            let (_, body, _) = client.reply(*id);
            assert!(body.is_ok(), "cut {cut}: {body:?}");
        }
        answered += heard / 2;
        if cut % 3 == 0 && answered > 0 {
            let sequence = Sequence(2 * answered as u64);
            client.send_frame(&ClientFrame::Acknowledge { sequence }, &[]);
        }
        if cut % 2 == 0 {
            // In the middle of a frame.
            let half = encode_head(&ClientFrame::Ping { nonce: u64::MAX }, 0).unwrap();
            client.stream().write_all(&half[..half.len() - 1]).unwrap();
        }
        client = match cut % 5 {
            // The new stream comes while the old one is still there.
            0 => home.resume(&client),
            _ => home.cut_whatever_is_said(client),
        };
    }
    let mut ids = Vec::new();
    for n in answered..answered + UNDER_WAY {
        ids.push(client.send_numbered(Sequence(2 * n as u64 + 1), append(log), record(n).as_bytes()));
        let directory = make_directory(&client, &format!("d{n}"));
        ids.push(client.send_numbered(Sequence(2 * n as u64 + 2), directory, &[]));
    }
    for id in ids {
        assert!(client.reply(id).1.is_ok());
    }
    let expected: String = (0..answered + UNDER_WAY).map(record).collect();
    let written = std::fs::read_to_string(directory.path().join("log")).unwrap();
    assert!(written == expected, "{} bytes and not {}", written.len(), expected.len());
    let descriptors = std::fs::read_dir(format!("/proc/{}/fd", session_process(&home))).unwrap().count();
    assert!(descriptors < 40, "{descriptors} descriptors are open after {CUTS} cuts");
    goodbye(client);
}

fn record(n: usize) -> String {
    format!("record {n:06}\n")
}
