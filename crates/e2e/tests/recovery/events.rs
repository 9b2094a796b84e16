//! Each death is told once, in order, soon.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use e2e::faults::field::Field;
use e2e::faults::role::Role;
use e2e::{Kind, eventually};
use serde_json::Value;

/// What a subscriber is promised.
const TOLD_MAX: Duration = Duration::from_secs(1);

const SOON: Duration = Duration::from_secs(40);

/// `stead events --json`, at work.
struct Events {
    program: Child,
    lines: Receiver<Value>,
    last: Option<u64>,
}

impl Events {
    fn of(field: &Field) -> Events {
        let mut program = Command::new(e2e::stead::stead_bin())
            .args(["events", "--json"])
            .env("STEAD_HOME", field.stead().home())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(program.stdout.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                // The test has ended when nobody listens.
                let _unheard = sender.send(serde_json::from_str(&line).unwrap());
            }
        });
        Events { program, lines, last: None }
    }

    /// The next event about mounts, as its state.
    fn next(&mut self, deadline: Duration) -> Option<String> {
        let end = Instant::now() + deadline;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let event = self.lines.recv_timeout(left).ok()?;
            let seq = event["seq"].as_u64().unwrap_or_else(|| panic!("an event without a number: {event}"));
            assert!(self.last.is_none_or(|last| seq == last + 1), "{:?} before {event}", self.last);
            self.last = Some(seq);
            if event["topic"] == "mount" {
                return Some(event["state"].as_str().unwrap().to_owned());
            }
        }
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        let _gone = self.program.kill();
        self.program.wait().unwrap();
    }
}

/// A subscriber hears of what happens from the moment it has subscribed; a mount that comes and goes tells when.
fn subscribed(field: &Field) -> Events {
    let mut events = Events::of(field);
    let (far, dir) = (field.stead().dir("other-far"), field.stead().dir("other"));
    eventually(SOON, "the subscriber hears something", || {
        let mount = field.stead().mount(format!("host:{}", far.display()), &dir, &[]);
        field.stead().unmount(&mount);
        events.next(Duration::from_millis(200)).is_some()
    });
    while events.next(Duration::from_millis(500)).is_some() {}
    events
}

#[test]
fn a_death_of_a_worker_is_told_once_and_in_order() {
    let field = Field::new(Kind::Host, &[]);
    let mut events = subscribed(&field);
    for _ in 0..3 {
        let former = field.kill(Role::Worker);
        assert_eq!(events.next(TOLD_MAX).as_deref(), Some("recovering"));
        assert_eq!(events.next(TOLD_MAX).as_deref(), Some("active"));
        assert!(fs::read_dir(&field.dir).is_ok());
        field.successor(Role::Worker, &former);
        assert_eq!(events.next(TOLD_MAX), None, "nothing else happened");
    }
}

#[test]
fn a_cut_is_told_once_and_in_order() {
    let field = Field::new(Kind::Ssh, &[]);
    let mut events = subscribed(&field);
    field.proxy().cut();
    assert_eq!(events.next(TOLD_MAX).as_deref(), Some("reconnecting"));
    field.proxy().mend();
    assert_eq!(events.next(SOON).as_deref(), Some("active"));
    assert_eq!(events.next(TOLD_MAX), None, "nothing else happened");
}
