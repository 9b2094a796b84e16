//! Descriptors: over unix sockets, and as a task waits for them.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, recvmsg, sendmsg,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::UnixStream;

use crate::system;

/// The most descriptors in one message; the kernel's own limit is 253.
pub const DESCRIPTORS_MAX: usize = 64;

/// The most descriptors that wait to be taken. A peer that sends more than it announces is refused before it exhausts
/// the table of descriptors.
pub const WAITING_MAX: usize = 256;

/// A descriptor that a task can wait for until there is something to read. Needs a tokio runtime with I/O.
pub fn readable(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is one open descriptor for as long as it exists, and the `AsyncFd` owns it.
    let readable = unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) }?;
    Ok(readable)
}

/// Sends bytes with descriptors attached to the first of them. Returns how many bytes were taken; when it is not 0,
/// all descriptors were. There must be at least one byte.
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<usize> {
    if bytes.is_empty() || descriptors.len() > DESCRIPTORS_MAX {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    Ok(sendmsg(socket, &[IoSlice::new(bytes)], &mut ancillary, system::SEND)?)
}

/// Receives bytes, and the descriptors attached to them, close-on-exec. Returns how many bytes came; 0 is the end of
/// the stream.
pub fn receive(
    socket: BorrowedFd<'_>,
    bytes: &mut [u8],
    descriptors: &mut VecDeque<OwnedFd>,
) -> io::Result<usize> {
    receive_with(socket, bytes, descriptors, system::RECEIVE)
}

/// As [`receive`], and fails with [`io::ErrorKind::WouldBlock`] rather than wait, also on a socket that blocks.
pub fn receive_now(
    socket: BorrowedFd<'_>,
    bytes: &mut [u8],
    descriptors: &mut VecDeque<OwnedFd>,
) -> io::Result<usize> {
    receive_with(socket, bytes, descriptors, system::RECEIVE | RecvFlags::DONTWAIT)
}

fn receive_with(
    socket: BorrowedFd<'_>,
    bytes: &mut [u8],
    descriptors: &mut VecDeque<OwnedFd>,
    flags: RecvFlags,
) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let message = recvmsg(socket, &mut [IoSliceMut::new(bytes)], &mut ancillary, flags)?;
    for item in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = item {
            descriptors.extend(received);
        }
    }
    system::received(descriptors)?;
    if message.flags.contains(ReturnFlags::CTRUNC) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "more descriptors in a message than are allowed",
        ));
    }
    if descriptors.len() > WAITING_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "more descriptors than are announced"));
    }
    Ok(message.bytes)
}

/// A connected socket on which some bytes carry descriptors.
#[derive(Debug)]
pub struct DescriptorStream {
    stream: UnixStream,
    received: VecDeque<OwnedFd>,
}

impl DescriptorStream {
    /// Takes a connected stream socket.
    pub fn new(stream: UnixStream) -> DescriptorStream {
        DescriptorStream { stream, received: VecDeque::new() }
    }

    /// Takes an inherited descriptor, which must be a connected unix stream socket.
    pub fn inherited(descriptor: OwnedFd) -> io::Result<DescriptorStream> {
        let stream = std::os::unix::net::UnixStream::from(descriptor);
        stream.set_nonblocking(true)?;
        Ok(DescriptorStream::new(UnixStream::from_std(stream)?))
    }

    /// Two connected ends; the second is for a child to inherit, and blocks.
    pub fn pair() -> io::Result<(DescriptorStream, OwnedFd)> {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        Ok((DescriptorStream::new(UnixStream::from_std(ours)?), theirs.into()))
    }

