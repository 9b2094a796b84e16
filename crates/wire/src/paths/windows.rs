//! Where a daemon of Windows keeps its files, and what its pipe is called.
//!
//! | variable | state |
//! |---|---|
//! | `STEAD_HOME` | there |
//! | else | `%LOCALAPPDATA%\stead` |
//!
//! Nothing here touches the file system.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::api::id::MountId;

/// Moves all of a daemon's state, and its pipe.
pub const HOME_VARIABLE: &str = "STEAD_HOME";

/// The files of one daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    state: PathBuf,
}

/// The environment does not say where state may be kept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PathsError {
    /// Neither variable is set.
    #[error("neither STEAD_HOME nor LOCALAPPDATA is set, so there is no place to keep state")]
    NoHome,
    /// A variable that must hold an absolute path holds another.
    #[error("{variable} is `{}`, which is not an absolute path", path.display())]
    Relative {
        /// Its name.
        variable: &'static str,
        /// Its value.
        path: PathBuf,
    },
}

impl Paths {
    /// The paths with the environment that `variable` looks up.
    pub fn new(variable: impl Fn(&str) -> Option<OsString>) -> Result<Paths, PathsError> {
        let get = |name: &'static str| -> Result<Option<PathBuf>, PathsError> {
            match variable(name).filter(|value| !value.is_empty()).map(PathBuf::from) {
                Some(path) if !path.is_absolute() => Err(PathsError::Relative { variable: name, path }),
                path => Ok(path),
            }
        };
        if let Some(state) = get(HOME_VARIABLE)? {
            return Ok(Paths { state });
        }
        let local = get("LOCALAPPDATA")?.ok_or(PathsError::NoHome)?;
        Ok(Paths { state: local.join("stead") })
    }

    /// The directory of everything that outlives a reboot.
    pub fn state_dir(&self) -> &Path {
        &self.state
    }

    /// Locked by the daemon as long as it lives.
    pub fn lock(&self) -> PathBuf {
        self.state.join("daemon.lock")
    }

    /// The pipe of the daemon's API. Its name follows from the directory.
    pub fn pipe(&self) -> String {
        let hash = crate::fnv1a(self.state.as_os_str().as_encoded_bytes());
        format!(r"\\.\pipe\stead-{hash:016x}")
    }

    /// The directory in which each mount has one for its files.
    pub fn mount_states_dir(&self) -> PathBuf {
        self.state.join("mounts")
    }

    /// The files of the mount called `mount`.
    pub fn mount_state_dir(&self, mount: MountId) -> PathBuf {
        self.mount_states_dir().join(mount.to_string())
    }
}
