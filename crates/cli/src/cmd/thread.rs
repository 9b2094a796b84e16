//! `stead thread`

mod run;

use std::ffi::OsString;
use std::time::Duration;

use clap::Subcommand;
use clap_complete::engine::ArgValueCompleter;
use clap_complete::engine::PathCompleter;
use wire::api::ErrorKind;
use wire::api::machine::Source;
use wire::api::mount::{Create, Force};
use wire::api::thread::{
    Capture, Change, ChangeKind, Changes, Collect, Diff, Drop, Ignored, Land, LandMode, Landed, List, Log,
    New, OperationKind, Status, Switch, Threads, Undo, Undone,
};
use wire::bytestring::ByteString;

use crate::completion;
use crate::context::Context;
use crate::error::{Error, Result};
use crate::output::text::{age, bytes, counted, one_line};
use crate::output::{Align, Table};

/// How much of a commit's name is shown.
const SHORT_COMMIT_LENGTH: usize = 12;

/// Work on many branches of a git repository at once.
///
/// A thread is a worktree of a repository, and a branch of its own. It is made at once, however large the repository is: files
/// are taken from the repository when they are read, and only what is changed takes space. To git it is a worktree as any other.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  stead thread new fix                 # of the repository here, at ../REPO-fix
  stead thread new try --from thread:fix
  stead thread new build --with-ignored   # with .env, node_modules, target
  stead thread status fix
  stead thread land fix -m 'Mend the parser'
  stead thread drop fix")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a thread, and show it as a directory
    ///
    /// Makes a branch of the thread's name, too. Prints where the thread is, and returns once the directory serves. No two threads
    /// have the same name, also of two repositories.
    New(NewArgs),
    /// Show the threads of all repositories, with how many paths are changed in each
    List,
    /// Show what is changed in a thread since it was made
    ///
    /// Each path is marked as added (A), modified (M) or deleted (D). Of a directory that is new, what is in it is not listed. Also a
    /// thread that is not mounted can be looked at.
    Status {
        /// Which one
        #[arg(add = ArgValueCompleter::new(completion::threads))]
        name: String,
    },
    /// Show what was changed in a thread since it was made, as `git diff` does
    ///
    /// New files are shown too, ignored ones are not. The thread has to be mounted.
    Diff {
        /// Which one
        #[arg(add = ArgValueCompleter::new(completion::threads))]
        name: String,
        /// Arguments of `git diff`, such as --stat
        #[arg(last = true, value_name = "ARGUMENT")]
        arguments: Vec<OsString>,
    },
    /// Make a commit of what is in a thread, without touching its branch and its index
    ///
    /// Captures of a thread are on refs/stead/threads/NAME, each after the one before. What is ignored is not in them. The thread has to
    /// be mounted.
    Capture {
        /// Which one
        #[arg(add = ArgValueCompleter::new(completion::threads))]
        name: String,
        /// What was done
        #[arg(long, short, value_name = "TEXT")]
        message: String,
        /// Who did it for you: the trailer `Agent`
        #[arg(long, value_name = "NAME")]
        agent: Option<String>,
        /// With what: the trailer `Tool`
        #[arg(long, value_name = "NAME")]
        tool: Option<String>,
    },
    /// Show the captures of a thread, the last one first
    Log {
        /// Which one
        #[arg(add = ArgValueCompleter::new(completion::threads))]
        name: String,
    },
    /// Bring what is in a thread onto a branch
    ///
    /// That is what is committed on the thread's branch, or else what was captured last. The branch becomes it, or is merged with it. A
    /// working copy that has the branch goes along; one with changes in tracked files is left alone, and nothing is landed. What cannot be
    /// merged is begun in the thread: resolve it there, commit, and land again. The thread has to be mounted, and stays.
    Land {
        /// Which one
        #[arg(add = ArgValueCompleter::new(completion::threads))]
        name: String,
        /// The branch [default: that from which the thread was made]
        #[arg(long, value_name = "BRANCH")]
        onto: Option<String>,
        /// Make a merge, also where the branch could become what the thread is
        #[arg(long, conflicts_with = "squash")]
        merge: bool,
        /// Make one commit of all that is in the thread
        #[arg(long)]
        squash: bool,
        /// The message of commits that are made; with one, changes that are neither committed nor captured are captured first
        #[arg(long, short, value_name = "TEXT")]
        message: Option<String>,
    },
    /// Have a thread show another revision, and its branch be at it
    ///
    /// Only files that differ between the two are touched. Changes that are not committed stay; where one is of such a file, nothing is
    /// done. Commits that nothing else has are kept as long as this can be undone. The thread has to be mounted.
    Switch {
        /// Which one
        #[arg(add = ArgValueCompleter::new(completion::threads))]
        name: String,
        /// A branch, a tag, a commit, or `thread:NAME` for the last capture of another thread, or else its branch
        #[arg(value_name = "REV")]
        revision: String,
    },
    /// Undo what was done to a thread last: a capture, a landing, a switch, a drop, its making
    ///
    /// And when that is undone, what was done before it; the making last, which has the thread go as `stead thread drop NAME` does. Only if
    /// nobody has moved the branch since, and no change that is not committed would be lost. A thread that was dropped, or whose making was
    /// undone, comes back for up to a week, with what can be undone of it, and is mounted again where it was.
    Undo {
        /// Which one
        #[arg(add = ArgValueCompleter::new(completion::threads))]
        name: String,
        /// Do again what was undone last
        #[arg(long)]
        redo: bool,
    },
    Run(run::RunArgs),
    /// Remove for good what is left of threads that were dropped
    ///
    /// The daemon does so by itself with those that were dropped a week ago.
    Gc {
        /// Only those that were dropped at least so long ago: `90s`, `15m`, `2h`, `3d`, `1w` [default: 1w]
        #[arg(long, value_name = "TIME", value_parser = super::find::span)]
        grace: Option<Duration>,
        /// Say what would be removed, and remove nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Unmount a thread and remove it
    ///
    /// Its branch goes too, unless it has commits that no other branch has. Captures stay. For a week, `stead thread undo NAME` has all of
    /// it back.
    Drop {
        /// Which one
        #[arg(add = ArgValueCompleter::new(completion::threads))]
        name: String,
        /// Also when it is in use, or has changes that are neither committed nor captured: they go with it, and captures too
        #[arg(long, short)]
        force: bool,
    },
}

