//! Digests of content, so that two copies are compared without either being sent.

use rustix::io::Errno;
use wire::agent::HandleId;
use wire::agent::file::{BlockDigest, DIGEST_BLOCK_BYTES_MIN, DIGEST_BYTES_MAX, FileReply};

use crate::file::content::read_at;
use crate::session::{Replied, Session, plain};

/// How much is read at once: little enough to be in the processor's cache when it is digested.
const READ_BYTES: usize = 256 << 10;

impl Session {
    pub(crate) fn digest(&self, handle: HandleId, offset: u64, length: u32, block: u32) -> Replied {
        if length > DIGEST_BYTES_MAX || block < DIGEST_BLOCK_BYTES_MIN {
            return Err(Errno::INVAL);
        }
        let handle = self.handles.get(handle)?;
        let end = offset.checked_add(length.into()).ok_or(Errno::INVAL)?;
        let mut blocks = Vec::new();
        let mut at = offset;
        while at < end {
            let wanted = u64::from(block).min(end - at);
            let (digest, bytes) = digest_block(|at, length| read_at(&handle.file, at, length), at, wanted)?;
            if digest.bytes == 0 {
                break;
            }
            blocks.push(digest);
            at += bytes;
            if bytes < wanted {
                break;
            }
        }
        plain(FileReply::Digested { blocks })
    }
}

fn digest_block(
    read: impl Fn(u64, usize) -> Result<Vec<u8>, Errno>,
    offset: u64,
    wanted: u64,
) -> Result<(BlockDigest, u64), Errno> {
    let mut hasher = blake3::Hasher::new();
    let (mut done, mut zeros) = (0, true);
    while done < wanted {
        let length = usize::try_from(wanted - done).unwrap_or(READ_BYTES).min(READ_BYTES);
        let content = read(offset + done, length)?;
        hasher.update(&content);
        zeros &= content.iter().all(|&byte| byte == 0);
        done += content.len() as u64;
        if content.len() < length {
            break;
        }
    }
    let bytes = u32::try_from(done).unwrap_or(u32::MAX);
    Ok((BlockDigest { digest: *hasher.finalize().as_bytes(), bytes, zeros }, done))
}
