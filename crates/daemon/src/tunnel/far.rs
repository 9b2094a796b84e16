//! The far end of a tunnel, as the daemon has it: a process in the machine's session of commands.

use std::collections::VecDeque;
use std::time::Duration;

use ::remote::client::{AgentClient, CallError, ProcessEvent, ProcessStream, TypedCall};
use bytes::{Buf, Bytes, BytesMut};
use tokio::sync::mpsc;
use wire::agent::process::{Output, ProcessId as FarId, ProcessRequest};
use wire::agent::tunnel::{ARGUMENT, TunnelFrame};
use wire::api::machine::Machine;
use wire::api::tunnel::Open;
use wire::api::{ErrorKind, ErrorObject};
use wire::endpoint::Endpoint;
use wire::frame::{FrameError, PREFIX_BYTES, Prefix, decode_head, encode_head};

use super::{Said, unattended};
use crate::failure::{chain, from_call};
use crate::owner::{OwnerHandle, Wanted};
use crate::prompt::Prompter;
use crate::rpc::process::Way;

/// Output that an agent may send ahead: what is kept of it, and what a fast line holds.
const WINDOW_BYTES: u32 = wire::agent::process::OUTPUT_KEPT_BYTES_MAX;

/// How many bytes of frames are given to the machine in one request.
const BATCH_BYTES: usize = 128 << 10;

/// How many bytes of frames may be under way to the machine: what a fast line holds.
const UNDER_WAY_BYTES_MAX: usize = 1 << 20;

/// How long a far end may take to say that it serves, on a machine that is there.
const READY_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a far end may take to end when it is told to. One that takes longer is hung up.
const END_TIMEOUT: Duration = Duration::from_secs(2);

/// A process that serves a tunnel. Dropped, it is hung up, as soon as its machine can be told.
pub(super) struct Far {
    /// Where it listens, or what it connects to.
    pub at: Endpoint,
    reader: Reader,
    writer: Writer,
    way: Way,
}

/// What comes from a far end.
pub(super) enum Heard {
    /// With its data.
    Frame(TunnelFrame, Bytes),
    /// Nothing more comes.
    Lost(String),
}

pub(super) struct Reader {
    stream: ProcessStream,
    incoming: BytesMut,
}

pub(super) struct Writer {
    client: AgentClient,
    process: FarId,
    /// How many bytes have been given to the machine.
    from: u64,
    /// What it has not taken, the first first.
    under_way: VecDeque<(TypedCall<()>, usize)>,
    under_way_bytes: usize,
}

impl Far {
    /// Begins one, through a connection that is opened if it is not.
    pub async fn begin(
        open: &Open,
        owner: &OwnerHandle,
        prompter: Option<Prompter>,
    ) -> Result<Far, ErrorObject> {
        let caller = if prompter.is_some() { open.caller.clone() } else { unattended(&open.caller) };
        let lease = owner.acquire(Wanted::new(open.machine.clone(), caller, prompter)).await?;
        let commands = lease.link().commands().await?;
        let process = commands.new_process();
        // Once it serves it outlasts any cut that its session does.
        let client = commands.client.patient();
        let stream = client.spawn(spawn_request(&open.machine, process));
        let mut far = Far {
            at: open.remote.clone(),
            reader: Reader { stream, incoming: BytesMut::new() },
            writer: Writer { client, process, from: 0, under_way: VecDeque::new(), under_way_bytes: 0 },
            way: Way::new(lease, commands),
        };
        let what = match open.reverse {
            true => format!("could not listen on `{}` of `{}`", open.remote, open.machine),
            false => format!("could not open a tunnel on `{}`", open.machine),
        };
        match tokio::time::timeout(READY_TIMEOUT, far.introduce(open, &what)).await {
            Ok(introduced) => introduced.map(|()| far),
            Err(_) => {
                let message = format!("{what}: nothing came of it within {} s", READY_TIMEOUT.as_secs());
                Err(ErrorObject::new(ErrorKind::TimedOut, message))
            }
        }
    }

    async fn introduce(&mut self, open: &Open, what: &str) -> Result<(), ErrorObject> {
        match self.reader.stream.next().await {
            Some(Ok(ProcessEvent::Started { .. })) => {}
            Some(Err(error)) => return Err(from_call(what, &error)),
            Some(Ok(_)) | None => return Err(failed(what, "the agent broke the protocol")),
        }
        let first = match open.reverse {
            true => TunnelFrame::Listen(open.remote.clone()),
            false => TunnelFrame::Connect(open.remote.clone()),
        };
        let first = encode_head(&first, 0).map_err(|error| failed(what, &chain(&error)))?;
        self.writer.give(first.into());
        match self.reader.next().await {
            Heard::Frame(TunnelFrame::Ready(at), _) => {
                self.at = at;
                Ok(())
            }
            Heard::Frame(TunnelFrame::Failed(failure), _) => {
                Err(from_call(what, &CallError::Failed(failure)))
            }
            Heard::Frame(..) => Err(failed(what, "it broke the protocol")),
            Heard::Lost(why) => Err(failed(what, &why)),
        }
    }

    pub fn split(&mut self) -> (&mut Reader, &mut Writer) {
        (&mut self.reader, &mut self.writer)
    }

