//! Names against a model: a tree in memory that has no base, no log and no process.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;

/// What a step does. Directories and names are chosen among those that are there, or may be.
#[derive(Clone, Debug)]
pub(super) enum What {
    Create,
    MakeDirectory,
    Symlink,
    Fifo,
    Link,
    Unlink,
    UnlinkOpen,
    RemoveDirectory,
    Rename(RenameMode),
    Mode(u16),
    Date(i64),
    Write(u8),
    Cut(u64),
    Empty,
    SetXattr(u8),
    RemoveXattr,
    Compact,
    Reopen,
}

#[derive(Clone, Debug)]
pub(super) struct Step {
    pub(super) what: What,
    from: Index,
    old: &'static [u8],
    to: Index,
    new: &'static [u8],
}

const NAMES_USED: [&[u8]; 10] =
    [b"file", b"run", b"dir", b"deep", b"er", b"a", b"link", b"more", b"own", b"other"];

pub(super) fn steps(most: usize) -> impl Strategy<Value = Vec<Step>> {
    let mode = prop::sample::select(vec![RenameMode::Replace, RenameMode::NoReplace, RenameMode::Exchange]);
    let what = prop_oneof![
        2 => Just(What::Create),
        2 => Just(What::MakeDirectory),
        1 => Just(What::Symlink),
        1 => Just(What::Fifo),
        2 => Just(What::Link),
        3 => Just(What::Unlink),
        1 => Just(What::UnlinkOpen),
        3 => Just(What::RemoveDirectory),
        7 => mode.prop_map(What::Rename),
        1 => (0..0o7777u16).prop_map(What::Mode),
        1 => (-1_800_000_000..300_000_000i64).prop_map(What::Date),
        2 => any::<u8>().prop_map(What::Write),
        1 => (0..20u64).prop_map(What::Cut),
        1 => Just(What::Empty),
        1 => any::<u8>().prop_map(What::SetXattr),
        1 => Just(What::RemoveXattr),
        1 => Just(What::Compact),
        1 => Just(What::Reopen),
    ];
    let name = || prop::sample::select(NAMES_USED.to_vec());
    let step = (what, any::<Index>(), name(), any::<Index>(), name())
        .prop_map(|(what, from, old, to, new)| Step { what, from, old, to, new });
    prop::collection::vec(step, 1..most)
}

/// A file of the model. A directory has names.
#[derive(Clone, Debug)]
struct File {
    kind: Kind,
    mode: u16,
    links: u32,
    /// Where it is not known, the file was written by the clock.
    modified: Option<Time>,
    content: Vec<u8>,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    names: BTreeMap<Vec<u8>, Ino>,
    parent: Ino,
}

/// A tree, by the numbers that the thread has said.
#[derive(Clone, Debug, Default)]
pub(super) struct Model {
    files: BTreeMap<Ino, File>,
    /// Numbers of files that are gone.
    gone: BTreeSet<Ino>,
    steps: i64,
}

type Outcome = Result<(), Refusal>;

impl Model {
    /// What the thread shows now.
    pub(super) fn of(thread: &Thread) -> Model {
        let mut model = Model::default();
        let all = seen(thread);
        for (path, seen) in &all {
            let above = path.iter().rposition(|byte| *byte == b'/').map_or(&b""[..], |end| &path[..end]);
            let parent = all[above].ino;
            let Seen { ino, kind, mode, links, modified, ref content, ref xattrs, .. } = *seen;
            let (content, xattrs, names) = (content.clone(), xattrs.clone(), BTreeMap::new());
            let file = File { kind, mode, links, modified: Some(modified), content, xattrs, names, parent };
            model.files.insert(ino, file);
        }
        for (path, seen) in &all {
            if let Some(end) = path.iter().rposition(|byte| *byte == b'/') {
                let above = all[&path[..end]].ino;
                model.file(above).names.insert(path[end + 1..].to_vec(), seen.ino);
            }
        }
        model
    }

    fn file(&mut self, ino: Ino) -> &mut File {
        self.files.get_mut(&ino).expect("it is there")
    }

    fn is_directory(&self, ino: Ino) -> bool {
        self.files[&ino].kind == Kind::Directory
    }

    /// One of the directories.
    fn directory(&self, index: &Index) -> Ino {
        let directories = self.files.iter().filter(|(_, file)| file.kind == Kind::Directory);
        let directories: Vec<_> = directories.map(|(ino, _)| *ino).collect();
        *index.get(&directories)
    }

