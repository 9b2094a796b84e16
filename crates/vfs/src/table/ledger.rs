//! What a successor has to know: records of what the kernel was told, in the order in which it was.
//!
//! Every change of what the kernel may refer to leaves a record here, under the same lock as the change itself. Who answers
//! the kernel writes the records to a file first. A node is recorded when the kernel is first given it, after the
//! directories above it. `docs/formats.md` has the layout of each record.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::errno::Errno;
use crate::file::{Attributes, Entry, FileId, Kind, Lock, LockFamily, LockKind, Name, OpenFlags};
use crate::log::Records;
use crate::request::{RequestId, Sequence, Slot};
use crate::source::HandleId;

use super::absent::{AbsentNames, Remembered};
use super::expected::is_expected;
use super::locks::{HeldLock, Locks};
use super::node::{Meaning, Node, Seen, Slot as NameSlot};
use super::{Ino, Limits, Moment, Table};

/// The number of no node.
const NOBODY: u64 = 0;

/// Memory kept for records between two writes: those of a page of a listing.
const PENDING_CAPACITY_BYTES: usize = 64 << 10;

mod kind {
    pub(super) const LIMITS: u8 = 1;
    pub(super) const NODE: u8 = 2;
    pub(super) const NAMED: u8 = 3;
    pub(super) const UNNAMED: u8 = 4;
    pub(super) const GONE: u8 = 5;
    pub(super) const LOOKED_UP: u8 = 6;
    pub(super) const FORGOTTEN: u8 = 7;
    pub(super) const OPENED: u8 = 8;
    pub(super) const CONFIRMED: u8 = 9;
    pub(super) const RELEASED: u8 = 10;
    pub(super) const CLOSED: u8 = 11;
    pub(super) const SLOT: u8 = 12;
    pub(super) const SETTLED: u8 = 13;
    pub(super) const KEPT: u8 = 14;
    pub(super) const LOCKED: u8 = 15;
    pub(super) const FAILED: u8 = 16;
    pub(super) const IDENTIFIED: u8 = 17;
    pub(super) const ABSENT: u8 = 18;
}

/// Something that is kept for a successor and means nothing here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kept {
    /// What was agreed with the kernel.
    Kernel,
    /// What the source needs to go on.
    Source,
}

/// What a handle has open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Opens {
    File(OpenFlags),
    Directory,
}

/// How far a handle has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// The kernel has it; the source may not have opened it yet.
    Assumed,
    /// Both have it.
    Open,
    /// The kernel has given it back; the source may still have it.
    Released,
}

/// A handle that is open somewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) ino: Ino,
    pub(crate) opens: Opens,
    pub(crate) stage: Stage,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    pending: Records,
    /// Raised with each record.
    recorded: Arc<AtomicU64>,
    handles: HashMap<HandleId, Held>,
    slots: HashMap<RequestId, Slot>,
    kept: BTreeMap<Kept, Vec<u8>>,
    locks: Locks,
    /// Errors of writes that were taken, by handles that are to be told.
    failures: HashMap<HandleId, Errno>,
    absent: AbsentNames,
    /// No handle with this number or a higher one has been used.
    next_handle: u64,
}

fn put(to: &mut Vec<u8>, numbers: &[u64]) {
    numbers.iter().for_each(|number| to.extend_from_slice(&number.to_le_bytes()));
}

impl Ledger {
    fn push(&mut self, kind: u8, numbers: &[u64], rest: &[u8]) {
        self.pending.push(kind, |to| {
            put(to, numbers);
            to.extend_from_slice(rest);
        });
        self.recorded.fetch_add(1, Ordering::Release);
    }

    fn push_handle(&mut self, handle: HandleId, held: Held) {
        let Held { ino, opens, stage } = held;
        let opens = match opens {
            Opens::Directory => 0,
            Opens::File(flags) => flag_bits(flags),
        };
        let stage = match stage {
            Stage::Assumed => 0,
            Stage::Open => 1,
            Stage::Released => 2,
        };
        self.push(kind::OPENED, &[handle.0, ino.0], &[opens, stage]);
    }

