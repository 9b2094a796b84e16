//! Files without a mount: made, found, searched, watched, copied, removed.

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::Duration;

use e2e::tree::{Compare, assert_same};
use e2e::{DelayProxy, Sshd, Stead, eventually};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// For what has to travel or to be noticed.
const DEADLINE: Duration = Duration::from_secs(60);

fn lines(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

/// Bytes that do not repeat and do not shrink.
fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    (0..bytes.div_ceil(8)).flat_map(|_| next().to_le_bytes()).take(bytes).collect()
}

#[test]
fn a_tree_is_made_found_and_removed_without_a_mount() {
    let sshd = Sshd::start();
    let stead = Stead::with_ssh(&sshd);
    for machine in ["host:", "ssh://box"] {
        let far = stead.dir("far");
        let root = format!("{machine}{}", far.display());
        stead.ok(&["mkdir", "-p", "--mode", "750", &format!("{root}/a/b/c")]);
        assert_eq!(far.join("a/b/c").metadata().unwrap().permissions().mode() & 0o7777, 0o750);
        let there = stead.run(&["mkdir", &format!("{root}/a")]);
        assert_eq!(there.code(), 5, "{there}");
        let orphan = stead.run(&["mkdir", &format!("{root}/x/y")]);
        assert_eq!(orphan.code(), 3, "{orphan}");
        for name in ["a/one.rs", "a/b/Two.RS", "a/b/c/three.txt"] {
            std::fs::write(far.join(name), name).unwrap();
        }
        std::os::unix::fs::symlink("/", far.join("a/root")).unwrap();
        let found = |args: &[&str]| {
            let text = stead.ok(&[&["find", &root], args].concat()).text();
            let prefix = format!("{}/", far.display());
            lines(&text.replace(&prefix, ""))
        };
        assert_eq!(found(&[]), ["a", "a/b", "a/b/Two.RS", "a/b/c", "a/b/c/three.txt", "a/one.rs", "a/root"]);
        assert_eq!(found(&["--name", "*.rs"]), ["a/one.rs"]);
        assert_eq!(found(&["--name", "*.rs", "-i"]), ["a/b/Two.RS", "a/one.rs"]);
        assert_eq!(found(&["--type", "d,l", "--max-depth", "2"]), ["a", "a/b", "a/root"]);
        assert_eq!(found(&["--changed-within", "1h", "--type", "f"]).len(), 3);
        let json = stead.ok(&["find", &root, "--name", "one*", "--json"]).text();
        let line: Value = serde_json::from_str(json.trim()).unwrap();
        assert_eq!((&line["kind"], &line["size"]), (&"file".into(), &8.into()), "{json}");
        let wrong = stead.run(&["find", &root, "--name", "["]);
        assert_eq!(wrong.code(), 2, "{wrong}");
        let kept = stead.run(&["rm", &format!("{root}/a")]);
        assert_eq!(kept.code(), 5, "{kept}");
        stead.ok(&["rm", &format!("{root}/a/one.rs")]);
        assert_eq!(stead.json(&["rm", "-r", &format!("{root}/a")])["removed"], 6);
        assert!(!far.join("a").exists() && Path::new("/etc").exists());
        let gone = stead.run(&["rm", "-r", &format!("{root}/a")]);
        assert_eq!(gone.code(), 3, "{gone}");
        stead.ok(&["rm", "-rf", &format!("{root}/a")]);
    }
}

