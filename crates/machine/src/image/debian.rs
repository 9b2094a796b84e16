//! A root file system of nothing but Debian's packages.
//!
//! `mmdebstrap` installs them to a tar, as root or, where the computer gives users name spaces of their own, as anybody. It brings
//! the kernel for virtual machines, which is taken from it together with its modules. Nothing of ours is in it: the guest's first
//! process starts what serves the ports, and then becomes the init of the distribution.
//!
//! What it unpacks on the way, which is all of the release, is in a directory of ours, so that what a killed one has left is found
//! again: beside the archive for root; for others `stead-UID-HASH` below the directory of temporary files, where HASH is that of the
//! directory of images, since the users of their name spaces cannot pass through a directory that is their own alone.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use wire::api::ErrorKind;

use crate::course::Course;
use crate::error::{Error, Result};
use crate::program::{End, Program};

/// The release that is taken if nobody says otherwise: the modules of its kernel are not packed.
pub const RELEASE: &str = "bookworm";

/// The longest name of a release.
const RELEASE_BYTES_MAX: usize = 32;

/// What a computer to work at has, besides what every Debian has.
const PACKAGES: &str =
    "systemd-sysv,udev,dbus,kmod,iproute2,ca-certificates,procps,git,linux-image-cloud-amd64";

/// What is left out: documents of packages, and texts in other languages.
const EXCLUDED: [&str; 3] = ["/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*"];

/// What nobody needs in a microVM: logins at a console where nobody is, and upkeep at hours of the night.
const NEEDLESS: &str = "getty@tty1.service serial-getty@ttyS0.service apt-daily.timer apt-daily-upgrade.timer \
                        dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service fstrim.timer";

/// How long downloading and installing may take.
const INSTALL_TIMEOUT: Duration = Duration::from_secs(60 * 60);

/// How long removing what was unpacked may take: some ten thousand files.
const REMOVE_TIMEOUT: Duration = Duration::from_secs(5 * 60);

/// The mode of a directory that others may pass through and not list.
const PASSABLE: u32 = 0o711;

/// What has been installed.
#[derive(Debug)]
pub struct Installed {
    /// The root file system.
    pub archive: PathBuf,
    /// The directory of its kernel.
    pub boot: PathBuf,
}

/// Where those who are not root have what is unpacked on the way, for all images below this directory.
fn shared_scratch(images: &Path) -> PathBuf {
    let hash = blake3::hash(images.as_os_str().as_encoded_bytes()).to_hex();
    std::env::temp_dir().join(format!("stead-{}-{}", rustix::process::geteuid().as_raw(), &hash[..16]))
}

/// A directory for what is unpacked on the way, which is removed with this.
#[derive(Debug)]
struct Scratch(PathBuf);

impl Scratch {
    /// `stage` is that of the image called `name`.
    fn new(stage: &Path, images: &Path, name: &str) -> Result<Scratch> {
        if rustix::process::geteuid().is_root() {
            return Scratch::make(stage.join("scratch"), 0o700);
        }
        let shared = shared_scratch(images);
        open_shared(&shared)?;
        Scratch::make(shared.join(name), PASSABLE)
    }

    fn make(path: PathBuf, mode: u32) -> Result<Scratch> {
        if path.symlink_metadata().is_ok() {
            remove_mapped(&path)?;
        }
        make(&path, mode)?;
        let scratch = Scratch(path);
        own(&scratch.0, mode)?;
        Ok(scratch)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = remove_mapped(&self.0) {
            tracing::warn!(%error, "what was unpacked of Debian stays until the next daemon");
        }
    }
}

fn make(path: &Path, mode: u32) -> Result<()> {
    let made = fs::DirBuilder::new().mode(mode).create(path);
    made.map_err(|error| Error::file("make", path, &error))
}

/// Makes the directory that those of all images are in, unless somebody else of this user just has.
fn open_shared(shared: &Path) -> Result<()> {
    match fs::DirBuilder::new().mode(PASSABLE).create(shared) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            Err(Error::file("make", shared, &error))
        }
        // Its parent is everybody's.
        _ => own(shared, PASSABLE),
    }
}

