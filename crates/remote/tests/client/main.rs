//! The agent client against an agent that the test plays.

#![allow(clippy::unwrap_used, reason = "a failure is the test's")]

mod damage;
mod fake;
mod handshake;
mod order;
mod payloads;
mod relink;
mod speed;

use bytes::Bytes;
use fake::{data, done, failure, link, list_request, nothing, read_request, reply, soon};
use remote::client::{CallError, Heartbeat, LinkLost};
use std::time::Duration;
use wire::agent::file::{FileReply, Target, Time, WriteAt};
use wire::agent::{AgentFrame, ClientFrame, Errno, HandleId, Reply};

#[tokio::test]
async fn a_reply_reaches_its_call_with_its_payload() {
    let (client, mut peer, _) = link().await;
    let call = client.read(HandleId(3), 4096, 100);
    let asked = peer.asked().await;
    assert_eq!(asked.sequence.0, 0);
    peer.send(&data(asked.id, b"content")).await;
    assert_eq!(soon(call).await.unwrap(), "content");
    let counters = client.counters();
    assert_eq!((counters.requests, counters.round_trips, counters.failures), (1, 1, 0));
    assert_eq!(client.in_flight(), 0);
}

#[tokio::test]
async fn a_refusal_carries_the_machines_error_number() {
    let (client, mut peer, _) = link().await;
    let call = client.stat(Target::Handle(HandleId(1)));
    let asked = peer.asked().await;
    peer.send(&failure(asked.id, 13, "could not look at it")).await;
    let error = soon(call).await.unwrap_err();
    assert_eq!(error.errno(), Some(Errno(13)));
    assert_eq!(error.to_string(), "could not look at it: Permission denied (os error 13)");
    assert!(!client.is_lost());
}

#[tokio::test]
async fn a_thread_without_a_runtime_can_wait() {
    let (client, mut peer, _) = link().await;
    let call = client.read(HandleId(3), 0, 5);
    let waiting = std::thread::spawn(move || call.wait());
    let asked = peer.asked().await;
    peer.send(&data(asked.id, b"bytes")).await;
    let answer = tokio::task::spawn_blocking(|| waiting.join().unwrap()).await.unwrap();
    assert_eq!(answer.unwrap(), "bytes");
}

#[tokio::test]
async fn a_dropped_call_is_cancelled_and_its_late_reply_is_dropped() {
    let (client, mut peer, _) = link().await;
    drop(client.read(HandleId(1), 0, 1));
    let asked = peer.asked().await;
    let (frame, _) = peer.next().await.unwrap();
    assert_eq!(frame, ClientFrame::Cancel { id: asked.id });
    peer.send(&failure(asked.id, 4, "")).await;
    let call = client.read(HandleId(2), 0, 1);
    let second = peer.asked().await;
    peer.send(&data(second.id, b"x")).await;
    assert_eq!(soon(call).await.unwrap(), "x");
}

#[tokio::test]
async fn an_answered_call_is_not_cancelled() {
    let (client, mut peer, _) = link().await;
    let call = client.read(HandleId(1), 0, 1);
    let asked = peer.asked().await;
    peer.send(&data(asked.id, b"x")).await;
    soon(call).await.unwrap();
    drop(client.read(HandleId(2), 0, 1));
    let second = peer.asked().await;
    assert_eq!(peer.next().await.unwrap().0, ClientFrame::Cancel { id: second.id });
}

#[tokio::test]
async fn a_stream_gives_its_pages_in_order_and_pays_for_what_was_taken() {
    let (client, mut peer, _) = link().await;
    let mut stream = client.stream(list_request(1000), nothing());
    let asked = peer.asked().await;
    let page = || Reply::File(FileReply::Data);
    peer.send(&reply(asked.id, false, page(), &[1; 400])).await;
    peer.send(&reply(asked.id, false, page(), &[2; 400])).await;
    for byte in [1, 2] {
        let (_, payload) = soon(stream.next()).await.unwrap().unwrap();
        assert_eq!(payload[0], byte);
    }
    match peer.next().await.unwrap().0 {
        ClientFrame::Credit { id, bytes } => assert!(id == asked.id && bytes > 800, "{bytes}"),
        other => panic!("{other:?}"),
    }
    peer.send(&reply(asked.id, true, page(), &[3; 4000])).await;
    assert_eq!(soon(stream.next()).await.unwrap().unwrap().1.len(), 4000);
    assert!(soon(stream.next()).await.is_none());
    assert!(soon(stream.next()).await.is_none());
    drop(stream);
    drop(client.read(HandleId(1), 0, 1));
    peer.asked().await;
}

