//! Failures as the command line tells them.

use std::fmt;
use std::io;

use wire::api::{ErrorKind, ErrorObject};

/// Why a command ends early.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// Something to be told, with an exit code of its own.
    Failed(Failure),
    /// Whoever read the output has gone. There is nobody to tell.
    OutputClosed,
}

/// What could not be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The sort of failure, which decides the exit code.
    pub kind: ErrorKind,
    /// One line: what could not be done, to what, and why.
    pub message: String,
    /// The command that mends it.
    pub hint: Option<String>,
}

/// What a command gives back.
pub type Result<T> = std::result::Result<T, Error>;

/// The exit code of a program whose reader went away, as a shell reports it: 128 and the number of SIGPIPE.
const OUTPUT_CLOSED_CODE: u8 = 141;

impl Error {
    /// A failure without a hint.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Error {
        Error::Failed(Failure { kind, message: message.into(), hint: None })
    }

    /// What was asked for makes no sense as written.
    pub fn usage(message: impl fmt::Display) -> Error {
        Error::new(ErrorKind::Usage, message.to_string())
    }

    /// A failed call to the system: `what` says what was tried, as in "could not read `x`".
    pub fn io(what: impl fmt::Display, source: &io::Error) -> Error {
        let kind = match source.kind() {
            io::ErrorKind::NotFound => ErrorKind::NotFound,
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => ErrorKind::Refused,
            io::ErrorKind::AlreadyExists
            | io::ErrorKind::ResourceBusy
            | io::ErrorKind::DirectoryNotEmpty
            | io::ErrorKind::NotADirectory
            | io::ErrorKind::IsADirectory => ErrorKind::Conflict,
            io::ErrorKind::TimedOut => ErrorKind::TimedOut,
            _ => ErrorKind::Failure,
        };
        Error::new(kind, format!("{what}: {}", reason(source)))
    }

    /// Adds the command that mends it.
    #[must_use]
    pub fn hint(self, hint: impl Into<String>) -> Error {
        match self {
            Error::Failed(failure) => Error::Failed(Failure { hint: Some(hint.into()), ..failure }),
            Error::OutputClosed => Error::OutputClosed,
        }
    }

    /// The same, where there is no hint yet and the failure is of this kind.
    #[must_use]
    pub fn hint_if(self, kind: ErrorKind, hint: impl FnOnce() -> String) -> Error {
        match self {
            Error::Failed(Failure { kind: found, hint: None, message }) if found == kind => {
                Error::Failed(Failure { kind, message, hint: Some(hint()) })
            }
            other => other,
        }
    }

    /// The exit code of the program.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Failed(failure) => failure.kind.exit_code(),
            Error::OutputClosed => OUTPUT_CLOSED_CODE,
        }
    }
}

impl From<ErrorObject> for Error {
    fn from(error: ErrorObject) -> Error {
        let hint = error.hint().map(str::to_owned);
        Error::Failed(Failure { kind: error.kind(), message: error.message, hint })
    }
}

/// The system's words without the number that Rust adds to them.
pub fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    match text.rfind(" (os error ") {
        Some(at) => text[..at].to_owned(),
        None => text,
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn a_system_error_has_the_exit_code_of_its_sort() {
        let code = |errno: rustix::io::Errno| Error::io("x", &errno.into()).exit_code();
        assert_eq!(code(rustix::io::Errno::NOENT), 3);
        assert_eq!(code(rustix::io::Errno::ACCESS), 4);
        assert_eq!(code(rustix::io::Errno::ROFS), 4);
        assert_eq!(code(rustix::io::Errno::EXIST), 5);
        assert_eq!(code(rustix::io::Errno::IO), 1);
    }

    #[test]
    fn the_number_of_a_system_error_is_not_shown() {
        let Error::Failed(failure) = Error::io("could not read `x`", &rustix::io::Errno::NOENT.into()) else {
            unreachable!("an I/O error is told");
        };
        assert_eq!(failure.message, "could not read `x`: No such file or directory");
    }
}
