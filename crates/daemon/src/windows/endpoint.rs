//! Where clients come in: a named pipe that its user may open, and nobody else.
//!
//! Its descriptor names the user as owner and grants everything to him alone; nothing is inherited, and clients of other computers are
//! refused. The first instance is made only if there is none yet, whoever's it is. A client looks at the owner for its part.

use std::fs::File;
use std::io;
use std::os::windows::io::{AsRawHandle, FromRawHandle, OwnedHandle};
use std::ptr;

use supervisor::user::User;
use windows_sys::Win32::Foundation as foundation;
use windows_sys::Win32::Security as security;
use windows_sys::Win32::Security::Authorization as authorization;
use windows_sys::Win32::Storage::FileSystem as fs;
use windows_sys::Win32::System::Pipes as pipes;

/// What the system keeps of what nobody has read yet.
const BUFFER_BYTES: u32 = 64 << 10;

/// The pipe. There is always one instance of it that waits for a client.
pub(super) struct Endpoint {
    name: Vec<u16>,
    descriptor: Descriptor,
    waiting: OwnedHandle,
}

impl Endpoint {
    /// Makes the pipe. Where there is one of this name, that is [`PermissionDenied`](io::ErrorKind::PermissionDenied).
    pub(super) fn bind(name: &str) -> io::Result<Endpoint> {
        let name: Vec<u16> = name.encode_utf16().chain([0]).collect();
        let descriptor = Descriptor::of_user(&User::of_process()?.to_text()?)?;
        let waiting = instance(&name, &descriptor, fs::FILE_FLAG_FIRST_PIPE_INSTANCE)?;
        Ok(Endpoint { name, descriptor, waiting })
    }

    /// Waits for a client.
    pub(super) fn accept(&mut self) -> io::Result<File> {
        loop {
            // SAFETY: the handle is a pipe's and open; it is not used in an overlapped way.
            let connected = unsafe { pipes::ConnectNamedPipe(self.waiting.as_raw_handle(), ptr::null_mut()) };
            let outcome = if connected == 0 { Err(io::Error::last_os_error()) } else { Ok(()) };
            let next = instance(&self.name, &self.descriptor, 0)?;
            let client = std::mem::replace(&mut self.waiting, next);
            match outcome.as_ref().map_err(io::Error::raw_os_error) {
                Ok(()) => return Ok(File::from(client)),
                // It came before it was waited for.
                Err(Some(code)) if code == foundation::ERROR_PIPE_CONNECTED as i32 => {
                    return Ok(File::from(client));
                }
                // It has gone again.
                Err(Some(code)) if code == foundation::ERROR_NO_DATA as i32 => {}
                Err(_) => outcome?,
            }
        }
    }
}

fn instance(name: &[u16], descriptor: &Descriptor, first: u32) -> io::Result<OwnedHandle> {
    let attributes = security::SECURITY_ATTRIBUTES {
        nLength: size_of::<security::SECURITY_ATTRIBUTES>() as u32,
        lpSecurityDescriptor: descriptor.0,
        bInheritHandle: 0,
    };
    // SAFETY: the name ends with a zero, the descriptor is whole, and both outlive the call.
    let handle = unsafe {
        pipes::CreateNamedPipeW(
            name.as_ptr(),
            fs::PIPE_ACCESS_DUPLEX | first,
            pipes::PIPE_TYPE_BYTE
                | pipes::PIPE_READMODE_BYTE
                | pipes::PIPE_WAIT
                | pipes::PIPE_REJECT_REMOTE_CLIENTS,
            pipes::PIPE_UNLIMITED_INSTANCES,
            BUFFER_BYTES,
            BUFFER_BYTES,
            0,
            &attributes,
        )
    };
    if handle == foundation::INVALID_HANDLE_VALUE {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is a handle of ours, and nobody else's.
    Ok(unsafe { OwnedHandle::from_raw_handle(handle) })
}

/// Who may do what.
struct Descriptor(security::PSECURITY_DESCRIPTOR);

// SAFETY: memory that is read and never written.
unsafe impl Send for Descriptor {}

impl Descriptor {
    /// Everything for one user, who is its owner, and nothing for others; nothing is inherited.
    fn of_user(user: &str) -> io::Result<Descriptor> {
        let text = format!("O:{user}D:P(A;;FA;;;{user})");
        let text: Vec<u16> = text.encode_utf16().chain([0]).collect();
        let mut descriptor = ptr::null_mut();
        // SAFETY: the text ends with a zero; the system makes the descriptor, which is freed when this is dropped.
        let made = unsafe {
            authorization::ConvertStringSecurityDescriptorToSecurityDescriptorW(
                text.as_ptr(),
                authorization::SDDL_REVISION_1,
                &mut descriptor,
                ptr::null_mut(),
            )
        };
        if made == 0 { Err(io::Error::last_os_error()) } else { Ok(Descriptor(descriptor)) }
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        // SAFETY: the system has made it with its own allocator, and nobody else frees it.
        unsafe { foundation::LocalFree(self.0) };
    }
}
