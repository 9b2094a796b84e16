//! The NFS backend through a client that is not ours: libnfs, its tools and its library. The kernel need not have an
//! NFS client: `-o no-kernel-mount` serves without mounting.

#![allow(clippy::unwrap_used, reason = "in a test every unexpected error is a failure")]

mod client;

use std::collections::HashSet;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;
use std::time::Duration;

use client::{Client, build_client};
use e2e::tree::{Compare, assert_same};
use e2e::{Program, Sshd, Stead, eventually};

const NOENT: &str = "err 2";
const EXIST: &str = "err 17";
const ISDIR: &str = "err 21";
const NOTDIR: &str = "err 20";
const NOTEMPTY: &str = "err 39";

/// A tree served over NFS.
struct Served {
    stead: Stead,
    far: PathBuf,
    id: String,
    url: String,
    _sshd: Option<Sshd>,
}

impl Served {
    fn start(machine: &str, args: &[&str]) -> Served {
        let sshd = machine.starts_with("ssh").then(Sshd::start);
        let stead = sshd.as_ref().map_or_else(Stead::new, Stead::with_ssh);
        let far = stead.dir("far");
        let source = format!("{machine}{}", far.display());
        let mount = stead
            .program()
            .args(["mount", "--json", "--backend", "nfs", "-o", "no-kernel-mount"])
            .args(args)
            .arg(source)
            .arg(stead.dir("mnt"))
            .ok();
        let mount: serde_json::Value = serde_json::from_slice(&mount.stdout).unwrap();
        assert_eq!(mount["backend"], "nfs", "{mount}");
        let port = mount["nfs"]["port"].as_u64().or(mount["port"].as_u64());
        let port = port.unwrap_or_else(|| panic!("a mount that is served tells its port: {mount}"));
        let export = mount["nfs"]["export"].as_str().unwrap_or("/").to_owned();
        let url = format!("nfs://127.0.0.1{export}?version=3&nfsport={port}&mountport={port}");
        let id = mount["id"].as_str().unwrap().to_owned();
        Served { stead, far, id, url, _sshd: sshd }
    }

    fn host() -> Served {
        Served::start("host:", &[])
    }

    fn client(&self) -> Client {
        Client::connect(&self.url)
    }

    /// The URL of a path, for the tools of libnfs.
    fn url_of(&self, path: &str) -> String {
        let (base, query) = self.url.split_once('?').unwrap();
        format!("{}/{path}?{query}", base.trim_end_matches('/'))
    }
}

#[test]
fn a_tree_is_the_same_through_nfs_byte_for_byte() {
    for machine in ["host:", "ssh://box"] {
        let served = Served::start(machine, &[]);
        let tree = served.far.join("tree");
        for number in 0..100_usize {
            let dir = tree.join(format!("d{}/e{}", number % 5, number % 3));
            std::fs::create_dir_all(&dir).unwrap();
            std::fs::write(dir.join(format!("f {number}")), vec![number as u8; number * 1000]).unwrap();
        }
        symlink("d0/e0", tree.join("link")).unwrap();
        std::fs::set_permissions(tree.join("d1"), std::fs::Permissions::from_mode(0o750)).unwrap();

        let mut client = served.client();
        let local = served.stead.dir("local");
        client.fetch_tree("/tree", &local.join("tree"));
        assert_same(&tree, &local.join("tree"), Compare { times: false, ..Compare::ALL });
    }
}

#[test]
fn names_are_created_renamed_linked_and_removed() {
    let served = Served::host();
    let mut client = served.client();
    client.ok("mkdir\t/d\t755");
    assert_eq!(client.ask("mkdir\t/d\t755"), EXIST);
    client.put("/d/f", b"contents");
    assert_eq!(std::fs::read(served.far.join("d/f")).unwrap(), b"contents");
    client.ok("rename\t/d/f\t/d/g");
    assert_eq!(client.ask("stat\t/d/f"), NOENT);
    client.ok("link\t/d/g\t/d/h");
    assert_eq!(client.stat("/d/h").links, 2);
    assert_eq!(client.stat("/d/h").inode, client.stat("/d/g").inode);
    assert_eq!(client.ask("rmdir\t/d"), NOTEMPTY);
    assert_eq!(client.ask("rmdir\t/d/g"), NOTDIR);
    assert_eq!(client.ask("unlink\t/d"), ISDIR);
    client.ok("unlink\t/d/g");
    assert_eq!(client.get("/d/h"), b"contents");
    client.ok("unlink\t/d/h");
    client.ok("rmdir\t/d");
    assert_eq!(std::fs::read_dir(&served.far).unwrap().count(), 0);
}

