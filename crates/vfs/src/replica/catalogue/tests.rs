//! Random edits on the machine and in the system's copy, cuts and restarts, against what must be true in the end; and one case for
//! each rule.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io::Cursor;
use std::rc::Rc;

use super::super::fake::{Disk, ROOT, World, identity};
use super::super::item::{Item, ItemId, Kind, SideName};
use super::super::names::NameRules;
use super::super::side::{Answer, Refusal};
use super::super::{Anchor, Expired, Replica};
use super::system::System;
use super::{Applied, Base, Catalogue, Modification, New, PAGE_ITEMS_MAX, Removal, Removed};

/// Runs of the model; more with `STEAD_MODEL_RUNS`.
const RUNS: u64 = 60;

/// More rounds than any run of so few edits needs.
const ROUNDS_MAX: usize = 40;

struct Model {
    catalogue: Catalogue,
    system: System,
    there: Disk,
    world: Rc<RefCell<World>>,
}

fn catalogue() -> Catalogue {
    let mut catalogue = Catalogue::over(Replica::in_memory(NameRules::Mac, "box").unwrap()).unwrap();
    assert!(!catalogue.set_root(&identity(ROOT)).unwrap());
    catalogue
}

impl Model {
    fn new(seed: u64) -> Model {
        let world = World::new(seed);
        let here = Disk::new(SideName::Here, NameRules::Mac, &world);
        let there = Disk::new(SideName::There, NameRules::Mac, &world);
        Model { catalogue: catalogue(), system: System::new(here), there, world }
    }

    /// What the machine's watch has told of, and the system's turn. Whether anything came of it.
    fn turn(&mut self) -> Answer<bool> {
        let listed = self.catalogue.listed().unwrap();
        let mut is_any = self.catalogue.refresh(&mut self.there, &listed).unwrap()?;
        is_any |= self.system.pull(&mut self.catalogue, &mut self.there).unwrap()?;
        is_any |= self.system.push(&mut self.catalogue, &mut self.there).unwrap()?;
        Ok(is_any)
    }

    fn settle(&mut self) {
        {
            let mut world = self.world.borrow_mut();
            (world.cuts, world.meddling) = (0, 0);
        }
        for _ in 0..ROUNDS_MAX {
            if !self.turn().unwrap() {
                return;
            }
        }
        panic!("does not come to rest:\n{}", self.trees());
    }

    /// For whoever reads a failure.
    fn trees(&self) -> String {
        let short = |lines: Vec<String>| {
            lines.iter().map(|line| line.chars().take(60).collect::<String>()).collect::<Vec<_>>()
        };
        format!("{:#?}\n{:#?}", short(self.system.disk.tree()), short(self.there.tree()))
    }

    fn items(&mut self) -> Vec<Item> {
        let mut items = Vec::new();
        let mut after = Some(ItemId(0));
        while let Some(from) = after {
            let page = self.catalogue.working_set(from).unwrap();
            items.extend(page.items);
            after = page.next;
        }
        items
    }

    /// The machine has what the copy has, the system knows it, and nothing that anybody wrote is lost.
    fn check(&mut self) {
        let (items, settled) = (self.items(), self.system.settled());
        let trees = self.trees();
        assert_eq!(items.len() + 1, self.there.nodes.len(), "{trees}");
        assert_eq!(items.len() + 1, self.system.disk.nodes.len(), "{trees}");
        let mut kept = BTreeSet::new();
        for item in &items {
            let near =
                &self.system.disk.nodes[settled.get(&item.id).unwrap_or_else(|| panic!("{item:?} {trees}"))];
            let there = item.there.as_ref().unwrap();
            let far = &self.there.nodes[&u64::from_le_bytes(there.identity.as_ref().try_into().unwrap())];
            assert_eq!((near.kind, near.mode), (far.kind, far.mode), "{item:?}");
            assert_eq!(near.version, far.version, "{item:?}");
            let here = item.here.as_ref().unwrap();
            assert_eq!(NameRules::Mac.key(&near.name), NameRules::Mac.key(&here.name), "{item:?}");
            if item.kind == Kind::File {
                let content = self.world.borrow().contents[&far.version].clone();
                let read = self.catalogue.read(&mut self.there, item.id, &here.content, 0, 1 << 20).unwrap();
                assert_eq!(read.unwrap(), content);
                kept.insert(content);
            }
        }
        let world = self.world.borrow();
        for content in &world.live {
            assert!(kept.contains(content), "{} is lost", String::from_utf8_lossy(&content[..8]));
        }
    }

