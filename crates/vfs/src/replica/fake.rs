//! Two disks in memory, with users who do not wait, and a line that is cut.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Cursor, Read};
use std::rc::Rc;

use unicode_normalization::UnicodeNormalization;

use super::item::{Entry, Identity, Kind, SideName, Token};
use super::names::NameRules;
use super::plan::parked_item;
use super::side::{Answer, At, Facts, Here, Refusal, Side, There};

/// Numbers from a seed (SplitMix64).
#[derive(Clone)]
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut number = self.0;
        number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((number ^ (number >> 31)) % limit as u64) as usize
    }

    pub(super) fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}

/// What both disks know of: contents by version, which of them nobody has given up, and what goes wrong.
pub(super) struct World {
    pub(super) random: Random,
    pub(super) contents: BTreeMap<u64, Vec<u8>>,
    /// What users wrote and no user has written over or removed.
    pub(super) live: BTreeSet<Vec<u8>>,
    next: u64,
    /// Of so many calls one is cut before it does anything, and one after; 0 for none.
    pub(super) cuts: usize,
    /// Of so many calls one finds that a user was there just before; 0 for none.
    pub(super) meddling: usize,
}

impl World {
    pub(super) fn new(seed: u64) -> Rc<RefCell<World>> {
        Rc::new(RefCell::new(World {
            random: Random(seed),
            contents: BTreeMap::new(),
            live: BTreeSet::new(),
            next: 1,
            cuts: 0,
            meddling: 0,
        }))
    }

    fn next(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// A user does not want this content any more, wherever it is by now.
    fn give_up(&mut self, version: u64) {
        if let Some(content) = self.contents.get(&version) {
            self.live.remove(content);
        }
    }

    fn is_cut(&mut self) -> bool {
        self.cuts > 0 && self.random.below(self.cuts) == 0
    }
}

#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) parent: u64,
    pub(super) name: Vec<u8>,
    pub(super) kind: Kind,
    pub(super) mode: u16,
    /// Of a file: the version on the machine that it is, or was made from; 0 for none.
    pub(super) version: u64,
    /// Here: the version that a user has made of it.
    pub(super) edit: Option<u64>,
}

impl Node {
    /// Which content a user would find in it.
    pub(super) fn content(&self) -> u64 {
        self.edit.unwrap_or(self.version)
    }
}

pub(super) struct Disk {
    pub(super) side: SideName,
    pub(super) rules: NameRules,
    pub(super) nodes: BTreeMap<u64, Node>,
    /// Directories of a copy of which it is not known yet what is in them. macOS asks for that before anybody is answered who looks
    /// into one (TN3150), so who cannot reach the machine finds none of them empty, and removes none: neither by taking its name
    /// for another directory nor with all that is in it. A removal that was handed over without a look means whatever is in it, and
    /// has a test of its own.
    pub(super) unopened: BTreeSet<u64>,
    pub(super) world: Rc<RefCell<World>>,
}

pub(super) const ROOT: u64 = 0;

const NAMES: [&str; 9] =
    ["a", "A", "b", "c.txt", "C.TXT", "e\u{301}", "\u{e9}", "con", "a (conflict from box)"];

pub(super) fn identity(node: u64) -> Identity {
    node.to_le_bytes().into()
}

fn number(bytes: &[u8]) -> u64 {
    bytes.try_into().map_or(0, u64::from_le_bytes)
}

impl Disk {
    pub(super) fn new(side: SideName, rules: NameRules, world: &Rc<RefCell<World>>) -> Disk {
        let root =
            Node { parent: ROOT, name: Vec::new(), kind: Kind::Directory, mode: 0, version: 0, edit: None };
        let nodes = BTreeMap::from([(ROOT, root)]);
        Disk { side, rules, nodes, unopened: BTreeSet::new(), world: Rc::clone(world) }
    }

    fn key(&self, name: &[u8]) -> Vec<u8> {
        if self.side == SideName::There { name.to_vec() } else { self.rules.key(name).into() }
    }

