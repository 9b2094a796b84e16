//! The base: revisions out of a repository's own object database, packed, loose, of alternates, under SHA-1 or SHA-256.
//!
//! Nothing is checked out. A directory is read when somebody looks into it, and becomes an [`Index`]; sizes come from the heads
//! of objects, so that no blob is decoded for them. A blob is decoded when it is read for the first time by any thread, into the
//! [`BlobCache`](crate::blobs::BlobCache).
//!
//! - Whole objects are compared with their hash: a damaged one, or one that somebody made to pass for another, is
//!   [`Corrupt`](Error::Corrupt).
//! - Blobs from [`STREAM_BYTES_MIN`] on are streamed by git itself: they never are in memory whole.
//! - Objects are read as they are: neither replacement (`refs/replace`) nor filter (`.gitattributes`) has a say.
//! - A pack that `git gc` replaces meanwhile is no error: it is looked for again in what is there then.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use gix_object::{Find, tree::EntryKind};
use gix_odb::{HandleArc, Header};
use parking_lot::Mutex;

use crate::error::fails;
use crate::git::{self, GIT_TIMEOUT, Wanted};
use crate::node::{Kind, LINK_BYTES_MAX, Name, check_name};
use crate::{Error, Hash, Oid, Result};

/// From this size on a blob is streamed: decoding a smaller one takes no longer than starting git does, and not more memory than
/// a worker may have for a moment.
pub const STREAM_BYTES_MIN: u64 = 16 << 20;

/// What indexes that are kept take at most: of 100,000 files about a fifth.
const INDEX_BYTES_MAX: usize = 64 << 20;

/// Packs that there may be at least, with those that come while the thread is open: each fetch may bring one, and git's own upkeep
/// begins at 50.
const PACKS_MIN: usize = 1024;

/// Handles on the database that wait to be used again. More are made when more threads read at once.
const IDLE_HANDLES_MAX: usize = 8;

/// What of git's environment is the user's, and not of the one command in which it was left.
const KEPT_FROM_OTHERS: [&str; 6] = [
    "GIT_CONFIG_GLOBAL",
    "GIT_CONFIG_NOSYSTEM",
    "GIT_CONFIG_SYSTEM",
    "GIT_EXEC_PATH",
    "GIT_SSH",
    "GIT_SSH_COMMAND",
];

/// Commits that are looked at before git is asked: about as many as git reads while it starts.
const NEAR_MAX: usize = 64;

/// A piece of what is streamed.
const PIECE_BYTES: usize = 256 << 10;

/// A file of a revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexEntry {
    /// In its directory.
    pub name: Name,
    /// A regular file, a directory or a symlink.
    pub kind: Kind,
    /// Of a regular file, whether it can be executed.
    pub is_executable: bool,
    /// A blob, or a directory's tree. A directory without one is a submodule's place, which is empty.
    pub oid: Option<Oid>,
    /// In bytes; 0 for a directory.
    pub size: u64,
}

/// A directory of a revision.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Index {
    entries: Box<[IndexEntry]>,
}

impl Index {
    /// How many names there are: less than 2^32.
    pub fn count(&self) -> u32 {
        u32::try_from(self.entries.len()).unwrap_or(u32::MAX)
    }

    /// The entry of this number, in the order of names as bytes.
    pub fn get(&self, number: u32) -> Option<&IndexEntry> {
        self.entries.get(number as usize)
    }

    /// The number of a name.
    pub fn find(&self, name: &[u8]) -> Option<u32> {
        let found = self.entries.binary_search_by(|entry| (*entry.name).cmp(name)).ok()?;
        u32::try_from(found).ok()
    }

    /// About what it takes in memory.
    fn bytes(&self) -> usize {
        let names: usize = self.entries.iter().map(|entry| entry.name.len() + 32).sum();
        size_of::<Index>() + self.entries.len() * size_of::<IndexEntry>() + names
    }
}

/// What a thread begins from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Revision {
    pub commit: Oid,
    pub tree: Oid,
}

