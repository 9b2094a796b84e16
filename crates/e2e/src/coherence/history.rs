//! What each name and each file was, from when to when.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::eyes::Sort;
use super::{BOUND, WORD_WITHIN};

/// States that ended longer ago than this are forgotten: no look takes as long.
const KEPT: Duration = Duration::from_secs(60);

/// From so many on it is looked whether some can be forgotten.
const SPANS_MANY: usize = 64;

/// A file, whatever it is called.
pub type FileNumber = u32;

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Named {
    Nothing,
    Directory,
    File(FileNumber),
}

/// How a file is. Each content has a number of its own, later ones greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Filed {
    pub content: u32,
    pub blocks: u32,
    /// To how many it was cut on the way to this, at the least; `blocks` if it was not.
    pub least: u32,
    pub mode: u32,
}

/// A state, and when it may have been seen: from the begin of the step that made it to the end of the one that ended it.
#[derive(Debug, Clone)]
struct Span<S> {
    state: S,
    number: u64,
    since: Instant,
    until: Option<Instant>,
}

/// What something was, one state after the other.
#[derive(Debug, Clone)]
pub struct Line<S> {
    spans: Vec<Span<S>>,
    next: u64,
    /// When, and by which sort of look, which state was seen: nothing before it is to be seen by looks that begin
    /// [`WORD_WITHIN`] later.
    seen: HashMap<Sort, Vec<(Instant, u64)>>,
}

impl<S: Copy + PartialEq> Line<S> {
    fn new(state: S, since: Instant) -> Line<S> {
        Line { spans: vec![Span { state, number: 0, since, until: None }], next: 1, seen: HashMap::new() }
    }

    /// The state from now on, perhaps; the one before may still be seen until [`Line::end`].
    fn begin(&mut self, state: S, now: Instant) {
        self.spans.push(Span { state, number: self.next, since: now, until: None });
        self.next += 1;
        if self.spans.len() >= SPANS_MANY {
            self.spans.retain(|span| span.until.is_none_or(|until| until + KEPT > now));
        }
    }

    /// The last state is the only one from now on.
    fn end(&mut self, now: Instant) {
        if let Some((_, before)) = self.spans.split_last_mut() {
            before.iter_mut().filter(|span| span.until.is_none()).for_each(|span| span.until = Some(now));
        }
    }

    pub fn now(&self) -> S {
        self.spans.last().expect("a line has a state from its begin on").state
    }

    /// Since when it is what it is.
    pub fn since(&self) -> Instant {
        self.spans.last().expect("a line has a state from its begin on").since
    }

    /// The number of the state that it has now.
    pub fn number(&self) -> u64 {
        self.next - 1
    }

    /// Whether it has been this and perhaps was not any more at that time: the change that ended it had begun.
    pub fn ended_before(&self, state: S, at: Instant) -> bool {
        self.spans.windows(2).any(|spans| spans[0].state == state && spans[1].since <= at)
    }

    /// What a look of this sort, from `from` to `to`, may have seen, with the numbers of the states.
    pub fn visible(&self, sort: Sort, from: Instant, to: Instant) -> Vec<(u64, S)> {
        self.visible_since(sort, from.checked_sub(BOUND).unwrap_or(from), (from, to))
    }

    /// As [`Line::visible`], where nothing is seen that had ended before `oldest`.
    pub fn visible_since(
        &self,
        sort: Sort,
        oldest: Instant,
        (from, to): (Instant, Instant),
    ) -> Vec<(u64, S)> {
        let seen = self.seen.get(&sort).into_iter().flatten();
        let least =
            seen.filter(|(at, _)| *at + WORD_WITHIN <= from).map(|(_, number)| *number).max().unwrap_or(0);
        let spans = self.spans.iter();
        spans
            .filter(|span| {
                span.number >= least && span.since <= to && span.until.is_none_or(|until| until >= oldest)
            })
            .map(|span| (span.number, span.state))
            .collect()
    }

