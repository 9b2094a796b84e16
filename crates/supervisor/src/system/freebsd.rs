//! FreeBSD, from 13.1 on.

use std::collections::VecDeque;
use std::ffi::{CStr, OsStr};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, socket_with, socketpair};

use crate::descriptor;
use crate::identity::{Identity, IdentityError};
use crate::socket::Peer;

/// How a message is sent to somebody who may be gone, without a signal for it.
pub(crate) const SEND: SendFlags = SendFlags::NOSIGNAL;

/// The longest path of a unix socket, without its NUL.
pub(crate) const SOCKET_PATH_BYTES_MAX: usize = 103;

/// Receives with descriptors that no child inherits.
pub(crate) const RECEIVE: RecvFlags = RecvFlags::CMSG_CLOEXEC;

unsafe extern "C" {
    /// In the system's library since 13.1.
    fn posix_spawn_file_actions_addchdir_np(
        actions: *mut libc::posix_spawn_file_actions_t,
        path: *const libc::c_char,
    ) -> libc::c_int;
}

/// What has been received is as it should be: [`RECEIVE`] has seen to it.
pub(crate) fn received(_descriptors: &VecDeque<OwnedFd>) -> io::Result<()> {
    Ok(())
}

/// The process that has this number now. A zombie that has not been reaped still has it.
pub(crate) fn identify(pid: u32) -> Result<Identity, IdentityError> {
    let failed = |source| IdentityError::Proc { path: format!("kern.proc.pid.{pid}"), source };
    let info = info(pid).map_err(failed)?.ok_or(IdentityError::Gone { pid })?;
    // The kernel adds the time of the boot, which moves with the clock, to what it has written down.
    let booted: libc::timeval = value(c"kern.boottime").map_err(failed)?;
    let started = microseconds(&info.ki_start).saturating_sub(microseconds(&booted));
    let boot: [u8; 16] = value(c"kern.boot_id")
        .map_err(|source| IdentityError::Proc { path: "kern.boot_id".to_owned(), source })?;
    Ok(Identity { pid, started, boot: u128::from_be_bytes(boot) })
}

/// Whether the process with this number has ended.
pub(crate) fn has_ended(pid: u32) -> bool {
    info(pid).is_ok_and(|info| info.is_none_or(|info| info.ki_stat == libc::SZOMB))
}

fn microseconds(time: &libc::timeval) -> u64 {
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    seconds.saturating_mul(1_000_000).saturating_add(u64::try_from(time.tv_usec).unwrap_or_default())
}

fn info(pid: u32) -> io::Result<Option<libc::kinfo_proc>> {
    let Ok(number) = libc::c_int::try_from(pid) else { return Ok(None) };
    let name = [libc::CTL_KERN, libc::KERN_PROC, libc::KERN_PROC_PID, number];
    let mut info = MaybeUninit::<libc::kinfo_proc>::zeroed();
    let mut bytes = size_of::<libc::kinfo_proc>();
    // SAFETY: the kernel writes at most `bytes` bytes, and then says how many.
    let code = unsafe {
        libc::sysctl(
            name.as_ptr(),
            name.len() as libc::c_uint,
            info.as_mut_ptr().cast(),
            &mut bytes,
            std::ptr::null(),
            0,
        )
    };
    match (code, bytes) {
        (0, 0) => Ok(None),
        // SAFETY: it is all there, and any bytes are a `kinfo_proc`.
        (0, bytes) if bytes == size_of::<libc::kinfo_proc>() => Ok(Some(unsafe { info.assume_init() })),
        (0, _) => Err(io::ErrorKind::InvalidData.into()),
        _ => match io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::ESRCH) => Ok(None),
            error => Err(error),
        },
    }
}

