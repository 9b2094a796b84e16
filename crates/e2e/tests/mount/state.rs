//! What is kept on disk.

use std::fs::Metadata;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use e2e::{Sshd, Stead, eventually};

const SOON: Duration = Duration::from_secs(30);

/// What one of the two files of a worker's log may have.
const WORKER_LOG_BYTES_MAX: u64 = 1 << 20;

fn all_below(dir: &Path) -> Vec<(PathBuf, Metadata)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        // What comes and goes while the daemon works may have gone.
        let Ok(metadata) = path.symlink_metadata() else { continue };
        if metadata.is_dir() {
            found.extend(all_below(&path));
        }
        found.push((path, metadata));
    }
    found
}

#[test]
fn what_is_kept_on_disk_is_this_users_alone() {
    let sshd = Sshd::start();
    let stead = Stead::with_ssh(&sshd);
    let (far, dir) = (stead.dir("far"), stead.dir("mnt"));
    stead.mount(format!("ssh://box{}", far.display()), &dir, &[]);
    let nfs = ["--backend", "nfs", "-o", "no-kernel-mount"];
    stead.mount(format!("host:{}", far.display()), &stead.dir("nfs"), &nfs);
    let found = all_below(stead.home());
    for (path, metadata) in &found {
        let mode = metadata.permissions().mode() & 0o7777;
        let wanted = match metadata.file_type() {
            link if link.is_symlink() => continue,
            directory if directory.is_dir() => 0o700,
            _ => 0o600,
        };
        assert_eq!(format!("{mode:o}"), format!("{wanted:o}"), "{}", path.display());
    }
    let home = stead.home().metadata().unwrap();
    assert_eq!(home.permissions().mode() & 0o7777, 0o700);
    for name in ["state.db", "state.db-wal", "daemon.log", "daemon.sock", "worker.log", "nfs-places"] {
        assert!(found.iter().any(|(path, _)| path.ends_with(name)), "{name} was not looked at: {found:?}");
    }
}

#[test]
fn the_log_of_a_mount_has_a_limit_and_goes_on_behind_it() {
    let mut stead = Stead::new();
    stead.set_env("STEAD_LOG", "trace");
    let (far, dir) = (stead.dir("far"), stead.dir("mnt"));
    let mount = stead.mount(format!("host:{}", far.display()), &dir, &[]);
    let log = stead.home().join("mounts").join(&mount.id).join("worker.log");
    let aside = log.with_extension("log.1");
    let mut names = 0..;
    let mut turn = || {
        let first = aside.metadata().map(|metadata| metadata.ino()).ok();
        eventually(SOON, "a full log is put aside", || {
            // The kernel asks for a name that it has not seen.
            names.by_ref().take(100).for_each(|name: u64| assert!(!dir.join(name.to_string()).exists()));
            aside.metadata().map(|metadata| metadata.ino()).ok() != first
        });
    };
    turn();
    turn();
    for path in [&log, &aside] {
        let bytes = path.metadata().unwrap().len();
        assert!(bytes <= WORKER_LOG_BYTES_MAX, "{} has {bytes} bytes", path.display());
    }
    let worker = stead.mount_status(&mount.id).unwrap()["worker"]["pid"].clone();
    let stderr = PathBuf::from(format!("/proc/{worker}/fd/2"));
    eventually(SOON, "standard error follows the log", || {
        stderr.metadata().unwrap().ino() == log.metadata().unwrap().ino()
    });
    stead.unmount(&mount);
    assert!(!aside.exists(), "it goes with its mount");
}
