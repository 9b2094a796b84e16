//! What the client itself costs. Prints figures; run with `--release --run-ignored all --no-capture`.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Instant;

use remote::client::{AgentClient, ByteStream, ConnectOptions, NoEvents};
use wire::agent::file::Time;
use wire::agent::{AgentFrame, ClientFrame, HandleId};
use wire::frame::{PREFIX_BYTES, Prefix, decode_head};

use super::fake::{data, encoded, greeting};

/// Answers pings, and reads with a mebibyte, on a thread of its own.
fn serve(mut stream: UnixStream) {
    stream.write_all(&greeting()).unwrap();
    let mut skipped = [0; 12];
    stream.read_exact(&mut skipped).unwrap();
    let content = vec![7; 1 << 20];
    let mut greeted = false;
    let mut input = std::io::BufReader::with_capacity(1 << 16, stream.try_clone().unwrap());
    loop {
        let mut prefix = [0; PREFIX_BYTES];
        if input.read_exact(&mut prefix).is_err() {
            return;
        }
        let mut body = vec![0; Prefix::parse(prefix).unwrap().body_bytes()];
        input.read_exact(&mut body).unwrap();
        if !std::mem::replace(&mut greeted, true) {
            continue;
        }
        let sent = match decode_head::<ClientFrame>(&body).unwrap() {
            ClientFrame::Ping { nonce } => {
                stream.write_all(&encoded(&AgentFrame::Pong { nonce, clock: Time::default() }, b""))
            }
            ClientFrame::Request { id, .. } => {
                let head = &data(id, &[])[PREFIX_BYTES..];
                let mut prefix = (head.len() as u32).to_le_bytes().to_vec();
                prefix.extend((content.len() as u32).to_le_bytes());
                stream.write_all(&[&prefix, head].concat()).and_then(|()| stream.write_all(&content))
            }
            other => panic!("{other:?}"),
        };
        if sent.is_err() {
            return;
        }
    }
}

#[test]
#[ignore = "measures"]
fn what_a_round_trip_and_a_mebibyte_cost() {
    for (name, runtime) in [
        ("current thread", tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()),
        (
            "two workers",
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap(),
        ),
    ] {
        let (near, far) = UnixStream::pair().unwrap();
        std::thread::spawn(move || serve(far));
        runtime
            .block_on(runtime.spawn(async move {
                near.set_nonblocking(true).unwrap();
                let stream = ByteStream::try_from(tokio::net::UnixStream::from_std(near).unwrap()).unwrap();
                let client = AgentClient::connect(stream, ConnectOptions::default(), Arc::new(NoEvents))
                    .await
                    .unwrap();
                let mut times = Vec::new();
                for _ in 0..20_000 {
                    times.push(client.ping().await.unwrap());
                }
                times.sort_unstable();
                println!("{name}: ping median {:?}, p99 {:?}", times[10_000], times[19_800]);
                let start = Instant::now();
                let mut reads = std::collections::VecDeque::new();
                for n in 0..4000_u64 {
                    reads.push_back(client.read(HandleId(1), n << 20, 1 << 20));
                    if reads.len() == 8 {
                        assert_eq!(reads.pop_front().unwrap().await.unwrap().len(), 1 << 20);
                    }
                }
                for read in reads {
                    read.await.unwrap();
                }
                let seconds = start.elapsed().as_secs_f64();
                println!("{name}: {:.2} GB/s", 4000.0 * f64::from(1 << 20) / seconds / 1e9);
            }))
            .unwrap();
    }
    let (mut near, far) = UnixStream::pair().unwrap();
    std::thread::spawn(move || serve(far));
    near.write_all(
        &[b"\0STEAD/AGNT\n".as_slice(), &encoded(&wire::hello::Hello::new(0, Default::default()), b"")]
            .concat(),
    )
    .unwrap();
    let mut greeting_back = vec![0; greeting().len()];
    near.read_exact(&mut greeting_back).unwrap();
    let mut times = Vec::new();
    let pong = encoded(&AgentFrame::Pong { nonce: 1, clock: Time::default() }, b"").len();
    for _ in 0..20_000 {
        let start = Instant::now();
        near.write_all(&encoded(&ClientFrame::Ping { nonce: 1 }, b"")).unwrap();
        near.read_exact(&mut vec![0; pong]).unwrap();
        times.push(start.elapsed());
    }
    times.sort_unstable();
    println!("bare blocking socket: ping median {:?}, p99 {:?}", times[10_000], times[19_800]);
}
