//! What a shell completes while a command line is typed.
//!
//! ```text
//!  shell ──the script of `stead completions`──► STEAD_COMPLETE=SHELL stead -- WORDS…
//!        ◄──────────── candidates ──────────────┘
//! ```
//!
//! Commands and flags come from the [definition](crate::cmd::definition); machines, mounts, processes and far files from
//! here. Whoever types must not wait, and has not asked for anything yet: no daemon is started, no machine is connected
//! to, nobody is asked, and what is not there in [`ANSWER_TIMEOUT`] is left out, as is everything that fails.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::sync::mpsc;
use std::time::{Duration, SystemTime};

use clap_complete::engine::{CompletionCandidate, PathCompleter, ValueCompleter};
use clap_complete::env::{EnvCompleter, Shells};
use wire::api::file::{FileKind, List, OpenDirectory, Progress};
use wire::api::machine::{Machine, Source};
use wire::api::status::{self, ConnectionState, Document};
use wire::api::time::Timestamp;

use crate::context::Context;
use crate::error::{Error, Result};
use crate::output::{Output, Sink};
use crate::prompt::Prompter;

mod bash;
mod ssh_config;

/// Says for which shell this process completes a command line. Set by the script alone.
pub const VARIABLE: &str = "STEAD_COMPLETE";

/// How long the daemon, and a machine behind it, are waited for.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// How many entries of a far directory are looked at.
const ENTRIES_MAX: usize = 10_000;

/// The script that has a shell of this name ask here.
pub fn script(shell: &str) -> Result<Vec<u8>> {
    let mut script = Vec::new();
    if let Some(shell) = completer(shell) {
        let written = shell.write_registration(VARIABLE, "stead", "stead", "stead", &mut script);
        written.map_err(|error| Error::io("could not write the script", &error))?;
    }
    Ok(script)
}

/// What the script of that shell reads, given the arguments that it has called this program with.
pub fn complete(shell: &OsStr, arguments: Vec<OsString>, context: &Context) -> Result<Vec<u8>> {
    let words: Vec<_> = arguments.into_iter().skip_while(|argument| argument != "--").skip(1).collect();
    let mut answer = Vec::new();
    if let Some(shell) = shell.to_str().and_then(completer)
        && !words.is_empty()
    {
        let mut definition = crate::cmd::definition();
        definition.build();
        let completed = shell.write_complete(&mut definition, words, Some(&context.cwd), &mut answer);
        completed.map_err(|error| Error::io("could not complete the line", &error))?;
    }
    Ok(answer)
}

fn completer(shell: &str) -> Option<&'static dyn EnvCompleter> {
    const OTHERS: Shells<'static> = Shells::builtins();
    if shell == bash::Bash.name() {
        Some(&bash::Bash)
    } else {
        OTHERS.0.iter().copied().find(|s| s.is(shell))
    }
}

/// The machines that are known: this one, those the daemon has to do with, and those of the ssh configuration.
pub fn machines(current: &OsStr) -> Vec<CompletionCandidate> {
    let Some(current) = current.to_str() else { return Vec::new() };
    let known = document().map_or(Vec::new(), |document| document.machines);
    let known = known.into_iter().map(|machine| machine.machine.to_string());
    let names = known.chain(ssh_hosts()).chain(["host".to_owned()]);
    candidates(names.map(|name| spelled(&name, current)), current)
}

/// A machine's name in the form in which the word has been begun.
fn spelled(name: &str, current: &str) -> String {
    let is_alias = name != "host" && !name.contains("://") && !name.starts_with(current);
    match (name.strip_prefix("ssh://"), begins_url(current)) {
        (Some(host), false) => host.to_owned(),
        (None, true) if is_alias => format!("ssh://{name}"),
        _ => name.to_owned(),
    }
}

fn begins_url(word: &str) -> bool {
    word.contains("://") || (!word.is_empty() && "ssh://".starts_with(word))
}

/// The files of this computer, the machines, and the files of those that are connected.
pub fn sources(current: &OsStr) -> Vec<CompletionCandidate> {
    if let Some(name) = current.to_str().and_then(|text| text.strip_prefix("thread:")) {
        let found = threads(OsStr::new(name)).into_iter();
        return found.map(|thread| thread.add_prefix("thread:")).collect();
    }
    if let Some(far) = far_files(current) {
        return far;
    }
    let Some(text) = current.to_str() else { return PathCompleter::any().complete(current) };
    let begun = |host: String| if begins_url(text) { format!("ssh://{host}/") } else { format!("{host}:") };
    let hosts = match text {
        "" => Vec::new(),
        _ => candidates(ssh_hosts().into_iter().map(begun), text),
    };
    PathCompleter::any().complete(current).into_iter().chain(hosts).collect()
}

/// The files beside a far one whose name has been begun; none if that is not what the word is.
fn far_files(current: &OsStr) -> Option<Vec<CompletionCandidate>> {
    let bytes = current.as_bytes();
    let (start, path) = match bytes.windows(3).position(|part| part == b"://") {
        Some(at) => (at + 3, bytes[at + 3..].iter().position(|byte| *byte == b'/')?),
        None => (0, bytes.iter().position(|byte| *byte == b':').filter(|at| !bytes[..*at].contains(&b'/'))?),
    };
    let end = bytes.iter().rposition(|byte| *byte == b'/').filter(|at| *at > start + path);
    let directory = OsStr::from_bytes(&bytes[..end.unwrap_or(start + path) + 1]).to_owned();
    let found = in_time(move |context| {
        let mut names = list(context, &directory)?;
        names.sort_unstable();
        let named = |(name, is_directory): (Vec<u8>, bool)| {
            let slash: &[u8] = if is_directory { b"/" } else { b"" };
            OsString::from_vec([directory.as_bytes(), &name, slash].concat())
        };
        Ok(Some(names.into_iter().map(named).collect::<Vec<_>>()))
    });
    let shows = |name: &OsString| name.as_bytes().starts_with(bytes);
    let found = found.unwrap_or_default().into_iter().filter(shows);
    Some(found.map(CompletionCandidate::new).collect())
}