#[derive(Debug, clap::Args)]
struct NewArgs {
    /// Its name, and that of its branch
    name: String,
    /// A directory of the repository [default: the current one]
    #[arg(long, value_name = "DIR", add = ArgValueCompleter::new(PathCompleter::dir()))]
    repo: Option<OsString>,
    /// What to begin from: a branch, a tag, a commit, or `thread:NAME` for the last capture of another thread, or else its branch
    /// [default: HEAD]
    #[arg(long, value_name = "REV")]
    from: Option<String>,
    /// Where to show it: an empty directory, or a new name in a directory that exists [default: REPO-NAME, beside the repository]
    #[arg(long, value_name = "DIR", add = ArgValueCompleter::new(PathCompleter::dir()))]
    at: Option<OsString>,
    /// See in it what is ignored in the working copy here, or in the thread that it begins from: `.env`, `node_modules`, `target`. It is
    /// not copied until it is changed in the thread, and the working copy's own is never changed
    #[arg(long)]
    with_ignored: bool,
}

impl NewArgs {
    fn request(self, context: &Context) -> New {
        let NewArgs { name, repo, from, at, with_ignored } = self;
        let with_ignored = if with_ignored { Ignored::Seen } else { Ignored::Absent };
        let (repo, at) = (repo.map(ByteString::from), at.map(ByteString::from));
        New { name, repo, from, at, with_ignored, caller: context.caller() }
    }
}

