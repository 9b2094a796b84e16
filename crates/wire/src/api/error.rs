//! Failures as the API carries them.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::decode::DecodeError;

/// JSON-RPC: the line was not JSON.
pub const PARSE: i32 = -32700;
/// JSON-RPC: the JSON was not a request.
pub const INVALID_REQUEST: i32 = -32600;
/// JSON-RPC: no such method.
pub const METHOD_NOT_FOUND: i32 = -32601;
/// JSON-RPC: the parameters do not fit the method.
pub const INVALID_PARAMS: i32 = -32602;
/// JSON-RPC: the daemon is at fault.
pub const INTERNAL: i32 = -32603;

/// What sort of failure it is, which is all that a program needs to react to it. Each has an exit code of the command
/// line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// What was asked for makes no sense as written.
    Usage,
    /// It was tried and did not work.
    Failure,
    /// Something named does not exist.
    NotFound,
    /// Somebody with a say in it said no: a permission, a host key, a read-only tree.
    Refused,
    /// It clashes with something that is there.
    Conflict,
    /// The machine cannot be reached.
    Unreachable,
    /// It took longer than it may.
    TimedOut,
    /// It was called off by the user.
    Interrupted,
}

impl ErrorKind {
    /// All kinds.
    pub const ALL: [ErrorKind; 8] = [
        ErrorKind::Usage,
        ErrorKind::Failure,
        ErrorKind::NotFound,
        ErrorKind::Refused,
        ErrorKind::Conflict,
        ErrorKind::Unreachable,
        ErrorKind::TimedOut,
        ErrorKind::Interrupted,
    ];

    /// The command line's exit code for this kind.
    pub const fn exit_code(self) -> u8 {
        match self {
            ErrorKind::Failure => 1,
            ErrorKind::Usage => 2,
            ErrorKind::NotFound => 3,
            ErrorKind::Refused => 4,
            ErrorKind::Conflict => 5,
            ErrorKind::Unreachable => 6,
            ErrorKind::TimedOut => 7,
            ErrorKind::Interrupted => 130,
        }
    }

    /// The JSON-RPC error code: -32000 less the exit code, inside the range left to servers. A usage error is
    /// JSON-RPC's own "invalid params".
    pub const fn rpc_code(self) -> i32 {
        match self {
            ErrorKind::Usage => INVALID_PARAMS,
            ErrorKind::Interrupted => -32099,
            other => -32000 - other.exit_code() as i32,
        }
    }

    /// The word on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            ErrorKind::Usage => "usage",
            ErrorKind::Failure => "failure",
            ErrorKind::NotFound => "not_found",
            ErrorKind::Refused => "refused",
            ErrorKind::Conflict => "conflict",
            ErrorKind::Unreachable => "unreachable",
            ErrorKind::TimedOut => "timed_out",
            ErrorKind::Interrupted => "interrupted",
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a request failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct ErrorObject {
    /// The JSON-RPC code. Programs read `data.kind` instead.
    pub code: i32,
    /// One line: what could not be done, to what, and why.
    pub message: String,
    /// Absent only in answers from something that is not a Stead daemon.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<ErrorData>,
}

/// What a program and a hint line need.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorData {
    /// The sort of failure.
    pub kind: ErrorKind,
    /// The command or the change that mends it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl ErrorObject {
    /// A failure of `kind`, with the line that people see.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> ErrorObject {
        ErrorObject::with_code(kind.rpc_code(), kind, message)
    }

    /// Adds the command or the change that mends it.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> ErrorObject {
        let kind = self.kind();
        self.data = Some(ErrorData { kind, hint: Some(hint.into()) });
        self
    }

    /// The sort of failure.
    pub fn kind(&self) -> ErrorKind {
        self.data.as_ref().map_or(ErrorKind::Failure, |data| data.kind)
    }

    /// What mends it, if that is known.
    pub fn hint(&self) -> Option<&str> {
        self.data.as_ref()?.hint.as_deref()
    }

    /// The daemon is at fault.
    pub fn internal(message: impl Into<String>) -> ErrorObject {
        ErrorObject::with_code(INTERNAL, ErrorKind::Failure, message)
    }

    pub(super) fn parse(error: &DecodeError) -> ErrorObject {
        ErrorObject::with_code(PARSE, ErrorKind::Usage, error.to_string())
    }

    pub(super) fn invalid_request(why: &str) -> ErrorObject {
        ErrorObject::with_code(INVALID_REQUEST, ErrorKind::Usage, format!("this is not a request: {why}"))
    }

    pub(super) fn method_not_found(method: &str) -> ErrorObject {
        /// Enough to recognise a name; a hostile one is not repeated at length.
        const SHOWN_CHARS_MAX: usize = 64;
        let shown: String = method.chars().take(SHOWN_CHARS_MAX).flat_map(char::escape_debug).collect();
        ErrorObject::with_code(METHOD_NOT_FOUND, ErrorKind::Usage, format!("there is no method `{shown}`"))
            .with_hint("the daemon may be of another version: stead daemon restart")
    }

    pub(super) fn invalid_params(method: &str, why: &str) -> ErrorObject {
        ErrorObject::with_code(
            INVALID_PARAMS,
            ErrorKind::Usage,
            format!("the parameters of {method} are wrong: {why}"),
        )
    }

    fn with_code(code: i32, kind: ErrorKind, message: impl Into<String>) -> ErrorObject {
        ErrorObject { code, message: message.into(), data: Some(ErrorData { kind, hint: None }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_those_of_the_manual() {
        let codes: Vec<_> = ErrorKind::ALL.iter().map(|kind| (kind.name(), kind.exit_code())).collect();
        assert_eq!(
            codes,
            [
                ("usage", 2),
                ("failure", 1),
                ("not_found", 3),
                ("refused", 4),
                ("conflict", 5),
                ("unreachable", 6),
                ("timed_out", 7),
                ("interrupted", 130),
            ]
        );
    }

    #[test]
    fn the_word_on_the_wire_is_the_name() {
        for kind in ErrorKind::ALL {
            assert_eq!(serde_json::to_string(&kind).unwrap(), format!("\"{kind}\""));
        }
    }

    #[test]
    fn rpc_codes_are_distinct_and_in_the_servers_range() {
        let mut codes: Vec<_> = ErrorKind::ALL.iter().map(|kind| kind.rpc_code()).collect();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), ErrorKind::ALL.len());
        for kind in ErrorKind::ALL.iter().filter(|kind| **kind != ErrorKind::Usage) {
            assert!((-32099..=-32000).contains(&kind.rpc_code()), "{kind}");
        }
    }

    #[test]
    fn an_error_without_data_is_a_plain_failure() {
        let error: ErrorObject = serde_json::from_str(r#"{"code":-32603,"message":"no"}"#).unwrap();
        assert_eq!((error.kind(), error.hint()), (ErrorKind::Failure, None));
    }
}
