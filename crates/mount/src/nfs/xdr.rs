//! Arguments of calls, read from bytes that may be anything.
//!
//! `nfs3_types` reads XDR from a stream and reserves what a length says before it has seen that many bytes, so four
//! bytes could make the process ask for gigabytes. Here lengths are checked against what is there; its types are used
//! only where they contain none.

use bytes::{Buf, Bytes};
use nfs3_types::xdr_codec::Unpack;

/// The bytes are not what the procedure takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Garbage;

/// What is left to read of a call.
#[derive(Clone, Debug)]
pub struct Arguments(Bytes);

impl Arguments {
    /// All of `bytes` is to be read.
    pub fn new(bytes: Bytes) -> Arguments {
        Arguments(bytes)
    }

    /// What is left, unread.
    pub fn rest(&self) -> &Bytes {
        &self.0
    }

    /// A number of 32 bits.
    pub fn u32(&mut self) -> Result<u32, Garbage> {
        self.0.try_get_u32().map_err(|_short| Garbage)
    }

    /// A number of 64 bits.
    pub fn u64(&mut self) -> Result<u64, Garbage> {
        self.0.try_get_u64().map_err(|_short| Garbage)
    }

    /// A value of a type whose size does not depend on a length inside it.
    pub fn fixed<T: Unpack>(&mut self) -> Result<T, Garbage> {
        let mut input: &[u8] = &self.0;
        let (value, _) = T::unpack(&mut input).map_err(|_malformed| Garbage)?;
        let taken = self.0.len() - input.len();
        self.0.advance(taken);
        Ok(value)
    }

    /// Bytes with their length before them and zeros up to the next multiple of four behind.
    pub fn opaque(&mut self, max: usize) -> Result<Bytes, Garbage> {
        let length = self.u32()? as usize;
        let padded = length.checked_next_multiple_of(4).ok_or(Garbage)?;
        if length > max || padded > self.0.len() {
            return Err(Garbage);
        }
        let mut taken = self.0.split_to(padded);
        taken.truncate(length);
        Ok(taken)
    }

    /// Numbers with their count before them.
    pub fn numbers(&mut self, max: usize) -> Result<Vec<u32>, Garbage> {
        let count = self.u32()? as usize;
        if count > max {
            return Err(Garbage);
        }
        (0..count).map(|_| self.u32()).collect()
    }

    /// Nothing may follow.
    pub fn end(&self) -> Result<(), Garbage> {
        if self.0.is_empty() { Ok(()) } else { Err(Garbage) }
    }
}
