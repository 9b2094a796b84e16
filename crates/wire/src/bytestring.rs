//! Names and paths: bytes that are usually, but not always, UTF-8.

#[cfg(unix)]
mod system;

use std::fmt;
use std::str::FromStr;

use data_encoding::HEXLOWER_PERMISSIVE;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A name or a path: any bytes, of any length.
///
/// In JSON it is a plain string when it is UTF-8, and `{"hex":"2fff"}` when it is not, so every value survives.
///
/// `Display` is for people and is lossless too: control characters and bytes that are not UTF-8 are printed as `\xNN`,
/// a backslash as `\\`. A name can therefore not move a terminal's cursor.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteString(Vec<u8>);

impl ByteString {
    /// Takes any bytes.
    pub fn new(bytes: impl Into<Vec<u8>>) -> ByteString {
        ByteString(bytes.into())
    }

    /// The bytes as they are.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Gives the bytes away.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    /// True when there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for ByteString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            for character in chunk.valid().chars() {
                match character {
                    '\\' => f.write_str("\\\\")?,
                    c if c.is_control() => {
                        for byte in c.encode_utf8(&mut [0; 4]).bytes() {
                            write!(f, "\\x{byte:02x}")?;
                        }
                    }
                    c => write!(f, "{c}")?,
                }
            }
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for ByteString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

impl From<&str> for ByteString {
    fn from(text: &str) -> ByteString {
        ByteString(text.as_bytes().to_vec())
    }
}

impl From<String> for ByteString {
    fn from(text: String) -> ByteString {
        ByteString(text.into_bytes())
    }
}

impl From<&[u8]> for ByteString {
    fn from(bytes: &[u8]) -> ByteString {
        ByteString(bytes.to_vec())
    }
}

impl From<Vec<u8>> for ByteString {
    fn from(bytes: Vec<u8>) -> ByteString {
        ByteString(bytes)
    }
}

impl FromStr for ByteString {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<ByteString, Self::Err> {
        Ok(ByteString::from(text))
    }
}

#[derive(Serialize, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
enum Json {
    Text(String),
    Hex { hex: String },
}

impl Serialize for ByteString {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(&self.0) {
            Ok(text) => serializer.serialize_str(text),
            Err(_) => Json::Hex { hex: HEXLOWER_PERMISSIVE.encode(&self.0) }.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for ByteString {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<ByteString, D::Error> {
        match Json::deserialize(deserializer)? {
            Json::Text(text) => Ok(ByteString::from(text)),
            Json::Hex { hex } => {
                HEXLOWER_PERMISSIVE.decode(hex.as_bytes()).map(ByteString).map_err(serde::de::Error::custom)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_survives_json() {
        for bytes in [&b"/home/u"[..], b"", b"a\nb", b"\xff\x00\xfe", "größe".as_bytes(), b"{\"hex\":\"00\"}"]
        {
            let name = ByteString::from(bytes);
            let json = serde_json::to_string(&name).unwrap();
            assert_eq!(serde_json::from_str::<ByteString>(&json).unwrap(), name, "{json}");
        }
    }

    #[test]
    fn text_is_a_plain_json_string_and_the_rest_is_hex() {
        assert_eq!(serde_json::to_string(&ByteString::from("/a b")).unwrap(), r#""/a b""#);
        assert_eq!(serde_json::to_string(&ByteString::from(&b"/\xff"[..])).unwrap(), r#"{"hex":"2fff"}"#);
    }

    #[test]
    fn printing_tells_different_names_apart_and_spares_the_terminal() {
        let shown = |bytes: &[u8]| ByteString::from(bytes).to_string();
        assert_eq!(shown(b"plain name"), "plain name");
        assert_eq!(shown("größe".as_bytes()), "größe");
        assert_eq!(shown(b"\x1b[2J"), "\\x1b[2J");
        assert_eq!(shown(b"a\xffb"), "a\\xffb");
        assert_eq!(shown(b"a\\xffb"), "a\\\\xffb");
        assert_eq!(shown("\u{9b}31m".as_bytes()), "\\xc2\\x9b31m");
    }

    #[test]
    fn damaged_hex_is_refused() {
        for json in [r#"{"hex":"0"}"#, r#"{"hex":"zz"}"#, r#"{"hex":"00","x":1}"#, "1", "null", "[1]"] {
            assert!(serde_json::from_str::<ByteString>(json).is_err(), "{json}");
        }
    }
}
