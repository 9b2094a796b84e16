//! A directory of this computer as a [`Source`], without leases, acting as this process's user.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, StatxFlags, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT};
use vfs::errno::{Errno, Result};
use vfs::file::{
    Allocation, AttributeChanges, Attributes, Caller, Entry, FileId, Kind, Lock, Name, OpenFlags, RenameMode,
    SeekFor, SetTime, Space, Time, WriteAt, XattrMode,
};
use vfs::source::{
    HandleId, Lease, Listed, Listing, NewNode, Opened, Page, Place, Removed, Renamed, Source, Target,
    WalkBudget, WalkFrom, WalkPage, Walking, Written,
};

/// Names in one page of a listing.
const PAGE_NAMES: usize = 100;

/// What a test may do to the source, and see of it.
#[derive(Debug, Default)]
pub struct Faults {
    /// Writes fail with `ENOSPC`.
    pub full: AtomicBool,
    /// Looking a name up panics.
    pub panics: AtomicBool,
    /// How many files are open.
    pub open: AtomicUsize,
    /// How often something was synced.
    pub syncs: AtomicUsize,
}

/// See the module's documentation.
pub struct Disk {
    root: PathBuf,
    files: Mutex<HashMap<HandleId, Arc<File>>>,
    pub faults: Arc<Faults>,
}

impl Disk {
    pub fn new(root: &Path) -> (Disk, Entry) {
        let disk = Disk { root: root.to_path_buf(), files: Mutex::default(), faults: Arc::default() };
        let entry = entry_at(root).unwrap();
        (disk, entry)
    }

    /// Where the place is, if the file with its identity is there.
    fn path(&self, place: &Place) -> Result<PathBuf> {
        let path = self.root.join(OsStr::from_bytes(&place.path));
        match entry_at(&path) {
            Ok(entry) if entry.id == place.id => Ok(path),
            Ok(_) | Err(Errno::ENOENT | Errno::ENOTDIR) => Err(Errno::ESTALE),
            Err(errno) => Err(errno),
        }
    }

    fn below(&self, directory: &Place, name: &Name) -> Result<PathBuf> {
        Ok(self.path(directory)?.join(OsStr::from_bytes(name)))
    }

    fn file(&self, handle: HandleId) -> Result<Arc<File>> {
        self.files.lock().get(&handle).cloned().ok_or(Errno::EBADF)
    }

    fn opened(&self, handle: HandleId, file: File, inline: u32) -> Result<Opened> {
        let entry = entry_of(&file)?;
        let mut content = BytesMut::zeroed(inline as usize);
        let mut length = 0;
        while length < content.len() {
            match file.read_at(&mut content[length..], length as u64).map_err(of)? {
                0 => break,
                n => length += n,
            }
        }
        content.truncate(length);
        let whole = inline > 0 && length as u64 == entry.attributes.size;
        self.files.lock().insert(handle, Arc::new(file));
        self.faults.open.fetch_add(1, Ordering::SeqCst);
        Ok(Opened { entry, content: content.freeze(), whole, directory: None, is_own: false, is_new: false })
    }

    fn entry(&self, target: &Target) -> Result<Entry> {
        match target {
            Target::Place(place) => entry_at(&self.path(place)?),
            Target::Handle(handle) => entry_of(&*self.file(*handle)?),
        }
    }

    fn removed(&self, directory: &Place, entry: Entry) -> Result<Removed> {
        let directory = entry_at(&self.path(directory)?)?.attributes;
        let mut attributes = entry.attributes;
        attributes.links -= 1;
        let entry = (attributes.links > 0).then_some(Entry { id: entry.id, attributes });
        Ok(Removed { entry, directory })
    }

    fn change(&self, target: &Target, changes: &AttributeChanges) -> Result<Entry> {
        let path = match target {
            Target::Place(place) => self.path(place)?,
            Target::Handle(handle) => {
                let file = self.file(*handle)?;
                PathBuf::from(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&*file)))
            }
        };
        let follow = matches!(target, Target::Handle(_));
        if let Some(size) = changes.size {
            match target {
                Target::Handle(handle) => self.file(*handle)?.set_len(size).map_err(of)?,
                Target::Place(_) => {
                    File::options().write(true).open(&path).and_then(|f| f.set_len(size)).map_err(of)?
                }
            }
        }
        let flags = if follow { AtFlags::empty() } else { AtFlags::SYMLINK_NOFOLLOW };
        if changes.uid.is_some() || changes.gid.is_some() {
            let uid = changes.uid.map(rustix::fs::Uid::from_raw);
            let gid = changes.gid.map(rustix::fs::Gid::from_raw);
            rustix::fs::chownat(rustix::fs::CWD, &path, uid, gid, flags).map_err(no)?;
        }
        if let Some(mode) = changes.mode {
            rustix::fs::chmod(&path, Mode::from_raw_mode(mode.into())).map_err(no)?;
        }
        let time = |time| match time {
            SetTime::Keep => Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
            SetTime::Now => Timespec { tv_sec: 0, tv_nsec: UTIME_NOW },
            SetTime::To(time) => Timespec { tv_sec: time.seconds, tv_nsec: time.nanoseconds.into() },
        };
        let times =
            Timestamps { last_access: time(changes.accessed), last_modification: time(changes.modified) };
        rustix::fs::utimensat(rustix::fs::CWD, &path, &times, flags).map_err(no)?;
        self.entry(target)
    }
}

