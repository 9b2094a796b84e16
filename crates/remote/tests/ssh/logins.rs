//! Logging in, and what goes wrong with it.

use std::os::unix::process::ExitStatusExt;
use std::sync::Arc;
use std::time::Duration;

use remote::askpass::{self, Environment, Server};
use remote::client::{ConnectOptions, NoEvents};
use remote::connect_placing;
use remote::transport::ssh::{LoginOptions, Master, Prompts, SshError, channel};
use tokio::io::AsyncReadExt;
use wire::api::error::ErrorKind;
use wire::api::prompt::{PromptKind, Secret};
use wire::bytestring::ByteString;

use super::machine::{DEADLINE, Machine, agents, script};

async fn login(machine: &Machine) -> Result<Master, SshError> {
    let options = machine.options();
    tokio::time::timeout(DEADLINE, Master::start(options, &LoginOptions::unattended())).await.unwrap()
}

async fn refused(machine: &Machine) -> SshError {
    match login(machine).await {
        Ok(_) => panic!("the login succeeds"),
        Err(error) => error,
    }
}

#[tokio::test]
async fn a_master_carries_channels_until_it_is_dropped() {
    let machine = Machine::start();
    let master = login(&machine).await.unwrap();
    master.check().await.unwrap();
    let dial = master.options().dial(ByteString::default());
    let channels: Vec<_> = (0..5).map(|n| channel(&dial, &format!("echo channel {n}")).unwrap()).collect();
    for (n, (program, mut stream)) in channels.into_iter().enumerate() {
        let mut said = String::new();
        stream.read_to_string(&mut said).await.unwrap();
        assert_eq!(said, format!("channel {n}\n"));
        assert!(program.ended().await.status.unwrap().success());
    }
    let (control, pid) = (master.options().control.clone(), master.pid());
    let other_handle = master.clone();
    drop(master);
    other_handle.check().await.unwrap();
    drop(other_handle);
    until(|| !control.exists() && !is_running(pid)).await;
}

pub async fn until(condition: impl Fn() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(DEADLINE, waiting).await.unwrap();
}

pub fn is_running(pid: u32) -> bool {
    std::path::Path::new(&format!("/proc/{pid}")).exists()
}

#[tokio::test]
async fn a_killed_master_is_noticed_and_channels_do_not_log_in_by_themselves() {
    let machine = Machine::start();
    let master = login(&machine).await.unwrap();
    let dial = master.options().dial(ByteString::default());
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(master.pid() as i32).unwrap(),
        rustix::process::Signal::KILL,
    )
    .unwrap();
    tokio::time::timeout(DEADLINE, master.ended()).await.unwrap();
    assert!(master.has_ended());
    assert!(matches!(master.check().await, Err(SshError::MasterGone { .. })));
    let (program, mut stream) = channel(&dial, "echo never").unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).await.unwrap();
    assert_eq!(said, "");
    assert_eq!(program.ended().await.status.unwrap().code(), Some(255));
    let error =
        match connect_placing(master.options(), &agents(), ConnectOptions::default(), Arc::new(NoEvents))
            .await
        {
            Ok(_) => panic!("a channel without a master"),
            Err(error) => error,
        };
    assert_eq!(error.kind(), ErrorKind::Unreachable, "{error}");
    // The dead master's socket is in nobody's way.
    login(&machine).await.unwrap();
}

#[tokio::test]
async fn a_changed_host_key_is_refused_and_says_what_mends_it() {
    let machine = Machine::start();
    machine.trust("other");
    let error = refused(&machine).await;
    assert!(matches!(error, SshError::HostKeyChanged { .. }), "{error}");
    assert_eq!(error.kind(), ErrorKind::Refused);
    let hint = error.hint().unwrap();
    assert!(hint.contains("ssh-keygen -f") && hint.contains("/known -R"), "{hint}");
    let mend = hint.split_once(": ").unwrap().1;
    let mended = std::process::Command::new("sh").args(["-c", mend]).output().unwrap();
    assert!(mended.status.success(), "{mended:?}");
    assert!(matches!(refused(&machine).await, SshError::HostKeyUnknown { .. }));
}

