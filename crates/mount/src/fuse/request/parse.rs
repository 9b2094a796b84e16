//! The layouts of [`abi`] become the types of [`super`]. Every length is checked before it is used.

use super::{
    CopyFileRange, CopyWidth, Create, Dialect, Extensions, Forgets, Ioctl, Lock, LockKind, Malformed,
    Operation, Read, Release, SetTime, Setattr, Timestamp, Write,
};
use crate::fuse::abi::{self, Layout, Opcode, darwin, fattr, flag};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

const NANOSECONDS_PER_SECOND: u32 = 1_000_000_000;

/// Everything after the header, by what the header says.
pub(super) fn body<'a>(
    raw: &abi::InHeader,
    bytes: &'a [u8],
    dialect: Dialect,
) -> Result<(Operation<'a>, Extensions<'a>), Malformed> {
    if raw.len as usize != bytes.len() {
        return Err(Malformed::Length { declared: raw.len, received: bytes.len() });
    }
    let Some(opcode) = Opcode::from_number(raw.opcode) else {
        return Ok((Operation::Unknown(raw.opcode), Extensions::default()));
    };
    let body = &bytes[size_of::<abi::InHeader>()..];
    let extension_bytes = match dialect.flavour.layout {
        Layout::Linux => usize::from(raw.total_extlen) * size_of::<u64>(),
        // The field is padding there.
        Layout::Darwin => 0,
    };
    let Some(split) = body.len().checked_sub(extension_bytes) else {
        return Err(Malformed::Payload { declared: extension_bytes as u64, available: body.len() });
    };
    let (body, extensions) = body.split_at(split);
    let extensions = parse_extensions(extensions)?;
    let mut body = Body(body);
    let operation = operation(opcode, &mut body, dialect)?;
    match dialect.flavour.layout {
        Layout::Linux if !body.0.is_empty() => Err(Malformed::Trailing(body.0.len())),
        // What that kernel may send besides is not published.
        Layout::Linux | Layout::Darwin => Ok((operation, extensions)),
    }
}

