//! Why a call, a link or the start of a link fails.

use std::time::Duration;
use std::{fmt, io};

use wire::agent::{Errno, Failure};
use wire::frame::{FrameError, NOISE_BYTES_MAX};
use wire::hello::Mismatch;

/// How much of what is not the protocol is shown in an error.
const NOISE_SHOWN_MAX: usize = 400;

/// Why a request has no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The machine has carried out nothing, for this reason.
    #[error("{}", describe(.0))]
    Failed(Failure),
    /// The link is gone. Whether the machine has carried the request out is not known.
    #[error(transparent)]
    Lost(#[from] LinkLost),
    /// The request is larger than the protocol allows and was not sent.
    #[error("request cannot be sent: {0}")]
    Unsendable(FrameError),
}

impl CallError {
    /// The machine's error number, if it is the machine that refused.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            CallError::Failed(failure) => Some(failure.errno),
            CallError::Lost(_) | CallError::Unsendable(_) => None,
        }
    }
}

fn describe(failure: &Failure) -> String {
    let errno = crate::errno::here(failure.errno);
    match failure.detail.as_str() {
        "" => errno.to_string(),
        detail => format!("{detail}: {errno}"),
    }
}

/// Why a link is no more. Told once to every request on it, and to every later one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkLost {
    /// The stream came to its end between two frames.
    #[error("the agent's stream ended")]
    Ended,
    /// The stream came to its end within a frame.
    #[error("the agent's stream was cut in the middle of a frame")]
    Cut,
    /// The system could not carry the stream.
    #[error("the agent's stream failed: {message}")]
    Io {
        /// What kind of failure.
        kind: io::ErrorKind,
        /// What the system said.
        message: String,
    },
    /// The peer does not keep the protocol.
    #[error("the agent broke the protocol: {0}")]
    Protocol(String),
    /// The agent said that it closes the stream, and why.
    #[error("the agent closed the stream: {0}")]
    Closing(String),
    /// Pings were not answered.
    #[error("the agent did not answer {missed} heartbeats in a row")]
    Silent {
        /// How many in a row.
        missed: u32,
    },
    /// This side closed it.
    #[error("the link was closed")]
    Closed,
}

impl From<io::Error> for LinkLost {
    fn from(error: io::Error) -> LinkLost {
        LinkLost::Io { kind: error.kind(), message: error.to_string() }
    }
}

impl From<FrameError> for LinkLost {
    fn from(error: FrameError) -> LinkLost {
        LinkLost::Protocol(error.to_string())
    }
}

/// What a peer said in place of the protocol. Shown escaped, so that it cannot move a terminal's cursor, and of a long
/// one only the end, where the reason usually is.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Noise(pub Vec<u8>);

impl Noise {
    /// Whether there is anything to show.
    pub fn is_blank(&self) -> bool {
        self.0.trim_ascii().is_empty()
    }
}

impl fmt::Display for Noise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let trimmed = self.0.trim_ascii();
        match trimmed.len().checked_sub(NOISE_SHOWN_MAX) {
            Some(cut) if cut > 0 => write!(f, "...{}", trimmed[cut..].escape_ascii()),
            _ => write!(f, "{}", trimmed.escape_ascii()),
        }
    }
}

impl fmt::Debug for Noise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

/// Why a stream did not become a link.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// What came is not the agent's protocol.
    #[error("{}", not_an_agent(noise, *ended))]
    NotAnAgent {
        /// What came instead.
        noise: Noise,
        /// Whether the stream ended; otherwise there was just too much.
        ended: bool,
    },
    /// Both sides speak the protocol, but not the same.
    #[error(transparent)]
    Mismatch(#[from] Mismatch),
    /// No hello within the time allowed.
    #[error("no agent answered within {} s{}", allowed.as_secs_f32(), after_noise(noise))]
    TimedOut {
        /// The time that was allowed.
        allowed: Duration,
        /// What came instead.
        noise: Noise,
    },
    /// The stream broke while the two sides were introducing themselves.
    #[error(transparent)]
    Lost(#[from] LinkLost),
}

fn not_an_agent(noise: &Noise, ended: bool) -> String {
    match (noise.is_blank(), ended) {
        (true, true) => "the stream ended before an agent answered".to_owned(),
        (false, true) => format!("the other side is not an agent; it said: {noise}"),
        (_, false) => {
            format!("more than {NOISE_BYTES_MAX} bytes came before an agent answered, at last: {noise}")
        }
    }
}

fn after_noise(noise: &Noise) -> String {
    match noise.is_blank() {
        true => String::new(),
        false => format!("; the other side said: {noise}"),
    }
}
