//! Changes made on the machine by others, and by another mount of the same tree.

use std::time::Duration;

use e2e::eventually;

use crate::call::*;

/// Attributes and names may be as old as a lease or its fallback, and no older.
const SEEN_WITHIN: Duration = Duration::from_secs(5);

probes! {
    fn a_change_on_the_machine_is_read_at_the_next_open(p) {
        let path = p.file("f", "first");
        assert_same_bytes!(read(&path), b"first");
        for round in 0..20 {
            let contents = format!("changed {round}");
            fs::write(p.far_path("f"), &contents).unwrap();
            assert_same_bytes!(read(&path), contents.as_bytes());
        }
    }

    fn a_change_of_the_same_size_is_read_at_the_next_open(p) {
        let path = p.file("f", "aaaa");
        for byte in b'b'..=b'z' {
            assert_eq!(read(&path).len(), 4);
            fs::write(p.far_path("f"), [byte; 4]).unwrap();
            assert_same_bytes!(read(&path), [byte; 4]);
        }
    }

    fn a_file_replaced_on_the_machine_is_read_at_the_next_open(p) {
        let path = p.file("f", "old");
        assert_same_bytes!(read(&path), b"old");
        fs::write(p.far_path("f.new"), "new and longer").unwrap();
        fs::rename(p.far_path("f.new"), p.far_path("f")).unwrap();
        eventually(SEEN_WITHIN, "the new file is seen", || read(&path) == b"new and longer");
    }

    fn a_change_in_place_on_the_machine_is_read_at_the_next_open(p) {
        let path = p.file("f", vec![1; 4096]);
        assert_same_bytes!(read(&path), vec![1; 4096]);
        // A writer that neither truncates nor renames: only its times and its bytes change.
        let file = open(&p.far_path("f"), OFlags::RDWR).unwrap();
        file.write_all_at(&[2; 10], 100).unwrap();
        drop(file);
        assert_same_bytes!(read(&path)[100..110], [2; 10]);
    }

    fn a_file_made_on_the_machine_appears(p) {
        assert!(!exists(&p.path("f")));
        assert!(names(&p.dir).is_empty());
        fs::write(p.far_path("f"), "x").unwrap();
        eventually(SEEN_WITHIN, "the name is found", || exists(&p.path("f")));
        eventually(SEEN_WITHIN, "the name is listed", || names(&p.dir) == ["f"]);
        assert_same_bytes!(read(&p.path("f")), b"x");
    }

    fn a_file_removed_on_the_machine_disappears(p) {
        let path = p.file("f", "x");
        assert!(exists(&path));
        fs::remove_file(p.far_path("f")).unwrap();
        eventually(SEEN_WITHIN, "the name is gone", || !exists(&path));
        eventually(SEEN_WITHIN, "the listing is empty", || names(&p.dir).is_empty());
    }

    fn attributes_changed_on_the_machine_are_seen(p) {
        let path = p.file("f", "x");
        assert_eq!(size(&path), 1);
        fs::write(p.far_path("f"), "longer").unwrap();
        fs::set_permissions(p.far_path("f"), fs::Permissions::from_mode(0o600)).unwrap();
        eventually(SEEN_WITHIN, "the size is seen", || size(&path) == 6);
        eventually(SEEN_WITHIN, "the mode is seen", || mode(&path) == 0o600);
    }

    fn a_directory_renamed_on_the_machine_is_followed(p) {
        fs::create_dir_all(p.path("a/b")).unwrap();
        p.file("a/b/f", "x");
        assert_same_bytes!(read(&p.path("a/b/f")), b"x");
        fs::rename(p.far_path("a"), p.far_path("z")).unwrap();
        eventually(SEEN_WITHIN, "the old name is gone", || !exists(&p.path("a")));
        eventually(SEEN_WITHIN, "the new name is there", || exists(&p.path("z/b/f")));
        assert_same_bytes!(read(&p.path("z/b/f")), b"x");
    }

    fn a_log_that_grows_on_the_machine_can_be_followed(p) {
        let path = p.file("log", "");
        let mut reader = File::open(&path).unwrap();
        let mut writer = OpenOptions::new().append(true).open(p.far_path("log")).unwrap();
        let mut seen = String::new();
        for line in ["one\n", "two\n", "three\n"] {
            writer.write_all(line.as_bytes()).unwrap();
            eventually(SEEN_WITHIN, "the new line is read", || {
                reader.read_to_string(&mut seen).unwrap();
                seen.ends_with(line)
            });
        }
        assert_eq!(seen, "one\ntwo\nthree\n");
    }

    fn a_file_truncated_on_the_machine_shrinks_here(p) {
        let path = p.file("f", pattern(100_000));
        assert_eq!(read(&path).len(), 100_000);
        OpenOptions::new().write(true).open(p.far_path("f")).unwrap().set_len(10).unwrap();
        assert_same_bytes!(read(&path), pattern(10));
    }

    fn two_mounts_of_a_tree_agree(p) {
        let second = p.second_view();
        p.file("f", "from the first");
        eventually(SEEN_WITHIN, "the second sees it", || exists(&second.join("f")));
        assert_same_bytes!(read(&second.join("f")), b"from the first");
        fs::write(second.join("f"), "from the second").unwrap();
        assert_same_bytes!(read(&p.path("f")), b"from the second");
        fs::remove_file(second.join("f")).unwrap();
        eventually(SEEN_WITHIN, "the first sees it gone", || !exists(&p.path("f")));
    }

    fn appends_through_two_mounts_are_all_there(p) {
        let second = p.second_view();
        p.file("log", "");
        std::thread::scope(|scope| {
            for dir in [&p.dir, &second] {
                scope.spawn(move || {
                    for _ in 0..100 {
                        // Opened and closed each time, as a logger of many processes does.
                        let mut file = OpenOptions::new().append(true).open(dir.join("log")).unwrap();
                        file.write_all(b"a whole line\n").unwrap();
                    }
                });
            }
        });
        let text = String::from_utf8(read(&p.far_path("log"))).unwrap();
        assert_eq!(text.lines().filter(|line| *line == "a whole line").count(), 200);
        assert_eq!(text.len(), 200 * 13);
    }

    fn a_name_made_on_the_machine_between_two_looks_is_not_overwritten(p) {
        assert!(!exists(&p.path("f")));
        fs::write(p.far_path("f"), "theirs").unwrap();
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        assert_eq!(open(&p.path("f"), flags).unwrap_err(), Errno::EXIST);
        assert_same_bytes!(read(&p.far_path("f")), b"theirs");
    }

    fn a_file_put_there_by_another_is_not_deleted_with_the_old_one(p) {
        p.file("f", "old");
        p.subdir("d");
        let old = p.path("f");
        assert!(exists(&old));
        fs::rename(p.far_path("f"), p.far_path("d/f")).unwrap();
        fs::remove_file(p.path("d/f")).unwrap();
        fs::write(p.far_path("f"), "theirs").unwrap();
        eventually(SEEN_WITHIN, "the new file is seen", || fs::read(&old).is_ok_and(|is| is == b"theirs"));
    }
}