    /// Does a step in both, and compares what they say of it. Gives the thread, which may have been opened again.
    pub(super) fn step(&mut self, bench: &Bench, thread: Thread, step: &Step) -> Thread {
        self.steps += 1;
        let now = at(self.steps);
        let (from, to) = (self.directory(&step.from), self.directory(&step.to));
        let (old, new) = ((from, step.old), (to, step.new));
        match step.what {
            What::Create => {
                let made = thread.create(from, step.old, NEW_FILE, now).map(|(made, _)| made);
                self.make(old, Kind::File, b"", made, now);
            }
            What::MakeDirectory => {
                self.make(
                    old,
                    Kind::Directory,
                    b"",
                    thread.make_directory(from, step.old, NEW_FILE, now),
                    now,
                );
            }
            What::Symlink => {
                let made = thread.symlink(from, step.old, step.new, NEW_FILE, now);
                self.make(old, Kind::Symlink, step.new, made, now);
            }
            What::Fifo => {
                let made = thread.make_node(from, step.old, (Kind::Fifo, 9), NEW_FILE, now);
                self.make(old, Kind::Fifo, b"", made, now);
            }
            What::Link => self.link(&thread, old, new, now),
            What::Unlink => {
                let removed = thread.unlink(from, step.old, Remains::Nothing, now).map(drop);
                let expected = self.unlink(old, now);
                agree(step, expected, removed);
            }
            What::UnlinkOpen => return self.unlink_open(bench, thread, step, old, now),
            What::RemoveDirectory => {
                let removed = thread.remove_directory(from, step.old, Remains::Nothing, now).map(drop);
                let expected = self.remove_directory(old, now);
                agree(step, expected, removed);
            }
            What::Rename(mode) => {
                let renamed = thread.rename(old, new, mode, Remains::Nothing, now).map(drop);
                let expected = self.rename(old, new, mode, now);
                agree(step, expected, renamed);
            }
            What::Compact => thread.compact().expect("compacted"),
            What::Reopen => return bench.again(thread),
            _ => self.change(&thread, step, old, now),
        }
        thread
    }

    fn make(
        &mut self,
        (above, name): (Ino, &[u8]),
        kind: Kind,
        content: &[u8],
        made: Result<Attributes>,
        now: Time,
    ) {
        if self.files[&above].names.contains_key(name) {
            assert_eq!(refused(made), Refusal::Taken);
            return;
        }
        let made = made.expect("made");
        assert!(
            !self.gone.contains(&made.ino) && !self.files.contains_key(&made.ino),
            "a number is used twice"
        );
        let mode = if kind == Kind::Symlink { 0o777 } else { NEW_FILE.mode };
        let modified = (kind != Kind::File).then_some(now);
        let (content, xattrs, names) = (content.to_vec(), BTreeMap::new(), BTreeMap::new());
        self.files
            .insert(made.ino, File { kind, mode, links: 1, modified, content, xattrs, names, parent: above });
        self.name(above, name, made.ino, now);
    }

    fn name(&mut self, above: Ino, name: &[u8], ino: Ino, now: Time) {
        let directory = self.file(above);
        directory.names.insert(name.to_vec(), ino);
        directory.modified = Some(now);
        if self.is_directory(ino) {
            self.file(ino).parent = above;
        }
    }

    fn link(&mut self, thread: &Thread, (from, old): (Ino, &[u8]), (to, new): (Ino, &[u8]), now: Time) {
        let Some(ino) = self.files[&from].names.get(old).copied() else { return };
        let linked = thread.link(ino, to, new, now);
        if self.is_directory(ino) {
            assert_eq!(refused(linked), Refusal::NotPermitted);
        } else if self.files[&to].names.contains_key(new) {
            assert_eq!(refused(linked), Refusal::Taken);
        } else {
            assert_eq!(linked.expect("linked").ino, ino);
            self.file(ino).links += 1;
            self.name(to, new, ino, now);
        }
    }

    fn unlink(&mut self, (above, name): (Ino, &[u8]), now: Time) -> Outcome {
        let ino = *self.files[&above].names.get(name).ok_or(Refusal::NoSuchName)?;
        if self.is_directory(ino) {
            return Err(Refusal::IsDirectory);
        }
        self.unname((above, name), now);
        self.lose_name(ino);
        Ok(())
    }

    fn unname(&mut self, (above, name): (Ino, &[u8]), now: Time) {
        let directory = self.file(above);
        directory.names.remove(name);
        directory.modified = Some(now);
    }

