//! What a worker leaves for its successor, beside the file system's own record: how it was mounted, and how the machine
//! is reached without asking it.

use std::fs::File;
use std::path::{Path, PathBuf};

use remote::client::relink::{Resumption, SessionMark};
use remote::client::{Attached, Export};
use remote::spare::Spare;
use serde::{Deserialize, Serialize};
use supervisor::keeper::Kept;
use vfs::vfs::Restored;
use wire::agent::Sequence;
use wire::agent::file::Entry;
use wire::worker::{CONFIG, MountConfig};

/// The name under which a keeper has the device, and every clone of it.
pub(super) const FUSE: &str = "fuse";

/// The name under which a keeper has the socket that NFS clients connect to.
pub(super) const NFS: &str = "nfs";

/// The name under which a keeper has the channel that is dialled ahead.
pub(super) const SPARE: &str = "channel-ahead";

/// Why a mount is not begun, or not taken over.
#[derive(Debug, thiserror::Error)]
pub(super) enum SuccessionError {
    /// The configuration cannot be read.
    #[error("could not read `{}`", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Part of the record is not there, or not what it should be.
    #[error("the record does not say {what}")]
    Record {
        /// Which.
        what: &'static str,
        /// Why it cannot be read, if it is there.
        #[source]
        source: Option<serde_json::Error>,
    },
}

/// The channel that a predecessor has dialled ahead, among what it has put aside.
pub(super) fn spare_of(put_aside: Vec<Kept>) -> Option<Spare> {
    let descriptors = put_aside.into_iter().filter(|kept| kept.name == SPARE).map(|kept| kept.descriptor);
    Spare::from_descriptors(descriptors.collect())
}

/// Reads what the mount in `directory` is.
pub(super) fn read_config(directory: &Path) -> Result<MountConfig, SuccessionError> {
    let path = directory.join(CONFIG);
    let read = File::open(&path).and_then(MountConfig::read);
    read.map_err(|source| SuccessionError::Config { path, source })
}

/// How the machine was reached.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct SourcePart {
    /// The session with the agent.
    pub(crate) mark: SessionMark,
    /// Changes have had numbers up to here.
    pub(crate) watermark: Sequence,
    /// What was asked for, and what it was.
    export: Export,
    root: Entry,
    uid: u32,
    gid: u32,
    privileged: bool,
    path: Vec<u8>,
    /// The agent's release.
    pub(crate) release: String,
}

impl SourcePart {
    /// Of a session in which `attached` is the answer to what was asked for.
    pub(super) fn new(resumption: Resumption, attached: &Attached, release: String) -> Option<SourcePart> {
        let Resumption { mark, watermark, export, .. } = resumption;
        let Attached { root, uid, gid, privileged, ref path } = *attached;
        let export = export?;
        Some(SourcePart { mark, watermark, export, root, uid, gid, privileged, path: path.clone(), release })
    }

    /// What the agent said when it was asked for the export.
    pub(super) fn attached(&self) -> Attached {
        let SourcePart { root, uid, gid, privileged, ref path, .. } = *self;
        Attached { root, uid, gid, privileged, path: path.clone() }
    }

    /// How to go on.
    pub(super) fn resumption(&self, unanswered: Vec<Sequence>) -> Resumption {
        let SourcePart { mark, watermark, .. } = *self;
        Resumption { mark, watermark, unanswered, export: Some(self.export.clone()), files: Vec::new() }
    }
}

/// Reads one of the two parts.
pub(super) fn read_part<T: for<'a> Deserialize<'a>>(
    restored: &Restored,
    which: vfs::table::Kept,
) -> Result<T, SuccessionError> {
    let what = match which {
        vfs::table::Kept::Kernel => "how it was mounted",
        vfs::table::Kept::Source => "how the machine is reached",
    };
    let bytes = restored.kept(which).ok_or(SuccessionError::Record { what, source: None })?;
    serde_json::from_slice(bytes).map_err(|source| SuccessionError::Record { what, source: Some(source) })
}

/// Writes a part. These types have no value that is not JSON.
pub(crate) fn write_part<T: Serialize>(part: &T) -> Vec<u8> {
    serde_json::to_vec(part).unwrap_or_else(|error| {
        tracing::error!(%error, "a part of the record was not written");
        Vec::new()
    })
}
