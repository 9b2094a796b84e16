use std::time::Duration;

use e2e::{Kind, Place, Program, suites};

use crate::tool;

/// What is asked of a mount, of each other seed unless the run is to be long, and the little that proves the configuration on
/// the disk.
const OPERATIONS: u32 = 100_000;
const OPERATIONS_MORE: u32 = 20_000;
const OPERATIONS_ON_DISK: u32 = 10_000;

const DEADLINE: Duration = Duration::from_secs(600);

suites! {
    fn fsx_with_mappings_and_every_operation_1(p) {
        exercise(p, 1, 10, OPERATIONS);
    }

    fn fsx_with_mappings_and_every_operation_2(p) {
        exercise(p, 2_718_281, 10, if e2e::is_long() { OPERATIONS } else { OPERATIONS_MORE });
    }

    fn fsx_without_mappings(p) {
        exercise(p, 3, 0, OPERATIONS);
    }
}

fn exercise(p: &Place, seed: u32, mapping: u32, operations: u32) {
    let scratch = tempfile::tempdir().unwrap();
    let config = scratch.path().join("fsx.toml");
    std::fs::write(
        &config,
        format!(
            "[weights]\nclose_open = 1\nread = 10\nwrite = 10\nmapread = {mapping}\nmapwrite = {mapping}\n\
             invalidate = {}\ntruncate = 5\nfsync = 0.3\nfdatasync = 0.3\nposix_fallocate = 3\npunch_hole = 3\n\
             sendfile = 3\nposix_fadvise = 1\ncopy_file_range = 3\n",
            mapping / 10
        ),
    )
    .unwrap();
    let operations = if p.kind == Kind::Disk { OPERATIONS_ON_DISK } else { operations };
    let finished = Program::new(tool("fsx"))
        .arg("-f")
        .arg(&config)
        .args(["-N", &operations.to_string(), "-S", &seed.to_string(), "-P"])
        .arg(scratch.path())
        .arg(p.path("fsx"))
        .deadline(DEADLINE)
        .run();
    assert!(finished.status.success() && finished.text().contains("A-OK"), "{finished}");
    assert_eq!(std::fs::read(p.path("fsx")).unwrap(), std::fs::read(p.far_path("fsx")).unwrap());
}
