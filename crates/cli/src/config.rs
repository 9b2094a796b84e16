//! The user's configuration: what holds where neither the environment nor an argument says anything.
//!
//! ```toml
//! # ~/.config/stead/config.toml
//! log = "daemon=debug"               # STEAD_LOG
//! agent = "~/bin/stead-agent"        # STEAD_AGENT
//! ssh-config = "~/.ssh/other"        # STEAD_SSH_CONFIG
//! probe-interval = 5000              # STEAD_PROBE_INTERVAL
//!
//! [mount]
//! backend = "fuse"                   # --backend
//! sync = "close"                     # --sync
//! options = ["allow-other"]          # -o; one that is given as an argument goes before one of the same name
//!
//! [connection]
//! heartbeat-interval = 5000          # --heartbeat-interval
//! max-heartbeat-failures = 3         # --max-heartbeat-failures
//! ```
//!
//! The file is `$XDG_CONFIG_HOME/stead/config.toml`, or `~/.config/stead/config.toml`. What is not known there is an error,
//! as a flag that is not known is one. The daemon gets its part as the variables it would be told by otherwise, when it
//! starts.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use wire::api::ErrorKind;
use wire::api::mount::{Backend, SyncMode};

use crate::error::{Error, Result};
use crate::output::text::quoted;

/// A configuration is not longer than that.
const CONFIG_BYTES_MAX: u64 = 64 << 10;

/// What the file says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    /// What the daemon logs.
    pub log: Option<String>,
    /// The agent to place on machines. Absolute.
    pub agent: Option<PathBuf>,
    /// An ssh configuration in place of the user's. Absolute.
    pub ssh_config: Option<PathBuf>,
    /// Milliseconds between two looks at each mount.
    pub probe_interval: Option<u64>,
    /// How mounts are made.
    pub mount: MountDefaults,
    /// How links are kept.
    pub connection: LinkDefaults,
}

/// How mounts are made where `stead mount` is told nothing else.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct MountDefaults {
    /// How to serve them.
    pub backend: Option<Backend>,
    /// What closing a file waits for.
    pub sync: Option<SyncMode>,
    /// Options of the backend, as after `-o`.
    pub options: Vec<String>,
}

/// How links are kept where no command is told anything else.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct LinkDefaults {
    /// Milliseconds between two heartbeats.
    pub heartbeat_interval: Option<u64>,
    /// How many in a row may go unanswered.
    pub max_heartbeat_failures: Option<u32>,
}

/// Where the file is, whether it is there or not; none where there is no home.
pub fn path(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    // The XDG specification has relative values ignored.
    let directory = |name| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = directory("XDG_CONFIG_HOME").or_else(|| Some(directory("HOME")?.join(".config")))?;
    Some(base.join("stead/config.toml"))
}

impl Config {
    /// Reads the file at `path`; one that is not there says nothing.
    pub fn read(path: &Path, home: Option<&Path>) -> Result<Config> {
        let text = match text(path) {
            Ok(text) => text,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(Config::default());
            }
            Err(error) => return Err(Error::io(format_args!("could not read `{}`", path.display()), &error)),
        };
        Config::parse(&text, home).map_err(|why| {
            let error = Error::new(ErrorKind::Usage, format!("could not read `{}`: {why}", path.display()));
            match nearest(&why) {
                Some(meant) => error.hint(format!("did you mean `{meant}`?")),
                None => error.hint("stead --help says what the configuration may say"),
            }
        })
    }

    fn parse(text: &str, home: Option<&Path>) -> std::result::Result<Config, String> {
        let mut config: Config = toml::from_str(text).map_err(|error| {
            let line = error.span().map(|span| 1 + text[..span.start].matches('\n').count());
            let place = line.map(|line| format!("line {line}: ")).unwrap_or_default();
            format!("{place}{}", error.message().replace(char::is_control, " "))
        })?;
        for (name, path) in [("agent", &mut config.agent), ("ssh-config", &mut config.ssh_config)] {
            if let Some(path) = path {
                if let (Ok(rest), Some(home)) = (path.strip_prefix("~"), home) {
                    *path = home.join(rest);
                }
                if !path.is_absolute() {
                    return Err(format!(
                        "{name} is {}, which is not an absolute path",
                        quoted(path.as_os_str().as_bytes())
                    ));
                }
            }
        }
        Ok(config)
    }

    /// The value for one of the daemon's variables.
    pub fn variable(&self, name: &str) -> Option<OsString> {
        let path = |path: &Option<PathBuf>| path.clone().map(PathBuf::into_os_string);
        match name {
            "STEAD_LOG" => self.log.clone().map(OsString::from),
            "STEAD_AGENT" => path(&self.agent),
            "STEAD_SSH_CONFIG" => path(&self.ssh_config),
            "STEAD_PROBE_INTERVAL" => self.probe_interval.map(|interval| interval.to_string().into()),
            _ => None,
        }
    }
}

/// The variables that a daemon reads when it starts, but for the one that says where it is.
pub const DAEMON_VARIABLES: &[&str] =
    &["STEAD_LOG", "STEAD_AGENT", "STEAD_SSH_CONFIG", "STEAD_PROBE_INTERVAL"];

