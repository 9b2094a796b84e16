//! macOS.

use std::collections::VecDeque;
use std::ffi::{CStr, OsStr};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::io::FdFlags;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, socket, socketpair};

use crate::descriptor;
use crate::identity::{Identity, IdentityError};
use crate::socket::Peer;

/// A Rust program ignores `SIGPIPE`, and no flag is needed.
pub(crate) const SEND: SendFlags = SendFlags::empty();

/// The longest path of a unix socket, without its NUL.
pub(crate) const SOCKET_PATH_BYTES_MAX: usize = 103;

/// There is no flag that keeps children from inheriting: see [`received`].
pub(crate) const RECEIVE: RecvFlags = RecvFlags::empty();

/// The number of bytes of a message on a channel: its length, and 63 for what it says.
const PACKET_BYTES: usize = 64;

/// `libproc` is asked for zombies too.
const ZOMBIES_TOO: u64 = 1;

/// Keeps children from inheriting what has been received.
pub(crate) fn received(descriptors: &VecDeque<OwnedFd>) -> io::Result<()> {
    for descriptor in descriptors {
        rustix::io::fcntl_setfd(descriptor, FdFlags::CLOEXEC)?;
    }
    Ok(())
}

/// The process that has this number now. A zombie that has not been reaped still has it.
pub(crate) fn identify(pid: u32) -> Result<Identity, IdentityError> {
    let info = match info(pid) {
        Ok(info) => info,
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Err(IdentityError::Gone { pid }),
        Err(source) => return Err(IdentityError::Proc { path: format!("libproc of {pid}"), source }),
    };
    let started = info.pbi_start_tvsec.saturating_mul(1_000_000).saturating_add(info.pbi_start_tvusec);
    Ok(Identity { pid, started, boot: boot_id()? })
}

/// Whether the process with this number has ended.
pub(crate) fn has_ended(pid: u32) -> bool {
    match info(pid) {
        Ok(info) => info.pbi_status == libc::SZOMB,
        Err(error) => error.raw_os_error() == Some(libc::ESRCH),
    }
}

fn info(pid: u32) -> io::Result<libc::proc_bsdinfo> {
    let number = libc::c_int::try_from(pid).map_err(|_| io::Error::from_raw_os_error(libc::ESRCH))?;
    let mut info = MaybeUninit::<libc::proc_bsdinfo>::zeroed();
    let bytes = size_of::<libc::proc_bsdinfo>();
    // SAFETY: the kernel writes at most as many bytes as the object has.
    let written = unsafe {
        libc::proc_pidinfo(
            number,
            libc::PROC_PIDTBSDINFO,
            ZOMBIES_TOO,
            info.as_mut_ptr().cast(),
            bytes as libc::c_int,
        )
    };
    match usize::try_from(written) {
        // SAFETY: it is all there, and any bytes are a `proc_bsdinfo`.
        Ok(written) if written == bytes => Ok(unsafe { info.assume_init() }),
        _ => Err(io::Error::last_os_error()),
    }
}

fn boot_id() -> Result<u128, IdentityError> {
    const NAME: &CStr = c"kern.bootsessionuuid";
    let failed =
        |source: io::Error| IdentityError::Proc { path: NAME.to_string_lossy().into_owned(), source };
    let mut text = [0_u8; 64];
    let mut bytes = text.len();
    // SAFETY: the kernel writes at most `bytes` bytes, and then says how many.
    let code = unsafe {
        libc::sysctlbyname(NAME.as_ptr(), text.as_mut_ptr().cast(), &mut bytes, std::ptr::null_mut(), 0)
    };
    if code != 0 {
        return Err(failed(io::Error::last_os_error()));
    }
    let text = CStr::from_bytes_until_nul(&text).ok().and_then(|text| text.to_str().ok());
    text.and_then(super::digits).ok_or_else(|| failed(io::ErrorKind::InvalidData.into()))
}

