//! Frames of Ethernet on a stream: the length of each in four bytes, the high one first, and the frame without its checksum.

use std::net::Ipv4Addr;

use super::{GATEWAY, PREFIX, RESOLVER};

/// The shortest frame: two addresses and what it carries.
const FRAME_BYTES_MIN: usize = 14;

/// The longest: a datagram of the greatest length, with a tag of a virtual network.
pub const FRAME_BYTES_MAX: usize = 65_535 + FRAME_BYTES_MIN + 4;

/// The length before a frame.
const LENGTH_BYTES: usize = 4;

/// What came is no frame, and nothing behind it can be one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a frame of {0} bytes")]
pub struct NoFrame(usize);

/// Moves the whole frames at the beginning of `from` that may leave to `to`, each with its length, as long as that has no more
/// than `bytes_max`, and drops the others, as networks do. What is not whole stays.
pub fn sort(from: &mut Vec<u8>, to: &mut Vec<u8>, bytes_max: usize) -> Result<(), NoFrame> {
    let mut at = 0;
    while let Some(length) = from[at..].first_chunk::<LENGTH_BYTES>() {
        let length = u32::from_be_bytes(*length) as usize;
        if !(FRAME_BYTES_MIN..=FRAME_BYTES_MAX).contains(&length) {
            return Err(NoFrame(length));
        }
        let end = at + LENGTH_BYTES + length;
        let Some(whole) = from.get(at..end) else { break };
        if to.len() + whole.len() <= bytes_max && may_leave(&whole[LENGTH_BYTES..]) {
            to.extend(whole);
        }
        at = end;
    }
    from.drain(..at);
    Ok(())
}

/// Whether a frame of a guest may leave: it asks for a neighbour, or has a datagram that may.
pub fn may_leave(frame: &[u8]) -> bool {
    match frame.get(12..14) {
        Some([0x08, 0x06]) => true,
        Some([0x08, 0x00]) => datagram_may_leave(&frame[14..]),
        _ => false,
    }
}

/// Where clouds tell their computers their secrets, besides 169.254.0.0/16: Alibaba's and Azure's.
const CLOUDS: [Ipv4Addr; 2] = [Ipv4Addr::new(100, 100, 100, 200), Ipv4Addr::new(168, 63, 129, 16)];

