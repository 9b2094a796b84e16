//! A session that outlives its streams.
//!
//! ```text
//!  first stream ──► attached ──its stream ends──► detached ──nobody came in time──► ended
//!                    ▲   │ goodbye, or it holds       │
//!                    │   │ nothing yet                │
//!                    │   └─────────► ended            │ a stream that resumes it
//!                    └── hello ◄──────────────────────┘
//!                          │ while attached: the older stream is cut
//! ```
//!
//! What would end it only ends what is the client's as long as there is a detached process: that goes on, and the session
//! with it, until its end has been kept for long enough.
//!
//! A client that is there says something every few seconds. One that has said nothing for [`STREAM_SILENT_MAX`] is taken for
//! gone, if a process that does not wait for a reader would wait for it.
//!
//! One thread waits at the [`Door`], one serves each stream. The newest stream wins: a link that is half dead looks alive
//! from this end, and must not keep its client out. A stream counts from when its client begins to speak: until then it is
//! in reserve, disturbs nobody, and keeps nothing from ending.

use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::io::Errno;
use rustix::net::SocketFlags;
use rustix::time::Timespec;
use wire::hello::{KEEP_SECONDS_MAX, SessionId};

use crate::door::Door;
use crate::ends::Ends;
use crate::greeting::{self, Greeted};
use crate::log::log;
use crate::relay::{self, Arrival, Handed, Said};
use crate::session::{END_TIMEOUT, Session};
use crate::stream::{Parting, Stream};
use crate::sync::{lock, wait_timeout};

/// How many streams may be there whose clients have said nothing: one that is about to be used, and one in reserve. Of more,
/// the oldest are cut.
const SILENT_MAX: usize = 2;

/// How long nobody is let in after that has failed: it fails when there are too many descriptors.
const DOOR_PAUSE: Duration = Duration::from_millis(100);

/// How long nothing may come on a stream to which a process writes that need not wait for a reader: longer than a client takes
/// to find its line dead.
const STREAM_SILENT_MAX: Duration = Duration::from_secs(30);

/// How often it is looked whether a detached process has ended, while nothing else happens.
const DETACHED_LOOK: Duration = Duration::from_secs(5 * 60);

struct Kept {
    session: Arc<Session>,
    state: Mutex<State>,
    /// A stream has ended.
    parted: Condvar,
    /// Wakes who waits at the door.
    wake: OwnedFd,
}

struct State {
    attached: Option<Arc<Stream>>,
    /// Those that have said nothing yet, the oldest first.
    silent: Vec<Arc<Ends>>,
    /// One that has begun to say hello.
    arriving: Option<Arc<Ends>>,
    /// How many streams there have been.
    streams: u64,
    keep: Duration,
    detached_at: Instant,
    over: bool,
}

/// What the thread at the door is to do.
enum Next {
    /// For so long at the most.
    Wait(Option<Duration>),
    End,
}

/// Serves a session, first on the stream of a client who has asked for one that is kept, then on those that resume it. Runs
/// in a process of its own, until the session ends.
pub(crate) fn serve(session: Arc<Session>, first: Greeted, relay: OwnedFd) -> ExitCode {
    let door = Door::open(session.id, |name| std::env::var_os(name));
    let door = door.inspect_err(|error| log(format_args!("the session cannot be kept: {error}"))).ok();
    let keep_seconds = if door.is_some() { granted(first.theirs.keep_seconds) } else { 0 };
    let wake = match first.ends.make_cuttable().and_then(|()| new_wake()) {
        Ok(wake) => wake,
        Err(errno) => {
            first.refuse(session.id, format!("could not keep a session: {errno}"));
            return ExitCode::FAILURE;
        }
    };
    let state = State {
        attached: None,
        silent: Vec::new(),
        arriving: Some(first.ends.clone()),
        streams: 0,
        keep: Duration::ZERO,
        detached_at: Instant::now(),
        over: false,
    };
    let kept = Arc::new(Kept { session, state: Mutex::new(state), parted: Condvar::new(), wake });
    let first_kept = kept.clone();
    kept.start(relay, move |relay| first_kept.attend(first, keep_seconds, None, relay));
    while let Next::Wait(timeout) = kept.next() {
        kept.wait(door.as_ref(), timeout);
    }
    // Nobody finds it from now on; who has come meanwhile sees the end and begins anew.
    drop(door);
    kept.wait_until_parted();
    kept.session.end();
    ExitCode::SUCCESS
}

fn granted(asked_seconds: u32) -> u32 {
    asked_seconds.min(KEEP_SECONDS_MAX)
}

fn new_wake() -> Result<OwnedFd, Errno> {
    eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
}

