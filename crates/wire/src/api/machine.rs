//! `machine.*`, and how machines and sources are written.
//!
//! | written | machine | path |
//! |---|---|---|
//! | `host`, `host/PATH`, `host:PATH`, `host://PATH` | this computer | |
//! | `/PATH`, `./PATH`, `NAME` | this computer | made absolute |
//! | `ssh://[USER@]HOST[:PORT][/PATH]` | over ssh | |
//! | `HOST:PATH`, `USER@HOST:PATH` | over ssh, as scp has it | |
//! | `docker://CONTAINER[/PATH]` | a container | |
//! | `vm://NAME[/PATH]` | a microVM | |
//! | `thread:NAME` | not a machine: a thread | |
//!
//! A colon before the first slash makes a text an scp one; `./a:b` is a local file. An IPv6 address stands in brackets.
//! In a URL, `/PATH` is absolute, and `/~/PATH` and no path at all are relative to the login's home directory; an scp
//! path without a leading slash is too. Nothing is percent-decoded: a path is the bytes that were written.
//!
//! What ssh would take for an option, or a shell for more than a word, is refused as a host or user name.

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv6Addr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::mount::{Force, RemovedMount};
use super::status::ConnectionState;
use crate::bytestring::ByteString;

/// The longest host name: that of DNS.
pub const HOST_BYTES_MAX: usize = 253;
/// The longest user, container, VM or thread name.
pub const NAME_BYTES_MAX: usize = 128;
/// The longest path that is accepted as a source: Linux's PATH_MAX. What lies deeper is descended to, not named.
pub const PATH_BYTES_MAX: usize = 4096;

/// A place with files and processes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Machine {
    /// This computer.
    Host,
    /// Over the user's OpenSSH.
    Ssh(SshTarget),
    /// A container of the local engine.
    Docker {
        /// Its name or id.
        container: String,
    },
    /// A microVM of this daemon.
    Vm {
        /// Its name.
        name: String,
    },
}

/// What `ssh` is told. Validated: neither part can be taken for an option or hold a shell's special characters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SshTarget {
    user: Option<String>,
    host: String,
    port: Option<u16>,
}

impl SshTarget {
    /// Checks the parts. `host` is a name or alias, an IPv4 address, or an IPv6 address without brackets.
    pub fn new(user: Option<&str>, host: &str, port: Option<u16>) -> Result<SshTarget, SourceError> {
        if let Some(user) = user {
            check_user(user)?;
        }
        if port == Some(0) {
            return Err(SourceError::Port { port: "0".to_owned() });
        }
        match host.contains(':') {
            true => check_ipv6(host)?,
            false => check_host(host)?,
        }
        Ok(SshTarget { user: user.map(str::to_owned), host: host.to_owned(), port })
    }

    /// The user to log in as; none for what the ssh configuration says.
    pub fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }

    /// The host as ssh is to be given it: an IPv6 address has no brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port; none for what the ssh configuration says.
    pub fn port(&self) -> Option<u16> {
        self.port
    }
}

/// What a mount shows.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// A path on a machine.
    Files {
        /// Which machine.
        machine: Machine,
        /// Without empty and `.` components and without a trailing slash. Absolute, or relative to the home directory
        /// of the login there; empty for that directory itself.
        path: ByteString,
    },
    /// A thread.
    Thread {
        /// Its name.
        name: String,
    },
}

