//! The line to the machine goes, and the machine's agent.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use e2e::faults::field::Field;
use e2e::faults::role::{Role, holders};
use e2e::program::wait_readable;
use e2e::{Kind, Program, eventually};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};

const SOON: Duration = Duration::from_secs(40);

/// What a person is promised who interrupts a program that waits for the mount.
const INTERRUPTED_MAX: Duration = Duration::from_millis(100);

/// What a person is promised who takes away a mount by force.
const FORCED_MAX: Duration = Duration::from_secs(2);

/// How soon a program has started and ended that inherits a file whose writes wait.
const STARTED_MAX: Duration = Duration::from_secs(5);

/// How a mount behaves whose line is cut and stays so.
fn stays_usable(field: &Field, state: &str) {
    fs::write(field.far.join("cached"), "known here").unwrap();
    fs::write(field.far.join("unknown"), "not known here").unwrap();
    assert_eq!(fs::read(field.dir.join("cached")).unwrap(), b"known here");
    field.proxy().cut();
    eventually(SOON, &format!("the mount is {state}"), || {
        field.status().is_some_and(|status| status["status"]["state"] == state)
    });
    assert_eq!(fs::read(field.dir.join("cached")).unwrap(), b"known here", "what is cached still opens");

    let mut waiting = Command::new("cat")
        .arg(field.dir.join("unknown"))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let pid = Pid::from_child(&waiting);
    eventually(SOON, "it waits for the mount, or has been told that it cannot have it", || {
        let state = fs::read_to_string(format!("/proc/{pid}/wchan")).unwrap_or_default();
        state.contains("fuse") || state.contains("request_wait") || waiting.try_wait().unwrap().is_some()
    });
    let began = Instant::now();
    // It may have ended with an error by now.
    let _gone = kill_process(pid, Signal::INT);
    assert!(wait_readable(pid, INTERRUPTED_MAX), "still there {:?} after the interrupt", began.elapsed());
    waiting.wait().unwrap();

    let began = Instant::now();
    let forced = field.stead().run(&["unmount", "--force", &field.mount().id]);
    assert!(forced.status.success(), "{forced}");
    assert!(began.elapsed() < FORCED_MAX, "took {:?}", began.elapsed());
    assert!(!e2e::leftovers::mounts_below(&field.dir).contains(&field.dir));
    // Its agent could not be told. It is when somebody gets there again.
    assert!(!holders(field, Role::Agent).is_empty());
    field.proxy().mend();
    field.stead().ok(&["exec", "box", "--", "true"]);
    eventually(SOON, "the agent of the mount has ended", || holders(field, Role::Agent).is_empty());
}

#[test]
fn a_link_that_stays_down_leaves_the_mount_usable() {
    stays_usable(&Field::new(Kind::Ssh, &[]), "reconnecting");
}

#[test]
fn a_link_that_is_not_to_be_opened_again_disconnects_the_mount() {
    stays_usable(&Field::new(Kind::Ssh, &["--no-reconnect"]), "disconnected");
}

#[test]
fn a_cut_line_costs_only_time() {
    let field = Field::new(Kind::Ssh, &[]);
    let mut file = File::create(field.dir.join("f")).unwrap();
    file.write_all(b"before ").unwrap();
    let agent = field.holder(Role::Agent).pid;
    field.proxy().cut();
    let far = field.dir.clone();
    let waiting = std::thread::spawn(move || fs::write(far.join("g"), "meanwhile"));
    eventually(SOON, "the mount has noticed", || !field.is_active());
    field.proxy().mend();
    waiting.join().unwrap().unwrap();
    file.write_all(b"behind").unwrap();
    file.sync_all().unwrap();
    assert_eq!(fs::read(field.far.join("f")).unwrap(), b"before behind");
    assert_eq!(fs::read(field.far.join("g")).unwrap(), b"meanwhile");
    let agents: Vec<i32> =
        e2e::faults::role::holders(&field, Role::Agent).iter().map(|agent| agent.pid).collect();
    assert!(agents.contains(&agent), "the session goes on in the same agent: {agent} in {agents:?}");
    eventually(SOON, "the mount is active", || field.is_active());
}

#[test]
fn a_program_starts_while_what_it_inherits_waits() {
    let field = Field::new(Kind::Ssh, &[]);
    let mut file = File::create(field.dir.join("f")).unwrap();
    file.sync_all().unwrap();
    field.proxy().cut();
    file.write_all(b"meanwhile").unwrap();
    let mut child = Command::new("true").spawn().unwrap();
    assert!(wait_readable(Pid::from_child(&child), STARTED_MAX), "it has not ended");
    assert!(child.wait().unwrap().success());
    field.proxy().mend();
    file.sync_all().unwrap();
    assert_eq!(fs::read(field.far.join("f")).unwrap(), b"meanwhile");
}

#[test]
fn a_killed_agent_costs_no_open_file() {
    let field = Field::new(Kind::Ssh, &[]);
    fs::write(field.far.join("read"), "text").unwrap();
    let reading = File::open(field.dir.join("read")).unwrap();
    let writing = File::create(field.dir.join("written")).unwrap();
    writing.write_all_at(b"before", 0).unwrap();
    let agents = e2e::faults::role::holders(&field, Role::Agent);
    agents.iter().for_each(|agent| agent.signal(Signal::KILL));
    let mut back = [0; 4];
    reading.read_exact_at(&mut back, 0).unwrap();
    assert_eq!(&back, b"text");
    writing.write_all_at(b"behind", 6).unwrap();
    writing.sync_all().unwrap();
    assert_eq!(fs::read(field.far.join("written")).unwrap(), b"beforebehind");
    eventually(SOON, "the mount is active", || field.is_active());
}

