//! From a descriptor to a request: what every server of a mount does alike.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Tally;

use crate::fuse::buffer::Buffer;
use crate::fuse::device::{Device, DeviceError, Incoming};
use crate::fuse::reply;
use crate::fuse::request::{Dialect, Request};

/// The next number of a request, where the kernel's own return.
static OWN_NUMBER: AtomicU64 = AtomicU64::new(1);

/// What was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Read {
    /// A request that a predecessor had taken, or nothing that has a place in the order of requests.
    Early,
    /// Any other request.
    Usual,
    /// There is nothing more to be read.
    End,
}

/// Reads one message, if there is one. Otherwise says what there was instead.
pub(crate) fn receive(device: &Device, buffer: &mut Buffer) -> Result<(), Read> {
    match device.read(buffer) {
        Ok(Incoming::Message) => Ok(()),
        Ok(Incoming::Retry | Incoming::Empty) => Err(Read::Early),
        Ok(Incoming::Unmounted | Incoming::Aborted) => Err(Read::End),
        Err(error) => {
            tracing::error!(%error, "the device cannot be read; the thread ends");
            Err(Read::End)
        }
    }
}

/// The request of a message, counted. One that cannot be read is refused, where it says how.
pub(crate) fn parse<'a>(
    device: &Arc<Device>,
    message: &'a [u8],
    dialect: Dialect,
    tally: &Tally,
) -> Option<Request<'a>> {
    match Request::parse_as(message, dialect) {
        Ok(mut request) => {
            if device.flavour().numbers_return {
                request.header.own = Some(OWN_NUMBER.fetch_add(1, Ordering::Relaxed));
            }
            tally.take(&request.header);
            Some(request)
        }
        Err(error) => {
            tally.take_unknown();
            tracing::error!(%error, "a request cannot be read");
            if let Some(header) = error.header
                && let Err(error) = reply::refuse_malformed(device, &header)
            {
                tracing::error!(%error, "and cannot be refused");
            }
            None
        }
    }
}

/// Takes again what a predecessor had taken: the kernel has queued it ahead of everything else, so it ends with the first request that is
/// not of it, or when there is none.
pub(crate) fn take_again(device: &Device, mut read_one: impl FnMut() -> Read) -> Result<(), DeviceError> {
    // What is there to be read may be taken back before it is.
    device.set_nonblocking(true)?;
    while device.has_message() && read_one() == Read::Early {}
    device.set_nonblocking(false)
}
