//! The one error for bytes that are not what they should be.

use std::fmt;

/// How many leading bytes of an undecodable message an error shows: enough to recognise a wrong peer (a shell banner,
/// an HTTP answer, a frame of another version), too few to carry a file's content into a log.
pub const PREVIEW_BYTES_MAX: usize = 64;

/// Bytes could not be read as a value of the named type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecodeError {
    /// The type that was expected.
    pub type_name: &'static str,
    /// How many bytes there were.
    pub bytes: usize,
    /// The first bytes in hexadecimal, at most [`PREVIEW_BYTES_MAX`] of them. Empty for a message that may hold a
    /// secret.
    pub preview: String,
    /// What the decoder objected to. Empty for a message that may hold a secret.
    pub reason: String,
}

impl DecodeError {
    /// The error for `bytes`, which were expected to be a `T` and are not because of `reason`.
    pub fn new<T: ?Sized>(bytes: &[u8], reason: impl fmt::Display) -> DecodeError {
        DecodeError {
            type_name: short_type_name::<T>(),
            bytes: bytes.len(),
            preview: hex_preview(bytes),
            reason: reason.to_string(),
        }
    }

    /// The same for a message that may hold a secret: nothing of its content is kept.
    pub fn redacted<T: ?Sized>(bytes: &[u8]) -> DecodeError {
        DecodeError {
            type_name: short_type_name::<T>(),
            bytes: bytes.len(),
            preview: String::new(),
            reason: String::new(),
        }
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "could not decode {} from {} bytes", self.type_name, self.bytes)?;
        if !self.reason.is_empty() {
            write!(f, ": {}", self.reason)?;
        }
        match (self.preview.is_empty(), self.bytes > PREVIEW_BYTES_MAX) {
            (true, _) => Ok(()),
            (false, false) => write!(f, " [{}]", self.preview),
            (false, true) => write!(f, " [{}...]", self.preview),
        }
    }
}

impl std::error::Error for DecodeError {}

/// The first [`PREVIEW_BYTES_MAX`] bytes in lower-case hexadecimal.
pub fn hex_preview(bytes: &[u8]) -> String {
    let shown = &bytes[..bytes.len().min(PREVIEW_BYTES_MAX)];
    data_encoding::HEXLOWER.encode(shown)
}

/// The name without its module path. Generic arguments keep theirs.
fn short_type_name<T: ?Sized>() -> &'static str {
    let full = std::any::type_name::<T>();
    let head_end = full.find('<').unwrap_or(full.len());
    match full[..head_end].rfind("::") {
        Some(at) => &full[at + 2..],
        None => full,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Frame;

    #[test]
    fn an_error_names_the_type_the_count_and_the_first_bytes() {
        let error = DecodeError::new::<Frame>(b"HTTP", "bad magic");
        assert_eq!(error.to_string(), "could not decode Frame from 4 bytes: bad magic [48545450]");
    }

    #[test]
    fn a_preview_is_cut_at_its_limit() {
        let error = DecodeError::new::<Frame>(&[0xab; 1000], "too long");
        assert_eq!(error.preview.len(), 2 * PREVIEW_BYTES_MAX);
        assert!(error.to_string().ends_with("ab...]"));
        assert_eq!(error.bytes, 1000);
    }

    #[test]
    fn a_redacted_error_keeps_nothing_of_the_message() {
        let error = DecodeError::redacted::<Frame>(b"hunter2");
        assert_eq!(error.to_string(), "could not decode Frame from 7 bytes");
    }
}
