//! A mount of a container outlives what serves it.

use std::fs;

use e2e::{Engine, Program, eventually};
use rustix::process::{Pid, Signal, kill_process};

use super::{DEADLINE, is_possible};

#[test]
fn a_containers_mount_outlives_its_processes() {
    if !is_possible() {
        return;
    }
    let engine = Engine::start();
    let stead = engine.stead();
    // Seen from outside as well, by the same name.
    let (far, dir) = (engine.dir().join("far"), stead.dir("mnt"));
    fs::create_dir(&far).unwrap();
    engine.run("web", &["--volume", &format!("{0}:{0}", far.display())]);
    let mount = stead.mount(format!("docker://web{}", far.display()), &dir, &[]);
    let mut open = fs::File::create(dir.join("open")).unwrap();
    std::io::Write::write_all(&mut open, b"before, ").unwrap();

    // The worker.
    let pid = stead.mount_status(&mount.id).unwrap()["worker"]["pid"].as_i64().unwrap();
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    kill_process(pid, Signal::KILL).unwrap();
    std::io::Write::write_all(&mut open, b"between, ").unwrap();

    // What carries its stream: all that speaks with the engine.
    for process in stead.processes() {
        if process.command.contains(" container ") {
            let _ended_meanwhile = kill_process(process.pid, Signal::KILL);
        }
    }
    std::io::Write::write_all(&mut open, b"after").unwrap();
    open.sync_all().unwrap();
    drop(open);
    assert_eq!(fs::read_to_string(far.join("open")).unwrap(), "before, between, after");

    // The daemon.
    let daemon = Pid::from_raw(stead.daemon_pid()).unwrap();
    kill_process(daemon, Signal::KILL).unwrap();
    fs::write(dir.join("without"), "x").unwrap();
    eventually(DEADLINE, "the next daemon has the mount", || {
        stead.mount_status(&mount.id).is_some_and(|is| is["status"]["state"] == "active")
    });
    assert!(far.join("without").exists());
    stead.unmount(&mount);
    Program::new("ls").arg(&dir).ok();
}