    fn push_lock(&mut self, ino: Ino, held: HeldLock) {
        let HeldLock { handle, owner, lock: Lock { family, kind, start, end } } = held;
        let bytes = [lock_family_number(family), lock_kind_number(kind)];
        self.push(kind::LOCKED, &[ino.0, handle.0, owner, start, end], &bytes);
    }

    /// A lock was given, or given back.
    pub(crate) fn lock_changed(&mut self, ino: Ino, change: HeldLock) {
        self.locks.changed(ino, change);
        self.push_lock(ino, change);
    }

    /// A write that was taken has failed, and the handle is to be told; `None`, it has been.
    pub(crate) fn write_failed(&mut self, handle: HandleId, failure: Option<Errno>) {
        if !self.handles.contains_key(&handle) {
            return;
        }
        self.set_failure(handle, failure);
        self.push_failure(handle, failure);
    }

    fn set_failure(&mut self, handle: HandleId, failure: Option<Errno>) {
        match failure {
            Some(errno) => self.failures.insert(handle, errno),
            None => self.failures.remove(&handle),
        };
    }

    fn push_failure(&mut self, handle: HandleId, failure: Option<Errno>) {
        self.push(kind::FAILED, &[handle.0, failure.map_or(0, |errno| errno.0.into())], &[]);
    }

    /// The error of a write that the handle has not been told.
    pub(crate) fn failure(&self, handle: HandleId) -> Option<Errno> {
        self.failures.get(&handle).copied()
    }

    pub(crate) fn locks(&self) -> &Locks {
        &self.locks
    }

    /// The kernel has given the handle up, and with it what locks end with it.
    fn end_locks(&mut self, handle: HandleId, ino: Ino) {
        if self.locks.has(ino) {
            let is_open = |(other, held): (&HandleId, &Held)| {
                held.ino == ino && *other != handle && held.stage != Stage::Released
            };
            let is_last = !self.handles.iter().any(is_open);
            self.locks.closed(ino, handle, is_last);
        }
    }

    /// Whether a successor will know of the name.
    fn remember_absent(&mut self, directory: Ino, name: &[u8]) -> bool {
        let remembered = self.absent.remember(directory, name);
        if remembered == Remembered::New {
            self.push(kind::ABSENT, &[directory.0], name);
        }
        remembered != Remembered::No
    }

    /// Of a node that the kernel has, since it is named to it when all names are; otherwise it may still be believed absent.
    fn push_name(&mut self, ino: Ino, parent: Ino, name: &Name, is_known: bool) {
        if is_known {
            self.absent.appeared(parent, name);
        }
        self.push(kind::NAMED, &[ino.0, parent.0], name);
    }

    fn push_kept(&mut self, what: Kept) {
        let Some(bytes) = self.kept.get(&what) else { return };
        let mut content = vec![kept_number(what)];
        content.extend_from_slice(bytes);
        self.push(kind::KEPT, &[], &content);
    }

    /// A counter of records, raised by each.
    pub(crate) fn recorded(&self) -> Arc<AtomicU64> {
        self.recorded.clone()
    }

    /// Takes the records that wait, leaving `spare` for the next.
    pub(crate) fn take_pending(&mut self, spare: &mut Records) -> u64 {
        spare.clear(PENDING_CAPACITY_BYTES);
        std::mem::swap(&mut self.pending, spare);
        self.recorded.load(Ordering::Acquire)
    }

    pub(crate) fn handles(&self) -> &HashMap<HandleId, Held> {
        &self.handles
    }

    pub(crate) fn slots(&self) -> &HashMap<RequestId, Slot> {
        &self.slots
    }

