//! Small files of one directory, copied together: many in one request to the daemon, however many round trips each would take
//! alone.
//!
//! Whatever is not as expected is copied alone afterwards, which finds out why and says so.

use wire::api::file::{CHUNK_BYTES_MAX, Content, Done, Each, FILES_MAX, FileKind, GetMany, NewFile, PutMany};
use wire::api::machine::Source;

use super::files::{Attributes, Files};
use super::one;
use super::work::{Directory, Item, Target, Work, lock};

/// The largest file that is copied with others: larger ones fill a request almost alone.
const FILE_BYTES_MAX: u64 = CHUNK_BYTES_MAX as u64 / 4;

/// What goes together.
#[derive(Debug, Default)]
pub struct Room {
    files: usize,
    bytes: u64,
}

impl Room {
    /// Whether this one goes with those before, which it then does.
    pub fn takes(&mut self, item: &Item) -> bool {
        let entry = &item.pair.entry;
        let is_small = entry.kind == FileKind::File && entry.size <= FILE_BYTES_MAX;
        let bytes = self.bytes.saturating_add(entry.size);
        let fits = self.files < FILES_MAX && bytes <= CHUNK_BYTES_MAX as u64;
        if !(is_small && fits && item.target == Target::New) {
            return false;
        }
        *self = Room { files: self.files + 1, bytes };
        true
    }
}

/// Copies files that are in one directory and go into one. Those that were not copied.
pub fn copy(work: &Work<'_>, directory: &Directory, items: Vec<Item>) -> Vec<Item> {
    let contents = get(work.files(), directory, &items);
    if work.go_on().is_err() {
        return items;
    }
    let (mut alone, mut new) = (Vec::new(), Vec::with_capacity(items.len()));
    for (item, content) in items.into_iter().zip(contents) {
        match (one::beside(&item.pair), content) {
            (Ok(beside), Some(content)) => new.push(New { item, beside, content }),
            _ => alone.push(item),
        }
    }
    let lengths: Vec<_> = new.iter().map(|new| new.content.len() as u64).collect();
    for ((outcome, item), bytes) in put(work.files(), directory, new).into_iter().zip(lengths) {
        match outcome {
            Put::Done => work.together_done(item, bytes),
            Put::Failed => alone.push(item),
        }
    }
    alone
}

/// A file to be made, with all that it holds.
struct New {
    item: Item,
    beside: Source,
    content: Vec<u8>,
}

enum Put {
    Done,
    Failed,
}

/// What the files hold, as far as they can be had together.
fn get(files: Files<'_>, directory: &Directory, items: &[Item]) -> Vec<Option<Vec<u8>>> {
    if files.is_here(&directory.from) {
        return items.iter().map(|item| files.get(&item.pair.from).ok().flatten()).collect();
    }
    let names = items.iter().map(|item| item.pair.entry.name.clone()).collect();
    let request = GetMany { directory: directory.from.clone(), names, caller: files.caller().clone() };
    let got = files.client().and_then(|client| client.call(request));
    let mut got = got.map(|got| got.files).unwrap_or_default().into_iter();
    let content = |got: Option<Each<Content>>| match got {
        Some(Each::Done(Content(content))) => Some(content),
        Some(Each::Failed(_)) | None => None,
    };
    items.iter().map(|_| content(got.next())).collect()
}

fn put(files: Files<'_>, directory: &Directory, new: Vec<New>) -> Vec<(Put, Item)> {
    if files.is_here(&directory.to) {
        // A directory takes one new name at a time. Others who wait for that would keep a processor busy with waiting.
        let _turn = lock(&directory.turn);
        return new.into_iter().map(|new| put_here(files, new)).collect();
    }
    let file = |new: New| {
        let New { item, beside, content } = new;
        let Attributes { mode, modified } = Attributes::of(&item.pair.entry);
        let (name, beside) = (item.pair.entry.name.clone(), beside.base_name());
        let file = NewFile { name, beside, mode, modified: Some(modified), content: Content(content) };
        (file, item)
    };
    let (new, items): (Vec<_>, Vec<_>) = new.into_iter().map(file).unzip();
    let request = PutMany { directory: directory.to.clone(), files: new, caller: files.caller().clone() };
    let made = files.client().and_then(|client| client.call(request));
    let mut made = made.map(|made| made.files).unwrap_or_default().into_iter();
    let outcome = |made: Option<Each<Done>>| match made {
        Some(Each::Done(Done {})) => Put::Done,
        Some(Each::Failed(_)) | None => Put::Failed,
    };
    items.into_iter().map(|item| (outcome(made.next()), item)).collect()
}

fn put_here(files: Files<'_>, New { item, beside, content }: New) -> (Put, Item) {
    let attributes = Attributes::of(&item.pair.entry);
    let put = files.put(&beside, content, attributes).and_then(|()| files.rename(&beside, &item.pair.to));
    match put {
        Ok(()) => (Put::Done, item),
        Err(_) => (Put::Failed, item),
    }
}
