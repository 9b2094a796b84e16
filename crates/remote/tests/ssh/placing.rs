//! The agent on a machine that has none.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use remote::client::{ConnectOptions, NoEvents};
use remote::place::{Agents, PlaceError};
use remote::transport::host::HostOptions;
use remote::transport::ssh::{LoginOptions, Master};
use remote::{Connection, OpenError, connect, connect_placing, doctor};
use wire::api::error::ErrorKind;
use wire::bytestring::ByteString;
use wire::worker::Dial;

use super::machine::{DEADLINE, Machine, agent_program, agents, script};

async fn login(machine: &Machine) -> Master {
    Master::start(machine.options(), &LoginOptions::unattended()).await.unwrap()
}

async fn reach(master: &Master, agents: &Agents) -> Result<Connection, OpenError> {
    let reaching = connect_placing(master.options(), agents, ConnectOptions::default(), Arc::new(NoEvents));
    tokio::time::timeout(DEADLINE, reaching).await.unwrap()
}

async fn refused(master: &Master, agents: &Agents) -> OpenError {
    match reach(master, agents).await {
        Ok(_) => panic!("an agent answers"),
        Err(error) => error,
    }
}

#[tokio::test]
async fn an_agent_is_placed_once_and_then_found_by_workers() {
    let machine = Machine::start();
    let master = login(&machine).await;
    let agents = agents();
    let first = reach(&master, &agents).await.unwrap();
    let findings = doctor::examine(&first.client).await.unwrap();
    let program = findings.description.program;
    let placed = machine.placed();
    assert_eq!(placed.len(), 1);
    let own = agents.get(std::env::consts::ARCH).unwrap();
    assert_eq!(placed[0], own.directory_name());
    let path = machine.path(&format!("cache/stead/agent/{}/stead-agent", placed[0]));
    assert_eq!(ByteString::from(program.clone()), ByteString::from(path.clone()));
    let written = std::fs::metadata(&path).unwrap();
    assert_eq!((written.len(), written.permissions().mode() & 0o777), (own.bytes, 0o700));

    let second = reach(&master, &agents).await.unwrap();
    second.client.ping().await.unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().modified().unwrap(), written.modified().unwrap());

    let dial = Dial::Ssh(master.options().dial(ByteString::from(program)));
    let host = HostOptions::default();
    let worker = connect(&dial, &host, ConnectOptions::default(), Arc::new(NoEvents)).await.unwrap();
    worker.client.ping().await.unwrap();
    drop((first, second));
    worker.client.ping().await.unwrap();

    std::fs::remove_dir_all(machine.path("cache")).unwrap();
    let error = connect(&dial, &host, ConnectOptions::default(), Arc::new(NoEvents)).await.err().unwrap();
    assert!(matches!(error, OpenError::Gone { .. }), "{error:?}");
}

#[tokio::test]
async fn every_login_shell_will_do() {
    for shell in ["/bin/sh", "/bin/bash", "/usr/bin/fish", "/usr/bin/tcsh", "/usr/bin/zsh"] {
        if !Path::new(shell).exists() {
            eprintln!("{shell} is not installed: not tried");
            continue;
        }
        // As sshd runs a command by a login shell.
        let machine = Machine::start_with(&format!("ForceCommand exec {shell} -c \"$SSH_ORIGINAL_COMMAND\""));
        let master = login(&machine).await;
        for _ in 0..2 {
            let connection =
                reach(&master, &agents()).await.unwrap_or_else(|error| panic!("{shell}: {error}"));
            let program = connection.client.describe().await.unwrap().program;
            let dial = Dial::Ssh(master.options().dial(ByteString::from(program)));
            connect(&dial, &HostOptions::default(), ConnectOptions::default(), Arc::new(NoEvents))
                .await
                .unwrap();
        }
        assert_eq!(machine.placed().len(), 1, "{shell}");
    }
}

