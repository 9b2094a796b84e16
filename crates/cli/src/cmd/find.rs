//! `stead find`

use std::ffi::OsString;
use std::time::Duration;

use clap_complete::engine::ArgValueCompleter;
use serde::Serialize;
use wire::api::ErrorKind;
use wire::api::file::{Entry, FileKind, FileTime};
use wire::api::find::{Find, FoundFile, Next};
use wire::api::machine::Source;

use super::place::Place;
use crate::completion;
use crate::context::Context;
use crate::error::{Error, Result};
use crate::output::Output;
use crate::output::text::counted;

/// Find files on a machine by their names.
///
/// The machine itself looks, and tells what it finds as it finds it. Everything below the directory is looked at; links are
/// not followed. A line is the path on the machine, beginning with the directory as it was given. With --json each is an
/// object on a line of its own, with the file's attributes.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  stead find box:src --name '*.rs'
  stead find ssh://box/var/log --type f --changed-within 2h
  stead find box:src -0 | xargs -0 ...")]
pub struct Args {
    /// Below which directory: MACHINE/PATH
    #[arg(value_name = "MACHINE/PATH", add = ArgValueCompleter::new(completion::sources))]
    source: OsString,
    /// Only names that match a shell pattern (`*`, `?`, `[a-z]`, `{a,b}`); may be repeated: one has to match
    #[arg(short, long, value_name = "GLOB")]
    name: Vec<String>,
    /// Letters of either case are the same in patterns
    #[arg(short, long)]
    ignore_case: bool,
    /// Only files (f), directories (d) or links (l); may be joined with commas
    #[arg(short = 't', long = "type", value_name = "f|d|l", value_delimiter = ',')]
    kind: Vec<KindWord>,
    /// Levels below the directory; 1 is what is in it
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_depth: Option<u32>,
    /// Only what has changed its content so recently: a number and s, m, h, d or w
    #[arg(long, value_name = "TIME", value_parser = span)]
    changed_within: Option<Duration>,
    /// End each path with a zero byte, for `xargs -0`
    #[arg(short = '0', long)]
    null: bool,
}

/// What sort of file, in one letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum KindWord {
    #[value(name = "f")]
    File,
    #[value(name = "d")]
    Directory,
    #[value(name = "l")]
    Link,
}

impl KindWord {
    fn kind(self) -> FileKind {
        match self {
            KindWord::File => FileKind::File,
            KindWord::Directory => FileKind::Directory,
            KindWord::Link => FileKind::Link,
        }
    }
}

/// A file that was found, in JSON.
#[derive(Debug, Serialize)]
struct Line {
    source: Source,
    #[serde(flatten)]
    entry: Option<Entry>,
}

/// `90s`, `15m`, `2h`, `3d`, `1w`; seconds where there is no letter.
pub(super) fn span(text: &str) -> std::result::Result<Duration, String> {
    let digits = text.trim_end_matches(|unit: char| unit.is_ascii_alphabetic());
    let seconds = match &text[digits.len()..] {
        "" | "s" => 1,
        "m" | "min" => 60,
        "h" => 3600,
        "d" => 86_400,
        "w" => 604_800,
        unit => return Err(format!("`{unit}` is none of s, m, h, d and w")),
    };
    let count: u64 = digits.parse().map_err(|_| "a number and s, m, h, d or w is wanted".to_owned())?;
    count.checked_mul(seconds).map(Duration::from_secs).ok_or_else(|| "too long ago".to_owned())
}

/// Carries it out.
pub fn run(args: Args, context: &mut Context) -> Result<()> {
    let source = context.source(&args.source)?;
    let place = Place::of(&source)?;
    let client = context.daemon()?;
    let now = context.output.now().unix();
    let since = |within: Duration| {
        let seconds = now.saturating_sub(within.as_secs());
        FileTime { seconds: i64::try_from(seconds).unwrap_or(i64::MAX), nanoseconds: 0 }
    };
    let request = Find {
        source: source.clone(),
        names: args.name,
        ignore_case: args.ignore_case,
        kinds: args.kind.into_iter().map(KindWord::kind).collect(),
        depth_max: args.max_depth,
        changed_since: args.changed_within.map(since),
        attributes: context.output.is_json(),
        caller: context.caller(),
    };
    let mut left_out = 0;
    let end: &[u8] = if args.null { b"\0" } else { b"\n" };
    let handle = client.call(request)?.handle;
    client.pages(
        handle,
        |handle| Next { handle },
        |page| {
            for found in page.found {
                print(&place, found, end, &mut context.output)?;
            }
            left_out += place.tell_unread(&page.left_out, &mut context.output);
            context.output.flush()?;
            Ok(page.progress)
        },
    )?;
    match left_out {
        0 => Ok(()),
        some => {
            Err(Error::new(ErrorKind::Failure, format!("{} could not be read", counted(some, "directory"))))
        }
    }
}

fn print(place: &Place<'_>, found: FoundFile, end: &[u8], output: &mut Output) -> Result<()> {
    if output.is_json() {
        return output.document(&Line { source: place.source_of(&found.path)?, entry: found.entry });
    }
    output.name(&place.path_of(&found.path))?;
    output.raw(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_numbers_with_units() {
        let cases = [("90", Some(90)), ("15m", Some(900)), ("2h", Some(7200)), ("1w", Some(604_800))];
        for (text, seconds) in cases {
            assert_eq!(span(text).ok(), seconds.map(Duration::from_secs), "{text}");
        }
        for wrong in ["", "h", "2y", "-1d", "99999999999999999999d"] {
            assert!(span(wrong).is_err(), "{wrong}");
        }
    }
}
