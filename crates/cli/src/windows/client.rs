//! The daemon's API over its pipe: one request, one answer.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::windows::fs::OpenOptionsExt;

use supervisor::user::User;
use windows_sys::Win32::Foundation as foundation;
use windows_sys::Win32::Storage::FileSystem::SECURITY_IDENTIFICATION;
use windows_sys::Win32::System::Pipes::WaitNamedPipeW;
use wire::api::daemon::Hello;
use wire::api::{Call, ErrorKind, ErrorObject, LineDecoder, Method, Request, RequestId, ServerMessage};

/// How long to wait for an instance of the pipe while others take them, in milliseconds: the daemon makes the next one at once.
const BUSY_MS_MAX: u32 = 5000;

/// How often.
const BUSY_TRIES: usize = 8;

/// How much is read at once.
const READ_BYTES: usize = 64 << 10;

/// A connection to the daemon.
pub(super) struct Client {
    pipe: File,
    decoder: LineDecoder,
    last_id: u64,
}

impl Client {
    /// Of the daemon with this pipe, which has to be this user's: others could have made one of its name.
    pub(super) fn connect(name: &str) -> Result<Client, ErrorObject> {
        let pipe = open(name).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => {
                ErrorObject::new(ErrorKind::Unreachable, "no daemon runs").with_hint("stead daemon run")
            }
            _ => gone(&error),
        })?;
        if !User::of_process().and_then(|user| user.owns(&pipe)).map_err(|error| gone(&error))? {
            return Err(ErrorObject::new(ErrorKind::Refused, format!("`{name}` is another user's")));
        }
        let mut client = Client { pipe, decoder: LineDecoder::new(), last_id: 0 };
        client.call(Hello::ours())?.check()?;
        Ok(client)
    }

    /// Asks and waits.
    pub(super) fn call<M: Method + Into<Call>>(&mut self, params: M) -> Result<M::Reply, ErrorObject> {
        self.last_id += 1;
        let id = RequestId::Number(self.last_id);
        let failed = |error: String| ErrorObject::new(ErrorKind::Failure, format!("{}: {error}", M::NAME));
        let line = Request { id: id.clone(), call: params.into() }.to_line();
        let line = line.map_err(|error| failed(error.to_string()))?;
        self.pipe.write_all(&line).map_err(|error| gone(&error))?;
        loop {
            match self.receive()? {
                ServerMessage::Response(response) if response.id.as_ref() == Some(&id) => {
                    let reply = response.outcome?;
                    return serde_json::from_value(reply).map_err(|error| failed(error.to_string()));
                }
                ServerMessage::Response(response) => {
                    response.outcome?;
                }
                // Nothing that comes unasked was asked for.
                ServerMessage::Notification(_) | ServerMessage::Unknown { .. } => {}
            }
        }
    }

    fn receive(&mut self) -> Result<ServerMessage, ErrorObject> {
        let mut bytes = vec![0; READ_BYTES];
        loop {
            if let Some(line) = self.decoder.next_line().map_err(|error| gone(&io::Error::other(error)))? {
                return ServerMessage::decode(line).map_err(|error| gone(&io::Error::other(error)));
            }
            match self.pipe.read(&mut bytes).map_err(|error| gone(&error))? {
                0 => return Err(gone(&io::ErrorKind::UnexpectedEof.into())),
                count => self.decoder.push(&bytes[..count]),
            }
        }
    }
}

fn gone(error: &io::Error) -> ErrorObject {
    ErrorObject::new(ErrorKind::Unreachable, format!("the daemon cannot be reached: {error}"))
}

/// Whoever serves it learns who we are, and cannot act as us.
fn open(name: &str) -> io::Result<File> {
    let wide: Vec<u16> = name.encode_utf16().chain([0]).collect();
    let mut options = OpenOptions::new();
    options.read(true).write(true).security_qos_flags(SECURITY_IDENTIFICATION);
    let is_busy = |error: &io::Error| error.raw_os_error() == Some(foundation::ERROR_PIPE_BUSY as i32);
    for _ in 1..BUSY_TRIES {
        match options.open(name) {
            // SAFETY: the name ends with a zero and outlives the call. What it says is seen by opening.
            Err(error) if is_busy(&error) => unsafe {
                WaitNamedPipeW(wide.as_ptr(), BUSY_MS_MAX);
            },
            outcome => return outcome,
        }
    }
    options.open(name)
}