#[test]
fn a_lock_is_taken_again_when_worker_and_agent_died() {
    let field = Field::new(Kind::Host, &[]);
    let held = File::create(field.dir.join("locked")).unwrap();
    flock(&held, FlockOperation::NonBlockingLockExclusive).unwrap();
    field.kill(Role::Worker);
    held.set_len(1).unwrap();
    field.kill(Role::Agent);
    held.set_len(2).unwrap();
    let other = File::open(field.dir.join("locked")).unwrap();
    let refused = flock(&other, FlockOperation::NonBlockingLockExclusive);
    assert_eq!(refused.err(), Some(Errno::WOULDBLOCK));
    let there = File::open(field.far.join("locked")).unwrap();
    let refused = flock(&there, FlockOperation::NonBlockingLockExclusive);
    assert_eq!(refused.err(), Some(Errno::WOULDBLOCK), "on the machine");
}

#[test]
fn a_process_on_a_machine_runs_on_through_a_cut() {
    let field = Field::new(Kind::Ssh, &[]);
    let (go, out) = (field.far.join("go"), field.stead().root().join("out"));
    let script = "echo first; while ! test -e \"$0\"; do sleep 0.02; done; echo last";
    let mut exec = Command::new(e2e::stead::stead_bin())
        .args(["exec", "box", "--", "sh", "-c", script])
        .arg(&go)
        .env("STEAD_HOME", field.stead().home())
        .env("STEAD_SSH_CONFIG", field.sshd().unwrap().client_config())
        .stdin(Stdio::null())
        .stdout(File::create(&out).unwrap())
        .spawn()
        .unwrap();
    eventually(SOON, "it runs", || fs::read_to_string(&out).is_ok_and(|text| text == "first\n"));
    field.proxy().cut();
    eventually(SOON, "the mount has noticed", || !field.is_active());
    fs::write(&go, "").unwrap();
    field.proxy().mend();
    assert!(wait_readable(Pid::from_child(&exec), SOON), "it does not end");
    assert!(exec.wait().unwrap().success());
    assert_eq!(fs::read_to_string(&out).unwrap(), "first\nlast\n");
}

#[test]
fn a_process_on_a_machine_ends_with_its_connection_also_after_a_cut() {
    let field = Field::new(Kind::Ssh, &[]);
    let (pid, out) = (field.far.join("pid"), field.stead().root().join("out"));
    let mut exec = Command::new(e2e::stead::stead_bin())
        .args(["exec", "box", "--", "sh", "-c", "echo $$ > \"$0\"; exec sleep 600"])
        .arg(&pid)
        .env("STEAD_HOME", field.stead().home())
        .env("STEAD_SSH_CONFIG", field.sshd().unwrap().client_config())
        .stdin(Stdio::null())
        .stderr(File::create(&out).unwrap())
        .spawn()
        .unwrap();
    eventually(SOON, "it runs", || fs::read_to_string(&pid).is_ok_and(|text| text.ends_with('\n')));
    let is_listed =
        || field.stead().status()["processes"].as_array().is_some_and(|listed| !listed.is_empty());
    eventually(SOON, "it is known here", is_listed);
    let pid = fs::read_to_string(&pid).unwrap().trim().to_owned();
    field.proxy().cut();
    eventually(SOON, "the mount has noticed", || !field.is_active());
    field.proxy().mend();
    // A mount may be back before the connection is that commands go through.
    let is_connected = || field.stead().status()["connections"][0]["state"] == "connected";
    eventually(SOON, "the connection and the mount are back", || is_connected() && field.is_active());
    field.stead().ok(&["disconnect", "box"]);
    assert!(wait_readable(Pid::from_child(&exec), SOON), "the command here does not end");
    assert_eq!(exec.wait().unwrap().code(), Some(255));
    let said = fs::read_to_string(&out).unwrap();
    assert!(said.contains("its connection was closed"), "{said}");
    eventually(SOON, "the process there has ended", || !Path::new("/proc").join(&pid).exists());
}

#[test]
fn a_program_that_waits_for_a_lost_machine_can_be_killed() {
    let field = Field::new(Kind::Ssh, &[]);
    fs::write(field.far.join("unknown"), "x").unwrap();
    field.proxy().stall();
    let mut waiting = Program::new("cat").arg(field.dir.join("unknown")).spawn();
    let pid = Pid::from_child(&waiting);
    eventually(SOON, "it waits for the mount", || {
        let wchan = fs::read_to_string(format!("/proc/{pid}/wchan")).unwrap_or_default();
        wchan.contains("fuse") || wchan.contains("request_wait")
    });
    waiting.kill().unwrap();
    assert!(wait_readable(pid, INTERRUPTED_MAX), "a killed program stays");
    waiting.wait().unwrap();
    field.proxy().mend();
    let mut text = String::new();
    File::open(field.dir.join("unknown")).unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, "x");
}
