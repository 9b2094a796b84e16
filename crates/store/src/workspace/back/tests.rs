use std::io::Write;
use std::os::unix::fs::PermissionsExt;

use super::super::tests::changed;
use super::super::{Packed, look};
use super::*;
use crate::testing::{Repository, repository};

/// A working copy here, and what was made of it elsewhere.
struct Away {
    here: Repository,
    there: Repository,
    repository: PathBuf,
    base: Oid,
    packed: Packed,
    scratch: tempfile::TempDir,
}

fn away(here: Repository) -> Away {
    let scratch = tempfile::tempdir().unwrap();
    let goes = scratch.path().join("goes");
    fs::create_dir(&goes).unwrap();
    let found = look(here.path(), &|| true).unwrap();
    let packed = found.pack(&goes, &|| true).unwrap();
    let place = scratch.path().join("there");
    fs::create_dir(&place).unwrap();
    let there = Repository::at(&place);
    there.git(&["init", "-q", "--template=", "-b", "main", &format!("--object-format={}", found.hash)]);
    let kept = place.join(".git/objects/pack/pack.pack");
    fs::create_dir_all(kept.parent().unwrap()).unwrap();
    fs::copy(&packed.file, &kept).unwrap();
    there.git(&["index-pack", kept.to_str().unwrap()]);
    if found.is_cut {
        fs::write(place.join(".git/shallow"), format!("{}\n", found.head)).unwrap();
    }
    there.git(&["update-ref", "refs/heads/main", &found.head.to_string()]);
    there.git(&["read-tree", "--reset", "-u", &packed.worked.to_string()]);
    there.git(&["reset", "-q"]);
    Away { here, there, repository: found.repository, base: found.head, packed, scratch }
}

impl Away {
    /// A commit of all that is there now.
    fn tip(&self) -> Oid {
        self.there.commit("there");
        self.head()
    }

    fn head(&self) -> Oid {
        Oid::from_hex(self.there.git(&["rev-parse", "HEAD"]).trim().as_bytes()).unwrap()
    }

    fn claim(&self, tip: Oid) -> Claim {
        Claim { base: self.base, worked: self.packed.worked, tip }
    }

    fn pack_of(&self, tip: Oid) -> PathBuf {
        let revisions = format!("{tip}\n{}\n^{}\n", self.packed.worked, self.base);
        let asked = self.scratch.path().join("asked");
        fs::write(&asked, revisions).unwrap();
        let pack = self.scratch.path().join("comes.pack");
        let made = Command::new("git")
            .current_dir(self.there.path())
            .args(["pack-objects", "--quiet", "--revs", "--stdout"])
            .stdin(File::open(&asked).unwrap())
            .stdout(File::create(&pack).unwrap())
            .status();
        assert!(made.unwrap().success());
        pack
    }

    fn room(&self) -> PathBuf {
        let room =
            self.scratch.path().join(format!("room-{}", fs::read_dir(self.scratch.path()).unwrap().count()));
        fs::create_dir(&room).unwrap();
        room
    }

    fn receive(&self, pack: &Path, claim: Claim) -> Result<Arrived> {
        receive((&self.repository, Hash::Sha1), pack, claim, &self.room(), &|| true)
    }

    fn arrived(&self, tip: Oid) -> Arrived {
        self.receive(&self.pack_of(tip), self.claim(tip)).unwrap()
    }

    fn publish(&self, tip: Oid, branch: &str) -> Result<Vec<Moved>> {
        self.arrived(tip).publish(branch, KEPT_HERE, &self.room(), &|| true)
    }

    /// What is in the directory of the user's packs.
    fn packs(&self) -> Vec<PathBuf> {
        let packs = fs::read_dir(self.repository.join("objects/pack")).unwrap();
        packs.map(|entry| entry.unwrap().path()).collect()
    }

    fn refs(&self) -> String {
        self.here.git(&["for-each-ref"])
    }

