//! The agent's program on a machine: found, put there, replaced.
//!
//! It lies in `${XDG_CACHE_HOME:-~/.cache}/stead/agent/RELEASE-HASH/stead-agent`, where the hash is that of the
//! program, so that two clients of different builds have two. A new one is written beside its place and moved there, so
//! that nobody ever starts half a program. The two newest others are kept; nothing else is left behind.
//!
//! The scripts are one line without `'`, `\`, `!`, so that every login shell (sh, csh, fish and their kin) hands them
//! to `sh` as they are.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use wire::hello::SessionId;
use wire::worker::SshDial;

use crate::transport::{Exit, ProgramError, ssh};

/// How long an agent may take to travel.
const UPLOAD_TIMEOUT: Duration = Duration::from_secs(300);

/// What a script prints at most.
const OUTPUT_BYTES_MAX: u64 = 64 << 10;

/// How many agents of other builds are kept.
const OTHERS_KEPT: usize = 2;

/// What the scripts print when they do not start an agent.
const MISSING: &str = "STEAD-AGENT-MISSING";
const FOREIGN: &str = "STEAD-AGENT-FOREIGN";
const PLACED: &str = "STEAD-AGENT-PLACED";
const UNPLACED: &str = "STEAD-AGENT-UNPLACED";
const SUM: &str = "STEAD-AGENT-SUM";

/// A 64-bit hash of bytes, eight at a time in the manner of FNV-1a. It tells builds apart; it does not withstand
/// somebody who looks for a collision. Never zero.
pub fn hash(bytes: &[u8]) -> NonZeroU64 {
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    let mut hash = 0xcbf2_9ce4_8422_2325 ^ bytes.len() as u64;
    for chunk in bytes.chunks(8) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        // The rotation brings the high bits, which a product does not carry down, into the next step.
        hash = (hash ^ u64::from_le_bytes(word)).wrapping_mul(PRIME).rotate_left(29);
    }
    NonZeroU64::new(hash ^ (hash >> 32)).unwrap_or(NonZeroU64::MIN)
}

/// An agent's program on this computer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentProgram {
    /// Where it is.
    pub path: PathBuf,
    /// Of what it contains.
    pub hash: NonZeroU64,
    /// Its length.
    pub bytes: u64,
}

impl AgentProgram {
    /// The name of its directory on a machine.
    pub fn directory_name(&self) -> String {
        format!("{}-{:016x}", wire::RELEASE, self.hash)
    }
}

/// The agents that can be placed, one for each architecture.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Agents {
    by_architecture: BTreeMap<&'static str, AgentProgram>,
}

