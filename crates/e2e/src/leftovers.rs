//! What a program under test may have left on this computer: processes and mounts.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::mount::UnmountFlags;
use rustix::process::{Pid, Signal, kill_process};

/// Of this thread, because a test may have mounts of its own.
const MOUNT_TABLE: &str = "/proc/thread-self/mountinfo";

/// A process that has to do with a directory.
#[derive(Debug, Clone)]
pub struct Process {
    pub pid: Pid,
    pub command: String,
}

/// The processes that have to do with `dir`, this one and its threads excepted: it is in their environment or among
/// their arguments, or they have something open or are at home below it.
pub fn processes_of(dir: &Path) -> Vec<Process> {
    let own = std::process::id();
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| *pid != own)
        .filter(|pid| mentions(*pid, dir) || holds(*pid, dir))
        .filter_map(|pid| {
            let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let command = String::from_utf8_lossy(&command).replace('\0', " ");
            Some(Process { pid: Pid::from_raw(pid.try_into().ok()?)?, command })
        })
        .collect()
}

/// Those of [`processes_of`] that serve a session of an agent, whether a stream is attached or not.
pub fn sessions_of(dir: &Path) -> Vec<Process> {
    /// What such a process calls itself.
    const SESSION: &str = "stead-session";
    let name = |pid: Pid| std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    processes_of(dir).into_iter().filter(|process| name(process.pid).trim() == SESSION).collect()
}

/// The arguments of every process but this one, by pid. One that ends meanwhile is left out.
pub fn command_lines() -> Vec<(i32, Vec<Vec<u8>>)> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let arguments = |pid: i32| {
        let text = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let words = text.strip_suffix(b"\0").unwrap_or(&text).split(|byte| *byte == 0);
        (!text.is_empty()).then(|| (pid, words.map(<[u8]>::to_vec).collect()))
    };
    pids.filter(|pid| *pid != std::process::id().cast_signed()).filter_map(arguments).collect()
}

/// Whether a process has to do with `dir`, as [`processes_of`] says it.
pub fn is_process_of(pid: i32, dir: &Path) -> bool {
    u32::try_from(pid).is_ok_and(|pid| mentions(pid, dir) || holds(pid, dir))
}

/// The processes that `pid` has started, and those which they have, and so on.
pub fn descendants_of(pid: i32) -> Vec<i32> {
    let parents: Vec<(i32, i32)> =
        command_lines().into_iter().filter_map(|(child, _)| Some((child, parent_of(child)?))).collect();
    let mut found = vec![pid];
    let mut next = 0;
    while let Some(parent) = found.get(next).copied() {
        found.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(child, _)| *child));
        next += 1;
    }
    found.split_off(1)
}

fn parent_of(pid: i32) -> Option<i32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name before it is in parentheses and may have any bytes.
    stat.rsplit(')').next()?.split_whitespace().nth(1)?.parse().ok()
}

fn mentions(pid: u32, dir: &Path) -> bool {
    let needle = dir.as_os_str().as_bytes();
    ["environ", "cmdline"].iter().any(|file| {
        let text = std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
        text.windows(needle.len()).any(|window| window == needle)
    })
}

fn holds(pid: u32, dir: &Path) -> bool {
    let links = std::fs::read_dir(format!("/proc/{pid}/fd"))
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path());
    let links = links.chain([PathBuf::from(format!("/proc/{pid}/cwd"))]);
    // A process that ends meanwhile has no links any more, and is not left behind.
    links.filter_map(|link| std::fs::read_link(link).ok()).any(|target| target.starts_with(dir))
}

/// Whether a process has a file or a directory open that does not lie below `dir`; devices do not count.
pub fn has_open_beside(pid: i32, dir: &Path) -> bool {
    let links = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let targets = links.filter_map(|link| std::fs::read_link(link.path()).ok());
    let is_file = |target: &PathBuf| target.is_absolute() && !target.starts_with("/dev");
    targets.filter(is_file).any(|target| !target.starts_with(dir))
}

