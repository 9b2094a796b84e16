mod client;
pub(crate) mod disk;
mod hostile;

use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use nfs3_types::nfs3::{
    self, NFS_PROGRAM, Nfs3Option, Nfs3Result, createhow3, createverf3, nfs_fh3, nfsstat3, nfstime3, sattr3,
    set_mtime, stable_how,
};
use nfs3_types::xdr_codec::{Pack, Unpack};
use vfs::Options;

use super::*;
use client::{Client, at, mode};
use disk::{Disk, Faults};

/// How long anything here may take.
const DEADLINE: Duration = Duration::from_secs(30);

/// A directory, and what a server keeps for it.
struct Place {
    files: tempfile::TempDir,
    state: tempfile::TempDir,
}

/// A server of a directory.
struct Serving {
    server: NfsServer,
    faults: Arc<Faults>,
}

fn owner() -> (u32, u32) {
    (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw())
}

fn served() -> Served {
    Served {
        owner: owner(),
        audience: Audience::Owner,
        permissions: Permissions::Machine,
        access: Access::ReadWrite,
    }
}

fn file_system(files: &Path) -> (Arc<Vfs<Disk>>, Arc<Faults>) {
    let (disk, root) = Disk::new(files);
    let faults = disk.faults.clone();
    (Vfs::new(Arc::new(disk), root, Options::default(), Arc::new(NoNotices)), faults)
}

