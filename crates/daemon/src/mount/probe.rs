//! Whether a mount answers.
//!
//! A probe goes the way of a user's request. It never runs on a thread of the daemon: one that waits for a mount whose
//! server hangs may be beyond every signal, and would take the daemon's own end along. So the kernel is asked by a child
//! that is killed when it takes too long, and that lingers alone when it cannot be.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use supervisor::{Exit, Process, Spawn, Stdio};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use wire::api::status::Health;

use super::MountHandle;
use super::worker::Launch;
use crate::connection::Later;
use crate::failure::chain;

/// Finds out how a mount is.
pub trait MountProbe: Send + Sync + 'static {
    /// Takes one look, which is over within little more than the deadline.
    fn probe(&self, deadline: Duration) -> Later<'_, Health>;
}

/// Children at once that wait for one mount and cannot be killed. More than one, since a mount whose successor answers
/// again is well, even if an old request never is answered.
const LINGERING_MAX: usize = 4;

/// A mount that the kernel serves its users through FUSE.
pub struct FuseProbe {
    dir: PathBuf,
    launch: Launch,
    mount: MountHandle,
    /// Children that were killed and have not ended by then.
    lingering: Mutex<Vec<Process>>,
}

impl FuseProbe {
    /// Of the mount at `dir`. `launch` is the program that asks the kernel, given the directory as its last argument;
    /// `mount` is the mount's task, which asks the worker.
    pub fn new(dir: PathBuf, launch: Launch, mount: MountHandle) -> FuseProbe {
        FuseProbe { dir, launch, mount, lingering: Mutex::default() }
    }
}

/// A mount that is served over NFS.
pub struct NfsProbe {
    /// Its port on the loopback address.
    pub port: u16,
    /// Its task, which asks the worker.
    pub mount: MountHandle,
}

/// What one of several questions came to.
enum Answer {
    Answered,
    Wrong(String),
    Silent,
}

impl MountProbe for FuseProbe {
    fn probe(&self, deadline: Duration) -> Later<'_, Health> {
        Box::pin(async move {
            let (kernel, control) =
                tokio::join!(self.kernel_round_trip(deadline), said(&self.mount, deadline));
            judge("the kernel's requests", kernel, control, deadline)
        })
    }
}

impl MountProbe for NfsProbe {
    fn probe(&self, deadline: Duration) -> Later<'_, Health> {
        Box::pin(async move {
            let (calls, control) = tokio::join!(null_call(self.port, deadline), said(&self.mount, deadline));
            judge("NFS calls", calls, control, deadline)
        })
    }
}

/// What users notice decides: a worker that only does not talk to the daemon still serves.
fn judge(what: &str, service: Answer, control: Answer, deadline: Duration) -> Health {
    let seconds = deadline.as_secs_f32();
    match (service, control) {
        (Answer::Silent, _) => Health::Failed { why: format!("{what} are not answered within {seconds} s") },
        (Answer::Wrong(why), _) => Health::Failed { why: format!("{what} are not answered: {why}") },
        (Answer::Answered, Answer::Answered) => Health::Healthy,
        (Answer::Answered, Answer::Wrong(why)) => Health::Degraded { why },
        (Answer::Answered, Answer::Silent) => {
            Health::Degraded { why: format!("its worker has not said for {seconds} s how it does") }
        }
    }
}

/// Asks the worker through its control socket.
async fn said(mount: &MountHandle, deadline: Duration) -> Answer {
    match tokio::time::timeout(deadline, mount.poll()).await {
        Ok(()) => Answer::Answered,
        Err(_) => Answer::Silent,
    }
}

