//! `workspace.*`

use wire::api::event::OperationState;
use wire::api::time::Timestamp;
use wire::api::{status, workspace};

use super::operation::an_operation;
use super::{Method, caller, json};

fn begun(kind: &str, stages: &[&str]) -> status::Operation {
    status::Operation {
        kind: kind.to_owned(),
        stages: stages.iter().map(|&stage| stage.to_owned()).collect(),
        stage: None,
        ..an_operation(OperationState::Running)
    }
}

fn a_workspace() -> workspace::Workspace {
    let exported = workspace::Exported {
        at: Timestamp::from_unix(1_767_229_200),
        dir: "/home/u/app".into(),
        commit: "f".repeat(40),
        commits: 2,
        branch: Some("stead/dev".to_owned()),
        patch: None,
        onto: Some("main".to_owned()),
        conflicts: Some(vec!["src/main.rs".into()]),
    };
    workspace::Workspace {
        vm: "dev".to_owned(),
        id: "5a6b7c8d9e0f1a2b".to_owned(),
        dir: "/home/u/app".into(),
        thread: None,
        place: "/root/app".into(),
        branch: Some("main".to_owned()),
        head: "e".repeat(40),
        since: Timestamp::from_unix(1_767_225_600),
        went: workspace::Went {
            staged: 1,
            unstaged: 2,
            untracked: 1,
            bytes: 40960,
            left_out: vec![".env".into()],
            secrets: Vec::new(),
            submodules: vec!["libs/other".into()],
            large: 0,
        },
        exported: Some(exported),
    }
}

pub(super) fn methods() -> Vec<Method> {
    let vm = || "dev".to_owned();
    vec![
        Method {
            call: workspace::Prepare {
                vm: vm(),
                origin: workspace::Origin::Directory("/home/u/app".into()),
                place: Some("/root/app".into()),
                with_secrets: false,
                caller: caller(),
            }
            .into(),
            reply: json(begun("workspace prepare", &["copy", "guest", "record"])),
            text: "Copies a git working copy, or a thread (`{\"thread\":\"fix\"}`), to a microVM that runs, as it is. Answered at once with the\n\
                   operation that does it. Without `place` it is in the home there. A microVM that has a workspace is an error of kind `conflict`.",
        },
        Method {
            call: workspace::Export {
                vm: vm(),
                dir: Some("/home/u/app".into()),
                form: workspace::Form::Branch("stead/dev".to_owned()),
                caller: caller(),
            }
            .into(),
            reply: json(begun("workspace export", &["guest", "check", "branch", "record"])),
            text: "Brings back what was done in a workspace. `form` is `\"own\"` (the branch `stead/VM`, as without it), `{\"branch\":\"NAME\"}` or\n\
                   `{\"patch\":\"/path\"}`. A branch that is checked out or has commits that are not in what comes back, and a file that is there,\n\
                   are an error of kind `conflict`.",
        },
        Method {
            call: workspace::Show { vm: vm() }.into(),
            reply: json(a_workspace()),
            text: "The workspace of a microVM: what went there, and as `exported` what came back last. `commits` is 0 if nothing was done there.",
        },
        Method {
            call: workspace::List {}.into(),
            reply: json(workspace::Workspaces { workspaces: vec![a_workspace()] }),
            text: "All workspaces.",
        },
        Method {
            call: workspace::Forget { vm: vm() }.into(),
            reply: json(workspace::Forgotten { vm: vm(), place: "/root/app".into() }),
            text: "Forgets a workspace, so that another one can be prepared. Its files stay in the microVM, and branches stay here.",
        },
    ]
}
