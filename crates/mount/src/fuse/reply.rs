//! What the kernel is told: typed replies become one `writev` to the device that the request was read from.
//!
//! A [`Responder`] is the duty to answer one request. It can be sent to another thread, answers once, and
//! when it is dropped unanswered the process that waits gets EIO and the log gets an error.

use super::abi::{self, Layout, darwin, fopen};
use super::device::{BackingId, Device};
use super::request::{CopyWidth, Header, Lock, OperationName};
use rustix::io::Errno;
use std::io::IoSlice;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use zerocopy::{Immutable, IntoBytes};

/// Slices one `writev` takes (`IOV_MAX` is 1024); a reply in more is joined first. A reply of 1 MiB in 64 KiB
/// extents, the header and a ragged end fit.
const REPLY_SLICES_MAX: usize = 32;

/// Bytes of a directory listing in one reply. The kernel asks for a page, or for `max_pages` when it reads
/// ahead; what it claims to want beyond that is not believed.
pub const LISTING_BYTES_MAX: u32 = 1 << 20;

/// What became of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// The kernel has it.
    Delivered,
    /// Nobody waits any more: the request was aborted, or the mount is gone. A lookup in this reply was not
    /// counted, and a handle in it will not be released: take both back.
    Gone,
}

/// The kernel refused a reply. The waiting process got EIO.
#[derive(Debug, Error)]
#[error("could not answer request {unique:#x} ({operation}) with {bytes} bytes")]
pub struct ReplyError {
    /// Which.
    pub unique: u64,
    /// What was asked.
    pub operation: OperationName,
    /// Length of the reply, header included.
    pub bytes: usize,
    /// What the device said.
    #[source]
    pub source: Errno,
}

/// A node under a name, as LOOKUP and every creating operation answer it.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// The node's number; 0 says that there is no such name (see [`Entry::negative`]).
    pub node: u64,
    /// With `node` unique for the life of the mount.
    pub generation: u64,
    /// How long the kernel may keep the name.
    pub entry_lifetime: Duration,
    /// How long the kernel may keep the attributes.
    pub attr_lifetime: Duration,
    /// The attributes.
    pub attr: abi::Attr,
}

impl Entry {
    /// "No such name", which the kernel remembers for `lifetime`. ENOENT is the same for no time.
    pub fn negative(lifetime: Duration) -> Self {
        Self {
            node: 0,
            generation: 0,
            entry_lifetime: lifetime,
            attr_lifetime: Duration::ZERO,
            attr: abi::Attr::default(),
        }
    }

    fn layout(&self) -> abi::EntryOut {
        abi::EntryOut {
            nodeid: self.node,
            generation: self.generation,
            entry_valid: self.entry_lifetime.as_secs(),
            attr_valid: self.attr_lifetime.as_secs(),
            entry_valid_nsec: self.entry_lifetime.subsec_nanos(),
            attr_valid_nsec: self.attr_lifetime.subsec_nanos(),
            attr: self.attr,
        }
    }
}

/// An open file or directory.
#[derive(Clone, Copy, Debug, Default)]
pub struct Opened {
    /// What later requests name it by.
    pub handle: u64,
    /// [`fopen`] flags. With a backing file `PASSTHROUGH` is added, and those left out that the kernel does
    /// not take with it, [`fopen::KEEP_CACHE`] among them.
    pub flags: u32,
    /// The file that the kernel reads and writes instead of asking. While one open file of a node has it, all
    /// that are opened later must have it too, and a node that is open without it cannot be opened with it:
    /// the kernel fails such an open with EIO.
    pub backing: Option<BackingId>,
}

impl Opened {
    fn layout(&self) -> abi::OpenOut {
        let open_flags = match self.backing {
            Some(_) => (self.flags | fopen::PASSTHROUGH) & fopen::WITH_PASSTHROUGH,
            None => self.flags & !fopen::PASSTHROUGH,
        };
        abi::OpenOut { fh: self.handle, open_flags, backing_id: self.backing.map_or(0, BackingId::number) }
    }
}

/// The duty to answer one request.
#[derive(Debug)]
pub struct Responder {
    device: Arc<Device>,
    unique: u64,
    identity: u64,
    opcode: u32,
    answered: bool,
}

