//! `daemon.*`: the daemon itself.

use serde::{Deserialize, Serialize};

use super::mount::Force;
use super::time::Timestamp;
use super::{EncodeError, ErrorKind, ErrorObject, PROTOCOL_MAX, PROTOCOL_MIN, SCHEMA_HASH};
use crate::bytestring::ByteString;
use crate::decode::DecodeError;

/// A client says which versions it speaks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The oldest protocol it speaks.
    pub protocol_min: u32,
    /// The newest protocol it speaks.
    pub protocol_max: u32,
    /// The client's own version.
    pub version: String,
    /// The definition of the API it was built with, as 16 hexadecimal digits.
    pub schema: String,
}

impl Hello {
    /// What this program says.
    pub fn ours() -> Hello {
        Hello {
            protocol_min: PROTOCOL_MIN,
            protocol_max: PROTOCOL_MAX,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            schema: our_schema(),
        }
    }

    /// What the daemon answers: the newest protocol that both speak, or an error that names both versions.
    pub fn answer(&self) -> Result<Welcome, ErrorObject> {
        let protocol = self.protocol_max.min(PROTOCOL_MAX);
        if protocol < self.protocol_min.max(PROTOCOL_MIN) {
            let ours = env!("CARGO_PKG_VERSION");
            let theirs: String = self.version.chars().take(64).flat_map(char::escape_debug).collect();
            return Err(ErrorObject::new(
                ErrorKind::Conflict,
                format!(
                    "the daemon is stead {ours} (protocol {PROTOCOL_MIN} to {PROTOCOL_MAX}), the client is stead \
                     {theirs} (protocol {} to {})",
                    self.protocol_min, self.protocol_max
                ),
            )
            .with_hint("stead daemon restart"));
        }
        Ok(Welcome { protocol, version: env!("CARGO_PKG_VERSION").to_owned(), schema: our_schema() })
    }
}

fn our_schema() -> String {
    format!("{SCHEMA_HASH:016x}")
}

/// The daemon's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// What both speak from now on.
    pub protocol: u32,
    /// The daemon's version.
    pub version: String,
    /// The definition of the API it was built with, as 16 hexadecimal digits.
    pub schema: String,
}

impl Welcome {
    /// Checked by our own client, whose messages the daemon must understand to the last field: a daemon of the same
    /// version that was built from another definition of the API is refused.
    pub fn check(&self) -> Result<(), ErrorObject> {
        let ours = env!("CARGO_PKG_VERSION");
        if self.version == ours && self.schema != our_schema() {
            return Err(ErrorObject::new(
                ErrorKind::Conflict,
                format!(
                    "the running daemon is another build of stead {ours} (API {}, here {})",
                    self.schema,
                    our_schema()
                ),
            )
            .with_hint("stead daemon restart"));
        }
        Ok(())
    }
}

/// Asks about the daemon.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Status {}

/// About the daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DaemonStatus {
    /// Its process.
    pub pid: u32,
    /// Its version.
    pub version: String,
    /// When it started.
    pub since: Timestamp,
    /// Where its state is.
    pub state_dir: ByteString,
    /// Where its sockets are.
    pub runtime_dir: ByteString,
    /// The file it logs to.
    pub log: ByteString,
    /// How many mounts it has.
    pub mounts: u64,
    /// How much memory it occupies.
    pub resident_bytes: u64,
}

/// Ends the daemon. Unless they are left to the next one, mounts are flushed and taken away first. Answered when that is
/// done; the process ends right after.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stop {
    /// What to do about unsaved writes and mounts in use. Without force a mount that cannot go keeps the daemon.
    #[serde(default)]
    pub force: Force,
    /// What becomes of the mounts.
    #[serde(default)]
    pub mounts: Fate,
}

/// What becomes of the mounts of a daemon that ends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// They are taken away.
    #[default]
    Unmounted,
    /// They go on, and the next daemon takes them over.
    Left,
}

/// The daemon ends.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stopped {
    /// Its process, to be waited for.
    pub pid: u32,
    /// What was kept aside, as in [`Removed`](super::mount::Removed).
    pub kept_aside: Vec<ByteString>,
}

/// What `stead daemon run --background` says on its standard output: one line of JSON, once, as soon as it is known.
/// Whoever starts it reads this line and needs neither to poll nor to sleep.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Announcement {
    /// The socket takes connections.
    Ready {
        /// The daemon's process.
        pid: u32,
    },
    /// It could not start, and ends. With [`ErrorKind::Conflict`] another daemon has the lock.
    Failed(ErrorObject),
}

/// The longest such line.
pub const ANNOUNCEMENT_BYTES_MAX: usize = 16 << 10;

impl Announcement {
    /// The line, newline included.
    pub fn to_line(&self) -> Result<Vec<u8>, EncodeError> {
        let what = "announcement";
        let mut line = serde_json::to_vec(self).map_err(|source| EncodeError::Json { what, source })?;
        line.push(b'\n');
        match line.len() > ANNOUNCEMENT_BYTES_MAX {
            true => Err(EncodeError::TooLong { what, bytes: line.len() }),
            false => Ok(line),
        }
    }

    /// Reads the line, with or without its newline.
    pub fn decode(line: &[u8]) -> Result<Announcement, DecodeError> {
        serde_json::from_slice(line).map_err(|reason| DecodeError::new::<Announcement>(line, reason))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_common_protocol_is_spoken() {
        let newer = Hello { protocol_max: PROTOCOL_MAX + 5, ..Hello::ours() };
        assert_eq!(newer.answer().unwrap().protocol, PROTOCOL_MAX);
    }

    #[test]
    fn without_a_common_protocol_both_versions_are_named() {
        let hello =
            Hello { protocol_min: 90, protocol_max: 91, version: "9.0\u{1b}".into(), schema: String::new() };
        let error = hello.answer().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict);
        assert!(error.message.contains(env!("CARGO_PKG_VERSION")), "{error}");
        assert!(error.message.contains("9.0\\u{1b} (protocol 90 to 91)"), "{error}");
        assert_eq!(error.hint(), Some("stead daemon restart"));
    }

    #[test]
    fn a_daemon_of_another_build_is_refused_by_the_client() {
        let welcome = Hello::ours().answer().unwrap();
        assert_eq!(welcome.check(), Ok(()));
        assert!(Welcome { schema: "0".into(), ..welcome }.check().is_err());
    }

    #[test]
    fn an_announcement_is_one_line_that_reads_back() {
        for announcement in [
            Announcement::Ready { pid: 7 },
            Announcement::Failed(ErrorObject::new(ErrorKind::Refused, "two\nlines").with_hint("no")),
        ] {
            let line = announcement.to_line().unwrap();
            assert_eq!(line.iter().filter(|&&byte| byte == b'\n').count(), 1);
            assert_eq!(Announcement::decode(&line), Ok(announcement));
        }
        assert!(Announcement::decode(b"").is_err());
    }
}
