//! Guests that QEMU runs.
//!
//! The machine is `q35` without anything that was not asked for: a disk, a source of randomness, a console, and one serial
//! device with the ports of [`wire::guest`], each a unix socket that QEMU listens to. A network, if it is to have one, is the one
//! that QEMU makes up, with all that the guest sends through two further sockets. The kernel is booted by its entry for
//! hypervisors.
//!
//! `/dev/kvm` that opens is not enough: some kernels offer it without the processor's help, and run none but kernels made for
//! that. So KVM is taken where the processor says `vmx` or `svm` as well.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use supervisor::identity::IdentityError;
use supervisor::{Identity, Process, Spawn, Stdio};
use wire::api::ErrorKind;
use wire::guest::{PORT_PREFIX, PORTS};

use super::{Accelerator, Engine, Examined, Spec};
use crate::console;
use crate::error::{Error, Result};
use crate::kernel::read_bounded;
use crate::network::{BACK, GATEWAY, GUEST, Network, OUT, PREFIX, RESOLVER};
use crate::program;
use crate::system;

/// QEMU's program.
const PROGRAM: &str = "qemu-system-x86_64";

/// What brings it.
const PACKAGE: &str = "qemu-system-x86";

/// What a guest's network device is known by. There is no other one on its network.
const MAC: &str = "52:54:00:73:74:64";

/// The longest command line that is looked at. Ours are far shorter.
const COMMAND_BYTES_MAX: u64 = 256 << 10;

/// QEMU.
#[derive(Debug, Clone, Copy, Default)]
pub struct Qemu;

impl Engine for Qemu {
    fn name(&self) -> &'static str {
        "qemu"
    }

    fn examine(&self) -> Result<Examined> {
        system::runs_vms()?;
        if std::env::consts::ARCH != "x86_64" {
            let message = format!("vms run on x86-64 computers, and this is {}", std::env::consts::ARCH);
            return Err(Error::new(ErrorKind::Refused, message));
        }
        let program = program::find(PROGRAM).ok_or_else(|| {
            let message = format!("there is no `{PROGRAM}` on this computer");
            Error::new(ErrorKind::NotFound, message)
                .hint(format!("apt-get install --no-install-recommends {PACKAGE}"))
        })?;
        let processor = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let opening = fs::OpenOptions::new().read(true).write(true).open("/dev/kvm");
        let why = hindrance(&processor, opening.map(drop));
        let accelerator = if why.is_some() { Accelerator::Tcg } else { Accelerator::Kvm };
        Ok(Examined { program, accelerator, why })
    }

    fn start(&self, spec: &Spec) -> Result<Process> {
        let examined = self.examine()?;
        let failed = |what: &str, why: String| {
            Error::new(ErrorKind::Failure, format!("could not start {what} of the vm `{}`: {why}", spec.name))
        };
        let (heard, said) = std::io::pipe().map_err(|error| failed("the console", error.to_string()))?;
        let console = Spawn::new(&spec.own_program)
            .arguments([console::PART.as_ref(), spec.console.as_os_str()])
            .stdin(Stdio::Descriptor(heard.into()));
        // It ends with the VMM, and is reaped when that happens.
        drop(console.spawn().map_err(|error| failed("the console", in_one_line(&error)))?);
        let errors = said.try_clone().map_err(|error| failed("the console", error.to_string()))?;
        Spawn::new(&examined.program)
            .arguments(arguments(spec, examined.accelerator))
            .stdout(Stdio::Descriptor(said.into()))
            .stderr(Stdio::Descriptor(errors.into()))
            .spawn()
            .map_err(|error| failed("the VMM", in_one_line(&error)))
    }

    fn find(&self, ports: &Path) -> Result<Option<Identity>> {
        let proc = Path::new("/proc");
        let failed = |error| Error::file("list", proc, &error);
        let own = rustix::process::geteuid().as_raw();
        for entry in fs::read_dir(proc).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            // What has ended meanwhile, or is somebody else's, is not the one.
            let is_own = entry.metadata().is_ok_and(|found| found.uid() == own);
            let command = |path: PathBuf| read_bounded(&path, COMMAND_BYTES_MAX).unwrap_or_default();
            if !is_own || !serves(&command(entry.path().join("cmdline")), ports) {
                continue;
            }
            let error = match Identity::of(pid) {
                Ok(identity) => return Ok(Some(identity)),
                Err(IdentityError::Gone { .. }) => continue,
                Err(error) => error,
            };
            return Err(Error::new(ErrorKind::Failure, in_one_line(&error)));
        }
        Ok(None)
    }
}

