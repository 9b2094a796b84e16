//! Windows' words and the replica's: nothing here calls the system, so it is tested on any.
//!
//! What is kept with a placeholder (Windows' *file identity*, at most 4 KiB), numbers little endian:
//!
//! | offset | size | content |
//! |---|---|---|
//! | 0 | 1 | [`BLOB_VERSION`] |
//! | 1 | 1 | 0 |
//! | 2 | 2 | permissions |
//! | 4 | | the version on the machine that it is, or was made from; nothing of a directory |

use std::ops::Range;

use vfs::replica::item::{Identity, TOKEN_BYTES_MAX, Token};
use vfs::replica::side::Refusal;

/// Of what is kept with a placeholder.
pub const BLOB_VERSION: u8 = 1;

const BLOB_HEAD_BYTES: usize = 4;

/// What Windows takes bytes of a placeholder in, but for the end of a file.
pub const BLOCK_BYTES: u64 = 4096;

/// Windows' permissions of what was not made from the machine's: the ones that most systems give.
pub const FILE_MODE: u16 = 0o644;
/// The same of a directory.
pub const DIRECTORY_MODE: u16 = 0o755;

const WRITE_BITS: u16 = 0o222;

/// What is kept with a placeholder.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "said above")]
pub struct Blob {
    pub mode: u16,
    pub content: Token,
}

impl Blob {
    /// To be handed to Windows.
    pub fn encode(&self) -> Vec<u8> {
        [&[BLOB_VERSION, 0][..], &self.mode.to_le_bytes(), &self.content].concat()
    }

    /// What [`encode`](Blob::encode) made; `None` of anything else, which is a file of somebody else's.
    pub fn decode(bytes: &[u8]) -> Option<Blob> {
        let (head, content) = bytes.split_at_checked(BLOB_HEAD_BYTES)?;
        let is_ours = head[..2] == [BLOB_VERSION, 0] && content.len() <= TOKEN_BYTES_MAX;
        is_ours.then(|| Blob { mode: u16::from_le_bytes([head[2], head[3]]), content: content.into() })
    }
}

/// What NTFS knows a file by: its number with the count of its uses, so that the next file with the number has another.
pub fn identity_of(file: i64) -> Identity {
    file.to_le_bytes().into()
}

/// The other way; `None` if it is no identity of a file here.
pub fn file_of(identity: &Identity) -> Option<i64> {
    Some(i64::from_le_bytes(identity[..].try_into().ok()?))
}

/// How a file was written to: NTFS counts every change in the journal of its volume; the rest is for volumes without one.
pub fn edit_of(usn: i64, written: i64, size: i64) -> Token {
    [usn, written, size].iter().flat_map(|number| number.to_le_bytes()).collect()
}

/// The number of the change that an [`edit_of`] names.
pub fn usn_of(edit: &Token) -> i64 {
    edit.first_chunk::<8>().map_or(0, |bytes| i64::from_le_bytes(*bytes))
}

/// Windows counts 100 ns from the year 1601.
const TICKS_PER_SECOND: i128 = 10_000_000;
const SECONDS_TO_1970: i128 = 11_644_473_600;

/// A time of the machine's in Windows' count; what lies before 1601 is its first moment, as 0 would say "leave it".
pub fn filetime_of(seconds: i64, nanoseconds: u32) -> i64 {
    let ticks = (i128::from(seconds) + SECONDS_TO_1970) * TICKS_PER_SECOND + i128::from(nanoseconds / 100);
    i64::try_from(ticks.clamp(1, i128::from(i64::MAX))).unwrap_or(i64::MAX)
}

/// Seconds and nanoseconds since 1970.
pub fn unix_of(filetime: i64) -> (i64, u32) {
    let ticks = i128::from(filetime) - SECONDS_TO_1970 * TICKS_PER_SECOND;
    let seconds = i64::try_from(ticks.div_euclid(TICKS_PER_SECOND)).unwrap_or_default();
    (seconds, u32::try_from(ticks.rem_euclid(TICKS_PER_SECOND) * 100).unwrap_or_default())
}

const READ_ONLY: u32 = 0x1;
const DIRECTORY: u32 = 0x10;
const NORMAL: u32 = 0x80;

/// What of permissions Windows has.
pub fn attributes_of(is_directory: bool, mode: u16) -> u32 {
    match (is_directory, mode & WRITE_BITS) {
        // Read-only means something else of a directory.
        (true, _) => DIRECTORY,
        (false, 0) => READ_ONLY,
        (false, _) => NORMAL,
    }
}

/// The attributes of a file that has these ones and is to have these permissions: all others stay.
pub fn attributes_with(attributes: u32, mode: u16) -> u32 {
    if attributes & DIRECTORY != 0 {
        return attributes;
    }
    match (attributes & !READ_ONLY & !NORMAL, mode & WRITE_BITS) {
        (others, 0) => others | READ_ONLY,
        // "Normal" is none at all: zeros would say "leave them".
        (0, _) => NORMAL,
        (others, _) => others,
    }
}

