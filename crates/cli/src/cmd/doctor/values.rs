//! Settings, and where each comes from.

use std::ffi::OsString;
use std::path::Path;

use wire::api::mount::{Backend, SyncMode};
use wire::bytestring::ByteString;
use wire::worker::Heartbeat;

use super::Value;
use crate::config::Config;
use crate::context::Context;
use crate::error::Result;

/// What comes from the file says so.
const CONFIG: &str = "config";

/// All settings in effect.
pub fn values(context: &Context) -> Result<Vec<Value>> {
    let paths = context.paths()?;
    let is_root = rustix::process::geteuid().is_root();
    let origin = |variables: &[&'static str]| {
        let set = variables.iter().find(|name| context.variable(name).is_some());
        set.map_or("default".to_owned(), |name| name.to_string())
    };
    let home_and = |variable: &'static str| match is_root {
        true => origin(&["STEAD_HOME"]),
        false => origin(&["STEAD_HOME", variable]),
    };
    let path = |name, path: &Path, from| Value { name, value: ByteString::from(path), from };
    let mut values = vec![
        path("state", paths.state_dir(), home_and("XDG_STATE_HOME")),
        path("sockets", paths.runtime_dir(), home_and("XDG_RUNTIME_DIR")),
        path("mounts", paths.mounts_dir(), origin(&["STEAD_HOME"])),
        path("cache", paths.cache_dir(), home_and("XDG_CACHE_HOME")),
        path("log", &paths.log(), home_and("XDG_STATE_HOME")),
    ];
    // `checks` says it when the configuration cannot be read; it says nothing then.
    let config = context.config().cloned().unwrap_or_default();
    let variables = [
        ("log filter", "STEAD_LOG"),
        ("agent", "STEAD_AGENT"),
        ("ssh config", "STEAD_SSH_CONFIG"),
        ("probe interval", "STEAD_PROBE_INTERVAL"),
    ];
    for (name, variable) in variables {
        let set = context.variable(variable).map(|value| (value, variable));
        let found = set.or_else(|| Some((config.variable(variable)?, CONFIG)));
        values.extend(found.map(|(value, from)| Value {
            name,
            value: ByteString::from(value),
            from: from.into(),
        }));
    }
    let mut default = |name, said: Option<String>, otherwise: String| {
        let from = if said.is_some() { CONFIG } else { "default" };
        let value = ByteString::from(OsString::from(said.unwrap_or(otherwise)));
        values.push(Value { name, value, from: from.to_owned() });
    };
    let (Config { mount, connection, .. }, heartbeat) = (config, Heartbeat::default());
    default("mount backend", mount.backend.map(|is| is.to_string()), Backend::default().to_string());
    default("mount sync", mount.sync.map(|is| is.to_string()), SyncMode::default().to_string());
    let options = (!mount.options.is_empty()).then(|| mount.options.join(","));
    default("mount options", options, "none".to_owned());
    let interval = connection.heartbeat_interval.map(|interval| interval.to_string());
    default("heartbeat interval", interval, heartbeat.interval_ms.to_string());
    let failures = connection.max_heartbeat_failures.map(|failures| failures.to_string());
    default("max heartbeat failures", failures, heartbeat.failures_max.to_string());
    Ok(values)
}
