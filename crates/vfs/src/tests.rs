//! Behaviour of the whole file system over a source in memory.

mod beliefs;
mod cached;
mod concurrency;
mod death;
mod directories;
mod expected;
mod fetch;
mod files;
mod foreign;
mod hostile;
mod limits;
mod model;
mod names;
mod own;
mod pipelined;
mod restore;
mod small;
mod taken;
mod walks;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::errno::Result;
use crate::file::{Caller, Name, OpenFlags};
use crate::source::HandleId;
use crate::table::{Ino, Notice};
use crate::testing::{Gate, Memory, Stop};
use crate::vfs::{Looked, Recording, Restored, View, WriteFrom};
use crate::{Kernel, Options, Vfs};

const CALLER: Caller = Caller { uid: 0, gid: 0, umask: 0o022 };
const READ: OpenFlags = OpenFlags {
    read: true,
    write: false,
    append: false,
    truncate: false,
    sync: false,
    direct: false,
    exclusive: false,
};
const WRITE: OpenFlags = OpenFlags { write: true, read: false, ..READ };
const BOTH: OpenFlags = OpenFlags { write: true, ..READ };

const DEADLINE: Duration = Duration::from_secs(20);

#[derive(Default)]
struct Notices {
    told: Mutex<Vec<Notice>>,
    /// What is told is carried out when a test takes it.
    is_late: AtomicBool,
}

impl Kernel for Notices {
    fn notify(&self, notices: Vec<Notice>) {
        self.told.lock().extend(notices);
    }

    fn is_behind(&self, ino: Ino) -> bool {
        let is_of = |notice: &Notice| match notice {
            Notice::Attributes(of) | Notice::Content(of) | Notice::Listing(of) => *of == ino,
            Notice::Name { .. } | Notice::Replaced { .. } => false,
        };
        self.is_late.load(Ordering::Relaxed) && self.told.lock().iter().any(is_of)
    }
}

struct Mount {
    memory: Arc<Memory>,
    vfs: Arc<Vfs<Memory>>,
    notices: Arc<Notices>,
}

impl Mount {
    fn new(options: Options) -> Mount {
        let (memory, notices) = (Memory::new(), Arc::new(Notices::default()));
        let vfs = Vfs::new(memory.clone(), memory.root(), options, notices.clone());
        Mount { memory, vfs, notices }
    }

    /// The source makes files with this content, named from the root.
    fn with_files(names: &[&str], content: &[u8]) -> Mount {
        let mount = Mount::new(Options::default());
        mount.memory.edit(|tree| {
            for name in names {
                let root = tree.root;
                let file = tree.make(root, &bytes(name), crate::file::Kind::File, 0o644).expect("a new name");
                tree.write(file, Some(0), content).expect("a file");
            }
        });
        mount
    }

    /// Another mount of the same source, which knows nothing.
    fn again(&self) -> Mount {
        let (memory, notices) = (self.memory.clone(), Arc::new(Notices::default()));
        let vfs = Vfs::new(memory.clone(), memory.root(), Options::default(), notices.clone());
        Mount { memory, vfs, notices }
    }

    /// A mount that records what a successor needs, or is one.
    fn recorded(memory: &Arc<Memory>, options: Options, recording: Recording) -> Mount {
        let notices = Arc::new(Notices::default());
        let vfs = Vfs::recorded(memory.clone(), memory.root(), options, notices.clone(), recording);
        Mount { memory: memory.clone(), vfs, notices }
    }

    /// A first one with its record in `directory`.
    fn fresh(memory: &Arc<Memory>, directory: &Path) -> Mount {
        Mount::recorded(memory, Options::default(), Recording::Fresh(directory.to_owned()))
    }

    /// The successor of the one whose record is in `directory`.
    fn successor(memory: &Arc<Memory>, directory: &Path) -> Mount {
        let restored = Restored::read(directory).expect("readable").expect("recorded");
        Mount::recorded(memory, Options::default(), Recording::Restored(Box::new(restored)))
    }

    async fn view(&self, parent: Ino, name: &str) -> View {
        match self.vfs.lookup(parent, name.as_bytes()).await {
            Ok(Looked::Present(view)) => view,
            other => panic!("{name}: {other:?}"),
        }
    }

    async fn is_absent(&self, parent: Ino, name: &str) -> bool {
        matches!(self.vfs.lookup(parent, name.as_bytes()).await, Ok(Looked::Absent(_)))
    }

    async fn write(&self, handle: HandleId, offset: u64, bytes: &[u8]) -> Result<u32> {
        self.vfs
            .write(
                handle,
                offset,
                bytes::Bytes::copy_from_slice(bytes),
                WriteFrom::Caller(crate::file::ThreadId::UNKNOWN),
                false,
            )
            .await
    }

    fn content(&self, path: &str) -> Vec<u8> {
        self.memory.look(|tree| tree.get(tree.at(path).expect("a path")).expect("a file").content.clone())
    }

    fn tell_all(&self) {
        self.memory.tell_all().into_iter().for_each(|changed| self.vfs.changed(changed));
    }

    fn stop(&self, stop: Stop) -> Arc<Gate> {
        self.memory.stop(stop)
    }

    fn take_notices(&self) -> Vec<Notice> {
        std::mem::take(&mut self.notices.told.lock())
    }
}

fn bytes(name: &str) -> Name {
    name.as_bytes().into()
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime").block_on(future)
}

/// Waits for what takes a time of its own.
async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let until = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < until, "{what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Lets everything go on that can, without a wait for anything outside.
async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}
