//! What the tests need and a machine with only Rust and a C compiler lacks.

use std::path::{Path, PathBuf};

use crate::run::{self, Outcome, cargo, program};

/// A file by which a package is known to be there, and the Debian package that brings it.
const NEEDED: &[(&str, &str)] = &[
    ("ssh", "openssh-client"),
    ("ssh-keygen", "openssh-client"),
    ("sshd", "openssh-server"),
    ("fusermount3", "fuse3"),
    ("sshfs", "sshfs"),
    ("rclone", "rclone"),
    ("fio", "fio"),
    ("sqlite3", "sqlite3"),
    ("rsync", "rsync"),
    ("rg", "ripgrep"),
    ("git", "git"),
    ("setfacl", "acl"),
    ("setpriv", "util-linux"),
    ("systemd-socket-activate", "systemd"),
    ("flock", "util-linux"),
    ("perl", "perl"),
    ("tmux", "tmux"),
    ("vim", "vim"),
    ("htop", "htop"),
    ("less", "less"),
    ("dockerd", "docker.io"),
    ("podman", "podman"),
    ("runc", "runc"),
    ("busybox", "busybox-static"),
    ("nfs-ls", "libnfs-utils"),
    ("wrk", "wrk"),
    ("/usr/include/nfsc/libnfs.h", "libnfs-dev"),
    ("mke2fs", "e2fsprogs"),
    ("qemu-img", "qemu-utils"),
    ("qemu-system-x86_64", QEMU),
    ("ip", "iproute2"),
    ("docker-registry", "docker-registry"),
    ("skopeo", "skopeo"),
];

/// What runs microVMs. It has to be of the same release as the other parts of QEMU that are there.
const QEMU: &str = "qemu-system-x86";

/// The package that depends on the kernel which microVMs are tested with. That one is unpacked, and not installed.
const KERNEL: &str = "linux-image-cloud-amd64";

/// Suites that no one here wrote, at the versions whose results were recorded on a local disk.
const SUITES: &[(&str, &str)] = &[("pjdfstest", "0.2.2"), ("fsx", "0.3.2")];

/// Installs what is missing. Without root, fails with the command that does it.
pub fn setup() -> Outcome {
    let missing = missing_packages();
    if !missing.is_empty() {
        install(&missing)?;
    }
    if !Path::new("/dev/fuse").exists() {
        eprintln!(
            "xtask: /dev/fuse is not there: load the module (`modprobe fuse`) or give it to the container"
        );
    }
    for (name, version) in SUITES {
        tool(name, version)?;
    }
    kernel()
}

/// Unpacks the kernel for microVMs below [`tools`], if there is none.
fn kernel() -> Outcome {
    let (place, new) = (tools().join("kernel"), tools().join("kernel.new"));
    if place.is_dir() {
        return Ok(());
    }
    let cannot = |error| format!("could not make {}: {error}", new.display());
    if new.exists() {
        std::fs::remove_dir_all(&new).map_err(cannot)?;
    }
    std::fs::create_dir_all(&new).map_err(cannot)?;
    if download_kernel(&new).is_err() {
        // A list that is not fresh names files that the mirror no longer has.
        apt().arg("update").run()?;
        download_kernel(&new)?;
    }
    let files = std::fs::read_dir(&new).map_err(cannot)?.flatten().map(|entry| entry.path());
    let archive = files.into_iter().find(|path| path.extension().is_some_and(|kind| kind == "deb"));
    let archive = archive.ok_or_else(|| format!("apt has downloaded nothing to {}", new.display()))?;
    program("dpkg").arg("-x").args([&archive, &new]).run()?;
    std::fs::remove_file(&archive).and_then(|()| std::fs::rename(&new, &place)).map_err(cannot)
}

