//! Where a session that is kept can be reached: a socket in a directory of the user's own.
//!
//! The socket is `RUN/SESSION.sock`, where RUN is the first of these that can be had:
//!
//! | RUN | when |
//! |---|---|
//! | `$STEAD_HOME/run/sessions` | the variable is set, as it is for the agents of the daemon's own computer if it is for the daemon |
//! | `$XDG_RUNTIME_DIR/stead/sessions` | that is a directory which only the user can enter |
//! | `${XDG_CACHE_HOME:-~/.cache}/stead/run-BOOT` | BOOT is the number that the kernel took at its start |
//!
//! A login may have a runtime directory and the next one none: a session is looked for in all of them. A home directory
//! may be that of several machines, and a socket is reached through its own kernel alone: there it would look dead to the
//! others, who would remove it. A machine may be given another name while a session lives; its kernel keeps its number, and
//! has it in common with its containers. Where there is no such number the machine's own name takes its place. Its socket is
//! removed when it ends, and RUN with the last one. What a killed session leaves there is removed by whichever begins or ends
//! after it, before the machine starts anew.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use wire::hello::SessionId;

/// How many streams may wait to be taken: a client makes one at a time.
const BACKLOG: i32 = 8;

/// How often a directory is made that another session, which was the last there, has just removed.
const MAKE_TRIES: usize = 8;

/// How many of the sockets in a directory a new session looks at, to remove those that nobody listens to.
const SWEPT_MAX: usize = 256;

const SUFFIX: &str = ".sock";

/// A session's listening socket. Its file is there as long as this is.
pub(crate) struct Door {
    pub socket: OwnedFd,
    directory: OwnedFd,
    path: PathBuf,
    name: String,
}

impl Door {
    /// Makes the socket of a session.
    pub fn open(session: SessionId, variable: impl Fn(&str) -> Option<OsString>) -> io::Result<Door> {
        let mut failed = io::Error::new(io::ErrorKind::NotFound, "neither HOME nor XDG_RUNTIME_DIR is set");
        for path in directories(variable) {
            match Door::open_in(&path, session) {
                Ok(door) => return Ok(door),
                Err(error) => {
                    failed = io::Error::new(error.kind(), format!("`{}`: {error}", path.display()));
                }
            }
        }
        Err(failed)
    }

    fn open_in(path: &Path, session: SessionId) -> io::Result<Door> {
        for _ in 0..MAKE_TRIES {
            std::fs::create_dir_all(path.parent().unwrap_or(path))?;
            match rustix::fs::mkdir(path, Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno.into()),
            }
            let Ok(directory) = private_directory(path) else {
                return Err(io::Error::new(io::ErrorKind::PermissionDenied, "others may enter it"));
            };
            sweep(&directory);
            match listen(&directory, session) {
                Ok(socket) => {
                    let name = format!("{session}{SUFFIX}");
                    return Ok(Door { socket, directory, path: path.to_owned(), name });
                }
                Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Err(Errno::NOENT.into())
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        // What is gone already need not be removed, and a directory with other sockets stays.
        let _ = rustix::fs::unlinkat(&self.directory, &self.name, rustix::fs::AtFlags::empty());
        // One that was being killed when this one began has looked alive then.
        sweep(&self.directory);
        let _ = rustix::fs::rmdir(&self.path);
    }
}

/// Connects to a session; `None` when there is no such session. Never waits. An error is no sign that there is none:
/// `EAGAIN` comes of one that takes no streams.
pub(crate) fn knock(
    session: SessionId,
    variable: impl Fn(&str) -> Option<OsString>,
) -> Result<Option<OwnedFd>, Errno> {
    let name = format!("{session}{SUFFIX}");
    for path in directories(variable) {
        let directory = match private_directory(&path) {
            Ok(directory) => directory,
            Err(errno @ (Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::IO)) => return Err(errno),
            // No session is kept there.
            Err(_) => continue,
        };
        match connect(&directory, &name) {
            Ok(socket) => return Ok(Some(socket)),
            Err(Errno::NOENT) => {}
            Err(Errno::CONNREFUSED) => remove_if_dead(&directory, &name, Errno::CONNREFUSED),
            Err(errno) => return Err(errno),
        }
    }
    Ok(None)
}

fn directories(variable: impl Fn(&str) -> Option<OsString>) -> Vec<PathBuf> {
    let path = |name| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
    if let Some(home) = path(wire::paths::HOME_VARIABLE) {
        return vec![home.join("run/sessions")];
    }
    let runtime = path("XDG_RUNTIME_DIR").filter(|runtime| private_directory(runtime).is_ok());
    let cache = path("XDG_CACHE_HOME").or_else(|| path("HOME").map(|home| home.join(".cache")));
    let runtime = runtime.map(|runtime| runtime.join("stead/sessions"));
    let own = format!("stead/run-{}", boot_id().unwrap_or_else(host_name));
    runtime.into_iter().chain(cache.map(|cache| cache.join(own))).collect()
}

/// What tells the kernel that runs from all others, as part of a file's name.
fn boot_id() -> Option<String> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let number = text.trim_end();
    let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    is_number.then(|| number.to_owned())
}

