//! The smallest client: one thread, blocking.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use agent::{Ended, Options};
use wire::agent::file::*;
use wire::agent::name::{Name, RelativePath};
use wire::agent::*;
use wire::frame::{PREFACE, PREFIX_BYTES, Prefix, decode_head, encode_head};
use wire::hello::{Hello, SessionId};

/// Far more than anything here takes; a test that waits this long has failed.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// A reply: whether it is the last, what it says, its payload.
type Answer = (bool, Result<Reply, Failure>, Vec<u8>);

pub struct Client {
    stream: UnixStream,
    agent: Option<JoinHandle<Ended>>,
    child: Option<Child>,
    /// The number of the next request or handle.
    pub next: u64,
    /// What the agent said of its session.
    pub session: SessionId,
    pub keep_seconds: u32,
    replies: VecDeque<(RequestId, Answer)>,
    events: VecDeque<AgentFrame>,
    pub root: Place,
    pub privileged: bool,
    /// What is said that this side can do.
    pub capabilities: u64,
    /// Frames that came packed.
    pub packed: usize,
}

/// The caller that the tests run as.
pub fn me() -> Caller {
    Caller {
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        umask: 0o022,
    }
}

pub fn name(text: impl AsRef<[u8]>) -> Name {
    Name::new(text.as_ref()).unwrap()
}

pub fn path(text: impl AsRef<[u8]>) -> RelativePath {
    RelativePath::new(text.as_ref()).unwrap()
}

pub fn errno(result: Result<impl std::fmt::Debug, Failure>) -> i32 {
    i32::from(result.expect_err("an error was expected").errno.0)
}

pub fn options() -> Options {
    Options { home: b"/tmp".to_vec(), shell: b"/bin/sh".to_vec() }
}

pub const READ: OpenFlags = OpenFlags {
    read: true,
    write: false,
    append: false,
    truncate: false,
    sync: false,
    direct: false,
    exclusive: false,
};
pub const READ_WRITE: OpenFlags = OpenFlags { write: true, ..READ };
pub const NO_LIMIT: u32 = u32::MAX;

impl Client {
    /// A stream on which both sides have said hello.
    pub fn connect() -> Client {
        let mut client = Client::raw();
        client.greet(SessionId::default(), 0);
        client
    }

    /// Says hello and hears the agent's.
    pub fn greet(&mut self, session: SessionId, keep_seconds: u32) {
        self.say_hello(session, keep_seconds);
        let theirs = self.skip_hello();
        self.session = theirs.session;
        self.keep_seconds = theirs.keep_seconds;
    }

    pub fn say_hello(&mut self, session: SessionId, keep_seconds: u32) {
        let hello = Hello { keep_seconds, ..Hello::new(self.capabilities, session) };
        let hello = encode_head(&hello, 0).unwrap();
        self.stream.write_all(&[PREFACE.as_slice(), &hello].concat()).unwrap();
    }

    /// A stream on which nothing has been said.
    pub fn raw() -> Client {
        let (near, far) = UnixStream::pair().unwrap();
        near.set_read_timeout(Some(DEADLINE)).unwrap();
        let agent = std::thread::spawn(move || agent::serve(&far, &far, options()));
        Client::over(near, Some(agent), None)
    }

    /// An agent that is a process of its own, and its number. `STEAD_AGENT` may name another build of it.
    pub fn spawned() -> (Client, u32) {
        let mut client = Client::started(&mut agent_program());
        client.greet(SessionId::default(), 0);
        let pid = client.child.as_ref().unwrap().id();
        (client, pid)
    }

    /// A program that has been started with a stream, on which nothing has been said.
    pub fn started(command: &mut Command) -> Client {
        let (near, far) = UnixStream::pair().unwrap();
        near.set_read_timeout(Some(DEADLINE)).unwrap();
        let stream = || Stdio::from(OwnedFd::from(far.try_clone().unwrap()));
        let child = command.stdin(stream()).stdout(stream()).spawn().unwrap();
        // The command holds the other end: as long as it is there, an end of the agent is not seen.
        command.stdin(Stdio::null()).stdout(Stdio::null());
        Client::over(near, None, Some(child))
    }

