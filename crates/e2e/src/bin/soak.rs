//! `cargo xtask soak`: a workload under faults, for as long as asked.

use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use e2e::Kind;
use e2e::faults::fault::{SORTS, Sort};
use e2e::faults::job::{JOBS, Job};
use e2e::faults::{Plan, crew, run};
use e2e::oracle;

const HELP: &str = "\
soak [--seed N] [--seconds N] [--faults N] [--on host|ssh|thread] [--only FAULT[,FAULT]] [--jobs JOB[,JOB]]
     [--outage MS] [--rtt MS] [--scale N] [--quiet]
soak oracle [--seed N] [--operations N] [--kills N]

  --seed     what the run is made from; a new one without it, which is printed
  --seconds  ends after so long (600)
  --faults   ends after so many
  --on       a mount of this host, or over ssh, or a thread (ssh)
  --only     sorts of faults; all that this kind of mount can have, without it; `none` for the workload alone
  --jobs     jobs of the workload; all without it
  --outage   the longest outage, in milliseconds (20000)
  --rtt      the round trip of a mount over ssh, in milliseconds (0)
  --scale    how many times as long as the smallest one a pass of the workload is (1)
  --quiet    does not print each fault

  oracle     the same operations at random in a thread and on the local disk
  --operations  ends after so many (100000)
  --kills       of the thread's worker meanwhile, at most (0)
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let Some((first, rest)) = args.split_first()
        && first == "job"
    {
        crew::work(rest);
        return ExitCode::SUCCESS;
    }
    if let Some((first, rest)) = args.split_first()
        && first == "oracle"
    {
        return match parse_oracle(rest) {
            Ok(plan) => consult(&plan),
            Err(error) => usage(&error),
        };
    }
    let plan = match parse(&args) {
        Ok(plan) => plan,
        Err(error) => return usage(&error),
    };
    println!("seed {} on {:?}", plan.seed, plan.kind);
    let report = run(&plan);
    println!(
        "seed {}: {} faults, {} passes of the workload, {:.1} s: nothing came of it",
        plan.seed,
        report.struck.len(),
        report.passes,
        report.took.as_secs_f64()
    );
    ExitCode::SUCCESS
}

fn usage(error: &str) -> ExitCode {
    eprint!("soak: {error}\n{HELP}");
    ExitCode::from(2)
}

fn consult(plan: &oracle::Plan) -> ExitCode {
    println!("seed {}", plan.seed);
    let report = oracle::run(plan);
    println!(
        "seed {}: {} operations, {} of them refused, {} kills, {:.1} s: nothing came of it",
        plan.seed,
        report.operations,
        report.refused,
        report.kills,
        report.took.as_secs_f64()
    );
    ExitCode::SUCCESS
}

fn parse_oracle(args: &[String]) -> Result<oracle::Plan, String> {
    let mut plan = oracle::Plan { seed: any_seed(), operations: 100_000, kills: 0 };
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let mut value = || number(args.next().ok_or_else(|| format!("{arg} needs a value"))?);
        match arg.as_str() {
            "--seed" => plan.seed = value()?,
            "--operations" => plan.operations = value()?,
            "--kills" => plan.kills = value()?,
            _ => return Err(format!("unknown argument {arg}")),
        }
    }
    Ok(plan)
}

fn parse(args: &[String]) -> Result<Plan, String> {
    let mut plan = Plan::new(Kind::Ssh, any_seed(), &[], u32::MAX);
    plan.outage_max = Duration::from_secs(20);
    plan.is_told = true;
    let mut sorts = None;
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or_else(|| format!("{arg} needs a value"));
        match arg.as_str() {
            "--seed" => plan.seed = number(value()?)?,
            "--seconds" => plan.time_max = Duration::from_secs(number(value()?)?),
            "--faults" => plan.faults_max = number(value()?)?,
            "--outage" => plan.outage_max = Duration::from_millis(number(value()?)?),
            "--rtt" => plan.rtt = Duration::from_millis(number(value()?)?),
            "--scale" => plan.scale = number(value()?)?,
            "--on" => plan.kind = kind(value()?)?,
            "--only" => sorts = Some(value()?.clone()),
            "--jobs" => plan.jobs = list(value()?, Job::named, JOBS.iter().map(|job| job.name))?,
            "--quiet" => plan.is_told = false,
            _ => return Err(format!("unknown argument {arg}")),
        }
    }
    plan.sorts = match sorts.as_deref() {
        None => Sort::all_for(plan.kind),
        Some("none") => Vec::new(),
        Some(names) => list(names, Sort::named, SORTS.iter().map(|(name, _)| *name))?,
    };
    if !plan.sorts.iter().all(|sort| sort.is_for(plan.kind)) {
        return Err("what is to be struck is nothing that this kind of mount has".to_owned());
    }
    Ok(plan)
}

fn any_seed() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::from(now.subsec_nanos()) ^ now.as_secs()
}

fn number<T: std::str::FromStr<Err: std::fmt::Display>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error| format!("`{text}`: {error}"))
}

fn kind(text: &str) -> Result<Kind, String> {
    match text {
        "host" => Ok(Kind::Host),
        "ssh" => Ok(Kind::Ssh),
        "thread" => Ok(Kind::Thread),
        _ => Err(format!("`{text}` is neither host, ssh nor thread")),
    }
}

fn list<T>(
    text: &str,
    read: impl Fn(&str) -> Option<T>,
    known: impl Iterator<Item = &'static str>,
) -> Result<Vec<T>, String> {
    let known: Vec<&str> = known.collect();
    let one = |word: &str| read(word).ok_or_else(|| format!("no `{word}`; there are {}", known.join(", ")));
    text.split(',').map(|word| one(word.trim())).collect()
}
