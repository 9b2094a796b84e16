//! Linux: the numbers are the C library's, which differ from one processor to another.

use super::{Flavour, InitFlags, Layout, OpenBits, VERSION_MINOR, VERSION_MINOR_MIN, XattrBits};

/// See the module's documentation.
pub const FLAVOUR: Flavour = Flavour {
    layout: Layout::Linux,
    minor_min: VERSION_MINOR_MIN,
    minor_max: VERSION_MINOR,
    init_flags: InitFlags(u64::MAX),
    counts_pages: true,
    open: OpenBits {
        append: libc::O_APPEND.cast_unsigned(),
        truncate: libc::O_TRUNC.cast_unsigned(),
        exclusive: libc::O_EXCL.cast_unsigned(),
        sync: (libc::O_SYNC | libc::O_DSYNC).cast_unsigned(),
        direct: libc::O_DIRECT.cast_unsigned(),
    },
    xattr: XattrBits {
        create: libc::XATTR_CREATE.cast_unsigned(),
        replace: libc::XATTR_REPLACE.cast_unsigned(),
        ignored: 0,
    },
    xattr_namespace: b"",
    errors: &[],
    numbers_return: false,
    notices_wait: false,
};
