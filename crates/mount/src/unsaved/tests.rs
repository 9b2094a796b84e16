use bytes::Bytes;
use remote::client::{AgentClient, Attached, ByteStream, ConnectOptions};
use tokio::io::{AsyncWriteExt, DuplexStream};
use vfs::file::{Name, OpenFlags, ThreadId};
use vfs::testing::{Memory, Stop};
use vfs::vfs::{Looked, Recording, WriteFrom};
use vfs::{Kernel, Options, SyncMode, Vfs};
use wire::agent::file as far;
use wire::api::id::MountId;
use wire::api::machine::{Reconnect, Source};
use wire::api::mount::Access;
use wire::frame::{PREFACE, encode_head};
use wire::hello::{Hello, SessionId};
use wire::worker::{Dial, Heartbeat, Owner, Place};

use super::*;
use crate::machine::Events;

struct NoKernel;

impl Kernel for NoKernel {
    fn notify(&self, _: Vec<vfs::table::Notice>) {}
}

/// The directory of a mount that is gone and has left a write to the file `f`, and which file that is.
async fn leave(directory: &Path) -> FileId {
    std::fs::create_dir(directory).unwrap();
    std::fs::write(directory.join(CONFIG), "{}").unwrap();
    let memory = Memory::new();
    let name: Name = b"f"[..].into();
    let file = memory.edit(|tree| tree.make(tree.root, &name, vfs::file::Kind::File, 0o600)).unwrap();
    let options = Options { sync: SyncMode::Async, ..Options::default() };
    let recording = Recording::Fresh(directory.to_owned());
    let vfs = Vfs::recorded(memory.clone(), memory.root(), options, Arc::new(NoKernel), recording);
    let Ok(Looked::Present(view)) = vfs.lookup(vfs::table::Ino::ROOT, b"f").await else {
        panic!("it is there")
    };
    let flags = OpenFlags { read: true, write: true, ..OpenFlags::default() };
    let handle = vfs.open(view.ino, flags).await.unwrap().handle;
    vfs.commit();
    let _cut = memory.stop(Stop::Asking("write"));
    let from = WriteFrom::Caller(ThreadId::UNKNOWN);
    vfs.write(handle, 0, Bytes::from_static(b"unsaved"), from, false).await.unwrap();
    assert_eq!(vfs.kept_writes(), 1);
    file
}

/// A machine that answers nothing, as long as the stream is kept.
async fn silent() -> (Machine, FileId, DuplexStream) {
    let (near, mut stream) = tokio::io::duplex(1 << 20);
    stream.write_all(PREFACE).await.unwrap();
    stream.write_all(&encode_head(&Hello::new(0, SessionId([7; 16])), 0).unwrap()).await.unwrap();
    let client =
        AgentClient::connect(ByteStream::new(near), ConnectOptions::default(), Events::new()).await.unwrap();
    let attributes = far::Attributes { mode: 0o755, links: 2, ..far::Attributes::new(far::Kind::Directory) };
    let root = far::Entry { id: far::FileId::default(), attributes };
    let attached = Attached { root, uid: 0, gid: 0, privileged: false, path: b"/".to_vec() };
    let (machine, root) = Machine::new(client, &attached, (0, 0));
    (machine, root.id, stream)
}

fn config(unsaved: &[&Path]) -> MountConfig {
    MountConfig {
        id: MountId::new(9),
        source: Source::parse(b"host:/src", b"/").unwrap(),
        dir: "/m".into(),
        backend: wire::api::mount::Backend::Auto,
        access: Access::ReadWrite,
        sync: wire::api::mount::SyncMode::Close,
        reconnect: Reconnect::Automatic,
        heartbeat: Heartbeat::default(),
        options: Default::default(),
        state_dir: "/s".into(),
        cache_dir: None,
        place: Place::Machine(Dial::Host),
        owner: Owner { uid: 0, gid: 0 },
        unsaved: unsaved.iter().map(|path| ByteString::from(*path)).collect(),
    }
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_does_not_answer_for_a_file_holds_the_mount_up_for_a_moment_and_the_file_until_it_is_left()
 {
    let scratch = tempfile::tempdir().unwrap();
    let directory = scratch.path().join("m1");
    let file = leave(&directory).await;
    let (machine, root, _stream) = silent().await;
    let config = config(&[&directory]);
    let mut replaying = Replaying::begin(&config, machine, root).await.unwrap();
    let began = Instant::now();
    replaying.hold().await;
    assert_eq!(began.elapsed().as_secs(), HOLD.as_secs());
    assert!(!replaying.is_over());
    let saving = vec![ByteString::from(directory.as_path())];
    assert_eq!(replaying.so_far(), Replayed { saving, ..Replayed::default() });
    let held = replaying.held();
    let passing = held.passed(file);
    tokio::pin!(passing);
    assert!(tokio::time::timeout(Duration::from_secs(1), &mut passing).await.is_err(), "it is held");
    held.passed(FileId { inode: file.inode + 1, ..file }).await;
    passing.await;
    assert!(began.elapsed() < ANSWER_WAIT + HOLD);
    let last = replaying.next().await.unwrap();
    let [Left { path, reason }] = &last.left[..] else { panic!("{last:?}") };
    assert_eq!((path.as_path(), last.saving.len()), (directory.as_path(), 0));
    assert_eq!(reason, "could not save `/m/f`: the machine did not answer for it in 30 s");
    assert_eq!(replaying.next().await, None);
    assert!(!Unsaved::read(&directory).unwrap().is_empty());
    assert_eq!(interrupted(&config).unwrap().left.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_directory_that_another_mount_is_at_is_waited_for_and_nothing_is_told_of_it_when_it_is_saved() {
    let scratch = tempfile::tempdir().unwrap();
    let directory = scratch.path().join("m1");
    let file = leave(&directory).await;
    let gone = scratch.path().join("m0");
    let (machine, root, _stream) = silent().await;
    let other = alone(&directory).unwrap().unwrap();
    let mut replaying = Replaying::begin(&config(&[&gone, &directory]), machine, root).await.unwrap();
    replaying.hold().await;
    let saving = vec![ByteString::from(directory.as_path())];
    assert_eq!(replaying.so_far(), Replayed { saving, ..Replayed::default() });
    replaying.held().passed(file).await;
    std::fs::remove_dir_all(&directory).unwrap();
    drop(other);
    assert_eq!(replaying.next().await, Some(Replayed::default()));
    assert_eq!(replaying.next().await, None);
}

#[tokio::test(start_paused = true)]
async fn what_another_mount_has_left_is_not_written_under_files_that_are_in_use() {
    let scratch = tempfile::tempdir().unwrap();
    let directory = scratch.path().join("m1");
    leave(&directory).await;
    let (machine, root, _stream) = silent().await;
    let other = alone(&directory).unwrap().unwrap();
    let mut replaying = Replaying::begin(&config(&[&directory]), machine, root).await.unwrap();
    replaying.held().close();
    drop(other);
    let last = replaying.next().await.unwrap();
    let [Left { reason, .. }] = &last.left[..] else { panic!("{last:?}") };
    assert_eq!(reason, TOO_LATE);
    assert_eq!(replaying.next().await, None);
}
