//! How a guest is run.

pub mod qemu;

use std::path::{Path, PathBuf};

use supervisor::{Identity, Process};

use crate::disk::Format;
use crate::error::Result;
use crate::network::Network;

/// What runs guests: one implementation for each VMM.
pub trait Engine: Send + Sync {
    /// What it is called in records and on the command line.
    fn name(&self) -> &'static str;

    /// Whether it can run guests here, and how. Blocks for as long as looking at some files takes.
    fn examine(&self) -> Result<Examined>;

    /// Starts a guest. Returns as soon as the VMM runs, which says nothing of the guest. The process outlives this one, and
    /// ends with SIGTERM as with the power off. Needs a tokio runtime.
    fn start(&self, spec: &Spec) -> Result<Process>;

    /// The VMM of this user that has its ports there, if one runs: whoever started it may have been killed before it was
    /// written down. Blocks for as long as looking at all processes takes.
    fn find(&self, ports: &Path) -> Result<Option<Identity>>;
}

/// How an engine would run guests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Examined {
    /// Its program.
    pub program: PathBuf,
    /// What its processors are.
    pub accelerator: Accelerator,
    /// Why they are not faster, in one line.
    pub why: Option<String>,
}

/// What a guest's processors are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accelerator {
    /// The computer's own.
    Kvm,
    /// Emulated: each instruction takes twenty.
    Tcg,
}

impl Accelerator {
    /// The word that is shown.
    pub fn name(self) -> &'static str {
        match self {
            Accelerator::Kvm => "kvm",
            Accelerator::Tcg => "tcg",
        }
    }
}

/// A guest to be started. Its files are there.
#[derive(Debug, Clone)]
pub struct Spec {
    /// Its name, and its host name.
    pub name: String,
    /// Processors.
    pub cpus: u32,
    /// Memory, in MiB.
    pub memory_mib: u32,
    /// An ELF file.
    pub kernel: PathBuf,
    /// What the kernel begins with.
    pub initrd: PathBuf,
    /// The root disk.
    pub disk: PathBuf,
    /// How that is written down.
    pub format: Format,
    /// The directory for the sockets of its ports, which is there and empty.
    pub ports: PathBuf,
    /// The console's log.
    pub console: PathBuf,
    /// This very program, which writes that log.
    pub own_program: PathBuf,
    /// Its network, if it has one. The sockets of its gate are beside those of its ports.
    pub network: Option<Network>,
}