    fn meddle(&mut self, times: usize) {
        for _ in 0..times {
            let is_here = self.world.borrow_mut().random.below(2) == 0;
            if is_here { self.system.disk.meddle() } else { self.there.meddle() }
        }
    }

    /// A file of the machine's, known to the system.
    fn shown(&mut self, name: &str, content: &str) -> Item {
        self.there.put(ROOT, name, content);
        self.settle();
        self.named(name)
    }

    fn named(&mut self, name: &str) -> Item {
        let items = self.items();
        items.into_iter().find(|item| *item.here.as_ref().unwrap().name == *name.as_bytes()).unwrap()
    }

    fn far(item: &Item) -> u64 {
        u64::from_le_bytes(item.there.as_ref().unwrap().identity.as_ref().try_into().unwrap())
    }

    fn create(&mut self, parent: ItemId, name: &str, content: &str) -> Answer<Applied> {
        let size = content.len() as u64;
        let new = New { parent, name: name.as_bytes(), kind: Kind::File, mode: 0o600, size };
        let bytes = self.text(content);
        self.catalogue
            .create(&mut self.there, &new, &mut || Ok(Box::new(Cursor::new(bytes.clone()))))
            .unwrap()
    }

    fn write(&mut self, item: &Item, content: &str) -> Answer<Applied> {
        let here = item.here.clone().unwrap();
        let bytes = self.text(content);
        let mut open = || Ok::<Box<dyn std::io::Read>, _>(Box::new(Cursor::new(bytes.clone())));
        let new = New {
            parent: here.parent,
            name: &here.name,
            kind: Kind::File,
            mode: here.mode,
            size: content.len() as u64,
        };
        let change = Modification {
            base: Base::of(item),
            new,
            is_moved: false,
            is_mode: false,
            content: Some(&mut open),
        };
        self.catalogue.modify(&mut self.there, item.id, change).unwrap()
    }

    fn rename(&mut self, item: &Item, parent: ItemId, name: &str) -> Answer<Applied> {
        let mode = item.here.as_ref().unwrap().mode;
        let new = New { parent, name: name.as_bytes(), kind: item.kind, mode, size: 0 };
        let change =
            Modification { base: Base::of(item), new, is_moved: true, is_mode: false, content: None };
        self.catalogue.modify(&mut self.there, item.id, change).unwrap()
    }

    fn text(&self, content: &str) -> Vec<u8> {
        content.as_bytes().to_vec()
    }

    fn remove(&mut self, item: &Item, removal: Removal) -> Answer<Removed> {
        self.catalogue.remove(&mut self.there, item.id, &Base::of(item), removal).unwrap()
    }
}

fn run(seed: u64) {
    let mut model = Model::new(seed);
    for _ in 0..6 {
        let (edits, turns) = {
            let mut world = model.world.borrow_mut();
            (world.cuts, world.meddling) =
                ([0, 4, 12][world.random.below(3)], [0, 10, 40][world.random.below(3)]);
            (1 + world.random.below(8), world.random.below(3))
        };
        model.meddle(edits);
        for _ in 0..turns {
            // One that was cut off is as good: the system comes back.
            let _is_any = model.turn();
        }
        let choice = model.world.borrow_mut().random.below(9);
        match choice {
            0..=2 => {
                model.settle();
                model.check();
            }
            // The database is lost.
            3 => model.catalogue = catalogue(),
            _ => {}
        }
    }
    model.settle();
    model.check();
    let anchor = model.catalogue.anchor().unwrap();
    assert_eq!(model.turn().ok(), Some(false));
    assert_eq!(model.catalogue.anchor().unwrap(), anchor);
}

#[test]
fn random_edits_end_in_the_same_tree_with_a_system_that_keeps_its_own() {
    let number = |name: &str| std::env::var(name).ok().and_then(|number| number.parse::<u64>().ok());
    if let Some(seed) = number("STEAD_MODEL_SEED") {
        return run(seed);
    }
    let runs = 0..number("STEAD_MODEL_RUNS").unwrap_or(RUNS);
    let failed: Vec<u64> = runs.filter(|seed| std::panic::catch_unwind(|| run(*seed)).is_err()).collect();
    assert!(failed.is_empty(), "STEAD_MODEL_SEED is one of {failed:?}");
}

