//! A working copy that goes to another computer as it is, and what comes back from there.
//!
//! ```text
//!  here                                                               there
//!  HEAD ── its commit, alone ─┐
//!  index ──► a commit ────────┼─► a pack ──────────────────────────►  HEAD, index and files as they are here
//!  files ──► a commit ────────┘                                            │ commits, changes
//!                                                                          ▼
//!  the branch, refs/stead/workspaces/… ◄── checked, in a ◄── a pack ◄── one tip that has all of it
//!  or a patch                              repository aside
//! ```
//!
//! What goes ([`Found::pack`]) is three commits in a row: that of `HEAD`, with its name, which every commit there builds on; one of what is
//! staged; and one of what is in the files, those git does not know among them. They and all they need are in one pack; nothing before
//! `HEAD` is. It is made beside the repository, which is only read.
//!
//! What does not go: configuration, hooks, remotes and other references, what is ignored, files that git does not know and that are
//! [named](is_secret) as secrets are, contents of submodules and of other repositories below, and the contents that LFS keeps elsewhere.
//! What is committed cannot be left out of a commit: whoever has secrets there is told, and says whether they go
//! ([`Found::check_secrets`]).
//!
//! What comes back ([`back`]) is not trusted.

pub mod back;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::error::fails;
use crate::git::{GIT_CONTENT_TIMEOUT, GIT_STATUS_TIMEOUT, GIT_TIMEOUT, Said, Wanted, run_while};
use crate::objects::{git_command, not_ended};
use crate::{Hash, Oid};

/// The largest pack that goes or comes: what a guest's disk of some gigabytes has room for, beside the files of it.
pub const PACK_BYTES_MAX: u64 = 4 << 30;

/// What files that git does not know may have together: somebody has forgotten to have more than that ignored.
pub const UNTRACKED_BYTES_MAX: u64 = 1 << 30;

/// So many paths are told of what was left out or is not there.
pub const PATHS_TOLD_MAX: usize = 64;

/// So many secrets are named in the words of a refusal: one line is to be read.
const SECRETS_NAMED_MAX: usize = 8;

/// The author of the commits that carry what is not committed: whoever exports them makes others.
const NOBODY: (&str, &str) = ("stead", "stead@localhost");

/// Their time, so that the same state has the same name.
const NO_TIME: &str = "@1000000000 +0000";

/// Or why there is none.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a working copy does not go, or why nothing comes back.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not the files of a repository.
    #[error("`{}` is in no working copy of a git repository: {why}", dir.display())]
    NoWorkingCopy {
        /// Where somebody looked for one.
        dir: PathBuf,
        /// What git said.
        why: String,
    },
    /// A repository in which nothing was committed.
    #[error("`{}` has no commit yet", root.display())]
    NoCommit {
        /// The working copy.
        root: PathBuf,
    },
    /// A merge is under way.
    #[error("`{}` has a merge that is not resolved: {path}", root.display())]
    Unmerged {
        /// The working copy.
        root: PathBuf,
        /// One of the paths.
        path: String,
    },
    /// Files that git knows are called as secrets are.
    #[error(
        "{} called as secrets are, and {} to what is committed or staged",
        secrets(paths),
        belongs(paths)
    )]
    Secrets {
        /// Their paths.
        paths: Vec<Vec<u8>>,
    },
    /// More than anybody carries.
    #[error("{what} has {bytes} bytes, and {most} are the most")]
    TooMuch {
        /// What.
        what: &'static str,
        /// Its size.
        bytes: u64,
        /// The limit.
        most: u64,
    },
    /// What the work began from is not in the repository.
    #[error("the commit {commit} that the work began from is not in `{}`", repository.display())]
    Stranger {
        /// Which.
        commit: Oid,
        /// Where it is missed.
        repository: PathBuf,
    },
    /// What came is not what it should be.
    #[error("what came back is not taken: {why}")]
    Refused {
        /// What is wrong with it.
        why: String,
    },
    /// The name of a branch that none has.
    #[error("`{name}` cannot be the name of a branch")]
    BadBranch {
        /// The name, printable.
        name: String,
    },
    /// The branch is somebody's.
    #[error("the branch `{branch}` {why}, and stays as it is")]
    Taken {
        /// Which.
        branch: String,
        /// What keeps it.
        why: String,
    },
    /// The file is there.
    #[error("there is a `{}` already", path.display())]
    Exists {
        /// Which.
        path: PathBuf,
    },
    /// Nobody wants it any more.
    #[error("it was called off")]
    CalledOff,
    /// Something did not work.
    #[error(transparent)]
    Store(#[from] crate::Error),
}

