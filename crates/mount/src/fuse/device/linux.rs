//! Linux: the device is a file that anyone may open, and a connection has as many descriptors as are wanted.

use super::{BackingId, Device, DeviceError};
use crate::fuse::abi;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::num::NonZeroI32;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

/// The device file.
pub const PATH: &str = "/dev/fuse";

impl Device {
    /// A descriptor that belongs to no mount yet.
    pub fn open() -> Result<Self, DeviceError> {
        let descriptor = rustix::fs::open(PATH, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
            .map_err(DeviceError::Open)?;
        Ok(Self::from_fd(descriptor))
    }

    /// Another descriptor of this connection with its own table of requests, for a thread of its own. Needs
    /// the right to open the device file, which an unprivileged user may not have; then the threads share one
    /// descriptor.
    pub fn clone_for_thread(&self) -> Result<Self, DeviceError> {
        let clone = Self::open()?;
        let mut source = self.descriptor.as_raw_fd().cast_unsigned();
        // SAFETY: the request takes a pointer to a `u32`, which lives until the call returns.
        unsafe { control(&clone.descriptor, abi::ioctl::CLONE, &raw mut source) }
            .map_err(DeviceError::Clone)?;
        Ok(clone)
    }

    /// Registers `file` for passthrough. The kernel keeps it open until [`Device::backing_close`] and the
    /// last open file with this id are both past, or the mount ends.
    pub fn backing_open(&self, file: BorrowedFd<'_>) -> Result<BackingId, DeviceError> {
        let mut map = abi::BackingMap { fd: file.as_raw_fd(), flags: 0, padding: 0 };
        // SAFETY: the request takes a pointer to a `fuse_backing_map`, which lives until the call returns.
        let id = unsafe { control(&self.descriptor, abi::ioctl::BACKING_OPEN, &raw mut map) }
            .map_err(DeviceError::BackingOpen)?;
        NonZeroI32::new(id).map(BackingId).ok_or(DeviceError::BackingOpen(Errno::INVAL))
    }

    /// Gives back an id. Files that were opened with it keep their passthrough.
    pub fn backing_close(&self, id: BackingId) -> Result<(), DeviceError> {
        let mut number = id.number().cast_unsigned();
        // SAFETY: the request takes a pointer to a `u32`, which lives until the call returns.
        unsafe { control(&self.descriptor, abi::ioctl::BACKING_CLOSE, &raw mut number) }
            .map(drop)
            .map_err(|source| DeviceError::BackingClose { id, source })
    }
}

/// `ioctl(2)` that returns a number.
///
/// # Safety
///
/// `argument` must point to what `request` reads and writes.
unsafe fn control<T>(
    descriptor: &OwnedFd,
    request: rustix::ioctl::Opcode,
    argument: *mut T,
) -> Result<i32, Errno> {
    // SAFETY: the descriptor is open; the argument is the caller's promise.
    let result = unsafe { libc::ioctl(descriptor.as_raw_fd(), request as _, argument) };
    if result >= 0 {
        return Ok(result);
    }
    let error = std::io::Error::last_os_error();
    Err(Errno::from_io_error(&error).unwrap_or(Errno::IO))
}
