//! Real keepers and real workers: this test program itself, run again with the name of one of the ignored tests below.

use std::io::{BufRead, BufReader, Read, Seek, Write};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::*;
use crate::process::Process;

const DEADLINE: Duration = Duration::from_secs(30);

fn again(test: &str) -> Launch {
    let test = format!("keeper::tests::{test}");
    let arguments = ["--ignored", "--exact", "--nocapture", "--test-threads=1", &test];
    Launch {
        program: std::env::current_exe().unwrap(),
        arguments: arguments.iter().map(OsString::from).collect(),
    }
}

/// What follows the name of the test.
fn inheritance() -> Inheritance {
    let arguments = std::env::args_os().skip_while(|argument| argument != "--test-threads=1").skip(2);
    // SAFETY: the test harness opens nothing that it was not started with, and these are named in the arguments.
    unsafe { Inheritance::take(arguments) }.unwrap()
}

#[test]
#[ignore = "run by the other tests as a keeper"]
fn play_keeper() {
    let inheritance = inheritance();
    let directory = inheritance.directory.clone();
    run(inheritance, |reason| std::fs::write(directory.join("on-failure"), reason).unwrap()).unwrap();
}

#[test]
#[ignore = "run by a keeper as its worker"]
fn play_worker() {
    let inheritance = inheritance();
    let directory = inheritance.directory.clone();
    if directory.join("die-at-once").exists() {
        eprintln!("this world is not for me");
        std::process::exit(4);
    }
    // As real ones do: where `/proc` hides other processes, such a one is not found there.
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable).unwrap();
    let mut inheritance = inheritance;
    let spares = std::mem::take(&mut inheritance.spares);
    let (tether, control, kept) = Tether::new(inheritance).unwrap();
    let tether = std::sync::Arc::new(tether);
    let minding = tether.clone();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(minding.mind());
    });
    let mut files: Vec<std::fs::File> = kept.into_iter().map(|kept| kept.descriptor.into()).collect();
    for stream in UnixListener::from(control).incoming() {
        let stream = stream.unwrap();
        let mut command = String::new();
        // Whoever went away before he was accepted said nothing.
        if BufReader::new(&stream).read_line(&mut command).is_err() {
            continue;
        }
        match command.trim() {
            "keep" => {
                files.push(tempfile::tempfile().unwrap());
                tether.hand_over("file", &[files.last().unwrap().as_fd()]).unwrap();
            }
            "spare" => {
                let spare = tempfile::tempfile().unwrap();
                (&spare).write_all(format!("{} of {}", spares.len(), std::process::id()).as_bytes()).unwrap();
                tether.put_aside("spare", &[spare.as_fd()]).unwrap();
            }
            "no-spare" => tether.put_aside("spare", &[]).unwrap(),
            "spares" => {
                let mut found = String::new();
                for spare in &spares {
                    let mut file = std::fs::File::from(spare.descriptor.try_clone().unwrap());
                    file.rewind().unwrap();
                    file.read_to_string(&mut found).unwrap();
                }
                let _ = (&stream).write_all(format!("{found}\n").as_bytes());
                continue;
            }
            "progress" => tether.progress(),
            "leave" => tether.leaving(),
            "exit" => std::process::exit(3),
            "who" => {}
            "write" => files[0].write_all(b"x").unwrap(),
            _ => continue,
        }
        let content = files.first_mut().map(|file| {
            let mut text = String::new();
            file.rewind().unwrap();
            file.read_to_string(&mut text).unwrap();
            text
        });
        let answer = format!(
            "{} {} {} {}\n",
            std::process::id(),
            tether.restarts(),
            files.len(),
            content.unwrap_or_default()
        );
        let _ = (&stream).write_all(answer.as_bytes());
        if command.trim() == "leave" {
            return;
        }
    }
}

/// A mount's directory with a keeper. The keeper, and its worker, are ended when this is dropped.
struct Life {
    directory: tempfile::TempDir,
    keeper: Process,
}

/// What a worker answers.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Answer {
    pid: u32,
    restarts: u32,
    files: usize,
    content: String,
}

impl Life {
    fn begin(prepare: impl FnOnce(&Path)) -> Life {
        let directory = tempfile::tempdir().unwrap();
        prepare(directory.path());
        let plan = Plan {
            token: Token::random().unwrap(),
            keeper: again("play_keeper"),
            worker: again("play_worker"),
        };
        plan.write(directory.path()).unwrap();
        let keeper = super::begin(directory.path(), None).unwrap().inherit_all_variables().spawn().unwrap();
        Life { directory, keeper }
    }

    fn ask(&self, command: &str) -> Option<Answer> {
        let stream = crate::socket::connect_in(self.directory.path(), CONTROL_SOCKET).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        (&stream).write_all(format!("{command}\n").as_bytes()).ok()?;
        answer(&stream)
    }

