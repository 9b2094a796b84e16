//! What a session holds on the machine: its export, open files, locks. Learned from the answers that pass, so that it can
//! be had again from an agent that knows nothing of it. And what it has been given on the machine, processes too, and nobody
//! here has any more: the machine is owed that.

use std::collections::{HashMap, HashSet, VecDeque};
use std::ops::Range;

use serde::{Deserialize, Serialize};
use wire::agent::file::{
    Entry, FileId, FileReply, FileRequest, Lock, LockFamily, LockKind, OpenFlags, Place, RenameMode, Target,
    WriteAt,
};
use wire::agent::name::{Name, RelativePath};
use wire::agent::process::ProcessRequest;
use wire::agent::{HandleId, Reply, Request, RequestId};

use super::repeat::{Known, Tail};

/// How many ends of a file are kept. The kernel asks for one write at the end of a file after the other, and few others
/// who do not use it at all.
const ENDS_KEPT_MAX: usize = 32;

/// What was attached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Export {
    /// The path that was asked for.
    pub path: Vec<u8>,
    /// Whether changes are refused.
    pub read_only: bool,
    /// What was found there.
    pub root: FileId,
}

/// An open file, as far as it takes to open it again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldFile {
    /// Its name in the session.
    pub handle: HandleId,
    /// Which file, and where it was last. The path is empty if it has no name.
    pub place: Place,
    /// How it is open: without what concerns the moment of opening only.
    pub flags: OpenFlags,
    /// The locks it has been given.
    pub locks: Vec<HeldLock>,
}

impl HeldFile {
    fn has_locks(&self, owner: u64, family: LockFamily) -> bool {
        self.locks.iter().any(|held| held.owner == owner && held.lock.family == family)
    }
}

/// A lock that was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldLock {
    /// To whom.
    pub owner: u64,
    /// Which; never [`LockKind::Unlocked`].
    pub lock: Lock,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Held {
    export: Option<Export>,
    files: HashMap<HandleId, HeldFile>,
    /// Where files have ended lately that are written to at their end.
    ends: HashMap<FileId, Vec<End>>,
    /// The files of which it is being found out what has been written at their ends.
    judged: HashMap<FileId, Judged>,
    /// Handles whose files could not be had again.
    stale: HashSet<HandleId>,
    /// What is to be given back to the machine: closes, locks given back, and processes that nobody follows. No more than
    /// there were files, locks, and requests under way.
    owed: VecDeque<Request>,
}

/// What gives back what is owed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Corrections {
    /// How much of what is owed.
    pub(super) count: usize,
    /// In this order.
    pub(super) requests: Vec<Request>,
}

/// Where a file ended, by the answer to a request.
#[derive(Clone, Copy, Debug)]
struct End {
    at: u64,
    /// Where the bytes begin that the request has put there.
    start: u64,
    /// The open file that it named, if it did.
    handle: Option<HandleId>,
    id: RequestId,
    /// The last request that had been made when the answer came.
    as_of: RequestId,
}

impl End {
    /// Whether it is certainly without the bytes of this write. The agent carries out the requests of one handle one after
    /// the other, but its answers overtake each other.
    fn is_before(&self, handle: HandleId, write: RequestId) -> bool {
        (self.handle == Some(handle) && self.id < write) || write > self.as_of
    }
}

/// When an answer came, and to what.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    pub(super) id: RequestId,
    /// The last request that had been made.
    pub(super) as_of: RequestId,
}

impl Moment {
    fn end(self, start: u64, at: u64, handle: Option<HandleId>) -> End {
        End { at, start, handle, id: self.id, as_of: self.as_of }
    }
}

/// A file with writes at its end in doubt.
#[derive(Debug)]
struct Judged {
    /// Where it ended before the first of them.
    base: End,
    /// What is known to be theirs of the bytes behind.
    claimed: Vec<Range<u64>>,
}

impl Held {
    pub(super) fn new(export: Option<Export>, files: Vec<HeldFile>) -> Held {
        let files = files.into_iter().map(|file| (file.handle, file)).collect();
        Held { export, files, ..Held::default() }
    }

    pub(super) fn export(&self) -> Option<Export> {
        self.export.clone()
    }

    /// The open files, in the order of their names.
    pub(super) fn files(&self) -> Vec<HeldFile> {
        let mut files: Vec<_> = self.files.values().cloned().collect();
        files.sort_unstable_by_key(|file| file.handle);
        files
    }

