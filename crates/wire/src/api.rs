//! The daemon's API: JSON-RPC 2.0 over a unix socket, one message a line.
//!
//! - A message is one line of UTF-8 JSON, at most [`LINE_BYTES_MAX`] bytes with its newline. Batches are not spoken.
//! - The client sends [`Request`]s, which are answered in any order, and [`ClientNotification`]s, which are not
//!   answered. The daemon sends [`Response`]s and [`ServerNotification`]s. All of them share one connection, so a
//!   prompt or a process's output can arrive while a request is under way.
//! - What a connection opened (file handles, processes started with [`process::Run`], subscriptions, unanswered prompts)
//!   ends with it, but for detached processes.
//! - Unknown fields in `params` are refused, since a client that sends one means something by it. Unknown fields in
//!   results and notifications from the daemon are ignored.
//!
//! The same noun has the same file name here, in the command line and in the daemon.

use std::fmt;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::decode::DecodeError;

pub mod cache;
pub mod daemon;
pub mod error;
pub mod event;
pub mod file;
pub mod find;
pub mod id;
pub mod image;
pub mod line;
pub mod machine;
pub mod mount;
pub mod operation;
pub mod process;
pub mod prompt;
pub mod search;
pub mod status;
pub mod thread;
pub mod time;
pub mod tunnel;
pub mod vm;
pub mod watch;
pub mod workspace;

pub use error::{ErrorKind, ErrorObject};
pub use line::LineDecoder;

/// The longest line either side sends or accepts, newline included. It holds a file chunk of
/// [`file::CHUNK_BYTES_MAX`] in base64 with room for names of the greatest length, and bounds what a hostile client can
/// make the daemon buffer.
pub const LINE_BYTES_MAX: usize = 1 << 20;

/// The longest request id that is a string.
pub const ID_BYTES_MAX: usize = 128;

/// The API versions this program speaks, oldest and newest. Raised when a change is not compatible.
pub const PROTOCOL_MIN: u32 = 1;
/// The newest API version this program speaks.
pub const PROTOCOL_MAX: u32 = 1;

/// A hash over the definition of the API. Two programs with the same hash agree on every field; with different
/// hashes and overlapping protocol ranges they agree on the fields both know.
pub const SCHEMA_HASH: u64 = schema_hash(&[
    include_bytes!("api.rs"),
    include_bytes!("api/cache.rs"),
    include_bytes!("api/daemon.rs"),
    include_bytes!("api/error.rs"),
    include_bytes!("api/event.rs"),
    include_bytes!("api/file.rs"),
    include_bytes!("api/find.rs"),
    include_bytes!("api/id.rs"),
    include_bytes!("api/image.rs"),
    include_bytes!("api/machine.rs"),
    include_bytes!("api/mount.rs"),
    include_bytes!("api/operation.rs"),
    include_bytes!("api/process.rs"),
    include_bytes!("api/prompt.rs"),
    include_bytes!("api/search.rs"),
    include_bytes!("api/status.rs"),
    include_bytes!("api/thread.rs"),
    include_bytes!("api/time.rs"),
    include_bytes!("api/tunnel.rs"),
    include_bytes!("api/vm.rs"),
    include_bytes!("api/watch.rs"),
    include_bytes!("api/workspace.rs"),
    include_bytes!("bytestring.rs"),
    include_bytes!("endpoint.rs"),
]);

/// Over all parts in order.
const fn schema_hash(parts: &[&[u8]]) -> u64 {
    let mut hash = crate::fnv1a(&[]);
    let mut part = 0;
    while part < parts.len() {
        hash = crate::fnv1a_more(hash, parts[part]);
        part += 1;
    }
    hash
}

/// Ties the parameters of a request to its name and to what answers it.
pub trait Method: Serialize + DeserializeOwned + fmt::Debug + Send + 'static {
    /// The name on the wire, `noun.verb`.
    const NAME: &'static str;
    /// What a success carries.
    type Reply: Serialize + DeserializeOwned + fmt::Debug + Send + 'static;
}

/// Ties the parameters of a notification to its name.
pub trait Note: Serialize + DeserializeOwned + fmt::Debug + Send + 'static {
    /// The name on the wire, `noun.verb`.
    const NAME: &'static str;
}

