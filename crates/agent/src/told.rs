//! What the client knows of its own changes, so that they are not told to it again.
//!
//! A change made by another program must never be taken for one of the client's. So nothing is counted: the state of a
//! name now is compared with the state that the client was told by the reply to its mutation, and is kept silent only
//! when they are equal. For that to be enough
//!
//! - what was told of a name is forgotten when another reply may tell otherwise ([`Told::reading`]), and not recorded
//!   while such a reply is being made;
//! - the change time must tell two changes apart. Where the file system's clock is a tick, two changes within one are
//!   indistinguishable, and changes of files are always told there.

use std::collections::HashMap;
use std::sync::Mutex;

use wire::agent::file::{Attributes, Entry, FileId, Time};
use wire::agent::name::Name;

use crate::clock::Clock;
use crate::sync::lock;

/// How many names and how many files are remembered. The events for them are read within milliseconds.
const TOLD_MAX: usize = 8192;

#[derive(Default)]
pub(crate) struct Told {
    state: Mutex<State>,
}

struct State {
    names: Clock<(FileId, Name), Option<FileId>>,
    /// How many of `names` each directory has, so that the frequent case of none is cheap.
    names_of: HashMap<FileId, usize>,
    files: Clock<FileId, Attributes>,
    /// Files and directories that the client's mutations are changing right now.
    changing: HashMap<FileId, usize>,
    /// Directories whose names are being read for a reply right now.
    reading: HashMap<FileId, usize>,
    /// Devices whose change times tell any two changes apart.
    precise: HashMap<u64, bool>,
}

impl Default for State {
    fn default() -> State {
        State {
            names: Clock::new(TOLD_MAX),
            names_of: HashMap::new(),
            files: Clock::new(TOLD_MAX),
            changing: HashMap::new(),
            reading: HashMap::new(),
            precise: HashMap::new(),
        }
    }
}

/// What to do with a change that was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The client knows.
    Silent,
    /// The client does not know, or may not.
    Tell,
    /// The client is changing it right now: look again when the reply has been made.
    Later,
}

impl Told {
    /// Says that a mutation is about to change these; until the guard is dropped, verdicts on them are
    /// [`Verdict::Later`].
    pub fn changing<const N: usize>(&self, ids: [FileId; N]) -> Changing<'_, N> {
        let mut state = lock(&self.state);
        ids.iter().for_each(|id| *state.changing.entry(*id).or_default() += 1);
        Changing { told: self, ids }
    }

    /// Says that a reply with names of this directory is about to be read, one name or, with `None`, any.
    pub fn reading(&self, directory: FileId, name: Option<&Name>) -> Reading<'_> {
        let mut state = lock(&self.state);
        *state.reading.entry(directory).or_default() += 1;
        state.forget(directory, name);
        Reading { told: self, directory }
    }

    /// A reply tells that the name is now this file, or none.
    pub fn name(&self, directory: FileId, name: &Name, id: Option<FileId>) {
        let state = &mut *lock(&self.state);
        state.forget(directory, Some(name));
        if state.reading.contains_key(&directory) {
            return;
        }
        if let Some(((gone, _), _)) = state.names.insert((directory, name.clone()), id) {
            state.count_less(gone);
        }
        *state.names_of.entry(directory).or_default() += 1;
    }

    /// A reply tells what a file is like after the client's change.
    pub fn file(&self, entry: &Entry) {
        let state = &mut *lock(&self.state);
        if state.precise.get(&entry.id.device).copied().unwrap_or_default() {
            state.files.insert(entry.id, comparable(&entry.attributes));
        }
    }

    /// Judges what an event is about, from what is there now. `renamed` says that the event was about the name, not only
    /// about the file behind it.
    pub fn judge(&self, directory: FileId, name: &Name, now: Option<&Entry>, renamed: bool) -> Verdict {
        let state = &mut *lock(&self.state);
        if state.changing.contains_key(&directory) || now.is_some_and(|e| state.changing.contains_key(&e.id))
        {
            return Verdict::Later;
        }
        let key = (directory, name.clone());
        let name_is_known = state.names.get(&key).is_some_and(|id| *id == now.map(|entry| entry.id));
        if (renamed || now.is_none()) && !name_is_known {
            return Verdict::Tell;
        }
        match now {
            Some(entry) if !state.knows(entry) => Verdict::Tell,
            _ => Verdict::Silent,
        }
    }

    /// Judges a directory's own attributes.
    pub fn judge_directory(&self, now: &Entry) -> Verdict {
        let state = &mut *lock(&self.state);
        match () {
            () if state.changing.contains_key(&now.id) => Verdict::Later,
            () if state.knows(now) => Verdict::Silent,
            () => Verdict::Tell,
        }
    }

    /// An event tells the client of this name: what a reply told before counts no more.
    pub fn superseded(&self, directory: FileId, name: &Name, now: Option<&Entry>) {
        let state = &mut *lock(&self.state);
        state.forget(directory, Some(name));
        if let Some(entry) = now {
            state.files.remove(&entry.id);
        }
    }

    /// Records whether change times on this device tell any two changes apart.
    pub fn device_is_precise(&self, device: u64, precise: bool) {
        lock(&self.state).precise.insert(device, precise);
    }
}

impl State {
    fn knows(&mut self, entry: &Entry) -> bool {
        self.files.get(&entry.id).is_some_and(|told| *told == comparable(&entry.attributes))
    }

    fn forget(&mut self, directory: FileId, name: Option<&Name>) {
        if !self.names_of.contains_key(&directory) {
            return;
        }
        let Some(name) = name else {
            self.names.retain(|(of, _), _| *of != directory);
            self.names_of.remove(&directory);
            return;
        };
        if self.names.remove(&(directory, name.clone())).is_some() {
            self.count_less(directory);
        }
    }

    fn count_less(&mut self, directory: FileId) {
        decrement(&mut self.names_of, directory);
    }
}

fn decrement(counts: &mut HashMap<FileId, usize>, id: FileId) {
    if let Some(count) = counts.get_mut(&id) {
        *count -= 1;
        if *count == 0 {
            counts.remove(&id);
        }
    }
}

/// What reads change, and what settles by itself later, is no change.
fn comparable(attributes: &Attributes) -> Attributes {
    Attributes { accessed: Time::default(), blocks: 0, ..*attributes }
}

pub(crate) struct Changing<'a, const N: usize> {
    told: &'a Told,
    ids: [FileId; N],
}

impl<const N: usize> Drop for Changing<'_, N> {
    fn drop(&mut self) {
        let mut state = lock(&self.told.state);
        self.ids.iter().for_each(|id| decrement(&mut state.changing, *id));
    }
}

pub(crate) struct Reading<'a> {
    told: &'a Told,
    directory: FileId,
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        decrement(&mut lock(&self.told.state).reading, self.directory);
    }
}

#[cfg(test)]
mod tests;
