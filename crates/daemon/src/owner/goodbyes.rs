//! The part of the owner's state that is goodbyes: sessions whose mounts are over, and whose agents are to be told.
//!
//! ```text
//!  owed ──the machine is connected──► being said ──► said
//!   ▲  └── it is not ──► waiting ──the next connection──┘ │
//!   └──────────────────── failed, the first time ─────────┘   failed again, or the daemon ends: left to its hour
//! ```
//!
//! No connection is made for a goodbye. One at a time is said to a machine, and only what would take the connection away
//! waits for it: a disconnect, and the end of the daemon.

use super::*;

/// How long a goodbye may take: a few round trips to a far machine, and the end of what the session has.
pub(super) const GOODBYE_TIMEOUT: Duration = Duration::from_secs(3);

/// How often a goodbye is tried: once more than at the end of the mount, because that may be when the machine is away.
const TRIES_MAX: u32 = 2;

/// Goodbyes that wait for their machine to be connected. Beyond it the oldest are left to their hour.
const WAITING_MAX: usize = 256;

#[derive(Default)]
pub(super) struct Goodbyes {
    waiting: Vec<Goodbye>,
    /// The machines to which one is being said.
    under_way: Vec<Machine>,
    /// Connections that are to be closed when none is being said to their machines.
    closing: Vec<(Machine, ConnectionState, Answer<ConnectionState>)>,
}

impl Goodbyes {
    pub(super) fn are_being_said(&self) -> bool {
        !self.under_way.is_empty()
    }

    pub(super) fn are_being_said_to(&self, machine: &Machine) -> bool {
        self.under_way.contains(machine)
    }

    /// Closes the connection, which is in the state `was`, once nothing is being said any more.
    pub(super) fn close_after(
        &mut self,
        machine: &Machine,
        was: ConnectionState,
        answer: Answer<ConnectionState>,
    ) {
        self.closing.push((machine.clone(), was, answer));
    }
}

impl Owner {
    /// Says goodbye, now or when its machine is connected next.
    pub(super) fn say_goodbye(&mut self, goodbye: Goodbye) {
        let owner = self.handle.clone();
        let machine = &goodbye.machine;
        if self.goodbyes.are_being_said_to(machine) {
            return self.goodbyes.wait(goodbye);
        }
        if *machine == Machine::Host {
            let request = ConnectRequest {
                id: ConnectionId::new(0),
                machine: machine.clone(),
                caller: goodbye.caller.clone(),
                engine: None,
                ticket: None,
                opens: false,
            };
            // Nothing is opened for it: an agent of this computer is a child process away.
            let link = self.surroundings.connectors.host.connect(request);
            self.goodbyes.under_way.push(machine.clone());
            begin(goodbye, async move { Ok((link.await?, None)) }, owner);
            return;
        }
        let lease = self.connections.get_mut(machine).and_then(|record| record.lend_open(&owner));
        let Some(lease) = lease else {
            return self.goodbyes.wait(goodbye);
        };
        self.goodbyes.under_way.push(machine.clone());
        begin(goodbye, async move { Ok((lease.shared_link(), Some(lease))) }, owner);
    }

    /// Says what waits for a machine that is connected now.
    pub(super) fn say_goodbyes(&mut self, machine: &Machine) {
        let waits = |goodbye: &mut Goodbye| goodbye.machine == *machine;
        let waiting: Vec<Goodbye> = self.goodbyes.waiting.extract_if(.., waits).collect();
        waiting.into_iter().for_each(|goodbye| self.say_goodbye(goodbye));
    }

    /// A try has ended; what comes back was not said.
    pub(super) fn on_goodbye(&mut self, machine: &Machine, failed: Option<Goodbye>) {
        self.goodbyes.under_way.retain(|of| of != machine);
        match failed {
            // The others would fare no better now: they wait for the next connection.
            Some(goodbye) => self.goodbyes.wait(goodbye),
            None => {
                let is_next = |goodbye: &Goodbye| goodbye.machine == *machine;
                if let Some(at) = self.goodbyes.waiting.iter().position(is_next) {
                    let goodbye = self.goodbyes.waiting.remove(at);
                    self.say_goodbye(goodbye);
                }
            }
        }
        if !self.goodbyes.are_being_said_to(machine) {
            self.close_what_waited(machine);
        }
        if matches!(self.course, Course::Quitting(_)) && !self.goodbyes.are_being_said() {
            self.close_all();
        }
    }

    fn close_what_waited(&mut self, machine: &Machine) {
        let due: Vec<_> = self.goodbyes.closing.extract_if(.., |(of, ..)| of == machine).collect();
        for (_, was, answer) in due {
            match self.connections.contains_key(machine) {
                true => self.disconnect(machine, answer),
                // It has gone meanwhile.
                false => drop(answer.send(Ok(was))),
            }
        }
    }
}

impl Goodbyes {
    fn wait(&mut self, goodbye: Goodbye) {
        if goodbye.tries >= TRIES_MAX {
            return tracing::warn!(machine = %goodbye.machine, "the agent of a mount that is over stays for its hour");
        }
        if self.waiting.len() >= WAITING_MAX {
            self.waiting.remove(0);
        }
        self.waiting.push(goodbye);
    }
}

type Reached = Result<(Arc<dyn Link>, Option<Lease>), ErrorObject>;

/// Tries once, and tells the owner, whatever comes of it: its end waits for that.
fn begin(goodbye: Goodbye, reach: impl Future<Output = Reached> + Send + 'static, owner: OwnerHandle) {
    let machine = goodbye.machine.clone();
    let trying = tokio::spawn(say(goodbye, reach));
    tokio::spawn(async move {
        let failed = trying.await.unwrap_or_else(|error| {
            tracing::error!(%machine, %error, "the agent of a mount that is over was not told");
            None
        });
        owner.send(Event::GoodbyeTried { machine, failed }).await;
    });
}

/// Gives what is to be tried again.
async fn say(mut goodbye: Goodbye, reach: impl Future<Output = Reached>) -> Option<Box<Goodbye>> {
    goodbye.tries += 1;
    let saying = async {
        let (link, _lease) = reach.await?;
        link.end_session(goodbye.session, &goodbye.caller).await
    };
    let said = tokio::time::timeout(GOODBYE_TIMEOUT, saying).await.unwrap_or_else(|_| {
        let message = format!("nothing came of it within {} s", GOODBYE_TIMEOUT.as_secs());
        Err(ErrorObject::new(ErrorKind::TimedOut, message))
    });
    match said {
        Ok(()) => {
            tracing::info!(machine = %goodbye.machine, "the agent of a mount that is over has ended");
            let settling = tokio::task::spawn_blocking(move || goodbye.settle());
            if let Err(error) = settling.await {
                tracing::error!(%error, "a note was not removed");
            }
            None
        }
        Err(error) => {
            tracing::warn!(machine = %goodbye.machine, %error, "the agent of a mount that is over was not told");
            Some(Box::new(goodbye))
        }
    }
}
