//! `cargo xtask bench`: measures Stead against its peers, side by side in one run.

use std::process::ExitCode;

use e2e::bench::{self, Options, coherence, copy, recovery, thread, vm};

const HELP: &str = "\
bench mount [--quick] [--rtt MS[,MS]] [--rate MBIT[,MBIT]] [--rows NAME[,NAME]] [--runs N]
            [--only CONTENDER[,CONTENDER]] [--operations]
bench copy [--quick] [--rtt MS[,MS]] [--rows NAME[,NAME]] [--runs N] [--only TOOL[,TOOL]]
bench thread [--quick] [--full] [--files N] [--runs N] [--rows NAME[,NAME]] [--only CONTENDER[,CONTENDER]]
bench coherence [--seed N] [--steps N] [--on host|ssh|far]
bench vm [--quick] [--runs N]
bench recovery [--quick] [--kills N] [--files N] [--on host|ssh]
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.split_first() {
        Some((what, rest)) if what == "mount" => match Options::parse(rest) {
            Ok(options) => bench::run(&options),
            Err(error) => usage(&error),
        },
        Some((what, rest)) if what == "copy" => match copy::Options::parse(rest) {
            Ok(options) => copy::run(&options),
            Err(error) => usage(&error),
        },
        Some((what, rest)) if what == "thread" => match thread::Options::parse(rest) {
            Ok(options) => thread::run(&options),
            Err(error) => usage(&error),
        },
        Some((what, rest)) if what == "vm" => match vm::Options::parse(rest) {
            Ok(options) => vm::run(&options),
            Err(error) => usage(&error),
        },
        Some((what, rest)) if what == "recovery" => match recovery::Options::parse(rest) {
            Ok(options) => recovery::run(&options),
            Err(error) => usage(&error),
        },
        Some((what, rest)) if what == "coherence" => match coherence::Options::parse(rest) {
            Ok(options) => coherence::run(&options),
            Err(error) => usage(&error),
        },
        _ => usage("what is to be measured is not named"),
    }
}

fn usage(error: &str) -> ExitCode {
    eprintln!("bench: {error}\n{HELP}");
    ExitCode::from(2)
}
