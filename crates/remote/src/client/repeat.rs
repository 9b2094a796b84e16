//! What a mutation is worth that was sent to a session of the agent which is gone: it may have been carried out, or not.
//!
//! It is done again, and the outcome is judged: a failure that its own first success would have caused, with the machine
//! in the state that it asked for, is that success. Nothing here is right if others change the same names at the same
//! time: then the outcome is one that some order of the events would have had.
//!
//! | request | is taken for done when |
//! |---|---|
//! | write at an offset, attributes, reserving, punching, zeroing, copying | (done again: the same twice is the same) |
//! | create | its file is open by its handle: a predecessor of this process had the answer |
//! | create `exclusive` | that, or `EEXIST`, and there is an empty file |
//! | node, directory | `EEXIST`, and there is one of that kind |
//! | symlink | `EEXIST`, and there is one to the same target |
//! | link | `EEXIST`, and it is the same file |
//! | unlink, remove directory | `ENOENT` |
//! | rename | `ENOENT`, and there is a file of the new name |
//! | set attribute that must not exist | `EEXIST`, and it has this value |
//! | remove attribute | `ENODATA` |
//! | write at the end | the bytes stand behind where the end was known to be, and are not another's; else it is done again, or its missing rest |
//! | exchange; taking out and putting in ranges | never: it is answered with `EIO`, and not done again |

use std::ops::Range;

use bytes::Bytes;
use wire::agent::file::{
    Allocation, Entry, FileId, FileReply, FileRequest, Kind, OpenFlags, Place, RenameMode, Target, WriteAt,
    XattrMode,
};
use wire::agent::name::Name;
use wire::agent::{Errno, Failure, HandleId, Reply, Request};

use super::error::CallError;
use super::pending::Answer;
use super::{AgentClient, Opened};

const ENOENT: Errno = Errno(2);
const EIO: Errno = Errno(5);
const EEXIST: Errno = Errno(17);
const ENODATA: Errno = Errno(61);

/// How much of a file is compared at once.
const COMPARED_BYTES: u32 = 1 << 20;

/// Where a file ended before writes at its end that are in doubt, and which bytes behind belong to some of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tail {
    pub(super) place: Place,
    pub(super) end: u64,
    pub(super) claimed: Vec<Range<u64>>,
}

/// What a mutation in doubt has come to.
pub(super) struct Settled {
    pub(super) answer: Answer,
    /// The bytes of the file that are known to be the write's.
    pub(super) claim: Option<(FileId, Range<u64>)>,
}

impl From<Answer> for Settled {
    fn from(answer: Answer) -> Settled {
        Settled { answer, claim: None }
    }
}

/// How a mutation in doubt is settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rule {
    /// The same twice is the same as once.
    Repeat,
    /// It is done again, and a failure with this number is looked into.
    Unless(Errno),
    /// Whether its file is open comes first.
    Created,
    /// Looked for in the file first.
    Appended,
    /// There is no telling.
    Unknowable,
}

/// The table.
pub(super) fn rule(request: &FileRequest) -> Rule {
    match request {
        FileRequest::Create { .. } => Rule::Created,
        FileRequest::Put { exclusive: true, .. }
        | FileRequest::MakeNode { .. }
        | FileRequest::MakeDirectory { .. }
        | FileRequest::Symlink { .. }
        | FileRequest::Link { .. }
        | FileRequest::SetXattr { mode: XattrMode::Create, .. } => Rule::Unless(EEXIST),
        FileRequest::Unlink { .. } | FileRequest::RemoveDirectory { .. } => Rule::Unless(ENOENT),
        FileRequest::Rename { mode: RenameMode::Replace | RenameMode::NoReplace, .. } => Rule::Unless(ENOENT),
        FileRequest::RemoveXattr { .. } => Rule::Unless(ENODATA),
        FileRequest::Write { at: WriteAt::End, .. } => Rule::Appended,
        FileRequest::Rename { mode: RenameMode::Exchange, .. }
        | FileRequest::Allocate { what: Allocation::Collapse | Allocation::Insert, .. } => Rule::Unknowable,
        FileRequest::Write { at: WriteAt::Offset(_), .. }
        | FileRequest::Allocate {
            what: Allocation::Reserve { .. } | Allocation::Punch | Allocation::Zero { .. },
            ..
        }
        | FileRequest::SetAttributes { .. }
        | FileRequest::CreateUnnamed { .. }
        | FileRequest::Put { .. }
        | FileRequest::PutMany { .. }
        | FileRequest::CopyRange { .. }
        | FileRequest::SetXattr { mode: XattrMode::Set | XattrMode::Replace, .. }
        // What changes nothing.
        | FileRequest::Attach { .. }
        | FileRequest::Locate { .. }
        | FileRequest::Lookup { .. }
        | FileRequest::Stat { .. }
        | FileRequest::ReadLink { .. }
        | FileRequest::Open { .. }
        | FileRequest::Read { .. }
        | FileRequest::Sync { .. }
        | FileRequest::Close { .. }
        | FileRequest::Seek { .. }
        | FileRequest::Digest { .. }
        | FileRequest::GetMany { .. }
        | FileRequest::Space { .. }
        | FileRequest::GetXattr { .. }
        | FileRequest::ListXattrs { .. }
        | FileRequest::Lock { .. }
        | FileRequest::TestLock { .. }
        | FileRequest::ReleaseLocks { .. }
        | FileRequest::List { .. }
        | FileRequest::Walk { .. }
        | FileRequest::Search { .. }
        | FileRequest::RemoveTree { .. }
        | FileRequest::Find { .. }
        | FileRequest::Watch { .. } => Rule::Repeat,
    }
}

