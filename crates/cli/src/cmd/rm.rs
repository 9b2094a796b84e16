//! `stead rm`

use std::ffi::OsString;

use clap_complete::engine::ArgValueCompleter;
use serde::Serialize;
use wire::api::ErrorKind;
use wire::api::file::{FileKind, Links, NextRemoved, Remove, RemoveTree, Stat};
use wire::api::machine::Source;

use crate::client::Client;
use crate::completion;
use crate::context::Context;
use crate::error::{Error, Result};
use crate::output::text::{counted, one_line};

/// Remove files on a machine.
///
/// A directory with everything in it is removed by the machine itself. A link is removed, not what it points to, and what is
/// mounted below a directory stays. What could not be removed is told, and the rest is removed all the same.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Which: MACHINE/PATH
    #[arg(required = true, value_name = "MACHINE/PATH", add = ArgValueCompleter::new(completion::sources))]
    sources: Vec<OsString>,
    /// Directories too, with everything in them
    #[arg(short, long)]
    recursive: bool,
    /// What is not there is no error
    #[arg(short, long)]
    force: bool,
}

/// What was removed, in JSON.
#[derive(Debug, Default, Serialize)]
struct Removed {
    /// How many names.
    removed: u64,
}

/// Carries it out.
pub fn run(args: Args, context: &mut Context) -> Result<()> {
    let sources = args.sources.iter().map(|text| context.source(text)).collect::<Result<Vec<_>>>()?;
    let client = context.daemon()?;
    let mut removed = Removed::default();
    let mut kept = 0;
    for source in &sources {
        let outcome = match args.recursive {
            true => remove_tree(&client, source, context, &mut removed, &mut kept),
            false => remove(&client, source, context, &mut removed),
        };
        match outcome {
            Err(Error::Failed(failure)) if args.force && failure.kind == ErrorKind::NotFound => {}
            outcome => outcome?,
        }
    }
    if kept > 0 {
        return Err(Error::new(
            ErrorKind::Failure,
            format!("{} could not be removed", counted(kept, "name")),
        ));
    }
    match context.output.is_json() {
        true => context.output.document(&removed),
        false => Ok(()),
    }
}

fn remove(client: &Client, source: &Source, context: &Context, removed: &mut Removed) -> Result<()> {
    let stat = Stat { source: source.clone(), links: Links::Keep, caller: context.caller() };
    if client.call(stat)?.kind == FileKind::Directory {
        let message = format!("could not remove `{source}`: it is a directory");
        return Err(Error::new(ErrorKind::Conflict, message).hint(format!("stead rm -r {source}")));
    }
    client.call(Remove { source: source.clone(), caller: context.caller() })?;
    removed.removed += 1;
    Ok(())
}

fn remove_tree(
    client: &Client,
    source: &Source,
    context: &mut Context,
    removed: &mut Removed,
    kept: &mut u64,
) -> Result<()> {
    let begun = client.call(RemoveTree { source: source.clone(), caller: context.caller() })?;
    client.pages(
        begun.handle,
        |handle| NextRemoved { handle },
        |page| {
            removed.removed += page.removed;
            *kept += page.kept.len() as u64;
            for left in page.kept {
                let line = format!("error: could not remove `{}` of `{source}`: {}", left.path, left.reason);
                context.output.note(one_line(&line));
            }
            Ok(page.progress)
        },
    )
}
