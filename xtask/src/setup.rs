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
    ("busybox", "busybox-static"),
    ("nfs-ls", "libnfs-utils"),
    ("wrk", "wrk"),
    ("/usr/include/nfsc/libnfs.h", "libnfs-dev"),
];

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
    Ok(())
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
    // A list that is not fresh names files that the mirror no longer has.
    apt().arg("update").run()?;
    apt().args(["install", "--yes", "--no-install-recommends"]).args(packages).run()
}

fn apt() -> run::Program {
    program("apt-get").args(["-q", "-o", "Acquire::Retries=3"]).env("DEBIAN_FRONTEND", "noninteractive")
}
