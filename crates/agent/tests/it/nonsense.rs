//! Requests with any fields in any order: each is answered, and none is beyond the agent.

use proptest::prelude::*;
use proptest::sample::select;
use tempfile::tempdir;
use wire::agent::file::*;
use wire::agent::find::FindQuery;
use wire::agent::name::RelativePath;
use wire::agent::*;

use crate::client::*;

fn number() -> impl Strategy<Value = u64> {
    select(vec![0, 1, 4095, 4096, 1 << 20, i64::MAX as u64, i64::MAX as u64 + 1, u64::MAX - 1, u64::MAX])
}

fn small() -> impl Strategy<Value = u32> {
    select(vec![0, 1, 0o644, 4096, 1 << 20, u32::MAX])
}

fn handle() -> impl Strategy<Value = HandleId> {
    (1..6u64).prop_map(HandleId)
}

fn entry_name() -> impl Strategy<Value = String> {
    select(vec!["file", "sub", "link", "fifo", "new", "absent"]).prop_map(str::to_owned)
}

/// Where a request acts, by number: the places are known only when the agent runs, see [`placed`].
fn place() -> impl Strategy<Value = Place> {
    (0..8u64).prop_map(|number| Place {
        id: FileId { inode: number, ..FileId::default() },
        path: RelativePath::default(),
    })
}

fn caller() -> impl Strategy<Value = Caller> {
    select(vec![me(), Caller { uid: u32::MAX, gid: 0, umask: u16::MAX }, Caller { uid: 7, gid: 7, umask: 0 }])
}

fn flags() -> impl Strategy<Value = OpenFlags> {
    any::<[bool; 7]>().prop_map(|[read, write, append, truncate, sync, direct, exclusive]| OpenFlags {
        read,
        write,
        append,
        truncate,
        sync,
        direct,
        exclusive,
    })
}

fn changes() -> impl Strategy<Value = AttributeChanges> {
    let time = prop_oneof![
        Just(SetTime::Keep),
        Just(SetTime::Now),
        (number(), small()).prop_map(|(s, nanoseconds)| SetTime::To(Time { seconds: s as i64, nanoseconds }))
    ];
    // Sizes are small: a sparse file of any size is fine, and slow to compare.
    let size = prop::option::of(select(vec![0, 1, 4096, u64::MAX]));
    (size, prop::option::of(small()), prop::option::of(any::<u16>()), time, any::<bool>()).prop_map(
        |(size, owner, mode, time, clear_set_id)| AttributeChanges {
            size,
            uid: owner,
            gid: owner,
            mode,
            accessed: time,
            modified: time,
            clear_set_id,
        },
    )
}

