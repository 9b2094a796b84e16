//! `docs/api.md`: every message between a client and the daemon, with examples made from the types themselves.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::Serialize;
use serde_json::Value;
use wire::api::cache;
use wire::api::error::{INTERNAL, INVALID_PARAMS, INVALID_REQUEST, METHOD_NOT_FOUND, PARSE};
use wire::api::event::{self, EVENTS_WAITING_MAX, Event, Happened, MountWord, Topic};
use wire::api::file::{CHUNK_BYTES_MAX, Content, Entry, FileKind, FileTime, HANDLES_MAX};
use wire::api::id::{ConnectionId, HandleId, MountId, ProcessId, PromptId, SubscriptionId, TunnelId};
use wire::api::machine::{self, Caller, Machine, Prompts, Reconnect, Source};
use wire::api::mount::{self, Access, Backend, BackendName, Force, SyncMode, Target};
use wire::api::process::{self, STDIN_BYTES_IN_FLIGHT_MAX, STREAM_CHUNK_BYTES_MAX};
use wire::api::prompt::{self, PromptKind, Secret};
use wire::api::status::{self, ConnectionState, MountStatus};
use wire::api::time::Timestamp;
use wire::api::tunnel;
use wire::api::{
    Call, ClientNotification, ErrorKind, ErrorObject, LINE_BYTES_MAX, PROTOCOL_MAX, PROTOCOL_MIN, Request,
    RequestId, Response, ServerNotification, daemon,
};
use wire::endpoint::Endpoint;

mod file;
mod image;
mod operation;
mod thread;
mod vm;
mod workspace;

/// One method: what it does, an example of every field of its request, and of its answer.
struct Method {
    call: Call,
    reply: Value,
    text: &'static str,
}

/// The document.
pub fn text() -> String {
    let mut text = preamble();
    text.push_str("\n## Methods\n");
    for method in methods() {
        let request = Request { id: RequestId::Number(1), call: method.call.clone() };
        let line = request.to_line().map(|line| String::from_utf8_lossy(&line).into_owned());
        let sent = line.ok().and_then(|line| serde_json::from_str::<Value>(&line).ok());
        let parameters = sent.map(|mut sent| sent["params"].take()).unwrap_or_default();
        section(&mut text, method.call.method(), method.text);
        example(&mut text, "params", &parameters);
        example(&mut text, "result", &method.reply);
    }
    text.push_str("\n## Notifications of the client\n");
    for (notification, about) in client_notifications() {
        section(&mut text, notification.method(), about);
        let line = notification.to_line().unwrap_or_default();
        example(&mut text, "params", &params_of(&line));
    }
    text.push_str("\n## Notifications of the daemon\n");
    for (notification, about) in server_notifications() {
        section(&mut text, notification.method(), about);
        let line = notification.to_line().unwrap_or_default();
        example(&mut text, "params", &params_of(&line));
    }
    text
}

fn params_of(line: &[u8]) -> Value {
    let message: Value = serde_json::from_slice(line).unwrap_or_default();
    message["params"].clone()
}

fn section(text: &mut String, name: &str, about: &str) {
    text.push_str(&format!("\n### {name}\n\n{about}\n\n"));
}

fn example(text: &mut String, name: &str, value: &Value) {
    let json = serde_json::to_string(value).unwrap_or_default();
    text.push_str(&format!("- {name}: `{json}`\n"));
}

