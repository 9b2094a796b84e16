//! A git working copy in a guest, and back.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use e2e::guest::GUEST_DEADLINE;
use e2e::{Finished, Program, Stead, eventually, leftovers};
use serde_json::Value;

use super::{kill, traces, vmms};

/// For what the daemon does by itself.
const DEADLINE: Duration = Duration::from_secs(60);

/// An installation with an image that has git, and a repository called `app`.
struct Bench {
    stead: Stead,
    app: PathBuf,
}

fn git(dir: &Path, words: &[&str]) -> Finished {
    let program = Program::new("git").args(["-c", "user.name=Ada", "-c", "user.email=ada@example.org"]);
    let program = program.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
    program.args(["-c", "protocol.file.allow=always"]).args(words).cwd(dir).ok()
}

fn write(dir: &Path, path: &str, content: &str) {
    let path = dir.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

impl Bench {
    /// With changes of all sorts that are not committed.
    fn new(prepared: impl FnOnce(&mut Stead)) -> Bench {
        let mut stead = Stead::new();
        stead.set_env("GIT_CONFIG_GLOBAL", "/dev/null");
        prepared(&mut stead);
        stead.make_image_with_git();
        let app = stead.dir("app");
        git(&app, &["init", "-q", "-b", "main"]);
        git(&app, &["config", "user.name", "Ada O'Hara"]);
        git(&app, &["config", "user.email", "ada@example.org"]);
        git(&app, &["remote", "add", "origin", "https://ada:hunter2@example.org/app"]);
        for name in ["one", "two", "gone", "dir/three", "run"] {
            write(&app, name, name);
        }
        write(&app, ".gitignore", "target\n");
        git(&app, &["add", "-A"]);
        git(&app, &["commit", "-qm", "first"]);
        write(&app, "one", "committed");
        git(&app, &["commit", "-qam", "second"]);
        write(&app, "one", "staged");
        git(&app, &["add", "one"]);
        write(&app, "one", "staged, and changed");
        write(&app, "new/file", "new");
        write(&app, ".env", "TOKEN=hunter2");
        write(&app, "target/large", "hunter2");
        fs::remove_file(app.join("gone")).unwrap();
        fs::set_permissions(app.join("run"), fs::Permissions::from_mode(0o755)).unwrap();
        symlink("one", app.join("link")).unwrap();
        Bench { stead, app }
    }

    fn workspace(&self, args: &[&str]) -> Program {
        self.stead.program().arg("workspace").args(args).cwd(&self.app).deadline(GUEST_DEADLINE)
    }

    #[track_caller]
    fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.workspace(args).arg("--json").ok().text()).unwrap()
    }

    #[track_caller]
    fn refused(&self, args: &[&str], code: i32, why: &str) {
        let refused = self.workspace(args).run();
        assert!(refused.code() == code && refused.errors().contains(why), "{refused}");
    }

    /// A script in the guest.
    #[track_caller]
    fn there(&self, script: &str) -> String {
        self.stead.ok(&["exec", "vm://dev", "--", "sh", "-c", script]).text()
    }

    /// What git says of the files here.
    fn status(&self) -> String {
        let all = git(&self.app, &["status", "--porcelain=v2", "--untracked-files=all"]);
        all.text() + &git(&self.app, &["for-each-ref"]).text()
    }

    fn at(&self, revision: &str) -> String {
        git(&self.app, &["rev-parse", revision]).text().trim().to_owned()
    }
}

