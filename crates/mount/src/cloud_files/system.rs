//! What is asked of Windows about one file: the only place but [`root`](super::root) with its calls.
//!
//! Files are opened by number, so that what is done is done to the file that was meant, whatever its name is by now.

use std::fs::File;
use std::os::windows::ffi::{OsStrExt, OsStringExt};
use std::os::windows::io::{AsRawHandle, FromRawHandle, RawHandle};
use std::path::{Path, PathBuf};
use std::{mem, ptr};

use vfs::replica::side::{Answer, Refusal};
use windows_sys::Win32::Foundation::{
    ERROR_MORE_DATA, ERROR_NO_MORE_FILES, GetLastError, HANDLE, INVALID_HANDLE_VALUE,
};
use windows_sys::Win32::Storage::CloudFilters as cf;
use windows_sys::Win32::Storage::FileSystem as fs;
use windows_sys::Win32::System::IO::DeviceIoControl;
use windows_sys::Win32::System::Ioctl::FSCTL_READ_FILE_USN_DATA;

use super::translate::{Blob, code_of, narrow, refusal_of};

/// How a file is opened, and what others may do to it meanwhile.
#[derive(Clone, Copy, Debug)]
pub(super) struct Access {
    wanted: u32,
    shared: u32,
}

const SHARE_ALL: u32 = fs::FILE_SHARE_READ | fs::FILE_SHARE_WRITE | fs::FILE_SHARE_DELETE;

const SHARE_NO_WRITES: u32 = fs::FILE_SHARE_READ | fs::FILE_SHARE_DELETE;

impl Access {
    /// To look at it.
    pub(super) const LOOK: Access =
        Access { wanted: fs::FILE_READ_ATTRIBUTES | fs::SYNCHRONIZE, shared: SHARE_ALL };
    /// To change its attributes. It is in nobody's way.
    pub(super) const ATTRIBUTES: Access = Access {
        wanted: fs::FILE_READ_ATTRIBUTES | fs::FILE_WRITE_ATTRIBUTES | fs::SYNCHRONIZE,
        shared: SHARE_ALL,
    };
    /// To read it, or what is in it.
    pub(super) const READ: Access = Access { wanted: fs::FILE_GENERIC_READ, shared: SHARE_ALL };
    /// To read it as it is, while nobody writes to it. With this handle nobody else has one to write by, so that the
    /// number of its last change is the last: by one handle NTFS counts repeated writes once.
    pub(super) const SEND: Access = Access { wanted: fs::FILE_GENERIC_READ, shared: SHARE_NO_WRITES };
    /// To change what is known of it, while nobody writes to it.
    pub(super) const CHANGE: Access = Access {
        wanted: fs::FILE_GENERIC_READ | fs::FILE_WRITE_ATTRIBUTES | fs::WRITE_DAC,
        shared: SHARE_NO_WRITES,
    };
    /// To rename it.
    pub(super) const MOVE: Access =
        Access { wanted: fs::FILE_READ_ATTRIBUTES | fs::DELETE | fs::SYNCHRONIZE, shared: SHARE_ALL };
    /// To remove it, while nobody writes to it.
    pub(super) const REMOVE: Access = Access {
        wanted: fs::FILE_READ_ATTRIBUTES | fs::DELETE | fs::SYNCHRONIZE,
        shared: fs::FILE_SHARE_READ,
    };
}

/// Directories too, and placeholders and links themselves.
const OPEN_FLAGS: u32 = fs::FILE_FLAG_BACKUP_SEMANTICS | fs::FILE_FLAG_OPEN_REPARSE_POINT;

/// A call of Windows' that says whether it worked, and its error where it did not.
pub(super) fn last() -> Refusal {
    // SAFETY: it reads a number of this thread's.
    refusal_of(unsafe { GetLastError() })
}

pub(super) fn checked(result: i32) -> Answer<()> {
    if result >= 0 { Ok(()) } else { Err(refusal_of(code_of(result))) }
}

pub(super) fn wide_path(path: &Path) -> Vec<u16> {
    path.as_os_str().encode_wide().chain([0]).collect()
}

fn owned(handle: RawHandle) -> Answer<File> {
    if handle == INVALID_HANDLE_VALUE {
        return Err(last());
    }
    // SAFETY: Windows has just opened it for us, and nobody else has it.
    Ok(unsafe { File::from_raw_handle(handle) })
}

