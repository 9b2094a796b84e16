//! What is refused is refused before anything is made, and says what mends it.

use std::fs;

use e2e::Stead;
use e2e::guest::make_root;

use super::traces;

#[test]
fn what_cannot_be_a_vm_or_an_image_is_refused_and_leaves_nothing() {
    let stead = Stead::new();
    let refused = |args: &[&str], code: i32, said: &str| {
        let answer = stead.run(args);
        assert!(answer.code() == code && answer.errors().contains(said), "{args:?}: {answer}");
    };
    refused(&["vm", "create", "dev", "--image", "none"], 3, "stead image list");
    refused(&["vm", "create", "Dev_1", "--image", "none"], 2, "cannot be the name");
    refused(&["vm", "create", "dev", "--image", "none", "--memory", "1M"], 2, "128 MiB");
    refused(&["vm", "create", "dev", "--image", "none", "--cpus", "0"], 2, "processors");
    for verb in ["start", "stop", "kill", "delete", "show", "logs"] {
        refused(&["vm", verb, "dev"], 3, "there is no vm `dev`");
    }
    refused(&["ls", "vm://dev/"], 3, "there is no vm `dev`");
    refused(&["image", "delete", "none"], 3, "stead image list");

    let root = stead.root().join("root");
    make_root(&root);
    let root = root.to_str().unwrap();
    let kernel = stead.root().join("vmlinuz-1");
    fs::write(&kernel, "no kernel").unwrap();
    let kernel = kernel.to_str().unwrap();
    let build = ["image", "build", "--root", root, "--kernel", kernel];
    let build = |more: &[&'static str]| -> Vec<&str> { build.iter().chain(more).copied().collect() };
    refused(&build(&["tiny"]), 3, "--modules");
    refused(&build(&["tiny", "--modules", "/etc"]), 2, "no kernel that can be booted");
    refused(&build(&["../tiny", "--modules", "/etc"]), 2, "cannot be the name");
    for directory in ["images", "vms"] {
        let left = fs::read_dir(stead.home().join(directory)).into_iter().flatten().count();
        assert_eq!(left, 0, "{directory}");
    }
}

#[test]
fn a_vm_whose_image_is_not_whole_is_not_started() {
    let stead = Stead::new();
    stead.make_image();
    stead.ok(&["vm", "create", "dev", "--image", "tiny"]);
    let refused = |code: i32, said: &str| {
        let answer = stead.run(&["vm", "start", "dev"]);
        assert!(answer.code() == code && answer.errors().contains(said), "{answer}");
        assert_eq!(stead.dev()["state"], "failed");
        let left: Vec<String> =
            traces(&stead).into_iter().filter(|trace| !trace.ends_with("/vms/dev")).collect();
        assert!(left.is_empty(), "{left:?}");
        assert!(!stead.home().join("vms/dev/initrd").exists());
    };
    stead.ok(&["vm", "set", "dev", "--memory", "1024G"]);
    refused(5, "stead vm set");
    stead.ok(&["vm", "set", "dev", "--memory", "192M"]);
    let kernel = stead.home().join("images/tiny/kernel");
    let file = fs::OpenOptions::new().write(true).open(&kernel).unwrap();
    file.set_len(4096).unwrap();
    refused(1, "put it back as it was");
    fs::remove_file(kernel).unwrap();
    refused(1, "put it back as it was");
    stead.ok(&["vm", "delete", "dev"]);
}

#[test]
fn a_daemon_says_how_its_vms_are_run() {
    let stead = Stead::new();
    let report = stead.run(&["doctor", "host"]);
    assert!(report.text().contains("vms"), "{report}");
    for said in ["qemu", "vm disks", "vm room", "vm memory"] {
        assert!(report.text().contains(said), "{report}");
    }
}
