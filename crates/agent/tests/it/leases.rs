use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};

use tempfile::tempdir;
use wire::agent::file::*;
use wire::agent::*;

use crate::client::*;

/// What a client would keep of one directory, by the rules at [`Lease`].
struct Cache {
    directory: Place,
    epoch: u64,
    names: HashMap<String, Option<Entry>>,
    attributes: Option<Attributes>,
    lost: bool,
}

impl Cache {
    fn new(directory: &Place) -> Cache {
        let directory = directory.clone();
        Cache { directory, epoch: 0, names: HashMap::new(), attributes: None, lost: true }
    }

    fn lookup(&mut self, client: &mut Client, text: &str) -> Option<Entry> {
        let directory = self.directory.clone();
        let (entry, lease) = client.lookup(&directory, text);
        self.take_events(client);
        let lease = lease.unwrap();
        assert_eq!(lease.valid_ms, 0);
        if self.lost {
            self.names.clear();
        }
        if lease.epoch >= self.epoch {
            self.names.insert(text.to_owned(), entry);
            self.lost = false;
        }
        entry
    }

    fn take_events(&mut self, client: &mut Client) {
        for event in client.events_so_far() {
            match event {
                AgentFrame::Changed(changed) => self.take(changed),
                AgentFrame::LeasesLost => self.lost = true,
                other => panic!("{other:?}"),
            }
        }
    }

    fn take(&mut self, changed: Changed) {
        if changed.directory != self.directory.id {
            return;
        }
        assert!(changed.epoch > self.epoch, "epochs only grow");
        self.epoch = changed.epoch;
        self.attributes = changed.attributes.or(self.attributes);
        match changed.what {
            Change::Itself => {}
            Change::Present { name, entry } => drop(self.names.insert(name.to_string(), Some(entry))),
            Change::Absent { name } => drop(self.names.insert(name.to_string(), None)),
            Change::LeaseLost => self.lost = true,
        }
    }
}

fn present(changed: Changed) -> (String, Entry) {
    match changed.what {
        Change::Present { name, entry } => (name.to_string(), entry),
        other => panic!("{other:?}"),
    }
}

/// Leases the root by a look at a name that is not there.
fn leased(client: &mut Client) -> Lease {
    let root = client.root.clone();
    let lease = client.lookup(&root, "absent").1.unwrap();
    assert_eq!(lease.valid_ms, 0);
    lease
}

#[test]
fn changes_by_others_are_told_with_what_is_there_now() {
    let directory = tempdir().unwrap();
    let mut client = Client::attach(directory.path());
    let lease = leased(&mut client);
    std::fs::write(directory.path().join("new"), b"12345").unwrap();
    let mut last = lease.epoch;
    loop {
        let changed = client.changed();
        assert!(changed.epoch > last);
        last = changed.epoch;
        let (name, entry) = present(changed);
        assert_eq!(name, "new");
        if entry.attributes.size == 5 {
            break;
        }
    }
    std::fs::remove_file(directory.path().join("new")).unwrap();
    let root = client.root.clone();
    let now = client.stat(&root).unwrap().attributes;
    let (mut is_gone, mut attributes) = (false, None);
    while !is_gone || attributes != Some(now) {
        let changed = client.changed();
        is_gone |= matches!(changed.what, Change::Absent { .. });
        attributes = changed.attributes.or(attributes);
    }
}

#[test]
fn the_directorys_own_attributes_are_told() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempdir().unwrap();
    let mut client = Client::attach(directory.path());
    leased(&mut client);
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o711)).unwrap();
    let changed = client.changed();
    assert_eq!(changed.what, Change::Itself);
    assert_eq!(changed.attributes.unwrap().mode, 0o711);
}

#[test]
fn nothing_is_told_without_a_lease() {
    let directory = tempdir().unwrap();
    std::fs::create_dir(directory.path().join("sub")).unwrap();
    let mut client = Client::attach(directory.path());
    let sub = client.place("sub");
    std::fs::write(directory.path().join("sub/file"), b"").unwrap();
    std::fs::write(directory.path().join("marker"), b"").unwrap();
    assert_eq!(present(client.changed()).0, "marker");
    client.lookup(&sub, "absent");
    std::fs::write(directory.path().join("sub/other"), b"").unwrap();
    loop {
        let changed = client.changed();
        if changed.directory == sub.id {
            assert_eq!(present(changed).0, "other");
            break;
        }
    }
}

