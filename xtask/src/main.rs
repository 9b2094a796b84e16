//! Builds, tests, measures and packs Stead: `cargo xtask TASK`.
//!
//! It has no dependencies, so that it starts at once on a machine with only Rust and a C compiler, and it must not know
//! how anything works inside: it runs programs in an order, and stops at the first that fails.

mod build;
mod deny;
mod dist;
mod fuzz;
mod platforms;
mod run;
mod setup;
mod soak;
mod test;

use std::process::ExitCode;

use run::{Outcome, cargo};

const HELP: &str = "\
cargo xtask TASK

  setup                 installs what the tests need (as root; otherwise says what is missing)
  build [--release]     stead, and beside it the static agent for far machines
  test [FILTER]         everything: setup, build, format, lints, unit tests, then the tests of the whole
        --only STEP     one step: setup, build, format, lints, platforms, unit, e2e
  demo                  builds Stead and gives the tour
  bench mount           this mount, the local disk, ssh, sshfs and rclone side by side
        --quick  --rtt MS[,MS]  --rate MBIT[,MBIT]  --rows NAME[,NAME]  --operations
  bench copy            cp and search without a mount beside scp, rsync, sftp and ripgrep through ssh
        --quick  --rtt MS[,MS]  --runs N
  bench thread          a thread beside a clone on the local disk, git worktree and overlayfs
        --quick  --full  --files N  --runs N  --rows NAME[,NAME]
  bench vm              making, booting, using, forking and ending microVMs, beside their kernel alone
        --quick  --runs N
  bench coherence       changes on the machine while everything is cached here: how long until they are seen
        --seed N  --steps N  --on host|ssh|far
  bench recovery        how long a mount waits when its worker is killed
        --quick  --kills N  --files N  --on host|ssh
  soak                  a workload while processes are killed and stopped and the line is cut; stops at the first harm
        --seed N  --seconds N  --faults N  --on host|ssh|thread  --only FAULT[,FAULT]  --outage MS
  soak oracle           the same operations at random in a thread and on the local disk
        --seed N  --operations N  --kills N
  fuzz [TARGET]         feeds nonsense to everything that decodes bytes from outside; stops at the first crash of each
        --seconds N     for how long, each; 60 by default
  deny                  licences, sources and duplicates of what Stead is made of
  check-platforms [TARGET]...
                        type-checks the workspace for Windows, macOS and FreeBSD; the first time it makes what that takes
        --self-test     breaks what only one of them sees, and wants an error from each file
  dist                  packs a release into target/dist
  docs                  regenerates docs/cli.md and docs/api.md
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let outcome = match words.as_slice() {
        ["setup"] => setup::setup(),
        ["build"] => build::build(build::Profile::Dev).map(drop),
        ["build", "--release"] => build::build(build::Profile::Release).map(drop),
        ["test", "--only", step] => test::only(step, None),
        ["test", "--only", step, filter] => test::only(step, Some(filter)),
        ["test"] => test::all(None),
        ["test", filter] => test::all(Some(filter)),
        ["demo", rest @ ..] => demo(rest),
        ["bench", rest @ ..] => bench(rest),
        ["soak", rest @ ..] => soak::soak(rest),
        ["fuzz", rest @ ..] => fuzz::fuzz(rest),
        ["deny"] => deny::deny(),
        ["check-platforms", "--self-test"] => platforms::self_test(),
        ["check-platforms", targets @ ..] => platforms::check(targets),
        ["dist"] => dist::dist(),
        ["docs"] => docs(),
        ["help" | "--help" | "-h"] => {
            print!("{HELP}");
            Ok(())
        }
        _ => {
            eprint!("{HELP}");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error}");
            ExitCode::FAILURE
        }
    }
}

fn demo(args: &[&str]) -> Outcome {
    let stead = build::build(build::Profile::Release)?;
    run::program(stead).arg("demo").args(args).run()
}

fn bench(args: &[&str]) -> Outcome {
    setup::setup()?;
    let stead = build::build(build::Profile::Release)?;
    cargo(["run", "--quiet", "--release", "-p", "e2e", "--bin", "bench", "--"])
        .args(args)
        .env("STEAD_BIN", stead)
        .run()
}

fn docs() -> Outcome {
    let stead = build::build(build::Profile::Dev)?;
    for page in ["cli", "api"] {
        let text = run::program(&stead).args(["docs", page]).output()?;
        let path = run::root().join(format!("docs/{page}.md"));
        std::fs::write(&path, text)
            .map_err(|error| format!("could not write {}: {error}", path.display()))?;
    }
    Ok(())
}
