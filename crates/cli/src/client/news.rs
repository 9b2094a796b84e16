//! What goes wrong and right again while a person waits for something else.
//!
//! It is heard over a connection of its own: whoever waits for the answer to a request reads that one.

use std::collections::HashSet;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::event::{PollFd, PollFlags, poll};
use wire::api::ServerNotification;
use wire::api::event::{Event, Happened, MountWord, Subscribe, Topic};
use wire::api::machine::Machine;
use wire::api::status::ConnectionState;

use crate::client::Client;
use crate::context::Context;
use crate::output::text::one_line;

/// Follows connections to some machines, and mounts.
pub struct News {
    client: Client,
    machines: Vec<Machine>,
    /// What is in trouble, as far as it was told: only then is it news that it is well again.
    troubled: HashSet<String>,
    is_over: bool,
}

impl News {
    /// Follows what happens from now on: connections to these machines, and mounts if these are a `topic` of the
    /// command. None where no person would see it, or the daemon does not tell: it is no reason for a command to fail.
    pub fn follow(context: &Context, machines: Vec<Machine>, topics: &[Topic]) -> Option<News> {
        if !context.output.shows_progress() {
            return None;
        }
        let client = context.running_daemon().ok()??;
        client.call(Subscribe { topics: topics.to_vec() }).ok()?;
        Some(News { client, machines, troubled: HashSet::new(), is_over: false })
    }

    /// What has happened since it was asked last, a line each. Does not wait.
    pub fn take(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        while !self.is_over {
            match self.client.take_notification() {
                Ok(Some(ServerNotification::EventHappened(notice))) => lines.extend(self.line(&notice.event)),
                Ok(Some(_)) => {}
                Ok(None) if self.is_readable() => self.is_over = self.client.read_ready().is_err(),
                Ok(None) => break,
                // Its end is told by the connection that the command itself has.
                Err(_) => self.is_over = true,
            }
        }
        lines
    }

    /// Whether something is in trouble, as far as it was told.
    pub fn is_troubled(&self) -> bool {
        !self.troubled.is_empty()
    }

    /// Something to wait for, as long as there is anything to hear.
    pub fn source(&self) -> Option<BorrowedFd<'_>> {
        (!self.is_over).then(|| self.client.as_fd())
    }

    fn is_readable(&self) -> bool {
        let now = rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 };
        matches!(poll(&mut [PollFd::new(&self.client, PollFlags::IN)], Some(&now)), Ok(1..))
    }

    fn line(&mut self, event: &Event) -> Option<String> {
        let (what, is_well) = match &event.happened {
            Happened::Connection { machine, .. } if !self.machines.contains(machine) => return None,
            // Being opened for the first time is no trouble.
            Happened::Connection { state: ConnectionState::Connecting, .. } => return None,
            Happened::Connection { machine, state, .. } => {
                (format!("connection to {machine}"), *state == ConnectionState::Connected)
            }
            Happened::Mount { dir, state, .. } => {
                (format!("mount {dir}"), matches!(state, MountWord::Active | MountWord::Unmounted))
            }
            Happened::Process { .. }
            | Happened::Tunnel { .. }
            | Happened::Thread { .. }
            | Happened::Vm { .. }
            | Happened::Operation { .. } => return None,
        };
        let id = event.happened.id();
        let is_news = match is_well {
            true => self.troubled.remove(&id),
            false => {
                self.troubled.insert(id);
                true
            }
        };
        let why = event.happened.reason().map(|why| format!(": {}", one_line(why))).unwrap_or_default();
        is_news.then(|| format!("note: {what} is {}{why}", event.happened.word().replace('_', " ")))
    }
}
