//! What is in files, and attributes that are set.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_OMIT, utimensat};

use super::{FILES, NEW, Thread};
use crate::error::fails;
use crate::log::sync_directory;
use crate::names::bytes_of;
use crate::names::change::Change;
use crate::node::{Attributes, Content, Ino, Kind, NAME_BYTES_MAX, Node, Time, XATTR_BYTES_MAX};
use crate::{Oid, Refusal, Result};

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// To be read. It may be written to by others, which is seen if it was written before.
    Read,
    /// To be read and written.
    Write,
    /// The same, and nothing is to be in it.
    Truncate,
}

/// What is to be set; `None` stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub struct AttributeChanges {
    pub mode: Option<u16>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub size: Option<u64>,
    pub accessed: Option<Time>,
    pub modified: Option<Time>,
}

/// Whether an extended attribute may or must be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum XattrMode {
    CreateOrReplace,
    Create,
    Replace,
}

/// As many bytes as there are.
pub(super) const ALL: u64 = u64::MAX;

impl Thread {
    /// A regular file's content. One that is open to be read while it is copied up goes on showing what it was: whoever serves the
    /// thread opens it again when it was [written](Thread::is_written).
    pub fn open_content(&self, ino: Ino, access: Access) -> Result<File> {
        loop {
            let node = self.locked().node(ino)?;
            match (&node.content, access) {
                (Content::Written, _) => return self.open_plain(ino, access),
                (Content::Base { is_link: false, oid, size }, Access::Read) => {
                    return self.open_below(oid, *size);
                }
                (Content::InPlace { below, .. }, Access::Read) if below.kind == Kind::File => {
                    return Ok(self.open_in_place(below)?.0);
                }
                (Content::Base { is_link: false, .. } | Content::InPlace { .. }, _)
                    if node.kind() == Kind::File =>
                {
                    self.copy_up(ino, if access == Access::Write { ALL } else { 0 })?;
                }
                _ if node.is_directory() => return Err(Refusal::IsDirectory.into()),
                _ => return Err(Refusal::Invalid.into()),
            }
        }
    }

    /// Whether a file's content is a plain file of the thread, and not the base's.
    pub fn is_written(&self, ino: Ino) -> Result<bool> {
        let locked = self.locked();
        // What is in place need not be looked at.
        if let Some(node) = locked.state.names.node(ino) {
            return Ok(node.content == Content::Written);
        }
        Ok(locked.node(ino)?.content == Content::Written)
    }

    /// The permission bits of a file.
    pub fn mode(&self, ino: Ino) -> Result<u16> {
        Ok(self.locked().node(ino)?.mode)
    }

