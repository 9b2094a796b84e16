//! From a call to its reply: which program and procedure, who may call it, what with.

use std::sync::Arc;

use bytes::Bytes;
use nfs3_types::mount::PROGRAM as MOUNT_PROGRAM;
use nfs3_types::nfs3::{self, NFS_PROGRAM, Nfs3Result, PROGRAM as NFS_PROGRAM_NUMBER, nfsstat3};
use nfs3_types::rpc::{accept_stat_data, auth_stat};
use nfs3_types::xdr_codec::Pack;
use vfs::source::Source;

use super::connection::Connection;
use super::handle::Handle;
use super::limits::TRANSFER_BYTES_MAX;
use super::peer::Peer;
use super::permission::User;
use super::procedures::Named;
use super::rpc::{Call, Claim, Reply, Results, pack};
use super::status::{Outcome, Refused};
use super::xdr::{Arguments, Garbage};
use super::{Access, Audience, Server, exports};

/// The version of both programs.
const VERSION: u32 = 3;

/// What other replies than those of READ, READDIR and READDIRPLUS take at most: a symlink's contents.
const SMALL_REPLY_BYTES_MAX: usize = 8 << 10;

/// The most that the reply to a call can be.
pub fn reply_bytes_max(call: &Call) -> usize {
    let procedure = NFS_PROGRAM::try_from(call.procedure);
    match (call.program, procedure) {
        (
            NFS_PROGRAM_NUMBER,
            Ok(
                NFS_PROGRAM::NFSPROC3_READ
                | NFS_PROGRAM::NFSPROC3_READDIR
                | NFS_PROGRAM::NFSPROC3_READDIRPLUS,
            ),
        ) => TRANSFER_BYTES_MAX as usize,
        _ => SMALL_REPLY_BYTES_MAX,
    }
}

/// Why a call has no results.
enum NoResults {
    Garbage,
    NoSuchProcedure,
    NotAllowed,
}

impl From<Garbage> for NoResults {
    fn from(_: Garbage) -> NoResults {
        NoResults::Garbage
    }
}

/// Carries a call out.
pub async fn dispatch<S: Source>(server: &Arc<Server<S>>, connection: &Connection, call: Call) -> Reply {
    let xid = call.xid;
    if !matches!(call.program, NFS_PROGRAM_NUMBER | MOUNT_PROGRAM) {
        return Reply::refused(xid, accept_stat_data::PROG_UNAVAIL);
    }
    if call.version != VERSION {
        return Reply::refused(xid, accept_stat_data::PROG_MISMATCH { low: VERSION, high: VERSION });
    }
    // Both programs have a procedure 0 that does nothing, for everybody.
    if call.procedure == 0 {
        return Reply::results(xid, &Results::default());
    }
    let results = match server.caller(connection.peer, &call.claim) {
        None => Err(NoResults::NotAllowed),
        Some(user) if call.program == NFS_PROGRAM_NUMBER => server.nfs(connection, &user, call).await,
        Some(user) => server.exports(connection, &user, call).await,
    };
    server.progress.made();
    match results {
        Ok(results) => Reply::results(xid, &results),
        Err(NoResults::Garbage) => Reply::refused(xid, accept_stat_data::GARBAGE_ARGS),
        Err(NoResults::NoSuchProcedure) => Reply::refused(xid, accept_stat_data::PROC_UNAVAIL),
        Err(NoResults::NotAllowed) => Reply::not_allowed(xid, auth_stat::AUTH_TOOWEAK),
    }
}

impl<S: Source> Server<S> {
    /// The user who calls, if the mount is for him. What a call says of its user is believed from root, who may be the
    /// kernel; another peer can only speak for itself, and is believed no groups.
    pub(super) fn caller(&self, peer: Peer, claim: &Claim) -> Option<User> {
        let Claim::User { uid, gid, groups } = claim else { return None };
        let (uid, gid) = (*uid, *gid);
        let for_user = self.served.audience == Audience::Everybody || uid == 0 || uid == self.served.owner.0;
        let speaks_for = match peer {
            Peer::User(0) => true,
            Peer::User(peer) => peer == uid,
            // Nothing better is known than what the call says.
            Peer::Unknown => true,
        };
        if !for_user || !speaks_for {
            return None;
        }
        if peer == Peer::User(0) {
            let groups = groups.iter().copied().chain([gid]).collect();
            return Some(User { uid, gid, groups });
        }
        let own = (uid == self.served.owner.0).then_some(self.served.owner.1);
        Some(User { uid, gid: own.unwrap_or(gid), groups: own.into_iter().collect() })
    }

