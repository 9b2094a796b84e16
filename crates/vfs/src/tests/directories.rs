//! Listings.

use std::collections::BTreeMap;

use super::*;
use crate::errno::Errno;
use crate::file::Kind;
use crate::testing::Random;
use crate::vfs::Removal;

/// Reads on from `cookie`, at most `room` items. Gives the names and where to go on.
async fn read(mount: &Mount, handle: HandleId, cookie: &mut u64, room: usize, nodes: bool) -> Vec<String> {
    let (mut names, from) = (Vec::new(), *cookie);
    let take = |item: crate::vfs::DirectoryItem<'_>| {
        if names.len() == room {
            return false;
        }
        names.push(String::from_utf8_lossy(item.name).into_owned());
        *cookie = item.cookie;
        true
    };
    mount.vfs.read_directory(handle, from, nodes, take).await.expect("read");
    names
}

#[test]
fn while_names_come_and_go_none_of_the_others_is_lost_or_listed_twice() {
    for seed in 0..60 {
        block_on(async {
            let mut random = Random(seed);
            let names: Vec<_> = (0..30).map(|n| format!("stays{n}")).collect();
            let mount = Mount::with_files(&names.iter().map(String::as_str).collect::<Vec<_>>(), b"");
            mount.memory.list_by(1 + random.below(7));
            let handle = mount.vfs.open_directory(Ino::ROOT).await.expect("opened").handle;
            let (mut cookie, mut seen) = (0, BTreeMap::new());
            loop {
                let room = 1 + random.below(5) as usize;
                let listed = read(&mount, handle, &mut cookie, room, random.below(2) == 0).await;
                if listed.is_empty() {
                    break;
                }
                for name in listed {
                    *seen.entry(name).or_insert(0) += 1;
                }
                let name = format!("goes{}", random.below(4));
                let node = crate::source::NewNode { kind: Kind::File, mode: 0o644, device: 0 };
                match random.below(4) {
                    0 => drop(mount.vfs.make_node(Ino::ROOT, name.as_bytes(), node, CALLER).await),
                    1 => drop(mount.vfs.remove(Ino::ROOT, name.as_bytes(), Removal::Other).await),
                    2 => {
                        let _refused = mount.memory.edit(|tree| tree.unlink(tree.root, &bytes(&name)));
                    }
                    _ => mount.tell_all(),
                }
            }
            for name in names.iter().map(String::as_str).chain([".", ".."]) {
                assert_eq!(seen.get(name), Some(&1), "{name}, seed {seed}");
            }
        });
    }
}

#[test]
fn a_page_that_was_on_its_way_when_the_reader_was_interrupted_is_not_lost() {
    block_on(async {
        let names: Vec<_> = (0..9).map(|n| format!("n{n}")).collect();
        let mount = Mount::with_files(&names.iter().map(String::as_str).collect::<Vec<_>>(), b"");
        let handle = mount.vfs.open_directory(Ino::ROOT).await.expect("opened").handle;
        let mut cookie = 0;
        let mut seen = read(&mount, handle, &mut cookie, 5, false).await;
        let gate = mount.stop(Stop::Replying("list"));
        let (vfs, from) = (mount.vfs.clone(), cookie);
        let interrupted =
            tokio::spawn(async move { vfs.read_directory(handle, from, false, |_| true).await });
        gate.reached().await;
        interrupted.abort();
        assert!(interrupted.await.is_err());
        loop {
            let listed = read(&mount, handle, &mut cookie, 5, false).await;
            if listed.is_empty() {
                break;
            }
            seen.extend(listed);
        }
        assert_eq!(seen.len(), 11, "{seen:?}");
    });
}

#[test]
fn a_rewound_directory_shows_what_is_there_now() {
    block_on(async {
        let mount = Mount::with_files(&["a", "b"], b"");
        let handle = mount.vfs.open_directory(Ino::ROOT).await.expect("opened").handle;
        let mut cookie = 0;
        assert_eq!(read(&mount, handle, &mut cookie, 9, false).await, [".", "..", "a", "b"]);
        assert!(read(&mount, handle, &mut cookie, 9, false).await.is_empty());
        mount.vfs.remove(Ino::ROOT, b"a", Removal::Other).await.expect("removed");
        cookie = 0;
        assert_eq!(read(&mount, handle, &mut cookie, 9, false).await, [".", "..", "b"]);
    });
}

#[test]
fn a_name_that_was_removed_while_it_waited_in_a_buffer_comes_without_a_node() {
    block_on(async {
        let mount = Mount::with_files(&["a", "b"], b"");
        let handle = mount.vfs.open_directory(Ino::ROOT).await.expect("opened").handle;
        let mut cookie = 0;
        assert_eq!(read(&mount, handle, &mut cookie, 2, true).await, [".", ".."]);
        mount.vfs.remove(Ino::ROOT, b"a", Removal::Other).await.expect("removed");
        let mut views = Vec::new();
        let take = |item: crate::vfs::DirectoryItem<'_>| {
            views.push((item.name.to_vec(), item.view.is_some()));
            true
        };
        mount.vfs.read_directory(handle, cookie, true, take).await.expect("read");
        assert!(!views.contains(&(b"a".to_vec(), true)), "{views:?}");
        assert!(views.contains(&(b"b".to_vec(), true)), "{views:?}");
    });
}

#[test]
fn a_whole_listing_answers_for_every_name_until_one_is_let_go() {
    block_on(async {
        let names: Vec<_> = (0..20).map(|n| format!("n{n}")).collect();
        for (idle_nodes, asks) in [(100, 0), (5, 1)] {
            let limits = crate::table::Limits { idle_nodes };
            let mount = Mount::new(Options { limits, ..Options::default() });
            mount.memory.edit(|tree| {
                let root = tree.root;
                for name in &names {
                    tree.make(root, &bytes(name), Kind::File, 0o644).expect("made");
                }
            });
            let handle = mount.vfs.open_directory(Ino::ROOT).await.expect("opened").handle;
            let mut cookie = 0;
            while !read(&mount, handle, &mut cookie, 9, false).await.is_empty() {}
            mount.view(Ino::ROOT, "n0").await;
            assert_eq!(mount.memory.calls("lookup"), asks, "with room for {idle_nodes} idle nodes");
        }
    });
}

#[test]
fn an_item_that_is_refused_is_not_counted_as_a_lookup() {
    block_on(async {
        let mount = Mount::with_files(&["a"], b"");
        let handle = mount.vfs.open_directory(Ino::ROOT).await.expect("opened").handle;
        mount.vfs.read_directory(handle, 0, true, |item| item.view.is_none()).await.expect("read");
        mount.vfs.release_directory(handle);
        assert!(mount.vfs.table.lock().census().idle == 1);
        assert_eq!(mount.vfs.read_directory(handle, 0, true, |_| true).await, Err(Errno::EBADF));
    });
}