impl Responder {
    /// The duty to answer the request with this header; `None` if the kernel expects no answer to it.
    ///
    /// `device` must be the one that the request was read from, not another clone of it: each clone has its
    /// own table of requests in progress, and a reply through another is taken for one that nobody waits for.
    pub fn for_request(header: &Header, device: &Arc<Device>) -> Option<Self> {
        header.expects_reply().then(|| Self {
            device: Arc::clone(device),
            unique: header.unique,
            identity: header.identity(),
            opcode: header.opcode,
            answered: false,
        })
    }

    /// As [`Header::identity`].
    pub fn identity(&self) -> u64 {
        self.identity
    }

    /// Which request this answers, with the resend bit.
    pub fn unique(&self) -> u64 {
        self.unique
    }

    /// Done, and there is nothing to tell.
    pub fn done(self) -> Result<Delivery, ReplyError> {
        self.send(0, &[])
    }

    /// Failed. The number is Linux's; one outside of 1..512 is answered as EIO, since the kernel would refuse it.
    pub fn error(self, errno: i32) -> Result<Delivery, ReplyError> {
        let errno = u16::try_from(sendable(errno)).map_or(0, |linux| self.device.flavour().errno(linux));
        self.send(-sendable(errno.into()), &[])
    }

    /// Failed. The number is this system's.
    pub fn errno(self, errno: Errno) -> Result<Delivery, ReplyError> {
        self.send(-sendable(errno.raw_os_error()), &[])
    }

    /// To LOOKUP, MKNOD, MKDIR, SYMLINK and LINK. Each delivered entry with a node counts as one lookup of
    /// it.
    pub fn entry(self, entry: &Entry) -> Result<Delivery, ReplyError> {
        match self.layout() {
            Layout::Linux => self.fixed(&entry.layout()),
            Layout::Darwin => self.fixed(&darwin::EntryOut::from(entry.layout())),
        }
    }

    /// To GETATTR and SETATTR.
    pub fn attr(self, attr: &abi::Attr, lifetime: Duration) -> Result<Delivery, ReplyError> {
        let out = abi::AttrOut {
            attr_valid: lifetime.as_secs(),
            attr_valid_nsec: lifetime.subsec_nanos(),
            dummy: 0,
            attr: *attr,
        };
        match self.layout() {
            Layout::Linux => self.fixed(&out),
            Layout::Darwin => self.fixed(&darwin::AttrOut::from(out)),
        }
    }

    /// To STATX.
    pub fn statx(self, stat: &abi::Statx, lifetime: Duration) -> Result<Delivery, ReplyError> {
        self.fixed(&abi::StatxOut {
            attr_valid: lifetime.as_secs(),
            attr_valid_nsec: lifetime.subsec_nanos(),
            flags: 0,
            spare: [0; 2],
            stat: *stat,
        })
    }

    /// To OPEN and OPENDIR.
    pub fn opened(self, opened: &Opened) -> Result<Delivery, ReplyError> {
        self.fixed(&opened.layout())
    }

    /// To CREATE and TMPFILE. Counts as one lookup.
    pub fn created(self, entry: &Entry, opened: &Opened) -> Result<Delivery, ReplyError> {
        let (entry, open) = (entry.layout(), opened.layout());
        match self.layout() {
            Layout::Linux => self.fixed(&abi::CreateOut { entry, open }),
            Layout::Darwin => self.fixed(&darwin::CreateOut { entry: entry.into(), open }),
        }
    }

    /// To WRITE, and the number of bytes of a COPY_FILE_RANGE in its narrow form.
    pub fn written(self, bytes: u32) -> Result<Delivery, ReplyError> {
        self.fixed(&abi::WriteOut { size: bytes, padding: 0 })
    }

    /// To COPY_FILE_RANGE in either form. The narrow one cannot tell 4 GiB or more: copy less.
    pub fn copied(self, bytes: u64, width: CopyWidth) -> Result<Delivery, ReplyError> {
        match width {
            CopyWidth::Wide => self.fixed(&abi::CopyFileRangeOut { bytes_copied: bytes }),
            CopyWidth::Narrow => match u32::try_from(bytes) {
                Ok(bytes) => self.written(bytes),
                Err(_) => self.errno(Errno::OVERFLOW),
            },
        }
    }

    /// To READ, READLINK, and to GETXATTR and LISTXATTR that asked for the value.
    pub fn data(self, bytes: &[u8]) -> Result<Delivery, ReplyError> {
        self.send(0, &[bytes])
    }

