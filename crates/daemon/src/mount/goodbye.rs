//! What is owed to the agent of a mount whose worker did not part from it: to be told that nobody comes back.
//!
//! A worker notes its session in the mount's directory, and removes the note when it has said goodbye. Whoever clears
//! what is left of a mount reads the note and has the owner of the connections say it, in the background: see
//! [`crate::owner`]. What is not told ends by itself, when the machine has kept the session for its hour. A journal that
//! stays needs no session: what it holds is written by another one.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use wire::api::machine::{Caller, Machine};
use wire::hello::SessionId;
use wire::worker::SESSION;

/// The session of a mount that is over, which its agent keeps.
#[derive(Debug, Clone)]
pub struct Goodbye {
    /// Where the agent is.
    pub machine: Machine,
    /// For whom the mount was: the agents of this computer keep sessions where his environment says.
    pub caller: Caller,
    /// Which session.
    pub session: SessionId,
    /// How often it has been tried.
    pub tries: u32,
    note: PathBuf,
}

impl Goodbye {
    /// What is owed for the mount with this directory, if anything is. Its processes must have ended. Blocks.
    pub fn owed(machine: Machine, caller: Caller, state_dir: &Path) -> Option<Goodbye> {
        let note = state_dir.join(SESSION);
        let session = match read(&note) {
            Ok(session) => session,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::warn!(path = %note.display(), %error, "it is not known which session a mount had");
                return None;
            }
        };
        Some(Goodbye { machine, caller, session, tries: 0, note })
    }

    /// It has been said. Blocks.
    pub fn settle(&self) {
        // Another mount's, by now, where numbers of mounts begin anew.
        if read(&self.note).is_ok_and(|noted| noted == self.session)
            && let Err(error) = std::fs::remove_file(&self.note)
        {
            tracing::debug!(%error, "the note of a session that is over stays");
        }
    }
}

fn read(note: &Path) -> io::Result<SessionId> {
    /// One byte more than a session's name has.
    const NOTE_BYTES_MAX: u64 = 33;
    let mut text = String::new();
    std::fs::File::open(note)?.take(NOTE_BYTES_MAX).read_to_string(&mut text)?;
    text.parse().map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owed(dir: &Path) -> Option<Goodbye> {
        Goodbye::owed(Machine::Host, Caller::default(), dir)
    }

    #[test]
    fn a_goodbye_is_owed_for_what_is_noted_until_it_has_been_said() {
        let dir = tempfile::tempdir().unwrap();
        let note = dir.path().join(SESSION);
        assert!(owed(dir.path()).is_none());
        std::fs::write(&note, "not a session").unwrap();
        assert!(owed(dir.path()).is_none());
        std::fs::write(&note, SessionId([7; 16]).to_string()).unwrap();
        let goodbye = owed(dir.path()).unwrap();
        assert_eq!(goodbye.session, SessionId([7; 16]));
        // What is noted meanwhile is another's.
        std::fs::write(&note, SessionId([8; 16]).to_string()).unwrap();
        goodbye.settle();
        owed(dir.path()).unwrap().settle();
        assert!(!note.exists());
    }
}
