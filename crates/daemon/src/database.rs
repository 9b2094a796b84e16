//! Desired state on disk.
//!
//! One SQLite file, owned by a thread of its own: nobody who uses it waits on the disk but for an answer. The schema's
//! version is SQLite's `user_version`; [`MIGRATIONS`] holds what leads from each version to the next. A file of a newer
//! version is refused, not touched.
//!
//! | table | holds |
//! |---|---|
//! | `counter(noun, last)` | the last number given to a noun, so that no id is used twice |
//! | `mount(id, record)` | one row for each mount, as JSON of [`MountRow`] |
//! | `process(id, record)` | one row for each detached process, as JSON of [`ProcessRow`] |
//! | `thread(name, record)` | one row for each thread, as JSON of [`ThreadRow`] |
//! | `thread_operation(number, thread, record)` | what was done to threads, as JSON of [`OperationRow`](threads::OperationRow) |
//! | `dropped_thread(number, thread, record)` | threads that were dropped and can be had back, as JSON of [`DroppedRow`](threads::DroppedRow) |
//! | `workspace(vm, record)` | one row for each workspace of a microVM, by the number of that, as JSON of [`WorkspaceRow`](workspaces::WorkspaceRow) |
//! | `session(machine, record)` | one row for each machine with such a process, as JSON of [`SessionRow`] |

pub mod threads;
pub mod workspaces;

use std::fs::{OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OptionalExtension, params};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use supervisor::Identity;
use supervisor::keeper::Token;
use tokio::sync::{mpsc, oneshot};
use wire::api::id::{MountId, OperationId, ProcessId};
use wire::api::machine::{Caller, Machine, Source};
use wire::api::process::Outcome;
use wire::api::time::Timestamp;
use wire::bytestring::ByteString;
use wire::worker::Ready;

/// What leads from version N to version N + 1. Only ever appended to.
const MIGRATIONS: &[&str] = &[
    "CREATE TABLE counter (noun TEXT PRIMARY KEY, last INTEGER NOT NULL) STRICT;
     CREATE TABLE mount (id INTEGER PRIMARY KEY, record TEXT NOT NULL) STRICT;",
    "CREATE TABLE process (id INTEGER PRIMARY KEY, record TEXT NOT NULL) STRICT;
     CREATE TABLE session (machine TEXT PRIMARY KEY, record TEXT NOT NULL) STRICT;",
    "CREATE TABLE thread (name TEXT PRIMARY KEY, record TEXT NOT NULL) STRICT;",
    "CREATE TABLE thread_operation (
         number INTEGER PRIMARY KEY AUTOINCREMENT, thread TEXT NOT NULL, record TEXT NOT NULL
     ) STRICT;",
    "CREATE TABLE dropped_thread (
         number INTEGER PRIMARY KEY AUTOINCREMENT, thread TEXT NOT NULL, record TEXT NOT NULL
     ) STRICT;",
    "CREATE TABLE workspace (vm TEXT PRIMARY KEY, record TEXT NOT NULL) STRICT;",
];

/// Requests that may wait for the disk. Whoever asks beyond it waits too.
const QUEUE_MAX: usize = 64;

/// SQLite's page cache, in KiB: the whole file is smaller.
const CACHE_KIB: i64 = 256;

/// One mount, with what is needed to go on with it, or to take it away, in a later life of the daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountRow {
    /// Its id.
    pub id: MountId,
    /// What it shows.
    pub source: Source,
    /// Where.
    pub dir: ByteString,
    /// Directories that were made for it, the innermost first; removed with it when they are empty.
    pub made: Vec<ByteString>,
    /// What its processes are known by, once there are any.
    #[serde(default)]
    pub token: Option<Token>,
    /// The keeper that was there last, once there is one.
    #[serde(default)]
    pub keeper: Option<Identity>,
    /// The worker that was there last, once there is one.
    pub worker: Option<Identity>,
    /// What is needed to go on with it, once it has come to serve.
    #[serde(default)]
    pub terms: Option<Terms>,
}

/// What a daemon needs to know of a mount that another one has made, besides what is in its own directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    /// For whom it is.
    pub caller: Caller,
    /// What its worker said when it came to serve.
    pub ready: Ready,
}

/// A detached process, with what is needed to follow it in a later life of the daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessRow {
    /// Its id.
    pub id: ProcessId,
    /// Where it runs.
    pub machine: Machine,
    /// What was started.
    pub command: Vec<ByteString>,
    /// For whom.
    pub caller: Caller,
    /// What its session on the machine calls it.
    pub far: u64,
    /// The machine's number for it, once it is known.
    #[serde(default)]
    pub pid: Option<u32>,
    /// Whether it has a terminal.
    pub terminal: bool,
    /// Since when it runs, or since when it has ended.
    pub since: Timestamp,
    /// How it ended, if it has.
    #[serde(default)]
    pub outcome: Option<Outcome>,
}

