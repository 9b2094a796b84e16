//! What a mount of a machine shows, and where.

use std::sync::Arc;

use vfs::Vfs;
use wire::api::ErrorKind;
use wire::worker::{MountConfig, WorkerError};

use super::fuse::FuseKernel;
use super::options::MountChoices;
use super::{failure, in_full};
use crate::machine::{Machine, Owners};
use crate::mountpoint::{Contents, MountPoint, MountPointError};

/// A machine's files, and to whom they are shown.
pub(super) struct Shown {
    pub(super) vfs: Arc<Vfs<Machine>>,
    pub(super) kernel: Arc<FuseKernel>,
    pub(super) owners: Owners,
}

/// Checks where the mount is to be.
pub(super) fn mount_point(config: &MountConfig, choices: &MountChoices) -> Result<MountPoint, WorkerError> {
    let contents = if choices.nonempty { Contents::Any } else { Contents::Empty };
    MountPoint::check(config.dir.as_path(), contents).map_err(|error| point_error(&error))
}

fn point_error(error: &MountPointError) -> WorkerError {
    let kind = match error {
        MountPointError::Missing(_) => ErrorKind::NotFound,
        MountPointError::NotADirectory(_) => ErrorKind::Usage,
        MountPointError::NotEmpty(_) | MountPointError::AlreadyMounted { .. } | MountPointError::Stale(_) => {
            ErrorKind::Conflict
        }
        MountPointError::Examine { .. } | MountPointError::Table(_) => ErrorKind::Failure,
    };
    let mut refused = failure(kind, in_full(error));
    if let MountPointError::NotEmpty(_) = error {
        refused.hint = Some("choose an empty directory, or hide what is in it with -o nonempty".to_owned());
    }
    refused
}
