//! Random edits on two directories, one of them behind a real agent; cuts and restarts; against what must be true in the end.
//!
//! `STEAD_MODEL_RUNS=200 cargo test -p mount random_edits` for more seeds, `STEAD_MODEL_SEED=7` for one again.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::{env, fs};

use bytes::Bytes;
use tempfile::TempDir;
use vfs::replica::item::{Item, ItemId, SideName};
use vfs::replica::names::NameRules;
use vfs::replica::{Outcome, Replica};
use wire::agent::HandleId;
use wire::agent::file::{FileReply, FileRequest, Time};

use super::disk::Disk;
use super::users::Users;
use super::{directory, line};
use crate::far::{Far, Line, LineError, StreamLine};

/// More than any run of so few edits needs: beyond it, two rules undo each other for ever.
const STEPS_MAX: usize = 2_000;

/// Runs that are made in any case; each takes about a second of a processor.
const RUNS: u64 = 6;

/// What goes wrong.
#[derive(Clone, Copy, Default)]
struct Faults {
    /// Of so many requests one is cut before it is sent, and one when it has been answered; 0 for none.
    cuts: usize,
    /// Before one of so many requests a user does something; 0 for none.
    meddling: usize,
}

/// A line that is cut, at whose other end people work.
struct Faulty {
    line: StreamLine,
    is_cut: bool,
    faults: Rc<RefCell<Faults>>,
    users: Rc<RefCell<Users>>,
}

impl Faulty {
    fn lost<T>(&mut self) -> Result<T, LineError> {
        self.is_cut = true;
        Err(LineError::Lost("cut by the test".to_owned()))
    }

    fn is_hit(&self, of: usize) -> bool {
        of > 0 && self.users.borrow_mut().random.below(of) == 0
    }

    fn ask_with<T>(
        &mut self,
        ask: impl FnOnce(&mut StreamLine) -> Result<T, LineError>,
    ) -> Result<T, LineError> {
        let faults = *self.faults.borrow();
        if self.is_hit(faults.meddling) {
            self.users.borrow_mut().meddle(1);
        }
        if self.is_cut || self.is_hit(faults.cuts) {
            return self.lost();
        }
        let answer = ask(&mut self.line)?;
        if self.is_hit(faults.cuts) { self.lost() } else { Ok(answer) }
    }
}

impl Line for Faulty {
    fn ask(&mut self, request: FileRequest, payload: &[u8]) -> Result<(FileReply, Bytes), LineError> {
        self.ask_with(|line| line.ask(request, payload))
    }

    fn pages(
        &mut self,
        request: FileRequest,
        take: &mut dyn FnMut(FileReply, Bytes) -> ControlFlow<()>,
    ) -> Result<(), LineError> {
        self.ask_with(|line| line.pages(request, take))
    }

    fn clock(&mut self) -> Result<Time, LineError> {
        self.ask_with(StreamLine::clock)
    }

    fn new_handle(&mut self) -> HandleId {
        self.line.new_handle()
    }
}

struct Model {
    /// Both trees and the database.
    place: TempDir,
    replica: Replica,
    here: Disk,
    there: Far<Faulty>,
    faults: Rc<RefCell<Faults>>,
    users: Rc<RefCell<Users>>,
}

impl Model {
    fn new(seed: u64) -> Model {
        let place = directory();
        let [near, far] = ["here", "there"].map(|name| place.path().join(name));
        fs::create_dir(&near).unwrap();
        fs::create_dir(&far).unwrap();
        let users = Rc::new(RefCell::new(Users::new(seed, &near, &far)));
        let faults = Rc::default();
        let here = Disk::new(&near, &users);
        let there = Far::attach(faulty(&faults, &users), far.as_os_str().as_encoded_bytes()).unwrap();
        let replica = open(place.path(), &here, &there);
        Model { place, replica, here, there, faults, users }
    }

    /// Another process goes on with what is on the disk.
    fn restart(&mut self) {
        *self.faults.borrow_mut() = Faults::default();
        let path = self.users.borrow().there.clone();
        let line = faulty(&self.faults, &self.users);
        self.there = Far::attach(line, path.as_os_str().as_encoded_bytes()).unwrap();
        self.replica = open(self.place.path(), &self.here, &self.there);
        self.there.learn(&mut self.replica).unwrap();
    }

    fn connect(&mut self) {
        if self.there.line().is_cut {
            let faults = self.faults.replace(Faults::default());
            assert!(self.there.go_on_with(faulty(&self.faults, &self.users)).unwrap());
            *self.faults.borrow_mut() = faults;
        }
    }

    fn look(&mut self) -> bool {
        self.connect();
        let here = self.replica.look(SideName::Here, &mut self.here).unwrap();
        here.is_ok() && self.replica.look(SideName::There, &mut self.there).unwrap().is_ok()
    }

    /// Steps until something has to be looked at again, or this many. Whether all is settled.
    fn step(&mut self, most: usize) -> bool {
        for _ in 0..most {
            match self.replica.step(&mut self.here, &mut self.there).unwrap() {
                Outcome::Stepped => {}
                Outcome::Settled => return true,
                Outcome::LookAgain | Outcome::Cut => return false,
            }
        }
        false
    }

    fn settle(&mut self) {
        *self.faults.borrow_mut() = Faults::default();
        for _ in 0..8 {
            assert!(self.look());
            if self.step(STEPS_MAX) {
                return;
            }
        }
        panic!("the sides do not come together: {:#?}", self.items());
    }

