//! Names and paths as they travel: bytes, checked when they are made and again when they arrive.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The longest name of one directory entry that any supported system has.
pub const NAME_BYTES_MAX: usize = 255;

/// The longest path: a head must hold two of them. Deeper trees exist and are refused with `ENAMETOOLONG`.
pub const PATH_BYTES_MAX: usize = 256 << 10;

/// Why bytes are not a name or a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing at all.
    #[error("empty name")]
    Empty,
    /// Longer than the limit.
    #[error("name too long")]
    TooLong,
    /// A `/` in a name, or a NUL anywhere.
    #[error("name with a slash or a zero byte")]
    Forbidden,
    /// `.` or `..`, which name other directories.
    #[error("name is `.` or `..`")]
    Dots,
}

/// The name of one directory entry: 1 to [`NAME_BYTES_MAX`] bytes, no `/`, no NUL, neither `.` nor `..`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Box<[u8]>);

impl Name {
    /// Checks `bytes`.
    pub fn new(bytes: impl Into<Box<[u8]>>) -> Result<Name, NameError> {
        let bytes = bytes.into();
        check_name(&bytes)?;
        Ok(Name(bytes))
    }

    /// The name's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

fn check_name(bytes: &[u8]) -> Result<(), NameError> {
    match bytes {
        b"" => Err(NameError::Empty),
        b"." | b".." => Err(NameError::Dots),
        _ if bytes.len() > NAME_BYTES_MAX => Err(NameError::TooLong),
        _ if bytes.iter().any(|b| matches!(b, 0 | b'/')) => Err(NameError::Forbidden),
        _ => Ok(()),
    }
}

/// A path below an exported root: names joined by single slashes; empty for the root itself. It holds no `.` and no
/// `..`, and is not bounded by the system's `PATH_MAX`: whoever resolves it descends in steps.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelativePath(Box<[u8]>);

impl RelativePath {
    /// Checks `bytes`.
    pub fn new(bytes: impl Into<Box<[u8]>>) -> Result<RelativePath, NameError> {
        let bytes = bytes.into();
        if bytes.len() > PATH_BYTES_MAX {
            return Err(NameError::TooLong);
        }
        if !bytes.is_empty() {
            bytes.split(|b| *b == b'/').try_for_each(check_name)?;
        }
        Ok(RelativePath(bytes))
    }

    /// The path's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether this is the root itself.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The names from the root down.
    pub fn names(&self) -> impl Iterator<Item = &[u8]> {
        self.0.split(|b| *b == b'/').filter(|name| !name.is_empty())
    }

    /// The path of the entry `name` of the directory at this path.
    pub fn join(&self, name: &Name) -> RelativePath {
        if self.0.is_empty() {
            return RelativePath(name.0.clone());
        }
        RelativePath([&self.0, b"/".as_slice(), &name.0].concat().into())
    }
}

macro_rules! travels_as_bytes {
    ($type:ident) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_bytes(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<$type, D::Error> {
                let bytes = serde_bytes::ByteBuf::deserialize(deserializer)?;
                $type::new(bytes.into_vec()).map_err(de::Error::custom)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "\"{}\"", self.0.escape_ascii())
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0.escape_ascii())
            }
        }
    };
}

travels_as_bytes!(Name);
travels_as_bytes!(RelativePath);
