use crate::call::*;

probes! {
    fn an_unlinked_file_lives_while_it_is_open(p) {
        let path = p.file("f", "still here");
        let file = open(&path, OFlags::RDWR).unwrap();
        fs::remove_file(&path).unwrap();
        assert!(!exists(&path));
        assert!(names(&p.far).is_empty());
        let mut contents = [0; 10];
        file.read_exact_at(&mut contents, 0).unwrap();
        assert_eq!(&contents, b"still here");
        file.write_all_at(b"and more", 10).unwrap();
        file.sync_all().unwrap();
        assert_eq!(file.metadata().unwrap().size(), 18);
        assert_eq!(file.metadata().unwrap().nlink(), 0);
    }

    fn an_unlinked_file_does_not_come_back(p) {
        let path = p.path("f");
        let file = read_write(&path);
        file.write_all_at(&pattern(100_000), 0).unwrap();
        fs::remove_file(&path).unwrap();
        drop(file);
        assert!(!exists(&path));
        assert!(names(&p.far).is_empty());
    }

    fn a_new_file_of_the_same_name_is_another_file(p) {
        let path = p.file("f", "first");
        let first = open(&path, OFlags::RDWR).unwrap();
        fs::remove_file(&path).unwrap();
        p.file("f", "second");
        first.write_all_at(b"FIRST", 0).unwrap();
        drop(first);
        assert_same_bytes!(read(&path), b"second");
        assert_same_bytes!(read(&p.far_path("f")), b"second");
    }

    fn an_unlinked_file_can_be_changed_in_every_way(p) {
        let path = p.file("f", pattern(10_000));
        let file = open(&path, OFlags::RDWR).unwrap();
        fs::remove_file(&path).unwrap();
        file.set_len(5000).unwrap();
        rustix::fs::fchmod(&file, Mode::from_raw_mode(0o600)).unwrap();
        file.set_modified(std::time::UNIX_EPOCH).unwrap();
        let is = file.metadata().unwrap();
        assert_eq!((is.size(), is.mode() & 0o777, is.mtime()), (5000, 0o600, 0));
    }

    fn a_file_unlinked_on_the_machine_stays_readable_where_it_is_open(p) {
        let file = File::open(p.file("f", "kept")).unwrap();
        fs::remove_file(p.far_path("f")).unwrap();
        let mut contents = [0; 4];
        file.read_exact_at(&mut contents, 0).unwrap();
        assert_eq!(&contents, b"kept");
    }

    fn one_of_two_links_can_go_while_the_file_is_open(p) {
        let path = p.file("f", "x");
        fs::hard_link(&path, p.path("g")).unwrap();
        let file = open(&path, OFlags::RDWR).unwrap();
        fs::remove_file(&path).unwrap();
        file.write_all_at(b"y", 0).unwrap();
        drop(file);
        assert_same_bytes!(read(&p.path("g")), b"y");
        assert_eq!(p.path("g").metadata().unwrap().nlink(), 1);
    }

    fn temporary_files_come_and_go_by_the_hundred(p) {
        for _ in 0..300 {
            let path = p.path("tmp");
            let mut file = read_write(&path);
            fs::remove_file(&path).unwrap();
            file.write_all(b"scratch").unwrap();
        }
        assert!(names(&p.far).is_empty());
    }
}
