//! Random edits on both sides, cuts and restarts, against what must be true in the end.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use super::fake::{Disk, ROOT, World, identity};
use super::item::{Entry, Identity, Item, ItemId, Kind, SideName, Token};
use super::names::NameRules;
use super::plan::parked_item;
use super::side::{Answer, At, Refusal, Side};
use super::{Anchor, Expired, Hydration, Listing, Outcome, Progress, Replica, ReplicaError};

/// More than any run of so few edits needs: beyond it, two rules undo each other for ever.
const STEPS_MAX: usize = 5_000;

/// Runs of the model for each sort of names; more with `STEAD_MODEL_RUNS`.
const RUNS: u64 = 40;

struct Model {
    replica: Replica,
    here: Disk,
    there: Disk,
    world: Rc<RefCell<World>>,
}

impl Model {
    fn new(seed: u64, rules: NameRules) -> Model {
        Model::of(Replica::in_memory(rules, "box").unwrap(), seed, rules)
    }

    fn of(mut replica: Replica, seed: u64, rules: NameRules) -> Model {
        let world = World::new(seed);
        let here = Disk::new(SideName::Here, rules, &world);
        let there = Disk::new(SideName::There, rules, &world);
        for side in [SideName::Here, SideName::There] {
            assert!(!replica.set_root(side, identity(ROOT)).unwrap());
        }
        Model { replica, here, there, world }
    }

