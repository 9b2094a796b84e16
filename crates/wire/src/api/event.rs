//! `event.*`: what happens to what the daemon owns, told as it happens.
//!
//! ```text
//!   client                                daemon
//!     │ event.subscribe{topics} ─────────► │
//!     │ ◄──────────── reply: Subscribed    │      events from here on
//!     │ ◄───────────── event.happened      │      in order, each once
//!     │ ◄─────────────── event.missed      │      where events were dropped: the client read too slowly
//!     │ event.unsubscribe ───────────────► │
//! ```
//!
//! Numbers (`seq`) rise by one with each event of the daemon, of whatever topic, and begin anew with each daemon. A
//! state word is the one that the status shows at that moment, but for the words that only an event can have: a mount
//! that is gone, a worker that is being replaced.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::id::{ConnectionId, MountId, OperationId, ProcessId, SubscriptionId, TunnelId};
use super::machine::Machine;
use super::mount::UnknownWord;
use super::status::ConnectionState;
use super::time::Timestamp;
use crate::bytestring::ByteString;

/// The most subscriptions of one client.
pub const SUBSCRIPTIONS_MAX: usize = 16;

/// How many events wait for one subscription. The oldest ones are dropped beyond it, and the subscriber is told how
/// many: a burst of all mounts of a laptop that wakes up fits.
pub const EVENTS_WAITING_MAX: usize = 1024;

/// What events are about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Topic {
    /// Every event.
    All,
    /// Links to machines.
    Connection,
    /// Mounts.
    Mount,
    /// Processes on machines.
    Process,
    /// Tunnels.
    Tunnel,
    /// Threads.
    Thread,
    /// MicroVMs.
    Vm,
    /// What takes longer than a second.
    Operation,
}

impl Topic {
    /// All choices.
    pub const ALL: &'static [Topic] = &[
        Topic::All,
        Topic::Connection,
        Topic::Mount,
        Topic::Process,
        Topic::Tunnel,
        Topic::Thread,
        Topic::Vm,
        Topic::Operation,
    ];

    const NAMES: &'static [&'static str] =
        &["all", "connection", "mount", "process", "tunnel", "thread", "vm", "operation"];

    /// The word in JSON and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Topic::All => "all",
            Topic::Connection => "connection",
            Topic::Mount => "mount",
            Topic::Process => "process",
            Topic::Tunnel => "tunnel",
            Topic::Thread => "thread",
            Topic::Vm => "vm",
            Topic::Operation => "operation",
        }
    }

    /// Whether who wants this topic wants that event.
    pub fn covers(self, happened: &Happened) -> bool {
        self == Topic::All || self == happened.topic()
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Topic {
    type Err = UnknownWord;

    fn from_str(text: &str) -> Result<Topic, UnknownWord> {
        let found = Topic::ALL.iter().find(|topic| topic.name() == text);
        found.copied().ok_or_else(|| UnknownWord::new("topic", text, Topic::NAMES))
    }
}

/// One event: `{"topic":"mount","id":"m1","state":"reconnecting",…,"at":"…","seq":17}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// What happened, to what.
    #[serde(flatten)]
    pub happened: Happened,
    /// When.
    pub at: Timestamp,
    /// Its number.
    pub seq: u64,
}

