//! What can be found out about this computer by looking.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use wire::api::machine::{Check, Verdict};
use wire::worker::{CONFIG, MountConfig};

use crate::context::Context;
use crate::error::{Error, reason};
use crate::output::text::{one_line, quoted};
use crate::system::IS_LINUX;

/// The first Linux on which a FUSE mount outlives the process that serves it, and on which files can be passed through.
const RESEND_SINCE: (u32, u32) = (6, 9);

/// The first OpenSSH that asks its questions through a program even when there is a terminal.
const ASKPASS_SINCE: (u32, u32) = (8, 4);

/// A machine watches a directory for each one that a mount has seen. Debian's limit is about this; below it, big
/// trees are looked at again and again.
const WATCHES_WANTED: u64 = 65_536;

/// One instance for each agent.
const INSTANCES_WANTED: u64 = 128;

/// All checks, in the order in which one thing needs the other.
pub fn checks(context: &Context) -> Vec<Check> {
    let system = System::of_this_computer(context);
    let mut checks = vec![config(context)];
    if IS_LINUX {
        checks.extend([kernel(), fuse(&system), fusermount(&system), allow_other(&system)]);
    }
    checks.extend([ssh(&system), agents(context)]);
    if IS_LINUX {
        checks.extend([inotify(&system), kvm(&system)]);
    }
    checks.push(daemon(context));
    checks.extend(context.paths().ok().and_then(|paths| unsaved(&paths.mount_states_dir())));
    checks
}

/// Those that a mount through the kernel depends on.
pub fn mount_checks(context: &Context) -> Vec<Check> {
    let system = System::of_this_computer(context);
    vec![fuse(&system), fusermount(&system)]
}

/// What the hints depend on.
struct System {
    path: Vec<PathBuf>,
    is_root: bool,
    install: &'static str,
}

impl System {
    fn of_this_computer(context: &Context) -> System {
        let path = context.variable("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into());
        // Where administrators' programs are is not in everybody's PATH.
        let path = std::env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from)).collect();
        let os_release = fs::read_to_string("/etc/os-release").unwrap_or_default();
        System { path, is_root: rustix::process::geteuid().is_root(), install: install_command(&os_release) }
    }

    /// `words` as root.
    fn as_root(&self, words: impl std::fmt::Display) -> String {
        match self.is_root {
            true => words.to_string(),
            false => format!("sudo {words}"),
        }
    }

    fn install(&self, package: &str) -> String {
        self.as_root(format_args!("{} {package}", self.install))
    }

    fn program(&self, name: &str) -> Option<PathBuf> {
        let is_program = |path: &PathBuf| {
            fs::metadata(path)
                .is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
        };
        self.path.iter().map(|directory| directory.join(name)).find(is_program)
    }
}

/// How packages are installed, by what `/etc/os-release` says.
fn install_command(os_release: &str) -> &'static str {
    let field = |name: &str| {
        let line = os_release.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_default().trim_matches('"').to_owned()
    };
    let names = format!("{} {}", field("ID="), field("ID_LIKE="));
    let is = |wanted: &str| names.split_whitespace().any(|name| name == wanted);
    match () {
        () if is("fedora") || is("rhel") => "dnf install",
        () if is("arch") => "pacman -S",
        () if is("alpine") => "apk add",
        () if is("suse") || is("opensuse") => "zypper install",
        () => "apt-get install",
    }
}

fn works(name: &str, detail: impl Into<String>) -> Check {
    Check { name: name.to_owned(), verdict: Verdict::Works, detail: detail.into(), hint: None }
}

fn limited(name: &str, detail: impl Into<String>, hint: Option<String>) -> Check {
    Check { name: name.to_owned(), verdict: Verdict::Limited, detail: detail.into(), hint }
}

fn broken(name: &str, detail: impl Into<String>, hint: String) -> Check {
    Check { name: name.to_owned(), verdict: Verdict::Broken, detail: detail.into(), hint: Some(hint) }
}

fn kernel() -> Check {
    let uname = rustix::system::uname();
    let release = one_line(&uname.release().to_string_lossy());
    match version(&release) {
        Some(found) if found >= RESEND_SINCE => works("kernel", format!("Linux {release}")),
        _ => {
            let (major, minor) = RESEND_SINCE;
            let detail = format!(
                "Linux {release}: before {major}.{minor} a FUSE mount cannot outlive the process that serves it"
            );
            limited("kernel", detail, None)
        }
    }
}

