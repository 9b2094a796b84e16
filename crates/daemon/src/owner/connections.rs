//! The part of the owner's state that is connections.
//!
//! What comes next is decided by [`State::on`]; here its actions are carried out. A try that is called off may still
//! have something to say: each has a number, and only the word of the last one counts.

use std::hash::{BuildHasher, RandomState};

use remote::link::{self, Action, Circumstances, Hindrance, Policy, State};
use remote::transport::docker::Engine;
use tokio::time::Instant;

use super::*;

pub(super) struct ConnectionRecord {
    pub(super) id: ConnectionId,
    link_state: State,
    since: Timestamp,
    policy: Policy,
    heartbeat: watch::Sender<Heartbeat>,
    /// For whom it is opened: his environment is that of ssh.
    caller: Caller,
    /// The engine of a container.
    engine: Option<Engine>,
    /// Somebody waits to open a session.
    opens: bool,
    /// Given out and not returned.
    users: u64,
    /// Given out ever.
    leases: u64,
    pinned: bool,
    waiting: Vec<Answer<Lease>>,
    /// Answered when it is open again.
    redialling: Vec<Answer<status::Connection>>,
    /// Answered when it is closed.
    disconnecting: Vec<Answer<ConnectionState>>,
    was: ConnectionState,
    link: Option<Arc<dyn Link>>,
    tries: u64,
    /// When it was opened.
    opened: Option<Instant>,
    /// How many links in a row had a [`SHORT_LIFE`].
    short_lives: u32,
    running: Option<Running>,
    /// The moment of the next try.
    alarm: Option<Alarm>,
    reason: Option<String>,
    hint: Option<String>,
    /// What was told last.
    announced: Option<(ConnectionState, Option<String>)>,
}

/// A link that lasts shorter than this was hardly there.
const SHORT_LIFE: Duration = Duration::from_secs(5);

/// A task of [`connection::run`].
struct Running {
    /// Dropped or used to close the link. None once that has been done.
    close: Option<oneshot::Sender<()>>,
    doubt: Arc<Notify>,
    task: JoinHandle<()>,
}

/// Goes off, unless it is dropped before.
struct Alarm(tokio::task::AbortHandle);

impl Drop for Alarm {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl ConnectionRecord {
    fn state(&self) -> ConnectionState {
        match self.link_state {
            State::Connecting => ConnectionState::Connecting,
            State::Connected => ConnectionState::Connected,
            State::Reconnecting { .. } => ConnectionState::Reconnecting,
            State::Disconnected => ConnectionState::Disconnected,
        }
    }

    pub(super) fn status(&self, machine: &Machine) -> status::Connection {
        status::Connection {
            id: self.id,
            machine: machine.clone(),
            state: self.state(),
            since: self.since,
            pids: self.link.as_ref().map(|link| link.pids()).unwrap_or_default(),
            reason: self.reason.clone(),
            hint: self.hint.clone(),
        }
    }

    pub(super) fn agent_version(&self) -> Option<String> {
        self.link.as_ref()?.agent_version()
    }

    fn is_needed(&self) -> bool {
        self.users > 0 || self.pinned
    }

    /// Whether nobody would miss it, and nothing of it runs.
    fn is_over(&self) -> bool {
        self.link_state == State::Disconnected && !self.is_needed() && self.running.is_none()
    }

    fn lend(&mut self, owner: &OwnerHandle) -> Option<Lease> {
        let link = Arc::clone(self.link.as_ref()?);
        self.users += 1;
        self.leases += 1;
        Some(Lease::new(self.id, link, owner.clone()))
    }

    /// As [`ConnectionRecord::lend`], if the link is open.
    pub(super) fn lend_open(&mut self, owner: &OwnerHandle) -> Option<Lease> {
        if self.link_state == State::Connected { self.lend(owner) } else { None }
    }

    /// Has the owner told when nobody has wanted it for [`IDLE_GRACE`].
    fn await_idle(&self, owner: &OwnerHandle) {
        let (owner, id, leases) = (owner.clone(), self.id, self.leases);
        tokio::spawn(async move {
            tokio::time::sleep(IDLE_GRACE).await;
            owner.send(Event::Idle { id, leases }).await;
        });
    }

