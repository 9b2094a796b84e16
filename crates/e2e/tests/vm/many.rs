//! Many vms, of many clients at once.

use std::thread;
use std::time::Duration;

use e2e::guest::GUEST_DEADLINE;
use e2e::{Stead, eventually};

use super::{traces, vmms};

/// For what the daemon does by itself.
const DEADLINE: Duration = Duration::from_secs(60);

/// How many clients there are.
const CLIENTS: usize = 8;

/// How many vms there are.
const VMS: usize = 20;

/// Has each of the clients do this for its share of the vms, and looks at what is left.
fn by_all_clients(stead: &Stead, with: impl Fn(&str) + Sync) {
    stead.make_image();
    thread::scope(|scope| {
        for client in 0..CLIENTS {
            let with = &with;
            scope.spawn(move || {
                for number in (client..VMS).step_by(CLIENTS) {
                    with(&format!("vm-{number}"));
                }
            });
        }
    });
    assert!(vmms(stead).is_empty());
    eventually(DEADLINE, "nothing is left", || traces(stead).is_empty());
    assert_eq!(stead.status()["vms"], serde_json::json!([]));
    stead.ok(&["image", "delete", "tiny"]);
}

#[test]
fn twenty_vms_are_made_forked_and_deleted_by_eight_clients_at_once() {
    let stead = Stead::new();
    by_all_clients(&stead, |name| {
        let fork = format!("{name}-fork");
        stead.vm(&["create", name, "--image", "tiny", "--memory", "128M"]);
        stead.vm(&["set", name, "--memory", "192M"]);
        stead.vm(&["fork", name, &fork]);
        assert_eq!(stead.json(&["vm", "show", &fork])["memory_mib"], 192);
        stead.vm(&["delete", &fork]);
        stead.vm(&["delete", name]);
    });
}

/// Twenty real guests: minutes, where they are emulated.
#[test]
fn twenty_vms_are_made_used_and_deleted_by_eight_clients_at_once() {
    if !e2e::is_long() {
        eprintln!("skipped: it takes minutes; STEAD_E2E_LONG=1 runs it");
        return;
    }
    let stead = Stead::new();
    by_all_clients(&stead, |name| {
        stead.vm(&["create", name, "--image", "tiny", "--memory", "128M"]);
        stead.vm(&["start", name]);
        let machine = format!("vm://{name}");
        let asking = stead.program().args(["exec", &machine, "--", "hostname"]);
        assert_eq!(asking.deadline(GUEST_DEADLINE).ok().text(), format!("{name}\n"));
        stead.vm(&["delete", "--force", name]);
    });
}
