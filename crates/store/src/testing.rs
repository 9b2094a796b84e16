//! Real repositories, made by the real git.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::{Hash, Oid};

/// A repository with a working copy.
pub(crate) struct Repository {
    path: PathBuf,
    _scratch: Option<tempfile::TempDir>,
}

/// One with a commit of some files, directories and a symlink.
pub(crate) fn repository(hash: Hash) -> Repository {
    let scratch = tempfile::tempdir().expect("a directory");
    let path = scratch.path().join("repository");
    std::fs::create_dir(&path).expect("made");
    let repository = Repository { path, _scratch: Some(scratch) };
    repository.git(&["init", "-q", "-b", "main", &format!("--object-format={hash}")]);
    repository.write("file", b"content\n");
    repository.write("run", b"#!/bin/sh\n");
    repository.write("empty", b"");
    repository.write("dir/a", b"a of dir");
    repository.write("dir/b", b"b of dir");
    repository.write("dir/deep/er/c", b"c, deep");
    repository.write("dir.txt", b"sorts between dir and its content");
    repository.write("more/same", b"content\n");
    std::os::unix::fs::symlink("file", repository.path().join("link")).expect("made");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(repository.path().join("run"), mode).expect("set");
    repository.commit("first");
    repository
}

impl Repository {
    pub(crate) fn at(path: &Path) -> Repository {
        Repository { path: path.to_owned(), _scratch: None }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn write(&self, path: &str, content: &[u8]) {
        let path = self.path.join(path);
        std::fs::create_dir_all(path.parent().expect("below the root")).expect("made");
        std::fs::write(path, content).expect("written");
    }

    /// Dates all files of the index, and the symlinks.
    pub(crate) fn date_all(&self, when: &str) {
        for path in self.git(&["ls-files"]).lines() {
            let mut touch = Command::new("touch");
            let touched =
                touch.args(["--no-dereference", "--date", when, "--", path]).current_dir(&self.path).status();
            assert!(touched.expect("touch runs").success(), "{path}");
        }
    }

    pub(crate) fn commit(&self, message: &str) {
        self.git(&["add", "-A"]);
        self.git(&["commit", "-qm", message]);
    }

    pub(crate) fn git(&self, words: &[&str]) -> String {
        String::from_utf8(self.git_bytes(words)).expect("text")
    }

    pub(crate) fn git_bytes(&self, words: &[&str]) -> Vec<u8> {
        let output = self.command().args(words).stdin(Stdio::null()).output().expect("git runs");
        assert!(output.status.success(), "git {words:?}: {}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }

    /// Puts an object into the database, whatever it is.
    pub(crate) fn hash_object(&self, kind: &str, content: &[u8]) -> Oid {
        let mut child = self
            .command()
            .args(["hash-object", "-w", "--literally", "--stdin", "-t", kind])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("git runs");
        child.stdin.take().expect("piped").write_all(content).expect("written");
        let output = child.wait_with_output().expect("git ends");
        assert!(output.status.success());
        Oid::from_hex(output.stdout.trim_ascii()).expect("a number")
    }

    /// Where a loose object is.
    pub(crate) fn object(&self, oid: &str) -> PathBuf {
        self.path.join(".git/objects").join(&oid[..2]).join(&oid[2..])
    }

    /// git with no configuration but this.
    fn command(&self) -> Command {
        let mut command = Command::new("git");
        command.current_dir(&self.path).env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
        for part in ["AUTHOR", "COMMITTER"] {
            command
                .env(format!("GIT_{part}_NAME"), "test")
                .env(format!("GIT_{part}_EMAIL"), "test@example.org");
            command.env(format!("GIT_{part}_DATE"), "2026-01-01T00:00:00Z");
        }
        for setting in ["gc.auto=0", "maintenance.auto=false", "core.autocrlf=false", "core.symlinks=true"] {
            command.args(["-c", setting]);
        }
        command
    }
}