#[test]
fn a_working_copy_goes_to_a_vm_as_it_is_and_comes_back_as_a_branch_or_a_patch() {
    let bench = Bench::new(|_| ());
    let (stead, before) = (&bench.stead, bench.status());
    stead.ok(&["vm", "create", "dev", "--image", "tiny", "--memory", "256M"]);
    bench.refused(&["prepare", "dev", "."], 5, "does not run");
    stead.vm(&["start", "dev"]);
    bench.there("mv /bin/git /bin/away");
    bench.refused(&["prepare", "dev", "."], 3, "there is no git in the vm `dev`");
    bench.there("mv /bin/away /bin/git");
    assert_eq!(bench.json(&["list"])["workspaces"], serde_json::json!([]));
    bench.refused(&["export", "dev"], 3, "there is no workspace in the vm `dev`");
    bench.refused(&["prepare", "dev", "/"], 3, "is in no working copy");

    git(&bench.app, &["add", "--force", ".env"]);
    bench.refused(
        &["prepare", "dev", "."],
        4,
        "`.env` is called as secrets are, and belongs to what is committed",
    );
    assert_eq!(bench.there("ls -A /root | grep -v cache || :"), "", "nothing of it was there");
    git(&bench.app, &["reset", "-q", ".env"]);
    let shown = bench.json(&["prepare", "dev", "dir"]);
    assert_eq!((&shown["place"], &shown["branch"]), (&"/root/app".into(), &"main".into()));
    assert_eq!(shown["went"]["left_out"], serde_json::json!([".env"]));
    assert_eq!(bench.status(), before, "nothing is changed here");
    // All of it is there, as it is here, and no more.
    let status = "cd /root/app; git status --porcelain=v2 --untracked-files=all; cat one; readlink link";
    let secret = git(&bench.app, &["status", "--porcelain=v2", "--untracked-files=all"]).text();
    let expected = secret.replace("? .env\n", "") + "staged, and changedone\n";
    assert_eq!(bench.there(status), expected);
    let more = bench.there("cd /root/app; git log --format=%s; git remote; git config user.name; ls -A .git/hooks target .env 2>/dev/null || :");
    assert_eq!(more, "second\nAda O'Hara\n");
    bench.refused(&["prepare", "dev", "."], 5, "has a workspace already");

    // Nothing was done there.
    assert_eq!(bench.json(&["export", "dev"])["exported"]["commits"], 0);
    assert_eq!(bench.status(), before);

    bench.there(
        "cd /root/app; echo there >made; git add made; git commit -qm 'made there' -- made; echo more >>two",
    );
    let exported = bench.json(&["export", "dev"])["exported"].clone();
    assert_eq!((&exported["branch"], &exported["commits"]), (&"stead/dev".into(), &2.into()));
    assert_eq!(exported["conflicts"], serde_json::json!([]));
    assert_eq!(exported["commit"], bench.at("stead/dev").as_str());
    assert_eq!(bench.at("stead/dev~2"), bench.at("main"), "it is behind what was prepared");
    assert_eq!(git(&bench.app, &["show", "stead/dev~1:made"]).text(), "there\n");
    assert_eq!(git(&bench.app, &["show", "stead/dev:two"]).text(), "twomore\n");
    assert_eq!(git(&bench.app, &["show", "stead/dev:one"]).text(), "staged, and changed");
    let files = |status: String| status.lines().filter(|line| !line.contains("refs/")).collect::<String>();
    assert_eq!(files(bench.status()), files(before.clone()), "the files are not touched");
    git(&bench.app, &["fsck", "--strict", "--connectivity-only"]);

    // As a patch it is what was done there alone.
    let patch = stead.root().join("a.patch");
    bench.json(&["export", "dev", "--patch", patch.to_str().unwrap()]);
    git(&bench.app, &["apply", "--check", patch.to_str().unwrap()]);
    let text = fs::read_to_string(&patch).unwrap();
    assert!(text.contains("+there") && text.contains("+twomore") && !text.contains("staged"), "{text}");
    bench.refused(&["export", "dev", "--patch", patch.to_str().unwrap()], 5, "already");
    assert_eq!(fs::read_to_string(&patch).unwrap(), text);

    // What is somebody's stays, and what would have to be resolved is told.
    bench.refused(&["export", "dev", "--branch", "main"], 5, "is checked out in");
    bench.refused(&["export", "dev", "--branch", "a..b"], 2, "cannot be the name of a branch");
    git(&bench.app, &["stash", "-q", "-u"]);
    write(&bench.app, "two", "here");
    git(&bench.app, &["commit", "-qam", "here"]);
    git(&bench.app, &["branch", "-f", "stead/dev", "main"]);
    let at = bench.at("stead/dev");
    bench.refused(&["export", "dev"], 5, "has commits of somebody else");
    assert_eq!(bench.at("stead/dev"), at);
    let exported = bench.json(&["export", "dev", "--branch", "other"])["exported"].clone();
    assert_eq!((&exported["onto"], &exported["conflicts"]), (&"main".into(), &serde_json::json!(["two"])));

    // A thread is a workspace as any other; what is forgotten stays there.
    let forgotten = bench.json(&["forget", "dev"]);
    assert_eq!(forgotten["place"], "/root/app");
    bench.refused(&["prepare", "dev", "."], 5, "there is something at that place in the vm `dev`");
    assert!(bench.there("ls /root /root/app").contains("made"));
    stead.program().args(["thread", "new", "fix"]).cwd(&bench.app).ok();
    let thread = PathBuf::from(stead.json(&["thread", "list"])["threads"][0]["dir"].as_str().unwrap());
    write(&thread, "of/thread", "in the thread");
    let shown = bench.json(&["prepare", "dev", "thread:fix", "--at", "/work/fix"]);
    assert_eq!((&shown["thread"], &shown["branch"]), (&"fix".into(), &"fix".into()));
    assert_eq!(
        bench.there("cd /work/fix; cat of/thread; git symbolic-ref --short HEAD"),
        "in the threadfix\n"
    );
    bench.there("cd /work/fix; git add -A; git commit -qm there");
    bench.json(&["export", "dev", "--branch", "of-fix"]);
    assert_eq!(git(&bench.app, &["show", "of-fix:of/thread"]).text(), "in the thread");
    stead.ok(&["thread", "drop", "fix", "--force"]);
    assert_eq!(left(stead), 0);
    stead.ok(&["vm", "delete", "dev", "--force"]);
    assert_eq!(bench.json(&["list"])["workspaces"], serde_json::json!([]));
}

