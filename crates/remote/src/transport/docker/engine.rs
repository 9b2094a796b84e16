//! Which engine a user means, as `docker` itself would find it.
//!
//! The first of these that says something:
//!
//! | where | what |
//! |---|---|
//! | `DOCKER_HOST` | `unix:///PATH` or `tcp://HOST[:PORT]`, by itself port 2375 |
//! | `DOCKER_CONTEXT` | the name of a context |
//! | `currentContext` in `${DOCKER_CONFIG:-~/.docker}/config.json` | the same |
//! | the sockets of Docker, of the user's Podman and of the computer's | the first that can be opened, else the first |
//!
//! A context is in `${DOCKER_CONFIG:-~/.docker}/contexts/meta/DIGEST/meta.json`; the one called `default` is the last row.
//! Neither TLS nor ssh is spoken: an engine that wants them is refused. Nothing of what is refused is repeated, since it may
//! hold a password.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use wire::api::error::ErrorKind;

use super::CarrierError;

/// The port of an engine without TLS, where none is said.
const PORT: u16 = 2375;

/// The longest path of a unix socket.
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// The longest host name with its port.
const HOST_BYTES_MAX: usize = 262;

/// `docker`'s configuration and the description of a context are not longer. A configuration may hold much that is not read.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// So many contexts are looked through.
const CONTEXTS_MAX: usize = 1024;

/// Where an engine listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Engine {
    /// At a unix socket: an absolute path.
    Unix(String),
    /// At `HOST:PORT`, without TLS.
    Tcp(String),
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Engine::Unix(path) => write!(f, "unix://{path}"),
            Engine::Tcp(address) => write!(f, "tcp://{address}"),
        }
    }
}

impl Engine {
    /// Reads an endpoint as `docker -H` takes it. `origin` is who says it, for errors.
    pub fn parse(text: &str, origin: &str) -> Result<Engine, CarrierError> {
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err(wrong(origin, "is not a URL like unix:///var/run/docker.sock"));
        };
        match scheme {
            "unix" => socket(rest, origin),
            "tcp" | "http" => address(rest, origin),
            "ssh" => Err(wrong(origin, "names an engine behind ssh, which stead does not speak with").with_hint(
                "ssh -N -L /tmp/docker.sock:/var/run/docker.sock HOST, and DOCKER_HOST=unix:///tmp/docker.sock",
            )),
            "https" => Err(tls(origin)),
            _ => Err(wrong(origin, "names neither a unix:// nor a tcp:// engine")),
        }
    }
}

fn socket(path: &str, origin: &str) -> Result<Engine, CarrierError> {
    if !path.starts_with('/') || path.contains('\0') {
        return Err(wrong(origin, "names a socket without an absolute path"));
    }
    match path.len() <= SOCKET_PATH_BYTES_MAX {
        true => Ok(Engine::Unix(path.to_owned())),
        false => Err(wrong(origin, "names a socket whose path is too long")),
    }
}

fn address(rest: &str, origin: &str) -> Result<Engine, CarrierError> {
    let address = rest.strip_suffix('/').unwrap_or(rest);
    if address.contains('@') {
        return Err(wrong(origin, "has a user name, which a tcp:// engine does not take"));
    }
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte);
    if address.is_empty() || address.len() > HOST_BYTES_MAX || !address.bytes().all(good) {
        return Err(wrong(origin, "names an engine whose address is not HOST:PORT"));
    }
    let port_of = |address: &str| Some(address.rsplit_once(':')?.1.parse::<u16>());
    match (address.ends_with(']'), port_of(address)) {
        (false, Some(Ok(port))) if port != 0 => Ok(Engine::Tcp(address.to_owned())),
        (true, _) | (false, None) => Ok(Engine::Tcp(format!("{address}:{PORT}"))),
        (false, Some(_)) => Err(wrong(origin, "names an engine whose port is none")),
    }
}

fn wrong(origin: &str, why: &str) -> CarrierError {
    CarrierError::new(ErrorKind::Usage, format!("{origin} {why}"))
}

fn tls(origin: &str) -> CarrierError {
    wrong(origin, "wants TLS, which stead does not speak with an engine").with_hint(
        "ssh -N -L /tmp/docker.sock:/var/run/docker.sock HOST, and DOCKER_HOST=unix:///tmp/docker.sock",
    )
}

