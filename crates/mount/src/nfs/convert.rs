//! Attributes in the protocol's words, and back.

use nfs3_types::nfs3::{Nfs3Option, fattr3, ftype3, nfstime3, sattr3, set_atime, set_mtime, specdata3};
use vfs::file::{AttributeChanges, Attributes, FileId, Kind, SetTime, Time};

use crate::identity::inode_number;

/// The permission bits, with set-id and sticky.
const MODE_BITS: u32 = 0o7777;

/// What all files of one mount have in common.
#[derive(Clone, Copy, Debug)]
pub struct FileSystem {
    /// Its number, the same after a restart.
    pub fsid: u64,
    /// The device of its root.
    pub root_device: u64,
}

impl FileSystem {
    /// The number of a file.
    pub fn fileid(self, id: FileId) -> u64 {
        inode_number(self.root_device, id)
    }

    /// The attributes of a file.
    pub fn attributes(self, id: FileId, of: &Attributes) -> fattr3 {
        let (major, minor) = device_numbers(of.device);
        fattr3 {
            type_: kind(of.kind),
            mode: u32::from(of.mode) & MODE_BITS,
            nlink: of.links,
            uid: of.uid,
            gid: of.gid,
            size: of.size,
            used: of.blocks.saturating_mul(512),
            rdev: specdata3 { specdata1: major, specdata2: minor },
            fsid: self.fsid,
            fileid: self.fileid(id),
            atime: time(of.accessed),
            mtime: time(of.modified),
            ctime: time(of.changed),
        }
    }
}

fn kind(kind: Kind) -> ftype3 {
    match kind {
        Kind::File => ftype3::NF3REG,
        Kind::Directory => ftype3::NF3DIR,
        Kind::Symlink => ftype3::NF3LNK,
        Kind::Fifo => ftype3::NF3FIFO,
        Kind::Socket => ftype3::NF3SOCK,
        Kind::CharDevice => ftype3::NF3CHR,
        Kind::BlockDevice => ftype3::NF3BLK,
    }
}

/// A time. The protocol has 32 bits for the seconds, and no sign: 1970 to 2106.
pub fn time(time: Time) -> nfstime3 {
    match u32::try_from(time.seconds) {
        Ok(seconds) => nfstime3 { seconds, nseconds: time.nanoseconds },
        Err(_) if time.seconds < 0 => nfstime3 { seconds: 0, nseconds: 0 },
        Err(_) => nfstime3 { seconds: u32::MAX, nseconds: 999_999_999 },
    }
}

/// Major and minor of a device number as Linux packs it in 64 bits.
fn device_numbers(device: u64) -> (u32, u32) {
    let major = ((device >> 8) & 0xfff) | ((device >> 32) & 0xffff_f000);
    let minor = (device & 0xff) | ((device >> 12) & 0xffff_ff00);
    (low(major), low(minor))
}

/// The reverse of what the attributes say.
pub fn device(numbers: &specdata3) -> u64 {
    let (major, minor) = (u64::from(numbers.specdata1), u64::from(numbers.specdata2));
    (minor & 0xff) | ((major & 0xfff) << 8) | ((minor & 0xffff_ff00) << 12) | ((major & 0xffff_f000) << 32)
}

fn low(number: u64) -> u32 {
    u32::try_from(number & u64::from(u32::MAX)).unwrap_or(u32::MAX)
}

fn some<T: Copy + nfs3_types::xdr_codec::Pack + nfs3_types::xdr_codec::Unpack>(
    option: &Nfs3Option<T>,
) -> Option<T> {
    match option {
        Nfs3Option::Some(value) => Some(*value),
        Nfs3Option::None => None,
    }
}

/// The changes that a client asks for.
pub fn changes(of: &sattr3) -> AttributeChanges {
    let mode = some(&of.mode).map(|mode| mode & MODE_BITS).and_then(|mode| u16::try_from(mode).ok());
    AttributeChanges {
        size: some(&of.size),
        uid: some(&of.uid),
        gid: some(&of.gid),
        mode,
        accessed: match of.atime {
            set_atime::DONT_CHANGE => SetTime::Keep,
            set_atime::SET_TO_SERVER_TIME => SetTime::Now,
            set_atime::SET_TO_CLIENT_TIME(time) => SetTime::To(near_time(time)),
        },
        modified: match of.mtime {
            set_mtime::DONT_CHANGE => SetTime::Keep,
            set_mtime::SET_TO_SERVER_TIME => SetTime::Now,
            set_mtime::SET_TO_CLIENT_TIME(time) => SetTime::To(near_time(time)),
        },
        clear_set_id: false,
    }
}

fn near_time(time: nfstime3) -> Time {
    Time { seconds: i64::from(time.seconds), nanoseconds: time.nseconds.min(999_999_999) }
}

/// Whether nothing is asked for.
pub fn is_nothing(changes: &AttributeChanges) -> bool {
    let AttributeChanges { size, uid, gid, mode, accessed, modified, clear_set_id: _ } = changes;
    let kept = *accessed == SetTime::Keep && *modified == SetTime::Keep;
    size.is_none() && uid.is_none() && gid.is_none() && mode.is_none() && kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_numbers_survive_the_trip() {
        for (major, minor) in [(0, 0), (8, 1), (4095, 255), (4096, 256), (u32::MAX, u32::MAX)] {
            let packed = device(&specdata3 { specdata1: major, specdata2: minor });
            assert_eq!(device_numbers(packed), (major, minor));
            assert_eq!(packed, rustix::fs::makedev(major, minor));
        }
    }

    #[test]
    fn times_outside_the_protocol_are_the_nearest_it_has() {
        let seconds = |seconds| time(Time { seconds, nanoseconds: 5 }).seconds;
        assert_eq!(seconds(-1), 0);
        assert_eq!(seconds(1 << 31), 1 << 31);
        assert_eq!(seconds(1 << 40), u32::MAX);
    }
}
