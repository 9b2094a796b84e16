//! Processes: one method for each request, with the reply it has.

use bytes::Bytes;
use wire::agent::process::{ExitStatus, Output, ProcessId, ProcessReply, ProcessRequest, TerminalSize};
use wire::agent::{Reply, Request};

use super::call::{ReplyStream, TypedCall};
use super::request::reply_name;
use super::{AgentClient, CallError};

/// What a process does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProcessEvent {
    /// It runs, under this number of the machine.
    Started(u32),
    /// It wrote.
    Output(Output, Bytes),
    /// It has ended, and all its output has been told. The last event.
    Ended(ExitStatus),
}

/// The life of a process. Dropped before its end, the process is no longer wanted.
#[must_use = "a stream that is dropped is cancelled"]
pub struct ProcessStream {
    replies: ReplyStream,
    client: AgentClient,
}

impl ProcessStream {
    /// The next event, or `None` behind the last. An error is the last.
    pub async fn next(&mut self) -> Option<Result<ProcessEvent, CallError>> {
        let (reply, payload) = match self.replies.next().await? {
            Ok(event) => event,
            Err(error) => return Some(Err(error)),
        };
        let event = match reply {
            Reply::Process(ProcessReply::Started { pid }) => ProcessEvent::Started(pid),
            Reply::Process(ProcessReply::Output(output)) => ProcessEvent::Output(output, payload),
            Reply::Process(ProcessReply::Ended(status)) => ProcessEvent::Ended(status),
            other @ (Reply::Process(ProcessReply::Done) | Reply::File(_) | Reply::Description(_)) => {
                let lost = self.client.misanswered(reply_name(&other));
                return Some(Err(CallError::Lost(lost)));
            }
        };
        Some(Ok(event))
    }
}

impl AgentClient {
    fn process(&self, request: ProcessRequest, payload: Bytes) -> TypedCall<()> {
        self.typed(Request::Process(request), payload, |reply, _| match reply {
            Reply::Process(ProcessReply::Done) => Some(()),
            Reply::Process(_) | Reply::File(_) | Reply::Description(_) => None,
        })
    }

    /// Starts a program, by a [`ProcessRequest::Spawn`], and follows it. Any other request is answered by an error, or
    /// costs the link.
    pub fn spawn(&self, spawn: ProcessRequest) -> ProcessStream {
        let replies = self.stream(Request::Process(spawn), Bytes::new());
        ProcessStream { replies, client: self.clone() }
    }

    /// Sends `content` to a process's standard input, behind the `from` bytes that were sent before; answered when the
    /// process has been given it.
    pub fn process_input(&self, process: ProcessId, from: u64, content: Bytes, end: bool) -> TypedCall<()> {
        self.process(ProcessRequest::Input { process, from, end }, content)
    }

    /// Sends a signal to a process's group.
    pub fn process_signal(&self, process: ProcessId, signal: u8) -> TypedCall<()> {
        self.process(ProcessRequest::Signal { process, signal }, Bytes::new())
    }

    /// Changes the size of a process's terminal.
    pub fn process_resize(&self, process: ProcessId, size: TerminalSize) -> TypedCall<()> {
        self.process(ProcessRequest::Resize { process, size }, Bytes::new())
    }
}
