//! Digests, as registries and catalogues write them: `sha256:` and 64 small hexadecimal digits.

use std::fmt;

use data_encoding::HEXLOWER;
use sha2::{Digest as _, Sha256};
use wire::api::ErrorKind;

use crate::error::{Error, Result};

/// What is called by what is in it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest([u8; 32]);

/// What is read of something that has a digest.
#[derive(Debug, Clone, Default)]
pub struct Hasher(Sha256);

impl Digest {
    /// Of these bytes.
    pub fn of(bytes: &[u8]) -> Digest {
        let mut hasher = Hasher::default();
        hasher.update(bytes);
        hasher.end()
    }

    /// As it is written. Others than SHA-256 are refused: nothing that is not verified is taken.
    pub fn parse(text: &str) -> Result<Digest> {
        let digits = text.strip_prefix("sha256:").ok_or_else(|| refused(text))?;
        Digest::of_digits(digits)
    }

    /// Only the digits.
    pub fn of_digits(digits: &str) -> Result<Digest> {
        let bytes = HEXLOWER.decode(digits.as_bytes()).map_err(|_| refused(digits))?;
        bytes.try_into().map(Digest).map_err(|_| refused(digits))
    }

    /// Without the name of the sort.
    pub fn digits(&self) -> String {
        HEXLOWER.encode(&self.0)
    }
}

fn refused(text: &str) -> Error {
    let shown: String = text.chars().take(100).collect();
    Error::new(ErrorKind::Usage, format!("`{}` is no SHA-256 digest", shown.escape_debug()))
}

impl fmt::Display for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "sha256:{}", self.digits())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

impl Hasher {
    /// The next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest of all of them.
    pub fn end(self) -> Digest {
        Digest(self.0.finalize().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_written_as_it_is_read_and_nothing_else_is_one() {
        let digest = Digest::of(b"");
        assert_eq!(
            digest.to_string(),
            "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
        assert_eq!(Digest::parse(&digest.to_string()).unwrap(), digest);
        let (short, upper) = ("sha256:e3".to_owned(), digest.to_string().to_uppercase());
        for text in
            ["", "e3b0", "sha512:00", "sha256:", &short, &upper, &format!("{digest}0"), "sha256:../../x"]
        {
            assert!(Digest::parse(text).is_err(), "{text}");
        }
    }
}
