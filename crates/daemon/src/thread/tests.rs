use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use store::node::{Ino, Time};
use store::thread::{Access, Changed, New, Remains};
use wire::api::machine::Caller;
use wire::api::thread;
use wire::api::thread::OperationKind;
use wire::api::time::Timestamp;

use super::aside::{bring_back, remove_gone, take_away};
use super::dropping::{branch_of, is_untouched, remove};
use super::looking::{changed_of, parse_listing};
use super::making::{ASIDE, Planned, beside, plan_new};
use super::operations::{forgotten_by, move_back, next_of};
use super::*;
use crate::database::threads::{Aside, DroppedRow, OperationRow};

#[test]
fn a_list_of_changes_is_read() {
    let changed = |path: &[u8], is_there| Changed { path: path.to_vec(), is_there };
    let parsed = parse_listing(b"-a/b\0+c\nd\0").expect("a list");
    assert_eq!(parsed, [changed(b"a/b", false), changed(b"c\nd", true)]);
    assert_eq!(parse_listing(b""), Some(Vec::new()));
    for wrong in [&b"+a"[..], b"a\0", b"+\0", b"\0", b"+a\0\0"] {
        assert_eq!(parse_listing(wrong), None, "{wrong:?}");
    }
}

#[test]
fn a_thread_is_put_beside_the_working_copy() {
    for (copy, dir) in [("/home/u/app", "/home/u/app-fix"), ("/srv/app.git", "/srv/app-fix"), ("/", "/-fix")]
    {
        assert_eq!(beside(Path::new(copy), "fix"), Path::new(dir));
    }
}

/// A repository with a commit, and a place for a daemon's files.
struct Bench {
    scratch: tempfile::TempDir,
}

impl Bench {
    /// All but the mount.
    fn make(&self, planned: &mut Planned) {
        planned.begin(&self.paths()).expect("begun");
        making::place_registration(&planned.row).expect("placed");
    }

    fn new() -> Bench {
        let scratch = tempfile::tempdir().expect("a directory");
        let bench = Bench { scratch };
        std::fs::create_dir_all(bench.app().join("src")).expect("made");
        bench.git(&["init", "-q", "-b", "main"]);
        std::fs::write(bench.app().join("src/main.rs"), "fn main() {}\n").expect("written");
        bench.git(&["add", "-A"]);
        bench.git(&["commit", "-qm", "first"]);
        bench
    }

    fn root(&self) -> PathBuf {
        self.scratch.path().canonicalize().expect("there")
    }

    fn app(&self) -> PathBuf {
        self.root().join("app")
    }

    fn paths(&self) -> Paths {
        let home = self.root().join("home");
        Paths::new(1000, |name| (name == "STEAD_HOME").then(|| home.clone().into_os_string())).expect("paths")
    }