/// The first two numbers of a version, as in `6.18.0-1` or `OpenSSH_9.2p1`.
fn version(text: &str) -> Option<(u32, u32)> {
    let start = text.find(|character: char| character.is_ascii_digit())?;
    let mut numbers = text[start..].split(|character: char| !character.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn fuse(system: &System) -> Check {
    if !IS_LINUX {
        let hint = "stead mount SOURCE DIR".to_owned();
        return broken("fuse", "it is not used on this system: mounts are served by nfs", hint);
    }
    let error = match File::options().read(true).write(true).open("/dev/fuse") {
        Ok(_) => return works("fuse", "/dev/fuse can be opened"),
        Err(error) => error,
    };
    let nfs = "without it there is only `--backend nfs`";
    match error.kind() {
        io::ErrorKind::NotFound => {
            let hint = match in_container() {
                true => "start the container with --device /dev/fuse --cap-add SYS_ADMIN".to_owned(),
                false => system.as_root("modprobe fuse"),
            };
            broken("fuse", format!("there is no /dev/fuse; {nfs}"), hint)
        }
        io::ErrorKind::PermissionDenied => {
            let detail = format!("/dev/fuse cannot be opened by this user; {nfs}");
            broken("fuse", detail, system.as_root("chmod 666 /dev/fuse"))
        }
        _ => {
            let detail = format!("/dev/fuse cannot be opened: {}; {nfs}", reason(&error));
            broken("fuse", detail, system.as_root("modprobe fuse"))
        }
    }
}

fn in_container() -> bool {
    ["/.dockerenv", "/run/.containerenv"].iter().any(|mark| Path::new(mark).exists())
}

fn fusermount(system: &System) -> Check {
    if system.is_root {
        return works("fusermount3", "not needed: root mounts by itself");
    }
    let Some(path) = system.program("fusermount3") else {
        let detail = "not found: it is what lets a plain user mount";
        return broken("fusermount3", detail, system.install("fuse3"));
    };
    match fs::metadata(&path) {
        Ok(metadata) if metadata.uid() == 0 && metadata.mode() & 0o4000 != 0 => {
            works("fusermount3", shown(&path))
        }
        _ => {
            let hint = system.as_root(format_args!("chmod u+s {}", path.display()));
            broken("fusermount3", format!("{} does not run as root", shown(&path)), hint)
        }
    }
}

fn allow_other(system: &System) -> Check {
    let configuration = fs::read_to_string("/etc/fuse.conf").unwrap_or_default();
    let is_set = configuration.lines().any(|line| line.trim() == "user_allow_other");
    match system.is_root || is_set {
        true => works("allow-other", "mounts may be opened to other users with `-o allow-other`"),
        false => {
            let detail = "mounts are for this user alone: `-o allow-other` is not permitted";
            let hint = "echo user_allow_other | sudo tee -a /etc/fuse.conf";
            limited("allow-other", detail, Some(hint.to_owned()))
        }
    }
}

fn ssh(system: &System) -> Check {
    let Some(path) = system.program("ssh") else {
        return broken("ssh", "not found: `ssh://` machines need it", system.install("openssh-client"));
    };
    // It prints its version on the standard error.
    let ran = Command::new(&path).arg("-V").stdin(Stdio::null()).output();
    let said = match &ran {
        Ok(output) => one_line(&String::from_utf8_lossy(&output.stderr)),
        Err(error) => {
            let detail = format!("{} does not run: {}", shown(&path), reason(error));
            return broken("ssh", detail, system.install("openssh-client"));
        }
    };
    match version(&said) {
        Some(found) if found >= ASKPASS_SINCE => works("ssh", said),
        _ => {
            let (major, minor) = ASKPASS_SINCE;
            let detail = format!("{said}: before OpenSSH {major}.{minor} passwords cannot be asked for");
            limited("ssh", detail, Some(system.install("openssh-client")))
        }
    }
}

/// A configuration that cannot be read keeps commands from what it says something of.
fn config(context: &Context) -> Check {
    let Some(path) = context.config_path() else {
        return works("config", "none: HOME is not set".to_owned());
    };
    match context.config() {
        Ok(_) if path.exists() => works("config", shown(&path)),
        Ok(_) => works("config", format!("{} is not there, and need not be", shown(&path))),
        Err(Error::Failed(failure)) => broken("config", failure.message, format!("edit {}", shown(&path))),
        Err(Error::OutputClosed) => {
            broken("config", "it could not be told", format!("edit {}", shown(&path)))
        }
    }
}

/// The agents that can be sent to machines are beside this program: `stead-agent-ARCH-linux`, or `stead-agent` for
/// this one's architecture.
fn agents(context: &Context) -> Check {
    let directory = context.program.parent().unwrap_or(Path::new("/"));
    let mut names: Vec<String> = fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name())
        .filter(|name| is_agent_name(name))
        .map(|name| name.to_string_lossy().into_owned())
        .collect();
    names.extend(context.variable("STEAD_AGENT").map(|path| one_line(&path.to_string_lossy())));
    names.sort();
    match names.is_empty() {
        false => works("agent", format!("{} in {}", names.join(", "), shown(directory))),
        true => {
            let detail =
                format!("there is none in {}: it is what runs on `ssh://` machines", shown(directory));
            broken("agent", detail, "cargo xtask build --release".to_owned())
        }
    }
}

fn is_agent_name(name: &OsStr) -> bool {
    let name = name.as_bytes();
    name == b"stead-agent" || (name.starts_with(b"stead-agent-") && name.ends_with(b"-linux"))
}

fn inotify(system: &System) -> Check {
    let limit = |name: &str| -> Option<u64> {
        fs::read_to_string(format!("/proc/sys/fs/inotify/{name}")).ok()?.trim().parse().ok()
    };
    let (Some(watches), Some(instances)) = (limit("max_user_watches"), limit("max_user_instances")) else {
        return limited("inotify", "its limits cannot be read; changes may be noticed late", None);
    };
    let found = format!("{watches} watches and {instances} instances for each user");
    match (watches >= WATCHES_WANTED, instances >= INSTANCES_WANTED) {
        (true, true) => works("inotify", found),
        (few_watches, _) => {
            let setting = match few_watches {
                false => format!("fs.inotify.max_user_watches={}", WATCHES_WANTED * 8),
                true => format!("fs.inotify.max_user_instances={}", INSTANCES_WANTED * 8),
            };
            let detail = format!("{found}: changes in big trees are noticed late");
            limited("inotify", detail, Some(system.as_root(format_args!("sysctl {setting}"))))
        }
    }
}

fn kvm(system: &System) -> Check {
    match File::options().read(true).write(true).open("/dev/kvm") {
        Ok(_) => works("kvm", "/dev/kvm can be opened"),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let hint = system.as_root("usermod -aG kvm $USER");
            limited("kvm", "/dev/kvm cannot be opened by this user", Some(hint))
        }
        Err(_) => limited("kvm", "there is no /dev/kvm: virtual machines have to be emulated", None),
    }
}

