//! The class that the system makes for each domain.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use block2::{DynBlock, RcBlock};
use objc2::rc::{Allocated, Retained};
use objc2::runtime::{Bool, NSObject, NSObjectProtocol, ProtocolObject};
use objc2::{DefinedClass, define_class, msg_send};
use objc2_file_provider::{
    NSFileProviderCreateItemOptions, NSFileProviderDeleteItemOptions, NSFileProviderDomain,
    NSFileProviderEnumerating, NSFileProviderEnumerator, NSFileProviderFetchContentsOptions,
    NSFileProviderItem, NSFileProviderItemFields, NSFileProviderItemIdentifier, NSFileProviderItemProtocol,
    NSFileProviderItemVersion, NSFileProviderManager, NSFileProviderMaterializationFlags,
    NSFileProviderModifyItemOptions, NSFileProviderPartialContentFetching, NSFileProviderReplicatedExtension,
    NSFileProviderRequest, NSFileProviderTrashContainerItemIdentifier,
    NSFileProviderWorkingSetContainerItemIdentifier,
};
use objc2_foundation::{NSError, NSProgress, NSRange, NSString, NSUInteger, NSURL};
use objc2_uniform_type_identifiers::{UTTypeFolder, UTTypeSymbolicLink};
use vfs::replica::catalogue::Removal;
use vfs::replica::item::Kind;
use wire::api::machine::Source;

use super::block::{Handler, Shared};
use super::enumerator::{Container, Enumerator};
use super::item::{ShownItem, subject_of};
use super::{domains, error};
use crate::once::Once;
use crate::service::{Bytes, Came, Change, Domain, Failure, Given, Made, Reply, Service, Signal, Wanted};

type ItemDone = dyn Fn(*mut NSFileProviderItem, *mut NSError);
type MadeDone = dyn Fn(*mut NSFileProviderItem, NSFileProviderItemFields, Bool, *mut NSError);
type FetchDone = dyn Fn(*mut NSURL, *mut NSFileProviderItem, *mut NSError);
type PartDone =
    dyn Fn(*mut NSURL, *mut NSFileProviderItem, NSRange, NSFileProviderMaterializationFlags, *mut NSError);
type Done = dyn Fn(*mut NSError);

/// Distinguishes the files of one process into which is fetched.
static FETCHED: AtomicU64 = AtomicU64::new(0);

pub(super) struct Served {
    /// None if it could not begin, which its log says: every request is then to be tried later.
    service: Option<Arc<Service>>,
    manager: Option<Shared<NSFileProviderManager>>,
}

