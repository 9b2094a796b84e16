//! What is in a thread as git's objects: captures, and what is compared.

use store::objects::Revision;
use store::thread::Changed;
use store::worktree::snapshot::{Message, Mounted};
use store::worktree::{self, LogEntry};
use wire::api::time::Timestamp;
use wire::api::{ErrorKind, ErrorObject, thread};

use super::operations::captured_operation;
use super::{ThreadContext, base_of, blocking, captures_of, conflict, from_store, repository_of};
use crate::database::ThreadRow;
use crate::failure::failure;
use crate::mount::MountHandle;

const SCRATCH: &str = "scratch";

impl ThreadContext {
    /// Does something with what is in a thread that is mounted. Whoever has it do that has the thread's turn.
    pub(super) async fn in_worktree<T: Send + 'static>(
        &self,
        row: &ThreadRow,
        mount: &MountHandle,
        work: impl FnOnce(&Mounted<'_>, &Revision, &[Changed]) -> store::Result<T> + Send + 'static,
    ) -> Result<T, ErrorObject> {
        let changed = self.listed(row, mount).await?;
        let (row, dir) = (row.clone(), mount.dir.as_path().to_owned());
        let scratch = self.paths.thread_dir(&row.name).join(SCRATCH);
        blocking(move || {
            supervisor::socket::private_directory(&scratch).map_err(|error| failure(&error))?;
            let objects = repository_of(&row)?;
            let base = base_of(&row, &objects)?;
            let Some(registration) = &row.registration else {
                return Err(ErrorObject::internal("a thread that git does not know"));
            };
            let registration = registration.as_path();
            let mounted = Mounted { objects: &objects, registration, dir: &dir, scratch: &scratch };
            work(&mounted, &base, &changed).map_err(|error| from_store(&error))
        })
        .await?
    }

    /// Makes a commit of what is in a thread.
    pub async fn capture(&self, asked: thread::Capture) -> Result<thread::Captured, ErrorObject> {
        let thread::Capture { name, message: text, agent, tool, if_changed } = asked;
        let message = message(text, agent, tool)?;
        let (row, mount, turn) = self.take_mounted(&name).await?;
        let captures = name.clone();
        let (captured, committed) = self
            .in_worktree(&row, &mount, move |mounted, base, changed| {
                let tree = mounted.snapshot(base, changed)?;
                Ok((mounted.capture(&captures, &tree, &message)?, mounted.head()?))
            })
            .await?;
        let captured = match captured {
            Some(captured) => {
                self.record(&row, captured_operation(&name, &captured)).await;
                (captured.commit, captured.parent)
            }
            None if if_changed => {
                let last = blocking(move || captures_of(&row)).await??.unwrap_or(committed);
                (last, last)
            }
            None => {
                return Err(conflict(
                    format!(
                        "nothing has changed in the thread `{name}` since what was captured or committed last"
                    ),
                    format!("stead thread log {name}"),
                ));
            }
        };
        drop(turn);
        let (commit, parent) = captured;
        Ok(thread::Captured { name, commit: commit.to_string(), parent: parent.to_string() })
    }

    /// Has what is in a thread made a tree.
    pub async fn compare(&self, name: &str) -> Result<thread::Compared, ErrorObject> {
        let (row, mount, turn) = self.take_mounted(name).await?;
        let (from, to) = self
            .in_worktree(&row, &mount, |mounted, base, changed| {
                Ok((base.tree, mounted.snapshot(base, changed)?))
            })
            .await?;
        drop(turn);
        Ok(thread::Compared { repository: row.repository, from: from.to_string(), to: to.to_string() })
    }

    /// The captures of a thread, the last one first.
    pub async fn log(&self, name: &str) -> Result<thread::Captures, ErrorObject> {
        let row = self.find(name).await?.row;
        blocking(move || {
            let Some(last) = captures_of(&row)? else { return Ok(thread::Captures::default()) };
            let objects = repository_of(&row)?;
            let base = base_of(&row, &objects)?.commit;
            let log = worktree::log(&objects, &last, &base, thread::CAPTURES_MAX);
            let captures = log.map_err(|error| from_store(&error))?.into_iter().map(|entry| {
                let LogEntry { commit, at, author, subject } = entry;
                thread::CaptureEntry { commit, at: Timestamp::from_unix(at), author, subject }
            });
            Ok(thread::Captures { captures: captures.collect() })
        })
        .await?
    }
}

/// The message of a capture, if it can be one.
pub(super) fn message(
    text: String,
    agent: Option<String>,
    tool: Option<String>,
) -> Result<Message, ErrorObject> {
    let usage = |message: String| Err(ErrorObject::new(ErrorKind::Usage, message));
    if text.trim().is_empty() || text.len() > thread::MESSAGE_BYTES_MAX || text.contains('\0') {
        return usage(format!("a message has 1 to {} bytes, and no NUL", thread::MESSAGE_BYTES_MAX));
    }
    let given = [("Agent", agent), ("Tool", tool)].into_iter();
    let trailers: Vec<(String, String)> =
        given.filter_map(|(key, value)| Some((key.to_owned(), value?))).collect();
    let is_wrong = |value: &str| {
        value.trim().is_empty() || value.len() > thread::TRAILER_BYTES_MAX || value.contains(char::is_control)
    };
    match trailers.iter().find(|(_, value)| is_wrong(value)) {
        Some((key, _)) => usage(format!("`{key}` has one line of 1 to {} bytes", thread::TRAILER_BYTES_MAX)),
        None => Ok(Message { text, trailers }),
    }
}