impl Kept {
    fn next(&self) -> Next {
        let state = &mut *lock(&self.state);
        if state.over {
            return Next::End;
        }
        if let Some(stream) = &state.attached {
            return Next::Wait(self.part_from_silent(stream));
        }
        if state.streams == 0 {
            return Next::Wait(None);
        }
        let left = state.keep.saturating_sub(state.detached_at.elapsed());
        if !left.is_zero() {
            return Next::Wait(Some(left));
        }
        let processes = &self.session.processes;
        match processes.detached_until() {
            // Looked at again when it has ended: its end is kept for longer than this.
            Some(None) => {
                processes.end_attached();
                Next::Wait(Some(DETACHED_LOOK))
            }
            Some(Some(until)) if until > Instant::now() => {
                processes.end_attached();
                Next::Wait(Some(until.saturating_duration_since(Instant::now())))
            }
            Some(Some(_)) | None => {
                state.over = true;
                Next::End
            }
        }
    }

    /// Ends a stream on which nothing comes, if that holds a process up. Says when it is to be looked at again.
    fn part_from_silent(&self, stream: &Stream) -> Option<Duration> {
        if !stream.is_kept() || stream.is_over() {
            return None;
        }
        let left = STREAM_SILENT_MAX.saturating_sub(stream.silent_for());
        if !left.is_zero() {
            return Some(left);
        }
        if self.session.processes.need_no_reader() {
            let seconds = STREAM_SILENT_MAX.as_secs();
            stream
                .end_with(Parting::Failed(format!("nothing has come for {seconds} s, and a process waits")));
        }
        Some(STREAM_SILENT_MAX)
    }

    /// Waits until somebody comes or something has changed.
    fn wait(self: &Arc<Kept>, door: Option<&Door>, timeout: Option<Duration>) {
        let wake = PollFd::new(&self.wake, PollFlags::IN);
        let at_door = door.map_or(self.wake.as_fd(), |door| door.socket.as_fd());
        let mut polled = [wake, PollFd::from_borrowed_fd(at_door, PollFlags::IN)];
        // An interrupted wait is a short one.
        let _ = poll(&mut polled, timeout.map(timespec).as_ref());
        let mut counter = [0; 8];
        let _ = rustix::io::read(&self.wake, &mut counter);
        if let Some(door) = door
            && polled[1].revents().contains(PollFlags::IN)
            && let Err(errno) = self.let_in(door)
        {
            log(format_args!("could not take a stream: {errno}"));
            let _ = poll(&mut [PollFd::new(&self.wake, PollFlags::IN)], Some(&timespec(DOOR_PAUSE)));
        }
    }

    fn wake(&self) {
        // The counter is far from its limit: the write cannot fail.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }

    fn let_in(self: &Arc<Kept>, door: &Door) -> Result<(), Errno> {
        let relay = rustix::net::accept_with(&door.socket, SocketFlags::CLOEXEC)?;
        match relay::take(relay)? {
            Arrival::Stream(handed, relay) => {
                relay::say(&relay, Said::Taken);
                let kept = self.clone();
                self.start(relay, move |relay| kept.greet(handed, relay));
            }
            // Its client has no way to use this session any more; what it holds must not be in the new one's way. The
            // relay sees the end when this process is gone.
            Arrival::OtherBuild(relay) => {
                self.end("a client of another build has come for the session");
                self.start(relay, |relay| relay::outlast(&relay));
            }
            Arrival::Nobody => {}
        }
        Ok(())
    }

    /// Starts a thread that has the relay until it is done.
    fn start(&self, relay: OwnedFd, run: impl FnOnce(OwnedFd) + Send + 'static) {
        let thread = std::thread::Builder::new().name("stream".to_owned());
        if let Err(error) = thread.spawn(move || run(relay)) {
            // The relay and its stream went with the closure: the client sees the end, and comes again if it can.
            log(format_args!("could not start a thread: {error}"));
            let state = &mut *lock(&self.state);
            state.over |= state.streams == 0;
            self.wake();
        }
    }

    /// Waits until the last stream's client has been told why it ends, within limits.
    fn wait_until_parted(&self) {
        let deadline = Instant::now() + END_TIMEOUT;
        let mut state = lock(&self.state);
        while state.attached.is_some() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            (state, _) = wait_timeout(&self.parted, state, left);
        }
    }

    fn end(&self, reason: &str) {
        let state = &mut *lock(&self.state);
        state.over = true;
        if let Some(stream) = &state.attached {
            stream.end_with(Parting::Failed(reason.to_owned()));
        }
        self.wake();
    }

