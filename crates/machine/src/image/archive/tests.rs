use std::path::PathBuf;
use std::process::{Command, Stdio};

use proptest::prelude::*;

use super::super::root::examine_archive;
use super::*;

/// An archive that is being made.
struct Making(tar::Builder<Vec<u8>>);

impl Making {
    fn new() -> Making {
        Making(tar::Builder::new(Vec::new()))
    }

    /// An entry, whatever its name is.
    fn entry(mut self, name: &str, kind: EntryType, target: &str, content: &[u8]) -> Making {
        let mut header = Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
        header.set_entry_type(kind);
        header.set_size(content.len() as u64);
        header.set_mode(0o4755);
        header.set_uid(70_000);
        header.set_gid(5);
        header.set_mtime(4_000_000_000);
        if matches!(kind, EntryType::Char | EntryType::Block) {
            header.set_device_major(8).unwrap();
            header.set_device_minor(300).unwrap();
        }
        header.set_cksum();
        self.0.append(&header, content).unwrap();
        self
    }

    fn file(self, name: &str, content: &[u8]) -> Making {
        self.entry(name, EntryType::Regular, "", content)
    }

    fn end(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

/// The header of an entry called `a` that says that it has so many bytes.
fn header(kind: EntryType, bytes: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_path("a").unwrap();
    header.set_entry_type(kind);
    header.set_size(bytes);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_cksum();
    header
}

fn course() -> (Course, crate::course::Client) {
    Course::new(|_| ()).unwrap()
}

fn scanned(bytes: &[u8]) -> Result<Tree> {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("root.tar");
    std::fs::write(&path, bytes).unwrap();
    scan(&path, &course().0)
}

/// The length, the key and the value of what is said of an entry.
fn described(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let length = (rest..).find(|length| length.to_string().len() + rest == *length).unwrap();
    [format!("{length} {key}=").as_bytes(), value, b"\n"].concat()
}

/// What a program of e2fsprogs says, if it ends well.
fn asked(program: &str, arguments: &[&str], image: &Path) -> String {
    let program = crate::program::find(program).unwrap();
    let answer = Command::new(program).args(arguments).arg(image).stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&[answer.stdout, answer.stderr].concat()).into_owned();
    assert!(answer.status.success(), "{said}");
    said
}

fn make(bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let scratch = tempfile::tempdir().unwrap();
    let (from, to) = (scratch.path().join("root.tar"), scratch.path().join("root.ext4"));
    std::fs::write(&from, bytes).unwrap();
    let (course, _client) = course();
    examine_archive(&from, &course).unwrap().write(&to, &course).unwrap();
    asked("e2fsck", &["-f", "-n"], &to);
    (scratch, to)
}

#[test]
fn a_file_system_has_what_the_archive_has() {
    let long = "t".repeat(90);
    let mut many = Making::new().entry("many/", EntryType::Directory, "", b"");
    for number in 0..3000 {
        many = many.file(&format!("many/a-name-of-some-length-{number}"), b"");
    }
    let archive = many
        .entry(
            "",
            EntryType::XHeader,
            "",
            &described("SCHILY.xattr.security.capability", b"\x01\0\0\x02\n234567890123456789"),
        )
        .file("bin/ping", b"program")
        .entry("bin/other", EntryType::Link, "./bin/ping", b"")
        .entry("short", EntryType::Symlink, "bin/ping", b"")
        .entry("long", EntryType::Symlink, &long, b"")
        .entry("disk", EntryType::Block, "", b"")
        .entry("pipe", EntryType::Fifo, "", b"")
        .end();
    let (_scratch, image) = make(&archive);
    let ask = |request: &str| asked("debugfs", &["-R", request], &image);
    assert!(ask("cat /bin/other").contains("program"));
    let stat = ask("stat /bin/ping");
    for said in
        ["Mode:  04755", "User: 70000", "Group:     5", "Links: 2", "2 07:06:40 2096", "security.capability"]
    {
        assert!(stat.contains(said), "{said}: {stat}");
    }
    assert!(ask("stat /short").contains("Fast link dest: \"bin/ping\""));
    assert!(ask("cat /long").contains(&long));
    assert!(ask("stat /disk").contains("08:300"), "{}", ask("stat /disk"));
    assert!(ask("stat /pipe").contains("FIFO"));
    assert_eq!(ask("ls -l /many").matches("a-name-of-some-length").count(), 3000);
}

#[test]
fn a_file_over_many_groups_is_whole_and_its_zeros_take_no_room() {
    // Of 127 MiB that a group has at the most: five groups, whose extents have a block of their own.
    let bytes: u64 = 560 << 20;
    let header = header(EntryType::Regular, bytes);
    let zeros = |bytes: u64| io::repeat(0).take(bytes);
    let content = zeros(bytes / 2).chain(&b"middle"[..]).chain(zeros(bytes / 2 - 9)).chain(&b"end"[..]);
    let stream = header.as_bytes().chain(content).chain(zeros(1024));
    let (_scratch, image) = make(&zstd::stream::encode_all(stream, 1).unwrap());
    let found = std::fs::metadata(&image).unwrap();
    let occupied = std::os::unix::fs::MetadataExt::blocks(&found) * 512;
    assert!(found.len() > bytes && occupied < 1 << 20, "{occupied} of {}", found.len());
    let dump = image.with_extension("dump");
    asked("debugfs", &["-R", &format!("dump /a {}", dump.display())], &image);
    let content = std::fs::read(dump).unwrap();
    assert_eq!(content.len() as u64, bytes);
    let at = content.len() / 2;
    assert_eq!((&content[at..at + 6], &content[content.len() - 3..]), (&b"middle"[..], &b"end"[..]));
    let zeros = vec![0; 1 << 20];
    assert_eq!(content.chunks(zeros.len()).filter(|chunk| **chunk != zeros[..chunk.len()]).count(), 2);
}

#[test]
fn what_would_lead_out_of_the_root_is_refused() {
    let link = |to: &str| Making::new().file("file", b"").entry("link", EntryType::Link, to, b"").end();
    let hostile = [
        Making::new().file("../escaped", b"").end(),
        Making::new().file("a/../../escaped", b"").end(),
        link("../escaped"),
        link("/etc/passwd"),
        link("link"),
        link(""),
        Making::new().file("file", b"").file("file/below", b"").end(),
        Making::new().entry("out", EntryType::Symlink, "/nowhere", b"").file("out/escaped", b"").end(),
        Making::new().entry("x", EntryType::XHeader, "", &described("path", b"../a")).file("a", b"").end(),
    ];
    for (number, archive) in hostile.into_iter().enumerate() {
        let refused = scanned(&archive).unwrap_err();
        assert_eq!(refused.kind, ErrorKind::Usage, "{number}: {refused}");
    }
}

#[test]
fn what_has_no_end_is_refused_at_once() {
    let says = |kind: EntryType, bytes: u64| scanned(header(kind, bytes).as_bytes()).unwrap_err().message;
    assert!(says(EntryType::Regular, UNPACKED_BYTES_MAX + 1).contains("more than 64 GiB"));
    for kind in [EntryType::XHeader, EntryType::XGlobalHeader, EntryType::GNULongName] {
        assert!(says(kind, EXTENSION_BYTES_MAX + 1).contains("too long"), "{kind:?}");
        assert!(says(kind, 9).contains("cut off"), "{kind:?}");
    }
    let mut behind = Making::new();
    for _ in 0..=EXTENSIONS_MAX {
        behind = behind.entry("x", EntryType::GNULongName, "", b"a\0");
    }
    assert!(scanned(&behind.file("a", b"").end()).unwrap_err().message.contains("too many"));
}

#[test]
fn an_archive_is_read_whatever_packs_it_and_others_are_named() {
    let archive = Making::new().file("a", b"content").end();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    io::Write::write_all(&mut gzip, &archive).unwrap();
    for packed in
        [archive.clone(), gzip.finish().unwrap(), zstd::stream::encode_all(&archive[..], 1).unwrap()]
    {
        assert_eq!(scanned(&packed).unwrap().walk().len(), 2);
        for cut in [600, packed.len() / 3, 20] {
            assert!(cut >= packed.len() || scanned(&packed[..cut]).is_err(), "{cut} of {}", packed.len());
        }
    }
    assert!(scanned(b"\xfd7zXZ\0 and more").unwrap_err().message.contains("xz"));
    assert!(scanned(&[7; 1024]).unwrap_err().message.contains("no tar"));
}

#[test]
fn an_archive_that_changes_while_it_is_read_is_refused() {
    let scratch = tempfile::tempdir().unwrap();
    let (from, to) = (scratch.path().join("root.tar"), scratch.path().join("root.ext4"));
    let (course, client) = course();
    std::fs::write(&from, Making::new().file("a", b"before").end()).unwrap();
    let examined = examine_archive(&from, &course).unwrap();
    std::fs::write(&from, Making::new().file("a", b"afterwards").end()).unwrap();
    assert_eq!(examined.write(&to, &course).unwrap_err().kind, ErrorKind::Conflict);
    drop(client);
    assert_eq!(scan(&from, &course).unwrap_err().kind, ErrorKind::Interrupted);
}

proptest! {
    #[test]
    fn no_bytes_are_more_than_refused(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..40)) {
        let mut archive = Making::new()
            .entry("x", EntryType::XHeader, "", &described("path", b"a/b"))
            .file("a", b"content")
            .entry("l", EntryType::Symlink, "a", b"")
            .end();
        for (at, byte) in changes {
            let at = at.index(archive.len());
            archive[at] = byte;
            // The sums are right, so that more than these is looked at.
            for header in archive.chunks_mut(BLOCK_BYTES) {
                let mut fixed = Header::from_byte_slice(header).clone();
                if fixed.as_bytes()[257..262] == *b"ustar" {
                    fixed.set_cksum();
                    header.copy_from_slice(fixed.as_bytes());
                }
            }
        }
        let mut archive = Archive::new(&archive[..], 0);
        let mut tree = Tree::default();
        while let Ok(Some(Entry { path, item: Item::File(kind), owner, .. })) = archive.next() {
            drop(tree.put(&path, kind, owner));
        }
    }
}
