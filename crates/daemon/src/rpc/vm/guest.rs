//! What is asked of a guest that runs, through its agent, and of its VMM.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use machine::disk;
use remote::client::{AgentClient, CallError};
use wire::agent::file::{LastLink, OpenFlags};
use wire::api::machine::{Caller, Machine};
use wire::api::status::Vm;
use wire::api::vm::{GuestUsage, Listener, Listeners, Ping, Pong, Ports, Stats, Usage};
use wire::api::{ErrorKind, ErrorObject};

use super::super::Daemon;
use super::seen;
use crate::failure::from_call;
use crate::owner::Wanted;
use crate::session::ClientContext;
use crate::vm::{blocking, places};

/// How long a guest may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// What is read of one of the kernel's files at once.
const CHUNK_BYTES: u32 = 64 << 10;

/// The most that is read of one: ten thousand sockets.
const FILE_BYTES_MAX: usize = 2 << 20;

/// The most ports that are told: they fit into a line.
const LISTENERS_MAX: usize = 4096;

/// How long it takes to ask the agent for nothing.
pub async fn ping(daemon: &Daemon, context: &ClientContext, ping: Ping) -> Result<Pong, ErrorObject> {
    let vm = seen(daemon, &ping.name).await?;
    let round_trip = ask(daemon, context, &vm, ping.caller, async |client| Ok(client.ping().await?)).await?;
    let round_trip_us = u64::try_from(round_trip.as_micros()).unwrap_or(u64::MAX);
    Ok(Pong { name: vm.name, round_trip_us })
}

/// The ports on which something listens inside.
pub async fn ports(daemon: &Daemon, context: &ClientContext, ports: Ports) -> Result<Listeners, ErrorObject> {
    let vm = seen(daemon, &ports.name).await?;
    let sockets = ask(daemon, context, &vm, ports.caller, async |client| {
        let mut text = read(client, "/proc/1/net/tcp").await?;
        // A kernel may be without it.
        text += &read(client, "/proc/1/net/tcp6").await.unwrap_or_default();
        Ok(text)
    });
    let mut ports: Vec<Listener> = sockets.await?.lines().filter_map(listener).collect();
    ports.sort_unstable();
    ports.dedup();
    ports.truncate(LISTENERS_MAX);
    Ok(Listeners { name: vm.name, ports })
}

/// What a microVM takes of this computer, and what its guest says of itself.
pub async fn stats(daemon: &Daemon, context: &ClientContext, stats: Stats) -> Result<Usage, ErrorObject> {
    let vm = seen(daemon, &stats.name).await?;
    let Some(pid) = vm.pid else {
        let message = format!("the vm `{}` does not run", vm.name);
        return Err(
            ErrorObject::new(ErrorKind::Conflict, message).with_hint(format!("stead vm start {}", vm.name))
        );
    };
    let directory = places(&daemon.paths, &vm.name).directory;
    let host = blocking(move || Ok(HostUsage::of(pid, &directory))).await?;
    let guest = ask(daemon, context, &vm, stats.caller, async |client| {
        let memory = read(client, "/proc/meminfo").await?;
        let network = read(client, "/proc/net/dev").await.unwrap_or_default();
        let load = read(client, "/proc/loadavg").await.unwrap_or_default();
        Ok(guest_usage(&memory, &network, &load))
    });
    // One that does not answer takes as much of this computer.
    let guest = guest
        .await
        .inspect_err(|error| tracing::info!(vm = vm.name, %error, "a guest tells nothing of itself"));
    let HostUsage { cpu_ms, memory_bytes, disk_bytes } = host;
    Ok(Usage { name: vm.name, cpu_ms, memory_bytes, disk_bytes, guest: guest.ok() })
}

/// Has something done with the agent of a guest, within a time.
async fn ask<T>(
    daemon: &Daemon,
    context: &ClientContext,
    vm: &Vm,
    caller: Caller,
    question: impl AsyncFnOnce(&AgentClient) -> Result<T, CallError>,
) -> Result<T, ErrorObject> {
    context.check(&caller)?;
    let prompter = context.prompter(&caller);
    let wanted = Wanted::new(Machine::Vm { name: vm.name.clone() }, caller, prompter);
    let asking = async {
        let session = context.sessions.get(&daemon.owner, wanted).await?;
        session.attached().await?;
        let what = format!("the vm `{}` does not tell", vm.name);
        question(session.client()).await.map_err(|error| from_call(&what, &error))
    };
    let late = || ErrorObject::new(ErrorKind::TimedOut, format!("the vm `{}` does not answer", vm.name));
    tokio::time::timeout(ANSWER_TIMEOUT, asking).await.unwrap_or_else(|_| Err(late()))
}

/// The text of a file of the guest's kernel, whose length nobody knows before.
async fn read(client: &AgentClient, path: &str) -> Result<String, CallError> {
    let place = client.locate(path.into(), LastLink::Followed).await?.place;
    let (handle, flags) = (client.new_handle(), OpenFlags { read: true, ..OpenFlags::default() });
    client.open(place, flags, handle, 0).await?;
    let mut content = Vec::new();
    let outcome = loop {
        match client.read(handle, content.len() as u64, CHUNK_BYTES).await {
            Ok(chunk) if chunk.is_empty() || content.len() > FILE_BYTES_MAX => break Ok(()),
            Ok(chunk) => content.extend(chunk),
            Err(error) => break Err(error),
        }
    };
    client.close(handle).await?;
    outcome.map(|()| String::from_utf8_lossy(&content).into_owned())
}