#[tokio::test]
async fn what_does_not_work_is_told_apart() {
    let machine = Machine::start();
    machine.write_client_config("other", "");
    assert!(matches!(refused(&machine).await, SshError::Authentication { .. }));
    machine.write_client_config("id", "NoSuchOption yes");
    assert!(matches!(refused(&machine).await, SshError::Config { .. }));
    machine.write_client_config("id", "");
    machine.trust_nothing();
    assert!(matches!(refused(&machine).await, SshError::HostKeyUnknown { .. }));
    machine.trust("host");
    let text = std::fs::read_to_string(machine.path("client")).unwrap();
    std::fs::write(machine.path("client"), text.replace("127.0.0.1", "nosuch.invalid")).unwrap();
    assert!(matches!(refused(&machine).await, SshError::Resolve { .. }));
    std::fs::write(machine.path("client"), "Host box\n  HostName 127.0.0.1\n  Port 1\n").unwrap();
    let error = refused(&machine).await;
    assert_eq!(
        error.to_string(),
        "could not reach `ssh://box`: connect to host 127.0.0.1 port 1: Connection refused"
    );
    let mut options = machine.options();
    options.program = "/nonexistent/ssh".into();
    let error = Master::start(options, &LoginOptions::unattended()).await.err().unwrap();
    assert!(error.hint().unwrap().contains("OpenSSH"), "{error}");
}

#[tokio::test]
async fn a_machine_that_says_nothing_is_given_up() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let machine = Machine::start();
    let port = silent.local_addr().unwrap().port();
    let config = format!("Host box\n  HostName 127.0.0.1\n  Port {port}\n  ConnectTimeout 1\n");
    std::fs::write(machine.path("client"), config).unwrap();
    assert!(matches!(refused(&machine).await, SshError::TimedOut { .. }));
    std::fs::write(machine.path("client"), format!("Host box\n  HostName 127.0.0.1\n  Port {port}\n"))
        .unwrap();
    let hurried = LoginOptions { prompts: Prompts::Refuse, timeout: Duration::from_millis(300) };
    let error = Master::start(machine.options(), &hurried).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
}

#[tokio::test]
async fn the_users_configuration_wins_over_ours() {
    let machine = Machine::start();
    let value = |name: &str| {
        let options = machine.options();
        let output = std::process::Command::new("ssh")
            .arg("-G")
            .arg("-F")
            .arg(&options.config)
            .arg("box")
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let found = text.lines().find_map(|line| line.strip_prefix(&format!("{name} "))).map(str::to_owned);
        found.unwrap_or_default()
    };
    assert!(value("ciphers").starts_with("aes128-gcm@openssh.com,"), "{}", value("ciphers"));
    assert_eq!(value("serveraliveinterval"), "15");
    machine.write_client_config("id", "Ciphers aes256-ctr\n  ServerAliveInterval 7\n  Compression yes");
    assert_eq!(value("ciphers"), "aes256-ctr");
    assert_eq!(value("serveraliveinterval"), "7");
    assert_eq!(value("compression"), "yes");
}

#[tokio::test]
async fn options_of_the_user_that_would_disturb_do_not() {
    let machine = Machine::start();
    machine.write_client_config(
        "id",
        "RemoteCommand echo mine\n  RequestTTY force\n  LocalForward 127.0.0.1:9 127.0.0.1:9\n  ControlMaster auto\n  \
         ControlPath /nonexistent/%h\n  ControlPersist yes\n  PermitLocalCommand yes\n  LocalCommand echo local",
    );
    let master = login(&machine).await.unwrap();
    let (_program, mut stream) = channel(&master.options().dial(ByteString::default()), "echo ours").unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).await.unwrap();
    assert_eq!(said, "ours\n");
}

