//! MicroVMs as machines: real guests, made, started, used, killed and removed.

#![allow(clippy::unwrap_used, reason = "in a test every unexpected error is a failure")]

mod fork;
mod image;
mod kill;
mod life;
mod many;
mod network;
mod operation;
mod pull;
mod refusals;
mod workspace;

use e2e::{Stead, leftovers};
use rustix::process::{Pid, Signal, kill_process};

fn kill(pid: i32) {
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
}

/// What runs the guest, by its arguments.
fn vmms(stead: &Stead) -> Vec<leftovers::Process> {
    let processes = stead.processes().into_iter();
    processes.filter(|process| process.command.contains("qemu-system")).collect()
}

/// What a vm has: its processes, its directory, its sockets.
fn traces(stead: &Stead) -> Vec<String> {
    let run = std::fs::read_dir(stead.home().join("run")).into_iter().flatten().flatten();
    let names = run.map(|entry| entry.path().display().to_string()).filter(|path| path.contains("/vm-"));
    let vms = std::fs::read_dir(stead.home().join("vms")).into_iter().flatten().flatten();
    let directories = vms.map(|entry| entry.path().display().to_string());
    let parts = ["qemu-system", "console.log", "exe network"];
    let processes = stead.processes().into_iter().map(|process| process.command);
    let processes = processes.filter(|command| parts.iter().any(|part| command.contains(part)));
    names.chain(directories).chain(processes).collect()
}
