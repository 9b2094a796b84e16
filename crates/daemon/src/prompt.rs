//! Prompts: from the askpass program to the client that caused them, and back.
//!
//! A client that can be asked has a [`Prompter`]. While a login runs for it, the [owner](crate::owner) knows a ticket
//! for it, which ssh's askpass program shows. Nothing of a question or an answer is logged.

use tokio::sync::{mpsc, oneshot};
use wire::api::prompt::{PromptKind, Secret};
use wire::api::{ErrorKind, ErrorObject};

use crate::owner::{Event, OwnerHandle};

/// The most prompts that wait for one client.
pub const PROMPTS_MAX: usize = 8;

/// The longest question that is put to a client.
pub const TEXT_CHARS_MAX: usize = 4096;

/// A question on its way to a client's session.
#[derive(Debug)]
pub struct Question {
    /// How to put it.
    pub kind: PromptKind,
    /// What is asked.
    pub text: String,
    /// Where the answer goes; none when the client declines.
    pub answer: oneshot::Sender<Option<Secret>>,
}

/// Puts questions to one client.
#[derive(Debug, Clone)]
pub struct Prompter {
    questions: mpsc::Sender<Question>,
}

impl Prompter {
    /// A prompter, and where its questions arrive.
    pub fn new() -> (Prompter, mpsc::Receiver<Question>) {
        let (questions, arriving) = mpsc::channel(PROMPTS_MAX);
        (Prompter { questions }, arriving)
    }

    /// Asks, and waits as long as the client is there.
    pub async fn ask(&self, kind: PromptKind, text: &str) -> Result<Secret, ErrorObject> {
        let (answer, answered) = oneshot::channel();
        let text = text.chars().take(TEXT_CHARS_MAX).collect();
        let gone = || ErrorObject::new(ErrorKind::Interrupted, "the client that could answer has gone");
        self.questions.send(Question { kind, text, answer }).await.map_err(|_| gone())?;
        let answer = answered.await.map_err(|_| gone())?;
        answer.ok_or_else(|| ErrorObject::new(ErrorKind::Interrupted, "the prompt was declined"))
    }
}

/// A ticket that the owner knows. It forgets it when this is dropped.
#[derive(Debug)]
pub struct Ticket {
    secret: Secret,
    owner: OwnerHandle,
}

impl Ticket {
    pub(crate) fn new(secret: Secret, owner: OwnerHandle) -> Ticket {
        Ticket { secret, owner }
    }

    /// What the askpass program has to show.
    pub fn secret(&self) -> &Secret {
        &self.secret
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.owner.send_later(Event::ForgetTicket(self.secret.clone()));
    }
}
