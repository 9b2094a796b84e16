//! Commands and files in a container, without a mount.

use e2e::{Engine, eventually};
use rustix::process::{Signal, kill_process};

use super::{DEADLINE, is_possible};

#[test]
fn commands_and_files_of_a_container() {
    if !is_possible() {
        return;
    }
    use_commands_and_files(&Engine::start());
}

#[test]
fn commands_and_files_of_a_container_of_podman() {
    if is_possible() {
        use_commands_and_files(&Engine::podman());
    }
}

fn use_commands_and_files(engine: &Engine) {
    engine.run("web", &["--env", "COLOUR=green"]);
    let stead = engine.stead();
    let script = "cat; echo out; echo err >&2; exit 7";
    let done = stead.program().args(["exec", "docker://web", "--", "sh", "-c", script]).input("in\n").run();
    let expected = (7, "in\nout\n".to_owned(), "err\n".to_owned());
    assert_eq!((done.code(), done.text(), done.errors()), expected);
    assert_eq!(stead.run(&["exec", "docker://web", "--", "sh", "-c", "kill -9 $$"]).code(), 137);
    assert_eq!(stead.run(&["exec", "docker://web", "--", "no-such-program"]).code(), 255);
    let args = ["exec", "docker://web", "--cwd", "/etc", "--env", "X=y z", "--"];
    let there = stead.ok(&[&args[..], &["sh", "-c", "pwd; echo \"$X $COLOUR\""]].concat());
    assert_eq!(there.text(), "/etc\ny z green\n");
    let much = stead.ok(&["exec", "docker://web", "--", "head", "-c", "5000000", "/dev/zero"]);
    assert_eq!(much.stdout.len(), 5_000_000);

    // Files, both ways.
    let here = stead.root().join("here");
    let content: Vec<u8> = (0..2_000_000_u64).map(|n| ((n * n) >> 7) as u8).collect();
    std::fs::write(&here, &content).unwrap();
    stead.ok(&["cp", here.to_str().unwrap(), "docker://web/tmp/there"]);
    assert_eq!(engine.docker(&["exec", "web", "stat", "-c", "%s", "/tmp/there"]), "2000000");
    let back = stead.root().join("back");
    stead.ok(&["cp", "docker://web/tmp/there", back.to_str().unwrap()]);
    assert!(std::fs::read(&back).unwrap() == content);
    let listed = stead.ok(&["ls", "docker://web/tmp"]).text();
    assert_eq!(listed.split_whitespace().collect::<Vec<_>>(), ["there"]);
    stead.ok(&["rm", "docker://web/tmp/there"]);
    assert_eq!(stead.ok(&["ls", "docker://web/tmp"]).text(), "");

    // Modes are as the maker's umask says, though no thread may have one of its own there; programs have that of all.
    let dir = stead.dir("mnt");
    stead.mount("docker://web/tmp", &dir, &[]);
    let make = "umask 0 && mkdir open && umask 27 && mkdir shared";
    e2e::Program::new("sh").args(["-c", make]).cwd(&dir).ok();
    assert_eq!(engine.docker(&["exec", "web", "stat", "-c", "%a", "/tmp/open", "/tmp/shared"]), "777\n750");
    assert_eq!(stead.ok(&["exec", "docker://web", "--", "sh", "-c", "umask"]).text(), "0022\n");
    stead.ok(&["unmount", dir.to_str().unwrap()]);

    let report = stead.json(&["doctor", "docker://web"]);
    let checks = report["checks"].as_array().unwrap();
    let verdict = |name: &str| {
        let check = checks.iter().find(|check| check["name"] == name);
        check.unwrap_or_else(|| panic!("nothing of {name}: {report}"))["verdict"].clone()
    };
    for name in ["engine", "container", "connection", "agent", "login"] {
        assert_eq!(verdict(name), "works", "{name}: {report}");
    }
}

/// overlayfs copies a file of the image, and each directory above it, to the container when it is first changed.
#[test]
fn what_an_image_has_brought_is_changed_through_a_mount_like_anything_else() {
    if !is_possible() {
        return;
    }
    change_what_was_brought(&Engine::start());
    change_what_was_brought(&Engine::podman());
}

fn change_what_was_brought(engine: &Engine) {
    engine.run("web", &[]);
    let stead = engine.stead();
    let (etc, home) = (stead.dir("etc"), stead.dir("home"));
    stead.mount("docker://web/etc", &etc, &[]);
    stead.mount("docker://web/home", &home, &[]);
    let script = "set -e; cat passwd >/dev/null; exec 3<group; before=$(stat -c %i . passwd group)
        echo more >>passwd; tail -n 1 passwd
        echo two >>group; tail -n 1 group; cat <&3 | tail -n 1
        touch new; test \"$(/bin/pwd)\" = \"$PWD\"; chmod 600 new; ls
        test \"$(stat -c %i . passwd group)\" = \"$before\"
        mv passwd users; echo three >passwd; rm users; cat passwd";
    let done = e2e::Program::new("sh").args(["-c", script]).cwd(&etc).ok();
    let listed = engine.docker(&["exec", "web", "ls", "/etc"]);
    assert!(listed.contains("new\npasswd"), "{listed}");
    let lines: Vec<String> = done.text().lines().map(str::to_owned).collect();
    assert_eq!(lines[..3], ["more", "two", "two"], "{done}");
    assert_eq!(lines.last().unwrap(), "three", "{done}");
    // From below, and from within a directory that is copied meanwhile.
    let script =
        "set -e; cd ann; mkdir a; echo x >a/f; cd a; echo y >>f; cat f; cd ..; ls; rm -r a; ls; /bin/pwd";
    let done = e2e::Program::new("sh").args(["-c", script]).cwd(&home).ok();
    assert_eq!(done.text(), format!("x\ny\na\n{}\n", home.join("ann").display()));
    assert_eq!(engine.docker(&["exec", "web", "cat", "/etc/passwd"]), "three");
}

#[test]
fn nothing_runs_on_in_a_container_when_everything_here_is_killed() {
    if !is_possible() {
        return;
    }
    let engine = Engine::start();
    engine.run("web", &[]);
    let stead = engine.stead();
    stead.ok(&["connect", "docker://web"]);
    assert!(!engine.programs_in("web").is_empty());
    for process in stead.processes() {
        let _ended_meanwhile = kill_process(process.pid, Signal::KILL);
    }
    eventually(DEADLINE, "the agent has ended", || engine.programs_in("web").is_empty());
}
