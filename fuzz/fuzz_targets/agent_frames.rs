//! Frames of the agent protocol and of tunnels, from either side: whatever decodes must encode to the same value again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wire::agent::tunnel::TunnelFrame;
use wire::agent::{AgentFrame, ClientFrame};
use wire::frame::{PREFIX_BYTES, Prefix, decode_head, encode_head};
use wire::hello::Hello;
use wire::packing::{pack, unpack};

fn check<T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug>(head: &[u8]) {
    let Ok(value) = decode_head::<T>(head) else { return };
    let frame = encode_head(&value, 0).expect("what was decoded from a frame fits into one");
    let again = decode_head::<T>(&frame[PREFIX_BYTES..]).expect("what was encoded can be decoded");
    assert_eq!(value, again);
}

fuzz_target!(|bytes: &[u8]| {
    if let Some(prefix) = bytes.first_chunk::<PREFIX_BYTES>() {
        let _lengths = Prefix::parse(*prefix);
        let _lengths = Prefix::parse_any(*prefix);
    }
    if let Ok(payload) = unpack(bytes) {
        let again = pack(&payload).expect("what was unpacked from a frame fits into one");
        assert!(unpack(&again).expect("what was packed can be unpacked") == payload);
    }
    check::<Hello>(bytes);
    check::<ClientFrame>(bytes);
    check::<AgentFrame>(bytes);
    check::<TunnelFrame>(bytes);
});
