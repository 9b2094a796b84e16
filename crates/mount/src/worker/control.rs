//! The socket on which the mount's workers, one after the other, hear from the daemon.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener as StdListener;
use std::time::Duration;

use supervisor::descriptor::DescriptorStream;
use supervisor::socket::{is_own, peer};
use tokio::net::{UnixListener, UnixStream};
use wire::worker::{Decoder, FromWorker, ToWorker, WorkerError, encode};

/// How much is read at once.
const READ_BYTES: usize = 4096;

/// How long a daemon that does not read is waited for: a frame is shorter than the socket's buffer, so one that reads at
/// all has room for it.
const SEND_MAX: Duration = Duration::from_secs(5);

/// How long it is waited for somebody to be told why there is no mount. The daemon connects before a worker can know.
const REFUSAL_MAX: Duration = Duration::from_secs(5);

/// See the module's documentation. Whoever connected last is the daemon. One that goes away, or cannot be understood any
/// more, is no failure of a mount that people use: nothing is heard of it from then on, and what is said to it is
/// dropped.
pub(super) struct Control {
    listener: UnixListener,
    daemon: Option<Daemon>,
}

struct Daemon {
    stream: DescriptorStream,
    decoder: Decoder,
}

/// What a worker hears.
#[derive(Debug, PartialEq)]
pub(super) enum Heard {
    /// A daemon is there, and waits for `ready`.
    Connected,
    /// It said something.
    Said(ToWorker),
    /// It has gone.
    Gone,
}

impl Control {
    /// Takes the inherited listening socket. Within a tokio runtime.
    pub(super) fn new(socket: OwnedFd) -> io::Result<Control> {
        let listener = StdListener::from(socket);
        listener.set_nonblocking(true)?;
        Ok(Control { listener: UnixListener::from_std(listener)?, daemon: None })
    }

    /// What is heard next. May be dropped half way without loss.
    pub(super) async fn next(&mut self) -> Heard {
        loop {
            let said = tokio::select! {
                accepted = self.listener.accept() => {
                    let stream = match accepted {
                        Ok((stream, _)) => stream,
                        // As when whoever connects is gone already.
                        Err(error) => {
                            tracing::warn!(%error, "a daemon was not accepted");
                            tokio::task::yield_now().await;
                            continue;
                        }
                    };
                    match self.admit(stream) {
                        true => return Heard::Connected,
                        false => continue,
                    }
                }
                said = read(&mut self.daemon) => said,
            };
            match said {
                Ok(Some(message)) => return Heard::Said(message),
                Ok(None) => {}
                Err(error) => tracing::error!(%error, "the daemon cannot be understood"),
            }
            self.daemon = None;
            return Heard::Gone;
        }
    }

    fn admit(&mut self, stream: UnixStream) -> bool {
        match peer(&stream) {
            Ok(peer) if is_own(&peer) => {}
            Ok(peer) => {
                tracing::warn!(uid = peer.uid, "a stranger was not admitted");
                return false;
            }
            // It is gone again.
            Err(_) => return false,
        }
        self.daemon = Some(Daemon { stream: DescriptorStream::new(stream), decoder: Decoder::new() });
        true
    }

    /// Sends a message, if there is a daemon. One that has just gone is noticed by the next read.
    pub(super) async fn send(&self, message: &FromWorker) {
        let Some(daemon) = &self.daemon else { return };
        let frame = match encode(message) {
            Ok(frame) => frame,
            Err(error) => return tracing::error!(%error, "a message was not sent"),
        };
        match tokio::time::timeout(SEND_MAX, daemon.stream.write_all(&frame, &[])).await {
            Ok(Ok(())) => {}
            Ok(Err(error))
                if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => {}
            Ok(Err(error)) => tracing::error!(%error, "a message was not sent"),
            Err(_) => tracing::error!("a message was not sent: the daemon does not read"),
        }
    }

    /// Tells whoever comes first why there is no mount.
    pub(super) async fn refuse(mut self, error: WorkerError) {
        let connected = async { while self.next().await != Heard::Connected {} };
        if tokio::time::timeout(REFUSAL_MAX, connected).await.is_err() {
            return tracing::warn!("nobody was there to be told");
        }
        self.send(&FromWorker::Error(error)).await;
    }
}

/// The next message; `None` when the daemon has gone; never, if there is none.
async fn read(daemon: &mut Option<Daemon>) -> io::Result<Option<ToWorker>> {
    let Some(Daemon { stream, decoder }) = daemon else { return std::future::pending().await };
    loop {
        if let Some(message) = decoder.next_frame().map_err(io::Error::other)? {
            return Ok(Some(message));
        }
        let mut bytes = [0; READ_BYTES];
        match stream.read(&mut bytes).await {
            Ok(0) => return Ok(None),
            Ok(read) => decoder.push(&bytes[..read]),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use wire::api::ErrorKind;

    use super::*;

    fn listening() -> (tempfile::TempDir, Control) {
        let directory = tempfile::tempdir().unwrap();
        let socket = supervisor::socket::listen_in(directory.path(), "s").unwrap();
        (directory, Control::new(socket.into()).unwrap())
    }

    fn connect(directory: &tempfile::TempDir) -> std::os::unix::net::UnixStream {
        supervisor::socket::connect_in(directory.path(), "s").unwrap()
    }

    #[tokio::test]
    async fn the_newest_daemon_is_heard_and_the_others_see_an_end() {
        let (directory, mut control) = listening();
        let mut first = connect(&directory);
        assert_eq!(control.next().await, Heard::Connected);
        let mut second = connect(&directory);
        assert_eq!(control.next().await, Heard::Connected);
        assert_eq!(first.read(&mut [0]).unwrap(), 0);
        second.write_all(&encode(&ToWorker::Status).unwrap()).unwrap();
        assert_eq!(control.next().await, Heard::Said(ToWorker::Status));
        drop(second);
        assert_eq!(control.next().await, Heard::Gone);
        let third = connect(&directory);
        assert_eq!(control.next().await, Heard::Connected);
        drop(third);
    }

    #[tokio::test]
    async fn nonsense_ends_a_daemon_and_not_the_mount() {
        let (directory, mut control) = listening();
        let mut daemon = connect(&directory);
        assert_eq!(control.next().await, Heard::Connected);
        daemon.write_all(&[0xff; 8]).unwrap();
        assert_eq!(control.next().await, Heard::Gone);
        assert_eq!(daemon.read(&mut [0]).unwrap(), 0);
    }

    #[tokio::test]
    async fn whoever_comes_is_told_why_there_is_no_mount() {
        let (directory, control) = listening();
        let mut daemon = connect(&directory);
        let error = WorkerError { kind: ErrorKind::Conflict, message: "in use".to_owned(), hint: None };
        control.refuse(error.clone()).await;
        let mut said = Vec::new();
        daemon.read_to_end(&mut said).unwrap();
        let mut decoder = Decoder::new();
        decoder.push(&said);
        assert_eq!(decoder.next_frame::<FromWorker>().unwrap(), Some(FromWorker::Error(error)));
    }
}
