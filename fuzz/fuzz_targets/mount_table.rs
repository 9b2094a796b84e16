//! The kernel's table of mounts, in which other users' mounts have sources of their choice.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mount::fuse::mountpoint::Mounts;

fuzz_target!(|bytes: &[u8]| {
    let Ok(mounts) = Mounts::parse(bytes) else { return };
    for mount in mounts.iter() {
        let _connection = mount.connection();
        assert!(mounts.at(&mount.path).is_some(), "what is in the table is found");
    }
    let _ours = mounts.ours().count();
});