/// Everything that is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "topic", rename_all = "snake_case")]
pub enum Happened {
    /// A link entered a state.
    Connection {
        /// Which.
        id: ConnectionId,
        /// Where it leads.
        machine: Machine,
        /// What it is now.
        state: ConnectionState,
        /// Why, in one line.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// Something happened to a mount.
    Mount {
        /// Which.
        id: MountId,
        /// Where it is.
        dir: ByteString,
        /// What it is now.
        state: MountWord,
        /// Why, in one line.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
        /// With [`MountWord::KeptAside`]: the local path of what was kept.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        path: Option<ByteString>,
        /// With [`MountWord::KeptAside`]: the file of which it is, where it was kept beside that.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        of: Option<ByteString>,
    },
    /// A process on a machine entered a state.
    Process {
        /// Which.
        id: ProcessId,
        /// Where it runs.
        machine: Machine,
        /// What it is now.
        state: ProcessState,
        /// What it exited with, as a shell would say it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        code: Option<u8>,
    },
    /// A tunnel entered a state.
    Tunnel {
        /// Which.
        id: TunnelId,
        /// Where it leads.
        machine: Machine,
        /// What it is now.
        state: TunnelState,
        /// Why it was closed, in one line, if nobody asked for that.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// A thread entered a state.
    Thread {
        /// Its name.
        id: String,
        /// What it is now.
        state: ThreadState,
    },
    /// A microVM entered a state.
    Vm {
        /// Its name.
        id: String,
        /// What it is now.
        state: VmState,
        /// Why, in one line.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// An operation entered a state.
    Operation {
        /// Which.
        id: OperationId,
        /// What it is now.
        state: OperationState,
        /// The part of it that begins.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        stage: Option<String>,
        /// Why it failed, in one line.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
}

impl Happened {
    /// What it is about.
    pub fn topic(&self) -> Topic {
        match self {
            Happened::Connection { .. } => Topic::Connection,
            Happened::Mount { .. } => Topic::Mount,
            Happened::Process { .. } => Topic::Process,
            Happened::Tunnel { .. } => Topic::Tunnel,
            Happened::Thread { .. } => Topic::Thread,
            Happened::Vm { .. } => Topic::Vm,
            Happened::Operation { .. } => Topic::Operation,
        }
    }

    /// The id of what it is about.
    pub fn id(&self) -> String {
        match self {
            Happened::Connection { id, .. } => id.to_string(),
            Happened::Mount { id, .. } => id.to_string(),
            Happened::Process { id, .. } => id.to_string(),
            Happened::Tunnel { id, .. } => id.to_string(),
            Happened::Operation { id, .. } => id.to_string(),
            Happened::Thread { id, .. } | Happened::Vm { id, .. } => id.clone(),
        }
    }

    /// Why, in one line, where there is a reason.
    pub fn reason(&self) -> Option<&str> {
        match self {
            Happened::Connection { reason, .. }
            | Happened::Mount { reason, .. }
            | Happened::Tunnel { reason, .. }
            | Happened::Vm { reason, .. }
            | Happened::Operation { reason, .. } => reason.as_deref(),
            Happened::Process { .. } | Happened::Thread { .. } => None,
        }
    }

    /// The state word.
    pub fn word(&self) -> &'static str {
        match self {
            Happened::Connection { state, .. } => state.name(),
            Happened::Mount { state, .. } => state.name(),
            Happened::Process { state, .. } => state.name(),
            Happened::Tunnel { state, .. } => state.name(),
            Happened::Thread { state, .. } => state.name(),
            Happened::Vm { state, .. } => state.name(),
            Happened::Operation { state, .. } => state.name(),
        }
    }
}

macro_rules! words {
    ($(#[$outer:meta])* $type:ident { $($(#[$doc:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$outer])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum $type {
            $($(#[$doc])* #[serde(rename = $word)] $variant,)+
        }

        impl $type {
            /// The word in JSON.
            pub const fn name(self) -> &'static str {
                match self { $($type::$variant => $word),+ }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.name())
            }
        }
    };
}

words! {
    /// What an event says of a mount.
    MountWord {
        /// It serves, and the machine is there.
        Active = "active",
        /// It serves, with something amiss that the reason says.
        Degraded = "degraded",
        /// The link is lost and being opened again.
        Reconnecting = "reconnecting",
        /// The link is lost, and nobody is trying.
        Disconnected = "disconnected",
        /// Its worker died or hangs, and another one takes its place. Requests wait meanwhile.
        Recovering = "recovering",
        /// What could not be applied on the machine was kept in a file here, or in a new one there.
        KeptAside = "kept_aside",
        /// It is over: unmount, and mount again.
        Failed = "failed",
        /// It is gone.
        Unmounted = "unmounted",
    }
}

words! {
    /// Where a process is in its life.
    ProcessState {
        /// It runs.
        Running = "running",
        /// It runs, and goes on without the command that started it.
        Detached = "detached",
        /// It has ended, and how is known.
        Exited = "exited",
        /// How it ended is not known: the link to it was lost or closed.
        Lost = "lost",
    }
}

words! {
    /// Where a tunnel is in its life.
    TunnelState {
        /// Connections are accepted.
        Open = "open",
        /// It is gone.
        Closed = "closed",
    }
}

words! {
    /// Where a thread is in its life.
    ThreadState {
        /// It is being made, and only its maker may use it.
        Making = "making",
        /// It is there.
        Open = "open",
        /// It is being removed.
        Dropping = "dropping",
        /// It is gone.
        Dropped = "dropped",
    }
}

words! {
    /// Where a microVM is in its life.
    VmState {
        /// Its disk is being made.
        Creating = "creating",
        /// It does not run.
        Stopped = "stopped",
        /// Its VMM runs, and its agent cannot be reached yet.
        Starting = "starting",
        /// Its agent can be reached.
        Running = "running",
        /// It has been told to power off.
        Stopping = "stopping",
        /// It does not run, and nobody wanted that.
        Failed = "failed",
        /// It is gone.
        Deleted = "deleted",
    }
}

words! {
    /// Where an operation is in its life.
    OperationState {
        /// It goes on.
        Running = "running",
        /// It came to its end.
        Succeeded = "succeeded",
        /// It could not be done.
        Failed = "failed",
        /// It was told to end.
        Cancelled = "cancelled",
    }
}

/// Asks for events from now on. Answered before the first of them is sent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Subscribe {
    /// What about; everything when it is empty.
    #[serde(default)]
    pub topics: Vec<Topic>,
}

/// Events follow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subscribed {
    /// What the notifications call it.
    pub subscription: SubscriptionId,
    /// The number of the last event before it.
    pub seq: u64,
}

/// Asks for no more events. Those on their way still arrive before the answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Unsubscribe {
    /// Which subscription.
    pub subscription: SubscriptionId,
}