    /// One line of an answer that is none of those.
    fn line(&self, command: &str) -> String {
        let stream = crate::socket::connect_in(self.directory.path(), CONTROL_SOCKET).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        (&stream).write_all(format!("{command}\n").as_bytes()).unwrap();
        let mut line = String::new();
        BufReader::new(&stream).read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// A worker that dies may take with it whom it had just accepted.
    fn tell(&self, command: &str) -> Answer {
        let deadline = Instant::now() + DEADLINE;
        loop {
            match self.ask(command) {
                Some(answer) => return answer,
                None => assert!(Instant::now() < deadline, "no worker answers"),
            }
        }
    }

    /// A status that is as wanted.
    async fn status(&self, wanted: impl Fn(&Status) -> bool) -> Status {
        let waiting = async {
            loop {
                let Ok(mut client) = Client::connect(self.directory.path()) else {
                    tokio::task::yield_now().await;
                    continue;
                };
                while let Some(status) = client.next().await.unwrap() {
                    if wanted(&status) {
                        return status;
                    }
                }
            }
        };
        tokio::time::timeout(DEADLINE, waiting).await.expect("not within the deadline")
    }

    async fn command(&self, command: Command) {
        Client::connect(self.directory.path()).unwrap().tell(command).await.unwrap();
    }

    fn file(&self, name: &str) -> Option<String> {
        std::fs::read_to_string(self.directory.path().join(name)).ok()
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        Plan::withdraw(self.directory.path()).unwrap();
        let Ok(stream) = crate::socket::connect_in(self.directory.path(), KEEPER_SOCKET) else { return };
        let _ = (&stream).write_all(b"{\"do\":\"end\"}\n");
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let _ended = std::io::copy(&mut &stream, &mut std::io::sink());
    }
}

fn answer(stream: &UnixStream) -> Option<Answer> {
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).ok()?;
    let mut words = line.strip_suffix('\n')?.split(' ');
    Some(Answer {
        pid: words.next()?.parse().ok()?,
        restarts: words.next()?.parse().ok()?,
        files: words.next()?.parse().ok()?,
        content: words.next()?.to_owned(),
    })
}

fn kill(pid: u32) {
    kill_process(Pid::from_raw(pid as i32).unwrap(), Signal::KILL).unwrap();
}

fn is_running(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    !stat.is_empty() && !stat.contains(") Z ")
}

fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < deadline, "{what}: not within the deadline");
        std::thread::park_timeout(Duration::from_millis(2));
    }
}

#[tokio::test]
async fn a_killed_worker_has_a_successor_with_the_same_descriptors() {
    let life = Life::begin(|_| {});
    life.tell("keep");
    let before = life.tell("write");
    assert_eq!((before.files, before.content.as_str()), (1, "x"));
    let at = Instant::now();
    kill(before.pid);
    let after = life.tell("write");
    assert!(at.elapsed() < Duration::from_secs(2), "{:?}", at.elapsed());
    assert_ne!(after.pid, before.pid);
    assert_eq!((after.restarts, after.files, after.content.as_str()), (1, 1, "xx"));

    let status = life.status(|status| status.restarts == 1 && status.state == State::Running).await;
    assert_eq!((status.worker.unwrap().pid, status.state), (after.pid, State::Running));
    eventually("the report is there", || life.file("crash-1.txt").is_some());
    let report = life.file("crash-1.txt").unwrap();
    assert!(report.contains(&format!("worker {} ended with signal 9", before.pid)), "{report}");
}

#[tokio::test]
async fn a_spare_goes_to_the_next_worker_and_to_nobody_after_it() {
    let life = Life::begin(|_| {});
    life.tell("keep");
    life.tell("spare");
    // A later one takes its place.
    let first = life.tell("spare");
    kill(first.pid);
    let second = life.tell("who");
    assert_eq!(life.line("spares"), format!("0 of {}", first.pid));
    kill(second.pid);
    let third = life.tell("spare");
    assert_eq!(life.line("spares"), "");
    life.tell("no-spare");
    kill(third.pid);
    life.tell("who");
    assert_eq!(life.line("spares"), "");
}

#[tokio::test]
async fn a_spare_alone_is_no_reason_for_a_successor() {
    let mut life = Life::begin(|_| {});
    let worker = life.tell("spare");
    kill(worker.pid);
    life.keeper.exited().await.unwrap();
    assert!(life.file(FAILED).is_some());
}

#[tokio::test]
async fn a_worker_that_leaves_takes_its_keeper_along() {
    let mut life = Life::begin(|_| {});
    life.tell("keep");
    let worker = life.tell("leave");
    assert_eq!(life.keeper.exited().await.unwrap(), crate::Exit::Code(0));
    assert!(!is_running(worker.pid));
    assert!(life.file(FAILED).is_none() && life.file("on-failure").is_none());
}

