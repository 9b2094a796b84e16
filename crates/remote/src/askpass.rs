//! How what ssh asks reaches a person.
//!
//! ssh runs the program that `SSH_ASKPASS` names, with the question as its one argument, and reads the answer from its
//! output. That program is ours, under the name [`PROGRAM_NAME`] ([`run`]): it hands the question to a socket and
//! prints what comes back. The socket is the daemon's own, or that of a [`Server`]; both speak
//! [`wire::api::prompt::Request`].
//!
//! A ticket, a secret made for one login, says on whose behalf is asked. Answers are never logged.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use wire::api::error::{ErrorKind, ErrorObject};
use wire::api::line::LineDecoder;
use wire::api::prompt::{self, PromptKind, SOCKET_VARIABLE, Secret, TICKET_VARIABLE};
use wire::api::{Call, ClientMessage, Request, RequestId, Response, ServerMessage};

/// The name under which the program has to be called to be the askpass program: ssh passes no argument of ours.
pub const PROGRAM_NAME: &str = "stead-askpass";

/// How many questions of one login may be open at once. ssh asks one after the other.
const OPEN_MAX: usize = 8;

/// The longest question that is passed on.
const TEXT_BYTES_MAX: usize = 4096;

/// What ssh has to be given so that its questions arrive.
#[derive(Clone, Debug)]
pub struct Environment {
    program: PathBuf,
    socket: PathBuf,
    ticket: Secret,
}

impl Environment {
    /// `program` is ours under the name [`PROGRAM_NAME`], as [`link_program`] makes it; `socket` is where it asks.
    pub fn new(program: PathBuf, socket: PathBuf, ticket: Secret) -> Environment {
        Environment { program, socket, ticket }
    }

    /// The variables for ssh.
    pub fn variables(&self) -> [(&'static str, OsString); 4] {
        [
            ("SSH_ASKPASS", self.program.clone().into_os_string()),
            ("SSH_ASKPASS_REQUIRE", "force".into()),
            (SOCKET_VARIABLE, self.socket.clone().into_os_string()),
            (TICKET_VARIABLE, self.ticket.reveal().into()),
        ]
    }
}

/// Gives `program` the name [`PROGRAM_NAME`] in `directory`, and returns the path.
pub fn link_program(directory: &Path, program: &Path) -> io::Result<PathBuf> {
    let link = directory.join(PROGRAM_NAME);
    if std::fs::read_link(&link).is_ok_and(|target| target == program) {
        return Ok(link);
    }
    let temporary = directory.join(format!("{PROGRAM_NAME}.{}", std::process::id()));
    match std::fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    std::os::unix::fs::symlink(program, &temporary)?;
    std::fs::rename(&temporary, &link)?;
    Ok(link)
}

/// Whether the program was called as the askpass program: by its name.
pub fn is_askpass(argument_0: &OsStr) -> bool {
    Path::new(argument_0).file_name().is_some_and(|name| name.as_bytes() == PROGRAM_NAME.as_bytes())
}

/// A secret that nobody can guess.
pub fn new_ticket() -> io::Result<Secret> {
    let mut random = [0; 16];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut random)?;
    Ok(Secret::new(random.iter().map(|byte| format!("{byte:02x}")).collect()))
}

/// How a question is to be put. ssh says it only for some of them.
fn kind_of(text: &str, hint: Option<&OsStr>) -> PromptKind {
    let asks_for_a_word = text.contains("(yes/no") || text.contains("'yes', 'no'");
    match hint.map(OsStr::as_bytes) {
        Some(b"none") => PromptKind::Notice,
        Some(b"confirm") => PromptKind::Line,
        _ if asks_for_a_word => PromptKind::Line,
        _ => PromptKind::Secret,
    }
}

