//! `file.*`

use wire::api::file::{self, Content, Each, FileKind, Links, Purpose};
use wire::api::id::HandleId;
use wire::api::{ErrorKind, ErrorObject, find, search, watch};
use wire::bytestring::ByteString;

use super::{HANDLE, Method, caller, entry, json, source, time};

pub(super) fn methods() -> Vec<Method> {
    let search = search::Search {
        source: source("/src"),
        pattern: Some("fn main".to_owned()),
        fixed: true,
        case: search::Case::Smart,
        words: false,
        globs: vec!["*.rs".to_owned()],
        ignored: false,
        hidden: false,
        tell: search::Tell::Lines,
        depth_max: None,
        hits_max: Some(1000),
        caller: caller(),
    };
    let find = find::Find {
        source: source("/src"),
        names: vec!["*.rs".to_owned()],
        ignore_case: false,
        kinds: vec![FileKind::File],
        depth_max: Some(3),
        changed_since: Some(time()),
        attributes: true,
        caller: caller(),
    };
    let failure = ErrorObject::new(ErrorKind::NotFound, "could not read `ssh://u@box/src/lib.rs`: not found");
    let opened = || json(file::Opened { handle: HANDLE, entry: entry() });
    let done = || json(file::Done {});
    let write = Purpose::Write { create: file::Creation::Truncate, mode: 0o644 };
    let put = file::Put {
        source: source("/src/main.rs"),
        mode: 0o644,
        modified: Some(time()),
        content: Content(b"hello".to_vec()),
        caller: caller(),
    };
    let put_many = file::PutMany {
        directory: source("/src"),
        files: vec![file::NewFile {
            name: ByteString::from("main.rs"),
            beside: ByteString::from(".main.rs.part"),
            mode: 0o644,
            modified: Some(time()),
            content: Content(b"hello".to_vec()),
        }],
        caller: caller(),
    };
    let set = file::SetAttributes {
        source: source("/src/main.rs"),
        links: Links::Follow,
        mode: Some(0o600),
        size: Some(0),
        modified: Some(time()),
        accessed: Some(time()),
        caller: caller(),
    };
    vec![
        Method {
            call: file::Stat { source: source("/src/main.rs"), links: Links::Keep, caller: caller() }.into(),
            reply: json(entry()),
            text: "Attributes of one file; with `links: \"follow\"` of what a symbolic link points to.",
        },
        Method {
            call: file::OpenDirectory { source: source("/src"), caller: caller() }.into(),
            reply: opened(),
            text: "Opens a directory for listing.",
        },
        Method {
            call: file::List { handle: HANDLE }.into(),
            reply: json(file::Listed { entries: vec![entry()], progress: file::Progress::End }),
            text: "The next entries, in the machine's order, without `.` and `..`; `progress` is `more` or `end`.",
        },
        Method {
            call: file::Open { source: source("/src/main.rs"), purpose: write, caller: caller() }.into(),
            reply: opened(),
            text: "Opens a file. `purpose` is `{\"for\":\"read\"}`, or for writing with `create` one of `existing`, `keep`,\n\
                   `truncate`, `new`.",
        },
        Method {
            call: file::Read { handle: HANDLE, offset: 0, bytes: 4096 }.into(),
            reply: json(file::Chunk { content: Content(b"hello".to_vec()) }),
            text: "A chunk; it may be shorter than asked for, and is empty only at the end of the file.",
        },
        Method {
            call: file::Write { handle: HANDLE, offset: 0, content: Content(b"hello".to_vec()) }.into(),
            reply: json(file::Written { bytes: 5 }),
            text: "Writes a chunk at an offset; a short write is an error.",
        },
        Method {
            call: file::Get { source: source("/src/main.rs"), caller: caller() }.into(),
            reply: json(file::Got { entry: entry(), content: Content(b"hello".to_vec()) }),
            text: "Reads a small file at once, following a link. A conflict if it has more than a chunk, changes meanwhile or\n\
                   is not a regular file: then it has to be opened.",
        },
        Method {
            call: put.into(),
            reply: json(entry()),
            text: "Makes a small file of at most a chunk at once, or gives the one that is there this content, in place. What\n\
                   it made and could not fill is not left behind. A link is refused. Without `modified` the time is the present.",
        },
        Method {
            call: file::GetMany {
                directory: source("/src"),
                names: vec![ByteString::from("main.rs"), ByteString::from("lib.rs")],
                caller: caller(),
            }
            .into(),
            reply: json(file::GotMany {
                files: vec![Each::Done(Content(b"hello".to_vec())), Each::Failed(failure)],
            }),
            text: "Reads small files of one directory at once; they are answered in the order of their names. A conflict are a\n\
                   link, what is not a regular file, one that changes meanwhile, and those with which all together would have\n\
                   more than a chunk.",
        },
        Method {
            call: put_many.into(),
            reply: json(file::MadeMany { files: vec![Each::Done(file::Done {})] }),
            text: "Makes small files in one directory at once. Each is made under the name `beside` its own, which it gets when\n\
                   it is complete, in the place of what has it. One that fails is not left behind, and keeps no other from\n\
                   being made.",
        },
        Method {
            call: file::Sync { handle: HANDLE }.into(),
            reply: done(),
            text: "Waits until what was written is on stable storage.",
        },
        Method { call: file::Close { handle: HANDLE }.into(), reply: done(), text: "Gives a handle back." },
        Method {
            call: set.into(),
            reply: json(entry()),
            text: "Changes attributes; what is left out or null stays.",
        },
        Method {
            call: file::MakeDirectory { source: source("/src/new"), mode: 0o755, caller: caller() }.into(),
            reply: json(entry()),
            text: "Makes a directory.",
        },
        Method {
            call: file::MakeLink {
                source: source("/src/l"),
                target: ByteString::from("main.rs"),
                caller: caller(),
            }
            .into(),
            reply: json(entry()),
            text: "Makes a symbolic link.",
        },
        Method {
            call: file::Remove { source: source("/src/l"), caller: caller() }.into(),
            reply: done(),
            text: "Removes a file, a link or an empty directory.",
        },
        Method {
            call: file::RemoveTree { source: source("/src/old"), caller: caller() }.into(),
            reply: json(file::Begun { handle: HANDLE }),
            text: "Begins to remove a file, or a directory with everything in it, on the machine. What is mounted below stays;\n\
                   links are removed, not followed. Closing the handle ends it; what has gone by then is gone.",
        },
        Method {
            call: file::NextRemoved { handle: HANDLE }.into(),
            reply: json(file::RemovedNames {
                removed: 3,
                kept: vec![left_out()],
                progress: file::Progress::End,
            }),
            text: "How many names have gone since the last answer, and what could not be removed, by its path from the\n\
                   directory the tree was in. Asked for until `progress` is `end`.",
        },
        Method {
            call: find.into(),
            reply: opened(),
            text: "Begins to look for names below a directory, on the machine. Links are not followed. What is left out\n\
                   is no condition. Closing the handle ends it.",
        },
        Method {
            call: find::Next { handle: HANDLE }.into(),
            reply: json(find::Found {
                found: vec![find::FoundFile {
                    path: "a/main.rs".into(),
                    kind: FileKind::File,
                    entry: Some(entry()),
                }],
                left_out: vec![left_out()],
                progress: file::Progress::More,
            }),
            text: "The next names, by their paths from the directory, and directories that could not be read. May be empty\n\
                   before the end.",
        },
        Method {
            call: search.into(),
            reply: json(file::Begun { handle: HANDLE }),
            text: "Begins to look for content in a file, or in all files below a directory, on the machine. `case` is\n\
                   `sensitive`, `insensitive` or `smart`; `tell` is `lines` or `files`. Without `pattern` every file is a hit.\n\
                   Closing the handle ends it.",
        },
        Method {
            call: search::NextHits { handle: HANDLE }.into(),
            reply: json(search::Hits {
                hits: vec![search::Hit {
                    path: "a/main.rs".into(),
                    line: Some(search::Line {
                        number: 3,
                        text: "fn main() {".into(),
                        cut: false,
                        spans: vec![(3, 7)],
                    }),
                }],
                left_out: vec![left_out()],
                searched: Some(search::Searched { files: 12, bytes: 34_567, limited: false }),
                progress: file::Progress::End,
            }),
            text: "The next hits: files in any order, lines of a file in theirs. `searched` comes at the end.",
        },
        Method {
            call: watch::Watch { source: source("/src"), recursive: true, caller: caller() }.into(),
            reply: json(file::Begun { handle: HANDLE }),
            text: "Begins to watch a directory, until the handle is closed.",
        },
        Method {
            call: watch::NextChanges { handle: HANDLE }.into(),
            reply: json(watch::Changes {
                changes: vec![watch::Change {
                    path: "a/main.rs".into(),
                    event: watch::ChangeEvent::Modified,
                }],
                rescan: false,
                progress: file::Progress::More,
            }),
            text: "Answered when there are changes; the first time, without any, as soon as nothing is missed any more. Several\n\
                   changes of one path are one. With `rescan` some were missed: everything is to be looked at again.",
        },
        Method {
            call: file::CopyRange {
                from: HANDLE,
                from_offset: 0,
                to: HandleId::new(2),
                to_offset: 0,
                bytes: 4096,
            }
            .into(),
            reply: json(file::CopiedRange { bytes: 4096 }),
            text: "Copies from one opened file to another, on the machine itself or from machine to machine. Less than was\n\
                   asked for only at the end of the file.",
        },
        Method {
            call: file::Digest { handle: HANDLE, offset: 0, bytes: 1 << 20, block_bytes: 1 << 17 }.into(),
            reply: json(file::Digests {
                blocks: vec![file::BlockDigest {
                    digest: "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262".to_owned(),
                    bytes: 1 << 17,
                    zeros: false,
                }],
            }),
            text: "BLAKE3 of consecutive blocks of an opened file, and whether each is nothing but zeros.",
        },
        Method {
            call: file::Rename {
                source: source("/src/a"),
                to: source("/src/b"),
                taken: file::Taken::Replaced,
                caller: caller(),
            }
            .into(),
            reply: done(),
            text: "Gives a file another name on the same machine. What has that name is removed (`replaced`, which is meant if\n`taken` is left out), is a `conflict` (`kept`), or has the other's name then (`exchanged`).",
        },
    ]
}

fn left_out() -> find::LeftOut {
    find::LeftOut { path: "a/b".into(), reason: "permission denied".to_owned() }
}
