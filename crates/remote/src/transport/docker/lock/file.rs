//! A lock on a file of this user's directory for what is temporary.

pub(super) use supervisor::lock::Lock;

/// Takes it; `None` while another one has it, or when there is no such file to be had.
pub(super) fn take(name: &str) -> Option<Lock> {
    Lock::acquire(&std::env::temp_dir().join(name)).ok()
}
