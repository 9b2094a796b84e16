//! Through which of a machine's masters a channel goes.
//!
//! ```text
//! the newest ──full──► the next newest ──full──► ... ──full──► another is asked for ──► the newest
//!     ▲                                                 │ what is only held in reserve is given back first
//!     └─────────────────────────────────────────────────┘
//! ```

use std::os::unix::net::UnixStream;

use wire::bytestring::ByteString;
use wire::worker::SshDial;

use super::OWN_FAILURE;
use super::error::{SshError, explain_channel};
use super::further::{self, Answer, Slot, Slots};
use super::scarcity;
use crate::transport::program::Exit;

/// The way to a channel of one machine. Each master is tried once: the newest first, since that is the one with room.
pub(crate) struct Route<'a> {
    dial: &'a SshDial,
    slot: Slot,
    tried: Slots,
    /// Why those that were tried gave no channel. That one is full counts for more than that one is gone.
    reason: Option<SshError>,
    /// How often sessions have been waited for that were only held in reserve.
    waits: u32,
}

impl<'a> Route<'a> {
    /// Through the newest master there is.
    pub(crate) fn of(dial: &'a SshDial) -> Route<'a> {
        let (slot, tried) = (Slot::FIRST, Slots::default());
        let mut route = Route { dial, slot, tried, reason: None, waits: 0 };
        route.slot = route.newest_untried().unwrap_or(Slot::FIRST);
        route
    }

    /// How a channel is opened now.
    pub(crate) fn dial(&self) -> SshDial {
        let control_path = ByteString::from(self.slot.path(self.dial.control_path.as_path()));
        SshDial { control_path, ..self.dial.clone() }
    }

    /// Why the channel that ended like this was none, if it was none: then ssh itself has failed, and nothing ran on the
    /// machine.
    pub(crate) fn refusal(&self, exit: &Exit) -> Option<SshError> {
        if exit.status.and_then(|status| status.code()) != Some(OWN_FAILURE) {
            return None;
        }
        let target = &self.dial.host;
        // Without a master ssh often fails before it has said anything.
        let gone = || SshError::MasterGone { target: target.clone() };
        explain_channel(target, exit).or_else(|| (!self.is_master_there()).then(gone))
    }

    fn is_master_there(&self) -> bool {
        UnixStream::connect(self.slot.path(self.dial.control_path.as_path())).is_ok()
    }

    /// Turns to another master after this one has given no channel, for which `error` is the reason. When all that are
    /// there are full, waits until another has logged in. After an error there is no other.
    pub(crate) async fn turn(&mut self, error: SshError) -> Result<(), SshError> {
        use SshError::{MasterGone, TooManySessions};
        self.tried.insert(self.slot);
        let reason = match (error, self.reason.take()) {
            (full @ TooManySessions { .. }, _) => full,
            (MasterGone { .. }, Some(reason)) => reason,
            (gone @ MasterGone { .. }, None) => gone,
            (other, _) => return Err(other),
        };
        if let Some(slot) = self.newest_untried() {
            self.slot = slot;
            self.reason = Some(reason);
            return Ok(());
        }
        if matches!(reason, MasterGone { .. }) {
            return Err(reason);
        }
        if self.waits < scarcity::GIVING_BACK_TRIES_MAX
            && scarcity::mark(&scarcity::mark_of(self.dial.control_path.as_path()))
        {
            self.waits += 1;
            tokio::time::sleep(scarcity::GIVING_BACK_INTERVAL).await;
            (self.tried, self.reason) = (Slots::default(), Some(reason));
            self.slot = self.newest_untried().unwrap_or(Slot::FIRST);
            return Ok(());
        }
        match further::ask(self.dial.control_path.as_path(), self.tried).await {
            Ok(Answer::Another) => {}
            Ok(Answer::None(source)) => {
                return Err(SshError::NoFurtherMaster { target: self.dial.host.clone(), source });
            }
            Err(error) => {
                tracing::debug!(%error, "nobody opens another master");
                return Err(reason);
            }
        }
        self.slot = self.newest_untried().ok_or(reason)?;
        Ok(())
    }

    fn newest_untried(&self) -> Option<Slot> {
        let control = self.dial.control_path.as_path();
        let is_there = |slot: &Slot| slot.path(control).symlink_metadata().is_ok();
        Slot::all().rev().filter(|slot| !self.tried.contains(*slot)).find(is_there)
    }
}
