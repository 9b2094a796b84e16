//! What a microVM costs on this computer: making, booting, using and ending one.
//!
//! Guests are those of the tests: busybox, Debian's cloud kernel, one processor and 192 MiB. A clock goes from the start of a
//! command to its end. Each run makes one vm, uses it, and forks it.
//!
//! Beside it stands what cannot be less: the same kernel under a plain QEMU, with the same processor and as much memory, from its
//! start to the first word of a shell in its initial file system. It has no disk, no module and no agent. A command in a guest stands
//! beside the same command on this host.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitCode};
use std::time::Instant;

use super::table::{figure, median};
use crate::guest::{GUEST_DEADLINE, MEMORY, make_root};
use crate::{Program, Stead, eventually, leftovers};

/// What the shell of a kernel that is booted alone says. The kernel's own lines have no such word.
const WORD: &str = "the-shell-is-there";

/// What is measured, in what unit, and what stands beside it.
const ROWS: &[(&str, &str, &str)] = &[
    ("create", "ms", ""),
    ("start", "s", "a kernel and a shell"),
    ("first-exec", "s", ""),
    ("exec", "ms", "on this host"),
    ("ping", "ms", ""),
    ("stop", "s", ""),
    ("snapshot", "ms", ""),
    ("fork", "ms", ""),
    ("fork-exec", "s", ""),
    ("disk-made", "KiB", ""),
    ("disk-used", "KiB", ""),
    ("memory", "MiB", "a kernel and a shell"),
];

/// How often what is measured.
pub struct Options {
    runs: usize,
    execs: usize,
}

impl Options {
    /// Reads the arguments after `vm`.
    pub fn parse(args: &[String]) -> Result<Options, String> {
        let mut options = Options { runs: 5, execs: 50 };
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--quick" => options = Options { runs: 1, execs: 10 },
                "--runs" => {
                    let runs = args.next().and_then(|text| text.parse().ok()).filter(|runs| *runs > 0);
                    options.runs = runs.ok_or_else(|| "--runs needs a number".to_owned())?;
                }
                other => return Err(format!("unknown argument {other}")),
            }
        }
        Ok(options)
    }
}

/// Measures and prints. Fails only when something could not be measured.
pub fn run(options: &Options) -> ExitCode {
    let stead = Stead::new();
    stead.make_image();
    let initrd = shell_alone(&stead);
    let mut figures = Figures::default();
    let mut accelerator = String::new();
    for run in 0..options.runs {
        eprintln!("run {} of {}", run + 1, options.runs);
        let booted = live(&stead, options.execs, &mut figures);
        boot_alone(&stead, &initrd, &booted, &mut figures);
        accelerator = booted.value("-accel").to_owned();
    }
    println!("\nguests of 1 processor and {MEMORY} under QEMU ({accelerator}); medians of {}", options.runs);
    print!("{}", figures.table());
    ExitCode::SUCCESS
}

/// All figures, by row; those of what stands beside a row apart.
#[derive(Default)]
struct Figures {
    own: BTreeMap<&'static str, Vec<f64>>,
    beside: BTreeMap<&'static str, Vec<f64>>,
}

impl Figures {
    fn add(&mut self, row: &'static str, value: f64) {
        self.own.entry(row).or_default().push(value);
    }

    fn add_beside(&mut self, row: &'static str, value: f64) {
        self.beside.entry(row).or_default().push(value);
    }

    fn table(&self) -> String {
        let mut text = format!(
            "{:<12} {:<5} {:>9} {:>9} {:>9} {:>9}  {}\n",
            "row", "unit", "median", "least", "most", "beside", "which is"
        );
        for (row, unit, beside) in ROWS {
            let values = self.own.get(row).cloned().unwrap_or_default();
            let least = values.iter().copied().reduce(f64::min);
            let most = values.iter().copied().reduce(f64::max);
            let other = self.beside.get(row).cloned().and_then(median);
            let shown =
                [median(values), least, most, other].map(|value| value.map_or("-".to_owned(), figure));
            let shown: String = shown.iter().map(|shown| format!(" {shown:>9}")).collect();
            text += format!("{row:<12} {unit:<5}{shown}  {beside}").trim_end();
            text.push('\n');
        }
        text
    }
}

/// How long a command of this program takes, in seconds.
fn seconds(stead: &Stead, args: &[&str]) -> f64 {
    stead.program().args(args).deadline(GUEST_DEADLINE).ok().took.as_secs_f64()
}

/// Makes, uses, forks and removes one. Returns how its VMM was run.
fn live(stead: &Stead, execs: usize, figures: &mut Figures) -> Vmm {
    let exec = |machine: &str| seconds(stead, &["exec", machine, "--", "true"]);
    let before = memory_mib(&stead.processes());
    let created = seconds(stead, &["vm", "create", "dev", "--image", "tiny", "--memory", MEMORY]);
    let directory = stead.home().join("vms/dev");
    figures.add("disk-made", occupied_kib(&directory));
    let started = seconds(stead, &["vm", "start", "dev"]);
    figures.add("memory", memory_mib(&stead.processes()) - before);
    let first = exec("vm://dev");
    figures.add("create", created * 1e3);
    figures.add("start", started);
    figures.add("first-exec", created + started + first);
    let vmm = Vmm::of(stead);

    let (mut there, mut here) = (Vec::new(), Vec::new());
    exec("host");
    for _ in 0..execs {
        there.push(exec("vm://dev"));
        here.push(exec("host"));
    }
    let pings = (0..execs).filter_map(|_| stead.json(&["vm", "ping", "dev"])["round_trip_us"].as_f64());
    figures.add("ping", median(pings.collect()).expect("there are some") / 1e3);
    figures.add("exec", median(there).expect("there are some") * 1e3);
    figures.add_beside("exec", median(here).expect("there are some") * 1e3);

    figures.add("stop", seconds(stead, &["vm", "stop", "dev"]));
    figures.add("disk-used", occupied_kib(&directory));
    figures.add("snapshot", seconds(stead, &["vm", "snapshot", "dev", "base"]) * 1e3);
    let forked = seconds(stead, &["vm", "fork", "dev", "web", "--snapshot", "base"]);
    figures.add("fork", forked * 1e3);
    figures.add("fork-exec", forked + seconds(stead, &["vm", "start", "web"]) + exec("vm://web"));
    for name in ["web", "dev"] {
        stead.ok(&["vm", "delete", "--force", name]);
    }
    vmm
}

