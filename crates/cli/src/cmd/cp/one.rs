//! The copy of one file.
//!
//! That of a large file is another [matter](super::large), unless all is of this computer.
//!
//! The content goes to a file beside the final name, whose own name says which original it belongs to, and which gets
//! the final name once it is complete. When it is found again, the copy goes on where it ended: chunks are written in
//! order with at most [`WINDOW_BYTES`] under way, so all below its length less that much is there.

use std::hash::{DefaultHasher, Hash, Hasher};

use wire::api::ErrorKind;
use wire::api::file::{CHUNK_BYTES_MAX, Creation, Entry, FileKind, Links};
use wire::api::machine::Source;

use super::files::{Attributes, Incoming, Sink, WINDOW_BYTES, is_small};
use super::large;
use super::work::{Pair, Target, Work};
use crate::error::{Error, Failure, Result};

/// How a name beside the final one begins and ends. There are 16 hexadecimal digits in between.
const BESIDE_PREFIX: &str = ".stead-";
const BESIDE_SUFFIX: &str = ".part";

/// Whether a file of this name is a copy that is not complete.
pub fn is_unfinished(name: &[u8]) -> bool {
    let digits = name.strip_prefix(BESIDE_PREFIX.as_bytes());
    let digits = digits.and_then(|rest| rest.strip_suffix(BESIDE_SUFFIX.as_bytes()));
    digits.is_some_and(|digits| digits.len() == 16 && digits.iter().all(u8::is_ascii_hexdigit))
}

/// Copies one file.
pub fn copy(work: &Work<'_>, pair: &Pair, target: Target) -> Result<()> {
    let _room = work.wait_for_room(pair.entry.size);
    let there = match target {
        Target::New => None,
        Target::Unknown => work.files().stat(&pair.to, Links::Keep)?,
    };
    match there.as_ref().map(|there| there.kind) {
        None | Some(FileKind::File) => copy_beside(work, pair, there.as_ref())?,
        Some(FileKind::Directory) => {
            let message = format!("`{}` is a directory, and `{}` is not", pair.to, pair.from);
            return Err(Error::new(ErrorKind::Conflict, message));
        }
        // Through a link, into a pipe or a device: what is there is to stay.
        Some(_) => transfer(work, pair, &pair.to, Start::Over(Creation::Truncate))?,
    }
    work.progress().file_done();
    Ok(())
}

fn copy_beside(work: &Work<'_>, pair: &Pair, there: Option<&Entry>) -> Result<()> {
    let files = work.files();
    let beside = beside(pair)?;
    if is_small(&pair.entry)
        && let Some(content) = files.get(&pair.from)?
    {
        return put_beside(work, pair, &beside, content);
    }
    if large::is_large(pair) {
        let outcome = large::copy(work, pair, &beside, there)
            .and_then(|()| files.set_attributes(&beside, Attributes::of(&pair.entry)))
            .and_then(|()| files.rename(&beside, &pair.to));
        return clear_up(work, pair, &beside, outcome);
    }
    // A small file is as quickly written as looked for.
    let found = match pair.entry.size > WINDOW_BYTES {
        true => files.stat(&beside, Links::Keep)?,
        false => None,
    };
    let start = match found {
        Some(Entry { kind: FileKind::File, size, .. }) if size <= pair.entry.size => {
            Start::At(size.saturating_sub(WINDOW_BYTES))
        }
        _ => Start::Over(Creation::Truncate),
    };
    let outcome = transfer(work, pair, &beside, start)
        .and_then(|()| files.set_attributes(&beside, Attributes::of(&pair.entry)))
        .and_then(|()| files.rename(&beside, &pair.to));
    clear_up(work, pair, &beside, outcome)
}

fn put_beside(work: &Work<'_>, pair: &Pair, beside: &Source, content: Vec<u8>) -> Result<()> {
    let (files, length) = (work.files(), content.len() as u64);
    let outcome = work
        .go_on()
        .and_then(|()| files.put(beside, content, Attributes::of(&pair.entry)))
        .inspect(|()| work.progress().bytes_copied(length))
        .and_then(|()| files.rename(beside, &pair.to));
    clear_up(work, pair, beside, outcome)
}

/// Takes away what is half done and would not be taken up again.
fn clear_up(work: &Work<'_>, pair: &Pair, beside: &Source, outcome: Result<()>) -> Result<()> {
    if outcome.is_err() && pair.entry.size <= WINDOW_BYTES {
        // What keeps it from being removed is told by the error before.
        let _told = work.files().remove(beside);
    }
    outcome.map_err(|error| about(work, error, beside, &pair.to))
}

