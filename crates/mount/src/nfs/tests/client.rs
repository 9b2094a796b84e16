//! A client that packs what it is told to, right or wrong.

use nfs3_types::mount;
use nfs3_types::nfs3::{self, NFS_PROGRAM, Nfs3Option, Nfs3Result, diropargs3, filename3, nfs_fh3, sattr3};
use nfs3_types::rpc::{
    accept_stat_data, auth_unix, call_body, fragment_header, msg_body, opaque_auth, reply_body, rpc_msg,
};
use nfs3_types::xdr_codec::{Opaque, Pack, Unpack};
use std::io;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// See the module's documentation.
pub struct Client {
    pub stream: TcpStream,
    pub xid: u32,
    pub user: auth_unix,
}

/// How the server answered.
#[derive(Debug)]
pub enum Answer {
    Results(Vec<u8>),
    NotCarriedOut(accept_stat_data),
    Denied,
}

impl Answer {
    pub fn results<T: Unpack>(self) -> T {
        let Answer::Results(bytes) = self else { panic!("{self:?}") };
        let mut input = &bytes[..];
        let (value, _) = T::unpack(&mut input).unwrap();
        assert!(input.is_empty(), "{} bytes behind the results", input.len());
        value
    }
}

pub fn packed(value: &impl Pack) -> Vec<u8> {
    let mut bytes = Vec::new();
    value.pack(&mut bytes).unwrap();
    bytes
}

pub fn at<'a>(directory: &nfs_fh3, name: &'a (impl AsRef<[u8]> + ?Sized)) -> diropargs3<'a> {
    diropargs3 { dir: directory.clone(), name: filename3::from(name.as_ref()) }
}

pub fn mode(mode: u32) -> sattr3 {
    sattr3 { mode: Nfs3Option::Some(mode), ..sattr3::default() }
}

impl Client {
    pub async fn connect(port: u16) -> Client {
        let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let uid = rustix::process::geteuid().as_raw();
        let gid = rustix::process::getegid().as_raw();
        Client { stream, xid: 1, user: auth_unix { uid, gid, ..auth_unix::default() } }
    }

    /// A whole call, without the record's mark.
    pub fn call_bytes(&self, program: u32, version: u32, procedure: u32, arguments: &[u8]) -> Vec<u8> {
        let cred = opaque_auth::auth_unix(&self.user);
        let verf = opaque_auth::default();
        let call = call_body { rpcvers: 2, prog: program, vers: version, proc: procedure, cred, verf };
        let mut bytes = packed(&rpc_msg { xid: self.xid, body: msg_body::CALL(call) });
        bytes.extend_from_slice(arguments);
        bytes
    }

    pub async fn send(&mut self, record: &[u8]) -> io::Result<()> {
        let header = fragment_header::new(u32::try_from(record.len()).unwrap(), true);
        self.stream.write_all(&[&header.into_xdr_buf(), record].concat()).await
    }

    /// The next reply: its number and what it says.
    pub async fn receive(&mut self) -> io::Result<(u32, Answer)> {
        let mut header = [0; 4];
        self.stream.read_exact(&mut header).await?;
        let header = fragment_header::from(header);
        assert!(header.eof());
        let mut record = vec![0; header.fragment_length() as usize];
        self.stream.read_exact(&mut record).await?;
        let mut input = &record[..];
        let (message, _) = rpc_msg::unpack(&mut input).unwrap();
        let msg_body::REPLY(body) = message.body else { panic!("not a reply") };
        let answer = match body {
            reply_body::MSG_DENIED(_) => Answer::Denied,
            reply_body::MSG_ACCEPTED(accepted) => match accepted.reply_data {
                accept_stat_data::SUCCESS => Answer::Results(input.to_vec()),
                why => Answer::NotCarriedOut(why),
            },
        };
        Ok((message.xid, answer))
    }

    pub async fn call(&mut self, program: u32, procedure: u32, arguments: &[u8]) -> Answer {
        self.xid += 1;
        let record = self.call_bytes(program, 3, procedure, arguments);
        self.send(&record).await.unwrap();
        let (xid, answer) = self.receive().await.unwrap();
        assert_eq!(xid, self.xid);
        answer
    }

    /// A procedure of NFS, as nfs3_types has it.
    pub async fn nfs<T: Unpack, E: Unpack>(
        &mut self,
        procedure: NFS_PROGRAM,
        arguments: &impl Pack,
    ) -> Nfs3Result<T, E> {
        self.call(nfs3::PROGRAM, procedure as u32, &packed(arguments)).await.results()
    }

    pub async fn root(&mut self) -> nfs_fh3 {
        self.mount(super::super::EXPORT).await.unwrap()
    }

    /// What MNT says of a path: a handle or a status.
    pub async fn mount(&mut self, path: &str) -> Result<nfs_fh3, u32> {
        let path = mount::dirpath(Opaque::borrowed(path.as_bytes()));
        let results: mount::mountres3<'_> = self.call(mount::PROGRAM, 1, &packed(&path)).await.results();
        match results {
            mount::mountres3::Ok(ok) => Ok(nfs_fh3 { data: Opaque::owned(ok.fhandle.0.to_vec()) }),
            mount::mountres3::Err(status) => Err(status as u32),
        }
    }

