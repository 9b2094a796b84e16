//! Which files the kernel has open, in a file that outlives its writer.
//!
//! ```text
//! offset  size  each slot
//!      0     8  handle: the number of the request that opened the file; 0, nobody has the slot
//!      8     8  the file
//!     16     4  its backing file's id, if the kernel reads and writes it alone; otherwise 0
//!     20    12  zero
//! ```
//!
//! All numbers are little endian. A slot is written by one `write(2)` within a page, which the death of a process does not cut, before
//! the kernel has the handle; and is cleared when the kernel has let go of it. So a successor knows at least what the kernel has
//! open. It is of one mount: after a power cut there is none, and nothing is synced.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use rustix::io::Errno;
use store::node::Ino;

use crate::fuse::device::BackingId;

/// A power of two, so that no slot lies in two pages.
const SLOT_BYTES: usize = 32;

/// Files that are open at once: as many as Linux lets all processes of a user have in its usual configuration.
const HANDLES_MAX: u32 = 1 << 20;

/// An open file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Handle {
    pub(super) number: u64,
    pub(super) ino: Ino,
    /// What the kernel reads and writes instead of asking.
    pub(super) backing: Option<BackingId>,
}

/// The place of a handle in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Slot(u32);

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Handles {
    file: File,
    /// Below `next`, and nobody's. The lowest is given first, so that the file stays as short as it can.
    free: BinaryHeap<Reverse<Slot>>,
    next: u32,
}

impl Handles {
    /// Of a mount in which nothing is open.
    pub(super) fn begin(path: &Path) -> io::Result<Handles> {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(true).mode(0o600).open(path)?;
        Ok(Handles { file, free: BinaryHeap::new(), next: 0 })
    }

    /// Of a mount that a predecessor has served, and what is open in it.
    pub(super) fn resume(path: &Path) -> io::Result<(Handles, Vec<(Slot, Handle)>)> {
        let mut file = OpenOptions::new().read(true).write(true).open(path)?;
        let mut found = Vec::new();
        (&mut file).take(u64::from(HANDLES_MAX) * SLOT_BYTES as u64).read_to_end(&mut found)?;
        let (mut free, mut open) = (BinaryHeap::new(), Vec::new());
        let slots = found.chunks_exact(SLOT_BYTES);
        let next = slots.len() as u32;
        for (bytes, slot) in slots.zip((0..).map(Slot)) {
            match Handle::read(bytes) {
                Some(handle) => open.push((slot, handle)),
                None => free.push(Reverse(slot)),
            }
        }
        Ok((Handles { file, free, next }, open))
    }

    /// Notes a handle.
    pub(super) fn put(&mut self, handle: &Handle) -> Result<Slot, Errno> {
        let slot = match self.free.pop() {
            Some(Reverse(slot)) => slot,
            None if self.next == HANDLES_MAX => return Err(Errno::NFILE),
            None => {
                self.next += 1;
                Slot(self.next - 1)
            }
        };
        self.write(slot, &handle.bytes()).inspect_err(|_| self.free.push(Reverse(slot)))?;
        Ok(slot)
    }

    /// Forgets the handle in a slot. After an error the slot is nobody's, and is not used again.
    pub(super) fn clear(&mut self, slot: Slot) -> Result<(), Errno> {
        self.write(slot, &[0; SLOT_BYTES])?;
        self.free.push(Reverse(slot));
        Ok(())
    }

    fn write(&self, Slot(slot): Slot, bytes: &[u8; SLOT_BYTES]) -> Result<(), Errno> {
        let written = self.file.write_all_at(bytes, u64::from(slot) * SLOT_BYTES as u64);
        written.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
    }
}

impl Handle {
    fn bytes(&self) -> [u8; SLOT_BYTES] {
        let mut bytes = [0; SLOT_BYTES];
        bytes[..8].copy_from_slice(&self.number.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.ino.0.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.backing.map_or(0, BackingId::number).to_le_bytes());
        bytes
    }

    /// `None` if nobody has the slot.
    fn read(slot: &[u8]) -> Option<Handle> {
        let (number, rest) = slot.split_first_chunk()?;
        let (ino, rest) = rest.split_first_chunk()?;
        let (backing, _) = rest.split_first_chunk()?;
        let number = u64::from_le_bytes(*number);
        let backing = BackingId::of(i32::from_le_bytes(*backing));
        (number != 0).then_some(Handle { number, ino: Ino(u64::from_le_bytes(*ino)), backing })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handle(number: u64, backing: i32) -> Handle {
        Handle { number, ino: Ino(number * 10), backing: BackingId::of(backing) }
    }

    #[test]
    fn a_successor_knows_what_is_open_and_uses_what_is_free() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("handles");
        let mut handles = Handles::begin(&path).unwrap();
        let slots: Vec<Slot> = (1..=4).map(|number| handles.put(&handle(number, 0)).unwrap()).collect();
        handles.clear(slots[1]).unwrap();
        handles.clear(slots[0]).unwrap();
        assert_eq!(handles.put(&handle(5, 7)).unwrap(), slots[0], "the lowest that is free");
        drop(handles);
        let (mut handles, open) = Handles::resume(&path).unwrap();
        assert_eq!(open, [(slots[0], handle(5, 7)), (slots[2], handle(3, 0)), (slots[3], handle(4, 0))]);
        assert_eq!(handles.put(&handle(6, 0)).unwrap(), slots[1]);
        assert_eq!(handles.put(&handle(7, 0)).unwrap(), Slot(4));
    }

    #[test]
    fn a_record_that_says_anything_is_read() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("handles");
        std::fs::write(&path, [0xff; 3 * SLOT_BYTES + 5]).unwrap();
        let (_, open) = Handles::resume(&path).unwrap();
        assert_eq!(open.len(), 3);
        assert!(open.iter().all(|(_, handle)| handle.backing.is_none()), "no id is negative");
    }
}
