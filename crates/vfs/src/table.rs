//! What is known of the tree: nodes, names, and how long each may be believed.
//!
//! The table is a graph of nodes with edges (parent, name): a rename moves one edge, whatever lies below. It performs
//! no I/O, knows no clock ([`Moment`] comes in as an argument) and takes no lock.
//!
//! **What a kernel refers to stays.** A node with lookups, opens or known names below it is never evicted; the others
//! are idle, and go, oldest first, when there are more than [`Limits::idle_nodes`].
//!
//! **When something is believed.** A name, and the attributes of a file with one name, are believed while their directory
//! is watched under the same lease under which they were seen ([`Believe::Leased`]), otherwise for a short time after
//! they were seen. A directory's own attributes hang on its own lease.
//!
//! **Replies that cross changes.** Who asks the source takes a [`Ticket`] first. A reply is kept only if, since then, no
//! change of that directory was told, and none was made from here or was being made; otherwise it is used once. So when a
//! change from here is over, the names are still what they were when it was begun, and it moves what it was meant to move.
//! The attributes in a reply are kept only if nothing has happened to the node itself either: one clock counts what happens
//! to any of them.
//!
//! **When something goes.** What nobody refers to is only queued by the operations that hand nodes out; it goes with the
//! next [`Table::forget`], [`Table::closed`], [`Table::apply`] or listed entry, when nobody holds a number of it.

mod absent;
mod changes;
mod expected;
mod idle;
mod learn;
pub(crate) mod ledger;
pub(crate) mod locks;
mod node;
mod told;
mod untold;
mod walks;

use std::collections::{HashMap, VecDeque};

use crate::errno::{Errno, Result};
use crate::file::{Attributes, Entry, FileId, Kind, Name};
use crate::source::Place;
pub use changes::Write;
use ledger::Ledger;
pub use ledger::{BadRecord, Kept};
pub use locks::HeldLock;
use node::{Directory, Meaning, Node, Seen, Slot};
use walks::Walks;

/// A node's number here: what the kernel calls it. Never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ino(pub u64);

impl Ino {
    /// The root of the mount.
    pub const ROOT: Ino = Ino(1);
}

/// Milliseconds since some fixed point.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(pub u64);

/// How long something is believed that was seen without a lease. Short, because nobody will tell.
pub const UNLEASED_MS: u32 = 1000;

/// The deepest path. Deeper than any tree that tools survive, and a bound on loops in what a hostile source says.
const DEPTH_MAX: usize = 16 << 10;

/// How many names of one file are followed. Archives of hard links have thousands, each of which costs a search among
/// the others; those beyond are asked for each time.
const NAMES_OF_NODE_MAX: usize = 128;

/// At how many names a node is looked for that is not where it was seen last, which may be one of them. Between a change on
/// the machine and the word of it a file has one name too many, or two.
const PLACES_TRIED_MAX: usize = 4;

/// The longest that something is believed because the source said so and not because it will tell.
const VALID_MS_MAX: u32 = 60_000;

/// How many names that are not there a directory may be remembered for: searches along a path of directories make a
/// few hundred; a scan for random names makes any number.
const ABSENT_NAMES_MAX: usize = 8192;

/// How much the table may hold beyond what the kernel refers to.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Nodes nobody refers to. One takes about 400 bytes with its name.
    pub idle_nodes: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { idle_nodes: 50_000 }
    }
}

/// How long what was answered may be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Believe {
    /// For this answer only.
    Once,
    /// For so many milliseconds.
    For(u32),
    /// Until a [`Notice`] takes it back.
    Leased,
}

/// Takes back what a kernel may have cached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// What this name means, present or absent. It may mean the same still.
    Name {
        /// In this directory.
        parent: Ino,
        /// This name.
        name: Name,
    },
    /// What this name meant, a file of whatever kind but no directory, or nothing: it means something else by now.
    Replaced {
        /// In this directory.
        parent: Ino,
        /// This name.
        name: Name,
    },
    /// The attributes of this node.
    Attributes(Ino),
    /// The attributes and the content of this node, which is no directory.
    Content(Ino),
    /// The attributes and the listing of this directory, also what was answered to one who is listing it.
    Listing(Ino),
}

