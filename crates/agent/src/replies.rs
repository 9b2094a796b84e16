//! Replies to mutations, kept until the client has them.
//!
//! ```text
//!  queued ──begun──► running ──► answered ──acknowledged──► forgotten
//!     └─ its stream ends: forgotten, or the repeat's on the next stream
//! ```

use std::collections::BTreeMap;
use std::sync::Mutex;

use wire::agent::{Failure, REPLIES_KEPT_MAX, Reply, Sequence};

use crate::sync::lock;

/// A reply and its payload.
pub(crate) type Answer = Result<(Reply, Vec<u8>), Failure>;

/// Which stream of a session: they are counted from 1.
pub(crate) type StreamNumber = u64;

/// What is to be done with a mutation that has arrived.
#[expect(clippy::large_enum_variant, reason = "matched on at once, never kept")]
pub(crate) enum Admission {
    /// Carry it out.
    Fresh,
    /// It was carried out before, with this result.
    Answered(Answer),
    /// It is being carried out; the request is answered with the first one's result.
    Joined,
    /// The client has said that it had the reply, or has far too many outstanding.
    Refused(&'static str),
}

/// The replies; `W` is who waits for one that is not there yet.
pub(crate) struct Replies<W> {
    state: Mutex<State<W>>,
}

struct State<W> {
    kept: BTreeMap<Sequence, Kept<W>>,
    acknowledged: Sequence,
}

#[expect(clippy::large_enum_variant, reason = "nearly all are the large one")]
enum Kept<W> {
    /// Arrived on this stream, and not begun; these wait for it too.
    Queued(StreamNumber, Vec<W>),
    /// Being carried out; these wait for it too.
    Running(Vec<W>),
    Answered(Answer),
}

impl<W> Default for Replies<W> {
    fn default() -> Replies<W> {
        let state = State { kept: BTreeMap::new(), acknowledged: Sequence(0) };
        Replies { state: Mutex::new(state) }
    }
}

impl<W> Replies<W> {
    /// To be asked when a request has arrived on a stream. Sequence 0 is always fresh.
    pub fn admit(&self, sequence: Sequence, stream: StreamNumber, waiter: W) -> Admission {
        if sequence == Sequence(0) {
            return Admission::Fresh;
        }
        let state = &mut *lock(&self.state);
        if sequence <= state.acknowledged {
            return Admission::Refused("a mutation came again after its reply was acknowledged");
        }
        match state.kept.get_mut(&sequence) {
            Some(Kept::Answered(answer)) => return Admission::Answered(answer.clone()),
            // What an earlier stream has brought and nobody has begun is not carried out for that stream any more.
            Some(Kept::Queued(of, joined)) if *of < stream => {
                *of = stream;
                joined.clear();
                return Admission::Fresh;
            }
            // This is the earlier one: it is over, and nobody hears its answer.
            Some(Kept::Queued(of, _)) if *of > stream => return Admission::Joined,
            Some(Kept::Queued(_, joined) | Kept::Running(joined)) => {
                joined.push(waiter);
                return Admission::Joined;
            }
            None => {}
        }
        if state.kept.len() >= REPLIES_KEPT_MAX {
            return Admission::Refused("too many replies to mutations without acknowledgement");
        }
        state.kept.insert(sequence, Kept::Queued(stream, Vec::new()));
        Admission::Fresh
    }

    /// To be asked before a fresh request is carried out. `false`: it is not to be, because its stream is over.
    pub fn begin(&self, sequence: Sequence, stream: StreamNumber, is_over: bool) -> bool {
        if sequence == Sequence(0) {
            return !is_over;
        }
        let state = &mut *lock(&self.state);
        let Some(kept) = state.kept.get_mut(&sequence) else {
            return false;
        };
        match kept {
            Kept::Queued(of, _) if *of != stream => false,
            Kept::Queued(..) if is_over => {
                state.kept.remove(&sequence);
                false
            }
            Kept::Queued(_, joined) => {
                let joined = std::mem::take(joined);
                *kept = Kept::Running(joined);
                true
            }
            Kept::Running(_) | Kept::Answered(_) => false,
        }
    }

    /// Keeps the result, and says who else waits for it.
    pub fn keep(&self, sequence: Sequence, answer: &Answer) -> Vec<W> {
        if sequence == Sequence(0) {
            return Vec::new();
        }
        let mut state = lock(&self.state);
        let before = if sequence <= state.acknowledged {
            state.kept.remove(&sequence)
        } else {
            state.kept.insert(sequence, Kept::Answered(answer.clone()))
        };
        match before {
            Some(Kept::Running(joined)) => joined,
            _ => Vec::new(),
        }
    }