/// Finds the engine of a user with these variables. `runtime_dir` is where his Podman has its socket. Reads files; blocks.
pub fn resolve(
    variable: impl Fn(&str) -> Option<PathBuf>,
    runtime_dir: Option<&Path>,
) -> Result<Engine, CarrierError> {
    let text = |name: &str| -> Result<Option<String>, CarrierError> {
        let value = variable(name).filter(|value| !value.as_os_str().is_empty());
        let is_text = |value: PathBuf| {
            value.into_os_string().into_string().map_err(|_| wrong(name, "is not text in UTF-8"))
        };
        value.map(is_text).transpose()
    };
    if let Some(host) = text("DOCKER_HOST")? {
        let engine = Engine::parse(&host, "DOCKER_HOST")?;
        return match (&engine, text("DOCKER_TLS_VERIFY")?) {
            (Engine::Tcp(_), Some(_)) => Err(tls("DOCKER_TLS_VERIFY")),
            _ => Ok(engine),
        };
    }
    let directory = variable("DOCKER_CONFIG")
        .filter(|path| path.is_absolute())
        .or_else(|| Some(variable("HOME").filter(|path| path.is_absolute())?.join(".docker")));
    let context = match (text("DOCKER_CONTEXT")?, &directory) {
        (Some(name), _) => Some(name),
        (None, Some(directory)) => current_context(directory)?,
        (None, None) => None,
    };
    match (context.filter(|name| name != "default" && !name.is_empty()), directory) {
        (None, _) => usual(runtime_dir),
        (Some(name), Some(directory)) => of_context(&directory, &name),
        (Some(_), None) => Err(wrong("DOCKER_CONTEXT", "is set, and HOME is not")),
    }
}

/// The engine that listens where engines usually do.
fn usual(runtime_dir: Option<&Path>) -> Result<Engine, CarrierError> {
    let users = runtime_dir.map(|directory| directory.join("podman/podman.sock"));
    let users = users.and_then(|path| path.into_os_string().into_string().ok());
    let known = [Some("/var/run/docker.sock".to_owned()), users, Some("/run/podman/podman.sock".to_owned())];
    let known: Vec<String> = known.into_iter().flatten().collect();
    let may_use = |path: &&String| rustix::fs::access(path.as_str(), rustix::fs::Access::WRITE_OK).is_ok();
    let is_there = |path: &&String| Path::new(path).exists();
    let found = known.iter().find(may_use).or_else(|| known.iter().find(is_there));
    match found {
        Some(path) => Ok(Engine::Unix(path.clone())),
        None => {
            let message = format!("there is no container engine: none of {} is there", known.join(", "));
            Err(CarrierError::new(ErrorKind::Unreachable, message)
                .with_hint("start Docker or Podman, or say with DOCKER_HOST where it listens"))
        }
    }
}

/// The context that the user has chosen for good.
fn current_context(directory: &Path) -> Result<Option<String>, CarrierError> {
    #[derive(Deserialize)]
    struct Config {
        #[serde(rename = "currentContext", default)]
        current_context: Option<String>,
    }
    let path = directory.join("config.json");
    Ok(read_json::<Config>(&path)?.and_then(|config| config.current_context))
}

/// What describes a context, as far as it is read.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Meta {
    name: String,
    #[serde(default)]
    endpoints: Endpoints,
}

