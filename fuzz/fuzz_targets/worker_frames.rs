//! Frames between the daemon and a worker.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wire::worker::{Decoder, FromWorker, ToWorker};

fuzz_target!(|bytes: &[u8]| {
    let mut decoder = Decoder::new();
    decoder.push(bytes);
    while let Ok(Some(_)) = decoder.next_frame::<ToWorker>() {}
    let mut decoder = Decoder::new();
    decoder.push(bytes);
    while let Ok(Some(message)) = decoder.next_frame::<FromWorker>() {
        let _count = message.descriptors();
    }
});
