//! From the kernel's start to the guest's root file system.

use std::fmt::Display;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::mount::{MountFlags, mount, mount_move};

use crate::network::{self, Network};
use crate::{AGENT, GUARD, PROGRAM, log};

/// The modules that the host has put there, in the order in which they are loaded.
const MODULES: &str = "/modules/order";

/// The disk that the guest's root is on.
const ROOT: &str = "/dev/vda";

/// How long a disk may take to be found.
const DISK_TIMEOUT: Duration = Duration::from_secs(60);

/// How often it is looked for.
const DISK_INTERVAL: Duration = Duration::from_millis(5);

/// What everything in a guest is started with that asks for nothing else.
const ENVIRONMENT: [(&str, &str); 5] = [
    ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
    ("HOME", "/root"),
    ("USER", "root"),
    ("LOGNAME", "root"),
    ("SHELL", "/bin/sh"),
];

/// Sets the guest up. Returns when it is this process that goes on as its init, with the process that sees to the ports.
pub fn boot() -> Result<u32, String> {
    file_system("devtmpfs", "/dev", MountFlags::NOSUID, "mode=0755")?;
    file_system("proc", "/proc", MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC, "")?;
    file_system("sysfs", "/sys", MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC, "")?;
    let line = fs::read_to_string("/proc/cmdline").map_err(failed("/proc/cmdline"))?;
    load_modules()?;
    enter_root()?;
    let setting = |name: &str| line.split_ascii_whitespace().find_map(|word| word.strip_prefix(name));
    if let Some(name) = setting("stead.name=") {
        said("the host name", rustix::system::sethostname(name.as_bytes()));
        said("the host name", network::name_host(name));
    }
    said("the size of the root", crate::disk::grow());
    said("the loopback", network::loopback());
    match Network::read(&line) {
        Ok(network) => said("the network", network.map_or(Ok(()), |network| network.apply())),
        Err(error) => log(format_args!("the network: {error}")),
    }
    let guard = start_guard().map_err(failed(PROGRAM))?;
    become_init(setting("stead.init=").unwrap_or("/sbin/init"));
    for (at, options) in [("/dev/pts", "mode=0620,ptmxmode=0666"), ("/dev/shm", "mode=1777"), ("/tmp", "")] {
        // Those of an init are its own affair.
        said(at, secondary(at, options));
    }
    Ok(guard)
}

/// Starts what sees to it that the ports are served.
pub fn start_guard() -> std::io::Result<u32> {
    let child = Command::new(PROGRAM).arg(GUARD).env_clear().envs(ENVIRONMENT).spawn()?;
    Ok(child.id())
}

fn failed<E: Display>(what: &str) -> impl Fn(E) -> String {
    move |error| format!("{what}: {error}")
}

fn said<E: Display>(what: &str, outcome: Result<(), E>) {
    if let Err(error) = outcome {
        log(format_args!("{what}: {error}"));
    }
}

/// Mounts a file system of the kernel's own, unless it is there.
fn file_system(kind: &str, at: &str, flags: MountFlags, options: &str) -> Result<(), String> {
    let _there = fs::create_dir(at);
    let options = std::ffi::CString::new(options).map_err(failed(at))?;
    match mount(kind, at, kind, flags, Some(options.as_c_str())) {
        Ok(()) | Err(Errno::BUSY) => Ok(()),
        Err(errno) => Err(format!("{at}: {errno}")),
    }
}

fn secondary(at: &str, options: &str) -> Result<(), String> {
    match at {
        "/dev/pts" => file_system("devpts", at, MountFlags::NOSUID | MountFlags::NOEXEC, options),
        "/dev/shm" => file_system("tmpfs", at, MountFlags::NOSUID | MountFlags::NODEV, options),
        _ => match fs::create_dir(at) {
            Ok(()) => fs::set_permissions(at, fs::Permissions::from_mode(0o1777)).map_err(failed(at)),
            // What the image has is as the image wants it.
            Err(_there) => Ok(()),
        },
    }
}

fn load_modules() -> Result<(), String> {
    let order = fs::read_to_string(MODULES).map_err(failed(MODULES))?;
    for name in order.lines() {
        let path = Path::new("/modules").join(name);
        let file = fs::File::open(&path).map_err(failed(name))?;
        match rustix::system::finit_module(&file, c"", 0) {
            Ok(()) | Err(Errno::EXIST) => {}
            // The machine may do without it; if not, its disk is not found.
            Err(errno) => log(format_args!("the module {name}: {errno}")),
        }
    }
    Ok(())
}

/// Makes the disk the root, with the agent in a place in memory.
#[allow(clippy::disallowed_methods, reason = "the kernel tells nobody here that it has found a disk")]
fn enter_root() -> Result<(), String> {
    let until = Instant::now() + DISK_TIMEOUT;
    while !Path::new(ROOT).exists() {
        if Instant::now() > until {
            return Err(format!("there is no disk {ROOT}"));
        }
        std::thread::sleep(DISK_INTERVAL);
    }
    let _there = fs::create_dir("/root");
    mount(ROOT, "/root", "ext4", MountFlags::empty(), None).map_err(failed(ROOT))?;
    for at in ["dev", "proc", "sys"] {
        let place = format!("/root/{at}");
        let _there = fs::create_dir(&place);
        mount_move(format!("/{at}"), &place).map_err(failed(&place))?;
    }
    let _there = fs::create_dir("/root/run");
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    mount("tmpfs", "/root/run", "tmpfs", flags, Some(c"mode=0755")).map_err(failed("/run"))?;
    for (from, program) in [("/init", PROGRAM), ("/agent", AGENT)] {
        let to = format!("/root{program}");
        if let Some(directory) = Path::new(&to).parent() {
            fs::create_dir_all(directory).map_err(failed(&to))?;
        }
        fs::copy(from, &to).map_err(failed(&to))?;
        // What came with the kernel is in memory as long as it is there.
        let _gone = fs::remove_file(from);
    }
    let _gone = fs::remove_dir_all("/modules");
    rustix::process::chdir("/root").map_err(failed("/root"))?;
    mount_move(".", "/").map_err(failed("the root"))?;
    rustix::process::chroot(".").map_err(failed("the root"))?;
    rustix::process::chdir("/").map_err(failed("the root"))
}

/// Becomes the image's own init. Returns if it has none that runs.
fn become_init(path: &str) {
    let is_program =
        fs::metadata(path).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0);
    if !is_program {
        return;
    }
    let error = Command::new(path).env_clear().envs(ENVIRONMENT).env("TERM", "linux").exec();
    log(format_args!("{path}: {error}"));
}
