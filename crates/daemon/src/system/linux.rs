//! Linux: `/proc`, `/dev/fuse`.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use wire::api::machine::{Check, Verdict};

use crate::rpc::machine::{found, works};

/// What is said to whoever wants the backend `file-provider`.
pub(crate) const NO_FILE_PROVIDER: &str = "file-provider is for macOS: here fuse or nfs";

/// The program that adds and removes domains of File Provider: none.
pub(crate) const DOMAINS: Option<&str> = None;

/// What takes a mount away that nobody serves.
pub(crate) const UNMOUNT: &str = "fusermount3 -u";

/// Whether a socket listens.
pub(crate) fn listens(socket: &OwnedFd) -> bool {
    rustix::net::sockopt::socket_acceptconn(socket) == Ok(true)
}

/// How much memory this process has.
pub(crate) fn resident_bytes() -> io::Result<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm")?;
    let pages: Option<u64> = statm.split_whitespace().nth(1).and_then(|pages| pages.parse().ok());
    let unknown = || io::Error::other("`/proc/self/statm` is not as it should be");
    Ok(pages.ok_or_else(unknown)? * rustix::param::page_size() as u64)
}

/// For how long the computer was asleep since it was started: what the one clock counts and the other does not.
pub(crate) fn asleep() -> Duration {
    let clock = |id| {
        let time = clock_gettime(id);
        let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
        Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or_default())
    };
    // In this order the difference can come out too small by the time in between, never too large.
    let (boot, awake) = (clock(ClockId::Boottime), clock(ClockId::Monotonic));
    boot.saturating_sub(awake)
}

/// The destinations, gateways and interfaces of all routes. Counters, which change with every packet, are left out.
pub(crate) fn network() -> Vec<u8> {
    /// A computer with more routes than fit has a network of its own sort; its first ones stand for all.
    const BYTES_MAX: u64 = 64 << 10;
    let mut seen = Vec::new();
    for (path, columns) in
        [("/proc/net/route", &[0, 1, 2, 7][..]), ("/proc/net/ipv6_route", &[0, 1, 4, 9][..])]
    {
        let mut text = String::new();
        let read = std::fs::File::open(path).and_then(|file| {
            std::io::Read::read_to_string(&mut std::io::Read::take(file, BYTES_MAX), &mut text)
        });
        if let Err(error) = read {
            // There may be no network at all, or not this version.
            tracing::trace!(path, %error, "routes could not be read");
            continue;
        }
        for line in text.lines() {
            let words: Vec<&str> = line.split_ascii_whitespace().collect();
            for word in columns.iter().filter_map(|column| words.get(*column)) {
                seen.extend(word.as_bytes());
                seen.push(b' ');
            }
        }
    }
    seen
}

/// Whether mounts can be made here.
pub(crate) fn mounting() -> Check {
    let hint = |check: Check, hint: &str| Check { hint: Some(hint.to_owned()), ..check };
    match std::fs::OpenOptions::new().read(true).write(true).open("/dev/fuse") {
        Err(error) => hint(
            found("fuse", Verdict::Broken, format!("`/dev/fuse` cannot be opened: {error}")),
            "modprobe fuse, or mount with --backend nfs",
        ),
        Ok(_) if rustix::process::geteuid().is_root() => works("fuse", "by system call".to_owned()),
        Ok(_) if in_path("fusermount3") => works("fuse", "through fusermount3".to_owned()),
        Ok(_) => hint(
            found("fuse", Verdict::Broken, "`fusermount3` is not installed".to_owned()),
            "apt-get install fuse3",
        ),
    }
}

fn in_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}
