use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use wire::api::machine::SshTarget;
use wire::hello::SessionId;
use wire::paths::Paths;
use wire::worker::Dial;

use super::*;
use crate::bus::Told;
use crate::connection::Later;
use crate::database::Database;
use crate::mount::worker::{Launch, Programs};

mod goodbyes;
mod mounts;
mod operations;
mod processes;
mod threads;

/// Machines whose links are made and lost on command.
#[derive(Default)]
struct FakeMachines {
    /// Requests so far.
    requests: Mutex<Vec<ConnectRequest>>,
    /// What the next connections come to; once it is empty they succeed.
    failures: Mutex<Vec<ErrorObject>>,
    /// Held by the test to keep connections from coming to an end.
    gate: Option<Arc<Notify>>,
    /// The same for sessions that are to be ended.
    goodbye_gate: Option<Arc<Notify>>,
    /// Whether no session can be ended.
    is_deaf: AtomicBool,
    /// Whether ending one is a bug that shows.
    is_broken: AtomicBool,
    /// How often it was tried.
    goodbyes: AtomicUsize,
    links: Mutex<Vec<Arc<FakeLink>>>,
}

struct FakeLink {
    lost: watch::Sender<Option<String>>,
    /// It does not answer, and nobody has noticed.
    dead: watch::Sender<bool>,
    heartbeat: watch::Sender<Option<remote::client::Heartbeat>>,
    closed: watch::Sender<bool>,
    /// It was told that there will be no other.
    last: watch::Sender<bool>,
    /// The sessions that were ended through it.
    ended: Mutex<Vec<SessionId>>,
    machines: Arc<FakeMachines>,
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
            let link = Arc::new(FakeLink {
                lost: watch::channel(None).0,
                dead: watch::channel(false).0,
                heartbeat: watch::channel(None).0,
                closed: watch::channel(false).0,
                last: watch::channel(false).0,
                ended: Mutex::default(),
                machines: Arc::clone(&machines),
            });
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

