//! Nothing is unbounded, and what is known costs little.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use super::*;
use crate::behind::UNWRITTEN_BYTES_MAX;
use crate::file::{Attributes, Entry, FileId, Kind, ThreadId};
use crate::source::Lease;
use crate::table::{Limits, Moment, Table};

/// Counts what the thread holds: tests run side by side.
struct Counting;

thread_local! {
    static HELD: Cell<isize> = const { Cell::new(0) };
}

fn count(bytes: usize, sign: isize) {
    // At the end of a thread there is nothing left to count in.
    let _counted = HELD.try_with(|held| held.set(held.get() + sign * bytes as isize));
}

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 1);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(layout.size(), -1);
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

fn entry(inode: u64, kind: Kind) -> Entry {
    let attributes = Attributes { mode: 0o644, ..Attributes::new(kind) };
    Entry { id: FileId { device: 1, inode, birth: 0 }, attributes }
}

const LEASE: Option<Lease> = Some(Lease { epoch: 0, valid_ms: 0 });

/// A table that has been given so many names in the root, the kernel holding each.
fn filled(names: u64, limits: Limits) -> (Table, Vec<Ino>) {
    let mut table = Table::new(entry(1, Kind::Directory), limits, Moment(0));
    let mut inos = Vec::new();
    for inode in 2..names + 2 {
        let name = bytes(&format!("source-file-{inode:08}.rs"));
        let ticket = table.ticket(Ino::ROOT).expect("the root");
        let told = Some(entry(inode, Kind::File));
        let known = table.learn(Ino::ROOT, &name, told, (ticket, LEASE), Moment(0), &mut Vec::new());
        let Ok(crate::table::Known::Present(ino, _)) = known else { panic!("{known:?}") };
        table.add_lookup(ino);
        inos.push(ino);
    }
    (table, inos)
}

#[test]
fn a_hundred_thousand_nodes_take_less_than_60_mb() {
    let before = HELD.get();
    let (table, inos) = filled(100_000, Limits::default());
    let held = (HELD.get() - before) as usize - inos.capacity() * size_of::<Ino>();
    assert_eq!(table.census().nodes, 100_001);
    println!("{} bytes a node", held / 100_000);
    assert!(held < 60_000_000, "{held} bytes");
}

#[test]
fn a_million_names_visited_do_not_stay() {
    let limits = Limits { idle_nodes: 1000 };
    let mut table = Table::new(entry(1, Kind::Directory), limits, Moment(0));
    let before = HELD.get();
    for inode in 2..1_000_002 {
        let name = bytes(&format!("n{inode}"));
        let ticket = table.ticket(Ino::ROOT).expect("the root");
        let told = Some(entry(inode, Kind::File));
        let known = table.learn(Ino::ROOT, &name, told, (ticket, LEASE), Moment(0), &mut Vec::new());
        let Ok(crate::table::Known::Present(ino, _)) = known else { panic!("{known:?}") };
        table.add_lookup(ino);
        table.forget(ino, 1);
    }
    assert_eq!(table.census().nodes, 1001);
    let held = HELD.get() - before;
    assert!(held < 2_000_000, "{held} bytes");
}

#[test]
fn a_tree_that_was_forgotten_shrinks_to_the_root() {
    let (mut table, inos) = filled(10_000, Limits { idle_nodes: 0 });
    inos.into_iter().for_each(|ino| table.forget(ino, 1));
    assert_eq!(table.census().nodes, 1);
}

#[test]
fn absent_names_are_bounded_and_those_that_go_are_taken_back() {
    block_on(async {
        let mount = Mount::new(Options::default());
        for name in 0..20_000 {
            assert!(mount.is_absent(Ino::ROOT, &format!("no{name}")).await);
        }
        let taken_back = mount.take_notices().len();
        assert!((8000..20_000).contains(&taken_back), "{taken_back}");
    });
}

#[test]
fn bytes_that_wait_to_be_written_are_bounded() {
    block_on(async {
        let mount = Mount::with_files(&["f"], b"");
        let ino = mount.view(Ino::ROOT, "f").await.ino;
        let handle = mount.vfs.open(ino, WRITE).await.expect("opened").handle;
        let block = bytes::Bytes::from(vec![0; 1 << 20]);
        let gates: Vec<_> = (0..40).map(|_| mount.stop(Stop::Asking("write"))).collect();
        let (vfs, part) = (mount.vfs.clone(), block.clone());
        let writer = tokio::spawn(async move {
            for offset in 0..40u64 {
                vfs.write(handle, offset << 20, part.clone(), WriteFrom::Caller(ThreadId::UNKNOWN), false)
                    .await
                    .expect("taken");
            }
        });
        settle().await;
        assert!(!writer.is_finished());
        assert_eq!(mount.vfs.unwritten_bytes(), UNWRITTEN_BYTES_MAX);
        gates.iter().for_each(|gate| gate.release());
        writer.await.expect("no panic");
        mount.vfs.drain().await;
        settle().await;
        assert_eq!(mount.vfs.unwritten_bytes(), 0);
        assert_eq!(mount.content("f").len(), 40 << 20);
    });
}

#[test]
fn bytes_read_ahead_go_with_their_handles() {
    block_on(async {
        let mount = Mount::with_files(&["big", "small"], &vec![1; 4 << 20]);
        let ino = mount.view(Ino::ROOT, "big").await.ino;
        let handle = mount.vfs.open(ino, READ).await.expect("opened").handle;
        for step in 0..8 {
            mount.vfs.read(handle, step << 17, 1 << 17).await.expect("read");
        }
        assert!(mount.vfs.ahead_bytes() > 0);
        mount.vfs.release(handle);
        settle().await;
        assert_eq!(mount.vfs.ahead_bytes(), 0);
    });
}

/// What a known name costs. Not a test of time: run it by name, optimised, to see.
#[test]
#[ignore = "prints a time"]
fn time_of_a_known_name_and_of_known_attributes() {
    block_on(async {
        let mount = Mount::with_files(&["f"], b"");
        let ino = mount.view(Ino::ROOT, "f").await.ino;
        const ROUNDS: u32 = 1_000_000;
        let started = std::time::Instant::now();
        for _ in 0..ROUNDS {
            mount.vfs.lookup(Ino::ROOT, b"f").await.expect("known");
        }
        println!("lookup: {:?}", started.elapsed() / ROUNDS);
        let started = std::time::Instant::now();
        for _ in 0..ROUNDS {
            mount.vfs.attributes(ino.into()).await.expect("known");
        }
        println!("attributes: {:?}", started.elapsed() / ROUNDS);
    });
}