/// The objects of one repository. Any number of threads may ask at once.
pub struct Objects {
    repository: PathBuf,
    hash: Hash,
    store: Arc<gix_odb::Store>,
    idle: Mutex<Vec<HandleArc>>,
    indexes: Mutex<Indexes>,
}

impl std::fmt::Debug for Objects {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.debug_struct("Objects").field("repository", &self.repository).finish_non_exhaustive()
    }
}

impl Objects {
    /// Those of the repository whose working copy or directory this is, or is within. Asks git, so that all that git looks at to
    /// find it counts.
    pub fn discover(directory: &Path) -> Result<Objects> {
        let words = ["rev-parse", "--show-object-format", "--path-format=absolute", "--git-common-dir"];
        let said = git(directory, "find a repository", |git| git.arg("-C").arg(directory).args(words))?;
        // The path may have an end of line in it.
        let end = said.iter().position(|byte| *byte == b'\n').unwrap_or(said.len());
        let (format, common) = said.split_at(end);
        let common = common.strip_prefix(b"\n").and_then(|path| path.strip_suffix(b"\n")).unwrap_or_default();
        let hash = match format {
            b"sha1" => Hash::Sha1,
            b"sha256" => Hash::Sha256,
            _ => {
                let why = format!("its objects are named by `{}`", String::from_utf8_lossy(format));
                return Err(Error::Git { what: "find a repository", repository: directory.to_owned(), why });
            }
        };
        Objects::open(Path::new(OsStr::from_bytes(common)), hash)
    }

    /// Those of a repository by its directory, the one that has `objects`.
    pub fn open(repository: &Path, hash: Hash) -> Result<Objects> {
        let directory = repository.join("objects");
        let slots = gix_odb::store::init::Slots::AsNeededByDiskState { multiplier: 2.0, minimum: PACKS_MIN };
        let options = gix_odb::store::init::Options { slots, ..Default::default() };
        let store = gix_odb::Store::at_opts(directory.clone(), hash, &mut std::iter::empty(), options)
            .map_err(fails("open", &directory))?;
        Ok(Objects {
            repository: repository.to_owned(),
            hash,
            store: Arc::new(store),
            idle: Mutex::default(),
            indexes: Mutex::default(),
        })
    }

    /// The repository's directory.
    pub fn repository(&self) -> &Path {
        &self.repository
    }

    /// By which its objects are named.
    pub fn hash(&self) -> Hash {
        self.hash
    }

    /// What git takes these words for: a branch, a tag, an abbreviated hash, `HEAD~2`.
    pub fn resolve(&self, revision: &str) -> Result<Revision> {
        let wanted = format!("{revision}^{{commit}}");
        let words = ["rev-parse", "--verify", "--quiet", "--end-of-options", &wanted];
        let said = self.git("resolve a revision", |git| git.args(words))?;
        let commit = Oid::from_hex(said.trim_ascii()).map_err(|error| Error::Git {
            what: "resolve a revision",
            repository: self.repository.clone(),
            why: error.to_string(),
        })?;
        self.revision(commit)
    }

    /// The tree of a commit.
    pub fn revision(&self, commit: Oid) -> Result<Revision> {
        let content = self.read(&commit, gix_object::Kind::Commit)?;
        let tree = gix_object::CommitRefIter::from_bytes(&content, self.hash)
            .tree_id()
            .map_err(|error| self.corrupt(&commit, error.to_string()))?;
        Ok(Revision { commit, tree })
    }

    /// Whether a commit is another one, or is found behind it by first parents, of which [`NEAR_MAX`] are looked at. One that is not may be an
    /// ancestor all the same.
    pub(crate) fn is_near_ancestor(&self, of: &Oid, commit: &Oid) -> bool {
        let mut at = *commit;
        for _ in 0..NEAR_MAX {
            if at == *of {
                return true;
            }
            let Ok(content) = self.read(&at, gix_object::Kind::Commit) else { return false };
            let parent = gix_object::CommitRefIter::from_bytes(&content, self.hash).parent_ids().next();
            let Some(parent) = parent else { return false };
            at = parent;
        }
        false
    }

