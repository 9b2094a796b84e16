//! MicroVMs of this computer, through their ports.
//!
//! ```text
//!  daemon ─┐ the agent's stream                                        ┌─ stead-guest ── agent
//!          ├─► stead guest ══ unix socket ══ VMM ══ a port of the guest ┤
//!  worker ─┘   (an errand)                                             └─ stead-guest ── agent
//! ```
//!
//! An errand stands where ssh stands for other machines: a process for each stream, whose standard input and output are the
//! agent's stream. It takes a port that nobody else has, which a lock on a file beside the port's socket says, and speaks
//! [`wire::guest`] through it. The stream ends with the errand, however that ended, and the errand with the VMM.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream as Socket;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use wire::api::error::ErrorKind;
use wire::guest::{Mark, Nonce, PORTS, Piece, Reader};
use wire::hello::SessionId;
use wire::worker::VmDial;

use super::errand::{self, CarrierError};
use super::program::{Program, ProgramError};

/// What makes this program an errand.
pub const PART: &str = "guest";

/// The port that is left to requests to power off, and to whoever waits for a guest to be there.
const RESERVED: usize = 0;

/// What is read at once.
const CHUNK_BYTES: usize = 64 << 10;

/// The longest record of a vm.
const RECORD_BYTES_MAX: u64 = 64 << 10;

/// How long a guest that is there may take to say that it begins to power off.
const POWER_OFF_TIMEOUT: Duration = Duration::from_secs(20);

/// What an errand is told, as its one argument.
#[derive(Debug, Serialize, Deserialize)]
struct Errand {
    dial: VmDial,
    session: SessionId,
}

/// Runs the errand, for this session, with a socket as its standard input and output. It waits for nothing.
pub(crate) fn channel(dial: &VmDial, session: SessionId) -> Result<(Program, UnixStream), ProgramError> {
    let errand = Errand { dial: dial.clone(), session };
    errand::start(PART, &errand, &[])
}

/// Carries out the errand that the one argument is.
pub fn main(mut arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let told = arguments.next().and_then(|told| serde_json::from_str(told.to_str()?).ok());
    let Some(Errand { dial, session }) = told else {
        eprintln!("error: a vm's errand is started by stead itself");
        return ExitCode::from(ErrorKind::Usage.exit_code());
    };
    match carry(&dial, session) {
        Ok(code) => code,
        Err(error) => {
            error.say();
            ExitCode::from(error.status())
        }
    }
}

fn carry(dial: &VmDial, session: SessionId) -> Result<ExitCode, CarrierError> {
    let failed = |error: io::Error| {
        CarrierError::new(ErrorKind::Failure, format!("the stream to the vm `{}`: {error}", dial.name))
    };
    let (port, _lock) = take_port(dial)?;
    let nonce = nonce();
    let mut opening = Vec::new();
    Mark::Open { nonce, session }.write(&mut opening);
    (&port).write_all(&opening).map_err(failed)?;
    let client = || io::stdin().as_fd().try_clone_to_owned().map(File::from);
    let (from_client, to_client) = (client().map_err(failed)?, client().map_err(failed)?);
    // A client that leaves before there is a stream ends the errand: the socket that is shut down wakes the other thread.
    let is_open = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let sending = scope.spawn(|| send(from_client, &port, &is_open));
        let outcome = receive(&port, to_client, nonce, &is_open, &dial.name);
        // Neither end is of use without the other. One that is gone already is as good.
        let _gone =
            (port.shutdown(Shutdown::Both), rustix::net::shutdown(io::stdin(), rustix::net::Shutdown::Both));
        drop(sending.join());
        outcome
    })
}

/// Carries what the client says to the guest.
fn send(mut client: File, mut port: &Socket, is_open: &AtomicBool) {
    let (mut chunk, mut escaped) = (vec![0; CHUNK_BYTES], Vec::new());
    loop {
        escaped.clear();
        let is_end = match client.read(&mut chunk) {
            Ok(read) if read > 0 => {
                wire::guest::write_data(&chunk[..read], &mut escaped);
                false
            }
            _ if is_open.load(Ordering::Acquire) => {
                Mark::End.write(&mut escaped);
                true
            }
            _ => {
                let _gone = port.shutdown(Shutdown::Both);
                return;
            }
        };
        if port.write_all(&escaped).is_err() || is_end {
            return;
        }
    }
}

/// Carries what the guest says to the client, until the agent or the guest ends.
fn receive(
    mut port: &Socket,
    mut client: File,
    nonce: Nonce,
    is_open: &AtomicBool,
    name: &str,
) -> Result<ExitCode, CarrierError> {
    let (mut chunk, mut reader) = (vec![0; CHUNK_BYTES], Reader::default());
    loop {
        let read = match port.read(&mut chunk) {
            Ok(0) | Err(_) => break,
            Ok(read) => read,
        };
        let mut input = &chunk[..read];
        while let Some(piece) = reader.next(&mut input) {
            match piece {
                Piece::Mark(Mark::Accepted { nonce: of }) if of == nonce => {
                    is_open.store(true, Ordering::Release)
                }
                // Of a stream before this one.
                _ if !is_open.load(Ordering::Acquire) => {}
                Piece::Data(data) if client.write_all(data).is_err() => return Ok(ExitCode::SUCCESS),
                Piece::Mark(Mark::Exited { status: 0 }) => return Ok(ExitCode::SUCCESS),
                Piece::Mark(Mark::Exited { .. }) => return Ok(ExitCode::FAILURE),
                Piece::Data(_) | Piece::Mark(_) => {}
            }
        }
    }
    let message = format!("the vm `{name}` has ended, or the stream to it was cut");
    Err(CarrierError::new(ErrorKind::Unreachable, message))
}

