//! Type-checks what other systems' backends are made of, on this one.
//!
//! Nothing is linked, so neither those systems' libraries nor their compilers are needed: only Rust's standard library for each target.
//! rustup has it (`rustup target add`). Where rustup cannot get it, a copy of the toolchain is given one, made from Debian's source
//! of the very same release; neither rustup's toolchain nor apt's lists are touched.
//!
//! The C in dependencies is not compiled: their build scripts get a [compiler that makes empty files](STUB).

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::run::{self, Outcome, program};
use crate::setup;

/// What is checked where. Everything else is of Unix, or of Linux alone, see docs/platforms.md.
const CHECKED: &[(&str, &[&str])] = &[
    ("x86_64-pc-windows-gnu", &["wire", "vfs"]),
    ("aarch64-apple-darwin", &["wire", "vfs", "provider"]),
    ("x86_64-unknown-freebsd", &["wire", "vfs"]),
];

/// Where Debian has recent releases of Rust, unless this says otherwise: which one has a given release changes with time.
const SUITE_VARIABLE: &str = "RUST_SRC_SUITE";
const SUITE: &str = "trixie-backports";

/// A compiler and an archiver that make what they are asked to make, and leave it empty.
const STUB: &str = r#"#!/bin/sh
while [ $# -gt 0 ]; do
    case "$1" in
        -o) : > "$2"; shift ;;
        *.a) : > "$1" ;;
    esac
    shift
done
"#;

/// Checks for all targets, or for these.
pub fn check(targets: &[&str]) -> Outcome {
    let known: Vec<&str> = CHECKED.iter().map(|(target, _)| *target).collect();
    if let Some(target) = targets.iter().find(|target| !known.contains(target)) {
        return Err(format!("no target `{target}`; there are {}", known.join(", ")));
    }
    let place = setup::tools().join("platforms");
    let stub = place.join("stub");
    make(&place)?;
    write(&stub, STUB)?;
    fs::set_permissions(&stub, fs::Permissions::from_mode(0o755))
        .map_err(|error| cannot("write", &stub, &error))?;
    let mut failed = Vec::new();
    for (target, packages) in
        CHECKED.iter().filter(|(target, _)| targets.is_empty() || targets.contains(target))
    {
        let toolchain = Toolchain::with(target, &place)?;
        if let Err(error) = toolchain.check(target, packages, &stub) {
            eprintln!("xtask: {error}");
            failed.push(*target);
        }
    }
    if failed.is_empty() { Ok(()) } else { Err(format!("does not compile for {}", failed.join(", "))) }
}

/// Where a toolchain is.
struct Toolchain {
    root: PathBuf,
}

impl Toolchain {
    /// The toolchain in use if it knows the target, else a copy that does.
    fn with(target: &str, place: &Path) -> Outcome<Toolchain> {
        let sysroot = PathBuf::from(program("rustc").args(["--print", "sysroot"]).output()?.trim());
        if library(&sysroot, target).is_dir() {
            return Ok(Toolchain { root: sysroot });
        }
        let release = release()?;
        let place = place.join(&release);
        let copy = place.join("toolchain");
        if !library(&copy, target).is_dir() {
            let source = source(&release, &place).map_err(|error| {
                format!("{error}; rustup may have the standard library: rustup target add {target}")
            })?;
            copy_toolchain(&sysroot, &copy)?;
            build_library(&source, &copy, target)?;
        }
        Ok(Toolchain { root: copy })
    }

    fn check(&self, target: &str, packages: &[&str], stub: &Path) -> Outcome {
        let packages = packages.iter().flat_map(|package| ["-p", package]);
        self.cargo()
            .args(["clippy", "--quiet", "--target", target])
            .args(packages)
            .args(["--", "-D", "warnings"])
            .env("CARGO_TARGET_DIR", run::target().join("platforms"))
            .env("TARGET_CC", stub)
            .env("TARGET_AR", stub)
            .run()
    }

    /// Its cargo, which finds its other programs and its libraries before all others: a compiler takes for its own whatever is beside
    /// the library that it has loaded, and whoever runs this has put another toolchain's into its environment.
    fn cargo(&self) -> run::Program {
        let programs = self.root.join("bin");
        let path = std::env::var_os("PATH").unwrap_or_default();
        let all = [programs.clone()].into_iter().chain(std::env::split_paths(&path));
        let path = std::env::join_paths(all).unwrap_or(path);
        program(programs.join("cargo"))
            .env("PATH", path)
            .env("CARGO", programs.join("cargo"))
            .env("RUSTC", programs.join("rustc"))
            .env("LD_LIBRARY_PATH", self.root.join("lib"))
    }
}

fn library(sysroot: &Path, target: &str) -> PathBuf {
    sysroot.join("lib/rustlib").join(target).join("lib")
}

fn release() -> Outcome<String> {
    let version = program("rustc").arg("--version").output()?;
    let release = version.split_whitespace().nth(1);
    Ok(release.ok_or_else(|| format!("`rustc --version` says {version:?}"))?.to_owned())
}

