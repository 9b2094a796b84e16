//! Replies to calls that must not be carried out twice.
//!
//! A client that loses its connection sends again, from the same port, what it has no answer to. A removal that was done
//! the first time would then fail, and a file made and renamed meanwhile would be made again. So the results of calls
//! that change names or attributes are kept; one that comes again gets the same, also while the first is under way.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::OnceCell;

use super::limits::REPLIES_KEPT_MAX;
use super::rpc::Results;
use super::xdr::Garbage;

/// A call as its client made it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CallId {
    client: SocketAddr,
    xid: u32,
    procedure: u32,
    /// Two calls with one number are told apart by what they say.
    arguments: u64,
}

type Carried = Result<Results, Garbage>;
type Outcome = Arc<OnceCell<Carried>>;

#[derive(Debug, Default)]
struct Kept {
    by_call: HashMap<CallId, Outcome>,
    /// In the order they came.
    order: VecDeque<CallId>,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Replays {
    kept: Mutex<Kept>,
    hasher: RandomState,
}

impl Replays {
    /// Names a call.
    pub fn call(&self, client: SocketAddr, xid: u32, procedure: u32, arguments: &Bytes) -> CallId {
        CallId { client, xid, procedure, arguments: self.hasher.hash_one(arguments) }
    }

    /// The results of the call: those of `carry_out`, or those it had before.
    pub async fn once(&self, call: CallId, carry_out: impl Future<Output = Carried>) -> Carried {
        let results = {
            let mut kept = self.kept.lock();
            match kept.by_call.get(&call) {
                Some(results) => results.clone(),
                None => {
                    let results = Outcome::default();
                    kept.by_call.insert(call.clone(), results.clone());
                    kept.order.push_back(call);
                    if kept.order.len() > REPLIES_KEPT_MAX
                        && let Some(oldest) = kept.order.pop_front()
                    {
                        kept.by_call.remove(&oldest);
                    }
                    results
                }
            }
        };
        results.get_or_init(|| carry_out).await.clone()
    }

    /// The call may be carried out when it comes again: it was put off, not done.
    pub fn forget(&self, call: &CallId) {
        let mut kept = self.kept.lock();
        if kept.by_call.remove(call).is_some() {
            kept.order.retain(|known| known != call);
        }
    }
}
