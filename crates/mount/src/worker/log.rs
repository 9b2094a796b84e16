//! The worker's log: its standard error, which whoever starts it points to a file. The worker rotates that file itself,
//! since it may outlive whoever started it.

use std::sync::Arc;

use supervisor::log::RotatingFile;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::writer::BoxMakeWriter;

/// When a log file is put aside. One older file is kept, so that twice this is all the log of a mount occupies: there
/// may be hundreds of mounts, and what went wrong with one is at the end.
const LOG_BYTES_MAX: u64 = 1 << 20;

/// The environment variable with the filter, in the syntax of `tracing`'s `EnvFilter`.
const FILTER_VARIABLE: &str = "STEAD_LOG";

const FILTER_DEFAULT: &str = "info";

/// Sends this process's log to standard error. What cannot be had as wished is told there.
pub(crate) fn start() {
    let wanted = std::env::var(FILTER_VARIABLE).unwrap_or_default();
    let wanted = if wanted.is_empty() { FILTER_DEFAULT } else { &wanted };
    let filter = EnvFilter::try_new(wanted);
    let (filter, refused) = match filter {
        Ok(filter) => (filter, None),
        Err(error) => (EnvFilter::new(FILTER_DEFAULT), Some(error)),
    };
    let file = RotatingFile::of_stderr(LOG_BYTES_MAX);
    let (writer, unbounded) = match file {
        Ok(Some(file)) => {
            let file = Arc::new(file);
            file.bound_panics();
            (BoxMakeWriter::new(file), None)
        }
        Ok(None) => (BoxMakeWriter::new(std::io::stderr), None),
        Err(error) => (BoxMakeWriter::new(std::io::stderr), Some(error)),
    };
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_writer(writer).init();
    if let Some(error) = refused {
        tracing::warn!(%error, "{FILTER_VARIABLE} cannot be read as a filter");
    }
    if let Some(error) = unbounded {
        tracing::warn!(%error, "this log has no limit");
    }
}
