use wire::agent::file::{AttributeChanges, Caller, XattrMode};
use wire::agent::name::RelativePath;

use super::*;

fn place(path: &str) -> Place {
    Place { id: FileId { device: 1, inode: 1, birth: 0 }, path: RelativePath::new(path.as_bytes()).unwrap() }
}

fn name() -> Name {
    Name::new(b"name".as_slice()).unwrap()
}

const CALLER: Caller = Caller { uid: 0, gid: 0, umask: 0 };
const HANDLE: HandleId = HandleId(1);

fn create(exclusive: bool) -> FileRequest {
    let flags = OpenFlags { exclusive, ..OpenFlags::default() };
    FileRequest::Create { directory: place(""), name: name(), mode: 0, flags, handle: HANDLE, caller: CALLER }
}

fn rename(mode: RenameMode) -> FileRequest {
    FileRequest::Rename { from: place(""), from_name: name(), to: place("d"), to_name: name(), mode }
}

fn write(at: WriteAt) -> FileRequest {
    FileRequest::Write { handle: HANDLE, at, clear_set_id: true }
}

fn allocate(what: Allocation) -> FileRequest {
    FileRequest::Allocate { handle: HANDLE, what, offset: 0, length: 4096 }
}

fn set_xattr(mode: XattrMode) -> FileRequest {
    FileRequest::SetXattr { target: Target::Handle(HANDLE), name: b"user.a".to_vec(), mode }
}

#[test]
fn every_change_has_its_rule() {
    let directory = || place("");
    let put = |exclusive| FileRequest::Put {
        directory: directory(),
        name: name(),
        mode: 0,
        changes: AttributeChanges::default(),
        exclusive,
        sync: false,
        caller: CALLER,
    };
    let table = [
        (write(WriteAt::Offset(0)), Rule::Repeat),
        (write(WriteAt::End), Rule::Appended),
        (create(true), Rule::Created),
        (create(false), Rule::Created),
        (put(true), Rule::Unless(EEXIST)),
        (put(false), Rule::Repeat),
        (FileRequest::PutMany { directory: directory(), files: Vec::new(), caller: CALLER }, Rule::Repeat),
        (
            FileRequest::MakeDirectory { directory: directory(), name: name(), mode: 0, caller: CALLER },
            Rule::Unless(EEXIST),
        ),
        (FileRequest::Symlink { directory: directory(), name: name(), caller: CALLER }, Rule::Unless(EEXIST)),
        (
            FileRequest::Link { target: Target::Handle(HANDLE), directory: directory(), name: name() },
            Rule::Unless(EEXIST),
        ),
        (FileRequest::Unlink { directory: directory(), name: name() }, Rule::Unless(ENOENT)),
        (FileRequest::RemoveDirectory { directory: directory(), name: name() }, Rule::Unless(ENOENT)),
        (rename(RenameMode::Replace), Rule::Unless(ENOENT)),
        (rename(RenameMode::NoReplace), Rule::Unless(ENOENT)),
        (rename(RenameMode::Exchange), Rule::Unknowable),
        (allocate(Allocation::Punch), Rule::Repeat),
        (allocate(Allocation::Collapse), Rule::Unknowable),
        (allocate(Allocation::Insert), Rule::Unknowable),
        (set_xattr(XattrMode::Set), Rule::Repeat),
        (set_xattr(XattrMode::Create), Rule::Unless(EEXIST)),
        (
            FileRequest::RemoveXattr { target: Target::Handle(HANDLE), name: b"user.a".to_vec() },
            Rule::Unless(ENODATA),
        ),
    ];
    for (request, expected) in table {
        assert_eq!(rule(&request), expected, "{request:?}");
    }
}

#[test]
fn equal_bytes_are_each_claimed_once() {
    let mut claimed = Vec::new();
    for expected in [Some(12), Some(16), None] {
        let found = find(b"..linelinelin", b"line", 10, &claimed);
        assert_eq!(found, expected);
        claimed.extend(found.map(|at| at..at + 4));
    }
    assert_eq!(find(b"linelineline", b"line", 10, &[12..16, 16..20]), None);
    assert_eq!(find(b"", b"", 10, &[]), None);
}

#[test]
fn a_file_is_taken_for_ours_only_if_every_byte_is_one_that_was_sent() {
    let at = |offset: u64, bytes: &'static str| (offset, Bytes::from_static(bytes.as_bytes()));
    // A header that is put right at the end, and a hole.
    let known = Known {
        written: vec![at(0, "head"), at(4, "text"), at(10, "end"), at(0, "HEAD")],
        ..Known::default()
    };
    assert_eq!(known.written_to(), 13);
    for ours in ["", "he", "head", "HEAD", "HEad", "headtext", "HEADtext\0\0end", "headtext\0\0en", "head\0"]
    {
        let is_ours = known.may_have_made(0, ours.as_bytes());
        assert_eq!(is_ours, ours != "head\0", "{ours:?}");
    }
    for (offset, piece) in [(4, "text\0\0end"), (6, "xt\0\0e"), (8, "\0\0"), (12, "d")] {
        assert!(known.may_have_made(offset, piece.as_bytes()), "{offset}: {piece:?}");
    }
    for (offset, piece) in [(0, "other"), (0, "headteXt"), (8, "a"), (12, "dd"), (13, "a"), (4, "head")] {
        assert!(!known.may_have_made(offset, piece.as_bytes()), "{offset}: {piece:?}");
    }
    assert!(!Known::default().may_have_made(0, b"a"));
}