#[test]
fn content_is_searched_on_the_machine() {
    let sshd = Sshd::start();
    let stead = Stead::with_ssh(&sshd);
    let far = stead.dir("far");
    std::fs::create_dir_all(far.join("deep/.git")).unwrap();
    std::fs::create_dir_all(far.join("deep/src")).unwrap();
    let files: &[(&str, &[u8])] = &[
        ("deep/.gitignore", b"*.log\n"),
        ("deep/src/a.rs", b"fn main() {}\n// a Needle here\n"),
        ("deep/src/b.txt", b"needle\nno\nneedles (a+b)\n"),
        ("deep/x.log", b"needle\n"),
        ("deep/.hidden", b"needle\n"),
        ("deep/binary", b"\0needle\n"),
    ];
    files.iter().for_each(|(name, content)| std::fs::write(far.join(name), content).unwrap());
    let long = [b"needle".to_vec(), vec![b'x'; 1_000_000], b"\n".to_vec()].concat();
    std::fs::write(far.join("long"), long).unwrap();
    for machine in ["host:", "ssh://box"] {
        let root = format!("{machine}{}/deep", far.display());
        let search = |args: &[&str]| {
            let text = stead.ok(&[&["search", &root], args].concat()).text();
            lines(&text.replace(&format!("{}/deep/", far.display()), ""))
        };
        assert_eq!(search(&["needle"]), ["src/b.txt:1:needle", "src/b.txt:3:needles (a+b)"]);
        assert_eq!(search(&["-i", "needle", "-l"]), ["src/a.rs", "src/b.txt"]);
        assert_eq!(search(&["-F", "(a+b)"]), ["src/b.txt:3:needles (a+b)"]);
        assert_eq!(search(&["-w", "needle"]), ["src/b.txt:1:needle"]);
        assert_eq!(
            search(&["needle", "--glob", "!*.txt", "-.", "--no-ignore"]),
            [".hidden:1:needle", "x.log:1:needle"]
        );
        assert_eq!(search(&["--files", "--glob", "*.rs"]), ["src/a.rs"]);
        assert_eq!(search(&["needle", "-m", "1"]).len(), 1);
        let nothing = stead.run(&["search", &root, "no such thing"]);
        assert_eq!(nothing.code(), 3, "{nothing}");
        let wrong = stead.run(&["search", &root, "(unclosed"]);
        assert_eq!(wrong.code(), 2, "{wrong}");
        let one = stead.ok(&["search", &format!("{machine}{}/long", far.display()), "needle"]).text();
        assert!(one.len() < 10_000 && one.contains(":1:needlexx"), "{} bytes", one.len());
        let json = stead.ok(&["search", &root, "main", "--json"]).text();
        let (hit, last) = json.trim().split_once('\n').unwrap();
        let (hit, last): (Value, Value) =
            (serde_json::from_str(hit).unwrap(), serde_json::from_str(last).unwrap());
        assert_eq!((&hit["number"], &hit["spans"][0][0]), (&1.into(), &3.into()), "{json}");
        assert_eq!((&last["hits"], &last["searched"]["files"]), (&1.into(), &3.into()), "{json}");
    }
}

/// Ends a program that is under way, without a word.
fn kill(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Threads of this name among the machine's processes.
fn threads_named(sshd: &Sshd, name: &str) -> usize {
    let threads = sshd.far_processes().into_iter().flat_map(|process| {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", process.pid.as_raw_pid()));
        tasks.into_iter().flatten().flatten()
    });
    let names = threads.filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok());
    names.filter(|comm| comm.trim_end() == name).count()
}

#[test]
fn a_search_ends_on_the_machine_when_its_reader_is_gone() {
    let sshd = Sshd::start();
    let stead = Stead::with_ssh(&sshd);
    let far = stead.dir("far");
    std::fs::write(far.join("much"), "needle\n".repeat(8_000_000)).unwrap();
    // A pipe that nobody reads holds the search up for as long as it is wanted.
    let pipe = stead.root().join("pipe");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &pipe,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_bits_truncate(0o600),
        0,
    )
    .unwrap();
    let _reader = File::options().read(true).write(true).open(&pipe).unwrap();
    let args = ["search", &format!("ssh://box{}", far.display()), "needle", "-m", "100000000"];
    let search = stead.program().args(args).spawn_into(&pipe);
    eventually(DEADLINE, "the search is under way", || threads_named(&sshd, "search") > 0);
    kill(search);
    eventually(DEADLINE, "nobody searches any more", || threads_named(&sshd, "search") == 0);
}

#[test]
fn a_watch_tells_what_changes_and_says_when_it_missed_something() {
    let sshd = Sshd::start();
    let stead = Stead::with_ssh(&sshd);
    for (number, machine) in ["host:", "ssh://box"].into_iter().enumerate() {
        let far = stead.dir(&format!("far{number}"));
        let out = stead.root().join(format!("out{number}"));
        std::fs::create_dir(far.join("sub")).unwrap();
        let root = format!("{machine}{}", far.display());
        let watch = stead.program().args(["watch", &root, "--json"]).spawn_into(&out);
        let told = || -> Vec<Value> {
            let text = std::fs::read_to_string(&out).unwrap();
            let whole = text.rfind('\n').map_or("", |end| &text[..end]);
            whole.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
        };
        let has = |event: &str, name: &str| {
            told().iter().any(|line| {
                line["event"] == event && line["source"].as_str().is_none_or(|path| path.ends_with(name))
            })
        };
        eventually(DEADLINE, "the watch begins", || has("watching", ""));
        std::fs::create_dir(far.join("sub/new")).unwrap();
        std::fs::write(far.join("sub/new/file"), "x").unwrap();
        eventually(DEADLINE, "a new file in a new directory", || has("created", "sub/new/file"));
        std::fs::remove_file(far.join("sub/new/file")).unwrap();
        eventually(DEADLINE, "the end of the file", || has("removed", "sub/new/file"));
        // Nobody reads for a while, and more happens than is kept for anybody.
        let pid = Pid::from_child(&watch);
        kill_process(pid, Signal::STOP).unwrap();
        for number in 0..40_000 {
            let name = format!("{number:0>100}");
            std::os::unix::fs::symlink("x", far.join("sub").join(name)).unwrap();
        }
        kill_process(pid, Signal::CONT).unwrap();
        eventually(DEADLINE, "that something was missed", || has("rescan", ""));
        std::fs::write(far.join("last"), "x").unwrap();
        eventually(DEADLINE, "what comes after", || has("created", "last"));
        kill(watch);
    }
}

