//! What serves a guest's ports: one thread for all of them.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, ExitCode};
use std::time::Duration;

use rustix::event::{Timespec, epoll};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use wire::guest::{PORT_PREFIX, PORTS};

use crate::log;
use crate::port::{Port, Wishes};

/// Where the kernel shows the names of ports.
const CLASS: &str = "/sys/class/virtio-ports";

/// How often it is looked for ports that are not there yet: the host tells the kernel of one after the other.
const LOOK_INTERVAL: Timespec = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };

/// How often processes that are left are looked at, should their end not have been told.
const REAP_INTERVAL: Timespec = Timespec { tv_sec: 5, tv_nsec: 0 };

/// How many events are taken at once.
const EVENTS: usize = 2 * PORTS;

/// How long the word that the machine is powered off may take to the host.
const FAREWELL: Duration = Duration::from_millis(20);

/// Serves the ports until the guest ends.
pub fn serve() -> ExitCode {
    let Err(error) = run();
    log(format_args!("the ports: {error}"));
    ExitCode::FAILURE
}

struct Ports {
    epoll: OwnedFd,
    /// By their numbers in the kernel's list.
    ports: BTreeMap<u64, Port>,
    /// By the names of their devices.
    numbers: BTreeMap<String, u64>,
    /// What tells the end of each agent.
    ends: BTreeMap<u64, OwnedFd>,
    left: Vec<Child>,
}

fn run() -> io::Result<std::convert::Infallible> {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let mut ports = Ports {
        epoll,
        ports: BTreeMap::new(),
        numbers: BTreeMap::new(),
        ends: BTreeMap::new(),
        left: Vec::new(),
    };
    let mut events = Vec::with_capacity(EVENTS);
    loop {
        let is_complete = ports.numbers.len() >= PORTS;
        if !is_complete {
            ports.look();
        }
        ports.left.retain_mut(|child| matches!(child.try_wait(), Ok(None)));
        let patience = match (is_complete, ports.left.is_empty()) {
            (false, _) => Some(LOOK_INTERVAL),
            (true, false) => Some(REAP_INTERVAL),
            (true, true) => None,
        };
        events.clear();
        match epoll::wait(&ports.epoll, rustix::buffer::spare_capacity(&mut events), patience.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        for event in &events {
            ports.pump(event.data.u64())?;
        }
    }
}

impl Ports {
    /// Opens the ports that have come.
    fn look(&mut self) {
        let Ok(devices) = fs::read_dir(CLASS) else { return };
        for device in devices.flatten() {
            let Ok(device) = device.file_name().into_string() else { continue };
            if self.numbers.contains_key(&device) {
                continue;
            }
            let name = fs::read_to_string(Path::new(CLASS).join(&device).join("name")).unwrap_or_default();
            if name.trim_end().starts_with(PORT_PREFIX)
                && let Err(error) = self.open(device.clone())
            {
                log(format_args!("/dev/{device}: {error}"));
            }
        }
    }

    fn open(&mut self, device: String) -> io::Result<()> {
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = openat(CWD, Path::new("/dev").join(&device), flags, Mode::empty())?;
        let number = self.numbers.len() as u64;
        self.numbers.insert(device, number);
        self.watch(&file, number)?;
        self.ports.insert(number, Port::new(file));
        self.pump(number)
    }

    /// What changes of it is told once: it has all been moved by then.
    fn watch(&self, of: impl AsFd, number: u64) -> io::Result<()> {
        let flags = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::ET;
        Ok(epoll::add(&self.epoll, of, epoll::EventData::new_u64(number), flags)?)
    }

    fn pump(&mut self, number: u64) -> io::Result<()> {
        loop {
            let Some(port) = self.ports.get_mut(&number) else { return Ok(()) };
            let Wishes { started, left, power_off } = port.pump();
            self.left.extend(left);
            if power_off {
                power_off_machine();
            }
            if !started {
                return Ok(());
            }
            // What it said before it was watched is moved now.
            self.watch_agent(number)?;
        }
    }

    fn watch_agent(&mut self, number: u64) -> io::Result<()> {
        let Some((_, Some((socket, pid)))) = self.ports.get(&number).map(Port::watched) else {
            return Ok(());
        };
        self.watch(socket, number)?;
        if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
            let end = pidfd_open(pid, PidfdFlags::empty())?;
            self.watch(&end, number)?;
            self.ends.insert(number, end);
        }
        Ok(())
    }
}

/// Has the guest end in the way of its init.
#[allow(clippy::disallowed_methods, reason = "a port does not tell when what was written has left")]
fn power_off_machine() {
    std::thread::sleep(FAREWELL);
    let is_ours =
        fs::read("/proc/1/cmdline").is_ok_and(|line| line.split(|&byte| byte == 0).next() == Some(b"/init"));
    let programs = ["/sbin/poweroff", "/usr/sbin/poweroff", "/bin/poweroff", "/usr/bin/poweroff"];
    let program = programs.into_iter().find(|program| Path::new(program).exists());
    let asked = match program.filter(|_| !is_ours) {
        Some(program) => Command::new(program).spawn().map(drop),
        None => Ok(()),
    };
    if let Err(error) = &asked {
        log(format_args!("poweroff: {error}"));
    }
    if (program.is_none() || is_ours || asked.is_err())
        && let Err(errno) = kill_process(Pid::INIT, Signal::USR2)
    {
        log(format_args!("the guest's init takes no signal: {errno}"));
    }
}
