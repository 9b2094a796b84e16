//! Downloads of what is known by its length and its digest, which go on where they were broken off.

use std::fs::File;
use std::io::{Seek, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use hyper::StatusCode;
use hyper::header::{CONTENT_RANGE, RANGE};
use wire::api::ErrorKind;

use super::digest::{Digest, Hasher};
use super::http::{Answer, Attempt, Request, Trouble};
use super::root;
use crate::course::Course;
use crate::error::{Error, Result};

/// How often something is tried that fails for now.
pub const ATTEMPTS_MAX: u32 = 5;

/// How often it is told how much has come.
const TELL_INTERVAL: Duration = Duration::from_millis(500);

/// Does something until it succeeds, or it is enough. The first pause is so long, and each other twice as long as the one before.
pub async fn tried<T>(mut pause: Duration, mut work: impl AsyncFnMut() -> Attempt<T>) -> Result<T> {
    let mut attempt = 1;
    loop {
        match work().await {
            Ok(done) => return Ok(done),
            Err(trouble) if !trouble.may_pass || attempt == ATTEMPTS_MAX => return Err(trouble.error),
            Err(trouble) => tracing::info!(error = %trouble.error, "it is asked for again"),
        }
        tokio::time::sleep(pause).await;
        (pause, attempt) = (pause * 2, attempt + 1);
    }
}

/// What is not what it should be.
pub fn differs(what: &str, found: Digest, wanted: Digest) -> Error {
    let message = format!("{what} is not what its digest says: it is {found}, and should be {wanted}");
    Error::new(ErrorKind::Refused, message)
}

/// A file that is being downloaded.
pub struct Download<'a> {
    file: File,
    path: &'a Path,
    what: &'a str,
    digest: Digest,
    size: u64,
    done: u64,
    hasher: Hasher,
}

impl<'a> Download<'a> {
    /// To a new file.
    pub fn new(path: &'a Path, what: &'a str, digest: Digest, size: u64) -> Result<Download<'a>> {
        let (file, hasher) = (root::create(path)?, Hasher::default());
        Ok(Download { file, path, what, digest, size, done: 0, hasher })
    }

    /// Has it come, all of it and nothing else. `get` asks for it, from where the request says.
    pub async fn carry_out(
        mut self,
        get: impl AsyncFn(Request) -> Attempt<Answer>,
        pause: Duration,
        progress: &mut Progress<'_>,
    ) -> Result<()> {
        let before = progress.done;
        tried(pause, async || self.part(&get, before, progress).await).await?;
        self.end()
    }

    async fn part(
        &mut self,
        get: &impl AsyncFn(Request) -> Attempt<Answer>,
        before: u64,
        progress: &mut Progress<'_>,
    ) -> Attempt<()> {
        if self.done == self.size && self.size > 0 {
            return Ok(());
        }
        let mut request = Request::default();
        if self.done > 0 {
            request.headers.push((RANGE, format!("bytes={}-", self.done)));
        }
        let mut answer = get(request).await?;
        if !continues(&answer, self.done) {
            self.restart()?;
        }
        while let Some(chunk) = answer.chunk().await? {
            self.write(&chunk)?;
            progress.at(before + self.done);
        }
        match self.done == self.size {
            true => Ok(()),
            false => Err(Trouble::passing(format!("the answer of `{}` was cut off", answer.place))),
        }
    }

    fn restart(&mut self) -> Result<()> {
        (self.done, self.hasher) = (0, Hasher::default());
        let emptied = self.file.rewind().and_then(|()| self.file.set_len(0));
        emptied.map_err(|error| Error::file("write", self.path, &error))
    }

    /// The next bytes of it.
    pub fn write(&mut self, chunk: &[u8]) -> Result<()> {
        if chunk.len() as u64 > self.size - self.done {
            let message = format!("{} is longer than the {} bytes that it should have", self.what, self.size);
            return Err(Error::new(ErrorKind::Refused, message));
        }
        self.file.write_all(chunk).map_err(|error| Error::file("write", self.path, &error))?;
        self.hasher.update(chunk);
        self.done += chunk.len() as u64;
        Ok(())
    }

    /// Nothing more comes.
    pub fn end(self) -> Result<()> {
        let found = self.hasher.end();
        if found == self.digest { Ok(()) } else { Err(differs(self.what, found, self.digest)) }
    }
}

/// Whether an answer begins where the file ends yet.
fn continues(answer: &Answer, done: u64) -> bool {
    let range = answer.headers.get(CONTENT_RANGE).and_then(|range| range.to_str().ok());
    let start = range.and_then(|range| range.strip_prefix("bytes ")?.split_once('-')?.0.parse::<u64>().ok());
    answer.status == StatusCode::PARTIAL_CONTENT && start == Some(done)
}

/// How much of all downloads has come.
pub struct Progress<'a> {
    total: u64,
    done: u64,
    told: Option<Instant>,
    course: &'a Course,
}

impl<'a> Progress<'a> {
    /// Of so many bytes none has come.
    pub fn new(total: u64, course: &'a Course) -> Progress<'a> {
        Progress { total, done: 0, told: None, course }
    }

    /// So much has come.
    pub fn at(&mut self, done: u64) {
        self.done = done;
        let is_time = self.told.is_none_or(|told| told.elapsed() >= TELL_INTERVAL);
        if is_time || done == self.total {
            self.told = Some(Instant::now());
            let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
            self.course.tell(&format!("downloading {:.1} of {:.1} MiB", mib(done), mib(self.total)));
        }
    }
}
