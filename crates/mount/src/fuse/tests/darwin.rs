//! The server with a kernel that speaks as macFUSE's extension does: messages are laid out by hand on one end of a socket, and what is
//! behind the other end is the same server as everywhere.

use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, recv, socketpair};
use vfs::{Options, Vfs};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::DEADLINE;
use crate::Progress;
use crate::fuse::abi::{self, InitFlags, Opcode, ROOT_ID, darwin, fattr, mode};
use crate::fuse::device::Device;
use crate::fuse::negotiation::Negotiated;
use crate::fuse::serve::{Begin, FuseKernel, Server, Start, handshake, wanted};
use crate::machine::Owners;
use crate::nfs::tests::disk::Disk;

/// Room for the longest reply here.
const REPLY_BYTES_MAX: usize = 64 << 10;

/// What the extension offers: of these bits only the first means what Linux means by it.
const OFFERED: u32 = 1 << 3 | 0x1f << 27;

/// The kernel's end.
struct Kernel {
    socket: OwnedFd,
    last: u64,
}

impl Kernel {
    fn with_device() -> (Kernel, Arc<Device>) {
        let flags = SocketFlags::CLOEXEC;
        let (socket, device) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        set_socket_timeout(&socket, Timeout::Recv, Some(DEADLINE)).unwrap();
        (Kernel { socket, last: 1 }, Arc::new(Device::speaking(device, &darwin::FLAVOUR)))
    }

    /// Sends a request of this number.
    fn send(&self, unique: u64, opcode: u32, nodeid: u64, pieces: &[&[u8]]) {
        let body = pieces.concat();
        let header = abi::InHeader {
            len: (size_of::<abi::InHeader>() + body.len()) as u32,
            opcode,
            unique,
            nodeid,
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            pid: std::process::id(),
            // Padding there, which says nothing.
            total_extlen: 7,
            padding: 0,
        };
        let message = [header.as_bytes(), &body].concat();
        assert_eq!(rustix::io::write(&self.socket, &message), Ok(message.len()));
    }

    /// The answer to the request of this number: its error, or what is in it. Notices come in between.
    fn answer(&self, unique: u64) -> Result<Vec<u8>, i32> {
        loop {
            let mut reply = vec![0; REPLY_BYTES_MAX];
            let (bytes, _) = recv(&self.socket, reply.as_mut_slice(), RecvFlags::empty()).unwrap();
            let (header, body) = abi::OutHeader::read_from_prefix(&reply[..bytes]).unwrap();
            assert_eq!(header.len as usize, bytes);
            match (header.unique, header.error) {
                (0, _) => {}
                (number, 0) => {
                    assert_eq!(number, unique);
                    return Ok(body.to_vec());
                }
                (number, error) => {
                    assert_eq!((number, body.len()), (unique, 0));
                    return Err(-error);
                }
            }
        }
    }

    fn ask(&mut self, opcode: Opcode, nodeid: u64, pieces: &[&[u8]]) -> Result<Vec<u8>, i32> {
        self.last += 1;
        self.send(self.last, opcode as u32, nodeid, pieces);
        self.answer(self.last)
    }

    /// As [`Kernel::ask`]; an answer of another length than its layout's would be refused there.
    #[track_caller]
    fn asked<T: FromBytes + Immutable + KnownLayout>(
        &mut self,
        opcode: Opcode,
        nodeid: u64,
        pieces: &[&[u8]],
    ) -> T {
        let body = self.ask(opcode, nodeid, pieces).unwrap();
        T::read_from_bytes(&body).unwrap_or_else(|_| panic!("{} bytes to {}", body.len(), opcode.name()))
    }
}

/// A directory, served to such a kernel. Within a tokio runtime.
fn serve(files: &Path) -> (Kernel, Server, Negotiated) {
    let (kernel, device) = Kernel::with_device();
    let offer =
        abi::InitIn { major: 7, minor: 19, max_readahead: 16 << 20, flags: OFFERED, ..Default::default() };
    kernel.send(1, Opcode::Init as u32, 0, &[&offer.as_bytes()[..16]]);
    let negotiated = handshake(&device, &wanted(Owners::Machine)).unwrap();
    let reply = kernel.answer(1).unwrap();
    assert_eq!(reply.len(), darwin::INIT_OUT_BYTES);
    let words: Vec<u32> = reply.chunks(4).map(|word| u32::read_from_bytes(word).unwrap()).collect();
    assert_eq!((words[0], words[1], words[3], words[5]), (7, 19, 0, 1 << 20));
    let (disk, root) = Disk::new(files);
    let told = FuseKernel::new();
    let vfs = Vfs::new(Arc::new(disk), root, Options::default(), told.clone());
    let start = Start {
        devices: &[device],
        negotiated: negotiated.clone(),
        vfs,
        kernel: told,
        begin: Begin::Fresh,
        progress: Progress::untold(),
        refused: HashSet::new(),
    };
    (kernel, Server::start(start).unwrap(), negotiated)
}

