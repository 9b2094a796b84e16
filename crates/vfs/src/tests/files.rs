//! Open files: what is read, what is written, which errors are told to whom.

use super::*;
use crate::errno::Errno;
use crate::file::{AttributeChanges, ThreadId};
use crate::source::TRANSFER_BYTES_MAX;
use crate::vfs::Removal;
use crate::{SyncMode, Vfs};

async fn open(mount: &Mount, name: &str, flags: OpenFlags) -> (Ino, HandleId) {
    let ino = mount.view(Ino::ROOT, name).await.ino;
    (ino, mount.vfs.open(ino, flags).await.expect("opened").handle)
}

#[test]
fn overlapping_writes_arrive_in_order_and_others_side_by_side() {
    block_on(async {
        let mount = Mount::with_files(&["f"], b"----------");
        let (_, handle) = open(&mount, "f", WRITE).await;
        let first = mount.stop(Stop::Asking("write"));
        mount.write(handle, 0, b"aaaa").await.expect("taken");
        first.reached().await;
        // It overlaps the first: it waits, while one beside it does not.
        let vfs = mount.vfs.clone();
        let overlapping = tokio::spawn(async move {
            vfs.write(
                handle,
                2,
                bytes::Bytes::from_static(b"bbbb"),
                WriteFrom::Caller(ThreadId::UNKNOWN),
                false,
            )
            .await
        });
        settle().await;
        mount.write(handle, 8, b"cc").await.expect("taken");
        settle().await;
        assert_eq!(mount.content("f"), b"--------cc");
        first.release();
        overlapping.await.expect("no panic").expect("taken");
        mount.vfs.drain().await;
        assert_eq!(mount.content("f"), b"aabbbb--cc");
    });
}

#[test]
fn an_error_of_a_write_behind_is_told_once_to_every_handle_that_was_open() {
    block_on(async {
        let mount = Mount::with_files(&["f"], b"");
        let (ino, writer) = open(&mount, "f", WRITE).await;
        let other = mount.vfs.open(ino, WRITE).await.expect("opened").handle;
        let gate = mount.stop(Stop::Asking("write"));
        mount.memory.fail_next("write", Errno::ENOSPC);
        mount.write(writer, 0, b"lost").await.expect("taken");
        gate.reached().await;
        gate.release();
        assert_eq!(mount.vfs.sync(writer, false).await, Err(Errno::ENOSPC));
        assert_eq!(mount.vfs.sync(writer, false).await, Ok(()));
        assert_eq!(mount.write(other, 0, b"x").await, Err(Errno::ENOSPC));
        assert_eq!(mount.vfs.flush(other, 0, None).await, Ok(()));
        let late = mount.vfs.open(ino, WRITE).await.expect("opened").handle;
        assert_eq!(mount.vfs.flush(late, 0, None).await, Ok(()));
        assert!(mount.take_notices().contains(&Notice::Content(ino)), "pages of lost bytes are dropped");
    });
}

#[test]
fn an_error_that_a_write_has_returned_is_not_told_again() {
    block_on(async {
        let mount = Mount::with_files(&["f"], b"");
        let (_, handle) = open(&mount, "f", OpenFlags { sync: true, ..WRITE }).await;
        mount.memory.fail_next("write", Errno::EDQUOT);
        assert_eq!(mount.write(handle, 0, b"lost").await, Err(Errno::EDQUOT));
        assert_eq!(mount.vfs.flush(handle, 0, None).await, Ok(()));
    });
}

#[test]
fn a_write_that_is_taken_in_parts_arrives_whole_and_one_that_is_not_taken_fails() {
    block_on(async {
        let mount = Mount::with_files(&["f"], b"");
        let (_, handle) = open(&mount, "f", WRITE).await;
        mount.memory.write_at_most(3);
        mount.write(handle, 0, b"0123456789").await.expect("taken");
        mount.vfs.flush(handle, 0, None).await.expect("written");
        assert_eq!(mount.content("f"), b"0123456789");
        mount.memory.write_at_most(0);
        assert_eq!(
            mount.write(handle, 0, b"x").await.and(mount.vfs.flush(handle, 0, None).await),
            Err(Errno::EIO)
        );
    });
}

