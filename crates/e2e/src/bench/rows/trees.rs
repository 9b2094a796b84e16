//! Many small files.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::{Contender, ROW_DEADLINE, Size, fresh, make_once, per_second, remove, sequential};
use crate::{Finished, Program, eventually};

/// The size of the files of a tree.
const FILE_BYTES: usize = 4096;

const FILES_PER_DIRECTORY: usize = 100;

/// The names of a tree, directory by directory.
fn tree_files(root: &Path, files: usize) -> impl Iterator<Item = PathBuf> {
    let root = root.to_owned();
    (0..files).map(move |number| root.join(format!("d{:03}/f{number:05}", number / FILES_PER_DIRECTORY)))
}

/// Files of 4 KiB, a hundred in a directory.
pub fn write_tree(root: &Path, files: usize) {
    let contents = sequential::noise();
    write_files(root, files, |number| {
        let at = number % (contents.len() - FILE_BYTES);
        &contents[at..at + FILE_BYTES]
    });
}

fn write_files<'a>(root: &Path, files: usize, content: impl Fn(usize) -> &'a [u8]) {
    for (number, path) in tree_files(root, files).enumerate() {
        if number % FILES_PER_DIRECTORY == 0 {
            std::fs::create_dir_all(path.parent().unwrap_or(root)).expect("creating a directory of the tree");
        }
        std::fs::write(path, content(number)).expect("writing a file of the tree");
    }
}

pub fn prepare(contender: &mut Contender, size: &Size) {
    make_once(&contender.far.join("tree"), |path| write_tree(path, size.files));
}

pub fn prepare_doomed(contender: &mut Contender, size: &Size) {
    make_once(&contender.far.join("doomed"), |path| write_tree(path, size.files));
}

/// Empty files, as many to a directory as in the others: what is measured is their number.
pub fn prepare_entries<const ENTRIES: usize>(contender: &mut Contender, _: &Size) {
    let root = contender.far.join(format!("entries{ENTRIES}"));
    make_once(&root, |root| write_files(root, ENTRIES, |_| &[]));
}

pub fn create(contender: &Contender, size: &Size) -> f64 {
    let name = fresh(contender, "created");
    let (root, there) = (contender.dir.join(&name), contender.far.join(&name));
    let start = Instant::now();
    write_tree(&root, size.files);
    eventually(ROW_DEADLINE, "all files are on the other side", || {
        let whole = |path: PathBuf| path.metadata().is_ok_and(|is| is.size() == FILE_BYTES as u64);
        tree_files(&there, size.files).all(whole)
    });
    per_second(size.files, start)
}

pub fn stat(contender: &Contender, size: &Size) -> f64 {
    let start = Instant::now();
    for path in tree_files(&contender.dir.join("tree"), size.files) {
        let is = path.symlink_metadata().expect("looking at a file");
        assert_eq!(is.size(), FILE_BYTES as u64);
    }
    per_second(size.files, start)
}

pub fn read(contender: &Contender, size: &Size) -> f64 {
    let start = Instant::now();
    for path in tree_files(&contender.dir.join("tree"), size.files) {
        assert_eq!(std::fs::read(path).expect("reading a file").len(), FILE_BYTES);
    }
    per_second(size.files, start)
}

pub fn unlink(contender: &Contender, size: &Size) -> f64 {
    let there = contender.far.join("doomed");
    let start = Instant::now();
    for path in tree_files(&contender.dir.join("doomed"), size.files) {
        std::fs::remove_file(path).expect("removing a file");
    }
    eventually(ROW_DEADLINE, "all files are gone on the other side", || {
        tree_files(&there, size.files).all(|path| path.symlink_metadata().is_err())
    });
    let figure = per_second(size.files, start);
    remove(&there);
    figure
}

/// Lists every file below `root`, as `arguments` say.
fn listed(root: &Path, arguments: &[&str], files: usize) -> Finished {
    let listing = Program::new("find").arg(root).args(["-type", "f"]).args(arguments);
    let done = listing.deadline(ROW_DEADLINE).ok();
    assert_eq!(done.stdout.iter().filter(|byte| **byte == b'\n').count(), files);
    done
}

/// Names alone.
pub fn find(contender: &Contender, size: &Size) -> f64 {
    listed(&contender.dir.join("tree"), &[], size.files).took.as_secs_f64()
}

/// Names and sizes.
pub fn find_stat(contender: &Contender, size: &Size) -> f64 {
    listed(&contender.dir.join("tree"), &["-printf", "%s\\n"], size.files).took.as_secs_f64()
}

/// Microseconds for each of so many entries to be listed with its size.
pub fn per_entry<const ENTRIES: usize>(contender: &Contender, _: &Size) -> f64 {
    let root = contender.dir.join(format!("entries{ENTRIES}"));
    listed(&root, &["-printf", "%s\\n"], ENTRIES).took.as_secs_f64() * 1e6 / ENTRIES as f64
}
