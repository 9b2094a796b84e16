//! Errors of the machine's own disk arrive as they are. These mount small file systems there, which needs root.

use e2e::stead::is_root;
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_remount, unmount};

use crate::call::*;

probes! {
    fn a_full_disk_is_said_to_be_full_and_what_was_synced_stays(p) {
        if !is_root() {
            return;
        }
        let disk = SmallDisk::below(p, "size=1m");
        p.file("disk/kept", "kept");
        let file = read_write(&p.path("disk/big"));
        let block = vec![1; 64 << 10];
        let outcome = (0..64).try_for_each(|at| file.write_all_at(&block, at << 16)).and_then(|()| file.sync_all());
        assert_eq!(errno(outcome), Errno::NOSPC);
        drop(file);
        assert_same_bytes!(read(&p.path("disk/kept")), b"kept");
        fs::remove_file(p.path("disk/big")).unwrap();
        p.file("disk/after", vec![2; 64 << 10]);
        assert_same_bytes!(read(&p.far_path("disk/after")), vec![2; 64 << 10]);
        drop(disk);
    }

    fn a_disk_without_inodes_refuses_new_files(p) {
        if !is_root() {
            return;
        }
        let _disk = SmallDisk::below(p, "nr_inodes=10");
        let outcome = (0..20).try_for_each(|number| fs::write(p.path(format!("disk/f{number}")), ""));
        assert_eq!(errno(outcome), Errno::NOSPC);
    }

    fn a_read_only_disk_refuses_every_change(p) {
        if !is_root() {
            return;
        }
        let disk = SmallDisk::below(p, "size=1m");
        p.file("disk/f", "x");
        // A kernel closes a file after `close` has returned, and until then the disk is busy.
        e2e::eventually(std::time::Duration::from_secs(5), "the disk can be made read-only", || {
            mount_remount(&disk.0, MountFlags::RDONLY, "").is_ok()
        });
        let path = p.path("disk/f");
        assert_same_bytes!(read(&path), b"x");
        assert_eq!(errno(fs::write(&path, "y")), Errno::ROFS);
        assert_eq!(errno(fs::write(p.path("disk/new"), "y")), Errno::ROFS);
        assert_eq!(errno(fs::create_dir(p.path("disk/d"))), Errno::ROFS);
        assert_eq!(errno(fs::remove_file(&path)), Errno::ROFS);
        assert_eq!(errno(fs::rename(&path, p.path("disk/g"))), Errno::ROFS);
        assert_eq!(errno(fs::set_permissions(&path, fs::Permissions::from_mode(0o600))), Errno::ROFS);
        assert_eq!(errno(symlink("x", p.path("disk/l"))), Errno::ROFS);
        assert_eq!(rustix::fs::setxattr(&path, "user.a", b"", rustix::fs::XattrFlags::empty()).unwrap_err(), Errno::ROFS);
    }

    fn two_disks_of_the_machine_are_two_disks(p) {
        if !is_root() {
            return;
        }
        let _disk = SmallDisk::below(p, "size=1m");
        let (here, there) = (p.file("f", "here"), p.file("disk/f", "there"));
        assert_eq!((read(&here), read(&there)), (b"here".to_vec(), b"there".to_vec()));
        assert_eq!(errno(fs::rename(&here, p.path("disk/g"))), Errno::XDEV);
        assert_eq!(errno(fs::hard_link(&here, p.path("disk/g"))), Errno::XDEV);
        let identity = |path: &Path| path.metadata().map(|is| (is.dev(), is.ino())).unwrap();
        assert_ne!(identity(&here), identity(&there));
        fs::copy(&here, p.path("disk/copy")).unwrap();
        assert_same_bytes!(read(&p.path("disk/copy")), b"here");
    }

    fn an_immutable_file_cannot_be_changed(p) {
        if !is_root() {
            return;
        }
        let path = p.file("f", "x");
        let chattr = |flag: &str| e2e::Program::new("chattr").arg(flag).arg(p.far_path("f")).run();
        if chattr("+i").code() != 0 {
            return;
        }
        let outcomes = [
            OpenOptions::new().write(true).open(&path).map(drop),
            fs::remove_file(&path),
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)),
        ];
        assert_eq!(chattr("-i").code(), 0);
        for outcome in outcomes {
            assert_eq!(errno(outcome), Errno::PERM);
        }
        assert_same_bytes!(read(&path), b"x");
    }
}

/// A memory disk mounted on the machine at `disk`, below the tree.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn below(p: &Place, options: &str) -> SmallDisk {
        let point = p.far_path("disk");
        fs::create_dir(&point).unwrap();
        let options = std::ffi::CString::new(options).unwrap();
        mount("e2e", &point, "tmpfs", MountFlags::empty(), options.as_c_str()).unwrap();
        SmallDisk(point)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        unmount(&self.0, UnmountFlags::DETACH).expect("unmounting what this probe mounted");
    }
}
