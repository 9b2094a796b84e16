//! `/dev/fuse`: where requests are read and replies are written.
//!
//! A device is a descriptor that belongs to a connection from the moment of the mount. Any process that holds
//! it can serve the connection; the kernel aborts it when the last holder closes. A *clone* is another
//! descriptor of the same connection with its own table of requests in progress: a request must be answered
//! through the descriptor it was read from, and ends with ECONNABORTED when that descriptor's last holder
//! closes it.

use super::abi;
use super::buffer::Buffer;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::io::IoSlice;
use std::num::NonZeroI32;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use thiserror::Error;

/// The device file.
pub const PATH: &str = "/dev/fuse";

/// What failed on the device; the source says why.
#[derive(Debug, Error)]
pub enum DeviceError {
    /// No such file: the module is not there. EACCES: the mount has to go through `fusermount3`.
    #[error("could not open {PATH}")]
    Open(#[source] Errno),
    /// EINVAL: the descriptor belongs to no mount yet.
    #[error("could not attach another descriptor to the mount")]
    Clone(#[source] Errno),
    /// EPERM: there is no mount yet. EINVAL: the buffer is smaller than `max_write` needs.
    #[error("could not read a request from {PATH}")]
    Read(#[source] Errno),
    /// EPERM: needs `CAP_SYS_ADMIN`. EOPNOTSUPP: passthrough was not negotiated. ELOOP: the file's own file
    /// system is stacked deeper than was negotiated.
    #[error("could not register a file for passthrough")]
    BackingOpen(#[source] Errno),
    /// ENOENT: there is no such id.
    #[error("could not end the passthrough of backing file {}", .id.number())]
    BackingClose {
        /// Which.
        id: BackingId,
        /// Why.
        #[source]
        source: Errno,
    },
    /// The descriptor cannot be switched.
    #[error("could not change the blocking mode of {PATH}")]
    Mode(#[source] Errno),
}

/// What a read of the device gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Incoming {
    /// The buffer holds one message.
    Message,
    /// A signal came, or the request was taken back before it was read. Read again.
    Retry,
    /// The descriptor is non-blocking and nothing is there.
    Empty,
    /// There is no mount any more.
    Unmounted,
    /// The connection was aborted; the mount point answers ENOTCONN until it is unmounted.
    Aborted,
}

/// The number under which the kernel knows a file that is read and written without asking. It belongs to the
/// connection, not to the process: a successor must know it to close it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BackingId(NonZeroI32);

impl BackingId {
    /// The one with this number; `None` for a number that no id has.
    pub(crate) fn of(number: i32) -> Option<BackingId> {
        NonZeroI32::new(number).filter(|number| number.is_positive()).map(BackingId)
    }

    /// As the kernel counts.
    pub fn number(self) -> i32 {
        self.0.get()
    }
}

/// One descriptor of a connection.
#[derive(Debug)]
pub struct Device {
    descriptor: OwnedFd,
}

impl Device {
    /// A descriptor that belongs to no mount yet.
    pub fn open() -> Result<Self, DeviceError> {
        let descriptor = rustix::fs::open(PATH, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
            .map_err(DeviceError::Open)?;
        Ok(Self { descriptor })
    }

    /// One that was opened elsewhere: received from `fusermount3`, or inherited with a mount that is already
    /// served.
    pub fn from_fd(descriptor: OwnedFd) -> Self {
        Self { descriptor }
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

    /// Reads one message. Blocks until there is one, unless the descriptor is non-blocking.
    pub fn read(&self, buffer: &mut Buffer) -> Result<Incoming, DeviceError> {
        buffer.set_filled(0);
        match rustix::io::read(&self.descriptor, buffer.space_mut()) {
            Ok(0) => Ok(Incoming::Unmounted),
            Ok(bytes) => {
                buffer.set_filled(bytes);
                Ok(Incoming::Message)
            }
            Err(Errno::INTR | Errno::NOENT) => Ok(Incoming::Retry),
            Err(Errno::AGAIN) => Ok(Incoming::Empty),
            Err(Errno::NODEV) => Ok(Incoming::Unmounted),
            Err(Errno::CONNABORTED) => Ok(Incoming::Aborted),
            Err(errno) => Err(DeviceError::Read(errno)),
        }
    }

    /// Whether [`Device::read`] has something to return at once. Somebody else may read it first.
    pub fn has_message(&self) -> bool {
        let now = rustix::time::Timespec::default();
        let mut polled = [rustix::event::PollFd::new(&self.descriptor, rustix::event::PollFlags::IN)];
        rustix::io::retry_on_intr(|| rustix::event::poll(&mut polled, Some(&now)))
            .is_ok_and(|ready| ready > 0)
    }

    /// Writes one message, whole or not at all.
    pub(super) fn write(&self, pieces: &[IoSlice<'_>]) -> Result<(), Errno> {
        let expected: usize = pieces.iter().map(|piece| piece.len()).sum();
        let written = rustix::io::retry_on_intr(|| rustix::io::writev(&self.descriptor, pieces))?;
        if written == expected { Ok(()) } else { Err(Errno::IO) }
    }

    /// Makes [`Device::read`] return [`Incoming::Empty`] instead of waiting, so that a thread can wait for
    /// the device and for the end of its work at once. Concerns every holder of this descriptor.
    pub fn set_nonblocking(&self, nonblocking: bool) -> Result<(), DeviceError> {
        rustix::io::ioctl_fionbio(&self.descriptor, nonblocking).map_err(DeviceError::Mode)
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

    /// The descriptor, for handing it to the process that serves the mount next.
    pub fn into_fd(self) -> OwnedFd {
        self.descriptor
    }
}

impl AsFd for Device {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
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