#[test]
fn an_edit_of_the_version_that_is_there_replaces_it() {
    let mut model = Model::new(1);
    let item = model.shown("f", "first");
    let Ok(Applied::Done(done)) = model.write(&item, "mine") else { panic!("was not written") };
    assert_eq!((done.id, model.there.tree()), (item.id, vec!["f=mine".to_owned()]));
    // The answer was lost: the same change once more.
    assert_eq!(model.write(&item, "mine").unwrap(), Applied::Done(done));
    assert_eq!(model.there.tree(), ["f=mine"]);
}

#[test]
fn an_edit_of_another_version_is_kept_beside_the_machines() {
    let mut model = Model::new(1);
    let item = model.shown("f.txt", "first");
    model.there.overwrite(Model::far(&item), "theirs");
    let Ok(Applied::Conflict { item: stands, copy }) = model.write(&item, "mine") else {
        panic!("no conflict")
    };
    assert_eq!((stands.id, copy.id != item.id), (item.id, true));
    assert_eq!(model.there.tree(), ["f (conflict from box).txt=mine", "f.txt=theirs"]);
    // The answer was lost: no second copy.
    assert_eq!(model.write(&item, "mine").unwrap(), Applied::Conflict { item: stands, copy });
    assert_eq!(model.there.tree().len(), 2);
}

#[test]
fn an_edit_of_what_was_removed_there_is_made_again_under_its_number() {
    let mut model = Model::new(1);
    let item = model.shown("f", "first");
    model.there.delete_all(Model::far(&item));
    let Ok(Applied::Done(done)) = model.write(&item, "mine") else { panic!("was not made") };
    assert_eq!((done.id, model.there.tree()), (item.id, vec!["f=mine".to_owned()]));
    model.there.delete_all(Model::far(&done));
    assert_eq!(model.rename(&done, ItemId::ROOT, "g").unwrap(), Applied::Gone(item.id));
}

#[test]
fn new_files_with_a_name_that_is_taken_are_one_or_have_a_conflict_name() {
    let mut model = Model::new(1);
    let item = model.shown("Report", "first");
    let Ok(Applied::Done(same)) = model.create(ItemId::ROOT, "Report", "first") else { panic!("not one") };
    assert_eq!(same.id, item.id);
    let Ok(Applied::Done(other)) = model.create(ItemId::ROOT, "report", "mine") else { panic!("not made") };
    assert_ne!(other.id, item.id);
    assert_eq!(model.there.tree(), ["Report=first", "report (conflict from box)=mine"]);
    // A name that was taken on the machine just now.
    model.there.put(ROOT, "late", "theirs");
    assert!(matches!(model.create(ItemId::ROOT, "late", "mine"), Ok(Applied::Done(_))));
    assert_eq!(model.there.tree()[1..3], ["late (conflict from box)=mine", "late=theirs"]);
    assert!(matches!(model.create(ItemId::ROOT, "\u{f02f}", "x"), Err(Refusal::Refused(_))));
    assert_eq!(model.create(ItemId(99), "x", "x").unwrap(), Applied::Gone(ItemId(99)));
}

#[test]
fn of_two_renames_the_machines_stands() {
    let mut model = Model::new(1);
    let item = model.shown("f", "first");
    model.there.rename_to(Model::far(&item), ROOT, "theirs");
    let Ok(Applied::Done(done)) = model.rename(&item, ItemId::ROOT, "mine") else { panic!("not done") };
    assert_eq!(*done.here.unwrap().name, *b"theirs");
    let item = model.named("theirs");
    assert!(matches!(model.rename(&item, ItemId::ROOT, "mine"), Ok(Applied::Done(_))));
    assert_eq!(model.there.tree(), ["mine=first"]);
}

#[test]
fn an_alias_is_this_computers_and_its_file_keeps_its_name_when_it_is_moved() {
    let mut model = Model::new(1);
    model.there.put(ROOT, "Makefile", "one");
    model.there.put(ROOT, "makefile", "two");
    model.there.directory(ROOT, "d");
    model.settle();
    assert_eq!(model.system.disk.tree(), ["Makefile=one", "d/", "makefile (2)=two"]);
    let (alias, directory) = (model.named("makefile (2)"), model.named("d"));
    assert!(matches!(model.rename(&alias, directory.id, "makefile (2)"), Ok(Applied::Done(_))));
    assert_eq!(model.there.tree(), ["Makefile=one", "d/", "d/makefile=two"]);
}

