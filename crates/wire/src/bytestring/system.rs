//! Names and paths of a system that has them as bytes.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::ByteString;

impl ByteString {
    /// The bytes as a path of this system.
    pub fn as_path(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.0))
    }

    /// The bytes as a string of this system.
    pub fn as_os_str(&self) -> &OsStr {
        OsStr::from_bytes(&self.0)
    }
}

impl From<&Path> for ByteString {
    fn from(path: &Path) -> ByteString {
        ByteString(path.as_os_str().as_bytes().to_vec())
    }
}

impl From<PathBuf> for ByteString {
    fn from(path: PathBuf) -> ByteString {
        ByteString(path.into_os_string().into_vec())
    }
}

impl From<OsString> for ByteString {
    fn from(text: OsString) -> ByteString {
        ByteString(text.into_vec())
    }
}

impl From<ByteString> for PathBuf {
    fn from(bytes: ByteString) -> PathBuf {
        PathBuf::from(OsString::from_vec(bytes.0))
    }
}

impl From<ByteString> for OsString {
    fn from(bytes: ByteString) -> OsString {
        OsString::from_vec(bytes.0)
    }
}
