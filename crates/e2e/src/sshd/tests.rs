use super::*;
use crate::{DelayProxy, Finished};

fn ssh(sshd: &Sshd, alias: &str) -> Finished {
    Program::new("ssh")
        .arg("-F")
        .arg(sshd.client_config())
        .args(["-o", "BatchMode=yes", alias, "echo $XDG_CACHE_HOME"])
        .run()
}

#[test]
fn the_known_key_is_let_in_and_has_the_cache_of_the_fixture() {
    let sshd = Sshd::start_with(FarCache::Fresh, "");
    let done = ssh(&sshd, "box");
    assert_eq!(done.text().trim(), sshd.dir().join("cache").to_str().unwrap(), "{done}");
}

#[test]
fn a_key_or_a_host_that_is_not_known_is_refused() {
    let sshd = Sshd::start();
    let other = sshd.other_identity();
    sshd.add_host(
        "denied",
        sshd.port(),
        &[("IdentityFile", other.to_str().unwrap()), ("HostKeyAlias", "box")],
    );
    sshd.add_host("unknown", sshd.port(), &[("HostKeyAlias", "never-seen")]);
    for (alias, why) in [("denied", "Permission denied"), ("unknown", "Host key verification failed")] {
        let done = ssh(&sshd, alias);
        assert!(done.code() == 255 && done.errors().contains(why), "{done}");
    }
}

#[test]
fn a_machine_that_fell_over_comes_back_at_the_same_place() {
    let mut sshd = Sshd::start();
    sshd.kill_all();
    assert_eq!(ssh(&sshd, "box").code(), 255);
    sshd.revive();
    assert_eq!(ssh(&sshd, "box").code(), 0);
}

#[test]
fn a_machine_can_be_reached_through_a_proxy() {
    let sshd = Sshd::start();
    let rtt = Duration::from_millis(30);
    let proxy = DelayProxy::start(sshd.port(), rtt);
    sshd.add_host("far", proxy.port(), &[("HostKeyAlias", "box")]);
    let done = ssh(&sshd, "far");
    assert_eq!(done.code(), 0, "{done}");
    // Banners, key exchange, authentication and the command need at least a round trip each.
    assert!(done.took > 4 * rtt, "{:?}", done.took);
}
