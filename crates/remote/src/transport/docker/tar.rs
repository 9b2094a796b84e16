//! As much of tar as an agent needs to travel.
//!
//! | offset | size | content |
//! |---|---|---|
//! | 0 | 100 | name |
//! | 100 | 8 | mode, octal |
//! | 108 | 8 | owner, octal |
//! | 116 | 8 | group, octal |
//! | 124 | 12 | length of what follows, octal |
//! | 136 | 12 | time of the last change, octal |
//! | 148 | 8 | sum of all bytes of the header, this field taken for spaces |
//! | 156 | 1 | `0` a file, `5` a directory, `x` more about the next entry |
//! | 257 | 8 | `ustar`, NUL, `00` |
//!
//! Content follows, filled up to [`BLOCK_BYTES`]; two empty blocks are the end. An archive is an engine's word about a place
//! that others may write to: what is not understood makes an entry nobody trusts.

/// Headers and contents begin at multiples of this.
pub(super) const BLOCK_BYTES: usize = 512;

/// The longest `x` entry that is read.
const EXTENSION_BYTES_MAX: usize = 64 << 10;

/// An entry that is written.
pub(super) struct Entry<'a> {
    /// Relative. A directory's ends with a slash.
    pub name: &'a str,
    /// None for a directory.
    pub content: Option<&'a [u8]>,
}

/// An archive of entries that belong to root and that all may read and run.
pub(super) fn write(entries: &[Entry<'_>], modified: u64) -> Vec<u8> {
    let mut archive = Vec::new();
    for entry in entries {
        archive.extend(header(entry, modified));
        let content = entry.content.unwrap_or_default();
        archive.extend_from_slice(content);
        archive.resize(archive.len().next_multiple_of(BLOCK_BYTES), 0);
    }
    archive.resize(archive.len() + 2 * BLOCK_BYTES, 0);
    archive
}

fn header(entry: &Entry<'_>, modified: u64) -> [u8; BLOCK_BYTES] {
    let mut header = [0; BLOCK_BYTES];
    let mut put = |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
    debug_assert!(entry.name.len() < 100);
    put(0, entry.name);
    put(100, "0000755");
    put(108, "0000000");
    put(116, "0000000");
    put(124, &format!("{:011o}", entry.content.map_or(0, <[u8]>::len)));
    put(136, &format!("{modified:011o}"));
    put(148, "        ");
    put(156, if entry.content.is_some() { "0" } else { "5" });
    put(257, "ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header
}

/// An entry that is read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Found<'a> {
    pub is_directory: bool,
    pub is_file: bool,
    mode: u32,
    /// `u32::MAX` where it is not known.
    owner: u32,
    pub content: &'a [u8],
}

impl Found<'_> {
    /// Whether only root can change it.
    pub fn is_roots(&self) -> bool {
        self.owner == 0 && self.mode & 0o022 == 0
    }

    /// Whether all may run it, or enter it.
    pub fn is_open(&self) -> bool {
        self.mode & 0o555 == 0o555
    }
}

/// The first entry of an archive that may be cut off anywhere behind it.
pub(super) fn first(archive: &[u8]) -> Option<Found<'_>> {
    Reader { rest: archive, cut: true }.next()
}

/// All entries of a whole archive, up to the first that is not understood.
pub(super) fn entries(archive: &[u8]) -> impl Iterator<Item = Found<'_>> {
    Reader { rest: archive, cut: false }
}

struct Reader<'a> {
    rest: &'a [u8],
    /// Whether the content may be missing.
    cut: bool,
}

impl<'a> Iterator for Reader<'a> {
    type Item = Found<'a>;

