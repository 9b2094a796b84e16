//! A directory of this computer as the side of this computer: a file whose bytes have not come is all holes.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::{self, File, Metadata, OpenOptions, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use vfs::replica::item::{Entry, Identity, Kind, Token};
use vfs::replica::side::{Answer, At, Facts, Here, Refusal, Side};

use super::users::Users;

/// What a file is known by, under every name.
pub(super) fn number(found: &Metadata) -> (u64, u64) {
    let birth = found.created().unwrap().duration_since(std::time::UNIX_EPOCH).unwrap();
    (found.ino(), u64::try_from(birth.as_nanos()).unwrap())
}

/// How a file was written to last.
type Stamp = (u64, i64, i64);

fn stamp(found: &Metadata) -> Stamp {
    (found.len(), found.mtime(), found.mtime_nsec())
}

/// What a system would keep with the file itself.
struct Kept {
    content: Token,
    /// As it was when it had that content.
    stamp: Stamp,
}

pub(super) struct Disk {
    root: PathBuf,
    kept: BTreeMap<(u64, u64), Kept>,
    /// Where each directory is, as of when it was last listed or moved.
    directories: BTreeMap<Identity, PathBuf>,
    users: Rc<RefCell<Users>>,
}

fn bytes(number: (u64, u64)) -> Identity {
    [number.0.to_le_bytes(), number.1.to_le_bytes()].concat().into()
}

fn refused(error: io::Error) -> Refusal {
    match error.kind() {
        io::ErrorKind::NotFound
        | io::ErrorKind::AlreadyExists
        | io::ErrorKind::NotADirectory
        | io::ErrorKind::IsADirectory
        | io::ErrorKind::DirectoryNotEmpty => Refusal::Changed,
        _ => Refusal::Refused(error.to_string()),
    }
}

impl Disk {
    pub(super) fn new(root: &Path, users: &Rc<RefCell<Users>>) -> Disk {
        let number = number(&fs::metadata(root).unwrap());
        let directories = BTreeMap::from([(bytes(number), root.to_owned())]);
        Disk { root: root.to_owned(), kept: BTreeMap::new(), directories, users: Rc::clone(users) }
    }

    pub(super) fn root(&self) -> Identity {
        bytes(number(&fs::metadata(&self.root).unwrap()))
    }

    fn directory(&self, identity: &Identity) -> Answer<PathBuf> {
        let path = self.directories.get(identity).ok_or(Refusal::Changed)?;
        let found = fs::symlink_metadata(path).map_err(refused)?;
        if bytes(number(&found)) == *identity { Ok(path.clone()) } else { Err(Refusal::Changed) }
    }

    fn child(&self, parent: &Identity, name: &[u8]) -> Answer<PathBuf> {
        Ok(self.directory(parent)?.join(std::str::from_utf8(name).unwrap()))
    }

    fn find(&self, at: &At) -> Answer<(PathBuf, Metadata)> {
        let path = self.child(&at.parent, &at.name)?;
        let found = fs::symlink_metadata(&path).map_err(refused)?;
        if bytes(number(&found)) == at.identity { Ok((path, found)) } else { Err(Refusal::Changed) }
    }

    fn entry(&self, path: &Path) -> Answer<Entry> {
        let found = fs::symlink_metadata(path).map_err(refused)?;
        let (number, kind) = (number(&found), if found.is_dir() { Kind::Directory } else { Kind::File });
        let kept = self.kept.get(&number);
        let edit = match kept {
            _ if kind == Kind::Directory => None,
            Some(kept) if kept.stamp == stamp(&found) => None,
            _ => Some(edit(&found)),
        };
        Ok(Entry {
            identity: bytes(number),
            name: path.file_name().unwrap().as_encoded_bytes().into(),
            kind,
            mode: u16::try_from(found.mode() & 0o7777).unwrap(),
            size: if kind == Kind::Directory { 0 } else { found.len() },
            content: kept.map(|kept| kept.content.clone()).unwrap_or_default(),
            edit,
        })
    }

    /// From now on the file has a version of the machine's, as it is.
    fn keep(&mut self, path: &Path, content: &Token) -> Answer<Entry> {
        let found = fs::symlink_metadata(path).map_err(refused)?;
        let kept = Kept { content: content.clone(), stamp: stamp(&found) };
        self.kept.insert(number(&found), kept);
        self.users.borrow_mut().clean.insert(number(&found), content.clone());
        self.entry(path)
    }

    /// The system's part of a fetch: bytes that are no edit.
    pub(super) fn fill(&mut self, at: &At, content: &Token, offset: u64, bytes: &[u8]) {
        let (path, _) = self.find(at).unwrap();
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        file.write_all_at(bytes, offset).unwrap();
        self.keep(&path, content).unwrap();
    }
}

fn edit(found: &Metadata) -> Token {
    let (size, seconds, nanoseconds) = stamp(found);
    [size.to_le_bytes(), seconds.to_le_bytes(), nanoseconds.to_le_bytes()].concat().into()
}