    fn status(&self) -> String {
        self.here.git(&["status", "--porcelain", "--untracked-files=all"])
    }

    fn at(&self, branch: &str) -> String {
        self.here.git(&["rev-parse", &format!("refs/heads/{branch}")]).trim().to_owned()
    }
}

const KEPT_HERE: &str = "refs/stead/workspaces/dev/1";

#[test]
fn commits_come_back_as_a_branch_and_the_checkout_is_not_touched() {
    let away = away(changed());
    let before = away.status();
    away.there.write("made/there", b"there");
    let first = away.tip();
    away.there.write("file", b"again");
    let tip = away.tip();
    let arrived = away.arrived(tip);
    assert!(!arrived.is_nothing(&|| true).unwrap());
    assert_eq!(arrived.commits(&|| true).unwrap(), 2);
    let published = arrived.publish("stead/dev", KEPT_HERE, &away.room(), &|| true).unwrap();
    assert_eq!((published.len(), away.at("stead/dev")), (2, tip.to_string()));
    assert_eq!(away.here.git(&["rev-parse", KEPT_HERE]).trim(), tip.to_string());
    assert_eq!(away.here.git(&["rev-parse", "stead/dev~1"]).trim(), first.to_string());
    assert_eq!(away.here.git(&["show", "stead/dev:made/there"]), "there");
    assert_eq!(before, away.status());
    away.here.git(&["fsck", "--strict", "--connectivity-only"]);
    assert!(away.here.git(&["log", "--format=%s", "stead/dev"]).ends_with("second\nfirst\n"));

    // The same again is nothing new, and more of it moves the branch on, also where it was begun anew.
    assert_eq!(away.publish(tip, "stead/dev").unwrap(), []);
    away.there.git(&["reset", "-q", "--hard", "HEAD~1"]);
    away.there.write("file", b"otherwise");
    let other = away.tip();
    let published = away.publish(other, "stead/dev").unwrap();
    assert_eq!((published.len(), away.at("stead/dev")), (2, other.to_string()));
    take_back(&away.repository, Hash::Sha1, &published).unwrap();
    assert_eq!(away.at("stead/dev"), tip.to_string());
}

#[test]
fn a_branch_of_somebody_else_stays() {
    let away = away(repository(Hash::Sha1));
    away.there.write("file", b"there");
    let tip = away.tip();
    let taken = |branch: &str| match away.publish(tip, branch).unwrap_err() {
        Error::Taken { why, .. } => why,
        other => panic!("{other}"),
    };
    let before = away.refs();
    assert!(taken("main").contains("is checked out in"));
    away.here.git(&["checkout", "-q", "-b", "other"]);
    away.here.write("file", b"here");
    away.here.commit("here");
    away.here.git(&["checkout", "-q", "main"]);
    let at = away.at("other");
    assert!(taken("other").contains("commits of somebody else"));
    let check = |branch: &str| check_target(&away.repository, Hash::Sha1, branch, KEPT_HERE);
    assert!(matches!(check("main"), Err(Error::Taken { .. })));
    assert!(matches!(check("a..b"), Err(Error::BadBranch { .. })));
    check("other").unwrap();
    away.here.git(&["update-ref", KEPT_HERE, "main~0"]);
    check("main").unwrap();
    away.here.git(&["update-ref", KEPT_HERE, "other"]);
    assert!(matches!(check("main"), Err(Error::Taken { .. })));
    away.here.git(&["update-ref", "-d", KEPT_HERE]);
    assert_eq!(away.packs(), [] as [PathBuf; 0]);
    // A name below that of a branch.
    assert!(taken("other/below").contains("could not be changed"));
    for bad in ["a..b", "-x", "", "a b", "HEAD", "x.lock", "a\nb"] {
        assert!(matches!(away.publish(tip, bad), Err(Error::BadBranch { .. })), "{bad}");
    }
    away.here.git(&["branch", "-q", "-D", "other"]);
    assert_eq!(before, away.refs(), "of what was refused nothing is there");

    // Somebody goes on where it was put.
    away.publish(tip, "stead/dev").unwrap();
    away.here.git(&["update-ref", "refs/heads/stead/dev", &at]);
    assert!(taken("stead/dev").contains("commits of somebody else"));
    assert_eq!(away.at("stead/dev"), at);
    // One that has nothing of its own goes along.
    away.here.git(&["branch", "-q", "behind", "main"]);
    away.publish(tip, "behind").unwrap();
    assert_eq!(away.at("behind"), tip.to_string());
}

