//! Frames from a stream.

use std::sync::Arc;

use rustix::io::Errno;
use serde::de::DeserializeOwned;
use wire::frame::{FrameError, PREFACE, PREFIX_BYTES, Prefix, decode_head};
use wire::packing::unpack;

use crate::ends::Ends;

/// How much is read at once. Heads of many small requests fit, and a large payload is read straight into its own
/// buffer.
const READ_BYTES: usize = 64 << 10;

/// Why no frame comes any more.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InputError {
    #[error("the stream ended inside a frame")]
    Cut,
    #[error("the stream does not start as Stead's does; it starts with {preview}")]
    Preface { preview: String },
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("could not read from the stream")]
    Read(#[from] Errno),
}

/// The reading end of a stream.
pub(crate) struct Input {
    stream: Arc<Ends>,
    buffer: Vec<u8>,
    /// Where in the buffer the next frame starts.
    start: usize,
    /// The pieces of a payload whose frame has not come yet: no more than a payload may have.
    pieces: Vec<u8>,
}

impl Input {
    pub fn new(stream: Arc<Ends>) -> Input {
        Input { stream, buffer: Vec::with_capacity(READ_BYTES), start: 0, pieces: Vec::new() }
    }

    /// Reads what each stream starts with.
    pub fn preface(&mut self) -> Result<(), InputError> {
        if !self.fill(PREFACE.len())? {
            return Err(InputError::Cut);
        }
        let found = &self.buffer[..PREFACE.len()];
        if found != PREFACE {
            return Err(InputError::Preface { preview: found.escape_ascii().to_string() });
        }
        self.start = PREFACE.len();
        Ok(())
    }

    /// The next frame and its payload; `None` when the stream has ended between two frames.
    pub fn frame<T: DeserializeOwned>(&mut self) -> Result<Option<(T, Vec<u8>)>, InputError> {
        let prefix = loop {
            let Some(prefix) = self.prefix()? else { return Ok(None) };
            if !prefix.is_piece() {
                break prefix;
            }
            self.start += PREFIX_BYTES;
            let mut pieces = std::mem::take(&mut self.pieces);
            prefix.check_behind(pieces.len())?;
            self.payload(prefix.payload as usize, &mut pieces)?;
            self.pieces = pieces;
        };
        let (head_bytes, payload_bytes) = (prefix.head as usize, prefix.payload as usize);
        if !self.fill(PREFIX_BYTES + head_bytes)? {
            return Err(InputError::Cut);
        }
        let head_start = self.start + PREFIX_BYTES;
        let head = decode_head(&self.buffer[head_start..][..head_bytes])?;
        self.start = head_start + head_bytes;
        let mut payload = if prefix.continues { std::mem::take(&mut self.pieces) } else { Vec::new() };
        prefix.check_behind(payload.len())?;
        self.payload(payload_bytes, &mut payload)?;
        if prefix.packed {
            payload = unpack(&payload).map_err(FrameError::from)?;
        }
        Ok(Some((head, payload)))
    }

    /// What is in front of the next frame, which is left where it is; `None` at the stream's end.
    fn prefix(&mut self) -> Result<Option<Prefix>, InputError> {
        if !self.fill(PREFIX_BYTES)? {
            return Ok(None);
        }
        let mut prefix = [0; PREFIX_BYTES];
        prefix.copy_from_slice(&self.buffer[self.start..][..PREFIX_BYTES]);
        Ok(Some(Prefix::parse_any(prefix)?))
    }

    /// Whether bytes of another frame are here already.
    pub fn has_more(&self) -> bool {
        self.start < self.buffer.len()
    }

    /// Reads `bytes` more of a payload behind what there is of it.
    fn payload(&mut self, bytes: usize, payload: &mut Vec<u8>) -> Result<(), InputError> {
        let end = payload.len() + bytes;
        payload.reserve_exact(bytes);
        let here = (self.buffer.len() - self.start).min(bytes);
        payload.extend_from_slice(&self.buffer[self.start..][..here]);
        self.start += here;
        while payload.len() < end {
            let missing = end - payload.len();
            if missing < READ_BYTES {
                // The tail comes with what is behind it.
                if !self.fill(missing)? {
                    return Err(InputError::Cut);
                }
                payload.extend_from_slice(&self.buffer[self.start..][..missing]);
                self.start += missing;
                break;
            }
            // The capacity may be more than was asked for; what is read too much belongs to the next frame.
            if self.stream.read(payload)? == 0 {
                return Err(InputError::Cut);
            }
        }
        if payload.len() > end {
            self.buffer.clear();
            self.start = 0;
            self.buffer.extend_from_slice(&payload[end..]);
            payload.truncate(end);
        }
        Ok(())
    }

    /// Reads until the buffer has `bytes` from its start. `false` when the stream ended before the first of them.
    fn fill(&mut self, bytes: usize) -> Result<bool, InputError> {
        if self.buffer.len() - self.start >= bytes {
            return Ok(true);
        }
        self.buffer.drain(..self.start);
        self.start = 0;
        self.buffer.reserve(bytes.max(READ_BYTES) - self.buffer.len());
        while self.buffer.len() < bytes {
            if self.stream.read(&mut self.buffer)? > 0 {
                continue;
            }
            return if self.buffer.is_empty() { Ok(false) } else { Err(InputError::Cut) };
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests;
