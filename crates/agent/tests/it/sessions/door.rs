//! Who comes to the door of a session: its client's next stream, a relay, and whoever has no business there.

use super::*;

#[test]
fn who_asks_for_a_session_that_is_not_there_gets_a_new_one() {
    let home = Home::new();
    let directory = tempdir().unwrap();
    let asked = SessionId([7; 16]);
    let mut client = home.knock(asked);
    client.greet(asked, LONG_SECONDS);
    assert_ne!(client.session, asked);
    assert_eq!(client.keep_seconds, LONG_SECONDS);
    client.export(directory.path(), false);
    let client = home.cut(client);
    goodbye(client);
}

#[test]
fn a_killed_session_is_gone_and_its_socket_in_nobodys_way() {
    let home = Home::new();
    let client = home.start(LONG_SECONDS);
    let session = session_process(&home);
    // SAFETY: the call touches no memory. The process is one that this test has started.
    unsafe { libc::kill(session, libc::SIGKILL) };
    let old = client.session;
    client.expect_failure();
    assert!(home.door(old).exists());
    let mut client = home.knock(old);
    client.greet(old, LONG_SECONDS);
    assert_ne!(client.session, old);
    assert!(!home.door(old).exists());
    goodbye(client);
}

#[test]
fn a_killed_relay_takes_nothing_with_it() {
    let home = Home::new();
    let directory = tempdir().unwrap();
    let mut client = home.attach(directory.path());
    let root = client.root.clone();
    client.child().kill().unwrap();
    client.child().wait().unwrap();
    client.stat(&root).unwrap();
    let resumed = home.resume(&client);
    client.expect_failure();
    goodbye(resumed);
}

#[test]
fn a_relay_whose_client_is_gone_waits_for_no_session() {
    /// Far below what it would wait for a session that does not take its streams.
    const SOON: Duration = Duration::from_secs(5);
    let home = Home::new();
    let client = home.attach(Path::new("/"));
    let session = rustix::process::Pid::from_raw(session_process(&home)).unwrap();
    rustix::process::kill_process(session, rustix::process::Signal::STOP).unwrap();
    let mut late = home.knock(client.session);
    let began = Instant::now();
    late.stream().shutdown(std::net::Shutdown::Both).unwrap();
    late.expect_failure();
    let took = began.elapsed();
    rustix::process::kill_process(session, rustix::process::Signal::CONT).unwrap();
    assert!(took < SOON, "it waited {took:?}");
    // The stream that was left to the session changes nothing.
    let client = home.cut(client);
    goodbye(client);
}

#[test]
fn a_stream_for_another_session_is_refused_with_the_reason() {
    let home = Home::new();
    let client = home.start(LONG_SECONDS);
    let mut confused = home.knock(client.session);
    confused.say_hello(SessionId([9; 16]), LONG_SECONDS);
    confused.skip_hello();
    let (head, _) = confused.read_frame_bytes().unwrap();
    let AgentFrame::Closing { reason } = decode_head(&head).unwrap() else { panic!("no reason") };
    assert!(reason.contains(&client.session.to_string()), "{reason}");
    confused.expect_failure();
    goodbye(client);
}

/// What a relay sends first, without descriptors.
fn relay_message(schema: u64) -> Vec<u8> {
    [b"STEADRL\x01".as_slice(), &schema.to_le_bytes()].concat()
}

#[test]
fn a_client_of_another_build_ends_the_session_that_it_cannot_use() {
    let home = Home::new();
    let mut client = home.start(LONG_SECONDS);
    let mut relay = UnixStream::connect(home.door(client.session)).unwrap();
    relay.write_all(&relay_message(1)).unwrap();
    assert_eq!(relay.read_to_end(&mut Vec::new()).unwrap(), 0);
    assert!(!home.door(client.session).exists());
    assert!(client.is_cut());
    client.expect_failure();
}

#[test]
fn nonsense_at_the_door_changes_nothing() {
    let home = Home::new();
    let client = home.attach(Path::new("/"));
    let schema = relay_message(wire::hello::SCHEMA_HASH);
    for nonsense in [b"".as_slice(), b"GET / HTTP/1.1\r\n\r\n", &schema, &schema[..15]] {
        let mut visitor = UnixStream::connect(home.door(client.session)).unwrap();
        visitor.write_all(nonsense).unwrap();
        visitor.shutdown(std::net::Shutdown::Write).unwrap();
        let mut said = Vec::new();
        // Refused with what it sent unread, it may be told so.
        let _ = visitor.read_to_end(&mut said);
        assert!(said.is_empty());
    }
    let client = home.cut(client);
    goodbye(client);
}

#[test]
fn another_user_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    if !rustix::process::geteuid().is_root() {
        return;
    }
    const NOBODY: libc::c_long = 65_534;
    let home = Home::new();
    let client = home.attach(Path::new("/"));
    let door = home.door(client.session);
    // Nobody gets as far as this by himself.
    for path in [home.directory.path(), &home.directory.path().join("run"), door.parent().unwrap(), &door] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).unwrap();
    }
    let visitor = std::thread::spawn(move || {
        // SAFETY: the call touches no memory, and is about this thread alone: it is not the C library's.
        let changed = unsafe { libc::syscall(libc::SYS_setresuid, -1, NOBODY, -1) };
        assert_eq!(changed, 0);
        let mut visitor = UnixStream::connect(door).unwrap();
        // He may have been turned away before he has said anything.
        let _ = visitor.write_all(&relay_message(1));
        let mut said = Vec::new();
        let _ = visitor.read_to_end(&mut said);
        said
    });
    assert!(visitor.join().unwrap().is_empty());
    let run = home.directory.path().join("run/sessions");
    std::fs::set_permissions(run, std::fs::Permissions::from_mode(0o700)).unwrap();
    // The same from this user would have ended it.
    let client = home.cut(client);
    goodbye(client);
}
