//! Pages and changes, for the system.
//!
//! Only the working set tells of changes: whatever changes in any directory is in it. A directory's own enumerator has no anchor, so the
//! system lists it anew.

use std::sync::Arc;

use block2::DynBlock;
use objc2::rc::{Allocated, Retained};
use objc2::runtime::{NSObject, NSObjectProtocol, ProtocolObject};
use objc2::{AllocAnyThread, DefinedClass, define_class, msg_send};
use objc2_file_provider::{
    NSFileProviderChangeObserver, NSFileProviderEnumerationObserver, NSFileProviderEnumerator,
    NSFileProviderItemIdentifier, NSFileProviderItemProtocol, NSFileProviderPage, NSFileProviderSyncAnchor,
};
use objc2_foundation::{NSArray, NSData, NSString};

use super::block::{Handler, Shared};
use super::error;
use super::item::ShownItem;
use crate::once::Once;
use crate::service::{Failure, Reply, Service, Shown, Subject};

/// What is enumerated.
#[derive(Clone, Debug)]
pub(super) enum Container {
    /// One directory.
    Directory(Subject),
    /// Everything that is known.
    WorkingSet,
}

pub(super) struct Enumeration {
    service: Option<Arc<Service>>,
    container: Container,
}

define_class!(
    // SAFETY: NSObject may be subclassed; there is no Drop.
    #[unsafe(super(NSObject))]
    #[name = "SteadEnumerator"]
    #[ivars = Enumeration]
    pub(super) struct Enumerator;

    // SAFETY: nothing of it is changed.
    unsafe impl NSObjectProtocol for Enumerator {}

    // SAFETY: the methods have the types of the protocol.
    unsafe impl NSFileProviderEnumerator for Enumerator {
        #[unsafe(method(invalidate))]
        fn invalidate(&self) {}

        #[unsafe(method(enumerateItemsForObserver:startingAtPage:))]
        fn enumerate_items(
            &self,
            observer: &ProtocolObject<dyn NSFileProviderEnumerationObserver>,
            page: &NSFileProviderPage,
        ) {
            let observer = Shared::new(observer);
            let once = Once::new(
                move |reply: Reply<crate::service::Items>| match reply {
                    Ok(page) => {
                        let next = page.next.map(|next| NSData::with_bytes(&next));
                        // SAFETY: the observer is told of items, then of the end, once.
                        unsafe {
                            observer.get().didEnumerateItems(&items(page.items));
                            observer.get().finishEnumeratingUpToPage(next.as_deref());
                        }
                    }
                    // SAFETY: the observer is told of the end once.
                    Err(failure) => unsafe {
                        observer.get().finishEnumeratingWithError(&error::of(&failure));
                    },
                },
                || Err(Failure::Later),
            );
            let Some(service) = &self.ivars().service else { return once.answer(Err(Failure::Later)) };
            match &self.ivars().container {
                Container::Directory(subject) => service.page(subject.clone(), page.to_vec(), once),
                Container::WorkingSet => service.working_set(page.to_vec(), once),
            }
        }

        #[unsafe(method(enumerateChangesForObserver:fromSyncAnchor:))]
        fn enumerate_changes(
            &self,
            observer: &ProtocolObject<dyn NSFileProviderChangeObserver>,
            anchor: &NSFileProviderSyncAnchor,
        ) {
            let observer = Shared::new(observer);
            let once = Once::new(
                move |reply: Reply<crate::service::ChangedItems>| match reply {
                    Ok(changes) => {
                        let gone: Vec<Retained<NSFileProviderItemIdentifier>> =
                            changes.gone.iter().map(|gone| NSString::from_str(gone)).collect();
                        // SAFETY: the observer is told of changes, then of the end, once.
                        unsafe {
                            observer.get().didUpdateItems(&items(changes.changed));
                            observer
                                .get()
                                .didDeleteItemsWithIdentifiers(&NSArray::from_retained_slice(&gone));
                            observer.get().finishEnumeratingChangesUpToSyncAnchor_moreComing(
                                &NSData::with_bytes(&changes.anchor),
                                changes.is_more,
                            );
                        }
                    }
                    // SAFETY: the observer is told of the end once.
                    Err(failure) => unsafe {
                        observer.get().finishEnumeratingWithError(&error::of(&failure));
                    },
                },
                || Err(Failure::Later),
            );
            match (&self.ivars().service, &self.ivars().container) {
                (Some(service), Container::WorkingSet) => service.changes(anchor.to_vec(), once),
                (Some(_), Container::Directory(_)) => once.answer(Err(Failure::Expired)),
                (None, _) => once.answer(Err(Failure::Later)),
            }
        }

        #[unsafe(method(currentSyncAnchorWithCompletionHandler:))]
        fn current_anchor(&self, handler: &DynBlock<dyn Fn(*mut NSFileProviderSyncAnchor)>) {
            let handler = Handler::new(handler);
            let once = Once::new(
                move |reply: Reply<Vec<u8>>| {
                    let anchor = reply.ok().map(|anchor| NSData::with_bytes(&anchor));
                    let anchor = anchor
                        .as_deref()
                        .map_or(std::ptr::null_mut(), |anchor| std::ptr::from_ref(anchor).cast_mut());
                    handler.block().call((anchor,));
                },
                || Err(Failure::Later),
            );
            match (&self.ivars().service, &self.ivars().container) {
                (Some(service), Container::WorkingSet) => service.anchor(once),
                _ => once.answer(Err(Failure::Later)),
            }
        }
    }
);

impl Enumerator {
    pub(super) fn new(service: Option<Arc<Service>>, container: Container) -> Retained<Enumerator> {
        let this: Allocated<Enumerator> = Enumerator::alloc();
        let this = this.set_ivars(Enumeration { service, container });
        // SAFETY: NSObject's init takes nothing and returns the object.
        unsafe { msg_send![super(this), init] }
    }
}

fn items(shown: Vec<Shown>) -> Retained<NSArray<ProtocolObject<dyn NSFileProviderItemProtocol>>> {
    let items: Vec<Retained<ProtocolObject<dyn NSFileProviderItemProtocol>>> =
        shown.into_iter().map(|shown| ProtocolObject::from_retained(ShownItem::new(shown))).collect();
    NSArray::from_retained_slice(&items)
}
