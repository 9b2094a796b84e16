//! What is in a journal's files behind their headers: records, to bytes and back. All numbers are little endian.
//!
//! ```text
//! offset  size  each record
//!      0     4  CRC-32 (IEEE) of what follows, the bytes included
//!      4     4  length of the bytes
//!      8     8  epoch of the file when it was written
//!     16     1  kind: 1 a write, 2 writes that are done, 3 a file, 4 a change of attributes, 5 a creation
//!     17     1  for a write and a change of attributes, bit 0: clears set-id bits; for a file, bit 0: its content is known,
//!               bit 1: its place is said
//!     18     6  zero
//!     24     8  sequence number under which it is sent
//!     32     8  the kernel's number of the request
//!     40     8  handle
//!     48     8  node
//!     56     8  offset in the file
//!     64   ...  bytes; of kind 2, sequence numbers of 8 bytes each; of kinds 3 to 5, see below
//!
//! offset  size  bytes of a file's record, all other fields but the node being zero
//!      0     8  size
//!      8     8  last change of the content: seconds since 1970
//!     16     8  nanoseconds
//!     24    24  where the place is said: device, inode, birth
//!     48   ...  its path below the root; empty for a file without a name
//!
//! offset  size  bytes of a change of attributes, which has no offset
//!      0     1  what is set. Bit 0: owner, 1: group, 2: mode; bit 3: last read, 4: to the source's present; bit 5: last
//!               change of the content, 6: to the source's present
//!      1     1  zero
//!      2     2  mode
//!      4     4  owner
//!      8     4  group
//!     12    12  last read: nanoseconds, and seconds since 1970 in 8 bytes
//!     24    12  last change of the content: as before
//!
//! offset  size  bytes of a creation, whose handle is to have the file open
//!      0     8  node of the directory
//!      8     8  user and group for whom, 4 bytes each
//!     16     4  mode, and what is taken from it, 2 bytes each
//!     20     4  how it is opened, as in the record of a handle; zero
//!     24   ...  name
//! ```

use std::io::{self, Read};

use bytes::Bytes;

use crate::file::{AttributeChanges, Caller, Content, FileId, Name, OpenFlags, SetTime, Time};
use crate::request::{RequestId, Sequence};
use crate::source::{HandleId, Place};
use crate::table::Ino;
use crate::table::ledger::{flag_bits, flags_of};

pub(super) const RECORD_BYTES: usize = 64;

/// The longest write that is journalled in one record, and a bound on what a damaged length can ask for.
pub(super) const WRITE_BYTES_MAX: usize = 16 << 20;

/// The bytes of a file's record before its path, without and with the place.
const CONTENT_BYTES: usize = 24;
pub(super) const PLACE_BYTES: usize = 48;

/// The bytes of a change of attributes.
const CHANGES_BYTES: usize = 36;

/// The bytes of a creation before the name.
const CREATION_BYTES: usize = 24;

pub(super) mod kind {
    pub(in crate::journal) const WRITE: u8 = 1;
    pub(in crate::journal) const DONE: u8 = 2;
    pub(in crate::journal) const FILE: u8 = 3;
    pub(in crate::journal) const ATTRIBUTES: u8 = 4;
    pub(in crate::journal) const CREATION: u8 = 5;
}

/// What the bytes of a [`Pending`](super::Pending) are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// Those of a write.
    Content,
    /// A change of attributes, to be read with [`attributes_of`].
    Attributes,
    /// The creation of the file, to be read with [`Creation::read`].
    Creation,
}

/// A file that is to be made, and opened by the handle of its record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Creation {
    pub(crate) parent: Ino,
    pub(crate) name: Name,
    pub(crate) mode: u16,
    pub(crate) flags: OpenFlags,
    pub(crate) caller: Caller,
}

impl Creation {
    pub(crate) fn bytes(&self) -> Bytes {
        let Caller { uid, gid, umask } = self.caller;
        let mut bytes = Vec::with_capacity(CREATION_BYTES + self.name.len());
        bytes.extend_from_slice(&self.parent.0.to_le_bytes());
        bytes.extend_from_slice(&uid.to_le_bytes());
        bytes.extend_from_slice(&gid.to_le_bytes());
        bytes.extend_from_slice(&self.mode.to_le_bytes());
        bytes.extend_from_slice(&umask.to_le_bytes());
        bytes.extend_from_slice(&[flag_bits(self.flags), 0, 0, 0]);
        bytes.extend_from_slice(&self.name);
        bytes.into()
    }

