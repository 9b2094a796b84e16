//! What connects a worker to its keeper.
//!
//! Messages are a byte that says what they are and, of descriptors, their name:
//!
//! | bytes | says |
//! |---|---|
//! | `P` | progress: a request was completed, or the like |
//! | `L` | leaving: there is to be no successor |
//! | `K` name | the descriptors that come with it are to be kept under this name; `life` is the worker's own |
//! | `S` name | the descriptors that come with it, if any, are the spare of this name from now on, and no others |
//!
//! What is kept each worker gets. A spare is used up by its use: the next worker gets it, and nobody after that one.
//!
//! The keeper says nothing. Its end tells the worker that it is gone.

use std::collections::VecDeque;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::RecvFlags;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::arguments::{Kept, LIFE, NAME_BYTES_MAX, RESERVED, SPARES_MAX, is_name};
use crate::system;

/// What a worker says, descriptors aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    /// It serves: a request was completed.
    Progress,
    /// It ends, and there is to be no successor.
    Leaving,
}

const PROGRESS: u8 = b'P';
const LEAVING: u8 = b'L';
const KEEP: u8 = b'K';
const SPARE: u8 = b'S';

/// Two connected ends: the keeper's and the worker's.
pub(super) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    system::packet_pair()
}

/// The worker's end.
#[derive(Debug)]
pub struct Channel {
    socket: OwnedFd,
}

impl Channel {
    /// Takes the descriptor that the worker was started with.
    pub fn new(socket: OwnedFd) -> Channel {
        Channel { socket }
    }

    /// A channel to a keeper that is yet to be started, and that keeper's end.
    pub fn pair() -> io::Result<(Channel, OwnedFd)> {
        let (theirs, ours) = pair()?;
        Ok((Channel { socket: ours }, theirs))
    }

    /// Gives descriptors to the keeper. When this returns they outlive this process.
    pub fn hand_over(&self, name: &str, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        if !is_name(name) || RESERVED.contains(&name) || descriptors.is_empty() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        self.send(KEEP, name, descriptors)
    }