    /// As [`Responder::data`], of several pieces in order.
    pub fn data_slices(self, pieces: &[&[u8]]) -> Result<Delivery, ReplyError> {
        self.send(0, pieces)
    }

    /// To READDIR.
    pub fn listing(self, listing: &Listing) -> Result<Delivery, ReplyError> {
        self.data(&listing.bytes)
    }

    /// To READDIRPLUS. Every entry in it with a node, other than `.` and `..`, counts as one lookup.
    pub fn listing_plus(self, listing: &ListingPlus) -> Result<Delivery, ReplyError> {
        self.data(&listing.bytes)
    }

    /// To GETXATTR and LISTXATTR with size 0: how long the value is.
    pub fn xattr_size(self, bytes: u32) -> Result<Delivery, ReplyError> {
        self.fixed(&abi::GetxattrOut { size: bytes, padding: 0 })
    }

    /// To STATFS.
    pub fn statfs(self, statfs: &abi::Kstatfs) -> Result<Delivery, ReplyError> {
        self.fixed(statfs)
    }

    /// To GETLK: the lock that is in the way, or one of kind `Unlock` if none is.
    pub fn lock(self, lock: &Lock) -> Result<Delivery, ReplyError> {
        self.fixed(&abi::FileLock { start: lock.start, end: lock.end, kind: lock.kind as u32, pid: lock.pid })
    }

    /// To LSEEK.
    pub fn position(self, offset: u64) -> Result<Delivery, ReplyError> {
        self.fixed(&abi::LseekOut { offset })
    }

    /// To BMAP.
    pub fn block(self, block: u64) -> Result<Delivery, ReplyError> {
        self.fixed(&abi::BmapOut { block })
    }

    /// To POLL.
    pub fn polled(self, events: u32) -> Result<Delivery, ReplyError> {
        self.fixed(&abi::PollOut { revents: events, padding: 0 })
    }

    /// To IOCTL: the call's result and what it passes back, at most `output_size` bytes.
    pub fn ioctl(self, result: i32, output: &[u8]) -> Result<Delivery, ReplyError> {
        let fixed = abi::IoctlOut { result, flags: 0, in_iovs: 0, out_iovs: 0 };
        self.send(0, &[fixed.as_bytes(), output])
    }

    /// To INIT.
    pub fn init(self, init: &abi::InitOut) -> Result<Delivery, ReplyError> {
        let known = match self.layout() {
            Layout::Linux => init.as_bytes(),
            Layout::Darwin => &init.as_bytes()[..darwin::INIT_OUT_BYTES],
        };
        self.data(known)
    }

    fn layout(&self) -> Layout {
        self.device.flavour().layout
    }

    fn fixed<T: IntoBytes + Immutable>(self, layout: &T) -> Result<Delivery, ReplyError> {
        self.send(0, &[layout.as_bytes()])
    }

    fn send(mut self, error: i32, pieces: &[&[u8]]) -> Result<Delivery, ReplyError> {
        self.answered = true;
        let sent = write_message(&self.device, error, self.unique, pieces);
        let source = match sent {
            Ok(delivery) => return Ok(delivery),
            Err(errno) => errno,
        };
        // The kernel ends a request whose reply has the wrong length, but not one whose header it did not
        // accept: then this ends it, and otherwise it finds nothing.
        let failed = self.refuse();
        let bytes = size_of::<abi::OutHeader>() + pieces.iter().map(|piece| piece.len()).sum::<usize>();
        if let Err(errno) = failed {
            let unique = self.unique;
            tracing::error!(unique, %errno, "the request cannot be ended: its caller waits until an abort");
        }
        Err(ReplyError { unique: self.unique, operation: OperationName::of(self.opcode), bytes, source })
    }

    fn refuse(&self) -> Result<Delivery, Errno> {
        write_message(&self.device, -Errno::IO.raw_os_error(), self.unique, &[])
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        if self.answered {
            return;
        }
        let operation = OperationName::of(self.opcode);
        match self.refuse() {
            Ok(_) => tracing::error!(unique = self.unique, %operation, "dropped unanswered: answered EIO"),
            Err(errno) => {
                let unique = self.unique;
                tracing::error!(unique, %operation, %errno, "dropped unanswered, and EIO was refused");
            }
        }
    }
}

