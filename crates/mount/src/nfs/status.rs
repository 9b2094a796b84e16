//! What an error is called in the protocol.

use nfs3_types::nfs3::nfsstat3;
use nfs3_types::nfs3::nfsstat3::*;
use vfs::errno::Errno;

/// Why a procedure fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused(pub nfsstat3);

/// What a procedure comes to.
pub type Outcome<T> = Result<T, Refused>;

impl From<Errno> for Refused {
    fn from(errno: Errno) -> Refused {
        Refused(status(errno))
    }
}

/// The protocol's word for an error number. Numbers it has no word for become the nearest one that makes a client do the
/// right thing: give up on this operation ([`NFS3ERR_IO`]), or try again later ([`NFS3ERR_JUKEBOX`]).
fn status(errno: Errno) -> nfsstat3 {
    match errno {
        Errno::EPERM => NFS3ERR_PERM,
        Errno::ENOENT => NFS3ERR_NOENT,
        Errno::ENXIO => NFS3ERR_NXIO,
        Errno::EACCES => NFS3ERR_ACCES,
        Errno::EEXIST => NFS3ERR_EXIST,
        Errno::EXDEV => NFS3ERR_XDEV,
        Errno::ENOTDIR => NFS3ERR_NOTDIR,
        Errno::EISDIR => NFS3ERR_ISDIR,
        Errno::EINVAL | Errno::ELOOP | Errno::ERANGE | Errno::EOVERFLOW | Errno::ESPIPE => NFS3ERR_INVAL,
        Errno::EFBIG => NFS3ERR_FBIG,
        Errno::ENOSPC => NFS3ERR_NOSPC,
        Errno::EROFS => NFS3ERR_ROFS,
        Errno::EMLINK => NFS3ERR_MLINK,
        Errno::ENAMETOOLONG => NFS3ERR_NAMETOOLONG,
        Errno::ENOTEMPTY => NFS3ERR_NOTEMPTY,
        Errno::EDQUOT => NFS3ERR_DQUOT,
        Errno::ESTALE => NFS3ERR_STALE,
        Errno::ENOSYS | Errno::EOPNOTSUPP => NFS3ERR_NOTSUPP,
        // Shortages that pass. The client waits and asks again.
        Errno::EAGAIN | Errno::ENOMEM | Errno::ENFILE | Errno::EMFILE | Errno::ETIMEDOUT => NFS3ERR_JUKEBOX,
        _ => NFS3ERR_IO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_errors_that_tell_people_what_to_do_survive_the_trip() {
        let cases = [
            (Errno::EPERM, NFS3ERR_PERM),
            (Errno::EACCES, NFS3ERR_ACCES),
            (Errno::EROFS, NFS3ERR_ROFS),
            (Errno::ENOSPC, NFS3ERR_NOSPC),
            (Errno::EDQUOT, NFS3ERR_DQUOT),
            (Errno::EFBIG, NFS3ERR_FBIG),
            (Errno::ENAMETOOLONG, NFS3ERR_NAMETOOLONG),
            (Errno::EXDEV, NFS3ERR_XDEV),
            (Errno::ENOTEMPTY, NFS3ERR_NOTEMPTY),
            (Errno::EMLINK, NFS3ERR_MLINK),
            (Errno::ESTALE, NFS3ERR_STALE),
            (Errno::EIO, NFS3ERR_IO),
            (Errno(u16::MAX), NFS3ERR_IO),
        ];
        for (errno, expected) in cases {
            assert_eq!(status(errno), expected, "{errno:?}");
        }
    }
}