    fn commands(&self) -> Later<'_, Result<Arc<connection::CommandSession>, ErrorObject>> {
        Box::pin(std::future::ready(Err(ErrorObject::internal("there is nobody"))))
    }

    fn end_session(&self, session: SessionId, _: &Caller) -> Later<'_, Result<(), ErrorObject>> {
        Box::pin(async move {
            if let Some(gate) = &self.machines.goodbye_gate {
                gate.notified().await;
            }
            assert!(!self.machines.is_broken.load(Ordering::Relaxed), "as the test wants it");
            let is_deaf = self.machines.is_deaf.load(Ordering::Relaxed);
            if !is_deaf {
                self.ended.lock().unwrap().push(session);
            }
            self.machines.goodbyes.fetch_add(1, Ordering::Relaxed);
            match is_deaf {
                true => Err(ErrorObject::new(ErrorKind::Unreachable, "no answer")),
                false => Ok(()),
            }
        })
    }

    fn agent_version(&self) -> Option<String> {
        Some("9.9.9".to_owned())
    }

    fn pids(&self) -> Vec<u32> {
        vec![4711]
    }

    fn lost(&self, heartbeat: remote::client::Heartbeat) -> Later<'_, String> {
        self.heartbeat.send_replace(Some(heartbeat));
        let mut lost = self.lost.subscribe();
        Box::pin(async move { lost.wait_for(Option::is_some).await.unwrap().clone().unwrap() })
    }

    fn is_alive(&self) -> Later<'_, bool> {
        let is_alive = self.lost.borrow().is_none() && !*self.dead.borrow();
        Box::pin(std::future::ready(is_alive))
    }

    fn be_last(&self) {
        self.last.send_replace(true);
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

fn surroundings(machines: &Arc<FakeMachines>, home: &std::path::Path) -> Surroundings {
    let paths = Paths::new(0, |name| (name == "STEAD_HOME").then(|| home.into())).unwrap();
    let database = Database::open(&paths.database()).unwrap();
    let connector: Arc<dyn Connector> = Arc::new(FakeConnector(Arc::clone(machines)));
    Surroundings {
        connectors: Connectors {
            host: Arc::clone(&connector),
            ssh: Arc::clone(&connector),
            docker: Arc::clone(&connector),
            vm: connector,
        },
        vms: VmContext {
            paths: paths.clone(),
            engine: Arc::new(machine::engine::qemu::Qemu),
            capabilities: Arc::new(crate::vm::capabilities),
            own_program: "/proc/self/exe".into(),
            agent: None,
        },
        mounts: MountContext { database, programs: Programs::default(), paths },
        monitoring: Monitoring { interval: crate::mount::monitor::INTERVAL, probe: Launch::own("probe") },
    }
}

fn rig_with(machines: FakeMachines) -> Rig {
    let scratch = tempfile::tempdir().unwrap();
    let machines = Arc::new(machines);
    let surroundings = surroundings(&machines, scratch.path());
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
                // Time goes on only while all tasks wait.
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(3600), reached).await.expect("the states are reached");
    }

    async fn pin(&self, keep: Keep) {
        self.owner.ask(|answer| Event::Pin { machine: ssh_box(), keep, answer }).await.unwrap();
    }

    async fn redial(&self, wanted: Wanted) -> Result<status::Connection, ErrorObject> {
        self.owner.ask(|answer| Event::Redial { wanted: Box::new(wanted), answer }).await
    }

    async fn subscribe(&self) -> Subscription {
        let (answer, answered) = oneshot::channel();
        self.owner.send(Event::Subscribe { topics: vec![Topic::Connection], answer }).await;
        answered.await.unwrap()
    }

    fn fail_next(&self, errors: &[ErrorKind]) {
        let errors = errors.iter().rev().map(|kind| ErrorObject::new(*kind, "no route"));
        self.machines.failures.lock().unwrap().extend(errors);
    }

    fn lose(&self, number: usize) {
        self.link(number).lost.send_replace(Some("cut".to_owned()));
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
    rig.pin(Keep::default()).await;
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

/// The words of the next events, with their reasons.
async fn words(events: &mut Subscription, count: usize) -> Vec<String> {
    let mut words = Vec::new();
    while words.len() < count {
        match events.next().await {
            Some(Told::Event(event)) => match event.happened {
                Happened::Connection { state, reason, .. } => {
                    words.push(
                        format!("{} {}", state.name(), reason.unwrap_or_default()).trim_end().to_owned(),
                    );
                }
                other => panic!("unexpected: {other:?}"),
            },
            other => panic!("unexpected: {other:?}"),
        }
    }
    words
}

#[tokio::test(start_paused = true)]
async fn a_lost_connection_that_is_needed_is_opened_again_under_the_same_name() {
    let rig = rig();
    let mut events = rig.subscribe().await;
    let lease = rig.owner.acquire(wanted(ssh_box())).await.unwrap();
    let id = rig.document().await.connections[0].id;
    rig.lose(0);
    assert_eq!(words(&mut events, 4).await, ["connecting", "connected", "reconnecting cut", "connected"]);
    let document = rig.document().await;
    assert_eq!((document.connections[0].id, document.connections[0].state), (id, ConnectionState::Connected));
    assert_eq!((rig.requests(), document.connections[0].reason.as_deref()), (2, None));
    // What is left of one link is gone before the next one is opened.
    assert!(*rig.link(0).closed.borrow());
    drop(lease);
    rig.lose(1);
    rig.until(&[]).await;
    assert_eq!(words(&mut events, 1).await, ["disconnected cut"]);
}

#[tokio::test(start_paused = true)]
async fn tries_go_on_with_pauses_as_long_as_somebody_needs_the_connection() {
    let rig = rig();
    let lease = rig.owner.acquire(wanted(ssh_box())).await.unwrap();
    rig.fail_next(&[ErrorKind::Unreachable; 9]);
    let mut events = rig.subscribe().await;
    rig.lose(0);
    // Told once, and once more with what stands in the way.
    let told = words(&mut events, 3).await;
    assert_eq!(told, ["reconnecting cut", "reconnecting no route", "connected"]);
    assert_eq!(rig.requests(), 11);
    rig.fail_next(&[ErrorKind::Unreachable; 1000]);
    rig.lose(1);
    rig.until(&[ConnectionState::Reconnecting]).await;
    drop(lease);
    rig.until(&[]).await;
    let tries = rig.requests();
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(rig.requests(), tries);
}

#[tokio::test(start_paused = true)]
async fn links_that_are_lost_at_once_are_not_opened_one_after_the_other() {
    let rig = rig();
    let _lease = rig.owner.acquire(wanted(ssh_box())).await.unwrap();
    let begin = tokio::time::Instant::now();
    for number in 0..4 {
        rig.lose(number);
        rig.until(&[ConnectionState::Connected]).await;
        let next = async {
            while rig.machines.links.lock().unwrap().len() < number + 2 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), next).await.expect("it is opened again");
    }
    // At once, and after about 2, 4 and 8 seconds, of which chance takes a quarter.
    assert!(begin.elapsed() > Duration::from_secs(10), "{:?}", begin.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_login_that_would_have_to_ask_says_so_and_a_reconnect_asks() {
    let rig = rig();
    let _lease = rig.owner.acquire(wanted(ssh_box())).await.unwrap();
    rig.fail_next(&[ErrorKind::Refused]);
    let mut events = rig.subscribe().await;
    rig.lose(0);
    assert_eq!(words(&mut events, 2).await, ["reconnecting cut", "reconnecting no route"]);
    let shown = rig.document().await.connections.remove(0);
    assert_eq!(
        (shown.reason.as_deref(), shown.hint.as_deref()),
        (Some("no route"), Some("stead reconnect ssh://box"))
    );
    assert!(rig.machines.requests.lock().unwrap().iter().all(|request| request.ticket.is_none()));
    let (prompter, _questions) = Prompter::new();
    let shown = rig.redial(Wanted { prompter: Some(prompter), ..wanted(ssh_box()) }).await.unwrap();
    assert_eq!(shown.state, ConnectionState::Connected);
    assert!(rig.machines.requests.lock().unwrap().last().unwrap().ticket.is_some());
}

#[tokio::test(start_paused = true)]
async fn without_reconnecting_a_lost_connection_stays_lost_until_it_is_asked_for() {
    let rig = rig();
    let keep = Keep { reconnect: Some(Reconnect::Never), heartbeat: None };
    let lease = rig.owner.acquire(Wanted { keep, ..wanted(ssh_box()) }).await.unwrap();
    rig.lose(0);
    rig.until(&[ConnectionState::Disconnected]).await;
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!((rig.states().await, rig.requests()), (vec![ConnectionState::Disconnected], 1));
    assert_eq!(rig.redial(wanted(ssh_box())).await.unwrap().state, ConnectionState::Connected);
    // One who wants it to come back is enough.
    let keep = Keep { reconnect: Some(Reconnect::Automatic), heartbeat: None };
    let other = rig.owner.acquire(Wanted { keep, ..wanted(ssh_box()) }).await.unwrap();
    rig.fail_next(&[ErrorKind::Unreachable]);
    rig.lose(1);
    rig.until(&[ConnectionState::Reconnecting]).await;
    rig.until(&[ConnectionState::Connected]).await;
    drop((lease, other));
}

#[tokio::test(start_paused = true)]
async fn a_session_is_opened_ahead_for_who_waits_for_it_and_not_with_the_next_link() {
    let rig = rig();
    let opens = || {
        let requests = rig.machines.requests.lock().unwrap();
        requests.iter().map(|request| request.opens).collect::<Vec<_>>()
    };
    let lease = rig.owner.acquire(Wanted { opens: true, ..wanted(ssh_box()) }).await.unwrap();
    assert_eq!(opens(), [true]);
    // Nobody has asked for anything since.
    rig.lose(0);
    let again = async {
        while rig.requests() < 2 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(3600), again).await.expect("the link is opened again");
    assert_eq!(opens(), [true, false]);
    drop(lease);
    let other = Machine::Ssh(SshTarget::new(None, "other", None).unwrap());
    let lease = rig.owner.acquire(wanted(other)).await.unwrap();
    assert_eq!(opens(), [true, false, false]);
    drop(lease);
}

#[tokio::test(start_paused = true)]
async fn a_reconnect_replaces_an_open_link_and_begins_one_that_is_not_there() {
    let rig = rig();
    let shown = rig.redial(wanted(ssh_box())).await.unwrap();
    assert_eq!((shown.state, rig.requests()), (ConnectionState::Connected, 1));
    let shown = rig.redial(wanted(ssh_box())).await.unwrap();
    assert_eq!((shown.state, rig.requests()), (ConnectionState::Connected, 2));
    assert!(*rig.link(0).closed.borrow());
    // It was asked for, and is kept.
    tokio::time::sleep(IDLE_GRACE * 2).await;
    assert_eq!(rig.states().await, [ConnectionState::Connected]);
    rig.fail_next(&[ErrorKind::Unreachable]);
    assert_eq!(rig.redial(wanted(ssh_box())).await.unwrap_err().kind(), ErrorKind::Unreachable);
    rig.until(&[ConnectionState::Connected]).await;
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_kept_takes_the_heartbeat_it_is_given() {
    let rig = rig();
    let _lease = rig.owner.acquire(wanted(ssh_box())).await.unwrap();
    let heartbeat = Heartbeat { interval_ms: 250, failures_max: 0 };
    rig.pin(Keep { reconnect: None, heartbeat: Some(heartbeat) }).await;
    let mut given = rig.link(0).heartbeat.subscribe();
    let is_wanted = |given: &Option<remote::client::Heartbeat>| {
        given.is_some_and(|given| given.interval == Duration::from_millis(250) && given.failures_max == 0)
    };
    tokio::time::timeout(Duration::from_secs(60), given.wait_for(is_wanted)).await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn after_a_sleep_what_is_open_is_probed_and_what_is_not_is_tried_at_once() {
    let rig = rig();
    let _lease = rig.owner.acquire(wanted(ssh_box())).await.unwrap();
    rig.owner.send(Event::WorldChanged).await;
    assert_eq!(rig.states().await, [ConnectionState::Connected]);
    rig.link(0).dead.send_replace(true);
    let mut events = rig.subscribe().await;
    rig.owner.send(Event::WorldChanged).await;
    assert_eq!(words(&mut events, 2).await, ["reconnecting it does not answer any more", "connected"]);
    rig.fail_next(&[ErrorKind::Unreachable; 6]);
    rig.lose(1);
    // In the middle of a pause.
    assert_eq!(words(&mut events, 2).await, ["reconnecting cut", "reconnecting no route"]);
    rig.machines.failures.lock().unwrap().clear();
    let before = tokio::time::Instant::now();
    rig.owner.send(Event::WorldChanged).await;
    assert_eq!(words(&mut events, 1).await, ["connected"]);
    assert!(before.elapsed() < Duration::from_secs(1), "{:?}", before.elapsed());
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
async fn a_try_that_fails_while_it_is_called_off_is_closed() {
    let gate = Arc::new(Notify::new());
    let rig = rig_with(FakeMachines { gate: Some(Arc::clone(&gate)), ..FakeMachines::default() });
    rig.fail_next(&[ErrorKind::Unreachable]);
    let disconnecting = async {
        rig.until(&[ConnectionState::Connecting]).await;
        // It fails before it hears that it is called off, which is known before it is heard that it has failed.
        gate.notify_one();
        rig.owner.ask(|answer| Event::Disconnect { machine: ssh_box(), answer }).await
    };
    let both = async { tokio::join!(rig.owner.acquire(wanted(ssh_box())), disconnecting) };
    let (asked, was) = tokio::time::timeout(Duration::from_secs(60), both).await.expect("both are answered");
    assert_eq!(asked.unwrap_err().kind(), ErrorKind::Interrupted);
    assert_eq!(was.unwrap(), ConnectionState::Connecting);
    rig.until(&[]).await;
}

#[tokio::test(start_paused = true)]
async fn a_login_under_way_is_not_taken_for_an_idle_connection() {
    let gate = Arc::new(Notify::new());
    let rig = rig_with(FakeMachines { gate: Some(Arc::clone(&gate)), ..FakeMachines::default() });
    gate.notify_one();
    drop(rig.owner.acquire(wanted(ssh_box())).await.unwrap());
    let typing = async {
        rig.until(&[ConnectionState::Connecting]).await;
        tokio::time::sleep(IDLE_GRACE * 2).await;
        gate.notify_one();
    };
    let (shown, ()) = tokio::join!(rig.redial(wanted(ssh_box())), typing);
    assert_eq!(shown.unwrap().state, ConnectionState::Connected);
    // Nobody needs it, and it does not stay for ever.
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
async fn a_name_means_a_container_of_one_engine_while_it_is_connected() {
    let rig = rig();
    let by = |engine: &str| {
        let environment = [("DOCKER_HOST".to_owned(), engine.into())].into();
        let machine = Machine::Docker { container: "web".into() };
        Wanted::new(machine, Caller { environment, ..Caller::default() }, None)
    };
    let lease = rig.owner.acquire(by("unix:///one")).await.unwrap();
    drop(rig.owner.acquire(by("unix:///one")).await.unwrap());
    let refused = rig.owner.acquire(by("unix:///other")).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Conflict);
    assert_eq!(refused.hint(), Some("stead disconnect docker://web"));
    assert_eq!(rig.owner.acquire(by("nonsense")).await.unwrap_err().kind(), ErrorKind::Usage);
    drop(lease);
    let machine = Machine::Docker { container: "web".into() };
    rig.owner.ask(|answer| Event::Disconnect { machine, answer }).await.unwrap();
    rig.owner.acquire(by("unix:///other")).await.unwrap();
    assert_eq!(rig.requests(), 2);
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
