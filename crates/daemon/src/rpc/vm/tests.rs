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
        snapshots: Vec::new(),
        from: None,
        reason: None,
        since: Timestamp::from_unix(0),
    }
}

#[test]
fn a_vm_is_looked_at_by_its_name_its_id_or_what_only_it_begins_with() {
    let vms = [vm("dev", "1f00"), vm("dev-2", "2a00"), vm("web", "2b00")];
    let found = |given: &str| {
        find_beginning(&vms, given).map(|at| vms[at].name.as_str()).map_err(|error| error.kind())
    };
    // A name that another one begins with is its own.
    for (given, name) in
        [("dev", "dev"), ("dev-", "dev-2"), ("w", "web"), ("2a00", "dev-2"), ("1", "dev"), ("2b", "web")]
    {
        assert_eq!(found(given), Ok(name), "{given}");
    }
    assert_eq!((found("de"), found("2")), (Err(ErrorKind::Conflict), Err(ErrorKind::Conflict)));
    assert_eq!((found(""), found("x")), (Err(ErrorKind::NotFound), Err(ErrorKind::NotFound)));
}

#[test]
fn a_vm_is_changed_by_its_whole_name_or_id_only() {
    let vms = [vm("ci-cache", "1f00"), vm("ci-web", "2a00"), vm("dev", "2b00")];
    for (given, at) in [("ci-cache", 0), ("1f00", 0), ("dev", 2), ("2b00", 2)] {
        assert_eq!(find(&vms, given).map_err(|error| error.kind()), Ok(at), "{given}");
    }
    let hint = |given: &str| {
        let error = find(&vms, given).unwrap_err();
        assert_eq!(
            (error.kind(), &error.message[..]),
            (ErrorKind::NotFound, &format!("there is no vm `{given}`")[..])
        );
        error.hint().unwrap_or_default().to_owned()
    };
    let needed = |names: &str| format!("the whole name is needed for this: {names}");
    for (given, names) in [("ci", "ci-cache or ci-web"), ("ci-c", "ci-cache"), ("2b", "dev")] {
        assert_eq!(hint(given), needed(names), "{given}");
    }
    assert_eq!((hint(""), hint("x")), ("stead vm list".to_owned(), "stead vm list".to_owned()));
}