/// The source of the standard library of this release, unpacked from Debian's package.
fn source(release: &str, place: &Path) -> Outcome<PathBuf> {
    let library = place.join("library");
    if library.is_dir() {
        return Ok(library);
    }
    let suite = std::env::var(SUITE_VARIABLE).unwrap_or_else(|_| SUITE.to_owned());
    let apt = Apt::new(&place.join("apt"), &suite)?;
    apt.program("apt-get", &["-q", "update"]).run()?;
    let versions = apt.program("apt-cache", &["madison", "rust-src"]).output()?;
    let version = versions.lines().filter_map(|line| line.split('|').nth(1)).map(str::trim);
    let version = version.into_iter().find(|version| version.starts_with(&format!("{release}+")));
    let version = version.ok_or_else(|| {
        format!("{suite} has no rust-src of {release} ({SUITE_VARIABLE} names another suite)")
    })?;
    apt.program("apt-get", &["-q", "download", &format!("rust-src={version}")]).cwd(&apt.place).run()?;
    let package = fs::read_dir(&apt.place).map_err(|error| cannot("read", &apt.place, &error))?;
    let package = package
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|kind| kind == "deb"));
    let package = package.ok_or("apt has downloaded nothing")?;
    let unpacked = place.join("unpacked");
    make(&unpacked)?;
    let from = format!("./usr/src/rustc-{release}/library");
    program("sh")
        .args(["-c", r#"dpkg --fsys-tarfile "$1" | tar -x -C "$2" "$3""#, "sh"])
        .args([package.as_os_str(), unpacked.as_os_str(), from.as_ref()])
        .run()?;
    let from = unpacked.join(from);
    fs::rename(&from, &library).map_err(|error| cannot("move", &from, &error))?;
    for done in [&unpacked, &apt.place] {
        fs::remove_dir_all(done).map_err(|error| cannot("remove", done, &error))?;
    }
    Ok(library)
}

/// apt with lists of its own, for a suite that need not be among this machine's.
struct Apt {
    place: PathBuf,
}

impl Apt {
    fn new(place: &Path, suite: &str) -> Outcome<Apt> {
        for directory in ["state/lists/partial", "cache/archives/partial", "empty"] {
            make(&place.join(directory))?;
        }
        let targets = program("apt-get").args(["indextargets", "--format", "$(REPO_URI)"]).output()?;
        let mirror = targets.lines().find(|mirror| mirror.trim_end_matches('/').ends_with("/debian"));
        let mirror = mirror.ok_or("apt has no mirror of Debian")?;
        let keys = "/usr/share/keyrings/debian-archive-keyring.gpg";
        write(&place.join("sources.list"), &format!("deb [signed-by={keys}] {mirror} {suite} main\n"))?;
        write(&place.join("status"), "")?;
        let at = place.display();
        let config = format!(
            "Dir::Etc::sourcelist \"{at}/sources.list\";\nDir::Etc::sourceparts \"{at}/empty\";\n\
             Dir::Etc::preferences \"/dev/null\";\nDir::Etc::preferencesparts \"{at}/empty\";\n\
             Dir::State \"{at}/state\";\nDir::State::status \"{at}/status\";\nDir::Cache \"{at}/cache\";\n\
             Acquire::Languages \"none\";\nAcquire::Retries \"3\";\nAPT::Sandbox::User \"\";\n"
        );
        write(&place.join("apt.conf"), &config)?;
        Ok(Apt { place: place.to_owned() })
    }

    fn program(&self, name: &str, args: &[&str]) -> run::Program {
        program(name).arg("-c").arg(self.place.join("apt.conf")).args(args)
    }
}

/// A copy of a toolchain, by links where both are on one disk.
fn copy_toolchain(sysroot: &Path, copy: &Path) -> Outcome {
    if copy.join("bin/rustc").is_file() {
        return Ok(());
    }
    let new = copy.with_extension("new");
    let copied_with = |how: &str| -> Outcome {
        if new.exists() {
            fs::remove_dir_all(&new).map_err(|error| cannot("remove", &new, &error))?;
        }
        program("cp").arg(how).arg(sysroot).arg(&new).run()
    };
    copied_with("-al").or_else(|_| copied_with("-a"))?;
    fs::rename(&new, copy).map_err(|error| cannot("move", &new, &error))
}

/// Has a toolchain know a target: what its standard library declares, and no code.
fn build_library(source: &Path, toolchain: &Path, target: &str) -> Outcome {
    let built = toolchain.with_file_name("built");
    Toolchain { root: toolchain.to_owned() }
        .cargo()
        .args(["check", "--quiet", "--locked", "--release", "--features", "panic-unwind,backtrace"])
        .args(["--target", target, "--manifest-path"])
        .arg(source.join("sysroot/Cargo.toml"))
        .env("RUSTC_BOOTSTRAP", "1")
        .env("RUSTFLAGS", "-Zforce-unstable-if-unmarked")
        .env("CARGO_TARGET_DIR", &built)
        .run()?;
    let (library, parts) = (library(toolchain, target), built.join(target).join("release/deps"));
    let new = library.with_extension("new");
    make(&new)?;
    for part in fs::read_dir(&parts).map_err(|error| cannot("read", &parts, &error))?.flatten() {
        let name = part.file_name().to_string_lossy().into_owned();
        if name.ends_with(".rmeta") && !name.starts_with("libsysroot-") {
            fs::copy(part.path(), new.join(&name)).map_err(|error| cannot("copy", &part.path(), &error))?;
        }
    }
    fs::rename(&new, &library).map_err(|error| cannot("move", &new, &error))?;
    fs::remove_dir_all(&built).map_err(|error| cannot("remove", &built, &error))
}

fn make(directory: &Path) -> Outcome {
    fs::create_dir_all(directory).map_err(|error| cannot("make", directory, &error))
}

fn write(path: &Path, text: &str) -> Outcome {
    fs::write(path, text).map_err(|error| cannot("write", path, &error))
}

fn cannot(what: &str, path: &Path, error: &std::io::Error) -> String {
    format!("could not {what} {}: {error}", path.display())
}
