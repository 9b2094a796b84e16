//! Looking for content in a subtree.
//!
//! ```text
//!   walkers ──hits, a batch at a time──► queue, bounded ──► pages, against credit ──► client
//!      └─ a thread each; they end when the client has cancelled, or when nobody takes from the queue any more
//! ```
//!
//! Which files are looked at is decided as ripgrep does, by paths; what is in them is read through a descriptor that was
//! opened beneath the start without a symlink. A directory that is replaced by a symlink while a search is under way may be
//! gone through, but nothing of what is behind it is read.

use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use grep_matcher::Matcher;
use grep_regex::{RegexMatcher, RegexMatcherBuilder};
use grep_searcher::{BinaryDetection, Searcher, SearcherBuilder, Sink, SinkMatch};
use ignore::overrides::{Override, OverrideBuilder};
use ignore::{DirEntry, WalkBuilder, WalkState};
use rustix::fs::OFlags;
use rustix::io::Errno;
use wire::agent::file::{FileReply, Kind, Place};
use wire::agent::name::RelativePath;
use wire::agent::search::{
    Case, GLOB_BYTES_MAX, GLOBS_MAX, Hit, LINE_BYTES_MAX, Line, PATTERN_BYTES_MAX, SPANS_MAX, SearchQuery,
    Searched, Tell,
};
use wire::agent::{Failure, Reply};

use crate::counted::{Counted, Limit};
use crate::export::Export;
use crate::failure::{failure, nonsense, number};
use crate::session::{Asked, Outcome, Session, reopen};
use crate::stat;
use crate::streamed::{Page, Task};
use crate::ticket::Ticket;

/// The most searches at once. Each has some threads and waits for its client with what it has found.
const SEARCHES_MAX: usize = 8;

/// The most threads of one search: more wait for the same disk.
const THREADS_MAX: usize = 8;

/// Batches that wait for the client to take them.
const BATCHES_MAX: usize = 16;

/// What a batch holds at the most, but for its last hit.
const BATCH_BYTES: usize = 32 << 10;

/// What a page holds at the most, but for its last batch.
const PAGE_BYTES: usize = 64 << 10;

/// What a hit takes in a page besides its path and its line, in estimate.
const HIT_BYTES: usize = 24;

/// The longest line that is searched; a file with a longer one is told as left out.
const HEAP_BYTES_MAX: usize = 4 << 20;

/// What an expression and what is made of it may take.
const EXPRESSION_BYTES_MAX: usize = 10 << 20;

/// How often a search that finds nothing looks whether it is still wanted.
const WANTED_LOOK: Duration = Duration::from_millis(100);

static SEARCHES: Limit = Limit::new(SEARCHES_MAX);

type Unread = (RelativePath, wire::agent::Errno);

/// What all threads of a search share.
struct Search {
    export: Arc<Export>,
    start: Arc<OwnedFd>,
    query: SearchQuery,
    matcher: Option<RegexMatcher>,
    ticket: Arc<Ticket>,
    /// There is nothing to do any more: enough was found, or nobody takes it.
    is_over: AtomicBool,
    hits: AtomicU64,
    files: AtomicU64,
    bytes: AtomicU64,
    _counted: Counted,
}

#[derive(Default)]
struct Batch {
    hits: Vec<Hit>,
    unread: Vec<Unread>,
    bytes: usize,
}

struct Pages {
    search: Arc<Search>,
    batches: Receiver<Batch>,
}

impl Session {
    pub(crate) fn search(&self, asked: &Asked<'_>, place: &Place, query: SearchQuery) -> Outcome {
        Outcome::streamed(self.start_search(asked, place, query))
    }

    fn start_search(&self, asked: &Asked<'_>, place: &Place, query: SearchQuery) -> Result<Pages, Failure> {
        let ticket = asked.ticket.cloned().ok_or_else(|| failure(Errno::INVAL))?;
        let export = self.export().map_err(failure)?.clone();
        let (start, kind) = export.find(place).map_err(failure)?;
        let matcher = query.pattern.as_deref().map(|pattern| matcher(pattern, &query)).transpose()?;
        let path = rustix::fs::readlink(stat::proc_path(&*start), Vec::new()).map_err(failure)?;
        let path = PathBuf::from(std::ffi::OsString::from_vec(path.into_bytes()));
        let globs = globs(&path, &query.globs)?;
        let search = Arc::new(Search {
            export,
            start,
            query,
            matcher,
            ticket,
            is_over: AtomicBool::new(false),
            hits: AtomicU64::new(0),
            files: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            _counted: SEARCHES.one_more().map_err(failure)?,
        });
        let (sender, batches) = sync_channel(BATCHES_MAX);
        let shared = search.clone();
        let thread = std::thread::Builder::new().name("search".to_owned());
        let started = thread.spawn(move || match kind {
            Kind::Directory => shared.directory(&path, globs, sender),
            _ => shared.one_file(sender),
        });
        started.map_err(|_| failure(Errno::AGAIN))?;
        Ok(Pages { search, batches })
    }
}