fn secrets(paths: &[Vec<u8>]) -> String {
    let named: Vec<String> =
        paths.iter().take(SECRETS_NAMED_MAX).map(|path| format!("`{}`", shown(path))).collect();
    let (last, before) = named.split_last().map_or(("", &[][..]), |(last, before)| (last.as_str(), before));
    match (paths.len() - named.len(), before) {
        (0, []) => format!("{last} is"),
        (0, before) => format!("{} and {last} are", before.join(", ")),
        (1, _) => format!("{} and one file more are", named.join(", ")),
        (more, _) => format!("{} and {more} files more are", named.join(", ")),
    }
}

fn belongs(paths: &[Vec<u8>]) -> &'static str {
    if paths.len() > 1 { "belong" } else { "belongs" }
}

/// Whether somebody still wants what is being done.
pub type IsWanted<'a> = &'a (dyn Fn() -> bool + Sync);

/// A working copy that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its top.
    pub root: PathBuf,
    /// The repository's own directory, that of all of its working copies.
    pub repository: PathBuf,
    /// How its objects are named.
    pub hash: Hash,
    /// What is checked out.
    pub head: Oid,
    /// Whether that says of a parent, which does not go, and may not be here either.
    pub is_cut: bool,
    /// The branch that is checked out, if one is.
    pub branch: Option<String>,
    /// Who commits here: name and address, each if it is known.
    pub identity: (Option<String>, Option<String>),
    /// How many paths are staged otherwise than committed.
    pub staged: usize,
    /// How many files are otherwise than staged.
    pub unstaged: usize,
    /// Files that git does not know and that go along.
    pub untracked: Vec<Vec<u8>>,
    /// What git does not know and what stays here: secrets by their names, and repositories, bare ones too.
    pub left_out: Vec<Vec<u8>>,
    /// What is committed or staged and [named](is_secret) as secrets are: it goes along, as a commit is whole or not there.
    pub secrets: Vec<Vec<u8>>,
    /// Submodules, of which only the places go along.
    pub submodules: Vec<Vec<u8>>,
    /// How many files are kept by LFS, of which only the pointers go along.
    pub large: usize,
    index: PathBuf,
    objects: PathBuf,
}

/// All that goes, in one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packed {
    /// The pack.
    pub file: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// The commit of what is staged, behind that of `HEAD`.
    pub staged: Oid,
    /// The commit of what is in the files, behind that one.
    pub worked: Oid,
    /// The tree of that.
    pub tree: Oid,
}

/// Looks at the working copy that a directory is in. Changes nothing. Blocks.
pub fn look(dir: &Path, is_wanted: IsWanted<'_>) -> Result<Found> {
    let mut found = look_around(dir, is_wanted)?;
    found.look_at_files(is_wanted)?;
    Ok(found)
}