#[test]
fn a_large_copy_carries_only_what_differs() {
    let sshd = Sshd::start();
    let stead = Stead::with_ssh(&sshd);
    let (here, far) = (stead.root().join("here"), stead.dir("far").join("there"));
    let there = format!("ssh://box{}", far.display());
    let mut content = noise(20 << 20);
    std::fs::write(&here, &content).unwrap();
    let copy = |from: &str, to: &str| {
        let copied = stead.json(&["cp", from, to]);
        (copied["bytes"].as_u64().unwrap(), copied["resumed_bytes"].as_u64().unwrap())
    };
    let here_name = here.to_str().unwrap();
    assert_eq!(copy(here_name, &there), (20 << 20, 0));
    content[7 << 20..(7 << 20) + 1000].fill(b'!');
    content.extend_from_slice(b"and more");
    std::fs::write(&here, &content).unwrap();
    let (bytes, kept) = copy(here_name, &there);
    assert_eq!(bytes, (20 << 20) + 8);
    assert!((19 << 20..20 << 20).contains(&kept), "{kept} bytes were not carried");
    assert!(std::fs::read(&far).unwrap() == content, "the copy is another");
    content.truncate(10 << 20);
    content[0] ^= 1;
    std::fs::write(&far, &content).unwrap();
    let (_, kept) = copy(&there, here_name);
    assert!(kept > 9 << 20, "{kept} bytes were not carried");
    assert!(std::fs::read(&here).unwrap() == content, "the copy is another");
    assert_eq!(std::fs::read_dir(far.parent().unwrap()).unwrap().count(), 1);
}

#[test]
fn holes_stay_holes_in_a_copy() {
    let sshd = Sshd::start();
    let stead = Stead::with_ssh(&sshd);
    let (here, far) = (stead.root().join("here"), stead.dir("far").join("there"));
    let file = File::create(&here).unwrap();
    file.set_len(256 << 20).unwrap();
    file.write_all_at(&noise(100_000), 100 << 20).unwrap();
    stead.ok(&["cp", here.to_str().unwrap(), &format!("ssh://box{}", far.display())]);
    let copy = far.metadata().unwrap();
    assert_eq!(copy.len(), 256 << 20);
    assert!(copy.blocks() * 512 < 1 << 20, "{} blocks", copy.blocks());
    assert!(std::fs::read(&here).unwrap() == std::fs::read(&far).unwrap(), "the copy is another");
}

fn part_of(directory: &Path) -> Option<PathBuf> {
    let entries = std::fs::read_dir(directory).unwrap().flatten().map(|entry| entry.path());
    entries.into_iter().find(|path| path.extension().is_some_and(|extension| extension == "part"))
}

#[test]
fn a_copy_that_was_cut_short_goes_on_where_it_ended() {
    let sshd = Sshd::start();
    let stead = Stead::with_ssh(&sshd);
    // Slow enough to be caught in the middle.
    let proxy = DelayProxy::start_rated(sshd.port(), Duration::ZERO, Some(16 << 20));
    sshd.add_host("slow", proxy.port(), &[("HostKeyAlias", "box")]);
    let (here, dir) = (stead.root().join("here"), stead.dir("far"));
    let content = noise(64 << 20);
    std::fs::write(&here, &content).unwrap();
    let there = format!("ssh://slow{}/there", dir.display());
    let args = ["cp", here.to_str().unwrap(), &there];
    let copying = stead.program().args(args).spawn();
    eventually(DEADLINE, "a part of the copy", || {
        part_of(&dir).and_then(|part| part.metadata().ok()).is_some_and(|part| part.blocks() * 512 > 24 << 20)
    });
    kill(copying);
    assert!(!dir.join("there").exists());
    // Whatever else may be wrong in what was left behind is found.
    let part = part_of(&dir).unwrap();
    File::options().write(true).open(&part).unwrap().write_all_at(b"garbage", 5 << 20).unwrap();
    let copied = stead.json(&args);
    let kept = copied["resumed_bytes"].as_u64().unwrap();
    assert!((8 << 20..60 << 20).contains(&kept), "{copied}");
    assert!(std::fs::read(dir.join("there")).unwrap() == content, "the copy is another");
    assert_eq!(part_of(&dir), None);
}

