//! `stead workspace`

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use clap::Subcommand;
use wire::api::status::Operation;
use wire::api::workspace::{
    Export, Exported, Forget, Form, List, Origin, Prepare, Show, Workspace, Workspaces,
};
use wire::api::{Call, Method};
use wire::bytestring::ByteString;

use super::operation;
use crate::context::Context;
use crate::error::{Error, Result};
use crate::interrupt::Interrupt;
use crate::output::text::{age, bytes, counted, one_line};
use crate::output::{Align, Table};

/// How much of a commit's name is shown.
const SHORT_COMMIT_LENGTH: usize = 12;

/// Work on a git repository inside a vm, and bring back what was done there.
///
/// `prepare` puts a copy of a working copy into a vm that runs: what is checked out, what is staged, what is changed and what git does not
/// know yet, as it is here. Not in it are the commits before, what is ignored, files that git does not know and that are called as secrets
/// are (`.env`, `id_rsa`, `*.pem`), and anything of the repository's configuration: no remotes, no hooks, no credentials. A working copy
/// with such files that are committed or staged is refused. `export` brings commits and changes back as a branch, which nobody has checked
/// out, or as a patch. Neither touches the files here.
///
/// The vm needs `git` and no network.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  stead workspace prepare dev .             # there at ~/NAME
  stead exec vm://dev --cwd app -- make
  stead workspace export dev                # as the branch stead/dev
  stead workspace export dev --patch a.patch
  stead workspace prepare dev thread:fix")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Copy a git working copy to a vm, with all that is not committed
    ///
    /// An interrupt cancels that, and leaves nothing. A vm has one workspace.
    Prepare {
        /// Which vm, which has to run
        vm: String,
        /// A directory in the working copy, or `thread:NAME`
        dir: OsString,
        /// Where it is to be in the vm, an absolute path at which nothing is [default: the working copy's name, in the home there]
        #[arg(long, value_name = "PATH")]
        at: Option<PathBuf>,
        /// Also if files that are committed or staged are called as secrets are, which go along then [default: refused]
        #[arg(long)]
        with_secrets: bool,
        /// Do not wait until it is there: print the operation, see `stead operation`
        #[arg(long)]
        detach: bool,
    },
    /// Bring back what was done in the workspace of a vm, as a branch or a patch
    ///
    /// What is not committed there is in a last commit of its own. A branch is made, or goes on from where the last export has put it, or
    /// from where it is if all of its commits are in what comes; one that is checked out, or has commits of its own, is refused, and stays.
    /// What would have to be resolved to merge it is told. An interrupt cancels it, and leaves all as it was.
    Export {
        /// Which vm, which has to run
        vm: String,
        /// A directory in another working copy to bring it to [default: that which was prepared]
        dir: Option<PathBuf>,
        /// The branch [default: stead/VM]
        #[arg(long, value_name = "NAME", conflicts_with = "patch")]
        branch: Option<String>,
        /// Make no branch but this file, which must not be there: what was done since the workspace was prepared, for `git apply`
        #[arg(long, value_name = "FILE")]
        patch: Option<PathBuf>,
        /// Do not wait until it is done: print the operation, see `stead operation`
        #[arg(long)]
        detach: bool,
    },
    /// Show the workspaces
    List,
    /// Show the workspace of a vm, what went there and what came back last
    Show {
        /// Which vm
        vm: String,
    },
    /// Forget the workspace of a vm, so that another one can be prepared; the files stay in the vm
    Forget {
        /// Which vm
        vm: String,
    },
}

