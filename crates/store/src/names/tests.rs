use proptest::prelude::*;

use super::*;
use crate::Hash;
use crate::node::{Content, InPlace, Kind, Time};

fn oid() -> impl Strategy<Value = Oid> {
    prop_oneof![any::<[u8; 20]>().prop_map(Oid::Sha1), any::<[u8; 32]>().prop_map(Oid::Sha256)]
}

fn time() -> impl Strategy<Value = Time> {
    (any::<i64>(), 0..1_000_000_000u32).prop_map(|(seconds, nanoseconds)| Time { seconds, nanoseconds })
}

fn name() -> impl Strategy<Value = Name> {
    prop::collection::vec(1..=255u8, 1..=255)
        .prop_filter("a name", |name| crate::node::check_name(name).is_ok())
        .prop_map(|name| name.into())
}

fn content() -> impl Strategy<Value = Content> {
    let base = (any::<bool>(), oid(), any::<u64>());
    let special = prop::sample::select(vec![Kind::Fifo, Kind::Socket, Kind::CharDevice, Kind::BlockDevice]);
    prop_oneof![
        Just(Content::Directory),
        Just(Content::Written),
        base.prop_map(|(is_link, oid, size)| Content::Base { is_link, oid, size }),
        prop::collection::vec(1..=255u8, 1..100).prop_map(|target| Content::Symlink(target.into())),
        special.prop_map(Content::Special),
        in_place(),
    ]
}

fn in_place() -> impl Strategy<Value = Content> {
    let kind = prop::sample::select(vec![Kind::File, Kind::Directory, Kind::Symlink]);
    (kind, any::<[u64; 3]>(), path()).prop_map(|(kind, [directory, number, size], path)| {
        let below = InPlace { kind, directory: Ino(directory), number, path };
        Content::InPlace { below: below.into(), size }
    })
}

fn path() -> impl Strategy<Value = Box<[u8]>> {
    prop::collection::vec(1..=255u8, 1..100).prop_map(Into::into)
}

fn node() -> impl Strategy<Value = Node> {
    let numbers = (0..=0o7777u16, any::<u32>(), any::<u32>(), any::<u32>(), any::<u64>());
    (content(), numbers, [time(), time(), time()]).prop_map(
        |(content, (mode, uid, gid, links, device), [accessed, modified, changed])| Node {
            content,
            mode,
            uid,
            gid,
            links,
            device,
            accessed,
            modified,
            changed,
        },
    )
}