fn matcher(pattern: &str, query: &SearchQuery) -> Result<RegexMatcher, Failure> {
    if pattern.len() > PATTERN_BYTES_MAX {
        return Err(nonsense(format_args!("a pattern of more than {PATTERN_BYTES_MAX} bytes")));
    }
    RegexMatcherBuilder::new()
        .fixed_strings(query.fixed)
        .case_insensitive(query.case == Case::Insensitive)
        .case_smart(query.case == Case::Smart)
        .word(query.words)
        .line_terminator(Some(b'\n'))
        .size_limit(EXPRESSION_BYTES_MAX)
        .dfa_size_limit(EXPRESSION_BYTES_MAX)
        .build(pattern)
        .map_err(nonsense)
}

fn globs(root: &Path, globs: &[String]) -> Result<Override, Failure> {
    if globs.len() > GLOBS_MAX || globs.iter().any(|glob| glob.len() > GLOB_BYTES_MAX) {
        return Err(nonsense(format_args!(
            "more than {GLOBS_MAX} globs, or one of more than {GLOB_BYTES_MAX} bytes"
        )));
    }
    let mut builder = OverrideBuilder::new(root);
    for glob in globs {
        builder.add(glob).map_err(nonsense)?;
    }
    builder.build().map_err(nonsense)
}

impl Search {
    fn is_wanted(&self) -> bool {
        !self.is_over.load(Ordering::Relaxed) && !self.ticket.is_cancelled()
    }

    fn searcher() -> Searcher {
        SearcherBuilder::new()
            .binary_detection(BinaryDetection::quit(0))
            .line_number(true)
            .heap_limit(Some(HEAP_BYTES_MAX))
            .build()
    }

    /// Goes through a directory with some threads, until all of it has been.
    fn directory(&self, root: &Path, globs: Override, sender: SyncSender<Batch>) {
        let threads = std::thread::available_parallelism().map_or(1, |count| count.get()).min(THREADS_MAX);
        let respects = !self.query.ignored;
        let mut walk = WalkBuilder::new(root);
        walk.standard_filters(respects)
            .hidden(!self.query.hidden)
            .follow_links(false)
            .max_depth(self.query.depth_max.map(|depth| usize::try_from(depth).unwrap_or(usize::MAX)))
            .overrides(globs)
            .threads(threads);
        if respects {
            walk.add_custom_ignore_filename(".rgignore");
        }
        walk.build_parallel().run(|| {
            let (sender, mut searcher) = (sender.clone(), Search::searcher());
            Box::new(move |entry| {
                self.look_at(root, entry, &mut searcher, &sender);
                if self.is_wanted() { WalkState::Continue } else { WalkState::Quit }
            })
        });
    }

    fn look_at(
        &self,
        root: &Path,
        entry: Result<DirEntry, ignore::Error>,
        searcher: &mut Searcher,
        sender: &SyncSender<Batch>,
    ) {
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) => return self.could_not_walk(root, &error, sender),
        };
        if !entry.file_type().is_some_and(|kind| kind.is_file()) {
            return;
        }
        let Some(path) = below(root, entry.path()) else { return };
        let Ok(path) = RelativePath::new(path) else {
            return;
        };
        let opened = match self.matcher {
            Some(_) => self.export.open_to_read(self.start.as_fd(), path.as_bytes()).map(Some),
            None => Ok(None),
        };
        self.file(path, opened, searcher, sender);
    }

    fn could_not_walk(&self, root: &Path, error: &ignore::Error, sender: &SyncSender<Batch>) {
        let errno = error.io_error().and_then(Errno::from_io_error).unwrap_or(Errno::IO);
        let path = path_of(error).and_then(|path| below(root, path));
        let Some(path) = path.and_then(|path| RelativePath::new(path).ok()) else { return };
        // One that has gone meanwhile is not missed.
        if errno != Errno::NOENT {
            self.unread(path, errno, sender);
        }
    }

    fn one_file(&self, sender: SyncSender<Batch>) {
        let opened = match self.matcher {
            Some(_) => reopen(&self.start, OFlags::RDONLY | OFlags::NONBLOCK).map(Some),
            None => Ok(None),
        };
        self.file(RelativePath::default(), opened, &mut Search::searcher(), &sender);
    }

    fn file(
        &self,
        path: RelativePath,
        opened: Result<Option<OwnedFd>, Errno>,
        searcher: &mut Searcher,
        sender: &SyncSender<Batch>,
    ) {
        let file = match opened {
            Ok(file) => file,
            // It has gone, or become something else, meanwhile.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::INVAL) => return,
            Err(errno) => return self.unread(path, errno, sender),
        };
        self.files.fetch_add(1, Ordering::Relaxed);
        let mut hits = Hits { search: self, path, batch: Batch::default(), sender };
        let (Some(file), Some(matcher)) = (file, &self.matcher) else {
            hits.add(None);
            return hits.send();
        };
        let content = Content { file: file.into(), search: self };
        let searched = searcher.search_reader(matcher, content, &mut hits);
        hits.send();
        if let Err(error) = searched
            && self.is_wanted()
        {
            let path = hits.path.clone();
            self.unread(path, Errno::from_io_error(&error).unwrap_or(Errno::FBIG), sender);
        }
    }

    fn unread(&self, path: RelativePath, errno: Errno, sender: &SyncSender<Batch>) {
        self.send(Batch { unread: vec![(path, number(errno))], ..Batch::default() }, sender);
    }

    fn send(&self, batch: Batch, sender: &SyncSender<Batch>) {
        if sender.send(batch).is_err() {
            self.is_over.store(true, Ordering::Relaxed);
        }
    }
}