    /// What the loss of the link is: one is opened again at once, but not one after the other.
    fn lost(&mut self) -> link::Event {
        match self.opened.is_some_and(|opened| opened.elapsed() < SHORT_LIFE) {
            true => self.short_lives += 1,
            false => self.short_lives = 0,
        }
        match self.short_lives {
            0 | 1 => link::Event::Lost,
            lives => link::Event::LostAtOnce { times: lives - 1 },
        }
    }

    /// Whether somebody means the same machine by the same name: a container is one of an engine's. When nothing is open, his
    /// is the one that counts.
    fn agree(&mut self, wanted: &Wanted) -> Result<(), ErrorObject> {
        if self.engine == wanted.engine {
            return Ok(());
        }
        if self.link_state == State::Disconnected && self.running.is_none() {
            self.engine.clone_from(&wanted.engine);
            return Ok(());
        }
        let shown = |engine: &Option<Engine>| engine.as_ref().map(Engine::to_string).unwrap_or_default();
        let machine = &wanted.machine;
        let message = format!(
            "`{machine}` is connected through the engine at {}, and you mean the one at {}",
            shown(&self.engine),
            shown(&wanted.engine)
        );
        Err(ErrorObject::new(ErrorKind::Conflict, message).with_hint(format!("stead disconnect {machine}")))
    }

    fn set_heartbeat(&self, heartbeat: Heartbeat) {
        self.heartbeat.send_if_modified(|now| std::mem::replace(now, heartbeat) != heartbeat);
    }

    fn set_policy(&mut self, keep: &Keep) {
        if let Some(reconnect) = keep.reconnect {
            self.policy.reconnect = reconnect == Reconnect::Automatic;
        }
        if let Some(heartbeat) = keep.heartbeat {
            self.set_heartbeat(heartbeat);
        }
    }
}

/// How a lost connection to a machine is opened again.
fn policy(machine: &Machine) -> Policy {
    match machine {
        Machine::Host => Policy::HOST,
        Machine::Docker { .. } | Machine::Vm { .. } => Policy::DOCKER,
        Machine::Ssh(_) => Policy::SSH,
    }
}

/// What an error means for the next try. Who could not log in without being asked has to be asked.
fn hindrance(machine: &Machine, error: &ErrorObject) -> Hindrance {
    match (error.kind(), machine) {
        // Nobody is asked anything; and while a container stops, its engine refuses this and that.
        (ErrorKind::Refused, Machine::Docker { .. } | Machine::Vm { .. }) => Hindrance::Passing,
        (ErrorKind::Refused, _) => Hindrance::NeedsPerson,
        (ErrorKind::Usage | ErrorKind::NotFound, _) => Hindrance::Lasting,
        _ => Hindrance::Passing,
    }
}

/// For pauses: random enough that clients of one machine do not come at once.
fn chance() -> u32 {
    (RandomState::new().hash_one(0_u8) >> 32) as u32
}

impl Owner {
    pub(super) fn acquire(&mut self, wanted: Wanted, answer: Answer<Lease>) {
        if !matches!(self.course, Course::Serving) {
            return drop(answer.send(Err(ending())));
        }
        let owner = self.handle.clone();
        let machine = wanted.machine.clone();
        let Some(record) = self.connections.get_mut(&machine) else {
            return self.open(wanted, answer);
        };
        if !record.disconnecting.is_empty() {
            let message = format!("the connection to `{machine}` is being closed");
            return drop(answer.send(Err(ErrorObject::new(ErrorKind::Conflict, message))));
        }
        if let Err(error) = record.agree(&wanted) {
            return drop(answer.send(Err(error)));
        }
        // One who wants it to come back is enough; one who does not only says so of his own use.
        if wanted.keep.reconnect == Some(Reconnect::Automatic) {
            record.policy.reconnect = true;
        }
        if record.link_state == State::Connected {
            // A lease that nobody takes comes back by its own drop.
            return match record.lend(&owner) {
                Some(lease) => drop(answer.send(Ok(lease))),
                None => drop(answer.send(Err(ErrorObject::internal("a connection without a link")))),
            };
        }
        record.waiting.push(answer);
        match record.link_state {
            State::Disconnected => {
                (record.caller, record.opens) = (wanted.caller, wanted.opens);
                self.advance(&machine, link::Event::Connect, wanted.prompter);
            }
            // Somebody waits now: the pause is over.
            State::Reconnecting { next: Some(_), .. } => {
                self.advance(&machine, link::Event::WorldChanged, wanted.prompter);
            }
            State::Connecting | State::Connected | State::Reconnecting { next: None, .. } => {}
        }
    }