    fn over(stream: UnixStream, agent: Option<JoinHandle<Ended>>, child: Option<Child>) -> Client {
        Client {
            stream,
            agent,
            child,
            next: 1,
            session: SessionId::default(),
            keep_seconds: 0,
            replies: VecDeque::new(),
            events: VecDeque::new(),
            root: Place::default(),
            privileged: false,
            capabilities: 0,
            packed: 0,
        }
    }

    /// Waits until the agent has taken the stream.
    pub fn skip_preface(&mut self) {
        let mut preface = [0; PREFACE.len()];
        self.stream.read_exact(&mut preface).unwrap();
        assert_eq!(&preface, PREFACE);
    }

    pub fn skip_hello(&mut self) -> Hello {
        self.skip_preface();
        let (head, _) = self.read_frame_bytes().unwrap();
        decode_head(&head).unwrap()
    }

    pub fn attach(directory: &Path) -> Client {
        Client::attach_with(directory, false)
    }

    pub fn attach_with(directory: &Path, read_only: bool) -> Client {
        let mut client = Client::connect();
        client.export(directory, read_only);
        client
    }

    pub fn export(&mut self, directory: &Path, read_only: bool) {
        let path = directory.as_os_str().as_encoded_bytes().to_vec();
        match self.file(FileRequest::Attach { path, read_only }) {
            Ok(FileReply::Attached { root, privileged, .. }) => {
                self.root = Place { id: root.id, path: RelativePath::default() };
                self.privileged = privileged;
            }
            other => panic!("attach: {other:?}"),
        }
    }

    pub fn stream(&mut self) -> &mut UnixStream {
        &mut self.stream
    }

    /// Whether the stream has been closed at the other end, by now or soon.
    pub fn is_cut(&mut self) -> bool {
        let mut rest = Vec::new();
        self.stream.read_to_end(&mut rest).is_ok()
    }

    /// Ends the stream without a word, and waits until the agent has seen it.
    pub fn hang_up(&mut self) {
        self.stream.shutdown(std::net::Shutdown::Both).unwrap();
        assert!(self.child().wait().unwrap().success());
    }

    /// The process that was started for the stream.
    pub fn child(&mut self) -> &mut Child {
        self.child.as_mut().unwrap()
    }

    /// Waits for the end of the process that was started for the stream, however it ends.
    pub fn wait_for_child(&mut self) {
        self.child.take().unwrap().wait().unwrap();
    }

    /// Waits for the end of the process that was started for the stream, which has not gone well.
    pub fn expect_failure(mut self) {
        assert!(!self.child.take().unwrap().wait().unwrap().success());
    }

    /// Closes the stream and says how the agent took it.
    pub fn close(mut self) -> Ended {
        self.stream.shutdown(std::net::Shutdown::Both).unwrap();
        self.agent.take().unwrap().join().unwrap()
    }

    /// Waits until the agent has closed the stream by itself.
    pub fn ended(mut self) -> Ended {
        self.agent.take().unwrap().join().unwrap()
    }

    pub fn send_frame(&mut self, frame: &ClientFrame, payload: &[u8]) {
        let mut bytes = encode_head(frame, payload.len()).unwrap();
        bytes.extend_from_slice(payload);
        self.stream.write_all(&bytes).unwrap();
    }

    pub fn send(&mut self, body: Request, payload: &[u8]) -> RequestId {
        self.send_numbered(Sequence(0), body, payload)
    }

    pub fn send_numbered(&mut self, sequence: Sequence, body: Request, payload: &[u8]) -> RequestId {
        let id = RequestId(self.next);
        self.next += 1;
        self.send_frame(&ClientFrame::Request { id, sequence, body }, payload);
        id
    }

    pub fn handle(&mut self) -> HandleId {
        self.next += 1;
        HandleId(self.next)
    }

    /// The next reply to a request, whatever else comes before it.
    pub fn reply(&mut self, id: RequestId) -> Answer {
        loop {
            if let Some(at) = self.replies.iter().position(|reply| reply.0 == id) {
                return self.replies.remove(at).unwrap().1;
            }
            self.read_frame();
        }
    }

