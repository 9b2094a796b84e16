//! `stead watch`

use std::ffi::OsString;

use clap_complete::engine::ArgValueCompleter;
use serde::Serialize;
use wire::api::file::Progress;
use wire::api::machine::Source;
use wire::api::watch::{Change, ChangeEvent, NextChanges, Watch};

use super::place::Place;
use crate::completion;
use crate::context::Context;
use crate::error::Result;
use crate::output::{Output, Style};

/// Print what changes below a directory on a machine, as it changes.
///
/// One path a line, until interrupted: `created`, `modified` or `removed`. Changes of one path that come fast are one.
/// `rescan` says that some were missed, because there were too many at once or the machine was away: what is there now is
/// to be looked at again. Everything after `watching` is told, but for copies that `stead cp` has not completed.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  stead watch box:src
  stead watch box:src --json | jq -r 'select(.event == \"modified\").source'")]
pub struct Args {
    /// Which directory: MACHINE/PATH
    #[arg(value_name = "MACHINE/PATH", add = ArgValueCompleter::new(completion::sources))]
    source: OsString,
    /// The directory itself, not what is in directories below it
    #[arg(long)]
    no_recursive: bool,
}

/// What is told beside changes of paths.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case", tag = "event")]
enum Mark {
    Watching,
    Rescan,
}

/// A change, in JSON.
#[derive(Debug, Serialize)]
struct Line {
    event: ChangeEvent,
    source: Source,
}

/// Carries it out.
pub fn run(args: Args, context: &mut Context) -> Result<()> {
    let source = context.source(&args.source)?;
    let place = Place::of(&source)?;
    let client = context.daemon()?;
    let request = Watch { source: source.clone(), recursive: !args.no_recursive, caller: context.caller() };
    let handle = client.call(request)?.handle;
    let mut begun = false;
    loop {
        let page = client.call(NextChanges { handle })?;
        let output = &mut context.output;
        if !std::mem::replace(&mut begun, true) {
            mark(Mark::Watching, output)?;
        }
        if page.rescan {
            mark(Mark::Rescan, output)?;
        }
        for change in page.changes.iter().filter(|change| !is_unfinished(change)) {
            print(&place, change, output)?;
        }
        output.flush()?;
        if page.progress == Progress::End {
            return Ok(());
        }
    }
}

/// Whether it is about a copy that is not complete: that is told under the name it gets.
fn is_unfinished(change: &Change) -> bool {
    let name = change.path.as_bytes().rsplit(|&byte| byte == b'/').next();
    name.is_some_and(super::cp::is_unfinished)
}

fn mark(mark: Mark, output: &mut Output) -> Result<()> {
    if output.is_json() {
        return output.document(&mark);
    }
    let word = match mark {
        Mark::Watching => "watching",
        Mark::Rescan => "rescan",
    };
    let word = output.styled(Style::Fair, word);
    output.line(word)
}

fn print(place: &Place<'_>, change: &Change, output: &mut Output) -> Result<()> {
    let event = change.event;
    if output.is_json() {
        return output.document(&Line { event, source: place.source_of(&change.path)? });
    }
    let (word, style) = match event {
        ChangeEvent::Created => ("created ", Style::Good),
        ChangeEvent::Modified => ("modified", Style::Plain),
        ChangeEvent::Removed => ("removed ", Style::Bad),
    };
    let word = output.styled(style, word);
    output.raw(word.as_bytes())?;
    output.raw(b"  ")?;
    output.name(&place.path_of(&change.path))?;
    output.raw(b"\n")
}