macro_rules! methods {
    ($($(#[$doc:meta])* $variant:ident = $name:literal: $params:ty => $reply:ty;)*) => {
        /// Every request a client may make.
        #[derive(Debug, Clone, PartialEq)]
        pub enum Call {
            $($(#[$doc])* $variant($params),)*
        }

        impl Call {
            /// The names of all methods.
            pub const NAMES: &'static [&'static str] = &[$($name),*];

            /// The name on the wire.
            pub fn method(&self) -> &'static str {
                match self { $(Call::$variant(_) => $name,)* }
            }

            /// Reads the parameters of the method called `method`.
            pub fn decode(method: &str, params: Value) -> Result<Call, ErrorObject> {
                match method {
                    $($name => decode_params::<$params>($name, params).map(Call::$variant),)*
                    unknown => Err(ErrorObject::method_not_found(unknown)),
                }
            }

            fn params(&self) -> Result<Value, serde_json::Error> {
                match self { $(Call::$variant(params) => serde_json::to_value(params),)* }
            }
        }

        $(
            impl Method for $params {
                const NAME: &'static str = $name;
                type Reply = $reply;
            }

            impl From<$params> for Call {
                fn from(params: $params) -> Call {
                    Call::$variant(params)
                }
            }
        )*
    };
}

macro_rules! notes {
    ($(#[$outer:meta])* $enum:ident { $($(#[$doc:meta])* $variant:ident = $name:literal: $params:ty;)* }) => {
        $(#[$outer])*
        #[derive(Debug, Clone, PartialEq)]
        pub enum $enum {
            $($(#[$doc])* $variant($params),)*
        }

        impl $enum {
            /// The name on the wire.
            pub fn method(&self) -> &'static str {
                match self { $($enum::$variant(_) => $name,)* }
            }

            /// Reads the parameters of the notification called `method`.
            pub fn decode(method: &str, params: Value) -> Result<$enum, ErrorObject> {
                match method {
                    $($name => decode_params::<$params>($name, params).map($enum::$variant),)*
                    unknown => Err(ErrorObject::method_not_found(unknown)),
                }
            }

            fn params(&self) -> Result<Value, serde_json::Error> {
                match self { $($enum::$variant(params) => serde_json::to_value(params),)* }
            }

            /// The message as one line, newline included.
            pub fn to_line(&self) -> Result<Vec<u8>, EncodeError> {
                let params = self.params().map_err(|source| EncodeError::Json { what: self.method(), source })?;
                encode_line(self.method(), &Outgoing::Note { method: self.method(), params })
            }
        }

        $(
            impl Note for $params {
                const NAME: &'static str = $name;
            }

            impl From<$params> for $enum {
                fn from(params: $params) -> $enum {
                    $enum::$variant(params)
                }
            }
        )*
    };
}

methods! {
    /// Agree on a version. Optional, and first when it is used.
    DaemonHello = "daemon.hello": daemon::Hello => daemon::Welcome;
    /// The daemon itself.
    DaemonStatus = "daemon.status": daemon::Status => daemon::DaemonStatus;
    /// Unmount everything and end.
    DaemonStop = "daemon.stop": daemon::Stop => daemon::Stopped;
    /// Everything the daemon owns.
    StatusGet = "status.get": status::Get => status::Document;
    /// Show a tree as a directory.
    MountCreate = "mount.create": mount::Create => status::Mount;
    /// Take mounts away.
    MountRemove = "mount.remove": mount::Remove => mount::Removed;
    /// All mounts.
    MountList = "mount.list": mount::List => mount::Mounts;
    /// Open a connection and keep it.
    MachineConnect = "machine.connect": machine::Connect => status::Connection;
    /// Close a connection.
    MachineDisconnect = "machine.disconnect": machine::Disconnect => machine::Disconnected;
    /// Close a connection and open it again, with whatever hangs on it.
    MachineReconnect = "machine.reconnect": machine::Redial => status::Connection;
    /// What works on a machine and what does not.
    MachineDoctor = "machine.doctor": machine::Doctor => machine::Report;
    /// What is kept on this computer's disk of the files of other machines.
    CacheShow = "cache.show": cache::Show => cache::Cache;
    /// Remove what is kept there.
    CacheClear = "cache.clear": cache::Clear => cache::Cleared;
    /// Start a command whose input and output go through this connection.
    ProcessRun = "process.run": process::Run => process::Started;
    /// Have the output of a detached process come over this connection.
    ProcessAttach = "process.attach": process::Attach => process::Attached;
    /// Send a signal to a process.
    ProcessKill = "process.kill": process::Kill => process::Killed;
    /// Forward a port or a unix socket.
    TunnelOpen = "tunnel.open": tunnel::Open => status::Tunnel;
    /// All tunnels.
    TunnelList = "tunnel.list": tunnel::List => tunnel::Tunnels;
    /// Close one.
    TunnelClose = "tunnel.close": tunnel::Close => tunnel::Closed;
    /// Make a thread and mount it.
    ThreadNew = "thread.new": thread::New => status::Thread;
    /// All threads.
    ThreadList = "thread.list": thread::List => thread::Threads;
    /// What is changed in one.
    ThreadStatus = "thread.status": thread::Status => thread::Changes;
    /// Make a commit of what is in one.
    ThreadCapture = "thread.capture": thread::Capture => thread::Captured;
    /// Have what is in one compared with what it began from.
    ThreadDiff = "thread.diff": thread::Diff => thread::Compared;
    /// The captures of one.
    ThreadLog = "thread.log": thread::Log => thread::Captures;
    /// Bring what is in a thread onto a branch.
    ThreadLand = "thread.land": thread::Land => thread::Landed;
    /// Have a thread show another revision.
    ThreadSwitch = "thread.switch": thread::Switch => thread::Switched;
    /// Remove for good what is left of threads that were dropped.
    ThreadCollect = "thread.collect": thread::Collect => thread::Collected;
    /// Undo what was done to a thread last.
    ThreadUndo = "thread.undo": thread::Undo => thread::Undone;
    /// Remove one.
    ThreadDrop = "thread.drop": thread::Drop => thread::Dropped;
    /// Make a microVM.
    VmCreate = "vm.create": vm::Create => status::Operation;
    /// Keep what is on the disk of a microVM.
    VmSnapshot = "vm.snapshot": vm::Snapshot => status::Snapshot;
    /// Remove what was kept.
    VmDeleteSnapshot = "vm.delete_snapshot": vm::DeleteSnapshot => vm::SnapshotDeleted;
    /// Make a microVM of a snapshot.
    VmFork = "vm.fork": vm::Fork => status::Operation;
    /// Start one.
    VmStart = "vm.start": vm::Start => status::Vm;
    /// Have one power itself off.
    VmStop = "vm.stop": vm::Stop => status::Vm;
    /// End one as a power cut would.
    VmKill = "vm.kill": vm::Kill => status::Vm;
    /// Remove one.
    VmDelete = "vm.delete": vm::Delete => vm::Deleted;
    /// One of them.
    VmShow = "vm.show": vm::Show => status::Vm;
    /// All of them.
    VmList = "vm.list": vm::List => vm::Vms;
    /// Change one that does not run.
    VmSet = "vm.set": vm::Set => status::Vm;
    /// Whether the agent of one answers.
    VmPing = "vm.ping": vm::Ping => vm::Pong;
    /// What one takes.
    VmStats = "vm.stats": vm::Stats => vm::Usage;
    /// On which ports of one something listens.
    VmPorts = "vm.ports": vm::Ports => vm::Listeners;
    /// What a guest has said on its console.
    VmLogs = "vm.logs": vm::Logs => vm::Console;
    /// Make an image of a kernel and a root file system.
    ImageBuild = "image.build": image::Build => image::Image;
    /// Make an image of a microVM's disk.
    ImagePromote = "image.promote": image::Promote => image::Image;
    /// One image.
    ImageShow = "image.show": image::Show => image::Image;
    /// All images.
    ImageList = "image.list": image::List => image::Images;
    /// Remove an image.
    ImageDelete = "image.delete": image::Delete => image::Deleted;
    /// Copy a working copy to a microVM.
    WorkspacePrepare = "workspace.prepare": workspace::Prepare => status::Operation;
    /// Bring back what was done in one.
    WorkspaceExport = "workspace.export": workspace::Export => status::Operation;
    /// One workspace.
    WorkspaceShow = "workspace.show": workspace::Show => workspace::Workspace;
    /// All workspaces.
    WorkspaceList = "workspace.list": workspace::List => workspace::Workspaces;
    /// Forget one.
    WorkspaceForget = "workspace.forget": workspace::Forget => workspace::Forgotten;
    /// All operations.
    OperationList = "operation.list": operation::List => operation::Operations;
    /// One operation.
    OperationShow = "operation.show": operation::Show => status::Operation;
    /// The end of an operation.
    OperationWait = "operation.wait": operation::Wait => status::Operation;
    /// Have an operation end.
    OperationCancel = "operation.cancel": operation::Cancel => status::Operation;
    /// Attributes of one file.
    FileStat = "file.stat": file::Stat => file::Entry;
    /// Open a directory for listing.
    FileOpenDirectory = "file.open_directory": file::OpenDirectory => file::Opened;
    /// The next entries of an opened directory.
    FileList = "file.list": file::List => file::Listed;
    /// Open a file.
    FileOpen = "file.open": file::Open => file::Opened;
    /// A chunk of an opened file.
    FileRead = "file.read": file::Read => file::Chunk;
    /// Put a chunk into an opened file.
    FileWrite = "file.write": file::Write => file::Written;
    /// A small file at once.
    FileGet = "file.get": file::Get => file::Got;
    /// Make a small file at once.
    FilePut = "file.put": file::Put => file::Entry;
    /// Small files of a directory at once.
    FileGetMany = "file.get_many": file::GetMany => file::GotMany;
    /// Make small files in a directory at once.
    FilePutMany = "file.put_many": file::PutMany => file::MadeMany;
    /// Copy from one opened file to another.
    FileCopyRange = "file.copy_range": file::CopyRange => file::CopiedRange;
    /// What is in an opened file, without its content.
    FileDigest = "file.digest": file::Digest => file::Digests;
    /// Put what was written to an opened file on stable storage.
    FileSync = "file.sync": file::Sync => file::Done;
    /// Give a handle back.
    FileClose = "file.close": file::Close => file::Done;
    /// Change mode, times or size.
    FileSetAttributes = "file.set_attributes": file::SetAttributes => file::Entry;
    /// Make a directory.
    FileMakeDirectory = "file.make_directory": file::MakeDirectory => file::Entry;
    /// Make a symbolic link.
    FileMakeLink = "file.make_link": file::MakeLink => file::Entry;
    /// Remove one file, link or empty directory.
    FileRemove = "file.remove": file::Remove => file::Done;
    /// Remove a file, or a directory with everything in it.
    FileRemoveTree = "file.remove_tree": file::RemoveTree => file::Begun;
    /// How far a removal is.
    FileRemoved = "file.removed": file::NextRemoved => file::RemovedNames;
    /// Look for names below a directory.
    FileFind = "file.find": find::Find => file::Opened;
    /// The next names that were found.
    FileFound = "file.found": find::Next => find::Found;
    /// Look for content in files.
    FileSearch = "file.search": search::Search => file::Begun;
    /// The next hits of a search.
    FileHits = "file.hits": search::NextHits => search::Hits;
    /// Watch a directory.
    FileWatch = "file.watch": watch::Watch => file::Begun;
    /// The next changes of a watched directory.
    FileChanges = "file.changes": watch::NextChanges => watch::Changes;
    /// Give a file another name on the same machine.
    FileRename = "file.rename": file::Rename => file::Done;
    /// Be told what happens.
    EventSubscribe = "event.subscribe": event::Subscribe => event::Subscribed;
    /// Be told no more.
    EventUnsubscribe = "event.unsubscribe": event::Unsubscribe => event::Unsubscribed;
    /// Asked by the askpass program that ssh started: route this prompt to a terminal.
    PromptRequest = "prompt.request": prompt::Request => prompt::Reply;
}

notes! {
    /// What a client may say without expecting an answer.
    ClientNotification {
        /// Input for a process.
        ProcessStdin = "process.stdin": process::Stdin;
        /// The client's terminal has another size.
        ProcessResize = "process.resize": process::Resize;
        /// Pass a signal on.
        ProcessSignal = "process.signal": process::Signal;
        /// Leave a process to itself.
        ProcessDetach = "process.detach": process::Detach;
        /// What was typed at a prompt.
        PromptAnswer = "prompt.answer": prompt::Answer;
    }
}

notes! {
    /// What the daemon may say unasked, to the connection it concerns.
    ServerNotification {
        /// Output of a process.
        ProcessStdout = "process.stdout": process::Stdout;
        /// Error output of a process.
        ProcessStderr = "process.stderr": process::Stderr;
        /// Output of a process that is not there any more.
        ProcessDropped = "process.dropped": process::Dropped;
        /// The process could not be left to itself.
        ProcessStays = "process.stays": process::Stays;
        /// The process took input: as much more may be sent.
        ProcessStdinTaken = "process.stdin_taken": process::StdinTaken;
        /// The process ended, and all of its output has been sent.
        ProcessExited = "process.exited": process::Exited;
        /// Something happened that this connection wants to know.
        EventHappened = "event.happened": event::Notice;
        /// Events were dropped: this connection reads too slowly.
        EventMissed = "event.missed": event::Missed;
        /// What is being done to make an image.
        ImageProgress = "image.progress": image::Progress;
        /// Somebody has to type something for a request of this connection to go on.
        PromptAsk = "prompt.ask": prompt::Ask;
    }
}

/// What a client chose to recognise an answer by. The daemon returns it as it was.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(untagged)]
pub enum RequestId {
    /// A number: what our own client uses.
    Number(u64),
    /// A text of at most [`ID_BYTES_MAX`] bytes.
    Text(String),
}

/// A method call.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// Repeated in the response.
    pub id: RequestId,
    /// What is asked for.
    pub call: Call,
}

impl Request {
    /// The message as one line, newline included.
    pub fn to_line(&self) -> Result<Vec<u8>, EncodeError> {
        let method = self.call.method();
        let params = self.call.params().map_err(|source| EncodeError::Json { what: method, source })?;
        encode_line(method, &Outgoing::Request { id: &self.id, method, params })
    }
}

/// The answer to a [`Request`].
#[derive(Debug, Clone, PartialEq)]
pub struct Response {
    /// The request's id; none when the request could not be read far enough to know it.
    pub id: Option<RequestId>,
    /// The method's reply, or why there is none.
    pub outcome: Result<Value, ErrorObject>,
}

impl Response {
    /// A success that carries `reply`.
    pub fn success<T: Serialize>(id: RequestId, reply: &T) -> Result<Response, EncodeError> {
        let value = serde_json::to_value(reply)
            .map_err(|source| EncodeError::Json { what: std::any::type_name::<T>(), source })?;
        Ok(Response { id: Some(id), outcome: Ok(value) })
    }

    /// A failure.
    pub fn failure(id: Option<RequestId>, error: ErrorObject) -> Response {
        Response { id, outcome: Err(error) }
    }

    /// The message as one line, newline included.
    pub fn to_line(&self) -> Result<Vec<u8>, EncodeError> {
        match &self.outcome {
            Ok(result) => encode_line("response", &Outgoing::Success { id: &self.id, result }),
            Err(error) => encode_line("response", &Outgoing::Failure { id: &self.id, error }),
        }
    }
}

/// What a daemon can receive.
#[derive(Debug, Clone, PartialEq)]
pub enum ClientMessage {
    /// To be answered.
    Request(Box<Request>),
    /// Not to be answered.
    Notification(ClientNotification),
}

impl ClientMessage {
    /// Reads one line. On failure there is the response to send: a line that is not a message never ends the
    /// connection.
    pub fn decode(line: &[u8]) -> Result<ClientMessage, Response> {
        let envelope: Envelope = decode_envelope::<ClientMessage, _>(line)
            .map_err(|error| Response::failure(None, ErrorObject::parse(&error)))?;
        let id = envelope.id.clone();
        let fail = |error: ErrorObject| Response::failure(id.clone(), error);
        if envelope.jsonrpc.as_deref() != Some("2.0") {
            return Err(fail(ErrorObject::invalid_request("`jsonrpc` must be \"2.0\"")));
        }
        if matches!(&envelope.id, Some(RequestId::Text(text)) if text.len() > ID_BYTES_MAX) {
            return Err(Response::failure(None, ErrorObject::invalid_request("`id` is too long")));
        }
        let Some(method) = &envelope.method else {
            return Err(fail(ErrorObject::invalid_request("`method` is missing")));
        };
        match envelope.id.clone() {
            Some(id) => Call::decode(method, envelope.params)
                .map(|call| ClientMessage::Request(Box::new(Request { id, call })))
                .map_err(fail),
            None => ClientNotification::decode(method, envelope.params)
                .map(ClientMessage::Notification)
                .map_err(fail),
        }
    }
}

/// What a client can receive.
#[derive(Debug, Clone, PartialEq)]
pub enum ServerMessage {
    /// The answer to a request.
    Response(Response),
    /// Unasked.
    Notification(ServerNotification),
    /// A notification this client does not know, to be ignored: the daemon is newer.
    Unknown {
        /// Its name.
        method: String,
    },
}

impl ServerMessage {
    /// Reads one line.
    pub fn decode(line: &[u8]) -> Result<ServerMessage, DecodeError> {
        let envelope: Envelope = decode_envelope::<ServerMessage, _>(line)?;
        if let Some(method) = envelope.method {
            return match ServerNotification::decode(&method, envelope.params) {
                Ok(notification) => Ok(ServerMessage::Notification(notification)),
                Err(error) if error.code == error::METHOD_NOT_FOUND => Ok(ServerMessage::Unknown { method }),
                Err(error) => Err(DecodeError::new::<ServerNotification>(line, error.message)),
            };
        }
        let outcome = match (envelope.result, envelope.error) {
            (_, Some(error)) => Err(error),
            (result, None) => Ok(result),
        };
        Ok(ServerMessage::Response(Response { id: envelope.id, outcome }))
    }
}

/// A message could not be written.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    /// A value has no JSON form.
    #[error("could not write {what} as JSON")]
    Json {
        /// The message.
        what: &'static str,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// The line would be longer than the other side accepts.
    #[error("{what} takes {bytes} bytes, more than the {LINE_BYTES_MAX} of a line")]
    TooLong {
        /// The message.
        what: &'static str,
        /// Its length.
        bytes: usize,
    },
}

#[derive(Serialize)]
#[serde(untagged)]
enum Outgoing<'a> {
    Request { id: &'a RequestId, method: &'static str, params: Value },
    Note { method: &'static str, params: Value },
    Success { id: &'a Option<RequestId>, result: &'a Value },
    Failure { id: &'a Option<RequestId>, error: &'a ErrorObject },
}

#[derive(Serialize)]
struct Versioned<'a> {
    jsonrpc: &'static str,
    #[serde(flatten)]
    message: &'a Outgoing<'a>,
}

#[derive(Deserialize)]
struct Envelope {
    jsonrpc: Option<String>,
    id: Option<RequestId>,
    method: Option<String>,
    #[serde(default)]
    params: Value,
    #[serde(default)]
    result: Value,
    error: Option<ErrorObject>,
}

fn encode_line(what: &'static str, message: &Outgoing<'_>) -> Result<Vec<u8>, EncodeError> {
    let mut line = serde_json::to_vec(&Versioned { jsonrpc: "2.0", message })
        .map_err(|source| EncodeError::Json { what, source })?;
    line.push(b'\n');
    if line.len() > LINE_BYTES_MAX {
        return Err(EncodeError::TooLong { what, bytes: line.len() });
    }
    Ok(line)
}

/// `Seen` is the type an error names.
fn decode_envelope<Seen, T: DeserializeOwned>(line: &[u8]) -> Result<T, DecodeError> {
    if line.len() > LINE_BYTES_MAX {
        return Err(DecodeError::new::<Seen>(line, format_args!("longer than {LINE_BYTES_MAX} bytes")));
    }
    serde_json::from_slice(line).map_err(|error| match may_hold_secret(line) {
        true => DecodeError::redacted::<Seen>(line),
        false => DecodeError::new::<Seen>(line, error),
    })
}

/// True for a line that could be, or could have been meant as, a message about a prompt.
fn may_hold_secret(line: &[u8]) -> bool {
    line.windows(prompt::NOUN.len()).any(|window| window == prompt::NOUN.as_bytes())
}

fn decode_params<T: DeserializeOwned>(method: &str, params: Value) -> Result<T, ErrorObject> {
    let params = match params {
        Value::Null => Value::Object(serde_json::Map::new()),
        given => given,
    };
    serde_json::from_value(params).map_err(|error| match method.starts_with(prompt::NOUN) {
        // The decoder quotes the value it stumbles over.
        true => ErrorObject::invalid_params(method, "unreadable"),
        false => ErrorObject::invalid_params(method, &error.to_string()),
    })
}

#[cfg(test)]
mod tests;
