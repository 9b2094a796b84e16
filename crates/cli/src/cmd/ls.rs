//! `stead ls`

use std::ffi::OsString;

use clap_complete::engine::ArgValueCompleter;
use serde::Serialize;
use wire::api::ErrorKind;
use wire::api::file::{Entry, FileKind, Links, List, OpenDirectory, Stat};
use wire::api::machine::Source;

use super::place::Place;
use super::stat::mode_text;
use crate::client::Client;
use crate::completion;
use crate::context::Context;
use crate::error::{Error, Result};
use crate::output::text::file_time;
use crate::output::{Align, Cell, Style, Table};

/// List a directory on a machine.
///
/// Names are sorted by their bytes. On a terminal, characters that it would act on are shown as \xNN.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to list: MACHINE/PATH. A file lists itself
    #[arg(required = true, value_name = "MACHINE/PATH", add = ArgValueCompleter::new(completion::sources))]
    sources: Vec<OsString>,
    /// With mode, links, owner, group, size in bytes and time of change (UTC)
    #[arg(short, long)]
    long: bool,
    /// With names that begin with a dot
    #[arg(short, long)]
    all: bool,
    /// A directory itself, not what is in it
    #[arg(short, long)]
    directory: bool,
}

/// One source, in JSON.
#[derive(Debug, Serialize)]
struct Listing {
    source: Source,
    entries: Vec<Entry>,
}

/// Carries it out.
pub fn run(args: Args, context: &mut Context) -> Result<()> {
    let sources = args.sources.iter().map(|text| context.source(text)).collect::<Result<Vec<_>>>()?;
    let client = context.daemon()?;
    let headed = sources.len() > 1;
    let mut listings = Vec::new();
    for source in sources {
        let mut entries = entries(&client, &source, &args, context)?;
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        let listing = Listing { source, entries };
        if context.output.is_json() {
            listings.push(listing);
            continue;
        }
        if headed {
            context.output.line(format_args!("{}:", listing.source))?;
        }
        print(&listing.entries, args.long, context)?;
    }
    if context.output.is_json() {
        context.output.document(&listings)?;
    }
    Ok(())
}

fn entries(client: &Client, source: &Source, args: &Args, context: &Context) -> Result<Vec<Entry>> {
    let caller = context.caller();
    let links = if args.directory { Links::Keep } else { Links::Follow };
    let entry = client.call(Stat { source: source.clone(), links, caller: caller.clone() })?;
    if args.directory || entry.kind != FileKind::Directory {
        return Ok(vec![entry]);
    }
    let mut entries = read_directory(client, OpenDirectory { source: source.clone(), caller })?;
    entries.retain(|entry| args.all || !entry.name.as_bytes().starts_with(b"."));
    if args.long {
        add_targets(client, source, &mut entries, context)?;
    }
    Ok(entries)
}

/// Asks where links point, of those whose listing did not say. A link that has gone meanwhile points nowhere.
fn add_targets(client: &Client, source: &Source, entries: &mut [Entry], context: &Context) -> Result<()> {
    let Ok(place) = Place::of(source) else {
        return Ok(());
    };
    for entry in entries.iter_mut().filter(|entry| entry.kind == FileKind::Link && entry.target.is_none()) {
        let source = place.source_of(&entry.name)?;
        match client.call(Stat { source, links: Links::Keep, caller: context.caller() }) {
            Ok(found) => entry.target = found.target,
            Err(Error::Failed(failure)) if failure.kind == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// All entries of a directory, in the machine's order.
pub fn read_directory(client: &Client, request: OpenDirectory) -> Result<Vec<Entry>> {
    let handle = client.call(request)?.handle;
    let mut entries = Vec::new();
    client.pages(
        handle,
        |handle| List { handle },
        |listed| {
            entries.extend(listed.entries);
            Ok(listed.progress)
        },
    )?;
    Ok(entries)
}

fn print(entries: &[Entry], long: bool, context: &mut Context) -> Result<()> {
    if !long {
        for entry in entries {
            let name = shown_name(entry, context);
            context.output.raw(&name)?;
            context.output.raw(b"\n")?;
        }
        return Ok(());
    }
    let columns = [Align::Left, Align::Right, Align::Right, Align::Right, Align::Right, Align::Left];
    let mut table = Table::without_heading(&columns);
    for entry in entries {
        table.row([
            mode_text(entry).into(),
            entry.links.into(),
            entry.uid.into(),
            entry.gid.into(),
            entry.size.into(),
            Cell::styled(file_time(entry.modified), Style::Plain),
        ]);
    }
    // The name comes last and as bytes, which a table does not hold.
    let lines = table.render(false);
    for (line, entry) in lines.lines().zip(entries) {
        let name = shown_name(entry, context);
        context.output.raw(line.as_bytes())?;
        context.output.raw(b"  ")?;
        context.output.raw(&name)?;
        if let Some(target) = &entry.target {
            context.output.raw(b" -> ")?;
            context.output.name(target)?;
        }
        context.output.raw(b"\n")?;
    }
    Ok(())
}

/// The name as it is, or as a terminal may be shown it.
fn shown_name(entry: &Entry, context: &Context) -> Vec<u8> {
    if !context.output.is_terminal() {
        return entry.name.as_bytes().to_vec();
    }
    let style = match entry.kind {
        FileKind::Directory => Style::Head,
        FileKind::Link => Style::Fair,
        _ if entry.kind == FileKind::File && entry.mode & 0o111 != 0 => Style::Good,
        _ => Style::Plain,
    };
    context.output.styled(style, &entry.name.to_string()).into_bytes()
}