/// A text does not name a machine or a source.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// Nothing was written.
    #[error("a source is missing")]
    Empty,
    /// A byte that no path can hold.
    #[error("`{shown}` has a NUL byte")]
    Nul {
        /// The text, printable.
        shown: String,
    },
    /// Longer than [`PATH_BYTES_MAX`].
    #[error("a path of {bytes} bytes is too long to name")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// `http://…`
    #[error("there are no `{scheme}://` machines; there are host, ssh://, docker:// and vm://")]
    Scheme {
        /// What stood before `://`.
        scheme: String,
    },
    /// The host is missing, or is none.
    #[error("`{host}` is not a host name{}", hint(.host))]
    Host {
        /// What was given.
        host: String,
    },
    /// The user is missing, or is none.
    #[error("`{user}` is not a user name")]
    User {
        /// What was given.
        user: String,
    },
    /// The port is not 1 to 65535.
    #[error("`{port}` is not a port")]
    Port {
        /// What was given.
        port: String,
    },
    /// The name of a container, VM or thread is not one.
    #[error("`{name}` is not the name of a {noun}")]
    Name {
        /// What was given.
        name: String,
        /// What it should name.
        noun: &'static str,
    },
    /// A path where only a machine is wanted.
    #[error("`{shown}` has a path, and a machine is wanted")]
    PathOnMachine {
        /// What was given.
        shown: String,
    },
    /// A relative local path where nobody knows what it is relative to.
    #[error("`{shown}` is a relative path")]
    Relative {
        /// What was given.
        shown: String,
    },
}

fn hint(host: &str) -> &'static str {
    if host.is_empty() {
        return "; a machine is ssh://[USER@]HOST[:PORT]";
    }
    match host.matches(':').count() > 1 || host.starts_with('[') {
        true => "; an IPv6 address stands in brackets: [::1]",
        false => "",
    }
}

impl Machine {
    /// Reads a machine as people write it: a URL, `host`, `USER@HOST`, or the bare name of an ssh host.
    pub fn parse(text: &[u8]) -> Result<Machine, SourceError> {
        if text.is_empty() {
            return Err(SourceError::Empty);
        }
        if text == b"host" || text == b"host:" {
            return Ok(Machine::Host);
        }
        let is_url = find(text, b"://").is_some();
        if !is_url && !text.contains(&b'/') && !ends_scp_host(text) {
            return parse_login(text, None).map(Machine::Ssh);
        }
        if !is_url && !text.contains(&b':') {
            return Err(SourceError::PathOnMachine { shown: show(text) });
        }
        match Source::parse_absolute(text)? {
            Source::Files { machine, path } if path.is_empty() || (is_url && path.as_bytes() == b"/") => {
                Ok(machine)
            }
            _ => Err(SourceError::PathOnMachine { shown: show(text) }),
        }
    }
}

impl Source {
    /// A path on a machine, in the form that [`Source::Files`] promises.
    pub fn files(machine: Machine, path: impl Into<ByteString>) -> Result<Source, SourceError> {
        let path = path.into();
        check_path(path.as_bytes())?;
        Ok(Source::Files { machine, path: ByteString::from(normalise(path.as_bytes())) })
    }

    /// Reads a source as people write it. A plain path is taken relative to `cwd`, which must be absolute.
    pub fn parse(text: &[u8], cwd: &[u8]) -> Result<Source, SourceError> {
        match Source::parse_absolute(text) {
            Err(SourceError::Relative { .. }) => Source::files(Machine::Host, absolute(text, cwd)),
            outcome => outcome,
        }
    }

    /// The same where there is no current directory: a plain relative path is an error.
    pub fn parse_absolute(text: &[u8]) -> Result<Source, SourceError> {
        if text.is_empty() {
            return Err(SourceError::Empty);
        }
        check_path(text)?;
        if let Some(name) = text.strip_prefix(b"thread:") {
            return Ok(Source::Thread { name: check_name(name, "thread")? });
        }
        if let Some(at) = find(text, b"://").filter(|at| text[..*at].iter().all(|&byte| is_scheme(byte))) {
            return parse_url(&text[..at], &text[at + 3..]);
        }
        if text == b"host" {
            return Source::files(Machine::Host, "");
        }
        if text.starts_with(b"host/") {
            return Source::files(Machine::Host, home_relative(&text[4..]));
        }
        match split_scp(text)? {
            Some((b"host", path)) => Source::files(Machine::Host, path),
            Some((login, path)) => Source::files(Machine::Ssh(parse_login(login, None)?), path),
            None if text.starts_with(b"/") => Source::files(Machine::Host, text),
            None => Err(SourceError::Relative { shown: show(text) }),
        }
    }

