//! The part of the owner's state that is mounts.

use wire::api::status::{Aside, Left, Replayed};

use super::*;
use crate::mount::adoption;
use crate::mount::monitor::KeeperTakeover;
use crate::mount::probe::{FuseProbe, MountProbe, NfsProbe};

/// Why something was put aside on the machine.
const CONTENT_CHANGED: &str = "the file on the machine is not what was written to any more";

/// What is known of a replay after more was said of it. A worker that was not there when it began knows only what is left.
fn after(known: Replayed, said: Replayed) -> Replayed {
    let mut aside = known.aside;
    aside.extend(said.aside.into_iter().filter(|new| !aside.contains(new)).collect::<Vec<_>>());
    Replayed {
        writes: known.writes.max(said.writes),
        bytes: known.bytes.max(said.bytes),
        aside,
        more: known.more.max(said.more),
        ..said
    }
}

impl MountRecord {
    /// A mount that has never served is its creator's business alone.
    pub(super) fn is_shown(&self) -> bool {
        self.phase != MountPhase::Starting
    }

    fn change(&mut self, change: Change) {
        self.standing = std::mem::replace(&mut self.standing, Standing::serving()).on(change);
        self.shown.status = self.standing.status();
        self.shown.reason = self.standing.reason().map(str::to_owned);
        self.shown.health = self.standing.health().clone();
    }

    fn reconnect_worker(&self, id: MountId) {
        // A task with so many commands before it is busy with the mount's end.
        if self.phase == MountPhase::Serving && self.commands.try_send(Command::Reconnect).is_err() {
            tracing::debug!(mount = %id, "the mount is not told that its machine is back");
        }
    }

    /// Begins to watch over a mount that serves.
    fn watch(&self, id: MountId, how: &Monitoring, takeover: KeeperTakeover, owner: OwnerHandle) -> Monitor {
        Monitor::start(id, self.probe(id, how), takeover, how.interval, owner)
    }

    /// How it is found out whether it answers.
    fn probe(&self, id: MountId, how: &Monitoring) -> Arc<dyn MountProbe> {
        let mount = MountHandle { id, dir: self.shown.dir.clone(), commands: self.commands.clone() };
        match self.shown.port {
            Some(port) => Arc::new(NfsProbe { port, mount }),
            None => Arc::new(FuseProbe::new(self.place.dir.clone(), how.probe.clone(), mount)),
        }
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
        let id = self.new_mount_id();
        let arriving = self.know_mount(id, &plan);
        let context = self.surroundings.mounts.clone();
        tokio::spawn(crate::mount::run(context, self.handle.clone(), id, plan, prompter, arriving, answer));
    }

    /// A mount's id that was not used before.
    pub(super) fn new_mount_id(&mut self) -> MountId {
        self.last_mount += 1;
        MountId::new(self.last_mount)
    }

    /// Makes a record of a mount that does not serve yet. Returns where its task's commands arrive.
    pub(super) fn know_mount(&mut self, id: MountId, plan: &Plan) -> mpsc::Receiver<Command> {
        let (commands, arriving) = mpsc::channel(crate::mount::COMMANDS_MAX);
        let record = MountRecord {
            source: plan.source.clone(),
            place: plan.place.clone(),
            shown: plan.status(id),
            phase: MountPhase::Starting,
            commands,
            reconnect: plan.reconnect,
            standing: Standing::serving(),
            announced: None,
            kept_aside: Vec::new(),
            earlier: Default::default(),
            monitor: None,
        };
        self.mounts.insert(id, record);
        arriving
    }