/// Whether nobody may write to it.
pub fn is_read_only(attributes: u32) -> bool {
    attributes & DIRECTORY == 0 && attributes & READ_ONLY != 0
}

/// The permissions of a file that had these ones, and has these attributes now.
pub fn mode_of(attributes: u32, before: Option<u16>) -> u16 {
    let is_directory = attributes & DIRECTORY != 0;
    let before = before.unwrap_or(if is_directory { DIRECTORY_MODE } else { FILE_MODE });
    match attributes & READ_ONLY != 0 {
        _ if is_directory => before,
        true => before & !WRITE_BITS,
        false if before & WRITE_BITS == 0 => before | 0o200,
        false => before,
    }
}

/// The range that is to be transferred for one that is wanted: whole blocks, or to the end.
pub fn blocks(wanted: Range<u64>, size: u64) -> Range<u64> {
    let start = wanted.start.min(size) / BLOCK_BYTES * BLOCK_BYTES;
    let end = wanted.end.min(size).next_multiple_of(BLOCK_BYTES).min(size);
    start..end.max(start)
}

/// The next piece of a transfer.
pub fn piece(rest: &Range<u64>, most: u32) -> Range<u64> {
    let most = u64::from(most) / BLOCK_BYTES * BLOCK_BYTES;
    rest.start..rest.end.min(rest.start.saturating_add(most.max(BLOCK_BYTES)))
}

/// Windows' numbers for how a request ended. Others than its own for cloud files it shows as a failure without a reason.
pub mod status {
    #![allow(missing_docs, reason = "Windows' own words")]
    pub const SUCCESS: i32 = 0;
    pub const NETWORK_UNAVAILABLE: i32 = 0xC000_CF11_u32.cast_signed();
    pub const NOT_IN_SYNC: i32 = 0xC000_CF08_u32.cast_signed();
    pub const UNSUCCESSFUL: i32 = 0xC000_CF12_u32.cast_signed();
    pub const INSUFFICIENT_RESOURCES: i32 = 0xC000_CF10_u32.cast_signed();
    pub const DEHYDRATION_DISALLOWED: i32 = 0xC000_CF20_u32.cast_signed();
    pub const REQUEST_CANCELED: i32 = 0xC000_CF1B_u32.cast_signed();
}

/// What a program that waits for a file is told.
pub fn status_of(refusal: &Refusal) -> i32 {
    match refusal {
        Refusal::Cut => status::NETWORK_UNAVAILABLE,
        Refusal::Changed => status::NOT_IN_SYNC,
        Refusal::Refused(_) => status::UNSUCCESSFUL,
    }
}

/// What an error of Windows means to a replica.
pub fn refusal_of(code: u32) -> Refusal {
    match code {
        // Not found; no such path; exists; exists already; not empty; not a directory; gone by its number; being removed.
        2 | 3 | 80 | 183 | 145 | 267 | 87 | 303 => Refusal::Changed,
        // Also where it was open alone, and Windows has closed it for another program.
        6 | 32 | 33 | 391 | 742 | 802 => Refusal::Refused("another program uses it".to_owned()),
        5 => Refusal::Refused("Windows denies it".to_owned()),
        39 | 112 => Refusal::Refused("the disk here is full".to_owned()),
        // Of cloud files: none any more; written to meanwhile.
        376 | 377 => Refusal::Changed,
        code => Refusal::Refused(format!("Windows refuses it: error {code}")),
    }
}

/// The error of Windows' within a result of COM's, if it is one.
pub fn code_of(result: i32) -> u32 {
    let result = result.cast_unsigned();
    if result & 0xffff_0000 == 0x8007_0000 { result & 0xffff } else { result }
}

/// Text for Windows, ended by a zero. What is not Unicode cannot have come from here.
pub fn wide(name: &[u8]) -> Result<Vec<u16>, Refusal> {
    match std::str::from_utf8(name) {
        Ok(name) if !name.contains('\0') => Ok(name.encode_utf16().chain([0]).collect()),
        _ => Err(Refusal::Refused("its name is not Unicode".to_owned())),
    }
}

