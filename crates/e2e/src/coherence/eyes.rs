//! Looks at the mount, and whether what is seen may be seen.

use std::collections::{HashSet, VecDeque};
use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::hand::BLOCKS_MAX;
use super::history::{FileNumber, Filed, History, Named};
use super::{BOUND, Scene};
use crate::faults::dice::Dice;
use crate::wait::pause;

/// A content is blocks of this size, and each says whose it is.
pub const BLOCK_BYTES: usize = 512;

/// After so many looks the processor is left to those that have to tell of changes.
const LOOKS_AT_ONCE: u32 = 16;
const REST: Duration = Duration::from_millis(2);

/// A file whose content is kept is opened without the machine, which opens it within 100 ms; what is known of is opened
/// without waiting where the machine is far. What goes on the machine before that, so long after at the most, is gone.
const OPENED_WITHIN: Duration = Duration::from_millis(500);

/// Files that an eye keeps open at the most, and looks at again.
const HELD_MAX: usize = 8;

/// How a look is made. What is seen by one sort says nothing of the others: the kernel has a cache for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Sort {
    Stat,
    /// Opened, read, closed.
    Read,
    /// Read by a descriptor that has been open for a while.
    Held,
    List,
}

impl Sort {
    pub fn name(self) -> &'static str {
        match self {
            Sort::Stat => "stat",
            Sort::Read => "open and read",
            Sort::Held => "read again",
            Sort::List => "list",
        }
    }
}

/// What was seen of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    Nothing,
    Directory,
    Attributes {
        bytes: u64,
        mode: u32,
    },
    Content(Vec<Block>),
    /// In a listing.
    Listed,
    Error(ErrorKind, String),
}

/// What a block of a content says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Block {
    Of {
        file: FileNumber,
        content: u32,
        index: u32,
    },
    /// Nothing but zeros.
    Zeros,
    /// Bytes that nobody has written in this way.
    Unwritten,
}

/// The bytes of one block: four words, again and again.
fn block_bytes(file: FileNumber, content: u32, index: u32) -> Vec<u8> {
    let words = [file, content, index, file ^ content ^ index];
    let head: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    head.repeat(BLOCK_BYTES / head.len())
}

/// The bytes of a content.
pub fn content_bytes(file: FileNumber, content: u32, blocks: u32) -> Vec<u8> {
    (0..blocks).flat_map(|index| block_bytes(file, content, index)).collect()
}

/// What bytes that were read are.
fn blocks_of(bytes: &[u8]) -> Vec<Block> {
    let read = |bytes: &[u8]| {
        let word = |number: usize| {
            let word = bytes.get(number * 4..number * 4 + 4)?;
            word.try_into().ok().map(u32::from_le_bytes)
        };
        let (file, content, index) = (word(0)?, word(1)?, word(2)?);
        if bytes.iter().all(|byte| *byte == 0) {
            return Some(Block::Zeros);
        }
        let is_whole = bytes == block_bytes(file, content, index);
        is_whole.then_some(Block::Of { file, content, index })
    };
    bytes.chunks(BLOCK_BYTES).map(|bytes| read(bytes).unwrap_or(Block::Unwritten)).collect()
}

/// A look that has been made.
#[derive(Debug)]
pub struct Look {
    pub sort: Sort,
    pub from: Instant,
    pub to: Instant,
    /// When the file was opened, where that asks the machine: nothing that was over by then is seen of it.
    pub asked: Option<Instant>,
    /// What was seen of each name.
    pub seen: Vec<(String, Seen)>,
}

fn error(error: &std::io::Error) -> Seen {
    match error.kind() {
        ErrorKind::NotFound => Seen::Nothing,
        kind => Seen::Error(kind, error.to_string()),
    }
}

fn stat(path: &Path) -> Seen {
    match path.symlink_metadata() {
        Ok(is) if is.is_dir() => Seen::Directory,
        Ok(is) => Seen::Attributes { bytes: is.size(), mode: is.mode() & 0o7777 },
        Err(found) => error(&found),
    }
}

