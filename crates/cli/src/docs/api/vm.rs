//! `vm.*`

use wire::api::time::Timestamp;
use wire::api::{event, status, vm};

use super::{Method, caller, json};

pub(super) fn methods() -> Vec<Method> {
    let name = || "dev".to_owned();
    let ports = || vec![vm::Forward { host: 8080, guest: 80 }];
    let a_snapshot = || status::Snapshot {
        name: "before".to_owned(),
        created: Timestamp::from_unix(1_767_225_600),
        deleting: false,
        for_fork: false,
        reason: None,
    };
    let a_vm = |state, pid| status::Vm {
        name: name(),
        id: "1f0e9d8c7b6a5948".to_owned(),
        state,
        image: "tiny".to_owned(),
        engine: "qemu".to_owned(),
        pid,
        cpus: 1,
        memory_mib: 512,
        nat: true,
        ports: ports(),
        snapshots: vec![a_snapshot()],
        from: None,
        reason: None,
        since: Timestamp::from_unix(1_767_225_600),
    };
    let (stopped, running) = (a_vm(event::VmState::Stopped, None), a_vm(event::VmState::Running, Some(125)));
    let create = vm::Create {
        name: name(),
        image: "tiny".to_owned(),
        cpus: Some(1),
        memory_mib: Some(512),
        nat: true,
        ports: ports(),
        disk_mib: Some(4096),
    };
    let set = vm::Set {
        name: name(),
        cpus: Some(2),
        memory_mib: None,
        disk_mib: Some(4096),
        nat: Some(true),
        ports: Some(ports()),
    };
    let guest = vm::GuestUsage {
        memory_bytes: 180 << 20,
        available_bytes: 150 << 20,
        load_hundredths: 7,
        received_bytes: 4096,
        sent_bytes: 1024,
    };
    let usage = vm::Usage {
        name: name(),
        cpu_ms: 2500,
        memory_bytes: 210 << 20,
        disk_bytes: 3 << 20,
        guest: Some(guest),
    };
    let listener = vm::Listener { port: 80, address: std::net::Ipv4Addr::UNSPECIFIED.into() };
    vec![
        Method {
            call: create.into(),
            reply: json(super::operation::an_operation(event::OperationState::Running)),
            text: "Makes a microVM, which does not run. Answered at once with the operation that does it; of one that fails or is cancelled\n\
                   nothing is left. The microVM is `creating` meanwhile.",
        },
        Method {
            call: vm::Snapshot { name: name(), snapshot: Some("before".to_owned()) }.into(),
            reply: json(a_snapshot()),
            text: "Keeps what is on the disk of a microVM that does not run; one that runs is refused with an error of kind `conflict`. Its\n\
                   memory is not kept. Nothing is copied. It goes with its microVM.",
        },
        Method {
            call: vm::DeleteSnapshot { name: name(), snapshot: "before".to_owned() }.into(),
            reply: json(vm::SnapshotDeleted {
                name: name(),
                snapshot: "before".to_owned(),
                users: vec!["other".to_owned()],
            }),
            text: "Removes a snapshot. From here on no microVM is made of it, and `deleting` is set where it is shown. `users` are the microVMs\n\
                   whose disks are over it: it goes by itself when there are none but its own, and that does not run, and is gone\n\
                   already if there are none.",
        },
        Method {
            call: vm::Fork { name: name(), new: "other".to_owned(), snapshot: Some("before".to_owned()) }
                .into(),
            reply: json(status::Operation {
                kind: "vm fork".to_owned(),
                name: "other".to_owned(),
                ..super::operation::an_operation(event::OperationState::Running)
            }),
            text: "Makes a microVM of a snapshot of another one, as `vm.create` makes one of an image. It has another id and another host name,\n\
                   and no forwarded ports. Without a `snapshot` one is taken, which goes\n\
                   by itself when no microVM is over it any more. `from` says of what it was made.",
        },
        Method {
            call: vm::Start { name: name() }.into(),
            reply: json(&running),
            text: "Starts a microVM. Answered once its agent can be reached. `state` is `creating`, `stopped`, `starting`, `running`,\n\
                   `stopping` or `failed`, with a `reason`; in events `deleted` too.",
        },
        Method {
            call: vm::Stop { name: name(), grace_ms: Some(60_000) }.into(),
            reply: json(&stopped),
            text: "Has a microVM power itself off, and ends its VMM if it takes longer than `grace_ms`. Answered once that has ended.",
        },
        Method {
            call: vm::Kill { name: name() }.into(),
            reply: json(&stopped),
            text: "Ends a microVM as a power cut would.",
        },
        Method {
            call: vm::Delete { name: name(), force: false }.into(),
            reply: json(vm::Deleted { name: name() }),
            text: "Removes a microVM with its disk and its snapshots. One of which another was made is kept, and one that runs, with an error of kind `conflict`, unless `force` is set.",
        },
        Method {
            call: vm::Show { name: name() }.into(),
            reply: json(&running),
            text: "One microVM. Here, and in `vm.logs`, `vm.ping`, `vm.stats` and `vm.ports`, `name` may also be what only its\n\
                   name or its id begins with; what changes one takes the whole of either.",
        },
        Method {
            call: vm::List {}.into(),
            reply: json(vm::Vms { vms: vec![running.clone()] }),
            text: "All microVMs, by name.",
        },
        Method {
            call: set.into(),
            reply: json(&stopped),
            text: "Changes a microVM that does not run; one that runs is refused with an error of kind `conflict`. What is not given stays\n\
                   as it is. A disk becomes no smaller; the guest's file system takes all of it at the next start.",
        },
        Method {
            call: vm::Ping { name: name(), caller: caller() }.into(),
            reply: json(vm::Pong { name: name(), round_trip_us: 900 }),
            text: "Asks the agent of a microVM that runs for nothing.",
        },
        Method {
            call: vm::Stats { name: name(), caller: caller() }.into(),
            reply: json(usage),
            text: "What a microVM that runs takes of this computer, and what its guest says of itself: that is missing if it does not answer.",
        },
        Method {
            call: vm::Ports { name: name(), caller: caller() }.into(),
            reply: json(vm::Listeners { name: name(), ports: vec![listener] }),
            text: "On which TCP ports of a microVM something listens, and for which of its addresses.",
        },
        Method {
            call: vm::Logs { name: name() }.into(),
            reply: json(vm::Console { text: "reboot: Power down\n".to_owned() }),
            text: "The end of what a guest has said on its console, 128 KiB at most, without control characters.",
        },
    ]
}
