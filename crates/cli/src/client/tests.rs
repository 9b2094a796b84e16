use serde_json::json;
use wire::api::{Call, ErrorKind};

use crate::fake::{Fake, Ran, failure};

fn failed(code: u8, err: &str) -> Ran {
    Ran { code, out: String::new(), err: err.to_owned() }
}

#[test]
fn a_failure_is_one_line_a_hint_and_an_exit_code() {
    for kind in ErrorKind::ALL {
        let fake = Fake::new(move |_, _| failure(kind, "it does not\nwork\u{1b}[2J", "do that"));
        let err = "error: it does not work\\u{1b}[2J\nhint: do that\n";
        assert_eq!(fake.run(&["status"]), failed(kind.exit_code(), err));
    }
}

#[test]
fn a_failure_is_one_document_for_programs() {
    let fake = Fake::new(|_, _| failure(ErrorKind::NotFound, "there is no mount `m9`", "stead status"));
    let ran = fake.run(&["unmount", "m9", "--json"]);
    let out = r#"{"error":{"code":"not_found","message":"there is no mount `m9`","hint":"stead status"}}"#;
    assert_eq!(ran, Ran { code: 3, out: format!("{out}\n"), err: String::new() });
}

#[test]
fn a_daemon_that_goes_away_is_named() {
    let fake = Fake::new(|_, peer| {
        peer.end();
        Ok(json!(null))
    });
    let ran = fake.run(&["status"]);
    assert_eq!(ran.code, 1);
    assert_eq!(ran.err, "error: the daemon went away: it closed the connection\nhint: stead daemon logs\n");
}

#[test]
fn an_answer_of_another_shape_is_a_failure() {
    let fake = Fake::new(|_, _| Ok(json!({"mounts": 5})));
    let ran = fake.run(&["status"]);
    assert_eq!(ran.code, 1);
    assert!(ran.err.starts_with("error: the daemon's answer to status.get is not one: "), "{}", ran.err);
}

#[test]
fn a_daemon_of_another_version_is_refused_with_the_way_out() {
    let fake = Fake::with_greeting(
        |_| failure(ErrorKind::Conflict, "the daemon is stead 9.0", "stead daemon restart"),
        |_, _| Ok(json!(null)),
    );
    let ran = fake.run(&["status"]);
    assert_eq!(ran, failed(5, "error: the daemon is stead 9.0\nhint: stead daemon restart\n"));
    assert_eq!(fake.calls(), [], "nothing may be asked of it");
}

#[test]
fn a_daemon_of_another_version_can_still_be_asked_to_stop() {
    let fake = Fake::with_greeting(
        |_| failure(ErrorKind::Conflict, "the daemon is stead 9.0", "stead daemon restart"),
        |_, _| failure(ErrorKind::Conflict, "m1 is in use", "stead daemon stop --force"),
    );
    let ran = fake.run(&["daemon", "stop"]);
    assert_eq!(ran.err, "error: m1 is in use\nhint: stead daemon stop --force\n");
    assert!(matches!(fake.calls()[..], [Call::DaemonStop(_)]));
}

#[test]
fn a_daemon_that_cannot_be_started_is_a_failure_with_its_reason() {
    let ran = Fake::absent().run(&["status"]);
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("could not start `/nonexistent/stead daemon run`: No such file"), "{}", ran.err);
}

#[test]
fn a_command_about_the_daemon_alone_does_not_start_it() {
    let fake = Fake::absent();
    assert_eq!(fake.run(&["daemon", "stop"]).out, "the daemon does not run\n");
    let status = fake.run(&["daemon", "status", "--json"]);
    assert_eq!((status.code, status.out.as_str()), (3, "{\"running\":false}\n"));
    assert_eq!(fake.run(&["version"]).code, 0);
    assert!(!fake.paths().runtime_dir().exists());
}

#[test]
fn a_usage_error_is_one_line_with_a_way_on() {
    let fake = Fake::absent();
    let cases: &[(&[&str], &str)] = &[
        (
            &["mount"],
            "error: the following required arguments were not provided: <SOURCE>\nhint: stead mount --help\n",
        ),
        (&["mnt"], "error: unrecognized subcommand `mnt`\nhint: stead --help\n"),
        (
            &["mount", "host:/", "--sinc", "x"],
            "error: unexpected argument `--sinc` found\nhint: a similar argument exists: `--sync`\n",
        ),
        (
            &["mount", "http://x/", "d"],
            "error: there are no `http://` machines; there are host, ssh://, docker:// and vm://\n",
        ),
    ];
    for (arguments, err) in cases {
        assert_eq!(fake.run(arguments), failed(2, err));
    }
}