#[test]
fn a_rename_replaces_what_is_there() {
    let served = Served::host();
    let mut client = served.client();
    client.put("/from", b"new");
    client.put("/to", b"old");
    client.ok("rename\t/from\t/to");
    assert_eq!(client.get("/to"), b"new");
    client.ok("mkdir\t/a\t755");
    client.put("/a/f", b"moved with its directory");
    client.ok("rename\t/a\t/b");
    assert_eq!(client.get("/b/f"), b"moved with its directory");
}

#[test]
fn symlinks_and_special_files_are_made_and_read() {
    let served = Served::host();
    let mut client = served.client();
    client.ok("symlink\tsome/where else\t/l");
    assert_eq!(std::fs::read_link(served.far.join("l")).unwrap().to_str(), Some("some/where else"));
    assert_eq!(client.ask("readlink\t/l"), "ok\tsome/where else");
    assert_eq!(client.ask("readlink\t/absent"), NOENT);
    client.ok("mkfifo\t/fifo");
    let kind =
        rustix::fs::FileType::from_raw_mode(served.far.join("fifo").symlink_metadata().unwrap().mode());
    assert_eq!(kind, rustix::fs::FileType::Fifo);
}

#[test]
fn attributes_are_set() {
    let served = Served::host();
    let mut client = served.client();
    client.put("/f", &[7; 1000]);
    client.ok("chmod\t/f\t640");
    client.ok("utimes\t/f\t1234567890");
    let there = served.far.join("f").metadata().unwrap();
    assert_eq!((there.mode() & 0o7777, there.mtime()), (0o640, 1_234_567_890));
    let here = client.stat("/f");
    assert_eq!((here.mode & 0o7777, here.size, here.mtime), (0o640, 1000, 1_234_567_890));
    client.ok("truncate\t/f\t10");
    assert_eq!(client.get("/f"), [7; 10]);
    client.ok("truncate\t/f\t5000000000");
    assert_eq!(client.stat("/f").size, 5_000_000_000);
    if e2e::stead::is_root() {
        client.ok("chown\t/f\t1\t2");
        let there = served.far.join("f").metadata().unwrap();
        assert_eq!((there.uid(), there.gid()), (1, 2));
    }
}

#[test]
fn a_write_changes_exactly_its_range() {
    let served = Served::host();
    let mut client = served.client();
    client.put("/f", &[b'.'; 100_000]);
    client.ok("patch\t/f\t50000\there");
    client.ok("patch\t/f\t100010\tbeyond");
    let mut expected = vec![b'.'; 100_000];
    expected[50_000..50_004].copy_from_slice(b"here");
    expected.resize(100_010, 0);
    expected.extend(b"beyond");
    assert_eq!(std::fs::read(served.far.join("f")).unwrap(), expected);
    assert_eq!(client.get("/f"), expected);
}

#[test]
fn a_gibibyte_goes_there_and_comes_back() {
    let served = Served::host();
    let local = served.stead.dir("local");
    let (original, back) = (local.join("original"), local.join("back"));
    // Not compressible and not repeating, so that no piece can stand in for another.
    Program::new("sh").args(["-ec", "head -c 1073741824 /dev/urandom > \"$1\"", "sh"]).arg(&original).ok();
    let minutes = Duration::from_secs(300);
    Program::new("nfs-cp").arg(&original).arg(served.url_of("big")).deadline(minutes).ok();
    Program::new("cmp").arg(&original).arg(served.far.join("big")).ok();
    Program::new("nfs-cp").arg(served.url_of("big")).arg(&back).deadline(minutes).ok();
    Program::new("cmp").arg(&original).arg(&back).ok();
}

#[test]
fn ten_thousand_names_are_made_and_listed() {
    let served = Served::host();
    let mut client = served.client();
    client.ok("mkdir\t/d\t755");
    client.ok("many\t/d\t10000");
    assert_eq!(std::fs::read_dir(served.far.join("d")).unwrap().count(), 10_000);
    let listed = client.list("/d");
    assert_eq!(listed.len(), 10_000 + 2);
    assert_eq!(listed.iter().collect::<HashSet<_>>().len(), listed.len());
    assert!((0..10_000).all(|number| listed.contains(&format!("name-{number:05}"))));
}

#[test]
fn the_tools_of_libnfs_list_and_show() {
    let served = Served::host();
    std::fs::create_dir(served.far.join("d")).unwrap();
    std::fs::write(served.far.join("d/a file"), "through nfs-cat\n").unwrap();
    std::fs::write(served.far.join("plain"), "plain\n").unwrap();
    let listing = Program::new("nfs-ls").arg("-R").arg(&served.url).ok().text();
    assert!(listing.contains("d/a file") && listing.contains("plain"), "{listing}");
    assert_eq!(Program::new("nfs-cat").arg(served.url_of("plain")).ok().text(), "plain\n");
}

