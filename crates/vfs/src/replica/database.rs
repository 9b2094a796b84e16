//! What a replica knows, on disk.
//!
//! One SQLite file in WAL mode, synced at each transaction: what was agreed must not be older than what was done. The schema's
//! version is SQLite's `user_version`.
//!
//! | table | holds |
//! |---|---|
//! | `item` | one row for each [`Item`]; `pending` is when it was found to differ, in the order in which it is settled; `changed` when it changed last for whoever enumerates |
//! | `gone` | items that are no more, for whoever enumerates: the last [`GONE_MAX`] |
//! | `holding` | which bytes of a file are here, as of which version of the machine's, and whether they are to stay |
//! | `parked` | the name that a file had on a side before it was given the name of a moment there |
//! | `listed` | of a [catalogue](super::catalogue) only: directories of which is known what is in them |
//! | `counter` | `epoch`, a number that no other database has; `change`, the last one given; `forgotten`, the last change of which `gone` no longer tells; of a catalogue only, `told`, the last change of which the system is known to have been told |

use std::fs::OpenOptions;
use std::path::Path;

use rusqlite::{Connection, OptionalExtension, Row, Transaction, named_params, params};

use super::item::{
    Agreed, Entry, Identity, Item, ItemId, Kind, NAME_BYTES_MAX, Seen, SideName, TOKEN_BYTES_MAX, Token,
    Version,
};
use super::names::NameRules;
use super::{ReplicaError, Result};
use crate::owned::owners_only;

const VERSION: i64 = 1;

const SCHEMA: &str = "
CREATE TABLE item (
  id INTEGER PRIMARY KEY AUTOINCREMENT, kind INTEGER NOT NULL,
  here_identity BLOB, here_parent INTEGER, here_name BLOB, here_mode INTEGER, here_size INTEGER, here_content BLOB, here_edit BLOB,
  there_identity BLOB, there_parent INTEGER, there_name BLOB, there_mode INTEGER, there_size INTEGER, there_content BLOB,
  agreed_parent INTEGER, agreed_here BLOB, agreed_there BLOB, agreed_mode INTEGER, agreed_content BLOB,
  version_content INTEGER NOT NULL, version_metadata INTEGER NOT NULL, aside BLOB, refused TEXT,
  here_key BLOB, there_key BLOB, pending INTEGER, changed INTEGER NOT NULL) STRICT;
CREATE UNIQUE INDEX item_here ON item (here_identity) WHERE here_identity IS NOT NULL;
CREATE UNIQUE INDEX item_there ON item (there_identity) WHERE there_identity IS NOT NULL;
CREATE INDEX item_in_here ON item (here_parent, here_key);
CREATE INDEX item_in_there ON item (there_parent, there_key);
CREATE INDEX item_pending ON item (pending) WHERE pending IS NOT NULL;
CREATE INDEX item_changed ON item (changed);
CREATE TABLE gone (number INTEGER PRIMARY KEY, change INTEGER NOT NULL, id INTEGER NOT NULL) STRICT;
CREATE INDEX gone_change ON gone (change);
CREATE TABLE holding (id INTEGER PRIMARY KEY, content BLOB NOT NULL, ranges BLOB NOT NULL, is_pinned INTEGER NOT NULL) STRICT;
CREATE TABLE counter (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT;
INSERT INTO counter VALUES ('epoch', abs(random() >> 1)), ('change', 0), ('forgotten', 0);
";

/// Also in databases that were made without it, of the same version: who does not know it is none the worse.
const PARKED: &str =
    "CREATE TABLE IF NOT EXISTS parked (id INTEGER NOT NULL, is_here INTEGER NOT NULL, name BLOB NOT NULL,
  PRIMARY KEY (id, is_here)) STRICT";

/// Items that are remembered after they are gone. Who has not asked for longer than so many removals lists all anew.
pub const GONE_MAX: i64 = 4096;

/// SQLite's page cache, in KiB.
const CACHE_KIB: i64 = 4096;

const COLUMNS: &str = "id, kind, here_identity, here_parent, here_name, here_mode, here_size, here_content, here_edit,
  there_identity, there_parent, there_name, there_mode, there_size, there_content,
  agreed_parent, agreed_here, agreed_there, agreed_mode, agreed_content, version_content, version_metadata, aside, refused";

