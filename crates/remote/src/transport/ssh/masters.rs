//! The masters of one machine.
//!
//! A server allows so many sessions through one connection (`MaxSessions`) and refuses the next. Whoever is refused asks
//! here for another master, which is a login of its own.
//!
//! ```text
//! start ──► first master ──┬─ asked, and all were tried ──► opening ──► one more master ──┐
//!                          └◄────────────────────────────────── it ended by itself ◄──────┘
//! close, or the last handle dropped ──► all are ended, and their sockets gone
//! ```
//!
//! One login runs at a time, and everybody who asks meanwhile waits for what comes of it. A master that was opened stays
//! until the others do.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs::Permissions;
use std::future::Future;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use wire::api::error::{ErrorKind, ErrorObject};

use super::error::{SshError, name_of};
use super::further::{self, Answer, MASTERS_MAX, Slot, Slots};
use super::master::{LoginOptions, Master};
use super::{SshOptions, scarcity};

/// Requests that are read, or wait for a login, at a time. Others wait to be accepted.
const ASKERS_MAX: usize = 128;

/// After no request could be accepted, which is for want of descriptors, there may be some again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How a further master is opened.
pub trait OpenMaster: Send + Sync + 'static {
    /// Does what [`Master::start`] does with these options. What has to be asked is asked of whoever has caused it, and
    /// fails where nobody has.
    fn open(&self, options: SshOptions) -> OpeningMaster;
}

/// A master that logs in. Dropping it gives the login up.
pub type OpeningMaster = Pin<Box<dyn Future<Output = Result<Master, SshError>> + Send>>;

/// Opens masters with nobody to ask.
#[derive(Clone, Copy, Debug)]
pub struct Unattended;

impl OpenMaster for Unattended {
    fn open(&self, options: SshOptions) -> OpeningMaster {
        Box::pin(async move { Master::start(options, &LoginOptions::unattended()).await })
    }
}

/// The masters of one machine. Dropping it ends them.
pub struct Masters {
    first: Master,
    /// Never sent through by others than [`Masters::close`]; dropped with the handle.
    close: mpsc::Sender<()>,
    end: MastersEnd,
}

/// The end of the masters of one machine, for whoever has to know when they no longer have their sockets.
#[derive(Clone, Debug)]
pub struct MastersEnd {
    /// The processes. The sender goes when all of them have ended.
    pids: watch::Receiver<Vec<u32>>,
}

impl MastersEnd {
    /// Whether all of them have ended, and their sockets are gone.
    pub fn has_come(&self) -> bool {
        self.pids.has_changed().is_err()
    }

    /// Waits until it has. It comes after the masters were closed or dropped.
    pub async fn wait(mut self) {
        while self.pids.changed().await.is_ok() {}
    }
}

impl Masters {
    /// Logs in for the first time, as [`Master::start`] does. `opener` opens further masters from then on.
    pub async fn start(
        options: SshOptions,
        login: &LoginOptions,
        opener: Arc<dyn OpenMaster>,
    ) -> Result<Masters, SshError> {
        let first = Master::start(options, login).await?;
        Masters::over(first, BTreeMap::new(), opener)
    }

    /// Takes over the masters that a daemon before this one has started with these options and that are still logged in.
    /// None when the first is not: then those that are are ended.
    pub async fn adopt(
        options: &SshOptions,
        opener: Arc<dyn OpenMaster>,
    ) -> Result<Option<Masters>, SshError> {
        let at = |slot: Slot| SshOptions { control: slot.path(&options.control), ..options.clone() };
        let first = Master::adopt(at(Slot::FIRST)).await;
        let mut further = BTreeMap::new();
        for slot in Slot::all().skip(1) {
            if let Some(master) = Master::adopt(at(slot)).await {
                further.insert(slot, master);
            }
        }
        if let Some(first) = first {
            return Masters::over(first, further, opener).map(Some);
        }
        for master in further.into_values() {
            master.end().await;
        }
        Ok(None)
    }