#[test]
fn appends_of_two_handles_lose_nothing() {
    block_on(async {
        let mount = Mount::with_files(&["f"], b"");
        let append = OpenFlags { append: true, ..WRITE };
        let (ino, first) = open(&mount, "f", append).await;
        let second = mount.vfs.open(ino, append).await.expect("opened").handle;
        for _ in 0..4 {
            mount.write(first, 0, b"ab").await.expect("written");
            mount.write(second, 0, b"cd").await.expect("written");
        }
        assert_eq!(mount.content("f"), b"abcdabcdabcdabcd");
    });
}

#[test]
fn a_reader_does_not_wait_for_writes_elsewhere_in_the_file() {
    block_on(async {
        let mount = Mount::with_files(&["f"], &[b'o'; 1 << 10]);
        let (_, handle) = open(&mount, "f", OpenFlags { direct: true, ..BOTH }).await;
        let gate = mount.stop(Stop::Asking("write"));
        mount.write(handle, 0, b"new").await.expect("taken");
        gate.reached().await;
        assert_eq!(mount.vfs.read(handle, 100, 3).await.expect("read"), "ooo");
        gate.release();
        assert_eq!(mount.vfs.read(handle, 0, 4).await.expect("read"), "newo");
    });
}

#[test]
fn attributes_wait_for_the_writes_that_came_before_and_for_no_others() {
    block_on(async {
        let mount = Mount::with_files(&["f"], b"");
        let (ino, handle) = open(&mount, "f", WRITE).await;
        let first = mount.stop(Stop::Asking("write"));
        mount.write(handle, 0, b"12345").await.expect("taken");
        first.reached().await;
        let vfs = mount.vfs.clone();
        let asked = tokio::spawn(async move { vfs.attributes(ino.into()).await });
        settle().await;
        assert!(!asked.is_finished());
        let second = mount.stop(Stop::Asking("write"));
        mount.write(handle, 5, b"67890").await.expect("taken");
        second.reached().await;
        first.release();
        let (attributes, _) = asked.await.expect("no panic").expect("asked");
        assert!(attributes.size >= 5);
        second.release();
        assert_eq!(mount.vfs.attributes(ino.into()).await.expect("asked").0.size, 10);
    });
}

#[test]
fn of_two_replies_that_overtook_each_other_neither_is_believed() {
    block_on(async {
        let mount = Mount::with_files(&["f"], b"");
        // One tick of the machine's clock for all changes: nothing tells which is the younger.
        mount.memory.edit(|tree| tree.ticks_per_time = 1 << 40);
        let (ino, handle) = open(&mount, "f", WRITE).await;
        let first = mount.stop(Stop::Replying("write"));
        mount.write(handle, 0, b"12345").await.expect("taken");
        first.reached().await;
        mount.write(handle, 5, b"67890").await.expect("taken");
        settle().await;
        first.release();
        mount.vfs.drain().await;
        assert_eq!(mount.vfs.attributes(ino.into()).await.expect("asked").0.size, 10);
    });
}

#[test]
fn a_lookup_of_a_file_that_is_being_written_tells_the_size_its_writer_knows() {
    block_on(async {
        let mount = Mount::with_files(&["f"], b"");
        let (_, handle) = open(&mount, "f", WRITE).await;
        let gate = mount.stop(Stop::Asking("write"));
        mount.write(handle, 0, b"12345").await.expect("taken");
        gate.reached().await;
        let vfs = mount.vfs.clone();
        let looked = tokio::spawn(async move { vfs.lookup(Ino::ROOT, b"f").await });
        settle().await;
        gate.release();
        let Ok(Looked::Present(view)) = looked.await.expect("no panic") else { panic!("there is a file") };
        assert_eq!(view.attributes.size, 5);
    });
}