#[derive(Default, Deserialize)]
struct Endpoints {
    docker: Option<Endpoint>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Endpoint {
    #[serde(default)]
    host: String,
}

fn of_context(directory: &Path, name: &str) -> Result<Engine, CarrierError> {
    let origin = format!("the docker context `{}`", name.escape_default());
    let missing = || {
        let message = format!("{origin} is not there");
        CarrierError::new(ErrorKind::NotFound, message).with_hint("docker context ls")
    };
    // The directories are called after digests of the names, which are in them too.
    let entries = std::fs::read_dir(directory.join("contexts/meta")).map_err(|_| missing())?;
    for entry in entries.flatten().take(CONTEXTS_MAX) {
        let Some(meta) = read_json::<Meta>(&entry.path().join("meta.json"))? else { continue };
        if meta.name != name {
            continue;
        }
        let host = meta.endpoints.docker.map(|endpoint| endpoint.host).unwrap_or_default();
        let engine = Engine::parse(&host, &origin)?;
        let keys = directory.join("contexts/tls").join(entry.file_name()).join("docker");
        return match matches!(engine, Engine::Tcp(_)) && keys.exists() {
            true => Err(tls(&origin)),
            false => Ok(engine),
        };
    }
    Err(missing())
}

/// `None` where there is no such file.
fn read_json<T: for<'a> Deserialize<'a>>(path: &Path) -> Result<Option<T>, CarrierError> {
    let shown = path.display();
    let failed = |why: &dyn fmt::Display| {
        CarrierError::new(ErrorKind::Failure, format!("could not read `{shown}`: {why}"))
    };
    let mut text = Vec::new();
    let read = File::open(path).and_then(|file| file.take(FILE_BYTES_MAX).read_to_end(&mut text));
    match read {
        // What stands there may be a secret: where it is wrong is enough.
        Ok(_) => serde_json::from_slice(&text).map(Some).map_err(|error| {
            failed(&format_args!(
                "line {}, column {} is not what docker writes",
                error.line(),
                error.column()
            ))
        }),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(None)
        }
        Err(error) => Err(failed(&error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Engine, CarrierError> {
        Engine::parse(text, "DOCKER_HOST")
    }

    #[test]
    fn endpoints_are_read_as_docker_writes_them() {
        let cases = [
            ("unix:///run/d.sock", "unix:///run/d.sock"),
            ("tcp://box", "tcp://box:2375"),
            ("tcp://box:1234/", "tcp://box:1234"),
            ("http://127.0.0.1:1", "tcp://127.0.0.1:1"),
            ("tcp://[::1]", "tcp://[::1]:2375"),
            ("tcp://[::1]:99", "tcp://[::1]:99"),
        ];
        for (text, expected) in cases {
            let engine = parse(text).unwrap();
            assert_eq!(engine.to_string(), expected);
            assert_eq!(parse(expected).unwrap(), engine);
        }
    }

    #[test]
    fn what_is_refused_is_not_repeated() {
        let cases = [
            "ssh://me:s3cret@box",
            "https://s3cret@box",
            "tcp://me:s3cret@box:1",
            "npipe:////./pipe/s3cret",
            "s3cret",
            "tcp://box/s3cret",
            "unix://s3cret",
            "tcp://box:s3cret",
            "tcp://box:0",
            "tcp://",
            "fd://s3cret",
        ];
        for text in cases {
            let error = parse(text).unwrap_err();
            assert_eq!(error.kind, ErrorKind::Usage, "{text}");
            let said = format!("{error} {}", error.hint.as_deref().unwrap_or_default());
            assert!(said.starts_with("DOCKER_HOST ") && !said.contains("s3cret"), "{said}");
        }
    }

    /// A home with two contexts, of which one has keys.
    fn home() -> tempfile::TempDir {
        let home = tempfile::tempdir().unwrap();
        for (digest, name, host) in
            [("1", "far", "tcp://box:99"), ("2", "near", "unix:///near"), ("3", "safe", "tcp://s")]
        {
            let directory = home.path().join(".docker/contexts/meta").join(digest);
            std::fs::create_dir_all(&directory).unwrap();
            let meta = format!(
                r#"{{"Name":"{name}","Metadata":{{}},"Endpoints":{{"docker":{{"Host":"{host}","SkipTLSVerify":false}}}}}}"#
            );
            std::fs::write(directory.join("meta.json"), meta).unwrap();
        }
        std::fs::create_dir_all(home.path().join(".docker/contexts/tls/3/docker")).unwrap();
        home
    }

    fn found(home: &Path, variables: &[(&str, &str)]) -> Result<String, String> {
        let variable = |name: &str| match name {
            "HOME" => Some(home.to_owned()),
            _ => variables.iter().find(|(known, _)| *known == name).map(|(_, value)| PathBuf::from(value)),
        };
        resolve(variable, None).map(|engine| engine.to_string()).map_err(|error| error.message)
    }

    #[test]
    fn the_engine_is_the_one_that_docker_would_use() {
        let home = home();
        let found = |variables: &[(&str, &str)]| found(home.path(), variables);
        let host = ("DOCKER_HOST", "unix:///own");
        assert_eq!(found(&[host, ("DOCKER_CONTEXT", "far")]).unwrap(), "unix:///own");
        assert_eq!(found(&[("DOCKER_CONTEXT", "far")]).unwrap(), "tcp://box:99");
        std::fs::write(home.path().join(".docker/config.json"), r#"{"auths":{},"currentContext":"near"}"#)
            .unwrap();
        assert_eq!(found(&[]).unwrap(), "unix:///near");
        assert_eq!(found(&[("DOCKER_CONTEXT", "far")]).unwrap(), "tcp://box:99");
        assert!(found(&[("DOCKER_CONTEXT", "gone")]).unwrap_err().contains("`gone` is not there"));
        assert!(found(&[("DOCKER_CONTEXT", "safe")]).unwrap_err().contains("TLS"));
        assert!(
            found(&[("DOCKER_HOST", "tcp://x"), ("DOCKER_TLS_VERIFY", "1")]).unwrap_err().contains("TLS")
        );
        std::fs::write(home.path().join(".docker/config.json"), "{s3cret").unwrap();
        let broken = found(&[]).unwrap_err();
        assert!(broken.contains("config.json") && !broken.contains("s3cret"), "{broken}");
    }
}
