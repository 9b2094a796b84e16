//! What is where.

use std::collections::{HashMap, HashSet, VecDeque};
use std::ops::ControlFlow;
use std::time::Duration;

use vfs::errno::Errno;
use vfs::replica::item::{Entry, Identity, Kind};
use vfs::replica::side::{Answer, Refusal};
use wire::agent::file::{self, FileReply, FileRequest, Listed, Place, Time, WalkBudget, WalkFrom};
use wire::agent::name::Name;

use super::leftovers::{Leftover, judge};
use super::line::WINDOW_BYTES;
use super::token::{plain_identity, unsettled_version};
use super::{Far, Line, LineError, TICK, TICK_OF_SECONDS, entry_of, file_id, misanswered};

/// How much of a tree comes in one stream, before it is asked for directory by directory: some 40 MB of memory here.
const WALK_ENTRIES_MAX: u32 = 200_000;

/// The most names of one directory: beyond it a tree is refused rather than known in part.
const ENTRIES_MAX: usize = 1_000_000;

/// How often a directory is looked at again whose files are being written to.
const LOOKS_MAX: usize = 3;

/// A directory as the machine lists it.
#[derive(Default)]
struct Shown {
    names: Vec<Listed>,
    is_whole: bool,
}

impl<L: Line> Far<L> {
    /// Everything in a directory. With the root the tree is read in one stream.
    pub(super) fn show(&mut self, directory: &Identity) -> Answer<Vec<Entry>> {
        if *directory == self.root {
            self.present = None;
            self.walked = self.walk()?;
        }
        match self.walked.remove(directory) {
            Some(entries) => Ok(entries),
            None => self.list_one(directory),
        }
    }

    /// Whether a file is nowhere in the tree, as it is now: everything is listed once more, since what was moved while the tree was
    /// listed the first time may have been missed.
    pub(super) fn is_nowhere(&mut self, identity: &Identity) -> Answer<bool> {
        if self.present.is_none() {
            self.present = Some(self.everything()?);
        }
        Ok(self.present.as_ref().is_none_or(|present| !present.contains(identity)))
    }

    fn everything(&mut self) -> Answer<HashSet<Identity>> {
        let mut walked = self.walk()?;
        let mut present = HashSet::new();
        let mut waiting = VecDeque::from([self.root.clone()]);
        while let Some(directory) = waiting.pop_front() {
            let entries = match walked.remove(&directory) {
                Some(entries) => entries,
                None => self.list_one(&directory)?,
            };
            for entry in entries {
                let is_new = present.insert(entry.identity.clone());
                if entry.kind == Kind::Directory && is_new {
                    waiting.push_back(entry.identity);
                }
            }
        }
        Ok(present)
    }

