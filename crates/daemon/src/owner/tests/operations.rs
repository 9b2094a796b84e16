use std::path::Path;
use std::sync::{Condvar, Mutex};

use machine::capability::{Base, Capabilities, Capability, Directory, Written};
use machine::course::Course;
use machine::disk::Format;
use machine::engine::{Engine, Examined, Spec};
use machine::vm::{Places, Record};
use supervisor::{Identity, Process};
use wire::api::event::{OperationState, VmState};
use wire::api::operation::ENDED_MAX;

use super::*;
use crate::images::Images;
use crate::vm::Wanted as WantedVm;

/// An engine that runs nothing.
struct StubEngine;

impl Engine for StubEngine {
    fn name(&self) -> &'static str {
        "stub"
    }

    fn examine(&self) -> machine::Result<Examined> {
        Err(nothing())
    }

    fn start(&self, _: &Spec) -> machine::Result<Process> {
        Err(nothing())
    }

    fn find(&self, _: &Path) -> machine::Result<Option<Identity>> {
        Ok(None)
    }
}

fn nothing() -> machine::Error {
    machine::Error::new(ErrorKind::Failure, "a stub runs nothing")
}

/// How parts that wait are let go on.
#[derive(Default)]
struct Gate {
    is_open: Mutex<bool>,
    changed: Condvar,
}

impl Gate {
    fn set(&self, is_open: bool) {
        *self.is_open.lock().unwrap() = is_open;
        self.changed.notify_all();
    }

    /// Until it is open, or whatever waits there is called off.
    fn pass(&self, course: &Course) -> machine::Result<()> {
        let mut is_open = self.is_open.lock().unwrap();
        while !*is_open {
            course.check()?;
            let waited = self.changed.wait_timeout(is_open, Duration::from_millis(1));
            is_open = waited.unwrap().0;
        }
        Ok(())
    }
}

/// A part of which a file is made, that waits at a gate with half of it done.
struct Waits(Arc<Gate>);

impl Capability for Waits {
    fn name(&self) -> &'static str {
        "waits"
    }

    fn prepare(&self, _: &Places, _: &Course) -> machine::Result<()> {
        Ok(())
    }

    fn apply(&self, places: &Places, course: &Course) -> machine::Result<()> {
        std::fs::write(places.directory.join("half"), "").unwrap();
        self.0.pass(course)
    }

    fn verify(&self, _: &Places, _: &Course) -> machine::Result<()> {
        Ok(())
    }

    fn undo(&self, places: &Places) -> machine::Result<()> {
        drop(std::fs::remove_file(places.directory.join("half")));
        Ok(())
    }
}

struct VmRig {
    rig: Rig,
    gate: Arc<Gate>,
    home: std::path::PathBuf,
}

fn vm_rig() -> VmRig {
    let scratch = tempfile::tempdir().unwrap();
    let machines = Arc::new(FakeMachines::default());
    let gate = Arc::new(Gate::default());
    let parts = {
        let gate = Arc::clone(&gate);
        move |wanted: &WantedVm| -> Capabilities {
            let waits = Waits(Arc::clone(&gate));
            vec![Box::new(Directory), Box::new(waits), Box::new(Written(wanted.record.clone()))]
        }
    };
    let mut surroundings = surroundings(&machines, scratch.path());
    surroundings.vms.engine = Arc::new(StubEngine);
    surroundings.vms.capabilities = Arc::new(parts);
    let (owner, events) = OwnerHandle::new();
    tokio::spawn(Owner::new(owner.clone(), surroundings, 0).run(events));
    let home = scratch.path().to_owned();
    VmRig { rig: Rig { owner, machines, _scratch: scratch }, gate, home }
}

fn id(number: u64) -> OperationId {
    OperationId::new(number)
}

impl VmRig {
    async fn create(&self, name: &str, number: u64) -> Result<status::Operation, ErrorObject> {
        self.make(name, number, None).await
    }

    async fn make(
        &self,
        name: &str,
        number: u64,
        from: Option<status::Origin>,
    ) -> Result<status::Operation, ErrorObject> {
        let base = Base {
            called: "nothing".into(),
            disk: "/nowhere".into(),
            format: Format::Raw,
            bytes: 1,
            hold: None,
        };
        let record = Record { from, ..Record::new("tiny", "stub", 1, 256) };
        let wanted = Box::new(WantedVm { record, base, disk_mib: None });
        let name = name.to_owned();
        self.rig.owner.ask(|answer| Event::CreateVm { name, wanted, id: id(number), answer }).await
    }

