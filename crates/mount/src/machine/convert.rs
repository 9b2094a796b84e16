//! The same things in the words of `wire` and of `vfs`, which know nothing of each other.

use vfs::errno::{Errno, Result};
use vfs::{file, source};
use wire::agent;
use wire::agent::file as far;
use wire::agent::name::{NameError, RelativePath};

/// Says a thing of `wire`'s in the words of `vfs`.
pub(super) trait Near<T> {
    fn near(self) -> T;
}

/// Says a thing of `vfs`'s in the words of `wire`. Fails for names that cannot travel.
pub(super) trait Far<T> {
    fn far(self) -> Result<T>;
}

/// Names and paths.
pub(super) mod near {
    use super::*;

    fn errno(error: NameError) -> Errno {
        match error {
            NameError::Empty => Errno::ENOENT,
            NameError::TooLong => Errno::ENAMETOOLONG,
            NameError::Forbidden | NameError::Dots => Errno::EINVAL,
        }
    }

    pub(in super::super) fn name(name: &file::Name) -> Result<agent::name::Name> {
        agent::name::Name::new(name.as_ref()).map_err(errno)
    }

    pub(in super::super) fn path(path: Box<[u8]>) -> Result<RelativePath> {
        RelativePath::new(path).map_err(errno)
    }
}

/// Structures with the same fields.
macro_rules! fields {
    ($far:path => $near:path { $($field:ident),+ $(; $($inner:ident),+)? }) => {
        impl Near<$near> for $far {
            fn near(self) -> $near {
                type Near = $near;
                Near { $($field: self.$field,)+ $($($inner: self.$inner.near(),)+)? }
            }
        }
    };
}

macro_rules! fields_back {
    ($near:path => $far:path { $($field:ident),+ $(; $($inner:ident),+)? }) => {
        impl Far<$far> for $near {
            fn far(self) -> Result<$far> {
                type Far = $far;
                Ok(Far { $($field: self.$field,)+ $($($inner: self.$inner.far()?,)+)? })
            }
        }
    };
}

/// Choices with the same names.
macro_rules! choices {
    ($far:path | $near:path { $($choice:ident),+ }) => {
        impl Near<$near> for $far {
            fn near(self) -> $near {
                match self { $(<$far>::$choice => <$near>::$choice,)+ }
            }
        }

        impl Far<$far> for $near {
            fn far(self) -> Result<$far> {
                Ok(match self { $(<$near>::$choice => <$far>::$choice,)+ })
            }
        }
    };
}

fields!(far::FileId => file::FileId { device, inode, birth });
fields!(far::Time => file::Time { seconds, nanoseconds });
fields!(far::Lease => source::Lease { epoch, valid_ms });
fields!(far::Lock => file::Lock { start, end; family, kind });
fields!(far::Space => file::Space {
    block_size, blocks, blocks_free, blocks_available, files, files_free, name_bytes
});
fields!(far::Attributes => file::Attributes {
    mode, links, uid, gid, device, size, blocks, block_size, xattrs; kind, accessed, modified, changed
});

fields_back!(file::FileId => far::FileId { device, inode, birth });
fields_back!(file::Time => far::Time { seconds, nanoseconds });
fields_back!(file::Lock => far::Lock { start, end; family, kind });
fields_back!(file::Caller => far::Caller { uid, gid, umask });
fields_back!(file::OpenFlags => far::OpenFlags { read, write, append, truncate, sync, direct, exclusive });
fields_back!(file::AttributeChanges => far::AttributeChanges {
    size, uid, gid, mode, clear_set_id; accessed, modified
});

choices!(far::Kind | file::Kind { File, Directory, Symlink, Fifo, Socket, CharDevice, BlockDevice });
choices!(far::LockFamily | file::LockFamily { Flock, Posix });
choices!(far::LockKind | file::LockKind { Shared, Exclusive, Unlocked });
choices!(far::RenameMode | file::RenameMode { Replace, NoReplace, Exchange });
choices!(far::XattrMode | file::XattrMode { Set, Create, Replace });
choices!(far::SeekFor | file::SeekFor { Data, Hole });

fields_back!(source::WalkBudget => far::WalkBudget { entries, depth, file_bytes, content_bytes });

impl Far<far::WalkFrom> for source::WalkFrom {
    fn far(self) -> Result<far::WalkFrom> {
        Ok(match self {
            source::WalkFrom::Itself => far::WalkFrom::Itself,
            source::WalkFrom::Below(name) => far::WalkFrom::Below(near::name(&name)?),
        })
    }
}

impl Far<far::SetTime> for file::SetTime {
    fn far(self) -> Result<far::SetTime> {
        Ok(match self {
            file::SetTime::Keep => far::SetTime::Keep,
            file::SetTime::Now => far::SetTime::Now,
            file::SetTime::To(time) => far::SetTime::To(time.far()?),
        })
    }
}

impl Far<far::WriteAt> for file::WriteAt {
    fn far(self) -> Result<far::WriteAt> {
        Ok(match self {
            file::WriteAt::Offset(offset) => far::WriteAt::Offset(offset),
            file::WriteAt::End => far::WriteAt::End,
        })
    }
}

impl Far<far::Allocation> for file::Allocation {
    fn far(self) -> Result<far::Allocation> {
        Ok(match self {
            file::Allocation::Reserve { keep_size } => far::Allocation::Reserve { keep_size },
            file::Allocation::Punch => far::Allocation::Punch,
            file::Allocation::Zero { keep_size } => far::Allocation::Zero { keep_size },
            file::Allocation::Collapse => far::Allocation::Collapse,
            file::Allocation::Insert => far::Allocation::Insert,
        })
    }
}

impl Far<agent::HandleId> for source::HandleId {
    fn far(self) -> Result<agent::HandleId> {
        Ok(agent::HandleId(self.0))
    }
}

impl Far<far::Place> for source::Place {
    fn far(self) -> Result<far::Place> {
        Ok(far::Place { id: self.id.far()?, path: near::path(self.path)? })
    }
}

impl Far<far::Target> for source::Target {
    fn far(self) -> Result<far::Target> {
        Ok(match self {
            source::Target::Place(place) => far::Target::Place(place.far()?),
            source::Target::Handle(handle) => far::Target::Handle(handle.far()?),
        })
    }
}
