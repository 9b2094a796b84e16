use std::path::PathBuf;

use proptest::prelude::*;

use super::*;
use crate::testing::{Repository, repository};

/// A repository whose files are all dated long ago.
fn dated(hash: Hash) -> Repository {
    let repository = repository(hash);
    for path in ["same-beginning-1", "same-beginning-2", "dir/deep/er/d", "a/b/c"] {
        repository.write(path, path.as_bytes());
    }
    repository.git(&["add", "-A"]);
    repository.date_all("2020-02-02T02:02:02.123456789Z");
    repository
}

fn index_of(repository: &Repository) -> PathBuf {
    repository.path().join(".git/index")
}

#[test]
fn what_is_no_file_is_no_index() {
    let scratch = tempfile::tempdir().expect("a directory");
    let path = scratch.path().join("index");
    let (fifo, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU);
    rustix::fs::mknodat(rustix::fs::CWD, &path, fifo, mode, 0).expect("made");
    assert!(GitIndex::read(&path, Hash::Sha1).is_none());
    assert!(GitIndex::read(scratch.path(), Hash::Sha1).is_none());
}

#[test]
fn an_index_of_any_version_tells_what_git_knows() {
    for hash in [Hash::Sha1, Hash::Sha256] {
        let repository = dated(hash);
        for version in ["2", "3", "4"] {
            repository.git(&["update-index", "--index-version", version, "--refresh"]);
            let index = GitIndex::read(&index_of(&repository), hash).expect("an index");
            let staged = repository.git(&["ls-files", "--stage"]);
            for line in staged.lines() {
                let (about, path) = line.split_once('\t').expect("a path");
                let words: Vec<&str> = about.split(' ').collect();
                let known = index.find(path.as_bytes()).unwrap_or_else(|| panic!("{path} of {version}"));
                assert_eq!(
                    (format!("{:o}", known.mode), known.oid.to_string()),
                    (words[0].into(), words[1].into())
                );
                let found = repository.path().join(path).symlink_metadata().expect("there");
                assert_eq!(u64::from(known.size), found.len());
                let dated = Time { seconds: found.mtime(), nanoseconds: 123_456_789 };
                assert_eq!((known.modified.seconds, found.mtime_nsec()), (dated.seconds, 123_456_789));
            }
            assert_eq!(staged.lines().count(), index.entries.len());
            assert_eq!(index.find(b"no such file"), None);
        }
    }
}

#[test]
fn of_what_may_have_been_changed_unnoticed_nothing_is_told() {
    let repository = dated(Hash::Sha1);
    repository.git(&["update-index", "--refresh"]);
    let written = std::fs::metadata(index_of(&repository)).expect("there").modified().expect("dated");
    let file = std::fs::File::options().append(true).open(repository.path().join("file")).expect("there");
    file.set_modified(written).expect("dated");
    repository.git(&["update-index", "--refresh"]);
    let again = std::fs::File::options().append(true).open(index_of(&repository)).expect("there");
    again.set_modified(written).expect("dated");
    let index = GitIndex::read(&index_of(&repository), Hash::Sha1).expect("an index");
    assert_eq!(index.find(b"file"), None);
    assert!(index.find(b"run").is_some());
}

#[test]
fn what_is_no_index_or_not_all_of_one_says_nothing() {
    let repository = dated(Hash::Sha1);
    let path = index_of(&repository);
    let whole = std::fs::read(&path).expect("read");
    for bytes in [&b""[..], b"DIRC", &whole[..whole.len() / 2], b"DIRC\0\0\0\x05\0\0\0\0aaaaaaaaaaaaaaaaaaaa"]
    {
        std::fs::write(&path, bytes).expect("written");
        assert!(GitIndex::read(&path, Hash::Sha1).is_none(), "{} bytes", bytes.len());
    }
    std::fs::write(&path, whole).expect("written");
    repository.git(&["update-index", "--split-index"]);
    assert!(GitIndex::read(&path, Hash::Sha1).is_none(), "most of it is elsewhere");
    assert!(GitIndex::read(&repository.path().join("none"), Hash::Sha1).is_none());
}

#[test]
fn an_index_tells_which_tree_it_is_until_an_entry_is_another() {
    for hash in [Hash::Sha1, Hash::Sha256] {
        let repository = repository(hash);
        let tree = || GitIndex::read(&index_of(&repository), hash).expect("an index").tree();
        let head = || {
            let said = repository.git(&["rev-parse", "HEAD^{tree}"]);
            Some(Oid::from_hex(said.trim().as_bytes()).expect("a tree"))
        };
        assert_eq!(tree(), head());
        for version in ["3", "4", "2"] {
            repository.git(&["update-index", "--index-version", version, "--force-write-index"]);
            assert_eq!(tree(), head(), "{version}");
        }
        repository.write("dir/new", b"new");
        assert_eq!(tree(), head(), "it is not in the index");
        repository.git(&["add", "--intent-to-add", "dir/new"]);
        assert_eq!(tree(), None);
        repository.git(&["add", "dir/new"]);
        assert_eq!(tree(), None);
        repository.git(&["rm", "-q", "--cached", "dir/new"]);
        repository.git(&["read-tree", "HEAD"]);
        assert_eq!(tree(), head());
        repository.git(&["rm", "-q", "--cached", "file"]);
        assert_eq!(tree(), None);
        repository.commit("second");
        assert_eq!(tree(), head());
        repository.git(&["update-index", "--chmod=+x", "dir/a"]);
        assert_eq!(tree(), None);
    }
}

#[test]
fn a_number_is_as_git_writes_it() {
    for (bytes, number) in
        [(&[0][..], 0), (&[0x7f], 127), (&[0x80, 0], 128), (&[0x80, 0x7f], 255), (&[0x81, 0], 256)]
    {
        assert_eq!(varint(bytes), Some((number, bytes.len())));
    }
    assert_eq!(varint(&[0x80]), None);
    assert_eq!(varint(&[0xff; 20]), None);
}

proptest! {
    #[test]
    fn bytes_that_say_anything_are_read(mut bytes: Vec<u8>, version in 2_u8..5, count in 0_u8..3) {
        let mut index = b"DIRC\0\0\0".to_vec();
        index.extend([version, 0, 0, 0, count]);
        index.append(&mut bytes);
        let written = Time { seconds: i64::MAX, nanoseconds: 0 };
        drop(GitIndex::parse(&index, 20, written));
    }
}
