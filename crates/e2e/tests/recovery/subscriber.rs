//! Somebody who hears of what happens.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use e2e::faults::field::Field;
use serde_json::Value;

/// `stead events --json`, at work.
pub struct Events {
    program: Child,
    lines: Receiver<Value>,
    last: Option<u64>,
}

impl Events {
    pub fn of(field: &Field) -> Events {
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

    /// The next event.
    pub fn next(&mut self, deadline: Duration) -> Option<Value> {
        let event = self.lines.recv_timeout(deadline).ok()?;
        let seq = event["seq"].as_u64().unwrap_or_else(|| panic!("an event without a number: {event}"));
        assert!(self.last.is_none_or(|last| seq == last + 1), "{:?} before {event}", self.last);
        self.last = Some(seq);
        Some(event)
    }

    /// The next event about mounts, as its state.
    pub fn next_of_mount(&mut self, deadline: Duration) -> Option<String> {
        let end = Instant::now() + deadline;
        loop {
            let event = self.next(end.saturating_duration_since(Instant::now()))?;
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