/// Asks the kernel to send an INTERRUPT again, because the request it names is not known here yet. `header`
/// is the interrupt's own. Has an effect only through the device that the interrupted request was read from.
pub fn interrupt_again(device: &Device, header: &Header) -> Result<Delivery, ReplyError> {
    write_message(device, -Errno::AGAIN.raw_os_error(), header.unique, &[]).map_err(|source| ReplyError {
        unique: header.unique,
        operation: header.operation_name(),
        bytes: size_of::<abi::OutHeader>(),
        source,
    })
}

/// Answers a request that could not be parsed, if the kernel waits for it.
pub fn refuse_malformed(device: &Arc<Device>, header: &Header) -> Result<Delivery, ReplyError> {
    match Responder::for_request(header, device) {
        Some(responder) => responder.errno(Errno::IO),
        None => Ok(Delivery::Delivered),
    }
}

fn sendable(errno: i32) -> i32 {
    if (1..abi::ERRNO_LIMIT).contains(&errno) { errno } else { Errno::IO.raw_os_error() }
}

/// Writes a header and the pieces after it in one call, without copying them unless there are too many.
pub(super) fn write_message(
    device: &Device,
    error: i32,
    unique: u64,
    pieces: &[&[u8]],
) -> Result<Delivery, Errno> {
    if pieces.len() >= REPLY_SLICES_MAX {
        return write_message(device, error, unique, &[&pieces.concat()]);
    }
    let length = size_of::<abi::OutHeader>() + pieces.iter().map(|piece| piece.len()).sum::<usize>();
    let Ok(len) = u32::try_from(length) else { return Err(Errno::MSGSIZE) };
    let header = abi::OutHeader { len, error, unique };
    let mut slices = [IoSlice::new(&[]); REPLY_SLICES_MAX];
    slices[0] = IoSlice::new(header.as_bytes());
    for (slice, piece) in slices[1..].iter_mut().zip(pieces) {
        *slice = IoSlice::new(piece);
    }
    match device.write(&slices[..=pieces.len()]) {
        Ok(()) => Ok(Delivery::Delivered),
        Err(Errno::NOENT | Errno::NODEV) => Ok(Delivery::Gone),
        // How that kernel says that there is no mount any more.
        Err(Errno::NOTCONN) if device.flavour().layout == Layout::Darwin => Ok(Delivery::Gone),
        Err(errno) => Err(errno),
    }
}

/// One name in a directory listing.
#[derive(Clone, Copy, Debug)]
pub struct Name<'a> {
    /// The inode number that programs see.
    pub ino: u64,
    /// What the next READDIR sends as its offset to go on after this entry. Not 0, and below 2^63.
    pub cookie: u64,
    /// The file type, as the `S_IFMT` bits of its mode; 0 if it is not known.
    pub file_type: u32,
    /// The name.
    pub name: &'a [u8],
}

impl Name<'_> {
    fn layout(&self) -> abi::Dirent {
        // `DT_*` is the type's position in the mode.
        let kind = (self.file_type & abi::mode::FORMAT) >> 12;
        abi::Dirent { ino: self.ino, off: self.cookie, namelen: self.name.len() as u32, kind }
    }

    /// The kernel answers EIO to a listing with a name that fails this, whatever else is in it.
    fn is_listable(&self) -> bool {
        let length = 1..=abi::NAME_BYTES_MAX;
        length.contains(&self.name.len()) && !self.name.iter().any(|&byte| byte == b'/' || byte == 0)
    }
}

/// Whether an entry went into a listing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Placed {
    /// It did.
    Yes,
    /// There is no room: send the listing as it is, the kernel asks for more.
    Full,
    /// The name is empty, too long or has a slash, so that it would spoil the whole listing: leave it out.
    Unlistable,
}

/// The reply to READDIR. An empty one ends the directory.
#[derive(Debug)]
pub struct Listing {
    bytes: Vec<u8>,
    limit: usize,
}

impl Listing {
    /// For a request that takes `size` bytes.
    pub fn new(size: u32) -> Self {
        let limit = size.min(LISTING_BYTES_MAX) as usize;
        Self { bytes: Vec::with_capacity(limit), limit }
    }

    /// Adds one name.
    pub fn push(&mut self, name: &Name<'_>) -> Placed {
        place(&mut self.bytes, self.limit, name, name.layout().as_bytes())
    }