#[tokio::test]
async fn a_dropped_stream_is_cancelled() {
    let (client, mut peer, _) = link().await;
    let stream = client.stream(list_request(1000), nothing());
    let asked = peer.asked().await;
    drop(stream);
    assert_eq!(peer.next().await.unwrap().0, ClientFrame::Cancel { id: asked.id });
    peer.send(&reply(asked.id, false, Reply::File(FileReply::Data), &[1; 400])).await;
    peer.send(&done(asked.id)).await;
    let call = client.read(HandleId(1), 0, 1);
    let second = peer.asked().await;
    peer.send(&data(second.id, b"x")).await;
    soon(call).await.unwrap();
}

#[tokio::test]
async fn a_stream_that_exceeds_its_credit_costs_the_link() {
    let (client, mut peer, _) = link().await;
    let stream = client.stream(list_request(1000), nothing());
    let asked = peer.asked().await;
    let flood = reply(asked.id, false, Reply::File(FileReply::Data), &vec![0; 1 << 20]);
    let flooding = tokio::spawn(async move {
        loop {
            use tokio::io::AsyncWriteExt;
            if peer.stream.write_all(&flood).await.is_err() {
                return;
            }
        }
    });
    let lost = soon(client.lost()).await;
    assert!(matches!(&lost, LinkLost::Protocol(why) if why.contains("credit")), "{lost:?}");
    soon(flooding).await.unwrap();
    drop(stream);
}

#[tokio::test]
async fn a_reply_of_the_wrong_kind_costs_the_link() {
    let (client, mut peer, _) = link().await;
    let call = client.read(HandleId(1), 0, 1);
    let other = client.read(HandleId(1), 0, 1);
    let asked = peer.asked().await;
    peer.send(&done(asked.id)).await;
    let error = soon(call).await.unwrap_err();
    assert_eq!(error.to_string(), "the agent broke the protocol: the reply Done does not fit its request");
    assert!(matches!(soon(other).await, Err(CallError::Lost(LinkLost::Protocol(_)))));
    assert!(client.is_lost());
}

#[tokio::test]
async fn what_the_agent_breaks_costs_the_link() {
    type Breach = fn(wire::agent::RequestId) -> Vec<u8>;
    let cases: [(&str, Breach); 5] = [
        ("a reply to request 9999", |_| done(wire::agent::RequestId(9999))),
        ("announced more", |id| reply(id, false, Reply::File(FileReply::Data), b"x")),
        ("a pong to no ping", |_| {
            fake::encoded(&AgentFrame::Pong { nonce: 77, clock: Time::default() }, b"")
        }),
        ("frame head of 0 bytes", |_| vec![0; 8]),
        ("could not decode AgentFrame", |_| vec![2, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff]),
    ];
    for (expected, breach) in cases {
        let (client, mut peer, log) = link().await;
        let call = client.read(HandleId(1), 0, 1);
        let asked = peer.asked().await;
        peer.send(&breach(asked.id)).await;
        let error = soon(call).await.unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
        assert!(peer.next().await.is_none(), "the stream is closed");
        assert_eq!(log.lost.lock().len(), 1);
    }
}

#[tokio::test]
async fn an_agent_that_closes_says_why() {
    let (client, mut peer, _) = link().await;
    let call = client.read(HandleId(1), 0, 1);
    peer.asked().await;
    peer.send(&fake::encoded(&AgentFrame::Closing { reason: "going down".into() }, b"")).await;
    let error = soon(call).await.unwrap_err();
    assert_eq!(error.to_string(), "the agent closed the stream: going down");
    let later = soon(client.read(HandleId(1), 0, 1)).await.unwrap_err();
    assert_eq!(later.to_string(), error.to_string());
}

