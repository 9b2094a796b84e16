//! Payloads in pieces, and packed.

use std::io::Write;

use tempfile::tempdir;
use wire::agent::file::*;
use wire::agent::*;
use wire::frame::{PAYLOAD_BYTES_MAX, Payload, amend, encode_head, piece_prefix};
use wire::hello::{SessionId, capability};
use wire::packing::pack;

use crate::client::*;

const MANY: usize = 300_000;

fn text() -> Vec<u8> {
    b"words, words, words; ".iter().copied().cycle().take(MANY).collect()
}

fn noise() -> Vec<u8> {
    let mut state = 1_u64;
    let next = move |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..MANY).map(next).collect()
}

fn write_frame(client: &mut Client, handle: HandleId, bytes: usize) -> (RequestId, Vec<u8>) {
    client.next += 1;
    let (id, sequence) = (RequestId(client.next), Sequence(client.next));
    let body = Request::File(FileRequest::Write { handle, at: WriteAt::Offset(0), clear_set_id: false });
    (id, encode_head(&ClientFrame::Request { id, sequence, body }, bytes).unwrap())
}

#[test]
fn a_payload_may_come_in_pieces_with_others_between_them() {
    let directory = tempdir().unwrap();
    let mut client = Client::attach(directory.path());
    let root = client.root.clone();
    let (handle, _) = client.create(&root, "file");
    for (payload, packed) in [(noise(), false), (text(), true)] {
        let sent = if packed { pack(&payload).unwrap() } else { payload.clone() };
        let (id, mut head) = write_frame(&mut client, handle, payload.len());
        if packed {
            amend(&mut head, Payload::Packed(sent.len() as u32));
        }
        let (pieces, rest) = sent.split_at(sent.len() - 10);
        for piece in pieces.chunks(pieces.len().div_ceil(3)) {
            client.stream().write_all(&piece_prefix(piece.len() as u32)).unwrap();
            client.stream().write_all(piece).unwrap();
            client.send_frame(&ClientFrame::Ping { nonce: 7 }, &[]);
            assert!(matches!(client.event(), AgentFrame::Pong { nonce: 7, .. }));
        }
        amend(&mut head, Payload::Rest(rest.len() as u32));
        client.stream().write_all(&[&head, rest].concat()).unwrap();
        assert!(client.reply(id).1.is_ok());
        assert!(std::fs::read(directory.path().join("file")).unwrap() == payload, "packed: {packed}");
    }
}

#[test]
fn more_pieces_than_a_payload_may_have_end_the_stream() {
    let mut client = Client::connect();
    let piece = vec![0; 1 + PAYLOAD_BYTES_MAX as usize / 2];
    for _ in 0..2 {
        let prefix = piece_prefix(piece.len() as u32);
        // The second one is refused at its first bytes.
        drop(client.stream().write_all(&[prefix.as_slice(), &piece].concat()));
    }
    assert!(matches!(client.event(), AgentFrame::Closing { .. }));
}

#[test]
fn a_bomb_ends_the_stream() {
    let directory = tempdir().unwrap();
    let mut client = Client::attach(directory.path());
    let root = client.root.clone();
    let (handle, _) = client.create(&root, "file");
    let mut bomb = pack(&vec![0; PAYLOAD_BYTES_MAX as usize]).unwrap();
    bomb[..4].copy_from_slice(&10_u32.to_le_bytes());
    let (_, mut head) = write_frame(&mut client, handle, 0);
    amend(&mut head, Payload::Packed(bomb.len() as u32));
    client.stream().write_all(&[head, bomb].concat()).unwrap();
    match client.event() {
        AgentFrame::Closing { reason } => assert!(reason.contains("unpack"), "{reason}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_shrinks_is_packed_for_a_client_that_unpacks_and_has_said_that_its_link_is_slow() {
    let directory = tempdir().unwrap();
    std::fs::write(directory.path().join("text"), text()).unwrap();
    std::fs::write(directory.path().join("noise"), noise()).unwrap();
    for (capabilities, rate, packed) in [
        (capability::PACKING, Some(1_000_000), true),
        (capability::PACKING, Some(u64::MAX / 2), false),
        (capability::PACKING, None, false),
        (0, Some(1_000_000), false),
    ] {
        let mut client = Client::raw();
        client.capabilities = capabilities;
        client.greet(SessionId::default(), 0);
        client.export(directory.path(), true);
        if let Some(bytes_per_second) = rate {
            client.send_frame(&ClientFrame::Rate { bytes_per_second }, &[]);
        }
        for (what, content, shrinks) in [("text", text(), true), ("noise", noise(), false)] {
            let place = client.place(what);
            let handle = client.open(&place, READ);
            let before = client.packed;
            let read = FileRequest::Read { handle, offset: 0, length: PAYLOAD_BYTES_MAX };
            let id = client.send(Request::File(read), &[]);
            let (_, reply, payload) = client.reply(id);
            assert!(reply.is_ok() && payload == content, "{what}");
            assert_eq!(client.packed > before, packed && shrinks, "{capabilities} {rate:?} {what}");
        }
    }
}
