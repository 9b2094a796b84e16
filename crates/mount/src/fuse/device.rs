//! `/dev/fuse`: where requests are read and replies are written.
//!
//! A device is a descriptor that belongs to a connection from the moment of the mount. Any process that holds
//! it can serve the connection; the kernel aborts it when the last holder closes. A *clone* is another
//! descriptor of the same connection with its own table of requests in progress: a request must be answered
//! through the descriptor it was read from, and ends with ECONNABORTED when that descriptor's last holder
//! closes it. Opening the device, clones, and files that the kernel reads by itself are of Linux alone.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "macos")]
mod macos;

use super::abi::{self, Flavour};
use super::buffer::Buffer;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::io::IoSlice;
use std::num::NonZeroI32;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use thiserror::Error;

#[cfg(target_os = "linux")]
pub use linux::PATH;
#[cfg(target_os = "macos")]
pub use macos::PATH;

/// What failed on the device; the source says why.
#[derive(Debug, Error)]
pub enum DeviceError {
    /// No such file: the module is not there. EACCES: the mount has to go through `fusermount3`.
    #[error("could not open {PATH}")]
    Open(#[source] Errno),
    /// EINVAL: the descriptor belongs to no mount yet. ENOTSUP: this kernel has one descriptor for each mount.
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
    #[cfg(target_os = "linux")]
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
    flavour: &'static Flavour,
}

impl Device {
    /// One that was opened elsewhere: received from what mounts, or inherited with a mount that is already
    /// served.
    pub fn from_fd(descriptor: OwnedFd) -> Self {
        Self { descriptor, flavour: abi::OWN }
    }

    /// Stands for the device of another kernel.
    #[cfg(test)]
    pub(crate) fn speaking(descriptor: OwnedFd, flavour: &'static Flavour) -> Self {
        Self { descriptor, flavour }
    }

    /// How the kernel behind it speaks.
    pub fn flavour(&self) -> &'static Flavour {
        self.flavour
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
