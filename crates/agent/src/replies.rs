//! Replies to mutations, kept until the client has them.

use std::collections::BTreeMap;
use std::sync::Mutex;

use wire::agent::{Failure, REPLIES_KEPT_MAX, Reply, RequestId, Sequence};

use crate::sync::lock;

/// A reply and its payload.
pub(crate) type Answer = Result<(Reply, Vec<u8>), Failure>;

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

#[derive(Default)]
pub(crate) struct Replies {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    kept: BTreeMap<Sequence, Kept>,
    acknowledged: Sequence,
}

#[expect(clippy::large_enum_variant, reason = "nearly all are the large one")]
enum Kept {
    /// Being carried out; these requests wait for it too.
    Running(Vec<RequestId>),
    Answered(Answer),
}

impl Replies {
    /// To be asked before a request is carried out. Sequence 0 is always fresh.
    pub fn admit(&self, sequence: Sequence, id: RequestId) -> Admission {
        if sequence == Sequence(0) {
            return Admission::Fresh;
        }
        let state = &mut *lock(&self.state);
        if sequence <= state.acknowledged {
            return Admission::Refused("a mutation came again after its reply was acknowledged");
        }
        match state.kept.get_mut(&sequence) {
            Some(Kept::Answered(answer)) => return Admission::Answered(answer.clone()),
            Some(Kept::Running(joined)) => {
                joined.push(id);
                return Admission::Joined;
            }
            None => {}
        }
        if state.kept.len() >= REPLIES_KEPT_MAX {
            return Admission::Refused("too many replies to mutations without acknowledgement");
        }
        state.kept.insert(sequence, Kept::Running(Vec::new()));
        Admission::Fresh
    }

    /// Keeps the result, and says which other requests wait for it.
    pub fn keep(&self, sequence: Sequence, answer: &Answer) -> Vec<RequestId> {
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
        // What still runs answers its requests before it goes.
        state.kept.extend(covered.into_iter().filter(|(_, kept)| matches!(kept, Kept::Running(_))));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::agent::file::FileReply;

    fn done() -> Answer {
        Ok((Reply::File(FileReply::Done), Vec::new()))
    }

    #[test]
    fn a_repeat_gets_the_first_answer_and_an_acknowledged_one_none() {
        let replies = Replies::default();
        assert!(matches!(replies.admit(Sequence(1), RequestId(10)), Admission::Fresh));
        assert!(matches!(replies.admit(Sequence(1), RequestId(11)), Admission::Joined));
        assert_eq!(replies.keep(Sequence(1), &done()), vec![RequestId(11)]);
        assert!(matches!(replies.admit(Sequence(1), RequestId(12)), Admission::Answered(Ok(_))));
        replies.acknowledge(Sequence(1));
        assert!(matches!(replies.admit(Sequence(1), RequestId(13)), Admission::Refused(_)));
    }

    #[test]
    fn what_runs_survives_an_early_acknowledgement_and_is_not_kept_after() {
        let replies = Replies::default();
        replies.admit(Sequence(2), RequestId(1));
        replies.acknowledge(Sequence(5));
        assert!(replies.keep(Sequence(2), &done()).is_empty());
        assert!(lock(&replies.state).kept.is_empty());
    }

    #[test]
    fn no_more_than_the_limit_is_kept() {
        let replies = Replies::default();
        for n in 1..=REPLIES_KEPT_MAX as u64 {
            assert!(matches!(replies.admit(Sequence(n), RequestId(n)), Admission::Fresh));
        }
        assert!(matches!(replies.admit(Sequence(u64::MAX), RequestId(0)), Admission::Refused(_)));
    }
}