    pub(crate) fn kept(&self, what: Kept) -> Option<&[u8]> {
        self.kept.get(&what).map(Vec::as_slice)
    }

    pub(crate) fn next_handle(&self) -> u64 {
        self.next_handle
    }

    pub(crate) fn keep(&mut self, what: Kept, bytes: Vec<u8>) {
        self.kept.insert(what, bytes);
        self.push_kept(what);
    }

    /// Handles with numbers below `next` may be used from now on.
    pub(crate) fn reserve_handles(&mut self, next_ino: u64, next: u64) {
        self.next_handle = self.next_handle.max(next);
        self.push(kind::LIMITS, &[next_ino, self.next_handle], &[]);
    }

    pub(crate) fn choose(&mut self, request: RequestId, slot: Slot) {
        self.slots.insert(request, slot);
        self.push(kind::SLOT, &[request.0, slot.sequence.0], &[]);
    }

    pub(crate) fn settle(&mut self, request: RequestId) -> Option<Slot> {
        let slot = self.slots.remove(&request)?;
        self.push(kind::SETTLED, &[request.0], &[]);
        Some(slot)
    }
}

impl Table {
    /// From now on changes leave records in `ledger`.
    pub(crate) fn keep_ledger(&mut self, ledger: Ledger) {
        self.ledger = Some(Box::new(ledger));
    }

    pub(crate) fn ledger(&self) -> Option<&Ledger> {
        self.ledger.as_deref()
    }

    pub(crate) fn ledger_mut(&mut self) -> Option<&mut Ledger> {
        self.ledger.as_deref_mut()
    }

    /// The number after the last that was given to a node.
    pub(crate) fn next_ino(&self) -> u64 {
        self.next
    }

    fn record(&mut self, kind: u8, numbers: &[u64], rest: &[u8]) {
        if let Some(ledger) = &mut self.ledger {
            ledger.push(kind, numbers, rest);
        }
    }

    fn is_recorded(&self, ino: Ino) -> bool {
        self.nodes.get(&ino).is_none_or(|node| node.recorded)
    }

    /// Records the node, and before it what leads to it, unless that is recorded.
    fn ensure_recorded(&mut self, ino: Ino) {
        if self.ledger.is_none() || self.is_recorded(ino) {
            return;
        }
        let mut path = vec![ino];
        while let Some(at) = path.last().copied() {
            let Some(node) = self.nodes.get_mut(&at) else { return };
            let names: Vec<_> = node.names.iter().map(|(parent, name)| (*parent, name.clone())).collect();
            // Of a hard link's directories the table may have let one go in error; it is no parent then.
            if let Some((parent, _)) = names.iter().find(|(parent, _)| !self.is_recorded(*parent)) {
                path.push(*parent);
                continue;
            }
            path.pop();
            self.record_node(at, &names);
        }
    }

    fn record_node(&mut self, ino: Ino, names: &[(Ino, Name)]) {
        let Ok(node) = self.known_mut(ino) else { return };
        node.recorded = true;
        let FileId { device, inode, birth } = node.id;
        let (lookups, kind) = (node.lookups, kind_number(node.attributes.kind));
        let lost = node.lost.clone();
        self.record(kind::NODE, &[ino.0, device, inode, birth, lookups], &[kind]);
        let Some(ledger) = &mut self.ledger else { return };
        names.iter().for_each(|(parent, name)| ledger.push_name(ino, *parent, name, lookups > 0));
        if let Some((parent, name)) = lost.as_deref()
            && self.nodes.get(parent).is_some_and(|parent| parent.recorded)
        {
            let is_absent = ledger.absent.has(*parent, name);
            ledger.push_name(ino, *parent, name, lookups > 0);
            ledger.push(kind::UNNAMED, &[ino.0, parent.0], name);
            if is_absent {
                ledger.remember_absent(*parent, name);
            }
        }
    }

