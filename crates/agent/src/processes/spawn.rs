//! Starting a program.

use std::ffi::{OsStr, OsString};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::pty::OpenptFlags;
use wire::agent::Failure;
use wire::agent::process::{TerminalSize, WORDS_MAX};

use crate::Options;
use crate::failure::failure;
use crate::processes::winsize;

/// What is to be run, and how.
pub(super) struct Command {
    pub words: Vec<Vec<u8>>,
    pub environment: Vec<(Vec<u8>, Vec<u8>)>,
    pub directory: Option<Vec<u8>>,
    pub terminal: Option<TerminalSize>,
    pub detached: bool,
}

/// This side's ends of a process's standard streams. With a terminal, input and output are both its master.
pub(super) struct Streams {
    pub input: Option<OwnedFd>,
    pub output: Option<OwnedFd>,
    pub errors: Option<OwnedFd>,
    pub terminal: Option<OwnedFd>,
}

/// Starts a program in a session and process group of its own.
pub(super) fn start(command: Command, options: &Options, umask: Mode) -> Result<(Child, Streams), Failure> {
    if command.words.len() > WORDS_MAX || command.environment.len() > WORDS_MAX {
        return Err(failure(Errno::TOOBIG));
    }
    let mut program = prepare(&command, options)?;
    let terminal = command.terminal;
    let terminal = terminal.map(open_terminal).transpose().map_err(failure)?;
    let has_terminal = terminal.is_some();
    match &terminal {
        None => {
            program.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        }
        Some((_, slave)) => {
            let copy = || slave.try_clone().map(Stdio::from).map_err(|error| from_io(&error));
            program.stdin(copy()?).stdout(copy()?).stderr(copy()?);
        }
    }
    let enter = move || {
        rustix::process::setsid()?;
        rustix::process::umask(umask);
        for ignored in [libc::SIGXFSZ, libc::SIGHUP] {
            // SAFETY: the default action runs no code; the agent ignores these signals and its programs must not.
            unsafe { libc::signal(ignored, libc::SIG_DFL) };
        }
        if has_terminal {
            // SAFETY: the standard input of the new process is open; it was put there just before.
            let input = unsafe { BorrowedFd::borrow_raw(0) };
            rustix::process::ioctl_tiocsctty(input)?;
        }
        Ok(())
    };
    // SAFETY: between fork and exec the closure makes a few system calls and touches no memory but its own.
    unsafe { program.pre_exec(enter) };
    let mut child = program.spawn().map_err(|error| {
        // The system's number is the same for a program and for a directory that is not there.
        let directory = directory_of(&command, options);
        match std::fs::metadata(&directory) {
            Ok(found) if found.is_dir() => from_io(&error),
            Ok(_) => about(&directory, failure(Errno::NOTDIR)),
            Err(error) => about(&directory, from_io(&error)),
        }
    })?;
    let streams = match terminal {
        Some((master, _)) => Streams {
            input: Some(master.try_clone().map_err(|error| from_io(&error))?),
            output: Some(master.try_clone().map_err(|error| from_io(&error))?),
            errors: None,
            terminal: Some(master),
        },
        None => Streams {
            input: child.stdin.take().map(OwnedFd::from),
            output: child.stdout.take().map(OwnedFd::from),
            errors: child.stderr.take().map(OwnedFd::from),
            terminal: None,
        },
    };
    Ok((child, streams))
}

fn prepare(command: &Command, options: &Options) -> Result<std::process::Command, Failure> {
    let mut program = match command.words.split_first() {
        Some((name, arguments)) => {
            let mut program = std::process::Command::new(OsStr::from_bytes(name));
            program.args(arguments.iter().map(|word| OsStr::from_bytes(word)));
            program
        }
        None => login_shell(&options.shell),
    };
    for (key, value) in &command.environment {
        if key.is_empty() || key.contains(&b'=') {
            return Err(failure(Errno::INVAL));
        }
        program.env(OsStr::from_bytes(key), OsStr::from_bytes(value));
    }
    program.current_dir(directory_of(command, options));
    Ok(program)
}

/// Where the program starts.
fn directory_of(command: &Command, options: &Options) -> PathBuf {
    let home = Path::new(OsStr::from_bytes(&options.home));
    home.join(OsStr::from_bytes(command.directory.as_deref().unwrap_or_default()))
}

fn about(directory: &Path, failure: Failure) -> Failure {
    let name = directory.as_os_str().as_bytes().escape_ascii();
    Failure { detail: format!("the directory `{name}`"), ..failure }
}

/// A shell knows that it is a login's by a dash before its name.
fn login_shell(path: &[u8]) -> std::process::Command {
    let name = path.rsplit(|b| *b == b'/').next().unwrap_or(path);
    let mut program = std::process::Command::new(OsStr::from_bytes(path));
    program.arg0(OsString::from_vec([b"-", name].concat()));
    program
}

/// A new terminal: its master and its slave.
fn open_terminal(size: TerminalSize) -> Result<(OwnedFd, OwnedFd), Errno> {
    let master = rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    rustix::pty::grantpt(&master)?;
    rustix::pty::unlockpt(&master)?;
    rustix::termios::tcsetwinsize(&master, winsize(size))?;
    let name = rustix::pty::ptsname(&master, Vec::new())?;
    let slave = rustix::fs::open(name, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())?;
    Ok((master, slave))
}

fn from_io(error: &std::io::Error) -> Failure {
    failure(Errno::from_io_error(error).unwrap_or(Errno::INVAL))
}
