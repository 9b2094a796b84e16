//! The machine's tree for a system that keeps a copy of it by itself, and says what was done to that copy.
//!
//! macOS' File Provider is such a system: it has the files, the bytes and the list of what is to be sent; it asks for items, pages of a
//! directory and changes since an anchor, and hands over one creation, modification or removal after the other, each with the version
//! that it was made from. So of a [`Replica`] only a half is used: identities, versions, names, anchors. There is no plan for two
//! sides: what is *here* in the database is what the system may be told, and always follows what is *there*.
//!
//! # States
//!
//! ```text
//!   there   here                         is
//!    x       -    listed just now         shown in the same transaction, if it can have a name here
//!    x       x    shown                   told of in pages, and in changes when it is another
//!    -       x    not listed any more     gone in the same transaction
//! ```
//!
//! A directory is *listed* once somebody has asked for what is in it. What is in others is not known, and changes in them are none of
//! the system's business.
//!
//! # Rules
//!
//! They are those of a [`Replica`](super), said of one change that was made from a base:
//!
//! | the system's change | the machine has meanwhile | comes to |
//! |---|---|---|
//! | content | the base | replaced, if it still is the base |
//! | content | the same bytes | done |
//! | content | others | a [conflict name](super::names::NameRules::conflict_name) beside it; the machine's are fetched anew |
//! | content | nothing | made again, under the same number |
//! | place, permissions | the base's | done |
//! | place, permissions | others | the machine's stand |
//! | new, or a place | the name, of another file | a conflict name; two new directories are one, and so are two files with the same bytes |
//! | place of what has an [alias](super::names::NameRules::alias) | its own name, of another file | the alias, on the machine too |
//! | removal | the base | removed |
//! | removal | other content, or files that the system was not told of | kept, and told of |
//! | removal of a directory that nobody has opened | whatever is in it | removed |
//!
//! # Invariants
//!
//! 1. Bytes of the machine's are removed or replaced only if they are those of the version that the system has seen, or in a
//!    directory that is removed without anybody having opened it.
//! 2. Nothing is written down of a change that was not answered. Whoever was cut off hands over the same change again, which finds
//!    what had been done, and does not do it twice.
//! 3. Versions say what they are of, not how often it changed: they hold after the database was lost. Numbers of items do not:
//!    whoever keeps them keeps the [epoch](Catalogue::epoch) with them.
//! 4. Every change tries at most [`ATTEMPTS_MAX`] times to find the machine as it was listed.

mod apply;
mod remove;
mod show;
#[cfg(test)]
mod system;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::path::Path;

pub use apply::{Applied, Base, Content, Modification, New};
pub use remove::{Removal, Removed};

use super::item::{Identity, Item, ItemId, Kind, SideName};
use super::names::NameRules;
use super::side::{Answer, At, Refusal, There};
use super::{Anchor, Changes, Expired, Listing, Replica, Result};

/// How often a change is tried again because somebody on the machine was faster. Who changes a directory at each of these times
/// does so again; the system comes back later.
pub const ATTEMPTS_MAX: usize = 6;

/// The most items on one page.
pub const PAGE_ITEMS_MAX: usize = 500;

/// The deepest directory. Beyond it a path would be longer than any machine takes.
const DEPTH_MAX: usize = 2048;

/// The names from the root down to a directory, each as the machine has it.
pub type Names = Vec<Box<[u8]>>;

/// The machine. What is asked for by path has to be told where directories are; what goes by identity need not listen.
pub trait Machine: There {
    /// Says where a directory is by what was seen last, as the names from the root down to it. Said of each directory before it is
    /// named in a call.
    fn place(&mut self, directory: &Identity, path: &[Box<[u8]>]);
}

/// A part of a listing, in an order that does not change while somebody goes through it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// At most [`PAGE_ITEMS_MAX`].
    pub items: Vec<Item>,
    /// After which item the next page begins, if there is one.
    pub next: Option<ItemId>,
}

/// What is told to the system. One at a time, as a [`Replica`].
pub struct Catalogue {
    replica: Replica,
}

impl Catalogue {
    /// Opens a catalogue, or begins one. `host` is this computer's name, for people.
    pub fn open(path: &Path, rules: NameRules, host: &str) -> Result<Catalogue> {
        Catalogue::over(Replica::open(path, rules, host)?)
    }

    fn over(mut replica: Replica) -> Result<Catalogue> {
        replica.database.write(|rows| {
            Ok(rows
                .transaction
                .execute_batch("CREATE TABLE IF NOT EXISTS listed (id INTEGER PRIMARY KEY) STRICT")?)
        })?;
        Ok(Catalogue { replica })
    }

    /// Says what the root is. Whether it is another directory than before, in which case nothing is done: another tree needs another
    /// catalogue.
    pub fn set_root(&mut self, identity: &Identity) -> Result<bool> {
        let is_other = self.replica.set_root(SideName::There, identity.clone())?;
        Ok(self.replica.set_root(SideName::Here, Identity::from(*b"root"))? || is_other)
    }

    /// A number that no other database has.
    pub fn epoch(&mut self) -> Result<i64> {
        self.replica.database.write(|rows| rows.counter("epoch"))
    }

    /// What the system may be told of an item. None of what is gone, or cannot have a name here.
    pub fn item(&mut self, id: ItemId) -> Result<Option<Item>> {
        Ok(self.replica.item(id)?.filter(|item| item.here.is_some() && item.there.is_some()))
    }

    /// What is in a directory by what is known of it, after the item with which the last page ended.
    pub fn page(&mut self, directory: ItemId, after: ItemId) -> Result<Page> {
        self.replica.database.write(|rows| rows.page(Some(directory), after))
    }

