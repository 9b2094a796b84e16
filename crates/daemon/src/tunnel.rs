//! Tunnels: ports and unix sockets of other machines, here, and those of this computer, there.
//!
//! ```text
//!  opening ──► open ◄──its machine's session was lost──► open, with a reason ──► closed
//!     └── refused: nothing is left        told to, or its connection ends: from each ┘
//! ```
//!
//! A tunnel is a task. It has what listens here, if it listens here; a [lease](crate::connection::Lease) on its
//! connection; and a process in the machine's session of commands, its *far end*, to which all of its connections are
//! [joined](far) by frames: see [`wire::agent::tunnel`]. What it shares with processes it has from them:
//!
//! | what happens | the tunnel | connections through it |
//! |---|---|---|
//! | the line is cut, and mended while the agent keeps the session | stays | wait, and go on with every byte once and in order |
//! | the session is lost: the agent or the machine died, or was away for too long | listens on here; its far end is begun anew, with growing pauses | are reset, at once |
//! | the connection is closed, or nobody tries to open it again | closed | are reset |
//! | it is closed, or the daemon ends | closed | are reset |
//!
//! While there is no far end, nobody is accepted: who connects waits in the system's queue, as he does while the line is cut.
//! A tunnel that listens there listens there again, on the port that it had.
//!
//! **Limits.** [`TUNNELS_MAX`](wire::api::tunnel::TUNNELS_MAX) of a machine, [`CONNECTIONS_MAX`] of a tunnel, beyond which
//! connections wait in the queue of what listens, of [`BACKLOG`](wire::agent::tunnel::BACKLOG); and the
//! [windows](wire::agent::tunnel::window) of connections: what a peer does not read is not read at the other end either.

mod connection;
mod far;
mod place;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;
use wire::agent::tunnel::{CONNECTIONS_MAX, ConnectionId, TunnelFrame, window};
use wire::api::ErrorObject;
use wire::api::event::TunnelState;
use wire::api::id::TunnelId;
use wire::api::machine::Caller;
use wire::api::status;
use wire::api::time::Timestamp;
use wire::api::tunnel::Open;

use crate::owner::{Event, OwnerHandle, TunnelRecord};
use crate::prompt::Prompter;
use connection::Carried;
use far::{Far, Heard};
use place::Listener;

/// How long a tunnel waits before it begins its far end anew, at first and at most.
const PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));

/// A far end that lasted so long was not lost by what is said through the tunnel.
const LASTED: Duration = Duration::from_secs(10);

/// How many connections may be at this end: those that are carried, and as many that are refused.
const TASKS_MAX: usize = 4 * CONNECTIONS_MAX;

/// Frames that wait for the line, of all connections together: each has a few of the largest reads at most.
const FRAMES_MAX: usize = 64;

/// What is to be opened.
pub struct Order {
    /// Its name.
    pub id: TunnelId,
    /// What was asked for.
    pub open: Open,
    /// Who can be asked for a password, at first.
    pub prompter: Option<Prompter>,
    /// Who owns it.
    pub owner: OwnerHandle,
}

/// A frame that waits for the line, with its data.
type Said = (TunnelFrame, bytes::Bytes);

/// Opens a tunnel, says what has come of it, and serves it until it is closed. One that nobody is told of is closed.
pub async fn run(order: Order, answer: oneshot::Sender<Result<status::Tunnel, ErrorObject>>) {
    let mut tunnel = match Tunnel::begin(order).await {
        Ok(tunnel) => tunnel,
        // Whoever asked may have gone.
        Err(error) => return drop(answer.send(Err(error))),
    };
    let (close, mut closed) = oneshot::channel();
    let shown = tunnel.shown();
    let (id, owner) = (tunnel.order.id, tunnel.order.owner.clone());
    let record = TunnelRecord {
        shown: shown.clone(),
        connections: Arc::clone(&tunnel.count),
        close: Some(close),
        closing: vec![],
    };
    let known = owner.ask(|answer| Event::TunnelOpened { record: Box::new(record), answer }).await;
    let why = match known {
        Err(error) => {
            tunnel.end().await;
            return drop(answer.send(Err(error)));
        }
        Ok(()) if answer.send(Ok(shown)).is_err() => None,
        Ok(()) => tunnel.serve(&mut closed).await,
    };
    tunnel.end().await;
    owner.send(Event::TunnelClosed(id, why)).await;
}

struct Tunnel {
    order: Order,
    /// Absent when it listens there.
    listener: Option<Listener>,
    /// Absent while it is begun anew.
    far: Option<Far>,
    count: Arc<AtomicU64>,
    since: Timestamp,
}

impl Tunnel {
    async fn begin(mut order: Order) -> Result<Tunnel, ErrorObject> {
        // What is taken here is known before anybody is asked for a password.
        let listener = match order.open.reverse {
            true => None,
            false => Some(Listener::open(&order.open.local)?),
        };
        let prompter = order.prompter.take();
        let far = Far::begin(&order.open, &order.owner, prompter).await?;
        if let Some(listener) = &listener {
            order.open.local = listener.at.clone();
        }
        let mut tunnel = Tunnel {
            order,
            listener,
            far: None,
            count: Arc::default(),
            since: Timestamp::from(SystemTime::now()),
        };
        tunnel.take(far);
        Ok(tunnel)
    }

    /// Goes on with a far end. Where the system has chosen a port there, it is that port from now on.
    fn take(&mut self, far: Far) {
        self.order.open.remote = far.at.clone();
        self.far = Some(far);
    }

