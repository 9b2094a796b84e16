use serde_json::{Value, json};
use wire::api::event::{self, Topic};
use wire::api::file::{Content, Creation, Purpose};
use wire::api::machine::Reconnect;
use wire::api::mount::{Access, Backend, Force, SyncMode, Target};
use wire::api::process::{self, Outcome};
use wire::api::{Call, ClientNotification, ErrorKind, ErrorObject};

use crate::fake::{Fake, Peer, json, now};
use crate::output::Sink;

fn mount_value(id: &str, status: Value) -> Value {
    json!({
        "id": id, "source": "ssh://box/src", "dir": "/home/u/src", "backend": "fuse", "status": status,
        "worker": {"pid": 124, "restarts": 0}, "journal": {"operations": 0, "bytes": 0},
        "counters": {"requests": 9, "hits": 5, "round_trips": 4, "bytes_read": 1_500_000, "bytes_written": 12},
        "access": "read_write", "sync": "close",
    })
}

fn document(mounts: &[Value]) -> Value {
    let since = wire::api::time::Timestamp::from_unix(now().unix() - 200);
    json!({
        "daemon": {"pid": 1, "version": "0.1.0"},
        "machines": [{"machine": "ssh://box", "state": "connected", "agent": {"version": "0.1.0"}}],
        "connections": [
            {"id": "c1", "machine": "ssh://box", "state": "connected", "since": since, "pids": [123]},
        ],
        "mounts": mounts,
        "threads": [], "vms": [], "tunnels": [], "processes": [], "operations": [],
    })
}

#[test]
fn mount_asks_for_what_was_written_and_prints_where_it_is() {
    let fake = Fake::new(|_, _| Ok(mount_value("m1", json!({"state": "active"}))));
    let ran = fake.run(&[
        "mount",
        "box:src",
        "here",
        "--read-only",
        "--backend",
        "nfs",
        "--sync",
        "strict",
        "-o",
        "a=1,b",
        "--no-reconnect",
        "--heartbeat-interval",
        "250",
        "--max-heartbeat-failures",
        "7",
    ]);
    assert_eq!((ran.code, ran.out.as_str(), ran.err.as_str()), (0, "m1  /home/u/src\n", ""));
    let [Call::MountCreate(create)] = &fake.calls()[..] else {
        panic!("one request is expected");
    };
    assert_eq!(create.source.to_bytes(), b"ssh://box/~/src");
    assert_eq!(create.dir.as_ref().unwrap().as_bytes(), b"here");
    assert_eq!(
        (create.backend, create.access, create.sync),
        (Backend::Nfs, Access::ReadOnly, SyncMode::Strict)
    );
    assert_eq!(
        (create.reconnect, create.heartbeat_interval_ms, create.max_heartbeat_failures),
        (Reconnect::Never, Some(250), Some(7))
    );
    assert_eq!(create.options, [("a".into(), "1".into()), ("b".into(), String::new())].into());
    assert_eq!(create.caller.cwd.as_bytes(), b"/work");
}

#[test]
fn mount_in_the_foreground_goes_on_with_the_next_daemon_as_long_as_the_mount_is_there() {
    let mut daemons = 0;
    let fake = Fake::new(move |call, peer| {
        // Each daemon ends with its first answer, and the last one knows of no mount.
        peer.end_after_answer();
        daemons += 1;
        let mount = mount_value("m1", json!({"state": "active"}));
        match (call, daemons) {
            (Call::MountCreate(_), _) => Ok(mount),
            (_, 3) => Ok(json!({"mounts": [mount]})),
            _ => Ok(json!({"mounts": []})),
        }
    });
    let ran = fake.run(&["mount", "--foreground", "host:/srv"]);
    assert_eq!((ran.code, fake.calls().len()), (1, 1), "what has no state has been taken away: {ran:?}");
    std::fs::create_dir_all(fake.paths().mount_state_dir("m1".parse().unwrap())).unwrap();
    let ran = fake.run(&["mount", "--foreground", "host:/srv"]);
    assert_eq!((ran.code, fake.calls().len()), (1, 4), "{ran:?}");
    assert!(ran.err.contains("the daemon went away"), "{ran:?}");
}

