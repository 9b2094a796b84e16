//! `stead mount`

use std::collections::BTreeMap;
use std::ffi::OsString;

use clap_complete::engine::ArgValueCompleter;
use rustix::event::{PollFd, PollFlags, poll};
use wire::api::ErrorKind;
use wire::api::event::Topic;
use wire::api::machine::{Machine, Source};
use wire::api::mount::{Access, Backend, Create, Force, List, Remove, SyncMode, Target};
use wire::api::status::{Aside, Left, Mount, Replayed};
use wire::bytestring::ByteString;

use crate::client::Client;
use crate::client::news::News;
use crate::completion;
use crate::context::Context;
use crate::error::{Error, Result};
use crate::interrupt::Interrupt;
use crate::output::text::counted;

/// Show a machine's files as a directory here.
///
/// Prints the mount's id and directory, and returns once the directory serves. The mount belongs to the daemon: it
/// outlives this command and the terminal.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  stead mount ssh://box/src ./src
  stead mount me@box:src              # under ~/stead, named after the source
  stead mount --read-only host:/srv ./srv
  stead mount thread:fix              # where it was last

Options (-o), what each may be, and [what it is otherwise]:
  allow-other[=yes|no]      let other users in, as modes permit [no]
  nonempty[=yes|no]         hide what is in DIR meanwhile [no]
  offline-timeout=SECONDS   how long what needs the machine waits for it while
                            it is away, 0 to 86400 [60]
  cache-size=SIZE           how much of all machines' files is kept on this
                            computer's disk from now on, such as 8G (K, M, G
                            and T are of 1024); with 0 this mount keeps and
                            uses nothing there [4G, or a tenth of the free
                            disk if that is less; 0 for mounts of `host`]
  no-passthrough[=yes|no]   of threads: the kernel asks for what it reads and
                            writes of their files, also where it need not [no]
  no-kernel-mount[=yes|no]  of the backend nfs: serve, and mount nothing [no]
  port=N                    of the backend nfs: where to serve, 1 to 65535
                            [any that is free]")]
pub struct Args {
    /// What to show: MACHINE/PATH, USER@HOST:PATH, a local path or thread:NAME
    #[arg(add = ArgValueCompleter::new(completion::sources))]
    source: OsString,
    /// Where: an empty directory, or a new name in a directory that exists [default: under ~/stead, named after SOURCE]
    dir: Option<OsString>,
    /// How to serve it; threads are served by `fuse` alone [default: auto]
    #[arg(long, value_name = "BACKEND", value_parser = super::word::<Backend>(Backend::ALL.iter().map(|b| b.name())))]
    backend: Option<Backend>,
    /// Refuse every change
    #[arg(long)]
    read_only: bool,
    /// What closing a file waits for: `close` until the machine has it, `async` for nothing, `strict` makes every write wait [default: close]
    #[arg(long, value_name = "MODE", value_parser = super::word::<SyncMode>(SyncMode::ALL.iter().map(|s| s.name())))]
    sync: Option<SyncMode>,
    #[command(flatten)]
    link: super::connect::Link,
    /// Stay until interrupted, then unmount
    #[arg(long)]
    foreground: bool,
    /// An option of the mount, as KEY or KEY=VALUE, such as `allow-other`; may be repeated or joined with commas. The end of
    /// `stead mount --help` has them all
    #[arg(short = 'o', value_name = "KEY[=VALUE]", value_delimiter = ',')]
    options: Vec<String>,
}

/// Carries it out.
pub fn run(args: Args, context: &mut Context) -> Result<()> {
    let defaults = &context.config()?.mount;
    let link = args.link.or_configured(context)?;
    let request = Create {
        source: context.source(&args.source)?,
        dir: args.dir.map(ByteString::from),
        backend: args.backend.or(defaults.backend).unwrap_or_default(),
        access: if args.read_only { Access::ReadOnly } else { Access::ReadWrite },
        sync: args.sync.or(defaults.sync).unwrap_or_default(),
        reconnect: link.reconnect(),
        heartbeat_interval_ms: link.heartbeat_interval,
        max_heartbeat_failures: link.max_heartbeat_failures,
        options: with_defaults(options(&args.options)?, options(&defaults.options)?),
        caller: context.caller(),
    };
    // From here on an interrupt must not end the command between the mount and its removal.
    let interrupt = args.foreground.then(Interrupt::watch).transpose()?;
    let mut client = context.daemon()?;
    let mount = client.call(request)?;
    print(&mount, context)?;
    context.output.flush()?;
    let Some(interrupt) = interrupt else {
        return Ok(());
    };
    while wait(&interrupt, &client, follow(&mount, context), context)? == Woken::ByDaemon {
        client = next_daemon(&mount, context)?;
    }
    client.call(Remove { target: Target::Id(mount.id), force: Force::Never })?;
    Ok(())
}