/// Runs `talk` with a kernel that a server of `files` answers, to the end of the mount.
async fn talk(files: &Path, talk: impl FnOnce(&mut Kernel) + Send + 'static) {
    let (mut kernel, server, negotiated) = serve(files);
    assert!(negotiated.flags == InitFlags::NONE && !negotiated.can_resend());
    let talked = tokio::task::spawn_blocking(move || {
        talk(&mut kernel);
        assert_eq!(kernel.ask(Opcode::Destroy, ROOT_ID, &[]), Ok(Vec::new()));
        // The device is closed with it, which ends the server.
        drop(kernel);
        server.wait();
    });
    tokio::time::timeout(DEADLINE, talked).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kernel_of_macos_is_answered_in_its_own_layouts() {
    let files = tempfile::tempdir().unwrap();
    std::fs::write(files.path().join("a"), "hello").unwrap();
    talk(files.path(), |kernel| {
        let entry: darwin::EntryOut = kernel.asked(Opcode::Lookup, ROOT_ID, &[b"a\0"]);
        assert_eq!((entry.attr.size, entry.attr.mode & mode::FORMAT), (5, mode::FILE));
        assert!(entry.attr.crtime != 0 && entry.attr.crtime <= entry.attr.mtime);
        let node = entry.nodeid;
        assert_eq!(kernel.ask(Opcode::Lookup, ROOT_ID, &[b"none\0"]), Err(2));

        let asked = abi::GetattrIn::default();
        let attr: darwin::AttrOut = kernel.asked(Opcode::Getattr, node, &[asked.as_bytes()]);
        assert_eq!((attr.attr.size, attr.attr.nlink), (5, 1));

        let opened: abi::OpenOut =
            kernel.asked(Opcode::Open, node, &[abi::OpenIn { flags: 2, open_flags: 0 }.as_bytes()]);
        let purge = darwin::fopen::PURGE_ATTR | darwin::fopen::PURGE_UBC;
        assert!([0, purge].contains(&opened.open_flags), "{:#x}", opened.open_flags);
        let fh = opened.fh;
        let write = abi::WriteIn { fh, offset: 5, size: 6, ..Default::default() };
        let written: abi::WriteOut = kernel.asked(Opcode::Write, node, &[write.as_bytes(), b", Mac!"]);
        assert_eq!(written.size, 6);
        let read = abi::ReadIn { fh, offset: 0, size: 4096, ..Default::default() };
        let bytes = kernel.ask(Opcode::Read, node, &[read.as_bytes()]).unwrap();
        assert_eq!(bytes, b"hello, Mac!");

        let shared = abi::SetattrIn { valid: fattr::SIZE, size: 5, ..Default::default() };
        let set = darwin::SetattrIn { shared, ..Default::default() };
        let attr: darwin::AttrOut = kernel.asked(Opcode::Setattr, node, &[set.as_bytes()]);
        assert_eq!(attr.attr.size, 5);
        let release = abi::ReleaseIn { fh, ..Default::default() };
        assert_eq!(kernel.ask(Opcode::Release, node, &[release.as_bytes()]), Ok(Vec::new()));

        let space: abi::Kstatfs = kernel.asked(Opcode::Statfs, ROOT_ID, &[]);
        assert!(space.blocks > 0);
        let listed: abi::OpenOut =
            kernel.asked(Opcode::Opendir, ROOT_ID, &[abi::OpenIn::default().as_bytes()]);
        assert_eq!(listed.open_flags, 0);
        let read = abi::ReadIn { fh: listed.fh, size: 4096, ..Default::default() };
        let listing = kernel.ask(Opcode::Readdir, ROOT_ID, &[read.as_bytes()]).unwrap();
        assert_eq!(names(&listing), [".", "..", "a"]);
        let release = abi::ReleaseIn { fh: listed.fh, ..Default::default() };
        assert_eq!(kernel.ask(Opcode::Releasedir, ROOT_ID, &[release.as_bytes()]), Ok(Vec::new()));
    })
    .await;
    assert_eq!(std::fs::read(files.path().join("a")).unwrap(), b"hello");
}

/// The names in a listing, in their order by name.
fn names(mut listing: &[u8]) -> Vec<String> {
    let mut names = Vec::new();
    while let Ok((entry, rest)) = abi::Dirent::read_from_prefix(listing) {
        let length = entry.namelen as usize;
        names.push(String::from_utf8(rest[..length].to_vec()).unwrap());
        listing = &rest[length.next_multiple_of(8)..];
    }
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn what_macos_refuses_has_its_own_numbers() {
    let files = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(files.path().join("full/of")).unwrap();
    talk(files.path(), |kernel| {
        let entry: darwin::EntryOut = kernel.asked(Opcode::Lookup, ROOT_ID, &[b"full\0"]);
        // ENOTEMPTY
        assert_eq!(kernel.ask(Opcode::Rmdir, ROOT_ID, &[b"full\0"]), Err(66));
        let get = darwin::GetxattrIn { size: 16, ..Default::default() };
        // ENOATTR: of a file, and the one that asks whether anybody is there.
        for name in [b"com.apple.FinderInfo\0".as_slice(), b"security.stead.probe\0"] {
            assert_eq!(kernel.ask(Opcode::Getxattr, entry.nodeid, &[get.as_bytes(), name]), Err(93));
        }
        let set = darwin::SetxattrIn { size: 1, ..Default::default() };
        // ENOTSUP: this source has none.
        assert_eq!(kernel.ask(Opcode::Setxattr, entry.nodeid, &[set.as_bytes(), b"x\0", b"v"]), Err(45));
        let shared = abi::SetattrIn { valid: darwin::fattr::FLAGS, ..Default::default() };
        let hide = darwin::SetattrIn { shared, flags: 0x8000, ..Default::default() };
        assert_eq!(kernel.ask(Opcode::Setattr, entry.nodeid, &[hide.as_bytes()]), Err(45));
        let none = darwin::SetattrIn { shared, ..Default::default() };
        let _unchanged: darwin::AttrOut = kernel.asked(Opcode::Setattr, entry.nodeid, &[none.as_bytes()]);
        // ENOSYS: what is of macOS alone, as the time of the last backup.
        kernel.send(900, 62, ROOT_ID, &[]);
        assert_eq!(kernel.answer(900), Err(78));
        // EIO: shorter than its layout.
        assert_eq!(kernel.ask(Opcode::Setattr, entry.nodeid, &[shared.as_bytes()]), Err(5));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_number_that_returns_is_another_request() {
    let files = tempfile::tempdir().unwrap();
    talk(files.path(), |kernel| {
        let fixed = abi::MkdirIn { mode: 0o755, umask: 0 };
        for name in [b"one\0".as_slice(), b"two\0", b"three\0"] {
            kernel.send(7, Opcode::Mkdir as u32, ROOT_ID, &[fixed.as_bytes(), name]);
            let made = kernel.answer(7).unwrap();
            assert_eq!(made.len(), size_of::<darwin::EntryOut>());
        }
        let create = abi::CreateIn { flags: 2 | 0x800, mode: mode::FILE | 0o644, umask: 0, open_flags: 0 };
        kernel.send(7, Opcode::Create as u32, ROOT_ID, &[create.as_bytes(), b"file\0"]);
        let made = darwin::CreateOut::read_from_bytes(&kernel.answer(7).unwrap()).unwrap();
        assert_eq!(made.entry.attr.mode & 0o777, 0o644);
        kernel.send(
            7,
            Opcode::Rename as u32,
            ROOT_ID,
            &[abi::RenameIn { newdir: ROOT_ID }.as_bytes(), b"one\0", b"first\0"],
        );
        assert_eq!(kernel.answer(7), Ok(Vec::new()));
        kernel.send(7, Opcode::Rmdir as u32, ROOT_ID, &[b"two\0"]);
        assert_eq!(kernel.answer(7), Ok(Vec::new()));
    })
    .await;
    let mut there: Vec<_> =
        std::fs::read_dir(files.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    there.sort();
    assert_eq!(there, ["file", "first", "three"]);
}
