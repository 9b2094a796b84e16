//! What a person is told while mounts are taken away, which waits for what is not saved yet.

use std::time::Duration;

use wire::api::status::{Get, Mount};
use wire::api::{Call, Method};

use crate::client::Client;
use crate::error::Result;
use crate::output::text::bytes;
use crate::output::{CLEAR_LINE, Output};

/// How long nothing is said, and how often it is looked again: most mounts are gone before.
const INTERVAL: Duration = Duration::from_secs(1);

/// So many mounts are named; the line is to fit a terminal.
const NAMED_MAX: usize = 3;

/// Asks for something that takes away the mounts that `goes` picks, and waits for the answer. On a terminal a line says what it
/// waits for.
pub fn call<M: Method + Into<Call>>(
    client: &Client,
    request: M,
    goes: impl Fn(&Mount) -> bool,
    output: &mut Output,
) -> Result<M::Reply> {
    let ticket = client.send(request)?;
    if !output.shows_progress() {
        return client.wait(ticket);
    }
    let mut is_shown = false;
    let reply = client.wait_doing(ticket, INTERVAL, |client| {
        // A daemon of another version may not know the question. It answers what it was asked before, all the same.
        let Ok(document) = client.call(Get {}) else { return };
        let going: Vec<&Mount> = document.mounts.iter().filter(|mount| goes(mount)).collect();
        if let Some(line) = waits_for(&going) {
            output.aside(format!("{CLEAR_LINE}{line}").as_bytes());
            is_shown = true;
        }
    });
    if is_shown {
        output.aside(CLEAR_LINE.as_bytes());
    }
    reply
}

/// What is waited for, if it is these.
fn waits_for(going: &[&Mount]) -> Option<String> {
    if going.is_empty() {
        return None;
    }
    let named: Vec<String> = going
        .iter()
        .take(NAMED_MAX)
        .map(|mount| match super::status::word(&mount.status) {
            "active" => mount.id.to_string(),
            word => format!("{} ({word})", mount.id),
        })
        .collect();
    let more = match going.len() - named.len() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let unsaved: u64 = going.iter().map(|mount| mount.journal.bytes).sum();
    let operations: u64 = going.iter().map(|mount| mount.journal.operations).sum();
    let left = match (operations, unsaved) {
        (0, _) => String::new(),
        (_, unsaved) => format!(", {} not saved yet", bytes(unsaved)),
    };
    Some(format!("waiting for {}{more}{left}", named.join(", ")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_waited_for_is_named_with_what_is_left() {
        let mount = |number: u64, state: &str, operations: u64| -> Mount {
            let value = json!({
                "id": format!("m{number}"), "source": "ssh://box/src", "dir": "/d", "backend": "fuse",
                "status": {"state": state}, "worker": null, "counters": {}, "access": "read_write", "sync": "close",
                "journal": {"operations": operations, "bytes": operations << 20},
            });
            serde_json::from_value(value).unwrap()
        };
        let all: Vec<Mount> = (1..6)
            .map(|number| mount(number, if number == 2 { "reconnecting" } else { "active" }, 0))
            .collect();
        let waits = |mounts: &[Mount]| waits_for(&mounts.iter().collect::<Vec<_>>());
        assert_eq!(waits(&[]), None);
        assert_eq!(waits(&all[..1]).unwrap(), "waiting for m1");
        assert_eq!(waits(&all).unwrap(), "waiting for m1, m2 (reconnecting), m3 and 2 more");
        let unsaved = [mount(1, "active", 3), mount(2, "active", 2)];
        assert_eq!(waits(&unsaved).unwrap(), "waiting for m1, m2, 5.0 MiB not saved yet");
    }
}