/// The path of a walker's error.
fn path_of(error: &ignore::Error) -> Option<&Path> {
    match error {
        ignore::Error::WithPath { path, .. } => Some(path),
        ignore::Error::WithDepth { err, .. } | ignore::Error::WithLineNumber { err, .. } => path_of(err),
        _ => None,
    }
}

fn below<'a>(root: &Path, path: &'a Path) -> Option<&'a [u8]> {
    Some(path.strip_prefix(root).ok()?.as_os_str().as_bytes())
}

/// A file's content, which ends with an error once nobody wants it.
struct Content<'a> {
    file: std::fs::File,
    search: &'a Search,
}

impl Read for Content<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if !self.search.is_wanted() {
            return Err(io::Error::other("the search is over"));
        }
        let count = self.file.read(buffer)?;
        self.search.bytes.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

/// The hits of one file.
struct Hits<'a> {
    search: &'a Search,
    path: RelativePath,
    batch: Batch,
    sender: &'a SyncSender<Batch>,
}

impl Hits<'_> {
    /// Adds a hit. `false` when there are enough.
    fn add(&mut self, line: Option<Line>) -> bool {
        let before = self.search.hits.fetch_add(1, Ordering::Relaxed);
        if before >= self.search.query.hits_max {
            self.search.is_over.store(true, Ordering::Relaxed);
            return false;
        }
        let text = line.as_ref().map_or(0, |line| line.text.len() + line.spans.len() * 8);
        self.batch.bytes += self.path.as_bytes().len() + text + HIT_BYTES;
        self.batch.hits.push(Hit { path: self.path.clone(), line });
        if self.batch.bytes >= BATCH_BYTES {
            self.send();
        }
        self.search.is_wanted()
    }

    fn send(&mut self) {
        let batch = std::mem::take(&mut self.batch);
        if !batch.hits.is_empty() {
            self.search.send(batch, self.sender);
        }
    }
}

impl Sink for &mut Hits<'_> {
    type Error = io::Error;

    fn matched(&mut self, _: &Searcher, found: &SinkMatch<'_>) -> Result<bool, io::Error> {
        if self.search.query.tell == Tell::Files {
            self.add(None);
            return Ok(false);
        }
        let bytes = found.bytes();
        let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
        let text = &bytes[..bytes.len().min(LINE_BYTES_MAX)];
        let mut spans = Vec::new();
        if let Some(matcher) = &self.search.matcher {
            // This matcher has no errors.
            let _never = matcher.find_iter(text, |span| {
                let place = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
                spans.push((place(span.start()), place(span.end())));
                spans.len() < SPANS_MAX
            });
        }
        let number = found.line_number().unwrap_or_default();
        Ok(self.add(Some(Line { number, text: text.to_vec(), cut: text.len() < bytes.len(), spans })))
    }
}

impl Task for Pages {
    fn next(&mut self, _: &Session) -> Result<Page, Errno> {
        let mut page = loop {
            match self.batches.recv_timeout(WANTED_LOOK) {
                Ok(batch) => break batch,
                Err(RecvTimeoutError::Disconnected) => return Ok(self.last_page()),
                Err(RecvTimeoutError::Timeout) if self.search.ticket.is_cancelled() => {
                    return Err(Errno::INTR);
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        };
        while page.bytes < PAGE_BYTES
            && let Ok(more) = self.batches.try_recv()
        {
            page.bytes += more.bytes;
            page.hits.extend(more.hits);
            page.unread.extend(more.unread);
        }
        let reply = FileReply::Searched { hits: page.hits, unread: page.unread, searched: None };
        Ok(Page { reply: Reply::File(reply), payload: Vec::new(), last: false })
    }
}

impl Pages {
    fn last_page(&self) -> Page {
        let search = &self.search;
        let searched = Searched {
            files: search.files.load(Ordering::Relaxed),
            bytes: search.bytes.load(Ordering::Relaxed),
            limited: search.hits.load(Ordering::Relaxed) > search.query.hits_max,
        };
        let reply = FileReply::Searched { hits: Vec::new(), unread: Vec::new(), searched: Some(searched) };
        Page { reply: Reply::File(reply), payload: Vec::new(), last: true }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        self.search.is_over.store(true, Ordering::Relaxed);
    }
}
