//! A machine that is far away: what is counted is what somebody waits for.

use std::path::{Path, PathBuf};
use std::time::Duration;

use e2e::{DelayProxy, Mount, Sshd, Stead};

const RTT: Duration = Duration::from_millis(20);
const SOON: Duration = Duration::from_secs(20);
const DIRECTORIES: usize = 8;
const FILES: usize = 40;

/// A machine at a distance, with the mount of a tree of it.
struct Far {
    dir: PathBuf,
    far: PathBuf,
    // In the order in which they have to go.
    mount: Mount,
    stead: Stead,
    _line: (DelayProxy, Sshd),
}

impl Far {
    fn new(make: impl FnOnce(&Path)) -> Far {
        let sshd = Sshd::start();
        let proxy = DelayProxy::start(sshd.port(), RTT);
        sshd.add_host("box", proxy.port(), &[("HostKeyAlias", "box")]);
        let stead = Stead::with_ssh(&sshd);
        let (far, dir) = (stead.dir("far"), stead.dir("mnt"));
        make(&far);
        let mount = stead.mount(format!("ssh://box{}", far.display()), &dir, &[]);
        Far { dir, far, mount, stead, _line: (proxy, sshd) }
    }

    /// Round trips made meanwhile, those that nobody waited for among them.
    fn round_trips(&self, work: impl FnOnce()) -> u64 {
        let count = || self.stead.mount_status(&self.mount.id).unwrap()["counters"]["round_trips"].as_u64();
        let before = count().unwrap();
        work();
        count().unwrap() - before
    }
}

fn content(path: &Path) -> Vec<u8> {
    path.file_name().unwrap().as_encoded_bytes().iter().copied().cycle().take(4096).collect()
}

fn files(dir: &Path) -> impl Iterator<Item = PathBuf> {
    let dir = dir.to_owned();
    (0..DIRECTORIES * FILES).map(move |n| dir.join(format!("d{}", n / FILES)).join(format!("f{n}")))
}

fn make_tree(far: &Path) {
    for path in files(far) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content(&path)).unwrap();
    }
}

fn read_all(dir: &Path) {
    for path in files(dir) {
        assert_eq!(std::fs::read(&path).unwrap(), content(&path), "{}", path.display());
    }
}

#[test]
fn small_files_of_a_far_tree_are_read_in_few_round_trips_and_again_in_none() {
    let far = Far::new(make_tree);
    let cold = far.round_trips(|| read_all(&far.dir));
    assert!(cold < (DIRECTORIES * FILES / 4) as u64, "{cold} round trips");
    // What was fetched ahead may still be coming to its end.
    e2e::eventually(SOON, "nothing is asked for again", || far.round_trips(|| read_all(&far.dir)) == 0);
    println!("{cold} round trips for {} files", DIRECTORIES * FILES);
    let changed = files(&far.far).next().unwrap();
    std::fs::write(&changed, b"changed").unwrap();
    let here = files(&far.dir).next().unwrap();
    e2e::eventually(SOON, "the change is seen", || std::fs::read(&here).unwrap() == b"changed");
}
