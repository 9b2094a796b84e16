//! How another master is asked for.
//!
//! The masters of one machine have their sockets side by side, and beside them is one at which whoever has found them
//! all full asks for another:
//!
//! | path | socket |
//! |---|---|
//! | `CONTROL` | the first master's |
//! | `CONTROL.1` to `CONTROL.31` | those of further masters |
//! | `CONTROL.more` | requests |
//!
//! A connection carries one request and its answer.
//!
//! | | offset | size | content |
//! |---|---|---|---|
//! | request | 0 | 4 | which masters were tried: bit `n` is slot `n`, little endian |
//! | answer | 0 | 1 | 1: there is one that was not tried; 0: there is none, and none could be opened |
//! | | 1 | to the end | after 0: why, an `ErrorObject` as JSON, at most [`REASON_BYTES_MAX`] |

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use wire::api::error::ErrorObject;

/// The most masters of one machine, of which each is a login and a TCP connection. With the ten sessions that a server
/// allows unless it says otherwise, they carry over three hundred mounts. The slots are the bits of one word.
pub const MASTERS_MAX: u32 = u32::BITS;

/// The longest reason in an answer: a line and a hint of people's size.
pub(super) const REASON_BYTES_MAX: usize = 4 << 10;

/// How long an answer may take: longer than any login that a person has a part in, which whoever opens masters ends.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(320);

/// How long a request may take to arrive once its connection has: it is four bytes on this computer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

const NONE: u8 = 0;
const ANOTHER: u8 = 1;

/// The end of the name of the socket for requests.
const REQUESTS: &str = ".more";

/// The place of a master among those of its machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Slot(u32);

impl Slot {
    /// That of the master with which a connection begins and ends.
    pub(super) const FIRST: Slot = Slot(0);

    /// All there may be, the first one first.
    pub(super) fn all() -> impl DoubleEndedIterator<Item = Slot> {
        (0..MASTERS_MAX).map(Slot)
    }

    /// Where the master in this slot has its socket.
    pub(super) fn path(self, control: &Path) -> PathBuf {
        match self {
            Slot::FIRST => control.to_owned(),
            Slot(number) => with_end(control, &format!(".{number}")),
        }
    }
}

impl std::fmt::Display for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A set of slots.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Slots(u32);

impl Slots {
    pub(super) fn insert(&mut self, slot: Slot) {
        self.0 |= 1 << slot.0;
    }

    pub(super) fn contains(self, slot: Slot) -> bool {
        self.0 & (1 << slot.0) != 0
    }
}

/// What comes of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// There is a master that was not tried.
    Another,
    /// There is none, and none could be opened.
    None(ErrorObject),
}

impl Answer {
    fn to_bytes(&self) -> Vec<u8> {
        let Answer::None(why) = self else { return vec![ANOTHER] };
        let reason = serde_json::to_vec(why).ok().filter(|reason| reason.len() <= REASON_BYTES_MAX);
        let reason = reason.unwrap_or_else(|| plain(why));
        [vec![NONE], reason].concat()
    }

    fn from_bytes(bytes: &[u8]) -> io::Result<Answer> {
        match bytes.split_first() {
            Some((&ANOTHER, [])) => Ok(Answer::Another),
            Some((&NONE, reason)) => Ok(Answer::None(serde_json::from_slice(reason)?)),
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, "not an answer to a request for a master")),
        }
    }
}

/// A reason that is too long, without its words.
fn plain(why: &ErrorObject) -> Vec<u8> {
    let short = ErrorObject::new(why.kind(), "the reason is too long to be told");
    // There is nothing in it that has no JSON form; an answer without a reason is none, and is reported as such.
    serde_json::to_vec(&short).unwrap_or_default()
}

/// Where further masters are asked for.
pub(super) fn request_path(control: &Path) -> PathBuf {
    with_end(control, REQUESTS)
}

/// Asks for a master that is not among `tried`. An error means that nobody is there to ask, or to answer.
pub(super) async fn ask(control: &Path, tried: Slots) -> io::Result<Answer> {
    let asking = async {
        let mut stream = UnixStream::connect(request_path(control)).await?;
        stream.write_all(&tried.0.to_le_bytes()).await?;
        let mut answer = Vec::new();
        // One byte more than there may be, so that a longer one is not taken for a whole one.
        let limit = 2 + REASON_BYTES_MAX as u64;
        stream.take(limit).read_to_end(&mut answer).await?;
        Answer::from_bytes(&answer)
    };
    tokio::time::timeout(ANSWER_TIMEOUT, asking).await.unwrap_or_else(|late| Err(late.into()))
}

