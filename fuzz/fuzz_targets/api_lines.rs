//! Lines of the daemon's API, from either side. How the stream was cut into reads does not matter.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wire::api::line::LineDecoder;
use wire::api::{ClientMessage, ServerMessage};

/// Every line of what `pieces` give together, up to the first error.
fn lines<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Vec<Vec<u8>> {
    let mut decoder = LineDecoder::new();
    let mut lines = Vec::new();
    for piece in pieces {
        decoder.push(piece);
        loop {
            match decoder.next_line() {
                Ok(Some(line)) => lines.push(line.to_vec()),
                Ok(None) => break,
                Err(_) => return lines,
            }
        }
    }
    lines
}

fuzz_target!(|input: (u8, &[u8])| {
    let (piece, bytes) = input;
    let whole = lines(std::iter::once(bytes));
    assert_eq!(whole, lines(bytes.chunks(usize::from(piece.max(1)))));
    for line in &whole {
        let _from_client = ClientMessage::decode(line);
        let _from_daemon = ServerMessage::decode(line);
    }
});
