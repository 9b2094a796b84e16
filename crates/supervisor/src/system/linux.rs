//! Linux: pidfds, signals by descriptor, `/proc`.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::net::sockopt::socket_peercred;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, socket_with, socketpair};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, WaitIdStatus, pidfd_open, pidfd_send_signal,
    test_kill_process, waitid,
};
use rustix::thread::gettid;
use tokio::io::unix::AsyncFd;

use super::raw_pid;
use crate::descriptor;
use crate::identity::{Identity, IdentityError};
use crate::socket::Peer;

/// A pidfd that becomes readable with the end of the one thread that it means.
const PIDFD_THREAD: PidfdFlags = PidfdFlags::from_bits_retain(libc::O_EXCL as u32);

/// How a message is sent to somebody who may be gone, without a signal for it.
pub(crate) const SEND: SendFlags = SendFlags::NOSIGNAL;

/// The longest path of a unix socket, without its NUL.
pub(crate) const SOCKET_PATH_BYTES_MAX: usize = 107;

/// Receives with descriptors that no child inherits.
pub(crate) const RECEIVE: RecvFlags = RecvFlags::CMSG_CLOEXEC;

/// What has been received is as it should be: [`RECEIVE`] has seen to it.
pub(crate) fn received(_descriptors: &VecDeque<OwnedFd>) -> io::Result<()> {
    Ok(())
}

/// The program that is running now, even when its file has been replaced by a newer one.
pub(crate) fn own_program() -> PathBuf {
    PathBuf::from("/proc/self/exe")
}

/// A descriptor that becomes readable when the process has ended.
pub(crate) fn watch(pid: u32) -> io::Result<OwnedFd> {
    Ok(pidfd_open(raw_pid(pid)?, PidfdFlags::empty())?)
}

/// A descriptor that becomes readable with the end of a process's main thread; on a kernel before 6.9, and since 6.15,
/// when all others have ended too.
pub(crate) fn watch_main_thread(pid: u32) -> io::Result<OwnedFd> {
    match pidfd_open(raw_pid(pid)?, PIDFD_THREAD) {
        Err(Errno::INVAL) => watch(pid),
        opened => Ok(opened?),
    }
}

/// A descriptor that becomes readable with the end of the calling thread.
pub(crate) fn watch_this_thread() -> io::Result<Option<OwnedFd>> {
    Ok(Some(pidfd_open(gettid(), PIDFD_THREAD)?))
}

/// Signals the process that a descriptor of [`watch`] means, and nobody who has got its number since.
pub(crate) fn signal(watched: BorrowedFd<'_>, _pid: u32, signal: Signal) -> rustix::io::Result<()> {
    pidfd_send_signal(watched, signal)
}

/// Waits for the end of a child, reaps it, and returns how it ended.
pub(crate) async fn reap(watched: &AsyncFd<OwnedFd>, _pid: u32) -> io::Result<WaitIdStatus> {
    loop {
        let mut ready = watched.readable().await?;
        let id = WaitId::PidFd(watched.get_ref().as_fd());
        match waitid(id, WaitIdOptions::EXITED | WaitIdOptions::NOHANG)? {
            Some(status) => return Ok(status),
            None => ready.clear_ready(),
        }
    }
}

/// A descriptor of a child that has not been reaped, for another process.
pub(crate) fn show_child(pid: u32) -> io::Result<OwnedFd> {
    let pidfd = watch(pid)?;
    // Whoever has got the number of a child that was reaped is not this process's to wait for.
    let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    waitid(WaitId::PidFd(pidfd.as_fd()), look)?;
    Ok(pidfd)
}

/// Signals the process that a descriptor of [`show_child`] means.
pub(crate) fn signal_shown(pidfd: BorrowedFd<'_>, signal: Signal) -> rustix::io::Result<()> {
    pidfd_send_signal(pidfd, signal)
}

/// The number of the process that a descriptor of [`show_child`] means, until it has been reaped.
pub(crate) fn shown(pidfd: BorrowedFd<'_>) -> io::Result<Option<u32>> {
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd()))?;
    let number = text.lines().find_map(|line| line.strip_prefix("Pid:"));
    let number: i64 =
        number.and_then(|number| number.trim().parse().ok()).ok_or(io::ErrorKind::InvalidData)?;
    // Minus one when it has been reaped, and zero when it cannot be seen from here.
    Ok(u32::try_from(number).ok().filter(|pid| *pid != 0))
}

/// What the children leave behind when they end is this process's to reap.
pub(crate) fn adopt_orphans() -> io::Result<()> {
    Ok(rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?)
}

