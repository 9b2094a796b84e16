//! The first frame of a stream, in both directions.
//!
//! The client sends its [`Hello`] without waiting; the agent's answers it. The stream goes on at [`Hello::agree`]'s
//! version, or ends with an error that names both sides' versions.

use serde::{Deserialize, Serialize};

use crate::{fnv1a, fnv1a_more};

/// The oldest protocol version this build speaks.
pub const VERSION_MIN: u16 = 1;
/// The newest protocol version this build speaks.
pub const VERSION_MAX: u16 = 1;

/// The longest that an agent keeps a session which no stream is attached to: a laptop that sleeps over night finds it
/// again, and what has been forgotten for good ends within a day.
pub const KEEP_SECONDS_MAX: u32 = 24 * 60 * 60;

/// Identifies a session, so that a later stream can resume it. All zeros asks for a new one. As text, 32 hexadecimal
/// digits in lower case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SessionId(pub [u8; 16]);

impl std::fmt::Display for SessionId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

/// A text is not a [`SessionId`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a session is named by 32 hexadecimal digits in lower case")]
pub struct NotASession;

impl std::str::FromStr for SessionId {
    type Err = NotASession;

    fn from_str(text: &str) -> Result<SessionId, NotASession> {
        let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if text.len() != 32 || !text.bytes().all(is_digit) {
            return Err(NotASession);
        }
        u128::from_str_radix(text, 16).map(|id| SessionId(id.to_be_bytes())).map_err(|_| NotASession)
    }
}

/// What a side says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Oldest and newest protocol version that the side speaks.
    pub versions: (u16, u16),
    /// Hash of the protocol's definition, see [`SCHEMA_HASH`].
    pub schema: u64,
    /// The release of the side, for messages only.
    pub release: String,
    /// What the side can do beyond the version's minimum: bits of [`capability`].
    pub capabilities: u64,
    /// From a client: the session to resume. From an agent: the session that this stream serves; when it is not the one
    /// that was to be resumed, that one is gone, and this one is new.
    pub session: SessionId,
    /// From a client: for how long the session is to be kept after its stream broke; 0 ends it with the stream. From an
    /// agent: for how long it will be, which is no more than was asked for and than [`KEEP_SECONDS_MAX`].
    pub keep_seconds: u32,
}

/// Bits of [`Hello::capabilities`].
pub mod capability {
    /// Pushes changes of leased directories.
    pub const LEASES: u64 = 1 << 0;
    /// Runs processes.
    pub const PROCESSES: u64 = 1 << 1;
    /// Holds advisory locks.
    pub const LOCKS: u64 = 1 << 2;
    /// Unpacks what is packed, see [`packing`](crate::packing).
    pub const PACKING: u64 = 1 << 3;
}

/// Changes whenever a source file that defines what goes over the stream changes, so that two builds of one version
/// never take each other's bytes for something else. FNV-1a, 64 bits.
pub const SCHEMA_HASH: u64 = {
    let mut hash = fnv1a(include_bytes!("hello.rs"));
    hash = fnv1a_more(hash, include_bytes!("frame.rs"));
    hash = fnv1a_more(hash, include_bytes!("packing.rs"));
    hash = fnv1a_more(hash, include_bytes!("agent.rs"));
    hash = fnv1a_more(hash, include_bytes!("agent/file.rs"));
    hash = fnv1a_more(hash, include_bytes!("agent/file/messages.rs"));
    hash = fnv1a_more(hash, include_bytes!("agent/find.rs"));
    hash = fnv1a_more(hash, include_bytes!("agent/name.rs"));
    hash = fnv1a_more(hash, include_bytes!("agent/process.rs"));
    hash = fnv1a_more(hash, include_bytes!("agent/search.rs"));
    hash = fnv1a_more(hash, include_bytes!("agent/tunnel.rs"));
    hash = fnv1a_more(hash, include_bytes!("endpoint.rs"));
    hash
};

/// Why two sides cannot talk.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    /// No common version.
    #[error("stead {ours} speaks protocol {our_min} to {our_max}, the other side ({theirs}) {min} to {max}")]
    Version {
        /// This side's release.
        ours: String,
        /// This side's oldest version.
        our_min: u16,
        /// This side's newest version.
        our_max: u16,
        /// The other side's release.
        theirs: String,
        /// The other side's oldest version.
        min: u16,
        /// The other side's newest version.
        max: u16,
    },
    /// The same version from differing sources.
    #[error(
        "stead {ours} (schema {our_schema:016x}) and {theirs} (schema {schema:016x}) are different builds"
    )]
    Schema {
        /// This side's release.
        ours: String,
        /// This side's schema hash.
        our_schema: u64,
        /// The other side's release.
        theirs: String,
        /// The other side's schema hash.
        schema: u64,
    },
}

impl Hello {
    /// This build's hello. It asks for, and grants, a session that ends with its stream.
    pub fn new(capabilities: u64, session: SessionId) -> Hello {
        Hello {
            versions: (VERSION_MIN, VERSION_MAX),
            schema: SCHEMA_HASH,
            release: crate::RELEASE.to_owned(),
            capabilities,
            session,
            keep_seconds: 0,
        }
    }

    /// The version both sides speak, `self` being this side.
    pub fn agree(&self, other: &Hello) -> Result<u16, Mismatch> {
        let (our_min, our_max) = self.versions;
        let (min, max) = other.versions;
        let version = our_max.min(max);
        if version < our_min.max(min) {
            let (ours, theirs) = (self.release.clone(), other.release.clone());
            return Err(Mismatch::Version { ours, our_min, our_max, theirs, min, max });
        }
        if self.schema != other.schema {
            return Err(Mismatch::Schema {
                ours: self.release.clone(),
                our_schema: self.schema,
                theirs: other.release.clone(),
                schema: other.schema,
            });
        }
        Ok(version)
    }
}

#[cfg(test)]
mod tests;
