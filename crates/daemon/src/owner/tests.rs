use std::sync::Mutex;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use wire::api::machine::SshTarget;
use wire::paths::Paths;
use wire::worker::Dial;

use super::*;
use crate::connection::Later;
use crate::database::Database;
use crate::mount::worker::Launch;

/// Machines whose links are made and lost on command.
#[derive(Default)]
struct FakeMachines {
    /// Requests so far.
    requests: Mutex<Vec<ConnectRequest>>,
    /// What the next connections come to; once it is empty they succeed.
    failures: Mutex<Vec<ErrorObject>>,
    /// Held by the test to keep connections from coming to an end.
    gate: Option<Arc<Notify>>,
    links: Mutex<Vec<Arc<FakeLink>>>,
}

struct FakeLink {
    lost: watch::Sender<Option<String>>,
    closed: watch::Sender<bool>,
}

struct FakeConnector(Arc<FakeMachines>);

impl Connector for FakeConnector {
    fn connect(&self, request: ConnectRequest) -> Later<'static, Result<Arc<dyn Link>, ErrorObject>> {
        let machines = Arc::clone(&self.0);
        machines.requests.lock().unwrap().push(request);
        Box::pin(async move {
            if let Some(gate) = &machines.gate {
                gate.notified().await;
            }
            if let Some(error) = machines.failures.lock().unwrap().pop() {
                return Err(error);
            }
            let link = Arc::new(FakeLink { lost: watch::channel(None).0, closed: watch::channel(false).0 });
            machines.links.lock().unwrap().push(Arc::clone(&link));
            let link: Arc<dyn Link> = link;
            Ok(link)
        })
    }
}

impl Link for FakeLink {
    fn dial(&self) -> Dial {
        Dial::Host
    }

    fn open(&self) -> Later<'_, Result<remote::Connection, ErrorObject>> {
        Box::pin(std::future::ready(Err(ErrorObject::internal("there is nobody"))))
    }

    fn shared(&self) -> Later<'_, Result<remote::Connection, ErrorObject>> {
        self.open()
    }

    fn agent_version(&self) -> Option<String> {
        Some("9.9.9".to_owned())
    }

    fn pids(&self) -> Vec<u32> {
        vec![4711]
    }

    fn lost(&self) -> Later<'_, String> {
        let mut lost = self.lost.subscribe();
        Box::pin(async move { lost.wait_for(Option::is_some).await.unwrap().clone().unwrap() })
    }

    fn close(&self) -> Later<'_, ()> {
        self.closed.send_replace(true);
        Box::pin(std::future::ready(()))
    }
}

struct Rig {
    owner: OwnerHandle,
    machines: Arc<FakeMachines>,
    _scratch: tempfile::TempDir,
}

fn rig_with(machines: FakeMachines) -> Rig {
    let scratch = tempfile::tempdir().unwrap();
    let paths = Paths::new(0, |name| (name == "STEAD_HOME").then(|| scratch.path().into())).unwrap();
    let database = Database::open(&paths.database()).unwrap();
    let machines = Arc::new(machines);
    let connector: Arc<dyn Connector> = Arc::new(FakeConnector(Arc::clone(&machines)));
    let surroundings = Surroundings {
        connectors: Connectors { host: Arc::clone(&connector), ssh: connector },
        mounts: MountContext { database, launch: Launch::default(), paths },
    };
    let (owner, events) = OwnerHandle::new();
    tokio::spawn(Owner::new(owner.clone(), surroundings, 0).run(events));
    Rig { owner, machines, _scratch: scratch }
}

fn rig() -> Rig {
    rig_with(FakeMachines::default())
}

fn ssh_box() -> Machine {
    Machine::Ssh(SshTarget::new(None, "box", None).unwrap())
}

fn wanted(machine: Machine) -> Wanted {
    Wanted::new(machine, Caller::default(), None)
}

impl Rig {
    async fn document(&self) -> status::Document {
        let (answer, answered) = oneshot::channel();
        self.owner.send(Event::Document { answer }).await;
        answered.await.unwrap()
    }

    async fn states(&self) -> Vec<ConnectionState> {
        self.document().await.connections.into_iter().map(|connection| connection.state).collect()
    }

