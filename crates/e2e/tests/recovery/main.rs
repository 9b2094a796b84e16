//! Nothing dies with it: a worker, a keeper, a daemon, an agent, a login, a server or a line may go at any moment, and
//! whoever uses the mount does not notice.

#![allow(clippy::unwrap_used, reason = "in a test every unexpected error is a failure")]

use e2e::faults::field::Field;
use e2e::faults::role::Role;
use rustix::process::Signal;

/// Makes of each test two: on a mount of this host and over SSH.
macro_rules! on_both {
    ($(fn $name:ident($field:ident) $body:block)*) => {$(
        mod $name {
            use super::*;

            fn check($field: &Field) $body

            #[test]
            fn host() {
                check(&Field::new(Kind::Host, &[]));
            }

            #[test]
            fn ssh() {
                check(&Field::new(Kind::Ssh, &[]));
            }
        }
    )*};
}

mod agent;
mod daemon;
mod events;
mod keeper;
mod link;
mod replay;
mod reserve;
mod soak;
mod subscriber;
mod worker;

/// Kills these together. Stopped first, so that none puts another one in the other's place.
fn kill_together(field: &Field, roles: &[Role]) {
    let doomed: Vec<_> = roles.iter().map(|role| field.holder(*role)).collect();
    doomed.iter().for_each(|holder| holder.signal(Signal::STOP));
    doomed.iter().for_each(|holder| holder.signal(Signal::KILL));
}
