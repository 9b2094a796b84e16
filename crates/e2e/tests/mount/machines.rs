//! Machines reached through ssh: where the agent goes, what it leaves, what is refused.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use e2e::sshd::FarCache;
use e2e::stead::is_root;
use e2e::{Program, Sshd, Stead, eventually};
use rustix::mount::{MountFlags, UnmountFlags};

const SOON: Duration = Duration::from_secs(10);

fn mount_and_use(stead: &Stead, machine: &str, name: &str) {
    let (far, dir) = (stead.dir(&format!("far-{name}")), stead.dir(&format!("mnt-{name}")));
    let mount = stead.mount(format!("{machine}{}", far.display()), &dir, &[]);
    std::fs::write(dir.join("f"), name).unwrap();
    assert_eq!(std::fs::read_to_string(far.join("f")).unwrap(), name);
    stead.unmount(&mount);
}

fn files_below(dir: &Path) -> Vec<PathBuf> {
    Program::new("find").arg(dir).args(["-type", "f"]).run().text().lines().map(PathBuf::from).collect()
}

#[test]
fn the_agent_is_placed_once_in_the_users_cache_and_nowhere_else() {
    let sshd = Sshd::start_with(FarCache::Fresh, "");
    let stead = Stead::with_ssh(&sshd);
    mount_and_use(&stead, "ssh://box", "first");
    let cache = sshd.dir().join("cache");
    let placed = files_below(&cache);
    assert_eq!(placed.len(), 1, "{placed:?}");
    let is = placed[0].metadata().unwrap();
    assert_ne!(is.permissions().mode() & 0o100, 0);
    assert!(is.len() < 4 << 20, "the agent has {} bytes", is.len());
    stead.ok(&["disconnect", "ssh://box"]);
    mount_and_use(&stead, "ssh://box", "second");
    assert_eq!(files_below(&cache), placed);
    assert_eq!(placed[0].metadata().unwrap().modified().unwrap(), is.modified().unwrap(), "not placed again");
}

#[test]
fn a_damaged_agent_is_replaced() {
    let sshd = Sshd::start_with(FarCache::Fresh, "");
    let stead = Stead::with_ssh(&sshd);
    mount_and_use(&stead, "ssh://box", "first");
    stead.ok(&["disconnect", "ssh://box"]);
    eventually(SOON, "the agent has ended", || sshd.far_processes().is_empty());
    let placed = files_below(&sshd.dir().join("cache"));
    std::fs::write(&placed[0], "#!/bin/sh\necho this is not the agent\n").unwrap();
    mount_and_use(&stead, "ssh://box", "second");
}

#[test]
fn two_clients_place_the_agent_at_the_same_time() {
    let sshd = Sshd::start_with(FarCache::Fresh, "");
    std::thread::scope(|scope| {
        for name in ["one", "two"] {
            let sshd = &sshd;
            scope.spawn(move || mount_and_use(&Stead::with_ssh(sshd), "ssh://box", name));
        }
    });
}

#[test]
fn a_machine_whose_cache_cannot_be_executed_from_is_refused() {
    if !is_root() {
        return;
    }
    let sshd = Sshd::start_with(FarCache::Fresh, "");
    let cache = sshd.dir().join("cache");
    std::fs::create_dir(&cache).unwrap();
    rustix::mount::mount("e2e", &cache, "tmpfs", MountFlags::NOEXEC, c"size=64m").unwrap();
    let stead = Stead::with_ssh(&sshd);
    let dir = stead.dir("mnt");
    let refused = stead.program().args(["mount", "ssh://box/tmp"]).arg(&dir).run();
    rustix::mount::unmount(&cache, UnmountFlags::DETACH).unwrap();
    assert!([1, 4].contains(&refused.code()), "{refused}");
    assert!(refused.errors().contains("agent"), "{refused}");
}