#[test]
fn absent_and_misused_names_are_refused_with_their_errno() {
    let served = Served::host();
    let mut client = served.client();
    client.put("/f", b"x");
    assert_eq!(client.ask("stat\t/absent"), NOENT);
    assert_eq!(client.ask("unlink\t/absent"), NOENT);
    assert_eq!(client.ask("rename\t/absent\t/x"), NOENT);
    assert_eq!(client.ask("ls\t/f"), NOTDIR);
    assert_eq!(client.ask("stat\t/f/x"), NOTDIR);
    let too_long = "n".repeat(256);
    assert_eq!(client.ask(&format!("mkdir\t/{too_long}\t755")), "err 36");
    client.ok(&format!("mkdir\t/{}\t755", "n".repeat(255)));
}

#[test]
fn names_of_any_bytes_pass() {
    let served = Served::host();
    let mut client = served.client();
    for name in ["sp ace", "qu\"ote", "\u{fc}ml\u{e4}ut", "semi;colon&amp", "%41"] {
        client.put(&format!("/{name}"), name.as_bytes());
        assert_eq!(std::fs::read(served.far.join(name)).unwrap(), name.as_bytes());
        assert!(client.list("/").contains(&name.to_owned()), "{name}");
    }
}

#[test]
fn the_disk_is_described() {
    let served = Served::host();
    let there = rustix::fs::statvfs(&served.far).unwrap();
    assert_eq!(
        served.client().ask("statvfs\t/"),
        format!("ok {} {}", there.f_blocks * there.f_frsize, there.f_files)
    );
}

#[test]
fn an_open_file_survives_its_replacement() {
    let served = Served::host();
    let mut client = served.client();
    client.put("/f", b"old");
    client.put("/g", b"new");
    client.ok("hold\t/f");
    client.ok("rename\t/g\t/f");
    assert_eq!(client.get("/f"), b"new");
    // NFSv3 has no opens: the server may keep what a handle meant, or say that it is stale. Never another file.
    let through_the_handle = client.ask("read-held");
    // (libnfs says EFAULT for a stale handle.)
    assert!(["ok\told", "err 116", "err 14"].contains(&through_the_handle.as_str()), "{through_the_handle}");
}

#[test]
fn a_read_only_export_refuses_changes() {
    let served = Served::start("host:", &["--read-only"]);
    std::fs::write(served.far.join("f"), "x").unwrap();
    let mut client = served.client();
    assert_eq!(client.get("/f"), b"x");
    assert_eq!(client.ask("mkdir\t/d\t755"), "err 30");
    assert_eq!(client.ask("unlink\t/f"), "err 30");
}

#[test]
fn changes_on_the_machine_are_seen() {
    let served = Served::host();
    let mut client = served.client();
    client.put("/f", b"first");
    std::fs::write(served.far.join("f"), "second!").unwrap();
    std::fs::write(served.far.join("new"), "x").unwrap();
    // A client of its own has no cache of attributes.
    eventually(Duration::from_secs(5), "the change is seen", || served.client().get("/f") == b"second!");
    eventually(Duration::from_secs(5), "the name is seen", || {
        served.client().list("/").contains(&"new".to_owned())
    });
}

#[test]
fn the_port_is_on_the_loopback_only_and_closes_with_the_mount() {
    let served = Served::host();
    let port = served.url.split_once("nfsport=").unwrap().1.split('&').next().unwrap().to_owned();
    let hex = format!("{:04X}", port.parse::<u16>().unwrap());
    let listening = || {
        ["/proc/net/tcp", "/proc/net/tcp6"]
            .iter()
            .flat_map(|file| {
                std::fs::read_to_string(file)
                    .unwrap_or_default()
                    .lines()
                    .map(str::to_owned)
                    .collect::<Vec<_>>()
            })
            .filter_map(|line| {
                let fields: Vec<&str> = line.split_whitespace().collect();
                let is_it = fields.get(1)?.ends_with(&format!(":{hex}")) && *fields.get(3)? == "0A";
                is_it.then(|| fields[1].to_owned())
            })
            .collect::<Vec<String>>()
    };
    assert_eq!(listening(), [format!("0100007F:{hex}")]);
    served.stead.ok(&["unmount", &served.id]);
    assert!(listening().is_empty());
}

#[test]
fn the_client_is_built_once() {
    assert_eq!(build_client(), build_client());
}
