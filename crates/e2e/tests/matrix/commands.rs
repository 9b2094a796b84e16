//! Commands.

use e2e::eventually;
use e2e::guest::GUEST_DEADLINE;

use super::DEADLINE;
use super::field::Field;
use crate::on_every_machine;

/// What `stead ps` says of a process; null when it is not known.
fn process(field: &Field, id: &str) -> serde_json::Value {
    let listed = field.stead.json(&["ps"]);
    let processes = listed["processes"].as_array().unwrap().clone();
    processes.into_iter().find(|process| process["id"] == id).unwrap_or_default()
}

on_every_machine! {
    fn a_command_has_what_it_is_given_and_gives_what_it_says(field) {
        let far = field.far.to_str().unwrap();
        let exec = |args: &[&str], input: &[u8]| {
            let program = field.stead.program().args(["exec", field.machine]).args(args);
            program.input(input).deadline(GUEST_DEADLINE).run()
        };
        let done = exec(&["--", "sh", "-c", "cat; echo out; echo err >&2; exit 7"], b"in\n");
        let expected = (7, "in\nout\n".to_owned(), "err\n".to_owned());
        assert_eq!((done.code(), done.text(), done.errors()), expected);
        assert_eq!(exec(&["--", "sh", "-c", "kill -9 $$"], b"").code(), 137);
        let unknown = exec(&["--", "no-such-program"], b"");
        assert!(unknown.code() == 255 && unknown.errors().contains("no-such-program"), "{unknown}");
        let nowhere = exec(&["--cwd", "/no/such", "--", "pwd"], b"");
        assert!(nowhere.code() == 255 && nowhere.errors().contains("/no/such"), "{nowhere}");
        let here = exec(&["--cwd", far, "--env", "X=y z", "--", "sh", "-c", "pwd; echo \"$X\""], b"");
        assert_eq!(here.text(), format!("{far}\ny z\n"), "{here}");

        // Every byte, both ways, and more of them than fit into anything on the way.
        let bytes: Vec<u8> = (0..2_000_000_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        assert!(exec(&["--", "cat"], &bytes).stdout == bytes, "what came back is something else");
        let few = exec(&["--", "head", "-c", "3"], &bytes);
        assert_eq!((few.code(), &few.stdout[..]), (0, &bytes[..3]), "{few}");

        // A terminal, of which the error output is a part.
        let script = "test -t 0 && test -t 1 && test -t 2 && echo shown >&2";
        let shown = exec(&["-t", "--", "sh", "-c", script], b"");
        assert_eq!((shown.code(), shown.text(), shown.errors()), (0, "shown\r\n".to_owned(), String::new()));

        // What was written through a mount is there before the command.
        let (_mount, dir) = field.mount("mnt", &["--sync", "async"]);
        std::fs::write(dir.join("written"), "before").unwrap();
        assert_eq!(exec(&["--cwd", far, "--", "cat", "written"], b"").text(), "before");
    }

    fn a_detached_command_goes_on_is_attached_to_and_killed(field) {
        let stead = &field.stead;
        let far = field.far.to_str().unwrap();
        let detach = |script: &str| {
            let done = stead.ok(&["exec", field.machine, "--detach", "--cwd", far, "--", "sh", "-c", script]);
            done.text().trim().to_owned()
        };
        let id = detach("echo first; while ! test -e go; do sleep 0.05; done; echo last; exit 5");
        assert_eq!(process(field, &id)["state"], "running");
        stead.ok(&["disconnect", field.machine]);
        stead.ok(&["daemon", "restart"]);
        eventually(GUEST_DEADLINE, "it is known to the next daemon", || process(field, &id)["state"] == "running");
        field.others(": >go");
        let attached = stead.program().args(["attach", &id]).deadline(GUEST_DEADLINE).run();
        assert_eq!((attached.code(), attached.text().as_str()), (5, "first\nlast\n"), "{attached}");
        eventually(DEADLINE, "its end has been seen", || process(field, &id).is_null());

        let id = detach("sleep 600");
        stead.ok(&["kill", &id, "--signal", "INT"]);
        eventually(DEADLINE, "it has ended", || process(field, &id)["state"] == "exited");
        assert_eq!(process(field, &id)["code"], 130);
        assert_eq!(stead.run(&["attach", &id]).code(), 130);
    }
}
