//! More mounts of one machine than its server allows sessions through one connection.

use std::io::{Read, Write};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use e2e::leftovers::Process;
use e2e::sshd::FarCache;
use e2e::stead::{Mount, stead_bin};
use e2e::{Program, Sshd, Stead, eventually};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

const SOON: Duration = Duration::from_secs(10);

/// Beyond the grace that an idle connection has.
const IDLE: Duration = Duration::from_secs(90);

/// How long somebody at a terminal waits for a question and for what comes of the answer.
const DIALOGUE: Duration = Duration::from_secs(60);

const REFUSED: i32 = 4;

/// What OpenSSH allows unless it is told otherwise.
const USUAL_SESSIONS: usize = 10;

struct Pair {
    far: PathBuf,
    dir: PathBuf,
}

fn pair(stead: &Stead, number: usize) -> Pair {
    let pair = Pair { far: stead.dir(&format!("far{number}")), dir: stead.dir(&format!("mnt{number}")) };
    std::fs::write(pair.far.join("there"), format!("from the machine {number}")).unwrap();
    pair
}

fn mount(stead: &Stead, pair: &Pair) -> Mount {
    stead.mount(format!("ssh://box{}", pair.far.display()), &pair.dir, &[])
}

/// Mounts `count` directories of the machine at once.
fn mount_at_once(stead: &Stead, count: usize) -> Vec<(Pair, Mount)> {
    std::thread::scope(|scope| {
        let mounting: Vec<_> = (0..count)
            .map(|number| {
                scope.spawn(move || {
                    let pair = pair(stead, number);
                    let mount = mount(stead, &pair);
                    (pair, mount)
                })
            })
            .collect();
        mounting.into_iter().map(|mounted| mounted.join().unwrap()).collect()
    })
}

fn read_and_write(pair: &Pair, number: usize) {
    let there = std::fs::read_to_string(pair.dir.join("there")).unwrap();
    assert_eq!(there, format!("from the machine {number}"));
    let content = number.to_string().repeat(100_000);
    std::fs::write(pair.dir.join("here"), &content).unwrap();
    assert!(std::fs::read_to_string(pair.far.join("here")).unwrap() == content, "of mount {number}");
}

/// The ssh processes that have logged in.
fn masters(stead: &Stead) -> usize {
    stead.processes().iter().filter(|process| is_master(process)).count()
}

fn is_master(process: &Process) -> bool {
    process.command.contains(" -M -N ")
}

/// The sockets in the runtime directory but the daemon's own.
fn sockets(stead: &Stead) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(stead.home().join("run")) else {
        return Vec::new();
    };
    let sockets = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_socket()));
    sockets.map(|entry| entry.path()).filter(|path| !path.ends_with("daemon.sock")).collect()
}

#[track_caller]
fn only_the_daemon_is_left(stead: &Stead, sshd: &Sshd) {
    eventually(SOON, "only the daemon is left here", || stead.processes().len() <= 1);
    eventually(SOON, "the machine is left alone", || sshd.far_processes().is_empty());
    assert_eq!(sockets(stead), [] as [&Path; 0]);
}

#[test]
fn more_mounts_than_a_connection_has_sessions_are_served() {
    const MOUNTS: usize = 25;
    let sshd = Sshd::start_with(FarCache::Shared, &format!("MaxSessions {USUAL_SESSIONS}"));
    let stead = Stead::with_ssh(&sshd);
    let mounted = mount_at_once(&stead, MOUNTS);
    std::thread::scope(|scope| {
        for (number, (pair, _)) in mounted.iter().enumerate() {
            scope.spawn(move || read_and_write(pair, number));
        }
    });
    // Each mount has a session, and the daemon has one.
    assert_eq!(masters(&stead), (MOUNTS + 1).div_ceil(USUAL_SESSIONS));
    let status = stead.status();
    assert_eq!(status["connections"].as_array().map(Vec::len), Some(1), "{status}");

    for (_, mount) in &mounted {
        stead.unmount(mount);
    }
    stead.ok(&["disconnect", "ssh://box"]);
    only_the_daemon_is_left(&stead, &sshd);
}

#[test]
fn a_session_that_is_only_held_in_reserve_goes_to_a_mount_that_needs_it() {
    // The daemon has one, a mount has one, and one is held for the successor of its process.
    let sshd = Sshd::start_with(FarCache::Shared, "MaxSessions 3");
    let stead = Stead::with_ssh(&sshd);
    let (first, second) = (pair(&stead, 0), pair(&stead, 1));
    mount(&stead, &first);
    let in_reserve = || stead.processes().iter().any(|process| process.command.contains("--resume"));
    eventually(SOON, "a channel is held in reserve", in_reserve);
    mount(&stead, &second);
    assert_eq!(masters(&stead), 1, "nobody has logged in once more");
    assert!(!in_reserve());
    read_and_write(&first, 0);
    read_and_write(&second, 1);
}

