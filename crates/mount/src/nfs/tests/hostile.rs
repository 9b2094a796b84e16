//! Bytes that no client sends. The server must answer or hang up, and serve the next one as if nothing had been.

use std::time::Duration;

use nfs3_types::mount;
use nfs3_types::nfs3;
use nfs3_types::rpc::accept_stat_data;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::super::limits;
use super::super::rpc::RECORD_BYTES_MAX;
use super::client::{Answer, Client};
use super::{DEADLINE, Place, Serving};

/// Numbers that look random and are the same each time.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| u8::try_from(self.next() & 0xff).unwrap()).collect()
    }
}

async fn serves(serving: &Serving) {
    let works = async {
        let mut client = serving.client().await;
        let root = client.root().await;
        client.getattr(&root).await.unwrap();
    };
    timeout(DEADLINE, works).await.expect("a new client is served");
}

/// Whether the server has hung up, having taken what was sent.
async fn hangs_up(mut client: Client) {
    let mut rest = Vec::new();
    let end = timeout(DEADLINE, client.stream.read_to_end(&mut rest)).await;
    let end = end.expect("the server hangs up");
    // Reset, when it had not read all that was sent.
    assert!(end.is_ok() || end.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset));
}

#[tokio::test]
async fn noise_is_hung_up_on() {
    let place = Place::new();
    let serving = place.serve().await;
    let mut noise = Noise(0x9f31);
    for length in [1, 3, 4, 5, 40, 1000, 100_000] {
        let mut client = serving.client().await;
        let bytes = noise.bytes(length);
        // The server may hang up before it has all.
        let _sent = client.stream.write_all(&bytes).await;
        let _shut = client.stream.shutdown().await;
        hangs_up(client).await;
    }
    serves(&serving).await;
}

#[tokio::test]
async fn records_beyond_the_limit_are_not_taken() {
    let place = Place::new();
    let serving = place.serve().await;
    let too_long = u32::try_from(RECORD_BYTES_MAX + 1).unwrap();
    for header in [0x8000_0000 | too_long, too_long, 0xffff_ffff, 0x7fff_ffff] {
        let mut client = serving.client().await;
        client.stream.write_all(&header.to_be_bytes()).await.unwrap();
        hangs_up(client).await;
    }
    let mut client = serving.client().await;
    client.stream.write_all(&[0; 4 * 1000]).await.unwrap();
    hangs_up(client).await;
    serves(&serving).await;
}

#[tokio::test]
async fn a_record_in_pieces_is_one_call() {
    let place = Place::new();
    let serving = place.serve().await;
    let mut client = serving.client().await;
    let record = client.call_bytes(nfs3::PROGRAM, 3, 0, &[]);
    let (first, second) = record.split_at(10);
    for (piece, last) in [(first, 0), (&[][..], 0), (second, 0x8000_0000)] {
        let header = u32::try_from(piece.len()).unwrap() | last;
        client.stream.write_all(&header.to_be_bytes()).await.unwrap();
        client.stream.write_all(piece).await.unwrap();
    }
    assert!(matches!(client.receive().await.unwrap().1, Answer::Results(bytes) if bytes.is_empty()));
}

#[tokio::test]
async fn arguments_cut_anywhere_or_full_of_noise_are_garbage_or_refused() {
    let place = Place::new();
    let serving = place.serve().await;
    let mut client = serving.client().await;
    let root = client.root().await;
    let mut noise = Noise(0x77);
    for procedure in 1..22 {
        // A directory's handle, then what may be a name, attributes, numbers: all there, or cut, or noise.
        let mut whole = super::client::packed(&root);
        whole.extend(noise.bytes(120));
        for length in (0..whole.len()).step_by(3) {
            let answer = timeout(DEADLINE, client.call(nfs3::PROGRAM, procedure, &whole[..length])).await;
            answer.unwrap_or_else(|_| panic!("procedure {procedure} with {length} bytes hung"));
        }
        for _ in 0..20 {
            let bytes = noise.bytes(200);
            let answer = timeout(DEADLINE, client.call(nfs3::PROGRAM, procedure, &bytes)).await;
            answer.unwrap_or_else(|_| panic!("procedure {procedure} with noise hung"));
        }
    }
    for procedure in 1..6 {
        for length in [0, 3, 4, 8, 64] {
            client.call(mount::PROGRAM, procedure, &noise.bytes(length)).await;
        }
    }
    serves(&serving).await;
}

