//! What the machine is asked, counted: a regression fails here without a clock.
//!
//! The machine is 20 ms away, where a mount does everything it can to ask less. Counted are requests of programs that had
//! to wait for something (`requests` less `hits` of the status), and requests that went to the machine, whoever waited for
//! them. Lower a limit when the figure beside it has become lower for good; the test prints both.

use std::fs::{File, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use e2e::faults::field::Field;
use e2e::{Kind, Program, eventually};

use crate::alone;

const RTT: Duration = Duration::from_millis(20);

/// A tree is this many directories with this many files each.
const DIRECTORIES: usize = 5;
const FILES: usize = 20;
const ALL: u64 = (DIRECTORIES * FILES) as u64;

/// What signs of life, probes and the status itself may add to a count: there are some each few seconds.
const SPARE: u64 = 6;

/// How long what nobody waits for may take.
const SETTLED_WITHIN: Duration = Duration::from_secs(10);

/// What `work` may cost on a mount that knows nothing but what `first` has taught it.
struct Limit {
    what: &'static str,
    first: Option<fn(&Path)>,
    work: fn(&Path),
    waits_max: u64,
    requests_max: u64,
}

/// Limits are for the whole tree of [`ALL`] files.
const LIMITS: &[Limit] = &[
    Limit { what: "cold find with attributes", first: None, work: find, waits_max: 8, requests_max: 8 },
    Limit { what: "warm find with attributes", first: Some(find), work: find, waits_max: 7, requests_max: 7 },
    Limit { what: "warm stat", first: Some(find), work: stat, waits_max: 0, requests_max: 0 },
    Limit {
        what: "an absent name in a known directory",
        first: Some(find),
        work: absent,
        waits_max: 0,
        requests_max: 0,
    },
    Limit {
        what: "cold read of small files",
        first: None,
        work: read,
        waits_max: ALL + 25,
        requests_max: 2 * ALL + 25,
    },
    Limit {
        what: "open and read of known files",
        first: Some(read),
        work: read,
        waits_max: 0,
        requests_max: 0,
    },
    Limit {
        what: "create, write and close",
        first: None,
        work: create,
        waits_max: 2 * ALL + 25,
        requests_max: 3 * ALL + 25,
    },
    Limit {
        what: "rewrite of known files",
        first: Some(read),
        work: rewrite,
        waits_max: 3 * ALL,
        requests_max: 4 * ALL,
    },
    Limit { what: "change of modes", first: Some(find), work: set_modes, waits_max: ALL, requests_max: ALL },
    Limit {
        what: "rename",
        first: Some(find),
        work: rename,
        waits_max: 2 * ALL - 10,
        requests_max: 2 * ALL - 10,
    },
    Limit { what: "unlink", first: Some(find), work: unlink, waits_max: ALL, requests_max: ALL },
];

fn files(root: &Path) -> impl Iterator<Item = PathBuf> {
    let root = root.to_owned();
    (0..DIRECTORIES).flat_map(move |directory| {
        let directory = root.join(format!("d{directory}"));
        (0..FILES).map(move |file| directory.join(format!("f{file}")))
    })
}

fn make_tree(root: &Path) {
    for file in files(root) {
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, "a few bytes").unwrap();
    }
}

fn find(root: &Path) {
    let listed = Program::new("find").arg(root).args(["-type", "f", "-printf", "%s\\n"]).ok();
    assert_eq!(listed.text().lines().count() as u64, ALL);
}

fn stat(root: &Path) {
    files(root).for_each(|file| assert_eq!(file.symlink_metadata().unwrap().len(), 11));
}

fn absent(root: &Path) {
    files(root).for_each(|file| assert!(file.with_extension("none").symlink_metadata().is_err()));
}

fn read(root: &Path) {
    files(root).for_each(|file| assert_eq!(std::fs::read(file).unwrap(), b"a few bytes"));
}

fn create(root: &Path) {
    for file in files(root) {
        File::create_new(file.with_extension("new")).unwrap().write_all(b"new").unwrap();
    }
}

fn rewrite(root: &Path) {
    files(root).for_each(|file| std::fs::write(file, "other bytes").unwrap());
}

fn set_modes(root: &Path) {
    files(root).for_each(|file| std::fs::set_permissions(file, Permissions::from_mode(0o600)).unwrap());
}

fn rename(root: &Path) {
    files(root).for_each(|file| std::fs::rename(&file, file.with_extension("moved")).unwrap());
}

fn unlink(root: &Path) {
    files(root).for_each(|file| std::fs::remove_file(file).unwrap());
}

/// Requests of programs that waited, and requests to the machine, so far; once there is nothing under way.
fn counts(field: &Field) -> (u64, u64) {
    let mut counted = (0, 0);
    eventually(SETTLED_WITHIN, "nothing is on its way to the machine", || {
        let status = field.status().unwrap();
        let counter = |name: &str| status["counters"][name].as_u64().unwrap();
        let now = (counter("requests") - counter("hits"), counter("round_trips"));
        let is_settled = status["journal"]["operations"] == 0 && now == counted;
        counted = now;
        is_settled
    });
    counted
}

fn measure(limit: &Limit) -> (u64, u64) {
    let field = Field::at_distance(Kind::Ssh, RTT, &[]);
    // What is made now is told of; a directory that nobody has looked at is not.
    make_tree(&field.far.join("tree"));
    let root = field.dir.join("tree");
    if let Some(first) = limit.first {
        first(&root);
    }
    let before = counts(&field);
    (limit.work)(&root);
    let after = counts(&field);
    field.leaves_nothing();
    (after.0 - before.0, after.1 - before.1)
}

#[test]
fn no_operation_asks_the_machine_more_than_it_may() {
    let _alone = alone();
    let mut broken = Vec::new();
    for limit in LIMITS {
        let (waits, requests) = measure(limit);
        let Limit { what, waits_max, requests_max, .. } = limit;
        let said = format!(
            "{what}: {waits} waits of at most {waits_max}, {requests} requests of at most {requests_max}"
        );
        println!("{said}");
        if waits > waits_max + SPARE || requests > requests_max + SPARE {
            broken.push(said);
        }
    }
    assert!(broken.is_empty(), "for {ALL} files, and {SPARE} more:\n{}", broken.join("\n"));
}