impl Place {
    fn new() -> Place {
        Place { files: tempfile::tempdir().unwrap(), state: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.files.path().join(name)
    }

    /// A new server, as a new worker starts one: nothing but the state directory is left of the one before.
    async fn serve(&self) -> Serving {
        self.serve_with(served()).await
    }

    async fn serve_with(&self, served: Served) -> Serving {
        let (vfs, faults) = file_system(self.files.path());
        let Served { owner, audience, permissions, access } = served;
        let state = self.state.path().to_path_buf();
        let options = NfsOptions {
            listener: listen(0).unwrap(),
            state,
            owner,
            audience,
            permissions,
            access,
            progress: Progress::untold(),
        };
        Serving { server: super::serve(vfs, options).await.unwrap(), faults }
    }

    /// The insides of a server, without connections.
    fn inside(&self, served: Served) -> (Server<Disk>, Arc<Faults>) {
        let (vfs, faults) = file_system(self.files.path());
        let places = Places::open(self.state.path()).unwrap();
        (Server::new(vfs, places, served, Progress::untold()).unwrap(), faults)
    }
}

impl Serving {
    async fn client(&self) -> Client {
        Client::connect(self.server.port()).await
    }
}

fn status<T: std::fmt::Debug, E>(result: Nfs3Result<T, E>) -> nfsstat3 {
    match result {
        Nfs3Result::Ok(_) => nfsstat3::NFS3_OK,
        Nfs3Result::Err((status, _)) => status,
    }
}

#[track_caller]
fn refused<T: std::fmt::Debug + Pack + Unpack, E: Pack + Unpack>(result: Nfs3Result<T, E>, why: nfsstat3) {
    assert_eq!(status(result), why);
}

#[tokio::test]
async fn files_are_made_written_read_and_removed() {
    let place = Place::new();
    let serving = place.serve().await;
    let mut client = serving.client().await;
    let root = client.root().await;
    let directory = client.mkdir(&root, "dir").await;
    let file = client.created(&directory, "file").await;
    // A kernel that is given the handle need not ask for it.
    assert_eq!(&root.data[..], serving.server.root());
    let written = client.write(&file, 3, b"hello", stable_how::UNSTABLE).await.unwrap();
    assert_eq!((written.count, written.committed), (5, stable_how::UNSTABLE));
    let committed = client.commit(&file).await.unwrap();
    assert_eq!(committed.verf, written.verf);
    assert_eq!(std::fs::read(place.path("dir/file")).unwrap(), b"\0\0\0hello");
    let read = client.read(&file, 1, 100).await.unwrap();
    assert_eq!(&read.data[..], b"\0\0hello");
    assert!(read.eof);
    let part = client.read(&file, 0, 4).await.unwrap();
    assert!(!part.eof);
    let attributes = client.getattr(&file).await.unwrap().obj_attributes;
    assert_eq!((attributes.size, attributes.nlink, attributes.mode), (8, 1, 0o644));
    client.remove(&directory, "file").await.unwrap();
    refused(client.getattr(&file).await, nfsstat3::NFS3ERR_STALE);
    refused(client.lookup(&directory, "file").await, nfsstat3::NFS3ERR_NOENT);
    assert!(!place.path("dir/file").exists());
}

#[tokio::test]
async fn links_symlinks_and_special_files_are_what_they_are() {
    let place = Place::new();
    let serving = place.serve().await;
    let mut client = serving.client().await;
    let root = client.root().await;
    let file = client.created(&root, "file").await;
    let arguments = nfs3::LINK3args { file: file.clone(), link: at(&root, "second") };
    let linked: nfs3::LINK3res = client.nfs(NFS_PROGRAM::NFSPROC3_LINK, &arguments).await;
    let Nfs3Option::Some(attributes) = linked.unwrap().file_attributes else { panic!("no attributes") };
    assert_eq!(attributes.nlink, 2);
    assert_eq!(client.found(&root, "second").await, file, "one file, one handle");
    client.remove(&root, "file").await.unwrap();
    assert_eq!(client.getattr(&file).await.unwrap().obj_attributes.nlink, 1);

    let symlink =
        nfs3::symlinkdata3 { symlink_attributes: mode(0o777), symlink_data: b"\xff/../x".to_vec().into() };
    let arguments = nfs3::SYMLINK3args { where_: at(&root, "link"), symlink };
    let made: nfs3::SYMLINK3res = client.nfs(NFS_PROGRAM::NFSPROC3_SYMLINK, &arguments).await;
    let link = made.unwrap().obj.unwrap();
    let contents: nfs3::READLINK3res<'_> = client.nfs(NFS_PROGRAM::NFSPROC3_READLINK, &link).await;
    assert_eq!(contents.unwrap().data.as_ref(), b"\xff/../x");
    let not_a_link: nfs3::READLINK3res<'_> = client.nfs(NFS_PROGRAM::NFSPROC3_READLINK, &file).await;
    refused(not_a_link, nfsstat3::NFS3ERR_INVAL);

    let what = nfs3::mknoddata3::NF3FIFO(mode(0o620));
    let arguments = nfs3::MKNOD3args { where_: at(&root, "fifo"), what };
    let made: nfs3::MKNOD3res = client.nfs(NFS_PROGRAM::NFSPROC3_MKNOD, &arguments).await;
    let fifo = client.getattr(&made.unwrap().obj.unwrap()).await.unwrap().obj_attributes;
    assert_eq!((fifo.type_, fifo.mode), (nfs3::ftype3::NF3FIFO, 0o620));
}

#[tokio::test]
async fn attributes_change_and_a_guard_stops_what_comes_too_late() {
    let place = Place::new();
    let serving = place.serve().await;
    let mut client = serving.client().await;
    let root = client.root().await;
    let file = client.created(&root, "file").await;
    let before = client.getattr(&file).await.unwrap().obj_attributes;
    let time = nfstime3 { seconds: 1_000_000_000, nseconds: 123_456_789 };
    let changes = sattr3 {
        mode: Nfs3Option::Some(0o4711),
        size: Nfs3Option::Some(5 << 30),
        mtime: set_mtime::SET_TO_CLIENT_TIME(time),
        ..sattr3::default()
    };
    client.setattr(&file, changes.clone()).await.unwrap();
    let after = client.getattr(&file).await.unwrap().obj_attributes;
    assert_eq!((after.mode, after.size, after.mtime), (0o4711, 5 << 30, time));
    let guard =
        Nfs3Option::Some(nfstime3 { seconds: before.ctime.seconds, nseconds: before.ctime.nseconds ^ 1 });
    let arguments = nfs3::SETATTR3args { object: file.clone(), new_attributes: changes, guard };
    let late: nfs3::SETATTR3res = client.nfs(NFS_PROGRAM::NFSPROC3_SETATTR, &arguments).await;
    refused(late, nfsstat3::NFS3ERR_NOT_SYNC);
    let size = sattr3 { size: Nfs3Option::Some(0), ..sattr3::default() };
    refused(client.setattr(&root, size).await, nfsstat3::NFS3ERR_ISDIR);
}

#[tokio::test]
async fn handles_lead_to_their_files_after_a_restart_whatever_was_renamed() {
    let place = Place::new();
    let serving = place.serve().await;
    let mut client = serving.client().await;
    let root = client.root().await;
    let outer = client.mkdir(&root, "outer").await;
    let inner = client.mkdir(&outer, "inner").await;
    let file = client.created(&inner, "file").await;
    client.write(&file, 0, b"still here", stable_how::FILE_SYNC).await.unwrap();
    let fileid = client.getattr(&file).await.unwrap().obj_attributes.fileid;
    client.rename(at(&root, "outer"), at(&root, "moved")).await.unwrap();
    client.rename(at(&inner, "file"), at(&root, "up")).await.unwrap();
    client.rename(at(&root, "up"), at(&inner, "down")).await.unwrap();
    let gone = client.created(&inner, "gone").await;
    client.remove(&inner, "gone").await.unwrap();
    let replaced = client.created(&inner, "replaced").await;
    let replacing = client.created(&inner, "replacing").await;
    client.rename(at(&inner, "replacing"), at(&inner, "replaced")).await.unwrap();
    serving.server.stop().await;

    let serving = place.serve().await;
    let mut client = serving.client().await;
    assert_eq!(&client.read(&file, 0, 100).await.unwrap().data[..], b"still here");
    let attributes = client.getattr(&file).await.unwrap().obj_attributes;
    assert_eq!(attributes.fileid, fileid, "programs know files by number");
    assert_eq!(client.found(&outer, "inner").await, inner);
    assert_eq!(client.root().await, root);
    refused(client.getattr(&gone).await, nfsstat3::NFS3ERR_STALE);
    refused(client.getattr(&replaced).await, nfsstat3::NFS3ERR_STALE);
    client.getattr(&replacing).await.unwrap();
}

#[tokio::test]
async fn a_listed_file_is_found_by_its_handle_after_a_restart() {
    let place = Place::new();
    std::fs::create_dir_all(place.path("a/b")).unwrap();
    std::fs::write(place.path("a/b/c"), b"content").unwrap();
    let serving = place.serve().await;
    let mut client = serving.client().await;
    let root = client.root().await;
    let a = client.found(&root, "a").await;
    let b = listed_with_handles(&mut client, &a).await.remove("b").unwrap();
    let c = listed_with_handles(&mut client, &b).await.remove("c").unwrap();
    serving.server.stop().await;
    let serving = place.serve().await;
    let mut client = serving.client().await;
    assert_eq!(&client.read(&c, 0, 100).await.unwrap().data[..], b"content");
}

async fn listed_with_handles(
    client: &mut Client,
    directory: &nfs_fh3,
) -> std::collections::HashMap<String, nfs_fh3> {
    let mut handles = std::collections::HashMap::new();
    let mut cookie = 0;
    loop {
        let cookieverf = nfs3::cookieverf3::default();
        let (dircount, maxcount) = (2000, 2000);
        let arguments =
            nfs3::READDIRPLUS3args { dir: directory.clone(), cookie, cookieverf, dircount, maxcount };
        let page: nfs3::READDIRPLUS3res<'_> = client.nfs(NFS_PROGRAM::NFSPROC3_READDIRPLUS, &arguments).await;
        let page = page.unwrap().reply;
        for entry in page.entries.into_inner() {
            cookie = entry.cookie;
            let name = String::from_utf8(entry.name.as_ref().to_vec()).unwrap();
            if let (Nfs3Option::Some(handle), Nfs3Option::Some(attributes)) =
                (entry.name_handle, entry.name_attributes)
            {
                assert_eq!(attributes.fileid, entry.fileid);
                handles.insert(name, handle);
            }
        }
        if page.eof {
            return handles;
        }
    }
}

#[tokio::test]
async fn ten_thousand_names_are_listed_once_each_while_others_go() {
    let place = Place::new();
    for n in 0..10_000 {
        std::fs::write(place.path(&format!("file-{n}")), b"").unwrap();
    }
    let serving = place.serve().await;
    let mut client = serving.client().await;
    let root = client.root().await;
    let mut names = client.names(&root, 4096).await;
    names.sort();
    let unique = names.windows(2).all(|pair| pair[0] != pair[1]);
    assert!(unique, "a name was listed twice");
    assert_eq!(names.len(), 10_002, "with . and ..");
    let with_handles = listed_with_handles(&mut client, &root).await;
    assert_eq!(with_handles.len(), 10_000);
    refused(listing(&mut client, &root, 100).await, nfsstat3::NFS3ERR_TOOSMALL);

    // The usual `rm -r`: one page, remove what it names, the next page.
    let mut left = 10_000;
    let (mut cookie, mut eof) = (0, false);
    while !eof {
        let arguments =
            nfs3::READDIR3args { dir: root.clone(), cookie, cookieverf: Default::default(), count: 32768 };
        let page: nfs3::READDIR3res<'_> = client.nfs(NFS_PROGRAM::NFSPROC3_READDIR, &arguments).await;
        let page = page.unwrap().reply;
        eof = page.eof;
        for entry in page.entries.into_inner() {
            cookie = entry.cookie;
            let name = String::from_utf8(entry.name.as_ref().to_vec()).unwrap();
            if name != "." && name != ".." {
                client.remove(&root, &name).await.unwrap();
                left -= 1;
            }
        }
    }
    assert_eq!(left, 0);
    assert_eq!(std::fs::read_dir(place.files.path()).unwrap().count(), 0);
}

async fn listing(client: &mut Client, directory: &nfs_fh3, count: u32) -> nfs3::READDIR3res<'static> {
    let cookieverf = nfs3::cookieverf3::default();
    let arguments = nfs3::READDIR3args { dir: directory.clone(), cookie: 0, cookieverf, count };
    client.nfs(NFS_PROGRAM::NFSPROC3_READDIR, &arguments).await
}