fn request() -> impl Strategy<Value = FileRequest> {
    use FileRequest as F;
    let name = || entry_name().prop_map(name);
    let target = || prop_oneof![place().prop_map(Target::Place), handle().prop_map(Target::Handle)];
    let attribute = || {
        select(vec!["user.a", "", "nonsense", "security.x", "user.\0"])
            .prop_map(|text| text.as_bytes().to_vec())
    };
    let lock = (any::<[bool; 2]>(), select(vec![LockKind::Shared, LockKind::Exclusive, LockKind::Unlocked]))
        .prop_flat_map(|([posix, _], kind)| {
            let family = if posix { LockFamily::Posix } else { LockFamily::Flock };
            (number(), number()).prop_map(move |(start, end)| Lock { family, kind, start, end })
        })
        .boxed();
    let names = prop_oneof![
        (place(), name()).prop_map(|(directory, name)| F::Lookup { directory, name }),
        target().prop_map(|target| F::Stat { target }),
        (target(), changes()).prop_map(|(target, changes)| F::SetAttributes { target, changes }),
        place().prop_map(|place| F::ReadLink { place }),
        (place(), name(), caller()).prop_map(|(directory, name, caller)| F::Symlink {
            directory,
            name,
            caller
        }),
        (place(), name(), any::<u16>(), caller()).prop_map(|(directory, name, mode, caller)| {
            F::MakeNode { directory, name, kind: Kind::Fifo, mode, device: 0, caller }
        }),
        (place(), name(), any::<u16>(), caller())
            .prop_map(|(directory, name, mode, caller)| F::MakeDirectory { directory, name, mode, caller }),
        (place(), name()).prop_map(|(directory, name)| F::Unlink { directory, name }),
        (place(), name()).prop_map(|(directory, name)| F::RemoveDirectory { directory, name }),
        (place(), name(), place(), name()).prop_map(|(from, from_name, to, to_name)| F::Rename {
            from,
            from_name,
            to,
            to_name,
            mode: RenameMode::Exchange
        }),
        (target(), place(), name()).prop_map(|(target, directory, name)| F::Link { target, directory, name }),
        (place(), name(), any::<u16>(), changes(), caller()).prop_map(
            |(directory, name, mode, changes, caller)| F::Put {
                directory,
                name,
                mode,
                changes,
                exclusive: mode % 2 == 0,
                sync: false,
                caller
            }
        ),
        (place(), name(), any::<u16>(), changes(), caller()).prop_map(
            |(directory, name, mode, changes, caller)| {
                // The payload is divided, or is not the files' own.
                let file = |bytes| NewFile { name: name.clone(), beside: name.clone(), mode, changes, bytes };
                F::PutMany { directory, files: vec![file(3), file(u32::from(mode % 8))], caller }
            }
        ),
        (place(), name(), small()).prop_map(|(directory, name, bytes_max)| F::GetMany {
            directory,
            names: vec![name.clone(), name],
            bytes_max
        }),
    ];
    let files = prop_oneof![
        (place(), flags(), handle(), small()).prop_map(|(place, flags, handle, inline_bytes)| F::Open {
            place,
            flags,
            handle,
            inline_bytes
        }),
        (place(), name(), any::<u16>(), flags(), handle(), caller()).prop_map(
            |(directory, name, mode, flags, handle, caller)| F::Create {
                directory,
                name,
                mode,
                flags,
                handle,
                caller
            }
        ),
        (place(), any::<u16>(), flags(), handle(), caller()).prop_map(
            |(directory, mode, flags, handle, caller)| F::CreateUnnamed {
                directory,
                mode,
                flags,
                handle,
                caller
            }
        ),
        (handle(), number(), small()).prop_map(|(handle, offset, length)| F::Read { handle, offset, length }),
        (handle(), select(vec![0, 1, 4096, u64::MAX])).prop_map(|(handle, offset)| F::Write {
            handle,
            at: WriteAt::Offset(offset),
            clear_set_id: offset == 0
        }),
        handle().prop_map(|handle| F::Write { handle, at: WriteAt::End, clear_set_id: true }),
        (target(), any::<bool>()).prop_map(|(target, data_only)| F::Sync { target, data_only }),
        handle().prop_map(|handle| F::Close { handle }),
        (handle(), number(), number()).prop_map(|(handle, offset, length)| F::Allocate {
            handle,
            what: Allocation::Punch,
            offset,
            length
        }),
        (handle(), number()).prop_map(|(handle, offset)| F::Seek { handle, offset, what: SeekFor::Data }),
        (handle(), number(), handle(), select(vec![0, 4096]), number()).prop_map(
            |(from, from_offset, to, to_offset, length)| F::CopyRange {
                from,
                from_offset,
                to,
                to_offset,
                length
            }
        ),
        place().prop_map(|place| F::Space { place }),
        (handle(), lock.clone()).prop_map(|(handle, lock)| F::Lock { handle, owner: 1, lock, wait: false }),
        (handle(), lock).prop_map(|(handle, lock)| F::TestLock { handle, owner: 2, lock }),
        handle().prop_map(|handle| F::ReleaseLocks { handle, owner: 1 }),
    ];
    let others = prop_oneof![
        (target(), attribute()).prop_map(|(target, name)| F::GetXattr { target, name }),
        (target(), attribute()).prop_map(|(target, name)| F::SetXattr { target, name, mode: XattrMode::Set }),
        target().prop_map(|target| F::ListXattrs { target }),
        (target(), attribute()).prop_map(|(target, name)| F::RemoveXattr { target, name }),
        (place(), number()).prop_map(|(directory, from)| F::List { directory, from, window: NO_LIMIT }),
        place().prop_map(|directory| F::Find {
            directory,
            query: FindQuery { attributes: true, ..FindQuery::default() },
            window: NO_LIMIT
        }),
        (place(), name()).prop_map(|(directory, name)| F::RemoveTree { directory, name, window: NO_LIMIT }),
        (handle(), number(), small(), small()).prop_map(|(handle, offset, length, block)| F::Digest {
            handle,
            offset,
            length,
            block
        }),
        (place(), small(), number()).prop_map(|(directory, entries, content_bytes)| F::Walk {
            directory,
            from: WalkFrom::Itself,
            budget: WalkBudget { entries, depth: 3, file_bytes: entries, content_bytes },
            window: NO_LIMIT
        }),
        Just(F::Attach { path: b"/\0".to_vec(), read_only: false }),
    ];
    prop_oneof![names, files, others]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn every_request_is_answered(
        requests in prop::collection::vec(request(), 1..60),
    ) {
        let directory = tempdir().unwrap();
        std::fs::write(directory.path().join("file"), vec![7; 10_000]).unwrap();
        std::fs::create_dir(directory.path().join("sub")).unwrap();
        std::os::unix::fs::symlink("file", directory.path().join("link")).unwrap();
        let mut client = Client::attach(directory.path());
        // Besides the real ones: one that is nowhere, and one whose path is another's.
        let (root, file) = (client.root.clone(), client.place("file"));
        let nowhere = Place { id: FileId::default(), path: path("absent/deeper") };
        let mixed = Place { id: file.id, path: path("sub") };
        let mut places = vec![root, file, nowhere, mixed];
        places.extend(["sub", "link"].map(|text| client.place(text)));
        let ids: Vec<_> = requests
            .into_iter()
            .map(|request| client.send(Request::File(placed(request, &places)), b"payload"))
            .collect();
        for id in ids {
            loop {
                let (last, body, _) = client.reply(id);
                if let Err(failure) = &body {
                    prop_assert!(failure.detail.is_empty(), "{failure:?}");
                }
                if last {
                    break;
                }
            }
        }
    }
}

