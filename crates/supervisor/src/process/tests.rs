use std::time::Duration;

use super::*;
use crate::spawn::Spawn;
use crate::stop::{Grace, StopError, stop};

const DEADLINE: Duration = Duration::from_secs(20);

fn shell(script: &str) -> Process {
    Spawn::new("/bin/sh").argument("-c").argument(script).spawn().unwrap()
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.expect("within the deadline")
}

/// Waits until the number is free, which a zombie's is not.
async fn eventually_gone(identity: Identity) {
    within(async {
        while identity.exists().unwrap() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn an_exit_is_noticed_and_reaped() {
    let mut process = shell("exit 7");
    let identity = process.identity();
    assert_eq!(within(process.exited()).await.unwrap(), Exit::Code(7));
    assert_eq!(within(process.exited()).await.unwrap(), Exit::Code(7));
    assert!(!identity.exists().unwrap());
    process.signal(Signal::KILL).unwrap();
    process.signal_group(Signal::KILL).unwrap();
}

#[tokio::test]
async fn a_death_by_signal_is_told_from_an_exit() {
    let mut process = shell("exec sleep 1000");
    process.signal(Signal::KILL).unwrap();
    assert_eq!(within(process.exited()).await.unwrap(), Exit::Signal(9));
}

#[tokio::test]
async fn waiting_may_be_given_up_and_begun_again() {
    let mut process = shell("exec sleep 1000");
    let waited = tokio::time::timeout(Duration::from_millis(1), process.exited()).await;
    assert!(waited.is_err());
    process.signal(Signal::KILL).unwrap();
    assert_eq!(within(process.exited()).await.unwrap(), Exit::Signal(9));
}

#[tokio::test]
async fn a_child_whose_handle_was_dropped_is_still_reaped() {
    let process = shell("exit 0");
    let identity = process.identity();
    drop(process);
    eventually_gone(identity).await;
}

#[tokio::test]
async fn an_adopted_process_is_watched_and_signalled() {
    let mut child = shell("exec sleep 1000");
    let mut adopted = Process::adopt(child.identity()).unwrap();
    adopted.signal(Signal::KILL).unwrap();
    assert_eq!(within(adopted.exited()).await.unwrap(), Exit::Unknown);
    assert_eq!(within(child.exited()).await.unwrap(), Exit::Signal(9));
    assert!(matches!(Process::adopt(child.identity()), Err(AdoptError::Gone { .. })));
}

#[tokio::test]
async fn a_stranger_with_the_same_number_is_not_adopted() {
    let mut child = shell("exec sleep 1000");
    let stranger = Identity { started: child.identity().started + 1, ..child.identity() };
    assert!(matches!(Process::adopt(stranger), Err(AdoptError::Gone { .. })));
    child.signal(Signal::KILL).unwrap();
    within(child.exited()).await.unwrap();
}

const QUICK: Grace =
    Grace { ask: Duration::from_millis(20), terminate: Duration::from_millis(20), kill: DEADLINE };

async fn asked() -> Result<(), StopError> {
    Ok(())
}

#[tokio::test]
async fn a_process_that_obeys_sigterm_is_not_killed() {
    let grace = Grace { terminate: DEADLINE, ..QUICK };
    let mut process = shell("exec sleep 1000");
    assert_eq!(within(stop(&mut process, &grace, asked())).await.unwrap(), Exit::Signal(15));
}

#[tokio::test]
async fn a_process_that_ignores_everything_is_killed_with_its_children() {
    let (reader, writer) = std::io::pipe().unwrap();
    let script = "trap '' TERM; sleep 1000 & echo $!; while :; do wait; sleep 1000; done";
    let mut process = Spawn::new("/bin/sh")
        .arguments(["-c", script])
        .variable("PATH", "/usr/bin:/bin")
        .stdout(crate::spawn::Stdio::Descriptor(writer.into()))
        .spawn()
        .unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(reader), &mut line).unwrap();
    let grandchild = Identity::of(line.trim().parse().unwrap()).unwrap();
    assert_eq!(within(stop(&mut process, &QUICK, asked())).await.unwrap(), Exit::Signal(9));
    within(async {
        // Whoever inherited it reaps it; a zombie serves as well here.
        while is_running(grandchild) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

fn is_running(identity: Identity) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", identity.pid)).unwrap_or_default();
    identity.exists().unwrap() && !stat.contains(") Z ")
}

#[tokio::test]
async fn a_request_that_cannot_be_sent_leads_to_sigterm_at_once() {
    let grace = Grace { ask: DEADLINE * 10, terminate: DEADLINE, kill: DEADLINE };
    let mut process = shell("exec sleep 1000");
    let exit = within(stop(&mut process, &grace, async { Err("no") })).await.unwrap();
    assert_eq!(exit, Exit::Signal(15));
}

#[tokio::test]
async fn a_child_that_was_shown_is_inherited_until_it_has_ended() {
    let mut child = shell("exec sleep 1000");
    let shown = show_child(child.pid()).unwrap();
    let again = shown.try_clone().unwrap();
    let mut inherited = Process::inherit(shown).unwrap();
    assert_eq!(inherited.identity(), child.identity());
    inherited.signal(Signal::KILL).unwrap();
    assert_eq!(within(inherited.exited()).await.unwrap(), Exit::Unknown);
    assert!(matches!(Process::inherit(again.try_clone().unwrap()), Err(AdoptError::Gone { .. })), "a zombie");
    within(child.exited()).await.unwrap();
    assert!(matches!(Process::inherit(again), Err(AdoptError::Gone { .. })));
    assert!(show_child(child.pid()).is_err());
    assert!(show_child(std::process::id()).is_err(), "not a child");
    let (file, _other) = std::os::unix::net::UnixStream::pair().unwrap();
    assert!(Process::inherit(file.into()).is_err(), "not a process");
}