fn preamble() -> String {
    let failure = ErrorObject::new(ErrorKind::NotFound, "there is no mount `m9`").with_hint("stead status");
    let failure = Response::failure(Some(RequestId::Number(7)), failure).to_line().unwrap_or_default();
    let failure = String::from_utf8_lossy(&failure).trim_end().to_owned();
    let mut text = format!(
        "# The daemon's API

Made from the types of `wire::api` by `cargo xtask docs`.

JSON-RPC 2.0 over the unix socket `daemon.sock` in the runtime directory (see [formats](formats.md)), one message a line
of at most {LINE_BYTES_MAX} bytes. The socket's other end is the same user, which both sides check. Requests are
answered in any order; batches are not spoken. What a connection opened (handles, processes that are not detached, prompts)
ends with it.
Unknown fields in `params` are refused; unknown fields of results are to be ignored. The protocol version is
{PROTOCOL_MIN} to {PROTOCOL_MAX}.

- Names and paths are bytes: a string where they are UTF-8, `{{\"hex\":\"2fff\"}}` where they are not.
- Sources and machines are written as on the command line, and absolute.
- Content of files and streams is base64. A chunk of a file has at most {CHUNK_BYTES_MAX} bytes, one of a stream {STREAM_CHUNK_BYTES_MAX}.
- A connection holds at most {HANDLES_MAX} handles, and sends at most {STDIN_BYTES_IN_FLIGHT_MAX} bytes of input that were not reported as taken.
- At most {EVENTS_WAITING_MAX} events wait for a subscription that is not read; beyond that the oldest are dropped and counted.
- `caller` says who asks and from where; its ids must be those of the socket's peer.

## Errors

`{failure}`

A program looks at `data.kind`, a person at `message` and `data.hint`.

| kind | code | exit code of the command line |
|---|---|---|
"
    );
    for kind in ErrorKind::ALL {
        let (code, exit) = (kind.rpc_code(), kind.exit_code());
        // Writing to a string cannot fail.
        let _infallible = writeln!(text, "| `{kind}` | {code} | {exit} |");
    }
    let _infallible = write!(
        text,
        "\nJSON-RPC's own codes: {PARSE} not JSON, {INVALID_REQUEST} not a request, {METHOD_NOT_FOUND} no such \
         method,\n{INVALID_PARAMS} wrong parameters, {INTERNAL} the daemon is at fault.\n"
    );
    text
}

fn json(value: impl Serialize) -> Value {
    serde_json::to_value(value).unwrap_or_default()
}

fn far() -> Machine {
    Machine::parse(b"ssh://u@box").unwrap_or(Machine::Host)
}

fn source(path: &str) -> Source {
    Source::Files { machine: far(), path: path.into() }
}

fn caller() -> Caller {
    Caller {
        uid: 1000,
        gid: 1000,
        cwd: "/home/u".into(),
        environment: [("SSH_AUTH_SOCK".to_owned(), "/run/user/1000/agent".into())].into(),
        prompts: Prompts::Answered,
    }
}

fn time() -> FileTime {
    FileTime { seconds: 1_767_225_600, nanoseconds: 5 }
}

fn entry() -> Entry {
    Entry {
        name: "main.rs".into(),
        kind: FileKind::File,
        mode: 0o644,
        uid: 1000,
        gid: 1000,
        size: 5,
        blocks: 8,
        links: 1,
        inode: 42,
        device: 2049,
        birth: 1_767_225_600_000_000_005,
        modified: time(),
        changed: time(),
        accessed: time(),
        target: None,
    }
}

fn a_mount() -> status::Mount {
    status::Mount {
        id: MountId::new(1),
        source: source("/src"),
        dir: "/home/u/src".into(),
        backend: BackendName::Fuse,
        status: MountStatus::Active,
        worker: Some(status::Worker { pid: 124, restarts: 0 }),
        journal: status::Journal::default(),
        counters: status::Counters::default(),
        operations: BTreeMap::new(),
        access: Access::ReadWrite,
        sync: SyncMode::Close,
        degraded: None,
        reason: None,
        health: status::Health::Healthy,
        crash: None,
        port: None,
        nfs: None,
        replayed: None,
    }
}

fn a_removed_mount() -> mount::RemovedMount {
    mount::RemovedMount { id: MountId::new(1), dir: "/home/u/src".into(), kept_aside: Vec::new() }
}

