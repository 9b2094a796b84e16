//! Requests of the kernel.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mount::fuse::request::{Dialect, Operation, Request};

fuzz_target!(|bytes: &[u8]| {
    for setxattr_ext in [false, true] {
        let Ok(request) = Request::parse_as(bytes, Dialect { setxattr_ext }) else { continue };
        let _groups = request.extensions.groups().count();
        if let Operation::BatchForget(forgets) = request.operation {
            let _nodes = forgets.count();
        }
    }
});
