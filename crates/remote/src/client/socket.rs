//! The two directions of a socket, of which only the reading one is watched all the time.
//!
//! Who watches a socket for both is woken each time the peer has taken something out of it: whoever writes a request and
//! waits for the reply would be woken twice for each. So the writing side is watched only while it is full.

use std::io::{self, IoSlice, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::AsyncWrite;
use tokio::net::unix::pipe;
use tokio::runtime::Handle;

/// What arrives, and what is sent. Within a tokio runtime.
pub(super) fn halves(stream: tokio::net::UnixStream) -> io::Result<(pipe::Receiver, SendingHalf)> {
    let socket = stream.into_std()?;
    // A pipe's receiver reads sockets as well, and is watched for reading only.
    let receiver = pipe::Receiver::from_owned_fd_unchecked(OwnedFd::from(socket.try_clone()?))?;
    Ok((receiver, SendingHalf { socket, runtime: Handle::current(), full: None }))
}

/// The sending direction. Dropped, it tells the peer that nothing more comes.
pub(super) struct SendingHalf {
    socket: UnixStream,
    runtime: Handle,
    /// While the socket takes nothing: a duplicate of it that is watched for writing only.
    full: Option<pipe::Sender>,
}

impl AsyncWrite for SendingHalf {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let half = &mut *self;
        let full = match &mut half.full {
            Some(full) => full,
            None => match half.socket.write_vectored(slices) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let _in_runtime = half.runtime.enter();
                    let socket = OwnedFd::from(half.socket.try_clone()?);
                    half.full.insert(pipe::Sender::from_owned_fd_unchecked(socket)?)
                }
                written => return Poll::Ready(written),
            },
        };
        let written = Pin::new(full).poll_write_vectored(context, slices);
        if written.is_ready() {
            half.full = None;
        }
        written
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.socket.shutdown(Shutdown::Write))
    }
}

impl Drop for SendingHalf {
    fn drop(&mut self) {
        // Where the peer has closed it, there is nobody to be told.
        let _ = self.socket.shutdown(Shutdown::Write);
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// More than any socket's buffers take.
    const MUCH: usize = 16 << 20;

    #[tokio::test]
    async fn a_full_socket_is_written_to_again_as_soon_as_its_peer_has_taken_something() {
        let (near, far) = tokio::net::UnixStream::pair().unwrap();
        let (_receiver, mut sender) = halves(near).unwrap();
        let (mut far, _) = halves(far).unwrap();

        let mut sent = 0;
        let first = std::future::poll_fn(|context| {
            while sent < MUCH {
                match Pin::new(&mut sender).poll_write(context, &[7; 4096]) {
                    Poll::Ready(written) => sent += written.unwrap(),
                    Poll::Pending => return Poll::Ready(true),
                }
            }
            Poll::Ready(false)
        });
        assert!(first.await, "all of it fitted");

        let rest = tokio::spawn(async move {
            sender.write_all(&vec![7; MUCH - sent]).await.unwrap();
            assert!(sender.full.is_none(), "it is watched on");
        });
        let mut taken = vec![0; MUCH];
        far.read_exact(&mut taken).await.unwrap();
        rest.await.unwrap();
        assert!(taken.iter().all(|byte| *byte == 7));
    }

    #[tokio::test]
    async fn the_peer_is_told_that_nothing_more_comes() {
        let (near, far) = tokio::net::UnixStream::pair().unwrap();
        let (mut receiver, sender) = halves(near).unwrap();
        let (mut far, mut answer) = halves(far).unwrap();

        drop(sender);

        assert_eq!(far.read(&mut [0; 1]).await.unwrap(), 0);
        answer.write_all(b"x").await.unwrap();
        assert_eq!(receiver.read_u8().await.unwrap(), b'x');
    }
}