    /// Begins a connection.
    fn open(&mut self, wanted: Wanted, answer: Answer<Lease>) {
        let machine = wanted.machine.clone();
        if let Err(error) = self.begin_connection(&wanted) {
            return drop(answer.send(Err(error)));
        }
        if let Some(record) = self.connections.get_mut(&machine) {
            record.waiting.push(answer);
        }
        self.advance(&machine, link::Event::Connect, wanted.prompter);
    }

    /// A record of a connection that is not open yet.
    fn begin_connection(&mut self, wanted: &Wanted) -> Result<(), ErrorObject> {
        let machine = &wanted.machine;
        if self.surroundings.connectors.of(machine).is_none() {
            let message = format!(
                "`{machine}` cannot be reached: this stead knows host, ssh://, docker:// and vm:// machines"
            );
            return Err(ErrorObject::new(ErrorKind::Usage, message));
        }
        self.last_connection += 1;
        let mut record = ConnectionRecord {
            id: ConnectionId::new(self.last_connection),
            link_state: State::Disconnected,
            since: now(),
            policy: policy(machine),
            heartbeat: watch::channel(Heartbeat::default()).0,
            caller: wanted.caller.clone(),
            engine: wanted.engine.clone(),
            opens: wanted.opens,
            users: 0,
            leases: 0,
            pinned: false,
            waiting: Vec::new(),
            redialling: Vec::new(),
            disconnecting: Vec::new(),
            was: ConnectionState::Disconnected,
            link: None,
            tries: 0,
            opened: None,
            short_lives: 0,
            running: None,
            alarm: None,
            reason: None,
            hint: None,
            announced: None,
        };
        record.set_policy(&wanted.keep);
        self.connections.insert(machine.clone(), record);
        Ok(())
    }

    /// Lets something happen to a connection, and carries out what follows from it. Who can be asked is asked by a
    /// login that begins now.
    fn advance(&mut self, machine: &Machine, event: link::Event, prompter: Option<Prompter>) {
        let Some(record) = self.connections.get_mut(machine) else {
            return;
        };
        let circumstances = Circumstances {
            now: Instant::now().into_std(),
            policy: &record.policy,
            needed: record.is_needed(),
            chance: chance(),
        };
        let before = record.state();
        if event == link::Event::Disconnect
            && let Some(link) = &record.link
        {
            link.be_last();
        }
        let (state, actions) = record.link_state.on(event, &circumstances);
        record.link_state = state;
        if record.state() != before {
            record.since = now();
        }
        if !matches!(state, State::Reconnecting { next: Some(_), .. }) {
            record.alarm = None;
        }
        for action in actions {
            match action {
                Action::Close => self.close_link(machine),
                Action::Dial { .. } => self.dial(machine, prompter.clone()),
                Action::WakeAt(at) => self.set_alarm(machine, Instant::from_std(at)),
                Action::Probe => self.doubt(machine),
                // What was announced is compared with what is, once the event has been dealt with.
                Action::Announce => {}
            }
        }
        self.settle(machine);
    }