fn in_one_line(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

/// What keeps a guest from running on the computer's own processors.
fn hindrance(processor: &str, kvm: std::io::Result<()>) -> Option<String> {
    if let Err(error) = kvm {
        let hint = match error.kind() {
            std::io::ErrorKind::PermissionDenied => "; add yourself to the group `kvm`",
            _ => "",
        };
        return Some(format!("`/dev/kvm` cannot be opened: {error}{hint}"));
    }
    let flags = processor.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
    let has_help = flags.split_ascii_whitespace().any(|flag| flag == "vmx" || flag == "svm");
    (!has_help).then(|| "`/dev/kvm` is there, but the processor has neither `vmx` nor `svm`".to_owned())
}

/// A path in one of QEMU's lists, where a comma is doubled.
pub(crate) fn value(path: &Path) -> OsString {
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    let mut escaped = Vec::new();
    for &byte in path.as_os_str().as_bytes() {
        escaped.push(byte);
        if byte == b',' {
            escaped.push(byte);
        }
    }
    OsString::from_vec(escaped)
}

/// Where a port's socket is.
fn port(ports: &Path, number: usize) -> OsString {
    socket(&format!("port{number}"), &ports.join(number.to_string()))
}

/// A socket that QEMU listens to, for one at a time.
fn socket(id: &str, path: &Path) -> OsString {
    let mut argument = OsString::from(format!("socket,id={id},server=on,wait=off,path="));
    argument.push(value(path));
    argument
}

/// The network that QEMU makes up. Nobody asks there for an address.
fn user_network(network: &Network) -> String {
    let mut list = format!(
        "user,id=net,ipv6=off,net={GATEWAY}/{PREFIX},host={GATEWAY},dns={RESOLVER},dhcpstart={GUEST}"
    );
    for forward in &network.ports {
        list += &format!(",hostfwd=tcp:{}:{}-{GUEST}:{}", Ipv4Addr::LOCALHOST, forward.host, forward.guest);
    }
    list
}

/// Whether these are the arguments, each with a zero byte behind it, of a VMM that has its ports there.
fn serves(command: &[u8], ports: &Path) -> bool {
    use std::os::unix::ffi::OsStrExt;
    let mut arguments = command.split(|&byte| byte == 0);
    let program = arguments.next().map(|program| Path::new(OsStr::from_bytes(program)));
    program.is_some_and(|program| program.file_name() == Some(OsStr::new(PROGRAM)))
        && arguments.any(|argument| argument == port(ports, 0).as_bytes())
}

fn arguments(spec: &Spec, accelerator: Accelerator) -> Vec<OsString> {
    let mut list: Vec<OsString> = Vec::new();
    let mut add = |option: &str, value: &str, path: Option<&PathBuf>| {
        let mut value = OsString::from(value);
        value.push(path.map(|path| self::value(path)).unwrap_or_default());
        list.extend([option.into(), value]);
    };
    let (accel, cpu) = match accelerator {
        Accelerator::Kvm => ("kvm", "host"),
        Accelerator::Tcg => ("tcg,thread=multi", "max"),
    };
    let mut line = format!("console=ttyS0 panic=-1 quiet stead.name={}", spec.name);
    if let Some(network) = &spec.network {
        line.extend([" ", &network.settings()]);
    }
    add("-name", &spec.name, None);
    add("-machine", "q35,usb=off,smbus=off,sata=off", None);
    add("-accel", accel, None);
    add("-cpu", cpu, None);
    add("-smp", &spec.cpus.to_string(), None);
    add("-m", &format!("{}M", spec.memory_mib), None);
    add("-display", "none", None);
    match &spec.network {
        None => add("-nic", "none", None),
        Some(network) => {
            add("-netdev", &user_network(network), None);
            add(
                "-object",
                &format!("filter-redirector,id=gate,netdev=net,queue=rx,indev={BACK},outdev={OUT}"),
                None,
            );
            add("-device", &format!("virtio-net-pci,netdev=net,mac={MAC},romfile="), None);
        }
    }
    add("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny", None);
    add("-append", &line, None);
    add("-chardev", "file,id=console,path=/proc/self/fd/1", None);
    add("-serial", "chardev:console", None);
    add("-device", "virtio-rng-pci", None);
    let format = spec.format.name();
    add("-drive", &format!("if=none,id=root,format={format},discard=unmap,file="), Some(&spec.disk));
    add("-device", "virtio-blk-pci,drive=root", None);
    add("-device", &format!("virtio-serial-pci,max_ports={}", PORTS + 1), None);
    for number in 0..PORTS {
        add("-device", &format!("virtserialport,chardev=port{number},name={PORT_PREFIX}{number}"), None);
    }
    let plain = ["-nodefaults", "-no-user-config", "-no-reboot"].map(OsString::from);
    // These are no lists: a path is taken as it is.
    let files = [("-kernel", &spec.kernel), ("-initrd", &spec.initrd)];
    let files = files.into_iter().flat_map(|(option, path)| [option.into(), path.clone().into()]);
    // A device names the socket that it is behind, so sockets come first.
    let sockets = (0..PORTS).map(|number| port(&spec.ports, number));
    let gate = spec.network.iter().flat_map(|_| [OUT, BACK].map(|name| socket(name, &spec.ports.join(name))));
    let sockets = sockets.chain(gate).flat_map(|socket| ["-chardev".into(), socket]);
    plain.into_iter().chain(files).chain(sockets).chain(list).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;

    use super::*;
    use crate::disk::Format;

    #[test]
    fn kvm_is_taken_where_the_processor_helps_and_it_opens() {
        let denied = || Err(std::io::ErrorKind::PermissionDenied.into());
        assert_eq!(hindrance("flags : fpu vmx\n", Ok(())), None);
        assert_eq!(hindrance("flags : fpu svm\n", Ok(())), None);
        assert!(hindrance("flags : fpu avmx\n", Ok(())).unwrap().contains("neither"));
        assert!(hindrance("flags : vmx\n", denied()).unwrap().contains("group"));
    }

    fn spec(directory: &str) -> Spec {
        let path = |name: &str| Path::new(directory).join(name);
        Spec {
            name: "dev".to_owned(),
            cpus: 1,
            memory_mib: 256,
            kernel: path("kernel"),
            initrd: path("initrd"),
            disk: path("disk"),
            format: Format::Raw,
            ports: path("ports"),
            console: path("console"),
            own_program: path("stead"),
            network: None,
        }
    }

    #[test]
    fn a_path_cannot_end_a_word_of_a_list_and_is_itself_where_there_is_none() {
        let list = arguments(&spec("/a,readonly=on"), Accelerator::Tcg);
        let after = |option: &str| list[list.iter().position(|word| word == option).unwrap() + 1].clone();
        assert_eq!(after("-kernel"), "/a,readonly=on/kernel");
        assert_eq!(after("-initrd"), "/a,readonly=on/initrd");
        assert!(after("-drive").to_str().unwrap().ends_with("file=/a,,readonly=on/disk"));
        assert!(after("-chardev").to_str().unwrap().ends_with("path=/a,,readonly=on/ports/0"));
    }

    #[test]
    fn a_network_is_behind_its_gate_and_its_ports_are_on_the_loopback() {
        let list = |network| arguments(&Spec { network, ..spec("/a") }, Accelerator::Tcg);
        let has =
            |list: &[OsString], part: &str| list.iter().any(|word| word.to_string_lossy().contains(part));
        let without = list(None);
        assert!(has(&without, "none") && !has(&without, "user,") && !has(&without, "stead.ip"));
        let ports = vec![wire::api::vm::Forward { host: 8080, guest: 80 }];
        let with = list(Some(Network { ports }));
        let parts =
            ["hostfwd=tcp:127.0.0.1:8080-192.0.0.2:80", "queue=rx,indev=frames-back,outdev=frames-out"];
        assert!(parts.iter().all(|part| has(&with, part)), "{with:?}");
        assert!(has(&with, "path=/a/ports/frames-out") && has(&with, "stead.ip=192.0.0.2/29"), "{with:?}");
    }

    #[test]
    fn a_vmm_is_known_by_its_program_and_its_ports() {
        let command = |program: &str, directory: &str| -> Vec<u8> {
            let words = [program.into()].into_iter().chain(arguments(&spec(directory), Accelerator::Kvm));
            words.flat_map(|word| [word.as_bytes(), &[0]].concat()).collect()
        };
        let is_found = |command: &[u8]| serves(command, Path::new("/run/a,b/ports"));
        assert!(is_found(&command("/usr/bin/qemu-system-x86_64", "/run/a,b")));
        assert!(!is_found(&command("/usr/bin/qemu-system-x86_64", "/run/a")));
        assert!(!is_found(&command("/usr/bin/grep", "/run/a,b")));
        assert!(!is_found(b""));
    }
}