/// What is on its way.
fn left(stead: &Stead) -> usize {
    fs::read_dir(stead.home().join("workspaces")).into_iter().flatten().count()
}

/// In place of the daemon's git: it waits where it is told to, once it is done with something.
struct Slow(PathBuf);

impl Slow {
    fn install(stead: &mut Stead) -> Slow {
        let directory = stead.dir("slow");
        let path = std::env::var_os("PATH").unwrap();
        let real =
            std::env::split_paths(&path).map(|dir| dir.join("git")).find(|path| path.is_file()).unwrap();
        let script = format!(
            "#!/bin/sh\n'{}' \"$@\"\nstatus=$?\nfor word; do\nif test -e \"{1}/at-$word\"; then touch '{1}/is-at'\n\
             while test -e \"{1}/at-$word\"; do sleep 0.05; done; fi\ndone\nexit $status\n",
            real.display(),
            directory.display()
        );
        let program = directory.join("git");
        fs::write(&program, script).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let mut first = directory.clone().into_os_string();
        first.push(":");
        first.push(path);
        stead.set_env("PATH", first);
        Slow(directory)
    }

    /// Kills the daemon once what this begins is at that word of git's.
    fn kill_at(&self, stead: &Stead, word: &str, what: Program) {
        let hold = self.0.join(format!("at-{word}"));
        fs::write(&hold, "").unwrap();
        let said = self.0.join("said");
        let mut begun = what.spawn_heard(&said);
        eventually(GUEST_DEADLINE, "git is there", || {
            let ended = begun.try_wait().unwrap();
            assert!(ended.is_none(), "it has ended: {}", fs::read_to_string(&said).unwrap_or_default());
            self.0.join("is-at").exists()
        });
        killed(stead, begun);
        fs::remove_file(hold).unwrap();
        fs::remove_file(self.0.join("is-at")).unwrap();
    }
}

/// Kills the daemon that does this, which fails.
fn killed(stead: &Stead, mut begun: std::process::Child) {
    let daemon = stead.daemon_pid();
    kill(daemon);
    eventually(DEADLINE, "the daemon has ended", || leftovers::has_ended(daemon));
    assert!(!begun.wait().unwrap().success());
}

