//! The kernel as `vfs` sees it: something that is told what it must no longer believe.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use vfs::Kernel;
use vfs::file::Name;
use vfs::table::{Ino, Notice};

use crate::fuse::abi::InitFlags;
use crate::fuse::device::Device;
use crate::fuse::negotiation::Negotiated;
use crate::fuse::notify::{self, Forgetting, Notifier, Rejected};

/// Sends notices through a thread that serves no requests.
#[derive(Default)]
pub struct FuseKernel {
    started: OnceLock<Started>,
}

struct Started {
    notifier: Notifier,
    device: Arc<Device>,
    forgetting: Forgetting,
    runtime: tokio::runtime::Handle,
    /// Notices for which there was no room yet.
    beside: Arc<AtomicUsize>,
}

impl Started {
    /// Whether a notice about a node waits for the requests on it.
    fn notices_wait(&self) -> bool {
        self.device.flavour().notices_wait
    }
}

impl FuseKernel {
    /// A kernel that has been told nothing yet, and so need not be told anything.
    pub fn new() -> Arc<FuseKernel> {
        Arc::default()
    }

    /// From now on the kernel behind `device` is told. Within a tokio runtime.
    pub(super) fn start(&self, device: &Arc<Device>, negotiated: &Negotiated) -> io::Result<()> {
        let notifier = Notifier::start(device.clone())?;
        let forgetting = match negotiated.has(InitFlags::HAS_EXPIRE_ONLY) {
            true => Forgetting::Expire,
            false => Forgetting::Drop,
        };
        let (device, runtime, beside) = (device.clone(), tokio::runtime::Handle::current(), Arc::default());
        let started = Started { notifier, device, forgetting, runtime, beside };
        self.started.set(started).map_err(|_| io::Error::other("the kernel is being told already"))
    }

    /// Takes back the attributes of a node at once. For a thread that is about to answer an OPEN: it touches no page,
    /// and so waits for no other request. Where it would, the answer itself says so.
    pub(super) fn forget_attributes(&self, node: u64) {
        let Some(started) = self.started.get().filter(|started| !started.notices_wait()) else { return };
        if let Err(errno) = notify::write(&started.device, &notify::Notice::Attributes { node }) {
            tracing::warn!(node, %errno, "the kernel keeps old attributes until they expire");
        }
    }

    /// The kernel is not to believe anything of what it was told of these. Waits for room: not for a thread that answers
    /// requests.
    pub(super) fn doubt(&self, names: Vec<(Ino, Name)>, nodes: Vec<Ino>) {
        let Some(started) = self.started.get() else { return };
        let names = names.into_iter().map(|(parent, name)| {
            let (parent, name, how) = (parent.0, name.to_vec(), started.forgetting);
            notify::Notice::Entry { parent, name, how }
        });
        let nodes = std::iter::once(Ino::ROOT).chain(nodes).map(|ino| notify::Notice::Inode { node: ino.0 });
        for notice in names.chain(nodes) {
            if let Err(error) = started.notifier.send(notice) {
                return tracing::debug!(%error, "the mount is gone before the kernel has doubted it all");
            }
        }
    }

    /// Ends the thread.
    pub(super) fn close(&self) {
        if let Some(started) = self.started.get() {
            started.notifier.close();
        }
    }

    pub(super) fn tell(&self, notices: Vec<Notice>) {
        let Some(started) = self.started.get() else { return };
        for notice in notices {
            let notice = match notice {
                Notice::Name { parent, name } => {
                    let (parent, name, how) = (parent.0, name.to_vec(), started.forgetting);
                    notify::Notice::Entry { parent, name, how }
                }
                Notice::Replaced { parent, name } => {
                    let (parent, name, how) = (parent.0, name.to_vec(), Forgetting::Drop);
                    notify::Notice::Entry { parent, name, how }
                }
                Notice::Attributes(ino) => notify::Notice::Attributes { node: ino.0 },
                Notice::Content(ino) => notify::Notice::Inode { node: ino.0 },
                Notice::Listing(ino) => notify::Notice::Listing { node: ino.0 },
            };
            match started.notifier.try_send(notice) {
                Ok(()) | Err(Rejected::Closed) => {}
                Err(Rejected::Full(notice)) => {
                    // Nothing may be lost, and the caller may not wait: another thread does.
                    let (notifier, beside) = (started.notifier.clone(), started.beside.clone());
                    beside.fetch_add(1, Ordering::AcqRel);
                    started.runtime.spawn_blocking(move || {
                        // Where it is closed, nobody asks any more.
                        let _taken = notifier.send(notice).is_ok();
                        beside.fetch_sub(1, Ordering::AcqRel);
                    });
                }
            }
        }
    }
}

impl Kernel for FuseKernel {
    fn notify(&self, notices: Vec<Notice>) {
        self.tell(notices);
    }

    fn is_behind(&self, node: Ino) -> bool {
        let started = self.started.get();
        // A notice that waits beside the queue may be about any node.
        started.is_some_and(|is| is.beside.load(Ordering::Acquire) > 0 || is.notifier.is_behind(node.0))
    }

    fn caught_up(&self, node: Ino) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(async move {
            // What waits for this very request does not end before it.
            if let Some(started) = self.started.get().filter(|started| !started.notices_wait()) {
                started.notifier.caught_up(node.0).await;
            }
        })
    }
}
