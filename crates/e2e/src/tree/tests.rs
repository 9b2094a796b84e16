use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;

fn sample() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("d")).unwrap();
    std::fs::write(dir.path().join("d/file"), "contents").unwrap();
    std::fs::hard_link(dir.path().join("d/file"), dir.path().join("link")).unwrap();
    symlink("d/file", dir.path().join("symlink")).unwrap();
    dir
}

#[test]
fn equal_trees_have_no_differences() {
    let (left, right) = (sample(), sample());
    assert_same(left.path(), right.path(), Compare::CONTENTS);
    assert_same(left.path(), left.path(), Compare::ALL);
}

#[test]
fn every_kind_of_difference_is_found() {
    type Change = fn(&Path);
    let changes: [(&str, Change); 6] = [
        ("contents differ from byte 0", |dir| std::fs::write(dir.join("d/file"), "Contents").unwrap()),
        ("only on the right", |dir| std::fs::write(dir.join("d/more"), "").unwrap()),
        ("only on the left", |dir| std::fs::remove_file(dir.join("symlink")).unwrap()),
        ("mode", |dir| std::fs::set_permissions(dir.join("d"), PermissionsExt::from_mode(0o700)).unwrap()),
        ("target", |dir| {
            std::fs::remove_file(dir.join("symlink")).unwrap();
            symlink("elsewhere", dir.join("symlink")).unwrap();
        }),
        ("links", |dir| {
            std::fs::remove_file(dir.join("link")).unwrap();
            std::fs::write(dir.join("link"), "contents").unwrap();
        }),
    ];
    for (expected, change) in changes {
        let (left, right) = (sample(), sample());
        change(right.path());
        let found = differences(left.path(), right.path(), Compare::CONTENTS);
        assert!(found.iter().any(|line| line.contains(expected)), "{expected}: {found:?}");
    }
}