    /// A file that was said to be made is this one.
    pub(super) fn record_identity(&mut self, ino: Ino, id: FileId) {
        if self.is_recorded(ino) {
            self.record(kind::IDENTIFIED, &[ino.0, id.device, id.inode, id.birth], &[]);
        }
    }

    /// The kernel was given the node once more; its count is right already.
    pub(super) fn record_lookup(&mut self, ino: Ino) {
        if self.ledger.is_none() {
            return;
        }
        match self.is_recorded(ino) {
            true => self.record(kind::LOOKED_UP, &[ino.0, 1], &[]),
            false => self.ensure_recorded(ino),
        }
    }

    pub(super) fn record_forget(&mut self, ino: Ino, count: u64) {
        if self.ledger.is_none() || !self.is_recorded(ino) {
            return;
        }
        self.record(kind::FORGOTTEN, &[ino.0, count], &[]);
        if self.lookups(ino) == 0
            && let Some(ledger) = &mut self.ledger
        {
            ledger.absent.forget(ino);
        }
    }

    /// The kernel is about to be told that the name is not there. Whether a successor will know.
    pub(super) fn record_absent(&mut self, directory: Ino, name: &[u8]) -> bool {
        self.ensure_recorded(directory);
        self.ledger.as_mut().is_none_or(|ledger| ledger.remember_absent(directory, name))
    }

    /// The node has a name more; the table knows it already.
    pub(super) fn record_name(&mut self, ino: Ino, parent: Ino, name: &Name) {
        if self.ledger.is_some() && self.is_recorded(ino) {
            self.ensure_recorded(parent);
            let is_known = self.lookups(ino) > 0;
            self.ledger.iter_mut().for_each(|ledger| ledger.push_name(ino, parent, name, is_known));
        }
    }

    /// The kernel is being told not to believe the name. The record says it the next time that it is written anew.
    pub(super) fn record_taken_back(&mut self, directory: Ino, name: &Name) {
        if let Some(ledger) = &mut self.ledger {
            ledger.absent.taken_back(directory, name);
        }
    }

    pub(super) fn record_no_name(&mut self, ino: Ino, parent: Ino, name: &Name) {
        if self.is_recorded(ino)
            && let Some(ledger) = &mut self.ledger
        {
            ledger.absent.lost(parent, name.clone());
            ledger.push(kind::UNNAMED, &[ino.0, parent.0], name);
        }
    }

    pub(super) fn record_gone(&mut self, ino: Ino, node: &Node) {
        if node.recorded {
            self.record(kind::GONE, &[ino.0], &[]);
            self.ledger.iter_mut().for_each(|ledger| ledger.absent.forget(ino));
        }
    }

    /// Lets go of files that were said to be made, and of which neither a predecessor nor the kernel has heard more: the
    /// journal does not have them, so nobody was told.
    pub(crate) fn forget_expected(&mut self, is_journalled: impl Fn(Ino) -> bool) {
        let expected = self.nodes.iter().filter(|(_, node)| is_expected(node.id));
        let orphans: Vec<_> = expected.map(|(ino, _)| *ino).filter(|ino| !is_journalled(*ino)).collect();
        for ino in orphans {
            let handles: Vec<_> = self.ledger().map_or(Vec::new(), |ledger| {
                let of_it = ledger.handles.iter().filter(|(_, held)| held.ino == ino);
                of_it.map(|(handle, _)| *handle).collect()
            });
            handles.into_iter().for_each(|handle| self.handle_closed(handle));
            self.remove(ino);
        }
    }

    /// The kernel has the node open under this handle.
    pub(crate) fn handle_opened(&mut self, handle: HandleId, held: Held) {
        self.opened(held.ino);
        self.ensure_recorded(held.ino);
        if let Some(ledger) = &mut self.ledger {
            ledger.handles.insert(handle, held);
            ledger.push_handle(handle, held);
        }
    }

