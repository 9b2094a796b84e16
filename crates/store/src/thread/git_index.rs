//! git's index of a thread that was just begun: each file of the revision, with what `stat` says of it. So git takes all of them for
//! what it would have checked out, and reads none.
//!
//! Version 2, see gitformat-index(5). All numbers are big endian:
//!
//! ```text
//!  "DIRC"; version, 4: 2; how many entries, 4
//!  each, in the order of paths as bytes:
//!    changed, modified: seconds and nanoseconds, 4 each    device, 4: 0    number of the file, 4    mode, 4
//!    owner, group, 4 each    size, 4    object, 20 or 32    length of the path, 2: 4095 if it is more    path
//!    1 to 8 bytes of zero, until the length is a multiple of 8
//!  "TREE"; length, 4; each directory, those above first:
//!    name in the directory above, a byte of zero; entries below as text, a space, directories in it as text, a newline; its tree
//!  the hash of all that, by the repository's
//! ```
//!
//! - Numbers of more than 32 bits are cut, as git cuts what `stat` says.
//! - git does not compare devices. It reads a file that is dated no earlier than the index, so whoever begins a thread dates its files
//!   [`DATED_BEFORE_SECONDS`] back, unless git is to read them.
//! - A submodule is an entry of its commit. Its directory is empty, which git takes for one that was not fetched.

use super::{Locked, Thread};
use crate::node::{Attributes, Ino, Kind, Name, Time};
use crate::objects::IndexEntry;
use crate::{Error, Oid, Refusal, Result};

/// How much older than its index a file must be for git not to read it: git compares whole seconds, and both are cut.
pub const DATED_BEFORE_SECONDS: i64 = 2;

/// The longest path: as `PATH_MAX` allows, and a bound to how deep directories lie in each other.
pub(super) const PATH_BYTES_MAX: usize = 4095;

/// The longest index: of some five million files. It is made in memory.
const BYTES_MAX: usize = 512 << 20;

/// A length of a path that stands for all greater ones.
const LONG_PATH: usize = 0xfff;

mod mode {
    pub(super) const FILE: u32 = 0o100_644;
    pub(super) const EXECUTABLE: u32 = 0o100_755;
    pub(super) const SYMLINK: u32 = 0o120_000;
    pub(super) const SUBMODULE: u32 = 0o160_000;
}

/// An index that is being made.
#[derive(Default)]
struct Made {
    entries: Vec<u8>,
    count: u32,
}

impl Thread {
    /// git's index of the revision. What is named otherwise by now is left out. Looks into every directory, so it takes as long as the
    /// revision has files.
    pub fn git_index(&self) -> Result<Vec<u8>> {
        let mut made = Made::default();
        let root = self.locked().index_below(Ino::ROOT, &mut Vec::new(), &mut made)?;
        let mut index = Vec::with_capacity(made.entries.len() + root.len() + 64);
        index.extend_from_slice(b"DIRC");
        put(&mut index, 2);
        put(&mut index, made.count);
        index.append(&mut made.entries);
        index.extend_from_slice(b"TREE");
        put(&mut index, u32::try_from(root.len() + 1).unwrap_or(u32::MAX));
        // The root has no name.
        index.push(0);
        index.extend_from_slice(&root);
        let mut hasher = gix_hash::hasher(self.objects.hash());
        hasher.update(&index);
        let hash = hasher.try_finalize().map_err(|error| self.too_large(&error.to_string()))?;
        index.extend_from_slice(hash.as_slice());
        Ok(index)
    }

    fn too_large(&self, why: &str) -> Error {
        self.objects.git_failed("have an index made", why.to_owned())
    }
}

