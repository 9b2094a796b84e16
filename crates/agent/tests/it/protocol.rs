use std::io::Write;
use std::time::{Duration, SystemTime};

use agent::Ended;
use tempfile::tempdir;
use wire::agent::file::*;
use wire::agent::*;
use wire::frame::{PREFACE, decode_head, encode_head};
use wire::hello::{Hello, SessionId};

use crate::client::*;

fn failed(ended: Ended) -> String {
    match ended {
        Ended::Failed(reason) => reason,
        Ended::ByClient => panic!("the agent should have complained"),
    }
}

#[test]
fn an_agent_ends_with_its_stream() {
    assert_eq!(Client::connect().close(), Ended::ByClient);
}

#[test]
fn a_peer_that_is_something_else_is_told_so() {
    let mut client = Client::raw();
    client.stream().write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    assert!(failed(client.ended()).contains("GET / HTTP"));
}

#[test]
fn another_version_is_refused_by_name() {
    let mut client = Client::raw();
    let hello =
        Hello { versions: (900, 901), release: "9.9".to_owned(), ..Hello::new(0, SessionId::default()) };
    let head = encode_head(&hello, 0).unwrap();
    client.stream().write_all(&[PREFACE.as_slice(), &head].concat()).unwrap();
    client.skip_hello();
    let (head, _) = client.read_frame_bytes().unwrap();
    let AgentFrame::Closing { reason } = decode_head(&head).unwrap() else {
        panic!("no word at the end");
    };
    assert!(reason.contains("900") && reason.contains("9.9"), "{reason}");
    assert_eq!(failed(client.ended()), reason);
}

#[test]
fn each_stream_has_a_session_of_its_own() {
    let sessions = [Client::connect().session, Client::connect().session];
    assert_ne!(sessions[0], sessions[1]);
    assert_ne!(sessions[0], SessionId::default());
}

