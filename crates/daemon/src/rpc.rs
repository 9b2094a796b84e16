//! What each method of the API does. One file for each noun, as in `wire::api`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use tokio::sync::mpsc;
use wire::api::Call;
use wire::api::id::{HandleId, TunnelId};
use wire::paths::Paths;

use crate::database::Database;
use crate::owner::OwnerHandle;
use crate::session::{ClientContext, Done, Effect, done, done_with};

pub mod cache;
pub mod daemon;
pub mod event;
pub mod file;
pub mod image;
pub mod machine;
pub mod mount;
pub mod operation;
pub mod process;
pub mod prompt;
pub mod status;
pub mod thread;
pub mod tunnel;
pub mod vm;
pub mod workspace;

use file::OpenNode;

/// What handlers have of the daemon.
#[derive(Clone)]
pub struct Daemon {
    /// The owner of the state.
    pub owner: OwnerHandle,
    /// Where its files are.
    pub paths: Paths,
    /// When it started.
    pub since: SystemTime,
    /// Where detached processes are written.
    pub database: Database,
    /// Numbers of processes that were given out.
    pub processes: Arc<AtomicU64>,
    /// Numbers of tunnels that were given out.
    pub tunnels: Arc<AtomicU64>,
    /// Who makes or removes an image, or a microVM from one.
    pub images: crate::images::Images,
    /// Who does something to the workspace of a microVM.
    pub workspaces: crate::workspace::Workspaces,
    /// What runs guests.
    pub engine: Arc<dyn ::machine::engine::Engine>,
    /// Who adds and removes domains, where the system has them.
    pub domains: Option<crate::domains::Domains>,
    /// Ends the daemon once the mounts are gone.
    pub end: mpsc::Sender<crate::Farewell>,
}

impl Daemon {
    /// A tunnel's id that this daemon has not used yet.
    pub fn new_tunnel(&self) -> TunnelId {
        TunnelId::new(self.tunnels.fetch_add(1, Ordering::Relaxed) + 1)
    }
}

/// What a call needs of its session.
pub enum Need {
    /// What a handle stands for.
    Use(HandleId),
    /// The same, for good.
    Take(HandleId),
    /// What two handles stand for, if each is of a file.
    Files(HandleId, HandleId),
}

/// What a session gives to a call.
#[derive(Default)]
pub struct Lent {
    /// What the first handle that the call names stands for.
    pub node: Option<OpenNode>,
    /// And the second.
    pub other: Option<OpenNode>,
}

/// What `call` needs of its session, if anything.
pub fn needs(call: &Call) -> Option<Need> {
    match call {
        Call::FileList(list) => Some(Need::Use(list.handle)),
        Call::FileRead(read) => Some(Need::Use(read.handle)),
        Call::FileWrite(write) => Some(Need::Use(write.handle)),
        Call::FileRemoved(next) => Some(Need::Use(next.handle)),
        Call::FileFound(next) => Some(Need::Use(next.handle)),
        Call::FileHits(next) => Some(Need::Use(next.handle)),
        Call::FileChanges(next) => Some(Need::Use(next.handle)),
        Call::FileDigest(digest) => Some(Need::Use(digest.handle)),
        Call::FileCopyRange(copy) => Some(Need::Files(copy.from, copy.to)),
        Call::FileSync(sync) => Some(Need::Use(sync.handle)),
        Call::FileClose(close) => Some(Need::Take(close.handle)),
        _ => None,
    }
}