fn of(error: std::io::Error) -> Errno {
    error.raw_os_error().and_then(|number| u16::try_from(number).ok()).map_or(Errno::EIO, Errno)
}

fn no(errno: rustix::io::Errno) -> Errno {
    Errno(u16::try_from(errno.raw_os_error()).unwrap())
}

fn entry_at(path: &Path) -> Result<Entry> {
    statx(rustix::fs::CWD, path.as_os_str().as_bytes(), AtFlags::SYMLINK_NOFOLLOW)
}

fn entry_of(file: &File) -> Result<Entry> {
    statx(file, b"", AtFlags::EMPTY_PATH)
}

fn statx(at: impl std::os::fd::AsFd, path: &[u8], flags: AtFlags) -> Result<Entry> {
    let all = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
    let is = rustix::fs::statx(at, path, flags, all).map_err(no)?;
    let time = |t: rustix::fs::StatxTimestamp| Time { seconds: t.tv_sec, nanoseconds: t.tv_nsec };
    let birth =
        is.stx_btime.tv_sec.cast_unsigned().wrapping_mul(1_000_000_000) + u64::from(is.stx_btime.tv_nsec);
    let device = rustix::fs::makedev(is.stx_dev_major, is.stx_dev_minor);
    let kind = match FileType::from_raw_mode(is.stx_mode.into()) {
        FileType::Directory => Kind::Directory,
        FileType::Symlink => Kind::Symlink,
        FileType::Fifo => Kind::Fifo,
        FileType::Socket => Kind::Socket,
        FileType::CharacterDevice => Kind::CharDevice,
        FileType::BlockDevice => Kind::BlockDevice,
        _ => Kind::File,
    };
    let attributes = Attributes {
        kind,
        mode: is.stx_mode & 0o7777,
        links: is.stx_nlink,
        uid: is.stx_uid,
        gid: is.stx_gid,
        device: rustix::fs::makedev(is.stx_rdev_major, is.stx_rdev_minor),
        size: is.stx_size,
        blocks: is.stx_blocks,
        block_size: is.stx_blksize,
        accessed: time(is.stx_atime),
        modified: time(is.stx_mtime),
        changed: time(is.stx_ctime),
        xattrs: false,
    };
    Ok(Entry { id: FileId { device, inode: is.stx_ino, birth }, attributes })
}

fn mode(mode: u16) -> Mode {
    Mode::from_raw_mode(mode.into())
}

fn flags(of: OpenFlags) -> OFlags {
    let mut flags = match (of.read, of.write) {
        (_, false) => OFlags::RDONLY,
        (false, true) => OFlags::WRONLY,
        (true, true) => OFlags::RDWR,
    };
    flags.set(OFlags::APPEND, of.append);
    flags.set(OFlags::TRUNC, of.truncate);
    flags.set(OFlags::EXCL, of.exclusive);
    flags | OFlags::CLOEXEC | OFlags::NOFOLLOW
}

/// Pages still to come.
pub struct Pages(std::vec::IntoIter<Result<Page>>);

impl Listing for Pages {
    async fn next(&mut self) -> Result<Option<Page>> {
        self.0.next().transpose()
    }
}

fn pages(path: Result<PathBuf>, from: u64) -> Vec<Result<Page>> {
    let listed = path.and_then(|path| list(&path, from));
    let entries = match listed {
        Ok(entries) => entries,
        Err(errno) => return vec![Err(errno)],
    };
    let mut pages: Vec<_> = entries
        .chunks(PAGE_NAMES)
        .map(|entries| Page { entries: entries.to_vec(), end: false, lease: None, directory: None })
        .collect();
    match pages.last_mut() {
        Some(last) => last.end = true,
        None => pages.push(Page { entries: Vec::new(), end: true, lease: None, directory: None }),
    }
    pages.into_iter().map(Ok).collect()
}

