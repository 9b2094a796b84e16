//! `machine.*`

use std::time::Duration;

use ::machine::preflight;
use ::remote::doctor::{examine, ssh_version};
use tokio::sync::oneshot;
use wire::api::machine::{
    Caller, Check, Connect, Disconnect, Disconnected, Doctor, Machine, Reconnect, Redial, Report, Verdict,
};
use wire::api::status::{self, ConnectionState};
use wire::api::vm::MEMORY_MIB_MIN;
use wire::api::{ErrorKind, ErrorObject};
use wire::worker::Heartbeat;

use super::Daemon;
use crate::connection;
use crate::failure::chain;
use crate::owner::{Event, Keep, Wanted, ending};
use crate::session::ClientContext;
use crate::shutdown;
use crate::system;

/// How long a machine may take to be examined once it is connected.
const EXAMINE_TIMEOUT: Duration = Duration::from_secs(30);

/// Opens a connection and keeps it.
pub async fn connect(
    daemon: &Daemon,
    context: &ClientContext,
    connect: Connect,
) -> Result<status::Connection, ErrorObject> {
    context.check(&connect.caller)?;
    let machine = connect.machine.clone();
    let prompter = context.prompter(&connect.caller);
    let keep = keep(Some(connect.reconnect), connect.heartbeat_interval_ms, connect.max_heartbeat_failures)?;
    let wanted = Wanted { keep, ..Wanted::new(connect.machine, connect.caller, prompter) };
    let lease = daemon.owner.acquire(wanted).await?;
    let pinned = daemon.owner.ask(|answer| Event::Pin { machine, keep, answer }).await;
    drop(lease);
    pinned
}

/// Closes a link and opens it again.
pub async fn reconnect(
    daemon: &Daemon,
    context: &ClientContext,
    redial: Redial,
) -> Result<status::Connection, ErrorObject> {
    context.check(&redial.caller)?;
    let prompter = context.prompter(&redial.caller);
    let keep = keep(redial.reconnect, redial.heartbeat_interval_ms, redial.max_heartbeat_failures)?;
    let wanted = Wanted { keep, ..Wanted::new(redial.machine, redial.caller, prompter) };
    let wanted = Box::new(wanted.resolved().await?);
    daemon.owner.ask(|answer| Event::Redial { wanted, answer }).await
}

/// A heartbeat of which only one part is given has the usual other one.
fn keep(
    reconnect: Option<Reconnect>,
    interval_ms: Option<u64>,
    failures_max: Option<u32>,
) -> Result<Keep, ErrorObject> {
    let heartbeat = match (interval_ms, failures_max) {
        (None, None) => None,
        given => Some(connection::heartbeat(given.0, given.1, Heartbeat::default())?),
    };
    Ok(Keep { reconnect, heartbeat })
}

/// Closes a connection once its mounts are gone.
pub async fn disconnect(daemon: &Daemon, disconnect: Disconnect) -> Result<Disconnected, ErrorObject> {
    let machine = disconnect.machine;
    let (answer, answered) = oneshot::channel();
    daemon.owner.send(Event::SelectMountsOf { machine: machine.clone(), answer }).await;
    let mounts = answered.await.map_err(|_| ending())?;
    let outcomes = shutdown::stop_all(mounts, disconnect.force).await;
    let mounts = shutdown::all_gone(outcomes)?;
    super::tunnel::close_all(daemon, &machine).await;
    let was = daemon.owner.ask(|answer| Event::Disconnect { machine: machine.clone(), answer }).await;
    match was {
        Ok(was) => Ok(Disconnected { machine, was, mounts }),
        // It went with the last of its mounts.
        Err(error) if error.kind() == ErrorKind::NotFound && !mounts.is_empty() => {
            Ok(Disconnected { machine, was: ConnectionState::Disconnected, mounts })
        }
        Err(error) => Err(error),
    }
}

/// Looks at what works on a machine. That it cannot be reached is a finding, not a failure.
pub async fn doctor(daemon: &Daemon, context: &ClientContext, doctor: Doctor) -> Result<Report, ErrorObject> {
    context.check(&doctor.caller)?;
    let machine = doctor.machine.clone();
    let mut checks = Vec::new();
    match &machine {
        Machine::Host => {
            checks.push(system::mounting());
            checks.extend(vms(daemon).await);
        }
        Machine::Ssh(_) => checks.push(ssh().await),
        Machine::Docker { container } => checks.extend(container_checks(container, &doctor.caller).await),
        Machine::Vm { .. } => checks.extend(vms(daemon).await),
    }
    let prompter = context.prompter(&doctor.caller);
    let wanted = Wanted::new(doctor.machine, doctor.caller, prompter);
    match daemon.owner.acquire(wanted).await {
        Err(error) => checks.push(broken("connection", &error)),
        Ok(lease) => {
            checks.push(works("connection", "open".to_owned()));
            match tokio::time::timeout(EXAMINE_TIMEOUT, lease.link().shared()).await {
                Ok(Ok(connection)) => checks.extend(agent(&connection.client).await),
                Ok(Err(error)) => checks.push(broken("agent", &error)),
                Err(_) => checks.push(found("agent", Verdict::Broken, "it does not answer".to_owned())),
            }
        }
    }
    Ok(Report { machine, checks })
}

