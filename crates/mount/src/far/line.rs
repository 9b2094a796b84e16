//! One question after another to an agent, over any byte stream.
//!
//! A session that ends with its stream: nothing is resumed and no reply is kept. Whoever loses the line looks at what has
//! become of what was asked. It waits in the caller's own thread and knows no runtime and no system, so that a backend needs no
//! more than two ends of a pipe. It does not count time either: a stream that is silent for good has to be ended by whoever made
//! it, as ssh does by itself.

use std::io::{BufReader, BufWriter, Read, Write};
use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use vfs::errno::Errno;
use vfs::replica::side::Refusal;
use wire::agent::file::{FileReply, FileRequest, Time};
use wire::agent::{AgentFrame, ClientFrame, Failure, HandleId, Reply, Request, RequestId, Sequence};
use wire::frame::{NOISE_BYTES_MAX, PREFACE, PREFIX_BYTES, Prefix, decode_head, encode_head};
use wire::hello::{Hello, SessionId};

/// Credit for one streamed request: some pages under way keep a link busy.
pub(super) const WINDOW_BYTES: u32 = 1 << 20;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum LineError {
    /// The stream is of no more use. What was asked may have been done.
    #[error("the line to the machine is lost: {0}")]
    Lost(String),
    /// The machine has done nothing, for this reason.
    #[error("{}", describe(.0))]
    Failed(Failure),
}

fn describe(failure: &Failure) -> String {
    let errno = Errno(failure.errno.0);
    match failure.detail.as_str() {
        "" => errno.to_string(),
        detail => format!("{detail}: {errno}"),
    }
}

impl LineError {
    /// The machine's error number, if it is the machine that refused.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            LineError::Failed(failure) => Some(Errno(failure.errno.0)),
            LineError::Lost(_) => None,
        }
    }

    fn lost(why: impl std::fmt::Display) -> LineError {
        LineError::Lost(why.to_string())
    }
}

/// What it means to a replica. The one place where error numbers of the machine become its words.
impl From<LineError> for Refusal {
    fn from(error: LineError) -> Refusal {
        const ELSEWHERE: [Errno; 6] =
            [Errno::ENOENT, Errno::EEXIST, Errno::ENOTDIR, Errno::EISDIR, Errno::ENOTEMPTY, Errno::ESTALE];
        match error.errno() {
            None => Refusal::Cut,
            Some(errno) if ELSEWHERE.contains(&errno) => Refusal::Changed,
            Some(_) => Refusal::Refused(format!("the machine says {error}")),
        }
    }
}

/// Whom a machine's files are asked of.
pub trait Line {
    /// Asks what has one answer.
    fn ask(&mut self, request: FileRequest, payload: &[u8]) -> Result<(FileReply, Bytes), LineError>;
    /// Asks what is answered in pages, of which each is handed over, until there are no more or no more are wanted.
    fn pages(
        &mut self,
        request: FileRequest,
        take: &mut dyn FnMut(FileReply, Bytes) -> ControlFlow<()>,
    ) -> Result<(), LineError>;
    /// What the machine's clock says.
    fn clock(&mut self) -> Result<Time, LineError>;
    /// A name for a file that is opened, not used before.
    fn new_handle(&mut self) -> HandleId;
}

/// What ends a byte stream, from whatever thread: who waits for it learns that it is lost.
pub type Ender = Arc<dyn Fn() + Send + Sync>;

/// The two ends of a byte stream to an agent.
pub struct StreamLine {
    ender: Option<Ender>,
    reader: BufReader<Box<dyn Read + Send>>,
    writer: BufWriter<Box<dyn Write + Send>>,
    /// The last request's number.
    request: u64,
    handle: u64,
    /// Why it is of no more use.
    lost: Option<String>,
}

impl std::fmt::Debug for StreamLine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StreamLine").field("request", &self.request).field("lost", &self.lost).finish()
    }
}

impl StreamLine {
    /// The same, with what ends its stream.
    pub fn ended_by(self, ender: impl Fn() + Send + Sync + 'static) -> StreamLine {
        StreamLine { ender: Some(Arc::new(ender)), ..self }
    }

    /// What ends its stream, if whoever has opened it has said.
    pub fn ender(&self) -> Option<Ender> {
        self.ender.clone()
    }

    /// Says hello to the agent at the other end. What a login prints before is skipped, up to [`NOISE_BYTES_MAX`].
    pub fn open(
        reader: impl Read + Send + 'static,
        writer: impl Write + Send + 'static,
    ) -> Result<StreamLine, LineError> {
        let (reader, writer) = (BufReader::new(Box::new(reader) as _), BufWriter::new(Box::new(writer) as _));
        let mut line = StreamLine { ender: None, reader, writer, request: 0, handle: 0, lost: None };
        let ours = Hello::new(0, SessionId::default());
        let mut greeting = PREFACE.to_vec();
        greeting.extend(encode_head(&ours, 0).map_err(LineError::lost)?);
        line.writer.write_all(&greeting).and_then(|()| line.writer.flush()).map_err(LineError::lost)?;
        line.skip_to_preface()?;
        let (head, _) = line.frame()?;
        let theirs: Hello = decode_head(&head).map_err(LineError::lost)?;
        ours.agree(&theirs).map_err(LineError::lost)?;
        Ok(line)
    }

    fn skip_to_preface(&mut self) -> Result<(), LineError> {
        let mut last = [0; PREFACE.len()];
        for _ in 0..NOISE_BYTES_MAX + PREFACE.len() {
            last.rotate_left(1);
            let end = last.len() - 1;
            self.reader
                .read_exact(&mut last[end..])
                .map_err(|error| LineError::Lost(format!("no agent has answered: {error}")))?;
            if last == *PREFACE {
                return Ok(());
            }
        }
        Err(LineError::lost("what answers is not an agent"))
    }

