//! `stead kill`

use clap_complete::engine::ArgValueCompleter;
use wire::api::id::ProcessId;
use wire::api::process::Kill;

use crate::completion;
use crate::context::Context;
use crate::error::Result;

/// The signals that have names here, with their numbers on Linux.
const SIGNALS: &[(&str, u8)] = &[
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("PWR", 30),
    ("SYS", 31),
];

/// The last signal that there is.
const SIGNAL_MAX: u8 = 64;

/// Send a signal to a process that was started on a machine, and to what it has started in its group.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Which one, as `stead ps` shows it
    #[arg(add = ArgValueCompleter::new(completion::processes))]
    process: ProcessId,
    /// By name, with or without SIG, or by its number on Linux
    #[arg(long, short, value_name = "NAME", default_value = "TERM", value_parser = signal)]
    signal: u8,
}

/// Carries it out.
pub fn run(args: Args, context: &mut Context) -> Result<()> {
    let kill = Kill { process: args.process, signal: args.signal, caller: context.caller() };
    let killed = context.daemon()?.call(kill)?;
    if context.output.is_json() { context.output.document(&killed) } else { Ok(()) }
}

fn signal(text: &str) -> std::result::Result<u8, String> {
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some((_, number)) = SIGNALS.iter().find(|(known, _)| *known == name) {
        return Ok(*number);
    }
    match text.parse() {
        Ok(number @ 1..=SIGNAL_MAX) => Ok(number),
        _ => Err("there is no such signal".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_has_a_name_or_a_number() {
        for (text, number) in [("TERM", 15), ("sigkill", 9), ("Usr1", 10), ("1", 1), ("64", 64)] {
            assert_eq!(signal(text), Ok(number), "{text}");
        }
        for text in ["", "0", "65", "-9", "SIG", "SIGNOTHING"] {
            assert!(signal(text).is_err(), "{text}");
        }
    }
}