impl FuseProbe {
    /// Has a child put a request to the mount.
    async fn kernel_round_trip(&self, deadline: Duration) -> Answer {
        let FuseProbe { dir, launch, .. } = self;
        let mut lingering = self.lingering.lock().await;
        let mut still = Vec::new();
        for mut child in lingering.drain(..) {
            if tokio::time::timeout(Duration::ZERO, child.exited()).await.is_err() {
                still.push(child);
            }
        }
        *lingering = still;
        if lingering.len() >= LINGERING_MAX {
            return Answer::Silent;
        }
        let child =
            Spawn::new(&launch.program).arguments(&launch.arguments).argument(dir).stderr(Stdio::Null);
        let mut child = match child.spawn() {
            Ok(child) => child,
            // This computer's fault, and none of the mount's.
            Err(error) => {
                tracing::warn!(dir = %dir.display(), error = chain(&error), "a mount could not be probed");
                return Answer::Answered;
            }
        };
        match tokio::time::timeout(deadline, child.exited()).await {
            Ok(Ok(Exit::Code(0))) => Answer::Answered,
            Ok(Ok(Exit::Code(code))) if code == i32::from(::mount::probe::NOT_SERVED) => {
                Answer::Wrong("the kernel says that nobody serves it".to_owned())
            }
            Ok(Ok(exit)) => {
                tracing::warn!(dir = %dir.display(), %exit, "a probe did not end as it should");
                Answer::Answered
            }
            Ok(Err(error)) => {
                tracing::warn!(dir = %dir.display(), %error, "a probe cannot be watched");
                Answer::Answered
            }
            Err(_) => {
                // It may be beyond signals until the mount answers or goes; it is reaped then.
                if let Err(error) = child.signal(rustix::process::Signal::KILL) {
                    tracing::debug!(dir = %dir.display(), %error, "a probe was not killed");
                }
                lingering.push(child);
                Answer::Silent
            }
        }
    }
}

/// A call of the NULL procedure of NFS version 3 (RFC 5531, RFC 1813), which does nothing but to be answered.
///
/// | offset | content |
/// |---|---|
/// | 0 | record mark: the last fragment, of 40 bytes |
/// | 4 | transaction |
/// | 8 | CALL, RPC version 2, program 100003, version 3, procedure 0 |
/// | 28 | credentials and verifier: AUTH_NONE, empty |
const NULL_CALL: [u32; 11] = [0x8000_0028, TRANSACTION, 0, 2, 100_003, 3, 0, 0, 0, 0, 0];

/// What the answer is recognised by. There is one call on each connection.
const TRANSACTION: u32 = 0x5354_4541;

/// The answer: transaction, REPLY, MSG_ACCEPTED, an empty verifier, SUCCESS.
const NULL_REPLY: [u32; 7] = [0x8000_0018, TRANSACTION, 1, 0, 0, 0, 0];

