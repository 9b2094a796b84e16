use remote::client::{ByteStream, ConnectOptions};
use tokio::io::AsyncWriteExt;
use wire::frame::{PREFACE, encode_head};
use wire::hello::{Hello, SessionId};

use super::*;
use crate::nfs::NoNotices;

fn attached() -> Attached {
    let attributes = far::Attributes { mode: 0o755, links: 2, ..far::Attributes::new(far::Kind::Directory) };
    let root = far::Entry { id: far::FileId::default(), attributes };
    Attached { root, uid: 0, gid: 0, privileged: false, path: b"/".to_vec() }
}

#[tokio::test]
async fn a_file_system_that_nobody_keeps_takes_its_link_along() {
    let (near, mut stream) = tokio::io::duplex(1 << 16);
    stream.write_all(PREFACE).await.unwrap();
    stream.write_all(&encode_head(&Hello::new(0, SessionId([7; 16])), 0).unwrap()).await.unwrap();
    let events = Events::new();
    let options = ConnectOptions::default();
    let client = AgentClient::connect(ByteStream::new(near), options, events.clone()).await.unwrap();
    let (machine, root) = Machine::new(client, &attached(), (0, 0));
    let vfs = vfs::Vfs::new(Arc::new(machine), root, vfs::Options::default(), Arc::new(NoNotices));
    events.tell(&vfs);
    let (kept, mut standing) = (Arc::downgrade(&vfs), events.standing());
    drop(vfs);
    assert_eq!(kept.strong_count(), 0);
    let gone = |standing: &LinkStanding| *standing != LinkStanding::Linked;
    let why = LinkLost::Closed.to_string();
    assert_eq!(*standing.wait_for(gone).await.unwrap(), LinkStanding::Disconnected { why });
}
