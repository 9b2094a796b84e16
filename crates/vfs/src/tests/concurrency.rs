//! The table between threads, as the file system uses it: every order of the steps between two locks.
//!
//! One name on the machine, looked up, changed from here, changed by others and told late, and forgotten, each by a
//! thread of its own. [`shuttle`] picks who goes on at every lock.

use std::collections::HashMap;

use shuttle::sync::atomic::{AtomicU64, Ordering};
use shuttle::sync::{Arc, Mutex};
use shuttle::thread;

use crate::file::{Attributes, Entry, FileId, Kind, Name};
use crate::source::{Change, Changed, Lease};
use crate::table::{Believe, Ino, Known, Limits, Moment, Notice, Table};
use crate::testing::Memory;

const ROUNDS: usize = 1000;

const NOW: Moment = Moment(0);

fn entry(inode: u64, kind: Kind) -> Entry {
    let attributes = Attributes { kind, ..Memory::new().root().attributes };
    Entry { id: FileId { device: 1, inode, birth: 0 }, attributes }
}

/// The machine: what the name is, and the epoch of its directory.
struct Machine {
    file: Option<u64>,
    next: u64,
    epoch: u64,
    is_leased: bool,
    /// Changes to look at and tell of.
    pending: u32,
}

struct World {
    table: Mutex<Table>,
    machine: Mutex<Machine>,
    told: AtomicU64,
    believed: Mutex<HashMap<Name, Option<u64>>>,
    given: Mutex<Vec<Ino>>,
    /// The kernel changes or looks up one name of a directory at a time.
    directory: Mutex<()>,
    name: Name,
}

impl World {
    fn new() -> Arc<World> {
        Arc::new(World {
            table: Mutex::new(Table::new(entry(1, Kind::Directory), Limits { idle_nodes: 0 }, NOW)),
            machine: Mutex::new(Machine { file: Some(2), next: 3, epoch: 1, is_leased: false, pending: 0 }),
            told: AtomicU64::new(0),
            believed: Mutex::new(HashMap::new()),
            given: Mutex::new(Vec::new()),
            directory: Mutex::new(()),
            name: (*b"x").into(),
        })
    }

    fn table<T>(&self, act: impl FnOnce(&mut Table, &mut Vec<Notice>) -> T) -> T {
        let mut notices = Vec::new();
        let outcome = act(&mut self.table.lock().expect("no panic"), &mut notices);
        if !notices.is_empty() {
            self.told.fetch_add(1, Ordering::SeqCst);
        }
        for notice in notices {
            if let Notice::Name { name, .. } | Notice::Replaced { name, .. } = notice {
                self.believed.lock().expect("no panic").remove(&name);
            }
        }
        outcome
    }

    /// What the kernel is told arrives; it may have overtaken what takes it back.
    fn arrive(&self, known: Known, told: u64) {
        let (file, believe) = match known {
            Known::Absent(believe) => (None, believe),
            Known::Present(ino, believe) => {
                let id = self.table.lock().expect("no panic").id(ino).expect("it was given");
                (Some(id.inode), believe)
            }
        };
        if believe == Believe::Leased {
            self.believed.lock().expect("no panic").insert(self.name.clone(), file);
        }
        if believe != Believe::Leased || self.told.load(Ordering::SeqCst) != told {
            self.believed.lock().expect("no panic").remove(&self.name);
        }
    }

    fn give(&self, table: &mut Table, known: Known) -> Known {
        if let Known::Present(ino, _) = known {
            table.add_lookup(ino);
            self.given.lock().expect("no panic").push(ino);
        }
        known
    }

    fn look_up(&self) {
        let _directory = self.directory.lock().expect("no panic");
        if self.believed.lock().expect("no panic").contains_key(&self.name) {
            return;
        }
        let told = self.told.load(Ordering::SeqCst);
        let known = self.table(|table, _| {
            let known = table.lookup(Ino::ROOT, &self.name, NOW).expect("the root")?;
            Some(self.give(table, known))
        });
        let known = known.unwrap_or_else(|| self.ask());
        self.arrive(known, told);
    }

    fn ask(&self) -> Known {
        let ticket = self.table(|table, _| table.ticket(Ino::ROOT).expect("the root"));
        let (file, epoch) = {
            let mut machine = self.machine.lock().expect("no panic");
            machine.is_leased = true;
            (machine.file, machine.epoch)
        };
        let reply = (ticket, Some(Lease { epoch, valid_ms: 0 }));
        self.table(|table, notices| {
            let told = file.map(|file| entry(file, Kind::File));
            let known = table.learn(Ino::ROOT, &self.name, told, reply, NOW, notices).expect("the root");
            self.give(table, known)
        })
    }

