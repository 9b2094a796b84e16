//! Files for the eyes of the user who makes them.

use std::fs::OpenOptions;

/// Has a file that is made be its owner's alone. On Windows the directory's list of who may do what is inherited, and is the user's
/// own.
pub(crate) fn owners_only(options: &mut OpenOptions) -> &mut OpenOptions {
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(options, 0o600);
    options
}