fn a_connection() -> status::Connection {
    status::Connection {
        id: ConnectionId::new(1),
        machine: far(),
        state: ConnectionState::Connected,
        since: Timestamp::from_unix(1_767_225_600),
        pids: vec![123],
        reason: None,
        hint: None,
    }
}

const HANDLE: HandleId = HandleId::new(1);
const PROCESS: ProcessId = ProcessId::new(1);
const TUNNEL: TunnelId = TunnelId::new(1);
const SUBSCRIPTION: SubscriptionId = SubscriptionId::new(1);
const PROMPT: PromptId = PromptId::new(1);

fn methods() -> Vec<Method> {
    let mut methods = daemon_methods();
    methods.extend(mount_methods());
    methods.extend(machine_methods());
    methods.extend(cache_methods());
    methods.extend(tunnel_methods());
    methods.extend(thread::methods());
    methods.extend(vm::methods());
    methods.extend(image::methods());
    methods.extend(workspace::methods());
    methods.extend(operation::methods());
    methods.extend(event_methods());
    methods.extend(file::methods());
    methods
}

fn daemon_methods() -> Vec<Method> {
    let hello = daemon::Hello { schema: "0123456789abcdef".to_owned(), ..daemon::Hello::ours() };
    let welcome = daemon::Welcome {
        protocol: PROTOCOL_MAX,
        version: hello.version.clone(),
        schema: hello.schema.clone(),
    };
    let status = daemon::DaemonStatus {
        pid: 99,
        version: hello.version.clone(),
        since: Timestamp::from_unix(1_767_225_600),
        state_dir: "/home/u/.local/state/stead".into(),
        runtime_dir: "/run/user/1000/stead".into(),
        log: "/home/u/.local/state/stead/daemon.log".into(),
        mounts: 1,
        resident_bytes: 12 << 20,
    };
    let document = status::Document {
        daemon: status::Daemon { pid: 99, version: hello.version.clone() },
        machines: vec![status::MachineStatus {
            machine: far(),
            state: ConnectionState::Connected,
            agent: Some(status::Agent { version: hello.version.clone() }),
        }],
        connections: vec![a_connection()],
        mounts: vec![a_mount()],
        threads: Vec::new(),
        vms: Vec::new(),
        tunnels: Vec::new(),
        processes: Vec::new(),
        operations: Vec::new(),
    };
    vec![
        Method {
            call: hello.into(),
            reply: json(welcome),
            text: "Agrees on a version. Optional, and first when it is used. Without a common version it is an error of kind\n\
                   `conflict` that names both. `schema` is a hash over the definition of the API.",
        },
        Method { call: daemon::Status {}.into(), reply: json(status), text: "About the daemon itself." },
        Method {
            call: daemon::Stop { force: Force::Never, mounts: daemon::Fate::Unmounted }.into(),
            reply: json(daemon::Stopped { pid: 99, kept_aside: Vec::new() }),
            text: "Saves what is unsaved, unmounts everything and ends the daemon. Without `force: \"always\"` a mount in use keeps\n\
                   it running and is an error of kind `conflict`. `kept_aside` has local paths of what could not be saved.\n\
                   With `mounts: \"left\"` it ends without them: they go on, and the next daemon takes them over.",
        },
        Method {
            call: status::Get {}.into(),
            reply: json(document),
            text: "Everything the daemon owns. Every list is there even when it is empty. A mount's `status` is\n\
                   `{\"state\":\"active\"}`, `reconnecting`, `disconnected` or `{\"state\":\"failed\",\"reason\":\"…\"}`.",
        },
    ]
}