    /// The highest name of an open file.
    pub(super) fn last_handle(&self) -> u64 {
        self.files.keys().map(|handle| handle.0).max().unwrap_or_default()
    }

    pub(super) fn is_stale(&self, handle: HandleId) -> bool {
        self.stale.contains(&handle)
    }

    /// The file of a handle could not be had again.
    pub(super) fn lose_file(&mut self, handle: HandleId) {
        self.files.remove(&handle);
        self.stale.insert(handle);
    }

    /// A lock could not be had again.
    pub(super) fn lose_lock(&mut self, handle: HandleId, lost: HeldLock) {
        if let Some(file) = self.files.get_mut(&handle) {
            file.locks.retain(|held| *held != lost);
        }
    }

    /// What a mutation in doubt can be judged by. Of what a predecessor has sent, it is not known where the file ended then.
    pub(super) fn known_for(&mut self, id: RequestId, request: &FileRequest, is_inherited: bool) -> Known {
        match request {
            FileRequest::Write { handle, .. } if !is_inherited => {
                Known { tail: self.tail(*handle, id), ..Known::default() }
            }
            FileRequest::Create { handle, .. } => {
                let open = self.files.contains_key(handle).then_some(*handle);
                Known { open, ..Known::default() }
            }
            _ => Known::default(),
        }
    }

    /// Where the file of a handle ended before anything in doubt, as far as is known. The first that asks for a file is its
    /// oldest write in doubt.
    fn tail(&mut self, handle: HandleId, write: RequestId) -> Option<Tail> {
        let place = self.files.get(&handle)?.place.clone();
        if !self.judged.contains_key(&place.id) {
            let judged = self.judge(place.id, handle, write)?;
            self.judged.insert(place.id, judged);
        }
        let Judged { base, claimed } = self.judged.get(&place.id)?;
        base.is_before(handle, write).then(|| Tail { place, end: base.at, claimed: claimed.clone() })
    }

    fn judge(&self, file: FileId, handle: HandleId, write: RequestId) -> Option<Judged> {
        let (before, after): (Vec<End>, Vec<End>) =
            self.ends.get(&file)?.iter().copied().partition(|end| end.is_before(handle, write));
        let base = before.into_iter().max_by_key(|end| end.at)?;
        // What has been written since stands behind, at a place that is known if nobody else writes there.
        let through = self.files.values().filter(|open| open.place.id == file && open.flags.append).count();
        let is_told = through == 1 && after.iter().all(|end| end.handle == Some(handle));
        if !after.is_empty() && !is_told {
            return None;
        }
        Some(Judged { base, claimed: after.into_iter().map(|end| end.start..end.at).collect() })
    }

    /// Takes note of where a file ends.
    fn ends_at(&mut self, file: FileId, end: End) {
        let ends = self.ends.entry(file).or_default();
        // Of those that are behind a write that waits for its answer, none may be missing.
        if ends.len() >= ENDS_KEPT_MAX
            && let Some((first, _)) = ends.iter().enumerate().min_by_key(|(_, end)| end.at)
        {
            ends.swap_remove(first);
        }
        ends.push(end);
    }

    /// These bytes of the file are those of a write that was in doubt.
    pub(super) fn claim(&mut self, file: FileId, bytes: Range<u64>) {
        if let Some(judged) = self.judged.get_mut(&file) {
            judged.claimed.push(bytes);
        }
    }

    /// Nothing is in doubt any more.
    pub(super) fn doubts_settled(&mut self) {
        self.judged.clear();
    }

    /// A request has failed, or lost its caller, for want of a machine. What it may have been given is had by nobody, and
    /// what it was to give back is not wanted any more: the machine is owed both.
    pub(super) fn request_lost(&mut self, request: &Request, was_sent: bool) {
        match request {
            Request::File(request) => {
                let owed = self.owed_for(request, was_sent).map(Request::File);
                self.owed.extend(owed);
            }
            Request::Process(request) => self.process_lost(request, was_sent),
            Request::Describe => {}
        }
    }