/// The askpass program: asks at the socket that the environment names, and prints the answer. Exits with 1 when there
/// is none, which is to ssh what a person is who declines.
pub fn run(
    arguments: impl IntoIterator<Item = OsString>,
    variable: impl Fn(&str) -> Option<OsString>,
) -> ExitCode {
    match ask(arguments, variable) {
        Ok(answer) => {
            let line = [answer.reveal().as_bytes(), b"\n"].concat();
            match io::stdout().write_all(&line) {
                Ok(()) => ExitCode::SUCCESS,
                Err(_) => ExitCode::FAILURE,
            }
        }
        Err(error) => {
            eprintln!("{PROGRAM_NAME}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn ask(
    arguments: impl IntoIterator<Item = OsString>,
    variable: impl Fn(&str) -> Option<OsString>,
) -> Result<Secret, Box<dyn std::error::Error>> {
    let socket = variable(SOCKET_VARIABLE).ok_or(format!("{SOCKET_VARIABLE} is not set"))?;
    let ticket = variable(TICKET_VARIABLE).ok_or(format!("{TICKET_VARIABLE} is not set"))?;
    let text = arguments.into_iter().next().unwrap_or_default().to_string_lossy().into_owned();
    let kind = kind_of(&text, variable("SSH_ASKPASS_PROMPT").as_deref());
    let ticket = Secret::new(ticket.into_string().map_err(|_| "the ticket is not text")?);
    let call = Call::PromptRequest(prompt::Request { ticket, kind, text });
    let mut stream = std::os::unix::net::UnixStream::connect(&socket)?;
    stream.write_all(&Request { id: RequestId::Number(1), call }.to_line()?)?;
    let mut decoder = LineDecoder::new();
    let mut buffer = [0; 4096];
    loop {
        if let Some(line) = decoder.next_line()? {
            if let ServerMessage::Response(response) = ServerMessage::decode(line)? {
                let reply: prompt::Reply = serde_json::from_value(response.outcome?)?;
                return Ok(reply.answer);
            }
            continue;
        }
        match stream.read(&mut buffer)? {
            0 => return Err("nobody is there to ask any more".into()),
            count => decoder.push(&buffer[..count]),
        }
    }
}

/// A question that ssh waits for the answer to.
#[derive(Debug)]
pub struct Prompt {
    /// Counts from 1 for each server.
    pub id: u64,
    /// The question as ssh wrote it. It comes from another machine: control characters are not to be passed on.
    pub text: String,
    /// How to put it.
    pub kind: PromptKind,
    answer: oneshot::Sender<Option<Secret>>,
}

impl Prompt {
    /// Answers; `None` declines. ssh may be gone by now, which is nobody's fault.
    pub fn answer(self, answer: Option<Secret>) {
        drop(self.answer.send(answer));
    }

    /// Waits until ssh does not want the answer any more.
    pub async fn withdrawn(&mut self) {
        self.answer.closed().await;
    }
}

/// Gives the questions of one login to whoever holds it. A question that is not answered is declined when the server
/// is dropped.
pub struct Server {
    socket: PathBuf,
    prompts: mpsc::Receiver<Prompt>,
    task: tokio::task::AbortHandle,
}

impl Server {
    /// Listens in `directory`, which must be only the user's, and returns what ssh has to be given.
    pub fn bind(directory: &Path, program: PathBuf) -> io::Result<(Server, Environment)> {
        let ticket = new_ticket()?;
        let name = crate::place::hash(ticket.reveal().as_bytes()).get();
        let socket = directory.join(format!("a{name:016x}"));
        let listener = UnixListener::bind(&socket)?;
        let (sender, prompts) = mpsc::channel(OPEN_MAX);
        let task = tokio::spawn(listen(listener, ticket.clone(), sender)).abort_handle();
        let environment = Environment::new(program, socket.clone(), ticket);
        Ok((Server { socket, prompts, task }, environment))
    }

    /// The next question.
    pub async fn next(&mut self) -> Option<Prompt> {
        self.prompts.recv().await
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
        if let Err(error) = std::fs::remove_file(&self.socket) {
            tracing::debug!(socket = %self.socket.display(), %error, "the askpass socket could not be removed");
        }
    }
}

async fn listen(listener: UnixListener, ticket: Secret, prompts: mpsc::Sender<Prompt>) {
    let slots = Arc::new(Semaphore::new(OPEN_MAX));
    let mut open = tokio::task::JoinSet::new();
    for id in 1.. {
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "the askpass socket accepts no more");
                return;
            }
        };
        let (ticket, prompts) = (ticket.clone(), prompts.clone());
        open.spawn(async move {
            let _slot = slot;
            if let Err(error) = serve(stream, id, ticket, prompts).await {
                tracing::debug!(%error, "a question of ssh was not answered");
            }
        });
        while open.try_join_next().is_some() {}
    }
}