    /// As much of the tree as comes in one stream. What would have to be looked at again is left out.
    fn walk(&mut self) -> Answer<HashMap<Identity, Vec<Entry>>> {
        let directory = self.directory(&self.root)?;
        let (entries, depth) = (WALK_ENTRIES_MAX, u16::MAX);
        let budget = WalkBudget { entries, depth, file_bytes: 0, content_bytes: 0 };
        let request = FileRequest::Walk { directory, from: WalkFrom::Itself, budget, window: WINDOW_BYTES };
        let mut shown: HashMap<Identity, (Place, Shown)> = HashMap::new();
        let mut wrong = None;
        let walked = self.line.pages(request, &mut |reply, _| {
            match reply {
                FileReply::Walked { directory, entries, end, .. } => {
                    let (_, shown) = shown
                        .entry(plain_identity(&directory.id))
                        .or_insert_with(|| (directory, Shown::default()));
                    shown.names.extend(entries);
                    shown.is_whole |= end;
                }
                FileReply::Done => {}
                reply => wrong = Some(misanswered(&reply)),
            }
            if wrong.is_none() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        if let Some(error) = wrong {
            return Err(error.into());
        }
        match walked {
            Ok(()) => {}
            // It is listed directory by directory, which tells what is wrong.
            Err(error @ LineError::Failed(_)) => tracing::debug!(%error, "the tree cannot be walked"),
            Err(error) => return Err(error.into()),
        }
        let now = self.line.clock()?;
        let wait = shown.values().filter_map(|(_, shown)| unsettled(&shown.names, now)).max();
        let mut walked = HashMap::new();
        for (identity, (place, shown)) in shown {
            let is_certain = shown.is_whole && shown.names.iter().all(|listed| listed.entry.is_some());
            if is_certain && unsettled(&shown.names, now).is_none() {
                let entries = self.take(&identity, &place, shown.names, now)?;
                walked.insert(identity, entries);
            }
        }
        // Once for all that are left out: behind it none of them has to be waited for.
        if let Some(wait) = wait {
            pass(wait);
        }
        Ok(walked)
    }

    pub(super) fn list_one(&mut self, directory: &Identity) -> Answer<Vec<Entry>> {
        let place = self.directory(directory)?;
        let mut looks = 1;
        let (names, now) = loop {
            let names = match self.names(&place) {
                Ok(names) => names,
                Err(error) if matches!(error.errno(), Some(Errno::EACCES | Errno::EPERM)) => {
                    tracing::warn!(path = %place.path, %error, "a directory is shown as empty");
                    return Ok(Vec::new());
                }
                Err(error) => return Err(error.into()),
            };
            let now = self.line.clock()?;
            match unsettled(&names, now) {
                Some(wait) if looks < LOOKS_MAX => pass(wait),
                _ => break (names, now),
            }
            looks += 1;
        };
        self.take(directory, &place, names, now)
    }

    fn names(&mut self, place: &Place) -> Result<Vec<Listed>, LineError> {
        let request = FileRequest::List { directory: place.clone(), from: 0, window: WINDOW_BYTES };
        let (mut shown, mut wrong) = (Shown::default(), None);
        self.line.pages(request, &mut |reply, _| {
            match reply {
                FileReply::Listing { entries, end, .. } => {
                    shown.names.extend(entries);
                    shown.is_whole |= end;
                }
                FileReply::Done => {}
                reply => wrong = Some(misanswered(&reply)),
            }
            match wrong.is_none() && shown.names.len() <= ENTRIES_MAX {
                true => ControlFlow::Continue(()),
                false => ControlFlow::Break(()),
            }
        })?;
        match wrong {
            Some(error) => Err(error),
            None if shown.names.len() > ENTRIES_MAX => {
                let detail = format!("`{}` has more than {ENTRIES_MAX} names", place.path);
                let errno = wire::agent::Errno(Errno::EFBIG.0);
                Err(LineError::Failed(wire::agent::Failure { errno, detail }))
            }
            None if !shown.is_whole => Err(LineError::Lost("a listing without an end".to_owned())),
            None => Ok(shown.names),
        }
    }

    fn take(
        &mut self,
        directory: &Identity,
        place: &Place,
        names: Vec<Listed>,
        now: Time,
    ) -> Answer<Vec<Entry>> {
        let mut entries = Vec::with_capacity(names.len());
        for Listed { name, entry, .. } in names {
            let Some(found) = self.sure(place, &name, entry)? else { continue };
            // What was not looked at in the listing has been looked at only now.
            let now = if entry.is_some() { now } else { self.line.clock()? };
            if self.is_cleared(place, &name, &found, now)? {
                continue;
            }
            let Some(entry) = entry_as_of(now, &found, directory, &name) else { continue };
            if entry.kind == Kind::Directory {
                self.directories.insert(entry.identity.clone(), (directory.clone(), name));
            }
            entries.push(entry);
        }
        Ok(entries)
    }

    /// A file that has just been found under a name, looked at again for as long as its version is one that may not last.
    pub(super) fn shown_settled(
        &mut self,
        mut found: file::Entry,
        directory: &Identity,
        at: &Name,
    ) -> Answer<Entry> {
        let place = self.directory(directory)?;
        for _ in 1..LOOKS_MAX {
            let Some(wait) = unsettled_for(&found, self.line.clock()?) else { break };
            pass(wait);
            let again = self.look_up(&place, at)?.filter(|again| again.id == found.id);
            found = again.ok_or(Refusal::Changed)?;
        }
        entry_as_of(self.line.clock()?, &found, directory, at).ok_or(Refusal::Changed)
    }

    /// What was not looked at in a listing is looked at: what is left out would be taken for gone.
    fn sure(
        &mut self,
        place: &Place,
        name: &Name,
        entry: Option<file::Entry>,
    ) -> Result<Option<file::Entry>, LineError> {
        match entry {
            Some(entry) => Ok(Some(entry)),
            None => self.look_up(place, name),
        }
    }

    /// Whether it is something left behind, which is not shown.
    fn is_cleared(&mut self, place: &Place, name: &Name, entry: &file::Entry, now: Time) -> Answer<bool> {
        match judge(name, entry, now) {
            Leftover::Not => return Ok(false),
            Leftover::Hide => return Ok(true),
            Leftover::Remove => {}
        }
        let removed = self.ask(FileRequest::Unlink { directory: place.clone(), name: name.clone() });
        match removed {
            Ok(_) => Ok(true),
            Err(error @ LineError::Lost(_)) => Err(error.into()),
            Err(error) => {
                tracing::debug!(%name, %error, "what a cut left behind stays");
                Ok(true)
            }
        }
    }
}

/// The moment in which another write may have the same time.
pub(super) fn tick_of(time: Time) -> Duration {
    if time.nanoseconds == 0 { TICK_OF_SECONDS } else { TICK }
}

/// How long to wait until another change of any of these files has another time; `None` where it would have it now.
fn unsettled(names: &[Listed], now: Time) -> Option<Duration> {
    names.iter().filter_map(|listed| unsettled_for(&listed.entry?, now)).max()
}

/// The same of one.
fn unsettled_for(entry: &file::Entry, now: Time) -> Option<Duration> {
    let attributes = entry.attributes;
    let tick = tick_of(attributes.modified).as_nanos().cast_signed();
    let ago = nanoseconds(now) - nanoseconds(attributes.modified);
    // What lies further ahead was set by somebody, and is no time that a write has.
    let is_recent = attributes.kind == file::Kind::File && (-tick..tick).contains(&ago);
    is_recent.then(|| Duration::from_nanos(u64::try_from(tick - ago).unwrap_or_default()))
}

/// What has another version as soon as its time is one that no later write has.
fn entry_as_of(now: Time, found: &file::Entry, directory: &Identity, name: &Name) -> Option<Entry> {
    let mut entry = entry_of(found, directory, name)?;
    if unsettled_for(found, now).is_some() {
        entry.content = unsettled_version(&entry.content);
    }
    Some(entry)
}

/// Lets a moment of the machine's clock go by: nothing tells of its end.
#[allow(clippy::disallowed_methods, reason = "it is the time itself that is waited for")]
fn pass(time: Duration) {
    std::thread::sleep(time);
}

fn nanoseconds(time: Time) -> i128 {
    i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanoseconds)
}

/// Whether it names a file of a machine at all.
pub(super) fn is_known(identity: &Identity) -> Answer<()> {
    file_id(identity).map(|_| ()).ok_or(Refusal::Changed)
}

#[cfg(test)]
mod tests {
    use wire::agent::file::{Attributes, Entry, FileId, Kind};

