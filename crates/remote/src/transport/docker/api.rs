//! What is asked of an engine.
//!
//! Nothing here says how large an answer may be: whoever asks has a limit of memory for all of them together, see
//! [`errand`](super::errand).

use std::collections::HashMap;
use std::error::Error as _;
use std::io;
use std::pin::Pin;
use std::time::Duration;

use bollard::Docker;
use bollard::container::LogOutput;
use bollard::errors::Error;
use bollard::exec::{CreateExecOptions, StartExecOptions, StartExecResults};
use bollard::models::ContainerInspectResponse;
use bollard::query_parameters::{
    DownloadFromContainerOptionsBuilder, EventsOptionsBuilder, UploadToContainerOptionsBuilder,
};
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use tokio::io::AsyncWrite;
use wire::api::error::ErrorKind;

use super::{CarrierError, Engine, in_one_line};

/// How long an engine may take to begin its answer. An agent travels meanwhile.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// What is read ahead of an agent's output.
const OUTPUT_BYTES: usize = 64 << 10;

/// An engine that is spoken with.
pub(super) struct Api {
    docker: Docker,
    /// For messages.
    engine: Engine,
}

/// A container that was looked at.
pub(super) struct Container {
    /// As the user calls it.
    pub name: String,
    pub id: String,
    /// When it was started.
    pub started: String,
    pub is_read_only: bool,
    image: String,
    is_running: bool,
    is_paused: bool,
    is_restarting: bool,
    exit_code: Option<i64>,
}

/// The streams of a program that runs in a container.
pub(super) struct Streams {
    /// Names it.
    pub exec: String,
    pub input: Pin<Box<dyn AsyncWrite + Send>>,
    pub output: Pin<Box<dyn Stream<Item = Result<LogOutput, Error>> + Send>>,
}

/// What is run in a container.
pub(super) struct Program {
    pub command: Vec<String>,
    /// None for the user that the container runs as.
    pub user: Option<String>,
}

impl Api {
    /// Opens nothing yet, but for a look at a socket.
    pub fn new(engine: Engine) -> Result<Api, CarrierError> {
        let (seconds, version) = (ANSWER_TIMEOUT.as_secs(), bollard::API_DEFAULT_VERSION);
        let docker = match &engine {
            Engine::Unix(path) => Docker::connect_with_unix(path, seconds, version),
            Engine::Tcp(address) => Docker::connect_with_http(address, seconds, version),
        };
        let docker = docker.map_err(|error| explain(&engine, &error))?;
        Ok(Api { docker, engine })
    }

    /// What goes wrong between here and the engine.
    pub fn explain(&self, error: &Error) -> CarrierError {
        explain(&self.engine, error)
    }

    /// The engine's name, version and architecture.
    pub async fn version(&self) -> Result<(String, String), CarrierError> {
        let version = self.docker.version().await.map_err(|error| self.explain(&error))?;
        let components = version.components.unwrap_or_default();
        let is_podman = components.iter().any(|component| component.name.contains("Podman"));
        let name = if is_podman { "Podman" } else { "Docker" };
        let number = version.version.unwrap_or_default();
        Ok((one_line(&format!("{name} {number}")), version.arch.unwrap_or_default()))
    }

    /// Looks at a container, by its id or as the user calls it. `None` if there is none.
    pub async fn find(&self, container: &str, name: &str) -> Result<Option<Container>, CarrierError> {
        match self.docker.inspect_container(container, None).await {
            Ok(found) => Ok(Some(Container::from_answer(found, name)?)),
            Err(Error::DockerResponseServerError { status_code: 404, .. }) => Ok(None),
            Err(error) => Err(self.explain(&error)),
        }
    }

    /// What the container's programs are made for, as Rust names it; otherwise as the engine does.
    pub async fn architecture(&self, container: &Container) -> Result<String, CarrierError> {
        let image = self.docker.inspect_image(&container.image).await;
        let of_image = image.ok().and_then(|image| Some((image.os, image.architecture?)));
        // The image of a container that runs may be gone.
        let (system, architecture) = match of_image {
            Some(found) => found,
            None => (None, self.version().await?.1),
        };
        match system.filter(|system| !system.is_empty() && system != "linux") {
            Some(system) => Ok(format!("{system} {architecture}")),
            None => Ok(rust_name(&architecture).to_owned()),
        }
    }

