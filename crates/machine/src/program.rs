//! Programs of the distribution that do a piece of the work.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::retry_on_intr;
use rustix::process::{Pid, Signal, kill_process_group};
use wire::api::ErrorKind;

use crate::course::Course;
use crate::error::{Error, Result};
use crate::system;

/// What a program that fails is quoted with: the end of what it has said.
const WORDS_BYTES_MAX: usize = 1 << 10;

/// How long a program may take to clean up when it is called off.
const END_TIMEOUT: Duration = Duration::from_secs(20);

/// Where a program is: in `PATH`, or where those of the system's administration are.
pub fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(usual)
        .map(|directory| directory.join(name))
        .find(|path| path.is_file())
}

/// The same, or what brings it.
pub(crate) fn need(name: &str, package: &str) -> Result<PathBuf> {
    find(name).ok_or_else(|| {
        let message = format!("there is no `{name}` on this computer");
        Error::new(ErrorKind::NotFound, message).hint(format!("apt-get install {package}"))
    })
}

/// A program to be run to its end.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Program {
    /// What it is called.
    pub name: &'static str,
    /// What brings it.
    pub package: &'static str,
    /// How long it may take.
    pub patience: Duration,
    /// What ends it with the daemon, however that ends.
    pub end: End,
}

/// What a program is sent when whoever has it run is no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// Nothing of it goes on: it would write to files that are somebody else's by then, and keep their locks.
    Killed,
    /// It takes along what it has begun.
    Told,
}

/// How a program has ended, and the end of what it has said.
type Ended = (Option<ExitStatus>, String);