/// Carries it out, and returns the status to exit with.
pub fn run(args: Args, context: &mut Context) -> Result<u8> {
    let done = match args.command {
        Command::New(args) => new(args, context),
        Command::List => list(context),
        Command::Status { name } => status(name, context),
        Command::Diff { name, arguments } => diff(name, arguments, context),
        Command::Capture { name, message, agent, tool } => {
            capture(Capture { name, message, agent, tool, if_changed: false }, context)
        }
        Command::Log { name } => log(name, context),
        Command::Land { name, onto, merge, squash, message } => {
            let mode = match (merge, squash) {
                (true, _) => LandMode::Merge,
                (_, true) => LandMode::Squash,
                _ => LandMode::Auto,
            };
            land(Land { name, onto, mode, message }, context)
        }
        Command::Switch { name, revision } => switch(Switch { name, revision }, context),
        Command::Undo { name, redo } => undo(Undo { name, redo }, context),
        Command::Run(args) => return run::run(args, context),
        Command::Gc { grace, dry_run } => collect(grace, dry_run, context),
        Command::Drop { name, force } => drop(name, force, context),
    };
    done.map(|()| 0)
}

fn new(args: NewArgs, context: &mut Context) -> Result<()> {
    let thread = context.daemon()?.call(args.request(context))?;
    if context.output.is_json() {
        return context.output.document(&thread);
    }
    context.output.line(format_args!("{}  {}", thread.name, thread.dir))
}

fn list(context: &mut Context) -> Result<()> {
    let threads = context.daemon()?.call(List {})?;
    if context.output.is_json() {
        return context.output.document(&threads);
    }
    let Threads { threads } = threads;
    context.output.list(&super::status::threads(&threads), "no threads: `stead thread new` makes one")
}

fn status(name: String, context: &mut Context) -> Result<()> {
    let client = context.daemon()?;
    let mut changes = client.call(Status { name: name.clone(), after: None })?;
    while changes.more {
        let after = changes.changed.last().map(|last| last.path.clone());
        let next = client.call(Status { name: name.clone(), after })?;
        changes.more = next.more && !next.changed.is_empty();
        changes.changed.extend(next.changed);
    }
    if context.output.is_json() {
        return context.output.document(&changes);
    }
    let Changes { thread, changed, .. } = &changes;
    let place = match thread.mount {
        Some(_) => thread.dir.to_string(),
        None => "not mounted".to_owned(),
    };
    let count = counted(changed.len() as u64, "change");
    let disk = bytes(changes.disk_bytes);
    context.output.line(format_args!("{}  {}  {count}  {disk}", thread.name, one_line(&place)))?;
    for Change { path, kind } in changed {
        let mark = match kind {
            ChangeKind::Added => 'A',
            ChangeKind::Modified => 'M',
            ChangeKind::Deleted => 'D',
        };
        context.output.line(format_args!("{mark} {path}"))?;
    }
    Ok(())
}

fn diff(name: String, arguments: Vec<OsString>, context: &mut Context) -> Result<()> {
    let compared = context.daemon()?.call(Diff { name })?;
    if context.output.is_json() {
        return context.output.document(&compared);
    }
    context.output.flush()?;
    let mut git = std::process::Command::new("git");
    git.arg("--git-dir").arg(compared.repository.as_path()).arg("diff").args(arguments);
    let ended = git.args([&compared.from, &compared.to, "--"]).status();
    match ended.map_err(|error| Error::io("could not run git", &error))? {
        ended if ended.success() => Ok(()),
        ended => Err(Error::new(ErrorKind::Failure, format!("git could not compare: {ended}"))),
    }
}

fn capture(capture: Capture, context: &mut Context) -> Result<()> {
    let captured = context.daemon()?.call(capture)?;
    if context.output.is_json() {
        return context.output.document(&captured);
    }
    context.output.line(format_args!("{}  {}", captured.name, captured.commit))
}

