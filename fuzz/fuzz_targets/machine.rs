//! A machine that lies, or talks nonsense: nothing it says makes a mount panic, or wait for ever.
//!
//! The input is what it says: frames, each with a byte before it whose lowest bit says whether the frame answers the
//! next request, whatever request it names, and whose other bits say how many of the bytes behind it are its payload.
#![no_main]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use mount::machine::{Events, Machine};
use mount::nfs::NoNotices;
use remote::client::{AgentClient, ByteStream, ConnectOptions};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use vfs::file::{Caller, OpenFlags, RenameMode, ThreadId};
use vfs::table::Ino;
use vfs::vfs::{Looked, Removal, WriteFrom};
use vfs::{Options, Vfs};
use wire::agent::file::{Attributes, Entry, FileId, FileReply, Kind, Place, Time, WalkBudget, WalkFrom};
use wire::agent::process::{ProcessId, ProcessRequest};
use wire::agent::{AgentFrame, ClientFrame, Reply, RequestId};
use wire::frame::{PREFACE, PREFIX_BYTES, Prefix, decode_head, encode_head};
use wire::hello::{Hello, SessionId};

/// More than any input is, with what is said before it: the machine never waits for the mount to listen.
const STREAM_BYTES: usize = 1 << 20;

/// How long the machine waits for a request to answer; it costs no time.
const ASKED_WITHIN: Duration = Duration::from_secs(1);

/// How long anything may take once the machine has gone: the clock stands still unless everybody waits.
const ENDED_WITHIN: Duration = Duration::from_secs(3600);

/// Pages of one listing, which a machine can make endless.
const PAGES_MAX: usize = 64;

const CREDIT: u32 = 1 << 16;
const CALLER: Caller = Caller { uid: 0, gid: 0, umask: 0o22 };

struct Said<'a> {
    frame: AgentFrame,
    payload: &'a [u8],
    answers: bool,
}

fuzz_target!(|bytes: &[u8]| {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.expect("a runtime needs nothing but memory");
    runtime.block_on(async {
        let (near, far) = tokio::io::duplex(STREAM_BYTES);
        let ended = tokio::time::timeout(ENDED_WITHIN, async { tokio::join!(mount(near), play(far, bytes)) });
        ended.await.expect("what a mount waits for ends with the link");
    });
});

fn script(mut bytes: &[u8]) -> Vec<Said<'_>> {
    let mut said = Vec::new();
    while let Some((how, rest)) = bytes.split_first() {
        let Ok((frame, rest)) = postcard::take_from_bytes::<AgentFrame>(rest) else { break };
        let (payload, rest) = rest.split_at(rest.len().min(usize::from(how >> 1)));
        said.push(Said { frame, payload, answers: how & 1 == 1 });
        bytes = rest;
    }
    said
}

async fn play(mut stream: DuplexStream, bytes: &[u8]) {
    let mut first = PREFACE.to_vec();
    first.extend(encode_head(&Hello::new(u64::MAX, SessionId([7; 16])), 0).expect("a greeting fits"));
    let root = Reply::File(FileReply::Attached {
        root: root(),
        uid: 0,
        gid: 0,
        privileged: true,
        path: b"/".to_vec(),
    });
    let attached = AgentFrame::Reply { id: RequestId(1), last: true, body: Ok(root) };
    if stream.write_all(&first).await.is_err() || say(&mut stream, &attached, &[]).await.is_err() {
        return;
    }
    let mut preface = [0; PREFACE.len()];
    if stream.read_exact(&mut preface).await.is_err() || heard(&mut stream).await.is_none() {
        return;
    }
    asked(&mut stream).await;
    for Said { mut frame, payload, answers } in script(bytes) {
        if answers
            && let AgentFrame::Reply { id, .. } = &mut frame
            && let Some(asked) = asked(&mut stream).await
        {
            *id = asked;
        }
        if say(&mut stream, &frame, payload).await.is_err() {
            return;
        }
    }
}

fn root() -> Entry {
    let (kind, time) = (Kind::Directory, Time::default());
    let attributes = Attributes {
        kind,
        mode: 0o755,
        links: 2,
        uid: 0,
        gid: 0,
        device: 0,
        size: 4096,
        blocks: 8,
        block_size: 4096,
        accessed: time,
        modified: time,
        changed: time,
        xattrs: true,
    };
    Entry { id: FileId { device: 1, inode: 1, birth: 0 }, attributes }
}

async fn say(stream: &mut DuplexStream, frame: &AgentFrame, payload: &[u8]) -> std::io::Result<()> {
    let Ok(head) = encode_head(frame, payload.len()) else { return Ok(()) };
    stream.write_all(&head).await?;
    stream.write_all(payload).await
}

async fn heard(stream: &mut DuplexStream) -> Option<Vec<u8>> {
    let mut prefix = [0; PREFIX_BYTES];
    stream.read_exact(&mut prefix).await.ok()?;
    let prefix = Prefix::parse(prefix).expect("the mount keeps to the protocol");
    let mut head = vec![0; prefix.head as usize];
    let mut payload = vec![0; prefix.payload as usize];
    stream.read_exact(&mut head).await.ok()?;
    stream.read_exact(&mut payload).await.ok()?;
    Some(head)
}

