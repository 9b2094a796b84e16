//! Names of what is under way, and what becomes of those that are found.

use std::hash::{BuildHasher, RandomState};

use vfs::replica::item::Token;
use wire::agent::file::{Entry, Time};
use wire::agent::name::Name;

use super::LEFTOVER_AGE;
use super::token::{VERSION_BYTES, is_of_one_file, version_of};

const REMOVING: &[u8] = b".stead-removing-";
const SENDING: &[u8] = b".stead-sending-";
const SENDING_NEW: &[u8] = b".stead-sending-new-";

/// What is to be done about a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leftover {
    /// It is somebody's file.
    Not,
    /// It may be under way.
    Hide,
    /// Nobody needs it any more.
    Remove,
}

pub(super) fn removing(version: &Token) -> Name {
    named(REMOVING, &hex(version))
}

pub(super) fn sending(version: &Token) -> Name {
    named(SENDING, &hex(version))
}

/// A name that nobody else has, in all likelihood: it is made with care that it is not there.
pub(super) fn sending_new() -> Name {
    let random = RandomState::new();
    named(SENDING_NEW, &format!("{:016x}{:016x}", random.hash_one(0), random.hash_one(1)))
}

fn named(prefix: &[u8], rest: &str) -> Name {
    Name::new([prefix, rest.as_bytes()].concat()).expect("digits behind a prefix are a name")
}

/// `now` is the machine's clock.
pub(super) fn judge(name: &Name, entry: &Entry, now: Time) -> Leftover {
    let name = name.as_bytes();
    let is_old = || {
        let age = LEFTOVER_AGE.as_secs().cast_signed();
        now.seconds.saturating_sub(entry.attributes.changed.seconds) > age
    };
    let unfinished = || if is_old() { Leftover::Remove } else { Leftover::Hide };
    if name.starts_with(SENDING_NEW) {
        return unfinished();
    }
    let found = version_of(entry);
    if let Some(version) = name.strip_prefix(REMOVING).and_then(unhex) {
        return if version == found { Leftover::Remove } else { Leftover::Not };
    }
    match name.strip_prefix(SENDING).and_then(unhex) {
        Some(version) if version == found => Leftover::Remove,
        Some(version) if is_of_one_file(&version, &found) => Leftover::Not,
        Some(_) => unfinished(),
        None => Leftover::Not,
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(digits: &[u8]) -> Option<Token> {
    let (pairs, rest) = digits.as_chunks::<2>();
    if pairs.len() != VERSION_BYTES || !rest.is_empty() {
        return None;
    }
    let byte = |pair: &[u8; 2]| {
        let is_digit = |digit: &u8| matches!(digit, b'0'..=b'9' | b'a'..=b'f');
        let text = std::str::from_utf8(pair).ok().filter(|_| pair.iter().all(is_digit))?;
        u8::from_str_radix(text, 16).ok()
    };
    pairs.iter().map(byte).collect()
}

#[cfg(test)]
mod tests {
    use wire::agent::file::{Attributes, FileId, Kind};

    use super::*;

    fn file(inode: u64, size: u64) -> Entry {
        let id = FileId { device: 1, inode, birth: 1 };
        Entry { id, attributes: Attributes { size, ..Attributes::new(Kind::File) } }
    }

    #[test]
    fn what_a_cut_left_is_removed_only_if_somebody_has_it_elsewhere() {
        let (expected, written, other) = (file(1, 10), file(1, 11), file(2, 10));
        let version = version_of(&expected);
        let soon = Time { seconds: 60, nanoseconds: 0 };
        let late = Time { seconds: 2 * LEFTOVER_AGE.as_secs() as i64, nanoseconds: 0 };
        let cases = [
            (removing(&version), &expected, soon, Leftover::Remove),
            (removing(&version), &written, late, Leftover::Not),
            (removing(&version), &other, late, Leftover::Not),
            (sending(&version), &expected, soon, Leftover::Remove),
            (sending(&version), &written, late, Leftover::Not),
            (sending(&version), &other, soon, Leftover::Hide),
            (sending(&version), &other, late, Leftover::Remove),
            (sending_new(), &other, soon, Leftover::Hide),
            (sending_new(), &other, late, Leftover::Remove),
            (Name::new(*b".stead-sending-soon").unwrap(), &other, late, Leftover::Not),
            (Name::new(*b".stead-removing-").unwrap(), &other, late, Leftover::Not),
            (Name::new(*b"report").unwrap(), &other, late, Leftover::Not),
        ];
        for (name, entry, now, expected) in cases {
            assert_eq!(judge(&name, entry, now), expected, "{name}, inode {}", entry.id.inode);
        }
    }
}