/// What tells this stream from all others of a port.
fn nonce() -> Nonce {
    use std::hash::{BuildHasher, RandomState};
    // Each state is keyed at random by the standard library, from the system's generator.
    let [a, b] = [RandomState::new().hash_one(0), RandomState::new().hash_one(1)];
    let mut nonce = [0; 16];
    nonce[..8].copy_from_slice(&a.to_le_bytes());
    nonce[8..].copy_from_slice(&b.to_le_bytes());
    nonce
}

/// A port that nobody has, and the lock that says who has it.
fn take_port(dial: &VmDial) -> Result<(Socket, File), CarrierError> {
    let directory = dial.ports.as_path();
    let streams = PORTS - 1;
    // Errands that come at once begin at different ports.
    let first = std::process::id() as usize;
    for port in (0..streams).map(|at| RESERVED + 1 + (first + at) % streams) {
        let path = directory.join(format!("{port}.lock"));
        let lock = File::options().write(true).create(true).truncate(false).mode(0o600).open(path);
        let lock = lock.map_err(|error| absent(dial, &error))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => continue,
            Err(errno) => return Err(absent(dial, &errno.into())),
        }
        let socket =
            Socket::connect(directory.join(port.to_string())).map_err(|error| absent(dial, &error))?;
        // A vm is written down before it runs: whoever answers there is the one that is written down, or has ended.
        check(dial)?;
        return Ok((socket, lock));
    }
    let message = format!("all {streams} streams to the vm `{}` are in use", dial.name);
    Err(CarrierError::new(ErrorKind::Conflict, message))
}

/// What is read of a vm's record.
#[derive(Deserialize)]
struct Known {
    id: String,
}

/// Whether the vm that is written down is the one that is meant.
fn check(dial: &VmDial) -> Result<(), CarrierError> {
    let name = &dial.name;
    let record = File::open(dial.record.as_path()).and_then(|file| {
        let mut text = Vec::new();
        file.take(RECORD_BYTES_MAX).read_to_end(&mut text)?;
        Ok(serde_json::from_slice::<Known>(&text)?)
    });
    match record {
        Ok(known) if known.id == dial.id => Ok(()),
        Ok(_) => Err(CarrierError::new(ErrorKind::NotFound, format!("`{name}` is another vm now"))
            .with_hint("stead vm list")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(CarrierError::new(ErrorKind::NotFound, format!("there is no vm `{name}`"))
                .with_hint("stead vm list"))
        }
        Err(error) => {
            let record = dial.record.as_path().display();
            Err(CarrierError::new(ErrorKind::Failure, format!("could not read `{record}`: {error}")))
        }
    }
}

/// Why it is not reached that there was this error on the way to its ports.
fn absent(dial: &VmDial, error: &io::Error) -> CarrierError {
    let name = &dial.name;
    if let Err(error) = check(dial) {
        return error;
    }
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            CarrierError::new(ErrorKind::Unreachable, format!("the vm `{name}` is not running"))
                .with_hint(format!("stead vm start {name}"))
        }
        _ => CarrierError::new(ErrorKind::Unreachable, format!("the vm `{name}` is not reached: {error}")),
    }
}

/// Waits until a guest serves its ports, for as long as its VMM runs. An error when that has ended.
pub async fn serving(ports: &Path) -> io::Result<()> {
    let nonce = nonce();
    let mut opening = Vec::new();
    Mark::Open { nonce, session: SessionId::default() }.write(&mut opening);
    ask(ports, &opening, Mark::Accepted { nonce }).await
}

/// Has a guest power itself off. Returns as soon as it has begun to, or when it has not said so in 20 s; then it may be asked
/// again.
pub async fn power_off(ports: PathBuf) -> io::Result<()> {
    let mut request = Vec::new();
    Mark::PowerOff.write(&mut request);
    let asking = ask(&ports, &request, Mark::PowerOff);
    tokio::time::timeout(POWER_OFF_TIMEOUT, asking)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

async fn ask(ports: &Path, request: &[u8], wanted: Mark) -> io::Result<()> {
    let mut socket = UnixStream::connect(ports.join(RESERVED.to_string())).await?;
    socket.write_all(request).await?;
    let (mut chunk, mut reader) = ([0; 1024], Reader::default());
    loop {
        let read = socket.read(&mut chunk).await?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut input = &chunk[..read];
        while let Some(piece) = reader.next(&mut input) {
            if piece == Piece::Mark(wanted) {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use wire::bytestring::ByteString;

    use super::*;

    #[test]
    fn a_stream_is_to_the_very_vm_that_is_meant() {
        let scratch = tempfile::tempdir().unwrap();
        let record = scratch.path().join("vm.json");
        let dial = |id: &str| VmDial {
            name: "dev".to_owned(),
            id: id.to_owned(),
            ports: ByteString::from(scratch.path().to_owned()),
            record: ByteString::from(record.clone()),
        };
        let refusal = |id: &str| take_port(&dial(id)).map(drop).unwrap_err();
        let error = refusal("one");
        assert_eq!((error.kind, error.message.as_str()), (ErrorKind::NotFound, "there is no vm `dev`"));
        std::fs::write(&record, r#"{"id":"one","version":1}"#).unwrap();
        assert_eq!(refusal("one").kind, ErrorKind::Unreachable);
        let ports: Vec<_> = (1..PORTS)
            .map(|port| UnixListener::bind(scratch.path().join(port.to_string())).unwrap())
            .collect();
        take_port(&dial("one")).unwrap();
        let error = refusal("another");
        assert_eq!((error.kind, error.message.as_str()), (ErrorKind::NotFound, "`dev` is another vm now"));
        std::fs::write(&record, "{").unwrap();
        assert_eq!(refusal("one").kind, ErrorKind::Failure);
        drop(ports);
    }
}
