//! Failures as the system has them.

use objc2::rc::Retained;
use objc2::runtime::ProtocolObject;
use objc2_file_provider::{NSErrorNSFileProviderError, NSFileProviderErrorCode, NSFileProviderErrorDomain};
use objc2_foundation::{
    NSCocoaErrorDomain, NSDictionary, NSError, NSFeatureUnsupportedError, NSInteger,
    NSLocalizedDescriptionKey, NSString, NSUserCancelledError, NSXPCConnectionReplyInvalid,
};

use super::item::{ShownItem, identifier_of};
use crate::service::Failure;

/// The errors after which the system waits to be told that they are resolved.
const RESOLVABLE: [NSFileProviderErrorCode; 2] =
    [NSFileProviderErrorCode::ServerUnreachable, NSFileProviderErrorCode::CannotSynchronize];

/// What may be tried again once the machine is reached.
pub(super) fn resolvable() -> [Retained<NSError>; 2] {
    RESOLVABLE.map(provider)
}

/// What is told of a failure. After errors of Cocoa's the system tries again by itself, in a while; after [`RESOLVABLE`] ones once it is
/// told that they are resolved; and after the others when it has looked at what they are about.
pub(super) fn of(failure: &Failure) -> Retained<NSError> {
    match failure {
        Failure::NoItem(subject) => {
            let identifier = identifier_of(subject);
            // SAFETY: an identifier is all that is asked for.
            unsafe { NSError::fileProviderErrorForNonExistentItemWithIdentifier(&identifier) }
        }
        Failure::Kept(shown) => {
            let item = ShownItem::new((**shown).clone());
            // SAFETY: the item is complete.
            unsafe { NSError::fileProviderErrorForRejectedDeletionOfItem(ProtocolObject::from_ref(&*item)) }
        }
        Failure::Unreachable => provider(NSFileProviderErrorCode::ServerUnreachable),
        Failure::Later => cocoa(NSXPCConnectionReplyInvalid),
        Failure::Expired => provider(NSFileProviderErrorCode::SyncAnchorExpired),
        Failure::NotEmpty => provider(NSFileProviderErrorCode::DirectoryNotEmpty),
        Failure::OtherVersion => provider(NSFileProviderErrorCode::VersionNoLongerAvailable),
        Failure::Cancelled => cocoa(NSUserCancelledError),
        Failure::Refused(why) => refused(why),
    }
}

/// What is not done at all, such as a trash on the machine.
pub(super) fn unsupported() -> Retained<NSError> {
    cocoa(NSFeatureUnsupportedError)
}

fn provider(code: NSFileProviderErrorCode) -> Retained<NSError> {
    // SAFETY: the domain is a constant of the framework.
    let domain = unsafe { NSFileProviderErrorDomain };
    NSError::new(code.0, domain)
}

fn refused(why: &str) -> Retained<NSError> {
    // SAFETY: both are constants of the frameworks.
    let (domain, key) = unsafe { (NSFileProviderErrorDomain, NSLocalizedDescriptionKey) };
    let said = NSString::from_str(why);
    let info = NSDictionary::<NSString, objc2::runtime::AnyObject>::from_slices(&[key], &[said.as_ref()]);
    // SAFETY: the value of this key is a string.
    unsafe {
        NSError::errorWithDomain_code_userInfo(
            domain,
            NSFileProviderErrorCode::CannotSynchronize.0,
            Some(&info),
        )
    }
}

fn cocoa(code: NSInteger) -> Retained<NSError> {
    // SAFETY: the domain is a constant of the framework.
    let domain = unsafe { NSCocoaErrorDomain };
    NSError::new(code, domain)
}