    /// A look that has ended at `at` has seen the state with this number.
    pub fn has_been_seen(&mut self, sort: Sort, number: u64, at: Instant) {
        let seen = self.seen.entry(sort).or_default();
        if seen.last().is_none_or(|(_, last)| *last < number) {
            seen.retain(|(when, _)| *when + KEPT > at);
            seen.push((at, number));
        }
    }

    /// How long ago its states ended, for the reader of a failure.
    fn shown(&self, now: Instant) -> String
    where
        S: std::fmt::Debug,
    {
        let ago = |when: Instant| now.saturating_duration_since(when).as_millis();
        let spans = self.spans.iter().rev().take(6);
        let words = spans.map(|span| {
            let until = span.until.map_or_else(|| "now".to_owned(), |until| format!("{} ms ago", ago(until)));
            format!("  {}: {:?} from {} ms ago until {until}", span.number, span.state, ago(span.since))
        });
        words.collect::<Vec<_>>().join("\n")
    }
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct History {
    names: HashMap<String, Line<Named>>,
    files: HashMap<FileNumber, Line<Filed>>,
}

/// What a step changes.
#[derive(Debug, Clone, Default)]
pub struct Change {
    pub names: Vec<(String, Named)>,
    /// Files whose states change. One that is new is empty until it is something else.
    pub files: Vec<(FileNumber, Filed)>,
    /// New files that are whole before they get a name.
    pub whole: Vec<(FileNumber, Filed)>,
}

impl History {
    /// Takes in the name, which stands for this from the start.
    pub fn add_name(&mut self, name: &str, state: Named) {
        self.names.insert(name.to_owned(), Line::new(state, Instant::now()));
    }

    pub fn name(&self, name: &str) -> &Line<Named> {
        &self.names[name]
    }

    /// All names that there can be.
    pub fn names(&self) -> impl Iterator<Item = (&String, &Line<Named>)> {
        self.names.iter()
    }

    pub fn name_mut(&mut self, name: &str) -> &mut Line<Named> {
        self.names.get_mut(name).expect("all names that are looked at are known")
    }

    pub fn file(&self, number: FileNumber) -> Option<&Line<Filed>> {
        self.files.get(&number)
    }

    pub fn file_mut(&mut self, number: FileNumber) -> Option<&mut Line<Filed>> {
        self.files.get_mut(&number)
    }

    /// A change begins: what it makes may be seen.
    pub fn begin(&mut self, change: &Change) {
        let now = Instant::now();
        for (name, state) in &change.names {
            self.name_mut(name).begin(*state, now);
        }
        for (number, state) in &change.files {
            let empty = Filed { content: 0, blocks: 0, least: 0, mode: state.mode };
            self.files.entry(*number).or_insert_with(|| Line::new(empty, now)).begin(*state, now);
        }
        for (number, state) in &change.whole {
            self.files.insert(*number, Line::new(*state, now));
        }
    }

    /// The change is made: what was before is so no more.
    pub fn end(&mut self, change: &Change) {
        let now = Instant::now();
        for (name, _) in &change.names {
            self.name_mut(name).end(now);
        }
        for (number, _) in &change.files {
            self.files.get_mut(number).expect("it has begun").end(now);
        }
    }

    /// What there was of a name and of the files that it stood for, for the reader of a failure.
    pub fn shown(&self, name: &str) -> String {
        let now = Instant::now();
        let line = self.name(name);
        let mut text = format!("{name} was\n{}", line.shown(now));
        let mut files: Vec<FileNumber> = line
            .spans
            .iter()
            .filter_map(|span| if let Named::File(number) = span.state { Some(number) } else { None })
            .collect();
        files.dedup();
        for number in files.into_iter().rev().take(3) {
            text += "\n";
            text += &self.shown_file(number);
        }
        text
    }

    /// What there was of a file, for the reader of a failure.
    pub fn shown_file(&self, number: FileNumber) -> String {
        let shown = self.files.get(&number).map_or_else(String::new, |line| line.shown(Instant::now()));
        format!("file {number} was\n{shown}")
    }
}
