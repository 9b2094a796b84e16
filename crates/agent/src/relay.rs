//! The process at the end of a stream, while another process serves the session.
//!
//! ```text
//!  client ═══ stream ═══╗
//!                       ╠═ session: reads, writes, and tells the relay when it has done with the stream
//!  whoever runs it ── relay: waits for that
//! ```
//!
//! The relay copies nothing: the session has the stream's descriptors. It is there so that whoever started it (sshd, a
//! worker) sees a process that ends with the stream. It has two origins: the agent that serves a new session which is to
//! be kept splits in two, and `--resume` hands its streams to a session that is there.
//!
//! On the socket between them, from a relay that hands streams over:
//!
//! | offset | size | content |
//! |---|---|---|
//! | 0 | 8 | `STEADRL\x01`, with the descriptors of standard input, output and error |
//! | 8 | 8 | [`SCHEMA_HASH`], little endian |
//!
//! and from the session one byte for each [`Said`], then the end.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout, socket_peercred};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};
use wire::hello::{SCHEMA_HASH, SessionId};

use crate::door;
use crate::kept::timespec;
use crate::log::log;

const MAGIC: [u8; 8] = *b"STEADRL\x01";
const MESSAGE_BYTES: usize = 16;

/// How many descriptors are handed over.
const STREAMS: usize = 3;

/// How long a session waits for what a relay sends first: it is on its way when the session hears of the relay.
const HANDING_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a relay waits until a session has taken its streams: it does so at once, unless it is stopped. It waits no
/// longer than its client is there.
const TAKING_TIMEOUT: Duration = Duration::from_secs(10);

/// What a session says to a relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Said {
    /// The stream has ended as it should.
    Ended = 0,
    /// The stream has ended otherwise; standard error says how.
    Failed = 1,
    /// The session has the streams.
    Taken = 2,
}

/// What this process is after a [`split`].
pub(crate) enum Half {
    Relay(OwnedFd),
    Session(OwnedFd),
}

/// Hands standard input, output and error to the session, and waits until it has done with them. `None`: there is no such
/// session, or it cannot serve this build's clients and has ended. A session that is there and cannot be reached is a
/// failure, which the client may try again.
pub(crate) fn resume(session: SessionId) -> Option<ExitCode> {
    let knock = || door::knock(session, |name| std::env::var_os(name));
    let failed = |errno| {
        log(format_args!("could not reach session {session}: {errno}"));
        Some(ExitCode::FAILURE)
    };
    let socket = match knock() {
        Ok(socket) => socket?,
        Err(errno) => return failed(errno),
    };
    match hand_over(&socket).and_then(|()| hear_if_taken(&socket)) {
        Ok(Some(Said::Taken)) => Some(wait(socket)),
        // It has ended, or it could not take the streams: then it is there still, and has what a new one would lack.
        Ok(Some(Said::Ended | Said::Failed) | None) | Err(Errno::PIPE | Errno::CONNRESET) => match knock() {
            Ok(None) => None,
            Ok(Some(_)) => failed(Errno::BUSY),
            Err(errno) => failed(errno),
        },
        Err(errno) => failed(errno),
    }
}

/// Makes a second process, which serves the session, while this one becomes its relay. Neither may have other threads.
pub(crate) fn split() -> io::Result<Half> {
    if std::fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(io::Error::other("other threads run in this process"));
    }
    let (relay, session) = UnixStream::pair()?;
    // SAFETY: this is the only thread, so that the child's memory is as consistent as the parent's.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Half::Session(session.into())),
        _ => Ok(Half::Relay(relay.into())),
    }
}

/// Lets go of the streams, waits until the session has done with them, and says how this process is to exit.
pub(crate) fn wait(socket: OwnedFd) -> ExitCode {
    let_go_of_streams();
    let _ = rustix::thread::set_name(c"stead-relay");
    // The last word counts. A session that ends lets go of the relay when it has ended.
    let mut last = None;
    while let Some(said) = hear(&socket) {
        last = Some(said);
    }
    match last {
        Some(Said::Ended) => ExitCode::SUCCESS,
        Some(Said::Failed | Said::Taken) | None => ExitCode::FAILURE,
    }
}

/// This process keeps the stream open no longer.
pub(crate) fn let_go_of_streams() {
    if let Some(null) = null() {
        // The numbers are those of open files: the calls do not fail.
        let _ = rustix::stdio::dup2_stdin(&null);
        let _ = rustix::stdio::dup2_stdout(&null);
    }
}

/// Sends what is logged to where somebody reads it, or nowhere.
pub(crate) fn log_to(errors: Option<OwnedFd>) {
    if let Some(errors) = errors.or_else(null) {
        let _ = rustix::stdio::dup2_stderr(&errors);
    }
}

