use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use e2e::tree::{Compare, assert_same};
use e2e::{Program, suites};

suites! {
    fn an_unpacked_archive_is_what_was_packed(p) {
        let local = tempfile::tempdir().unwrap();
        let tree = local.path().join("tree");
        make_tree(&tree);
        let archive = local.path().join("tree.tar");
        let options = ["--xattrs", "--acls", "--sparse", "--format=posix"];
        Program::new("tar").args(options).arg("-cf").arg(&archive).arg("-C").arg(local.path()).arg("tree").ok();

        Program::new("tar").args(options).arg("-xpf").arg(&archive).arg("-C").arg(&p.dir).ok();
        Program::new("diff").args(["-r", "--no-dereference", "--exclude=fifo"]).arg(&tree).arg(p.path("tree")).ok();
        assert_same(&tree, &p.path("tree"), Compare::ALL);
        assert_same(&tree, &p.far_path("tree"), Compare::ALL);

        let back = local.path().join("back.tar");
        Program::new("tar").args(options).arg("-cf").arg(&back).arg("-C").arg(&p.dir).arg("tree").ok();
        std::fs::create_dir(local.path().join("back")).unwrap();
        Program::new("tar").args(options).arg("-xpf").arg(&back).arg("-C").arg(local.path().join("back")).ok();
        assert_same(&tree, &local.path().join("back/tree"), Compare::ALL);
    }

    fn a_copied_tree_is_the_same_tree(p) {
        let local = tempfile::tempdir().unwrap();
        let tree = local.path().join("tree");
        make_tree(&tree);
        Program::new("cp").arg("-a").arg(&tree).arg(p.path("copy")).ok();
        assert_same(&tree, &p.path("copy"), Compare::ALL);
        Program::new("cp").arg("-a").arg(p.path("copy")).arg(p.path("copy of the copy")).ok();
        assert_same(&tree, &p.far_path("copy of the copy"), Compare::ALL);
        Program::new("rm").arg("-rf").arg(p.path("copy")).arg(p.path("copy of the copy")).ok();
        assert_eq!(std::fs::read_dir(&p.far).unwrap().count(), 0);
    }
}

/// A tree with one of everything that a plain user can make.
fn make_tree(tree: &Path) {
    for number in 0..200 {
        let dir = tree.join(format!("dir{}/sub{}", number % 7, number % 3));
        std::fs::create_dir_all(&dir).unwrap();
        let contents = format!("contents of {number}\n").repeat(number * 10);
        std::fs::write(dir.join(format!("file {number}")), contents).unwrap();
    }
    std::fs::write(tree.join("empty"), "").unwrap();
    std::fs::write(tree.join("run.sh"), "#!/bin/sh\n").unwrap();
    std::fs::set_permissions(tree.join("run.sh"), std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::write(tree.join("read-only"), "x").unwrap();
    std::fs::set_permissions(tree.join("read-only"), std::fs::Permissions::from_mode(0o444)).unwrap();
    std::fs::hard_link(tree.join("run.sh"), tree.join("dir0/hard link")).unwrap();
    symlink("../run.sh", tree.join("dir1/symlink")).unwrap();
    symlink("nowhere at all", tree.join("dangling")).unwrap();
    let fifo = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, tree.join("fifo"), fifo, rustix::fs::Mode::RWXU, 0).unwrap();
    let sparse = std::fs::File::create(tree.join("sparse")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"end", 5 << 20).unwrap();
    let no_flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(tree.join("run.sh"), "user.note", b"kept", no_flags).unwrap();
    std::fs::create_dir(tree.join("empty dir")).unwrap();
    let past = std::fs::FileTimes::new()
        .set_modified(std::time::UNIX_EPOCH + std::time::Duration::new(1_234_567_890, 987_654_321));
    std::fs::File::options().write(true).open(tree.join("empty")).unwrap().set_times(past).unwrap();
}
