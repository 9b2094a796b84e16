//! The ends of a byte stream, which can be cut while threads wait for them.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;
use rustix::net::Shutdown;

/// What a pipe is to hold: the largest payload. With the usual 64 KiB, reader and writer change places for each part of it.
/// It is what everybody may have.
const PIPE_BYTES: usize = 1 << 20;

/// What requests are read from and what replies are written to.
pub(crate) struct Ends {
    pub input: OwnedFd,
    pub output: OwnedFd,
    cut: OnceLock<Scissors>,
}

struct Scissors {
    /// Readable from the cut on. Whoever waits for an end waits for this too.
    wake: OwnedFd,
    is_cut: AtomicBool,
}

impl Ends {
    /// Ends that only the peer can end.
    pub fn new(input: OwnedFd, output: OwnedFd) -> Ends {
        for end in [&input, &output] {
            // What is no pipe has its own buffers, and a user who has too many large ones keeps this one small.
            let _ = rustix::pipe::fcntl_setpipe_size(end, PIPE_BYTES);
        }
        Ends { input, output, cut: OnceLock::new() }
    }

    /// From now on [`Ends::cut`] ends them. To be called while nobody waits for them.
    ///
    /// A thread that waits inside a call for a socket is woken by a shutdown. For anything else there is no such thing: it
    /// is read and written without blocking, and waited for together with what tells of the cut.
    pub fn make_cuttable(&self) -> Result<(), Errno> {
        for end in [&self.input, &self.output] {
            if !is_socket(end) {
                rustix::fs::fcntl_setfl(end, rustix::fs::fcntl_getfl(end)? | OFlags::NONBLOCK)?;
            }
        }
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        self.cut.get_or_init(|| Scissors { wake, is_cut: AtomicBool::new(false) });
        Ok(())
    }

    /// Whoever reads or writes, now or later, is told that the stream has ended.
    pub fn cut(&self) {
        let Some(cut) = self.cut.get() else { return };
        cut.is_cut.store(true, Ordering::Release);
        // The counter is far from its limit: the write cannot fail.
        let _ = rustix::io::write(&cut.wake, &1u64.to_ne_bytes());
        for end in [&self.input, &self.output] {
            // What is no socket, or has lost its peer, needs none.
            let _ = rustix::net::shutdown(end, Shutdown::Both);
        }
    }

    /// Reads into the buffer's spare capacity; 0 is the stream's end.
    pub fn read(&self, buffer: &mut Vec<u8>) -> Result<usize, Errno> {
        self.read_by(|input| rustix::io::read(input, rustix::buffer::spare_capacity(buffer)))
    }

    /// Reads into the buffer, which is not empty; 0 is the stream's end.
    pub fn read_into(&self, buffer: &mut [u8]) -> Result<usize, Errno> {
        self.read_by(|input| rustix::io::read(input, &mut *buffer))
    }

    fn read_by(&self, mut read: impl FnMut(&OwnedFd) -> Result<usize, Errno>) -> Result<usize, Errno> {
        loop {
            match read(&self.input) {
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => self.wait_for(self.input.as_fd(), PollFlags::IN)?,
                // The peer is gone without a word; for a reader that is an end like another.
                Err(Errno::CONNRESET) => return Ok(0),
                result => return result,
            }
            if self.is_cut() {
                return Ok(0);
            }
        }
    }

    /// Waits until an end that does not block can go on, or is cut.
    pub fn wait_for(&self, end: BorrowedFd<'_>, what: PollFlags) -> Result<(), Errno> {
        let end = PollFd::from_borrowed_fd(end, what);
        let waited = match self.cut.get() {
            None => poll(&mut [end], None),
            Some(cut) => poll(&mut [end, PollFd::new(&cut.wake, PollFlags::IN)], None),
        };
        match waited {
            Ok(_) | Err(Errno::INTR) if self.is_cut() => Err(Errno::PIPE),
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    fn is_cut(&self) -> bool {
        self.cut.get().is_some_and(|cut| cut.is_cut.load(Ordering::Acquire))
    }
}

fn is_socket(end: &OwnedFd) -> bool {
    rustix::fs::fstat(end).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Socket)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_cut_ends_whoever_reads_and_writes_whatever_the_stream_is() {
        let (_near, socket) = UnixStream::pair().unwrap();
        let (pipe_out, _full) = rustix::pipe::pipe().unwrap();
        let (_empty, pipe_in) = rustix::pipe::pipe().unwrap();
        let sockets = (OwnedFd::from(socket.try_clone().unwrap()), OwnedFd::from(socket));
        for (input, output) in [sockets, (pipe_out, pipe_in)] {
            let ends = Arc::new(Ends::new(input, output));
            ends.make_cuttable().unwrap();
            let reader = ends.clone();
            let reader = std::thread::spawn(move || reader.read(&mut Vec::with_capacity(10)));
            let writer = ends.clone();
            let writer = std::thread::spawn(move || {
                loop {
                    let wrote = rustix::io::write(&writer.output, &[0; 4096]);
                    match wrote {
                        Ok(_) => {}
                        Err(Errno::AGAIN) => {
                            if let Err(errno) = writer.wait_for(writer.output.as_fd(), PollFlags::OUT) {
                                return errno;
                            }
                        }
                        Err(errno) => return errno,
                    }
                }
            });
            ends.cut();
            assert!(matches!(reader.join().unwrap(), Ok(0) | Err(Errno::PIPE)));
            assert_eq!(writer.join().unwrap(), Errno::PIPE);
        }
    }
}