fn null() -> Option<OwnedFd> {
    let opened = std::fs::File::options().read(true).write(true).open("/dev/null");
    opened.inspect_err(|error| log(format_args!("could not open /dev/null: {error}"))).ok().map(OwnedFd::from)
}

/// Says something to a relay, which may be gone.
pub(crate) fn say(relay: &OwnedFd, said: Said) {
    let _ = rustix::net::send(relay, &[said as u8], SendFlags::NOSIGNAL);
}

/// Waits until a relay is gone.
pub(crate) fn outlast(relay: &OwnedFd) {
    while hear(relay).is_some() {}
}

fn hear(socket: &OwnedFd) -> Option<Said> {
    // A socket that fails says nothing more.
    listen(socket).ok().flatten()
}

/// What a session says to the streams it was handed. `EAGAIN` when it says nothing in time, `ECONNABORTED` when the other
/// end of standard input is gone: nobody waits for that session any more.
fn hear_if_taken(socket: &OwnedFd) -> Result<Option<Said>, Errno> {
    let until = Instant::now() + TAKING_TIMEOUT;
    let input = io::stdin();
    loop {
        let left = until.saturating_duration_since(Instant::now());
        // That the other end is gone is told without being asked for. What it has sent is not read here.
        let mut polled = [PollFd::new(socket, PollFlags::IN), PollFd::new(&input, PollFlags::empty())];
        match poll(&mut polled, Some(&timespec(left))) {
            Ok(0) => return Err(Errno::AGAIN),
            Ok(_) if !polled[0].revents().is_empty() => return listen(socket),
            Ok(_) => return Err(Errno::CONNABORTED),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// What the other side says next; `None` at the end.
fn listen(socket: &OwnedFd) -> Result<Option<Said>, Errno> {
    let mut byte = [0];
    if rustix::io::retry_on_intr(|| rustix::io::read(socket, &mut byte))? == 0 {
        return Ok(None);
    }
    Ok(Some(match byte[0] {
        0 => Said::Ended,
        2 => Said::Taken,
        _ => Said::Failed,
    }))
}

fn hand_over(socket: &OwnedFd) -> Result<(), Errno> {
    let mut message = [0; MESSAGE_BYTES];
    message[..8].copy_from_slice(&MAGIC);
    message[8..].copy_from_slice(&SCHEMA_HASH.to_le_bytes());
    let (input, output, errors) = (io::stdin(), io::stdout(), io::stderr());
    let streams = [input.as_fd(), output.as_fd(), errors.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(STREAMS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    ancillary.push(SendAncillaryMessage::ScmRights(&streams));
    let sent = rustix::net::sendmsg(socket, &[IoSlice::new(&message)], &mut ancillary, SendFlags::NOSIGNAL)?;
    if sent == MESSAGE_BYTES { Ok(()) } else { Err(Errno::IO) }
}

/// What a relay hands to a session.
pub(crate) struct Handed {
    pub input: OwnedFd,
    pub output: OwnedFd,
    pub errors: OwnedFd,
}

/// What came through a session's door.
pub(crate) enum Arrival {
    /// A stream, and the relay that waits for its end.
    Stream(Handed, OwnedFd),
    /// A stream of another build's client, which this session cannot serve.
    OtherBuild(OwnedFd),
    /// Somebody who only looked whether the session lives, or who has no business here.
    Nobody,
}

/// Takes what a relay sends first. Another user's is not listened to, root's neither: a session belongs to who started it.
pub(crate) fn take(relay: OwnedFd) -> Result<Arrival, Errno> {
    let peer = socket_peercred(&relay)?;
    if peer.uid != rustix::process::geteuid() {
        log(format_args!("user {} may not use this session", peer.uid.as_raw()));
        return Ok(Arrival::Nobody);
    }
    set_socket_timeout(&relay, Timeout::Recv, Some(HANDING_TIMEOUT))?;
    let mut message = [0; MESSAGE_BYTES];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(STREAMS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let parts = &mut [IoSliceMut::new(&mut message)];
    let received = rustix::net::recvmsg(&relay, parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    set_socket_timeout(&relay, Timeout::Recv, None)?;
    let mut streams = Vec::new();
    for item in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(handed) = item {
            streams.extend(handed);
        }
    }
    if received.bytes != MESSAGE_BYTES || message[..8] != MAGIC {
        return Ok(Arrival::Nobody);
    }
    if message[8..] != SCHEMA_HASH.to_le_bytes() {
        return Ok(Arrival::OtherBuild(relay));
    }
    let Ok([input, output, errors]) = <[OwnedFd; STREAMS]>::try_from(streams) else {
        return Ok(Arrival::Nobody);
    };
    Ok(Arrival::Stream(Handed { input, output, errors }, relay))
}