/// The same, but at none of its files: of these nothing is said. Blocks.
pub fn look_around(dir: &Path, is_wanted: IsWanted<'_>) -> Result<Found> {
    let git = |what, words: &[&str]| -> Result<Said> {
        let mut command = users_git(dir);
        command.args(words);
        ended(run(command, Stdio::null(), dir, what, is_wanted)?, dir, what)
    };
    let top = run(
        {
            let mut command = users_git(dir);
            command.args(["rev-parse", "--show-toplevel"]);
            command
        },
        Stdio::null(),
        dir,
        "find a working copy",
        is_wanted,
    )?;
    if !top.status.success() {
        return Err(Error::NoWorkingCopy { dir: dir.to_owned(), why: top.why() });
    }
    let root = path_of(top.output);
    let place = |words: &[&str]| -> Result<PathBuf> {
        let all: Vec<&str> = ["rev-parse", "--path-format=absolute"].iter().chain(words).copied().collect();
        Ok(path_of(git("find a repository", &all)?.output))
    };
    let repository = place(&["--git-common-dir"])?;
    let (index, objects) = (place(&["--git-path", "index"])?, place(&["--git-path", "objects"])?);
    let format = git("ask for a format", &["rev-parse", "--show-object-format"])?.output;
    let hash = if format.trim_ascii() == b"sha256" { Hash::Sha256 } else { Hash::Sha1 };
    // Asked without a word of failure: there may be none.
    let maybe = |words: &[&str]| -> Result<Option<String>> {
        let mut command = users_git(&root);
        command.args(words);
        let said = run(command, Stdio::null(), &root, "look at a working copy", is_wanted)?;
        let text = String::from_utf8_lossy(said.output.trim_ascii()).into_owned();
        Ok((said.status.success() && !text.is_empty()).then_some(text))
    };
    let head = maybe(&["rev-parse", "--verify", "--quiet", "HEAD^{commit}"])?;
    let head = head.ok_or_else(|| Error::NoCommit { root: root.clone() })?;
    let head = oid(head.as_bytes(), &root)?;
    // By what the commit itself says: of a repository without its history git says that it has none.
    let commit = git("look at a commit", &["cat-file", "commit", &head.to_string()])?.output;
    let headers = commit.split(|byte| *byte == b'\n').take_while(|line| !line.is_empty());
    let is_cut = headers.into_iter().any(|line| line.starts_with(b"parent "));
    // Shortened, it has more in it where a tag is called like it.
    let branch = maybe(&["symbolic-ref", "--quiet", "HEAD"])?;
    let branch = branch.and_then(|name| name.strip_prefix("refs/heads/").map(str::to_owned));
    let identity = (maybe(&["config", "user.name"])?, maybe(&["config", "user.email"])?);
    Ok(Found {
        is_cut,
        branch,
        identity,
        hash,
        head,
        index,
        objects,
        repository,
        staged: 0,
        unstaged: 0,
        untracked: Vec::new(),
        left_out: Vec::new(),
        secrets: Vec::new(),
        submodules: Vec::new(),
        large: 0,
        root,
    })
}

impl Found {
    fn look_at_files(&mut self, is_wanted: IsWanted<'_>) -> Result<()> {
        let words = ["status", "--porcelain=v2", "-z", "--untracked-files=all", "--no-renames"];
        let status = self.ask("look for changes", &words, &["--ignore-submodules=dirty"], is_wanted)?;
        for line in status.split(|byte| *byte == 0).filter(|line| !line.is_empty()) {
            let path = |fields: usize| line.splitn(fields, |byte| *byte == b' ').last().unwrap_or_default();
            match line {
                [b'1', b' ', staged, unstaged, ..] => {
                    self.staged += usize::from(*staged != b'.');
                    self.unstaged += usize::from(*unstaged != b'.');
                }
                [b'u', ..] => {
                    let path = shown(path(11));
                    return Err(Error::Unmerged { root: self.root.clone(), path });
                }
                [b'?', b' ', path @ ..] if path.ends_with(b"/") || is_secret(path) => {
                    self.left_out.push(path.to_vec());
                }
                [b'?', b' ', path @ ..] => self.untracked.push(path.to_vec()),
                _ => {}
            }
        }
        self.leave_bare_repositories();
        let staged = self.ask("list files", &["ls-files", "-z", "--stage"], &[], is_wanted)?;
        let submodules = staged.split(|byte| *byte == 0).filter(|entry| entry.starts_with(b"160000 "));
        let path = |entry: &[u8]| entry.splitn(2, |byte| *byte == b'\t').last().unwrap_or_default().to_vec();
        self.submodules = submodules.map(path).collect();
        // What goes, whatever is checked out by now.
        let words = ["ls-tree", "-r", "-z", "--full-tree", &self.head.to_string()];
        let committed = self.ask("list files", &words, &[], is_wanted)?;
        let known = [&staged, &committed].into_iter().flat_map(|listed| listed.split(|byte| *byte == 0));
        let known = known.filter(|entry| !entry.is_empty()).map(path).filter(|path| is_secret(path));
        self.secrets = known.collect::<BTreeSet<_>>().into_iter().collect();
        let large = self.ask("list files", &["ls-files", "-z", ":(attr:filter=lfs)"], &[], is_wanted)?;
        self.large = large.split(|byte| *byte == 0).filter(|path| !path.is_empty()).count();
        Ok(())
    }

