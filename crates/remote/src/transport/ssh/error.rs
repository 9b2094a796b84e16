//! What ssh's complaints mean.

use std::path::PathBuf;
use std::time::Duration;

use wire::api::error::{ErrorKind, ErrorObject};
use wire::api::machine::SshTarget;

use crate::transport::program::{Exit, ProgramError};

/// Why a machine cannot be reached through ssh.
#[derive(Debug, thiserror::Error)]
pub enum SshError {
    /// The host's name means nothing.
    #[error("could not find the host `{host}`: {said}")]
    Resolve {
        /// The name.
        host: String,
        /// What ssh said.
        said: String,
    },
    /// There is no way to the machine, or nobody listens there.
    #[error("could not reach `{target}`: {said}")]
    Unreachable {
        /// Whom.
        target: String,
        /// What ssh said.
        said: String,
    },
    /// The machine did not answer in time.
    #[error("`{target}` did not answer in time: {said}")]
    TimedOut {
        /// Whom.
        target: String,
        /// What ssh said, or how long was waited.
        said: String,
    },
    /// The machine shows another host key than the one that is known. Nothing was sent to it.
    #[error(
        "the host key of `{target}` is not the one that is known ({place}): the machine was set up anew, or it is another"
    )]
    HostKeyChanged {
        /// Whom.
        target: String,
        /// Where the known key is written down.
        place: String,
        /// What removes the known key, if the change was expected.
        mend: String,
    },
    /// No host key of the machine is known, and nobody has said that the one it shows is right.
    #[error("the host key of `{target}` is not known and was not accepted")]
    HostKeyUnknown {
        /// Whom.
        target: String,
        /// What makes it known.
        mend: String,
    },
    /// The machine does not let the user in.
    #[error("`{target}` refused the login: {said}")]
    Authentication {
        /// Whom.
        target: String,
        /// What ssh said.
        said: String,
    },
    /// ssh does not accept its configuration.
    #[error("ssh does not accept its configuration: {said}")]
    Config {
        /// What ssh said.
        said: String,
    },
    /// The master that the channel was to go through is not there.
    #[error("the ssh connection to `{target}` is gone")]
    MasterGone {
        /// Whom.
        target: String,
    },
    /// The machine allows no more channels through one connection.
    #[error("`{target}` allows no more sessions through one connection (MaxSessions): {said}")]
    TooManySessions {
        /// Whom.
        target: String,
        /// What ssh said.
        said: String,
    },
    /// It allows no more through any of the connections to it, and there can be no other.
    #[error(
        "`{target}` allows no more sessions through one connection (MaxSessions), and no other was opened"
    )]
    NoFurtherMaster {
        /// Whom.
        target: String,
        /// Why there is no other.
        #[source]
        source: ErrorObject,
    },
    /// Whoever needs another connection could not ask for it.
    #[error("could not listen on `{}` for requests for another connection", path.display())]
    Listen {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The control socket cannot have such a path.
    #[error("`{}` cannot be the path of a control socket: too long, not absolute, or with a `$`", path.display())]
    ControlPath {
        /// Which.
        path: PathBuf,
    },
    /// The directory of the control socket cannot be watched.
    #[error("could not watch `{}` for the control socket", directory.display())]
    Watch {
        /// Which.
        directory: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// ssh itself could not be started.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// Anything else that ssh may say.
    #[error("ssh to `{target}` {exit}")]
    Other {
        /// Whom.
        target: String,
        /// How it ended.
        exit: Exit,
    },
}

impl SshError {
    pub(super) fn timed_out(target: &SshTarget, waited: Duration) -> SshError {
        SshError::TimedOut { target: name_of(target), said: format!("waited {} s", waited.as_secs()) }
    }

    /// What sort of failure it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            SshError::Resolve { .. } | SshError::Unreachable { .. } | SshError::MasterGone { .. } => {
                ErrorKind::Unreachable
            }
            SshError::TimedOut { .. } => ErrorKind::TimedOut,
            SshError::HostKeyChanged { .. }
            | SshError::HostKeyUnknown { .. }
            | SshError::Authentication { .. } => ErrorKind::Refused,
            SshError::Other { .. } => ErrorKind::Unreachable,
            SshError::NoFurtherMaster { source, .. } => source.kind(),
            SshError::Config { .. }
            | SshError::TooManySessions { .. }
            | SshError::ControlPath { .. }
            | SshError::Watch { .. }
            | SshError::Listen { .. }
            | SshError::Program(_) => ErrorKind::Failure,
        }
    }

    /// The command that mends it.
    pub fn hint(&self) -> Option<String> {
        match self {
            SshError::HostKeyChanged { mend, .. } => Some(format!("if the machine was set up anew: {mend}")),
            SshError::HostKeyUnknown { mend, .. } => Some(mend.clone()),
            SshError::NoFurtherMaster { source, .. } if source.hint().is_some() => {
                source.hint().map(str::to_owned)
            }
            SshError::NoFurtherMaster { .. } | SshError::TooManySessions { .. } => {
                Some("raise MaxSessions in the sshd_config of the machine".to_owned())
            }
            SshError::Program(error) if error.source.kind() == std::io::ErrorKind::NotFound => {
                Some("install the OpenSSH client".to_owned())
            }
            _ => None,
        }
    }
}

