//! Subtrees that come ahead of who goes through them.

use super::*;
use crate::errno::Errno;
use crate::file::Kind;
use crate::table::{Believe, Limits};
use crate::testing::Tree;
use crate::vfs::Removal;

const OPTIONS: Options = Options {
    sync: crate::SyncMode::Close,
    limits: Limits { idle_nodes: 50_000 },
    list_after: Some(3),
    fetch_ahead: false,
    walk_ahead_entries: 16 << 10,
};

/// A mount of `directories` directories below the root, in each a directory `sub`, and in both of them `files` files.
fn mount_of(directories: usize, files: usize) -> Mount {
    let mount = Mount::new(OPTIONS);
    mount.memory.list_by(1000);
    mount.memory.edit(|tree| {
        for number in 0..directories {
            let at = make(tree, tree.root, &format!("d{number:04}"), Kind::Directory);
            let sub = make(tree, at, "sub", Kind::Directory);
            for file in 0..files {
                make(tree, at, &format!("f{file}"), Kind::File);
                make(tree, sub, &format!("f{file}"), Kind::File);
            }
        }
    });
    mount
}

fn make(tree: &mut Tree, at: crate::file::FileId, name: &str, kind: Kind) -> crate::file::FileId {
    tree.make(at, &bytes(name), kind, 0o755).expect("a new name")
}

impl Mount {
    pub(super) async fn list(&self, ino: Ino) -> Vec<(String, Option<View>)> {
        let handle = self.vfs.open_directory(ino).await.expect("opened").handle;
        let (mut items, mut cookie) = (Vec::new(), 0);
        loop {
            let (before, from) = (items.len(), cookie);
            let take = |item: crate::vfs::DirectoryItem<'_>| {
                items.push((String::from_utf8_lossy(item.name).into_owned(), item.view));
                cookie = item.cookie;
                true
            };
            self.vfs.read_directory(handle, from, true, take).await.expect("read");
            if items.len() == before {
                break;
            }
        }
        self.vfs.release_directory(handle);
        items.retain(|(name, _)| name != "." && name != "..");
        items
    }

    /// Somebody begins to list the directory.
    fn reader(&self, directory: Ino) -> tokio::task::JoinHandle<()> {
        let vfs = self.vfs.clone();
        tokio::spawn(async move {
            let handle = vfs.open_directory(directory).await.expect("opened").handle;
            vfs.read_directory(handle, 0, true, |_| true).await.expect("read");
        })
    }

    /// What `find` does, with a `stat` of everything. Gives how much there was.
    async fn find(&self, top: Ino) -> usize {
        let (mut count, mut pending) = (0, vec![top]);
        while let Some(ino) = pending.pop() {
            self.vfs.attributes(ino.into()).await.expect("there");
            let items = self.list(ino).await;
            count += items.len();
            let views: Vec<_> = items.iter().map(|(_, view)| view.expect("known")).collect();
            for view in &views {
                self.vfs.attributes(view.ino.into()).await.expect("there");
            }
            let directories = views.iter().filter(|view| view.attributes.kind == Kind::Directory);
            pending.extend(directories.rev().map(|view| view.ino));
        }
        count
    }
}

#[test]
fn a_tree_that_is_gone_through_comes_in_a_few_round_trips() {
    block_on(async {
        for directories in [10, 200] {
            let mount = mount_of(directories, 50);
            assert_eq!(mount.find(Ino::ROOT).await, directories * 102);
            let calls = mount.memory.all_calls();
            assert!(calls <= 4, "{calls} requests for {directories} directories");
            let before = mount.memory.all_calls();
            assert_eq!(mount.find(Ino::ROOT).await, directories * 102);
            assert_eq!(mount.memory.all_calls(), before, "all of it is known");
        }
    });
}

#[test]
fn a_directory_that_is_wholly_known_is_listed_without_a_request() {
    block_on(async {
        let mount = mount_of(1, 2500);
        let at = mount.view(Ino::ROOT, "d0000").await.ino;
        let first = mount.list(at).await;
        let calls = mount.memory.all_calls();
        let names = |items: &[(String, _)]| items.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
        assert_eq!(names(&mount.list(at).await), names(&first));
        assert_eq!(mount.memory.all_calls(), calls);
        // What it has from here has no place in the source's order.
        let node = crate::source::NewNode { kind: Kind::File, mode: 0o644, device: 0 };
        mount.vfs.make_node(at, b"new", node, CALLER).await.expect("made");
        assert!(names(&mount.list(at).await).contains(&"new".to_owned()));
        assert!(mount.memory.all_calls() > calls + 1);
        mount.vfs.remove(at, b"f7", Removal::Other).await.expect("removed");
        let calls = mount.memory.all_calls();
        let listed = names(&mount.list(at).await);
        assert!(!listed.contains(&"f7".to_owned()) && listed.len() == first.len());
        assert_eq!(mount.memory.all_calls(), calls);
    });
}

