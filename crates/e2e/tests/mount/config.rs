//! What the user's configuration says, and what goes before it.

use std::fs;
use std::path::PathBuf;

use e2e::Stead;
use serde_json::Value;

/// Writes the configuration of this installation.
fn configure(stead: &mut Stead, text: &str) -> PathBuf {
    let home = stead.dir("config");
    let path = home.join("stead/config.toml");
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, text).unwrap();
    stead.set_env("XDG_CONFIG_HOME", home);
    path
}

/// A setting as `doctor` shows it: what it is, and where it comes from.
fn setting(stead: &Stead, name: &str) -> (String, String) {
    let document = stead.json(&["doctor"]);
    let values = document["values"].as_array().unwrap();
    let value = values.iter().find(|value| value["name"] == name).unwrap_or_else(|| panic!("{document}"));
    let text = |field: &Value| field.as_str().unwrap_or_else(|| panic!("{value}")).to_owned();
    (text(&value["value"]), text(&value["from"]))
}

#[test]
fn the_configuration_holds_where_nothing_else_is_said() {
    let mut stead = Stead::new();
    let far = stead.dir("far");
    let source = format!("host:{}", far.display());
    configure(&mut stead, "log = 'debug'\n[mount]\nsync = 'async'\noptions = ['offline-timeout=soon']\n");
    assert_eq!(setting(&stead, "mount sync"), ("async".into(), "config".into()));
    assert_eq!(setting(&stead, "mount backend").1, "default");
    assert_eq!(setting(&stead, "log filter"), ("debug".into(), "config".into()));

    let dir = stead.dir("refused");
    let refused = stead.run(&["mount", &source, dir.to_str().unwrap()]);
    assert_eq!(refused.code(), 2, "{refused}");
    assert!(refused.errors().contains("offline-timeout"), "{refused}");
    let option = ["-o", "offline-timeout=9"];
    let configured = stead.mount(&source, &stead.dir("one"), &option);
    assert_eq!(configured.json["sync"], "async", "{}", configured.json);
    let given = stead.mount(&source, &stead.dir("two"), &[&option[..], &["--sync", "strict"]].concat());
    assert_eq!(given.json["sync"], "strict", "{}", given.json);

    let log = || fs::read_to_string(stead.home().join("daemon.log")).unwrap();
    assert!(log().contains("DEBUG"), "the daemon has it, too: {}", log());
}

#[test]
fn the_environment_goes_before_the_configuration() {
    let mut stead = Stead::new();
    configure(&mut stead, "log = 'trace'\n");
    stead.set_env("STEAD_LOG", "warn");
    assert_eq!(setting(&stead, "log filter"), ("warn".into(), "STEAD_LOG".into()));
    stead.ok(&["daemon", "start"]);
    let log = fs::read_to_string(stead.home().join("daemon.log")).unwrap();
    assert!(!log.contains("INFO") && !log.contains("TRACE"), "{log}");
}

#[test]
fn a_configuration_that_says_what_is_not_known_is_refused_with_its_line() {
    let mut stead = Stead::new();
    let source = format!("host:{}", stead.dir("far").display());
    let mnt = stead.dir("mnt");
    let path = configure(&mut stead, "[mount]\nsink = 'async'\n");
    for command in [&["mount", &source, mnt.to_str().unwrap()][..], &["status"], &["daemon", "start"]] {
        let refused = stead.run(command);
        assert_eq!(refused.code(), 2, "{refused}");
        let says = [path.to_str().unwrap(), "line 2", "`sink`"];
        assert!(says.iter().all(|part| refused.errors().contains(part)), "{refused}");
    }
    assert!(stead.left_behind().is_empty(), "{:?}", stead.left_behind());
    let document = stead.json(&["doctor"]);
    let checks = document["checks"].as_array().unwrap();
    let check = checks.iter().find(|check| check["name"] == "config").unwrap();
    assert_eq!(check["verdict"], "broken", "{check}");
    fs::write(&path, "").unwrap();
    stead.ok(&["status"]);
}

#[test]
fn a_log_filter_that_cannot_be_read_is_refused() {
    let mut stead = Stead::new();
    let path = configure(&mut stead, "log = 'verbose'\n");
    for command in [&["status"][..], &["daemon", "start"]] {
        let refused = stead.run(command);
        assert_eq!(refused.code(), 2, "{refused}");
        let says = ["`verbose`", "hint: set STEAD_LOG, or `log` in the configuration"];
        assert!(says.iter().all(|part| refused.errors().contains(part)), "{refused}");
    }
    fs::write(&path, "lag = 'info'\n").unwrap();
    let refused = stead.run(&["status"]);
    assert!(refused.errors().contains("hint: did you mean `log`?"), "{refused}");
    fs::write(&path, "").unwrap();
    stead.ok(&["status"]);
    // A daemon that runs is not ended for one that could not begin.
    let daemon = || stead.json(&["daemon", "status"])["pid"].clone();
    let first = daemon();
    fs::write(&path, "log = 'verbose'\n").unwrap();
    let refused = stead.run(&["daemon", "restart"]);
    assert!(refused.code() == 2 && refused.errors().contains("`verbose`"), "{refused}");
    assert_eq!(daemon(), first);
    fs::write(&path, "log = 'debug'\n").unwrap();
    stead.ok(&["daemon", "restart"]);
    assert_ne!(daemon(), first);
}