    fn frame(&mut self) -> Result<(Vec<u8>, Bytes), LineError> {
        let mut prefix = [0; PREFIX_BYTES];
        self.reader.read_exact(&mut prefix).map_err(LineError::lost)?;
        let prefix = Prefix::parse(prefix).map_err(LineError::lost)?;
        if prefix.packed {
            return Err(LineError::lost("the agent has packed what nobody said would be unpacked"));
        }
        // Both lengths have been held against their limits.
        let (mut head, mut payload) = (vec![0; prefix.head as usize], vec![0; prefix.payload as usize]);
        self.reader.read_exact(&mut head).map_err(LineError::lost)?;
        self.reader.read_exact(&mut payload).map_err(LineError::lost)?;
        Ok((head, payload.into()))
    }

    fn send(&mut self, frame: &ClientFrame, payload: &[u8]) -> Result<(), LineError> {
        let head = encode_head(frame, payload.len()).map_err(LineError::lost)?;
        self.writer
            .write_all(&head)
            .and_then(|()| self.writer.write_all(payload))
            .and_then(|()| self.writer.flush())
            .map_err(LineError::lost)
    }

    fn next(&mut self) -> Result<(AgentFrame, Bytes, usize), LineError> {
        let (head, payload) = self.frame()?;
        let bytes = head.len() + payload.len();
        Ok((decode_head(&head).map_err(LineError::lost)?, payload, bytes))
    }

    /// A number that no request of this stream had. No answer is to be told from another's after a restart, so no sequence
    /// number is given: nothing is ever sent twice.
    fn begin(&mut self, request: FileRequest, payload: &[u8]) -> Result<RequestId, LineError> {
        self.request += 1;
        let id = RequestId(self.request);
        let body = Request::File(request);
        self.send(&ClientFrame::Request { id, sequence: Sequence(0), body }, payload)?;
        Ok(id)
    }

    /// The next answer to this request, whether it is the last, and the credit that it took.
    fn answer(&mut self, asked: RequestId) -> Result<(Answered, bool, usize), LineError> {
        loop {
            let (frame, payload, bytes) = self.next()?;
            match frame {
                AgentFrame::Reply { id, last, body } if id == asked => {
                    let answered = match body {
                        Ok(Reply::File(reply)) => Ok((reply, payload)),
                        Ok(Reply::Process(_) | Reply::Description(_)) => {
                            return Err(LineError::lost("an answer to something else"));
                        }
                        Err(failure) => Err(failure),
                    };
                    return Ok((answered, last, bytes));
                }
                AgentFrame::Reply { .. } => return Err(LineError::lost("an answer to nothing")),
                AgentFrame::Closing { reason } => return Err(LineError::Lost(reason)),
                AgentFrame::Changed(_) | AgentFrame::LeasesLost | AgentFrame::Pong { .. } => {}
            }
        }
    }

    /// Nothing more is asked of a stream that has failed once: nobody knows what would come next on it.
    fn once_lost<T>(
        &mut self,
        ask: impl FnOnce(&mut StreamLine) -> Result<T, LineError>,
    ) -> Result<T, LineError> {
        if let Some(why) = &self.lost {
            return Err(LineError::Lost(why.clone()));
        }
        let answer = ask(self);
        if let Err(LineError::Lost(why)) = &answer {
            self.lost = Some(why.clone());
        }
        answer
    }
}

type Answered = Result<(FileReply, Bytes), Failure>;

impl Line for StreamLine {
    fn ask(&mut self, request: FileRequest, payload: &[u8]) -> Result<(FileReply, Bytes), LineError> {
        self.once_lost(|line| {
            let id = line.begin(request, payload)?;
            match line.answer(id)? {
                (answered, true, _) => answered.map_err(LineError::Failed),
                (_, false, _) => Err(LineError::lost("more answers than one")),
            }
        })
    }

    fn pages(
        &mut self,
        request: FileRequest,
        take: &mut dyn FnMut(FileReply, Bytes) -> ControlFlow<()>,
    ) -> Result<(), LineError> {
        self.once_lost(|line| {
            let id = line.begin(request, &[])?;
            let mut is_wanted = true;
            loop {
                let (answered, is_last, bytes) = line.answer(id)?;
                match answered {
                    _ if !is_wanted => {}
                    Err(failure) => return Err(LineError::Failed(failure)),
                    Ok((reply, payload)) => {
                        is_wanted = take(reply, payload).is_continue();
                        if !is_wanted && !is_last {
                            line.send(&ClientFrame::Cancel { id }, &[])?;
                        }
                    }
                }
                if is_last {
                    return Ok(());
                }
                if is_wanted {
                    let bytes = u32::try_from(bytes).unwrap_or(WINDOW_BYTES);
                    line.send(&ClientFrame::Credit { id, bytes }, &[])?;
                }
            }
        })
    }

    fn clock(&mut self) -> Result<Time, LineError> {
        self.once_lost(|line| {
            line.request += 1;
            let asked = line.request;
            line.send(&ClientFrame::Ping { nonce: asked }, &[])?;
            loop {
                match line.next()?.0 {
                    AgentFrame::Pong { nonce, clock } if nonce == asked => return Ok(clock),
                    AgentFrame::Closing { reason } => return Err(LineError::Lost(reason)),
                    AgentFrame::Reply { .. } => return Err(LineError::lost("an answer to nothing")),
                    AgentFrame::Changed(_) | AgentFrame::LeasesLost | AgentFrame::Pong { .. } => {}
                }
            }
        })
    }

    fn new_handle(&mut self) -> HandleId {
        self.handle += 1;
        HandleId(self.handle)
    }
}