/// The session in which a machine's commands run, with a detached process among them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRow {
    /// Where.
    pub machine: Machine,
    /// Which, as [`SessionId`](wire::hello::SessionId) is written.
    pub session: String,
    /// How many have gone on with it before the last one.
    pub life: u32,
}

/// A thread, with what is needed to mount it, or to remove what is left of it, in a later life of the daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ThreadRow {
    /// Its name.
    pub name: String,
    /// Where it is in its life.
    pub phase: ThreadPhase,
    /// The repository, as people know it.
    pub repo: ByteString,
    /// The repository's directory, the one with `objects`.
    pub repository: ByteString,
    /// Whose that directory was when the thread was made. `None` if a daemon made it that did not write it down.
    #[serde(default)]
    pub owner: Option<u32>,
    /// By which hash it names objects: `sha1` or `sha256`.
    pub hash: String,
    /// The commit that it began from.
    pub commit: String,
    /// Its branch.
    pub branch: String,
    /// The branch that it was made from, if it was one.
    #[serde(default)]
    pub onto: Option<String>,
    /// Where it is mounted, or was last, or is to be.
    pub dir: ByteString,
    /// Whether nothing was at `dir` before the thread was made.
    #[serde(default)]
    pub makes_dir: bool,
    /// The root of the working copy that is seen in it in place, if one is.
    #[serde(default)]
    pub sees: Option<ByteString>,
    /// What git knows its worktree by, once it does.
    #[serde(default)]
    pub registration: Option<ByteString>,
}

/// Where a thread is in its life, as far as whoever finds its row has to know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "phase", rename_all = "snake_case")]
pub enum ThreadPhase {
    /// It is being made. Whoever finds it so undoes it.
    Making,
    /// It is there.
    Open,
    /// It is being removed, and is not mounted any more. Whoever finds it so goes on.
    Dropping {
        /// The commit at which its branch is to be deleted, if it is.
        branch_at: Option<String>,
        /// The commit at which its captures are to be deleted, if they are.
        #[serde(default)]
        captures_at: Option<String>,
        /// Where what is in it goes, so that it can be had back. `None` if all of it goes for good.
        #[serde(default)]
        aside: Option<threads::Aside>,
    },
}

/// The file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// SQLite says no.
    #[error("could not use the database `{}`", path.display())]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: rusqlite::Error,
    },
    /// The file could not be made, or not made private.
    #[error("could not open the database `{}`", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It was written by a later version.
    #[error("the database `{}` has version {found}, and this stead knows {known}", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// The newest known version.
        known: i64,
    },
    /// A row does not hold what it should.
    #[error("the database `{}` holds a damaged row", path.display())]
    Row {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// Its thread is gone.
    #[error("the database is closed")]
    Closed,
}

type Job = Box<dyn FnOnce(&mut File) + Send>;

/// A handle to the database.
#[derive(Debug, Clone)]
pub struct Database {
    jobs: mpsc::Sender<Job>,
}

struct File {
    path: PathBuf,
    connection: Connection,
}

impl Database {
    /// Opens or creates the file and migrates it. Blocks; done once, at the start.
    pub fn open(path: &Path) -> Result<Database, DatabaseError> {
        let mut file = File::open(path)?;
        let (jobs, mut queue) = mpsc::channel::<Job>(QUEUE_MAX);
        let work = move || {
            while let Some(job) = queue.blocking_recv() {
                job(&mut file);
            }
        };
        // Ends when the last handle is dropped.
        std::thread::Builder::new()
            .name("database".to_owned())
            .spawn(work)
            .map_err(|_| DatabaseError::Closed)?;
        Ok(Database { jobs })
    }

