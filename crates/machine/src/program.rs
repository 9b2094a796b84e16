//! Programs of the distribution that do a piece of the work.

use std::ffi::OsStr;
use std::io::Read;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::retry_on_intr;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use wire::api::ErrorKind;

use crate::course::Course;
use crate::error::{Error, Result};

/// What a program that fails is quoted with.
const WORDS_BYTES_MAX: u64 = 4 << 10;

/// Where a program is: in `PATH`, or where those of the system's administration are.
pub fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(usual)
        .map(|directory| directory.join(name))
        .find(|path| path.is_file())
}

/// Runs a program to its end, for as long as that may take and somebody wants it. `package` is what brings it. Blocks.
pub(crate) fn run(
    name: &str,
    package: &str,
    arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
    patience: Duration,
    course: Option<&Course>,
) -> Result<()> {
    let path = find(name).ok_or_else(|| {
        let message = format!("there is no `{name}` on this computer");
        Error::new(ErrorKind::NotFound, message).hint(format!("apt-get install {package}"))
    })?;
    let failed =
        |error: std::io::Error| Error::new(ErrorKind::Failure, format!("could not run `{name}`: {error}"));
    let mut command = Command::new(path);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(failed)?;
    let said = child.stderr.take().map(|stderr| {
        std::thread::spawn(move || {
            let (mut words, mut stderr) = (Vec::new(), stderr);
            // What it says beyond that must not stop it. An error is an end.
            let _end = (&mut stderr).take(WORDS_BYTES_MAX).read_to_end(&mut words);
            let _end = std::io::copy(&mut stderr, &mut std::io::sink());
            String::from_utf8_lossy(&words).trim().replace(char::is_control, " ")
        })
    });
    let until = Timespec::try_from(patience).ok();
    let end = pidfd_open(Pid::from_child(&child), PidfdFlags::empty());
    let has_ended = end.and_then(|end| {
        let mut awaited = vec![PollFd::new(&end, PollFlags::IN)];
        awaited.extend(course.map(|course| PollFd::new(course, PollFlags::IN)));
        // A signal begins the time anew: nobody sends many.
        retry_on_intr(|| poll(&mut awaited, until.as_ref()))
    });
    let called_off = course.map_or(Ok(()), Course::check);
    if !has_ended.is_ok_and(|ended| ended > 0) || called_off.is_err() {
        // It may have ended by itself just now.
        let _ended = (child.kill(), child.wait());
        called_off?;
        let message = format!("`{name}` did not end within {} s", patience.as_secs());
        return Err(Error::new(ErrorKind::TimedOut, message));
    }
    let status = child.wait().map_err(failed)?;
    if status.success() {
        return Ok(());
    }
    let said = said.and_then(|said| said.join().ok()).unwrap_or_default();
    Err(Error::new(ErrorKind::Failure, format!("`{name}` failed, {status}: {said}")))
}
