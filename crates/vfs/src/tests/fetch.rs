//! Contents of small files that come ahead of a reader: how many requests somebody waits for.

use super::*;
use crate::file::{FileId, Kind};
use crate::testing::Tree;
use crate::vfs::Removal;

const SIZE: usize = 4096;

fn content(name: &str) -> Vec<u8> {
    name.bytes().cycle().take(SIZE).collect()
}

fn make(tree: &mut Tree, directory: FileId, name: &str) {
    let file = tree.make(directory, &bytes(name), Kind::File, 0o644).expect("a new name");
    tree.write(file, Some(0), &content(name)).expect("written");
}

fn mount() -> Mount {
    let mount = Mount::new(Options { list_after: Some(2), fetch_ahead: true, ..Options::default() });
    mount.memory.list_by(50);
    mount
}

/// So many directories in the root, each with so many files.
fn with_tree(directories: usize, files: usize) -> Mount {
    let mount = mount();
    mount.memory.edit(|tree| {
        let root = tree.root;
        for directory in 0..directories {
            let made =
                tree.make(root, &bytes(&format!("d{directory}")), Kind::Directory, 0o755).expect("new");
            (0..files).for_each(|file| make(tree, made, &format!("f{file}")));
        }
    });
    mount
}

/// What `cat` does: opens, reads whole, closes. The link takes its time meanwhile.
async fn read(mount: &Mount, directory: Ino, name: &str) {
    let ino = mount.view(directory, name).await.ino;
    let handle = mount.vfs.open(ino, READ).await.expect("opened").handle;
    assert_eq!(mount.vfs.read(handle, 0, 1 << 17).await.expect("read"), content(name));
    mount.vfs.flush(handle, 0, None).await.expect("closed");
    mount.vfs.release(handle);
    settle().await;
}

#[test]
fn the_files_of_a_directory_come_with_two_opens_and_a_walk() {
    block_on(async {
        let mount = with_tree(1, 100);
        let directory = mount.view(Ino::ROOT, "d0").await.ino;
        for file in 0..100 {
            read(&mount, directory, &format!("f{file}")).await;
        }
        let calls = |name| mount.memory.calls(name);
        assert_eq!((calls("open"), calls("read"), calls("walk")), (2, 0, 1));
        assert!(mount.memory.all_calls() <= 10, "{}", mount.memory.all_calls());
    });
}

#[test]
fn a_tree_of_a_thousand_files_costs_a_few_opens() {
    block_on(async {
        let mount = with_tree(50, 20);
        for directory in 0..50 {
            let directory = mount.view(Ino::ROOT, &format!("d{directory}")).await.ino;
            for file in 0..20 {
                read(&mount, directory, &format!("f{file}")).await;
            }
        }
        let (opens, walks) = (mount.memory.calls("open"), mount.memory.calls("walk"));
        assert!(opens <= 6 && walks <= 4, "{opens} opens, {walks} walks");
        let all = mount.memory.all_calls();
        assert!(all <= 30, "{all} requests for 1000 files in 50 directories");
    });
}

#[test]
fn nothing_is_fetched_for_who_reads_a_file_here_and_there() {
    block_on(async {
        let mount = with_tree(50, 20);
        for directory in 0..50 {
            let directory = mount.view(Ino::ROOT, &format!("d{directory}")).await.ino;
            read(&mount, directory, "f7").await;
        }
        assert_eq!(mount.memory.calls("walk"), 0);
    });
}

#[test]
fn nothing_is_fetched_for_who_opens_large_files_or_writes() {
    block_on(async {
        let mount = with_tree(1, 20);
        mount.memory.edit(|tree| {
            for file in 0..20 {
                let file = tree.at(&format!("d0/f{file}")).expect("there");
                tree.write(file, Some(1 << 20), b"end").expect("written");
            }
        });
        let directory = mount.view(Ino::ROOT, "d0").await.ino;
        for file in 0..20 {
            let ino = mount.view(directory, &format!("f{file}")).await.ino;
            let flags = if file < 10 { READ } else { WRITE };
            let handle = mount.vfs.open(ino, flags).await.expect("opened").handle;
            mount.vfs.release(handle);
        }
        settle().await;
        assert_eq!(mount.memory.calls("walk"), 0);
    });
}

#[test]
fn what_is_fetched_stays_within_what_the_reader_has_shown() {
    block_on(async {
        let mount = with_tree(1, 5000);
        let directory = mount.view(Ino::ROOT, "d0").await.ino;
        read(&mount, directory, "f0").await;
        read(&mount, directory, "f1").await;
        settle().await;
        let fetched = mount.vfs.census().content_bytes;
        assert!((256 << 10..2 << 20).contains(&fetched), "{fetched}");
    });
}

/// A directory `d0` of which the walk has read `f2`, and what it has of that has not arrived.
async fn with_the_last_of_three_on_its_way() -> (Mount, Ino, Arc<Gate>) {
    let mount = with_tree(1, 3);
    let directory = mount.view(Ino::ROOT, "d0").await.ino;
    let gate = mount.stop(Stop::Replying("walked"));
    for name in ["f0", "f1"] {
        read(&mount, directory, name).await;
    }
    gate.reached().await;
    (mount, directory, gate)
}

#[test]
fn a_file_that_changes_while_it_is_fetched_is_read_as_it_is() {
    block_on(async {
        let (mount, directory, gate) = with_the_last_of_three_on_its_way().await;
        // What the walk has of it is older.
        mount.memory.edit(|tree| {
            let file = tree.at("d0/f2").expect("there");
            tree.write(file, Some(0), &[b'x'; SIZE]).expect("written");
        });
        mount.tell_all();
        gate.release();
        settle().await;
        let ino = mount.view(directory, "f2").await.ino;
        let handle = mount.vfs.open(ino, READ).await.expect("opened").handle;
        assert_eq!(mount.vfs.read(handle, 0, 1 << 17).await.expect("read"), [b'x'; SIZE].as_slice());
    });
}

#[test]
fn a_file_that_is_removed_while_it_is_fetched_is_not_there() {
    block_on(async {
        let (mount, directory, gate) = with_the_last_of_three_on_its_way().await;
        mount.vfs.remove(directory, b"f2", Removal::Other).await.expect("removed");
        gate.release();
        settle().await;
        assert!(mount.is_absent(directory, "f2").await);
    });
}

#[test]
fn a_walk_that_fails_costs_nothing_but_itself() {
    block_on(async {
        let mount = with_tree(1, 20);
        mount.memory.fail_next("walk", crate::errno::Errno::EACCES);
        let directory = mount.view(Ino::ROOT, "d0").await.ino;
        for file in 0..20 {
            read(&mount, directory, &format!("f{file}")).await;
        }
        assert_eq!((mount.memory.calls("walk"), mount.memory.calls("open")), (1, 20));
    });
}

#[test]
fn nothing_is_fetched_ahead_from_a_near_source() {
    block_on(async {
        let mount = with_tree(1, 20);
        mount.vfs.set_round_trip(std::time::Duration::ZERO);
        let directory = mount.view(Ino::ROOT, "d0").await.ino;
        for file in 0..20 {
            read(&mount, directory, &format!("f{file}")).await;
        }
        assert_eq!(mount.memory.calls("walk"), 0);
    });
}
