//! macOS: each mount has a device of its own, which is open once, by what mounts.

use super::{Device, DeviceError};
use rustix::io::Errno;

/// What the names of the devices begin with; a number follows.
pub const PATH: &str = "/dev/macfuse";

impl Device {
    /// There is no other descriptor: the threads share this one.
    pub fn clone_for_thread(&self) -> Result<Self, DeviceError> {
        Err(DeviceError::Clone(Errno::NOTSUP))
    }
}
