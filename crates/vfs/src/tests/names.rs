//! Names: what is known of them, what is asked, what moves.

use super::*;
use crate::errno::Errno;
use crate::file::{Kind, RenameMode};
use crate::table::Believe;
use crate::vfs::Removal;

fn name_for(looked: Looked) -> Believe {
    match looked {
        Looked::Absent(believe) => believe,
        Looked::Present(view) => view.name_for,
    }
}

#[test]
fn a_name_that_was_seen_is_not_asked_for_again() {
    block_on(async {
        let mount = Mount::with_files(&["f"], b"");
        for _ in 0..3 {
            assert_eq!(mount.view(Ino::ROOT, "f").await.name_for, Believe::Leased);
            assert!(mount.is_absent(Ino::ROOT, "g").await);
        }
        assert_eq!(mount.memory.calls("lookup"), 2);
    });
}

#[test]
fn a_reply_that_crosses_a_change_is_used_once() {
    block_on(async {
        let mount = Mount::with_files(&["f"], b"");
        mount.view(Ino::ROOT, "f").await;
        let gate = mount.stop(Stop::Replying("lookup"));
        let vfs = mount.vfs.clone();
        let looked = tokio::spawn(async move { vfs.lookup(Ino::ROOT, b"g").await });
        gate.reached().await;
        mount.memory.edit(|tree| {
            let root = tree.root;
            tree.make(root, &bytes("g"), Kind::File, 0o644).expect("made")
        });
        mount.tell_all();
        gate.release();
        let looked = looked.await.expect("no panic").expect("looked up");
        assert_eq!(name_for(looked), Believe::Once);
        mount.view(Ino::ROOT, "g").await;
    });
}

#[test]
fn a_reply_from_before_the_lease_is_not_believed_under_it() {
    block_on(async {
        let mount = Mount::with_files(&["f"], b"");
        let gate = mount.stop(Stop::Replying("make_node"));
        let vfs = mount.vfs.clone();
        let node = crate::source::NewNode { kind: Kind::File, mode: 0o644, device: 0 };
        let made = tokio::spawn(async move { vfs.make_node(Ino::ROOT, b"new", node, CALLER).await });
        gate.reached().await;
        // Gone again before anybody watches.
        mount.memory.edit(|tree| tree.unlink(tree.root, &bytes("new")).expect("removed"));
        mount.view(Ino::ROOT, "f").await;
        gate.release();
        let view = made.await.expect("no panic").expect("made");
        assert_ne!(view.name_for, Believe::Leased);
        assert_ne!(view.attributes_for, Believe::Leased);
    });
}

#[test]
fn attributes_that_overtake_a_change_made_from_here_are_not_believed() {
    block_on(async {
        let mount = Mount::with_files(&["f"], b"");
        let ino = mount.view(Ino::ROOT, "f").await.ino;
        mount.vfs.open_directory(Ino::ROOT).await.expect("opened");
        // A listing that saw the old mode arrives after the change of it.
        let gate = mount.stop(Stop::Replying("list"));
        let vfs = mount.vfs.clone();
        let listed = tokio::spawn(async move {
            let handle = vfs.open_directory(Ino::ROOT).await.expect("opened").handle;
            vfs.read_directory(handle, 0, false, |_| true).await
        });
        gate.reached().await;
        let changes = crate::file::AttributeChanges { mode: Some(0o600), ..Default::default() };
        mount.vfs.set_attributes(ino.into(), changes).await.expect("changed");
        gate.release();
        listed.await.expect("no panic").expect("listed");
        assert_eq!(mount.vfs.attributes(ino.into()).await.expect("asked").0.mode, 0o600);
    });
}

#[test]
fn a_renamed_directory_keeps_everything_below_it() {
    block_on(async {
        let mount = Mount::new(Options::default());
        let vfs = &mount.vfs;
        let a = vfs.make_directory(Ino::ROOT, b"a", 0o755, CALLER).await.expect("made").ino;
        let b = vfs.make_directory(a, b"b", 0o755, CALLER).await.expect("made").ino;
        let (file, opened) = vfs.create(b, b"f", 0o644, BOTH, CALLER).await.expect("created");
        vfs.rename((Ino::ROOT, b"a"), (Ino::ROOT, b"z"), RenameMode::Replace).await.expect("renamed");
        mount.write(opened.handle, 0, b"x").await.expect("taken");
        vfs.flush(opened.handle, 0, None).await.expect("written");
        assert_eq!(mount.content("z/b/f"), b"x");
        let z = mount.view(Ino::ROOT, "z").await.ino;
        let below = mount.view(mount.view(z, "b").await.ino, "f").await.ino;
        assert_eq!((z, below), (a, file.ino));
        assert_eq!(vfs.attributes(below.into()).await.expect("asked").0.size, 1);
        assert!(mount.is_absent(Ino::ROOT, "a").await);
    });
}