#[test]
fn a_directory_whose_attributes_are_asked_for_again_is_looked_into_with_them() {
    block_on(async {
        let mount = mount_of(1, 2);
        let at = mount.view(Ino::ROOT, "d0000").await.ino;
        let calls = || (mount.memory.calls("stat"), mount.memory.calls("list"), mount.memory.all_calls());
        let (stats, lists, all) = calls();
        mount.vfs.table.lock().doubt_attributes(at);
        let attributes = mount.vfs.attributes(at.into()).await.expect("there");
        assert_eq!(calls(), (stats + 1, lists + 1, all + 2));
        // One round trip later all of it is known, and what changes is told.
        assert!(matches!(mount.vfs.lookup(at, b"absent").await, Ok(Looked::Absent(Believe::Leased))));
        assert_eq!(mount.view(at, "f1").await.attributes.kind, Kind::File);
        assert_eq!(mount.vfs.attributes(at.into()).await, Ok((attributes.0, Believe::Leased)));
        assert_eq!(calls().2, all + 2);
        // Once: whoever asks only for the attributes is not given all the rest again and again.
        let id = mount.vfs.id(at).expect("there");
        mount.vfs.changed(mount.memory.lose_lease(id).expect("there was one"));
        mount.vfs.attributes(at.into()).await.expect("there");
        assert_eq!(calls(), (stats + 2, lists + 1, all + 3));
    });
}

#[test]
fn a_directory_that_may_not_be_read_or_is_near_is_asked_for_its_attributes_alone() {
    block_on(async {
        let mount = mount_of(2, 2);
        let [far, near] = ["d0000", "d0001"];
        let at = mount.view(Ino::ROOT, far).await.ino;
        mount.vfs.table.lock().doubt_attributes(at);
        mount.memory.fail_next("list", Errno::EACCES);
        let seen = mount.vfs.attributes(at.into()).await.expect("there");
        assert_eq!((seen.0.kind, seen.1 == Believe::Leased), (Kind::Directory, false));
        let at = mount.view(Ino::ROOT, near).await.ino;
        mount.vfs.set_round_trip(std::time::Duration::ZERO);
        mount.vfs.table.lock().doubt_attributes(at);
        let lists = mount.memory.calls("list");
        mount.vfs.attributes(at.into()).await.expect("there");
        assert_eq!(mount.memory.calls("list"), lists);
    });
}

#[test]
fn a_near_source_is_asked_again_but_for_what_a_walk_has_just_brought() {
    block_on(async {
        let mount = mount_of(20, 5);
        mount.vfs.set_round_trip(std::time::Duration::ZERO);
        assert_eq!(mount.find(Ino::ROOT).await, 20 * 12);
        let calls = mount.memory.all_calls();
        assert!(calls <= 4, "{calls} requests");
        let at = mount.view(Ino::ROOT, "d0007").await.ino;
        // Nobody has told of it yet.
        mount.memory.edit(|tree| make(tree, tree.at("d0007").expect("there"), "new", Kind::File));
        assert!(mount.list(at).await.iter().any(|(name, _)| name == "new"));
    });
}

#[test]
fn a_reader_that_looks_names_up_is_walked_ahead_of_too() {
    block_on(async {
        let mount = mount_of(100, 20);
        for directory in 0..100 {
            let at = mount.view(Ino::ROOT, &format!("d{directory:04}")).await.ino;
            for file in 0..20 {
                mount.view(at, &format!("f{file}")).await;
            }
            assert!(mount.is_absent(at, ".gitignore").await);
        }
        let calls = mount.memory.all_calls();
        assert!(calls <= 14, "{calls} requests");
    });
}

#[test]
fn a_directory_that_is_listed_and_left_is_not_walked_far() {
    block_on(async {
        let mount = mount_of(2000, 9);
        let top = mount.list(Ino::ROOT).await;
        mount.list(top[0].1.expect("known").ino).await;
        settle().await;
        let nodes = mount.vfs.census().nodes;
        assert!(nodes < 2000 + 1500, "{nodes} nodes are known");
    });
}

#[test]
fn a_change_that_a_walk_has_not_seen_is_seen_by_who_goes_there() {
    block_on(async {
        let mount = mount_of(3, 2);
        let top = mount.list(Ino::ROOT).await;
        // What is told of a directory overtakes the page that tells of it, and even the one that tells that it is there.
        let pages: Vec<_> = (0..2).map(|_| mount.stop(Stop::Replying("walked"))).collect();
        let first = top[0].1.expect("known").ino;
        let reader = mount.reader(first);
        pages[0].reached().await;
        mount.memory.edit(|tree| make(tree, tree.at("d0000").expect("there"), "late", Kind::File));
        mount.tell_all();
        pages[0].release();
        pages[1].reached().await;
        mount.memory.edit(|tree| make(tree, tree.at("d0000/sub").expect("there"), "late", Kind::File));
        mount.tell_all();
        pages[1].release();
        reader.await.expect("no panic");
        settle().await;
        let names = |items: Vec<(String, _)>| items.into_iter().map(|(name, _)| name).collect::<Vec<_>>();
        assert!(names(mount.list(first).await).contains(&"late".to_owned()));
        let sub = mount.view(first, "sub").await.ino;
        assert!(names(mount.list(sub).await).contains(&"late".to_owned()));
    });
}