#[test]
fn commands_work_when_all_sessions_are_taken() {
    let sshd = Sshd::start_with(FarCache::Shared, "MaxSessions 2");
    let stead = Stead::with_ssh(&sshd);
    // The daemon and one mount have the sessions of the first connection.
    let taken = pair(&stead, 0);
    let _mount = mount(&stead, &taken);
    assert_eq!(masters(&stead), 1);
    let far = stead.dir("far");
    std::fs::write(far.join("file"), "content").unwrap();
    let source = format!("ssh://box{}", far.display());
    let file = format!("{source}/file");
    assert_eq!(stead.ok(&["exec", "ssh://box", "--", "echo", "hello"]).text(), "hello\n");
    assert!(stead.ok(&["ls", &source]).text().contains("file"));
    assert_eq!(stead.ok(&["cat", &file]).text(), "content");
    stead.ok(&["stat", &file]);
    let copy = stead.root().join("copy");
    stead.ok(&["cp", &file, copy.to_str().unwrap()]);
    assert_eq!(std::fs::read_to_string(&copy).unwrap(), "content");
    stead.ok(&["cp", copy.to_str().unwrap(), &format!("{source}/back")]);
    assert_eq!(std::fs::read_to_string(far.join("back")).unwrap(), "content");
    read_and_write(&taken, 0);
}

#[test]
fn commands_work_where_a_connection_has_one_session() {
    let sshd = Sshd::start_with(FarCache::Shared, "MaxSessions 1");
    let stead = Stead::with_ssh(&sshd);
    let far = stead.dir("far");
    std::fs::write(far.join("file"), "content").unwrap();
    // The daemon's own session and that of the files are opened at once, and one of them is refused.
    assert_eq!(stead.ok(&["cat", &format!("ssh://box{}/file", far.display())]).text(), "content");
    assert_eq!(masters(&stead), 2);
}

#[test]
fn an_idle_connection_closes_with_all_its_logins() {
    let sshd = Sshd::start_with(FarCache::Shared, "MaxSessions 2");
    let stead = Stead::with_ssh(&sshd);
    let mounted = mount_at_once(&stead, 4);
    assert_eq!(masters(&stead), 3);
    stead.ok(&["unmount", "--all"]);
    eventually(IDLE, "every ssh has ended", || masters(&stead) == 0);
    only_the_daemon_is_left(&stead, &sshd);
    drop(mounted);
}

#[test]
fn stopping_the_daemon_ends_all_logins() {
    let sshd = Sshd::start_with(FarCache::Shared, "MaxSessions 2");
    let stead = Stead::with_ssh(&sshd);
    mount_at_once(&stead, 4);
    assert_eq!(masters(&stead), 3);
    stead.ok(&["daemon", "stop"]);
    eventually(SOON, "nothing is left here", || stead.processes().is_empty());
    eventually(SOON, "the machine is left alone", || sshd.far_processes().is_empty());
    assert_eq!(sockets(&stead), [] as [&Path; 0]);
}

#[test]
fn the_next_daemon_takes_over_the_logins_of_one_that_was_killed_and_ends_them() {
    let sshd = Sshd::start_with(FarCache::Shared, "MaxSessions 2");
    let stead = Stead::with_ssh(&sshd);
    let mounted = mount_at_once(&stead, 4);
    let logins = || {
        let mut pids: Vec<_> =
            stead.processes().into_iter().filter(is_master).map(|login| login.pid).collect();
        pids.sort_by_key(|pid| pid.as_raw_nonzero());
        pids
    };
    let before = logins();
    assert_eq!(before.len(), 3);
    kill_process(Pid::from_raw(stead.daemon_pid()).unwrap(), Signal::KILL).unwrap();
    // The first command to come starts the next daemon.
    stead.status();
    for (number, (pair, _)) in mounted.iter().enumerate() {
        read_and_write(pair, number);
    }
    assert_eq!(logins(), before, "nobody has logged in again");
    stead.ok(&["unmount", "--all"]);
    eventually(IDLE, "its logins have ended", || logins().is_empty());
    only_the_daemon_is_left(&stead, &sshd);
    let again = pair(&stead, 9);
    mount(&stead, &again);
    read_and_write(&again, 9);
}