/// What a VMM has taken until now.
#[derive(Debug, Default)]
struct HostUsage {
    cpu_ms: u64,
    memory_bytes: u64,
    disk_bytes: u64,
}

impl HostUsage {
    /// What cannot be found out, because it has just ended, is nothing.
    fn of(pid: u32, directory: &Path) -> HostUsage {
        let file = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
        let disk = disk::find(directory).and_then(|(path, _)| fs::metadata(path).ok());
        HostUsage {
            cpu_ms: cpu_ms(&file("stat"), rustix::param::clock_ticks_per_second()),
            memory_bytes: kibibytes(&file("status"), "VmRSS:") << 10,
            disk_bytes: disk.map_or(0, |disk| disk.blocks() * 512),
        }
    }
}

/// The user's and the system's time, behind the name, which is in parentheses and may have any bytes.
fn cpu_ms(stat: &str, ticks_per_second: u64) -> u64 {
    let fields = stat.rsplit_once(") ").map_or("", |(_, fields)| fields);
    let ticks: u64 = fields.split(' ').skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    ticks.saturating_mul(1000) / ticks_per_second.max(1)
}

fn kibibytes(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|line| line.split_ascii_whitespace().next()?.parse().ok()).unwrap_or(0)
}

fn guest_usage(memory: &str, network: &str, load: &str) -> GuestUsage {
    let (mut received_bytes, mut sent_bytes) = (0_u64, 0_u64);
    for line in network.lines() {
        let Some((name, counters)) = line.split_once(':') else { continue };
        let counters: Vec<u64> =
            counters.split_ascii_whitespace().filter_map(|counter| counter.parse().ok()).collect();
        if let (true, Some(received), Some(sent)) = (name.trim() != "lo", counters.first(), counters.get(8)) {
            received_bytes = received_bytes.saturating_add(*received);
            sent_bytes = sent_bytes.saturating_add(*sent);
        }
    }
    let hundredths = |load: f64| (load.clamp(0.0, 1e6) * 100.0) as u32;
    let load = load.split(' ').next().and_then(|load| load.parse().ok()).map_or(0, hundredths);
    GuestUsage {
        memory_bytes: kibibytes(memory, "MemTotal:").saturating_mul(1024),
        available_bytes: kibibytes(memory, "MemAvailable:").saturating_mul(1024),
        load_hundredths: load,
        received_bytes,
        sent_bytes,
    }
}

/// A line of the kernel's table of sockets, if that listens: its number, the address and port here, those there, the state.
fn listener(line: &str) -> Option<Listener> {
    /// What the kernel calls listening.
    const LISTENING: &str = "0A";
    let mut words = line.split_ascii_whitespace().skip(1);
    let (address, port) = words.next()?.split_once(':')?;
    if words.nth(1)? != LISTENING {
        return None;
    }
    // Words of four bytes, each as a number of that computer, whose low byte is the first.
    let word =
        |at: usize| u32::from_str_radix(address.get(at * 8..at * 8 + 8)?, 16).ok().map(u32::to_le_bytes);
    let address = match address.len() {
        8 => IpAddr::from(Ipv4Addr::from(word(0)?)),
        32 => {
            let words = [word(0)?, word(1)?, word(2)?, word(3)?];
            IpAddr::from(Ipv6Addr::from(std::array::from_fn(|at| words[at / 4][at % 4])))
        }
        _ => return None,
    };
    Some(Listener { port: u16::from_str_radix(port, 16).ok()?, address })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_that_listen_are_found_among_others() {
        let line = |address: &str, state: &str| {
            format!("   0: {address} 00000000:0000 {state} 00000000:00000000 00:0")
        };
        let found =
            |address: &str, state: &str| listener(&line(address, state)).map(|found| found.to_string());
        assert_eq!(found("0100007F:1B58", "0A").as_deref(), Some("127.0.0.1:7000"));
        assert_eq!(found("00000000000000000000000001000000:0016", "0A").as_deref(), Some("[::1]:22"));
        for (address, state) in
            [("0100007F:1B58", "01"), ("0100007F", "0A"), ("01:16", "0A"), ("x0000000:16", "0A")]
        {
            assert_eq!(found(address, state), None, "{address}");
        }
        assert_eq!(listener("  sl  local_address rem_address   st tx_queue"), None);
        assert_eq!(listener(""), None);
    }

    #[test]
    fn times_are_read_behind_whatever_name_a_process_has() {
        let stat = "7 (a) b ) S 1 7 7 0 -1 4194560 100 0 0 0 150 50 0 0 20 0 1 0 9 9 9";
        assert_eq!(cpu_ms(stat, 100), 2000);
        assert_eq!(cpu_ms("", 0), 0);
    }

    #[test]
    fn what_a_guest_says_of_itself_is_added_up_without_its_loopback() {
        let network = "Inter-|   Receive\n face |bytes\n lo: 9 1 0 0 0 0 0 0 9 1 0 0 0 0 0 0\n  eth0: 5 1 0 0 0 0 0 0 7 1 0 0 0 0 0 0\n";
        let usage = guest_usage(
            "MemTotal: 200 kB\nMemFree: 1 kB\nMemAvailable: 100 kB\n",
            network,
            "0.25 0.1 0.0 1/9 7",
        );
        let expected = GuestUsage {
            memory_bytes: 200 << 10,
            available_bytes: 100 << 10,
            load_hundredths: 25,
            received_bytes: 5,
            sent_bytes: 7,
        };
        assert_eq!(usage, expected);
        assert_eq!(guest_usage("", "x", "-1").memory_bytes, 0);
    }
}