    /// The source has opened the handle.
    pub(crate) fn handle_confirmed(&mut self, handle: HandleId) {
        self.handle_reached(handle, Stage::Open, kind::CONFIRMED);
    }

    /// The kernel does not know the handle any more.
    pub(crate) fn handle_released(&mut self, handle: HandleId) {
        self.handle_reached(handle, Stage::Released, kind::RELEASED);
    }

    fn handle_reached(&mut self, handle: HandleId, stage: Stage, kind: u8) {
        let Some(ledger) = &mut self.ledger else { return };
        let Some(held) = ledger.handles.get_mut(&handle) else { return };
        if held.stage == Stage::Released {
            return;
        }
        held.stage = stage;
        let ino = held.ino;
        if stage == Stage::Released {
            ledger.end_locks(handle, ino);
        }
        ledger.push(kind, &[handle.0], &[]);
    }

    /// Nobody knows the handle any more.
    pub(crate) fn handle_closed(&mut self, handle: HandleId) {
        let Some(ledger) = &mut self.ledger else { return };
        if let Some(held) = ledger.handles.remove(&handle) {
            ledger.end_locks(handle, held.ino);
            ledger.failures.remove(&handle);
            ledger.push(kind::CLOSED, &[handle.0], &[]);
        }
    }

    /// Everything that a successor has to know, as records that stand for all there were until now. Gives the number of
    /// the last of those.
    pub(crate) fn write_ledger(&mut self, records: &mut Records) -> u64 {
        let next_ino = self.next;
        let Some(ledger) = &mut self.ledger else { return 0 };
        ledger.pending.clear(PENDING_CAPACITY_BYTES);
        let limits = [next_ino, ledger.next_handle];
        ledger.push(kind::LIMITS, &limits, &[]);
        ledger.push_kept(Kept::Kernel);
        ledger.push_kept(Kept::Source);
        let slots: Vec<_> = ledger.slots.iter().map(|(request, slot)| (*request, *slot)).collect();
        for (request, slot) in slots {
            ledger.push(kind::SLOT, &[request.0, slot.sequence.0], &[]);
        }
        for node in self.nodes.values_mut() {
            node.recorded = false;
        }
        let known = self.nodes.iter().filter(|(_, node)| node.lookups > 0 || node.opens > 0);
        let known: Vec<_> = known.map(|(ino, _)| *ino).collect();
        known.into_iter().for_each(|ino| self.ensure_recorded(ino));
        let Some(ledger) = &mut self.ledger else { return 0 };
        let handles: Vec<_> = ledger.handles.iter().map(|(handle, held)| (*handle, *held)).collect();
        handles.into_iter().for_each(|(handle, held)| ledger.push_handle(handle, held));
        let absent: Vec<_> = ledger.absent.iter().map(|(parent, name)| (parent, name.clone())).collect();
        absent.into_iter().for_each(|(parent, name)| ledger.push(kind::ABSENT, &[parent.0], &name));
        let lost: Vec<_> = ledger.absent.lost_lately().cloned().collect();
        lost.into_iter().for_each(|(parent, name)| ledger.push(kind::UNNAMED, &[NOBODY, parent.0], &name));
        let failures: Vec<_> = ledger.failures.iter().map(|(handle, errno)| (*handle, *errno)).collect();
        failures.into_iter().for_each(|(handle, errno)| ledger.push_failure(handle, Some(errno)));
        let locks: Vec<_> = ledger.locks.all().collect();
        locks.into_iter().for_each(|(ino, held)| ledger.push_lock(ino, held));
        ledger.take_pending(records)
    }
}

/// A record that does not read as what its kind says: another release's, or a bug's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a record of kind {kind} and {bytes} bytes cannot be read")]
pub struct BadRecord {
    /// Its kind.
    pub kind: u8,
    /// How long it is, without the kind.
    pub bytes: usize,
}

