//! What the kernel has asked, counted.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::Counts;
use crate::fuse::request::{Header, OperationName};

/// One more than the highest number of an operation that is counted by itself.
const OPERATIONS_MAX: usize = 64;

/// Counts that only grow.
#[derive(Debug)]
pub struct Tally {
    all: Counts,
    by_number: [AtomicU64; OPERATIONS_MAX],
}

impl Default for Tally {
    fn default() -> Tally {
        Tally { all: Counts::default(), by_number: std::array::from_fn(|_| AtomicU64::new(0)) }
    }
}

impl Tally {
    /// All requests together.
    pub fn all(&self) -> &Counts {
        &self.all
    }

    /// How many requests of each operation were taken, of those that there were.
    pub fn operations(&self) -> BTreeMap<String, u64> {
        let counted = self.by_number.iter().zip(0..).filter_map(|(count, number)| {
            let count = count.load(Ordering::Relaxed);
            (count > 0).then(|| (OperationName::of(number).to_string(), count))
        });
        counted.collect()
    }

    /// A request was read. One without an answer waits for nothing.
    pub(crate) fn take(&self, header: &Header) {
        self.all.request();
        if !header.expects_reply() {
            self.all.hit();
        }
        if let Some(count) = self.by_number.get(header.opcode as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A request that cannot be read.
    pub(crate) fn take_unknown(&self) {
        self.all.request();
    }

    /// A request was answered without waiting for anything.
    pub(crate) fn answered_at_once(&self) {
        self.all.hit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuse::abi::Opcode;

    #[test]
    fn requests_are_counted_by_operation_and_what_is_not_answered_is_not_waited_for() {
        let tally = Tally::default();
        let header =
            |opcode| Header { unique: 1, resent: false, opcode, node: 1, uid: 0, gid: 0, pid: 0, own: None };
        let taken = [Opcode::Lookup, Opcode::Forget, Opcode::Lookup, Opcode::BatchForget];
        taken.into_iter().for_each(|opcode| tally.take(&header(opcode as u32)));
        tally.take(&header(u32::MAX));
        tally.answered_at_once();
        let counted = [("BatchForget", 1), ("Forget", 1), ("Lookup", 2)];
        assert_eq!(tally.operations(), counted.map(|(name, count)| (name.to_owned(), count)).into());
        assert_eq!((tally.all().requests(), tally.all().hits()), (5, 3));
    }
}
