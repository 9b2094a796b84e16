//! A worker process and the protocol with it.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use supervisor::descriptor::DescriptorStream;
use supervisor::spawn::OWN_PROGRAM;
use supervisor::stop::{Grace, StopError, stop};
use supervisor::{Exit, Process, Spawn, SpawnError, Stdio};
use wire::api::mount::Force;
use wire::bytestring::ByteString;
use wire::decode::DecodeError;
use wire::worker::{
    CONTROL_DESCRIPTOR, Decoder, DescriptorPurpose, EncodeError, FromWorker, ToWorker, encode,
};

/// How long a message may take to be taken by a worker. It reads at once if it is alive: a message is shorter than the
/// socket's buffer.
const SEND_TIMEOUT: Duration = Duration::from_secs(5);

/// How much is read at once: a usual frame, which is a status.
const READ_BYTES: usize = 2 << 10;

/// The most descriptors that are kept for one worker: a device and as many clones as it has threads.
const KEPT_MAX: usize = 256;

/// How the last words of a worker are cut: a panic's message and its place.
const LAST_WORDS_BYTES_MAX: u64 = 2048;

/// A worker that has said that it ends, or that was told to, or that will not listen.
const ENDING: Grace =
    Grace { ask: Duration::from_secs(5), terminate: Duration::from_secs(5), kill: Duration::from_secs(5) };

/// The variables of the daemon that a worker gets besides those of the caller.
const VARIABLES: &[&str] =
    &["HOME", "LANG", "LOGNAME", "PATH", "RUST_BACKTRACE", "STEAD_LOG", "TMPDIR", "TZ", "USER"];

/// Which program a worker is.
#[derive(Debug, Clone)]
pub struct Launch {
    /// Its path.
    pub program: PathBuf,
    /// What makes it a worker.
    pub arguments: Vec<OsString>,
}

impl Default for Launch {
    /// The running program itself, as `stead worker`.
    fn default() -> Launch {
        Launch { program: PathBuf::from(OWN_PROGRAM), arguments: vec!["worker".into()] }
    }
}

/// A worker could not be started or spoken with.
#[derive(Debug, thiserror::Error)]
pub enum WorkerFailure {
    /// There is no process.
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    /// A message could not be made.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// What it said is no message.
    #[error("the worker does not keep to the protocol")]
    Decode(#[from] DecodeError),
    /// It announced descriptors that did not come, or more than are kept.
    #[error("the worker does not keep to the protocol: {what}")]
    Descriptors {
        /// What is wrong.
        what: &'static str,
    },
    /// The socket, or a file of the mount.
    #[error("could not {what}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It takes no messages.
    #[error("the worker does not listen")]
    Deaf,
}

/// A running worker.
#[derive(Debug)]
pub struct Worker {
    process: Process,
    control: DescriptorStream,
    decoder: Decoder,
    /// What outlives the worker: dropped with this, and then the kernel ends the mount.
    kept: Vec<(DescriptorPurpose, OwnedFd)>,
    hung_up: bool,
    log: PathBuf,
}

/// What a worker did.
#[derive(Debug)]
pub enum Heard {
    /// It said something.
    Said(FromWorker),
    /// It closed its socket. It is about to end, or broken. Told once.
    HungUp,
    /// It has ended, and what it said before has been told.
    Exited(Exit),
}

impl Worker {
    /// Starts a worker whose standard error goes to `worker.log` in `state_dir`.
    pub fn start(
        launch: &Launch,
        state_dir: &Path,
        environment: impl Iterator<Item = (String, ByteString)>,
    ) -> Result<Worker, WorkerFailure> {
        let io = |what| move |source| WorkerFailure::Io { what, source };
        let log = state_dir.join("worker.log");
        let stderr = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&log)
            .map_err(io("open the worker's log"))?;
        let (control, theirs) = DescriptorStream::pair().map_err(io("make a socket pair"))?;
        let mut spawn = Spawn::new(&launch.program)
            .arguments(&launch.arguments)
            .inherit_variables(VARIABLES)
            .stderr(Stdio::Descriptor(stderr.into()))
            .descriptor(CONTROL_DESCRIPTOR, theirs);
        for (name, value) in environment {
            spawn = spawn.variable(name, value.as_os_str());
        }
        let process = spawn.spawn()?;
        Ok(Worker { process, control, decoder: Decoder::new(), kept: Vec::new(), hung_up: false, log })
    }