    /// What [`Creation::bytes`] has made; `None` of other bytes.
    pub(crate) fn read(bytes: &[u8]) -> Option<Creation> {
        let (head, name) = bytes.split_first_chunk::<CREATION_BYTES>()?;
        let word = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let short = |at: usize| u16::from_le_bytes([head[at], head[at + 1]]);
        let caller = Caller { uid: word(8), gid: word(12), umask: short(18) };
        let (mode, flags) = (short(16), flags_of(head[20]));
        Some(Creation { parent: Ino(number(head, 0)), name: name.into(), mode, flags, caller })
    }
}

/// What a write or a change of attributes is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) what: What,
    pub(crate) sequence: Sequence,
    pub(crate) request: RequestId,
    pub(crate) handle: HandleId,
    pub(crate) ino: Ino,
    pub(crate) offset: u64,
    pub(crate) clear_set_id: bool,
}

/// What is known of a file that has writes in the journal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Described {
    /// Which, and where it was last; an empty path is of a file without a name.
    pub(crate) place: Option<Place>,
    /// The content that the writes were for.
    pub(crate) content: Option<Content>,
}

impl Described {
    /// Takes in the bytes of a file's record. What it says counts, and not what was said before.
    pub(super) fn take(&mut self, flags: u8, bytes: &[u8]) {
        if bytes.len() < CONTENT_BYTES {
            return;
        }
        if flags & 1 != 0
            && let Ok(nanoseconds) = u32::try_from(number(bytes, 16))
        {
            let modified = Time { seconds: number(bytes, 8).cast_signed(), nanoseconds };
            self.content = Some(Content { size: number(bytes, 0), modified });
        }
        if flags & 2 != 0 && bytes.len() >= PLACE_BYTES {
            let (device, inode, birth) = (number(bytes, 24), number(bytes, 32), number(bytes, 40));
            let id = FileId { device, inode, birth };
            self.place = Some(Place { id, path: bytes[PLACE_BYTES..].into() });
        }
    }
}

pub(super) const NO_WRITE: Header = Header {
    what: What::Content,
    sequence: Sequence(0),
    request: RequestId(0),
    handle: HandleId(0),
    ino: Ino(0),
    offset: 0,
    clear_set_id: false,
};

impl Header {
    /// That of a record.
    pub(super) fn of(record: &[u8; RECORD_BYTES]) -> Header {
        let what = match record[16] {
            kind::ATTRIBUTES => What::Attributes,
            kind::CREATION => What::Creation,
            _ => What::Content,
        };
        Header {
            what,
            sequence: Sequence(number(record, 24)),
            request: RequestId(number(record, 32)),
            handle: HandleId(number(record, 40)),
            ino: Ino(number(record, 48)),
            offset: number(record, 56),
            clear_set_id: record[17] & 1 != 0,
        }
    }
}

/// The bytes of a change of attributes. A change of size is none of these: it is waited for.
pub(crate) fn bytes_of(changes: &AttributeChanges) -> Bytes {
    let AttributeChanges { uid, gid, mode, accessed, modified, .. } = *changes;
    let mut bits = u8::from(uid.is_some()) | u8::from(gid.is_some()) << 1 | u8::from(mode.is_some()) << 2;
    let mut times = [Time::default(); 2];
    for (number, (set, time)) in [accessed, modified].into_iter().zip(&mut times).enumerate() {
        bits |= match set {
            SetTime::Keep => 0,
            SetTime::Now => 0b11,
            SetTime::To(to) => {
                *time = to;
                0b01
            }
        } << (3 + 2 * number);
    }
    let mut bytes = Vec::with_capacity(CHANGES_BYTES);
    bytes.extend_from_slice(&[bits, 0]);
    bytes.extend_from_slice(&mode.unwrap_or(0).to_le_bytes());
    bytes.extend_from_slice(&uid.unwrap_or(0).to_le_bytes());
    bytes.extend_from_slice(&gid.unwrap_or(0).to_le_bytes());
    for Time { seconds, nanoseconds } in times {
        bytes.extend_from_slice(&nanoseconds.to_le_bytes());
        bytes.extend_from_slice(&seconds.to_le_bytes());
    }
    bytes.into()
}