#[tokio::test]
async fn the_link_closes_with_its_last_client() {
    let (client, mut peer, log) = link().await;
    let clone = client.clone();
    let call = client.read(HandleId(1), 0, 1);
    peer.asked().await;
    drop(client);
    assert!(!clone.is_lost());
    drop(clone);
    assert!(matches!(soon(call).await, Err(CallError::Lost(LinkLost::Closed))));
    assert!(peer.next().await.is_none());
    assert_eq!(*log.lost.lock(), [LinkLost::Closed]);
}

#[tokio::test]
async fn a_request_too_large_for_a_frame_is_refused_and_takes_no_sequence_number() {
    let (client, mut peer, _) = link().await;
    let write =
        |bytes: usize| client.write(HandleId(1), WriteAt::Offset(0), false, Bytes::from(vec![0; bytes]));
    let error = soon(write((1 << 20) + 1)).await.unwrap_err();
    assert!(matches!(error, CallError::Unsendable(_)), "{error}");
    let _call = write(1 << 20);
    assert_eq!(peer.asked().await.sequence.0, 1);
}

#[tokio::test]
async fn a_ping_is_answered_and_measured_and_tells_the_machines_clock() {
    let (client, mut peer, _) = link().await;
    assert_eq!(client.clock(), None);
    let clock = Time { seconds: 1000, nanoseconds: 999_999_999 };
    let (round_trip, ()) = tokio::join!(client.ping(), async {
        let Some((ClientFrame::Ping { nonce }, _)) = peer.next().await else { panic!("no ping") };
        peer.send(&fake::encoded(&AgentFrame::Pong { nonce, clock }, b"")).await;
    });
    assert!(round_trip.unwrap() < fake::DEADLINE);
    let now = client.clock().unwrap();
    assert!(now >= clock && now.seconds < 1000 + 2 * fake::DEADLINE.as_secs() as i64, "{now:?}");
    assert!(now.nanoseconds < 1_000_000_000, "{now:?}");
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_answers_no_heartbeat_is_given_up() {
    let (client, _peer, log) = link().await;
    let heartbeat = Heartbeat { interval: Duration::from_secs(5), failures_max: 3 };
    let mut seen = Vec::new();
    let start = tokio::time::Instant::now();
    let lost = client.keep_alive(heartbeat, |outcome| seen.push(outcome)).await;
    assert_eq!(lost, LinkLost::Silent { missed: 3 });
    assert_eq!(seen, [Err(1), Err(2), Err(3)]);
    assert!(start.elapsed() <= Duration::from_secs(16), "{:?}", start.elapsed());
    assert_eq!(*log.lost.lock(), [LinkLost::Silent { missed: 3 }]);
}

#[tokio::test]
async fn requests_beyond_the_limit_wait_for_room() {
    let (client, mut peer, _) = link().await;
    let limit = wire::agent::REQUESTS_IN_FLIGHT_MAX - 64;
    let calls: Vec<_> = (0..limit).map(|n| client.call(read_request(n as u64), nothing())).collect();
    let mut beyond = client.call(read_request(7), nothing());
    assert_eq!(client.in_flight(), limit);
    let mut ids = Vec::new();
    for _ in 0..limit {
        ids.push(peer.asked().await.id);
    }
    let full = tokio::time::timeout(Duration::from_millis(20), beyond.queued()).await;
    assert!(full.is_err(), "it has to wait");
    peer.send(&data(ids[17], b"")).await;
    soon(beyond.queued()).await;
    let asked = peer.asked().await;
    peer.send(&data(asked.id, b"late")).await;
    assert_eq!(soon(beyond).await.unwrap().1, "late");
    client.close_link();
    for call in calls {
        let answer = soon(call).await;
        assert!(matches!(answer, Ok(_) | Err(CallError::Lost(LinkLost::Closed))));
    }
}

#[tokio::test]
async fn a_request_that_waits_for_room_is_told_of_the_end() {
    let (client, peer, _) = link().await;
    let limit = wire::agent::REQUESTS_IN_FLIGHT_MAX;
    let calls: Vec<_> = (0..limit).map(|n| client.call(read_request(n as u64), nothing())).collect();
    drop(peer);
    for call in calls {
        assert!(matches!(soon(call).await, Err(CallError::Lost(_))));
    }
}
