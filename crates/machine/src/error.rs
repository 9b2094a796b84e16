//! Why something could not be done, and what mends it.

use std::io;
use std::path::Path;

use wire::api::ErrorKind;

/// What is wrong, in one line.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// What sort of failure it is.
    pub kind: ErrorKind,
    /// One line: what could not be done, to what, and why.
    pub message: String,
    /// What mends it.
    pub hint: Option<String>,
}

/// Or why there is none.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error without a hint.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Error {
        Error { kind, message: message.into(), hint: None }
    }

    /// The same with one.
    #[must_use]
    pub fn hint(self, hint: impl Into<String>) -> Error {
        Error { hint: Some(hint.into()), ..self }
    }

    /// The same of what somebody else has made, which whoever asked for it cannot mend.
    #[must_use]
    pub(crate) fn of_others(self) -> Error {
        let kind = if self.kind == ErrorKind::Usage { ErrorKind::Refused } else { self.kind };
        Error { kind, ..self }
    }

    /// Something was tried with a file and did not work.
    pub(crate) fn file(what: &str, path: &Path, error: &io::Error) -> Error {
        let kind = match error.kind() {
            io::ErrorKind::NotFound => ErrorKind::NotFound,
            io::ErrorKind::PermissionDenied => ErrorKind::Refused,
            _ => ErrorKind::Failure,
        };
        Error::new(kind, format!("could not {what} `{}`: {error}", path.display()))
    }
}
