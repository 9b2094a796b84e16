//! Commands on machines: detached, in a terminal, through cuts.

mod cuts;
mod detached;
mod flush;
mod terminal;

use std::time::Duration;

/// How long anything that has to happen may take on a busy machine.
const SOON: Duration = Duration::from_secs(60);