/// What [`bytes_of`] has made these bytes of; nothing is changed by others.
pub(crate) fn attributes_of(header: &Header, bytes: &[u8]) -> AttributeChanges {
    let nothing = AttributeChanges::default();
    let Some(bytes) = bytes.first_chunk::<CHANGES_BYTES>() else { return nothing };
    let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let is_set = |bit: u8| bytes[0] & 1 << bit != 0;
    let time = |bit: u8, at: usize| match (is_set(bit), is_set(bit + 1)) {
        (false, _) => SetTime::Keep,
        (true, true) => SetTime::Now,
        (true, false) => {
            SetTime::To(Time { nanoseconds: word(at), seconds: number(bytes, at + 4).cast_signed() })
        }
    };
    AttributeChanges {
        uid: is_set(0).then(|| word(4)),
        gid: is_set(1).then(|| word(8)),
        mode: is_set(2).then(|| u16::from_le_bytes([bytes[2], bytes[3]])),
        accessed: time(3, 12),
        modified: time(5, 24),
        clear_set_id: header.clear_set_id,
        ..nothing
    }
}

/// A file's record, whole.
pub(super) fn file_record(epoch: u64, ino: Ino, content: Option<Content>, place: Option<&Place>) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(RECORD_BYTES + PLACE_BYTES);
    bytes.resize(RECORD_BYTES, 0);
    let Content { size, modified } = content.unwrap_or_default();
    let known = [size, modified.seconds.cast_unsigned(), modified.nanoseconds.into()];
    known.iter().for_each(|number| bytes.extend_from_slice(&number.to_le_bytes()));
    if let Some(Place { id: FileId { device, inode, birth }, path }) = place {
        [device, inode, birth].iter().for_each(|number| bytes.extend_from_slice(&number.to_le_bytes()));
        bytes.extend_from_slice(path);
    }
    let flags = u8::from(content.is_some()) | u8::from(place.is_some()) << 1;
    let header = Header { ino, ..NO_WRITE };
    let record = record(epoch, (kind::FILE, flags), &header, &bytes[RECORD_BYTES..]);
    bytes[..RECORD_BYTES].copy_from_slice(&record);
    bytes
}

pub(super) fn record(
    epoch: u64,
    (kind, flags): (u8, u8),
    header: &Header,
    bytes: &[u8],
) -> [u8; RECORD_BYTES] {
    let mut record = [0; RECORD_BYTES];
    record[4..8].copy_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes());
    record[8..16].copy_from_slice(&epoch.to_le_bytes());
    record[16] = kind;
    record[17] = flags;
    let Header { sequence, request, handle, ino, offset, .. } = *header;
    for (at, number) in [sequence.0, request.0, handle.0, ino.0, offset].into_iter().enumerate() {
        record[24 + at * 8..32 + at * 8].copy_from_slice(&number.to_le_bytes());
    }
    let checksum = checksum(&record, bytes);
    record[..4].copy_from_slice(&checksum);
    record
}

/// What the first bytes of a record are to be.
fn checksum(record: &[u8; RECORD_BYTES], bytes: &[u8]) -> [u8; 4] {
    let mut checksum = crc32fast::Hasher::new();
    checksum.update(&record[4..]);
    checksum.update(bytes);
    checksum.finalize().to_le_bytes()
}

pub(super) type Record = ([u8; RECORD_BYTES], Vec<u8>);

/// The next record of this epoch among at most `left` bytes, if there is a whole one.
pub(super) fn next_record(reader: &mut impl Read, epoch: u64, left: u64) -> io::Result<Option<Record>> {
    if left < RECORD_BYTES as u64 {
        return Ok(None);
    }
    let mut record = [0; RECORD_BYTES];
    reader.read_exact(&mut record)?;
    let length = u32::from_le_bytes([record[4], record[5], record[6], record[7]]) as usize;
    let is_whole = length <= WRITE_BYTES_MAX && length as u64 <= left - RECORD_BYTES as u64;
    if !is_whole || number(&record, 8) != epoch {
        return Ok(None);
    }
    let mut bytes = vec![0; length];
    reader.read_exact(&mut bytes)?;
    let is_right = record[..4] == checksum(&record, &bytes);
    Ok(is_right.then_some((record, bytes)))
}

pub(super) fn number(bytes: &[u8], at: usize) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(number)
}
