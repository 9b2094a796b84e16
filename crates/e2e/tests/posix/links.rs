use rustix::fs::{FileType, mknodat};

use crate::call::*;

probes! {
    fn a_symlink_keeps_its_target_whatever_it_is(p) {
        let longest = "t".repeat(4095);
        for target in ["f", "../up", "/etc/passwd", "does/not/exist", "trailing/", "a\nb", longest.as_str()] {
            let path = p.path("l");
            symlink(target, &path).unwrap();
            assert_eq!(fs::read_link(&path).unwrap(), Path::new(target));
            assert_eq!(fs::read_link(p.far_path("l")).unwrap(), Path::new(target));
            assert_eq!(size(&path), target.len() as u64);
            fs::remove_file(&path).unwrap();
        }
    }

    fn a_symlink_is_followed_and_its_loop_is_refused(p) {
        p.subdir("d");
        p.file("d/f", "through");
        symlink("d", p.path("l")).unwrap();
        assert_same_bytes!(read(&p.path("l/f")), b"through");
        symlink("two", p.path("one")).unwrap();
        symlink("one", p.path("two")).unwrap();
        assert_eq!(errno(fs::read(p.path("one"))), Errno::LOOP);
        assert_eq!(errno(fs::metadata(p.path("two"))), Errno::LOOP);
    }

    fn an_absolute_symlink_is_followed_here_and_not_there(p) {
        // The kernel resolves it on this side: it names a file of this computer, as on any mount.
        let outside = tempfile::NamedTempFile::new().unwrap();
        fs::write(outside.path(), "local").unwrap();
        symlink(outside.path(), p.path("l")).unwrap();
        assert_same_bytes!(read(&p.path("l")), b"local");
    }

    fn only_a_symlink_can_be_read_as_one(p) {
        p.file("f", "");
        assert_eq!(errno(fs::read_link(p.path("f"))), Errno::INVAL);
        assert_eq!(errno(fs::read_link(&p.dir)), Errno::INVAL);
        assert_eq!(errno(symlink("x", p.path("f"))), Errno::EXIST);
        assert_eq!(errno(symlink("", p.path("empty"))), Errno::NOENT);
    }

    fn hard_links_are_one_file(p) {
        let one = p.file("one", "x");
        p.subdir("d");
        let two = p.path("d/two");
        fs::hard_link(&one, &two).unwrap();
        assert_eq!(inode(&one), inode(&two));
        assert_eq!((one.metadata().unwrap().nlink(), two.metadata().unwrap().nlink()), (2, 2));
        fs::write(&two, "written through two").unwrap();
        assert_same_bytes!(read(&one), b"written through two");
        fs::set_permissions(&one, fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(mode(&two), 0o600);
        fs::remove_file(&one).unwrap();
        assert_eq!(two.metadata().unwrap().nlink(), 1);
        assert_same_bytes!(read(&two), b"written through two");
    }

    fn hard_links_made_on_the_machine_are_one_file_too(p) {
        fs::write(p.far_path("one"), "x").unwrap();
        fs::hard_link(p.far_path("one"), p.far_path("two")).unwrap();
        assert_eq!(inode(&p.path("one")), inode(&p.path("two")));
        assert_eq!(p.path("one").metadata().unwrap().nlink(), 2);
    }

    fn an_open_file_grows_under_all_its_names(p) {
        let one = p.file("one", "");
        fs::hard_link(&one, p.path("two")).unwrap();
        let file = open(&one, OFlags::WRONLY).unwrap();
        file.write_all_at(&pattern(10_000), 0).unwrap();
        assert_eq!(size(&p.path("two")), 10_000);
        assert_same_bytes!(read(&p.path("two")), pattern(10_000));
    }

    fn linking_what_cannot_be_linked_is_refused(p) {
        p.subdir("d");
        p.file("f", "");
        assert_eq!(errno(fs::hard_link(p.path("d"), p.path("e"))), Errno::PERM);
        assert_eq!(errno(fs::hard_link(p.path("f"), p.path("d"))), Errno::EXIST);
        assert_eq!(errno(fs::hard_link(p.path("absent"), p.path("g"))), Errno::NOENT);
        assert_eq!(errno(fs::hard_link(p.path("f"), "/dev/shm/elsewhere")), Errno::XDEV);
    }

    fn a_symlink_itself_can_be_linked(p) {
        symlink("target", p.path("one")).unwrap();
        fs::hard_link(p.path("one"), p.path("two")).unwrap();
        assert_eq!(fs::read_link(p.path("two")).unwrap(), Path::new("target"));
        assert_eq!(inode(&p.path("one")), inode(&p.path("two")));
    }

    fn a_fifo_carries_bytes_between_processes_here(p) {
        let path = p.path("pipe");
        mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        assert_eq!(FileType::from_raw_mode(path.symlink_metadata().unwrap().mode()), FileType::Fifo);
        let read_end = std::thread::spawn({ let path = path.clone(); move || fs::read(path).unwrap() });
        fs::write(&path, "through the pipe").unwrap();
        assert_eq!(read_end.join().unwrap(), b"through the pipe");
    }

    fn a_socket_can_be_bound_and_reached(p) {
        let path = p.path("s");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let kind = FileType::from_raw_mode(p.far_path("s").symlink_metadata().unwrap().mode());
        assert_eq!(kind, FileType::Socket);
        let mut client = std::os::unix::net::UnixStream::connect(&path).unwrap();
        client.write_all(b"x").unwrap();
        let mut got = [0];
        listener.accept().unwrap().0.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"x");
    }

    fn device_nodes_keep_their_numbers(p) {
        if !e2e::stead::is_root() {
            return;
        }
        let dev = rustix::fs::makedev(1, 3);
        mknodat(CWD, p.path("null"), FileType::CharacterDevice, Mode::from_raw_mode(0o666), dev).unwrap();
        for path in [p.path("null"), p.far_path("null")] {
            assert_eq!(path.symlink_metadata().unwrap().rdev(), dev);
        }
    }

    fn a_regular_file_can_be_made_by_mknod(p) {
        mknodat(CWD, p.path("f"), FileType::RegularFile, Mode::from_raw_mode(0o640), 0).unwrap();
        assert!(p.far_path("f").metadata().unwrap().is_file());
        let again = mknodat(CWD, p.path("f"), FileType::RegularFile, Mode::from_raw_mode(0o640), 0);
        assert_eq!(again.unwrap_err(), Errno::EXIST);
    }
}
