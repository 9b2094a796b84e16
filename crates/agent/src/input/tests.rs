use std::io::Write;
use std::os::unix::net::UnixStream;

use proptest::prelude::*;
use wire::agent::ClientFrame;
use wire::frame::encode_head;

use super::*;

fn pair() -> (UnixStream, Input) {
    let (near, far) = UnixStream::pair().unwrap();
    (near, over(far))
}

fn over(stream: UnixStream) -> Input {
    let output = stream.try_clone().unwrap();
    Input::new(Arc::new(Ends::new(stream.into(), output.into())), Arc::default())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn frames_arrive_whole_however_the_stream_is_cut(
        payloads in prop::collection::vec(prop_oneof![0..100usize, 60_000..70_000usize, 130_000..200_000usize], 1..12),
        piece in 1..100_000usize,
    ) {
        let mut bytes = PREFACE.to_vec();
        for (nonce, payload) in payloads.iter().enumerate() {
            let head = ClientFrame::Ping { nonce: nonce as u64 };
            bytes.extend(encode_head(&head, *payload).unwrap());
            bytes.extend(std::iter::repeat_n(nonce as u8, *payload));
        }
        let (mut near, mut input) = pair();
        std::thread::scope(|scope| {
            scope.spawn(move || bytes.chunks(piece).for_each(|piece| near.write_all(piece).unwrap()));
            input.preface().unwrap();
            for (nonce, bytes) in payloads.iter().enumerate() {
                let (head, payload) = input.frame::<ClientFrame>().unwrap().unwrap();
                assert_eq!(head, ClientFrame::Ping { nonce: nonce as u64 });
                assert!(payload == vec![nonce as u8; *bytes]);
                // What comes next is read to memory that was used before.
                input.payloads.give_back(payload);
            }
            assert!(input.frame::<ClientFrame>().unwrap().is_none());
            assert!(!input.has_more());
        });
    }

    #[test]
    fn any_bytes_end_in_an_error_or_an_end(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let (mut near, mut input) = pair();
        near.write_all(&bytes).unwrap();
        drop(near);
        while let Ok(Some(_)) = input.frame::<ClientFrame>() {}
    }
}

#[test]
fn an_end_inside_a_frame_is_told_from_one_between_two() {
    let frame = encode_head(&ClientFrame::Ping { nonce: 1 }, 0).unwrap();
    for cut in 1..frame.len() {
        let (mut near, mut input) = pair();
        near.write_all(&frame[..cut]).unwrap();
        drop(near);
        assert!(matches!(input.frame::<ClientFrame>(), Err(InputError::Cut)), "{cut}");
    }
}

#[test]
fn a_stream_that_does_not_block_is_waited_for() {
    let (mut near, far) = UnixStream::pair().unwrap();
    far.set_nonblocking(true).unwrap();
    let mut input = over(far);
    std::thread::scope(|scope| {
        scope.spawn(|| assert!(input.frame::<ClientFrame>().unwrap().is_some()));
        near.write_all(&encode_head(&ClientFrame::Ping { nonce: 1 }, 0).unwrap()).unwrap();
    });
}