/// Carries out a call. `lent` is what [`needs`] asked for.
pub async fn handle(daemon: Daemon, context: ClientContext, call: Call, lent: Lent) -> Done {
    use wire::api;
    let Lent { node, other } = lent;
    match call {
        Call::DaemonHello(hello) => done::<api::daemon::Hello>(hello.answer()),
        Call::DaemonStatus(_) => done::<api::daemon::Status>(daemon::status(&daemon).await),
        Call::DaemonStop(stop) => daemon::stop(&daemon, stop).await,
        Call::StatusGet(_) => done::<api::status::Get>(status::get(&daemon).await),
        Call::MountCreate(create) => {
            done::<api::mount::Create>(mount::create(&daemon, &context, create).await)
        }
        Call::MountRemove(remove) => done::<api::mount::Remove>(mount::remove(&daemon, remove).await),
        Call::MountList(_) => done::<api::mount::List>(mount::list(&daemon).await),
        Call::MachineConnect(connect) => {
            done::<api::machine::Connect>(machine::connect(&daemon, &context, connect).await)
        }
        Call::MachineDisconnect(disconnect) => {
            done::<api::machine::Disconnect>(machine::disconnect(&daemon, disconnect).await)
        }
        Call::MachineReconnect(redial) => {
            done::<api::machine::Redial>(machine::reconnect(&daemon, &context, redial).await)
        }
        Call::MachineDoctor(doctor) => {
            done::<api::machine::Doctor>(machine::doctor(&daemon, &context, doctor).await)
        }
        Call::CacheShow(show) => done::<api::cache::Show>(cache::show(&daemon, show).await),
        Call::CacheClear(clear) => done::<api::cache::Clear>(cache::clear(&daemon, clear).await),
        Call::ProcessRun(run) => process::run(&daemon, &context, run).await,
        Call::ProcessAttach(attach) => process::attach(&daemon, &context, attach).await,
        Call::ProcessKill(kill) => done::<api::process::Kill>(process::kill(&daemon, &context, kill).await),
        Call::TunnelOpen(open) => done::<api::tunnel::Open>(tunnel::open(&daemon, &context, open).await),
        Call::TunnelList(_) => done::<api::tunnel::List>(tunnel::list(&daemon).await),
        Call::TunnelClose(close) => done::<api::tunnel::Close>(tunnel::close(&daemon, close).await),
        Call::ThreadNew(new) => done::<api::thread::New>(thread::new(&daemon, &context, new).await),
        Call::ThreadList(list) => done::<api::thread::List>(thread::list(&daemon, list).await),
        Call::ThreadStatus(status) => done::<api::thread::Status>(thread::status(&daemon, status).await),
        Call::ThreadCapture(capture) => done::<api::thread::Capture>(thread::capture(&daemon, capture).await),
        Call::ThreadDiff(diff) => done::<api::thread::Diff>(thread::diff(&daemon, diff).await),
        Call::ThreadLog(log) => done::<api::thread::Log>(thread::log(&daemon, log).await),
        Call::ThreadLand(land) => done::<api::thread::Land>(thread::land(&daemon, land).await),
        Call::ThreadSwitch(switch) => done::<api::thread::Switch>(thread::switch(&daemon, switch).await),
        Call::ThreadUndo(undo) => done::<api::thread::Undo>(thread::undo(&daemon, undo).await),
        Call::ThreadCollect(collect) => done::<api::thread::Collect>(thread::collect(&daemon, collect).await),
        Call::ThreadDrop(drop) => done::<api::thread::Drop>(thread::drop(&daemon, drop).await),
        Call::VmCreate(create) => done::<api::vm::Create>(vm::create(&daemon, create).await),
        Call::VmDeleteSnapshot(gone) => {
            done::<api::vm::DeleteSnapshot>(vm::delete_snapshot(&daemon, gone).await)
        }
        Call::VmSnapshot(taken) => done::<api::vm::Snapshot>(vm::snapshot(&daemon, taken).await),
        Call::VmFork(fork) => done::<api::vm::Fork>(vm::fork(&daemon, fork).await),
        Call::VmStart(start) => done::<api::vm::Start>(vm::start(&daemon, start).await),
        Call::VmStop(stop) => done::<api::vm::Stop>(vm::stop(&daemon, stop).await),
        Call::VmKill(kill) => done::<api::vm::Kill>(vm::kill(&daemon, kill).await),
        Call::VmDelete(delete) => done::<api::vm::Delete>(vm::delete(&daemon, delete).await),
        Call::VmShow(show) => done::<api::vm::Show>(vm::show(&daemon, show).await),
        Call::VmList(_) => done::<api::vm::List>(vm::list(&daemon).await),
        Call::VmSet(set) => done::<api::vm::Set>(vm::set(&daemon, set).await),
        Call::VmPing(ping) => done::<api::vm::Ping>(vm::guest::ping(&daemon, &context, ping).await),
        Call::VmStats(stats) => done::<api::vm::Stats>(vm::guest::stats(&daemon, &context, stats).await),
        Call::VmPorts(ports) => done::<api::vm::Ports>(vm::guest::ports(&daemon, &context, ports).await),
        Call::VmLogs(logs) => done::<api::vm::Logs>(vm::logs(&daemon, logs).await),
        Call::ImageBuild(build) => done::<api::image::Build>(image::build(&daemon, &context, build).await),
        Call::ImagePromote(promote) => {
            done::<api::image::Promote>(image::promote(&daemon, &context, promote).await)
        }
        Call::ImageShow(show) => done::<api::image::Show>(image::show(&daemon, show).await),
        Call::ImageList(_) => done::<api::image::List>(image::list(&daemon).await),
        Call::ImageDelete(delete) => done::<api::image::Delete>(image::delete(&daemon, delete).await),
        Call::WorkspacePrepare(prepare) => {
            done::<api::workspace::Prepare>(workspace::prepare(&daemon, &context, prepare).await)
        }
        Call::WorkspaceExport(export) => {
            done::<api::workspace::Export>(workspace::export(&daemon, &context, export).await)
        }
        Call::WorkspaceShow(show) => done::<api::workspace::Show>(workspace::show(&daemon, show).await),
        Call::WorkspaceList(_) => done::<api::workspace::List>(workspace::list(&daemon).await),
        Call::WorkspaceForget(forget) => {
            done::<api::workspace::Forget>(workspace::forget(&daemon, forget).await)
        }
        Call::OperationList(_) => done::<api::operation::List>(operation::list(&daemon).await),
        Call::OperationShow(show) => done::<api::operation::Show>(operation::show(&daemon, show).await),
        Call::OperationWait(wait) => done::<api::operation::Wait>(operation::wait(&daemon, wait).await),
        Call::OperationCancel(cancel) => {
            done::<api::operation::Cancel>(operation::cancel(&daemon, cancel).await)
        }
        Call::FileStat(stat) => done::<api::file::Stat>(file::stat(&daemon, &context, stat).await),
        Call::FileOpenDirectory(open) => file::open_directory(&daemon, &context, open).await,
        Call::FileList(list) => file::list(list, node).await,
        Call::FileOpen(open) => file::open(&daemon, &context, open).await,
        Call::FileRead(read) => done::<api::file::Read>(file::read(read, node).await),
        Call::FileWrite(write) => done::<api::file::Write>(file::write(write, node).await),
        Call::FileGet(get) => done::<api::file::Get>(file::get(&daemon, &context, get).await),
        Call::FilePut(put) => done::<api::file::Put>(file::put(&daemon, &context, put).await),
        Call::FileGetMany(get) => done::<api::file::GetMany>(file::many::get(&daemon, &context, get).await),
        Call::FilePutMany(put) => done::<api::file::PutMany>(file::many::put(&daemon, &context, put).await),
        Call::FileSync(sync) => done::<api::file::Sync>(file::sync(sync, node).await),
        Call::FileClose(close) => done::<api::file::Close>(file::close(close, node).await),
        Call::FileSetAttributes(set) => {
            done::<api::file::SetAttributes>(file::set_attributes(&daemon, &context, set).await)
        }
        Call::FileMakeDirectory(make) => {
            done::<api::file::MakeDirectory>(file::make_directory(&daemon, &context, make).await)
        }
        Call::FileMakeLink(make) => {
            done::<api::file::MakeLink>(file::make_link(&daemon, &context, make).await)
        }
        Call::FileRemove(remove) => done::<api::file::Remove>(file::remove(&daemon, &context, remove).await),
        Call::FileRemoveTree(remove) => file::trees::remove(&daemon, &context, remove).await,
        Call::FileRemoved(next) => file::trees::removed(next, node).await,
        Call::FileFind(find) => file::trees::find(&daemon, &context, find).await,
        Call::FileFound(next) => file::trees::found(next, node).await,
        Call::FileSearch(search) => file::trees::search(&daemon, &context, search).await,
        Call::FileHits(next) => file::trees::hits(next, node).await,
        Call::FileWatch(watch) => file::trees::watch(&daemon, &context, watch).await,
        Call::FileChanges(next) => file::trees::changes(next, node).await,
        Call::FileCopyRange(copy) => {
            done::<api::file::CopyRange>(file::content::copy_range(copy, node, other).await)
        }
        Call::FileDigest(digest) => done::<api::file::Digest>(file::content::digest(digest, node).await),
        Call::FileRename(rename) => done::<api::file::Rename>(file::rename(&daemon, &context, rename).await),
        Call::EventSubscribe(subscribe) => event::subscribe(&daemon, &context, subscribe).await,
        Call::EventUnsubscribe(unsubscribe) => done_with::<api::event::Unsubscribe>(
            Ok(api::event::Unsubscribed {}),
            Effect::Unsubscribed(unsubscribe.subscription),
        ),
        Call::PromptRequest(request) => {
            done::<api::prompt::Request>(prompt::request(&daemon, &context, request).await)
        }
    }
}