fn mount_methods() -> Vec<Method> {
    let create = mount::Create {
        source: source("/src"),
        dir: Some("src".into()),
        backend: Backend::Auto,
        access: Access::ReadWrite,
        sync: SyncMode::Close,
        reconnect: Reconnect::Automatic,
        heartbeat_interval_ms: None,
        max_heartbeat_failures: None,
        options: [("allow-other".to_owned(), String::new())].into(),
        caller: caller(),
    };
    vec![
        Method {
            call: create.into(),
            reply: json(a_mount()),
            text: "Shows a tree as a directory; answered once it serves. All but `source` and `caller` may be left out. On failure\n\
                   nothing is left behind.",
        },
        Method {
            call: mount::Remove { target: Target::Id(MountId::new(1)), force: Force::Never }.into(),
            reply: json(mount::Removed { mounts: vec![a_removed_mount()] }),
            text: "Takes mounts away; answered once they are gone. `target` is `{\"id\":\"m1\"}`, `{\"dir\":\"/home/u/src\"}` or\n\
                   `\"all\"`. Without `force: \"always\"`, unsaved writes are waited for and a mount in use is an error.",
        },
        Method {
            call: mount::List {}.into(),
            reply: json(mount::Mounts { mounts: vec![a_mount()] }),
            text: "All mounts, in the order of their ids.",
        },
    ]
}

fn cache_methods() -> Vec<Method> {
    let of = cache::MachineCache { machine: far(), bytes: 1 << 20, files: 12 };
    let found = cache::Cache {
        dir: "/home/u/.cache/stead/data".into(),
        limit: 4 << 30,
        bytes: of.bytes,
        machines: vec![of],
    };
    vec![
        Method {
            call: cache::Show {}.into(),
            reply: json(found),
            text: "What is kept on this computer's disk of the files of other machines, in bytes as they take room there, and how\n\
                   much that may be.",
        },
        Method {
            call: cache::Clear { machine: Some(far()) }.into(),
            reply: json(cache::Cleared { bytes: 1 << 20, files: 12 }),
            text: "Removes what is kept of a machine, or of all without one. What mounts use comes again.",
        },
    ]
}

fn machine_methods() -> Vec<Method> {
    let connect = machine::Connect {
        machine: far(),
        reconnect: Reconnect::Automatic,
        heartbeat_interval_ms: None,
        max_heartbeat_failures: None,
        caller: caller(),
    };
    let check = machine::Check {
        name: "agent".to_owned(),
        verdict: machine::Verdict::Works,
        detail: "0.1.0, placed".to_owned(),
        hint: None,
    };
    let run = process::Run {
        machine: far(),
        command: vec!["ls".into(), "-l".into()],
        cwd: Some("/src".into()),
        environment: vec![("LANG".into(), "C".into())],
        terminal: None,
        detached: false,
        caller: caller(),
    };
    let size = process::Size { rows: 24, columns: 80 };
    let ask = prompt::Request {
        ticket: Secret::new("…".to_owned()),
        kind: PromptKind::Secret,
        text: "u@box's password: ".to_owned(),
    };
    vec![
        Method {
            call: connect.into(),
            reply: json(a_connection()),
            text: "Opens a connection and keeps it; answered once the agent answers. Connecting again changes the policy.",
        },
        Method {
            call: machine::Disconnect { machine: far(), force: Force::Never }.into(),
            reply: json(machine::Disconnected {
                machine: far(),
                was: ConnectionState::Connected,
                mounts: vec![a_removed_mount()],
            }),
            text: "Closes a connection and takes away what belongs to it: mounts are unmounted, processes end that are not detached. Without\n\
                   `force: \"always\"` unsaved writes are waited for, and a mount in use keeps itself and the connection.",
        },
        Method {
            call: machine::Redial {
                machine: far(),
                reconnect: None,
                heartbeat_interval_ms: None,
                max_heartbeat_failures: None,
                caller: caller(),
            }
            .into(),
            reply: json(a_connection()),
            text: "Closes the link and opens it again at once; the caller can be asked what the login asks. Mounts stay and go on\n\
                   with the new link. What is left out or null stays as it was. Without a connection one is opened and kept.",
        },
        Method {
            call: machine::Doctor { machine: far(), caller: caller() }.into(),
            reply: json(machine::Report { machine: far(), checks: vec![check] }),
            text: "What works on a machine (`works`, `limited`, `broken`), and the command that mends what does not.",
        },
        Method {
            call: run.into(),
            reply: json(process::Started { process: PROCESS, note: None }),
            text: "Starts a command whose input and output are notifications of this connection. `process.exited` is the last word\n\
                   about it. It is ended when the connection ends first, unless it is `detached`: then nothing of it comes here.\n\
                   Changes made through mounts of the machine are saved before; `note` says if that was not done in time.",
        },
        Method {
            call: process::Attach { process: PROCESS, size: Some(size), caller: caller() }.into(),
            reply: json(process::Attached { ended: None, replayed: 1_048_576 }),
            text: "Has a detached process come over this connection, with what is kept of its output first. `ended` is there when\n\
                   it has ended and nothing is kept; then nothing follows. `replayed` bytes of what follows were written before,\n\
                   dropped ones included: what a terminal is asked in them, it must not answer.",
        },
        Method {
            call: process::Kill { process: PROCESS, signal: 15, caller: caller() }.into(),
            reply: json(process::Killed {}),
            text: "Sends a signal, by its number on Linux, to a process's group, whoever started it.",
        },
        Method {
            call: ask.into(),
            reply: json(prompt::Reply { answer: Secret::new("…".to_owned()) }),
            text: "Asked by the program that ssh runs for its questions: put this to the client that caused it. The ticket is given\n\
                   to ssh in its environment.",
        },
    ]
}

