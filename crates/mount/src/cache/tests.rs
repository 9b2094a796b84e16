use std::collections::HashMap;
use std::os::unix::fs::PermissionsExt;

use proptest::prelude::*;
use tempfile::{TempDir, tempdir};
use vfs::cache::BLOCK_BYTES;
use vfs::file::{FileId, Time, Version};

use super::entry::{Decoded, decode, head_of, path_of};
use super::*;

const BOX: &str = "ssh://u@box";
const PATIENCE: Duration = Duration::from_secs(60);
const UNIT: u64 = 4096;

fn block(inode: u64, number: u64, size: u64, changed: i64) -> Block {
    let modified = Time { seconds: 50, nanoseconds: 999_999_999 };
    let version = Version { size, modified, changed: Time { seconds: changed, nanoseconds: 7 } };
    Block { file: FileId { device: 0xfe01, inode, birth: 3 }, version, number }
}

fn content(block: &Block) -> Bytes {
    let seed = block.file.inode ^ block.number ^ block.version.changed.seconds as u64;
    (0..block.length()).map(|at| (u64::from(at).wrapping_mul(31) + seed) as u8).collect::<Vec<_>>().into()
}

fn open(directory: &TempDir, size: CacheSize) -> DiskCache {
    DiskCache::open(&directory.path().join("cache"), BOX, size).unwrap()
}

fn place(directory: &TempDir) -> Place {
    Place::new(&directory.path().join("cache"))
}

fn keep(cache: &DiskCache, block: Block) {
    cache.keep(block, content(&block));
    assert!(cache.flush(PATIENCE));
}

/// What is on the disk, as the cache counts it.
fn bytes_of(place: &Place) -> u64 {
    place.contents().unwrap().machines.iter().map(|of| of.bytes).sum()
}

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 + seconds)
}

#[test]
fn a_block_is_found_as_it_was_kept_and_by_another_mount() {
    let directory = tempdir().unwrap();
    let cache = open(&directory, CacheSize::Bytes(1 << 30));
    let blocks = [block(1, 0, 5, 9), block(1 << 40, 0, 300_000, 9), block(1 << 40, 2, 300_000, 9)];
    blocks.iter().for_each(|block| keep(&cache, *block));
    let other = open(&directory, CacheSize::Kept);
    for block in &blocks {
        assert_eq!(cache.find(block), Some(content(block)));
        assert_eq!(other.find(block), Some(content(block)));
    }
    assert_eq!(other.find(&block(1 << 40, 1, 300_000, 9)), None);
    assert_eq!(other.found_bytes(), blocks.iter().map(|block| u64::from(block.length())).sum::<u64>());
    let machine = DiskCache::open(&directory.path().join("cache"), "ssh://other", CacheSize::Kept).unwrap();
    assert_eq!(machine.find(&blocks[0]), None, "of another machine");
}

#[test]
fn only_the_version_that_was_kept_is_found_and_a_newer_one_takes_its_place() {
    let directory = tempdir().unwrap();
    let cache = open(&directory, CacheSize::Bytes(1 << 30));
    let old = block(1, 0, 100, 9);
    keep(&cache, old);
    let of_same_size = block(1, 0, 100, 10);
    let modified = Time { seconds: 50, nanoseconds: 999_999_998 };
    let touched = Block { version: Version { modified, ..old.version }, ..old };
    let of_next_file = Block { file: FileId { birth: 4, ..old.file }, ..old };
    for other in [of_same_size, touched, of_next_file, block(1, 0, 101, 9), block(1, 0, 99, 9)] {
        assert_eq!(cache.find(&other), None, "{other:?}");
    }
    assert_eq!(cache.find(&old), Some(content(&old)), "it was not removed");
    keep(&cache, of_same_size);
    assert_eq!((cache.find(&old), cache.find(&of_same_size)), (None, Some(content(&of_same_size))));
    assert_eq!(bytes_of(&place(&directory)), UNIT);
}

