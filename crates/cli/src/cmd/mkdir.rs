//! `stead mkdir`

use std::ffi::OsString;

use clap_complete::engine::ArgValueCompleter;
use rustix::fs::Mode;
use serde::Serialize;
use wire::api::ErrorKind;
use wire::api::file::{Entry, FileKind, Links, MakeDirectory, SetAttributes, Stat};
use wire::api::machine::Source;

use super::place::Place;
use crate::client::Client;
use crate::completion;
use crate::context::Context;
use crate::error::{Error, Result};

/// What a directory is allowed before the umask takes its part.
const MODE: u32 = 0o777;

/// Make directories on a machine.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Which: MACHINE/PATH
    #[arg(required = true, value_name = "MACHINE/PATH", add = ArgValueCompleter::new(completion::sources))]
    sources: Vec<OsString>,
    /// With the directories above it, as far as they are missing; one that is there is no error
    #[arg(short, long)]
    parents: bool,
    /// Permission bits in octal, such as 750 [default: 777 without those of this shell's umask]
    #[arg(short, long, value_name = "MODE", value_parser = mode)]
    mode: Option<u32>,
}

/// One directory, in JSON.
#[derive(Debug, Serialize)]
struct Made {
    source: Source,
    #[serde(flatten)]
    entry: Entry,
}

fn mode(text: &str) -> std::result::Result<u32, String> {
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o7777 => Ok(mode),
        _ => Err("a mode has up to four digits from 0 to 7".to_owned()),
    }
}

/// Carries it out.
pub fn run(args: Args, context: &mut Context) -> Result<()> {
    let sources = args.sources.iter().map(|text| context.source(text)).collect::<Result<Vec<_>>>()?;
    let client = context.daemon()?;
    let mut made = Vec::new();
    for source in sources {
        let entry = match args.parents {
            false => make(&client, &source, &args, context)?,
            true => make_all(&client, &source, &args, context)?,
        };
        made.push(Made { source, entry });
    }
    if context.output.is_json() {
        context.output.document(&made)?;
    }
    Ok(())
}

/// This shell's umask; reading it means to set it for a moment, and this process makes no file meanwhile.
fn umask() -> u32 {
    let umask = rustix::process::umask(Mode::empty());
    rustix::process::umask(umask);
    crate::system::bits(umask)
}

fn make(client: &Client, source: &Source, args: &Args, context: &Context) -> Result<Entry> {
    let made = client.call(MakeDirectory {
        source: source.clone(),
        mode: args.mode.unwrap_or(MODE & !umask()),
        caller: context.caller(),
    });
    let parents = || format!("stead mkdir -p {source}");
    let made = made.map_err(|error| error.hint_if(ErrorKind::NotFound, parents))?;
    match args.mode {
        // What making leaves out, such as the sticky bit.
        Some(mode) if mode != made.mode & 0o7777 => client.call(SetAttributes {
            source: source.clone(),
            links: Links::Keep,
            mode: Some(mode),
            size: None,
            modified: None,
            accessed: None,
            caller: context.caller(),
        }),
        _ => Ok(made),
    }
}

/// Makes what is missing, the outermost first.
fn make_all(client: &Client, source: &Source, args: &Args, context: &Context) -> Result<Entry> {
    let mut missing = Vec::new();
    let mut at = source.clone();
    let mut there = loop {
        match client.call(Stat { source: at.clone(), links: Links::Follow, caller: context.caller() }) {
            Ok(entry) => break entry,
            Err(Error::Failed(failure)) if failure.kind == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let above = above(&at)?;
        missing.push(std::mem::replace(&mut at, above));
    };
    if there.kind != FileKind::Directory {
        return Err(Error::new(ErrorKind::Conflict, format!("`{at}` is not a directory")));
    }
    let outer = Args { sources: Vec::new(), parents: true, mode: None };
    while let Some(next) = missing.pop() {
        let args = if missing.is_empty() { args } else { &outer };
        there = match make(client, &next, args, context) {
            // Somebody else was quicker.
            Err(Error::Failed(failure)) if failure.kind == ErrorKind::Conflict => {
                let stat = Stat { source: next.clone(), links: Links::Follow, caller: context.caller() };
                match client.call(stat)? {
                    entry if entry.kind == FileKind::Directory => entry,
                    _ => return Err(Error::Failed(failure)),
                }
            }
            made => made?,
        };
    }
    Ok(there)
}

/// The directory that something is in.
fn above(source: &Source) -> Result<Source> {
    let Place { machine, path } = Place::of(source)?;
    let path = path.as_bytes();
    let path = match path.iter().rposition(|&byte| byte == b'/') {
        Some(0) if path.len() > 1 => &path[..1],
        Some(at) if at > 0 => &path[..at],
        None if !path.is_empty() => &path[..0],
        _ => return Err(Error::new(ErrorKind::NotFound, format!("`{source}` does not exist"))),
    };
    Source::files(machine.clone(), path).map_err(Error::usage)
}