/// The error as one about the file itself, since nobody but this program knows the name beside it; and what mends it.
fn about(work: &Work<'_>, error: Error, beside: &Source, to: &Source) -> Error {
    match error {
        Error::Failed(failure) => {
            let (name, known) = (beside.base_name().to_string(), to.base_name().to_string());
            let missing = match failure.kind {
                ErrorKind::NotFound => missing_directory(work, to),
                _ => None,
            };
            let hint = failure.hint.or_else(|| Some(format!("stead mkdir -p {}", missing?)));
            Error::Failed(Failure {
                message: failure.message.replace(&name, &known),
                hint,
                kind: failure.kind,
            })
        }
        Error::OutputClosed => Error::OutputClosed,
    }
}

/// The directory of a copy, if it is not there.
fn missing_directory(work: &Work<'_>, to: &Source) -> Option<Source> {
    let Source::Files { machine, path } = to else { return None };
    let end = path.as_bytes().iter().rposition(|&byte| byte == b'/').filter(|&end| end > 0)?;
    let directory = Source::files(machine.clone(), &path.as_bytes()[..end]).ok()?;
    matches!(work.files().stat(&directory, Links::Follow), Ok(None)).then_some(directory)
}

/// Where a copy begins.
#[derive(Debug, Clone, Copy)]
enum Start {
    /// With an empty file.
    Over(Creation),
    /// With one that is complete up to here.
    At(u64),
}

fn transfer(work: &Work<'_>, pair: &Pair, to: &Source, start: Start) -> Result<()> {
    let (offset, creation) = match start {
        Start::Over(creation) => (0, creation),
        Start::At(offset) => (offset, Creation::Existing),
    };
    let files = work.files();
    let mut content = files.read(&pair.from, offset)?;
    let mut sink = match files.write(to, creation) {
        Ok(sink) => sink,
        Err(error) => {
            // The error that is told is the one about the copy.
            let _told = files.close(content);
            return Err(error);
        }
    };
    work.progress().bytes_kept(offset);
    let moved = move_content(work, pair, start, &mut content, &mut sink);
    let closed = files.close(content);
    match moved.and_then(|length| closed.map(|()| length)) {
        Ok(length) => files.finish(sink, length),
        Err(error) => {
            files.abandon(sink);
            Err(error)
        }
    }
}

/// Reads to the end and writes it all. The length that the copy still has to be given, if any.
fn move_content(
    work: &Work<'_>,
    pair: &Pair,
    start: Start,
    content: &mut Incoming,
    sink: &mut Sink,
) -> Result<Option<u64>> {
    let (mut offset, may_have_holes) = match start {
        Start::Over(_) => (0, pair.entry.kind == FileKind::File),
        Start::At(offset) => (offset, false),
    };
    // A hole at the end is not written, so the length has to be set.
    let mut ends_in_hole = false;
    while let Some(chunk) = work.files().next_chunk(content)? {
        work.go_on()?;
        let length = chunk.len() as u64;
        ends_in_hole = may_have_holes && is_hole(&chunk);
        if !ends_in_hole {
            work.files().write_chunk(sink, offset, chunk)?;
        }
        offset += length;
        work.progress().bytes_copied(length);
    }
    Ok(ends_in_hole.then_some(offset))
}

/// A whole chunk of zeros takes no space in a file that is new.
fn is_hole(chunk: &[u8]) -> bool {
    chunk.len() == CHUNK_BYTES_MAX && chunk.iter().all(|&byte| byte == 0)
}

/// The name beside the final one. It is short, whatever the final name is, and another one for every original, size
/// and time of change.
pub(super) fn beside(pair: &Pair) -> Result<Source> {
    let Pair { from, entry, to } = pair;
    let Source::Files { machine, path } = to else {
        return Err(Error::usage(format_args!("`{to}` cannot be copied to")));
    };
    // Another build may compute another hash; then a copy begins anew.
    let mut hasher = DefaultHasher::new();
    (from.to_bytes(), to.to_bytes(), entry.size, entry.modified.seconds).hash(&mut hasher);
    // What a large copy leaves has its full length from the start, and must not be taken for what others leave.
    (entry.modified.nanoseconds, entry.inode, large::is_large(pair)).hash(&mut hasher);
    let name = format!("{BESIDE_PREFIX}{:016x}{BESIDE_SUFFIX}", hasher.finish());
    let directory = path.as_bytes().iter().rposition(|&byte| byte == b'/').map_or(0, |at| at + 1);
    let beside = [&path.as_bytes()[..directory], name.as_bytes()].concat();
    Source::files(machine.clone(), beside).map_err(Error::usage)
}
