//! `mount.*`: directories here that show a machine's files.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::id::MountId;
use super::machine::{Caller, Reconnect, Source};
use super::status::Mount;
use crate::bytestring::ByteString;

/// The most backend options one mount takes, and the longest key or value: what a person writes stays far below.
pub const OPTIONS_MAX: usize = 64;
/// The longest key or value of a backend option.
pub const OPTION_BYTES_MAX: usize = 1024;

/// Shows `source` as a directory. Answered once the directory serves. On failure nothing is left behind.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Create {
    /// What to show.
    pub source: Source,
    /// Where; relative to the caller's directory. An empty directory, or a name that does not exist yet in a directory
    /// that does. Without it the daemon picks a directory named after the source.
    #[serde(default)]
    pub dir: Option<ByteString>,
    /// How to serve it.
    #[serde(default)]
    pub backend: Backend,
    /// Whether it may be written to.
    #[serde(default)]
    pub access: Access,
    /// What `close` waits for.
    #[serde(default)]
    pub sync: SyncMode,
    /// Whether a lost link is opened again.
    #[serde(default)]
    pub reconnect: Reconnect,
    /// Time between two heartbeats of the mount's link, in milliseconds; the daemon's default without one.
    #[serde(default)]
    pub heartbeat_interval_ms: Option<u64>,
    /// How many heartbeats in a row may go unanswered before the link counts as lost; 0 for any number, the daemon's
    /// default without one.
    #[serde(default)]
    pub max_heartbeat_failures: Option<u32>,
    /// Options of the backend, `-o KEY=VALUE`. An option that the backend does not know is refused.
    #[serde(default)]
    pub options: BTreeMap<String, String>,
    /// Who asks.
    pub caller: Caller,
}

impl Create {
    /// With all that can be chosen left to the daemon.
    pub fn new(source: Source, dir: Option<ByteString>, caller: Caller) -> Create {
        Create {
            source,
            dir,
            backend: Backend::default(),
            access: Access::default(),
            sync: SyncMode::default(),
            reconnect: Reconnect::default(),
            heartbeat_interval_ms: None,
            max_heartbeat_failures: None,
            options: BTreeMap::new(),
            caller,
        }
    }
}

/// A choice of backend.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Backend {
    /// The best one that works here.
    #[default]
    Auto,
    /// Linux FUSE.
    Fuse,
    /// NFSv3 on the loopback.
    Nfs,
    /// Windows.
    CloudFiles,
    /// macOS.
    FileProvider,
}

/// A backend that has been decided on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BackendName {
    /// Linux FUSE.
    Fuse,
    /// NFSv3 on the loopback.
    Nfs,
    /// Windows.
    CloudFiles,
    /// macOS.
    FileProvider,
}

/// Whether a mount may be written to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Access {
    /// As the machine permits.
    #[default]
    ReadWrite,
    /// Every change is refused with EROFS.
    ReadOnly,
}

/// What `close` waits for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SyncMode {
    /// Everything in this file has been applied on the machine.
    #[default]
    Close,
    /// Nothing: errors surface on fsync, in the status and as an event.
    Async,
    /// Every operation waits.
    Strict,
}

macro_rules! words {
    ($type:ident, $noun:literal, $($variant:ident = $word:literal),+) => {
        impl $type {
            /// All choices.
            pub const ALL: &'static [$type] = &[$($type::$variant),+];

            /// The word in JSON and on the command line.
            pub const fn name(self) -> &'static str {
                match self { $($type::$variant => $word),+ }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.name())
            }
        }

        impl FromStr for $type {
            type Err = UnknownWord;

            fn from_str(text: &str) -> Result<$type, UnknownWord> {
                match text {
                    $($word => Ok($type::$variant),)+
                    _ => Err(UnknownWord {
                        noun: $noun,
                        text: text.chars().take(64).collect(),
                        known: &[$($word),+],
                    }),
                }
            }
        }
    };
}