    /// Has it end, and waits for that if its machine is there.
    pub async fn end(self) {
        let Far { mut reader, mut writer, way, .. } = self;
        if writer.client.away().is_some() {
            return;
        }
        let ended = tokio::time::timeout(END_TIMEOUT, async {
            let _taken = writer.client.process_input(writer.process, writer.from, Bytes::new(), true).await;
            while !matches!(reader.stream.next().await, Some(Ok(ProcessEvent::Ended(_)) | Err(_)) | None) {}
        });
        if ended.await.is_ok() {
            way.leave();
        }
        writer.under_way.clear();
    }
}

fn failed(what: &str, why: &str) -> ErrorObject {
    ErrorObject::new(ErrorKind::Failure, format!("{what}: {why}"))
}

/// The agent's own program, which the system knows for as long as the agent runs, whatever has become of the file.
fn spawn_request(machine: &Machine, process: FarId) -> ProcessRequest {
    let words: &[&str] = match machine {
        Machine::Host => &["/proc/self/exe", "agent", ARGUMENT],
        Machine::Ssh(_) | Machine::Docker { .. } | Machine::Vm { .. } => &["/proc/self/exe", ARGUMENT],
    };
    ProcessRequest::Spawn {
        process,
        words: words.iter().map(|word| word.as_bytes().to_vec().into()).collect(),
        environment: Vec::new(),
        directory: None,
        terminal: None,
        detached: false,
        window: WINDOW_BYTES,
    }
}

impl Reader {
    /// What comes next. May be cancelled.
    pub async fn next(&mut self) -> Heard {
        loop {
            match self.take_frame() {
                Ok(Some((frame, data))) => return Heard::Frame(frame, data),
                Ok(None) => {}
                Err(error) => {
                    return Heard::Lost(format!("the far end broke the protocol: {}", chain(&error)));
                }
            }
            match self.stream.next().await {
                Some(Ok(ProcessEvent::Output(Output::Stdout, bytes))) => {
                    self.incoming.extend_from_slice(&bytes)
                }
                Some(Ok(ProcessEvent::Output(Output::Stderr, bytes))) => {
                    tracing::warn!(said = %bytes.escape_ascii(), "the far end of a tunnel complains");
                }
                Some(Ok(ProcessEvent::Started { .. })) => {}
                Some(Ok(ProcessEvent::Dropped { .. })) | None => {
                    return Heard::Lost("the agent broke the protocol".to_owned());
                }
                Some(Ok(ProcessEvent::Ended(_))) => return Heard::Lost("its process there ended".to_owned()),
                Some(Err(error)) => return Heard::Lost(chain(&error)),
            }
        }
    }

    fn take_frame(&mut self) -> Result<Option<(TunnelFrame, Bytes)>, FrameError> {
        let Some(prefix) = Prefix::of_whole(&self.incoming)? else { return Ok(None) };
        self.incoming.advance(PREFIX_BYTES);
        let head = self.incoming.split_to(prefix.head as usize);
        let data = self.incoming.split_to(prefix.payload as usize).freeze();
        Ok(Some((decode_head(&head)?, data)))
    }
}

impl Writer {
    /// Gives what is said to the machine, as much at once as is there, until it takes nothing any more; says why.
    pub async fn write(&mut self, mut saying: mpsc::Receiver<Said>) -> String {
        loop {
            let has_room = self.under_way_bytes < UNDER_WAY_BYTES_MAX;
            let said = tokio::select! {
                taken = taken(&mut self.under_way) => match taken {
                    Ok(bytes) => {
                        self.under_way_bytes -= bytes;
                        continue;
                    }
                    Err(error) => return chain(&error),
                },
                said = saying.recv(), if has_room => said,
            };
            let Some((frame, data)) = said else { return "the tunnel ends".to_owned() };
            let mut batch = Vec::new();
            let mut put = |frame: &TunnelFrame, data: &Bytes| {
                encode_head(frame, data.len()).map(|head| {
                    batch.extend_from_slice(&head);
                    batch.extend_from_slice(data);
                    batch.len() < BATCH_BYTES
                })
            };
            let mut more = put(&frame, &data);
            while let Ok(true) = more
                && let Ok((frame, data)) = saying.try_recv()
            {
                more = put(&frame, &data);
            }
            if let Err(error) = more {
                return chain(&error);
            }
            self.give(batch.into());
            if let Some((last, _)) = self.under_way.back_mut() {
                // Requests that wait for the line keep their order.
                last.queued().await;
            }
        }
    }

    fn give(&mut self, bytes: Bytes) {
        let count = bytes.len();
        let call = self.client.process_input(self.process, self.from, bytes, false);
        self.from += count as u64;
        self.under_way_bytes += count;
        self.under_way.push_back((call, count));
    }
}

/// Waits until the first that is under way has been taken. May be cancelled.
async fn taken(under_way: &mut VecDeque<(TypedCall<()>, usize)>) -> Result<usize, CallError> {
    let Some((first, bytes)) = under_way.front_mut() else { return std::future::pending().await };
    let (answer, bytes) = (first.await, *bytes);
    under_way.pop_front();
    answer.map(|()| bytes)
}