#[test]
fn mount_prints_the_mount_for_programs() {
    let fake = Fake::new(|_, _| Ok(mount_value("m1", json!({"state": "active"}))));
    let ran = fake.run(&["mount", "host:/srv", "--json"]);
    let mount: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!((&mount["id"], &mount["status"]["state"]), (&json!("m1"), &json!("active")));
}

#[test]
fn unmount_says_what_could_not_be_saved() {
    let fake = Fake::new(|_, _| {
        Ok(json!({"mounts": [{"id": "m1", "dir": "/d", "kept_aside": ["/state/conflict\n1"]}]}))
    });
    let ran = fake.run(&["unmount", "--all", "--force"]);
    assert_eq!(ran.out, "m1  /d  unmounted\n    not saved on the machine, kept in /state/conflict\\x0a1\n");
    let [Call::MountRemove(remove)] = &fake.calls()[..] else {
        panic!("one request is expected");
    };
    assert_eq!((&remove.target, remove.force), (&Target::All, Force::Always));
}

#[test]
fn status_is_aligned_tables() {
    let failed = json!({"state": "failed", "reason": "five deaths\nin a row"});
    let mounts = [mount_value("m1", json!({"state": "active"})), mount_value("m20", failed)];
    let fake = Fake::new(move |_, _| Ok(document(&mounts)));
    let expected = "\
MACHINE    STATE      AGENT
ssh://box  connected  0.1.0

CONNECTION  MACHINE    STATE      SINCE      PROCESSES
c1          ssh://box  connected  3 min ago  123

MOUNT  SOURCE         DIRECTORY    BACKEND  STATE   UNSAVED     READ  WRITTEN
m1     ssh://box/src  /home/u/src  fuse     active        -  1.4 MiB     12 B
m20    ssh://box/src  /home/u/src  fuse     failed        -  1.4 MiB     12 B
m20 failed: five deaths in a row
m20 is over: /home/u/src is a plain directory until it is mounted again (stead unmount m20)
";
    assert_eq!(fake.run(&["status"]).out, expected);
    let coloured = fake.run_with(&["status", "--show", "mounts"], Sink::Colours).out;
    assert!(coloured.contains("\u{1b}[32mactive\u{1b}[0m"), "{coloured:?}");
    let plain = fake.run_with(&["status", "--show", "mounts"], Sink::Terminal).out;
    assert!(plain.starts_with("MOUNT ") && !plain.contains('\u{1b}'), "{plain:?}");
}

#[test]
fn who_looks_at_a_terminal_is_told_that_a_list_is_empty() {
    let fake = Fake::absent();
    for (command, nothing) in [("tunnel", "no tunnels"), ("operation", "nothing takes longer")] {
        let shown = fake.run_with(&[command, "list"], Sink::Terminal);
        assert!(shown.out.is_empty() && shown.err.starts_with(nothing), "{shown:?}");
        let piped = fake.run(&[command, "list"]);
        assert_eq!((piped.out.as_str(), piped.err.as_str()), ("", ""));
    }
}

