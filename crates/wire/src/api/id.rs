//! Names the daemon gives to what it owns: a letter and a number that is never used twice.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A text is not an id of the wanted sort.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{}` is not the id of {noun}, such as `{letter}1`", text.escape_debug())]
pub struct NotAnId {
    text: String,
    noun: &'static str,
    letter: &'static str,
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $letter:literal, $noun:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(u64);

        impl $name {
            /// The id with this number.
            pub const fn new(number: u64) -> $name {
                $name(number)
            }

            /// The number behind the letter.
            pub const fn number(self) -> u64 {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($letter, "{}"), self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = NotAnId;

            fn from_str(text: &str) -> Result<$name, NotAnId> {
                // `u64` would also accept a sign and leading zeros, which would give one thing two names.
                let digits = text.strip_prefix($letter).filter(|digits| {
                    digits.bytes().all(|byte| byte.is_ascii_digit()) && (*digits == "0" || !digits.starts_with('0'))
                });
                let not_an_id =
                    || NotAnId { text: text.chars().take(64).collect(), noun: $noun, letter: $letter };
                digits.and_then(|digits| digits.parse().ok()).map($name).ok_or_else(not_an_id)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<$name, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

id!(
    /// A mount: `m1`.
    MountId, "m", "a mount"
);
id!(
    /// A connection: `c1`.
    ConnectionId, "c", "a connection"
);
id!(
    /// A process on a machine: `p1`.
    ProcessId, "p", "a process"
);
id!(
    /// A tunnel: `t1`.
    TunnelId, "t", "a tunnel"
);
id!(
    /// Something that takes longer than a second: `o1`.
    OperationId, "o", "an operation"
);
id!(
    /// A prompt that waits for an answer: `q1`.
    PromptId, "q", "a prompt"
);
id!(
    /// A client's subscription to events: `s1`.
    SubscriptionId, "s", "a subscription"
);
id!(
    /// A file or directory that a client holds open: `h1`.
    HandleId, "h", "a handle"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_reads_back_as_it_was_printed() {
        for number in [0, 1, 10, u64::MAX] {
            let id = MountId::new(number);
            assert_eq!(id.to_string().parse(), Ok(id));
            assert_eq!(serde_json::from_str::<MountId>(&serde_json::to_string(&id).unwrap()).unwrap(), id);
        }
    }

    #[test]
    fn what_is_not_an_id_is_refused() {
        for text in ["", "m", "1", "c1", "m01", "m+1", "m-1", "m1 ", "m18446744073709551616", "M1"] {
            assert!(text.parse::<MountId>().is_err(), "{text}");
        }
        let told = "dev".parse::<OperationId>().unwrap_err().to_string();
        assert_eq!(told, "`dev` is not the id of an operation, such as `o1`");
    }
}
