//! Records of the NFS server's clients.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use mount::nfs::rpc::Call;

fuzz_target!(|bytes: &[u8]| {
    let _call = Call::parse(Bytes::copy_from_slice(bytes));
});
