//! What is seen here of changes that others make on the machine, against a model of what may be seen.
//!
//! ```text
//!  seed ──► hand: random steps on the machine ──► history: what each name and each file was, from when to when
//!                                                     │
//!           eyes: look at the mount, all is cached ───┴──► was that so, at most BOUND ago? has nobody seen a later state?
//! ```
//!
//! The model is close-to-open with leases:
//!
//! - What is seen was so at some moment between [`BOUND`] before the look and its end: never older, never something that
//!   was not there. Of a file that changes meanwhile, each block is of one of the contents that it had in that time, or zeros
//!   if it is behind an end that the file was cut to in that time: a kernel that is told of a change while it reads fills its
//!   pages up to the end that it knew. So does a local disk: with ext4, one of thirteen reads of a megabyte shows zeros up to the
//!   old end when another process cuts the file meanwhile.
//! - When anybody has seen a state, no look of the same sort that begins [`WORD_WITHIN`] after that sees an earlier one.
//!   Until then one may: a lease is a promise to tell, and the machine changes without waiting for those who are told.
//! - Where asking the machine costs little, a file that was changed in place is read as it is by whoever opens it after
//!   that, and at once: also by others that look at it at the same time, and by descriptors that stay open, which show
//!   nothing that was over when they were opened.
//!
//! Meanwhile another program works through the mount, in the same directories, with names of its own: its changes are not
//! to hide those of others, and it is to see its own at once. At the end the mount shows what the machine has.

mod eyes;
mod hand;
mod history;
mod own;

use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::faults::dice::Dice;
use crate::faults::field::Field;
use crate::tree::{Compare, differences};
use crate::wait::holds_within;
use crate::{Kind, Program};

use history::History;

/// For how long what is not told of may be believed at most, as `docs/semantics.md` says it.
const LEASE: Duration = Duration::from_secs(1);

/// How long processes may wait for a processor on a computer that does much else.
const SCHEDULED_WITHIN: Duration = Duration::from_secs(1);

/// Nothing older than this is seen.
pub const BOUND: Duration = LEASE.saturating_add(SCHEDULED_WITHIN);

/// For how long what one look has shown says nothing of the next. An answer of the machine reaches whoever asked at once,
/// and the word of the change reaches the mount and the kernel, which answers others meanwhile, when three processes have
/// come to run; the name of a directory is taken back a second time 300 ms later.
pub const WORD_WITHIN: Duration = Duration::from_millis(500);

/// How long a mount may take to find out that its machine is near, on a computer that does much else.
const MEASURED_WITHIN: Duration = Duration::from_secs(30);

/// The distance of a mount that is far away.
const FAR: Duration = Duration::from_millis(20);

/// Threads that look.
const EYES: usize = 3;

/// Where the machine is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Where {
    /// Here.
    Host,
    /// Over ssh on the same computer.
    Ssh,
    /// Over ssh, 20 ms away.
    Far,
}

impl Where {
    pub const ALL: [Where; 3] = [Where::Host, Where::Ssh, Where::Far];

    pub fn name(self) -> &'static str {
        match self {
            Where::Host => "host",
            Where::Ssh => "ssh",
            Where::Far => "far",
        }
    }
}

/// What a run is made from.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    pub place: Where,
    pub seed: u64,
    /// Changes on the machine, at the most.
    pub steps: u64,
    /// It ends after so long, too.
    pub time_max: Duration,
}

