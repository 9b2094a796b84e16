//! Tunnels: bytes through them, what they cost, what is left of them.

mod carry;
mod cuts;
mod manage;
mod many;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::time::Duration;

use e2e::leftovers::Process;
use e2e::{Far, Sshd, Stead};
use serde_json::Value;

/// How long anything that has to happen may take on a busy machine.
const SOON: Duration = Duration::from_secs(60);

/// Opens a tunnel and returns what is said of it.
fn open(stead: &Stead, machine: &str, ends: &str, reverse: bool) -> Value {
    let mut args = vec!["tunnel", "open", machine, ends];
    if reverse {
        args.push("--reverse");
    }
    stead.json(&args)
}

/// The port of one of its ends.
fn port(tunnel: &Value, end: &str) -> u16 {
    let text = tunnel[end].as_str().unwrap_or_else(|| panic!("no end `{end}` in {tunnel}"));
    text.rsplit(':').next().and_then(|port| port.parse().ok()).unwrap_or_else(|| panic!("no port in {text}"))
}

fn listener() -> (TcpListener, u16) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("binding a loopback port");
    let port = listener.local_addr().expect("a bound socket has an address").port();
    (listener, port)
}

fn connect(port: u16) -> TcpStream {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("connecting to a tunnel");
    patient(&stream);
    stream
}

fn accept(listener: &TcpListener) -> TcpStream {
    let (stream, _) = listener.accept().expect("the tunnel connects");
    patient(&stream);
    stream
}

/// A test that hangs fails.
fn patient(stream: &TcpStream) {
    stream.set_read_timeout(Some(SOON)).expect("setting a timeout");
    stream.set_write_timeout(Some(SOON)).expect("setting a timeout");
}

fn say(stream: &mut impl Write, bytes: &[u8]) {
    stream.write_all(bytes).expect("the tunnel takes it");
}

fn heard(stream: &mut impl Read, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    stream.read_exact(&mut bytes).expect("it comes through the tunnel");
    bytes
}

fn rest(stream: &mut impl Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).expect("it ends in an orderly way");
    bytes
}

fn no_more(stream: &TcpStream) {
    stream.shutdown(Shutdown::Write).expect("ending one direction");
}

/// The far ends of tunnels on a machine.
fn far_ends(sshd: &Sshd) -> Vec<Process> {
    sshd.far_processes().into_iter().filter(|process| process.command.contains("--tunnel")).collect()
}

/// The tunnels that the program lists.
fn listed(stead: &Stead) -> Vec<Value> {
    stead.json(&["tunnel", "list"])["tunnels"].as_array().expect("a list of tunnels").clone()
}
