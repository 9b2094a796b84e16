//! References, read without git: to start one takes longer than what it is asked.
//!
//! ```text
//! REPOSITORY/refs/heads/main      a hash, and a newline: newer than what `packed-refs` says
//!            packed-refs          a header, then "HASH NAME" each; "^HASH" behind it is what a tag leads to
//!            HEAD                 "ref: NAME", or a hash; that of a worktree is in its registration
//! ```
//!
//! That is how git keeps them, unless a repository says otherwise: its `extensions.refStorage`. Nothing is written here: a change is
//! git's, with its locks, its logs and its hooks ([`change`]).
//!
//! Each question is answered for sure or not at all (`None`): whoever asks asks git then. So it is with references that are kept
//! otherwise, symbolic ones, links, names that git would complain of, whatever cannot be read, and more than is worth reading.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use crate::git::GIT_TIMEOUT;
use crate::objects::{Objects, output_from};
use crate::{Hash, Oid, Result};

/// A repository's own configuration: it is some lines, and a few for each branch.
const CONFIG_BYTES_MAX: u64 = 4 << 20;

/// What is packed: half a million references. Reading more takes as long as git does.
const PACKED_BYTES_MAX: u64 = 32 << 20;

/// A file of one reference: a hash, or the name of another.
const LOOSE_BYTES_MAX: u64 = 1 << 10;

/// Files that are read to find all references below a name.
const LOOSE_MAX: usize = 1000;

/// The longest name of a reference that is looked for.
const NAME_BYTES_MAX: usize = 1024;

/// The longest path of a worktree.
const PATH_BYTES_MAX: u64 = 8 << 10;

/// What git is told of changes at once: what any pipe takes although nobody reads it yet.
const CHANGES_BYTES_MAX: usize = 8 << 10;

const SECTION: &[u8] = b"[branch";

/// What is to become of a reference, by its full name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// It is to keep a commit, whatever it has kept.
    Keep {
        /// Which.
        name: String,
        /// What.
        commit: Oid,
    },
    /// It is to go, if it is there.
    Delete {
        /// Which.
        name: String,
        /// Where it is.
        at: Oid,
    },
}

/// Changes references, by one git if they are no more than a few: all of them or none then. One that is not where it is to be is an
/// error. The reason is for their logs.
pub fn change(objects: &Objects, changes: &[Change], reason: &str) -> Result<()> {
    let mut told = String::new();
    for change in changes {
        match change {
            Change::Keep { name, commit } => told.push_str(&format!("update {name}\0{commit}\0\0")),
            Change::Delete { name, at } => told.push_str(&format!("delete {name}\0{at}\0")),
        }
        if told.len() > CHANGES_BYTES_MAX / 2 {
            tell(objects, &std::mem::take(&mut told), reason)?;
        }
    }
    if told.is_empty() { Ok(()) } else { tell(objects, &told, reason) }
}

fn tell(objects: &Objects, told: &str, reason: &str) -> Result<()> {
    const WHAT: &str = "change references";
    let failed = |error: io::Error| objects.git_failed(WHAT, error.to_string());
    if told.len() > CHANGES_BYTES_MAX {
        return Err(objects.git_failed(WHAT, "a name is too long".to_owned()));
    }
    let (from, mut to) = io::pipe().map_err(failed)?;
    to.write_all(told.as_bytes()).map_err(failed)?;
    drop(to);
    let mut command = objects.command();
    // One that leads to another is changed itself, and never what it leads to.
    command.args(["update-ref", "--no-deref", "-m", reason, "-z", "--stdin"]);
    output_from(command, from.into(), objects.repository(), WHAT, GIT_TIMEOUT).map(drop)
}

/// References of one repository.
pub(crate) struct References<'a> {
    repository: &'a Path,
    hash: Hash,
}

/// What a `HEAD` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Head {
    /// A reference, by its full name. It may not be there.
    On(String),
    /// A commit.
    At(Oid),
}