    /// Goes on with a mount that a daemon before this one has made. It is shown from now on.
    pub(super) fn adopt_mount(&mut self, adopted: adoption::Adopted) {
        let id = adopted.row.id;
        self.last_mount = self.last_mount.max(id.number());
        let arriving = self.know_mount(id, &adopted.plan);
        let ready = Box::new(adopted.terms.ready.clone());
        match &adopted.found {
            adoption::Standing::Serving(worker) => {
                let (pid, restarts) = worker.serving().unwrap_or_default();
                self.on_mount(id, MountEvent::Serving { pid, ready });
                match pid {
                    0 => {
                        let why = match worker.identities() {
                            (None, _) => "its keeper does not answer",
                            (Some(_), _) => "its worker died",
                        };
                        self.on_mount(id, MountEvent::WorkerLost { why: why.to_owned() });
                    }
                    pid => self.on_mount(id, MountEvent::WorkerServes { pid, restarts }),
                }
            }
            adoption::Standing::Failed { reason } => {
                if let Some(record) = self.mounts.get_mut(&id) {
                    record.shown.backend = ready.backend;
                }
                self.on_mount(id, MountEvent::Failed { reason: reason.clone() });
                let state_dir = self.surroundings.mounts.paths.mount_state_dir(id);
                if let Some(crash) = crate::mount::last_crash(&state_dir) {
                    self.on_mount(id, MountEvent::Crashed(crash));
                }
            }
        }
        let context = self.surroundings.mounts.clone();
        tokio::spawn(crate::mount::go_on(context, self.handle.clone(), adopted, arriving));
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
        if let Source::Thread { name } = &plan.source
            && let Some(mount) = self.mount_of(name)
        {
            let dir = self.mounts[&mount].place.dir.display();
            let message = format!("the thread `{name}` is already mounted at `{dir}`");
            return Err(
                ErrorObject::new(ErrorKind::Conflict, message).with_hint(format!("stead unmount {mount}"))
            );
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
        let (handle, monitoring) = (self.handle.clone(), self.surroundings.monitoring.clone());
        let takeover = match &event {
            MountEvent::Serving { .. } => Some(self.takeover(id)),
            _ => None,
        };
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
                record.shown.replayed = ready.replayed;
                record.monitor = takeover.map(|takeover| record.watch(id, &monitoring, takeover, handle));
            }
            // These tell of what a mount that serves no more was doing.
            MountEvent::WorkerLost { .. } | MountEvent::WorkerServes { .. } | MountEvent::Probed(_)
                if record.phase != MountPhase::Serving => {}
            MountEvent::WorkerLost { why } => {
                record.shown.worker = None;
                record.change(Change::WorkerLost { why });
            }
            MountEvent::WorkerServes { pid, restarts } => {
                record.shown.worker = Some(status::Worker { pid, restarts });
                // One that was only not heard for a while counts on.
                if restarts > record.earlier.1 {
                    record.earlier = (record.shown.counters, restarts);
                }
                record.change(Change::WorkerServes);
            }
            MountEvent::Crashed(crash) => record.shown.crash = Some(crash),
            MountEvent::Replayed(replayed) => return self.note_replayed(id, *replayed),
            MountEvent::Probed(health) => record.change(Change::Probed(health)),
            // A word that was on its way when the mount failed changes nothing.
            MountEvent::Status(_) if record.phase != MountPhase::Serving => {}
            MountEvent::Status(report) => {
                record.change(Change::Said { status: report.status, why: report.reason });
                record.shown.journal = report.journal;
                record.shown.counters = record.earlier.0.plus(report.counters);
                record.shown.operations = report.operations;
                if report.degraded.is_some() {
                    record.shown.degraded = report.degraded;
                }
                self.tell_kept_aside(id, report.kept_aside);
                if let Some(replayed) = report.replayed {
                    self.note_replayed(id, replayed);
                }
            }
            MountEvent::Failed { reason } => {
                record.phase = MountPhase::Failed;
                record.change(Change::Failed { reason });
                record.shown.worker = None;
                record.monitor = None;
            }
            MountEvent::Ended => return self.forget_mount(id),
        }
        self.announce_mount(id);
    }

    /// How another worker is put in the place of one that hangs.
    fn takeover(&self, id: MountId) -> KeeperTakeover {
        let state_dir = self.surroundings.mounts.paths.mount_state_dir(id);
        let dir = self.mounts.get(&id).map(|record| record.place.dir.as_path());
        let is_outer = |other: &MountRecord| {
            dir.is_some_and(|dir| dir != other.place.dir && dir.starts_with(&other.place.dir))
        };
        let outer = self.mounts.iter().filter(|(_, other)| is_outer(other));
        let outer = outer.map(|(id, other)| other.probe(*id, &self.surroundings.monitoring)).collect();
        KeeperTakeover { state_dir, outer }
    }

    /// Tells what a mount has become, if that is another word than the last one.
    fn announce_mount(&mut self, id: MountId) {
        let Some(record) = self.mounts.get_mut(&id).filter(|record| record.is_shown()) else {
            return;
        };
        let (state, reason) = record.standing.news();
        if record.announced.replace(state) == Some(state) {
            return;
        }
        let dir = record.shown.dir.clone();
        self.bus.publish(Happened::Mount { id, dir, state, reason, path: None, of: None }, now());
    }

    /// Tells of files that were kept aside since the last report.
    fn tell_kept_aside(&mut self, id: MountId, paths: Vec<ByteString>) {
        let Some(record) = self.mounts.get_mut(&id) else {
            return;
        };
        for path in &paths {
            if !record.kept_aside.contains(path) {
                let (dir, state) = (record.shown.dir.clone(), MountWord::KeptAside);
                let path = Some(path.clone());
                self.bus.publish(Happened::Mount { id, dir, state, reason: None, path, of: None }, now());
            }
        }
        record.kept_aside = paths;
    }

    /// Notes what has become of what earlier mounts had not saved. Tells of what had to be put aside and of what stays
    /// unsaved, each once.
    fn note_replayed(&mut self, id: MountId, replayed: Replayed) {
        let Some(record) = self.mounts.get_mut(&id) else { return };
        let known = record.shown.replayed.take().unwrap_or_default();
        let (dir, state) = (&record.shown.dir, MountWord::KeptAside);
        let happened = |reason: &str, path: &ByteString, of: Option<&ByteString>| {
            let (path, of) = (Some(path.clone()), of.cloned());
            Happened::Mount { id, dir: dir.clone(), state, reason: Some(reason.to_owned()), path, of }
        };
        let mut told = Vec::new();
        for Aside { of, path } in replayed.aside.iter().filter(|aside| !known.aside.contains(aside)) {
            told.push(happened(CONTENT_CHANGED, path, Some(of)));
        }
        let was_left = |path: &ByteString| known.left.iter().any(|left| left.path == *path);
        for Left { path, reason } in replayed.left.iter().filter(|left| !was_left(&left.path)) {
            told.push(happened(reason, path, None));
        }
        record.shown.replayed = Some(after(known, replayed));
        told.into_iter().for_each(|happened| self.bus.publish(happened, now()));
    }

    fn forget_mount(&mut self, id: MountId) {
        let Some(record) = self.mounts.remove(&id).filter(MountRecord::is_shown) else {
            return;
        };
        self.doubt_thread(&record.source);
        let (dir, state) = (record.shown.dir, MountWord::Unmounted);
        self.bus.publish(Happened::Mount { id, dir, state, reason: None, path: None, of: None }, now());
    }

    /// Lets the mounts of a machine follow its connection.
    pub(super) fn connection_changed(
        &mut self,
        machine: &Machine,
        state: ConnectionState,
        why: Option<String>,
    ) {
        let follows = |record: &MountRecord| record.place.machine() == Some(machine);
        let ids: Vec<MountId> =
            self.mounts.iter().filter(|(_, record)| follows(record)).map(|(id, _)| *id).collect();
        for id in ids {
            let Some(record) = self.mounts.get_mut(&id) else {
                continue;
            };
            record.change(Change::Connection { state, why: why.clone() });
            if state == ConnectionState::Connected && record.reconnect == Reconnect::Automatic {
                record.reconnect_worker(id);
            }
            self.announce_mount(id);
        }
        if state == ConnectionState::Connected {
            self.say_goodbyes(machine);
        }
    }

    /// Has those mounts of a machine open their links again that do not by themselves.
    pub(super) fn reconnect_mounts(&self, machine: &Machine) {
        let waits = |record: &MountRecord| record.reconnect == Reconnect::Never;
        let of_machine = self.mounts.iter().filter(|(_, record)| record.place.machine() == Some(machine));
        for (id, record) in of_machine.filter(|(_, record)| waits(record)) {
            record.reconnect_worker(*id);
        }
    }
}
