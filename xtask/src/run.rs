//! Running programs, shown and checked.

use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A task either is done or says in one line what could not be done.
pub type Outcome<T = ()> = Result<T, String>;

/// A program about to be run at the root of the repository.
pub struct Program {
    command: Command,
    shown: String,
}

/// `cargo` with these arguments.
pub fn cargo<'a>(args: impl IntoIterator<Item = &'a str>) -> Program {
    program(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())).args(args)
}

/// Any program.
pub fn program(name: impl AsRef<OsStr>) -> Program {
    let mut command = Command::new(&name);
    command.current_dir(root());
    let shown = Path::new(&name).file_name().unwrap_or(name.as_ref()).to_string_lossy().into_owned();
    Program { command, shown }
}

impl Program {
    /// Adds one argument.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Program {
        self.shown += &format!(" {}", arg.as_ref().to_string_lossy());
        self.command.arg(arg);
        self
    }

    /// Adds arguments.
    pub fn args(self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Program {
        args.into_iter().fold(self, Program::arg)
    }

    /// The directory in which it runs.
    pub fn cwd(mut self, directory: &Path) -> Program {
        self.command.current_dir(directory);
        self
    }

    /// Sets a variable of its environment.
    pub fn env(mut self, key: &str, value: impl Into<OsString>) -> Program {
        self.command.env(key, value.into());
        self
    }

    /// Runs it with our input and output.
    pub fn run(mut self) -> Outcome {
        eprintln!("$ {}", self.shown);
        let status = self.command.status().map_err(|error| self.cannot_start(&error))?;
        self.check(status)
    }

    /// Runs it and returns what it printed; its errors are ours.
    pub fn output(mut self) -> Outcome<String> {
        let output =
            self.command.stderr(Stdio::inherit()).output().map_err(|error| self.cannot_start(&error))?;
        self.check(output.status)?;
        String::from_utf8(output.stdout).map_err(|_| format!("`{}` printed what is not text", self.shown))
    }

    /// Runs it, passes its output on, and collects the lines that `wanted` picks from both streams.
    pub fn run_collecting(mut self, wanted: fn(&str) -> bool, found: &mut Vec<String>) -> Outcome {
        eprintln!("$ {}", self.shown);
        self.command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.command.spawn().map_err(|error| self.cannot_start(&error))?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        std::thread::scope(|scope| {
            let streams = [
                stdout.map(|from| scope.spawn(move || pass_on(from, std::io::stdout(), wanted))),
                stderr.map(|from| scope.spawn(move || pass_on(from, std::io::stderr(), wanted))),
            ];
            for stream in streams.into_iter().flatten() {
                found.extend(stream.join().unwrap_or_default());
            }
        });
        let status = child.wait().map_err(|error| self.cannot_start(&error))?;
        self.check(status)
    }

    /// Whether it can be run and succeeds, quietly.
    pub fn succeeds(mut self) -> bool {
        let quiet = self.command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        quiet.status().is_ok_and(|status| status.success())
    }

    /// Runs it and returns what it said on its standard error if it failed; none if it succeeded.
    pub fn failure(mut self) -> Outcome<Option<String>> {
        eprintln!("$ {}", self.shown);
        let output = self
            .command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .output()
            .map_err(|error| self.cannot_start(&error))?;
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        Ok((!output.status.success()).then_some(told))
    }

    fn check(&self, status: std::process::ExitStatus) -> Outcome {
        if status.success() { Ok(()) } else { Err(format!("`{}` failed ({status})", self.shown)) }
    }

    fn cannot_start(&self, error: &std::io::Error) -> String {
        format!("could not run `{}`: {error}", self.shown)
    }
}

fn pass_on(from: impl std::io::Read, mut to: impl Write, wanted: fn(&str) -> bool) -> Vec<String> {
    let mut found = Vec::new();
    for line in BufReader::new(from).split(b'\n').map_while(Result::ok) {
        let text = String::from_utf8_lossy(&line);
        // Nobody may be reading any more; the run goes on for its outcome.
        let _unread = writeln!(to, "{text}");
        if wanted(&text) {
            found.push(text.trim().to_owned());
        }
    }
    found
}

/// The root of the repository.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}

/// Where cargo builds.
pub fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |dir| root().join(dir))
}
