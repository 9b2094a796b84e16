//! `stead demo`
//!
//! It runs this program as its user would, with a home of its own, so that it neither sees nor touches the user's
//! daemon and mounts.

use std::path::Path;
use std::time::{Duration, Instant};

use serde::Serialize;
use wire::api::ErrorKind;
use wire::api::machine::Verdict;

use super::doctor;
use crate::context::Context;
use crate::error::{Error, Result};
use crate::output::text::{bytes, counted};

mod measure;
mod scratch;

use scratch::{Scratch, Tour};

/// Take the tour: mount a directory, use it, clean up.
///
/// Needs nothing and changes nothing: it makes a directory under the temporary one, mounts it, works in it with real
/// programs, measures a little, and removes all of it again, also when it is interrupted.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// How many files tar carries.
const TAR_FILES: usize = 200;

/// What was done, in JSON.
#[derive(Debug, Default, Serialize)]
struct Report {
    backend: String,
    steps: Vec<Step>,
}

#[derive(Debug, Serialize)]
struct Step {
    name: &'static str,
    detail: String,
    milliseconds: u64,
}

/// The steps as they are taken.
struct Teller<'a> {
    context: &'a mut Context,
    report: Report,
}

impl Teller<'_> {
    /// Takes a step, and says what it did.
    fn step(&mut self, name: &'static str, step: impl FnOnce() -> Result<String>) -> Result<()> {
        let start = Instant::now();
        let detail = step()?;
        let milliseconds = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
        if !self.context.output.is_json() {
            self.context.output.line(format_args!("{name:<9} {detail}"))?;
            self.context.output.flush()?;
        }
        self.report.steps.push(Step { name, detail, milliseconds });
        Ok(())
    }
}

/// Carries it out.
pub fn run(_: Args, context: &mut Context) -> Result<()> {
    refuse_without_fuse(context)?;
    let tour = Tour::begin(&context.program)?;
    let scratch = tour.scratch();
    let mut teller = Teller { context, report: Report::default() };
    walk(&mut teller, &scratch)?;
    teller.step("clean up", || {
        let root = scratch.root().display().to_string();
        tour.finish()?;
        Ok(format!("unmounted, stopped the daemon, removed {root}"))
    })?;
    let Teller { context, report } = teller;
    if context.output.is_json() {
        return context.output.document(&report);
    }
    context.output.line("next      stead mount ssh://HOST/DIR ./DIR   or   stead --help")
}

fn refuse_without_fuse(context: &Context) -> Result<()> {
    let broken = doctor::mount_checks(context).into_iter().find(|check| check.verdict == Verdict::Broken);
    match broken {
        None => Ok(()),
        Some(check) => {
            let message = format!("the tour needs FUSE: {}: {}", check.name, check.detail);
            let error = Error::new(ErrorKind::Failure, message);
            Err(match check.hint {
                Some(hint) => error.hint(hint),
                None => error,
            })
        }
    }
}

fn walk(teller: &mut Teller<'_>, scratch: &Scratch) -> Result<()> {
    let (far, here) = (scratch.far(), scratch.here());
    teller.step("prepare", || {
        write(&far.join("README"), b"These files stand for those of another machine.\n")?;
        Ok(format!("made {} to stand for another machine's files", far.display()))
    })?;

    let mut backend = String::new();
    teller.step("mount", || {
        let start = Instant::now();
        let source = format!("host:{}", far.display());
        let mount = scratch.stead_json(&["mount", &source, &here.display().to_string()])?;
        backend = mount["backend"].as_str().unwrap_or("unknown").to_owned();
        Ok(format!(
            "stead mount {source} {}: serves through {backend} after {}",
            here.display(),
            shown(start.elapsed())
        ))
    })?;
    teller.report.backend = backend;

    teller.step("write", || {
        scratch.program(
            "sh",
            &["-c", "echo hello > greeting && cat README >> greeting && chmod 640 greeting"],
            here,
        )?;
        let there = std::fs::read(far.join("greeting"))
            .map_err(|error| Error::io("could not read the greeting", &error))?;
        expect(there.starts_with(b"hello\nThese files"), "what sh wrote here is not what is there")?;
        Ok("sh wrote a file here, and the same bytes are there".to_owned())
    })?;

    teller.step("git", || {
        if !scratch.has("git") {
            return Ok("is not installed, and was left out".to_owned());
        }
        let script = "git init -q repo && cd repo && cp ../README . && git add . && git commit -qm one && \
                      echo more >> README && git commit -qam two && git fsck --strict && git log --oneline | wc -l";
        let commits = scratch.program("sh", &["-ec", script], here)?;
        expect(commits.trim() == "2", "git does not find its commits again")?;
        Ok("made a repository with two commits, and git fsck finds nothing wrong with it".to_owned())
    })?;

    teller.step("tar", || {
        let original = scratch.root().join("original");
        make_tree(&original)?;
        scratch.program(
            "sh",
            &["-ec", "tar cf tree.tar original && tar xf tree.tar -C here"],
            scratch.root(),
        )?;
        scratch.program("diff", &["-r", "original", "here/original"], scratch.root())?;
        scratch.program("diff", &["-r", "original", "far/original"], scratch.root())?;
        Ok(format!(
            "unpacked {} here, and they are the same on both sides",
            counted(TAR_FILES as u64, "file")
        ))
    })?;

    teller.step("measure", || {
        let measured = measure::measure(here)?;
        Ok(format!(
            "{} written at {}/s, read back at {}/s; files of 4 KiB: {:.0} created, {:.0} looked at a second",
            bytes(measure::STREAM_BYTES as u64),
            bytes(measured.write_rate as u64),
            bytes(measured.read_rate as u64),
            measured.creates,
            measured.stats
        ))
    })?;

    teller.step("status", || {
        let status = scratch.stead_json(&["status"])?;
        let mount = &status["mounts"][0];
        let count = |name: &str| mount["counters"][name].as_u64().unwrap_or(0);
        expect(mount["status"]["state"] == "active", "the mount is not active any more")?;
        Ok(format!(
            "active; {} from the kernel, {} of them answered from memory; {} unsaved",
            counted(count("requests"), "request"),
            count("hits"),
            bytes(mount["journal"]["bytes"].as_u64().unwrap_or(0))
        ))
    })?;
    let table = scratch.stead(&["status", "--show", "mounts"])?;
    if !teller.context.output.is_json() {
        table.lines().try_for_each(|line| teller.context.output.line(format_args!("          {line}")))?;
    }
    Ok(())
}

fn make_tree(root: &Path) -> Result<()> {
    for index in 0..TAR_FILES {
        let directory = root.join(format!("d{}", index % 10));
        std::fs::create_dir_all(&directory)
            .map_err(|error| Error::io("could not make a directory", &error))?;
        write(&directory.join(format!("f{index}")), format!("{index}\n").repeat(index * 7).as_bytes())?;
    }
    Ok(())
}

fn write(path: &Path, content: &[u8]) -> Result<()> {
    std::fs::write(path, content)
        .map_err(|error| Error::io(format_args!("could not write `{}`", path.display()), &error))
}

fn expect(holds: bool, otherwise: &str) -> Result<()> {
    match holds {
        true => Ok(()),
        false => Err(Error::new(ErrorKind::Failure, otherwise)),
    }
}

fn shown(time: Duration) -> String {
    format!("{} ms", time.as_millis())
}