    async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut File) -> Result<T, DatabaseError> + Send + 'static,
    ) -> Result<T, DatabaseError> {
        let (answer, answered) = oneshot::channel();
        // Nobody waits any more when the answer cannot be sent.
        let job = Box::new(move |file: &mut File| drop(answer.send(job(file))));
        self.jobs.send(job).await.map_err(|_| DatabaseError::Closed)?;
        answered.await.map_err(|_| DatabaseError::Closed)?
    }

    /// All mounts that were put and not removed, in the order of their ids.
    pub async fn mounts(&self) -> Result<Vec<MountRow>, DatabaseError> {
        self.run(|file| file.all("mount")).await
    }

    /// The last number that was given to a mount.
    pub async fn last_mount(&self) -> Result<u64, DatabaseError> {
        self.run(|file| file.last("mount")).await
    }

    /// Writes a mount, and that its number is taken.
    pub async fn put_mount(&self, row: MountRow) -> Result<(), DatabaseError> {
        self.run(move |file| file.put("mount", row.id.number(), &row)).await
    }

    /// Forgets a mount. One that is not there is no error.
    pub async fn remove_mount(&self, id: MountId) -> Result<(), DatabaseError> {
        self.run(move |file| file.remove("mount", "id", id.number().cast_signed())).await
    }

    /// A number that no operation has had.
    pub async fn new_operation(&self) -> Result<OperationId, DatabaseError> {
        self.run(|file| file.next("operation")).await.map(OperationId::new)
    }

    /// All processes that were put and not removed, in the order of their ids.
    pub async fn processes(&self) -> Result<Vec<ProcessRow>, DatabaseError> {
        self.run(|file| file.all("process")).await
    }

    /// The last number that was given to a detached process.
    pub async fn last_process(&self) -> Result<u64, DatabaseError> {
        self.run(|file| file.last("process")).await
    }

    /// Writes a process, and that its number is taken.
    pub async fn put_process(&self, row: ProcessRow) -> Result<(), DatabaseError> {
        self.run(move |file| file.put("process", row.id.number(), &row)).await
    }

    /// Forgets a process. One that is not there is no error.
    pub async fn remove_process(&self, id: ProcessId) -> Result<(), DatabaseError> {
        self.run(move |file| file.remove("process", "id", id.number().cast_signed())).await
    }

    /// All threads that were put and not removed, in the order of their names.
    pub async fn threads(&self) -> Result<Vec<ThreadRow>, DatabaseError> {
        self.run(|file| file.threads()).await
    }

    /// Writes a thread.
    pub async fn put_thread(&self, row: ThreadRow) -> Result<(), DatabaseError> {
        self.run(move |file| file.put_thread(&row)).await
    }

    /// Forgets a thread. One that is not there is no error.
    pub async fn remove_thread(&self, name: String) -> Result<(), DatabaseError> {
        self.run(move |file| file.remove_thread(&name)).await
    }

    /// The session of a machine's commands.
    pub async fn session(&self, machine: Machine) -> Result<Option<SessionRow>, DatabaseError> {
        self.run(move |file| file.session(&machine)).await
    }

    /// Writes the session of a machine's commands.
    pub async fn put_session(&self, row: SessionRow) -> Result<(), DatabaseError> {
        self.run(move |file| file.put_session(&row)).await
    }

    /// Forgets the session of a machine's commands. One that is not there is no error.
    pub async fn remove_session(&self, machine: Machine) -> Result<(), DatabaseError> {
        self.run(move |file| file.remove_session(&machine)).await
    }
}

impl File {
    fn open(path: &Path) -> Result<File, DatabaseError> {
        let failed = |source| DatabaseError::Sqlite { path: path.to_owned(), source };
        make_private(path).map_err(|source| DatabaseError::File { path: path.to_owned(), source })?;
        let mut connection = Connection::open(path).map_err(failed)?;
        // What was committed survives a power cut: a thread that was said to be there is not one that is being made.
        let setup = || -> rusqlite::Result<()> {
            connection.pragma_update(None, "journal_mode", "WAL")?;
            connection.pragma_update(None, "synchronous", "FULL")?;
            connection.pragma_update(None, "cache_size", -CACHE_KIB)
        };
        setup().map_err(failed)?;
        migrate(path, &mut connection)?;
        Ok(File { path: path.to_owned(), connection })
    }

    fn failed(&self, source: rusqlite::Error) -> DatabaseError {
        DatabaseError::Sqlite { path: self.path.clone(), source }
    }

    /// All rows of a noun's table.
    fn all<T: DeserializeOwned>(&self, noun: &'static str) -> Result<Vec<T>, DatabaseError> {
        let read = || -> rusqlite::Result<Vec<String>> {
            let mut statement = self.connection.prepare(&format!("SELECT record FROM {noun} ORDER BY id"))?;
            let rows = statement.query_map([], |row| row.get(0))?;
            rows.collect()
        };
        let records = read().map_err(|error| self.failed(error))?;
        records.iter().map(|record| self.parse(record)).collect()
    }

    fn parse<T: DeserializeOwned>(&self, record: &str) -> Result<T, DatabaseError> {
        serde_json::from_str(record).map_err(|source| DatabaseError::Row { path: self.path.clone(), source })
    }