#[tokio::test]
async fn create_does_what_its_mode_says() {
    let place = Place::new();
    let serving = place.serve().await;
    let mut client = serving.client().await;
    let root = client.root().await;
    std::fs::write(place.path("there"), b"content").unwrap();

    refused(client.create(&root, "there", createhow3::GUARDED(mode(0o600))).await, nfsstat3::NFS3ERR_EXIST);
    client.create(&root, "there", createhow3::UNCHECKED(mode(0o600))).await.unwrap();
    assert_eq!(std::fs::read(place.path("there")).unwrap(), b"content", "not cut unless told to");
    let cut = sattr3 { size: Nfs3Option::Some(0), ..mode(0o600) };
    client.create(&root, "there", createhow3::UNCHECKED(cut)).await.unwrap();
    assert_eq!(std::fs::read(place.path("there")).unwrap(), b"");
    refused(
        client.create(&root, "there", createhow3::EXCLUSIVE(createverf3([9; 8]))).await,
        nfsstat3::NFS3ERR_EXIST,
    );

    let verifier = || createhow3::EXCLUSIVE(createverf3([0xfe; 8]));
    let made = client.create(&root, "mine", verifier()).await.unwrap().obj.unwrap();
    serving.server.stop().await;
    let serving = place.serve().await;
    let mut client = serving.client().await;
    let again = client.create(&root, "mine", verifier()).await.unwrap().obj.unwrap();
    assert_eq!(again, made, "sent again, to the next server");
    let other = createhow3::EXCLUSIVE(createverf3([0xfd; 8]));
    refused(client.create(&root, "mine", other).await, nfsstat3::NFS3ERR_EXIST);
    for name in [".", ".."] {
        refused(client.create(&root, name, createhow3::GUARDED(mode(0o600))).await, nfsstat3::NFS3ERR_EXIST);
    }
}

