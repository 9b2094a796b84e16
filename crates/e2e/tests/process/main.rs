//! Commands on machines: detached, in a terminal, through cuts.

mod cuts;
mod detached;
mod flush;
mod terminal;

use std::time::Duration;

/// How long anything that has to happen may take on a busy machine.
const SOON: Duration = Duration::from_secs(60);

/// Whether tests run as long as what is promised, and not only as long as it takes to see that it holds.
fn is_long() -> bool {
    std::env::var_os("STEAD_E2E_LONG").is_some_and(|value| !value.is_empty())
}