#[test]
fn content_that_came_with_the_open_is_not_read_after_an_own_write() {
    block_on(async {
        let mount = Mount::with_files(&["f"], b"old");
        let (ino, writer) = open(&mount, "f", WRITE).await;
        let gate = mount.stop(Stop::Replying("open"));
        let vfs = mount.vfs.clone();
        let opened = tokio::spawn(async move { vfs.open(ino, READ).await });
        gate.reached().await;
        mount.write(writer, 0, b"new").await.expect("taken");
        mount.vfs.flush(writer, 0, None).await.expect("written");
        gate.release();
        let reader = opened.await.expect("no panic").expect("opened").handle;
        assert_eq!(mount.vfs.read(reader, 0, 10).await.expect("read"), "new");
    });
}

#[test]
fn a_small_file_is_opened_and_read_in_one_request() {
    block_on(async {
        let mount = Mount::with_files(&["f"], b"small");
        let (_, handle) = open(&mount, "f", READ).await;
        assert_eq!(mount.vfs.read(handle, 1, 100).await.expect("read"), "mall");
        assert_eq!((mount.memory.calls("open"), mount.memory.calls("read")), (1, 0));
    });
}

#[test]
fn what_was_read_ahead_does_not_survive_a_truncate() {
    block_on(async {
        let mount = Mount::with_files(&["f"], &vec![b'x'; 1 << 20]);
        let (ino, handle) = open(&mount, "f", BOTH).await;
        for offset in [0, 128 << 10, 256 << 10] {
            mount.vfs.read(handle, offset, 128 << 10).await.expect("read");
        }
        let truncated = AttributeChanges { size: Some(300 << 10), ..AttributeChanges::default() };
        mount.vfs.set_attributes(ino.into(), truncated).await.expect("truncated");
        assert!(mount.vfs.read(handle, 384 << 10, 128 << 10).await.expect("read").is_empty());
        let grown = AttributeChanges { size: Some(1 << 20), ..AttributeChanges::default() };
        mount.vfs.set_attributes(ino.into(), grown).await.expect("grown");
        assert_eq!(mount.vfs.read(handle, 384 << 10, 4).await.expect("read"), &[0; 4][..]);
    });
}

#[test]
fn the_end_of_a_file_that_grows_elsewhere_is_asked_for_again() {
    block_on(async {
        let mount = Mount::with_files(&["log"], &vec![b'x'; 300 << 10]);
        mount.memory.unwatched(1000);
        let (_, handle) = open(&mount, "log", READ).await;
        for offset in [0, 128 << 10, 256 << 10] {
            mount.vfs.read(handle, offset, 128 << 10).await.expect("read");
        }
        let end = 300 << 10;
        assert!(mount.vfs.read(handle, end, 10).await.expect("read").is_empty());
        mount.memory.edit(|tree| {
            let file = tree.at("log").expect("there");
            tree.write(file, None, b"more").expect("written")
        });
        assert_eq!(mount.vfs.read(handle, end, 10).await.expect("read"), "more");
    });
}

#[test]
fn a_file_that_was_unlinked_while_open_is_read_written_and_gone_when_closed() {
    block_on(async {
        let mount = Mount::with_files(&["f"], b"content");
        let (ino, handle) = open(&mount, "f", OpenFlags { direct: true, ..BOTH }).await;
        mount.vfs.remove(Ino::ROOT, b"f", Removal::Other).await.expect("removed");
        mount.write(handle, 0, b"C").await.expect("taken");
        assert_eq!(mount.vfs.read(handle, 0, 10).await.expect("read"), "Content");
        assert_eq!(mount.vfs.attributes(ino.into()).await.expect("asked").0.links, 0);
        mount.vfs.release(handle);
        settle().await;
        assert_eq!((mount.memory.open_handles(), mount.vfs.open_files()), (0, 0));
        mount.vfs.forget(ino, 1);
        assert_eq!(mount.vfs.census().nodes, 1);
    });
}