async fn serve(
    mut stream: UnixStream,
    id: u64,
    ticket: Secret,
    prompts: mpsc::Sender<Prompt>,
) -> io::Result<()> {
    if stream.peer_cred()?.uid() != rustix::process::geteuid().as_raw() {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "the asker is another user"));
    }
    let response = match read_request(&mut stream).await? {
        Err(response) => response,
        Ok((request, _)) if !same(&request.ticket, &ticket) => {
            Response::failure(None, ErrorObject::new(ErrorKind::Refused, "the ticket is not valid"))
        }
        Ok((request, request_id)) => {
            let (sender, answer) = oneshot::channel();
            let text = cut(request.text);
            let asked = prompts.send(Prompt { id, text, kind: request.kind, answer: sender }).await;
            let answer = tokio::select! {
                answer = answer => answer.ok().flatten().filter(|_| asked.is_ok()),
                // The asker says nothing more: whatever this is, it is its end.
                _ = stream.read_u8() => return Ok(()),
            };
            respond(request_id, answer)?
        }
    };
    let line = response.to_line().map_err(io::Error::other)?;
    stream.write_all(&line).await
}

async fn read_request(stream: &mut UnixStream) -> io::Result<Result<(prompt::Request, RequestId), Response>> {
    let mut decoder = LineDecoder::new();
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => decoder.push(&buffer[..count]),
        }
        let Some(line) = decoder.next_line().map_err(io::Error::other)? else { continue };
        return Ok(match ClientMessage::decode(line) {
            Ok(ClientMessage::Request(request)) => match *request {
                Request { id, call: Call::PromptRequest(request) } => Ok((request, id)),
                Request { id, .. } => Err(Response::failure(
                    Some(id),
                    ErrorObject::new(ErrorKind::Usage, "only prompts are taken here"),
                )),
            },
            Ok(ClientMessage::Notification(_)) => Err(Response::failure(
                None,
                ErrorObject::new(ErrorKind::Usage, "only prompts are taken here"),
            )),
            Err(response) => Err(response),
        });
    }
}

fn respond(id: RequestId, answer: Option<Secret>) -> io::Result<Response> {
    match answer {
        Some(answer) => Response::success(id, &prompt::Reply { answer }).map_err(io::Error::other),
        None => Ok(Response::failure(Some(id), ErrorObject::new(ErrorKind::Interrupted, "declined"))),
    }
}

/// In a time that does not depend on where the two differ.
fn same(a: &Secret, b: &Secret) -> bool {
    let (a, b) = (a.reveal().as_bytes(), b.reveal().as_bytes());
    a.len() == b.len() && a.iter().zip(b).fold(0, |different, (a, b)| different | (a ^ b)) == 0
}

fn cut(mut text: String) -> String {
    let mut end = text.len().min(TEXT_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_are_put_as_ssh_means_them() {
        let cases: [(&str, Option<&str>, PromptKind); 6] = [
            ("me@box's password: ", None, PromptKind::Secret),
            ("Enter passphrase for key '/home/me/.ssh/id': ", None, PromptKind::Secret),
            ("Are you sure you want to continue connecting (yes/no/[fingerprint])? ", None, PromptKind::Line),
            ("Please type 'yes', 'no' or the fingerprint: ", None, PromptKind::Line),
            ("Allow use of key id?", Some("confirm"), PromptKind::Line),
            ("Confirm user presence for key", Some("none"), PromptKind::Notice),
        ];
        for (text, hint, kind) in cases {
            assert_eq!(kind_of(text, hint.map(OsStr::new)), kind, "{text}");
        }
    }

    #[test]
    fn the_program_is_known_by_its_name() {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("stead");
        for _ in 0..2 {
            let link = link_program(directory.path(), &program).unwrap();
            assert_eq!(std::fs::read_link(&link).unwrap(), program);
            assert!(is_askpass(link.as_os_str()) && !is_askpass(program.as_os_str()));
        }
        link_program(directory.path(), Path::new("/other/stead")).unwrap();
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_ticket_is_long_new_and_not_shown() {
        let (one, two) = (new_ticket().unwrap(), new_ticket().unwrap());
        assert_eq!(one.reveal().len(), 32);
        assert!(!same(&one, &two) && same(&one, &one.clone()));
        let environment = Environment::new("/p".into(), "/s".into(), one.clone());
        assert!(!format!("{environment:?}").contains(one.reveal()));
    }

    #[test]
    fn a_long_question_is_cut_between_characters() {
        assert_eq!(cut("é".repeat(TEXT_BYTES_MAX)).len(), TEXT_BYTES_MAX);
        assert_eq!(cut(format!("x{}", "é".repeat(TEXT_BYTES_MAX))).len(), TEXT_BYTES_MAX - 1);
    }
}
