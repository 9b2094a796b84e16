//! The part of the owner's state that is connections.

use super::*;

impl ConnectionRecord {
    pub(super) fn status(&self, machine: &Machine) -> status::Connection {
        status::Connection {
            id: self.id,
            machine: machine.clone(),
            state: self.state,
            since: self.since,
            pids: self.link.as_ref().map(|link| link.pids()).unwrap_or_default(),
        }
    }

    fn enter(&mut self, state: ConnectionState) {
        if self.state != state {
            self.state = state;
            self.since = now();
        }
    }

    fn lend(&mut self, owner: &OwnerHandle) -> Option<Lease> {
        let link = Arc::clone(self.link.as_ref()?);
        self.users += 1;
        self.leases += 1;
        Some(Lease::new(self.id, link, owner.clone()))
    }
}

impl Owner {
    pub(super) fn acquire(&mut self, wanted: Wanted, answer: Answer<Lease>) {
        if !matches!(self.course, Course::Serving) {
            return drop(answer.send(Err(ending())));
        }
        let owner = self.handle.clone();
        let Some(record) = self.connections.get_mut(&wanted.machine) else {
            return self.open(wanted, None, answer);
        };
        if !record.disconnecting.is_empty() {
            let message = format!("the connection to `{}` is being closed", wanted.machine);
            return drop(answer.send(Err(ErrorObject::new(ErrorKind::Conflict, message))));
        }
        match record.state {
            // A lease that nobody takes comes back by its own drop.
            ConnectionState::Connected => match record.lend(&owner) {
                Some(lease) => drop(answer.send(Ok(lease))),
                None => drop(answer.send(Err(ErrorObject::internal("a connection without a link")))),
            },
            ConnectionState::Connecting | ConnectionState::Reconnecting => record.waiting.push(answer),
            ConnectionState::Disconnected => {
                let old = self.connections.remove(&wanted.machine);
                self.open(wanted, old, answer);
            }
        }
    }

    /// Starts a connection, in place of one that was lost and still has users.
    fn open(&mut self, wanted: Wanted, old: Option<ConnectionRecord>, answer: Answer<Lease>) {
        let machine = wanted.machine.clone();
        let Some(connector) = self.surroundings.connectors.of(&machine) else {
            let message = format!("`{machine}` cannot be reached: this stead knows host and ssh:// machines");
            return drop(answer.send(Err(ErrorObject::new(ErrorKind::Usage, message))));
        };
        let id = old.as_ref().map_or_else(|| self.next_connection(), |old| old.id);
        let (close, closed) = oneshot::channel();
        let ticket = match wanted.prompter {
            None => None,
            Some(prompter) => match remote::askpass::new_ticket() {
                Ok(secret) => Some(self.know_ticket(secret, prompter)),
                Err(error) => {
                    let message = format!("could not make a ticket: {error}");
                    return drop(answer.send(Err(ErrorObject::internal(message))));
                }
            },
        };
        let secret = ticket.as_ref().map(|ticket| ticket.secret().clone());
        let (caller, heartbeat) = (wanted.caller, wanted.heartbeat);
        let request = ConnectRequest { id, machine: machine.clone(), caller, heartbeat, ticket: secret };
        tokio::spawn(connection::run(connector, request, ticket, closed, self.handle.clone()));
        let was_lost = old.is_some();
        let mut record = old.unwrap_or_else(|| ConnectionRecord {
            id,
            state: ConnectionState::Connecting,
            since: now(),
            users: 0,
            leases: 0,
            pinned: false,
            waiting: Vec::new(),
            link: None,
            close: None,
            disconnecting: Vec::new(),
        });
        record.enter(if was_lost { ConnectionState::Reconnecting } else { ConnectionState::Connecting });
        record.close = Some(close);
        record.waiting.push(answer);
        self.connections.insert(machine, record);
    }

    fn next_connection(&mut self) -> ConnectionId {
        self.last_connection += 1;
        ConnectionId::new(self.last_connection)
    }

    fn know_ticket(&mut self, secret: Secret, prompter: Prompter) -> Ticket {
        self.tickets.push((secret.clone(), prompter));
        Ticket::new(secret, self.handle.clone())
    }

    fn machine_of(&self, id: ConnectionId) -> Option<Machine> {
        self.connections.iter().find(|(_, record)| record.id == id).map(|(machine, _)| machine.clone())
    }

