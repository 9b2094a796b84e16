//! Containers that stop, are started again, and go.

use std::fs;

use e2e::{Engine, Stead, eventually};

use super::{DEADLINE, is_possible};

fn state_of(stead: &Stead) -> String {
    let status = stead.status();
    status["connections"][0]["state"].as_str().unwrap_or("none").to_owned()
}

fn reason_of(stead: &Stead) -> String {
    let status = stead.status();
    status["connections"][0]["reason"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn a_container_that_is_started_again_is_reached_again_and_one_that_is_removed_is_given_up() {
    if !is_possible() {
        return;
    }
    goes_on_and_is_given_up(&Engine::start());
}

#[test]
fn a_container_of_podman_is_reached_again_and_given_up_like_one_of_docker() {
    if is_possible() {
        goes_on_and_is_given_up(&Engine::podman());
    }
}

fn goes_on_and_is_given_up(engine: &Engine) {
    let far = engine.dir().join("far");
    fs::create_dir(&far).unwrap();
    engine.run("web", &["--volume", &format!("{0}:{0}", far.display())]);
    let stead = engine.stead();
    let dir = stead.dir("mnt");
    let mount = stead.mount(format!("docker://web{}", far.display()), &dir, &[]);
    stead.ok(&["connect", "docker://web"]);

    engine.docker(&["kill", "web"]);
    eventually(DEADLINE, "the end of the container is seen", || state_of(&stead) == "reconnecting");
    eventually(DEADLINE, "why is said", || reason_of(&stead).contains("is not running"));
    engine.docker(&["start", "web"]);
    eventually(DEADLINE, "the container is reached again", || state_of(&stead) == "connected");
    eventually(DEADLINE, "the mount goes on", || {
        stead.mount_status(&mount.id).is_some_and(|is| is["status"]["state"] == "active")
    });
    fs::write(dir.join("after"), "x").unwrap();
    assert!(far.join("after").exists());

    engine.docker(&["restart", "--time", "0", "web"]);
    eventually(DEADLINE, "a command runs in the container", || {
        stead.run(&["exec", "docker://web", "--", "echo", "again"]).text() == "again\n"
    });

    engine.docker(&["rm", "--force", "web"]);
    eventually(DEADLINE, "the connection is given up", || state_of(&stead) == "disconnected");
    assert!(reason_of(&stead).contains("no container `web`"), "{}", reason_of(&stead));
    eventually(DEADLINE, "the mount says so", || {
        stead.mount_status(&mount.id).is_some_and(|is| is["status"]["state"] == "disconnected")
    });
    stead.ok(&["unmount", "--force", &mount.id]);
}

#[test]
fn a_name_is_a_container_of_one_engine_at_a_time() {
    if !is_possible() {
        return;
    }
    let (one, other) = (Engine::start(), Engine::start());
    for (engine, word) in [(&one, "one"), (&other, "other")] {
        engine.run("web", &[]);
        engine.docker(&["exec", "web", "sh", "-c", &format!("echo {word} > /tmp/who")]);
    }
    let stead = one.stead();
    let who = |engine: &Engine| {
        let program = stead.program().env("DOCKER_HOST", engine.host());
        program.args(["exec", "docker://web", "--", "cat", "/tmp/who"]).run()
    };
    // Otherwise it would be closed when nobody has needed it for a while.
    stead.ok(&["connect", "docker://web"]);
    assert_eq!(who(&one).text(), "one\n");
    let refused = who(&other);
    assert_eq!(refused.code(), 255, "{refused}");
    assert!(refused.errors().contains("stead disconnect docker://web"), "{refused}");
    stead.ok(&["disconnect", "docker://web"]);
    assert_eq!(who(&other).text(), "other\n");

    // As docker itself finds it: by a context.
    let ended = stead.run(&["disconnect", "docker://web"]);
    assert!([0, 3].contains(&ended.code()), "{ended}");
    let config = one.dir().join("config");
    let endpoint = format!("host={}", one.host());
    one.client().without_env("DOCKER_HOST").args(["context", "create", "near", "--docker", &endpoint]).ok();
    let program = stead.program().env("DOCKER_HOST", "").env("DOCKER_CONFIG", &config);
    let named = program.env("DOCKER_CONTEXT", "near").args(["exec", "docker://web", "--", "cat", "/tmp/who"]);
    assert_eq!(named.ok().text(), "one\n");
}
