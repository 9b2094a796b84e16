//! Each operation of the kernel as one of `vfs`.

use std::sync::Arc;

use bytes::Bytes;
use vfs::errno::{Errno, Result};
use vfs::file::{AttributeChanges, Caller, Name, SeekFor, ThreadId};
use vfs::source::{HandleId, NewNode, Source};
use vfs::table::Ino;
use vfs::vfs::{AttributeTarget, DirectoryItem, Looked, Removal, View, WriteFrom};

use super::answer::Answer;
use super::translate::{
    allocation, attribute_there, attributes_here, changes, entry, file_type, found_lock, from_position, ino,
    kind, lock, open_flags, permissions, rename_mode, wide_device, xattr_mode,
};
use super::{COPY_BYTES_MAX, Manner, Serving, closing};
use crate::fuse::reply::{self, Entry, Listing, ListingPlus, Placed, Responder};
use crate::fuse::request::{self, Header, Operation, Request};
use crate::identity::inode_number;

const SET_GID: u16 = 0o2000;

fn caller(header: &Header, umask: u32) -> Caller {
    Caller { uid: header.uid, gid: header.gid, umask: (umask & 0o777) as u16 }
}

/// The answer to a question for bytes of which the kernel first asks the size.
fn sized(bytes: Bytes, size: u32) -> Result<Answer> {
    match size {
        0 => Ok(Answer::Size(bytes.len())),
        size if bytes.len() > size as usize => Err(Errno::ERANGE),
        _ => Ok(Answer::Bytes(bytes)),
    }
}

fn made(parent: Ino, name: Name, view: View) -> Answer {
    Answer::Present { parent, name, view }
}