define_class!(
    // SAFETY: NSObject may be subclassed; there is no Drop.
    #[unsafe(super(NSObject))]
    #[name = "SteadFileProvider"]
    #[ivars = Served]
    pub(super) struct Extension;

    // SAFETY: nothing of it is changed.
    unsafe impl NSObjectProtocol for Extension {}

    // SAFETY: the method has the type of the protocol.
    unsafe impl NSFileProviderEnumerating for Extension {
        #[unsafe(method_id(enumeratorForContainerItemIdentifier:request:error:))]
        fn enumerator(
            &self,
            identifier: &NSFileProviderItemIdentifier,
            _request: &NSFileProviderRequest,
            error: *mut *mut NSError,
        ) -> Option<Retained<ProtocolObject<dyn NSFileProviderEnumerator>>> {
            self.ivars().enumerator(identifier, error)
        }
    }

    // SAFETY: the methods have the types of the protocol.
    unsafe impl NSFileProviderReplicatedExtension for Extension {
        #[unsafe(method_id(initWithDomain:))]
        fn init_with_domain(this: Allocated<Self>, domain: &NSFileProviderDomain) -> Retained<Self> {
            let this = this.set_ivars(Served::of(domain));
            // SAFETY: NSObject's init takes nothing and returns the object.
            unsafe { msg_send![super(this), init] }
        }

        #[unsafe(method(invalidate))]
        fn invalidate(&self) {
            if let Some(service) = &self.ivars().service {
                service.stop();
            }
        }

        #[unsafe(method_id(itemForIdentifier:request:completionHandler:))]
        fn item(
            &self,
            identifier: &NSFileProviderItemIdentifier,
            _request: &NSFileProviderRequest,
            handler: &DynBlock<ItemDone>,
        ) -> Retained<NSProgress> {
            let handler = Handler::new(handler);
            let once = Once::new(
                move |reply: Reply<crate::service::Shown>| match reply {
                    Ok(shown) => {
                        let item = ShownItem::new(shown);
                        handler.block().call((item_pointer(&item), std::ptr::null_mut()));
                    }
                    Err(failure) => {
                        let error = error::of(&failure);
                        handler.block().call((std::ptr::null_mut(), pointer(&error)));
                    }
                },
                || Err(Failure::Later),
            );
            if let Some(service) = &self.ivars().service {
                service.item(subject_of(identifier), once);
            }
            progress(1)
        }

        #[unsafe(method_id(fetchContentsForItemWithIdentifier:version:request:completionHandler:))]
        fn fetch(
            &self,
            identifier: &NSFileProviderItemIdentifier,
            version: Option<&NSFileProviderItemVersion>,
            _request: &NSFileProviderRequest,
            handler: &DynBlock<FetchDone>,
        ) -> Retained<NSProgress> {
            self.ivars().fetch(identifier, version, handler)
        }

        #[unsafe(method_id(createItemBasedOnTemplate:fields:contents:options:request:completionHandler:))]
        fn create(
            &self,
            template: &NSFileProviderItem,
            _fields: NSFileProviderItemFields,
            contents: Option<&NSURL>,
            options: NSFileProviderCreateItemOptions,
            _request: &NSFileProviderRequest,
            handler: &DynBlock<MadeDone>,
        ) -> Retained<NSProgress> {
            let once = made(handler);
            let may_exist = options.contains(NSFileProviderCreateItemOptions::MayAlreadyExist);
            match (given(template, contents), &self.ivars().service) {
                (Some(given), Some(service)) => service.create(given, may_exist, once),
                (None, _) => {
                    once.answer(Err(Failure::Refused("there is no trash on the machine".to_owned())))
                }
                (_, None) => drop(once),
            }
            progress(1)
        }

        #[unsafe(method_id(modifyItem:baseVersion:changedFields:contents:options:request:completionHandler:))]
        fn modify(
            &self,
            item: &NSFileProviderItem,
            base: &NSFileProviderItemVersion,
            fields: NSFileProviderItemFields,
            contents: Option<&NSURL>,
            _options: NSFileProviderModifyItemOptions,
            _request: &NSFileProviderRequest,
            handler: &DynBlock<MadeDone>,
        ) -> Retained<NSProgress> {
            self.ivars().modify(item, base, fields, contents, handler)
        }

        #[unsafe(method_id(deleteItemWithIdentifier:baseVersion:options:request:completionHandler:))]
        fn delete(
            &self,
            identifier: &NSFileProviderItemIdentifier,
            base: &NSFileProviderItemVersion,
            options: NSFileProviderDeleteItemOptions,
            _request: &NSFileProviderRequest,
            handler: &DynBlock<Done>,
        ) -> Retained<NSProgress> {
            let handler = Handler::new(handler);
            let once = Once::new(
                move |reply: Reply<()>| match reply {
                    Ok(()) => handler.block().call((std::ptr::null_mut(),)),
                    Err(failure) => handler.block().call((pointer(&error::of(&failure)),)),
                },
                || Err(Failure::Later),
            );
            let removal = match options.contains(NSFileProviderDeleteItemOptions::Recursive) {
                true => Removal::Tree,
                false => Removal::Single,
            };
            if let Some(service) = &self.ivars().service {
                service.remove(subject_of(identifier), content_version(base), removal, once);
            }
            progress(1)
        }
    }

    // SAFETY: the method has the type of the protocol.
    unsafe impl NSFileProviderPartialContentFetching for Extension {
        #[unsafe(method_id(fetchPartialContentsForItemWithIdentifier:version:request:minimalRange:aligningTo:options:completionHandler:))]
        #[allow(clippy::too_many_arguments, reason = "Apple's")]
        fn fetch_partial(
            &self,
            identifier: &NSFileProviderItemIdentifier,
            version: &NSFileProviderItemVersion,
            _request: &NSFileProviderRequest,
            range: NSRange,
            alignment: NSUInteger,
            options: NSFileProviderFetchContentsOptions,
            handler: &DynBlock<PartDone>,
        ) -> Retained<NSProgress> {
            self.ivars().fetch_partial(identifier, version, range, alignment, options, handler)
        }
    }
);

