//! The agent of this host, as a child process, with the real agent.

#![allow(clippy::unwrap_used, reason = "a failure is the test's")]

mod relink;

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use remote::client::{
    AgentClient, CallError, ConnectOptions, DirectoryPage, LinkLost, NoEvents, ProcessEvent, WalkPage,
};
use remote::transport::host::HostOptions;
use remote::{Connection, OpenError, connect_host};
use wire::agent::file::{Caller, OpenFlags, Place, Target, WalkBudget, WalkFrom, WriteAt};
use wire::agent::name::Name;
use wire::agent::process::{ExitStatus, Output, ProcessRequest};
use wire::api::error::ErrorKind;

/// How long anything may take.
const DEADLINE: Duration = Duration::from_secs(60);

fn agent() -> HostOptions {
    let tests = std::env::current_exe().unwrap();
    let program = tests.parent().unwrap().parent().unwrap().join("examples/test-agent");
    HostOptions { program, arguments: Vec::new() }
}

async fn start() -> Connection {
    connect_host(&agent(), ConnectOptions::default(), Arc::new(NoEvents)).await.unwrap()
}

async fn refused(program: &str, arguments: &[&str]) -> OpenError {
    let arguments = arguments.iter().map(Into::into).collect();
    let options = HostOptions { program: PathBuf::from(program), arguments };
    match connect_host(&options, ConnectOptions::default(), Arc::new(NoEvents)).await {
        Ok(_) => panic!("an agent answers"),
        Err(error) => error,
    }
}

async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(DEADLINE, future).await.expect("the deadline has passed")
}

fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).unwrap()
}

fn caller() -> Caller {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    Caller { uid, gid, umask: 0o022 }
}

async fn attach(client: &AgentClient, directory: &std::path::Path) -> Place {
    let path = directory.as_os_str().as_encoded_bytes().to_vec();
    let attached = soon(client.attach(path, false)).await.unwrap();
    Place { id: attached.root.id, path: Default::default() }
}

#[tokio::test]
async fn files_are_written_and_read_through_the_agent() {
    let directory = tempfile::tempdir().unwrap();
    let Connection { client, .. } = start().await;
    let root = attach(&client, directory.path()).await;
    let handle = client.new_handle();
    let flags = OpenFlags { read: true, write: true, ..OpenFlags::default() };
    let opened =
        soon(client.create(root.clone(), name("file"), 0o640, flags, handle, caller())).await.unwrap();
    assert!(opened.created);
    let content = Bytes::from((0..3 << 20).map(|n| (n % 249) as u8).collect::<Vec<_>>());
    let writes: Vec<_> = (0..3_usize)
        .map(|n| {
            let part = content.slice(n << 20..(n + 1) << 20);
            client.write(handle, WriteAt::Offset((n << 20) as u64), false, part)
        })
        .collect();
    for write in writes {
        assert_eq!(soon(write).await.unwrap().bytes, 1 << 20);
    }
    soon(client.sync(Target::Handle(handle), false)).await.unwrap();
    let on_disk = std::fs::read(directory.path().join("file")).unwrap();
    assert!(on_disk == content);
    let reads: Vec<_> = (0..3_u64).map(|n| client.read(handle, n << 20, 1 << 20)).collect();
    for (n, read) in reads.into_iter().enumerate() {
        assert!(soon(read).await.unwrap() == content.slice(n << 20..(n + 1) << 20));
    }
    soon(client.close(handle)).await.unwrap();
    let looked = soon(client.lookup(root.clone(), name("file"))).await.unwrap().entry.unwrap();
    assert_eq!(looked.id.inode, std::fs::metadata(directory.path().join("file")).unwrap().ino());
    assert!(soon(client.lookup(root.clone(), name("none"))).await.unwrap().entry.is_none());
    soon(client.unlink(root, name("file"))).await.unwrap();
    assert!(!directory.path().join("file").exists());
}

#[tokio::test]
async fn a_long_listing_arrives_whole_through_a_small_window() {
    let directory = tempfile::tempdir().unwrap();
    for n in 0..20_000 {
        std::fs::File::create(directory.path().join(format!("name-{n:05}"))).unwrap();
    }
    let Connection { client, program } = start().await;
    let root = attach(&client, directory.path()).await;
    let mut pages = client.list(root.clone(), 0, 32 << 10);
    let mut names = Vec::new();
    let mut ended = false;
    while let Some(page) = soon(pages.next()).await {
        let DirectoryPage { entries, end, .. } = match page {
            Ok(page) => page,
            Err(error) => panic!("{error}: {}", soon(program.ended()).await),
        };
        assert!(!ended, "a page behind the last");
        ended = end;
        names.extend(entries.into_iter().map(|listed| listed.name));
    }
    assert!(ended);
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 20_000);

    let budget = WalkBudget { entries: 100_000, depth: 9, file_bytes: 0, content_bytes: 0 };
    let mut pages = client.walk(root, WalkFrom::Itself, budget, 32 << 10);
    let mut count = 0;
    while let Some(page) = soon(pages.next()).await {
        let WalkPage { entries, .. } = match page {
            Ok(page) => page,
            Err(error) => panic!("{error}: {}", soon(program.ended()).await),
        };
        count += entries.len();
    }
    assert_eq!(count, 20_000);
    assert!(!client.is_lost());
}