/// Puts the real places in the stead of their numbers.
fn placed(mut request: FileRequest, places: &[Place]) -> FileRequest {
    use FileRequest as F;
    let fix = |place: &mut Place| *place = places[place.id.inode as usize % places.len()].clone();
    match &mut request {
        F::Lookup { directory, .. }
        | F::Symlink { directory, .. }
        | F::MakeNode { directory, .. }
        | F::MakeDirectory { directory, .. }
        | F::Unlink { directory, .. }
        | F::RemoveDirectory { directory, .. }
        | F::Create { directory, .. }
        | F::CreateUnnamed { directory, .. }
        | F::Put { directory, .. }
        | F::PutMany { directory, .. }
        | F::GetMany { directory, .. }
        | F::List { directory, .. }
        | F::Find { directory, .. }
        | F::RemoveTree { directory, .. }
        | F::Walk { directory, .. } => fix(directory),
        F::ReadLink { place } | F::Open { place, .. } | F::Space { place } => fix(place),
        F::Rename { from, to, .. } => {
            fix(from);
            fix(to);
        }
        F::Link { target, directory, .. } => {
            fix(directory);
            if let Target::Place(place) = target {
                fix(place);
            }
        }
        F::Stat { target: Target::Place(place) }
        | F::SetAttributes { target: Target::Place(place), .. }
        | F::Sync { target: Target::Place(place), .. }
        | F::GetXattr { target: Target::Place(place), .. }
        | F::SetXattr { target: Target::Place(place), .. }
        | F::ListXattrs { target: Target::Place(place) }
        | F::RemoveXattr { target: Target::Place(place), .. } => fix(place),
        _ => {}
    }
    request
}
