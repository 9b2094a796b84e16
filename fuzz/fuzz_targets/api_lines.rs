//! Lines of the daemon's API, from either side.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wire::api::line::LineDecoder;
use wire::api::{ClientMessage, ServerMessage};

fuzz_target!(|bytes: &[u8]| {
    let mut lines = LineDecoder::new();
    lines.push(bytes);
    while let Ok(Some(line)) = lines.next_line() {
        let _from_client = ClientMessage::decode(line);
        let _from_daemon = ServerMessage::decode(line);
    }
});
