use proptest::prelude::*;

use super::*;

#[test]
fn a_frame_is_its_lengths_its_head_and_its_payload() {
    let frame = encode_head(&(7u8, "ab"), 5).unwrap();
    assert_eq!(frame, [4, 0, 0, 0, 5, 0, 0, 0, 7, 2, b'a', b'b']);
    let prefix = Prefix::parse(frame[..PREFIX_BYTES].try_into().unwrap()).unwrap();
    assert_eq!((prefix.head, prefix.payload, prefix.body_bytes()), (4, 5, 9));
    assert_eq!(decode_head::<(u8, String)>(&frame[PREFIX_BYTES..]).unwrap(), (7, "ab".to_owned()));
}

#[test]
fn lengths_over_their_limits_are_refused_before_anything_is_allocated() {
    let parse = |head: u32, payload: u32| {
        let mut bytes = [0; PREFIX_BYTES];
        bytes[..4].copy_from_slice(&head.to_le_bytes());
        bytes[4..].copy_from_slice(&payload.to_le_bytes());
        Prefix::parse(bytes)
    };
    assert!(parse(1, 0).is_ok());
    assert!(parse(HEAD_BYTES_MAX, PAYLOAD_BYTES_MAX).is_ok());
    assert!(matches!(parse(0, 0), Err(FrameError::Head(0))));
    assert!(matches!(parse(HEAD_BYTES_MAX + 1, 0), Err(FrameError::Head(_))));
    assert!(matches!(parse(1, PAYLOAD_BYTES_MAX + 1), Err(FrameError::Payload(_))));
    assert!(matches!(parse(u32::MAX, u32::MAX), Err(FrameError::Head(_))));
}

#[test]
fn a_payload_in_pieces_says_so_in_every_part() {
    assert_eq!(
        Prefix::parse_any(piece_prefix(7)).unwrap(),
        Prefix { head: 0, payload: 7, continues: false, packed: false }
    );
    assert!(matches!(Prefix::parse(piece_prefix(7)), Err(FrameError::Head(0))));
    assert!(Prefix::parse_any(piece_prefix(0)).is_err());
    let mut frame = encode_head(&7u8, 1000).unwrap();
    amend(&mut frame, Payload::Packed(100));
    amend(&mut frame, Payload::Rest(40));
    let prefix: [u8; PREFIX_BYTES] = frame[..PREFIX_BYTES].try_into().unwrap();
    let parsed = Prefix::parse_any(prefix).unwrap();
    assert_eq!(parsed, Prefix { head: 1, payload: 40, continues: true, packed: true });
    assert!(matches!(Prefix::parse(prefix), Err(FrameError::Piece)));
    assert!(parsed.check_behind(PAYLOAD_BYTES_MAX as usize - 40).is_ok());
    assert!(parsed.check_behind(PAYLOAD_BYTES_MAX as usize - 39).is_err());
}

#[test]
fn what_does_not_fit_is_not_encoded() {
    let long = "x".repeat(HEAD_BYTES_MAX as usize + 1);
    assert!(matches!(encode_head(&long, 0), Err(FrameError::TooLong { .. })));
    assert!(matches!(encode_head(&1u8, PAYLOAD_BYTES_MAX as usize + 1), Err(FrameError::Payload(_))));
    assert!(matches!(encode_head(&1u8, usize::MAX), Err(FrameError::Payload(_))));
}

#[test]
fn bytes_left_over_are_a_mismatch() {
    let error = decode_head::<u8>(&[1, 2, 3]).unwrap_err().to_string();
    assert!(
        error.contains("u8") && error.contains("3 bytes") && error.contains("2 bytes too many"),
        "{error}"
    );
    assert!(error.contains("010203"), "{error}");
}

proptest! {
    #[test]
    fn any_prefix_is_parsed_or_refused(bytes in any::<[u8; PREFIX_BYTES]>()) {
        if let Ok(prefix) = Prefix::parse(bytes) {
            prop_assert!(prefix.head >= 1 && prefix.head <= HEAD_BYTES_MAX);
            prop_assert!(prefix.payload <= PAYLOAD_BYTES_MAX);
        }
    }

    #[test]
    fn any_prefix_of_a_piece_is_parsed_or_refused(bytes in any::<[u8; PREFIX_BYTES]>()) {
        if let Ok(prefix) = Prefix::parse_any(bytes) {
            prop_assert!(prefix.head <= HEAD_BYTES_MAX && prefix.payload <= PAYLOAD_BYTES_MAX);
            prop_assert!(!prefix.is_piece() || (prefix.payload > 0 && !prefix.continues && !prefix.packed));
        }
    }

    #[test]
    fn what_is_encoded_is_decoded(number in any::<u64>(), text in any::<String>(), list in any::<Vec<i32>>()) {
        let value = (number, text, list);
        let frame = encode_head(&value, 0).unwrap();
        prop_assert_eq!(decode_head::<(u64, String, Vec<i32>)>(&frame[PREFIX_BYTES..]).unwrap(), value);
    }
}
