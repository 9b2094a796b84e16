//! A small crate, checked: what it is built into lies on the mount, too.

use std::path::Path;
use std::time::Instant;

use super::{Contender, Kind, Manifest, ROW_DEADLINE, Size};
use crate::Program;

const MODULES: usize = 12;

/// The crate, without anything that was made of it.
pub fn prepare(contender: &mut Contender, _: &Size) {
    let root = contender.far.join("crate");
    if root.join("target").exists() {
        super::remove(&root.join("target"));
    }
    write_crate(&root);
    // A peer is not told of what was taken away, and may believe in it for an hour.
    contender.make_cold();
}

/// What there is to build.
pub fn write_crate(root: &Path) {
    let source = root.join("src");
    std::fs::create_dir_all(&source).expect("creating the crate");
    let manifest = "[workspace]\n[package]\nname = \"small\"\nversion = \"0.1.0\"\nedition = \"2021\"\n";
    let root_module: String = (0..MODULES).map(|number| format!("pub mod part{number};\n")).collect();
    let mut files =
        vec![(root.join("Cargo.toml"), manifest.to_owned()), (source.join("lib.rs"), root_module)];
    files.extend((0..MODULES).map(|number| {
        let text = format!("/// A part.\npub fn part() -> usize {{\n    {number}\n}}\n");
        (source.join(format!("part{number}.rs")), text)
    }));
    for (path, text) in files {
        std::fs::write(path, text).expect("writing the crate");
    }
}

pub fn check(contender: &Contender, _: &Size) -> f64 {
    let dir = contender.dir.join("crate");
    let start = Instant::now();
    Program::cargo("check", &dir).deadline(ROW_DEADLINE).ok();
    if contender.kind == Kind::Rclone {
        // It alone goes on writing; what it shows is what will be there.
        let is_lock = |path: &Path| path.ends_with(".cargo-lock");
        Manifest::of(&dir.join("target")).without(is_lock).arrives(&contender.far.join("crate/target"));
    }
    start.elapsed().as_secs_f64()
}
