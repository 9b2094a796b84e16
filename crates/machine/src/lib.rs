//! MicroVMs: what they boot from, what they write to, and what runs them.
//!
//! - [`image`]: a kernel, its modules and a root file system, under a name. [`image::tree`], [`image::archive`] and
//!   [`image::ext4`] make that file system of an archive.
//! - [`kernel`], [`modules`], [`initramfs`]: what a guest's kernel is given.
//! - [`disk`]: a guest's root disk, which holds only what differs from the image.
//! - [`capability`]: what is done for a microVM that is made or started, each undone if one after it cannot be done.
//! - [`snapshot`]: what was on a root disk, for others to be made over it.
//! - [`vm`]: what is written down of a microVM, and the places of its files.
//! - [`engine`]: how a guest is run. [`engine::qemu`] is the one there is.
//! - [`preflight`]: what this computer has to have for that.
//! - [`network`]: a guest's way to other computers.
//! - [`console`]: what a guest says, within a limit.
//! - [`course`]: how work that takes its time is followed, and called off.
//! - `system`: what each system has a way of its own for.
//!
//! ```text
//!  IMAGES/NAME/    image.json  kernel  modules/  root.ext4            shared, never written to again
//!  VMS/NAME/       vm.json  root.qcow2 | root.raw  initrd  console.log
//!                  snapshots/SNAP/                                   a disk that is not written to until it is to go
//!  RUN/vm-NAME/    0 .. 15                                            a socket for each port of a guest that runs
//!                  frames-out  frames-back                            those of the gate of its network, if it has one
//! ```
//!
//! What this crate must not know: who asks, what a mount or a session is, and what is said through a port. It has no state in
//! memory, and takes no lock: the daemon has one task for each vm, and gives each image's name to one at a time.
//!
//! Invariants:
//!
//! - An image is there whole or not at all: it is made beside its place and renamed.
//! - No image is written to by a guest.
//! - A guest's process is known by its number *and* its start, or not at all.
//! - Everything is its user's alone: `0700` and `0600`.
//! - An image is not trusted: its kernel, modules and files are read within limits, and only a guest runs them.

#![cfg(unix)]

pub mod capability;
pub mod console;
pub mod course;
pub mod disk;
pub mod engine;
pub mod error;
pub mod image;
pub mod initramfs;
pub mod kernel;
pub mod modules;
pub mod network;
pub mod preflight;
pub mod program;
pub mod snapshot;
mod system;
pub mod vm;

pub use error::{Error, Result};
