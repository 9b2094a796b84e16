//! Who this process is, to Windows.

use std::io;
use std::os::windows::io::{AsRawHandle, FromRawHandle, OwnedHandle};
use std::ptr;

use windows_sys::Win32::Foundation::{ERROR_SUCCESS, LocalFree};
use windows_sys::Win32::Security as security;
use windows_sys::Win32::Security::Authorization as authorization;
use windows_sys::Win32::System::Threading::{GetCurrentProcess, OpenProcessToken};

/// More than the identity of any user takes.
const USER_BYTES_MAX: usize = 256;

/// A user.
pub struct User {
    /// What the system tells: a head, and the identity that it points to, which stays where it is.
    told: Box<[u64; USER_BYTES_MAX / 8]>,
}

impl User {
    /// The one whose this process is.
    pub fn of_process() -> io::Result<User> {
        let mut token = ptr::null_mut();
        // SAFETY: this process's own handle, and a place for the token's.
        if unsafe { OpenProcessToken(GetCurrentProcess(), security::TOKEN_QUERY, &mut token) } == 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: it is a handle of ours, and nobody else's.
        let token = unsafe { OwnedHandle::from_raw_handle(token) };
        let mut told = Box::new([0_u64; USER_BYTES_MAX / 8]);
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
        if asked == 0 { Err(io::Error::last_os_error()) } else { Ok(User { told }) }
    }

    fn identity(&self) -> security::PSID {
        // SAFETY: the system has filled in the structure, which is aligned, and of which any bytes are one.
        unsafe { (*self.told.as_ptr().cast::<security::TOKEN_USER>()).User.Sid }
    }

    /// As descriptors name it.
    pub fn to_text(&self) -> io::Result<String> {
        let mut text = ptr::null_mut();
        // SAFETY: the identity is whole, and lies in bytes that are there still.
        if unsafe { authorization::ConvertSidToStringSidW(self.identity(), &mut text) } == 0 {
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

    /// Whether it owns an object of the system's, as a pipe.
    pub fn owns(&self, object: &impl AsRawHandle) -> io::Result<bool> {
        let (mut owner, mut descriptor) = (ptr::null_mut(), ptr::null_mut());
        // SAFETY: the handle is open, and there is a place for each of what is asked for.
        let code = unsafe {
            authorization::GetSecurityInfo(
                object.as_raw_handle(),
                authorization::SE_KERNEL_OBJECT,
                security::OWNER_SECURITY_INFORMATION,
                &mut owner,
                ptr::null_mut(),
                ptr::null_mut(),
                ptr::null_mut(),
                &mut descriptor,
            )
        };
        if code != ERROR_SUCCESS {
            return Err(io::Error::from_raw_os_error(code as i32));
        }
        // SAFETY: both identities are whole; the owner's lies in the descriptor, which is freed afterwards, once.
        unsafe {
            let is_own = security::EqualSid(self.identity(), owner) != 0;
            LocalFree(descriptor);
            Ok(is_own)
        }
    }
}