    /// As [`Held::request_lost`]. A process that was to be left to itself still is, whoever has followed it.
    fn process_lost(&mut self, request: &ProcessRequest, was_sent: bool) {
        use ProcessRequest as P;
        let is_of = |process| move |owed: &Request| *owed == Request::Process(P::Detach { process });
        match request {
            P::Spawn { process, .. } | P::Follow { process, .. } | P::Release { process }
                if was_sent && !self.owed.iter().any(is_of(*process)) =>
            {
                self.owed.push_back(Request::Process(P::Release { process: *process }));
            }
            P::Detach { process } => {
                self.owed.retain(|owed| *owed != Request::Process(P::Release { process: *process }));
                self.owed.push_back(Request::Process(request.clone()));
            }
            _ => {}
        }
    }

    fn owed_for(&mut self, request: &FileRequest, was_sent: bool) -> Option<FileRequest> {
        let owed = match request {
            FileRequest::Close { handle } => {
                self.closed(*handle);
                request.clone()
            }
            FileRequest::Lock { handle, owner, lock, .. } if lock.kind == LockKind::Unlocked => {
                let file = self.files.get_mut(handle)?;
                if !file.has_locks(*owner, lock.family) {
                    return None;
                }
                change_locks(&mut file.locks, *owner, *lock);
                request.clone()
            }
            FileRequest::ReleaseLocks { handle, owner } => {
                let id = self.files.get(handle)?.place.id;
                let mut same = self.files.values().filter(|file| file.place.id == id);
                if !same.any(|file| file.has_locks(*owner, LockFamily::Posix)) {
                    return None;
                }
                self.released(*handle, *owner);
                request.clone()
            }
            FileRequest::Lock { handle, owner, lock, .. } if was_sent => {
                let lock = Lock { kind: LockKind::Unlocked, ..*lock };
                FileRequest::Lock { handle: *handle, owner: *owner, lock, wait: false }
            }
            FileRequest::Open { handle, .. }
            | FileRequest::Create { handle, .. }
            | FileRequest::CreateUnnamed { handle, .. }
                if was_sent =>
            {
                FileRequest::Close { handle: *handle }
            }
            _ => return None,
        };
        Some(owed)
    }

    /// What gives back all that is owed: files are closed, and each lock is given back, and what its owner had before is
    /// taken again.
    pub(super) fn corrections(&self) -> Corrections {
        let mut requests = Vec::new();
        for owed in &self.owed {
            requests.push(owed.clone());
            let Request::File(FileRequest::Lock { handle, owner, lock, .. }) = owed else { continue };
            let held = self.files.get(handle).into_iter().flat_map(|file| &file.locks);
            let before = held.filter(|held| held.owner == *owner && held.lock.family == lock.family);
            requests.extend(before.map(|held| {
                let (handle, owner, lock) = (*handle, *owner, held.lock);
                Request::File(FileRequest::Lock { handle, owner, lock, wait: false })
            }));
        }
        Corrections { count: self.owed.len(), requests }
    }

    /// The first `count` of what was owed have been given back.
    pub(super) fn corrected(&mut self, count: usize) {
        self.owed.drain(..count.min(self.owed.len()));
    }

    /// Learns from the answer to a request.
    pub(super) fn learn(&mut self, request: &Request, reply: &Reply, moment: Moment) {
        let (Request::File(request), Reply::File(reply)) = (request, reply) else { return };
        match (request, reply) {
            (FileRequest::Attach { path, read_only }, FileReply::Attached { root, .. }) => {
                self.export = Some(Export { path: path.clone(), read_only: *read_only, root: root.id });
            }
            (FileRequest::Open { place, flags, handle, .. }, FileReply::Opened { entry, .. }) => {
                self.opened(*handle, *flags, entry, place.path.clone(), moment);
            }
            (FileRequest::Create { directory, name, flags, handle, .. }, FileReply::Opened { entry, .. }) => {
                self.opened(*handle, *flags, entry, directory.path.join(name), moment);
            }
            (FileRequest::CreateUnnamed { flags, handle, .. }, FileReply::Opened { entry, .. }) => {
                self.opened(*handle, *flags, entry, RelativePath::default(), moment);
            }
            (
                FileRequest::Write { handle, at: WriteAt::End, .. },
                FileReply::Written { bytes, attributes },
            ) => {
                if let Some(file) = self.files.get(handle) {
                    let (file, at) = (file.place.id, attributes.size);
                    self.ends_at(file, moment.end(at.saturating_sub(*bytes), at, Some(*handle)));
                }
            }
            // What is cut off is no end any more.
            (FileRequest::SetAttributes { target, .. }, FileReply::Entry(entry)) => {
                let handle = match target {
                    Target::Handle(handle) => Some(*handle),
                    Target::Place(_) => None,
                };
                let at = entry.attributes.size;
                if let Some(ends) = self.ends.get_mut(&entry.id) {
                    *ends = vec![moment.end(at, at, handle)];
                }
            }
            (FileRequest::Rename { from, from_name, to, to_name, mode }, FileReply::Renamed { .. }) => {
                self.renamed(&from.path.join(from_name), &to.path.join(to_name), *mode);
            }
            (FileRequest::Link { target: Target::Handle(handle), directory, name }, FileReply::Entry(_)) => {
                self.linked(*handle, directory, name);
            }
            (FileRequest::Lock { handle, owner, lock, .. }, FileReply::Done) => {
                if let Some(file) = self.files.get_mut(handle) {
                    change_locks(&mut file.locks, *owner, *lock);
                }
            }
            (FileRequest::ReleaseLocks { handle, owner }, FileReply::Done) => self.released(*handle, *owner),
            _ => {}
        }
    }

