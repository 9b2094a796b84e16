//! A client whose links are lost, against an agent that the test plays.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use remote::client::relink::{
    DialFailed, Dialed, Dialer, Event, Later, RelinkOptions, Resumption, SessionMark,
};
use remote::client::{
    AgentClient, ByteStream, CallError, ConnectOptions, EventSink, Heartbeat, Introduced, LinkLost,
};
use remote::link::{Afterwards, Hindrance, Policy};
use tokio::sync::{mpsc, oneshot};
use wire::agent::file::{
    Attributes, Caller, Changed, Entry, FileId, FileReply, FileRequest, Kind, Listed, Lock, LockFamily,
    LockKind, OpenFlags, Place, Target, Time, WriteAt,
};
use wire::agent::name::{Name, RelativePath};
use wire::agent::{AgentFrame, ClientFrame, Errno, HandleId, Reply, Request, RequestId, Sequence};
use wire::frame::PREFACE;
use wire::hello::{Hello, SessionId};

use super::fake::{Asked, DEADLINE, Peer, data, done, encoded, failure, reply, soon};

mod processes;

const FIRST: SessionId = SessionId([1; 16]);
const SECOND: SessionId = SessionId([2; 16]);

/// Pauses so short that a test need not wait for them.
const POLICY: Policy = Policy {
    reconnect: true,
    base: Duration::from_millis(1),
    cap: Duration::from_millis(5),
    tries: 3,
    afterwards: Afterwards::Slowly(Duration::from_millis(5)),
};

fn options() -> RelinkOptions {
    RelinkOptions {
        policy: POLICY,
        offline_timeout: DEADLINE,
        heartbeat: Heartbeat { interval: DEADLINE, failures_max: 0 },
    }
}

/// A dialer whose every try the test decides.
struct Fake {
    tries: mpsc::UnboundedSender<Try>,
}

struct Try {
    session: SessionId,
    outcome: oneshot::Sender<Result<ByteStream, DialFailed>>,
}

impl Dialer for Fake {
    fn dial(&self, session: SessionId) -> Later<Result<Dialed, DialFailed>> {
        let (outcome, decided) = oneshot::channel();
        let asked = self.tries.send(Try { session, outcome });
        Box::pin(async move {
            let gone = || DialFailed { hindrance: Hindrance::Passing, why: "the test is over".to_owned() };
            asked.map_err(|_| gone())?;
            let stream = decided.await.map_err(|_| gone())??;
            let options = ConnectOptions { session, keep_seconds: 60, ..ConnectOptions::default() };
            let stream = Introduced::over(stream, options)
                .await
                .map_err(|error| DialFailed { hindrance: Hindrance::Passing, why: error.to_string() })?;
            Ok(Dialed { stream, carrier: None })
        })
    }
}

/// Keeps what it is told.
#[derive(Default)]
struct Log {
    events: Mutex<Vec<Event>>,
    leases_lost: Mutex<usize>,
    reserved: Mutex<Vec<Sequence>>,
    marks: Mutex<Vec<SessionMark>>,
    lost: Mutex<Vec<LinkLost>>,
}

impl EventSink for Log {
    fn changed(&self, _: Changed) {}
    fn leases_lost(&self) {
        *self.leases_lost.lock() += 1;
    }
    fn link_lost(&self, lost: &LinkLost) {
        self.lost.lock().push(lost.clone());
    }
    fn link_changed(&self, event: &Event) {
        self.events.lock().push(event.clone());
    }
    fn reserved(&self, through: Sequence) {
        self.reserved.lock().push(through);
    }
    fn session_marked(&self, mark: &SessionMark) {
        self.marks.lock().push(*mark);
    }
}

/// A client, and the world around it.
struct World {
    client: AgentClient,
    tries: mpsc::UnboundedReceiver<Try>,
    log: Arc<Log>,
}

impl World {
    fn start(options: RelinkOptions, resumption: Option<Resumption>) -> World {
        let (sender, tries) = mpsc::unbounded_channel();
        let log = Arc::new(Log::default());
        let dialer = Arc::new(Fake { tries: sender });
        let client = AgentClient::lasting(None, dialer, options, resumption, log.clone());
        World { client, tries, log }
    }

    /// A client with a link to its first session.
    async fn linked() -> (World, Peer) {
        World::linked_with(options()).await
    }

    async fn linked_with(options: RelinkOptions) -> (World, Peer) {
        let mut world = World::start(options, None);
        let peer = world.accept(SessionId::default(), FIRST).await;
        world.heard(|event| *event == Event::Connected).await;
        (world, peer)
    }

    async fn tried(&mut self) -> Try {
        soon(self.tries.recv()).await.expect("the client tries")
    }

    /// Lets the next try succeed: it must ask for `asked`, and gets `served`.
    async fn accept(&mut self, asked: SessionId, served: SessionId) -> Peer {
        let attempt = self.tried().await;
        assert_eq!(attempt.session, asked);
        let (near, stream) = tokio::io::duplex(1 << 20);
        assert!(attempt.outcome.send(Ok(ByteStream::new(near))).is_ok());
        let mut peer = Peer::over(stream);
        let hello = Hello { keep_seconds: 60, ..Hello::new(0, served) };
        peer.send(&[PREFACE.to_vec(), encoded(&hello, b"")].concat()).await;
        let theirs = peer.greeted().await;
        assert_eq!((theirs.session, theirs.keep_seconds), (asked, 60));
        peer
    }

    async fn refuse(&mut self, hindrance: Hindrance) {
        let attempt = self.tried().await;
        let why = "not there".to_owned();
        assert!(attempt.outcome.send(Err(DialFailed { hindrance, why })).is_ok());
    }