fn operation<'a>(opcode: Opcode, body: &mut Body<'a>, dialect: Dialect) -> Result<Operation<'a>, Malformed> {
    Ok(match opcode {
        Opcode::Lookup => Operation::Lookup { name: body.looked_up("name")? },
        Opcode::Forget => {
            Operation::Forget { lookups: body.fixed::<abi::ForgetIn>("fuse_forget_in")?.nlookup }
        }
        Opcode::BatchForget => {
            let fixed: abi::BatchForgetIn = body.fixed("fuse_batch_forget_in")?;
            let length = u64::from(fixed.count) * size_of::<abi::ForgetOne>() as u64;
            Operation::BatchForget(Forgets { rest: body.bytes(length)? })
        }
        Opcode::Getattr => {
            let fixed: abi::GetattrIn = body.fixed("fuse_getattr_in")?;
            Operation::Getattr { handle: given(fixed.getattr_flags, flag::GETATTR_FH, fixed.fh) }
        }
        Opcode::Statx => {
            let fixed: abi::StatxIn = body.fixed("fuse_statx_in")?;
            let handle = given(fixed.getattr_flags, flag::GETATTR_FH, fixed.fh);
            Operation::Statx { handle, flags: fixed.sx_flags, mask: fixed.sx_mask }
        }
        Opcode::Setattr => Operation::Setattr(match dialect.flavour.layout {
            Layout::Linux => setattr(&body.fixed("fuse_setattr_in")?)?,
            Layout::Darwin => darwin_setattr(&body.fixed("fuse_setattr_in")?)?,
        }),
        Opcode::Readlink => Operation::Readlink,
        Opcode::Statfs => Operation::Statfs,
        Opcode::Destroy => Operation::Destroy,
        Opcode::Syncfs => {
            body.ignore_rest();
            Operation::Syncfs
        }
        Opcode::Symlink => Operation::Symlink { name: body.name("name")?, target: body.string("target")? },
        Opcode::Mknod => {
            let fixed: abi::MknodIn = body.fixed("fuse_mknod_in")?;
            let name = body.name("name")?;
            let rdev = match dialect.flavour.layout {
                Layout::Linux => fixed.rdev,
                Layout::Darwin => darwin::device_there(fixed.rdev),
            };
            Operation::Mknod { name, mode: fixed.mode, rdev, umask: fixed.umask }
        }
        Opcode::Mkdir => {
            let fixed: abi::MkdirIn = body.fixed("fuse_mkdir_in")?;
            Operation::Mkdir { name: body.name("name")?, mode: fixed.mode, umask: fixed.umask }
        }
        Opcode::Unlink => Operation::Unlink { name: body.name("name")? },
        Opcode::Rmdir => Operation::Rmdir { name: body.name("name")? },
        Opcode::Rename => {
            let fixed: abi::RenameIn = body.fixed("fuse_rename_in")?;
            rename(body, fixed.newdir, 0)?
        }
        Opcode::Rename2 => {
            let fixed: abi::Rename2In = body.fixed("fuse_rename2_in")?;
            rename(body, fixed.newdir, fixed.flags)?
        }
        Opcode::Link => {
            let fixed: abi::LinkIn = body.fixed("fuse_link_in")?;
            Operation::Link { node: fixed.oldnodeid, new_name: body.name("new name")? }
        }
        Opcode::Create => Operation::Create(create(&body.fixed("fuse_create_in")?, body.name("name")?)),
        Opcode::Tmpfile => {
            let fixed = body.fixed("fuse_create_in")?;
            // The kernel puts the name of its unlinked dentry here, a slash.
            body.ignore_rest();
            Operation::Tmpfile(create(&fixed, b""))
        }
        Opcode::Open => {
            let fixed: abi::OpenIn = body.fixed("fuse_open_in")?;
            let kill_suid_sgid = fixed.open_flags & flag::OPEN_KILL_SUIDGID != 0;
            Operation::Open { flags: fixed.flags, kill_suid_sgid }
        }
        Opcode::Opendir => Operation::Opendir { flags: body.fixed::<abi::OpenIn>("fuse_open_in")?.flags },
        Opcode::Read => Operation::Read(read(&body.fixed("fuse_read_in")?)),
        Opcode::Readdir => Operation::Readdir(read(&body.fixed("fuse_read_in")?)),
        Opcode::Readdirplus => Operation::Readdirplus(read(&body.fixed("fuse_read_in")?)),
        Opcode::Write => Operation::Write(write(body)?),
        Opcode::Release => Operation::Release(release(&body.fixed("fuse_release_in")?)),
        Opcode::Releasedir => Operation::Releasedir(release(&body.fixed("fuse_release_in")?)),
        Opcode::Fsync => {
            let (handle, data_only) = fsync(&body.fixed("fuse_fsync_in")?);
            Operation::Fsync { handle, data_only }
        }
        Opcode::Fsyncdir => {
            let (handle, data_only) = fsync(&body.fixed("fuse_fsync_in")?);
            Operation::Fsyncdir { handle, data_only }
        }
        Opcode::Flush => {
            let fixed: abi::FlushIn = body.fixed("fuse_flush_in")?;
            Operation::Flush { handle: fixed.fh, lock_owner: fixed.lock_owner }
        }
        Opcode::Setxattr => setxattr(body, dialect)?,
        Opcode::Getxattr => {
            let (size, position) = getxattr(body, dialect)?;
            Operation::Getxattr { name: body.string("attribute name")?, size, position }
        }
        Opcode::Listxattr => Operation::Listxattr { size: getxattr(body, dialect)?.0 },
        Opcode::Removexattr => Operation::Removexattr { name: body.string("attribute name")? },
        Opcode::Init => {
            Operation::Init(body.growing("fuse_init_in", std::mem::offset_of!(abi::InitIn, flags2))?)
        }
        Opcode::Getlk => Operation::Getlk(lock(&body.fixed("fuse_lk_in")?)?),
        Opcode::Setlk => Operation::Setlk(lock(&body.fixed("fuse_lk_in")?)?),
        Opcode::Setlkw => Operation::Setlkw(lock(&body.fixed("fuse_lk_in")?)?),
        Opcode::Access => Operation::Access { mask: body.fixed::<abi::AccessIn>("fuse_access_in")?.mask },
        Opcode::Interrupt => {
            Operation::Interrupt { target: body.fixed::<abi::InterruptIn>("fuse_interrupt_in")?.unique }
        }
        Opcode::Bmap => {
            let fixed: abi::BmapIn = body.fixed("fuse_bmap_in")?;
            Operation::Bmap { block: fixed.block, block_size: fixed.blocksize }
        }
        Opcode::Ioctl => Operation::Ioctl(ioctl(body)?),
        Opcode::Poll => {
            let fixed: abi::PollIn = body.fixed("fuse_poll_in")?;
            Operation::Poll {
                handle: fixed.fh,
                kernel_handle: fixed.kh,
                events: fixed.events,
                schedule_notify: fixed.flags & flag::POLL_SCHEDULE_NOTIFY != 0,
            }
        }
        Opcode::NotifyReply => {
            let fixed: abi::NotifyRetrieveIn = body.fixed("fuse_notify_retrieve_in")?;
            Operation::NotifyReply { offset: fixed.offset, data: body.bytes(fixed.size.into())? }
        }
        Opcode::Fallocate => {
            let fixed: abi::FallocateIn = body.fixed("fuse_fallocate_in")?;
            Operation::Fallocate {
                handle: fixed.fh,
                offset: fixed.offset,
                length: fixed.length,
                mode: fixed.mode,
            }
        }
        Opcode::Lseek => {
            let fixed: abi::LseekIn = body.fixed("fuse_lseek_in")?;
            Operation::Lseek { handle: fixed.fh, offset: fixed.offset, whence: fixed.whence }
        }
        Opcode::CopyFileRange => Operation::CopyFileRange(copy(body, CopyWidth::Narrow)?),
        Opcode::CopyFileRange64 => Operation::CopyFileRange(copy(body, CopyWidth::Wide)?),
    })
}

