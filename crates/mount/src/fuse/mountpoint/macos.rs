//! macOS: macFUSE's helper, which anybody may run. A kernel extension of macFUSE's does what the kernel of Linux does itself.
//!
//! The helper opens a device, sends its descriptor, and mounts; the kernel ends the mounting when the server has answered INIT and
//! STATFS. Then the helper sends 4 bytes, which are 0 unless it failed, and ends.

use super::helper::{self, HelperError, PASSED, WAIT_MAX};
use super::{Access, MountError, MountOptions};
use crate::fuse::device::Device;
use crate::fuse::negotiation::WRITE_BYTES_MAX;
use crate::mountpoint::MountPoint;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command};
use std::time::Instant;

pub(super) const PROGRAM: &str = "/Library/Filesystems/macfuse.fs/Contents/Resources/mount_macfuse";

/// Where the helper comes from.
pub(super) const PACKAGE: &str = "macFUSE, of https://macfuse.io";

/// How it says that the user may not mount there, or not for others: the C library's words for `EACCES` and `EPERM`.
pub(super) const DENIED: [&str; 2] = ["Permission denied", "Operation not permitted"];

/// What the type of every mount of macFUSE begins with.
const FS_TYPE: &[u8] = b"macfuse";

/// What the source of ours begins with: others' mounts have the same type.
const MARK: &[u8] = b"stead:";

/// How long the kernel waits for an answer before it interrupts the request, and then before it takes the server for dead: the longest
/// that it knows. A machine that is away is waited for less by default, and who is interrupted is answered.
const ANSWER_SECONDS_MAX: u32 = 600;

/// What the helper is told besides: that a library has called it, and of which release of its protocol.
const CALLED: [(&str, &str); 2] = [("_FUSE_CALL_BY_LIB", "1"), ("_FUSE_COMMVERS", "2")];

/// What it shows as the program that serves.
const SERVER: &str = "_FUSE_DAEMON_PATH";

/// Whether a mount of this type and source is one of ours.
pub(crate) fn is_ours(fs_type: &[u8], source: &[u8]) -> bool {
    fs_type.starts_with(FS_TYPE) && source.starts_with(MARK)
}

/// A mount that the kernel does not show yet. It does once the server has answered.
#[derive(Debug)]
pub struct Mounting {
    /// None once it has ended.
    child: Option<Child>,
    socket: UnixStream,
    deadline: Instant,
}

impl Mounting {
    /// Waits for the kernel's first message. Where the helper fails it never comes.
    pub fn begun(&mut self, device: &Device) -> Result<(), HelperError> {
        let mut may_fail = true;
        loop {
            let left = self.deadline.saturating_duration_since(Instant::now());
            let left = left.try_into().map_err(|_| HelperError::Late { waited: WAIT_MAX })?;
            let mut waits = vec![PollFd::new(device, PollFlags::IN)];
            if may_fail {
                waits.push(PollFd::new(&self.socket, PollFlags::IN));
            }
            match poll(&mut waits, Some(&left)) {
                Ok(0) => return Err(HelperError::Late { waited: WAIT_MAX }),
                Err(Errno::INTR) => continue,
                Ok(_) => {}
                Err(errno) => return Err(HelperError::Run(errno.into())),
            }
            if !waits[0].revents().is_empty() {
                return Ok(());
            }
            self.hear()?;
            may_fail = false;
        }
    }

    /// Hears how the helper has fared, where it has said so or has ended.
    fn hear(&mut self) -> Result<(), HelperError> {
        let mut status = [0; 4];
        match self.socket.read(&mut status).map_err(HelperError::Run)? {
            0 => self.ended(),
            _ if status == [0; 4] => Ok(()),
            _ => {
                self.ended()?;
                let status = i32::from_ne_bytes(status);
                Err(HelperError::Refused(format!("{PROGRAM} could not mount ({status})")))
            }
        }
    }

    fn ended(&mut self) -> Result<(), HelperError> {
        self.child.take().map_or(Ok(()), |child| helper::finish(child, self.deadline))
    }

    /// Waits until it is mounted. By now requests have to be answered.
    pub fn finish(mut self) -> Result<(), HelperError> {
        self.ended()
    }
}

impl Drop for Mounting {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may be gone already, and then there is nothing to end.
            let _ = child.kill();
            // It may be in the kernel until the device is closed, which comes after this.
            let waits = std::thread::Builder::new().name("mount-helper".into()).spawn(move || child.wait());
            if let Err(error) = waits {
                tracing::error!(%error, "what mounts is not waited for");
            }
        }
    }
}

/// Begins to mount. The device is one that the kernel may send INIT through: see [`Mounting::begun`].
pub fn begin(point: &MountPoint, options: &MountOptions) -> Result<(Device, Mounting), MountError> {
    let path = point.path();
    if options.uid != rustix::process::getuid().as_raw() {
        return Err(MountError::ForAnother { path: path.to_path_buf(), uid: options.uid });
    }
    if options.source.contains(&0) {
        return Err(MountError::SourceName(path.to_path_buf()));
    }
    let mut command = Command::new(PROGRAM);
    for option in spelt(path, options) {
        command.arg("-o").arg(OsStr::from_bytes(&option));
    }
    // Quietly: without windows that ask.
    command.arg("-q").arg(path).env(PASSED.0, PASSED.1).envs(CALLED);
    if let Ok(server) = std::env::current_exe() {
        command.env(SERVER, server);
    }
    start(command).map_err(|source| MountError::Helper { path: path.to_path_buf(), source })
}