    fn git(&self, words: &[&str]) -> String {
        let output = std::process::Command::new("git")
            .current_dir(self.app())
            .args(["-c", "user.name=test", "-c", "user.email=test@example.org"])
            .args(words)
            .output()
            .expect("git runs");
        assert!(output.status.success(), "git {words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    }

    fn plan(&self, new: thread::New) -> Result<Planned, ErrorObject> {
        plan_new(new, None)
    }

    /// All that is there of a thread: references, worktrees, files, directories.
    fn traces(&self) -> String {
        let mut traces = self.git(&["for-each-ref"]) + &self.git(&["worktree", "list"]);
        let mut look_at = vec![self.root()];
        while let Some(directory) = look_at.pop() {
            for entry in std::fs::read_dir(&directory).expect("listed") {
                let path = entry.expect("an entry").path();
                if path.strip_prefix(self.app()).is_ok_and(|path| path.starts_with(".git/objects")) {
                    continue;
                }
                traces += &format!("{}\n", path.display());
                if path.is_dir() {
                    look_at.push(path);
                }
            }
        }
        let mut lines: Vec<&str> = traces.lines().filter(|line| !line.contains("/home")).collect();
        lines.sort_unstable();
        lines.join("\n")
    }
}

fn fix(bench: &Bench) -> thread::New {
    let caller = Caller { cwd: ByteString::from(bench.app().join("src").as_path()), ..Caller::default() };
    let with_ignored = thread::Ignored::Absent;
    thread::New { name: "fix".to_owned(), repo: None, from: None, at: None, with_ignored, caller }
}

fn refused(planned: Result<Planned, ErrorObject>) -> (ErrorKind, String) {
    let error = planned.err().expect("refused");
    (error.kind(), error.message)
}

#[test]
fn a_thread_is_a_worktree_with_a_branch_and_an_index() {
    let bench = Bench::new();
    let mut planned = bench.plan(fix(&bench)).expect("planned");
    assert_eq!(planned.row.dir.as_path(), bench.root().join("app-fix"));
    assert_eq!(planned.row.repo.as_path(), bench.app());
    bench.make(&mut planned);
    let listed = bench.git(&["worktree", "list", "--porcelain"]);
    for line in [format!("worktree {}", planned.row.dir), "branch refs/heads/fix".to_owned()] {
        assert!(listed.lines().any(|other| other == line), "{line} in {listed}");
    }
    let row = planned.row.clone();
    let index = row.registration.as_ref().expect("registered").as_path().join("index");
    let entries =
        bench.git(&[&format!("--git-dir={}", index.parent().expect("above").display()), "ls-files"]);
    assert_eq!(entries, "src/main.rs\n");
    assert_eq!(changed_of(&row, &bench.paths()).expect("known"), []);
    let objects = Arc::new(repository_of(&row).expect("there"));
    let blobs = Arc::new(BlobCache::open(bench.paths().blobs_dir(), 1 << 20).expect("opened"));
    let tree = bench.paths().thread_dir("fix").join(TREE);
    let thread = Thread::open(&tree, objects, blobs).expect("opened");
    let pointer = thread.lookup(Ino::ROOT, b".git").expect("looked up").expect("there");
    assert!(pointer.modified >= thread.origin().made);
}

#[test]
fn nothing_is_left_of_one_whose_state_is_behind_a_symlink() {
    let bench = Bench::new();
    std::fs::create_dir_all(bench.root().join("home-of-old")).expect("made");
    std::os::unix::fs::symlink("home-of-old", bench.root().join("home")).expect("made");
    let before = bench.traces();
    let mut planned = bench.plan(fix(&bench)).expect("planned");
    planned.begin(&bench.paths()).expect("begun");
    let row = ThreadRow { registration: None, phase: ThreadPhase::Making, ..planned.row.clone() };
    remove(&row, &bench.paths()).expect("removed");
    assert_eq!(bench.traces(), before);
    // And of one that is known.
    let mut planned = bench.plan(fix(&bench)).expect("planned");
    planned.begin(&bench.paths()).expect("begun");
    remove(&planned.row, &bench.paths()).expect("removed");
    assert_eq!(bench.traces(), before);
}

#[test]
fn nothing_is_left_of_one_that_was_left_half_way() {
    let bench = Bench::new();
    let before = bench.traces();
    let undo = |planned: &Planned| {
        // As the next daemon, which knows only what was written before the first step.
        let row = ThreadRow { registration: None, phase: ThreadPhase::Making, ..planned.row.clone() };
        remove(&row, &bench.paths()).expect("removed");
        remove(&row, &bench.paths()).expect("nothing to remove");
        assert_eq!(bench.traces(), before);
    };
    undo(&bench.plan(fix(&bench)).expect("planned"));
    let mut planned = bench.plan(fix(&bench)).expect("planned");
    planned.begin(&bench.paths()).expect("begun");
    undo(&planned);
    // Once it was written down, and git knows of the place.
    let mut planned = bench.plan(fix(&bench)).expect("planned");
    bench.make(&mut planned);
    let row = ThreadRow { phase: ThreadPhase::Making, ..planned.row.clone() };
    remove(&row, &bench.paths()).expect("removed");
    assert_eq!(bench.traces(), before);
    // Between git's steps and ours.
    let planned = bench.plan(fix(&bench)).expect("planned");
    let aside = bench.paths().thread_dir("fix").join(ASIDE).join("fix");
    let held = File::open("/dev/null").expect("opened");
    worktree::register(&planned.objects, &aside, "fix", &planned.revision.commit, held).expect("registered");
    undo(&planned);
}

#[test]
fn of_what_is_where_a_thread_was_to_be_nothing_goes_with_it() {
    let bench = Bench::new();
    let place = bench.root().join("app-fix");
    bench.git(&["worktree", "add", "-q", "--detach", place.to_str().expect("UTF-8")]);
    let before = bench.traces();
    let mut planned = bench.plan(fix(&bench)).expect("planned");
    planned.begin(&bench.paths()).expect_err("it is not empty");
    remove(&planned.row, &bench.paths()).expect("removed");
    assert_eq!(bench.traces(), before);
    assert!(bench.git(&["worktree", "list"]).contains("app-fix"));
}

#[test]
fn what_is_dropped_leaves_its_branch_if_that_has_commits_of_its_own() {
    let bench = Bench::new();
    let before = bench.traces();
    let mut planned = bench.plan(fix(&bench)).expect("planned");
    bench.make(&mut planned);
    planned.mount.take().expect("prepared").undo();
    let own = bench.git(&["commit-tree", "-p", "HEAD", "-m", "own", "HEAD^{tree}"]);
    bench.git(&["update-ref", "refs/heads/fix", own.trim()]);
    let kept = branch_of(&planned.row).expect("decided");
    assert_eq!(kept, (None, Some("fix".to_owned())));
    bench.git(&["update-ref", "refs/heads/fix", "HEAD"]);
    let (branch_at, kept) = branch_of(&planned.row).expect("decided");
    assert_eq!((branch_at.as_deref(), kept), (Some(planned.row.commit.as_str()), None));
    let row = ThreadRow {
        phase: ThreadPhase::Dropping { branch_at, captures_at: None, aside: None },
        ..planned.row.clone()
    };
    remove(&row, &bench.paths()).expect("removed");
    assert_eq!(bench.traces(), before);
    std::fs::remove_dir_all(bench.app()).expect("removed");
    remove(&row, &bench.paths()).expect("its repository is gone");
}

#[test]
fn what_is_in_the_way_is_one_clear_conflict() {
    let bench = Bench::new();
    bench.git(&["branch", "taken"]);
    let named = |name: &str| thread::New { name: name.to_owned(), ..fix(&bench) };
    let (kind, message) = refused(bench.plan(named("taken")));
    assert_eq!(
        (kind, message),
        (ErrorKind::Conflict, format!("`{}` has a branch `taken` already", bench.app().display()))
    );
    std::fs::create_dir(bench.root().join("app-fix")).expect("made");
    std::fs::write(bench.root().join("app-fix/file"), "").expect("written");
    let mut planned = bench.plan(named("fix")).expect("planned");
    let error = planned.begin(&bench.paths()).expect_err("it is not empty");
    assert_eq!(error.kind(), ErrorKind::Conflict);
    let elsewhere = thread::New { at: Some("../../elsewhere".into()), ..named("fix") };
    assert_eq!(bench.plan(elsewhere).expect("planned").row.dir.as_path(), bench.root().join("elsewhere"));
    let nowhere = thread::New { repo: Some(ByteString::from(bench.root().as_path())), ..named("other") };
    assert_eq!(refused(bench.plan(nowhere)).0, ErrorKind::NotFound);
    let unknown = thread::New { from: Some("no-such".to_owned()), ..named("other") };
    assert_eq!(refused(bench.plan(unknown)).0, ErrorKind::NotFound);
    let option = thread::New { from: Some("--all".to_owned()), ..named("other") };
    assert_eq!(refused(bench.plan(option)).0, ErrorKind::NotFound);
}

#[test]
fn a_thread_that_is_half_made_or_half_dropped_is_left_alone() {
    let bench = Bench::new();
    let row = bench.plan(fix(&bench)).expect("planned").row;
    let check = |phase: ThreadPhase| check_open(&ThreadRow { phase, ..row.clone() });
    check(ThreadPhase::Open).expect("it is whole");
    for phase in
        [ThreadPhase::Making, ThreadPhase::Dropping { branch_at: None, captures_at: None, aside: None }]
    {
        let refused = check(phase).expect_err("it is not whole");
        assert_eq!(refused.kind(), ErrorKind::Conflict);
        assert_eq!(refused.hint(), Some("stead thread drop fix --force"));
    }
}

#[test]
fn a_repository_that_is_another_users_now_is_refused() {
    let bench = Bench::new();
    let row = bench.plan(fix(&bench)).expect("planned").row;
    repository_of(&row).expect("it is whose it was");
    let owner = row.owner.map(|owner| owner + 1);
    let refused = repository_of(&ThreadRow { owner, ..row.clone() }).expect_err("it was another's");
    assert_eq!(refused.kind(), ErrorKind::Refused);
    repository_of(&ThreadRow { owner: None, ..row }).expect("it was not written down whose it was");
}

#[test]
fn a_thread_stays_known_while_its_repository_cannot_be_used() {
    let bench = Bench::new();
    let mut planned = bench.plan(fix(&bench)).expect("planned");
    bench.make(&mut planned);
    let row = ThreadRow {
        phase: ThreadPhase::Dropping { branch_at: None, captures_at: None, aside: None },
        ..planned.row.clone()
    };
    let other = ThreadRow { owner: row.owner.map(|owner| owner + 1), ..row.clone() };
    remove(&other, &bench.paths()).expect_err("its repository is another user's");
    assert!(row.registration.as_ref().expect("registered").as_path().exists());
    assert!(bench.paths().thread_dir("fix").exists());
    remove(&row, &bench.paths()).expect("removed");
}

#[test]
fn a_thread_that_is_not_mounted_is_untouched_only_with_its_pointer() {
    let bench = Bench::new();
    let mut planned = bench.plan(fix(&bench)).expect("planned");
    bench.make(&mut planned);
    let (row, paths) = (planned.row.clone(), bench.paths());
    let untouched = || is_untouched(&row, &paths).expect("looked");
    let thread = || unmounted(&row, &paths).expect("opened");
    let now = Time { seconds: 1, nanoseconds: 0 };
    assert!(untouched());
    let pointer = thread().lookup(Ino::ROOT, worktree::POINTER).expect("looked up").expect("there");
    let mut file = thread().open_content(pointer.ino, Access::Write).expect("opened");
    file.write_all(b"gitdir: /elsewhere").expect("written");
    assert!(!untouched(), "it leads elsewhere");
    thread().unlink(Ino::ROOT, worktree::POINTER, Remains::Nothing, now).expect("removed");
    assert!(!untouched(), "it is gone");
    let new = New { mode: 0o755, uid: 0, gid: 0 };
    thread().make_directory(Ino::ROOT, worktree::POINTER, new, now).expect("made");
    assert!(!untouched(), "it is a directory");
    let changed = changed_of(&row, &paths).expect("known");
    assert_eq!(changed, [Changed { path: b".git".to_vec(), is_there: true }]);
}

fn operation(was: &str, now: &str, undone: bool) -> OperationRow {
    OperationRow {
        kind: OperationKind::Switch,
        at: Timestamp::from_unix(1),
        reference: "refs/heads/loose".to_owned(),
        was: Some(was.to_owned()),
        now: now.to_owned(),
        undone,
    }
}

#[test]
fn what_a_daemon_that_died_has_moved_already_is_taken_as_moved() {
    let bench = Bench::new();
    let row = bench.plan(fix(&bench)).expect("planned").row;
    let before = bench.git(&["rev-parse", "HEAD"]).trim().to_owned();
    let since = bench.git(&["commit-tree", "-p", "HEAD", "-m", "since", "HEAD^{tree}"]).trim().to_owned();
    let moved = operation(&before, &since, false);
    for (at, redo) in [(&before, false), (&since, false), (&since, true), (&before, true)] {
        bench.git(&["update-ref", "refs/heads/loose", at]);
        move_back(&row, 1, &moved, redo).expect("moved");
        let to = if redo { &since } else { &before };
        assert_eq!(bench.git(&["rev-parse", "loose"]).trim(), to);
        let left = if redo { &before } else { &since };
        assert_eq!(bench.git(&["rev-parse", "refs/stead/kept/fix/1"]).trim(), left);
    }
    let other = bench.git(&["commit-tree", "-m", "other", "HEAD^{tree}"]).trim().to_owned();
    bench.git(&["update-ref", "refs/heads/loose", &other]);
    move_back(&row, 1, &moved, false).expect_err("it was moved by somebody else");
}

#[test]
fn what_was_undone_is_forgotten_behind_what_is_done_since() {
    let known = |all: &[bool]| -> Vec<(i64, OperationRow)> {
        (1..).zip(all).map(|(number, undone)| (number, operation("a", "b", *undone))).collect()
    };
    let next = |all: &[bool], redo| next_of(known(all), redo).map(|(number, _)| number);
    assert_eq!(forgotten_by(&known(&[false, true, true, false]), 4), [2, 3]);
    assert_eq!(forgotten_by(&known(&[false; 102]), 102), [1, 2]);
    assert_eq!((next(&[false, true, true], false), next(&[false, true, true], true)), (Some(1), Some(2)));
    assert_eq!((next(&[true], false), next(&[true], true)), (None, Some(1)));
    // What could not be forgotten is not done again.
    assert_eq!((next(&[true, false], false), next(&[true, false], true)), (Some(2), None));
}

#[test]
fn a_thread_whose_repository_is_away_goes_aside_and_comes_back() {
    let bench = Bench::new();
    let mut planned = bench.plan(fix(&bench)).expect("planned");
    bench.make(&mut planned);
    planned.mount.take().expect("prepared").undo();
    let kept = "refs/stead/dropped/fix/1".to_owned();
    let open = ThreadRow { phase: ThreadPhase::Open, ..planned.row.clone() };
    let phase = ThreadPhase::Dropping {
        branch_at: Some(open.commit.clone()),
        captures_at: None,
        aside: Some(Aside { number: 1, kept: kept.clone() }),
    };
    let row = ThreadRow { phase, ..open.clone() };
    let dropped = DroppedRow {
        row: open.clone(),
        at: Timestamp::from_unix(1),
        branch_at: Some(open.commit.clone()),
        captures_at: None,
        kept,
        is_undone: false,
        operations: Vec::new(),
    };
    let (paths, away) = (bench.paths(), bench.root().join("away"));
    std::fs::create_dir_all(paths.dropped_dir()).expect("made");
    bench.git(&["update-ref", "refs/stead/kept/fix/7", "HEAD"]);
    std::fs::rename(bench.app(), &away).expect("moved");
    remove(&row, &paths).expect("put aside");
    std::fs::rename(&away, bench.app()).expect("moved");
    assert!(paths.dropped_dir().join("1").join(TREE).exists());
    bring_back(&dropped, 1, &paths).expect("had back");
    assert_eq!(changed_of(&open, &paths).expect("known"), []);
    // And with it there.
    remove(&row, &paths).expect("put aside");
    assert!(!open.registration.as_ref().expect("registered").as_path().exists());
    let head = bench.git(&["rev-parse", "HEAD"]);
    assert_eq!(bench.git(&["rev-parse", "refs/stead/dropped/fix/1/kept/7"]), head);
    bring_back(&dropped, 1, &paths).expect("had back");
    assert_eq!(changed_of(&open, &paths).expect("known"), []);
}

#[test]
fn one_that_is_being_removed_is_not_had_back() {
    let scratch = tempfile::tempdir().expect("a directory");
    let one = scratch.path().join("1");
    std::fs::create_dir_all(one.join(TREE)).expect("made");
    take_away(&one, true).expect("taken");
    assert!(!one.exists() && scratch.path().join("1.gone").join(TREE).exists());
    take_away(&one, true).expect_err("somebody has it back");
    take_away(&one, false).expect("it was not there");
    std::fs::create_dir(scratch.path().join("2")).expect("made");
    remove_gone(scratch.path()).expect("removed");
    let left: Vec<_> =
        std::fs::read_dir(scratch.path()).expect("listed").map(|e| e.expect("one").file_name()).collect();
    assert_eq!(left, ["2"]);
}
