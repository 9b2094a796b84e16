//! Logins to registries, as `docker login` keeps them.
//!
//! In `config.json` of docker's directory:
//!
//! | key | says |
//! |---|---|
//! | `credHelpers` | by registry, which program has its login: `docker-credential-NAME` |
//! | `credsStore` | the same for all others; what it does not know may be in `auths` |
//! | `auths` | by registry, `auth`: Base64 of user, `:` and password; or `identitytoken`, with which a token is asked for |
//!
//! A program of these is told the registry on its input and says user and secret on its output, so none of them is an argument that
//! other users see. It has the daemon's variables and not those of whoever asks, and ends with the pull, and so does all that it has
//! begun by then. Secrets are in no error and in no log, and are kept only as long as one image is pulled.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use data_encoding::BASE64;
use hyper::header::HeaderValue;
use rustix::process::{Pid, Signal, kill_process_group};
use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;
use wire::api::ErrorKind;

use crate::error::{Error, Result};
use crate::kernel::read_bounded;
use crate::program::{self, End};
use crate::system;

/// The longest configuration.
const CONFIG_BYTES_MAX: u64 = 1 << 20;

/// How long a program may take to say a login: it may ask a service of the computer for it.
const HELPER_TIMEOUT: Duration = Duration::from_secs(30);

/// The most that one says.
const HELPER_BYTES_MAX: u64 = 64 << 10;

/// The user of a login that is a token.
const TOKEN_USER: &str = "<token>";

/// What nobody is to see.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Secret")
    }
}

impl Secret {
    /// For whoever is to be told it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

/// Who somebody is to a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Login {
    /// A user with a password.
    Password(String, Secret),
    /// What a token is had for.
    Identity(Secret),
}

impl Login {
    fn new(user: &str, secret: String) -> Login {
        match user {
            TOKEN_USER => Login::Identity(Secret(secret)),
            _ => Login::Password(user.to_owned(), Secret(secret)),
        }
    }

    /// As it is said with a request; none of what is no password.
    pub fn basic(&self) -> Option<HeaderValue> {
        let Login::Password(user, password) = self else { return None };
        sensitive(&format!("Basic {}", BASE64.encode(format!("{user}:{}", password.0).as_bytes())))
    }
}

/// A header that is not shown.
pub fn sensitive(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Config {
    auths: BTreeMap<String, Kept>,
    #[serde(rename = "credsStore")]
    store: Option<String>,
    #[serde(rename = "credHelpers")]
    helpers: BTreeMap<String, String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Kept {
    auth: Option<String>,
    identitytoken: Option<String>,
}

impl fmt::Debug for Kept {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Kept")
    }
}

/// What a program says.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Said {
    username: String,
    secret: String,
}