    /// Hears a stream's client out, and serves it if it is for this session.
    fn greet(self: &Arc<Kept>, handed: Handed, relay: OwnedFd) {
        let Handed { input, output, errors } = handed;
        let ends = Arc::new(Ends::new(input, output));
        if let Err(errno) = ends.make_cuttable() {
            return log(format_args!("could not take a stream: {errno}"));
        }
        self.await_word(&ends);
        let greeted = Greeted::read(&ends, self.session.id, || self.begin_arriving(&ends));
        let greeted = greeted.and_then(|greeted| {
            let asked = greeted.theirs.session;
            match asked == self.session.id || asked == SessionId::default() {
                true => Ok(greeted),
                false => {
                    let reason = format!("this is session {}, and not {asked}", self.session.id);
                    Err(greeted.refuse(self.session.id, reason))
                }
            }
        });
        match greeted {
            Ok(greeted) => {
                let keep_seconds = granted(greeted.theirs.keep_seconds);
                self.attend(greeted, keep_seconds, Some(errors), relay);
            }
            Err(reason) => {
                log(format_args!("{reason}"));
                let mut state = lock(&self.state);
                state.silent.retain(|silent| !Arc::ptr_eq(silent, &ends));
                state.arriving.take_if(|arriving| Arc::ptr_eq(arriving, &ends));
                drop(state);
                relay::say(&relay, Said::Failed);
            }
        }
    }

    /// A stream is there whose client has said nothing.
    fn await_word(&self, ends: &Arc<Ends>) {
        let state = &mut *lock(&self.state);
        if state.silent.len() == SILENT_MAX {
            state.silent.remove(0).cut();
        }
        state.silent.push(ends.clone());
    }

    /// Its client has begun to speak. From now on it is the newest.
    fn begin_arriving(&self, ends: &Arc<Ends>) {
        let state = &mut *lock(&self.state);
        state.silent.retain(|silent| !Arc::ptr_eq(silent, ends));
        if let Some(older) = state.arriving.replace(ends.clone()) {
            older.cut();
        }
    }

    /// Serves the session on a stream until that ends.
    fn attend(
        self: &Arc<Kept>,
        greeted: Greeted,
        keep_seconds: u32,
        errors: Option<OwnedFd>,
        relay: OwnedFd,
    ) {
        let (ends, output) = (greeted.ends.clone(), greeted.output.clone());
        let Some(stream) = self.make_way(greeted, keep_seconds) else {
            ends.cut();
            return;
        };
        if errors.is_some() {
            relay::log_to(errors);
        }
        if let Err(reason) = greeting::answer(&output, self.session.id, keep_seconds) {
            stream.end_with(Parting::Failed(reason));
        }
        let parting = stream.serve();
        let said = match &parting {
            Parting::Failed(reason) => {
                log(format_args!("{reason}"));
                Said::Failed
            }
            Parting::Closed | Parting::Goodbye | Parting::Replaced => Said::Ended,
        };
        relay::say(&relay, said);
        if self.part(&stream, &parting) {
            // It is gone with this process, and whoever waits for it knows then that all has ended.
            relay::outlast(&relay);
        }
    }

    /// Ends the attached stream, waits until it has let go, and attaches a new one. `None` when a still newer one is
    /// arriving, or the session is over.
    fn make_way(&self, greeted: Greeted, keep_seconds: u32) -> Option<Arc<Stream>> {
        let deadline = Instant::now() + END_TIMEOUT;
        let mut state = lock(&self.state);
        loop {
            let is_newest = state.arriving.as_ref().is_some_and(|newest| Arc::ptr_eq(newest, &greeted.ends));
            if state.over || !is_newest {
                return None;
            }
            let Some(attached) = &state.attached else { break };
            attached.end_with(Parting::Replaced);
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                // Something of it hangs. It is over all the same.
                break;
            }
            (state, _) = wait_timeout(&self.parted, state, left);
        }
        state.streams += 1;
        let stream = Stream::new(&self.session, state.streams, keep_seconds > 0, greeted);
        state.keep = Duration::from_secs(keep_seconds.into());
        state.attached = Some(stream.clone());
        state.arriving = None;
        // From now on it is watched.
        self.wake();
        Some(stream)
    }

    /// Notes that a stream has ended. Says whether the session has ended with it.
    fn part(&self, stream: &Arc<Stream>, parting: &Parting) -> bool {
        let state = &mut *lock(&self.state);
        if state.attached.take_if(|attached| Arc::ptr_eq(attached, stream)).is_none() {
            return false;
        }
        // While no stream is there, nobody reads what is logged, and its reader must not wait for its end.
        relay::log_to(None);
        state.detached_at = Instant::now();
        // One that holds nothing is as good as a new one, unless another stream has come for it.
        let is_wanted = *parting == Parting::Replaced || state.arriving.is_some();
        let is_awaited = is_wanted || !self.session.holds_nothing();
        let ends = *parting == Parting::Goodbye || !stream.is_kept() || !is_awaited;
        if ends && self.session.processes.detached_until().is_some() {
            state.keep = Duration::ZERO;
        } else {
            state.over |= ends;
        }
        self.parted.notify_all();
        self.wake();
        state.over
    }
}

pub(crate) fn timespec(duration: Duration) -> Timespec {
    Timespec { tv_sec: duration.as_secs() as i64, tv_nsec: duration.subsec_nanos().into() }
}
