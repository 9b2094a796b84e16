use super::*;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread::JoinHandle;

use wire::agent::tunnel::CREDIT_FIRST_BYTES;

/// How long anything that has to happen may take on a busy machine.
const SOON: Duration = Duration::from_secs(60);

/// The near end, as the test wants it, and the far one in a thread.
struct Near {
    stream: UnixStream,
    far: Option<JoinHandle<Result<(), String>>>,
    signals: OwnedFd,
    incoming: Vec<u8>,
}

impl Near {
    fn new() -> Near {
        let (stream, theirs) = UnixStream::pair().unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream.set_write_timeout(Some(SOON)).unwrap();
        let signals = rustix::event::eventfd(0, rustix::event::EventfdFlags::empty()).unwrap();
        let told = signals.try_clone().unwrap();
        let far = std::thread::spawn(move || serve(theirs.try_clone().unwrap().into(), theirs.into(), told));
        Near { stream, far: Some(far), signals, incoming: Vec::new() }
    }

    fn begun(frame: TunnelFrame) -> (Near, Endpoint) {
        let mut near = Near::new();
        near.say(frame, b"");
        match near.hear() {
            (TunnelFrame::Ready(at), _) => (near, at),
            other => panic!("{other:?}"),
        }
    }

    fn say(&mut self, frame: TunnelFrame, data: &[u8]) {
        let mut bytes = encode_head(&frame, data.len()).unwrap();
        bytes.extend_from_slice(data);
        self.stream.write_all(&bytes).unwrap();
    }

    fn hear(&mut self) -> (TunnelFrame, Vec<u8>) {
        loop {
            if let Some(prefix) = Prefix::of_whole(&self.incoming).unwrap() {
                let (head_end, end) =
                    (PREFIX_BYTES + prefix.head as usize, PREFIX_BYTES + prefix.body_bytes());
                let frame = decode_head(&self.incoming[PREFIX_BYTES..head_end]).unwrap();
                let data = self.incoming[head_end..end].to_vec();
                self.incoming.drain(..end);
                return (frame, data);
            }
            let mut buffer = [0; 4096];
            let bytes = self.stream.read(&mut buffer).expect("the far end says something");
            assert!(bytes > 0, "the far end has gone");
            self.incoming.extend_from_slice(&buffer[..bytes]);
        }
    }

    /// What is said next that is not about credit.
    fn hear_of(&mut self, id: u64) -> (TunnelFrame, Vec<u8>) {
        loop {
            match self.hear() {
                (TunnelFrame::Credit { .. }, _) => {}
                said => {
                    assert_eq!(about(&said.0), Some(id), "{said:?}");
                    return said;
                }
            }
        }
    }

    fn end(mut self) -> Result<(), String> {
        self.stream.shutdown(Shutdown::Write).unwrap();
        self.far.take().unwrap().join().unwrap()
    }
}

fn about(frame: &TunnelFrame) -> Option<u64> {
    match frame {
        TunnelFrame::Open { connection }
        | TunnelFrame::Data { connection }
        | TunnelFrame::Credit { connection, .. }
        | TunnelFrame::End { connection }
        | TunnelFrame::Reset { connection, .. } => Some(connection.0),
        _ => None,
    }
}

fn open(id: u64) -> TunnelFrame {
    TunnelFrame::Open { connection: ConnectionId(id) }
}

fn data(id: u64) -> TunnelFrame {
    TunnelFrame::Data { connection: ConnectionId(id) }
}

fn end(id: u64) -> TunnelFrame {
    TunnelFrame::End { connection: ConnectionId(id) }
}

fn loopback_listener() -> (TcpListener, Endpoint) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, Endpoint::Tcp { host: "127.0.0.1".to_owned(), port })
}

fn unix(path: &Path) -> Endpoint {
    Endpoint::Unix { path: path.to_owned().into() }
}

#[test]
fn bytes_go_both_ways_and_each_way_ends_by_itself() {
    let (listener, to) = loopback_listener();
    let (mut near, _) = Near::begun(TunnelFrame::Connect(to));
    for (id, near_ends_first) in [(0, true), (1, false)] {
        near.say(open(id), b"");
        near.say(data(id), b"there");
        let (mut peer, _) = listener.accept().unwrap();
        let mut heard = [0; 5];
        peer.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"there");
        if near_ends_first {
            near.say(end(id), b"");
            assert_eq!(peer.read(&mut heard).unwrap(), 0);
        }
        peer.write_all(b"back").unwrap();
        peer.shutdown(Shutdown::Write).unwrap();
        assert_eq!(near.hear_of(id), (data(id), b"back".to_vec()));
        assert_eq!(near.hear_of(id), (end(id), Vec::new()));
        if !near_ends_first {
            near.say(data(id), b"later");
            near.say(end(id), b"");
            let mut rest = Vec::new();
            peer.read_to_end(&mut rest).unwrap();
            assert_eq!(rest, b"later");
        }
    }
    assert_eq!(near.end(), Ok(()));
}

#[test]
fn nobody_there_is_told_at_once_and_so_is_a_reset() {
    let (listener, to) = loopback_listener();
    let (mut near, _) = Near::begun(TunnelFrame::Connect(to));
    near.say(open(0), b"");
    let (peer, _) = listener.accept().unwrap();
    // It has seen that it is connected. What is reset before that could not be connected.
    assert!(matches!(near.hear().0, TunnelFrame::Credit { .. }));
    set_socket_linger_zero(&peer);
    drop(peer);
    assert_eq!(near.hear_of(0).0, TunnelFrame::Reset { connection: ConnectionId(0), failure: None });
    drop(listener);
    near.say(open(1), b"");
    match near.hear_of(1).0 {
        TunnelFrame::Reset { failure: Some(found), .. } => assert_eq!(found, failure(Errno::CONNREFUSED)),
        other => panic!("{other:?}"),
    }
}

