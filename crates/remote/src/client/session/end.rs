//! How a session loses its stream, and how it ends.

use std::sync::atomic::Ordering;
use std::time::Duration;

use wire::agent::ClientFrame;

use super::super::error::LinkLost;
use super::super::lanes::What;
use super::super::outbox::Generation;
use super::super::pending::{Entry, Waiter};
use super::{Session, Standing};

/// How long a goodbye may take to leave.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(1);

impl Session {
    /// The stream of this generation, or whichever there is, is lost. A session that does not outlive it is over.
    pub(in super::super) fn lose(&self, generation: Option<Generation>, lost: LinkLost) {
        if self.held.is_none() {
            return self.close(lost);
        }
        let Some(share) = self.outbox.detach(generation) else { return };
        self.outbox_bytes.add_permits(share);
        self.end_pings();
        for entry in self.pending.detach(&lost) {
            self.lose_entry(entry, &lost);
        }
        self.tell_away(lost);
    }

    pub(super) fn tell_away(&self, lost: LinkLost) {
        self.standing.send_if_modified(|standing| match standing {
            Standing::Linked => {
                *standing = Standing::Away(lost);
                true
            }
            Standing::Away(_) | Standing::Over(_) => false,
        });
    }

    /// Ends the session. The first reason stays.
    pub(in super::super) fn close(&self, lost: LinkLost) {
        let Some(entries) = self.pending.close(&lost) else { return };
        self.standing.send_replace(Standing::Over(lost.clone()));
        for limit in [&self.in_flight, &self.unacknowledged, &self.outbox_bytes, &self.ping_slots] {
            limit.close();
        }
        self.limits_moved.notify_waiters();
        self.outbox.close();
        self.pings.lock().clear();
        for entry in entries {
            entry.waiter.lose(lost.clone());
        }
        self.end_tasks();
        self.sink.link_lost(&lost);
    }

    /// Tells the agent that nobody comes back, if it can be told without waiting.
    pub(in super::super) fn say_goodbye(&self) {
        if self.held.is_some() {
            self.parting.store(true, Ordering::Relaxed);
            self.post(&ClientFrame::Goodbye, What::Last);
        }
    }

    /// Whether there is to be no other stream.
    pub(in super::super) fn is_parting(&self) -> bool {
        self.parting.load(Ordering::Relaxed)
    }

    /// Waits a moment for what is queued to leave, and says whether it has.
    pub(in super::super) async fn drained(&self) -> bool {
        let has_left = tokio::time::timeout(GOODBYE_TIMEOUT, self.outbox.drained()).await.unwrap_or(false);
        if !has_left {
            tracing::warn!("the agent could not be told that its session is over");
        }
        has_left
    }

    /// Nobody, or nobody without endless patience, waits for the machine any more, until it is back.
    pub(in super::super) fn go_offline(&self, lost: &LinkLost, everybody: bool) {
        for entry in self.pending.go_offline(lost, everybody) {
            self.lose_entry(entry, lost);
        }
        self.limits_moved.notify_waiters();
    }

    pub(super) fn lose_entry(&self, mut entry: Entry, lost: &LinkLost) {
        let waiter = std::mem::replace(&mut entry.waiter, Waiter::Nobody);
        self.owe(&entry);
        self.release(&entry);
        waiter.lose(lost.clone());
    }

    /// Why the session is over; [`LinkLost::Closed`] while it is not.
    pub(in super::super) fn lost_reason(&self) -> LinkLost {
        match &*self.standing.borrow() {
            Standing::Linked => LinkLost::Closed,
            Standing::Away(lost) | Standing::Over(lost) => lost.clone(),
        }
    }

    pub(in super::super) fn is_over(&self) -> bool {
        matches!(&*self.standing.borrow(), Standing::Over(_))
    }

    /// Waits for the end of the session.
    pub(in super::super) async fn until_over(&self) -> LinkLost {
        let mut standing = self.standing.subscribe();
        let over = standing.wait_for(|standing| matches!(standing, Standing::Over(_))).await;
        match over.as_deref() {
            Ok(Standing::Over(reason)) => reason.clone(),
            Ok(Standing::Linked | Standing::Away(_)) | Err(_) => LinkLost::Closed,
        }
    }
}