#[tokio::test]
async fn a_first_worker_that_dies_before_anything_is_kept_has_no_successor() {
    let mut life = Life::begin(|directory| std::fs::write(directory.join("die-at-once"), "").unwrap());
    life.keeper.exited().await.unwrap();
    let reason = "its worker ended with status 4: this world is not for me";
    assert_eq!(life.file(FAILED).as_deref(), Some(reason));
    assert_eq!(life.file("on-failure").as_deref(), Some(reason));
}

#[tokio::test]
async fn workers_that_die_again_and_again_without_progress_are_given_up() {
    let mut life = Life::begin(|_| {});
    let first = life.tell("keep");
    let mut client = Client::connect(life.directory.path()).unwrap();
    std::fs::write(life.directory.path().join("die-at-once"), "").unwrap();
    kill(first.pid);
    let mut last = None;
    while let Some(status) = client.next().await.unwrap() {
        last = Some(status);
    }
    let last = last.unwrap();
    assert_eq!(last.restarts, DEATHS_MAX - 1);
    let State::Failed { reason } = last.state else { panic!("{last:?}") };
    assert_eq!(reason, "its worker ended with status 4: this world is not for me");
    life.keeper.exited().await.unwrap();
    assert_eq!(life.file(FAILED), Some(reason));
    // Nobody listens any more.
    assert!(crate::socket::connect_in(life.directory.path(), CONTROL_SOCKET).is_err());
}

#[tokio::test]
async fn deaths_with_progress_between_them_go_on_for_ever() {
    let life = Life::begin(|_| {});
    life.tell("keep");
    for round in 0..3 * DEATHS_MAX {
        let worker = life.tell("progress");
        assert_eq!(worker.restarts, round);
        kill(worker.pid);
    }
    assert_eq!(life.tell("who").restarts, 3 * DEATHS_MAX);
    assert!(life.file("crash-1.txt").is_none(), "old reports are removed");
}

#[tokio::test]
async fn a_killed_keeper_is_replaced_by_the_worker_and_goes_on_from_there() {
    let mut life = Life::begin(|_| {});
    life.tell("keep");
    let worker = life.tell("write");
    kill(worker.pid);
    let worker = life.tell("who");
    let token = life.status(|_| true).await.token;
    for _ in 0..3 {
        let old = life.status(|status| status.worker.map(|worker| worker.pid) == Some(worker.pid)).await;
        kill(old.keeper.pid);
        let new = life.status(|status| status.keeper.pid != old.keeper.pid).await;
        assert_eq!((new.token, new.restarts), (token, 1));
        assert_eq!(life.tell("who"), worker, "the worker has not noticed anything");
    }
    life.keeper.exited().await.unwrap();
    kill(worker.pid);
    let after = life.tell("write");
    assert_eq!((after.restarts, after.files, after.content.as_str()), (2, 1, "xx"));
}

#[tokio::test]
async fn a_worker_that_hangs_is_replaced_when_the_keeper_is_told() {
    let life = Life::begin(|_| {});
    let worker = life.tell("keep");
    kill_process(Pid::from_raw(worker.pid as i32).unwrap(), Signal::STOP).unwrap();
    life.command(Command::TakeOver).await;
    let status = life.status(|status| status.restarts == 1 && status.state == State::Running).await;
    assert_ne!(status.worker.unwrap().pid, worker.pid);
    assert_eq!(life.tell("who").files, 1);
}

#[tokio::test]
async fn a_keeper_that_is_told_to_end_ends_both() {
    let mut life = Life::begin(|_| {});
    let worker = life.tell("keep");
    life.command(Command::End).await;
    assert_eq!(life.keeper.exited().await.unwrap(), crate::Exit::Code(0));
    assert!(!is_running(worker.pid));
    assert!(life.file(FAILED).is_none());
}

#[tokio::test]
async fn without_a_plan_nobody_is_started_any_more() {
    let mut life = Life::begin(|_| {});
    let worker = life.tell("keep");
    Plan::withdraw(life.directory.path()).unwrap();
    kill(worker.pid);
    assert_eq!(life.keeper.exited().await.unwrap(), crate::Exit::Code(0));
}

#[tokio::test]
async fn what_a_worker_leaves_behind_is_reaped() {
    let life = Life::begin(|_| {});
    let worker = life.tell("keep");
    kill(worker.pid);
    let next = life.tell("who");
    eventually("only the worker is there", || children_of(life.keeper.pid()) == [next.pid]);
}

/// Also those that have ended and were not reaped.
fn children_of(pid: u32) -> Vec<u32> {
    let mut children = Vec::new();
    for task in std::fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
        let listed = std::fs::read_to_string(task.unwrap().path().join("children")).unwrap_or_default();
        children.extend(listed.split_whitespace().map(|pid| pid.parse::<u32>().unwrap()));
    }
    children
}