    /// A directory, by its tree.
    pub fn index(&self, tree: &Oid) -> Result<Arc<Index>> {
        if let Some(index) = self.indexes.lock().get(tree) {
            return Ok(index);
        }
        let content = self.read(tree, gix_object::Kind::Tree)?;
        let index = Arc::new(self.index_of(tree, &content)?);
        self.indexes.lock().keep(*tree, index.clone());
        Ok(index)
    }

    fn index_of(&self, tree: &Oid, content: &[u8]) -> Result<Index> {
        let corrupt = |why: &str| self.corrupt(tree, why.to_owned());
        let mut entries = Vec::new();
        let handle = self.handle();
        for entry in gix_object::TreeRefIter::from_bytes(content, self.hash) {
            let entry = entry.map_err(|error| self.corrupt(tree, error.to_string()))?;
            let (kind, is_executable) = match entry.mode.kind() {
                EntryKind::Tree | EntryKind::Commit => (Kind::Directory, false),
                EntryKind::Blob => (Kind::File, false),
                EntryKind::BlobExecutable => (Kind::File, true),
                EntryKind::Link => (Kind::Symlink, false),
            };
            if check_name(entry.filename).is_err() || entry.filename.eq_ignore_ascii_case(b".git") {
                return Err(corrupt("a name that no file can have"));
            }
            let oid = (entry.mode.kind() != EntryKind::Commit).then(|| entry.oid.to_owned());
            let size = match oid {
                Some(oid) if kind != Kind::Directory => self.size(&handle, &oid)?,
                _ => 0,
            };
            entries.push(IndexEntry { name: (**entry.filename).into(), kind, is_executable, oid, size });
        }
        self.give_back(handle);
        entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        if entries.windows(2).any(|pair| pair[0].name == pair[1].name) {
            return Err(corrupt("a name is there twice"));
        }
        if u32::try_from(entries.len()).is_err() {
            return Err(corrupt("more names than can be numbered"));
        }
        Ok(Index { entries: entries.into() })
    }

    /// The commits of the submodules in a directory, in the order of their names as bytes. What an [`Index`] has no use for.
    pub fn submodules(&self, tree: &Oid) -> Result<Vec<(Name, Oid)>> {
        let content = self.read(tree, gix_object::Kind::Tree)?;
        let mut found = Vec::new();
        for entry in gix_object::TreeRefIter::from_bytes(&content, self.hash) {
            let entry = entry.map_err(|error| self.corrupt(tree, error.to_string()))?;
            if entry.mode.kind() == EntryKind::Commit {
                found.push(((**entry.filename).into(), entry.oid.to_owned()));
            }
        }
        found.sort_unstable();
        Ok(found)
    }

    /// What a revision has at a path: names joined by slashes, from its root.
    pub fn at_path(&self, tree: &Oid, path: &[u8]) -> Result<Option<IndexEntry>> {
        let (mut tree, mut names) = (*tree, path.split(|byte| *byte == b'/').peekable());
        while let Some(name) = names.next() {
            let index = self.index(&tree)?;
            let Some(entry) = index.find(name).and_then(|number| index.get(number)) else { return Ok(None) };
            if names.peek().is_none() {
                return Ok(Some(entry.clone()));
            }
            match (entry.kind, entry.oid) {
                (Kind::Directory, Some(below)) => tree = below,
                _ => return Ok(None),
            }
        }
        Ok(None)
    }

    fn size(&self, handle: &HandleArc, oid: &Oid) -> Result<u64> {
        let header = handle.try_header(oid).map_err(|error| self.corrupt(oid, error.to_string()))?;
        let header = header.ok_or_else(|| self.missing(oid))?;
        if header.kind() != gix_object::Kind::Blob {
            return Err(self.corrupt(oid, format!("it is a {}, not a blob", header.kind())));
        }
        Ok(header.size())
    }

    /// The content of a symlink.
    pub fn link(&self, oid: &Oid, size: u64) -> Result<Vec<u8>> {
        if size == 0 || size > LINK_BYTES_MAX as u64 {
            return Err(self.corrupt(oid, format!("a symlink of {size} bytes")));
        }
        self.blob(oid)
    }

