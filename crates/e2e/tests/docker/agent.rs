//! The agent's program in a container: where it may lie, and when it is run.

use e2e::{Engine, Stead, eventually};

use super::{DEADLINE, is_possible};

/// The agent's path, as the agent itself says it.
fn agent_of(stead: &Stead, machine: &str) -> String {
    let report = stead.json(&["doctor", machine]);
    let checks = report["checks"].as_array().unwrap();
    let agent = checks.iter().find(|check| check["name"] == "agent").unwrap_or_else(|| panic!("{report}"));
    let detail = agent["detail"].as_str().unwrap();
    detail.split('`').nth(1).unwrap_or_else(|| panic!("no path in {detail}")).to_owned()
}

fn who(stead: &Stead, machine: &str) -> String {
    stead.ok(&["exec", machine, "--", "id", "-u"]).text().trim().to_owned()
}

#[test]
fn the_agent_is_placed_once_and_run_only_as_it_was_left() {
    if !is_possible() {
        return;
    }
    let engine = Engine::start();
    engine.run("web", &[]);
    let stead = engine.stead();
    let path = agent_of(&stead, "docker://web");
    assert!(path.starts_with("/.stead/") && path.ends_with("/stead-agent"), "{path}");
    let shell = |script: &str| engine.docker(&["exec", "web", "sh", "-c", script]);
    let placed = || shell(&format!("stat -c '%i %u %a %s' {path}"));
    let first = placed();
    let leave = || {
        stead.ok(&["disconnect", "docker://web"]);
        eventually(DEADLINE, "the agent has ended", || engine.programs_in("web").is_empty());
    };
    let again = || {
        // Otherwise it would be closed when nobody has needed it for a while.
        stead.ok(&["connect", "docker://web"]);
        assert_eq!(agent_of(&stead, "docker://web"), path);
        assert_eq!(shell(&format!("stat -c '%u %a' {path}")), "0 755");
    };
    again();
    leave();
    again();
    assert_eq!(placed(), first, "it is placed once");
    let directory = path.rsplit_once('/').unwrap().0;
    for damage in [
        format!("echo x > {path}.new && mv {path}.new {path} && chmod 755 {path}"),
        format!("chmod 777 {path}"),
        format!("chown {} {path}", e2e::engine::ANN),
        format!("chmod 777 {directory}"),
        format!("chown {} /.stead", e2e::engine::ANN),
        format!("rm {path}"),
    ] {
        leave();
        shell(&damage);
        again();
        assert_eq!(shell(&format!("stat -c '%u %a' {directory} /.stead")), "0 755\n0 755", "after {damage}");
    }
    // Where somebody else could put another directory in its place, it is not run at all.
    leave();
    shell("chmod 777 /");
    let refused = stead.run(&["connect", "docker://web"]);
    assert_eq!(refused.code(), 4, "{refused}");
    assert!(refused.errors().contains("others than root could change it"), "{refused}");
}

#[test]
fn containers_of_all_sorts_take_the_agent() {
    if !is_possible() {
        return;
    }
    let engine = Engine::start();
    let stead = engine.stead();

    // Another user.
    engine.run("user", &["--user", "ann"]);
    assert_eq!(who(&stead, "docker://user"), e2e::engine::ANN.to_string());
    assert_eq!(stead.ok(&["ls", "docker://user/etc"]).code(), 0);

    // Without a shell.
    engine.run("bare", &[]);
    engine.docker(&["exec", "bare", "rm", "/bin/sh"]);
    assert!(stead.ok(&["ls", "docker://bare/etc"]).text().contains("passwd"));
    assert_eq!(stead.ok(&["exec", "docker://bare", "--", "/bin/echo", "here"]).text(), "here\n");

    // A read-only root, with and without a place from which programs may run.
    engine.run("fixed", &["--read-only", "--tmpfs", "/run:exec"]);
    let path = agent_of(&stead, "docker://fixed");
    assert!(path.starts_with("/run/.stead-"), "{path}");
    assert_eq!(who(&stead, "docker://fixed"), "0");
    for (name, args) in [("none", &["--read-only"][..]), ("noexec", &["--read-only", "--tmpfs", "/run"])] {
        engine.run(name, args);
        let refused = stead.run(&["connect", &format!("docker://{name}")]);
        assert_eq!(refused.code(), 4, "{refused}");
        assert!(refused.errors().contains("read-only") && refused.errors().contains("--tmpfs"), "{refused}");
    }
}
