use crate::call::*;

probes! {
    fn a_name_may_be_any_bytes(p) {
        let odd: [&[u8]; 7] = [
            b"\xff\xfe not utf-8 \x80",
            b"new\nline",
            b"tab\tand \"quotes\" and \\",
            b" leading and trailing ",
            b"-rf",
            b"\x01\x7f",
            "e\u{301} is not \u{e9}".as_bytes(),
        ];
        for name in odd {
            let path = p.bytes_path(name);
            fs::write(&path, name).unwrap();
            assert_same_bytes!(read(&path), name);
        }
        let found: Vec<Vec<u8>> = fs::read_dir(&p.dir).unwrap().map(|entry| bytes(&entry.unwrap().file_name())).collect();
        assert_eq!(found.len(), odd.len());
        assert!(odd.iter().all(|name| found.iter().any(|listed| listed == name)), "{found:?}");
        for name in odd {
            fs::remove_file(p.bytes_path(name)).unwrap();
        }
        assert!(names(&p.dir).is_empty());
    }

    fn two_unicode_forms_of_a_name_are_two_files(p) {
        p.file("\u{e9}", "composed");
        p.file("e\u{301}", "decomposed");
        assert_same_bytes!(read(&p.path("\u{e9}")), b"composed");
    }

    fn names_that_differ_in_case_are_two_files(p) {
        p.file("Makefile", "upper");
        p.file("makefile", "lower");
        assert_same_bytes!(read(&p.path("Makefile")), b"upper");
    }

    fn a_name_of_255_bytes_works_and_256_is_too_long(p) {
        let longest = "n".repeat(255);
        p.file(&longest, "x");
        assert_eq!(names(&p.dir), [longest]);
        let too_long = p.path("n".repeat(256));
        assert_eq!(errno(fs::write(&too_long, "x")), Errno::NAMETOOLONG);
        assert_eq!(errno(fs::metadata(&too_long)), Errno::NAMETOOLONG);
        assert_eq!(errno(fs::create_dir(&too_long)), Errno::NAMETOOLONG);
        assert_eq!(errno(symlink("x", &too_long)), Errno::NAMETOOLONG);
    }

    fn a_path_longer_than_path_max_is_reached_by_descending(p) {
        let name = "d".repeat(200);
        let mut dirs: Vec<OwnedFd> = vec![File::open(&p.dir).unwrap().into()];
        // 30 times 201 bytes is well beyond 4096.
        for _ in 0..30 {
            let last = dirs.last().unwrap();
            rustix::fs::mkdirat(last, &name, Mode::RWXU).unwrap();
            let next = rustix::fs::openat(last, &name, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap();
            dirs.push(next);
        }
        let deepest = dirs.pop().unwrap();
        let flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::openat(&deepest, "f", flags, Mode::RWXU).unwrap());
        file.write_all_at(b"deep", 0).unwrap();
        drop(file);
        let file = File::from(rustix::fs::openat(&deepest, "f", OFlags::RDONLY, Mode::empty()).unwrap());
        let mut contents = [0; 4];
        file.read_exact_at(&mut contents, 0).unwrap();
        assert_eq!(&contents, b"deep");
        rustix::fs::unlinkat(&deepest, "f", AtFlags::empty()).unwrap();
        drop((file, deepest));
        while let Some(dir) = dirs.pop() {
            rustix::fs::unlinkat(&dir, &name, AtFlags::REMOVEDIR).unwrap();
        }
        assert!(names(&p.dir).is_empty());
    }

    fn absent_names_and_files_used_as_directories_are_told_apart(p) {
        p.file("f", "");
        assert_eq!(errno(fs::metadata(p.path("absent"))), Errno::NOENT);
        assert_eq!(errno(fs::metadata(p.path("absent/x"))), Errno::NOENT);
        assert_eq!(errno(fs::metadata(p.path("f/x"))), Errno::NOTDIR);
        assert_eq!(errno(fs::metadata(p.path("f/"))), Errno::NOTDIR);
        assert_eq!(errno(fs::read_dir(p.path("f"))), Errno::NOTDIR);
        assert_eq!(errno(fs::read(&p.dir)), Errno::ISDIR);
    }

    fn dot_and_dotdot_lead_where_they_should(p) {
        let dir = p.subdir("d");
        p.file("f", "top");
        assert_same_bytes!(read(&dir.join("../f")), b"top");
        assert_same_bytes!(read(&dir.join("./../d/.././f")), b"top");
        assert_eq!(inode(&dir.join("..")), inode(&p.dir));
        assert_eq!(inode(&dir.join(".")), inode(&dir));
    }

    fn an_absent_name_is_found_once_it_is_created(p) {
        for round in 0..50 {
            let path = p.path(format!("f{round}"));
            assert!(!exists(&path));
            fs::write(&path, "x").unwrap();
            assert!(exists(&path));
            fs::remove_file(&path).unwrap();
            assert!(!exists(&path));
        }
    }

    fn a_name_can_change_its_kind(p) {
        let path = p.path("x");
        for _ in 0..10 {
            fs::write(&path, "file").unwrap();
            assert!(path.symlink_metadata().unwrap().is_file());
            fs::remove_file(&path).unwrap();
            fs::create_dir(&path).unwrap();
            assert!(path.symlink_metadata().unwrap().is_dir());
            fs::remove_dir(&path).unwrap();
            symlink("nowhere", &path).unwrap();
            assert!(path.symlink_metadata().unwrap().is_symlink());
            fs::remove_file(&path).unwrap();
        }
    }
}

fn bytes(name: &std::ffi::OsStr) -> Vec<u8> {
    std::os::unix::ffi::OsStrExt::as_bytes(name).to_vec()
}
