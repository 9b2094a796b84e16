//! Tunnels as they are opened, listed and closed.

use std::io::{ErrorKind, Read};
use std::os::unix::net::UnixStream;

use e2e::{Sshd, Stead, eventually};

use super::*;

#[test]
fn a_tunnel_is_listed_and_told_of_and_closed_with_what_goes_through_it() {
    let stead = Stead::new();
    assert!(listed(&stead).is_empty());
    let (listener, target) = listener();
    let tunnel = open(&stead, "host", &format!("0:127.0.0.1:{target}"), false);
    let (id, from) = (tunnel["id"].as_str().unwrap(), port(&tunnel, "local"));
    assert_eq!(tunnel["local"], format!("127.0.0.1:{from}"));
    assert_eq!((&tunnel["state"], &tunnel["machine"]), (&"open".into(), &"host".into()));
    assert_eq!(stead.status()["tunnels"][0]["id"], id);
    let text = stead.ok(&["tunnel", "list"]).text();
    assert!(text.contains(&format!("127.0.0.1:{from} -> host 127.0.0.1:{target}")), "{text}");
    let mut near = connect(from);
    let _far = accept(&listener);
    stead.ok(&["tunnel", "close", id]);
    assert_eq!(near.read(&mut [0; 8]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert!(listed(&stead).is_empty());
    let unknown = stead.run(&["tunnel", "close", id]);
    assert_eq!(unknown.code(), 3, "{unknown}");
}

#[test]
fn a_port_that_is_taken_is_one_clear_error_at_either_end() {
    let sshd = Sshd::start();
    let stead = Stead::with_ssh(&sshd);
    let (_taken, port) = listener();
    for (ends, reverse) in [(format!("{port}:80"), false), (format!("80:{port}"), true)] {
        let mut args = vec!["tunnel", "open", "box", &ends];
        if reverse {
            args.push("--reverse");
        }
        let refused = stead.run(&args);
        let said = refused.errors();
        assert_eq!(refused.code(), 5, "{refused}");
        assert!(said.contains("in use") && said.contains(&port.to_string()), "{said}");
    }
    assert!(listed(&stead).is_empty());
}

#[test]
fn what_is_no_tunnel_is_refused_before_anything_is_connected() {
    let stead = Stead::new();
    for ends in
        ["80", "80:", "x:80", "80:host:0", "db.internal:80:80", "99999:80", "/a:/b:/c", "80:rel/path:1"]
    {
        let refused = stead.run(&["tunnel", "open", "ssh://nowhere.invalid", ends]);
        assert_eq!(refused.code(), 2, "{ends}: {refused}");
    }
}

#[test]
fn what_is_there_is_not_replaced_by_a_socket() {
    let stead = Stead::new();
    let path = stead.root().join("file");
    std::fs::write(&path, "mine").unwrap();
    let refused = stead.run(&["tunnel", "open", "host", &format!("{}:80", path.display())]);
    assert_eq!(refused.code(), 5, "{refused}");
    assert_eq!(std::fs::read(&path).unwrap(), b"mine");
}

#[test]
fn a_tunnel_ends_with_its_connection_and_leaves_nothing() {
    let sshd = Sshd::start();
    let stead = Stead::with_ssh(&sshd);
    let (listener, target) = listener();
    stead.ok(&["connect", "box"]);
    stead.ok(&["disconnect", "box"]);
    let daemon = stead.daemon_pid();
    let before = e2e::leftovers::descriptors_of(daemon);
    let (here, there) = (stead.root().join("here"), stead.root().join("there"));
    let local = open(&stead, "box", &format!("0:{target}"), false);
    let reverse = open(&stead, "box", &format!("{target}:0"), true);
    open(&stead, "box", &format!("{}:{target}", here.display()), false);
    open(&stead, "box", &format!("{target}:{}", there.display()), true);
    let froms = [port(&local, "local"), port(&reverse, "remote")];
    let mut open: Vec<_> = froms.iter().map(|port| connect(*port)).collect();
    let _far: [TcpStream; 2] = std::array::from_fn(|_| accept(&listener));
    assert_eq!(far_ends(&sshd).len(), 4);
    stead.ok(&["disconnect", "box"]);
    assert!(listed(&stead).is_empty());
    assert!(!here.exists() && !there.exists());
    for stream in &mut open {
        assert_eq!(stream.read(&mut [0; 8]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    }
    eventually(SOON, "the daemon has closed every socket", || {
        e2e::leftovers::descriptors_of(daemon) <= before
    });
    eventually(SOON, "the far ends are gone", || far_ends(&sshd).is_empty());
}

#[test]
fn a_daemon_that_is_restarted_says_what_opens_its_tunnels_again() {
    let stead = Stead::new();
    let here = stead.root().join("here");
    let (listener, target) = listener();
    open(&stead, "host", &format!("{}:127.0.0.1:{target}", here.display()), false);
    let restarted = stead.ok(&["daemon", "restart"]);
    let command = format!("stead tunnel open host {}:127.0.0.1:{target}", here.display());
    assert!(restarted.errors().contains(&command), "{restarted}");
    assert!(listed(&stead).is_empty());
    eventually(SOON, "the far end has ended after its daemon", || {
        !stead.processes().iter().any(|process| process.command.contains("--tunnel"))
    });
    let words: Vec<&str> = command.split(' ').skip(1).collect();
    stead.ok(&words);
    let mut near = UnixStream::connect(&here).expect("connecting to a tunnel");
    say(&mut near, b"again");
    assert_eq!(heard(&mut accept(&listener), 5), b"again");
}