#[tokio::test]
async fn a_file_made_read_only_can_be_written_by_who_made_it() {
    let place = Place::new();
    let serving = place.serve().await;
    let mut client = serving.client().await;
    let root = client.root().await;
    let made = client.create(&root, "object", createhow3::GUARDED(mode(0o444))).await;
    let file = made.unwrap().obj.unwrap();
    client.write(&file, 0, b"as git does", stable_how::UNSTABLE).await.unwrap();
    client.commit(&file).await.unwrap();
    let size = sattr3 { size: Nfs3Option::Some(2), ..sattr3::default() };
    client.setattr(&file, size).await.unwrap();
    assert_eq!(std::fs::read(place.path("object")).unwrap(), b"as");
}

#[tokio::test]
async fn a_write_that_failed_after_its_answer_is_reported() {
    let place = Place::new();
    let serving = place.serve().await;
    let mut client = serving.client().await;
    let root = client.root().await;
    let file = client.created(&root, "file").await;
    serving.faults.full.store(true, Ordering::SeqCst);
    client.write(&file, 0, b"lost", stable_how::UNSTABLE).await.unwrap();
    refused(client.commit(&file).await, nfsstat3::NFS3ERR_NOSPC);
    refused(client.write(&file, 0, b"lost", stable_how::FILE_SYNC).await, nfsstat3::NFS3ERR_NOSPC);
    serving.faults.full.store(false, Ordering::SeqCst);
    let mut outcome = client.write(&file, 0, b"kept", stable_how::FILE_SYNC).await;
    if status(outcome) != nfsstat3::NFS3_OK {
        // What was lost before may be told once more; then all is well.
        outcome = client.write(&file, 0, b"kept", stable_how::FILE_SYNC).await;
        outcome.unwrap();
    }
    assert_eq!(std::fs::read(place.path("file")).unwrap(), b"kept");
}