/// What is known again, record by record.
#[derive(Debug)]
pub(crate) struct Replay {
    pub(crate) table: Table,
    pub(crate) ledger: Ledger,
    pub(crate) bad: Option<BadRecord>,
}

impl Replay {
    pub(crate) fn new() -> Replay {
        Replay { table: Table::bare(), ledger: Ledger::default(), bad: None }
    }

    /// Takes the next record in.
    pub(crate) fn record(&mut self, kind: u8, content: &[u8]) {
        if self.take(kind, content).is_none() {
            self.bad.get_or_insert(BadRecord { kind, bytes: content.len() });
        }
    }

    fn take(&mut self, kind: u8, mut content: &[u8]) -> Option<()> {
        let mut number = || {
            let (first, rest) = content.split_first_chunk::<8>()?;
            content = rest;
            Some(u64::from_le_bytes(*first))
        };
        let (table, ledger) = (&mut self.table, &mut self.ledger);
        match kind {
            kind::LIMITS => {
                (table.next, ledger.next_handle) =
                    (table.next.max(number()?), ledger.next_handle.max(number()?));
            }
            kind::NODE => {
                let ino = Ino(number()?);
                let id = FileId { device: number()?, inode: number()?, birth: number()? };
                let lookups = number()?;
                let kind = *KINDS.get(usize::from(*content.first()?))?;
                table.restore_node(ino, id, kind, lookups);
            }
            kind::NAMED => {
                let (ino, parent) = (Ino(number()?), Ino(number()?));
                table.restore_name(ino, parent, &content.into());
                if table.lookups(ino) > 0 {
                    ledger.absent.appeared(parent, content);
                }
            }
            kind::UNNAMED => {
                let (ino, parent) = (Ino(number()?), Ino(number()?));
                let name: Name = content.into();
                table.restore_no_name(ino, parent, &name);
                ledger.absent.lost(parent, name);
            }
            kind::GONE => {
                let ino = Ino(number()?);
                table.remove(ino);
                ledger.absent.forget(ino);
            }
            kind::ABSENT => {
                let directory = Ino(number()?);
                let _remembered = ledger.absent.remember(directory, content);
            }
            kind::IDENTIFIED => {
                let ino = Ino(number()?);
                table.set_identity(ino, FileId { device: number()?, inode: number()?, birth: number()? });
            }
            kind::LOOKED_UP => {
                let (ino, count) = (Ino(number()?), number()?);
                if let Ok(node) = table.known_mut(ino) {
                    node.lookups = node.lookups.saturating_add(count);
                }
            }
            kind::FORGOTTEN => {
                let (ino, count) = (Ino(number()?), number()?);
                if let Ok(node) = table.known_mut(ino) {
                    node.lookups = node.lookups.saturating_sub(count);
                    if node.lookups == 0 {
                        ledger.absent.forget(ino);
                    }
                }
            }
            kind::OPENED => {
                let (handle, ino) = (HandleId(number()?), Ino(number()?));
                let [opens, stage] = *content.first_chunk()?;
                let opens = if opens == 0 { Opens::Directory } else { Opens::File(flags_of(opens)) };
                let stage = *[Stage::Assumed, Stage::Open, Stage::Released].get(usize::from(stage))?;
                ledger.handles.insert(handle, Held { ino, opens, stage });
                let next = handle.number().map_or(0, |number| number + 1);
                ledger.next_handle = ledger.next_handle.max(next);
            }
            kind::CONFIRMED | kind::RELEASED => {
                let stage = if kind == kind::CONFIRMED { Stage::Open } else { Stage::Released };
                let handle = HandleId(number()?);
                if let Some(held) = ledger.handles.get_mut(&handle) {
                    held.stage = stage;
                    let ino = held.ino;
                    if stage == Stage::Released {
                        ledger.end_locks(handle, ino);
                    }
                }
            }
            kind::CLOSED => {
                let handle = HandleId(number()?);
                if let Some(held) = ledger.handles.remove(&handle) {
                    ledger.end_locks(handle, held.ino);
                    ledger.failures.remove(&handle);
                }
            }
            kind::LOCKED => {
                let (ino, handle, owner) = (Ino(number()?), HandleId(number()?), number()?);
                let (start, end) = (number()?, number()?);
                let [family, kind] = *content.first_chunk()?;
                let family = *LOCK_FAMILIES.get(usize::from(family))?;
                let kind = *LOCK_KINDS.get(usize::from(kind))?;
                let lock = Lock { family, kind, start, end };
                ledger.locks.changed(ino, HeldLock { handle, owner, lock });
            }
            kind::FAILED => {
                let (handle, errno) = (HandleId(number()?), u16::try_from(number()?).ok()?);
                ledger.set_failure(handle, (errno != 0).then_some(Errno(errno)));
            }
            kind::SLOT => {
                let (request, sequence) = (number()?, number()?);
                let slot = Slot { sequence: Sequence(sequence), is_repeat: true };
                ledger.slots.insert(RequestId(request), slot);
            }
            kind::SETTLED => {
                ledger.slots.remove(&RequestId(number()?));
            }
            kind::KEPT => {
                let (what, bytes) = content.split_first()?;
                let what = [Kept::Kernel, Kept::Source].into_iter().find(|w| kept_number(*w) == *what)?;
                ledger.kept.insert(what, bytes.to_vec());
            }
            _ => return None,
        }
        Some(())
    }
}

