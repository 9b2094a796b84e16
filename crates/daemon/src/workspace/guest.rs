//! The guest's part of a workspace: scripts for its `sh` and its `git`, which a process of its agent runs.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use machine::course::Course;
use remote::client::{CallError, ProcessEvent, TypedCall};
use rustix::fd::AsFd;
use serde_bytes::ByteBuf;
use store::workspace::PACK_BYTES_MAX;
use wire::agent::process::{ExitStatus, Output, ProcessId, ProcessRequest};
use wire::api::{ErrorKind, ErrorObject};

use crate::connection::{CommandSession, Lease};
use crate::failure::{from_call, from_io};

/// Makes a working copy.
pub const IMPORT: &str = include_str!("import.sh");

/// Says what is in one, and packs it.
pub const SEAL: &str = include_str!("seal.sh");

/// Removes what is left of one.
pub const UNDO: &str = include_str!("undo.sh");

/// What the scripts end with if there is no git, no working copy, or something where one is to be.
const NO_GIT: u8 = 69;
const NO_COPY: u8 = 66;
const TAKEN: u8 = 73;

/// How long a script may take: a large repository in a guest that is emulated.
const SCRIPT_TIMEOUT: Duration = Duration::from_secs(60 * 60);

/// How long removing what is left may take.
const UNDO_TIMEOUT: Duration = Duration::from_secs(5 * 60);

/// Output that the agent may send ahead.
const WINDOW_BYTES: u32 = 1 << 20;

/// A piece of input, and how many of them are under way at once: less than what an agent takes.
const PIECE_BYTES: usize = 128 << 10;
const PIECES_MAX: usize = 8;

/// The longest first line of a script's output: a path, or three names of objects.
const LINE_BYTES_MAX: usize = 8 << 10;

/// What is kept of its complaints.
const COMPLAINT_BYTES_MAX: usize = 400;

/// A guest that can be reached, as long as this is there.
pub struct Guest {
    vm: String,
    commands: Arc<CommandSession>,
    _lease: Lease,
}

/// A script that is to be run.
pub struct Script<'a> {
    /// Its text.
    pub text: &'static str,
    /// What it is told.
    pub variables: Vec<(&'static str, Vec<u8>)>,
    /// What it reads.
    pub input: Option<&'a Path>,
    /// Where what it says after its first line goes: a file that is made anew, up to [`PACK_BYTES_MAX`]. Otherwise that is dropped.
    pub output: Option<&'a Path>,
}

impl Guest {
    /// The microVM of this name, in this session.
    pub fn new(vm: String, lease: Lease, commands: Arc<CommandSession>) -> Guest {
        Guest { vm, commands, _lease: lease }
    }

    /// Runs a script to its end and gives the first line of what it says, for as long as somebody wants that: then the guest ends it.
    pub async fn run(&self, script: Script<'_>, course: &Course) -> Result<Vec<u8>, ErrorObject> {
        let late = || ErrorObject::new(ErrorKind::TimedOut, format!("the vm `{}` takes too long", self.vm));
        tokio::select! {
            ended = tokio::time::timeout(SCRIPT_TIMEOUT, self.carry(script)) => ended.unwrap_or_else(|_| Err(late())),
            error = called_off(course) => Err(error),
        }
    }

    /// Has what is in the guest of a workspace removed there. A guest that is away is not waited for.
    pub async fn undo(&self, id: &str, place: &[u8], name: &[u8]) -> Result<(), ErrorObject> {
        let failed = |kind, why: &str| {
            let message =
                format!("what is left of a workspace in the vm `{}` was not removed: {why}", self.vm);
            Err(ErrorObject::new(kind, message))
        };
        if self.commands.client.away().is_some() {
            return failed(ErrorKind::Unreachable, "it cannot be reached");
        }
        let variables =
            vec![("W_ID", id.as_bytes().to_vec()), ("W_PLACE", place.to_vec()), ("W_NAME", name.to_vec())];
        let undoing = self.carry(Script { text: UNDO, variables, input: None, output: None });
        match tokio::time::timeout(UNDO_TIMEOUT, undoing).await {
            Ok(undone) => undone.map(drop),
            Err(_) => failed(ErrorKind::TimedOut, "it takes too long"),
        }
    }

    async fn carry(&self, script: Script<'_>) -> Result<Vec<u8>, ErrorObject> {
        let what = format!("could not use git in the vm `{}`", self.vm);
        let process = self.commands.new_process();
        let bytes = |text: &[u8]| ByteBuf::from(text.to_vec());
        let variables = script.variables.iter().map(|(name, value)| (bytes(name.as_bytes()), bytes(value)));
        let request = ProcessRequest::Spawn {
            process,
            words: [&b"sh"[..], b"-c", script.text.as_bytes()].map(bytes).into(),
            environment: variables.collect(),
            directory: None,
            terminal: None,
            detached: false,
            window: WINDOW_BYTES,
        };
        let mut stream = self.commands.client.spawn(request);
        let mut heard = Heard::new(script.output)?;
        let feeding = self.feed(process, script.input);
        tokio::pin!(feeding);
        // An agent knows no process before it has said that it runs.
        let (mut is_there, mut is_fed) = (false, false);
        loop {
            let event = tokio::select! {
                event = stream.next() => event,
                fed = &mut feeding, if is_there && !is_fed => {
                    is_fed = true;
                    fed?;
                    continue;
                }
            };
            match event {
                Some(Ok(ProcessEvent::Started { .. })) => is_there = true,
                Some(Ok(ProcessEvent::Output(Output::Stdout, said))) => heard.take(&said)?,
                Some(Ok(ProcessEvent::Output(Output::Stderr, said))) => heard.complain(&said),
                Some(Ok(ProcessEvent::Ended(status))) => return self.judge(&what, status, heard),
                Some(Err(error)) => return Err(from_call(&what, &error)),
                Some(Ok(ProcessEvent::Dropped { .. })) | None => {
                    let message = format!("{what}: its agent broke the protocol");
                    return Err(ErrorObject::new(ErrorKind::Failure, message));
                }
            }
        }
    }