#[test]
fn a_rename_leaves_nothing_to_be_asked_of_its_directories() {
    block_on(async {
        let mount = Mount::with_files(&["f"], b"");
        mount.memory.edit(|tree| {
            let (root, below) = (tree.root, bytes("below"));
            tree.make(root, &below, Kind::Directory, 0o755).expect("made")
        });
        mount.view(Ino::ROOT, "f").await;
        let below = mount.view(Ino::ROOT, "below").await.ino;
        assert!(mount.is_absent(below, "g").await);
        for directory in [Ino::ROOT, below] {
            mount.vfs.attributes(directory.into()).await.expect("there");
        }
        let stats = mount.memory.calls("stat");
        for (from, to) in [((Ino::ROOT, "f"), (Ino::ROOT, "h")), ((Ino::ROOT, "h"), (below, "g"))] {
            let [from, to] = [from, to].map(|(directory, name)| (directory, name.as_bytes()));
            mount.vfs.rename(from, to, RenameMode::Replace).await.expect("renamed");
            mount.tell_all();
            for directory in [from.0, to.0] {
                let (seen, believe) = mount.vfs.attributes(directory.into()).await.expect("there");
                let id = mount.vfs.id(directory).expect("there");
                assert_eq!(seen, mount.memory.look(|tree| tree.entry(id)).expect("there").attributes);
                assert_eq!(believe, Believe::Leased);
            }
        }
        assert_eq!(mount.memory.calls("stat"), stats);
    });
}

#[test]
fn a_rename_of_what_nobody_looked_up_moves_it() {
    block_on(async {
        let mount = Mount::with_files(&["f"], b"x");
        // Known from a listing only: nobody refers to the node while it moves.
        let handle = mount.vfs.open_directory(Ino::ROOT).await.expect("opened").handle;
        mount.vfs.read_directory(handle, 0, false, |_| true).await.expect("listed");
        mount.vfs.rename((Ino::ROOT, b"f"), (Ino::ROOT, b"g"), RenameMode::Replace).await.expect("renamed");
        mount.view(Ino::ROOT, "g").await;
        assert!(mount.is_absent(Ino::ROOT, "f").await);
    });
}

#[test]
fn an_exchange_moves_both_and_a_rename_of_one_file_onto_itself_moves_nothing() {
    block_on(async {
        let mount = Mount::with_files(&["a", "b"], b"");
        let (a, b) = (mount.view(Ino::ROOT, "a").await.ino, mount.view(Ino::ROOT, "b").await.ino);
        mount
            .vfs
            .rename((Ino::ROOT, b"a"), (Ino::ROOT, b"b"), RenameMode::Exchange)
            .await
            .expect("exchanged");
        assert_eq!((mount.view(Ino::ROOT, "a").await.ino, mount.view(Ino::ROOT, "b").await.ino), (b, a));
        mount.vfs.link(a, Ino::ROOT, b"c").await.expect("linked");
        mount
            .vfs
            .rename((Ino::ROOT, b"b"), (Ino::ROOT, b"c"), RenameMode::Replace)
            .await
            .expect("nothing to do");
        assert_eq!((mount.view(Ino::ROOT, "b").await.ino, mount.view(Ino::ROOT, "c").await.ino), (a, a));
    });
}

/// What is answered while a rename is on its way back is of after it.
#[test]
fn a_rename_moves_what_had_the_old_name_whatever_is_looked_up_meanwhile() {
    block_on(async {
        for asked in ["draft", "f"] {
            for mode in [RenameMode::Replace, RenameMode::Exchange] {
                let mount = Mount::with_files(&["draft", "f"], b"");
                let (draft, old) =
                    (mount.view(Ino::ROOT, "draft").await.ino, mount.view(Ino::ROOT, "f").await.ino);
                // So that whoever looks a name up asks.
                mount.vfs.changed(mount.memory.lose_lease(mount.memory.root().id).expect("there was one"));
                let gate = mount.stop(Stop::Replying("rename"));
                let vfs = mount.vfs.clone();
                let renamed =
                    tokio::spawn(
                        async move { vfs.rename((Ino::ROOT, b"draft"), (Ino::ROOT, b"f"), mode).await },
                    );
                gate.reached().await;
                mount.vfs.lookup(Ino::ROOT, asked.as_bytes()).await.expect("looked up");
                gate.release();
                renamed.await.expect("no panic").expect("renamed");
                assert_eq!(mount.view(Ino::ROOT, "f").await.ino, draft, "{asked}, {mode:?}");
                match mode {
                    RenameMode::Exchange => assert_eq!(mount.view(Ino::ROOT, "draft").await.ino, old),
                    _ => assert!(mount.is_absent(Ino::ROOT, "draft").await, "{asked}"),
                }
            }
        }
    });
}

