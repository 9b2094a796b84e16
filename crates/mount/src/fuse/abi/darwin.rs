//! macOS with macFUSE: what it lays out, numbers or does in another way than Linux, at protocol 7.19.
//!
//! The source is `fuse_kernel.h` of macFUSE's library, in its parts for `__APPLE__`; what the kernel does with it is what the last
//! published source of its extension (osxfuse 3) does. The extension knows protocol 7.19, however new the header is: of the later
//! flags of INIT some bits mean something else here, and none of the later messages is sent.
//!
//! It compiles on every system, so that the tests of this one are tests of it.
#![allow(
    missing_docs,
    reason = "fields and constants carry the kernel header's names and are documented there"
)]

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{Flavour, InitFlags, Layout, OpenBits, XattrBits};

/// The only minor version that released extensions speak.
pub const VERSION_MINOR: u32 = 19;

/// Up to 7.18 the bits of INIT's flags are the same as on Linux; what is above is granted to nobody.
const INIT_FLAGS_SHARED: InitFlags = InitFlags((1 << 12) - 1);

/// See [`Flavour`].
pub const FLAVOUR: Flavour = Flavour {
    layout: Layout::Darwin,
    minor_min: VERSION_MINOR,
    minor_max: VERSION_MINOR,
    init_flags: INIT_FLAGS_SHARED,
    counts_pages: false,
    // `sys/fcntl.h`
    open: OpenBits { append: 0x8, truncate: 0x400, exclusive: 0x800, sync: 0x80 | 0x0040_0000, direct: 0 },
    // `sys/xattr.h`: the others are how to follow links and whether to check permissions.
    xattr: XattrBits { create: 0x2, replace: 0x4, ignored: 0x1 | 0x8 | 0x10 | 0x20 },
    xattr_namespace: b"user.",
    errors: ERRORS,
    numbers_return: true,
    notices_wait: true,
};

/// Linux's numbers and those of `sys/errno.h`. `ENODATA` is what Linux says of an attribute that is not there, and `EOPNOTSUPP` of one that
/// cannot be: here `ENOATTR` and `ENOTSUP`, after which the system keeps the attribute in a file of its own.
const ERRORS: &[(u16, u16)] = &[
    (11, 35),
    (35, 11),
    (36, 63),
    (37, 77),
    (38, 78),
    (39, 66),
    (40, 62),
    (61, 93),
    (71, 100),
    (74, 94),
    (75, 84),
    (84, 92),
    (87, 68),
    (90, 40),
    (95, 45),
    (100, 50),
    (101, 51),
    (103, 53),
    (104, 54),
    (105, 55),
    (107, 57),
    (110, 60),
    (111, 61),
    (112, 64),
    (113, 65),
    (114, 37),
    (115, 36),
    (116, 70),
    (122, 69),
    (125, 89),
];

/// `valid` of SETATTR, besides what [`super::fattr`] has up to 7.19.
pub mod fattr {
    pub const SHARED: u32 = (1 << 10) - 1;
    pub const CRTIME: u32 = 1 << 28;
    pub const CHGTIME: u32 = 1 << 29;
    pub const BKUPTIME: u32 = 1 << 30;
    pub const FLAGS: u32 = 1 << 31;
}

/// `open_flags` of a reply to OPEN, besides those of [`super::fopen`]. The kernel keeps pages and attributes unless it is told to drop
/// them, whatever [`super::fopen::KEEP_CACHE`] says.
pub mod fopen {
    pub const PURGE_ATTR: u32 = 1 << 30;
    pub const PURGE_UBC: u32 = 1 << 31;
}

/// As much of INIT's reply is known there: up to `max_write`.
pub const INIT_OUT_BYTES: usize = 24;

layouts! {
    Attr, 104 {
        ino: u64, size: u64, blocks: u64, atime: u64, mtime: u64, ctime: u64, crtime: u64, atimensec: u32,
        mtimensec: u32, ctimensec: u32, crtimensec: u32, mode: u32, nlink: u32, uid: u32, gid: u32, rdev: u32,
        flags_darwin: u32, blksize: u32, flags: u32,
    }
    EntryOut, 144 {
        nodeid: u64, generation: u64, entry_valid: u64, attr_valid: u64, entry_valid_nsec: u32,
        attr_valid_nsec: u32, attr: Attr,
    }
    AttrOut, 120 { attr_valid: u64, attr_valid_nsec: u32, dummy: u32, attr: Attr, }
    /// The reply to CREATE.
    CreateOut, 160 { entry: EntryOut, open: super::OpenOut, }
    SetattrIn, 128 {
        shared: super::SetattrIn, bkuptime: u64, chgtime: u64, crtime: u64, bkuptimensec: u32, chgtimensec: u32,
        crtimensec: u32, flags: u32,
    }
    SetxattrIn, 16 { size: u32, flags: u32, position: u32, setxattr_flags: u32, }
    GetxattrIn, 16 { size: u32, padding: u32, position: u32, padding2: u32, }
}