    async fn cancel(&self, number: u64) -> Result<status::Operation, ErrorObject> {
        self.rig.owner.ask(|answer| Event::CancelOperation { id: id(number), answer }).await
    }

    async fn ended(&self, number: u64) -> status::Operation {
        self.rig.owner.ask(|answer| Event::AwaitOperation { id: id(number), answer }).await.unwrap()
    }

    async fn delete(&self, name: &str) {
        let name = name.to_owned();
        let task = self.rig.owner.ask(|answer| Event::SelectVm { name, answer }).await.unwrap();
        let (answer, answered) = oneshot::channel();
        task.send(VmCommand::Delete { force: false, answer }).await.unwrap();
        answered.await.unwrap().unwrap();
    }

    /// What there is of microVMs on disk.
    fn left(&self) -> usize {
        std::fs::read_dir(self.home.join("vms")).into_iter().flatten().count()
    }
}

#[tokio::test]
async fn one_that_comes_to_its_end_is_followed_by_whoever_asks() {
    let vms = vm_rig();
    let begun = vms.create("dev", 1).await.unwrap();
    assert_eq!((begun.state, begun.stages.len()), (OperationState::Running, 3));
    let taken = vms.create("dev", 2).await.unwrap_err();
    assert_eq!(taken.kind(), ErrorKind::Conflict);
    assert_eq!(vms.rig.document().await.vms[0].state, VmState::Creating);
    vms.gate.set(true);
    let ended = vms.ended(1).await;
    assert_eq!((ended.state, ended.stage.as_deref()), (OperationState::Succeeded, Some("record")));
    let document = vms.rig.document().await;
    assert_eq!((document.vms[0].state, document.operations), (VmState::Stopped, vec![ended]));
    assert_eq!(vms.cancel(1).await.unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!(vms.cancel(2).await.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn one_that_is_cancelled_leaves_nothing_and_can_be_asked_for_again() {
    let vms = vm_rig();
    vms.create("dev", 1).await.unwrap();
    let cancelled = vms.cancel(1).await.unwrap();
    assert_eq!((cancelled.state, cancelled.error.clone()), (OperationState::Cancelled, None));
    assert_eq!((vms.left(), vms.rig.document().await.vms.len()), (0, 0));
    assert_eq!(vms.cancel(1).await, Ok(cancelled));
    vms.gate.set(true);
    vms.create("dev", 2).await.unwrap();
    assert_eq!(vms.ended(2).await.state, OperationState::Succeeded);
    assert_eq!(vms.left(), 1);
}

#[tokio::test]
async fn one_of_which_another_was_made_stays_and_none_is_made_of_one_that_goes() {
    let vms = vm_rig();
    vms.gate.set(true);
    vms.create("dev", 1).await.unwrap();
    vms.ended(1).await;
    let of = |vm: &status::Vm| {
        Some(status::Origin { vm: vm.name.clone(), id: vm.id.clone(), snapshot: "one".into() })
    };
    let from = of(&vms.rig.document().await.vms[0]);
    let dev = vms.rig.document().await.vms[0].id.clone();
    let doom = || {
        let (name, id) = ("dev".to_owned(), dev.clone());
        vms.rig.owner.ask(|answer| Event::DoomVm { name, id, answer })
    };
    let spare = |id: &str| vms.rig.owner.send(Event::SpareVm { name: "dev".to_owned(), id: id.to_owned() });
    let begun = vms.make("fork", 2, from.clone()).await.unwrap();
    assert_eq!(begun.kind, "vm fork");
    vms.ended(2).await;
    let kept = doom().await.unwrap_err();
    assert!(kept.kind() == ErrorKind::Conflict && kept.message.contains("used by fork"), "{kept}");
    vms.delete("fork").await;
    doom().await.unwrap();
    // One that was of that name before is not this one.
    spare("0").await;
    let late = vms.make("late", 3, from.clone()).await.unwrap_err();
    assert!(late.kind() == ErrorKind::Conflict && late.message.contains("is being deleted"), "{late}");
    spare(&dev).await;
    vms.make("late", 4, from).await.unwrap();
    // Another one of the same name is another one.
    let other = Some(status::Origin { vm: "dev".into(), id: "0".into(), snapshot: "one".into() });
    assert_eq!(vms.make("other", 5, other).await.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn what_was_there_before_is_not_removed_with_what_could_not_be_made() {
    let vms = vm_rig();
    vms.gate.set(true);
    let there = vms.home.join("vms/dev");
    std::fs::create_dir_all(&there).unwrap();
    for (name, content) in [("vm.json", "{"), ("root.raw", "work")] {
        std::fs::write(there.join(name), content).unwrap();
    }
    vms.create("dev", 1).await.unwrap();
    let ended = vms.ended(1).await;
    assert_eq!(ended.state, OperationState::Failed);
    assert!(ended.error.is_some_and(|error| error.kind() == ErrorKind::Conflict));
    assert_eq!(std::fs::read_to_string(there.join("vm.json")).unwrap(), "{");
    assert_eq!(std::fs::read_to_string(there.join("root.raw")).unwrap(), "work");
    assert_eq!(vms.rig.document().await.vms, []);
}

#[tokio::test]
async fn one_with_snapshots_stays_while_it_is_not_known_what_all_others_are_made_of() {
    let vms = vm_rig();
    vms.gate.set(true);
    vms.create("dev", 1).await.unwrap();
    vms.ended(1).await;
    let dev = vms.rig.document().await.vms[0].id.clone();
    let doom = || {
        let (name, id) = ("dev".to_owned(), dev.clone());
        vms.rig.owner.ask(|answer| Event::DoomVm { name, id, answer })
    };
    vms.rig.owner.send(Event::UnreadVms(vec!["damaged".to_owned()])).await;
    doom().await.unwrap();
    let snapshot = status::Snapshot {
        name: "one".to_owned(),
        created: Timestamp::from_unix(0),
        deleting: false,
        for_fork: false,
        reason: None,
    };
    vms.rig.owner.send(Event::Vm("dev".to_owned(), crate::vm::VmEvent::Snapshots(vec![snapshot]))).await;
    let kept = doom().await.unwrap_err();
    assert!(kept.kind() == ErrorKind::Conflict && kept.message.contains("`damaged`"), "{kept}");
    assert!(kept.hint().is_some());
}

#[tokio::test]
async fn one_that_took_long_is_known_for_as_long_as_others_once_it_has_ended() {
    let vms = vm_rig();
    vms.create("slow", 1).await.unwrap();
    for number in 0..ENDED_MAX as u64 {
        vms.create("dev", number + 2).await.unwrap();
        vms.cancel(number + 2).await.unwrap();
    }
    vms.cancel(1).await.unwrap();
    assert_eq!(vms.ended(1).await.state, OperationState::Cancelled);
    let known = vms.rig.document().await.operations;
    assert_eq!((known.len(), known[0].id, known[1].id), (ENDED_MAX, id(1), id(3)));
}

#[tokio::test]
async fn a_thousand_that_are_begun_and_cancelled_leave_nothing_and_nobody_waits() {
    const CLIENTS: u64 = 8;
    const EACH: u64 = 125;
    let vms = Arc::new(vm_rig());
    let images = Images::default();
    let mut clients = tokio::task::JoinSet::new();
    for client in 0..CLIENTS {
        let (vms, images) = (Arc::clone(&vms), images.clone());
        clients.spawn(async move {
            for round in 0..EACH {
                let number = client * EACH + round + 1;
                let stays = images.to_use("tiny").unwrap();
                vms.create(&format!("vm-{client}"), number).await.unwrap();
                drop(stays);
                let ended = vms.cancel(number).await.unwrap();
                assert_eq!(ended.state, OperationState::Cancelled);
            }
        });
    }
    while let Some(done) = clients.join_next().await {
        done.unwrap();
    }
    // Nobody uses it any more.
    drop(images.to_remove("tiny").unwrap());
    assert_eq!(vms.left(), 0);
    let document = vms.rig.document().await;
    assert_eq!((document.vms.len(), document.operations.len()), (0, ENDED_MAX));
    // Nothing has gone that is needed.
    vms.gate.set(true);
    vms.create("dev", CLIENTS * EACH + 1).await.unwrap();
    assert_eq!(vms.ended(CLIENTS * EACH + 1).await.state, OperationState::Succeeded);
    vms.delete("dev").await;
    assert_eq!(vms.left(), 0);
}