#[test]
fn a_lease_ends_with_its_directory() {
    let directory = tempdir().unwrap();
    std::fs::create_dir(directory.path().join("sub")).unwrap();
    let mut client = Client::attach(directory.path());
    let sub = client.place("sub");
    client.lookup(&sub, "absent");
    std::fs::rename(directory.path().join("sub"), directory.path().join("moved")).unwrap();
    loop {
        let changed = client.changed();
        if changed.directory == sub.id {
            assert_eq!(changed.what, Change::LeaseLost);
            break;
        }
    }
    let epoch = client.lookup(&sub, "absent").1.unwrap().epoch;
    std::fs::write(directory.path().join("moved/file"), b"").unwrap();
    loop {
        let changed = client.changed();
        if changed.directory == sub.id {
            assert!(changed.epoch > epoch);
            break;
        }
    }
}

#[test]
fn what_a_machine_cannot_watch_is_leased_for_a_time() {
    let mut client = Client::attach("/proc".as_ref());
    let root = client.root.clone();
    assert_eq!(client.lookup(&root, "self").1.unwrap().valid_ms, UNWATCHED_LEASE_MS);
}

/// Whether change times are exact enough here for the client's own changes to be kept silent.
fn is_precise(client: &mut Client) -> bool {
    let root = client.root.clone();
    let mut stamp = |_| {
        let place = client.put(&root, "probe", b"x");
        client.stat(&place).unwrap().attributes.changed
    };
    let stamps: Vec<_> = (0..20).map(&mut stamp).collect();
    let distinct: std::collections::HashSet<_> = stamps.iter().collect();
    client.file(FileRequest::Unlink { directory: root, name: name("probe") }).unwrap();
    distinct.len() == stamps.len()
}

/// Reads on until the agent tells of a name.
fn wait_until_told(client: &mut Client, text: &str) {
    loop {
        match client.changed().what {
            Change::Present { name, .. } | Change::Absent { name } if name.to_string() == text => return,
            _ => {}
        }
    }
}

/// Whether the agent tells of a name although there is no reason to. What it has put off is told after the next batch of
/// events, so three are caused, one after the other.
fn is_told(client: &mut Client, directory: &std::path::Path, text: &str) -> bool {
    static MARKS: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let mut told = false;
    for _ in 0..3 {
        let mark = format!("mark{}", MARKS.fetch_add(1, Ordering::Relaxed));
        std::fs::write(directory.join(&mark), b"").unwrap();
        loop {
            match client.changed().what {
                Change::Present { name, .. } if name.to_string() == mark => break,
                Change::Present { name, .. } | Change::Absent { name } => told |= name.to_string() == text,
                _ => {}
            }
        }
    }
    told
}

#[test]
fn a_clients_own_changes_are_not_told_to_it() {
    let directory = tempdir().unwrap();
    let mut client = Client::attach(directory.path());
    if !is_precise(&mut client) {
        return;
    }
    leased(&mut client);
    let root = client.root.clone();
    let (handle, place) = client.create(&root, "file");
    for n in 0..50 {
        client.write(handle, n * 10, b"0123456789");
    }
    client.file(FileRequest::Close { handle }).unwrap();
    let changes = AttributeChanges { mode: Some(0o600), ..AttributeChanges::default() };
    client.entry(FileRequest::SetAttributes { target: Target::Place(place), changes }, &[]).unwrap();
    client.put(&root, "file", b"replaced");
    assert!(!is_told(&mut client, directory.path(), "file"));
    client.file(FileRequest::Unlink { directory: root.clone(), name: name("file") }).unwrap();
    client.make_directory(&root, "file");
    client.file(FileRequest::RemoveDirectory { directory: root, name: name("file") }).unwrap();
    assert!(!is_told(&mut client, directory.path(), "file"));
}

#[test]
fn a_change_by_another_is_told_even_right_after_the_clients_own() {
    let directory = tempdir().unwrap();
    let mut client = Client::attach(directory.path());
    leased(&mut client);
    let root = client.root.clone();
    let path = directory.path().join("file");
    for round in 0..200u8 {
        let (handle, _) = client.create(&root, "file");
        client.write(handle, 0, &[round; 10]);
        client.file(FileRequest::Close { handle }).unwrap();
        // Same length, same content, immediately after.
        std::fs::write(&path, [round; 10]).unwrap();
        wait_until_told(&mut client, "file");
        client.file(FileRequest::Unlink { directory: root.clone(), name: name("file") }).unwrap();
        std::fs::write(&path, b"").unwrap();
        wait_until_told(&mut client, "file");
    }
}