    use super::super::token::version_of;
    use super::*;

    fn listed(modified: Time) -> Listed {
        let attributes = Attributes { modified, ..Attributes::new(Kind::File) };
        let entry = Some(Entry { id: FileId::default(), attributes });
        Listed { name: Name::new(*b"f").unwrap(), entry, cookie: 0 }
    }

    #[test]
    fn a_file_of_this_moment_is_waited_for_and_no_other() {
        let now = Time { seconds: 100, nanoseconds: 5_000_000 };
        let at = |seconds, nanoseconds| listed(Time { seconds, nanoseconds });
        assert_eq!(unsettled(&[at(100, 5_000_000)], now), Some(TICK));
        assert_eq!(unsettled(&[at(99, 990_000_000)], now), Some(Duration::from_millis(5)));
        assert_eq!(unsettled(&[at(100, 10_000_000)], now), Some(Duration::from_millis(25)));
        for settled in [at(99, 985_000_000), at(0, 0), at(-1, 0), at(200, 0)] {
            assert_eq!(unsettled(&[settled], now), None);
        }
    }

    #[test]
    fn a_time_of_whole_seconds_settles_later() {
        let now = Time { seconds: 100, nanoseconds: 500_000_000 };
        let at = |seconds| listed(Time { seconds, nanoseconds: 0 });
        assert_eq!(unsettled(&[at(100)], now), Some(Duration::from_millis(1500)));
        assert_eq!(unsettled(&[at(99)], now), Some(Duration::from_millis(500)));
        assert_eq!(unsettled(&[at(98)], now), None);
    }

    #[test]
    fn a_file_that_never_settles_has_a_version_that_no_file_has() {
        let now = Time { seconds: 100, nanoseconds: 5 };
        let (name, directory) = (Name::new(*b"f").unwrap(), plain_identity(&FileId::default()));
        let [recent, old] = [now, Time { seconds: 90, ..now }].map(|time| listed(time).entry.unwrap());
        let shown = |entry| entry_as_of(now, entry, &directory, &name).unwrap().content;
        assert_ne!(shown(&recent), version_of(&recent));
        assert_eq!(shown(&old), version_of(&old));
    }
}