    /// Whether nothing was added.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

/// The reply to READDIRPLUS. An empty one ends the directory.
#[derive(Debug)]
pub struct ListingPlus {
    bytes: Vec<u8>,
    limit: usize,
}

impl ListingPlus {
    /// For a request that takes `size` bytes.
    pub fn new(size: u32) -> Self {
        let limit = size.min(LISTING_BYTES_MAX) as usize;
        Self { bytes: Vec::with_capacity(limit), limit }
    }

    /// Adds one name with its node. [`Entry::negative`] adds the name alone: no lookup is counted and the
    /// kernel asks when it needs to know more. That is what `.` and `..` get.
    pub fn push(&mut self, name: &Name<'_>, entry: &Entry) -> Placed {
        let layout = abi::Direntplus { entry: entry.layout(), dirent: name.layout() };
        place(&mut self.bytes, self.limit, name, layout.as_bytes())
    }

    /// Whether nothing was added.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

fn place(bytes: &mut Vec<u8>, limit: usize, name: &Name<'_>, fixed: &[u8]) -> Placed {
    if !name.is_listable() {
        return Placed::Unlistable;
    }
    let length = (fixed.len() + name.name.len()).next_multiple_of(size_of::<u64>());
    if bytes.len() + length > limit {
        return Placed::Full;
    }
    let end = bytes.len() + length;
    bytes.extend_from_slice(fixed);
    bytes.extend_from_slice(name.name);
    bytes.resize(end, 0);
    Placed::Yes
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::FromBytes;

    fn name(bytes: &[u8]) -> Name<'_> {
        Name { ino: 7, cookie: 9, file_type: libc::S_IFDIR, name: bytes }
    }

    #[test]
    fn a_listing_is_aligned_and_stops_at_the_requested_size() {
        let mut listing = Listing::new(64);
        assert!(listing.is_empty());
        assert_eq!(listing.push(&name(b"four")), Placed::Yes);
        assert_eq!(listing.bytes.len(), 32);
        assert_eq!(listing.push(&name(b"exactly8")), Placed::Yes);
        assert_eq!(listing.bytes.len(), 64);
        assert_eq!(listing.push(&name(b"x")), Placed::Full);
        let (first, rest) = abi::Dirent::read_from_prefix(&listing.bytes).unwrap();
        assert_eq!(first, abi::Dirent { ino: 7, off: 9, namelen: 4, kind: u32::from(libc::DT_DIR) });
        assert_eq!(&rest[..8], b"four\0\0\0\0");
    }

    #[test]
    fn a_listing_with_nodes_has_the_entry_before_the_name() {
        let mut listing = ListingPlus::new(4096);
        let mut entry = Entry::negative(Duration::from_millis(1500));
        entry.node = 3;
        assert_eq!(listing.push(&name(b"a"), &entry), Placed::Yes);
        assert_eq!(listing.bytes.len(), 160);
        let (first, rest) = abi::Direntplus::read_from_prefix(&listing.bytes).unwrap();
        assert_eq!(
            (first.entry.nodeid, first.entry.entry_valid, first.entry.entry_valid_nsec),
            (3, 1, 500_000_000)
        );
        assert_eq!(rest, b"a\0\0\0\0\0\0\0");
    }

    #[test]
    fn names_that_would_spoil_a_listing_are_left_out() {
        let mut listing = Listing::new(4096);
        for bad in [&b""[..], b"a/b", b"a\0b", &[b'x'; abi::NAME_BYTES_MAX + 1]] {
            assert_eq!(listing.push(&name(bad)), Placed::Unlistable);
        }
        assert_eq!(listing.push(&name(&[b'x'; 255])), Placed::Yes);
    }

    #[test]
    fn a_listing_of_an_absurd_size_takes_bounded_memory() {
        assert!(Listing::new(u32::MAX).bytes.capacity() <= LISTING_BYTES_MAX as usize);
        assert!(ListingPlus::new(u32::MAX).bytes.capacity() <= LISTING_BYTES_MAX as usize);
    }

    #[test]
    fn only_errors_that_the_kernel_accepts_are_sent() {
        for (errno, sent) in [(2, 2), (511, 511), (512, 5), (0, 5), (-2, 5), (i32::MIN, 5)] {
            assert_eq!(sendable(errno), sent);
        }
    }
}
