//! `stead search`

use std::ffi::OsString;

use clap_complete::engine::ArgValueCompleter;
use serde::Serialize;
use wire::api::ErrorKind;
use wire::api::machine::Source;
use wire::api::search::{Case, Hit, NextHits, Search, Searched, Tell};

use super::place::Place;
use crate::completion;
use crate::context::Context;
use crate::error::{Error, Result};
use crate::output::text::{counted, printable};
use crate::output::{Output, Style};

/// How many hits are told unless a number is given: more than anybody reads.
const HITS_MAX: u64 = 1_000_000;

/// Search the content of files on a machine.
///
/// The machine itself searches, with several threads, and leaves out what ignore files (.gitignore, .ignore, .rgignore)
/// leave out, names that begin with a dot, and files with zero bytes, as ripgrep does. A line is `path:number:text`; files
/// come in any order. Exits with 3 when nothing was found. With --json each hit is an object on a line of its own, and the
/// last line says what was searched.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  stead search box:src 'fn \\w+_main'
  stead search ssh://box/etc -F -i 'listen 80' --hidden
  stead search box:src --files --glob '*.rs'")]
pub struct Args {
    /// In which file, or below which directory: MACHINE/PATH
    #[arg(value_name = "MACHINE/PATH", add = ArgValueCompleter::new(completion::sources))]
    source: OsString,
    /// A regular expression, as of ripgrep
    #[arg(required_unless_present = "files")]
    pattern: Option<String>,
    /// The names of the files that would be searched, and nothing of what is in them
    #[arg(long, conflicts_with_all = ["pattern", "files_with_matches"])]
    files: bool,
    /// The pattern is text, not an expression
    #[arg(short = 'F', long)]
    fixed_strings: bool,
    /// Letters of either case are the same
    #[arg(short, long, conflicts_with = "smart_case")]
    ignore_case: bool,
    /// The same, unless the pattern has a capital one
    #[arg(short = 'S', long)]
    smart_case: bool,
    /// Only whole words
    #[arg(short, long)]
    word_regexp: bool,
    /// Only files that match, such as `*.rs`, or with `!` those that do not; may be repeated
    #[arg(short, long, value_name = "GLOB")]
    glob: Vec<String>,
    /// Files too that ignore files leave out
    #[arg(long)]
    no_ignore: bool,
    /// Names too that begin with a dot
    #[arg(short = '.', long)]
    hidden: bool,
    /// Only the names of files with matches
    #[arg(short = 'l', long)]
    files_with_matches: bool,
    /// Levels below the directory; 1 is what is in it
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_depth: Option<u32>,
    /// End after so many hits [default: 1000000]
    #[arg(short = 'm', long, value_name = "N")]
    max_hits: Option<u64>,
}

/// A hit, in JSON.
#[derive(Debug, Serialize)]
struct HitLine<'a> {
    source: Source,
    #[serde(flatten)]
    line: Option<&'a wire::api::search::Line>,
}

/// The last line, in JSON.
#[derive(Debug, Serialize)]
struct LastLine {
    searched: Searched,
    hits: u64,
}

/// Carries it out.
pub fn run(args: Args, context: &mut Context) -> Result<()> {
    let source = context.source(&args.source)?;
    let place = Place::of(&source)?;
    let request = Search {
        source: source.clone(),
        pattern: args.pattern,
        fixed: args.fixed_strings,
        case: match (args.ignore_case, args.smart_case) {
            (true, _) => Case::Insensitive,
            (false, true) => Case::Smart,
            (false, false) => Case::Sensitive,
        },
        words: args.word_regexp,
        globs: args.glob,
        ignored: args.no_ignore,
        hidden: args.hidden,
        tell: if args.files_with_matches { Tell::Files } else { Tell::Lines },
        depth_max: args.max_depth,
        hits_max: Some(args.max_hits.unwrap_or(HITS_MAX)),
        caller: context.caller(),
    };
    let client = context.daemon()?;
    let handle = client.call(request)?.handle;
    let (mut hits, mut left_out, mut searched) = (0, 0, Searched::default());
    client.pages(
        handle,
        |handle| NextHits { handle },
        |page| {
            hits += page.hits.len() as u64;
            for hit in &page.hits {
                print(&place, hit, &mut context.output)?;
            }
            left_out += place.tell_unread(&page.left_out, &mut context.output);
            searched = page.searched.unwrap_or(searched);
            context.output.flush()?;
            Ok(page.progress)
        },
    )?;
    if context.output.is_json() {
        context.output.document(&LastLine { searched, hits })?;
    } else if searched.limited {
        context.output.note(format_args!("there is more than these {}", counted(hits, "hit")));
    }
    match (left_out, hits) {
        (1.., _) => {
            let message = format!("{} could not be read", counted(left_out, "file"));
            Err(Error::new(ErrorKind::Failure, message))
        }
        (_, 0) => {
            let message = format!("nothing found in {} of `{source}`", counted(searched.files, "file"));
            Err(Error::new(ErrorKind::NotFound, message))
        }
        _ => Ok(()),
    }
}

fn print(place: &Place<'_>, hit: &Hit, output: &mut Output) -> Result<()> {
    // Of a file that is searched itself there is nothing below.
    let path = if hit.path.is_empty() { place.path.clone() } else { place.path_of(&hit.path) };
    if output.is_json() {
        let source = Source::files(place.machine.clone(), path).map_err(Error::usage)?;
        return output.document(&HitLine { source, line: hit.line.as_ref() });
    }
    if !output.is_terminal() {
        output.raw(path.as_bytes())?;
        if let Some(line) = &hit.line {
            output.raw(format!(":{}:", line.number).as_bytes())?;
            output.raw(line.text.as_bytes())?;
        }
        return output.raw(b"\n");
    }
    let path = output.styled(Style::Head, &path.to_string());
    match &hit.line {
        None => output.line(path),
        Some(line) => {
            let text = marked(line, output);
            output.line(format_args!("{path}:{}:{text}", line.number))
        }
    }
}

/// A line for a terminal: what it would act on is shown, and what was found stands out.
fn marked(line: &wire::api::search::Line, output: &Output) -> String {
    let bytes = line.text.as_bytes();
    let shown = |range: std::ops::Range<usize>| {
        printable(&String::from_utf8_lossy(bytes.get(range).unwrap_or_default()))
    };
    let (mut text, mut at) = (String::new(), 0);
    for &(from, to) in &line.spans {
        let (from, to) = (from as usize, to as usize);
        if from < at || to > bytes.len() || to < from {
            continue;
        }
        text.push_str(&shown(at..from));
        text.push_str(&output.styled(Style::Good, &shown(from..to)));
        at = to;
    }
    text.push_str(&shown(at..bytes.len()));
    if line.cut {
        text.push_str(" ...");
    }
    text
}
