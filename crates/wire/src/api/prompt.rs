//! Questions that a person has to answer: a password, a passphrase, a host key.
//!
//! ```text
//!   ssh ── runs ──► askpass program ── prompt.request{ticket} ──► daemon ── prompt.ask ──► the terminal that caused it
//!                                   ◄── prompt.Reply ────────────        ◄── prompt.answer
//! ```
//!
//! The daemon gives a ticket to the ssh it starts for a request of a client that can be asked. A background reconnect
//! has no ticket, and so cannot prompt.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::id::PromptId;

/// How the names of these messages begin: lines that hold it are never quoted in an error.
pub(super) const NOUN: &str = "prompt.";

/// The environment variable that carries the ticket to the askpass program.
pub const TICKET_VARIABLE: &str = "STEAD_ASKPASS_TICKET";

/// The environment variable that carries the daemon's socket to the askpass program.
pub const SOCKET_VARIABLE: &str = "STEAD_ASKPASS_SOCKET";

/// A text that must not be shown: its `Debug` is redacted, it has no `Display`, and its bytes are overwritten when it
/// is dropped.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Takes the text.
    pub fn new(text: String) -> Secret {
        Secret(text)
    }

    /// The text itself. The caller must neither log nor store it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(redacted)")
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        let mut bytes = std::mem::take(&mut self.0).into_bytes();
        bytes.fill(0);
        // Keeps the store above from being removed as dead.
        std::hint::black_box(&bytes);
    }
}

/// How a prompt is to be put.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PromptKind {
    /// Read a line without showing it: a password, a passphrase, a one-time code.
    Secret,
    /// Read a line and show it, such as `yes` for a new host key.
    Line,
    /// Only show the text: a touch of a security key is awaited. Answered by the client with an empty text.
    Notice,
}

/// From the daemon to the client: somebody has to answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ask {
    /// To be repeated in the answer.
    pub prompt: PromptId,
    /// How to put it.
    pub kind: PromptKind,
    /// The question as ssh wrote it. It comes from another machine: control characters are not to be passed on.
    pub text: String,
}

/// From the client to the daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Answer {
    /// Which prompt.
    pub prompt: PromptId,
    /// What was typed; none when the user declined or there is no terminal.
    pub answer: Option<Secret>,
}

/// From the askpass program to the daemon: ask whoever holds this ticket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// What [`TICKET_VARIABLE`] holds.
    pub ticket: Secret,
    /// How to put it.
    pub kind: PromptKind,
    /// The question.
    pub text: String,
}

/// From the daemon to the askpass program. A refusal is an error of kind `interrupted`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// What was typed.
    pub answer: Secret,
}