fn download_kernel(to: &Path) -> Outcome {
    // What it calls a dependency is a word of the user's language.
    let depends =
        program("apt-cache").args(["depends", "--important", KERNEL]).env("LC_ALL", "C").output()?;
    let package = depends.lines().find_map(|line| line.trim().strip_prefix("Depends: linux-image-"));
    let package = package.ok_or_else(|| format!("apt does not know a kernel that `{KERNEL}` brings"))?;
    apt().args(["download", &format!("linux-image-{package}")]).cwd(to).run()
}

/// Where suites and tools are installed.
pub fn tools() -> PathBuf {
    run::target().join("tools")
}

/// The path of a program of crates.io in this very version, which is built if it is not there.
pub fn tool(name: &str, version: &str) -> Outcome<PathBuf> {
    let (root, path) = (tools(), tools().join("bin").join(name));
    let record = std::fs::read_to_string(root.join(".crates.toml")).unwrap_or_default();
    if record.contains(&format!("\"{name} {version} ")) && path.is_file() {
        return Ok(path);
    }
    cargo(["install", "--quiet", "--locked", "--force", "--root"])
        .arg(&root)
        .arg(format!("{name}@{version}"))
        .env("CARGO_TARGET_DIR", root.join("build"))
        .run()?;
    Ok(path)
}

fn missing_packages() -> Vec<&'static str> {
    let mut missing: Vec<&str> =
        NEEDED.iter().filter(|(file, _)| !is_there(file)).map(|(_, package)| *package).collect();
    missing.dedup();
    missing
}

fn is_there(file: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Servers live in directories that a plain user's PATH does not have.
    let dirs =
        std::env::split_paths(&path).chain(["/usr/sbin", "/sbin", "/usr/local/sbin"].map(PathBuf::from));
    Path::new(file).is_absolute() && Path::new(file).exists()
        || dirs.into_iter().any(|dir| dir.join(file).is_file())
}

fn install(packages: &[&str]) -> Outcome {
    let list = packages.join(" ");
    if !is_there("apt-get") {
        return Err(format!("missing, under their Debian names: {list}"));
    }
    let is_root = program("id").arg("-u").output()?.trim() == "0";
    if !is_root {
        return Err(format!("missing packages; run `apt-get install {list}` as root"));
    }
    let backports = if packages.contains(&QEMU) { backports_of_qemu()? } else { None };
    // A list that is not fresh names files that the mirror no longer has.
    apt().arg("update").run()?;
    let install = || apt().args(["install", "--yes", "--no-install-recommends"]);
    let Some(suite) = backports else { return install().args(packages).run() };
    install().args(["--target-release", &suite, QEMU]).run()?;
    let others: Vec<&&str> = packages.iter().filter(|package| **package != QEMU).collect();
    if others.is_empty() { Ok(()) } else { install().args(others).run() }
}

/// The suite of backports, if other parts of QEMU have come from there, with which the usual release's do not go together. It
/// is made a source, from the mirror that is in use.
fn backports_of_qemu() -> Outcome<Option<String>> {
    let installed =
        program("dpkg-query").args(["--show", "--showformat", "${Version}", "qemu-utils"]).output();
    if !installed.is_ok_and(|version| version.contains("~bpo")) {
        return Ok(None);
    }
    let sources =
        program("apt-get").args(["indextargets", "--format", "$(REPO_URI) $(CODENAME)"]).output()?;
    let is_usual = |suite: &str| !suite.contains('-') && !suite.contains('/');
    let mut sources = sources.lines().filter_map(|line| line.split_once(' '));
    let (mirror, codename) = sources
        .find(|(mirror, suite)| is_usual(suite) && mirror.trim_end_matches('/').ends_with("debian"))
        .ok_or("apt has no source of Debian's usual release")?;
    let suite = format!("{codename}-backports");
    let path = "/etc/apt/sources.list.d/stead-backports.list";
    std::fs::write(path, format!("deb {mirror} {suite} main\n"))
        .map_err(|error| format!("{path}: {error}"))?;
    Ok(Some(suite))
}

fn apt() -> run::Program {
    program("apt-get").args(["-q", "-o", "Acquire::Retries=3"]).env("DEBIAN_FRONTEND", "noninteractive")
}