/// Reads a request of this user's.
pub(super) async fn hear(stream: &mut UnixStream) -> io::Result<Slots> {
    if stream.peer_cred()?.uid() != rustix::process::geteuid().as_raw() {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "another user's request"));
    }
    let mut tried = [0; 4];
    let reading = stream.read_exact(&mut tried);
    tokio::time::timeout(REQUEST_TIMEOUT, reading).await.unwrap_or_else(|late| Err(late.into()))?;
    Ok(Slots(u32::from_le_bytes(tried)))
}

/// Answers a request. Whoever asked may have gone.
pub(super) async fn answer(mut stream: UnixStream, answer: Answer) {
    if let Err(error) = stream.write_all(&answer.to_bytes()).await {
        tracing::debug!(%error, "a request for a master was given up");
    }
}

/// What a socket is that has to do with masters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControlSocket {
    /// A master listens there, or did.
    Master,
    /// Whoever owns the masters does.
    Requests,
}

impl ControlSocket {
    /// What the file called `name` is, beside those that [`control_path`](super::control_path) names.
    pub fn of(name: &OsStr) -> Option<ControlSocket> {
        let (hash, end) = name.to_str()?.strip_prefix('s')?.split_at_checked(16)?;
        if !hash.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        let is_slot = |end: &str| Slot::all().skip(1).any(|slot| end == format!(".{slot}"));
        match end {
            "" => Some(ControlSocket::Master),
            REQUESTS => Some(ControlSocket::Requests),
            end => is_slot(end).then_some(ControlSocket::Master),
        }
    }
}

pub(super) fn with_end(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::api::error::ErrorKind;
    use wire::api::machine::SshTarget;

    #[test]
    fn what_is_beside_a_control_socket_is_known_by_its_name() {
        let target = SshTarget::new(None, "box", None).unwrap();
        let control = super::super::control_path(Path::new("/run"), &target);
        let of = |path: PathBuf| ControlSocket::of(path.file_name().unwrap());
        for slot in Slot::all() {
            assert_eq!(of(slot.path(&control)), Some(ControlSocket::Master), "{slot}");
        }
        assert_eq!(of(request_path(&control)), Some(ControlSocket::Requests));
        for end in [".", ".0", ".32", ".01", ".1x", "f", ".more.more"] {
            assert_eq!(of(with_end(&control, end)), None, "{end}");
        }
        for name in ["ssh_config", "stead-askpass", "s", "s0123", "a0123456789abcdef", "s0123456789abcdeg"] {
            assert_eq!(ControlSocket::of(OsStr::new(name)), None, "{name}");
        }
    }

    #[test]
    fn every_socket_has_room_in_the_longest_runtime_directory() {
        let runtime = format!("/{}", "r".repeat(63));
        let target = SshTarget::new(Some("somebody"), "box.example.org", Some(2222)).unwrap();
        let control = super::super::control_path(Path::new(&runtime), &target);
        let longest = Slot::all().map(|slot| slot.path(&control).as_os_str().len()).max();
        assert!(longest <= Some(super::super::CONTROL_PATH_BYTES_MAX), "{longest:?}");
    }

    #[test]
    fn a_set_has_what_was_put_into_it() {
        let mut tried = Slots::default();
        assert!(Slot::all().all(|slot| !tried.contains(slot)));
        for slot in Slot::all().step_by(3) {
            tried.insert(slot);
        }
        let expected: Vec<_> = Slot::all().step_by(3).collect();
        assert_eq!(Slot::all().filter(|slot| tried.contains(*slot)).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn answers_are_read_as_they_were_written() {
        let why = ErrorObject::new(ErrorKind::Refused, "no").with_hint("ask");
        for answer in [Answer::Another, Answer::None(why)] {
            assert_eq!(Answer::from_bytes(&answer.to_bytes()).unwrap(), answer);
        }
        let long = Answer::None(ErrorObject::new(ErrorKind::Refused, "x".repeat(REASON_BYTES_MAX)));
        let bytes = long.to_bytes();
        assert!(bytes.len() <= 1 + REASON_BYTES_MAX);
        let Answer::None(why) = Answer::from_bytes(&bytes).unwrap() else { panic!("a master is there") };
        assert_eq!(why.kind(), ErrorKind::Refused);
    }

    #[test]
    fn what_is_no_answer_is_refused() {
        for bytes in [&[][..], &[ANOTHER, 0], &[NONE], &[NONE, b'{'], &[7]] {
            assert!(Answer::from_bytes(bytes).is_err(), "{bytes:?}");
        }
    }
}