#[test]
fn hard_links_are_one_node_and_its_links_are_counted() {
    block_on(async {
        let mount = Mount::with_files(&["f"], b"");
        let ino = mount.view(Ino::ROOT, "f").await.ino;
        mount.vfs.link(ino, Ino::ROOT, b"g").await.expect("linked");
        let view = mount.view(Ino::ROOT, "g").await;
        assert_eq!((view.ino, view.attributes.links), (ino, 2));
        assert_ne!(view.attributes_for, Believe::Leased, "a change by another name is not told");
        mount.vfs.remove(Ino::ROOT, b"f", Removal::Other).await.expect("removed");
        assert_eq!(mount.vfs.attributes(ino.into()).await.expect("asked").0.links, 1);
    });
}

/// Somebody on the machine puts a file of the root in the place of another.
fn rename_there(mount: &Mount, from: &str, to: &str) {
    mount.memory.edit(|tree| {
        let root = tree.root;
        tree.rename((root, &bytes(from)), (root, &bytes(to)), RenameMode::Replace).expect("renamed");
    });
}

#[test]
fn a_name_that_is_replaced_is_told() {
    block_on(async {
        let mount = Mount::with_files(&["f", "g"], b"");
        let old = mount.view(Ino::ROOT, "f").await.ino;
        rename_there(&mount, "g", "f");
        mount.tell_all();
        let taken_back = mount.take_notices();
        let replaced = Notice::Replaced { parent: Ino::ROOT, name: bytes("f") };
        assert!(taken_back.contains(&replaced), "{taken_back:?}");
        assert!(taken_back.contains(&Notice::Content(old)), "its names have changed: {taken_back:?}");
        assert_ne!(mount.view(Ino::ROOT, "f").await.ino, old);
    });
}

#[test]
fn a_file_is_found_by_the_name_it_was_seen_by_last_before_the_other_is_told_to_be_gone() {
    block_on(async {
        let mount = Mount::with_files(&["draft"], b"new");
        let ino = mount.view(Ino::ROOT, "draft").await.ino;
        rename_there(&mount, "draft", "f");
        assert_eq!(mount.view(Ino::ROOT, "f").await.ino, ino);
        let asked = mount.memory.all_calls();
        mount.vfs.attributes(ino.into()).await.expect("it is there");
        assert_eq!(mount.memory.all_calls(), asked + 1, "by the right name at once");
        let opened = mount.vfs.open(ino, READ).await.expect("it is there");
        mount.vfs.release(opened.handle);
    });
}

#[test]
fn a_file_is_found_by_a_name_that_was_answered_while_something_else_was_told() {
    block_on(async {
        let mount = Mount::with_files(&["draft"], b"new");
        let ino = mount.view(Ino::ROOT, "draft").await.ino;
        mount.memory.edit(|tree| {
            let root = tree.root;
            tree.make(root, &bytes("other"), Kind::File, 0o644).expect("made");
            let draft = tree.at("draft").expect("it is there");
            tree.write(draft, None, b" and longer").expect("written");
            tree.rename((root, &bytes("draft")), (root, &bytes("f")), RenameMode::Replace).expect("renamed");
        });
        let gate = mount.stop(Stop::Replying("lookup"));
        let vfs = mount.vfs.clone();
        let looked = tokio::spawn(async move { vfs.lookup(Ino::ROOT, b"f").await });
        gate.reached().await;
        mount.vfs.changed(mount.memory.tell_one(0).expect("the other file"));
        gate.release();
        let Ok(Looked::Present(view)) = looked.await.expect("no panic") else { panic!("it is there") };
        assert_eq!((view.ino, view.attributes.size), (ino, 14), "as it was when it got the name");
        mount.vfs.attributes(ino.into()).await.expect("it is there");
        let opened = mount.vfs.open(ino, READ).await.expect("it is there");
        mount.vfs.release(opened.handle);
    });
}

#[test]
fn a_file_is_found_by_the_name_that_it_gets_while_it_is_opened() {
    block_on(async {
        let mount = Mount::with_files(&["draft", "f"], b"new");
        let ino = mount.view(Ino::ROOT, "draft").await.ino;
        let opening = mount.stop(Stop::Asking("open"));
        let vfs = mount.vfs.clone();
        let opened = tokio::spawn(async move { vfs.open(ino, READ).await });
        opening.reached().await;
        let rename = mount.vfs.rename((Ino::ROOT, b"draft"), (Ino::ROOT, b"f"), RenameMode::Replace);
        rename.await.expect("renamed");
        opening.release();
        let opened = opened.await.expect("no panic").expect("it is there all the time");
        mount.vfs.release(opened.handle);
    });
}

