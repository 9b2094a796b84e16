//! How long whoever uses a mount waits when its worker is killed.
//!
//! A run is: the worker is killed; when its main thread is gone, a name that nobody has asked for is asked for; the clock
//! goes from the kill to that answer, which only a successor can give. Before, all of a tree has been looked at, so that
//! every successor has as many inodes to restore.

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::rows::write_tree;
use crate::faults::dice::Dice;
use crate::faults::field::Field;
use crate::faults::role::Role;
use crate::wait::holds_within;
use crate::{Kind, Program};

/// A worker that does not die has to be found, not waited for.
const DEATH_MAX: Duration = Duration::from_secs(10);

/// Between two kills the successor is used for a while, at most so long.
const USED_MAX: Duration = Duration::from_millis(60);

/// What is promised, in the 99th of a hundred cases.
const PROMISED: Duration = Duration::from_millis(100);

/// What is measured.
pub struct Options {
    kills: usize,
    files: usize,
    kinds: Vec<Kind>,
}

impl Options {
    /// Reads the arguments after `recovery`.
    pub fn parse(args: &[String]) -> Result<Options, String> {
        let mut options = Options { kills: 300, files: 10_000, kinds: vec![Kind::Host, Kind::Ssh] };
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or_else(|| format!("{arg} needs a value"));
            let number = |text: &String| text.parse().map_err(|error| format!("{text}: {error}"));
            match arg.as_str() {
                "--quick" => options.kills = 50,
                "--kills" => options.kills = number(value()?)?,
                "--files" => options.files = number(value()?)?,
                "--on" => {
                    options.kinds = match value()?.as_str() {
                        "host" => vec![Kind::Host],
                        "ssh" => vec![Kind::Ssh],
                        other => return Err(format!("`{other}` is neither host nor ssh")),
                    }
                }
                other => return Err(format!("unknown argument {other}")),
            }
        }
        if options.kills == 0 {
            return Err("--kills needs at least 1".to_owned());
        }
        Ok(options)
    }
}

/// Measures and prints. Fails only when something could not be measured.
pub fn run(options: &Options) -> ExitCode {
    println!("from the kill of the worker to the next completed request, {} inodes known", options.files);
    println!(
        "{:<6} {:>6} {:>10} {:>10} {:>10} {:>10}",
        "mount", "kills", "p50 ms", "p90 ms", "p99 ms", "max ms"
    );
    let mut is_kept = true;
    for kind in &options.kinds {
        let times = measure(*kind, options);
        let at = |share: usize| times[(times.len() * share / 100).min(times.len() - 1)];
        let shown =
            [at(50), at(90), at(99), at(100)].map(|time| format!("{:>10.1}", time.as_secs_f64() * 1e3));
        let name = if *kind == Kind::Host { "host" } else { "ssh" };
        println!("{name:<6} {:>6} {}", times.len(), shown.join(" "));
        is_kept &= at(99) < PROMISED;
    }
    match is_kept {
        true => println!("p99 is below {} ms, as promised", PROMISED.as_millis()),
        false => println!("p99 is promised to be below {} ms, and is not", PROMISED.as_millis()),
    }
    ExitCode::SUCCESS
}

/// Every recovery, shortest first.
fn measure(kind: Kind, options: &Options) -> Vec<Duration> {
    let field = Field::new(kind, &[]);
    write_tree(&field.far.join("tree"), options.files);
    know(&field.dir);
    let mut dice = Dice::new(1);
    let mut times: Vec<Duration> = (0..options.kills)
        .map(|number| {
            use_for(&field.dir, dice.between(Duration::ZERO, USED_MAX));
            recover(&field, number)
        })
        .collect();
    times.sort_unstable();
    times
}

/// Looks at everything below `dir`, with attributes.
fn know(dir: &Path) {
    Program::new("find").arg(dir).args(["-printf", "%s"]).ok();
}

fn use_for(dir: &Path, time: Duration) {
    // What holds is not asked for: the requests are.
    let _over = holds_within(time, || dir.join("tree").metadata().is_err());
}

fn recover(field: &Field, number: usize) -> Duration {
    let worker = field.holder(Role::Worker);
    let unknown = field.dir.join(format!("unknown{number}"));
    let began = Instant::now();
    worker.signal(Signal::KILL);
    assert!(worker.ends_within(DEATH_MAX), "the worker outlives SIGKILL");
    let error = unknown.symlink_metadata().expect_err("nobody has made it");
    let took = began.elapsed();
    assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "after kill {number}: {error}");
    took
}