    /// Reads some bytes; 0 at the end of the stream. Descriptors that came with them wait for
    /// [`take`](Self::take). May be dropped half way without loss.
    pub async fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let (stream, received) = (&self.stream, &mut self.received);
        stream.async_io(Interest::READABLE, || receive(stream.as_fd(), bytes, received)).await
    }

    /// Writes all bytes, with the descriptors attached to the first. Dropped half way, it may have written some.
    pub async fn write_all(&self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut written = 0;
        while written < bytes.len() {
            let attached = if written == 0 { descriptors } else { &[] };
            written += self
                .stream
                .async_io(Interest::WRITABLE, || send(self.stream.as_fd(), &bytes[written..], attached))
                .await?;
        }
        Ok(())
    }

    /// The next `count` descriptors, in the order in which they were sent; none when fewer have come.
    pub fn take(&mut self, count: usize) -> Option<Vec<OwnedFd>> {
        (self.received.len() >= count).then(|| self.received.drain(..count).collect())
    }

    /// How many descriptors wait.
    pub fn waiting(&self) -> usize {
        self.received.len()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek, Write};

    use super::*;

    fn file_with(content: &[u8]) -> std::fs::File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content).unwrap();
        file.rewind().unwrap();
        file
    }

    fn content(descriptor: OwnedFd) -> Vec<u8> {
        let mut content = Vec::new();
        std::fs::File::from(descriptor).read_to_end(&mut content).unwrap();
        content
    }

    #[tokio::test]
    async fn descriptors_arrive_in_order_with_the_first_byte() {
        let (mut ours, theirs) = DescriptorStream::pair().unwrap();
        let theirs = DescriptorStream::inherited(theirs).unwrap();
        let (one, two) = (file_with(b"one"), file_with(b"two"));
        theirs.write_all(b"ab", &[one.as_fd(), two.as_fd()]).await.unwrap();
        let mut byte = [0];
        assert_eq!(ours.read(&mut byte).await.unwrap(), 1);
        assert!(ours.take(3).is_none());
        let mut taken = ours.take(2).unwrap().into_iter();
        assert_eq!(content(taken.next().unwrap()), b"one");
        assert_eq!(content(taken.next().unwrap()), b"two");
        assert_eq!(ours.read(&mut byte).await.unwrap(), 1);
        assert_eq!((byte[0], ours.waiting()), (b'b', 0));
        drop(theirs);
        assert_eq!(ours.read(&mut byte).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn received_descriptors_are_not_inherited_by_children() {
        let (mut ours, theirs) = DescriptorStream::pair().unwrap();
        let file = file_with(b"");
        send(theirs.as_fd(), b"x", &[file.as_fd()]).unwrap();
        ours.read(&mut [0]).await.unwrap();
        let received = ours.take(1).unwrap().remove(0);
        assert!(rustix::io::fcntl_getfd(&received).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
    }

    #[tokio::test]
    async fn a_long_message_passes_in_pieces() {
        let (mut ours, theirs) = DescriptorStream::pair().unwrap();
        let theirs = DescriptorStream::inherited(theirs).unwrap();
        let long = vec![7; 4 << 20];
        let file = file_with(b"");
        let attached = [file.as_fd()];
        let writing = theirs.write_all(&long, &attached);
        let reading = async {
            let (mut total, mut buffer) = (0, vec![0; 64 << 10]);
            while total < long.len() {
                total += ours.read(&mut buffer).await.unwrap();
            }
            total
        };
        let (written, read) = tokio::join!(writing, reading);
        written.unwrap();
        assert_eq!((read, ours.waiting()), (long.len(), 1));
    }

    #[tokio::test]
    async fn a_flood_of_descriptors_is_refused_and_closed() {
        let (mut ours, theirs) = DescriptorStream::pair().unwrap();
        let file = file_with(b"");
        let many = vec![file.as_fd(); DESCRIPTORS_MAX];
        let mut refused = None;
        for _ in 0..=WAITING_MAX / DESCRIPTORS_MAX {
            send(theirs.as_fd(), b"x", &many).unwrap();
            refused = ours.read(&mut [0]).await.err();
        }
        assert_eq!(refused.map(|error| error.kind()), Some(io::ErrorKind::InvalidData));
    }

    #[test]
    fn descriptors_need_a_byte_to_travel_with() {
        let (one, _two) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(send(one.as_fd(), b"", &[one.as_fd()]).is_err());
        let many = vec![one.as_fd(); DESCRIPTORS_MAX + 1];
        assert!(send(one.as_fd(), b"x", &many).is_err());
    }
}
