//! One block on disk: what is in its file, and what that is called. See `docs/formats.md`.

use bytes::Bytes;
use vfs::cache::{BLOCK_BYTES, Block};
use vfs::file::{FileId, Time};

const MAGIC: [u8; 8] = *b"steadblk";
const VERSION: u32 = 1;

/// Before the content.
pub(super) const HEAD_BYTES: usize = 120;

/// Where the checksum begins in the head, which it ends.
const CHECKSUM_AT: usize = 88;

/// The longest file of a block.
pub(super) const ENTRY_BYTES_MAX: u64 = HEAD_BYTES as u64 + BLOCK_BYTES as u64;

/// Which machine: a hash of its URL, which is in the checksum of each of its blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MachineKey([u8; 32]);

impl MachineKey {
    pub(super) fn of(machine: &str) -> MachineKey {
        MachineKey(*blake3::hash(machine.as_bytes()).as_bytes())
    }

    /// The directory of its blocks.
    pub(super) fn directory(&self) -> String {
        self.0[..8].iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Where a block lies in the directory of its machine. The version is not in it, so that a newer one takes its place.
pub(super) fn path_of(block: &Block) -> String {
    let Block { file: FileId { device, inode, birth }, number, .. } = block;
    format!("{:02x}/{device:x}-{inode:x}-{birth:x}.{number:x}", (inode ^ number) & 0xff)
}

/// What is in the file of a block.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Decoded {
    /// The content of the block that is looked for.
    Wanted(Bytes),
    /// That of another: of another version, or one that got its name by a change of the format.
    Other,
    /// Nothing that was written whole.
    Damaged,
}

/// What is written before the content.
pub(super) fn head_of(key: &MachineKey, block: &Block, content: &[u8]) -> [u8; HEAD_BYTES] {
    let Block { file, version, number } = block;
    let mut head = [0; HEAD_BYTES];
    let mut at = 0;
    let mut put = |bytes: &[u8]| {
        head[at..at + bytes.len()].copy_from_slice(bytes);
        at += bytes.len();
    };
    put(&MAGIC);
    put(&VERSION.to_le_bytes());
    put(&u32::try_from(content.len()).unwrap_or(u32::MAX).to_le_bytes());
    for number in [file.device, file.inode, file.birth, *number, version.size] {
        put(&number.to_le_bytes());
    }
    for Time { seconds, nanoseconds } in [version.modified, version.changed] {
        put(&seconds.to_le_bytes());
        put(&u64::from(nanoseconds).to_le_bytes());
    }
    let checksum = checksum(key, &head, content);
    head[CHECKSUM_AT..].copy_from_slice(&checksum);
    head
}

/// Reads the file of a block that is looked for.
pub(super) fn decode(key: &MachineKey, wanted: &Block, file: &Bytes) -> Decoded {
    if file.len() < HEAD_BYTES {
        return Decoded::Damaged;
    }
    let (head, content) = (&file[..HEAD_BYTES], file.slice(HEAD_BYTES..));
    if head[CHECKSUM_AT..] != checksum(key, head, &content) {
        return Decoded::Damaged;
    }
    // What matches its checksum was written as a whole: if it is of the block that is looked for, it has the same head.
    match *head == head_of(key, wanted, &content) && content.len() == wanted.length() as usize {
        true => Decoded::Wanted(content),
        false => Decoded::Other,
    }
}

fn checksum(key: &MachineKey, head: &[u8], content: &[u8]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_keyed(&key.0);
    hasher.update(&head[..CHECKSUM_AT]);
    hasher.update(content);
    *hasher.finalize().as_bytes()
}