    fn record(&self, row: &impl Serialize) -> Result<String, DatabaseError> {
        serde_json::to_string(row).map_err(|source| DatabaseError::Row { path: self.path.clone(), source })
    }

    fn last(&self, noun: &str) -> Result<u64, DatabaseError> {
        let last: Option<i64> = self
            .connection
            .query_row("SELECT last FROM counter WHERE noun = ?1", [noun], |row| row.get(0))
            .optional()
            .map_err(|error| self.failed(error))?;
        Ok(last.unwrap_or(0).cast_unsigned())
    }

    /// A number that the noun has not had.
    fn next(&self, noun: &'static str) -> Result<u64, DatabaseError> {
        let count = "INSERT INTO counter (noun, last) VALUES (?1, 1)
                     ON CONFLICT (noun) DO UPDATE SET last = last + 1 RETURNING last";
        let number = self.connection.query_row(count, [noun], |row| row.get::<_, i64>(0));
        number.map(i64::cast_unsigned).map_err(|error| self.failed(error))
    }

    fn put(&mut self, noun: &'static str, number: u64, row: &impl Serialize) -> Result<(), DatabaseError> {
        let record = self.record(row)?;
        let id = number.cast_signed();
        let insert = format!("INSERT OR REPLACE INTO {noun} (id, record) VALUES (?1, ?2)");
        let write = |connection: &mut Connection| -> rusqlite::Result<()> {
            let transaction = connection.transaction()?;
            transaction.execute(&insert, params![id, record])?;
            transaction.execute(
                "INSERT INTO counter (noun, last) VALUES (?1, ?2)
                 ON CONFLICT (noun) DO UPDATE SET last = max(last, excluded.last)",
                params![noun, id],
            )?;
            transaction.commit()
        };
        write(&mut self.connection).map_err(|error| self.failed(error))
    }

    fn remove(&mut self, table: &'static str, key: &'static str, number: i64) -> Result<(), DatabaseError> {
        let delete = format!("DELETE FROM {table} WHERE {key} = ?1");
        let removed = self.connection.execute(&delete, [number]);
        removed.map(|_| ()).map_err(|error| self.failed(error))
    }

    fn threads(&self) -> Result<Vec<ThreadRow>, DatabaseError> {
        let read = || -> rusqlite::Result<Vec<String>> {
            let mut statement = self.connection.prepare("SELECT record FROM thread ORDER BY name")?;
            let rows = statement.query_map([], |row| row.get(0))?;
            rows.collect()
        };
        let records = read().map_err(|error| self.failed(error))?;
        records.iter().map(|record| self.parse(record)).collect()
    }

    fn put_thread(&mut self, row: &ThreadRow) -> Result<(), DatabaseError> {
        let insert = "INSERT OR REPLACE INTO thread (name, record) VALUES (?1, ?2)";
        let written = self.connection.execute(insert, params![row.name, self.record(row)?]);
        written.map(|_| ()).map_err(|error| self.failed(error))
    }

    fn remove_thread(&mut self, name: &str) -> Result<(), DatabaseError> {
        let removed = self.connection.execute("DELETE FROM thread WHERE name = ?1", [name]);
        removed.map(|_| ()).map_err(|error| self.failed(error))
    }

    fn session(&self, machine: &Machine) -> Result<Option<SessionRow>, DatabaseError> {
        let select = "SELECT record FROM session WHERE machine = ?1";
        let record: Option<String> = self
            .connection
            .query_row(select, [machine.to_string()], |row| row.get(0))
            .optional()
            .map_err(|error| self.failed(error))?;
        record.map(|record| self.parse(&record)).transpose()
    }

    fn put_session(&mut self, row: &SessionRow) -> Result<(), DatabaseError> {
        let insert = "INSERT OR REPLACE INTO session (machine, record) VALUES (?1, ?2)";
        let written = self.connection.execute(insert, params![row.machine.to_string(), self.record(row)?]);
        written.map(|_| ()).map_err(|error| self.failed(error))
    }

    fn remove_session(&mut self, machine: &Machine) -> Result<(), DatabaseError> {
        let removed =
            self.connection.execute("DELETE FROM session WHERE machine = ?1", [machine.to_string()]);
        removed.map(|_| ()).map_err(|error| self.failed(error))
    }
}

