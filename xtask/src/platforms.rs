//! Type-checks the workspace for other systems, on this one.
//!
//! Nothing is linked, so neither those systems' libraries nor their compilers are needed: only Rust's standard library for each target.
//!
//! ```text
//!  the toolchain has it ───────────────────────────────────────────────► check
//!  rustup gets it (`rustup target add`) ───────────────────────────────► check
//!  Debian has the source of the very same release ─► made once, kept ──► check
//!  Debian has other releases only ─────────────────────────────────────► skipped, said aloud, and no failure
//! ```
//!
//! rustup adds the target to the toolchain that is in use, which keeps it; where it once did not, it is not asked again. Of Debian's
//! source a copy of the toolchain is given a library: neither the toolchain itself nor apt's lists are touched by that. A release
//! is replaced there by the next one, and what was right yesterday must not fail for that: this is the only reason for which a check
//! is skipped.
//!
//! The C in dependencies is not compiled: their build scripts get a [compiler that makes empty files](STUB).

use std::cell::Cell;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::run::{self, Outcome, program};
use crate::setup;

/// What is checked for.
const TARGETS: &[&str] = &["x86_64-pc-windows-gnu", "aarch64-apple-darwin", "x86_64-unknown-freebsd"];

/// What of the workspace is a program of Linux alone, or is for who builds: all the rest is checked for all targets.
const EXCLUDED: &[&str] = &["e2e", "guest", "xtask"];

/// What only one of the targets sees. The [self-test](self_test) breaks each of them.
const BACKENDS: &[(&str, &str, &str)] = &[
    ("x86_64-pc-windows-gnu", "wire", "crates/wire/src/paths/windows.rs"),
    ("x86_64-pc-windows-gnu", "supervisor", "crates/supervisor/src/user.rs"),
    ("x86_64-pc-windows-gnu", "mount", "crates/mount/src/cloud_files/here.rs"),
    ("x86_64-pc-windows-gnu", "mount", "crates/mount/src/cloud_files/root.rs"),
    ("x86_64-pc-windows-gnu", "mount", "crates/mount/src/cloud_files/serve.rs"),
    ("x86_64-pc-windows-gnu", "mount", "crates/mount/src/cloud_files/system.rs"),
    ("x86_64-pc-windows-gnu", "mount", "crates/mount/src/cloud_files/transfer.rs"),
    ("x86_64-pc-windows-gnu", "mount", "crates/mount/src/cloud_files/watch.rs"),
    ("x86_64-pc-windows-gnu", "daemon", "crates/daemon/src/windows.rs"),
    ("x86_64-pc-windows-gnu", "daemon", "crates/daemon/src/windows/endpoint.rs"),
    ("x86_64-pc-windows-gnu", "daemon", "crates/daemon/src/windows/mounts.rs"),
    ("x86_64-pc-windows-gnu", "daemon", "crates/daemon/src/windows/session.rs"),
    ("x86_64-pc-windows-gnu", "daemon", "crates/daemon/src/windows/system.rs"),
    ("x86_64-pc-windows-gnu", "cli", "crates/cli/src/windows.rs"),
    ("x86_64-pc-windows-gnu", "cli", "crates/cli/src/windows/client.rs"),
    ("x86_64-pc-windows-gnu", "stead", "crates/stead/src/windows.rs"),
    ("aarch64-apple-darwin", "supervisor", "crates/supervisor/src/system/kqueue.rs"),
    ("aarch64-apple-darwin", "supervisor", "crates/supervisor/src/system/macos.rs"),
    ("aarch64-apple-darwin", "remote", "crates/remote/src/transport/ssh/appearance/kqueue.rs"),
    ("aarch64-apple-darwin", "machine", "crates/machine/src/system/macos.rs"),
    ("aarch64-apple-darwin", "mount", "crates/mount/src/system/bsd.rs"),
    ("aarch64-apple-darwin", "mount", "crates/mount/src/system/macos.rs"),
    ("aarch64-apple-darwin", "mount", "crates/mount/src/fuse/abi/darwin.rs"),
    ("aarch64-apple-darwin", "mount", "crates/mount/src/fuse/device/macos.rs"),
    ("aarch64-apple-darwin", "mount", "crates/mount/src/fuse/mountpoint/macos.rs"),
    ("aarch64-apple-darwin", "mount", "crates/mount/src/worker/fuse/macos.rs"),
    ("aarch64-apple-darwin", "mount", "crates/mount/src/worker/no_thread.rs"),
    ("aarch64-apple-darwin", "daemon", "crates/daemon/src/system/macos.rs"),
    ("aarch64-apple-darwin", "provider", "crates/provider/src/apple/domains.rs"),
    ("aarch64-apple-darwin", "provider", "crates/provider/src/apple/enumerator.rs"),
    ("aarch64-apple-darwin", "provider", "crates/provider/src/apple/extension.rs"),
    ("x86_64-unknown-freebsd", "supervisor", "crates/supervisor/src/system/freebsd.rs"),
    ("x86_64-unknown-freebsd", "remote", "crates/remote/src/transport/docker/lock/file.rs"),
    ("x86_64-unknown-freebsd", "machine", "crates/machine/src/system/bsd.rs"),
    ("x86_64-unknown-freebsd", "machine", "crates/machine/src/system/freebsd.rs"),
    ("x86_64-unknown-freebsd", "mount", "crates/mount/src/system/freebsd.rs"),
    ("x86_64-unknown-freebsd", "mount", "crates/mount/src/worker/no_fuse.rs"),
    ("x86_64-unknown-freebsd", "daemon", "crates/daemon/src/system/bsd.rs"),
    ("x86_64-unknown-freebsd", "daemon", "crates/daemon/src/system/freebsd.rs"),
    ("x86_64-unknown-freebsd", "cli", "crates/cli/src/system/kqueue.rs"),
    ("x86_64-unknown-freebsd", "stead", "crates/stead/src/unix.rs"),
];

