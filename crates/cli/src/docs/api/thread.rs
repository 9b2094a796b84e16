//! `thread.*`

use wire::api::id::MountId;
use wire::api::mount::Force;
use wire::api::time::Timestamp;
use wire::api::{event, status, thread};

use super::{Method, caller, json};

const COMMIT: &str = "9daeafb9864cf43055ae93beb0afd6c7d144bfa4";

pub(super) fn methods() -> Vec<Method> {
    let new = thread::New {
        name: "fix".to_owned(),
        repo: Some("app".into()),
        from: Some("main".to_owned()),
        at: Some("app-fix".into()),
        with_ignored: thread::Ignored::Seen,
        caller: caller(),
    };
    let a_thread = status::Thread {
        name: "fix".to_owned(),
        repo: "/home/u/app".into(),
        base: "3b18e512dba79e4c8300dd08aeb37f8e728b8dad".to_owned(),
        branch: "fix".to_owned(),
        dir: "/home/u/app-fix".into(),
        state: event::ThreadState::Open,
        changed: 1,
        mount: Some(MountId::new(1)),
    };
    let change = thread::Change { path: "src/main.rs".into(), kind: thread::ChangeKind::Modified };
    vec![
        Method {
            call: new.into(),
            reply: json(&a_thread),
            text: "Makes a thread of the repository in which `repo` is, a branch and a worktree of the same name, and mounts it at `at`, or\n\
                   beside the repository without one. Both are relative to the caller's directory. `from` is what git takes for a commit, or\n\
                   `thread:NAME`; `HEAD` without one. `with_ignored` is `seen` to see in it what is ignored where it is made from, or `absent`. On\n\
                   failure nothing is left behind.",
        },
        Method {
            call: thread::List {}.into(),
            reply: json(thread::Threads { threads: vec![a_thread.clone()] }),
            text: "All threads, mounted or not. `changed` is how many paths are not as the base has them, as far as that is known.",
        },
        Method {
            call: thread::Status { name: "fix".to_owned(), after: Some("src/lib.rs".into()) }.into(),
            reply: json(thread::Changes {
                thread: a_thread,
                changed: vec![change],
                more: false,
                disk_bytes: 12_288,
            }),
            text: "What is not as the base has it: `added`, `modified` or `deleted`, in the order of paths. With `more`, the rest is told\n\
                   of when the last path is given as `after`. `disk_bytes` is what the thread takes on the disk.",
        },
        Method {
            call: thread::Capture {
                name: "fix".to_owned(),
                message: "Mend the parser".to_owned(),
                agent: Some("reviewer".to_owned()),
                tool: None,
                if_changed: false,
            }
            .into(),
            reply: json(thread::Captured {
                name: "fix".to_owned(),
                commit: COMMIT.to_owned(),
                parent: "3b18e512dba79e4c8300dd08aeb37f8e728b8dad".to_owned(),
            }),
            text: "Makes a commit of what is in a thread that is mounted, but for what is ignored, on `refs/stead/threads/NAME`. Its branch and\n\
                   its index stay as they are. `agent` and `tool` become trailers. Refused when nothing has changed since the last one;\n\
                   with `if_changed` that one is told, as its own `parent`.",
        },
        Method {
            call: thread::Diff { name: "fix".to_owned() }.into(),
            reply: json(thread::Compared {
                repository: "/home/u/app/.git".into(),
                from: "4b825dc642cb6eb9a060e54bf8d69288fbee4904".to_owned(),
                to: COMMIT.to_owned(),
            }),
            text: "Makes trees of what a thread began from and of what is in it now, but for what is ignored, for git to compare.",
        },
        Method {
            call: thread::Log { name: "fix".to_owned() }.into(),
            reply: json(thread::Captures {
                captures: vec![thread::CaptureEntry {
                    commit: COMMIT.to_owned(),
                    at: Timestamp::from_unix(1_767_225_600),
                    author: "me".to_owned(),
                    subject: "Mend the parser".to_owned(),
                }],
            }),
            text: "The captures of a thread, the last one first.",
        },
        Method {
            call: thread::Land {
                name: "fix".to_owned(),
                onto: Some("main".to_owned()),
                mode: thread::LandMode::Auto,
                message: None,
            }
            .into(),
            reply: json(thread::Landed {
                name: "fix".to_owned(),
                branch: "main".to_owned(),
                commit: COMMIT.to_owned(),
                how: thread::LandedHow::FastForward,
                captured: None,
                dir: Some("/home/u/app".into()),
            }),
            text: "Brings what is in a thread that is mounted onto a branch: without `onto`, onto that from which it was made. `mode` is\n\
                   `auto`, `merge` or `squash`. With a `message`, what is neither committed nor captured is captured; without one it is\n\
                   refused. A worktree that has the branch, `dir`, goes along, unless it has changes in tracked files: that is refused, too.\n\
                   What cannot be merged is refused, and begun in the thread, to be resolved and committed there.",
        },
        Method {
            call: thread::Switch { name: "fix".to_owned(), revision: "main~2".to_owned() }.into(),
            reply: json(thread::Switched {
                name: "fix".to_owned(),
                was: COMMIT.to_owned(),
                commit: "3b18e512dba79e4c8300dd08aeb37f8e728b8dad".to_owned(),
            }),
            text: "Has a thread that is mounted show another revision, and its branch be at it. Only files that differ are touched. Changes that\n\
                   are not committed stay; where one is of such a file, it is refused.",
        },
        Method {
            call: thread::Undo { name: "fix".to_owned(), redo: false }.into(),
            reply: json(thread::Undone {
                name: "fix".to_owned(),
                operation: thread::OperationKind::Land,
                reference: "refs/heads/main".to_owned(),
                was: Some(COMMIT.to_owned()),
                now: Some("3b18e512dba79e4c8300dd08aeb37f8e728b8dad".to_owned()),
                dir: Some("/home/u/app".into()),
            }),
            text: "Undoes what was done to a thread last and is not undone: a `capture`, a `land`, a `switch`, its making (`new`), by\n\
                   which it goes as one that is dropped without force. With `redo`, does again what was undone last. Refused if the reference\n\
                   is not where it was left, or a change that is not committed would be lost. What it leaves is kept on\n\
                   `refs/stead/kept/NAME/` as long as it can be done again. Where no thread has the name, the one that was dropped last is had\n\
                   back (`drop`), or with `redo` the one whose making was undone last, and is not mounted.",
        },
        Method {
            call: thread::Collect { grace_seconds: Some(86_400), dry_run: false }.into(),
            reply: json(thread::Collected {
                threads: vec![thread::CollectedThread {
                    name: "try".to_owned(),
                    repo: "/home/u/app".into(),
                    at: Timestamp::from_unix(1_767_225_600),
                    disk_bytes: 12_288,
                }],
                kept: 2,
            }),
            text: "Removes for good what is left of threads that were dropped `grace_seconds` ago, a week without it, or longer. `kept` is how\n\
                   many others can be had back. With `dry_run` nothing is removed. The daemon does this by itself every hour.",
        },
        Method {
            call: thread::Drop { name: "fix".to_owned(), force: Force::Never }.into(),
            reply: json(thread::Dropped {
                name: "fix".to_owned(),
                kept_branch: Some("fix".to_owned()),
                kept_captures: None,
            }),
            text: "Unmounts a thread and removes it, with its branch, unless that has commits that no other branch has: then it is told.\n\
                   Without `force` a thread that is in use, or has changes that are neither committed nor captured, is refused; with it,\n\
                   captures go too. What is left can be had back until it is collected.",
        },
    ]
}
