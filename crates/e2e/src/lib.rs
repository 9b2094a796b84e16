//! Tests of the whole: the real program, a real daemon, real mounts, a real sshd.
//!
//! This crate drives Stead only through what a user has: the command line, its JSON, and the files under a mount. It
//! must not know any other crate of the workspace, so that a test here can fail only for a reason a user would see.
//!
//! - A [`Stead`] is one installation: its own `STEAD_HOME`, its own daemon. Any number run side by side.
//! - An [`Sshd`] is one machine: a real OpenSSH server on a loopback port, with a configuration for the client.
//! - A [`Place`] is a directory under test. A probe runs on the local disk first (which proves the probe), then on a
//!   mount of this host, then on a mount over SSH.
//! - An [`Engine`] is where containers are: a real dockerd with its data in a scratch directory.
//! - A [`registry::Registry`] is where images of containers are: a real docker-registry, to which a real skopeo pushes.
//! - [`guest`] has what microVMs boot from: busybox and a kernel that the setup has unpacked.
//! - A [`DelayProxy`] is distance: it adds a round trip, stalls, and cuts.
//! - A [`Far`] is a machine behind one, to be cut off.
//! - [`tree::differences`] compares two trees byte for byte, attributes included.
//! - [`faults`] kills and cuts at random moments while a workload runs, and looks whether anything came of it.
//! - [`coherence`] looks whether what is seen here of others' changes may be seen.
//! - [`oracle`] does the same at random in a thread and on the local disk, and looks whether it comes to the same.
//! - [`bench`] measures a mount against the local disk and its peers.
//!
//! Invariants: a fixture that is dropped leaves no process, no mount and no file, and says so when the program left
//! some; nothing waits without a deadline; only processes that have to do with a fixture's own scratch directory
//! are ever killed.

#![allow(missing_docs, reason = "fixtures: what a name does not say has a sentence, the rest would be noise")]

pub mod bench;
pub mod coherence;
pub mod engine;
pub mod far;
pub mod faults;
pub mod guest;
pub mod leftovers;
pub mod mapping;
pub mod oracle;
pub mod place;
pub mod program;
pub mod proxy;
pub mod registry;
pub mod sshd;
pub mod stead;
pub mod tree;
pub mod wait;

pub use engine::Engine;
pub use far::Far;
pub use place::{Kind, Place};
pub use program::{Finished, Program};
pub use proxy::DelayProxy;
pub use sshd::Sshd;
pub use stead::{Mount, Stead};
pub use wait::eventually;

/// Whether tests run as long as what is promised, and not only as long as it takes to see that it holds:
/// `STEAD_E2E_LONG=1`.
pub fn is_long() -> bool {
    std::env::var_os("STEAD_E2E_LONG").is_some_and(|value| !value.is_empty())
}