impl Locked<'_> {
    /// Returns the directory and all below it, for `TREE`, but for its name.
    fn index_below(&mut self, directory: Ino, path: &mut Vec<u8>, made: &mut Made) -> Result<Vec<u8>> {
        self.look_into(directory)?;
        let in_it = self.directory(directory)?;
        let (first, tree) = (in_it.first, in_it.tree);
        let Some(tree) = tree else { return Err(Refusal::Invalid.into()) };
        let index = self.index(directory)?.unwrap_or_default();
        let mut entries: Vec<(IndexEntry, Ino)> = Vec::new();
        for number in 0..index.count() {
            let entry = index.get(number).ok_or(Refusal::Stale)?;
            if self.directory(directory)?.named(&entry.name).is_none() {
                entries.push((entry.clone(), Ino(first + u64::from(number))));
            }
        }
        drop(index);
        let is_tree = |entry: &IndexEntry| entry.kind == Kind::Directory && entry.oid.is_some();
        // What is below a directory comes where a slash behind its name would be.
        entries.sort_by_cached_key(|(entry, _)| {
            let slash: &[u8] = if is_tree(entry) { b"/" } else { b"" };
            [&*entry.name, slash].concat()
        });
        let submodules = match entries.iter().any(|(entry, _)| entry.oid.is_none()) {
            true => self.thread.objects.submodules(&tree)?,
            false => Vec::new(),
        };
        let before = made.count;
        let (mut directories, mut text) = (0_u32, Vec::new());
        for (entry, ino) in entries {
            let above = path.len();
            if above > 0 {
                path.push(b'/');
            }
            path.extend_from_slice(&entry.name);
            if path.len() > PATH_BYTES_MAX || made.entries.len() > BYTES_MAX {
                return Err(self
                    .thread
                    .too_large("a path of the revision is too long, or it has too many files"));
            }
            if is_tree(&entry) {
                let below = self.index_below(ino, path, made)?;
                directories += 1;
                text.extend_from_slice(&entry.name);
                text.push(0);
                text.extend_from_slice(&below);
            } else {
                let attributes = self.node(ino)?.attributes(ino);
                let oid = entry.oid.or_else(|| commit_of(&submodules, &entry.name));
                let oid = oid.ok_or(Refusal::Stale)?;
                made.put(path, mode_of(&entry), &oid, &attributes);
            }
            path.truncate(above);
        }
        let count = made.count - before;
        let mut whole = format!("{count} {directories}\n").into_bytes();
        whole.extend_from_slice(tree.as_slice());
        whole.append(&mut text);
        Ok(whole)
    }
}

impl Made {
    fn put(&mut self, path: &[u8], mode: u32, oid: &Oid, attributes: &Attributes) {
        let to = &mut self.entries;
        let begin = to.len();
        for Time { seconds, nanoseconds } in [attributes.changed, attributes.modified] {
            put(to, low(seconds.cast_unsigned()));
            put(to, nanoseconds);
        }
        put(to, 0);
        put(to, low(attributes.ino.0));
        put(to, mode);
        put(to, attributes.uid);
        put(to, attributes.gid);
        put(to, size(attributes.size));
        to.extend_from_slice(oid.as_slice());
        let length = path.len().min(LONG_PATH);
        to.extend_from_slice(&u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes());
        to.extend_from_slice(path);
        let whole = (to.len() - begin) / 8 * 8 + 8;
        to.resize(begin + whole, 0);
        self.count += 1;
    }
}

fn commit_of(submodules: &[(Name, Oid)], name: &[u8]) -> Option<Oid> {
    let found = submodules.binary_search_by(|(other, _)| (**other).cmp(name)).ok()?;
    Some(submodules[found].1)
}

pub(super) fn mode_of(entry: &IndexEntry) -> u32 {
    match (entry.kind, entry.is_executable) {
        (Kind::Symlink, _) => mode::SYMLINK,
        (Kind::Directory, _) => mode::SUBMODULE,
        (_, true) => mode::EXECUTABLE,
        (_, false) => mode::FILE,
    }
}

fn put(to: &mut Vec<u8>, number: u32) {
    to.extend_from_slice(&number.to_be_bytes());
}

#[expect(clippy::cast_possible_truncation, reason = "as git does")]
pub(super) fn low(number: u64) -> u32 {
    number as u32
}

/// As git cuts it: a size that would be cut to nothing, which git takes for an empty file, is another.
pub(super) fn size(size: u64) -> u32 {
    match low(size) {
        0 if size > 0 => 0x8000_0000,
        size => size,
    }
}

#[cfg(test)]
mod tests;