/// The machine's own name for itself, as part of a file's name.
fn host_name() -> String {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let plain = |byte: u8| if is_plain(&byte) { char::from(byte) } else { '_' };
    rustix::system::uname().nodename().to_bytes().iter().copied().map(plain).collect()
}

/// Opens a directory that belongs to this user, and that nobody else may enter.
fn private_directory(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
    let directory = rustix::fs::openat(CWD, path, flags, Mode::empty())?;
    let stat = rustix::fs::fstat(&directory)?;
    let is_ours = stat.st_uid == rustix::process::geteuid().as_raw();
    match is_ours && stat.st_mode & 0o077 == 0 {
        true => Ok(directory),
        false => Err(Errno::PERM),
    }
}

/// A path to a name in a directory that is short enough for a socket's address, however deep the directory is.
fn address(directory: &OwnedFd, name: &str) -> Result<SocketAddrUnix, Errno> {
    SocketAddrUnix::new(format!("/proc/self/fd/{}/{name}", directory.as_raw_fd()))
}

/// The socket gets its name when it is listened to, so that one which refuses is dead.
fn listen(directory: &OwnedFd, session: SessionId) -> Result<OwnedFd, Errno> {
    let (new, name) = (format!(".{session}"), format!("{session}{SUFFIX}"));
    let socket = unix_socket()?;
    rustix::net::bind(&socket, &address(directory, &new)?)?;
    rustix::fs::chmodat(directory, &new, Mode::RUSR | Mode::WUSR, AtFlags::empty())?;
    rustix::net::listen(&socket, BACKLOG)?;
    rustix::fs::renameat(directory, &new, directory, &name)?;
    Ok(socket)
}

/// Connects without waiting: one that takes no streams, because it is stopped, has a full backlog.
fn connect(directory: &OwnedFd, name: &str) -> Result<OwnedFd, Errno> {
    let socket = unix_socket()?;
    rustix::io::ioctl_fionbio(&socket, true)?;
    rustix::net::connect(&socket, &address(directory, name)?)?;
    rustix::io::ioctl_fionbio(&socket, false)?;
    Ok(socket)
}

fn unix_socket() -> Result<OwnedFd, Errno> {
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
}

fn remove_if_dead(directory: &OwnedFd, name: &str, errno: Errno) {
    if errno == Errno::CONNREFUSED {
        // Another may have removed it just now.
        let _ = rustix::fs::unlinkat(directory, name, rustix::fs::AtFlags::empty());
    }
}

