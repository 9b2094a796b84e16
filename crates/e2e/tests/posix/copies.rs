use rustix::fs::copy_file_range;

use crate::call::*;

probes! {
    fn a_range_is_copied_between_files(p) {
        let source = File::open(p.file("from", pattern(300_000))).unwrap();
        let target = read_write(&p.path("to"));
        copy(&source, 1000, &target, 0, 200_000);
        drop(target);
        assert_same_bytes!(read(&p.path("to")), pattern(300_000)[1000..201_000]);
        assert_same_bytes!(read(&p.far_path("to")), pattern(300_000)[1000..201_000]);
    }

    fn pending_writes_are_in_the_copy(p) {
        let source = read_write(&p.path("from"));
        let target = read_write(&p.path("to"));
        source.write_all_at(&pattern(50_000), 0).unwrap();
        target.write_all_at(b"pending in the target", 60_000).unwrap();
        copy(&source, 0, &target, 0, 50_000);
        let contents = read(&p.path("to"));
        assert_same_bytes!(contents[..50_000], pattern(50_000));
        assert_eq!(&contents[60_000..], b"pending in the target");
    }

    fn a_range_is_copied_within_a_file(p) {
        let path = p.file("f", pattern(10_000));
        let file = open(&path, OFlags::RDWR).unwrap();
        copy(&file, 0, &file, 20_000, 10_000);
        let contents = read(&path);
        assert_eq!(contents.len(), 30_000);
        assert_same_bytes!(contents[20_000..], pattern(10_000));
    }

    fn copying_from_beyond_the_end_copies_nothing(p) {
        let source = File::open(p.file("from", "abc")).unwrap();
        let target = read_write(&p.path("to"));
        assert_eq!(copy_file_range(&source, Some(&mut 3), &target, None, 100).unwrap(), 0);
        assert_eq!(size(&p.path("to")), 0);
    }

    fn a_file_moves_between_the_local_disk_and_the_place(p) {
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("f"), pattern(100_000)).unwrap();
        fs::copy(outside.path().join("f"), p.path("in")).unwrap();
        fs::copy(p.path("in"), outside.path().join("back")).unwrap();
        assert_same_bytes!(read(&outside.path().join("back")), pattern(100_000));
    }

    fn a_cached_target_shows_the_copy(p) {
        let path = p.file("to", vec![1; 20_000]);
        let target = open(&path, OFlags::RDWR).unwrap();
        let mut warm = [0; 20_000];
        target.read_exact_at(&mut warm, 0).unwrap();
        let source = File::open(p.file("from", vec![2; 20_000])).unwrap();
        copy(&source, 0, &target, 0, 20_000);
        target.read_exact_at(&mut warm, 0).unwrap();
        assert!(warm.iter().all(|byte| *byte == 2));
    }
}

/// Copies all of a range, which may take several calls.
fn copy(source: &File, mut from: u64, target: &File, mut to: u64, len: usize) {
    let mut left = len;
    while left > 0 {
        let count = copy_file_range(source, Some(&mut from), target, Some(&mut to), left).unwrap();
        assert!(count > 0, "{left} bytes are still to be copied");
        left -= count;
    }
}
