//! Tunnels over a line that is cut, and to a machine whose agent dies.

use std::io::{ErrorKind, Read};

use e2e::eventually;

use super::*;

#[test]
fn connections_through_a_tunnel_go_on_after_a_cut() {
    let far = Far::new();
    let (listener, target) = listener();
    for reverse in [false, true] {
        let ends = if reverse { format!("{target}:0") } else { format!("0:{target}") };
        let tunnel = open(&far.stead, "box", &ends, reverse);
        let from = port(&tunnel, if reverse { "remote" } else { "local" });
        let mut near = connect(from);
        let mut peer = accept(&listener);
        say(&mut near, b"before");
        assert_eq!(heard(&mut peer, 6), b"before");
        far.proxy.cut();
        say(&mut near, b"meanwhile");
        say(&mut peer, b"as well");
        // It waits, as what goes through the others does.
        let mut late = connect(from);
        say(&mut late, b"late");
        far.proxy.mend();
        assert_eq!(heard(&mut peer, 9), b"meanwhile");
        assert_eq!(heard(&mut near, 7), b"as well");
        let mut late_peer = accept(&listener);
        assert_eq!(heard(&mut late_peer, 4), b"late");
        no_more(&near);
        assert!(rest(&mut peer).is_empty());
        drop((late, late_peer, peer));
        far.stead.ok(&["tunnel", "close", tunnel["id"].as_str().unwrap()]);
    }
}

#[test]
fn a_tunnel_whose_session_is_lost_resets_its_connections_and_begins_again() {
    let far = Far::new();
    let (listener, target) = listener();
    for reverse in [false, true] {
        // One of the system's choice may be somebody else's before it is listened on again.
        let ends = if reverse { format!("{target}:{}", steady_port()) } else { format!("0:{target}") };
        let tunnel = open(&far.stead, "box", &ends, reverse);
        let from = port(&tunnel, if reverse { "remote" } else { "local" });
        let mut near = connect(from);
        let _peer = accept(&listener);
        let ends = far_ends(&far.sshd);
        assert_eq!(ends.len(), 1);
        e2e::leftovers::kill(&ends);
        match near.read(&mut [0; 8]) {
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
            // Its socket was the killed process's own, and the system has closed it.
            Ok(bytes) => assert!(bytes == 0 && reverse, "{bytes} bytes"),
        }
        // The same port, with another far end.
        eventually(SOON, "it serves again", || {
            let Ok(mut near) = TcpStream::connect((Ipv4Addr::LOCALHOST, from)) else { return false };
            patient(&near);
            listener.set_nonblocking(true).unwrap();
            let mut peer = None;
            let accepted = e2e::wait::holds_within(SOON, || {
                peer = peer.take().or_else(|| listener.accept().ok());
                peer.is_some()
            });
            listener.set_nonblocking(false).unwrap();
            let Some((mut peer, _)) = peer.filter(|_| accepted) else { return false };
            peer.set_nonblocking(false).unwrap();
            say(&mut near, b"again");
            heard(&mut peer, 5) == b"again"
        });
        let id = tunnel["id"].as_str().unwrap();
        eventually(SOON, "it is told", || {
            listed(&far.stead).iter().any(|tunnel| tunnel["id"] == id && tunnel["reason"].is_null())
        });
        far.stead.ok(&["tunnel", "close", id]);
    }
}

/// A port that nobody has, and that the system gives to nobody who asks for any.
fn steady_port() -> u16 {
    let first = 20_000 + (std::process::id() % 10_000) as u16;
    let is_free = |port: &u16| std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
    (first..32_000).find(is_free).expect("one of two thousand ports is free")
}
