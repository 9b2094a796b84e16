//! The provider against a real daemon, which is this test program itself, run again; and what the bundle is made of.

#![allow(clippy::unwrap_used, reason = "a failure of a test's own means is a failure of the test")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use provider::once::Once;
use provider::service::{
    Bytes, ChangedItems, Domain, Failure, Given, Items, Made, Reply, Service, Shown, Subject, Wanted,
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
    signals: Receiver<()>,
}

impl Drop for Life {
    fn drop(&mut self) {
        self.service.stop();
        // It may have ended.
        let _ended = self.daemon.kill();
        let _reaped = self.daemon.wait();
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
        let caller = Caller {
            uid: rustix::process::getuid().as_raw(),
            gid: rustix::process::getgid().as_raw(),
            cwd: ByteString::from("/"),
            ..Caller::default()
        };
        let tree = home.path().join("tree").into_os_string().into_encoded_bytes();
        let domain = Domain {
            socket: paths.socket(),
            source: Source::files(Machine::Host, tree).unwrap(),
            caller,
            catalogue: home.path().join("catalogue"),
            rules: NameRules::Mac,
            host: "box".to_owned(),
        };
        let (signal, signals) = channel();
        let service = Service::start(domain, move || {
            let _nobody_waits = signal.send(());
        })
        .unwrap();
        Life { home, daemon, service, signals }
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
        let given = Given { parent: Subject::Root, name: name.to_owned(), kind, mode: 0o644, content };
        self.ask(|service, once| service.create(given, once))
    }

    fn write(&self, item: &Shown, content: &str) -> Reply<Made> {
        let change = provider::service::Change {
            subject: item.subject.clone(),
            base_content: item.content_version.clone(),
            base_metadata: item.metadata_version.clone(),
            given: Given {
                parent: item.parent.clone(),
                name: item.name.clone(),
                kind: item.kind,
                mode: item.mode,
                content: Some(Bytes::Given(content.into())),
            },
            is_moved: false,
            is_mode: false,
        };
        self.ask(|service, once| service.modify(change, once))
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
    assert_eq!(fetch(None, b"another", true), Err(Failure::OtherVersion));
}

#[test]
fn what_changes_on_the_machine_is_told_without_being_asked_for() {
    let life = Life::begin();
    assert!(life.root().items.is_empty());
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
