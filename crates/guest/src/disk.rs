//! The guest's root file system, on a disk that may have become larger.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;

/// Where the kernel says how many blocks of 512 bytes the disk has.
const SECTORS: &str = "/sys/class/block/vda/size";

/// Has a file system of ext4's take a number of its blocks.
const RESIZE: libc::c_ulong = 0x4008_6610;

/// Has the root file system take all of its disk, which takes no longer than writing down some groups of blocks.
pub fn grow() -> Result<(), String> {
    let sectors = fs::read_to_string(SECTORS).map_err(|error| format!("{SECTORS}: {error}"))?;
    let sectors: u64 = sectors.trim().parse().map_err(|error| format!("{SECTORS}: {error}"))?;
    let failed = |error: io::Error| format!("/: {error}");
    let root = File::open("/").map_err(failed)?;
    let block = rustix::fs::fstatvfs(&root).map_err(|errno| failed(errno.into()))?.f_bsize;
    let blocks = (sectors * 512).checked_div(block).unwrap_or(0);
    // SAFETY: the number wants eight bytes, which live until the call is over. rustix has no such call.
    match unsafe { libc::ioctl(root.as_raw_fd(), RESIZE as _, std::ptr::from_ref(&blocks)) } {
        0 => Ok(()),
        _ => Err(failed(io::Error::last_os_error())),
    }
}
