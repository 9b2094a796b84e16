//! Which process a number means.

use std::io;

use serde::{Deserialize, Serialize};

use crate::system;

/// A process, told apart from every other that had or will have its number: by when it started, and in which boot of
/// the computer. May be written down and checked later by somebody else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Identity {
    /// Its number.
    pub pid: u32,
    /// When it started, as the kernel counts it: on Linux its ticks since the boot.
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
    /// `/proc`, or what the system has instead, is not readable or says something unknown.
    #[error("could not read `{path}`")]
    Proc {
        /// The file, or the name of what was asked for.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl Identity {
    /// The process that has this number now. A zombie that has not been reaped still has it.
    pub fn of(pid: u32) -> Result<Identity, IdentityError> {
        system::identify(pid)
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
    system::has_ended(pid)
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
    fn an_identity_survives_being_written_down() {
        let own = Identity::own().unwrap();
        let text = serde_json::to_string(&own).unwrap();
        assert_eq!(serde_json::from_str::<Identity>(&text).unwrap(), own);
    }
}
