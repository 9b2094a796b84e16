use std::path::Path;

use proptest::prelude::*;
use tar::{EntryType, Header};

use super::super::tree::{NodeId, ROOT};
use super::*;

type Said<'a> = (&'a str, EntryType, &'a str);

/// A layer of these entries: path, kind, and target or content.
fn packed(entries: &[Said<'_>]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, kind, text) in entries {
        let mut header = Header::new_gnu();
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        let is_link = matches!(kind, EntryType::Symlink | EntryType::Link);
        let (target, content) = if is_link { (*text, "") } else { ("", *text) };
        header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
        header.set_entry_type(*kind);
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_cksum();
        builder.append(&header, content.as_bytes()).unwrap();
    }
    builder.into_inner().unwrap()
}

fn file<'a>(path: &'a str, content: &'a str) -> Said<'a> {
    (path, EntryType::Regular, content)
}

fn directory(path: &str) -> Said<'_> {
    (path, EntryType::Directory, "")
}

/// The layers as files, packed by turns as they can be.
fn written(directory: &Path, layers: &[Vec<u8>]) -> Vec<Layer> {
    let write = |(number, bytes): (usize, &Vec<u8>)| {
        let path = directory.join(number.to_string());
        let packed = match number % 3 {
            0 => bytes.clone(),
            1 => zstd::stream::encode_all(&bytes[..], 1).unwrap(),
            _ => {
                let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                std::io::Write::write_all(&mut gzip, bytes).unwrap();
                gzip.finish().unwrap()
            }
        };
        std::fs::write(&path, packed).unwrap();
        Layer { path, unpacked: Digest::of(bytes) }
    };
    layers.iter().enumerate().map(write).collect()
}

