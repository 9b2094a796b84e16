//! Pings, and what their answers say of the machine's clock.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::time::Instant;

use tokio::sync::oneshot;
use wire::agent::ClientFrame;
use wire::agent::file::Time;

use super::super::error::LinkLost;
use super::super::lanes::What;
use super::super::outbox::Gate;
use super::Session;

/// Pings without an answer. More tell nothing that one does not.
pub(super) const PINGS_MAX: usize = 8;

/// In a second.
const NANOSECONDS: u64 = 1_000_000_000;

#[derive(Default)]
pub(super) struct Pings {
    next: u64,
    waiting: HashMap<u64, oneshot::Sender<Instant>>,
    /// What the machine's clock said last, and when that was heard.
    clock: Option<(Time, Instant)>,
}

impl Pings {
    /// Lets go of those who wait.
    pub(super) fn clear(&mut self) {
        self.waiting.clear();
    }
}

impl Session {
    /// Sends a ping; the receiver gets the moment of the answer, or nothing when the stream is lost.
    pub(in super::super) async fn ping(&self) -> Result<oneshot::Receiver<Instant>, LinkLost> {
        let slot = self.ping_slots.acquire().await.map_err(|_| self.lost_reason())?;
        slot.forget();
        let (sender, receiver) = oneshot::channel();
        let nonce = {
            let mut pings = self.pings.lock();
            pings.next += 1;
            let nonce = pings.next;
            pings.waiting.insert(nonce, sender);
            nonce
        };
        self.post(&ClientFrame::Ping { nonce }, What::Other);
        // A ping that was not sent is not answered: what is lost from now on takes it out.
        if !matches!(self.outbox.standing().1, Gate::Open | Gate::Recovering) {
            self.end_pings();
        }
        Ok(receiver)
    }

    /// A time that the machine's clock has reached: what it said last, and what has passed since that was heard.
    pub(in super::super) fn clock(&self) -> Option<Time> {
        let (said, heard) = self.pings.lock().clock?;
        let since = heard.elapsed();
        let nanoseconds = u64::from(said.nanoseconds) + u64::from(since.subsec_nanos());
        let seconds = since.as_secs() + nanoseconds / NANOSECONDS;
        Some(Time {
            seconds: said.seconds.saturating_add_unsigned(seconds),
            nanoseconds: u32::try_from(nanoseconds % NANOSECONDS).unwrap_or_default(),
        })
    }

    pub(super) fn end_pings(&self) {
        let waiting = std::mem::take(&mut self.pings.lock().waiting);
        self.ping_slots.add_permits(waiting.len());
    }

    pub(super) fn pong(&self, nonce: u64, clock: Time) -> Result<(), LinkLost> {
        self.pings.lock().clock = Some((clock, Instant::now()));
        if let Some(is_known) = self.outbox.arrived(nonce) {
            self.heard.fetch_add(1, Ordering::Relaxed);
            self.flush();
            return if is_known { Ok(()) } else { Err(unasked_pong(nonce)) };
        }
        let waiting = self.pings.lock().waiting.remove(&nonce);
        let Some(sender) = waiting else {
            return Err(unasked_pong(nonce));
        };
        self.heard.fetch_add(1, Ordering::Relaxed);
        self.ping_slots.add_permits(1);
        if sender.send(Instant::now()).is_err() {
            tracing::trace!(nonce, "a pong came when nobody waited for it any more");
        }
        Ok(())
    }
}

fn unasked_pong(nonce: u64) -> LinkLost {
    LinkLost::Protocol(format!("a pong to no ping, {nonce}"))
}
