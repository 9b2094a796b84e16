//! Answers that come page by page.

use rustix::io::Errno;
use wire::agent::Reply;

use crate::session::Session;

/// A long answer, which stops after each page if the client has not allowed more.
pub(crate) trait Task: Send {
    /// Makes the next page. An error ends the answer.
    fn next(&mut self, session: &Session) -> Result<Page, Errno>;
}

pub(crate) struct Page {
    pub reply: Reply,
    pub payload: Vec<u8>,
    pub last: bool,
}