    /// Repositories without a working copy, which git takes for files as any others: their configuration and all of their history would
    /// go along.
    fn leave_bare_repositories(&mut self) {
        let heads = self.untracked.iter().filter_map(|path| path.strip_suffix(b"/HEAD"));
        let is_one = |directory: &&[u8]| is_repository(&self.root.join(OsStr::from_bytes(directory)));
        let mut tops: Vec<Vec<u8>> =
            heads.filter(is_one).map(|directory| [directory, b"/"].concat()).collect();
        tops.sort();
        // One within another one goes with that.
        tops.dedup_by(|inner, outer| inner.starts_with(outer));
        self.untracked.retain(|path| !tops.iter().any(|top| path.starts_with(top)));
        self.left_out.retain(|path| !tops.iter().any(|top| path.starts_with(top)));
        self.left_out.extend(tops);
    }

    fn ask(
        &self,
        what: &'static str,
        words: &[&str],
        more: &[&str],
        is_wanted: IsWanted<'_>,
    ) -> Result<Vec<u8>> {
        let mut command = users_git(&self.root);
        command.args(words).args(more);
        Ok(ended(run(command, Stdio::null(), &self.root, what, is_wanted)?, &self.root, what)?.output)
    }

    /// Refuses a working copy of which secrets would go along.
    pub fn check_secrets(&self) -> Result<()> {
        match self.secrets.is_empty() {
            true => Ok(()),
            false => Err(Error::Secrets { paths: self.secrets.clone() }),
        }
    }

    /// Makes the pack of all that goes, in a directory that is there and empty. Neither the repository nor the files are changed. Refused
    /// if somebody has staged a secret since it was looked. Blocks.
    pub fn pack(&self, scratch: &Path, is_wanted: IsWanted<'_>) -> Result<Packed> {
        self.check_untracked()?;
        let objects = scratch.join("objects");
        let info = objects.join("info");
        fs::create_dir_all(&info).map_err(fails("make", &info))?;
        write_alternate(&info, &self.objects)?;
        let packing = Packing { found: self, scratch, objects, is_wanted };
        let index = packing.copied_index()?;
        let staged = packing.tree(&index)?;
        packing.take_files(&index)?;
        let tree = packing.tree(&index)?;
        packing.check_new_secrets([&staged, &tree])?;
        let staged = packing.commit(&staged, &self.head)?;
        let worked = packing.commit(&tree, &staged)?;
        let (file, bytes) = packing.pack(&[self.head, staged, worked])?;
        Ok(Packed { file, bytes, staged, worked, tree })
    }

    fn check_untracked(&self) -> Result<()> {
        // One that has gone meanwhile has no size.
        let size = |path: &Vec<u8>| {
            let path = self.root.join(OsStr::from_bytes(path));
            path.symlink_metadata().map_or(0, |found| found.len())
        };
        let bytes = self.untracked.iter().map(size).sum();
        match bytes > UNTRACKED_BYTES_MAX {
            true => {
                let what = "what git does not know and is not told to ignore";
                Err(Error::TooMuch { what, bytes, most: UNTRACKED_BYTES_MAX })
            }
            false => Ok(()),
        }
    }
}

/// The work on a pack.
struct Packing<'a> {
    found: &'a Found,
    scratch: &'a Path,
    /// Where new objects go.
    objects: PathBuf,
    is_wanted: IsWanted<'a>,
}