#[test]
fn a_branch_that_is_checked_out_meanwhile_stays() {
    let away = away(repository(Hash::Sha1));
    away.there.write("file", b"there");
    let (tip, place) = (away.tip(), away.scratch.path().join("worktree"));
    away.here.git(&["branch", "-q", "behind", "main"]);
    let (arrived, before) = (away.arrived(tip), away.refs());
    // It is looked at what the branch has, after it has been looked whether somebody has it.
    let check_out = std::sync::Once::new();
    let is_wanted = || {
        check_out
            .call_once(|| drop(away.here.git(&["worktree", "add", "-q", place.to_str().unwrap(), "behind"])));
        true
    };
    match arrived.publish("behind", KEPT_HERE, &away.room(), &is_wanted).unwrap_err() {
        Error::Taken { why, .. } => {
            assert!(why.contains("is checked out in") && why.contains("worktree"), "{why}")
        }
        other => panic!("{other}"),
    }
    assert_eq!(before, away.refs());
    assert_eq!(Repository::at(&place).git(&["status", "--porcelain"]), "");
}

#[test]
fn what_somebody_has_checked_out_is_not_taken_back() {
    let away = away(repository(Hash::Sha1));
    away.there.write("file", b"there");
    let tip = away.tip();
    let (published, place) = (away.publish(tip, "stead/dev").unwrap(), away.scratch.path().join("worktree"));
    away.here.git(&["worktree", "add", "-q", place.to_str().unwrap(), "stead/dev"]);
    take_back(&away.repository, Hash::Sha1, &published).unwrap();
    assert_eq!(away.at("stead/dev"), tip.to_string());
    away.here.git(&["fsck", "--strict", "--connectivity-only"]);
    assert_eq!(Repository::at(&place).git(&["status", "--porcelain"]), "");
}

#[test]
fn a_branch_that_is_to_be_somebody_s_first_stays_for_him() {
    let away = away(repository(Hash::Sha1));
    away.there.write("file", b"there");
    let tip = away.tip();
    away.here.git(&["symbolic-ref", "HEAD", "refs/heads/stead/dev"]);
    assert!(matches!(away.publish(tip, "stead/dev"), Err(Error::Taken { .. })));
    away.here.git(&["symbolic-ref", "HEAD", "refs/heads/main"]);
    away.publish(tip, "stead/dev").unwrap();
}

#[test]
fn of_what_is_not_put_in_place_to_its_end_nothing_stays() {
    let away = away(repository(Hash::Sha1));
    away.there.write("file", b"there");
    let tip = away.tip();
    let arrived = away.arrived(tip);
    let packs = fs::read_dir(arrived.aside.join("objects/pack")).unwrap();
    let index = packs.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let index = index.into_iter().find(|name| name.ends_with(".idx")).unwrap();
    let to = away.repository.join("objects/pack");
    fs::create_dir_all(&to).unwrap();
    // What a daemon has left that was killed, and something that cannot be written over, once all but that is in place.
    fs::write(to.join("tmp_stead_1_pack-left.pack"), b"left").unwrap();
    fs::write(to.join("tmp_stead_2_pack-other.pack"), b"another one's").unwrap();
    let obstacle = to.join(format!("tmp_stead_1_{index}"));
    fs::create_dir(&obstacle).unwrap();
    let before = away.refs();
    arrived.publish("stead/dev", KEPT_HERE, &away.room(), &|| true).unwrap_err();
    let mut left = away.packs();
    left.sort();
    assert_eq!((before, left), (away.refs(), vec![obstacle.clone(), to.join("tmp_stead_2_pack-other.pack")]));
    fs::remove_dir(obstacle).unwrap();
}

