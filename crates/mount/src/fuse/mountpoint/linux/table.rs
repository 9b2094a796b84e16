//! The mount table of this process, from `/proc/self/mountinfo`, and the kernel's controls of FUSE
//! connections.
//!
//! One line is one mount, later lines lie above earlier ones:
//!
//! ```text
//! 36 35 0:52 / /mnt/far rw,nosuid,nodev shared:1 - fuse.stead ssh://far/src rw,user_id=0,group_id=0
//! id parent device root path options [tags ...] - type source options-of-the-file-system
//! ```
//!
//! In paths and names space, tab, newline and backslash are a backslash and three octal digits.

use super::FS_TYPE;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::{fs, io};
use thiserror::Error;

const MOUNTINFO: &str = "/proc/self/mountinfo";

/// The file system through which connections are controlled.
const CONTROL_FS_TYPE: &[u8] = b"fusectl";

/// The mount table could not be had.
#[derive(Debug, Error)]
pub enum TableError {
    /// No `/proc`?
    #[error("could not read {MOUNTINFO}")]
    Read(#[source] io::Error),
    /// A line that is not as documented.
    #[error("line {line} of {MOUNTINFO} is not a mount")]
    Line {
        /// Counted from 1.
        line: usize,
    },
}

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountEntry {
    /// The mount's number.
    pub id: u64,
    /// Device major number; 0 for FUSE.
    pub major: u32,
    /// Device minor number.
    pub minor: u32,
    /// Where, as seen from this process's root.
    pub path: PathBuf,
    /// For example `fuse.stead`.
    pub fs_type: Vec<u8>,
    /// What, in the words of whoever mounted it.
    pub source: Vec<u8>,
}

impl MountEntry {
    /// Whether it is a mount of Stead's.
    pub fn is_ours(&self) -> bool {
        self.fs_type == FS_TYPE.as_bytes()
    }

    /// The kernel's connection behind it, if it is a FUSE mount.
    pub fn connection(&self) -> Option<Connection> {
        let is_fuse = self.fs_type == b"fuse" || self.fs_type.starts_with(b"fuse.");
        (is_fuse && self.major == 0).then_some(Connection(self.minor))
    }

    /// Ends every request that waits for the server, if it is a FUSE mount. A server that was killed and has a thread in the
    /// kernel holds the connection open until its requests are ended so. Where that is not possible, root's
    /// [`unmount`](super::unmount) does it.
    pub fn end_requests(&self, mounts: &Mounts) -> Result<(), AbortError> {
        match self.connection().map(|connection| connection.abort(mounts)) {
            None | Some(Ok(()) | Err(AbortError::NoConnection(_))) => Ok(()),
            Some(Err(AbortError::Unsupported)) if rustix::process::geteuid().is_root() => Ok(()),
            Some(Err(error)) => Err(error),
        }
    }
}

/// All mounts that this process sees.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mounts {
    entries: Vec<MountEntry>,
}

impl Mounts {
    /// The table as it is now.
    pub fn read() -> Result<Self, TableError> {
        Self::parse(&fs::read(MOUNTINFO).map_err(TableError::Read)?)
    }

    /// The table in these bytes.
    pub fn parse(mountinfo: &[u8]) -> Result<Self, TableError> {
        let lines = mountinfo.split(|&byte| byte == b'\n').enumerate().filter(|(_, line)| !line.is_empty());
        let parse = |(index, line)| parse_line(line).ok_or(TableError::Line { line: index + 1 });
        Ok(Self { entries: lines.map(parse).collect::<Result<_, _>>()? })
    }

    /// In the order in which they lie on each other.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &MountEntry> {
        self.entries.iter()
    }

    /// The uppermost mount on exactly this path.
    pub fn at(&self, path: &Path) -> Option<&MountEntry> {
        self.iter().rev().find(|mount| mount.path == path)
    }

    /// Stead's.
    pub fn ours(&self) -> impl DoubleEndedIterator<Item = &MountEntry> {
        self.iter().filter(|mount| mount.is_ours())
    }

    /// The one of Stead's that a file of this device belongs to.
    pub fn ours_of(&self, device: u64) -> Option<&MountEntry> {
        self.ours().find(|mount| rustix::fs::makedev(mount.major, mount.minor) == device)
    }

    fn control_directory(&self) -> Option<&Path> {
        self.iter().find(|mount| mount.fs_type == CONTROL_FS_TYPE).map(|mount| mount.path.as_path())
    }
}

fn parse_line(line: &[u8]) -> Option<MountEntry> {
    let mut fields = line.split(|&byte| byte == b' ');
    let id = number(fields.next()?)?;
    let _parent = fields.next()?;
    let device = fields.next()?;
    let colon = device.iter().position(|&byte| byte == b':')?;
    let _root = fields.next()?;
    let path = unescape(fields.next()?);
    let mut fields = fields.skip_while(|&field| field != b"-").skip(1);
    Some(MountEntry {
        id,
        major: number(&device[..colon])?,
        minor: number(&device[colon + 1..])?,
        path: OsString::from_vec(path).into(),
        fs_type: unescape(fields.next()?),
        source: unescape(fields.next()?),
    })
}