/// More than is kept whole.
fn large() -> Vec<u8> {
    b"content".iter().copied().cycle().take(crate::contents::FILE_BYTES_MAX as usize + 1).collect()
}

/// Reads the file once, so that the kernel has its pages and the source would tell of changes.
async fn read_once(mount: &Mount, name: &str) -> Ino {
    let (ino, handle) = open(mount, name, READ).await;
    mount.vfs.read(handle, 0, 100).await.expect("read");
    mount.vfs.release(handle);
    settle().await;
    ino
}

#[test]
fn a_file_whose_pages_the_kernel_has_opens_without_a_wait() {
    block_on(async {
        let mount = Mount::with_files(&["f"], &large());
        let ino = read_once(&mount, "f").await;
        let gate = mount.stop(Stop::Asking("open"));
        let opened = mount.vfs.open(ino, READ).await.expect("opened");
        assert!(opened.keep_pages);
        gate.reached().await;
        gate.release();
        mount.vfs.drain().await;
        settle().await;
        assert_eq!(mount.memory.open_handles(), 1, "the one before is closed");
    });
}

#[test]
fn an_open_without_a_wait_that_fails_is_told_to_the_reader_and_waits_for_nobody() {
    block_on(async {
        let mount = Mount::with_files(&["f"], &large());
        let ino = read_once(&mount, "f").await;
        mount.memory.fail_next("open", Errno::EACCES);
        let opened = mount.vfs.open(ino, READ).await.expect("opened");
        settle().await;
        assert_eq!(mount.vfs.read(opened.handle, 0, 1).await, Err(Errno::EACCES));
        assert_eq!(mount.vfs.attributes(ino.into()).await.expect("asked").0.size, large().len() as u64);
        mount.vfs.release(opened.handle);
        settle().await;
        assert_eq!(mount.vfs.open_files(), 0);
    });
}

#[test]
fn an_open_without_a_wait_is_waited_for_by_an_unlink() {
    block_on(async {
        let mount = Mount::with_files(&["f"], &large());
        let ino = read_once(&mount, "f").await;
        let gate = mount.stop(Stop::Asking("open"));
        let opened = mount.vfs.open(ino, READ).await.expect("opened");
        let vfs = mount.vfs.clone();
        let removed = tokio::spawn(async move { vfs.remove(Ino::ROOT, b"f", Removal::Other).await });
        gate.reached().await;
        settle().await;
        gate.release();
        removed.await.expect("no panic").expect("removed");
        assert_eq!(mount.vfs.read(opened.handle, 0, 7).await.expect("read"), "content");
    });
}

#[test]
fn pages_are_kept_until_the_content_changes() {
    block_on(async {
        let mount = Mount::with_files(&["f"], b"content");
        let ino = read_once(&mount, "f").await;
        mount.memory.edit(|tree| {
            let file = tree.at("f").expect("there");
            tree.write(file, Some(0), b"CONTENT").expect("written")
        });
        mount.tell_all();
        assert!(mount.take_notices().contains(&Notice::Content(ino)));
        let opened = mount.vfs.open(ino, READ).await.expect("opened");
        assert!(!opened.keep_pages && opened.attributes_changed);
        assert_eq!(mount.vfs.read(opened.handle, 0, 7).await.expect("read"), "CONTENT");
    });
}

#[test]
fn a_dropped_write_is_an_error_of_its_file_and_nothing_is_believed() {
    block_on(async {
        let mount = Mount::with_files(&["f"], b"");
        let (ino, handle) = open(&mount, "f", OpenFlags { sync: true, ..WRITE }).await;
        let gate = mount.stop(Stop::Replying("write"));
        let vfs = mount.vfs.clone();
        let write = tokio::spawn(async move {
            vfs.write(
                handle,
                0,
                bytes::Bytes::from_static(b"12345"),
                WriteFrom::Caller(ThreadId::UNKNOWN),
                false,
            )
            .await
        });
        gate.reached().await;
        write.abort();
        assert!(write.await.is_err());
        assert_eq!(mount.vfs.attributes(ino.into()).await.expect("asked").0.size, 5);
        assert_eq!(mount.vfs.flush(handle, 0, None).await, Err(Errno::EIO));
        assert_eq!(mount.vfs.flush(handle, 0, None).await, Ok(()));
    });
}