#[test]
fn a_workspace_whose_daemon_is_killed_is_there_whole_or_not_and_can_be_asked_for_again() {
    let mut slow = None;
    let bench = Bench::new(|stead| slow = Some(Slow::install(stead)));
    let (slow, before) = (slow.unwrap(), bench.status());
    let is_nowhere = || {
        assert_eq!(bench.json(&["list"])["workspaces"], serde_json::json!([]));
        assert_eq!((left(&bench.stead), bench.status()), (0, before.clone()));
    };
    let create = ["vm", "create", "dev", "--image", "tiny", "--memory", "256M", "--workspace", "."];
    let create = bench.stead.program().args(create).cwd(&bench.app).deadline(GUEST_DEADLINE);
    slow.kill_at(&bench.stead, "pack-objects", create);
    is_nowhere();
    assert_eq!(bench.stead.dev()["image"], "tiny", "the vm stays");
    bench.stead.vm(&["start", "dev"]);
    // The guest's own git waits with the pack that it has been sent.
    let wait = "while test -e /tmp/hold; do >/tmp/held; sleep 0.1; done; exec /bin/away \"$@\"";
    bench.there(&format!(
        "mv /bin/git /bin/away; echo '#!/bin/sh\n{wait}' >/bin/git; chmod +x /bin/git; >/tmp/hold"
    ));
    let begun = bench.workspace(&["prepare", "dev", "."]).spawn();
    eventually(GUEST_DEADLINE, "the guest's git is there", || {
        bench.there("test -e /tmp/held && echo held || :") == "held\n"
    });
    killed(&bench.stead, begun);
    is_nowhere();
    bench.there("rm /tmp/hold; mv /bin/away /bin/git");
    bench.json(&["prepare", "dev", "."]);
    // The agent has a place of its own there.
    let there = bench.there("ls -A /root");
    assert_eq!(there.lines().filter(|name| *name != ".cache").collect::<Vec<_>>(), ["app"]);

    bench.there("cd /root/app; echo there >made; git add made; git commit -qm there");
    for word in ["index-pack", "update-ref"] {
        slow.kill_at(&bench.stead, word, bench.workspace(&["export", "dev"]));
        assert_eq!(bench.json(&["show", "dev"])["exported"], Value::Null);
        assert_eq!(left(&bench.stead), 0);
        let branch = git(&bench.app, &["for-each-ref", "refs/heads/stead"]).text();
        // Its last act was done, or nothing.
        assert_eq!(branch.is_empty(), word == "index-pack", "{branch}");
    }
    let exported = bench.json(&["export", "dev"])["exported"].clone();
    assert_eq!(exported["commit"], bench.at("stead/dev").as_str());
    assert_eq!(git(&bench.app, &["show", "stead/dev~1:made"]).text(), "there\n");
    git(&bench.app, &["fsck", "--strict", "--connectivity-only"]);
    let status = |of: String| of.lines().filter(|line| !line.contains("refs/")).collect::<String>();
    assert_eq!(status(bench.status()), status(before));

    // Cancelled, it leaves nothing either.
    bench.there("cd /root/app; echo more >>made");
    let at = bench.at("stead/dev");
    fs::write(slow.0.join("at-index-pack"), "").unwrap();
    let begun: Value = bench.json(&["export", "dev", "--detach"]);
    eventually(GUEST_DEADLINE, "git is there", || slow.0.join("is-at").exists());
    bench.refused(&["export", "dev"], 5, "something is being done to the workspace");
    // The vm is somebody else's meanwhile.
    assert_eq!(
        bench.stead.json(&["operation", "cancel", begun["id"].as_str().unwrap()])["state"],
        "cancelled"
    );
    assert_eq!((left(&bench.stead), bench.at("stead/dev")), (0, at));
    bench.stead.ok(&["vm", "delete", "dev", "--force"]);
}

/// Of a vm that is being started: its VMM, once it is another one than this.
fn starting(stead: &Stead, other: Option<i64>) -> i64 {
    let mut found = None;
    eventually(GUEST_DEADLINE, "a VMM is started", || {
        found = stead.dev()["pid"].as_i64().filter(|pid| Some(*pid) != other);
        found.is_some()
    });
    found.unwrap()
}

fn kill_pid(pid: i64) {
    kill(i32::try_from(pid).unwrap());
}