/// What is in a directory of a machine that is connected, and whether each is a directory itself.
fn list(context: &Context, directory: &OsStr) -> Result<Vec<(Vec<u8>, bool)>> {
    let source = context.source(directory)?;
    let (Source::Files { machine, .. }, Some(client)) = (&source, context.running_daemon()?) else {
        return Ok(Vec::new());
    };
    let leads_there = |connection: &status::Connection| {
        connection.machine == *machine && connection.state == ConnectionState::Connected
    };
    if *machine != Machine::Host && !client.call(status::Get {})?.connections.iter().any(leads_there) {
        return Ok(Vec::new());
    }
    let handle = client.call(OpenDirectory { source, caller: context.caller() })?.handle;
    let mut names = Vec::new();
    while names.len() < ENTRIES_MAX {
        let listed = client.call(List { handle })?;
        let entries = listed.entries.into_iter();
        names.extend(entries.map(|entry| (entry.name.into_bytes(), entry.kind == FileKind::Directory)));
        if listed.progress == Progress::End {
            break;
        }
    }
    Ok(names)
}

/// The mounts, by their ids and directories.
pub fn mounts(current: &OsStr) -> Vec<CompletionCandidate> {
    let Some(current) = current.to_str() else { return Vec::new() };
    let mounts = document().map_or(Vec::new(), |document| document.mounts);
    let names = mounts.into_iter().flat_map(|mount| [mount.id.to_string(), mount.dir.to_string()]);
    candidates(names, current)
}

/// The threads, by their names.
pub fn threads(current: &OsStr) -> Vec<CompletionCandidate> {
    let Some(current) = current.to_str() else { return Vec::new() };
    let threads = document().map_or(Vec::new(), |document| document.threads);
    candidates(threads.into_iter().map(|thread| thread.name), current)
}

/// The processes that were started on machines.
pub fn processes(current: &OsStr) -> Vec<CompletionCandidate> {
    process_ids(current, |_| true)
}

/// Those of them that belong to nobody.
pub fn detached_processes(current: &OsStr) -> Vec<CompletionCandidate> {
    process_ids(current, |process| process.detached)
}

fn process_ids(current: &OsStr, is_wanted: fn(&status::Process) -> bool) -> Vec<CompletionCandidate> {
    let Some(current) = current.to_str() else { return Vec::new() };
    let processes = document().map_or(Vec::new(), |document| document.processes);
    let ids = processes.iter().filter(|process| is_wanted(process)).map(|process| process.id.to_string());
    candidates(ids, current)
}

fn candidates(names: impl IntoIterator<Item = String>, current: &str) -> Vec<CompletionCandidate> {
    let shown = names.into_iter().filter(|name| name.starts_with(current)).collect::<BTreeSet<_>>();
    shown.into_iter().map(CompletionCandidate::new).collect()
}

/// That of this process, in which nobody is asked.
fn context() -> Context {
    let nobody = || -> (Box<dyn Write + Send>, Sink) { (Box::new(io::sink()), Sink::Stream) };
    let output = Output::new(nobody(), nobody(), || Timestamp::from(SystemTime::now()));
    Context::of_process(output, Prompter::Nobody)
}

/// What the daemon knows, if one runs.
fn document() -> Option<Document> {
    in_time(|context| context.running_daemon()?.map(|client| client.call(status::Get {})).transpose())
}

/// Asks the daemon, but no longer than somebody waits who types.
fn in_time<T: Send + 'static>(ask: impl FnOnce(&Context) -> Result<Option<T>> + Send + 'static) -> Option<T> {
    let (answer, answered) = mpsc::channel();
    std::thread::spawn(move || {
        // Who has given up waiting hears nothing.
        let _ = answer.send(ask(&context()));
    });
    answered.recv_timeout(ANSWER_TIMEOUT).ok()?.ok()?
}

/// The hosts that the ssh configuration names, but for what its patterns match.
fn ssh_hosts() -> Vec<String> {
    let context = context();
    let set =
        context.variable("STEAD_SSH_CONFIG").or_else(|| context.config().ok()?.variable("STEAD_SSH_CONFIG"));
    let home = context.variable("HOME").map(PathBuf::from);
    let path = set.map(PathBuf::from).or_else(|| Some(home.as_ref()?.join(".ssh/config")));
    path.map(|path| ssh_config::hosts(&path, home.as_deref())).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_spelled_as_it_was_begun() {
        assert_eq!(spelled("ssh://box", "b"), "box");
        assert_eq!(spelled("ssh://box", "ss"), "ssh://box");
        assert_eq!(spelled("box", "ssh://b"), "ssh://box");
        assert_eq!(spelled("box", "ss"), "ssh://box");
        assert_eq!((spelled("box", ""), spelled("ssh://box", "")), ("box".to_owned(), "box".to_owned()));
        assert_eq!(spelled("docker://web", "ss"), "docker://web");
        assert_eq!(spelled("host", "ssh://"), "host");
    }

    #[test]
    fn files_are_looked_for_only_on_machines() {
        for local in ["", "a", "./a:b", "/x", "ssh:/", "ssh://box"] {
            let local = OsStr::new(local);
            assert!(far_files(local).is_none() || local.as_bytes().starts_with(b"ssh:/"), "{local:?}");
        }
    }
}
