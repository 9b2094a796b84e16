use std::collections::BTreeMap;

use super::*;
use crate::testing::{Repository, repository};

fn read(objects: &Objects, entry: &IndexEntry) -> Result<Vec<u8>> {
    let mut content = Vec::new();
    let oid = entry.oid.expect("a blob");
    objects.write_blob(&oid, entry.size, &mut content, Path::new("memory"))?;
    Ok(content)
}

fn entry(objects: &Objects, tree: &Oid, name: &str) -> IndexEntry {
    let index = objects.index(tree).expect("a directory");
    let number = index.find(name.as_bytes()).expect("a name");
    index.get(number).expect("its entry").clone()
}

/// All files of a revision, by path: what git says they hold.
fn expected(repository: &Repository) -> BTreeMap<String, Vec<u8>> {
    let paths = repository.git(&["ls-tree", "-r", "--name-only", "-z", "HEAD"]);
    let paths = paths.split('\0').filter(|path| !path.is_empty());
    paths.map(|path| (path.to_owned(), repository.git_bytes(&["show", &format!("HEAD:{path}")]))).collect()
}

fn found(objects: &Objects, tree: &Oid, above: &str, all: &mut BTreeMap<String, Vec<u8>>) {
    let index = objects.index(tree).expect("a directory");
    for number in 0..index.count() {
        let entry = index.get(number).expect("an entry");
        assert_eq!(index.find(&entry.name), Some(number));
        let path = format!("{above}{}", String::from_utf8_lossy(&entry.name));
        match (entry.kind, entry.oid) {
            (Kind::Directory, Some(oid)) => found(objects, &oid, &format!("{path}/"), all),
            (Kind::Directory, None) => {}
            _ => {
                let content = read(objects, entry).expect("a content");
                assert_eq!(content.len() as u64, entry.size, "{path}");
                all.insert(path, content);
            }
        }
    }
}

fn check_all(repository: &Repository) {
    let objects = Objects::discover(repository.path()).expect("a repository");
    let revision = objects.resolve("HEAD").expect("a commit");
    assert_eq!(revision.commit.to_string(), repository.git(&["rev-parse", "HEAD"]).trim());
    let mut all = BTreeMap::new();
    found(&objects, &revision.tree, "", &mut all);
    let expected = expected(repository);
    assert!(expected.len() > 5);
    assert_eq!(all, expected);
}

#[test]
fn loose_objects_are_what_git_says() {
    check_all(&repository(Hash::Sha1));
}

#[test]
fn packed_objects_are_what_git_says() {
    let repository = repository(Hash::Sha1);
    // So alike that one is a delta of the other.
    let long: String = (0..4000).map(|line| format!("line {line}\n")).collect();
    repository.write("long-1", long.as_bytes());
    repository.write("long-2", format!("{long}one more\n").as_bytes());
    repository.commit("alike");
    repository.git(&["repack", "-adfq", "--window=50", "--depth=50"]);
    repository.git(&["prune-packed"]);
    assert!(repository.git(&["count-objects"]).starts_with("0 objects"));
    check_all(&repository);
}

#[test]
fn objects_named_by_sha256_are_what_git_says() {
    check_all(&repository(Hash::Sha256));
}

#[test]
fn objects_of_alternates_are_what_git_says() {
    let first = repository(Hash::Sha1);
    let scratch = tempfile::tempdir().expect("a directory");
    let path = scratch.path().join("clone");
    let from = first.path().to_str().expect("a path in UTF-8");
    first.git(&["clone", "-q", "--shared", from, path.to_str().expect("a path in UTF-8")]);
    let clone = Repository::at(&path);
    clone.write("only here", b"of the clone");
    clone.commit("more");
    check_all(&clone);
}

