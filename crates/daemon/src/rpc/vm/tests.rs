use wire::api::event::VmState;
use wire::api::time::Timestamp;

use super::*;

fn vm(name: &str, id: &str) -> Vm {
    Vm {
        name: name.to_owned(),
        id: id.to_owned(),
        state: VmState::Stopped,
        image: "tiny".to_owned(),
        engine: "qemu".to_owned(),
        pid: None,
        cpus: 1,
        memory_mib: 512,
        nat: false,
        ports: Vec::new(),
        reason: None,
        since: Timestamp::from_unix(0),
    }
}

#[test]
fn a_vm_is_found_by_its_name_its_id_or_what_only_it_begins_with() {
    let vms = [vm("dev", "1f00"), vm("dev-2", "2a00"), vm("web", "2b00")];
    let found = |given: &str| find(&vms, given).map(|at| vms[at].name.as_str()).map_err(|error| error.kind());
    // A name that another one begins with is its own.
    for (given, name) in
        [("dev", "dev"), ("dev-", "dev-2"), ("w", "web"), ("2a00", "dev-2"), ("1", "dev"), ("2b", "web")]
    {
        assert_eq!(found(given), Ok(name), "{given}");
    }
    assert_eq!((found("de"), found("2")), (Err(ErrorKind::Conflict), Err(ErrorKind::Conflict)));
    assert_eq!((found(""), found("x")), (Err(ErrorKind::NotFound), Err(ErrorKind::NotFound)));
}