#[test]
fn what_was_in_place_once_can_be_read_whatever_is_taken_back() {
    let away = away(repository(Hash::Sha1));
    away.there.write("file", b"there");
    let inner = away.tip();
    away.there.write("added", b"of it");
    let tip = away.tip();
    let before = away.refs();
    let published = away.publish(tip, "stead/dev").unwrap();
    let packs = away.packs();
    // Somebody uses a part of it, which git does not write once more.
    away.here.git(&["tag", "somebody-s", &inner.to_string()]);
    away.here.write("used", b"of it");
    away.here.git(&["add", "used"]);
    take_back(&away.repository, Hash::Sha1, &published).unwrap();
    assert_eq!(away.packs(), packs);
    assert_eq!(away.here.git(&["show", "somebody-s:file"]), "there");
    assert_eq!(away.here.git(&["show", ":used"]), "of it");
    away.here.git(&["fsck", "--strict", "--connectivity-only"]);
    away.here.git(&["tag", "-d", "somebody-s"]);
    assert_eq!(before, away.refs());

    // The same of what was refused when it was in place.
    away.here.git(&["branch", "in-the-way"]);
    assert!(matches!(away.publish(inner, "in-the-way/below"), Err(Error::Taken { .. })));
    assert_eq!(away.here.git(&["show", &format!("{inner}:file")]), "there");
}

#[test]
fn what_cannot_be_taken_back_is_told_and_the_rest_is_taken_back() {
    let away = away(repository(Hash::Sha1));
    away.there.write("file", b"there");
    let tip = away.tip();
    let published = away.publish(tip, "stead/dev").unwrap();
    let mut also = published.clone();
    // No git can be asked who has a branch that is called so.
    also.insert(0, Moved { name: "refs/heads/\0".to_owned(), was: None, now: tip });
    let failed = take_back(&away.repository, Hash::Sha1, &also);
    assert!(failed.is_err() && !matches!(failed, Err(Error::Taken { .. })), "{failed:?}");
    assert_eq!(away.here.git(&["for-each-ref", "refs/heads/stead", KEPT_HERE]), "");
}

#[test]
fn what_would_have_to_be_resolved_is_told() {
    let away = away(repository(Hash::Sha1));
    away.there.write("file", b"there");
    away.there.write("dir/a", b"there");
    let tip = away.tip();
    let ours = || Oid::from_hex(away.at("main").as_bytes()).unwrap();
    let conflicts = |ours: Oid| away.arrived(tip).conflicts(&ours, &away.room(), &|| true).unwrap();
    assert_eq!(conflicts(ours()), Some(Vec::new()));
    away.here.write("file", b"here");
    away.here.write("run", b"here");
    away.here.commit("here");
    assert_eq!(conflicts(ours()), Some(vec![b"file".to_vec()]));
    // Whatever has nothing in common with it.
    away.here.git(&["checkout", "-q", "--orphan", "other"]);
    away.here.commit("other");
    assert_eq!(conflicts(Oid::from_hex(away.at("other").as_bytes()).unwrap()), None);
    let called_off = away.arrived(tip).conflicts(&ours(), &away.room(), &|| false);
    assert!(matches!(called_off, Err(Error::CalledOff)));
}