/// Sees to it that this is a directory of this user's own with this mode, which what is masked for new files has no say in.
fn own(path: &Path, mode: u32) -> Result<()> {
    let failed = |errno: rustix::io::Errno| Error::file("open", path, &errno.into());
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = match rustix::fs::open(path, flags, Mode::empty()) {
        Err(Errno::LOOP | Errno::NOTDIR | Errno::ACCESS) => return Err(elses(path)),
        opened => opened.map_err(failed)?,
    };
    if rustix::fs::fstat(&opened).map_err(failed)?.st_uid != rustix::process::geteuid().as_raw() {
        return Err(elses(path));
    }
    let changed = fs::File::from(opened).set_permissions(fs::Permissions::from_mode(mode));
    changed.map_err(|error| Error::file("open", path, &error))
}

fn elses(path: &Path) -> Error {
    let message = format!("`{}` is somebody else's, or no directory", path.display());
    Error::new(ErrorKind::Refused, message).hint("set TMPDIR to a directory of yours")
}

/// The same as [`super::put_aside`] for what is unpacked elsewhere.
pub(super) fn put_aside(images: &Path) {
    let shared = shared_scratch(images);
    if is_own(&shared) {
        super::rename_aside(&shared, |name| !name.starts_with(super::ASIDE.as_bytes()));
    }
}

/// The same as [`super::clear_aside`] for what is unpacked elsewhere.
pub(super) fn clear_aside(images: &Path) {
    let shared = shared_scratch(images);
    let aside = is_own(&shared).then(|| super::aside(&shared));
    for path in aside.into_iter().flatten() {
        if let Err(error) = remove_mapped(&path) {
            tracing::warn!(%error, "what is left of an installation of Debian stays");
        }
    }
}

fn is_own(path: &Path) -> bool {
    let found = path.symlink_metadata();
    found.is_ok_and(|found| found.is_dir() && found.uid() == rustix::process::geteuid().as_raw())
}

/// Removes a directory in which there may be files of users that only a name space of ours has.
fn remove_mapped(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            let removing = Program {
                name: "mmdebstrap",
                package: "mmdebstrap",
                patience: REMOVE_TIMEOUT,
                end: End::Killed,
            };
            let arguments = ["--unshare-helper", "rm", "-rf", "--"].map(OsString::from);
            removing.run(arguments.into_iter().chain([path.as_os_str().to_owned()]))
        }
        removed => removed.map_err(|error| Error::file("remove", path, &error)),
    }
}

/// Installs a release below an empty directory, for the image called `name` below `images`. Blocks.
pub fn install(
    directory: &Path,
    (images, name): (&Path, &str),
    release: &str,
    course: &Course,
) -> Result<Installed> {
    check_release(release)?;
    course.begin(&format!("installing Debian {release}"))?;
    let (archive, boot, library) =
        (directory.join("root.tar"), directory.join("boot"), directory.join("lib"));
    fs::create_dir_all(&library).map_err(|error| Error::file("make", &library, &error))?;
    let scratch = Scratch::new(directory, images, name)?;
    let mut arguments: Vec<OsString> = ["--variant=minbase", "--format=tar"].map(OsString::from).into();
    arguments.push(format!("--include={PACKAGES}").into());
    arguments.extend(EXCLUDED.map(|path| format!("--dpkgopt=path-exclude={path}").into()));
    // These are the guest's own, and were this computer's.
    arguments.push("--customize-hook=rm -f \"$1/etc/hostname\" \"$1/etc/resolv.conf\"".into());
    arguments.push(format!("--customize-hook=chroot \"$1\" systemctl --quiet mask {NEEDLESS}").into());
    arguments.push(hook("/boot", directory)?);
    arguments.push(hook("/usr/lib/modules", &library)?);
    arguments.extend([OsString::from(release), archive.clone().into()]);
    let installing =
        Program { name: "mmdebstrap", package: "mmdebstrap", patience: INSTALL_TIMEOUT, end: End::Told };
    let told = |line: &str| line.strip_prefix("I: ").map(str::to_owned);
    installing.run_with(arguments, Some(&scratch.0), course, told)?;
    Ok(Installed { archive, boot })
}

