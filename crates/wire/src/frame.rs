//! Frames of the agent protocol.
//!
//! A stream starts with [`PREFACE`] in each direction, so that what a login shell prints before the agent starts can
//! be told from the protocol. Frames follow, each:
//!
//! | offset | size | content |
//! |---|---|---|
//! | 0 | 4 | length of the head `H`, little endian, at most [`HEAD_BYTES_MAX`]; 0 of a piece |
//! | 4 | 4 | bits 0 to 29: length of the payload `P`, little endian, at most [`PAYLOAD_BYTES_MAX`]; bit 30: continues; bit 31: packed |
//! | 8 | H | head: one value in postcard's format |
//! | 8+H | P | payload: raw bytes, whose meaning the head gives |
//!
//! A client may send the payload of a frame in pieces, so that other frames need not wait for all of it: frames without a
//! head, each with some of the payload, in order. The frame itself follows with the rest, and the bit that says so.
//! Frames without that bit may come in between. All pieces together are no longer than a payload may be.
//!
//! A packed payload is as [`crate::packing`] has it, behind its pieces are joined; both sides must have
//! [said](crate::hello::capability::PACKING) that they unpack.
//!
//! This module reads and writes nothing: it turns bytes into frames and frames into bytes. A payload is never copied
//! through serde.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::decode::DecodeError;

/// What each side sends before its first frame.
pub const PREFACE: &[u8; 12] = b"\0STEAD/AGNT\n";

/// How much may come before the peer's [`PREFACE`]: a login banner, not a flood.
pub const NOISE_BYTES_MAX: usize = 64 << 10;

/// The longest head. A page of a directory listing is the largest head there is, and its sender keeps it below half
/// of this.
pub const HEAD_BYTES_MAX: u32 = 1 << 20;

/// The longest payload: the largest read or write the kernel asks for at once.
pub const PAYLOAD_BYTES_MAX: u32 = 1 << 20;

/// The length of the two lengths in front of a frame.
pub const PREFIX_BYTES: usize = 8;

/// The payload goes behind the pieces that came before.
const CONTINUES: u32 = 1 << 30;

/// The payload is packed.
const PACKED: u32 = 1 << 31;

/// What is in front of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    /// Bytes of the head; 0 of a piece.
    pub head: u32,
    /// Bytes of the payload.
    pub payload: u32,
    /// Whether the payload goes behind the pieces that came before.
    pub continues: bool,
    /// Whether the payload, with its pieces, is packed.
    pub packed: bool,
}

/// Why bytes are not a frame.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The head's length is zero or over its limit: the stream is out of step or hostile.
    #[error("frame head of {0} bytes; 1 to {HEAD_BYTES_MAX} are allowed")]
    Head(u32),
    /// The payload's length is over its limit.
    #[error("frame payload of {0} bytes; at most {PAYLOAD_BYTES_MAX} are allowed")]
    Payload(u32),
    /// A piece of nothing, or one of a side that sends none.
    #[error("a piece of a payload where there can be none")]
    Piece,
    /// A payload that is packed, and cannot be unpacked.
    #[error(transparent)]
    Packing(#[from] crate::packing::UnpackError),
    /// The head's bytes are not a value of the expected type.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// A value whose encoded head is longer than a frame may carry.
    #[error("{type_name} takes {bytes} bytes; a frame head has at most {HEAD_BYTES_MAX}")]
    TooLong {
        /// The Rust type that was to be sent.
        type_name: &'static str,
        /// What it takes encoded.
        bytes: usize,
    },
    /// A value that cannot be written in the head's format at all.
    #[error("could not encode {type_name}: {reason}")]
    Encode {
        /// The Rust type that was to be sent.
        type_name: &'static str,
        /// What the encoder said.
        reason: String,
    },
}

impl Prefix {
    /// Reads the lengths of a frame that is no piece, and holds them against the limits.
    pub fn parse(bytes: [u8; PREFIX_BYTES]) -> Result<Prefix, FrameError> {
        match Prefix::parse_any(bytes)? {
            prefix if prefix.is_piece() => Err(FrameError::Head(0)),
            Prefix { continues: true, .. } => Err(FrameError::Piece),
            prefix => Ok(prefix),
        }
    }

