//! The scripts, run by this computer's `sh` and `git` in place of a guest's, on real working copies.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::{Command, Output as Ended, Stdio};

use store::workspace::{Found, Packed, look};

use super::*;

/// A working copy here, a guest's home, and what is on its way.
struct Place {
    scratch: tempfile::TempDir,
}

fn git(dir: &Path, words: &[&str]) -> String {
    let mut command = Command::new("git");
    command.current_dir(dir).env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
    let said = command.args(words).output().unwrap();
    assert!(said.status.success(), "git {words:?}: {}", String::from_utf8_lossy(&said.stderr));
    String::from_utf8(said.stdout).unwrap()
}

fn write(dir: &Path, path: &str, content: &str) {
    let path = dir.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

/// What is in the files, with their kinds and modes, but for git's.
fn files(top: &Path) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
    let (mut all, mut left) = (BTreeMap::new(), vec![top.to_owned()]);
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(&dir).unwrap().flatten().filter(|entry| entry.file_name() != ".git") {
            let (path, found) = (entry.path(), entry.metadata().unwrap());
            if found.is_dir() {
                left.push(path);
                continue;
            }
            let content = match found.is_symlink() {
                true => fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes(),
                false => fs::read(&path).unwrap(),
            };
            let mode = if found.is_symlink() { 0 } else { found.permissions().mode() & 0o100 };
            all.insert(path.strip_prefix(top).unwrap().to_owned(), (mode, content));
        }
    }
    all
}

impl Place {
    fn new() -> Place {
        let scratch = tempfile::tempdir().unwrap();
        for dir in ["app", "home", "goes"] {
            fs::create_dir(scratch.path().join(dir)).unwrap();
        }
        let place = Place { scratch };
        let here = place.here();
        git(&here, &["init", "-q", "-b", "main"]);
        git(&here, &["config", "user.name", "Ada O'Hara \"x\" $(id)"]);
        git(&here, &["config", "user.email", "ada@example.org"]);
        git(&here, &["config", "commit.gpgsign", "false"]);
        for name in ["one", "two", "dir/three", "gone", "dir/gone", "run"] {
            write(&here, name, name);
        }
        symlink("one", here.join("link")).unwrap();
        git(&here, &["add", "-A"]);
        git(&here, &["commit", "-qm", "first"]);
        write(&here, ".gitignore", "ignored\n");
        git(&here, &["add", "-A"]);
        git(&here, &["commit", "-qm", "second"]);
        place
    }