/// What does not compile anywhere, and what the compiler calls it.
const TYPE_ERROR: &str = "\n/// Wrong.\npub fn wrong() -> u32 {\n    \"\"\n}\n";
const TYPE_ERROR_CODE: &str = "E0308";

/// How long rustup may take for one target. Where it reaches nobody it tries for minutes.
const RUSTUP_SECONDS_MAX: &str = "60";

/// How long it may take to end when its time is over, before it is killed.
const RUSTUP_END_SECONDS_MAX: &str = "5";

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
    if let Some(target) = targets.iter().find(|target| !TARGETS.contains(target)) {
        return Err(format!("no target `{target}`; there are {}", TARGETS.join(", ")));
    }
    let place = Place::new()?;
    let mut failed = Vec::new();
    for target in TARGETS.iter().filter(|target| targets.is_empty() || targets.contains(target)) {
        let Some(toolchain) = place.toolchain(target)? else { continue };
        if let Err(error) = toolchain.check(run::root(), target, all_packages(), &place.stub).run() {
            eprintln!("xtask: {error}");
            failed.push(*target);
        }
    }
    if failed.is_empty() { Ok(()) } else { Err(format!("does not compile for {}", failed.join(", "))) }
}

fn all_packages() -> impl Iterator<Item = &'static str> {
    let excluded = EXCLUDED.iter().flat_map(|package| ["--exclude", package]);
    ["--workspace"].into_iter().chain(excluded)
}

/// Breaks what only one target sees in a copy of the workspace, and wants an error of the compiler from each file that is broken. The
/// files of one package are broken together: what depends on it cannot be checked meanwhile. All mended, everything has to pass.
pub fn self_test() -> Outcome {
    let place = Place::new()?;
    let copy = place.directory.join("self-test");
    if copy.exists() {
        fs::remove_dir_all(&copy).map_err(|error| cannot("remove", &copy, &error))?;
    }
    make(&copy)?;
    program("cp")
        .args(["-a", "Cargo.toml", "Cargo.lock", "clippy.toml", "crates", "xtask"])
        .arg(&copy)
        .run()?;
    let mut tried = 0;
    for target in TARGETS {
        let Some(toolchain) = place.toolchain(target)? else { continue };
        for package in packages_of(target) {
            let files = files_of(target, package);
            let texts = files.iter().map(|file| break_file(&copy.join(file))).collect::<Outcome<Vec<_>>>()?;
            let report = toolchain
                .check(&copy, target, ["--message-format", "short", "-p", package], &place.stub)
                .failure()?
                .ok_or_else(|| format!("type errors in {} are not seen for {target}", files.join(", ")))?;
            for file in &files {
                if !reports(&report, file) {
                    return Err(format!("a type error in {file} is not seen for {target}, but:\n{report}"));
                }
                println!("seen for {target}: a type error in {file}");
            }
            for (file, text) in files.iter().zip(&texts) {
                write(&copy.join(file), text)?;
            }
            tried += files.len();
        }
        toolchain.check(&copy, target, all_packages(), &place.stub).run()?;
    }
    fs::remove_dir_all(&copy).map_err(|error| cannot("remove", &copy, &error))?;
    match tried {
        0 => Err("nothing was tried: every target was skipped".to_owned()),
        _ => Ok(()),
    }
}