    /// Gives descriptors to the keeper for the next worker alone, in the place of those that it had under this name; without
    /// any, there are none from now on.
    pub fn put_aside(&self, name: &str, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        if !is_name(name) || RESERVED.contains(&name) || descriptors.len() > SPARES_MAX {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        self.send(SPARE, name, descriptors)
    }

    /// Says by the end of which thread the worker's is known.
    pub(super) fn show_life(&self, thread: BorrowedFd<'_>) -> io::Result<()> {
        self.send(KEEP, LIFE, &[thread])
    }

    fn send(&self, what: u8, name: &str, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let message = [&[what], name.as_bytes()].concat();
        system::send_packet(self.socket.as_fd(), &message, descriptors)
    }

    /// Says a word.
    pub fn say(&self, word: Word) -> io::Result<()> {
        let byte = match word {
            Word::Progress => PROGRESS,
            Word::Leaving => LEAVING,
        };
        system::send_packet(self.socket.as_fd(), &[byte], &[])
    }

    /// Waits until the keeper is gone. May be dropped half way. Needs a tokio runtime with I/O.
    pub async fn lost(&self) -> io::Result<()> {
        // SAFETY: the descriptor is borrowed from `self`, which outlives the `AsyncFd`.
        let socket = unsafe { AsyncFd::register_with_interest(self.socket.as_fd(), Interest::READABLE) }?;
        loop {
            let mut ready = socket.readable().await?;
            let mut byte = [MaybeUninit::uninit()];
            match rustix::net::recv(&self.socket, &mut byte[..], RecvFlags::DONTWAIT) {
                Ok((_, 0)) | Err(rustix::io::Errno::CONNRESET) => return Ok(()),
                // It says nothing that means anything.
                Ok(_) => {}
                Err(rustix::io::Errno::AGAIN) => ready.clear_ready(),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// What the keeper reads.
#[derive(Debug)]
pub(super) enum Heard {
    Word(Word),
    Keep(Vec<Kept>),
    /// The spare of this name, or that there is none.
    Spare(String, Vec<Kept>),
    /// The thread whose end is the worker's.
    Life(OwnedFd),
    Nonsense,
    /// Nothing more for now.
    Nothing,
    /// The worker's end is closed.
    End,
}

/// Reads one message, without waiting for it.
pub(super) fn hear(socket: BorrowedFd<'_>) -> io::Result<Heard> {
    let mut message = [0; 1 + NAME_BYTES_MAX];
    let mut descriptors = VecDeque::new();
    let length = match system::receive_packet(socket, &mut message, &mut descriptors) {
        Ok(0) => return Ok(Heard::End),
        Ok(length) => length,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Heard::Nothing),
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(Heard::End),
        Err(error) => return Err(error),
    };
    let (first, rest) = (message[0], &message[1..length]);
    if first == KEEP || first == SPARE {
        if (first, rest) == (KEEP, LIFE.as_bytes()) {
            return Ok(descriptors.pop_front().map_or(Heard::Nonsense, Heard::Life));
        }
        let name = std::str::from_utf8(rest).ok();
        let Some(name) = name.filter(|name| is_name(name) && !RESERVED.contains(name)) else {
            return Ok(Heard::Nonsense);
        };
        let named = |descriptor| Kept { name: name.to_owned(), descriptor };
        let descriptors = descriptors.into_iter().map(named).collect();
        return Ok(match first {
            KEEP => Heard::Keep(descriptors),
            _ => Heard::Spare(name.to_owned(), descriptors),
        });
    }
    Ok(match (first, rest) {
        (PROGRESS, []) => Heard::Word(Word::Progress),
        (LEAVING, []) => Heard::Word(Word::Leaving),
        _ => Heard::Nonsense,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_dead_worker_had_sent_is_still_heard() {
        let (channel, keeper) = Channel::pair().unwrap();
        let (reader, writer) = std::io::pipe().unwrap();
        channel.hand_over("pipe", &[writer.as_fd(), writer.as_fd()]).unwrap();
        channel.say(Word::Progress).unwrap();
        channel.say(Word::Leaving).unwrap();
        assert!(channel.hand_over("", &[writer.as_fd()]).is_err());
        assert!(channel.hand_over("Not a name", &[writer.as_fd()]).is_err());
        assert!(channel.hand_over("none", &[]).is_err());
        assert!(channel.hand_over("control", &[writer.as_fd()]).is_err());
        drop((channel, writer));

        let Heard::Keep(kept) = hear(keeper.as_fd()).unwrap() else { panic!("not descriptors") };
        assert_eq!(kept.iter().map(|kept| kept.name.as_str()).collect::<Vec<_>>(), ["pipe", "pipe"]);
        assert!(matches!(hear(keeper.as_fd()).unwrap(), Heard::Word(Word::Progress)));
        assert!(matches!(hear(keeper.as_fd()).unwrap(), Heard::Word(Word::Leaving)));
        assert!(matches!(hear(keeper.as_fd()).unwrap(), Heard::End));
        drop(kept);
        assert_eq!(std::io::read_to_string(reader).unwrap(), "");
    }

    #[test]
    fn nothing_is_waited_for_and_nonsense_is_named() {
        let (channel, keeper) = Channel::pair().unwrap();
        assert!(matches!(hear(keeper.as_fd()).unwrap(), Heard::Nothing));
        for nonsense in [&b"Q"[..], b"K", b"KNot a name", b"S", b"Slife", b"PP"] {
            system::send_packet(channel.socket.as_fd(), nonsense, &[]).unwrap();
            assert!(matches!(hear(keeper.as_fd()).unwrap(), Heard::Nonsense), "{nonsense:?}");
        }
    }

    #[test]
    fn a_spare_may_be_nothing() {
        let (channel, keeper) = Channel::pair().unwrap();
        channel.put_aside("stream", &[keeper.as_fd()]).unwrap();
        channel.put_aside("stream", &[]).unwrap();
        assert!(channel.put_aside("life", &[]).is_err());
        assert!(channel.put_aside("stream", &[keeper.as_fd(); SPARES_MAX + 1]).is_err());
        for count in [1, 0] {
            let Heard::Spare(name, descriptors) = hear(keeper.as_fd()).unwrap() else { panic!("no spare") };
            assert_eq!((name.as_str(), descriptors.len()), ("stream", count));
        }
    }

    #[tokio::test]
    async fn the_keepers_end_is_noticed() {
        let (channel, keeper) = Channel::pair().unwrap();
        let lost = channel.lost();
        tokio::pin!(lost);
        assert!(futures_poll(&mut lost).await.is_none());
        drop(keeper);
        lost.await.unwrap();
    }

    async fn futures_poll<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
        tokio::select! {
            biased;
            output = future => Some(output),
            () = tokio::task::yield_now() => None,
        }
    }
}
