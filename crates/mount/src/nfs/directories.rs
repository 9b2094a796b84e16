//! Listings.

use nfs3_types::nfs3::{Nfs3Option, entry3, entryplus3, filename3, nfsstat3, post_op_attr};
use nfs3_types::xdr_codec::Pack;
use vfs::errno::Errno;
use vfs::file::Kind;
use vfs::source::Source;
use vfs::vfs::{DirectoryItem, View};

use super::Server;
use super::handle::Handle;
use super::limits::TRANSFER_BYTES_MAX;
use super::nodes::Held;
use super::permission::{READ, User};
use super::rpc::{Results, pack};
use super::status::{Outcome, Refused};

/// What stands behind the entries: that there are no more, and whether that is the end.
const TAIL_BYTES: usize = 8;

/// What a client must have room for besides the entries. Less cannot be answered.
const HEAD_BYTES_MAX: usize = 128;

/// A reply being filled.
struct Page {
    packed: Vec<u8>,
    bytes_max: usize,
    entries: usize,
    /// Where to go on.
    cookie: u64,
    full: bool,
}

impl Page {
    /// Adds an entry, if there is room.
    fn add(&mut self, entry: &impl Pack, cookie: u64) -> bool {
        let after = self.packed.len() + 4 + entry.packed_size();
        if after + TAIL_BYTES > self.bytes_max {
            self.full = true;
            return false;
        }
        pack(&true, &mut self.packed);
        pack(entry, &mut self.packed);
        self.entries += 1;
        self.cookie = cookie;
        true
    }
}

impl<S: Source> Server<S> {
    pub(super) async fn readdir(
        &self,
        user: &User,
        directory: &Handle,
        cookie: u64,
        bytes: u32,
    ) -> Outcome<Results> {
        let file_system = self.file_system;
        self.list(user, directory, cookie, bytes, false, |page, item, _views| {
            let Some(id) = item.id else { return true };
            let name = filename3::from(item.name);
            page.add(&entry3 { fileid: file_system.fileid(id), name, cookie: item.cookie }, item.cookie)
        })
        .await
    }

    pub(super) async fn readdirplus(
        &self,
        user: &User,
        directory: &Handle,
        cookie: u64,
        bytes: u32,
    ) -> Outcome<Results> {
        let file_system = self.file_system;
        self.list(user, directory, cookie, bytes, true, |page, item, given| {
            let Some(id) = item.id else { return true };
            let (name_attributes, name_handle) = match &item.view {
                Some(view) => (self.some_attributes(id, &view.attributes), self.some_handle(id)),
                None => (post_op_attr::None, Nfs3Option::None),
            };
            let (fileid, name) = (file_system.fileid(id), filename3::from(item.name));
            let entry = entryplus3 { fileid, name, cookie: item.cookie, name_attributes, name_handle };
            let accepted = page.add(&entry, item.cookie);
            if accepted && let Some(view) = item.view {
                given.push((view, item.name.into()));
            }
            accepted
        })
        .await
    }

    /// Fills a reply with what `add` makes of the items of a directory, from behind `cookie`.
    async fn list(
        &self,
        user: &User,
        directory: &Handle,
        cookie: u64,
        bytes: u32,
        with_nodes: bool,
        add: impl Fn(&mut Page, DirectoryItem<'_>, &mut Vec<(View, Box<[u8]>)>) -> bool + Send + Sync,
    ) -> Outcome<Results> {
        let node = self.node(directory).await?;
        let attributes = self.attributes(&node).await?;
        if attributes.kind != Kind::Directory {
            return Err(Errno::ENOTDIR.into());
        }
        self.served.permissions.check(user, READ, &attributes)?;
        let bytes_max = bytes.min(TRANSFER_BYTES_MAX) as usize;
        if bytes_max < HEAD_BYTES_MAX {
            return Err(Refused(nfsstat3::NFS3ERR_TOOSMALL));
        }
        let mut page = Page { packed: Vec::new(), bytes_max, entries: 0, cookie, full: false };
        pack(&nfsstat3::NFS3_OK, &mut page.packed);
        pack(&self.some_attributes(node.id, &attributes), &mut page.packed);
        pack(&0_u64, &mut page.packed);
        let stream = self.directories.at(node.ino, cookie).await?;
        let mut end = false;
        while !page.full && !end {
            let (mut seen, mut from) = (false, page.cookie);
            let mut given = Vec::new();
            let read = self.vfs.read_directory(stream.handle(), page.cookie, with_nodes, |item| {
                seen = true;
                let cookie = item.cookie;
                let accepted = add(&mut page, item, &mut given);
                if accepted {
                    from = cookie;
                }
                accepted
            });
            let outcome = read.await;
            // Also past what was left out.
            page.cookie = from;
            self.give_out(&node, given);
            outcome?;
            end = !seen;
        }
        if page.entries == 0 && page.full {
            return Err(Refused(nfsstat3::NFS3ERR_TOOSMALL));
        }
        pack(&false, &mut page.packed);
        pack(&end, &mut page.packed);
        if !end {
            self.directories.keep(stream, page.cookie);
        }
        Ok(Results { packed: page.packed, ..Results::default() })
    }

    /// Keeps where the listed files are, and gives their lookups back.
    fn give_out(&self, directory: &Held<S>, given: Vec<(View, Box<[u8]>)>) {
        if given.is_empty() {
            return;
        }
        let mut places = self.places.lock();
        for (view, name) in &given {
            places.remember(view.id, view.attributes.kind == Kind::Directory, directory.id, name);
        }
        if let Err(error) = places.write() {
            tracing::error!(%error, "handles given out now may be stale after a restart");
        }
        drop(places);
        self.vfs.forget_all(given.iter().map(|(view, _)| (view.ino, 1)));
    }
}
