//! `-o KEY=VALUE`.

use std::collections::BTreeMap;
use std::time::Duration;

use remote::client::relink::RelinkOptions;
use wire::api::ErrorKind;
use wire::worker::WorkerError;

use super::backend::Kind;
use super::failure;

/// What the options of a mount choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MountChoices {
    /// Other users may use the mount.
    pub(super) allow_other: bool,
    /// What is in the mount point may be hidden.
    pub(super) nonempty: bool,
    /// Whether this computer's kernel mounts what NFS serves.
    pub(super) kernel_mount: bool,
    /// The port of NFS; 0 for any.
    pub(super) port: u16,
    /// How long a machine that is away is waited for.
    pub(super) offline_timeout: Duration,
    /// Whether the kernel may read and write a thread's files by itself.
    pub(super) passthrough: bool,
    /// How many bytes of contents may be kept on disk, of all mounts together; 0 for none of this one.
    pub(super) cache_bytes: Option<u64>,
}

impl Default for MountChoices {
    fn default() -> MountChoices {
        MountChoices {
            allow_other: false,
            nonempty: false,
            kernel_mount: true,
            port: 0,
            offline_timeout: RelinkOptions::OFFLINE_TIMEOUT,
            passthrough: true,
            cache_bytes: None,
        }
    }
}

/// Every option.
const KNOWN: &str = "allow-other, nonempty, offline-timeout=SECONDS, cache-size=SIZE; of threads: no-passthrough; of the backend nfs: no-kernel-mount, port=N";

impl MountChoices {
    /// Reads the options, and refuses those it does not know.
    pub(super) fn parse(options: &BTreeMap<String, String>) -> Result<MountChoices, WorkerError> {
        let mut choices = MountChoices::default();
        for (key, value) in options {
            match key.as_str() {
                "allow-other" | "allow_other" => choices.allow_other = switch(key, value)?,
                "nonempty" => choices.nonempty = switch(key, value)?,
                OFFLINE_TIMEOUT => choices.offline_timeout = seconds(value)?,
                CACHE_SIZE => choices.cache_bytes = Some(size(value)?),
                NO_PASSTHROUGH => choices.passthrough = !switch(key, value)?,
                NO_KERNEL_MOUNT => choices.kernel_mount = !switch(key, value)?,
                PORT => choices.port = port(value)?,
                _ => {
                    let mut error = failure(ErrorKind::Usage, format!("unknown mount option `{key}`"));
                    error.hint = Some(format!("stead mount --help; known options: {KNOWN}"));
                    return Err(error);
                }
            }
        }
        Ok(choices)
    }

    /// Refuses options that mean nothing to this backend.
    pub(super) fn check_for(&self, kind: Kind) -> Result<(), WorkerError> {
        let option = match self {
            _ if kind == Kind::Nfs => return Ok(()),
            MountChoices { kernel_mount: false, .. } => NO_KERNEL_MOUNT,
            MountChoices { port: 1.., .. } => PORT,
            _ => return Ok(()),
        };
        let message = format!(
            "mount option `{option}` is of the backend nfs, and this mount is served by {}",
            kind.name()
        );
        let mut error = failure(ErrorKind::Usage, message);
        error.hint = Some("add --backend nfs".to_owned());
        Err(error)
    }
}

/// Ask this process for whatever is read and written.
const NO_PASSTHROUGH: &str = "no-passthrough";

/// Serve by NFS and mount nothing.
pub(super) const NO_KERNEL_MOUNT: &str = "no-kernel-mount";

/// Where to serve NFS.
const PORT: &str = "port";

/// How long what needs a machine that is away waits for it.
const OFFLINE_TIMEOUT: &str = "offline-timeout";

/// A day: whoever wants to wait longer waits for a person.
const OFFLINE_TIMEOUT_SECONDS_MAX: u64 = 24 * 60 * 60;

/// How much may be kept on disk.
const CACHE_SIZE: &str = "cache-size";