    /// All that the system may have been told of: its working set.
    pub fn working_set(&mut self, after: ItemId) -> Result<Page> {
        self.replica.database.write(|rows| rows.page(None, after))
    }

    /// Now. Whoever asks for this before going through the working set misses nothing.
    pub fn anchor(&mut self) -> Result<Anchor> {
        self.replica.anchor()
    }

    /// What has changed since a moment. Who asks has all that had changed until then.
    pub fn changes(&mut self, since: Anchor) -> Result<std::result::Result<Changes, Expired>> {
        let changes = self.replica.changes(since)?;
        if changes.is_ok() {
            self.replica.database.write(|rows| rows.set_told(since.change))?;
        }
        Ok(changes)
    }

    /// Whether what is in a directory is known.
    pub fn is_listed(&mut self, directory: ItemId) -> Result<bool> {
        self.replica.database.write(|rows| rows.is_listed(directory))
    }

    /// Every directory of which is known what is in it, those above before those below.
    pub fn listed(&mut self) -> Result<Vec<ItemId>> {
        self.replica.database.write(|rows| rows.listed())
    }

    /// The directory that is at a path of the machine's, if it is known and listed.
    pub fn listed_at(&mut self, path: &[&[u8]]) -> Result<Option<ItemId>> {
        self.replica.database.write(|rows| {
            let mut at = ItemId::ROOT;
            for name in path {
                match rows.named(SideName::There, at, name)? {
                    Some(item) if item.kind == Kind::Directory => at = item.id,
                    _ => return Ok(None),
                }
            }
            Ok(rows.is_listed(at)?.then_some(at))
        })
    }

    /// What has a name here, or one that this computer cannot tell from it, by what is known.
    pub fn named(&mut self, parent: ItemId, name: &[u8]) -> Result<Option<Item>> {
        Ok(self.holder(parent, name)?.filter(|item| item.here.is_some() && item.there.is_some()))
    }

    /// Looks at some directories together, so that what was moved from one to another is not gone. One that is not there any more is
    /// looked for where it was, and gone if it is not there. Whether anything the system may be told has changed.
    pub fn refresh(&mut self, machine: &mut impl Machine, directories: &[ItemId]) -> Result<Answer<bool>> {
        let before = self.replica.anchor()?;
        let mut listings = Vec::new();
        let mut waiting = directories.to_vec();
        let mut looked = HashSet::new();
        while let Some(directory) = waiting.pop() {
            let Some(identity) = self.locate(machine, directory)? else { continue };
            if !looked.insert(directory) {
                continue;
            }
            match machine.list(&identity) {
                Ok(entries) => listings.push((directory, Listing { directory: identity, entries })),
                Err(Refusal::Changed) if directory != ItemId::ROOT => {
                    let item = self.replica.item(directory)?;
                    waiting.extend(item.and_then(|item| item.there).map(|there| there.parent));
                }
                Err(refusal) => return Ok(Err(refusal)),
            }
        }
        let (known, listings): (Vec<_>, Vec<_>) = listings.into_iter().unzip();
        self.replica.observe(SideName::There, listings)?;
        self.replica.database.write(|rows| {
            known.into_iter().try_for_each(|directory| rows.set_listed(directory))?;
            rows.show_all()
        })?;
        Ok(Ok(self.replica.anchor()? != before))
    }

    /// Bytes of a version of a file, fewer only at its end.
    pub fn read(
        &mut self,
        machine: &mut impl Machine,
        id: ItemId,
        content: &[u8],
        offset: u64,
        length: u32,
    ) -> Result<Answer<Vec<u8>>> {
        let Some(item) = self.item(id)? else { return Ok(Err(Refusal::Changed)) };
        let Some(at) = self.at(machine, &item)? else { return Ok(Err(Refusal::Changed)) };
        Ok(machine.read(&at, &content.into(), offset, length))
    }

    /// Where a file is on the machine, with the names from the root down to its directory: for who fetches it while others go on here.
    pub fn whereabouts(&mut self, id: ItemId) -> Result<Option<(At, Names)>> {
        let Some(there) = self.item(id)?.and_then(|item| item.there) else { return Ok(None) };
        let found = self.path_of(there.parent)?;
        Ok(found.map(|(parent, path)| (At { identity: there.identity, parent, name: there.name }, path)))
    }

    /// What the machine knows a directory by, which is told where that is.
    fn locate(&mut self, machine: &mut impl Machine, directory: ItemId) -> Result<Option<Identity>> {
        Ok(self.path_of(directory)?.map(|(identity, path)| {
            machine.place(&identity, &path);
            identity
        }))
    }

    fn path_of(&mut self, directory: ItemId) -> Result<Option<(Identity, Names)>> {
        self.replica.database.write(|rows| {
            let mut path = Vec::new();
            let mut at = directory;
            while at != ItemId::ROOT {
                match rows.get(at)?.and_then(|item| item.there) {
                    Some(there) if path.len() < DEPTH_MAX => (at, _) = (there.parent, path.push(there.name)),
                    _ => return Ok(None),
                }
            }
            path.reverse();
            let there = rows.get(directory)?.filter(|item| item.kind == Kind::Directory);
            Ok(there.and_then(|item| item.there).map(|there| (there.identity, path)))
        })
    }

    /// Where an item is expected to be on the machine.
    fn at(&mut self, machine: &mut impl Machine, item: &Item) -> Result<Option<At>> {
        let Some(there) = &item.there else { return Ok(None) };
        let parent = self.locate(machine, there.parent)?;
        Ok(parent.map(|parent| At { identity: there.identity.clone(), parent, name: there.name.clone() }))
    }
}