#[test]
fn a_content_of_another_length_is_not_kept() {
    let directory = tempdir().unwrap();
    let cache = open(&directory, CacheSize::Bytes(1 << 30));
    let wanted = block(1, 0, 100, 9);
    cache.keep(wanted, content(&wanted).slice(1..));
    cache.keep(block(2, 1, 100, 9), Bytes::new());
    assert!(cache.flush(PATIENCE));
    assert_eq!((cache.find(&wanted), bytes_of(&place(&directory))), (None, 0));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn what_is_damaged_is_never_taken_for_a_content(
        size in 1..5000u64,
        cut in any::<prop::sample::Index>(),
        flip in any::<prop::sample::Index>(),
        bit in 0..8u32,
        more in 0..3usize,
    ) {
        let key = MachineKey::of(BOX);
        let wanted = block(1, 0, size, 9);
        let bytes = content(&wanted);
        let whole = [&head_of(&key, &wanted, &bytes)[..], &bytes].concat();
        prop_assert_eq!(decode(&key, &wanted, &whole.clone().into()), Decoded::Wanted(bytes));
        let torn = whole[..cut.index(whole.len())].to_vec();
        prop_assert_eq!(decode(&key, &wanted, &torn.clone().into()), Decoded::Damaged);
        // What a crash of the computer leaves of a file whose length was written before its blocks.
        let holes = [torn.as_slice(), &vec![0; whole.len() - torn.len()]].concat();
        if holes != whole {
            prop_assert_eq!(decode(&key, &wanted, &holes.into()), Decoded::Damaged);
        }
        let mut flipped = whole.clone();
        flipped[flip.index(whole.len())] ^= 1 << bit;
        prop_assert_eq!(decode(&key, &wanted, &flipped.into()), Decoded::Damaged);
        if more > 0 {
            prop_assert_eq!(decode(&key, &wanted, &[whole, vec![0; more]].concat().into()), Decoded::Damaged);
        }
    }

}

proptest! {
    // Each case writes some MiB.
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn whatever_is_added_it_is_bounded_and_nothing_is_found_that_was_not_kept(
        limit in 0..40u64,
        added in proptest::collection::vec((0..12u64, 0..3u64, 1..300_000u64, 0..2i64), 1..60),
    ) {
        let directory = tempdir().unwrap();
        let place = place(&directory);
        place.prepare(BOX).unwrap();
        let key = MachineKey::of(BOX);
        let limit = limit * 16 * 1024 + 1;
        place.lock().unwrap().begin(CacheSize::Bytes(limit)).unwrap();
        let mut last = HashMap::new();
        for (now, (inode, number, size, changed)) in added.into_iter().enumerate() {
            let block = block(inode, number, size, changed);
            if block.length() == 0 {
                continue;
            }
            place.lock().unwrap().add(&key, &block, &content(&block), at(now as u64)).unwrap();
            last.insert((inode, number), block);
            prop_assert!(bytes_of(&place) <= limit);
            if (block.length() as u64 + 120).div_ceil(UNIT) * UNIT <= limit {
                prop_assert_eq!(place.find(&key, &block, at(now as u64)), Some(content(&block)), "the last one stays");
            }
        }
        for block in last.values() {
            let found = place.find(&key, block, at(100));
            prop_assert!(found.is_none_or(|found| found == content(block)));
        }
    }
}

#[test]
fn a_damaged_block_is_a_miss_and_is_removed() {
    let directory = tempdir().unwrap();
    let cache = open(&directory, CacheSize::Bytes(1 << 30));
    let wanted = block(1, 0, 9000, 9);
    let path = directory.path().join("cache").join(MachineKey::of(BOX).directory()).join(path_of(&wanted));
    for damage in [0, 1, 119, 120, 9119] {
        keep(&cache, wanted);
        let written = std::fs::read(&path).unwrap();
        std::fs::write(&path, &written[..damage]).unwrap();
        assert_eq!(cache.find(&wanted), None);
        assert!(!path.exists());
        keep(&cache, wanted);
        let mut flipped = std::fs::read(&path).unwrap();
        flipped[damage] ^= 1;
        std::fs::write(&path, &flipped).unwrap();
        assert_eq!(cache.find(&wanted), None);
        assert!(!path.exists());
    }
}