#[test]
fn small_files_are_copied_together_and_each_is_its_own_matter() {
    let sshd = Sshd::start();
    let stead = Stead::with_ssh(&sshd);
    let (from, far) = (stead.dir("from"), stead.dir("far"));
    for n in 0..150 {
        let path = from.join(format!("small {n}"));
        std::fs::write(&path, noise(n * 40)).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(if n % 2 == 0 { 0o600 } else { 0o755 }))
            .unwrap();
    }
    // More than goes with others, as much as one request takes, and more than that.
    for bytes in [70_000, 256 << 10, 300_000] {
        std::fs::write(from.join(bytes.to_string()), noise(bytes)).unwrap();
    }
    let taken = far.join("from");
    std::fs::create_dir_all(taken.join("small 4")).unwrap();
    std::fs::write(taken.join("small 3"), noise(100_000)).unwrap();
    std::fs::hard_link(taken.join("small 3"), far.join("kept")).unwrap();
    std::fs::write(far.join("linked"), "").unwrap();
    std::os::unix::fs::symlink("../linked", taken.join("small 5")).unwrap();

    let copied = stead.run(&["cp", from.to_str().unwrap(), &format!("ssh://box{}", far.display())]);
    assert_eq!(copied.code(), 5, "{copied}");
    assert!(copied.errors().contains("small 4` is a directory"), "{copied}");
    assert_eq!(copied.errors().lines().count(), 1, "{copied}");
    assert_eq!(std::fs::read(far.join("kept")).unwrap().len(), 100_000, "written in place");
    assert_eq!(std::fs::read(far.join("linked")).unwrap(), noise(200), "not written through the link");
    assert!(std::fs::symlink_metadata(taken.join("small 5")).unwrap().is_symlink());
    assert_eq!(part_of(&taken), None);

    std::fs::remove_dir(taken.join("small 4")).unwrap();
    std::fs::remove_file(taken.join("small 5")).unwrap();
    stead.ok(&["cp", from.to_str().unwrap(), &format!("ssh://box{}", far.display())]);
    let times = Compare { times: true, ..Compare::CONTENTS };
    assert_same(&from, &taken, times);
    let back = stead.root().join("back");
    stead.ok(&["cp", &format!("ssh://box{}", taken.display()), back.to_str().unwrap()]);
    assert_same(&from, &back, times);
}

#[test]
fn a_tree_is_copied_between_two_machines() {
    let sshd = Sshd::start();
    let stead = Stead::with_ssh(&sshd);
    sshd.add_host("other", sshd.port(), &[("HostKeyAlias", "box")]);
    let (from, to) = (stead.dir("from"), stead.dir("to"));
    std::fs::create_dir(from.join("dir")).unwrap();
    std::fs::write(from.join("dir/large"), noise(12 << 20)).unwrap();
    (0..20).for_each(|n| std::fs::write(from.join(format!("dir/{n}")), noise(n * 1000)).unwrap());
    let source = format!("ssh://box{}", from.display());
    for (machine, name) in [("ssh://other", "across"), ("ssh://box", "within")] {
        stead.ok(&["cp", &source, &format!("{machine}{}/{name}", to.display())]);
        assert_same(&from, &to.join(name), Compare::CONTENTS);
        let modified = |root: &Path| root.join("dir/large").metadata().unwrap().modified().unwrap();
        assert_eq!(modified(&from), modified(&to.join(name)));
    }
}

#[test]
fn a_copy_that_waits_for_a_pipe_ends_when_it_is_interrupted() {
    if !e2e::stead::is_root() {
        eprintln!("not tried: only root is told for what a process waits");
        return;
    }
    let stead = Stead::new();
    let (pipe, copy) = (stead.root().join("pipe"), stead.root().join("copy"));
    let (kind, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU);
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, kind, mode, 0).unwrap();
    let mut copying = stead.program().arg("cp").args([&pipe, &copy]).spawn();
    let pid = Pid::from_child(&copying);
    eventually(DEADLINE, "it waits for somebody who writes", || {
        e2e::leftovers::stacks_of(pid.as_raw_pid()).contains("fifo_open")
    });
    kill_process(pid, Signal::INT).unwrap();
    let has_ended = e2e::program::wait_readable(pid, DEADLINE);
    if !has_ended {
        copying.kill().unwrap();
    }
    copying.wait().unwrap();
    assert!(has_ended && !copy.exists());
}
