//! In the place of `thread` on systems without Linux's FUSE, through which alone threads are mounted: such a mount is refused.

use std::io;

use supervisor::keeper::Kept;
use wire::api::ErrorKind;
use wire::worker::{ThreadPlace, WorkerError};

use super::control::Control;
use super::failure;
use super::home::Home;

/// None there is.
pub(super) enum MountedThread {}

fn missing() -> WorkerError {
    failure(ErrorKind::Refused, "threads are mounted on Linux only")
}

impl MountedThread {
    /// Refuses.
    pub(super) async fn begin(_home: Home, _place: &ThreadPlace) -> Result<MountedThread, WorkerError> {
        Err(missing())
    }

    /// Refuses.
    pub(super) async fn take_over(
        _home: Home,
        _place: &ThreadPlace,
        _kept: Vec<Kept>,
    ) -> Result<MountedThread, WorkerError> {
        Err(missing())
    }

    pub(super) async fn serve(self, _control: Control) -> io::Result<()> {
        match self {}
    }
}