/// Nobody but the system adopts orphans here.
pub(crate) fn adopt_orphans() -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Who is on the other end of a socket.
pub(crate) fn peer(socket: BorrowedFd<'_>) -> io::Result<Peer> {
    let (mut uid, mut gid) = (0, 0);
    // SAFETY: the kernel writes the two numbers.
    if unsafe { libc::getpeereid(socket.as_raw_fd(), &mut uid, &mut gid) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let mut pid: libc::pid_t = 0;
    let mut bytes = size_of::<libc::pid_t>() as libc::socklen_t;
    // SAFETY: the kernel writes at most as many bytes as the number has.
    let code = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_LOCAL,
            libc::LOCAL_PEERPID,
            (&raw mut pid).cast(),
            &mut bytes,
        )
    };
    match code {
        0 => Ok(Peer { uid, gid, pid: pid.unsigned_abs() }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A stream socket that does not block and that no child inherits.
pub(crate) fn stream_socket() -> io::Result<OwnedFd> {
    let socket = socket(AddressFamily::UNIX, SocketType::STREAM, None)?;
    rustix::io::fcntl_setfd(&socket, FdFlags::CLOEXEC)?;
    rustix::io::ioctl_fionbio(&socket, true)?;
    Ok(socket)
}

/// There is no way to a socket but its path, which may be too long for one.
pub(crate) fn through(_directory: &std::fs::File, path: &Path, name: &str) -> PathBuf {
    path.join(name)
}

/// Two ends of a channel: a stream on which all messages have one length, as there are no packets.
pub(crate) fn packet_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let (one, other) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::empty(), None)?;
    for end in [&one, &other] {
        rustix::io::fcntl_setfd(end, FdFlags::CLOEXEC)?;
    }
    Ok((one, other))
}

/// Sends one message.
pub(crate) fn send_packet(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    if bytes.len() >= PACKET_BYTES {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut packet = [0; PACKET_BYTES];
    packet[0] = bytes.len() as u8;
    packet[1..=bytes.len()].copy_from_slice(bytes);
    let mut written = descriptor::send(socket, &packet, descriptors)?;
    while written < PACKET_BYTES {
        written += descriptor::send(socket, &packet[written..], &[])?;
    }
    Ok(())
}

/// Receives one message without waiting for it; 0 bytes are the end.
pub(crate) fn receive_packet(
    socket: BorrowedFd<'_>,
    bytes: &mut [u8],
    descriptors: &mut VecDeque<OwnedFd>,
) -> io::Result<usize> {
    let mut packet = [0; PACKET_BYTES];
    // Looked at before it is taken: half a message is none yet.
    let (there, _) = recv(socket, &mut packet, RecvFlags::PEEK | RecvFlags::DONTWAIT)?;
    match there {
        0 => return Ok(0),
        PACKET_BYTES => {}
        _ => return Err(io::ErrorKind::WouldBlock.into()),
    }
    let mut taken = 0;
    while taken < PACKET_BYTES {
        taken += descriptor::receive_now(socket, &mut packet[taken..], descriptors)?;
    }
    let said = packet.get(1..=usize::from(packet[0])).ok_or(io::ErrorKind::InvalidData)?;
    let room = bytes.get_mut(..said.len()).ok_or(io::ErrorKind::InvalidData)?;
    room.copy_from_slice(said);
    Ok(said.len())
}

/// Where the file of standard error is.
pub(crate) fn path_of_stderr() -> io::Result<PathBuf> {
    let path = rustix::fs::getpath(io::stderr().as_fd())?;
    Ok(PathBuf::from(OsStr::from_bytes(path.as_bytes())))
}

/// Marks every descriptor of this process from 3 on.
pub(crate) fn close_on_exec() -> io::Result<()> {
    super::mark_each(Path::new("/dev/fd"))
}

/// They stay open, and are at least not passed on.
///
/// # Safety
///
/// None is needed here: it is for the other systems.
pub(crate) unsafe fn close_inherited() -> io::Result<()> {
    close_on_exec()
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
    unsafe { libc::posix_spawn_file_actions_addchdir_np(actions, directory.as_ptr()) }
}
