//! Page-aligned memory that requests are read into, used again and again.
//!
//! A buffer is as large as the largest message, 1 MiB and a page, and all of it is there before the kernel is asked for
//! a message: a process that is killed while the kernel has to find pages for one fails the request of whoever waits with
//! `EIO`, while one that has them leaves the request to its successor. [`PooledBuffer::freeze`] turns a message into
//! shared [`Bytes`], so that a WRITE's payload can outlive the thread that read it; the buffer goes back to its pool when
//! the last slice is dropped.

use bytes::Bytes;
use parking_lot::Mutex;
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use std::ops::{Deref, DerefMut};
use std::ptr::{self, NonNull};
use std::sync::Arc;

/// Room before the payload: the headers of a WRITE are 80 bytes, and the payload of a message without one
/// (two names of a rename) is far below a page.
pub const HEADER_BYTES: usize = 4096;

/// The largest extended attribute Linux has (`XATTR_SIZE_MAX`): a SETXATTR must fit even if `max_write` is
/// smaller.
const XATTR_BYTES_MAX: usize = 64 << 10;

/// All of a mapping is there at once.
#[cfg(target_os = "linux")]
const POPULATED: MapFlags = MapFlags::POPULATE;
/// There is no such flag, and no successor that a request is left to.
#[cfg(not(target_os = "linux"))]
const POPULATED: MapFlags = MapFlags::empty();

/// Buffers that a pool keeps for later. More than the threads that read at once plus the writes that are
/// usually on their way; what is above is given back to the system.
pub const IDLE_BUFFERS_MAX: usize = 16;

/// Memory for one message.
#[derive(Debug)]
pub struct Buffer {
    start: NonNull<u8>,
    capacity: usize,
    filled: usize,
}

// SAFETY: the mapping belongs to this value alone and is tied to no thread.
unsafe impl Send for Buffer {}
// SAFETY: a shared reference gives read access only.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// Large enough for every message of a mount with this `max_write`.
    pub fn for_max_write(max_write: u32) -> Result<Self, Errno> {
        Self::with_capacity(capacity_for(max_write))
    }

    fn with_capacity(capacity: usize) -> Result<Self, Errno> {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        let flags = MapFlags::PRIVATE | POPULATED;
        // SAFETY: a new anonymous mapping at an address that the kernel picks overlaps nothing.
        let start = unsafe { mmap_anonymous(ptr::null_mut(), capacity, access, flags)? };
        let start = NonNull::new(start.cast()).ok_or(Errno::NOMEM)?;
        Ok(Self { start, capacity, filled: 0 })
    }

    /// The message read last; empty before the first.
    pub fn message(&self) -> &[u8] {
        &self.space()[..self.filled]
    }

    fn space(&self) -> &[u8] {
        // SAFETY: the mapping is `capacity` bytes, zeroed by the kernel, and lives as long as `self`.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.capacity) }
    }

    /// All of it, to be read into.
    pub(super) fn space_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `space`; the exclusive borrow of `self` is the only way to the mapping.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.capacity) }
    }

    /// Says how much of it the last read filled.
    pub(super) fn set_filled(&mut self, bytes: usize) {
        self.filled = bytes.min(self.capacity);
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: `start` and `capacity` are what `mmap_anonymous` returned and took, and nothing borrows
        // from it.
        if let Err(errno) = unsafe { munmap(self.start.as_ptr().cast(), self.capacity) } {
            tracing::error!(%errno, bytes = self.capacity, "could not unmap a request buffer");
        }
    }
}

fn capacity_for(max_write: u32) -> usize {
    ((max_write as usize).max(XATTR_BYTES_MAX) + HEADER_BYTES).next_multiple_of(HEADER_BYTES)
}

/// Buffers of one size, for all threads of a mount.
#[derive(Debug)]
pub struct BufferPool {
    capacity: usize,
    idle: Mutex<Vec<Buffer>>,
}

impl BufferPool {
    /// For a mount with this `max_write`.
    pub fn for_max_write(max_write: u32) -> Arc<Self> {
        Arc::new(Self { capacity: capacity_for(max_write), idle: Mutex::default() })
    }

    /// An idle buffer, or a new one. How many are out at once is bounded by the requests in progress, that is
    /// by `max_background` and the number of threads that wait on the mount.
    pub fn take(self: &Arc<Self>) -> Result<PooledBuffer, Errno> {
        let idle = self.idle.lock().pop();
        let buffer = match idle {
            Some(buffer) => buffer,
            None => Buffer::with_capacity(self.capacity)?,
        };
        Ok(PooledBuffer { buffer: Some(buffer), pool: Arc::clone(self) })
    }

    fn put(&self, mut buffer: Buffer) {
        buffer.set_filled(0);
        let mut idle = self.idle.lock();
        if idle.len() < IDLE_BUFFERS_MAX {
            idle.push(buffer);
        }
    }
}

/// A buffer that goes back to its pool.
#[derive(Debug)]
pub struct PooledBuffer {
    /// `None` only while it is being dropped.
    buffer: Option<Buffer>,
    pool: Arc<BufferPool>,
}

impl PooledBuffer {
    /// The message as shared bytes. Parse them, and keep a payload with [`Bytes::slice_ref`].
    pub fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl Deref for PooledBuffer {
    type Target = Buffer;
    fn deref(&self) -> &Buffer {
        self.buffer.as_ref().expect("the buffer is taken in drop only")
    }
}

impl DerefMut for PooledBuffer {
    fn deref_mut(&mut self) -> &mut Buffer {
        self.buffer.as_mut().expect("the buffer is taken in drop only")
    }
}

impl AsRef<[u8]> for PooledBuffer {
    fn as_ref(&self) -> &[u8] {
        self.message()
    }
}

impl Drop for PooledBuffer {
    fn drop(&mut self) {
        if let Some(buffer) = self.buffer.take() {
            self.pool.put(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frozen_message_holds_its_buffer_until_the_last_slice_is_gone() {
        let pool = BufferPool::for_max_write(4096);
        let mut buffer = pool.take().unwrap();
        buffer.space_mut()[..5].copy_from_slice(b"hello");
        buffer.set_filled(5);
        let message = buffer.freeze();
        let tail = message.slice_ref(&message[1..]);
        drop(message);
        assert!(pool.idle.lock().is_empty());
        assert_eq!(&tail[..], b"ello");
        drop(tail);
        assert_eq!(pool.idle.lock().len(), 1);
        assert!(pool.take().unwrap().message().is_empty());
    }

    #[test]
    fn a_pool_keeps_a_bounded_number_of_idle_buffers() {
        let pool = BufferPool::for_max_write(4096);
        let out: Vec<_> = (0..IDLE_BUFFERS_MAX + 4).map(|_| pool.take().unwrap()).collect();
        drop(out);
        assert_eq!(pool.idle.lock().len(), IDLE_BUFFERS_MAX);
    }

    #[test]
    fn a_buffer_takes_the_largest_write_and_starts_at_a_page() {
        let buffer = Buffer::for_max_write(1 << 20).unwrap();
        assert_eq!(buffer.start.as_ptr() as usize % 4096, 0);
        assert_eq!(buffer.capacity, (1 << 20) + HEADER_BYTES);
    }
}