/// Removes what killed sessions have left.
fn sweep(directory: &OwnedFd) {
    let Ok(names) = Dir::read_from(directory) else { return };
    for entry in names.take(SWEPT_MAX).flatten() {
        let Ok(name) = entry.file_name().to_str() else { continue };
        // One that is about to be listened to looks dead, and is then made again.
        let is_unfinished = name.strip_prefix('.').is_some_and(|name| name.parse::<SessionId>().is_ok());
        if !name.ends_with(SUFFIX) && !is_unfinished {
            continue;
        }
        if let Err(errno) = connect(directory, name) {
            remove_if_dead(directory, name, errno);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn home(directory: &Path) -> impl Fn(&str) -> Option<OsString> {
        move |name| (name == wire::paths::HOME_VARIABLE).then(|| directory.into())
    }

    const SESSION: SessionId = SessionId([5; 16]);

    #[test]
    fn a_session_is_found_while_it_lives_and_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let deep = directory.path().join("d".repeat(200));
        let knock = |session| knock(session, home(&deep)).unwrap();
        assert!(knock(SESSION).is_none());
        let door = Door::open(SESSION, home(&deep)).unwrap();
        assert!(knock(SESSION).is_some());
        assert!(knock(SessionId([6; 16])).is_none());
        drop(door);
        assert!(knock(SESSION).is_none());
        assert!(!deep.join("run/sessions").exists());
    }

    #[test]
    fn a_session_that_takes_no_streams_is_neither_waited_for_nor_taken_for_dead() {
        let directory = tempfile::tempdir().unwrap();
        let stopped = Door::open(SESSION, home(directory.path())).unwrap();
        let mut visits = Vec::new();
        let refused = loop {
            match knock(SESSION, home(directory.path())) {
                Ok(visit) => visits.push(visit.expect("the session is there")),
                Err(errno) => break errno,
            }
        };
        assert_eq!(refused, Errno::AGAIN);
        let next = Door::open(SessionId([6; 16]), home(directory.path())).unwrap();
        drop(visits);
        assert!(stopped.path.join(&stopped.name).exists());
        drop(next);
    }

    #[test]
    fn a_socket_that_a_killed_session_had_not_listened_to_is_removed() {
        let directory = tempfile::tempdir().unwrap();
        let door = Door::open(SESSION, home(directory.path())).unwrap();
        let left = format!(".{}", SessionId([6; 16]));
        let socket = unix_socket().unwrap();
        rustix::net::bind(&socket, &address(&door.directory, &left).unwrap()).unwrap();
        let left = door.path.join(left);
        assert!(left.exists());
        drop(Door::open(SessionId([7; 16]), home(directory.path())).unwrap());
        assert!(!left.exists());
    }

    #[test]
    fn what_a_killed_session_left_is_removed_by_the_next() {
        let directory = tempfile::tempdir().unwrap();
        let dead = Door::open(SESSION, home(directory.path())).unwrap();
        let left = dead.path.join(&dead.name);
        let aside = directory.path().join("aside");
        std::fs::hard_link(&left, &aside).unwrap();
        drop(dead);
        let next = Door::open(SessionId([6; 16]), home(directory.path())).unwrap();
        std::fs::rename(&aside, &left).unwrap();
        std::fs::hard_link(&left, &aside).unwrap();
        let third = Door::open(SessionId([7; 16]), home(directory.path())).unwrap();
        assert!(!left.exists());
        assert!(knock(SessionId([6; 16]), home(directory.path())).unwrap().is_some());
        // It ended while these were there.
        std::fs::rename(&aside, &left).unwrap();
        drop((next, third));
        assert!(!left.parent().unwrap().exists());
    }

    #[test]
    fn a_directory_that_others_may_enter_is_not_used() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let run = directory.path().join("run/sessions");
        std::fs::create_dir_all(&run).unwrap();
        std::fs::set_permissions(&run, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert!(Door::open(SESSION, home(directory.path())).is_err());
    }

    #[test]
    fn the_runtime_directory_is_used_if_it_is_private_and_the_cache_if_not() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().to_owned();
        let variables = |name: &str| match name {
            "XDG_RUNTIME_DIR" => Some(path.clone().into()),
            "HOME" => Some("/home/ann".into()),
            _ => None,
        };
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
        let cache = PathBuf::from(format!("/home/ann/.cache/stead/run-{}", boot.trim()));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
        assert_eq!(directories(variables), [path.join("stead/sessions"), cache.clone()]);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(directories(variables), [cache]);
    }
}