    pub(super) fn named(&self, parent: u64, name: &[u8]) -> Option<u64> {
        let key = self.key(name);
        let is_it =
            |(id, node): &(&u64, &Node)| **id != ROOT && node.parent == parent && self.key(&node.name) == key;
        self.nodes.iter().find(is_it).map(|(id, _)| *id)
    }

    pub(super) fn children(&self, parent: u64) -> Vec<u64> {
        self.nodes
            .iter()
            .filter(|(id, node)| **id != ROOT && node.parent == parent)
            .map(|(id, _)| *id)
            .collect()
    }

    pub(super) fn is_within(&self, mut node: u64, directory: u64) -> bool {
        while node != ROOT {
            if node == directory {
                return true;
            }
            node = self.nodes[&node].parent;
        }
        directory == ROOT
    }

    fn add(&mut self, node: Node) -> u64 {
        let id = self.world.borrow_mut().next();
        self.nodes.insert(id, node);
        id
    }

    pub(super) fn stored_name(&self, name: &[u8]) -> Vec<u8> {
        match (self.side, self.rules) {
            (SideName::Here, NameRules::Mac) => {
                String::from_utf8_lossy(name).nfd().collect::<String>().into_bytes()
            }
            _ => name.to_vec(),
        }
    }

    /// A user does something.
    pub(super) fn meddle(&mut self) {
        let world = Rc::clone(&self.world);
        let mut random = world.borrow().random.clone();
        let all: Vec<u64> = self.nodes.keys().copied().collect();
        let directories: Vec<u64> =
            all.iter().copied().filter(|id| self.nodes[id].kind == Kind::Directory).collect();
        let (node, directory) = (*random.pick(&all), *random.pick(&directories));
        let name = match (self.side, random.pick(&NAMES).as_bytes()) {
            (SideName::Here, b"con") if self.rules == NameRules::Windows => b"co".to_vec(),
            (_, name) => self.stored_name(name),
        };
        let choice = random.below(13);
        let is_directory = self.nodes[&node].kind == Kind::Directory;
        world.borrow_mut().random = random;
        match choice {
            0..=2 => self.create(directory, &name),
            3 if self.named(directory, &name).is_none() => {
                let mode = 0o700;
                let kind = Kind::Directory;
                self.add(Node { parent: directory, name, kind, mode, version: 0, edit: None });
            }
            4 | 5 if !is_directory => self.write(node),
            6 | 7 if node != ROOT => self.move_over(node, directory, name),
            8 if node != ROOT && !self.is_unopened_within(node) => self.delete(node),
            9 if !is_directory => self.save_as_editors_do(node),
            10 if node != ROOT => {
                let node = self.nodes.get_mut(&node).unwrap();
                node.mode ^= 0o100;
            }
            11 if node != ROOT && self.world.borrow_mut().random.below(4) == 0 => self.change_kind(node),
            12 => self.exchange(node, *all.last().unwrap_or(&ROOT)),
            _ => {}
        }
    }

    pub(super) fn exchange(&mut self, one: u64, other: u64) {
        // Names of a moment are ours: whoever gives one to another file keeps it.
        let is_ours = [one, other].iter().any(|id| parked_item(&self.nodes[id].name).is_some());
        if is_ours || self.is_within(one, other) || self.is_within(other, one) {
            return;
        }
        let place = |node: &Node| (node.parent, node.name.clone());
        let (first, second) = (place(&self.nodes[&one]), place(&self.nodes[&other]));
        for (id, (parent, name)) in [(one, second), (other, first)] {
            let node = self.nodes.get_mut(&id).unwrap();
            (node.parent, node.name) = (parent, name);
        }
    }

    fn create(&mut self, parent: u64, name: &[u8]) {
        if self.named(parent, name).is_some() {
            return;
        }
        let (name, kind) = (name.to_vec(), Kind::File);
        let id = self.add(Node { parent, name, kind, mode: 0o600, version: 0, edit: None });
        self.write(id);
    }

    fn write(&mut self, id: u64) {
        let mut world = self.world.borrow_mut();
        let version = world.next();
        let length = 8 + world.random.below(4) * 3000;
        // Now and then two users write the same.
        let text = if world.random.below(8) == 0 {
            b"the same".to_vec()
        } else {
            format!("{version:08}").into_bytes()
        };
        let content: Vec<u8> = text.iter().copied().cycle().take(length).collect();
        let node = self.nodes.get_mut(&id).unwrap();
        world.give_up(node.content());
        world.live.insert(content.clone());
        world.contents.insert(version, content);
        match self.side {
            SideName::Here => node.edit = Some(version),
            SideName::There => node.version = version,
        }
    }

