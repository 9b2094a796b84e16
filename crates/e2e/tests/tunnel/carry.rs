//! What goes through a tunnel.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};

use e2e::{Sshd, Stead, eventually};
use serde_json::Value;

use super::*;

/// More than all buffers on the way hold together.
const MUCH: usize = 48 << 20;

#[test]
fn a_tunnel_carries_both_directions_and_each_ends_by_itself() {
    let sshd = Sshd::start();
    let stead = Stead::with_ssh(&sshd);
    for machine in ["host", "ssh://box"] {
        for reverse in [false, true] {
            let (listener, target) = listener();
            let ends = if reverse { format!("{target}:0") } else { format!("0:{target}") };
            let tunnel = open(&stead, machine, &ends, reverse);
            let from = port(&tunnel, if reverse { "remote" } else { "local" });
            near_ends_first(&listener, from);
            far_ends_first(&listener, from);
        }
    }
}

fn near_ends_first(listener: &TcpListener, from: u16) {
    let mut near = connect(from);
    say(&mut near, b"question");
    no_more(&near);
    let mut far = accept(listener);
    assert_eq!(rest(&mut far), b"question");
    say(&mut far, b"answer");
    drop(far);
    assert_eq!(rest(&mut near), b"answer");
}

fn far_ends_first(listener: &TcpListener, from: u16) {
    let mut near = connect(from);
    let mut far = accept(listener);
    say(&mut far, b"greeting");
    no_more(&far);
    assert_eq!(rest(&mut near), b"greeting");
    say(&mut near, b"later");
    drop(near);
    assert_eq!(rest(&mut far), b"later");
}

#[test]
fn a_tunnel_joins_unix_sockets_which_are_private_and_go_with_it() {
    let sshd = Sshd::start();
    let stead = Stead::with_ssh(&sshd);
    let (served, made) = (stead.root().join("served"), stead.root().join("made"));
    let listener = UnixListener::bind(&served).unwrap();
    for reverse in [false, true] {
        // One that was left, and on which nobody listens.
        drop(UnixListener::bind(&made).unwrap());
        let (from, to) = if reverse { (&served, &made) } else { (&made, &served) };
        let tunnel = open(&stead, "box", &format!("{}:{}", from.display(), to.display()), reverse);
        assert_eq!(std::fs::metadata(&made).unwrap().permissions().mode() & 0o7777, 0o600);
        let mut near = UnixStream::connect(&made).unwrap();
        near.set_read_timeout(Some(SOON)).unwrap();
        say(&mut near, b"question");
        near.shutdown(Shutdown::Write).unwrap();
        let (mut far, _) = listener.accept().unwrap();
        assert_eq!(rest(&mut far), b"question");
        say(&mut far, b"answer");
        drop(far);
        assert_eq!(rest(&mut near), b"answer");
        stead.ok(&["tunnel", "close", tunnel["id"].as_str().unwrap()]);
        assert!(!made.exists(), "reverse: {reverse}");
    }
}

#[test]
fn a_connection_that_leads_nowhere_is_closed_at_once() {
    let sshd = Sshd::start();
    let stead = Stead::with_ssh(&sshd);
    for reverse in [false, true] {
        let (listener, target) = listener();
        drop(listener);
        let ends = if reverse { format!("{target}:0") } else { format!("0:{target}") };
        let tunnel = open(&stead, "box", &ends, reverse);
        let mut near = connect(port(&tunnel, if reverse { "remote" } else { "local" }));
        let read = near.read(&mut [0; 8]);
        assert_eq!(read.unwrap_err().kind(), ErrorKind::ConnectionReset);
    }
}

#[test]
fn who_does_not_read_holds_up_his_own_connection_alone_and_no_memory() {
    let sshd = Sshd::start();
    let stead = Stead::with_ssh(&sshd);
    let (listener, target) = listener();
    let tunnel = open(&stead, "box", &format!("0:{target}"), false);
    let near = connect(port(&tunnel, "local"));
    let mut far = accept(&listener);
    let mut sending = near.try_clone().unwrap();
    let sent = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = std::sync::Arc::clone(&sent);
    let sender = std::thread::spawn(move || {
        let chunk: Vec<u8> = (0..64 << 10).map(|at| (at % 251) as u8).collect();
        for _ in 0..MUCH / chunk.len() {
            sending.write_all(&chunk).expect("it is taken in the end");
            counted.fetch_add(chunk.len(), std::sync::atomic::Ordering::Relaxed);
        }
        sending.shutdown(Shutdown::Write).unwrap();
    });
    let before = resident(&stead, &sshd);
    // Others go on meanwhile, for long enough that everything that is let through has come through.
    let mut other = connect(port(&tunnel, "local"));
    let mut other_far = accept(&listener);
    let mut last = usize::MAX;
    let mut unchanged = 0;
    while unchanged < 200 {
        say(&mut other, b"ping");
        assert_eq!(heard(&mut other_far, 4), b"ping");
        say(&mut other_far, b"pong");
        assert_eq!(heard(&mut other, 4), b"pong");
        let now = sent.load(std::sync::atomic::Ordering::Relaxed);
        unchanged = if now == last { unchanged + 1 } else { 0 };
        last = now;
    }
    assert!(last < MUCH, "all of it was taken, and nobody has read any");
    let more = resident(&stead, &sshd).saturating_sub(before);
    assert!(more < MUCH as u64 / 2, "{more} bytes more than before");
    let mut got = 0;
    let mut buffer = vec![0; 64 << 10];
    loop {
        let bytes = far.read(&mut buffer).unwrap();
        if bytes == 0 {
            break;
        }
        for (at, byte) in buffer[..bytes].iter().enumerate() {
            assert_eq!(*byte, ((got + at) % (64 << 10) % 251) as u8, "at {}", got + at);
        }
        got += bytes;
    }
    assert_eq!(got, MUCH);
    sender.join().unwrap();
}

/// What the daemon and the far ends hold, in bytes.
fn resident(stead: &Stead, sshd: &Sshd) -> u64 {
    let far_ends = far_ends(sshd).into_iter().map(|process| process.pid.as_raw_nonzero().get());
    let all = far_ends.chain([stead.daemon_pid()]);
    all.filter_map(e2e::leftovers::resident_kib).sum::<u64>() << 10
}

#[test]
fn a_reset_is_told_at_the_other_end_and_counts_no_more() {
    let stead = Stead::new();
    let (listener, target) = listener();
    let tunnel = open(&stead, "host", &format!("0:{target}"), false);
    let near = connect(port(&tunnel, "local"));
    let mut far = accept(&listener);
    let connections = || listed(&stead)[0]["connections"].clone();
    assert_eq!(connections(), Value::from(1));
    rustix::net::sockopt::set_socket_linger(&near, Some(Duration::ZERO)).unwrap();
    drop(near);
    assert_eq!(far.read(&mut [0; 8]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    eventually(SOON, "it is forgotten", || connections() == 0);
}
