//! Changes on the machine, one after the other.

use std::collections::{HashMap, HashSet};
use std::fs::OpenOptions;
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::eyes::{BLOCK_BYTES, Block, Seen, Sort, content_bytes};
use super::history::{Change, FileNumber, Filed, Named};
use super::{BOUND, Scene};
use crate::faults::dice::Dice;
use crate::wait::pause;

/// Directories, of which the first are always there.
const DIRECTORIES: usize = 6;
pub const LASTING_DIRECTORIES: usize = 2;
const FILES_PER_DIRECTORY: usize = 8;

/// Most contents are shorter than a page or a few; some come in several pieces.
const BLOCKS_USUAL: u64 = 24;
pub const BLOCKS_MAX: u32 = 600;
const LARGE_ONE_IN: u64 = 12;

/// So many steps come at once, at the most.
const BURST_MAX: u64 = 6;

/// After a burst that nobody has waited for.
const PAUSE_MAX: Duration = Duration::from_millis(20);

/// Between two looks of whoever waits for a change.
const LOOK_AGAIN_AFTER: Duration = Duration::from_micros(300);

const MODES: [u32; 3] = [0o644, 0o600, 0o640];

/// A step at a directory and a file, for the sorts of looks that it can be waited for by.
const WAITED_FOR: [Sort; 3] = [Sort::Read, Sort::Stat, Sort::List];

/// What makes the changes, and waits for them to be seen.
pub struct Hand<'a> {
    scene: &'a Scene<'a>,
    dice: Dice,
    steps: u64,
    next_file: FileNumber,
    next_content: u32,
    seen_after: HashMap<Sort, Vec<Duration>>,
}

/// How the content of a file is changed in place.
#[derive(Clone, Copy, Debug)]
enum Edit {
    Overwrite,
    Grow,
    Shrink,
    /// Cut to nothing first, as most programs save.
    Rewrite,
}

pub fn directory(number: usize) -> String {
    format!("d{number}")
}

fn directory_of(name: &str) -> &str {
    name.split_once('/').map_or(name, |(directory, _)| directory)
}

/// The directories themselves are not in any listing that is looked at.
fn is_seen_by(sort: Sort, name: &str) -> bool {
    sort != Sort::List || directory_of(name) != name
}