impl Packing<'_> {
    fn git(&self, what: &'static str, words: &[&str], index: Option<&Path>, input: Stdio) -> Result<Vec<u8>> {
        let mut command = users_git(&self.found.root);
        command.args(["-c", "core.splitIndex=false", "-c", "core.safecrlf=false"]).args(words);
        command.env("GIT_OBJECT_DIRECTORY", &self.objects);
        command.envs(index.map(|index| ("GIT_INDEX_FILE", index)));
        for part in ["AUTHOR", "COMMITTER"] {
            let (name, email) = NOBODY;
            command.env(format!("GIT_{part}_NAME"), name).env(format!("GIT_{part}_EMAIL"), email);
            command.env(format!("GIT_{part}_DATE"), NO_TIME);
        }
        let said = run(command, input, &self.found.root, what, self.is_wanted)?;
        Ok(ended(said, &self.found.root, what)?.output)
    }

    /// The user's index, which is not there if nothing was ever checked out. The copy is as old as it is: of a file that is dated no
    /// earlier than its index git knows that it may have changed since.
    fn copied_index(&self) -> Result<PathBuf> {
        let (own, copy) = (&self.found.index, self.scratch.join("index"));
        let copied = || {
            let modified = own.metadata()?.modified()?;
            fs::copy(own, &copy)?;
            File::options().write(true).open(&copy)?.set_modified(modified)
        };
        match copied() {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(copy),
            copied => copied.map(|()| copy).map_err(|error| fails("copy", own)(error).into()),
        }
    }

    fn tree(&self, index: &Path) -> Result<Oid> {
        let said = self.git("make a tree", &["write-tree"], Some(index), Stdio::null())?;
        oid(said.trim_ascii(), &self.found.root)
    }

    /// Refuses trees with secrets that were not seen when it was looked, of which nobody has said that they go.
    fn check_new_secrets(&self, trees: [&Oid; 2]) -> Result<()> {
        let mut paths = BTreeSet::new();
        for tree in trees {
            let words = ["ls-tree", "-r", "-z", "--full-tree", "--name-only", &tree.to_string()];
            let listed = self.git("list files", &words, None, Stdio::null())?;
            let secrets = listed.split(|byte| *byte == 0).filter(|path| is_secret(path));
            paths.extend(secrets.map(<[u8]>::to_vec).filter(|path| !self.found.secrets.contains(path)));
        }
        match paths.is_empty() {
            true => Ok(()),
            false => Err(Error::Secrets { paths: paths.into_iter().collect() }),
        }
    }

    fn commit(&self, tree: &Oid, parent: &Oid) -> Result<Oid> {
        let (tree, parent) = (tree.to_string(), parent.to_string());
        let words = ["commit-tree", &tree, "-p", &parent, "-m", "a workspace of stead"];
        let said = self.git("make a commit", &words, None, Stdio::null())?;
        oid(said.trim_ascii(), &self.found.root)
    }

    /// Takes the files into the index as they are.
    fn take_files(&self, index: &Path) -> Result<()> {
        // A submodule stays where the index has it: what it has moved to is not there.
        let submodules =
            self.found.submodules.iter().map(|path| [b":(exclude,top,literal)", &path[..]].concat());
        let paths: Vec<u8> = std::iter::once(b":/".to_vec())
            .chain(submodules)
            .flat_map(|mut path| {
                path.push(0);
                path
            })
            .collect();
        let words = ["add", "--update", "--pathspec-from-file=-", "--pathspec-file-nul"];
        self.git("take changed files", &words, Some(index), input(self.scratch, &paths)?)?;
        let paths: Vec<u8> =
            self.found.untracked.iter().flat_map(|path| [path, &b"\0"[..]].concat()).collect();
        let input = input(self.scratch, &paths)?;
        let words = ["update-index", "--add", "--remove", "-z", "--stdin"];
        self.git("take new files", &words, Some(index), input).map(drop)
    }

    /// These commits, each without those before it, and all that they need.
    fn pack(&self, commits: &[Oid]) -> Result<(PathBuf, u64)> {
        let commits: Vec<String> = commits.iter().map(Oid::to_string).collect();
        let words = ["rev-list", "--objects", "--no-walk"].iter().copied();
        let words: Vec<&str> = words.chain(commits.iter().map(String::as_str)).collect();
        let all = self.git("list objects", &words, None, Stdio::null())?;
        let base = self.scratch.join("goes");
        let shown = base.to_string_lossy();
        let words = ["pack-objects", "--quiet", "--delta-base-offset", &shown];
        let name = self.git("pack", &words, None, input(self.scratch, &all)?)?;
        let file = self.scratch.join(format!("goes-{}.pack", String::from_utf8_lossy(name.trim_ascii())));
        let bytes = file.metadata().map_err(fails("look at", &file))?.len();
        match bytes > PACK_BYTES_MAX {
            true => Err(Error::TooMuch { what: "the pack", bytes, most: PACK_BYTES_MAX }),
            false => Ok((file, bytes)),
        }
    }
}

/// Whether a directory is a repository's own, or that of a working copy of one: what git looks for in it.
fn is_repository(directory: &Path) -> bool {
    let is_own = directory.join("objects").is_dir() && directory.join("refs").is_dir();
    directory.join("HEAD").is_file() && (is_own || directory.join("commondir").is_file())
}

