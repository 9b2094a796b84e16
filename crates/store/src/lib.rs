//! Copy-on-write trees over git revisions: what a thread is made of.
//!
//! ```text
//!                      Thread            names, attributes, contents, by inode number
//!            ┌───────────┼───────────────────────┐
//!        names (log)   files/INO             Objects ──► BlobCache
//!        what was      contents that         the revision, out of the repository's own
//!        changed       were written          object database; decoded contents, shared
//! ```
//!
//! - [`objects`]: the base. A directory of it is an [`Index`](objects::Index): names with kind, object and size, so that
//!   neither looking a name up nor its attributes decode a blob.
//! - [`thread`]: the upper layer. A directory keeps the object of its tree wherever it is moved, and on top of that what is
//!   named otherwise: so a directory of the base is renamed without copying, and one without a tree is opaque.
//! - [`names`]: what the upper layer says, in memory and as changes in the [`log`].
//! - [`blobs`]: contents of the base, decoded once for all threads.
//! - [`working_copy`]: where it was made from: of when files of the base are.
//! - [`worktree`]: what git knows of a thread: a worktree of the repository, and a branch. Its index is
//!   [prepared](thread::Thread::git_index), so that git finds nothing to read.
//! - [`refs`]: references of a repository: read without git where they are kept in files, changed by git.
//! - [`workspace`]: what of a working copy goes to another computer, and what may come back from there.
//!
//! This crate knows no kernel interface, no protocol, no runtime, no daemon and no other process but git's. Time and users
//! are arguments. Invariants:
//!
//! - **An operation is one record of the log.** It is there whole or not at all, whenever the process dies; after a power cut
//!   the log is a prefix of what was done, at least to the last [`sync`](thread::Thread::sync).
//! - **A record is written before it is true.** What memory says, the log says. After a failed append both are as before.
//! - **One inode number for each file**, never for each content, and for good: a directory of the base sets aside a block of
//!   numbers for what is in it when it is first looked into.
//! - **A name of the base that is named otherwise stays so.** Nothing comes back from below, and a place in a listing is of one
//!   name for ever.
//! - **What the base lost is an error**, never an absent name.
//! - Nothing of a base is trusted: contents are compared with their object's hash before anybody sees them, names and modes are
//!   checked, lengths are bounded.

#![cfg(unix)]

pub mod blobs;
mod error;
mod git;
pub mod log;
pub mod names;
pub mod node;
pub mod objects;
pub mod refs;
mod system;
#[cfg(test)]
mod testing;
pub mod thread;
pub mod working_copy;
pub mod workspace;
pub mod worktree;

pub use error::{Error, Refusal, Result};
pub use gix_hash::{Kind as Hash, ObjectId as Oid};
