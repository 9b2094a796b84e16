use super::*;

fn file(inode: u64) -> FileId {
    FileId { device: 7, inode, birth: 3 }
}

fn place(directory: u64, name: &[u8]) -> Option<Whereabouts> {
    Some(Whereabouts { directory: file(directory), name: name.into() })
}

fn contents(state: &Path) -> Vec<u8> {
    std::fs::read(state.join("nfs-places")).unwrap()
}

#[test]
fn what_was_written_is_there_after_opening_again_and_so_is_the_key() {
    let state = tempfile::tempdir().unwrap();
    let mut places = Places::open(state.path()).unwrap();
    places.remember(file(2), true, file(1), b"dir");
    places.remember(file(3), false, file(2), &[0xff; NAME_BYTES_MAX]);
    assert_eq!(places.find(file(3)).unwrap(), place(2, &[0xff; NAME_BYTES_MAX]), "before it is written");
    places.write().unwrap();
    let key = places.key();
    drop(places);
    let places = Places::open(state.path()).unwrap();
    assert_eq!(places.key(), key);
    assert_eq!(places.find(file(2)).unwrap(), place(1, b"dir"));
    assert_eq!(places.find(file(3)).unwrap(), place(2, &[0xff; NAME_BYTES_MAX]));
    assert_eq!(places.find(file(4)).unwrap(), None);
}

#[test]
fn the_last_place_counts_and_saying_it_twice_writes_nothing() {
    let state = tempfile::tempdir().unwrap();
    let mut places = Places::open(state.path()).unwrap();
    places.remember(file(3), false, file(1), b"a");
    places.remember(file(3), false, file(2), b"b");
    places.write().unwrap();
    let before = contents(state.path());
    places.remember(file(3), false, file(2), b"b");
    places.write().unwrap();
    assert_eq!(contents(state.path()), before);
    assert!(!places.forget(file(3), file(1), b"a"), "that is not where it is");
    assert_eq!(places.find(file(3)).unwrap(), place(2, b"b"));
    assert!(places.forget(file(3), file(2), b"b"));
    places.write().unwrap();
    drop(places);
    let places = Places::open(state.path()).unwrap();
    assert_eq!(places.find(file(3)).unwrap(), None);
}

#[test]
fn a_torn_end_is_cut_off_wherever_it_tore() {
    let state = tempfile::tempdir().unwrap();
    let mut places = Places::open(state.path()).unwrap();
    places.remember(file(2), false, file(1), b"whole");
    places.write().unwrap();
    let whole = contents(state.path()).len();
    places.remember(file(3), false, file(1), b"torn");
    places.write().unwrap();
    drop(places);
    let all = contents(state.path());
    for length in whole..all.len() {
        let state = tempfile::tempdir().unwrap();
        std::fs::write(state.path().join("nfs-places"), &all[..length]).unwrap();
        let mut places = Places::open(state.path()).unwrap();
        assert_eq!(places.find(file(2)).unwrap(), place(1, b"whole"), "torn at {length}");
        assert_eq!(places.find(file(3)).unwrap(), None, "torn at {length}");
        places.remember(file(4), false, file(1), b"next");
        places.write().unwrap();
        drop(places);
        let places = Places::open(state.path()).unwrap();
        assert_eq!(places.find(file(4)).unwrap(), place(1, b"next"), "torn at {length}");
    }
}

#[test]
fn a_flipped_bit_loses_no_more_than_what_follows() {
    let state = tempfile::tempdir().unwrap();
    let mut places = Places::open(state.path()).unwrap();
    places.remember(file(2), false, file(1), b"before");
    places.write().unwrap();
    let first = contents(state.path()).len();
    places.remember(file(3), false, file(1), b"flipped");
    places.write().unwrap();
    drop(places);
    let all = contents(state.path());
    for at in first..first + RECORD_HEAD_BYTES + b"flipped".len() {
        let mut bytes = all.clone();
        bytes[at] ^= 0x10;
        let state = tempfile::tempdir().unwrap();
        std::fs::write(state.path().join("nfs-places"), bytes).unwrap();
        let places = Places::open(state.path()).unwrap();
        assert_eq!(places.find(file(2)).unwrap(), place(1, b"before"), "flipped at {at}");
        assert_eq!(places.find(file(3)).unwrap(), None, "flipped at {at}");
    }
}

#[test]
fn what_is_not_such_a_table_is_refused_and_left_alone() {
    let state = tempfile::tempdir().unwrap();
    let path = state.path().join("nfs-places");
    let other = b"something of the user's, longer than a header";
    std::fs::write(&path, other).unwrap();
    assert!(matches!(Places::open(state.path()), Err(PlacesError::Io { .. })));
    assert_eq!(contents(state.path()), other);
    let mut newer = new_header(1);
    newer[8] = 9;
    std::fs::write(&path, newer).unwrap();
    assert!(matches!(Places::open(state.path()), Err(PlacesError::Version { found: 9, .. })));
}

#[test]
fn two_workers_cannot_have_it_at_once() {
    let state = tempfile::tempdir().unwrap();
    let first = Places::open(state.path()).unwrap();
    assert!(matches!(Places::open(state.path()), Err(PlacesError::InUse(_))));
    drop(first);
    Places::open(state.path()).unwrap();
}

#[test]
fn outdated_records_are_thrown_out_in_time() {
    let state = tempfile::tempdir().unwrap();
    let mut places = Places::open(state.path()).unwrap();
    places.remember(file(2), true, file(1), b"kept");
    let renames = 4 * OUTDATED_BYTES_MIN / 64;
    for n in 0..renames {
        places.remember(file(3), false, file(1), &n.to_le_bytes());
        places.write().unwrap();
    }
    let last = (renames - 1).to_le_bytes();
    assert!((contents(state.path()).len() as u64) < 2 * OUTDATED_BYTES_MIN);
    assert_eq!(places.find(file(3)).unwrap(), place(1, &last));
    assert!(matches!(Places::open(state.path()), Err(PlacesError::InUse(_))), "the new file is locked too");
    drop(places);
    let places = Places::open(state.path()).unwrap();
    assert_eq!(places.find(file(2)).unwrap(), place(1, b"kept"));
    assert_eq!(places.find(file(3)).unwrap(), place(1, &last));
}

#[test]
fn of_too_many_the_oldest_files_go_and_the_directories_stay() {
    let state = tempfile::tempdir().unwrap();
    let mut places = Places::open(state.path()).unwrap();
    places.remember(file(2), true, file(1), b"dir");
    for n in 10..30 {
        places.remember(file(n), false, file(2), b"file");
    }
    places.write().unwrap();
    places.compact(11).unwrap();
    assert_eq!(places.count(), 11);
    assert_eq!(places.find(file(2)).unwrap(), place(1, b"dir"));
    assert_eq!(places.find(file(19)).unwrap(), None);
    assert_eq!(places.find(file(20)).unwrap(), place(2, b"file"));
}

#[test]
fn the_checksum_is_crc_32c() {
    assert_eq!(crc32c(&[b"1234", b"56789"]), 0xe306_9283);
}