fn daemon(context: &Context) -> Check {
    match context.running_daemon() {
        Ok(None) => works("daemon", "does not run; it starts when a command needs it"),
        Ok(Some(client)) => {
            let process = client.peer().map(|pid| format!(" as process {pid}")).unwrap_or_default();
            works("daemon", format!("runs{process}"))
        }
        Err(crate::error::Error::Failed(failure)) => {
            let hint = failure.hint.unwrap_or_else(|| "stead daemon restart".to_owned());
            broken("daemon", failure.message, hint)
        }
        Err(crate::error::Error::OutputClosed) => works("daemon", "not looked at"),
    }
}

/// What mounts that are gone could not save, if they have left anything: a directory without processes, with its
/// configuration.
fn unsaved(mounts: &Path) -> Option<Check> {
    let left = fs::read_dir(mounts)
        .ok()?
        .flatten()
        .map(|entry| entry.path())
        .filter(|directory| !directory.join("keeper.json").exists());
    let sources = left.filter_map(|directory| {
        let config = File::open(directory.join(CONFIG)).and_then(MountConfig::read);
        Some(config.ok()?.source.to_string())
    });
    let mut sources: Vec<String> = sources.collect();
    sources.sort();
    sources.dedup();
    let first = sources.first()?;
    let detail = format!("an earlier mount has left what it could not save: of {}", sources.join(", "));
    Some(limited("unsaved", detail, Some(format!("stead mount {first}"))))
}

fn shown(path: &Path) -> String {
    quoted(path.as_os_str().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_package_manager_is_the_distributions() {
        assert_eq!(install_command("NAME=x\nID=debian\n"), "apt-get install");
        assert_eq!(install_command("ID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"\n"), "dnf install");
        assert_eq!(install_command("ID=alpine"), "apk add");
        assert_eq!(install_command(""), "apt-get install");
    }

    #[test]
    fn versions_are_found_in_what_programs_say() {
        assert_eq!(version("6.18.0-1-amd64"), Some((6, 18)));
        assert_eq!(version("OpenSSH_9.2p1 Debian-2, OpenSSL 3.0"), Some((9, 2)));
        assert_eq!(version("Linux"), None);
    }

    #[test]
    fn what_is_unsaved_is_named_with_its_source() {
        let scratch = tempfile::tempdir().unwrap();
        assert!(unsaved(scratch.path()).is_none());
        let config = serde_json::json!({
            "id": "m1", "source": "ssh://box/src", "dir": "/m", "backend": "auto", "access": "read_write",
            "sync": "close", "reconnect": "automatic", "options": {}, "state_dir": "/s", "dial": {"by": "host"},
            "owner": {"uid": 1, "gid": 1},
        });
        for mount in ["m1", "m2"] {
            fs::create_dir(scratch.path().join(mount)).unwrap();
            fs::write(scratch.path().join(mount).join(CONFIG), config.to_string()).unwrap();
        }
        fs::write(scratch.path().join("m1/keeper.json"), "").unwrap();
        let check = unsaved(scratch.path()).unwrap();
        assert_eq!(check.hint.as_deref(), Some("stead mount ssh://box/src"));
        fs::write(scratch.path().join("m2/keeper.json"), "").unwrap();
        assert!(unsaved(scratch.path()).is_none(), "its processes may be there");
    }

    #[test]
    fn an_agent_is_known_by_its_name() {
        let is = |name: &str| is_agent_name(OsStr::new(name));
        assert!(is("stead-agent") && is("stead-agent-x86_64-linux"));
        assert!(!is("stead") && !is("stead-agent.d") && !is("stead-agent-x86_64-darwin"));
    }
}
