//! Errands: processes of our own that stand where ssh stands for other machines. Standard input and output of one are an agent's
//! stream, and it ends when that ends, or what the agent is in. One that fails says why, and exits with a status of its own.

use std::io::Write;

use serde::{Deserialize, Serialize};
use tokio::net::UnixStream;
use tokio::process::Command;
use wire::api::error::ErrorKind;

use super::program::{Exit, Program, ProgramError};

/// An errand that fails for a reason of its own exits with this and the reason's exit code.
const STATUS_BASE: u8 = 64;

/// How the lines of an errand's standard error begin that say why it failed.
pub(super) const ERROR: &str = "error: ";
const HINT: &str = "hint: ";

/// The longest reason that is told: a line of an errand's standard error is not longer.
const REASON_CHARACTERS_MAX: usize = 600;

/// Why an agent is not reached: what its errand said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct CarrierError {
    /// What sort of failure it is.
    pub kind: ErrorKind,
    /// One line.
    pub message: String,
    /// What mends it.
    pub hint: Option<String>,
}

impl CarrierError {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> CarrierError {
        CarrierError { kind, message: message.into(), hint: None }
    }

    pub(crate) fn with_hint(self, hint: impl Into<String>) -> CarrierError {
        CarrierError { hint: Some(hint.into()), ..self }
    }

    /// The status with which an errand says it.
    pub(super) fn status(&self) -> u8 {
        STATUS_BASE + self.kind.exit_code().min(STATUS_BASE - 1)
    }

    /// Says it to whoever started the errand.
    pub(super) fn say(&self) {
        let short = |text: &str| -> String { text.chars().take(REASON_CHARACTERS_MAX).collect() };
        let hint = self.hint.as_deref().map(|hint| format!("{HINT}{}\n", short(hint))).unwrap_or_default();
        // Whoever waited for it may be gone.
        let _untold = write!(std::io::stderr(), "{ERROR}{}\n{hint}", short(&self.message));
    }

    /// What the errand that ended so has said. `None` for one that ended with the agent, or was ended.
    pub fn of(exit: &Exit) -> Option<CarrierError> {
        let code = exit.status?.code()?;
        let kinds = ErrorKind::ALL.into_iter();
        let kind = kinds
            .filter(|kind| *kind != ErrorKind::Interrupted)
            .find(|kind| code == i32::from(STATUS_BASE + kind.exit_code()))?;
        let said = |start: &str| {
            let line = exit.last_words.iter().rev().find_map(|line| line.strip_prefix(start));
            line.map(str::to_owned)
        };
        let message = said(ERROR).unwrap_or_else(|| "what carries its stream failed".to_owned());
        Some(CarrierError { kind, message, hint: said(HINT) })
    }
}

/// Starts an errand of this part of the program, with what it is told as its one argument, a socket as its standard input and
/// output, and without these variables.
pub(super) fn start(
    part: &'static str,
    told: &impl Serialize,
    without: &[&str],
) -> Result<(Program, UnixStream), ProgramError> {
    let told = serde_json::to_string(told).expect("an errand has only texts and numbers");
    let mut command = Command::new(supervisor::spawn::own_program());
    command.arg(part).arg(told).process_group(0);
    for name in without {
        command.env_remove(name);
    }
    Program::start(command, part)
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    use super::*;

    fn exit(code: u8, words: &[&str]) -> Exit {
        let status = ExitStatus::from_raw(i32::from(code) << 8);
        Exit { status: Some(status), last_words: words.iter().map(|word| (*word).to_owned()).collect() }
    }

    #[test]
    fn what_an_errand_says_is_read_back() {
        for kind in ErrorKind::ALL.into_iter().filter(|kind| *kind != ErrorKind::Interrupted) {
            let error = CarrierError::new(kind, "no").with_hint("yes");
            let words = ["what the agent said", "error: no", "hint: yes"];
            assert_eq!(CarrierError::of(&exit(error.status(), &words)), Some(error));
        }
    }

    #[test]
    fn the_end_of_an_agent_is_no_failure_of_the_errand() {
        for code in [0, 1, 2, 126, 127, 64, 255] {
            assert_eq!(CarrierError::of(&exit(code, &["error: no"])), None, "{code}");
        }
        let killed = Exit { status: Some(ExitStatus::from_raw(9)), last_words: Vec::new() };
        assert_eq!(CarrierError::of(&killed), None);
    }
}
