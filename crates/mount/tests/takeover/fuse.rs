//! Over FUSE.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::time::{Duration, Instant};

use rustix::process::{Signal, kill_process};
use supervisor::presence::alone;
use wire::api::mount::{Backend, Force};

use super::Field;
use super::field::DEADLINE;

fn mount() -> Option<Field> {
    Field::mount(Backend::Fuse, &[])
}

#[test]
fn a_mount_is_served_and_taken_away() {
    let Some(field) = mount() else { return };
    fs::write(field.mounted().join("a"), "one").unwrap();
    assert_eq!(fs::read_to_string(field.source().join("a")).unwrap(), "one");
    field.stop();
}

#[test]
fn what_is_open_goes_on_after_the_worker_was_killed() {
    let Some(field) = mount() else { return };
    let at = |name: &str| field.mounted().join(name);
    fs::create_dir(at("d")).unwrap();
    for number in 0..300 {
        fs::write(at("d").join(format!("f{number}")), number.to_string()).unwrap();
    }
    let mut open =
        File::options().read(true).write(true).create(true).truncate(false).open(at("d/open")).unwrap();
    open.write_all(b"before ").unwrap();
    let unnamed = at("d/unnamed");
    let mut without_name = File::options().read(true).write(true).create_new(true).open(&unnamed).unwrap();
    without_name.write_all(b"still here").unwrap();
    fs::remove_file(&unnamed).unwrap();
    let mut listing = fs::read_dir(at("d")).unwrap();
    let mut names: Vec<_> = listing.by_ref().take(10).map(|entry| entry.unwrap().file_name()).collect();
    for _ in 0..3 {
        field.kill_worker();
        open.write_all(b"after ").unwrap();
        without_name.seek(SeekFrom::Start(0)).unwrap();
        let mut text = String::new();
        without_name.read_to_string(&mut text).unwrap();
        assert_eq!(text, "still here");
        names.extend(listing.by_ref().take(80).map(|entry| entry.unwrap().file_name()));
        assert_eq!(fs::read_to_string(at("d/f7")).unwrap(), "7");
    }
    names.extend(listing.map(|entry| entry.unwrap().file_name()));
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 301);
    drop(open);
    drop(without_name);
    assert_eq!(fs::read_to_string(field.source().join("d/open")).unwrap(), "before after after after ");
    field.stop();
}

#[test]
fn what_was_taken_from_a_writer_and_is_not_on_the_machine_is_kept_and_named() {
    let Some(mut field) = mount() else { return };
    let mut open = File::create(field.mounted().join("a")).unwrap();
    let agent = field.stop_agent();
    open.write_all(b"unsaved").unwrap();
    let stopping = field.leave(Force::Always);
    kill_process(agent, Signal::KILL).unwrap();
    drop(open);
    assert_eq!(stopping.kept_aside, [field.state().as_path().into()]);
    let kept = fs::read(field.state().join("journal.0")).unwrap();
    assert!(kept.windows(7).any(|bytes| bytes == b"unsaved"));
}

#[test]
fn of_two_mounts_that_begin_at_once_one_saves_what_an_earlier_one_has_left_and_neither_tells_otherwise() {
    let Some(mut earlier) = mount() else { return };
    let mut open = File::create(earlier.mounted().join("a")).unwrap();
    let agent = earlier.stop_agent();
    open.write_all(b"unsaved").unwrap();
    earlier.leave(Force::Always);
    kill_process(agent, Signal::KILL).unwrap();
    drop(open);
    let begin = || earlier.again().unwrap();
    let fields = std::thread::scope(|scope| {
        let both = [scope.spawn(begin), scope.spawn(begin)];
        both.map(|field| field.join().unwrap())
    });
    let mut writes = 0;
    for field in fields {
        let replayed = field.ready.replayed.clone().unwrap();
        assert_eq!((replayed.aside, replayed.left, replayed.saving), (vec![], vec![], vec![]));
        writes += replayed.writes;
        assert_eq!(fs::read_to_string(field.mounted().join("a")).unwrap(), "unsaved");
        field.stop();
    }
    assert_eq!(writes, 1);
    assert!(!earlier.state().join("journal.0").exists());
}

#[test]
fn a_worker_can_be_seen_to_be_there_until_it_has_ended() {
    let Some(mut field) = mount() else { return };
    let is_nobody_there = |field: &Field| alone(&field.state()).unwrap().is_some();
    assert!(!is_nobody_there(&field));
    field.kill_worker();
    drop(field.connect());
    assert!(!is_nobody_there(&field));
    field.leave(Force::Never);
    // The keeper has seen its end by that of a thread: the rest of the process follows.
    let until = Instant::now() + DEADLINE;
    while !is_nobody_there(&field) {
        assert!(Instant::now() < until, "somebody stays");
        std::thread::park_timeout(Duration::from_millis(1));
    }
}

#[test]
fn a_panic_costs_one_request_and_one_worker() {
    let Some(field) = Field::with_fault(Backend::Fuse, &[], "Mkdir") else { return };
    let path = field.mounted().join("open");
    let mut open = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
    open.write_all(b"one ").unwrap();
    for number in 1..=3 {
        let made = fs::create_dir(field.mounted().join("d")).unwrap_err();
        assert_eq!(made.raw_os_error(), Some(rustix::io::Errno::IO.raw_os_error()), "{made}");
        open.write_all(b"two ").unwrap();
        assert_eq!(field.status(|status| status.worker.is_some()).restarts, number);
    }
    drop(open);
    assert_eq!(fs::read_to_string(&path).unwrap(), "one two two two ");
    assert!(!field.source().join("d").exists());
    assert!(field.log().contains("Mkdir was ordered to panic"));
    field.stop();
}
