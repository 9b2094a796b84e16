//! Settings, and where each comes from.

use std::ffi::OsString;
use std::path::Path;

use wire::bytestring::ByteString;

use super::Value;
use crate::context::Context;
use crate::error::Result;

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
        path("log", &paths.log(), home_and("XDG_STATE_HOME")),
    ];
    let variables =
        [("log filter", "STEAD_LOG"), ("agent", "STEAD_AGENT"), ("ssh config", "STEAD_SSH_CONFIG")];
    for (name, variable) in variables {
        if let Some(value) = context.variable(variable) {
            values.push(Value {
                name,
                value: ByteString::from(OsString::from(&value)),
                from: variable.to_owned(),
            });
        }
    }
    Ok(values)
}