/// The login to a registry, if there is one. `directory` is docker's.
pub async fn find(directory: Option<&Path>, registry: &str) -> Result<Option<Login>> {
    let Some(path) = directory.map(|directory| directory.join("config.json")) else { return Ok(None) };
    if !path.exists() {
        return Ok(None);
    }
    let text = read_bounded(&path, CONFIG_BYTES_MAX)?;
    let damaged = |why: &dyn fmt::Display| {
        Error::new(ErrorKind::Usage, format!("could not understand `{}`: {why}", path.display()))
    };
    // What it quotes of the text could be a secret.
    let config: Config = serde_json::from_slice(&text)
        .map_err(|error| damaged(&format_args!("line {}, column {}", error.line(), error.column())))?;
    if let Some((key, helper)) = config.helpers.iter().find(|(key, _)| is_of(key, registry)) {
        return ask(helper, key).await;
    }
    if let Some(store) = &config.store
        && let Some(login) = ask(store, registry).await?
    {
        return Ok(Some(login));
    }
    let Some((_, kept)) = config.auths.into_iter().find(|(key, _)| is_of(key, registry)) else {
        return Ok(None);
    };
    if let Some(token) = kept.identitytoken.filter(|token| !token.is_empty()) {
        return Ok(Some(Login::Identity(Secret(token))));
    }
    let Some(auth) = kept.auth.filter(|auth| !auth.is_empty()) else { return Ok(None) };
    let decoded = BASE64.decode(auth.trim().as_bytes()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let login = decoded.as_deref().and_then(|text| text.split_once(':'));
    let (user, password) =
        login.ok_or_else(|| damaged(&format_args!("the `auth` of `{registry}` is none")))?;
    Ok(Some(Login::new(user, password.trim_end_matches('\0').to_owned())))
}

/// Whether a key of the configuration is of this registry: keys may be addresses.
fn is_of(key: &str, registry: &str) -> bool {
    fn host(text: &str) -> &str {
        let text = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")).unwrap_or(text);
        text.split('/').next().unwrap_or_default()
    }
    host(key) == host(registry)
}

/// Asks a program for the login to a registry.
async fn ask(helper: &str, registry: &str) -> Result<Option<Login>> {
    let is_name = !helper.is_empty()
        && helper
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_' || byte == b'.');
    let name = format!("docker-credential-{helper}");
    if !is_name {
        return Err(Error::new(
            ErrorKind::Usage,
            format!("`{}` is no program for logins", name.escape_debug()),
        ));
    }
    let Some(path) = program::find(&name) else {
        let message =
            format!("docker's configuration has logins kept by `{name}`, which is not on this computer");
        return Err(Error::new(ErrorKind::NotFound, message)
            .hint("install it, or take its name from config.json in docker's directory"));
    };
    let said = tokio::time::timeout(HELPER_TIMEOUT, run(&path, registry)).await;
    let said = said.map_err(|_| {
        let message = format!("`{name}` has not said a login within {} s", HELPER_TIMEOUT.as_secs());
        Error::new(ErrorKind::TimedOut, message)
    })?;
    let failed = |why: &dyn fmt::Display| Error::new(ErrorKind::Failure, format!("`{name}` failed: {why}"));
    let (has_succeeded, output) = said.map_err(|error| failed(&error))?;
    if !has_succeeded {
        // It says on its output that it knows none, which is its only way to say so.
        let is_unknown = String::from_utf8_lossy(&output).contains("credentials not found");
        return if is_unknown { Ok(None) } else { Err(failed(&"it has ended with an error")) };
    }
    let said: Said = serde_json::from_slice(&output).map_err(|_| failed(&"what it says is no login"))?;
    Ok(Some(Login::new(&said.username, said.secret)))
}

async fn run(program: &Path, registry: &str) -> std::io::Result<(bool, Vec<u8>)> {
    // The thread that has it run is this one, which waits for it.
    let mut command = Command::from(system::tied(program, End::Killed).map_err(std::io::Error::other)?);
    command.arg("get").process_group(0);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
    let mut child = command.spawn()?;
    let group = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
    let group = Group(group);
    let (input, output) = (child.stdin.take(), child.stdout.take());
    let (Some(mut input), Some(output)) = (input, output) else {
        return Err(std::io::ErrorKind::BrokenPipe.into());
    };
    // One that knows what to say without it may have ended.
    let _unread = input.write_all(format!("{registry}\n").as_bytes()).await;
    drop(input);
    let mut said = Vec::new();
    output.take(HELPER_BYTES_MAX).read_to_end(&mut said).await?;
    let ended = child.wait().await?;
    // Its number may be somebody else's now, and what it leaves to serve the next one is its own business.
    group.leave();
    Ok((ended.success(), said))
}

/// A program that has not ended, with all that it has begun: killed unless it is left.
struct Group(Option<Pid>);

impl Group {
    fn leave(mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(leader) = self.0 {
            // All of it may have ended just now.
            let _ended = kill_process_group(leader, Signal::KILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
    }

    fn find_in(text: &str, registry: &str) -> Result<Option<Login>> {
        let scratch = tempfile::tempdir().unwrap();
        std::fs::write(scratch.path().join("config.json"), text).unwrap();
        block_on(find(Some(scratch.path()), registry))
    }

    fn password(user: &str, secret: &str) -> Option<Login> {
        Some(Login::Password(user.into(), Secret(secret.into())))
    }

    #[test]
    fn a_login_is_that_of_the_registry() {
        // user:pass:word
        let text = r#"{"auths": {"https://index.docker.io/v1/": {"auth": "dXNlcjpwYXNzOndvcmQ="},
            "a.example": {"identitytoken": "t"}, "b.example": {}, "c.example": {"auth": "!"}}, "other": 1}"#;
        let found = |registry: &str| find_in(text, registry);
        assert_eq!(found("https://index.docker.io/v1/").unwrap(), password("user", "pass:word"));
        assert_eq!(found("a.example").unwrap(), Some(Login::Identity(Secret("t".into()))));
        for none in ["b.example", "d.example", "a.example:80"] {
            assert_eq!(found(none).unwrap(), None, "{none}");
        }
        assert!(found("c.example").unwrap_err().message.contains("c.example"));
        assert_eq!(block_on(find(None, "a")).unwrap(), None);
        assert_eq!(block_on(find(Some(Path::new("/none")), "a")).unwrap(), None);
    }

    #[test]
    fn no_error_and_no_text_has_a_secret() {
        let error = find_in(r#"{"auths": {"a": {"auth": ["hidden"]}}}"#, "a").unwrap_err();
        assert!(!error.message.contains("hidden"), "{error}");
        let login = password("user", "hidden").unwrap();
        assert!(!format!("{login:?} {:?}", login.basic()).contains("hidden"));
        assert!(login.basic().unwrap().is_sensitive());
    }

    #[test]
    fn a_program_is_told_on_its_input_and_nothing_else_is_run() {
        for name in ["", "../x", "a b", "a/b", "a;b"] {
            assert_eq!(block_on(ask(name, "a")).unwrap_err().kind, ErrorKind::Usage, "{name}");
        }
        assert_eq!(block_on(ask("stead-none", "a")).unwrap_err().kind, ErrorKind::NotFound);
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("helper");
        let run_it = |script: &str| {
            std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
            block_on(run(&path, "a.example")).unwrap()
        };
        assert_eq!(run_it("read it; echo \"$1 $it $#\""), (true, b"get a.example 1\n".to_vec()));
        assert_eq!(run_it("echo no; exit 1"), (false, b"no\n".to_vec()));
        let (_, said) = run_it("head -c 1000000 /dev/zero");
        assert_eq!(said.len() as u64, HELPER_BYTES_MAX);
    }

    #[test]
    fn a_program_that_is_given_up_ends_with_all_that_it_has_begun() {
        use std::io::{BufRead, BufReader, Read};
        let scratch = tempfile::tempdir().unwrap();
        let (path, fifo) = (scratch.path().join("helper"), scratch.path().join("fifo"));
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &fifo,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        // All of it has the other end of the pipe open, and says so if it lives on.
        let script = format!("exec 3>{}; (echo begun >&3; sleep 60; echo lives >&3) & wait", fifo.display());
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
        let (begun, awaited) = tokio::sync::oneshot::channel();
        let listening = std::thread::spawn(move || {
            let mut said = BufReader::new(std::fs::File::open(&fifo).unwrap());
            let mut line = String::new();
            said.read_line(&mut line).unwrap();
            begun.send(line).unwrap();
            let mut rest = String::new();
            said.read_to_string(&mut rest).unwrap();
            rest
        });
        block_on(async {
            tokio::select! {
                ended = run(&path, "a.example") => panic!("{ended:?}"),
                line = awaited => assert_eq!(line.unwrap(), "begun\n"),
            }
        });
        assert_eq!(listening.join().unwrap(), "");
    }
}