#[test]
fn what_was_not_used_for_longest_goes_first_of_whatever_machine() {
    let directory = tempdir().unwrap();
    let place = place(&directory);
    let keys = ["ssh://a", "ssh://b"].map(|machine| {
        place.prepare(machine).unwrap();
        MachineKey::of(machine)
    });
    place.lock().unwrap().begin(CacheSize::Bytes(16 * UNIT)).unwrap();
    let added: Vec<_> = (0..16).map(|n| (keys[n as usize % 2], block(n, 0, 100, 9), at(n))).collect();
    for (key, block, now) in &added {
        place.lock().unwrap().add(key, block, &content(block), *now).unwrap();
    }
    // The first is used again, long after.
    assert!(place.find(&keys[0], &added[0].1, at(1000)).is_some());
    let one_more = block(100, 0, 100, 9);
    place.lock().unwrap().add(&keys[1], &one_more, &content(&one_more), at(1001)).unwrap();
    let there: Vec<bool> =
        added.iter().map(|(key, block, _)| place.find(key, block, at(1001)).is_some()).collect();
    let expected: Vec<bool> = (0..16).map(|n| n == 0 || n > 3).collect();
    assert_eq!(there, expected, "an eighth, and what the new one takes");
    assert!(place.find(&keys[1], &one_more, at(1001)).is_some());
    assert_eq!(bytes_of(&place), 14 * UNIT);
}

#[test]
fn the_limit_that_was_named_last_is_kept_and_a_lower_one_makes_room_at_once() {
    let directory = tempdir().unwrap();
    let cache = open(&directory, CacheSize::Bytes(64 * UNIT));
    (0..64).for_each(|inode| keep(&cache, block(inode, 0, 100, 9)));
    let place = place(&directory);
    assert_eq!(bytes_of(&place), 64 * UNIT);
    let other = open(&directory, CacheSize::Kept);
    keep(&other, block(100, 0, 100, 9));
    assert_eq!(place.contents().unwrap().limit_bytes, 64 * UNIT);
    assert!(bytes_of(&place) <= 64 * UNIT);
    let lower = open(&directory, CacheSize::Bytes(10 * UNIT));
    keep(&lower, block(101, 0, 100, 9));
    assert_eq!(place.contents().unwrap().limit_bytes, 10 * UNIT);
    assert!((1..=10 * UNIT).contains(&bytes_of(&place)));
}

#[test]
fn without_a_named_limit_it_is_a_share_of_the_disk() {
    let directory = tempdir().unwrap();
    let limit = place(&directory).contents().unwrap().limit_bytes;
    assert!(limit <= place::DEFAULT_BYTES_MAX, "{limit}");
    let space = rustix::fs::statvfs(directory.path()).unwrap();
    assert!(limit <= space.f_blocks * space.f_frsize / 10, "{limit}");
}

#[test]
fn after_a_restart_of_the_computer_it_is_counted_anew() {
    let directory = tempdir().unwrap();
    let cache = open(&directory, CacheSize::Bytes(4 * UNIT));
    let added = [1, 2].map(|inode| block(inode, 0, 100, 9));
    added.iter().for_each(|block| keep(&cache, *block));
    drop(cache);
    // Nothing of the count had come to the disk, or something else had.
    for usage in [Vec::new(), vec![0; 64], vec![0xff; 64]] {
        std::fs::write(directory.path().join("cache/usage"), usage).unwrap();
        let cache = open(&directory, CacheSize::Bytes(4 * UNIT));
        (3..10).for_each(|inode| keep(&cache, block(inode, 0, 100, 9)));
        let there = bytes_of(&place(&directory));
        assert!((UNIT..=4 * UNIT).contains(&there), "{there}");
    }
}

#[test]
fn writers_at_once_keep_to_the_limit_and_readers_find_what_was_kept_or_nothing() {
    let directory = tempdir().unwrap();
    let limit = 600_000;
    let all: Vec<Block> = (0..40)
        .flat_map(|inode| [0, 1].map(|changed| block(inode % 10, inode / 20, 200_000, changed)))
        .collect();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                // Of its own, as a process has it.
                let cache = open(&directory, CacheSize::Bytes(limit));
                for round in 0..2 {
                    for block in &all {
                        cache.keep(*block, content(block));
                        let found = cache.find(&all[(round * 7 + block.file.inode as usize) % all.len()]);
                        assert!(found.is_none_or(|found| !found.is_empty()));
                    }
                    for block in &all {
                        assert!(cache.find(block).is_none_or(|found| found == content(block)));
                    }
                }
                assert!(cache.flush(PATIENCE));
            });
        }
        scope.spawn(|| {
            for _ in 0..50 {
                let place = place(&directory);
                // Nobody writes meanwhile.
                let _locked = place.lock().unwrap();
                assert!(bytes_of(&place) <= limit);
            }
        });
    });
    let there = bytes_of(&place(&directory));
    assert!(there > 0 && there <= limit, "{there}");
}