/// Carries it out.
pub fn run(args: Args, context: &mut Context) -> Result<()> {
    match args.command {
        Command::Prepare { vm, dir, at, with_secrets, detach } => {
            let place = at.map(|at| ByteString::from(at.as_path()));
            let (origin, caller) = (origin(dir, context)?, context.caller());
            let prepare = Prepare { vm, origin, place, with_secrets, caller };
            carry_out(prepare, detach, context)
        }
        Command::Export { vm, dir, branch, patch, detach } => {
            let form = match (branch, patch) {
                (Some(branch), _) => Form::Branch(branch),
                (None, Some(patch)) => Form::Patch(absolute(patch, context)),
                (None, None) => Form::Own,
            };
            let dir = dir.map(|dir| absolute(dir, context));
            carry_out(Export { vm, dir, form, caller: context.caller() }, detach, context)
        }
        Command::List => list(context),
        Command::Show { vm } => {
            let shown = context.daemon()?.call(Show { vm })?;
            print(&shown, context)
        }
        Command::Forget { vm } => {
            let forgotten = context.daemon()?.call(Forget { vm })?;
            if context.output.is_json() {
                return context.output.document(&forgotten);
            }
            let place = one_line(&forgotten.place.to_string());
            context
                .output
                .line(format_args!("{}  forgotten; the files stay in the vm at {place}", forgotten.vm))
        }
    }
}

/// Has a working copy, or a thread, copied to a vm, and waits for that.
pub(super) fn prepare(vm: String, dir: OsString, interrupt: &Interrupt, context: &mut Context) -> Result<()> {
    let (origin, caller) = (origin(dir, context)?, context.caller());
    let prepare = Prepare { vm, origin, place: None, with_secrets: false, caller };
    follow(prepare, interrupt, context)
}

/// A directory, or a thread.
fn origin(dir: OsString, context: &Context) -> Result<Origin> {
    match dir.as_bytes().strip_prefix(b"thread:") {
        Some(name) => {
            let name = String::from_utf8(name.to_vec());
            name.map(Origin::Thread).map_err(|_| Error::usage("that is no name of a thread"))
        }
        None => Ok(Origin::Directory(absolute(PathBuf::from(dir), context))),
    }
}

fn absolute(path: PathBuf, context: &Context) -> ByteString {
    ByteString::from(context.cwd.join(path))
}

/// Has it done, and waits for that unless it is to be left alone.
fn carry_out<M: Method<Reply = Operation> + Into<Call>>(
    params: M,
    detach: bool,
    context: &mut Context,
) -> Result<()> {
    if detach {
        return operation::detach(params, context);
    }
    follow(params, &Interrupt::watch_keyboard()?, context)
}

fn follow<M: Method<Reply = Operation> + Into<Call>>(
    params: M,
    interrupt: &Interrupt,
    context: &mut Context,
) -> Result<()> {
    let client = context.daemon()?;
    let vm = operation::carry_out(&client, params, interrupt, &mut context.output)?;
    let shown = client.call(Show { vm })?;
    print(&shown, context)
}

fn print(workspace: &Workspace, context: &mut Context) -> Result<()> {
    if context.output.is_json() {
        return context.output.document(workspace);
    }
    let Workspace { vm, place, dir, head, went, exported, .. } = workspace;
    let place = one_line(&place.to_string());
    context.output.line(format_args!("{vm}  {place}"))?;
    let from = workspace.branch.as_deref().unwrap_or("no branch");
    let from = format!("{} at {} of {}", one_line(from), short(head), one_line(&dir.to_string()));
    line("prepared", &from, context)?;
    let changed = format!("{} staged, {} changed, {} new", went.staged, went.unstaged, went.untracked);
    line("with", &format!("{changed}; {}", bytes(went.bytes)), context)?;
    paths("left out", &went.left_out, context)?;
    paths("secrets", &went.secrets, context)?;
    paths("empty", &went.submodules, context)?;
    if went.large > 0 {
        line("LFS", &format!("{}, as a pointer", counted(went.large, "file")), context)?;
    }
    exported.as_ref().map_or(Ok(()), |exported| print_exported(workspace, exported, context))
}

