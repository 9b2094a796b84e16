//! `stead unmount`

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

use clap_complete::engine::ArgValueCompleter;
use wire::api::mount::{Force, Remove, Removed, RemovedMount, Target};
use wire::api::status::Mount;
use wire::bytestring::ByteString;

use crate::completion;
use crate::context::Context;
use crate::error::{Error, Result};

/// Take a mount away.
///
/// Waits for unsaved writes. A mount with open files is left alone, unless it is forced.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Which one: its id (`m1`) or its directory
    #[arg(value_name = "ID|DIR", required_unless_present = "all", conflicts_with = "all", add = ArgValueCompleter::new(completion::mounts))]
    target: Option<OsString>,
    /// All of them
    #[arg(long)]
    all: bool,
    /// Take it away now, in use or not. Keeps what cannot be saved at once, and says where: the next mount of the same
    /// source saves it
    #[arg(long, short)]
    force: bool,
}

/// Carries it out.
pub fn run(args: Args, context: &mut Context) -> Result<()> {
    let target = match &args.target {
        Some(text) => target(text, &context.cwd),
        None if args.all => Target::All,
        None => return Err(Error::usage("a mount's id or directory is missing")),
    };
    let force = if args.force { Force::Always } else { Force::Never };
    let (client, asked) = (context.daemon()?, target.clone());
    let goes = |mount: &Mount| match &asked {
        Target::Id(id) => mount.id == *id,
        Target::Dir(dir) => mount.dir == *dir,
        Target::All => true,
    };
    let removed = super::saving::call(&client, Remove { target, force }, goes, &mut context.output)?;
    print(&removed, context)
}

/// A mount is known by the real name of its directory. The name is found without touching the mount itself, which may
/// not answer.
fn target(text: &OsStr, cwd: &Path) -> Target {
    let target = Target::parse(text.as_bytes(), cwd.as_os_str().as_bytes());
    let Target::Dir(dir) = &target else {
        return target;
    };
    let path = dir.as_path();
    let (Some(parent), Some(Component::Normal(name))) = (path.parent(), path.components().next_back()) else {
        return target;
    };
    match parent.canonicalize() {
        Ok(real) => Target::Dir(ByteString::from(real.join(name))),
        // The daemon says better what is wrong with it.
        Err(_) => target,
    }
}

fn print(removed: &Removed, context: &mut Context) -> Result<()> {
    if context.output.is_json() {
        return context.output.document(removed);
    }
    if removed.mounts.is_empty() {
        return context.output.line("nothing is mounted");
    }
    print_gone(&removed.mounts, context)
}

/// Shows mounts that are gone, and what was kept of them.
pub fn print_gone(mounts: &[RemovedMount], context: &mut Context) -> Result<()> {
    for mount in mounts {
        context.output.line(format_args!("{}  {}  unmounted", mount.id, mount.dir))?;
        for path in &mount.kept_aside {
            context.output.line(format_args!("    not saved on the machine, kept in {path}"))?;
        }
    }
    if mounts.iter().any(|mount| !mount.kept_aside.is_empty()) {
        context.output.note("note: what is kept is saved when the same source is mounted again");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_named_without_links_above_it() {
        let scratch = tempfile::tempdir().unwrap();
        let real = scratch.path().canonicalize().unwrap().join("real");
        std::fs::create_dir(&real).unwrap();
        std::os::unix::fs::symlink(&real, scratch.path().join("link")).unwrap();
        let seen = target(OsStr::new("link/m"), scratch.path());
        assert_eq!(seen, Target::Dir(ByteString::from(real.join("m"))));
        assert_eq!(target(OsStr::new("m3"), scratch.path()), Target::Id("m3".parse().unwrap()));
    }
}