    /// Drops what the client has.
    pub fn acknowledge(&self, sequence: Sequence) {
        let mut state = lock(&self.state);
        if sequence <= state.acknowledged {
            return;
        }
        state.acknowledged = sequence;
        let later = state.kept.split_off(&Sequence(sequence.0.saturating_add(1)));
        let covered = std::mem::replace(&mut state.kept, later);
        // What is not answered yet answers its requests before it goes.
        state.kept.extend(covered.into_iter().filter(|(_, kept)| !matches!(kept, Kept::Answered(_))));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::agent::file::FileReply;

    fn done() -> Answer {
        Ok((Reply::File(FileReply::Done), Vec::new()))
    }

    const FIRST: StreamNumber = 1;
    const SECOND: StreamNumber = 2;

    fn begun(replies: &Replies<u32>, sequence: u64) {
        assert!(matches!(replies.admit(Sequence(sequence), FIRST, 0), Admission::Fresh));
        assert!(replies.begin(Sequence(sequence), FIRST, false));
    }

    #[test]
    fn a_repeat_gets_the_first_answer_and_an_acknowledged_one_none() {
        let replies = Replies::default();
        begun(&replies, 1);
        assert!(matches!(replies.admit(Sequence(1), FIRST, 11), Admission::Joined));
        assert_eq!(replies.keep(Sequence(1), &done()), vec![11]);
        assert!(matches!(replies.admit(Sequence(1), SECOND, 12), Admission::Answered(Ok(_))));
        replies.acknowledge(Sequence(1));
        assert!(matches!(replies.admit(Sequence(1), SECOND, 13), Admission::Refused(_)));
    }

    #[test]
    fn what_runs_when_its_stream_ends_answers_the_repeat() {
        let replies = Replies::default();
        begun(&replies, 1);
        assert!(matches!(replies.admit(Sequence(1), SECOND, 21), Admission::Joined));
        assert_eq!(replies.keep(Sequence(1), &done()), vec![21]);
    }

    #[test]
    fn what_was_not_begun_when_its_stream_ended_is_carried_out_for_the_repeat_alone() {
        let replies = Replies::default();
        for repeated_first in [true, false] {
            let sequence = Sequence(if repeated_first { 1 } else { 2 });
            assert!(matches!(replies.admit(sequence, FIRST, 0), Admission::Fresh));
            assert!(matches!(replies.admit(sequence, FIRST, 1), Admission::Joined));
            if repeated_first {
                assert!(matches!(replies.admit(sequence, SECOND, 2), Admission::Fresh));
                assert!(!replies.begin(sequence, FIRST, true));
            } else {
                assert!(!replies.begin(sequence, FIRST, true));
                assert!(matches!(replies.admit(sequence, SECOND, 2), Admission::Fresh));
            }
            assert!(replies.begin(sequence, SECOND, false));
            assert!(!replies.begin(sequence, FIRST, true));
            assert!(replies.keep(sequence, &done()).is_empty());
        }
    }

    #[test]
    fn an_earlier_stream_takes_nothing_from_a_later_one() {
        let replies = Replies::default();
        assert!(matches!(replies.admit(Sequence(1), SECOND, 0), Admission::Fresh));
        assert!(matches!(replies.admit(Sequence(1), FIRST, 1), Admission::Joined));
        assert!(!replies.begin(Sequence(1), FIRST, true));
        assert!(replies.begin(Sequence(1), SECOND, false));
        assert!(replies.keep(Sequence(1), &done()).is_empty());
    }

    #[test]
    fn what_runs_survives_an_early_acknowledgement_and_is_not_kept_after() {
        let replies = Replies::default();
        begun(&replies, 2);
        replies.acknowledge(Sequence(5));
        assert!(replies.keep(Sequence(2), &done()).is_empty());
        assert!(lock(&replies.state).kept.is_empty());
    }

    #[test]
    fn no_more_than_the_limit_is_kept() {
        let replies = Replies::default();
        for n in 1..=REPLIES_KEPT_MAX as u64 {
            assert!(matches!(replies.admit(Sequence(n), FIRST, 0), Admission::Fresh));
        }
        assert!(matches!(replies.admit(Sequence(u64::MAX), FIRST, 0), Admission::Refused(_)));
    }
}