    /// The process.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Says something.
    pub async fn send(&self, message: &ToWorker) -> Result<(), WorkerFailure> {
        let frame = encode(message)?;
        match tokio::time::timeout(SEND_TIMEOUT, self.control.write_all(&frame, &[])).await {
            Ok(sent) => sent.map_err(|source| WorkerFailure::Io { what: "speak with the worker", source }),
            Err(_) => Err(WorkerFailure::Deaf),
        }
    }

    /// Waits for the next thing it does. Descriptors are taken into keeping and not told. May be dropped half way
    /// without loss.
    pub async fn hear(&mut self) -> Result<Heard, WorkerFailure> {
        let hearing = |source| WorkerFailure::Io { what: "hear the worker", source };
        loop {
            if let Some(message) = self.decoder.next_frame::<FromWorker>()? {
                match message {
                    FromWorker::Descriptors { purpose, .. } => self.keep(purpose, message.descriptors()?)?,
                    message => return Ok(Heard::Said(message)),
                }
                continue;
            }
            let mut bytes = [0; READ_BYTES];
            let read = tokio::select! {
                // What it said last comes before that it has ended.
                biased;
                read = self.control.read(&mut bytes), if !self.hung_up => match read {
                    // It ended with something of ours unread.
                    Err(error) if error.kind() == io::ErrorKind::ConnectionReset => 0,
                    read => read.map_err(hearing)?,
                },
                exit = self.process.exited() => return Ok(Heard::Exited(exit.map_err(hearing)?)),
            };
            match read {
                0 => {
                    self.hung_up = true;
                    return Ok(Heard::HungUp);
                }
                count => self.decoder.push(&bytes[..count]),
            }
        }
    }

    fn keep(&mut self, purpose: DescriptorPurpose, count: usize) -> Result<(), WorkerFailure> {
        let broken = |what| WorkerFailure::Descriptors { what };
        if self.kept.len() + count > KEPT_MAX {
            return Err(broken("it sends more descriptors than are kept"));
        }
        let taken = self.control.take(count).ok_or(broken("descriptors that it announced did not come"))?;
        self.kept.extend(taken.into_iter().map(|descriptor| (purpose, descriptor)));
        Ok(())
    }

    /// Ends it and reaps it: it is given a little time if it `is_ending` by itself, then SIGTERM, then SIGKILL.
    pub async fn end(&mut self, is_ending: bool) -> Result<Exit, StopError> {
        let ask = std::future::ready(if is_ending { Ok(()) } else { Err(()) });
        stop(&mut self.process, &ENDING, ask).await
    }

    /// Asks it to stop.
    pub async fn ask_to_stop(&self, force: Force) -> Result<(), WorkerFailure> {
        self.send(&ToWorker::Stop { force }).await
    }

    /// What it complained of last on its standard error, for a message about its end.
    pub fn last_words(&self) -> Option<String> {
        use std::io::{Read, Seek, SeekFrom};
        let mut file = std::fs::File::open(&self.log).ok()?;
        let length = file.metadata().ok()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(LAST_WORDS_BYTES_MAX))).ok()?;
        let mut bytes = Vec::new();
        file.take(LAST_WORDS_BYTES_MAX).read_to_end(&mut bytes).ok()?;
        last_complaint(&String::from_utf8_lossy(&bytes)).map(|line| line.replace(char::is_control, " "))
    }
}

/// The last line of a log that is a complaint: an error of the log, or what is not of the log at all, as a panic.
fn last_complaint(log: &str) -> Option<&str> {
    let complaint = |line: &&str| {
        let mut words = line.split_ascii_whitespace();
        let is_dated = words.next().is_some_and(|word| word.ends_with('Z') && word.contains('T'));
        let is_note = line.is_empty() || line.starts_with("note: ");
        !is_note && (!is_dated || words.next() == Some("ERROR"))
    };
    log.lines().map(str::trim).rfind(complaint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workers_last_words_are_what_it_complained_of() {
        let info = "2026-11-21T10:20:20.421662Z  INFO mount: the kernel agreed";
        let error = "2026-11-21T10:20:20.421662Z ERROR mount: no runtime";
        let panic = "stead: thread `main` panicked at x.rs:1: oh";
        let cases = [
            (vec![], None),
            (vec![info], None),
            (vec![error, info], Some(error)),
            (vec![error, panic, info, "", "note: run with `RUST_BACKTRACE=1`"], Some(panic)),
        ];
        for (lines, expected) in cases {
            assert_eq!(last_complaint(&lines.join("\n")), expected, "{lines:?}");
        }
    }
}
