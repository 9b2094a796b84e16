//! Attributes, extended attributes and the space of a file system.

use rustix::buffer::spare_capacity;
use rustix::fs::{AtFlags, CWD, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;
use wire::agent::file::{AttributeChanges, FileReply, Kind, Place, SetTime, Space, Target, Time, XattrMode};

use crate::file::Found;
use crate::session::{Asked, Replied, Session, plain};

/// Enough for almost every value and list.
const XATTR_BYTES: usize = 1 << 10;

/// The longest value, and the longest list of names, that Linux knows.
const XATTR_BYTES_MAX: usize = 64 << 10;

const NANOSECONDS_PER_SECOND: u32 = 1_000_000_000;

impl Session {
    pub(crate) fn set_attributes(
        &self,
        asked: &Asked<'_>,
        target: &Target,
        changes: &AttributeChanges,
    ) -> Replied {
        self.export_to_change()?;
        let found = self.find(target)?;
        asked.hold(self.told.changing(&[], &[found.entry()?.id]));
        self.apply(&found, changes)?;
        plain(self.changed(found.entry()?))
    }

    /// Applies changes in their order.
    pub(crate) fn apply(&self, found: &Found, changes: &AttributeChanges) -> Result<(), Errno> {
        let times = timestamps(changes)?;
        self.privilege.clear_set_id(changes.clear_set_id)?;
        if let Some(size) = changes.size {
            set_size(found, size)?;
        }
        if changes.uid.is_some() || changes.gid.is_some() {
            set_owner(found, changes)?;
        }
        if let Some(mode) = changes.mode {
            // What the client's kernel has decided on set-id bits is carried out as it is.
            self.privilege.clear_set_id(false)?;
            set_mode(found, Mode::from_bits_truncate(u32::from(mode & 0o7777)))?;
        }
        if let Some(times) = times {
            set_times(found, &times)?;
        }
        Ok(())
    }

    pub(crate) fn space(&self, place: &Place) -> Replied {
        let (file, _) = self.export()?.find(place)?;
        let stat = rustix::fs::fstatvfs(&file)?;
        plain(FileReply::Space(Space {
            block_size: u32::try_from(stat.f_frsize).unwrap_or(u32::MAX),
            blocks: stat.f_blocks,
            blocks_free: stat.f_bfree,
            blocks_available: stat.f_bavail,
            files: stat.f_files,
            files_free: stat.f_ffree,
            name_bytes: u32::try_from(stat.f_namemax).unwrap_or(u32::MAX),
        }))
    }

    pub(crate) fn get_xattr(&self, target: &Target, name: &[u8]) -> Replied {
        let found = self.find(target)?;
        let value = read_growing(|value| match &found {
            Found::Path(..) => rustix::fs::getxattr(found.proc_path(), name, spare_capacity(value)),
            Found::Open(handle) => rustix::fs::fgetxattr(&handle.file, name, spare_capacity(value)),
        })?;
        Ok((FileReply::Data, value))
    }

    pub(crate) fn list_xattrs(&self, target: &Target) -> Replied {
        let found = self.find(target)?;
        let names = read_growing(|names| match &found {
            Found::Path(..) => rustix::fs::listxattr(found.proc_path(), spare_capacity(names)),
            Found::Open(handle) => rustix::fs::flistxattr(&handle.file, spare_capacity(names)),
        })?;
        Ok((FileReply::Data, names))
    }

    pub(crate) fn set_xattr(
        &self,
        asked: &Asked<'_>,
        target: &Target,
        name: &[u8],
        mode: XattrMode,
        value: &[u8],
    ) -> Replied {
        self.export_to_change()?;
        let found = self.find(target)?;
        asked.hold(self.told.changing(&[], &[found.entry()?.id]));
        let flags = match mode {
            XattrMode::Set => XattrFlags::empty(),
            XattrMode::Create => XattrFlags::CREATE,
            XattrMode::Replace => XattrFlags::REPLACE,
        };
        match &found {
            Found::Path(..) => rustix::fs::setxattr(found.proc_path(), name, value, flags)?,
            Found::Open(handle) => rustix::fs::fsetxattr(&handle.file, name, value, flags)?,
        }
        plain(self.changed(found.entry()?))
    }

    pub(crate) fn remove_xattr(&self, asked: &Asked<'_>, target: &Target, name: &[u8]) -> Replied {
        self.export_to_change()?;
        let found = self.find(target)?;
        asked.hold(self.told.changing(&[], &[found.entry()?.id]));
        match &found {
            Found::Path(..) => rustix::fs::removexattr(found.proc_path(), name)?,
            Found::Open(handle) => rustix::fs::fremovexattr(&handle.file, name)?,
        }
        plain(self.changed(found.entry()?))
    }
}

/// Reads into a small buffer, and into the largest there is need of when that is too small.
fn read_growing(read: impl Fn(&mut Vec<u8>) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    let mut bytes = Vec::with_capacity(XATTR_BYTES);
    match read(&mut bytes) {
        Err(Errno::RANGE) => {}
        result => return result.map(|_| bytes),
    }
    bytes.reserve_exact(XATTR_BYTES_MAX);
    read(&mut bytes)?;
    Ok(bytes)
}

fn set_size(found: &Found, size: u64) -> Result<(), Errno> {
    match found.kind() {
        Kind::File => {}
        Kind::Directory => return Err(Errno::ISDIR),
        _ => return Err(Errno::INVAL),
    }
    match found {
        Found::Open(handle) if handle.write => rustix::fs::ftruncate(&handle.file, size),
        _ => truncate(&found.proc_path(), size),
    }
}

fn truncate(path: &str, size: u64) -> Result<(), Errno> {
    let path = std::ffi::CString::new(path).map_err(|_| Errno::INVAL)?;
    let size = libc::off64_t::try_from(size).map_err(|_| Errno::FBIG)?;
    // SAFETY: the path is a string that ends with a NUL and lives through the call.
    match unsafe { libc::truncate64(path.as_ptr(), size) } {
        0 => Ok(()),
        _ => Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)),
    }
}

