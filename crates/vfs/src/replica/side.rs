//! The two trees that a replica keeps the same.

use std::io::Read;

use super::item::{Entry, Identity, Token};

/// Why a side did not do what was asked. Nothing was changed, but for [`Refusal::Cut`].
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// It is not as was expected: look again.
    #[error("it has changed meanwhile")]
    Changed,
    /// The side cannot be reached now. What was asked may have been done.
    #[error("the connection was cut")]
    Cut,
    /// It cannot be done, now or later, unless something else changes.
    #[error("{0}")]
    Refused(String),
}

/// What a side answers.
pub type Answer<T> = Result<T, Refusal>;

/// A file where it is expected to be. A side that finds it elsewhere, or does not find it, answers [`Refusal::Changed`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub struct At {
    pub identity: Identity,
    pub parent: Identity,
    pub name: Box<[u8]>,
}

/// What both sides can do. Each change is whole or not at all, and is on the disk when it is answered. Nothing is ever replaced:
/// a name that is taken is [`Refusal::Changed`].
pub trait Side {
    /// Everything in a directory that can be replicated.
    fn list(&mut self, directory: &Identity) -> Answer<Vec<Entry>>;
    /// Whether no directory has this file any more. One that was moved while a tree was looked at is in none of the listings, and
    /// not gone. A side that cannot tell says that it is: it is then taken for removed, and for a new one later.
    fn is_gone(&mut self, identity: &Identity) -> Answer<bool>;
    /// Makes a directory.
    fn make_directory(&mut self, parent: &Identity, name: &[u8], mode: u16) -> Answer<Entry>;
    /// Gives a file another name, in another directory or the same. A directory goes with all that is in it.
    fn rename(&mut self, from: &At, parent: &Identity, name: &[u8]) -> Answer<Entry>;
    /// Sets the permissions.
    fn set_mode(&mut self, at: &At, mode: u16) -> Answer<Entry>;
    /// Removes a file if its content is still this, or a directory if it is empty; else [`Refusal::Changed`].
    fn remove(&mut self, at: &At, content: &Token, edit: Option<&Token>) -> Answer<()>;
}

/// What a file that is made on a side is like.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "as in an entry")]
pub struct Facts {
    pub is_symlink: bool,
    pub mode: u16,
    pub size: u64,
    pub content: Token,
}

/// This computer: files that are fetched when they are read.
pub trait Here: Side {
    /// Makes a file that has a version of the machine's, and none of its bytes yet.
    fn make_placeholder(&mut self, parent: &Identity, name: &[u8], facts: &Facts) -> Answer<Entry>;
    /// Says of a file that was not written to that its content is another now; its bytes are gone.
    fn refresh(&mut self, at: &At, old: &Token, facts: &Facts) -> Answer<Entry>;
    /// Says of a file that was written to in this way that the machine has its content, as this version.
    fn settle(&mut self, at: &At, edit: &Token, content: &Token) -> Answer<Entry>;
    /// The content of a file that was written to in this way. A read fails if it is written to meanwhile.
    fn open(&mut self, at: &At, edit: &Token) -> Answer<Box<dyn Read + '_>>;
}

/// The machine.
pub trait There: Side {
    /// Makes a file with this content.
    fn make_file(
        &mut self,
        parent: &Identity,
        name: &[u8],
        facts: &Facts,
        content: &mut dyn Read,
    ) -> Answer<Entry>;
    /// Gives a file of this version other content. Its identity may change.
    fn replace(&mut self, at: &At, old: &Token, facts: &Facts, content: &mut dyn Read) -> Answer<Entry>;
    /// Bytes of this version of a file, fewer only at its end. Of another version, [`Refusal::Changed`].
    fn read(&mut self, at: &At, content: &Token, offset: u64, length: u32) -> Answer<Vec<u8>>;
    /// Whether this version of a file has exactly these bytes.
    fn is_same(&mut self, at: &At, content: &Token, other: &mut dyn Read) -> Answer<bool>;
}
