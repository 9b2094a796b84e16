//! What is printed: documents for programs, lines and tables for people.
//!
//! Standard output carries the result and nothing else; progress, notes and errors for people go to standard error.

use std::fmt::Display;
use std::io::{self, Write};

use serde::Serialize;
use wire::api::time::Timestamp;
use wire::bytestring::ByteString;

use crate::error::{Error, Failure, Result};

mod style;
pub mod table;
pub mod text;

pub use style::Style;
pub use table::{Align, Cell, Table};

/// To the start of a terminal's line, and the rest of it cleared.
pub const CLEAR_LINE: &str = "\r\u{1b}[K";

/// Whom the result is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// People.
    Text,
    /// Programs: one JSON document.
    Json,
}

/// What a stream leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sink {
    /// A terminal without colours.
    Terminal,
    /// A terminal with colours.
    Colours,
    /// A file, a pipe.
    Stream,
}

/// Both output streams of the program.
pub struct Output {
    out: Box<dyn Write + Send>,
    err: Box<dyn Write + Send>,
    out_sink: Sink,
    err_sink: Sink,
    format: Format,
    now: fn() -> Timestamp,
}

#[derive(Serialize)]
struct ErrorDocument<'a> {
    error: ErrorBody<'a>,
}

#[derive(Serialize)]
struct ErrorBody<'a> {
    code: &'static str,
    message: &'a str,
    hint: Option<&'a str>,
}

impl Output {
    /// Writes results to `out` and the rest to `err`; `now` is what ages are counted from.
    pub fn new(
        out: (Box<dyn Write + Send>, Sink),
        err: (Box<dyn Write + Send>, Sink),
        now: fn() -> Timestamp,
    ) -> Output {
        let ((out, out_sink), (err, err_sink)) = (out, err);
        Output { out, err, out_sink, err_sink, format: Format::Text, now }
    }

    /// Chooses the format; text at first.
    pub fn set_format(&mut self, format: Format) {
        self.format = format;
    }

    /// Whom the result is for.
    pub fn format(&self) -> Format {
        self.format
    }

    /// True when the result is to be one JSON document.
    pub fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// True when a person sees the result as it is printed.
    pub fn is_terminal(&self) -> bool {
        self.out_sink != Sink::Stream
    }

    /// True when a person sees the progress as it is made.
    pub fn shows_progress(&self) -> bool {
        self.err_sink != Sink::Stream
    }

    /// What ages are counted from.
    pub fn now(&self) -> Timestamp {
        (self.now)()
    }

    /// `text` in `style` where standard output has colours.
    pub fn styled(&self, style: Style, text: &str) -> String {
        style.paint(self.out_sink == Sink::Colours, text)
    }

    /// The one document of a command.
    pub fn document(&mut self, document: &impl Serialize) -> Result<()> {
        let mut line = serde_json::to_vec(document).map_err(|error| {
            Error::new(wire::api::ErrorKind::Failure, format!("could not write the result as JSON: {error}"))
        })?;
        line.push(b'\n');
        self.raw(&line)
    }

    /// One line of the result.
    pub fn line(&mut self, text: impl Display) -> Result<()> {
        written(writeln!(self.out, "{text}"))
    }

    /// Bytes of the result as they are.
    pub fn raw(&mut self, bytes: &[u8]) -> Result<()> {
        written(self.out.write_all(bytes))
    }

    /// A name of the result: as it is, or as a terminal may be shown it.
    pub fn name(&mut self, name: &ByteString) -> Result<()> {
        match self.is_terminal() {
            true => self.raw(name.to_string().as_bytes()),
            false => self.raw(name.as_bytes()),
        }
    }

    /// A table of the result.
    pub fn table(&mut self, table: &Table) -> Result<()> {
        let text = table.render(self.out_sink == Sink::Colours);
        self.raw(text.as_bytes())
    }

    /// A table of all that there is. Whoever looks at a terminal is told that there is nothing.
    pub fn list(&mut self, table: &Table, nothing: &str) -> Result<()> {
        if table.is_empty() && self.is_terminal() {
            self.note(nothing);
        }
        self.table(table)
    }

    /// Hands on what is buffered.
    pub fn flush(&mut self) -> Result<()> {
        written(self.out.flush())
    }

    /// A line for people, beside the result.
    pub fn note(&mut self, text: impl Display) {
        self.aside(format!("{text}\n").as_bytes());
    }

    /// Bytes for people, beside the result.
    pub fn aside(&mut self, bytes: &[u8]) {
        // Nobody is left to be told that standard error does not work.
        let _nobody = self.err.write_all(bytes).and_then(|()| self.err.flush());
    }

    /// Bytes to standard error that are part of the result, as those of a command that ran elsewhere.
    pub fn raw_error(&mut self, bytes: &[u8]) -> Result<()> {
        written(self.err.write_all(bytes).and_then(|()| self.err.flush()))
    }

    /// The last word of a command that failed.
    pub fn failure(&mut self, failure: &Failure) {
        let message = text::one_line(&failure.message);
        let hint = failure.hint.as_deref().map(text::one_line);
        if self.is_json() {
            let body = ErrorBody { code: failure.kind.name(), message: &message, hint: hint.as_deref() };
            // When standard output is closed there is nobody to tell; the exit code says it.
            let _nobody = self.document(&ErrorDocument { error: body }).and_then(|()| self.flush());
            return;
        }
        // What was printed so far comes first when both streams lead to one place.
        let _nobody = self.flush();
        let colours = self.err_sink == Sink::Colours;
        let error = Style::Bad.paint(colours, "error:");
        self.note(format_args!("{error} {message}"));
        if let Some(hint) = hint {
            let label = Style::Head.paint(colours, "hint:");
            self.note(format_args!("{label} {hint}"));
        }
    }
}

fn written(outcome: io::Result<()>) -> Result<()> {
    outcome.map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => Error::OutputClosed,
        _ => Error::io("could not write the result", &error),
    })
}