/// Makes the file, or narrows what is there, before SQLite opens it: SQLite makes its other files with the mode of this
/// one, and leaves those that are there as they are.
fn make_private(path: &Path) -> io::Result<()> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
    for suffix in ["", "-wal", "-shm"] {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        match std::fs::set_permissions(&name, Permissions::from_mode(0o600)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

fn migrate(path: &Path, connection: &mut Connection) -> Result<(), DatabaseError> {
    let failed = |source| DatabaseError::Sqlite { path: path.to_owned(), source };
    let known = MIGRATIONS.len() as i64;
    let found: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(failed)?;
    if found > known || found < 0 {
        return Err(DatabaseError::Newer { path: path.to_owned(), found, known });
    }
    for (version, migration) in (1..).zip(MIGRATIONS).skip(found as usize) {
        let step = |connection: &mut Connection| -> rusqlite::Result<()> {
            let transaction = connection.transaction()?;
            transaction.execute_batch(migration)?;
            transaction.pragma_update(None, "user_version", version)?;
            transaction.commit()
        };
        step(connection).map_err(failed)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::api::mount::BackendName;

    fn row(number: u64) -> MountRow {
        MountRow {
            id: MountId::new(number),
            source: Source::parse_absolute(b"ssh://box/\xff").unwrap(),
            dir: ByteString::from(&b"/m\xfe"[..]),
            made: vec!["/m".into()],
            token: None,
            keeper: None,
            worker: None,
            terms: None,
        }
    }

    #[tokio::test]
    async fn what_was_put_is_there_in_the_next_life() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("db");
        let database = Database::open(&path).unwrap();
        database.put_mount(row(2)).await.unwrap();
        database.put_mount(row(5)).await.unwrap();
        let own = Some(Identity::own().unwrap());
        let ready = Ready {
            backend: BackendName::Fuse,
            connection: Some(7),
            port: None,
            nfs: None,
            degraded: None,
            agent_version: None,
            pid: None,
            restarts: None,
            replayed: None,
        };
        let terms = Some(Terms { caller: Caller::default(), ready });
        let token = Some(Token::random().unwrap());
        let with_worker = MountRow { token, keeper: own, worker: own, terms, ..row(2) };
        database.put_mount(with_worker.clone()).await.unwrap();
        drop(database);
        let database = Database::open(&path).unwrap();
        assert_eq!(database.mounts().await.unwrap(), [with_worker, row(5)]);
    }

    #[tokio::test]
    async fn a_number_is_not_used_twice_even_after_its_mount_is_gone() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("db");
        let database = Database::open(&path).unwrap();
        assert_eq!(database.last_mount().await.unwrap(), 0);
        database.put_mount(row(7)).await.unwrap();
        database.put_mount(row(3)).await.unwrap();
        database.remove_mount(MountId::new(7)).await.unwrap();
        database.remove_mount(MountId::new(7)).await.unwrap();
        drop(database);
        assert_eq!(Database::open(&path).unwrap().last_mount().await.unwrap(), 7);
    }

    #[tokio::test]
    async fn its_files_are_private_also_those_that_were_not() {
        let modes = |dir: &Path| {
            let mut modes: Vec<_> = std::fs::read_dir(dir)
                .unwrap()
                .map(|entry| entry.unwrap())
                .map(|entry| (entry.file_name(), entry.metadata().unwrap().permissions().mode() & 0o7777))
                .collect();
            modes.sort();
            modes
        };
        let private = ["db", "db-shm", "db-wal"].map(|name| (name.into(), 0o600));
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("db");
        let database = Database::open(&path).unwrap();
        database.put_mount(row(1)).await.unwrap();
        assert_eq!(modes(scratch.path()), private);
        for (name, _) in &private {
            let wide = Permissions::from_mode(0o644);
            std::fs::set_permissions(scratch.path().join(name), wide).unwrap();
        }
        // A second handle, so that the files are not removed with the last one.
        let again = Database::open(&path).unwrap();
        assert_eq!(again.mounts().await.unwrap(), [row(1)]);
        assert_eq!(modes(scratch.path()), private);
    }

    #[test]
    fn a_file_of_a_newer_version_is_refused_and_not_touched() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("db");
        let connection = Connection::open(&path).unwrap();
        connection.pragma_update(None, "user_version", 1000).unwrap();
        drop(connection);
        assert!(matches!(Database::open(&path), Err(DatabaseError::Newer { found: 1000, .. })));
    }

    #[test]
    fn a_file_that_is_no_database_is_refused() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("db");
        std::fs::write(&path, "x".repeat(4096)).unwrap();
        assert!(matches!(Database::open(&path), Err(DatabaseError::Sqlite { .. })));
    }

    #[tokio::test]
    async fn a_damaged_row_is_told() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("db");
        let database = Database::open(&path).unwrap();
        let connection = Connection::open(&path).unwrap();
        connection.execute("INSERT INTO mount (id, record) VALUES (1, '{}')", []).unwrap();
        assert!(matches!(database.mounts().await, Err(DatabaseError::Row { .. })));
    }
}