#[tokio::test]
async fn too_many_sessions_are_told_as_such() {
    let machine = Machine::start_with("MaxSessions 1");
    let master = login(&machine).await.unwrap();
    let dial = master.options().dial(ByteString::default());
    let (_first, mut stream) = channel(&dial, "echo ready; exec cat").unwrap();
    stream.read_exact(&mut [0; 6]).await.unwrap();
    let error =
        connect_placing(master.options(), &agents(), ConnectOptions::default(), Arc::new(NoEvents)).await;
    let error = error.err().unwrap();
    assert!(matches!(error, remote::OpenError::Ssh(SshError::TooManySessions { .. })), "{error:?}");
    master.check().await.unwrap();
}

/// A program that does what the askpass program does, for a test whose own program cannot.
fn askpass_program(machine: &Machine, answer: &str) -> std::path::PathBuf {
    let path = machine.path("stead-askpass");
    script(&path, &format!("#!/bin/sh\necho \"$1\" >> {}\n{answer}\n", machine.path("asked").display()));
    path
}

#[tokio::test]
async fn an_unknown_host_key_is_asked_about() {
    let machine = Machine::start();
    machine.trust_nothing();
    let ticket = askpass::new_ticket().unwrap();
    let program = askpass_program(&machine, "echo yes");
    let environment = Environment::new(program, machine.path("none"), ticket);
    let master = Master::start(machine.options(), &LoginOptions::attended(environment)).await.unwrap();
    master.check().await.unwrap();
    let asked = std::fs::read_to_string(machine.path("asked")).unwrap();
    assert!(asked.contains("authenticity of host"), "{asked}");
    drop(master);
    machine.trust_nothing();
    let program = askpass_program(&machine, "exit 1");
    let environment = Environment::new(program, machine.path("none"), askpass::new_ticket().unwrap());
    let error = Master::start(machine.options(), &LoginOptions::attended(environment)).await.err().unwrap();
    assert!(matches!(error, SshError::HostKeyUnknown { .. }), "{error}");
}

#[tokio::test]
async fn a_question_reaches_the_server_and_its_answer_the_asker() {
    let machine = Machine::start();
    let (mut server, environment) = Server::bind(&machine.path("run"), "/unused".into()).unwrap();
    let ask = |text: &'static str, ticket: Option<&'static str>| {
        let variables = variables_of(&environment);
        tokio::task::spawn_blocking(move || {
            let mut askpass =
                std::process::Command::new(super::machine::agent_program().with_file_name("test-askpass"));
            askpass.arg(text).env_clear().envs(variables);
            if let Some(ticket) = ticket {
                askpass.env(wire::api::prompt::TICKET_VARIABLE, ticket);
            }
            askpass.output().unwrap()
        })
    };
    let asked = ask("me@box's password: ", None);
    let prompt = tokio::time::timeout(DEADLINE, server.next()).await.unwrap().unwrap();
    assert_eq!((prompt.text.as_str(), prompt.kind), ("me@box's password: ", PromptKind::Secret));
    assert!(!format!("{prompt:?}").contains("hunter2"));
    prompt.answer(Some(Secret::new("hunter2".to_owned())));
    let output = asked.await.unwrap();
    assert_eq!((output.stdout.as_slice(), output.status.code()), (&b"hunter2\n"[..], Some(0)));

    let asked = ask("Are you sure (yes/no/[fingerprint])? ", None);
    let prompt = server.next().await.unwrap();
    assert_eq!(prompt.kind, PromptKind::Line);
    prompt.answer(None);
    let output = asked.await.unwrap();
    assert_eq!((output.stdout.as_slice(), output.status.code()), (&b""[..], Some(1)));

    let output = ask("password: ", Some("guessed")).await.unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("ticket"), "{output:?}");

    let asked = ask("password: ", None);
    let prompt = server.next().await.unwrap();
    drop(server);
    drop(prompt);
    assert_eq!(asked.await.unwrap().status.code(), Some(1));
    assert_eq!(std::process::ExitStatus::from_raw(0).code(), Some(0));
}

fn variables_of(environment: &Environment) -> Vec<(String, String)> {
    environment
        .variables()
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.into_string().unwrap()))
        .collect()
}