pub(crate) struct Database {
    connection: Connection,
    rules: NameRules,
}

impl Database {
    /// Opens the file, or makes it.
    pub(crate) fn open(path: &Path, rules: NameRules) -> Result<Database> {
        let mut options = OpenOptions::new();
        // SQLite would give it the permissions of any file, and gives those of this one to what it puts beside it.
        let made = owners_only(options.write(true).create(true).truncate(false)).open(path);
        made.map_err(|source| ReplicaError::Make { path: path.to_owned(), source })?;
        let connection = Connection::open(path);
        Database::with(connection, path, rules)
    }

    /// One that ends with its owner.
    #[cfg(test)]
    pub(crate) fn in_memory(rules: NameRules) -> Result<Database> {
        Database::with(Connection::open_in_memory(), Path::new(":memory:"), rules)
    }

    fn with(connection: rusqlite::Result<Connection>, path: &Path, rules: NameRules) -> Result<Database> {
        let cannot = |source| ReplicaError::Open { path: path.to_owned(), source };
        let mut connection = connection.map_err(cannot)?;
        prepare(&mut connection).map_err(cannot)?;
        let version: i64 =
            connection.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(cannot)?;
        if version != VERSION {
            return Err(ReplicaError::Foreign { path: path.to_owned(), version });
        }
        Ok(Database { connection, rules })
    }

    /// What is done with the transaction is done whole, or not at all if this fails.
    pub(crate) fn write<T>(&mut self, change: impl FnOnce(&Rows<'_>) -> Result<T>) -> Result<T> {
        let rows = Rows { transaction: self.connection.transaction()?, rules: self.rules };
        let done = change(&rows)?;
        rows.transaction.commit()?;
        Ok(done)
    }
}

fn prepare(connection: &mut Connection) -> rusqlite::Result<()> {
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
    connection.set_prepared_statement_cache_capacity(32);
    let transaction = connection.transaction()?;
    let version: i64 = transaction.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    if version == 0 {
        transaction.execute_batch(SCHEMA)?;
        transaction.pragma_update(None, "user_version", VERSION)?;
    }
    transaction.execute_batch(PARKED)?;
    transaction.commit()
}

/// The rows, within a transaction.
pub(crate) struct Rows<'a> {
    pub(crate) transaction: Transaction<'a>,
    pub(crate) rules: NameRules,
}