/// No event follows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unsubscribed {}

/// An event for a subscriber.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    /// Whose.
    pub subscription: SubscriptionId,
    /// The event.
    pub event: Event,
}

/// Events that a subscriber did not get, between the one before and the one after this.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missed {
    /// Whose.
    pub subscription: SubscriptionId,
    /// How many.
    pub missed: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reconnecting() -> Event {
        let happened = Happened::Mount {
            id: MountId::new(1),
            dir: "/src".into(),
            state: MountWord::Reconnecting,
            reason: None,
            path: None,
            of: None,
        };
        Event { happened, at: Timestamp::from_unix(1_767_225_600), seq: 17 }
    }

    #[test]
    fn an_event_is_the_documented_line_and_reads_back() {
        let line = serde_json::to_string(&reconnecting()).unwrap();
        let documented = r#"{"topic":"mount","id":"m1","dir":"/src","state":"reconnecting","at":"2026-01-01T00:00:00Z","seq":17}"#;
        assert_eq!(line, documented);
        assert_eq!(serde_json::from_str::<Event>(&line).unwrap(), reconnecting());
    }

    #[test]
    fn a_topic_covers_its_own_events_and_all_covers_every_one() {
        let happened = reconnecting().happened;
        let covering: Vec<&str> =
            Topic::ALL.iter().filter(|topic| topic.covers(&happened)).map(|topic| topic.name()).collect();
        assert_eq!(covering, ["all", "mount"]);
    }

    #[test]
    fn a_topic_is_the_word_on_the_command_line_and_in_json() {
        for topic in Topic::ALL {
            assert_eq!(serde_json::to_string(topic).unwrap(), format!("\"{topic}\""));
            assert_eq!(topic.name().parse(), Ok(*topic));
        }
        let error = "weather".parse::<Topic>().unwrap_err();
        assert!(error.to_string().contains("all, connection, mount"), "{error}");
    }
}
