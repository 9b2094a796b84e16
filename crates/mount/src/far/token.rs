//! What a machine's file is known by, and which content it has.
//!
//! An [`Identity`], numbers little endian:
//!
//! | offset | size | content |
//! |---|---|---|
//! | 0 | 8 | device |
//! | 8 | 8 | inode |
//! | 16 | 8 | time of birth in nanoseconds; 0 where it is not known |
//! | 24 | 16 | of a file with several names only: FNV-1a of its directory's identity and its name |
//!
//! A [`Token`], of a file or symlink; that of a directory is empty:
//!
//! | offset | size | content |
//! |---|---|---|
//! | 0 | 8 | inode |
//! | 8 | 8 | time of birth |
//! | 16 | 8 | size |
//! | 24 | 8 | seconds of the last change of the content |
//! | 32 | 4 | nanoseconds of it |
//! | 36 | 0 or 1 | a byte more where it is the version of a file that may get another content without another time |
//!
//! The device is no part of it, for it may have another number when the machine has started again; nor is the time at which
//! attributes changed, for a name or permissions are no content.

use vfs::replica::item::{Identity, Token};
use wire::agent::file::{Entry, FileId, Kind, Time};

const FILE_ID_BYTES: usize = 24;

/// How many bytes a [`Token`] has.
pub(super) const VERSION_BYTES: usize = 36;

pub(super) fn identity_of(entry: &Entry, directory: &Identity, name: &[u8]) -> Identity {
    let mut identity = id_bytes(&entry.id);
    if entry.attributes.kind != Kind::Directory && entry.attributes.links > 1 {
        let place = [&directory[..], b"/", name].concat();
        identity.extend(fnv1a(&place).to_le_bytes());
    }
    identity.into()
}

/// Of what has one name.
pub(super) fn plain_identity(id: &FileId) -> Identity {
    id_bytes(id).into()
}

fn id_bytes(id: &FileId) -> Vec<u8> {
    [id.device, id.inode, id.birth].iter().flat_map(|number| number.to_le_bytes()).collect()
}

/// Which file it is; `None` if it is no identity of a machine's file.
pub(super) fn file_id(identity: &Identity) -> Option<FileId> {
    let number = |at: usize| Some(u64::from_le_bytes(identity.get(at..at + 8)?.try_into().ok()?));
    let is_one = [FILE_ID_BYTES, FILE_ID_BYTES + 16].contains(&identity.len());
    is_one.then_some(())?;
    Some(FileId { device: number(0)?, inode: number(8)?, birth: number(16)? })
}

pub(super) fn version_of(entry: &Entry) -> Token {
    let attributes = &entry.attributes;
    if attributes.kind == Kind::Directory {
        return Token::default();
    }
    let Time { seconds, nanoseconds } = attributes.modified;
    let numbers = [entry.id.inode, entry.id.birth, attributes.size, seconds.cast_unsigned()];
    let mut version: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
    version.extend(nanoseconds.to_le_bytes());
    version.into()
}

/// The version of a file that may be written to yet, and then have the same time: no file has this one, so that nothing is read
/// or replaced as it.
pub(super) fn unsettled_version(version: &Token) -> Token {
    [&version[..], &[0]].concat().into()
}

/// 128 bits of it. One file's own names, and versions of files in one directory, are told apart by it.
pub(super) fn fnv1a(bytes: &[u8]) -> u128 {
    bytes.iter().fold(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d, |hash, byte| {
        (hash ^ u128::from(*byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b)
    })
}

#[cfg(test)]
mod tests {
    use vfs::replica::item::TOKEN_BYTES_MAX;
    use wire::agent::file::Attributes;

    use super::*;

    fn entry(kind: Kind, links: u32) -> Entry {
        let id = FileId { device: 1, inode: 2, birth: 3 };
        Entry { id, attributes: Attributes { links, size: 7, ..Attributes::new(kind) } }
    }

    #[test]
    fn two_names_of_a_file_are_told_apart_and_both_name_it() {
        let directory = plain_identity(&FileId { device: 1, inode: 9, birth: 9 });
        let [one, other] = [b"a", b"b"].map(|name| identity_of(&entry(Kind::File, 2), &directory, name));
        assert_ne!(one, other);
        assert_eq!(file_id(&one), file_id(&other));
        assert!(one.len() <= TOKEN_BYTES_MAX);
        let alone = identity_of(&entry(Kind::File, 1), &directory, b"a");
        assert_eq!((file_id(&alone), alone.len()), (file_id(&one), FILE_ID_BYTES));
        assert_eq!(file_id(&Identity::from(&b"nonsense"[..])), None);
    }

    #[test]
    fn another_size_time_or_file_is_another_version_and_permissions_are_not() {
        let before = version_of(&entry(Kind::File, 1));
        assert_eq!(before.len(), VERSION_BYTES);
        let mut changed = entry(Kind::File, 1);
        changed.attributes.mode = 0o600;
        changed.attributes.changed = Time { seconds: 5, nanoseconds: 5 };
        changed.id.device = 77;
        assert_eq!(version_of(&changed), before);
        changed.attributes.modified.nanoseconds = 1;
        assert_ne!(version_of(&changed), before);
        let unsettled = unsettled_version(&before);
        assert!(unsettled != before && unsettled.len() <= TOKEN_BYTES_MAX);
        assert!(version_of(&entry(Kind::Directory, 2)).is_empty());
    }
}
