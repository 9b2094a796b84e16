use std::io::{Read, Write};

use super::*;
use crate::process::Exit;

fn reader_of(spawn: Spawn) -> (std::io::PipeReader, Spawn) {
    let (reader, writer) = std::io::pipe().unwrap();
    (reader, spawn.stdout(Stdio::Descriptor(writer.into())))
}

async fn output(spawn: Spawn) -> String {
    let (mut reader, spawn) = reader_of(spawn);
    let mut process = spawn.spawn().unwrap();
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(process.exited().await.unwrap(), Exit::Code(0));
    text
}

fn shell(script: &str) -> Spawn {
    Spawn::new("/bin/sh").argument("-c").argument(script)
}

#[tokio::test]
async fn the_environment_is_what_was_named_and_nothing_else() {
    assert!(std::env::var_os("PATH").is_some());
    let spawn = Spawn::new("/usr/bin/env").variable("A", "1").variable("B", "x=y").variable("A", "2");
    assert_eq!(output(spawn).await, "B=x=y\nA=2\n");
    assert_eq!(output(Spawn::new("/usr/bin/env")).await, "");
    let path = std::env::var("PATH").unwrap();
    let spawn = Spawn::new("/usr/bin/env").inherit_variables(&["PATH", "STEAD_NO_SUCH_VARIABLE"]);
    assert_eq!(output(spawn).await, format!("PATH={path}\n"));
}

#[tokio::test]
async fn descriptors_are_placed_and_no_others_are_open() {
    // One that somebody forgot to mark.
    let stray = std::fs::File::open("/dev/null").unwrap();
    rustix::io::fcntl_setfd(&stray, rustix::io::FdFlags::empty()).unwrap();
    let (mut five, five_writer) = std::io::pipe().unwrap();
    let (mut three, three_writer) = std::io::pipe().unwrap();
    let spawn = shell("echo to-three >&3; echo to-five >&5; ls /proc/self/fd")
        .variable("PATH", "/usr/bin:/bin")
        .descriptor(5, five_writer.into())
        .descriptor(3, three_writer.into());
    let listed = output(spawn).await;
    let mut text = String::new();
    three.read_to_string(&mut text).unwrap();
    five.read_to_string(&mut text).unwrap();
    assert_eq!(text, "to-three\nto-five\n");
    // 4 is the directory that `ls` itself has open.
    assert_eq!(listed.split_whitespace().collect::<Vec<_>>(), ["0", "1", "2", "3", "4", "5"]);
}

#[tokio::test]
async fn descriptors_may_trade_places() {
    let (mut one, one_writer) = std::io::pipe().unwrap();
    let (mut two, two_writer) = std::io::pipe().unwrap();
    let (a, b) = (one_writer.as_raw_fd(), two_writer.as_raw_fd());
    let script = format!("echo one >/proc/self/fd/{b}; echo two >/proc/self/fd/{a}");
    let spawn = shell(&script).descriptor(b, one_writer.into()).descriptor(a, two_writer.into());
    output(spawn).await;
    let mut text = String::new();
    one.read_to_string(&mut text).unwrap();
    two.read_to_string(&mut text).unwrap();
    assert_eq!(text, "one\ntwo\n");
}

#[tokio::test]
async fn a_child_has_a_session_of_its_own_and_default_signals() {
    let text = output(shell("exec cat /proc/self/stat /proc/self/status")).await;
    let fields: Vec<_> = text.split_whitespace().collect();
    let (pid, group, session) = (fields[0], fields[4], fields[5]);
    assert_eq!((group, session), (pid, pid));
    // The C library keeps 32 and 33 for itself.
    const RESERVED: u64 = 0b11 << 31;
    let sets: Vec<_> =
        text.lines().filter(|line| line.starts_with("SigBlk") || line.starts_with("SigIgn")).collect();
    assert_eq!(sets.len(), 2);
    for line in sets {
        let set = u64::from_str_radix(line.split_whitespace().nth(1).unwrap(), 16).unwrap();
        assert_eq!(set & !RESERVED, 0, "{line}");
    }
}

#[tokio::test]
async fn a_program_that_cannot_be_run_leaves_nothing() {
    let error = Spawn::new("/no/such/program").spawn().unwrap_err();
    assert!(matches!(&error, SpawnError::Start { source, .. } if source.kind() == io::ErrorKind::NotFound));
    let error = Spawn::new("/bin/sh").directory(Some("/no/such/directory".into())).spawn().unwrap_err();
    assert!(matches!(error, SpawnError::Start { .. }));
}

#[tokio::test]
async fn what_exec_cannot_carry_is_refused() {
    assert!(matches!(Spawn::new("/bin/a\0b").spawn(), Err(SpawnError::Text { .. })));
    assert!(matches!(Spawn::new("/bin/sh").argument("a\0b").spawn(), Err(SpawnError::Text { .. })));
    assert!(matches!(Spawn::new("/bin/sh").variable("A=B", "").spawn(), Err(SpawnError::Text { .. })));
    assert!(matches!(Spawn::new("/bin/sh").variable("", "").spawn(), Err(SpawnError::Text { .. })));
    let null: OwnedFd = std::fs::File::open("/dev/null").unwrap().into();
    assert!(matches!(
        Spawn::new("/bin/sh").descriptor(2, null).spawn(),
        Err(SpawnError::Number { number: 2 })
    ));
}

#[tokio::test]
async fn streams_are_closed_here_once_the_child_has_them() {
    let (reader, mut writer) = std::io::pipe().unwrap();
    let spawn = Spawn::new("/bin/cat").stdin(Stdio::Descriptor(reader.into()));
    let (mut output, spawn) = reader_of(spawn);
    let mut process = spawn.spawn().unwrap();
    writer.write_all(b"through").unwrap();
    drop(writer);
    let mut text = String::new();
    output.read_to_string(&mut text).unwrap();
    assert_eq!(text, "through");
    assert_eq!(process.exited().await.unwrap(), Exit::Code(0));
}
