//! How streams to the agent of a microVM share a port that knows no connections.
//!
//! A port is a virtio serial port, with a unix socket at the host's end. It carries bytes both ways, and neither end learns for
//! certain when the other one has begun anew: what one stream has left in it comes out before the next one. So the byte
//! [`ESCAPE`] is never data by itself. What follows it is a mark:
//!
//! | after the escape | from | meaning |
//! |---|---|---|
//! | the escape again | both | that byte, as data |
//! | `O`, 64 digits | host | a stream begins: 16 bytes by which it is known, and the session to resume, zero for none |
//! | `A`, 32 digits | guest | the stream of these bytes begins here: whatever came before it was another one's |
//! | `E` | both | no more data comes from this end |
//! | `X`, 2 digits | guest | the agent has ended, with this status |
//! | `P` | both | the machine is to be powered off; the guest repeats it when it has begun to |
//! | anything else | | nothing: the rest of a mark that was cut |
//!
//! Digits are hexadecimal, small, the high half of a byte first. An end that begins a stream sends a byte of zero before the
//! mark: an escape without its mark may be in the port. Data outside of a stream means nothing.
//!
//! A guest has [`PORTS`] ports, `stead.0` to the last. Nobody but a request to power off uses the first one, so that it is
//! always free for that.

use crate::hello::SessionId;

/// Not in any text in UTF-8.
pub const ESCAPE: u8 = 0xc1;

/// How many ports a guest has. Each takes half a MiB of its memory.
pub const PORTS: usize = 16;

/// What the names of ports begin with.
pub const PORT_PREFIX: &str = "stead.";

/// By what a stream is known.
pub type Nonce = [u8; 16];

/// What is said beside data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// A stream begins.
    Open {
        /// By what it is known.
        nonce: Nonce,
        /// The session to resume; the default for none.
        session: SessionId,
    },
    /// The stream begins here.
    Accepted {
        /// Which.
        nonce: Nonce,
    },
    /// No more data comes.
    End,
    /// The agent has ended.
    Exited {
        /// With what.
        status: u8,
    },
    /// The machine is to be powered off.
    PowerOff,
}

impl Mark {
    /// Adds it to what is to be sent.
    pub fn write(&self, out: &mut Vec<u8>) {
        match self {
            Mark::Open { nonce, session } => {
                out.extend([0, ESCAPE, b'O']);
                write_digits(nonce, out);
                write_digits(&session.0, out);
            }
            Mark::Accepted { nonce } => {
                out.extend([0, ESCAPE, b'A']);
                write_digits(nonce, out);
            }
            Mark::End => out.extend([ESCAPE, b'E']),
            Mark::Exited { status } => {
                out.extend([ESCAPE, b'X']);
                write_digits(&[*status], out);
            }
            Mark::PowerOff => out.extend([0, ESCAPE, b'P']),
        }
    }
}