    async fn heard(&self, is_it: impl Fn(&Event) -> bool) {
        let heard = async {
            while !self.log.events.lock().iter().any(&is_it) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        if tokio::time::timeout(DEADLINE, heard).await.is_err() {
            panic!("only heard: {:?}", self.log.events.lock());
        }
    }
}

fn attributes(kind: Kind, size: u64) -> Attributes {
    let time = Time { seconds: 1, nanoseconds: 2 };
    Attributes { mode: 0o644, size, accessed: time, modified: time, changed: time, ..Attributes::new(kind) }
}

fn id(inode: u64) -> FileId {
    FileId { device: 1, inode, birth: 0 }
}

fn entry(inode: u64, kind: Kind, size: u64) -> Entry {
    Entry { id: id(inode), attributes: attributes(kind, size) }
}

fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).unwrap()
}

fn place(inode: u64, path: &str) -> Place {
    Place { id: id(inode), path: RelativePath::new(path.as_bytes()).unwrap() }
}

const CALLER: Caller = Caller { uid: 0, gid: 0, umask: 0 };

fn file(id: RequestId, body: FileReply) -> Vec<u8> {
    reply(id, true, Reply::File(body), b"")
}

fn opened(id: RequestId, inode: u64, size: u64) -> Vec<u8> {
    let entry = entry(inode, Kind::File, size);
    file(id, FileReply::Opened { entry, whole: false, created: false, directory: None })
}

fn written(id: RequestId, size: u64) -> Vec<u8> {
    file(id, FileReply::Written { bytes: 4, attributes: attributes(Kind::File, size) })
}

impl Asked {
    fn file(&self) -> &FileRequest {
        match &self.body {
            Request::File(request) => request,
            other => panic!("{other:?}"),
        }
    }
}

/// Attaches the tree and opens a file, which the agent answers.
async fn open_file(world: &World, peer: &mut Peer, handle: HandleId, flags: OpenFlags) {
    let attach = world.client.attach(b"/tree".to_vec(), false);
    let asked = peer.asked().await;
    let root = entry(1, Kind::Directory, 0);
    let attached = FileReply::Attached { root, uid: 0, gid: 0, privileged: false, path: b"/tree".to_vec() };
    peer.send(&file(asked.id, attached)).await;
    soon(attach).await.unwrap();
    let open = world.client.open(place(7, "dir/file"), flags, handle, 0);
    let asked = peer.asked().await;
    peer.send(&opened(asked.id, 7, 100)).await;
    soon(open).await.unwrap();
}

/// Plays the agent while the client makes a new session equal to the old one, up to the file of `open_file`.
async fn reopen(peer: &mut Peer, handle: HandleId) {
    let asked = peer.asked().await;
    let expected = FileRequest::Attach { path: b"/tree".to_vec(), read_only: false };
    assert_eq!(*asked.file(), expected);
    let root = entry(1, Kind::Directory, 0);
    let attached = FileReply::Attached { root, uid: 0, gid: 0, privileged: false, path: b"/tree".to_vec() };
    peer.send(&file(asked.id, attached)).await;
    let asked = peer.asked().await;
    match asked.file() {
        FileRequest::Open { place: at, handle: named, flags, .. } => {
            assert_eq!((at, *named), (&place(7, "dir/file"), handle));
            assert!(!flags.truncate && !flags.exclusive);
        }
        other => panic!("{other:?}"),
    }
    peer.send(&opened(asked.id, 7, 100)).await;
}

const WRITE: OpenFlags = OpenFlags {
    read: true,
    write: true,
    append: true,
    truncate: false,
    sync: false,
    direct: false,
    exclusive: false,
};

#[tokio::test]
async fn what_has_no_answer_is_sent_again_in_its_order_and_mutations_with_their_numbers() {
    let (mut world, mut peer) = World::linked().await;
    let client = world.client.clone();
    let answered = client.write(HandleId(1), WriteAt::Offset(0), false, Bytes::from_static(b"zero"));
    let asked = peer.asked().await;
    peer.send(&written(asked.id, 4)).await;
    soon(answered).await.unwrap();

    let write = client.write(HandleId(1), WriteAt::Offset(4), false, Bytes::from_static(b"four"));
    let read = client.read(HandleId(1), 0, 4);
    let before = [peer.asked().await, peer.asked().await];
    drop(peer);
    world.heard(|event| matches!(event, Event::Lost { .. })).await;
    let later = client.unlink(place(1, ""), name("gone"));

    let mut peer = world.accept(FIRST, FIRST).await;
    assert_eq!(peer.next().await.unwrap().0, ClientFrame::Acknowledge { sequence: Sequence(1) });
    let again = [peer.asked().await, peer.asked().await, peer.asked().await];
    for (before, again) in before.iter().zip(&again) {
        assert_eq!((before.id, before.sequence, &before.body), (again.id, again.sequence, &again.body));
        assert_eq!(before.payload, again.payload);
    }
    assert_eq!(
        (again[0].sequence, again[1].sequence, again[2].sequence),
        (Sequence(2), Sequence(0), Sequence(3))
    );
    let removed = FileReply::Removed { entry: None, directory: attributes(Kind::Directory, 0) };
    peer.send(&[written(again[0].id, 8), data(again[1].id, b"four"), file(again[2].id, removed)].concat())
        .await;
    assert_eq!(soon(write).await.unwrap().bytes, 4);
    assert_eq!(soon(read).await.unwrap(), "four");
    soon(later).await.unwrap();
    world.heard(|event| *event == Event::Resumed).await;
    assert_eq!(*world.log.leases_lost.lock(), 1);
    assert_eq!(client.in_flight(), 0);
    assert!(world.log.lost.lock().is_empty());
}