fn list(path: &Path, from: u64) -> Result<Vec<Listed>> {
    let directory = File::open(path).map_err(of)?;
    rustix::fs::seek(&directory, rustix::fs::SeekFrom::Start(from)).map_err(no)?;
    let mut buffer = Vec::with_capacity(32 << 10);
    let mut raw = rustix::fs::RawDir::new(&directory, buffer.spare_capacity_mut());
    let mut entries = Vec::new();
    while let Some(entry) = raw.next() {
        let entry = entry.map_err(no)?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            let at = path.join(OsStr::from_bytes(name));
            entries.push(Listed {
                name: name.into(),
                entry: entry_at(&at).ok(),
                cookie: entry.next_entry_cookie(),
            });
        }
    }
    Ok(entries)
}

impl Walking for Pages {
    async fn next(&mut self) -> Result<Option<WalkPage>> {
        Ok(None)
    }
}

impl Source for Disk {
    type Listing = Pages;
    type Walk = Pages;

    async fn lookup(&self, directory: Place, name: Name) -> Result<(Option<Entry>, Option<Lease>)> {
        assert!(!self.faults.panics.load(Ordering::SeqCst), "a panic that the test asked for");
        match entry_at(&self.below(&directory, &name)?) {
            Ok(entry) => Ok((Some(entry), None)),
            Err(Errno::ENOENT) => Ok((None, None)),
            Err(errno) => Err(errno),
        }
    }

    async fn stat(&self, target: Target) -> Result<Entry> {
        self.entry(&target)
    }

    async fn set_attributes(&self, target: Target, changes: AttributeChanges) -> Result<Entry> {
        self.change(&target, &changes)
    }

    async fn read_link(&self, place: Place) -> Result<Bytes> {
        let contents = std::fs::read_link(self.path(&place)?).map_err(of)?;
        Ok(Bytes::copy_from_slice(contents.as_os_str().as_bytes()))
    }

    async fn symlink(&self, directory: Place, name: Name, contents: Bytes, _caller: Caller) -> Result<Entry> {
        let path = self.below(&directory, &name)?;
        rustix::fs::symlink(&*contents, &path).map_err(no)?;
        entry_at(&path)
    }

    async fn make_node(&self, directory: Place, name: Name, node: NewNode, _caller: Caller) -> Result<Entry> {
        let path = self.below(&directory, &name)?;
        let kind = match node.kind {
            Kind::Fifo => FileType::Fifo,
            Kind::Socket => FileType::Socket,
            Kind::CharDevice => FileType::CharacterDevice,
            Kind::BlockDevice => FileType::BlockDevice,
            _ => FileType::RegularFile,
        };
        rustix::fs::mknodat(rustix::fs::CWD, &path, kind, mode(node.mode), node.device).map_err(no)?;
        rustix::fs::chmod(&path, mode(node.mode)).map_err(no)?;
        entry_at(&path)
    }

    async fn make_directory(
        &self,
        directory: Place,
        name: Name,
        bits: u16,
        _caller: Caller,
    ) -> Result<Entry> {
        let path = self.below(&directory, &name)?;
        rustix::fs::mkdir(&path, mode(bits)).map_err(no)?;
        rustix::fs::chmod(&path, mode(bits)).map_err(no)?;
        entry_at(&path)
    }

    async fn unlink(&self, directory: Place, name: Name) -> Result<Removed> {
        let path = self.below(&directory, &name)?;
        let entry = entry_at(&path)?;
        rustix::fs::unlink(&path).map_err(no)?;
        self.removed(&directory, entry)
    }

    async fn remove_directory(&self, directory: Place, name: Name) -> Result<Removed> {
        let path = self.below(&directory, &name)?;
        let mut entry = entry_at(&path)?;
        rustix::fs::rmdir(&path).map_err(no)?;
        entry.attributes.links = 1;
        self.removed(&directory, entry)
    }

    async fn rename(&self, from: (Place, Name), to: (Place, Name), _mode: RenameMode) -> Result<Renamed> {
        let (old, new) = (self.below(&from.0, &from.1)?, self.below(&to.0, &to.1)?);
        rustix::fs::rename(&old, &new).map_err(no)?;
        let directory = |place| entry_at(&self.path(place)?).map(|entry| entry.attributes);
        Ok(Renamed { from: directory(&from.0)?, to: directory(&to.0)? })
    }

    async fn link(&self, target: Target, directory: Place, name: Name) -> Result<Entry> {
        let Target::Place(place) = target else { return Err(Errno::EOPNOTSUPP) };
        let path = self.below(&directory, &name)?;
        let (old, here) = (self.path(&place)?, rustix::fs::CWD);
        rustix::fs::linkat(here, &old, here, &path, AtFlags::empty()).map_err(no)?;
        entry_at(&path)
    }