impl Served {
    fn of(domain: &NSFileProviderDomain) -> Served {
        // SAFETY: a domain has both, and the manager of a domain that the system has given is asked for.
        let (identifier, manager) =
            unsafe { (domain.identifier(), NSFileProviderManager::managerForDomain(domain)) };
        let manager = manager.map(|manager| Shared::new(&*manager));
        let service = domains::place(&identifier.to_string()).and_then(|place| {
            let source =
                Source::parse_absolute(place.source.as_bytes()).map_err(|error| error.to_string())?;
            let domain = Domain {
                socket: place.socket,
                source,
                caller: place.caller,
                catalogue: place.catalogue,
                rules: vfs::replica::names::NameRules::Mac,
                host: place.host,
            };
            let signalled = manager.as_ref().map(|manager| Shared::new(manager.get()));
            Service::start(domain, move |what| signal(signalled.as_ref(), what))
        });
        let service = match service {
            Ok(service) => Some(Arc::new(service)),
            Err(error) => {
                eprintln!("stead: a domain cannot be served: {error}");
                None
            }
        };
        Served { service, manager }
    }

    /// What enumerates a directory or the working set.
    fn enumerator(
        &self,
        identifier: &NSFileProviderItemIdentifier,
        error: *mut *mut NSError,
    ) -> Option<Retained<ProtocolObject<dyn NSFileProviderEnumerator>>> {
        // SAFETY: constants of the framework.
        let (working_set, trash) = unsafe {
            (NSFileProviderWorkingSetContainerItemIdentifier, NSFileProviderTrashContainerItemIdentifier)
        };
        if identifier.isEqualToString(trash) {
            if !error.is_null() {
                // SAFETY: whoever asks has a place for an error that nobody has to release, if it is not null.
                unsafe { *error = Retained::autorelease_ptr(error::unsupported()) };
            }
            return None;
        }
        let container = match identifier.isEqualToString(working_set) {
            true => Container::WorkingSet,
            false => Container::Directory(subject_of(identifier)),
        };
        Some(ProtocolObject::from_retained(Enumerator::new(self.service.clone(), container)))
    }

    /// All of a file.
    fn fetch(
        &self,
        identifier: &NSFileProviderItemIdentifier,
        version: Option<&NSFileProviderItemVersion>,
        handler: &DynBlock<FetchDone>,
    ) -> Retained<NSProgress> {
        let (handler, progress) = (Handler::new(handler), progress(0));
        let Some(into) = self.temporary() else {
            let error = error::of(&Failure::Later);
            handler.block().call((std::ptr::null_mut(), std::ptr::null_mut(), pointer(&error)));
            return progress;
        };
        let url = file_url(&into);
        let once = Once::new(
            move |reply: Reply<Came>| match reply {
                Ok(came) => {
                    let item = ShownItem::new(came.item);
                    handler.block().call((pointer(&url), item_pointer(&item), std::ptr::null_mut()));
                }
                Err(failure) => {
                    let error = error::of(&failure);
                    handler.block().call((std::ptr::null_mut(), std::ptr::null_mut(), pointer(&error)));
                }
            },
            || Err(Failure::Later),
        );
        let wanted = Wanted {
            subject: subject_of(identifier),
            version: version.map(content_version),
            range: None,
            into,
            progress: reporter(&progress),
        };
        if let Some(service) = &self.service {
            service.fetch(wanted, once);
        }
        progress
    }