/// Windows' text. Half of a pair alone becomes three bytes that are no UTF-8, so that nobody takes it for another name.
pub fn narrow(text: &[u16]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    for unit in char::decode_utf16(text.iter().copied()) {
        match unit {
            Ok(character) => bytes.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
            Err(half) => {
                let [high, low] = half.unpaired_surrogate().to_be_bytes();
                bytes.extend([0xe0 | high >> 4, 0x80 | (high & 0xf) << 2 | low >> 6, 0x80 | low & 0x3f]);
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_kept_with_a_placeholder_comes_back_and_nothing_else_does() {
        let blob = Blob { mode: 0o4755, content: (0..TOKEN_BYTES_MAX as u8).collect() };
        assert_eq!(Blob::decode(&blob.encode()), Some(blob.clone()));
        let empty = Blob { content: Token::default(), ..blob };
        assert_eq!(Blob::decode(&empty.encode()), Some(empty));
        for other in [&b""[..], b"\x01\0\0", b"\x02\0\0\0", b"\x01\x01\0\0", &[1; 200]] {
            assert_eq!(Blob::decode(other), None, "{other:?}");
        }
        let file = -0x0102_0304_0506_0708;
        assert_eq!(file_of(&identity_of(file)), Some(file));
        assert_eq!(file_of(&Identity::from(&b"short"[..])), None);
        assert_eq!(usn_of(&edit_of(77, 1, 2)), 77);
    }

    #[test]
    fn times_are_windows_own() {
        for (unix, windows) in [
            ((0, 0), 116_444_736_000_000_000),
            ((1_700_000_000, 123_456_700), 133_444_736_001_234_567),
            ((-11_644_473_600, 100), 1),
            ((-1, 999_999_900), 116_444_735_999_999_999),
        ] {
            assert_eq!(filetime_of(unix.0, unix.1), windows);
            assert_eq!(unix_of(windows), unix);
        }
        assert_eq!(filetime_of(i64::MIN, 0), 1);
        assert_eq!(filetime_of(i64::MAX, 0), i64::MAX);
    }

    #[test]
    fn permissions_are_kept_but_for_what_windows_has_of_them() {
        for (mode, attributes) in [(0o640, NORMAL), (0o444, READ_ONLY), (0o755, NORMAL)] {
            assert_eq!(attributes_of(false, mode), attributes);
            assert_eq!(mode_of(attributes, Some(mode)), mode);
        }
        const HIDDEN: u32 = 0x2;
        assert_eq!(attributes_with(HIDDEN | READ_ONLY, 0o600), HIDDEN);
        assert_eq!(attributes_with(HIDDEN, 0o400), HIDDEN | READ_ONLY);
        assert_eq!(attributes_with(READ_ONLY, 0o600), NORMAL);
        assert_eq!(attributes_with(NORMAL, 0o400), READ_ONLY);
        assert_eq!(attributes_with(DIRECTORY | HIDDEN, 0o500), DIRECTORY | HIDDEN);
        assert!(
            is_read_only(READ_ONLY | HIDDEN) && !is_read_only(READ_ONLY | DIRECTORY) && !is_read_only(NORMAL)
        );
        assert_eq!(mode_of(READ_ONLY, Some(0o664)), 0o444);
        assert_eq!(mode_of(NORMAL, Some(0o500)), 0o700);
        assert_eq!(mode_of(NORMAL, None), FILE_MODE);
        assert_eq!(mode_of(DIRECTORY | READ_ONLY, None), DIRECTORY_MODE);
        assert_eq!(mode_of(attributes_of(true, 0o500), Some(0o500)), 0o500);
    }

    #[test]
    fn errors_say_what_is_to_be_done() {
        assert!(matches!(refusal_of(code_of(0x8007_0002_u32.cast_signed())), Refusal::Changed));
        assert!(matches!(refusal_of(code_of(0x8007_0179_u32.cast_signed())), Refusal::Changed));
        let Refusal::Refused(why) = refusal_of(32) else { panic!("not refused") };
        assert_eq!(why, "another program uses it");
        assert_eq!(refusal_of(6).to_string(), why);
        assert_eq!(code_of(0x8000_4005_u32.cast_signed()), 0x8000_4005);
        for (refusal, expected) in [
            (Refusal::Cut, 0xC000_CF11_u32),
            (Refusal::Changed, 0xC000_CF08),
            (Refusal::Refused(String::new()), 0xC000_CF12),
        ] {
            assert_eq!(status_of(&refusal).cast_unsigned(), expected);
        }
    }

    #[test]
    fn a_name_that_is_not_unicode_is_no_other_name() {
        let half = [u16::from(b'a'), 0xd83d];
        assert!(std::str::from_utf8(&narrow(&half)).is_err());
        assert_eq!(narrow(&half), b"a\xed\xa0\xbd");
        assert!(wide(&narrow(&half)).is_err());
        assert!(wide(b"a\0b").is_err());
    }

    proptest! {
        #[test]
        fn unicode_names_come_back(name in "[^\0]{0,40}") {
            let wide = wide(name.as_bytes()).unwrap();
            prop_assert_eq!(narrow(&wide[..wide.len() - 1]), name.into_bytes());
        }

        #[test]
        fn pieces_are_whole_blocks_and_cover_what_is_wanted(
            start in 0_u64..40_000, length in 1_u64..40_000, size in 1_u64..60_000, most in 1_u32..20_000,
        ) {
            let wanted = start..start + length;
            let all = blocks(wanted.clone(), size);
            prop_assert!(all.start <= wanted.start.min(size) && all.end >= wanted.end.min(size));
            prop_assert!(all.start.is_multiple_of(BLOCK_BYTES));
            prop_assert!(all.end.is_multiple_of(BLOCK_BYTES) || all.end == size);
            let mut rest = all.clone();
            while !rest.is_empty() {
                let next = piece(&rest, most);
                prop_assert!(next.start == rest.start && !next.is_empty() && next.end <= rest.end);
                prop_assert!(next.end.is_multiple_of(BLOCK_BYTES) || next.end == all.end);
                rest.start = next.end;
            }
        }
    }
}
