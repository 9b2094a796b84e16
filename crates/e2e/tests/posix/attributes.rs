use std::time::{Duration, SystemTime};

use rustix::fs::{Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, utimensat};

use crate::call::*;

probes! {
    fn modes_are_kept_with_all_twelve_bits(p) {
        let file = p.file("f", "");
        let dir = p.subdir("d");
        for bits in [0o000, 0o400, 0o644, 0o755, 0o777, 0o1777, 0o4755, 0o6755] {
            for path in [&file, &dir] {
                fs::set_permissions(path, fs::Permissions::from_mode(bits)).unwrap();
                assert_eq!(mode(path), bits, "{}", path.display());
            }
            assert_eq!(mode(&p.far_path("f")), bits);
            assert_eq!(mode(&p.far_path("d")), bits);
        }
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn the_umask_applies_once(p) {
        // The harness has the usual 022; a mode already masked here must not be masked differently there.
        open(&p.path("f"), OFlags::CREATE | OFlags::WRONLY).unwrap();
        rustix::fs::mkdir(p.path("d"), Mode::from_raw_mode(0o777)).unwrap();
        let umask = umask_of_this_process();
        assert_eq!(mode(&p.path("f")), 0o644 & !umask);
        assert_eq!(mode(&p.path("d")), 0o777 & !umask);
        assert_eq!(mode(&p.far_path("f")), 0o644 & !umask);
        assert_eq!(mode(&p.far_path("d")), 0o777 & !umask);
        // Nor may that of the processes there be applied besides.
        for umask in [0, 0o027, 0o077] {
            let make = format!("umask {umask:o} && mkdir d{umask} && : >f{umask} && mkfifo p{umask}");
            e2e::Program::new("sh").args(["-c", &make]).cwd(&p.dir).ok();
            for path in [p.path(format!("d{umask}")), p.far_path(format!("d{umask}"))] {
                assert_eq!(mode(&path), 0o777 & !umask, "{}", path.display());
            }
            for name in [format!("f{umask}"), format!("p{umask}")] {
                assert_eq!(mode(&p.far_path(&name)), 0o666 & !umask, "{name}");
            }
        }
    }

    fn an_open_file_can_be_chmodded(p) {
        let path = p.file("f", "");
        let file = open(&path, OFlags::RDWR).unwrap();
        rustix::fs::fchmod(&file, Mode::from_raw_mode(0o600)).unwrap();
        assert_eq!(mode(&path), 0o600);
        assert_eq!(file.metadata().unwrap().mode() & 0o7777, 0o600);
    }

    fn times_are_kept_to_the_nanosecond(p) {
        for (name, make) in [("f", false), ("d", true)] {
            let path = if make { p.subdir(name) } else { p.file(name, "x") };
            set_times(&path, (1_000_000_000, 123_456_789), (1_500_000_001, 987_654_321)).unwrap();
            for path in [path, p.far_path(name)] {
                let is = path.metadata().unwrap();
                assert_eq!((is.atime(), is.atime_nsec()), (1_000_000_000, 123_456_789), "{}", path.display());
                assert_eq!((is.mtime(), is.mtime_nsec()), (1_500_000_001, 987_654_321), "{}", path.display());
            }
        }
    }

    fn times_before_1970_and_after_2038_are_kept(p) {
        let path = p.file("f", "");
        for seconds in [-1, -86_400 * 365, 2_147_483_648, 4_294_967_296] {
            set_times(&path, (seconds, 5), (seconds, 7)).unwrap();
            let is = path.metadata().unwrap();
            assert_eq!((is.mtime(), is.mtime_nsec()), (seconds, 7));
            assert_eq!((is.atime(), is.atime_nsec()), (seconds, 5));
        }
    }

    fn one_time_can_be_set_and_the_other_left(p) {
        let path = p.file("f", "");
        set_times(&path, (100, 1), (200, 2)).unwrap();
        set_times(&path, (0, UTIME_OMIT), (300, 3)).unwrap();
        assert_eq!((path.metadata().unwrap().atime(), path.metadata().unwrap().mtime()), (100, 300));
        set_times(&path, (400, 4), (0, UTIME_OMIT)).unwrap();
        assert_eq!((path.metadata().unwrap().atime(), path.metadata().unwrap().mtime()), (400, 300));
    }

    fn now_is_now(p) {
        let path = p.file("f", "");
        set_times(&path, (100, 1), (200, 2)).unwrap();
        set_times(&path, (0, UTIME_OMIT), (0, UTIME_NOW)).unwrap();
        let is = path.metadata().unwrap();
        assert_eq!(is.atime(), 100);
        let age = SystemTime::now().duration_since(is.modified().unwrap()).unwrap_or_default();
        assert!(age < Duration::from_secs(60), "{age:?}");
    }

    fn the_times_of_a_symlink_are_its_own(p) {
        let target = p.file("f", "");
        set_times(&target, (50, 0), (50, 0)).unwrap();
        symlink("f", p.path("l")).unwrap();
        let times = timestamps((100, 1), (200, 2));
        utimensat(CWD, p.path("l"), &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
        assert_eq!(p.path("l").symlink_metadata().unwrap().mtime(), 200);
        assert_eq!(target.metadata().unwrap().mtime(), 50);
    }

    fn a_write_moves_mtime_and_ctime(p) {
        let path = p.file("f", "x");
        set_times(&path, (100, 0), (100, 0)).unwrap();
        let before = path.metadata().unwrap();
        fs::write(&path, "y").unwrap();
        let after = path.metadata().unwrap();
        assert!(after.mtime() > before.mtime());
        assert!(changed(&after) >= changed(&before));
    }

    fn mtime_does_not_jump_when_the_file_is_closed(p) {
        let path = p.path("f");
        let file = read_write(&path);
        file.write_all_at(b"x", 0).unwrap();
        file.sync_all().unwrap();
        let open_mtime = modified(&path.metadata().unwrap());
        drop(file);
        assert_eq!(modified(&path.metadata().unwrap()), open_mtime);
        assert_eq!(modified(&p.far_path("f").metadata().unwrap()), open_mtime);
    }

    fn a_time_set_while_writes_are_pending_stays_set(p) {
        let path = p.path("f");
        let file = read_write(&path);
        file.write_all_at(&pattern(100_000), 0).unwrap();
        set_times(&path, (111, 1), (222, 2)).unwrap();
        drop(file);
        assert_eq!(modified(&path.metadata().unwrap()), (222, 2));
        assert_eq!(modified(&p.far_path("f").metadata().unwrap()), (222, 2));
    }

    fn chmod_moves_ctime_and_not_mtime(p) {
        let path = p.file("f", "x");
        set_times(&path, (100, 0), (100, 0)).unwrap();
        let before = changed(&path.metadata().unwrap());
        // The clock behind ctime ticks every few milliseconds.
        e2e::eventually(Duration::from_secs(5), "ctime moves", || {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            changed(&path.metadata().unwrap()) > before
        });
        assert_eq!(path.metadata().unwrap().mtime(), 100);
    }

    fn changing_a_directory_moves_its_mtime(p) {
        let dir = p.subdir("d");
        for change in 0..3 {
            set_times(&dir, (100, 0), (100, 0)).unwrap();
            match change {
                0 => drop(p.file("d/f", "")),
                1 => fs::rename(dir.join("f"), dir.join("g")).unwrap(),
                _ => fs::remove_file(dir.join("g")).unwrap(),
            }
            assert!(dir.metadata().unwrap().mtime() > 100, "change {change}");
        }
    }

    fn the_link_count_of_a_directory_counts_its_subdirectories(p) {
        let dir = p.subdir("d");
        assert_eq!(dir.metadata().unwrap().nlink(), 2);
        p.subdir("d/a");
        p.subdir("d/b");
        assert_eq!(dir.metadata().unwrap().nlink(), 4);
        fs::remove_dir(p.path("d/a")).unwrap();
        assert_eq!(dir.metadata().unwrap().nlink(), 3);
    }

    fn blocks_say_what_is_used(p) {
        let path = p.file("f", vec![1; 1 << 20]);
        File::open(&path).unwrap().sync_all().unwrap();
        assert!(path.metadata().unwrap().blocks() >= 2048, "{}", path.metadata().unwrap().blocks());
        let sparse = read_write(&p.path("sparse"));
        sparse.set_len(1 << 30).unwrap();
        assert!(sparse.metadata().unwrap().blocks() < 100);
    }

    fn inode_numbers_are_unique_and_stay(p) {
        let paths: Vec<PathBuf> = (0..200).map(|number| p.file(&format!("f{number}"), "")).collect();
        let before: Vec<u64> = paths.iter().map(|path| inode(path)).collect();
        let unique: std::collections::HashSet<&u64> = before.iter().collect();
        assert_eq!(unique.len(), 200);
        forget_caches();
        let after: Vec<u64> = paths.iter().map(|path| inode(path)).collect();
        assert_eq!(before, after);
    }

    fn a_listing_and_stat_agree_on_inode_numbers(p) {
        for number in 0..50 {
            p.file(&format!("f{number}"), "");
        }
        for entry in fs::read_dir(&p.dir).unwrap() {
            let entry = entry.unwrap();
            assert_eq!(std::os::unix::fs::DirEntryExt::ino(&entry), inode(&entry.path()));
        }
    }

    fn statfs_tells_of_the_machine(p) {
        let (here, there) = (rustix::fs::statvfs(&p.dir).unwrap(), rustix::fs::statvfs(&p.far).unwrap());
        assert_eq!(here.f_blocks * here.f_frsize, there.f_blocks * there.f_frsize);
        assert_eq!(here.f_files, there.f_files);
        assert_eq!(here.f_namemax, 255);
        assert!(here.f_bavail > 0);
    }

    fn access_tells_what_is_allowed(p) {
        use rustix::fs::{Access, access};
        let path = p.file("f", "");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        access(&path, Access::READ_OK | Access::WRITE_OK).unwrap();
        assert_eq!(access(&path, Access::EXEC_OK).unwrap_err(), Errno::ACCESS);
        assert_eq!(access(p.path("absent"), Access::EXISTS).unwrap_err(), Errno::NOENT);
    }

    fn statx_knows_the_size_without_being_told_to_sync(p) {
        let path = p.file("f", pattern(12_345));
        let flags = rustix::fs::StatxFlags::BASIC_STATS | rustix::fs::StatxFlags::BTIME;
        let is = rustix::fs::statx(CWD, &path, AtFlags::empty(), flags).unwrap();
        assert_eq!(is.stx_size, 12_345);
        assert_eq!(u64::from(is.stx_nlink), 1);
    }

    fn owners_are_kept_where_the_far_side_is_root(p) {
        if !e2e::stead::is_root() {
            return;
        }
        let path = p.file("f", "");
        rustix::fs::chown(&path, Some(rustix::fs::Uid::from_raw(1)), Some(rustix::fs::Gid::from_raw(2))).unwrap();
        for path in [path, p.far_path("f")] {
            let is = path.metadata().unwrap();
            assert_eq!((is.uid(), is.gid()), (1, 2));
        }
        symlink("f", p.path("l")).unwrap();
        let nofollow = AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::chownat(CWD, p.path("l"), Some(rustix::fs::Uid::from_raw(3)), None, nofollow).unwrap();
        assert_eq!(p.far_path("l").symlink_metadata().unwrap().uid(), 3);
        assert_eq!(p.far_path("f").metadata().unwrap().uid(), 1);
    }
}

type Time = (i64, i64);

fn timestamps(access: Time, modification: Time) -> Timestamps {
    let spec = |(tv_sec, tv_nsec): Time| Timespec { tv_sec, tv_nsec };
    Timestamps { last_access: spec(access), last_modification: spec(modification) }
}

fn set_times(path: &Path, access: Time, modification: Time) -> rustix::io::Result<()> {
    utimensat(CWD, path, &timestamps(access, modification), AtFlags::empty())
}

fn modified(of: &fs::Metadata) -> Time {
    (of.mtime(), of.mtime_nsec())
}

fn changed(of: &fs::Metadata) -> Time {
    (of.ctime(), of.ctime_nsec())
}

fn umask_of_this_process() -> u32 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("Umask:")).unwrap();
    u32::from_str_radix(line.split_whitespace().nth(1).unwrap(), 8).unwrap()
}

/// Asks the kernel to forget names and inodes, where we may.
fn forget_caches() {
    let _only_root_may = fs::write("/proc/sys/vm/drop_caches", "2");
}