#[tokio::test]
async fn files_nobody_uses_are_synced_and_closed_and_what_was_lost_is_told_later() {
    let place = Place::new();
    let (server, faults) = place.inside(served());
    let root = server.vfs.revisit(server.vfs.root().unwrap()).unwrap();
    let caller = vfs::file::Caller { uid: owner().0, gid: owner().1, umask: 0 };
    let flags = vfs::file::OpenFlags { write: true, ..Default::default() };
    let (view, opened) = server.vfs.create(root, b"file", 0o644, flags, caller).await.unwrap();
    server.files.keep(view.ino, opened.handle).await;
    let open = server.files.hold(view.ino, open_files::For::Writing).await.unwrap();
    faults.full.store(true, Ordering::SeqCst);
    let from = vfs::vfs::WriteFrom::Caller(vfs::file::ThreadId::UNKNOWN);
    server.vfs.write(open.handle(), 0, bytes::Bytes::from_static(b"lost"), from, false).await.unwrap();
    open.written();
    drop(open);
    server.files.sweep(Instant::now()).await;
    assert_eq!(server.files.lost(view.id), None, "in use a moment ago");
    assert_eq!(faults.open.load(Ordering::SeqCst), 1);
    server.files.sweep(Instant::now() + limits::IDLE_MAX).await;
    eventually(|| faults.open.load(Ordering::SeqCst) == 0).await;
    assert_eq!(server.files.lost(view.id), Some(vfs::errno::Errno::ENOSPC));
    assert_eq!(server.files.lost(view.id), None, "told once");
}

#[tokio::test]
async fn no_more_files_are_kept_open_than_the_limit() {
    let place = Place::new();
    let serving = place.serve().await;
    let mut client = serving.client().await;
    let root = client.root().await;
    for n in 0..limits::OPEN_FILES_MAX + 50 {
        let file = client.created(&root, &format!("file-{n}")).await;
        client.write(&file, 0, b"x", stable_how::UNSTABLE).await.unwrap();
    }
    let open = &serving.faults.open;
    eventually(|| open.load(Ordering::SeqCst) <= limits::OPEN_FILES_MAX + 1).await;
    serving.server.stop().await;
    assert!(place.path("file-0").metadata().unwrap().len() == 1);
}

async fn eventually(condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, wait).await.expect("the condition came true in time");
}