fn merged(layers: &[&[Said<'_>]]) -> Result<Tree> {
    let scratch = tempfile::tempdir().unwrap();
    let layers: Vec<Vec<u8>> = layers.iter().map(|entries| packed(entries)).collect();
    let (course, _client) = Course::new(|_| ()).unwrap();
    merge(&written(scratch.path(), &layers), &course)
}

/// All paths, with the layer and the entry that a file's content is in.
fn paths(tree: &Tree) -> Vec<String> {
    fn add(tree: &Tree, at: NodeId, path: &str, found: &mut Vec<String>) {
        for (name, &id) in tree.children(at).into_iter().flatten() {
            let path = format!("{path}{}", String::from_utf8_lossy(name));
            match &tree.node(id).kind {
                Kind::File { content, .. } => {
                    found.push(format!("{path} {}:{}", content.layer, content.entry))
                }
                Kind::Directory(_) => {
                    found.push(format!("{path}/"));
                    add(tree, id, &format!("{path}/"), found);
                }
                _ => found.push(path),
            }
        }
    }
    let mut found = Vec::new();
    add(tree, ROOT, "", &mut found);
    found
}

#[test]
fn a_layer_adds_replaces_and_takes_away() {
    let tree = merged(&[
        &[directory("a/"), file("a/one", "1"), file("a/two", "2"), directory("b"), file("b/x", "")],
        &[file("a/.wh.one", ""), file("a/two", "22"), file("a/three", "3"), file("./.wh.b", "")],
        &[directory("b/"), file("b/y", "")],
    ]);
    assert_eq!(paths(&tree.unwrap()), ["a/", "a/three 1:2", "a/two 1:1", "b/", "b/y 2:1"]);
}

#[test]
fn what_a_layer_takes_away_is_never_its_own_wherever_it_says_so() {
    let below: &[Said<'_>] = &[file("d/old", ""), file("f", ""), file("d/sub/old", "")];
    for first in [true, false] {
        let mut above = vec![file("d/new", ""), file("f", "again"), file("d/sub/new", "")];
        let taken = [file("d/.wh..wh..opq", ""), file(".wh.f", ""), file("d/sub/.wh.old", "")];
        let at = if first { 0 } else { above.len() };
        above.splice(at..at, taken);
        let tree = merged(&[below, &above]).unwrap();
        let names: Vec<String> =
            paths(&tree).iter().map(|path| path.split(' ').next().unwrap().to_owned()).collect();
        assert_eq!(names, ["d/", "d/new", "d/sub/", "d/sub/new", "f"], "{first}");
    }
}

#[test]
fn a_directory_and_a_file_take_each_others_place() {
    let tree = merged(&[
        &[file("a/x", ""), file("b", ""), ("l", EntryType::Symlink, "a")],
        &[file("a", ""), directory("b"), file("b/y", ""), directory("l"), file("l/z", "")],
    ]);
    assert_eq!(paths(&tree.unwrap()), ["a 1:0", "b/", "b/y 1:2", "l/", "l/z 1:4"]);
}

#[test]
fn another_name_may_be_of_a_file_of_a_layer_below() {
    let tree = merged(&[
        &[file("a", "content"), file("c", "")],
        &[("b", EntryType::Link, "a")],
        &[file(".wh.a", ""), ("d", EntryType::Link, "b")],
    ]);
    assert_eq!(paths(&tree.unwrap()), ["b 0:0", "c 0:1", "d 0:0"]);
    // What has been taken away has no other names.
    let gone = merged(&[&[file("a", "")], &[file(".wh.a", ""), ("b", EntryType::Link, "a")]]);
    assert!(gone.unwrap_err().message.contains("layer 2 of 2"));
}

#[test]
fn nothing_is_taken_away_that_is_not_below_the_root() {
    let below: &[Said<'_>] = &[file("etc/passwd", ""), ("up", EntryType::Symlink, "../../../..")];
    let kept = ["etc/", "etc/passwd 0:0", "up"];
    for name in
        [".wh.none", "none/.wh.x", "etc/passwd/.wh.x", "none/.wh..wh..opq", ".wh..wh.plnk", ".wh..wh.aufs/x"]
    {
        assert_eq!(paths(&merged(&[below, &[file(name, "")]]).unwrap()), kept, "{name}");
    }
    // A link on the way leads where the guest would find it.
    assert_eq!(paths(&merged(&[below, &[file("up/etc/.wh.passwd", "")]]).unwrap()), ["etc/", "up"]);
    for name in ["../.wh.etc", ".wh.", ".wh..", ".wh...", "etc/../.wh.etc", "../../.wh..wh..opq"] {
        let error = merged(&[below, &[file(name, "")]]).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Usage, "{name}: {error}");
    }
}

#[test]
fn no_layer_is_taken_for_another() {
    let scratch = tempfile::tempdir().unwrap();
    let (course, _client) = Course::new(|_| ()).unwrap();
    let mut layers = written(scratch.path(), &[packed(&[file("a", "")])]);
    let whole = std::fs::read(&layers[0].path).unwrap();
    merge(&layers, &course).unwrap();
    // What is behind its end is a part of it.
    std::fs::write(&layers[0].path, [&whole[..], b"more"].concat()).unwrap();
    let error = merge(&layers, &course).unwrap_err();
    assert!(error.kind == ErrorKind::Refused && error.message.contains("unpacks to sha256:"), "{error}");
    std::fs::write(&layers[0].path, &whole).unwrap();
    layers[0].unpacked = Digest::of(b"");
    assert_eq!(merge(&layers, &course).unwrap_err().kind, ErrorKind::Refused);
}

#[test]
fn all_layers_together_unpack_to_no_more_than_the_limit() {
    let scratch = tempfile::tempdir().unwrap();
    let (course, _client) = Course::new(|_| ()).unwrap();
    // Zeros behind the end of an archive are nothing but read.
    let mut large = packed(&[file("a", "")]);
    large.resize(1 << 20, 0);
    let layers = written(scratch.path(), &vec![large; 3]);
    merge_within(&layers, 3 << 20, &course).unwrap();
    let error = merge_within(&layers, (3 << 20) - 1, &course).unwrap_err();
    assert!(error.message.contains("layer 3 of 3") && error.message.contains("more than"), "{error}");
}

/// What a directory of this computer would have after the layers, one after the other.
fn model(layers: &[Vec<(String, bool)>]) -> Vec<String> {
    let mut files = std::collections::BTreeSet::new();
    for layer in layers {
        for (path, _) in layer.iter().filter(|(_, is_whiteout)| *is_whiteout) {
            files.retain(|file: &String| file != path && !file.starts_with(&format!("{path}/")));
        }
        for (path, _) in layer.iter().filter(|(_, is_whiteout)| !is_whiteout) {
            // A file takes the place of a directory; below a file there is none.
            files.retain(|file: &String| !file.starts_with(&format!("{path}/")));
            files.insert(path.clone());
        }
    }
    files.into_iter().collect()
}

proptest! {
    #[test]
    fn layers_are_what_they_would_be_one_after_the_other(
        layers in proptest::collection::vec(
            proptest::collection::vec(("[ab]/[cd]", any::<bool>()), 0..6),
            1..4,
        )
    ) {
        let layers: Vec<Vec<(String, bool)>> = layers;
        let names: Vec<Vec<String>> = layers.iter().map(|layer| layer.iter().map(|(path, is_whiteout)| {
            let (directory, name) = path.split_once('/').unwrap();
            if *is_whiteout { format!("{directory}/.wh.{name}") } else { path.clone() }
        }).collect()).collect();
        let entries: Vec<Vec<Said<'_>>> =
            names.iter().map(|layer| layer.iter().map(|name| file(name, "")).collect()).collect();
        let entries: Vec<&[Said<'_>]> = entries.iter().map(|layer| &layer[..]).collect();
        let tree = merged(&entries).unwrap();
        let found: Vec<String> = paths(&tree).into_iter().filter(|path| !path.ends_with('/'))
            .map(|path| path.split(' ').next().unwrap().to_owned()).collect();
        prop_assert_eq!(found, model(&layers));
    }
}
