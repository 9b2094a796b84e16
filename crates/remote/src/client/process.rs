//! Processes: one method for each request, with the reply it has.

use bytes::Bytes;
use wire::agent::process::{ExitStatus, Output, ProcessId, ProcessReply, ProcessRequest, TerminalSize};
use wire::agent::{Reply, Request, StreamWindow};

use super::call::{ReplyStream, TypedCall};
use super::request::reply_name;
use super::{AgentClient, CallError};

/// What a process does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProcessEvent {
    /// It runs.
    Started {
        /// The machine's number for it.
        pid: u32,
        /// How many bytes of input it has been sent.
        input: u64,
        /// How many bytes of output there have been.
        output: u64,
    },
    /// Output is not there any more that would come here.
    Dropped {
        /// How many bytes.
        bytes: u64,
        /// How many of them nobody has read.
        unread: u64,
    },
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
            Reply::Process(ProcessReply::Started { pid, input, output }) => {
                ProcessEvent::Started { pid, input, output }
            }
            Reply::Process(ProcessReply::Dropped { bytes, unread }) => {
                ProcessEvent::Dropped { bytes, unread }
            }
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

    /// Reads what is kept of a detached process's output, and follows it from there on, with so much credit.
    pub fn process_follow(&self, process: ProcessId, window: StreamWindow) -> ProcessStream {
        self.spawn(ProcessRequest::Follow { process, from: 0, window, owed: 0 })
    }

    /// Has a process go on without its client.
    pub fn process_detach(&self, process: ProcessId) -> TypedCall<()> {
        self.process(ProcessRequest::Detach { process }, Bytes::new())
    }

    /// Says that the end of a process has been seen, with its output: nothing of it need be kept.
    pub fn process_forget(&self, process: ProcessId) -> TypedCall<()> {
        self.process(ProcessRequest::Forget { process }, Bytes::new())
    }

    /// Waits for the end of a process, without its output, also from one link to the next.
    pub fn process_wait(&self, process: ProcessId) -> TypedCall<ExitStatus> {
        self.typed(Request::Process(ProcessRequest::Wait { process }), Bytes::new(), |reply, _| match reply {
            Reply::Process(ProcessReply::Ended(status)) => Some(status),
            Reply::Process(_) | Reply::File(_) | Reply::Description(_) => None,
        })
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