    fn open_plain(&self, ino: Ino, access: Access) -> Result<File> {
        let path = self.plain(ino);
        let is_written = access != Access::Read;
        let mut options = OpenOptions::new();
        options.read(true).write(is_written).truncate(access == Access::Truncate);
        match options.open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            opened => return opened.map_err(fails("open", &path)),
        }
        // Gone meanwhile; or made, never synced, and the power went: then it is empty.
        let locked = self.locked();
        if locked.node(ino)?.content != Content::Written {
            return Err(Refusal::Stale.into());
        }
        tracing::warn!(path = %path.display(), "a content that was never synced is lost");
        let made = options.write(true).create(true).truncate(false).mode(0o600).open(&path);
        made.map_err(fails("make", &path))
    }

    fn open_below(&self, oid: &Oid, size: u64) -> Result<File> {
        self.blobs.get(oid, size, SystemTime::now(), |to, path| self.objects.write_blob(oid, size, to, path))
    }

    /// Makes a file of the base, or one that is seen in place, one that is written, with the first `kept` bytes of its content. Nothing is
    /// done if somebody was faster.
    pub(super) fn copy_up(&self, ino: Ino, kept: u64) -> Result<()> {
        let node = self.locked().node(ino)?;
        let is_below = matches!(node.content, Content::Base { is_link: false, .. } | Content::InPlace { .. });
        if !is_below || node.kind() != Kind::File {
            return Ok(());
        }
        let fresh = self.directory.join(NEW).join(self.copied.fetch_add(1, Ordering::Relaxed).to_string());
        let put = self.copy(&node, kept, &fresh).and_then(|()| self.put_in_place(ino, kept, &fresh));
        // It is in place, was not needed, or has failed.
        match std::fs::remove_file(&fresh) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::info!(path = %fresh.display(), %error, "a copy stays until the thread is opened again");
            }
            _ => {}
        }
        put
    }

    fn copy(&self, node: &Node, kept: u64, fresh: &Path) -> Result<()> {
        let made = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(fresh);
        let mut to = made.map_err(fails("make", fresh))?;
        if kept == 0 {
            return Ok(());
        }
        let (accessed, modified) = match &node.content {
            Content::Base { oid, size, .. } => {
                let mut from = self.open_below(oid, *size)?;
                copy_whole(&mut from, (kept, *size), &mut to, fresh)?;
                (node.accessed, node.modified)
            }
            Content::InPlace { below, .. } => {
                let copied = self.copy_in_place(below, kept, &mut to, fresh)?;
                (copied.accessed, copied.modified)
            }
            _ => return Err(Refusal::Invalid.into()),
        };
        set_times(fresh, Some(accessed), Some(modified))?;
        to.sync_all().map_err(fails("sync", fresh))
    }

    fn put_in_place(&self, ino: Ino, kept: u64, fresh: &Path) -> Result<()> {
        let mut locked = self.locked();
        let node = locked.node(ino)?;
        if node.content == Content::Written {
            return Ok(());
        }
        let path = self.plain(ino);
        std::fs::rename(fresh, &path).map_err(fails("put in place", &path))?;
        locked.state.made += 1;
        if kept > 0 {
            let files: PathBuf = self.directory.join(FILES);
            sync_directory(&files).map_err(fails("sync", &files))?;
        }
        let mut changes = Vec::new();
        if let Some(below) = node.in_place() {
            locked.pin(below.directory, &mut changes);
        }
        changes.push(Change::Node { ino, node: Node { content: Content::Written, ..node } });
        locked.commit(changes)
    }

    /// Sets attributes, and says what the file is then. Times of a file that was written are what the file system below can keep of
    /// them.
    pub fn set_attributes(&self, ino: Ino, changes: &AttributeChanges, now: Time) -> Result<Attributes> {
        if let Some(size) = changes.size {
            self.set_size(ino, size)?;
        } else {
            self.take_over(ino)?;
        }
        let times = changes.accessed.is_some() || changes.modified.is_some();
        if times && self.is_written(ino)? {
            // If the power has taken it, it is made again.
            drop(self.open_plain(ino, Access::Read)?);
        }
        let mut locked = self.locked();
        let node = locked.node(ino)?;
        let is_written = node.content == Content::Written;
        let recorded = changes.mode.is_some() || changes.uid.is_some() || changes.gid.is_some();
        if recorded || (times && !is_written) {
            let node = Node {
                mode: changes.mode.map_or(node.mode, |mode| mode & 0o7777),
                uid: changes.uid.unwrap_or(node.uid),
                gid: changes.gid.unwrap_or(node.gid),
                accessed: changes.accessed.unwrap_or(node.accessed),
                modified: changes.modified.unwrap_or(node.modified),
                changed: now,
                ..node
            };
            locked.commit(vec![Change::Node { ino, node }])?;
        }
        if times && is_written {
            // Under the lock, so that it does not go meanwhile.
            set_times(&self.plain(ino), changes.accessed, changes.modified)?;
        }
        drop(locked);
        self.attributes(ino)
    }

    fn set_size(&self, ino: Ino, size: u64) -> Result<()> {
        let node = self.locked().node(ino)?;
        if node.kind() == Kind::File {
            self.copy_up(ino, size)?;
        }
        let file = self.open_content(ino, Access::Write)?;
        file.set_len(size).map_err(fails("set the size of", &self.plain(ino)))
    }

    /// Sets an extended attribute.
    pub fn set_xattr(&self, ino: Ino, name: &[u8], value: &[u8], mode: XattrMode, now: Time) -> Result<()> {
        if name.is_empty() || name.contains(&0) {
            return Err(Refusal::Invalid.into());
        }
        if name.len() > NAME_BYTES_MAX || value.len() > XATTR_BYTES_MAX {
            return Err(Refusal::TooLarge.into());
        }
        self.take_over(ino)?;
        let mut locked = self.locked();
        let node = locked.node(ino)?;
        let xattrs = locked.state.names.xattrs(ino);
        let before = xattrs.and_then(|xattrs| xattrs.get(name));
        match (mode, before) {
            (XattrMode::Create, Some(_)) => return Err(Refusal::Taken.into()),
            (XattrMode::Replace, None) => return Err(Refusal::NoAttribute.into()),
            _ => {}
        }
        let freed = before.map_or(0, |before| name.len() + before.len());
        if xattrs.map_or(0, bytes_of) - freed + name.len() + value.len() > XATTR_BYTES_MAX {
            return Err(Refusal::NoSpace.into());
        }
        let changes = vec![
            Change::Node { ino, node: Node { changed: now, ..node } },
            Change::Xattr { ino, name: name.into(), value: value.into() },
        ];
        locked.conclude(changes, ino)
    }

    /// Takes an extended attribute away.
    pub fn remove_xattr(&self, ino: Ino, name: &[u8], now: Time) -> Result<()> {
        self.take_over(ino)?;
        let mut locked = self.locked();
        let node = locked.node(ino)?;
        let xattrs = locked.state.names.xattrs(ino);
        if !xattrs.is_some_and(|xattrs| xattrs.contains_key(name)) {
            return Err(Refusal::NoAttribute.into());
        }
        let changes = vec![
            Change::Node { ino, node: Node { changed: now, ..node } },
            Change::NoXattr { ino, name: name.into() },
        ];
        locked.conclude(changes, ino)
    }
}

/// Fills a file that is new, or was filled before, with the first `kept` of `size` bytes: shared, where the file system can.
pub(super) fn copy_whole(
    from: &mut File,
    (kept, size): (u64, u64),
    to: &mut File,
    path: &Path,
) -> Result<()> {
    let emptied = to.set_len(0).and_then(|()| to.rewind());
    emptied.map_err(fails("empty", path))?;
    if kept < size || !crate::system::share_blocks(to, from) {
        io::copy(&mut from.take(kept), to).map_err(fails("fill", path))?;
    }
    Ok(())
}

fn set_times(path: &Path, accessed: Option<Time>, modified: Option<Time>) -> Result<()> {
    let of = |time: Option<Time>| match time {
        Some(Time { seconds, nanoseconds }) => Timespec { tv_sec: seconds, tv_nsec: nanoseconds.into() },
        None => Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
    };
    let times = Timestamps { last_access: of(accessed), last_modification: of(modified) };
    utimensat(CWD, path, &times, AtFlags::empty()).map_err(|error| fails("date", path)(error.into()))
}