    fn lose_name(&mut self, ino: Ino) {
        self.file(ino).links -= 1;
        if self.files[&ino].links == 0 {
            self.files.remove(&ino);
            self.gone.insert(ino);
        }
    }

    /// The file stays until it is forgotten, by whoever has the thread then.
    fn unlink_open(
        &mut self,
        bench: &Bench,
        thread: Thread,
        step: &Step,
        (above, name): (Ino, &[u8]),
        now: Time,
    ) -> Thread {
        let before = self.files[&above].names.get(name).map(|ino| (*ino, self.files[ino].clone()));
        let removed = thread.unlink(above, name, Remains::WhileOpen, now).map(drop);
        let expected = self.unlink((above, name), now);
        agree(step, expected, removed);
        let Some((ino, file)) = before.filter(|_| expected.is_ok()) else { return thread };
        let thread = bench.again(thread);
        assert_eq!(thread.attributes(ino).expect("it is open").links, file.links - 1);
        if file.kind == Kind::File {
            assert_eq!(content(&thread, ino), file.content);
        }
        let unnamed: &[Ino] = if file.links == 1 { &[ino] } else { &[] };
        assert_eq!(thread.unnamed(), unnamed);
        thread.forget(&[ino]).expect("forgotten");
        thread
    }

    fn remove_directory(&mut self, (above, name): (Ino, &[u8]), now: Time) -> Outcome {
        let ino = *self.files[&above].names.get(name).ok_or(Refusal::NoSuchName)?;
        if !self.is_directory(ino) {
            return Err(Refusal::NotDirectory);
        }
        if !self.files[&ino].names.is_empty() {
            return Err(Refusal::NotEmpty);
        }
        self.unname((above, name), now);
        self.lose_name(ino);
        Ok(())
    }

    fn rename(&mut self, from: (Ino, &[u8]), to: (Ino, &[u8]), mode: RenameMode, now: Time) -> Outcome {
        let source = *self.files[&from.0].names.get(from.1).ok_or(Refusal::NoSuchName)?;
        let target = self.files[&to.0].names.get(to.1).copied();
        match (mode, target) {
            (RenameMode::NoReplace, Some(_)) => return Err(Refusal::Taken),
            (RenameMode::Exchange, None) => return Err(Refusal::NoSuchName),
            _ => {}
        }
        self.check_outside(source, to.0)?;
        let Some(target) = target else {
            self.unname(from, now);
            self.name(to.0, to.1, source, now);
            return Ok(());
        };
        if target == source {
            return Ok(());
        }
        if mode == RenameMode::Exchange {
            self.check_outside(target, from.0)?;
            self.name(to.0, to.1, source, now);
            self.name(from.0, from.1, target, now);
            return Ok(());
        }
        match (self.is_directory(source), self.is_directory(target)) {
            (false, true) => return Err(Refusal::IsDirectory),
            (true, false) => return Err(Refusal::NotDirectory),
            (true, true) if !self.files[&target].names.is_empty() => return Err(Refusal::NotEmpty),
            _ => {}
        }
        self.unname(from, now);
        self.lose_name(target);
        self.name(to.0, to.1, source, now);
        Ok(())
    }

    fn check_outside(&self, ino: Ino, mut at: Ino) -> Outcome {
        if !self.is_directory(ino) {
            return Ok(());
        }
        while at != Ino::ROOT {
            if at == ino {
                return Err(Refusal::Invalid);
            }
            at = self.files[&at].parent;
        }
        Ok(())
    }

