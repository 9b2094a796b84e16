//! MicroVMs.
//!
//! A connection is one stream to the guest's agent, carried by a process that ends with the VMM. Workers have streams of their
//! own. A microVM that is started again is the same machine, whose processes have ended; one that is made anew under the name
//! of another is not.

use std::sync::Arc;

use wire::api::ErrorObject;
use wire::api::machine::Machine;
use wire::paths::Paths;
use wire::worker::Dial;

use super::carried::CarriedLink;
use super::{CommandSessions, ConnectRequest, Connector, Later, Link};
use crate::vm::{dial, from_machine};

/// Reaches microVMs.
#[derive(Debug, Clone)]
pub struct VmConnector {
    paths: Paths,
    commands: CommandSessions,
}

impl VmConnector {
    /// To those that have their places there.
    pub fn new(paths: Paths, commands: CommandSessions) -> VmConnector {
        VmConnector { paths, commands }
    }
}

impl Connector for VmConnector {
    fn connect(&self, request: ConnectRequest) -> Later<'static, Result<Arc<dyn Link>, ErrorObject>> {
        let connector = self.clone();
        Box::pin(async move { open(&connector, request).await })
    }
}

async fn open(connector: &VmConnector, request: ConnectRequest) -> Result<Arc<dyn Link>, ErrorObject> {
    let Machine::Vm { name } = &request.machine else {
        return Err(ErrorObject::internal(format!("`{}` is no vm", request.machine)));
    };
    let dial = dial(&connector.paths, name).map_err(|error| from_machine(&error))?;
    let name = request.machine.to_string();
    let kept = Machine::Vm { name: dial.id.clone() };
    Ok(Arc::new(CarriedLink::open(name, Dial::Vm(dial), &connector.commands, &kept).await?))
}