fn tunnel_methods() -> Vec<Method> {
    let (local, remote) = (port(8080), Endpoint::Unix { path: "/run/app.sock".into() });
    let open = tunnel::Open { machine: far(), local, remote, reverse: false, caller: caller() };
    let a_tunnel = status::Tunnel {
        id: TUNNEL,
        machine: far(),
        local: Endpoint::Tcp { host: "127.0.0.1".to_owned(), port: 8080 },
        remote: open.remote.clone(),
        reverse: false,
        state: event::TunnelState::Open,
        connections: 0,
        since: Timestamp::from_unix(1_767_225_600),
        reason: None,
    };
    vec![
        Method {
            call: open.into(),
            reply: json(&a_tunnel),
            text: "Accepts connections at `local` and leads them to `remote` on the machine, or with `reverse` the other way. An end is\n\
                   `PORT` of the loopback, `HOST:PORT`, `[ADDRESS]:PORT` or the absolute path of a unix socket; it is told with the\n\
                   address and the port that it has. A tunnel belongs to the daemon, and ends with the connection to its machine.",
        },
        Method {
            call: tunnel::List {}.into(),
            reply: json(tunnel::Tunnels { tunnels: vec![a_tunnel] }),
            text: "All tunnels. With a `reason`, connections wait for the machine to be reached again.",
        },
        Method {
            call: tunnel::Close { tunnel: TUNNEL }.into(),
            reply: json(tunnel::Closed { tunnel: TUNNEL }),
            text: "Closes a tunnel and resets the connections through it. Answered when nothing of it is left, here or there.",
        },
    ]
}

fn port(port: u16) -> Endpoint {
    Endpoint::Tcp { host: "localhost".to_owned(), port }
}

fn event_methods() -> Vec<Method> {
    vec![
        Method {
            call: event::Subscribe { topics: vec![Topic::Mount, Topic::Connection] }.into(),
            reply: json(event::Subscribed { subscription: SUBSCRIPTION, seq: 16 }),
            text: "Has events told by `event.happened` from here on. `topics` are `connection`, `mount`, `process`, `tunnel`, `thread`,\n\
                   `vm`, `operation`, `all`; none means all. `seq` is the number of the last event before.",
        },
        Method {
            call: event::Unsubscribe { subscription: SUBSCRIPTION }.into(),
            reply: json(event::Unsubscribed {}),
            text: "Ends a subscription.",
        },
    ]
}

