//! `stead stat`

use std::ffi::OsString;

use clap_complete::engine::ArgValueCompleter;
use serde::Serialize;
use wire::api::file::{Entry, FileKind, Links, Stat};
use wire::api::machine::Source;

use crate::completion;
use crate::context::Context;
use crate::error::Result;
use crate::output::text::{bytes, file_time};

/// Show the attributes of files on a machine.
///
/// With --json a file is an object: `source`, and the fields of an entry in docs/api.md; several are an array of them.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Which files: MACHINE/PATH
    #[arg(required = true, value_name = "MACHINE/PATH", add = ArgValueCompleter::new(completion::sources))]
    sources: Vec<OsString>,
    /// Of what a symbolic link points to, not of the link
    #[arg(short = 'L', long)]
    follow: bool,
}

/// One file, in JSON.
#[derive(Debug, Serialize)]
struct Document {
    source: Source,
    #[serde(flatten)]
    entry: Entry,
}

/// Carries it out.
pub fn run(args: Args, context: &mut Context) -> Result<()> {
    let sources = args.sources.iter().map(|text| context.source(text)).collect::<Result<Vec<_>>>()?;
    let links = if args.follow { Links::Follow } else { Links::Keep };
    let client = context.daemon()?;
    let mut documents = Vec::new();
    for source in sources {
        let entry = client.call(Stat { source: source.clone(), links, caller: context.caller() })?;
        documents.push(Document { source, entry });
    }
    if context.output.is_json() {
        // One source is one object: that is what a script asks for.
        return match &documents[..] {
            [one] => context.output.document(one),
            many => context.output.document(&many),
        };
    }
    documents.iter().try_for_each(|document| print(document, context))
}

fn print(document: &Document, context: &mut Context) -> Result<()> {
    let Document { source, entry } = document;
    let target = entry.target.as_ref().map(|target| format!(" -> {target}")).unwrap_or_default();
    let rows = [
        ("file", format!("{source}{target}")),
        ("kind", kind_word(entry.kind).to_owned()),
        ("size", format!("{} ({} in {} blocks)", entry.size, bytes(entry.size), entry.blocks)),
        ("mode", format!("{:04o} ({})", entry.mode, mode_text(entry))),
        ("owner", format!("{}:{}", entry.uid, entry.gid)),
        ("inode", format!("{}, {}", entry.inode, crate::output::text::counted(entry.links, "name"))),
        ("modified", file_time(entry.modified)),
        ("changed", file_time(entry.changed)),
        ("accessed", file_time(entry.accessed)),
    ];
    rows.iter().try_for_each(|(name, value)| context.output.line(format_args!("{name:<9} {value}")))
}

fn kind_word(kind: FileKind) -> &'static str {
    match kind {
        FileKind::File => "file",
        FileKind::Directory => "directory",
        FileKind::Link => "symbolic link",
        FileKind::Fifo => "fifo",
        FileKind::Socket => "socket",
        FileKind::CharacterDevice => "character device",
        FileKind::BlockDevice => "block device",
    }
}

/// `drwxr-xr-x`, as `ls -l` has it.
pub fn mode_text(entry: &Entry) -> String {
    let kind = match entry.kind {
        FileKind::File => '-',
        FileKind::Directory => 'd',
        FileKind::Link => 'l',
        FileKind::Fifo => 'p',
        FileKind::Socket => 's',
        FileKind::CharacterDevice => 'c',
        FileKind::BlockDevice => 'b',
    };
    let mut text = String::from(kind);
    // For each class: its bits, the bit that lends it more, and how that shows with and without execution.
    let classes = [(6, 0o4000, 's', 'S'), (3, 0o2000, 's', 'S'), (0, 0o1000, 't', 'T')];
    for (shift, special, with_execute, without) in classes {
        let bits = entry.mode >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (entry.mode & special != 0, bits & 1 != 0) {
            (true, true) => with_execute,
            (true, false) => without,
            (false, true) => 'x',
            (false, false) => '-',
        });
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mode_reads_as_ls_writes_it() {
        let text = |kind: FileKind, mode: u32| {
            let entry = serde_json::json!({
                "name": "x", "kind": kind, "mode": mode, "uid": 0, "gid": 0, "size": 0, "blocks": 0, "links": 1,
                "inode": 1, "modified": {"seconds": 0, "nanoseconds": 0},
                "changed": {"seconds": 0, "nanoseconds": 0}, "accessed": {"seconds": 0, "nanoseconds": 0},
            });
            mode_text(&serde_json::from_value(entry).unwrap())
        };
        assert_eq!(text(FileKind::File, 0o644), "-rw-r--r--");
        assert_eq!(text(FileKind::Directory, 0o1777), "drwxrwxrwt");
        assert_eq!(text(FileKind::File, 0o6755), "-rwsr-sr-x");
        assert_eq!(text(FileKind::File, 0o4644), "-rwSr--r--");
    }
}