#[tokio::test]
async fn the_newest_two_others_are_kept() {
    let machine = Machine::start();
    let cache = machine.path("cache/stead/agent");
    for (age, name) in
        ["0.0.1-0000000000000001", "0.0.2-0000000000000002", "0.0.3-0000000000000003"].iter().enumerate()
    {
        std::fs::create_dir_all(cache.join(name)).unwrap();
        std::fs::write(cache.join(name).join("stead-agent"), "old").unwrap();
        let time = std::time::SystemTime::now() - std::time::Duration::from_secs(3600 * (3 - age as u64));
        std::fs::File::open(cache.join(name)).unwrap().set_modified(time).unwrap();
    }
    let master = login(&machine).await;
    let agents = agents();
    reach(&master, &agents).await.unwrap();
    let mut expected = vec!["0.0.2-0000000000000002".to_owned(), "0.0.3-0000000000000003".to_owned()];
    expected.push(agents.get(std::env::consts::ARCH).unwrap().directory_name());
    expected.sort();
    assert_eq!(machine.placed(), expected);
}

#[tokio::test]
async fn a_damaged_agent_is_replaced() {
    let machine = Machine::start();
    let agents = agents();
    let directory =
        machine.path("cache/stead/agent").join(agents.get(std::env::consts::ARCH).unwrap().directory_name());
    let placed = directory.join("stead-agent");
    let master = login(&machine).await;
    std::fs::create_dir_all(&directory).unwrap();
    let whole = std::fs::read(agent_program()).unwrap();
    let mut garbage = whole.clone();
    garbage[..64].fill(0xff);
    let damaged: [&[u8]; 6] = [
        b"",
        &whole[..whole.len() / 16],
        &whole[..100],
        &garbage,
        b"#!/bin/sh\necho this is not the agent\n",
        b"#!/bin/sh\nexit 3\n",
    ];
    for content in damaged {
        // Another file each time: the last one's program may still run.
        std::fs::write(directory.join("next"), content).unwrap();
        std::fs::set_permissions(directory.join("next"), std::fs::Permissions::from_mode(0o700)).unwrap();
        std::fs::rename(directory.join("next"), &placed).unwrap();
        reach(&master, &agents).await.unwrap().client.ping().await.unwrap();
        assert!(std::fs::read(&placed).unwrap() == whole, "the agent is whole again");
    }
}

#[tokio::test]
async fn a_greeting_of_the_login_is_skipped() {
    let machine =
        Machine::start_with("ForceCommand echo Welcome; echo; exec sh -c \"$SSH_ORIGINAL_COMMAND\"");
    let master = login(&machine).await;
    reach(&master, &agents()).await.unwrap().client.ping().await.unwrap();
}

#[tokio::test]
async fn a_login_without_a_shell_is_refused() {
    let cases = [
        "ForceCommand echo This account is currently not available.; exit 1",
        "ForceCommand /bin/false",
        "Subsystem sftp internal-sftp\nForceCommand internal-sftp",
    ];
    for config in cases {
        let machine = Machine::start_with(config);
        let master = login(&machine).await;
        let error = refused(&master, &agents()).await;
        assert!(matches!(error, OpenError::Place(PlaceError::NoShell { .. })), "{config}: {error:?}");
        assert_eq!(error.kind(), ErrorKind::Refused);
    }
}

#[tokio::test]
async fn a_machine_that_runs_nothing_from_the_cache_is_refused() {
    let machine = Machine::start();
    let master = login(&machine).await;
    let agents = agents();
    reach(&master, &agents).await.unwrap();
    let name = agents.get(std::env::consts::ARCH).unwrap().directory_name();
    let program = machine.path("cache/stead/agent").join(name).join("stead-agent");
    // What a shell meets on a file system mounted noexec.
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o600)).unwrap();
    let error = refused(&master, &agents).await;
    assert!(matches!(&error, OpenError::Place(PlaceError::NoExec { .. })), "{error:?}");
    assert!(error.hint().unwrap().contains("XDG_CACHE_HOME"));
}