words!(
    Backend,
    "backend",
    Auto = "auto",
    Fuse = "fuse",
    Nfs = "nfs",
    CloudFiles = "cloud-files",
    FileProvider = "file-provider"
);
words!(
    BackendName,
    "backend",
    Fuse = "fuse",
    Nfs = "nfs",
    CloudFiles = "cloud-files",
    FileProvider = "file-provider"
);
words!(Access, "access", ReadWrite = "read_write", ReadOnly = "read_only");
words!(SyncMode, "sync mode", Close = "close", Async = "async", Strict = "strict");

/// A word is none of the choices.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no {noun} `{}`; there are {}", text.escape_debug(), known.join(", "))]
pub struct UnknownWord {
    noun: &'static str,
    text: String,
    known: &'static [&'static str],
}

impl UnknownWord {
    /// `text` is none of the words `known` for a `noun`.
    pub(super) fn new(noun: &'static str, text: &str, known: &'static [&'static str]) -> UnknownWord {
        UnknownWord { noun, text: text.chars().take(64).collect(), known }
    }
}

/// Takes mounts away. Answered once they are gone; waits for unsaved writes unless `force` says otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Remove {
    /// Which.
    pub target: Target,
    /// What to do about unsaved writes and open files.
    #[serde(default)]
    pub force: Force,
}

/// How hard to try.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Force {
    /// A mount in use is an error; unsaved writes are waited for.
    #[default]
    Never,
    /// The mount goes now. Unsaved writes are kept aside and reported.
    Always,
}

/// Which mounts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// The one with this id.
    Id(MountId),
    /// The one at this absolute path.
    Dir(ByteString),
    /// All of them.
    All,
}

impl Target {
    /// Reads `ID|DIR` as a person writes it. What looks like an id is one; a directory of that name is `./m1`.
    pub fn parse(text: &[u8], cwd: &[u8]) -> Target {
        let id = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
        match id {
            Some(id) => Target::Id(id),
            None => Target::Dir(ByteString::from(super::machine::absolute(text, cwd))),
        }
    }
}

/// What was taken away.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removed {
    /// The mounts that are gone.
    pub mounts: Vec<RemovedMount>,
}

/// One mount that is gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemovedMount {
    /// Its id, which is not used again.
    pub id: MountId,
    /// Where it was.
    pub dir: ByteString,
    /// Local paths of what could not be saved on the machine. Empty unless `force` was given.
    pub kept_aside: Vec<ByteString>,
}

/// Asks for all mounts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct List {}

/// All mounts.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Mounts {
    /// In the order of their ids.
    pub mounts: Vec<Mount>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_on_the_wire_is_the_one_on_the_command_line() {
        for backend in Backend::ALL {
            assert_eq!(serde_json::to_string(backend).unwrap(), format!("\"{backend}\""));
            assert_eq!(backend.name().parse(), Ok(*backend));
        }
        for backend in BackendName::ALL {
            assert_eq!(serde_json::to_string(backend).unwrap(), format!("\"{backend}\""));
        }
        for sync in SyncMode::ALL {
            assert_eq!(serde_json::to_string(sync).unwrap(), format!("\"{sync}\""));
            assert_eq!(sync.name().parse(), Ok(*sync));
        }
        for access in Access::ALL {
            assert_eq!(serde_json::to_string(access).unwrap(), format!("\"{access}\""));
        }
    }

    #[test]
    fn an_unknown_word_is_refused_with_the_known_ones() {
        let error = "smb".parse::<Backend>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "there is no backend `smb`; there are auto, fuse, nfs, cloud-files, file-provider"
        );
    }

    #[test]
    fn a_target_is_an_id_or_a_directory() {
        let parse = |text: &str| Target::parse(text.as_bytes(), b"/home/u");
        assert_eq!(parse("m7"), Target::Id(MountId::new(7)));
        assert_eq!(parse("./m7"), Target::Dir("/home/u/m7".into()));
        assert_eq!(parse("/srv//x/"), Target::Dir("/srv/x".into()));
        assert_eq!(parse("m7/"), Target::Dir("/home/u/m7".into()));
        assert_eq!(parse("."), Target::Dir("/home/u".into()));
    }
}
