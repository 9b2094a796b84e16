//! What is done with a whole tree, on the machine itself, and told page by page.
//!
//! ```text
//!   begin ──► handle ──next──► page ──next──► … last page
//!               └──closed, or the client gone──► cancelled on the machine
//! ```

use std::sync::Arc;

use ::remote::client::{
    AgentClient, CallError, FileOutcome, FoundPage, PageStream, RemovalPage, SearchPage, WatchPage,
};
use wire::agent::Errno as FarErrno;
use wire::agent::file::{Entry as FarEntry, Place, Time, WatchEvent};
use wire::agent::find::FindQuery;
use wire::agent::name::RelativePath;
use wire::agent::search as far;
use wire::api::file::{Begun, Links, NextRemoved, Opened, Progress, RemoveTree, RemovedNames};
use wire::api::find::{Find, Found, FoundFile, LeftOut, Next};
use wire::api::id::HandleId;
use wire::api::search::{Case, Hit, Hits, Line, NextHits, Search, Searched, Tell};
use wire::api::watch::{Change, ChangeEvent, Changes, NextChanges, Watch};
use wire::api::{ErrorKind, ErrorObject, Method};

use super::sessions::FarSession;
use super::{OpenNode, Subject, entry, far_kind, kind_of, no_handle, usage};
use crate::failure::plain;
use crate::rpc::Daemon;
use crate::session::{ClientContext, Done, Effect, done_with, failed};

/// Credit for pages: one and the next.
const WINDOW_BYTES: u32 = 256 << 10;

/// Something under way on a machine. Dropped, it is cancelled there.
pub struct Tree {
    pages: Pages,
    what: &'static str,
    shown: String,
    _session: Arc<FarSession>,
}

enum Pages {
    Found(PageStream<FoundPage>),
    Removal(PageStream<RemovalPage>),
    Hits(PageStream<SearchPage>),
    Changes(PageStream<WatchPage>),
}

/// What a tree's pages may be.
trait Paged: FileOutcome + Default {
    /// The stream of such pages; `None` for a tree that has others.
    fn of(pages: &mut Pages) -> Option<&mut PageStream<Self>>;
}

macro_rules! paged {
    ($($variant:ident = $page:ty;)*) => {$(
        impl Paged for $page {
            fn of(pages: &mut Pages) -> Option<&mut PageStream<$page>> {
                match pages {
                    Pages::$variant(pages) => Some(pages),
                    _ => None,
                }
            }
        }
    )*};
}

paged! {
    Found = FoundPage;
    Removal = RemovalPage;
    Hits = SearchPage;
    Changes = WatchPage;
}

/// What the machine has left as it is.
fn left_out(path: &RelativePath, errno: FarErrno) -> LeftOut {
    let error = ::remote::errno::here(errno);
    LeftOut { path: path.as_bytes().into(), reason: plain(&error) }
}

/// A request that the machine has found to say nothing sensible is the user's mistake.
fn refused(what: &str, shown: &str, error: &CallError) -> ErrorObject {
    const EINVAL: FarErrno = FarErrno(22);
    match error {
        CallError::Failed(failure) if failure.errno == EINVAL && !failure.detail.is_empty() => {
            // The reason may be a drawing of several lines.
            let detail = failure.detail.split_whitespace().collect::<Vec<_>>().join(" ");
            let detail = detail.replace(char::is_control, " ");
            ErrorObject::new(ErrorKind::Usage, format!("could not {what} `{shown}`: {detail}"))
        }
        other => super::refused(what, shown, other),
    }
}

impl Tree {
    fn new(pages: Pages, subject: &Subject<'_>, session: Arc<FarSession>) -> Tree {
        Tree { pages, what: subject.what, shown: subject.shown(), _session: session }
    }

    /// Asks for something to be done with what the subject names, or points to, on its machine. Gives what that is, too.
    async fn begin(
        subject: &Subject<'_>,
        ask: impl FnOnce(&AgentClient, Place) -> Pages,
    ) -> Result<(HandleId, FarEntry, Tree), ErrorObject> {
        let (session, start) = subject.find(Links::Follow).await?;
        let pages = ask(session.client(), start.place);
        Ok((subject.context.new_handle(), start.entry, Tree::new(pages, subject, session)))
    }