    fn over(
        first: Master,
        further: BTreeMap<Slot, Master>,
        opener: Arc<dyn OpenMaster>,
    ) -> Result<Masters, SshError> {
        let options = first.options().clone();
        let path = further::request_path(&options.control);
        let listener = listen(&path).map_err(|source| SshError::Listen { path, source })?;
        let (close, closed) = mpsc::channel(1);
        let (sender, pids) = watch::channel(Vec::new());
        let mut owner = Owner {
            options,
            opener,
            listener,
            closed,
            masters: BTreeMap::new(),
            ends: JoinSet::new(),
            requests: JoinSet::new(),
            opening: None,
            waiting: Vec::new(),
            pids: sender,
        };
        owner.add(Slot::FIRST, first.clone());
        for (slot, master) in further {
            owner.add(slot, master);
        }
        tokio::spawn(owner.run());
        Ok(Masters { first, close, end: MastersEnd { pids } })
    }

    /// How the first was started.
    pub fn options(&self) -> &SshOptions {
        self.first.options()
    }

    /// The ssh processes.
    pub fn pids(&self) -> Vec<u32> {
        self.end.pids.borrow().clone()
    }

    /// Whether channels can be opened: the first master is there, and the masters have not been told to end.
    pub fn is_open(&self) -> bool {
        !self.first.has_ended() && self.close.capacity() > 0 && !self.close.is_closed()
    }

    /// Waits for the end of the first master, with which the connection ends.
    pub async fn ended(&self) -> SshError {
        self.first.ended().await
    }

    /// Ends all masters and waits until they have ended and their sockets are gone.
    pub async fn close(&self) {
        if let Err(error) = self.close.try_send(()) {
            tracing::debug!(%error, "the masters have been told to end before");
        }
        self.end().wait().await;
    }

    /// Their end, which can be waited for when they have been dropped.
    pub fn end(&self) -> MastersEnd {
        self.end.clone()
    }
}

impl std::fmt::Debug for Masters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Masters").field("pids", &self.pids()).finish_non_exhaustive()
    }
}

/// Listens for this user alone, in place of whoever listened there before. Until its mode is set the socket's is the
/// umask's, but its directory is only the user's.
fn listen(path: &Path) -> io::Result<UnixListener> {
    remove_socket(path)?;
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, Permissions::from_mode(0o600))?;
    Ok(listener)
}