#[test]
fn status_for_programs_has_what_was_asked_for() {
    let fake = Fake::new(|_, _| Ok(document(&[])));
    let keys = |arguments: &[&str]| {
        let ran = fake.run(arguments);
        let Value::Object(fields) = serde_json::from_str(&ran.out).unwrap() else {
            panic!("not an object: {}", ran.out);
        };
        fields.into_iter().map(|(key, _)| key).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(
        keys(&["status", "--json"]),
        "connections daemon machines mounts operations processes threads tunnels vms"
    );
    assert_eq!(keys(&["--json", "status", "--show", "mounts,vms"]), "daemon mounts vms");
}

#[test]
fn status_of_nothing_says_so() {
    let empty = json!({
        "daemon": {"pid": 1, "version": "0.1.0"}, "machines": [], "connections": [], "mounts": [],
        "threads": [], "vms": [], "tunnels": [], "processes": [], "operations": [],
    });
    let fake = Fake::new(move |_, _| Ok(empty.clone()));
    assert_eq!(fake.run(&["status"]).out, "nothing is mounted and nothing is connected\n");
    assert_eq!(fake.run(&["status", "--show", "vms"]).out, "no vms\n");
}

/// Starts a process that says something on both streams and ends so.
fn running(outcome: Outcome) -> Fake {
    Fake::new(move |_, peer| {
        let process = "p1".parse().unwrap();
        peer.say(process::Stdout { process, bytes: Content(b"to \xff out\n".to_vec()) });
        peer.say(process::Stderr { process, bytes: Content(b"to err\n".to_vec()) });
        peer.say(process::Exited { process, outcome: outcome.clone() });
        Ok(json(&process::Started { process, note: None }))
    })
}

#[test]
fn exec_ends_as_the_command_did() {
    let cases = [
        (Outcome::Exited { code: 0 }, 0),
        (Outcome::Exited { code: 42 }, 42),
        (Outcome::Signalled { signal: 9 }, 137),
        (Outcome::Lost { reason: "the link broke".into() }, 255),
    ];
    for (outcome, code) in cases {
        let fake = running(outcome);
        let ran = fake.run(&["exec", "box", "--cwd", "/srv", "--env", "A=b", "--", "ls", "-l", "--json"]);
        assert_eq!((ran.code, ran.out.as_str()), (code, "to \u{fffd} out\n"));
        assert!(ran.err.starts_with("to err\n"), "{}", ran.err);
        let [Call::ProcessRun(run)] = &fake.calls()[..] else {
            panic!("one request is expected");
        };
        let words: Vec<String> = run.command.iter().map(ToString::to_string).collect();
        assert_eq!(words, ["ls", "-l", "--json"]);
        assert_eq!(run.environment, [("A".into(), "b".into())]);
    }
}

#[test]
fn a_command_that_could_not_be_run_is_255() {
    let fake = Fake::new(|_, _| Err(ErrorObject::new(ErrorKind::NotFound, "there is no program `x`")));
    let ran = fake.run(&["exec", "box", "x"]);
    assert_eq!((ran.code, ran.err.as_str()), (255, "error: there is no program `x`\n"));
}

#[test]
fn what_a_command_prints_is_passed_on_for_programs_too() {
    let ran = running(Outcome::Exited { code: 3 }).run(&["exec", "--json", "box", "x"]);
    assert_eq!((ran.code, ran.out.as_str(), ran.err.as_str()), (3, "to \u{fffd} out\n", "to err\n"));
    let absent =
        || Fake::new(|_, _| Err(ErrorObject::new(ErrorKind::NotFound, "there is no program `ls -l`")));
    let ran = absent().run(&["exec", "--json", "box", "ls -l"]);
    let hint = "give each word by itself, or a line to a shell: stead exec box -- sh -c '...'";
    let error =
        json!({"error": {"code": "not_found", "message": "there is no program `ls -l`", "hint": hint}});
    assert_eq!((ran.code, serde_json::from_str::<Value>(&ran.out).unwrap()), (255, error));
    assert_eq!(absent().run(&["exec", "box", "ls", "-l"]).err, "error: there is no program `ls -l`\n");
    let detached = Fake::new(|_, _| Ok(json!({"process": "p1"})));
    assert_eq!(detached.run(&["exec", "--json", "--detach", "box", "x"]).out, "{\"process\":\"p1\"}\n");
}

#[test]
fn stat_for_programs_is_an_object_or_an_array_of_them() {
    let fake = Fake::new(|_, _| Ok(entry("f", "file", 6)));
    let mut one = entry("f", "file", 6);
    for (key, value) in [("source", json!("ssh://box/~/f")), ("device", json!(0)), ("birth", json!(0))] {
        one[key] = value;
    }
    let printed = |arguments: &[&str]| serde_json::from_str::<Value>(&fake.run(arguments).out).unwrap();
    assert_eq!(printed(&["stat", "--json", "box:f"]), one);
    assert_eq!(printed(&["stat", "--json", "box:f", "box:f"]), json!([one.clone(), one]));
}

#[test]
fn a_watch_leaves_out_copies_that_are_not_complete() {
    let mut asked = 0;
    let fake = Fake::new(move |call, _| match call {
        Call::FileWatch(_) => Ok(json!({"handle": "h1"})),
        Call::FileChanges(_) => {
            asked += 1;
            let change = |path: &str, event: &str| json!({"path": path, "event": event});
            let part = "in/.stead-0123456789abcdef.part";
            let changes = [
                change(part, "created"),
                change(part, "modified"),
                change(part, "removed"),
                change("in/file", "created"),
                change(".stead-mine.part", "created"),
            ];
            match asked {
                1 => Ok(json!({"changes": [], "rescan": false, "progress": "more"})),
                _ => Ok(json!({"changes": changes, "rescan": false, "progress": "end"})),
            }
        }
        other => panic!("unexpected: {other:?}"),
    });
    let ran = fake.run(&["watch", "host:/d"]);
    assert_eq!(ran.out, "watching\ncreated   /d/in/file\ncreated   /d/.stead-mine.part\n");
}

fn entry(name: &str, kind: &str, size: u64) -> Value {
    let time = json!({"seconds": 1_000_000_000, "nanoseconds": 5});
    json!({
        "name": name, "kind": kind, "mode": 0o644, "uid": 0, "gid": 1000, "size": size, "blocks": 8, "links": 1,
        "inode": 7, "modified": time, "changed": time, "accessed": time,
    })
}

#[test]
fn ls_sorts_hides_and_spares_the_terminal() {
    let fake = Fake::new(|call, _| match call {
        Call::FileStat(_) => Ok(entry("d", "directory", 0)),
        Call::FileOpenDirectory(_) => Ok(json!({"handle": "h1", "entry": entry("d", "directory", 0)})),
        Call::FileList(_) => Ok(json!({
            "entries": [entry("b\u{1b}[2J", "file", 12345), entry(".hidden", "file", 1), entry("a", "file", 5)],
            "progress": "end",
        })),
        Call::FileClose(_) => Ok(json!({})),
        other => panic!("unexpected: {other:?}"),
    });
    assert_eq!(fake.run(&["ls", "box:d"]).out, "a\nb\u{1b}[2J\n");
    assert_eq!(fake.run_with(&["ls", "-a", "box:d"], Sink::Terminal).out, ".hidden\na\nb\\x1b[2J\n");
    let long = "\
-rw-r--r--  1  0  1000      5  2001-09-09T01:46:40Z  a
-rw-r--r--  1  0  1000  12345  2001-09-09T01:46:40Z  b\\x1b[2J
";
    assert_eq!(fake.run_with(&["ls", "-l", "box:d"], Sink::Terminal).out, long);
}

#[test]
fn cat_prints_bytes_however_they_arrive() {
    let content: &[u8] = b"first \xff second, and more than its size said";
    let fake = Fake::new(move |call, _| match call {
        Call::FileOpen(_) => Ok(json!({"handle": "h1", "entry": entry("f", "file", 6)})),
        // A few bytes at a time, as from a pipe.
        Call::FileRead(read) => {
            let from = content.len().min(read.offset as usize);
            let to = content.len().min(from + 7);
            Ok(json(&wire::api::file::Chunk { content: Content(content[from..to].to_vec()) }))
        }
        Call::FileClose(_) => Ok(json!({})),
        other => panic!("unexpected: {other:?}"),
    });
    assert_eq!(fake.run(&["cat", "box:f"]).out, String::from_utf8_lossy(content));
    assert_eq!(fake.run(&["cat", "--json", "box:f"]).out, String::from_utf8_lossy(content));
}

#[test]
fn cp_to_a_machine_writes_beside_and_renames() {
    let scratch = tempfile::tempdir().unwrap();
    let from = scratch.path().join("from");
    std::fs::write(&from, vec![b'c'; 300_000]).unwrap();
    let fake = Fake::new(|call, _| match call {
        Call::FileStat(_) => Err(ErrorObject::new(ErrorKind::NotFound, "no such file")),
        Call::FileOpen(_) => Ok(json!({"handle": "h1", "entry": entry("f", "file", 0)})),
        Call::FileWrite(write) => Ok(json!({"bytes": write.content.0.len()})),
        Call::FileSetAttributes(_) => Ok(entry("f", "file", 7)),
        Call::FileClose(_) | Call::FileRename(_) => Ok(json!({})),
        other => panic!("unexpected: {other:?}"),
    });
    let ran = fake.run(&["cp", from.to_str().unwrap(), "box:to"]);
    assert_eq!((ran.code, ran.err.as_str()), (0, "copied 1 file (293 KiB)\n"));
    let calls = fake.calls();
    let purpose = calls.iter().find_map(|call| match call {
        Call::FileOpen(open) => Some(open.purpose),
        _ => None,
    });
    assert_eq!(purpose, Some(Purpose::Write { create: Creation::Truncate, mode: 0o600 }));
    let Some(Call::FileRename(rename)) = calls.last() else {
        panic!("the last word is the name: {calls:?}");
    };
    assert_eq!(rename.to.to_bytes(), b"ssh://box/~/to");
}

fn event(seq: u64, happened: Value) -> Value {
    let mut event = json!({"at": now(), "seq": seq});
    event.as_object_mut().unwrap().extend(happened.as_object().unwrap().clone());
    event
}

/// Says the events to whoever subscribes, and `missed` before the last one.
fn say_events(peer: &mut Peer, events: &[Value], missed: Option<u64>) -> Value {
    let subscription = "s1".parse().unwrap();
    for (index, event) in events.iter().enumerate() {
        if let Some(missed) = missed.filter(|_| index + 1 == events.len()) {
            peer.say(event::Missed { subscription, missed });
        }
        peer.say(event::Notice { subscription, event: serde_json::from_value(event.clone()).unwrap() });
    }
    json!({"subscription": subscription, "seq": 3})
}

fn some_events() -> [Value; 4] {
    let dir = "/home/u/src";
    [
        event(
            4,
            json!({"topic": "connection", "id": "c1", "machine": "ssh://box", "state": "reconnecting", "reason": "the master\nended"}),
        ),
        event(
            5,
            json!({"topic": "mount", "id": "m1", "dir": dir, "state": "kept_aside", "path": "/state/x"}),
        ),
        event(6, json!({"topic": "process", "id": "p1", "machine": "host", "state": "exited", "code": 3})),
        event(
            9,
            json!({"topic": "mount", "id": "m1", "dir": dir, "state": "failed", "reason": "five deaths"}),
        ),
    ]
}

#[test]
fn events_are_a_line_each_and_what_was_missed_is_said() {
    let fake = Fake::new(|_, peer| {
        peer.end_after_answer();
        Ok(say_events(peer, &some_events(), Some(2)))
    });
    let ran = fake.run(&["events", "--topic", "mount,process", "--topic", "connection"]);
    let expected = "\
2026-01-01T00:00:00Z  connection  c1  reconnecting  ssh://box: the master ended
2026-01-01T00:00:00Z  mount  m1  kept_aside  /home/u/src  /state/x
2026-01-01T00:00:00Z  process  p1  exited  host  with status 3
2 events were missed
2026-01-01T00:00:00Z  mount  m1  failed  /home/u/src: five deaths
";
    assert_eq!((ran.code, ran.out.as_str()), (1, expected));
    assert!(ran.err.starts_with("error: the daemon went away"), "{}", ran.err);
    let [Call::EventSubscribe(subscribe)] = &fake.calls()[..] else {
        panic!("one request is expected");
    };
    assert_eq!(subscribe.topics, [Topic::Mount, Topic::Process, Topic::Connection]);
}

#[test]
fn events_for_programs_are_the_events_themselves() {
    let fake = Fake::new(|_, peer| {
        peer.end_after_answer();
        Ok(say_events(peer, &some_events(), Some(2)))
    });
    let ran = fake.run(&["events", "--json"]);
    let lines: Vec<Value> = ran.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let [a, b, c, d] = some_events();
    assert_eq!(lines[..5], [a, b, c, json!({"missed": 2}), d]);
    assert!(matches!(&fake.calls()[..], [Call::EventSubscribe(subscribe)] if subscribe.topics.is_empty()));
}

#[test]
fn a_watched_status_is_shown_again_when_it_changes() {
    let mut looks = 0;
    let fake = Fake::new(move |_, peer| {
        looks += 1;
        if looks == 3 {
            peer.end_after_answer();
        }
        let state = if looks < 3 { "active" } else { "disconnected" };
        Ok(document(&[mount_value("m1", json!({"state": state}))]))
    });
    let ran = fake.run(&["status", "--watch", "--json", "--show", "mounts"]);
    let states: Vec<Value> = ran
        .out
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["mounts"][0]["status"]["state"].take())
        .take(2)
        .collect();
    assert_eq!(states, ["active", "disconnected"]);
    assert_eq!(ran.code, 1, "the daemon went away");
}

#[test]
fn status_says_what_stands_in_the_way_and_what_mends_it() {
    let fake = Fake::new(|_, _| {
        let mut mount = mount_value("m1", json!({"state": "reconnecting"}));
        let fields = mount.as_object_mut().unwrap();
        fields.insert("reason".into(), json!("no route"));
        fields.insert("health".into(), json!({"state": "failed", "why": "silence"}));
        fields.insert("crash".into(), json!({"message": "it panicked", "report": "/state/crash-1.txt"}));
        let mut document = document(&[mount]);
        document["connections"][0]["state"] = json!("reconnecting");
        document["connections"][0]["reason"] = json!("a password is needed");
        document["connections"][0]["hint"] = json!("stead reconnect ssh://box");
        Ok(document)
    });
    let out = fake.run(&["status"]).out;
    let remarks = "\
c1 is reconnecting: a password is needed (stead reconnect ssh://box)
m1 is reconnecting: no route
m1 does not answer: silence
m1 has lost a worker: it panicked (see /state/crash-1.txt)
";
    assert!(out.ends_with(remarks), "{out}");
}

#[test]
fn a_lost_worker_is_told_for_an_hour_or_while_the_mount_has_failed() {
    let out = |seconds_ago: u64, status: Value| {
        let at = wire::api::time::Timestamp::from_unix(now().unix() - seconds_ago);
        let mut mount = mount_value("m1", status);
        mount["crash"] = json!({"message": "it panicked", "report": "/state/crash-1.txt", "at": at});
        let fake = Fake::new(move |_, _| Ok(document(std::slice::from_ref(&mount))));
        fake.run(&["status", "--show", "mounts"]).out
    };
    let (active, failed) = (json!({"state": "active"}), json!({"state": "failed", "reason": "five deaths"}));
    let told = "m1 has lost a worker 59 min ago: it panicked (see /state/crash-1.txt)\n";
    assert!(out(3599, active.clone()).ends_with(told), "{}", out(3599, active));
    assert!(!out(3600, active.clone()).contains("lost a worker"));
    assert!(out(7200, failed).contains("m1 has lost a worker 2 h ago: "));
}

#[test]
fn threads_are_shown_with_their_repositories() {
    let thread = |name: &str, repo: &str| {
        json!({"name": name, "repo": repo, "base": "0123", "branch": "refs/heads/fix", "dir": format!("{repo}-{name}"),
               "state": "open", "changed": 3, "mount": "m1"})
    };
    let threads = json!({"threads": [thread("fix", "/home/u/app"), thread("try", "/home/u/lib")]});
    let fake = Fake::new(move |_, _| Ok(threads.clone()));
    let expected = "\
THREAD  STATE  CHANGED  REPOSITORY   DIRECTORY
fix     open         3  /home/u/app  /home/u/app-fix
try     open         3  /home/u/lib  /home/u/lib-try
";
    assert_eq!(fake.run(&["thread", "list"]).out, expected);
}

#[test]
fn a_usage_error_leads_to_the_help_of_its_command() {
    let fake = Fake::absent();
    let hint = |arguments: &[&str]| {
        let ran = fake.run(arguments);
        assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{arguments:?}");
        ran.err.lines().last().unwrap().to_owned()
    };
    assert_eq!(hint(&["daemon", "logs", "-n", "x"]), "hint: stead daemon logs --help");
    assert_eq!(hint(&["tunnel", "close", "web"]), "hint: stead tunnel close --help");
    assert_eq!(hint(&["unmount"]), "hint: stead unmount --help");
    assert_eq!(hint(&["nonsense", "status"]), "hint: stead --help");
}

/// What a terminal is told while a command that ends at once runs, after these events.
fn told_beside_a_command(events: Vec<Value>) -> String {
    let fake = Fake::new(move |call, peer| match call {
        Call::EventSubscribe(_) => Ok(say_events(peer, &events, None)),
        Call::ProcessRun(_) => {
            let process = "p1".parse().unwrap();
            peer.say(process::Exited { process, outcome: Outcome::Exited { code: 0 } });
            Ok(json(&process::Started { process, note: None }))
        }
        other => panic!("unexpected: {other:?}"),
    });
    let ran = fake.run_with(&["exec", "box", "true"], Sink::Terminal);
    assert_eq!((ran.code, ran.out.as_str()), (0, ""));
    ran.err
}

#[test]
fn a_running_command_tells_a_person_of_its_machine_and_of_mounts() {
    let connection = |seq, machine: &str, state: &str| {
        event(
            seq,
            json!({"topic": "connection", "id": format!("c{}", machine.len()), "machine": machine, "state": state, "reason": "no route"}),
        )
    };
    let mount =
        |seq, state: &str| event(seq, json!({"topic": "mount", "id": "m1", "dir": "/src", "state": state}));
    let told = told_beside_a_command(vec![
        // Nothing is wrong, and this is no news.
        connection(1, "ssh://box", "connecting"),
        connection(2, "ssh://box", "connected"),
        connection(3, "ssh://elsewhere", "reconnecting"),
        connection(4, "ssh://box", "reconnecting"),
        mount(5, "recovering"),
        mount(6, "active"),
        mount(7, "active"),
        connection(8, "ssh://box", "connected"),
    ]);
    let expected = "\
note: connection to ssh://box is reconnecting: no route
note: mount /src is recovering
note: mount /src is active
note: connection to ssh://box is connected: no route
";
    assert_eq!(told, expected);
}

#[test]
fn connect_carries_its_policy() {
    let fake = Fake::new(|_, _| {
        Ok(json!({"id": "c1", "machine": "ssh://box", "state": "connected", "since": now(), "pids": []}))
    });
    let ran = fake.run(&["connect", "box", "--no-reconnect", "--heartbeat-interval", "500"]);
    assert_eq!(ran.out, "c1  ssh://box  connected\n");
    let [Call::MachineConnect(connect)] = &fake.calls()[..] else {
        panic!("one request is expected");
    };
    assert_eq!((connect.heartbeat_interval_ms, connect.max_heartbeat_failures), (Some(500), None));
    assert_eq!(connect.reconnect, Reconnect::Never);
    assert_eq!(fake.run(&["connect", "box", "--heartbeat-interval", "99"]).code, 2);
}

#[test]
fn the_cache_is_shown_by_machine_and_cleared_by_machine() {
    let fake = Fake::new(|call, _| match call {
        Call::CacheShow(_) => {
            Ok(json!({"dir": "/h/cache", "limit": 4_u64 << 30, "bytes": 3 << 20, "machines": [
                {"machine": "ssh://a", "bytes": 1 << 20, "files": 1},
                {"machine": "ssh://u@box:2222", "bytes": 2 << 20, "files": 1234},
            ]}))
        }
        _ => Ok(json!({"bytes": 2 << 20, "files": 1234})),
    });
    let shown = "\
/h/cache  3.0 MiB of 4.0 GiB
MACHINE              SIZE  FILES
ssh://a           1.0 MiB      1
ssh://u@box:2222  2.0 MiB   1234
";
    assert_eq!(fake.run(&["cache", "show"]).out, shown);
    assert_eq!(fake.run(&["cache", "clear", "ssh://u@box:2222"]).out, "removed 2.0 MiB of 1234 files\n");
    assert_eq!(fake.run(&["cache", "clear"]).code, 0);
    assert_eq!(fake.run(&["cache", "clear", "ssh://box/path"]).code, 2);
    let cleared: Vec<_> = fake
        .calls()
        .into_iter()
        .filter_map(|call| match call {
            Call::CacheClear(clear) => Some(clear.machine.map(|machine| machine.to_string())),
            _ => None,
        })
        .collect();
    assert_eq!(cleared, [Some("ssh://u@box:2222".to_owned()), None]);
}

#[test]
fn reconnect_changes_only_what_was_said() {
    let fake = Fake::new(|_, _| {
        Ok(json!({"id": "c1", "machine": "ssh://box", "state": "connected", "since": now(), "pids": []}))
    });
    assert_eq!(fake.run(&["reconnect", "box"]).out, "c1  ssh://box  connected\n");
    assert_eq!(fake.run(&["reconnect", "box", "--max-heartbeat-failures", "0"]).code, 0);
    let said: Vec<_> = fake
        .calls()
        .into_iter()
        .map(|call| match call {
            Call::MachineReconnect(redial) => {
                (redial.reconnect, redial.heartbeat_interval_ms, redial.max_heartbeat_failures)
            }
            other => panic!("unexpected: {other:?}"),
        })
        .collect();
    assert_eq!(said, [(None, None, None), (None, None, Some(0))]);
}

#[test]
fn disconnect_says_what_went_with_it() {
    let fake = Fake::new(|_, _| {
        let mounts = json!([{"id": "m1", "dir": "/d", "kept_aside": ["/state/kept"]}]);
        Ok(json!({"machine": "ssh://box", "was": "reconnecting", "mounts": mounts}))
    });
    let ran = fake.run(&["disconnect", "box", "--force"]);
    let expected = "\
m1  /d  unmounted
    not saved on the machine, kept in /state/kept
ssh://box  disconnected (was reconnecting)
";
    assert_eq!(ran.out, expected);
    let gentle = fake.run(&["disconnect", "box", "--json"]);
    assert_eq!(serde_json::from_str::<Value>(&gentle.out).unwrap()["was"], "reconnecting");
    let forces: Vec<Force> = fake
        .calls()
        .into_iter()
        .map(|call| match call {
            Call::MachineDisconnect(disconnect) => disconnect.force,
            other => panic!("unexpected: {other:?}"),
        })
        .collect();
    assert_eq!(forces, [Force::Always, Force::Never]);
}

#[test]
fn the_log_of_a_mount_is_the_one_in_its_directory() {
    let fake = Fake::absent();
    let dir = fake.paths().mount_state_dir("m3".parse().unwrap());
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("worker.log"), "one\ntwo\n").unwrap();
    assert_eq!(fake.run(&["daemon", "logs", "--mount", "m3", "-n", "1"]).out, "two\n");
    let none = fake.run(&["daemon", "logs", "--mount", "m4"]);
    assert_eq!((none.code, none.out.as_str()), (3, ""));
    assert!(none.err.starts_with("error: there is no log of a mount m4\nhint: "), "{}", none.err);
}

