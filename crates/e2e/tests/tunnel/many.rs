//! Many connections at once.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use e2e::program::Program;
use e2e::{Sshd, Stead, eventually};

use super::*;

/// As many as are promised.
const CONNECTIONS: usize = 1000;

#[test]
fn a_thousand_connections_at_once_go_through_a_tunnel_and_nothing_leaks() {
    let sshd = Sshd::start();
    let stead = Stead::with_ssh(&sshd);
    let (listener, target) = listener();
    // The standard library's queue is shorter than the crowd.
    rustix::net::listen(&listener, 4096).unwrap();
    let over = Arc::new(AtomicBool::new(false));
    let server = serve_http(listener, Arc::clone(&over));
    let tunnel = open(&stead, "box", &format!("0:{target}"), false);
    let descriptors = || {
        let far_ends = far_ends(&sshd).into_iter().map(|process| process.pid.as_raw_nonzero().get());
        far_ends.chain([stead.daemon_pid()]).map(e2e::leftovers::descriptors_of).sum::<usize>()
    };
    let before = descriptors();
    // What this program and wrk need. The others help themselves.
    e2e::program::raise_descriptor_limit();
    let url = format!("http://127.0.0.1:{}/", port(&tunnel, "local"));
    let crowd = CONNECTIONS.to_string();
    let finished = Program::new("wrk")
        .args(["--threads", "2", "--connections", &crowd, "--duration", "3s", "--timeout", "30s", &url])
        .deadline(SOON * 2)
        .ok();
    let said = finished.text();
    let requests: usize = said
        .lines()
        .find_map(|line| line.trim().split_once(" requests in ")?.0.parse().ok())
        .unwrap_or_else(|| panic!("wrk says no number: {said}"));
    assert!(requests >= CONNECTIONS, "{said}");
    assert!(!said.contains("Socket errors") && !said.contains("Non-2xx"), "{said}");
    eventually(SOON, "every connection is gone", || listed(&stead)[0]["connections"] == 0);
    eventually(SOON, "every descriptor is closed", || descriptors() <= before);
    over.store(true, Ordering::Relaxed);
    // Wakes it.
    drop(connect(target));
    server.join().unwrap();
}

/// Answers requests, as many on each connection as come.
fn serve_http(listener: TcpListener, over: Arc<AtomicBool>) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            if over.load(Ordering::Relaxed) {
                return;
            }
            let builder = std::thread::Builder::new().stack_size(64 << 10);
            builder.spawn(move || answer_all(&stream)).expect("a thread for each connection");
        }
    })
}

fn answer_all(stream: &TcpStream) {
    let mut lines = BufReader::new(stream).lines();
    let mut writer = stream;
    while let Some(Ok(line)) = lines.next() {
        // The empty line behind the head.
        if line.is_empty() && writer.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello").is_err()
        {
            return;
        }
    }
}