fn given<T>(flags: u32, flag: u32, value: T) -> Option<T> {
    (flags & flag != 0).then_some(value)
}

fn timestamp(field: &'static str, seconds: u64, nanoseconds: u32) -> Result<Timestamp, Malformed> {
    if nanoseconds >= NANOSECONDS_PER_SECOND {
        return Err(Malformed::Range { field, value: nanoseconds.into() });
    }
    Ok(Timestamp { seconds: seconds.cast_signed(), nanoseconds })
}

fn setattr(fixed: &abi::SetattrIn) -> Result<Setattr, Malformed> {
    let valid = fixed.valid;
    let time = |field, set, now, seconds, nanoseconds| {
        if valid & now != 0 {
            return Ok(Some(SetTime::Now));
        }
        if valid & set == 0 {
            return Ok(None);
        }
        timestamp(field, seconds, nanoseconds).map(|time| Some(SetTime::At(time)))
    };
    let ctime = match valid & fattr::CTIME {
        0 => None,
        _ => Some(timestamp("ctime", fixed.ctime, fixed.ctimensec)?),
    };
    Ok(Setattr {
        handle: given(valid, fattr::FH, fixed.fh),
        lock_owner: given(valid, fattr::LOCKOWNER, fixed.lock_owner),
        mode: given(valid, fattr::MODE, fixed.mode),
        uid: given(valid, fattr::UID, fixed.uid),
        gid: given(valid, fattr::GID, fixed.gid),
        size: given(valid, fattr::SIZE, fixed.size),
        atime: time("atime", fattr::ATIME, fattr::ATIME_NOW, fixed.atime, fixed.atimensec)?,
        mtime: time("mtime", fattr::MTIME, fattr::MTIME_NOW, fixed.mtime, fixed.mtimensec)?,
        ctime,
        kill_suid_sgid: valid & fattr::KILL_SUIDGID != 0,
        file_flags: None,
    })
}

/// Of the times that only macOS has none is kept: no machine has them.
fn darwin_setattr(fixed: &darwin::SetattrIn) -> Result<Setattr, Malformed> {
    let valid = fixed.shared.valid;
    let shared = abi::SetattrIn { valid: valid & darwin::fattr::SHARED, ..fixed.shared };
    let file_flags = given(valid, darwin::fattr::FLAGS, fixed.flags);
    Ok(Setattr { file_flags, ..setattr(&shared)? })
}

fn rename<'a>(body: &mut Body<'a>, new_parent: u64, flags: u32) -> Result<Operation<'a>, Malformed> {
    let name = body.name("name")?;
    let new_name = body.name("new name")?;
    Ok(Operation::Rename { name, new_parent, new_name, flags })
}

fn create<'a>(fixed: &abi::CreateIn, name: &'a [u8]) -> Create<'a> {
    Create {
        name,
        flags: fixed.flags,
        mode: fixed.mode,
        umask: fixed.umask,
        kill_suid_sgid: fixed.open_flags & flag::OPEN_KILL_SUIDGID != 0,
    }
}