/// What a word that is not known was probably meant to be: of the words that serde lists after it, the one that the fewest
/// slips of the finger lead to.
fn nearest(why: &str) -> Option<&str> {
    let (_, unknown) = why.split_once("unknown ")?;
    let mut words = unknown.split('`').skip(1).step_by(2);
    let written = words.next()?;
    // More slips than that make another word.
    let slips_max = (written.len() / 3).max(1);
    let slips = |word: &&str| strsim::osa_distance(written, word);
    words.filter(|word| slips(word) <= slips_max).min_by_key(slips)
}

fn text(path: &Path) -> io::Result<String> {
    // A pipe that is called so would be waited for.
    if !path.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a file"));
    }
    let mut text = String::new();
    File::open(path)?.take(CONFIG_BYTES_MAX + 1).read_to_string(&mut text)?;
    match text.len() as u64 > CONFIG_BYTES_MAX {
        true => Err(io::Error::new(io::ErrorKind::InvalidData, "it is longer than 64 KiB")),
        false => Ok(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> std::result::Result<Config, String> {
        Config::parse(text, Some(Path::new("/home/u")))
    }

    #[test]
    fn what_the_module_shows_is_understood() {
        let shown = include_str!("config.rs").lines().skip_while(|line| *line != "//! ```toml").skip(1);
        let shown: String = shown
            .take_while(|line| *line != "//! ```")
            .map(|line| format!("{}\n", line.trim_start_matches("//!").trim_start()))
            .collect();
        let config = parse(&shown).unwrap();
        assert_eq!(config.variable("STEAD_LOG").unwrap(), "daemon=debug");
        assert_eq!(config.variable("STEAD_AGENT").unwrap(), "/home/u/bin/stead-agent");
        assert_eq!(config.variable("STEAD_SSH_CONFIG").unwrap(), "/home/u/.ssh/other");
        assert_eq!(config.variable("STEAD_PROBE_INTERVAL").unwrap(), "5000");
        assert_eq!((config.mount.backend, config.mount.sync), (Some(Backend::Fuse), Some(SyncMode::Close)));
        assert_eq!(config.mount.options, ["allow-other"]);
        assert_eq!(config.connection.heartbeat_interval, Some(5000));
        assert_eq!(config.connection.max_heartbeat_failures, Some(3));
        assert!(DAEMON_VARIABLES.iter().all(|name| config.variable(name).is_some()));
    }

    #[test]
    fn an_empty_one_says_nothing() {
        assert_eq!(parse("").unwrap(), Config::default());
        assert!(DAEMON_VARIABLES.iter().all(|name| Config::default().variable(name).is_none()));
    }

    #[test]
    fn what_is_not_known_is_refused_with_its_line() {
        for (text, line, says) in [
            ("log = 'info'\nlogs = 'x'\n", "line 2: ", "`logs`"),
            ("[mount]\nsync = 'sometimes'\n", "line 2: ", "`sometimes`"),
            ("\n\n[mounts]\n", "line 3: ", "`mounts`"),
            ("log = 1\n", "line 1: ", "string"),
            ("log = \"\u{1b}[2J\n", "line 1: ", ""),
            ("agent = 'bin/agent'\n", "", "absolute"),
            ("[connection]\nmax-heartbeat-failures = -1\n", "line 2: ", ""),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.starts_with(line) && error.contains(says), "{error}");
            assert!(!error.contains(char::is_control), "{error:?}");
        }
    }

    #[test]
    fn what_is_mistyped_is_guessed() {
        for (text, meant) in [
            ("[mount]\nsinc = 'async'\n", Some("sync")),
            ("lgo = 'info'\n", Some("log")),
            ("[connection]\nhearbeat-interval = 5\n", Some("heartbeat-interval")),
            ("ssh_config = '/x'\n", Some("ssh-config")),
            ("[mounts]\n", Some("mount")),
            ("[mount]\nsync = 'cloes'\n", Some("close")),
            ("colour = 'blue'\n", None),
            ("log = 1\n", None),
        ] {
            assert_eq!(nearest(&parse(text).unwrap_err()), meant, "{text}");
        }
    }

    #[test]
    fn it_is_where_xdg_says() {
        let at = |variables: &[(&str, &str)]| {
            let found = |name: &str| variables.iter().find(|(known, _)| *known == name);
            path(|name| found(name).map(|(_, value)| value.into())).map(|path| path.display().to_string())
        };
        assert_eq!(at(&[("XDG_CONFIG_HOME", "/c"), ("HOME", "/h")]).unwrap(), "/c/stead/config.toml");
        assert_eq!(at(&[("XDG_CONFIG_HOME", "c"), ("HOME", "/h")]).unwrap(), "/h/.config/stead/config.toml");
        assert_eq!(at(&[]), None);
    }

    #[test]
    fn what_is_no_short_file_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.toml");
        assert_eq!(Config::read(&path, None).unwrap(), Config::default());
        std::fs::write(&path, "#".repeat(CONFIG_BYTES_MAX as usize + 1)).unwrap();
        assert!(Config::read(&path, None).is_err());
        std::fs::write(&path, "#".repeat(CONFIG_BYTES_MAX as usize)).unwrap();
        assert!(Config::read(&path, None).is_ok());
        assert!(Config::read(directory.path(), None).is_err());
        std::fs::write(&path, [0xff]).unwrap();
        assert!(Config::read(&path, None).is_err());
    }
}
