//! What can go wrong, each mapped once to what a kernel is answered.

use std::io;
use std::path::PathBuf;

use rustix::io::Errno;

use crate::Oid;
use crate::log::LogError;

/// Of everything here.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What was asked for cannot be: the asker's affair.
    #[error("{0}")]
    Refused(#[from] Refusal),
    /// The repository does not have an object that its revision needs.
    #[error("object {oid} is not in the repository `{}`", repository.display())]
    Missing {
        /// Which.
        oid: Oid,
        /// Whose it should be.
        repository: PathBuf,
    },
    /// An object is not what its number says, or cannot be decoded.
    #[error("object {oid} is damaged in the repository `{}`: {why}", repository.display())]
    Corrupt {
        /// Which.
        oid: Oid,
        /// Whose.
        repository: PathBuf,
        /// In which way.
        why: String,
    },
    /// git did not do what it was asked.
    #[error("git could not {what} in `{}`: {why}", repository.display())]
    Git {
        /// What was asked.
        what: &'static str,
        /// Where.
        repository: PathBuf,
        /// What git said.
        why: String,
    },
    /// git had to be ended.
    #[error("git did not {what} in `{}` in time: a hook or a filter of it may wait for something", repository.display())]
    Late {
        /// What was asked.
        what: &'static str,
        /// Where.
        repository: PathBuf,
    },
    /// The file system below.
    #[error("could not {what} `{}`", path.display())]
    Access {
        /// What was being done.
        what: &'static str,
        /// To which file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The log of names.
    #[error(transparent)]
    Log(#[from] LogError),
    /// Whole records of a log that cannot be true.
    #[error("the log `{}` says what cannot be: {why}", path.display())]
    Damaged {
        /// Which log.
        path: PathBuf,
        /// What it says.
        why: &'static str,
    },
    /// Somebody else has what only one can have.
    #[error("`{}` is in use by another process", path.display())]
    Busy {
        /// The directory of a thread, or of a repository.
        path: PathBuf,
    },
}

impl Error {
    /// What a kernel is answered.
    pub fn errno(&self) -> Errno {
        match self {
            Error::Refused(refusal) => refusal.errno(),
            Error::Access { source, .. } | Error::Log(LogError::Access { source, .. }) => {
                Errno::from_io_error(source).unwrap_or(Errno::IO)
            }
            Error::Busy { .. } => Errno::BUSY,
            Error::Missing { .. } | Error::Corrupt { .. } => Errno::IO,
            Error::Git { .. } | Error::Late { .. } => Errno::IO,
            Error::Log(LogError::Foreign { .. } | LogError::Broken { .. }) | Error::Damaged { .. } => {
                Errno::IO
            }
        }
    }
}

/// What POSIX has an error number for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No such name, or a directory that is removed.
    #[error("there is no such file")]
    NoSuchName,
    /// The name is another file's.
    #[error("the name is taken")]
    Taken,
    /// Not a directory.
    #[error("it is not a directory")]
    NotDirectory,
    /// A directory, where none can be.
    #[error("it is a directory")]
    IsDirectory,
    /// Names are left in it.
    #[error("the directory is not empty")]
    NotEmpty,
    /// Longer than [`NAME_BYTES_MAX`](crate::node::NAME_BYTES_MAX).
    #[error("the name is too long")]
    NameTooLong,
    /// A name or content that no file has, or a directory that would be within itself.
    #[error("it cannot be")]
    Invalid,
    /// The number was of a file that is gone.
    #[error("the file is gone")]
    Stale,
    /// No such extended attribute.
    #[error("there is no such attribute")]
    NoAttribute,
    /// More names than [`LINKS_MAX`](crate::node::LINKS_MAX).
    #[error("the file has too many names")]
    TooManyLinks,
    /// An attribute of more than [`XATTR_BYTES_MAX`](crate::node::XATTR_BYTES_MAX).
    #[error("the attribute is too large")]
    TooLarge,
    /// All attributes of a file together would be more than that.
    #[error("the file's attributes are too large")]
    NoSpace,
    /// The file is of the working copy, and cannot be read there.
    #[error("it must not be read")]
    Denied,
    /// The file is of the working copy, and is changed there all the time.
    #[error("it is being changed where it is seen")]
    Changing,
    /// More files of the working copy than can be seen at once.
    #[error("too many files are seen in place")]
    TooManySeen,
    /// Not of this kind of file.
    #[error("not of such a file")]
    NotPermitted,
}

impl Refusal {
    /// What a kernel is answered.
    pub fn errno(self) -> Errno {
        match self {
            Refusal::NoSuchName => Errno::NOENT,
            Refusal::Taken => Errno::EXIST,
            Refusal::NotDirectory => Errno::NOTDIR,
            Refusal::IsDirectory => Errno::ISDIR,
            Refusal::NotEmpty => Errno::NOTEMPTY,
            Refusal::NameTooLong => Errno::NAMETOOLONG,
            Refusal::Invalid => Errno::INVAL,
            Refusal::Stale => Errno::STALE,
            Refusal::NoAttribute => crate::system::NO_ATTRIBUTE,
            Refusal::TooManyLinks => Errno::MLINK,
            Refusal::TooLarge => Errno::TOOBIG,
            Refusal::NoSpace => Errno::NOSPC,
            Refusal::Denied => Errno::ACCESS,
            Refusal::Changing => Errno::BUSY,
            Refusal::TooManySeen => Errno::NFILE,
            Refusal::NotPermitted => Errno::PERM,
        }
    }
}

/// Says which file an error of the file system was about.
pub(crate) fn fails<'a>(
    what: &'static str,
    path: &'a std::path::Path,
) -> impl FnOnce(io::Error) -> Error + 'a {
    move |source| Error::Access { what, path: path.to_owned(), source }
}