    fn items(&mut self) -> Vec<Item> {
        let mut items = Vec::new();
        let mut waiting = vec![ItemId::ROOT];
        while let Some(id) = waiting.pop() {
            let children = self.replica.children(id).unwrap();
            waiting.extend(children.iter().map(|item| item.id));
            items.extend(children);
        }
        items
    }

    /// Brings all bytes of a file here, unless the line is cut.
    fn fetch(&mut self, item: &Item) -> bool {
        let Some(here) = &item.here else { return true };
        let Some(mut fetch) = self.replica.fetch(item.id, 0..here.size).unwrap() else { return false };
        let parent = self.replica.item(here.parent).unwrap().unwrap().here.unwrap().identity;
        let at = vfs::replica::side::At { identity: here.identity.clone(), parent, name: here.name.clone() };
        loop {
            match fetch.next(&mut self.there) {
                Ok(Some((offset, bytes))) => {
                    self.here.fill(&at, &here.content, offset, &bytes);
                    let piece = offset..offset + bytes.len() as u64;
                    assert!(self.replica.fetched(&fetch, piece).unwrap());
                }
                Ok(None) => return true,
                Err(_) => return false,
            }
        }
    }

    /// Both sides have the same, and nothing that anybody wrote is lost.
    fn check(&mut self) {
        for item in self.items() {
            assert!(item.is_settled(), "{item:?}");
            assert_eq!(item.refused, None);
            assert!(item.kind == vfs::replica::item::Kind::Directory || self.fetch(&item), "{item:?}");
        }
        let (here, there) = (self.users.borrow().here.clone(), self.users.borrow().there.clone());
        let (here, mut there) = (tree(&here), tree(&there));
        // What a cut has left of something that was to be sent stays a day, and is not shown.
        there.retain(|path, _| here.contains_key(path) || !is_unsent(path));
        assert_eq!(here.keys().collect::<Vec<_>>(), there.keys().collect::<Vec<_>>());
        for (path, near) in &here {
            let far = &there[path];
            assert_eq!(near.0, far.0, "permissions of {}", path.display());
            assert!(near.1 == far.1, "{} differs: {:?} {:?}", path.display(), head(&near.1), head(&far.1));
        }
        let kept: Vec<&[u8]> = there.values().filter_map(|(_, content)| content.as_deref()).collect();
        for content in &self.users.borrow().live {
            let is_kept = kept.contains(&&content[..]);
            assert!(is_kept, "{} is lost", String::from_utf8_lossy(&content[..8]));
        }
    }
}

fn faulty(faults: &Rc<RefCell<Faults>>, users: &Rc<RefCell<Users>>) -> Faulty {
    Faulty { line: line(), is_cut: false, faults: Rc::clone(faults), users: Rc::clone(users) }
}

fn open(place: &Path, here: &Disk, there: &Far<Faulty>) -> Replica {
    let mut replica = Replica::open(&place.join("replica"), NameRules::Posix, "box").unwrap();
    assert!(!replica.set_root(SideName::Here, here.root()).unwrap());
    assert!(!replica.set_root(SideName::There, there.root().clone()).unwrap());
    replica
}

fn is_unsent(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b".stead-sending-"))
}

/// The length of a content, and how it begins.
fn head(content: &Option<Vec<u8>>) -> (usize, String) {
    let content = content.as_deref().unwrap_or_default();
    (content.len(), String::from_utf8_lossy(&content[..content.len().min(9)]).into_owned())
}

/// Permissions and content of everything below a directory.
fn tree(root: &Path) -> BTreeMap<PathBuf, (u32, Option<Vec<u8>>)> {
    let (mut tree, mut waiting) = (BTreeMap::new(), vec![root.to_owned()]);
    while let Some(directory) = waiting.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let found = fs::symlink_metadata(&path).unwrap();
            let content = (!found.is_dir()).then(|| fs::read(&path).unwrap());
            if found.is_dir() {
                waiting.push(path.clone());
            }
            let mode = found.permissions().mode() & 0o7777;
            tree.insert(path.strip_prefix(root).unwrap().to_owned(), (mode, content));
        }
    }
    tree
}

fn run(seed: u64) {
    let mut model = Model::new(seed);
    for _ in 0..5 {
        let below = |model: &Model, limit| model.users.borrow_mut().random.below(limit);
        let faults = Faults { cuts: [0, 15, 60][below(&model, 3)], meddling: [0, 20, 80][below(&model, 3)] };
        let (edits, steps) = (1 + below(&model, 8), below(&model, 40));
        model.users.borrow_mut().meddle(edits);
        *model.faults.borrow_mut() = faults;
        if model.look() {
            model.step(steps);
        }
        match below(&model, 4) {
            0 => model.restart(),
            1 => {
                model.settle();
                model.check();
            }
            _ => {}
        }
    }
    model.restart();
    model.settle();
    model.check();
    // Nothing comes of looking at what has not changed.
    let anchor = model.replica.anchor().unwrap();
    assert!(model.look() && model.step(1));
    assert_eq!(model.replica.anchor().unwrap(), anchor);
}

#[test]
fn random_edits_on_two_disks_end_in_the_same_tree() {
    let number = |name: &str| env::var(name).ok().and_then(|number| number.parse::<u64>().ok());
    if let Some(seed) = number("STEAD_MODEL_SEED") {
        return run(seed);
    }
    let runs = 0..number("STEAD_MODEL_RUNS").unwrap_or(RUNS);
    let failed: Vec<u64> = runs.filter(|seed| std::panic::catch_unwind(|| run(*seed)).is_err()).collect();
    assert!(failed.is_empty(), "STEAD_MODEL_SEED is one of {failed:?}");
}
