//! How long it takes until a change on the machine is seen here, while everything is cached here. A stale answer ends it.

use std::process::ExitCode;
use std::time::Duration;

use crate::coherence::{Plan, Where};

/// What is measured.
pub struct Options {
    seed: u64,
    steps: u64,
    places: Vec<Where>,
}

/// A run that makes no steps any more ends.
const TIME_MAX: Duration = Duration::from_secs(3600);

impl Options {
    /// Reads the arguments after `coherence`.
    pub fn parse(args: &[String]) -> Result<Options, String> {
        let mut options = Options { seed: 1, steps: 10_000, places: Where::ALL.to_vec() };
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or_else(|| format!("{arg} needs a value"));
            let number = |text: &String| text.parse().map_err(|error| format!("{text}: {error}"));
            match arg.as_str() {
                "--seed" => options.seed = number(value()?)?,
                "--steps" => options.steps = number(value()?)?,
                "--on" => {
                    let name = value()?;
                    let place = Where::ALL.into_iter().find(|place| place.name() == name);
                    options.places =
                        vec![place.ok_or_else(|| format!("`{name}` is none of host, ssh, far"))?];
                }
                other => return Err(format!("unknown argument {other}")),
            }
        }
        Ok(options)
    }
}

/// Measures and prints. Fails when something was seen that could not be.
pub fn run(options: &Options) -> ExitCode {
    for place in &options.places {
        let plan = Plan { place: *place, seed: options.seed, steps: options.steps, time_max: TIME_MAX };
        let report = crate::coherence::run(&plan);
        println!("{}, seed {}: {report}", place.name(), options.seed);
    }
    ExitCode::SUCCESS
}