pub(super) fn remove_socket(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Whatever can wake the owner of the masters.
enum Event {
    Accepted(UnixStream),
    Asked(Slots, UnixStream),
    /// A request that was none.
    NotAsked(io::Error),
    Opened(Slot, Result<Master, SshError>),
    Ended(Slot),
    Closed,
}

struct Owner {
    options: SshOptions,
    opener: Arc<dyn OpenMaster>,
    listener: UnixListener,
    closed: mpsc::Receiver<()>,
    masters: BTreeMap<Slot, Master>,
    ends: JoinSet<Slot>,
    requests: JoinSet<io::Result<(Slots, UnixStream)>>,
    opening: Option<(Slot, OpeningMaster)>,
    /// Whoever waits for what comes of the opening.
    waiting: Vec<UnixStream>,
    pids: watch::Sender<Vec<u32>>,
}

impl Owner {
    async fn run(mut self) {
        loop {
            match self.next().await {
                Event::Accepted(mut stream) => {
                    self.requests.spawn(async move { Ok((further::hear(&mut stream).await?, stream)) });
                }
                Event::Asked(tried, stream) => self.on_asked(tried, stream),
                Event::NotAsked(error) => tracing::debug!(%error, "a request for a master could not be read"),
                Event::Opened(slot, opened) => self.on_opened(slot, opened),
                Event::Ended(slot) => self.on_ended(slot),
                Event::Closed => return self.end().await,
            }
        }
    }

    async fn next(&mut self) -> Event {
        let has_room = self.requests.len() + self.waiting.len() < ASKERS_MAX;
        let Owner { listener, closed, ends, requests, opening, .. } = self;
        let opened = async {
            match opening {
                Some((slot, master)) => (*slot, master.await),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            // Told, or forgotten.
            _ = closed.recv() => Event::Closed,
            (slot, opened) = opened => Event::Opened(slot, opened),
            Some(ended) = ends.join_next() => match ended {
                Ok(slot) => Event::Ended(slot),
                // Its task does nothing that could fail, and is never called off.
                Err(_) => Event::Closed,
            },
            Some(request) = requests.join_next() => match request.map_err(io::Error::from).flatten() {
                Ok((tried, stream)) => Event::Asked(tried, stream),
                Err(error) => Event::NotAsked(error),
            },
            stream = accept(listener), if has_room => Event::Accepted(stream),
        }
    }

    fn on_asked(&mut self, tried: Slots, stream: UnixStream) {
        let mut living = self.masters.iter().filter(|(_, master)| !master.has_ended());
        if living.any(|(slot, _)| !tried.contains(*slot)) {
            return reply(stream, Answer::Another);
        }
        if self.opening.is_some() {
            return self.waiting.push(stream);
        }
        // The first slot is never filled again: its master's end is that of the connection.
        let free = Slot::all().skip(1).find(|slot| !self.masters.contains_key(slot));
        let Some(slot) = free else {
            let why = format!("{MASTERS_MAX} connections to it are open, the most there may be");
            return reply(stream, Answer::None(ErrorObject::new(ErrorKind::Failure, why)));
        };
        let control = slot.path(&self.options.control);
        tracing::info!(machine = %self.options.target, %slot, "all sessions are taken: logging in once more");
        let opening = self.opener.open(SshOptions { control, ..self.options.clone() });
        self.opening = Some((slot, opening));
        self.waiting.push(stream);
    }

    fn on_opened(&mut self, slot: Slot, opened: Result<Master, SshError>) {
        self.opening = None;
        let answer = match opened {
            Ok(master) => {
                self.add(slot, master);
                Answer::Another
            }
            Err(error) => {
                tracing::warn!(machine = %self.options.target, %slot, %error, "could not log in once more");
                Answer::None(told(&error))
            }
        };
        self.answer_all(&answer);
    }

    fn on_ended(&mut self, slot: Slot) {
        tracing::warn!(machine = %self.options.target, %slot, "an ssh connection has ended by itself");
        self.masters.remove(&slot);
        // One that was killed leaves its socket.
        self.remove_sockets([slot.path(&self.options.control)]);
        self.tell_pids();
    }

    fn add(&mut self, slot: Slot, master: Master) {
        let handle = master.clone();
        self.ends.spawn(async move {
            handle.ended().await;
            slot
        });
        self.masters.insert(slot, master);
        self.tell_pids();
    }

    fn tell_pids(&self) {
        self.pids.send_replace(self.masters.values().map(Master::pid).collect());
    }

    fn answer_all(&mut self, answer: &Answer) {
        for stream in self.waiting.drain(..) {
            reply(stream, answer.clone());
        }
    }

    async fn end(mut self) {
        self.opening = None;
        let message = format!("the connection to `{}` is being closed", name_of(&self.options.target));
        self.answer_all(&Answer::None(ErrorObject::new(ErrorKind::Interrupted, message)));
        let control = &self.options.control;
        let slots = self.masters.keys().map(|slot| slot.path(control));
        let others = [further::request_path(control), scarcity::mark_of(control)];
        let sockets: Vec<_> = slots.chain(others).collect();
        let mut ending = JoinSet::new();
        for master in std::mem::take(&mut self.masters).into_values() {
            ending.spawn(async move { master.end().await });
        }
        while ending.join_next().await.is_some() {}
        self.remove_sockets(sockets);
        // The sender of the processes goes with this, which tells that all is done.
    }

    fn remove_sockets(&self, paths: impl IntoIterator<Item = PathBuf>) {
        for path in paths {
            if let Err(error) = remove_socket(&path) {
                tracing::warn!(path = %path.display(), %error, "a control socket could not be removed");
            }
        }
    }
}

async fn accept(listener: &UnixListener) -> UnixStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            Err(error) => tracing::warn!(%error, "a request for a master could not be accepted"),
        }
        tokio::time::sleep(ACCEPT_PAUSE).await;
    }
}

/// An answer fits the buffer of its socket, so that this task is done when it runs.
fn reply(stream: UnixStream, answer: Answer) {
    tokio::spawn(further::answer(stream, answer));
}

