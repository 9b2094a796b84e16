//! Faults at random moments, and whether anything came of them.
//!
//! ```text
//!            ┌── local disk: the expected tree
//!  seed ─────┤
//!            └── mount: the same workload, again and again ──► no error, the same tree, nothing left
//!                  ▲
//!                  └── faults: which, when, how long
//! ```
//!
//! The workload ([`job`]) is real processes with a known result. A fault ([`fault::Sort`]) is a real kill, stop or cut.
//! A seed decides what the workload writes, which faults come, after which pause and how long they last; what the
//! computer does meanwhile is its own affair, so a seed finds the same neighbourhood again, not the same instruction.
//!
//! What must hold: no process of the workload sees an error; what it leaves is on the machine byte for byte what it
//! leaves on a local disk; nothing was applied twice, nothing acknowledged is missing; and when it is over no process,
//! descriptor, socket or file is left.

pub mod crew;
pub mod dice;
pub mod fault;
pub mod field;
pub mod job;
pub mod role;

use std::fmt::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use crew::{Crew, Ground};
use dice::Dice;
use fault::{Fault, Sort};
use field::Field;
use job::{JOBS, Job};
use role::Role;

use crate::tree::{Compare, differences};
use crate::wait::{eventually, holds_within, pause};
use crate::{Kind, Program};

/// How long the workload may take from the last fault on. It is a few seconds' work.
const AFTER_LAST_FAULT_MAX: Duration = Duration::from_secs(120);

/// The local run has no faults to wait for.
const LOCAL_MAX: Duration = Duration::from_secs(300);

/// Most pauses between two faults lie within these.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(500));

/// After an outage the workload gets up to this part of it on top, or a run of long ones would be all outage and no work.
const WORK_AFTER_OUTAGE: u32 = 4;

/// One fault in so many comes right after the one before, so that recovery itself is struck too.
const HASTE_ONE_IN: u64 = 8;
const HASTE_MAX: Duration = Duration::from_millis(30);

/// A worker that dies so often in a row before it has done anything is a crash loop, which ends a mount by design.
const HASTE_IN_A_ROW_MAX: u32 = 2;

/// Outages in a row that the mount is not given the time to recover from. Programs are promised an answer for a minute, and
/// it is tried more and more rarely whether the machine is back: the next time comes within that minute.
const OUTAGES_MAX: Duration = Duration::from_secs(20);

/// How long a login lives before it is struck, but for hasty faults. One after the other that ends before it is of any use is
/// an outage of which nobody knows the end: it is made again more and more rarely.
const LOGIN_LIFE: Duration = Duration::from_secs(6);

/// How long a mount may take to be itself again.
const RECOVERED_MAX: Duration = Duration::from_secs(60);

/// Everything that the trees have in common; times and owners are chance's.
pub const COMPARED: Compare = Compare { owners: false, times: false, xattrs: true };

/// A run.
pub struct Plan {
    pub kind: Kind,
    pub seed: u64,
    /// Sorts of faults to choose from. None: the workload alone.
    pub sorts: Vec<Sort>,
    /// The run ends after so many.
    pub faults_max: u32,
    /// It ends after so long too.
    pub time_max: Duration,
    pub outage_max: Duration,
    /// Added to the round trips of a mount over SSH.
    pub rtt: Duration,
    /// Jobs of the workload.
    pub jobs: Vec<&'static Job>,
    /// How many times as long as the smallest workload each pass is.
    pub scale: u32,
    /// Whether each fault is printed as it comes.
    pub is_told: bool,
}

impl Plan {
    /// A short run of all jobs.
    pub fn new(kind: Kind, seed: u64, sorts: &[Sort], faults: u32) -> Plan {
        Plan {
            kind,
            seed,
            sorts: sorts.to_vec(),
            faults_max: faults,
            time_max: Duration::from_secs(600),
            outage_max: Duration::from_secs(2),
            rtt: Duration::ZERO,
            jobs: JOBS.iter().collect(),
            scale: 1,
            is_told: false,
        }
    }

    fn agent_may_die(&self) -> bool {
        self.sorts.contains(&Sort::Kill(Role::Agent))
    }
}

/// What a run did.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// What was struck, in order.
    pub struck: Vec<String>,
    pub passes: u32,
    pub took: Duration,
}

/// Carries out a run. Panics with the seed, the faults and what came of them, unless nothing did.
#[track_caller]
pub fn run(plan: &Plan) -> Report {
    let began = Instant::now();
    let scratch = tempfile::Builder::new().prefix("faults").tempdir().expect("creating a scratch directory");
    let expected = scratch.path().join("expected");
    run_locally(plan, scratch.path(), &expected);
    let mut field = Field::at_distance(plan.kind, plan.rtt, &[]);
    let began_with = field.descriptors();
    let mut run = Run {
        plan,
        dice: Dice::named(plan.seed, "faults"),
        began,
        report: Report::default(),
        hasty: 0,
        outages: Duration::ZERO,
        last_outage: Duration::ZERO,
    };
    // What strikes may panic too, when nobody takes a role again; the seed must be told then as well.
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        while run.goes_on() {
            run.pass(&mut field, scratch.path(), &expected);
        }
        field.comes_to_rest(&began_with);
    }));
    if let Err(panic) = outcome {
        run.tell();
        field.give_up();
        std::panic::resume_unwind(panic);
    }
    field.leaves_nothing();
    run.report.took = began.elapsed();
    run.report
}

struct Run<'a> {
    plan: &'a Plan,
    dice: Dice,
    began: Instant,
    report: Report,
    /// Faults in a row that came right after the one before.
    hasty: u32,
    /// How long the mount has been kept away, in all, since it was last seen to be itself.
    outages: Duration,
    last_outage: Duration,
}