    /// The name becomes a new file, or nothing, by a change made from here. The machine does not tell of it.
    fn change(&self, make: bool) {
        let _directory = self.directory.lock().expect("no panic");
        let told = self.told.load(Ordering::SeqCst);
        let begun = self.table(|table, _| table.begin_change(Ino::ROOT).expect("the root"));
        let file = {
            let mut machine = self.machine.lock().expect("no panic");
            machine.next += 1;
            machine.file = make.then_some(machine.next);
            machine.file
        };
        let known = self.table(|table, notices| {
            let ticket = table.end_change(Ino::ROOT, begun);
            let outcome = (file.map(|file| entry(file, Kind::File)), None);
            let known = table.changed_here(Ino::ROOT, &self.name, outcome, ticket, NOW, notices);
            self.give(table, known.expect("the root"))
        });
        self.arrive(known, told);
    }

    /// Another program changes the name.
    fn change_elsewhere(&self) {
        let mut machine = self.machine.lock().expect("no panic");
        machine.next += 1;
        machine.file = if machine.next.is_multiple_of(3) { None } else { Some(machine.next) };
        machine.pending += u32::from(machine.is_leased);
    }

    /// The machine looks at a change, and tells what it saw a step later.
    fn tell(&self) {
        let file = {
            let mut machine = self.machine.lock().expect("no panic");
            let Some(pending) = machine.pending.checked_sub(1) else { return };
            machine.pending = pending;
            machine.file
        };
        let epoch = {
            let mut machine = self.machine.lock().expect("no panic");
            machine.epoch += 1;
            machine.epoch
        };
        let name = self.name.clone();
        let what = match file {
            Some(file) => Change::Present { name, entry: entry(file, Kind::File) },
            None => Change::Absent { name },
        };
        let directory = entry(1, Kind::Directory).id;
        self.table(|table, notices| {
            table.apply(Changed { directory, epoch, what, attributes: None }, notices)
        });
    }

    /// What the table would answer, without being asked.
    fn known(&self) -> Option<(Option<u64>, Believe)> {
        let table = &mut *self.table.lock().expect("no panic");
        Some(match table.lookup(Ino::ROOT, &self.name, NOW).expect("the root")? {
            Known::Absent(believe) => (None, believe),
            Known::Present(ino, believe) => (Some(table.id(ino).expect("it is there").inode), believe),
        })
    }

    fn forget(&self) {
        let _directory = self.directory.lock().expect("no panic");
        self.believed.lock().expect("no panic").clear();
        let given = std::mem::take(&mut *self.given.lock().expect("no panic"));
        given.into_iter().for_each(|ino| self.table(|table, _| table.forget(ino, 1)));
    }
}

/// What the threads do, two rounds each.
fn run(does: &'static [fn(&World, u32)]) {
    let world = World::new();
    let threads: Vec<_> = does
        .iter()
        .map(|act| {
            let world = world.clone();
            thread::spawn(move || (0..2).for_each(|round| act(&world, round)))
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
    while world.machine.lock().expect("no panic").pending > 0 {
        world.tell();
    }
    let now = world.machine.lock().expect("no panic").file;
    if let Some(believed) = world.believed.lock().expect("no panic").get(&world.name) {
        assert_eq!(*believed, now);
    }
    if let Some((known, Believe::Leased)) = world.known() {
        assert_eq!(known, now, "the next question is answered with this");
    }
    world.forget();
    assert_eq!(world.table.lock().expect("no panic").census().nodes, 1);
}

fn look_up(world: &World, _round: u32) {
    world.look_up();
}

/// As of a protocol whose client does not take turns.
fn look_up_at_any_time(world: &World, _round: u32) {
    world.ask();
}

fn change(world: &World, round: u32) {
    world.change(round == 1);
}

fn change_elsewhere(world: &World, _round: u32) {
    world.change_elsewhere();
    world.tell();
}

fn forget(world: &World, _round: u32) {
    world.forget();
}

#[test]
fn in_no_order_of_steps_does_a_wrong_belief_or_a_lost_count_remain() {
    for does in [
        &[look_up, change_elsewhere] as &'static [fn(&World, u32)],
        &[look_up_at_any_time, change],
        &[look_up, look_up, change_elsewhere, forget],
        &[look_up, change, change_elsewhere],
        &[look_up_at_any_time, change, change_elsewhere, forget],
    ] {
        shuttle::check_random(move || run(does), ROUNDS);
        shuttle::check_pct(move || run(does), ROUNDS, 3);
    }
}
