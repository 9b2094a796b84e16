//! What a session learns of the way to its machine, and does with it.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use wire::agent::file::FileRequest;
use wire::agent::{ClientFrame, Request};

use super::super::lanes::What;
use super::super::pending::Sent;
use super::super::request::{bytes_asked, is_prompt};
use super::Session;

impl Session {
    /// The payload of a write packed, where that brings it there sooner. What waits for another stream is sent there as it
    /// is.
    pub(super) fn pack(&self, request: &Request, payload: &Bytes) -> Option<(Bytes, u32)> {
        if !self.packs.load(Ordering::Relaxed) || !matches!(request, Request::File(FileRequest::Write { .. }))
        {
            return None;
        }
        let rate = self.outbox.pace().lock().up.carries_per_second();
        let packed = self.packer.pack(payload, rate)?;
        let bytes = u32::try_from(packed.len()).ok()?;
        Some((Bytes::from(packed), bytes))
    }

    /// A request is about to be sent.
    pub(super) fn departs(&self, request: &Request) -> Sent {
        if let Some(bytes) = bytes_asked(request) {
            let pace = &mut *self.outbox.pace().lock();
            return Sent::Read(pace.down.departs(bytes, &pace.trip, Instant::now()));
        }
        if is_prompt(request) { Sent::Prompt(Instant::now()) } else { Sent::Unseen }
    }

    /// It has been answered.
    pub(super) fn arrives(&self, sent: Sent) {
        let (pace, now) = (self.outbox.pace(), Instant::now());
        match sent {
            Sent::Prompt(at) => pace.lock().trip.took(now.saturating_duration_since(at), now),
            Sent::Read(departure) => {
                let pace = &mut *pace.lock();
                pace.down.arrives(&departure, &pace.trip, now);
            }
            Sent::Unseen => {}
        }
    }

    /// How much more is well asked for now, and in which parts, by who reads ahead.
    pub(in crate::client) fn reach(&self) -> (usize, usize) {
        let pace = self.outbox.pace().lock();
        (pace.down.room_left(&pace.trip), pace.part_bytes())
    }

    /// So much of a long frame came in so much time.
    pub(super) fn brought(&self, trickled: Option<(usize, Duration)>) {
        let (Some((bytes, took)), true) = (trickled, self.packs.load(Ordering::Relaxed)) else { return };
        let news = {
            let mut pace = self.outbox.pace().lock();
            pace.brought(bytes, took, Instant::now());
            pace.news()
        };
        if let Some(bytes_per_second) = news {
            self.post(&ClientFrame::Rate { bytes_per_second }, What::Other);
        }
    }
}
