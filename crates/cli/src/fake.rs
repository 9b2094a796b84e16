//! A daemon for tests: it listens where a real one would, and answers as the test says.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use serde::Serialize;
use serde_json::Value;
use wire::api::daemon::Hello;
use wire::api::time::Timestamp;
use wire::api::{
    Call, ClientMessage, ClientNotification, ErrorKind, ErrorObject, LineDecoder, Response,
    ServerNotification,
};
use wire::paths::Paths;

use crate::Next;
use crate::context::Context;
use crate::output::{Output, Sink};
use crate::prompt::Prompter;

/// What the command line of a test believes the time to be.
pub fn now() -> Timestamp {
    Timestamp::from_unix(1_767_225_600)
}

/// What a request is answered with.
pub type Outcome = Result<Value, ErrorObject>;

/// Answers requests; greetings are answered for it.
pub trait Script: FnMut(Call, &mut Peer) -> Outcome + Send + 'static {}
impl<T: FnMut(Call, &mut Peer) -> Outcome + Send + 'static> Script for T {}

/// A running fake. It ends with the test's process.
pub struct Fake {
    home: tempfile::TempDir,
    calls: Arc<Mutex<Vec<Call>>>,
}

/// One client, as the script sees it.
pub struct Peer {
    stream: UnixStream,
    decoder: LineDecoder,
    /// Whether the next answer is the last word.
    ends: bool,
}

/// What a command line did.
#[derive(Debug, PartialEq, Eq)]
pub struct Ran {
    /// Its exit code.
    pub code: u8,
    /// Its standard output.
    pub out: String,
    /// Its standard error.
    pub err: String,
}

impl Fake {
    /// A home without a daemon.
    pub fn absent() -> Fake {
        Fake { home: tempfile::Builder::new().prefix("cli").tempdir().unwrap(), calls: Arc::default() }
    }

    /// A daemon that answers by `script`.
    pub fn new(script: impl Script) -> Fake {
        Fake::with_greeting(|hello| hello.answer().map(|welcome| json(&welcome)), script)
    }

    /// A daemon that answers greetings by `greeting`.
    pub fn with_greeting(greeting: fn(&Hello) -> Outcome, script: impl Script) -> Fake {
        let fake = Fake::absent();
        std::fs::create_dir_all(fake.paths().runtime_dir()).unwrap();
        let listener = UnixListener::bind(fake.paths().socket()).unwrap();
        let calls = fake.calls.clone();
        let script: Arc<Mutex<Box<dyn Script>>> = Arc::new(Mutex::new(Box::new(script)));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let peer = Peer { stream: stream.unwrap(), decoder: LineDecoder::new(), ends: false };
                let (calls, script) = (calls.clone(), script.clone());
                std::thread::spawn(move || serve(peer, greeting, &calls, &script));
            }
        });
        fake
    }

    /// What it was asked, without greetings.
    pub fn calls(&self) -> Vec<Call> {
        let calls = self.calls.lock().unwrap();
        calls.iter().filter(|call| !matches!(call, Call::DaemonHello(_))).cloned().collect()
    }

    /// Where its files are.
    pub fn paths(&self) -> Paths {
        let home = self.home.path().to_owned();
        Paths::new(0, |name| (name == "STEAD_HOME").then(|| OsString::from(&home))).unwrap()
    }

    /// Runs a command line against it, with pipes for output.
    pub fn run(&self, arguments: &[&str]) -> Ran {
        self.run_with(arguments, Sink::Stream)
    }

    /// The same with another kind of output.
    pub fn run_with(&self, arguments: &[&str], sink: Sink) -> Ran {
        let (out, err) = (Buffer::default(), Buffer::default());
        let output = Output::new((Box::new(out.clone()), sink), (Box::new(err.clone()), sink), now);
        let home = self.home.path().to_owned();
        let variables = Box::new(move |name: &str| (name == "STEAD_HOME").then(|| OsString::from(&home)));
        let program = PathBuf::from("/nonexistent/stead");
        let mut context = Context::new(output, PathBuf::from("/work"), program, Prompter::Nobody, variables);
        let arguments =
            std::iter::once("stead").chain(arguments.iter().copied()).map(OsString::from).collect();
        let Next::Exit(code) = crate::run(arguments, &mut context) else {
            panic!("the command line wants to be a daemon");
        };
        Ran { code, out: out.text(), err: err.text() }
    }
}

fn serve(
    mut peer: Peer,
    greeting: fn(&Hello) -> Outcome,
    calls: &Mutex<Vec<Call>>,
    script: &Mutex<Box<dyn Script>>,
) {
    while let Some(message) = peer.receive() {
        let ClientMessage::Request(request) = message else {
            continue;
        };
        calls.lock().unwrap().push(request.call.clone());
        let outcome = match &request.call {
            Call::DaemonHello(hello) => greeting(hello),
            _ => (script.lock().unwrap())(request.call.clone(), &mut peer),
        };
        let response = Response { id: Some(request.id), outcome };
        peer.send_line(&response.to_line().unwrap());
        if peer.ends {
            return peer.end();
        }
    }
}

impl Peer {
    /// Says something unasked.
    pub fn say(&mut self, notification: impl Into<ServerNotification>) {
        let line = notification.into().to_line().unwrap();
        self.send_line(&line);
    }

    /// The next notification of the client, waited for.
    pub fn hear(&mut self) -> ClientNotification {
        match self.receive() {
            Some(ClientMessage::Notification(notification)) => notification,
            other => panic!("not a notification: {other:?}"),
        }
    }

    /// Hangs up.
    pub fn end(&mut self) {
        self.stream.shutdown(std::net::Shutdown::Both).unwrap();
    }

    /// Hangs up once this request has been answered.
    pub fn end_after_answer(&mut self) {
        self.ends = true;
    }

    fn send_line(&mut self, line: &[u8]) {
        // The client may have ended: its test sees what it did.
        let _gone = self.stream.write_all(line);
    }

    fn receive(&mut self) -> Option<ClientMessage> {
        loop {
            if let Some(line) = self.decoder.next_line().unwrap() {
                return Some(ClientMessage::decode(line).unwrap());
            }
            let mut chunk = [0; 4096];
            match self.stream.read(&mut chunk) {
                Ok(0) | Err(_) => return None,
                Ok(count) => self.decoder.push(&chunk[..count]),
            }
        }
    }
}

/// A value as it is sent.
pub fn json(value: &impl Serialize) -> Value {
    serde_json::to_value(value).unwrap()
}

/// A failure with a hint.
pub fn failure(kind: ErrorKind, message: &str, hint: &str) -> Outcome {
    Err(ErrorObject::new(kind, message).with_hint(hint))
}

#[derive(Clone, Default)]
struct Buffer(Arc<Mutex<Vec<u8>>>);

impl Buffer {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

impl Write for Buffer {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