#[test]
fn a_machine_whose_disk_is_full_is_refused() {
    if !is_root() {
        return;
    }
    let sshd = Sshd::start_with(FarCache::Fresh, "");
    let cache = sshd.dir().join("cache");
    std::fs::create_dir(&cache).unwrap();
    rustix::mount::mount("e2e", &cache, "tmpfs", MountFlags::empty(), c"size=64k").unwrap();
    let stead = Stead::with_ssh(&sshd);
    let dir = stead.dir("mnt");
    let refused = stead.program().args(["mount", "ssh://box/tmp"]).arg(&dir).run();
    let left = files_below(&cache);
    rustix::mount::unmount(&cache, UnmountFlags::DETACH).unwrap();
    assert!([1, 4].contains(&refused.code()), "{refused}");
    assert!(refused.errors().to_lowercase().contains("space"), "{refused}");
    assert!(left.is_empty(), "a piece of the agent stays: {left:?}");
}

#[test]
fn a_login_shell_that_talks_does_not_disturb() {
    let sshd = Sshd::start_with(FarCache::Shared, "Banner /etc/os-release\n");
    let stead = Stead::with_ssh(&sshd);
    mount_and_use(&stead, "ssh://box", "banner");
}

#[test]
fn a_machine_can_be_named_in_every_usual_way() {
    let sshd = Sshd::start();
    let stead = Stead::with_ssh(&sshd);
    let user = Program::new("id").arg("-un").ok().text().trim().to_owned();
    sshd.trust("127.0.0.1", sshd.port());
    let names = [
        "ssh://box".to_owned(),
        format!("ssh://{user}@box"),
        format!("ssh://127.0.0.1:{}", sshd.port()),
        format!("{user}@box:"),
        "box:".to_owned(),
    ];
    for (number, name) in names.iter().enumerate() {
        mount_and_use(&stead, name, &number.to_string());
    }
}

#[test]
fn a_plain_path_is_a_path_of_this_host() {
    let stead = Stead::new();
    let (far, dir) = (stead.dir("far"), stead.dir("mnt"));
    std::fs::write(far.join("f"), "x").unwrap();
    for source in [
        far.to_str().unwrap().to_owned(),
        format!("host{}", far.display()),
        format!("host:{}", far.display()),
    ] {
        let mount = stead.mount(&source, &dir, &[]);
        assert_eq!(std::fs::read(dir.join("f")).unwrap(), b"x", "{source}");
        stead.unmount(&mount);
    }
}

#[test]
fn a_jump_host_is_used() {
    let (jump, sshd) = (Sshd::start(), Sshd::start());
    jump.add_host(
        "behind",
        sshd.port(),
        &[
            ("ProxyJump", "box"),
            ("IdentityFile", sshd.identity().to_str().unwrap()),
            ("UserKnownHostsFile", sshd.dir().join("known_hosts").to_str().unwrap()),
            ("HostKeyAlias", "box"),
        ],
    );
    let mut stead = Stead::new();
    stead.set_env("STEAD_SSH_CONFIG", jump.client_config());
    mount_and_use(&stead, "ssh://behind", "behind");
    assert!(jump.log().contains("Accepted publickey"), "{}", jump.log());
}

#[test]
fn one_login_serves_many_mounts() {
    let sshd = Sshd::start();
    let stead = Stead::with_ssh(&sshd);
    for number in 0..4 {
        let (far, dir) = (stead.dir(&format!("far{number}")), stead.dir(&format!("mnt{number}")));
        stead.mount(format!("ssh://box{}", far.display()), &dir, &[]);
        std::fs::write(dir.join("f"), "x").unwrap();
    }
    let logins = sshd.log().matches("Accepted publickey").count();
    assert_eq!(logins, 1, "{}", sshd.log());
}

#[test]
fn no_key_is_shown_anywhere() {
    let sshd = Sshd::start();
    let stead = Stead::with_ssh(&sshd);
    let (far, dir) = (stead.dir("far"), stead.dir("mnt"));
    stead.mount(format!("ssh://box{}", far.display()), &dir, &[]);
    let key = std::fs::read_to_string(sshd.identity()).unwrap();
    let middle = key.lines().nth(2).unwrap();
    let status = stead.ok(&["status", "--json"]);
    assert!(!status.text().contains(middle));
    let found = Program::new("grep").args(["-rlF", middle]).arg(stead.home()).run();
    assert_eq!(found.text(), "");
}