    fn delete(&mut self, id: u64) {
        for child in self.children(id) {
            self.delete(child);
        }
        if let Some(node) = self.nodes.remove(&id) {
            self.world.borrow_mut().give_up(node.content());
        }
    }

    fn is_unopened_within(&self, id: u64) -> bool {
        self.unopened.contains(&id)
            || self.children(id).into_iter().any(|child| self.is_unopened_within(child))
    }

    fn move_over(&mut self, id: u64, directory: u64, name: Vec<u8>) {
        if self.is_within(directory, id) {
            return;
        }
        if let Some(other) = self.named(directory, &name).filter(|other| *other != id) {
            if self.is_within(id, other) || !self.children(other).is_empty() || self.unopened.contains(&other)
            {
                return;
            }
            self.delete(other);
        }
        let node = self.nodes.get_mut(&id).unwrap();
        (node.parent, node.name) = (directory, name);
    }

    fn save_as_editors_do(&mut self, id: u64) {
        let node = self.nodes.remove(&id).unwrap();
        let before = node.content();
        let new = self.add(Node { version: 0, edit: None, ..node });
        self.write(new);
        self.world.borrow_mut().give_up(before);
    }

    fn change_kind(&mut self, id: u64) {
        let node = self.nodes[&id].clone();
        if parked_item(&node.name).is_some() || self.is_unopened_within(id) {
            return;
        }
        self.delete(id);
        if node.kind == Kind::Directory {
            self.create(node.parent, &node.name);
        } else {
            let (kind, mode) = (Kind::Directory, 0o700);
            self.add(Node { kind, mode, version: 0, edit: None, ..node });
        }
    }

    pub(super) fn directory(&mut self, parent: u64, name: &str) -> u64 {
        let (name, kind, mode) = (name.as_bytes().to_vec(), Kind::Directory, 0o700);
        self.add(Node { parent, name, kind, mode, version: 0, edit: None })
    }

    /// A file that was fetched from the machine, by the number of its version.
    pub(super) fn placeholder(
        &mut self,
        parent: u64,
        name: &[u8],
        kind: Kind,
        mode: u16,
        version: u64,
    ) -> u64 {
        let name = self.stored_name(name);
        let id = self.add(Node { parent, name, kind, mode, version, edit: None });
        if kind == Kind::Directory {
            self.unopened.insert(id);
        }
        id
    }

    /// Removes what no user removes.
    pub(super) fn drop_all(&mut self, id: u64) {
        for child in self.children(id) {
            self.drop_all(child);
        }
        self.nodes.remove(&id);
    }

    pub(super) fn put(&mut self, parent: u64, name: &str, content: &str) -> u64 {
        let (name, kind, mode) = (name.as_bytes().to_vec(), Kind::File, 0o600);
        let id = self.add(Node { parent, name, kind, mode, version: 0, edit: None });
        self.overwrite(id, content);
        id
    }

    pub(super) fn overwrite(&mut self, id: u64, content: &str) {
        let version = self.keep(content.as_bytes().to_vec());
        let node = self.nodes.get_mut(&id).unwrap();
        match self.side {
            SideName::Here => node.edit = Some(version),
            SideName::There => node.version = version,
        }
    }

    pub(super) fn rename_to(&mut self, id: u64, directory: u64, name: &str) {
        self.move_over(id, directory, name.as_bytes().to_vec());
    }

    pub(super) fn delete_all(&mut self, id: u64) {
        self.delete(id);
    }

    /// Every path, with its content, in order.
    pub(super) fn tree(&self) -> Vec<String> {
        let mut lines = Vec::new();
        self.lines(ROOT, "", &mut lines);
        lines.sort();
        lines
    }

