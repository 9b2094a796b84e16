//! Files as a thread knows them.

use std::sync::Arc;

use crate::{Oid, Refusal};

/// As on every Linux file system.
pub const NAME_BYTES_MAX: usize = 255;

/// What a symlink may hold: `PATH_MAX` without its end.
pub const LINK_BYTES_MAX: usize = 4095;

/// Of one extended attribute, and of all of a file with their names: what Linux lets through, and keeps a file's attributes
/// well below a record of the log.
pub const XATTR_BYTES_MAX: usize = 64 << 10;

/// Names of one file: as ext4.
pub const LINKS_MAX: u32 = 65_000;

/// The number of a file, within a thread. Never of two files, also not one after the other, but after a power cut: then of
/// none that anybody was told had been synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ino(pub u64);

impl Ino {
    /// The thread's root.
    pub const ROOT: Ino = Ino(1);
}

/// Since 1970. The nanoseconds are below 10^9.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs, reason = "said above")]
pub struct Time {
    pub seconds: i64,
    pub nanoseconds: u32,
}

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Kind {
    File,
    Directory,
    Symlink,
    Fifo,
    Socket,
    CharDevice,
    BlockDevice,
}

/// What `stat` says. `size` is in bytes; `blocks` are of 512 bytes, as `stat` counts them. Whoever writes to a file that `is_written`
/// may do so without this crate: size and times are then those of the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Attributes {
    pub ino: Ino,
    pub kind: Kind,
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    pub links: u32,
    pub device: u64,
    pub size: u64,
    pub blocks: u64,
    pub accessed: Time,
    pub modified: Time,
    pub changed: Time,
    pub is_written: bool,
    /// Seen in the working copy: it may be otherwise, or gone, at any time.
    pub is_in_place: bool,
}

/// A name in a directory: bytes, none of them a slash or NUL.
pub type Name = Arc<[u8]>;

/// Whether a file can have this name.
pub fn check_name(name: &[u8]) -> Result<(), Refusal> {
    if name.len() > NAME_BYTES_MAX {
        return Err(Refusal::NameTooLong);
    }
    let is_name = !matches!(name, b"" | b"." | b"..") && !name.iter().any(|byte| matches!(byte, 0 | b'/'));
    if is_name { Ok(()) } else { Err(Refusal::Invalid) }
}

/// A file as the log says that it is. Of one that was written, size and times of the content are those of the plain file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) content: Content,
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Names. None: it is open, or was when its last name went.
    pub(crate) links: u32,
    pub(crate) device: u64,
    pub(crate) accessed: Time,
    pub(crate) modified: Time,
    pub(crate) changed: Time,
}

/// Where what is in a file comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    Directory,
    /// A blob of the base, of a file or a symlink.
    Base {
        is_link: bool,
        oid: Oid,
        size: u64,
    },
    /// A plain file of the thread, named by the number.
    Written,
    Symlink(Box<[u8]>),
    /// What is neither.
    Special(Kind),
    /// A file, directory or symlink of the working copy. What the log says of such a node is what was there when it was numbered.
    InPlace {
        below: Arc<InPlace>,
        size: u64,
    },
}

/// Where a file is seen, see [`in_place`](crate::thread).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct InPlace {
    pub(crate) kind: Kind,
    /// The directory of the thread that it is in, under the name by which it was found.
    pub(crate) directory: Ino,
    /// The number that the file system below has for it.
    pub(crate) number: u64,
    /// From the root of the working copy.
    pub(crate) path: Box<[u8]>,
}

impl Node {
    pub(crate) fn kind(&self) -> Kind {
        match &self.content {
            Content::Directory => Kind::Directory,
            Content::Base { is_link: true, .. } | Content::Symlink(_) => Kind::Symlink,
            Content::Base { .. } | Content::Written => Kind::File,
            Content::Special(kind) => *kind,
            Content::InPlace { below, .. } => below.kind,
        }
    }

    pub(crate) fn is_directory(&self) -> bool {
        self.kind() == Kind::Directory
    }

    /// Where it is seen, if it is not the thread's own.
    pub(crate) fn in_place(&self) -> Option<&Arc<InPlace>> {
        match &self.content {
            Content::InPlace { below, .. } => Some(below),
            _ => None,
        }
    }

    /// What is known without looking at a plain file.
    pub(crate) fn attributes(&self, ino: Ino) -> Attributes {
        let size = match &self.content {
            Content::Base { size, .. } | Content::InPlace { size, .. } => *size,
            Content::Symlink(target) => target.len() as u64,
            _ => 0,
        };
        let blocks = if self.kind() == Kind::File { size.div_ceil(512) } else { 0 };
        let Node { mode, uid, gid, links, device, accessed, modified, changed, .. } = *self;
        let (kind, is_written) = (self.kind(), self.content == Content::Written);
        let is_in_place = self.in_place().is_some();
        Attributes {
            ino,
            kind,
            mode,
            uid,
            gid,
            links,
            device,
            size,
            blocks,
            accessed,
            modified,
            changed,
            is_written,
            is_in_place,
        }
    }
}