    /// The archive of a path in a container, `bytes_max` of it at most. `None` if there is nothing.
    pub async fn archive(
        &self,
        container: &str,
        path: &str,
        bytes_max: usize,
    ) -> Result<Option<Vec<u8>>, CarrierError> {
        let options = DownloadFromContainerOptionsBuilder::default().path(path).build();
        let mut stream = Box::pin(self.docker.download_from_container(container, Some(options)));
        let mut archive = Vec::new();
        while let Some(chunk) = stream.next().await {
            match chunk {
                Ok(chunk) => archive.extend_from_slice(&chunk),
                Err(Error::DockerResponseServerError { status_code: 404, .. }) => return Ok(None),
                Err(error) => return Err(self.explain(&error)),
            }
            if archive.len() >= bytes_max {
                archive.truncate(bytes_max);
                break;
            }
        }
        Ok(Some(archive))
    }

    /// Unpacks an archive in a container's root. A directory there stays one, and a file a file.
    pub async fn unpack(&self, container: &str, archive: Vec<u8>) -> Result<(), CarrierError> {
        let options =
            UploadToContainerOptionsBuilder::default().path("/").no_overwrite_dir_non_dir("1").build();
        let body = bollard::body_full(Bytes::from(archive));
        let unpacked = self.docker.upload_to_container(container, Some(options), body).await;
        unpacked.map_err(|error| self.explain(&error))
    }

    /// Starts a program in a container. That it cannot be run may be told by the answer or by its output and status.
    pub async fn start(&self, container: &Container, program: Program) -> Result<Streams, CarrierError> {
        let options = CreateExecOptions {
            attach_stdin: Some(true),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            cmd: Some(program.command),
            user: program.user,
            ..CreateExecOptions::default()
        };
        let failed = |error: &Error| match error {
            Error::DockerResponseServerError { status_code: 404, .. } => container.removed(),
            // Between the look and the start it stopped, or was paused.
            Error::DockerResponseServerError { status_code: 409, message } => {
                CarrierError::new(ErrorKind::Unreachable, one_line(message))
            }
            Error::DockerResponseServerError { status_code: 400 | 500, message } => {
                container.does_not_run(message)
            }
            error => self.explain(error),
        };
        let exec = self.docker.create_exec(&container.id, options).await.map_err(|error| failed(&error))?.id;
        let options = StartExecOptions { detach: false, tty: false, output_capacity: Some(OUTPUT_BYTES) };
        match self.docker.start_exec(&exec, Some(options)).await.map_err(|error| failed(&error))? {
            StartExecResults::Attached { output, input } => Ok(Streams { exec, input, output }),
            StartExecResults::Detached => {
                Err(CarrierError::new(ErrorKind::Failure, "the engine did not give the agent's streams"))
            }
        }
    }

    /// The exit status of a program that was started; `None` while it runs and when it is not known.
    pub async fn status(&self, exec: &str) -> Option<i64> {
        let found = self.docker.inspect_exec(exec).await.ok()?;
        found.exit_code.filter(|_| found.running != Some(true))
    }

    /// What happens to a container, as words of the engine's. It may end at any time, without a reason.
    pub fn events(&self, container: &str) -> impl Stream<Item = String> + Unpin + use<> {
        let filter = |name: &str, value: &str| (name.to_owned(), vec![value.to_owned()]);
        let filters: HashMap<String, Vec<String>> =
            [filter("type", "container"), filter("container", container)].into();
        let options = EventsOptionsBuilder::default().filters(&filters).build();
        let happened = self.docker.events(Some(options));
        let until_it_fails = happened.scan((), |(), event| std::future::ready(event.ok()));
        Box::pin(until_it_fails.map(|event| event.action.unwrap_or_default()))
    }
}