fn write_digits(bytes: &[u8], out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for byte in bytes {
        out.extend([DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
    }
}

/// Adds data to what is to be sent: at most twice its length.
pub fn write_data(mut data: &[u8], out: &mut Vec<u8>) {
    while let Some(at) = data.iter().position(|&byte| byte == ESCAPE) {
        out.extend(&data[..at]);
        out.extend([ESCAPE, ESCAPE]);
        data = &data[at + 1..];
    }
    out.extend(data);
}

/// What came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// Data: some of it.
    Data(&'a [u8]),
    /// A mark.
    Mark(Mark),
}

/// Takes apart what comes through a port, in whatever pieces it comes.
#[derive(Clone, Debug, Default)]
pub struct Reader {
    state: State,
}

#[derive(Clone, Debug, Default)]
enum State {
    #[default]
    Plain,
    Escaped,
    Digits {
        of: Digits,
        bytes: [u8; 32],
        digits: usize,
    },
}

#[derive(Clone, Copy, Debug)]
enum Digits {
    Open,
    Accepted,
    Exited,
}

impl Digits {
    fn bytes(self) -> usize {
        match self {
            Digits::Open => 32,
            Digits::Accepted => 16,
            Digits::Exited => 1,
        }
    }

    fn mark(self, bytes: &[u8; 32]) -> Mark {
        let half = |from: usize| -> [u8; 16] { std::array::from_fn(|at| bytes[from + at]) };
        match self {
            Digits::Open => Mark::Open { nonce: half(0), session: SessionId(half(16)) },
            Digits::Accepted => Mark::Accepted { nonce: half(0) },
            Digits::Exited => Mark::Exited { status: bytes[0] },
        }
    }
}

impl Reader {
    /// Takes the next piece from the beginning of `input`; `None` when nothing is left of it.
    pub fn next<'a>(&mut self, input: &mut &'a [u8]) -> Option<Piece<'a>> {
        loop {
            let whole: &'a [u8] = input;
            let (&first, rest) = whole.split_first()?;
            match &mut self.state {
                State::Plain => {
                    let at = whole.iter().position(|&byte| byte == ESCAPE).unwrap_or(whole.len());
                    if at > 0 {
                        *input = &whole[at..];
                        return Some(Piece::Data(&whole[..at]));
                    }
                    self.state = State::Escaped;
                }
                State::Escaped => {
                    *input = rest;
                    self.state = State::Plain;
                    let digits = |of| State::Digits { of, bytes: [0; 32], digits: 0 };
                    match first {
                        ESCAPE => return Some(Piece::Data(&whole[..1])),
                        b'E' => return Some(Piece::Mark(Mark::End)),
                        b'P' => return Some(Piece::Mark(Mark::PowerOff)),
                        b'O' => self.state = digits(Digits::Open),
                        b'A' => self.state = digits(Digits::Accepted),
                        b'X' => self.state = digits(Digits::Exited),
                        _ => {}
                    }
                    continue;
                }
                State::Digits { of, bytes, digits } => match digit(first) {
                    Some(value) => {
                        bytes[*digits / 2] = bytes[*digits / 2] << 4 | value;
                        *digits += 1;
                        if *digits == 2 * of.bytes() {
                            let mark = of.mark(bytes);
                            *input = rest;
                            self.state = State::Plain;
                            return Some(Piece::Mark(mark));
                        }
                    }
                    None if first == ESCAPE => self.state = State::Escaped,
                    None => self.state = State::Plain,
                },
            }
            *input = rest;
        }
    }
}

fn digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, PartialEq, Eq)]
    enum Whole {
        Data(Vec<u8>),
        Mark(Mark),
    }

    fn read(chunks: &[&[u8]]) -> Vec<Whole> {
        let mut reader = Reader::default();
        let mut read = Vec::new();
        for chunk in chunks {
            let mut input = *chunk;
            while let Some(piece) = reader.next(&mut input) {
                match (piece, read.last_mut()) {
                    (Piece::Data(more), Some(Whole::Data(data))) => data.extend(more),
                    (Piece::Data(data), _) => read.push(Whole::Data(data.to_vec())),
                    (Piece::Mark(mark), _) => read.push(Whole::Mark(mark)),
                }
            }
            assert!(input.is_empty());
        }
        read
    }

    const MARKS: [Mark; 5] = [
        Mark::Open { nonce: [0xc1; 16], session: SessionId([7; 16]) },
        Mark::Accepted { nonce: [0xab; 16] },
        Mark::End,
        Mark::Exited { status: 0xf1 },
        Mark::PowerOff,
    ];

    #[test]
    fn a_stream_that_begins_is_seen_whatever_was_cut_before_it() {
        for cut in MARKS {
            let mut before = Vec::new();
            cut.write(&mut before);
            write_data(&[ESCAPE, 5, ESCAPE], &mut before);
            for end in 0..=before.len() {
                let mut port = before[..end].to_vec();
                MARKS[0].write(&mut port);
                assert_eq!(read(&[&port]).last(), Some(&Whole::Mark(MARKS[0])), "{cut:?} up to {end}");
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_sent_is_what_comes_in_whatever_pieces(
            parts in prop::collection::vec((prop::collection::vec(prop_oneof![Just(ESCAPE), any::<u8>()], 1..9), 0..5usize), 0..6),
            size in 1..9usize,
        ) {
            let (mut port, mut sent) = (Vec::new(), Vec::new());
            for (data, mark) in &parts {
                write_data(data, &mut port);
                MARKS[*mark].write(&mut port);
                let pads = !matches!(MARKS[*mark], Mark::End | Mark::Exited { .. });
                sent.push(Whole::Data([&data[..], &[0][..usize::from(pads)]].concat()));
                sent.push(Whole::Mark(MARKS[*mark]));
            }
            let chunks: Vec<&[u8]> = port.chunks(size).collect();
            prop_assert_eq!(read(&chunks), sent);
        }

        #[test]
        fn nothing_that_comes_ends_the_reading(bytes in prop::collection::vec(prop_oneof![Just(ESCAPE), Just(b'O'), any::<u8>()], 0..200)) {
            read(&[&bytes]);
        }
    }
}
