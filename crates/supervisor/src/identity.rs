//! Which process a number means.

use std::io;

use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};
use serde::{Deserialize, Serialize};

/// A process, told apart from every other that had or will have its number: by when it started, and in which boot of
/// the computer. May be written down and checked later by somebody else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Identity {
    /// Its number.
    pub pid: u32,
    /// When it started, in the kernel's ticks since the boot.
    pub started: u64,
    /// Which boot: the kernel's random id.
    pub boot: u128,
}

/// A process cannot be identified.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// There is no such process, or it is a zombie: it does nothing any more.
    #[error("there is no process {pid}")]
    Gone {
        /// Its number.
        pid: u32,
    },
    /// `/proc` is not readable or says something unknown.
    #[error("could not read `{path}`")]
    Proc {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl Identity {
    /// The process that has this number now. A zombie that has not been reaped still has it.
    pub fn of(pid: u32) -> Result<Identity, IdentityError> {
        let path = format!("/proc/{pid}/stat");
        let stat = match std::fs::read(&path) {
            Ok(stat) => stat,
            Err(error) if is_gone(&error) => return Err(IdentityError::Gone { pid }),
            Err(source) => return Err(IdentityError::Proc { path, source }),
        };
        let Some(started) = start_time(&stat) else {
            return Err(IdentityError::Proc { path, source: io::ErrorKind::InvalidData.into() });
        };
        Ok(Identity { pid, started, boot: boot_id()? })
    }

    /// This process.
    pub fn own() -> Result<Identity, IdentityError> {
        Identity::of(std::process::id())
    }

    /// Whether the process that was identified still is. A zombie counts as being: its number is still taken.
    pub fn exists(&self) -> Result<bool, IdentityError> {
        match Identity::of(self.pid) {
            Ok(now) => Ok(now == *self),
            Err(IdentityError::Gone { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// Whether the main thread of the process with this number has ended. Other threads of it may be in the kernel still,
/// and hold its descriptors.
pub fn has_ended(pid: u32) -> bool {
    let Ok(stat) = std::fs::read(format!("/proc/{pid}/stat")) else {
        // `/proc` may hide it. One that has ended is not hidden.
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
        return pid.is_none_or(|pid| test_kill_process(pid) == Err(Errno::SRCH));
    };
    let state = stat.iter().rposition(|&byte| byte == b')').and_then(|end| stat.get(end + 2));
    matches!(state, Some(b'Z' | b'X') | None)
}

fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
}

/// Field 22 of `/proc/PID/stat`. The second field is the program's name in parentheses, which may itself hold spaces
/// and parentheses: fields are counted from the last one that closes.
fn start_time(stat: &[u8]) -> Option<u64> {
    let name_end = stat.iter().rposition(|&byte| byte == b')')?;
    let fields = std::str::from_utf8(&stat[name_end + 1..]).ok()?;
    fields.split_ascii_whitespace().nth(22 - 3)?.parse().ok()
}

fn boot_id() -> Result<u128, IdentityError> {
    const PATH: &str = "/proc/sys/kernel/random/boot_id";
    let failed = |source: io::Error| IdentityError::Proc { path: PATH.to_owned(), source };
    let text = std::fs::read_to_string(PATH).map_err(failed)?;
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    u128::from_str_radix(&digits, 16)
        .map_err(|error| failed(io::Error::new(io::ErrorKind::InvalidData, error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_itself_and_nobody_else() {
        let own = Identity::own().unwrap();
        assert!(own.exists().unwrap());
        assert!(!Identity { started: own.started + 1, ..own }.exists().unwrap());
        assert!(!Identity { boot: own.boot ^ 1, ..own }.exists().unwrap());
    }

    #[test]
    fn a_number_nobody_has_is_gone() {
        assert!(matches!(Identity::of(u32::MAX), Err(IdentityError::Gone { .. })));
    }

    #[test]
    fn a_zombie_has_ended_and_whoever_runs_has_not() {
        assert!(!has_ended(std::process::id()) && has_ended(u32::MAX));
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
        while !has_ended(child.id()) {
            assert!(std::time::Instant::now() < deadline, "it does not end");
        }
        assert!(Identity::of(child.id()).is_ok());
        child.wait().unwrap();
    }

    #[test]
    fn the_name_of_a_program_does_not_shift_the_fields() {
        let tail = " S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20 21";
        for name in ["sh", "a b", "a) S 1 2", "(((", "\u{1}"] {
            assert_eq!(start_time(format!("9 ({name}){tail}").as_bytes()), Some(4711), "{name}");
        }
        assert_eq!(start_time(b"9 (sh S 1"), None);
        assert_eq!(start_time(b"9 (sh) S 1"), None);
        assert_eq!(start_time(b""), None);
    }

    #[test]
    fn an_identity_survives_being_written_down() {
        let own = Identity::own().unwrap();
        let text = serde_json::to_string(&own).unwrap();
        assert_eq!(serde_json::from_str::<Identity>(&text).unwrap(), own);
    }
}