fn print_exported(workspace: &Workspace, exported: &Exported, context: &mut Context) -> Result<()> {
    let Exported { commit, commits, branch, patch, onto, conflicts, .. } = exported;
    let what = match (branch, patch) {
        (Some(branch), _) => {
            format!("{} at {}, {}", one_line(branch), short(commit), counted(*commits, "commit"))
        }
        (None, Some(patch)) => one_line(&patch.to_string()),
        (None, None) => "nothing was done there".to_owned(),
    };
    line("exported", &what, context)?;
    let onto = onto.as_deref().map_or_else(|| "its branch".to_owned(), one_line);
    match conflicts {
        Some(conflicts) => paths(&format!("conflicts with {onto}"), conflicts, context)?,
        None => line("conflicts", &format!("with {onto} cannot be told"), context)?,
    }
    if let (Some(thread), Some(branch)) = (&workspace.thread, branch) {
        line("next", &format!("stead thread switch {thread} {}", one_line(branch)), context)?;
    }
    Ok(())
}

fn line(what: &str, text: &str, context: &mut Context) -> Result<()> {
    context.output.line(format_args!("{what:<10}  {text}"))
}

fn paths(what: &str, paths: &[ByteString], context: &mut Context) -> Result<()> {
    if paths.is_empty() {
        return Ok(());
    }
    let shown: Vec<String> = paths.iter().map(|path| one_line(&path.to_string())).collect();
    line(what, &shown.join(" "), context)
}

fn short(commit: &str) -> &str {
    commit.get(..SHORT_COMMIT_LENGTH).unwrap_or(commit)
}

fn list(context: &mut Context) -> Result<()> {
    // Also without a daemon there may be some: it is asked for by starting one.
    let workspaces: Workspaces = context.daemon()?.call(List {})?;
    if context.output.is_json() {
        return context.output.document(&workspaces);
    }
    let table = table(&workspaces, context);
    context.output.list(&table, "no workspaces: `stead workspace prepare` makes one")
}