pub(super) fn open_path(path: &Path, access: Access) -> Answer<File> {
    let path = wide_path(path);
    // SAFETY: the path ends with a zero and outlives the call; the other pointers may be null.
    let handle = unsafe {
        fs::CreateFileW(
            path.as_ptr(),
            access.wanted,
            access.shared,
            ptr::null(),
            fs::OPEN_EXISTING,
            OPEN_FLAGS,
            ptr::null_mut(),
        )
    };
    owned(handle)
}

/// A file of the same volume as `root`, by its number.
pub(super) fn open_number(root: &File, number: i64, access: Access) -> Answer<File> {
    let descriptor = fs::FILE_ID_DESCRIPTOR {
        dwSize: size_of::<fs::FILE_ID_DESCRIPTOR>() as u32,
        Type: fs::FileIdType,
        Anonymous: fs::FILE_ID_DESCRIPTOR_0 { FileId: number },
    };
    // SAFETY: the descriptor is of the size that it says, and outlives the call.
    let handle = unsafe {
        fs::OpenFileById(
            root.as_raw_handle(),
            &descriptor,
            access.wanted,
            access.shared,
            ptr::null(),
            OPEN_FLAGS,
        )
    };
    owned(handle)
}

/// A file that nobody else has open. Somebody who wants to open it waits until it is closed, or has Windows close it: what is done
/// by it then is refused, as of a file in use.
pub(super) struct Alone(HANDLE);

impl Alone {
    /// To be written to. Of whoever has it open already: another program uses it.
    pub(super) fn open(path: &Path) -> Answer<Alone> {
        let (path, mut handle) = (wide_path(path), ptr::null_mut());
        let flags = cf::CF_OPEN_FILE_FLAG_EXCLUSIVE | cf::CF_OPEN_FILE_FLAG_WRITE_ACCESS;
        // SAFETY: the path ends with a zero, and both outlive the call.
        checked(unsafe { cf::CfOpenFileWithOplock(path.as_ptr(), flags, &mut handle) })?;
        Ok(Alone(handle))
    }

    /// For calls of the Cloud Filter API alone.
    pub(super) fn handle(&self) -> HANDLE {
        self.0
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        // SAFETY: it was opened for us, and is closed once.
        unsafe { cf::CfCloseHandle(self.0) }
    }
}

/// The longest path of NTFS, in units.
const PATH_UNITS_MAX: usize = 32_768;

/// Where a file is now.
pub(super) fn path_of(file: &File) -> Answer<PathBuf> {
    let mut path = vec![0_u16; PATH_UNITS_MAX];
    // SAFETY: the buffer has as many units as is said.
    let units = unsafe {
        fs::GetFinalPathNameByHandleW(file.as_raw_handle(), path.as_mut_ptr(), PATH_UNITS_MAX as u32, 0)
    };
    match units as usize {
        0 => Err(last()),
        units if units < PATH_UNITS_MAX => Ok(std::ffi::OsString::from_wide(&path[..units]).into()),
        _ => Err(Refusal::Refused("its path is too long".to_owned())),
    }
}

/// Reads one of Windows' structures about a file.
fn information<T: Default>(file: &File, class: i32) -> Answer<T> {
    let mut found = T::default();
    // SAFETY: callers name the class that has this structure, which is plain numbers, and its size is said.
    let is_read = unsafe {
        fs::GetFileInformationByHandleEx(
            file.as_raw_handle(),
            class,
            (&raw mut found).cast(),
            size_of::<T>() as u32,
        )
    };
    if is_read == 0 { Err(last()) } else { Ok(found) }
}

/// A file as it is.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) number: i64,
    pub(super) attributes: u32,
    pub(super) written: i64,
    pub(super) size: i64,
    pub(super) usn: i64,
    pub(super) placeholder: Option<Placeholder>,
}

/// What Windows says of a placeholder.
#[derive(Clone, Debug)]
pub(super) struct Placeholder {
    pub(super) blob: Blob,
    pub(super) is_in_sync: bool,
    /// Bytes that are here.
    pub(super) here_bytes: i64,
    /// Whether it is to be here, or not; `None` if nobody has said.
    pub(super) pin: Option<bool>,
}

