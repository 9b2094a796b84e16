//! From an order to start to a guest whose ports are served.

use std::path::{Path, PathBuf};
use std::time::Duration;

use machine::capability::{self, Capabilities};
use machine::course::{Course, Said};
use machine::engine::Spec;
use machine::image::Image;
use machine::vm::{Places, Record};
use machine::{console, disk, network};
use remote::OpenError;
use remote::place::Agents;
use remote::transport::vm::serving;
use rustix::process::Signal;
use tokio::time::Instant;
use wire::api::event::VmState;
use wire::api::{ErrorKind, ErrorObject};

use super::{Attempt, Phase, Vm, VmContext, blocking, from_machine, requirements};
use crate::connection::from_open;
use crate::failure::failure;

/// How long a guest may take from its start until its ports are served. Emulated, on a busy computer, it takes a minute.
pub(super) const BOOT_TIMEOUT: Duration = Duration::from_secs(300);

/// How often it is tried to reach a VMM that has not made its sockets yet.
const SOCKET_INTERVAL: Duration = Duration::from_millis(20);

/// What is shown of a console in an error.
const CONSOLE_BYTES: u64 = 2048;

impl Vm {
    pub(super) async fn start(&mut self, attempt: Attempt) {
        self.phase = Phase::Starting(attempt);
        self.tell(VmState::Starting, None).await;
        if let Err(error) = self.begin().await {
            self.fail(error).await;
            return;
        }
        self.await_ports(attempt).await;
    }

    /// Starts the VMM, and writes down which process it is.
    async fn begin(&mut self) -> Result<(), ErrorObject> {
        let (context, name, record) = (self.context.clone(), self.name.clone(), self.record.clone());
        let agents = {
            let context = context.clone();
            let finding = tokio::task::spawn_blocking(move || {
                Agents::find(&context.own_program, context.agent.as_deref())
            });
            let found = finding.await.map_err(|error| failure(&error))?;
            found.map_err(|error| from_open(&format!("vm://{name}"), &OpenError::from(error)))?
        };
        let name = self.name.clone();
        let (spec, parts) = blocking(move || prepare(&context, &name, &record, &agents)).await?;
        let process = match self.context.engine.start(&spec) {
            Ok(process) => process,
            Err(error) => {
                let places = self.context.places(&self.name);
                undo(parts, places).await;
                return Err(from_machine(&error));
            }
        };
        self.record.process = Some(process.identity());
        // From here on it is ended if anything fails.
        self.process = Some(process);
        self.open_gate();
        let written = self.write().await;
        if written.is_err() {
            self.signal(Signal::KILL);
        }
        written
    }

    /// Starts the gate of its network, if it has one.
    pub(super) fn open_gate(&mut self) {
        if self.record.network.is_none() {
            return;
        }
        match network::open_gate(&self.context.places(&self.name).runtime) {
            Ok(gate) => {
                self.record.gate = Some(gate.identity());
                self.gate = Some(gate);
            }
            Err(error) => {
                tracing::warn!(vm = self.name, %error, "a vm has no network");
                self.is_cut_off = true;
            }
        }
    }

    pub(super) async fn await_ports(&mut self, attempt: Attempt) {
        let ports = self.context.places(&self.name).runtime;
        self.phase = Phase::Starting(attempt);
        self.deadline = Some(Instant::now() + BOOT_TIMEOUT);
        self.waiting = Some(Box::pin(async move {
            // Its sockets are not there at first. It is tried for as long as the VMM runs.
            while serving(&ports).await.is_err() {
                tokio::time::sleep(SOCKET_INTERVAL).await;
            }
            Ok(())
        }));
        self.tell(VmState::Starting, None).await;
    }

    /// What a guest that did not come to serve has said last.
    pub(super) async fn boot_failure(&self, why: &str) -> ErrorObject {
        let path = self.context.places(&self.name).console();
        let said = tokio::task::spawn_blocking(move || console::tail(&path, CONSOLE_BYTES)).await;
        let said = said.ok().and_then(Result::ok).unwrap_or_default();
        let text = String::from_utf8_lossy(&said);
        let last = text.lines().rev().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
        let last = last.replace(char::is_control, " ");
        let message = match last.as_str() {
            "" => format!("the vm `{}` did not boot: {why}", self.name),
            last => format!("the vm `{}` did not boot: {why}; its console says last: {last}", self.name),
        };
        ErrorObject::new(ErrorKind::Failure, message).with_hint(format!("stead vm logs {}", self.name))
    }
}

/// Undoes what was done for a VMM that did not start.
async fn undo(parts: Capabilities, places: Places) {
    let undone = blocking(move || {
        let (course, _wanted) = Course::new(|_| ())?;
        capability::undo(&parts, &places, &course);
        Ok(())
    });
    if let Err(error) = undone.await {
        tracing::warn!(%error, "what was made for a start stays");
    }
}

/// What the VMM needs, and what was done for that. After an error nothing is left of it. Blocks.
fn prepare(
    context: &VmContext,
    name: &str,
    record: &Record,
    agents: &Agents,
) -> machine::Result<(Spec, Capabilities)> {
    let places = context.places(name);
    let image = Image::open(&context.paths.images_dir(), &record.image)?;
    let failed = |message: String| machine::Error::new(ErrorKind::Failure, message);
    let architecture = std::env::consts::ARCH;
    let agent =
        agents.get(architecture).ok_or_else(|| failed(format!("there is no agent for {architecture}")))?;
    let programs = (init(&context.own_program)?, agent.path.clone());
    let parts = requirements::of_start(name, record, &image, &context.engine, programs);
    let (course, _wanted) = Course::new({
        let name = name.to_owned();
        move |said: Said<'_>| tracing::debug!(vm = name, part = said.text(), "a vm is started")
    })?;
    capability::carry_out(&parts, &places, &course)?;
    let (disk, format) =
        disk::find(&places.directory).ok_or_else(|| failed(format!("the vm `{name}` has lost its disk")))?;
    let spec = Spec {
        name: name.to_owned(),
        cpus: record.cpus,
        memory_mib: record.memory_mib,
        kernel: image.kernel(),
        initrd: places.initrd(),
        disk,
        format,
        ports: places.runtime.clone(),
        console: places.console(),
        own_program: supervisor::spawn::own_program(),
        network: record.network.clone(),
    };
    Ok((spec, parts))
}

/// The first process of guests, which lies beside this program.
fn init(own_program: &Path) -> machine::Result<PathBuf> {
    let directory = own_program.parent().unwrap_or(Path::new("/"));
    let names = [format!("stead-guest-{}-linux", std::env::consts::ARCH), "stead-guest".to_owned()];
    names.iter().map(|name| directory.join(name)).find(|path| path.is_file()).ok_or_else(|| {
        let message = format!("there is no `{}` in `{}`", names[0], directory.display());
        machine::Error::new(ErrorKind::NotFound, message)
            .hint("install it with stead, or build it: cargo xtask build")
    })
}
