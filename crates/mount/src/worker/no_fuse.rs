//! In the place of `fuse` on systems where mounts are not served through it: such a mount is refused, so there never is one.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use vfs::vfs::Restored;
use wire::api::ErrorKind;
use wire::worker::WorkerError;

use super::backend::How;
use super::failure;
use super::home::Home;
use super::options::MountChoices;
use super::shown::Shown;
use super::succession::SuccessionError;
use crate::Counts;
/// What is told of changes: nobody.
pub(super) use crate::nfs::NoNotices as FuseKernel;

/// None there is.
pub(super) enum FuseMount {}

/// How a predecessor had mounted it, which none has.
pub(super) enum KernelPart {}

fn missing() -> WorkerError {
    let mut refused = failure(ErrorKind::Usage, "backend fuse exists on Linux and macOS only: here nfs");
    refused.hint = Some("leave out --backend fuse".to_owned());
    refused
}

/// Whether this user can mount through FUSE.
pub(super) fn is_usable() -> bool {
    false
}

/// A request of NFS has no number that a successor would know it by.
pub(super) fn note_panic() {}

/// No record is of such a mount.
pub(super) fn part(_restored: &Restored) -> Result<KernelPart, SuccessionError> {
    Err(SuccessionError::Record { what: "how it was mounted, for there is no FUSE here", source: None })
}

/// What is told of changes.
pub(super) fn kernel() -> Arc<FuseKernel> {
    Arc::new(FuseKernel)
}

impl FuseMount {
    /// Refuses.
    pub(super) async fn begin(
        _home: &Home,
        _choices: &MountChoices,
        _shown: Shown,
    ) -> Result<FuseMount, WorkerError> {
        Err(missing())
    }

    /// There is nothing to go on with.
    pub(super) async fn take_over(
        part: KernelPart,
        _kept: Vec<OwnedFd>,
        _shown: Shown,
        _home: &Home,
    ) -> Result<FuseMount, WorkerError> {
        match part {}
    }

    pub(super) fn degraded(&self) -> Option<&str> {
        match *self {}
    }

    pub(super) fn connection(&self) -> Option<u64> {
        match *self {}
    }

    pub(super) fn counts(&self) -> &Tally {
        match *self {}
    }

    pub(super) async fn ended(&mut self) {
        match *self {}
    }

    pub(super) fn unmount(&self, _how: How) -> std::future::Ready<Result<(), WorkerError>> {
        match *self {}
    }

    pub(super) async fn finish(self) {
        match self {}
    }
}

/// What it was asked, which is nothing.
pub(super) enum Tally {}

impl Tally {
    pub(super) fn all(&self) -> &Counts {
        match *self {}
    }

    pub(super) fn operations(&self) -> std::collections::BTreeMap<String, u64> {
        match *self {}
    }
}