pub(super) fn look_at(file: &File) -> Answer<Found> {
    let basic: fs::FILE_BASIC_INFO = information(file, fs::FileBasicInfo)?;
    let standard: fs::FILE_STANDARD_INFO = information(file, fs::FileStandardInfo)?;
    let identity: fs::FILE_ID_INFO = information(file, fs::FileIdInfo)?;
    let [number, _] = halves(identity.FileId.Identifier);
    Ok(Found {
        number,
        attributes: basic.FileAttributes,
        written: basic.LastWriteTime,
        size: standard.EndOfFile,
        usn: usn_of(file),
        placeholder: placeholder_of(file)?,
    })
}

/// NTFS has a number of 64 bits in the lower half.
fn halves(identifier: [u8; 16]) -> [i64; 2] {
    let number = u128::from_le_bytes(identifier);
    [number as i64, (number >> 64) as i64]
}

/// The number of its last change; 0 on a volume that does not count them.
fn usn_of(file: &File) -> i64 {
    // Both versions of the record fit, with the longest name.
    let (mut record, mut read) = ([0_u64; 128], 0);
    // SAFETY: the buffer has as many bytes as is said and is aligned for the record; nothing is overlapped.
    let is_read = unsafe {
        DeviceIoControl(
            file.as_raw_handle(),
            FSCTL_READ_FILE_USN_DATA,
            ptr::null(),
            0,
            record.as_mut_ptr().cast(),
            size_of_val(&record) as u32,
            &mut read,
            ptr::null_mut(),
        )
    };
    if is_read == 0 {
        return 0;
    }
    // Bytes 4 and 5 are the record's version: the third has numbers of 16 bytes in front of this one.
    let version = (record[0] >> 32) as u16;
    let at = if version == 3 { 5 } else { 3 };
    record[at].cast_signed()
}

/// The room of a placeholder's facts: their head, and the longest that Windows keeps for us.
const FACTS_BYTES: usize =
    size_of::<cf::CF_PLACEHOLDER_STANDARD_INFO>() + cf::CF_PLACEHOLDER_MAX_FILE_IDENTITY_LENGTH as usize;

fn placeholder_of(file: &File) -> Answer<Option<Placeholder>> {
    let (mut facts, mut bytes) = (vec![0_u64; FACTS_BYTES / 8 + 1], 0);
    // SAFETY: the buffer has as many bytes as is said and is aligned for the structure.
    let result = unsafe {
        cf::CfGetPlaceholderInfo(
            file.as_raw_handle(),
            cf::CF_PLACEHOLDER_INFO_STANDARD,
            facts.as_mut_ptr().cast(),
            FACTS_BYTES as u32,
            &mut bytes,
        )
    };
    match code_of(result) {
        _ if result >= 0 => {}
        ERROR_MORE_DATA => return Ok(None),
        // What is no placeholder has no such facts.
        376 => return Ok(None),
        code => return Err(refusal_of(code)),
    }
    // SAFETY: Windows has filled the head of the structure, which is plain numbers; the buffer is aligned for it.
    let head = unsafe { &*facts.as_ptr().cast::<cf::CF_PLACEHOLDER_STANDARD_INFO>() };
    let offset = mem::offset_of!(cf::CF_PLACEHOLDER_STANDARD_INFO, FileIdentity);
    let length = (head.FileIdentityLength as usize).min(FACTS_BYTES - offset);
    // SAFETY: the buffer has room for the head and this many bytes behind its last field's start.
    let blob = unsafe { std::slice::from_raw_parts(facts.as_ptr().cast::<u8>().add(offset), length) };
    Ok(Blob::decode(blob).map(|blob| Placeholder {
        blob,
        is_in_sync: head.InSyncState == cf::CF_IN_SYNC_STATE_IN_SYNC,
        here_bytes: head.OnDiskDataSize,
        pin: match head.PinState {
            cf::CF_PIN_STATE_PINNED => Some(true),
            cf::CF_PIN_STATE_UNPINNED => Some(false),
            _ => None,
        },
    }))
}

/// A name in a directory, and which file it is.
pub(super) struct Listed {
    pub(super) name: Vec<u8>,
    pub(super) number: i64,
}

/// How much of a listing is read at once.
const LISTING_BYTES: usize = 64 << 10;