#[tokio::test]
async fn a_stream_cut_within_a_frame_loses_no_request() {
    let (mut world, mut peer) = World::linked().await;
    let reads: Vec<_> = (0..200).map(|n| world.client.read(HandleId(1), n, 64)).collect();
    let mut ids = Vec::new();
    for _ in 0..200 {
        ids.push(peer.asked().await.id);
    }
    // Half are answered, the last of them not to its end.
    let answers: Vec<u8> = ids[..100].iter().flat_map(|id| data(*id, &[7; 64])).collect();
    peer.send(&answers[..answers.len() - 10]).await;
    drop(peer);
    let mut peer = world.accept(FIRST, FIRST).await;
    for expected in &ids[99..] {
        let asked = peer.asked().await;
        assert_eq!(asked.id, *expected);
        peer.send(&data(asked.id, &[7; 64])).await;
    }
    for read in reads {
        assert_eq!(soon(read).await.unwrap(), [7; 64].as_slice());
    }
}

#[tokio::test]
async fn a_request_dropped_while_the_machine_is_away_is_not_sent() {
    let (mut world, mut peer) = World::linked().await;
    let sent = world.client.write(HandleId(1), WriteAt::Offset(0), false, Bytes::from_static(b"data"));
    peer.asked().await;
    drop(peer);
    world.heard(|event| matches!(event, Event::Lost { .. })).await;
    let unsent = world.client.read(HandleId(2), 0, 1);
    let wanted = world.client.read(HandleId(3), 0, 1);
    drop((sent, unsent));
    assert_eq!(world.client.in_flight(), 1);
    let mut peer = world.accept(FIRST, FIRST).await;
    // The number of the dropped one counts as answered.
    assert_eq!(peer.next().await.unwrap().0, ClientFrame::Acknowledge { sequence: Sequence(1) });
    let asked = peer.asked().await;
    assert!(matches!(asked.file(), FileRequest::Read { handle: HandleId(3), .. }));
    peer.send(&data(asked.id, b"x")).await;
    soon(wanted).await.unwrap();
}

#[tokio::test]
async fn a_listing_goes_on_behind_the_last_name_that_came() {
    let (mut world, mut peer) = World::linked().await;
    let mut pages = world.client.list(place(1, ""), 0, 1 << 16);
    let asked = peer.asked().await;
    let page = |cookie, end| {
        let listed = Listed { name: name(&format!("n{cookie}")), entry: None, cookie };
        Reply::File(FileReply::Listing { entries: vec![listed], end, lease: None, directory: None })
    };
    peer.send(&reply(asked.id, false, page(11, false), b"")).await;
    assert_eq!(soon(pages.next()).await.unwrap().unwrap().entries[0].cookie, 11);
    drop(peer);
    let mut peer = world.accept(FIRST, FIRST).await;
    let asked = peer.asked().await;
    assert!(matches!(asked.file(), FileRequest::List { from: 11, .. }), "{asked:?}");
    peer.send(&reply(asked.id, true, page(12, true), b"")).await;
    assert_eq!(soon(pages.next()).await.unwrap().unwrap().entries[0].cookie, 12);
    assert!(soon(pages.next()).await.is_none());
}