    fn look(&mut self) -> bool {
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
        {
            let mut world = self.world.borrow_mut();
            (world.cuts, world.meddling) = (0, 0);
        }
        for _ in 0..8 {
            assert!(self.look());
            if self.step(STEPS_MAX) {
                return;
            }
        }
        panic!("the sides do not come together: \n{}", describe(&self.items(), &self.here));
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

    /// Both sides have the same, and nothing that anybody wrote is lost.
    fn check(&mut self) {
        let items = self.items();
        assert_eq!(
            items.len() + 1,
            self.here.nodes.len(),
            "files here, of\n{}",
            describe(&items, &self.here)
        );
        assert_eq!(
            items.len() + 1,
            self.there.nodes.len(),
            "files there, of\n{}",
            describe(&items, &self.there)
        );
        let mut kept = BTreeSet::new();
        for item in &items {
            assert!(item.is_settled(), "{item:?}");
            let (here, there) = (item.here.as_ref().unwrap(), item.there.as_ref().unwrap());
            let number = |identity: &[u8]| u64::from_le_bytes(identity.try_into().unwrap());
            let (near, far) =
                (&self.here.nodes[&number(&here.identity)], &self.there.nodes[&number(&there.identity)]);
            assert_eq!((near.kind, near.mode), (far.kind, far.mode), "{item:?}");
            assert_eq!(near.version, far.version, "{item:?}");
            let name = String::from_utf8_lossy(&here.name);
            assert!(!name.starts_with(".stead"), "{item:?}");
            let rules = self.here.rules;
            let is_mapped = rules.key(&rules.to_here(&there.name).unwrap()) == rules.key(&here.name);
            assert!(is_mapped || name.contains(" ("), "{item:?}");
            if item.kind == Kind::File {
                kept.insert(self.world.borrow().contents[&far.version].clone());
                self.fetch_all(item);
            }
        }
        let world = self.world.borrow();
        for content in &world.live {
            assert!(kept.contains(content), "{} is lost", String::from_utf8_lossy(&content[..8]));
        }
    }

    fn fetch_all(&mut self, item: &Item) {
        let size = item.here.as_ref().unwrap().size;
        let mut fetch = self.replica.fetch(item.id, 0..size).unwrap().unwrap();
        while let Some((offset, bytes)) = fetch.next(&mut self.there).unwrap() {
            assert!(self.replica.fetched(&fetch, offset..offset + bytes.len() as u64).unwrap());
        }
        assert_eq!(self.replica.hydration(item.id).unwrap(), Some(Hydration::Whole));
    }

    fn meddle(&mut self, times: usize) {
        for _ in 0..times {
            let is_here = self.world.borrow_mut().random.below(2) == 0;
            if is_here { self.here.meddle() } else { self.there.meddle() }
        }
    }
}

/// One line for each item and each file, for whoever reads a failure.
fn describe(items: &[Item], disk: &Disk) -> String {
    let text = |bytes: &[u8]| {
        bytes.iter().map(|byte| char::from(*byte).escape_default().to_string()).collect::<String>()
    };
    let mut lines = Vec::new();
    for item in items {
        let seen = [&item.here, &item.there].map(|seen| {
            seen.as_ref().map(|seen| {
                let (identity, content) =
                    (text(&seen.identity[..2]), text(seen.content.get(..2).unwrap_or_default()));
                let is_edited = seen.edit.is_some();
                format!("{identity} in {} as {} of {content} {is_edited}", seen.parent.0, text(&seen.name))
            })
        });
        let agreed = item.agreed.as_ref().map(|agreed| {
            format!("in {} as {} and {}", agreed.parent.0, text(&agreed.here), text(&agreed.there))
        });
        lines.push(format!(
            "{} {:?} here {:?} there {:?} agreed {agreed:?} {:?}",
            item.id.0, item.kind, seen[0], seen[1], item.refused
        ));
    }
    for (id, node) in &disk.nodes {
        lines.push(format!(
            "{id:x} {:?} in {:x} as {} of {:x} {:?}",
            node.kind,
            node.parent,
            text(&node.name),
            node.version,
            node.edit
        ));
    }
    lines.join("\n")
}

fn run(seed: u64, rules: NameRules) {
    let mut model = Model::new(seed, rules);
    for _ in 0..6 {
        let (edits, steps) = {
            let mut world = model.world.borrow_mut();
            (world.cuts, world.meddling) =
                ([0, 4, 12][world.random.below(3)], [0, 10, 40][world.random.below(3)]);
            (1 + world.random.below(8), world.random.below(40))
        };
        model.meddle(edits);
        if model.look() {
            model.step(steps);
        }
        if model.world.borrow_mut().random.below(3) == 0 {
            model.settle();
            model.check();
        }
    }
    model.settle();
    model.check();
    // Nothing comes of looking at what has not changed.
    let anchor = model.replica.anchor().unwrap();
    assert!(model.look() && model.step(1));
    assert_eq!(model.replica.anchor().unwrap(), anchor);
}

fn run_many(rules: NameRules) {
    let number = |name: &str| std::env::var(name).ok().and_then(|number| number.parse::<u64>().ok());
    if let Some(seed) = number("STEAD_MODEL_SEED") {
        return run(seed, rules);
    }
    let runs = 0..number("STEAD_MODEL_RUNS").unwrap_or(RUNS);
    let failed: Vec<u64> =
        runs.filter(|seed| std::panic::catch_unwind(|| run(*seed, rules)).is_err()).collect();
    assert!(failed.is_empty(), "STEAD_MODEL_SEED is one of {failed:?}");
}

#[test]
fn random_edits_end_in_the_same_tree_with_names_of_posix() {
    run_many(NameRules::Posix);
}

#[test]
fn random_edits_end_in_the_same_tree_with_names_of_windows() {
    run_many(NameRules::Windows);
}

#[test]
fn random_edits_end_in_the_same_tree_with_names_of_macos() {
    run_many(NameRules::Mac);
}

impl Model {
    fn put(&mut self, side: SideName, parent: u64, name: &str, content: &str) -> u64 {
        let disk = if side == SideName::Here { &mut self.here } else { &mut self.there };
        disk.put(parent, name, content)
    }

    fn tree(&self, side: SideName) -> Vec<String> {
        if side == SideName::Here { self.here.tree() } else { self.there.tree() }
    }

