//! Payloads made smaller, for links that are slower than the packing.
//!
//! | offset | size | content |
//! |---|---|---|
//! | 0 | 4 | length of the payload as it was, little endian, 1 to [`PAYLOAD_BYTES_MAX`] |
//! | 4 | | one frame of zstd, see RFC 8878 |
//!
//! What unpacks to another length is refused, and no more memory is taken than the length says.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crate::frame::PAYLOAD_BYTES_MAX;

/// Payloads below this are sent as they are: a packet of the network holds most of one.
pub const PACKED_BYTES_MIN: usize = 2 << 10;

/// The fastest of zstd's levels: what is gained by others costs more than it brings on any link that is fast enough to be
/// worked with.
const LEVEL: i32 = 1;

/// What is packed to see whether a payload shrinks at all.
const SAMPLE_BYTES: usize = 4 << 10;

/// A payload that does not shrink by this part is sent as it is.
const SHRINKS_BY_MIN: usize = 8;

/// What a processor packs per second, before it has been measured.
const BYTES_PER_SECOND_START: u64 = 200_000_000;

const LENGTH_BYTES: usize = 4;

/// Why a payload cannot be unpacked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnpackError {
    /// It has no length, or one that no payload has.
    #[error(
        "a packed payload of {packed} bytes says that it is {length} long; 1 to {PAYLOAD_BYTES_MAX} are allowed"
    )]
    Length {
        /// How long it is packed.
        packed: usize,
        /// How long it says it was.
        length: u32,
    },
    /// It is not what it says it is.
    #[error("a packed payload of {packed} bytes does not unpack to {length}: {reason}")]
    Content {
        /// How long it is packed.
        packed: usize,
        /// How long it says it was.
        length: u32,
        /// What the decoder said.
        reason: String,
    },
}

/// Packs where that makes a link faster.
#[derive(Debug)]
pub struct Packer {
    /// What it packs, as measured.
    bytes_per_second: AtomicU64,
}

impl Default for Packer {
    fn default() -> Packer {
        Packer { bytes_per_second: AtomicU64::new(BYTES_PER_SECOND_START) }
    }
}

impl Packer {
    /// The payload packed, for a link that carries `link_bytes_per_second`, 0 where that is not known. `None` if it is
    /// better sent as it is: if it does not shrink, or the link has carried it before it is packed.
    pub fn pack(&self, payload: &[u8], link_bytes_per_second: u64) -> Option<Vec<u8>> {
        let speed = self.bytes_per_second.load(Ordering::Relaxed);
        if link_bytes_per_second == 0
            || !(PACKED_BYTES_MIN..=PAYLOAD_BYTES_MAX as usize).contains(&payload.len())
            // What is not worth it where all is saved needs no sample.
            || !is_worth_it(1000, speed, link_bytes_per_second)
        {
            return None;
        }
        let saved_permille = sample(payload)?;
        if !is_worth_it(saved_permille, speed, link_bytes_per_second) {
            return None;
        }
        let start = Instant::now();
        let packed = pack(payload)?;
        let nanos = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX).max(1);
        let measured = (payload.len() as u64).saturating_mul(1_000_000_000) / nanos;
        self.bytes_per_second.store((speed / 8 * 7).saturating_add(measured / 8).max(1), Ordering::Relaxed);
        is_shorter(packed.len(), payload.len()).then_some(packed)
    }
}

/// Whether a payload that packing makes shorter by so many thousandths arrives sooner: what is saved on the link takes
/// longer there than all of it takes to pack.
fn is_worth_it(saved_permille: u64, packer_bytes_per_second: u64, link_bytes_per_second: u64) -> bool {
    link_bytes_per_second < packer_bytes_per_second / 1000 * saved_permille
}

/// By how many thousandths a piece from the middle shrinks; `None` if that is not enough.
fn sample(payload: &[u8]) -> Option<u64> {
    let bytes = payload.len().min(SAMPLE_BYTES);
    let start = (payload.len() - bytes) / 2;
    let packed = zstd::bulk::compress(&payload[start..][..bytes], LEVEL).ok()?.len();
    is_shorter(packed, bytes).then(|| ((bytes - packed) * 1000 / bytes) as u64)
}

fn is_shorter(packed: usize, bytes: usize) -> bool {
    packed < bytes - bytes / SHRINKS_BY_MIN
}