fn set_owner(found: &Found, changes: &AttributeChanges) -> Result<(), Errno> {
    // The highest number is how the call says "leave it".
    if changes.uid == Some(u32::MAX) || changes.gid == Some(u32::MAX) {
        return Err(Errno::INVAL);
    }
    let (uid, gid) = (changes.uid.map(Uid::from_raw), changes.gid.map(Gid::from_raw));
    match found {
        Found::Path(file, _) => rustix::fs::chownat(file, c"", uid, gid, AtFlags::EMPTY_PATH),
        Found::Open(handle) => rustix::fs::fchown(&handle.file, uid, gid),
    }
}

fn set_mode(found: &Found, mode: Mode) -> Result<(), Errno> {
    match found {
        Found::Path(_, Kind::Symlink) => Err(Errno::OPNOTSUPP),
        Found::Path(..) => rustix::fs::chmod(found.proc_path(), mode),
        Found::Open(handle) => rustix::fs::fchmod(&handle.file, mode),
    }
}

fn set_times(found: &Found, times: &Timestamps) -> Result<(), Errno> {
    match found {
        Found::Path(file, _) => {
            match rustix::fs::utimensat(file, c"", times, AtFlags::EMPTY_PATH) {
                // Before Linux 5.8 the call took no descriptor of a symlink.
                Err(Errno::INVAL | Errno::NOENT) => {
                    rustix::fs::utimensat(CWD, found.proc_path(), times, AtFlags::empty())
                }
                result => result,
            }
        }
        Found::Open(handle) => rustix::fs::futimens(&handle.file, times),
    }
}

fn timestamps(changes: &AttributeChanges) -> Result<Option<Timestamps>, Errno> {
    if (changes.accessed, changes.modified) == (SetTime::Keep, SetTime::Keep) {
        return Ok(None);
    }
    let last_access = timespec(changes.accessed)?;
    let last_modification = timespec(changes.modified)?;
    Ok(Some(Timestamps { last_access, last_modification }))
}

fn timespec(time: SetTime) -> Result<Timespec, Errno> {
    match time {
        SetTime::Keep => Ok(Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT }),
        SetTime::Now => Ok(Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW }),
        SetTime::To(Time { nanoseconds, .. }) if nanoseconds >= NANOSECONDS_PER_SECOND => Err(Errno::INVAL),
        SetTime::To(Time { seconds, nanoseconds }) => {
            Ok(Timespec { tv_sec: seconds, tv_nsec: nanoseconds.into() })
        }
    }
}