    /// The canonical text, which [`parse_absolute`](Self::parse_absolute) reads back to an equal value.
    pub fn to_bytes(&self) -> Vec<u8> {
        let (machine, path) = match self {
            Source::Thread { name } => return format!("thread:{name}").into_bytes(),
            Source::Files { machine, path } => (machine, path.as_bytes()),
        };
        let mut text = machine.to_string().into_bytes();
        match path {
            b"" => {}
            [b'/', b'~'] | [b'/', b'~', b'/', ..] => text.extend([b"/.", path].concat()),
            [b'/', ..] => text.extend(path),
            relative => text.extend([b"/~/", relative].concat()),
        }
        text
    }

    /// The last component of the path, or the name of the machine or thread where there is none: what a directory
    /// that shows this may be called.
    pub fn base_name(&self) -> ByteString {
        let (machine, path) = match self {
            Source::Thread { name } => return ByteString::from(name.as_str()),
            Source::Files { machine, path } => (machine, path.as_bytes()),
        };
        let last = path.rsplit(|&byte| byte == b'/').find(|part| !part.is_empty() && *part != b"..");
        match (last, machine) {
            (Some(name), _) => ByteString::from(name),
            (None, Machine::Host) => ByteString::from("host"),
            (None, Machine::Ssh(target)) => ByteString::from(target.host()),
            (None, Machine::Docker { container }) => ByteString::from(container.as_str()),
            (None, Machine::Vm { name }) => ByteString::from(name.as_str()),
        }
    }
}

/// `text` as an absolute path: joined to `cwd` unless it is one, without empty and `.` components. `..` stays, since
/// what it means depends on the links before it.
pub fn absolute(text: &[u8], cwd: &[u8]) -> Vec<u8> {
    match text.starts_with(b"/") {
        true => normalise(text),
        false => normalise(&[cwd, b"/", text].concat()),
    }
}

fn normalise(path: &[u8]) -> Vec<u8> {
    let mut clean = Vec::with_capacity(path.len());
    for part in path.split(|&byte| byte == b'/').filter(|part| !part.is_empty() && *part != b".") {
        if !clean.is_empty() || path.starts_with(b"/") {
            clean.push(b'/');
        }
        clean.extend(part);
    }
    match clean.is_empty() && path.starts_with(b"/") {
        true => b"/".to_vec(),
        false => clean,
    }
}

/// The path of a URL: `/~` is the home directory.
fn home_relative(path: &[u8]) -> &[u8] {
    match path {
        [b'/', b'~'] => b"",
        [b'/', b'~', b'/', rest @ ..] => strip_slashes(rest),
        absolute => absolute,
    }
}

fn strip_slashes(path: &[u8]) -> &[u8] {
    let leading = path.iter().take_while(|&&byte| byte == b'/').count();
    &path[leading..]
}

fn parse_url(scheme: &[u8], rest: &[u8]) -> Result<Source, SourceError> {
    let (authority, path) = match rest.iter().position(|&byte| byte == b'/') {
        Some(at) => (&rest[..at], home_relative(&rest[at..])),
        None => (rest, &b""[..]),
    };
    let machine = match scheme {
        b"host" if authority.is_empty() => Machine::Host,
        b"host" => return Err(SourceError::Host { host: show(authority) }),
        b"ssh" => {
            let (login, port) = split_port(authority)?;
            Machine::Ssh(parse_login(login, port)?)
        }
        b"docker" => Machine::Docker { container: check_name(authority, "container")? },
        b"vm" => Machine::Vm { name: check_name(authority, "vm")? },
        unknown => return Err(SourceError::Scheme { scheme: show(unknown) }),
    };
    Source::files(machine, path)
}

/// Login and path.
type ScpParts<'a> = (&'a [u8], &'a [u8]);