impl Side for Disk {
    fn list(&mut self, directory: &Identity) -> Answer<Vec<Entry>> {
        let path = self.directory(directory)?;
        let mut entries = Vec::new();
        for found in fs::read_dir(&path).map_err(refused)? {
            let path = found.map_err(refused)?.path();
            let entry = self.entry(&path)?;
            if entry.kind == Kind::Directory {
                self.directories.insert(entry.identity.clone(), path);
            }
            entries.push(entry);
        }
        Ok(entries)
    }

    fn is_gone(&mut self, identity: &Identity) -> Answer<bool> {
        let mut waiting = vec![self.root.clone()];
        while let Some(directory) = waiting.pop() {
            for found in fs::read_dir(&directory).map_err(refused)? {
                let path = found.map_err(refused)?.path();
                let found = fs::symlink_metadata(&path).map_err(refused)?;
                if bytes(number(&found)) == *identity {
                    return Ok(false);
                }
                if found.is_dir() {
                    waiting.push(path);
                }
            }
        }
        Ok(true)
    }

    fn make_directory(&mut self, parent: &Identity, name: &[u8], mode: u16) -> Answer<Entry> {
        let path = self.child(parent, name)?;
        fs::DirBuilder::new().mode(u32::from(mode)).create(&path).map_err(refused)?;
        fs::set_permissions(&path, Permissions::from_mode(u32::from(mode))).map_err(refused)?;
        let entry = self.entry(&path)?;
        self.directories.insert(entry.identity.clone(), path);
        Ok(entry)
    }

    fn rename(&mut self, from: &At, parent: &Identity, name: &[u8]) -> Answer<Entry> {
        let (old, new) = (self.find(from)?.0, self.child(parent, name)?);
        if new.symlink_metadata().is_ok() || new.starts_with(&old) {
            return Err(Refusal::Changed);
        }
        fs::rename(&old, &new).map_err(refused)?;
        for path in self.directories.values_mut() {
            if let Ok(below) = path.strip_prefix(&old) {
                *path = if below.as_os_str().is_empty() { new.clone() } else { new.join(below) };
            }
        }
        self.entry(&new)
    }

    fn set_mode(&mut self, at: &At, mode: u16) -> Answer<Entry> {
        let (path, _) = self.find(at)?;
        fs::set_permissions(&path, Permissions::from_mode(u32::from(mode))).map_err(refused)?;
        self.entry(&path)
    }

    fn remove(&mut self, at: &At, content: &Token, edit: Option<&Token>) -> Answer<()> {
        let (path, found) = self.find(at)?;
        let entry = self.entry(&path)?;
        if entry.content != *content || entry.edit.as_ref() != edit {
            return Err(Refusal::Changed);
        }
        if found.is_dir() { fs::remove_dir(&path) } else { fs::remove_file(&path) }.map_err(refused)
    }
}

impl Here for Disk {
    fn make_placeholder(&mut self, parent: &Identity, name: &[u8], facts: &Facts) -> Answer<Entry> {
        let path = self.child(parent, name)?;
        let mode = u32::from(facts.mode);
        let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&path).map_err(refused)?;
        file.set_len(facts.size).map_err(refused)?;
        fs::set_permissions(&path, Permissions::from_mode(mode)).map_err(refused)?;
        self.keep(&path, &facts.content)
    }

    fn refresh(&mut self, at: &At, old: &Token, facts: &Facts) -> Answer<Entry> {
        let (path, _) = self.find(at)?;
        let entry = self.entry(&path)?;
        if entry.edit.is_some() || entry.content != *old {
            return Err(Refusal::Changed);
        }
        let file = OpenOptions::new().write(true).truncate(true).open(&path).map_err(refused)?;
        file.set_len(facts.size).map_err(refused)?;
        self.keep(&path, &facts.content)
    }

    fn settle(&mut self, at: &At, edit: &Token, content: &Token) -> Answer<Entry> {
        let (path, _) = self.find(at)?;
        if self.entry(&path)?.edit.as_ref() != Some(edit) {
            return Err(Refusal::Changed);
        }
        let bytes = fs::read(&path).map_err(refused)?;
        self.users.borrow_mut().versions.insert(content.clone(), bytes);
        self.keep(&path, content)
    }

    fn open(&mut self, at: &At, edit: &Token) -> Answer<Box<dyn Read + '_>> {
        let (path, _) = self.find(at)?;
        if self.entry(&path)?.edit.as_ref() != Some(edit) {
            return Err(Refusal::Changed);
        }
        let file = File::open(&path).map_err(refused)?;
        Ok(Box::new(Unchanged { file, edit: edit.clone() }))
    }
}

/// Fails at the end if the file was written to meanwhile.
struct Unchanged {
    file: File,
    edit: Token,
}

impl Read for Unchanged {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        if read == 0 && edit(&self.file.metadata()?) != self.edit {
            return Err(io::Error::other("it was written to"));
        }
        Ok(read)
    }
}
