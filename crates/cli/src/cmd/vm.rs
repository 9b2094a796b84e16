//! `stead vm`

use clap::Subcommand;
use wire::api::status::Vm;
use wire::api::vm::{Create, Delete, Forward, Kill, List, Logs, Show, Start, Stop, Vms};

use crate::context::Context;
use crate::error::{Error, Result};

/// Run microVMs: computers of their own, each with its own kernel, reached as `vm://NAME`.
///
/// A vm boots from an image and writes to a disk of its own. It goes on when the daemon ends. Where the processor does not
/// help (`stead doctor host` says so) it is emulated, and takes some seconds to start.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a vm, which does not run yet
    Create(CreateArgs),
    /// Start a vm and wait until it can be reached
    Start {
        /// Which one
        name: String,
    },
    /// Have a vm power itself off, with what it has written on its disk
    Stop {
        /// Which one
        name: String,
        /// How many seconds it may take before it is ended
        #[arg(long, value_name = "SECONDS", default_value_t = 60)]
        grace: u64,
    },
    /// Stop a vm and start it again
    Restart {
        /// Which one
        name: String,
    },
    /// End a vm as a power cut would
    Kill {
        /// Which one
        name: String,
    },
    /// Remove a vm with its disk
    Delete {
        /// Which one
        name: String,
        /// Also one that runs
        #[arg(long, short)]
        force: bool,
    },
    /// Show the vms
    List,
    /// Show a vm
    Show {
        /// Which one
        name: String,
    },
    /// Print the end of what a vm has said on its console
    Logs {
        /// Which one
        name: String,
    },
}

#[derive(Debug, clap::Args)]
struct CreateArgs {
    /// What to call it, also in it: up to 32 small letters, digits and `-`
    name: String,
    /// What it boots from, as `stead image list` shows it
    #[arg(long)]
    image: String,
    /// How many processors it has [default: 1]
    #[arg(long, value_name = "N")]
    cpus: Option<u32>,
    /// How much memory it has: `512M`, `2G` [default: 512M]
    #[arg(long, value_name = "SIZE", value_parser = mebibytes)]
    memory: Option<u32>,
    /// Give it a network: it reaches what this computer reaches, but not what listens on this computer's loopback, nor other vms
    #[arg(long)]
    nat: bool,
    /// Have a port of this computer's loopback lead to one of it, which has a network then; repeatable
    #[arg(long = "port", value_name = "HOST:GUEST", value_parser = forward)]
    ports: Vec<Forward>,
}

/// A port here and one there.
fn forward(text: &str) -> std::result::Result<Forward, String> {
    let ports = text
        .split_once(':')
        .and_then(|(host, guest)| Some(Forward { host: host.parse().ok()?, guest: guest.parse().ok()? }));
    let ports = ports.filter(|ports| ports.host != 0 && ports.guest != 0);
    ports.ok_or_else(|| format!("`{text}` is no pair of ports such as 8080:80"))
}

/// A size as people write it, in MiB.
fn mebibytes(text: &str) -> std::result::Result<u32, String> {
    let wrong = || format!("`{text}` is no size such as 512M or 2G");
    let unit = text.trim_end_matches(['i', 'B', 'b']);
    let (digits, factor) = match unit.char_indices().last() {
        Some((at, 'M' | 'm')) => (&unit[..at], 1),
        Some((at, 'G' | 'g')) => (&unit[..at], 1024),
        _ => return Err(wrong()),
    };
    let number: u32 = digits.parse().map_err(|_| wrong())?;
    number.checked_mul(factor).ok_or_else(wrong)
}

/// Carries it out.
pub fn run(args: Args, context: &mut Context) -> Result<()> {
    match args.command {
        Command::Create(CreateArgs { name, image, cpus, memory, nat, ports }) => {
            let create = Create { name, image, cpus, memory_mib: memory, nat, ports };
            let vm = context.daemon()?.call(create)?;
            print(&vm, context)
        }
        Command::Start { name } => {
            let vm = start(name, context)?;
            print(&vm, context)
        }
        Command::Stop { name, grace } => {
            let vm = stop(name, grace, context)?;
            print(&vm, context)
        }
        Command::Restart { name } => {
            stop(name.clone(), 60, context)?;
            let vm = start(name, context)?;
            print(&vm, context)
        }
        Command::Kill { name } => {
            let vm = context.daemon()?.call(Kill { name })?;
            print(&vm, context)
        }
        Command::Delete { name, force } => delete(name, force, context),
        Command::List => list(context),
        Command::Show { name } => {
            let vm = context.daemon()?.call(Show { name })?;
            show(&vm, context)
        }
        Command::Logs { name } => logs(name, context),
    }
}

fn start(name: String, context: &mut Context) -> Result<Vm> {
    let client = context.daemon()?;
    if context.output.shows_progress() {
        context.output.note(format_args!("{name} boots"));
    }
    client.call(Start { name })
}

fn stop(name: String, grace: u64, context: &mut Context) -> Result<Vm> {
    let grace_ms = grace.checked_mul(1000).ok_or_else(|| Error::usage("that is too many seconds"))?;
    let client = context.daemon()?;
    if context.output.shows_progress() {
        context.output.note(format_args!("{name} powers off"));
    }
    client.call(Stop { name, grace_ms: Some(grace_ms) })
}

fn print(vm: &Vm, context: &mut Context) -> Result<()> {
    if context.output.is_json() {
        return context.output.document(vm);
    }
    context.output.line(format_args!("{}  {}", vm.name, vm.state))
}

fn show(vm: &Vm, context: &mut Context) -> Result<()> {
    if context.output.is_json() {
        return context.output.document(vm);
    }
    let table = super::status::vms(std::slice::from_ref(vm), context.output.now());
    context.output.table(&table)
}

fn list(context: &mut Context) -> Result<()> {
    // One without a daemon may run: it is asked for by starting one.
    let vms: Vms = context.daemon()?.call(List {})?;
    if context.output.is_json() {
        return context.output.document(&vms);
    }
    let table = super::status::vms(&vms.vms, context.output.now());
    context.output.table(&table)
}

fn delete(name: String, force: bool, context: &mut Context) -> Result<()> {
    let deleted = context.daemon()?.call(Delete { name, force })?;
    if context.output.is_json() {
        return context.output.document(&deleted);
    }
    context.output.line(format_args!("{}  deleted", deleted.name))
}

fn logs(name: String, context: &mut Context) -> Result<()> {
    let console = context.daemon()?.call(Logs { name })?;
    if context.output.is_json() {
        return context.output.document(&console);
    }
    context.output.raw(console.text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_as_a_pair() {
        assert_eq!(forward("8080:80"), Ok(Forward { host: 8080, guest: 80 }));
        for wrong in ["", "80", "80:", ":80", "0:80", "80:0", "80:65536", "1:2:3", "a:b"] {
            assert!(forward(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn memory_is_read_with_its_unit_only() {
        assert_eq!((mebibytes("512M"), mebibytes("2G"), mebibytes("1GiB")), (Ok(512), Ok(2048), Ok(1024)));
        for wrong in ["", "512", "G", "-1G", "1T", "4194304G", "1.5G"] {
            assert!(mebibytes(wrong).is_err(), "{wrong}");
        }
    }
}
