//! What is ordered, and what need not be.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use proptest::prelude::*;
use remote::client::{AgentClient, EventSink, LinkLost};
use wire::agent::file::{Attributes, Change, Changed, FileId, FileReply, Kind, Time, WriteAt};
use wire::agent::{AgentFrame, ClientFrame, HandleId, Reply, Sequence};

use super::fake::{data, encoded, link, link_with, nothing, read_request, reply, soon};

fn attributes() -> Attributes {
    let time = Time { seconds: 1, nanoseconds: 2 };
    Attributes { mode: 0o644, accessed: time, modified: time, changed: time, ..Attributes::new(Kind::File) }
}

fn written(id: wire::agent::RequestId) -> Vec<u8> {
    reply(id, true, Reply::File(FileReply::Written { bytes: 0, attributes: attributes() }), b"")
}

fn write(client: &AgentClient) -> remote::client::TypedCall<remote::client::Written> {
    client.write(HandleId(1), WriteAt::End, false, Bytes::from_static(b"line"))
}

#[tokio::test]
async fn mutations_are_numbered_in_the_order_of_the_stream_and_the_rest_is_not() {
    let (client, mut peer, _) = link().await;
    let tasks: Vec<_> = (0..8)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move {
                for _ in 0..25 {
                    let read = client.read(HandleId(1), 0, 1);
                    write(&client).await.unwrap();
                    drop(read);
                }
            })
        })
        .collect();
    let (mut expected, mut acknowledged) = (1, 0);
    while expected <= 200 {
        match peer.next().await.unwrap() {
            (ClientFrame::Request { id, sequence: Sequence(0), .. }, _) => peer.send(&data(id, b"")).await,
            (ClientFrame::Request { id, sequence, .. }, payload) => {
                assert_eq!((sequence.0, payload.as_slice()), (expected, &b"line"[..]));
                expected += 1;
                peer.send(&written(id)).await;
            }
            (ClientFrame::Acknowledge { sequence }, _) => {
                assert!(sequence.0 > acknowledged && sequence.0 < expected);
                acknowledged = sequence.0;
            }
            (ClientFrame::Cancel { .. }, _) => {}
            other => panic!("{other:?}"),
        }
    }
    for task in tasks {
        soon(task).await.unwrap();
    }
    while acknowledged < 192 {
        if let Some((ClientFrame::Acknowledge { sequence }, _)) = peer.next().await {
            acknowledged = sequence.0;
        }
    }
}

/// Remembers how many changes had come when it was asked.
#[derive(Default)]
struct Count(Mutex<u64>);

impl EventSink for Count {
    fn changed(&self, changed: Changed) {
        *self.0.lock() = changed.epoch;
    }
    fn leases_lost(&self) {
        *self.0.lock() = u64::MAX;
    }
    fn link_lost(&self, _: &LinkLost) {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_told_before_a_reply_is_seen_before_it() {
    let count = Arc::new(Count::default());
    let (client, mut peer) = link_with(count.clone(), 1 << 20).await;
    for epoch in 1..=500 {
        let call = client.read(HandleId(1), 0, 1);
        let asked = peer.asked().await;
        let changed = Changed { directory: FileId::default(), epoch, what: Change::Itself, attributes: None };
        let frames = [encoded(&AgentFrame::Changed(changed), b""), data(asked.id, b"x")].concat();
        peer.send(&frames).await;
        soon(call).await.unwrap();
        assert_eq!(*count.0.lock(), epoch);
    }
    let call = client.read(HandleId(1), 0, 1);
    let asked = peer.asked().await;
    peer.send(&[encoded(&AgentFrame::LeasesLost, b""), data(asked.id, b"x")].concat()).await;
    soon(call).await.unwrap();
    assert_eq!(*count.0.lock(), u64::MAX);
    assert_eq!(client.counters().events, 501);
}

#[derive(Clone, Debug)]
struct Exchange {
    payloads: Vec<usize>,
    /// Which unanswered request is answered next.
    choices: Vec<usize>,
    /// How much of the stream comes at once.
    chunks: Vec<usize>,
    /// How much the stream holds.
    buffer: usize,
}

fn exchange() -> impl Strategy<Value = Exchange> {
    let size = prop_oneof![5 => 0..100_usize, 4 => 30_000..40_000_usize, 1 => Just(1_usize << 20)];
    (
        proptest::collection::vec(size, 1..20),
        proptest::collection::vec(any::<usize>(), 20),
        proptest::collection::vec(1..70_000_usize, 1..10),
        prop_oneof![Just(1_usize), 2..200_usize, Just(1_usize << 16)],
    )
        .prop_map(|(payloads, choices, chunks, buffer)| {
            // One byte at a time is for small streams.
            let buffer = if payloads.iter().sum::<usize>() > 4096 { buffer.max(4096) } else { buffer };
            Exchange { payloads, choices, chunks, buffer }
        })
}

fn content(request: usize, bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (at / 251 + at + request) as u8).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn replies_in_any_order_and_any_pieces_reach_their_calls(exchange in exchange()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let log = Arc::new(super::fake::Log::default());
            let (client, mut peer) = link_with(log, exchange.buffer.max(200)).await;
            let calls: Vec<_> =
                (0..exchange.payloads.len()).map(|n| client.call(read_request(n as u64), nothing())).collect();
            let mut asked = HashMap::new();
            for n in 0..calls.len() {
                asked.insert(n, peer.asked().await.id);
            }
            let mut stream = Vec::new();
            for choice in &exchange.choices {
                if asked.is_empty() {
                    break;
                }
                let mut left: Vec<usize> = asked.keys().copied().collect();
                left.sort_unstable();
                let n = left[choice % left.len()];
                let id = asked.remove(&n).unwrap();
                stream.extend(data(id, &content(n, exchange.payloads[n])));
            }
            let chunks = exchange.chunks.clone();
            let sending = tokio::spawn(async move {
                let mut rest = stream.as_slice();
                for chunk in chunks.iter().cycle() {
                    if rest.is_empty() {
                        break;
                    }
                    let (now, later) = rest.split_at(rest.len().min(*chunk));
                    peer.send(now).await;
                    rest = later;
                    tokio::task::yield_now().await;
                }
                peer
            });
            for (n, call) in calls.into_iter().enumerate() {
                let (_, payload) = soon(call).await.unwrap();
                assert!(payload == content(n, exchange.payloads[n]), "payload {n} differs");
            }
            soon(sending).await.unwrap();
        });
    }

    #[test]
    fn frames_reach_the_agent_whole_through_any_buffer(sizes in proptest::collection::vec(0..3000_usize, 1..150), buffer in 60..5000_usize) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let log = Arc::new(super::fake::Log::default());
            let (client, mut peer) = link_with(log, buffer).await;
            let calls: Vec<_> = sizes
                .iter()
                .enumerate()
                .map(|(n, size)| client.write(HandleId(n as u64), WriteAt::End, false, content(n, *size).into()))
                .collect();
            for (n, size) in sizes.iter().enumerate() {
                let asked = peer.asked().await;
                assert_eq!(asked.sequence.0, n as u64 + 1);
                assert!(asked.payload == content(n, *size));
            }
            drop(peer);
            for call in calls {
                assert!(soon(call).await.is_err());
            }
        });
    }
}