/// Splits `HOST:PATH` when `text` has that form: at the first colon outside brackets, when no slash comes before it.
fn split_scp(text: &[u8]) -> Result<Option<ScpParts<'_>>, SourceError> {
    let before_slash = text.split(|&byte| byte == b'/').next().unwrap_or(text);
    if let Some(open) = before_slash.iter().position(|&byte| byte == b'[') {
        let Some(close) = before_slash.iter().position(|&byte| byte == b']').filter(|close| *close > open)
        else {
            return Ok(None);
        };
        return Ok(match text.get(close + 1) {
            Some(b':') => Some((&text[..=close], &text[close + 2..])),
            _ => None,
        });
    }
    let Some(colon) = before_slash.iter().position(|&byte| byte == b':') else {
        return Ok(None);
    };
    // `fe80::1:/x` would be taken for the host `fe80`.
    let colons = before_slash.iter().filter(|&&byte| byte == b':').count();
    let looks_like_ipv6 = before_slash.iter().all(|&byte| byte == b':' || byte.is_ascii_hexdigit());
    if colons > 1 && looks_like_ipv6 {
        return Err(SourceError::Host { host: show(before_slash) });
    }
    Ok(Some((&text[..colon], &text[colon + 1..])))
}

/// True for `HOST:` and `[ADDRESS]:`, which name a machine with an empty path.
fn ends_scp_host(text: &[u8]) -> bool {
    matches!(split_scp(text), Ok(Some((_, path))) if path.is_empty())
}

fn split_port(authority: &[u8]) -> Result<(&[u8], Option<u16>), SourceError> {
    let host_start = authority.iter().rposition(|&byte| byte == b'@').map_or(0, |at| at + 1);
    let host = &authority[host_start..];
    let colon = match host.first() {
        Some(b'[') => match host.iter().position(|&byte| byte == b']') {
            Some(close) if close + 1 == host.len() => None,
            Some(close) if host[close + 1] == b':' => Some(close + 1),
            _ => return Err(SourceError::Host { host: show(host) }),
        },
        _ => host.iter().rposition(|&byte| byte == b':'),
    };
    let Some(colon) = colon.map(|at| at + host_start) else {
        return Ok((authority, None));
    };
    let digits = &authority[colon + 1..];
    let port = std::str::from_utf8(digits)
        .ok()
        .filter(|digits| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()))
        .and_then(|digits| digits.parse::<u16>().ok())
        .filter(|port| *port != 0)
        .ok_or_else(|| SourceError::Port { port: show(digits) })?;
    Ok((&authority[..colon], Some(port)))
}

/// `[USER@]HOST` or `[USER@][ADDRESS]`. A user name may itself have an `@`.
fn parse_login(login: &[u8], port: Option<u16>) -> Result<SshTarget, SourceError> {
    let (user, host) = match login.iter().rposition(|&byte| byte == b'@') {
        Some(at) => (Some(&login[..at]), &login[at + 1..]),
        None => (None, login),
    };
    let user = match user {
        Some(user) => Some(std::str::from_utf8(user).map_err(|_| SourceError::User { user: show(user) })?),
        None => None,
    };
    let text = std::str::from_utf8(host).map_err(|_| SourceError::Host { host: show(host) })?;
    let inner = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    match inner {
        Some(address) if address.contains(':') => SshTarget::new(user, address, port),
        // Without brackets it is not known where an address ends and a port begins.
        None if !text.contains(':') => SshTarget::new(user, text, port),
        _ => Err(SourceError::Host { host: show(host) }),
    }
}

fn check_path(path: &[u8]) -> Result<(), SourceError> {
    if path.len() > PATH_BYTES_MAX {
        return Err(SourceError::TooLong { bytes: path.len() });
    }
    match path.contains(&0) {
        true => Err(SourceError::Nul { shown: show(path) }),
        false => Ok(()),
    }
}

fn check_host(host: &str) -> Result<(), SourceError> {
    let good = !host.is_empty()
        && host.len() <= HOST_BYTES_MAX
        && !host.starts_with(['-', '.'])
        && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_+".contains(&byte));
    if good { Ok(()) } else { Err(SourceError::Host { host: show(host.as_bytes()) }) }
}

