//! The provider against a real daemon, which is this test program itself, run again; and what the bundle is made of.

#![allow(clippy::unwrap_used, reason = "a failure of a test's own means is a failure of the test")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use provider::once::Once;
use provider::service::{
    Bytes, Change, ChangedItems, Domain, Failure, Given, Items, Made, Reply, Service, Shown, Signal, Subject,
    Wanted,
};
use vfs::replica::catalogue::Removal;
use vfs::replica::item::Kind;
use vfs::replica::names::NameRules;
use wire::api::machine::{Caller, Machine, Source};
use wire::bytestring::ByteString;
use wire::paths::Paths;

mod bundle;

const DEADLINE: Duration = Duration::from_secs(100);

fn again(test: &str) -> (PathBuf, Vec<String>) {
    let arguments = ["--ignored", "--exact", "--nocapture", "--test-threads=1", test];
    (std::env::current_exe().unwrap(), arguments.map(str::to_owned).to_vec())
}

#[test]
#[ignore = "run by the other tests as the daemon"]
fn play_daemon() {
    use daemon::mount::worker::{Launch, Programs};
    let home = std::env::var_os("STEAD_HOME").expect("the test sets it");
    let paths = Paths::new(0, |name| (name == "STEAD_HOME").then(|| home.clone())).unwrap();
    // Nothing is mounted here.
    let none = || Launch { program: "/nonexistent".into(), arguments: Vec::new() };
    let (program, arguments) = again("play_agent");
    let arguments = arguments.into_iter().map(Into::into).collect();
    let agent = remote::transport::host::HostOptions { program, arguments };
    let interval = Duration::from_secs(3600);
    let options = daemon::Options {
        paths,
        mode: daemon::Mode::Foreground,
        programs: Programs { keeper: none(), worker: none() },
        agent,
        monitoring: daemon::owner::Monitoring { interval, probe: none() },
    };
    daemon::run(options).unwrap();
}

#[test]
#[ignore = "run by the daemon as this computer's agent"]
fn play_agent() {
    agent::main([]);
}

struct Life {
    home: tempfile::TempDir,
    daemon: Child,
    service: Service,
    signals: Receiver<Signal>,
}

impl Drop for Life {
    fn drop(&mut self) {
        self.service.stop();
        // It may have ended.
        let _ended = self.daemon.kill();
        let _reaped = self.daemon.wait();
    }
}

fn signals(life: &Life) -> impl Iterator<Item = Signal> {
    std::iter::from_fn(|| life.signals.recv_timeout(DEADLINE).ok())
}

fn domain(home: &Path) -> Domain {
    let paths = Paths::new(0, |name| (name == "STEAD_HOME").then(|| home.into())).unwrap();
    let caller = Caller {
        uid: rustix::process::getuid().as_raw(),
        gid: rustix::process::getgid().as_raw(),
        cwd: ByteString::from("/"),
        ..Caller::default()
    };
    Domain {
        socket: paths.socket(),
        source: Source::files(Machine::Host, home.join("tree").into_os_string().into_encoded_bytes())
            .unwrap(),
        caller,
        catalogue: home.join("catalogue"),
        rules: NameRules::Mac,
        host: "box".to_owned(),
    }
}

impl Life {
    fn begin() -> Life {
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir(home.path().join("tree")).unwrap();
        let (program, arguments) = again("play_daemon");
        let daemon = Command::new(program)
            .args(arguments)
            .env("STEAD_HOME", home.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let paths = Paths::new(0, |name| (name == "STEAD_HOME").then(|| home.path().into())).unwrap();
        let deadline = Instant::now() + DEADLINE;
        while std::os::unix::net::UnixStream::connect(paths.socket()).is_err() {
            assert!(Instant::now() < deadline, "the daemon does not listen");
            std::thread::park_timeout(Duration::from_millis(5));
        }
        let domain = domain(home.path());
        let (signal, signals) = channel();
        let service = Service::start(domain, move |what| {
            let _nobody_waits = signal.send(what);
        })
        .unwrap();
        Life { home, daemon, service, signals }
    }

    /// Another extension for the same domain, as after the first one was ended.
    fn begin_again(&self) -> Service {
        self.service.stop();
        Service::start(domain(self.home.path()), |_| {}).unwrap()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path().join("tree").join(name)
    }

    fn ask<T: Send + 'static>(&self, ask: impl FnOnce(&Service, Once<Reply<T>>)) -> Reply<T> {
        let (answer, waiting) = channel();
        ask(&self.service, Once::new(move |reply| drop(answer.send(reply)), || Err(Failure::Later)));
        waiting.recv_timeout(DEADLINE).expect("an answer")
    }

