//! A file in memory.

use std::fs::File;

use rustix::mm::{MapFlags, MsyncFlags, ProtFlags, mmap, msync, munmap};

/// A mapping of a file from its start.
pub struct Mapping {
    address: *mut u8,
    len: usize,
}

impl Mapping {
    #[track_caller]
    pub fn new(file: &File, len: usize, flags: MapFlags, access: ProtFlags) -> Mapping {
        Mapping::try_new(file, len, flags, access).expect("mapping a file")
    }

    pub fn try_new(
        file: &File,
        len: usize,
        flags: MapFlags,
        access: ProtFlags,
    ) -> rustix::io::Result<Mapping> {
        // SAFETY: the kernel chooses the address, so no memory in use is replaced.
        let address = unsafe { mmap(std::ptr::null_mut(), len, access, flags, file, 0) }?;
        Ok(Mapping { address: address.cast(), len })
    }

    /// Shared, to read and to write.
    #[track_caller]
    pub fn shared(file: &File, len: usize) -> Mapping {
        Mapping::new(file, len, MapFlags::SHARED, ProtFlags::READ | ProtFlags::WRITE)
    }

    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the range is mapped readable for as long as `self` lives. The tests change it from this thread
        // only, between two looks, and never look beyond the last page of the file.
        unsafe { std::slice::from_raw_parts(self.address, self.len) }
    }

    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as `bytes`, and the tests that write have mapped it writable.
        unsafe { std::slice::from_raw_parts_mut(self.address, self.len) }
    }

    #[track_caller]
    pub fn sync(&self) {
        // SAFETY: the range is this mapping.
        unsafe { msync(self.address.cast(), self.len, MsyncFlags::SYNC) }.expect("msync");
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range is this mapping, and nothing borrowed from it outlives `self`.
        unsafe { munmap(self.address.cast(), self.len) }.expect("munmap of an own mapping");
    }
}
