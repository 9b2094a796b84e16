//! The first process of a microVM, and what serves its ports.
//!
//! ```text
//!  kernel ─► /init ── boot: modules, root, network ─────┬─► the image's init, if it has one
//!             │                                         └─► init: reaps, powers off
//!             └─► guard ─► ports ─┬─► agent       a stream of one port
//!              (starts it again)  └─► agent       a stream of another ..
//! ```
//!
//! The host hands this program and the agent over in a file system in memory, with the kernel's modules, so that no image is
//! ever changed and every guest has the agent of its host's release. Standard error of all of it is the console.
//!
//! | on the kernel's command line | |
//! |---|---|
//! | `stead.name=NAME` | the guest's host name, also written to `/etc/hostname` |
//! | `stead.ip=ADDRESS/PREFIX` | the IPv4 address of its first virtio network card; without it there is no network |
//! | `stead.gw=ADDRESS` | where packets to everywhere else go |
//! | `stead.dns=ADDRESS` | who resolves names, written to `/etc/resolv.conf` |
//! | `stead.init=PATH` | the init to become; without it `/sbin/init`, if there is one |
//!
//! What does not work is said on the console, and ends the guest if it cannot do without.
//!
//! What this crate must not know: the agent's protocol, and anything of a host but its ports.

mod boot;
mod disk;
mod init;
mod network;
mod port;
mod ports;

use std::ffi::OsStr;
use std::fmt::Arguments;
use std::io::Write;
use std::process::{Command, ExitCode};
use std::time::Duration;

/// The argument of what sees to it that the ports are served.
const GUARD: &str = "guard";

/// The argument of what serves them.
const PORTS: &str = "ports";

/// Where this program lies in a guest.
const PROGRAM: &str = "/run/stead/guest/stead-guest";

/// Where the agent's program does.
const AGENT: &str = "/run/stead/agent/stead-agent";

/// How long after the end of what serves the ports it is started again: one that cannot run must not take the processor.
const RESTART_PAUSE: Duration = Duration::from_millis(500);

fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    // The kernel of a microVM has its own arguments for its first process.
    if arguments.next().is_some_and(|name| name == "/init") && std::process::id() == 1 {
        return first();
    }
    match arguments.next().as_deref().and_then(OsStr::to_str) {
        Some(GUARD) => guard(),
        Some(PORTS) => ports::serve(),
        _ => {
            log(format_args!("this is a part of a microVM that the host's stead starts"));
            ExitCode::from(2)
        }
    }
}

/// Is a guest's first process, until the guest ends.
fn first() -> ExitCode {
    match boot::boot() {
        Ok(guard) => init::serve(guard),
        Err(failed) => log(format_args!("the guest cannot begin: {failed}")),
    }
    init::power_off()
}

/// Starts what serves the ports, again and again.
#[allow(clippy::disallowed_methods, reason = "a pause between tries, with nothing to wait for")]
fn guard() -> ExitCode {
    loop {
        match Command::new(PROGRAM).arg(PORTS).spawn().and_then(|mut child| child.wait()) {
            Ok(status) => log(format_args!("what serves the ports has ended: {status}")),
            Err(error) => log(format_args!("the ports cannot be served: {error}")),
        }
        std::thread::sleep(RESTART_PAUSE);
    }
}

/// Writes a line to the console. When that is gone, there is nobody to tell.
fn log(message: Arguments<'_>) {
    let _ = writeln!(std::io::stderr(), "stead-guest: {message}");
}
