//! Programs that fill a terminal, in `stead shell`, under a real terminal: that of tmux.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use e2e::wait::holds_within;
use e2e::{Far, Program, eventually, is_long};

use super::SOON;

/// A tmux of the test's own.
struct Tmux<'a> {
    far: &'a Far,
}

impl<'a> Tmux<'a> {
    /// With a shell on the machine in its one window.
    fn with_shell(far: &'a Far) -> Tmux<'a> {
        Tmux::with(far, "shell box")
    }

    /// With this in its one window.
    fn with(far: &'a Far, command: &str) -> Tmux<'a> {
        let tmux = Tmux { far };
        let command =
            format!("{} {command}; echo left with $?; exec sleep 600", e2e::stead::stead_bin().display());
        // Keys that are typed by a program are keys, however fast it types.
        tmux.run(&["new-session", "-d", "-x", "100", "-y", "30", &command]);
        tmux.run(&["set-option", "-g", "assume-paste-time", "0"]);
        tmux
    }

    fn run(&self, args: &[&str]) -> String {
        let socket = self.far.stead.root().join("tmux");
        let done = Program::new("tmux")
            .arg("-S")
            .arg(socket)
            .args(["-f", "/dev/null"])
            .args(args)
            .env("STEAD_HOME", self.far.stead.home())
            .env("STEAD_SSH_CONFIG", self.far.ssh_config())
            .env("TERM", "xterm-256color")
            .env("LC_ALL", "C.UTF-8")
            .env("SHELL", "/bin/sh")
            .ok();
        done.text()
    }

    fn screen(&self) -> String {
        self.run(&["capture-pane", "-p"])
    }

    fn type_line(&self, line: &str) {
        self.run(&["send-keys", "-l", line]);
        self.run(&["send-keys", "Enter"]);
    }

    #[track_caller]
    fn shows(&self, what: &str) {
        let shown = holds_within(SOON, || self.screen().contains(what));
        assert!(shown, "`{what}` is not on the screen:\n{}", self.screen());
    }

    #[track_caller]
    fn does_not_show(&self, what: &str) {
        let is_gone = holds_within(SOON, || !self.screen().contains(what));
        assert!(is_gone, "`{what}` is still on the screen:\n{}", self.screen());
    }

    /// Waits for the shell, by what it makes of a sum.
    fn prompt(&self) {
        self.type_line(&format!("PS1='$ '; tty > {}; echo $((40 + 2))ready", self.tty_file().display()));
        self.shows("42ready");
        self.type_line("clear");
        // What is shown from now on stays.
        self.does_not_show("42ready");
    }

    /// Which terminal the shell has there.
    fn tty_file(&self) -> PathBuf {
        self.far.stead.root().join("tty")
    }

    /// Whether that is as large as this one. While a size is on its way to a program, keys may be lost to it.
    fn is_as_large(&self) -> bool {
        let tty = std::fs::read_to_string(self.tty_file()).expect("the shell has said it");
        let there = Program::new("stty").args(["-F", tty.trim(), "size"]).ok().text();
        there.trim() == self.run(&["display-message", "-p", "#{pane_height} #{pane_width}"]).trim()
    }

    /// The line is cut for a while, and mended. What fills the screen is told of it, and draws itself again.
    fn cut(&self) {
        eventually(SOON, "the size is known there", || self.is_as_large());
        let down = if is_long() { Duration::from_secs(10) } else { Duration::from_millis(500) };
        self.far.proxy.cut();
        self.shows("note: connection to ssh://box is reconnecting");
        let until = Instant::now() + down;
        assert!(holds_within(SOON, || Instant::now() >= until));
        self.far.proxy.mend();
        eventually(SOON, "the connection is back", || self.far.is_connected());
        self.does_not_show("note:");
        eventually(SOON, "the terminal there has its size again", || self.is_as_large());
    }
}

impl Drop for Tmux<'_> {
    fn drop(&mut self) {
        let socket = self.far.stead.root().join("tmux");
        let _gone = Program::new("tmux").arg("-S").arg(socket).arg("kill-server").run();
    }
}

#[test]
fn programs_that_fill_the_terminal_work_through_a_resize_and_a_cut() {
    let far = Far::new();
    let text: String = (1..=500).map(|line| format!("line {line} of the text\n")).collect();
    let file = far.stead.root().join("text");
    std::fs::write(&file, text).unwrap();
    let tmux = Tmux::with_shell(&far);
    tmux.prompt();

    // less: pages, follows the size, and leaves the screen as it was.
    tmux.type_line(&format!("less {}", file.display()));
    tmux.shows("line 29 of the text");
    tmux.run(&["resize-window", "-x", "80", "-y", "20"]);
    eventually(SOON, "less has the new size", || {
        let screen = tmux.screen();
        screen.contains("line 19 of") && !screen.contains("line 20 of")
    });
    tmux.cut();
    tmux.run(&["send-keys", "G"]);
    tmux.shows("line 500 of the text");
    tmux.run(&["send-keys", "q"]);
    tmux.does_not_show("line 500");

    // vim: what is typed before, while and after the line is cut is in the file once.
    let note = far.stead.root().join("note");
    tmux.type_line(&format!("vim -u NONE -n {}", note.display()));
    tmux.shows("[New");
    tmux.run(&["send-keys", "-l", "ibefore "]);
    tmux.shows("before");
    far.proxy.cut();
    eventually(SOON, "the cut is noticed", || !far.is_connected());
    tmux.run(&["send-keys", "-l", "while "]);
    far.proxy.mend();
    tmux.run(&["resize-window", "-x", "90", "-y", "25"]);
    tmux.run(&["send-keys", "-l", "after"]);
    tmux.shows("before while after");
    tmux.run(&["send-keys", "Escape"]);
    tmux.type_line(":wq");
    eventually(SOON, "vim has written", || {
        std::fs::read_to_string(&note).is_ok_and(|text| text == "before while after\n")
    });

    // htop and tmux draw, take keys and end.
    tmux.type_line("htop");
    tmux.shows("F10");
    tmux.cut();
    tmux.run(&["send-keys", "q"]);
    tmux.does_not_show("F10");
    let inner = far.stead.root().join("inner");
    let inner = format!("tmux -S {} -f /dev/null set-option -g assume-paste-time 0 \\;", inner.display());
    tmux.type_line(&format!("{inner} new-session 'echo in the inner; exec sleep 600'"));
    tmux.shows("in the inner");
    tmux.cut();
    tmux.run(&["send-keys", "C-b", "d"]);
    tmux.shows("[detached");
    tmux.type_line(&format!("clear; {inner} kill-server; echo no more of $((40 + 2))"));
    tmux.shows("no more of 42");

    // An interrupt is the program's, and the shell's status is the command's.
    tmux.type_line("sleep 600; echo interrupted");
    tmux.run(&["send-keys", "C-c"]);
    tmux.type_line("exit 9");
    tmux.shows("left with 9");
}

#[test]
fn a_shell_that_is_left_goes_on_and_its_screen_is_given_back() {
    let far = Far::new();
    let file = far.stead.root().join("text");
    std::fs::write(&file, "only line\n").unwrap();
    let tmux = Tmux::with_shell(&far);
    tmux.prompt();
    tmux.type_line(&format!("less {}", file.display()));
    tmux.shows("only line");
    assert_eq!(tmux.run(&["display-message", "-p", "#{alternate_on}"]).trim(), "1");
    tmux.run(&["send-keys", "Enter"]);
    tmux.run(&["send-keys", "-l", "~."]);
    tmux.shows("left with 0");
    assert_eq!(tmux.run(&["display-message", "-p", "#{alternate_on}"]).trim(), "0");
    tmux.shows("goes on");
    eventually(SOON, "it is detached", || far.process("p1", "detached") == true);
    let attach =
        format!("{} attach p1; echo left with $?; exec sleep 600", e2e::stead::stead_bin().display());
    tmux.run(&["respawn-pane", "-k", &attach]);
    tmux.shows("only line");
    tmux.run(&["send-keys", "q"]);
    tmux.type_line("exit 3");
    tmux.shows("left with 3");
}

#[test]
fn what_was_typed_before_a_shell_is_left_reaches_it_also_through_a_cut() {
    let far = Far::new();
    let typed = far.stead.root().join("typed");
    let tmux = Tmux::with_shell(&far);
    tmux.prompt();
    far.proxy.cut();
    tmux.shows("note: connection to ssh://box is reconnecting");
    // As when a window is drawn larger with the mouse.
    for rows in 31..=110 {
        tmux.run(&["resize-window", "-y", &rows.to_string()]);
    }
    tmux.type_line(&format!(": > {}", typed.display()));
    tmux.run(&["send-keys", "-l", "~."]);
    tmux.shows("left with 0");
    far.proxy.mend();
    eventually(SOON, "what was typed is there", || typed.exists());
    eventually(SOON, "it is detached", || far.process("p1", "detached") == true);
    let left = far.stead.program().args(["attach", "p1"]).input("exit 3\n").run();
    assert_eq!(left.code(), 3, "{left}");
}

#[test]
fn a_shell_that_cannot_be_left_says_so_and_goes_on() {
    const MOST: usize = 64;
    let far = Far::new();
    let held = far.stead.root().join("held");
    rustix::fs::mkfifoat(rustix::fs::CWD, &held, rustix::fs::Mode::RWXU).unwrap();
    // One that asks nobody and opens nothing until it is let go.
    let detach = || {
        let id = far.stead.ok(&["exec", "box", "--detach", "--", "cat", held.to_str().unwrap()]);
        id.text().trim().to_owned()
    };
    let at_once = |many: usize, what: &(dyn Fn() + Sync)| {
        std::thread::scope(|scope| (0..many).for_each(|_| drop(scope.spawn(what))));
    };
    let ids = std::sync::Mutex::new(vec![detach()]);
    at_once(7, &|| (0..9).for_each(|_| ids.lock().unwrap().push(detach())));
    assert_eq!(ids.lock().unwrap().len(), MOST);
    let refused = far.stead.run(&["exec", "box", "--detach", "--", "true"]);
    assert_eq!(refused.code(), 255, "{refused}");
    let tmux = Tmux::with_shell(&far);
    tmux.prompt();
    tmux.run(&["send-keys", "-l", "~."]);
    tmux.shows("cannot be left to itself: 64 detached processes run there already");
    tmux.type_line("echo goes on as $((6 * 7))");
    tmux.shows("goes on as 42");
    // There is room again when one has ended.
    let ended = ids.lock().unwrap().pop().unwrap();
    far.stead.ok(&["kill", &ended]);
    assert_eq!(far.stead.run(&["attach", &ended]).code(), 143);
    tmux.run(&["send-keys", "Enter"]);
    tmux.run(&["send-keys", "-l", "~."]);
    tmux.shows("left with 0");
    let shells: Vec<String> = far.stead.json(&["ps"])["processes"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|process| process["terminal"] == true)
        .map(|process| process["id"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(shells.len(), 1);
    let left = far.stead.program().args(["attach", &shells[0]]).input("exit 3\n").run();
    assert_eq!(left.code(), 3, "{left}");
    drop(std::fs::OpenOptions::new().write(true).open(&held).unwrap());
    at_once(7, &|| {
        while let Some(id) = { ids.lock().unwrap().pop() } {
            let attached = far.stead.run(&["attach", &id]);
            assert_eq!(attached.code(), 0, "{attached}");
        }
    });
}

#[test]
fn what_a_program_asked_of_its_terminal_is_not_answered_to_it_by_one_that_attaches() {
    let far = Far::new();
    let [asked, typed] = ["asked", "typed"].map(|name| far.stead.root().join(name));
    let script = r"stty raw -echo; printf 'shown \033[c\033[>c\033[6n\033]11;?\007'; : > $0; exec cat > $1";
    let (asked_there, typed_there) = (asked.to_str().unwrap(), typed.to_str().unwrap());
    far.stead.ok(&["exec", "box", "--detach", "-t", "--", "sh", "-c", script, asked_there, typed_there]);
    eventually(SOON, "it has asked", || asked.exists());
    let tmux = Tmux::with(&far, "attach p1");
    tmux.shows("shown");
    tmux.run(&["send-keys", "-l", "ok"]);
    let is_there = || std::fs::read(&typed).is_ok_and(|text| text.len() >= 2);
    eventually(SOON, "what is typed is there", is_there);
    assert_eq!(std::fs::read(&typed).unwrap().escape_ascii().to_string(), "ok");
    far.stead.ok(&["kill", "p1"]);
    tmux.shows("left with 143");
}
