//! A guest's way to other computers, and what is kept from it.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use e2e::guest::GUEST_DEADLINE;
use e2e::stead::is_root;
use e2e::{Program, Stead, eventually, leftovers};
use rustix::thread::UnshareFlags;

use super::{kill, traces};

/// For what the daemon does by itself.
const DEADLINE: Duration = Duration::from_secs(60);

/// This computer's address on the network of the test.
const HOST: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);

/// A network of the calling thread and of what it starts from here on. Nothing of this computer's is changed.
fn enter_network() {
    // SAFETY: a namespace of networks changes nothing that other threads have: descriptors and memory stay shared.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }.expect("a network of one's own");
    let address = format!("{HOST}/24");
    for words in [
        &["link", "set", "lo", "up"][..],
        &["link", "add", "outside", "type", "bridge"],
        &["address", "add", &address, "dev", "outside"],
        &["link", "set", "outside", "up"],
    ] {
        Program::new("ip").args(words).ok();
    }
}

/// A server that says one word to everybody.
fn serve(listener: TcpListener) {
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            drop(stream.write_all(b"outside"));
        }
    });
}

/// What a server says to whoever connects.
fn said_by(address: SocketAddr) -> Option<String> {
    let mut stream = TcpStream::connect_timeout(&address, DEADLINE).ok()?;
    stream.set_read_timeout(Some(DEADLINE)).ok()?;
    let mut said = String::new();
    stream.read_to_string(&mut said).ok()?;
    Some(said)
}

#[test]
fn a_vm_with_a_network_reaches_what_is_outside_and_is_reached_by_its_ports_only() {
    if !is_root() {
        eprintln!("skipped: a network of the test's own needs root");
        return;
    }
    let stead = Stead::new();
    enter_network();
    let bind = |address: Ipv4Addr| TcpListener::bind((address, 0)).unwrap();
    let (outside, inside, free) = (bind(HOST), bind(Ipv4Addr::LOCALHOST), bind(Ipv4Addr::LOCALHOST));
    let [page, loopback, port] = [&outside, &inside, &free].map(|listener| listener.local_addr().unwrap());
    serve(outside);
    serve(inside);
    let forward = format!("{}:7000", port.port());

    stead.make_image();
    stead.ok(&["vm", "create", "dev", "--image", "tiny", "--memory", "192M", "--port", &forward]);
    let taken = stead.run(&["vm", "start", "dev"]);
    assert!(taken.code() == 5 && taken.errors().contains("cannot be forwarded"), "{taken}");
    drop(free);
    stead.ok(&["vm", "create", "other", "--image", "tiny", "--memory", "192M", "--nat"]);
    thread::scope(|scope| {
        let other = scope.spawn(|| stead.vm(&["start", "other"]));
        stead.vm(&["start", "dev"]);
        other.join().unwrap();
    });
    let get = |vm: &str, address: Ipv4Addr, port: u16, seconds: u8| {
        let script = format!("/bin/busybox nc -w {seconds} {address} {port} </dev/null");
        stead.run(&["exec", vm, "--", "sh", "-c", &script])
    };
    let reaches = |vm: &str| {
        let got = get(vm, HOST, page.port(), 60);
        assert_eq!(got.text(), "outside", "{got}");
    };
    reaches("vm://dev");
    reaches("vm://other");
    let answering = "/bin/busybox nc -ll -p 7000 -e echo of dev";
    stead.ok(&["exec", "vm://dev", "--detach", "--", "sh", "-c", answering]);
    let answers = || said_by(port).as_deref() == Some("of dev\n");
    eventually(DEADLINE, "the forwarded port answers", answers);

    // Neither what listens on this computer's loopback, nor the other one: not where its port is, nor by its address.
    let [gateway, itself] = [Ipv4Addr::new(192, 0, 0, 1), Ipv4Addr::new(192, 0, 0, 2)];
    let kept = [(gateway, loopback.port()), (gateway, port.port()), (HOST, port.port()), (itself, 7000)];
    for (address, port) in kept {
        let got = get("vm://other", address, port, 1);
        assert!(got.code() != 0 && got.text().is_empty(), "{address}:{port}: {got}");
    }

    // The network goes on without the daemon, and ends with what its frames go through.
    let daemon = stead.daemon_pid();
    kill(daemon);
    eventually(DEADLINE, "the daemon has ended", || leftovers::has_ended(daemon));
    assert!(answers());
    eventually(GUEST_DEADLINE, "the vm is taken over", || stead.dev()["state"] == "running");
    reaches("vm://dev");
    kill(gate(&stead, "other").unwrap());
    let other = || stead.json(&["vm", "show", "other"]);
    eventually(GUEST_DEADLINE, "the end of its network is told", || {
        other()["reason"].as_str().is_some_and(|reason| reason.contains("network"))
    });
    assert_eq!(other()["state"], "running");
    assert!(get("vm://other", HOST, page.port(), 1).text().is_empty());

    // A VMM that is killed takes its network along, and one that is powered off too.
    let gates = ["dev", "other"].map(|name| gate(&stead, name).unwrap());
    kill(i32::try_from(stead.dev()["pid"].as_i64().unwrap()).unwrap());
    stead.vm(&["stop", "other"]);
    eventually(DEADLINE, "their networks are gone", || gates.iter().all(|pid| leftovers::has_ended(*pid)));
    eventually(DEADLINE, "the end of the VMM is seen", || stead.dev()["pid"].is_null());
    assert!(TcpListener::bind(port).is_ok(), "somebody listens on the forwarded port");
    for name in ["dev", "other"] {
        stead.ok(&["vm", "delete", name]);
    }
    eventually(DEADLINE, "nothing is left", || traces(&stead).is_empty());
}

/// What the frames of a vm go through, as it is written down.
fn gate(stead: &Stead, name: &str) -> Option<i32> {
    let record = fs::read(stead.home().join(format!("vms/{name}/vm.json"))).ok()?;
    let record: serde_json::Value = serde_json::from_slice(&record).ok()?;
    i32::try_from(record["gate"]["pid"].as_i64()?).ok()
}
