//! What stands in the way is one clear line, with its exit code.

use std::os::unix::fs::PermissionsExt;

use e2e::stead::{NOBODY, open_to_all};
use e2e::{Engine, Finished, Stead};

use super::is_possible;

#[track_caller]
fn assert_refused(done: &Finished, code: i32, words: &[&str]) {
    assert_eq!(done.code(), code, "{done}");
    let errors = done.errors();
    assert!(errors.starts_with("error: ") && errors.lines().count() <= 2, "{done}");
    words.iter().for_each(|word| assert!(errors.contains(word), "{word}: {done}"));
}

#[test]
fn without_an_engine_it_is_said_where_one_was_looked_for() {
    let mut stead = Stead::new();
    let nowhere = stead.root().join("nowhere.sock");
    let host = format!("unix://{}", nowhere.display());
    for (host, code, words) in [
        (host.as_str(), 6, &["no container engine answers at", "hint: "][..]),
        ("tcp://127.0.0.1:1", 6, &["no container engine answers at tcp://127.0.0.1:1"]),
        ("ssh://me:s3cret@box", 2, &["DOCKER_HOST names an engine behind ssh", "hint: "]),
        ("tcp://me:s3cret@box:2375", 2, &["DOCKER_HOST has a user name"]),
        ("https://s3cret.example", 2, &["DOCKER_HOST wants TLS"]),
        ("nonsense", 2, &["DOCKER_HOST is not a URL"]),
    ] {
        stead.set_env("DOCKER_HOST", host);
        let done = stead.run(&["ls", "docker://web/"]);
        assert_refused(&done, code, words);
        assert!(!done.errors().contains("s3cret"), "{done}");
    }
    let logs = std::process::Command::new("grep").args(["-r", "s3cret"]).arg(stead.home()).output().unwrap();
    assert!(logs.stdout.is_empty(), "{logs:?}");
}

#[test]
fn containers_that_cannot_be_reached_are_refused_with_the_reason() {
    if !is_possible() {
        return;
    }
    let engine = Engine::start();
    let stead = engine.stead();
    let ls = |name: &str| stead.run(&["ls", &format!("docker://{name}/")]);
    assert_refused(&ls("absent"), 3, &["there is no container `absent`", "hint: docker ps"]);
    engine.run("web", &[]);
    engine.docker(&["pause", "web"]);
    assert_refused(&ls("web"), 6, &["the container `web` is paused", "hint: docker unpause web"]);
    engine.docker(&["unpause", "web"]);
    engine.docker(&["kill", "web"]);
    assert_refused(
        &ls("web"),
        6,
        &["`web` is not running: it exited with status 137", "hint: docker start web"],
    );
    engine.claim_architecture("foreign", "riscv64");
    engine.docker(&["run", "-d", "--network", "none", "--name", "foreign", "foreign", "/bin/sleep", "600"]);
    assert_refused(&ls("foreign"), 4, &["made for riscv64", "there are agents for Linux on"]);

    // A user who may not use the engine.
    std::fs::set_permissions(engine.socket(), std::fs::Permissions::from_mode(0o600)).unwrap();
    let mut plain = Stead::of_user(NOBODY);
    open_to_all(plain.root());
    plain.set_env("DOCKER_HOST", engine.host());
    assert_refused(&plain.run(&["ls", "docker://web/"]), 4, &["permission denied", "hint: "]);
}
