//! A bug to order, for tests: in a program that was built with debug assertions, `STEAD_FAULT=OPERATION`, with a name as
//! in [`OperationName`], makes each request for that operation panic. A release has none of it.

use crate::fuse::request::OperationName;

/// Panics if that was ordered.
#[cfg(debug_assertions)]
pub(crate) fn strike(operation: OperationName) {
    use std::sync::LazyLock;
    static ORDERED: LazyLock<Option<String>> = LazyLock::new(|| std::env::var("STEAD_FAULT").ok());
    if let Some(ordered) = &*ORDERED {
        assert!(operation.to_string() != *ordered, "{ordered} was ordered to panic");
    }
}

#[cfg(not(debug_assertions))]
pub(crate) fn strike(_operation: OperationName) {}
