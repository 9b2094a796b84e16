//! A piece of work that takes its time: what is said of it meanwhile, and its being called off.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use wire::api::ErrorKind;

use crate::error::{Error, Result};

/// How a piece of work is followed. It is called off when its [`Client`] is dropped.
pub struct Course {
    told: Box<dyn Fn(Said<'_>) + Send + Sync>,
    called_off: OwnedFd,
}

/// What is said of a piece of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said<'a> {
    /// A part of it begins: there are few.
    Begun(&'a str),
    /// More of the part that is under way, which may be often.
    More(&'a str),
}

impl<'a> Said<'a> {
    /// For whoever wants to know it all.
    pub fn text(self) -> &'a str {
        let (Said::Begun(text) | Said::More(text)) = self;
        text
    }
}

/// Whoever wants a piece of work to be done.
#[derive(Debug)]
pub struct Client {
    _end: OwnedFd,
}

impl Course {
    /// A piece of work of which each part is told before it begins.
    pub fn new(told: impl Fn(Said<'_>) + Send + Sync + 'static) -> Result<(Course, Client)> {
        let failed =
            |error: std::io::Error| Error::new(ErrorKind::Failure, format!("could not make a pipe: {error}"));
        let (called_off, end) = std::io::pipe().map_err(failed)?;
        Ok((Course { told: Box::new(told), called_off: called_off.into() }, Client { _end: end.into() }))
    }

    /// The next part begins.
    pub fn begin(&self, part: &str) -> Result<()> {
        self.check()?;
        (self.told)(Said::Begun(part));
        Ok(())
    }

    /// Says more of the part that is under way.
    pub fn tell(&self, what: &str) {
        (self.told)(Said::More(what));
    }

    /// An error once nobody wants it any more.
    pub fn check(&self) -> Result<()> {
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        match poll(&mut [PollFd::new(&self.called_off, PollFlags::IN)], Some(&now)) {
            Ok(1..) => Err(called_off()),
            // What cannot be asked now is asked again.
            _ => Ok(()),
        }
    }
}

/// What is answered to somebody who has gone.
pub(crate) fn called_off() -> Error {
    Error::new(ErrorKind::Interrupted, "it was called off")
}

/// Becomes readable when it is called off.
impl AsFd for Course {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.called_off.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_called_off_by_the_end_of_its_client() {
        let (course, client) = Course::new(|_| ()).unwrap();
        course.begin("a part").unwrap();
        drop(client);
        assert_eq!(course.begin("another").unwrap_err().kind, ErrorKind::Interrupted);
    }
}
