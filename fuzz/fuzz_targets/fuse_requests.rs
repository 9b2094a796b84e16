//! Requests of the kernel.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mount::fuse::abi::{Flavour, darwin, linux};
use mount::fuse::request::{Dialect, Operation, Request};

/// Whose requests, and whether with the longer SETXATTR.
const DIALECTS: [(&Flavour, bool); 3] = [(&linux::FLAVOUR, false), (&linux::FLAVOUR, true), (&darwin::FLAVOUR, false)];

fuzz_target!(|bytes: &[u8]| {
    for (flavour, setxattr_ext) in DIALECTS {
        let Ok(request) = Request::parse_as(bytes, Dialect { flavour, setxattr_ext }) else { continue };
        let _groups = request.extensions.groups().count();
        if let Operation::BatchForget(forgets) = request.operation {
            let _nodes = forgets.count();
        }
    }
});
