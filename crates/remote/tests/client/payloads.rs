//! Payloads in pieces, overtaken, and packed.

use std::sync::Arc;

use bytes::Bytes;
use remote::client::{AgentClient, ConnectOptions};
use wire::agent::file::{FileRequest, Target, WriteAt};
use wire::agent::{ClientFrame, HandleId, Request};
use wire::frame::{PREFIX_BYTES, Payload, amend};
use wire::hello::capability;
use wire::packing::pack;

use super::fake::{Log, Peer, data, link, link_of, soon};

const MIB: usize = 1 << 20;

fn content(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (at / 251 + at) as u8).collect()
}

/// A link whose ends can do these, over a stream that holds little.
async fn narrow_link(ours: u64, theirs: u64) -> (AgentClient, Peer) {
    let options = ConnectOptions { capabilities: ours, ..ConnectOptions::default() };
    link_of(options, theirs, Arc::new(Log::default()), 64 << 10).await
}

#[tokio::test]
async fn what_is_small_overtakes_writes_and_these_arrive_whole_and_in_order() {
    let (client, mut peer, _) = link().await;
    let write = |at: u64| client.write(HandleId(1), WriteAt::Offset(at), false, content(MIB).into());
    let writes: Vec<_> = (0..4).map(write).collect();
    let stat = client.stat(Target::Handle(HandleId(2)));
    let behind = client.stat(Target::Handle(HandleId(1)));
    let mut order = Vec::new();
    for _ in 0..6 {
        let asked = peer.asked().await;
        match asked.body {
            Request::File(FileRequest::Write { at: WriteAt::Offset(at), .. }) => {
                assert!(asked.payload == content(MIB), "write {at}");
                order.push(format!("write {at}"));
            }
            Request::File(FileRequest::Stat { target: Target::Handle(handle) }) => {
                order.push(format!("stat {}", handle.0));
            }
            other => panic!("{other:?}"),
        }
    }
    let overtaken = order.iter().position(|asked| asked == "stat 2").unwrap();
    assert!(overtaken <= 1, "{order:?}");
    order.remove(overtaken);
    assert_eq!(order, ["write 0", "write 1", "write 2", "write 3", "stat 1"]);
    drop((writes, stat, behind));
}

#[tokio::test]
async fn a_packed_reply_is_read_as_it_was() {
    let (client, mut peer) = narrow_link(capability::PACKING, capability::PACKING).await;
    for bytes in [3000, MIB] {
        let call = client.read(HandleId(1), 0, bytes as u32);
        let asked = peer.asked().await;
        let packed = pack(&content(bytes)).unwrap();
        let mut frame = data(asked.id, &content(bytes));
        frame.truncate(frame.len() - bytes);
        assert!(frame.len() > PREFIX_BYTES);
        amend(&mut frame, Payload::Packed(packed.len() as u32));
        frame.extend(packed);
        peer.send(&frame).await;
        assert!(soon(call).await.unwrap() == content(bytes), "{bytes} bytes");
    }
}

#[tokio::test]
async fn the_agent_is_told_how_fast_replies_arrive_where_both_sides_pack() {
    for (ours, theirs) in
        [(capability::PACKING, capability::PACKING), (capability::PACKING, 0), (0, capability::PACKING)]
    {
        let (client, mut peer) = narrow_link(ours, theirs).await;
        let call = client.read(HandleId(1), 0, MIB as u32);
        let asked = peer.asked().await;
        let reply = data(asked.id, &content(MIB));
        // The stream holds less than the reply: it is sent while it is read.
        let (answer, ()) = tokio::join!(soon(call), peer.send(&reply));
        assert_eq!(answer.unwrap().len(), MIB);
        let _next = client.stat(Target::Handle(HandleId(1)));
        match peer.next().await.unwrap().0 {
            ClientFrame::Rate { bytes_per_second } => assert!(ours & theirs != 0 && bytes_per_second > 0),
            ClientFrame::Request { .. } => assert_eq!(ours & theirs, 0),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_packed_reply_that_is_none_costs_the_link() {
    let (client, mut peer) = narrow_link(capability::PACKING, capability::PACKING).await;
    let call = client.read(HandleId(1), 0, 100);
    let asked = peer.asked().await;
    let mut frame = data(asked.id, &[0; 100]);
    amend(&mut frame, Payload::Packed(100));
    peer.send(&frame).await;
    let error = soon(call).await.unwrap_err();
    assert!(error.to_string().contains("packed payload"), "{error}");
    assert!(client.is_lost());
}

#[tokio::test]
async fn nothing_is_packed_before_the_link_has_been_found_slow() {
    let (client, mut peer) = narrow_link(capability::PACKING, capability::PACKING).await;
    let _write = client.write(HandleId(1), WriteAt::Offset(0), false, Bytes::from(vec![0; 5000]));
    assert!(peer.asked().await.payload == vec![0; 5000]);
}