impl Program {
    /// Runs it. Blocks.
    pub fn run(self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Result<()> {
        let (ended, said) = self.watch(arguments, None, None, |_| ())?;
        self.judge(ended, &said)
    }

    /// Runs it for as long as somebody wants it, and tells those of its words that `told` makes something of. Blocks.
    pub fn run_telling(
        self,
        arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
        course: &Course,
        told: impl Fn(&str) -> Option<String> + Send,
    ) -> Result<()> {
        self.run_with(arguments, None, course, told)
    }

    /// The same, with this directory for files that it needs only meanwhile. Blocks.
    pub fn run_with(
        self,
        arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
        scratch: Option<&Path>,
        course: &Course,
        told: impl Fn(&str) -> Option<String> + Send,
    ) -> Result<()> {
        let tell = move |line: &str| {
            if let Some(part) = told(line) {
                course.tell(&part);
            }
        };
        let (ended, said) = self.watch(arguments, scratch, Some(course), tell)?;
        course.check()?;
        self.judge(ended, &said)
    }

    fn judge(self, ended: Option<ExitStatus>, said: &str) -> Result<()> {
        let name = self.name;
        match ended {
            Some(status) if status.success() => Ok(()),
            Some(status) => Err(Error::new(ErrorKind::Failure, format!("`{name}` failed, {status}: {said}"))),
            None => {
                let message = format!("`{name}` did not end within {} s", self.patience.as_secs());
                Err(Error::new(ErrorKind::TimedOut, message))
            }
        }
    }

    fn failed(self, error: &std::io::Error) -> Error {
        Error::new(ErrorKind::Failure, format!("could not run `{}`: {error}", self.name))
    }

    fn watch(
        self,
        arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
        scratch: Option<&Path>,
        course: Option<&Course>,
        tell: impl Fn(&str) + Send,
    ) -> Result<Ended> {
        let program = need(self.name, self.package)?;
        // The thread that has it run is this one, which stays until the program has ended.
        let mut command = system::tied(&program, self.end)?;
        command.args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        command.envs(scratch.map(|scratch| ("TMPDIR", scratch)));
        // Interrupts are for whoever has it run.
        let mut child = command.process_group(0).spawn().map_err(|error| self.failed(&error))?;
        let stderr = child.stderr.take();
        std::thread::scope(|scope| {
            let listening =
                scope.spawn(move || stderr.map(|stderr| listen(stderr, tell)).unwrap_or_default());
            let ended = self.end(&mut child, course);
            // Those that it has started have its words too.
            let said = listening.join().unwrap_or_default();
            Ok((ended?, said))
        })
    }

    /// Waits for its end, or sees to it.
    fn end(self, child: &mut Child, course: Option<&Course>) -> Result<Option<ExitStatus>> {
        let pid = Pid::from_child(child);
        let end = system::end_of(pid).map_err(|errno| self.failed(&errno.into()))?;
        let wait = |patience: Duration, course: Option<&Course>| {
            let until = Timespec::try_from(patience).ok();
            let mut awaited = vec![PollFd::new(&end, PollFlags::IN)];
            awaited.extend(course.map(|course| PollFd::new(course, PollFlags::IN)));
            // A signal begins the time anew: nobody sends many.
            let awaited_ends = retry_on_intr(|| poll(&mut awaited, until.as_ref()));
            awaited_ends.is_ok() && !awaited[0].revents().is_empty()
        };
        if wait(self.patience, course) {
            return child.wait().map(Some).map_err(|error| self.failed(&error));
        }
        // To all of it, as a terminal does. It may have ended by itself just now.
        let _ended = kill_process_group(pid, Signal::INT);
        wait(END_TIMEOUT, None);
        let _ended = kill_process_group(pid, Signal::KILL);
        child.wait().map(|_killed| None).map_err(|error| self.failed(&error))
    }
}

/// Hears what a program says until it has nothing more to say, line by line, and returns the end of it.
fn listen(stderr: impl Read, tell: impl Fn(&str)) -> String {
    let mut stderr = BufReader::new(stderr);
    let (mut line, mut end) = (Vec::new(), VecDeque::new());
    loop {
        line.clear();
        // An error is an end.
        let read = (&mut stderr).take(WORDS_BYTES_MAX as u64).read_until(b'\n', &mut line);
        if !matches!(read, Ok(1..)) {
            break;
        }
        tell(String::from_utf8_lossy(&line).trim_end());
        end.extend(&line);
        let over = end.len().saturating_sub(WORDS_BYTES_MAX);
        end.drain(..over);
    }
    let end: Vec<u8> = end.into();
    String::from_utf8_lossy(&end).trim().replace(char::is_control, " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHELL: Program =
        Program { name: "sh", package: "dash", patience: Duration::from_secs(60), end: End::Killed };

    #[test]
    fn what_fails_is_quoted_with_its_last_words() {
        let script = "seq 5000 >&2; echo the end >&2; exit 3";
        let error = SHELL.run(["-c", script]).unwrap_err();
        assert!(
            error.message.ends_with("5000 the end") && error.message.contains("exit status: 3"),
            "{error}"
        );
        assert!(error.message.len() < 2 * WORDS_BYTES_MAX);
        let missing = Program { name: "no-such-program", package: "none", ..SHELL }.run(["-c"]).unwrap_err();
        assert_eq!(missing.hint.as_deref(), Some("apt-get install none"));
    }

    #[test]
    fn what_is_run_ends_with_whoever_has_it_run() {
        for (end, signal) in [(End::Killed, "KILL"), (End::Told, "TERM")] {
            let program = Program { end, ..SHELL };
            let (ended, said) = program.watch(["-c", "exec setpriv --dump >&2"], None, None, |_| ()).unwrap();
            let signal = format!("Parent death signal: {signal}");
            assert!(ended.is_some_and(|status| status.success()) && said.contains(&signal), "{said}");
        }
    }

    #[test]
    fn what_is_called_off_can_clean_up_and_ends() {
        let scratch = tempfile::tempdir().unwrap();
        let cleaned = scratch.path().join("cleaned");
        let (begun, awaited) = std::sync::mpsc::channel();
        let begun = std::sync::Mutex::new(begun);
        let (course, client) = Course::new(move |_| begun.lock().unwrap().send(()).unwrap()).unwrap();
        let script = format!("trap 'touch {}; exit' INT; echo begun >&2; sleep 60 & wait", cleaned.display());
        let ending = std::thread::spawn(move || {
            awaited.recv().unwrap();
            drop(client);
        });
        let error = SHELL.run_telling(["-c", &script], &course, |line| Some(line.to_owned())).unwrap_err();
        ending.join().unwrap();
        assert!(error.kind == ErrorKind::Interrupted && cleaned.exists(), "{error}");
    }
}
