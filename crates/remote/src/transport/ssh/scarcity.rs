//! Whether a machine's masters have sessions to spare.
//!
//! Whoever is refused a session by all masters that are there marks it, and gives whoever holds a channel in reserve a
//! moment to close it, before another login is asked for: what is only held in reserve takes no session from what is used.
//! The mark is a file beside the masters' sockets:
//!
//! | path | file |
//! |---|---|
//! | `CONTROL.full` | one byte; what counts is when it was last written, and that it is |

use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::further::with_end;

/// The end of the name of the mark.
const MARK: &str = ".full";

/// How long nothing is held in reserve after a mark. Mounts come and go more seldom.
const MARKED: Duration = Duration::from_secs(600);

/// How long it takes at most until a session is free again after the mark: a channel is closed, here and there, by
/// processes that wait for nothing but the way.
const GIVING_BACK: Duration = Duration::from_millis(1500);

/// How long it is waited before it is tried again whether one is.
pub(super) const GIVING_BACK_INTERVAL: Duration = Duration::from_millis(500);

/// How often it is.
pub(super) const GIVING_BACK_TRIES_MAX: u32 = 3;

/// The mark of the masters whose first one has its socket at `control`.
pub(crate) fn mark_of(control: &Path) -> PathBuf {
    with_end(control, MARK)
}

/// Whether there is nothing to spare.
pub(crate) fn is_marked(mark: &Path) -> bool {
    age(mark).is_some_and(|age| age < MARKED)
}

/// Marks that there is nothing to spare. Says whether sessions may be given back in a moment.
pub(super) fn mark(mark: &Path) -> bool {
    match age(mark) {
        Some(age) if age < GIVING_BACK => return true,
        // They have been. Well before anybody would take one again, it is marked again.
        Some(age) if age < MARKED / 2 => return false,
        _ => {}
    }
    let written = write(mark);
    if let Err(error) = &written {
        tracing::warn!(path = %mark.display(), %error, "sessions that are only held in reserve are not given back");
    }
    written.is_ok()
}

fn write(mark: &Path) -> io::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(mark)?;
    file.write_all(b"\n")
}

/// None if there is no mark, or one from the future, as after the clock was put back.
fn age(mark: &Path) -> Option<Duration> {
    let written = std::fs::metadata(mark).and_then(|found| found.modified()).ok()?;
    SystemTime::now().duration_since(written).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_holds_for_a_while_and_sessions_are_waited_for_only_at_first() {
        let directory = tempfile::tempdir().unwrap();
        let path = mark_of(&directory.path().join("s0"));
        assert!(!is_marked(&path));
        assert!(mark(&path) && is_marked(&path));
        let old = |age: Duration| {
            let file = std::fs::File::options().write(true).open(&path).unwrap();
            file.set_modified(SystemTime::now() - age).unwrap();
        };
        old(2 * GIVING_BACK);
        assert!(!mark(&path) && is_marked(&path));
        old(MARKED * 3 / 4);
        assert!(is_marked(&path) && mark(&path));
        assert!(age(&path).unwrap() <= MARKED / 2, "it is marked anew");
        old(2 * MARKED);
        assert!(!is_marked(&path));
    }
}
