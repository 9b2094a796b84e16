use std::collections::BTreeMap;
use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;
use crate::testing::{Repository, repository};

/// A working copy in all sorts of states at once.
pub(super) fn changed() -> Repository {
    let copy = repository(Hash::Sha1);
    copy.write(".gitignore", b"ignored\n*.log\n");
    copy.commit("second");
    copy.write("file", b"staged\n");
    copy.git(&["add", "file"]);
    copy.write("file", b"staged, and changed again\n");
    copy.write("dir/a", b"changed");
    copy.write("new and staged", b"new");
    copy.git(&["add", "new and staged"]);
    copy.git(&["rm", "-q", "--cached", "dir.txt"]);
    fs::remove_file(copy.path().join("dir/b")).unwrap();
    copy.git(&["rm", "-q", "-r", "dir/deep"]);
    // A directory where a file was.
    fs::remove_file(copy.path().join("empty")).unwrap();
    copy.write("empty/not", b"any more");
    copy.write("untracked/é \"quoted\"\n", b"untracked");
    copy.write("ignored", b"ignored");
    copy.write("a.log", b"ignored");
    copy.write("sub/.env", b"TOKEN=secret");
    copy.write(".env.example", b"TOKEN=");
    fs::set_permissions(copy.path().join("more/same"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::remove_file(copy.path().join("link")).unwrap();
    symlink("elsewhere", copy.path().join("link")).unwrap();
    symlink("/etc", copy.path().join("untracked link")).unwrap();
    copy
}

/// Everything below the repository's own directory, but for what only says when it was read.
fn contents(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    let mut left = vec![directory.to_owned()];
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(&directory).unwrap().flatten() {
            let (path, kind) = (entry.path(), entry.file_type().unwrap());
            let content = match kind.is_symlink() {
                true => fs::read_link(&path).unwrap().into_os_string().into_vec(),
                false if kind.is_dir() => {
                    left.push(path);
                    continue;
                }
                false => fs::read(&path).unwrap(),
            };
            all.insert(path, content);
        }
    }
    all
}

/// A repository with nothing but a pack, as it is made of it elsewhere.
fn unpacked(found: &Found, packed: &Packed) -> Repository {
    let place = packed.file.with_extension("there");
    fs::create_dir(&place).unwrap();
    let there = Repository::at(&place);
    there.git(&["init", "-q", "--template=", &format!("--object-format={}", found.hash)]);
    let kept = place.join(".git/objects/pack/pack.pack");
    fs::create_dir_all(kept.parent().unwrap()).unwrap();
    fs::copy(&packed.file, &kept).unwrap();
    if found.is_cut {
        fs::write(place.join(".git/shallow"), format!("{}\n", found.head)).unwrap();
    }
    there.git(&["index-pack", "--strict", kept.to_str().unwrap()]);
    there
}

fn packed(copy: &Repository, scratch: &Path) -> (Found, Packed) {
    let found = look(copy.path(), &|| true).unwrap();
    let packed = found.pack(scratch, &|| true).unwrap();
    (found, packed)
}

#[test]
fn a_file_that_changed_in_the_moment_of_its_index_goes_as_it_is() {
    let (copy, scratch) = (repository(Hash::Sha1), tempfile::tempdir().unwrap());
    let moment = std::time::SystemTime::now() - Duration::from_secs(100);
    let date = |path: &str| {
        let file = File::options().write(true).open(copy.path().join(path)).unwrap();
        file.set_modified(moment).unwrap();
    };
    copy.write("file", b"one\n");
    date("file");
    copy.git(&["add", "file"]);
    copy.write("file", b"two\n");
    date("file");
    date(".git/index");
    let (found, packed) = packed(&copy, scratch.path());
    let there = unpacked(&found, &packed);
    assert_eq!(there.git(&["show", &format!("{}:file", packed.worked)]), "two\n");
}

#[test]
fn what_is_committed_staged_and_in_files_goes_and_nothing_else_is_touched() {
    let (copy, scratch) = (changed(), tempfile::tempdir().unwrap());
    let before = contents(copy.path());
    let (found, packed) = packed(&copy, scratch.path());
    assert_eq!(before, contents(copy.path()), "nothing of the user's is changed");

    assert_eq!((found.branch.as_deref(), found.is_cut), (Some("main"), true));
    assert_eq!(found.root, copy.path().canonicalize().unwrap());
    assert_eq!(found.left_out, [b"sub/.env".to_vec()]);
    let there = unpacked(&found, &packed);
    let files = |of: &Repository, commit: &str| of.git(&["ls-tree", "-r", "-z", commit]);
    assert_eq!(files(&there, &packed.staged.to_string()), {
        let tree = copy.git(&["write-tree"]);
        files(&copy, tree.trim())
    });
    // As `git add` would have it, less the secret.
    copy.git(&["add", "-A"]);
    copy.git(&["rm", "-q", "--cached", "sub/.env"]);
    let tree = copy.git(&["write-tree"]);
    assert_eq!(packed.tree.to_string(), tree.trim());
    assert_eq!(files(&there, &packed.worked.to_string()), files(&copy, tree.trim()));
    let commits = there.git(&["log", "--format=%H", &packed.worked.to_string()]);
    let expected: Vec<String> =
        [packed.worked, packed.staged, found.head].iter().map(Oid::to_string).collect();
    assert_eq!(commits.lines().collect::<Vec<_>>(), expected, "what is before is not there");
    there.git(&["fsck", "--strict"]);
    let first = copy.git(&["rev-parse", "HEAD^"]);
    assert!(!there.git(&["cat-file", "--batch-check", "--batch-all-objects"]).contains(first.trim()));
}

#[test]
fn nothing_of_the_configuration_goes() {
    let (copy, scratch) = (repository(Hash::Sha1), tempfile::tempdir().unwrap());
    copy.git(&["remote", "add", "origin", "https://user:hunter2@example.org/a"]);
    copy.git(&["config", "credential.helper", "store --file=hunter2"]);
    copy.git(&["config", "http.extraHeader", "Authorization: hunter2"]);
    copy.git(&["branch", "other-hunter2"]);
    copy.write(".git/hooks/pre-commit", b"#!/bin/sh\nhunter2\n");
    copy.write(".env", b"hunter2");
    copy.write(".gitignore", b"kept\n");
    copy.write("kept", b"hunter2");
    let (found, packed) = packed(&copy, scratch.path());
    let there = unpacked(&found, &packed);
    for object in there.git(&["cat-file", "--batch-check=%(objectname)", "--batch-all-objects"]).lines() {
        let content = there.git_bytes(&["cat-file", "-p", object]);
        assert!(!content.windows(7).any(|part| part == b"hunter2"), "{}", String::from_utf8_lossy(&content));
    }
}

#[test]
fn a_detached_head_a_first_commit_and_sha256_go_too() {
    let (copy, scratch) = (repository(Hash::Sha256), tempfile::tempdir().unwrap());
    copy.git(&["checkout", "-q", "--detach"]);
    copy.write("file", b"changed");
    let (found, packed) = packed(&copy, scratch.path());
    assert_eq!((found.branch.as_deref(), found.is_cut, found.hash), (None, false, Hash::Sha256));
    assert_eq!((found.staged, found.unstaged), (0, 1));
    unpacked(&found, &packed).git(&["fsck", "--strict"]);
}

#[test]
fn the_same_state_has_the_same_name() {
    let (copy, one, other) = (changed(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let name = |scratch: &Path| packed(&copy, scratch).1.worked;
    assert_eq!(name(one.path()), name(other.path()));
}

#[test]
fn submodules_repositories_and_what_lfs_has_are_told() {
    let (copy, scratch) = (repository(Hash::Sha1), tempfile::tempdir().unwrap());
    let other = repository(Hash::Sha1);
    let url = other.path().to_str().unwrap();
    copy.git(&["-c", "protocol.file.allow=always", "submodule", "--quiet", "add", url, "libs/other"]);
    copy.write(".gitattributes", b"*.bin filter=lfs -text\n");
    copy.write("large.bin", b"version https://git-lfs.github.com/spec/v1\n");
    copy.commit("with a submodule");
    let inner = Repository::at(&copy.path().join("libs/other"));
    inner.write("file", b"moved");
    inner.commit("moved");
    fs::create_dir(copy.path().join("nested")).unwrap();
    let nested = Repository::at(&copy.path().join("nested"));
    nested.git(&["init", "-q"]);
    nested.write("file", b"nested");
    let (found, packed) = packed(&copy, scratch.path());
    assert_eq!(found.submodules, [b"libs/other".to_vec()]);
    assert_eq!((found.left_out.clone(), found.large), (vec![b"nested/".to_vec()], 1));
    let there = unpacked(&found, &packed);
    // A submodule's place is where it was: what it has moved to is not there.
    let place = |of: &Repository, commit: &str| of.git(&["ls-tree", commit, "libs/other"]);
    assert_eq!(place(&there, &packed.worked.to_string()), place(&copy, "HEAD"));
}

#[test]
fn secrets_that_git_knows_are_found_wherever_it_knows_them() {
    let copy = repository(Hash::Sha1);
    let secrets = || look(copy.path(), &|| true).unwrap().check_secrets();
    copy.write("new.pem", b"stays here");
    assert!(secrets().is_ok());
    copy.write("deploy/é.key", b"committed");
    copy.write("gone/.env", b"committed, and removed since");
    copy.git(&["add", "deploy", "gone"]);
    copy.git(&["commit", "-qm", "with secrets"]);
    copy.git(&["rm", "-q", "-r", "gone"]);
    copy.write(".npmrc", b"staged");
    copy.git(&["add", ".npmrc"]);
    let refused = secrets().unwrap_err();
    let expected = "`.npmrc`, `deploy/é.key` and `gone/.env` are called as secrets are, and belong to what is committed or staged";
    assert_eq!(refused.to_string(), expected);
    match refused {
        Error::Secrets { paths } => {
            assert_eq!(paths, [&b".npmrc"[..], "deploy/é.key".as_bytes(), b"gone/.env"])
        }
        other => panic!("{other}"),
    }
    // Also below: all of the working copy goes.
    let below = look(&copy.path().join("dir"), &|| true).unwrap();
    assert_eq!(below.secrets.len(), 3);
}

#[test]
fn so_many_secrets_are_named_as_can_be_read() {
    let said = |count: usize| {
        let paths = (0..count).map(|at| format!("{at}.key").into_bytes()).collect();
        Error::Secrets { paths }.to_string()
    };
    assert!(said(1).starts_with("`0.key` is called as secrets are, and belongs to"));
    assert!(said(2).starts_with("`0.key` and `1.key` are called as secrets are, and belong to"));
    assert!(said(8).contains("`6.key` and `7.key` are"));
    assert!(said(9).contains("`6.key`, `7.key` and one file more are"));
    assert!(said(1000).contains("`6.key`, `7.key` and 992 files more are"));
}

#[test]
fn secrets_that_came_after_it_was_looked_do_not_go() {
    let copy = repository(Hash::Sha1);
    copy.write("seen.pem", b"somebody said that it goes");
    copy.git(&["add", "seen.pem"]);
    let found = look(copy.path(), &|| true).unwrap();
    let pack = || found.pack(tempfile::tempdir().unwrap().path(), &|| true);
    pack().unwrap();
    copy.write("late/.env", b"staged since");
    copy.git(&["add", "late"]);
    let refused = || match pack().unwrap_err() {
        Error::Secrets { paths } => assert_eq!(paths, [b"late/.env"]),
        other => panic!("{other}"),
    };
    refused();
    copy.git(&["commit", "-qm", "committed since"]);
    refused();
    copy.git(&["rm", "-q", "--cached", "-r", "late"]);
    pack().unwrap();
}

#[test]
fn a_bare_repository_stays_and_is_told() {
    let (copy, scratch) = (repository(Hash::Sha1), tempfile::tempdir().unwrap());
    copy.write("vendor/readme", b"goes");
    copy.write("HEAD", b"of no repository");
    for (name, within) in [("mirror.git", "hooks/own"), ("kept/dot git", "modules/x/config")] {
        let place = copy.path().join(name);
        fs::create_dir_all(&place).unwrap();
        let bare = Repository::at(&place);
        bare.git(&["init", "-q", "--bare", "--template="]);
        bare.git(&["remote", "add", "origin", "https://user:hunter2@example.org/a"]);
        copy.write(&format!("{name}/{within}"), b"hunter2");
        copy.write(&format!("{name}/.env"), b"hunter2");
    }
    // One within another one is not told twice.
    let inner = copy.path().join("mirror.git/modules/inner");
    fs::create_dir_all(&inner).unwrap();
    Repository::at(&inner).git(&["init", "-q", "--bare", "--template="]);
    let (found, packed) = packed(&copy, scratch.path());
    assert_eq!(found.left_out, [b"kept/dot git/".to_vec(), b"mirror.git/".to_vec()]);
    assert_eq!(found.untracked, [b"HEAD".to_vec(), b"vendor/readme".to_vec()]);
    let files = unpacked(&found, &packed).git(&["ls-tree", "-r", "--name-only", &packed.worked.to_string()]);
    assert!(files.contains("vendor/readme") && !files.contains("mirror"), "{files}");
}

#[test]
fn what_cannot_go_is_refused() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path().join("dir");
    fs::create_dir(&dir).unwrap();
    let refused = |dir: &Path| look(dir, &|| true).unwrap_err();
    assert!(matches!(refused(&dir), Error::NoWorkingCopy { .. }));
    let fresh = Repository::at(&dir);
    fresh.git(&["init", "-q"]);
    assert!(matches!(refused(&dir), Error::NoCommit { .. }));

    let copy = repository(Hash::Sha1);
    copy.git(&["checkout", "-q", "-b", "other"]);
    copy.write("file", b"other");
    copy.commit("other");
    copy.git(&["checkout", "-q", "main"]);
    copy.write("file", b"main");
    copy.commit("main");
    let mut merge = Command::new("git");
    merge
        .args(["-c", "user.name=a", "-c", "user.email=a@b", "merge", "-q", "other"])
        .current_dir(copy.path());
    assert!(!merge.output().unwrap().status.success());
    match refused(copy.path()) {
        Error::Unmerged { path, .. } => assert_eq!(path, "file"),
        other => panic!("{other}"),
    }
    assert!(matches!(look(copy.path(), &|| false), Err(Error::CalledOff)));
}

#[test]
fn secrets_are_known_by_their_names() {
    for secret in [
        ".env",
        "a/.env.local",
        ".ENV",
        "deep/.ssh/config",
        "server.PEM",
        "id_ed25519",
        "x/id_ed25519_sk",
        "id_ecdsa_sk",
        "x/.aws/config",
        ".cargo/credentials.toml",
        ".dockercfg",
        "infra/terraform.tfstate",
        "prod.tfstate.backup",
    ] {
        assert!(is_secret(secret.as_bytes()), "{secret}");
    }
    for other in [
        ".env.example",
        "env",
        "environment.rs",
        "id_rsa.pub",
        "id_ed25519_sk.pub",
        "keyboard",
        "pem/readme",
        ".envoy",
        "tfstate",
        "credentials.rs",
    ] {
        assert!(!is_secret(other.as_bytes()), "{other}");
    }
}
