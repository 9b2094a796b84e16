//! A place for the tour, and its end on every way out.
//!
//! Only one thread cleans up: whoever takes the lock first. An interrupt, or a tour that takes too long, has a thread
//! wait for it; that one cleans up with the lock held and ends the process.

use std::ffi::OsString;
use std::fs;
use std::io::Read;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::Value;
use wire::api::ErrorKind;
use wire::paths::{HOME_VARIABLE, Paths};

use crate::error::{Error, Result};
use crate::interrupt::Interrupt;
use crate::output::text::one_line;

/// How long the tour may take. It takes a few seconds; a mount that hangs must not hang its user.
const TOUR_DEADLINE: Duration = Duration::from_secs(180);

/// How long one program of the tour may take.
const PROGRAM_DEADLINE: Duration = Duration::from_secs(60);

/// How much of a program's output is kept.
const OUTPUT_BYTES_MAX: u64 = 64 << 10;

/// How many names are tried for the scratch directory.
const NAMES_MAX: u32 = 100;

/// The directories of a tour.
#[derive(Debug, Clone)]
pub struct Scratch {
    root: PathBuf,
    far: PathBuf,
    here: PathBuf,
    home: PathBuf,
    program: PathBuf,
}

/// A tour under way. When it is dropped, everything is cleaned up.
pub struct Tour {
    scratch: Scratch,
    /// Empty once it is cleaned up.
    to_clean: Arc<Mutex<Option<Scratch>>>,
}

impl Tour {
    /// Makes the directories, and watches for interrupts from here on.
    pub fn begin(program: &Path) -> Result<Tour> {
        let interrupt = Interrupt::watch()?;
        let scratch = Scratch::make(program)?;
        let to_clean = Arc::new(Mutex::new(Some(scratch.clone())));
        let tour = Tour { scratch, to_clean: to_clean.clone() };
        std::thread::spawn(move || end_early(&interrupt, &to_clean));
        Ok(tour)
    }

    /// Its directories.
    pub fn scratch(&self) -> Scratch {
        self.scratch.clone()
    }

    /// Cleans up, and says what could not be.
    pub fn finish(self) -> Result<()> {
        clean(&self.to_clean)
    }
}

impl Drop for Tour {
    fn drop(&mut self) {
        if let Err(Error::Failed(failure)) = clean(&self.to_clean) {
            eprintln!("error: {}", one_line(&failure.message));
        }
    }
}

fn clean(to_clean: &Mutex<Option<Scratch>>) -> Result<()> {
    let mut scratch = to_clean.lock().unwrap_or_else(PoisonError::into_inner);
    scratch.take().map_or(Ok(()), |scratch| scratch.remove())
}

/// Waits for an interrupt or the deadline, cleans up and ends the process. When the tour ends first, so does the
/// process, and this thread with it.
fn end_early(interrupt: &Interrupt, to_clean: &Mutex<Option<Scratch>>) {
    let timeout = timespec(TOUR_DEADLINE);
    let interrupted = loop {
        match poll(&mut [PollFd::new(interrupt, PollFlags::IN)], Some(&timeout)) {
            Err(rustix::io::Errno::INTR) => {}
            Ok(0) | Err(_) => break false,
            Ok(_) => break true,
        }
    };
    // The lock stays taken until the process has ended: the main thread must not say more than this one.
    let mut scratch = to_clean.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(scratch) = scratch.take() else {
        return;
    };
    let (kind, message) = match interrupted {
        true => (ErrorKind::Interrupted, "the tour was interrupted"),
        false => (ErrorKind::TimedOut, "the tour took too long"),
    };
    match scratch.remove() {
        Ok(()) => eprintln!("error: {message}; all of it was cleaned up"),
        Err(Error::Failed(failure)) => eprintln!("error: {message}, and {}", one_line(&failure.message)),
        Err(Error::OutputClosed) => {}
    }
    std::process::exit(kind.exit_code().into());
}

impl Scratch {
    fn make(program: &Path) -> Result<Scratch> {
        let root = make_root()?;
        let scratch = Scratch {
            far: root.join("far"),
            here: root.join("here"),
            home: root.join("h"),
            program: program.to_owned(),
            root,
        };
        for directory in [&scratch.far, &scratch.here, &scratch.home] {
            fs::create_dir(directory).map_err(|error| {
                Error::io(format_args!("could not make `{}`", directory.display()), &error)
            })?;
        }
        Ok(scratch)
    }

    /// The directory that holds all others.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The tree that is mounted.
    pub fn far(&self) -> &Path {
        &self.far
    }

    /// Where it is mounted.
    pub fn here(&self) -> &Path {
        &self.here
    }

    /// Whether there is such a program.
    pub fn has(&self, program: &str) -> bool {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
    }

    /// Runs this program and reads the document it prints.
    pub fn stead_json(&self, arguments: &[&str]) -> Result<Value> {
        let text = self.stead(&[arguments, &["--json"]].concat())?;
        serde_json::from_str(&text).map_err(|error| {
            Error::new(
                ErrorKind::Failure,
                format!("`stead {}` printed no JSON: {error}", arguments.join(" ")),
            )
        })
    }

    /// Runs this program, and returns what it printed.
    pub fn stead(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(&self.program);
        command.args(arguments).current_dir(&self.root);
        self.run(command, &format!("stead {}", arguments.join(" ")))
    }

    /// Runs a program in a directory, and returns what it printed.
    pub fn program(&self, name: &str, arguments: &[&str], directory: &Path) -> Result<String> {
        let mut command = Command::new(name);
        command.args(arguments).current_dir(directory);
        self.run(command, &format!("{name} {}", arguments.join(" ")))
    }

