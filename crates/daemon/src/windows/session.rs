//! One client: what it asks is answered in order, one request after another.

use std::io::{self, Read, Write};

use serde::Serialize;
use wire::api::daemon::{DaemonStatus, Stopped};
use wire::api::mount::{Mounts, Removed};
use wire::api::status::{self, Document};
use wire::api::{Call, ClientMessage, ErrorKind, ErrorObject, LineDecoder, RequestId, Response};
use wire::bytestring::ByteString;

use super::Daemon;
use super::system::resident_bytes;

/// How much is read at once.
const READ_BYTES: usize = 64 << 10;

/// Serves a client until it goes.
pub(super) fn run(daemon: &Daemon, mut stream: impl Read + Write) -> io::Result<()> {
    let mut decoder = LineDecoder::new();
    let mut bytes = vec![0; READ_BYTES];
    loop {
        while let Some(line) = decoder.next_line().map_err(io::Error::other)? {
            let (response, is_end) = match ClientMessage::decode(line) {
                Ok(ClientMessage::Request(request)) => {
                    let is_stop = matches!(request.call, Call::DaemonStop(_));
                    let response = answer(daemon, request.id, request.call);
                    let is_end = is_stop && response.outcome.is_ok();
                    (response, is_end)
                }
                // Nothing here waits for a notification.
                Ok(ClientMessage::Notification(_)) => continue,
                Err(response) => (response, false),
            };
            stream.write_all(&response.to_line().map_err(io::Error::other)?)?;
            if is_end {
                // What is written to a pipe can be read when its writer has ended.
                std::process::exit(0);
            }
        }
        match stream.read(&mut bytes)? {
            0 => return Ok(()),
            count => decoder.push(&bytes[..count]),
        }
    }
}

fn answer(daemon: &Daemon, id: RequestId, call: Call) -> Response {
    match call {
        Call::DaemonHello(hello) => reply(id, hello.answer()),
        Call::DaemonStatus(_) => {
            reply(id, about(daemon).map_err(|error| ErrorObject::internal(error.to_string())))
        }
        Call::DaemonStop(stop) => {
            let stopped = daemon.mounts.stop(stop.mounts, stop.force);
            reply(id, stopped.map(|kept_aside| Stopped { pid: std::process::id(), kept_aside }))
        }
        Call::StatusGet(_) => reply(id, Ok(document(daemon))),
        Call::MountCreate(create) => reply(id, daemon.mounts.create(create)),
        Call::MountRemove(remove) => {
            reply(id, daemon.mounts.remove(&remove.target, remove.force).map(|mounts| Removed { mounts }))
        }
        Call::MountList(_) => reply(id, Ok(Mounts { mounts: daemon.mounts.all() })),
        other => {
            let message = format!("{} does not exist on Windows", other.method());
            Response::failure(Some(id), ErrorObject::new(ErrorKind::Usage, message))
        }
    }
}

fn reply<T: Serialize>(id: RequestId, outcome: Result<T, ErrorObject>) -> Response {
    match outcome {
        Err(error) => Response::failure(Some(id), error),
        Ok(value) => Response::success(id.clone(), &value).unwrap_or_else(|error| {
            Response::failure(Some(id), ErrorObject::new(ErrorKind::Failure, error.to_string()))
        }),
    }
}

fn about(daemon: &Daemon) -> io::Result<DaemonStatus> {
    let resident_bytes = resident_bytes()?;
    let state = ByteString::from(daemon.paths.state_dir().to_string_lossy().into_owned());
    Ok(DaemonStatus {
        pid: std::process::id(),
        version: wire::RELEASE.to_owned(),
        since: daemon.since,
        runtime_dir: state.clone(),
        state_dir: state,
        // It logs to its standard error.
        log: ByteString::default(),
        mounts: daemon.mounts.all().len() as u64,
        resident_bytes,
    })
}

fn document(daemon: &Daemon) -> Document {
    Document {
        daemon: status::Daemon { pid: std::process::id(), version: wire::RELEASE.to_owned() },
        machines: Vec::new(),
        connections: Vec::new(),
        mounts: daemon.mounts.all(),
        threads: Vec::new(),
        vms: Vec::new(),
        tunnels: Vec::new(),
        processes: Vec::new(),
        operations: Vec::new(),
    }
}