    fn root(&self) -> Items {
        self.ask(|service, once| service.page(Subject::Root, Vec::new(), once)).unwrap()
    }

    fn named(&self, name: &str) -> Shown {
        self.root().items.into_iter().find(|item| item.name == name).expect("it is listed")
    }

    fn create(&self, name: &str, kind: Kind, content: Option<Bytes>) -> Reply<Made> {
        let made = self.create_or_find(name, kind, content, false);
        made.map(|made| made.expect("it was to be made"))
    }

    fn create_or_find(
        &self,
        name: &str,
        kind: Kind,
        content: Option<Bytes>,
        may_exist: bool,
    ) -> Reply<Option<Made>> {
        let given = Given { parent: Subject::Root, name: name.to_owned(), kind, mode: 0o644, content };
        self.ask(|service, once| service.create(given, may_exist, once))
    }

    fn modify(&self, change: Change) -> Reply<Made> {
        let made = self.ask(|service, once| service.modify(change, once));
        made.map(|made| made.expect("it was to be changed"))
    }

    fn write(&self, item: &Shown, content: &str) -> Reply<Made> {
        let mut change = unchanged(item);
        change.given.content = Some(Bytes::Given(content.into()));
        self.modify(change)
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(self.path(""))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

/// What the system hands over of an item of which nothing is changed.
fn unchanged(item: &Shown) -> Change {
    Change {
        subject: item.subject.clone(),
        base_content: item.content_version.clone(),
        base_metadata: item.metadata_version.clone(),
        given: Given {
            parent: item.parent.clone(),
            name: item.name.clone(),
            kind: item.kind,
            mode: item.mode,
            content: None,
        },
        is_moved: false,
        is_mode: false,
    }
}

fn renamed(item: &Shown, name: &str) -> Change {
    let change = unchanged(item);
    Change { given: Given { name: name.to_owned(), ..change.given }, is_moved: true, ..change }
}

fn with_mode(item: &Shown, mode: u16) -> Change {
    let change = unchanged(item);
    Change { given: Given { mode, ..change.given }, is_mode: true, ..change }
}

#[test]
fn what_is_made_changed_and_removed_in_the_copy_is_so_on_the_machine() {
    let life = Life::begin();
    assert!(life.root().items.is_empty());
    let made = life.create("f", Kind::File, Some(Bytes::Given(b"first".to_vec()))).unwrap().item;
    assert_eq!(std::fs::read(life.path("f")).unwrap(), b"first");
    let made = life.write(&made, "second").unwrap();
    assert_eq!((std::fs::read(life.path("f")).unwrap(), made.is_other_content), (b"second".to_vec(), false));
    // Somebody on the machine writes, and the system has what was before.
    std::fs::write(life.path("f"), "theirs, and longer").unwrap();
    let conflict = life.write(&made.item, "mine").unwrap();
    assert!(conflict.is_other_content);
    assert_eq!(std::fs::read(life.path("f")).unwrap(), b"theirs, and longer");
    assert_eq!(std::fs::read(life.path("f (conflict from box)")).unwrap(), b"mine");
    let link = life.create("l", Kind::Symlink, Some(Bytes::Given(b"f".to_vec()))).unwrap().item;
    assert_eq!(link.target.as_deref(), Some(&b"f"[..]));
    assert_eq!(std::fs::read_link(life.path("l")).unwrap(), Path::new("f"));
    let directory = life.create("d", Kind::Directory, None).unwrap().item;
    std::fs::write(life.path("d/x"), "new").unwrap();
    let remove = |item: &Shown, removal| {
        let (subject, version) = (item.subject.clone(), item.content_version.clone());
        life.ask(|service, once| service.remove(subject, version, removal, once))
    };
    assert!(matches!(remove(&directory, Removal::Tree), Err(Failure::Kept(_))), "nobody was told of x");
    // The version of before somebody wrote is not what is there.
    assert!(matches!(remove(&made.item, Removal::Single), Err(Failure::Kept(_))));
    assert_eq!(remove(&conflict.item, Removal::Single), Ok(()));
    assert_eq!(remove(&link, Removal::Single), Ok(()));
    assert_eq!(life.names(), ["d", "f (conflict from box)"]);
}

#[test]
fn a_file_that_somebody_wrote_to_is_fetched_after_it_was_renamed_or_given_permissions() {
    let life = Life::begin();
    std::fs::write(life.path("f"), "first").unwrap();
    let first = life.named("f");
    let moved = life.modify(renamed(&first, "g")).unwrap();
    assert!(!moved.is_other_content, "the system has what is there");
    assert_eq!(moved.item.content_version, first.content_version);
    std::fs::write(life.path("g"), "theirs, and longer").unwrap();
    let moved = life.modify(renamed(&moved.item, "h")).unwrap();
    assert!(moved.is_other_content, "the system has bytes of another version than it is told of");
    assert_eq!((moved.item.size, moved.item.name.as_str()), (18, "h"));
    std::fs::write(life.path("h"), "theirs again, and longer").unwrap();
    let changed = life.modify(with_mode(&moved.item, 0o744)).unwrap();
    assert!(changed.is_other_content);
    assert_eq!(changed.item.size, 24);
    // With the bytes of before, an edit is a conflict; with those that were fetched it is none.
    assert!(life.write(&first, "mine").unwrap().is_other_content);
    assert!(!life.write(&changed.item, "mine too").unwrap().is_other_content);
    assert_eq!(life.names(), ["h", "h (conflict from box)"]);
    assert_eq!(std::fs::read(life.path("h")).unwrap(), b"mine too");
}

#[test]
fn what_is_written_to_a_file_that_was_just_sent_is_another_version() {
    let life = Life::begin();
    let made = life.create("f", Kind::File, Some(Bytes::Given(b"1111".to_vec()))).unwrap().item;
    // In the same tick of the clock, of the same length, in place.
    std::fs::write(life.path("f"), "2222").unwrap();
    assert!(life.write(&made, "3333").unwrap().is_other_content);
    let theirs = life.named("f");
    let sent = life.write(&theirs, "4444").unwrap();
    assert!(!sent.is_other_content);
    std::fs::write(life.path("f"), "5555").unwrap();
    assert!(life.write(&sent.item, "6666").unwrap().is_other_content);
    assert_eq!(std::fs::read(life.path("f")).unwrap(), b"5555");
}

#[test]
fn bytes_are_fetched_by_ranges_until_nobody_wants_them() {
    let life = Life::begin();
    let content: Vec<u8> = (0..3_000_000_u32).map(|number| (number % 251) as u8).collect();
    std::fs::write(life.path("big"), &content).unwrap();
    let item = life.named("big");
    let into = life.home.path().join("fetched");
    let fetch = |range: Option<std::ops::Range<u64>>, version: &[u8], wanted: bool| {
        let wanted = Wanted {
            subject: item.subject.clone(),
            version: Some(version.to_vec()),
            range,
            into: into.clone(),
            progress: Box::new(move |_, _| wanted),
        };
        life.ask(|service, once| service.fetch(wanted, once))
    };
    assert_eq!(fetch(None, &item.content_version, true).unwrap().range, 0..3_000_000);
    assert_eq!(std::fs::read(&into).unwrap(), content);
    assert_eq!(fetch(Some(8192..16384), &item.content_version, true).unwrap().range, 8192..16384);
    assert_eq!(std::fs::read(&into).unwrap()[8192..], content[8192..16384]);
    assert_eq!(fetch(None, &item.content_version, false), Err(Failure::Cancelled));
    assert!(!into.exists(), "nobody removes what was not fetched to its end");
    assert_eq!(fetch(None, b"another", true), Err(Failure::OtherVersion));
    // Who is told that it is another version finds that one when he asks, whether or not the machine has told of it by then.
    std::fs::write(life.path("big"), "short").unwrap();
    assert_eq!(fetch(None, &item.content_version, true), Err(Failure::OtherVersion));
    assert!(!into.exists());
    let subject = item.subject.clone();
    let now = life.ask(|service, once| service.item(subject, once)).unwrap();
    assert_eq!(now.size, 5);
    assert_eq!(fetch(None, &now.content_version, true).unwrap().range, 0..5);
    assert_eq!(std::fs::read(&into).unwrap(), b"short");
}

#[test]
fn what_the_system_has_without_its_bytes_is_found_by_its_name_and_never_made() {
    let life = Life::begin();
    std::fs::write(life.path("f"), "theirs").unwrap();
    std::fs::create_dir(life.path("d")).unwrap();
    let find = |name: &str| life.create_or_find(name, Kind::File, None, true).unwrap();
    let found = find("f").expect("it is there");
    assert_eq!((found.item.size, found.is_other_content), (6, false));
    assert_eq!(found.item, life.named("f"));
    assert_eq!(find("g"), None);
    assert_eq!(find("d"), None, "a directory is no file");
    // What has its bytes with it is made, or is the one that has the same.
    let bytes = |text: &str| Some(Bytes::Given(text.into()));
    let same = life.create_or_find("f", Kind::File, bytes("theirs"), true).unwrap().unwrap();
    assert_eq!(same.item, found.item);
    assert!(life.create_or_find("g", Kind::File, bytes("mine"), true).unwrap().is_some());
    assert_eq!(life.names(), ["d", "f", "g"]);
    assert_eq!(std::fs::read(life.path("f")).unwrap(), b"theirs");
}

#[test]
fn only_what_the_user_may_do_is_changed_of_permissions() {
    use std::os::unix::fs::PermissionsExt;
    let life = Life::begin();
    std::fs::write(life.path("f"), "secret").unwrap();
    std::fs::set_permissions(life.path("f"), std::fs::Permissions::from_mode(0o600)).unwrap();
    let mode = || std::fs::metadata(life.path("f")).unwrap().permissions().mode() & 0o7777;
    let item = life.named("f");
    // The flags of a user who may read, write and run it.
    let changed = life.modify(with_mode(&item, provider::service::mode_of(Kind::File, Some(0b111)))).unwrap();
    assert_eq!((mode(), changed.item.mode), (0o700, 0o700));
    life.write(&changed.item, "more of it").unwrap();
    assert_eq!(mode(), 0o700);
    let item = life.named("f");
    let mut change = with_mode(&item, provider::service::mode_of(Kind::File, Some(0b110)));
    change.given.content = Some(Bytes::Given(b"and more".to_vec()));
    std::fs::remove_file(life.path("f")).unwrap();
    life.modify(change).unwrap();
    assert_eq!(mode(), 0o600, "what is made again has what it had");
}

#[test]
fn what_cannot_be_done_in_another_tree_is_not_answered_as_done() {
    let life = Life::begin();
    std::fs::write(life.path("f"), "x").unwrap();
    let item = life.named("f");
    std::fs::rename(life.path(""), life.home.path().join("aside")).unwrap();
    std::fs::create_dir(life.path("")).unwrap();
    let other = life.begin_again();
    let (subject, version) = (item.subject.clone(), item.content_version.clone());
    let (answer, waiting) = channel();
    let once = Once::new(move |reply| drop(answer.send(reply)), || Err(Failure::Later));
    other.remove(subject, version, Removal::Single, once);
    let reply = waiting.recv_timeout(DEADLINE).expect("an answer");
    other.stop();
    assert!(matches!(reply, Err(Failure::Refused(_))), "{reply:?}");
}

#[test]
fn what_changes_on_the_machine_is_told_without_being_asked_for() {
    let life = Life::begin();
    assert!(life.root().items.is_empty());
    assert!(signals(&life).any(|signal| signal == Signal::Reached), "what has failed is tried again");
    let mut anchor: Vec<u8> = life.ask(|service, once| service.anchor(once)).unwrap();
    std::fs::write(life.path("new"), "x").unwrap();
    let deadline = Instant::now() + DEADLINE;
    loop {
        life.signals.recv_timeout(deadline.saturating_duration_since(Instant::now())).expect("a signal");
        let since = anchor.clone();
        let changes: ChangedItems = life.ask(|service, once| service.changes(since, once)).unwrap();
        if changes.changed.iter().any(|item| item.name == "new") {
            break;
        }
        anchor = changes.anchor;
    }
    let other = vec![7; 16];
    assert_eq!(life.ask(|service, once| service.changes(other, once)), Err(Failure::Expired));
    let nobody = Subject::Item("0000000000000007-2".to_owned());
    let named = nobody.clone();
    assert_eq!(life.ask(|service, once| service.item(named, once)), Err(Failure::NoItem(nobody)));
}