    /// The outcome of asking for the next page: none behind the last.
    fn page<P>(&self, page: Option<Result<P, CallError>>) -> Result<Option<P>, ErrorObject> {
        page.transpose().map_err(|error| refused(self.what, &self.shown, &error))
    }
}

/// Opens a tree, which is then asked for by `handle`.
fn begun<M: Method>(outcome: Result<(HandleId, M::Reply, Tree), ErrorObject>) -> Done {
    match outcome {
        Ok((handle, reply, tree)) => {
            done_with::<M>(Ok(reply), Effect::Opened(handle, OpenNode::Tree(Box::new(tree))))
        }
        Err(error) => failed(error),
    }
}

/// Gives a page out, and the tree back.
fn page_of<M: Method>(handle: HandleId, page: Result<M::Reply, ErrorObject>, tree: Box<Tree>) -> Done {
    done_with::<M>(page, Effect::Opened(handle, OpenNode::Tree(tree)))
}

fn tree(handle: HandleId, node: Option<OpenNode>) -> Result<Box<Tree>, ErrorObject> {
    match node {
        Some(OpenNode::Tree(tree)) => Ok(tree),
        Some(OpenNode::File(_) | OpenNode::Directory(_)) => Err(not_of_this(handle)),
        None => Err(no_handle(handle)),
    }
}

fn not_of_this(handle: HandleId) -> ErrorObject {
    usage(format!("{handle} stands for something else"))
}

/// Answers with the next page of a tree; behind the last with an empty one.
async fn next_page<M: Method, P: Paged>(
    handle: HandleId,
    node: Option<OpenNode>,
    reply: impl FnOnce(P, Progress) -> M::Reply,
) -> Done {
    let mut tree = match tree(handle, node) {
        Ok(tree) => tree,
        Err(error) => return failed(error),
    };
    let Some(pages) = P::of(&mut tree.pages) else {
        return page_of::<M>(handle, Err(not_of_this(handle)), tree);
    };
    let page = pages.next().await;
    let page = tree.page(page).map(|page| match page {
        Some(page) => reply(page, Progress::More),
        None => reply(P::default(), Progress::End),
    });
    page_of::<M>(handle, page, tree)
}

fn all_left_out(unread: &[(RelativePath, FarErrno)]) -> Vec<LeftOut> {
    unread.iter().map(|(path, errno)| left_out(path, *errno)).collect()
}

/// `file.find`
pub async fn find(daemon: &Daemon, context: &ClientContext, find: Find) -> Done {
    begun::<Find>(begin_find(daemon, context, find).await)
}

async fn begin_find(
    daemon: &Daemon,
    context: &ClientContext,
    find: Find,
) -> Result<(HandleId, Opened, Tree), ErrorObject> {
    let subject = Subject::new(daemon, context, "search", &find.source, &find.caller)?;
    let query = FindQuery {
        names: find.names,
        ignore_case: find.ignore_case,
        kinds: find.kinds.into_iter().map(far_kind).collect(),
        depth_max: find.depth_max,
        changed_since: find
            .changed_since
            .map(|time| Time { seconds: time.seconds, nanoseconds: time.nanoseconds }),
        attributes: find.attributes,
    };
    let ask = |client: &AgentClient, start| Pages::Found(client.find(start, query, WINDOW_BYTES));
    let (handle, start, tree) = Tree::begin(&subject, ask).await?;
    Ok((handle, Opened { handle, entry: entry(find.source.base_name(), &start, None) }, tree))
}

/// `file.found`
pub async fn found(next: Next, node: Option<OpenNode>) -> Done {
    next_page::<Next, _>(next.handle, node, |FoundPage { found, unread }, progress| Found {
        found: found.iter().map(found_file).collect(),
        left_out: all_left_out(&unread),
        progress,
    })
    .await
}

fn found_file(found: &wire::agent::find::Found) -> FoundFile {
    let path = found.path.as_bytes();
    let name = path.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
    FoundFile {
        path: path.into(),
        kind: kind_of(found.kind),
        entry: found.entry.as_ref().map(|far| entry(name, far, None)),
    }
}

/// `file.remove_tree`
pub async fn remove(daemon: &Daemon, context: &ClientContext, remove: RemoveTree) -> Done {
    begun::<RemoveTree>(begin_removal(daemon, context, remove).await)
}

