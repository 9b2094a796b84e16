//! The same tree on two sides: on a machine, and on this computer in a place that the system itself keeps, where files are
//! fetched when they are read and what is done to them is sent.
//!
//! This is what Windows' Cloud Files and macOS' File Provider have in common. A backend says what a side shows
//! ([`Side`](side::Side)) and carries out what is asked of it; which of two names, contents or removals stands is decided here.
//!
//! # States
//!
//! Of each [`Item`](item::Item) three things are known: as it was seen *here*, as it was seen *there*, and what both *agreed* on last.
//!
//! ```text
//!   here  there  agreed                    is
//!    x      -      -     new here           made there
//!    -      x      -     new there          made here, without its bytes
//!    x      x      -     found on both      the same if the bytes are; else a conflict
//!    x      x      x     known              each of place, permissions and content goes where it has not changed
//!    x      -      x     removed there      removed here, or made there again if it was written to here
//!    -      x      x     removed here       removed there, or made here again if it was written to there
//!    -      -      *     gone               forgotten
//! ```
//!
//! # Rules
//!
//! - *Both wrote*: the machine's content has the name. This computer's is renamed to a
//!   [conflict name](names::NameRules::conflict_name) beside it, and is a new file, which is sent. The same bytes are no conflict.
//! - *One wrote, one removed*: what was written stays, in its directory, which is made again if need be.
//! - *Both renamed or moved*: the machine's name stands. So it does where both together would put a directory into itself.
//! - *Both set permissions*: the machine's stand.
//! - *Two files, one name*: the machine's has it, this computer's gets a conflict name. Two new directories become one.
//! - *Two names of the machine that this computer cannot tell apart*: the later one has an [alias](names::NameRules::alias) here. On
//!   the machine it keeps its name.
//! - *A name that cannot be on the other side*, and what a side refuses: the item waits, and is told of, until it changes.
//!
//! # Invariants
//!
//! 1. Bytes that one side has and the other has not are never removed or written over: an operation that would says which content
//!    it expects, and the side refuses if it has another.
//! 2. What is agreed was done on both sides before. A process that dies between the two finds by looking that both sides have
//!    changed in the same way, which is no conflict.
//! 3. A step changes one thing on one side, and is recorded before the next begins. When it is unknown whether it was done, nothing
//!    is recorded, and both sides are looked at again.
//! 4. A file that is written to here is whole here. A backend has it fetched first, or cut to nothing.
//! 5. A removal is sent only of a file that no directory here has any more.
//! 6. Without changes on either side, a finite number of steps leads to a state in which both are the same, but for what was refused.
//! 7. What differs is settled in the order in which it was found to, but for what has to be done before: directories before what
//!    is in them, and names given up before they are taken. Two files that exchange their names use a third for a moment,
//!    `.stead-moving-` and a number; whoever gives another file such a name keeps it. A file that we gave
//!    one, and that has nothing left to follow to another name, has back the one it had.

/// What a side has answered; where it has refused, the function ends with that as its own answer.
macro_rules! answered {
    ($answer:expr) => {
        match $answer {
            Ok(done) => done,
            Err(refusal) => return Ok(Err(refusal)),
        }
    };
}

pub mod catalogue;
mod changes;
mod database;
#[cfg(test)]
mod fake;
mod holding;
pub mod item;
mod look;
pub mod names;
mod plan;
mod ranges;
mod retry;
pub mod side;
mod step;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

pub use changes::{Anchor, Changes, Expired};
pub use holding::{Fetch, Hydration, Progress};
pub use look::Listing;
pub use ranges::Ranges;
pub use retry::Retry;
pub use step::Outcome;

use database::Database;
use item::{Item, ItemId, Seen, SideName};
use names::NameRules;

/// A replica cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum ReplicaError {
    /// Its database was not made.
    #[error("could not make the database `{}`", path.display())]
    Make {
        /// Which.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// Its database was not opened.
    #[error("could not open the database `{}`", path.display())]
    Open {
        /// Which.
        path: PathBuf,
        /// Why not.
        #[source]
        source: rusqlite::Error,
    },
    /// Its database is another release's.
    #[error("the database `{}` is of version {version}, which this release does not know", path.display())]
    Foreign {
        /// Which.
        path: PathBuf,
        /// Its version.
        version: i64,
    },
    /// Its database was not read or written.
    #[error("could not use the database of a replica")]
    Database(#[from] rusqlite::Error),
    /// Its database names an item that it does not have.
    #[error("the database of a replica has no item {}", item.0)]
    Lost {
        /// Which.
        item: ItemId,
    },
    /// A side tells of a file by more than is kept.
    #[error("a side has told of {bytes} bytes where at most {most} can be")]
    TooLong {
        /// How many.
        bytes: usize,
        /// How many there may be.
        most: usize,
    },
    /// A side says that a directory is in itself.
    #[error("a side has told that directory {} is in itself", item.0)]
    Tangled {
        /// Which.
        item: ItemId,
    },
}

/// What is asked of a replica either works or says why it cannot go on at all.
pub type Result<T> = std::result::Result<T, ReplicaError>;

/// What is known of both sides, and what has to be done.
///
/// One at a time: it does nothing by itself, and takes neither time nor errors from anywhere but its arguments.
pub struct Replica {
    database: Database,
    /// What conflicting copies are named for.
    host: String,
}

impl Replica {
    /// Opens a replica, or begins one with two directories whose contents are to be the same.
    ///
    /// `host` is this computer's name, for people.
    pub fn open(path: &Path, rules: NameRules, host: &str) -> Result<Replica> {
        let database = Database::open(path, rules)?;
        Ok(Replica { database, host: host.to_owned() })
    }

    #[cfg(test)]
    fn in_memory(rules: NameRules, host: &str) -> Result<Replica> {
        Ok(Replica { database: Database::in_memory(rules)?, host: host.to_owned() })
    }

    /// Says what the root is on a side. Whether it is another directory than before, in which case nothing is done: what was known
    /// would be taken for removed.
    pub fn set_root(&mut self, side: SideName, identity: item::Identity) -> Result<bool> {
        database::check_identity(&identity)?;
        self.database.write(|rows| {
            let seen = Seen {
                identity,
                parent: ItemId(0),
                name: Box::default(),
                mode: 0,
                size: 0,
                content: Box::default(),
                edit: None,
            };
            let Some(mut root) = rows.get(ItemId::ROOT)? else {
                rows.add(item::Kind::Directory, side, seen)?;
                return Ok(false);
            };
            if let Some(known) = root.on(side) {
                return Ok(known.identity != seen.identity);
            }
            *root.on_mut(side) = Some(seen);
            root.agreed = Some(item::Agreed {
                parent: ItemId(0),
                here: Box::default(),
                there: Box::default(),
                mode: 0,
                content: Box::default(),
            });
            rows.save(&root)?;
            Ok(false)
        })
    }

    /// One item.
    pub fn item(&mut self, id: ItemId) -> Result<Option<Item>> {
        self.database.write(|rows| rows.get(id))
    }

    /// What is in a directory here.
    pub fn children(&mut self, directory: ItemId) -> Result<Vec<Item>> {
        self.database.write(|rows| rows.children(SideName::Here, directory))
    }

    /// What waits because a side refused it.
    pub fn refused(&mut self) -> Result<Vec<Item>> {
        self.database.write(|rows| rows.refused())
    }

    /// Has everything tried again that a side refused.
    pub fn try_again(&mut self) -> Result<()> {
        self.database.write(|rows| {
            for mut item in rows.refused()? {
                item.refused = None;
                rows.save(&item)?;
            }
            Ok(())
        })
    }
}