/// An IPv6 address, with a zone if it needs one: `fe80::1%eth0`.
fn check_ipv6(host: &str) -> Result<(), SourceError> {
    let (address, zone) = host.split_once('%').map_or((host, None), |(address, zone)| (address, Some(zone)));
    let good_zone = zone.is_none_or(|zone| {
        !zone.is_empty()
            && zone.len() <= NAME_BYTES_MAX
            && zone.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte))
    });
    match address.parse::<Ipv6Addr>().is_ok() && good_zone {
        true => Ok(()),
        false => Err(SourceError::Host { host: show(host.as_bytes()) }),
    }
}

fn check_user(user: &str) -> Result<(), SourceError> {
    // A backslash separates a domain from a user; at the end it would escape what follows.
    let good = !user.is_empty()
        && user.len() <= NAME_BYTES_MAX
        && !user.starts_with('-')
        && !user.ends_with('\\')
        && user.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_+@\\".contains(&byte));
    if good { Ok(()) } else { Err(SourceError::User { user: show(user.as_bytes()) }) }
}

fn check_name(name: &[u8], noun: &'static str) -> Result<String, SourceError> {
    let good = name.len() <= NAME_BYTES_MAX
        && name.first().is_some_and(u8::is_ascii_alphanumeric)
        && name.iter().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(byte))
        && !name.ends_with(b".")
        && find(name, b"..").is_none();
    match std::str::from_utf8(name) {
        Ok(text) if good => Ok(text.to_owned()),
        _ => Err(SourceError::Name { name: show(name), noun }),
    }
}

fn is_scheme(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"+.-".contains(&byte)
}

fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    text.windows(wanted.len()).position(|window| window == wanted)
}

/// For an error message: printable, and not at length.
fn show(text: &[u8]) -> String {
    const SHOWN_BYTES_MAX: usize = 256;
    ByteString::from(&text[..text.len().min(SHOWN_BYTES_MAX)]).to_string()
}

impl fmt::Display for SshTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(user) = &self.user {
            write!(f, "{user}@")?;
        }
        match self.host.contains(':') {
            true => write!(f, "[{}]", self.host)?,
            false => write!(f, "{}", self.host)?,
        }
        match self.port {
            Some(port) => write!(f, ":{port}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Machine::Host => f.write_str("host"),
            Machine::Ssh(target) => write!(f, "ssh://{target}"),
            Machine::Docker { container } => write!(f, "docker://{container}"),
            Machine::Vm { name } => write!(f, "vm://{name}"),
        }
    }
}

/// For people; see [`ByteString`] on what is escaped.
impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&ByteString::from(self.to_bytes()), f)
    }
}

impl Serialize for Machine {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Machine {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Machine, D::Error> {
        let text = String::deserialize(deserializer)?;
        Machine::parse(text.as_bytes()).map_err(serde::de::Error::custom)
    }
}

/// In JSON a source is its canonical text, in the form of a [`ByteString`]. Any absolute form is read.
impl Serialize for Source {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        ByteString::from(self.to_bytes()).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Source {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Source, D::Error> {
        let text = ByteString::deserialize(deserializer)?;
        Source::parse_absolute(text.as_bytes()).map_err(serde::de::Error::custom)
    }
}

/// Whether a lost link is opened again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reconnect {
    /// With growing pauses, until it works.
    #[default]
    Automatic,
    /// A lost link stays lost: `--no-reconnect`.
    Never,
}

/// The environment variables of a caller that reach the ssh it causes to be started: where the user's keys, tickets
/// and helper programs are.
pub const CALLER_VARIABLES: &[&str] =
    &["HOME", "KRB5CCNAME", "LANG", "LOGNAME", "PATH", "SSH_AUTH_SOCK", "USER"];

/// The environment variables of a caller that say which container engine he means. They are asked for `docker://` machines
/// only, and reach no process.
pub const ENGINE_VARIABLES: &[&str] =
    &["DOCKER_CONFIG", "DOCKER_CONTEXT", "DOCKER_HOST", "DOCKER_TLS_VERIFY"];

/// Who asks, and from where. The daemon checks the ids against those of the socket's peer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Caller {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// The current directory, absolute.
    pub cwd: ByteString,
    /// Those of [`CALLER_VARIABLES`] and [`ENGINE_VARIABLES`] that are set. Others are ignored.
    #[serde(default)]
    pub environment: BTreeMap<String, ByteString>,
    /// Whether prompts can be put to this client.
    #[serde(default)]
    pub prompts: Prompts,
}