/// Why no agent can be placed or started.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// This computer has no agent at all.
    #[error("there is no agent to place: neither `stead-agent` nor `stead-agent-ARCH-linux` is in `{}`", directory.display())]
    NoAgents {
        /// Where it was looked for.
        directory: PathBuf,
    },
    /// An agent's program cannot be read.
    #[error("could not read the agent `{}`", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// What should be an agent's program is none for Linux.
    #[error("`{}` is not a Linux program of an architecture that stead knows", path.display())]
    NotAProgram {
        /// Which.
        path: PathBuf,
    },
    /// The agent's program is not the one that was read before.
    #[error("the agent `{}` has changed since it was read", path.display())]
    Changed {
        /// Which.
        path: PathBuf,
    },
    /// There is no agent for such a machine.
    #[error("there is no agent for `{there}` machines; there are agents for Linux on {}", have.join(", "))]
    Foreign {
        /// What `uname -sm` prints there.
        there: String,
        /// What agents there are.
        have: Vec<String>,
    },
    /// The login runs no commands of ours: an account without a shell, or for file transfer only.
    #[error("the machine does not run commands for this login{}", said(said_there))]
    NoShell {
        /// What it said instead.
        said_there: String,
    },
    /// The program is there and the machine does not run it.
    #[error(
        "the machine does not run programs from the login's cache directory (is it mounted noexec?){}",
        said(said_there)
    )]
    NoExec {
        /// What it said.
        said_there: String,
    },
    /// There is no room for the program.
    #[error("the machine has no room for the agent ({bytes} bytes){}", said(said_there))]
    NoSpace {
        /// How much is needed.
        bytes: u64,
        /// What it said.
        said_there: String,
    },
    /// It could not be put there for another reason.
    #[error("the agent could not be put on the machine{}", said(said_there))]
    Unplaced {
        /// What was said there.
        said_there: String,
    },
    /// The connection broke meanwhile.
    #[error("the connection broke while the agent was on its way")]
    Broken(#[source] io::Error),
    /// It took too long.
    #[error("the agent was not there after {} s", UPLOAD_TIMEOUT.as_secs())]
    TimedOut,
    /// The channel could not be opened.
    #[error(transparent)]
    Ssh(Box<ssh::SshError>),
    /// ssh could not be started.
    #[error(transparent)]
    Program(#[from] ProgramError),
}

fn said(text: &str) -> String {
    match text {
        "" => String::new(),
        text => format!("; it said: {text}"),
    }
}

/// Architectures as Rust names them, with the machine number of their ELF files and what `uname -m` says.
const ARCHITECTURES: &[(&str, u16, &[&str])] = &[
    ("x86_64", 62, &["x86_64", "amd64"]),
    ("aarch64", 183, &["aarch64", "arm64"]),
    ("riscv64", 243, &["riscv64"]),
    ("arm", 40, &["armv6l", "armv7l", "armv8l"]),
    ("x86", 3, &["i386", "i586", "i686"]),
];

impl Agents {
    /// Finds the agents beside `program`: `stead-agent-ARCH-linux` for any architecture, and `stead-agent`, which is
    /// used for its architecture when there is no other. `first`, the value of `STEAD_AGENT`, goes before all of them.
    pub fn find(program: &Path, first: Option<&Path>) -> Result<Agents, PlaceError> {
        let directory = program.parent().unwrap_or(Path::new("."));
        let mut agents = Agents::default();
        if let Some(path) = first {
            agents.add(path)?;
        }
        let named = ARCHITECTURES.iter().map(|(name, ..)| format!("stead-agent-{name}-linux"));
        for name in named.chain(["stead-agent".to_owned()]) {
            let path = directory.join(name);
            if path.is_file() {
                agents.add(&path)?;
            }
        }
        match agents.by_architecture.is_empty() {
            true => Err(PlaceError::NoAgents { directory: directory.to_owned() }),
            false => Ok(agents),
        }
    }

    fn add(&mut self, path: &Path) -> Result<(), PlaceError> {
        let (architecture, program) = read_program(path)?;
        self.by_architecture.entry(architecture).or_insert(program);
        Ok(())
    }

    /// The architectures, as Rust names them.
    pub fn architectures(&self) -> impl Iterator<Item = &'static str> {
        self.by_architecture.keys().copied()
    }

    /// The agent for an architecture, as Rust names it.
    pub fn get(&self, architecture: &str) -> Option<&AgentProgram> {
        self.by_architecture.get(architecture)
    }

    /// The agent for a machine of which `uname -sm` says this.
    fn for_machine(&self, uname: &str) -> Option<&AgentProgram> {
        let machine = uname.strip_prefix("Linux ")?;
        let (name, ..) = ARCHITECTURES.iter().find(|(_, _, names)| names.contains(&machine))?;
        self.get(name)
    }

    /// The command that starts the agent in its place, or prints what the machine is if there is none.
    pub fn start_command(&self) -> String {
        self.with_agent("exec \"$a\"")
    }

    /// The command that prints what the file in the agent's place contains, as the standard's `cksum` sums it up. Nothing
    /// stands behind the machine's name where there is no such program, or the file cannot be read.
    pub(crate) fn sum_command(&self) -> String {
        self.with_agent(&format!("echo {SUM} \"$m\" $(cksum < \"$a\")"))
    }

    /// A script in which `$m` is what `uname -sm` says and `$a` the agent's place; what follows runs only if there is a
    /// file.
    fn with_agent(&self, then: &str) -> String {
        let cases: String = ARCHITECTURES
            .iter()
            .filter_map(|(name, _, machines)| Some((self.get(name)?, machines)))
            .map(|(program, machines)| {
                let patterns: Vec<_> =
                    machines.iter().map(|machine| format!("\"Linux {machine}\"")).collect();
                format!("{}) h={};; ", patterns.join("|"), program.directory_name())
            })
            .collect();
        in_sh(&format!(
            "m=\"$(uname -sm)\"; case \"$m\" in {cases}*) echo {FOREIGN} \"$m\"; exit 0;; esac; \
             a=\"${{XDG_CACHE_HOME:-$HOME/.cache}}/stead/agent/$h/stead-agent\"; \
             [ -f \"$a\" ] || {{ echo {MISSING} \"$m\"; exit 0; }}; {then}"
        ))
    }
}