    pub(super) fn on_connection(&mut self, id: ConnectionId, event: ConnectionEvent) {
        let owner = self.handle.clone();
        let Some(machine) = self.machine_of(id) else {
            return;
        };
        let Some(record) = self.connections.get_mut(&machine) else {
            return;
        };
        match event {
            ConnectionEvent::Up(link) => {
                tracing::info!(connection = %id, %machine, "connected");
                record.link = Some(link);
                record.enter(ConnectionState::Connected);
                for answer in std::mem::take(&mut record.waiting) {
                    if let Some(lease) = record.lend(&owner) {
                        drop(answer.send(Ok(lease)));
                    }
                }
            }
            ConnectionEvent::Failed(error) => {
                tracing::warn!(connection = %id, %machine, %error, "could not connect");
                let waiting = std::mem::take(&mut record.waiting);
                self.end_connection(&machine, ConnectionState::Disconnected);
                for answer in waiting {
                    drop(answer.send(Err(error.clone())));
                }
            }
            ConnectionEvent::Lost(reason) => {
                tracing::warn!(connection = %id, %machine, reason, "connection lost");
                self.end_connection(&machine, ConnectionState::Disconnected);
            }
            ConnectionEvent::Closed => {
                tracing::info!(connection = %id, %machine, "connection closed");
                let message = format!("the connection to `{machine}` was closed");
                for answer in std::mem::take(&mut record.waiting) {
                    drop(answer.send(Err(ErrorObject::new(ErrorKind::Interrupted, message.clone()))));
                }
                self.end_connection(&machine, ConnectionState::Disconnected);
            }
        }
    }

    /// The link is gone. The record stays as long as somebody has a lease, so that the status says what his mount
    /// hangs on.
    fn end_connection(&mut self, machine: &Machine, state: ConnectionState) {
        let Some(record) = self.connections.get_mut(machine) else {
            return;
        };
        let was = if record.link.is_some() { ConnectionState::Connected } else { record.state };
        for answer in std::mem::take(&mut record.disconnecting) {
            drop(answer.send(Ok(was)));
        }
        record.link = None;
        record.close = None;
        record.pinned = false;
        record.enter(state);
        if record.users == 0 || matches!(self.course, Course::Quitting(_)) {
            self.connections.remove(machine);
        }
    }

    pub(super) fn release(&mut self, id: ConnectionId) {
        let Some(machine) = self.machine_of(id) else {
            return;
        };
        let Some(record) = self.connections.get_mut(&machine) else {
            return;
        };
        record.users = record.users.saturating_sub(1);
        if record.users > 0 {
            return;
        }
        match record.state {
            ConnectionState::Disconnected => drop(self.connections.remove(&machine)),
            ConnectionState::Connected if !record.pinned => {
                let (owner, leases) = (self.handle.clone(), record.leases);
                tokio::spawn(async move {
                    tokio::time::sleep(IDLE_GRACE).await;
                    owner.send(Event::Idle { id, leases }).await;
                });
            }
            ConnectionState::Connected | ConnectionState::Connecting | ConnectionState::Reconnecting => {}
        }
    }

    pub(super) fn on_idle(&mut self, id: ConnectionId, leases: u64) {
        let record = self.connections.values_mut().find(|record| record.id == id);
        let Some(record) =
            record.filter(|record| record.leases == leases && record.users == 0 && !record.pinned)
        else {
            return;
        };
        // Dropping it tells the task to close.
        record.close = None;
    }

    pub(super) fn pin(&mut self, machine: &Machine) -> Result<status::Connection, ErrorObject> {
        let record =
            self.connections.get_mut(machine).filter(|record| record.state == ConnectionState::Connected);
        let Some(record) = record else {
            let message = format!("the connection to `{machine}` was lost again at once");
            return Err(ErrorObject::new(ErrorKind::Unreachable, message));
        };
        record.pinned = true;
        Ok(record.status(machine))
    }

    pub(super) fn disconnect(&mut self, machine: &Machine, answer: Answer<ConnectionState>) {
        let Some(record) = self.connections.get_mut(machine) else {
            let message = format!("there is no connection to `{machine}`");
            return drop(answer.send(Err(ErrorObject::new(ErrorKind::NotFound, message))));
        };
        if record.state == ConnectionState::Disconnected {
            return drop(answer.send(Ok(ConnectionState::Disconnected)));
        }
        record.disconnecting.push(answer);
        record.close = None;
    }

    pub(super) fn close_all(&mut self) {
        self.connections.retain(|_, record| {
            record.close = None;
            record.state != ConnectionState::Disconnected
        });
    }
}