/// Starts an operation that has an answer.
pub(super) fn start<S: Source>(
    serving: &Arc<Serving<S>>,
    request: Request<'_>,
    message: &Bytes,
    responder: Responder,
) {
    use Manner::{Change, Errand, Question};
    let (header, vfs, flavour) = (request.header, serving.vfs.clone(), serving.flavour);
    let at = ino(header.node);
    macro_rules! run {
        ($manner:expr, $operation:expr) => {
            serving.run(responder, $manner, async move { $operation })
        };
    }
    match request.operation {
        Operation::Lookup { name } => {
            let name: Name = name.into();
            run!(Question, lookup(&vfs, at, name).await)
        }
        Operation::Getattr { handle } => {
            let of = AttributeTarget { ino: at, handle: handle.map(HandleId) };
            let by = ThreadId(header.pid);
            run!(Question, attributes(&vfs, of, by).await)
        }
        Operation::Setattr(set) => {
            let by = ThreadId(header.pid);
            run!(Change, set_attributes(&vfs, at, &set, by).await)
        }
        Operation::Readlink => run!(Question, vfs.read_link(at).await.map(Answer::Bytes)),
        Operation::Symlink { name, target } => {
            let (name, target, caller) =
                (Name::from(name), Bytes::copy_from_slice(target), caller(&header, 0));
            let by = ThreadId(header.pid);
            run!(Change, {
                let view = vfs.symlink(at, &name, target, caller).await?;
                vfs.goes_on(at, caller, by);
                Ok(made(at, name, view))
            })
        }
        Operation::Mknod { name, mode, rdev, umask } => {
            let (name, caller) = (Name::from(name), caller(&header, umask));
            run!(Change, {
                let kind = kind(mode).ok_or(Errno::EINVAL)?;
                let node = NewNode { kind, mode: permissions(mode), device: wide_device(rdev) };
                vfs.make_node(at, &name, node, caller).await.map(|view| made(at, name, view))
            })
        }
        Operation::Mkdir { name, mode, umask } => {
            let (name, caller) = (Name::from(name), caller(&header, umask));
            let mode = permissions(mode);
            let by = ThreadId(header.pid);
            run!(Change, {
                let view = vfs.make_directory(at, &name, mode, caller).await?;
                vfs.goes_on(at, caller, by);
                Ok(made(at, name, view))
            })
        }
        Operation::Unlink { name } => {
            let name = Name::from(name);
            run!(Change, vfs.remove(at, &name, Removal::Other).await.map(|()| Answer::Done))
        }
        Operation::Rmdir { name } => {
            let name = Name::from(name);
            run!(Change, vfs.remove(at, &name, Removal::Directory).await.map(|()| Answer::Done))
        }
        Operation::Rename { name, new_parent, new_name, flags } => {
            let (name, new_name) = (Name::from(name), Name::from(new_name));
            run!(Change, {
                let mode = rename_mode(flags)?;
                vfs.rename((at, &name), (ino(new_parent), &new_name), mode).await.map(|()| Answer::Done)
            })
        }
        Operation::Link { node, new_name } => {
            let name = Name::from(new_name);
            run!(Change, vfs.link(ino(node), at, &name).await.map(|view| made(at, name, view)))
        }
        Operation::Open { flags, .. } => {
            let serving = serving.clone();
            let manner = if open_flags(flavour, flags).truncate { Change } else { Errand };
            run!(manner, open(&serving, at, flags).await)
        }
        Operation::Create(create) => {
            let (name, caller) = (Name::from(create.name), caller(&header, create.umask));
            let (flags, mode) = (open_flags(flavour, create.flags), permissions(create.mode));
            let by = ThreadId(header.pid);
            run!(Change, {
                let (view, opened) = match vfs.create_ahead(at, &name, (mode, flags), caller, by).await? {
                    Some(made) => made,
                    None => vfs.create(at, &name, mode, flags, caller).await?,
                };
                Ok(Answer::Created { parent: at, name, view, opened })
            })
        }
        Operation::Tmpfile(create) => {
            let (flags, mode) = (open_flags(flavour, create.flags), permissions(create.mode));
            let caller = caller(&header, create.umask);
            run!(Change, {
                let (view, opened) = vfs.create_unnamed(at, mode, flags, caller).await?;
                Ok(Answer::Created { parent: at, name: Name::from([].as_slice()), view, opened })
            })
        }
        Operation::Read(read) => {
            let handle = HandleId(read.handle);
            run!(Question, vfs.read(handle, read.offset, read.size).await.map(Answer::Bytes))
        }
        Operation::Write(write) => {
            let bytes = match write.data.len() {
                0..=COPY_BYTES_MAX => Bytes::copy_from_slice(write.data),
                _ => message.slice_ref(write.data),
            };
            let (handle, offset, kill) = (HandleId(write.handle), write.offset, write.kill_suid_sgid);
            let source =
                if write.from_cache { WriteFrom::Pages } else { WriteFrom::Caller(ThreadId(header.pid)) };
            let manner = if vfs.write_happens_once(handle, source) { Change } else { Errand };
            run!(manner, vfs.write(handle, offset, bytes, source, kill).await.map(Answer::Written))
        }
        Operation::Flush { handle, lock_owner } => {
            let handle = HandleId(handle);
            let patience = closing::patience(ThreadId(header.pid), &vfs.writers(handle));
            run!(Errand, vfs.flush(handle, lock_owner, patience).await.map(|()| Answer::Done))
        }
        Operation::Fsync { handle, data_only } => {
            run!(Errand, vfs.sync(HandleId(handle), data_only).await.map(|()| Answer::Done))
        }
        Operation::Fsyncdir { data_only, .. } => {
            run!(Errand, vfs.sync_directory(at, data_only).await.map(|()| Answer::Done))
        }
        Operation::Syncfs => run!(Errand, {
            vfs.drain().await;
            Ok(Answer::Done)
        }),
        Operation::Release(release) => {
            vfs.release(HandleId(release.handle));
            run!(Errand, Ok(Answer::Done))
        }
        Operation::Opendir { .. } => run!(Errand, vfs.open_directory(at).await.map(Answer::OpenedDirectory)),
        Operation::Readdir(read) => {
            let serving = serving.clone();
            run!(Question, list(&serving, read).await)
        }
        Operation::Readdirplus(read) => {
            let serving = serving.clone();
            run!(Question, list_plus(&serving, at, read).await)
        }
        Operation::Releasedir(release) => {
            vfs.release_directory(HandleId(release.handle));
            run!(Errand, Ok(Answer::Done))
        }
        Operation::Statfs => run!(Question, vfs.space(at).await.map(Answer::Space)),
        // Answered here: who asks wants to know whether anybody answers.
        Operation::Getxattr { name, .. } if name == crate::probe::ATTRIBUTE.as_bytes() => {
            run!(Question, Err(Errno::ENODATA))
        }
        Operation::Getxattr { name, size, position } => {
            let name = attribute_there(flavour, name);
            run!(Question, sized(from_position(&vfs.get_xattr(at, &name).await?, position), size))
        }
        Operation::Listxattr { size } => {
            run!(Question, sized(attributes_here(flavour, vfs.list_xattrs(at).await?), size))
        }
        Operation::Setxattr { position: 1.., .. } => run!(Errand, Err(Errno::EINVAL)),
        Operation::Setxattr { name, value, flags, acl_kill_sgid, position: 0 } => {
            let (name, value) = (attribute_there(flavour, name), Bytes::copy_from_slice(value));
            run!(Change, {
                vfs.set_xattr(at, &name, value, xattr_mode(flavour, flags)?).await?;
                if acl_kill_sgid {
                    clear_set_gid(&vfs, at).await?;
                }
                Ok(Answer::Done)
            })
        }
        Operation::Removexattr { name } => {
            let name = attribute_there(flavour, name);
            run!(Change, vfs.remove_xattr(at, &name).await.map(|()| Answer::Done))
        }
        Operation::Getlk(asked) => run!(Question, {
            let found = vfs.test_lock(HandleId(asked.handle), asked.owner, lock(&asked)).await?;
            Ok(Answer::Lock(found_lock(asked, found)))
        }),
        Operation::Setlk(asked) => {
            run!(
                Errand,
                vfs.lock(HandleId(asked.handle), asked.owner, lock(&asked), false)
                    .await
                    .map(|()| Answer::Done)
            )
        }
        Operation::Setlkw(asked) => {
            run!(
                Question,
                vfs.lock(HandleId(asked.handle), asked.owner, lock(&asked), true)
                    .await
                    .map(|()| Answer::Done)
            )
        }
        Operation::Fallocate { handle, offset, length, mode } => run!(Change, {
            let what = allocation(mode).ok_or(Errno::EOPNOTSUPP)?;
            vfs.allocate(HandleId(handle), what, offset, length).await.map(|()| Answer::Done)
        }),
        Operation::Lseek { handle, offset, whence } => run!(Question, {
            let what = match whence.cast_signed() {
                libc::SEEK_DATA => SeekFor::Data,
                libc::SEEK_HOLE => SeekFor::Hole,
                _ => return Err(Errno::EINVAL),
            };
            vfs.seek(HandleId(handle), offset, what).await.map(Answer::Position)
        }),
        Operation::CopyFileRange(copy) => run!(Change, {
            let (from, to) = ((copy.handle, copy.offset), (copy.target_handle, copy.target_offset));
            // The narrow reply has 32 bits for the count.
            let length = match copy.width {
                request::CopyWidth::Narrow => copy.length.min(1 << 30),
                request::CopyWidth::Wide => copy.length,
            };
            let copied = vfs.copy_range((HandleId(from.0), from.1), (HandleId(to.0), to.1), length).await?;
            Ok(Answer::Copied(copied, copy.width))
        }),
        Operation::Destroy => run!(Errand, Ok(Answer::Done)),
        // The kernel checks permissions by the attributes, and knows what to do without the others.
        Operation::Access { .. }
        | Operation::Bmap { .. }
        | Operation::Ioctl(_)
        | Operation::Poll { .. }
        | Operation::Statx { .. }
        | Operation::Init(_)
        | Operation::NotifyReply { .. }
        | Operation::Forget { .. }
        | Operation::BatchForget(_)
        | Operation::Interrupt { .. }
        | Operation::Unknown(_) => run!(Errand, Err(Errno::ENOSYS)),
    }
}

