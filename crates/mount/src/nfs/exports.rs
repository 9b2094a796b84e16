//! The MOUNT protocol: how a client gets the handle of the root.
//!
//! Which clients have mounted is not kept: the protocol itself says that such a list cannot be relied on.

use nfs3_types::mount::{
    MOUNT_PROGRAM, dirpath, export_node, exports, fhandle3, mountlist, mountres3, mountres3_ok, mountstat3,
};
use nfs3_types::nfs3::nfsstat3;
use nfs3_types::rpc::auth_flavor;
use nfs3_types::xdr_codec::{List, Opaque};
use vfs::file::FileId;
use vfs::source::Source;

use super::connection::Connection;
use super::permission::User;
use super::rpc::Results;
use super::status::{Outcome, Refused};
use super::xdr::{Arguments, Garbage};
use super::{EXPORT, Server, handle};

/// The longest path, by the protocol.
const PATH_BYTES_MAX: usize = 1024;

/// Carries out a procedure.
pub async fn procedure<S: Source>(
    server: &Server<S>,
    connection: &Connection,
    user: &User,
    procedure: MOUNT_PROGRAM,
    mut arguments: Arguments,
) -> Result<Results, Garbage> {
    let results = match procedure {
        MOUNT_PROGRAM::MOUNTPROC3_MNT => {
            let path = arguments.opaque(PATH_BYTES_MAX)?;
            tracing::debug!(client = %connection.client, "mounted");
            Results::packed(&mount(server, user, &path).await)
        }
        MOUNT_PROGRAM::MOUNTPROC3_UMNT => {
            arguments.opaque(PATH_BYTES_MAX)?;
            Results::default()
        }
        MOUNT_PROGRAM::MOUNTPROC3_DUMP => Results::packed(&mountlist::default()),
        MOUNT_PROGRAM::MOUNTPROC3_NULL | MOUNT_PROGRAM::MOUNTPROC3_UMNTALL => Results::default(),
        MOUNT_PROGRAM::MOUNTPROC3_EXPORT => {
            let ex_dir = dirpath(Opaque::borrowed(EXPORT.as_bytes()));
            let all: exports<'_, '_> = List(vec![export_node { ex_dir, ex_groups: List::default() }]);
            Results::packed(&all)
        }
    };
    arguments.end()?;
    Ok(results)
}

async fn mount<S: Source>(server: &Server<S>, user: &User, path: &[u8]) -> mountres3<'static> {
    match directory(server, user, path).await {
        Ok(directory) => mountres3::Ok(mountres3_ok {
            fhandle: fhandle3(Opaque::owned(handle::encode(server.key, directory))),
            auth_flavors: vec![auth_flavor::AUTH_UNIX as u32],
        }),
        Err(Refused(status)) => mountres3::Err(mount_status(status)),
    }
}

/// The directory that a path names: the root of the mount for the export itself, or one below. Symlinks are not
/// followed.
async fn directory<S: Source>(server: &Server<S>, user: &User, path: &[u8]) -> Outcome<FileId> {
    let mut names = path.split(|byte| *byte == b'/').filter(|name| !name.is_empty());
    if let Some(first) = names.next()
        && first != EXPORT.trim_matches('/').as_bytes()
    {
        return Err(Refused(nfsstat3::NFS3ERR_NOENT));
    }
    let mut held = server.root()?;
    for name in names {
        held = server.step_down(user, &held, name).await?;
    }
    Ok(held.id)
}

fn mount_status(status: nfsstat3) -> mountstat3 {
    match status {
        nfsstat3::NFS3ERR_PERM => mountstat3::MNT3ERR_PERM,
        nfsstat3::NFS3ERR_NOENT | nfsstat3::NFS3ERR_STALE => mountstat3::MNT3ERR_NOENT,
        nfsstat3::NFS3ERR_IO => mountstat3::MNT3ERR_IO,
        nfsstat3::NFS3ERR_ACCES => mountstat3::MNT3ERR_ACCES,
        nfsstat3::NFS3ERR_NOTDIR => mountstat3::MNT3ERR_NOTDIR,
        nfsstat3::NFS3ERR_INVAL => mountstat3::MNT3ERR_INVAL,
        nfsstat3::NFS3ERR_NAMETOOLONG => mountstat3::MNT3ERR_NAMETOOLONG,
        _ => mountstat3::MNT3ERR_SERVERFAULT,
    }
}
