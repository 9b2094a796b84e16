//! Processes that belong to nobody.

use std::io::Write;
use std::process::Stdio;
use std::time::Duration;

use e2e::{Far, Sshd, Stead, eventually};

use super::SOON;

fn detach(stead: &Stead, machine: &str, script: &str) -> String {
    let id = stead.ok(&["exec", machine, "--detach", "--", "sh", "-c", script]).text().trim().to_owned();
    assert!(id.starts_with('p'), "{id}");
    id
}

fn state(stead: &Stead, id: &str) -> serde_json::Value {
    let listed = stead.json(&["ps"]);
    let processes = listed["processes"].as_array().expect("a list").clone();
    processes.into_iter().find(|process| process["id"] == id).unwrap_or_default()
}

#[test]
fn a_detached_process_outlives_the_command_the_connection_and_the_daemon() {
    let sshd = Sshd::start();
    let stead = Stead::with_ssh(&sshd);
    for machine in ["host", "ssh://box"] {
        let go = stead.root().join(format!("go-{}", machine.len()));
        let script =
            format!("echo first; while ! test -e {}; do sleep 0.05; done; echo last; exit 5", go.display());
        let id = detach(&stead, machine, &script);
        assert_eq!(state(&stead, &id)["state"], "running");
        stead.ok(&["disconnect", machine]);
        stead.ok(&["daemon", "restart"]);
        let listed = state(&stead, &id);
        assert_eq!((&listed["state"], &listed["detached"]), (&"running".into(), &true.into()), "{listed}");
        std::fs::write(&go, "").unwrap();
        let attached = stead.run(&["attach", &id]);
        assert_eq!((attached.code(), attached.text().as_str()), (5, "first\nlast\n"), "{attached}");
        eventually(SOON, "its end has been seen", || state(&stead, &id).is_null());
    }
}

#[test]
fn a_process_is_killed_by_its_id() {
    let stead = Stead::new();
    let id = detach(&stead, "host", "sleep 600");
    stead.ok(&["kill", &id, "--signal", "INT"]);
    eventually(SOON, "it has ended", || state(&stead, &id)["state"] == "exited");
    assert_eq!(state(&stead, &id)["code"], 130);
    let ended = stead.run(&["kill", &id]);
    assert_eq!(ended.code(), 3, "{ended}");
    assert_eq!(stead.run(&["kill", "p999"]).code(), 3);
    let text = stead.ok(&["ps", "host"]).text();
    assert!(text.contains("exited") && text.contains("sleep 600"), "{text}");
    assert_eq!(stead.run(&["attach", &id]).code(), 130);
    assert_eq!(stead.run(&["attach", &id]).code(), 255);
}

#[test]
fn what_nobody_reads_is_dropped_from_its_beginning_and_said_so() {
    let far = Far::new();
    let id = detach(&far.stead, "box", "seq 1 400000; echo end");
    eventually(SOON, "it has not waited for a reader", || far.process(&id, "state") == "exited");
    let attached = far.stead.run(&["attach", &id]);
    assert_eq!(attached.code(), 0, "{}", attached.errors());
    let said = attached.errors();
    let dropped: usize = said
        .split_whitespace()
        .find_map(|word| word.parse().ok())
        .unwrap_or_else(|| panic!("nothing is said of what was dropped: {said}"));
    let whole: String = (1..=400_000).map(|number| format!("{number}\n")).collect::<String>() + "end\n";
    assert_eq!(dropped + attached.stdout.len(), whole.len());
    assert!(attached.text() == whole[dropped..], "what is kept is the end");
    assert!(attached.stdout.len() <= 1 << 20);
}

#[test]
fn who_attaches_has_the_process_alone_and_all_he_types_reaches_it() {
    let far = Far::new();
    let typed = far.stead.root().join("typed");
    let id = detach(&far.stead, "box", &format!("echo shown; exec cat > {}", typed.display()));
    let attach = || {
        let mut attach = far.command(&["attach", &id]);
        attach.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let has = |text: &str| std::fs::read(&typed).is_ok_and(|typed| typed == text.as_bytes());
    let mut first = attach();
    first.stdin.as_mut().unwrap().write_all(b"first\n").unwrap();
    eventually(SOON, "what the first types is there", || has("first\n"));
    let mut second = attach();
    second.stdin.as_mut().unwrap().write_all(b"second\n").unwrap();
    let ended = first.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.code() == Some(255) && said.contains("somebody else has attached to it"), "{said}");
    eventually(SOON, "what the second types is there", || has("first\nsecond\n"));
    far.stead.ok(&["kill", &id]);
    let ended = second.wait_with_output().unwrap();
    assert_eq!((ended.status.code(), ended.stdout.as_slice()), (Some(143), &b"shown\n"[..]));
}

#[test]
fn a_detached_process_is_known_although_the_command_that_started_it_was_killed() {
    let far = Far::new();
    let started = far.stead.root().join("started");
    far.stead.ok(&["exec", "box", "--", "true"]);
    far.proxy.set_rtt(Duration::from_secs(2));
    let script = format!(": > {}; exec sleep 600", started.display());
    let mut detaching = far.command(&["exec", "box", "--detach", "--", "sh", "-c", &script]);
    let mut detaching = detaching.stdout(Stdio::piped()).spawn().unwrap();
    eventually(SOON, "it runs", || started.exists());
    // That it runs is still on its way here.
    detaching.kill().unwrap();
    assert!(detaching.wait_with_output().unwrap().stdout.is_empty());
    far.proxy.set_rtt(Duration::ZERO);
    let listed = || far.stead.json(&["ps"])["processes"].as_array().unwrap().clone();
    eventually(SOON, "it is known", || listed().iter().any(|process| process["detached"] == true));
    let id = listed()[0]["id"].as_str().unwrap().to_owned();
    far.stead.ok(&["kill", &id]);
    assert_eq!(far.stead.run(&["attach", &id]).code(), 143);
}
