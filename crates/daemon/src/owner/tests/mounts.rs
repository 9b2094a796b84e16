//! Mounts, and what is told of them.

use super::*;
use crate::mount::plan::Shows;

/// The owner of one mount of [`ssh_box`], which takes events when the test gives them, and what arrives for its task.
fn owner_of_a_mount(scratch: &tempfile::TempDir) -> (Owner, MountId, mpsc::Receiver<Command>) {
    let id = MountId::new(1);
    let dir = std::path::PathBuf::from("/home/u/src");
    let plan = Plan {
        source: Source::parse(b"ssh://box/src", b"/").unwrap(),
        place: Place { dir, shows: Shows::Files { machine: ssh_box(), path: "/src".into() } },
        backend: wire::api::mount::Backend::Nfs,
        access: wire::api::mount::Access::ReadWrite,
        sync: wire::api::mount::SyncMode::Close,
        reconnect: Reconnect::Automatic,
        heartbeat: Heartbeat::default(),
        options: BTreeMap::new(),
        caller: Caller::default(),
        made: Vec::new(),
    };
    let surroundings = surroundings(&Arc::default(), scratch.path());
    let mut owner = Owner::new(OwnerHandle::new().0, surroundings, 1);
    let arriving = owner.know_mount(id, &plan);
    (owner, id, arriving)
}

fn serving() -> MountEvent {
    let ready = Ready {
        backend: wire::api::mount::BackendName::Nfs,
        connection: None,
        port: Some(1),
        nfs: None,
        degraded: None,
        agent_version: None,
        pid: None,
        restarts: None,
        replayed: None,
    };
    MountEvent::Serving { pid: 1, ready: Box::new(ready) }
}

fn said(status: MountStatus, kept_aside: &[&str]) -> MountEvent {
    MountEvent::Status(Box::new(WorkerStatus {
        status,
        reason: Some("cut".to_owned()),
        journal: status::Journal::default(),
        counters: status::Counters::default(),
        operations: Default::default(),
        degraded: None,
        kept_aside: kept_aside.iter().map(|path| ByteString::from(*path)).collect(),
        replayed: None,
    }))
}

fn worker_lost() -> MountEvent {
    MountEvent::WorkerLost { why: "signal 9".to_owned() }
}

fn worker_serves() -> MountEvent {
    MountEvent::WorkerServes { pid: 2, restarts: 1 }
}

fn probed(why: &str) -> MountEvent {
    MountEvent::Probed(Health::Failed { why: why.to_owned() })
}

#[tokio::test(start_paused = true)]
async fn what_happens_to_a_mount_is_told_in_order_and_once() {
    use MountStatus::{Active, Disconnected, Reconnecting};
    let scratch = tempfile::tempdir().unwrap();
    let (mut owner, id, _commands) = owner_of_a_mount(&scratch);
    let mut events = owner.bus.subscribe(vec![Topic::Mount]);
    let slow = || MountEvent::Probed(Health::Degraded { why: "slow".to_owned() });
    let failed = || MountEvent::Failed { reason: "five deaths".to_owned() };
    let steps: Vec<(MountEvent, &str)> = vec![
        (serving(), "active"),
        (said(Reconnecting, &[]), "reconnecting: cut"),
        (said(Reconnecting, &[]), ""),
        (said(Disconnected, &[]), "disconnected: cut"),
        (said(Active, &[]), "active"),
        // A death, with a link that is lost meanwhile.
        (worker_lost(), "recovering: signal 9"),
        (said(Reconnecting, &[]), ""),
        (worker_serves(), "reconnecting: cut"),
        (said(Active, &[]), "active"),
        // A hang: its worker is killed, and that is the same trouble.
        (probed("silence"), "recovering: silence"),
        (probed("silence"), ""),
        (worker_lost(), ""),
        (worker_serves(), "active"),
        (slow(), "degraded: slow"),
        (slow(), ""),
        (MountEvent::Probed(Health::Healthy), "active"),
        (said(Active, &["/a"]), "kept_aside /a"),
        (said(Active, &["/a", "/b"]), "kept_aside /b"),
        (worker_lost(), "recovering: signal 9"),
        (failed(), "failed: five deaths"),
        // What was still on its way.
        (worker_serves(), ""),
        (said(Active, &[]), ""),
        (failed(), ""),
        (MountEvent::Ended, "unmounted"),
        (said(Active, &[]), ""),
    ];
    let mut expected = Vec::new();
    for (event, told) in steps {
        owner.on(Event::Mount(id, event));
        expected.extend((!told.is_empty()).then_some(told));
    }
    drop(owner);
    let (mut told, mut last) = (Vec::new(), 0);
    while let Some(Told::Event(event)) = events.next().await {
        assert!(event.seq > last, "in order, each once");
        last = event.seq;
        let Happened::Mount { state, reason, path, .. } = event.happened else {
            panic!("not a mount's");
        };
        let path = path.map(|path| format!(" {path}")).unwrap_or_default();
        told.push(format!("{state}{path}{}", reason.map(|why| format!(": {why}")).unwrap_or_default()));
    }
    assert_eq!(told, expected);
}