impl Table {
    /// A table without even a root: a replay brings it.
    fn bare() -> Table {
        let mut table = Table::new(
            Entry { id: FileId::default(), attributes: unknown_attributes(Kind::Directory) },
            Limits::default(),
            Moment(0),
        );
        table.nodes.clear();
        table.by_id.clear();
        table
    }

    /// Makes a replayed table one over `root`, in which nothing is believed.
    pub(crate) fn settle_replay(&mut self, root: Entry, limits: Limits) {
        self.limits = limits;
        let lookups = self.nodes.get(&Ino::ROOT).map_or(1, |node| node.lookups.max(1));
        match self.nodes.get_mut(&Ino::ROOT) {
            Some(node) => {
                if self.by_id.get(&node.id) == Some(&Ino::ROOT) {
                    self.by_id.remove(&node.id);
                }
                node.id = root.id;
                node.attributes = root.attributes;
                node.lookups = lookups;
                self.by_id.insert(root.id, Ino::ROOT);
            }
            None => self.restore_node(Ino::ROOT, root.id, Kind::Directory, lookups),
        }
    }

    /// Nodes that the kernel has, without the root.
    pub(crate) fn known_nodes(&self) -> Vec<Ino> {
        let known = self
            .nodes
            .iter()
            .filter(|(ino, node)| **ino != Ino::ROOT && (node.lookups > 0 || node.opens > 0));
        known.map(|(ino, _)| *ino).collect()
    }

    /// Every name that the kernel may know, some of them twice.
    pub(crate) fn known_names(&self) -> Vec<(Ino, Name)> {
        let present =
            self.nodes.values().filter(|node| node.lookups > 0).flat_map(|node| node.names.iter().cloned());
        let absent = self.ledger.iter().flat_map(|ledger| ledger.absent.iter());
        let lost = self.ledger.iter().flat_map(|ledger| ledger.absent.lost_lately());
        present.chain(absent.map(|(parent, name)| (parent, name.clone()))).chain(lost.cloned()).collect()
    }

    /// Queues what nobody refers to, once handles have been registered again.
    pub(crate) fn sweep_replay(&mut self) {
        let inos: Vec<_> = self.nodes.keys().copied().collect();
        inos.into_iter().for_each(|ino| self.consider_idle(ino));
        self.let_go();
    }