    async fn nfs(&self, connection: &Connection, user: &User, call: Call) -> Result<Results, NoResults> {
        let procedure =
            NFS_PROGRAM::try_from(call.procedure).map_err(|_unknown| NoResults::NoSuchProcedure)?;
        let changes_names = changes_names(procedure);
        if self.served.access == Access::ReadOnly
            && (changes_names || procedure == NFS_PROGRAM::NFSPROC3_WRITE)
        {
            return Ok(failure(procedure, Refused(nfsstat3::NFS3ERR_ROFS)));
        }
        if !changes_names {
            return Ok(self.procedure(procedure, user, call.arguments).await?);
        }
        let id = self.replays.call(connection.client, call.xid, call.procedure, call.arguments.rest());
        let carry_out = self.procedure(procedure, user, call.arguments);
        let results = self.replays.once(id.clone(), carry_out).await?;
        if is_put_off(&results) {
            self.replays.forget(&id);
        }
        Ok(results)
    }

    async fn procedure(
        &self,
        procedure: NFS_PROGRAM,
        user: &User,
        mut arguments: Arguments,
    ) -> Result<Results, Garbage> {
        let a = &mut arguments;
        let done = match procedure {
            NFS_PROGRAM::NFSPROC3_NULL => Ok(Results::default()),
            NFS_PROGRAM::NFSPROC3_GETATTR => {
                let object = last(a, Handle::read)?;
                success(self.getattr(&object).await)
            }
            NFS_PROGRAM::NFSPROC3_SETATTR => {
                let (object, changes) = (Handle::read(a)?, a.fixed()?);
                let guard = last(a, Arguments::fixed)?;
                success(self.setattr(user, &object, &changes, &guard).await)
            }
            NFS_PROGRAM::NFSPROC3_LOOKUP => {
                let what = last(a, Named::read)?;
                success(self.lookup(user, &what).await)
            }
            NFS_PROGRAM::NFSPROC3_ACCESS => {
                let object = Handle::read(a)?;
                let asked = last(a, Arguments::u32)?;
                success(self.access(user, &object, asked).await)
            }
            NFS_PROGRAM::NFSPROC3_READLINK => {
                let link = last(a, Handle::read)?;
                self.readlink(&link).await
            }
            NFS_PROGRAM::NFSPROC3_READ => {
                let (file, offset) = (Handle::read(a)?, a.u64()?);
                let count = last(a, Arguments::u32)?;
                self.read(user, &file, offset, count).await
            }
            NFS_PROGRAM::NFSPROC3_WRITE => {
                let (file, offset, count, stable) = (Handle::read(a)?, a.u64()?, a.u32()?, a.fixed()?);
                let bytes = last(a, |a| a.opaque(TRANSFER_BYTES_MAX as usize))?;
                if bytes.len() < count as usize {
                    return Err(Garbage);
                }
                let bytes = bytes.slice(..count as usize);
                success(self.write(user, &file, offset, bytes, stable).await)
            }
            NFS_PROGRAM::NFSPROC3_CREATE => {
                let at = Named::read(a)?;
                let how = last(a, Arguments::fixed)?;
                success(self.create(user, &at, how).await)
            }
            NFS_PROGRAM::NFSPROC3_MKDIR => {
                let at = Named::read(a)?;
                let attributes = last(a, Arguments::fixed)?;
                success(self.mkdir(user, &at, &attributes).await)
            }
            NFS_PROGRAM::NFSPROC3_SYMLINK => {
                let (at, attributes) = (Named::read(a)?, a.fixed()?);
                let contents = last(a, |a| a.opaque(SMALL_REPLY_BYTES_MAX))?;
                success(self.symlink(user, &at, &attributes, contents).await)
            }
            NFS_PROGRAM::NFSPROC3_MKNOD => {
                let at = Named::read(a)?;
                let what = last(a, Arguments::fixed)?;
                success(self.mknod(user, &at, &what).await)
            }
            NFS_PROGRAM::NFSPROC3_REMOVE => {
                let object = last(a, Named::read)?;
                success(self.remove(user, &object).await)
            }
            NFS_PROGRAM::NFSPROC3_RMDIR => {
                let object = last(a, Named::read)?;
                success(self.rmdir(user, &object).await)
            }
            NFS_PROGRAM::NFSPROC3_RENAME => {
                let from = Named::read(a)?;
                let to = last(a, Named::read)?;
                success(self.rename(user, &from, &to).await)
            }
            NFS_PROGRAM::NFSPROC3_LINK => {
                let file = Handle::read(a)?;
                let at = last(a, Named::read)?;
                success(self.link(user, &file, &at).await)
            }
            NFS_PROGRAM::NFSPROC3_READDIR => {
                let (directory, cookie, _verifier) = (Handle::read(a)?, a.u64()?, a.u64()?);
                let bytes = last(a, Arguments::u32)?;
                self.readdir(user, &directory, cookie, bytes).await
            }
            NFS_PROGRAM::NFSPROC3_READDIRPLUS => {
                let (directory, cookie, _verifier) = (Handle::read(a)?, a.u64()?, a.u64()?);
                let (_names, bytes) = (a.u32()?, last(a, Arguments::u32)?);
                self.readdirplus(user, &directory, cookie, bytes).await
            }
            NFS_PROGRAM::NFSPROC3_FSSTAT => {
                let root = last(a, Handle::read)?;
                success(self.fsstat(&root).await)
            }
            NFS_PROGRAM::NFSPROC3_FSINFO => {
                let root = last(a, Handle::read)?;
                success(self.fsinfo(&root).await)
            }
            NFS_PROGRAM::NFSPROC3_PATHCONF => {
                let object = last(a, Handle::read)?;
                success(self.pathconf(&object).await)
            }
            NFS_PROGRAM::NFSPROC3_COMMIT => {
                let (file, _offset) = (Handle::read(a)?, a.u64()?);
                let _count = last(a, Arguments::u32)?;
                success(self.commit(user, &file).await)
            }
        };
        Ok(done.unwrap_or_else(|refused| failure(procedure, refused)))
    }

