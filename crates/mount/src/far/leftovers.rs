//! Names of what is under way, and what becomes of those that are found.

use std::hash::{BuildHasher, RandomState};

use vfs::replica::item::Token;
use wire::agent::file::{Entry, Time};
use wire::agent::name::Name;

use super::LEFTOVER_AGE;
use super::token::{VERSION_BYTES, fnv1a, version_of};

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

/// For what takes the place of a version: of this sending alone, whoever else sends.
pub(super) fn sending(version: &Token, new: &Token) -> Name {
    let random = RandomState::new().hash_one(0);
    named(SENDING, &format!("{}-{:032x}-{random:016x}", hex(version), fnv1a(new)))
}

/// A name that nobody else has, in all likelihood: it is made with care that it is not there.
pub(super) fn sending_new() -> Name {
    let random = RandomState::new();
    named(SENDING_NEW, &format!("{:016x}{:016x}", random.hash_one(0), random.hash_one(1)))
}

/// The digits behind [`SENDING_NEW`].
const NUMBER_DIGITS: usize = 32;

/// What a [`sending`] name says: the version that was replaced, and the digest of the one that was to come.
fn sent(digits: &[u8]) -> Option<(Token, u128)> {
    let mut parts = digits.split(|byte| *byte == b'-');
    let (version, new, random) = (unhex(parts.next()?)?, parts.next()?, parts.next()?);
    let is_whole = are_digits(new, 32) && are_digits(random, 16) && parts.next().is_none();
    let new = std::str::from_utf8(new).ok().filter(|_| is_whole)?;
    Some((version, u128::from_str_radix(new, 16).ok()?))
}

fn are_digits(text: &[u8], count: usize) -> bool {
    text.len() == count && text.iter().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
}

/// A name that is nobody's, for what is somebody's and has lost its own.
pub(super) fn kept() -> Name {
    named(b"stead-kept-", &format!("{:016x}", RandomState::new().hash_one(0)))
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
    if name.strip_prefix(SENDING_NEW).is_some_and(|rest| are_digits(rest, NUMBER_DIGITS)) {
        return unfinished();
    }
    let found = version_of(entry);
    if let Some(version) = name.strip_prefix(REMOVING).and_then(unhex) {
        return if version == found { Leftover::Remove } else { Leftover::Not };
    }
    match name.strip_prefix(SENDING).and_then(sent) {
        Some((version, _)) if version == found => Leftover::Remove,
        Some((_, new)) if new == fnv1a(&found) => unfinished(),
        // Whatever else came to have this name is somebody's, who has it nowhere else.
        Some(_) | None => Leftover::Not,
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(digits: &[u8]) -> Option<Token> {
    if !are_digits(digits, 2 * VERSION_BYTES) {
        return None;
    }
    let (pairs, _) = digits.as_chunks::<2>();
    let byte = |pair: &[u8; 2]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
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
        let (other_written, saved) = (file(2, 11), file(3, 10));
        let version = version_of(&expected);
        let sending = || sending(&version, &version_of(&other));
        let soon = Time { seconds: 60, nanoseconds: 0 };
        let late = Time { seconds: 2 * LEFTOVER_AGE.as_secs() as i64, nanoseconds: 0 };
        let cases = [
            (removing(&version), &expected, soon, Leftover::Remove),
            (removing(&version), &written, late, Leftover::Not),
            (removing(&version), &other, late, Leftover::Not),
            (sending(), &expected, soon, Leftover::Remove),
            (sending(), &written, late, Leftover::Not),
            (sending(), &other, soon, Leftover::Hide),
            (sending(), &other, late, Leftover::Remove),
            (sending(), &other_written, late, Leftover::Not),
            (sending(), &saved, late, Leftover::Not),
            (sending_new(), &other, soon, Leftover::Hide),
            (sending_new(), &other, late, Leftover::Remove),
            (Name::new(*b".stead-sending-new-notes").unwrap(), &other, late, Leftover::Not),
            (Name::new([sending_new().as_bytes(), b"0"].concat()).unwrap(), &other, late, Leftover::Not),
            (Name::new(*b".stead-sending-soon").unwrap(), &other, late, Leftover::Not),
            (Name::new(*b".stead-removing-").unwrap(), &other, late, Leftover::Not),
            (Name::new(*b"report").unwrap(), &other, late, Leftover::Not),
        ];
        for (name, entry, now, expected) in cases {
            assert_eq!(judge(&name, entry, now), expected, "{name}, inode {}", entry.id.inode);
        }
        assert_ne!(sending(), sending());
        // Encrypted file systems have names of 143 bytes.
        assert!(sending().as_bytes().len() <= 143);
    }
}