fn log(name: String, context: &mut Context) -> Result<()> {
    let log = context.daemon()?.call(Log { name })?;
    if context.output.is_json() {
        return context.output.document(&log);
    }
    let columns =
        [("CAPTURE", Align::Left), ("AGE", Align::Left), ("AUTHOR", Align::Left), ("MESSAGE", Align::Left)];
    let mut table = Table::new(&columns);
    let now = context.output.now();
    for entry in &log.captures {
        let commit = entry.commit.get(..SHORT_COMMIT_LENGTH).unwrap_or(&entry.commit);
        table.row([
            one_line(commit).into(),
            age(now, entry.at).into(),
            one_line(&entry.author).into(),
            one_line(&entry.subject).into(),
        ]);
    }
    context.output.list(&table, "no captures: `stead thread capture` makes one")
}

fn land(land: Land, context: &mut Context) -> Result<()> {
    let landed = context.daemon()?.call(land)?;
    if context.output.is_json() {
        return context.output.document(&landed);
    }
    let Landed { name, branch, commit, .. } = &landed;
    context.output.line(format_args!("{name}  {branch}  {commit}"))?;
    if let Some(dir) = &landed.dir {
        context.output.note(format_args!("note: the checkout in {dir} follows"));
    }
    Ok(())
}

fn switch(switch: Switch, context: &mut Context) -> Result<()> {
    let switched = context.daemon()?.call(switch)?;
    if context.output.is_json() {
        return context.output.document(&switched);
    }
    context.output.line(format_args!("{}  {}", switched.name, switched.commit))
}

fn undo(undo: Undo, context: &mut Context) -> Result<()> {
    let redo = undo.redo;
    let word = if redo { "done again" } else { "undone" };
    let client = context.daemon()?;
    let undone = client.call(undo)?;
    let is_back = match undone.operation {
        OperationKind::Drop => true,
        OperationKind::New => redo,
        OperationKind::Capture | OperationKind::Land | OperationKind::Switch => false,
    };
    if is_back {
        let source = Source::Thread { name: undone.name.clone() };
        client.call(Create::new(source, None, context.caller()))?;
    }
    if context.output.is_json() {
        return context.output.document(&undone);
    }
    let Undone { name, operation, reference, now, .. } = &undone;
    let now = now.as_deref().unwrap_or("gone");
    context.output.line(format_args!("{name}  {} {word}  {reference}  {now}", operation.name()))?;
    if let Some(dir) = &undone.dir {
        context.output.note(format_args!("note: the checkout in {dir} follows"));
    }
    Ok(())
}

fn collect(grace: Option<Duration>, dry_run: bool, context: &mut Context) -> Result<()> {
    let grace_seconds = grace.map(|grace| grace.as_secs());
    let collected = context.daemon()?.call(Collect { grace_seconds, dry_run })?;
    if context.output.is_json() {
        return context.output.document(&collected);
    }
    let columns = [
        ("THREAD", Align::Left),
        ("REPOSITORY", Align::Left),
        ("DROPPED", Align::Left),
        ("DISK", Align::Right),
    ];
    let mut table = Table::new(&columns);
    let now = context.output.now();
    for thread in &collected.threads {
        table.row([
            one_line(&thread.name).into(),
            one_line(&thread.repo.to_string()).into(),
            age(now, thread.at).into(),
            bytes(thread.disk_bytes).into(),
        ]);
    }
    context.output.table(&table)?;
    let (done, kept) = (if dry_run { "would be removed" } else { "removed" }, collected.kept);
    let count = counted(collected.threads.len() as u64, "dropped thread");
    context.output.note(format_args!("note: {count} {done}, {kept} can still be brought back"));
    Ok(())
}

fn drop(name: String, force: bool, context: &mut Context) -> Result<()> {
    let force = if force { Force::Always } else { Force::Never };
    let dropped = context.daemon()?.call(Drop { name, force })?;
    if context.output.is_json() {
        return context.output.document(&dropped);
    }
    context.output.line(format_args!("{}  dropped", dropped.name))?;
    if let Some(captures) = &dropped.kept_captures {
        context.output.note(format_args!("note: its captures stay: {captures}"));
    }
    if let Some(branch) = &dropped.kept_branch {
        context.output.note(format_args!(
            "note: the branch `{branch}` stays, since it has commits that no other branch has"
        ));
    }
    Ok(())
}