impl<'a> Hand<'a> {
    pub fn new(scene: &'a Scene<'a>, dice: Dice) -> Hand<'a> {
        Hand { scene, dice, steps: 0, next_file: 1, next_content: 1, seen_after: HashMap::new() }
    }

    /// All directories and half of the files.
    pub fn set_up(&mut self) {
        for number in 0..DIRECTORIES {
            let directory = directory(number);
            self.scene.history().add_name(&directory, Named::Nothing);
            let files = (0..FILES_PER_DIRECTORY).map(|file| format!("{directory}/f{file}"));
            let files: Vec<String> = files.collect();
            files.iter().for_each(|file| self.scene.history().add_name(file, Named::Nothing));
            self.make_directory(&directory);
            for file in files.iter().step_by(2) {
                self.create(file);
            }
        }
    }

    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// How many steps were made, and how long it took until changes were seen.
    pub fn into_report(self) -> (u64, Vec<(&'static str, Vec<Duration>)>) {
        let mut times: Vec<_> =
            self.seen_after.into_iter().map(|(sort, times)| (sort.name(), times)).collect();
        times.iter_mut().for_each(|(_, times)| times.sort_unstable());
        times.sort_unstable_by_key(|(name, _)| *name);
        (self.steps, times)
    }

    /// Some steps at once. Then it is waited until all of them are seen, or not.
    pub fn work(&mut self) {
        let mut changed = HashSet::new();
        let mut last = Vec::new();
        for _ in 0..1 + self.dice.below(BURST_MAX) {
            last = self.step();
            changed.extend(last.iter().cloned());
            self.steps += 1;
        }
        let ended = Instant::now();
        if self.dice.below(3) == 0 {
            return pause(self.dice.between(Duration::ZERO, PAUSE_MAX));
        }
        let first = *self.dice.pick(&WAITED_FOR);
        for name in last.iter().filter(|name| is_seen_by(first, name)) {
            let Some(seen) = self.wait_for(first, name, ended) else { return };
            self.seen_after.entry(first).or_default().push(seen);
        }
        for (name, sort) in changed.iter().flat_map(|name| WAITED_FOR.map(|sort| (name, sort))) {
            if is_seen_by(sort, name) && self.wait_for(sort, name, ended).is_none() {
                return;
            }
        }
    }

    /// How long after `ended` a look of this sort has seen what the name is now.
    fn wait_for(&self, sort: Sort, name: &str, ended: Instant) -> Option<Duration> {
        let at = if sort == Sort::List { directory_of(name) } else { name };
        loop {
            let look = self.scene.look(sort, at);
            if self.is_current(sort, name, &look.seen) {
                self.note(sort, name, look.to);
                return Some(look.to - ended);
            }
            if let Err(why) = self.scene.judge(&look) {
                self.scene.fail(why);
                return None;
            }
            if look.from.saturating_duration_since(ended) > BOUND {
                let shown = self.scene.history().shown(name);
                self.scene.fail(format!(
                    "{} of {name} does not see what it is now: {look:?}\n{shown}",
                    sort.name()
                ));
                return None;
            }
            pause(LOOK_AGAIN_AFTER);
        }
    }

    /// Nobody else changes anything meanwhile: what is seen is exactly what is.
    fn is_current(&self, sort: Sort, name: &str, seen: &[(String, Seen)]) -> bool {
        let history = self.scene.history();
        let now = history.name(name).now();
        if sort == Sort::List {
            let is_there = seen.iter().any(|(other, seen)| other == name && *seen != Seen::Nothing);
            return is_there == (now != Named::Nothing);
        }
        let [(_, seen)] = seen else { return false };
        match (now, seen) {
            (Named::Nothing, Seen::Nothing) | (Named::Directory, Seen::Directory) => true,
            (Named::File(file), Seen::Attributes { bytes, mode }) => history.file(file).is_some_and(|line| {
                let state = line.now();
                state.mode == *mode && u64::from(state.blocks) * BLOCK_BYTES as u64 == *bytes
            }),
            (Named::File(file), Seen::Content(blocks)) => history.file(file).is_some_and(|line| {
                let state = line.now();
                let is_new = |block: &Block| matches!(block, Block::Of { file: of, content, .. } if (*of, *content) == (file, state.content));
                blocks.len() == state.blocks as usize && blocks.iter().all(is_new)
            }),
            _ => false,
        }
    }

    /// What the name is now has been seen, so nothing before is to be seen any more.
    fn note(&self, sort: Sort, name: &str, at: Instant) {
        let history = &mut *self.scene.history();
        let line = history.name_mut(name);
        let (number, state) = (line.number(), line.now());
        line.has_been_seen(sort, number, at);
        if let Named::File(file) = state
            && sort != Sort::List
            && let Some(line) = history.file_mut(file)
        {
            let number = line.number();
            line.has_been_seen(sort, number, at);
        }
    }

    /// One step. Returns the names that are not what they were.
    fn step(&mut self) -> Vec<String> {
        let (mut files, mut free, mut directories, mut gone) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        {
            let history = self.scene.history();
            for (name, line) in history.names() {
                match (line.now(), name.contains('/')) {
                    (Named::File(_), _) => files.push(name.clone()),
                    (Named::Directory, _) => directories.push(name.clone()),
                    (Named::Nothing, false) => gone.push(name.clone()),
                    (Named::Nothing, true) => {
                        if history.name(directory_of(name)).now() == Named::Directory {
                            free.push(name.clone());
                        }
                    }
                }
            }
        }
        // The order of a map is not the seed's.
        for names in [&mut files, &mut free, &mut directories, &mut gone] {
            names.sort();
        }
        let lasting: Vec<String> = (0..LASTING_DIRECTORIES).map(directory).collect();
        directories.retain(|name| !lasting.contains(name));
        let dice = &mut self.dice;
        let mut pick = |names: &[String]| (!names.is_empty()).then(|| dice.pick(names).clone());
        let (file, other, free) = (pick(&files), pick(&files), pick(&free));
        let (directory, gone) = (pick(&directories), pick(&gone));
        match (dice.below(40), file, other, free, directory, gone) {
            (0..16, Some(file), ..) => self.edit(&file),
            (16..22, Some(file), ..) => self.replace(&file),
            (22..26, Some(file), ..) => self.remove(&file),
            (26..29, Some(file), _, Some(free), ..) => self.rename(&file, &free),
            (29..31, Some(file), Some(other), ..) if file != other => self.rename(&file, &other),
            (31..33, Some(file), ..) => self.set_mode(&file),
            (33, .., Some(directory), _) => self.remove_directory(&directory),
            (34, .., Some(directory), Some(gone)) => self.rename_directory(&directory, &gone),
            (35, .., Some(gone)) => self.make_directory(&gone),
            (36, _, _, Some(free), ..) => self.replace(&free),
            (_, _, _, Some(free), ..) => self.create(&free),
            (_, Some(file), ..) => self.edit(&file),
            (.., Some(gone)) => self.make_directory(&gone),
            _ => Vec::new(),
        }
    }

    fn far(&self, name: &str) -> PathBuf {
        self.scene.far.join(name)
    }

    /// Makes a change, which is seen in part while `make` runs.
    fn change(&self, change: Change, make: impl FnOnce() -> std::io::Result<()>) -> Vec<String> {
        self.scene.history().begin(&change);
        make().unwrap_or_else(|error| panic!("{change:?} on the machine: {error}"));
        self.scene.history().end(&change);
        change.names.into_iter().map(|(name, _)| name).collect()
    }

    fn named(&self, name: &str) -> Named {
        self.scene.history().name(name).now()
    }

    fn filed(&self, name: &str) -> (FileNumber, Filed) {
        let history = self.scene.history();
        let Named::File(file) = history.name(name).now() else { panic!("{name} was picked as a file") };
        (file, history.file(file).expect("what a name stands for is known").now())
    }

    fn new_content(&mut self) -> u32 {
        self.next_content += 1;
        self.next_content
    }

    fn new_file(&mut self) -> (FileNumber, Filed) {
        self.next_file += 1;
        let large = self.dice.below(LARGE_ONE_IN) == 0;
        let most = if large { u64::from(BLOCKS_MAX) } else { BLOCKS_USUAL };
        let blocks = 1 + u32::try_from(self.dice.below(most)).unwrap_or(0);
        let blocks = blocks.min(BLOCKS_MAX);
        (self.next_file, Filed { content: self.new_content(), blocks, least: blocks, mode: MODES[0] })
    }

    fn create(&mut self, name: &str) -> Vec<String> {
        let (file, state) = self.new_file();
        let names = vec![(name.to_owned(), Named::File(file))];
        let change = Change { names, files: vec![(file, state)], ..Change::default() };
        let path = self.far(name);
        self.change(change, || write_new(&path, file, state))
    }

    /// As editors save: a new file in the old one's place, or where there was none.
    fn replace(&mut self, name: &str) -> Vec<String> {
        let (file, state) = self.new_file();
        let draft = self.far(directory_of(name)).join(format!(".draft{file}"));
        write_new(&draft, file, state).unwrap_or_else(|error| panic!("writing {}: {error}", draft.display()));
        let names = vec![(name.to_owned(), Named::File(file))];
        let change = Change { names, whole: vec![(file, state)], ..Change::default() };
        let path = self.far(name);
        self.change(change, || std::fs::rename(draft, path))
    }

    fn edit(&mut self, name: &str) -> Vec<String> {
        let (file, before) = self.filed(name);
        let how =
            *self.dice.pick(&[Edit::Overwrite, Edit::Overwrite, Edit::Grow, Edit::Shrink, Edit::Rewrite]);
        let some = 1 + u32::try_from(self.dice.below(BLOCKS_USUAL)).unwrap_or(0);
        let blocks = match how {
            Edit::Overwrite => before.blocks,
            Edit::Grow => (before.blocks + some).min(BLOCKS_MAX),
            Edit::Shrink => before.blocks.saturating_sub(some).max(1),
            Edit::Rewrite => some,
        };
        let least = if matches!(how, Edit::Rewrite) { 0 } else { blocks };
        let state = Filed { content: self.new_content(), blocks, least, ..before };
        let path = self.far(name);
        let was_name = self.scene.history().name(name).since();
        self.change(Change { files: vec![(file, state)], ..Change::default() }, || {
            let bytes = content_bytes(file, state.content, state.blocks);
            let opened = OpenOptions::new().write(true).truncate(matches!(how, Edit::Rewrite)).open(path)?;
            if matches!(how, Edit::Shrink) {
                opened.set_len(bytes.len() as u64)?;
            }
            opened.write_all_at(&bytes, 0)
        });
        if self.scene.is_near && was_name.elapsed() > BOUND {
            self.read_at_once(name, how);
        }
        vec![name.to_owned()]
    }

    /// Whoever opens a file after it was changed reads what it is.
    fn read_at_once(&self, name: &str, how: Edit) {
        let look = self.scene.look(Sort::Read, name);
        if !self.is_current(Sort::Read, name, &look.seen) {
            let shown = self.scene.history().shown(name);
            self.scene.fail(format!(
                "{name} is opened after it was changed ({how:?}), and is {:?}\n{shown}",
                look.seen
            ));
        }
    }

    fn remove(&mut self, name: &str) -> Vec<String> {
        let change = Change { names: vec![(name.to_owned(), Named::Nothing)], ..Change::default() };
        self.change(change, || std::fs::remove_file(self.far(name)))
    }

    fn rename(&mut self, from: &str, to: &str) -> Vec<String> {
        let names = vec![(from.to_owned(), Named::Nothing), (to.to_owned(), self.named(from))];
        let change = Change { names, ..Change::default() };
        self.change(change, || std::fs::rename(self.far(from), self.far(to)))
    }

    fn set_mode(&mut self, name: &str) -> Vec<String> {
        let (file, before) = self.filed(name);
        let mode = *self.dice.pick(&MODES);
        let change = Change {
            files: vec![(file, Filed { mode, least: before.blocks, ..before })],
            ..Change::default()
        };
        let permissions = std::fs::Permissions::from_mode(mode);
        self.change(change, || std::fs::set_permissions(self.far(name), permissions));
        vec![name.to_owned()]
    }

    fn make_directory(&mut self, name: &str) -> Vec<String> {
        let change = Change { names: vec![(name.to_owned(), Named::Directory)], ..Change::default() };
        self.change(change, || std::fs::create_dir(self.far(name)))
    }

    /// What is in a directory, by the last part of its name.
    fn children(&self, directory: &str) -> Vec<(String, Named)> {
        let history = self.scene.history();
        let below = history.names().filter_map(|(name, line)| {
            let last = name.strip_prefix(directory)?.strip_prefix('/')?;
            Some((last.to_owned(), line.now()))
        });
        below.filter(|(_, state)| *state != Named::Nothing).collect()
    }

    fn remove_directory(&mut self, name: &str) -> Vec<String> {
        let mut names = vec![(name.to_owned(), Named::Nothing)];
        names.extend(
            self.children(name).into_iter().map(|(last, _)| (format!("{name}/{last}"), Named::Nothing)),
        );
        self.change(Change { names, ..Change::default() }, || std::fs::remove_dir_all(self.far(name)))
    }

    fn rename_directory(&mut self, from: &str, to: &str) -> Vec<String> {
        let mut names = vec![(from.to_owned(), Named::Nothing), (to.to_owned(), Named::Directory)];
        for (last, state) in self.children(from) {
            names.push((format!("{from}/{last}"), Named::Nothing));
            names.push((format!("{to}/{last}"), state));
        }
        self.change(Change { names, ..Change::default() }, || std::fs::rename(self.far(from), self.far(to)))
    }
}

fn write_new(path: &Path, file: FileNumber, state: Filed) -> std::io::Result<()> {
    let opened = OpenOptions::new().write(true).create_new(true).mode(state.mode).open(path)?;
    opened.set_permissions(std::fs::Permissions::from_mode(state.mode))?;
    opened.write_all_at(&content_bytes(file, state.content, state.blocks), 0)
}