    fn shown(&self) -> status::Tunnel {
        let Open { machine, local, remote, reverse, .. } = &self.order.open;
        status::Tunnel {
            id: self.order.id,
            machine: machine.clone(),
            local: local.clone(),
            remote: remote.clone(),
            reverse: *reverse,
            state: TunnelState::Open,
            connections: 0,
            since: self.since,
            reason: None,
        }
    }

    /// Serves until it is told to close, and gives why if nobody has asked for that.
    async fn serve(&mut self, closed: &mut oneshot::Receiver<Option<String>>) -> Option<String> {
        let mut pause = PAUSES.0;
        loop {
            let began = Instant::now();
            let lost = tokio::select! {
                why = &mut *closed => return why.ok().flatten(),
                lost = self.carry() => lost,
            };
            tracing::info!(tunnel = %self.order.id, reason = lost, "a tunnel's far end is lost");
            self.far = None;
            if began.elapsed() >= LASTED {
                pause = PAUSES.0;
            }
            self.tell(Some(lost)).await;
            loop {
                tokio::select! {
                    why = &mut *closed => return why.ok().flatten(),
                    () = tokio::time::sleep(pause) => {}
                }
                pause = (pause * 2).min(PAUSES.1);
                let begun = tokio::select! {
                    why = &mut *closed => return why.ok().flatten(),
                    begun = Far::begin(&self.order.open, &self.order.owner, None) => begun,
                };
                match begun {
                    Ok(far) => break self.take(far),
                    Err(error) => self.tell(Some(error.message)).await,
                }
            }
            self.tell(None).await;
        }
    }

    async fn tell(&mut self, reason: Option<String>) {
        self.order.owner.send(Event::TunnelAway(self.order.id, reason)).await;
    }

    /// Carries connections until the far end is lost, and says why. All of them are gone then; that is so, too, when this is
    /// dropped.
    async fn carry(&mut self) -> String {
        let Some(far) = &mut self.far else { return "there is no far end".to_owned() };
        let (say, saying) = mpsc::channel(FRAMES_MAX);
        let (reader, writer) = far.split();
        let writing = writer.write(saying);
        tokio::pin!(writing);
        let mut table = Carried::new(Arc::clone(&self.count));
        let mut tasks = JoinSet::new();
        let mut next = 0;
        loop {
            let has_room = table.len() < CONNECTIONS_MAX;
            tokio::select! {
                why = &mut writing => return why,
                heard = reader.next() => match heard {
                    Heard::Frame(TunnelFrame::Open { connection }, _) if self.order.open.reverse => {
                        let Some(mailbox) = table.open(connection) else {
                            if tasks.len() > TASKS_MAX {
                                return OVERDRAWN.to_owned();
                            }
                            tasks.spawn(connection::refuse(connection, say.clone()));
                            continue;
                        };
                        let (to, window) = (self.order.open.local.clone(), window(table.len() - 1));
                        tasks.spawn(connection::join(to, connection, window, mailbox, say.clone()));
                    }
                    Heard::Frame(frame, data) => match table.hear(frame, &data) {
                        Ok(()) => {}
                        Err(why) => return why,
                    },
                    Heard::Lost(why) => return why,
                },
                Some(ended) = tasks.join_next() => match ended {
                    Ok(id) => table.close(id),
                    Err(error) => return format!("a connection's task failed: {error}"),
                },
                (socket, permit) = accept(self.listener.as_ref(), &say), if has_room => {
                    let connection = ConnectionId(next);
                    next += 1;
                    permit.send((TunnelFrame::Open { connection }, bytes::Bytes::new()));
                    let Some(mailbox) = table.open(connection) else { continue };
                    let window = window(table.len() - 1);
                    tasks.spawn(connection::carry(socket, connection, window, mailbox, say.clone()));
                }
            }
        }
    }

    /// Ends it in an orderly way. What listens here is gone first.
    async fn end(mut self) {
        self.listener = None;
        if let Some(far) = self.far.take() {
            far.end().await;
        }
        self.count.store(0, Ordering::Relaxed);
    }
}

const OVERDRAWN: &str = "the far end of a tunnel broke the protocol";

/// Accepts a connection when there is room to tell of it, so that connections are told of in the order of their numbers.
async fn accept<'a>(
    listener: Option<&Listener>,
    say: &'a mpsc::Sender<Said>,
) -> (place::Socket, mpsc::Permit<'a, Said>) {
    if let (Some(listener), Ok(permit)) = (listener, say.reserve().await) {
        return (listener.accept().await, permit);
    }
    std::future::pending().await
}

/// Whether both ends of a tunnel can be what is asked for.
pub fn check(open: &Open) -> Result<(), ErrorObject> {
    let (listens, connects) =
        if open.reverse { (&open.remote, &open.local) } else { (&open.local, &open.remote) };
    let wrong = |message: String| Err(ErrorObject::new(wire::api::ErrorKind::Usage, message));
    if !listens.is_own_address() {
        let message =
            format!("`{listens}` is not where a tunnel can listen: that is an address of the machine");
        return wrong(message)
            .map_err(|error: ErrorObject| error.with_hint("give a port alone for the loopback"));
    }
    if !connects.is_definite() {
        return wrong(format!("`{connects}` is nowhere to connect to: port 0 is for the end that listens"));
    }
    Ok(())
}

/// Who asked for a tunnel, without anybody to ask later.
fn unattended(caller: &Caller) -> Caller {
    Caller { prompts: wire::api::machine::Prompts::Refused, ..caller.clone() }
}
