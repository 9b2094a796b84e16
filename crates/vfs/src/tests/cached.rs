//! What the data cache keeps over mounts: read without the source where it is the file's content, and never where not.

use std::time::Duration;

use super::*;
use crate::cache::BLOCK_BYTES;
use crate::file::Time;
use crate::testing::{CacheFault, MemoryCache, Tree};

/// Long after every change.
const LATER: Option<Time> = Some(Time { seconds: 1 << 40, nanoseconds: 0 });

const LARGE: usize = 3 * BLOCK_BYTES as usize + 100;

fn content(length: usize, seed: usize) -> Vec<u8> {
    (0..length).map(|at| (at / 3 + at / 1000 + seed) as u8).collect()
}

/// A mount of a file `f`, whose source has a cache.
fn cached(content: &[u8]) -> (Mount, Arc<MemoryCache>) {
    let mount = Mount::with_files(&["f"], content);
    let cache = Arc::new(MemoryCache::default());
    mount.memory.cache_in(Some(cache.clone()));
    mount.memory.set_clock(LATER);
    (mount, cache)
}

/// Looks the file up, opens it, reads all of it as a kernel does, and closes it.
async fn read(mount: &Mount) -> Vec<u8> {
    let ino = mount.view(Ino::ROOT, "f").await.ino;
    let handle = mount.vfs.open(ino, READ).await.expect("opened").handle;
    let all = read_open(mount, handle).await;
    close(mount, handle).await;
    all
}

/// Closes it, also at the source: other mounts give their handles the same numbers.
async fn close(mount: &Mount, handle: HandleId) {
    mount.vfs.release(handle);
    mount.vfs.drain().await;
    eventually("what was only read is closed", || mount.memory.open_handles() == 0).await;
}

async fn read_open(mount: &Mount, handle: HandleId) -> Vec<u8> {
    let mut all = Vec::new();
    loop {
        let bytes = mount.vfs.read(handle, all.len() as u64, 128 << 10).await.expect("read");
        if bytes.is_empty() {
            return all;
        }
        all.extend_from_slice(&bytes);
    }
}

fn overwrite(mount: &Mount, content: &[u8]) {
    mount.memory.edit(|tree: &mut Tree| {
        let file = tree.at("f").expect("there");
        tree.write(file, Some(0), content).expect("written");
    });
}

#[test]
fn another_mount_reads_a_small_file_without_the_source() {
    block_on(async {
        let (first, cache) = cached(b"content");
        assert_eq!(read(&first).await, b"content");
        assert_eq!(cache.blocks(), 1);
        let second = first.again();
        let before = first.memory.all_calls();
        assert_eq!(read(&second).await, b"content");
        let lookups = first.memory.all_calls() - before;
        assert_eq!((lookups, first.memory.calls("read"), first.memory.calls("open")), (1, 0, 1));
        assert_eq!(cache.found(), 1);
    });
}

#[test]
fn another_mount_reads_a_large_file_without_a_byte_of_the_source() {
    block_on(async {
        let large = content(LARGE, 1);
        let (first, cache) = cached(&large);
        assert_eq!(read(&first).await, large);
        assert_eq!(cache.blocks(), 4);
        let second = first.again();
        let reads = first.memory.calls("read");
        // What is behind the end would be asked for: it may have moved.
        let ino = second.view(Ino::ROOT, "f").await.ino;
        let handle = second.vfs.open(ino, READ).await.expect("opened").handle;
        for offset in [0, 1, 200_000, LARGE - 5, 131_072, 131_071] {
            let length = 70_000.min(LARGE - offset);
            let bytes = second.vfs.read(handle, offset as u64, length as u32).await.expect("read");
            assert_eq!(bytes, large[offset..offset + length], "{offset}");
        }
        assert_eq!(first.memory.calls("read"), reads);
    });
}

#[test]
fn what_an_open_tells_and_a_listing_told_before_it_is_the_version_that_is_believed() {
    block_on(async {
        let large = content(LARGE, 1);
        let (first, _cache) = cached(&large);
        assert_eq!(read(&first).await, large);
        for changes in [false, true] {
            let second = first.again();
            let ino = second.view(Ino::ROOT, "f").await.ino;
            let (vfs, gate) = (second.vfs.clone(), second.stop(Stop::Replying("open")));
            let opening = tokio::spawn(async move { vfs.open(ino, READ).await.expect("opened").handle });
            gate.reached().await;
            // Whoever lists the directory learns of the file what the open is about to tell, or what it was no more.
            if changes {
                overwrite(&first, &content(LARGE, 2));
            }
            second.list(Ino::ROOT).await;
            gate.release();
            let handle = opening.await.expect("no panic");
            let reads = first.memory.calls("read");
            let seed = if changes { 2 } else { 1 };
            assert_eq!(second.vfs.read(handle, 0, 9).await.expect("read"), content(LARGE, seed)[..9]);
            assert_eq!(first.memory.calls("read") > reads, changes);
            close(&second, handle).await;
        }
    });
}

#[test]
fn a_file_that_was_changed_meanwhile_is_read_anew_also_with_the_same_size() {
    for length in [10, LARGE] {
        block_on(async {
            let (first, _cache) = cached(&content(length, 1));
            assert_eq!(read(&first).await, content(length, 1));
            overwrite(&first, &content(length, 2));
            assert_eq!(read(&first.again()).await, content(length, 2));
            overwrite(&first, &content(length, 3));
            let (second, third) = (first.again(), first.again());
            assert_eq!(read(&second).await, content(length, 3));
            assert_eq!(read(&third).await, content(length, 3));
        });
    }
}