fn read(fixed: &abi::ReadIn) -> Read {
    Read {
        handle: fixed.fh,
        offset: fixed.offset,
        size: fixed.size,
        lock_owner: given(fixed.read_flags, flag::READ_LOCKOWNER, fixed.lock_owner),
        flags: fixed.flags,
    }
}

fn write<'a>(body: &mut Body<'a>) -> Result<Write<'a>, Malformed> {
    let fixed: abi::WriteIn = body.fixed("fuse_write_in")?;
    Ok(Write {
        handle: fixed.fh,
        offset: fixed.offset,
        data: body.bytes(fixed.size.into())?,
        lock_owner: given(fixed.write_flags, flag::WRITE_LOCKOWNER, fixed.lock_owner),
        flags: fixed.flags,
        from_cache: fixed.write_flags & flag::WRITE_CACHE != 0,
        kill_suid_sgid: fixed.write_flags & flag::WRITE_KILL_SUIDGID != 0,
    })
}

fn release(fixed: &abi::ReleaseIn) -> Release {
    Release {
        handle: fixed.fh,
        flags: fixed.flags,
        lock_owner: fixed.lock_owner,
        flush: fixed.release_flags & flag::RELEASE_FLUSH != 0,
        flock_unlock: fixed.release_flags & flag::RELEASE_FLOCK_UNLOCK != 0,
    }
}

fn fsync(fixed: &abi::FsyncIn) -> (u64, bool) {
    (fixed.fh, fixed.fsync_flags & flag::FSYNC_FDATASYNC != 0)
}

fn setxattr<'a>(body: &mut Body<'a>, dialect: Dialect) -> Result<Operation<'a>, Malformed> {
    let (fixed, position) = match (dialect.flavour.layout, dialect.setxattr_ext) {
        (Layout::Linux, true) => (body.fixed("fuse_setxattr_in")?, 0),
        (Layout::Linux, false) => {
            let compat: abi::SetxattrCompatIn = body.fixed("fuse_setxattr_in")?;
            (abi::SetxattrIn { size: compat.size, flags: compat.flags, ..Default::default() }, 0)
        }
        (Layout::Darwin, _) => {
            let own: darwin::SetxattrIn = body.fixed("fuse_setxattr_in")?;
            let fixed = abi::SetxattrIn { size: own.size, flags: own.flags, ..Default::default() };
            (fixed, own.position)
        }
    };
    Ok(Operation::Setxattr {
        name: body.string("attribute name")?,
        value: body.bytes(fixed.size.into())?,
        flags: fixed.flags,
        acl_kill_sgid: fixed.setxattr_flags & flag::SETXATTR_ACL_KILL_SGID != 0,
        position,
    })
}

/// How much is asked for, and from where on.
fn getxattr(body: &mut Body<'_>, dialect: Dialect) -> Result<(u32, u32), Malformed> {
    match dialect.flavour.layout {
        Layout::Linux => Ok((body.fixed::<abi::GetxattrIn>("fuse_getxattr_in")?.size, 0)),
        Layout::Darwin => {
            let own: darwin::GetxattrIn = body.fixed("fuse_getxattr_in")?;
            Ok((own.size, own.position))
        }
    }
}

fn lock(fixed: &abi::LkIn) -> Result<Lock, Malformed> {
    let kind = match fixed.lk.kind {
        0 => LockKind::Shared,
        1 => LockKind::Exclusive,
        2 => LockKind::Unlock,
        other => return Err(Malformed::Range { field: "lock type", value: other.into() }),
    };
    if fixed.lk.start > fixed.lk.end {
        return Err(Malformed::Range { field: "start of the lock", value: fixed.lk.start });
    }
    Ok(Lock {
        handle: fixed.fh,
        owner: fixed.owner,
        start: fixed.lk.start,
        end: fixed.lk.end,
        kind,
        pid: fixed.lk.pid,
        flock: fixed.lk_flags & flag::LK_FLOCK != 0,
    })
}

fn ioctl<'a>(body: &mut Body<'a>) -> Result<Ioctl<'a>, Malformed> {
    let fixed: abi::IoctlIn = body.fixed("fuse_ioctl_in")?;
    Ok(Ioctl {
        handle: fixed.fh,
        flags: fixed.flags,
        command: fixed.cmd,
        argument: fixed.arg,
        input: body.bytes(fixed.in_size.into())?,
        output_size: fixed.out_size,
    })
}

