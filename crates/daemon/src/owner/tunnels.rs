//! The part of the owner's state that is tunnels.
//!
//! ```text
//!  open ──told to, or its connection ends──► closing ──nothing is left──► closed: forgotten
//! ```
//!
//! Each is served by a task of its own, see [`crate::tunnel`]. One that is closing is not shown any more.

use std::sync::atomic::{AtomicU64, Ordering};

use wire::api::event::TunnelState;
use wire::api::tunnel::TUNNELS_MAX;

use super::*;

/// A tunnel, as the owner knows it.
#[derive(Debug)]
pub struct TunnelRecord {
    /// What is shown of it.
    pub shown: status::Tunnel,
    /// How many connections go through it.
    pub connections: Arc<AtomicU64>,
    /// Takes why it is to end, if nobody has asked for that. None once that has been said.
    pub close: Option<oneshot::Sender<Option<String>>>,
    /// Told when it is gone.
    pub closing: Vec<oneshot::Sender<()>>,
}

impl TunnelRecord {
    fn status(&self) -> status::Tunnel {
        status::Tunnel { connections: self.connections.load(Ordering::Relaxed), ..self.shown.clone() }
    }

    /// Has it end. Whoever is told of that may have gone.
    fn close(&mut self, why: Option<String>, told: Option<oneshot::Sender<()>>) {
        self.closing.extend(told);
        if let Some(close) = self.close.take() {
            let _ = close.send(why);
        }
    }
}

impl Owner {
    pub(super) fn on_tunnel_opened(&mut self, record: TunnelRecord) -> Result<(), ErrorObject> {
        if !matches!(self.course, Course::Serving) {
            return Err(ending());
        }
        let machine = &record.shown.machine;
        let state = self.connection_state(machine).map(|(state, _)| state);
        // It was begun through a connection that has been closed since.
        if matches!(state, None | Some(ConnectionState::Disconnected)) {
            let message = format!("the connection to `{machine}` was closed");
            return Err(ErrorObject::new(ErrorKind::Interrupted, message));
        }
        if self.tunnels.values().filter(|tunnel| tunnel.shown.machine == *machine).count() >= TUNNELS_MAX {
            let message = format!("there are {TUNNELS_MAX} tunnels of `{machine}` already");
            return Err(ErrorObject::new(ErrorKind::Conflict, message).with_hint("stead tunnel list"));
        }
        let (id, machine) = (record.shown.id, machine.clone());
        self.tunnels.insert(id, record);
        self.bus.publish(Happened::Tunnel { id, machine, state: TunnelState::Open, reason: None }, now());
        Ok(())
    }

    /// What keeps a tunnel's machine from being reached is another.
    pub(super) fn on_tunnel_away(&mut self, id: TunnelId, reason: Option<String>) {
        if let Some(tunnel) = self.tunnels.get_mut(&id) {
            tunnel.shown.reason = reason;
        }
    }

    /// Nothing is left of a tunnel; why, if nobody has asked for that.
    pub(super) fn on_tunnel_closed(&mut self, id: TunnelId, reason: Option<String>) {
        let Some(tunnel) = self.tunnels.remove(&id) else { return };
        let machine = tunnel.shown.machine;
        self.bus.publish(Happened::Tunnel { id, machine, state: TunnelState::Closed, reason }, now());
        for told in tunnel.closing {
            // Whoever waited may have gone.
            let _ = told.send(());
        }
    }

    /// Has a tunnel end, and tells `told` when nothing of it is left.
    pub(super) fn close_tunnel(
        &mut self,
        id: TunnelId,
        told: oneshot::Sender<()>,
    ) -> Result<(), ErrorObject> {
        let Some(tunnel) = self.tunnels.get_mut(&id) else {
            let error = ErrorObject::new(ErrorKind::NotFound, format!("there is no tunnel {id}"));
            return Err(error.with_hint("stead tunnel list"));
        };
        tunnel.close(None, Some(told));
        Ok(())
    }

    /// Has all tunnels of a machine end because somebody closes its connection, and gives what tells that they are gone.
    pub(super) fn close_tunnels_of(&mut self, machine: &Machine) -> Vec<oneshot::Receiver<()>> {
        let of_machine = self.tunnels.values_mut().filter(|tunnel| tunnel.shown.machine == *machine);
        let close = |tunnel: &mut TunnelRecord| {
            let (told, gone) = oneshot::channel();
            tunnel.close(Some("its connection was closed".to_owned()), Some(told));
            gone
        };
        of_machine.map(close).collect()
    }

    /// Has all tunnels of a machine end, as their connection has; `why` is said of one that was lost.
    pub(super) fn end_tunnels(&mut self, machine: &Machine, why: Option<&str>) {
        let reason = match why {
            Some(why) => format!("its connection was lost: {why}"),
            None => "its connection was closed".to_owned(),
        };
        for tunnel in self.tunnels.values_mut().filter(|tunnel| tunnel.shown.machine == *machine) {
            tunnel.close(Some(reason.clone()), None);
        }
    }

    pub(super) fn shown_tunnels(&self) -> Vec<status::Tunnel> {
        self.tunnels.values().filter(|tunnel| tunnel.close.is_some()).map(TunnelRecord::status).collect()
    }
}
