//! Threads: copy-on-write worktrees of git repositories.

mod crash;
mod drop;
mod ignored;
mod land;
mod make;
mod many;
mod oracle;
mod times;
mod undo;
mod work;

use std::path::{Path, PathBuf};
use std::time::Duration;

use e2e::stead::User;
use e2e::{Finished, Program, Stead, eventually};
use serde_json::Value;

/// How long anything that has to happen may take on a busy machine.
const SOON: Duration = Duration::from_secs(60);

/// What `stead` ends with if something is in the way.
const CONFLICT: i32 = 5;

#[track_caller]
fn parsed(finished: &Finished) -> Value {
    serde_json::from_slice(&finished.stdout).unwrap_or_else(|error| panic!("not JSON ({error}): {finished}"))
}

/// An installation, and a repository called `app` in its scratch directory.
struct Bench {
    stead: Stead,
    app: PathBuf,
    user: Option<User>,
}

impl Bench {
    fn new() -> Bench {
        Bench::with(Stead::new(), None)
    }

    /// Of a plain user.
    fn of_user(user: User) -> Bench {
        Bench::with(Stead::of_user(user), Some(user))
    }

    fn with(mut stead: Stead, user: Option<User>) -> Bench {
        stead.set_env("GIT_CONFIG_GLOBAL", "/dev/null");
        let app = stead.dir("app");
        let bench = Bench { stead, app, user };
        bench.git(&["init", "-q", "-b", "main"]);
        for (name, content) in [
            ("README", "read me\n"),
            ("src/main.c", "int main;\n"),
            ("src/deep/er/x.c", "x\n"),
            ("run", "#!/bin/sh\n"),
        ] {
            bench.write(&bench.app.join(name), content);
        }
        bench.program("ln").args(["-s", "README", "link"]).cwd(&bench.app).ok();
        bench.program("chmod").args(["+x", "run"]).cwd(&bench.app).ok();
        bench.git(&["add", "-A"]);
        bench.git(&["commit", "-qm", "first"]);
        bench
    }

    /// A program of the bench's user.
    fn program(&self, name: &str) -> Program {
        let program = match self.user {
            None => Program::new(name),
            Some(User { uid, gid }) => Program::new("setpriv")
                .arg(format!("--reuid={uid}"))
                .arg(format!("--regid={gid}"))
                .args(["--clear-groups", "--", name]),
        };
        let mut program = program.env("GIT_CONFIG_GLOBAL", "/dev/null").env("HOME", self.stead.root());
        for part in ["AUTHOR", "COMMITTER"] {
            program = program.env(format!("GIT_{part}_NAME"), "test");
            program = program.env(format!("GIT_{part}_EMAIL"), "test@example.org");
        }
        program
    }

    fn write(&self, path: &Path, content: &str) {
        let above = path.parent().expect("below the root");
        self.program("mkdir").arg("-p").arg(above).ok();
        self.program("tee").arg(path).input(content).ok();
    }

    #[track_caller]
    fn git(&self, words: &[&str]) -> String {
        self.git_in(&self.app, words)
    }

    #[track_caller]
    fn git_in(&self, dir: &Path, words: &[&str]) -> String {
        // Root itself cannot enter what a plain user has mounted.
        self.program("git").arg("-C").arg(dir).args(words).ok().text()
    }

    /// `stead ARGS`, in the repository.
    fn run(&self, args: &[&str]) -> Finished {
        self.stead.program().args(args).cwd(&self.app).deadline(SOON).run()
    }

    /// The same, as soon as nobody holds what is to go: what was open is closed a moment after its reader has.
    #[track_caller]
    fn run_when_free(&self, args: &[&str]) -> Finished {
        let mut last = None;
        eventually(SOON, "nobody holds it", || {
            let finished = self.run(args);
            let is_held = finished.code() == CONFLICT && finished.errors().contains("is in use");
            last = Some(finished);
            !is_held
        });
        last.expect("it was run")
    }

    #[track_caller]
    fn ok_when_free(&self, args: &[&str]) -> Finished {
        let finished = self.run_when_free(args);
        assert_eq!(finished.code(), 0, "{finished}");
        finished
    }

    #[track_caller]
    fn json(&self, args: &[&str]) -> Value {
        parsed(&self.stead.program().args(args).arg("--json").cwd(&self.app).deadline(SOON).ok())
    }

    #[track_caller]
    fn json_when_free(&self, args: &[&str]) -> Value {
        parsed(&self.ok_when_free(&[args, &["--json"]].concat()))
    }

    /// Whom git takes for the author of what the daemon has it commit.
    fn name_the_author(&self) {
        for (key, value) in [("user.name", "test"), ("user.email", "test@example.org")] {
            self.git(&["config", key, value]);
        }
    }

    /// Makes a thread, and says where it is.
    #[track_caller]
    fn thread(&self, name: &str) -> PathBuf {
        PathBuf::from(self.json(&["thread", "new", name])["dir"].as_str().expect("a directory"))
    }

    /// What is changed in a thread: `A path`, in order.
    #[track_caller]
    fn changed(&self, name: &str) -> Vec<String> {
        let status = self.json(&["thread", "status", name]);
        let changed = status["changed"].as_array().expect("a list");
        let text = |change: &Value| format!("{} {}", text(&change["kind"]), text(&change["path"]));
        changed.iter().map(text).collect()
    }

    /// The names of the threads that there are.
    #[track_caller]
    fn threads(&self) -> Vec<String> {
        let listed = self.json(&["thread", "list"]);
        listed["threads"].as_array().expect("a list").iter().map(|thread| text(&thread["name"])).collect()
    }

    /// Removes for good what is left of threads that were dropped.
    #[track_caller]
    fn collect(&self) {
        self.json(&["thread", "gc", "--grace", "0s"]);
    }

    /// All that git and the file system know of threads.
    fn traces(&self) -> Vec<String> {
        let refs = self.git(&["for-each-ref"]);
        let worktrees = self.git(&["worktree", "list", "--porcelain"]);
        let mut traces: Vec<String> = refs.lines().chain(worktrees.lines()).map(str::to_owned).collect();
        for dir in [self.stead.root().to_owned(), self.stead.home().join("threads")] {
            let entries = std::fs::read_dir(&dir).into_iter().flatten();
            let names = entries.map(|entry| entry.expect("an entry").path().display().to_string());
            traces.extend(names.filter(|name| !name.ends_with("/h")));
        }
        traces.extend(
            e2e::leftovers::mounts_below(self.stead.root()).iter().map(|path| path.display().to_string()),
        );
        traces.sort_unstable();
        traces
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}")).to_owned()
}
