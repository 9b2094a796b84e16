use std::io::Read;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use wire::agent::ClientFrame;
use wire::agent::file::Time;

use super::*;
use crate::input::Input;

fn pair() -> (UnixStream, Arc<Output>) {
    let (near, far) = UnixStream::pair().unwrap();
    (near, Arc::new(Output::new(ends(far), Arc::default())))
}

fn ends(stream: UnixStream) -> Arc<Ends> {
    let input = stream.try_clone().unwrap();
    Arc::new(Ends::new(input.into(), stream.into()))
}

fn pong(nonce: u64) -> AgentFrame {
    AgentFrame::Pong { nonce, clock: Time::default() }
}

fn received(input: &mut Input) -> (u64, usize) {
    match input.frame::<AgentFrame>().unwrap().unwrap() {
        (AgentFrame::Pong { nonce, .. }, payload) => (nonce, payload.len()),
        other => panic!("{other:?}"),
    }
}

/// Has the output write something that the stream does not take, so that what is sent next is queued.
fn block(output: &Arc<Output>) {
    let blocked = output.clone();
    std::thread::spawn(move || blocked.send(&pong(0), vec![0; 1 << 20]));
    while !lock(&output.queue).writing {
        std::thread::yield_now();
    }
}

#[test]
fn small_frames_overtake_large_ones_and_keep_their_order() {
    let (near, output) = pair();
    block(&output);
    output.send(&pong(100), vec![0; 100_000]);
    (1..=10).for_each(|n| output.send(&pong(n), Vec::new()));
    output.send(&pong(101), vec![0; 100_000]);
    let writer = output.clone();
    let writer = std::thread::spawn(move || writer.write_queued());
    let mut input = Input::new(ends(near), Arc::default());
    let order: Vec<u64> = (0..13).map(|_| received(&mut input).0).collect();
    assert_eq!(order, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 100, 101]);
    output.close();
    writer.join().unwrap();
}

#[test]
fn a_small_frame_of_an_ordered_answer_does_not_overtake_its_large_ones() {
    let (near, output) = pair();
    block(&output);
    output.send_ordered(&pong(1), vec![0; 100_000]);
    output.send_ordered(&pong(2), Vec::new());
    output.send(&pong(3), Vec::new());
    let writer = output.clone();
    let writer = std::thread::spawn(move || writer.write_queued());
    let mut input = Input::new(ends(near), Arc::default());
    let order: Vec<u64> = (0..4).map(|_| received(&mut input).0).collect();
    assert_eq!(order, [0, 3, 1, 2]);
    output.close();
    writer.join().unwrap();
}

#[test]
fn a_large_frame_is_not_overtaken_for_ever() {
    let mut queue = Queue::default();
    let frame = |bytes| Frame { head: vec![0; bytes], payload: Vec::new(), event: false, ordered: false };
    queue.large.push_back(frame(SMALL_BYTES + 1));
    queue.bytes = SMALL_BYTES + 1;
    for round in 0.. {
        assert!(round < 3);
        queue.small.extend((0..FRAMES_PER_WRITE).map(|_| frame(1)));
        queue.bytes += FRAMES_PER_WRITE;
        if queue.next_frames()[0].bytes() > SMALL_BYTES {
            break;
        }
    }
}

#[test]
fn senders_wait_while_the_queue_is_full_and_go_when_it_is_closed() {
    let (near, output) = pair();
    block(&output);
    let sender = output.clone();
    let sender = std::thread::spawn(move || {
        (0..100).for_each(|n| sender.send(&pong(n), vec![0; 1 << 20]));
    });
    while lock(&output.queue).bytes < QUEUED_BYTES_MAX {
        std::thread::yield_now();
    }
    assert!(lock(&output.queue).bytes < QUEUED_BYTES_MAX + (2 << 20));
    output.close();
    sender.join().unwrap();
    drop(near);
}

#[test]
fn changes_are_refused_when_too_many_wait_and_never_block() {
    let (_near, output) = pair();
    block(&output);
    for n in 0..EVENTS_QUEUED_MAX as u64 {
        assert!(output.try_event(&pong(n)));
    }
    assert!(!output.try_event(&pong(0)));
    output.send_later(&AgentFrame::LeasesLost);
    output.close();
}

#[test]
fn a_broken_stream_closes_the_output() {
    let (near, output) = pair();
    drop(near);
    output.send(&pong(1), Vec::new());
    assert!(output.is_closed());
    output.send(&pong(2), Vec::new());
}

#[test]
fn a_reply_that_cannot_be_encoded_is_answered_with_that() {
    let (mut near, output) = pair();
    let id = wire::agent::RequestId(7);
    let reply = wire::agent::Reply::File(wire::agent::file::FileReply::Data);
    let head = AgentFrame::Reply { id, last: true, body: Ok(reply) };
    output.send(&head, vec![0; wire::frame::PAYLOAD_BYTES_MAX as usize + 1]);
    output.close();
    drop(output);
    let mut bytes = Vec::new();
    near.read_to_end(&mut bytes).unwrap();
    let head = &bytes[wire::frame::PREFIX_BYTES..];
    match wire::frame::decode_head::<AgentFrame>(head).unwrap() {
        AgentFrame::Reply { id: answered, last: true, body: Err(_) } => assert_eq!(answered, id),
        other => panic!("{other:?}"),
    }
    assert!(wire::frame::decode_head::<ClientFrame>(b"").is_err());
}
