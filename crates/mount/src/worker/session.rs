//! The note of the session that the machine's agent keeps for this mount: whoever clears what is left of a mount whose
//! worker could not say goodbye says it by this note.

use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use wire::hello::SessionId;
use wire::worker::SESSION;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct SessionNote {
    path: PathBuf,
}

impl SessionNote {
    /// The note in the directory of a mount.
    pub(crate) fn of(directory: &Path) -> SessionNote {
        SessionNote { path: directory.join(SESSION) }
    }

    /// Notes a session in place of the one before. Whoever reads it meanwhile finds either of them whole.
    pub(crate) fn write(&self, session: SessionId) {
        if let Err(error) = self.replace(session) {
            tracing::warn!(%error, "should this mount be killed for good, its agent stays for as long as it keeps the session");
        }
    }

    fn replace(&self, session: SessionId) -> io::Result<()> {
        let fresh = self.path.with_extension("new");
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
        file.write_all(session.to_string().as_bytes())?;
        std::fs::rename(&fresh, &self.path)
    }

    /// The agent has been told that the session is over.
    pub(crate) fn remove(&self) {
        if let Err(error) = std::fs::remove_file(&self.path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::debug!(%error, "the agent will be told once more that its session is over");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_session_is_noted_until_it_is_over() {
        let directory = tempfile::tempdir().unwrap();
        let note = SessionNote::of(directory.path());
        for session in [SessionId([1; 16]), SessionId([2; 16])] {
            note.write(session);
            let text = std::fs::read_to_string(directory.path().join(SESSION)).unwrap();
            assert_eq!(text.parse(), Ok(session));
        }
        note.remove();
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