    /// Staged, changed, new, gone, executable and linked otherwise.
    fn change(&self) {
        let here = self.here();
        write(&here, "one", "staged");
        git(&here, &["add", "one"]);
        write(&here, "one", "staged and changed");
        write(&here, "two", "changed");
        write(&here, "new and staged", "new");
        git(&here, &["add", "new and staged"]);
        write(&here, "new/not staged", "new");
        write(&here, "-n 'x' $HOME\n", "new");
        git(&here, &["rm", "-q", "gone"]);
        fs::remove_file(here.join("dir/gone")).unwrap();
        git(&here, &["rm", "-q", "--cached", "dir/three"]);
        fs::set_permissions(here.join("run"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::remove_file(here.join("link")).unwrap();
        symlink("two", here.join("link")).unwrap();
    }

    fn here(&self) -> PathBuf {
        self.scratch.path().join("app")
    }

    fn home(&self) -> PathBuf {
        self.scratch.path().join("home")
    }

    fn packed(&self) -> (Found, Packed) {
        let found = look(&self.here(), &|| true).unwrap();
        let goes = self.scratch.path().join("goes");
        drop(fs::remove_dir_all(&goes));
        fs::create_dir(&goes).unwrap();
        let packed = found.pack(&goes, &|| true).unwrap();
        (found, packed)
    }

    fn command(&self, text: &str, variables: &[(&str, &str)]) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", text]).env_clear().env("PATH", std::env::var_os("PATH").unwrap());
        command.env("HOME", self.home()).envs(variables.iter().copied());
        command
    }

    fn import(&self, id: &str, place: &str) -> Ended {
        let (found, packed) = self.packed();
        let (head, staged) = (found.head.to_string(), packed.staged.to_string());
        let worked = packed.worked.to_string();
        let (name, email) = (found.identity.0.unwrap(), found.identity.1.unwrap());
        let variables = [
            ("W_ID", id),
            ("W_PLACE", place),
            ("W_NAME", "app"),
            ("W_FORMAT", "sha1"),
            ("W_HEAD", &head),
            ("W_CUT", if found.is_cut { "1" } else { "" }),
            ("W_STAGED", &staged),
            ("W_WORKED", &worked),
            ("W_BRANCH", found.branch.as_deref().unwrap_or_default()),
            ("W_USER", &name),
            ("W_EMAIL", &email),
        ];
        self.command(IMPORT, &variables).stdin(File::open(&packed.file).unwrap()).output().unwrap()
    }

    fn seal(&self, worked: &str, base: &str) -> (Vec<String>, Vec<u8>) {
        let place = self.home().join("app");
        let variables = [("W_PLACE", place.to_str().unwrap()), ("W_WORKED", worked), ("W_BASE", base)];
        let said = self.command(SEAL, &variables).output().unwrap();
        assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
        let end = said.stdout.iter().position(|byte| *byte == b'\n').unwrap();
        let line = String::from_utf8(said.stdout[..end].to_vec()).unwrap();
        (line.split(' ').map(str::to_owned).collect(), said.stdout[end + 1..].to_vec())
    }

    fn undo(&self, id: &str, place: &str) {
        let variables = [("W_ID", id), ("W_PLACE", place), ("W_NAME", "app")];
        assert!(self.command(UNDO, &variables).status().unwrap().success());
    }
}

#[test]
fn what_is_in_a_working_copy_is_made_there_as_it_is_here() {
    let place = Place::new();
    place.change();
    let said = place.import("1", "");
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    let there = place.home().join("app");
    assert_eq!(String::from_utf8(said.stdout).unwrap().trim_end(), there.to_str().unwrap());
    assert_eq!(files(&there), files(&place.here()));
    let status =
        |dir: &Path| git(dir, &["status", "--porcelain=v2", "--branch", "-z", "--untracked-files=all"]);
    assert_eq!(status(&there), status(&place.here()));
    for asked in
        [["log", "-1", "--format=%H %an"], ["config", "user.name", "--get"], ["branch", "--list", "main"]]
    {
        assert_eq!(git(&there, &asked), git(&place.here(), &asked));
    }
    assert_eq!(git(&there, &["rev-list", "--count", "HEAD"]), "1\n", "what was before stays here");
    assert!(git(&there, &["remote"]).is_empty() && !there.join(".git/hooks").exists());

    // What is there by now is not touched, and what is half there is nowhere.
    assert_eq!(place.import("2", "").status.code(), Some(i32::from(TAKEN)));
    let empty = place.home().join("empty");
    fs::create_dir(&empty).unwrap();
    assert!(place.import("3", empty.to_str().unwrap()).status.success());
    place.undo("2", "");
    assert!(there.join("one").exists(), "it is another's");
    place.undo("1", "");
    place.undo("3", empty.to_str().unwrap());
    assert_eq!(fs::read_dir(place.home()).unwrap().count(), 0);
}

#[test]
fn what_is_not_imported_leaves_nothing() {
    let place = Place::new();
    let (found, packed) = place.packed();
    let head = found.head.to_string();
    let variables = [
        ("W_ID", "1"),
        ("W_PLACE", ""),
        ("W_NAME", "app"),
        ("W_FORMAT", "sha1"),
        ("W_HEAD", &head),
        ("W_CUT", ""),
        ("W_STAGED", &head),
        ("W_WORKED", &head),
        ("W_BRANCH", "main"),
        ("W_USER", ""),
        ("W_EMAIL", ""),
    ];
    let pack = fs::read(&packed.file).unwrap();
    let part = place.scratch.path().join("part");
    fs::write(&part, &pack[..pack.len() / 2]).unwrap();
    let said = place.command(IMPORT, &variables).stdin(File::open(&part).unwrap()).output().unwrap();
    assert!(!said.status.success());
    assert_eq!(fs::read_dir(place.home()).unwrap().count(), 0);
    // One whose client has gone is hung up.
    let mut child =
        place.command(IMPORT, &variables).stdin(Stdio::piped()).process_group_of_its_own().spawn().unwrap();
    child.stdin.as_mut().unwrap().write_all(&pack[..64]).unwrap();
    while fs::read_dir(place.home()).unwrap().count() == 0 {
        assert!(child.try_wait().unwrap().is_none());
        std::thread::yield_now();
    }
    let group = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process_group(group, rustix::process::Signal::HUP).unwrap();
    assert!(!child.wait().unwrap().success());
    assert_eq!(fs::read_dir(place.home()).unwrap().count(), 0);
}

trait OwnGroup {
    fn process_group_of_its_own(&mut self) -> &mut Command;
}

impl OwnGroup for Command {
    fn process_group_of_its_own(&mut self) -> &mut Command {
        std::os::unix::process::CommandExt::process_group(self, 0)
    }
}

#[test]
fn what_was_done_is_sealed_without_touching_it() {
    let place = Place::new();
    place.change();
    let (found, packed) = place.packed();
    assert!(place.import("1", "").status.success());
    let there = place.home().join("app");
    let status = || git(&there, &["status", "--porcelain=v2", "-z", "--untracked-files=all"]);
    let before = status();
    let (head, tree) = (found.head.to_string(), packed.tree.to_string());
    let (said, pack) = place.seal("", "");
    assert_eq!((&said[0], &said[1], pack.len()), (&head, &tree, 0), "it is as it was");

    write(&there, "made there", "made");
    write(&there, "ignored", "ignored");
    let (said, pack) = place.seal(&packed.worked.to_string(), &head);
    assert_eq!((&said[0], before.len() < status().len()), (&head, true));
    assert!(pack.starts_with(b"PACK"));
    let shown = git(&there, &["ls-tree", "-r", "--name-only", &said[2]]);
    assert!(shown.contains("made there") && !shown.contains("ignored\n"), "{shown}");
    assert_eq!(git(&there, &["rev-parse", "HEAD"]).trim(), head);
    assert_eq!(place.seal(&packed.worked.to_string(), &head).0, said, "the same is the same commit");
    git(&there, &["add", "-A"]);
    git(&there, &["commit", "-qm", "there"]);
    let (said, _) = place.seal(&packed.worked.to_string(), &head);
    assert_eq!(said[0], said[2], "all is committed");
}

#[test]
fn what_a_guest_says_is_a_line_and_then_a_file_within_a_limit() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("output");
    let mut heard = Heard::new(Some(&path)).unwrap();
    for said in [&b"a li"[..], b"ne\nPA", b"CK"] {
        heard.take(said).unwrap();
    }
    heard.complain(&[b'x'; 1000]);
    assert_eq!(heard.complaint.len(), COMPLAINT_BYTES_MAX);
    heard.bytes = PACK_BYTES_MAX;
    assert_eq!(heard.take(b"more").unwrap_err().kind(), ErrorKind::Refused);
    assert_eq!((heard.end().unwrap(), fs::read(&path).unwrap()), (b"a line".to_vec(), b"PACK".to_vec()));
    let mut heard = Heard::new(None).unwrap();
    assert!(heard.take(&[b'x'; LINE_BYTES_MAX + 1]).is_err());
}