/// What ssh says when it means this, in lower case.
const UNRESOLVED: &[&str] = &["could not resolve hostname"];
const REFUSED_LOGIN: &[&str] = &[
    "permission denied",
    "too many authentication failures",
    "no more authentication methods",
    "received disconnect",
    "account is locked",
];
const TIMED_OUT: &[&str] = &["timed out", "timeout, server"];
const UNREACHABLE: &[&str] = &[
    "connection refused",
    "no route to host",
    "network is unreachable",
    "connection closed by",
    "connection reset",
    "kex_exchange_identification",
    "broken pipe",
    "unable to negotiate",
];
const BAD_CONFIG: &[&str] = &[
    "bad configuration option",
    "bad owner or permissions",
    "terminating,",
    "missing argument",
    "unsupported option",
    "extra arguments",
    "no argument after keyword",
    "can't open user config file",
];
const NO_SESSION: &[&str] =
    &["session open refused by peer", "session request failed", "administratively prohibited"];

/// What an ssh that has ended by itself meant. The order is that of certainty: a host key that is not right is told
/// before the closed connection that follows from it.
pub fn explain(target: &SshTarget, exit: Exit) -> SshError {
    let lines = &exit.last_words;
    let said = |patterns: &[&str]| {
        let means = |line: &&String| {
            let line = line.to_lowercase();
            patterns.iter().any(|pattern| line.contains(pattern))
        };
        lines.iter().find(means).map(|line| line.trim_start_matches("ssh: ").to_owned())
    };
    let name = name_of(target);
    if let Some(said) = said(UNRESOLVED) {
        let said = said.rsplit(": ").next().unwrap_or_default().to_owned();
        return SshError::Resolve { host: target.host().to_owned(), said };
    }
    if said(&["identification has changed", "has changed and you have requested"]).is_some() {
        return changed_key(target, lines);
    }
    if said(&["host key verification failed", "host key is known for"]).is_some() {
        return SshError::HostKeyUnknown { target: name, mend: login_command(target) };
    }
    if let Some(said) = said(REFUSED_LOGIN) {
        return SshError::Authentication { target: name, said };
    }
    if let Some(said) = said(BAD_CONFIG) {
        return SshError::Config { said };
    }
    if let Some(said) = said(TIMED_OUT) {
        return SshError::TimedOut { target: name, said };
    }
    if let Some(said) = said(UNREACHABLE) {
        return SshError::Unreachable { target: name, said };
    }
    SshError::Other { target: name, exit }
}

/// The same for a channel, which logs in nowhere: what it says is about the master.
pub(crate) fn explain_channel(target: &str, exit: &Exit) -> Option<SshError> {
    let lines = || exit.last_words.iter();
    let target = target.to_owned();
    if let Some(said) = lines().find(|line| NO_SESSION.iter().any(|p| line.to_lowercase().contains(p))) {
        return Some(SshError::TooManySessions { target, said: said.clone() });
    }
    let gone = |line: &String| {
        line.contains("Control socket connect")
            || line.contains("kex_exchange_identification")
            || line.contains("Connection closed by UNKNOWN")
            || line.contains("mux_client_")
    };
    lines().any(gone).then_some(SshError::MasterGone { target })
}

