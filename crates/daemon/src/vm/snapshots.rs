//! What was on the disk of a microVM, taken and let go by its task: see [`machine::snapshot`].
//!
//! A snapshot of which another microVM is being made is held until that has its disk, or is given up. Those that are to go are looked
//! at again at each occasion at which they may: one is deleted, a microVM that was made of one is deleted or was not made, this one
//! stops or is taken over.

use std::sync::Arc;

use machine::capability::Base;
use machine::course::Course;
use machine::snapshot::{self, Purpose, Snapshot, removal};
use wire::api::time::Timestamp;
use wire::api::{ErrorObject, status};

use super::{Vm, VmEvent, blocking};
use crate::owner::Event;

impl Vm {
    /// Keeps what is on its disk.
    pub(super) async fn snapshot(&mut self, name: Option<String>) -> Result<status::Snapshot, ErrorObject> {
        self.take(Purpose::Kept(name)).await.map(|taken| shown(&taken))
    }

    async fn take(&mut self, purpose: Purpose) -> Result<Snapshot, ErrorObject> {
        if self.process.is_some() {
            return Err(self.busy("is running").with_hint(format!("stead vm stop {}", self.name)));
        }
        let places = self.context.places(&self.name);
        let taken = blocking(move || {
            // It is a file of some blocks: nobody calls that off.
            let (course, _wanted) = Course::new(|_| ())?;
            snapshot::take(&places.directory, &purpose, &course)
        });
        let taken = taken.await;
        // After an error there may be fewer than there were said to be.
        self.tell_snapshots().await;
        taken
    }

    /// What another one is made over, and what that is called.
    pub(super) async fn base(&mut self, name: Option<String>) -> Result<(String, Base), ErrorObject> {
        let name = match name {
            Some(name) => name,
            None => self.take(Purpose::Fork).await?.name,
        };
        let (directory, hold) = (self.context.places(&self.name).directory, Arc::new(()));
        self.held.push((name.clone(), Arc::downgrade(&hold)));
        let named = name.clone();
        let base = blocking(move || Base::snapshot(&snapshot::open(&directory, &named)?, hold)).await?;
        Ok((name, base))
    }

    /// Lets one go. Returns those whose disks it is there for yet.
    pub(super) async fn delete_snapshot(&mut self, name: String) -> Result<Vec<String>, ErrorObject> {
        let directory = self.context.places(&self.name).directory;
        let (vm, doomed) = (directory.clone(), name.clone());
        blocking(move || removal::doom(&vm, &doomed)).await?;
        self.clear_snapshots().await;
        blocking(move || removal::users(&directory, &name)).await.map(|users| users.into_iter().collect())
    }

    /// Lets those go that are to go and can. Takes as long as it takes to write what was written since one was taken.
    pub(super) async fn clear_snapshots(&mut self) {
        self.held.retain(|(_, hold)| hold.strong_count() > 0);
        let held = self.held.iter().map(|(name, _)| name.clone()).collect();
        let (directory, is_running) = (self.context.places(&self.name).directory, self.process.is_some());
        let cleared = blocking(move || {
            // Whatever ends it is made good by the next one.
            let (course, _wanted) = Course::new(|_| ())?;
            removal::clear(&directory, &removal::Circumstances { is_running, held: &held }, &course);
            Ok(())
        });
        if let Err(error) = cleared.await {
            tracing::warn!(vm = self.name, %error, "its snapshots stay");
        }
        self.tell_snapshots().await;
    }

    /// Tells which snapshots there are.
    pub(super) async fn tell_snapshots(&self) {
        let directory = self.context.places(&self.name).directory;
        let found = blocking(move || Ok(snapshot::list(&directory).iter().map(shown).collect())).await;
        match found {
            Ok(found) => self.owner.send(Event::Vm(self.name.clone(), VmEvent::Snapshots(found))).await,
            Err(error) => tracing::warn!(vm = self.name, %error, "its snapshots cannot be listed"),
        }
    }
}

fn shown(taken: &Snapshot) -> status::Snapshot {
    let created = Timestamp::from_unix(taken.record.created);
    status::Snapshot { name: taken.name.clone(), created, deleting: taken.record.is_doomed }
}