#[test]
fn a_broken_frame_ends_the_stream_with_the_reason() {
    for bytes in [b"\0\0\0\0\0\0\0\0".as_slice(), b"\xff\xff\xff\xff\0\0\0\0", b"\x02\0\0\0\0\0\0\0\xee\xee"]
    {
        let mut client = Client::connect();
        client.stream().write_all(bytes).unwrap();
        match client.event() {
            AgentFrame::Closing { reason } => assert_eq!(failed(client.ended()), reason),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_ping_is_answered_in_its_place() {
    let mut client = Client::connect();
    client.send_frame(&ClientFrame::Ping { nonce: 42 }, &[]);
    let before = SystemTime::now();
    let AgentFrame::Pong { nonce: 42, clock } = client.event() else { panic!("no pong") };
    let clock = SystemTime::UNIX_EPOCH + Duration::new(clock.seconds as u64, clock.nanoseconds);
    assert!(clock.duration_since(before).map_or(true, |ahead| ahead < Duration::from_secs(60)));
    assert!(before.duration_since(clock).map_or(true, |behind| behind < Duration::from_secs(60)));
}

#[test]
fn the_machine_is_described() {
    let mut client = Client::connect();
    let id = client.send(Request::Describe, &[]);
    let Ok(Reply::Description(description)) = client.reply(id).1 else {
        panic!("no description");
    };
    assert!(description.system.starts_with("Linux "));
    assert_eq!(
        (description.architecture.as_str(), description.home),
        (std::env::consts::ARCH, b"/tmp".to_vec())
    );
    assert_eq!(description.uid, rustix::process::geteuid().as_raw());
}

#[test]
fn a_mutation_that_comes_again_is_answered_and_not_made_again() {
    let directory = tempdir().unwrap();
    let mut client = Client::attach(directory.path());
    let root = client.root.clone();
    let request = |text: &str| {
        Request::File(FileRequest::MakeDirectory {
            directory: root.clone(),
            name: name(text),
            mode: 0o755,
            caller: me(),
        })
    };
    let first = client.send_numbered(Sequence(1), request("d"), &[]);
    let (_, first, _) = client.reply(first);
    std::fs::remove_dir(directory.path().join("d")).unwrap();
    let again = client.send_numbered(Sequence(1), request("d"), &[]);
    assert_eq!(client.reply(again).1, first);
    assert!(!directory.path().join("d").exists());
    let failed = client.send_numbered(Sequence(2), request("elsewhere").in_an_absent_directory(), &[]);
    let (_, failed, _) = client.reply(failed);
    assert!(failed.is_err());
    let again = client.send_numbered(Sequence(2), request("fine"), &[]);
    assert_eq!(client.reply(again).1, failed, "a failure is a result too");
    client.send_frame(&ClientFrame::Acknowledge { sequence: Sequence(2) }, &[]);
    client.send_numbered(Sequence(2), request("late"), &[]);
    assert!(matches!(client.event(), AgentFrame::Closing { .. }));
}

trait Misplaced {
    fn in_an_absent_directory(self) -> Request;
}

impl Misplaced for Request {
    /// The same request of a directory that is not there.
    fn in_an_absent_directory(self) -> Request {
        let Request::File(FileRequest::MakeDirectory { name, mode, caller, .. }) = self else {
            panic!("another request");
        };
        let directory = Place { id: FileId { device: 1, inode: 2, birth: 3 }, path: path("absent") };
        Request::File(FileRequest::MakeDirectory { directory, name, mode, caller })
    }
}

#[test]
fn too_many_requests_end_the_stream() {
    let directory = tempdir().unwrap();
    let mut client = Client::attach(directory.path());
    let root = client.root.clone();
    for _ in 0..=REQUESTS_IN_FLIGHT_MAX {
        let request = FileRequest::List { directory: root.clone(), from: 0, window: 0 };
        client.send(Request::File(request), &[]);
    }
    assert!(matches!(client.event(), AgentFrame::Closing { .. }));
}

#[test]
fn a_client_that_reads_nothing_does_not_fill_the_agents_memory() {
    let directory = tempdir().unwrap();
    std::fs::write(directory.path().join("file"), vec![1; 1 << 20]).unwrap();
    let mut client = Client::attach(directory.path());
    let place = client.place("file");
    let handle = client.open(&place, READ);
    let reads: Vec<_> = (0..500)
        .map(|_| client.send(Request::File(FileRequest::Read { handle, offset: 0, length: 1 << 20 }), &[]))
        .collect();
    // All are answered in the end, and small ones before: nothing was dropped and nothing is stuck.
    for id in reads {
        assert_eq!(client.reply(id).2.len(), 1 << 20);
    }
}

#[test]
fn one_id_for_two_running_requests_is_a_fault() {
    let directory = tempdir().unwrap();
    let mut client = Client::attach(directory.path());
    let list = FileRequest::List { directory: client.root.clone(), from: 0, window: 0 };
    let body = Request::File(list);
    for _ in 0..2 {
        let frame = ClientFrame::Request { id: RequestId(7777), sequence: Sequence(0), body: body.clone() };
        client.send_frame(&frame, &[]);
    }
    assert!(matches!(client.event(), AgentFrame::Closing { .. }));
}

/// Prints what a round trip costs. Build the agent as it is shipped, and name it with `STEAD_AGENT`:
/// `cargo test -p agent -- --ignored --nocapture`
#[test]
#[ignore = "a measurement"]
fn a_round_trip_takes_microseconds() {
    const ROUNDS: u32 = 20_000;
    let directory = tempdir().unwrap();
    std::fs::write(directory.path().join("file"), vec![1; 1 << 20]).unwrap();
    let (mut client, _) = Client::spawned();
    client.export(directory.path(), false);
    let (root, place) = (client.root.clone(), client.place("file"));
    let handle = client.open(&place, READ_WRITE);
    let mut measure = |what: &str, rounds: u32, run: &mut dyn FnMut(&mut Client)| {
        let start = std::time::Instant::now();
        (0..rounds).for_each(|_| run(&mut client));
        eprintln!("{what}: {:.1} µs", start.elapsed().as_secs_f64() * 1e6 / f64::from(rounds));
    };
    let mut nonce = 0;
    measure("ping", ROUNDS, &mut |client| {
        nonce += 1;
        client.send_frame(&ClientFrame::Ping { nonce }, &[]);
        client.event();
    });
    measure("lookup", ROUNDS, &mut |client| assert!(client.lookup(&root, "file").0.is_some()));
    measure("absent name", ROUNDS, &mut |client| assert!(client.lookup(&root, "absent").0.is_none()));
    measure("stat", ROUNDS, &mut |client| assert!(client.stat(&place).is_ok()));
    measure("read of 4 KiB", ROUNDS, &mut |client| assert_eq!(client.read(handle, 0, 4096).len(), 4096));
    measure("write of 4 KiB", ROUNDS, &mut |client| assert!(client.write(handle, 0, &[2; 4096]).size > 0));
    measure("read of 1 MiB, 8 at a time", 300, &mut |client| {
        let read = FileRequest::Read { handle, offset: 0, length: 1 << 20 };
        let reads: Vec<_> = (0..8).map(|_| client.send(Request::File(read.clone()), &[])).collect();
        reads.into_iter().for_each(|id| assert_eq!(client.reply(id).2.len(), 1 << 20));
    });
    let mut n = 0;
    measure("put of 4 KiB", 2000, &mut |client| {
        n += 1;
        client.put(&root, &format!("one{n}"), &[3; 4096]);
    });
    measure("put of 4 KiB, 64 at a time", 100, &mut |client| {
        let puts: Vec<_> = (0..64)
            .map(|_| {
                n += 1;
                client.send(Request::File(put(&root, &format!("new{n}"))), &[3; 4096])
            })
            .collect();
        puts.into_iter().for_each(|id| assert!(client.reply(id).1.is_ok()));
    });
}

#[test]
fn an_operation_that_blocks_holds_up_no_other() {
    let directory = tempdir().unwrap();
    const BLOCKED: usize = 80;
    let mut client = Client::attach(directory.path());
    let root = client.root.clone();
    let files: Vec<_> = (0..BLOCKED).map(|n| client.put(&root, &format!("file{n}"), b"")).collect();
    let leases: Vec<_> =
        (0..BLOCKED).map(|n| Leased::take(&directory.path().join(format!("file{n}")))).collect();
    let mut opens = Vec::new();
    for (n, place) in files.into_iter().enumerate() {
        let handle = client.handle();
        let request = FileRequest::Open { place, flags: READ, handle, inline_bytes: 0 };
        opens.push(client.send(Request::File(request), &[]));
        if n < BLOCKED / 2 {
            // As long as there are threads, everything else goes on.
            client.stat(&root).unwrap();
        }
    }
    client.send_frame(&ClientFrame::Ping { nonce: 1 }, &[]);
    assert!(matches!(client.event(), AgentFrame::Pong { nonce: 1, .. }));
    assert!(opens.iter().all(|id| !client.has_reply(*id)));
    drop(leases);
    for id in opens {
        assert!(client.reply(id).1.is_ok());
    }
}