    async fn until(&self, states: &[ConnectionState]) {
        let reached = async {
            while self.states().await != states {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(3600), reached).await.expect("the states are reached");
    }

    fn requests(&self) -> usize {
        self.machines.requests.lock().unwrap().len()
    }

    fn link(&self, number: usize) -> Arc<FakeLink> {
        Arc::clone(&self.machines.links.lock().unwrap()[number])
    }
}

#[tokio::test(start_paused = true)]
async fn all_users_of_a_machine_share_one_connection() {
    let rig = rig();
    let (one, two) = tokio::join!(rig.owner.acquire(wanted(ssh_box())), rig.owner.acquire(wanted(ssh_box())));
    let three = rig.owner.acquire(wanted(ssh_box())).await;
    assert!(one.is_ok() && two.is_ok() && three.is_ok());
    assert_eq!(rig.requests(), 1);
    let document = rig.document().await;
    assert_eq!(document.connections[0].pids, [4711]);
    assert_eq!(document.machines[0].agent.as_ref().unwrap().version, "9.9.9");
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_closes_after_its_grace_and_not_before() {
    let rig = rig();
    let lease = rig.owner.acquire(wanted(ssh_box())).await.unwrap();
    drop(lease);
    tokio::time::sleep(IDLE_GRACE / 2).await;
    assert_eq!(rig.states().await, [ConnectionState::Connected]);
    // Somebody used it meanwhile: the time begins anew.
    drop(rig.owner.acquire(wanted(ssh_box())).await.unwrap());
    tokio::time::sleep(IDLE_GRACE * 3 / 4).await;
    assert_eq!(rig.states().await, [ConnectionState::Connected]);
    let mut closed = rig.link(0).closed.subscribe();
    closed.wait_for(|closed| *closed).await.unwrap();
    rig.until(&[]).await;
    assert_eq!(rig.requests(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_connection_in_use_or_kept_does_not_close() {
    let rig = rig();
    let lease = rig.owner.acquire(wanted(ssh_box())).await.unwrap();
    tokio::time::sleep(IDLE_GRACE * 2).await;
    assert_eq!(rig.states().await, [ConnectionState::Connected]);
    rig.owner.ask(|answer| Event::Pin { machine: ssh_box(), answer }).await.unwrap();
    drop(lease);
    tokio::time::sleep(IDLE_GRACE * 2).await;
    assert_eq!(rig.states().await, [ConnectionState::Connected]);
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_cannot_be_reached_is_told_to_all_who_wait_and_forgotten() {
    let error = ErrorObject::new(ErrorKind::Unreachable, "no route");
    let gate = Arc::new(Notify::new());
    let machines = FakeMachines {
        failures: Mutex::new(vec![error]),
        gate: Some(Arc::clone(&gate)),
        ..FakeMachines::default()
    };
    let rig = rig_with(machines);
    let asking =
        async { tokio::join!(rig.owner.acquire(wanted(ssh_box())), rig.owner.acquire(wanted(ssh_box()))) };
    let opening = async {
        rig.until(&[ConnectionState::Connecting]).await;
        gate.notify_one();
    };
    let ((one, two), ()) = tokio::join!(asking, opening);
    assert_eq!(one.unwrap_err().kind(), ErrorKind::Unreachable);
    assert_eq!(two.unwrap_err().kind(), ErrorKind::Unreachable);
    rig.until(&[]).await;
    gate.notify_one();
    assert!(rig.owner.acquire(wanted(ssh_box())).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_lost_connection_is_shown_while_it_has_users_and_is_opened_again_when_it_is_wanted() {
    let rig = rig();
    let lease = rig.owner.acquire(wanted(ssh_box())).await.unwrap();
    let id = rig.document().await.connections[0].id;
    rig.link(0).lost.send_replace(Some("cut".to_owned()));
    rig.until(&[ConnectionState::Disconnected]).await;
    let second = rig.owner.acquire(wanted(ssh_box())).await.unwrap();
    let document = rig.document().await;
    assert_eq!((document.connections[0].id, document.connections[0].state), (id, ConnectionState::Connected));
    assert_eq!(rig.requests(), 2);
    drop((lease, second));
    rig.link(1).lost.send_replace(Some("cut".to_owned()));
    rig.until(&[]).await;
}

#[tokio::test(start_paused = true)]
async fn disconnecting_closes_a_connection_in_use_and_says_what_it_was() {
    let rig = rig();
    let disconnect = async || rig.owner.ask(|answer| Event::Disconnect { machine: ssh_box(), answer }).await;
    assert_eq!(disconnect().await.unwrap_err().kind(), ErrorKind::NotFound);
    let lease = rig.owner.acquire(wanted(ssh_box())).await.unwrap();
    assert_eq!(disconnect().await.unwrap(), ConnectionState::Connected);
    assert!(*rig.link(0).closed.borrow());
    assert_eq!(rig.states().await, [ConnectionState::Disconnected]);
    assert_eq!(disconnect().await.unwrap(), ConnectionState::Disconnected);
    drop(lease);
    rig.until(&[]).await;
}

#[tokio::test(start_paused = true)]
async fn disconnecting_while_connecting_tells_who_waits() {
    let gate = Arc::new(Notify::new());
    let rig = rig_with(FakeMachines { gate: Some(gate), ..FakeMachines::default() });
    let disconnecting = async {
        rig.until(&[ConnectionState::Connecting]).await;
        rig.owner.ask(|answer| Event::Disconnect { machine: ssh_box(), answer }).await
    };
    let (asked, was) = tokio::join!(rig.owner.acquire(wanted(ssh_box())), disconnecting);
    assert_eq!(asked.unwrap_err().kind(), ErrorKind::Interrupted);
    assert_eq!(was.unwrap(), ConnectionState::Connecting);
    rig.until(&[]).await;
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_nobody_took_is_given_back() {
    let gate = Arc::new(Notify::new());
    let rig = rig_with(FakeMachines { gate: Some(Arc::clone(&gate)), ..FakeMachines::default() });
    let impatient = tokio::time::timeout(Duration::from_secs(1), rig.owner.acquire(wanted(ssh_box()))).await;
    assert!(impatient.is_err());
    gate.notify_one();
    rig.until(&[ConnectionState::Connected]).await;
    tokio::time::sleep(IDLE_GRACE * 2).await;
    rig.until(&[]).await;
}

#[tokio::test(start_paused = true)]
async fn a_ticket_is_good_for_one_login() {
    let gate = Arc::new(Notify::new());
    let rig = rig_with(FakeMachines { gate: Some(Arc::clone(&gate)), ..FakeMachines::default() });
    let (prompter, mut questions) = Prompter::new();
    let find = async |secret: &Secret| {
        let (answer, answered) = oneshot::channel();
        rig.owner.send(Event::FindTicket { secret: secret.clone(), answer }).await;
        answered.await.unwrap()
    };
    let asking = rig.owner.acquire(Wanted { prompter: Some(prompter), ..wanted(ssh_box()) });
    let prompting = async {
        rig.until(&[ConnectionState::Connecting]).await;
        let ticket = rig.machines.requests.lock().unwrap()[0].ticket.clone().unwrap();
        assert!(find(&Secret::new("wrong".to_owned())).await.is_none());
        let found = find(&ticket).await.unwrap();
        let answering = async {
            let question = questions.recv().await.unwrap();
            assert_eq!(question.text, "Password:");
            question.answer.send(Some(Secret::new("hunter2".to_owned()))).unwrap();
        };
        let (answer, ()) =
            tokio::join!(found.ask(wire::api::prompt::PromptKind::Secret, "Password:"), answering);
        assert_eq!(answer.unwrap().reveal(), "hunter2");
        gate.notify_one();
        ticket
    };
    let (lease, ticket) = tokio::join!(asking, prompting);
    assert!(lease.is_ok());
    let forgotten = async {
        while find(&ticket).await.is_some() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), forgotten).await.expect("the ticket is forgotten");
}

#[tokio::test(start_paused = true)]
async fn a_declined_prompt_and_a_gone_client_are_interruptions() {
    let (prompter, mut questions) = Prompter::new();
    let declining = async { questions.recv().await.unwrap().answer.send(None).unwrap() };
    let (answer, ()) = tokio::join!(prompter.ask(wire::api::prompt::PromptKind::Line, "?"), declining);
    assert_eq!(answer.unwrap_err().kind(), ErrorKind::Interrupted);
    drop(questions);
    let answer = prompter.ask(wire::api::prompt::PromptKind::Line, "?").await;
    assert_eq!(answer.unwrap_err().kind(), ErrorKind::Interrupted);
}

#[tokio::test(start_paused = true)]
async fn machines_that_are_not_known_here_are_refused() {
    let rig = rig();
    for machine in [Machine::Docker { container: "web".into() }, Machine::Vm { name: "dev".into() }] {
        assert_eq!(rig.owner.acquire(wanted(machine)).await.unwrap_err().kind(), ErrorKind::Usage);
    }
    assert_eq!(rig.requests(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_daemon_that_ends_opens_nothing_and_closes_everything() {
    let rig = rig();
    let lease = rig.owner.acquire(wanted(ssh_box())).await.unwrap();
    let (answer, answered) = oneshot::channel();
    rig.owner.send(Event::BeginStop { answer }).await;
    assert!(answered.await.unwrap().is_empty());
    assert_eq!(rig.owner.acquire(wanted(Machine::Host)).await.unwrap_err().kind(), ErrorKind::Conflict);
    let (answer, answered) = oneshot::channel();
    rig.owner.send(Event::Quit { answer }).await;
    answered.await.unwrap();
    assert!(*rig.link(0).closed.borrow());
    drop(lease);
    assert_eq!(rig.owner.acquire(wanted(Machine::Host)).await.unwrap_err().kind(), ErrorKind::Conflict);
}