    async fn exports(&self, connection: &Connection, user: &User, call: Call) -> Result<Results, NoResults> {
        let Ok(procedure) = call.procedure.try_into() else { return Err(NoResults::NoSuchProcedure) };
        Ok(exports::procedure(self, connection, user, procedure, call.arguments).await?)
    }
}

/// The last argument.
fn last<T>(
    arguments: &mut Arguments,
    read: impl FnOnce(&mut Arguments) -> Result<T, Garbage>,
) -> Result<T, Garbage> {
    let value = read(arguments)?;
    arguments.end()?;
    Ok(value)
}

/// Packs what a procedure gives when it succeeds.
fn success<T: Pack>(outcome: Outcome<T>) -> Outcome<Results> {
    outcome.map(|value| Results::packed(&Nfs3Result::<T, nfs3::GETATTR3args>::Ok(value)))
}

/// The results of a procedure that failed: the status, and none of the attributes that may go with it.
fn failure(procedure: NFS_PROGRAM, Refused(status): Refused) -> Results {
    let mut packed = Vec::new();
    pack(&status, &mut packed);
    packed.resize(packed.len() + 4 * optional_attributes(procedure), 0);
    Results { packed, opaque: Bytes::new() }
}

/// Whether the client is to ask again later.
fn is_put_off(results: &Results) -> bool {
    results.packed.starts_with(&(nfsstat3::NFS3ERR_JUKEBOX as u32).to_be_bytes())
}

/// How many optional attributes the failure of a procedure has.
fn optional_attributes(procedure: NFS_PROGRAM) -> usize {
    match procedure {
        NFS_PROGRAM::NFSPROC3_NULL | NFS_PROGRAM::NFSPROC3_GETATTR => 0,
        NFS_PROGRAM::NFSPROC3_LOOKUP
        | NFS_PROGRAM::NFSPROC3_ACCESS
        | NFS_PROGRAM::NFSPROC3_READLINK
        | NFS_PROGRAM::NFSPROC3_READ
        | NFS_PROGRAM::NFSPROC3_READDIR
        | NFS_PROGRAM::NFSPROC3_READDIRPLUS
        | NFS_PROGRAM::NFSPROC3_FSSTAT
        | NFS_PROGRAM::NFSPROC3_FSINFO
        | NFS_PROGRAM::NFSPROC3_PATHCONF => 1,
        NFS_PROGRAM::NFSPROC3_SETATTR
        | NFS_PROGRAM::NFSPROC3_WRITE
        | NFS_PROGRAM::NFSPROC3_CREATE
        | NFS_PROGRAM::NFSPROC3_MKDIR
        | NFS_PROGRAM::NFSPROC3_SYMLINK
        | NFS_PROGRAM::NFSPROC3_MKNOD
        | NFS_PROGRAM::NFSPROC3_REMOVE
        | NFS_PROGRAM::NFSPROC3_RMDIR
        | NFS_PROGRAM::NFSPROC3_COMMIT => 2,
        NFS_PROGRAM::NFSPROC3_LINK => 3,
        NFS_PROGRAM::NFSPROC3_RENAME => 4,
    }
}

/// Whether a procedure must not be carried out twice. A WRITE may.
fn changes_names(procedure: NFS_PROGRAM) -> bool {
    matches!(
        procedure,
        NFS_PROGRAM::NFSPROC3_SETATTR
            | NFS_PROGRAM::NFSPROC3_CREATE
            | NFS_PROGRAM::NFSPROC3_MKDIR
            | NFS_PROGRAM::NFSPROC3_SYMLINK
            | NFS_PROGRAM::NFSPROC3_MKNOD
            | NFS_PROGRAM::NFSPROC3_REMOVE
            | NFS_PROGRAM::NFSPROC3_RMDIR
            | NFS_PROGRAM::NFSPROC3_RENAME
            | NFS_PROGRAM::NFSPROC3_LINK
    )
}