#[test]
fn a_pack_that_gc_replaces_meanwhile_is_no_error() {
    let repository = repository(Hash::Sha1);
    repository.git(&["repack", "-adq"]);
    let objects = Objects::discover(repository.path()).expect("a repository");
    let revision = objects.resolve("HEAD").expect("a commit");
    let file = entry(&objects, &revision.tree, "file");
    repository.write("one-more", b"so that the pack is another");
    repository.commit("more");
    repository.git(&["repack", "-adq"]);
    repository.git(&["prune", "--expire=now"]);
    assert_eq!(read(&objects, &file).expect("still there"), b"content\n");
    let later = objects.resolve("HEAD").expect("a commit");
    assert_eq!(read(&objects, &entry(&objects, &later.tree, "one-more")).expect("there").len(), 27);
}

#[test]
fn a_worktree_has_the_objects_of_its_repository() {
    let repository = repository(Hash::Sha1);
    let scratch = tempfile::tempdir().expect("a directory");
    let path = scratch.path().join("tree");
    repository.git(&["worktree", "add", "-q", "--detach", path.to_str().expect("a path in UTF-8")]);
    let objects = Objects::discover(&path).expect("a repository");
    assert_eq!(objects.repository(), repository.path().join(".git").canonicalize().expect("there"));
}

#[test]
fn a_repository_is_found_whatever_its_name() {
    let repository = repository(Hash::Sha256);
    let odd = repository.path().with_file_name("two\nlines, \"quoted\" ");
    std::fs::rename(repository.path(), &odd).expect("renamed");
    let objects = Objects::discover(&odd.join("dir")).expect("a repository");
    assert_eq!(objects.repository(), odd.join(".git").canonicalize().expect("there"));
    objects.resolve("HEAD").expect("a commit");
}

#[test]
fn kinds_and_modes_are_those_of_the_tree() {
    let repository = repository(Hash::Sha1);
    let objects = Objects::discover(repository.path()).expect("a repository");
    let tree = objects.resolve("HEAD").expect("a commit").tree;
    let of = |name| {
        let entry = entry(&objects, &tree, name);
        (entry.kind, entry.is_executable, entry.size)
    };
    assert_eq!(of("file"), (Kind::File, false, 8));
    assert_eq!(of("run"), (Kind::File, true, 10));
    assert_eq!(of("link"), (Kind::Symlink, false, 4));
    assert_eq!(of("dir"), (Kind::Directory, false, 0));
    let link = entry(&objects, &tree, "link");
    assert_eq!(objects.link(&link.oid.expect("a blob"), link.size).expect("read"), b"file");
}

#[test]
fn a_submodule_is_an_empty_place() {
    let repository = repository(Hash::Sha1);
    let oid = "1234567890123456789012345678901234567890";
    repository.git(&["update-index", "--add", "--cacheinfo", &format!("160000,{oid},module")]);
    repository.git(&["commit", "-qm", "a submodule"]);
    let objects = Objects::discover(repository.path()).expect("a repository");
    let tree = objects.resolve("HEAD").expect("a commit").tree;
    let module = entry(&objects, &tree, "module");
    assert_eq!((module.kind, module.oid), (Kind::Directory, None));
}

#[test]
fn a_large_blob_is_streamed_and_compared() {
    let repository = repository(Hash::Sha1);
    let line: Vec<u8> = (0..=255).collect();
    let large =
        [&line.repeat(usize::try_from(STREAM_BYTES_MIN).expect("fits") / line.len()), &b"end"[..]].concat();
    repository.write("large", &large);
    repository.commit("large");
    let objects = Objects::discover(repository.path()).expect("a repository");
    let tree = objects.resolve("HEAD").expect("a commit").tree;
    let large_entry = entry(&objects, &tree, "large");
    assert!(read(&objects, &large_entry).expect("streamed") == large);
    // What git says is of another object.
    let mut from: &[u8] = b"not this";
    let oid = large_entry.oid.expect("a blob");
    let copied = objects.copy_hashed(&oid, 8, &mut from, &mut Vec::new(), Path::new("memory"));
    assert!(matches!(copied, Err(Error::Corrupt { .. })));
}

