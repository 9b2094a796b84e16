use std::io::{Read, Write};

use super::*;

const SIZE: u64 = 3000;

fn oid(number: u32) -> Oid {
    gix_object::compute_hash(crate::Hash::Sha1, gix_object::Kind::Blob, &content(number)).expect("hashed")
}

fn content(number: u32) -> Vec<u8> {
    number.to_le_bytes().iter().copied().cycle().take(SIZE as usize).collect()
}

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 + seconds)
}

fn read(mut file: File) -> Vec<u8> {
    let mut read = Vec::new();
    file.read_to_end(&mut read).expect("read");
    read
}

fn get(cache: &BlobCache, number: u32, now: SystemTime) -> File {
    let fill = |to: &mut File, path: &Path| to.write_all(&content(number)).map_err(fails("write", path));
    cache.get(&oid(number), SIZE, now, fill).expect("there")
}

fn taken(cache: &BlobCache) -> u64 {
    cache.evict(u64::MAX).expect("counted")
}

fn never(_: &mut File, _: &Path) -> Result<()> {
    panic!("it is kept");
}

#[test]
fn a_content_is_written_once_and_found_then() {
    let scratch = tempfile::tempdir().expect("a directory");
    let cache = BlobCache::open(&scratch.path().join("cache"), 1 << 20).expect("opened");
    assert!(cache.find(&oid(1), at(0)).is_none());
    assert_eq!(read(get(&cache, 1, at(0))), content(1));
    assert_eq!(read(cache.get(&oid(1), SIZE, at(1), never).expect("kept")), content(1));
    let another = BlobCache::open(&scratch.path().join("cache"), 1 << 20).expect("opened by another");
    assert_eq!(read(another.find(&oid(1), at(2)).expect("kept")), content(1));
    assert_eq!(entries_of(&cache.directory.join(NEW)).expect("listed"), [] as [PathBuf; 0]);
}

#[test]
fn what_could_not_be_had_is_not_kept() {
    let scratch = tempfile::tempdir().expect("a directory");
    let cache = BlobCache::open(&scratch.path().join("cache"), 1 << 20).expect("opened");
    let why = || Error::Corrupt { oid: oid(1), repository: PathBuf::new(), why: "as told".to_owned() };
    let got = cache.get(&oid(1), SIZE, at(0), |to, path| {
        to.write_all(b"half").map_err(fails("write", path))?;
        Err(why())
    });
    assert!(matches!(got, Err(Error::Corrupt { .. })));
    assert!(cache.find(&oid(1), at(0)).is_none());
    assert_eq!(entries_of(&cache.directory.join(NEW)).expect("listed"), [] as [PathBuf; 0]);
}

#[test]
fn those_not_used_for_longest_go_first_and_the_limit_holds() {
    let scratch = tempfile::tempdir().expect("a directory");
    let limit = 16 * UNIT_BYTES;
    let cache = BlobCache::open(&scratch.path().join("cache"), limit).expect("opened");
    for number in 0..16 {
        drop(get(&cache, number, at(0)));
        let file = cache.find(&oid(number), at(u64::from(number) * 100 + 100)).expect("kept");
        drop(file);
        assert!(taken(&cache) <= limit);
    }
    let open = cache.find(&oid(1), at(150)).expect("kept");
    drop(cache.find(&oid(0), at(5000)).expect("kept"));
    drop(get(&cache, 16, at(6000)));
    assert!(taken(&cache) <= limit - limit / EVICTED_SHARE);
    assert!(cache.find(&oid(0), at(6000)).is_some(), "it was used last");
    assert!(cache.find(&oid(1), at(6000)).is_none() && cache.find(&oid(2), at(6000)).is_none());
    assert!(cache.find(&oid(16), at(6000)).is_some(), "it was added");
    assert_eq!(read(open), content(1), "what is open stays");
}

#[test]
fn a_count_that_is_lost_or_damaged_is_made_again() {
    let scratch = tempfile::tempdir().expect("a directory");
    let limit = 16 * UNIT_BYTES;
    let cache = BlobCache::open(&scratch.path().join("cache"), limit).expect("opened");
    (0..12).for_each(|number| drop(get(&cache, number, at(0))));
    std::fs::write(cache.directory.join(USAGE), b"something else").expect("written");
    drop(get(&cache, 12, at(0)));
    assert_eq!(cache.lock().expect("locked").counted().expect("read"), Some(taken(&cache)));
    assert_eq!(taken(&cache), 13 * UNIT_BYTES);
}

#[test]
fn a_content_that_is_too_large_is_served_and_not_kept() {
    let scratch = tempfile::tempdir().expect("a directory");
    let cache = BlobCache::open(&scratch.path().join("cache"), UNIT_BYTES).expect("opened");
    assert_eq!(read(get(&cache, 1, at(0))), content(1));
    assert!(cache.find(&oid(1), at(0)).is_none());
}

#[test]
fn a_cache_that_cannot_be_written_serves_from_memory() {
    let scratch = tempfile::tempdir().expect("a directory");
    let cache = BlobCache::open(&scratch.path().join("cache"), 1 << 20).expect("opened");
    std::fs::remove_dir_all(&cache.directory).expect("removed");
    std::fs::write(&cache.directory, b"in the way").expect("written");
    assert_eq!(read(get(&cache, 1, at(0))), content(1));
    assert!(cache.find(&oid(1), at(0)).is_none());
}

#[test]
fn a_cache_that_was_removed_comes_again() {
    let scratch = tempfile::tempdir().expect("a directory");
    let path = scratch.path().join("cache");
    let cache = BlobCache::open(&path, 1 << 20).expect("opened");
    std::fs::remove_dir_all(&path).expect("removed");
    assert_eq!(read(get(&cache, 1, at(0))), content(1));
    assert!(cache.find(&oid(1), at(0)).is_some());
}

#[test]
fn contents_of_another_boot_are_removed() {
    let scratch = tempfile::tempdir().expect("a directory");
    let path = scratch.path().join("cache");
    let cache = BlobCache::open(&path, 1 << 20).expect("opened");
    drop(get(&cache, 1, at(0)));
    let before = path.join("another");
    std::fs::rename(&cache.directory, &before).expect("renamed");
    let cache = BlobCache::open(&path, 1 << 20).expect("opened");
    assert!(!before.exists());
    assert!(cache.find(&oid(1), at(0)).is_none());
}

#[test]
fn a_directory_that_others_can_enter_is_refused() {
    let scratch = tempfile::tempdir().expect("a directory");
    let path = scratch.path().join("cache");
    DirBuilder::new().mode(0o755).create(&path).expect("made");
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("set");
    assert!(matches!(BlobCache::open(&path, 1 << 20), Err(Error::Access { .. })));
}

#[test]
fn many_at_once_get_whole_contents_within_the_limit() {
    let scratch = tempfile::tempdir().expect("a directory");
    let path = scratch.path().join("cache");
    let limit = 24 * UNIT_BYTES;
    std::thread::scope(|scope| {
        for worker in 0..4 {
            let path = &path;
            scope.spawn(move || {
                // As another process has it: only the directory is shared.
                let cache = BlobCache::open(path, limit).expect("opened");
                for step in 0..100 {
                    let number = (step * 7 + worker * 3) % 40;
                    let found = read(get(&cache, number, at(u64::from(step))));
                    assert!(found == content(number), "{number}: {} bytes", found.len());
                }
            });
        }
    });
    let cache = BlobCache::open(&path, limit).expect("opened");
    assert!(taken(&cache) <= limit);
}
