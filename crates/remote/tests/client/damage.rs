//! A link that breaks anywhere.

use std::sync::Arc;

use proptest::prelude::*;
use remote::client::{CallError, LinkLost};
use tokio::io::AsyncWriteExt;
use wire::agent::file::FileReply;
use wire::agent::{AgentFrame, HandleId, Reply};

use super::fake::{Log, data, encoded, link, link_with, list_request, nothing, reply, soon};

#[tokio::test]
async fn a_link_cut_at_any_byte_answers_everything_once() {
    let length = {
        let (_client, mut peer, _) = link().await;
        script(&mut peer, false).await.len()
    };
    for cut in 0..=length {
        let (client, mut peer, log) = link().await;
        let first = client.read(HandleId(1), 0, 10);
        let second = client.read(HandleId(1), 10, 10);
        let mut stream = client.stream(list_request(1000), nothing());
        let bytes = script(&mut peer, true).await;
        peer.send(&bytes[..cut]).await;
        peer.stream.shutdown().await.unwrap();
        let answers = [soon(first).await.map(drop), soon(second).await.map(drop)];
        for answer in &answers {
            match answer {
                Ok(()) | Err(CallError::Lost(LinkLost::Cut | LinkLost::Ended)) => {}
                Err(other) => panic!("cut at {cut}: {other:?}"),
            }
        }
        let mut pages = 0;
        while let Some(page) = soon(stream.next()).await {
            pages += usize::from(page.is_ok());
        }
        assert!(pages <= 2);
        assert_eq!(answers.iter().filter(|a| a.is_ok()).count() + pages, whole_replies(cut, &bytes), "{cut}");
        soon(client.lost()).await;
        assert!(soon(client.ping()).await.is_err());
        assert_eq!(log.lost.lock().len(), 1);
        assert_eq!(client.in_flight(), 0);
    }
}

/// What the far end says to the three requests: two reads and a listing.
async fn script(peer: &mut super::fake::Peer, asked: bool) -> Vec<u8> {
    let mut ids = Vec::new();
    for n in 0..3 {
        ids.push(if asked { peer.asked().await.id } else { wire::agent::RequestId(n + 1) });
    }
    [
        data(ids[1], b"0123456789"),
        reply(ids[2], false, Reply::File(FileReply::Data), b"page"),
        data(ids[0], b"abcdefghij"),
        reply(ids[2], true, Reply::File(FileReply::Data), b"page"),
    ]
    .concat()
}

fn whole_replies(cut: usize, bytes: &[u8]) -> usize {
    let (mut at, mut whole) = (0, 0);
    while let Some(prefix) = bytes[at..].first_chunk() {
        at += 8 + wire::frame::Prefix::parse(*prefix).unwrap().body_bytes();
        whole += usize::from(at <= cut);
    }
    whole
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_damaged_stream_never_hangs_or_panics(
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        extra in proptest::collection::vec(any::<u8>(), 0..50),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (client, mut peer) = link_with(Arc::new(Log::default()), 1 << 20).await;
            let first = client.read(HandleId(1), 0, 10);
            let second = client.read(HandleId(1), 10, 10);
            let mut stream = client.stream(list_request(1000), nothing());
            let mut bytes = script(&mut peer, true).await;
            bytes.extend(encoded(&AgentFrame::LeasesLost, b""));
            for (index, value) in damage {
                let at = index.index(bytes.len());
                bytes[at] = value;
            }
            bytes.extend(extra);
            peer.send(&bytes).await;
            peer.stream.shutdown().await.unwrap();
            let _answers = (soon(first).await, soon(second).await);
            while soon(stream.next()).await.is_some() {}
            soon(client.lost()).await;
        });
    }
}