    /// A handle is gone, whatever the machine said.
    pub(super) fn closed(&mut self, handle: HandleId) {
        self.stale.remove(&handle);
        let Some(file) = self.files.remove(&handle) else { return };
        if self.ends.is_empty() || self.files.values().any(|other| other.place.id == file.place.id) {
            return;
        }
        self.ends.remove(&file.place.id);
    }

    fn opened(
        &mut self,
        handle: HandleId,
        flags: OpenFlags,
        entry: &Entry,
        path: RelativePath,
        moment: Moment,
    ) {
        if flags.append || self.ends.contains_key(&entry.id) {
            let at = entry.attributes.size;
            self.ends_at(entry.id, moment.end(at, at, Some(handle)));
        }
        let flags = OpenFlags { truncate: false, exclusive: false, ..flags };
        let place = Place { id: entry.id, path };
        self.stale.remove(&handle);
        self.files.insert(handle, HeldFile { handle, place, flags, locks: Vec::new() });
    }

    fn renamed(&mut self, from: &RelativePath, to: &RelativePath, mode: RenameMode) {
        for file in self.files.values_mut() {
            let back = || moved(&file.place.path, to, from).filter(|_| mode == RenameMode::Exchange);
            if let Some(path) = moved(&file.place.path, from, to).or_else(back) {
                file.place.path = path;
            }
        }
    }

    fn linked(&mut self, handle: HandleId, directory: &Place, name: &Name) {
        if let Some(file) = self.files.get_mut(&handle).filter(|file| file.place.path.is_root()) {
            file.place.path = directory.path.join(name);
        }
    }

    fn released(&mut self, handle: HandleId, owner: u64) {
        let Some(id) = self.files.get(&handle).map(|file| file.place.id) else { return };
        for file in self.files.values_mut().filter(|file| file.place.id == id) {
            file.locks.retain(|held| held.owner != owner || held.lock.family != LockFamily::Posix);
        }
    }
}

/// Where a path is after `from` has become `to`; `None` if it is not at or below `from`, or cannot be.
fn moved(path: &RelativePath, from: &RelativePath, to: &RelativePath) -> Option<RelativePath> {
    let rest = path.as_bytes().strip_prefix(from.as_bytes())?;
    let is_below = rest.is_empty() || rest[0] == b'/';
    if !is_below {
        return None;
    }
    RelativePath::new([to.as_bytes(), rest].concat()).ok()
}

/// Applies a lock that was given, or given back, to what an owner had before: the new one replaces what it covers.
fn change_locks(locks: &mut Vec<HeldLock>, owner: u64, new: Lock) {
    let mut kept = Vec::with_capacity(locks.len() + 1);
    for held in locks.drain(..) {
        let Lock { start, end, .. } = held.lock;
        let is_apart = end < new.start || start > new.end;
        if held.owner != owner || held.lock.family != new.family || is_apart {
            kept.push(held);
            continue;
        }
        if start < new.start {
            kept.push(HeldLock { owner, lock: Lock { end: new.start - 1, ..held.lock } });
        }
        if end > new.end {
            kept.push(HeldLock { owner, lock: Lock { start: new.end + 1, ..held.lock } });
        }
    }
    if new.kind != LockKind::Unlocked {
        kept.push(HeldLock { owner, lock: new });
    }
    *locks = kept;
}

#[cfg(test)]
mod tests;