    /// Tells what has changed, and forgets a connection that is over.
    fn settle(&mut self, machine: &Machine) {
        let Some(record) = self.connections.get_mut(machine) else {
            return;
        };
        let state = record.state();
        if state == ConnectionState::Connected {
            (record.reason, record.hint) = (None, None);
        }
        let announced = Some((state, record.reason.clone()));
        if record.announced != announced {
            record.announced = announced;
            let (id, reason) = (record.id, record.reason.clone());
            tracing::info!(connection = %id, %machine, state = state.name(), reason, "connection");
            let happened =
                Happened::Connection { id, machine: machine.clone(), state, reason: reason.clone() };
            if state == ConnectionState::Disconnected {
                // Nobody gets there any more to go on with them.
                self.end_processes(machine, reason.as_deref());
                self.end_tunnels(machine, reason.as_deref());
            }
            self.bus.publish(happened, now());
            self.connection_changed(machine, state, reason);
        }
        if self.connections.get(machine).is_some_and(ConnectionRecord::is_over) {
            self.connections.remove(machine);
        }
    }

    fn close_link(&mut self, machine: &Machine) {
        if let Some(record) = self.connections.get_mut(machine) {
            record.link = None;
            if let Some(running) = &mut record.running {
                running.close = None;
            }
        }
    }

    fn doubt(&self, machine: &Machine) {
        if let Some(running) = self.connections.get(machine).and_then(|record| record.running.as_ref()) {
            running.doubt.notify_one();
        }
    }

    fn set_alarm(&mut self, machine: &Machine, at: Instant) {
        let Some(record) = self.connections.get_mut(machine) else {
            return;
        };
        let (owner, id) = (self.handle.clone(), record.id);
        let task = tokio::spawn(async move {
            tokio::time::sleep_until(at).await;
            owner.send(Event::TryAgain(id)).await;
        });
        record.alarm = Some(Alarm(task.abort_handle()));
    }

    /// Begins a try. It waits for the end of the one before.
    fn dial(&mut self, machine: &Machine, prompter: Option<Prompter>) {
        let Some(connector) = self.surroundings.connectors.of(machine) else {
            return;
        };
        let ticket = prompter.and_then(|prompter| match remote::askpass::new_ticket() {
            Ok(secret) => Some(self.know_ticket(secret, prompter)),
            Err(error) => {
                tracing::error!(%error, "nobody can be asked: there is no ticket");
                None
            }
        });
        let owner = self.handle.clone();
        let Some(record) = self.connections.get_mut(machine) else {
            return;
        };
        record.tries += 1;
        record.link = None;
        let (close, closed) = oneshot::channel();
        let doubt = Arc::new(Notify::new());
        let request = ConnectRequest {
            id: record.id,
            machine: machine.clone(),
            caller: record.caller.clone(),
            engine: record.engine.clone(),
            ticket: ticket.as_ref().map(|ticket| ticket.secret().clone()),
            opens: std::mem::take(&mut record.opens),
        };
        let attempt = connection::Try {
            number: record.tries,
            ticket,
            // Dropping its sender, if there still is one, closes it.
            after: record.running.take().map(|running| running.task),
            close: closed,
            doubt: Arc::clone(&doubt),
            heartbeat: record.heartbeat.subscribe(),
        };
        let task = tokio::spawn(connection::run(connector, request, attempt, owner));
        record.running = Some(Running { close: Some(close), doubt, task });
    }

    fn know_ticket(&mut self, secret: Secret, prompter: Prompter) -> Ticket {
        self.tickets.push((secret.clone(), prompter));
        Ticket::new(secret, self.handle.clone())
    }

    fn machine_of(&self, id: ConnectionId) -> Option<Machine> {
        self.connections.iter().find(|(_, record)| record.id == id).map(|(machine, _)| machine.clone())
    }

