//! How this process ends that serves a mount: all of it at once, so that its successor begins soon.

use super::fuse;
use crate::system;

/// From now on a panic is reported, notes which request it was in, and ends the process.
pub(super) fn end_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        fuse::note_panic();
        end();
    }));
}

/// Ends the process at once, also where it waits in the kernel.
fn end() -> ! {
    let itself = rustix::process::getpid();
    if let Err(error) = rustix::process::kill_process(itself, rustix::process::Signal::KILL) {
        tracing::error!(%error, "a process that cannot kill itself");
    }
    // A signal to oneself is carried out before the call returns.
    std::process::abort()
}

/// Lets no memory be written to a disk when this process crashes. The system would wait for all threads first, and one that
/// waits in the kernel for an answer of this very process would never come.
pub(super) fn leave_no_core() {
    if let Err(error) = system::leave_no_core() {
        tracing::warn!(%error, "a crash may leave the mount without a process");
    }
}
