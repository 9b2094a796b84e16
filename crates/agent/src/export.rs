//! The exported tree: from a [`Place`] to a descriptor, never outside the root and never through a symlink.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use wire::agent::file::{Entry, FileId, Kind, LastLink, Place};
use wire::agent::name::{Name, RelativePath};

use crate::clock::Clock;
use crate::descriptors::Descriptors;
use crate::session::reopen;
use crate::stat;
use crate::sync::lock;

/// The longest piece of a path that is resolved in one call, below the kernel's `PATH_MAX` of 4096 with its NUL.
const PIECE_BYTES_MAX: usize = 4000;

/// How the kernel is told to stay beneath a directory.
const BENEATH: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);

/// How often a resolution is tried again that the kernel gave up because of a concurrent rename.
const RESOLVE_TRIES: usize = 16;

/// A root, and descriptors of directories beneath it by identity.
///
/// Descriptors of files are kept for moments only, and few: one of a removed file keeps its space in use. They are for
/// names that are replaced while they are used. On a disk a name is looked up and its file opened in one step; a client
/// asks twice, and may lose the file in between, again and again. So two sorts of files are found after their names have
/// become another's:
///
/// - one that the client itself has replaced, for what was on its way then;
/// - one that was looked up by a name which had just been found to be another's: the client is told so once, and its
///   second try is certain. It is for one opening, so that the next one sees what has been put there since.
pub(crate) struct Export {
    root: Arc<OwnedFd>,
    root_id: FileId,
    pub path: Vec<u8>,
    pub read_only: bool,
    directories: Mutex<Clock<FileId, Arc<OwnedFd>>>,
    files: Mutex<Files>,
    no_openat2: AtomicBool,
}

struct Files {
    kept: Clock<FileId, Kept>,
    /// Paths at which another file than the one that was meant was found.
    contested: Clock<RelativePath, ()>,
}

struct Kept {
    file: Arc<OwnedFd>,
    why: Why,
}

/// Why a file is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// The client has replaced it.
    Replaced,
    /// It was looked up by a contested name, this often more than it was opened.
    LookedUp(u32),
}