    fn lines(&self, directory: u64, above: &str, lines: &mut Vec<String>) {
        for id in self.children(directory) {
            let node = &self.nodes[&id];
            let path = format!("{above}{}", String::from_utf8_lossy(&node.name));
            if node.kind == Kind::Directory {
                self.lines(id, &format!("{path}/"), lines);
                lines.push(path + "/");
            } else {
                let world = self.world.borrow();
                lines.push(format!("{path}={}", String::from_utf8_lossy(&world.contents[&node.content()])));
            }
        }
    }

    fn begin(&mut self) -> Answer<()> {
        let is_meddled = {
            let mut world = self.world.borrow_mut();
            world.meddling > 0 && {
                let often = world.meddling;
                world.random.below(often) == 0
            }
        };
        if is_meddled {
            self.meddle();
        }
        if self.world.borrow_mut().is_cut() { Err(Refusal::Cut) } else { Ok(()) }
    }

    fn end<T>(&mut self, done: T) -> Answer<T> {
        if self.world.borrow_mut().is_cut() { Err(Refusal::Cut) } else { Ok(done) }
    }

    fn find(&self, at: &At) -> Answer<u64> {
        let id = number(&at.identity);
        let is_there = self
            .nodes
            .get(&id)
            .is_some_and(|node| node.parent == number(&at.parent) && *node.name == *at.name);
        if is_there { Ok(id) } else { Err(Refusal::Changed) }
    }

    fn free(&self, parent: &Identity, name: &[u8]) -> Answer<u64> {
        let parent = number(parent);
        let is_directory = self.nodes.get(&parent).is_some_and(|node| node.kind == Kind::Directory);
        if is_directory && self.named(parent, name).is_none() { Ok(parent) } else { Err(Refusal::Changed) }
    }

    fn entry(&self, id: u64) -> Entry {
        let node = &self.nodes[&id];
        let world = self.world.borrow();
        let size = world.contents.get(&node.content()).map_or(0, |content| content.len() as u64);
        let token = |version: u64| if version == 0 { Token::default() } else { version.to_le_bytes().into() };
        Entry {
            identity: identity(id),
            name: node.name.clone().into(),
            kind: node.kind,
            mode: node.mode,
            size,
            content: token(node.version),
            edit: node.edit.map(token),
        }
    }

    fn made(&mut self, node: Node) -> Answer<Entry> {
        let id = self.add(node);
        self.end(self.entry(id))
    }

    fn read_all(content: &mut dyn Read) -> Answer<Vec<u8>> {
        let mut bytes = Vec::new();
        content.read_to_end(&mut bytes).map_err(|_| Refusal::Changed)?;
        Ok(bytes)
    }
}

impl Side for Disk {
    fn list(&mut self, directory: &Identity) -> Answer<Vec<Entry>> {
        self.begin()?;
        Ok(self.children(number(directory)).into_iter().map(|id| self.entry(id)).collect())
    }

    fn is_gone(&mut self, identity: &Identity) -> Answer<bool> {
        Ok(!self.nodes.contains_key(&number(identity)))
    }

    fn make_directory(&mut self, parent: &Identity, name: &[u8], mode: u16) -> Answer<Entry> {
        self.begin()?;
        let (parent, name) = (self.free(parent, name)?, self.stored_name(name));
        self.made(Node { parent, name, kind: Kind::Directory, mode, version: 0, edit: None })
    }

    fn rename(&mut self, from: &At, parent: &Identity, name: &[u8]) -> Answer<Entry> {
        self.begin()?;
        let (id, parent, name) = (self.find(from)?, number(parent), self.stored_name(name));
        // No system tells a name that is its own already from another's. It may differ in capitals.
        let is_taken = self.named(parent, &name).is_some_and(|other| {
            let own = &self.nodes[&id];
            other != id || (own.parent, &own.name) == (parent, &name)
        });
        if is_taken || !self.nodes.contains_key(&parent) || self.is_within(parent, id) {
            return Err(Refusal::Changed);
        }
        let node = self.nodes.get_mut(&id).unwrap();
        (node.parent, node.name) = (parent, name);
        self.end(self.entry(id))
    }

    fn set_mode(&mut self, at: &At, mode: u16) -> Answer<Entry> {
        self.begin()?;
        let id = self.find(at)?;
        self.nodes.get_mut(&id).unwrap().mode = mode;
        self.end(self.entry(id))
    }

