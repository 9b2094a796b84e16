//! The daemon's log: a file that is rotated by size, and what goes there.

use std::io;
use std::path::Path;
use std::sync::Arc;

use supervisor::log::RotatingFile;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use wire::api::{ErrorKind, ErrorObject};

/// When a log file is put aside. One older file is kept, so that twice this is all a daemon's log occupies.
pub const LOG_BYTES_MAX: u64 = 4 << 20;

/// The environment variable with the filter, in the syntax of `tracing`'s `EnvFilter`.
pub const FILTER_VARIABLE: &str = "STEAD_LOG";

const FILTER_DEFAULT: &str = "info";

/// What may stand in a filter by itself, without a level: all that this part of the program says.
const PARTS: &[&str] = &[
    "agent",
    "cli",
    "daemon",
    "guest",
    "machine",
    "mount",
    "provider",
    "remote",
    "stead",
    "store",
    "supervisor",
    "vfs",
    "wire",
];

/// Where else the log goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Echo {
    /// Nowhere.
    None,
    /// To standard error, for a daemon in the foreground.
    Stderr,
}

/// The filter that the environment says. One that cannot be read is refused: whoever has set it would miss what it should
/// have logged when it is too late.
pub fn filter() -> Result<EnvFilter, ErrorObject> {
    let wanted = std::env::var_os(FILTER_VARIABLE).unwrap_or_default();
    read(&wanted.to_string_lossy())
}

fn read(text: &str) -> Result<EnvFilter, ErrorObject> {
    let text = if text.is_empty() { FILTER_DEFAULT } else { text };
    let why = match text.split(',').map(str::trim).find(|part| is_unknown(part)) {
        Some(word) => format!("`{}` is no level", word.escape_debug()),
        None => match EnvFilter::try_new(text) {
            Ok(filter) => return Ok(filter),
            Err(error) => error.to_string(),
        },
    };
    let message = format!("could not read the log filter `{}`: {why}", text.escape_debug());
    let hint =
        "set STEAD_LOG, or `log` in the configuration, to off, error, warn, info, debug, trace or PART=LEVEL";
    Err(ErrorObject::new(ErrorKind::Usage, message).with_hint(hint))
}

/// Whether it is a word that means nothing. The filter takes every word for a part of the program and says nothing if there
/// is no such part, so that a level which is mistyped would silence all others.
fn is_unknown(part: &str) -> bool {
    let is_word = !part.contains(['=', '[', '{', '}', ']', ':']);
    is_word && part.parse::<LevelFilter>().is_err() && !PARTS.contains(&part)
}

/// Sends what passes the filter to the file, which is opened or created.
pub fn start(path: &Path, echo: Echo, filter: EnvFilter) -> io::Result<()> {
    let file = Arc::new(RotatingFile::open(path, LOG_BYTES_MAX)?);
    file.bound_panics();
    let to_file = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(file);
    let to_stderr = (echo == Echo::Stderr)
        .then(|| tracing_subscriber::fmt::layer().with_ansi(false).with_writer(io::stderr));
    // Fails when a test in the same process has set one already; its log is as good.
    let set = tracing_subscriber::registry().with(filter).with(to_file).with(to_stderr).try_init();
    if let Err(error) = set {
        tracing::debug!(%error, "the log was set up before");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_levels_and_parts() {
        for text in ["", "info", "WARN", "debug,", "daemon", "daemon=debug,mount::fuse=trace", "off,store"] {
            assert!(read(text).is_ok(), "{text}");
        }
        for (text, why) in [
            ("verbose", "`verbose` is no level"),
            ("info,deamon", "`deamon` is no level"),
            ("daemon=verbose", "level"),
            ("\u{1b}", "is no level"),
        ] {
            let error = read(text).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Usage);
            let start = format!("could not read the log filter `{}`: ", text.escape_debug());
            assert!(error.message.starts_with(&start) && error.message.contains(why), "{error}");
            assert!(!error.message.contains(char::is_control), "{error:?}");
        }
    }
}
