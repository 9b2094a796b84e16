//! A lock on a file of this user's in the directory for what is temporary, which may be everybody's: other users have other files.

pub(super) use supervisor::lock::Lock;
use supervisor::lock::LockError;

/// Takes it; `None` while another one has it. Fails when there is no such file to be had.
pub(super) fn take(name: &str) -> Result<Option<Lock>, LockError> {
    let user = rustix::process::geteuid().as_raw();
    match Lock::acquire(&std::env::temp_dir().join(format!("{name}-{user}"))) {
        Ok(lock) => Ok(Some(lock)),
        Err(LockError::Held { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}