    fn item_at(&mut self, name: &str) -> Item {
        let items = self.items();
        items.into_iter().find(|item| *item.here.as_ref().unwrap().name == *name.as_bytes()).unwrap()
    }
}

/// A file on both sides, then what is done on each, then what both have.
#[test]
fn what_is_done_on_both_sides_ends_as_the_rules_say() {
    type Edit = fn(&mut Disk, u64);
    let cases: [(&str, Edit, Edit, &[&str]); 8] = [
        ("only here", |here, file| here.overwrite(file, "mine"), |_, _| {}, &["d/", "d/f=mine"]),
        (
            "both wrote",
            |here, file| here.overwrite(file, "mine"),
            |there, file| there.overwrite(file, "theirs"),
            &["d/", "d/f (conflict from box)=mine", "d/f=theirs"],
        ),
        (
            "both wrote the same",
            |here, file| here.overwrite(file, "same"),
            |there, file| there.overwrite(file, "same"),
            &["d/", "d/f=same"],
        ),
        (
            "written here, removed there with its directory",
            |here, file| here.overwrite(file, "mine"),
            |there, file| there.delete_all(there.nodes[&file].parent),
            &["d/", "d/f=mine"],
        ),
        (
            "removed here with its directory, written there",
            |here, file| here.delete_all(here.nodes[&file].parent),
            |there, file| there.overwrite(file, "theirs"),
            &["d/", "d/f=theirs"],
        ),
        (
            "both renamed",
            |here, file| here.rename_to(file, ROOT, "mine"),
            |there, file| there.rename_to(file, ROOT, "theirs"),
            &["d/", "theirs=first"],
        ),
        (
            "renamed here, written there",
            |here, file| here.rename_to(file, ROOT, "g"),
            |there, file| there.overwrite(file, "theirs"),
            &["d/", "g=theirs"],
        ),
        (
            "a directory took its name there, written here",
            |here, file| here.overwrite(file, "mine"),
            |there, file| {
                let parent = there.nodes[&file].parent;
                there.delete_all(file);
                there.directory(parent, "f");
            },
            &["d/", "d/f (conflict from box)=mine", "d/f/"],
        ),
    ];
    for (what, near, far, expected) in cases {
        let mut model = Model::new(1, NameRules::Posix);
        let directory = model.there.directory(ROOT, "d");
        let there = model.put(SideName::There, directory, "f", "first");
        model.settle();
        let here = model.here.named(model.here.named(ROOT, b"d").unwrap(), b"f").unwrap();
        near(&mut model.here, here);
        far(&mut model.there, there);
        model.settle();
        for side in [SideName::Here, SideName::There] {
            assert_eq!(model.tree(side), expected, "{what}, {side:?}");
        }
    }
}

#[test]
fn directories_that_were_put_into_each_other_end_where_the_machine_has_them() {
    let mut model = Model::new(1, NameRules::Posix);
    let (a, b) = (model.there.directory(ROOT, "a"), model.there.directory(ROOT, "b"));
    model.settle();
    let [near_a, near_b] = ["a", "b"].map(|name| model.here.named(ROOT, name.as_bytes()).unwrap());
    model.here.rename_to(near_a, near_b, "a");
    model.there.rename_to(b, a, "b");
    model.settle();
    assert_eq!(model.tree(SideName::Here), ["a/", "a/b/"]);
    assert_eq!(model.tree(SideName::There), ["a/", "a/b/"]);
}

#[test]
fn files_that_exchange_their_names_do_so_on_the_other_side() {
    for side in [SideName::Here, SideName::There] {
        let mut model = Model::new(1, NameRules::Windows);
        for name in ["a", "b", "c"] {
            model.put(SideName::There, ROOT, name, name);
        }
        model.settle();
        let disk = if side == SideName::Here { &mut model.here } else { &mut model.there };
        let [a, b, c] = ["a", "b", "c"].map(|name| disk.named(ROOT, name.as_bytes()).unwrap());
        disk.exchange(a, b);
        disk.exchange(a, c);
        // A directory takes the name of what is moved into it.
        let directory = disk.directory(ROOT, "d");
        disk.rename_to(b, directory, "a");
        disk.rename_to(directory, ROOT, "a");
        model.settle();
        for side in [SideName::Here, SideName::There] {
            assert_eq!(model.tree(side), ["a/", "a/a=b", "b=c", "c=a"], "{side:?}");
        }
    }
}

#[test]
fn what_is_written_to_under_a_name_of_a_moment_has_its_own_back() {
    for side in [SideName::Here, SideName::There] {
        let mut model = Model::new(1, NameRules::Posix);
        for name in ["a", "b"] {
            model.put(SideName::There, ROOT, name, name);
        }
        model.settle();
        let other = if side == SideName::Here { &mut model.there } else { &mut model.here };
        let [a, b] = ["a", "b"].map(|name| other.named(ROOT, name.as_bytes()).unwrap());
        other.exchange(a, b);
        assert!(model.look());
        let parked = loop {
            assert!(!model.step(1));
            let disk = if side == SideName::Here { &model.here } else { &model.there };
            let parked = disk.nodes.iter().find_map(|(node, now)| Some((*node, parked_item(&now.name)?)));
            if let Some(parked) = parked {
                break parked;
            }
        };
        let item = model.replica.item(parked.1).unwrap().unwrap();
        let twin = u64::from_le_bytes(item.on(side.other()).unwrap().identity.as_ref().try_into().unwrap());
        let (disk, other) = match side {
            SideName::Here => (&mut model.here, &mut model.there),
            SideName::There => (&mut model.there, &mut model.here),
        };
        disk.overwrite(parked.0, "mine");
        other.delete_all(twin);
        model.settle();
        model.check();
        for side in [SideName::Here, SideName::There] {
            let tree = model.tree(side);
            assert!(tree.len() == 2 && tree.iter().any(|line| line.ends_with("=mine")), "{tree:?}");
            assert!(tree.iter().all(|line| line.starts_with(['a', 'b'])), "{tree:?}");
        }
    }
}

#[test]
fn what_was_renamed_here_makes_way_for_what_is_new_on_the_machine() {
    let mut model = Model::new(1, NameRules::Posix);
    model.put(SideName::There, ROOT, "f", "first");
    model.settle();
    model.put(SideName::There, ROOT, "g", "theirs");
    assert!(model.look());
    let file = model.here.named(ROOT, b"f").unwrap();
    model.here.rename_to(file, ROOT, "g");
    model.settle();
    for side in [SideName::Here, SideName::There] {
        assert_eq!(model.tree(side), ["g (conflict from box)=first", "g=theirs"], "{side:?}");
    }
}

#[test]
fn names_that_this_computer_cannot_tell_apart_are_both_here() {
    let mut model = Model::new(1, NameRules::Windows);
    model.put(SideName::There, ROOT, "Makefile", "one");
    model.put(SideName::There, ROOT, "makefile", "two");
    model.settle();
    assert_eq!(model.tree(SideName::Here), ["Makefile=one", "makefile (2)=two"]);
    let alias = model.here.named(ROOT, b"makefile (2)").unwrap();
    model.here.overwrite(alias, "three");
    let directory = model.here.directory(ROOT, "d");
    model.here.rename_to(alias, directory, "makefile (2)");
    model.settle();
    assert_eq!(model.tree(SideName::There), ["Makefile=one", "d/", "d/makefile=three"]);
}

#[test]
fn an_alias_with_an_accent_is_the_same_however_it_is_written() {
    let mut model = Model::new(1, NameRules::Mac);
    model.put(SideName::There, ROOT, "e\u{301}", "one");
    let file = model.put(SideName::There, ROOT, "f", "two");
    model.settle();
    let here = model.here.named(ROOT, b"f").unwrap();
    model.here.rename_to(here, ROOT, "e\u{301} (2)");
    model.there.rename_to(file, ROOT, "\u{e9}");
    model.settle();
    assert_eq!(model.tree(SideName::Here), ["e\u{301} (2)=two", "e\u{301}=one"]);
    assert_eq!(model.tree(SideName::There), ["e\u{301}=one", "\u{e9}=two"]);
}

#[test]
fn a_name_that_cannot_be_on_the_machine_waits_until_it_is_another() {
    let mut model = Model::new(1, NameRules::Windows);
    let file = model.put(SideName::Here, ROOT, "\u{f02f}", "mine");
    model.settle();
    assert_eq!(model.replica.refused().unwrap().len(), 1);
    assert!(model.tree(SideName::There).is_empty());
    model.here.rename_to(file, ROOT, "slash");
    model.settle();
    assert!(model.replica.refused().unwrap().is_empty());
    assert_eq!(model.tree(SideName::There), ["slash=mine"]);
}

#[test]
fn a_file_that_is_moved_while_its_tree_is_looked_at_is_not_removed() {
    let mut model = Model::new(1, NameRules::Posix);
    model.put(SideName::There, ROOT, "f", "only there");
    model.settle();
    // In none of the listings, and on the disk all the same.
    let file = model.here.named(ROOT, b"f").unwrap();
    let hidden = Hidden { disk: &mut model.here, file };
    assert!(model.replica.look(SideName::Here, &mut { hidden }).unwrap().is_err());
    model.settle();
    assert_eq!(model.tree(SideName::There), ["f=only there"]);
}

#[test]
fn bytes_are_here_as_of_one_version_and_stay_when_they_are_pinned() {
    let mut model = Model::new(1, NameRules::Posix);
    let there = model.put(SideName::There, ROOT, "f", &"x".repeat(3 * 4096 + 1));
    model.settle();
    let id = model.item_at("f").id;
    assert_eq!(model.replica.hydration(id).unwrap(), Some(Hydration::Placeholder));
    let mut fetch = model.replica.fetch(id, 5000..5001).unwrap().unwrap();
    model.world.borrow_mut().cuts = 1;
    assert!(matches!(fetch.next(&mut model.there), Err(Refusal::Cut)));
    model.world.borrow_mut().cuts = 0;
    let (offset, bytes) = fetch.next(&mut model.there).unwrap().unwrap();
    assert_eq!((offset, bytes.len()), (4096, 4096));
    assert!(model.replica.fetched(&fetch, 4096..8192).unwrap());
    assert!(fetch.next(&mut model.there).unwrap().is_none());
    assert_eq!(fetch.progress(), Progress { done: 4096, total: 4096 });
    assert_eq!(model.replica.hydration(id).unwrap(), Some(Hydration::Partial { bytes: 4096 }));
    model.replica.pin(id, true).unwrap();
    assert!(!model.replica.free(id).unwrap());
    // What was asked for before the machine had another version is of no use after.
    let mut late = model.replica.fetch(id, 0..4096).unwrap().unwrap();
    model.there.overwrite(there, "short");
    assert!(matches!(late.next(&mut model.there), Err(Refusal::Changed)));
    model.settle();
    assert!(!model.replica.fetched(&late, 0..4096).unwrap());
    assert_eq!(model.replica.hydration(id).unwrap(), Some(Hydration::Placeholder));
    assert!(model.replica.is_pinned(id).unwrap());
    model.replica.pin(id, false).unwrap();
    assert!(model.replica.free(id).unwrap());
    let here = model.here.named(ROOT, b"f").unwrap();
    model.here.overwrite(here, "mine");
    assert!(model.look());
    assert!(!model.replica.free(id).unwrap(), "what was not sent must not go");
}

#[test]
fn bytes_of_a_version_that_comes_back_are_fetched_again() {
    let mut model = Model::new(1, NameRules::Posix);
    let there = model.put(SideName::There, ROOT, "f", "first");
    let first = model.there.nodes[&there].version;
    model.settle();
    let item = model.item_at("f");
    for is_made_again in [false, true] {
        model.fetch_all(&item);
        model.there.overwrite(there, "other");
        if is_made_again {
            let here = model.here.named(ROOT, b"f").unwrap();
            model.here.delete_all(here);
        }
        model.settle();
        model.there.nodes.get_mut(&there).unwrap().version = first;
        model.settle();
        assert_eq!(model.replica.hydration(item.id).unwrap(), Some(Hydration::Placeholder));
        assert_eq!(model.replica.fetch(item.id, 0..5).unwrap().unwrap().progress().total, 5);
    }
}

#[test]
fn changes_lead_from_one_listing_to_the_next() {
    let mut model = Model::new(7, NameRules::Posix);
    let mut known: BTreeMap<ItemId, Item> = BTreeMap::new();
    let mut anchor = model.replica.anchor().unwrap();
    for _ in 0..12 {
        model.meddle(6);
        model.settle();
        loop {
            let changes = model.replica.changes(anchor).unwrap().unwrap();
            known.extend(changes.changed.into_iter().map(|item| (item.id, item)));
            changes.gone.iter().for_each(|id| drop(known.remove(id)));
            anchor = Anchor::from_bytes(&changes.anchor.to_bytes());
            if !changes.is_more {
                break;
            }
        }
        known.remove(&ItemId::ROOT);
        let listed: BTreeMap<ItemId, Item> = model.items().into_iter().map(|item| (item.id, item)).collect();
        assert_eq!(known, listed);
    }
}

#[test]
fn anchors_of_other_databases_and_of_long_ago_have_expired() {
    let mut model = Model::new(1, NameRules::Posix);
    let first = model.replica.anchor().unwrap();
    let other = Model::new(1, NameRules::Posix).replica.anchor().unwrap();
    assert_eq!(model.replica.changes(other).unwrap(), Err(Expired));
    assert_eq!(model.replica.changes(Anchor::from_bytes(b"nonsense")).unwrap(), Err(Expired));
    let listing = |entries| vec![Listing { directory: identity(ROOT), entries }];
    for round in 0..3 {
        let half = super::database::GONE_MAX as u64 / 2;
        model
            .replica
            .observe(SideName::Here, listing((1..=half).map(|n| entry_of(round * half + n)).collect()))
            .unwrap();
        model.replica.observe(SideName::Here, listing(Vec::new())).unwrap();
    }
    assert_eq!(model.replica.changes(first).unwrap(), Err(Expired));
    let now = model.replica.anchor().unwrap();
    assert!(model.replica.changes(now).unwrap().is_ok());
}

#[test]
fn a_replica_goes_on_where_the_last_process_was_cut_off() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("replica");
    let open = || Replica::open(&path, NameRules::Windows, "box");
    let mut model = Model::of(open().unwrap(), 3, NameRules::Windows);
    for _ in 0..10 {
        model.meddle(5);
        model.world.borrow_mut().cuts = 4;
        if model.look() {
            model.step(20);
        }
        model.replica = open().unwrap();
    }
    model.settle();
    model.check();
    assert!(model.replica.set_root(SideName::There, identity(99)).unwrap(), "another tree");
    drop(model);
    let newer = rusqlite::Connection::open(&path).unwrap();
    newer.pragma_update(None, "user_version", 99).unwrap();
    drop(newer);
    assert!(matches!(open(), Err(ReplicaError::Foreign { version: 99, .. })));
}

