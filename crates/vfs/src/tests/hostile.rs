//! Sources that lie.

use super::*;
use crate::errno::Errno;
use crate::file::{Attributes, Entry, FileId, Kind};
use crate::source::{Change, Changed, Lease};
use crate::table::{Known, Limits, Moment, Table};

fn entry(inode: u64, kind: Kind) -> Entry {
    let attributes = Attributes { kind, ..Memory::new().root().attributes };
    Entry { id: FileId { device: 1, inode, birth: 0 }, attributes }
}

fn table() -> Table {
    Table::new(entry(1, Kind::Directory), Limits { idle_nodes: 0 }, Moment(0))
}

const LEASE: Option<Lease> = Some(Lease { epoch: 0, valid_ms: 0 });

fn learn(table: &mut Table, parent: Ino, name: &str, inode: u64, kind: Kind) -> Result<Ino> {
    let ticket = table.ticket(parent)?;
    let told = Some(entry(inode, kind));
    let known = table.learn(parent, &bytes(name), told, (ticket, LEASE), Moment(0), &mut Vec::new())?;
    let Known::Present(ino, _) = known else { panic!("{known:?}") };
    table.add_lookup(ino);
    Ok(ino)
}

#[test]
fn a_directory_below_itself_is_refused_and_the_true_one_stays_reachable() {
    let mut table = table();
    let a = learn(&mut table, Ino::ROOT, "a", 2, Kind::Directory).expect("new");
    let b = learn(&mut table, a, "b", 3, Kind::Directory).expect("new");
    assert_eq!(learn(&mut table, b, "loop", 2, Kind::Directory), Err(Errno::ELOOP));
    assert_eq!(learn(&mut table, b, "root", 1, Kind::Directory), Err(Errno::ELOOP));
    assert_eq!(learn(&mut table, a, "self", 2, Kind::Directory), Err(Errno::ELOOP));
    assert_eq!(&*table.place(b).expect("reachable").path, b"a/b");
    assert_eq!(table.parent(Ino::ROOT), Ok(Ino::ROOT));
}

#[test]
fn an_identity_that_becomes_another_kind_is_another_node() {
    let mut table = table();
    let file = learn(&mut table, Ino::ROOT, "x", 2, Kind::File).expect("new");
    let directory = learn(&mut table, Ino::ROOT, "x", 2, Kind::Directory).expect("new");
    assert_ne!(file, directory);
    assert_eq!((table.kind(file), table.kind(directory)), (Ok(Kind::File), Ok(Kind::Directory)));
    table.forget(file, 1);
    assert_eq!(table.find(entry(2, Kind::File).id), Some(directory));
}

#[test]
fn a_file_with_more_names_than_are_followed_stays_usable() {
    let mut table = table();
    for name in 0..1000 {
        let ino = learn(&mut table, Ino::ROOT, &format!("n{name}"), 2, Kind::File).expect("known");
        assert_eq!(ino, Ino(2));
    }
    assert!(table.place(Ino(2)).is_ok());
    table.forget(Ino(2), 1000);
    assert_eq!(table.census().nodes, 1);
}

#[test]
fn what_is_told_of_what_is_not_known_or_is_no_directory_changes_nothing() {
    let mut table = table();
    let file = learn(&mut table, Ino::ROOT, "f", 2, Kind::File).expect("new");
    for inode in [2, 77] {
        for what in [Change::Itself, Change::LeaseLost, Change::Absent { name: bytes("f") }] {
            let directory = entry(inode, Kind::File).id;
            let changed = Changed { directory, epoch: u64::MAX, what, attributes: None };
            table.apply(changed, &mut Vec::new());
        }
    }
    assert_eq!(table.lookup_any(Ino::ROOT, b"f"), Some(file));
    let attributes = Some(entry(1, Kind::File).attributes);
    let root = entry(1, Kind::Directory).id;
    table.apply(Changed { directory: root, epoch: 1, what: Change::Itself, attributes }, &mut Vec::new());
    assert_eq!(table.kind(Ino::ROOT), Ok(Kind::Directory));
}

#[test]
fn nothing_is_believed_for_longer_than_a_minute_because_the_source_says_so() {
    let mut table = table();
    let ticket = table.ticket(Ino::ROOT).expect("the root");
    let lease = Some(Lease { epoch: 0, valid_ms: u32::MAX });
    let told = Some(entry(2, Kind::File));
    table.learn(Ino::ROOT, &bytes("f"), told, (ticket, lease), Moment(0), &mut Vec::new()).expect("new");
    assert!(matches!(table.lookup(Ino::ROOT, b"f", Moment(59_999)), Ok(Some(_))));
    assert_eq!(table.lookup(Ino::ROOT, b"f", Moment(60_000)), Ok(None));
}

#[test]
fn names_that_cannot_be_are_not_listed() {
    block_on(async {
        for name in ["a/b", "", ".", "..", "nul\0"] {
            let mount = Mount::new(Options::default());
            mount.memory.edit(|tree| {
                let root = tree.root;
                tree.make(root, &bytes(name), Kind::File, 0o644).expect("the tree does not mind")
            });
            let handle = mount.vfs.open_directory(Ino::ROOT).await.expect("opened").handle;
            let listed = mount.vfs.read_directory(handle, 0, true, |_| true).await;
            assert_eq!(listed, Err(Errno::EIO), "{name:?}");
        }
    });
}
