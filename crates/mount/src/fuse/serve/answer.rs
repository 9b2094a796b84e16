//! What an operation comes to, and how it is told to the kernel.

use std::sync::Arc;

use bytes::Bytes;
use vfs::errno::{Errno, Result};
use vfs::file::{Attributes, FileId, Name, Space};
use vfs::request::RequestId;
use vfs::source::{HandleId, Source};
use vfs::table::{Believe, Ino, Notice};
use vfs::vfs::{AroundPages, OpenedDirectory, OpenedFile, View};

use super::translate::{attr, entry, lifetime};
use super::{Manner, Serving};
use crate::fuse::abi::{self, InitFlags, Layout, darwin, fopen};
use crate::fuse::negotiation::Negotiated;
use crate::fuse::reply::{Delivery, Entry, Listing, ListingPlus, Opened, ReplyError, Responder};
use crate::fuse::request::{CopyWidth, Lock};

/// What an operation comes to.
pub(super) enum Answer {
    Done,
    /// A name that is not there.
    Absent {
        parent: Ino,
        name: Name,
        believe: Believe,
    },
    /// A name that is.
    Present {
        parent: Ino,
        name: Name,
        view: View,
    },
    Attributes {
        id: FileId,
        attributes: Attributes,
        believe: Believe,
    },
    Opened(OpenedFile),
    OpenedDirectory(OpenedDirectory),
    Created {
        parent: Ino,
        name: Name,
        view: View,
        opened: OpenedFile,
    },
    Bytes(Bytes),
    Listing(Listing),
    ListingPlus {
        parent: Ino,
        listing: ListingPlus,
        /// The names in it that count as lookups.
        shown: Vec<(Name, Ino)>,
    },
    Written(u32),
    Copied(u64, CopyWidth),
    Size(usize),
    Space(Space),
    Lock(Lock),
    Position(u64),
}

fn opened(layout: Layout, file: &OpenedFile, negotiated: &Negotiated) -> Opened {
    let is_direct = match file.around_pages {
        AroundPages::No => false,
        AroundPages::IfMappable => negotiated.has(InitFlags::DIRECT_IO_ALLOW_MMAP),
        AroundPages::Always => true,
    };
    let is_kept = file.keep_pages && !file.attributes_changed;
    let flags = match layout {
        Layout::Linux => {
            let keep = if file.keep_pages { fopen::KEEP_CACHE } else { 0 };
            let direct = if is_direct { fopen::DIRECT_IO } else { 0 };
            keep | direct
        }
        Layout::Darwin if is_kept => 0,
        Layout::Darwin => darwin::fopen::PURGE_UBC | darwin::fopen::PURGE_ATTR,
    };
    Opened { handle: file.handle.0, flags, backing: None }
}

fn opened_directory(layout: Layout, directory: &OpenedDirectory) -> Opened {
    let keep = if directory.keep_listing { fopen::KEEP_CACHE } else { 0 };
    let flags = match layout {
        Layout::Linux => fopen::CACHE_DIR | keep,
        // It keeps no listings.
        Layout::Darwin => 0,
    };
    Opened { handle: directory.handle.0, flags, backing: None }
}

fn statfs(space: &Space) -> abi::Kstatfs {
    abi::Kstatfs {
        blocks: space.blocks,
        bfree: space.blocks_free,
        bavail: space.blocks_available,
        files: space.files,
        ffree: space.files_free,
        bsize: space.block_size,
        namelen: space.name_bytes,
        frsize: space.block_size,
        ..abi::Kstatfs::default()
    }
}

impl<S: Source> Serving<S> {
    /// Answers. `told` is how many changes had been told before the operation began.
    pub(super) fn deliver(
        self: &Arc<Self>,
        responder: Responder,
        outcome: Result<Answer>,
        told: u64,
        manner: Manner,
    ) {
        let request = RequestId(responder.identity());
        // What the answer counts for must be known to a successor before the kernel knows it.
        self.vfs.commit();
        self.answer(responder, outcome, told);
        self.progress.made();
        if manner == Manner::Change {
            self.vfs.settle(request);
        }
    }

