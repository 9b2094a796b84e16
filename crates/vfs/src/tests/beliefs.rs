//! Nothing that a kernel was told to believe stays believed when it is no longer so, whatever happens in whatever order.

use std::sync::Arc;

use proptest::prelude::*;

use crate::file::{AttributeChanges, Kind, Name, OpenFlags, RenameMode};
use crate::table::{Ino, Limits};
use crate::testing::{BelievingKernel, Memory, Random, Tree};
use crate::vfs::Removal;
use crate::{Options, SyncMode};

/// Programs at work on the mount at once.
const PROGRAMS: u64 = 4;

const NAMES: [&[u8]; 4] = [b"a", b"b", b"c", b"d"];

fn name(random: &mut Random) -> &'static [u8] {
    random.pick(&NAMES).expect("not empty")
}

fn write_flags(random: &mut Random) -> OpenFlags {
    OpenFlags { write: true, truncate: random.below(4) == 0, ..OpenFlags::default() }
}

/// One operation of a program. Refusals are part of life: what counts is what is believed afterwards.
async fn act(kernel: &Arc<BelievingKernel>, random: &mut Random) {
    let path: Vec<&[u8]> = (0..random.below(3)).map(|_| name(random)).collect();
    let (mut directory, mut other) = (Ino::ROOT, Ino::ROOT);
    if let Ok(ino) = kernel.walk(&path).await
        && kernel.kind(ino) == Kind::Directory
    {
        directory = ino;
    }
    let path: Vec<&[u8]> = (0..random.below(2)).map(|_| name(random)).collect();
    if let Ok(ino) = kernel.walk(&path).await
        && kernel.kind(ino) == Kind::Directory
    {
        other = ino;
    }
    let (from, to) = (name(random), name(random));
    let file = kernel.lookup(directory, from).await.ok().flatten();
    let content = [random.below(256) as u8; 5];
    let _refused = match (random.below(20), file) {
        (0, _) => kernel.make_directory(directory, from).await.map(|_| ()),
        (1 | 2, _) => create(kernel, directory, from).await,
        (3, Some(ino)) => kernel.link(ino, other, to).await,
        (4, _) => kernel.remove(directory, from, Removal::Other).await,
        (5, _) => kernel.remove(directory, from, Removal::Directory).await,
        (6, _) => kernel.rename((directory, from), (other, to), RenameMode::Replace).await,
        (7, _) => kernel.rename((directory, from), (other, to), RenameMode::Exchange).await,
        (8, _) => kernel.rename((directory, from), (other, to), RenameMode::NoReplace).await,
        (9 | 10, Some(ino)) => kernel.read(ino).await.map(|_| ()),
        (11 | 12, Some(ino)) => kernel.write(ino, random.below(9), &content, write_flags(random)).await,
        (13, Some(ino)) => {
            let mode = Some(random.below(0o777) as u16);
            kernel.set_attributes(ino, AttributeChanges { mode, ..AttributeChanges::default() }).await
        }
        (14, Some(ino)) => {
            let size = Some(random.below(20));
            kernel.set_attributes(ino, AttributeChanges { size, ..AttributeChanges::default() }).await
        }
        (15, _) => kernel.list(directory, true).await.map(|_| ()),
        (16 | 17, _) => kernel.list(directory, false).await.map(|_| ()),
        (_, Some(ino)) => kernel.attributes(ino).await.map(|_| ()),
        (_, None) => kernel.attributes(directory).await.map(|_| ()),
    };
}

async fn create(kernel: &Arc<BelievingKernel>, parent: Ino, name: &[u8]) -> crate::errno::Result<()> {
    let flags = OpenFlags { write: true, ..OpenFlags::default() };
    let (ino, handle) = kernel.create(parent, name, flags).await?;
    let outcome = kernel.write_open(ino, handle, 0, b"new").await;
    kernel.vfs.flush(handle, 0, None).await?;
    kernel.vfs.release(handle);
    outcome
}

