//! The copy of one file.
//!
//! The content goes to a file beside the final name, whose own name says which original it belongs to, and which gets
//! the final name once it is complete. When it is found again, the copy goes on where it ended: chunks are written in
//! order with at most [`WINDOW_BYTES`] under way, so all below its length less that much is there.

use std::hash::{DefaultHasher, Hash, Hasher};

use wire::api::file::{CHUNK_BYTES_MAX, Creation, Entry, FileKind, Links};
use wire::api::machine::Source;

use super::files::{Attributes, Files, WINDOW_BYTES};
use super::progress::Progress;
use super::{Job, Target};
use crate::error::{Error, Result};

/// Copies one file.
pub fn copy(files: Files<'_>, job: &Job, progress: &Progress) -> Result<()> {
    let there = match job.target {
        Target::New => None,
        Target::Unknown => files.stat(&job.to, Links::Keep)?,
    };
    match there.map(|there| there.kind) {
        None | Some(FileKind::File) => copy_beside(files, job, progress)?,
        Some(FileKind::Directory) => {
            let message = format!("`{}` is a directory, and `{}` is not", job.to, job.from);
            return Err(Error::new(wire::api::ErrorKind::Conflict, message));
        }
        // Through a link, into a pipe or a device: what is there is to stay.
        Some(_) => transfer(files, job, &job.to, Start::Over(Creation::Truncate), progress)?,
    }
    progress.file_done();
    Ok(())
}

fn copy_beside(files: Files<'_>, job: &Job, progress: &Progress) -> Result<()> {
    let beside = beside(job)?;
    // A small file is as quickly written as looked for.
    let found = match job.entry.size > WINDOW_BYTES {
        true => files.stat(&beside, Links::Keep)?,
        false => None,
    };
    let start = match found {
        Some(Entry { kind: FileKind::File, size, .. }) if size <= job.entry.size => {
            Start::At(size.saturating_sub(WINDOW_BYTES))
        }
        _ => Start::Over(Creation::Truncate),
    };
    let outcome = transfer(files, job, &beside, start, progress)
        .and_then(|()| files.set_attributes(&beside, Attributes::of(&job.entry)))
        .and_then(|()| files.rename(&beside, &job.to));
    if outcome.is_err() && job.entry.size <= WINDOW_BYTES {
        // It would not be taken up again. What keeps it from being removed is told by the error before.
        let _told = files.remove(&beside);
    }
    outcome
}

/// Where a copy begins.
#[derive(Debug, Clone, Copy)]
enum Start {
    /// With an empty file.
    Over(Creation),
    /// With one that is complete up to here.
    At(u64),
}

fn transfer(files: Files<'_>, job: &Job, to: &Source, start: Start, progress: &Progress) -> Result<()> {
    let (mut offset, creation) = match start {
        Start::Over(creation) => (0, creation),
        Start::At(offset) => (offset, Creation::Existing),
    };
    progress.bytes_kept(offset);
    let mut content = files.read(&job.from, offset)?;
    let mut sink = files.write(to, creation)?;
    // A hole at the end is not written, so the length has to be set.
    let mut ends_in_hole = false;
    while let Some(chunk) = files.next_chunk(&mut content)? {
        let length = chunk.len() as u64;
        ends_in_hole = matches!(start, Start::Over(_)) && job.entry.kind == FileKind::File && is_hole(&chunk);
        if !ends_in_hole {
            files.write_chunk(&mut sink, offset, chunk)?;
        }
        offset += length;
        progress.bytes_copied(length);
    }
    files.finish(sink, ends_in_hole.then_some(offset))
}

/// A whole chunk of zeros takes no space in a file that is new.
fn is_hole(chunk: &[u8]) -> bool {
    chunk.len() == CHUNK_BYTES_MAX && chunk.iter().all(|&byte| byte == 0)
}

/// The name beside the final one. It is short, whatever the final name is, and another one for every original, size
/// and time of change.
pub(super) fn beside(job: &Job) -> Result<Source> {
    let Source::Files { machine, path } = &job.to else {
        return Err(Error::usage(format_args!("`{}` cannot be copied to", job.to)));
    };
    // Another build may compute another hash; then a copy begins anew.
    let mut hasher = DefaultHasher::new();
    (job.from.to_bytes(), job.to.to_bytes(), job.entry.size, job.entry.modified.seconds).hash(&mut hasher);
    (job.entry.modified.nanoseconds, job.entry.inode).hash(&mut hasher);
    let name = format!(".stead-{:016x}.part", hasher.finish());
    let directory = path.as_bytes().iter().rposition(|&byte| byte == b'/').map_or(0, |at| at + 1);
    let beside = [&path.as_bytes()[..directory], name.as_bytes()].concat();
    Source::files(machine.clone(), beside).map_err(Error::usage)
}
