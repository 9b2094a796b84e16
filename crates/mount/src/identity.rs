//! The inode numbers that programs see.

use vfs::file::FileId;

/// The number shown for a file: the machine's own on the device of the mount's root, so that it is the same here and
/// there; elsewhere a mix of device and number with the highest bit set, which no file system in use gives out.
/// Depends on nothing but its arguments: it is the same after any restart.
pub fn inode_number(root_device: u64, id: FileId) -> u64 {
    if id.device == root_device && id.inode >> 63 == 0 {
        return id.inode;
    }
    // Steps of splitmix64: every bit of both inputs reaches every bit of the result.
    let mut mixed = id.device.rotate_left(32) ^ id.inode;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (mixed ^ (mixed >> 31)) | 1 << 63
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_the_roots_device_keep_their_number_and_others_do_not_collide_with_them() {
        let id = |device, inode| FileId { device, inode, birth: 0 };
        assert_eq!(inode_number(7, id(7, 42)), 42);
        assert_ne!(inode_number(7, id(8, 42)), 42);
        assert_ne!(inode_number(7, id(8, 42)), inode_number(7, id(9, 42)));
        assert_eq!(inode_number(7, id(8, 42)) >> 63, 1);
    }
}
