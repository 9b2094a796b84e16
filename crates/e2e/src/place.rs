//! A directory under test, on the local disk or seen through a mount, so that one probe runs on all.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use rustix::mount::{MountPropagationFlags, UnmountFlags};

use crate::stead::{is_root, open_to_all};
use crate::{Engine, Mount, Sshd, Stead, leftovers};

/// A probe is a few calls; one that takes this long hangs.
const PROBE_DEADLINE: Duration = Duration::from_secs(60);

/// A suite may take this long unless it says otherwise.
pub const SUITE_DEADLINE: Duration = Duration::from_secs(900);

/// What a directory under test is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The local disk itself: what passes here is a fair expectation.
    Disk,
    /// A FUSE mount of this host.
    Host,
    /// A FUSE mount over SSH.
    Ssh,
    /// A FUSE mount of a container, with an engine of its own. Root's alone.
    Docker,
    /// A thread, for those who have made it.
    Thread,
}

/// A directory under test, empty at first.
pub struct Place {
    pub kind: Kind,
    /// The directory as a user of the mount sees it.
    pub dir: PathBuf,
    /// The same directory as the machine sees it.
    pub far: PathBuf,
    mounted: Option<Mounted>,
    _shared: Option<Shared>,
    // Dropped last: it holds the directories of `Disk`.
    _scratch: tempfile::TempDir,
}

struct Mounted {
    stead: Stead,
    mount: Mount,
    sshd: Option<Sshd>,
    // The mount goes before what it is of.
    _engine: Option<Engine>,
}

/// A directory of which a container sees also what is mounted below it later.
struct Shared(PathBuf);

impl Shared {
    fn new(dir: &Path) -> Shared {
        rustix::mount::mount_bind(dir, dir).expect("mounting a directory on itself");
        let shared = Shared(dir.to_owned());
        rustix::mount::mount_change(dir, MountPropagationFlags::SHARED)
            .expect("sharing what is mounted below");
        shared
    }

    fn volume(&self) -> String {
        format!("{0}:{0}:rslave", self.0.display())
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let gone = rustix::mount::unmount(&self.0, UnmountFlags::DETACH);
        if !std::thread::panicking() {
            gone.expect("unmounting the directory");
        }
    }
}

impl Place {
    /// A place of `kind`. As root, other users may enter it, so that permission checks can be probed.
    pub fn new(kind: Kind) -> Place {
        let args: &[&str] = if is_root() { &["-o", "allow-other"] } else { &[] };
        Place::with_args(kind, args)
    }

    /// A place of `kind`, mounted with these further arguments.
    pub fn with_args(kind: Kind, args: &[&str]) -> Place {
        let scratch =
            tempfile::Builder::new().prefix("place").tempdir().expect("creating a scratch directory");
        open_to_all(scratch.path());
        let far = scratch.path().join("far");
        std::fs::create_dir(&far).expect("creating a scratch directory");
        if kind == Kind::Disk {
            return Place { kind, dir: far.clone(), far, mounted: None, _shared: None, _scratch: scratch };
        }
        let sshd = (kind == Kind::Ssh).then(Sshd::start);
        let docker = (kind == Kind::Docker).then(|| (Shared::new(&far), Engine::start()));
        let stead = match (&sshd, &docker) {
            (Some(sshd), _) => Stead::with_ssh(sshd),
            (None, Some((shared, engine))) => {
                engine.run("box", &["--volume", &shared.volume()]);
                engine.stead()
            }
            (None, None) => Stead::new(),
        };
        let (shared, engine) = docker.unzip();
        open_to_all(stead.root());
        let dir = stead.dir("mnt");
        let mount = stead.mount(source(kind, &far), &dir, args);
        Place {
            kind,
            dir,
            far,
            mounted: Some(Mounted { stead, mount, sshd, _engine: engine }),
            _shared: shared,
            _scratch: scratch,
        }
    }

