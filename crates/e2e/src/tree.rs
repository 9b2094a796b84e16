//! Comparing two trees byte for byte, attributes included.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Which attributes count. Names, kinds and contents always do.
#[derive(Debug, Clone, Copy)]
pub struct Compare {
    pub owners: bool,
    pub times: bool,
    pub xattrs: bool,
}

impl Compare {
    /// Everything that a copy by the same user keeps.
    pub const ALL: Compare = Compare { owners: true, times: true, xattrs: true };
    /// For copies that do not keep times.
    pub const CONTENTS: Compare = Compare { owners: false, times: false, xattrs: false };
}

/// More differences than this say nothing new.
const DIFFERENCES_MAX: usize = 50;

/// Pieces in which files are compared.
const PIECE_BYTES: usize = 1 << 20;

/// What differs between the trees below `left` and `right`, in words, one line each; empty when they are the same.
pub fn differences(left: &Path, right: &Path, compare: Compare) -> Vec<String> {
    let mut walk = Walk { left, right, compare, found: Vec::new(), links: HashMap::new() };
    walk.directory(Path::new(""));
    walk.found
}

/// Panics with the differences, unless there are none.
#[track_caller]
pub fn assert_same(left: &Path, right: &Path, compare: Compare) {
    let found = differences(left, right, compare);
    assert!(found.is_empty(), "{} and {} differ:\n{}", left.display(), right.display(), found.join("\n"));
}

struct Walk<'a> {
    left: &'a Path,
    right: &'a Path,
    compare: Compare,
    found: Vec<String>,
    /// Hard links: the inode on the left to the inode on the right that it was first seen as.
    links: HashMap<(u64, u64), (u64, u64)>,
}

impl Walk<'_> {
    fn differ(&mut self, at: &Path, what: impl std::fmt::Display) {
        if self.found.len() < DIFFERENCES_MAX {
            self.found.push(format!("{}: {what}", at.display()));
        }
    }

    fn directory(&mut self, at: &Path) {
        let names = (list(&self.left.join(at)), list(&self.right.join(at)));
        let (Ok(left), Ok(right)) = names else {
            return self.differ(at, format!("cannot be listed: {:?} / {:?}", names.0.err(), names.1.err()));
        };
        for name in left.symmetric_difference(&right) {
            let side = if left.contains(name) { "only on the left" } else { "only on the right" };
            self.differ(&at.join(name), side);
        }
        for name in left.intersection(&right) {
            if self.found.len() == DIFFERENCES_MAX {
                return;
            }
            self.entry(&at.join(name));
        }
    }

    fn entry(&mut self, at: &Path) {
        let paths = (self.left.join(at), self.right.join(at));
        let (left, right) = match (paths.0.symlink_metadata(), paths.1.symlink_metadata()) {
            (Ok(left), Ok(right)) => (left, right),
            (left, right) => {
                return self.differ(at, format!("cannot be looked at: {:?} / {:?}", left.err(), right.err()));
            }
        };
        for (what, left, right) in self.attributes(&left, &right) {
            if left != right {
                self.differ(at, format!("{what} {left} / {right}"));
            }
        }
        self.hard_links(at, &left, &right);
        if self.compare.xattrs && xattrs(&paths.0) != xattrs(&paths.1) {
            self.differ(at, format!("xattrs {:?} / {:?}", xattrs(&paths.0), xattrs(&paths.1)));
        }
        let kind = left.file_type();
        if kind != right.file_type() {
            return;
        }
        if kind.is_dir() {
            self.directory(at);
        } else if kind.is_symlink() {
            let targets = (std::fs::read_link(&paths.0).ok(), std::fs::read_link(&paths.1).ok());
            if targets.0.is_none() || targets.0 != targets.1 {
                self.differ(at, format!("target {targets:?}"));
            }
        } else if kind.is_file()
            && let Some(what) = first_difference(&paths.0, &paths.1)
        {
            self.differ(at, what);
        }
    }

    fn attributes(&self, left: &Metadata, right: &Metadata) -> Vec<(&'static str, String, String)> {
        let mut pairs = vec![("mode", format!("{:o}", left.mode()), format!("{:o}", right.mode()))];
        if !left.is_dir() {
            pairs.push(("size", left.size().to_string(), right.size().to_string()));
            pairs.push(("links", left.nlink().to_string(), right.nlink().to_string()));
        }
        if left.file_type().is_char_device() || left.file_type().is_block_device() {
            pairs.push(("device", left.rdev().to_string(), right.rdev().to_string()));
        }
        if self.compare.owners {
            let owner = |of: &Metadata| format!("{}:{}", of.uid(), of.gid());
            pairs.push(("owner", owner(left), owner(right)));
        }
        if self.compare.times {
            let mtime = |of: &Metadata| format!("{}.{:09}", of.mtime(), of.mtime_nsec());
            pairs.push(("mtime", mtime(left), mtime(right)));
        }
        pairs
    }

    fn hard_links(&mut self, at: &Path, left: &Metadata, right: &Metadata) {
        if left.is_dir() || left.nlink() < 2 {
            return;
        }
        let ids = ((left.dev(), left.ino()), (right.dev(), right.ino()));
        let first = *self.links.entry(ids.0).or_insert(ids.1);
        if first != ids.1 {
            self.differ(at, "linked on the left, a file of its own on the right");
        }
    }
}

