//! The order of requests that name the same open file.
//!
//! Requests that only read may run together; any other runs alone. Each runs after those that arrived before it and
//! with which it may not run together.

use std::collections::{HashMap, VecDeque};
use std::sync::Mutex;

use wire::agent::HandleId;
use wire::agent::file::{FileRequest, Target};

use crate::sync::lock;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Shared,
    Alone,
}

/// The open files that a request names.
pub(crate) type Pass = [Option<(HandleId, Access)>; 2];

/// What each open file lets through. A file that nothing is asked of takes no space.
pub(crate) struct Gates<J> {
    state: Mutex<State<J>>,
}

struct State<J> {
    gates: HashMap<HandleId, Gate>,
    waiting: HashMap<u64, Waiting<J>>,
    next_ticket: u64,
}

#[derive(Default)]
struct Gate {
    shared: usize,
    alone: bool,
    queue: VecDeque<(u64, Access)>,
}

struct Waiting<J> {
    job: J,
    pass: Pass,
    /// How many gates have not let it in yet.
    closed_gates: usize,
}

impl Gate {
    fn admit(&mut self, access: Access) -> bool {
        match access {
            _ if self.alone => return false,
            Access::Shared => self.shared += 1,
            Access::Alone if self.shared > 0 => return false,
            Access::Alone => self.alone = true,
        }
        true
    }

    fn release(&mut self, access: Access) {
        match access {
            Access::Shared => self.shared = self.shared.saturating_sub(1),
            Access::Alone => self.alone = false,
        }
    }

    fn is_idle(&self) -> bool {
        self.shared == 0 && !self.alone && self.queue.is_empty()
    }
}

impl<J> Gates<J> {
    pub fn new() -> Gates<J> {
        Gates { state: Mutex::new(State { gates: HashMap::new(), waiting: HashMap::new(), next_ticket: 0 }) }
    }

    /// Gives the job back if it may run now; otherwise keeps it until [`Gates::leave`] gives it back.
    pub fn enter(&self, pass: &Pass, job: J) -> Option<J> {
        if pass[0].is_none() {
            return Some(job);
        }
        let state = &mut *lock(&self.state);
        let ticket = state.next_ticket;
        let mut closed_gates = 0;
        for (handle, access) in pass.iter().flatten() {
            let gate = state.gates.entry(*handle).or_default();
            if gate.queue.is_empty() && gate.admit(*access) {
                continue;
            }
            gate.queue.push_back((ticket, *access));
            closed_gates += 1;
        }
        if closed_gates == 0 {
            return Some(job);
        }
        state.next_ticket += 1;
        state.waiting.insert(ticket, Waiting { job, pass: *pass, closed_gates });
        None
    }

    /// Lets go of what a job had entered with, and gives back the jobs that may run now.
    pub fn leave(&self, pass: &Pass) -> Vec<J> {
        let mut ready = Vec::new();
        if pass[0].is_none() {
            return ready;
        }
        let state = &mut *lock(&self.state);
        for (handle, access) in pass.iter().flatten() {
            if let Some(gate) = state.gates.get_mut(handle) {
                gate.release(*access);
            }
            state.advance(handle, &mut ready);
        }
        ready
    }

    /// Takes out the waiting jobs that are not wanted any more. Gives them back, and those that may run now.
    pub fn withdraw(&self, unwanted: impl Fn(&J) -> bool) -> (Vec<J>, Vec<J>) {
        let (mut withdrawn, mut ready) = (Vec::new(), Vec::new());
        let state = &mut *lock(&self.state);
        let waiting = &mut state.waiting;
        let tickets: Vec<u64> = waiting.iter().filter(|(_, w)| unwanted(&w.job)).map(|(t, _)| *t).collect();
        let mut passes = Vec::new();
        for ticket in tickets {
            let Some(entry) = state.waiting.remove(&ticket) else { continue };
            withdrawn.push(entry.job);
            passes.push(entry.pass);
            for (handle, access) in entry.pass.iter().flatten() {
                let Some(gate) = state.gates.get_mut(handle) else { continue };
                match gate.queue.iter().position(|(queued, _)| *queued == ticket) {
                    Some(at) => drop(gate.queue.remove(at)),
                    // This gate had let it in already.
                    None => gate.release(*access),
                }
            }
        }
        passes.iter().flatten().flatten().for_each(|(handle, _)| state.advance(handle, &mut ready));
        (withdrawn, ready)
    }
}

impl<J> State<J> {
    /// Lets in who may go through a gate now.
    fn advance(&mut self, handle: &HandleId, ready: &mut Vec<J>) {
        let Some(gate) = self.gates.get_mut(handle) else {
            return;
        };
        while let Some((ticket, access)) = gate.queue.front().copied() {
            if !gate.admit(access) {
                break;
            }
            gate.queue.pop_front();
            ready.extend(admitted(&mut self.waiting, ticket));
        }
        if gate.is_idle() {
            self.gates.remove(handle);
        }
    }
}

/// Counts one gate less for a waiting job, and takes it out when that was the last.
fn admitted<J>(waiting: &mut HashMap<u64, Waiting<J>>, ticket: u64) -> Option<J> {
    let entry = waiting.get_mut(&ticket)?;
    entry.closed_gates -= 1;
    if entry.closed_gates > 0 {
        return None;
    }
    waiting.remove(&ticket).map(|entry| entry.job)
}