/// Wraps a script for any login shell.
fn in_sh(script: &str) -> String {
    debug_assert!(!script.contains(['\'', '\\', '!', '\n']), "{script}");
    format!("exec sh -c '{script}'")
}

/// The command that starts the agent at a known place, for this session; zeros are for a new one. `None` for a path that
/// not every login shell would take as one word.
pub fn start_at(agent: &[u8], session: SessionId) -> Option<String> {
    let path = std::str::from_utf8(agent).ok()?;
    let safe = path.starts_with('/') && !path.contains(['\'', '\\', '!', '\n']);
    safe.then(|| match session == SessionId::default() {
        true => format!("exec '{path}'"),
        false => format!("exec '{path}' --resume {session}"),
    })
}

fn place_command(program: &AgentProgram) -> String {
    let (name, bytes, kept) = (program.directory_name(), program.bytes, OTHERS_KEPT + 2);
    in_sh(&format!(
        "umask 077; c=\"${{XDG_CACHE_HOME:-$HOME/.cache}}/stead/agent\"; d=\"$c/{name}\"; t=\"$d/.new.$$\"; \
         clean() {{ rm -f \"$t\"; rmdir \"$d\" \"$c\" \"${{c%/agent}}\" 2>/dev/null; }}; \
         trap \"clean; exit 1\" HUP INT TERM PIPE; \
         mkdir -p \"$d\" && cat > \"$t\" && [ $(wc -c < \"$t\") -eq {bytes} ] && chmod 700 \"$t\" \
         && mv -f \"$t\" \"$d/stead-agent\" || {{ clean; echo {UNPLACED}; exit 1; }}; \
         cd \"$c\" && ls -1t | tail -n +{kept} | while read -r o; do \
         case \"$o\" in *-????????????????) rm -rf \"./$o\";; esac; done; echo {PLACED}"
    ))
}

fn read_program(path: &Path) -> Result<(&'static str, AgentProgram), PlaceError> {
    let content = read(path)?;
    let architecture =
        architecture_of(&content).ok_or_else(|| PlaceError::NotAProgram { path: path.to_owned() })?;
    let program = AgentProgram { path: path.to_owned(), hash: hash(&content), bytes: content.len() as u64 };
    Ok((architecture, program))
}

pub(crate) fn read(path: &Path) -> Result<Vec<u8>, PlaceError> {
    /// Far more than an agent with all its symbols takes.
    const PROGRAM_BYTES_MAX: u64 = 512 << 20;
    let failed = |source| PlaceError::Read { path: path.to_owned(), source };
    let mut content = Vec::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(PROGRAM_BYTES_MAX).read_to_end(&mut content).map_err(failed)?;
    Ok(content)
}

/// From the header of an ELF file: the magic number at 0, the byte order at 5 (1 is little endian), the machine at 18.
fn architecture_of(elf: &[u8]) -> Option<&'static str> {
    let machine = elf.get(18..20)?;
    if !elf.starts_with(b"\x7fELF") || elf[5] != 1 {
        return None;
    }
    let machine = u16::from_le_bytes([machine[0], machine[1]]);
    ARCHITECTURES.iter().find(|(_, number, _)| *number == machine).map(|(name, ..)| *name)
}

/// What the start command printed in place of an agent's preface.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Absence {
    /// There is no agent yet. What `uname -sm` says.
    Missing(String),
    /// There is none for such a machine.
    Foreign(String),
}