fn read(path: &Path) -> Seen {
    match std::fs::read(path) {
        Ok(bytes) => Seen::Content(blocks_of(&bytes)),
        Err(found) if found.kind() == ErrorKind::IsADirectory => Seen::Directory,
        Err(found) => error(&found),
    }
}

impl Scene<'_> {
    /// Looks at a name, or at all names in a directory.
    pub fn look(&self, sort: Sort, name: &str) -> Look {
        let path = self.dir.join(name);
        let from = Instant::now();
        let seen = match sort {
            Sort::Stat => stat(&path),
            Sort::Read | Sort::Held => read(&path),
            Sort::List => return self.list(name),
        };
        let asked = (self.is_near && sort == Sort::Read).then_some(from);
        Look { sort, from, to: Instant::now(), asked, seen: vec![(name.to_owned(), seen)] }
    }

    /// What another look sees, and what the kernel has asked of the mount for it: whether it is the kernel that believes
    /// what is wrong, or the mount.
    fn again(&self, sort: Sort, name: &str) -> String {
        let asked = || self.field.status().map(|status| status["operations"].clone());
        let before = asked();
        let seen = self.look(sort, name).seen;
        let after = asked();
        format!("another look sees {seen:?}; requests before and after it:\n{before:?}\n{after:?}")
    }

    fn list(&self, name: &str) -> Look {
        let from = Instant::now();
        let listed = std::fs::read_dir(self.dir.join(name)).and_then(|entries| {
            entries.map(|entry| entry.map(|entry| entry.file_name())).collect::<Result<_, _>>()
        });
        let to = Instant::now();
        let listed: HashSet<String> = match listed {
            Ok(names) => names_of(names),
            Err(found) => {
                let seen = vec![(name.to_owned(), error(&found))];
                return Look { sort: Sort::List, from, to, asked: None, seen };
            }
        };
        let history = self.history();
        let children = history
            .names()
            .filter_map(|(child, _)| Some((child, child.strip_prefix(name)?.strip_prefix('/')?)));
        let seen = children.map(|(child, last)| {
            let seen = if listed.contains(last) { Seen::Listed } else { Seen::Nothing };
            (child.clone(), seen)
        });
        Look { sort: Sort::List, from, to, asked: None, seen: seen.collect() }
    }

    /// Whether all that was seen may be seen; if not, why not. What was seen is noted.
    pub fn judge(&self, look: &Look) -> Result<(), String> {
        self.looks.fetch_add(1, Ordering::Relaxed);
        let history = &mut *self.history();
        for (name, seen) in &look.seen {
            if !judge_name(history, look, name, seen) && !is_of_where_it_was(history, look, name, seen) {
                let took = (look.to - look.from).as_millis();
                let shown = history.shown(name);
                return Err(format!(
                    "{} of {name} took {took} ms and has seen {seen:?}\n{shown}",
                    look.sort.name()
                ));
            }
        }
        Ok(())
    }
}

fn names_of(names: Vec<std::ffi::OsString>) -> HashSet<String> {
    names.into_iter().map(|name| name.to_string_lossy().into_owned()).collect()
}

/// Whether a look may have seen this of a name. Then looks of this sort see nothing before it once
/// the word of it must have come.
fn judge_name(history: &mut History, look: &Look, name: &str, seen: &Seen) -> bool {
    let visible = history.name(name).visible(look.sort, look.from, look.to);
    if let Seen::Error(kind, _) = seen {
        // What was opened by one name may have gone to another meanwhile.
        return *kind == ErrorKind::StaleNetworkFileHandle && visible.len() > 1;
    }
    let Some((number, file)) = fitting(history, look, visible, seen) else { return false };
    history.name_mut(name).has_been_seen(look.sort, number, look.to);
    if let Some((file, state)) = file
        && let Some(line) = history.file_mut(file)
    {
        line.has_been_seen(look.sort, state, look.to);
    }
    true
}

