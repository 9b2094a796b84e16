//! A root file system of nothing but Debian's packages.
//!
//! `mmdebstrap` installs them to a tar, as root or, where the computer gives users name spaces of their own, as anybody. It brings
//! the kernel for virtual machines, which is taken from it together with its modules. Nothing of ours is in it: the guest's first
//! process starts what serves the ports, and then becomes the init of the distribution.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

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

/// What has been installed.
#[derive(Debug)]
pub struct Installed {
    /// The root file system.
    pub archive: PathBuf,
    /// The directory of its kernel.
    pub boot: PathBuf,
}

/// Installs a release below an empty directory. Blocks.
pub fn install(directory: &Path, release: &str, course: &Course) -> Result<Installed> {
    check_release(release)?;
    course.begin(&format!("installing Debian {release}"))?;
    let (archive, boot, library) =
        (directory.join("root.tar"), directory.join("boot"), directory.join("lib"));
    fs::create_dir_all(&library).map_err(|error| Error::file("make", &library, &error))?;
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
    installing.run_telling(arguments, course, |line| line.strip_prefix("I: ").map(str::to_owned))?;
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
    fn a_path_cannot_be_more_than_a_path_in_a_hook() {
        assert!(hook("/boot", Path::new("/a'; rm -r /'")).is_err());
        assert_eq!(hook("/boot", Path::new("/a b")).unwrap(), "--customize-hook=copy-out /boot '/a b'");
    }
}