/// Finds the start command's message in what came instead of an agent; a login may print more around it.
pub(crate) fn absence(noise: &[u8]) -> Option<Absence> {
    let text = String::from_utf8_lossy(noise);
    text.lines().find_map(|line| {
        let (marker, machine) = line.trim().split_once(' ')?;
        let machine = machine.escape_default().to_string();
        match marker {
            MISSING => Some(Absence::Missing(machine)),
            FOREIGN => Some(Absence::Foreign(machine)),
            _ => None,
        }
    })
}

/// What the file in the agent's place contains, as the sum command printed it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct PlacedSum {
    /// What `uname -sm` says.
    pub machine: String,
    /// The sum and the length, if they could be had.
    sum: Option<(u32, u64)>,
}

/// Finds the sum command's message; a login may print more around it.
pub(crate) fn placed_sum(output: &[u8]) -> Option<PlacedSum> {
    let text = String::from_utf8_lossy(output);
    text.lines().find_map(|line| {
        let words: Vec<&str> = line.trim().split(' ').collect();
        let [SUM, system, machine, sum @ ..] = words.as_slice() else { return None };
        let sum = match sum {
            [sum, bytes] => sum.parse().ok().zip(bytes.parse().ok()),
            _ => None,
        };
        Some(PlacedSum { machine: format!("{system} {machine}").escape_default().to_string(), sum })
    })
}

/// The standard's `cksum`: a CRC of 32 bits, the highest first, of the bytes and then of their number.
fn cksum(bytes: &[u8]) -> u32 {
    const POLYNOMIAL: u32 = 0x04c1_1db7;
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut byte = 0;
        while byte < table.len() {
            let mut crc = (byte as u32) << 24;
            let mut bit = 0;
            while bit < 8 {
                crc = (crc << 1) ^ if crc >> 31 == 1 { POLYNOMIAL } else { 0 };
                bit += 1;
            }
            table[byte] = crc;
            byte += 1;
        }
        table
    };
    let length = (bytes.len() as u64).to_le_bytes();
    let used = length.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    let all = bytes.iter().chain(&length[..used]);
    !all.fold(0_u32, |crc, byte| (crc << 8) ^ TABLE[usize::from((crc >> 24) as u8 ^ byte)])
}

impl Agents {
    /// Whether the file in the agent's place is the agent.
    pub(crate) async fn is_intact(&self, placed: &PlacedSum) -> Result<bool, PlaceError> {
        let Some(sum) = placed.sum else { return Ok(false) };
        let program =
            self.for_machine(&placed.machine).ok_or_else(|| self.foreign(placed.machine.clone()))?;
        let content = content_of(program).await?;
        Ok(sum == (cksum(&content), program.bytes))
    }

    pub(crate) fn foreign(&self, there: String) -> PlaceError {
        PlaceError::Foreign { there, have: self.architectures().map(str::to_owned).collect() }
    }

    /// Puts the agent for a machine in its place.
    pub(crate) async fn place(&self, dial: &SshDial, uname: &str) -> Result<(), PlaceError> {
        let program = self.for_machine(uname).ok_or_else(|| self.foreign(uname.to_owned()))?;
        let content = content_of(program).await?;
        match tokio::time::timeout(UPLOAD_TIMEOUT, upload(dial, program, &content)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(PlaceError::TimedOut),
        }
    }
}

/// What a program contains, if that is what it contained before.
async fn content_of(program: &AgentProgram) -> Result<Vec<u8>, PlaceError> {
    let path = program.path.clone();
    let content = tokio::task::spawn_blocking(move || read(&path))
        .await
        .map_err(|error| PlaceError::Broken(io::Error::other(error)))??;
    match hash(&content) == program.hash {
        true => Ok(content),
        false => Err(PlaceError::Changed { path: program.path.clone() }),
    }
}

