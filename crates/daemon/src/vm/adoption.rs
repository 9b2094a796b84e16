//! What a daemon before this one has left.

use std::sync::Arc;

use supervisor::process::AdoptError;
use supervisor::{Identity, Process};
use wire::api::ErrorObject;
use wire::api::event::VmState;

use super::{Attempt, Vm, blocking};
use crate::failure::failure;

impl Vm {
    /// Takes over the process that a daemon before this one has left, if there is one.
    pub async fn adopt(mut self) {
        self.tell_snapshots().await;
        if let Err(error) = self.take_over().await {
            // Each order tries it again first.
            self.fail(error).await;
        } else {
            self.clear_snapshots().await;
        }
        self.run().await;
    }

    /// Finds out what has become of the VMM that a daemon before this one may have left. After an error it may still run.
    pub(super) async fn take_over(&mut self) -> Result<(), ErrorObject> {
        self.is_known = false;
        self.gate = self.record.gate.map_or(Ok(None), adopted)?;
        if let Some(process) = self.left_process().await? {
            tracing::info!(vm = self.name, pid = process.pid(), "a vm is taken over");
            let was = self.record.clone();
            self.record.process = Some(process.identity());
            self.process = Some(process);
            match (&self.gate, was.gate) {
                // Whoever started the VMM was killed before it could start that.
                (None, None) => self.open_gate(),
                (None, Some(_)) => self.is_cut_off = true,
                (Some(_), _) => {}
            }
            if self.record != was
                && let Err(error) = self.write().await
            {
                tracing::warn!(vm = self.name, %error, "a VMM is not written down");
            }
            self.await_ports(Attempt::TakenOver).await;
        } else if self.record.process.is_some() {
            tracing::info!(vm = self.name, "a vm has ended while there was no daemon");
            self.forget_process().await;
            self.tell(VmState::Stopped, None).await;
        }
        self.is_known = true;
        Ok(())
    }

    async fn left_process(&self) -> Result<Option<Process>, ErrorObject> {
        if let Some(identity) = self.record.process
            && let Some(process) = adopted(identity)?
        {
            return Ok(Some(process));
        }
        let (engine, runtime) = (Arc::clone(&self.context.engine), self.context.places(&self.name).runtime);
        let found = blocking(move || match runtime.try_exists() {
            // It is made before a VMM is started, and removed when that has ended.
            Ok(false) => Ok(None),
            _ => engine.find(&runtime),
        });
        found.await?.map_or(Ok(None), adopted)
    }
}

fn adopted(identity: Identity) -> Result<Option<Process>, ErrorObject> {
    match Process::adopt(identity) {
        Ok(process) => Ok(Some(process)),
        Err(AdoptError::Gone { .. }) => Ok(None),
        Err(error) => Err(failure(&error)),
    }
}