/// What this side knows that a mutation can be judged by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Known {
    /// For a write at the end of a file.
    pub(super) tail: Option<Tail>,
    /// For what opens a file: its handle is open already.
    pub(super) open: Option<HandleId>,
    /// For what makes a file: what was sent to be written to it behind that.
    pub(super) written: Vec<(u64, Bytes)>,
}

impl Known {
    /// Where a file ends at most of which all content was sent with what makes it.
    fn written_to(&self) -> u64 {
        let ends = self.written.iter().map(|(offset, bytes)| offset.saturating_add(bytes.len() as u64));
        ends.max().unwrap_or_default()
    }

    /// Whether each of these bytes, from `offset` on, is what one of the writes was to make it, or zero between them.
    fn may_have_made(&self, offset: u64, bytes: &[u8]) -> bool {
        // Of each byte, whether a write has reached it, and whether one has made it what it is.
        let mut found = vec![(false, false); bytes.len()];
        for (start, written) in &self.written {
            let skipped = usize::try_from(offset.saturating_sub(*start)).unwrap_or(usize::MAX);
            let first = usize::try_from(start.saturating_sub(offset)).unwrap_or(usize::MAX);
            let written = written.get(skipped..).unwrap_or_default();
            let here = bytes.iter().zip(&mut found).skip(first);
            for ((is, found), written) in here.zip(written) {
                *found = (true, found.1 || is == written);
            }
        }
        found.iter().zip(bytes).all(|((is_reached, is_ours), byte)| *is_ours || (!is_reached && *byte == 0))
    }
}

/// Settles a mutation in doubt over a link that is being recovered. `Err` if the link is gone before it is settled.
pub(super) async fn settle(
    client: &AgentClient,
    request: FileRequest,
    payload: Bytes,
    known: Known,
) -> Result<Settled, CallError> {
    let unless = match rule(&request) {
        Rule::Repeat => return kept(client.call(Request::File(request), payload).await),
        Rule::Unless(errno) => errno,
        Rule::Created => match known.open {
            Some(handle) => return kept(opened(client, handle).await),
            None => EEXIST,
        },
        Rule::Appended => return appended(client, request, payload, known.tail).await,
        Rule::Unknowable => return Ok(Err(unknowable()).into()),
    };
    let again = client.call(Request::File(request.clone()), payload.clone()).await;
    let Err(CallError::Failed(failure)) = &again else { return kept(again) };
    if failure.errno != unless {
        return kept(again);
    }
    match look(client, &request, &payload, &known).await {
        Ok(Some(done)) => Ok(Ok(done).into()),
        Ok(None) | Err(CallError::Failed(_) | CallError::Unsendable(_)) => kept(again),
        Err(lost @ CallError::Lost(_)) => Err(lost),
    }
}

/// An answer of the machine stays; a lost link is none.
fn kept(answer: Answer) -> Result<Settled, CallError> {
    match answer {
        Err(lost @ CallError::Lost(_)) => Err(lost),
        answer => Ok(answer.into()),
    }
}

fn unknowable() -> CallError {
    let detail = "the agent ended before it had answered, and whether it was done cannot be told".to_owned();
    CallError::Failed(Failure { errno: EIO, detail })
}