impl Caller {
    /// The caller as far as his use of `machine` depends on who he is: what may be written down.
    pub fn known_to(&self, machine: &Machine) -> Caller {
        let is_engine = matches!(machine, Machine::Docker { .. });
        let known =
            |name: &str| CALLER_VARIABLES.contains(&name) || (is_engine && ENGINE_VARIABLES.contains(&name));
        let mut caller = self.clone();
        caller.environment.retain(|name, _| known(name));
        caller
    }
}

/// Whether prompts can be put to a client.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Prompts {
    /// Nobody is there to answer: what would ask fails instead.
    #[default]
    Refused,
    /// The client answers [`prompt.ask`](super::prompt::Ask): it has a terminal or a program to ask with.
    Answered,
}

/// Opens a connection and keeps it until [`Disconnect`]. Answered once the agent answers. One that is open already is
/// kept, with the options of this request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Connect {
    /// Where to.
    pub machine: Machine,
    /// Whether a lost link is opened again.
    #[serde(default)]
    pub reconnect: Reconnect,
    /// Milliseconds between heartbeats; none for the default.
    #[serde(default)]
    pub heartbeat_interval_ms: Option<u64>,
    /// Heartbeats that may go unanswered before the link counts as lost, 0 for any number; none for the default.
    #[serde(default)]
    pub max_heartbeat_failures: Option<u32>,
    /// Who asks.
    pub caller: Caller,
}

/// Closes the link to a machine and opens it again at once; this client can be asked what the login asks. Mounts and
/// whatever else hangs on the connection stay, and go on with the new link. Without a connection one is opened, and
/// kept as [`Connect`] does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Redial {
    /// Which machine.
    pub machine: Machine,
    /// Whether a lost link is opened again; none for what was said before.
    #[serde(default)]
    pub reconnect: Option<Reconnect>,
    /// Milliseconds between heartbeats; none for what was said before.
    #[serde(default)]
    pub heartbeat_interval_ms: Option<u64>,
    /// Heartbeats that may go unanswered, 0 for any number; none for what was said before.
    #[serde(default)]
    pub max_heartbeat_failures: Option<u32>,
    /// Who asks.
    pub caller: Caller,
}

/// Closes a connection, and takes away what belongs to it: its mounts are unmounted, the processes that were started
/// through it end. When a mount cannot go, the connection stays with that mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Disconnect {
    /// Which one.
    pub machine: Machine,
    /// What to do about unsaved writes and mounts in use.
    #[serde(default)]
    pub force: Force,
}

/// The connection is closed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disconnected {
    /// The machine.
    pub machine: Machine,
    /// What it was before.
    pub was: ConnectionState,
    /// Its mounts, which are gone.
    #[serde(default)]
    pub mounts: Vec<RemovedMount>,
}

/// Looks at what works on a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Doctor {
    /// Which one; `host` is this computer.
    pub machine: Machine,
    /// Who asks.
    pub caller: Caller,
}

/// What works and what does not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The machine.
    pub machine: Machine,
    /// In the order in which one thing needs the other.
    pub checks: Vec<Check>,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// What: `fuse`, `ssh`, `agent`.
    pub name: String,
    /// How it is.
    pub verdict: Verdict,
    /// In one line, what was found.
    pub detail: String,
    /// The command that mends it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// How a checked thing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It works.
    Works,
    /// It works with a restriction.
    Limited,
    /// It does not work.
    Broken,
}

#[cfg(test)]
mod tests;
