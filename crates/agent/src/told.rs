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
//!
//! Nor may an event bring back what a reply has replaced. So an event is settled in one step: while the name is looked
//! at and the event is queued, no mutation begins and no reply that tells names is finished. What such a reply tells is
//! sent behind the event, and is of the same time or later; or it has an older epoch, and is not kept.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex};

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
    /// Names that the client's mutations are changing right now.
    changing_names: HashMap<(FileId, Name), usize>,
    /// Files, and directories with such names, that they are changing right now.
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
            changing_names: HashMap::new(),
            changing: HashMap::new(),
            reading: HashMap::new(),
            precise: HashMap::new(),
        }
    }
}

/// An event about a name.
pub(crate) struct Event<'a> {
    pub directory: FileId,
    pub name: &'a Name,
    /// It was about the name itself.
    pub renamed: bool,
    /// It has been put off often enough.
    pub at_once: bool,
}

/// What became of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Settled {
    /// The client knows, or has been told.
    Done,
    /// The client is changing it right now: to be settled when the reply has been made.
    Later,
}

impl Told {
    /// Says that a mutation is about to change these names, and these files. Events about them are put off until the
    /// guard is dropped, which is to be after the reply has been sent: an event that leaves before a reply must not be
    /// newer.
    pub fn changing(self: &Arc<Told>, names: &[(FileId, &Name)], files: &[FileId]) -> Changing {
        let names: Vec<_> = names.iter().map(|(directory, name)| (*directory, (*name).clone())).collect();
        let files: Vec<_> = files.iter().copied().chain(names.iter().map(|name| name.0)).collect();
        let mut state = lock(&self.state);
        names.iter().for_each(|name| *state.changing_names.entry(name.clone()).or_default() += 1);
        files.iter().for_each(|id| *state.changing.entry(*id).or_default() += 1);
        Changing { told: self.clone(), names, files }
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
        lock(&self.state).record(entry);
    }

    /// Settles an event about a name: looks what is there now, and tells unless the client knows. When the event was
    /// about the name itself, not only about the file behind it, the directory is looked at and told too.
    pub fn settle<E>(
        &self,
        event: &Event<'_>,
        look: impl FnOnce() -> Result<Option<Entry>, E>,
        look_around: impl FnOnce() -> Option<Entry>,
        tell: impl FnOnce(Option<Entry>, Option<Entry>),
    ) -> Result<Settled, E> {
        let state = &mut *lock(&self.state);
        let key = (event.directory, event.name.clone());
        if !event.at_once && state.changing_names.contains_key(&key) {
            return Ok(Settled::Later);
        }
        let now = look()?;
        if !event.at_once && now.is_some_and(|entry| state.changing.contains_key(&entry.id)) {
            return Ok(Settled::Later);
        }
        let told_name = state.names.get(&key).copied();
        let name_is_known = told_name == Some(now.map(|entry| entry.id));
        let file_is_known = now.is_none_or(|entry| state.knows(&entry));
        let is_about_name = event.renamed || now.is_none();
        if file_is_known && (name_is_known || !is_about_name) {
            return Ok(Settled::Done);
        }
        state.forget(event.directory, Some(event.name));
        if let Some(entry) = &now {
            state.files.remove(&entry.id);
        }
        let may_look = is_about_name && !state.changing.contains_key(&event.directory);
        let around = if may_look { look_around().filter(|around| !state.knows(around)) } else { None };
        if let Some(around) = &around {
            state.record(around);
        }
        tell(now, around);
        Ok(Settled::Done)
    }

    /// Settles an event about a directory itself.
    pub fn settle_directory(
        &self,
        directory: FileId,
        at_once: bool,
        look: impl FnOnce() -> Option<Entry>,
        tell: impl FnOnce(Entry),
    ) -> Settled {
        let state = &mut *lock(&self.state);
        if !at_once && state.changing.contains_key(&directory) {
            return Settled::Later;
        }
        if let Some(now) = look()
            && !state.knows(&now)
        {
            state.record(&now);
            tell(now);
        }
        Settled::Done
    }

    /// Records whether change times on this device tell any two changes apart.
    pub fn device_is_precise(&self, device: u64, precise: bool) {
        lock(&self.state).precise.insert(device, precise);
    }
}

impl State {
    fn record(&mut self, entry: &Entry) {
        if self.precise.get(&entry.id.device).copied().unwrap_or_default() {
            self.files.insert(entry.id, comparable(&entry.attributes));
        }
    }

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
        decrement(&mut self.names_of, &directory);
    }
}

fn decrement<K: Eq + Hash>(counts: &mut HashMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

/// What reads change, and what settles by itself later, is no change.
fn comparable(attributes: &Attributes) -> Attributes {
    Attributes { accessed: Time::default(), blocks: 0, ..*attributes }
}

pub(crate) struct Changing {
    told: Arc<Told>,
    names: Vec<(FileId, Name)>,
    files: Vec<FileId>,
}

impl Drop for Changing {
    fn drop(&mut self) {
        let mut state = lock(&self.told.state);
        self.names.iter().for_each(|name| decrement(&mut state.changing_names, name));
        self.files.iter().for_each(|id| decrement(&mut state.changing, id));
    }
}

impl Changing {
    /// The client was not told what has come of it: that is to be told as another's change is.
    pub fn unheard(&self) {
        let state = &mut *lock(&self.told.state);
        self.names.iter().for_each(|(directory, name)| state.forget(*directory, Some(name)));
        self.files.iter().for_each(|id| {
            let _ = state.files.remove(id);
        });
    }
}

pub(crate) struct Reading<'a> {
    told: &'a Told,
    directory: FileId,
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        decrement(&mut lock(&self.told.state).reading, &self.directory);
    }
}

#[cfg(test)]
mod tests;
