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