#[test]
fn an_object_that_is_gone_is_an_error_and_no_absence() {
    let repository = repository(Hash::Sha1);
    let objects = Objects::discover(repository.path()).expect("a repository");
    let tree = objects.resolve("HEAD").expect("a commit").tree;
    let file = entry(&objects, &tree, "file");
    let oid = file.oid.expect("a blob").to_string();
    std::fs::remove_file(repository.object(&oid)).expect("removed");
    let error = read(&objects, &file).expect_err("gone");
    assert!(matches!(error, Error::Missing { .. }), "{error}");
    assert_eq!(error.errno(), rustix::io::Errno::IO);
}

#[test]
fn an_object_that_is_another_is_refused() {
    let repository = repository(Hash::Sha1);
    let objects = Objects::discover(repository.path()).expect("a repository");
    let tree = objects.resolve("HEAD").expect("a commit").tree;
    let (file, run) = (entry(&objects, &tree, "file"), entry(&objects, &tree, "run"));
    let path = |entry: &IndexEntry| repository.object(&entry.oid.expect("a blob").to_string());
    let other = std::fs::read(path(&run)).expect("read");
    std::fs::remove_file(path(&file)).expect("removed");
    std::fs::write(path(&file), other).expect("written");
    let error = read(&objects, &file).expect_err("another's content");
    assert!(matches!(error, Error::Corrupt { .. }), "{error}");
}

#[test]
fn names_that_no_file_can_have_are_refused() {
    let repository = repository(Hash::Sha1);
    let objects = Objects::discover(repository.path()).expect("a repository");
    for name in ["..", ".", ".git", ".GIT", "a/b"] {
        let mut tree = format!("100644 {name}\0").into_bytes();
        tree.extend_from_slice(Oid::empty_blob(Hash::Sha1).as_slice());
        let oid = repository.hash_object("tree", &tree);
        let error = objects.index(&oid).expect_err(name);
        assert!(matches!(error, Error::Corrupt { .. }), "{name}: {error}");
    }
}

#[test]
fn a_revision_that_is_none_is_refused() {
    let repository = repository(Hash::Sha1);
    let objects = Objects::discover(repository.path()).expect("a repository");
    for revision in ["no-such-branch", "HEAD:file", "--all", ""] {
        assert!(matches!(objects.resolve(revision), Err(Error::Git { .. })), "{revision}");
    }
    let nowhere = tempfile::tempdir().expect("a directory");
    assert!(matches!(Objects::discover(nowhere.path()), Err(Error::Git { .. })));
}

#[test]
fn directories_that_were_read_last_are_kept() {
    let mut indexes = Indexes::default();
    let oid = |number: u32| {
        gix_object::compute_hash(Hash::Sha1, gix_object::Kind::Tree, &number.to_le_bytes()).expect("hashed")
    };
    let name: Name = vec![b'n'; 200].into();
    let entry = IndexEntry { name, kind: Kind::File, is_executable: false, oid: None, size: 0 };
    let index = Arc::new(Index { entries: vec![entry; 2000].into() });
    let fit = u32::try_from(INDEX_BYTES_MAX / index.bytes()).expect("few");
    for number in 0..fit + 1 {
        indexes.keep(oid(number), index.clone());
        assert!(indexes.get(&oid(0)).is_some(), "it was used last");
        assert!(indexes.bytes <= INDEX_BYTES_MAX);
    }
    assert!(indexes.get(&oid(1)).is_none());
    assert_eq!(indexes.bytes, indexes.known.len() * index.bytes());
}

#[test]
fn only_what_is_the_users_is_left_in_gits_environment() {
    for left in ["GIT_DIR", "GIT_CONFIG_COUNT", "GIT_AUTHOR_DATE", "GIT_TRACE", "GIT_CEILING_DIRECTORIES"] {
        assert!(is_left_by_others(OsStr::new(left)), "{left}");
    }
    for kept in ["PATH", "GIT", "GITHUB_TOKEN", "GIT_CONFIG_GLOBAL", "GIT_SSH_COMMAND"] {
        assert!(!is_left_by_others(OsStr::new(kept)), "{kept}");
    }
}
