//! A directory with placeholders as this computer's side.
//!
//! A file is known by its number on the volume. What it was made from is kept with the placeholder itself, so that nothing has to
//! be remembered beside it. It was written to if Windows does not take it for in sync any more; a file that is no placeholder was
//! made here. Each change names what it expects by Windows' own means: the number of the file's last change, or that it is in sync.

use std::fs::File;
use std::io::Read;
use std::os::windows::fs::FileExt;
use std::os::windows::io::AsRawHandle;
use std::path::{Path, PathBuf};
use std::ptr;

use vfs::replica::item::{Entry, Identity, Kind, Token};
use vfs::replica::side::{Answer, At, Facts, Here, Refusal, Side};
use windows_sys::Win32::Storage::CloudFilters as cf;
use windows_sys::Win32::Storage::FileSystem as fs;

use super::system::{
    self, Access, Alone, Found, Listed, checked, look_at, names_in, open_number, open_path, path_of,
};
use super::translate::{
    Blob, FILE_MODE, attributes_of, attributes_with, edit_of, file_of, filetime_of, identity_of,
    is_read_only, mode_of, narrow, usn_of, wide,
};

const DIRECTORY: u32 = fs::FILE_ATTRIBUTE_DIRECTORY;

/// Files that are remembered to be fetched or freed; others are found again when these are done.
const PINS_MAX: usize = 1024;

/// Below the root of a sync root.
#[derive(Debug)]
pub struct Folder {
    root: File,
    path: PathBuf,
    identity: Identity,
    /// What was found to be elsewhere than its user wants it: here (`true`) or not.
    pins: Vec<(i64, bool)>,
}

impl Folder {
    /// The directory must be there.
    pub fn open(path: &Path) -> Answer<Folder> {
        let root = open_path(path, Access::READ)?;
        let identity = identity_of(look_at(&root)?.number);
        Ok(Folder { path: path_of(&root)?, root, identity, pins: Vec::new() })
    }

    /// What the root is known by.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// What was found since it was asked last.
    pub(super) fn take_pins(&mut self) -> Vec<(i64, bool)> {
        std::mem::take(&mut self.pins)
    }

    pub(super) fn number(&self, number: i64, access: Access) -> Answer<File> {
        open_number(&self.root, number, access)
    }

    fn handle(&self, identity: &Identity, access: Access) -> Answer<File> {
        self.number(file_of(identity).ok_or(Refusal::Changed)?, access)
    }

    /// A file where it is expected to be, and how it is.
    fn find(&self, at: &At, access: Access) -> Answer<(File, Found)> {
        let file = self.handle(&at.identity, access)?;
        let directory = self.directory(&at.parent)?;
        let path = path_of(&file)?;
        let is_there = path.parent() == Some(&*directory)
            && path.file_name().is_some_and(|name| name_of(name) == *at.name);
        let found = look_at(&file)?;
        if is_there { Ok((file, found)) } else { Err(Refusal::Changed) }
    }

    /// Where a directory is, if it is below the root still: what is thrown away is moved elsewhere.
    fn directory(&self, identity: &Identity) -> Answer<PathBuf> {
        let path = path_of(&self.handle(identity, Access::LOOK)?)?;
        if path.starts_with(&self.path) { Ok(path) } else { Err(Refusal::Changed) }
    }

    fn place(&self, parent: &Identity, name: &[u8]) -> Answer<PathBuf> {
        let name =
            std::str::from_utf8(name).map_err(|_| Refusal::Refused("its name is not Unicode".to_owned()))?;
        Ok(self.directory(parent)?.join(name))
    }

    /// The file at this place, after something was done to it.
    fn entry_at(&self, path: &Path, name: &[u8]) -> Answer<Entry> {
        let found = look_at(&open_path(path, Access::LOOK)?)?;
        entry_of(&found, name).ok_or(Refusal::Changed)
    }

    /// Says anew what a placeholder is; what is none becomes one. `usn` is the change that is expected to be its last.
    fn describe(&self, file: &File, found: &Found, blob: &Blob, usn: Option<i64>) -> Answer<()> {
        let bytes = blob.encode();
        let mut usn = usn.unwrap_or_default();
        let expected = if usn == 0 { ptr::null_mut() } else { &raw mut usn };
        // SAFETY: the blob has as many bytes as is said, and it and the number outlive the call, which is not overlapped.
        let result = unsafe {
            match &found.placeholder {
                None => cf::CfConvertToPlaceholder(
                    file.as_raw_handle(),
                    bytes.as_ptr().cast(),
                    bytes.len() as u32,
                    cf::CF_CONVERT_FLAG_MARK_IN_SYNC,
                    expected,
                    ptr::null_mut(),
                ),
                Some(_) => cf::CfUpdatePlaceholder(
                    file.as_raw_handle(),
                    ptr::null(),
                    bytes.as_ptr().cast(),
                    bytes.len() as u32,
                    ptr::null(),
                    0,
                    cf::CF_UPDATE_FLAG_MARK_IN_SYNC,
                    expected,
                    ptr::null_mut(),
                ),
            }
        };
        checked(result)
    }
}

