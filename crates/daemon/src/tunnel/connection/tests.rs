use super::*;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use wire::agent::tunnel::WINDOW_BYTES_MAX;

const ID: ConnectionId = ConnectionId(0);

/// A connection that leads to `peer`, and the far end as the test wants it.
struct Rig {
    table: Carried,
    said: mpsc::Receiver<Said>,
    peer: TcpStream,
    task: JoinHandle<ConnectionId>,
}

async fn rig() -> Rig {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut table = Carried::new(Arc::default());
    let (say, said) = mpsc::channel(1);
    let mailbox = table.open(ID).unwrap();
    let to = Endpoint::Tcp { host: "localhost".to_owned(), port };
    let task = tokio::spawn(join(to, ID, CREDIT_FIRST_BYTES, mailbox, say));
    let (peer, _) = listener.accept().await.unwrap();
    Rig { table, said, peer, task }
}

impl Rig {
    fn hear(&self, frame: TunnelFrame, data: &[u8]) {
        self.table.hear(frame, data).unwrap();
    }

    /// What is said next that is not about credit.
    async fn said(&mut self) -> Said {
        loop {
            match self.said.recv().await.unwrap() {
                (TunnelFrame::Credit { .. }, _) => {}
                said => return said,
            }
        }
    }
}

#[tokio::test]
async fn each_direction_ends_by_itself_and_the_connection_with_the_second() {
    let mut rig = rig().await;
    rig.hear(TunnelFrame::Data { connection: ID }, b"there");
    rig.hear(TunnelFrame::End { connection: ID }, b"");
    let mut all = Vec::new();
    rig.peer.read_to_end(&mut all).await.unwrap();
    assert_eq!(all, b"there");
    rig.peer.write_all(b"back").await.unwrap();
    assert_eq!(rig.said().await, (TunnelFrame::Data { connection: ID }, Bytes::from_static(b"back")));
    rig.peer.shutdown().await.unwrap();
    assert_eq!(rig.said().await.0, TunnelFrame::End { connection: ID });
    assert_eq!(rig.task.await.unwrap(), ID);
}

#[tokio::test]
async fn a_reset_goes_on_either_way() {
    let mut one = rig().await;
    one.hear(TunnelFrame::Reset { connection: ID, failure: None }, b"");
    assert_eq!(one.task.await.unwrap(), ID);
    let read = one.peer.read(&mut [0; 8]).await;
    assert_eq!(read.unwrap_err().kind(), io::ErrorKind::ConnectionReset);

    let mut other = rig().await;
    rustix::net::sockopt::set_socket_linger(&other.peer, Some(std::time::Duration::ZERO)).unwrap();
    drop(std::mem::replace(&mut other.peer, rig().await.peer));
    assert_eq!(other.said().await.0, TunnelFrame::Reset { connection: ID, failure: None });
}

#[tokio::test]
async fn one_that_leads_nowhere_is_reset_with_the_reason() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let to = Endpoint::Tcp { host: "127.0.0.1".to_owned(), port: listener.local_addr().unwrap().port() };
    drop(listener);
    let (say, mut said) = mpsc::channel(1);
    join(to, ID, CREDIT_FIRST_BYTES, Arc::default(), say).await;
    let (TunnelFrame::Reset { failure: Some(failure), .. }, _) = said.recv().await.unwrap() else {
        panic!("not a reset with a reason");
    };
    assert_eq!(failure.errno, wire::agent::Errno(111));
}

#[tokio::test]
async fn no_more_is_read_than_may_be_sent() {
    let mut rig = rig().await;
    let (_reading, mut writing) = rig.peer.into_split();
    let sending = tokio::spawn(async move {
        writing.write_all(&vec![1; 4 << 20]).await.unwrap();
        writing
    });
    let mut got = 0;
    while got < CREDIT_FIRST_BYTES as usize {
        got += rig.said.recv().await.unwrap().1.len();
    }
    assert_eq!(got, CREDIT_FIRST_BYTES as usize);
    // It has nothing to say, and does not look at its socket: another window makes it go on.
    while got < 4 << 20 {
        let window = WINDOW_BYTES_MAX.min((4 << 20) - got as u32);
        rig.table.hear(TunnelFrame::Credit { connection: ID, bytes: window }, b"").unwrap();
        let until = got + window as usize;
        while got < until {
            got += rig.said.recv().await.unwrap().1.len();
        }
        assert_eq!(got, until);
    }
    sending.await.unwrap();
}

#[tokio::test]
async fn a_far_end_that_sends_more_than_it_may_is_found_out() {
    let mut table = Carried::new(Arc::default());
    let _mailbox = table.open(ID).unwrap();
    let window = vec![0; CREDIT_FIRST_BYTES as usize];
    assert_eq!(table.hear(TunnelFrame::Data { connection: ID }, &window), Ok(()));
    assert!(table.hear(TunnelFrame::Data { connection: ID }, b"1").is_err());
    // What is about one that is gone is nothing.
    table.close(ID);
    assert_eq!(table.hear(TunnelFrame::Data { connection: ID }, b"1"), Ok(()));
    assert!(table.open(ID).is_some() && table.open(ID).is_none());
    let _mailbox = table.hear(TunnelFrame::End { connection: ID }, b"");
    assert!(table.hear(TunnelFrame::Data { connection: ID }, b"1").is_err());
    assert!(table.hear(TunnelFrame::Open { connection: ID }, b"").is_err());
}