    /// A path under test. `name` is relative.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir.join(name)
    }

    /// The same path on the machine.
    pub fn far_path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.far.join(name)
    }

    /// A path under test whose name is any bytes.
    pub fn bytes_path(&self, name: &[u8]) -> PathBuf {
        self.dir.join(std::ffi::OsStr::from_bytes(name))
    }

    /// Creates a file with these contents.
    #[track_caller]
    pub fn file(&self, name: &str, contents: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, contents).unwrap_or_else(|error| panic!("writing {name}: {error}"));
        path
    }

    /// Creates a directory.
    #[track_caller]
    pub fn subdir(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir(&path).unwrap_or_else(|error| panic!("mkdir {name}: {error}"));
        path
    }

    /// The installation and the mount, where there is one.
    pub fn mounted(&self) -> Option<(&Stead, &Mount)> {
        self.mounted.as_ref().map(|mounted| (&mounted.stead, &mounted.mount))
    }

    /// The machine, where it is one of its own.
    pub fn sshd(&self) -> Option<&Sshd> {
        self.mounted.as_ref().and_then(|mounted| mounted.sshd.as_ref())
    }

    /// Mounts the same tree a second time, elsewhere, and returns where. On the disk, the same directory.
    pub fn second_view(&self) -> PathBuf {
        let Some(mounted) = &self.mounted else {
            return self.dir.clone();
        };
        let dir = mounted.stead.dir("mnt2");
        mounted.stead.mount(source(self.kind, &self.far), &dir, &[]);
        dir
    }
}

/// What `far` is called on the command line.
fn source(kind: Kind, far: &Path) -> OsString {
    let mut source = OsString::from(match kind {
        Kind::Ssh => "ssh://box",
        Kind::Docker => "docker://box",
        Kind::Disk | Kind::Host => "host:",
        Kind::Thread => panic!("a thread is not at a place"),
    });
    source.push(far);
    source
}

/// Runs `probe` in a place of `kind`, with a deadline after which it counts as hung.
pub fn run(kind: Kind, probe: fn(&Place)) {
    run_with(Place::new(kind), PROBE_DEADLINE, probe);
}

/// Runs a suite in a place of `kind`.
pub fn run_suite(kind: Kind, suite: fn(&Place)) {
    run_with(Place::new(kind), SUITE_DEADLINE, suite);
}

/// Runs `probe` in `place`. When it hangs, the mount is ended by force, so that the thread comes back and can be joined.
pub fn run_with(place: Place, deadline: Duration, probe: fn(&Place)) {
    let (done, waiting) = mpsc::channel();
    let place = &place;
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let outcome = catch_unwind(AssertUnwindSafe(|| probe(place)));
            // The other side waits for exactly this.
            let _sent = done.send(outcome);
        });
        match waiting.recv_timeout(deadline) {
            Ok(Ok(())) => {}
            Ok(Err(panic)) => resume_unwind(panic),
            Err(_) => {
                leftovers::abort_fuse_connection(&place.dir);
                // Without fusectl: the last descriptor of the connection closes with the last process.
                place.mounted().inspect(|(stead, _)| leftovers::kill(&stead.processes()));
                panic!("hung: no end after {deadline:?}");
            }
        }
    });
}

/// Makes of each probe four tests: on the disk, through a mount of this host, through a mount over SSH, and, ignored unless it is asked
/// for, of a container.
#[macro_export]
macro_rules! probes {
    ($($(#[$meta:meta])* fn $name:ident($place:ident) $body:block)*) => {$(
        $(#[$meta])*
        mod $name {
            #[allow(unused_imports, reason = "a probe uses some of what its file imports")]
            use super::*;

            fn probe($place: &$crate::Place) $body

            #[test]
            fn disk() {
                $crate::place::run($crate::Kind::Disk, probe);
            }

            #[test]
            fn host() {
                $crate::place::run($crate::Kind::Host, probe);
            }

            #[test]
            fn ssh() {
                $crate::place::run($crate::Kind::Ssh, probe);
            }

            #[test]
            #[ignore = "each has an engine of its own; docs/testing.md says how they are run"]
            fn docker() {
                $crate::place::run($crate::Kind::Docker, probe);
            }
        }
    )*};
}

/// Makes of each suite four tests, as [`probes!`] does, with a suite's deadline.
#[macro_export]
macro_rules! suites {
    ($($(#[$meta:meta])* fn $name:ident($place:ident) $body:block)*) => {$(
        $(#[$meta])*
        mod $name {
            #[allow(unused_imports, reason = "a suite uses some of what its file imports")]
            use super::*;

            fn suite($place: &$crate::Place) $body

            #[test]
            fn disk() {
                $crate::place::run_suite($crate::Kind::Disk, suite);
            }

            #[test]
            fn host() {
                $crate::place::run_suite($crate::Kind::Host, suite);
            }

            #[test]
            fn ssh() {
                $crate::place::run_suite($crate::Kind::Ssh, suite);
            }

            #[test]
            #[ignore = "each has an engine of its own; docs/testing.md says how they are run"]
            fn docker() {
                $crate::place::run_suite($crate::Kind::Docker, suite);
            }
        }
    )*};
}