#[test]
fn what_may_change_again_under_its_version_is_not_kept() {
    for length in [10, LARGE] {
        block_on(async {
            let (first, cache) = cached(&content(length, 1));
            let changed = first
                .memory
                .look(|tree| tree.entry(tree.at("f").expect("there")))
                .expect("a file")
                .attributes
                .changed;
            let clocks = [None, Some(changed), Some(Time { seconds: changed.seconds + 2, ..changed })];
            for clock in clocks {
                first.memory.set_clock(clock);
                assert_eq!(read(&first.again()).await, content(length, 1));
                assert_eq!(cache.blocks(), 0, "{clock:?}");
            }
            // A tick of the machine's clock that has more than one change in it.
            first.memory.edit(|tree| tree.ticks_per_time = 1 << 40);
            overwrite(&first, &content(length, 2));
            first.memory.set_clock(Some(Time { seconds: 1, nanoseconds: 0 }));
            assert_eq!(read(&first.again()).await, content(length, 2));
            overwrite(&first, &content(length, 3));
            first.memory.set_clock(LATER);
            assert_eq!(read(&first.again()).await, content(length, 3));
        });
    }
}

#[test]
fn of_a_near_source_an_open_asks_first_and_a_change_that_was_not_told_is_seen() {
    block_on(async {
        let (first, cache) = cached(b"content");
        assert_eq!(read(&first).await, b"content");
        let second = first.again();
        second.vfs.set_round_trip(Duration::ZERO);
        let ino = second.view(Ino::ROOT, "f").await.ino;
        let opens = first.memory.calls("open");
        assert_eq!(read(&second).await, b"content");
        assert_eq!((first.memory.calls("open") - opens, first.memory.calls("stat")), (0, 1));
        let third = first.again();
        third.vfs.set_round_trip(Duration::ZERO);
        assert_eq!(third.view(Ino::ROOT, "f").await.ino, ino);
        overwrite(&first, b"CONTENT");
        assert_eq!(read(&third).await, b"CONTENT");
        assert!(cache.found() >= 2, "what it had was looked at, and not taken");
    });
}

#[test]
fn an_open_file_shows_a_change_when_it_is_told() {
    block_on(async {
        let (first, _cache) = cached(&content(LARGE, 1));
        assert_eq!(read(&first).await, content(LARGE, 1));
        let second = first.again();
        let ino = second.view(Ino::ROOT, "f").await.ino;
        let handle = second.vfs.open(ino, READ).await.expect("opened").handle;
        assert_eq!(read_open(&second, handle).await, content(LARGE, 1));
        overwrite(&first, &content(LARGE, 2));
        second.tell_all();
        assert_eq!(read_open(&second, handle).await, content(LARGE, 2));
    });
}

#[test]
fn what_is_written_here_is_read_here_whatever_was_kept() {
    block_on(async {
        let (first, _cache) = cached(&content(LARGE, 1));
        assert_eq!(read(&first).await, content(LARGE, 1));
        let mut expected = content(LARGE, 1);
        let second = first.again();
        let ino = second.view(Ino::ROOT, "f").await.ino;
        let handle = second.vfs.open(ino, BOTH).await.expect("opened").handle;
        for round in 0..5usize {
            let at = round * 90_000;
            second.write(handle, at as u64, &[round as u8; 100]).await.expect("written");
            expected.resize(expected.len().max(at + 100), 0);
            expected[at..at + 100].fill(round as u8);
            assert_eq!(read_open(&second, handle).await, expected, "{round}");
        }
        second.vfs.flush(handle, 0, None).await.expect("closed");
        second.vfs.release(handle);
        second.vfs.drain().await;
        assert_eq!(read(&second).await, expected);
        assert_eq!(read(&first.again()).await, expected);
    });
}

#[test]
fn a_reader_who_goes_around_all_caches_goes_around_this_one() {
    block_on(async {
        let (first, _cache) = cached(&content(LARGE, 1));
        assert_eq!(read(&first).await, content(LARGE, 1));
        let second = first.again();
        let ino = second.view(Ino::ROOT, "f").await.ino;
        let handle = second.vfs.open(ino, OpenFlags { direct: true, ..READ }).await.expect("opened").handle;
        // Not told.
        overwrite(&first, &content(LARGE, 2));
        assert_eq!(second.vfs.read(handle, 0, 4096).await.expect("read"), content(LARGE, 2)[..4096]);
    });
}

#[test]
fn whatever_goes_wrong_in_the_cache_the_source_is_read() {
    for length in [10, LARGE] {
        for fault in [CacheFault::Blind, CacheFault::Full, CacheFault::Short, CacheFault::Panics] {
            block_on(async {
                let (first, cache) = cached(&content(length, 1));
                if fault == CacheFault::Full {
                    cache.fail(fault);
                }
                assert_eq!(read(&first).await, content(length, 1));
                cache.fail(fault);
                assert_eq!(read(&first.again()).await, content(length, 1), "{fault:?}");
            });
        }
    }
}

#[test]
fn a_source_that_takes_its_cache_away_is_asked() {
    block_on(async {
        let (first, cache) = cached(b"content");
        assert_eq!(read(&first).await, b"content");
        first.memory.cache_in(None);
        let second = first.again();
        assert_eq!(read(&second).await, b"content");
        assert_eq!((cache.found(), first.memory.calls("open")), (0, 2));
    });
}