    pub(super) fn on_connection(&mut self, id: ConnectionId, number: u64, event: ConnectionEvent) {
        let owner = self.handle.clone();
        let Some(machine) = self.machine_of(id) else {
            return;
        };
        let Some(record) = self.connections.get_mut(&machine).filter(|record| record.tries == number) else {
            return;
        };
        let event = match event {
            // A try that failed while it was called off is closed.
            ConnectionEvent::Failed(_) if !record.disconnecting.is_empty() => ConnectionEvent::Closed,
            event => event,
        };
        match event {
            ConnectionEvent::Up(link) => {
                record.link = Some(link);
                record.opened = Some(Instant::now());
                self.advance(&machine, link::Event::Opened, None);
                let Some(record) = self.connections.get_mut(&machine) else {
                    return;
                };
                for answer in std::mem::take(&mut record.waiting) {
                    if let Some(lease) = record.lend(&owner) {
                        drop(answer.send(Ok(lease)));
                    }
                }
                let status = record.status(&machine);
                let redialling = std::mem::take(&mut record.redialling);
                // Whoever wanted it may have gone while it was opened.
                if !record.is_needed() {
                    record.await_idle(&owner);
                }
                self.processes_reachable(&machine);
                if !redialling.is_empty() {
                    self.reconnect_mounts(&machine);
                }
                for answer in redialling {
                    drop(answer.send(Ok(status.clone())));
                }
            }
            ConnectionEvent::Failed(error) => {
                record.running = None;
                record.reason = Some(error.message.clone());
                let hindrance = hindrance(&machine, &error);
                record.hint = match hindrance {
                    Hindrance::NeedsPerson => Some(format!("stead reconnect {machine}")),
                    Hindrance::Passing | Hindrance::Lasting => error.hint().map(str::to_owned),
                };
                let waiting = std::mem::take(&mut record.waiting);
                let redialling = std::mem::take(&mut record.redialling);
                self.advance(&machine, link::Event::Failed(hindrance), None);
                waiting.into_iter().for_each(|answer| drop(answer.send(Err(error.clone()))));
                redialling.into_iter().for_each(|answer| drop(answer.send(Err(error.clone()))));
            }
            ConnectionEvent::Lost(reason) => {
                record.reason = Some(reason);
                let lost = record.lost();
                self.advance(&machine, lost, None);
            }
            ConnectionEvent::Closed => {
                record.running = None;
                let message = format!("the connection to `{machine}` was closed");
                let error = ErrorObject::new(ErrorKind::Interrupted, message);
                let was = record.was;
                for answer in std::mem::take(&mut record.waiting) {
                    drop(answer.send(Err(error.clone())));
                }
                for answer in std::mem::take(&mut record.redialling) {
                    drop(answer.send(Err(error.clone())));
                }
                for answer in std::mem::take(&mut record.disconnecting) {
                    drop(answer.send(Ok(was)));
                }
                self.settle(&machine);
            }
        }
    }

    pub(super) fn try_again(&mut self, id: ConnectionId) {
        if let Some(machine) = self.machine_of(id) {
            self.advance(&machine, link::Event::TimeIsUp, None);
        }
    }

    /// The computer slept, or its network changed.
    pub(super) fn world_changed(&mut self) {
        let machines: Vec<Machine> = self.connections.keys().cloned().collect();
        for machine in machines {
            self.advance(&machine, link::Event::WorldChanged, None);
        }
    }

    pub(super) fn release(&mut self, id: ConnectionId) {
        let owner = self.handle.clone();
        let Some(machine) = self.machine_of(id) else {
            return;
        };
        let Some(record) = self.connections.get_mut(&machine) else {
            return;
        };
        record.users = record.users.saturating_sub(1);
        if record.is_needed() {
            return;
        }
        match record.link_state {
            State::Disconnected => self.settle(&machine),
            State::Connected => record.await_idle(&owner),
            State::Reconnecting { .. } if record.waiting.is_empty() && record.redialling.is_empty() => {
                self.advance(&machine, link::Event::Disconnect, None);
            }
            State::Connecting | State::Reconnecting { .. } => {}
        }
    }

    pub(super) fn on_idle(&mut self, id: ConnectionId, leases: u64) {
        let Some(machine) = self.machine_of(id) else {
            return;
        };
        // One that is opened again meanwhile is somebody's, who may be typing a passphrase.
        let is_idle = |record: &ConnectionRecord| {
            record.leases == leases && !record.is_needed() && record.link_state == State::Connected
        };
        if self.connections.get(&machine).is_some_and(is_idle) {
            self.advance(&machine, link::Event::Disconnect, None);
        }
    }

