use e2e::mapping::Mapping;
use rustix::mm::{MapFlags, ProtFlags};

use crate::call::*;

probes! {
    fn a_mapping_shows_the_file(p) {
        let file = File::open(p.file("f", pattern(100_000))).unwrap();
        let map = Mapping::new(&file, 100_000, MapFlags::PRIVATE, ProtFlags::READ);
        assert_same_bytes!(map.bytes(), pattern(100_000));
    }

    fn a_private_mapping_does_not_change_the_file(p) {
        let path = p.file("f", vec![1; 8192]);
        let file = open(&path, OFlags::RDWR).unwrap();
        let mut map = Mapping::new(&file, 8192, MapFlags::PRIVATE, ProtFlags::READ | ProtFlags::WRITE);
        map.bytes_mut().fill(2);
        drop(map);
        drop(file);
        assert_same_bytes!(read(&path), vec![1; 8192]);
    }

    fn a_shared_mapping_writes_the_file(p) {
        let path = p.file("f", vec![1; 64 << 10]);
        let file = open(&path, OFlags::RDWR).unwrap();
        let mut map = Mapping::new(&file, 64 << 10, MapFlags::SHARED, ProtFlags::READ | ProtFlags::WRITE);
        map.bytes_mut()[10_000..20_000].fill(2);
        map.sync();
        let mut expected = vec![1; 64 << 10];
        expected[10_000..20_000].fill(2);
        assert_same_bytes!(read(&path), expected);
        assert_same_bytes!(read(&p.far_path("f")), expected);
    }

    fn a_mapping_outlives_its_descriptor(p) {
        let path = p.file("f", vec![1; 8192]);
        let file = open(&path, OFlags::RDWR).unwrap();
        let mut map = Mapping::new(&file, 8192, MapFlags::SHARED, ProtFlags::READ | ProtFlags::WRITE);
        drop(file);
        map.bytes_mut()[5000] = 9;
        map.sync();
        drop(map);
        assert_eq!(read(&path)[5000], 9);
        assert_eq!(read(&p.far_path("f"))[5000], 9);
    }

    fn a_change_through_a_mapping_is_not_lost_without_msync(p) {
        let path = p.file("f", vec![1; 8192]);
        let file = open(&path, OFlags::RDWR).unwrap();
        let mut map = Mapping::new(&file, 8192, MapFlags::SHARED, ProtFlags::READ | ProtFlags::WRITE);
        map.bytes_mut()[100] = 9;
        drop((map, file));
        let file = File::open(&path).unwrap();
        file.sync_all().unwrap();
        assert_eq!(read(&path)[100], 9);
    }

    fn a_mapping_of_a_descriptor_that_appends_writes_where_it_is(p) {
        let path = p.file("f", vec![1; 8192]);
        let file = open(&path, OFlags::RDWR | OFlags::APPEND).unwrap();
        let mut map = Mapping::shared(&file, 8192);
        map.bytes_mut()[5000] = 9;
        map.sync();
        (&file).write_all(b"end").unwrap();
        map.bytes_mut()[100] = 9;
        map.sync();
        drop((map, file));
        let mut expected = vec![1; 8192];
        (expected[100], expected[5000]) = (9, 9);
        expected.extend(b"end");
        assert_same_bytes!(read(&path), expected);
        assert_same_bytes!(read(&p.far_path("f")), expected);
    }

    fn writes_and_a_mapping_see_each_other(p) {
        let file = read_write(&p.path("f"));
        file.set_len(16 << 10).unwrap();
        let mut map = Mapping::new(&file, 16 << 10, MapFlags::SHARED, ProtFlags::READ | ProtFlags::WRITE);
        file.write_all_at(b"by write", 5000).unwrap();
        assert_eq!(&map.bytes()[5000..5008], b"by write");
        map.bytes_mut()[9000..9006].copy_from_slice(b"by map");
        let mut back = [0; 6];
        file.read_exact_at(&mut back, 9000).unwrap();
        assert_eq!(&back, b"by map");
    }

    fn a_mapping_ends_in_zeros_after_the_end_of_the_file(p) {
        let file = File::open(p.file("f", vec![5; 5000])).unwrap();
        let map = Mapping::new(&file, 8192, MapFlags::SHARED, ProtFlags::READ);
        assert!(map.bytes()[..5000].iter().all(|byte| *byte == 5));
        assert!(map.bytes()[5000..].iter().all(|byte| *byte == 0));
    }

    fn a_mapping_needs_the_descriptor_to_allow_it(p) {
        let path = p.file("f", vec![1; 4096]);
        let file = open(&path, OFlags::RDONLY).unwrap();
        let refused = Mapping::try_new(&file, 4096, MapFlags::SHARED, ProtFlags::READ | ProtFlags::WRITE);
        assert_eq!(refused.err(), Some(Errno::ACCESS));
    }

    fn a_truncated_file_loses_what_its_mapping_wrote_beyond(p) {
        let path = p.file("f", vec![1; 16 << 10]);
        let file = open(&path, OFlags::RDWR).unwrap();
        let mut map = Mapping::new(&file, 16 << 10, MapFlags::SHARED, ProtFlags::READ | ProtFlags::WRITE);
        map.bytes_mut().fill(2);
        file.set_len(6000).unwrap();
        file.set_len(16 << 10).unwrap();
        let mut expected = vec![2; 6000];
        expected.resize(16 << 10, 0);
        assert_same_bytes!(map.bytes(), expected);
        drop((map, file));
        assert_same_bytes!(read(&path), expected);
    }

    fn two_mappings_of_a_file_are_one_memory(p) {
        let path = p.file("f", vec![0; 4096]);
        let (one, two) = (open(&path, OFlags::RDWR).unwrap(), open(&path, OFlags::RDWR).unwrap());
        let access = ProtFlags::READ | ProtFlags::WRITE;
        let mut writer = Mapping::new(&one, 4096, MapFlags::SHARED, access);
        let reader = Mapping::new(&two, 4096, MapFlags::SHARED, access);
        writer.bytes_mut()[17] = 99;
        assert_eq!(reader.bytes()[17], 99);
    }
}