    /// The next frame that is no reply.
    pub fn event(&mut self) -> AgentFrame {
        loop {
            if let Some(event) = self.events.pop_front() {
                return event;
            }
            self.read_frame();
        }
    }

    pub fn changed(&mut self) -> Changed {
        match self.event() {
            AgentFrame::Changed(changed) => changed,
            other => panic!("{other:?}"),
        }
    }

    /// Everything that has been told until the agent has answered a ping that was sent behind it all.
    pub fn events_so_far(&mut self) -> Vec<AgentFrame> {
        let mut events = Vec::new();
        self.send_frame(&ClientFrame::Ping { nonce: 0x5eed }, &[]);
        loop {
            match self.event() {
                AgentFrame::Pong { nonce: 0x5eed, .. } => return events,
                event => events.push(event),
            }
        }
    }

    /// Whether a reply has come without waiting for one.
    pub fn has_reply(&mut self, id: RequestId) -> bool {
        let events = self.events_so_far();
        self.events.extend(events);
        self.replies.iter().any(|reply| reply.0 == id)
    }

    fn read_frame(&mut self) {
        let (head, payload) = self.read_frame_bytes().expect("the agent is there");
        match decode_head::<AgentFrame>(&head).unwrap() {
            AgentFrame::Reply { id, last, body } => self.replies.push_back((id, (last, body, payload))),
            event => self.events.push_back(event),
        }
    }

    pub fn read_frame_bytes(&mut self) -> std::io::Result<(Vec<u8>, Vec<u8>)> {
        let mut prefix = [0; PREFIX_BYTES];
        self.stream.read_exact(&mut prefix)?;
        let prefix = Prefix::parse(prefix).unwrap();
        let mut head = vec![0; prefix.head as usize];
        self.stream.read_exact(&mut head)?;
        let mut payload = vec![0; prefix.payload as usize];
        self.stream.read_exact(&mut payload)?;
        if prefix.packed {
            self.packed += 1;
            payload = wire::packing::unpack(&payload).unwrap();
        }
        Ok((head, payload))
    }

    pub fn call(&mut self, request: FileRequest, payload: &[u8]) -> Result<(FileReply, Vec<u8>), Failure> {
        let id = self.send(Request::File(request), payload);
        let (last, body, payload) = self.reply(id);
        assert!(last);
        match body? {
            Reply::File(reply) => Ok((reply, payload)),
            other => panic!("{other:?}"),
        }
    }

    pub fn file(&mut self, request: FileRequest) -> Result<FileReply, Failure> {
        self.call(request, &[]).map(|(reply, _)| reply)
    }

    /// Asks for what is answered with an entry.
    pub fn entry(&mut self, request: FileRequest, payload: &[u8]) -> Result<Entry, Failure> {
        match self.call(request, payload)?.0 {
            FileReply::Entry(entry) => Ok(entry),
            FileReply::Opened { entry, .. } => Ok(entry),
            other => panic!("{other:?}"),
        }
    }

    pub fn lookup(&mut self, directory: &Place, text: &str) -> (Option<Entry>, Option<Lease>) {
        let request = FileRequest::Lookup { directory: directory.clone(), name: name(text) };
        match self.file(request).unwrap() {
            FileReply::Looked { entry, lease } => (entry, lease),
            other => panic!("{other:?}"),
        }
    }

    /// The place of an existing path.
    pub fn place(&mut self, text: &str) -> Place {
        let mut place = self.root.clone();
        for part in text.split('/').filter(|part| !part.is_empty()) {
            let entry = self.lookup(&place, part).0.unwrap_or_else(|| panic!("no `{part}` in `{place:?}`"));
            place = Place { id: entry.id, path: place.path.join(&name(part)) };
        }
        place
    }

    pub fn stat(&mut self, place: &Place) -> Result<Entry, Failure> {
        self.entry(FileRequest::Stat { target: Target::Place(place.clone()) }, &[])
    }

    pub fn make_directory(&mut self, directory: &Place, text: &str) -> Place {
        let request = FileRequest::MakeDirectory {
            directory: directory.clone(),
            name: name(text),
            mode: 0o755,
            caller: me(),
        };
        let entry = self.entry(request, &[]).unwrap();
        Place { id: entry.id, path: directory.path.join(&name(text)) }
    }

