//! What a client has on this machine: an export, open files, locks, leases, processes, replies to mutations.
//!
//! A session knows no stream but through the [`Asked`] of each request and the output that leases and processes tell
//! through.

use std::cell::RefCell;
use std::os::fd::OwnedFd;
use std::sync::{Arc, OnceLock};

use rustix::fs::Mode;
use rustix::io::Errno;
use wire::agent::file::FileReply;
use wire::agent::{Description, Failure, Reply, Request, RequestId, Sequence};

use crate::Options;
use crate::credentials::Privilege;
use crate::descriptors::Descriptors;
use crate::export::Export;
use crate::failure::failure;
use crate::handles::Handles;
use crate::leases::Leases;
use crate::locks::Locks;
use crate::output::Output;
use crate::processes::Processes;
use crate::replies::{Answer, Replies};
use crate::stream::Stream;
use crate::streamed::Task;
use crate::ticket::Ticket;
use crate::told::{Changing, Told};

pub(crate) struct Session {
    pub options: Options,
    pub privilege: Privilege,
    pub handles: Handles,
    pub locks: Locks,
    pub leases: Leases,
    pub told: Arc<Told>,
    pub replies: Replies,
    pub processes: Processes,
    /// The process's own, before any thread took one of its own: programs are started with it.
    pub umask: Mode,
    descriptors: Descriptors,
    export: OnceLock<Arc<Export>>,
}

/// Which request is being answered, and on what stream.
pub(crate) struct Asked<'a> {
    pub stream: &'a Arc<Stream>,
    pub id: RequestId,
    pub sequence: Sequence,
    /// What the client says of the request while it runs; there for requests that may take long.
    pub ticket: Option<&'a Arc<Ticket>>,
    /// What the request changes, until its reply has been sent.
    pub changing: RefCell<Vec<Changing>>,
}

impl Asked<'_> {
    pub fn hold(&self, changing: Changing) {
        self.changing.borrow_mut().push(changing);
    }

    pub fn is_cancelled(&self) -> bool {
        self.ticket.is_some_and(|ticket| ticket.is_cancelled())
    }
}

/// What has come of a request.
#[expect(clippy::large_enum_variant, reason = "nearly all are the large one, and it is moved once")]
pub(crate) enum Outcome {
    Answered(Answer),
    /// The answer comes page by page.
    Streamed(Box<dyn Task>),
    /// Somebody else answers, with [`Stream::finish`].
    Later,
}

/// A reply about files, with its payload.
pub(crate) type Replied = Result<(FileReply, Vec<u8>), Errno>;

pub(crate) fn plain(reply: FileReply) -> Replied {
    Ok((reply, Vec::new()))
}

impl From<Replied> for Outcome {
    fn from(replied: Replied) -> Outcome {
        Outcome::Answered(replied.map(|(reply, payload)| (Reply::File(reply), payload)).map_err(failure))
    }
}

impl From<Errno> for Outcome {
    fn from(errno: Errno) -> Outcome {
        Outcome::Answered(Err(failure(errno)))
    }
}

impl Session {
    pub fn new(options: Options, output: Arc<Output>) -> Result<Session, Errno> {
        let descriptors = Descriptors::raise();
        Ok(Session {
            options,
            privilege: Privilege::of_this_process(),
            handles: Handles::new(descriptors.handles_max),
            locks: Locks::new(descriptors.locks_max),
            leases: Leases::new(output)?,
            told: Arc::default(),
            replies: Replies::default(),
            processes: Processes::default(),
            umask: process_umask(),
            descriptors,
            export: OnceLock::new(),
        })
    }

    /// Carries a request out. Runs on any thread that has [entered](crate::credentials::enter_thread).
    pub fn answer(&self, asked: &Asked<'_>, request: Request, payload: Vec<u8>) -> Outcome {
        if asked.is_cancelled() {
            return Errno::INTR.into();
        }
        match request {
            Request::File(request) => self.file(asked, request, payload),
            Request::Process(request) => self.process(asked, request, payload),
            Request::Describe => Outcome::Answered(Ok((Reply::Description(self.describe()), Vec::new()))),
        }
    }

    pub fn export(&self) -> Result<&Arc<Export>, Errno> {
        self.export.get().ok_or(Errno::NOTCONN)
    }

    /// The export, if it may be changed.
    pub fn export_to_change(&self) -> Result<&Arc<Export>, Errno> {
        match self.export()? {
            export if export.read_only => Err(Errno::ROFS),
            export => Ok(export),
        }
    }

    pub fn attached(&self) -> Option<Arc<Export>> {
        self.export.get().cloned()
    }

    pub(crate) fn attach(&self, path: &[u8], read_only: bool) -> Replied {
        if self.export.get().is_some() {
            return Err(Errno::ALREADY);
        }
        let (export, root) = Export::attach(path, &self.options.home, read_only, &self.descriptors)?;
        let reply = FileReply::Attached {
            root,
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            privileged: self.privilege.is_privileged(),
            path: export.path.clone(),
        };
        match self.export.set(Arc::new(export)) {
            Ok(()) => plain(reply),
            Err(_) => Err(Errno::ALREADY),
        }
    }

    fn describe(&self) -> Description {
        let name = rustix::system::uname();
        let program = std::fs::read_link("/proc/self/exe").unwrap_or_default();
        Description {
            system: format!("{} {}", name.sysname().to_string_lossy(), name.release().to_string_lossy()),
            architecture: std::env::consts::ARCH.to_owned(),
            hostname: name.nodename().to_string_lossy().into_owned(),
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            home: self.options.home.clone(),
            program: program.into_os_string().into_encoded_bytes(),
            release: wire::RELEASE.to_owned(),
        }
    }
}

/// Reads the umask without changing it, as the call for it would.
fn process_umask() -> Mode {
    const DEFAULT: u32 = 0o022;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let umask = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    let bits = umask.and_then(|text| u32::from_str_radix(text.trim(), 8).ok());
    Mode::from_bits_truncate(bits.unwrap_or(DEFAULT))
}

/// Opens the very file of an `O_PATH` descriptor for use.
pub(crate) fn reopen(file: &OwnedFd, flags: rustix::fs::OFlags) -> Result<OwnedFd, Errno> {
    use rustix::fs::{OFlags, open};
    open(crate::stat::proc_path(file), flags | OFlags::CLOEXEC | OFlags::NOCTTY, Mode::empty())
}

/// The answer to a request that the agent's own fault has ended.
pub(crate) fn broken() -> Failure {
    Failure { detail: "the agent failed; its log says more".to_owned(), ..failure(Errno::IO) }
}