fn start(mut command: Command) -> Result<(Device, Mounting), HelperError> {
    let deadline = Instant::now() + WAIT_MAX;
    let (socket, theirs) = helper::socket_pair().map_err(HelperError::Run)?;
    let child = helper::spawn(command.stdin(theirs))?;
    // The command holds their end until it is dropped, and so the end of the stream would not be seen.
    drop(command);
    let received = helper::receive(&socket);
    let mut mounting = Mounting { child: Some(child), socket, deadline };
    match received.map_err(HelperError::Run)? {
        Some(descriptor) => Ok((Device::from_fd(descriptor), mounting)),
        // What the helper says explains what it did not send.
        None => mounting.ended().and(Err(HelperError::NoDescriptor)),
    }
}

/// The options, each list of them an argument. The helper looks for a name anywhere in a list, so what comes from elsewhere has lists of
/// its own, before those that have to stand.
fn spelt(path: &Path, options: &MountOptions) -> Vec<Vec<u8>> {
    let volume = path.file_name().unwrap_or(path.as_os_str());
    let mut fixed = vec!["nosuid".to_owned(), "nodev".to_owned()];
    fixed.extend(options.common());
    fixed.push(format!("iosize={WRITE_BYTES_MAX}"));
    fixed.push(format!("daemon_timeout={ANSWER_SECONDS_MAX}"));
    if options.access == Access::ReadOnly {
        fixed.push("ro".to_owned());
    }
    vec![
        [b"fsname=".as_slice(), MARK, &harmless(&options.source)].concat(),
        [b"volname=".as_slice(), &harmless(volume.as_bytes())].concat(),
        fixed.join(",").into_bytes(),
    ]
}

/// A name without what the helper gives a meaning to. It is only shown.
fn harmless(name: &[u8]) -> Vec<u8> {
    let is_harmless = |byte: u8| !matches!(byte, b',' | b'=' | 0x7f) && byte >= b' ';
    name.iter().map(|&byte| if is_harmless(byte) { byte } else { b'_' }).collect()
}

// They play the helper with sockets that macOS does not have.
#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use std::io::Write;
    use std::os::fd::{AsFd, OwnedFd};
    use std::process::Stdio;

    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    use super::*;
    use crate::fuse::abi::darwin;

    /// What stands for the device, and the kernel's end of it.
    fn device() -> (Device, OwnedFd) {
        let flags = SocketFlags::CLOEXEC;
        let (ours, kernels) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        (Device::speaking(ours, &darwin::FLAVOUR), kernels)
    }

    /// A helper that runs this script, and its end of the socket.
    fn mounting(script: &str) -> (Mounting, UnixStream) {
        let (socket, theirs) = helper::socket_pair().unwrap();
        let mut command = Command::new("sh");
        let child = helper::spawn(command.arg("-c").arg(script).stdin(Stdio::null())).unwrap();
        let deadline = Instant::now() + WAIT_MAX;
        (Mounting { child: Some(child), socket, deadline }, UnixStream::from(theirs))
    }

    #[test]
    fn a_mount_is_begun_with_the_kernels_first_message_and_then_finished() {
        let (device, kernel) = device();
        let (mut mounting, mut theirs) = mounting("exit 0");
        theirs.write_all(&[0; 4]).unwrap();
        drop(theirs);
        rustix::io::write(&kernel, b"INIT").unwrap();
        mounting.begun(&device).unwrap();
        mounting.finish().unwrap();
    }

    #[test]
    fn a_helper_that_fails_is_not_waited_for() {
        let (device, _kernel) = device();
        let (mut failing, theirs) = mounting("echo 'mount_macfuse: not today' >&2; exit 1");
        drop(theirs);
        let refused = failing.begun(&device).unwrap_err();
        assert_eq!(refused.to_string(), "mount_macfuse: not today");
        let (mut failing, mut theirs) = mounting("exit 0");
        theirs.write_all(&5_i32.to_ne_bytes()).unwrap();
        let refused = failing.begun(&device).unwrap_err();
        assert!(refused.to_string().ends_with("could not mount (5)"), "{refused}");
    }

    #[test]
    fn the_device_comes_from_the_helper() {
        let (socket, theirs) = UnixStream::pair().unwrap();
        let (_device, kernel) = device();
        supervisor::descriptor::send(theirs.as_fd(), b"\0", &[kernel.as_fd()]).unwrap();
        assert!(helper::receive(&socket).unwrap().is_some());
        drop(theirs);
        assert!(helper::receive(&socket).unwrap().is_none());
        let mut silent = Command::new("sh");
        silent.arg("-c").arg("echo 'the file system is not available (1)' >&2; exit 69");
        let refused = start(silent).unwrap_err();
        assert_eq!(refused.to_string(), "the file system is not available (1)");
    }

    #[test]
    fn names_cannot_add_options() {
        let mut options = MountOptions::private(b"ssh://far/a,suid\n");
        options.access = Access::ReadOnly;
        let lists = spelt(Path::new("/Users/u/iosize=3"), &options);
        let expected: [&[u8]; 3] = [
            b"fsname=stead:ssh://far/a_suid_",
            b"volname=iosize_3",
            b"nosuid,nodev,default_permissions,iosize=1048576,daemon_timeout=600,ro",
        ];
        assert_eq!(lists, expected);
    }

    #[test]
    fn only_marked_mounts_of_macfuse_are_ours() {
        assert!(is_ours(b"macfuse", b"stead:ssh://far/x"));
        assert!(!is_ours(b"macfuse", b"sshfs@macfuse0"));
        assert!(!is_ours(b"nfs", b"stead:ssh://far/x"));
    }
}
