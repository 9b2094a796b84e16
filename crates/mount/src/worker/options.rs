//! `-o KEY=VALUE`.

use std::collections::BTreeMap;

use wire::api::ErrorKind;
use wire::worker::WorkerError;

use super::failure;

/// What the options of a mount choose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct MountChoices {
    /// Other users may use the mount.
    pub(super) allow_other: bool,
    /// What is in the mount point may be hidden.
    pub(super) nonempty: bool,
}

/// Every option, with what it does.
const KNOWN: &str = "allow-other, nonempty";

impl MountChoices {
    /// Reads the options, and refuses those it does not know.
    pub(super) fn parse(options: &BTreeMap<String, String>) -> Result<MountChoices, WorkerError> {
        let mut choices = MountChoices::default();
        for (key, value) in options {
            let switch = match key.as_str() {
                "allow-other" | "allow_other" => &mut choices.allow_other,
                "nonempty" => &mut choices.nonempty,
                _ => {
                    let mut error = failure(ErrorKind::Usage, format!("unknown mount option `{key}`"));
                    error.hint = Some(format!("known options: {KNOWN}"));
                    return Err(error);
                }
            };
            *switch = match value.as_str() {
                "" | "true" | "yes" => true,
                "false" | "no" => false,
                _ => return Err(failure(ErrorKind::Usage, format!("mount option `{key}` takes yes or no, not `{value}`"))),
            };
        }
        Ok(choices)
    }
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
        assert!(!parse(&[("allow-other", "no")]).unwrap().allow_other);
        assert_eq!(parse(&[]).unwrap(), MountChoices::default());
    }

    #[test]
    fn unknown_options_and_values_are_usage_errors_that_say_what_is_known() {
        let error = parse(&[("bogus", "1")]).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Usage);
        assert!(error.hint.unwrap().contains("allow-other"));
        assert_eq!(parse(&[("nonempty", "maybe")]).unwrap_err().kind, ErrorKind::Usage);
    }
}