    pub async fn lookup(&mut self, directory: &nfs_fh3, name: impl AsRef<[u8]>) -> nfs3::LOOKUP3res {
        let arguments = nfs3::LOOKUP3args { what: at(directory, &name) };
        self.nfs(NFS_PROGRAM::NFSPROC3_LOOKUP, &arguments).await
    }

    pub async fn found(&mut self, directory: &nfs_fh3, name: impl AsRef<[u8]>) -> nfs_fh3 {
        self.lookup(directory, name).await.unwrap().object
    }

    pub async fn getattr(&mut self, object: &nfs_fh3) -> nfs3::GETATTR3res {
        self.nfs(NFS_PROGRAM::NFSPROC3_GETATTR, object).await
    }

    pub async fn create(
        &mut self,
        directory: &nfs_fh3,
        name: &str,
        how: nfs3::createhow3,
    ) -> nfs3::CREATE3res {
        let arguments = nfs3::CREATE3args { where_: at(directory, name), how };
        self.nfs(NFS_PROGRAM::NFSPROC3_CREATE, &arguments).await
    }

    /// A new file.
    pub async fn created(&mut self, directory: &nfs_fh3, name: &str) -> nfs_fh3 {
        self.create(directory, name, nfs3::createhow3::GUARDED(mode(0o644))).await.unwrap().obj.unwrap()
    }

    pub async fn mkdir(&mut self, directory: &nfs_fh3, name: &str) -> nfs_fh3 {
        let arguments = nfs3::MKDIR3args { where_: at(directory, name), attributes: mode(0o755) };
        let made: nfs3::MKDIR3res = self.nfs(NFS_PROGRAM::NFSPROC3_MKDIR, &arguments).await;
        made.unwrap().obj.unwrap()
    }

    pub async fn write(
        &mut self,
        file: &nfs_fh3,
        offset: u64,
        bytes: &[u8],
        stable: nfs3::stable_how,
    ) -> nfs3::WRITE3res {
        let count = u32::try_from(bytes.len()).unwrap();
        let data = Opaque::borrowed(bytes);
        let arguments = nfs3::WRITE3args { file: file.clone(), offset, count, stable, data };
        self.nfs(NFS_PROGRAM::NFSPROC3_WRITE, &arguments).await
    }

    pub async fn commit(&mut self, file: &nfs_fh3) -> nfs3::COMMIT3res {
        let arguments = nfs3::COMMIT3args { file: file.clone(), offset: 0, count: 0 };
        self.nfs(NFS_PROGRAM::NFSPROC3_COMMIT, &arguments).await
    }

    pub async fn read(&mut self, file: &nfs_fh3, offset: u64, count: u32) -> nfs3::READ3res<'static> {
        let arguments = nfs3::READ3args { file: file.clone(), offset, count };
        self.nfs(NFS_PROGRAM::NFSPROC3_READ, &arguments).await
    }

    pub async fn setattr(&mut self, object: &nfs_fh3, new_attributes: sattr3) -> nfs3::SETATTR3res {
        let arguments =
            nfs3::SETATTR3args { object: object.clone(), new_attributes, guard: Nfs3Option::None };
        self.nfs(NFS_PROGRAM::NFSPROC3_SETATTR, &arguments).await
    }

    pub async fn remove(&mut self, directory: &nfs_fh3, name: &str) -> nfs3::REMOVE3res {
        let arguments = nfs3::REMOVE3args { object: at(directory, name) };
        self.nfs(NFS_PROGRAM::NFSPROC3_REMOVE, &arguments).await
    }

    pub async fn rename(&mut self, from: diropargs3<'_>, to: diropargs3<'_>) -> nfs3::RENAME3res {
        self.nfs(NFS_PROGRAM::NFSPROC3_RENAME, &nfs3::RENAME3args { from, to }).await
    }

    /// All names of a directory, asked for in pages of `bytes`.
    pub async fn names(&mut self, directory: &nfs_fh3, bytes: u32) -> Vec<Vec<u8>> {
        let mut names = Vec::new();
        let mut cookie = 0;
        loop {
            let arguments = nfs3::READDIR3args {
                dir: directory.clone(),
                cookie,
                cookieverf: nfs3::cookieverf3::default(),
                count: bytes,
            };
            let page: nfs3::READDIR3res<'_> = self.nfs(NFS_PROGRAM::NFSPROC3_READDIR, &arguments).await;
            let page = page.unwrap().reply;
            assert!(page.eof || !page.entries.is_empty(), "a page without entries that is not the end");
            for entry in page.entries.into_inner() {
                cookie = entry.cookie;
                names.push(entry.name.as_ref().to_vec());
            }
            if page.eof {
                return names;
            }
        }
    }
}