/// An error as those see it who asked.
fn told(error: &SshError) -> ErrorObject {
    let mut message = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        message.push_str(&format!(": {error}"));
        cause = error.source();
    }
    let object = ErrorObject::new(error.kind(), message);
    match error.hint() {
        Some(hint) => object.with_hint(hint),
        None => object,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::api::machine::SshTarget;

    /// A program that does of ssh what its starter sees: there is something at the control path, and it runs.
    const FAKE: &str = "#!/bin/sh\nwhile [ \"$1\" != -S ]; do shift; done\n: > \"$2\"\nexec sleep 600\n";

    const DEADLINE: Duration = Duration::from_secs(30);

    struct Rig {
        masters: Masters,
        directory: tempfile::TempDir,
    }

    impl Rig {
        async fn start() -> Rig {
            Rig::start_with(Arc::new(Unattended)).await
        }

        async fn start_with(opener: Arc<dyn OpenMaster>) -> Rig {
            let directory = tempfile::tempdir().unwrap();
            let program = directory.path().join("ssh");
            std::fs::write(&program, FAKE).unwrap();
            std::fs::set_permissions(&program, Permissions::from_mode(0o700)).unwrap();
            let target = SshTarget::new(None, "box", None).unwrap();
            let (config, control) = (directory.path().join("config"), directory.path().join("s"));
            let options = SshOptions { program, target, config, control, environment: Vec::new() };
            let login = LoginOptions::unattended();
            let masters = Masters::start(options, &login, opener).await.unwrap();
            Rig { masters, directory }
        }

        /// Asks as one who has tried the first `count`.
        async fn ask(&self, count: usize) -> Answer {
            let mut tried = Slots::default();
            Slot::all().take(count).for_each(|slot| tried.insert(slot));
            let asking = further::ask(&self.masters.options().control, tried);
            tokio::time::timeout(DEADLINE, asking).await.unwrap().unwrap()
        }
    }

    #[tokio::test]
    async fn one_that_was_not_tried_is_enough_and_there_are_no_more_than_the_limit() {
        let rig = Rig::start().await;
        assert_eq!(rig.ask(0).await, Answer::Another);
        assert_eq!(rig.masters.pids().len(), 1);
        for count in 1..MASTERS_MAX as usize {
            assert_eq!(rig.ask(count).await, Answer::Another);
            assert_eq!(rig.masters.pids().len(), count + 1);
            // Whoever comes late finds it there.
            assert_eq!(rig.ask(count).await, Answer::Another);
        }
        let Answer::None(why) = rig.ask(MASTERS_MAX as usize).await else {
            panic!("one more than the limit")
        };
        assert!(why.message.contains("32 connections"), "{why}");
        assert_eq!(rig.masters.pids().len(), MASTERS_MAX as usize);
        rig.masters.close().await;
        let left: Vec<_> =
            std::fs::read_dir(&rig.directory).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["ssh"]);
    }

    #[tokio::test]
    async fn what_is_no_request_disturbs_nobody() {
        let rig = Rig::start().await;
        let path = further::request_path(&rig.masters.options().control);
        drop(UnixStream::connect(&path).await.unwrap());
        let silent = UnixStream::connect(&path).await.unwrap();
        assert_eq!(rig.ask(1).await, Answer::Another);
        drop(silent);
    }

    /// A login that comes to nothing, and tells that it has begun.
    struct Endless(watch::Sender<bool>);

    impl OpenMaster for Endless {
        fn open(&self, _: SshOptions) -> OpeningMaster {
            self.0.send_replace(true);
            Box::pin(std::future::pending())
        }
    }

    #[tokio::test]
    async fn whoever_waits_when_the_masters_are_closed_is_told() {
        let (begun, mut has_begun) = watch::channel(false);
        let rig = Rig::start_with(Arc::new(Endless(begun))).await;
        let (answer, ()) = tokio::join!(rig.ask(1), async {
            has_begun.wait_for(|begun| *begun).await.unwrap();
            rig.masters.close().await;
        });
        let Answer::None(why) = answer else { panic!("another master") };
        assert_eq!(why.kind(), ErrorKind::Interrupted);
    }
}