/// Which open files a request names, and whether it only reads them.
pub(crate) fn pass_of(request: &FileRequest) -> Pass {
    use FileRequest as F;
    let target = |target: &Target, access| match target {
        Target::Handle(handle) => [Some((*handle, access)), None],
        Target::Place(_) => [None, None],
    };
    match request {
        F::Stat { target: t } | F::GetXattr { target: t, .. } | F::ListXattrs { target: t } => {
            target(t, Access::Shared)
        }
        F::SetAttributes { target: t, .. }
        | F::Link { target: t, .. }
        | F::Sync { target: t, .. }
        | F::SetXattr { target: t, .. }
        | F::RemoveXattr { target: t, .. } => target(t, Access::Alone),
        F::Read { handle, .. }
        | F::Seek { handle, .. }
        | F::Digest { handle, .. }
        | F::TestLock { handle, .. } => [Some((*handle, Access::Shared)), None],
        F::Open { handle, .. }
        | F::Create { handle, .. }
        | F::CreateUnnamed { handle, .. }
        | F::Write { handle, .. }
        | F::Close { handle }
        | F::Allocate { handle, .. }
        | F::Lock { handle, .. }
        | F::ReleaseLocks { handle, .. } => [Some((*handle, Access::Alone)), None],
        F::CopyRange { from, to, .. } if from == to => [Some((*to, Access::Alone)), None],
        F::CopyRange { from, to, .. } => [Some((*from, Access::Shared)), Some((*to, Access::Alone))],
        F::Attach { .. }
        | F::Locate { .. }
        | F::Lookup { .. }
        | F::ReadLink { .. }
        | F::Symlink { .. }
        | F::MakeNode { .. }
        | F::MakeDirectory { .. }
        | F::Unlink { .. }
        | F::RemoveDirectory { .. }
        | F::Rename { .. }
        | F::Put { .. }
        | F::PutMany { .. }
        | F::GetMany { .. }
        | F::Space { .. }
        | F::List { .. }
        | F::Walk { .. }
        | F::Search { .. }
        | F::RemoveTree { .. }
        | F::Find { .. }
        | F::Watch { .. } => [None, None],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: HandleId = HandleId(1);
    const B: HandleId = HandleId(2);
    const READ_A: Pass = [Some((A, Access::Shared)), None];
    const WRITE_A: Pass = [Some((A, Access::Alone)), None];
    const WRITE_B: Pass = [Some((B, Access::Alone)), None];
    const COPY_A_TO_B: Pass = [Some((A, Access::Shared)), Some((B, Access::Alone))];

    #[test]
    fn readers_run_together_and_a_writer_waits_for_them() {
        let gates = Gates::new();
        assert_eq!(gates.enter(&READ_A, 1), Some(1));
        assert_eq!(gates.enter(&READ_A, 2), Some(2));
        assert_eq!(gates.enter(&WRITE_A, 3), None);
        assert!(gates.leave(&READ_A).is_empty());
        assert_eq!(gates.leave(&READ_A), vec![3]);
    }

    #[test]
    fn a_reader_does_not_overtake_a_waiting_writer() {
        let gates = Gates::new();
        assert_eq!(gates.enter(&WRITE_A, 1), Some(1));
        assert_eq!(gates.enter(&WRITE_A, 2), None);
        assert_eq!(gates.enter(&READ_A, 3), None);
        assert_eq!(gates.enter(&READ_A, 4), None);
        assert_eq!(gates.leave(&WRITE_A), vec![2]);
        assert_eq!(gates.leave(&WRITE_A), vec![3, 4]);
    }

    #[test]
    fn a_copy_waits_for_both_files_and_holds_both() {
        let gates = Gates::new();
        assert_eq!(gates.enter(&WRITE_A, 1), Some(1));
        assert_eq!(gates.enter(&WRITE_B, 2), Some(2));
        assert_eq!(gates.enter(&COPY_A_TO_B, 3), None);
        assert_eq!(gates.enter(&WRITE_B, 4), None);
        assert!(gates.leave(&WRITE_B).is_empty());
        assert_eq!(gates.leave(&WRITE_A), vec![3]);
        assert_eq!(gates.leave(&COPY_A_TO_B), vec![4]);
    }

    #[test]
    fn who_waits_behind_a_withdrawn_job_goes_on() {
        let gates = Gates::new();
        assert_eq!(gates.enter(&READ_A, 1), Some(1));
        assert_eq!(gates.enter(&WRITE_B, 2), Some(2));
        assert_eq!(gates.enter(&WRITE_A, 3), None);
        assert_eq!(gates.enter(&COPY_A_TO_B, 4), None);
        assert_eq!(gates.enter(&READ_A, 5), None);
        assert_eq!(gates.withdraw(|job| *job == 3), (vec![3], vec![5]));
        assert_eq!(gates.withdraw(|job| *job == 4), (vec![4], vec![]));
        gates.leave(&READ_A);
        gates.leave(&READ_A);
        gates.leave(&WRITE_B);
        assert!(lock(&gates.state).gates.is_empty() && lock(&gates.state).waiting.is_empty());
    }

    #[test]
    fn nothing_is_kept_for_a_file_that_nothing_is_asked_of() {
        let gates = Gates::new();
        gates.enter(&WRITE_A, 1);
        gates.enter(&READ_A, 2);
        gates.leave(&WRITE_A);
        gates.leave(&READ_A);
        assert!(lock(&gates.state).gates.is_empty() && lock(&gates.state).waiting.is_empty());
    }
}