fn changed_key(target: &SshTarget, lines: &[String]) -> SshError {
    let place =
        lines.iter().find_map(|line| line.strip_prefix("Offending ")?.split_once(" in ").map(|(_, at)| at));
    let place = place.unwrap_or("known_hosts").to_owned();
    let file = place.rsplit_once(':').map_or(place.as_str(), |(file, _)| file);
    let host = match target.port() {
        Some(port) => format!("[{}]:{port}", target.host()),
        None => target.host().to_owned(),
    };
    // ssh names the host as its configuration resolves it, and that is the name in the file.
    let known_as = lines.iter().find_map(|line| {
        line.strip_prefix("Host key for ")?.split_once(" has changed").map(|(host, _)| host.to_owned())
    });
    let mend = format!("ssh-keygen -f {} -R {}", quoted(file), quoted(&known_as.unwrap_or(host)));
    SshError::HostKeyChanged { target: name_of(target), place, mend }
}

/// The target as people write it.
pub(crate) fn name_of(target: &SshTarget) -> String {
    format!("ssh://{target}")
}

/// What a person types to log in once and accept the key.
fn login_command(target: &SshTarget) -> String {
    let mut command = String::from("ssh ");
    if let Some(port) = target.port() {
        command.push_str(&format!("-p {port} "));
    }
    if let Some(user) = target.user() {
        command.push_str(&format!("{user}@"));
    }
    command.push_str(target.host());
    command
}

/// As a word of a shell.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+@:,".contains(c);
    match word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn explained(lines: &[&str]) -> SshError {
        let last_words = lines.iter().map(|line| (*line).to_owned()).collect();
        let target = SshTarget::new(Some("me"), "box", Some(2222)).unwrap();
        explain(&target, Exit { status: None, last_words })
    }

    #[test]
    fn what_ssh_says_is_understood() {
        use ErrorKind::{Failure, Refused, TimedOut, Unreachable};
        let cases = [
            ("ssh: Could not resolve hostname box: Name or service not known", Unreachable),
            ("ssh: connect to host box port 2222: Connection refused", Unreachable),
            ("ssh: connect to host box port 2222: No route to host", Unreachable),
            ("ssh: connect to host box port 2222: Connection timed out", TimedOut),
            ("Connection timed out during banner exchange", TimedOut),
            ("kex_exchange_identification: Connection closed by remote host", Unreachable),
            ("me@box: Permission denied (publickey,password).", Refused),
            ("Received disconnect from ::1 port 22:2: Too many authentication failures", Refused),
            ("Host key verification failed.", Refused),
            ("/tmp/c: line 1: Bad configuration option: foo", Failure),
            ("something else", Unreachable),
        ];
        for (line, kind) in cases {
            assert_eq!(explained(&[line]).kind(), kind, "{line}");
        }
    }

    #[test]
    fn errors_read_well() {
        let said = explained(&["ssh: Could not resolve hostname box: Name or service not known"]).to_string();
        assert_eq!(said, "could not find the host `box`: Name or service not known");
        let said = explained(&["ssh: connect to host box port 2222: Connection refused"]).to_string();
        assert_eq!(
            said,
            "could not reach `ssh://me@box:2222`: connect to host box port 2222: Connection refused"
        );
    }

    #[test]
    fn a_changed_host_key_is_told_with_what_mends_it() {
        let error = explained(&[
            "@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @",
            "Offending ED25519 key in /home/u/.ssh/known_hosts:3",
            "Host key for [box.example]:2222 has changed and you have requested strict checking.",
            "Host key verification failed.",
        ]);
        assert!(matches!(error, SshError::HostKeyChanged { .. }));
        let hint = error.hint().unwrap();
        assert!(hint.ends_with("ssh-keygen -f /home/u/.ssh/known_hosts -R '[box.example]:2222'"), "{hint}");
        assert!(error.to_string().contains("/home/u/.ssh/known_hosts:3"), "{error}");
    }

    #[test]
    fn an_unknown_host_key_is_told_with_what_makes_it_known() {
        let error = explained(&["Host key verification failed."]);
        assert_eq!(error.hint().unwrap(), "ssh -p 2222 me@box");
    }
}