#[test]
fn of_many_and_long_conflicts_some_are_told() {
    let here = repository(Hash::Sha1);
    let long = |at: usize| format!("{}{at}", format!("{}/", "d".repeat(200)).repeat(15));
    for at in 0..40 {
        here.write(&long(at), b"first");
    }
    here.commit("long");
    let away = away(here);
    for (of, content) in [(&away.there, &b"there"[..]), (&away.here, b"here")] {
        (0..40).for_each(|at| of.write(&long(at), content));
        of.commit("changed");
    }
    let tip = away.head();
    let ours = Oid::from_hex(away.at("main").as_bytes()).unwrap();
    let told = away.arrived(tip).conflicts(&ours, &away.room(), &|| true).unwrap().unwrap();
    assert_eq!(told.len(), TOLD_BYTES_MAX / long(10).len());
}

#[test]
fn git_looks_at_what_came_within_limits() {
    let scratch = tempfile::tempdir().unwrap();
    let limits = |mut command: Command| {
        let ran = command.args(["-c", "alias.limits=!ulimit -v; ulimit -f; ulimit -c", "limits"]).output();
        String::from_utf8(ran.unwrap().stdout).unwrap()
    };
    assert_eq!(limits(strict_git(scratch.path())), "4194304\n8388608\n0\n");
    // Of what has less already, whoever may raise that has as much as is said, and others what they have.
    let strict = strict_git(scratch.path());
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -f 4096; exec \"$@\"", "sh"]).arg(strict.get_program());
    command.args(strict.get_args()).current_dir(scratch.path());
    let said = limits(command);
    assert!(["4194304\n4096\n0\n", "4194304\n8388608\n0\n"].contains(&&*said), "{said}");
}

#[test]
fn what_is_merged_is_counted_now_and_then() {
    let scratch = tempfile::tempdir().unwrap();
    let place = scratch.path().join("ab");
    fs::create_dir(&place).unwrap();
    let looked = Mutex::new(Instant::now());
    let at = |intervals: u32| *looked.lock().unwrap() + MERGED_INTERVAL * intervals;
    let is_full = |most: u64, now: Instant| is_full(scratch.path(), most, &looked, now);
    assert!(!is_full(0, at(1)), "nothing is there");
    let file = File::create(place.join("cd")).unwrap();
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, 1 << 20).unwrap();
    assert!(is_full(1 << 19, at(1)) && !is_full(2 << 20, at(1)));
    assert!(!is_full(0, at(0)), "it was looked just then");
    assert!(!is_full(0, at(1) - Duration::from_nanos(1)) && is_full(0, at(1)));
}

#[test]
fn a_patch_is_what_was_done_there_and_applies_to_the_files_here() {
    let away = away(changed());
    away.there.write("dir/a", b"there\0binary");
    away.there.write("made", b"there");
    fs::remove_file(away.there.path().join("file")).unwrap();
    fs::set_permissions(away.there.path().join("run"), fs::Permissions::from_mode(0o644)).unwrap();
    let tip = away.tip();
    let patch = away.scratch.path().join("a.patch");
    away.arrived(tip).write_patch(&patch, &|| true).unwrap();
    away.here.git(&["apply", patch.to_str().unwrap()]);
    assert_eq!(fs::read(away.here.path().join("dir/a")).unwrap(), b"there\0binary");
    assert!(!away.here.path().join("file").exists() && away.here.path().join("made").exists());
    assert_eq!(fs::metadata(away.here.path().join("run")).unwrap().permissions().mode() & 0o111, 0);
    let was = fs::read(&patch).unwrap();
    assert!(matches!(away.arrived(tip).write_patch(&patch, &|| true), Err(Error::Exists { .. })));
    assert_eq!(fs::read(&patch).unwrap(), was);
    let parts = fs::read_dir(away.scratch.path()).unwrap().flatten();
    assert_eq!(parts.filter(|entry| entry.path().extension() == Some(OsStr::new("part"))).count(), 0);
}

