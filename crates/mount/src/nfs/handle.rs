//! File handles: what a client calls a file, for as long as the file exists.
//!
//! | offset | size | content |
//! |---|---|---|
//! | 0 | 4 | version of the format, 1, big endian |
//! | 4 | 8 | the key of the mount |
//! | 12 | 24 | the file: device, inode, birth, big endian |
//!
//! A handle holds nothing that a restart changes. The key tells the handles of one mount from those of another on the
//! same port; it is no secret that protects anything: whoever may connect may ask for any file of the mount, and a
//! handle can only name files that were found below its root.

use bytes::{Buf, BufMut, Bytes};
use nfs3_types::nfs3::{nfs_fh3, nfsstat3};
use nfs3_types::xdr_codec::Opaque;
use vfs::file::FileId;

use super::status::{Outcome, Refused};
use super::xdr::{Arguments, Garbage};

const VERSION: u32 = 1;
const BYTES: usize = 36;

/// The longest handle, by the protocol.
const BYTES_MAX: usize = 64;

/// A handle as a client sent it.
#[derive(Clone, Debug)]
pub struct Handle(Bytes);

impl Handle {
    /// Reads a handle.
    pub fn read(arguments: &mut Arguments) -> Result<Handle, Garbage> {
        arguments.opaque(BYTES_MAX).map(Handle)
    }

    /// Which file it names in the mount with this key.
    pub fn file(&self, key: u64) -> Outcome<FileId> {
        let mut bytes = self.0.clone();
        if bytes.len() != BYTES || bytes.get_u32() != VERSION {
            return Err(Refused(nfsstat3::NFS3ERR_BADHANDLE));
        }
        if bytes.get_u64() != key {
            return Err(Refused(nfsstat3::NFS3ERR_STALE));
        }
        Ok(FileId { device: bytes.get_u64(), inode: bytes.get_u64(), birth: bytes.get_u64() })
    }
}

/// The handle of `file` in the mount with this key.
pub fn encode(key: u64, file: FileId) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(BYTES);
    bytes.put_u32(VERSION);
    bytes.put_u64(key);
    bytes.put_u64(file.device);
    bytes.put_u64(file.inode);
    bytes.put_u64(file.birth);
    bytes
}

/// [`encode`] in the protocol's type.
pub fn handle(key: u64, file: FileId) -> nfs_fh3 {
    nfs_fh3 { data: Opaque::owned(encode(key, file)) }
}
