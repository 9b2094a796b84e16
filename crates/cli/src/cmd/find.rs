//! `stead find`

use std::ffi::OsString;
use std::time::Duration;

use serde::Serialize;
use wire::api::ErrorKind;
use wire::api::file::{Close, Entry, FileKind, FileTime, Progress};
use wire::api::find::{Find, Found, FoundFile, Next};
use wire::api::machine::Source;
use wire::bytestring::ByteString;

use crate::client::Client;
use crate::context::Context;
use crate::error::{Error, Result};
use crate::output::text::{counted, one_line};

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
    #[arg(value_name = "MACHINE/PATH")]
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
fn span(text: &str) -> std::result::Result<Duration, String> {
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
    let Source::Files { path, .. } = &source else {
        return Err(Error::usage(format_args!("`{source}` is a thread; its files are where it is mounted")));
    };
    let path = path.clone();
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
    pages(&client, request, |page| {
        for found in page.found {
            print(&source, &path, found, end, context)?;
        }
        left_out += page.left_out.len() as u64;
        for left in page.left_out {
            let what = path_below(&path, &left.path).to_string();
            context.output.note(one_line(&format!("error: could not read `{what}`: {}", left.reason)));
        }
        context.output.flush()
    })?;
    match left_out {
        0 => Ok(()),
        some => {
            Err(Error::new(ErrorKind::Failure, format!("{} could not be read", counted(some, "directory"))))
        }
    }
}

/// Asks for page after page until the last.
fn pages(client: &Client, request: Find, mut each: impl FnMut(Found) -> Result<()>) -> Result<()> {
    let handle = client.call(request)?.handle;
    loop {
        let page = client.call(Next { handle })?;
        let progress = page.progress;
        each(page)?;
        if progress == Progress::End {
            return client.call(Close { handle }).map(drop);
        }
    }
}

fn print(
    source: &Source,
    path: &ByteString,
    found: FoundFile,
    end: &[u8],
    context: &mut Context,
) -> Result<()> {
    let path = path_below(path, &found.path);
    if context.output.is_json() {
        let Source::Files { machine, .. } = source else { return Ok(()) };
        let source = Source::files(machine.clone(), path).map_err(Error::usage)?;
        return context.output.document(&Line { source, entry: found.entry });
    }
    match context.output.is_terminal() {
        true => context.output.raw(path.to_string().as_bytes())?,
        false => context.output.raw(path.as_bytes())?,
    }
    context.output.raw(end)
}

/// A path below a directory, beginning with the directory as it was given.
pub fn path_below(directory: &ByteString, path: &ByteString) -> ByteString {
    match directory.as_bytes() {
        b"" => path.clone(),
        directory if directory.ends_with(b"/") => ByteString::from([directory, path.as_bytes()].concat()),
        directory => ByteString::from([directory, b"/", path.as_bytes()].concat()),
    }
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

    #[test]
    fn a_path_begins_with_the_directory_as_it_was_given() {
        let join = |directory: &str| path_below(&directory.into(), &"a/b".into()).to_string();
        assert_eq!(["", "/", "src", "/src"].map(join), ["a/b", "/a/b", "src/a/b", "/src/a/b"]);
    }
}
