//! The part of the owner's state that is mounts.

use super::*;

impl MountRecord {
    /// A mount that has never served is its creator's business alone.
    pub(super) fn is_shown(&self) -> bool {
        self.phase != MountPhase::Starting
    }
}

impl Owner {
    pub(super) fn create_mount(
        &mut self,
        plan: Plan,
        prompter: Option<Prompter>,
        answer: Answer<status::Mount>,
    ) {
        if let Err(error) = self.check(&plan) {
            plan.undo_in_background();
            return drop(answer.send(Err(error)));
        }
        self.last_mount += 1;
        let id = MountId::new(self.last_mount);
        let (commands, arriving) = mpsc::channel(crate::mount::COMMANDS_MAX);
        let record = MountRecord {
            source: plan.source.clone(),
            place: plan.place.clone(),
            shown: plan.status(id),
            phase: MountPhase::Starting,
            commands,
        };
        self.mounts.insert(id, record);
        let context = self.surroundings.mounts.clone();
        tokio::spawn(crate::mount::run(context, self.handle.clone(), id, plan, prompter, arriving, answer));
    }

    fn check(&self, plan: &Plan) -> Result<(), ErrorObject> {
        if !matches!(self.course, Course::Serving) {
            return Err(ending());
        }
        if self.mounts.len() >= MOUNTS_MAX {
            return Err(ErrorObject::new(
                ErrorKind::Failure,
                format!("there are {MOUNTS_MAX} mounts already"),
            ));
        }
        let others = self.mounts.iter().map(|(id, record)| (*id, &record.place));
        crate::mount::plan::check_against(&plan.place, others)
    }

    pub(super) fn select_mounts(&self, target: &Target) -> Result<Vec<MountHandle>, ErrorObject> {
        let found = match target {
            Target::All => return Ok(self.handles(|_| true)),
            Target::Id(wanted) => self.handles(|id| id == *wanted),
            Target::Dir(dir) => self.handles(|id| self.mounts[&id].place.dir.as_path() == dir.as_path()),
        };
        if !found.is_empty() {
            return Ok(found);
        }
        let message = match target {
            Target::Dir(dir) => format!("`{dir}` is not a mount of this daemon"),
            Target::Id(id) => format!("there is no mount {id}"),
            Target::All => unreachable!("all mounts were returned above"),
        };
        Err(ErrorObject::new(ErrorKind::NotFound, message).with_hint("stead status --show mounts"))
    }

    /// Those that are wanted, the inner ones first.
    pub(super) fn handles(&self, wanted: impl Fn(MountId) -> bool) -> Vec<MountHandle> {
        let chosen = self.mounts.iter().filter(|(id, _)| wanted(**id));
        let mut handles: Vec<MountHandle> = chosen
            .map(|(id, record)| MountHandle {
                id: *id,
                dir: ByteString::from(record.place.dir.as_path()),
                commands: record.commands.clone(),
            })
            .collect();
        let depth = |handle: &MountHandle| handle.dir.as_path().components().count();
        handles.sort_by_key(|handle| (std::cmp::Reverse(depth(handle)), handle.id));
        handles
    }

    pub(super) fn on_mount(&mut self, id: MountId, event: MountEvent) {
        let Some(record) = self.mounts.get_mut(&id) else {
            return;
        };
        match event {
            MountEvent::Serving { pid, ready } => {
                record.phase = MountPhase::Serving;
                record.shown.backend = ready.backend;
                record.shown.status = MountStatus::Active;
                record.shown.worker = Some(status::Worker { pid, restarts: 0 });
                record.shown.degraded = ready.degraded;
                record.shown.port = ready.port;
                record.shown.nfs = ready.nfs;
            }
            // A word that was on its way when the mount failed changes nothing.
            MountEvent::Status(_) if record.phase != MountPhase::Serving => {}
            MountEvent::Status(report) => {
                record.shown.status = report.status;
                record.shown.journal = report.journal;
                record.shown.counters = report.counters;
                if report.degraded.is_some() {
                    record.shown.degraded = report.degraded;
                }
            }
            MountEvent::Failed { reason } => {
                record.phase = MountPhase::Failed;
                record.shown.status = MountStatus::Failed { reason };
                record.shown.worker = None;
            }
            MountEvent::Ended => drop(self.mounts.remove(&id)),
        }
    }
}