#[tokio::test]
async fn a_machine_of_another_kind_is_refused_with_what_there_is() {
    let machine = Machine::start();
    script(&machine.path("uname"), "#!/bin/sh\necho FreeBSD amd64\n");
    let path = format!("PATH={}:/usr/bin:/bin", machine.dir.path().display());
    let foreign = Machine::start_with(&format!("ForceCommand {path} sh -c \"$SSH_ORIGINAL_COMMAND\""));
    let master = login(&foreign).await;
    let error = refused(&master, &agents()).await;
    let expected = format!(
        "there is no agent for `FreeBSD amd64` machines; there are agents for Linux on {}",
        std::env::consts::ARCH
    );
    assert_eq!(error.to_string(), expected);
    assert!(foreign.placed().is_empty());
}

#[tokio::test]
async fn a_full_machine_is_told_as_such_and_left_as_it_was() {
    let machine =
        Machine::start_with("ForceCommand ulimit -f 1; trap \"\" XFSZ; exec sh -c \"$SSH_ORIGINAL_COMMAND\"");
    let master = login(&machine).await;
    let error = refused(&master, &agents()).await;
    assert!(matches!(error, OpenError::Place(PlaceError::NoSpace { .. })), "{error:?}");
    assert!(!machine.path("cache/stead").exists());
}

#[test]
fn agents_are_found_beside_the_program_or_named() {
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("stead");
    assert!(matches!(Agents::find(&program, None), Err(PlaceError::NoAgents { .. })));
    std::fs::write(directory.path().join("stead-agent"), "#!/bin/sh\n").unwrap();
    assert!(matches!(Agents::find(&program, None), Err(PlaceError::NotAProgram { .. })));
    let elf = |machine: u8| [&b"\x7fELF\x02\x01"[..], &[0; 12], &[machine, 0]].concat();
    std::fs::write(directory.path().join("stead-agent"), elf(62)).unwrap();
    std::fs::write(directory.path().join("stead-agent-aarch64-linux"), elf(183)).unwrap();
    let agents = Agents::find(&program, None).unwrap();
    assert_eq!(agents.architectures().collect::<Vec<_>>(), ["aarch64", "x86_64"]);
    std::fs::write(directory.path().join("stead-agent-x86_64-linux"), [elf(62), vec![1]].concat()).unwrap();
    assert_eq!(Agents::find(&program, None).unwrap().get("x86_64").unwrap().bytes, 21);
    let own = directory.path().join("own");
    std::fs::write(&own, elf(62)).unwrap();
    assert_eq!(Agents::find(&program, Some(&own)).unwrap().get("x86_64").unwrap().path, own);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures"]
async fn what_ssh_costs() {
    use wire::agent::file::{OpenFlags, Place};
    let machine = Machine::start();
    std::fs::write(machine.path("content"), vec![7; 64 << 20]).unwrap();
    let agents = agents();
    for pass in ["with the agent to be placed", "with the agent in its place"] {
        let start = std::time::Instant::now();
        let master = login(&machine).await;
        let logged_in = start.elapsed();
        let connection = reach(&master, &agents).await.unwrap();
        println!("{pass}: login {logged_in:?}, agent after {:?}", start.elapsed());
        let client = connection.client;
        let root = client.attach(machine.dir.path().to_str().unwrap().into(), true).await.unwrap().root;
        let root = Place { id: root.id, path: Default::default() };
        let name = wire::agent::name::Name::new(&b"content"[..]).unwrap();
        let entry = client.lookup(root.clone(), name.clone()).await.unwrap().entry.unwrap();
        let handle = client.new_handle();
        let flags = OpenFlags { read: true, ..OpenFlags::default() };
        client.open(Place { id: entry.id, path: root.path.join(&name) }, flags, handle, 0).await.unwrap();
        let start = std::time::Instant::now();
        let mut reads = std::collections::VecDeque::new();
        for n in 0..512_u64 {
            reads.push_back(client.read(handle, (n % 64) << 20, 1 << 20));
            if reads.len() == 4 {
                reads.pop_front().unwrap().await.unwrap();
            }
        }
        for read in reads {
            read.await.unwrap();
        }
        println!("read: {:.0} MB/s", 512.0 * f64::from(1 << 20) / start.elapsed().as_secs_f64() / 1e6);
        println!("round trip: {:?}", doctor::examine(&client).await.unwrap().round_trip);
    }
}