type Done = (Reply, Bytes);

fn done(reply: FileReply) -> Done {
    (Reply::File(reply), Bytes::new())
}

/// Whether the machine is in the state that the request asked for; if so, the answer it would have had.
async fn look(
    client: &AgentClient,
    request: &FileRequest,
    payload: &Bytes,
    known: &Known,
) -> Result<Option<Done>, CallError> {
    match request {
        FileRequest::MakeDirectory { directory, name, .. } => {
            made(client, directory, name, |entry| entry.attributes.kind == Kind::Directory).await
        }
        FileRequest::MakeNode { directory, name, kind, device, .. } => {
            let is_it = |entry: &Entry| {
                let is_device = matches!(kind, Kind::CharDevice | Kind::BlockDevice);
                entry.attributes.kind == *kind && (!is_device || entry.attributes.device == *device)
            };
            made(client, directory, name, is_it).await
        }
        FileRequest::Put { directory, name, .. } => {
            let bytes = payload.len() as u64;
            let is_it = |entry: &Entry| entry.attributes.kind == Kind::File && entry.attributes.size == bytes;
            made(client, directory, name, is_it).await
        }
        FileRequest::Symlink { directory, name, .. } => symlinked(client, directory, name, payload).await,
        FileRequest::Link { target, directory, name } => linked(client, target, directory, name).await,
        FileRequest::Create { flags: OpenFlags { exclusive: false, .. }, .. } => Ok(None),
        FileRequest::Create { directory, name, flags, handle, .. } => {
            let Some(entry) = client.lookup(directory.clone(), name.clone()).await?.entry else {
                return Ok(None);
            };
            if entry.attributes.kind != Kind::File {
                return Ok(None);
            }
            let place = Place { id: entry.id, path: directory.path.join(name) };
            // What was written behind it may have been carried out as well.
            let size = entry.attributes.size;
            if size > known.written_to() {
                return Ok(None);
            }
            for offset in (0..size).step_by(COMPARED_BYTES as usize) {
                let length = u32::try_from(size - offset).unwrap_or(u32::MAX).min(COMPARED_BYTES);
                let there = read_at(client, place.clone(), offset, length).await?;
                if there.len() != length as usize || !known.may_have_made(offset, &there) {
                    return Ok(None);
                }
            }
            let flags = OpenFlags { exclusive: false, truncate: false, ..*flags };
            let Opened { entry, whole, content, .. } = client.open(place, flags, *handle, 0).await?;
            let reply = FileReply::Opened { entry, whole, created: true, directory: None };
            Ok(Some((Reply::File(reply), content)))
        }
        FileRequest::Unlink { directory, .. } | FileRequest::RemoveDirectory { directory, .. } => {
            let there = client.stat(Target::Place(directory.clone())).await?;
            Ok(Some(done(FileReply::Removed { entry: None, directory: there.attributes })))
        }
        FileRequest::Rename { from, to, to_name, .. } => {
            if client.lookup(to.clone(), to_name.clone()).await?.entry.is_none() {
                return Ok(None);
            }
            let directory = async |place: &Place| {
                client.stat(Target::Place(place.clone())).await.map(|entry| entry.attributes)
            };
            let (from, to) = (directory(from).await?, directory(to).await?);
            Ok(Some(done(FileReply::Renamed { from, to })))
        }
        FileRequest::SetXattr { target, name, .. } => {
            let value = client.get_xattr(target.clone(), name.clone()).await?;
            if value != *payload {
                return Ok(None);
            }
            Ok(Some(done(FileReply::Entry(client.stat(target.clone()).await?))))
        }
        FileRequest::RemoveXattr { target, .. } => {
            Ok(Some(done(FileReply::Entry(client.stat(target.clone()).await?))))
        }
        _ => Ok(None),
    }
}

/// The answer of what has opened a file, once more.
async fn opened(client: &AgentClient, handle: HandleId) -> Answer {
    let entry = client.stat(Target::Handle(handle)).await?;
    Ok(done(FileReply::Opened { entry, whole: false, created: true, directory: None }))
}

async fn made(
    client: &AgentClient,
    directory: &Place,
    name: &Name,
    is_it: impl Fn(&Entry) -> bool,
) -> Result<Option<Done>, CallError> {
    let entry = client.lookup(directory.clone(), name.clone()).await?.entry;
    Ok(entry.filter(is_it).map(|entry| done(FileReply::Entry(entry))))
}