#[test]
fn a_login_that_was_cut_off_costs_only_its_own_mounts() {
    let sshd = Sshd::start_with(FarCache::Shared, "MaxSessions 2");
    let stead = Stead::with_ssh(&sshd);
    let (first, second) = (pair(&stead, 0), pair(&stead, 1));
    mount(&stead, &first);
    mount(&stead, &second);
    let of_further = |process: &Process| is_master(process) && process.command.contains(".1 -o ");
    let further = stead.processes().into_iter().find(of_further).expect("a second login");
    kill_process(further.pid, Signal::KILL).unwrap();
    eventually(SOON, "it is seen", || masters(&stead) == 1);
    read_and_write(&first, 0);
    let third = pair(&stead, 2);
    mount(&stead, &third);
    read_and_write(&third, 2);
    stead.ok(&["unmount", "--all", "--force"]);
}

#[test]
fn a_further_login_asks_at_the_terminal_of_the_command_that_needs_it_and_nowhere_else() {
    let sshd = Sshd::start_with(FarCache::Shared, "MaxSessions 2");
    let stead = Stead::with_ssh(&sshd);
    // The daemon knows the fixture's machine; what follows needs only to find the daemon.
    stead.status();
    let key = sshd.identity();
    Program::new("ssh-keygen").args(["-q", "-p", "-P", "", "-N", "open sesame", "-f"]).arg(&key).ok();
    let first = pair(&stead, 0);
    let second = pair(&stead, 1);
    let of = |pair: &Pair| format!("ssh://box{}", pair.far.display());
    let (first_dir, second_dir) = (first.dir.to_str().unwrap(), second.dir.to_str().unwrap());
    at_a_terminal(&stead, &["mount", &of(&first), first_dir], "passphrase", "open sesame");
    assert_eq!(masters(&stead), 1);

    let unattended = Program::new("setsid")
        .args(["--wait"])
        .arg(stead_bin())
        .args(["mount", &of(&second), second_dir])
        .env("STEAD_HOME", stead.home())
        .run();
    assert_eq!(unattended.code(), REFUSED, "{unattended}");
    assert!(unattended.errors().contains("MaxSessions"), "{unattended}");
    assert!(unattended.errors().contains("refused the login"), "{unattended}");
    assert_eq!(masters(&stead), 1);

    at_a_terminal(&stead, &["mount", &of(&second), second_dir], "passphrase", "open sesame");
    assert_eq!(masters(&stead), 2);
    read_and_write(&first, 0);
    read_and_write(&second, 1);
}

/// Runs `stead ARGS` at a terminal of its own, answers the question that has `question` in it, and panics unless the
/// command succeeds.
#[track_caller]
fn at_a_terminal(stead: &Stead, args: &[&str], question: &str, answer: &str) {
    let mut terminal = std::fs::File::from(openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap());
    grantpt(&terminal).unwrap();
    unlockpt(&terminal).unwrap();
    let name = ptsname(&terminal, Vec::new()).unwrap();
    let end = || std::fs::File::options().read(true).write(true).open(name.to_str().unwrap()).unwrap();
    let mut command = Command::new("setsid");
    command.args(["--ctty", "--wait"]).arg(stead_bin()).args(args);
    command.env("STEAD_HOME", stead.home());
    command.stdin(Stdio::from(end())).stdout(Stdio::from(end())).stderr(Stdio::from(end()));
    let mut child = command.spawn().unwrap();
    // The command holds ends of the terminal, whose last one must be the child's.
    drop(command);
    let mut said = String::new();
    read_until(&mut terminal, &mut said, |said| said.contains(question));
    terminal.write_all(format!("{answer}\n").as_bytes()).unwrap();
    read_until(&mut terminal, &mut said, |_| false);
    let status = child.wait().unwrap();
    assert!(status.success(), "{args:?}: {status}; at the terminal:\n{said}");
}

/// Reads what is shown until it has what is waited for, or nobody has the terminal any more.
#[track_caller]
fn read_until(terminal: &mut std::fs::File, said: &mut String, is_enough: impl Fn(&str) -> bool) {
    let deadline = Instant::now() + DIALOGUE;
    let mut bytes = [0; 4096];
    while !is_enough(said) {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).expect("a minute is not too long");
        let ready = poll(&mut [PollFd::new(terminal, PollFlags::IN)], Some(&left)).unwrap();
        assert!(ready > 0, "nothing more comes to the terminal; so far:\n{said}");
        match terminal.read(&mut bytes) {
            // Linux says with EIO that no other end is open.
            Ok(0) | Err(_) => return,
            Ok(count) => said.push_str(&String::from_utf8_lossy(&bytes[..count])),
        }
    }
}