/// What is in a directory.
pub(super) fn names_in(directory: &File) -> Answer<Vec<Listed>> {
    let mut names = Vec::new();
    let mut page = vec![0_u64; LISTING_BYTES / 8];
    let mut class = fs::FileIdExtdDirectoryRestartInfo;
    loop {
        // SAFETY: the buffer has as many bytes as is said and is aligned for the records.
        let is_read = unsafe {
            fs::GetFileInformationByHandleEx(
                directory.as_raw_handle(),
                class,
                page.as_mut_ptr().cast(),
                LISTING_BYTES as u32,
            )
        };
        if is_read == 0 {
            // SAFETY: it reads a number of this thread's.
            let code = unsafe { GetLastError() };
            return if code == ERROR_NO_MORE_FILES { Ok(names) } else { Err(refusal_of(code)) };
        }
        class = fs::FileIdExtdDirectoryInfo;
        let mut at = 0;
        loop {
            let (next, name) = record(&page, at)?;
            if name.name != b"." && name.name != b".." {
                names.push(name);
            }
            if next == 0 {
                break;
            }
            at += next;
        }
    }
}

/// One record of a page, and how far the next is behind it.
fn record(page: &[u64], at: usize) -> Answer<(usize, Listed)> {
    let bytes = size_of_val(page);
    let offset = mem::offset_of!(fs::FILE_ID_EXTD_DIR_INFO, FileName);
    if !at.is_multiple_of(8) || at + size_of::<fs::FILE_ID_EXTD_DIR_INFO>() > bytes {
        return Err(Refusal::Refused("Windows lists beyond what it was given".to_owned()));
    }
    let start = page.as_ptr().cast::<u8>();
    // SAFETY: the record is within the page and aligned, both held above, and is plain numbers.
    let found = unsafe { &*start.add(at).cast::<fs::FILE_ID_EXTD_DIR_INFO>() };
    let units = (found.FileNameLength as usize / 2).min((bytes - at - offset) / 2);
    // SAFETY: so many units are within the page, and the field is aligned for them.
    let name = unsafe { std::slice::from_raw_parts(start.add(at + offset).cast::<u16>(), units) };
    let [number, _] = halves(found.FileId.Identifier);
    Ok((found.NextEntryOffset as usize, Listed { name: narrow(name), number }))
}

/// Gives a file another name, if nobody has it.
pub(super) fn rename(file: &File, to: &Path) -> Answer<()> {
    let name = wide_path(to);
    let offset = mem::offset_of!(fs::FILE_RENAME_INFO, FileName);
    let mut room = vec![0_u64; (offset + 2 * name.len()) / 8 + 2];
    let start = room.as_mut_ptr().cast::<u8>();
    // SAFETY: the room is aligned for the head, and has that and the name behind its last field's start. All zeros is a head.
    unsafe {
        (*start.cast::<fs::FILE_RENAME_INFO>()).FileNameLength = (2 * (name.len() - 1)) as u32;
        ptr::copy_nonoverlapping(name.as_ptr(), start.add(offset).cast::<u16>(), name.len());
    }
    set(file, fs::FileRenameInfo, start.cast(), size_of_val(&room[..]))
}

/// Removes a file when it is closed, also a read-only one.
pub(super) fn remove(file: &File) -> Answer<()> {
    let flags = fs::FILE_DISPOSITION_FLAG_DELETE | fs::FILE_DISPOSITION_FLAG_IGNORE_READONLY_ATTRIBUTE;
    let mut disposition = fs::FILE_DISPOSITION_INFO_EX { Flags: flags };
    let bytes = size_of_val(&disposition);
    set(file, fs::FileDispositionInfoEx, (&raw mut disposition).cast(), bytes)
}

/// Sets what Windows has of permissions.
pub(super) fn set_attributes(file: &File, attributes: u32) -> Answer<()> {
    // Zeros are times that stay.
    let mut basic = fs::FILE_BASIC_INFO { FileAttributes: attributes, ..Default::default() };
    let bytes = size_of_val(&basic);
    set(file, fs::FileBasicInfo, (&raw mut basic).cast(), bytes)
}

fn set(file: &File, class: i32, what: *mut core::ffi::c_void, bytes: usize) -> Answer<()> {
    // SAFETY: callers hand over the structure of the class, with its size, and keep it for the call.
    let is_set = unsafe {
        fs::SetFileInformationByHandle(file.as_raw_handle(), class, what.cast_const(), bytes as u32)
    };
    if is_set == 0 { Err(last()) } else { Ok(()) }
}
