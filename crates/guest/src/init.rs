//! The init of a guest whose image has none: it reaps, and powers off when it is told to.
//!
//! It takes the signals that the `poweroff` of busybox sends: `SIGUSR2` powers off, `SIGUSR1` halts, which is the same here,
//! and `SIGTERM` restarts, which a microVM does by ending.

use std::mem::MaybeUninit;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::mount::{MountFlags, mount_remount};
use rustix::process::{Signal, WaitOptions};
use rustix::system::{RebootCommand, reboot};

use crate::log;

/// How long processes may take to end before they are killed.
const GRACE: Duration = Duration::from_secs(5);

/// Reaps until the guest is to be powered off. When the process that sees to the ports ends, another one is started.
pub fn serve(mut guard: u32) {
    let ends = [libc::SIGUSR1, libc::SIGUSR2, libc::SIGTERM, libc::SIGINT, libc::SIGPWR];
    let awaited = blocked(ends.into_iter().chain([libc::SIGCHLD]));
    loop {
        while let Some(ended) = reap() {
            if ended != guard {
                continue;
            }
            match crate::boot::start_guard() {
                Ok(next) => guard = next,
                Err(error) => log(format_args!("the ports cannot be served: {error}")),
            }
        }
        if let Some(signal) = wait(&awaited, None)
            && ends.contains(&signal)
        {
            break;
        }
    }
    end_all(&awaited);
}

/// Ends the guest, with what is written on its disk.
pub fn power_off() -> ExitCode {
    rustix::fs::sync();
    if let Err(errno) = mount_remount("/", MountFlags::RDONLY, "") {
        log(format_args!("the root stays writable: {errno}"));
    }
    if let Err(errno) = reboot(RebootCommand::PowerOff) {
        log(format_args!("the guest cannot be powered off: {errno}"));
    }
    // The end of the first process is that of its kernel.
    ExitCode::FAILURE
}

/// Asks all processes to end, and then has them end.
fn end_all(awaited: &libc::sigset_t) {
    signal_all(Signal::TERM);
    let until = Instant::now() + GRACE;
    loop {
        while reap().is_some() {}
        let left = until.saturating_duration_since(Instant::now());
        if is_alone() || left.is_zero() {
            break;
        }
        wait(awaited, Some(left));
    }
    signal_all(Signal::KILL);
    while reap().is_some() {}
}

/// To everybody but this process and the kernel's.
fn signal_all(signal: Signal) {
    // SAFETY: a call without memory. rustix has no number for everybody.
    unsafe { libc::kill(-1, signal.as_raw()) };
}

/// Takes leave of a process that has ended, if there is one.
fn reap() -> Option<u32> {
    let (pid, _) = rustix::process::wait(WaitOptions::NOHANG).ok()??;
    Some(pid.as_raw_nonzero().get().unsigned_abs())
}

fn is_alone() -> bool {
    matches!(rustix::process::wait(WaitOptions::NOHANG), Err(Errno::CHILD))
}

/// Blocks signals, to be waited for. What this process starts gets none of that.
fn blocked(signals: impl Iterator<Item = i32>) -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: the set is made by the first call, before it is used, and the numbers are those of signals.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in signals {
            libc::sigaddset(set.as_mut_ptr(), signal);
        }
        libc::sigprocmask(libc::SIG_BLOCK, set.as_ptr(), std::ptr::null_mut());
        set.assume_init()
    }
}

/// The next of these signals, if one comes in time.
fn wait(signals: &libc::sigset_t, patience: Option<Duration>) -> Option<i32> {
    let patience = patience.map(|patience| libc::timespec {
        tv_sec: patience.as_secs().try_into().unwrap_or(libc::time_t::MAX),
        tv_nsec: patience.subsec_nanos().into(),
    });
    let until = patience.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: both live until the call is over, and nobody wants to know more of the signal.
    let signal = unsafe { libc::sigtimedwait(signals, std::ptr::null_mut(), until) };
    (signal > 0).then_some(signal)
}
