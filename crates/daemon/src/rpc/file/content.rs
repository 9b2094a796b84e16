//! What is done with the content of opened files without sending it to the client.

use std::sync::Arc;

use data_encoding::HEXLOWER;
use tokio::task::JoinSet;
use wire::agent::file::WriteAt;
use wire::api::file::{
    BlockDigest, COPY_BYTES_MAX, CopiedRange, CopyRange, DIGEST_BLOCK_BYTES_MIN, DIGEST_BYTES_MAX, Digest,
    Digests,
};
use wire::api::{ErrorKind, ErrorObject};

use super::{OpenFile, OpenNode, file, refused, usage};

/// What is read and written at once: a frame's payload, so that little is said beside the content.
const PIECE_BYTES: u32 = 1 << 20;

/// Pieces of one request that are between the machines at once, each in the daemon's memory.
const PIECES_MAX: usize = 4;

/// `file.copy_range`
pub async fn copy_range(
    copy: CopyRange,
    from: Option<OpenNode>,
    to: Option<OpenNode>,
) -> Result<CopiedRange, ErrorObject> {
    let (from, to) = (file(copy.from, from)?, file(copy.to, to)?);
    if copy.bytes > COPY_BYTES_MAX {
        return Err(usage(format!("at most {COPY_BYTES_MAX} bytes are copied at once")));
    }
    if [copy.from_offset, copy.to_offset].iter().any(|at| at.checked_add(copy.bytes.into()).is_none()) {
        return Err(usage("no file is so long"));
    }
    let bytes = match Arc::ptr_eq(&from.session, &to.session) {
        true => copy_there(&copy, &from, &to).await?,
        false => copy_across(&copy, &from, &to).await?,
    };
    Ok(CopiedRange { bytes })
}

/// Has the machine copy from one of its files to another.
async fn copy_there(copy: &CopyRange, from: &OpenFile, to: &OpenFile) -> Result<u64, ErrorObject> {
    let client = from.session.client();
    let mut done = 0;
    while done < u64::from(copy.bytes) {
        let (at, into) = ((from.far, copy.from_offset + done), (to.far, copy.to_offset + done));
        let left = u64::from(copy.bytes) - done;
        let copied = client.copy_range(at, into, left).await;
        let copied = copied.map_err(|error| refused("write", &to.shown, &error))?.bytes;
        if copied == 0 {
            break;
        }
        done += copied.min(left);
    }
    Ok(done)
}

/// Carries content from one machine to another, some pieces at once. What is behind the first short piece is not counted.
async fn copy_across(copy: &CopyRange, from: &Arc<OpenFile>, to: &Arc<OpenFile>) -> Result<u64, ErrorObject> {
    let mut pieces = JoinSet::new();
    let (mut asked, mut end) = (0, copy.bytes);
    while asked < end || !pieces.is_empty() {
        if asked < end && pieces.len() < PIECES_MAX {
            let (offset, bytes) = (asked, PIECE_BYTES.min(end - asked));
            let (from, to) = (Arc::clone(from), Arc::clone(to));
            let (at, into) = (copy.from_offset + u64::from(offset), copy.to_offset + u64::from(offset));
            pieces.spawn(async move {
                let copied = copy_piece(&from, at, &to, into, bytes).await?;
                Ok::<_, ErrorObject>((offset, bytes, copied))
            });
            asked += bytes;
            continue;
        }
        let Some(ended) = pieces.join_next().await else { break };
        let (offset, bytes, copied) =
            ended.map_err(|error| ErrorObject::internal(format!("a copy did not end: {error}")))??;
        if copied < bytes {
            end = end.min(offset + copied);
        }
    }
    Ok(end.into())
}

async fn copy_piece(
    from: &OpenFile,
    at: u64,
    to: &OpenFile,
    into: u64,
    bytes: u32,
) -> Result<u32, ErrorObject> {
    let content = from.session.client().read(from.far, at, bytes).await;
    let content = content.map_err(|error| refused("read", &from.shown, &error))?;
    let length = content.len() as u64;
    if length == 0 {
        return Ok(0);
    }
    let written = to.session.client().write(to.far, WriteAt::Offset(into), false, content).await;
    let written = written.map_err(|error| refused("write", &to.shown, &error))?;
    if written.bytes != length {
        let message = format!("could not write `{}`: only {} of {length} bytes", to.shown, written.bytes);
        return Err(ErrorObject::new(ErrorKind::Failure, message));
    }
    Ok(length as u32)
}

/// `file.digest`
pub async fn digest(digest: Digest, node: Option<OpenNode>) -> Result<Digests, ErrorObject> {
    let file = file(digest.handle, node)?;
    if digest.bytes > DIGEST_BYTES_MAX || digest.block_bytes < DIGEST_BLOCK_BYTES_MIN {
        return Err(usage(format!(
            "a digest is of at most {DIGEST_BYTES_MAX} bytes, in blocks of at least {DIGEST_BLOCK_BYTES_MIN}"
        )));
    }
    let client = file.session.client();
    let blocks = client.digest(file.far, digest.offset, digest.bytes, digest.block_bytes).await;
    let blocks = blocks.map_err(|error| refused("read", &file.shown, &error))?;
    let blocks = blocks.into_iter().map(|block| BlockDigest {
        digest: HEXLOWER.encode(&block.digest),
        bytes: block.bytes,
        zeros: block.zeros,
    });
    Ok(Digests { blocks: blocks.collect() })
}