/// A number of bytes, or of as many times 1024 as the letter behind it says.
fn size(value: &str) -> Result<u64, WorkerError> {
    let unit = value.chars().last().and_then(|last| "KMGT".find(last.to_ascii_uppercase()));
    let digits = if unit.is_some() { &value[..value.len() - 1] } else { value };
    let bytes = |number: u64| number.checked_mul(1 << unit.map_or(0, |unit| 10 * (unit + 1)));
    let is_number = digits.bytes().all(|digit| digit.is_ascii_digit());
    digits.parse().ok().filter(|_| is_number).and_then(bytes).ok_or_else(|| {
        let message = format!("mount option `{CACHE_SIZE}` takes a size such as 512M or 8G, not `{value}`");
        failure(ErrorKind::Usage, message)
    })
}

fn seconds(value: &str) -> Result<Duration, WorkerError> {
    let parsed = value.parse().ok().filter(|seconds| *seconds <= OFFLINE_TIMEOUT_SECONDS_MAX);
    parsed.map(Duration::from_secs).ok_or_else(|| {
        let message = format!(
            "mount option `{OFFLINE_TIMEOUT}` takes seconds from 0 to {OFFLINE_TIMEOUT_SECONDS_MAX}, not `{value}`"
        );
        failure(ErrorKind::Usage, message)
    })
}

fn switch(key: &str, value: &str) -> Result<bool, WorkerError> {
    match value {
        "" | "true" | "yes" => Ok(true),
        "false" | "no" => Ok(false),
        _ => Err(failure(ErrorKind::Usage, format!("mount option `{key}` takes yes or no, not `{value}`"))),
    }
}

fn port(value: &str) -> Result<u16, WorkerError> {
    let parsed = value.parse().ok().filter(|port| *port != 0);
    parsed.ok_or_else(|| {
        failure(
            ErrorKind::Usage,
            format!("mount option `{PORT}` takes a number from 1 to 65535, not `{value}`"),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(options: &[(&str, &str)]) -> Result<MountChoices, WorkerError> {
        MountChoices::parse(&options.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect())
    }

    #[test]
    fn switches_are_on_when_named() {
        assert!(parse(&[("allow-other", "")]).unwrap().allow_other);
        assert!(!parse(&[("no-passthrough", "")]).unwrap().passthrough);
        assert!(!parse(&[("allow-other", "no")]).unwrap().allow_other);
        assert!(!parse(&[("no-kernel-mount", "")]).unwrap().kernel_mount);
        assert_eq!(parse(&[("port", "2049")]).unwrap().port, 2049);
        assert_eq!(parse(&[("offline-timeout", "0")]).unwrap().offline_timeout, Duration::ZERO);
        assert_eq!(parse(&[]).unwrap(), MountChoices::default());
        let sizes = [
            ("0", 0),
            ("4096", 4096),
            ("3k", 3 << 10),
            ("512M", 512 << 20),
            ("8G", 8 << 30),
            ("1T", 1 << 40),
        ];
        for (text, bytes) in sizes {
            assert_eq!(parse(&[("cache-size", text)]).unwrap().cache_bytes, Some(bytes), "{text}");
        }
    }

    #[test]
    fn unknown_options_and_values_are_usage_errors_that_say_what_is_known() {
        let error = parse(&[("bogus", "1")]).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Usage);
        assert!(error.hint.unwrap().contains("allow-other"));
        for (key, value) in [
            ("nonempty", "maybe"),
            ("port", ""),
            ("port", "0"),
            ("port", "65536"),
            ("port", "x"),
            ("cache-size", ""),
            ("cache-size", "G"),
            ("cache-size", "+1G"),
            ("cache-size", "1.5G"),
            ("cache-size", "1é"),
            ("cache-size", "99999999999T"),
            ("offline-timeout", "-1"),
            ("offline-timeout", "90000"),
        ] {
            assert_eq!(parse(&[(key, value)]).unwrap_err().kind, ErrorKind::Usage, "{key}={value}");
        }
    }

    #[test]
    fn options_of_the_other_backend_are_refused() {
        for option in [("no-kernel-mount", ""), ("port", "2049")] {
            let choices = parse(&[option]).unwrap();
            assert_eq!(choices.check_for(Kind::Nfs), Ok(()));
            let error = choices.check_for(Kind::Fuse).unwrap_err();
            assert_eq!(error.kind, ErrorKind::Usage);
            assert!(error.message.contains(option.0), "{error}");
        }
        assert_eq!(parse(&[("allow-other", "")]).unwrap().check_for(Kind::Fuse), Ok(()));
    }
}