fn number<T: std::str::FromStr>(digits: &[u8]) -> Option<T> {
    str::from_utf8(digits).ok()?.parse().ok()
}

/// Turns a backslash and three octal digits into the byte they stand for; everything else stays.
fn unescape(mut field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    while let Some((&first, rest)) = field.split_first() {
        let octal = rest.first_chunk().filter(|_| first == b'\\').and_then(octal_byte);
        bytes.push(octal.unwrap_or(first));
        field = if octal.is_some() { &rest[3..] } else { rest };
    }
    bytes
}

fn octal_byte(digits: &[u8; 3]) -> Option<u8> {
    let value = digits.iter().try_fold(0_u32, |value, digit| {
        matches!(digit, b'0'..=b'7').then(|| value * 8 + u32::from(digit - b'0'))
    })?;
    u8::try_from(value).ok()
}

/// The kernel's number of a FUSE connection. It may be given to another connection after the mount has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Connection(pub u32);

/// Why a connection was not aborted.
#[derive(Debug, Error)]
pub enum AbortError {
    /// The control file system is mounted nowhere; mounting it is the administrator's choice.
    #[error("connections cannot be aborted: no fusectl file system is mounted")]
    Unsupported,
    /// There is no such connection, any more or for this user.
    #[error("there is no FUSE connection {}", .0.0)]
    NoConnection(Connection),
    /// The control file could not be written.
    #[error("could not write `{}`", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl Connection {
    /// Ends every request in progress with ECONNABORTED and every later one with ENOTCONN. The mount stays in
    /// the table until it is unmounted. The user who mounted it may do this, and root.
    pub fn abort(self, mounts: &Mounts) -> Result<(), AbortError> {
        let control = mounts.control_directory().ok_or(AbortError::Unsupported)?;
        let path = control.join(self.0.to_string()).join("abort");
        match fs::write(&path, b"1") {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(AbortError::NoConnection(self)),
            Err(source) => Err(AbortError::Write { path, source }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStrExt;

    const TABLE: &[u8] = b"\
22 1 254:0 / / rw,relatime - ext4 /dev/root rw
36 22 0:52 / /mnt/with\\040space\\011tab\\012line\\134back rw,nosuid shared:1 master:2 - fuse.stead ssh://far/a\\040b rw
37 22 0:53 / /mnt/x rw - fuse.sshfs  rw
38 22 0:54 / /mnt/x rw - fuse.stead host:/\xff rw
39 22 0:30 / /sys/fs/fuse/connections rw - fusectl none rw
";

    #[test]
    fn the_table_is_read_with_escapes_tags_and_empty_sources() {
        let mounts = Mounts::parse(TABLE).unwrap();
        let ours: Vec<_> = mounts.ours().collect();
        assert_eq!(ours.len(), 2);
        assert_eq!(ours[0].path.as_os_str().as_bytes(), b"/mnt/with space\ttab\nline\\back");
        assert_eq!(ours[0].source, b"ssh://far/a b");
        assert_eq!(ours[1].source, b"host:/\xff");
        assert_eq!(ours[0].connection(), Some(Connection(52)));
        assert_eq!(mounts.at(Path::new("/")).unwrap().connection(), None);
        assert_eq!(mounts.control_directory(), Some(Path::new("/sys/fs/fuse/connections")));
    }

    #[test]
    fn the_uppermost_mount_on_a_path_counts() {
        let mounts = Mounts::parse(TABLE).unwrap();
        assert_eq!(mounts.at(Path::new("/mnt/x")).unwrap().id, 38);
        assert_eq!(mounts.at(Path::new("/mnt")), None);
    }

    #[test]
    fn a_line_that_is_no_mount_is_an_error() {
        for bad in
            ["garbage", "1 2 3 / /x rw - ext4 src rw", "1 2 0:1 / /x rw ext4 src rw", "1 2 0:1 / /x rw -"]
        {
            let table = format!("22 1 254:0 / / rw - ext4 /dev/root rw\n{bad}\n");
            let refused = Mounts::parse(table.as_bytes()).unwrap_err();
            assert!(matches!(refused, TableError::Line { line: 2 }), "{bad}");
        }
    }

    #[test]
    fn what_only_looks_like_an_escape_stays() {
        assert_eq!(unescape(br"a\04"), br"a\04");
        assert_eq!(unescape(br"\999\777\101"), br"\999\777A");
        assert_eq!(unescape(b"\\"), b"\\");
    }

    #[test]
    fn the_table_of_this_process_has_a_root() {
        assert!(Mounts::read().unwrap().at(Path::new("/")).is_some());
    }
}