#[tokio::test]
async fn a_call_sent_again_gets_the_answer_it_got() {
    let place = Place::new();
    let serving = place.serve().await;
    let mut client = serving.client().await;
    let root = client.root().await;
    client.created(&root, "file").await;
    let arguments = client::packed(&nfs3::REMOVE3args { object: at(&root, "file") });
    let remove = NFS_PROGRAM::NFSPROC3_REMOVE as u32;
    let record = client.call_bytes(nfs3::PROGRAM, 3, remove, &arguments);
    for time in ["first", "second"] {
        client.send(&record).await.unwrap();
        let removed: nfs3::REMOVE3res = client.receive().await.unwrap().1.results();
        assert_eq!(status(removed), nfsstat3::NFS3_OK, "the {time} time");
    }
    client.xid += 1;
    refused(client.remove(&root, "file").await, nfsstat3::NFS3ERR_NOENT);
}

#[tokio::test]
async fn nothing_changes_through_a_read_only_server() {
    let place = Place::new();
    std::fs::write(place.path("file"), b"content").unwrap();
    let serving = place.serve_with(Served { access: Access::ReadOnly, ..served() }).await;
    let mut client = serving.client().await;
    let root = client.root().await;
    let file = client.found(&root, "file").await;
    assert_eq!(&client.read(&file, 0, 100).await.unwrap().data[..], b"content");
    refused(client.remove(&root, "file").await, nfsstat3::NFS3ERR_ROFS);
    refused(client.write(&file, 0, b"x", stable_how::UNSTABLE).await, nfsstat3::NFS3ERR_ROFS);
    refused(client.setattr(&file, mode(0)).await, nfsstat3::NFS3ERR_ROFS);
    refused(client.rename(at(&root, "file"), at(&root, "x")).await, nfsstat3::NFS3ERR_ROFS);
    refused(client.create(&root, "x", createhow3::UNCHECKED(mode(0o644))).await, nfsstat3::NFS3ERR_ROFS);
}

#[tokio::test]
async fn what_the_file_system_is_like_is_told() {
    let place = Place::new();
    let serving = place.serve().await;
    let mut client = serving.client().await;
    let root = client.root().await;
    let space: nfs3::FSSTAT3res = client.nfs(NFS_PROGRAM::NFSPROC3_FSSTAT, &root).await;
    assert!(space.unwrap().tbytes > 0);
    let limits: nfs3::FSINFO3res = client.nfs(NFS_PROGRAM::NFSPROC3_FSINFO, &root).await;
    let limits = limits.unwrap();
    assert_eq!((limits.rtmax, limits.wtmax), (1 << 20, 1 << 20));
    let names: nfs3::PATHCONF3res = client.nfs(NFS_PROGRAM::NFSPROC3_PATHCONF, &root).await;
    assert_eq!(names.unwrap().name_max, 255);
    let up = client.found(&root, "..").await;
    assert_eq!(up, root, "nothing is above the root");
    let long = "n".repeat(256);
    refused(client.lookup(&root, long).await, nfsstat3::NFS3ERR_NAMETOOLONG);
}

#[tokio::test]
async fn the_export_and_directories_below_it_can_be_mounted() {
    let place = Place::new();
    std::fs::create_dir_all(place.path("a/b")).unwrap();
    std::fs::write(place.path("a/file"), b"").unwrap();
    let serving = place.serve().await;
    let mut client = serving.client().await;
    let root = client.root().await;
    let a = client.found(&root, "a").await;
    let b = client.found(&a, "b").await;
    for (path, expected) in
        [("", &root), ("/", &root), (EXPORT, &root), ("/stead/a/", &a), ("/stead//a/b", &b)]
    {
        assert_eq!(client.mount(path).await.as_ref(), Ok(expected), "{path}");
    }
    assert_eq!(client.mount("/a").await, Err(2));
    assert_eq!(client.mount("/stead/a/c").await, Err(2));
    assert_eq!(client.mount("/stead/a/file").await, Err(20));
    assert_eq!(client.mount("/stead/../..").await, Err(22));
}

