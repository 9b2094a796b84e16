//! What people do to files on both sides, at random, and what must not be lost of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use vfs::replica::item::{SideName, Token};

use super::version;

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

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}

const NAMES: [&str; 6] = ["a", "b", "c.txt", "d", "e\u{301}", "a (conflict from box)"];

/// What there is at least of a content, so that no two differ in less than their length.
const CONTENT_BYTES_MIN: usize = 32;

pub(super) struct Users {
    pub(super) random: Random,
    pub(super) here: PathBuf,
    pub(super) there: PathBuf,
    /// Contents of versions of the machine's.
    pub(super) versions: BTreeMap<Token, Vec<u8>>,
    /// Versions of files here that are the machine's and were not written to since, by path.
    pub(super) clean: BTreeMap<(u64, u64), Token>,
    /// What users wrote, and no user has written over or removed.
    pub(super) live: BTreeSet<Vec<u8>>,
    written: usize,
}

impl Users {
    pub(super) fn new(seed: u64, here: &Path, there: &Path) -> Users {
        Users {
            random: Random(seed),
            here: here.to_owned(),
            there: there.to_owned(),
            versions: BTreeMap::new(),
            clean: BTreeMap::new(),
            live: BTreeSet::new(),
            written: 0,
        }
    }

    pub(super) fn meddle(&mut self, times: usize) {
        for _ in 0..times {
            match self.random.below(2) {
                0 => self.edit(SideName::Here),
                _ => self.edit(SideName::There),
            }
        }
    }

    pub(super) fn edit(&mut self, side: SideName) {
        let root = match side {
            SideName::Here => self.here.clone(),
            SideName::There => self.there.clone(),
        };
        let (mut directories, mut files) = (vec![root.clone()], Vec::new());
        gather(&root, &mut directories, &mut files);
        let (directory, name) = (self.random.pick(&directories).clone(), *self.random.pick(&NAMES));
        let target = directory.join(name);
        let choice = self.random.below(10);
        if choice < 3 || files.is_empty() {
            match target.symlink_metadata() {
                Ok(found) if found.is_dir() => {}
                _ => self.write(side, &target),
            }
            return;
        }
        let file = self.random.pick(&files).clone();
        match choice {
            3 => drop(fs::create_dir(&target)),
            4 => self.write(side, &file),
            5 => self.save_as_editors_do(side, &file),
            6 => self.move_over(side, &file, &target),
            7 => {
                let from = self.random.pick(&directories).clone();
                if from != root && !target.starts_with(&from) && !target.exists() {
                    fs::rename(&from, &target).unwrap();
                }
            }
            8 => self.remove(side, &file),
            _ => {
                let mode = fs::metadata(&file).unwrap().permissions().mode();
                fs::set_permissions(&file, fs::Permissions::from_mode(mode ^ 0o100)).unwrap();
            }
        }
    }

    fn content(&mut self) -> Vec<u8> {
        self.written += 1;
        let text = format!("{:08}.", self.written);
        let length = CONTENT_BYTES_MIN + self.written + 10_000 * self.random.below(3);
        let content: Vec<u8> = text.bytes().cycle().take(length).collect();
        self.live.insert(content.clone());
        content
    }

    /// Whoever writes over a file, or removes it, does not want what a reader would have found in it.
    fn give_up(&mut self, side: SideName, path: &Path) {
        let Ok(found) = path.symlink_metadata() else { return };
        let clean = (side == SideName::Here).then(|| self.clean.get(&super::disk::number(&found))).flatten();
        let content = match clean {
            Some(version) => self.versions.get(version).cloned(),
            None => fs::read(path).ok(),
        };
        if let Some(content) = content {
            self.live.remove(&content);
        }
    }

    fn note(&mut self, side: SideName, path: &Path, content: Vec<u8>) {
        match side {
            SideName::There => drop(self.versions.insert(version(path), content)),
            SideName::Here => {
                let number = super::disk::number(&path.symlink_metadata().unwrap());
                self.clean.remove(&number);
            }
        }
    }

    fn write(&mut self, side: SideName, path: &Path) {
        self.give_up(side, path);
        let content = self.content();
        fs::write(path, &content).unwrap();
        self.note(side, path, content);
    }

    fn save_as_editors_do(&mut self, side: SideName, path: &Path) {
        let new = path.with_file_name(".new");
        let content = self.content();
        fs::write(&new, &content).unwrap();
        self.give_up(side, path);
        fs::rename(&new, path).unwrap();
        self.note(side, path, content);
    }

    fn move_over(&mut self, side: SideName, from: &Path, to: &Path) {
        if from == to || to.is_dir() {
            return;
        }
        self.give_up(side, to);
        fs::rename(from, to).unwrap();
    }

    fn remove(&mut self, side: SideName, path: &Path) {
        self.give_up(side, path);
        fs::remove_file(path).unwrap();
    }
}

/// Nobody touches names of a moment: whoever gives one to another file keeps it.
fn gather(directory: &Path, directories: &mut Vec<PathBuf>, files: &mut Vec<PathBuf>) {
    let mut found: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.sort();
    for path in found {
        if path.file_name().unwrap().as_encoded_bytes().starts_with(b".stead") {
            continue;
        }
        if path.is_dir() {
            gather(&path, directories, files);
            directories.push(path);
        } else {
            files.push(path);
        }
    }
}
