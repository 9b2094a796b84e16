//! The backend for Windows: a directory whose files are fetched when they are read, kept the same as one of a machine.
//!
//! Windows' Cloud Filter API keeps *placeholders*: files with a name, a size and what we say of them, and bytes only when a program
//! wants them. Here it is one side of a [replica](vfs::replica), a [machine](crate::far) the other.
//!
//! | part | is | on |
//! |---|---|---|
//! | [`translate`] | words of Windows' and the replica's: times, permissions, errors, names, ranges | every system |
//! | [`catalog`] | where the content of each file is, for those who fetch | every system |
//! | `system` | what is asked of Windows about one file | Windows |
//! | `here` | a directory of placeholders as [`Here`](vfs::replica::side::Here) | Windows |
//! | `root` | the sync root's registration, callbacks, answers | Windows |
//! | `transfer` | bytes that programs wait for; files that are to be here, or not | Windows |
//! | `watch` | who tells of changes | Windows |
//! | `serve` | a mount from its beginning to its end | Windows |
//!
//! What is on Windows alone is checked by its compiler's front end, and has never been run.
//!
//! # What must hold
//!
//! - A callback copies what it was lent, and returns: it neither waits nor unwinds.
//! - Nobody waits for bytes without being told: they come, or a status says why not.
//! - What a program wrote is never dropped: each call that would do so names the file's last change, or that it is in sync, and Windows
//!   refuses it if that is not so.
//! - What is sent or settled is open meanwhile so that nobody writes to it; what loses its bytes, so that nobody else has it.
//! - A file is all here before it is written to (hydration policy `FULL`), so it can be sent whatever the machine has by then.

pub mod catalog;
#[cfg(windows)]
mod here;
#[cfg(windows)]
mod root;
#[cfg(windows)]
mod serve;
#[cfg(windows)]
mod system;
#[cfg(windows)]
mod transfer;
pub mod translate;
#[cfg(windows)]
mod watch;

#[cfg(windows)]
pub use here::unsent;
#[cfg(windows)]
pub use root::{register, unregister};
#[cfg(windows)]
pub use serve::{Dial, Options, Sent, ServeError, Stage, Stop, serve};
