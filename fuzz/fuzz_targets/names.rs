//! Machines and sources as people write them: what is understood must print as something that means the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wire::api::machine::{Machine, Source};

fuzz_target!(|bytes: &[u8]| {
    let _machine = Machine::parse(bytes);
    if let Ok(source) = Source::parse(bytes, b"/cwd") {
        assert_eq!(Source::parse(&source.to_bytes(), b"/elsewhere"), Ok(source));
    }
});
