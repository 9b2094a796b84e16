use std::path::Path;

use e2e::tree::{Compare, assert_same};
use e2e::{Program, suites};

/// rsync takes times of the same second for the same, and so leaves some as they are.
const COMPARE: Compare = Compare { times: false, ..Compare::ALL };

suites! {
    fn a_second_rsync_transfers_nothing(p) {
        let local = tempfile::tempdir().unwrap();
        for number in 0..300 {
            let dir = local.path().join(format!("d{}", number % 20));
            std::fs::create_dir_all(&dir).unwrap();
            std::fs::write(dir.join(format!("f{number}")), format!("{number}\n").repeat(number * 20)).unwrap();
        }
        assert!(!rsync("-a", local.path(), &p.path("copy")).is_empty());
        assert_same(local.path(), &p.path("copy"), COMPARE);
        assert_eq!(rsync("-a", local.path(), &p.path("copy")), "", "by size and time");
        assert_eq!(rsync("-ac", local.path(), &p.path("copy")), "", "by contents");
        std::fs::write(local.path().join("d3/f3"), "changed").unwrap();
        let changed = rsync("-a", local.path(), &p.path("copy"));
        assert!(changed.contains("d3/f3") && !changed.contains("d4/"), "{changed}");
        assert_same(local.path(), &p.far_path("copy"), COMPARE);
        let back = tempfile::tempdir().unwrap();
        rsync("-a", &p.path("copy"), &back.path().join("copy"));
        assert_eq!(rsync("-ac", local.path(), &back.path().join("copy")), "");
    }
}

/// Runs rsync and returns what it says it changed.
fn rsync(how: &str, from: &Path, to: &Path) -> String {
    let mut source = from.as_os_str().to_owned();
    source.push("/");
    Program::new("rsync").args([how, "--delete", "--out-format=%i %n"]).arg(source).arg(to).ok().text()
}
