//! From errors of all sorts to the one that clients see.

use std::error::Error;
use std::fmt::Write;
use std::io;

use remote::client::CallError;
use wire::api::{ErrorKind, ErrorObject};
use wire::worker::WorkerError;

/// An error with its causes on one line: `could not A: could not B: no such file`.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        // Some errors print their cause themselves.
        if !text.ends_with(&next) {
            // Writing to a string cannot fail.
            let _ = write!(text, ": {next}");
        }
        cause = error.source();
    }
    text.replace('\n', " ")
}

/// The sort of failure behind an error of the system.
pub fn kind_of(error: &io::Error) -> ErrorKind {
    use io::ErrorKind as Io;
    match error.kind() {
        Io::NotFound => ErrorKind::NotFound,
        Io::PermissionDenied | Io::ReadOnlyFilesystem => ErrorKind::Refused,
        Io::AlreadyExists
        | Io::DirectoryNotEmpty
        | Io::ResourceBusy
        | Io::AddrInUse
        | Io::IsADirectory
        | Io::NotADirectory => ErrorKind::Conflict,
        Io::TimedOut => ErrorKind::TimedOut,
        Io::ConnectionRefused | Io::HostUnreachable | Io::NetworkUnreachable => ErrorKind::Unreachable,
        _ => ErrorKind::Failure,
    }
}

/// A failure whose kind follows from the system's error: `{what}: {error}`.
pub fn from_io(what: &str, error: &io::Error) -> ErrorObject {
    ErrorObject::new(kind_of(error), format!("{what}: {}", plain(error)))
}

/// A failure of a request to a machine: what the machine's error number says, or why the machine did not answer.
pub fn from_call(what: &str, error: &CallError) -> ErrorObject {
    match error {
        CallError::Failed(failure) => {
            let errno = ::remote::errno::here(failure.errno);
            match failure.detail.as_str() {
                "" => from_io(what, &errno),
                detail => from_io(&format!("{what}: {}", detail.replace(char::is_control, " ")), &errno),
            }
        }
        CallError::Lost(_) => ErrorObject::new(ErrorKind::Unreachable, format!("{what}: {}", chain(error))),
        CallError::Unsendable(_) => ErrorObject::new(ErrorKind::Usage, format!("{what}: {}", chain(error))),
    }
}

/// The system's own words, without Rust's `(os error N)`.
pub fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    match text.find(" (os error") {
        Some(at) => text[..at].to_lowercase(),
        None => text,
    }
}

/// A failure that is nobody's fault but the daemon's or the system's.
pub fn failure(error: &(dyn Error + 'static)) -> ErrorObject {
    ErrorObject::new(ErrorKind::Failure, chain(error))
}

/// A failure as a worker told it. Its texts are taken for one line each.
pub fn from_worker(error: WorkerError) -> ErrorObject {
    let line = |text: String| text.replace(char::is_control, " ");
    let object = ErrorObject::new(error.kind, line(error.message));
    match error.hint {
        Some(hint) => object.with_hint(line(hint)),
        None => object,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("could not open the thing")]
    struct Outer(#[source] io::Error);

    #[test]
    fn causes_follow_on_the_same_line() {
        let error = Outer(io::Error::other("two\nlines"));
        assert_eq!(chain(&error), "could not open the thing: two lines");
    }

    #[test]
    fn errors_of_the_system_have_a_kind_and_plain_words() {
        let error = from_io("could not look at `/x`", &io::Error::from_raw_os_error(2));
        assert_eq!(
            (error.kind(), error.message.as_str()),
            (ErrorKind::NotFound, "could not look at `/x`: no such file or directory")
        );
        assert_eq!(kind_of(&io::Error::from_raw_os_error(13)), ErrorKind::Refused);
        assert_eq!(kind_of(&io::Error::from_raw_os_error(39)), ErrorKind::Conflict);
        assert_eq!(kind_of(&io::Error::from_raw_os_error(5)), ErrorKind::Failure);
    }

    #[test]
    fn a_workers_words_are_one_line() {
        let error =
            WorkerError { kind: ErrorKind::Conflict, message: "a\nb\x1b".into(), hint: Some("c\nd".into()) };
        let object = from_worker(error);
        assert_eq!((object.message.as_str(), object.hint()), ("a b ", Some("c d")));
    }
}
