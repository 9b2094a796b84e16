//! The worker's end of its control socket.

use std::io;
use std::os::fd::OwnedFd;

use rustix::io::{FdFlags, fcntl_setfd};
use supervisor::descriptor::DescriptorStream;
use wire::worker::{Decoder, FromWorker, ToWorker, encode};

/// How much is read at once.
const READ_BYTES: usize = 4096;

/// See the module's documentation. A daemon that goes away, or cannot be understood any more, is no failure of a
/// mount that people use: nothing is heard of it from then on, and what is said to it is dropped.
pub(super) struct Control {
    stream: DescriptorStream,
    decoder: Decoder,
    daemon: Daemon,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Daemon {
    There,
    Gone,
}

impl Control {
    /// Takes the inherited socket; children of this process do not inherit it any further.
    pub(super) fn new(socket: OwnedFd) -> io::Result<Control> {
        fcntl_setfd(&socket, FdFlags::CLOEXEC)?;
        Ok(Control {
            stream: DescriptorStream::inherited(socket)?,
            decoder: Decoder::new(),
            daemon: Daemon::There,
        })
    }

    /// The next message; `None`, once, when the daemon is gone, and after that nothing for ever. May be dropped half way
    /// without loss.
    pub(super) async fn receive(&mut self) -> Option<ToWorker> {
        if self.daemon == Daemon::Gone {
            return std::future::pending().await;
        }
        match self.read().await {
            Ok(Some(message)) => return Some(message),
            Ok(None) => tracing::warn!("the daemon is gone"),
            Err(error) => tracing::error!(%error, "the daemon cannot be understood"),
        }
        self.daemon = Daemon::Gone;
        None
    }

    async fn read(&mut self) -> io::Result<Option<ToWorker>> {
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

    /// Sends a message, if there is a daemon. One that has just gone is noticed by the next read.
    pub(super) async fn send(&self, message: &FromWorker) {
        if self.daemon == Daemon::Gone {
            return;
        }
        let frame = match encode(message) {
            Ok(frame) => frame,
            Err(error) => return tracing::error!(%error, "a message was not sent"),
        };
        match self.stream.write_all(&frame, &[]).await {
            Ok(()) => {}
            Err(error)
                if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => {}
            Err(error) => tracing::error!(%error, "a message was not sent"),
        }
    }
}