/// The packages with something that only this target sees, each once, in the order in which they are listed: what others depend on
/// comes before them, so that nothing is checked twice.
fn packages_of(target: &str) -> Vec<&'static str> {
    let mut packages: Vec<&str> =
        BACKENDS.iter().filter(|(of, ..)| *of == target).map(|(_, package, _)| *package).collect();
    packages.dedup();
    packages
}

fn files_of(target: &str, package: &str) -> Vec<&'static str> {
    let is_of = |(of, has, _): &&(&str, &str, &str)| (*of, *has) == (target, package);
    BACKENDS.iter().filter(is_of).map(|(.., file)| *file).collect()
}

/// Puts the type error at its end. What it was before is returned.
fn break_file(path: &Path) -> Outcome<String> {
    let text = fs::read_to_string(path).map_err(|error| cannot("read", path, &error))?;
    write(path, &(text.clone() + TYPE_ERROR))?;
    Ok(text)
}

/// Whether the compiler's report has the type error of this very file: a failure for any other reason shows nothing.
fn reports(report: &str, file: &str) -> bool {
    let at = format!("{file}:");
    report.lines().any(|line| line.starts_with(&at) && line.contains(&format!("error[{TYPE_ERROR_CODE}]")))
}

/// Where what is needed is kept.
struct Place {
    directory: PathBuf,
    stub: PathBuf,
    rustup: Rustup,
}

impl Place {
    fn new() -> Outcome<Place> {
        let directory = setup::tools().join("platforms");
        let stub = directory.join("stub");
        make(&directory)?;
        write(&stub, STUB)?;
        fs::set_permissions(&stub, fs::Permissions::from_mode(0o755))
            .map_err(|error| cannot("write", &stub, &error))?;
        Ok(Place { directory, stub, rustup: Rustup::default() })
    }

    /// A toolchain that knows the target; none where there is no library for it any more, which is said.
    fn toolchain(&self, target: &str) -> Outcome<Option<Toolchain>> {
        match Toolchain::with(target, &self.directory, &self.rustup)? {
            Found::Toolchain(toolchain) => Ok(Some(toolchain)),
            Found::Replaced(why) => {
                println!("SKIPPED: {target} is not checked: {why}");
                Ok(None)
            }
        }
    }
}

/// What has been found for a target.
enum Found {
    Toolchain(Toolchain),
    /// The source of this release is not to be had any more.
    Replaced(String),
}

/// Where a toolchain is.
struct Toolchain {
    root: PathBuf,
}

impl Toolchain {
    /// The toolchain in use if it knows the target, else a copy that does.
    fn with(target: &str, place: &Path, rustup: &Rustup) -> Outcome<Found> {
        let sysroot = PathBuf::from(program("rustc").args(["--print", "sysroot"]).output()?.trim());
        if library(&sysroot, target).is_dir() {
            return Ok(Found::Toolchain(Toolchain { root: sysroot }));
        }
        let release = release()?;
        let place = place.join(&release);
        let copy = place.join("toolchain");
        if !library(&copy, target).is_dir() {
            if rustup.adds(target, rustup_add) && library(&sysroot, target).is_dir() {
                return Ok(Found::Toolchain(Toolchain { root: sysroot }));
            }
            let source = match source(&release, &place)? {
                Source::Unpacked(source) => source,
                Source::Replaced(why) => return Ok(Found::Replaced(why)),
            };
            copy_toolchain(&sysroot, &copy)?;
            build_library(&source, &copy, target)?;
        }
        Ok(Found::Toolchain(Toolchain { root: copy }))
    }

