//! What mounts of a source that are gone have left unsaved: it is replayed by the next mount of that source.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use supervisor::keeper::PLAN;
use wire::api::id::MountId;
use wire::api::machine::Source;
use wire::bytestring::ByteString;
use wire::worker::{CONFIG, MountConfig};

/// As slow as a link may be over which it is saved. A mount waits for it before it serves.
const BYTES_PER_SECOND_MIN: u64 = 64 << 10;

/// Mounts whose remains are replayed at once. More wait for the next mount: each takes as much memory as its journal.
const REMAINS_MAX: usize = 64;

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Unsaved {
    /// The directories, the oldest mount's first.
    pub directories: Vec<ByteString>,
    /// How long saving it may take.
    pub patience: Duration,
}

/// Looks in `mounts` for what mounts of `source` by the user `uid` have left, but for those that are `known`: these are not
/// gone. Blocks.
pub fn of_source(mounts: &Path, source: &Source, uid: u32, known: &[MountId]) -> Unsaved {
    let Ok(entries) = std::fs::read_dir(mounts) else { return Unsaved::default() };
    let named = entries.flatten().filter_map(|entry| {
        let id: MountId = entry.file_name().to_str()?.parse().ok()?;
        Some((id, entry.path()))
    });
    let mut found: Vec<(MountId, PathBuf)> =
        named.filter(|(id, path)| !known.contains(id) && is_of(path, source, uid)).collect();
    found.sort_by_key(|(id, _)| *id);
    found.truncate(REMAINS_MAX);
    let bytes: u64 = found.iter().map(|(_, path)| ::mount::unsaved::bytes(path)).sum();
    Unsaved {
        directories: found.iter().map(|(_, path)| ByteString::from(path.as_path())).collect(),
        patience: Duration::from_secs(bytes.div_ceil(BYTES_PER_SECOND_MIN)),
    }
}

/// The highest number of a mount that has a directory in `mounts`. No other mount may get it, also when the database is gone:
/// what is unsaved would be lost with its directory. Blocks.
pub fn last_number(mounts: &Path) -> u64 {
    let entries = std::fs::read_dir(mounts).into_iter().flatten().flatten();
    let ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<MountId>().ok());
    ids.map(MountId::number).max().unwrap_or(0)
}

fn is_of(directory: &Path, source: &Source, uid: u32) -> bool {
    // Who has this may have processes.
    if directory.join(PLAN).exists() {
        return false;
    }
    let Ok(file) = File::open(directory.join(CONFIG)) else { return false };
    match MountConfig::read(file) {
        Ok(config) => config.source == *source && config.owner.uid == uid,
        Err(error) => {
            tracing::warn!(directory = %directory.display(), %error, "it is not known what a mount has shown that is gone");
            false
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
        let names: Vec<_> = found.directories.iter().map(|dir| dir.as_path().file_name().unwrap()).collect();
        assert_eq!(names, ["m9", "m10"]);
        assert_eq!(found.patience, Duration::from_secs(5));
        assert!(of_source(&mounts.join("none"), &source, 1, &[]).directories.is_empty());
        assert!(of_source(mounts, &source, 2, &[]).directories.is_empty(), "another user's");
        assert_eq!((last_number(mounts), last_number(&mounts.join("none"))), (10, 0));
    }
}