/// What a run has shown.
pub struct Report {
    /// Changes made on the machine.
    pub steps: u64,
    /// Looks that were judged.
    pub looks: u64,
    /// Whether opening a file asked the machine.
    pub is_near: bool,
    /// How long it took until a change was seen, the shortest first, for each sort of look.
    pub seen_after: Vec<(&'static str, Vec<Duration>)>,
    pub took: Duration,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.took.as_secs_f64();
        let distance = if self.is_near { "near" } else { "far" };
        let Report { steps, looks, .. } = self;
        write!(f, "{steps} steps and {looks} looks in {seconds:.1} s, {distance}, nothing stale")?;
        for (sort, times) in &self.seen_after {
            let at = |share: usize| {
                let at = (times.len() * share / 100).min(times.len().saturating_sub(1));
                times.get(at).map_or(0.0, |time| time.as_secs_f64() * 1e3)
            };
            write!(
                f,
                "\n  seen by {sort:<14} {:>5} changes, after ms: p50 {:.1}, p99 {:.1}, at most {:.1}",
                times.len(),
                at(50),
                at(99),
                at(100)
            )?;
        }
        Ok(())
    }
}

/// What all threads of a run share.
struct Scene<'a> {
    field: &'a Field,
    /// The mount.
    dir: &'a Path,
    /// The same directory on the machine.
    far: &'a Path,
    is_near: bool,
    history: Mutex<History>,
    looks: AtomicU64,
    over: AtomicBool,
    wrong: Mutex<Option<String>>,
}

impl Scene<'_> {
    fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    /// Ends the run. The first who says so is heard.
    fn fail(&self, what: String) {
        self.wrong.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(what);
        self.over.store(true, Ordering::Release);
    }
}

/// Runs it. Panics with what was seen that could not be, the seed and the step.
#[track_caller]
pub fn run(plan: &Plan) -> Report {
    let kind = if plan.place == Where::Host { Kind::Host } else { Kind::Ssh };
    let rtt = if plan.place == Where::Far { FAR } else { Duration::ZERO };
    let field = Field::at_distance(kind, rtt, &[]);
    // What is promised hangs on how long the machine takes to answer, and on a busy computer nothing is near.
    let is_near =
        holds_within(if plan.place == Where::Far { Duration::ZERO } else { MEASURED_WITHIN }, || {
            field.says("is_near=true")
        });
    let scene = Scene {
        field: &field,
        dir: &field.dir,
        far: &field.far,
        is_near,
        history: Mutex::new(History::default()),
        looks: AtomicU64::new(0),
        over: AtomicBool::new(false),
        wrong: Mutex::new(None),
    };
    let began = Instant::now();
    let mut hand = hand::Hand::new(&scene, Dice::named(plan.seed, "hand"));
    hand.set_up();
    know(&field.dir);
    let (steps, seen_after) = std::thread::scope(|scope| {
        for number in 0..EYES {
            let dice = Dice::named(plan.seed, &format!("eye{number}"));
            let scene = &scene;
            scope.spawn(move || eyes::Eye::new(scene, dice).look_around());
        }
        scope.spawn(|| own::work(&scene, Dice::named(plan.seed, "own")));
        let worked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            while hand.steps() < plan.steps && began.elapsed() < plan.time_max && !scene.is_over() {
                hand.work();
            }
        }));
        scene.over.store(true, Ordering::Release);
        worked.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        hand.into_report()
    });
    if let Some(wrong) = scene.wrong.lock().unwrap_or_else(PoisonError::into_inner).take() {
        panic!("seed {} on {}, after {steps} steps: {wrong}", plan.seed, plan.place.name());
    }
    let mut left = Vec::new();
    let is_same = holds_within(BOUND, || {
        left = differences(&field.dir, &field.far, Compare { owners: false, ..Compare::ALL });
        left.is_empty()
    });
    assert!(is_same, "seed {}: {BOUND:?} after the last step:\n{}", plan.seed, left.join("\n"));
    let looks = scene.looks.load(Ordering::Relaxed);
    let report = Report { steps, looks, is_near, seen_after, took: began.elapsed() };
    field.leaves_nothing();
    report
}

/// Has everything cached: names, attributes, contents.
fn know(dir: &Path) {
    Program::new("find").arg(dir).args(["-type", "f", "-printf", "%s", "-exec", "cat", "{}", "+"]).ok();
}