fn check_release(release: &str) -> Result<()> {
    let is_inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let is_name = release.len() <= RELEASE_BYTES_MAX
        && release.bytes().all(is_inner)
        && release.bytes().next().is_some_and(|byte| byte.is_ascii_lowercase());
    if is_name {
        return Ok(());
    }
    let message = format!("`{}` cannot be the name of a release of Debian", release.escape_debug());
    Err(Error::new(ErrorKind::Usage, message).hint(format!("{RELEASE} is one")))
}

/// Has something copied from what is installed. The words of a hook are the shell's.
fn hook(from: &str, to: &Path) -> Result<OsString> {
    let text = to.to_str().filter(|text| !text.contains('\''));
    let text = text.ok_or_else(|| {
        let message = format!("`{}` cannot be told to mmdebstrap", to.display());
        Error::new(ErrorKind::Usage, message).hint("set STEAD_HOME to a path without quotes")
    })?;
    Ok(format!("--customize-hook=copy-out {from} '{text}'").into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_is_a_name_and_no_option() {
        for name in ["bookworm", "stable", "trixie-backports"] {
            check_release(name).unwrap();
        }
        for name in ["", "--help", "a/b", "a b", "12", "Bookworm", &"a".repeat(33)] {
            assert!(check_release(name).is_err(), "{name}");
        }
    }

    #[test]
    fn what_a_killed_installation_has_left_is_swept() {
        let scratch = tempfile::tempdir().unwrap();
        let images = scratch.path().join("images");
        let shared = shared_scratch(&images);
        fs::create_dir_all(shared.join("debian/mmdebstrap.x")).unwrap();
        assert_ne!(shared, shared_scratch(scratch.path()));
        put_aside(&images);
        assert!(!shared.join("debian").exists());
        // What is made meanwhile stays.
        fs::create_dir(shared.join("debian")).unwrap();
        clear_aside(&images);
        let left = fs::read_dir(&shared).unwrap().map(|entry| entry.unwrap().file_name());
        assert_eq!(left.collect::<Vec<_>>(), ["debian"]);
        fs::remove_dir_all(&shared).unwrap();
        put_aside(&images);
        clear_aside(&images);
        let path = scratch.path().join("scratch");
        fs::create_dir_all(path.join("left")).unwrap();
        let made = Scratch::make(path.clone(), 0o700).unwrap();
        assert_eq!(fs::read_dir(&path).unwrap().count(), 0);
        drop(made);
        assert!(!path.exists());
    }

    #[test]
    fn a_directory_that_others_pass_through_is_ones_own_and_can_be_passed() {
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
        let scratch = tempfile::tempdir().unwrap();
        let path = |name: &str| scratch.path().join(name);
        // One that was made with a mask for new files, or by another image just now.
        make(&path("private"), 0o700).unwrap();
        for name in ["private", "new", "new"] {
            open_shared(&path(name)).unwrap();
            assert_eq!(mode(&path(name)), PASSABLE, "{name}");
        }
        std::os::unix::fs::symlink(path("new"), path("link")).unwrap();
        fs::write(path("file"), "").unwrap();
        for name in ["link", "file"] {
            assert_eq!(open_shared(&path(name)).unwrap_err().kind, ErrorKind::Refused, "{name}");
        }
    }

    #[test]
    fn a_path_cannot_be_more_than_a_path_in_a_hook() {
        assert!(hook("/boot", Path::new("/a'; rm -r /'")).is_err());
        assert_eq!(hook("/boot", Path::new("/a b")).unwrap(), "--customize-hook=copy-out /boot '/a b'");
    }
}
