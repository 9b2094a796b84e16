//! What every frame of a guest has to go through: this program in the part [`PART`], a process for each guest with a network.
//!
//! It reads frames from the socket [`OUT`] of the VMM, and writes those that [may leave](super::frames::may_leave) to the
//! socket [`BACK`]. It never waits for one while it could read from the other: a VMM that writes to it does nothing else
//! meanwhile. It ends when either is closed.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::{sleep, timeout};

use super::{BACK, OUT, frames};

/// What makes this program a gate: it is followed by the directory of the VMM's sockets.
pub const PART: &str = "network";

/// What is read at once: a few of the longest frames.
const CHUNK_BYTES: usize = 256 << 10;

/// What may wait to be taken back by the VMM. Frames beyond it are dropped, as networks do.
const WAITING_BYTES_MAX: usize = 1 << 20;

/// How long a VMM may take to make its sockets.
const SOCKETS_TIMEOUT: Duration = Duration::from_secs(60);

/// How often it is tried.
const SOCKETS_INTERVAL: Duration = Duration::from_millis(10);

/// Carries frames until the VMM has ended.
pub fn main(mut arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let Some(sockets) = arguments.next().map(PathBuf::from) else {
        eprintln!("error: a vm's network is started by stead itself");
        return ExitCode::from(2);
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime.and_then(|runtime| runtime.block_on(serve(&sockets))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: the network of a vm: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(sockets: &Path) -> io::Result<()> {
    let connect = async {
        loop {
            match (
                UnixStream::connect(sockets.join(OUT)).await,
                UnixStream::connect(sockets.join(BACK)).await,
            ) {
                (Ok(out), Ok(back)) => return (out, back),
                _ => sleep(SOCKETS_INTERVAL).await,
            }
        }
    };
    let (out, back) = timeout(SOCKETS_TIMEOUT, connect).await?;
    carry(out, back).await
}

/// Moves frames until one end is closed.
async fn carry(mut from: UnixStream, mut to: UnixStream) -> io::Result<()> {
    let (mut incoming, mut waiting, mut sent) = (Vec::new(), Vec::new(), 0);
    loop {
        incoming.reserve(CHUNK_BYTES);
        // Either may be dropped half way and has done nothing then.
        tokio::select! {
            read = from.read_buf(&mut incoming) => {
                if read? == 0 {
                    return Ok(());
                }
                frames::sort(&mut incoming, &mut waiting, WAITING_BYTES_MAX).map_err(io::Error::other)?;
            }
            written = to.write(&waiting[sent..]), if sent < waiting.len() => sent += written?,
        }
        if sent == waiting.len() {
            waiting.clear();
            sent = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    fn frame(to: [u8; 4]) -> Vec<u8> {
        let mut frame = [&60_u32.to_be_bytes()[..], &[0; 60]].concat();
        frame[16..19].copy_from_slice(&[0x08, 0x00, 0x45]);
        frame[34..38].copy_from_slice(&to);
        frame
    }

    #[tokio::test]
    async fn a_vmm_that_takes_nothing_back_is_read_from_all_the_same() {
        let ((mut guest, out), (back, mut network)) =
            (UnixStream::pair().unwrap(), UnixStream::pair().unwrap());
        let carrying = tokio::spawn(carry(out, back));
        let (leaves, stays) = (frame([10, 0, 0, 1]), frame([127, 0, 0, 1]));
        let many = [leaves.clone(), stays].concat().repeat(4 * WAITING_BYTES_MAX / leaves.len());
        timeout(PATIENCE, guest.write_all(&many)).await.expect("it is read").unwrap();
        drop(guest);
        let mut came = Vec::new();
        timeout(PATIENCE, network.read_to_end(&mut came)).await.expect("it ends").unwrap();
        // How much of it depends on what the socket holds, and who runs when.
        assert!(!came.is_empty() && came.chunks(leaves.len()).all(|came| leaves.starts_with(came)));
        carrying.await.unwrap().unwrap();
    }
}