    /// That of the first frame in these bytes, if all of the frame is there.
    pub fn of_whole(bytes: &[u8]) -> Result<Option<Prefix>, FrameError> {
        let Some(prefix) = bytes.first_chunk::<PREFIX_BYTES>() else { return Ok(None) };
        let prefix = Prefix::parse(*prefix)?;
        Ok((bytes.len() >= PREFIX_BYTES + prefix.body_bytes()).then_some(prefix))
    }

    /// As [`Prefix::parse`], of a frame that may be a piece or continue some. A piece has a payload, and nothing else.
    pub fn parse_any(bytes: [u8; PREFIX_BYTES]) -> Result<Prefix, FrameError> {
        let [a, b, c, d, e, f, g, h] = bytes;
        let (head, payload) = (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]));
        let (continues, packed) = (payload & CONTINUES != 0, payload & PACKED != 0);
        let payload = payload & !(CONTINUES | PACKED);
        if head > HEAD_BYTES_MAX {
            return Err(FrameError::Head(head));
        }
        if payload > PAYLOAD_BYTES_MAX {
            return Err(FrameError::Payload(payload));
        }
        if head == 0 && (payload == 0 || continues || packed) {
            return Err(FrameError::Head(0));
        }
        Ok(Prefix { head, payload, continues, packed })
    }

    /// Whether it is in front of a piece of a payload.
    pub fn is_piece(self) -> bool {
        self.head == 0
    }

    /// Whether this payload may be put behind the `gathered` bytes of pieces.
    pub fn check_behind(self, gathered: usize) -> Result<(), FrameError> {
        let all = gathered + self.payload as usize;
        if all > PAYLOAD_BYTES_MAX as usize {
            return Err(FrameError::Payload(u32::try_from(all).unwrap_or(u32::MAX)));
        }
        Ok(())
    }

    /// Bytes that follow the prefix.
    pub fn body_bytes(self) -> usize {
        self.head as usize + self.payload as usize
    }
}

/// Encodes the prefix and the head of a frame whose payload, of `payload_bytes`, the caller sends right behind it.
pub fn encode_head<T: Serialize>(head: &T, payload_bytes: usize) -> Result<Vec<u8>, FrameError> {
    let payload = u32::try_from(payload_bytes).unwrap_or(u32::MAX);
    if payload > PAYLOAD_BYTES_MAX {
        return Err(FrameError::Payload(payload));
    }
    let type_name = std::any::type_name::<T>();
    let mut frame = vec![0; PREFIX_BYTES];
    frame = postcard::to_extend(head, frame)
        .map_err(|e| FrameError::Encode { type_name, reason: e.to_string() })?;
    let bytes = frame.len() - PREFIX_BYTES;
    let head_bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
    if head_bytes > HEAD_BYTES_MAX {
        return Err(FrameError::TooLong { type_name, bytes });
    }
    frame[..4].copy_from_slice(&head_bytes.to_le_bytes());
    frame[4..8].copy_from_slice(&payload.to_le_bytes());
    Ok(frame)
}

/// What is in front of a piece of a payload, of at least one byte.
pub fn piece_prefix(bytes: u32) -> [u8; PREFIX_BYTES] {
    let mut prefix = [0; PREFIX_BYTES];
    prefix[4..].copy_from_slice(&bytes.to_le_bytes());
    prefix
}

/// What becomes of the payload of a frame that has been encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payload {
    /// It is packed, and has this many bytes then.
    Packed(u32),
    /// This many bytes of it are left: the others have been sent as pieces.
    Rest(u32),
}

/// Says in a frame that [`encode_head`] has made what has become of its payload since.
pub fn amend(frame: &mut [u8], payload: Payload) {
    let Some(field) = frame.get_mut(4..8) else { return };
    let before = u32::from_le_bytes([field[0], field[1], field[2], field[3]]);
    let after = match payload {
        Payload::Packed(bytes) => bytes | PACKED,
        Payload::Rest(bytes) => bytes | CONTINUES | (before & PACKED),
    };
    field.copy_from_slice(&after.to_le_bytes());
}

/// Decodes a head. All of `bytes` must be used: left-over bytes are a mismatch of the two sides.
pub fn decode_head<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, FrameError> {
    match postcard::take_from_bytes::<T>(bytes) {
        Ok((value, [])) => Ok(value),
        Ok((_, rest)) => Err(DecodeError::new::<T>(bytes, format!("{} bytes too many", rest.len())).into()),
        Err(e) => Err(DecodeError::new::<T>(bytes, e.to_string()).into()),
    }
}

#[cfg(test)]
mod tests;