impl References<'_> {
    /// Those of a repository which keeps them in files.
    pub fn of(objects: &Objects) -> Option<References<'_>> {
        let repository = objects.repository();
        let is_in_files = !contains(&read(&repository.join("config"), CONFIG_BYTES_MAX)??, b"refstorage")
            && is_absent(&repository.join("reftable"));
        is_in_files.then(|| References { repository, hash: objects.hash() })
    }

    /// The commit, or whatever else, of a reference by its full name. `Some(None)` if there is none.
    pub fn find(&self, name: &str) -> Option<Option<Oid>> {
        if !is_plain(name) {
            return None;
        }
        // Whoever packs one writes it there before it removes the file.
        if let Some(loose) = read(&self.repository.join(name), LOOSE_BYTES_MAX)? {
            return Some(Some(self.oid(&loose)?));
        }
        let mut found = None;
        self.packed(|packed, oid| {
            if packed == name.as_bytes() {
                found = Some(oid);
            }
        })?;
        Some(found)
    }

    /// The references below a name that ends with a slash, in order.
    pub fn below(&self, prefix: &str) -> Option<Vec<(String, Oid)>> {
        if !is_plain(prefix.strip_suffix('/')?) {
            return None;
        }
        let mut found = BTreeMap::new();
        self.collect(prefix.to_owned(), &mut found)?;
        let mut is_known = true;
        self.packed(|name, oid| {
            if !name.starts_with(prefix.as_bytes()) {
                return;
            }
            match std::str::from_utf8(name).ok().filter(|name| is_plain(name)) {
                Some(name) if found.contains_key(name) => {}
                Some(name) => _ = found.insert(name.to_owned(), oid),
                None => is_known = false,
            }
        })?;
        is_known.then(|| found.into_iter().collect())
    }

    /// The branch that each worktree has, of those that are on one: its directory in the repository, or the repository itself.
    pub fn heads(&self) -> Option<Vec<(PathBuf, Head)>> {
        let mut directories = vec![self.repository.to_owned()];
        match std::fs::read_dir(self.repository.join("worktrees")) {
            Ok(entries) => {
                for entry in entries {
                    directories.push(entry.ok()?.path());
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(_) => return None,
        }
        let head = |directory: PathBuf| self.head(&directory).map(|head| (directory, head));
        directories.into_iter().map(head).collect()
    }

    /// What is checked out where this is the directory of a worktree, or of the repository.
    pub fn head(&self, directory: &Path) -> Option<Head> {
        let said = read(&directory.join("HEAD"), LOOSE_BYTES_MAX)??;
        match said.strip_prefix(b"ref: ") {
            Some(name) => {
                let name = std::str::from_utf8(name.strip_suffix(b"\n")?).ok()?;
                is_plain(name).then(|| Head::On(name.to_owned()))
            }
            None => self.oid(&said).map(Head::At),
        }
    }

    fn collect(&self, prefix: String, found: &mut BTreeMap<String, Oid>) -> Option<()> {
        let mut look_into = vec![prefix];
        let mut read_count = 0;
        while let Some(prefix) = look_into.pop() {
            let entries = match std::fs::read_dir(self.repository.join(&prefix)) {
                Ok(entries) => entries,
                Err(error) if is_none(&error) => continue,
                Err(_) => return None,
            };
            for entry in entries {
                let entry = entry.ok()?;
                let name = entry.file_name();
                // As git does: a lock, or none of its files.
                if name.as_bytes().starts_with(b".") || name.as_bytes().ends_with(b".lock") {
                    continue;
                }
                read_count += 1;
                let name = format!("{prefix}{}", name.to_str()?);
                if read_count > LOOSE_MAX || !is_plain(&name) {
                    return None;
                }
                if entry.file_type().ok()?.is_dir() {
                    look_into.push(format!("{name}/"));
                    continue;
                }
                // One that is gone by now may be packed.
                if let Some(loose) = read(&self.repository.join(&name), LOOSE_BYTES_MAX)? {
                    found.insert(name, self.oid(&loose)?);
                }
            }
        }
        Some(())
    }

    /// Tells of each packed reference.
    fn packed(&self, mut each: impl FnMut(&[u8], Oid)) -> Option<()> {
        let Some(packed) = read(&self.repository.join("packed-refs"), PACKED_BYTES_MAX)? else {
            return Some(());
        };
        let lines = match packed.strip_suffix(b"\n") {
            Some(lines) => lines,
            None => return packed.is_empty().then_some(()),
        };
        let hex = self.hash.len_in_hex();
        for line in lines.split(|byte| *byte == b'\n') {
            if matches!(line.first(), Some(b'#' | b'^')) {
                continue;
            }
            let (oid, name) = line.split_at_checked(hex)?;
            each(name.strip_prefix(b" ")?, Oid::from_hex(oid).ok()?);
        }
        Some(())
    }

    fn oid(&self, said: &[u8]) -> Option<Oid> {
        let hex = said.strip_suffix(b"\n")?;
        let oid = Oid::from_hex(hex).ok()?;
        (oid.kind() == self.hash && !oid.is_null()).then_some(oid)
    }
}

/// Whether a repository's own configuration may have a section of a branch of this name. A branch's name can be written there in more
/// ways than one.
pub(crate) fn may_be_configured(objects: &Objects, branch: &str) -> bool {
    let Some(Some(config)) = read(&objects.repository().join("config"), CONFIG_BYTES_MAX) else {
        return true;
    };
    let config = config.to_ascii_lowercase();
    let branch = branch.to_ascii_lowercase();
    let mut left = &config[..];
    while let Some(at) = left.windows(SECTION.len()).position(|window| window == SECTION) {
        left = &left[at + SECTION.len()..];
        let end = left.iter().position(|byte| matches!(byte, b']' | b'\n')).unwrap_or(left.len());
        if left[..end].contains(&b'\\') || contains_exactly(&left[..end], branch.as_bytes()) {
            return true;
        }
    }
    false
}

/// Whether it is a name that git takes for one, of characters that have no meaning to it.
fn is_plain(name: &str) -> bool {
    let is_special = |byte: u8| byte <= b' ' || byte == 0x7f || b"~^:?*[\\{".contains(&byte);
    let is_part = |part: &str| {
        !part.is_empty() && !part.starts_with('.') && !part.ends_with('.') && !part.ends_with(".lock")
    };
    name.starts_with("refs/")
        && name.len() <= NAME_BYTES_MAX
        && !name.contains("..")
        && !name.bytes().any(is_special)
        && name.split('/').all(is_part)
}

/// A whole file. `Some(None)` if there is none, `None` if it is no regular file, longer, or cannot be read.
fn read(path: &Path, bytes_max: u64) -> Option<Option<Vec<u8>>> {
    // What is no file may never end, or never begin.
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    let file = match File::options().read(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(error) if is_none(&error) => return Some(None),
        Err(_) => return None,
    };
    let found = file.metadata().ok()?;
    if found.is_dir() {
        // Of references below this name.
        return Some(None);
    }
    let mut content = Vec::new();
    file.take(bytes_max + 1).read_to_end(&mut content).ok()?;
    (found.is_file() && content.len() as u64 <= bytes_max).then_some(Some(content))
}

fn is_none(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn is_absent(path: &Path) -> bool {
    matches!(path.symlink_metadata(), Err(error) if error.kind() == io::ErrorKind::NotFound)
}

/// Whether it is in there, in letters of any case.
fn contains(text: &[u8], lowercase: &[u8]) -> bool {
    contains_exactly(&text.to_ascii_lowercase(), lowercase)
}

fn contains_exactly(text: &[u8], wanted: &[u8]) -> bool {
    text.windows(wanted.len()).any(|window| window == wanted)
}

/// Where the worktree of a registration is, as it says itself: absolute, and without the pointer's name.
pub(crate) fn worktree_of(registration: &Path) -> Option<PathBuf> {
    let said = read(&registration.join("gitdir"), PATH_BYTES_MAX)??;
    let path = said.trim_ascii_end().strip_suffix(b"/.git")?;
    path.starts_with(b"/").then(|| Path::new(OsStr::from_bytes(path)).to_owned())
}

#[cfg(test)]
mod tests;