/// One change by a program on the machine.
fn edit(tree: &mut Tree, random: &mut Random) {
    let mut directories = vec![tree.root];
    let mut files = Vec::new();
    let mut at = 0;
    while let Some(directory) = directories.get(at).copied() {
        for (_, name, id) in tree.get(directory).expect("listed").listing(0) {
            match tree.get(id).expect("listed").attributes.kind {
                Kind::Directory => directories.push(id),
                _ => files.push((directory, name.clone(), id)),
            }
        }
        at += 1;
    }
    let directory = *random.pick(&directories).expect("the root");
    let other = *random.pick(&directories).expect("the root");
    let (from, to): (Name, Name) = (name(random).into(), name(random).into());
    let file = random.pick(&files).map(|(_, _, id)| *id);
    let mode = [RenameMode::Replace, RenameMode::NoReplace, RenameMode::Exchange][random.below(3) as usize];
    let _refused = match (random.below(10), file) {
        (0, _) => tree.make(directory, &from, Kind::Directory, 0o755).map(|_| ()),
        (1 | 2, _) => tree.make(directory, &from, Kind::File, 0o644).map(|_| ()),
        (3, Some(id)) => tree.link(id, other, &to),
        (4, _) => tree.unlink(directory, &from).map(|_| ()),
        (5, _) => tree.remove_directory(directory, &from).map(|_| ()),
        (6, _) => tree.rename((directory, &from), (other, &to), mode),
        (7 | 8, Some(id)) => tree.write(id, Some(random.below(9)), b"foreign").map(|_| ()),
        (_, Some(id)) => {
            let mode = Some(random.below(0o777) as u16);
            tree.set_attributes(id, AttributeChanges { mode, ..AttributeChanges::default() })
        }
        (_, None) => Ok(()),
    };
}

/// What a machine does: changes made by others, telling of them late, losing leases.
fn happen(memory: &Memory, kernel: &BelievingKernel, random: &mut Random, edits: bool) {
    if edits && random.below(3) == 0 {
        memory.edit(|tree| edit(tree, random));
    }
    if random.below(3) == 0 {
        memory.look_one(random.below(1000) as usize);
    }
    if random.below(2) == 0
        && let Some(changed) = memory.tell_one(random.below(1000) as usize)
    {
        kernel.vfs.changed(changed);
    }
    if random.below(150) == 0 {
        let root = memory.root().id;
        memory.lose_lease(root).into_iter().for_each(|changed| kernel.vfs.changed(changed));
    }
}

async fn quiesce(memory: &Memory, kernel: &BelievingKernel) {
    kernel.vfs.drain().await;
    while memory.open_handles() + kernel.vfs.open_files() > 0 {
        tokio::task::yield_now().await;
    }
    memory.tell_all().into_iter().for_each(|changed| kernel.vfs.changed(changed));
}

struct Run {
    seed: u64,
    rounds: u64,
    edits: bool,
    idle_nodes: usize,
}

async fn run(Run { seed, rounds, edits, idle_nodes }: Run) -> Vec<[usize; 4]> {
    let memory = Memory::new();
    let options = Options {
        sync: SyncMode::Close,
        limits: Limits { idle_nodes },
        list_after: Some(2),
        fetch_ahead: true,
        walk_ahead_entries: 100,
    };
    let kernel = BelievingKernel::new(&memory, options, seed);
    memory.jitter(4, seed);
    let mut random = Random(seed);
    let mut beliefs = Vec::new();
    for _ in 0..rounds {
        let programs: Vec<_> = (0..PROGRAMS)
            .map(|_| {
                let (kernel, mut random) = (kernel.clone(), Random(random.below(u64::MAX)));
                tokio::spawn(async move {
                    for _ in 0..6 {
                        act(&kernel, &mut random).await;
                    }
                })
            })
            .collect();
        while !programs.iter().all(tokio::task::JoinHandle::is_finished) {
            happen(&memory, &kernel, &mut random, edits);
            tokio::task::yield_now().await;
        }
        for program in programs {
            program.await.expect("no operation panics");
        }
        quiesce(&memory, &kernel).await;
        assert_eq!(kernel.errors(), Vec::<String>::new(), "seed {seed}");
        for (ino, count) in kernel.lookups() {
            assert_eq!(kernel.vfs.table.lock().lookups(ino), count, "lookups of {ino:?}, seed {seed}");
        }
        beliefs.push(kernel.beliefs());
        let mut known: Vec<_> = kernel.lookups().into_keys().collect();
        known.sort();
        if random.below(3) == 0
            && let Some(ino) = random.pick(&known)
        {
            kernel.forget(*ino);
        }
    }
    kernel.forget_all();
    let census = kernel.vfs.census();
    assert!(census.idle <= idle_nodes && (idle_nodes > 0 || census.nodes == 1), "seed {seed}: {census:?}");
    beliefs
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime").block_on(future)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_believed_is_so(seed: u64, idle_nodes in 0usize..12) {
        block_on(run(Run { seed, rounds: 12, edits: true, idle_nodes }));
    }

    #[test]
    fn what_is_believed_is_so_when_nobody_else_is_there(seed: u64) {
        block_on(run(Run { seed, rounds: 12, edits: false, idle_nodes: 1000 }));
    }
}

#[test]
fn much_is_believed() {
    let beliefs = block_on(run(Run { seed: 7, rounds: 60, edits: true, idle_nodes: 1000 }));
    for what in 0..4 {
        let most = beliefs.iter().map(|believed| believed[what]).max();
        assert!(most > Some(0), "nothing of kind {what} was ever believed: the test is blind");
    }
}
