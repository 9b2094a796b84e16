//! A tree of source code: a few hundred files of some kilobytes, as grep, tar and git meet it.

use std::path::{Path, PathBuf};
use std::time::Instant;

use super::{Contender, Manifest, ROW_DEADLINE, Size, fresh, make_once};
use crate::Program;
use crate::faults::dice::Dice;

const FILES_PER_DIRECTORY: usize = 12;
const DIRECTORIES_PER_MODULE: usize = 6;

/// Lines of a file, at the most: with those of thirty bytes, up to some twelve kilobytes.
const LINES_MAX: usize = 400;

/// Every so many-th file has the word that is looked for.
const FILES_PER_NEEDLE: usize = 10;
const NEEDLE: &str = "the_needle_in_the_haystack";

/// Text of the length and the repetitions of source code, always the same.
pub fn write_source(root: &Path, files: usize) {
    write_source_of(root, files, LINES_MAX);
}

/// Where in its tree a file of source is.
pub fn source_path(number: usize) -> PathBuf {
    let directory = number / FILES_PER_DIRECTORY;
    let directory = format!("module{}/src{directory}", directory / DIRECTORIES_PER_MODULE);
    Path::new(&directory).join(format!("file{number}.rs"))
}

/// The same with so many lines in a file at most.
pub fn write_source_of(root: &Path, files: usize, lines_max: usize) {
    let mut dice = Dice::new(7);
    for number in 0..files {
        let path = root.join(source_path(number));
        if number % FILES_PER_DIRECTORY == 0 {
            std::fs::create_dir_all(path.parent().unwrap_or(root)).expect("creating a directory of source");
        }
        let line = |dice: &mut Dice| format!("    let value{} = {};\n", dice.below(99), dice.below(1 << 40));
        let lines = 1 + dice.index(lines_max);
        let mut text: String = (0..lines).map(|_| line(&mut dice)).collect();
        if number % FILES_PER_NEEDLE == 0 {
            text += NEEDLE;
            text += "\n";
        }
        std::fs::write(path, text).expect("writing a file of source");
    }
}

pub fn prepare(contender: &mut Contender, size: &Size) {
    make_once(&contender.far.join("source"), |path| write_source(path, size.source_files));
}

pub fn grep(contender: &Contender, size: &Size) -> f64 {
    let looking = Program::new("grep").arg("-r").arg(NEEDLE).arg(contender.dir.join("source"));
    let done = looking.deadline(ROW_DEADLINE).ok();
    assert_eq!(done.text().lines().count(), size.source_files.div_ceil(FILES_PER_NEEDLE));
    done.took.as_secs_f64()
}

fn archive(contender: &Contender) -> PathBuf {
    contender.local().join("source.tar")
}

pub fn prepare_archive(contender: &mut Contender, size: &Size) {
    let local = contender.local();
    make_once(&local.join("source"), |path| write_source(path, size.source_files));
    make_once(&archive(contender), |path| {
        Program::new("tar").arg("-cf").arg(path).arg("-C").arg(&local).arg("source").ok();
    });
}

pub fn unpack(contender: &Contender, _: &Size) -> f64 {
    let manifest = Manifest::of(&contender.local().join("source"));
    let name = fresh(contender, "unpacked");
    let renaming = format!("s/^source/{name}/");
    let start = Instant::now();
    let unpacking = Program::new("tar").arg("-xf").arg(archive(contender)).arg("-C").arg(&contender.dir);
    unpacking.args(["--transform", &renaming]).deadline(ROW_DEADLINE).ok();
    manifest.arrives(&contender.far.join(name));
    start.elapsed().as_secs_f64()
}