#[test]
fn a_name_that_a_reply_told_otherwise_is_told_again() {
    let directory = tempdir().unwrap();
    let mut client = Client::attach(directory.path());
    let root = client.root.clone();
    let mut cache = Cache::new(&root);
    for round in 0..300 {
        client.put(&root, "file", b"");
        client.file(FileRequest::Unlink { directory: root.clone(), name: name("file") }).unwrap();
        // The client knows that the name is absent; another makes it, the client sees that, and another removes it.
        std::fs::write(directory.path().join("file"), b"").unwrap();
        assert!(cache.lookup(&mut client, "file").is_some());
        std::fs::remove_file(directory.path().join("file")).unwrap();
        eventually(&format!("round {round}: the cache forgets the name"), || {
            cache.take_events(&mut client);
            cache.lost || cache.names["file"].is_none()
        });
    }
}

#[test]
fn a_cache_by_the_rules_ends_up_with_the_truth() {
    let directory = tempdir().unwrap();
    let mut client = Client::attach(directory.path());
    let root = client.root.clone();
    let mut cache = Cache::new(&root);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let other = scope.spawn(|| {
            let path = |n: u64| directory.path().join(format!("f{}", n % 7));
            let mut n = 0;
            while !done.load(Ordering::Relaxed) {
                n += 1;
                // Failures are part of it: the names come and go.
                let _ = match n % 5 {
                    0 => std::fs::remove_file(path(n)),
                    1 => std::fs::rename(path(n), path(n + 3)),
                    2 => std::fs::hard_link(path(n), path(n + 1)),
                    _ => std::fs::write(path(n), vec![0; (n % 100) as usize]),
                };
            }
        });
        for n in 0..3000 {
            cache.lookup(&mut client, &format!("f{}", n % 7));
        }
        done.store(true, Ordering::Relaxed);
        other.join().unwrap();
    });
    for n in 0..7 {
        cache.lookup(&mut client, &format!("f{n}"));
    }
    let truth = |client: &mut Client, text: &str| client.lookup(&root, text).0.map(|entry| entry.id);
    eventually("the cache agrees with the machine", || {
        cache.take_events(&mut client);
        let mut known = cache.names.iter();
        known.all(|(text, entry)| entry.map(|entry| entry.id) == truth(&mut client, text))
    });
}

#[test]
fn a_file_that_is_written_all_the_time_is_told_of_now_and_then() {
    use std::io::Write;
    let directory = tempdir().unwrap();
    let mut client = Client::attach(directory.path());
    leased(&mut client);
    let mut file = std::fs::File::create(directory.path().join("log")).unwrap();
    const WRITES: usize = 20_000;
    for _ in 0..WRITES {
        file.write_all(b"x").unwrap();
    }
    let mut told = 0;
    loop {
        told += 1;
        if present(client.changed()).1.attributes.size == WRITES as u64 {
            break;
        }
    }
    assert!(told < WRITES / 10, "{told} tellings of {WRITES} writes");
}

#[test]
fn a_client_that_does_not_read_loses_its_leases_and_not_the_agents_memory() {
    let directory = tempdir().unwrap();
    let mut client = Client::attach(directory.path());
    leased(&mut client);
    // Far more names than the agent may queue, in pieces that inotify itself can hold.
    for n in 0..60_000 {
        std::fs::write(directory.path().join(format!("{n:0>200}")), b"").unwrap();
        if n % 5_000 == 0 {
            std::fs::remove_file(directory.path().join(format!("{n:0>200}"))).unwrap();
        }
    }
    wait_until_lost(&mut client);
    // The kernel may have dropped events too, which ends the leases once more.
    for again in 0.. {
        leased(&mut client);
        std::fs::write(directory.path().join(format!("again{again}")), b"").unwrap();
        match client.event() {
            AgentFrame::Changed(changed) => {
                assert!(present(changed).0.starts_with("again"));
                return;
            }
            other => assert_eq!(other, AgentFrame::LeasesLost),
        }
    }
}

fn wait_until_lost(client: &mut Client) {
    loop {
        match client.event() {
            AgentFrame::LeasesLost => return,
            AgentFrame::Changed(_) => {}
            other => panic!("{other:?}"),
        }
    }
}