#[tokio::test]
async fn callers_are_who_their_connection_is() {
    let place = Place::new();
    let everybody = Served { owner: (1000, 100), audience: Audience::Everybody, ..served() };
    let (server, _) = place.inside(everybody);
    let claim = |uid, gid| rpc::Claim::User { uid, gid, groups: vec![7] };
    let from = |peer, uid, gid| server.caller(peer::Peer::User(peer), &claim(uid, gid));
    assert_eq!(from(0, 1001, 5).unwrap().groups, [7, 5], "the kernel is believed");
    assert_eq!(from(1001, 1001, 5).unwrap().groups, [0; 0], "a program is not believed its groups");
    assert_eq!(from(1000, 1000, 5).unwrap().gid, 100, "the owner's group is known");
    assert_eq!(from(1001, 1000, 100), None);
    assert_eq!(from(1001, 0, 0), None);
    assert_eq!(server.caller(peer::Peer::User(0), &rpc::Claim::Nobody), None);
    drop(server);
    let (server, _) = place.inside(Served { audience: Audience::Owner, ..everybody });
    let from = |peer, uid, gid| server.caller(peer::Peer::User(peer), &claim(uid, gid));
    assert!(from(0, 1000, 100).is_some() && from(0, 0, 0).is_some() && from(1000, 1000, 100).is_some());
    assert_eq!(from(0, 1001, 5), None, "the kernel speaks for a user whom the mount is not for");
}

#[tokio::test]
async fn modes_are_checked_where_the_machine_does_not() {
    let place = Place::new();
    let is_root = owner().0 == 0;
    if !is_root {
        // Only root's connections may speak for several users.
        return;
    }
    let served = Served { audience: Audience::Everybody, permissions: Permissions::Modes, ..served() };
    let serving = place.serve_with(served).await;
    let mut client = serving.client().await;
    let root = client.root().await;
    client.setattr(&root, mode(0o755)).await.unwrap();
    let file = client.created(&root, "file").await;
    client.user.uid = 1234;
    client.user.gid = 1234;
    assert_eq!(client.found(&root, "file").await, file);
    client.read(&file, 0, 1).await.unwrap();
    refused(client.write(&file, 0, b"x", stable_how::UNSTABLE).await, nfsstat3::NFS3ERR_ACCES);
    refused(client.remove(&root, "file").await, nfsstat3::NFS3ERR_ACCES);
    refused(client.create(&root, "x", createhow3::GUARDED(mode(0o644))).await, nfsstat3::NFS3ERR_ACCES);
    refused(client.setattr(&file, mode(0o777)).await, nfsstat3::NFS3ERR_PERM);
    let asked = nfs3::ACCESS3args { object: file.clone(), access: 0x3f };
    let access: nfs3::ACCESS3res = client.nfs(NFS_PROGRAM::NFSPROC3_ACCESS, &asked).await;
    assert_eq!(access.unwrap().access, nfs3::ACCESS3_READ);
}

#[tokio::test]
async fn calls_are_counted_and_those_that_needed_no_wait_among_them() {
    let place = Place::new();
    let serving = place.serve().await;
    let mut client = serving.client().await;
    let root = client.root().await;
    let counts = serving.server.counts();
    let file = client.created(&root, "file").await;
    let before = (counts.requests(), counts.hits());
    for _ in 0..3 {
        client.getattr(&file).await.unwrap();
    }
    assert_eq!((counts.requests(), counts.hits()), (before.0 + 3, before.1 + 3));
    client.write(&file, 0, b"x", stable_how::FILE_SYNC).await.unwrap();
    // The disk was waited for.
    assert_eq!((counts.requests(), counts.hits()), (before.0 + 4, before.1 + 3));
}

#[tokio::test]
async fn sockets_that_others_can_reach_are_refused() {
    let place = Place::new();
    let (vfs, _) = file_system(place.files.path());
    let listener = TcpListener::bind("0.0.0.0:0").unwrap();
    let state = place.state.path().to_path_buf();
    let Served { owner, audience, permissions, access } = served();
    let options =
        NfsOptions { listener, state, owner, audience, permissions, access, progress: Progress::untold() };
    assert!(matches!(super::serve(vfs, options).await, Err(NfsError::NotLoopback(_))));
}
