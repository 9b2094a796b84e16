use std::collections::HashSet;
use std::ffi::OsString;

use crate::call::*;

probes! {
    fn a_directory_is_made_and_removed(p) {
        let dir = p.subdir("d");
        assert!(p.far_path("d").is_dir());
        assert_eq!(errno(fs::create_dir(&dir)), Errno::EXIST);
        p.file("d/f", "");
        assert_eq!(errno(fs::remove_dir(&dir)), Errno::NOTEMPTY);
        fs::remove_file(p.path("d/f")).unwrap();
        fs::remove_dir(&dir).unwrap();
        assert_eq!(errno(fs::remove_dir(&dir)), Errno::NOENT);
        assert!(!exists(&p.far_path("d")));
    }

    fn unlink_and_rmdir_take_only_their_own_kind(p) {
        p.subdir("d");
        p.file("f", "");
        assert_eq!(errno(fs::remove_file(p.path("d"))), Errno::ISDIR);
        assert_eq!(errno(fs::remove_dir(p.path("f"))), Errno::NOTDIR);
        symlink("d", p.path("l")).unwrap();
        assert_eq!(errno(fs::remove_dir(p.path("l"))), Errno::NOTDIR);
        fs::remove_file(p.path("l")).unwrap();
        assert!(exists(&p.path("d")));
    }

    fn a_listing_has_every_name_once(p) {
        let expected: HashSet<OsString> = (0..3000).map(|number| format!("name-{number:05}").into()).collect();
        for name in &expected {
            fs::write(p.far.join(name), "").unwrap();
        }
        let listed: Vec<OsString> = fs::read_dir(&p.dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(listed.len(), expected.len());
        assert_eq!(listed.into_iter().collect::<HashSet<_>>(), expected);
    }

    fn a_listing_starts_with_itself_and_its_parent(p) {
        p.subdir("d");
        let mut stream = rustix::fs::Dir::read_from(File::open(p.path("d")).unwrap()).unwrap();
        let mut names: Vec<String> =
            std::iter::from_fn(|| stream.read()).map(|entry| entry.unwrap().file_name().to_str().unwrap().to_owned()).collect();
        names.sort();
        assert_eq!(names, [".", ".."]);
    }

    fn a_listing_tells_the_kind_of_every_entry(p) {
        p.file("f", "");
        p.subdir("d");
        symlink("f", p.path("l")).unwrap();
        for entry in fs::read_dir(&p.dir).unwrap() {
            let entry = entry.unwrap();
            let kind = entry.file_type().unwrap();
            match entry.file_name().to_str().unwrap() {
                "f" => assert!(kind.is_file()),
                "d" => assert!(kind.is_dir()),
                _ => assert!(kind.is_symlink()),
            }
        }
    }

    fn entries_that_stay_are_listed_once_while_others_come_and_go(p) {
        for number in 0..2000 {
            fs::write(p.far_path(format!("stays-{number:04}")), "").unwrap();
            fs::write(p.far_path(format!("goes-{number:04}")), "").unwrap();
        }
        let mut seen = Vec::new();
        let mut number = 0;
        for entry in fs::read_dir(&p.dir).unwrap() {
            seen.push(entry.unwrap().file_name().into_string().unwrap());
            if number < 2000 {
                fs::remove_file(p.path(format!("goes-{number:04}"))).unwrap();
                p.file(&format!("came-{number:04}"), "");
                number += 1;
            }
        }
        let stays: Vec<&String> = seen.iter().filter(|name| name.starts_with("stays")).collect();
        assert_eq!(stays.len(), 2000);
        assert_eq!(stays.iter().collect::<HashSet<_>>().len(), 2000);
        assert_eq!(seen.iter().collect::<HashSet<_>>().len(), seen.len());
    }

    fn a_listing_can_go_back_to_a_place_it_was_at(p) {
        for number in 0..500 {
            fs::write(p.far_path(format!("n{number}")), "").unwrap();
        }
        let dir = File::open(&p.dir).unwrap();
        let mut stream = rustix::fs::Dir::read_from(&dir).unwrap();
        let mut entries = Vec::new();
        while let Some(entry) = stream.read() {
            let entry = entry.unwrap();
            entries.push((entry.file_name().to_owned(), entry.offset()));
        }
        // The offset of an entry is where the next one is read from.
        for index in [0, 1, 77, 300, entries.len() - 2] {
            let (_, offset) = &entries[index];
            stream.seek(*offset).unwrap();
            assert_eq!(stream.read().unwrap().unwrap().file_name(), entries[index + 1].0.as_c_str());
        }
        stream.rewind();
        assert_eq!(std::iter::from_fn(|| stream.read()).count(), entries.len());
    }

    fn an_open_listing_is_rewound_to_what_is_there_now(p) {
        p.file("one", "");
        let mut stream = rustix::fs::Dir::read_from(File::open(&p.dir).unwrap()).unwrap();
        assert_eq!(std::iter::from_fn(|| stream.read()).count(), 3);
        p.file("two", "");
        stream.rewind();
        assert_eq!(std::iter::from_fn(|| stream.read()).count(), 4);
    }

    fn listing_and_removing_at_once_empties_the_directory(p) {
        for number in 0..1500 {
            fs::write(p.far_path(format!("f{number}")), "").unwrap();
        }
        for entry in fs::read_dir(&p.dir).unwrap() {
            fs::remove_file(entry.unwrap().path()).unwrap();
        }
        assert!(names(&p.dir).is_empty());
        assert!(names(&p.far).is_empty());
    }

    fn a_removed_directory_that_is_open_lists_nothing_and_takes_nothing(p) {
        let path = p.subdir("d");
        let dir = File::open(&path).unwrap();
        fs::remove_dir(&path).unwrap();
        assert_eq!(rustix::fs::mkdirat(&dir, "x", Mode::RWXU).unwrap_err(), Errno::NOENT);
        let entries = rustix::fs::Dir::read_from(&dir).map(|stream| stream.filter_map(Result::ok).count());
        assert_eq!(entries.unwrap_or(0), 0);
    }

    fn a_whole_tree_is_removed(p) {
        for (a, b) in (0..5).flat_map(|a| (0..5).map(move |b| (a, b))) {
            fs::create_dir_all(p.path(format!("t/{a}/{b}"))).unwrap();
            p.file(&format!("t/{a}/{b}/f"), "x");
        }
        fs::remove_dir_all(p.path("t")).unwrap();
        assert!(!exists(&p.far_path("t")));
    }

    fn many_threads_work_in_one_directory(p) {
        std::thread::scope(|scope| {
            for thread in 0..8 {
                scope.spawn(move || {
                    for number in 0..50 {
                        let name = format!("t{thread}-{number}");
                        p.file(&name, &name);
                        assert_same_bytes!(read(&p.path(&name)), name.as_bytes());
                        fs::rename(p.path(&name), p.path(format!("{name}.done"))).unwrap();
                    }
                });
            }
        });
        assert_eq!(names(&p.dir).len(), 400);
        assert_eq!(names(&p.far), names(&p.dir));
    }

    fn a_directory_can_be_synced(p) {
        p.file("f", "");
        let dir = File::open(&p.dir).unwrap();
        dir.sync_all().unwrap();
        rustix::fs::fdatasync(&dir).unwrap();
        rustix::fs::syncfs(&dir).unwrap();
    }

    fn a_set_group_id_directory_hands_its_group_on(p) {
        if !e2e::stead::is_root() {
            return;
        }
        let dir = p.subdir("d");
        rustix::fs::chown(&dir, None, Some(rustix::fs::Gid::from_raw(50))).unwrap();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o2775)).unwrap();
        p.file("d/f", "");
        p.subdir("d/sub");
        assert_eq!(p.path("d/f").metadata().unwrap().gid(), 50);
        assert_eq!(p.path("d/sub").metadata().unwrap().gid(), 50);
        assert_eq!(mode(&p.path("d/sub")) & 0o2000, 0o2000);
    }
}
