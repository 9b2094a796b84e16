//! How the process's file descriptors are shared out.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// More than this serves nobody, and some systems call everything unlimited.
const DESCRIPTORS_MAX: u64 = 256 << 10;

/// What a process has by default on most systems, for when the limit is not told.
const DESCRIPTORS_DEFAULT: u64 = 1024;

/// The most directory descriptors that are worth keeping.
const DIRECTORIES_MAX: usize = 16 << 10;

/// The most descriptors of files that are kept for requests on their way: more are not on their way at once.
const FILES_MAX: usize = 256;

pub(crate) struct Descriptors {
    /// Descriptors of directories kept to save resolving their paths.
    pub directories_max: usize,
    /// Descriptors of files that have lost their names a moment ago, or may soon.
    pub files_max: usize,
    /// Open files of the client.
    pub handles_max: usize,
    /// Descriptions that hold locks.
    pub locks_max: usize,
}

impl Descriptors {
    /// Raises the soft limit to the hard one. The rest, an eighth, is for requests in progress and processes.
    pub fn raise() -> Descriptors {
        let limit = getrlimit(Resource::Nofile);
        let wanted = limit.maximum.unwrap_or(DESCRIPTORS_MAX).min(DESCRIPTORS_MAX);
        let current = limit.current.unwrap_or(DESCRIPTORS_DEFAULT);
        let raised = wanted > current
            && setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum: limit.maximum }).is_ok();
        let total = usize::try_from(if raised { wanted } else { current }).unwrap_or(usize::MAX);
        Descriptors {
            directories_max: (total / 4).min(DIRECTORIES_MAX),
            files_max: (total / 64).min(FILES_MAX),
            handles_max: total / 2,
            locks_max: total / 8,
        }
    }
}
