//! A place on a machine, as it was given, and what is below.

use wire::api::find::LeftOut;
use wire::api::machine::{Machine, Source};
use wire::bytestring::ByteString;

use crate::error::{Error, Result};
use crate::output::Output;
use crate::output::text::one_line;

/// Where something is on a machine.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// Which machine.
    pub machine: &'a Machine,
    /// The path there.
    pub path: &'a ByteString,
}

impl<'a> Place<'a> {
    /// That of a source. A thread has none.
    pub fn of(source: &'a Source) -> Result<Place<'a>> {
        match source {
            Source::Files { machine, path } => Ok(Place { machine, path }),
            Source::Thread { .. } => {
                let message = format!("`{source}` is a thread; its files are where it is mounted");
                Err(Error::usage(message).hint("stead thread list"))
            }
        }
    }

    /// The path of what is below, beginning with this as it was given.
    pub fn path_of(&self, below: &ByteString) -> ByteString {
        match self.path.as_bytes() {
            b"" => below.clone(),
            path if path.ends_with(b"/") => ByteString::from([path, below.as_bytes()].concat()),
            path => ByteString::from([path, b"/", below.as_bytes()].concat()),
        }
    }

    /// What is below.
    pub fn source_of(&self, below: &ByteString) -> Result<Source> {
        Source::files(self.machine.clone(), self.path_of(below)).map_err(Error::usage)
    }

    /// Tells of what is below and could not be read. Says how much that is.
    pub fn tell_unread(&self, left_out: &[LeftOut], output: &mut Output) -> u64 {
        for LeftOut { path, reason } in left_out {
            let what = self.path_of(path);
            output.note(one_line(&format!("error: could not read `{what}`: {reason}")));
        }
        left_out.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_begins_with_the_directory_as_it_was_given() {
        let join = |directory: &str| {
            let place = Place { machine: &Machine::Host, path: &directory.into() };
            place.path_of(&"a/b".into()).to_string()
        };
        assert_eq!(["", "/", "src", "/src"].map(join), ["a/b", "/a/b", "src/a/b", "/src/a/b"]);
    }
}