#[test]
fn an_unmount_waits_for_every_byte() {
    block_on(async {
        let mount = Mount::with_files(&["f", "g"], b"");
        for name in ["f", "g"] {
            let (_, handle) = open(&mount, name, WRITE).await;
            for offset in 0..50 {
                mount.write(handle, offset * 3, b"abc").await.expect("taken");
            }
            mount.vfs.release(handle);
        }
        mount.vfs.drain().await;
        assert_eq!((mount.content("f").len(), mount.content("g").len()), (150, 150));
        assert_eq!(mount.vfs.unwritten_bytes(), 0);
    });
}

#[test]
fn close_waits_for_the_file_and_in_asynchronous_mode_for_nothing() {
    block_on(async {
        for (sync, waits) in [(SyncMode::Close, true), (SyncMode::Async, false)] {
            let mount = Mount::new(Options { sync, ..Options::default() });
            let (_, opened) = mount.vfs.create(Ino::ROOT, b"f", 0o644, WRITE, CALLER).await.expect("created");
            let gate = mount.stop(Stop::Asking("write"));
            mount.write(opened.handle, 0, b"x").await.expect("taken");
            gate.reached().await;
            let vfs: Arc<Vfs<Memory>> = mount.vfs.clone();
            let flushed = tokio::spawn(async move { vfs.flush(opened.handle, 0, None).await });
            settle().await;
            assert_eq!(flushed.is_finished(), !waits, "{sync:?}");
            gate.release();
            flushed.await.expect("no panic").expect("flushed");
        }
    });
}

#[test]
fn offsets_at_the_end_of_numbers_are_refused() {
    block_on(async {
        let mount = Mount::with_files(&["f"], b"x");
        let (_, handle) = open(&mount, "f", BOTH).await;
        assert_eq!(mount.vfs.read(handle, u64::MAX, u32::MAX).await, Err(Errno::EINVAL));
        assert!(mount.vfs.read(handle, i64::MAX as u64, TRANSFER_BYTES_MAX).await.expect("read").is_empty());
        assert_eq!(mount.write(handle, u64::MAX, b"xx").await, Err(Errno::EFBIG));
        assert_eq!(mount.write(handle, i64::MAX as u64, b"xx").await, Err(Errno::EFBIG));
    });
}

#[test]
fn the_space_of_a_far_file_system_is_asked_for_again_after_a_change() {
    block_on(async {
        let mount = Mount::with_files(&["f"], b"");
        let asked = || mount.memory.calls("space");
        let before = asked();
        mount.vfs.space(Ino::ROOT).await.expect("told");
        mount.vfs.space(Ino::ROOT).await.expect("known");
        assert_eq!(asked() - before, 1);
        let (_, handle) = open(&mount, "f", WRITE).await;
        mount.write(handle, 0, b"full?").await.expect("taken");
        mount.vfs.drain().await;
        mount.vfs.space(Ino::ROOT).await.expect("told");
        assert_eq!(asked() - before, 2, "a write takes space");
        mount.vfs.remove(Ino::ROOT, b"f", Removal::Other).await.expect("removed");
        mount.vfs.space(Ino::ROOT).await.expect("told");
        assert_eq!(asked() - before, 3, "a removal gives it back");
        mount.vfs.set_round_trip(std::time::Duration::ZERO);
        mount.vfs.space(Ino::ROOT).await.expect("told");
        assert_eq!(asked() - before, 4, "a near one is always asked");
    });
}
