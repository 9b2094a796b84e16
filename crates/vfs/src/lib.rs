//! A file system without a kernel and without a network.
//!
//! A [`Source`](source::Source) is where files come from, and may keep some of what they hold near; a kernel backend asks
//! a [`Vfs`]. In between: the table of nodes and names ([`table`]), what is believed and for how long, open files, reading
//! ahead, writing behind.
//!
//! A [`Replica`](replica::Replica) is for systems that keep files themselves: it has two trees be the same.
//!
//! This crate knows no socket, no frame, no kernel interface and no process. It takes the time and the errors it is
//! given. Invariants:
//!
//! - What a kernel was told to believe is taken back by a [`Notice`](table::Notice) when it stops being true, as soon as the
//!   source tells.
//! - A byte acknowledged to a writer is either at the source, or its loss is reported by the next `fsync` or `close` of
//!   every descriptor that was open. Where a record is kept, it is also in the journal until it is at the source.
//! - Where a record is kept, a successor knows of every node and handle that the kernel may name, under its number.
//! - Nothing is unbounded: nodes, absent names, contents of small files, bytes read ahead, bytes not yet written each have a
//!   limit.

mod ahead;
mod awaited;
mod behind;
pub mod cache;
mod contents;
pub mod errno;
pub mod file;
pub mod journal;
pub mod log;
mod owned;
mod prefetch;
pub mod replay;
pub mod replica;
pub mod request;
pub mod source;
pub mod table;
#[doc(hidden)]
pub mod testing;
pub mod vfs;
mod walker;

pub use vfs::{Kernel, Options, SyncMode, Vfs};

#[cfg(test)]
mod tests;
