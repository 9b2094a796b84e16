//! Processes that are followed over several streams.

use remote::client::ProcessEvent;
use wire::agent::process::{Output, ProcessId, ProcessReply, ProcessRequest};
use wire::frame::PREFIX_BYTES;

use super::*;

const PROCESS: ProcessId = ProcessId(7);
const WINDOW: u32 = 1000;

fn output(id: RequestId, bytes: &[u8]) -> Vec<u8> {
    reply(id, false, Reply::Process(ProcessReply::Output(Output::Stdout)), bytes)
}

fn spawn() -> ProcessRequest {
    ProcessRequest::Spawn {
        process: PROCESS,
        words: vec![b"x".to_vec().into()],
        environment: Vec::new(),
        directory: None,
        terminal: None,
        detached: false,
        window: WINDOW,
    }
}

async fn credit(peer: &mut Peer) -> u32 {
    match soon(peer.next()).await.unwrap().0 {
        ClientFrame::Credit { bytes, .. } => bytes,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn credit_for_what_an_earlier_stream_brought_is_not_taken_for_that_of_a_later() {
    let (mut world, mut peer) = World::linked().await;
    let mut process = world.client.spawn(spawn());
    let asked = peer.asked().await;
    let before = world.client.counters().frames_received;
    peer.send(&output(asked.id, &[1; 100])).await;
    peer.send(&output(asked.id, &[2; 200])).await;
    // Taken, but too little for credit; and the second is not taken.
    assert!(
        matches!(soon(process.next()).await, Some(Ok(ProcessEvent::Output(_, bytes))) if bytes.len() == 100)
    );
    while world.client.counters().frames_received < before + 2 {
        tokio::task::yield_now().await;
    }
    drop(peer);

    let mut peer = world.accept(FIRST, FIRST).await;
    let again = peer.asked().await;
    let Request::Process(ProcessRequest::Follow { process: PROCESS, from: 300, window, owed }) = again.body
    else {
        panic!("{again:?}");
    };
    assert!(owed > 300 && window + owed == WINDOW, "{owed} of {window}");
    let new = output(again.id, &[3; 300]);
    peer.send(&new).await;
    for length in [200, 300] {
        assert!(
            matches!(soon(process.next()).await, Some(Ok(ProcessEvent::Output(_, bytes))) if bytes.len() == length)
        );
    }
    // All of both streams, and nothing twice.
    assert_eq!(credit(&mut peer).await - owed, (new.len() - PREFIX_BYTES) as u32);
}
