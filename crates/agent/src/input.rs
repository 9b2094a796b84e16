//! Frames from a stream.

use std::sync::Arc;

use rustix::io::Errno;
use serde::de::DeserializeOwned;
use wire::frame::{FrameError, PREFACE, PREFIX_BYTES, Prefix, decode_head};
use wire::packing::unpack;

use crate::ends::Ends;
use crate::payloads::Payloads;

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
    payloads: Arc<Payloads>,
}

impl Input {
    /// Takes memory for payloads from `payloads`. Who has used one gives it back.
    pub fn new(stream: Arc<Ends>, payloads: Arc<Payloads>) -> Input {
        let (buffer, pieces) = (Vec::with_capacity(READ_BYTES), Vec::new());
        Input { stream, buffer, start: 0, pieces, payloads }
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
            let bytes = prefix.payload as usize;
            let mut pieces = self.begun(bytes);
            prefix.check_behind(pieces.len())?;
            self.payload(bytes, &mut pieces)?;
            self.pieces = pieces;
        };
        let (head_bytes, payload_bytes) = (prefix.head as usize, prefix.payload as usize);
        if !self.fill(PREFIX_BYTES + head_bytes)? {
            return Err(InputError::Cut);
        }
        let head_start = self.start + PREFIX_BYTES;
        let head = decode_head(&self.buffer[head_start..][..head_bytes])?;
        self.start = head_start + head_bytes;
        let mut payload =
            if prefix.continues { self.begun(payload_bytes) } else { self.payloads.take(payload_bytes) };
        prefix.check_behind(payload.len())?;
        self.payload(payload_bytes, &mut payload)?;
        if prefix.packed {
            let unpacked = unpack(&payload).map_err(FrameError::from)?;
            self.payloads.give_back(std::mem::replace(&mut payload, unpacked));
        }
        Ok(Some((head, payload)))
    }

    /// The pieces that have come, or memory for the first, of this length.
    fn begun(&mut self, bytes: usize) -> Vec<u8> {
        match self.pieces.is_empty() {
            true => self.payloads.take(bytes),
            false => std::mem::take(&mut self.pieces),
        }
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
        let mut at = payload.len();
        let end = at + bytes;
        payload.reserve_exact(bytes);
        // The memory may be more than is missing: what is read is bounded by its length.
        payload.resize(end, 0);
        let here = (self.buffer.len() - self.start).min(bytes);
        payload[at..at + here].copy_from_slice(&self.buffer[self.start..][..here]);
        self.start += here;
        at += here;
        while at < end {
            let missing = end - at;
            if missing < READ_BYTES {
                // The tail comes with what is behind it.
                if !self.fill(missing)? {
                    return Err(InputError::Cut);
                }
                payload[at..].copy_from_slice(&self.buffer[self.start..][..missing]);
                self.start += missing;
                break;
            }
            match self.stream.read_into(&mut payload[at..])? {
                0 => return Err(InputError::Cut),
                read => at += read,
            }
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