    fn restore_node(&mut self, ino: Ino, id: FileId, kind: Kind, lookups: u64) {
        let entry = Entry { id, attributes: unknown_attributes(kind) };
        let mut node = Box::new(Node::new(entry, Seen::default()));
        (node.lookups, node.recorded) = (lookups, true);
        self.nodes.insert(ino, node);
        // Of two nodes of one identity the younger is what the source has.
        let owner = self.by_id.entry(id).or_insert(ino);
        *owner = (*owner).max(ino);
        self.next = self.next.max(ino.0 + 1);
    }

    fn restore_name(&mut self, ino: Ino, parent: Ino, name: &Name) {
        if !self.can_have_name(ino, parent, name) {
            return;
        }
        let Ok(directory) = self.directory_mut(parent) else { return };
        let is_free = !matches!(directory.names.get(name), Some(NameSlot { what: Meaning::Present(_), .. }));
        if is_free {
            directory.names.insert(
                name.clone(),
                NameSlot { what: Meaning::Present(ino), seen: Seen::default(), cookie: 0 },
            );
            directory.present += 1;
        }
        self.add_edge(ino, parent, name);
    }

    fn restore_no_name(&mut self, ino: Ino, parent: Ino, name: &Name) {
        if let Ok(directory) = self.directory_mut(parent)
            && directory.names.get(name).is_some_and(|slot| slot.what == Meaning::Present(ino))
        {
            directory.names.remove(name);
            directory.present -= 1;
        }
        if let Ok(node) = self.known_mut(ino) {
            node.names.retain(|(p, n)| !(*p == parent && n == name));
            node.lost = node.names.is_empty().then(|| Box::new((parent, name.clone())));
        }
    }
}

/// Of a file of which only the kind is known. More than one link: no directory's lease covers it.
fn unknown_attributes(kind: Kind) -> Attributes {
    Attributes { links: 2, xattrs: true, ..Attributes::new(kind) }
}

const KINDS: [Kind; 7] = [
    Kind::File,
    Kind::Directory,
    Kind::Symlink,
    Kind::Fifo,
    Kind::Socket,
    Kind::CharDevice,
    Kind::BlockDevice,
];

fn kind_number(kind: Kind) -> u8 {
    match kind {
        Kind::File => 0,
        Kind::Directory => 1,
        Kind::Symlink => 2,
        Kind::Fifo => 3,
        Kind::Socket => 4,
        Kind::CharDevice => 5,
        Kind::BlockDevice => 6,
    }
}

const LOCK_FAMILIES: [LockFamily; 2] = [LockFamily::Flock, LockFamily::Posix];
const LOCK_KINDS: [LockKind; 3] = [LockKind::Unlocked, LockKind::Shared, LockKind::Exclusive];

fn lock_family_number(family: LockFamily) -> u8 {
    match family {
        LockFamily::Flock => 0,
        LockFamily::Posix => 1,
    }
}

fn lock_kind_number(kind: LockKind) -> u8 {
    match kind {
        LockKind::Unlocked => 0,
        LockKind::Shared => 1,
        LockKind::Exclusive => 2,
    }
}

fn kept_number(what: Kept) -> u8 {
    match what {
        Kept::Kernel => 0,
        Kept::Source => 1,
    }
}

/// Bit 7 is set in all, so that no flags are not a directory.
pub(crate) fn flag_bits(flags: OpenFlags) -> u8 {
    let OpenFlags { read, write, append, truncate, sync, direct, exclusive } = flags;
    let bits = [read, write, append, truncate, sync, direct, exclusive, true];
    bits.iter().rev().fold(0, |bits, bit| bits << 1 | u8::from(*bit))
}

pub(crate) fn flags_of(bits: u8) -> OpenFlags {
    let has = |bit: u8| bits & 1 << bit != 0;
    OpenFlags {
        read: has(0),
        write: has(1),
        append: has(2),
        truncate: has(3),
        sync: has(4),
        direct: has(5),
        exclusive: has(6),
    }
}