    /// What was changed of an item.
    fn modify(
        &self,
        item: &NSFileProviderItem,
        base: &NSFileProviderItemVersion,
        fields: NSFileProviderItemFields,
        contents: Option<&NSURL>,
        handler: &DynBlock<MadeDone>,
    ) -> Retained<NSProgress> {
        let once = made(handler);
        let place = NSFileProviderItemFields::Filename | NSFileProviderItemFields::ParentItemIdentifier;
        let is_content = fields.contains(NSFileProviderItemFields::Contents);
        let Some(mut given) = given(item, contents.filter(|_| is_content)) else {
            once.answer(Err(Failure::Refused("there is no trash on the machine".to_owned())));
            return progress(1);
        };
        if !is_content {
            given.content = None;
        }
        let is_mode = fields.contains(NSFileProviderItemFields::FileSystemFlags);
        // SAFETY: both are asked of an item and a version of the system's.
        let (identifier, metadata) = unsafe { (item.itemIdentifier(), base.metadataVersion()) };
        let change = Change {
            subject: subject_of(&identifier),
            base_content: content_version(base),
            base_metadata: metadata.to_vec(),
            given,
            is_moved: fields.intersects(place),
            is_mode: is_mode && item.respondsToSelector(objc2::sel!(fileSystemFlags)),
        };
        if let Some(service) = &self.service {
            service.modify(change, once);
        }
        progress(1)
    }

    /// Some of a file, widened to what the system aligns to.
    #[allow(clippy::too_many_arguments, reason = "Apple's")]
    fn fetch_partial(
        &self,
        identifier: &NSFileProviderItemIdentifier,
        version: &NSFileProviderItemVersion,
        range: NSRange,
        alignment: NSUInteger,
        options: NSFileProviderFetchContentsOptions,
        handler: &DynBlock<PartDone>,
    ) -> Retained<NSProgress> {
        let (handler, progress) = (Handler::new(handler), progress(0));
        let none = NSFileProviderMaterializationFlags::empty();
        let nothing = NSRange::new(0, 0);
        let Some(into) = self.temporary() else {
            let error = error::of(&Failure::Later);
            let arguments = (std::ptr::null_mut(), std::ptr::null_mut(), nothing, none, pointer(&error));
            handler.block().call(arguments);
            return progress;
        };
        let url = file_url(&into);
        let once = Once::new(
            move |reply: Reply<Came>| match reply {
                Ok(came) => {
                    let length = (came.range.end - came.range.start) as usize;
                    let range = NSRange::new(came.range.start as usize, length);
                    let item = ShownItem::new(came.item);
                    let arguments = (pointer(&url), item_pointer(&item), range, none, std::ptr::null_mut());
                    handler.block().call(arguments);
                }
                Err(failure) => {
                    let error = error::of(&failure);
                    let arguments =
                        (std::ptr::null_mut(), std::ptr::null_mut(), nothing, none, pointer(&error));
                    handler.block().call(arguments);
                }
            },
            || Err(Failure::Later),
        );
        let is_strict = options.contains(NSFileProviderFetchContentsOptions::StrictVersioning);
        let wanted = Wanted {
            subject: subject_of(identifier),
            version: is_strict.then(|| content_version(version)),
            range: Some(crate::service::aligned(
                range.location as u64,
                range.length as u64,
                alignment as u64,
            )),
            into,
            progress: reporter(&progress),
        };
        if let Some(service) = &self.service {
            service.fetch(wanted, once);
        }
        progress
    }

    /// A file in the directory that the system gives for what is fetched, on the volume where it is to be.
    fn temporary(&self) -> Option<PathBuf> {
        let manager = self.manager.as_ref()?;
        // SAFETY: nothing is given, and an error is returned as one.
        let url = unsafe { manager.get().temporaryDirectoryURLWithError() }.ok()?;
        let directory = url.path()?.to_string();
        let number = FETCHED.fetch_add(1, Ordering::Relaxed);
        Some(PathBuf::from(directory).join(format!("stead-{}-{number}", std::process::id())))
    }
}

/// Has the system ask for changes, or try again what has failed.
fn signal(manager: Option<&Shared<NSFileProviderManager>>, what: Signal) {
    let Some(manager) = manager else { return };
    let done = RcBlock::new(|error: *mut NSError| {
        if !error.is_null() {
            // It asks at the next change, and tries again when the machine is reached again.
            eprintln!("stead: the system was not told of changes");
        }
    });
    match what {
        // SAFETY: a constant of the framework; the block does nothing that depends on a thread.
        Signal::Changes => unsafe {
            let working_set = NSFileProviderWorkingSetContainerItemIdentifier;
            manager.get().signalEnumeratorForContainerItemIdentifier_completionHandler(working_set, &done);
        },
        Signal::Reached => {
            for error in error::resolvable() {
                // SAFETY: the error is one of those that are taken; the block as above.
                unsafe { manager.get().signalErrorResolved_completionHandler(&error, &done) };
            }
        }
    }
}