async fn upload(dial: &SshDial, program: &AgentProgram, content: &[u8]) -> Result<(), PlaceError> {
    let (process, stream) = ssh::channel(dial, &place_command(program))?;
    let (reader, mut writer) = stream.into_split();
    let sending = async {
        let sent = writer.write_all(content).await;
        // The script reads to the end, which is the end of this direction only.
        drop(writer);
        sent
    };
    let mut output = Vec::new();
    let mut limited = reader.take(OUTPUT_BYTES_MAX);
    let (sent, received) = tokio::join!(sending, limited.read_to_end(&mut output));
    let output = String::from_utf8_lossy(&output);
    // Until it has ended it has a session, which the server may not give to the next channel.
    let exit = process.ended().await;
    if output.lines().any(|line| line.trim() == PLACED) {
        return Ok(());
    }
    if let Some(error) = ssh::explain_channel(&dial.host, &exit) {
        return Err(PlaceError::Ssh(Box::new(error)));
    }
    if output.lines().any(|line| line.trim() == UNPLACED) {
        return Err(unplaced(program, &exit));
    }
    if exit.status.is_none_or(|status| status.code() == Some(ssh::OWN_FAILURE)) {
        sent.and(received.map(drop)).map_err(PlaceError::Broken)?;
    }
    Err(PlaceError::NoShell { said_there: summary(&output, &exit) })
}

fn unplaced(program: &AgentProgram, exit: &Exit) -> PlaceError {
    let said_there = exit.last_words.join("; ");
    let full = ["No space left", "Disk quota exceeded", "File too large"];
    match full.iter().any(|words| said_there.contains(words)) {
        true => PlaceError::NoSpace { bytes: program.bytes, said_there },
        false => PlaceError::Unplaced { said_there },
    }
}

fn summary(output: &str, exit: &Exit) -> String {
    let shown = wire::bytestring::ByteString::from(output.trim()).to_string();
    let shown: String = shown.chars().take(200).collect();
    let words = [vec![shown], exit.last_words.clone()].concat();
    words.into_iter().filter(|word| !word.is_empty()).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_tells_contents_apart_by_any_byte_and_by_length() {
        let mut seen = std::collections::HashSet::new();
        let content = vec![7; 100];
        assert!(seen.insert(hash(&content)));
        for at in 0..content.len() {
            let mut other = content.clone();
            other[at] = 8;
            assert!(seen.insert(hash(&other)), "{at}");
        }
        for zeros in 0..40 {
            assert!(seen.insert(hash(&vec![0; zeros])), "{zeros}");
        }
    }

    #[test]
    fn what_the_start_command_says_is_found_among_what_a_login_prints() {
        let said = |text: &str| absence(text.as_bytes());
        assert_eq!(
            said("Welcome\r\nSTEAD-AGENT-MISSING Linux x86_64\n"),
            Some(Absence::Missing("Linux x86_64".into()))
        );
        assert_eq!(said("STEAD-AGENT-FOREIGN Darwin arm64"), Some(Absence::Foreign("Darwin arm64".into())));
        assert_eq!(said("bash: STEAD-AGENT-MISSING: command not found"), None);
        assert_eq!(said(""), None);
    }

    #[test]
    fn the_sum_of_a_file_is_that_of_cksum() {
        // As the program of the machine this was written on prints them.
        assert_eq!(cksum(b""), 4_294_967_295);
        assert_eq!(cksum(b"123456789"), 930_766_865);
        let said = |text: &str| placed_sum(text.as_bytes());
        let machine = || "Linux x86_64".to_owned();
        assert_eq!(
            said("Welcome\r\nSTEAD-AGENT-SUM Linux x86_64 930766865 9\r\n"),
            Some(PlacedSum { machine: machine(), sum: Some((930_766_865, 9)) })
        );
        assert_eq!(said("STEAD-AGENT-SUM Linux x86_64"), Some(PlacedSum { machine: machine(), sum: None }));
        assert_eq!(said("This account is currently not available."), None);
    }

    #[test]
    fn a_path_that_a_shell_would_change_is_not_started() {
        assert_eq!(
            start_at(b"/home/me/.cache/a b", SessionId::default()).unwrap(),
            "exec '/home/me/.cache/a b'"
        );
        for path in [&b"relative"[..], b"/it's", b"/a\\b", b"/a!b", b"/a\nb", b"/\xff", b""] {
            assert_eq!(start_at(path, SessionId::default()), None, "{}", path.escape_ascii());
        }
    }
}
