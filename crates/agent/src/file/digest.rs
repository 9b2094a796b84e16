//! Digests of content, so that two copies are compared without either being sent.

use std::os::fd::OwnedFd;

use rustix::io::Errno;
use wire::agent::HandleId;
use wire::agent::file::{BlockDigest, DIGEST_BLOCK_BYTES_MIN, DIGEST_BYTES_MAX, FileReply};

use crate::file::content::read_at;
use crate::session::{Replied, Session, plain};

/// How much is read at once: little enough to be in the processor's cache when it is digested.
const READ_BYTES: u32 = 256 << 10;

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
            let wanted = u32::try_from(end - at).unwrap_or(block).min(block);
            let digest = digest_block(&handle.file, at, wanted)?;
            let bytes = digest.bytes;
            if bytes > 0 {
                blocks.push(digest);
            }
            if bytes < wanted {
                break;
            }
            at += u64::from(bytes);
        }
        plain(FileReply::Digested { blocks })
    }
}

fn digest_block(file: &OwnedFd, offset: u64, wanted: u32) -> Result<BlockDigest, Errno> {
    let mut hasher = blake3::Hasher::new();
    let (mut bytes, mut zeros) = (0, true);
    while bytes < wanted {
        let length = READ_BYTES.min(wanted - bytes);
        let content = read_at(file, offset + u64::from(bytes), length as usize)?;
        hasher.update(&content);
        zeros = zeros && content.iter().all(|&byte| byte == 0);
        // No more than was asked for.
        bytes += content.len() as u32;
        if content.len() < length as usize {
            break;
        }
    }
    Ok(BlockDigest { digest: *hasher.finalize().as_bytes(), bytes, zeros })
}
