//! What another user may do. These need root, to become another user; without it they show nothing and pass.

use std::os::unix::fs::DirBuilderExt as _;

use e2e::stead::is_root;

use crate::call::*;

const OTHER: u32 = 65534;

probes! {
    fn another_user_is_kept_out_by_modes(p) {
        if !is_root() {
            return;
        }
        let secret = p.file("secret", "x");
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
        let public = p.file("public", "y");
        fs::set_permissions(&public, fs::Permissions::from_mode(0o644)).unwrap();
        as_user(OTHER, OTHER, || {
            assert_eq!(errno(fs::read(&secret)), Errno::ACCESS);
            assert_eq!(fs::read(&public).unwrap(), b"y");
            assert_eq!(errno(OpenOptions::new().append(true).open(&public)), Errno::ACCESS);
            assert_eq!(errno(fs::write(p.path("new"), "")), Errno::ACCESS);
            assert_eq!(errno(fs::remove_file(&public)), Errno::ACCESS);
            assert_eq!(errno(fs::set_permissions(&public, fs::Permissions::from_mode(0o666))), Errno::PERM);
        });
    }

    fn a_file_made_by_another_user_belongs_to_them(p) {
        if !is_root() {
            return;
        }
        let dir = p.subdir("d");
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).unwrap();
        as_user(OTHER, OTHER, || {
            fs::write(dir.join("f"), "mine").unwrap();
            fs::create_dir(dir.join("sub")).unwrap();
            symlink("f", dir.join("l")).unwrap();
        });
        for name in ["d/f", "d/sub", "d/l"] {
            let is = p.far_path(name).symlink_metadata().unwrap();
            assert_eq!((is.uid(), is.gid()), (OTHER, OTHER), "{name}");
        }
    }

    fn a_sticky_directory_protects_the_files_of_others(p) {
        if !is_root() {
            return;
        }
        let dir = p.subdir("d");
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o1777)).unwrap();
        p.file("d/f", "root's");
        as_user(OTHER, OTHER, || {
            assert_eq!(errno(fs::remove_file(dir.join("f"))), Errno::PERM);
            assert_eq!(errno(fs::rename(dir.join("f"), dir.join("g"))), Errno::PERM);
            fs::write(dir.join("own"), "").unwrap();
            fs::remove_file(dir.join("own")).unwrap();
        });
    }

    fn a_directory_that_nobody_else_may_open_is_renamed_by_who_may_write_around_it(p) {
        if !is_root() {
            return;
        }
        for name in ["d", "e"] {
            fs::set_permissions(p.subdir(name), fs::Permissions::from_mode(0o777)).unwrap();
        }
        let closed = p.path("d/closed");
        fs::DirBuilder::new().mode(0o700).create(&closed).unwrap();
        as_user(OTHER, OTHER, || {
            for _ in 0..2 {
                fs::rename(&closed, p.path("d/other")).unwrap();
                fs::rename(p.path("d/other"), &closed).unwrap();
            }
            // Its `..` would be another, and to change that takes write permission.
            assert_eq!(errno(fs::rename(&closed, p.path("e/closed"))), Errno::ACCESS);
        });
    }

    fn a_directory_without_search_permission_hides_what_is_in_it(p) {
        if !is_root() {
            return;
        }
        let dir = p.subdir("d");
        p.file("d/f", "");
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o644)).unwrap();
        as_user(OTHER, OTHER, || {
            assert_eq!(errno(fs::metadata(dir.join("f"))), Errno::ACCESS);
            assert_eq!(fs::read_dir(&dir).unwrap().count(), 1);
        });
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o711)).unwrap();
        as_user(OTHER, OTHER, || {
            fs::metadata(dir.join("f")).unwrap();
            assert_eq!(errno(fs::read_dir(&dir)), Errno::ACCESS);
        });
    }

    fn ownership_cannot_be_given_away(p) {
        if !is_root() {
            return;
        }
        let path = p.file("f", "");
        rustix::fs::chown(&path, Some(rustix::fs::Uid::from_raw(OTHER)), Some(rustix::fs::Gid::from_raw(OTHER))).unwrap();
        as_user(OTHER, OTHER, || {
            let give = rustix::fs::chown(&path, Some(rustix::fs::Uid::from_raw(1)), None);
            assert_eq!(give.unwrap_err(), Errno::PERM);
            fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        });
        assert_eq!(mode(&path), 0o640);
    }

    fn writing_takes_the_set_user_id_bit_away(p) {
        if !is_root() {
            return;
        }
        let path = p.file("f", "x");
        rustix::fs::chown(&path, Some(rustix::fs::Uid::from_raw(OTHER)), Some(rustix::fs::Gid::from_raw(OTHER))).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o6777)).unwrap();
        as_user(1, 1, || {
            let file = open(&path, OFlags::WRONLY).unwrap();
            file.write_all_at(b"y", 0).unwrap();
            file.sync_all().unwrap();
        });
        assert_eq!(mode(&path), 0o777);
        assert_eq!(mode(&p.far_path("f")), 0o777);
    }

    fn changing_the_owner_takes_the_set_user_id_bit_away(p) {
        if !is_root() {
            return;
        }
        let path = p.file("f", "x");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o6755)).unwrap();
        rustix::fs::chown(&path, Some(rustix::fs::Uid::from_raw(OTHER)), None).unwrap();
        assert_eq!(mode(&path), 0o755);
    }

    fn a_permission_taken_away_counts_at_once(p) {
        if !is_root() {
            return;
        }
        let path = p.file("f", "x");
        for (bits, allowed) in [(0o644, true), (0o600, false), (0o604, true)] {
            fs::set_permissions(&path, fs::Permissions::from_mode(bits)).unwrap();
            assert_eq!(as_user(OTHER, OTHER, || fs::read(&path).is_ok()), allowed, "{bits:o}");
        }
    }

    fn access_control_lists_are_honoured_or_refused(p) {
        if !is_root() {
            return;
        }
        let path = p.file("f", "x");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let set = e2e::Program::new("setfacl").args(["-m", "u:nobody:r"]).arg(&path).run();
        if set.code() != 0 {
            assert!(set.errors().contains("not supported"), "{set}");
            return;
        }
        assert!(as_user(OTHER, OTHER, || fs::read(&path).is_ok()), "an ACL that was accepted must count");
    }
}