/// A value of the kernel's that is of any bytes.
fn value<T: Copy>(name: &CStr) -> io::Result<T> {
    let mut value = MaybeUninit::<T>::zeroed();
    let mut bytes = size_of::<T>();
    // SAFETY: the kernel writes at most `bytes` bytes, and then says how many.
    let code = unsafe {
        libc::sysctlbyname(name.as_ptr(), value.as_mut_ptr().cast(), &mut bytes, std::ptr::null(), 0)
    };
    match code {
        // SAFETY: it is all there, and is asked for only as integers.
        0 if bytes == size_of::<T>() => Ok(unsafe { value.assume_init() }),
        0 => Err(io::ErrorKind::InvalidData.into()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// What the children leave behind when they end is this process's to reap.
pub(crate) fn adopt_orphans() -> io::Result<()> {
    Ok(rustix::process::set_reaper_status(true)?)
}

/// Who is on the other end of a socket.
pub(crate) fn peer(socket: BorrowedFd<'_>) -> io::Result<Peer> {
    let mut credentials = MaybeUninit::<libc::xucred>::zeroed();
    let mut bytes = size_of::<libc::xucred>() as libc::socklen_t;
    // SAFETY: the kernel writes at most as many bytes as the object has.
    let code = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_LOCAL,
            libc::LOCAL_PEERCRED,
            credentials.as_mut_ptr().cast(),
            &mut bytes,
        )
    };
    if code != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it was zeroed, and all its fields are integers, but for a pointer in a union that is not read.
    let credentials = unsafe { credentials.assume_init() };
    if credentials.cr_ngroups < 1 {
        return Err(io::ErrorKind::InvalidData.into());
    }
    // SAFETY: the kernel writes this field of the union since FreeBSD 13.
    let pid = unsafe { credentials.cr_pid__c_anonymous_union.cr_pid };
    Ok(Peer { uid: credentials.cr_uid, gid: credentials.cr_groups[0], pid: pid.unsigned_abs() })
}

/// A stream socket that does not block and that no child inherits.
pub(crate) fn stream_socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?)
}

/// There is no way to a socket but its path, which may be too long for one.
pub(crate) fn through(_directory: &std::fs::File, path: &Path, name: &str) -> PathBuf {
    path.join(name)
}

/// Two ends of a channel that keeps messages apart.
pub(crate) fn packet_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

/// Sends one message.
pub(crate) fn send_packet(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    descriptor::send(socket, bytes, descriptors).map(drop)
}

/// Receives one message without waiting for it; 0 bytes are the end.
pub(crate) fn receive_packet(
    socket: BorrowedFd<'_>,
    bytes: &mut [u8],
    descriptors: &mut VecDeque<OwnedFd>,
) -> io::Result<usize> {
    descriptor::receive_now(socket, bytes, descriptors)
}

/// Where the file of standard error is, if the kernel knows its name still.
pub(crate) fn path_of_stderr() -> io::Result<PathBuf> {
    let mut info = MaybeUninit::<libc::kinfo_file>::zeroed();
    // SAFETY: the object is zeroed; the kernel wants to be told its size first, and writes no more than that.
    let info = unsafe {
        (*info.as_mut_ptr()).kf_structsize = size_of::<libc::kinfo_file>() as libc::c_int;
        if libc::fcntl(libc::STDERR_FILENO, libc::F_KINFO, info.as_mut_ptr()) != 0 {
            return Err(io::Error::last_os_error());
        }
        info.assume_init()
    };
    let path: Vec<u8> = info.kf_path.iter().map(|byte| *byte as u8).take_while(|byte| *byte != 0).collect();
    Ok(PathBuf::from(OsStr::from_bytes(&path)))
}

/// Marks every descriptor of this process from 3 on.
pub(crate) fn close_on_exec() -> io::Result<()> {
    // SAFETY: the call takes integers only, and marking a descriptor does not invalidate it.
    match unsafe { libc::close_range(3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC as libc::c_int) } {
        0 => Ok(()),
        // Only those that are listed, which without fdescfs are the first three.
        _ => super::mark_each(Path::new("/dev/fd")),
    }
}

/// Closes every descriptor from 3 on.
///
/// # Safety
///
/// Nothing in this process may own such a descriptor.
pub(crate) unsafe fn close_inherited() -> io::Result<()> {
    // SAFETY: the caller vouches for it that nobody uses them.
    match unsafe { libc::close_range(3, libc::c_uint::MAX, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Has the child begin in a directory.
///
/// # Safety
///
/// The actions must be initialised.
pub(crate) unsafe fn add_change_directory(
    actions: *mut libc::posix_spawn_file_actions_t,
    directory: &CStr,
) -> libc::c_int {
    // SAFETY: the caller vouches for the actions; the path is copied.
    unsafe { posix_spawn_file_actions_addchdir_np(actions, directory.as_ptr()) }
}
