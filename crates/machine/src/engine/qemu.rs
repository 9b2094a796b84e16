//! Guests that QEMU runs.
//!
//! The machine is `q35` without anything that was not asked for: a disk, a source of randomness, a console, and one serial
//! device with the ports of [`wire::guest`], each a unix socket that QEMU listens to. The kernel is booted by its entry for
//! hypervisors.
//!
//! `/dev/kvm` that opens is not enough: some kernels offer it without the processor's help, and run none but kernels made for
//! that. So KVM is taken where the processor says `vmx` or `svm` as well.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use supervisor::{Process, Spawn, Stdio};
use wire::api::ErrorKind;
use wire::guest::{PORT_PREFIX, PORTS};

use super::{Accelerator, Engine, Examined, Spec};
use crate::console;
use crate::error::{Error, Result};
use crate::program;

/// QEMU's program.
const PROGRAM: &str = "qemu-system-x86_64";

/// What brings it.
const PACKAGE: &str = "qemu-system-x86";

/// QEMU.
#[derive(Debug, Clone, Copy, Default)]
pub struct Qemu;

impl Engine for Qemu {
    fn name(&self) -> &'static str {
        "qemu"
    }

    fn examine(&self) -> Result<Examined> {
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
        let pipe = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC);
        let (heard, said) = pipe.map_err(|errno| failed("the console", errno.to_string()))?;
        let console = Spawn::new(&spec.own_program)
            .arguments([console::PART.as_ref(), spec.console.as_os_str()])
            .stdin(Stdio::Descriptor(heard));
        // It ends with the VMM, and is reaped when that happens.
        drop(console.spawn().map_err(|error| failed("the console", in_one_line(&error)))?);
        let errors = said.try_clone().map_err(|error| failed("the console", error.to_string()))?;
        let processor = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        Spawn::new(&examined.program)
            .arguments(arguments(spec, examined.accelerator, clock_khz(&processor)))
            .stdout(Stdio::Descriptor(said))
            .stderr(Stdio::Descriptor(errors))
            .spawn()
            .map_err(|error| failed("the VMM", in_one_line(&error)))
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

/// How fast the processor's clock is. A guest that is told need not find out.
fn clock_khz(processor: &str) -> Option<u64> {
    let line = processor.lines().find_map(|line| line.strip_prefix("cpu MHz"))?;
    let mhz: f64 = line.split(':').nth(1)?.trim().parse().ok()?;
    // A clock of less than that is none.
    (mhz >= 100.0).then_some((mhz * 1000.0) as u64)
}

/// A path in one of QEMU's lists, where a comma is doubled.
fn value(path: &Path) -> OsString {
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

fn arguments(spec: &Spec, accelerator: Accelerator, clock_khz: Option<u64>) -> Vec<OsString> {
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
    if let Some(khz) = clock_khz {
        line += &format!(" tsc_early_khz={khz}");
    }
    add("-name", &spec.name, None);
    add("-machine", "q35,usb=off,smbus=off,sata=off", None);
    add("-accel", accel, None);
    add("-cpu", cpu, None);
    add("-smp", &spec.cpus.to_string(), None);
    add("-m", &format!("{}M", spec.memory_mib), None);
    add("-display", "none", None);
    add("-nic", "none", None);
    add("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny", None);
    add("-kernel", "", Some(&spec.kernel));
    add("-initrd", "", Some(&spec.initrd));
    add("-append", &line, None);
    add("-chardev", "file,id=console,path=/proc/self/fd/1", None);
    add("-serial", "chardev:console", None);
    add("-device", "virtio-rng-pci", None);
    let format = spec.format.name();
    add("-drive", &format!("if=none,id=root,format={format},discard=unmap,file="), Some(&spec.disk));
    add("-device", "virtio-blk-pci,drive=root", None);
    add("-device", &format!("virtio-serial-pci,max_ports={}", PORTS + 1), None);
    for port in 0..PORTS {
        let socket = spec.ports.join(port.to_string());
        add("-chardev", &format!("socket,id=port{port},server=on,wait=off,path="), Some(&socket));
        add("-device", &format!("virtserialport,chardev=port{port},name={PORT_PREFIX}{port}"), None);
    }
    let plain = ["-nodefaults", "-no-user-config", "-no-reboot"];
    plain.into_iter().map(OsString::from).chain(list).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kvm_is_taken_where_the_processor_helps_and_it_opens() {
        let denied = || Err(std::io::ErrorKind::PermissionDenied.into());
        assert_eq!(hindrance("flags : fpu vmx\n", Ok(())), None);
        assert_eq!(hindrance("flags : fpu svm\n", Ok(())), None);
        assert!(hindrance("flags : fpu avmx\n", Ok(())).unwrap().contains("neither"));
        assert!(hindrance("flags : vmx\n", denied()).unwrap().contains("group"));
    }

    #[test]
    fn the_clock_is_read_as_it_is_shown() {
        assert_eq!(clock_khz("cpu MHz\t\t: 2450.500\n"), Some(2_450_500));
        assert_eq!(clock_khz("cpu MHz : 0.000\n"), None);
        assert_eq!(clock_khz(""), None);
    }

    #[test]
    fn a_path_cannot_end_a_word_of_a_list() {
        assert_eq!(value(Path::new("/a,readonly=on")), "/a,,readonly=on");
    }
}