/// What a template or a changed item says. None if it is to be in the trash.
fn given(item: &NSFileProviderItem, contents: Option<&NSURL>) -> Option<Given> {
    // SAFETY: these are asked of an item of the system's; those that need not be there are asked for first.
    unsafe {
        let parent = item.parentItemIdentifier();
        if parent.isEqualToString(NSFileProviderTrashContainerItemIdentifier) {
            return None;
        }
        let answers = |selector| item.respondsToSelector(selector);
        let kind = match answers(objc2::sel!(contentType)).then(|| item.contentType()) {
            Some(content) if content.conformsToType(UTTypeFolder) => Kind::Directory,
            Some(content) if content.conformsToType(UTTypeSymbolicLink) => Kind::Symlink,
            _ => Kind::File,
        };
        let flags = answers(objc2::sel!(fileSystemFlags)).then(|| item.fileSystemFlags());
        let target = answers(objc2::sel!(symlinkTargetPath)).then(|| item.symlinkTargetPath()).flatten();
        let content = match kind {
            Kind::Directory => None,
            Kind::Symlink => target.map(|target| Bytes::Given(target.to_string().into_bytes())),
            Kind::File => {
                contents.and_then(|url| url.path()).map(|path| Bytes::File(PathBuf::from(path.to_string())))
            }
        };
        let mode = crate::service::mode_of(kind, flags.map(|flags| flags.0 as u64));
        Some(Given { parent: subject_of(&parent), name: item.filename().to_string(), kind, mode, content })
    }
}

/// What came of a creation or a change, for the system: nothing is what is told of something that the machine does not have.
fn made(handler: &DynBlock<MadeDone>) -> Once<Reply<Option<Made>>> {
    let (handler, none) = (Handler::new(handler), NSFileProviderItemFields::empty());
    Once::new(
        move |reply: Reply<Option<Made>>| match reply {
            Ok(Some(made)) => {
                let item = ShownItem::new(made.item);
                let is_fetched = Bool::new(made.is_other_content);
                handler.block().call((item_pointer(&item), none, is_fetched, std::ptr::null_mut()));
            }
            Ok(None) => {
                handler.block().call((std::ptr::null_mut(), none, Bool::NO, std::ptr::null_mut()));
            }
            Err(failure) => {
                let error = error::of(&failure);
                handler.block().call((std::ptr::null_mut(), none, Bool::NO, pointer(&error)));
            }
        },
        || Err(Failure::Later),
    )
}

fn content_version(version: &NSFileProviderItemVersion) -> Vec<u8> {
    // SAFETY: a version has a content version.
    unsafe { version.contentVersion() }.to_vec()
}

fn progress(total: i64) -> Retained<NSProgress> {
    NSProgress::discreteProgressWithTotalUnitCount(total)
}

/// Says how far a fetch is, and asks whether it was called off.
fn reporter(progress: &NSProgress) -> Box<dyn Fn(u64, u64) -> bool + Send> {
    let progress = Shared::new(progress);
    Box::new(move |done, total| {
        let count = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        progress.get().setTotalUnitCount(count(total));
        progress.get().setCompletedUnitCount(count(done));
        !progress.get().isCancelled()
    })
}

fn file_url(path: &std::path::Path) -> Shared<NSURL> {
    Shared::new(&*NSURL::fileURLWithPath(&NSString::from_str(&path.to_string_lossy())))
}

fn item_pointer(item: &ShownItem) -> *mut NSFileProviderItem {
    let item: &ProtocolObject<dyn NSFileProviderItemProtocol> = ProtocolObject::from_ref(item);
    std::ptr::from_ref(item).cast_mut()
}

fn pointer<T>(object: &impl Pointed<T>) -> *mut T {
    std::ptr::from_ref(object.pointed()).cast_mut()
}

trait Pointed<T> {
    fn pointed(&self) -> &T;
}

impl<T: objc2::Message> Pointed<T> for Retained<T> {
    fn pointed(&self) -> &T {
        self
    }
}

impl Pointed<NSURL> for Shared<NSURL> {
    fn pointed(&self) -> &NSURL {
        self.get()
    }
}
