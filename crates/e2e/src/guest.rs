//! What microVMs boot from in tests: a root file system with busybox and nothing else, and Debian's cloud kernel.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::Stead;
use crate::program::{Finished, Program};

/// How long a guest may take to boot or to end, emulated, on a computer that has other things to do. The daemon gives it 300 s
/// to boot, and says why it did not.
pub const GUEST_DEADLINE: Duration = Duration::from_secs(360);

/// The memory of the guests that are made here.
pub const MEMORY: &str = "192M";

/// The names under which busybox is there.
const APPLETS: &[&str] = &[
    "cat", "chmod", "cp", "echo", "head", "hostname", "kill", "ln", "ls", "mkdir", "mv", "poweroff", "ps",
    "pwd", "readlink", "rm", "rmdir", "sh", "sleep", "stat", "stty", "sync", "tar", "test", "true", "uname",
];

/// The kernel that `cargo xtask test --only setup` has unpacked.
pub fn kernel() -> PathBuf {
    let own = std::env::current_exe().expect("a test knows where it is");
    let beside = || own.ancestors().map(|dir| dir.join("tools")).find(|tools| tools.is_dir());
    let tools = std::env::var_os("STEAD_TOOLS").map(PathBuf::from).or_else(beside);
    let boot = tools.expect("STEAD_TOOLS is set by cargo xtask test").join("kernel/boot");
    let entries = std::fs::read_dir(&boot);
    let entries = entries.unwrap_or_else(|error| panic!("{}: {error}; run the setup", boot.display()));
    let mut kernels = entries.flatten().map(|entry| entry.path());
    let is_kernel =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz"));
    kernels.find(is_kernel).unwrap_or_else(|| panic!("there is no kernel in {}", boot.display()))
}

/// A root file system in this directory.
pub fn make_root(root: &Path) {
    for name in ["bin", "etc", "root", "tmp"] {
        std::fs::create_dir_all(root.join(name)).expect("making a directory of a root file system");
    }
    let busybox = ["/bin/busybox", "/usr/bin/busybox"].map(Path::new).into_iter().find(|path| path.is_file());
    let busybox = busybox.expect("busybox-static is installed by the setup");
    std::fs::copy(busybox, root.join("bin/busybox")).expect("copying busybox");
    for applet in APPLETS {
        symlink("busybox", root.join("bin").join(applet)).expect("naming an applet");
    }
    std::fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n").expect("writing users");
}

/// Puts this computer's git into it, with the libraries that it is linked to.
fn add_git(root: &Path) {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let git = std::env::split_paths(&path).map(|dir| dir.join("git")).find(|path| path.is_file());
    let git = git.expect("git is installed");
    std::fs::copy(&git, root.join("bin/git")).expect("copying git");
    let linked = Program::new("ldd").arg(&git).ok().text();
    for library in linked.split_whitespace().filter(|word| word.starts_with('/')) {
        let place = root.join(&library[1..]);
        std::fs::create_dir_all(place.parent().expect("below the root")).expect("making a directory");
        std::fs::copy(library, place).expect("copying a library");
    }
}

impl Stead {
    /// Makes the image `tiny` with git in it.
    #[track_caller]
    pub fn make_image_with_git(&self) {
        let root = self.root().join("root");
        make_root(&root);
        add_git(&root);
        self.build_image(&root);
    }

    #[track_caller]
    fn build_image(&self, root: &Path) {
        let build = self.program().args(["image", "build", "tiny", "--root"]).arg(root);
        build.arg("--kernel").arg(kernel()).deadline(GUEST_DEADLINE).ok();
    }

    /// Makes the image `tiny`.
    #[track_caller]
    pub fn make_image(&self) {
        let root = self.root().join("root");
        make_root(&root);
        self.build_image(&root);
    }

    /// Makes the image, and of it the vm `dev`, and starts that.
    #[track_caller]
    pub fn boot(&self) {
        self.make_image();
        self.ok(&["vm", "create", "dev", "--image", "tiny", "--memory", MEMORY]);
        self.vm(&["start", "dev"]);
    }

    /// `stead vm ARGS`, which may take as long as a guest does.
    #[track_caller]
    pub fn vm(&self, args: &[&str]) -> Finished {
        self.program().arg("vm").args(args).deadline(GUEST_DEADLINE).ok()
    }

    /// What `stead vm show dev` says.
    #[track_caller]
    pub fn dev(&self) -> serde_json::Value {
        self.json(&["vm", "show", "dev"])
    }
}
