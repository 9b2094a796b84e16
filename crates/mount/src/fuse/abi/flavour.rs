//! What each kernel that speaks this protocol has in a way of its own, as one table for each.

use super::InitFlags;
#[cfg(any(doc, target_os = "macos"))]
use super::darwin;

/// The kernel of the system that this is compiled for.
#[cfg(target_os = "linux")]
pub const OWN: &Flavour = &super::linux::FLAVOUR;
/// The kernel of the system that this is compiled for.
#[cfg(target_os = "macos")]
pub const OWN: &Flavour = &darwin::FLAVOUR;

/// The last number of an error that all systems have in common, but for that of `EAGAIN`.
const ERRNO_COMMON_MAX: u16 = 34;

/// An error that a kernel has no better word for.
const EIO: u16 = 5;

/// A kernel's own ways. All else in this module is the same for each.
#[derive(Debug, PartialEq, Eq)]
pub struct Flavour {
    /// How messages are laid out.
    pub layout: Layout,
    /// The oldest minor version that is served.
    pub minor_min: u32,
    /// The newest minor version whose messages are known.
    pub minor_max: u32,
    /// The flags of INIT that mean here what [`InitFlags`] says. Other bits are never granted.
    pub init_flags: InitFlags,
    /// Whether [`max_write`](super::InitOut::max_write) is in pages that both sides have to agree on. Else the mount's own
    /// options say how long a WRITE may be.
    pub counts_pages: bool,
    /// What requests carry of `open(2)`.
    pub open: OpenBits,
    /// What requests carry of `setxattr(2)`.
    pub xattr: XattrBits,
    /// What the machine puts before a name of an extended attribute that programs of this system may use; empty where names are the
    /// same on both.
    pub xattr_namespace: &'static [u8],
    /// Linux's number of an error and this kernel's; empty where they are the same.
    pub errors: &'static [(u16, u16)],
    /// A request may have the number of an earlier one that was answered, also of one whose answer is just being written.
    pub numbers_return: bool,
    /// A notice about a node is carried out when no request on that node is under way any more, also one about its attributes
    /// alone. What an OPEN finds to have changed is said in its answer, with [`darwin::fopen`].
    pub notices_wait: bool,
}

/// How messages are laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// As [`super`] has it.
    Linux,
    /// As [`darwin`] has it, and [`super`] where that says nothing.
    Darwin,
}

/// Flags of `open(2)` beside the three ways of access, which have the same numbers everywhere. 0 is a flag that there is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenBits {
    /// `O_APPEND`.
    pub append: u32,
    /// `O_TRUNC`.
    pub truncate: u32,
    /// `O_EXCL`.
    pub exclusive: u32,
    /// `O_SYNC` and `O_DSYNC`.
    pub sync: u32,
    /// `O_DIRECT`.
    pub direct: u32,
}

/// Flags of `setxattr(2)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct XattrBits {
    /// `XATTR_CREATE`.
    pub create: u32,
    /// `XATTR_REPLACE`.
    pub replace: u32,
    /// What is of no concern to a server.
    pub ignored: u32,
}

impl Flavour {
    /// What this kernel calls an error that has this number on Linux.
    pub fn errno(&self, linux: u16) -> u16 {
        if self.errors.is_empty() {
            return linux;
        }
        let found = self.errors.iter().find(|(number, _)| *number == linux).map(|(_, own)| *own);
        found.or((linux <= ERRNO_COMMON_MAX).then_some(linux)).unwrap_or(EIO)
    }
}