fn client_notifications() -> Vec<(ClientNotification, &'static str)> {
    let size = process::Size { rows: 24, columns: 80 };
    vec![
        (
            process::Stdin { process: PROCESS, bytes: Content(b"hello".to_vec()) }.into(),
            "Input for a process; empty at its end.",
        ),
        (process::Resize { process: PROCESS, size }.into(), "The terminal has another size."),
        (
            process::Signal { process: PROCESS, signal: 15 }.into(),
            "A signal, by its number on Linux, for the process's group.",
        ),
        (
            process::Detach { process: PROCESS }.into(),
            "Leaves a process to itself; answered by `process.exited` with `detached`.",
        ),
        (
            prompt::Answer { prompt: PROMPT, answer: Some(Secret::new("…".to_owned())) }.into(),
            "What was typed at a prompt; null when it was declined.",
        ),
    ]
}

fn server_notifications() -> Vec<(ServerNotification, &'static str)> {
    let output = || Content(b"hello".to_vec());
    let text = "u@box's password: ".to_owned();
    let happened = Happened::Mount {
        id: MountId::new(1),
        dir: "/home/u/src".into(),
        state: MountWord::Reconnecting,
        reason: Some("the agent's stream ended".to_owned()),
        path: None,
        of: None,
    };
    let event = Event { happened, at: Timestamp::from_unix(1_767_225_600), seq: 17 };
    vec![
        (
            event::Notice { subscription: SUBSCRIPTION, event }.into(),
            "Something happened. Events come in order, each once.",
        ),
        (
            event::Missed { subscription: SUBSCRIPTION, missed: 3 }.into(),
            "So many events were dropped between the one before and the one after this: the connection was read too slowly.",
        ),
        (process::Stdout { process: PROCESS, bytes: output() }.into(), "Output of a process, never empty."),
        (
            process::Stderr { process: PROCESS, bytes: output() }.into(),
            "Error output of a process, never empty.",
        ),
        (
            process::Dropped { process: PROCESS, bytes: 4096, unread: 1024 }.into(),
            "So many bytes of output would come here, and are not kept any more. Of these, `unread` have been read by nobody.",
        ),
        (
            process::Stays { process: PROCESS, reason: "64 detached processes run there".to_owned() }.into(),
            "The process could not be left to itself, and still belongs to this connection.",
        ),
        (
            process::StdinTaken { process: PROCESS, bytes: 5 }.into(),
            "The process has taken so much more of its input, and as much more may be sent.",
        ),
        (
            process::Exited { process: PROCESS, outcome: process::Outcome::Exited { code: 0 } }.into(),
            "The end of a process: `exited` with its status, `signalled`, or `lost` with the reason; `detached` when it goes on by\n\
             itself.",
        ),
        (
            wire::api::image::Progress {
                name: "tiny".to_owned(),
                part: "writing the root file system".to_owned(),
            }
            .into(),
            "What is being done for a request of this connection that makes an image, in words for people.",
        ),
        (
            prompt::Ask { prompt: PROMPT, kind: PromptKind::Secret, text }.into(),
            "Somebody has to answer before a request of this connection can go on. `kind` is `secret`, `line` or `notice`.",
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_is_there_once() {
        let mut documented: Vec<&str> = methods().iter().map(|method| method.call.method()).collect();
        let mut names = Call::NAMES.to_vec();
        documented.sort_unstable();
        names.sort_unstable();
        assert_eq!(documented, names);
    }

    #[test]
    fn every_example_is_a_request_the_daemon_reads() {
        for method in methods() {
            let line = Request { id: RequestId::Number(1), call: method.call.clone() }.to_line().unwrap();
            match wire::api::ClientMessage::decode(line.trim_ascii_end()) {
                Ok(wire::api::ClientMessage::Request(request)) => assert_eq!(request.call, method.call),
                other => panic!("{other:?}"),
            }
        }
    }
}