#[tokio::test]
async fn a_close_that_had_been_carried_out_is_no_error() {
    let (mut world, mut peer) = World::linked().await;
    let close = world.client.close(HandleId(5));
    peer.asked().await;
    drop(peer);
    let mut peer = world.accept(FIRST, FIRST).await;
    let asked = peer.asked().await;
    peer.send(&failure(asked.id, 9, "")).await;
    soon(close).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn requests_fail_after_the_offline_timeout_but_those_of_a_patient_client() {
    let offline_timeout = Duration::from_secs(10);
    let (mut world, mut peer) = World::linked_with(RelinkOptions { offline_timeout, ..options() }).await;
    let patient = world.client.patient();
    let read = world.client.read(HandleId(1), 0, 1);
    let write = patient.write(HandleId(1), WriteAt::Offset(0), false, Bytes::from_static(b"data"));
    let asked = [peer.asked().await, peer.asked().await];
    drop(peer);
    let start = tokio::time::Instant::now();
    let attempt = world.tried().await;
    let error = soon(read).await.unwrap_err();
    assert!(matches!(error, CallError::Lost(_)), "{error}");
    assert!(start.elapsed() >= offline_timeout, "{:?}", start.elapsed());
    world.heard(|event| matches!(event, Event::Offline { .. })).await;
    // What comes now is not kept waiting.
    let error = soon(world.client.read(HandleId(1), 0, 1)).await.unwrap_err();
    assert!(matches!(error, CallError::Lost(_)), "{error}");
    assert!(world.client.away().unwrap().is_offline);
    drop(attempt);

    let mut peer = world.accept(FIRST, FIRST).await;
    let again = peer.asked().await;
    assert_eq!((again.id, again.sequence), (asked[1].id, Sequence(1)));
    peer.send(&written(again.id, 4)).await;
    soon(write).await.unwrap();
    assert_eq!(world.client.away(), None);
    let read = world.client.read(HandleId(1), 0, 1);
    let asked = peer.asked().await;
    peer.send(&data(asked.id, b"x")).await;
    soon(read).await.unwrap();
}

#[tokio::test]
async fn a_full_client_does_not_keep_requests_beyond_the_offline_timeout() {
    let offline_timeout = Duration::from_millis(200);
    let (world, peer) = World::linked_with(RelinkOptions { offline_timeout, ..options() }).await;
    drop(peer);
    world.heard(|event| matches!(event, Event::Lost { .. })).await;
    let content = Bytes::from(vec![0; 1 << 20]);
    let write = |client: &AgentClient| client.write(HandleId(1), WriteAt::Offset(0), false, content.clone());
    let kept: Vec<_> = (0..4).map(|_| write(&world.client.patient())).collect();
    let waiting = write(&world.client);
    let error = soon(waiting).await.unwrap_err();
    assert!(matches!(error, CallError::Lost(_)), "{error}");
    assert_eq!(world.client.in_flight(), 4);
    drop(kept);
    assert_eq!(world.client.in_flight(), 0);
}

#[tokio::test]
async fn a_machine_that_is_given_up_fails_everything_until_somebody_asks_for_it() {
    let policy = Policy { afterwards: Afterwards::GiveUp, ..POLICY };
    let (mut world, peer) = World::linked_with(RelinkOptions { policy, ..options() }).await;
    drop(peer);
    let write = world.client.patient().write(HandleId(1), WriteAt::Offset(0), false, Bytes::new());
    for _ in 0..3 {
        world.refuse(Hindrance::Passing).await;
    }
    world.heard(|event| *event == Event::GaveUp { why: "not there".to_owned() }).await;
    assert!(matches!(soon(write).await, Err(CallError::Lost(_))));
    assert!(!world.client.is_lost());
    world.client.reconnect();
    let mut peer = world.accept(FIRST, FIRST).await;
    world.heard(|event| *event == Event::Resumed).await;
    let read = world.client.read(HandleId(1), 0, 1);
    loop {
        match peer.next().await.unwrap() {
            (ClientFrame::Request { id, .. }, _) => break peer.send(&data(id, b"x")).await,
            (ClientFrame::Acknowledge { .. }, _) => {}
            other => panic!("{other:?}"),
        }
    }
    soon(read).await.unwrap();
}

#[tokio::test]
async fn without_reconnecting_nothing_is_tried() {
    let policy = Policy { reconnect: false, ..POLICY };
    let (mut world, mut peer) = World::linked_with(RelinkOptions { policy, ..options() }).await;
    let read = world.client.read(HandleId(1), 0, 1);
    peer.asked().await;
    drop(peer);
    assert!(matches!(soon(read).await, Err(CallError::Lost(_))));
    world.heard(|event| matches!(event, Event::GaveUp { .. })).await;
    assert!(world.tries.try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_answers_no_heartbeat_is_left_for_another_stream() {
    let heartbeat = Heartbeat { interval: Duration::from_secs(5), failures_max: 3 };
    let options = RelinkOptions { heartbeat, offline_timeout: Duration::from_secs(600), ..options() };
    let (mut world, mut peer) = World::linked_with(options).await;
    let read = world.client.read(HandleId(1), 0, 1);
    peer.asked().await;
    let attempt = tokio::time::timeout(Duration::from_secs(60), world.tries.recv()).await.unwrap().unwrap();
    world.heard(|event| *event == Event::Lost { why: LinkLost::Silent { missed: 3 } }).await;
    drop(attempt);
    let mut peer = world.accept(FIRST, FIRST).await;
    let asked = peer.asked().await;
    peer.send(&data(asked.id, b"x")).await;
    soon(read).await.unwrap();
}

#[tokio::test]
async fn a_request_that_makes_the_agent_break_the_protocol_again_and_again_is_given_up() {
    let (mut world, mut peer) = World::linked().await;
    let read = world.client.read(HandleId(1), 0, 1);
    for _ in 0..3 {
        let asked = peer.asked().await;
        peer.send(&reply(asked.id, false, Reply::File(FileReply::Data), b"")).await;
        peer = world.accept(FIRST, FIRST).await;
    }
    let error = soon(read).await.unwrap_err();
    assert!(matches!(error, CallError::Lost(LinkLost::Protocol(_))), "{error}");
    let read = world.client.read(HandleId(1), 0, 1);
    let asked = peer.asked().await;
    peer.send(&data(asked.id, b"x")).await;
    soon(read).await.unwrap();
}

#[tokio::test]
async fn a_request_that_the_agent_refuses_to_go_on_with_is_given_up() {
    let (mut world, mut peer) = World::linked().await;
    let read = world.client.read(HandleId(1), 0, 1);
    for _ in 0..3 {
        peer.asked().await;
        let reason = "too much".to_owned();
        peer.send(&encoded(&AgentFrame::Closing { reason }, b"")).await;
        peer = world.accept(FIRST, FIRST).await;
    }
    let error = soon(read).await.unwrap_err();
    assert!(matches!(error, CallError::Lost(LinkLost::Closing(_))), "{error}");
    let read = world.client.read(HandleId(1), 0, 1);
    let asked = peer.asked().await;
    peer.send(&data(asked.id, b"x")).await;
    soon(read).await.unwrap();
}

#[tokio::test]
async fn a_new_session_gets_the_export_the_files_and_the_locks_before_anything_else() {
    let (mut world, mut peer) = World::linked().await;
    let handle = HandleId(40);
    let truncating = OpenFlags { truncate: true, ..WRITE };
    open_file(&world, &mut peer, handle, truncating).await;
    let wanted = Lock { family: LockFamily::Posix, kind: LockKind::Exclusive, start: 0, end: 99 };
    let lock = world.client.lock(handle, 8, wanted, true);
    let asked = peer.asked().await;
    peer.send(&done(asked.id)).await;
    soon(lock).await.unwrap();
    let unlocked = Lock { kind: LockKind::Unlocked, start: 10, end: 19, ..wanted };
    let unlock = world.client.lock(handle, 8, unlocked, false);
    let asked = peer.asked().await;
    peer.send(&done(asked.id)).await;
    soon(unlock).await.unwrap();
    let read = world.client.read(handle, 0, 1);
    peer.asked().await;
    drop(peer);

    let mut peer = world.accept(FIRST, SECOND).await;
    assert_eq!(peer.next().await.unwrap().0, ClientFrame::Acknowledge { sequence: Sequence(1) });
    reopen(&mut peer, handle).await;
    for (start, end) in [(0, 9), (20, 99)] {
        let asked = peer.asked().await;
        let lock = Lock { start, end, ..wanted };
        assert_eq!(*asked.file(), FileRequest::Lock { handle, owner: 8, lock, wait: false });
        match start {
            0 => peer.send(&done(asked.id)).await,
            _ => peer.send(&failure(asked.id, 11, "")).await,
        }
    }
    let asked = peer.asked().await;
    assert!(matches!(asked.file(), FileRequest::Read { .. }));
    peer.send(&data(asked.id, b"x")).await;
    soon(read).await.unwrap();
    world.heard(|event| matches!(event, Event::Replaced(losses) if losses.locks.len() == 1)).await;
    let resumption = world.client.resumption().unwrap();
    let mark = SessionMark { session: SECOND, in_doubt: Sequence(1), unrecovered: false };
    assert_eq!(resumption.mark, mark);
    let first = SessionMark { session: FIRST, ..SessionMark::default() };
    assert_eq!(*world.log.marks.lock(), [first, SessionMark { unrecovered: true, ..mark }, mark]);
    assert_eq!(resumption.files[0].locks.len(), 1);
    let text = serde_json::to_string(&resumption).unwrap();
    assert_eq!(serde_json::from_str::<Resumption>(&text).unwrap(), resumption);
}

#[tokio::test]
async fn a_file_that_is_gone_is_stale_from_then_on() {
    let (mut world, mut peer) = World::linked().await;
    let handle = HandleId(40);
    open_file(&world, &mut peer, handle, WRITE).await;
    drop(peer);
    let mut peer = world.accept(FIRST, SECOND).await;
    let asked = peer.asked().await;
    let root = entry(1, Kind::Directory, 0);
    let attached = FileReply::Attached { root, uid: 0, gid: 0, privileged: false, path: b"/tree".to_vec() };
    peer.send(&file(asked.id, attached)).await;
    let asked = peer.asked().await;
    peer.send(&failure(asked.id, 116, "")).await;
    world.heard(|event| matches!(event, Event::Replaced(losses) if losses.files == [handle])).await;
    let stat = world.client.stat(Target::Handle(handle));
    let asked = peer.asked().await;
    peer.send(&failure(asked.id, 9, "")).await;
    assert_eq!(soon(stat).await.unwrap_err().errno(), Some(Errno(116)));
    let close = world.client.close(handle);
    let asked = peer.asked().await;
    peer.send(&failure(asked.id, 9, "")).await;
    soon(close).await.unwrap();
}

#[tokio::test]
async fn a_recovery_that_is_cut_is_begun_again() {
    let (mut world, mut peer) = World::linked().await;
    let handle = HandleId(40);
    open_file(&world, &mut peer, handle, WRITE).await;
    drop(peer);
    let mut peer = world.accept(FIRST, SECOND).await;
    peer.asked().await;
    drop(peer);
    let mut peer = world.accept(SECOND, SECOND).await;
    reopen(&mut peer, handle).await;
    world.heard(|event| matches!(event, Event::Replaced(_))).await;
}

#[tokio::test]
async fn mutations_in_doubt_are_done_again_and_judged_in_a_new_session() {
    let (mut world, mut peer) = World::linked().await;
    let handle = HandleId(40);
    open_file(&world, &mut peer, handle, WRITE).await;
    let client = world.client.clone();
    let mkdir = client.make_directory(place(1, ""), name("made"), 0o755, CALLER);
    let taken = client.make_directory(place(1, ""), name("taken"), 0o755, CALLER);
    let unlink = client.unlink(place(1, ""), name("gone"));
    let append = client.write(handle, WriteAt::End, false, Bytes::from_static(b"line"));
    for _ in 0..4 {
        peer.asked().await;
    }
    drop(peer);
    let mut peer = world.accept(FIRST, SECOND).await;
    reopen(&mut peer, handle).await;

    // The directory is there, and is one.
    let asked = peer.asked().await;
    assert_eq!((asked.sequence, &asked.payload), (Sequence(1), &Vec::new()));
    peer.send(&failure(asked.id, 17, "")).await;
    let asked = peer.asked().await;
    assert!(matches!(asked.file(), FileRequest::Lookup { .. }), "{asked:?}");
    let found = FileReply::Looked { entry: Some(entry(70, Kind::Directory, 0)), lease: None };
    peer.send(&file(asked.id, found)).await;
    assert_eq!(soon(mkdir).await.unwrap().id, id(70));
    // Another is there.
    let asked = peer.asked().await;
    assert_eq!(asked.sequence, Sequence(2));
    peer.send(&failure(asked.id, 17, "")).await;
    let asked = peer.asked().await;
    let found = FileReply::Looked { entry: Some(entry(71, Kind::File, 3)), lease: None };
    peer.send(&file(asked.id, found)).await;
    assert_eq!(soon(taken).await.unwrap_err().errno(), Some(Errno(17)));
    // The name is gone.
    let asked = peer.asked().await;
    assert_eq!(asked.sequence, Sequence(3));
    peer.send(&failure(asked.id, 2, "")).await;
    let asked = peer.asked().await;
    peer.send(&file(asked.id, FileReply::Entry(entry(1, Kind::Directory, 0)))).await;
    assert_eq!(soon(unlink).await.unwrap().entry, None);
    // The bytes are behind those of somebody else.
    let asked = peer.asked().await;
    assert!(matches!(asked.file(), FileRequest::Stat { .. }), "{asked:?}");
    peer.send(&file(asked.id, FileReply::Entry(entry(7, Kind::File, 110)))).await;
    let asked = peer.asked().await;
    peer.send(&opened(asked.id, 7, 110)).await;
    let asked = peer.asked().await;
    assert!(matches!(asked.file(), FileRequest::Read { offset: 100, length: 10, .. }), "{asked:?}");
    peer.send(&data(asked.id, b"theirsline")).await;
    let asked = peer.asked().await;
    assert!(matches!(asked.file(), FileRequest::Close { .. }), "{asked:?}");
    peer.send(&done(asked.id)).await;
    assert_eq!(soon(append).await.unwrap().bytes, 4);
    world.heard(|event| matches!(event, Event::Replaced(_))).await;
    assert_eq!(world.client.in_flight(), 0);
}

/// The agent dies with equal writes at the end of a file under way, of which it has made one, and then once more while the
/// first of the others is made.
#[tokio::test]
async fn equal_writes_at_the_end_are_told_apart() {
    let (mut world, mut peer) = World::linked().await;
    let handle = HandleId(40);
    open_file(&world, &mut peer, handle, WRITE).await;
    let write = || world.client.write(handle, WriteAt::End, false, Bytes::from_static(b"line"));
    let writes = [write(), write(), write()];
    for _ in &writes {
        peer.asked().await;
    }
    drop(peer);

    let size = |size| FileReply::Entry(entry(7, Kind::File, size));
    let mut peer = world.accept(FIRST, SECOND).await;
    reopen(&mut peer, handle).await;
    shows_end(&mut peer, size(104), b"line").await;
    // For the second, nothing is left of what is there.
    shows_end(&mut peer, size(104), b"line").await;
    let asked = peer.asked().await;
    assert_eq!((asked.sequence, asked.payload.as_slice()), (Sequence(2), &b"line"[..]));
    drop(peer);

    let mut peer = world.accept(SECOND, FIRST).await;
    assert_eq!(peer.next().await.unwrap().0, ClientFrame::Acknowledge { sequence: Sequence(1) });
    reopen(&mut peer, handle).await;
    shows_end(&mut peer, size(108), b"lineline").await;
    shows_end(&mut peer, size(108), b"lineline").await;
    let asked = peer.asked().await;
    assert_eq!((asked.sequence, asked.payload.as_slice()), (Sequence(3), &b"line"[..]));
    peer.send(&written(asked.id, 112)).await;
    for write in writes {
        assert_eq!(soon(write).await.unwrap().bytes, 4);
    }
    world.heard(|event| matches!(event, Event::Replaced(_))).await;

    // A file that has been cut off tells nothing.
    let write = world.client.write(handle, WriteAt::End, false, Bytes::from_static(b"line"));
    peer.asked().await;
    drop(peer);
    let mut peer = world.accept(FIRST, SECOND).await;
    assert_eq!(peer.next().await.unwrap().0, ClientFrame::Acknowledge { sequence: Sequence(3) });
    reopen(&mut peer, handle).await;
    let asked = peer.asked().await;
    peer.send(&file(asked.id, size(50))).await;
    assert_eq!(soon(write).await.unwrap_err().errno(), Some(Errno(5)));
}

#[tokio::test]
async fn of_a_write_at_the_end_that_was_cut_short_only_the_rest_is_written() {
    let (mut world, mut peer) = World::linked().await;
    let handle = HandleId(40);
    open_file(&world, &mut peer, handle, WRITE).await;
    let write =
        |text: &'static [u8]| world.client.write(handle, WriteAt::End, false, Bytes::from_static(text));
    let (whole, torn) = (write(b"line"), write(b"word"));
    let asked = [peer.asked().await, peer.asked().await];
    drop(peer);

    let size = |size| FileReply::Entry(entry(7, Kind::File, size));
    let mut peer = world.accept(FIRST, SECOND).await;
    reopen(&mut peer, handle).await;
    shows_end(&mut peer, size(106), b"linewo").await;
    shows_end(&mut peer, size(106), b"linewo").await;
    let rest = peer.asked().await;
    assert_eq!((rest.sequence, rest.payload.as_slice()), (asked[1].sequence, &b"rd"[..]));
    peer.send(&file(rest.id, FileReply::Written { bytes: 2, attributes: attributes(Kind::File, 108) })).await;
    assert_eq!(soon(whole).await.unwrap().bytes, 4);
    assert_eq!(soon(torn).await.unwrap().bytes, 4);
}

/// Plays the agent while the client looks what stands behind the end of the file of `open_file`.
async fn shows_end(peer: &mut Peer, stat: FileReply, behind: &[u8]) {
    let asked = peer.asked().await;
    assert!(matches!(asked.file(), FileRequest::Stat { .. }), "{asked:?}");
    peer.send(&file(asked.id, stat)).await;
    let asked = peer.asked().await;
    assert!(matches!(asked.file(), FileRequest::Open { .. }), "{asked:?}");
    peer.send(&opened(asked.id, 7, 0)).await;
    let asked = peer.asked().await;
    assert!(matches!(asked.file(), FileRequest::Read { offset: 100, .. }), "{asked:?}");
    peer.send(&data(asked.id, behind)).await;
    let asked = peer.asked().await;
    assert!(matches!(asked.file(), FileRequest::Close { .. }), "{asked:?}");
    peer.send(&done(asked.id)).await;
}

#[tokio::test]
async fn a_successor_resumes_the_session_and_repeats_under_the_same_numbers() {
    let (world, mut peer) = World::linked().await;
    let handle = HandleId(40);
    open_file(&world, &mut peer, handle, WRITE).await;
    let number = world.client.next_sequence().unwrap();
    let reserved = world.log.reserved.lock().clone();
    assert_eq!((number, reserved.as_slice()), (Sequence(1), &[Sequence(1 << 16)][..]));
    let left = world.client.resumption().unwrap();
    assert_eq!((left.mark.session, left.watermark), (FIRST, Sequence(1 << 16)));

    let mut successor =
        World::start(options(), Some(Resumption { unanswered: vec![number], ..left.clone() }));
    let unlink = successor.client.with_sequence(number).unlink(place(1, ""), name("gone"));
    let mut peer = successor.accept(FIRST, FIRST).await;
    let asked = peer.asked().await;
    assert_eq!(asked.sequence, number);
    let removed = FileReply::Removed { entry: None, directory: attributes(Kind::Directory, 0) };
    peer.send(&file(asked.id, removed)).await;
    soon(unlink).await.unwrap();
    assert_eq!(successor.client.next_sequence().unwrap(), Sequence((1 << 16) + 1));
    successor.client.settled(number);
    assert_eq!(
        peer.next().await.unwrap().0,
        ClientFrame::Acknowledge { sequence: Sequence(1 << 16) },
        "nothing below the watermark will come again"
    );

    // In a session that is not the one the number was used in, the request is in doubt, also when it is made before that
    // is known.
    for asks_first in [false, true] {
        let resumption = Resumption { unanswered: vec![number], ..left.clone() };
        let mut successor = World::start(options(), Some(resumption));
        let unlink = |world: &World| world.client.with_sequence(number).unlink(place(1, ""), name("gone"));
        let early = asks_first.then(|| unlink(&successor));
        let mut peer = successor.accept(FIRST, SECOND).await;
        reopen(&mut peer, handle).await;
        let unlink = early.unwrap_or_else(|| unlink(&successor));
        let asked = peer.asked().await;
        assert_eq!(asked.sequence, number);
        peer.send(&failure(asked.id, 2, "")).await;
        let asked = peer.asked().await;
        peer.send(&file(asked.id, FileReply::Entry(entry(1, Kind::Directory, 0)))).await;
        soon(unlink).await.unwrap();
        successor.heard(|event| matches!(event, Event::Replaced(_))).await;
    }
}

#[tokio::test]
async fn what_is_in_doubt_and_asked_for_without_a_stream_does_not_keep_later_doubts_waiting() {
    let numbers = [Sequence(1), Sequence(2)];
    let left = Resumption {
        mark: SessionMark { session: FIRST, in_doubt: numbers[1], unrecovered: false },
        watermark: Sequence(9),
        unanswered: numbers.to_vec(),
        ..Resumption::default()
    };
    let mut successor = World::start(options(), Some(left));
    let attempt = successor.tried().await;
    let unlink = |number| successor.client.with_sequence(number).unlink(place(1, ""), name("gone"));
    let (early, late) = (unlink(numbers[0]), numbers[1]);
    drop(attempt);
    successor.heard(|event| matches!(event, Event::Reconnecting { .. })).await;
    let mut peer = successor.accept(FIRST, FIRST).await;
    let removed = || FileReply::Removed { entry: None, directory: attributes(Kind::Directory, 0) };
    let asked = peer.asked().await;
    peer.send(&file(asked.id, removed())).await;
    soon(early).await.unwrap();
    successor.heard(|event| *event == Event::Resumed).await;
    let late = successor.client.with_sequence(late).unlink(place(1, ""), name("gone"));
    let asked = peer.asked().await;
    assert_eq!(asked.sequence, numbers[1]);
    peer.send(&file(asked.id, removed())).await;
    soon(late).await.unwrap();
}

#[tokio::test]
async fn a_successor_goes_on_with_a_recovery_that_its_predecessor_has_begun() {
    let (mut world, mut peer) = World::linked().await;
    let handle = HandleId(40);
    open_file(&world, &mut peer, handle, WRITE).await;
    let client = world.client.clone();
    let [before, after] = [client.next_sequence().unwrap(), client.next_sequence().unwrap()];
    let create = |client: &AgentClient, number, text, handle| {
        let flags = OpenFlags { exclusive: true, ..WRITE };
        client.with_sequence(number).create(place(1, ""), name(text), 0o644, flags, HandleId(handle), CALLER)
    };
    let sent = create(&client, before, "made", 41);
    peer.asked().await;
    drop(peer);
    // The process dies when it has asked the new session for nothing but the export.
    let mut peer = world.accept(FIRST, SECOND).await;
    peer.asked().await;
    let mark = *world.log.marks.lock().last().unwrap();
    assert_eq!(mark, SessionMark { session: SECOND, in_doubt: after, unrecovered: true });
    let left = Resumption { unanswered: vec![before, after], ..client.resumption().unwrap() };
    assert_eq!(left.mark, mark);
    client.leave();
    drop((sent, peer));

    let mut successor = World::start(options(), Some(left));
    let mut peer = successor.accept(SECOND, SECOND).await;
    reopen(&mut peer, handle).await;
    successor.heard(|event| matches!(event, Event::Replaced(_))).await;
    assert_eq!(*successor.log.marks.lock(), [SessionMark { unrecovered: false, ..mark }]);
    // What had been sent to the first session may have been made.
    let again = create(&successor.client, before, "made", 41);
    let asked = peer.asked().await;
    assert_eq!(asked.sequence, before);
    peer.send(&failure(asked.id, 17, "")).await;
    let asked = peer.asked().await;
    assert!(matches!(asked.file(), FileRequest::Lookup { .. }), "{asked:?}");
    let found = FileReply::Looked { entry: Some(entry(70, Kind::File, 0)), lease: None };
    peer.send(&file(asked.id, found)).await;
    let asked = peer.asked().await;
    assert!(matches!(asked.file(), FileRequest::Open { handle: HandleId(41), .. }), "{asked:?}");
    peer.send(&opened(asked.id, 70, 0)).await;
    assert!(soon(again).await.unwrap().created);
    // Of what it has open the answer is known.
    let known = create(&successor.client, after, "known", 40);
    let asked = peer.asked().await;
    assert_eq!(*asked.file(), FileRequest::Stat { target: Target::Handle(handle) });
    peer.send(&file(asked.id, FileReply::Entry(entry(7, Kind::File, 0)))).await;
    assert_eq!(soon(known).await.unwrap().entry.id, id(7));
}

#[tokio::test]
async fn an_answer_cut_at_any_of_its_bytes_is_given_once() {
    let (mut world, mut peer) = World::linked().await;
    let length = data(RequestId(1), b"answer").len();
    for cut in 0..length {
        let read = world.client.read(HandleId(1), 0, 6);
        let asked = peer.asked().await;
        peer.send(&data(asked.id, b"answer")[..cut]).await;
        drop(peer);
        peer = world.accept(FIRST, FIRST).await;
        let again = peer.asked().await;
        assert_eq!((again.id, &again.body), (asked.id, &asked.body));
        peer.send(&data(again.id, b"answer")).await;
        assert_eq!(soon(read).await.unwrap(), "answer");
    }
    assert_eq!(world.client.in_flight(), 0);
}

#[tokio::test]
async fn who_leaves_says_no_goodbye() {
    let (world, mut peer) = World::linked().await;
    world.client.leave();
    drop(world.client);
    assert!(peer.next().await.is_none());
    assert_eq!(*world.log.lost.lock(), [LinkLost::Closed]);
}

#[tokio::test]
async fn the_last_handle_says_goodbye() {
    let (world, mut peer) = World::linked().await;
    drop(world.client);
    assert_eq!(peer.next().await.unwrap().0, ClientFrame::Goodbye);
    assert!(peer.next().await.is_none());
    assert_eq!(*world.log.lost.lock(), [LinkLost::Closed]);
}

#[tokio::test]
async fn what_came_after_its_caller_had_gone_is_given_back_before_it_is_asked_for_again() {
    let (mut world, mut peer) = World::linked().await;
    let handle = HandleId(40);
    open_file(&world, &mut peer, handle, WRITE).await;
    let wanted = Lock { family: LockFamily::Flock, kind: LockKind::Exclusive, start: 0, end: u64::MAX };
    let lock = world.client.lock(handle, 8, wanted, true);
    peer.asked().await;
    let open = world.client.open(place(9, "other"), WRITE, HandleId(41), 0);
    peer.asked().await;
    drop(peer);
    world.heard(|event| matches!(event, Event::Lost { .. })).await;
    drop((lock, open));
    // Its program asks again: that lock must not be given back.
    let retried = world.client.lock(handle, 8, wanted, true);
    let unlocked = Lock { kind: LockKind::Unlocked, ..wanted };
    // A stream that is lost before it is given back is not the last try.
    for is_lost in [true, false] {
        let mut peer = world.accept(FIRST, FIRST).await;
        let unlock = peer.asked().await;
        assert_eq!(*unlock.file(), FileRequest::Lock { handle, owner: 8, lock: unlocked, wait: false });
        let close = peer.asked().await;
        assert_eq!(*close.file(), FileRequest::Close { handle: HandleId(41) });
        if is_lost {
            continue;
        }
        peer.send(&done(unlock.id)).await;
        peer.send(&failure(close.id, 9, "")).await;
        let asked = peer.asked().await;
        assert_eq!(*asked.file(), FileRequest::Lock { handle, owner: 8, lock: wanted, wait: true });
        peer.send(&done(asked.id)).await;
        soon(retried).await.unwrap();
        assert_eq!(world.client.resumption().unwrap().files[0].locks.len(), 1);
        return;
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_closed_and_unlocked_while_the_machine_is_offline_is_given_back_when_it_returns() {
    let offline_timeout = Duration::from_secs(10);
    let (mut world, mut peer) = World::linked_with(RelinkOptions { offline_timeout, ..options() }).await;
    let handle = HandleId(40);
    open_file(&world, &mut peer, handle, WRITE).await;
    let held = Lock { family: LockFamily::Posix, kind: LockKind::Exclusive, start: 0, end: u64::MAX };
    let lock = world.client.lock(handle, 8, held, false);
    let asked = peer.asked().await;
    peer.send(&done(asked.id)).await;
    soon(lock).await.unwrap();
    // The answer to this one is lost, and its caller is told so.
    let open = world.client.open(place(9, "other"), WRITE, HandleId(41), 0);
    peer.asked().await;
    drop(peer);
    let attempt = world.tried().await;
    let release = world.client.release_locks(handle, 8);
    assert!(soon(open).await.is_err() && soon(release).await.is_err());
    world.heard(|event| matches!(event, Event::Offline { .. })).await;
    assert!(soon(world.client.close(handle)).await.is_err());
    assert_eq!(world.client.resumption().unwrap().files, []);
    drop(attempt);

    let mut peer = world.accept(FIRST, FIRST).await;
    let mut asked = Vec::new();
    for _ in 0..3 {
        let request = peer.asked().await;
        peer.send(&done(request.id)).await;
        asked.push(request.file().clone());
    }
    // The first two were lost at the same moment.
    assert_eq!(asked.pop(), Some(FileRequest::Close { handle }));
    assert!(asked.contains(&FileRequest::ReleaseLocks { handle, owner: 8 }), "{asked:?}");
    assert!(asked.contains(&FileRequest::Close { handle: HandleId(41) }), "{asked:?}");
    world.heard(|event| *event == Event::Resumed).await;
    let read = world.client.read(HandleId(1), 0, 1);
    let asked = peer.asked().await;
    assert!(matches!(asked.file(), FileRequest::Read { .. }), "{asked:?}");
    peer.send(&data(asked.id, b"x")).await;
    soon(read).await.unwrap();
}