/// The next request, if there is one now.
async fn asked(stream: &mut DuplexStream) -> Option<RequestId> {
    loop {
        let head = tokio::time::timeout(ASKED_WITHIN, heard(stream)).await.ok()??;
        let frame = decode_head::<ClientFrame>(&head).expect("the mount keeps to the protocol");
        if let ClientFrame::Request { id, .. } = frame {
            return Some(id);
        }
    }
}

async fn mount(stream: DuplexStream) {
    let events = Events::new();
    let connecting = AgentClient::connect(ByteStream::new(stream), ConnectOptions::default(), events.clone());
    let Ok(client) = connecting.await else { return };
    let Ok(attached) = client.attach(b"/".to_vec(), false).await else { return };
    let (machine, root) = Machine::new(client.clone(), &attached, (0, 0));
    let vfs = Vfs::new(Arc::new(machine), root, Options::default(), Arc::new(NoNotices));
    events.tell(&vfs);
    tokio::join!(read(&vfs), list(&vfs), write(&vfs), names(&vfs), attributes(&vfs), streams(&client));
    vfs.drain().await;
    client.lost().await;
    assert_eq!(client.in_flight(), 0, "a lost link has answered everybody");
}

async fn read(vfs: &Arc<Vfs<Machine>>) {
    let Ok(Looked::Present(view)) = vfs.lookup(Ino::ROOT, b"a").await else { return };
    let _told = vfs.attributes(view.ino.into()).await;
    let _told = vfs.read_link(view.ino).await;
    let Ok(open) = vfs.open(view.ino, OpenFlags { read: true, ..OpenFlags::default() }).await else { return };
    for offset in [0, 1 << 12, 1 << 17, 1 << 40, u64::MAX] {
        if let Ok(bytes) = vfs.read(open.handle, offset, 1 << 16).await {
            assert!(bytes.len() <= 1 << 16, "no more than was asked for");
        }
    }
    vfs.release(open.handle);
    vfs.forget(view.ino, 1);
}

async fn list(vfs: &Arc<Vfs<Machine>>) {
    let Ok(open) = vfs.open_directory(Ino::ROOT).await else { return };
    let mut cookie = 0;
    for _ in 0..PAGES_MAX {
        let mut last = None;
        let taken = vfs.read_directory(open.handle, cookie, true, |item| {
            last = Some(item.cookie);
            true
        });
        let (Ok(()), Some(next)) = (taken.await, last) else { break };
        cookie = next;
    }
    vfs.release_directory(open.handle);
}

async fn write(vfs: &Arc<Vfs<Machine>>) {
    let flags = OpenFlags { read: true, write: true, ..OpenFlags::default() };
    let Ok((view, open)) = vfs.create(Ino::ROOT, b"new", 0o644, flags, CALLER).await else { return };
    for offset in [0, 5, 1 << 20] {
        let bytes = Bytes::from_static(b"hello");
        let _told = vfs.write(open.handle, offset, bytes, WriteFrom::Caller(ThreadId::UNKNOWN), false).await;
    }
    let _told = vfs.read(open.handle, 0, 100).await;
    let _told = vfs.sync(open.handle, false).await;
    let _told = vfs.flush(open.handle, 1, None).await;
    vfs.release(open.handle);
    vfs.forget(view.ino, 1);
}

async fn names(vfs: &Arc<Vfs<Machine>>) {
    let made = vfs.make_directory(Ino::ROOT, b"dir", 0o755, CALLER).await;
    let _told = vfs.rename((Ino::ROOT, b"a"), (Ino::ROOT, b"b"), RenameMode::Replace).await;
    let _told = vfs.remove(Ino::ROOT, b"b", Removal::Other).await;
    if let Ok(made) = made {
        let _told = vfs.lookup(made.ino, b"below").await;
        let _told = vfs.rename((made.ino, b"below"), (Ino::ROOT, b"c"), RenameMode::Exchange).await;
        let _told = vfs.link(made.ino, Ino::ROOT, b"d").await;
    }
    let _told = vfs.remove(Ino::ROOT, b"dir", Removal::Directory).await;
}

async fn attributes(vfs: &Arc<Vfs<Machine>>) {
    let _told = vfs.attributes(Ino::ROOT.into()).await;
    let _told = vfs.space(Ino::ROOT).await;
    let _told = vfs.list_xattrs(Ino::ROOT).await;
    let _told = vfs.get_xattr(Ino::ROOT, b"user.x").await;
}

/// What is asked of a machine past the file system.
async fn streams(client: &AgentClient) {
    let budget = WalkBudget { entries: 1000, depth: 9, file_bytes: 100, content_bytes: 1000 };
    let mut walk = client.walk(Place::default(), WalkFrom::Itself, budget, CREDIT);
    let mut watch = client.watch(Place::default(), true, CREDIT);
    let mut process = client.spawn(ProcessRequest::Spawn {
        process: ProcessId(1),
        words: Vec::new(),
        environment: Vec::new(),
        directory: None,
        terminal: None,
        window: CREDIT,
    });
    let description = client.describe();
    tokio::join!(
        async { while walk.next().await.is_some() {} },
        async { while watch.next().await.is_some() {} },
        async { while process.next().await.is_some() {} },
        async { drop(description.await) },
        async { drop(client.ping().await) },
    );
}
