//! Each death is told once, in order, soon.

use std::fs;
use std::time::Duration;

use e2e::faults::field::Field;
use e2e::faults::role::Role;
use e2e::{Kind, eventually};

use crate::subscriber::Events;

/// What a subscriber is promised.
const TOLD_MAX: Duration = Duration::from_secs(1);

const SOON: Duration = Duration::from_secs(40);

/// A subscriber hears of what happens from the moment it has subscribed; a mount that comes and goes tells when.
fn subscribed(field: &Field) -> Events {
    let mut events = Events::of(field);
    let (far, dir) = (field.stead().dir("other-far"), field.stead().dir("other"));
    eventually(SOON, "the subscriber hears something", || {
        let mount = field.stead().mount(format!("host:{}", far.display()), &dir, &[]);
        field.stead().unmount(&mount);
        events.next_of_mount(Duration::from_millis(200)).is_some()
    });
    while events.next_of_mount(Duration::from_millis(500)).is_some() {}
    events
}

#[test]
fn a_death_of_a_worker_is_told_once_and_in_order() {
    let field = Field::new(Kind::Host, &[]);
    let mut events = subscribed(&field);
    for _ in 0..3 {
        let former = field.kill(Role::Worker);
        assert_eq!(events.next_of_mount(TOLD_MAX).as_deref(), Some("recovering"));
        assert_eq!(events.next_of_mount(TOLD_MAX).as_deref(), Some("active"));
        assert!(fs::read_dir(&field.dir).is_ok());
        field.successor(Role::Worker, &former);
        assert_eq!(events.next_of_mount(TOLD_MAX), None, "nothing else happened");
    }
}

#[test]
fn a_cut_is_told_once_and_in_order() {
    let field = Field::new(Kind::Ssh, &[]);
    let mut events = subscribed(&field);
    field.proxy().cut();
    assert_eq!(events.next_of_mount(TOLD_MAX).as_deref(), Some("reconnecting"));
    field.proxy().mend();
    assert_eq!(events.next_of_mount(SOON).as_deref(), Some("active"));
    assert_eq!(events.next_of_mount(TOLD_MAX), None, "nothing else happened");
}
