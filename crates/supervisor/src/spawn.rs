//! Starting a child.

use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::ptr;

use crate::identity::{Identity, IdentityError};
use crate::process::Process;
use crate::system;

/// The program that is running now; on Linux even when its file has been replaced by a newer one.
pub fn own_program() -> PathBuf {
    system::own_program()
}

/// A child to be started.
///
/// It runs in a session and process group of its own, so that a terminal's signals do not reach it, with every signal
/// unblocked and at its default. It keeps running when its parent ends. It gets no descriptor of this process that is
/// not named here: starting it marks all others, also inherited ones, as close-on-exec. Those that a shell or a test left open to this
/// process would otherwise live as long as the longest-lived worker.
#[derive(Debug)]
pub struct Spawn {
    program: PathBuf,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    directory: Option<PathBuf>,
    stdio: [Stdio; 3],
    descriptors: Vec<(RawFd, OwnedFd)>,
}

/// What one of a child's standard streams is.
#[derive(Debug)]
pub enum Stdio {
    /// `/dev/null`.
    Null,
    /// The parent's own.
    Inherit,
    /// This descriptor.
    Descriptor(OwnedFd),
}

/// A child could not be started.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// A text has a NUL byte, or a variable's name has `=`.
    #[error("`{}` cannot be passed to a program", text.to_string_lossy())]
    Text {
        /// The text.
        text: OsString,
    },
    /// A descriptor was to be placed at a standard stream or at a negative number.
    #[error("{number} is not a number for an inherited descriptor")]
    Number {
        /// The number.
        number: RawFd,
    },
    /// A descriptor could not be opened or duplicated.
    #[error("could not prepare the descriptors of `{}`", program.display())]
    Descriptors {
        /// The program.
        program: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The program could not be executed.
    #[error("could not start `{}`", program.display())]
    Start {
        /// The program.
        program: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It was started and cannot be watched. It has been killed.
    #[error("could not watch `{}`", program.display())]
    Watch {
        /// The program.
        program: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl Spawn {
    /// A child running `program`, a path: `PATH` is not searched. Its first argument is the program itself, its
    /// environment is empty, its streams are `/dev/null`, its directory is `/`.
    pub fn new(program: impl Into<PathBuf>) -> Spawn {
        Spawn {
            program: program.into(),
            arguments: Vec::new(),
            environment: Vec::new(),
            directory: Some(PathBuf::from("/")),
            stdio: [Stdio::Null, Stdio::Null, Stdio::Null],
            descriptors: Vec::new(),
        }
    }

    /// Adds an argument.
    #[must_use]
    pub fn argument(mut self, argument: impl AsRef<OsStr>) -> Spawn {
        self.arguments.push(argument.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn arguments(mut self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Spawn {
        self.arguments.extend(arguments.into_iter().map(|argument| argument.as_ref().to_owned()));
        self
    }

    /// Sets a variable.
    #[must_use]
    pub fn variable(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Spawn {
        let name = name.as_ref();
        self.environment.retain(|(known, _)| known != name);
        self.environment.push((name.to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Passes on those variables of this process that are named and set.
    #[must_use]
    pub fn inherit_variables(mut self, names: &[&str]) -> Spawn {
        for name in names {
            if let Some(value) = std::env::var_os(name) {
                self = self.variable(name, value);
            }
        }
        self
    }

    /// The directory to start in; none for this process's own.
    #[must_use]
    pub fn directory(mut self, directory: Option<PathBuf>) -> Spawn {
        self.directory = directory;
        self
    }

    /// Standard input.
    #[must_use]
    pub fn stdin(mut self, stdio: Stdio) -> Spawn {
        self.stdio[0] = stdio;
        self
    }

    /// Standard output.
    #[must_use]
    pub fn stdout(mut self, stdio: Stdio) -> Spawn {
        self.stdio[1] = stdio;
        self
    }

    /// Standard error.
    #[must_use]
    pub fn stderr(mut self, stdio: Stdio) -> Spawn {
        self.stdio[2] = stdio;
        self
    }

    /// Places a descriptor at `number` in the child; 3 or more.
    #[must_use]
    pub fn descriptor(mut self, number: RawFd, descriptor: OwnedFd) -> Spawn {
        self.descriptors.push((number, descriptor));
        self
    }

    /// Passes on every variable of this process.
    #[must_use]
    pub fn inherit_all_variables(mut self) -> Spawn {
        for (name, value) in std::env::vars_os() {
            self = self.variable(name, value);
        }
        self
    }

    /// Starts it. The descriptors given to it are closed here. Needs a tokio runtime with I/O.
    pub fn spawn(self) -> Result<Process, SpawnError> {
        let program = self.program.clone();
        let identity = self.start()?;
        Process::child(identity).map_err(|error| {
            kill_and_reap(identity.pid);
            SpawnError::Watch { program, source: io::Error::other(error) }
        })
    }

    /// Starts it, for a caller without a runtime, who has to watch and to reap it. The descriptors given to it are
    /// closed here.
    pub fn start(self) -> Result<Identity, SpawnError> {
        if let Some((number, _)) = self.descriptors.iter().find(|(number, _)| *number < 3) {
            return Err(SpawnError::Number { number: *number });
        }
        let strings = Strings::new(&self)?;
        let descriptors =
            |source: io::Error| SpawnError::Descriptors { program: self.program.clone(), source };
        system::close_on_exec().map_err(descriptors)?;
        let placed = self.place().map_err(descriptors)?;
        let pid = start(&strings, &placed)
            .map_err(|source| SpawnError::Start { program: self.program.clone(), source })?;
        // Not reaped before this function returns, so the number is still the child's.
        identify(pid).map_err(|error| {
            kill_and_reap(pid);
            SpawnError::Watch { program: self.program.clone(), source: io::Error::other(error) }
        })
    }

    /// Duplicates every descriptor to a number above all the wanted ones, so that placing one never overwrites
    /// another, and so that placing it clears close-on-exec.
    fn place(&self) -> io::Result<Vec<(RawFd, OwnedFd)>> {
        let above = self.descriptors.iter().map(|(number, _)| *number).max().unwrap_or(2) + 1;
        let duplicate = |descriptor: BorrowedFd<'_>| -> io::Result<OwnedFd> {
            Ok(rustix::io::fcntl_dupfd_cloexec(descriptor, above)?)
        };
        let mut placed = Vec::new();
        for (number, stdio) in (0..).zip(&self.stdio) {
            let descriptor = match stdio {
                Stdio::Null => {
                    let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null")?;
                    duplicate(null.as_fd())?
                }
                Stdio::Inherit => {
                    let own = [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()];
                    duplicate(own[number as usize])?
                }
                Stdio::Descriptor(descriptor) => duplicate(descriptor.as_fd())?,
            };
            placed.push((number, descriptor));
        }
        for (number, descriptor) in &self.descriptors {
            placed.push((*number, duplicate(descriptor.as_fd())?));
        }
        Ok(placed)
    }
}

/// A child that has just been started. Where `/proc` hides other processes, one that was quick to forbid that its memory is
/// read is known by its number alone, which nobody else has before it is reaped.
fn identify(pid: u32) -> Result<Identity, IdentityError> {
    Identity::of(pid).or_else(|_| Ok(Identity { pid, started: 0, boot: Identity::own()?.boot }))
}

/// The texts of an exec, as C has them.
struct Strings {
    program: CString,
    arguments: Vec<CString>,
    environment: Vec<CString>,
    directory: Option<CString>,
}

impl Strings {
    fn new(spawn: &Spawn) -> Result<Strings, SpawnError> {
        let path = |path: &Path| text(path.as_os_str());
        let mut arguments = vec![path(&spawn.program)?];
        for argument in &spawn.arguments {
            arguments.push(text(argument)?);
        }
        let mut environment = Vec::new();
        for (name, value) in &spawn.environment {
            if name.is_empty() || name.as_bytes().contains(&b'=') {
                return Err(SpawnError::Text { text: name.clone() });
            }
            let mut pair = name.clone();
            pair.push("=");
            pair.push(value);
            environment.push(text(&pair)?);
        }
        let directory = spawn.directory.as_deref().map(path).transpose()?;
        Ok(Strings { program: path(&spawn.program)?, arguments, environment, directory })
    }
}

fn text(text: &OsStr) -> Result<CString, SpawnError> {
    CString::new(text.as_bytes()).map_err(|_| SpawnError::Text { text: text.to_owned() })
}

/// `posix_spawn` reports a failed exec by its result, with no pipe between the processes whose number could be one of
/// those that are placed.
fn start(strings: &Strings, placed: &[(RawFd, OwnedFd)]) -> io::Result<u32> {
    let mut actions = Actions::new()?;
    for (number, descriptor) in placed {
        actions.place(descriptor.as_fd(), *number)?;
    }
    if let Some(directory) = &strings.directory {
        actions.change_directory(directory)?;
    }
    let attributes = Attributes::own_session_and_default_signals()?;
    let pointers = |texts: &[CString]| -> Vec<*mut libc::c_char> {
        texts.iter().map(|text| text.as_ptr().cast_mut()).chain([ptr::null_mut()]).collect()
    };
    let (arguments, environment) = (pointers(&strings.arguments), pointers(&strings.environment));
    let mut pid: libc::pid_t = 0;
    // SAFETY: every pointer is to a live object: NUL-terminated strings in NULL-terminated arrays, initialised actions
    // and attributes. posix_spawn does not write through the string pointers.
    let code = unsafe {
        libc::posix_spawn(
            &mut pid,
            strings.program.as_ptr(),
            &actions.0,
            &attributes.0,
            arguments.as_ptr(),
            environment.as_ptr(),
        )
    };
    check(code)?;
    u32::try_from(pid).map_err(io::Error::other)
}

fn check(code: libc::c_int) -> io::Result<()> {
    match code {
        0 => Ok(()),
        code => Err(io::Error::from_raw_os_error(code)),
    }
}

/// Closes every descriptor from 3 on: those that this process inherited without asking for them.
///
/// # Safety
///
/// Nothing in this process may own such a descriptor, so this is for the first lines of a program.
pub unsafe fn close_inherited() -> io::Result<()> {
    // SAFETY: the caller vouches for it that nobody uses them.
    unsafe { system::close_inherited() }
}

struct Actions(libc::posix_spawn_file_actions_t);

impl Actions {
    fn new() -> io::Result<Actions> {
        let mut actions = MaybeUninit::uninit();
        // SAFETY: init writes the object it is given.
        check(unsafe { libc::posix_spawn_file_actions_init(actions.as_mut_ptr()) })?;
        // SAFETY: init succeeded.
        Ok(Actions(unsafe { actions.assume_init() }))
    }

    fn place(&mut self, descriptor: BorrowedFd<'_>, number: RawFd) -> io::Result<()> {
        // SAFETY: the object is initialised, and both numbers are plain integers.
        check(unsafe { libc::posix_spawn_file_actions_adddup2(&mut self.0, descriptor.as_raw_fd(), number) })
    }

    fn change_directory(&mut self, directory: &CString) -> io::Result<()> {
        // SAFETY: the object is initialised.
        check(unsafe { system::add_change_directory(&mut self.0, directory) })
    }
}

impl Drop for Actions {
    fn drop(&mut self) {
        // SAFETY: the object is initialised, and not used again.
        unsafe { libc::posix_spawn_file_actions_destroy(&mut self.0) };
    }
}

struct Attributes(libc::posix_spawnattr_t);

impl Attributes {
    fn own_session_and_default_signals() -> io::Result<Attributes> {
        let mut attributes = MaybeUninit::uninit();
        // SAFETY: init writes the object it is given.
        check(unsafe { libc::posix_spawnattr_init(attributes.as_mut_ptr()) })?;
        // SAFETY: init succeeded.
        let mut attributes = Attributes(unsafe { attributes.assume_init() });
        let mut all = MaybeUninit::uninit();
        let mut none = MaybeUninit::uninit();
        // SAFETY: both functions write the set they are given.
        let (all, none) = unsafe {
            libc::sigfillset(all.as_mut_ptr());
            libc::sigemptyset(none.as_mut_ptr());
            (all.assume_init(), none.assume_init())
        };
        let flags = libc::POSIX_SPAWN_SETSIGDEF | libc::POSIX_SPAWN_SETSIGMASK | SETSID;
        // SAFETY: the object is initialised, and the sets are read only during the calls.
        unsafe {
            check(libc::posix_spawnattr_setsigdefault(&mut attributes.0, &all))?;
            check(libc::posix_spawnattr_setsigmask(&mut attributes.0, &none))?;
            check(libc::posix_spawnattr_setflags(&mut attributes.0, flags as libc::c_short))?;
        }
        Ok(attributes)
    }
}

impl Drop for Attributes {
    fn drop(&mut self) {
        // SAFETY: the object is initialised, and not used again.
        unsafe { libc::posix_spawnattr_destroy(&mut self.0) };
    }
}

/// `POSIX_SPAWN_SETSID` of glibc and musl.
const SETSID: libc::c_int = 0x80;

/// For a child that cannot be watched.
fn kill_and_reap(pid: u32) {
    let Some(pid) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) else {
        return;
    };
    // Fails only when it has ended already, and then there is only the reaping left.
    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    if let Err(error) = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty()) {
        tracing::warn!(pid = pid.as_raw_nonzero().get(), %error, "could not reap a child");
    }
}

#[cfg(test)]
mod tests;