    pub fn put(&mut self, directory: &Place, text: &str, content: &[u8]) -> Place {
        let entry = self.entry(put(directory, text), content).unwrap();
        Place { id: entry.id, path: directory.path.join(&name(text)) }
    }

    pub fn open(&mut self, place: &Place, flags: OpenFlags) -> HandleId {
        let handle = self.handle();
        let request = FileRequest::Open { place: place.clone(), flags, handle, inline_bytes: 0 };
        self.entry(request, &[]).unwrap();
        handle
    }

    pub fn create(&mut self, directory: &Place, text: &str) -> (HandleId, Place) {
        let handle = self.handle();
        let request = FileRequest::Create {
            directory: directory.clone(),
            name: name(text),
            mode: 0o644,
            flags: READ_WRITE,
            handle,
            caller: me(),
        };
        let entry = self.entry(request, &[]).unwrap();
        (handle, Place { id: entry.id, path: directory.path.join(&name(text)) })
    }

    pub fn write(&mut self, handle: HandleId, offset: u64, bytes: &[u8]) -> Attributes {
        let request = FileRequest::Write { handle, at: WriteAt::Offset(offset), clear_set_id: true };
        match self.call(request, bytes).unwrap().0 {
            FileReply::Written { bytes: written, attributes } => {
                assert_eq!(written, bytes.len() as u64);
                attributes
            }
            other => panic!("{other:?}"),
        }
    }

    pub fn read(&mut self, handle: HandleId, offset: u64, length: u32) -> Vec<u8> {
        self.call(FileRequest::Read { handle, offset, length }, &[]).unwrap().1
    }

    /// All names of a directory, with unlimited credit.
    pub fn list(&mut self, directory: &Place) -> Vec<Listed> {
        let request = FileRequest::List { directory: directory.clone(), from: 0, window: NO_LIMIT };
        let id = self.send(Request::File(request), &[]);
        let mut all = Vec::new();
        loop {
            let (last, body, _) = self.reply(id);
            match body.unwrap() {
                Reply::File(FileReply::Listing { entries, end, .. }) => {
                    all.extend(entries);
                    assert_eq!(last, end);
                }
                other => panic!("{other:?}"),
            }
            if last {
                return all;
            }
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // Already closed, if it fails.
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
        if let Some(mut child) = self.child.take() {
            let status = child.wait().unwrap();
            assert!(status.success() || std::thread::panicking(), "{status}");
        }
        if let Some(agent) = self.agent.take() {
            let ended = agent.join();
            if !std::thread::panicking() {
                ended.unwrap();
            }
        }
    }
}

/// The agent, as a program. `STEAD_AGENT` may name another build of it.
pub fn agent_program() -> Command {
    Command::new(std::env::var_os("STEAD_AGENT").unwrap_or(env!("CARGO_BIN_EXE_stead-agent").into()))
}

pub fn put(directory: &Place, text: &str) -> FileRequest {
    FileRequest::Put {
        directory: directory.clone(),
        name: name(text),
        mode: 0o644,
        changes: AttributeChanges::default(),
        exclusive: false,
        sync: false,
        caller: me(),
    }
}

/// While it lives, opening the file blocks.
pub struct Leased(#[allow(dead_code, reason = "held open")] std::fs::File);

impl Leased {
    pub fn take(path: &std::path::Path) -> Leased {
        use std::os::fd::AsRawFd;
        let file = std::fs::File::options().read(true).write(true).open(path).unwrap();
        // SAFETY: a signal that nobody needs is ignored, for the kernel announces with it that somebody opens the file.
        unsafe { libc::signal(libc::SIGIO, libc::SIG_IGN) };
        // SAFETY: the call touches no memory.
        let taken = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_WRLCK) };
        assert_eq!(taken, 0, "{}", std::io::Error::last_os_error());
        Leased(file)
    }
}

/// Waits until the condition holds.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < DEADLINE, "not within the deadline: {what}");
        std::thread::yield_now();
    }
}