    fn answer(self: &Arc<Self>, responder: Responder, outcome: Result<Answer>, told: u64) {
        let answer = match outcome {
            Ok(answer) => answer,
            Err(errno) => {
                report(responder.error(i32::from(errno.0)).map(|_| ()));
                return;
            }
        };
        let sent = self.send(responder, &answer);
        match sent {
            Ok(Delivery::Delivered) if self.vfs.changes_told() != told => self.take_back(answer),
            Ok(Delivery::Delivered) => {}
            Ok(Delivery::Gone) => self.undo(answer),
            Err(error) => {
                report(Err(error));
                self.undo(answer);
            }
        }
    }

    fn send(&self, responder: Responder, answer: &Answer) -> std::result::Result<Delivery, ReplyError> {
        let (root, layout, negotiated) = (self.root_device, self.flavour.layout, &self.negotiated);
        match answer {
            Answer::Done => responder.done(),
            Answer::Absent { believe: Believe::Once, .. } => responder.error(i32::from(Errno::ENOENT.0)),
            // That kernel remembers no name that is not there.
            Answer::Absent { .. } if layout == Layout::Darwin => responder.error(i32::from(Errno::ENOENT.0)),
            Answer::Absent { believe, .. } => responder.entry(&Entry::negative(lifetime(*believe))),
            Answer::Present { view, .. } => responder.entry(&entry(root, view)),
            Answer::Attributes { id, attributes, believe } => {
                responder.attr(&attr(root, *id, attributes), lifetime(*believe))
            }
            Answer::Opened(file) => responder.opened(&opened(layout, file, negotiated)),
            Answer::OpenedDirectory(directory) => responder.opened(&opened_directory(layout, directory)),
            Answer::Created { view, opened: file, .. } => {
                responder.created(&entry(root, view), &opened(layout, file, negotiated))
            }
            Answer::Bytes(bytes) => responder.data(bytes),
            Answer::Listing(listing) => responder.listing(listing),
            Answer::ListingPlus { listing, .. } => responder.listing_plus(listing),
            Answer::Written(bytes) => responder.written(*bytes),
            Answer::Copied(bytes, width) => responder.copied(*bytes, *width),
            Answer::Size(bytes) => match u32::try_from(*bytes) {
                Ok(bytes) => responder.xattr_size(bytes),
                Err(_) => responder.error(i32::from(Errno::EOVERFLOW.0)),
            },
            Answer::Space(space) => responder.statfs(&statfs(space)),
            Answer::Lock(lock) => responder.lock(lock),
            Answer::Position(offset) => responder.position(*offset),
        }
    }

    /// Something was told while this was on its way: the kernel is not to believe it.
    fn take_back(&self, answer: Answer) {
        let notices = match answer {
            Answer::Absent { parent, name, .. } => vec![Notice::Name { parent, name }],
            Answer::Present { parent, name, view } | Answer::Created { parent, name, view, .. } => {
                vec![Notice::Name { parent, name }, Notice::Attributes(view.ino)]
            }
            Answer::ListingPlus { parent, shown, .. } => shown
                .into_iter()
                .flat_map(|(name, ino)| [Notice::Name { parent, name }, Notice::Attributes(ino)])
                .collect(),
            _ => return,
        };
        self.kernel.tell(notices);
    }

    /// Nobody took the answer: what it counts for is given back.
    fn undo(self: &Arc<Self>, answer: Answer) {
        match answer {
            Answer::Present { view, .. } => self.vfs.forget(view.ino, 1),
            Answer::Opened(file) => self.release(file.handle),
            Answer::OpenedDirectory(directory) => self.vfs.release_directory(directory.handle),
            Answer::Created { view, opened, .. } => {
                self.release(opened.handle);
                self.vfs.forget(view.ino, 1);
            }
            Answer::ListingPlus { shown, .. } => {
                self.vfs.forget_all(shown.into_iter().map(|(_, ino)| (ino, 1)));
            }
            _ => {}
        }
    }

    fn release(&self, handle: HandleId) {
        self.vfs.release(handle);
    }
}

/// A reply that the kernel refused is a bug; its caller got `EIO`.
pub(super) fn report(sent: std::result::Result<(), ReplyError>) {
    if let Err(error) = sent {
        tracing::error!(%error, source = %error.source, "a reply was refused");
    }
}