fn follow(mount: &Mount, context: &Context) -> Option<News> {
    News::follow(context, machines(&mount.source), &[Topic::Connection, Topic::Mount])
}

/// The daemon that goes on with the mount, which outlives the one that made it unless it was taken away first.
fn next_daemon(mount: &Mount, context: &Context) -> Result<Client> {
    let gone = || Error::new(ErrorKind::Failure, "the daemon went away").hint("stead daemon logs");
    // One that was stopped is not started again.
    if !context.paths()?.mount_state_dir(mount.id).exists() {
        return Err(gone());
    }
    let client = context.daemon()?;
    let there = client.call(List {})?.mounts;
    match there.iter().any(|other| other.id == mount.id && other.dir == mount.dir) {
        true => Ok(client),
        false => Err(gone()),
    }
}

fn machines(source: &Source) -> Vec<Machine> {
    match source {
        Source::Files { machine, .. } => vec![machine.clone()],
        Source::Thread { .. } => Vec::new(),
    }
}

fn print(mount: &Mount, context: &mut Context) -> Result<()> {
    if context.output.is_json() {
        return context.output.document(mount);
    }
    context.output.line(format_args!("{}  {}", mount.id, mount.dir))?;
    if let Some(degraded) = &mount.degraded {
        context.output.note(format_args!("note: {}", crate::output::text::one_line(degraded)));
    }
    for note in mount.replayed.iter().flat_map(replay_notes) {
        context.output.note(format_args!("note: {}", crate::output::text::one_line(&note)));
    }
    if let Some(port) = mount.port {
        context.output.note(format_args!("note: served as NFSv3 on 127.0.0.1 port {port}"));
    }
    Ok(())
}

/// What became of what earlier mounts of the source had not saved.
pub fn replay_notes(replayed: &Replayed) -> Vec<String> {
    let Replayed { writes, aside, left, saving, more, .. } = replayed;
    let mut notes = Vec::new();
    if *writes > 0 {
        notes.push(format!("saved now: {} that an earlier mount had not saved", counted(*writes, "write")));
    }
    for Aside { of, path } in aside {
        notes.push(format!(
            "`{of}` has changed meanwhile: what an earlier mount had not saved of it is in `{path}`"
        ));
    }
    for Left { path, reason } in left {
        notes.push(format!("what an earlier mount had not saved stays in `{path}`: {reason}"));
    }
    for path in saving {
        notes.push(format!("what an earlier mount had not saved is still being saved, from `{path}`"));
    }
    if *more > 0 {
        notes.push(format!("and {more} more, named in the mount's log"));
    }
    notes
}

fn options(texts: &[String]) -> Result<BTreeMap<String, String>> {
    let mut options = BTreeMap::new();
    for text in texts {
        let (key, value) = text.split_once('=').unwrap_or((text, ""));
        if key.is_empty() {
            return Err(Error::usage(format_args!("`{}` is not KEY or KEY=VALUE", text.escape_debug())));
        }
        if options.insert(key.to_owned(), value.to_owned()).is_some() {
            return Err(Error::usage(format_args!("the option `{}` is given twice", key.escape_debug())));
        }
    }
    Ok(options)
}

/// What was given, and what else the configuration says.
fn with_defaults(
    given: BTreeMap<String, String>,
    mut all: BTreeMap<String, String>,
) -> BTreeMap<String, String> {
    all.extend(given);
    all
}

/// What ended a wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Woken {
    ByInterrupt,
    /// It has ended.
    ByDaemon,
}

/// Waits for an interrupt, or for the end of the daemon; tells the news meanwhile.
fn wait(
    interrupt: &Interrupt,
    client: &Client,
    mut news: Option<News>,
    context: &mut Context,
) -> Result<Woken> {
    loop {
        news.iter_mut().flat_map(News::take).for_each(|line| context.output.note(line));
        let mut watched = vec![PollFd::new(interrupt, PollFlags::IN), PollFd::new(client, PollFlags::IN)];
        let source = news.as_ref().and_then(News::source);
        watched.extend(source.map(|source| PollFd::from_borrowed_fd(source, PollFlags::IN)));
        match poll(&mut watched, None) {
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(Error::io("could not wait", &errno.into())),
            Ok(_) if !watched[0].revents().is_empty() => return Ok(Woken::ByInterrupt),
            Ok(_) if watched[1].revents().is_empty() => {}
            Ok(_) => return Ok(Woken::ByDaemon),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_has_a_key_and_perhaps_a_value() {
        let read = |texts: &[&str]| options(&texts.iter().map(|text| text.to_string()).collect::<Vec<_>>());
        let map = read(&["allow-other", "threads=4"]).unwrap();
        assert_eq!((map["allow-other"].as_str(), map["threads"].as_str()), ("", "4"));
        assert!(read(&["=4"]).is_err());
        assert!(read(&["a=1", "a=2"]).is_err());
    }
}