    /// Steps that change a file and no name.
    fn change(&mut self, thread: &Thread, step: &Step, (above, name): (Ino, &[u8]), now: Time) {
        let Some(ino) = self.files[&above].names.get(name).copied() else { return };
        let file = self.file(ino);
        let cannot = match file.kind {
            Kind::File => None,
            Kind::Directory => Some(Refusal::IsDirectory),
            _ => Some(Refusal::Invalid),
        };
        let set = |changes| thread.set_attributes(ino, &changes, now);
        match step.what {
            What::Mode(mode) => {
                set(AttributeChanges { mode: Some(mode), ..AttributeChanges::default() }).expect("set");
                file.mode = mode;
            }
            What::Date(seconds) => {
                let modified = Some(at(seconds));
                set(AttributeChanges { modified, ..AttributeChanges::default() }).expect("dated");
                file.modified = modified;
            }
            What::Write(_) | What::Cut(_) | What::Empty if cannot.is_some() => {
                let access = if matches!(step.what, What::Empty) { Access::Truncate } else { Access::Write };
                assert_eq!(Some(refused(thread.open_content(ino, access))), cannot);
            }
            What::Write(byte) => {
                write(thread, ino, u64::from(byte % 16), &[byte]);
                let end = usize::from(byte % 16) + 1;
                file.content.resize(file.content.len().max(end), 0);
                file.content[end - 1] = byte;
                file.modified = None;
            }
            What::Cut(size) => {
                let cut = set(AttributeChanges { size: Some(size), ..AttributeChanges::default() });
                assert_eq!(cut.expect("cut").size, size);
                file.content.resize(usize::try_from(size).expect("little"), 0);
                file.modified = None;
            }
            What::Empty => {
                drop(thread.open_content(ino, Access::Truncate).expect("opened"));
                file.content.clear();
                file.modified = None;
            }
            What::SetXattr(byte) => {
                let name = [b'n', b'0' + byte % 3];
                thread.set_xattr(ino, &name, &[byte], XattrMode::CreateOrReplace, now).expect("set");
                file.xattrs.insert(name.to_vec(), vec![byte]);
            }
            _ => {
                let removed = thread.remove_xattr(ino, b"n0", now);
                match file.xattrs.remove(&b"n0"[..]) {
                    Some(_) => removed.expect("removed"),
                    None => assert_eq!(refused(removed), Refusal::NoAttribute),
                }
            }
        }
    }

    /// Everything that is to be seen is what the model has.
    pub(super) fn compare(&self, thread: &Thread) {
        let mut all = seen(thread);
        self.compare_below(thread, Ino::ROOT, Vec::new(), &mut all);
        assert!(all.is_empty(), "more is there: {all:?}");
        for ino in &self.gone {
            assert_eq!(refused(thread.attributes(*ino)), Refusal::Stale);
        }
    }

    fn compare_below(&self, thread: &Thread, ino: Ino, path: Vec<u8>, all: &mut BTreeMap<Vec<u8>, Seen>) {
        let seen =
            all.remove(&path).unwrap_or_else(|| panic!("{} is missing", String::from_utf8_lossy(&path)));
        let File { kind, mode, links, modified, content, xattrs, names, parent } = &self.files[&ino];
        let expected = Seen {
            ino,
            kind: *kind,
            mode: *mode,
            links: *links,
            device: 0,
            size: content.len() as u64,
            modified: modified.unwrap_or(seen.modified),
            content: content.clone(),
            xattrs: xattrs.clone(),
        };
        assert_eq!(seen, expected, "{}", String::from_utf8_lossy(&path));
        if *kind == Kind::Directory {
            assert_eq!(thread.parent(ino).expect("above"), *parent);
        }
        for (name, ino) in names {
            self.compare_below(thread, *ino, [&path[..], b"/", name].concat(), all);
        }
    }

    /// As many plain files as files that were written, and none more.
    fn compare_plain(&self, thread: &Thread) {
        let files = self.files.iter().filter(|(_, file)| file.kind == Kind::File);
        let written = files.filter(|(ino, _)| thread.is_written(**ino).expect("known")).count();
        thread.sweep().expect("swept");
        assert_eq!(plain_files(thread), written);
    }
}

/// So many cases, and no file about those that fail: the failure says them.
pub(super) fn config(cases: u32) -> ProptestConfig {
    ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(cases) }
}

fn agree(step: &Step, expected: Outcome, done: Result<()>) {
    match (expected, done) {
        (Ok(()), Ok(())) => {}
        (Err(expected), done) => assert_eq!(refused(done), expected, "{step:?}"),
        (Ok(()), Err(error)) => panic!("{step:?}: {error}"),
    }
}

#[test]
fn names_are_what_a_tree_in_memory_has() {
    let bench = Bench::new();
    let number = Cell::new(0);
    let mut runner = prop::test_runner::TestRunner::new(config(48));
    let run = runner.run(&steps(40), |steps| {
        number.set(number.get() + 1);
        let mut thread = bench.begin(&format!("thread-{}", number.get()));
        let mut model = Model::of(&thread);
        for step in &steps {
            thread = model.step(&bench, thread, step);
        }
        model.compare(&thread);
        let thread = bench.again(thread);
        model.compare(&thread);
        model.compare_plain(&thread);
        let changed = thread.changed().expect("known");
        for pair in changed.windows(2) {
            assert!(pair[0].path < pair[1].path, "a path is told once, in order: {changed:?}");
        }
        Ok(())
    });
    run.unwrap_or_else(|failure| panic!("{failure}"));
}