#[tokio::test]
async fn a_program_runs_and_its_output_is_told() {
    let Connection { client, .. } = start().await;
    let spawn = ProcessRequest::Spawn {
        process: client.new_process(),
        words: ["sh", "-c", "head -c 1000000 /dev/zero; echo problem >&2; exit 3"]
            .map(|word| word.as_bytes().to_vec().into())
            .to_vec(),
        environment: Vec::new(),
        directory: None,
        terminal: None,
        detached: false,
        window: 64 << 10,
    };
    let mut events = client.spawn(spawn);
    let (mut output, mut errors, mut status) = (0, Vec::new(), None);
    while let Some(event) = soon(events.next()).await {
        match event.unwrap() {
            ProcessEvent::Started { pid, .. } => assert!(pid > 0),
            ProcessEvent::Output(Output::Stdout, bytes) => output += bytes.len(),
            ProcessEvent::Output(Output::Stderr, bytes) => errors.extend(bytes),
            ProcessEvent::Ended(ended) => status = Some(ended),
            ProcessEvent::Dropped { .. } => panic!("what is read is not dropped"),
        }
    }
    assert_eq!(
        (output, errors.as_slice(), status),
        (1_000_000, &b"problem\n"[..], Some(ExitStatus::Exited(3)))
    );
}

#[tokio::test]
async fn the_agent_ends_with_its_link() {
    let Connection { client, program } = start().await;
    client.ping().await.unwrap();
    drop(client);
    assert!(soon(program.ended()).await.status.unwrap().success());
}

#[tokio::test]
async fn a_killed_agent_ends_every_request() {
    let directory = tempfile::tempdir().unwrap();
    let Connection { client, program } = start().await;
    let root = attach(&client, directory.path()).await;
    let pid = rustix::process::Pid::from_raw(program.pid() as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    let calls: Vec<_> = (0..100).map(|n| client.lookup(root.clone(), name(&format!("{n}")))).collect();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    for call in calls {
        // Some may have been answered before the signal had stopped every thread.
        assert!(matches!(soon(call).await, Ok(_) | Err(CallError::Lost(_))));
    }
    assert_eq!(client.in_flight(), 0);
    assert!(matches!(soon(client.lost()).await, LinkLost::Ended | LinkLost::Cut | LinkLost::Io { .. }));
    assert_eq!(soon(program.ended()).await.to_string(), "was ended by signal 9");
}

#[tokio::test]
async fn a_program_that_is_no_agent_is_told_with_its_last_words() {
    let error = refused("/nonexistent/agent", &[]).await;
    assert!(matches!(&error, OpenError::Program(_)), "{error}");
    let error = refused("sh", &["-c", "echo nonsense; echo no library >&2; exit 1"]).await;
    assert_eq!(
        error.to_string(),
        "the other side is not an agent; it said: nonsense (the process behind it exited with status 1: no library)"
    );
    assert_eq!(error.kind(), ErrorKind::Failure);
}

#[tokio::test]
#[ignore = "measures"]
async fn what_the_real_agent_costs() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("file"), vec![7; 64 << 20]).unwrap();
    let Connection { client, .. } = start().await;
    let root = attach(&client, directory.path()).await;
    let place = soon(client.lookup(root.clone(), name("file"))).await.unwrap().entry.unwrap();
    let place = Place { id: place.id, path: root.path.join(&name("file")) };
    let handle = client.new_handle();
    let flags = OpenFlags { read: true, ..OpenFlags::default() };
    soon(client.open(place.clone(), flags, handle, 0)).await.unwrap();
    let start = std::time::Instant::now();
    let mut reads = std::collections::VecDeque::new();
    for n in 0..1000_u64 {
        reads.push_back(client.read(handle, (n % 64) << 20, 1 << 20));
        if reads.len() == 4 {
            soon(reads.pop_front().unwrap()).await.unwrap();
        }
    }
    for read in reads {
        soon(read).await.unwrap();
    }
    println!("read: {:.2} GB/s", 1000.0 * f64::from(1 << 20) / start.elapsed().as_secs_f64() / 1e9);
    let mut times = Vec::new();
    for _ in 0..5000 {
        let start = std::time::Instant::now();
        soon(client.stat(Target::Place(place.clone()))).await.unwrap();
        times.push(start.elapsed());
    }
    times.sort_unstable();
    println!("stat: median {:?}, p99 {:?}", times[2500], times[4950]);
}
