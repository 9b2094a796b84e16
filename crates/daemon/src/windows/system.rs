//! What is asked of Windows about this process.

use std::io;
use std::os::windows::io::{AsRawHandle, FromRawHandle, OwnedHandle};
use std::ptr;

use windows_sys::Win32::Foundation::LocalFree;
use windows_sys::Win32::Security as security;
use windows_sys::Win32::Security::Authorization::ConvertSidToStringSidW;
use windows_sys::Win32::System::ProcessStatus::{K32GetProcessMemoryInfo, PROCESS_MEMORY_COUNTERS};
use windows_sys::Win32::System::Threading::{GetCurrentProcess, OpenProcessToken};

/// More than the identity of any user takes.
const USER_BYTES_MAX: usize = 256;

/// The user of this process, as descriptors name users.
pub(super) fn user() -> io::Result<String> {
    let mut token = ptr::null_mut();
    // SAFETY: this process's own handle, and a place for the token's.
    let opened = unsafe { OpenProcessToken(GetCurrentProcess(), security::TOKEN_QUERY, &mut token) };
    if opened == 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is a handle of ours, and nobody else's.
    let token = unsafe { OwnedHandle::from_raw_handle(token) };
    let mut told = [0_u64; USER_BYTES_MAX / 8];
    let mut bytes = 0;
    // SAFETY: the system writes at most as many bytes as there are; numbers of 8 bytes are aligned for the structure.
    let asked = unsafe {
        security::GetTokenInformation(
            token.as_raw_handle(),
            security::TokenUser,
            told.as_mut_ptr().cast(),
            USER_BYTES_MAX as u32,
            &mut bytes,
        )
    };
    if asked == 0 {
        return Err(io::Error::last_os_error());
    }
    let mut text = ptr::null_mut();
    // SAFETY: the call has filled in a user, whose identity lies in the same bytes.
    let made = unsafe {
        let user = &*told.as_ptr().cast::<security::TOKEN_USER>();
        ConvertSidToStringSidW(user.User.Sid, &mut text)
    };
    if made == 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a text that ends with a zero, made by the system's own allocator, freed once.
    unsafe {
        let length = (0..).take_while(|at| *text.add(*at) != 0).count();
        let user = String::from_utf16_lossy(std::slice::from_raw_parts(text, length));
        LocalFree(text.cast());
        Ok(user)
    }
}

/// How much memory this process has.
pub(super) fn resident_bytes() -> io::Result<u64> {
    let bytes = size_of::<PROCESS_MEMORY_COUNTERS>() as u32;
    let mut told = PROCESS_MEMORY_COUNTERS { cb: bytes, ..PROCESS_MEMORY_COUNTERS::default() };
    // SAFETY: this process's own handle; the system writes at most as many bytes as the object has.
    match unsafe { K32GetProcessMemoryInfo(GetCurrentProcess(), &mut told, bytes) } {
        0 => Err(io::Error::last_os_error()),
        _ => Ok(told.WorkingSetSize as u64),
    }
}