/// Of the states of a name the first of which a look may have seen this, with the file and its state.
fn fitting(
    history: &History,
    look: &Look,
    visible: Vec<(u64, Named)>,
    seen: &Seen,
) -> Option<(u64, Option<(FileNumber, u64)>)> {
    // Who is led by a name that has changed may be led to what was there before.
    let asked = look.asked.filter(|_| visible.len() == 1);
    visible.into_iter().find_map(|(number, state)| match (state, seen) {
        (Named::Nothing, Seen::Nothing) | (Named::Directory, Seen::Directory | Seen::Listed) => {
            Some((number, None))
        }
        (Named::File(_), Seen::Listed) => Some((number, None)),
        (Named::File(file), _) => {
            judge_file(history, look, asked, file, seen).map(|state| (number, Some((file, state))))
        }
        _ => None,
    })
}

/// Whether this was seen in a directory that had the name a while ago and has moved: who goes by a path may be led by what
/// was so to what is so there.
fn is_of_where_it_was(history: &History, look: &Look, name: &str, seen: &Seen) -> bool {
    let Some((directory, last)) = name.split_once('/') else { return false };
    if history.name(directory).visible(look.sort, look.from, look.to).len() < 2 {
        return false;
    }
    let others = history.names().filter(|(other, _)| other.split_once('/').is_some_and(|(_, is)| is == last));
    others
        .map(|(_, line)| line.visible(look.sort, look.from, look.to))
        .any(|visible| fitting(history, look, visible, seen).is_some())
}

/// The earliest state of a file that a look may have seen this of. `asked` is when the machine was asked what the file
/// holds.
fn judge_file(
    history: &History,
    look: &Look,
    asked: Option<Instant>,
    file: FileNumber,
    seen: &Seen,
) -> Option<u64> {
    let bound = look.from.checked_sub(BOUND).unwrap_or(look.from);
    let oldest = asked.map_or(bound, |asked| asked.max(bound));
    let states = history.file(file)?.visible_since(look.sort, oldest, (look.from, look.to));
    let blocks_max = states.iter().map(|(_, state)| state.blocks).max()?;
    let has_length = |blocks: usize| {
        let is_changing = states.len() > 1 && blocks <= blocks_max as usize;
        is_changing || states.iter().any(|(_, state)| state.blocks as usize == blocks)
    };
    match seen {
        Seen::Attributes { bytes, mode } => {
            let blocks = usize::try_from(*bytes).ok()?.div_ceil(BLOCK_BYTES);
            let fits =
                |state: &Filed| state.mode == *mode && (states.len() > 1 || state.blocks as usize == blocks);
            let found = states.iter().find(|(_, state)| fits(state));
            found.filter(|_| has_length(blocks)).map(|(number, _)| *number)
        }
        Seen::Content(blocks) if has_length(blocks.len()) => {
            let mut earliest = states.last()?.0;
            for (at, block) in blocks.iter().enumerate() {
                let (of, content, index) = match *block {
                    Block::Of { file, content, index } => (file, content, index),
                    // Behind the end of a file that was cut, also on the way to being longer, for whoever has it open since before
                    // that. It does not say that any later state was reached.
                    Block::Zeros if states.iter().skip(1).any(|(_, state)| state.least as usize <= at) => {
                        earliest = states.first()?.0;
                        continue;
                    }
                    Block::Zeros | Block::Unwritten => return None,
                };
                let (number, _) = states.iter().find(|(_, state)| state.content == content)?;
                if of != file || index as usize != at {
                    return None;
                }
                earliest = earliest.min(*number);
            }
            // Of what has the length of another state no more is known than that it was between the two.
            let is_whole =
                |(number, state): &(u64, Filed)| *number == earliest && state.blocks as usize == blocks.len();
            let number = if states.iter().any(is_whole) { earliest } else { states.first()?.0 };
            Some(number)
        }
        _ => None,
    }
}

/// Somebody who looks at this and that, and keeps some of it open.
pub struct Eye<'a> {
    scene: &'a Scene<'a>,
    dice: Dice,
    held: VecDeque<Held>,
}

/// A file that is kept open.
struct Held {
    name: String,
    number: FileNumber,
    opened: Instant,
    file: File,
}

