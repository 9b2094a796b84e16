use crate::call::*;

probes! {
    fn exclusive_creation_fails_on_what_is_there(p) {
        let path = p.path("f");
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        open(&path, flags).unwrap();
        assert_eq!(open(&path, flags).unwrap_err(), Errno::EXIST);
        symlink("nowhere", p.path("dangling")).unwrap();
        assert_eq!(open(&p.path("dangling"), flags).unwrap_err(), Errno::EXIST);
    }

    fn exclusive_creation_has_one_winner(p) {
        for round in 0..20 {
            let path = p.path(format!("f{round}"));
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
            let winners = std::thread::scope(|scope| {
                let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| open(&path, flags).is_ok())).collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).filter(|won| *won).count()
            });
            assert_eq!(winners, 1);
        }
    }

    fn opening_with_truncation_empties_the_file(p) {
        let path = p.file("f", pattern(10_000));
        let file = open(&path, OFlags::WRONLY | OFlags::TRUNC).unwrap();
        assert_eq!(file.metadata().unwrap().size(), 0);
        assert_eq!(size(&path), 0);
        drop(file);
        assert_eq!(size(&p.far_path("f")), 0);
    }

    fn a_new_file_can_be_written_through_though_its_mode_forbids_it(p) {
        let path = p.path("f");
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
        let mut file = File::from(rustix::fs::open(&path, flags, Mode::from_raw_mode(0o400)).unwrap());
        file.write_all(b"once").unwrap();
        drop(file);
        assert_eq!(mode(&path), 0o400);
        assert_same_bytes!(read(&path), b"once");
    }

    fn a_descriptor_does_only_what_it_was_opened_for(p) {
        let path = p.file("f", "x");
        assert_eq!(errno(open(&path, OFlags::RDONLY).unwrap().write_at(b"y", 0)), Errno::BADF);
        assert_eq!(errno(open(&path, OFlags::WRONLY).unwrap().read_at(&mut [0], 0)), Errno::BADF);
        assert_eq!(errno(open(&path, OFlags::RDONLY).unwrap().set_len(0)), Errno::INVAL);
    }

    fn directories_are_opened_as_directories_only(p) {
        let dir = p.subdir("d");
        assert_eq!(open(&dir, OFlags::WRONLY).unwrap_err(), Errno::ISDIR);
        assert_eq!(open(&dir, OFlags::RDWR | OFlags::CREATE).unwrap_err(), Errno::ISDIR);
        let file = p.file("f", "");
        assert_eq!(open(&file, OFlags::RDONLY | OFlags::DIRECTORY).unwrap_err(), Errno::NOTDIR);
        open(&dir, OFlags::RDONLY | OFlags::DIRECTORY).unwrap();
    }

    fn nofollow_refuses_a_symlink(p) {
        p.file("f", "");
        symlink("f", p.path("l")).unwrap();
        assert_eq!(open(&p.path("l"), OFlags::RDONLY | OFlags::NOFOLLOW).unwrap_err(), Errno::LOOP);
        open(&p.path("l"), OFlags::RDONLY).unwrap();
    }

    fn creating_through_a_dangling_symlink_creates_its_target(p) {
        symlink("target", p.path("l")).unwrap();
        fs::write(p.path("l"), "x").unwrap();
        assert_same_bytes!(read(&p.path("target")), b"x");
        assert!(p.path("l").symlink_metadata().unwrap().is_symlink());
    }

    fn an_o_path_descriptor_leads_to_the_file(p) {
        let dir = p.subdir("d");
        p.file("d/f", "x");
        let handle = open(&dir, OFlags::PATH | OFlags::DIRECTORY).unwrap();
        let file = File::from(rustix::fs::openat(&handle, "f", OFlags::RDONLY, Mode::empty()).unwrap());
        let mut contents = [0];
        file.read_exact_at(&mut contents, 0).unwrap();
        assert_eq!(&contents, b"x");
    }

    fn an_unnamed_file_can_be_given_a_name_or_is_refused_honestly(p) {
        // A FUSE file system may not have O_TMPFILE; programs then fall back, but only on these errors.
        match open(&p.dir, OFlags::TMPFILE | OFlags::RDWR) {
            Ok(file) => {
                file.write_all_at(b"x", 0).unwrap();
                let from = format!("/proc/self/fd/{}", file.as_raw_fd());
                rustix::fs::linkat(CWD, from.as_str(), CWD, p.path("named"), AtFlags::SYMLINK_FOLLOW).unwrap();
                assert_same_bytes!(read(&p.path("named")), b"x");
            }
            Err(error) => assert!([Errno::OPNOTSUPP, Errno::ISDIR, Errno::NOENT].contains(&error), "{error}"),
        }
    }

    fn synchronous_descriptors_have_written_when_write_returns(p) {
        for (name, flag) in [("sync", OFlags::SYNC), ("dsync", OFlags::DSYNC)] {
            let mut file = open(&p.path(name), OFlags::WRONLY | OFlags::CREATE | flag).unwrap();
            file.write_all(b"there").unwrap();
            assert_same_bytes!(read(&p.far_path(name)), b"there");
        }
    }

    fn a_file_can_be_executed_while_on_the_mount(p) {
        let script = p.file("run.sh", "#!/bin/sh\necho ran \"$1\"\n");
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(e2e::Program::new(&script).arg("it").ok().text(), "ran it\n");
        let binary = p.path("true");
        fs::copy("/bin/true", &binary).unwrap();
        e2e::Program::new(&binary).ok();
    }

    fn a_running_program_cannot_be_written_to(p) {
        let binary = p.path("sleep");
        fs::copy("/bin/sleep", &binary).unwrap();
        let mut child = e2e::Program::new(&binary).arg("60").spawn();
        let writing = open(&binary, OFlags::WRONLY);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(writing.unwrap_err(), Errno::TXTBSY);
    }

    fn a_descriptor_survives_the_renaming_of_its_file_and_directory(p) {
        let dir = p.subdir("d");
        let path = p.file("d/f", "before");
        let file = open(&path, OFlags::RDWR).unwrap();
        fs::rename(&path, dir.join("g")).unwrap();
        fs::rename(&dir, p.path("e")).unwrap();
        file.write_all_at(b"after!", 0).unwrap();
        drop(file);
        assert_same_bytes!(read(&p.path("e/g")), b"after!");
        assert_same_bytes!(read(&p.far_path("e/g")), b"after!");
    }

    fn two_thousand_files_can_be_open_at_once(p) {
        e2e::program::raise_descriptor_limit();
        let files: Vec<File> = (0..2000).map(|number| read_write(&p.path(format!("f{number}")))).collect();
        for (number, file) in files.iter().enumerate() {
            file.write_all_at(number.to_string().as_bytes(), 0).unwrap();
        }
        drop(files);
        for number in [0, 1, 999, 1999] {
            assert_same_bytes!(read(&p.far_path(format!("f{number}"))), number.to_string().as_bytes());
        }
    }
}