impl Rows<'_> {
    pub(crate) fn get(&self, id: ItemId) -> Result<Option<Item>> {
        self.one("id = ?1", params![id.0])
    }

    /// An item that another one names.
    pub(crate) fn known(&self, id: ItemId) -> Result<Item> {
        self.get(id)?.ok_or(ReplicaError::Lost { item: id })
    }

    pub(crate) fn by_identity(&self, side: SideName, identity: &[u8]) -> Result<Option<Item>> {
        match side {
            SideName::Here => self.one("here_identity = ?1", params![identity]),
            SideName::There => self.one("there_identity = ?1", params![identity]),
        }
    }

    /// What is in a directory on a side, in the order in which it became known.
    pub(crate) fn children(&self, side: SideName, directory: ItemId) -> Result<Vec<Item>> {
        match side {
            SideName::Here => self.all("here_parent = ?1 ORDER BY id", params![directory.0]),
            SideName::There => self.all("there_parent = ?1 ORDER BY id", params![directory.0]),
        }
    }

    /// Who has a name on a side, or one that the side cannot tell from it.
    pub(crate) fn named(&self, side: SideName, directory: ItemId, name: &[u8]) -> Result<Option<Item>> {
        match side {
            SideName::Here => {
                self.one("here_parent = ?1 AND here_key = ?2", params![directory.0, self.rules.key(name)])
            }
            SideName::There => self.one("there_parent = ?1 AND there_name = ?2", params![directory.0, name]),
        }
    }

    /// Who is new on the machine, and would have this name here.
    pub(crate) fn new_there(&self, directory: ItemId, name: &[u8]) -> Result<Option<Item>> {
        self.one(
            "there_parent = ?1 AND there_key = ?2 AND here_identity IS NULL AND agreed_parent IS NULL",
            params![directory.0, self.rules.key(name)],
        )
    }

    /// What differs and comes next after this one, in the order in which it came to.
    pub(crate) fn pending_after(&self, after: i64) -> Result<Option<(i64, Item)>> {
        let query = format!(
            "SELECT {COLUMNS}, pending FROM item WHERE pending > ?1 AND refused IS NULL ORDER BY pending LIMIT 1"
        );
        let mut statement = self.transaction.prepare_cached(&query)?;
        let next = statement.query_row([after], |row| Ok((row.get(24)?, item_of(row)?)));
        Ok(next.optional()?)
    }

    pub(crate) fn refused(&self) -> Result<Vec<Item>> {
        self.all("refused IS NOT NULL ORDER BY id", [])
    }

    /// What a side knows the items by that it has, without the root.
    pub(crate) fn identities(&self, side: SideName) -> Result<Vec<Identity>> {
        let mut statement = self.transaction.prepare_cached(match side {
            SideName::Here => "SELECT here_identity FROM item WHERE here_identity IS NOT NULL AND id != ?1",
            SideName::There => {
                "SELECT there_identity FROM item WHERE there_identity IS NOT NULL AND id != ?1"
            }
        })?;
        let identities = statement.query_map([ItemId::ROOT.0], |row| row.get(0))?;
        Ok(identities.collect::<rusqlite::Result<_>>()?)
    }

    /// Adds an item that is new on a side.
    pub(crate) fn add(&self, kind: Kind, side: SideName, seen: Seen) -> Result<Item> {
        let changed = self.next_change()?;
        self.transaction
            .prepare_cached(
                "INSERT INTO item (kind, version_content, version_metadata, changed) VALUES (?1, 1, 1, ?2)",
            )?
            .execute(params![number_of(kind), changed])?;
        let id = ItemId(self.transaction.last_insert_rowid());
        let mut item = self.known(id)?;
        *item.on_mut(side) = Some(seen);
        self.save(&item)?;
        Ok(item)
    }

    /// Writes an item as it is now, and down for being settled unless it is. An item that is on no side any more is gone.
    pub(crate) fn save(&self, item: &Item) -> Result<()> {
        if item.here.is_none() && item.there.is_none() {
            return self.remove(item.id);
        }
        let was = self.get(item.id)?;
        if was.as_ref().is_some_and(|was| !is_same_file_here(was, item)) {
            self.drop_ranges(item.id)?;
        }
        let item = &with_version(was.as_ref(), item);
        let change = self.next_change()?;
        let pending = (!item.is_settled()).then_some(change);
        let (here, there, agreed) = (item.here.as_ref(), item.there.as_ref(), item.agreed.as_ref());
        let key = |name: &[u8]| self.rules.key(name);
        let there_key = there.map(|seen| match self.rules.to_here(&seen.name) {
            Ok(name) => key(&name),
            Err(_) => seen.name.clone(),
        });
        self.transaction
            .prepare_cached(
                "UPDATE item SET here_identity = :hi, here_parent = :hp, here_name = :hn, here_mode = :hm, here_size = :hs,
                   here_content = :hc, here_edit = :he, here_key = :hk,
                   there_identity = :ti, there_parent = :tp, there_name = :tn, there_mode = :tm, there_size = :ts,
                   there_content = :tc, there_key = :tk,
                   agreed_parent = :ap, agreed_here = :ah, agreed_there = :at, agreed_mode = :am, agreed_content = :ac,
                   version_content = :vc, version_metadata = :vm, aside = :aside, refused = :refused,
                   pending = iif(:pending IS NULL, NULL, coalesce(pending, :pending)), changed = :changed
                 WHERE id = :id",
            )?
            .execute(named_params! {
                ":id": item.id.0,
                ":hi": here.map(|seen| &seen.identity), ":hp": here.map(|seen| seen.parent.0),
                ":hn": here.map(|seen| &seen.name), ":hm": here.map(|seen| seen.mode),
                ":hs": here.map(|seen| seen.size.cast_signed()), ":hc": here.map(|seen| &seen.content),
                ":he": here.and_then(|seen| seen.edit.as_ref()), ":hk": here.map(|seen| key(&seen.name)),
                ":ti": there.map(|seen| &seen.identity), ":tp": there.map(|seen| seen.parent.0),
                ":tn": there.map(|seen| &seen.name), ":tm": there.map(|seen| seen.mode),
                ":ts": there.map(|seen| seen.size.cast_signed()), ":tc": there.map(|seen| &seen.content),
                ":tk": there_key,
                ":ap": agreed.map(|agreed| agreed.parent.0), ":ah": agreed.map(|agreed| &agreed.here),
                ":at": agreed.map(|agreed| &agreed.there), ":am": agreed.map(|agreed| agreed.mode),
                ":ac": agreed.map(|agreed| &agreed.content),
                ":vc": item.version.content.cast_signed(), ":vm": item.version.metadata.cast_signed(),
                ":aside": item.aside, ":refused": item.refused, ":pending": pending, ":changed": change,
            })?;
        Ok(())
    }

    /// Forgets an item, and remembers that it is gone.
    pub(crate) fn remove(&self, id: ItemId) -> Result<()> {
        self.transaction.execute("DELETE FROM item WHERE id = ?1", [id.0])?;
        self.transaction.execute("DELETE FROM holding WHERE id = ?1", [id.0])?;
        self.transaction.execute("DELETE FROM parked WHERE id = ?1", [id.0])?;
        let change = self.next_change()?;
        self.transaction.execute("INSERT INTO gone (change, id) VALUES (?1, ?2)", [change, id.0])?;
        let newest = self.transaction.last_insert_rowid();
        let oldest: i64 = self.transaction.query_row("SELECT min(number) FROM gone", [], |row| row.get(0))?;
        if newest - oldest < GONE_MAX {
            return Ok(());
        }
        // Half of them at once, so that this is rare.
        let last: i64 = self.transaction.query_row(
            "DELETE FROM gone WHERE number = ?1 RETURNING change",
            [newest - GONE_MAX / 2],
            |row| row.get(0),
        )?;
        self.transaction.execute("DELETE FROM gone WHERE change <= ?1", [last])?;
        self.transaction.execute("UPDATE counter SET value = ?1 WHERE name = 'forgotten'", [last])?;
        Ok(())
    }

    /// Puts one item in the place of another wherever that is named as a directory.
    pub(crate) fn take_over(&self, from: ItemId, to: ItemId) -> Result<()> {
        for column in ["here_parent", "there_parent", "agreed_parent"] {
            let change = format!("UPDATE item SET {column} = ?2 WHERE {column} = ?1");
            self.transaction.execute(&change, [from.0, to.0])?;
        }
        Ok(())
    }

    /// Takes down which name a file gave up for that of a moment.
    pub(crate) fn set_parked(&self, id: ItemId, side: SideName, name: &[u8]) -> Result<()> {
        self.transaction
            .prepare_cached("INSERT OR REPLACE INTO parked VALUES (?1, ?2, ?3)")?
            .execute(params![id.0, side == SideName::Here, name])?;
        Ok(())
    }

    /// Which name a file had before that of a moment.
    pub(crate) fn parked_from(&self, id: ItemId, side: SideName) -> Result<Option<Box<[u8]>>> {
        let mut statement =
            self.transaction.prepare_cached("SELECT name FROM parked WHERE id = ?1 AND is_here = ?2")?;
        Ok(statement.query_row(params![id.0, side == SideName::Here], |row| row.get(0)).optional()?)
    }

    pub(crate) fn counter(&self, name: &str) -> Result<i64> {
        let mut statement = self.transaction.prepare_cached("SELECT value FROM counter WHERE name = ?1")?;
        Ok(statement.query_row([name], |row| row.get(0))?)
    }

    fn next_change(&self) -> Result<i64> {
        let mut statement = self
            .transaction
            .prepare_cached("UPDATE counter SET value = value + 1 WHERE name = 'change' RETURNING value")?;
        Ok(statement.query_row([], |row| row.get(0))?)
    }

    fn one(&self, which: &str, parameters: impl rusqlite::Params) -> Result<Option<Item>> {
        let mut statement =
            self.transaction.prepare_cached(&format!("SELECT {COLUMNS} FROM item WHERE {which}"))?;
        Ok(statement.query_row(parameters, item_of).optional()?)
    }

    pub(crate) fn all(&self, which: &str, parameters: impl rusqlite::Params) -> Result<Vec<Item>> {
        let mut statement =
            self.transaction.prepare_cached(&format!("SELECT {COLUMNS} FROM item WHERE {which}"))?;
        let items = statement.query_map(parameters, item_of)?;
        Ok(items.collect::<rusqlite::Result<_>>()?)
    }
}