impl<'a> Eye<'a> {
    pub fn new(scene: &'a Scene<'a>, dice: Dice) -> Eye<'a> {
        Eye { scene, dice, held: VecDeque::new() }
    }

    /// Until the run is over.
    pub fn look_around(mut self) {
        let mut names: Vec<String> = self.scene.history().names().map(|(name, _)| name.clone()).collect();
        names.sort();
        let directories: Vec<String> = names.iter().filter(|name| !name.contains('/')).cloned().collect();
        while !self.scene.is_over() {
            for _ in 0..LOOKS_AT_ONCE {
                let name = self.dice.pick(&names).clone();
                let outcome = match self.dice.below(20) {
                    0..8 => self.look(Sort::Stat, &name),
                    8..14 => self.look(Sort::Read, &name),
                    14..17 => {
                        let directory = self.dice.pick(&directories).clone();
                        self.look(Sort::List, &directory)
                    }
                    17 => self.hold(&name),
                    _ => self.look_again(),
                };
                if let Err(why) = outcome {
                    return self.scene.fail(why);
                }
            }
            pause(REST);
        }
    }

    fn look(&self, sort: Sort, name: &str) -> Result<(), String> {
        self.scene
            .judge(&self.scene.look(sort, name))
            .map_err(|why| format!("{why}\n{}", self.scene.again(sort, name)))
    }

    /// Keeps a file open.
    fn hold(&mut self, name: &str) -> Result<(), String> {
        let opened = Instant::now();
        let Ok(file) = File::open(self.scene.dir.join(name)) else { return Ok(()) };
        // A directory cannot be read, and what is empty does not say which file it is.
        let Ok(blocks) = read_again(&file) else { return Ok(()) };
        let Some(Block::Of { file: number, .. }) = blocks.first().copied() else { return Ok(()) };
        self.held.push_back(Held { name: name.to_owned(), number, opened, file });
        if self.held.len() > HELD_MAX {
            self.held.pop_front();
        }
        Ok(())
    }

    /// What is open shows the file that was opened, whatever has become of its name.
    fn look_again(&mut self) -> Result<(), String> {
        if self.held.is_empty() {
            return Ok(());
        }
        let at = self.dice.index(self.held.len());
        let Held { name, number, opened, file } = &self.held[at];
        let from = Instant::now();
        let seen = match read_again(file) {
            Ok(blocks) => Seen::Content(blocks),
            Err(found) => error(&found),
        };
        let asked = self.scene.is_near.then_some(*opened);
        let look = Look { sort: Sort::Held, from, to: Instant::now(), asked, seen: Vec::new() };
        self.scene.looks.fetch_add(1, Ordering::Relaxed);
        let history = &mut *self.scene.history();
        if history.name(name).ended_before(Named::File(*number), *opened + OPENED_WITHIN) {
            // Nobody may have opened it on the machine in time: then it is what it was when it was opened here, or lost.
            let is_lost = matches!(seen, Seen::Error(ErrorKind::StaleNetworkFileHandle, _));
            let since_opened = Look { from: *opened, seen: Vec::new(), ..look };
            if is_lost || judge_file(history, &since_opened, None, *number, &seen).is_some() {
                self.held.remove(at);
                return Ok(());
            }
        }
        let Some(state) = judge_file(history, &look, look.asked, *number, &seen) else {
            let ago = look.from.saturating_duration_since(*opened).as_millis();
            let (shown, shown_file) = (history.shown(name), history.shown_file(*number));
            return Err(format!(
                "file {number}, opened as {name} {ago} ms before, shows {seen:?}\n{shown_file}\n{shown}"
            ));
        };
        if let Some(line) = history.file_mut(*number) {
            line.has_been_seen(Sort::Held, state, look.to);
        }
        Ok(())
    }
}

fn read_again(file: &File) -> std::io::Result<Vec<Block>> {
    let mut bytes = vec![0; (BLOCKS_MAX as usize + 1) * BLOCK_BYTES];
    let mut filled = 0;
    loop {
        match file.read_at(&mut bytes[filled..], filled as u64)? {
            0 => break,
            count => filled += count,
        }
    }
    Ok(blocks_of(&bytes[..filled]))
}