    pub(super) fn pin(&mut self, machine: &Machine, keep: &Keep) -> Result<status::Connection, ErrorObject> {
        let record = self.connections.get_mut(machine).filter(|record| record.link_state == State::Connected);
        let Some(record) = record else {
            let message = format!("the connection to `{machine}` was lost again at once");
            return Err(ErrorObject::new(ErrorKind::Unreachable, message));
        };
        record.pinned = true;
        record.set_policy(keep);
        Ok(record.status(machine))
    }

    /// Closes the link and opens it again, whatever state it is in.
    pub(super) fn redial(&mut self, wanted: Wanted, answer: Answer<status::Connection>) {
        if !matches!(self.course, Course::Serving) {
            return drop(answer.send(Err(ending())));
        }
        let machine = wanted.machine.clone();
        if !self.connections.contains_key(&machine) {
            if let Err(error) = self.begin_connection(&wanted) {
                return drop(answer.send(Err(error)));
            }
            if let Some(record) = self.connections.get_mut(&machine) {
                record.pinned = true;
            }
        }
        let Some(record) = self.connections.get_mut(&machine) else {
            return;
        };
        if !record.disconnecting.is_empty() {
            let message = format!("the connection to `{machine}` is being closed");
            return drop(answer.send(Err(ErrorObject::new(ErrorKind::Conflict, message))));
        }
        if let Err(error) = record.agree(&wanted) {
            return drop(answer.send(Err(error)));
        }
        record.set_policy(&wanted.keep);
        record.caller = wanted.caller;
        record.redialling.push(answer);
        match record.link_state {
            State::Disconnected => self.advance(&machine, link::Event::Connect, wanted.prompter),
            State::Reconnecting { next: Some(_), .. } => {
                self.advance(&machine, link::Event::WorldChanged, wanted.prompter);
            }
            // The try under way cannot ask anybody, or asks somebody else.
            State::Connecting | State::Reconnecting { next: None, .. } => {
                self.dial(&machine, wanted.prompter)
            }
            State::Connected => {
                record.reason = Some("it is opened anew".to_owned());
                // Without reconnecting, what is lost has to be asked for again.
                let reconnects = std::mem::replace(&mut record.policy.reconnect, true);
                self.advance(&machine, link::Event::Lost, wanted.prompter.clone());
                let Some(record) = self.connections.get_mut(&machine) else {
                    return;
                };
                record.policy.reconnect = reconnects;
                // One that nobody needs is not opened again by itself.
                if record.link_state == State::Disconnected {
                    self.advance(&machine, link::Event::Connect, wanted.prompter);
                }
            }
        }
    }

    pub(super) fn disconnect(&mut self, machine: &Machine, answer: Answer<ConnectionState>) {
        let Some(record) = self.connections.get_mut(machine) else {
            let message = format!("there is no connection to `{machine}`");
            let error = ErrorObject::new(ErrorKind::NotFound, message);
            return drop(answer.send(Err(error.with_hint("stead status --show connections"))));
        };
        let was = record.state();
        record.pinned = false;
        if was == ConnectionState::Connected && self.goodbyes.are_being_said_to(machine) {
            return self.goodbyes.close_after(machine, was, answer);
        }
        if record.disconnecting.is_empty() {
            record.was = was;
        }
        match record.running {
            Some(_) => record.disconnecting.push(answer),
            // One that is lost has nothing to close.
            None => drop(answer.send(Ok(was))),
        }
        self.end_processes(machine, None);
        self.end_tunnels(machine, None);
        self.advance(machine, link::Event::Disconnect, None);
        self.settle(machine);
    }

    pub(super) fn close_all(&mut self) {
        let machines: Vec<Machine> = self.connections.keys().cloned().collect();
        for machine in machines {
            if let Some(record) = self.connections.get_mut(&machine) {
                (record.users, record.pinned) = (0, false);
            }
            self.advance(&machine, link::Event::Disconnect, None);
            self.settle(&machine);
        }
    }

    /// How the connection to a machine is, and why.
    pub(super) fn connection_state(&self, machine: &Machine) -> Option<(ConnectionState, Option<String>)> {
        self.connections.get(machine).map(|record| (record.state(), record.reason.clone()))
    }
}
