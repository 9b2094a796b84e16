//! The worker's end of its control socket.

use std::io;
use std::os::fd::OwnedFd;

use supervisor::descriptor::DescriptorStream;
use wire::worker::{Decoder, FromWorker, ToWorker, encode};

/// How much is read at once.
const READ_BYTES: usize = 4096;

/// See the module's documentation.
pub(super) struct Control {
    stream: DescriptorStream,
    decoder: Decoder,
}

impl Control {
    pub(super) fn new(socket: OwnedFd) -> io::Result<Control> {
        Ok(Control { stream: DescriptorStream::inherited(socket)?, decoder: Decoder::new() })
    }

    /// The next message; `None` when the daemon is gone. May be dropped half way without loss.
    pub(super) async fn receive(&mut self) -> io::Result<Option<ToWorker>> {
        loop {
            if let Some(message) = self.decoder.next_frame().map_err(io::Error::other)? {
                return Ok(Some(message));
            }
            let mut bytes = [0; READ_BYTES];
            match self.stream.read(&mut bytes).await {
                Ok(0) => return Ok(None),
                Ok(read) => self.decoder.push(&bytes[..read]),
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }

    /// Sends a message. A daemon that has just gone is no error: the next read tells.
    pub(super) async fn send(&self, message: &FromWorker) -> io::Result<()> {
        let frame = encode(message).map_err(io::Error::other)?;
        match self.stream.write_all(&frame, &[]).await {
            Err(error) if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => Ok(()),
            sent => sent,
        }
    }
}