    async fn open(
        &self,
        place: Place,
        how: OpenFlags,
        handle: HandleId,
        inline_bytes: u32,
    ) -> Result<Opened> {
        let file = rustix::fs::open(self.path(&place)?, flags(how), Mode::empty()).map_err(no)?;
        self.opened(handle, file.into(), inline_bytes)
    }

    async fn create(
        &self,
        directory: Place,
        name: Name,
        bits: u16,
        how: OpenFlags,
        handle: HandleId,
        _caller: Caller,
    ) -> Result<Opened> {
        let path = self.below(&directory, &name)?;
        let file = rustix::fs::open(&path, flags(how) | OFlags::CREATE, mode(bits)).map_err(no)?;
        rustix::fs::fchmod(&file, mode(bits)).map_err(no)?;
        self.opened(handle, file.into(), 0)
    }

    async fn create_unnamed(
        &self,
        _directory: Place,
        _mode: u16,
        _flags: OpenFlags,
        _handle: HandleId,
        _caller: Caller,
    ) -> Result<Opened> {
        Err(Errno::EOPNOTSUPP)
    }

    async fn read(&self, handle: HandleId, offset: u64, length: u32) -> Result<Bytes> {
        let file = self.file(handle)?;
        let mut bytes = BytesMut::zeroed(length as usize);
        let read = file.read_at(&mut bytes, offset).map_err(of)?;
        bytes.truncate(read);
        Ok(bytes.freeze())
    }

    async fn write(
        &self,
        handle: HandleId,
        at: WriteAt,
        bytes: Bytes,
        _clear_set_id: bool,
    ) -> Result<Written> {
        // So that writing behind is behind.
        tokio::task::yield_now().await;
        if self.faults.full.load(Ordering::SeqCst) {
            return Err(Errno::ENOSPC);
        }
        let WriteAt::Offset(offset) = at else { return Err(Errno::EOPNOTSUPP) };
        let file = self.file(handle)?;
        file.write_all_at(&bytes, offset).map_err(of)?;
        Ok(Written { bytes: bytes.len() as u64, attributes: entry_of(&file)?.attributes })
    }

    async fn sync(&self, _target: Target, _data_only: bool) -> Result<()> {
        self.faults.syncs.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    async fn close(&self, handle: HandleId) -> Result<()> {
        self.faults.open.fetch_sub(1, Ordering::SeqCst);
        self.files.lock().remove(&handle).map(|_| ()).ok_or(Errno::EBADF)
    }

    async fn allocate(&self, _: HandleId, _: Allocation, _: u64, _: u64) -> Result<Entry> {
        Err(Errno::EOPNOTSUPP)
    }

    async fn seek(&self, _: HandleId, _: u64, _: SeekFor) -> Result<u64> {
        Err(Errno::EOPNOTSUPP)
    }

    async fn copy_range(&self, _: (HandleId, u64), _: (HandleId, u64), _: u64) -> Result<Written> {
        Err(Errno::EOPNOTSUPP)
    }

    async fn space(&self, place: Place) -> Result<Space> {
        let space = rustix::fs::statvfs(self.path(&place)?).map_err(no)?;
        Ok(Space {
            block_size: u32::try_from(space.f_frsize).unwrap(),
            blocks: space.f_blocks,
            blocks_free: space.f_bfree,
            blocks_available: space.f_bavail,
            files: space.f_files,
            files_free: space.f_ffree,
            name_bytes: u32::try_from(space.f_namemax).unwrap(),
        })
    }

    async fn get_xattr(&self, _: Target, _: Bytes) -> Result<Bytes> {
        Err(Errno::ENODATA)
    }

    async fn set_xattr(&self, _: Target, _: Bytes, _: Bytes, _: XattrMode) -> Result<Entry> {
        Err(Errno::EOPNOTSUPP)
    }

    async fn list_xattrs(&self, _: Target) -> Result<Bytes> {
        Ok(Bytes::new())
    }

    async fn remove_xattr(&self, _: Target, _: Bytes) -> Result<Entry> {
        Err(Errno::EOPNOTSUPP)
    }

    async fn lock(&self, _: HandleId, _: u64, _: Lock, _: bool) -> Result<()> {
        Err(Errno::ENOLCK)
    }

    async fn test_lock(&self, _: HandleId, _: u64, _: Lock) -> Result<Option<(Lock, u32)>> {
        Err(Errno::ENOLCK)
    }

    async fn release_locks(&self, _: HandleId, _: u64) -> Result<()> {
        Ok(())
    }

    fn list(&self, directory: Place, from: u64) -> Pages {
        Pages(pages(self.path(&directory), from).into_iter())
    }

    fn walk(&self, _directory: Place, _from: WalkFrom, _budget: WalkBudget) -> Pages {
        Pages(Vec::new().into_iter())
    }
}