impl Notice {
    /// Of which node it takes attributes back.
    pub(crate) fn node(&self) -> Option<Ino> {
        match self {
            Notice::Attributes(ino) | Notice::Content(ino) | Notice::Listing(ino) => Some(*ino),
            Notice::Name { .. } | Notice::Replaced { .. } => None,
        }
    }
}

/// The number of no change: a ticket of it never holds.
const NO_CHANGE: u64 = u64::MAX;

/// State of a directory when something was asked of the source. See the module's documentation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    epoch: u64,
    changes: u64,
    /// The lease in force: a reply that brings none may have been read before a later one was given.
    lease: u32,
    clock: u64,
    let_go: u64,
}

/// State of a node's attributes when something was asked of the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    clock: u64,
    /// The lease that covered the node.
    lease: u32,
}

/// What a name is known to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// Nothing has this name.
    Absent(Believe),
    /// This node has it.
    Present(Ino, Believe),
}

/// Counts for status and tests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// Nodes in the table.
    pub nodes: usize,
    /// Nodes that nobody refers to.
    pub idle: usize,
    /// Directories being watched for us.
    pub leases: usize,
    /// Files whose contents are kept.
    pub contents: usize,
    /// What these take.
    pub content_bytes: usize,
}

/// Whether the kernel knows of a change by itself, because it asked for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    Here,
    Elsewhere,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Table {
    nodes: HashMap<Ino, Box<Node>>,
    by_id: HashMap<FileId, Ino>,
    next: u64,
    /// Counts what happens to any node's attributes.
    clock: u64,
    /// Number of the last lease taken, of whatever directory.
    leases_had: u32,
    idle: VecDeque<Ino>,
    /// Nodes that lost their last name: nothing leads to them any more.
    nameless: Vec<Ino>,
    limits: Limits,
    /// The clock when every lease was last lost. What was asked before may have come with a lease that is none.
    leases_lost_at: u64,
    /// Something has come without being watched.
    has_unwatched: bool,
    walks: Walks,
    /// Where changes of what the kernel refers to are recorded, if anywhere.
    ledger: Option<Box<Ledger>>,
}

impl Table {
    /// A table that knows the root, which is never forgotten.
    pub fn new(root: Entry, limits: Limits, now: Moment) -> Table {
        let mut table = Table {
            nodes: HashMap::new(),
            by_id: HashMap::new(),
            next: Ino::ROOT.0,
            clock: 0,
            leases_had: 0,
            idle: VecDeque::new(),
            nameless: Vec::new(),
            limits,
            leases_lost_at: 0,
            has_unwatched: false,
            walks: Walks::default(),
            ledger: None,
        };
        let ino = table.insert(root, Seen { at: now, lease: 0, valid_ms: UNLEASED_MS });
        table.node_mut(ino).lookups = 1;
        table
    }

    /// Counts of what is held. Looks at every node: for status, not for every operation.
    pub fn census(&self) -> Census {
        let leases =
            self.nodes.values().filter(|n| n.directory.as_ref().is_some_and(|d| d.lease != 0)).count();
        let idle = self.nodes.values().filter(|n| n.is_idle()).count();
        Census { nodes: self.nodes.len(), idle, leases, ..Census::default() }
    }

    /// Whether the source could not watch some directory, whose changes are then seen only when it is asked again.
    pub fn has_unwatched(&self) -> bool {
        self.has_unwatched
    }

    fn insert(&mut self, entry: Entry, seen: Seen) -> Ino {
        let ino = Ino(self.next);
        self.next += 1;
        let mut node = Box::new(Node::new(entry, seen));
        if let Some(directory) = &mut node.directory {
            directory.changed_at = self.walks.told_of(entry.id);
        }
        self.nodes.insert(ino, node);
        self.by_id.insert(entry.id, ino);
        ino
    }

    fn node(&self, ino: Ino) -> Result<&Node> {
        self.nodes.get(&ino).map(|node| &**node).ok_or(Errno::ESTALE)
    }

    fn known_mut(&mut self, ino: Ino) -> Result<&mut Node> {
        self.nodes.get_mut(&ino).map(|node| &mut **node).ok_or(Errno::ESTALE)
    }

    /// For nodes that this table has just found or made.
    fn node_mut(&mut self, ino: Ino) -> &mut Node {
        self.nodes.get_mut(&ino).expect("edges and identities name nodes that are in the table")
    }

