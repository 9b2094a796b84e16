//! git's index of a working copy, read: which object git knows each file by, and what `stat` said of it then. So of a file that `stat`
//! says the same of now, nobody has to read the content to know what it is.
//!
//! Versions 2 to 4, see gitformat-index(5), and in short [`thread`](crate::thread)'s own. One that is split, or damaged, or of a kind
//! that is not known, says nothing: whoever asks does without.
//!
//! Of which tree all of it is, git notes in `TREE`, and takes that back as soon as an entry is another.
//!
//! A file that was changed in the moment in which the index was written may be dated as before. What is dated later than
//! [`DOUBTED_NANOSECONDS`] before that is not told of.

use std::cmp::Ordering;
use std::fs::{File, Metadata};
use std::io::Read;
use std::ops::Range;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;

use crate::node::Time;
use crate::{Hash, Oid};

/// The longest index that is read: of some five million files.
const BYTES_MAX: u64 = 512 << 20;

/// The longest path: what any system call takes.
const PATH_BYTES_MAX: usize = 4095;

/// How much older than the index a file has to be: far more than a clock's tick, by which file systems date.
const DOUBTED_NANOSECONDS: u32 = 100_000_000;

const HEADER_BYTES: usize = 12;

/// From the times to the size.
const STAT_BYTES: usize = 40;

mod flag {
    pub(super) const EXTENDED: u16 = 0x4000;
    pub(super) const STAGE: u16 = 0x3000;
}

/// What git knows of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) mode: u32,
    pub(crate) oid: Oid,
    /// Cut to 32 bits.
    pub(crate) size: u32,
    /// The seconds are cut to 32 bits. Without nanoseconds if whoever wrote it does not know them.
    pub(crate) modified: Time,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(crate) struct GitIndex {
    paths: Vec<u8>,
    entries: Vec<(Range<usize>, Known)>,
    tree: Option<Oid>,
}

impl GitIndex {
    /// That of a repository of which objects are named by this hash. Whether the file is damaged is not looked for: what it says of a file
    /// is compared with the file.
    pub(crate) fn read(path: &Path, hash: Hash) -> Option<GitIndex> {
        // What is no file may never end, or never begin.
        let flags = OFlags::NONBLOCK.bits().cast_signed();
        let file = File::options().read(true).custom_flags(flags).open(path).ok()?;
        let found = file.metadata().ok().filter(Metadata::is_file)?;
        let nanoseconds = u32::try_from(found.mtime_nsec()).ok()?;
        let written = Time { seconds: found.mtime(), nanoseconds };
        let mut bytes = Vec::new();
        file.take(BYTES_MAX).read_to_end(&mut bytes).ok()?;
        GitIndex::parse(&bytes, hash.len_in_bytes(), written)
    }

    /// What is known of a file, if that can be relied on.
    pub(crate) fn find(&self, path: &[u8]) -> Option<&Known> {
        let found = self.entries.binary_search_by(|(range, _)| self.paths[range.clone()].cmp(path)).ok()?;
        Some(&self.entries[found].1)
    }

    /// The tree that all of it is, if git has noted that.
    pub(crate) fn tree(&self) -> Option<Oid> {
        self.tree
    }

    fn parse(bytes: &[u8], hash: usize, written: Time) -> Option<GitIndex> {
        let version =
            word(bytes, 4).filter(|version| bytes.starts_with(b"DIRC") && matches!(version, 2..=4))?;
        let count = word(bytes, 8)?;
        let (mut index, mut at, mut path) = (GitIndex::default(), HEADER_BYTES, Vec::new());
        for _ in 0..count {
            let fixed = at + STAT_BYTES + hash;
            let known = Known {
                mode: word(bytes, at + 24)?,
                oid: Oid::try_from(bytes.get(at + STAT_BYTES..fixed)?).ok()?,
                size: word(bytes, at + 36)?,
                modified: Time { seconds: word(bytes, at + 8)?.into(), nanoseconds: word(bytes, at + 12)? },
            };
            let flags = u16::from_be_bytes(*bytes.get(fixed..)?.first_chunk()?);
            let mut named = fixed + 2;
            if version >= 3 && flags & flag::EXTENDED != 0 {
                named += 2;
            }
            if version == 4 {
                let (cut, length) = varint(bytes.get(named..)?)?;
                path.truncate(path.len().checked_sub(cut)?);
                named += length;
            } else {
                path.clear();
            }
            let length = bytes.get(named..)?.iter().position(|byte| *byte == 0)?;
            path.extend_from_slice(&bytes[named..named + length]);
            // A few bytes of it can stand for a long path, again and again.
            if path.len() > PATH_BYTES_MAX || (index.paths.len() + path.len()) as u64 > BYTES_MAX {
                return None;
            }
            let end = named + length;
            at = if version == 4 { end + 1 } else { at + (end - at) / 8 * 8 + 8 };
            if flags & flag::STAGE == 0 && is_before(known.modified, written) {
                let start = index.paths.len();
                index.paths.extend_from_slice(&path);
                index.entries.push((start..index.paths.len(), known));
            }
        }
        let extensions = bytes.get(at..bytes.len().checked_sub(hash)?)?;
        if extension(extensions, b"link").is_some() || extension(extensions, b"sdir").is_some() {
            // It says of files that another file has.
            return None;
        }
        index.tree = extension(extensions, b"TREE").and_then(|trees| whole_tree(trees, hash, count));
        Some(index)
    }
}

fn extension<'a>(mut extensions: &'a [u8], wanted: &[u8; 4]) -> Option<&'a [u8]> {
    while let (Some(name), Some(length)) = (extensions.get(..4), word(extensions, 4)) {
        let end = 8 + length as usize;
        if name == wanted {
            return extensions.get(8..end);
        }
        extensions = extensions.get(end..).unwrap_or_default();
    }
    None
}

/// The first of the trees, which has no name: of so many entries, all there are. One that was taken back has a count below nothing.
fn whole_tree(trees: &[u8], hash: usize, count: u32) -> Option<Oid> {
    let line = trees.strip_prefix(b"\0")?;
    let end = line.iter().position(|byte| *byte == b'\n')?;
    let (said, _) = std::str::from_utf8(&line[..end]).ok()?.split_once(' ')?;
    let is_whole = said.parse() == Ok(count);
    Oid::try_from(line.get(end + 1..end + 1 + hash)?).ok().filter(|_| is_whole)
}

fn is_before(modified: Time, written: Time) -> bool {
    let nanoseconds = modified.nanoseconds.saturating_add(DOUBTED_NANOSECONDS);
    let (seconds, nanoseconds) = (nanoseconds / 1_000_000_000, nanoseconds % 1_000_000_000);
    let doubted = Time { seconds: modified.seconds + i64::from(seconds), nanoseconds };
    match modified.nanoseconds {
        // Perhaps of a file system that counts seconds only.
        0 => modified.seconds < written.seconds,
        _ => doubted.cmp(&written) == Ordering::Less,
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// A number of git's: seven bits a byte, and one added for each byte that follows. And how many bytes it has.
fn varint(bytes: &[u8]) -> Option<(usize, usize)> {
    let (first, rest) = bytes.split_first()?;
    let (mut number, mut length, mut last) = (usize::from(first & 0x7f), 1, *first);
    for byte in rest {
        if last & 0x80 == 0 {
            break;
        }
        number = number.checked_add(1)?.checked_mul(128)? | usize::from(byte & 0x7f);
        (length, last) = (length + 1, *byte);
    }
    (last & 0x80 == 0).then_some((number, length))
}

#[cfg(test)]
mod tests;
