//! What was done to threads, and threads that were dropped.

use rusqlite::params;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use wire::api::thread::OperationKind;
use wire::api::time::Timestamp;

use super::{Database, DatabaseError, File, ThreadRow};

const OPERATIONS: &str = "thread_operation";
const DROPPED: &str = "dropped_thread";

/// Something that was done to a thread, with what is needed to undo it: a reference of its repository was moved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperationRow {
    /// What it was.
    pub kind: OperationKind,
    /// When it was done.
    pub at: Timestamp,
    /// The reference, by its full name.
    pub reference: String,
    /// Where it was, if it was there.
    pub was: Option<String>,
    /// Where it was put.
    pub now: String,
    /// It was undone, and not done again.
    #[serde(default)]
    pub undone: bool,
}

/// A thread that was dropped, with what is needed to have it back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DroppedRow {
    /// What it was.
    pub row: ThreadRow,
    /// When it was dropped.
    pub at: Timestamp,
    /// The commit that its branch was at, if that went with it.
    pub branch_at: Option<String>,
    /// The commit that its captures were at, if they went with it.
    pub captures_at: Option<String>,
    /// Below which reference its commits are kept.
    pub kept: String,
    /// Its making was undone: it was not dropped.
    #[serde(default)]
    pub is_undone: bool,
    /// What was done to it, with its numbers.
    #[serde(default)]
    pub operations: Vec<(i64, OperationRow)>,
}

/// Where what is in a dropped thread is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Aside {
    /// The number of its [`DroppedRow`].
    pub number: i64,
    /// See [`DroppedRow::kept`].
    pub kept: String,
}

impl Database {
    /// What was done to a thread, with its numbers, the first first.
    pub async fn operations(&self, thread: String) -> Result<Vec<(i64, OperationRow)>, DatabaseError> {
        self.run(move |file| file.numbered(OPERATIONS, Some(&thread))).await
    }

    /// Writes what was done to a thread, and returns its number.
    pub async fn add_operation(&self, thread: String, row: OperationRow) -> Result<i64, DatabaseError> {
        self.run(move |file| file.add_numbered(OPERATIONS, &thread, &row)).await
    }

    /// Writes what has become of something that was done to a thread.
    pub async fn put_operation(&self, number: i64, row: OperationRow) -> Result<(), DatabaseError> {
        self.run(move |file| {
            let update = format!("UPDATE {OPERATIONS} SET record = ?2 WHERE number = ?1");
            let written = file.connection.execute(&update, params![number, file.record(&row)?]);
            written.map(|_| ()).map_err(|error| file.failed(error))
        })
        .await
    }

    /// Forgets something that was done to a thread. One that is not there is no error.
    pub async fn remove_operation(&self, number: i64) -> Result<(), DatabaseError> {
        self.run(move |file| file.remove(OPERATIONS, "number", number)).await
    }

    /// The threads that were dropped, with their numbers, the first first.
    pub async fn dropped(&self) -> Result<Vec<(i64, DroppedRow)>, DatabaseError> {
        self.run(move |file| file.numbered(DROPPED, None)).await
    }

    /// Writes a thread that is dropped, and returns its number.
    pub async fn add_dropped(&self, row: DroppedRow) -> Result<i64, DatabaseError> {
        self.run(move |file| file.add_numbered(DROPPED, &row.row.name, &row)).await
    }

    /// Forgets a thread that was dropped. One that is not there is no error.
    pub async fn remove_dropped(&self, number: i64) -> Result<(), DatabaseError> {
        self.run(move |file| file.remove(DROPPED, "number", number)).await
    }
}

impl File {
    /// The rows of a thread, or of all.
    fn numbered<T: DeserializeOwned>(
        &self,
        table: &str,
        thread: Option<&str>,
    ) -> Result<Vec<(i64, T)>, DatabaseError> {
        let read = || -> rusqlite::Result<Vec<(i64, String)>> {
            let select =
                format!("SELECT number, record FROM {table} WHERE ?1 IS NULL OR thread = ?1 ORDER BY number");
            let mut statement = self.connection.prepare(&select)?;
            let rows = statement.query_map([thread], |row| Ok((row.get(0)?, row.get(1)?)))?;
            rows.collect()
        };
        let records = read().map_err(|error| self.failed(error))?;
        records.iter().map(|(number, record)| Ok((*number, self.parse(record)?))).collect()
    }

    fn add_numbered(
        &mut self,
        table: &str,
        thread: &str,
        row: &impl Serialize,
    ) -> Result<i64, DatabaseError> {
        let insert = format!("INSERT INTO {table} (thread, record) VALUES (?1, ?2)");
        let written = self.connection.execute(&insert, params![thread, self.record(row)?]);
        written.map_err(|error| self.failed(error))?;
        Ok(self.connection.last_insert_rowid())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_done_to_a_thread_is_there_in_its_order() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("db");
        let operation = |now: &str| OperationRow {
            kind: OperationKind::Land,
            at: Timestamp::from_unix(1),
            reference: "refs/heads/main".to_owned(),
            was: None,
            now: now.to_owned(),
            undone: false,
        };
        let database = Database::open(&path).unwrap();
        let first = database.add_operation("fix".to_owned(), operation("a")).await.unwrap();
        let second = database.add_operation("fix".to_owned(), operation("b")).await.unwrap();
        database.add_operation("other".to_owned(), operation("c")).await.unwrap();
        let undone = OperationRow { undone: true, ..operation("b") };
        database.put_operation(second, undone.clone()).await.unwrap();
        drop(database);
        let database = Database::open(&path).unwrap();
        let known = || database.operations("fix".to_owned());
        assert_eq!(known().await.unwrap(), [(first, operation("a")), (second, undone.clone())]);
        database.remove_operation(first).await.unwrap();
        database.remove_operation(first).await.unwrap();
        assert_eq!(known().await.unwrap(), [(second, undone)]);
    }
}
