//! Frames out of a byte stream.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};
use wire::frame::{FrameError, NOISE_BYTES_MAX, PREFACE, PREFIX_BYTES, Prefix};
use wire::packing::unpack;

use super::error::{LinkLost, Noise};

/// How much is asked of the stream at once: many small frames in one system call.
const READ_BYTES: usize = 64 << 10;

/// A payload of at least this size is read into memory of its own; a smaller one is copied out of the buffer, so that
/// whoever keeps it does not keep the buffer too.
const OWN_BUFFER_BYTES_MIN: usize = 32 << 10;

/// What comes of a payload behind its beginning shows how fast the link is if it is at least this much: several of ssh's
/// packets.
const TRICKLED_BYTES_MIN: usize = 128 << 10;

/// The reading side of a stream.
pub(super) struct Input {
    stream: Box<dyn AsyncRead + Send + Unpin>,
    buffer: BytesMut,
    /// The frame at the start of the buffer that was handed out last, to be dropped before the next one.
    used: usize,
}

/// One frame; the head is still encoded and is valid until the next frame is read.
pub(super) struct Frame<'a> {
    pub(super) head: &'a [u8],
    pub(super) payload: Bytes,
    /// What it took on the stream.
    pub(super) carried_bytes: usize,
    /// How much of it was not here when it began to be read, and how long that took to come; `None` where it is little.
    pub(super) trickled: Option<(usize, Duration)>,
}

impl Frame<'_> {
    /// What the frame counts against a stream's credit: all but its prefix, unpacked.
    pub(super) fn body_bytes(&self) -> usize {
        self.head.len() + self.payload.len()
    }
}

/// Why there is no preface.
pub(super) enum NoPreface {
    /// The stream ended.
    Ended,
    /// More came than a login may print.
    Flood,
    /// The system could not carry the stream.
    Lost(LinkLost),
}

impl Input {
    pub(super) fn new(stream: Box<dyn AsyncRead + Send + Unpin>) -> Input {
        Input { stream, buffer: BytesMut::with_capacity(READ_BYTES), used: 0 }
    }

    /// Reads up to and including the peer's preface. What came before it is dropped.
    ///
    /// May be cancelled: nothing that was read is lost, and [`Input::noise`] still shows it.
    pub(super) async fn skip_to_preface(&mut self) -> Result<(), NoPreface> {
        let mut searched = 0;
        loop {
            let found = self.buffer[searched..].windows(PREFACE.len()).position(|bytes| bytes == PREFACE);
            if let Some(at) = found {
                self.buffer.advance(searched + at + PREFACE.len());
                return Ok(());
            }
            searched = self.buffer.len().saturating_sub(PREFACE.len() - 1);
            if searched > NOISE_BYTES_MAX {
                return Err(NoPreface::Flood);
            }
            match self.fill(READ_BYTES).await {
                Ok(()) => {}
                Err(LinkLost::Ended | LinkLost::Cut) => return Err(NoPreface::Ended),
                // A peer that ends without having read the greeting resets the stream.
                Err(LinkLost::Io { kind: ErrorKind::ConnectionReset | ErrorKind::BrokenPipe, .. }) => {
                    return Err(NoPreface::Ended);
                }
                Err(lost) => return Err(NoPreface::Lost(lost)),
            }
        }
    }

    /// What has come so far.
    pub(super) fn noise(&self) -> Noise {
        Noise(self.buffer.to_vec())
    }

    /// Reads the next frame.
    pub(super) async fn next(&mut self) -> Result<Frame<'_>, LinkLost> {
        self.buffer.advance(self.used);
        self.used = 0;
        let prefix = loop {
            match self.prefix()? {
                Some(prefix) if self.holds_enough(prefix) => break prefix,
                Some(prefix) => {
                    let wanted = self.bytes_wanted(prefix);
                    self.fill(wanted.saturating_sub(self.buffer.len()).max(READ_BYTES)).await?;
                }
                None => self.fill(READ_BYTES).await?,
            }
        };
        let (head_end, payload_bytes) = (PREFIX_BYTES + prefix.head as usize, prefix.payload as usize);
        if self.buffer.len() >= head_end + payload_bytes {
            self.used = head_end + payload_bytes;
            let payload = &self.buffer[head_end..self.used];
            let payload = match prefix.packed {
                true => Bytes::from(unpack(payload).map_err(FrameError::from)?),
                false => Bytes::copy_from_slice(payload),
            };
            return Ok(Frame {
                head: &self.buffer[PREFIX_BYTES..head_end],
                payload,
                carried_bytes: self.used,
                trickled: None,
            });
        }
        let here = self.buffer.len() - head_end;
        let begun = Instant::now();
        let payload = self.large_payload(head_end, payload_bytes).await?;
        let missing = payload_bytes - here;
        let trickled = (missing >= TRICKLED_BYTES_MIN).then(|| (missing, begun.elapsed()));
        self.used = head_end;
        let payload = match prefix.packed {
            true => Bytes::from(unpack(&payload).map_err(FrameError::from)?),
            false => payload,
        };
        let carried_bytes = head_end + payload_bytes;
        Ok(Frame { head: &self.buffer[PREFIX_BYTES..head_end], payload, carried_bytes, trickled })
    }

    fn prefix(&self) -> Result<Option<Prefix>, FrameError> {
        let Some(bytes) = self.buffer.first_chunk::<PREFIX_BYTES>() else { return Ok(None) };
        Prefix::parse(*bytes).map(Some)
    }

    /// How much of a frame has to be in the buffer: all of it, or all but its payload if that is large.
    fn bytes_wanted(&self, prefix: Prefix) -> usize {
        let head_end = PREFIX_BYTES + prefix.head as usize;
        match prefix.payload as usize {
            large if large >= OWN_BUFFER_BYTES_MIN => head_end,
            small => head_end + small,
        }
    }

    fn holds_enough(&self, prefix: Prefix) -> bool {
        self.buffer.len() >= self.bytes_wanted(prefix)
    }

    /// Reads what is missing of a payload straight to where it stays. Leaves the buffer with the head alone.
    async fn large_payload(&mut self, head_end: usize, bytes: usize) -> Result<Bytes, LinkLost> {
        let mut payload = BytesMut::with_capacity(bytes);
        payload.extend_from_slice(&self.buffer[head_end..]);
        self.buffer.truncate(head_end);
        while payload.len() < bytes {
            let missing = bytes - payload.len();
            if self.stream.read_buf(&mut (&mut payload).limit(missing)).await? == 0 {
                return Err(LinkLost::Cut);
            }
        }
        Ok(payload.freeze())
    }

    /// Reads once into room for `bytes`.
    async fn fill(&mut self, bytes: usize) -> Result<(), LinkLost> {
        self.buffer.reserve(bytes);
        if self.stream.read_buf(&mut self.buffer).await? > 0 {
            return Ok(());
        }
        match self.buffer.is_empty() {
            true => Err(LinkLost::Ended),
            false => Err(LinkLost::Cut),
        }
    }
}