impl Export {
    /// Opens the directory at `path`, absolute or from `home`. Symlinks in it are followed. One that the user may not
    /// search is refused with `EACCES`; one that may be searched and not listed is exported as what it is.
    pub fn attach(
        path: &[u8],
        home: &[u8],
        read_only: bool,
        descriptors: &Descriptors,
    ) -> Result<Export, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = open_from(home, path, flags)?;
        // Naming a directory takes no right to it, but nothing beneath it is reached without the right to search it.
        rustix::fs::openat(&root, c".", flags, Mode::empty())?;
        let entry = stat::entry_of_path(&root)?;
        let path = rustix::fs::readlink(stat::proc_path(&root), Vec::new())?.into_bytes();
        let export = Export {
            root: Arc::new(root),
            root_id: entry.id,
            path,
            read_only,
            directories: Mutex::new(Clock::new(descriptors.directories_max)),
            files: Mutex::new(Files {
                kept: Clock::new(descriptors.files_max),
                contested: Clock::new(descriptors.files_max),
            }),
            no_openat2: AtomicBool::new(false),
        };
        Ok(export)
    }

    /// The root as it is now.
    pub fn root(&self) -> Result<Entry, Errno> {
        stat::entry_of_path(&self.root)
    }

    /// What is at `path`, absolute or from `home`, as any program would find it, and where that is beneath the root;
    /// `EXDEV` if it is not.
    pub fn locate(&self, path: &[u8], home: &[u8], last: LastLink) -> Result<(RelativePath, Entry), Errno> {
        let mut flags = OFlags::PATH | OFlags::CLOEXEC;
        flags.set(OFlags::NOFOLLOW, last == LastLink::Kept);
        let file = open_from(home, path, flags)?;
        let entry = stat::entry_of_path(&file)?;
        let found = rustix::fs::readlink(stat::proc_path(&file), Vec::new())?.into_bytes();
        let path = beneath(&self.path, &found).ok_or(Errno::XDEV)?;
        let path = RelativePath::new(path).map_err(|_| Errno::NAMETOOLONG)?;
        if entry.attributes.kind == Kind::Directory {
            lock(&self.directories).insert(entry.id, Arc::new(file));
        }
        Ok((path, entry))
    }

    /// An `O_PATH` descriptor of the directory at `place`.
    pub fn directory(&self, place: &Place) -> Result<Arc<OwnedFd>, Errno> {
        match self.find(place)? {
            (directory, Kind::Directory) => Ok(directory),
            _ => Err(Errno::NOTDIR),
        }
    }

    /// An `O_PATH` descriptor of the file at `place`, and what kind of file it is.
    pub fn find(&self, place: &Place) -> Result<(Arc<OwnedFd>, Kind), Errno> {
        if let Some(directory) = self.known(place.id) {
            return Ok((directory, Kind::Directory));
        }
        if place.path.is_root() {
            return Err(Errno::STALE);
        }
        match self.find_by_path(place) {
            Err(Errno::STALE) => self.find_kept(place),
            found => found,
        }
    }

    fn find_kept(&self, place: &Place) -> Result<(Arc<OwnedFd>, Kind), Errno> {
        let files = &mut *lock(&self.files);
        if let Some(kept) = files.kept.get(&place.id) {
            return Ok((kept.file.clone(), Kind::File));
        }
        files.contested.insert(place.path.clone(), ());
        Err(Errno::STALE)
    }

    fn find_by_path(&self, place: &Place) -> Result<(Arc<OwnedFd>, Kind), Errno> {
        let file = self.resolve(self.root.as_fd(), place.path.as_bytes()).map_err(gone_is_stale)?;
        let (id, kind) = stat::id_of(&file)?;
        if id != place.id {
            return Err(Errno::STALE);
        }
        let file = Arc::new(file);
        if kind == Kind::Directory {
            lock(&self.directories).insert(id, file.clone());
        }
        Ok((file, kind))
    }

    /// The directory's descriptor if there is one already.
    pub fn known(&self, id: FileId) -> Option<Arc<OwnedFd>> {
        if id == self.root_id {
            return Some(self.root.clone());
        }
        lock(&self.directories).get(&id).map(|directory| directory.clone())
    }

    /// Drops the descriptor of a directory that is gone.
    pub fn forget(&self, id: FileId) {
        lock(&self.directories).remove(&id);
    }

    /// Keeps a regular file for a moment.
    pub fn keep(&self, id: FileId, file: OwnedFd, why: Why) {
        let kept = &mut lock(&self.files).kept;
        let why = match (why, kept.get(&id).map(|before| before.why)) {
            (Why::LookedUp(more), Some(Why::LookedUp(times))) => Why::LookedUp(times.saturating_add(more)),
            (_, Some(Why::Replaced)) => Why::Replaced,
            (why, _) => why,
        };
        kept.insert(id, Kept { file: Arc::new(file), why });
        // What is new counts as used: it is not to go with the next look at the ages.
        kept.get(&id);
    }

    /// Whether the name was another file's than the one that was meant, a moment ago.
    pub fn is_contested(&self, directory: &RelativePath, name: &Name) -> bool {
        let contested = &mut lock(&self.files).contested;
        !contested.is_empty() && contested.get(&directory.join(name)).is_some()
    }

    /// A file was opened: what was kept for that goes, unless it was looked up for others too.
    pub fn opened(&self, id: FileId) {
        let kept = &mut lock(&self.files).kept;
        let Some(Kept { why: Why::LookedUp(times), .. }) = kept.get(&id) else { return };
        *times = times.saturating_sub(1);
        if *times == 0 {
            kept.remove(&id);
        }
    }

    /// Whether there is anything for [`Export::age_files`].
    pub fn has_files(&self) -> bool {
        let files = lock(&self.files);
        !files.kept.is_empty() || !files.contested.is_empty()
    }

    /// Drops what is kept of files and has not been used since the last time.
    pub fn age_files(&self) {
        let files = &mut *lock(&self.files);
        files.kept.age();
        files.contested.age();
    }

    /// Drops the descriptors of directories that have not been used since the last time: each keeps its file system from
    /// being unmounted, and a removed directory from being gone.
    pub fn age(&self) {
        lock(&self.directories).age();
    }

    /// An `O_PATH` descriptor of whatever is at a path beneath a directory of the export.
    pub fn resolve(&self, directory: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd, Errno> {
        let mut reached: Option<OwnedFd> = None;
        let mut rest = path;
        loop {
            let (piece, behind) = first_piece(rest);
            let from = reached.as_ref().map_or(directory, AsFd::as_fd);
            let file = self.open_beneath(from, piece)?;
            if behind.is_empty() {
                return Ok(file);
            }
            reached = Some(file);
            rest = behind;
        }
    }

    /// A regular file at a path beneath a directory of the export, opened for reading.
    pub fn open_to_read(&self, directory: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd, Errno> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = match path.len() <= PIECE_BYTES_MAX && !self.no_openat2.load(Ordering::Relaxed) {
            true => rustix::fs::openat2(directory, path, flags, Mode::empty(), BENEATH),
            false => Err(Errno::NOSYS),
        };
        let file = match file {
            Err(Errno::NOSYS | Errno::PERM | Errno::AGAIN) => {
                reopen(&self.resolve(directory, path)?, OFlags::RDONLY | OFlags::NONBLOCK)?
            }
            file => file?,
        };
        match stat::id_of(&file)? {
            (_, Kind::File) => Ok(file),
            _ => Err(Errno::INVAL),
        }
    }

    fn open_beneath(&self, from: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd, Errno> {
        if self.no_openat2.load(Ordering::Relaxed) {
            return descend(from, path);
        }
        // A symlink at the end is opened as itself, for all that NO_SYMLINKS says.
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        for _ in 0..RESOLVE_TRIES {
            match rustix::fs::openat2(from, path, flags, Mode::empty(), BENEATH) {
                Err(Errno::AGAIN) => {}
                // EPERM is what a seccomp filter that is older than the call says.
                Err(Errno::NOSYS | Errno::PERM) => {
                    self.no_openat2.store(true, Ordering::Relaxed);
                    return descend(from, path);
                }
                result => return result,
            }
        }
        Err(Errno::AGAIN)
    }
}

/// Opens a path, absolute or from `home`.
fn open_from(home: &[u8], path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    if path.starts_with(b"/") {
        return rustix::fs::openat(CWD, path, flags, Mode::empty());
    }
    let searched = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let home = rustix::fs::openat(CWD, home, searched, Mode::empty())?;
    let path = if path.is_empty() { b"." } else { path };
    rustix::fs::openat(home, path, flags, Mode::empty())
}

/// The rest of `path` behind `root`, both absolute and without symlinks; none if it is elsewhere.
fn beneath<'a>(root: &[u8], path: &'a [u8]) -> Option<&'a [u8]> {
    let root = root.strip_suffix(b"/").unwrap_or(root);
    let rest = path.strip_prefix(root)?;
    match rest.strip_prefix(b"/") {
        None if rest.is_empty() => Some(rest),
        rest => rest,
    }
}

/// Resolves name by name where the kernel cannot be told to stay beneath.
fn descend(from: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut names = path.split(|b| *b == b'/').peekable();
    let mut reached: Option<OwnedFd> = None;
    while let Some(name) = names.next() {
        let from = reached.as_ref().map_or(from, AsFd::as_fd);
        let flags = if names.peek().is_some() { flags | OFlags::DIRECTORY } else { flags };
        reached = Some(rustix::fs::openat(from, name, flags, Mode::empty())?);
    }
    reached.ok_or(Errno::NOENT)
}

/// Cuts a path at a slash so that the first piece can be resolved in one call. A name is far shorter than a piece.
fn first_piece(path: &[u8]) -> (&[u8], &[u8]) {
    if path.len() <= PIECE_BYTES_MAX {
        return (path, &[]);
    }
    match path[..PIECE_BYTES_MAX].iter().rposition(|b| *b == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (path, &[]),
    }
}

/// Where the path does not lead to any file any more, what was meant is elsewhere or gone.
fn gone_is_stale(errno: Errno) -> Errno {
    match errno {
        Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV => Errno::STALE,
        other => other,
    }
}

#[cfg(test)]
mod tests;
