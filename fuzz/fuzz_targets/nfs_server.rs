//! A client of the NFS server: whatever it calls, each call is answered once, with what is a reply, or the connection is
//! closed.
//!
//! The input is calls: a byte with the procedure, one that says which handles and names come first, one with the number
//! of argument bytes behind it.
#![no_main]

use std::sync::Arc;
use std::time::Duration;

use bytes::BufMut;
use libfuzzer_sys::fuzz_target;
use mount::nfs::{self, Access, Audience, NfsOptions, NoNotices, Permissions};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use vfs::file::Kind;
use vfs::testing::Memory;
use vfs::{Options, Vfs};

const NFS: u32 = 100_003;
const MOUNT: u32 = 100_005;
const MNT: u32 = 1;
const LOOKUP: u32 = 3;

/// A server answers in microseconds.
const ANSWERED_WITHIN: Duration = Duration::from_secs(5);

/// Beyond what one connection may have under way.
const CALLS_MAX: usize = 100;

fuzz_target!(|bytes: &[u8]| {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(serve(bytes));
});

async fn serve(bytes: &[u8]) {
    let memory = Memory::new();
    memory.edit(|tree| {
        let root = tree.root;
        for (name, kind) in [("f", Kind::File), ("d", Kind::Directory), ("l", Kind::Symlink)] {
            tree.make(root, &name.as_bytes().into(), kind, 0o644).expect("a new name");
        }
    });
    let vfs = Vfs::new(memory.clone(), memory.root(), Options::default(), Arc::new(NoNotices));
    // In memory: a disk would be waited for at each start.
    let state = tempfile::tempdir_in("/dev/shm").expect("a scratch directory");
    let options = NfsOptions {
        listener: nfs::listen(0).expect("a port"),
        state: state.path().to_owned(),
        owner: (0, 0),
        audience: Audience::Owner,
        permissions: Permissions::Machine,
        access: Access::ReadWrite,
    };
    let server = nfs::serve(vfs, options).await.expect("a server");
    let played = tokio::time::timeout(ANSWERED_WITHIN, play(server.port(), bytes));
    played.await.expect("every call is answered");
    server.stop().await;
}

async fn play(port: u16, mut bytes: &[u8]) {
    let mut client = Client::connect(port).await;
    let root = client.handle(MOUNT, MNT, &packed(b"/stead")).await;
    let file = client.handle(NFS, LOOKUP, &[&root[..], &packed(b"f")].concat()).await;
    let mut called = 0;
    while let [procedure, how, length, rest @ ..] = bytes
        && called < CALLS_MAX
    {
        let (arguments, rest) = rest.split_at(rest.len().min(usize::from(*length)));
        bytes = rest;
        let mut body = Vec::new();
        for (bit, part) in
            [&root, &file, &packed(b"f"), &packed(b"d"), &packed(b"new")].into_iter().enumerate()
        {
            if how >> bit & 1 == 1 {
                body.extend_from_slice(part);
            }
        }
        body.extend_from_slice(arguments);
        for (bit, part) in [&root, &packed(b"other")].into_iter().enumerate() {
            if how >> (bit + 5) & 1 == 1 {
                body.extend_from_slice(part);
            }
        }
        let program = if how >> 7 == 1 { MOUNT } else { NFS };
        called += 1;
        client.call(program, u32::from(*procedure), &body).await;
        client.reply().await;
    }
}

/// An opaque of XDR.
fn packed(bytes: &[u8]) -> Vec<u8> {
    let mut packed = Vec::new();
    packed.put_u32(u32::try_from(bytes.len()).expect("short"));
    packed.extend_from_slice(bytes);
    packed.resize(packed.len().next_multiple_of(4), 0);
    packed
}

struct Client {
    stream: TcpStream,
    xid: u32,
}

impl Client {
    async fn connect(port: u16) -> Client {
        let stream = TcpStream::connect(("127.0.0.1", port)).await.expect("the server listens");
        // Closed without waiting, or the ports of this computer run out.
        stream.set_zero_linger().expect("an option of every socket");
        Client { stream, xid: 0 }
    }

    async fn call(&mut self, program: u32, procedure: u32, arguments: &[u8]) {
        const AUTH_SYS: u32 = 1;
        self.xid += 1;
        let mut record = vec![0; 4];
        for word in [self.xid, 0, 2, program, 3, procedure, AUTH_SYS, 20, 0, 0, 0, 0, 0, 0, 0] {
            record.put_u32(word);
        }
        record.extend_from_slice(arguments);
        let length = u32::try_from(record.len() - 4).expect("short") | 1 << 31;
        record[..4].copy_from_slice(&length.to_be_bytes());
        self.stream.write_all(&record).await.expect("the server reads");
    }

    /// The reply to the last call, from its status on.
    async fn reply(&mut self) -> Vec<u8> {
        let length = self.stream.read_u32().await.expect("every call has a reply");
        assert!(length >> 31 == 1, "one record");
        let mut record = vec![0; (length & !(1 << 31)) as usize];
        self.stream.read_exact(&mut record).await.expect("a whole reply");
        assert_eq!(record[..4], self.xid.to_be_bytes(), "to what was asked");
        assert_eq!(record.len() % 4, 0, "XDR");
        record.split_off(8)
    }

    /// The handle that a procedure gives, packed.
    async fn handle(&mut self, program: u32, procedure: u32, arguments: &[u8]) -> Vec<u8> {
        self.call(program, procedure, arguments).await;
        let reply = self.reply().await;
        // Accepted, no verifier, carried out, found: then the handle of 36 bytes.
        assert_eq!(reply[..20], [0; 20], "what is there is found");
        reply[20..60].to_vec()
    }
}