fn set_socket_linger_zero(socket: &TcpStream) {
    rustix::net::sockopt::set_socket_linger(socket, Some(Duration::ZERO)).unwrap();
}

#[test]
fn no_more_is_read_of_a_socket_than_may_be_sent_and_a_peer_that_does_not_read_gets_no_more_credit() {
    let (listener, to) = loopback_listener();
    let (mut near, _) = Near::begun(TunnelFrame::Connect(to));
    near.say(open(0), b"");
    let (peer, _) = listener.accept().unwrap();
    let first = window(0) - CREDIT_FIRST_BYTES;
    assert_eq!(near.hear().0, TunnelFrame::Credit { connection: ConnectionId(0), bytes: first });
    let mut sending = peer.try_clone().unwrap();
    let sender = std::thread::spawn(move || sending.write_all(&vec![7; 1 << 20]));
    let mut got = 0;
    while got < CREDIT_FIRST_BYTES as usize {
        got += near.hear_of(0).1.len();
    }
    assert_eq!(got, CREDIT_FIRST_BYTES as usize);
    // All that may come has come: the next that is said is about something else.
    near.say(open(1), b"");
    let _other = listener.accept().unwrap();
    assert_eq!(about(&near.hear().0), Some(1));
    near.say(TunnelFrame::Credit { connection: ConnectionId(0), bytes: 1 << 20 }, b"");
    while got < 1 << 20 {
        got += near.hear_of(0).1.len();
    }
    sender.join().unwrap().unwrap();
    // Nobody reads there: what is allowed is used up, and then more is too much.
    for _ in 0..WINDOW_CHUNKS {
        near.say(data(0), &[1; 32 << 10]);
    }
    let far = near.far.take().unwrap();
    while !far.is_finished() {
        let frame = encode_head(&data(0), 32 << 10).unwrap();
        if near.stream.write_all(&frame).and_then(|()| near.stream.write_all(&[1; 32 << 10])).is_err() {
            break;
        }
    }
    assert!(far.join().unwrap().unwrap_err().contains("does not keep to its credit"));
    drop(peer);
}

/// As many of 32 KiB as one window has.
const WINDOW_CHUNKS: usize = 32;

#[test]
fn a_listener_opens_connections_and_its_socket_is_private_and_goes_with_it() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("s");
    // One that was left over, and that nobody listens on.
    drop(UnixListener::bind(&path).unwrap());
    let (mut near, at) = Near::begun(TunnelFrame::Listen(unix(&path)));
    assert_eq!(at, unix(&path));
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
    let mut peer = UnixStream::connect(&path).unwrap();
    assert_eq!(near.hear_of(0).0, open(0));
    near.say(data(0), b"hello");
    let mut heard = [0; 5];
    peer.read_exact(&mut heard).unwrap();
    peer.write_all(b"yes").unwrap();
    assert_eq!(near.hear_of(0), (data(0), b"yes".to_vec()));
    // A signal is as good an end as that of the input.
    rustix::io::write(&near.signals, &1u64.to_ne_bytes()).unwrap();
    assert_eq!(near.far.take().unwrap().join().unwrap(), Ok(()));
    assert!(!path.exists());
}

#[test]
fn what_is_somebody_elses_is_not_replaced() {
    let scratch = tempfile::tempdir().unwrap();
    let (live, file) = (scratch.path().join("live"), scratch.path().join("file"));
    let _listening = UnixListener::bind(&live).unwrap();
    std::fs::write(&file, "mine").unwrap();
    let (_taken, port) = loopback_listener();
    for at in [unix(&live), unix(&file), port] {
        let mut near = Near::new();
        near.say(TunnelFrame::Listen(at.clone()), b"");
        match near.hear().0 {
            TunnelFrame::Failed(found) => assert_eq!(found.errno, failure(Errno::ADDRINUSE).errno, "{at}"),
            other => panic!("{other:?}"),
        }
        assert_eq!(near.end(), Ok(()));
    }
    assert!(UnixStream::connect(&live).is_ok());
    assert_eq!(std::fs::read(&file).unwrap(), b"mine");
}

#[test]
fn a_name_is_looked_up_meanwhile_and_what_is_not_found_is_told() {
    let end = Endpoint::Tcp { host: "no-such-host.invalid".to_owned(), port: 80 };
    let (mut near, _) = Near::begun(TunnelFrame::Connect(end));
    near.say(open(0), b"");
    match near.hear_of(0).0 {
        TunnelFrame::Reset { failure: Some(found), .. } => {
            assert!(found.detail.contains("no-such-host.invalid"), "{found:?}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_out_of_place_ends_the_far_end() {
    let to = || TunnelFrame::Connect(loopback_listener().1);
    let at = || TunnelFrame::Listen(Endpoint::Tcp { host: "127.0.0.1".to_owned(), port: 0 });
    let cases: [&[TunnelFrame]; 5] = [
        &[open(0)],
        &[to(), to()],
        &[at(), open(0)],
        &[to(), open(3), open(3)],
        &[to(), TunnelFrame::Ready(Endpoint::Tcp { host: "h".to_owned(), port: 1 })],
    ];
    for frames in cases {
        let mut near = Near::new();
        for frame in frames {
            near.say(frame.clone(), b"");
        }
        let reason = near.far.take().unwrap().join().unwrap().unwrap_err();
        assert!(reason.contains("broke the protocol"), "{reason}");
    }
}
