//! Numbers of errors. Those of a machine are Linux's, whatever system it has; this computer's system may have others.

use std::io;

use rustix::io::Errno as Here;
use wire::agent::Errno;

/// No such attribute.
#[cfg(target_os = "linux")]
const NO_ATTRIBUTE: Here = Here::NODATA;
#[cfg(not(target_os = "linux"))]
const NO_ATTRIBUTE: Here = Here::NOATTR;

/// The last number that all systems have in common, but for that of `EAGAIN`.
const COMMON_MAX: u16 = 34;

/// An error that nobody has a better word for.
const EIO: Errno = Errno(5);

/// Linux's number, and what this system calls the same. Those that are not here, and not common, are of no use to who is told.
const NUMBERS: &[(u16, Here)] = &[
    (11, Here::AGAIN),
    (35, Here::DEADLK),
    (36, Here::NAMETOOLONG),
    (37, Here::NOLCK),
    (38, Here::NOSYS),
    (39, Here::NOTEMPTY),
    (40, Here::LOOP),
    (61, NO_ATTRIBUTE),
    (71, Here::PROTO),
    (74, Here::BADMSG),
    (75, Here::OVERFLOW),
    (84, Here::ILSEQ),
    (87, Here::USERS),
    (88, Here::NOTSOCK),
    (89, Here::DESTADDRREQ),
    (90, Here::MSGSIZE),
    (91, Here::PROTOTYPE),
    (92, Here::NOPROTOOPT),
    (93, Here::PROTONOSUPPORT),
    (95, Here::OPNOTSUPP),
    (97, Here::AFNOSUPPORT),
    (98, Here::ADDRINUSE),
    (99, Here::ADDRNOTAVAIL),
    (100, Here::NETDOWN),
    (101, Here::NETUNREACH),
    (102, Here::NETRESET),
    (103, Here::CONNABORTED),
    (104, Here::CONNRESET),
    (105, Here::NOBUFS),
    (106, Here::ISCONN),
    (107, Here::NOTCONN),
    (110, Here::TIMEDOUT),
    (111, Here::CONNREFUSED),
    (112, Here::HOSTDOWN),
    (113, Here::HOSTUNREACH),
    (114, Here::ALREADY),
    (115, Here::INPROGRESS),
    (116, Here::STALE),
    (122, Here::DQUOT),
    (125, Here::CANCELED),
];

/// What this system calls an error of a machine.
pub fn here(errno: Errno) -> io::Error {
    let found = NUMBERS.iter().find(|(number, _)| *number == errno.0);
    match found {
        Some((_, here)) => (*here).into(),
        None if errno.0 <= COMMON_MAX || cfg!(target_os = "linux") => {
            io::Error::from_raw_os_error(errno.0.into())
        }
        None => io::Error::other(format!("error {} of the machine", errno.0)),
    }
}

/// What a machine is told of an error of this system.
pub fn there(errno: Here) -> Errno {
    let found = NUMBERS.iter().find(|(_, here)| *here == errno);
    let own = u16::try_from(errno.raw_os_error()).ok();
    let own = own.filter(|number| *number <= COMMON_MAX || cfg!(target_os = "linux"));
    found.map(|(number, _)| Errno(*number)).or(own.map(Errno)).unwrap_or(EIO)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn on_linux_a_number_is_the_number() {
        for (number, here) in NUMBERS {
            assert_eq!(i32::from(*number), here.raw_os_error());
        }
        for number in [0, 1, 11, 35, 124, 133, u16::MAX] {
            assert_eq!(here(Errno(number)).raw_os_error(), Some(number.into()));
        }
    }

    #[test]
    fn what_is_said_comes_back() {
        for errno in [Here::PERM, Here::AGAIN, Here::NOTEMPTY, Here::LOOP, Here::CONNREFUSED, Here::STALE] {
            let back = here(there(errno));
            assert_eq!(back.raw_os_error(), Some(errno.raw_os_error()));
        }
    }
}
