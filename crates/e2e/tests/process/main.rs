//! Commands on machines: detached, in a terminal, through cuts.

mod cuts;
mod detached;
mod flush;
mod terminal;

use std::time::Duration;

use e2e::{DelayProxy, Sshd, Stead};

/// How long anything that has to happen may take on a busy machine.
const SOON: Duration = Duration::from_secs(60);

/// Whether tests run as long as what is promised, and not only as long as it takes to see that it holds.
fn is_long() -> bool {
    std::env::var_os("STEAD_E2E_LONG").is_some_and(|value| !value.is_empty())
}

/// A machine behind a line that can be cut. Nothing is mounted.
struct Far {
    // In the order in which they have to go.
    stead: Stead,
    proxy: DelayProxy,
    sshd: Sshd,
}

impl Far {
    fn new() -> Far {
        let sshd = Sshd::start();
        let proxy = DelayProxy::start(sshd.port(), Duration::ZERO);
        sshd.add_host("box", proxy.port(), &[("HostKeyAlias", "box")]);
        let mut stead = Stead::with_ssh(&sshd);
        stead.set_env("TERM", "screen-256color");
        Far { stead, proxy, sshd }
    }

    /// The program, to be started as a test wants it.
    fn command(&self, args: &[&str]) -> std::process::Command {
        let mut command = std::process::Command::new(e2e::stead::stead_bin());
        command.args(args).env("STEAD_HOME", self.stead.home()).env("STEAD_SSH_CONFIG", self.ssh_config());
        command
    }

    fn ssh_config(&self) -> std::path::PathBuf {
        self.sshd.client_config()
    }

    /// The field of a process in `stead ps --json`.
    fn process(&self, id: &str, field: &str) -> serde_json::Value {
        let listed = self.stead.json(&["ps"]);
        let processes = listed["processes"].as_array().expect("a list of processes");
        processes
            .iter()
            .find(|process| process["id"] == id)
            .map(|process| process[field].clone())
            .unwrap_or_default()
    }

    /// The connection is back that commands go through.
    fn is_connected(&self) -> bool {
        self.stead.status()["connections"][0]["state"] == "connected"
    }
}