#[test]
fn a_change_from_here_that_a_walk_has_not_seen_stays_seen() {
    block_on(async {
        let mount = mount_of(3, 2);
        let top = mount.list(Ino::ROOT).await;
        let [first, last] = [0, 2].map(|at| top[at].1.expect("known").ino);
        let gates: Vec<_> = (0..5).map(|_| mount.stop(Stop::Replying("walked"))).collect();
        let reader = mount.reader(first);
        gates[..4].iter().for_each(|gate| gate.release());
        // The page of the last directory is on its way.
        gates[4].reached().await;
        mount.vfs.remove(last, b"f1", Removal::Other).await.expect("removed");
        gates[4].release();
        reader.await.expect("no panic");
        settle().await;
        assert!(mount.is_absent(last, "f1").await);
        assert!(!mount.list(last).await.iter().any(|(name, _)| name == "f1"));
    });
}

#[test]
fn leases_lost_before_a_page_arrives_are_lost() {
    block_on(async {
        let mount = mount_of(3, 2);
        let top = mount.list(Ino::ROOT).await;
        let first = top[0].1.expect("known").ino;
        let gate = mount.stop(Stop::Replying("walked"));
        let reader = mount.reader(first);
        gate.reached().await;
        mount.vfs.leases_lost();
        gate.release();
        reader.await.expect("no panic");
        settle().await;
        assert!(!mount.vfs.table.lock().is_listed(top[1].1.expect("known").ino));
    });
}

#[test]
fn a_walk_that_fails_leaves_its_readers_to_ask() {
    block_on(async {
        let mount = mount_of(20, 5);
        mount.memory.fail_next("walk", Errno::EIO);
        assert_eq!(mount.find(Ino::ROOT).await, 20 * 12);
    });
}

#[test]
fn after_leases_were_lost_a_tree_is_seen_again_in_a_few_round_trips() {
    block_on(async {
        let mount = mount_of(100, 50);
        mount.find(Ino::ROOT).await;
        mount.vfs.leases_lost();
        let calls = mount.memory.all_calls();
        assert_eq!(mount.find(Ino::ROOT).await, 100 * 102);
        let calls = mount.memory.all_calls() - calls;
        assert!(calls <= 5, "{calls} requests");
    });
}

#[test]
fn a_tree_larger_than_what_is_remembered_is_gone_through_all_the_same() {
    block_on(async {
        for idle_nodes in [0, 10, 300] {
            let limits = Limits { idle_nodes };
            let mount = Mount::new(Options { limits, ..OPTIONS });
            mount.memory.edit(|tree| {
                for number in 0..40 {
                    let at = make(tree, tree.root, &format!("d{number}"), Kind::Directory);
                    for file in 0..40 {
                        make(tree, at, &format!("f{file}"), Kind::File);
                    }
                }
            });
            let mut count = 0;
            for (_, view) in mount.list(Ino::ROOT).await {
                let ino = view.expect("known").ino;
                for (_, view) in mount.list(ino).await {
                    count += 1;
                    mount.vfs.forget(view.expect("known").ino, 1);
                }
            }
            assert_eq!(count, 40 * 40, "with room for {idle_nodes} idle nodes");
        }
    });
}

#[test]
fn a_directory_that_is_found_between_its_parts_is_not_taken_for_whole() {
    block_on(async {
        let mount = mount_of(3, 19);
        let top = mount.list(Ino::ROOT).await;
        mount.memory.list_by(10);
        let first = top[0].1.expect("known").ino;
        let parts: Vec<_> = (0..4).map(|_| mount.stop(Stop::Replying("walked"))).collect();
        let listing = mount.stop(Stop::Asking("list"));
        let reader = mount.reader(first);
        parts[0].reached().await;
        // What the walk has of the directory is older, and so is not kept: what is below stays unknown.
        mount.memory.edit(|tree| make(tree, tree.at("d0000").expect("there"), "late", Kind::File));
        mount.tell_all();
        parts[0].release();
        for part in &parts[1..3] {
            part.reached().await;
            part.release();
        }
        parts[3].reached().await;
        let sub = mount.view(first, "sub").await.ino;
        parts[3].release();
        settle().await;
        let mut missing = Vec::new();
        for file in 0..19 {
            if mount.is_absent(sub, &format!("f{file}")).await {
                missing.push(file);
            }
        }
        assert!(missing.is_empty(), "{missing:?} are there");
        listing.release();
        reader.await.expect("no panic");
    });
}
