use std::path::Path;

use super::*;
use tempfile::tempdir;

fn export(directory: &Path) -> Export {
    let descriptors = Descriptors { directories_max: 4, files_max: 4, handles_max: 4, locks_max: 4 };
    Export::attach(directory.as_os_str().as_encoded_bytes(), b"/", false, &descriptors).unwrap()
}

fn place(export: &Export, path: &str) -> Place {
    let file = export.resolve(export.root.as_fd(), path.as_bytes()).unwrap();
    let path = RelativePath::new(path.as_bytes()).unwrap();
    Place { id: stat::id_of(&file).unwrap().0, path }
}

#[test]
fn a_kernel_without_openat2_is_no_less_strict() {
    let directory = tempdir().unwrap();
    std::fs::create_dir_all(directory.path().join("a/b")).unwrap();
    std::fs::write(directory.path().join("a/b/file"), b"").unwrap();
    std::os::unix::fs::symlink("b", directory.path().join("a/link")).unwrap();
    let export = export(directory.path());
    for missing in [false, true] {
        export.no_openat2.store(missing, Ordering::Relaxed);
        let resolve = |path: &str| {
            export.resolve(export.root.as_fd(), path.as_bytes()).map(|f| stat::id_of(f).unwrap().1)
        };
        assert_eq!(resolve("a/b/file"), Ok(Kind::File));
        assert_eq!(resolve("a/link"), Ok(Kind::Symlink));
        assert!(resolve("a/link/file").is_err());
        assert!(resolve("a/b/file/more").is_err());
        assert_eq!(resolve("a/absent"), Err(Errno::NOENT));
    }
}

#[test]
fn pieces_are_cut_at_slashes() {
    let long: Vec<u8> = std::iter::repeat_n(vec![b'a'; 255], 40).collect::<Vec<_>>().join(&b'/');
    let (mut rest, mut pieces) = (long.as_slice(), Vec::new());
    while !rest.is_empty() {
        let (piece, behind) = first_piece(rest);
        assert!(piece.len() <= PIECE_BYTES_MAX);
        pieces.push(piece);
        rest = behind;
    }
    assert!(pieces.len() > 2);
    assert_eq!(pieces.join(&b'/'), long);
}

#[test]
fn descriptors_of_files_are_not_kept_and_of_directories_boundedly() {
    let directory = tempdir().unwrap();
    std::fs::write(directory.path().join("file"), b"").unwrap();
    (0..20).for_each(|n| std::fs::create_dir(directory.path().join(format!("d{n}"))).unwrap());
    let export = export(directory.path());
    let file = place(&export, "file");
    export.find(&file).unwrap();
    assert!(export.known(file.id).is_none());
    let places: Vec<Place> = (0..20).map(|n| place(&export, &format!("d{n}"))).collect();
    places.iter().for_each(|place| drop(export.directory(place).unwrap()));
    assert_eq!(places.iter().filter(|place| export.known(place.id).is_some()).count(), 4);
    assert_eq!(export.directory(&file).err(), Some(Errno::NOTDIR));
    export.age();
    export.age();
    assert!(places.iter().all(|place| export.known(place.id).is_none()));
}

#[test]
fn a_file_that_was_kept_is_found_when_its_name_is_anothers_for_a_moment() {
    let directory = tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    std::fs::write(path("file"), b"old").unwrap();
    let export = export(directory.path());
    let (root, name) = (RelativePath::default(), Name::new(&b"file"[..]).unwrap());
    let old = place(&export, "file");
    let replace = || {
        let descriptor = export.resolve(export.root.as_fd(), b"file").unwrap();
        std::fs::write(path("new"), b"new").unwrap();
        std::fs::rename(path("new"), path("file")).unwrap();
        descriptor
    };
    let descriptor = replace();
    assert!(!export.is_contested(&root, &name));
    assert_eq!(export.find(&old).err(), Some(Errno::STALE));
    assert!(export.is_contested(&root, &name));
    export.keep(old.id, descriptor, Why::LookedUp(1));
    assert_eq!(export.find(&old).map(|(_, kind)| kind), Ok(Kind::File));
    export.opened(old.id);
    assert_eq!(export.find(&old).err(), Some(Errno::STALE));

    let replaced = place(&export, "file");
    export.keep(replaced.id, replace(), Why::Replaced);
    export.opened(replaced.id);
    assert!(export.find(&replaced).is_ok());
    (0..3).for_each(|_| export.age_files());
    assert_eq!(export.find(&replaced).err(), Some(Errno::STALE));
}

#[test]
fn the_root_is_meant_by_its_identity() {
    let directory = tempdir().unwrap();
    let export = export(directory.path());
    let root = Place { id: export.root_id, path: RelativePath::default() };
    assert!(export.directory(&root).is_ok());
    let other = Place { id: FileId { birth: 1, ..root.id }, ..root };
    assert_eq!(export.directory(&other).err(), Some(Errno::STALE));
}