async fn begin_removal(
    daemon: &Daemon,
    context: &ClientContext,
    remove: RemoveTree,
) -> Result<(HandleId, Begun, Tree), ErrorObject> {
    let subject = Subject::new(daemon, context, "remove", &remove.source, &remove.caller)?;
    let parent = subject.parent().await?;
    parent.session.forget(subject.path);
    let pages = parent.session.client().remove_tree(parent.place(), parent.name.clone(), WINDOW_BYTES);
    let handle = context.new_handle();
    let tree = Tree::new(Pages::Removal(pages), &subject, parent.session);
    Ok((handle, Begun { handle }, tree))
}

/// `file.removed`
pub async fn removed(next: NextRemoved, node: Option<OpenNode>) -> Done {
    next_page::<NextRemoved, _>(next.handle, node, |RemovalPage { removed, kept }, progress| RemovedNames {
        removed,
        kept: all_left_out(&kept),
        progress,
    })
    .await
}

/// `file.search`
pub async fn search(daemon: &Daemon, context: &ClientContext, search: Search) -> Done {
    begun::<Search>(begin_search(daemon, context, search).await)
}

async fn begin_search(
    daemon: &Daemon,
    context: &ClientContext,
    search: Search,
) -> Result<(HandleId, Begun, Tree), ErrorObject> {
    let subject = Subject::new(daemon, context, "search", &search.source, &search.caller)?;
    let query = far::SearchQuery {
        pattern: search.pattern,
        fixed: search.fixed,
        case: match search.case {
            Case::Sensitive => far::Case::Sensitive,
            Case::Insensitive => far::Case::Insensitive,
            Case::Smart => far::Case::Smart,
        },
        words: search.words,
        globs: search.globs,
        ignored: search.ignored,
        hidden: search.hidden,
        tell: match search.tell {
            Tell::Lines => far::Tell::Lines,
            Tell::Files => far::Tell::Files,
        },
        depth_max: search.depth_max,
        hits_max: search.hits_max.unwrap_or(u64::MAX),
    };
    let ask = |client: &AgentClient, start| Pages::Hits(client.search(start, query, WINDOW_BYTES));
    let (handle, _, tree) = Tree::begin(&subject, ask).await?;
    Ok((handle, Begun { handle }, tree))
}

/// `file.hits`
pub async fn hits(next: NextHits, node: Option<OpenNode>) -> Done {
    next_page::<NextHits, _>(next.handle, node, |SearchPage { hits, unread, searched }, progress| Hits {
        hits: hits.into_iter().map(hit).collect(),
        left_out: all_left_out(&unread),
        searched: searched.map(|far::Searched { files, bytes, limited }| Searched { files, bytes, limited }),
        progress,
    })
    .await
}

fn hit(hit: far::Hit) -> Hit {
    let line =
        hit.line.map(|far::Line { number, text, cut, spans }| Line { number, text: text.into(), cut, spans });
    Hit { path: hit.path.as_bytes().into(), line }
}

/// `file.watch`
pub async fn watch(daemon: &Daemon, context: &ClientContext, watch: Watch) -> Done {
    begun::<Watch>(begin_watch(daemon, context, watch).await)
}

async fn begin_watch(
    daemon: &Daemon,
    context: &ClientContext,
    watch: Watch,
) -> Result<(HandleId, Begun, Tree), ErrorObject> {
    let subject = Subject::new(daemon, context, "watch", &watch.source, &watch.caller)?;
    let ask =
        |client: &AgentClient, start| Pages::Changes(client.watch(start, watch.recursive, WINDOW_BYTES));
    let (handle, _, tree) = Tree::begin(&subject, ask).await?;
    Ok((handle, Begun { handle }, tree))
}

/// `file.changes`
pub async fn changes(next: NextChanges, node: Option<OpenNode>) -> Done {
    next_page::<NextChanges, _>(next.handle, node, |WatchPage { changes, rescan }, progress| Changes {
        changes: changes.into_iter().map(|(path, event)| change(&path, event)).collect(),
        rescan,
        progress,
    })
    .await
}

fn change(path: &RelativePath, event: WatchEvent) -> Change {
    let event = match event {
        WatchEvent::Created => ChangeEvent::Created,
        WatchEvent::Modified => ChangeEvent::Modified,
        WatchEvent::Removed => ChangeEvent::Removed,
    };
    Change { path: path.as_bytes().into(), event }
}