    /// The content of a blob, which is to be one that fits into memory well.
    pub fn blob(&self, oid: &Oid) -> Result<Vec<u8>> {
        self.read(oid, gix_object::Kind::Blob)
    }

    /// Writes the content of a blob behind what is in the file. After an error the file may have some of it.
    pub fn write_blob(&self, oid: &Oid, size: u64, to: &mut dyn Write, path: &Path) -> Result<()> {
        if size >= STREAM_BYTES_MIN {
            return self.stream_blob(oid, size, to, path);
        }
        let content = self.blob(oid)?;
        to.write_all(&content).map_err(fails("write", path))
    }

    fn stream_blob(&self, oid: &Oid, size: u64, to: &mut dyn Write, path: &Path) -> Result<()> {
        let failed = |error: std::io::Error| self.git_failed("stream a blob", error.to_string());
        let mut child = self
            .command()
            .args(["cat-file", "blob", &oid.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(failed)?;
        let copied = match child.stdout.take() {
            Some(mut from) => self.copy_hashed(oid, size, &mut from, to, path),
            None => Err(self.git_failed("stream a blob", "it has no output".to_owned())),
        };
        if copied.is_err() {
            // It may wait for a reader.
            drop(child.kill());
        }
        let status = child.wait().map_err(failed)?;
        copied?;
        if status.success() { Ok(()) } else { Err(self.git_failed("stream a blob", status.to_string())) }
    }

    fn copy_hashed(
        &self,
        oid: &Oid,
        size: u64,
        from: &mut dyn Read,
        to: &mut dyn Write,
        path: &Path,
    ) -> Result<()> {
        let mut hasher = gix_hash::hasher(self.hash);
        hasher.update(&gix_object::encode::loose_header(gix_object::Kind::Blob, size));
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            let read = match from.read(&mut piece) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(self.git_failed("stream a blob", error.to_string())),
            };
            hasher.update(&piece[..read]);
            to.write_all(&piece[..read]).map_err(fails("write", path))?;
        }
        self.compare(oid, hasher.try_finalize())
    }

    /// A whole object, which is what its number says.
    fn read(&self, oid: &Oid, kind: gix_object::Kind) -> Result<Vec<u8>> {
        let handle = self.handle();
        let mut content = Vec::new();
        let found =
            handle.try_find(oid, &mut content).map_err(|error| self.corrupt(oid, error.to_string()))?;
        let found = found.ok_or_else(|| self.missing(oid))?.kind;
        self.give_back(handle);
        if found != kind {
            return Err(self.corrupt(oid, format!("it is a {found}, not a {kind}")));
        }
        self.compare(oid, gix_object::compute_hash(self.hash, kind, &content))?;
        Ok(content)
    }

    fn compare<E: std::fmt::Display>(&self, oid: &Oid, hashed: Result<Oid, E>) -> Result<()> {
        match hashed {
            Ok(is) if is == *oid => Ok(()),
            Ok(is) => Err(self.corrupt(oid, format!("its content is that of {is}"))),
            Err(error) => Err(self.corrupt(oid, error.to_string())),
        }
    }

    fn handle(&self) -> HandleArc {
        self.idle.lock().pop().unwrap_or_else(|| self.store.to_cache_arc())
    }

    fn give_back(&self, handle: HandleArc) {
        let mut idle = self.idle.lock();
        if idle.len() < IDLE_HANDLES_MAX {
            idle.push(handle);
        }
    }

    pub(crate) fn command(&self) -> Command {
        let mut command = git_command();
        command.arg("--git-dir").arg(&self.repository).arg("--no-replace-objects");
        command
    }

    /// What git says of this repository.
    pub(crate) fn git(
        &self,
        what: &'static str,
        with: impl FnOnce(&mut Command) -> &mut Command,
    ) -> Result<Vec<u8>> {
        let mut command = self.command();
        with(&mut command);
        output_of(command, &self.repository, what)
    }