fn table(workspaces: &Workspaces, context: &Context) -> Table {
    let columns = [
        ("VM", Align::Left),
        ("PLACE", Align::Left),
        ("OF", Align::Left),
        ("PREPARED", Align::Left),
        ("EXPORTED", Align::Left),
    ];
    let mut table = Table::new(&columns);
    let now = context.output.now();
    for workspace in &workspaces.workspaces {
        let of = match &workspace.thread {
            Some(thread) => format!("thread:{thread}"),
            None => workspace.dir.to_string(),
        };
        let exported = workspace.exported.as_ref();
        table.row([
            one_line(&workspace.vm).into(),
            one_line(&workspace.place.to_string()).into(),
            one_line(&of).into(),
            age(now, workspace.since).into(),
            exported.map_or_else(|| "-".to_owned(), |exported| age(now, exported.at)).into(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use wire::api::id::OperationId;

    use super::*;
    use crate::fake::Fake;

    fn shown(exported: serde_json::Value) -> serde_json::Value {
        json!({
            "vm": "dev", "id": "1", "dir": "/home/u/app", "place": "/root/app", "branch": "main",
            "head": "0123456789abcdef0123456789abcdef01234567", "since": "2026-01-01T00:00:00Z",
            "went": {"staged": 1, "unstaged": 2, "untracked": 3, "bytes": 2048, "left_out": [".env"],
                     "secrets": ["a.pem"], "submodules": [], "large": 1},
            "exported": exported,
        })
    }

    fn operation() -> serde_json::Value {
        json!({
            "id": OperationId::new(3), "kind": "workspace export", "name": "dev", "state": "succeeded",
            "stages": ["guest", "check", "branch", "record"], "since": "2026-01-01T00:00:00Z",
        })
    }

    #[test]
    fn what_is_prepared_is_a_directory_here_or_a_thread() {
        let fake = Fake::new(|_, _| Ok(operation()));
        for dir in ["sub", "/abs", "thread:fix"] {
            fake.run(&["workspace", "prepare", "dev", dir, "--detach"]);
        }
        fake.run(&["workspace", "prepare", "dev", "--with-secrets", ".", "--detach"]);
        let with_secrets =
            |call: &Call| matches!(call, Call::WorkspacePrepare(prepare) if prepare.with_secrets);
        assert_eq!(fake.calls().iter().map(with_secrets).collect::<Vec<_>>(), [false, false, false, true]);
        let origins: Vec<Origin> = fake
            .calls()
            .iter()
            .take(3)
            .map(|call| match call {
                Call::WorkspacePrepare(prepare) => prepare.origin.clone(),
                other => panic!("{other:?}"),
            })
            .collect();
        let [Origin::Directory(here), Origin::Directory(there), Origin::Thread(thread)] = &origins[..] else {
            panic!("{origins:?}");
        };
        assert!(here.as_path().is_absolute() && here.as_path().ends_with("sub"));
        assert_eq!((there.as_path().to_str(), thread.as_str()), (Some("/abs"), "fix"));
    }

    #[test]
    fn a_vm_is_made_and_started_before_its_workspace_is_prepared() {
        let vm = json!({
            "name": "dev", "id": "1", "state": "running", "image": "tiny", "engine": "qemu", "pid": 1, "cpus": 1,
            "memory_mib": 512, "nat": false, "since": "2026-01-01T00:00:00Z",
        });
        let fake = Fake::new(move |call, _| {
            Ok(match call {
                Call::VmStart(_) | Call::VmShow(_) => vm.clone(),
                Call::WorkspaceShow(_) => shown(json!(null)),
                Call::EventSubscribe(_) => json!({"subscription": "s1", "seq": 0}),
                _ => operation(),
            })
        });
        let ran = fake.run(&["vm", "create", "dev", "--image", "tiny", "--workspace", "thread:fix"]);
        assert!(ran.code == 0 && ran.out.starts_with("dev  /root/app\n"), "{}{}", ran.out, ran.err);
        let calls = fake.calls();
        let at = |is: fn(&Call) -> bool| calls.iter().position(is);
        let made = at(|call| matches!(call, Call::VmCreate(_)));
        let started = at(|call| matches!(call, Call::VmStart(_)));
        let prepared = at(|call| matches!(call, Call::WorkspacePrepare(_)));
        assert!(made.is_some() && made < started && started < prepared, "{calls:?}");
    }

    #[test]
    fn what_came_back_is_shown_with_what_it_conflicts_with() {
        let exported = json!({
            "at": "2026-01-01T00:00:00Z", "dir": "/home/u/app", "commit": "f".repeat(40), "commits": 2,
            "branch": "stead/dev", "onto": "main", "conflicts": ["src/a\u{1b}.c"],
        });
        let fake = Fake::new(move |_, _| Ok(shown(exported.clone())));
        let ran = fake.run(&["workspace", "show", "dev"]);
        let expected = "dev  /root/app\nprepared    main at 0123456789ab of /home/u/app\n\
                        with        1 staged, 2 changed, 3 new; 2.0 KiB\nleft out    .env\nsecrets     a.pem\n\
                        LFS         1 file, as a pointer\nexported    stead/dev at ffffffffffff, 2 commits\n";
        assert!(ran.out.starts_with(expected), "{}", ran.out);
        assert!(ran.out.contains("conflicts with main  ") && !ran.out.contains('\u{1b}'), "{}", ran.out);
        let unknown = json!({
            "at": "2026-01-01T00:00:00Z", "dir": "/home/u/app", "commit": "f".repeat(40), "commits": 2,
            "branch": "stead/dev", "onto": "main",
        });
        let fake = Fake::new(move |_, _| Ok(shown(unknown.clone())));
        let ran = fake.run(&["workspace", "show", "dev"]);
        assert!(ran.out.ends_with("conflicts   with main cannot be told\n"), "{}", ran.out);
    }
}