/// Whether a file has a name that files with secrets have, in whatever case, or is in a directory of such.
pub fn is_secret(path: &[u8]) -> bool {
    const NAMES: [&str; 27] = [
        ".env",
        ".envrc",
        ".netrc",
        "_netrc",
        ".npmrc",
        ".pypirc",
        ".git-credentials",
        ".pgpass",
        ".htpasswd",
        "id_rsa",
        "id_dsa",
        "id_ecdsa",
        "id_ed25519",
        "id_ecdsa_sk",
        "id_ed25519_sk",
        "credentials",
        "credentials.json",
        "credentials.toml",
        "credentials.tfrc.json",
        ".dockercfg",
        ".terraformrc",
        ".vault-token",
        ".s3cfg",
        ".boto",
        ".my.cnf",
        ".mylogin.cnf",
        "kubeconfig",
    ];
    const DIRECTORIES: [&str; 6] = [".ssh", ".aws", ".gnupg", ".kube", ".docker", ".azure"];
    const ENDS: [&str; 10] =
        [".pem", ".key", ".p12", ".pfx", ".jks", ".keystore", ".kdbx", ".ppk", ".tfstate", ".tfstate.backup"];
    // Those show which settings there are.
    const EXAMPLES: [&str; 5] = [".example", ".sample", ".template", ".dist", ".defaults"];
    let path = String::from_utf8_lossy(path).to_ascii_lowercase();
    let mut parts = path.rsplit('/');
    let name = parts.next().unwrap_or_default();
    if parts.any(|part| DIRECTORIES.contains(&part)) {
        return true;
    }
    let is_example = EXAMPLES.iter().any(|end| name.ends_with(end));
    let is_named = NAMES.contains(&name) || name.starts_with(".env.");
    !is_example && (is_named || ENDS.iter().any(|end| name.ends_with(end)))
}

/// The user's git, on the user's files: with the filters that they have set for them, and without what writes.
fn users_git(dir: &Path) -> Command {
    let mut command = git_command();
    command.current_dir(dir).args([
        "--no-optional-locks",
        "--no-replace-objects",
        "-c",
        "core.fsmonitor=false",
    ]);
    command.env("GIT_TERMINAL_PROMPT", "0");
    command
}

fn run(
    command: Command,
    input: Stdio,
    at: &Path,
    what: &'static str,
    is_wanted: IsWanted<'_>,
) -> Result<Said> {
    run_while(command, input, Wanted::All, patience(what), &|| is_wanted()).map_err(|error| {
        match error.kind() {
            std::io::ErrorKind::Interrupted => Error::CalledOff,
            _ => not_ended(&error, at, what).into(),
        }
    })
}

/// How long git may take for something.
fn patience(what: &'static str) -> Duration {
    match what {
        "look for changes" | "list files" | "merge what came" => GIT_STATUS_TIMEOUT,
        "pack" | "list objects" | "take changed files" | "take new files" | "look at what came"
        | "compare what came" => GIT_CONTENT_TIMEOUT,
        _ => GIT_TIMEOUT,
    }
}

fn ended(said: Said, at: &Path, what: &'static str) -> Result<Said> {
    match said.status.success() {
        true => Ok(said),
        false => Err(crate::Error::Git { what, repository: at.to_owned(), why: said.why() }.into()),
    }
}

fn oid(hex: &[u8], at: &Path) -> Result<Oid> {
    let failed = |why| crate::Error::Git { what: "name an object", repository: at.to_owned(), why };
    Oid::from_hex(hex).map_err(|error| failed(error.to_string()).into())
}

/// What is said of a path.
pub fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path).replace(char::is_control, "?")
}

/// A path that git has said, with the end of its line.
fn path_of(mut said: Vec<u8>) -> PathBuf {
    if said.last() == Some(&b'\n') {
        said.pop();
    }
    PathBuf::from(std::ffi::OsString::from_vec(said))
}

/// Something for git to read.
fn input(scratch: &Path, bytes: &[u8]) -> Result<Stdio> {
    let path = scratch.join("input");
    let opened = File::options().read(true).write(true).create(true).truncate(true).open(&path);
    let mut file = opened.map_err(fails("make", &path))?;
    drop(fs::remove_file(&path));
    file.write_all(bytes).and_then(|()| file.seek(SeekFrom::Start(0))).map_err(fails("write", &path))?;
    Ok(file.into())
}

/// Has a directory of objects take what it has not from another one.
fn write_alternate(info: &Path, from: &Path) -> Result<()> {
    let path = info.join("alternates");
    let line = [from.as_os_str().as_bytes(), b"\n"].concat();
    fs::write(&path, line).map_err(|error| fails("write", &path)(error).into())
}

#[cfg(test)]
mod tests;
