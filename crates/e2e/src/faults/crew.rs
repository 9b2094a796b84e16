//! The processes of a workload.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process_group};

use super::dice::Dice;
use super::job::{END, Job, LASTING, Task};
use crate::leftovers;

/// How much of what a process said is shown when it failed.
const SHOWN_BYTES_MAX: usize = 6 << 10;

/// Where a workload runs and what is noted of it.
#[derive(Debug, Clone)]
pub struct Ground {
    /// Whether the process on the machine that has its files open may die.
    pub agent_may_die: bool,
    /// The directory on the mount.
    pub dir: PathBuf,
    /// The same directory on the machine.
    pub far: PathBuf,
    /// A directory outside of the mount.
    pub notes: PathBuf,
}

/// Processes at work. Dropping it kills them.
pub struct Crew {
    members: Vec<Member>,
    notes: PathBuf,
}

struct Member {
    job: &'static str,
    number: u32,
    child: Child,
    ended: Option<ExitStatus>,
    said: PathBuf,
}

impl Crew {
    /// Starts all `jobs`, `scale` times as long as the smallest run.
    pub fn start(jobs: &[&'static Job], ground: &Ground, seed: u64, scale: u32) -> Crew {
        let mut crew = Crew { members: Vec::new(), notes: ground.notes.clone() };
        for job in jobs {
            for path in [ground.dir.join(job.name), ground.notes.join(job.name)] {
                std::fs::create_dir_all(&path)
                    .unwrap_or_else(|error| panic!("creating {}: {error}", path.display()));
            }
            for number in 0..job.members {
                crew.members.push(start(job, number, ground, seed, scale));
            }
        }
        crew
    }

    /// Whether all have ended, or one has failed. What lasts is told to end when it is alone.
    pub fn is_done(&mut self) -> bool {
        for member in &mut self.members {
            if member.ended.is_none() {
                member.ended = member.child.try_wait().expect("asking for a child's status");
            }
        }
        let is_at_work = |member: &&Member| member.ended.is_none() && member.job != LASTING;
        if self.members.iter().filter(is_at_work).count() == 0 {
            let notes = self.notes.join(LASTING);
            if notes.is_dir() {
                std::fs::write(notes.join(END), "").expect("writing a note");
            }
        }
        let has_failed = |member: &Member| member.ended.is_some_and(|status| !status.success());
        self.members.iter().any(has_failed) || self.members.iter().all(|member| member.ended.is_some())
    }

    /// What went wrong, in words: who failed; when nobody did, who has not ended and where it waits.
    pub fn complaints(&self) -> Vec<String> {
        let failed: Vec<String> = self.members.iter().filter_map(Member::failure).collect();
        if !failed.is_empty() {
            return failed;
        }
        self.members.iter().filter_map(Member::hang).collect()
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        for member in self.members.iter_mut().filter(|member| member.ended.is_none()) {
            // What it has started is in its group. A member that waits for the mount ends with the mount.
            let _gone = kill_process_group(Pid::from_child(&member.child), Signal::KILL);
        }
    }
}

impl Member {
    fn failure(&self) -> Option<String> {
        let status = self.ended.filter(|status| !status.success())?;
        Some(format!("{} {} failed ({status}):\n{}", self.job, self.number, self.said()))
    }

    fn hang(&self) -> Option<String> {
        if self.ended.is_some() {
            return None;
        }
        let pid = Pid::from_child(&self.child).as_raw_pid();
        let all = [pid].into_iter().chain(leftovers::descendants_of(pid));
        let stacks: Vec<String> = all.map(leftovers::stacks_of).collect();
        let (job, number, said) = (self.job, self.number, self.said());
        Some(format!("{job} {number} has not ended; it waits in\n{}\n{said}", stacks.join("\n")))
    }

    fn said(&self) -> String {
        let bytes = std::fs::read(&self.said).unwrap_or_default();
        String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(SHOWN_BYTES_MAX)..]).into_owned()
    }
}

fn start(job: &Job, number: u32, ground: &Ground, seed: u64, scale: u32) -> Member {
    let said = ground.notes.join(format!("{}{number}.said", job.name));
    let output = File::create(&said).expect("creating a file for what a process says");
    let child = Command::new(soak_bin())
        .arg("job")
        .arg(job.name)
        .args([number, scale].map(|number| number.to_string()))
        .arg(seed.to_string())
        .arg(ground.agent_may_die.to_string())
        .args([&ground.dir, &ground.far, &ground.notes])
        .stdin(Stdio::null())
        .stdout(output.try_clone().expect("duplicating a descriptor"))
        .stderr(output)
        .process_group(0)
        .spawn()
        .unwrap_or_else(|error| panic!("starting {}: {error}", soak_bin().display()));
    Member { job: job.name, number, child, ended: None, said }
}

/// What a process that was started by [`Crew::start`] does. `arguments` are those after `job`.
pub fn work(arguments: &[String]) {
    let [name, number, scale, seed, agent_may_die, dir, far, notes] = arguments else {
        panic!("a job is started by the harness, with eight arguments");
    };
    let job = Job::named(name).unwrap_or_else(|| panic!("there is no job `{name}`"));
    let parse = |text: &String| text.parse::<u64>().unwrap_or_else(|error| panic!("`{text}`: {error}"));
    let member = u32::try_from(parse(number)).expect("a small number");
    let scale = u32::try_from(parse(scale)).expect("a small number");
    let of_job = |dir: &String| Path::new(dir).join(job.name);
    let mut task = Task {
        dir: of_job(dir),
        far: of_job(far),
        notes: of_job(notes),
        dice: Dice::named(parse(seed), &format!("{}{member}", job.name)),
        rounds: job.rounds * scale,
        member,
        members: job.members,
        agent_may_die: agent_may_die == "true",
    };
    (job.run)(&mut task);
}

/// The program of the harness: beside the running one, or beside the directory of a running test.
fn soak_bin() -> PathBuf {
    let own = std::env::current_exe().expect("a program knows where it is");
    let found = own.ancestors().skip(1).take(2).map(|dir| dir.join("soak")).find(|path| path.is_file());
    found.unwrap_or_else(|| panic!("no `soak` beside {}: cargo build -p e2e --bins", own.display()))
}