/// How a VMM was run.
struct Vmm {
    arguments: Vec<String>,
}

impl Vmm {
    /// Of the one that runs.
    fn of(stead: &Stead) -> Vmm {
        let home = stead.home().display().to_string();
        let lines = leftovers::command_lines().into_iter().map(|(_, line)| {
            line.iter().map(|word| String::from_utf8_lossy(word).into_owned()).collect::<Vec<_>>()
        });
        let is_it = |line: &Vec<String>| {
            line[0].contains("qemu-system") && line.iter().any(|word| word.contains(&home))
        };
        Vmm { arguments: lines.into_iter().find(is_it).expect("the VMM runs") }
    }

    /// What follows this option.
    fn value(&self, option: &str) -> &str {
        let at = self.arguments.iter().position(|word| word == option);
        at.and_then(|at| self.arguments.get(at + 1)).unwrap_or_else(|| panic!("a VMM has {option}"))
    }
}

/// An initial file system with a shell that says [`WORD`].
fn shell_alone(stead: &Stead) -> PathBuf {
    let root = stead.dir("alone");
    make_root(&root);
    let init = root.join("init");
    std::fs::write(&init, format!("#!/bin/busybox sh\necho {WORD}\nexec /bin/busybox sleep 3600\n"))
        .expect("writing an init");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(init, mode).expect("chmod of an own file");
    let packed = stead.root().join("alone.cpio");
    let script = "find . | busybox cpio -o -H newc >\"$1\"";
    Program::new("sh").args(["-c", script, "sh"]).arg(&packed).cwd(&root).ok();
    packed
}

/// A process that ends with this.
struct Ends(Child);

impl Drop for Ends {
    fn drop(&mut self) {
        // One that has ended by itself is as good.
        let _gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// Boots the kernel of a guest and a shell, with nothing else, as the VMM of a guest does.
fn boot_alone(stead: &Stead, initrd: &Path, as_in: &Vmm, figures: &mut Figures) {
    let said = stead.root().join("alone.log");
    std::fs::write(&said, "").expect("emptying a log");
    let mut program =
        Program::new(&as_in.arguments[0]).args(["-nodefaults", "-no-user-config", "-no-reboot"]);
    for option in ["-machine", "-accel", "-cpu", "-smp", "-m", "-kernel"] {
        program = program.args([option, as_in.value(option)]);
    }
    program = program.args(["-display", "none", "-nic", "none", "-append", "console=ttyS0 panic=-1 quiet"]);
    program = program.arg("-initrd").arg(initrd).arg("-serial").arg(format!("file:{}", said.display()));
    let began = Instant::now();
    let vmm = Ends(program.spawn());
    eventually(GUEST_DEADLINE, "the shell is there", || {
        std::fs::read(&said).is_ok_and(|said| String::from_utf8_lossy(&said).contains(WORD))
    });
    figures.add_beside("start", began.elapsed().as_secs_f64());
    figures.add_beside("memory", pss_kib(i32::try_from(vmm.0.id()).expect("a pid")) / 1024.0);
}

/// The memory of these processes. What several have is shared out among them.
fn memory_mib(processes: &[leftovers::Process]) -> f64 {
    processes.iter().map(|process| pss_kib(process.pid.as_raw_nonzero().get())).sum::<f64>() / 1024.0
}

/// The proportional memory of a process, from `/proc/PID/smaps_rollup`. One that has ended has none.
fn pss_kib(pid: i32) -> f64 {
    let table = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = table.lines().find_map(|line| line.strip_prefix("Pss:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or_default()
}

/// What all files of a directory take on the disk.
fn occupied_kib(directory: &Path) -> f64 {
    rustix::fs::sync();
    let entries = std::fs::read_dir(directory).expect("listing a vm's files").flatten();
    let of = |path: PathBuf| match path.symlink_metadata() {
        Ok(found) if found.is_dir() => occupied_kib(&path),
        Ok(found) => found.blocks() as f64 / 2.0,
        Err(_) => 0.0,
    };
    entries.map(|entry| of(entry.path())).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_figure_has_its_row_and_what_was_not_measured_has_none() {
        let mut figures = Figures::default();
        for value in [3.0, 1.0, 2.0] {
            figures.add("start", value);
        }
        figures.add_beside("start", 0.5);
        let table = figures.table();
        let words = |row: &str| -> Vec<String> {
            let line = table.lines().find(|line| line.starts_with(row)).unwrap();
            line.split_whitespace().map(str::to_owned).collect()
        };
        assert_eq!(words("start")[..6], ["start", "s", "2.000", "1.000", "3.000", "0.500"]);
        assert_eq!(words("fork-exec"), ["fork-exec", "s", "-", "-", "-", "-"]);
        assert_eq!(table.lines().count(), ROWS.len() + 1);
    }

    #[test]
    fn the_arguments_are_read() {
        let parse =
            |words: &[&str]| Options::parse(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>());
        assert_eq!(parse(&["--runs", "3"]).map(|options| options.runs), Ok(3));
        for wrong in [&["--runs"][..], &["--runs", "0"], &["--else"]] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
