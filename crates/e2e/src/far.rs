//! A machine that can be cut off.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::stead::stead_bin;
use crate::{DelayProxy, Sshd, Stead};

/// A machine behind a line that can be cut. Nothing is mounted.
pub struct Far {
    // In the order in which they have to go.
    pub stead: Stead,
    pub proxy: DelayProxy,
    pub sshd: Sshd,
}

impl Far {
    /// One that is called `box`, and an installation that knows it.
    pub fn new() -> Far {
        let sshd = Sshd::start();
        let proxy = DelayProxy::start(sshd.port(), Duration::ZERO);
        sshd.add_host("box", proxy.port(), &[("HostKeyAlias", "box")]);
        let mut stead = Stead::with_ssh(&sshd);
        stead.set_env("TERM", "screen-256color");
        Far { stead, proxy, sshd }
    }

    /// The program, to be started as a test wants it.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(stead_bin());
        command.args(args).env("STEAD_HOME", self.stead.home()).env("STEAD_SSH_CONFIG", self.ssh_config());
        command
    }

    /// The ssh configuration that names it.
    pub fn ssh_config(&self) -> PathBuf {
        self.sshd.client_config()
    }

    /// The field of a process in `stead ps --json`.
    pub fn process(&self, id: &str, field: &str) -> Value {
        let listed = self.stead.json(&["ps"]);
        let processes = listed["processes"].as_array().expect("a list of processes");
        processes
            .iter()
            .find(|process| process["id"] == id)
            .map(|process| process[field].clone())
            .unwrap_or_default()
    }

    /// The connection is back that commands go through.
    pub fn is_connected(&self) -> bool {
        self.stead.status()["connections"][0]["state"] == "connected"
    }
}

impl Default for Far {
    fn default() -> Far {
        Far::new()
    }
}