/// The same item with the version that it has after what is said of it here differs from what was.
fn with_version(was: Option<&Item>, item: &Item) -> Item {
    let mut item = item.clone();
    let Some(was) = was else { return item };
    let metadata = |item: &Item| item.here.as_ref().map(|seen| (seen.parent, seen.name.clone(), seen.mode));
    item.version = Version {
        content: was.version.content + u64::from(content_here(was) != content_here(&item)),
        metadata: was.version.metadata + u64::from(metadata(was) != metadata(&item)),
    };
    item
}

fn content_here(item: &Item) -> Option<(&Token, Option<&Token>)> {
    item.here.as_ref().map(|seen| (&seen.content, seen.edit.as_ref()))
}

/// Whether the bytes that were here still are: it is the same file, and nobody has written to it or given it another version.
fn is_same_file_here(was: &Item, item: &Item) -> bool {
    let identity = |item: &Item| item.here.as_ref().map(|seen| seen.identity.clone());
    identity(was) == identity(item) && content_here(was) == content_here(item)
}

fn item_of(row: &Row<'_>) -> rusqlite::Result<Item> {
    let seen = |first: usize, edit: Option<usize>| -> rusqlite::Result<Option<Seen>> {
        let Some(identity) = row.get::<_, Option<Box<[u8]>>>(first)? else { return Ok(None) };
        Ok(Some(Seen {
            identity,
            parent: ItemId(row.get(first + 1)?),
            name: row.get(first + 2)?,
            mode: row.get(first + 3)?,
            size: row.get::<_, i64>(first + 4)?.cast_unsigned(),
            content: row.get(first + 5)?,
            edit: edit.map_or(Ok(None), |column| row.get(column))?,
        }))
    };
    let agreed = |first: usize| -> rusqlite::Result<Option<Agreed>> {
        let Some(parent) = row.get(first)? else { return Ok(None) };
        Ok(Some(Agreed {
            parent: ItemId(parent),
            here: row.get(first + 1)?,
            there: row.get(first + 2)?,
            mode: row.get(first + 3)?,
            content: row.get(first + 4)?,
        }))
    };
    Ok(Item {
        id: ItemId(row.get(0)?),
        kind: match row.get(1)? {
            0 => Kind::Directory,
            1 => Kind::File,
            _ => Kind::Symlink,
        },
        here: seen(2, Some(8))?,
        there: seen(9, None)?,
        agreed: agreed(15)?,
        version: Version {
            content: row.get::<_, i64>(20)?.cast_unsigned(),
            metadata: row.get::<_, i64>(21)?.cast_unsigned(),
        },
        aside: row.get(22)?,
        refused: row.get(23)?,
    })
}

pub(crate) fn number_of(kind: Kind) -> i64 {
    match kind {
        Kind::Directory => 0,
        Kind::File => 1,
        Kind::Symlink => 2,
    }
}

/// Refuses more than is kept of what a side says.
pub(crate) fn check(entry: &Entry) -> Result<()> {
    check_identity(&entry.identity)?;
    check_identity(&entry.content)?;
    check_identity(entry.edit.as_deref().unwrap_or_default())?;
    within(entry.name.len(), NAME_BYTES_MAX)
}

pub(crate) fn check_identity(identity: &[u8]) -> Result<()> {
    within(identity.len(), TOKEN_BYTES_MAX)
}

fn within(bytes: usize, most: usize) -> Result<()> {
    if bytes > most { Err(ReplicaError::TooLong { bytes, most }) } else { Ok(()) }
}