#[test]
fn what_cannot_be_written_is_not_kept_and_what_is_there_is_found() {
    let directory = tempdir().unwrap();
    let cache = open(&directory, CacheSize::Bytes(1 << 30));
    keep(&cache, block(1, 0, 100, 9));
    // Also for root.
    std::fs::create_dir(directory.path().join("cache/new")).unwrap();
    keep(&cache, block(2, 0, 100, 9));
    std::fs::remove_dir(directory.path().join("cache/new")).unwrap();
    keep(&cache, block(3, 0, 100, 9));
    let there = [1, 2, 3].map(|inode| cache.find(&block(inode, 0, 100, 9)).is_some());
    assert_eq!(there, [true, false, false], "for a while nothing is tried");
    let again = open(&directory, CacheSize::Kept);
    keep(&again, block(2, 0, 100, 9));
    assert!(again.find(&block(2, 0, 100, 9)).is_some());
}

#[test]
fn a_cache_that_is_removed_under_a_mount_is_a_miss_and_comes_again() {
    let directory = tempdir().unwrap();
    let cache = open(&directory, CacheSize::Bytes(1 << 30));
    keep(&cache, block(1, 0, 100, 9));
    std::fs::remove_dir_all(directory.path().join("cache")).unwrap();
    assert_eq!(cache.find(&block(1, 0, 100, 9)), None);
    keep(&cache, block(1, 0, 100, 9));
    assert!(cache.find(&block(1, 0, 100, 9)).is_some());
}

#[test]
fn what_is_there_is_told_by_machine_and_cleared_by_machine() {
    let directory = tempdir().unwrap();
    let place = place(&directory);
    assert_eq!(place.contents().unwrap().machines, []);
    assert_eq!(place.clear(None).unwrap(), Cleared::default());
    let caches = ["ssh://b", "ssh://a"].map(|machine| {
        DiskCache::open(&directory.path().join("cache"), machine, CacheSize::Bytes(1 << 30)).unwrap()
    });
    for number in 0..3 {
        keep(&caches[0], block(1, number, 300_000, 9));
    }
    keep(&caches[1], block(1, 0, 5, 9));
    keep(&caches[1], block(2, 0, 5, 9));
    let of = |machine: &str, bytes, files| MachineContents { machine: machine.to_owned(), bytes, files };
    let (a, b) = (of("ssh://a", 2 * UNIT, 2), of("ssh://b", 2 * 33 * UNIT + 10 * UNIT, 1));
    assert_eq!(place.contents().unwrap().machines, [a.clone(), b.clone()]);
    assert_eq!(place.clear(Some("ssh://b")).unwrap(), Cleared { bytes: b.bytes, files: b.files });
    assert_eq!(place.contents().unwrap().machines, [a]);
    assert_eq!(caches[0].find(&block(1, 0, 300_000, 9)), None);
    keep(&caches[0], block(1, 0, 300_000, 9));
    assert_eq!(place.clear(None).unwrap().files, 3);
    assert_eq!(place.contents().unwrap().machines, []);
}

#[test]
fn it_is_of_this_user_alone_or_not_at_all() {
    let directory = tempdir().unwrap();
    let cache = open(&directory, CacheSize::Bytes(1 << 30));
    keep(&cache, block(1, 0, 100, 9));
    let mut waiting = vec![directory.path().join("cache")];
    while let Some(path) = waiting.pop() {
        let metadata = std::fs::symlink_metadata(&path).unwrap();
        let expected = if metadata.is_dir() { 0o700 } else { 0o600 };
        assert_eq!(metadata.permissions().mode() & 0o7777, expected, "{}", path.display());
        if metadata.is_dir() {
            waiting.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
    let open_to_all = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(directory.path().join("cache"), open_to_all).unwrap();
    let refused = DiskCache::open(&directory.path().join("cache"), BOX, CacheSize::Kept).err().unwrap();
    assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
}

#[test]
fn the_last_block_of_a_file_is_shorter_and_its_name_has_no_version() {
    let last = block(0xab, 2, 2 * u64::from(BLOCK_BYTES) + 1, 9);
    assert_eq!(content(&last).len(), 1);
    assert_eq!(path_of(&last), "a9/fe01-ab-3.2");
    assert_eq!(path_of(&last), path_of(&block(0xab, 2, 1 << 30, 10)));
}
