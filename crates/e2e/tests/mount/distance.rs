//! A machine that is far away: what is counted is what somebody waits for.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
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
    line: (DelayProxy, Sshd),
}

impl Far {
    fn new(make: impl FnOnce(&Path)) -> Far {
        Far::mounted(&[], make)
    }

    fn mounted(options: &[&str], make: impl FnOnce(&Path)) -> Far {
        let sshd = Sshd::start();
        let proxy = DelayProxy::start(sshd.port(), RTT);
        sshd.add_host("box", proxy.port(), &[("HostKeyAlias", "box")]);
        let stead = Stead::with_ssh(&sshd);
        let (far, dir) = (stead.dir("far"), stead.dir("mnt"));
        make(&far);
        let mount = stead.mount(format!("ssh://box{}", far.display()), &dir, options);
        Far { dir, far, mount, stead, line: (proxy, sshd) }
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

/// A directory in which it is certain that files can be made: it is wholly known, and one was made there.
fn sure(far: &Far) {
    assert_eq!(names(&far.dir), ["there"]);
    fs::write(far.dir.join("first"), "first").unwrap();
}

/// A directory that was made here, with a file in it, and of which and above which all is known.
fn own(far: &Far) -> PathBuf {
    let dir = far.dir.join("own");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("first"), "first").unwrap();
    assert_eq!(names(&dir), ["first"]);
    // Who has made nothing there is told what the machine says, until that is known here.
    let looks = |dir: &Path| assert!(fs::metadata(dir).unwrap().is_dir());
    let look = || {
        std::thread::scope(|scope| scope.spawn(|| [&far.dir, &dir].map(|dir| looks(dir))).join()).unwrap();
    };
    look();
    e2e::eventually(SOON, "nothing is asked for again", || far.round_trips(look) == 0);
    dir
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn one_file(far: &Path) {
    fs::write(far.join("there"), "there").unwrap();
}

/// Makes a file, opened so, while nothing passes.
fn make_while_stalled(far: &Far, name: &str, options: &OpenOptions) -> File {
    far.line.0.stall();
    let (made, is_made) = mpsc::channel();
    let (path, options) = (far.dir.join(name), options.clone());
    let opener = std::thread::spawn(move || made.send(options.open(path)));
    let made = is_made.recv_timeout(SOON);
    if made.is_err() {
        // Else nobody comes to an end.
        far.line.0.mend();
    }
    opener.join().unwrap().ok();
    made.expect("nothing is waited for").unwrap()
}

fn writing(mode: u32) -> OpenOptions {
    OpenOptions::new().write(true).create(true).truncate(true).mode(mode).clone()
}

/// What `close(2)` says.
fn close(file: File) -> std::io::Result<()> {
    use std::os::fd::IntoRawFd;
    // SAFETY: the descriptor is owned here, and nobody else uses it.
    match unsafe { libc::close(file.into_raw_fd()) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

#[test]
fn a_file_is_made_and_written_to_before_the_machine_answers() {
    let far = Far::new(one_file);
    sure(&far);
    let mut file = make_while_stalled(&far, "f", &writing(0o444));
    file.write_all(b"content").unwrap();
    assert!(!far.far.join("f").exists());
    far.line.0.mend();
    close(file).unwrap();
    assert_eq!(fs::read(far.far.join("f")).unwrap(), b"content");
    assert_eq!(fs::metadata(far.far.join("f")).unwrap().permissions().mode() & 0o7777, 0o444);
    assert_eq!(names(&far.dir), ["f", "first", "there"]);
    let (here, there) = (fs::metadata(far.dir.join("f")).unwrap(), fs::metadata(far.far.join("f")).unwrap());
    assert_eq!(
        (here.len(), here.mode(), here.uid(), here.gid()),
        (there.len(), there.mode(), there.uid(), there.gid())
    );
}

#[test]
fn closing_tells_why_a_file_was_not_made_after_all() {
    let far = Far::new(|far| {
        one_file(far);
        fs::create_dir(far.join("d")).unwrap();
    });
    let dir = far.dir.join("d");
    assert_eq!(names(&dir), Vec::<String>::new());
    fs::write(dir.join("first"), "first").unwrap();
    fs::remove_file(dir.join("first")).unwrap();
    let mut file = make_while_stalled(&far, "d/f", &writing(0o644));
    file.write_all(b"content").unwrap();
    fs::remove_dir(far.far.join("d")).unwrap();
    far.line.0.mend();
    let kind = close(file).unwrap_err().kind();
    assert!(matches!(kind, ErrorKind::NotFound | ErrorKind::StaleNetworkFileHandle), "{kind:?}");
    assert_eq!(names(&far.far), ["there"]);
}

#[test]
fn a_file_that_somebody_else_makes_meanwhile_is_opened() {
    let far = Far::new(one_file);
    sure(&far);
    let mut file = make_while_stalled(&far, "f", &writing(0o644));
    file.write_all(b"ours").unwrap();
    fs::write(far.far.join("f"), "of somebody else").unwrap();
    let inode = fs::metadata(far.far.join("f")).unwrap().ino();
    far.line.0.mend();
    close(file).unwrap();
    assert_eq!(fs::read(far.far.join("f")).unwrap(), b"ours");
    assert_eq!(fs::metadata(far.far.join("f")).unwrap().ino(), inode);
    assert_eq!(fs::read(far.dir.join("f")).unwrap(), b"ours");
}

#[test]
fn what_is_done_to_a_file_that_is_not_made_yet_is_done_after_it() {
    let far = Far::new(|far| {
        one_file(far);
        fs::set_permissions(far, fs::Permissions::from_mode(0o2775)).unwrap();
        if e2e::stead::is_root() {
            std::os::unix::fs::chown(far, None, Some(1234)).unwrap();
            fs::set_permissions(far, fs::Permissions::from_mode(0o2775)).unwrap();
        }
    });
    sure(&far);
    let group = fs::metadata(&far.far).unwrap().gid();
    type Doing = fn(&Path, &File);
    let doings: [(&str, Doing); 6] = [
        ("rename", |dir, _| fs::rename(dir.join("f"), dir.join("rename")).unwrap()),
        ("link", |dir, _| fs::hard_link(dir.join("f"), dir.join("link")).unwrap()),
        ("chmod", |dir, _| {
            fs::set_permissions(dir.join("f"), fs::Permissions::from_mode(0o600)).unwrap();
            fs::rename(dir.join("f"), dir.join("chmod")).unwrap();
        }),
        ("truncate", |dir, _| {
            let file = OpenOptions::new().write(true).open(dir.join("f")).unwrap();
            file.set_len(3).unwrap();
            fs::rename(dir.join("f"), dir.join("truncate")).unwrap();
        }),
        ("stat", |dir, file| {
            let (by_name, by_handle) = (fs::metadata(dir.join("f")).unwrap(), file.metadata().unwrap());
            assert_eq!((by_name.ino(), by_name.gid()), (by_handle.ino(), by_handle.gid()));
            fs::rename(dir.join("f"), dir.join("stat")).unwrap();
        }),
        ("unlink", |dir, file| {
            fs::remove_file(dir.join("f")).unwrap();
            assert_eq!(file.metadata().unwrap().nlink(), 0);
            fs::write(dir.join("unlink"), "content").unwrap();
        }),
    ];
    for (name, doing) in doings {
        let _gone = fs::remove_file(far.dir.join("f"));
        assert!(names(&far.dir).len() > 1);
        let mut file = make_while_stalled(&far, "f", &writing(0o664));
        file.write_all(b"content").unwrap();
        std::thread::scope(|scope| {
            let (done, is_done) = mpsc::channel();
            let (dir, file) = (&far.dir, &file);
            scope.spawn(move || {
                doing(dir, file);
                done.send(()).unwrap();
            });
            let is_early = is_done.recv_timeout(Duration::from_millis(100)).is_ok();
            far.line.0.mend();
            is_done.recv_timeout(SOON).unwrap();
            assert!(!is_early, "{name}");
        });
        close(file).unwrap();
        let there = far.far.join(name);
        let expected: &[u8] = if name == "truncate" { b"con" } else { b"content" };
        assert_eq!(fs::read(&there).unwrap(), expected, "{name}");
        assert_eq!(fs::metadata(&there).unwrap().gid(), group, "{name}");
        assert_eq!(fs::read(far.dir.join(name)).unwrap(), expected, "{name}");
        assert_eq!(names(&far.dir), names(&far.far), "{name}");
    }
}

/// Runs `work`, for which nothing has to pass.
fn while_stalled<T: Send + 'static>(far: &Far, work: impl FnOnce() -> T + Send + 'static) -> T {
    far.line.0.stall();
    let (done, is_done) = mpsc::channel();
    let worker = std::thread::spawn(move || done.send(work()));
    let outcome = is_done.recv_timeout(SOON);
    far.line.0.mend();
    worker.join().unwrap().ok();
    outcome.expect("nothing is waited for")
}

#[test]
fn a_directory_that_was_made_here_is_filled_exclusively_while_nothing_passes() {
    const FILES: usize = 60;
    let far = Far::mounted(&["--sync", "async"], one_file);
    let dir = own(&far);
    let then = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    let filled = dir.clone();
    while_stalled(&far, move || {
        for n in 0..FILES {
            let mut file = File::create_new(filled.join(format!("f{n}"))).unwrap();
            write!(file, "content {n}").unwrap();
            file.set_permissions(fs::Permissions::from_mode(0o640)).unwrap();
            file.set_modified(then).unwrap();
            close(file).unwrap();
        }
    });
    // Who would make one again is refused, and who looks waits for all of it.
    let again = File::create_new(dir.join("f0")).unwrap_err();
    assert_eq!(again.kind(), ErrorKind::AlreadyExists);
    assert_eq!(names(&dir).len(), FILES + 1);
    for n in 0..FILES {
        let there = far.far.join(format!("own/f{n}"));
        assert_eq!(fs::read(dir.join(format!("f{n}"))).unwrap(), format!("content {n}").as_bytes());
        assert_eq!(fs::read(&there).unwrap(), format!("content {n}").as_bytes());
        let is = fs::metadata(&there).unwrap();
        assert_eq!((is.mode() & 0o7777, is.modified().unwrap()), (0o640, then));
        assert_eq!(fs::metadata(dir.join(format!("f{n}"))).unwrap().ino(), is.ino());
    }
}

#[test]
fn a_name_that_is_made_exclusively_is_made_once() {
    let far = Far::new(one_file);
    sure(&far);
    // Where others know the directory it is waited for.
    let make = |path: PathBuf| {
        far.line.0.stall();
        let (done, is_done) = mpsc::channel();
        let here = std::thread::spawn(move || done.send(File::create_new(path).map(drop)));
        assert!(is_done.recv_timeout(Duration::from_millis(300)).is_err(), "it was not waited for");
        (here, is_done)
    };
    let (here, is_done) = make(far.dir.join("lock"));
    far.line.0.mend();
    is_done.recv_timeout(SOON).unwrap().unwrap();
    here.join().unwrap().unwrap();
    // Others know of a directory that was made here when they have made something in it.
    let dir = own(&far);
    File::create_new(dir.join("f")).unwrap();
    assert_eq!(File::create_new(dir.join("f")).unwrap_err().kind(), ErrorKind::AlreadyExists);
    fs::write(far.far.join("own/theirs"), "theirs").unwrap();
    e2e::eventually(SOON, "it is seen", || dir.join("theirs").exists());
    let (here, is_done) = make(dir.join("lock"));
    fs::write(far.far.join("own/lock"), "theirs").unwrap();
    far.line.0.mend();
    let refused = is_done.recv_timeout(SOON).unwrap().unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::AlreadyExists);
    here.join().unwrap().unwrap();
}

#[test]
fn what_was_written_to_a_file_that_somebody_else_made_meanwhile_is_beside_it() {
    let far = Far::new(one_file);
    let dir = own(&far);
    let exclusively = OpenOptions::new().write(true).create_new(true).clone();
    let mut file = make_while_stalled(&far, "own/f", &exclusively);
    file.write_all(b"ours").unwrap();
    fs::write(far.far.join("own/f"), "theirs").unwrap();
    far.line.0.mend();
    assert_eq!(close(file).unwrap_err().kind(), ErrorKind::AlreadyExists);
    assert_eq!(fs::read(far.far.join("own/f")).unwrap(), b"theirs");
    assert_eq!(fs::read(dir.join("f")).unwrap(), b"theirs");
    let there = names(&far.far.join("own"));
    let [_, aside, _] = &there[..] else { panic!("{there:?}") };
    assert!(aside.starts_with("f.stead-conflict-"), "{there:?}");
    assert_eq!(fs::read(far.far.join("own").join(aside)).unwrap(), b"ours");
    assert_eq!(names(&dir), there);
}

#[test]
fn what_a_killed_worker_has_promised_in_a_directory_that_was_made_here_is_made() {
    const FILES: usize = 30;
    let far = Far::mounted(&["--sync", "async"], one_file);
    let dir = own(&far);
    let made = dir.clone();
    let worker = far.stead.mount_status(&far.mount.id).unwrap()["worker"]["pid"].as_u64().unwrap();
    let worker = rustix::process::Pid::from_raw(i32::try_from(worker).unwrap()).unwrap();
    let kept = while_stalled(&far, move || {
        let make = |n: usize| {
            let mut file = File::create_new(made.join(format!("f{n}"))).unwrap();
            write!(file, "content {n}").unwrap();
            file
        };
        let kept: Vec<_> = (0..FILES).map(make).collect();
        rustix::process::kill_process(worker, rustix::process::Signal::KILL).unwrap();
        kept
    });
    for (n, mut file) in kept.into_iter().enumerate() {
        write!(file, ", and more").unwrap();
        file.sync_all().unwrap();
        let inode = file.metadata().unwrap().ino();
        close(file).unwrap();
        let there = far.far.join(format!("own/f{n}"));
        assert_eq!(fs::read_to_string(&there).unwrap(), format!("content {n}, and more"));
        assert_eq!(fs::metadata(&there).unwrap().ino(), inode);
    }
    assert_eq!(names(&dir), names(&far.far.join("own")));
}