    /// The same, of a git that has this file open as long as it runs, whatever becomes of this process.
    pub(crate) fn git_holding(
        &self,
        held: File,
        what: &'static str,
        with: impl FnOnce(&mut Command) -> &mut Command,
    ) -> Result<Vec<u8>> {
        let mut command = self.command();
        with(&mut command);
        output_from(command, held.into(), &self.repository, what, GIT_TIMEOUT)
    }

    pub(crate) fn git_failed(&self, what: &'static str, why: String) -> Error {
        Error::Git { what, repository: self.repository.clone(), why }
    }

    fn corrupt(&self, oid: &Oid, why: String) -> Error {
        Error::Corrupt { oid: *oid, repository: self.repository.clone(), why }
    }

    fn missing(&self, oid: &Oid) -> Error {
        Error::Missing { oid: *oid, repository: self.repository.clone() }
    }
}

/// What git says in this directory.
pub(crate) fn git(
    directory: &Path,
    what: &'static str,
    with: impl FnOnce(&mut Command) -> &mut Command,
) -> Result<Vec<u8>> {
    let mut command = git_command();
    with(&mut command);
    output_of(command, directory, what)
}

/// git as it is configured, without what a hook or another git may have left in the environment.
pub(crate) fn git_command() -> Command {
    let mut command = Command::new("git");
    for (name, _) in std::env::vars_os() {
        if is_left_by_others(&name) {
            command.env_remove(name);
        }
    }
    command
}

fn is_left_by_others(name: &OsStr) -> bool {
    name.as_bytes().starts_with(b"GIT_") && !KEPT_FROM_OTHERS.iter().any(|kept| name == *kept)
}

fn output_of(command: Command, repository: &Path, what: &'static str) -> Result<Vec<u8>> {
    output_from(command, Stdio::null(), repository, what, GIT_TIMEOUT)
}

pub(crate) fn output_from(
    command: Command,
    input: Stdio,
    repository: &Path,
    what: &'static str,
    within: Duration,
) -> Result<Vec<u8>> {
    let said = git::run(command, input, Wanted::All, within);
    let said = said.map_err(|error| not_ended(&error, repository, what))?;
    match said.status.success() {
        true => Ok(said.output),
        false => Err(Error::Git { what, repository: repository.to_owned(), why: said.why() }),
    }
}

/// What is said of a git that did not come to its end by itself.
pub(crate) fn not_ended(error: &std::io::Error, repository: &Path, what: &'static str) -> Error {
    let repository = repository.to_owned();
    match error.kind() {
        std::io::ErrorKind::TimedOut => Error::Late { what, repository },
        _ => Error::Git { what, repository, why: error.to_string() },
    }
}

/// Directories that were read, those least recently used going first.
#[derive(Default)]
struct Indexes {
    known: HashMap<Oid, (Arc<Index>, u64)>,
    bytes: usize,
    uses: u64,
}

impl Indexes {
    fn get(&mut self, tree: &Oid) -> Option<Arc<Index>> {
        self.uses += 1;
        let (index, used) = self.known.get_mut(tree)?;
        *used = self.uses;
        Some(index.clone())
    }

    fn keep(&mut self, tree: Oid, index: Arc<Index>) {
        self.uses += 1;
        self.bytes += index.bytes();
        if let Some((before, _)) = self.known.insert(tree, (index, self.uses)) {
            self.bytes -= before.bytes();
        }
        if self.bytes > INDEX_BYTES_MAX {
            self.make_room();
        }
    }

    /// Half goes at once, so that what it costs to find the oldest is shared by many.
    fn make_room(&mut self) {
        let mut by_use: Vec<_> = self.known.iter().map(|(tree, (_, used))| (*used, *tree)).collect();
        by_use.sort_unstable_by_key(|(used, _)| *used);
        for (_, tree) in by_use {
            if self.bytes <= INDEX_BYTES_MAX / 2 {
                break;
            }
            if let Some((index, _)) = self.known.remove(&tree) {
                self.bytes -= index.bytes();
            }
        }
    }
}

#[cfg(test)]
mod tests;