    /// Sends a file to a process, and the end of its input. One that has ended takes no more, and says why by its end.
    async fn feed(&self, process: ProcessId, input: Option<&Path>) -> Result<(), ErrorObject> {
        let client = &self.commands.client;
        let mut under_way: std::collections::VecDeque<TypedCall<()>> = std::collections::VecDeque::new();
        let mut from = 0;
        if let Some(path) = input {
            let failed = |error| from_io(&format!("could not read `{}`", path.display()), &error);
            let mut file = File::open(path).map_err(failed)?;
            let mut piece = vec![0; PIECE_BYTES];
            loop {
                let read = file.read(&mut piece).map_err(failed)?;
                if read == 0 {
                    break;
                }
                let content = Bytes::copy_from_slice(&piece[..read]);
                under_way.push_back(client.process_input(process, from, content, false));
                from += read as u64;
                if under_way.len() >= PIECES_MAX
                    && let Some(first) = under_way.pop_front()
                    && !is_taken(first.await)
                {
                    return Ok(());
                }
            }
        }
        under_way.push_back(client.process_input(process, from, Bytes::new(), true));
        for call in under_way {
            if !is_taken(call.await) {
                break;
            }
        }
        Ok(())
    }

    fn judge(&self, what: &str, status: ExitStatus, heard: Heard) -> Result<Vec<u8>, ErrorObject> {
        let vm = &self.vm;
        let complaint = String::from_utf8_lossy(&heard.complaint).trim().replace(char::is_control, " ");
        match status {
            ExitStatus::Exited(0) => heard.end(),
            ExitStatus::Exited(NO_GIT) => {
                let message = format!("there is no git in the vm `{vm}`");
                let hint = format!("stead exec vm://{vm} -- apt-get install git");
                Err(ErrorObject::new(ErrorKind::NotFound, message).with_hint(hint))
            }
            ExitStatus::Exited(NO_COPY) => {
                let message = format!("the workspace is not in the vm `{vm}` any more");
                Err(ErrorObject::new(ErrorKind::NotFound, message)
                    .with_hint(format!("stead workspace forget {vm}")))
            }
            ExitStatus::Exited(TAKEN) => {
                let message = format!("there is something at that place in the vm `{vm}`");
                Err(ErrorObject::new(ErrorKind::Conflict, message).with_hint("another place: --at PATH"))
            }
            ExitStatus::Exited(code) => {
                Err(ErrorObject::new(ErrorKind::Failure, format!("{what}: status {code}: {complaint}")))
            }
            ExitStatus::Signalled(signal) => {
                Err(ErrorObject::new(ErrorKind::Failure, format!("{what}: signal {signal}: {complaint}")))
            }
        }
    }
}

/// Whether input was taken. If it was not, its process tells why.
fn is_taken(answer: Result<(), CallError>) -> bool {
    answer.inspect_err(|error| tracing::debug!(%error, "a guest takes no more input")).is_ok()
}

/// Once nobody wants it any more.
async fn called_off(course: &Course) -> ErrorObject {
    match course.as_fd().try_clone_to_owned().and_then(supervisor::descriptor::readable) {
        Ok(end) => {
            // An error is an end.
            drop(end.readable().await);
            ErrorObject::new(ErrorKind::Interrupted, "it was called off")
        }
        Err(error) => from_io("could not wait for an end", &error),
    }
}

/// What a script has said.
struct Heard {
    line: Vec<u8>,
    has_line: bool,
    output: Option<File>,
    bytes: u64,
    complaint: Vec<u8>,
}

impl Heard {
    fn new(output: Option<&Path>) -> Result<Heard, ErrorObject> {
        let make = |path: &Path| {
            let failed = |error| from_io(&format!("could not make `{}`", path.display()), &error);
            File::create(path).map_err(failed)
        };
        let output = output.map(make).transpose()?;
        Ok(Heard { line: Vec::new(), has_line: false, output, bytes: 0, complaint: Vec::new() })
    }

    fn take(&mut self, said: &[u8]) -> Result<(), ErrorObject> {
        let mut rest = said;
        if !self.has_line {
            let end = said.iter().position(|byte| *byte == b'\n');
            let (line, behind) = said.split_at(end.unwrap_or(said.len()));
            self.line.extend_from_slice(line);
            if self.line.len() > LINE_BYTES_MAX {
                return Err(ErrorObject::new(ErrorKind::Failure, "a guest says what nobody understands"));
            }
            self.has_line = end.is_some();
            rest = behind.get(1..).unwrap_or_default();
        }
        self.bytes += rest.len() as u64;
        if self.bytes > PACK_BYTES_MAX {
            let message = format!("a guest sends more than {} GiB", PACK_BYTES_MAX >> 30);
            return Err(ErrorObject::new(ErrorKind::Refused, message));
        }
        let Some(output) = &mut self.output else { return Ok(()) };
        output.write_all(rest).map_err(|error| from_io("could not write what a guest sends", &error))
    }

    fn complain(&mut self, said: &[u8]) {
        let room = COMPLAINT_BYTES_MAX.saturating_sub(self.complaint.len());
        self.complaint.extend_from_slice(&said[..said.len().min(room)]);
    }

    fn end(self) -> Result<Vec<u8>, ErrorObject> {
        Ok(self.line)
    }
}

#[cfg(test)]
mod tests;
