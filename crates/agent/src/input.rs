//! Frames from a stream.

use std::sync::Arc;

use rustix::io::Errno;
use serde::de::DeserializeOwned;
use wire::frame::{FrameError, PREFACE, PREFIX_BYTES, Prefix, decode_head};

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
}

impl Input {
    pub fn new(stream: Arc<Ends>) -> Input {
        Input { stream, buffer: Vec::with_capacity(READ_BYTES), start: 0 }
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
        if !self.fill(PREFIX_BYTES)? {
            return Ok(None);
        }
        let mut prefix = [0; PREFIX_BYTES];
        prefix.copy_from_slice(&self.buffer[self.start..][..PREFIX_BYTES]);
        let prefix = Prefix::parse(prefix)?;
        let (head_bytes, payload_bytes) = (prefix.head as usize, prefix.payload as usize);
        if !self.fill(PREFIX_BYTES + head_bytes)? {
            return Err(InputError::Cut);
        }
        let head_start = self.start + PREFIX_BYTES;
        let head = decode_head(&self.buffer[head_start..][..head_bytes])?;
        self.start = head_start + head_bytes;
        let payload = self.payload(payload_bytes)?;
        Ok(Some((head, payload)))
    }

    /// Whether bytes of another frame are here already.
    pub fn has_more(&self) -> bool {
        self.start < self.buffer.len()
    }

    fn payload(&mut self, bytes: usize) -> Result<Vec<u8>, InputError> {
        if bytes == 0 {
            return Ok(Vec::new());
        }
        let here = (self.buffer.len() - self.start).min(bytes);
        let mut payload = Vec::with_capacity(bytes);
        payload.extend_from_slice(&self.buffer[self.start..][..here]);
        self.start += here;
        while payload.len() < bytes {
            let missing = bytes - payload.len();
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
            if self.stream.read(&mut payload)? == 0 {
                return Err(InputError::Cut);
            }
        }
        if payload.len() > bytes {
            self.buffer.clear();
            self.start = 0;
            self.buffer.extend_from_slice(&payload[bytes..]);
            payload.truncate(bytes);
        }
        Ok(payload)
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