#[test]
fn a_repository_without_its_history_takes_what_comes_back() {
    let (whole, scratch) = (changed(), tempfile::tempdir().unwrap());
    let place = scratch.path().join("shallow");
    let url = format!("file://{}", whole.path().display());
    whole.git(&["clone", "-q", "--depth=1", &url, place.to_str().unwrap()]);
    let away = away(Repository::at(&place));
    assert!(away.here.git(&["cat-file", "commit", "HEAD"]).contains("\nparent "));
    away.there.git(&["fsck", "--strict"]);
    assert_eq!(away.there.git(&["log", "--format=%s"]), "second\n");
    away.there.write("file", b"there");
    let tip = away.tip();
    away.publish(tip, "stead/dev").unwrap();
    assert_eq!(away.at("stead/dev"), tip.to_string());
}

#[test]
fn nothing_done_is_nothing() {
    let away = away(changed());
    let tip = away.tip();
    let arrived = away.arrived(tip);
    assert!(arrived.is_nothing(&|| true).unwrap(), "a commit of what went there");
    assert!(!away.arrived(away.base).is_nothing(&|| true).unwrap(), "what went there was taken back");
    // Which went there as changes, and is committed by somebody.
    away.there.write("another", b"more");
    assert!(!away.arrived(away.tip()).is_nothing(&|| true).unwrap());
}

/// What was written there with git's own plumbing, as nobody does.
fn hostile(away: &Away, tree: &[u8]) -> Oid {
    let tree = away.there.hash_object("tree", tree);
    let commit = format!(
        "tree {tree}\nparent {}\nauthor a <a@b> 1 +0000\ncommitter a <a@b> 1 +0000\n\nhostile\n",
        away.base
    );
    away.there.hash_object("commit", commit.as_bytes())
}

fn entry(mode: &str, name: &str, oid: &Oid) -> Vec<u8> {
    [mode.as_bytes(), b" ", name.as_bytes(), b"\0", oid.as_slice()].concat()
}

#[test]
fn what_leads_out_or_into_git_is_refused() {
    let away = away(repository(Hash::Sha1));
    let blob = away.there.hash_object("blob", b"#!/bin/sh\ntouch /tmp/owned\n");
    let hooks = away.there.hash_object("tree", &entry("100755", "post-checkout", &blob));
    let modules = away.there.hash_object("blob", b"[submodule \"x\"]\n\turl = -u./owned\n\tpath = x\n");
    let before = away.refs();
    for (what, tree) in [
        ("a directory of git's", entry("40000", ".git", &hooks)),
        ("the same in other letters", entry("40000", ".GIT", &hooks)),
        ("the same as others write it", entry("40000", "git~1", &hooks)),
        ("what is above", entry("40000", "..", &hooks)),
        ("a path", entry("100644", "a/../../b", &blob)),
        ("a name twice", [entry("100644", "a", &blob), entry("100644", "a", &blob)].concat()),
        ("a command for submodules", entry("100644", ".gitmodules", &modules)),
        ("a symlink that is read", entry("120000", ".gitmodules", &blob)),
    ] {
        let tip = hostile(&away, &tree);
        let refused = away.receive(&away.pack_of(tip), away.claim(tip));
        assert!(matches!(refused, Err(Error::Refused { .. })), "{what}: {refused:?}");
    }
    assert_eq!(before, away.refs());
    let objects = away.here.git(&["count-objects", "-v"]);
    assert!(objects.contains("packs: 0"), "{objects}");
}