#[test]
fn nothing_is_opened_unseen_that_is_being_replaced_from_here() {
    block_on(async {
        let large = vec![b'x'; 200 << 10];
        let mount = Mount::with_files(&["draft", "f"], &large);
        mount.view(Ino::ROOT, "draft").await;
        let ino = mount.view(Ino::ROOT, "f").await.ino;
        let open = async || mount.vfs.open(ino, READ).await.map(|opened| mount.vfs.release(opened.handle));
        open().await.expect("opened");
        let asked = mount.memory.calls("open");
        let opening = mount.stop(Stop::Asking("open"));
        open().await.expect("the kernel has its pages");
        opening.reached().await;
        opening.release();
        let renaming = mount.stop(Stop::Replying("rename"));
        let vfs = mount.vfs.clone();
        let renamed = tokio::spawn(async move {
            vfs.rename((Ino::ROOT, b"draft"), (Ino::ROOT, b"f"), RenameMode::Replace).await
        });
        renaming.reached().await;
        assert_eq!(mount.memory.calls("open"), asked + 1);
        assert_eq!(open().await, Err(Errno::ESTALE), "so that the kernel looks the name up again");
        renaming.release();
        renamed.await.expect("no panic").expect("renamed");
    });
}

#[test]
fn the_name_of_a_directory_that_was_replaced_is_doubted_and_not_dropped() {
    block_on(async {
        let mount = Mount::new(Options::default());
        mount.memory.edit(|tree| {
            let root = tree.root;
            tree.make(root, &bytes("d"), Kind::Directory, 0o755).expect("made");
        });
        mount.view(Ino::ROOT, "d").await;
        rename_there(&mount, "d", "e");
        mount.tell_all();
        let name = bytes("d");
        assert!(mount.take_notices().contains(&Notice::Name { parent: Ino::ROOT, name }));
    });
}

#[test]
fn what_a_listing_finds_before_it_is_told_takes_back_what_was_believed() {
    block_on(async {
        let mount = Mount::with_files(&["f", "g"], b"");
        mount.view(Ino::ROOT, "f").await;
        rename_there(&mount, "g", "f");
        let handle = mount.vfs.open_directory(Ino::ROOT).await.expect("opened").handle;
        mount.vfs.read_directory(handle, 0, false, |_| true).await.expect("listed");
        assert!(mount.take_notices().contains(&Notice::Replaced { parent: Ino::ROOT, name: bytes("f") }));
    });
}

#[test]
fn a_lost_lease_takes_back_every_name_absent_ones_too() {
    block_on(async {
        let mount = Mount::with_files(&["f"], b"");
        let handle = mount.vfs.open_directory(Ino::ROOT).await.expect("opened").handle;
        mount.vfs.read_directory(handle, 0, false, |_| true).await.expect("listed");
        mount.view(Ino::ROOT, "f").await;
        assert!(mount.is_absent(Ino::ROOT, "no").await);
        assert_eq!(mount.memory.calls("lookup"), 0, "the listing says it all");
        mount.take_notices();
        let lost = mount.memory.lose_lease(mount.memory.root().id).expect("there was one");
        mount.vfs.changed(lost);
        let taken_back = mount.take_notices();
        for name in ["f", "no"] {
            assert!(taken_back.contains(&Notice::Name { parent: Ino::ROOT, name: bytes(name) }), "{name}");
        }
    });
}

#[test]
fn a_dropped_change_leaves_nothing_believed() {
    block_on(async {
        let mount = Mount::with_files(&["f"], b"");
        assert!(mount.is_absent(Ino::ROOT, "new").await);
        let gate = mount.stop(Stop::Replying("make_directory"));
        let vfs = mount.vfs.clone();
        let made = tokio::spawn(async move { vfs.make_directory(Ino::ROOT, b"new", 0o755, CALLER).await });
        gate.reached().await;
        made.abort();
        assert!(made.await.is_err());
        assert!(mount.take_notices().contains(&Notice::Name { parent: Ino::ROOT, name: bytes("new") }));
        mount.view(Ino::ROOT, "new").await;
    });
}

#[test]
fn names_that_cannot_be_are_refused_without_asking() {
    block_on(async {
        let mount = Mount::new(Options::default());
        let long = vec![b'x'; 256];
        for (name, errno) in [
            (&long[..], Errno::ENAMETOOLONG),
            (b"", Errno::ENOENT),
            (b"a/b", Errno::EINVAL),
            (b"..", Errno::EINVAL),
        ] {
            assert_eq!(mount.vfs.make_directory(Ino::ROOT, name, 0o755, CALLER).await.err(), Some(errno));
        }
        assert_eq!(mount.memory.all_calls(), 0);
    });
}