impl Run<'_> {
    /// Whether there is to be another pass. There is always one.
    fn goes_on(&self) -> bool {
        self.report.passes == 0 || (!self.plan.sorts.is_empty() && self.may_strike())
    }

    fn may_strike(&self) -> bool {
        let struck = u32::try_from(self.report.struck.len()).unwrap_or(u32::MAX);
        !self.plan.sorts.is_empty()
            && struck < self.plan.faults_max
            && self.began.elapsed() < self.plan.time_max
    }

    /// Runs the workload once while faults come.
    fn pass(&mut self, field: &mut Field, scratch: &Path, expected: &Path) {
        let name = format!("pass{}", self.report.passes);
        let ground = Ground {
            agent_may_die: self.plan.agent_may_die(),
            dir: field.dir.join(&name),
            far: field.far.join(&name),
            notes: scratch.join(&name),
        };
        let mut crew = Crew::start(&self.plan.jobs, &ground, self.plan.seed, self.plan.scale);
        while self.may_strike() {
            let fault = self.next_fault(field);
            if holds_within(self.next_pause(), || crew.is_done()) {
                break;
            }
            self.strike(&fault, field);
        }
        if !holds_within(AFTER_LAST_FAULT_MAX, || crew.is_done()) || !crew.complaints().is_empty() {
            let complaints = crew.complaints().join("\n");
            // Whoever still waits for the mount ends with it, and with the crew.
            field.give_up();
            panic!("the workload of pass {} came to harm:\n{complaints}", self.report.passes);
        }
        drop(crew);
        self.compare(&ground, expected);
        remove(&ground.dir);
        self.report.passes += 1;
    }

    /// Chooses what strikes next. Where it would keep the mount away for too long, lets it come back before: the pause
    /// until it strikes is then for the workload.
    fn next_fault(&mut self, field: &mut Field) -> Fault {
        let fault: Fault = self.dice.pick(&self.plan.sorts).roll(&mut self.dice, self.plan.outage_max);
        self.outages += fault.outage();
        if self.outages > OUTAGES_MAX && self.outages != fault.outage() {
            eventually(RECOVERED_MAX, "the mount is active between two outages", || field.is_active());
            self.outages = fault.outage();
        }
        fault
    }

    fn strike(&mut self, fault: &Fault, field: &mut Field) {
        let at = self.began.elapsed();
        let line = format!("{:>8.3} s  {fault}", at.as_secs_f64());
        if self.plan.is_told {
            eprintln!("{line}");
        }
        self.report.struck.push(line);
        match fault.sort {
            _ if self.hasty > 0 => {}
            Sort::Kill(Role::Worker) | Sort::Abort => field.answers(),
            Sort::Kill(Role::Master) => {
                eventually(RECOVERED_MAX, "the mount is active again", || field.is_active());
                pause(LOGIN_LIFE);
            }
            _ => {}
        }
        self.last_outage = fault.outage();
        fault.strike(field);
    }

    fn next_pause(&mut self) -> Duration {
        let is_hasty = self.dice.below(HASTE_ONE_IN) == 0 && self.hasty < HASTE_IN_A_ROW_MAX;
        self.hasty = if is_hasty { self.hasty + 1 } else { 0 };
        match is_hasty {
            true => self.dice.between(Duration::ZERO, HASTE_MAX),
            false => self.dice.between(PAUSE.0, PAUSE.1 + self.last_outage / WORK_AFTER_OUTAGE),
        }
    }

    /// The mount shows what the machine has, and the machine has what the local disk has.
    fn compare(&self, ground: &Ground, expected: &Path) {
        let shown = differences(&ground.dir, &ground.far, COMPARED);
        assert!(shown.is_empty(), "the mount and the machine differ:\n{}", shown.join("\n"));
        settle(&self.plan.jobs, &ground.far, &ground.notes);
        let found = differences(expected, &ground.far, COMPARED);
        assert!(found.is_empty(), "the local disk and the machine differ:\n{}", found.join("\n"));
    }

    fn tell(&self) {
        let Report { struck, passes, .. } = &self.report;
        let mut text = format!(
            "seed {} on {:?}, {} faults in {} whole passes; the last of them:\n",
            self.plan.seed,
            self.plan.kind,
            struck.len(),
            passes
        );
        /// Older ones have been survived.
        const SHOWN_MAX: usize = 30;
        for line in struck.iter().skip(struck.len().saturating_sub(SHOWN_MAX)) {
            // Writing to a string does not fail.
            let _written = writeln!(text, "{line}");
        }
        eprint!("{text}");
    }
}

/// Runs the workload on the local disk: what it leaves there is what is expected.
#[track_caller]
pub fn run_locally(plan: &Plan, scratch: &Path, expected: &Path) {
    let ground = Ground {
        agent_may_die: false,
        dir: expected.to_owned(),
        far: expected.to_owned(),
        notes: scratch.join("local"),
    };
    let mut crew = Crew::start(&plan.jobs, &ground, plan.seed, plan.scale);
    let is_done = holds_within(LOCAL_MAX, || crew.is_done());
    let complaints = crew.complaints();
    assert!(is_done && complaints.is_empty(), "on the local disk:\n{}", complaints.join("\n"));
    settle(&plan.jobs, expected, &ground.notes);
}

fn settle(jobs: &[&'static Job], tree: &Path, notes: &Path) {
    for job in jobs {
        (job.settle)(&tree.join(job.name), &notes.join(job.name));
    }
}

/// Through the mount, as a user does it.
fn remove(dir: &Path) {
    Program::new("rm").arg("-rf").arg(dir).deadline(AFTER_LAST_FAULT_MAX).ok();
    // What is gone here is gone.
    assert!(!dir.exists(), "{} is still there after it was removed", dir.display());
}
