//! `image.*`: what microVMs boot from.

use serde::{Deserialize, Serialize};

use super::time::Timestamp;
use crate::bytestring::ByteString;

/// Makes an image of a kernel and a root file system. Answered once it is there; until then [`Progress`] tells how far it is. It is
/// called off when the connection ends, and leaves nothing then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Build {
    /// What it is to be called.
    pub name: String,
    /// What its root file system is made of.
    pub source: Source,
    /// The kernel's file, an absolute path; without it the newest in `/boot`.
    #[serde(default)]
    pub kernel: Option<ByteString>,
    /// The directory of the kernel's modules, an absolute path; without it the one beside the kernel.
    #[serde(default)]
    pub modules: Option<ByteString>,
}

/// What a root file system is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// Of this directory, an absolute path.
    Directory(ByteString),
    /// Of this tar, an absolute path. It may be packed by gzip or zstd.
    Archive(ByteString),
    /// Of packages of this release of Debian; without a name the one that is known to work.
    Debian(Option<String>),
    /// Of this disk, an absolute path: an ext4 file system as a whole, raw or qcow2.
    Disk(ByteString),
    /// Of an image in a registry of containers.
    Registry(Registry),
}

/// An image in a registry of containers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Registry {
    /// What it is called: `[HOST[:PORT]/]REPOSITORY[:TAG][@DIGEST]`.
    pub reference: String,
    /// For which computers, as `OS/ARCHITECTURE`; without it those of this one's sort.
    #[serde(default)]
    pub platform: Option<String>,
    /// A host that is spoken to without TLS, with a port if it has one. This very computer always is.
    #[serde(default)]
    pub plain_http: Option<String>,
    /// Docker's directory, an absolute path: its `config.json` has the logins.
    #[serde(default)]
    pub docker_config: Option<ByteString>,
}

/// Where an image was pulled from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// What it is called there.
    pub reference: String,
    /// What it was then, as `sha256:` and digits.
    pub digest: String,
    /// For which computers it is.
    pub platform: String,
    /// What programs of containers would run of it. A guest boots, and runs none of that. Not in lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<RunConfig>,
}

/// What programs of containers would run of an image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunConfig {
    /// As whom.
    pub user: String,
    /// With which variables.
    pub env: Vec<String>,
    /// What always.
    pub entrypoint: Vec<String>,
    /// And with it if nothing else is said.
    pub cmd: Vec<String>,
    /// Where.
    pub working_dir: String,
}

/// Makes an image of the disk of a microVM that does not run. It keeps its kernel. Answered once it is there, as [`Build`] is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Promote {
    /// The microVM.
    pub vm: String,
    /// What the image is to be called.
    pub name: String,
}

/// What is being done for a request of this connection that makes an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Which image.
    pub name: String,
    /// A few words for people.
    pub part: String,
}

/// An image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// What it is called.
    pub name: String,
    /// The length of its root file system, in bytes.
    pub bytes: u64,
    /// What it takes on this computer's disk, in bytes.
    pub occupied: u64,
    /// The BLAKE3 hash of its root file system.
    pub root: String,
    /// The BLAKE3 hash of its kernel.
    pub kernel: String,
    /// When it was made.
    pub created: Timestamp,
    /// The microVMs that boot from it.
    pub vms: Vec<String>,
    /// Where it was pulled from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
}

/// Asks for one image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Show {
    /// Which.
    pub name: String,
}

/// Asks for all images.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct List {}

/// All images, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Images {
    /// Each of them.
    pub images: Vec<Image>,
}

/// Removes an image. One from which a microVM boots is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Delete {
    /// Which.
    pub name: String,
}

/// It is gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deleted {
    /// Which.
    pub name: String,
}