    fn directory(&self, ino: Ino) -> Result<&Directory> {
        self.node(ino)?.directory.as_deref().ok_or(Errno::ENOTDIR)
    }

    fn directory_mut(&mut self, ino: Ino) -> Result<&mut Directory> {
        self.known_mut(ino)?.directory.as_deref_mut().ok_or(Errno::ENOTDIR)
    }

    /// Something has happened to the node's attributes: replies to what was asked before say nothing about them.
    fn touch(&mut self, ino: Ino) {
        self.clock += 1;
        let clock = self.clock;
        if let Ok(node) = self.known_mut(ino) {
            node.stamp = clock;
        }
    }

    /// A number that grows with every change of a node or a name, from here or as the source tells.
    pub fn clock(&self) -> u64 {
        self.clock
    }

    /// The node with this identity.
    pub fn find(&self, id: FileId) -> Option<Ino> {
        self.by_id.get(&id).copied()
    }

    /// The identity of a node.
    pub fn id(&self, ino: Ino) -> Result<FileId> {
        Ok(self.node(ino)?.id)
    }

    /// What a node is.
    pub fn kind(&self, ino: Ino) -> Result<Kind> {
        Ok(self.node(ino)?.attributes.kind)
    }

    /// The parent of a directory: itself for the root.
    pub fn parent(&self, ino: Ino) -> Result<Ino> {
        Ok(self.node(ino)?.names.first().map_or(Ino::ROOT, |(parent, _)| *parent))
    }

    /// The name by which a node was seen last, with its directory.
    pub fn name_of(&self, ino: Ino) -> Option<(Ino, Name)> {
        self.node(ino).ok()?.names.first().cloned()
    }

    /// What a name was when it was last seen, believed or not.
    pub fn lookup_any(&self, parent: Ino, name: &[u8]) -> Option<Ino> {
        match self.directory(parent).ok()?.names.get(name)?.what {
            Meaning::Present(ino) => Some(ino),
            Meaning::Absent | Meaning::Unknown => None,
        }
    }

    /// Where a node is. `ESTALE` when it has no name any more. A directory on the way whose name is in doubt is looked for
    /// where it was last: the source knows by the identity whether that is right.
    pub fn place(&self, ino: Ino) -> Result<Place> {
        self.place_by(ino, self.node(ino)?.names.first())
    }

    /// As [`Table::place`], or where the node was last. The source may still know what was meant there: a file that is
    /// replaced while it is being opened is opened nevertheless.
    pub fn last_place(&self, ino: Ino) -> Result<Place> {
        let node = self.node(ino)?;
        self.place_by(ino, node.names.first().or(node.lost.as_deref()))
    }

    /// Where a node may be when the source does not find it where it was looked for, the likeliest first: by a name that was
    /// answered while its directory changed, and by those that it is known by.
    pub fn places(&self, ino: Ino) -> Vec<Place> {
        let Ok(node) = self.node(ino) else { return Vec::new() };
        let names = node.crossed.as_deref().into_iter().chain(&node.names);
        names.take(PLACES_TRIED_MAX).filter_map(|name| self.place_by(ino, Some(name)).ok()).collect()
    }

