//! `stead man`

use std::path::PathBuf;

use wire::bytestring::ByteString;

use crate::context::Context;
use crate::error::{Error, Result};

/// Write the manual pages: stead.1 and one for each command.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// An existing directory, such as ~/.local/share/man/man1
    dir: PathBuf,
}

/// Carries it out.
pub fn run(args: Args, context: &mut Context) -> Result<()> {
    let dir = context.cwd.join(&args.dir);
    let mut written = Vec::new();
    for (name, command) in pages() {
        let path = dir.join(format!("{name}.1"));
        let mut page = Vec::new();
        clap_mangen::Man::new(command)
            .title(name.to_uppercase())
            .render(&mut page)
            .and_then(|()| std::fs::write(&path, &page))
            .map_err(|error| Error::io(format_args!("could not write `{}`", path.display()), &error))?;
        written.push(ByteString::from(path));
    }
    if context.output.is_json() {
        return context.output.document(&written);
    }
    written.iter().try_for_each(|path| context.output.line(path))
}

/// Every page and what it is about: `stead`, `stead-mount`, `stead-daemon-logs`.
fn pages() -> Vec<(String, clap::Command)> {
    let mut definition = super::definition();
    definition.build();
    let mut pages = Vec::new();
    collect("stead".to_owned(), definition, &mut pages);
    pages
}

fn collect(name: String, command: clap::Command, pages: &mut Vec<(String, clap::Command)>) {
    for inner in command.get_subcommands().filter(|inner| !inner.is_hide_set()) {
        collect(format!("{name}-{}", inner.get_name()), inner.clone(), pages);
    }
    let page = command.name(name.clone());
    pages.push((name, page));
}