type Shared<S> = Arc<vfs::Vfs<S>>;

async fn lookup<S: Source>(vfs: &Shared<S>, parent: Ino, name: Name) -> Result<Answer> {
    match vfs.lookup(parent, &name).await? {
        Looked::Absent(believe) => Ok(Answer::Absent { parent, name, believe }),
        Looked::Present(view) => Ok(Answer::Present { parent, name, view }),
    }
}

async fn attributes<S: Source>(vfs: &Shared<S>, of: AttributeTarget, by: ThreadId) -> Result<Answer> {
    let (attributes, believe) = vfs.attributes_for(of, by).await?;
    Ok(Answer::Attributes { id: vfs.id(of.ino)?, attributes, believe })
}

async fn set_attributes<S: Source>(
    vfs: &Shared<S>,
    at: Ino,
    set: &request::Setattr,
    by: ThreadId,
) -> Result<Answer> {
    // Copying a file sets those that it had, and those are none.
    if set.file_flags.is_some_and(|flags| flags != 0) {
        return Err(Errno::EOPNOTSUPP);
    }
    let of = AttributeTarget { ino: at, handle: set.handle.map(HandleId) };
    let (id, changes) = (vfs.id(at)?, changes(set));
    if let Some(attributes) = vfs.set_attributes_ahead(of, changes, by).await? {
        return Ok(Answer::Attributes { id, attributes, believe: vfs::table::Believe::Once });
    }
    let attributes = vfs.set_attributes(of, changes).await?;
    match vfs.attributes(at.into()).await {
        Ok((now, believe)) if now == attributes => Ok(Answer::Attributes { id, attributes, believe }),
        _ => Ok(Answer::Attributes { id, attributes, believe: vfs::table::Believe::Once }),
    }
}