impl From<super::Attr> for Attr {
    /// No machine tells when a file was made: the earliest time that is told of it stands for that.
    fn from(attr: super::Attr) -> Attr {
        let modified = (attr.mtime.cast_signed(), attr.mtimensec);
        let (crtime, crtimensec) = modified.min((attr.ctime.cast_signed(), attr.ctimensec));
        Attr {
            ino: attr.ino,
            size: attr.size,
            blocks: attr.blocks,
            atime: attr.atime,
            mtime: attr.mtime,
            ctime: attr.ctime,
            crtime: crtime.cast_unsigned(),
            atimensec: attr.atimensec,
            mtimensec: attr.mtimensec,
            ctimensec: attr.ctimensec,
            crtimensec,
            mode: attr.mode,
            nlink: attr.nlink,
            uid: attr.uid,
            gid: attr.gid,
            rdev: device_here(attr.rdev),
            flags_darwin: 0,
            blksize: attr.blksize,
            flags: 0,
        }
    }
}

impl From<super::EntryOut> for EntryOut {
    fn from(entry: super::EntryOut) -> EntryOut {
        EntryOut {
            nodeid: entry.nodeid,
            generation: entry.generation,
            entry_valid: entry.entry_valid,
            attr_valid: entry.attr_valid,
            entry_valid_nsec: entry.entry_valid_nsec,
            attr_valid_nsec: entry.attr_valid_nsec,
            attr: entry.attr.into(),
        }
    }
}

impl From<super::AttrOut> for AttrOut {
    fn from(out: super::AttrOut) -> AttrOut {
        let super::AttrOut { attr_valid, attr_valid_nsec, dummy, attr } = out;
        AttrOut { attr_valid, attr_valid_nsec, dummy, attr: attr.into() }
    }
}

/// A device number of 8 bits of major and 24 of minor, of one that Linux writes in 32 bits.
fn device_here(linux: u32) -> u32 {
    let (major, minor) = ((linux >> 8) & 0xff, (linux & 0xff) | ((linux >> 12) & 0xf_ff00));
    major << 24 | minor
}

/// The other way round. Linux has 20 bits for the minor.
pub fn device_there(here: u32) -> u32 {
    let (major, minor) = (here >> 24, here & 0xf_ffff);
    (minor & 0xff) | major << 8 | (minor & !0xff) << 12
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::*;

    /// What `fuse_kernel.h` of macFUSE's library gives with `__APPLE__`, added up by hand.
    #[test]
    fn fields_are_where_the_header_has_them() {
        let offsets = [
            ("attr.crtime", offset_of!(Attr, crtime), 48),
            ("attr.atimensec", offset_of!(Attr, atimensec), 56),
            ("attr.crtimensec", offset_of!(Attr, crtimensec), 68),
            ("attr.mode", offset_of!(Attr, mode), 72),
            ("attr.rdev", offset_of!(Attr, rdev), 88),
            ("attr.flags_darwin", offset_of!(Attr, flags_darwin), 92),
            ("attr.blksize", offset_of!(Attr, blksize), 96),
            ("entry_out.attr", offset_of!(EntryOut, attr), 40),
            ("attr_out.attr", offset_of!(AttrOut, attr), 16),
            ("create_out.open", offset_of!(CreateOut, open), 144),
            ("setattr_in.bkuptime", offset_of!(SetattrIn, bkuptime), 88),
            ("setattr_in.crtime", offset_of!(SetattrIn, crtime), 104),
            ("setattr_in.flags", offset_of!(SetattrIn, flags), 124),
            ("setxattr_in.position", offset_of!(SetxattrIn, position), 8),
            ("getxattr_in.position", offset_of!(GetxattrIn, position), 8),
            ("init_out.time_gran", offset_of!(crate::fuse::abi::InitOut, time_gran), INIT_OUT_BYTES),
        ];
        for (field, offset, expected) in offsets {
            assert_eq!(offset, expected, "{field}");
        }
    }

    #[test]
    fn errors_have_the_numbers_of_this_kernel() {
        let cases = [
            (1, 1),
            (2, 2),
            (5, 5),
            (11, 35),
            (34, 34),
            (35, 11),
            (38, 78),
            (39, 66),
            (61, 93),
            (95, 45),
            (116, 70),
            (133, 5),
            (u16::MAX, 5),
        ];
        for (linux, darwin) in cases {
            assert_eq!(FLAVOUR.errno(linux), darwin, "{linux}");
        }
    }

    #[test]
    fn device_numbers_survive_both_ways() {
        for (major, minor) in [(0, 0), (8, 1), (255, 0xf_ffff), (1, 3)] {
            let here = major << 24 | minor;
            assert_eq!(device_here(device_there(here)), here, "{major}:{minor}");
        }
    }

    #[test]
    fn a_file_was_made_at_the_earliest_time_that_is_known_of_it() {
        let told =
            super::super::Attr { mtime: 7, mtimensec: 3, ctime: 7, ctimensec: 9, ..Default::default() };
        let attr = Attr::from(told);
        assert_eq!((attr.crtime, attr.crtimensec), (7, 3));
        let old = (-5_i64).cast_unsigned();
        let attr = Attr::from(super::super::Attr { mtime: old, ..told });
        assert_eq!(attr.crtime, old);
    }
}
