//! What a keeper or a worker is started with: its arguments, after those that name the part.
//!
//! | argument | says |
//! |---|---|
//! | the first | the mount's directory |
//! | `fd:NAME=NUMBER` | an inherited descriptor and what it is |
//! | `spare:NAME=NUMBER` | to a worker: a descriptor of the spare of this name |
//! | `restarts=COUNT` | how many workers came before |
//! | `worker=PID:STARTED` | to a keeper: the worker that is there already |

use std::ffi::{OsStr, OsString};
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::spawn::Spawn;

/// The keeper's own listening socket.
pub(super) const KEEPER: &str = "keeper";
/// The workers' listening socket.
pub(super) const CONTROL: &str = "control";
/// An end of the channel.
pub(super) const CHANNEL: &str = "channel";

/// A pidfd of the thread whose end is the worker's.
pub(super) const LIFE: &str = "life";

/// Names that no kept descriptor may have.
pub(super) const RESERVED: [&str; 4] = [KEEPER, CONTROL, CHANNEL, LIFE];

/// The most descriptors that are kept: a device and a clone for each thread, with much to spare.
pub(super) const KEPT_MAX: usize = 64;

/// The longest name of a kept descriptor.
pub(super) const NAME_BYTES_MAX: usize = 32;

/// The most descriptors of spares: few sorts of them, of a few descriptors each.
pub(super) const SPARES_MAX: usize = 8;

/// The first number that an inherited descriptor has.
const FIRST: RawFd = 3;

/// A kept descriptor.
#[derive(Debug)]
pub struct Kept {
    /// What it is, in the words of the worker that handed it over.
    pub name: String,
    /// Itself.
    pub descriptor: OwnedFd,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Inheritance {
    /// The mount's directory.
    pub directory: PathBuf,
    /// How many workers came before.
    pub restarts: u32,
    /// To a keeper: number and start of the worker that is there already.
    pub worker: Option<(u32, u64)>,
    /// Everything that was handed over.
    pub descriptors: Vec<Kept>,
    /// To a worker: what its predecessor has put aside for it, and for nobody after it.
    pub spares: Vec<Kept>,
}

/// An argument is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{}` is not what a part of a mount is started with", argument.to_string_lossy())]
pub struct ArgumentError {
    argument: OsString,
}

impl Inheritance {
    /// Nothing but the directory.
    pub(super) fn new(directory: &Path) -> Inheritance {
        Inheritance {
            directory: directory.to_owned(),
            restarts: 0,
            worker: None,
            descriptors: Vec::new(),
            spares: Vec::new(),
        }
    }

    pub(super) fn add(&mut self, name: &str, descriptor: OwnedFd) {
        self.descriptors.push(Kept { name: name.to_owned(), descriptor });
    }

    /// Reads the arguments that follow those which name the part, and takes over the descriptors, which no child of
    /// this process inherits unasked.
    ///
    /// # Safety
    ///
    /// Nobody in this process may own these descriptors: for the first lines of a program.
    pub unsafe fn take(arguments: impl Iterator<Item = OsString>) -> Result<Inheritance, ArgumentError> {
        let mut arguments = arguments;
        let directory = arguments.next().unwrap_or_default();
        if !Path::new(&directory).is_absolute() {
            return Err(ArgumentError { argument: directory });
        }
        let mut inheritance = Inheritance::new(Path::new(&directory));
        let mut numbers: Vec<(String, RawFd, bool)> = Vec::new();
        for argument in arguments {
            let parsed = parse(&argument).filter(|parsed| match parsed {
                Parsed::Descriptor(_, number) | Parsed::Spare(_, number) => {
                    *number >= FIRST && numbers.iter().all(|(_, known, _)| known != number)
                }
                _ => true,
            });
            match parsed.ok_or(ArgumentError { argument })? {
                Parsed::Restarts(count) => inheritance.restarts = count,
                Parsed::Worker(pid, started) => inheritance.worker = Some((pid, started)),
                Parsed::Descriptor(name, number) => numbers.push((name, number, false)),
                Parsed::Spare(name, number) => numbers.push((name, number, true)),
            }
        }
        for (name, number, is_spare) in numbers {
            // SAFETY: the caller promises that nobody else owns it, and each number was taken once.
            let descriptor = unsafe { OwnedFd::from_raw_fd(number) };
            if let Err(error) = rustix::io::fcntl_setfd(&descriptor, rustix::io::FdFlags::CLOEXEC) {
                tracing::warn!(name, number, %error, "an inherited descriptor stays inheritable");
            }
            match is_spare {
                true => inheritance.spares.push(Kept { name, descriptor }),
                false => inheritance.descriptors.push(Kept { name, descriptor }),
            }
        }
        Ok(inheritance)
    }