#[test]
fn a_file_that_is_renamed_to_what_an_alias_is_called_on_the_machine_has_a_conflict_name() {
    let mut model = Model::new(1);
    model.there.put(ROOT, "A", "one");
    model.there.put(ROOT, "a", "two");
    model.settle();
    assert_eq!(model.system.disk.tree(), ["A=one", "a (2)=two"]);
    let item = model.named("A");
    assert!(matches!(model.rename(&item, ItemId::ROOT, "a"), Ok(Applied::Done(_))));
    assert_eq!(model.there.tree(), ["a (conflict from box)=one", "a=two"]);
}

#[test]
fn an_alias_that_is_moved_to_where_its_own_name_is_taken_has_the_alias_on_the_machine_too() {
    let mut model = Model::new(1);
    model.there.put(ROOT, "Makefile", "one");
    model.there.put(ROOT, "makefile", "two");
    let directory = model.there.directory(ROOT, "d");
    model.there.put(directory, "makefile", "three");
    model.settle();
    let (alias, directory) = (model.named("makefile (2)"), model.named("d"));
    assert!(matches!(model.rename(&alias, directory.id, "makefile (2)"), Ok(Applied::Done(_))));
    assert_eq!(model.there.tree(), ["Makefile=one", "d/", "d/makefile (2)=two", "d/makefile=three"]);
}

#[test]
fn an_alias_that_is_renamed_to_its_own_name_is_called_so_and_stays_where_it_is_on_the_machine() {
    let mut model = Model::new(1);
    model.there.put(ROOT, "A", "one");
    model.there.put(ROOT, "a", "two");
    model.settle();
    let (first, alias) = (model.named("A"), model.named("a (2)"));
    assert_eq!(model.remove(&first, Removal::Single).unwrap(), Removed::Done);
    let Ok(Applied::Done(done)) = model.rename(&alias, ItemId::ROOT, "a") else { panic!("not renamed") };
    assert_eq!((done.id, &*done.here.unwrap().name), (alias.id, &b"a"[..]));
    assert_eq!(model.there.tree(), ["a=two"]);
}

#[test]
fn a_conflict_name_that_is_given_up_for_the_one_that_is_still_taken_stays() {
    let mut model = Model::new(1);
    model.there.put(ROOT, "a", "one");
    model.there.put(ROOT, "a (conflict from box)", "two");
    model.settle();
    let copy = model.named("a (conflict from box)");
    let Ok(Applied::Done(done)) = model.rename(&copy, ItemId::ROOT, "a") else { panic!("not answered") };
    assert_eq!((done.id, &*done.here.unwrap().name), (copy.id, &b"a (conflict from box)"[..]));
    assert_eq!(model.there.tree(), ["a (conflict from box)=two", "a=one"]);
}

#[test]
fn only_what_the_system_knows_is_removed() {
    let mut model = Model::new(1);
    let item = model.shown("f", "first");
    model.there.overwrite(Model::far(&item), "theirs");
    assert!(matches!(model.remove(&item, Removal::Single), Ok(Removed::Kept(_))));
    let directory = model.there.directory(ROOT, "d");
    model.there.put(directory, "known", "a");
    let deep = model.there.directory(directory, "deep");
    model.there.put(deep, "far", "b");
    model.settle();
    model.settle();
    let d = model.named("d");
    assert_eq!(model.remove(&d, Removal::Single).unwrap(), Removed::NotEmpty);
    model.there.put(deep, "new", "theirs");
    assert!(matches!(model.remove(&d, Removal::Tree), Ok(Removed::Kept(_))));
    assert_eq!(model.there.tree(), ["d/", "d/deep/", "d/deep/new=theirs", "f=theirs"]);
    model.settle();
    assert_eq!(model.system.disk.tree(), model.there.tree());
    assert_eq!(model.remove(&d, Removal::Tree).unwrap(), Removed::Done);
    assert_eq!(model.remove(&d, Removal::Tree).unwrap(), Removed::Done);
    assert_eq!(model.there.tree(), ["f=theirs"]);
}

