use rustix::fs::{RenameFlags, renameat_with};

use crate::call::*;

probes! {
    fn a_rename_moves_the_file_and_keeps_its_inode(p) {
        let old = p.file("old", "x");
        let number = inode(&old);
        fs::rename(&old, p.path("new")).unwrap();
        assert!(!exists(&old));
        assert_same_bytes!(read(&p.path("new")), b"x");
        assert_eq!(inode(&p.path("new")), number);
        assert_eq!(names(&p.far), ["new"]);
    }

    fn a_rename_replaces_a_file_at_once(p) {
        let (from, to) = (p.file("from", "new"), p.file("to", "old"));
        fs::rename(&from, &to).unwrap();
        assert_same_bytes!(read(&to), b"new");
        assert_eq!(names(&p.dir), ["to"]);
    }

    fn a_replaced_file_is_never_absent(p) {
        p.file("f", "0");
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let mut reads = 0;
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    assert!(!read(&p.path("f")).is_empty());
                    reads += 1;
                }
                reads
            });
            for round in 0..100 {
                p.file("f.new", round.to_string());
                fs::rename(p.path("f.new"), p.path("f")).unwrap();
            }
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
            assert!(reader.join().unwrap() > 0);
        });
    }

    fn a_file_replaced_while_open_stays_readable(p) {
        let path = p.file("f", "old contents");
        let file = File::open(&path).unwrap();
        let replacement = p.file("g", "new");
        fs::rename(replacement, &path).unwrap();
        let mut contents = [0; 12];
        file.read_exact_at(&mut contents, 0).unwrap();
        assert_eq!(&contents, b"old contents");
        assert_eq!(file.metadata().unwrap().nlink(), 0);
        assert_same_bytes!(read(&path), b"new");
    }

    fn a_renamed_directory_keeps_its_children(p) {
        fs::create_dir_all(p.path("a/b/c")).unwrap();
        p.file("a/b/c/f", "deep");
        let number = inode(&p.path("a/b/c/f"));
        fs::rename(p.path("a"), p.path("z")).unwrap();
        assert_same_bytes!(read(&p.path("z/b/c/f")), b"deep");
        assert_eq!(inode(&p.path("z/b/c/f")), number);
        assert_eq!(names(&p.path("z/b")), ["c"]);
        assert!(!exists(&p.path("a")));
        p.file("z/b/new", "x");
        assert_same_bytes!(read(&p.far_path("z/b/new")), b"x");
    }

    fn a_directory_moves_between_parents(p) {
        fs::create_dir_all(p.path("a/x")).unwrap();
        p.subdir("b");
        p.file("a/x/f", "");
        fs::rename(p.path("a/x"), p.path("b/y")).unwrap();
        assert_eq!(names(&p.path("b/y")), ["f"]);
        assert_eq!(inode(&p.path("b/y/..")), inode(&p.path("b")));
        assert_eq!(p.path("a").metadata().unwrap().nlink(), 2);
        assert_eq!(p.path("b").metadata().unwrap().nlink(), 3);
    }

    fn the_working_directory_follows_a_rename(p) {
        p.subdir("a");
        let dir = File::open(p.path("a")).unwrap();
        fs::rename(p.path("a"), p.path("b")).unwrap();
        rustix::fs::mkdirat(&dir, "inside", Mode::RWXU).unwrap();
        assert_eq!(names(&p.path("b")), ["inside"]);
    }

    fn noreplace_keeps_what_is_there(p) {
        let (from, to) = (p.file("from", "from"), p.file("to", "to"));
        let refused = renameat_with(CWD, &from, CWD, &to, RenameFlags::NOREPLACE);
        assert_eq!(refused.unwrap_err(), Errno::EXIST);
        assert_eq!((read(&from), read(&to)), (b"from".to_vec(), b"to".to_vec()));
        renameat_with(CWD, &from, CWD, p.path("fresh"), RenameFlags::NOREPLACE).unwrap();
        assert_eq!(names(&p.dir), ["fresh", "to"]);
    }

    fn exchange_swaps_two_files(p) {
        let (one, two) = (p.file("one", "1"), p.file("two", "22"));
        let inodes = (inode(&one), inode(&two));
        renameat_with(CWD, &one, CWD, &two, RenameFlags::EXCHANGE).unwrap();
        assert_eq!((read(&one), read(&two)), (b"22".to_vec(), b"1".to_vec()));
        assert_eq!((inode(&two), inode(&one)), inodes);
        assert_eq!((read(&p.far_path("one")), read(&p.far_path("two"))), (b"22".to_vec(), b"1".to_vec()));
    }

    fn exchange_swaps_a_file_and_a_directory(p) {
        p.file("f", "x");
        p.subdir("d");
        p.file("d/inside", "");
        renameat_with(CWD, p.path("f"), CWD, p.path("d"), RenameFlags::EXCHANGE).unwrap();
        assert_eq!(names(&p.path("f")), ["inside"]);
        assert_same_bytes!(read(&p.path("d")), b"x");
        let absent = renameat_with(CWD, p.path("f"), CWD, p.path("absent"), RenameFlags::EXCHANGE);
        assert_eq!(absent.unwrap_err(), Errno::NOENT);
    }

    fn impossible_renames_are_refused_and_change_nothing(p) {
        p.file("f", "x");
        fs::create_dir_all(p.path("d/sub")).unwrap();
        p.subdir("empty");
        let rename = |from: &str, to: &str| fs::rename(p.path(from), p.path(to));
        assert_eq!(errno(rename("absent", "x")), Errno::NOENT);
        assert_eq!(errno(rename("f", "d")), Errno::ISDIR);
        assert_eq!(errno(rename("d", "f")), Errno::NOTDIR);
        assert_eq!(errno(rename("empty", "d")), Errno::NOTEMPTY);
        assert_eq!(errno(rename("d", "d/sub/inside")), Errno::INVAL);
        assert_eq!(errno(rename("f", "absent/f")), Errno::NOENT);
        assert_eq!(errno(fs::rename(p.path("f"), "/dev/shm/stead-elsewhere")), Errno::XDEV);
        assert_eq!(names(&p.dir), ["d", "empty", "f"]);
    }

    fn an_empty_directory_is_replaced_by_a_directory(p) {
        p.subdir("from");
        p.file("from/f", "");
        p.subdir("to");
        fs::rename(p.path("from"), p.path("to")).unwrap();
        assert_eq!(names(&p.path("to")), ["f"]);
        assert_eq!(names(&p.dir), ["to"]);
    }

    fn renaming_onto_a_link_of_itself_does_nothing(p) {
        let one = p.file("one", "x");
        fs::hard_link(&one, p.path("two")).unwrap();
        fs::rename(&one, p.path("two")).unwrap();
        assert_eq!(names(&p.dir), ["one", "two"]);
        fs::rename(&one, &one).unwrap();
        assert!(exists(&one));
    }

    fn a_file_renamed_while_it_is_written_keeps_what_is_written_after(p) {
        let file = read_write(&p.path("f.tmp"));
        file.write_all_at(b"before ", 0).unwrap();
        fs::rename(p.path("f.tmp"), p.path("f")).unwrap();
        file.write_all_at(b"after", 7).unwrap();
        drop(file);
        assert_same_bytes!(read(&p.far_path("f")), b"before after");
        assert_eq!(names(&p.far), ["f"]);
    }

    fn renames_back_and_forth_end_where_they_end(p) {
        p.subdir("a");
        p.file("a/f", "x");
        for _ in 0..50 {
            fs::rename(p.path("a"), p.path("b")).unwrap();
            assert!(exists(&p.path("b/f")) && !exists(&p.path("a/f")));
            fs::rename(p.path("b"), p.path("a")).unwrap();
            assert!(exists(&p.path("a/f")) && !exists(&p.path("b/f")));
        }
    }
}