    fn next(&mut self) -> Option<Found<'a>> {
        let mut extended = false;
        loop {
            let (header, rest) = self.rest.split_at_checked(BLOCK_BYTES)?;
            if header.iter().all(|byte| *byte == 0) {
                return None;
            }
            let length = usize::try_from(octal(&header[124..136])?).ok()?;
            let kind = header[156];
            if (kind == b'x' || kind == b'g') && length > EXTENSION_BYTES_MAX {
                return None;
            }
            let content = match rest.get(..length) {
                Some(content) => content,
                None if self.cut && kind != b'x' && kind != b'g' => &[],
                None => return None,
            };
            self.rest = rest.get(length.checked_next_multiple_of(BLOCK_BYTES)?..).unwrap_or_default();
            if kind == b'x' || kind == b'g' {
                // It may say of the next entry what the header has no room for: a great number of an owner, a length.
                extended |= [&b"uid="[..], b"size=", b"path="]
                    .iter()
                    .any(|key| content.windows(key.len()).any(|window| window == *key));
                continue;
            }
            let owner = octal(&header[108..116]).and_then(|owner| u32::try_from(owner).ok());
            return Some(Found {
                is_directory: kind == b'5',
                is_file: matches!(kind, b'0' | 0),
                mode: u32::try_from(octal(&header[100..108])?).ok()?,
                owner: owner.filter(|_| !extended).unwrap_or(u32::MAX),
                content,
            });
        }
    }
}

/// A number, which ends with a space, a NUL, or its field.
fn octal(field: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(field).ok()?;
    let digits = text.trim_matches(|byte| byte == ' ' || byte == '\0');
    u64::from_str_radix(digits, 8).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent() -> Vec<u8> {
        let entries = [Entry { name: "d/", content: None }, Entry { name: "d/f", content: Some(&[7; 1000]) }];
        write(&entries, 1_700_000_000)
    }

    #[test]
    fn what_is_written_is_read_back() {
        let archive = agent();
        let found: Vec<_> = entries(&archive).collect();
        let [directory, file] = found.as_slice() else { panic!("{found:?}") };
        assert!(directory.is_directory && directory.is_roots() && directory.is_open());
        assert!(file.is_file && file.is_roots() && file.is_open() && file.content == [7; 1000]);
        assert_eq!(first(&archive[..BLOCK_BYTES]).as_ref(), Some(directory));
    }

    #[test]
    fn tar_itself_reads_what_is_written() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("a.tar"), agent()).unwrap();
        let mut tar = std::process::Command::new("tar");
        let done = tar.arg("-xf").arg("a.tar").current_dir(&directory).output().unwrap();
        assert!(done.status.success() && done.stderr.is_empty(), "{done:?}");
        assert_eq!(std::fs::read(directory.path().join("d/f")).unwrap(), [7; 1000]);
    }

    #[test]
    fn another_owner_and_another_writer_are_seen() {
        let mut archive = agent();
        archive[108..115].copy_from_slice(b"0001750");
        assert!(!first(&archive).unwrap().is_roots());
        let mut archive = agent();
        archive[100..107].copy_from_slice(b"0000775");
        assert!(!first(&archive).unwrap().is_roots());
    }

    #[test]
    fn an_owner_beyond_the_header_is_not_taken_for_root() {
        let record = b"15 uid=3000000\n";
        let mut extension = header(&Entry { name: "x", content: Some(record) }, 0);
        extension[156] = b'x';
        let mut archive = extension.to_vec();
        archive.extend(record);
        archive.resize(2 * BLOCK_BYTES, 0);
        archive.extend(agent());
        assert!(!first(&archive).unwrap().is_roots());
        assert!(entries(&archive).nth(1).unwrap().is_roots());
    }

    #[test]
    fn nonsense_is_no_entry() {
        assert_eq!(first(b""), None);
        assert_eq!(first(&[0; 2 * BLOCK_BYTES]), None);
        assert_eq!(first(&[b'x'; 2 * BLOCK_BYTES]), None);
        let archive = agent();
        assert_eq!(entries(&archive[..BLOCK_BYTES * 3]).count(), 1);
    }
}
