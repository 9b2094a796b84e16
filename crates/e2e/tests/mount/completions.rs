//! What shells complete, asked as they ask.

use std::path::Path;

use e2e::{Program, Sshd, Stead};

/// The script as a shell is given it, with this program first in its path.
fn shell(stead: &Stead, sshd: &Sshd, name: &str, script: &str) -> String {
    let bin = e2e::stead::stead_bin();
    let path = format!("{}:{}", bin.parent().unwrap().display(), std::env::var("PATH").unwrap());
    let program = Program::new(name).args(["-c", script]).env("PATH", path);
    let program = program.env("STEAD_HOME", stead.home()).env("STEAD_SSH_CONFIG", sshd.client_config());
    program.cwd(stead.root()).ok().text()
}

/// What bash may complete `line` with, where its last word is replaced from `replaced` on.
fn bash(stead: &Stead, sshd: &Sshd, line: &str, replaced: &str) -> Vec<String> {
    let script = format!(
        "source <(stead completions bash); COMP_LINE='{line}' COMP_POINT={}; _stead stead '{replaced}' x; \
         printf '%s|\\n' \"${{COMPREPLY[@]}}\"",
        line.len()
    );
    let answer = shell(stead, sshd, "bash", &script);
    answer.lines().map(|line| line.trim_end_matches('|').to_owned()).filter(|line| !line.is_empty()).collect()
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

/// A machine that the ssh configuration names.
fn known_box() -> (Sshd, Stead) {
    let sshd = Sshd::start();
    sshd.add_host("box", sshd.port(), &[("HostKeyAlias", "box")]);
    let stead = Stead::with_ssh(&sshd);
    (sshd, stead)
}

#[test]
fn machines_mounts_processes_and_far_files_are_completed() {
    let (sshd, stead) = known_box();
    let far = stead.dir("far");
    std::fs::create_dir_all(far.join("a dir")).unwrap();
    std::fs::write(far.join("a file"), "").unwrap();
    std::fs::write(far.join("other"), "").unwrap();
    let begun = format!("ssh://box{}/", text(&far));
    let ends = |begun: &str| bash(&stead, &sshd, &format!("stead ls {begun}"), &begun["ssh:".len()..]);
    let beside = |name: &str| format!("{}{name}", &begun["ssh:".len()..]);

    // Nobody has connected to anything: nothing is begun for who only types.
    assert_eq!(bash(&stead, &sshd, "stead exec bo", "bo"), ["box "]);
    assert_eq!(bash(&stead, &sshd, "stead unmou", "unmou"), ["unmount "]);
    assert!(ends(&begun).is_empty());
    assert!(stead.processes().is_empty());

    stead.ok(&["connect", "box"]);
    assert_eq!(ends(&begun), [beside("a\\ dir/"), beside("a\\ file "), beside("other ")]);
    assert_eq!(ends(&format!("{begun}o")), [beside("other ")]);
    assert_eq!(
        bash(&stead, &sshd, &format!("stead ls box:{}/o", text(&far)), &format!("{}/o", text(&far))),
        [format!("{}/other ", text(&far))]
    );
    let mount = stead.mount(format!("box:{}", text(&far)), &stead.dir("here"), &[]);
    assert_eq!(bash(&stead, &sshd, "stead unmount m", "m"), ["m1 "]);
    let process = stead.ok(&["exec", "box", "--detach", "--", "sleep", "600"]).text().trim().to_owned();
    for command in ["attach", "kill"] {
        assert_eq!(bash(&stead, &sshd, &format!("stead {command} p"), "p"), [format!("{process} ")]);
    }
    stead.ok(&["kill", &process]);
    stead.unmount(&mount);
}

#[test]
fn every_shell_is_answered_in_its_own_form() {
    let (sshd, stead) = known_box();
    let asked = [
        ("zsh", "_CLAP_COMPLETE_INDEX=2 STEAD_COMPLETE=zsh stead -- stead exec bo"),
        ("fish", "STEAD_COMPLETE=fish stead -- stead exec bo"),
        ("powershell", "STEAD_COMPLETE=powershell stead -- stead exec bo"),
        ("elvish", "_CLAP_COMPLETE_INDEX=2 STEAD_COMPLETE=elvish stead -- stead exec bo"),
    ];
    for (name, script) in asked {
        assert_eq!(shell(&stead, &sshd, "sh", script).trim(), "box", "{name}");
    }
    // What no script says is answered with nothing.
    for script in [
        "STEAD_COMPLETE=none stead -- stead e",
        "STEAD_COMPLETE=fish stead",
        "STEAD_COMPLETE=bash stead -- x",
    ] {
        assert_eq!(shell(&stead, &sshd, "sh", script), "", "{script}");
    }
}