    fn place_by<'a>(&'a self, ino: Ino, mut name: Option<&'a (Ino, Name)>) -> Result<Place> {
        let mut names: Vec<&[u8]> = Vec::new();
        let mut at = ino;
        while at != Ino::ROOT {
            let (parent, name_there) = name.ok_or(Errno::ESTALE)?;
            names.push(name_there);
            if names.len() > DEPTH_MAX {
                return Err(Errno::ELOOP);
            }
            at = *parent;
            let node = self.node(at)?;
            name = node.names.first().or(node.lost.as_deref());
        }
        names.reverse();
        Ok(Place { id: self.node(ino)?.id, path: names.join(&b'/').into() })
    }

    /// To be taken before the source is asked about names of `directory`.
    pub fn ticket(&self, directory: Ino) -> Result<Ticket> {
        let directory = self.directory(directory)?;
        let ticket = self.ticket_of_change(directory);
        Ok(if directory.changing > 0 { Ticket { changes: NO_CHANGE, ..ticket } } else { ticket })
    }

    /// A ticket that holds while the change for which it is taken is alone.
    fn ticket_of_change(&self, directory: &Directory) -> Ticket {
        let Directory { epoch, changes, lease, let_go, .. } = *directory;
        Ticket { epoch, changes, lease, clock: self.clock, let_go }
    }

    /// A change that is about to be sent takes a name from the node. Give it to [`Table::end_leaving`] when that is over.
    pub fn begin_leaving(&mut self, ino: Ino) {
        if let Ok(node) = self.known_mut(ino) {
            node.leaving += 1;
        }
    }

    /// The name is taken, or was not.
    pub fn end_leaving(&mut self, ino: Ino) {
        if let Ok(node) = self.known_mut(ino) {
            node.leaving = node.leaving.saturating_sub(1);
        }
    }

    /// Whether a change from here is on its way that takes a name from the node.
    pub fn is_leaving(&self, ino: Ino) -> bool {
        self.node(ino).is_ok_and(|node| node.leaving > 0)
    }

    /// To be taken before the source is asked for a node's attributes.
    pub fn stamp(&self, ino: Ino) -> Result<Stamp> {
        let node = self.node(ino)?;
        Ok(Stamp { clock: self.clock, lease: self.covering_lease(node) })
    }

    fn believe(seen: Seen, lease_in_force: u32, now: Moment) -> Believe {
        if seen.lease != 0 && seen.lease == lease_in_force {
            return Believe::Leased;
        }
        let age = now.0.saturating_sub(seen.at.0);
        match u64::from(seen.valid_ms).checked_sub(age) {
            None | Some(0) => Believe::Once,
            Some(left) => Believe::For(u32::try_from(left).unwrap_or(u32::MAX)),
        }
    }

    /// The lease number that covers the attributes of `node`; 0 for none.
    fn covering_lease(&self, node: &Node) -> u32 {
        if let Some(directory) = &node.directory {
            return directory.lease;
        }
        let [(parent, name)] = node.names.as_slice() else { return 0 };
        let Ok(directory) = self.directory(*parent) else { return 0 };
        // What is told of a name is told of what it is known to be. A node may have been reached by a name that is known to
        // be another's, until the word of that comes.
        let is_told_of = directory.names.get(name).is_some_and(
            |slot| matches!(slot.what, Meaning::Present(ino) if self.by_id.get(&node.id) == Some(&ino)),
        );
        if is_told_of && node.attributes.links <= 1 { directory.lease } else { 0 }
    }

    /// What is believed of a name, without asking.
    pub fn lookup(&mut self, parent: Ino, name: &[u8], now: Moment) -> Result<Option<Known>> {
        let directory = self.directory(parent)?;
        let (lease, is_own) = (directory.lease, directory.is_own());
        let Some(slot) = directory.names.get(name) else {
            if directory.complete != 0 && directory.complete == lease {
                return Ok(Some(self.absent_from_listing(parent, name, now)));
            }
            return Ok(is_own.then_some(Known::Absent(Believe::Once)));
        };
        let believe = Table::believe(slot.seen, lease, now);
        let known = match slot.what {
            Meaning::Absent if is_own => Some(Known::Absent(believe)),
            _ if believe == Believe::Once => None,
            Meaning::Unknown => None,
            Meaning::Absent => Some(Known::Absent(believe)),
            Meaning::Present(ino) => Some(Known::Present(ino, believe)),
        };
        if let Some(Known::Present(ino, _)) = known {
            self.node_mut(ino).used = true;
        }
        Ok(known)
    }

    /// Absent because every name is known and this one is not among them. What is answered for longer than a moment is
    /// remembered, so that it can be taken back.
    fn absent_from_listing(&mut self, parent: Ino, name: &[u8], now: Moment) -> Known {
        let Ok(directory) = self.directory_mut(parent) else { return Known::Absent(Believe::Once) };
        if directory.names.len() - directory.present >= ABSENT_NAMES_MAX {
            return Known::Absent(Believe::For(UNLEASED_MS));
        }
        let seen = Seen { at: now, lease: directory.lease, valid_ms: 0 };
        directory.names.insert(name.into(), Slot { what: Meaning::Absent, seen, cookie: 0 });
        Known::Absent(Believe::Leased)
    }

    /// What is believed of a node's attributes, without asking.
    pub fn attributes(&self, ino: Ino, now: Moment) -> Result<Option<(Attributes, Believe)>> {
        let node = self.node(ino)?;
        let believe = Table::believe(node.seen, self.covering_lease(node), now);
        Ok((believe != Believe::Once).then_some((node.attributes, believe)))
    }

    /// The attributes, if nothing is known that may have changed the content since they were seen; with `leased`, only if
    /// the source would have told.
    pub fn settled_attributes(&self, ino: Ino, now: Moment, leased: bool) -> Option<Attributes> {
        let (attributes, believe) = self.attributes(ino, now).ok()??;
        let node = self.node(ino).ok()?;
        let is_settled = node.writing == 0 && !node.suspect && (!leased || believe == Believe::Leased);
        is_settled.then_some(attributes)
    }

    /// The directories above a node, the nearest first, at most `max` of them.
    pub fn directories_above(&self, ino: Ino, max: usize) -> Vec<Ino> {
        let mut above = Vec::new();
        let mut at = ino;
        while at != Ino::ROOT && above.len() < max {
            let Some((parent, _)) = self.name_of(at) else { break };
            above.push(parent);
            at = parent;
        }
        above
    }

    /// The last attributes seen, believed or not.
    pub fn last_attributes(&self, ino: Ino) -> Result<Attributes> {
        Ok(self.node(ino)?.attributes)
    }

    /// Whether changes of the node made from here are under way: what the source says of it is neither before nor after.
    pub fn is_being_written(&self, ino: Ino) -> bool {
        self.node(ino).is_ok_and(|node| node.writing > 0)
    }

    /// Whether every name of the directory is known, until told otherwise.
    pub fn is_listed(&self, directory: Ino) -> bool {
        self.directory(directory).is_ok_and(|d| d.complete != 0 && d.complete == d.lease)
    }

    /// Whether nothing has happened in the directory since the ticket was taken.
    pub fn holds(&self, directory: Ino, ticket: Ticket) -> bool {
        ticket.clock >= self.leases_lost_at
            && self.directory(directory).is_ok_and(|d| d.epoch == ticket.epoch && d.changes == ticket.changes)
    }

    /// Gives the name its meaning. `false` when it cannot be followed, and is to be asked for each time.
    fn set_slot(
        &mut self,
        parent: Ino,
        name: &Name,
        mut what: Meaning,
        seen: Seen,
        cause: Cause,
        notices: &mut Vec<Notice>,
    ) -> Result<bool> {
        if let Meaning::Present(ino) = what
            && !self.can_have_name(ino, parent, name)
        {
            what = Meaning::Unknown;
        }
        let directory = self.directory_mut(parent)?;
        directory.purge_absent(parent, notices);
        let lease = directory.lease;
        let was_complete = directory.complete != 0 && directory.complete == lease;
        let mut slot = Slot { what, seen, cookie: 0 };
        let old = match directory.names.get_mut(name) {
            Some(old) => {
                if old.what == what {
                    slot.cookie = old.cookie;
                }
                Some(std::mem::replace(old, slot))
            }
            None => directory.names.insert(name.clone(), slot),
        };
        let was = matches!(old, Some(Slot { what: Meaning::Present(_), .. }));
        let is = matches!(what, Meaning::Present(_));
        directory.present = directory.present + usize::from(is) - usize::from(was);
        if was && !is {
            self.consider_idle(parent);
        }
        let was_believed = lease != 0 && (old.is_some() || was_complete);
        let meant = old.map_or(Meaning::Absent, |slot| slot.what);
        if meant == what {
            if let Meaning::Present(ino) = what {
                self.seen_by_name(ino, parent, name);
            }
            return Ok(what != Meaning::Unknown);
        }
        if was_believed && cause == Cause::Elsewhere {
            notices.push(self.name_notice(parent, name, Some(meant)));
            notices.push(Notice::Listing(parent));
        }
        if let Meaning::Present(old) = meant {
            self.drop_edge(old, parent, name, cause, notices);
        }
        if let Meaning::Present(ino) = what {
            self.add_edge(ino, parent, name);
        }
        Ok(what != Meaning::Unknown)
    }

    /// Takes back what a kernel may believe of a name that the table knew as `known`.
    fn name_notice(&self, parent: Ino, name: &Name, known: Option<Meaning>) -> Notice {
        let is_replaced = match known {
            Some(Meaning::Present(ino)) => self.node(ino).is_ok_and(|node| node.directory.is_none()),
            Some(Meaning::Absent) => true,
            Some(Meaning::Unknown) | None => false,
        };
        let name = name.clone();
        if is_replaced { Notice::Replaced { parent, name } } else { Notice::Name { parent, name } }
    }

    /// Whether the table can follow this name of the node: a directory below itself would be a loop.
    fn can_have_name(&self, ino: Ino, parent: Ino, name: &Name) -> bool {
        let Ok(node) = self.node(ino) else { return false };
        if node.has_name(parent, name) {
            return true;
        }
        if node.directory.is_none() {
            return node.names.len() < NAMES_OF_NODE_MAX;
        }
        !self.is_at_or_below(parent, ino)
    }

    fn is_at_or_below(&self, mut at: Ino, top: Ino) -> bool {
        for _ in 0..DEPTH_MAX {
            if at == top {
                return true;
            }
            match self.node(at).ok().and_then(|node| node.names.first()) {
                Some((parent, _)) if at != Ino::ROOT => at = *parent,
                _ => return false,
            }
        }
        true
    }

    fn add_edge(&mut self, ino: Ino, parent: Ino, name: &Name) {
        if self.seen_by_name(ino, parent, name) {
            return;
        }
        let node = self.node_mut(ino);
        // A directory has one name: the newest is the true one.
        let stale = if node.directory.is_some() { std::mem::take(&mut node.names) } else { Vec::new() };
        if node.names.is_empty() {
            node.names.reserve_exact(1);
        }
        node.names.insert(0, (parent, name.clone()));
        node.lost = None;
        node.crossed = None;
        self.record_name(ino, parent, name);
        for (parent, name) in stale {
            self.record_no_name(ino, parent, &name);
            self.doubt_name(parent, &name);
        }
    }

    /// The node was seen by this name. If that is one of those it is known by, it is the first from now on: of another one
    /// the source may be about to tell that it is gone.
    fn seen_by_name(&mut self, ino: Ino, parent: Ino, name: &Name) -> bool {
        let node = self.node_mut(ino);
        let found = node.names.iter().position(|(p, n)| *p == parent && n == name);
        if let Some(at @ 1..) = found {
            node.names[..=at].rotate_right(1);
        }
        found.is_some()
    }

    /// The source must be asked what the name means. A kernel that believes the old meaning is told when the source
    /// tells: the directory that left it is told of.
    fn doubt_name(&mut self, parent: Ino, name: &Name) {
        let Ok(directory) = self.directory_mut(parent) else { return };
        let Some(slot) = directory.names.get_mut(name) else { return };
        if matches!(slot.what, Meaning::Present(_)) {
            directory.present -= 1;
        }
        slot.what = Meaning::Unknown;
        self.consider_idle(parent);
    }

    fn drop_edge(&mut self, ino: Ino, parent: Ino, name: &Name, cause: Cause, notices: &mut Vec<Notice>) {
        self.touch(ino);
        if let Some(node) = self.nodes.get_mut(&ino) {
            node.names.retain(|(p, n)| !(*p == parent && n == name));
            node.lost = node.names.is_empty().then(|| Box::new((parent, name.clone())));
            node.seen = Seen::default();
            let is_of_others = cause == Cause::Elsewhere && node.lookups > 0 && node.directory.is_none();
            if is_of_others {
                self.left_unseen(ino, notices);
            }
            self.record_no_name(ino, parent, name);
        }
        self.consider_idle(ino);
    }

    /// Nothing is believed of the node's attributes until the source is asked again.
    pub fn doubt_attributes(&mut self, ino: Ino) {
        self.touch(ino);
        if let Ok(node) = self.known_mut(ino) {
            node.seen = Seen::default();
        }
    }

    /// The source does not know the node where the table has it: every name on the way to it is asked for again. What a
    /// kernel believes of them is taken back by what the source tells.
    pub fn doubt_path(&mut self, ino: Ino) {
        let mut at = ino;
        for _ in 0..DEPTH_MAX {
            self.doubt_attributes(at);
            let Ok(node) = self.node(at) else { return };
            let names = node.names.clone();
            for (parent, name) in &names {
                if let Ok(directory) = self.directory_mut(*parent)
                    && let Some(slot) = directory.names.get_mut(name)
                {
                    slot.seen = Seen::default();
                }
            }
            match names.first() {
                Some((parent, _)) if at != Ino::ROOT => at = *parent,
                _ => return,
            }
        }
    }
}
