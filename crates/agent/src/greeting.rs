//! How a stream begins: prefaces and hellos.

use std::sync::Arc;

use rustix::io::Errno;
use wire::agent::AgentFrame;
use wire::hello::{Hello, SessionId, capability};

use crate::ends::Ends;
use crate::input::Input;
use crate::output::Output;
use crate::payloads::Payloads;

/// A stream whose client has said hello, and waits for the answer.
pub(crate) struct Greeted {
    pub ends: Arc<Ends>,
    pub input: Input,
    pub output: Arc<Output>,
    pub payloads: Arc<Payloads>,
    pub theirs: Hello,
}

impl Greeted {
    /// Sends the preface and reads what the client says first. A client that cannot be understood is told why. As soon as
    /// it has begun to speak, `begun` is called.
    pub fn read(ends: &Arc<Ends>, session: SessionId, begun: impl FnOnce()) -> Result<Greeted, String> {
        let payloads = Arc::<Payloads>::default();
        let output = Arc::new(Output::new(ends.clone(), payloads.clone()));
        let mut input = Input::new(ends.clone(), payloads.clone());
        output.send_raw(wire::frame::PREFACE).map_err(unwritable)?;
        let theirs = input.preface().and_then(|()| {
            begun();
            input.frame::<Hello>()
        });
        let reason = match theirs {
            Ok(Some((theirs, _))) => match hello(session, 0).agree(&theirs) {
                Ok(_) => return Ok(Greeted { ends: ends.clone(), input, output, payloads, theirs }),
                Err(mismatch) => mismatch.to_string(),
            },
            Ok(None) => "the stream ended before the client said hello".to_owned(),
            Err(error) => error.to_string(),
        };
        Err(refuse(&output, session, reason))
    }

    /// Tells the client why there is no session for it, and gives that back.
    pub fn refuse(&self, session: SessionId, reason: String) -> String {
        refuse(&self.output, session, reason)
    }
}

/// Says which session it is, and for how long it is kept when this stream breaks. Before anything else is sent.
pub(crate) fn answer(output: &Output, session: SessionId, keep_seconds: u32) -> Result<(), String> {
    output.send_first(&hello(session, keep_seconds)).map_err(unwritable)
}

fn hello(session: SessionId, keep_seconds: u32) -> Hello {
    let capabilities = capability::LEASES | capability::PROCESSES | capability::LOCKS | capability::PACKING;
    Hello { keep_seconds, ..Hello::new(capabilities, session) }
}

fn refuse(output: &Output, session: SessionId, reason: String) -> String {
    // The client may be gone; then there is nobody to tell.
    let _ = output
        .send_first(&hello(session, 0))
        .and_then(|()| output.send_first(&AgentFrame::Closing { reason: reason.clone() }));
    reason
}

fn unwritable(errno: Errno) -> String {
    format!("could not write to the stream: {errno}")
}

/// A session's name that no other has.
pub(crate) fn new_session_id() -> SessionId {
    use std::hash::{BuildHasher, RandomState};
    // Each state is keyed at random by the standard library, from the system's generator.
    let [a, b] = [RandomState::new().hash_one(0), RandomState::new().hash_one(1)];
    let mut id = [0; 16];
    id[..8].copy_from_slice(&a.to_le_bytes());
    id[8..].copy_from_slice(&b.to_le_bytes());
    SessionId(id)
}
