//! `tunnel.*`

use std::time::Duration;

use tokio::sync::oneshot;
use wire::api::id::TunnelId;
use wire::api::machine::Machine;
use wire::api::status;
use wire::api::tunnel::{Close, Closed, Open, Tunnels};
use wire::api::{ErrorKind, ErrorObject};

use super::Daemon;
use crate::owner::{Event, ending};
use crate::session::ClientContext;
use crate::tunnel::{self, Order};

/// How long a tunnel may take to be gone: its far end is hung up after less.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);

/// Opens a tunnel. It is closed again if the client has gone meanwhile.
pub async fn open(
    daemon: &Daemon,
    context: &ClientContext,
    open: Open,
) -> Result<status::Tunnel, ErrorObject> {
    context.check(&open.caller)?;
    tunnel::check(&open)?;
    let prompter = context.prompter(&open.caller);
    let order = Order { id: daemon.new_tunnel(), open, prompter, owner: daemon.owner.clone() };
    let (answer, opened) = oneshot::channel();
    tokio::spawn(tunnel::run(order, answer));
    opened.await.unwrap_or_else(|_| Err(ending()))
}

/// All tunnels.
pub async fn list(daemon: &Daemon) -> Result<Tunnels, ErrorObject> {
    let (answer, answered) = oneshot::channel();
    daemon.owner.send(Event::Document { answer }).await;
    answered.await.map(|document| Tunnels { tunnels: document.tunnels }).map_err(|_| ending())
}

/// Closes a tunnel, and waits until nothing of it is left.
pub async fn close(daemon: &Daemon, close: Close) -> Result<Closed, ErrorObject> {
    let Close { tunnel: id } = close;
    let (told, gone) = oneshot::channel();
    daemon.owner.ask(|answer| Event::CloseTunnel { id, told, answer }).await?;
    match tokio::time::timeout(CLOSE_TIMEOUT, gone).await {
        Ok(_) => Ok(Closed { tunnel: id }),
        Err(_) => Err(late(id)),
    }
}

fn late(id: TunnelId) -> ErrorObject {
    let message = format!("tunnel {id} is closing, and not gone after {} s", CLOSE_TIMEOUT.as_secs());
    ErrorObject::new(ErrorKind::TimedOut, message)
}

/// Closes all tunnels of a machine whose connection is about to be closed. One that takes too long goes with it.
pub async fn close_all(daemon: &Daemon, machine: &Machine) {
    let (answer, closing) = oneshot::channel();
    daemon.owner.send(Event::CloseTunnelsOf { machine: machine.clone(), answer }).await;
    let all_gone = async {
        for gone in closing.await.unwrap_or_default() {
            // One that is gone without a word is gone too.
            let _ = gone.await;
        }
    };
    if tokio::time::timeout(CLOSE_TIMEOUT, all_gone).await.is_err() {
        tracing::warn!(%machine, "its tunnels were not gone in time");
    }
}