impl Container {
    fn from_answer(found: ContainerInspectResponse, name: &str) -> Result<Container, CarrierError> {
        let state = found.state.unwrap_or_default();
        let host = found.host_config.unwrap_or_default();
        let id = found.id.filter(|id| !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_alphanumeric()));
        let id = id.ok_or_else(|| {
            CarrierError::new(ErrorKind::Failure, "the engine tells of a container without an id")
        })?;
        Ok(Container {
            name: name.to_owned(),
            id,
            started: state.started_at.unwrap_or_default(),
            is_read_only: host.readonly_rootfs == Some(true),
            image: found.image.unwrap_or_default(),
            is_running: state.running == Some(true),
            is_paused: state.paused == Some(true),
            is_restarting: state.restarting == Some(true),
            exit_code: state.exit_code,
        })
    }

    /// In one line, how it is.
    pub fn state(&self) -> &'static str {
        match (self.is_restarting, self.is_paused, self.is_running) {
            (true, ..) => "restarting",
            (_, true, _) => "paused",
            (_, _, true) => "running",
            _ => "not running",
        }
    }

    /// Whether nothing runs in it any more.
    pub fn has_stopped(&self) -> bool {
        !self.is_running || self.is_restarting
    }

    /// Whether a program can be started in it.
    pub fn check(&self) -> Result<(), CarrierError> {
        let name = &self.name;
        let unreachable = |what: String| Err(CarrierError::new(ErrorKind::Unreachable, what));
        if self.is_restarting {
            return unreachable(format!("the container `{name}` is being started again"));
        }
        if self.is_paused {
            return unreachable(format!("the container `{name}` is paused"))
                .map_err(|error| error.with_hint(format!("docker unpause {name}")));
        }
        if self.is_running {
            return Ok(());
        }
        let how = self.exit_code.map(|code| format!(": it exited with status {code}")).unwrap_or_default();
        unreachable(format!("the container `{name}` is not running{how}"))
            .map_err(|error| error.with_hint(format!("docker start {name}")))
    }

    /// It was there, and is not any more.
    pub fn removed(&self) -> CarrierError {
        removed(&self.name)
    }

    /// The engine could not run the agent.
    pub fn does_not_run(&self, why: &str) -> CarrierError {
        let message = format!("the container `{}` does not run the agent: {}", self.name, one_line(why));
        CarrierError::new(ErrorKind::Refused, message)
    }
}

pub(super) fn removed(name: &str) -> CarrierError {
    CarrierError::new(ErrorKind::NotFound, format!("the container `{name}` was removed"))
}

/// An architecture of Go's as Rust names it.
fn rust_name(architecture: &str) -> &str {
    match architecture {
        "amd64" => "x86_64",
        "arm64" => "aarch64",
        "386" => "x86",
        other => other,
    }
}

fn explain(engine: &Engine, error: &Error) -> CarrierError {
    let new = CarrierError::new;
    if let Error::DockerResponseServerError { message, .. } = error {
        return new(ErrorKind::Failure, format!("the engine at {engine} refuses: {}", one_line(message)));
    }
    if let Error::RequestTimeoutError = error {
        let seconds = ANSWER_TIMEOUT.as_secs();
        return new(ErrorKind::TimedOut, format!("the engine at {engine} did not answer within {seconds} s"));
    }
    let missing = io::Error::from(io::ErrorKind::NotFound);
    let cause = match error {
        Error::SocketNotFoundError(_) => Some(&missing),
        error => system_error(error),
    };
    match cause.map(|cause| (cause.kind(), cause)) {
        Some((io::ErrorKind::PermissionDenied, _)) => {
            new(ErrorKind::Refused, format!("you may not use the engine at {engine}: permission denied"))
                .with_hint("sudo usermod -aG docker $USER, and log in again")
        }
        Some((io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused, _)) => {
            new(ErrorKind::Unreachable, format!("no container engine answers at {engine}"))
                .with_hint("start Docker or Podman, or say with DOCKER_HOST where it listens")
        }
        Some((_, cause)) => new(
            ErrorKind::Unreachable,
            format!("could not reach the engine at {engine}: {}", in_one_line(cause)),
        ),
        None => {
            new(ErrorKind::Failure, format!("could not ask the engine at {engine}: {}", in_one_line(error)))
        }
    }
}

/// The system's error behind one of a library.
fn system_error(error: &Error) -> Option<&io::Error> {
    let mut cause = error.source();
    if let Error::IOError { err } = error {
        return Some(err);
    }
    while let Some(error) = cause {
        if let Some(found) = error.downcast_ref::<io::Error>() {
            return Some(found);
        }
        cause = error.source();
    }
    None
}

/// What an engine says, as a line of a length that fits a message.
fn one_line(text: &str) -> String {
    const SHOWN_CHARACTERS_MAX: usize = 300;
    text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).take(SHOWN_CHARACTERS_MAX).collect()
}