fn entry_of(number: u64) -> Entry {
    Entry {
        identity: identity(number),
        name: number.to_string().into_bytes().into(),
        kind: Kind::Directory,
        mode: 0,
        size: 0,
        content: Box::default(),
        edit: None,
    }
}

#[test]
fn a_side_that_tells_nonsense_is_not_believed() {
    let mut model = Model::new(1, NameRules::Posix);
    let listing = |directory: u64, entries: &[Entry]| Listing {
        directory: identity(directory),
        entries: entries.to_vec(),
    };
    let mut observe = |listings| model.replica.observe(SideName::There, listings);
    let within_itself =
        vec![listing(ROOT, &[entry_of(1)]), listing(1, &[entry_of(2)]), listing(2, &[entry_of(1)])];
    assert!(matches!(observe(within_itself), Err(ReplicaError::Tangled { .. })));
    assert!(matches!(observe(vec![listing(ROOT, &[entry_of(ROOT)])]), Err(ReplicaError::Tangled { .. })));
    let long = Entry { content: vec![0; 65].into(), ..entry_of(1) };
    assert!(matches!(
        observe(vec![listing(ROOT, &[long])]),
        Err(ReplicaError::TooLong { bytes: 65, most: 64 })
    ));
    let outside = Entry { name: b"..".as_slice().into(), ..entry_of(1) };
    observe(vec![listing(ROOT, &[outside])]).unwrap();
    let outcome = model.replica.step(&mut model.here, &mut model.there).unwrap();
    assert_eq!((outcome, model.replica.refused().unwrap().len()), (Outcome::Stepped, 1));
    assert!(model.here.tree().is_empty());
}

/// A disk of which one file is in no listing, as if it had been moved from a directory not yet listed to one that was.
struct Hidden<'a> {
    disk: &'a mut Disk,
    file: u64,
}

impl Side for Hidden<'_> {
    fn list(&mut self, directory: &Identity) -> Answer<Vec<Entry>> {
        let mut entries = self.disk.list(directory)?;
        entries.retain(|entry| entry.identity != identity(self.file));
        Ok(entries)
    }

    fn is_gone(&mut self, identity: &Identity) -> Answer<bool> {
        self.disk.is_gone(identity)
    }

    fn make_directory(&mut self, _: &Identity, _: &[u8], _: u16) -> Answer<Entry> {
        Err(Refusal::Changed)
    }

    fn rename(&mut self, _: &At, _: &Identity, _: &[u8]) -> Answer<Entry> {
        Err(Refusal::Changed)
    }

    fn set_mode(&mut self, _: &At, _: u16) -> Answer<Entry> {
        Err(Refusal::Changed)
    }

    fn remove(&mut self, _: &At, _: &Token, _: Option<&Token>) -> Answer<()> {
        Err(Refusal::Changed)
    }
}