fn list(dir: &Path) -> std::io::Result<BTreeSet<OsString>> {
    std::fs::read_dir(dir)?.map(|entry| entry.map(|entry| entry.file_name())).collect()
}

/// The extended attributes of `path` itself, not of what it points to.
pub fn xattrs(path: &Path) -> BTreeMap<OsString, Vec<u8>> {
    let mut names = vec![0; 64 << 10];
    let count = rustix::fs::llistxattr(path, &mut names).unwrap_or(0);
    let names = names[..count].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    names
        .map(|name| {
            let mut value = vec![0; 64 << 10];
            let count = rustix::fs::lgetxattr(path, name, &mut value).unwrap_or(0);
            value.truncate(count);
            (OsStr::from_bytes(name).to_owned(), value)
        })
        .collect()
}

/// What differs between two contents, in words that stay short however long they are.
pub fn bytes_differ(left: &[u8], right: &[u8]) -> Option<String> {
    /// Enough to recognise a place by.
    const SHOWN_BYTES: usize = 16;
    if left == right {
        return None;
    }
    let at = left.iter().zip(right).take_while(|(left, right)| left == right).count();
    let shown = |bytes: &[u8]| format!("{:?}", bytes[at..].iter().take(SHOWN_BYTES).collect::<Vec<_>>());
    let (lengths, pieces) = ((left.len(), right.len()), (shown(left), shown(right)));
    Some(format!("from byte {at} on: {} / {}; lengths {} / {}", pieces.0, pieces.1, lengths.0, lengths.1))
}

/// Like `assert_eq!` for contents, without printing them.
#[macro_export]
macro_rules! assert_same_bytes {
    ($left:expr, $right:expr $(,)?) => {
        if let Some(difference) = $crate::tree::bytes_differ(($left).as_ref(), ($right).as_ref()) {
            panic!("{} and {} differ {difference}", stringify!($left), stringify!($right));
        }
    };
}

fn first_difference(left: &PathBuf, right: &PathBuf) -> Option<String> {
    let (mut left, mut right) = match (File::open(left), File::open(right)) {
        (Ok(left), Ok(right)) => (left, right),
        (left, right) => return Some(format!("cannot be opened: {:?} / {:?}", left.err(), right.err())),
    };
    let mut offset = 0;
    loop {
        let (a, b) = match (piece(&mut left), piece(&mut right)) {
            (Ok(a), Ok(b)) => (a, b),
            (a, b) => return Some(format!("cannot be read at {offset}: {:?} / {:?}", a.err(), b.err())),
        };
        if a != b {
            let same = a.iter().zip(&b).take_while(|(a, b)| a == b).count();
            return Some(format!("contents differ from byte {}", offset + same));
        }
        if a.is_empty() {
            return None;
        }
        offset += a.len();
    }
}

fn piece(file: &mut File) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(PIECE_BYTES as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests;
