use crate::call::*;

probes! {
    fn overwriting_the_start_of_a_file_keeps_the_rest(p) {
        let path = p.file("f", pattern(64 << 10));
        let file = open(&path, OFlags::WRONLY).unwrap();
        file.write_all_at(&[0xaa; 4096], 0).unwrap();
        drop(file);
        let mut expected = pattern(64 << 10);
        expected[..4096].fill(0xaa);
        assert_same_bytes!(read(&path), expected);
        assert_same_bytes!(read(&p.far_path("f")), expected);
    }

    fn a_write_changes_exactly_its_range(p) {
        let mut expected = pattern(300_000);
        let path = p.file("f", &expected);
        let file = open(&path, OFlags::RDWR).unwrap();
        for (offset, count) in [(1, 1), (4095, 2), (65_535, 3), (100_000, 70_001), (299_999, 1)] {
            file.write_all_at(&vec![0x55; count], offset as u64).unwrap();
            expected[offset..offset + count].fill(0x55);
        }
        drop(file);
        assert_same_bytes!(read(&path), expected);
        assert_same_bytes!(read(&p.far_path("f")), expected);
    }

    fn what_is_written_can_be_read_before_close(p) {
        let path = p.path("f");
        let file = read_write(&path);
        file.write_all_at(b"pending", 0).unwrap();
        let mut back = [0; 7];
        file.read_exact_at(&mut back, 0).unwrap();
        assert_eq!(&back, b"pending");
        assert_same_bytes!(read(&path), b"pending");
        assert_eq!(file.metadata().unwrap().size(), 7);
        assert_eq!(size(&path), 7);
    }

    fn two_descriptors_of_a_file_see_each_other_at_once(p) {
        let path = p.path("f");
        let (one, two) = (read_write(&path), read_write(&path));
        for round in 0..100_u64 {
            one.write_all_at(&round.to_le_bytes(), round * 8).unwrap();
            let mut back = [0; 8];
            two.read_exact_at(&mut back, round * 8).unwrap();
            assert_eq!(u64::from_le_bytes(back), round);
        }
    }

    fn a_closed_file_is_on_the_machine(p) {
        p.file("f", pattern(1 << 20));
        assert_same_bytes!(read(&p.far_path("f")), pattern(1 << 20));
    }

    fn a_synced_file_is_on_the_machine_while_still_open(p) {
        let file = read_write(&p.path("f"));
        file.write_all_at(b"synced", 0).unwrap();
        file.sync_all().unwrap();
        assert_same_bytes!(read(&p.far_path("f")), b"synced");
        file.write_all_at(b"again!", 0).unwrap();
        file.sync_data().unwrap();
        assert_same_bytes!(read(&p.far_path("f")), b"again!");
    }

    fn a_file_far_larger_than_any_buffer_survives(p) {
        let block = pattern(1_000_003);
        let mut file = read_write(&p.path("f"));
        for _ in 0..64 {
            file.write_all(&block).unwrap();
        }
        drop(file);
        assert_eq!(size(&p.far_path("f")), 64 * block.len() as u64);
        let mut file = File::open(p.path("f")).unwrap();
        let mut back = vec![0; block.len()];
        for _ in 0..64 {
            file.read_exact(&mut back).unwrap();
            assert!(back == block);
        }
        assert_eq!(file.read(&mut back).unwrap(), 0);
    }

    fn writing_past_the_end_leaves_zeros_between(p) {
        let path = p.file("f", "start");
        let file = open(&path, OFlags::RDWR).unwrap();
        file.write_all_at(b"end", 200_000).unwrap();
        drop(file);
        let contents = read(&path);
        assert_eq!(contents.len(), 200_003);
        assert_eq!(&contents[..5], b"start");
        assert!(contents[5..200_000].iter().all(|byte| *byte == 0));
        assert_eq!(&contents[200_000..], b"end");
        assert_same_bytes!(read(&p.far_path("f")), contents);
    }

    fn reading_at_and_past_the_end_gives_nothing(p) {
        let file = File::open(p.file("f", "12345")).unwrap();
        let mut buffer = [9; 10];
        assert_eq!(file.read_at(&mut buffer, 3).unwrap(), 2);
        assert_eq!(file.read_at(&mut buffer, 5).unwrap(), 0);
        assert_eq!(file.read_at(&mut buffer, 1 << 40).unwrap(), 0);
    }

    fn truncating_shrinks_and_grows_with_zeros(p) {
        let path = p.file("f", pattern(100_000));
        let file = open(&path, OFlags::RDWR).unwrap();
        file.set_len(10_001).unwrap();
        assert_eq!(size(&path), 10_001);
        file.set_len(50_000).unwrap();
        let mut expected = pattern(10_001);
        expected.resize(50_000, 0);
        assert_same_bytes!(read(&path), expected);
        drop(file);
        assert_same_bytes!(read(&p.far_path("f")), expected);
    }

    fn truncating_by_path_works_while_the_file_is_open(p) {
        let path = p.file("f", pattern(10_000));
        let open_file = open(&path, OFlags::RDWR).unwrap();
        OpenOptions::new().write(true).open(&path).unwrap().set_len(3).unwrap();
        assert_eq!(open_file.metadata().unwrap().size(), 3);
        let mut rest = Vec::new();
        (&open_file).read_to_end(&mut rest).unwrap();
        assert_same_bytes!(rest, pattern(3));
    }

    fn truncating_after_an_unflushed_write_drops_what_was_beyond(p) {
        let path = p.path("f");
        let file = read_write(&path);
        file.write_all_at(&[1; 8192], 0).unwrap();
        file.set_len(100).unwrap();
        file.write_all_at(&[2; 10], 200).unwrap();
        drop(file);
        let mut expected = vec![1; 100];
        expected.resize(200, 0);
        expected.extend([2; 10]);
        assert_same_bytes!(read(&path), expected);
        assert_same_bytes!(read(&p.far_path("f")), expected);
    }

    fn appends_of_two_descriptors_never_overwrite_each_other(p) {
        let path = p.path("f");
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::APPEND;
        let (mut one, mut two) = (open(&path, flags).unwrap(), open(&path, flags).unwrap());
        for _ in 0..200 {
            one.write_all(b"one one\n").unwrap();
            two.write_all(b"two two\n").unwrap();
        }
        drop((one, two));
        let text = String::from_utf8(read(&path)).unwrap();
        assert_eq!(text.lines().filter(|line| *line == "one one").count(), 200);
        assert_eq!(text.lines().filter(|line| *line == "two two").count(), 200);
        assert_same_bytes!(read(&p.far_path("f")), text.as_bytes());
    }

    fn an_append_ignores_the_offset_it_is_given(p) {
        let path = p.file("f", "head ");
        let mut file = open(&path, OFlags::RDWR | OFlags::APPEND).unwrap();
        file.seek(SeekFrom::Start(0)).unwrap();
        file.write_all(b"tail").unwrap();
        assert_eq!(file.stream_position().unwrap(), 9);
        assert_same_bytes!(read(&path), b"head tail");
    }

    fn appends_of_four_threads_are_whole(p) {
        let path = p.path("f");
        std::thread::scope(|scope| {
            for writer in 0..4_u8 {
                let path = &path;
                scope.spawn(move || {
                    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::APPEND;
                    let mut file = open(path, flags).unwrap();
                    for _ in 0..100 {
                        file.write_all(&[b'a' + writer; 100]).unwrap();
                    }
                });
            }
        });
        let contents = read(&p.far_path("f"));
        assert_eq!(contents.len(), 4 * 100 * 100);
        assert!(contents.chunks(100).all(|record| record.iter().all(|byte| *byte == record[0])));
    }

    fn direct_reads_and_writes_work(p) {
        let path = p.file("f", pattern(64 << 10));
        let file = open(&path, OFlags::RDWR | OFlags::DIRECT).unwrap();
        let mut buffer = Aligned([0; 4096]);
        file.read_exact_at(&mut buffer.0, 8192).unwrap();
        assert_same_bytes!(buffer.0[..], pattern(64 << 10)[8192..12_288]);
        buffer.0.fill(0x42);
        file.write_all_at(&buffer.0, 4096).unwrap();
        drop(file);
        let mut expected = pattern(64 << 10);
        expected[4096..8192].fill(0x42);
        assert_same_bytes!(read(&path), expected);
    }

    fn direct_and_buffered_descriptors_agree(p) {
        let path = p.file("f", vec![1; 16 << 10]);
        let buffered = open(&path, OFlags::RDWR).unwrap();
        let direct = open(&path, OFlags::RDWR | OFlags::DIRECT).unwrap();
        buffered.write_all_at(&[2; 4096], 0).unwrap();
        let mut buffer = Aligned([0; 4096]);
        direct.read_exact_at(&mut buffer.0, 0).unwrap();
        assert_eq!(buffer.0, [2; 4096]);
        direct.write_all_at(&Aligned([3; 4096]).0, 4096).unwrap();
        let mut back = [0; 4096];
        buffered.read_exact_at(&mut back, 4096).unwrap();
        assert_eq!(back, [3; 4096]);
    }

    fn vectored_reads_and_writes_work(p) {
        let file = read_write(&p.path("f"));
        let parts = [std::io::IoSlice::new(b"one "), std::io::IoSlice::new(b"two "), std::io::IoSlice::new(b"three")];
        assert_eq!(rustix::io::pwritev(&file, &parts, 0).unwrap(), 13);
        assert_same_bytes!(read(&p.path("f")), b"one two three");
    }

    fn a_file_written_by_many_threads_at_once_is_whole(p) {
        let path = p.path("f");
        let file = read_write(&path);
        std::thread::scope(|scope| {
            for part in 0..8_u64 {
                let file = &file;
                scope.spawn(move || {
                    for piece in 0..16 {
                        let at = (part * 16 + piece) * 10_000;
                        file.write_all_at(&[part as u8 + 1; 10_000], at).unwrap();
                    }
                });
            }
        });
        drop(file);
        let contents = read(&p.far_path("f"));
        assert_eq!(contents.len(), 8 * 16 * 10_000);
        for (part, bytes) in contents.chunks(160_000).enumerate() {
            assert!(bytes.iter().all(|byte| usize::from(*byte) == part + 1), "part {part}");
        }
    }

    fn many_small_files_keep_their_own_contents(p) {
        for number in 0..300 {
            p.file(&format!("f{number}"), format!("contents of {number}"));
        }
        for number in 0..300 {
            let name = format!("f{number}");
            assert_same_bytes!(read(&p.path(&name)), format!("contents of {number}").as_bytes());
            assert_same_bytes!(read(&p.far_path(&name)), format!("contents of {number}").as_bytes());
        }
    }

    fn an_empty_write_changes_nothing(p) {
        let path = p.file("f", "abc");
        let mut file = open(&path, OFlags::WRONLY).unwrap();
        assert_eq!(file.write(b"").unwrap(), 0);
        drop(file);
        assert_same_bytes!(read(&path), b"abc");
    }

    fn writing_goes_on_after_another_descriptor_is_closed(p) {
        let path = p.path("f");
        let file = read_write(&path);
        file.write_all_at(b"1", 0).unwrap();
        drop(read_write(&path));
        file.write_all_at(b"2", 1).unwrap();
        drop(file.try_clone().unwrap());
        file.write_all_at(b"3", 2).unwrap();
        drop(file);
        assert_same_bytes!(read(&p.far_path("f")), b"123");
    }

    fn sendfile_copies_out_of_and_into_a_file(p) {
        let source = File::open(p.file("from", pattern(200_000))).unwrap();
        let target = read_write(&p.path("to"));
        let mut copied = 0;
        while copied < 200_000 {
            copied += rustix::fs::sendfile(&target, &source, None, 200_000 - copied).unwrap();
        }
        assert_same_bytes!(read(&p.path("to")), pattern(200_000));
    }
}

/// `O_DIRECT` wants its memory aligned.
#[repr(align(4096))]
struct Aligned([u8; 4096]);