/// The files of a mount whose content is not on the machine, as far as Windows knows.
pub fn unsent(path: &Path) -> Answer<Vec<PathBuf>> {
    let (mut unsent, mut left) = (Vec::new(), vec![path.to_owned()]);
    while let Some(directory) = left.pop() {
        for listed in names_in(&open_path(&directory, Access::READ)?)? {
            let Ok(name) = String::from_utf8(listed.name) else { continue };
            let path = directory.join(&name);
            let found = match open_path(&path, Access::LOOK).and_then(|file| look_at(&file)) {
                Ok(found) => found,
                // It has gone meanwhile.
                Err(Refusal::Changed) => continue,
                Err(refusal) => return Err(refusal),
            };
            match entry_of(&found, name.as_bytes()) {
                Some(entry) if entry.kind == Kind::Directory => left.push(path),
                Some(entry) if entry.edit.is_some() => unsent.push(path),
                _ => {}
            }
        }
    }
    Ok(unsent)
}

fn name_of(name: &std::ffi::OsStr) -> Vec<u8> {
    use std::os::windows::ffi::OsStrExt;
    narrow(&name.encode_wide().collect::<Vec<u16>>())
}

/// A file as a replica sees it; `None` of what is not replicated: links, and other programs' placeholders.
pub(super) fn entry_of(found: &Found, name: &[u8]) -> Option<Entry> {
    let is_directory = found.attributes & DIRECTORY != 0;
    let is_link = found.attributes & fs::FILE_ATTRIBUTE_REPARSE_POINT != 0 && found.placeholder.is_none();
    if is_link {
        return None;
    }
    let blob = found.placeholder.as_ref().map(|placeholder| &placeholder.blob);
    let is_clean = found.placeholder.as_ref().is_some_and(|placeholder| placeholder.is_in_sync);
    let edit = edit_of(found.usn, found.written, found.size);
    Some(Entry {
        identity: identity_of(found.number),
        name: name.into(),
        kind: if is_directory { Kind::Directory } else { Kind::File },
        mode: mode_of(found.attributes, blob.map(|blob| blob.mode)),
        size: if is_directory { 0 } else { found.size.unsigned_abs() },
        content: blob.filter(|_| !is_directory).map(|blob| blob.content.clone()).unwrap_or_default(),
        edit: (!is_directory && !is_clean).then_some(edit),
    })
}

/// Whether its bytes are to come or to go.
fn wanted(found: &Found) -> Option<bool> {
    let placeholder = found.placeholder.as_ref().filter(|_| found.attributes & DIRECTORY == 0)?;
    match placeholder.pin {
        Some(true) if placeholder.here_bytes < found.size => Some(true),
        Some(false) if placeholder.here_bytes > 0 && placeholder.is_in_sync => Some(false),
        _ => None,
    }
}

impl Side for Folder {
    fn list(&mut self, directory: &Identity) -> Answer<Vec<Entry>> {
        let directory = self.handle(directory, Access::READ)?;
        let mut entries = Vec::new();
        for Listed { name, number } in names_in(&directory)? {
            let found = match self.number(number, Access::LOOK).and_then(|file| look_at(&file)) {
                Ok(found) => found,
                // It has gone since; if not, it is found when everything is looked at again.
                Err(Refusal::Changed) => continue,
                Err(refusal) => return Err(refusal),
            };
            let is_full = self.pins.len() == PINS_MAX;
            self.pins.extend(wanted(&found).filter(|_| !is_full).map(|is_here| (number, is_here)));
            entries.extend(entry_of(&found, &name));
        }
        Ok(entries)
    }

    fn is_gone(&mut self, identity: &Identity) -> Answer<bool> {
        match self.directory(identity) {
            Ok(_) => Ok(false),
            Err(Refusal::Changed) => Ok(true),
            Err(refusal) => Err(refusal),
        }
    }

    fn make_directory(&mut self, parent: &Identity, name: &[u8], mode: u16) -> Answer<Entry> {
        let facts = Facts { is_symlink: false, mode, size: 0, content: Token::default() };
        make(&self.directory(parent)?, name, &facts, true)?;
        self.entry_at(&self.place(parent, name)?, name)
    }