fn change() -> impl Strategy<Value = Change> {
    let ino = || any::<u64>().prop_map(Ino);
    let xattr = || prop::collection::vec(any::<u8>(), 1..=255).prop_map(Box::<[u8]>::from);
    let origin = (oid(), oid(), any::<u32>(), any::<u32>(), time());
    prop_oneof![
        origin.prop_map(|(commit, tree, uid, gid, made)| {
            Change::Origin(Origin { revision: Revision { commit, tree }, uid, gid, made })
        }),
        any::<u64>().prop_map(Change::Next),
        (ino(), node()).prop_map(|(ino, node)| Change::Node { ino, node }),
        ino().prop_map(|ino| Change::Gone { ino }),
        (ino(), ino(), prop::option::of(oid()), any::<u64>(), any::<u32>()).prop_map(
            |(ino, parent, tree, first, count)| Change::Directory { ino, parent, tree, first, count }
        ),
        (ino(), ino()).prop_map(|(ino, parent)| Change::Parent { ino, parent }),
        (ino(), name(), ino(), any::<u64>()).prop_map(|(directory, name, ino, cookie)| Change::Name {
            directory,
            name,
            ino,
            cookie
        }),
        (ino(), name()).prop_map(|(directory, name)| Change::Whiteout { directory, name }),
        (ino(), name()).prop_map(|(directory, name)| Change::Unnamed { directory, name }),
        (ino(), xattr(), prop::collection::vec(any::<u8>(), 0..300))
            .prop_map(|(ino, name, value)| Change::Xattr { ino, name, value: value.into() }),
        (ino(), xattr()).prop_map(|(ino, name)| Change::NoXattr { ino, name }),
        (any::<u64>(), ino(), any::<u64>()).prop_map(|(request, ino, answered)| Change::CarriedOut {
            request,
            ino,
            answered
        }),
        Just(Change::AllAnswered),
        path().prop_map(|path| Change::WorkingCopy { path }),
        (ino(), path()).prop_map(|(directory, path)| Change::InPlace { directory, path }),
        (ino(), name(), path()).prop_map(|(directory, name, path)| Change::Graft { directory, name, path }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn changes_are_read_as_they_were_written(changes in prop::collection::vec(change(), 0..6)) {
        let mut record = Vec::new();
        changes.iter().for_each(|change| change.encode(&mut record));
        prop_assert_eq!(change::decode(&record), Ok(changes));
    }

    #[test]
    fn a_record_that_is_cut_or_goes_on_is_no_record(changes in prop::collection::vec(change(), 1..4), more in 17..=255u8) {
        let mut record = Vec::new();
        let ends: Vec<_> = changes.iter().map(|change| { change.encode(&mut record); record.len() }).collect();
        for cut in 1..record.len() {
            prop_assert_eq!(change::decode(&record[..cut]).is_ok(), ends.contains(&cut), "cut at {}", cut);
        }
        record.push(more);
        prop_assert!(change::decode(&record).is_err());
    }

    #[test]
    fn a_log_that_says_anything_is_refused_or_read(
        changes in prop::collection::vec(change(), 1..8),
        at in any::<prop::sample::Index>(),
        to in any::<u8>(),
    ) {
        let mut records = log::Records::default();
        for change in &changes {
            let mut record = Vec::new();
            change.encode(&mut record);
            let at = at.index(record.len());
            record[at] = to;
            records.push(|bytes| bytes.extend_from_slice(&record));
        }
        if let Some(Ok((names, _))) = Names::replay(&records.to_file()) {
            let again = Names::replay(&names.snapshot().to_file()).expect("a log").expect("true");
            prop_assert_eq!(again.0, names);
        }
    }

    #[test]
    fn whatever_is_applied_is_bounded_and_outlives_a_snapshot(changes in prop::collection::vec(change(), 0..20)) {
        let mut names = Names::default();
        for change in changes {
            // What is refused may have been half done: only whole logs count then.
            let before = names.clone();
            if names.apply(change).is_err() {
                names = before;
            }
        }
        let again = Names::replay(&names.snapshot().to_file()).expect("a log").expect("true");
        prop_assert_eq!(again.0, names);
    }
}

fn directory(ino: u64, first: u64, count: u32) -> Change {
    let tree = Some(Oid::empty_tree(Hash::Sha1));
    Change::Directory { ino: Ino(ino), parent: Ino::ROOT, tree, first, count }
}

fn node_of(content: Content) -> Node {
    let time = Time::default();
    let (accessed, modified, changed) = (time, time, time);
    Node { content, mode: 0o644, uid: 0, gid: 0, links: 1, device: 0, accessed, modified, changed }
}

#[test]
fn what_cannot_be_is_refused() {
    let name: Name = b"name"[..].into();
    let value = |bytes: usize| vec![0; bytes].into_boxed_slice();
    let half = XATTR_BYTES_MAX / 2;
    for changes in [
        vec![directory(1, 2, 5), directory(7, 6, 2)],
        vec![directory(1, 10, 5), directory(7, 8, 3)],
        vec![directory(1, 10, 5), directory(7, 8, 20)],
        vec![directory(1, 2, 5), directory(1, 7, 5)],
        vec![directory(1, u64::MAX, 2)],
        vec![directory(0, 2, 2)],
        vec![Change::Node { ino: Ino(u64::MAX), node: node_of(Content::Written) }],
        vec![Change::Name { directory: Ino(1), name: name.clone(), ino: Ino(2), cookie: 1 }],
        vec![directory(1, 2, 5), Change::Unnamed { directory: Ino(1), name: name.clone() }],
        vec![Change::Gone { ino: Ino(3) }],
        vec![Change::Parent { ino: Ino(3), parent: Ino(1) }],
        vec![Change::Xattr { ino: Ino(3), name: b"n"[..].into(), value: value(1) }],
        vec![
            Change::Node { ino: Ino(3), node: node_of(Content::Written) },
            Change::Xattr { ino: Ino(3), name: b"1"[..].into(), value: value(half) },
            Change::Xattr { ino: Ino(3), name: b"2"[..].into(), value: value(half) },
        ],
    ] {
        let mut names = Names::default();
        let applied: Vec<_> = changes.iter().map(|change| names.apply(change.clone())).collect();
        let (last, before) = applied.split_last().expect("some");
        assert!(before.iter().all(Result::is_ok), "{changes:?}: {applied:?}");
        assert!(last.is_err(), "{changes:?}");
    }
}

#[test]
fn a_number_is_in_the_block_that_has_it_and_in_no_other() {
    let mut names = Names::default();
    names.apply(directory(1, 2, 3)).expect("true");
    names.apply(directory(3, 10, 2)).expect("true");
    names.apply(directory(4, 0, 0)).expect("true");
    let owners = [(1, None), (2, Some((1, 0))), (4, Some((1, 2))), (5, None), (10, Some((3, 0))), (12, None)];
    for (ino, owner) in owners {
        assert_eq!(names.block_of(Ino(ino)), owner.map(|(ino, number)| (Ino(ino), number)), "{ino}");
    }
    assert_eq!(names.next(), 12);
    names.apply(Change::Gone { ino: Ino(3) }).expect("true");
    assert_eq!(names.block_of(Ino(10)), None);
}
