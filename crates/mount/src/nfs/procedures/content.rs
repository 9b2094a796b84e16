//! Reading and writing files.

use std::sync::Arc;

use bytes::Bytes;
use nfs3_types::nfs3::{COMMIT3resok, WRITE3resok, nfsstat3, stable_how, writeverf3};
use vfs::errno::Errno;
use vfs::file::{Attributes, Kind, ThreadId};
use vfs::source::Source;
use vfs::vfs::WriteFrom;

use super::super::Server;
use super::super::handle::Handle;
use super::super::limits::TRANSFER_BYTES_MAX;
use super::super::nodes::Held;
use super::super::open_files::{For, OpenFile};
use super::super::permission::User;
use super::super::rpc::{Results, pack};
use super::super::status::{Outcome, Refused};
use super::FILE_BYTES_MAX;

impl<S: Source> Server<S> {
    pub(in super::super) async fn readlink(&self, link: &Handle) -> Outcome<Results> {
        let node = self.node(link).await?;
        if self.attributes(&node).await?.kind != Kind::Symlink {
            return Err(Refused(nfsstat3::NFS3ERR_INVAL));
        }
        let contents = self.vfs.read_link(node.ino).await?;
        let mut packed = Vec::new();
        pack(&nfsstat3::NFS3_OK, &mut packed);
        pack(&self.attributes_at_hand(&node), &mut packed);
        pack(&length(&contents), &mut packed);
        Ok(Results { packed, opaque: contents })
    }

    pub(in super::super) async fn read(
        &self,
        user: &User,
        file: &Handle,
        offset: u64,
        count: u32,
    ) -> Outcome<Results> {
        let node = self.node(file).await?;
        let before = self.file_attributes(&node).await?;
        self.served.permissions.check_read(user, &before)?;
        let count = count.min(TRANSFER_BYTES_MAX);
        let bytes = self.read_bytes(&node, offset, count).await?;
        let attributes = self.attributes(&node).await?;
        let end = offset.saturating_add(bytes.len() as u64);
        // A read comes short only at the end, wherever that is by now.
        let eof = bytes.len() < count as usize || end >= attributes.size;
        let mut packed = Vec::new();
        pack(&nfsstat3::NFS3_OK, &mut packed);
        pack(&self.some_attributes(node.id, &attributes), &mut packed);
        pack(&length(&bytes), &mut packed);
        pack(&eof, &mut packed);
        pack(&length(&bytes), &mut packed);
        Ok(Results { packed, opaque: bytes })
    }

    async fn read_bytes(&self, node: &Held<S>, offset: u64, count: u32) -> Outcome<Bytes> {
        if count == 0 || offset >= FILE_BYTES_MAX {
            return Ok(Bytes::new());
        }
        let open = self.files.hold(node.ino, For::Reading).await?;
        Ok(self.vfs.read(open.handle(), offset, count).await?)
    }

    /// The attributes of what must be a file.
    async fn file_attributes(&self, node: &Held<S>) -> Outcome<Attributes> {
        let attributes = match self.vfs.attributes_at_hand(node.ino) {
            Some(attributes) => attributes,
            // A write is under way, perhaps, and need not be waited for: kind, mode and owner are what counts.
            None if self.files.open(node.ino, For::Writing).is_some() => {
                self.vfs.last_attributes(node.ino)?
            }
            None => self.attributes(node).await?,
        };
        match attributes.kind {
            Kind::File => Ok(attributes),
            Kind::Directory => Err(Refused(nfsstat3::NFS3ERR_ISDIR)),
            _ => Err(Refused(nfsstat3::NFS3ERR_INVAL)),
        }
    }

    pub(in super::super) async fn write(
        &self,
        user: &User,
        file: &Handle,
        offset: u64,
        bytes: Bytes,
        stable: stable_how,
    ) -> Outcome<WRITE3resok> {
        let node = self.node(file).await?;
        let before = self.file_attributes(&node).await?;
        self.served.permissions.check_write(user, &before)?;
        if offset.checked_add(bytes.len() as u64).is_none_or(|end| end > FILE_BYTES_MAX) {
            return Err(Errno::EFBIG.into());
        }
        let open = self.files.hold(node.ino, For::Writing).await?;
        self.tell_lost(&node)?;
        let clear_set_id = user.uid != 0;
        let count = self
            .vfs
            .write(open.handle(), offset, bytes, WriteFrom::Caller(ThreadId::UNKNOWN), clear_set_id)
            .await?;
        open.written();
        let committed = match stable {
            stable_how::UNSTABLE => stable_how::UNSTABLE,
            stable_how::DATA_SYNC | stable_how::FILE_SYNC => {
                open.sync(stable == stable_how::DATA_SYNC).await?;
                stable
            }
        };
        Ok(WRITE3resok {
            // Left out while writes are under way: waiting for them would be one round trip for each.
            file_wcc: self.after(&node),
            count,
            committed,
            verf: writeverf3(self.write_verifier),
        })
    }

    pub(in super::super) async fn commit(&self, user: &User, file: &Handle) -> Outcome<COMMIT3resok> {
        let node = self.node(file).await?;
        let before = self.file_attributes(&node).await?;
        self.served.permissions.check_write(user, &before)?;
        let synced = match self.open_for_sync(&node).await {
            Ok(open) => open.sync(false).await,
            Err(errno) => Err(errno),
        };
        self.tell_lost(&node)?;
        synced?;
        Ok(COMMIT3resok { file_wcc: self.after(&node), verf: writeverf3(self.write_verifier) })
    }

    /// The file, open for anything: writing if it is so already.
    async fn open_for_sync(&self, node: &Held<S>) -> Result<Arc<OpenFile<S>>, Errno> {
        if let Some(open) = self.files.open(node.ino, For::Writing) {
            return Ok(open);
        }
        match self.files.hold(node.ino, For::Reading).await {
            Err(Errno::EACCES) => self.files.hold(node.ino, For::Writing).await,
            outcome => outcome,
        }
    }

    /// Fails if a write of the file was lost after it was answered.
    fn tell_lost(&self, node: &Held<S>) -> Outcome<()> {
        match self.files.lost(node.id) {
            Some(errno) => Err(errno.into()),
            None => Ok(()),
        }
    }
}

fn length(bytes: &Bytes) -> u32 {
    u32::try_from(bytes.len()).expect("no more than TRANSFER_BYTES_MAX was asked for")
}