    fn rename(&mut self, from: &At, parent: &Identity, name: &[u8]) -> Answer<Entry> {
        let (file, _) = self.find(from, Access::MOVE)?;
        let to = self.place(parent, name)?;
        system::rename(&file, &to)?;
        self.entry_at(&to, name)
    }

    fn set_mode(&mut self, at: &At, mode: u16) -> Answer<Entry> {
        let (file, found) = self.find(at, Access::CHANGE)?;
        let shown = entry_of(&found, &at.name).ok_or(Refusal::Changed)?;
        if shown.edit.is_some() {
            // Its new content is sent first: to say what it is would say that it is in sync.
            return Err(Refusal::Refused("it was written to and not sent yet".to_owned()));
        }
        self.describe(&file, &found, &Blob { mode, content: shown.content }, Some(found.usn))?;
        // It stays in sync: of attributes Windows' policy is told to take no notice.
        system::set_attributes(&file, attributes_with(found.attributes, mode))?;
        entry_of(&look_at(&file)?, &at.name).ok_or(Refusal::Changed)
    }

    fn remove(&mut self, at: &At, content: &Token, edit: Option<&Token>) -> Answer<()> {
        let (file, found) = self.find(at, Access::REMOVE)?;
        let shown = entry_of(&found, &at.name).ok_or(Refusal::Changed)?;
        if shown.content != *content || shown.edit.as_ref() != edit {
            return Err(Refusal::Changed);
        }
        system::remove(&file)
    }
}

impl Folder {
    /// Opens a file that was looked at as nobody else has it.
    fn alone(&self, file: &File) -> Answer<Alone> {
        let path = path_of(file)?;
        let alone = Alone::open(&path)?;
        // From now on nobody moves it: it is the one that was meant if it is where it was.
        if path_of(file)? == path { Ok(alone) } else { Err(Refusal::Changed) }
    }

    /// Has the bytes of a file go, if it is in sync.
    pub(super) fn free(&self, number: i64) -> Answer<()> {
        let file = self.number(number, Access::ATTRIBUTES)?;
        let _writable = Writable::make(&file, look_at(&file)?.attributes)?;
        let alone = self.alone(&file)?;
        // SAFETY: the handle is open; a length of -1 is the whole file; the call is not overlapped.
        checked(unsafe {
            cf::CfDehydratePlaceholder(alone.handle(), 0, -1, cf::CF_DEHYDRATE_FLAG_NONE, ptr::null_mut())
        })
    }
}

/// A file that is not read-only for as long as this is there: Windows lets nobody open one to change it.
struct Writable<'a> {
    file: &'a File,
    attributes: u32,
}

impl Writable<'_> {
    fn make(file: &File, attributes: u32) -> Answer<Writable<'_>> {
        if is_read_only(attributes) {
            system::set_attributes(file, attributes_with(attributes, FILE_MODE))?;
        }
        Ok(Writable { file, attributes })
    }
}

impl Drop for Writable<'_> {
    fn drop(&mut self) {
        if !is_read_only(self.attributes) {
            return;
        }
        let again = look_at(self.file)
            .and_then(|found| system::set_attributes(self.file, attributes_with(found.attributes, 0)));
        if let Err(error) = again {
            tracing::warn!(%error, "a file is not read-only any more");
        }
    }
}

/// Makes one placeholder.
fn make(directory: &Path, name: &[u8], facts: &Facts, is_directory: bool) -> Answer<()> {
    let (blob, name) = (Blob { mode: facts.mode, content: facts.content.clone() }.encode(), wide(name)?);
    let directory = system::wide_path(directory);
    let mut placeholder = placeholder(&name, &blob, facts, is_directory);
    let mut made = 0;
    // SAFETY: the texts end with zeros; they, the blob and the one structure outlive the call.
    let result = unsafe {
        cf::CfCreatePlaceholders(
            directory.as_ptr(),
            &mut placeholder,
            1,
            cf::CF_CREATE_FLAG_STOP_ON_ERROR,
            &mut made,
        )
    };
    checked(result)?;
    checked(placeholder.Result)
}

/// What Windows is told of a placeholder. It points to the name and the blob, which have to outlive it.
fn placeholder(
    name: &[u16],
    blob: &[u8],
    facts: &Facts,
    is_directory: bool,
) -> cf::CF_PLACEHOLDER_CREATE_INFO {
    // Zeros would be the year 1601.
    let time = now();
    let basic = fs::FILE_BASIC_INFO {
        CreationTime: time,
        LastAccessTime: time,
        LastWriteTime: time,
        ChangeTime: time,
        FileAttributes: attributes_of(is_directory, facts.mode),
    };
    cf::CF_PLACEHOLDER_CREATE_INFO {
        RelativeFileName: name.as_ptr(),
        FsMetadata: cf::CF_FS_METADATA { BasicInfo: basic, FileSize: facts.size.cast_signed() },
        FileIdentity: blob.as_ptr().cast(),
        FileIdentityLength: blob.len() as u32,
        Flags: cf::CF_PLACEHOLDER_CREATE_FLAG_MARK_IN_SYNC,
        ..Default::default()
    }
}

fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    filetime_of(since.as_secs().cast_signed(), since.subsec_nanos())
}

impl Here for Folder {
    fn make_placeholder(&mut self, parent: &Identity, name: &[u8], facts: &Facts) -> Answer<Entry> {
        if facts.is_symlink {
            return Err(Refusal::Refused("symlinks of the machine are not shown on Windows".to_owned()));
        }
        make(&self.directory(parent)?, name, facts, false)?;
        self.entry_at(&self.place(parent, name)?, name)
    }

    fn refresh(&mut self, at: &At, old: &Token, facts: &Facts) -> Answer<Entry> {
        let (file, found) = self.find(at, Access::ATTRIBUTES)?;
        let writable = Writable::make(&file, found.attributes)?;
        let alone = self.alone(&file)?;
        let found = look_at(&file)?;
        let shown = entry_of(&found, &at.name).ok_or(Refusal::Changed)?;
        if shown.edit.is_some() || shown.content != *old {
            return Err(Refusal::Changed);
        }
        let blob = Blob { mode: facts.mode, content: facts.content.clone() }.encode();
        let time = now();
        // Zeros are attributes and times that stay.
        let basic = fs::FILE_BASIC_INFO { LastWriteTime: time, ChangeTime: time, ..Default::default() };
        let metadata = cf::CF_FS_METADATA { BasicInfo: basic, FileSize: facts.size.cast_signed() };
        // It is refused if the file has been written to since.
        let flags = cf::CF_UPDATE_FLAG_VERIFY_IN_SYNC
            | cf::CF_UPDATE_FLAG_MARK_IN_SYNC
            | cf::CF_UPDATE_FLAG_DEHYDRATE;
        // SAFETY: the structure and the blob, of the size that is said, outlive the call, which is not overlapped.
        let result = unsafe {
            cf::CfUpdatePlaceholder(
                alone.handle(),
                &metadata,
                blob.as_ptr().cast(),
                blob.len() as u32,
                ptr::null(),
                0,
                flags,
                ptr::null_mut(),
                ptr::null_mut(),
            )
        };
        checked(result)?;
        drop((alone, writable));
        entry_of(&look_at(&file)?, &at.name).ok_or(Refusal::Changed)
    }

    fn settle(&mut self, at: &At, edit: &Token, content: &Token) -> Answer<Entry> {
        let (file, found) = self.find(at, Access::CHANGE)?;
        let shown = entry_of(&found, &at.name).ok_or(Refusal::Changed)?;
        if shown.edit.as_ref() != Some(edit) {
            return Err(Refusal::Changed);
        }
        countable(edit)?;
        let blob = Blob { mode: shown.mode, content: content.clone() };
        self.describe(&file, &found, &blob, Some(usn_of(edit)))?;
        entry_of(&look_at(&file)?, &at.name).ok_or(Refusal::Changed)
    }

    fn open(&mut self, at: &At, edit: &Token) -> Answer<Box<dyn Read + '_>> {
        let (file, found) = self.find(at, Access::SEND)?;
        let shown = entry_of(&found, &at.name).ok_or(Refusal::Changed)?;
        if shown.edit.as_ref() != Some(edit) {
            return Err(Refusal::Changed);
        }
        countable(edit)?;
        Ok(Box::new(Unchanged { file, edit: edit.clone(), offset: 0 }))
    }
}

/// Whether another write would show: without a journal a write in the same moment has the same token.
fn countable(edit: &Token) -> Answer<()> {
    match usn_of(edit) {
        0 => Err(Refusal::Refused(
            "its volume counts no changes; have it do so with `fsutil usn createjournal`".to_owned(),
        )),
        _ => Ok(()),
    }
}

/// Nobody else writes to it while this is there; it fails at its end if the file was written to meanwhile.
struct Unchanged {
    file: File,
    edit: Token,
    offset: u64,
}

impl Read for Unchanged {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.file.seek_read(buffer, self.offset)?;
        self.offset += read as u64;
        if read == 0 {
            let found = look_at(&self.file).map_err(std::io::Error::other)?;
            if edit_of(found.usn, found.written, found.size) != self.edit {
                return Err(std::io::Error::other("it was written to meanwhile"));
            }
        }
        Ok(read)
    }
}
