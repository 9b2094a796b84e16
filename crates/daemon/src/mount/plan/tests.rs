use super::*;

fn place(dir: &str, source: &str) -> Place {
    let Source::Files { machine, path } = Source::parse_absolute(source.as_bytes()).unwrap() else {
        panic!("not files")
    };
    Place { dir: dir.into(), shows: Shows::Files { machine, path: path.as_path().to_owned() } }
}

fn check(place: &Place, others: &[Place]) -> Result<(), String> {
    let numbered = (1..).map(MountId::new).zip(others);
    check_against(place, numbered).map_err(|error| error.message)
}

/// Where, what, and what is mounted already.
type Case = (&'static str, &'static str, &'static [(&'static str, &'static str)]);

#[test]
fn what_would_contain_itself_is_refused() {
    let cases: &[Case] = &[
        // Its own source.
        ("/src", "host/src", &[]),
        ("/src/sub/m", "host/src", &[]),
        ("/m", "host/", &[]),
        // Taken.
        ("/m", "ssh://box/a", &[("/m", "ssh://other/b")]),
        // Inside a mount of the same tree.
        ("/m/sub", "ssh://box/a", &[("/m", "ssh://box/a")]),
        ("/m/sub", "ssh://box/a/b", &[("/m", "ssh://box/a")]),
        ("/m/sub", "ssh://box/", &[("/m", "ssh://box/a")]),
        ("/m/sub", "host/a", &[("/m", "host/a")]),
        // Its own source by way of another mount: /b shows /a.
        ("/a/y", "host/b", &[("/b", "host/a")]),
        ("/a/x/y", "host/b/x", &[("/b", "host/a")]),
        // The same by way of two.
        ("/a/y", "host/c", &[("/b", "host/a"), ("/c", "host/b")]),
        ("/m/sub", "host/n/b", &[("/n", "ssh://box/a"), ("/m", "ssh://box/a/b")]),
    ];
    for (dir, source, others) in cases {
        let others: Vec<Place> = others.iter().map(|(dir, source)| place(dir, source)).collect();
        assert!(check(&place(dir, source), &others).is_err(), "{source} on {dir}");
    }
}

#[test]
fn what_only_looks_like_it_is_allowed() {
    let cases: &[Case] = &[
        ("/src-mount", "host/src", &[]),
        ("/a/b", "host/a/bc", &[]),
        ("/src/m", "ssh://box/src", &[]),
        ("/m/sub", "ssh://other/a", &[("/m", "ssh://box/a")]),
        ("/m/sub", "ssh://box/b", &[("/m", "ssh://box/a")]),
        ("/m2", "ssh://box/a", &[("/m", "ssh://box/a")]),
        ("/b2", "host/b", &[("/b", "host/a")]),
    ];
    for (dir, source, others) in cases {
        let others: Vec<Place> = others.iter().map(|(dir, source)| place(dir, source)).collect();
        assert_eq!(check(&place(dir, source), &others), Ok(()), "{source} on {dir}");
    }
}

/// A thread with what it sees in place, or a mount of files.
fn seeing(dir: &str, shows: &str) -> Place {
    let Some(sees) = shows.strip_prefix("sees ") else { return place(dir, shows) };
    let shown = ThreadPlace {
        directory: ByteString::from("/state"),
        repository: ByteString::from("/repository"),
        hash: "sha1".to_owned(),
        blobs: ByteString::from("/blobs"),
        blobs_bytes_max: 1,
        sees: (sees != "nothing").then(|| ByteString::from(sees)),
    };
    Place { dir: dir.into(), shows: Shows::Thread(Box::new(shown)) }
}

#[test]
fn a_thread_that_would_see_itself_is_refused() {
    let cases: &[Case] = &[
        // Itself, or what is in it.
        ("/a", "sees /a", &[]),
        ("/a", "sees /a/sub", &[]),
        // By way of one, of two, and of one that it lies in.
        ("/a", "sees /b", &[("/b", "sees /a")]),
        ("/a", "sees /b", &[("/b", "sees /c"), ("/c", "sees /a")]),
        ("/a", "sees /b/sub", &[("/b", "sees /a/sub")]),
        // By way of what else is mounted.
        ("/a", "sees /m/x", &[("/m", "host/home"), ("/home/x", "sees /a")]),
        ("/a", "sees /m/a", &[("/m", "host/")]),
        // What is mounted between two closes it, too.
        ("/m", "host/home", &[("/home/a", "sees /m/a")]),
    ];
    for (dir, shows, others) in cases {
        let others: Vec<Place> = others.iter().map(|(dir, shows)| seeing(dir, shows)).collect();
        let refused = check(&seeing(dir, shows), &others).expect_err(shows);
        assert!(refused.contains("wait for each other"), "{shows} on {dir}: {refused}");
    }
    let way = check(&seeing("/a", "sees /b"), &[seeing("/b", "sees /c"), seeing("/c", "sees /a")]);
    assert_eq!(
        way.expect_err("refused"),
        "`/a` would show what is seen at `/b`, and that what is seen at `/c`, and that what is seen at `/a`, and so itself: \
         they would wait for each other for ever"
    );
}

#[test]
fn threads_that_see_others_are_allowed() {
    let cases: &[Case] = &[
        ("/a", "sees nothing", &[("/b", "sees /a")]),
        ("/a", "sees /b", &[("/b", "sees /c")]),
        ("/a/sub", "sees /a", &[]),
        ("/ab", "sees /a", &[("/a", "sees /c")]),
        ("/a", "sees /m/x", &[("/m", "host/home"), ("/home/y", "sees /a")]),
        ("/a", "sees /m/x", &[("/m", "ssh://box/")]),
        // Others that wait for each other already are none of its.
        ("/a", "sees /b", &[("/b", "sees /c"), ("/c", "sees /b")]),
    ];
    for (dir, shows, others) in cases {
        let others: Vec<Place> = others.iter().map(|(dir, shows)| seeing(dir, shows)).collect();
        assert_eq!(check(&seeing(dir, shows), &others), Ok(()), "{shows} on {dir}");
    }
}

#[test]
fn what_a_mount_of_ours_shows_is_refused_as_a_source_in_one_line() {
    let table = b"22 1 254:0 / / rw - ext4 /dev/root rw\n\
        36 22 0:52 / /m rw - fuse.stead ssh://box/a rw\n\
        37 22 0:53 / /n rw - fuse.sshfs box:/b rw\n";
    let mounts = mountpoint::Mounts::parse(table).unwrap();
    assert!(mounts.ours_of(rustix::fs::makedev(254, 0)).is_none());
    assert!(mounts.ours_of(rustix::fs::makedev(0, 53)).is_none());
    let mount = mounts.ours_of(rustix::fs::makedev(0, 52)).unwrap();
    let refused = inside_a_mount(&Source::parse_absolute(b"host/m/x").unwrap(), mount);
    assert_eq!(refused.kind(), ErrorKind::Conflict);
    assert!(refused.message.ends_with("lies inside the mount of `ssh://box/a` at `/m`"), "{refused}");
}

#[test]
fn mounts_that_show_each_other_are_followed_a_bounded_way() {
    let others = [place("/b", "host/c"), place("/c", "host/b")];
    let _either = check(&place("/d", "host/b"), &others);
}

fn request(source: &str, dir: Option<&str>, cwd: &Path) -> Create {
    Create {
        source: Source::parse(source.as_bytes(), cwd.as_os_str().as_bytes()).unwrap(),
        dir: dir.map(ByteString::from),
        backend: Backend::Auto,
        access: Access::ReadWrite,
        sync: SyncMode::Close,
        reconnect: Reconnect::Automatic,
        heartbeat_interval_ms: None,
        max_heartbeat_failures: None,
        options: BTreeMap::new(),
        caller: Caller { cwd: cwd.into(), ..Caller::default() },
    }
}

struct Scratch {
    _dir: tempfile::TempDir,
    root: PathBuf,
}

fn scratch() -> Scratch {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().canonicalize().unwrap();
    std::fs::create_dir(root.join("src")).unwrap();
    Scratch { _dir: dir, root }
}

impl Scratch {
    fn prepare(&self, source: &str, dir: Option<&str>) -> Result<Plan, ErrorObject> {
        prepare(request(source, dir, &self.root), &self.root.join("mnt"), None)
    }
}

#[test]
fn a_missing_mount_point_is_made_and_unmade() {
    let scratch = scratch();
    let plan = scratch.prepare("src", Some("m")).unwrap();
    assert_eq!(plan.place.dir, scratch.root.join("m"));
    assert!(plan.place.dir.is_dir());
    plan.undo();
    assert!(!scratch.root.join("m").exists());
}

#[test]
fn what_is_in_the_mount_point_is_hidden_only_when_an_option_says_so() {
    let scratch = scratch();
    std::fs::create_dir_all(scratch.root.join("m/inside")).unwrap();
    let cases = [
        (None, Some(ErrorKind::Conflict)),
        (Some(("nonempty", "")), None),
        (Some(("nonempty", "no")), Some(ErrorKind::Conflict)),
        (Some(("no-kernel-mount", "")), None),
    ];
    for (option, refused) in cases {
        let mut request = request("src", Some("m"), &scratch.root);
        request.options.extend(option.map(|(key, value)| (key.to_owned(), value.to_owned())));
        let planned = prepare(request, &scratch.root.join("mnt"), None);
        assert_eq!(planned.err().map(|error| error.kind()), refused, "{option:?}");
    }
}

#[test]
fn an_existing_empty_mount_point_is_used_and_stays() {
    let scratch = scratch();
    std::fs::create_dir(scratch.root.join("m")).unwrap();
    scratch.prepare("src", Some("m")).unwrap().undo();
    assert!(scratch.root.join("m").is_dir());
}

#[test]
fn bad_mount_points_are_refused_and_leave_nothing() {
    let scratch = scratch();
    std::fs::write(scratch.root.join("file"), "").unwrap();
    std::fs::create_dir_all(scratch.root.join("full/x")).unwrap();
    let cases = [
        ("file", ErrorKind::Conflict),
        ("full", ErrorKind::Conflict),
        ("no/such/parent", ErrorKind::NotFound),
        ("file/below", ErrorKind::Conflict),
        ("src/inside", ErrorKind::Conflict),
        ("", ErrorKind::Usage),
    ];
    for (dir, kind) in cases {
        let error = scratch.prepare("src", Some(dir)).unwrap_err();
        assert_eq!(error.kind(), kind, "{dir}: {error}");
        assert!(!error.message.contains("os error"), "{error}");
    }
    assert!(!scratch.root.join("src/inside").exists());
}

#[test]
fn bad_sources_are_refused_before_anything_is_made() {
    let scratch = scratch();
    std::fs::write(scratch.root.join("file"), "").unwrap();
    let cases =
        [("missing", ErrorKind::NotFound), ("file", ErrorKind::Usage), ("thread:x", ErrorKind::Usage)];
    for (source, kind) in cases {
        let error = scratch.prepare(source, Some("m")).unwrap_err();
        assert_eq!(error.kind(), kind, "{source}: {error}");
        assert!(!scratch.root.join("m").exists());
    }
}

#[test]
fn links_in_a_source_or_a_mount_point_do_not_hide_that_it_contains_itself() {
    let scratch = scratch();
    std::os::unix::fs::symlink("src", scratch.root.join("link")).unwrap();
    for (source, dir) in [("link", "src/m"), ("src", "link/m")] {
        let error = scratch.prepare(source, Some(dir)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict, "{source} on {dir}");
        assert!(!scratch.root.join("src/m").exists());
    }
}

#[test]
fn without_a_directory_one_is_named_after_the_source() {
    let scratch = scratch();
    let first = scratch.prepare("src", None).unwrap();
    assert_eq!(first.place.dir, scratch.root.join("mnt/src"));
    std::fs::write(first.place.dir.join("x"), "").unwrap();
    let second = scratch.prepare("src", None).unwrap();
    assert_eq!(second.place.dir, scratch.root.join("mnt/src-2"));
    second.undo();
    std::fs::remove_file(first.place.dir.join("x")).unwrap();
    first.undo();
    assert!(!scratch.root.join("mnt").exists());
}

#[test]
fn unknown_backends_and_too_many_options_are_refused() {
    let scratch = scratch();
    for (backend, refusal) in [
        (Backend::CloudFiles, "cloud-files is for Windows: here fuse or nfs"),
        (Backend::FileProvider, "file-provider is for macOS: here fuse or nfs"),
    ] {
        let request = Create { backend, ..request("src", Some("m"), &scratch.root) };
        let error = prepare(request, &scratch.root, None).unwrap_err();
        assert_eq!((error.kind(), error.message.as_str()), (ErrorKind::Usage, refusal));
    }
    let options = (0..=OPTIONS_MAX).map(|number| (number.to_string(), String::new())).collect();
    let request = Create { options, ..request("src", Some("m"), &scratch.root) };
    assert_eq!(prepare(request, &scratch.root, None).unwrap_err().kind(), ErrorKind::Usage);
}
