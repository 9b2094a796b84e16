//! An item as the system asks it.

use objc2::rc::{Allocated, Retained};
use objc2::runtime::{NSObject, NSObjectProtocol};
use objc2::{AllocAnyThread, DefinedClass, define_class, msg_send};
use objc2_file_provider::{
    NSFileProviderFileSystemFlags, NSFileProviderItemCapabilities, NSFileProviderItemIdentifier,
    NSFileProviderItemProtocol, NSFileProviderItemVersion, NSFileProviderRootContainerItemIdentifier,
};
use objc2_foundation::{NSData, NSDate, NSNumber, NSString};
use objc2_uniform_type_identifiers::{UTType, UTTypeData, UTTypeFolder, UTTypeSymbolicLink};
use vfs::replica::item::Kind;

use crate::service::{Shown, Subject};

define_class!(
    // SAFETY: NSObject may be subclassed; there is no Drop.
    #[unsafe(super(NSObject))]
    #[name = "SteadItem"]
    #[ivars = Shown]
    pub(super) struct ShownItem;

    // SAFETY: nothing of it is changed.
    unsafe impl NSObjectProtocol for ShownItem {}

    // SAFETY: the methods have the types of the protocol.
    unsafe impl NSFileProviderItemProtocol for ShownItem {
        #[unsafe(method_id(itemIdentifier))]
        fn item_identifier(&self) -> Retained<NSFileProviderItemIdentifier> {
            identifier_of(&self.ivars().subject)
        }

        #[unsafe(method_id(parentItemIdentifier))]
        fn parent_item_identifier(&self) -> Retained<NSFileProviderItemIdentifier> {
            identifier_of(&self.ivars().parent)
        }

        #[unsafe(method_id(filename))]
        fn filename(&self) -> Retained<NSString> {
            match self.ivars().name.as_str() {
                // Only the root has none, and the system shows the domain's.
                "" => NSString::from_str("/"),
                name => NSString::from_str(name),
            }
        }

        #[unsafe(method_id(contentType))]
        fn content_type(&self) -> Retained<UTType> {
            let shown = self.ivars();
            let extension = shown.name.rsplit_once('.').filter(|(stem, _)| !stem.is_empty());
            // SAFETY: the types are constants of the framework; an extension is a string.
            unsafe {
                match (shown.kind, extension) {
                    (Kind::Directory, _) => UTTypeFolder.retain_type(),
                    (Kind::Symlink, _) => UTTypeSymbolicLink.retain_type(),
                    (Kind::File, Some((_, extension))) => {
                        UTType::typeWithFilenameExtension(&NSString::from_str(extension))
                            .unwrap_or_else(|| UTTypeData.retain_type())
                    }
                    (Kind::File, None) => UTTypeData.retain_type(),
                }
            }
        }

        #[unsafe(method(capabilities))]
        fn capabilities(&self) -> NSFileProviderItemCapabilities {
            let all = NSFileProviderItemCapabilities::AllowsReading
                | NSFileProviderItemCapabilities::AllowsWriting
                | NSFileProviderItemCapabilities::AllowsReparenting
                | NSFileProviderItemCapabilities::AllowsRenaming
                | NSFileProviderItemCapabilities::AllowsDeleting;
            // The machine has no trash: without AllowsTrashing what is removed is removed at once, and Finder says so before.
            match self.ivars().kind {
                Kind::Directory => all,
                #[allow(deprecated, reason = "the policy that replaces it begins with macOS 13")]
                Kind::File => all | NSFileProviderItemCapabilities::AllowsEvicting,
                Kind::Symlink => all.difference(NSFileProviderItemCapabilities::AllowsWriting),
            }
        }

        #[unsafe(method(fileSystemFlags))]
        fn file_system_flags(&self) -> NSFileProviderFileSystemFlags {
            let flags = [
                (0o400, NSFileProviderFileSystemFlags::UserReadable),
                (0o200, NSFileProviderFileSystemFlags::UserWritable),
                (0o100, NSFileProviderFileSystemFlags::UserExecutable),
            ];
            let is_set = |(bit, _): &(u16, _)| self.ivars().mode & bit != 0;
            flags
                .into_iter()
                .filter(is_set)
                .fold(NSFileProviderFileSystemFlags::empty(), |all, (_, flag)| all | flag)
        }

        #[unsafe(method_id(documentSize))]
        fn document_size(&self) -> Option<Retained<NSNumber>> {
            (self.ivars().kind != Kind::Directory).then(|| NSNumber::new_u64(self.ivars().size))
        }

        #[unsafe(method_id(contentModificationDate))]
        fn content_modification_date(&self) -> Option<Retained<NSDate>> {
            self.ivars().modified.map(|time| {
                let seconds = time.seconds as f64 + f64::from(time.nanoseconds) / 1e9;
                NSDate::dateWithTimeIntervalSince1970(seconds)
            })
        }

        #[unsafe(method_id(itemVersion))]
        fn item_version(&self) -> Retained<NSFileProviderItemVersion> {
            let content = NSData::with_bytes(&self.ivars().content_version);
            let metadata = NSData::with_bytes(&self.ivars().metadata_version);
            // SAFETY: neither has more than 128 bytes.
            unsafe {
                NSFileProviderItemVersion::initWithContentVersion_metadataVersion(
                    NSFileProviderItemVersion::alloc(),
                    &content,
                    &metadata,
                )
            }
        }

        #[unsafe(method_id(symlinkTargetPath))]
        fn symlink_target_path(&self) -> Option<Retained<NSString>> {
            let target = self.ivars().target.as_ref();
            target.map(|target| NSString::from_str(&String::from_utf8_lossy(target)))
        }
    }
);

impl ShownItem {
    pub(super) fn new(shown: Shown) -> Retained<ShownItem> {
        let this: Allocated<ShownItem> = ShownItem::alloc();
        let this = this.set_ivars(shown);
        // SAFETY: NSObject's init takes nothing and returns the object.
        unsafe { msg_send![super(this), init] }
    }
}

trait RetainType {
    fn retain_type(&self) -> Retained<UTType>;
}

impl RetainType for UTType {
    fn retain_type(&self) -> Retained<UTType> {
        objc2::Message::retain(self)
    }
}

/// As the system has it.
pub(super) fn identifier_of(subject: &Subject) -> Retained<NSFileProviderItemIdentifier> {
    match subject {
        // SAFETY: a constant of the framework.
        Subject::Root => unsafe { objc2::Message::retain(NSFileProviderRootContainerItemIdentifier) },
        Subject::Item(text) => NSString::from_str(text),
    }
}

/// As this crate has it.
pub(super) fn subject_of(identifier: &NSFileProviderItemIdentifier) -> Subject {
    // SAFETY: a constant of the framework.
    let root = unsafe { NSFileProviderRootContainerItemIdentifier };
    if identifier.isEqualToString(root) { Subject::Root } else { Subject::Item(identifier.to_string()) }
}