/// Whether a datagram may leave. What is for this computer's loopback, for addresses that are valid on one wire only, for many,
/// or for what tells a computer in a cloud its secrets, stays here. All else may leave: other computers, those beside this one
/// too, and this computer's own addresses, where a service of it may listen. Of the guest's own network, whose gateway stands
/// for this computer's loopback, it reaches the resolver, and answers whoever came by a forwarded port.
fn datagram_may_leave(datagram: &[u8]) -> bool {
    const ICMP: u8 = 1;
    const TCP: u8 = 6;
    const UDP: u8 = 17;
    const NAMES: [u8; 2] = 53_u16.to_be_bytes();
    /// Of TCP's flags those that tell the beginning of a connection, and which of them it has.
    const BEGINNING: (u8, u8) = (0x12, 0x02);
    let Some(head) = datagram.first_chunk::<20>() else { return false };
    let [.., a, b, c, d] = *head;
    let (to, length) = (Ipv4Addr::new(a, b, c, d), usize::from(head[0] & 0xf) * 4);
    let is_kept = a == 0 || a >= 240 || to.is_loopback() || to.is_link_local() || to.is_multicast();
    if head[0] >> 4 != 4 || is_kept || CLOUDS.contains(&to) {
        return false;
    }
    if u32::from(to) >> (32 - PREFIX) != u32::from(GATEWAY) >> (32 - PREFIX) {
        return true;
    }
    // A piece does not say what it is a piece of.
    if u16::from_be_bytes([head[6], head[7]]) & 0x3fff != 0 || length < head.len() {
        return false;
    }
    match (to, head[9]) {
        (RESOLVER, TCP | UDP) => datagram.get(length + 2..length + 4) == Some(&NAMES),
        (GATEWAY, TCP) => datagram.get(length + 13).is_some_and(|flags| flags & BEGINNING.0 != BEGINNING.1),
        (GATEWAY, ICMP) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(to: [u8; 4], protocol: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; 34];
        frame[12..15].copy_from_slice(&[0x08, 0x00, 0x45]);
        frame[23] = protocol;
        frame[30..34].copy_from_slice(&to);
        frame.extend(payload);
        frame
    }

    fn segment(port: u16, flags: u8) -> Vec<u8> {
        let mut segment = vec![0; 20];
        segment[2..4].copy_from_slice(&port.to_be_bytes());
        segment[13] = flags;
        segment
    }

    #[test]
    fn a_guest_reaches_what_is_outside_and_not_this_computers_loopback() {
        for to in [
            [192, 0, 0, 8],
            [10, 0, 0, 1],
            [93, 184, 215, 14],
            [126, 1, 1, 1],
            [128, 0, 0, 1],
            [100, 100, 100, 201],
            [168, 63, 129, 15],
        ] {
            assert!(may_leave(&frame(to, 6, &segment(80, 2))), "{to:?}");
        }
        let kept = [[127, 0, 0, 1], [127, 9, 9, 9], [0; 4], [255; 4], [169, 254, 169, 254], [224, 0, 0, 1]];
        for to in kept
            .into_iter()
            .chain([[240, 0, 0, 1], [192, 0, 0, 4], [192, 0, 0, 7]])
            .chain(CLOUDS.map(|cloud| cloud.octets()))
        {
            assert!(!may_leave(&frame(to, 6, &segment(80, 2))), "{to:?}");
        }
        let whole = frame([10, 0, 0, 1], 17, &[]);
        assert!(!may_leave(&whole[..33]));
        for (at, byte) in [(12, 0x86), (12, 0x81), (13, 0xdd), (14, 0x65)] {
            let mut other = whole.clone();
            other[at] = byte;
            assert!(!may_leave(&other), "{at}");
        }
    }

    #[test]
    fn of_its_own_network_a_guest_reaches_the_resolver_and_who_came_to_it() {
        let (gateway, resolver) = (GATEWAY.octets(), RESOLVER.octets());
        let tcp = |to, port, flags| may_leave(&frame(to, 6, &segment(port, flags)));
        // SYN; SYN and ACK; ACK; FIN and ACK; RST.
        assert_eq!(
            [2, 0x12, 0x10, 0x11, 4].map(|flags| tcp(gateway, 40_000, flags)),
            [false, true, true, true, true]
        );
        // With everything but ACK it is a beginning yet.
        assert!(!tcp(gateway, 53, 0xef));
        assert_eq!([53, 54, 0].map(|port| tcp(resolver, port, 2)), [true, false, false]);
        assert!(may_leave(&frame(resolver, 17, &[0, 9, 0, 53, 0, 0])));
        assert!(!may_leave(&frame(gateway, 17, &[0, 9, 0, 53, 0, 0])));
        assert!(!may_leave(&frame(gateway, 6, &segment(1, 0x10)[..13])));
        let mut piece = frame(gateway, 6, &segment(1, 0x10));
        for fragment in [0x20, 0x01] {
            piece[20] = fragment;
            assert!(!may_leave(&piece));
        }
        // What says that it has a longer head has its ports and flags later.
        let mut options = frame(gateway, 6, &[&[0; 4][..], &segment(1, 2)].concat());
        options[14] = 0x46;
        assert!(!may_leave(&options));
        options[14] = 0x44;
        assert!(!may_leave(&options));
    }

    #[test]
    fn what_cannot_be_a_frame_ends_the_stream() {
        for length in [0, 13, FRAME_BYTES_MAX as u32 + 1, u32::MAX] {
            let mut from = length.to_be_bytes().to_vec();
            assert_eq!(sort(&mut from, &mut Vec::new(), 99), Err(NoFrame(length as usize)));
        }
    }

    fn on_stream(frames: &[Vec<u8>]) -> Vec<u8> {
        let length = |frame: &Vec<u8>| u32::try_from(frame.len()).unwrap().to_be_bytes();
        frames.iter().flat_map(|frame| [&length(frame)[..], frame].concat()).collect()
    }

    #[test]
    fn frames_for_which_there_is_no_room_are_dropped_whole() {
        let frames = vec![frame([10, 0, 0, 1], 17, &[1; 10]); 3];
        let (mut from, mut to) = (on_stream(&frames), Vec::new());
        sort(&mut from, &mut to, 100).unwrap();
        assert_eq!((from, to), (Vec::new(), on_stream(&frames[..2])));
    }

    proptest! {
        #[test]
        fn frames_come_out_whole_in_whatever_pieces_they_come(
            frames in prop::collection::vec(prop_oneof![Just([10, 0, 0, 1]), Just([127, 0, 0, 1])], 0..9),
            size in 1..99usize,
        ) {
            let frames: Vec<_> = frames.into_iter().map(|to| frame(to, 17, &[0; 8])).collect();
            let (mut from, mut to) = (Vec::new(), Vec::new());
            for piece in on_stream(&frames).chunks(size) {
                from.extend(piece);
                sort(&mut from, &mut to, usize::MAX).unwrap();
            }
            let left: Vec<_> = frames.into_iter().filter(|frame| may_leave(frame)).collect();
            prop_assert_eq!((from, to), (Vec::new(), on_stream(&left)));
        }
    }
}