/// The mount points at or below `dir`, innermost first.
pub fn mounts_below(dir: &Path) -> Vec<PathBuf> {
    let table = std::fs::read(MOUNT_TABLE).unwrap_or_default();
    let mut found: Vec<PathBuf> = table
        .split(|byte| *byte == b'\n')
        .filter_map(|line| line.split(|byte| *byte == b' ').nth(4))
        .map(|field| PathBuf::from(OsString::from_vec(unescape(field))))
        .filter(|point| point.starts_with(dir))
        .collect();
    found.reverse();
    found
}

/// Undoes the octal escapes of a mount table (space, tab, newline, backslash).
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        let octal = tail.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match (first, octal.and_then(|digits| u8::from_str_radix(digits, 8).ok())) {
            (b'\\', Some(byte)) => {
                out.push(byte);
                rest = &tail[3..];
            }
            _ => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    out
}

/// Kills each by pid. One that has gone by itself is no error.
pub fn kill(processes: &[Process]) {
    for process in processes {
        let _gone = kill_process(process.pid, Signal::KILL);
    }
}

/// Takes every mount at or below `dir` away, by force: aborts FUSE connections first, so that nobody stays blocked.
pub fn detach_mounts(dir: &Path) {
    for point in mounts_below(dir) {
        abort_fuse_connection(&point);
        // Nothing better can be done about a mount that will not go; the caller looks again and reports it.
        let flags = UnmountFlags::FORCE | UnmountFlags::DETACH;
        let _reported = rustix::mount::unmount(&point, flags);
        let _reported = std::process::Command::new("fusermount3").args(["-u", "-z"]).arg(&point).output();
    }
}

/// Ends the FUSE connection of a mount, so that everybody who waits for it is told: by a forced unmount where we may,
/// which leaves the mount where it is when it is in use, else through `fusectl`, where that is mounted.
pub fn abort_fuse_connection(point: &Path) {
    let _refused = rustix::mount::unmount(point, UnmountFlags::FORCE);
    let table = std::fs::read_to_string(MOUNT_TABLE).unwrap_or_default();
    let minor = table.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(' ').collect();
        let is_it =
            unescape(fields.get(4)?.as_bytes()) == point.as_os_str().as_bytes() && line.contains(" - fuse");
        is_it.then(|| fields.get(2)?.split(':').nth(1).map(str::to_owned)).flatten()
    });
    if let Some(minor) = minor {
        let _unmounted_fusectl = std::fs::write(format!("/sys/fs/fuse/connections/{minor}/abort"), "1");
    }
}

/// Whether the main thread of a process has ended. A process that was killed may stay for as long as one of its other
/// threads waits in the kernel.
pub fn has_ended(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name before it is in parentheses and may have any bytes.
    stat.rsplit(')')
        .next()
        .is_none_or(|rest| rest.trim_start().is_empty() || rest.trim_start().starts_with(['Z', 'X']))
}

/// Where in the kernel each thread of a process waits, for the reader of a failure. The stacks are root's to read.
pub fn stacks_of(pid: i32) -> String {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let one = |thread: std::fs::DirEntry| {
        let read = |file: &str| std::fs::read_to_string(thread.path().join(file)).unwrap_or_default();
        let state = read("stat").rsplit(')').next().unwrap_or_default().trim().chars().next().unwrap_or('?');
        format!(
            "{} {} ({state}): {}",
            thread.file_name().display(),
            read("comm").trim(),
            read("stack").replace('\n', " ")
        )
    };
    threads.map(one).collect::<Vec<_>>().join("\n")
}

/// The open descriptors of a process, for counting.
pub fn descriptors_of(pid: i32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

/// The resident memory of a process in KiB, from `/proc/PID/status`.
pub fn resident_kib(pid: i32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}