    fn remove(&mut self, at: &At, content: &Token, edit: Option<&Token>) -> Answer<()> {
        self.begin()?;
        let id = self.find(at)?;
        let entry = self.entry(id);
        if entry.content != *content || entry.edit.as_ref() != edit || !self.children(id).is_empty() {
            return Err(Refusal::Changed);
        }
        self.nodes.remove(&id);
        self.end(())
    }
}

impl Here for Disk {
    fn make_placeholder(&mut self, parent: &Identity, name: &[u8], facts: &Facts) -> Answer<Entry> {
        self.begin()?;
        let (parent, name) = (self.free(parent, name)?, self.stored_name(name));
        let (kind, mode, version) = (Kind::File, facts.mode, number(&facts.content));
        self.made(Node { parent, name, kind, mode, version, edit: None })
    }

    fn refresh(&mut self, at: &At, old: &Token, facts: &Facts) -> Answer<Entry> {
        self.begin()?;
        let id = self.find(at)?;
        let entry = self.entry(id);
        if entry.edit.is_some() || entry.content != *old {
            return Err(Refusal::Changed);
        }
        self.nodes.get_mut(&id).unwrap().version = number(&facts.content);
        self.end(self.entry(id))
    }

    fn settle(&mut self, at: &At, edit: &Token, content: &Token) -> Answer<Entry> {
        self.begin()?;
        let id = self.find(at)?;
        if self.entry(id).edit.as_ref() != Some(edit) {
            return Err(Refusal::Changed);
        }
        let node = self.nodes.get_mut(&id).unwrap();
        (node.version, node.edit) = (number(content), None);
        self.end(self.entry(id))
    }

    fn open(&mut self, at: &At, edit: &Token) -> Answer<Box<dyn Read + '_>> {
        self.begin()?;
        let id = self.find(at)?;
        if self.entry(id).edit.as_ref() != Some(edit) {
            return Err(Refusal::Changed);
        }
        Ok(Box::new(Cursor::new(self.world.borrow().contents[&number(edit)].clone())))
    }
}

impl Disk {
    /// The machine has the same content under a number of its own.
    fn keep(&mut self, bytes: Vec<u8>) -> u64 {
        let mut world = self.world.borrow_mut();
        let version = world.next();
        world.contents.insert(version, bytes);
        version
    }
}

impl There for Disk {
    fn make_file(
        &mut self,
        parent: &Identity,
        name: &[u8],
        facts: &Facts,
        content: &mut dyn Read,
    ) -> Answer<Entry> {
        self.begin()?;
        let bytes = Disk::read_all(content)?;
        let (parent, name) = (self.free(parent, name)?, name.to_vec());
        let version = self.keep(bytes);
        self.made(Node { parent, name, kind: Kind::File, mode: facts.mode, version, edit: None })
    }

    fn replace(&mut self, at: &At, old: &Token, _facts: &Facts, content: &mut dyn Read) -> Answer<Entry> {
        self.begin()?;
        let bytes = Disk::read_all(content)?;
        let id = self.find(at)?;
        if self.entry(id).content != *old {
            return Err(Refusal::Changed);
        }
        let node = self.nodes.remove(&id).unwrap();
        let version = self.keep(bytes);
        self.made(Node { version, ..node })
    }

    fn read(&mut self, at: &At, content: &Token, offset: u64, length: u32) -> Answer<Vec<u8>> {
        self.begin()?;
        let id = self.find(at)?;
        if self.entry(id).content != *content {
            return Err(Refusal::Changed);
        }
        let world = self.world.borrow();
        let bytes = &world.contents[&number(content)][offset as usize..];
        Ok(bytes[..bytes.len().min(length as usize)].to_vec())
    }

    fn is_same(&mut self, at: &At, content: &Token, other: &mut dyn Read) -> Answer<bool> {
        self.begin()?;
        let id = self.find(at)?;
        if self.entry(id).content != *content {
            return Err(Refusal::Changed);
        }
        Ok(Disk::read_all(other)? == self.world.borrow().contents[&number(content)])
    }
}