/// A descriptor that becomes readable when a child ends. The signal itself is blocked in this thread, the only one.
pub(crate) fn child_signals() -> io::Result<OwnedFd> {
    let mut signals = std::mem::MaybeUninit::uninit();
    // SAFETY: sigemptyset writes the set that it is given, and the others read it.
    let descriptor = unsafe {
        libc::sigemptyset(signals.as_mut_ptr());
        libc::sigaddset(signals.as_mut_ptr(), libc::SIGCHLD);
        if libc::sigprocmask(libc::SIG_BLOCK, signals.as_ptr(), std::ptr::null_mut()) != 0 {
            return Err(io::Error::last_os_error());
        }
        libc::signalfd(-1, signals.as_ptr(), libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)
    };
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Takes all that is there from a descriptor of [`child_signals`]: it says only that there was something.
pub(crate) fn drain(descriptor: BorrowedFd<'_>) {
    let mut bytes = [0; size_of::<libc::signalfd_siginfo>()];
    while rustix::io::read(descriptor, &mut bytes).is_ok_and(|read| read > 0) {}
}

/// The process that has this number now. A zombie that has not been reaped still has it.
pub(crate) fn identify(pid: u32) -> Result<Identity, IdentityError> {
    let path = format!("/proc/{pid}/stat");
    let stat = match std::fs::read(&path) {
        Ok(stat) => stat,
        Err(error) if is_gone(&error) => return Err(IdentityError::Gone { pid }),
        Err(source) => return Err(IdentityError::Proc { path, source }),
    };
    let Some(started) = start_time(&stat) else {
        return Err(IdentityError::Proc { path, source: io::ErrorKind::InvalidData.into() });
    };
    Ok(Identity { pid, started, boot: boot_id()? })
}

/// Whether the main thread of the process with this number has ended.
pub(crate) fn has_ended(pid: u32) -> bool {
    let Ok(stat) = std::fs::read(format!("/proc/{pid}/stat")) else {
        // `/proc` may hide it. One that has ended is not hidden.
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
        return pid.is_none_or(|pid| test_kill_process(pid) == Err(Errno::SRCH));
    };
    let state = stat.iter().rposition(|&byte| byte == b')').and_then(|end| stat.get(end + 2));
    matches!(state, Some(b'Z' | b'X') | None)
}

fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
}

/// Field 22 of `/proc/PID/stat`. The second field is the program's name in parentheses, which may itself hold spaces
/// and parentheses: fields are counted from the last one that closes.
fn start_time(stat: &[u8]) -> Option<u64> {
    let name_end = stat.iter().rposition(|&byte| byte == b')')?;
    let fields = std::str::from_utf8(&stat[name_end + 1..]).ok()?;
    fields.split_ascii_whitespace().nth(22 - 3)?.parse().ok()
}

fn boot_id() -> Result<u128, IdentityError> {
    const PATH: &str = "/proc/sys/kernel/random/boot_id";
    let failed = |source: io::Error| IdentityError::Proc { path: PATH.to_owned(), source };
    let text = std::fs::read_to_string(PATH).map_err(failed)?;
    super::digits(&text).ok_or_else(|| failed(io::ErrorKind::InvalidData.into()))
}

/// Who is on the other end of a socket.
pub(crate) fn peer(socket: BorrowedFd<'_>) -> io::Result<Peer> {
    let credentials = socket_peercred(socket)?;
    Ok(Peer {
        uid: credentials.uid.as_raw(),
        gid: credentials.gid.as_raw(),
        pid: credentials.pid.as_raw_nonzero().get().unsigned_abs(),
    })
}

/// A stream socket that does not block and that no child inherits.
pub(crate) fn stream_socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?)
}

/// A path of a few bytes for what is in an open directory, whose own path may be longer than a socket's.
pub(crate) fn through(directory: &std::fs::File, _path: &Path, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/{name}", directory.as_raw_fd()))
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

/// Where the file of a descriptor is.
pub(crate) fn path_of_stderr() -> io::Result<PathBuf> {
    std::fs::read_link("/proc/self/fd/2")
}

/// Marks every descriptor of this process from 3 on.
pub(crate) fn close_on_exec() -> io::Result<()> {
    // SAFETY: the call takes integers only, and marking a descriptor does not invalidate it.
    match unsafe { libc::close_range(3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC as libc::c_int) } {
        0 => return Ok(()),
        _ => match io::Error::last_os_error() {
            // Before Linux 5.11.
            error if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EINVAL)) => {}
            error => return Err(error),
        },
    }
    super::mark_each(Path::new("/proc/self/fd"))
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
        _ => match io::Error::last_os_error() {
            // Before Linux 5.9 they stay open, and are at least not passed on.
            error if error.raw_os_error() == Some(libc::ENOSYS) => close_on_exec(),
            error => Err(error),
        },
    }
}

/// Has the child begin in a directory.
///
/// # Safety
///
/// The actions must be initialised.
pub(crate) unsafe fn add_change_directory(
    actions: *mut libc::posix_spawn_file_actions_t,
    directory: &std::ffi::CStr,
) -> libc::c_int {
    // SAFETY: the caller vouches for the actions; the path is copied.
    unsafe { libc::posix_spawn_file_actions_addchdir_np(actions, directory.as_ptr()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_program_does_not_shift_the_fields() {
        let tail = " S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20 21";
        for name in ["sh", "a b", "a) S 1 2", "(((", "\u{1}"] {
            assert_eq!(start_time(format!("9 ({name}){tail}").as_bytes()), Some(4711), "{name}");
        }
        assert_eq!(start_time(b"9 (sh S 1"), None);
        assert_eq!(start_time(b"9 (sh) S 1"), None);
        assert_eq!(start_time(b""), None);
    }
}
