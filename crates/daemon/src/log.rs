//! The daemon's log: a file that is rotated by size.

use std::io;
use std::path::Path;
use std::sync::Arc;

use supervisor::log::RotatingFile;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// When a log file is put aside. One older file is kept, so that twice this is all a daemon's log occupies.
pub const LOG_BYTES_MAX: u64 = 4 << 20;

/// The environment variable with the filter, in the syntax of `tracing`'s `EnvFilter`.
pub const FILTER_VARIABLE: &str = "STEAD_LOG";

const FILTER_DEFAULT: &str = "info";

/// Where else the log goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Echo {
    /// Nowhere.
    None,
    /// To standard error, for a daemon in the foreground.
    Stderr,
}

/// Sends this process's log to the file, which is opened or created. A filter that cannot be read is told there and
/// replaced by the default.
pub fn start(path: &Path, echo: Echo) -> io::Result<()> {
    let file = Arc::new(RotatingFile::open(path, LOG_BYTES_MAX)?);
    file.bound_panics();
    let wanted = std::env::var(FILTER_VARIABLE).unwrap_or_default();
    let parsed = match wanted.as_str() {
        "" => Ok(EnvFilter::new(FILTER_DEFAULT)),
        text => EnvFilter::try_new(text),
    };
    let (filter, refused) = match parsed {
        Ok(filter) => (filter, None),
        Err(error) => (EnvFilter::new(FILTER_DEFAULT), Some(error)),
    };
    let to_file = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(file);
    let to_stderr = (echo == Echo::Stderr)
        .then(|| tracing_subscriber::fmt::layer().with_ansi(false).with_writer(io::stderr));
    // Fails when a test in the same process has set one already; its log is as good.
    let set = tracing_subscriber::registry().with(filter).with(to_file).with(to_stderr).try_init();
    if let Err(error) = set {
        tracing::debug!(%error, "the log was set up before");
    }
    if let Some(error) = refused {
        tracing::warn!(%error, "{FILTER_VARIABLE} cannot be read as a filter");
    }
    Ok(())
}