async fn clear_set_gid<S: Source>(vfs: &Shared<S>, at: Ino) -> Result<()> {
    let (attributes, _) = vfs.attributes(at.into()).await?;
    if attributes.mode & SET_GID == 0 {
        return Ok(());
    }
    let mode = Some(attributes.mode & !SET_GID);
    vfs.set_attributes(at.into(), AttributeChanges { mode, ..AttributeChanges::default() }).await.map(|_| ())
}

async fn open<S: Source>(serving: &Arc<Serving<S>>, at: Ino, flags: u32) -> Result<Answer> {
    let opened = serving.vfs.open(at, open_flags(serving.flavour, flags)).await?;
    if opened.attributes_changed {
        serving.kernel.forget_attributes(at.0);
    }
    Ok(Answer::Opened(opened))
}

fn name_of<'a, S: Source>(serving: &Serving<S>, item: &DirectoryItem<'a>) -> reply::Name<'a> {
    reply::Name {
        // 0 would be taken for a deleted entry.
        ino: item.id.map_or(u64::MAX, |id| inode_number(serving.root_device, id)),
        cookie: item.cookie,
        file_type: item.kind.map_or(0, file_type),
        name: item.name,
    }
}

async fn list<S: Source>(serving: &Arc<Serving<S>>, read: request::Read) -> Result<Answer> {
    let mut listing = Listing::new(read.size);
    let take = |item: DirectoryItem<'_>| listing.push(&name_of(serving, &item)) != Placed::Full;
    serving.vfs.read_directory(HandleId(read.handle), read.offset, false, take).await?;
    Ok(Answer::Listing(listing))
}

async fn list_plus<S: Source>(serving: &Arc<Serving<S>>, parent: Ino, read: request::Read) -> Result<Answer> {
    let (mut listing, mut shown, mut unlistable) = (ListingPlus::new(read.size), Vec::new(), Vec::new());
    let take = |item: DirectoryItem<'_>| {
        let shows = item.view.map_or_else(
            || Entry::negative(std::time::Duration::ZERO),
            |view| entry(serving.root_device, &view),
        );
        match (listing.push(&name_of(serving, &item), &shows), item.view) {
            (Placed::Full, _) => return false,
            (Placed::Yes, Some(view)) => shown.push((Name::from(item.name), view.ino)),
            (Placed::Unlistable, Some(view)) => unlistable.push(view.ino),
            (_, None) => {}
        }
        true
    };
    let listed = serving.vfs.read_directory(HandleId(read.handle), read.offset, true, take).await;
    serving.vfs.forget_all(unlistable.into_iter().map(|ino| (ino, 1)));
    if let Err(errno) = listed {
        serving.vfs.forget_all(shown.into_iter().map(|(_, ino)| (ino, 1)));
        return Err(errno);
    }
    Ok(Answer::ListingPlus { parent, listing, shown })
}