#[test]
fn what_is_killed_half_way_through_a_start_or_an_export_is_told_and_can_be_asked_for_again() {
    let bench = Bench::new(|_| ());
    let (stead, before) = (&bench.stead, bench.status());
    stead.ok(&["vm", "create", "dev", "--image", "tiny", "--memory", "256M"]);
    let start = || stead.program().args(["vm", "start", "dev"]).deadline(GUEST_DEADLINE);

    // The VMM, and the one that is started in its place.
    let mut begun = start().spawn();
    let first = starting(stead, None);
    kill_pid(first);
    kill_pid(starting(stead, Some(first)));
    eventually(DEADLINE, "its end is told", || stead.dev()["state"] == "failed");
    begun.wait().unwrap();
    let told = stead.json(&["vm", "list"])["vms"][0].clone();
    assert!(told["reason"].as_str().unwrap().contains("signal 9") && told["pid"].is_null(), "{told}");
    let stays: Vec<String> = traces(stead).into_iter().filter(|trace| !trace.ends_with("/vms/dev")).collect();
    assert_eq!((stays, vmms(stead).len()), (Vec::new(), 0));

    // The daemon.
    let begun = start().spawn();
    let vmm = starting(stead, None);
    killed(stead, begun);
    eventually(GUEST_DEADLINE, "the vm is taken over", || stead.dev()["state"] == "running");
    assert_eq!((stead.dev()["pid"].as_i64(), vmms(stead).len()), (Some(vmm), 1));

    bench.json(&["prepare", "dev", "."]);
    // The guest's git waits while it is told to: each time by another name, since what waited before may still do.
    let wait = "at=$(cat /tmp/at 2>/dev/null); while test -n \"$at\" && test -e \"/tmp/hold-$at\"; do >\"/tmp/held-$at\"; \
                sleep 0.1; done; exec /bin/away \"$@\"";
    let script = format!(
        "cd /root/app; echo there >made; git add made; git commit -qm there; mv /bin/git /bin/away; \
         echo '#!/bin/sh\n{wait}' >/bin/git; chmod +x /bin/git; sync"
    );
    bench.there(&script);
    // What an export leaves that fails: nothing here, and a workspace of which another one can be asked for.
    let fails_when = |round: &str, what: &dyn Fn()| {
        bench.there(&format!("echo {round} >/tmp/at; >/tmp/hold-{round}"));
        let mut begun = bench.workspace(&["export", "dev"]).spawn();
        eventually(GUEST_DEADLINE, "the guest's git is there", || {
            bench.there(&format!("test -e /tmp/held-{round} && echo held || :")) == "held\n"
        });
        what();
        assert!(!begun.wait().unwrap().success());
        assert_eq!((left(stead), bench.status()), (0, before.clone()));
        assert_eq!(bench.json(&["show", "dev"])["exported"], Value::Null);
    };
    // All agents of the guest, and what serves its ports.
    fails_when("agents", &|| {
        let all = "cd /proc; for pid in [0-9]*; do case \"$(cat $pid/comm 2>/dev/null)\" in stead-*) \
                   test $pid = 1 || echo $pid;; esac; done > /tmp/all; kill -9 $(cat /tmp/all)";
        stead.run(&["exec", "vm://dev", "--", "sh", "-c", all]);
    });
    eventually(GUEST_DEADLINE, "a command runs again", || {
        stead.run(&["exec", "vm://dev", "--", "echo", "again"]).text() == "again\n"
    });
    assert_eq!(stead.dev()["state"], "running");
    // The VMM. An export goes on for as long as its guest may be back, and what it waits for is not there then.
    fails_when("vmm", &|| {
        kill_pid(stead.dev()["pid"].as_i64().unwrap());
        eventually(DEADLINE, "its end is told", || stead.dev()["state"] == "stopped");
        assert!(vmms(stead).is_empty());
        stead.vm(&["start", "dev"]);
    });
    bench.there("rm -f /tmp/at");
    let exported = bench.json(&["export", "dev"])["exported"].clone();
    assert_eq!(exported["commit"], bench.at("stead/dev").as_str());
    assert_eq!(git(&bench.app, &["show", "stead/dev:made"]).text(), "there\n");
    stead.ok(&["vm", "delete", "dev", "--force"]);
    eventually(DEADLINE, "nothing is left", || traces(stead).is_empty());
}