    fn check<'a>(
        &self,
        workspace: impl AsRef<Path>,
        target: &str,
        packages: impl IntoIterator<Item = &'a str>,
        stub: &Path,
    ) -> run::Program {
        self.cargo()
            .args(["clippy", "--quiet", "--target", target])
            .args(packages)
            .args(["--", "-D", "warnings"])
            .cwd(workspace.as_ref())
            .env("CARGO_TARGET_DIR", run::target().join("platforms"))
            .env("TARGET_CC", stub)
            .env("TARGET_AR", stub)
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

/// What gets the library of a target, as long as it has not failed: where there is no rustup, or it reaches nobody, there is
/// another way.
#[derive(Default)]
struct Rustup {
    has_failed: Cell<bool>,
}

impl Rustup {
    fn adds(&self, target: &str, add: impl FnOnce(&str) -> Outcome) -> bool {
        if self.has_failed.get() {
            return false;
        }
        let added = add(target);
        if let Err(error) = &added {
            eprintln!("xtask: {error}; Debian's source is used");
            self.has_failed.set(true);
        }
        added.is_ok()
    }
}

fn rustup_add(target: &str) -> Outcome {
    program("timeout")
        .args(["--kill-after", RUSTUP_END_SECONDS_MAX, RUSTUP_SECONDS_MAX, "rustup", "target", "add", target])
        .run()
}

/// What Debian has of a release.
enum Source {
    Unpacked(PathBuf),
    /// Other releases only.
    Replaced(String),
}

/// The source of the standard library of this release, unpacked from Debian's package.
fn source(release: &str, place: &Path) -> Outcome<Source> {
    let library = place.join("library");
    if library.is_dir() {
        return Ok(Source::Unpacked(library));
    }
    let suite = std::env::var(SUITE_VARIABLE).unwrap_or_else(|_| SUITE.to_owned());
    let apt = Apt::new(&place.join("apt"), &suite)?;
    apt.program("apt-get", &["-q", "update"]).run()?;
    let versions = apt.program("apt-cache", &["madison", "rust-src"]).output()?;
    let versions: Vec<&str> =
        versions.lines().filter_map(|line| line.split('|').nth(1)).map(str::trim).collect();
    let Some(version) = of_release(&versions, release) else {
        if versions.is_empty() {
            return Err(format!("{suite} has no rust-src at all ({SUITE_VARIABLE} names another suite)"));
        }
        let has = versions.join(", ");
        return Ok(Source::Replaced(format!(
            "{suite} has no rust-src of {release} any more, but {has} ({SUITE_VARIABLE} names another suite)"
        )));
    };
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
    Ok(Source::Unpacked(library))
}

/// The package of this very release: another one's library is refused by the compiler.
fn of_release<'a>(versions: &[&'a str], release: &str) -> Option<&'a str> {
    versions.iter().find(|version| version.starts_with(&format!("{release}+"))).copied()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_very_release_is_taken() {
        let versions = ["1.95.1+dfsg1-1", "1.95.0+dfsg1-2~bpo13+1", "1.9.0+dfsg1-1"];
        assert_eq!(of_release(&versions, "1.95.0"), Some("1.95.0+dfsg1-2~bpo13+1"));
        assert_eq!(of_release(&versions, "1.95"), None);
        assert_eq!(of_release(&versions, "1.94.0"), None);
        assert_eq!(of_release(&[], "1.95.0"), None);
    }

    #[test]
    fn rustup_is_not_asked_again_once_it_has_failed() {
        let (rustup, asked) = (Rustup::default(), Cell::new(0));
        let add = |outcome: Outcome| {
            rustup.adds("target", |_| {
                asked.set(asked.get() + 1);
                outcome
            })
        };
        assert!(add(Ok(())) && add(Ok(())));
        assert!(!add(Err("it reaches nobody".to_owned())) && !add(Ok(())));
        assert_eq!(asked.get(), 3);
    }

    #[test]
    fn only_the_type_error_of_the_very_file_is_what_was_looked_for() {
        let report = "crates/a/src/b.rs:3:5: error[E0308]: mismatched types: expected `u32`, found `&str`\n\
                      crates/a/src/c.rs:9:1: error[E0412]: cannot find type `X` in this scope\n\
                      error: could not compile `a` (lib) due to 2 previous errors\n";
        assert!(reports(report, "crates/a/src/b.rs"));
        assert!(!reports(report, "crates/a/src/c.rs"));
        assert!(!reports(report, "a/src/b.rs"));
        assert!(!reports("crates/a/src/b.rs:3:5: warning: it calls error[E0308] its own", "crates/a/src"));
    }

    #[test]
    fn every_file_is_broken_with_its_package_once() {
        for target in TARGETS {
            let broken: Vec<&str> =
                packages_of(target).into_iter().flat_map(|package| files_of(target, package)).collect();
            let listed = BACKENDS.iter().filter(|(of, ..)| of == target).map(|(.., file)| *file);
            assert_eq!(broken, listed.collect::<Vec<_>>(), "a package's files stand together");
        }
    }

    #[test]
    fn what_the_self_test_breaks_is_there() {
        for (target, package, file) in BACKENDS {
            assert!(TARGETS.contains(target) && !EXCLUDED.contains(package), "{target} {package}");
            assert!(run::root().join(file).is_file(), "{file}");
        }
    }
}
