//! Where a daemon keeps its state and its sockets, computed the same way by everybody who looks for them.
//!
//! | | state | runtime | cache |
//! |---|---|---|---|
//! | `STEAD_HOME` set | `$STEAD_HOME` | `$STEAD_HOME/run` | `$STEAD_HOME/cache` |
//! | root | `/var/lib/stead` | `/run/stead` | `/var/cache/stead` |
//! | others | `$XDG_STATE_HOME/stead` or `~/.local/state/stead` | `$XDG_RUNTIME_DIR/stead`, or `run` under the state | `$XDG_CACHE_HOME/stead/data` or `~/.cache/stead/data` |
//!
//! A socket's path has at most 107 bytes, and ssh adds to the name of a control socket. A runtime directory longer than
//! [`RUNTIME_BYTES_MAX`] is therefore replaced by `/tmp/stead-UID-HASH`, where the hash is that of the long path. As
//! `/tmp` is everybody's, whoever uses the directory must find it to be theirs and `0700`, and a client must find the
//! socket's peer to be the same user.
//!
//! Nothing here touches the file system.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// The longest runtime directory: the 107 bytes of a socket's path, less `/ssh-c` with a number of 8 digits, less the
/// 18 bytes that ssh appends while it creates its control socket, and some to spare.
pub const RUNTIME_BYTES_MAX: usize = 64;

/// Moves all of a daemon's state and sockets.
pub const HOME_VARIABLE: &str = "STEAD_HOME";

/// The files of one daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    state: PathBuf,
    runtime: PathBuf,
    mounts: PathBuf,
    cache: PathBuf,
    blobs: PathBuf,
}

/// The environment does not say where state may be kept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PathsError {
    /// Neither variable is set.
    #[error("neither STEAD_HOME nor HOME is set, so there is no place to keep state")]
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
    /// The paths for the user `uid` with the environment that `variable` looks up.
    pub fn new(uid: u32, variable: impl Fn(&str) -> Option<OsString>) -> Result<Paths, PathsError> {
        let get = |name: &'static str| -> Result<Option<PathBuf>, PathsError> {
            match variable(name).filter(|value| !value.is_empty()).map(PathBuf::from) {
                Some(path) if !path.is_absolute() => Err(PathsError::Relative { variable: name, path }),
                path => Ok(path),
            }
        };
        if let Some(home) = get(HOME_VARIABLE)? {
            let runtime = short_enough(home.join("run"), uid);
            let (mounts, cache, blobs) = (home.join("mnt"), home.join("cache"), home.join("blobs"));
            return Ok(Paths { mounts, cache, blobs, runtime, state: home });
        }
        // The XDG specification has relative values ignored.
        let xdg = |name: &'static str| get(name).unwrap_or(None);
        let home = get("HOME")?;
        if uid == 0 {
            let mounts = home.unwrap_or_else(|| PathBuf::from("/root")).join("stead");
            let (state, cache) = ("/var/lib/stead".into(), "/var/cache/stead".into());
            let blobs = "/var/lib/stead/blobs".into();
            return Ok(Paths { state, runtime: "/run/stead".into(), mounts, cache, blobs });
        }
        let home = home.ok_or(PathsError::NoHome)?;
        let state = xdg("XDG_STATE_HOME").unwrap_or_else(|| home.join(".local/state")).join("stead");
        let runtime = match xdg("XDG_RUNTIME_DIR") {
            Some(runtime) => runtime.join("stead"),
            None => state.join("run"),
        };
        let caches = xdg("XDG_CACHE_HOME").unwrap_or_else(|| home.join(".cache")).join("stead");
        let (cache, blobs) = (caches.join("data"), caches.join("blobs"));
        Ok(Paths { state, runtime: short_enough(runtime, uid), mounts: home.join("stead"), cache, blobs })
    }

    /// The directory of everything that outlives a reboot. `0700`.
    pub fn state_dir(&self) -> &Path {
        &self.state
    }

    /// The directory of sockets and locks. `0700`.
    pub fn runtime_dir(&self) -> &Path {
        &self.runtime
    }

    /// The directory of what can be had again: contents of other machines' files. `0700`.
    pub fn cache_dir(&self) -> &Path {
        &self.cache
    }

    /// The directory of contents of git revisions, for all threads. `0700`.
    pub fn blobs_dir(&self) -> &Path {
        &self.blobs
    }

    /// The directory in which each thread has one for its files.
    pub fn threads_dir(&self) -> PathBuf {
        self.state.join("threads")
    }

    /// The files of the thread called `name`, which is checked.
    pub fn thread_dir(&self, name: &str) -> PathBuf {
        self.threads_dir().join(name)
    }

    /// The directory in which each thread that was dropped and can be had back has one.
    pub fn dropped_dir(&self) -> PathBuf {
        self.state.join("dropped")
    }

    /// The directory in which mounts without a directory of their own are put: `~/stead`, or `mnt` under `STEAD_HOME`.
    pub fn mounts_dir(&self) -> &Path {
        &self.mounts
    }

    /// The daemon's API.
    pub fn socket(&self) -> PathBuf {
        self.runtime.join("daemon.sock")
    }

    /// Locked by the daemon as long as it lives; holds its process id as text.
    pub fn lock(&self) -> PathBuf {
        self.runtime.join("daemon.lock")
    }

    /// Locked by a client while it starts the daemon, so that two clients start one.
    pub fn start_lock(&self) -> PathBuf {
        self.runtime.join("start.lock")
    }

    /// Desired state.
    pub fn database(&self) -> PathBuf {
        self.state.join("state.db")
    }

    /// The daemon's log.
    pub fn log(&self) -> PathBuf {
        self.state.join("daemon.log")
    }

    /// The directory in which each mount has one for its files.
    pub fn mount_states_dir(&self) -> PathBuf {
        self.state.join("mounts")
    }

    /// The directory in which each image has one, named as it is.
    pub fn images_dir(&self) -> PathBuf {
        self.state.join("images")
    }

    /// The directory in which each microVM has one, named as it is.
    pub fn vms_dir(&self) -> PathBuf {
        self.state.join("vms")
    }

    /// The directory in which each workspace that is on its way has one.
    pub fn workspaces_dir(&self) -> PathBuf {
        self.state.join("workspaces")
    }

    /// The directory of the sockets of the microVM called `name`.
    pub fn vm_runtime_dir(&self, name: &str) -> PathBuf {
        self.runtime.join(format!("vm-{name}"))
    }

    /// The files of the mount called `mount`.
    pub fn mount_state_dir(&self, mount: crate::api::id::MountId) -> PathBuf {
        self.mount_states_dir().join(mount.to_string())
    }
}