fn copy(body: &mut Body<'_>, width: CopyWidth) -> Result<CopyFileRange, Malformed> {
    let fixed: abi::CopyFileRangeIn = body.fixed("fuse_copy_file_range_in")?;
    Ok(CopyFileRange {
        handle: fixed.fh_in,
        offset: fixed.off_in,
        target_node: fixed.nodeid_out,
        target_handle: fixed.fh_out,
        target_offset: fixed.off_out,
        length: fixed.len,
        flags: fixed.flags,
        width,
    })
}

fn parse_extensions(mut bytes: &[u8]) -> Result<Extensions<'_>, Malformed> {
    let mut extensions = Extensions::default();
    while !bytes.is_empty() {
        let header: abi::ExtHeader = peek(bytes, "fuse_ext_header")?;
        let size = header.size as usize;
        let aligned = size.next_multiple_of(size_of::<u64>());
        if size < size_of::<abi::ExtHeader>() || aligned > bytes.len() {
            return Err(Malformed::Payload { declared: header.size.into(), available: bytes.len() });
        }
        let (this, rest) = bytes.split_at(aligned);
        if header.kind == abi::extension::GROUPS {
            extensions.groups = groups(&this[size_of::<abi::ExtHeader>()..size])?;
        }
        bytes = rest;
    }
    Ok(extensions)
}

/// `struct fuse_supp_groups`: a count, then that many ids.
fn groups(bytes: &[u8]) -> Result<&[u8], Malformed> {
    let mut body = Body(bytes);
    let count: u32 = body.fixed("fuse_supp_groups")?;
    body.bytes(u64::from(count) * size_of::<u32>() as u64)
}

pub(super) fn peek<T: FromBytes + KnownLayout + Immutable>(
    bytes: &[u8],
    layout: &'static str,
) -> Result<T, Malformed> {
    match T::read_from_prefix(bytes) {
        Ok((value, _)) => Ok(value),
        Err(_) => Err(Malformed::Short { layout, needed: size_of::<T>(), available: bytes.len() }),
    }
}

/// The part of a request that has not been read yet.
struct Body<'a>(&'a [u8]);

impl<'a> Body<'a> {
    fn fixed<T: FromBytes + KnownLayout + Immutable>(
        &mut self,
        layout: &'static str,
    ) -> Result<T, Malformed> {
        let value = peek(self.0, layout)?;
        self.0 = &self.0[size_of::<T>()..];
        Ok(value)
    }

    /// Reads what is there of a layout that older kernels send shorter, at least `needed` bytes, and zeros.
    fn growing<T>(&mut self, layout: &'static str, needed: usize) -> Result<T, Malformed>
    where
        T: FromBytes + IntoBytes + KnownLayout + Immutable,
    {
        if self.0.len() < needed {
            return Err(Malformed::Short { layout, needed, available: self.0.len() });
        }
        let mut value = T::new_zeroed();
        let present = self.0.len().min(size_of::<T>());
        value.as_mut_bytes()[..present].copy_from_slice(&self.0[..present]);
        self.0 = &[];
        Ok(value)
    }

    fn bytes(&mut self, length: u64) -> Result<&'a [u8], Malformed> {
        match usize::try_from(length).ok().and_then(|length| self.0.split_at_checked(length)) {
            Some((taken, rest)) => {
                self.0 = rest;
                Ok(taken)
            }
            None => Err(Malformed::Payload { declared: length, available: self.0.len() }),
        }
    }

    fn string(&mut self, what: &'static str) -> Result<&'a [u8], Malformed> {
        let end = self.0.iter().position(|&byte| byte == 0).ok_or(Malformed::Unterminated(what))?;
        let (string, rest) = self.0.split_at(end);
        self.0 = &rest[1..];
        if string.is_empty() {
            return Err(Malformed::Empty(what));
        }
        Ok(string)
    }

    /// A directory entry's name, `.` and `..` included.
    fn looked_up(&mut self, what: &'static str) -> Result<&'a [u8], Malformed> {
        let name = self.string(what)?;
        if name.contains(&b'/') {
            return Err(Malformed::NotAName(what));
        }
        Ok(name)
    }

    fn name(&mut self, what: &'static str) -> Result<&'a [u8], Malformed> {
        let name = self.looked_up(what)?;
        if name == b"." || name == b".." {
            return Err(Malformed::NotAName(what));
        }
        Ok(name)
    }

    /// Discards the rest of a message whose remaining fields are reserved or meaningless.
    fn ignore_rest(&mut self) {
        self.0 = &[];
    }
}