#[test]
fn what_is_not_whole_is_refused() {
    let away = away(repository(Hash::Sha1));
    away.there.write("file", b"there");
    let tip = away.tip();
    let whole = fs::read(away.pack_of(tip)).unwrap();
    let pack = away.scratch.path().join("hostile.pack");
    let refused = |content: &[u8], claim: Claim| {
        File::create(&pack).unwrap().write_all(content).unwrap();
        away.receive(&pack, claim)
    };
    let claim = away.claim(tip);
    assert!(refused(&whole, claim).is_ok());
    for length in [0, 11, 40, whole.len() - 1] {
        assert!(matches!(refused(&whole[..length], claim), Err(Error::Refused { .. })), "{length}");
    }
    for at in (12..whole.len()).step_by(29) {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x55;
        assert!(matches!(refused(&damaged, claim), Err(Error::Refused { .. })), "{at}");
    }
    // What is claimed to be there is not, or is not a commit.
    let absent = Oid::from_hex(&[b'7'; 40]).unwrap();
    let blob = away.there.hash_object("blob", b"there");
    for tip in [absent, blob] {
        assert!(matches!(refused(&whole, Claim { tip, ..claim }), Err(Error::Refused { .. })));
    }
    assert!(matches!(refused(&whole, Claim { base: absent, ..claim }), Err(Error::Stranger { .. })));
    // Something that it needs stays there.
    let missing = away.there.hash_object("tree", &entry("100644", "a", &absent));
    let tip = hostile(&away, &entry("40000", "a", &missing));
    let names: String = [tip, missing].iter().map(|oid| format!("{oid}\n")).collect();
    let asked = away.scratch.path().join("asked");
    fs::write(&asked, names).unwrap();
    let made = Command::new("git")
        .current_dir(away.there.path())
        .args(["pack-objects", "--quiet", "--stdout"])
        .stdin(File::open(&asked).unwrap())
        .output()
        .unwrap();
    assert!(made.status.success());
    let claim = Claim { worked: away.base, ..away.claim(tip) };
    assert!(matches!(refused(&made.stdout, claim), Err(Error::Refused { .. })));
}

#[test]
fn a_tree_that_unfolds_to_everything_is_not_unfolded() {
    let away = away(repository(Hash::Sha1));
    let mut oid = away.there.hash_object("blob", b"boom");
    let mut mode = "100644";
    for _ in 0..40 {
        let entries: Vec<Vec<u8>> = (0..10).map(|at| entry(mode, &format!("d{at}"), &oid)).collect();
        oid = away.there.hash_object("tree", &entries.concat());
        mode = "40000";
    }
    let tip = hostile(&away, &entry(mode, "d", &oid));
    let arrived = away.arrived(tip);
    assert_eq!(arrived.publish("stead/dev", KEPT_HERE, &away.room(), &|| true).unwrap().len(), 2);
    // A patch of it would be: nobody waits for that.
    let begun = std::time::Instant::now();
    let is_wanted = || begun.elapsed() < std::time::Duration::from_secs(1);
    let patch = away.scratch.path().join("a.patch");
    assert!(matches!(arrived.write_patch(&patch, &is_wanted), Err(Error::CalledOff)));
    assert!(!patch.exists());
}

#[test]
fn attributes_and_settings_that_come_along_run_nothing() {
    let here = repository(Hash::Sha1);
    let owned = here.path().join("owned");
    let command = format!("touch '{}' #", owned.display());
    for (name, value) in [
        ("filter.evil.clean", &command),
        ("filter.evil.smudge", &command),
        ("diff.evil.command", &command),
        ("diff.evil.textconv", &command),
        ("merge.evil.driver", &command),
    ] {
        here.git(&["config", name, value]);
    }
    let away = away(here);
    away.there.write(".gitattributes", b"* filter=evil diff=evil merge=evil\n");
    away.there.write("file", b"there");
    let tip = away.tip();
    away.here.write("file", b"here");
    away.here.write(".gitattributes", b"* filter=evil diff=evil merge=evil\n");
    away.here.git(&["-c", "filter.evil.clean=cat", "commit", "-qam", "here"]);
    drop(fs::remove_file(&owned));
    let arrived = away.arrived(tip);
    let ours = Oid::from_hex(away.at("main").as_bytes()).unwrap();
    assert_eq!(arrived.conflicts(&ours, &away.room(), &|| true).unwrap(), Some(vec![b"file".to_vec()]));
    arrived.write_patch(&away.scratch.path().join("a.patch"), &|| true).unwrap();
    arrived.publish("stead/dev", KEPT_HERE, &away.room(), &|| true).unwrap();
    assert!(!owned.exists());
}
