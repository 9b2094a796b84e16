//! What was on the disk of a microVM, taken and let go by its task: see [`machine::snapshot`].
//!
//! A snapshot of which another microVM is being made is held until that has its disk, or is given up. Those that are to go are looked
//! at again at each occasion at which they may: one is deleted, a microVM that was made of one is deleted or was not made, this one
//! stops or is taken over.
//!
//! Putting disks together takes as long as there is to write, and is called off for whatever else the microVM is told to do, which does
//! not wait for it, and by the end of whoever has asked for it. It begins anew once the microVM has nothing else to do, or at the next
//! occasion.

use std::collections::BTreeSet;
use std::sync::Arc;

use machine::capability::Base;
use machine::course::{Client, Course};
use machine::snapshot::removal::{self, Circumstances, Stays};
use machine::snapshot::{self, Purpose, Snapshot};
use wire::api::time::Timestamp;
use wire::api::{ErrorObject, status};

use super::{COMMANDS_MAX, Command, Vm, VmEvent, blocking, from_machine};
use crate::owner::{Answer, Event};

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

    /// Lets one go, for as long as whoever asks is there. Answered with those whose disks it is there for yet.
    pub(super) async fn delete_snapshot(&mut self, name: String, mut answer: Answer<Vec<String>>) {
        let directory = self.context.places(&self.name).directory;
        let (held, is_running) = self.circumstances();
        let (vm, doomed) = (directory.clone(), name.clone());
        let marked = blocking(move || {
            let now = Circumstances { is_running, held: &held, free: removal::free_bytes };
            removal::doom(&vm, &doomed, &now)
        });
        if let Err(error) = marked.await {
            // Whoever asked may have gone.
            drop(answer.send(Err(error)));
            return;
        }
        self.stay.remove(&name);
        self.tell_snapshots().await;
        self.clear_for(Some(&mut answer)).await;
        let deleted = match self.stay.get(&name) {
            // Called off for something else that is to be done, it is tried again after that.
            Some(Stays::Failed(error)) if !self.is_uncleared => Err(from_machine(error)),
            _ => {
                let users = blocking(move || removal::users(&directory, &name)).await;
                users.map(|users| users.into_iter().collect())
            }
        };
        drop(answer.send(deleted));
    }

    /// Lets those go that are to go and can. Ends early if the microVM is told to do something else.
    pub(super) async fn clear_snapshots(&mut self) {
        self.clear_for(None).await;
    }

    async fn clear_for(&mut self, mut asker: Option<&mut Answer<Vec<String>>>) {
        self.is_uncleared = false;
        let (held, is_running) = self.circumstances();
        let directory = self.context.places(&self.name).directory;
        let made = Course::new(|_| ()).map_err(|error| from_machine(&error));
        let cleared = match made {
            Ok((course, client)) => {
                let clearing = blocking(move || {
                    let now = Circumstances { is_running, held: &held, free: removal::free_bytes };
                    Ok(removal::clear(&directory, &now, &course))
                });
                self.while_wanted(clearing, client, &mut asker).await
            }
            Err(error) => Err(error),
        };
        match cleared {
            Ok(stay) => self.stay = stay,
            Err(error) => tracing::warn!(vm = self.name, %error, "its snapshots stay"),
        }
        self.tell_snapshots().await;
    }

    /// Waits for the end of it, and calls it off once somebody wants something else to be done, or whoever wants it has gone.
    async fn while_wanted<T>(
        &mut self,
        work: impl Future<Output = T>,
        client: Client,
        asker: &mut Option<&mut Answer<Vec<String>>>,
    ) -> T {
        let mut client = Some(client);
        tokio::pin!(work);
        loop {
            let is_wanted = client.is_some();
            tokio::select! {
                biased;
                done = &mut work => return done,
                () = gone(asker), if is_wanted => client = None,
                command = self.commands.recv(), if is_wanted && self.pending.len() < COMMANDS_MAX => match command {
                    // What does not run is stopped already.
                    Some(Command::Stop(_, answer) | Command::Kill(answer))
                        if self.process.is_none() && self.pending.is_empty() =>
                    {
                        drop(answer.send(Ok(())));
                    }
                    Some(command) => {
                        if command.has_disks() {
                            (client, self.is_uncleared) = (None, true);
                        }
                        self.pending.push_back(command);
                    }
                    // The daemon ends.
                    None => client = None,
                },
            }
        }
    }

    /// The snapshots of which others are being made, and whether this one runs.
    fn circumstances(&mut self) -> (BTreeSet<String>, bool) {
        self.held.retain(|(_, hold)| hold.strong_count() > 0);
        (self.held.iter().map(|(name, _)| name.clone()).collect(), self.process.is_some())
    }

    /// Tells which snapshots there are.
    pub(super) async fn tell_snapshots(&self) {
        let directory = self.context.places(&self.name).directory;
        let found = blocking(move || Ok(snapshot::list(&directory))).await;
        match found {
            Ok(found) => {
                let found = found.iter().map(|taken| {
                    let reason = self.stay.get(&taken.name).map(|stays| stays.text().to_owned());
                    status::Snapshot { reason, ..shown(taken) }
                });
                let found = VmEvent::Snapshots(found.collect());
                self.owner.send(Event::Vm(self.name.clone(), found)).await;
            }
            Err(error) => tracing::warn!(vm = self.name, %error, "its snapshots cannot be listed"),
        }
    }
}

/// Once whoever asked has gone; never if nobody has.
async fn gone(asker: &mut Option<&mut Answer<Vec<String>>>) {
    match asker {
        Some(asker) => asker.closed().await,
        None => std::future::pending().await,
    }
}

fn shown(taken: &Snapshot) -> status::Snapshot {
    status::Snapshot {
        name: taken.name.clone(),
        created: Timestamp::from_unix(taken.record.created),
        deleting: taken.record.is_doomed,
        for_fork: taken.record.for_fork,
        reason: None,
    }
}