fn short_enough(runtime: PathBuf, uid: u32) -> PathBuf {
    let bytes = runtime.as_os_str().as_bytes();
    if bytes.len() <= RUNTIME_BYTES_MAX {
        return runtime;
    }
    let hash = crate::fnv1a(bytes);
    PathBuf::from(OsString::from_vec(format!("/tmp/stead-{uid}-{hash:016x}").into_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(uid: u32, variables: &[(&str, &str)]) -> Result<Paths, PathsError> {
        let variables: Vec<(String, String)> =
            variables.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        Paths::new(uid, |wanted| {
            variables.iter().find(|(name, _)| name == wanted).map(|(_, value)| OsString::from(value))
        })
    }

    fn state_and_runtime(uid: u32, variables: &[(&str, &str)]) -> (String, String) {
        let paths = paths(uid, variables).unwrap();
        (paths.state_dir().display().to_string(), paths.runtime_dir().display().to_string())
    }

    #[test]
    fn places_follow_the_environment() {
        let xdg = [("HOME", "/home/u"), ("XDG_STATE_HOME", "/s"), ("XDG_RUNTIME_DIR", "/run/user/7")];
        let own = [("STEAD_HOME", "/t"), ("HOME", "/home/u"), ("XDG_STATE_HOME", "/s")];
        type Case<'a> = (u32, &'a [(&'a str, &'a str)], &'a str, &'a str);
        let cases: &[Case<'_>] = &[
            (7, &xdg, "/s/stead", "/run/user/7/stead"),
            (7, &[("HOME", "/home/u")], "/home/u/.local/state/stead", "/home/u/.local/state/stead/run"),
            (
                7,
                &[("HOME", "/h"), ("XDG_STATE_HOME", "x")],
                "/h/.local/state/stead",
                "/h/.local/state/stead/run",
            ),
            (0, &xdg, "/var/lib/stead", "/run/stead"),
            (0, &[], "/var/lib/stead", "/run/stead"),
            (7, &own, "/t", "/t/run"),
            (0, &own, "/t", "/t/run"),
            (7, &[("STEAD_HOME", ""), ("HOME", "/h")], "/h/.local/state/stead", "/h/.local/state/stead/run"),
        ];
        for (uid, variables, state, runtime) in cases {
            assert_eq!(
                state_and_runtime(*uid, variables),
                (state.to_string(), runtime.to_string()),
                "{variables:?}"
            );
        }
    }

    #[test]
    fn the_cache_is_where_caches_are() {
        let cache = |uid, variables: &[(&str, &str)]| paths(uid, variables).unwrap().cache_dir().to_owned();
        assert_eq!(cache(7, &[("HOME", "/h")]), Path::new("/h/.cache/stead/data"));
        assert_eq!(cache(7, &[("HOME", "/h"), ("XDG_CACHE_HOME", "/c")]), Path::new("/c/stead/data"));
        assert_eq!(cache(0, &[("HOME", "/root"), ("XDG_CACHE_HOME", "/c")]), Path::new("/var/cache/stead"));
        assert_eq!(cache(0, &[("STEAD_HOME", "/t"), ("XDG_CACHE_HOME", "/c")]), Path::new("/t/cache"));
    }

    #[test]
    fn a_long_runtime_directory_is_replaced_by_a_short_one_of_its_own() {
        let long = format!("/{}", "a".repeat(100));
        let other = format!("/{}", "b".repeat(100));
        let (state, runtime) = state_and_runtime(7, &[("STEAD_HOME", &long)]);
        assert_eq!(state, long);
        assert!(runtime.starts_with("/tmp/stead-7-") && runtime.len() <= RUNTIME_BYTES_MAX, "{runtime}");
        assert_eq!(state_and_runtime(7, &[("STEAD_HOME", &long)]).1, runtime);
        assert_ne!(state_and_runtime(7, &[("STEAD_HOME", &other)]).1, runtime);
        assert_ne!(state_and_runtime(8, &[("STEAD_HOME", &long)]).1, runtime);
    }

    #[test]
    fn a_place_that_depends_on_the_current_directory_is_refused() {
        assert!(matches!(paths(7, &[("STEAD_HOME", "x")]), Err(PathsError::Relative { .. })));
        assert!(matches!(paths(7, &[("HOME", "x")]), Err(PathsError::Relative { .. })));
        assert_eq!(paths(7, &[]), Err(PathsError::NoHome));
    }
}