#[tokio::test]
async fn lengths_that_lie_reserve_nothing() {
    let place = Place::new();
    let serving = place.serve().await;
    let mut client = serving.client().await;
    for lie in [u32::MAX, u32::MAX - 3, 0x7fff_ffff, 65] {
        for procedure in 1..22 {
            let answer = client.call(nfs3::PROGRAM, procedure, &lie.to_be_bytes()).await;
            assert!(matches!(answer, Answer::NotCarriedOut(accept_stat_data::GARBAGE_ARGS)), "{answer:?}");
        }
    }
    // The credentials have a length and a count.
    for at in [28, 36, 48] {
        let mut client = serving.client().await;
        let mut record = client.call_bytes(nfs3::PROGRAM, 3, 1, &[]);
        record[at..at + 4].copy_from_slice(&u32::MAX.to_be_bytes());
        client.send(&record).await.unwrap();
        let received = timeout(DEADLINE, client.receive()).await.unwrap();
        assert!(matches!(received, Err(_) | Ok((_, Answer::Denied))), "{received:?}");
    }
    serves(&serving).await;
}

#[tokio::test]
async fn what_is_not_served_is_said_so() {
    let place = Place::new();
    let serving = place.serve().await;
    let mut client = serving.client().await;
    let unknown = client.call(100_000, 0, &[]).await;
    assert!(matches!(unknown, Answer::NotCarriedOut(accept_stat_data::PROG_UNAVAIL)));
    let unknown = client.call(nfs3::PROGRAM, 22, &[]).await;
    assert!(matches!(unknown, Answer::NotCarriedOut(accept_stat_data::PROC_UNAVAIL)));
    let record = client.call_bytes(nfs3::PROGRAM, 4, 1, &[]);
    client.send(&record).await.unwrap();
    let mismatch = client.receive().await.unwrap().1;
    assert!(matches!(mismatch, Answer::NotCarriedOut(accept_stat_data::PROG_MISMATCH { low: 3, high: 3 })));
    client.user.gids = vec![1; 17];
    let denied = client.call(nfs3::PROGRAM, 1, &[]).await;
    assert!(matches!(denied, Answer::Denied), "more groups than the protocol has");
}

#[tokio::test]
async fn a_panic_is_answered_and_the_connection_goes_on() {
    let place = Place::new();
    let serving = place.serve().await;
    let mut client = serving.client().await;
    let root = client.root().await;
    serving.faults.panics.store(true, std::sync::atomic::Ordering::SeqCst);
    let arguments = super::client::packed(&nfs3::LOOKUP3args { what: super::at(&root, "x") });
    let answer = client.call(nfs3::PROGRAM, 3, &arguments).await;
    assert!(matches!(answer, Answer::NotCarriedOut(accept_stat_data::SYSTEM_ERR)), "{answer:?}");
    serving.faults.panics.store(false, std::sync::atomic::Ordering::SeqCst);
    super::refused(client.lookup(&root, "x").await, nfs3::nfsstat3::NFS3ERR_NOENT);
}

#[tokio::test]
async fn a_client_that_takes_no_replies_does_not_hold_up_others() {
    let place = Place::new();
    std::fs::write(place.path("big"), vec![7; 1 << 20]).unwrap();
    let serving = place.serve().await;
    let mut greedy = serving.client().await;
    let root = greedy.root().await;
    let file = greedy.found(&root, "big").await;
    let arguments = super::client::packed(&nfs3::READ3args { file, offset: 0, count: 1 << 20 });
    let record = greedy.call_bytes(nfs3::PROGRAM, 3, 6, &arguments);
    for _ in 0..1000 {
        // Until the server takes no more.
        let sent = timeout(Duration::from_millis(20), greedy.send(&record)).await;
        if sent.is_err() {
            break;
        }
    }
    serves(&serving).await;
    let stopped = timeout(DEADLINE, serving.server.stop()).await;
    stopped.expect("stopping does not wait for it longer than the limit");
}

#[tokio::test]
async fn connections_beyond_the_limit_are_refused_until_one_ends() {
    let place = Place::new();
    let serving = place.serve().await;
    let mut clients = Vec::new();
    for _ in 0..limits::CONNECTIONS_MAX {
        let mut client = serving.client().await;
        client.root().await;
        clients.push(client);
    }
    hangs_up(serving.client().await).await;
    drop(clients.pop());
    let served = async {
        loop {
            let mut client = serving.client().await;
            let record = client.call_bytes(nfs3::PROGRAM, 3, 0, &[]);
            if client.send(&record).await.is_ok() && client.receive().await.is_ok() {
                return;
            }
        }
    };
    timeout(DEADLINE, served).await.expect("there is room again");
}