async fn symlinked(
    client: &AgentClient,
    directory: &Place,
    name: &Name,
    to: &Bytes,
) -> Result<Option<Done>, CallError> {
    let Some(entry) = client.lookup(directory.clone(), name.clone()).await?.entry else { return Ok(None) };
    if entry.attributes.kind != Kind::Symlink {
        return Ok(None);
    }
    let target = client.read_link(Place { id: entry.id, path: directory.path.join(name) }).await?;
    Ok((target == *to).then(|| done(FileReply::Entry(entry))))
}

async fn linked(
    client: &AgentClient,
    target: &Target,
    directory: &Place,
    name: &Name,
) -> Result<Option<Done>, CallError> {
    let id = match target {
        Target::Place(place) => place.id,
        Target::Handle(handle) => client.stat(Target::Handle(*handle)).await?.id,
    };
    made(client, directory, name, |entry| entry.id == id).await
}

/// Looks for the bytes of a write at the end behind where the end was, and writes them if they are not there. Others may
/// have written there too.
async fn appended(
    client: &AgentClient,
    request: FileRequest,
    payload: Bytes,
    tail: Option<Tail>,
) -> Result<Settled, CallError> {
    let no_telling = || Ok(Err(unknowable()).into());
    let Some(Tail { place, end, claimed }) = tail else { return no_telling() };
    let file = place.id;
    let entry = match client.stat(Target::Place(place.clone())).await {
        Ok(entry) => entry,
        Err(lost @ CallError::Lost(_)) => return Err(lost),
        Err(_) => return no_telling(),
    };
    // What was there may have been cut off.
    let Some(behind) = entry.attributes.size.checked_sub(end) else { return no_telling() };
    let length = payload.len() as u64;
    let mut rest = payload.clone();
    let mut begun = 0;
    if behind > 0 {
        let there = match u32::try_from(behind).ok().filter(|behind| *behind <= COMPARED_BYTES) {
            Some(length) => read_at(client, place, end, length).await,
            None => return no_telling(),
        };
        match there {
            Ok(there) => {
                if let Some(at) = find(&there, &payload, end, &claimed) {
                    let reply = FileReply::Written { bytes: length, attributes: entry.attributes };
                    return Ok(Settled { answer: Ok(done(reply)), claim: Some((file, at..at + length)) });
                }
                begun = begun_bytes(&there, &payload, end, &claimed);
                rest = payload.slice(begun..);
            }
            Err(lost @ CallError::Lost(_)) => return Err(lost),
            Err(_) => return no_telling(),
        }
    }
    let mut settled = kept(client.call(Request::File(request), rest).await)?;
    if let Ok((Reply::File(FileReply::Written { bytes, attributes }), _)) = &mut settled.answer {
        *bytes += begun as u64;
        let end = attributes.size;
        settled.claim = Some((file, end.saturating_sub(length)..end));
    }
    Ok(settled)
}

/// How many bytes of a write stand at the end of the file: an agent that is killed may have written its beginning only.
fn begun_bytes(behind: &[u8], wanted: &[u8], end: u64, claimed: &[Range<u64>]) -> usize {
    let claimed_to = claimed.iter().map(|claim| claim.end).max().unwrap_or_default();
    let skipped = usize::try_from(claimed_to.saturating_sub(end)).unwrap_or(usize::MAX);
    let unclaimed = behind.get(skipped..).unwrap_or_default();
    if wanted.starts_with(unclaimed) { unclaimed.len() } else { 0 }
}

/// Where `wanted` stands in the bytes behind `end`, beside what is claimed of them.
fn find(behind: &[u8], wanted: &[u8], end: u64, claimed: &[Range<u64>]) -> Option<u64> {
    let length = wanted.len() as u64;
    let is_free = |at: u64| claimed.iter().all(|claim| at + length <= claim.start || at >= claim.end);
    // A write of nothing leaves nothing to be found.
    behind.windows(wanted.len().max(1)).enumerate().find_map(|(n, bytes)| {
        let at = end + n as u64;
        (bytes == wanted && is_free(at)).then_some(at)
    })
}

async fn read_at(client: &AgentClient, place: Place, offset: u64, length: u32) -> Result<Bytes, CallError> {
    let handle = client.recovery_handle();
    let flags = OpenFlags { read: true, ..OpenFlags::default() };
    client.open(place, flags, handle, 0).await?;
    let read = client.read(handle, offset, length).await;
    client.close(handle).await?;
    read
}

#[cfg(test)]
mod tests;