/// The payload packed, whether that is shorter or not; `None` if it cannot be.
pub fn pack(payload: &[u8]) -> Option<Vec<u8>> {
    let length =
        u32::try_from(payload.len()).ok().filter(|length| (1..=PAYLOAD_BYTES_MAX).contains(length))?;
    let mut packed = vec![0; LENGTH_BYTES + zstd::zstd_safe::compress_bound(payload.len())];
    packed[..LENGTH_BYTES].copy_from_slice(&length.to_le_bytes());
    let bytes = zstd::bulk::compress_to_buffer(payload, &mut packed[LENGTH_BYTES..], LEVEL).ok()?;
    packed.truncate(LENGTH_BYTES + bytes);
    Some(packed)
}

/// The payload as it was before it was packed.
pub fn unpack(packed: &[u8]) -> Result<Vec<u8>, UnpackError> {
    let bytes = packed.len();
    let Some((length, content)) = packed.split_first_chunk::<LENGTH_BYTES>() else {
        return Err(UnpackError::Length { packed: bytes, length: 0 });
    };
    let length = u32::from_le_bytes(*length);
    if !(1..=PAYLOAD_BYTES_MAX).contains(&length) {
        return Err(UnpackError::Length { packed: bytes, length });
    }
    let mut payload = vec![0; length as usize];
    let failed = |reason: String| UnpackError::Content { packed: bytes, length, reason };
    match zstd::bulk::decompress_to_buffer(content, &mut payload[..]) {
        Ok(unpacked) if unpacked == payload.len() => Ok(payload),
        Ok(unpacked) => Err(failed(format!("it has {unpacked} bytes"))),
        Err(error) => Err(failed(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SLOW: u64 = 12_500_000;

    fn text(bytes: usize) -> Vec<u8> {
        b"the same words, again and again; ".iter().copied().cycle().take(bytes).collect()
    }

    fn noise(bytes: usize) -> Vec<u8> {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let next = move |_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        };
        (0..bytes).map(next).collect()
    }

    #[test]
    fn what_shrinks_is_packed_for_a_slow_link_and_nothing_else_is() {
        let packer = Packer::default();
        let packed = packer.pack(&text(100_000), SLOW).unwrap();
        assert!(packed.len() < 10_000, "{}", packed.len());
        assert_eq!(unpack(&packed).unwrap(), text(100_000));
        for (payload, link) in [
            (noise(100_000), SLOW),
            (text(PACKED_BYTES_MIN - 1), SLOW),
            (text(100_000), 0),
            (text(100_000), u64::MAX / 2),
            (text(PAYLOAD_BYTES_MAX as usize + 1), SLOW),
            (Vec::new(), SLOW),
        ] {
            assert_eq!(packer.pack(&payload, link), None, "{} bytes, {link}", payload.len());
        }
    }

    #[test]
    fn packing_pays_while_it_saves_more_time_than_it_takes() {
        for (saved_permille, packer, link, is_worth) in [
            (750, 400, 299, true),
            (750, 400, 301, false),
            (100, 400, 41, false),
            (100, 400, 39, true),
            (0, 400, 1, false),
        ] {
            let mega = 1_000_000;
            assert_eq!(
                is_worth_it(saved_permille, packer * mega, link * mega),
                is_worth,
                "{saved_permille} {link}"
            );
        }
    }

    #[test]
    fn no_more_memory_is_taken_than_a_payload_may_have() {
        let bomb = zstd::bulk::compress(&vec![0; 64 << 20], LEVEL).unwrap();
        for length in [0, 1, PAYLOAD_BYTES_MAX, PAYLOAD_BYTES_MAX + 1, u32::MAX] {
            let packed = [length.to_le_bytes().as_slice(), &bomb].concat();
            assert!(unpack(&packed).is_err(), "{length}");
        }
    }

    #[test]
    fn what_says_another_length_is_refused() {
        let packed = pack(&text(10_000)).unwrap();
        for length in [9_999_u32, 10_001, PAYLOAD_BYTES_MAX] {
            let lies = [length.to_le_bytes().as_slice(), &packed[LENGTH_BYTES..]].concat();
            assert!(matches!(unpack(&lies), Err(UnpackError::Content { .. })), "{length}");
        }
        assert!(matches!(unpack(&packed[..3]), Err(UnpackError::Length { .. })));
    }

    proptest! {
        #[test]
        fn what_is_packed_is_unpacked(payload in proptest::collection::vec(any::<u8>(), 1..5000), times in 1..200_usize) {
            let payload: Vec<u8> = payload.repeat(times);
            if payload.len() <= PAYLOAD_BYTES_MAX as usize {
                prop_assert_eq!(unpack(&pack(&payload).unwrap()).unwrap(), payload);
            }
        }

        #[test]
        fn any_bytes_are_unpacked_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            if let Ok(payload) = unpack(&bytes) {
                prop_assert!(payload.len() <= PAYLOAD_BYTES_MAX as usize);
            }
        }
    }
}
