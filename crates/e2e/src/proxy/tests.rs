use super::*;

const RTT: Duration = Duration::from_millis(40);

/// A server that sends back what it gets.
fn echo() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || std::io::copy(&mut duplicate(&stream), &mut duplicate(&stream)));
        }
    });
    port
}

fn round_trip(stream: &mut TcpStream, bytes: &[u8]) -> std::io::Result<Duration> {
    let start = Instant::now();
    let mut writing = duplicate(stream);
    let sent = bytes.to_vec();
    let writer = std::thread::spawn(move || writing.write_all(&sent));
    let mut back = vec![0; bytes.len()];
    stream.read_exact(&mut back)?;
    writer.join().unwrap()?;
    assert_eq!(back, bytes);
    Ok(start.elapsed())
}

#[test]
fn a_byte_takes_one_round_trip() {
    let proxy = DelayProxy::start(echo(), RTT);
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port())).unwrap();
    let took = round_trip(&mut stream, b"x").unwrap();
    assert!(took >= RTT, "{took:?}");
    assert_eq!(proxy.carried_bytes(), 2);
}

#[test]
fn many_bytes_take_about_one_round_trip_too() {
    let proxy = DelayProxy::start(echo(), RTT);
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port())).unwrap();
    let took = round_trip(&mut stream, &vec![7; 16 << 20]).unwrap();
    // With a window of one read a round trip, this would take 64 of them.
    assert!(took < RTT * 32, "{took:?}");
}

#[test]
fn a_stall_holds_bytes_and_mending_delivers_them() {
    let proxy = DelayProxy::start(echo(), Duration::ZERO);
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port())).unwrap();
    round_trip(&mut stream, b"before").unwrap();
    proxy.stall();
    stream.write_all(b"held").unwrap();
    stream.set_read_timeout(Some(RTT)).unwrap();
    let mut back = [0; 4];
    assert!(stream.read_exact(&mut back).is_err());
    proxy.mend();
    stream.set_read_timeout(None).unwrap();
    stream.read_exact(&mut back).unwrap();
    assert_eq!(&back, b"held");
}

#[test]
fn a_cut_ends_connections_and_refuses_new_ones_until_mended() {
    let proxy = DelayProxy::start(echo(), Duration::ZERO);
    let connect = || TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port())).unwrap();
    let mut stream = connect();
    round_trip(&mut stream, b"before").unwrap();
    proxy.cut();
    assert!(round_trip(&mut stream, b"after").is_err());
    assert!(round_trip(&mut connect(), b"still").is_err());
    proxy.mend();
    round_trip(&mut connect(), b"again").unwrap();
}

#[test]
fn a_cut_in_the_middle_lets_exactly_so_many_bytes_pass() {
    let proxy = DelayProxy::start(echo(), Duration::ZERO);
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port())).unwrap();
    round_trip(&mut stream, b"before").unwrap();
    let before = proxy.carried_bytes();
    proxy.cut_after(5);
    assert!(round_trip(&mut stream, b"never whole").is_err());
    assert_eq!(proxy.carried_bytes(), before + 5);
    assert!(proxy.is_cut());
    proxy.mend();
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port())).unwrap();
    round_trip(&mut stream, b"again").unwrap();
}

#[test]
fn a_link_with_a_rate_lets_no_more_than_that_pass() {
    const BYTES_PER_SECOND: u64 = 4 << 20;
    let proxy = DelayProxy::start_rated(echo(), RTT, Some(BYTES_PER_SECOND));
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port())).unwrap();
    let took = round_trip(&mut stream, &vec![7; 1 << 20]).unwrap();
    // There and back at the same time, each a quarter of a second.
    assert!(took >= Duration::from_millis(250), "{took:?}");
}

#[test]
fn what_others_send_waits_no_longer_than_the_buffer_of_a_link_with_a_rate() {
    const BYTES_PER_SECOND: u64 = 4 << 20;
    let proxy = DelayProxy::start_rated(echo(), Duration::ZERO, Some(BYTES_PER_SECOND));
    let connect = || TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port())).unwrap();
    let (mut bulk, mut other) = (connect(), connect());
    round_trip(&mut other, b"x").unwrap();
    let copying = std::thread::spawn(move || round_trip(&mut bulk, &vec![7; 8 << 20]));
    let took: Vec<_> = (0..8).map(|_| round_trip(&mut other, b"x").unwrap()).collect();
    // A buffer in each direction, and as much again for whoever else wants the processor.
    assert!(took.iter().all(|took| *took < RATED_BUFFER * 8), "{took:?}");
    assert!(!copying.is_finished(), "there was nothing to wait for");
    drop(proxy);
    let _cut = copying.join();
}