    fn run(&self, mut command: Command, shown: &str) -> Result<String> {
        let identity = [("GIT_AUTHOR", "Tour"), ("GIT_COMMITTER", "Tour")];
        for (prefix, name) in identity {
            command.env(format!("{prefix}_NAME"), name).env(format!("{prefix}_EMAIL"), "tour@localhost");
        }
        command
            .env(HOME_VARIABLE, &self.home)
            .env("HOME", &self.home)
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            // An interrupt is for the tour, which ends its programs by itself.
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let could_not = |error: &std::io::Error| Error::io(format_args!("could not run `{shown}`"), error);
        let mut child = command.spawn().map_err(|error| could_not(&error))?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        // Both are read at once: a program that fills one must not wait for the other.
        let errors = std::thread::spawn(move || read(stderr));
        let killer = Deadline::start(&child, PROGRAM_DEADLINE);
        let printed = read(stdout);
        let errors = errors.join().unwrap_or_default();
        let status = child.wait().map_err(|error| could_not(&error))?;
        if killer.passed() {
            let message = format!("`{shown}` was not done after {} s", PROGRAM_DEADLINE.as_secs());
            return Err(Error::new(ErrorKind::TimedOut, message));
        }
        if status.success() {
            return Ok(printed);
        }
        let said = if errors.trim().is_empty() { &printed } else { &errors };
        Err(Error::new(ErrorKind::Failure, format!("`{shown}` failed ({status}): {}", one_line(said))))
    }

    /// Unmounts, ends the daemon, and removes the directories. Each is tried whatever came of the others.
    fn remove(&self) -> Result<()> {
        let unmounted = self.stead_json(&["unmount", "--all", "--force"]);
        let stopped = self.stead_json(&["daemon", "stop", "--force"]);
        if is_mount_point_below(&self.root) {
            // What a mount shows must not be removed with it.
            let why = unmounted.err().or(stopped.err());
            let why = why.map(|error| format!(": {}", message(error))).unwrap_or_default();
            let message = format!("`{}` is still mounted{why}", self.here.display());
            let hint = format!("umount -l {}", self.here.display());
            return Err(Error::new(ErrorKind::Failure, message).hint(hint));
        }
        self.remove_sockets();
        let removed = fs::remove_dir_all(&self.root)
            .map_err(|error| Error::io(format_args!("could not remove `{}`", self.root.display()), &error));
        stopped.map(drop).and(removed)
    }

    /// The sockets are elsewhere when the directory has a long name.
    fn remove_sockets(&self) {
        let home = OsString::from(&self.home);
        let uid = rustix::process::geteuid().as_raw();
        let paths = Paths::new(uid, |name| (name == HOME_VARIABLE).then(|| home.clone()));
        if let Ok(paths) = paths
            && !paths.runtime_dir().starts_with(&self.root)
        {
            // It may never have been made.
            let _absent = fs::remove_dir_all(paths.runtime_dir());
        }
    }
}

fn message(error: Error) -> String {
    match error {
        Error::Failed(failure) => failure.message,
        Error::OutputClosed => "the output was closed".to_owned(),
    }
}

fn make_root() -> Result<PathBuf> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let parent = std::env::temp_dir();
    for attempt in 0..NAMES_MAX {
        let number = since.subsec_nanos().wrapping_add(attempt) ^ std::process::id();
        let root = parent.join(format!("stead-demo-{number:08x}"));
        match fs::DirBuilder::new().mode(0o700).create(&root) {
            Ok(()) => return Ok(root),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(Error::io(format_args!("could not make `{}`", root.display()), &error)),
        }
    }
    Err(Error::new(ErrorKind::Conflict, format!("every name tried in `{}` is taken", parent.display())))
}

fn is_mount_point_below(root: &Path) -> bool {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = table.lines().filter_map(|line| line.split(' ').nth(4));
    points.map(Path::new).any(|point| point.starts_with(root))
}

fn read(stream: Option<impl Read>) -> String {
    let mut text = Vec::new();
    if let Some(mut stream) = stream {
        // What could be read is what there is to say; the program's status tells whether it went well.
        let _status_tells = stream.by_ref().take(OUTPUT_BYTES_MAX).read_to_end(&mut text);
        let _status_tells = std::io::copy(&mut stream, &mut std::io::sink());
    }
    String::from_utf8_lossy(&text).into_owned()
}

fn timespec(time: Duration) -> rustix::time::Timespec {
    rustix::time::Timespec {
        tv_sec: time.as_secs().try_into().unwrap_or(i64::MAX),
        tv_nsec: time.subsec_nanos().into(),
    }
}

/// Kills a program's group when its time is up.
struct Deadline(std::thread::JoinHandle<bool>);

impl Deadline {
    fn start(child: &std::process::Child, limit: Duration) -> Deadline {
        let pid = Pid::from_child(child);
        let its_end = crate::system::end_of(pid);
        Deadline(std::thread::spawn(move || {
            let Ok(its_end) = its_end else {
                return false;
            };
            let timeout = timespec(limit);
            let ended = poll(&mut [PollFd::new(&its_end, PollFlags::IN)], Some(&timeout));
            if ended != Ok(0) {
                return false;
            }
            // An error means that it ended in this instant.
            let _ended = kill_process_group(pid, Signal::KILL);
            true
        }))
    }

    fn passed(self) -> bool {
        self.0.join().unwrap_or(false)
    }
}