#[tokio::test(start_paused = true)]
async fn what_becomes_of_what_was_not_saved_is_told_once_also_while_the_mount_serves() {
    let scratch = tempfile::tempdir().unwrap();
    let (mut owner, id, _commands) = owner_of_a_mount(&scratch);
    let mut events = owner.bus.subscribe(vec![Topic::Mount]);
    let aside = |name: &str| status::Aside { of: "/m/f".into(), path: name.into() };
    let left = |path: &str| status::Left { path: path.into(), reason: "full".to_owned() };
    let saving = status::Replayed { saving: vec!["/s/m1".into(), "/s/m2".into()], ..Default::default() };
    let one = status::Replayed {
        writes: 2,
        aside: vec![aside("/m/f.1")],
        saving: vec!["/s/m2".into()],
        ..Default::default()
    };
    let both = status::Replayed { left: vec![left("/s/m2")], saving: Vec::new(), ..one.clone() };
    let report = |replayed: &status::Replayed| match said(MountStatus::Active, &[]) {
        MountEvent::Status(report) => {
            MountEvent::Status(Box::new(WorkerStatus { replayed: Some(replayed.clone()), ..*report }))
        }
        other => other,
    };
    let shown = |owner: &Owner| owner.document().mounts[0].replayed.clone().unwrap();
    for event in [serving(), MountEvent::Replayed(Box::new(saving.clone())), report(&one), report(&both)] {
        owner.on(Event::Mount(id, event));
    }
    assert_eq!(shown(&owner), both);
    // A successor knows only what is left.
    let successors = status::Replayed { left: vec![left("/s/m2")], ..Default::default() };
    owner.on(Event::Mount(id, MountEvent::Replayed(Box::new(successors))));
    owner.on(Event::Mount(id, said(MountStatus::Active, &[])));
    assert_eq!(shown(&owner), both);
    drop(owner);
    let mut told = Vec::new();
    while let Some(Told::Event(event)) = events.next().await {
        let Happened::Mount { state, path, .. } = event.happened else { panic!("not a mount's") };
        told.push(format!("{state} {}", path.unwrap_or_default()));
    }
    assert_eq!(told, ["active ", "kept_aside /m/f.1", "kept_aside /s/m2"]);
}

#[tokio::test(start_paused = true)]
async fn what_a_dead_worker_had_counted_is_not_forgotten() {
    let scratch = tempfile::tempdir().unwrap();
    let (mut owner, id, _commands) = owner_of_a_mount(&scratch);
    owner.on(Event::Mount(id, serving()));
    let mut count = |event, expected| {
        owner.on(Event::Mount(id, event));
        assert_eq!(owner.document().mounts[0].counters.requests, expected);
    };
    let said = |requests| match said(MountStatus::Active, &[]) {
        MountEvent::Status(mut report) => {
            report.counters.requests = requests;
            MountEvent::Status(report)
        }
        other => other,
    };
    count(said(7), 7);
    count(worker_lost(), 7);
    count(worker_serves(), 7);
    // Told twice of the same one.
    count(worker_serves(), 7);
    count(said(2), 9);
    count(worker_serves(), 9);
    count(said(3), 10);
    count(MountEvent::WorkerServes { pid: 3, restarts: 4 }, 10);
    count(said(1), 11);
}

#[tokio::test(start_paused = true)]
async fn a_mount_follows_its_connection_and_is_told_when_the_machine_is_back() {
    let scratch = tempfile::tempdir().unwrap();
    let (mut owner, id, mut commands) = owner_of_a_mount(&scratch);
    owner.on(Event::Mount(id, serving()));
    let status = |owner: &Owner| {
        let mount = &owner.document().mounts[0];
        (mount.status.clone(), mount.reason.clone().unwrap_or_default())
    };
    let because = |why: &str| Some(why.to_owned());
    owner.connection_changed(&ssh_box(), ConnectionState::Reconnecting, because("no route"));
    assert_eq!(status(&owner).0, MountStatus::Active, "its own link is what it hangs on");
    owner.on(Event::Mount(id, said(MountStatus::Reconnecting, &[])));
    assert_eq!(status(&owner), (MountStatus::Reconnecting, "no route".to_owned()));
    owner.connection_changed(&ssh_box(), ConnectionState::Disconnected, because("no such host"));
    assert_eq!(status(&owner), (MountStatus::Disconnected, "no such host".to_owned()));
    assert!(commands.try_recv().is_err());
    owner.connection_changed(&Machine::Host, ConnectionState::Connected, None);
    assert!(commands.try_recv().is_err(), "another machine's connection");
    owner.connection_changed(&ssh_box(), ConnectionState::Connected, None);
    assert!(matches!(commands.try_recv(), Ok(Command::Reconnect)));
    owner.on(Event::Mount(id, said(MountStatus::Active, &[])));
    assert_eq!(status(&owner), (MountStatus::Active, String::new()));
}
