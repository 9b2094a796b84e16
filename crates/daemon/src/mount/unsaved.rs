//! What mounts of a source that are gone have left unsaved: it is replayed by the next mount of that source.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use supervisor::keeper::PLAN;
use wire::api::id::MountId;
use wire::api::machine::Source;
use wire::bytestring::ByteString;
use wire::worker::{CONFIG, MountConfig};

/// Mounts whose remains are replayed by one mount, and how much that has to read for it at most. More wait for the next
/// mount, whose turn they are first.
const REMAINS_MAX: usize = 64;

/// See [`REMAINS_MAX`].
const REMAINS_BYTES_MAX: u64 = 512 << 20;

/// What a mount has left that is gone.
struct Remains {
    id: MountId,
    directory: PathBuf,
    /// When it was last tried to save it, or when the mount began.
    tried: SystemTime,
}

/// The directories in `mounts` of what mounts of `source` by the user `uid` have left, the oldest mount's first, but for
/// those that are `known`: these are not gone. Of many, those that were tried longest ago. Blocks.
pub fn of_source(mounts: &Path, source: &Source, uid: u32, known: &[MountId]) -> Vec<ByteString> {
    let gone = directories(mounts).filter(|(id, _)| !known.contains(id));
    let mut found: Vec<Remains> = gone
        .filter_map(|(id, directory)| Some(Remains { tried: tried(&directory, source, uid)?, id, directory }))
        .collect();
    found.sort_by_key(|remains| (remains.tried, remains.id));
    found.truncate(REMAINS_MAX);
    let mut bytes = 0;
    let mut has_room = |remains: &Remains| {
        let is_first = bytes == 0;
        bytes += ::mount::unsaved::bytes(&remains.directory);
        is_first || bytes <= REMAINS_BYTES_MAX
    };
    found.retain(|remains| has_room(remains));
    found.sort_by_key(|remains| remains.id);
    found.iter().map(|remains| ByteString::from(remains.directory.as_path())).collect()
}

/// The highest number of a mount that has a directory in `mounts`. No other mount may get it, also when the database is gone:
/// what is unsaved would be lost with its directory. Blocks.
pub fn last_number(mounts: &Path) -> u64 {
    directories(mounts).map(|(id, _)| id.number()).max().unwrap_or(0)
}

/// What in `mounts` is named as mounts are.
fn directories(mounts: &Path) -> impl Iterator<Item = (MountId, PathBuf)> {
    let entries = std::fs::read_dir(mounts).into_iter().flatten().flatten();
    entries.filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path())))
}

/// When it was last tried to save what is in the directory; `None` if it is of another source or user, or of processes
/// that may be there.
fn tried(directory: &Path, source: &Source, uid: u32) -> Option<SystemTime> {
    if directory.join(PLAN).exists() {
        return None;
    }
    let file = File::open(directory.join(CONFIG)).ok()?;
    let tried = file.metadata().and_then(|metadata| metadata.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
    match MountConfig::read(file) {
        Ok(config) => (config.source == *source && config.owner.uid == uid).then_some(tried),
        Err(error) => {
            tracing::warn!(directory = %directory.display(), %error, "it is not known what a mount has shown that is gone");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leave(mounts: &Path, id: &str, source: &str, files: &[&str]) {
        let dir = mounts.join(id);
        std::fs::create_dir(&dir).unwrap();
        let config = serde_json::json!({
            "id": "m1", "source": source, "dir": "/m", "backend": "auto", "access": "read_write", "sync": "close",
            "reconnect": "automatic", "options": {}, "state_dir": "/s", "dial": {"by": "host"},
            "owner": {"uid": 1, "gid": 1},
        });
        std::fs::write(dir.join(CONFIG), config.to_string()).unwrap();
        files.iter().for_each(|file| std::fs::write(dir.join(file), vec![0; 100_000]).unwrap());
    }

    fn names(found: &[ByteString]) -> Vec<&str> {
        found.iter().map(|dir| dir.as_path().file_name().unwrap().to_str().unwrap()).collect()
    }

    #[test]
    fn of_many_those_come_first_that_were_tried_longest_ago() {
        let scratch = tempfile::tempdir().unwrap();
        let mounts = scratch.path();
        let source = Source::parse(b"ssh://box/src", b"/").unwrap();
        let tried = |number: u64, seconds: u64| {
            let config = File::open(mounts.join(format!("m{number}")).join(CONFIG)).unwrap();
            config.set_modified(SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds)).unwrap();
        };
        let last = REMAINS_MAX as u64 + 2;
        for number in 1..=last {
            leave(mounts, &format!("m{number}"), "ssh://box/src", &[]);
            tried(number, number);
        }
        let all = |from: u64, to: u64| (from..=to).map(|number| format!("m{number}")).collect::<Vec<_>>();
        assert_eq!(names(&of_source(mounts, &source, 1, &[])), all(1, last - 2));
        // The oldest have been tried, and stay.
        (1..=last - 2).for_each(|number| tried(number, 1000));
        let found = of_source(mounts, &source, 1, &[]);
        assert_eq!(names(&found)[REMAINS_MAX - 2..], all(last - 1, last));
        assert_eq!(names(&found)[..REMAINS_MAX - 2], all(1, last - 4));
    }

    #[test]
    fn no_more_is_read_at_once_than_a_mount_has_time_for() {
        let scratch = tempfile::tempdir().unwrap();
        let mounts = scratch.path();
        for id in ["m1", "m2", "m3"] {
            leave(mounts, id, "ssh://box/src", &["journal.0"]);
        }
        for (id, bytes) in [("m1", REMAINS_BYTES_MAX + 1), ("m2", 1), ("m3", 1)] {
            // A hole.
            File::options()
                .write(true)
                .open(mounts.join(id).join("journal.0"))
                .unwrap()
                .set_len(bytes)
                .unwrap();
        }
        let source = Source::parse(b"ssh://box/src", b"/").unwrap();
        let found = of_source(mounts, &source, 1, &[]);
        assert_eq!(names(&found), ["m1"], "one at least");
    }

    #[test]
    fn only_what_is_of_the_source_and_of_nobody_is_found_the_oldest_first() {
        let scratch = tempfile::tempdir().unwrap();
        let mounts = scratch.path();
        leave(mounts, "m10", "ssh://box/src", &["journal.0"]);
        leave(mounts, "m9", "ssh://box/src", &["journal.0", "journal.1"]);
        leave(mounts, "m8", "ssh://box/other", &["journal.0"]);
        leave(mounts, "m7", "ssh://box/src", &[PLAN]);
        leave(mounts, "m6", "ssh://box/src", &["journal.0"]);
        leave(mounts, "copy", "ssh://box/src", &["journal.0"]);
        std::fs::create_dir(mounts.join("m5")).unwrap();
        let source = Source::parse(b"ssh://box/src", b"/").unwrap();
        let found = of_source(mounts, &source, 1, &[MountId::new(6)]);
        assert_eq!(names(&found), ["m9", "m10"]);
        assert!(of_source(&mounts.join("none"), &source, 1, &[]).is_empty());
        assert!(of_source(mounts, &source, 2, &[]).is_empty(), "another user's");
        assert_eq!((last_number(mounts), last_number(&mounts.join("none"))), (10, 0));
    }
}
