//! What a worker is started with.

use std::path::PathBuf;
use std::sync::Arc;

use supervisor::keeper::Tether;
use supervisor::presence::Presence;
use wire::worker::MountConfig;

use crate::Progress;

/// See the module's documentation.
pub(super) struct Home {
    /// What the mount is.
    pub(super) config: MountConfig,
    /// The mount's own directory.
    pub(super) directory: PathBuf,
    /// What this worker has to do with its keeper.
    pub(super) tether: Arc<Tether>,
    /// That it is there, as others can see; `None` where no lock is to be had.
    #[cfg_attr(
        not(any(target_os = "linux", target_os = "macos")),
        expect(dead_code, reason = "it is there for others to see")
    )]
    pub(super) presence: Option<Presence>,
}

impl Home {
    /// Tells the keeper once that this worker is of use.
    pub(super) fn progress(&self) -> Progress {
        let tether = self.tether.clone();
        Progress::new(move || tether.progress())
    }
}