pub(crate) fn found(name: &str, verdict: Verdict, detail: String) -> Check {
    Check { name: name.to_owned(), verdict, detail, hint: None }
}

pub(crate) fn works(name: &str, detail: String) -> Check {
    found(name, Verdict::Works, detail)
}

fn broken(name: &str, error: &ErrorObject) -> Check {
    Check { hint: error.hint().map(str::to_owned), ..found(name, Verdict::Broken, error.message.clone()) }
}

/// How microVMs are run here, and what they need. A computer that runs none is none the worse as a machine.
async fn vms(daemon: &Daemon) -> Vec<Check> {
    let (engine, directory) = (std::sync::Arc::clone(&daemon.engine), daemon.paths.vms_dir());
    let looking = tokio::task::spawn_blocking(move || {
        let needs = |name: &str, outcome: ::machine::Result<String>| match outcome {
            Ok(detail) => works(name, detail),
            Err(error) => Check { hint: error.hint, ..found(name, Verdict::Limited, error.message) },
        };
        vec![
            how_vms_run(engine.as_ref()),
            needs("vm disks", preflight::disk_program()),
            needs("vm room", preflight::disk_space(&directory)),
            needs("vm memory", preflight::memory(MEMORY_MIB_MIN)),
        ]
    });
    looking.await.unwrap_or_else(|error| vec![found("vms", Verdict::Limited, error.to_string())])
}

fn how_vms_run(engine: &dyn ::machine::engine::Engine) -> Check {
    let name = engine.name();
    match engine.examine() {
        Ok(::machine::engine::Examined { accelerator, why: Some(why), .. }) => {
            let detail = format!("{name}, processors emulated ({}): {why}", accelerator.name());
            found("vms", Verdict::Limited, detail)
        }
        Ok(examined) => works("vms", format!("{name}, {}", examined.accelerator.name())),
        Err(error) => Check { hint: error.hint, ..found("vms", Verdict::Limited, error.message) },
    }
}

async fn ssh() -> Check {
    match ssh_version("ssh".as_ref()).await {
        Some(version) => works("ssh", version),
        None => Check {
            hint: Some("apt-get install openssh-client".to_owned()),
            ..found("ssh", Verdict::Broken, "`ssh` is not installed".to_owned())
        },
    }
}

/// The engine that the caller means, and what it says of the container.
async fn container_checks(container: &str, caller: &Caller) -> Vec<Check> {
    let engine = match connection::engine_of(caller).await {
        Ok(engine) => engine,
        Err(error) => return vec![broken("engine", &error)],
    };
    match ::remote::transport::docker::examine(&engine, container).await {
        Err(error) => vec![broken("engine", &connection::from_errand(&error))],
        Ok(examined) => {
            let container = match examined.container {
                Ok(state) => works("container", state),
                Err(error) => broken("container", &connection::from_errand(&error.into())),
            };
            vec![works("engine", examined.engine), container]
        }
    }
}

async fn agent(client: &::remote::client::AgentClient) -> Vec<Check> {
    let findings = match tokio::time::timeout(EXAMINE_TIMEOUT, examine(client)).await {
        Ok(Ok(findings)) => findings,
        Ok(Err(error)) => return vec![found("agent", Verdict::Broken, chain(&error))],
        Err(_) => return vec![found("agent", Verdict::Broken, "it does not answer".to_owned())],
    };
    let description = findings.description;
    let program = String::from_utf8_lossy(&description.program).replace(char::is_control, "?");
    let user = format!(
        "uid {} on {} ({} {})",
        description.uid, description.hostname, description.system, description.architecture
    );
    let leases = match findings.capabilities & wire::hello::capability::LEASES {
        0 => found("watches", Verdict::Limited, "changes there are seen after a second".to_owned()),
        _ => works("watches", "changes there are told at once".to_owned()),
    };
    vec![
        works("agent", format!("stead {} at `{program}`", description.release)),
        works("login", user.replace(char::is_control, "?")),
        works("round trip", format!("{:.1} ms", findings.round_trip.as_secs_f64() * 1000.0)),
        leases,
    ]
}
