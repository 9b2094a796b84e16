//! What is kept of one node.

use std::collections::HashMap;

use crate::file::{Attributes, Entry, FileId, Kind, Name, Time};

use super::{ABSENT_NAMES_MAX, Ino, Moment, Notice};

/// When and under which lease something was seen. `lease` 0 is none.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seen {
    pub(super) at: Moment,
    pub(super) lease: u32,
    pub(super) valid_ms: u32,
}

#[derive(Debug)]
pub(super) struct Slot {
    pub(super) what: Meaning,
    pub(super) seen: Seen,
    /// Where a listing goes on behind the name, as the source told it; 0 where it is not known, or the source's order is
    /// not that of its cookies.
    pub(super) cookie: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    Present(Ino),
    Absent,
    /// The source must be asked, even where the listing is complete.
    Unknown,
}

#[derive(Debug, Default)]
pub(super) struct Directory {
    pub(super) names: HashMap<Name, Slot>,
    /// Number of the lease in force; 0 is none. No two leases have one number.
    pub(super) lease: u32,
    /// Every name is in `names`, under this lease number; 0 is "not so".
    pub(super) complete: u32,
    /// The highest epoch heard of.
    pub(super) epoch: u64,
    /// Raised at the begin and the end of every change made from here.
    pub(super) changes: u64,
    /// Changes made from here that the source has not answered.
    pub(super) changing: u32,
    /// Raised when a name is let go: what is listed meanwhile is not complete.
    pub(super) let_go: u64,
    /// The table's clock when something last happened, told or made from here, that the answer to an earlier question may
    /// not show.
    pub(super) changed_at: u64,
    /// All of it was known once.
    pub(super) was_listed: bool,
    /// How many of `names` are present: they hold this directory in the table.
    pub(super) present: usize,
    /// Names that the source was asked for one by one.
    pub(super) asked: u32,
    /// Who is sure to be allowed to make files here: user and group for whom one was made last, under the lease in force, or
    /// whose own it is.
    pub(super) makes_for: Option<(u32, u32)>,
    /// It was made from here, and nobody else is known to have changed a name in it since: what is not in `names` is not
    /// there, while `let_go` is this number.
    pub(super) own: Option<u64>,
    /// When `asked` reaches this, the directory is worth listing; see [`Table::is_worth_listing`](super::Table).
    pub(super) list_at: u32,
}

impl Directory {
    /// Whether it is ours alone, as far as is known.
    pub(super) fn is_own(&self) -> bool {
        self.own == Some(self.let_go)
    }

    /// Others may make files in it, and who may is not known.
    pub(super) fn let_others_in(&mut self) {
        (self.own, self.makes_for) = (None, None);
    }

    /// Makes room for one more name that is not there. What a kernel may believe of those that go is taken back.
    pub(super) fn purge_absent(&mut self, at: Ino, notices: &mut Vec<Notice>) {
        if self.names.len() - self.present < ABSENT_NAMES_MAX {
            return;
        }
        let leased = self.lease != 0;
        self.names.retain(|name, slot| {
            let present = matches!(slot.what, Meaning::Present(_));
            if !present && leased {
                notices.push(Notice::Name { parent: at, name: name.clone() });
            }
            present
        });
        self.let_go += 1;
        self.complete = 0;
    }
}

/// What tells whether pages are those of the content.
///
/// Of a content that is being written it does not tell all: a machine changes the times of a file first, and then its bytes.
/// So what was read may be older than what was said of it. The word of a change comes when it is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pages {
    size: u64,
    modified: Time,
}

impl Pages {
    pub(super) fn of(attributes: &Attributes) -> Pages {
        Pages { size: attributes.size, modified: attributes.modified }
    }
}

#[derive(Debug)]
pub(super) struct Node {
    pub(super) id: FileId,
    pub(super) attributes: Attributes,
    pub(super) seen: Seen,
    /// The table's clock when something last happened to the attributes.
    pub(super) stamp: u64,
    /// Names by which the node was seen, the last one first, which serves for its path.
    pub(super) names: Vec<(Ino, Name)>,
    /// The name it had last, while it has none.
    pub(super) lost: Option<Box<(Ino, Name)>>,
    /// A name that the source said it has in a reply that crossed a change, and that is not in `names`.
    pub(super) crossed: Option<Box<(Ino, Name)>>,
    pub(super) lookups: u64,
    pub(super) opens: u32,
    /// Changes of content or attributes under way from here.
    pub(super) writing: u32,
    /// Changes under way from here that take a name from it.
    pub(super) leaving: u32,
    /// Notices about it that are on their way to the kernel.
    pub(super) untold: u32,
    /// When the kernel was last told that the content is another.
    pub(super) retold: Option<Moment>,
    /// A foreign change of the content may have hidden among our own.
    pub(super) suspect: bool,
    /// The content was made from here.
    pub(super) own: bool,
    /// The content that the file had when the source told of it last.
    pub(super) told: Option<Pages>,
    /// When the source was asked and said that the content is another, of which it had not told.
    pub(super) found: Option<Moment>,
    /// In the eviction queue.
    pub(super) queued: bool,
    /// Used since it was last considered for eviction.
    pub(super) used: bool,
    /// The ledger has a record of it.
    pub(super) recorded: bool,
    /// The content the kernel's pages are of.
    pub(super) pages: Option<Pages>,
    pub(super) directory: Option<Box<Directory>>,
}

impl Node {
    pub(super) fn new(entry: Entry, seen: Seen) -> Node {
        let directory = (entry.attributes.kind == Kind::Directory).then(Box::default);
        Node {
            id: entry.id,
            attributes: entry.attributes,
            seen,
            stamp: 0,
            names: Vec::new(),
            lost: None,
            crossed: None,
            lookups: 0,
            opens: 0,
            writing: 0,
            leaving: 0,
            untold: 0,
            retold: None,
            suspect: false,
            own: false,
            told: None,
            found: None,
            queued: false,
            used: false,
            recorded: false,
            pages: None,
            directory,
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.lookups == 0
            && self.opens == 0
            && self.writing == 0
            && self.directory.as_ref().is_none_or(|d| d.present == 0)
    }

    pub(super) fn has_name(&self, parent: Ino, name: &Name) -> bool {
        self.names.iter().any(|(p, n)| *p == parent && n == name)
    }

    /// Whether what made the content is over, as far as is known: it was made from here, or the source has told of it.
    pub(super) fn is_heard_of(&self) -> bool {
        self.own || self.told == Some(Pages::of(&self.attributes))
    }

    /// Whether the pages the kernel may have are of the content that `attributes` describe.
    pub(super) fn has_pages_of(&self, attributes: &Attributes) -> bool {
        !self.suspect && self.pages == Some(Pages::of(attributes))
    }
}