    /// Takes out the one descriptor of this name.
    pub(super) fn remove(&mut self, name: &str) -> Option<OwnedFd> {
        let at = self.descriptors.iter().position(|kept| kept.name == name)?;
        Some(self.descriptors.remove(at).descriptor)
    }

    /// Takes out what makes a worker one: its channel and its listening socket. The rest is what was kept for it.
    pub fn remove_sockets(&mut self) -> Option<(OwnedFd, OwnedFd)> {
        Some((self.remove(CHANNEL)?, self.remove(CONTROL)?))
    }

    /// Gives it to a process that is to be started.
    pub(super) fn bequeath(self, mut spawn: Spawn) -> Spawn {
        spawn = spawn.argument(&self.directory).argument(format!("restarts={}", self.restarts));
        if let Some((pid, started)) = self.worker {
            spawn = spawn.argument(format!("worker={pid}:{started}"));
        }
        let kept = self.descriptors.into_iter().map(|kept| ("fd", kept));
        let spares = self.spares.into_iter().map(|spare| ("spare", spare));
        for (number, (sort, kept)) in (FIRST..).zip(kept.chain(spares)) {
            spawn =
                spawn.argument(format!("{sort}:{}={number}", kept.name)).descriptor(number, kept.descriptor);
        }
        spawn
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Parsed {
    Restarts(u32),
    Worker(u32, u64),
    Descriptor(String, RawFd),
    Spare(String, RawFd),
}

fn parse(argument: &OsStr) -> Option<Parsed> {
    let text = std::str::from_utf8(argument.as_bytes()).ok()?;
    let (key, value) = text.split_once('=')?;
    match key {
        "restarts" => value.parse().ok().map(Parsed::Restarts),
        "worker" => {
            let (pid, started) = value.split_once(':')?;
            Some(Parsed::Worker(pid.parse().ok()?, started.parse().ok()?))
        }
        _ => {
            let (sort, name) = key.split_once(':').filter(|(_, name)| is_name(name))?;
            let (name, number) = (name.to_owned(), value.parse().ok()?);
            match sort {
                "fd" => Some(Parsed::Descriptor(name, number)),
                "spare" => Some(Parsed::Spare(name, number)),
                _ => None,
            }
        }
    }
}

/// Whether `name` can be that of a kept descriptor, or of one of ours.
pub(super) fn is_name(name: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_say_what_they_are() {
        let cases = [
            ("restarts=3", Some(Parsed::Restarts(3))),
            ("worker=12:345", Some(Parsed::Worker(12, 345))),
            ("fd:fuse-clone=7", Some(Parsed::Descriptor("fuse-clone".to_owned(), 7))),
            ("spare:stream=8", Some(Parsed::Spare("stream".to_owned(), 8))),
            ("spore:stream=8", None),
            ("fd:=7", None),
            ("fd:x", None),
            ("fd:X=7", None),
            ("fd:x=y", None),
            ("worker=12", None),
            ("restarts=-1", None),
            ("other=1", None),
            ("", None),
        ];
        for (argument, expected) in cases {
            assert_eq!(parse(OsStr::new(argument)), expected, "{argument}");
        }
    }

    #[test]
    fn a_relative_directory_and_a_descriptor_twice_are_refused() {
        let refused = |arguments: &[&str]| {
            // SAFETY: all of these are refused before a descriptor is taken.
            unsafe { Inheritance::take(arguments.iter().map(OsString::from)) }.unwrap_err()
        };
        refused(&[]);
        refused(&["relative"]);
        refused(&["/d", "fd:a=1"]);
        assert_eq!(refused(&["/d", "fd:a=900", "fd:b=900"]).argument, "fd:b=900");
        assert_eq!(refused(&["/d", "fd:a=900", "spare:b=900"]).argument, "spare:b=900");
    }
}
