//! What a client has on this machine: an export, open files, locks, leases, processes, replies to mutations; and who
//! carries its requests out.
//!
//! A session outlives its streams. It knows one only through the [`Asked`] of each request, through the jobs that came on
//! it, and through what follows the output of a process or the leases.

use std::cell::{Cell, RefCell};
use std::os::fd::OwnedFd;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustix::fs::Mode;
use rustix::io::Errno;
use wire::agent::file::FileReply;
use wire::agent::{Description, Failure, Reply, Request, RequestId, Sequence};
use wire::hello::SessionId;

use crate::Options;
use crate::credentials::Privilege;
use crate::descriptors::Descriptors;
use crate::export::Export;
use crate::failure::failure;
use crate::file::writeback::Part;
use crate::gates::Gates;
use crate::handles::Handles;
use crate::leases::Leases;
use crate::locks::Locks;
use crate::pool::Pool;
use crate::processes::Processes;
use crate::replies::{Answer, Replies, StreamNumber};
use crate::stream::Stream;
use crate::streamed::Task;
use crate::ticket::Ticket;
use crate::told::{Changing, Told};
use crate::work::{Job, Waiter, Work};

/// How long the end of a session, or of a stream, waits for what is being written or carried out.
pub(crate) const END_TIMEOUT: Duration = Duration::from_secs(2);

pub(crate) struct Session {
    pub id: SessionId,
    pub options: Options,
    pub privilege: Privilege,
    pub handles: Handles,
    pub locks: Locks,
    pub leases: Leases,
    pub told: Arc<Told>,
    pub replies: Replies<Waiter>,
    pub processes: Processes,
    /// The order of requests, whichever stream they came on.
    pub gates: Gates<Job>,
    pub pool: Pool<Work>,
    /// The process's own, before any thread took one of its own: programs are started with it.
    pub umask: Mode,
    descriptors: Descriptors,
    export: OnceLock<Attached>,
}

/// The export, and what was asked for it.
struct Attached {
    export: Arc<Export>,
    path: Vec<u8>,
    stream: StreamNumber,
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
    /// What the disk is to begin with when the reply has been sent.
    pub part: Cell<Option<Part>>,
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

impl Outcome {
    /// The answer comes page by page, unless it could not be begun.
    pub fn streamed(begun: Result<impl Task + 'static, Failure>) -> Outcome {
        match begun {
            Ok(task) => Outcome::Streamed(Box::new(task)),
            Err(failure) => Outcome::Answered(Err(failure)),
        }
    }
}

impl From<Errno> for Outcome {
    fn from(errno: Errno) -> Outcome {
        Outcome::Answered(Err(failure(errno)))
    }
}

impl Session {
    fn new(id: SessionId, options: Options) -> Result<Session, Errno> {
        let descriptors = Descriptors::raise();
        Ok(Session {
            id,
            options,
            privilege: Privilege::of_this_process(),
            handles: Handles::new(descriptors.handles_max),
            locks: Locks::new(descriptors.locks_max),
            leases: Leases::new()?,
            told: Arc::default(),
            replies: Replies::default(),
            processes: Processes::default(),
            gates: Gates::new(),
            pool: Pool::new(),
            umask: process_umask(),
            descriptors,
            export: OnceLock::new(),
        })
    }

    /// Makes a session, with the thread that watches its leased directories.
    pub fn start(id: SessionId, options: Options) -> Result<Arc<Session>, String> {
        let session =
            Session::new(id, options).map_err(|errno| format!("could not make a session: {errno}"))?;
        let session = Arc::new(session);
        let of_leases = session.clone();
        let thread = std::thread::Builder::new().name("leases".to_owned());
        let started = thread.spawn(move || of_leases.leases.run(|| of_leases.attached(), &of_leases.told));
        started.map(|_| session).map_err(|error| format!("could not start a thread: {error}"))
    }

    /// Carries a request out, and takes of its payload what it keeps. Runs on any thread that has
    /// [entered](crate::credentials::enter_thread).
    pub fn answer(&self, asked: &Asked<'_>, request: Request, payload: &mut Vec<u8>) -> Outcome {
        if asked.is_cancelled() {
            return Errno::INTR.into();
        }
        match request {
            Request::File(request) => self.file(asked, request, payload),
            Request::Process(request) => self.process(asked, request, std::mem::take(payload)),
            Request::Describe => Outcome::Answered(Ok((Reply::Description(self.describe()), Vec::new()))),
        }
    }

    pub fn export(&self) -> Result<&Arc<Export>, Errno> {
        self.export.get().map(|attached| &attached.export).ok_or(Errno::NOTCONN)
    }

    /// The export, if it may be changed.
    pub fn export_to_change(&self) -> Result<&Arc<Export>, Errno> {
        match self.export()? {
            export if export.read_only => Err(Errno::ROFS),
            export => Ok(export),
        }
    }

    /// Whether its client has nothing here yet, so that nothing is lost with it.
    pub fn holds_nothing(&self) -> bool {
        self.export.get().is_none() && self.processes.are_none()
    }

    pub fn attached(&self) -> Option<Arc<Export>> {
        self.export.get().map(|attached| attached.export.clone())
    }

    pub(crate) fn attach(&self, asked: &Asked<'_>, path: &[u8], read_only: bool) -> Replied {
        let stream = asked.stream.number();
        let attached_before = |before: &Attached| {
            let is_repeat =
                before.stream < stream && before.path == path && before.export.read_only == read_only;
            if is_repeat { self.attached_to(&before.export) } else { Err(Errno::ALREADY) }
        };
        if let Some(before) = self.export.get() {
            return attached_before(before);
        }
        let export = Export::attach(path, &self.options.home, read_only, &self.descriptors)?;
        let export = Arc::new(export);
        match self.export.set(Attached { export: export.clone(), path: path.to_vec(), stream }) {
            Ok(()) => self.attached_to(&export),
            // The same request on an earlier stream was under way still.
            Err(_) => self.export.get().map_or(Err(Errno::ALREADY), attached_before),
        }
    }

    fn attached_to(&self, export: &Export) -> Replied {
        plain(FileReply::Attached {
            root: export.root()?,
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            privileged: self.privilege.is_privileged(),
            path: export.path.clone(),
        })
    }

    /// Ends what the client has, and waits for that within limits.
    pub fn end(&self) {
        self.processes.end_all();
        self.leases.close();
        for work in self.pool.close() {
            // A wait that nobody ends would take its lock in the name of a session that is gone.
            if let Work::Interrupt(wait) = work {
                wait.interrupt();
            }
        }
        self.pool.wait_until_gone(END_TIMEOUT);
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

/// The umask that this process has had when it made its first session: threads of that may have changed it. It is read
/// without changing it, as the call for it would.
fn process_umask() -> Mode {
    const DEFAULT: u32 = 0o022;
    static FIRST: OnceLock<Mode> = OnceLock::new();
    *FIRST.get_or_init(|| {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let umask = status.lines().find_map(|line| line.strip_prefix("Umask:"));
        let bits = umask.and_then(|text| u32::from_str_radix(text.trim(), 8).ok());
        Mode::from_bits_truncate(bits.unwrap_or(DEFAULT))
    })
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