#[test]
fn help_and_version_are_results() {
    let fake = Fake::absent();
    for arguments in [&["--help"][..], &["mount", "--help"], &["daemon", "logs", "-h"], &["--version"]] {
        let ran = fake.run(arguments);
        assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{arguments:?}");
        assert!(!ran.out.is_empty());
    }
    let nothing = fake.run(&[]);
    assert_eq!((nothing.code, nothing.out.as_str()), (2, ""));
    assert!(nothing.err.contains("Usage: stead"), "{}", nothing.err);
}

#[test]
fn notifications_for_nobody_are_ignored() {
    let fake = Fake::new(|_, peer| {
        let process = "p9".parse().unwrap();
        peer.say(process::Stdout { process, bytes: Content(b"not ours".to_vec()) });
        Ok(json!({"mounts": []}))
    });
    assert_eq!(fake.run(&["unmount", "--all"]).out, "nothing is mounted\n");
}

#[test]
fn a_prompt_without_a_terminal_is_declined() {
    let fake = Fake::new(|_, peer| {
        peer.say(wire::api::prompt::Ask {
            prompt: "q1".parse().unwrap(),
            kind: wire::api::prompt::PromptKind::Secret,
            text: "password: ".into(),
        });
        match peer.hear() {
            ClientNotification::PromptAnswer(answer) if answer.answer.is_none() => {
                Err(ErrorObject::new(ErrorKind::Refused, "nobody answered"))
            }
            other => panic!("unexpected: {other:?}"),
        }
    });
    assert_eq!(fake.run(&["connect", "box"]).code, 4);
}