#[test]
fn a_directory_that_nobody_opened_goes_with_all_that_is_in_it() {
    let mut model = Model::new(1);
    let directory = model.there.directory(ROOT, "d");
    model.there.put(directory, "f", "a");
    assert_eq!(model.catalogue.refresh(&mut model.there, &[ItemId::ROOT]).unwrap().ok(), Some(true));
    let item = model.named("d");
    model.there.put(directory, "later", "b");
    assert!(!model.catalogue.is_listed(item.id).unwrap());
    assert_eq!(model.remove(&item, Removal::Tree).unwrap(), Removed::Done);
    assert!(model.there.tree().is_empty());
}

#[test]
fn a_directory_that_could_not_be_opened_is_not_replaced_as_an_empty_one() {
    let mut model = Model::new(1);
    model.settle();
    let directory = model.there.directory(ROOT, "d");
    assert_eq!(model.catalogue.refresh(&mut model.there, &[ItemId::ROOT]).unwrap().ok(), Some(true));
    model.world.borrow_mut().cuts = 1;
    assert!(model.system.pull(&mut model.catalogue, &mut model.there).unwrap().is_err());
    let other = model.system.disk.directory(ROOT, "e");
    model.system.disk.rename_to(other, ROOT, "d");
    model.there.put(directory, "f", "theirs");
    model.settle();
    assert_eq!(model.there.tree(), ["d/", "d/f=theirs", "e/"]);
    assert_eq!(model.system.disk.tree(), model.there.tree());
    // What came after it was opened was not meant by whoever removes it.
    let item = model.named("d");
    model.there.put(directory, "g", "theirs");
    assert!(matches!(model.remove(&item, Removal::Tree), Ok(Removed::Kept(_))));
    assert_eq!(model.there.tree(), ["d/", "d/g=theirs", "e/"]);
}

#[test]
fn pages_go_on_where_the_last_one_ended_while_names_come_and_go() {
    let mut model = Model::new(1);
    let files: Vec<u64> =
        (0..=PAGE_ITEMS_MAX).map(|number| model.there.put(ROOT, &format!("f{number}"), "x")).collect();
    assert!(model.catalogue.refresh(&mut model.there, &[ItemId::ROOT]).unwrap().is_ok());
    let first = model.catalogue.page(ItemId::ROOT, ItemId(0)).unwrap();
    assert_eq!(first.items.len(), PAGE_ITEMS_MAX);
    model.there.delete_all(files[0]);
    model.there.put(ROOT, "new", "x");
    assert!(model.catalogue.refresh(&mut model.there, &[ItemId::ROOT]).unwrap().is_ok());
    let second = model.catalogue.page(ItemId::ROOT, first.next.unwrap()).unwrap();
    assert_eq!((second.items.len(), second.next), (2, None));
    assert_eq!(model.catalogue.listed_at(&[]).unwrap(), Some(ItemId::ROOT));
    assert_eq!(model.catalogue.listed_at(&[b"new"]).unwrap(), None);
}

#[test]
fn anchors_lead_through_a_restart_and_expire_with_the_database() {
    let directory = tempfile::tempdir().unwrap();
    let open = |name: &str| {
        let mut catalogue = Catalogue::open(&directory.path().join(name), NameRules::Mac, "box").unwrap();
        assert!(!catalogue.set_root(&identity(ROOT)).unwrap());
        catalogue
    };
    let mut model = Model::new(1);
    model.catalogue = open("one");
    let item = model.shown("f", "first");
    let anchor = model.catalogue.anchor().unwrap();
    model.catalogue = open("one");
    assert_eq!(model.catalogue.listed().unwrap(), [ItemId::ROOT]);
    model.there.delete_all(Model::far(&item));
    assert_eq!(model.catalogue.refresh(&mut model.there, &[ItemId::ROOT]).unwrap().ok(), Some(true));
    let changes = model.catalogue.changes(Anchor::from_bytes(&anchor.to_bytes())).unwrap().unwrap();
    assert_eq!((changes.gone, changes.changed, changes.is_more), (vec![item.id], vec![], false));
    assert_eq!(open("two").changes(anchor).unwrap(), Err(Expired));
    assert!(open("two").epoch().unwrap() != model.catalogue.epoch().unwrap());
    assert!(
        Catalogue::open(&directory.path().join("one"), NameRules::Mac, "box")
            .unwrap()
            .set_root(&identity(5))
            .unwrap()
    );
}
