use rustix::fs::{FallocateFlags, SeekFrom as Whence, fallocate, seek};

use crate::call::*;

probes! {
    fn allocating_extends_the_file(p) {
        let file = read_write(&p.path("f"));
        fallocate(&file, FallocateFlags::empty(), 0, 1 << 20).unwrap();
        assert_eq!(file.metadata().unwrap().size(), 1 << 20);
        assert!(file.metadata().unwrap().blocks() >= 2048);
        assert_eq!(size(&p.far_path("f")), 1 << 20);
    }

    fn allocating_with_keep_size_keeps_it(p) {
        let path = p.file("f", "abc");
        let file = open(&path, OFlags::RDWR).unwrap();
        fallocate(&file, FallocateFlags::KEEP_SIZE, 0, 1 << 20).unwrap();
        assert_eq!(file.metadata().unwrap().size(), 3);
        assert_same_bytes!(read(&path), b"abc");
    }

    fn a_punched_hole_reads_as_zeros(p) {
        let path = p.file("f", vec![7; 64 << 10]);
        let file = open(&path, OFlags::RDWR).unwrap();
        let mut before = [0; 4096];
        file.read_exact_at(&mut before, 16 << 10).unwrap();
        fallocate(&file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 16 << 10, 16 << 10).unwrap();
        let mut expected = vec![7; 64 << 10];
        expected[16 << 10..32 << 10].fill(0);
        assert_same_bytes!(read(&path), expected);
        assert_same_bytes!(read(&p.far_path("f")), expected);
    }

    fn a_hole_punched_under_pending_writes_is_a_hole(p) {
        let path = p.path("f");
        let file = read_write(&path);
        file.write_all_at(&vec![7; 64 << 10], 0).unwrap();
        fallocate(&file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 4096, 8192).unwrap();
        file.write_all_at(&[9; 100], 5000).unwrap();
        drop(file);
        let mut expected = vec![7; 64 << 10];
        expected[4096..12_288].fill(0);
        expected[5000..5100].fill(9);
        assert_same_bytes!(read(&path), expected);
        assert_same_bytes!(read(&p.far_path("f")), expected);
    }

    fn a_zeroed_range_reads_as_zeros_and_may_extend(p) {
        let path = p.file("f", vec![7; 10_000]);
        let file = open(&path, OFlags::RDWR).unwrap();
        fallocate(&file, FallocateFlags::ZERO_RANGE, 5000, 10_000).unwrap();
        let mut expected = vec![7; 5000];
        expected.resize(15_000, 0);
        assert_same_bytes!(read(&path), expected);
        assert_eq!(file.metadata().unwrap().size(), 15_000);
    }

    fn data_and_holes_are_found(p) {
        let path = p.path("f");
        let file = read_write(&path);
        file.write_all_at(&[1; 4096], 1 << 20).unwrap();
        file.set_len(4 << 20).unwrap();
        file.sync_all().unwrap();
        assert_eq!(seek(&file, Whence::Data(0)).unwrap(), 1 << 20);
        assert_eq!(seek(&file, Whence::Hole(1 << 20)).unwrap(), (1 << 20) + 4096);
        assert_eq!(seek(&file, Whence::Hole(0)).unwrap(), 0);
        assert_eq!(seek(&file, Whence::Data(2 << 20)).unwrap_err(), Errno::NXIO);
        assert_eq!(seek(&file, Whence::Hole(5 << 20)).unwrap_err(), Errno::NXIO);
    }

    fn data_just_written_is_not_taken_for_a_hole(p) {
        let file = read_write(&p.path("f"));
        file.set_len(1 << 20).unwrap();
        file.write_all_at(&[1; 4096], 512 << 10).unwrap();
        assert_eq!(seek(&file, Whence::Data(0)).unwrap(), 512 << 10);
    }

    fn the_end_is_found_by_seeking(p) {
        let path = p.file("f", pattern(1234));
        let mut file = open(&path, OFlags::RDWR).unwrap();
        assert_eq!(file.seek(SeekFrom::End(0)).unwrap(), 1234);
        fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(&[0; 10]).unwrap();
        assert_eq!(file.seek(SeekFrom::End(-4)).unwrap(), 1240);
    }

    fn offsets_beyond_four_gibibytes_work(p) {
        let path = p.path("f");
        let file = read_write(&path);
        for shift in [31, 32, 33, 40] {
            file.write_all_at(&[shift], (1 << shift) - 1).unwrap();
        }
        assert_eq!(size(&path), 1 << 40);
        for shift in [31_u8, 32, 33, 40] {
            let mut byte = [0];
            file.read_exact_at(&mut byte, (1 << shift) - 1).unwrap();
            assert_eq!(byte[0], shift);
        }
        drop(file);
        assert_eq!(size(&p.far_path("f")), 1 << 40);
    }

    fn a_file_cannot_grow_beyond_what_the_disk_can_have(p) {
        let file = read_write(&p.path("f"));
        assert_eq!(errno(file.set_len(i64::MAX as u64)), Errno::FBIG);
    }

    fn a_sparse_file_stays_sparse(p) {
        let file = read_write(&p.path("f"));
        file.set_len(1 << 30).unwrap();
        file.write_all_at(b"end", (1 << 30) - 3).unwrap();
        drop(file);
        assert!(p.far_path("f").metadata().unwrap().blocks() < 100);
    }
}