async fn null_call(port: u16, deadline: Duration) -> Answer {
    let asking = async {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
        stream.write_all(&words(&NULL_CALL)).await?;
        let mut reply = [0; NULL_REPLY.len() * 4];
        stream.read_exact(&mut reply).await?;
        std::io::Result::Ok(reply[..] == words(&NULL_REPLY)[..])
    };
    match tokio::time::timeout(deadline, asking).await {
        Ok(Ok(true)) => Answer::Answered,
        Ok(Ok(false)) => Answer::Wrong(format!("what listens at port {port} does not speak NFS")),
        Ok(Err(error)) => Answer::Wrong(format!("port {port} of 127.0.0.1: {error}")),
        Err(_) => Answer::Silent,
    }
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_be_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;
    use tokio::sync::mpsc;
    use wire::api::id::MountId;

    use crate::mount::Command;

    const DEADLINE: Duration = Duration::from_secs(20);

    /// The task of a mount, whose worker answers, or does not.
    fn mount(answers: bool) -> MountHandle {
        let (commands, mut arriving) = mpsc::channel(4);
        tokio::spawn(async move {
            let mut waiting = Vec::new();
            while let Some(command) = arriving.recv().await {
                match command {
                    Command::Poll(answer) if answers => drop(answer.send(())),
                    other => waiting.push(other),
                }
            }
        });
        MountHandle { id: MountId::new(1), dir: "/".into(), commands }
    }

    fn shell(script: &str) -> Launch {
        Launch { program: "/bin/sh".into(), arguments: ["-c", script].map(Into::into).to_vec() }
    }

    fn fuse(script: &str, answers: bool) -> FuseProbe {
        FuseProbe::new("/".into(), shell(script), mount(answers))
    }

    #[tokio::test]
    async fn children_that_cannot_be_killed_are_few() {
        let probe = fuse("exit 0", true);
        for _ in 0..LINGERING_MAX {
            let child = Spawn::new("/bin/sleep").argument("1000").spawn().unwrap();
            probe.lingering.lock().await.push(child);
        }
        assert!(matches!(probe.probe(DEADLINE).await, Health::Failed { .. }));
        let mut last = probe.lingering.lock().await.pop().unwrap();
        assert_eq!(probe.probe(DEADLINE).await, Health::Healthy);
        last.signal(rustix::process::Signal::KILL).unwrap();
        last.exited().await.unwrap();
        for child in probe.lingering.lock().await.iter() {
            child.signal(rustix::process::Signal::KILL).unwrap();
        }
        let all_gone = async {
            while !probe.lingering.lock().await.is_empty() {
                assert_eq!(probe.probe(DEADLINE).await, Health::Healthy);
            }
        };
        tokio::time::timeout(DEADLINE, all_gone).await.unwrap();
    }

    #[tokio::test]
    async fn a_kernel_that_answers_and_a_worker_that_speaks_are_healthy() {
        assert_eq!(fuse("exit 0", true).probe(DEADLINE).await, Health::Healthy);
    }

    #[tokio::test]
    async fn a_worker_that_does_not_speak_degrades_and_a_silent_kernel_fails() {
        let soon = Duration::from_millis(300);
        assert!(matches!(fuse("exit 0", false).probe(soon).await, Health::Degraded { .. }));
        let found = fuse("exec sleep 1000", true).probe(soon).await;
        assert!(matches!(&found, Health::Failed { why } if why.contains("0.3 s")), "{found:?}");
        let nobody = fuse(&format!("exit {}", ::mount::probe::NOT_SERVED), true).probe(DEADLINE).await;
        assert!(matches!(&nobody, Health::Failed { why } if why.contains("nobody serves")), "{nobody:?}");
    }

    async fn nfs_server(reply: Vec<u8>) -> u16 {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut call = [0; 44];
            stream.read_exact(&mut call).await.unwrap();
            assert_eq!(call[..], words(&NULL_CALL)[..]);
            stream.write_all(&reply).await.unwrap();
            // Stays open: what is missing of a reply never comes.
            drop(stream.read(&mut call).await);
        });
        port
    }

    #[tokio::test]
    async fn an_nfs_server_is_healthy_when_it_answers_the_null_procedure() {
        let port = nfs_server(words(&NULL_REPLY)).await;
        assert_eq!(NfsProbe { port, mount: mount(true) }.probe(DEADLINE).await, Health::Healthy);
        let garbled = nfs_server(vec![0; 28]).await;
        let found = NfsProbe { port: garbled, mount: mount(true) }.probe(DEADLINE).await;
        assert!(matches!(found, Health::Failed { .. }), "{found:?}");
        let half = nfs_server(words(&NULL_REPLY)[..8].to_vec()).await;
        let found = NfsProbe { port: half, mount: mount(true) }.probe(Duration::from_millis(300)).await;
        assert!(matches!(&found, Health::Failed { why } if why.contains("0.3 s")), "{found:?}");
    }

    #[tokio::test]
    async fn a_port_where_nobody_listens_has_failed() {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap().local_addr().unwrap().port();
        let found = NfsProbe { port, mount: mount(true) }.probe(DEADLINE).await;
        assert!(matches!(found, Health::Failed { .. }), "{found:?}");
    }
}
