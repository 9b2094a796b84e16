use std::collections::BTreeSet;
use std::path::Path;

use tempfile::tempdir;
use wire::agent::file::*;
use wire::agent::find::*;
use wire::agent::search::*;
use wire::agent::*;

use crate::client::*;

fn write(root: &Path, name: &str, content: &[u8]) {
    let path = root.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, content).unwrap();
}

/// The pages of a streamed request, and the failure it ends with, if it does.
fn pages(client: &mut Client, request: FileRequest) -> (Vec<FileReply>, Option<Failure>) {
    let id = client.send(Request::File(request), &[]);
    let mut pages = Vec::new();
    loop {
        match client.reply(id) {
            (last, Ok(Reply::File(reply)), _) => {
                pages.push(reply);
                if last {
                    return (pages, None);
                }
            }
            (true, Err(failure), _) => return (pages, Some(failure)),
            other => panic!("{other:?}"),
        }
    }
}

fn found(client: &mut Client, query: FindQuery) -> BTreeSet<String> {
    let request = FileRequest::Find { directory: client.root.clone(), query, window: NO_LIMIT };
    let (pages, failure) = pages(client, request);
    assert_eq!(failure, None);
    let found = pages.into_iter().flat_map(|page| match page {
        FileReply::Found { found, unread } => {
            assert!(unread.is_empty(), "{unread:?}");
            found
        }
        other => panic!("{other:?}"),
    });
    found.map(|found| found.path.to_string()).collect()
}

fn query(pattern: &str) -> SearchQuery {
    SearchQuery {
        pattern: Some(pattern.to_owned()),
        fixed: false,
        case: Case::Sensitive,
        words: false,
        globs: Vec::new(),
        ignored: false,
        hidden: false,
        tell: Tell::Lines,
        depth_max: None,
        hits_max: u64::MAX,
    }
}

fn searched(client: &mut Client, place: Place, query: SearchQuery) -> (Vec<Hit>, Searched) {
    let (pages, failure) = pages(client, FileRequest::Search { place, query, window: NO_LIMIT });
    assert_eq!(failure, None);
    let (mut all, mut totals) = (Vec::new(), None);
    for page in pages {
        let FileReply::Searched { hits, unread, searched } = page else { panic!("{page:?}") };
        assert!(unread.is_empty(), "{unread:?}");
        all.extend(hits);
        totals = searched.or(totals);
    }
    (all, totals.unwrap())
}

#[test]
fn names_are_found_by_what_they_are() {
    let directory = tempdir().unwrap();
    for name in ["a.rs", "sub/b.rs", "sub/c.txt", "sub/deep/D.RS"] {
        write(directory.path(), name, b"x");
    }
    std::os::unix::fs::symlink("sub", directory.path().join("link.rs")).unwrap();
    let mut client = Client::attach(directory.path());
    let names = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<BTreeSet<_>>();
    let all = ["a.rs", "link.rs", "sub", "sub/b.rs", "sub/c.txt", "sub/deep", "sub/deep/D.RS"];
    assert_eq!(found(&mut client, FindQuery::default()), names(&all));
    let rust = FindQuery { names: vec!["*.rs".to_owned()], ..FindQuery::default() };
    assert_eq!(found(&mut client, rust.clone()), names(&["a.rs", "link.rs", "sub/b.rs"]));
    let files = FindQuery { ignore_case: true, kinds: vec![Kind::File], ..rust.clone() };
    assert_eq!(found(&mut client, files), names(&["a.rs", "sub/b.rs", "sub/deep/D.RS"]));
    let shallow = FindQuery { depth_max: Some(1), ..FindQuery::default() };
    assert_eq!(found(&mut client, shallow), names(&["a.rs", "link.rs", "sub"]));
    let future = Some(Time { seconds: i64::MAX, nanoseconds: 0 });
    assert!(found(&mut client, FindQuery { changed_since: future, ..FindQuery::default() }).is_empty());
    let wrong = FindQuery { names: vec!["[".to_owned()], ..FindQuery::default() };
    let request = FileRequest::Find { directory: client.root.clone(), query: wrong, window: NO_LIMIT };
    let failure = pages(&mut client, request).1.unwrap();
    assert!(failure.errno == Errno(22) && !failure.detail.is_empty(), "{failure:?}");
}

#[test]
fn a_tree_is_removed_and_nothing_behind_its_links() {
    let (directory, outside) = (tempdir().unwrap(), tempdir().unwrap());
    write(outside.path(), "stays", b"x");
    for number in 0..3000 {
        write(directory.path(), &format!("tree/{}/{number}", number % 7), b"");
    }
    std::os::unix::fs::symlink(outside.path(), directory.path().join("tree/link")).unwrap();
    let mut client = Client::attach(directory.path());
    let request =
        FileRequest::RemoveTree { directory: client.root.clone(), name: name("tree"), window: NO_LIMIT };
    let (pages, failure) = pages(&mut client, request.clone());
    assert_eq!(failure, None);
    let removed = pages.iter().map(|page| match page {
        FileReply::TreeRemoved { removed, kept } if kept.is_empty() => *removed,
        other => panic!("{other:?}"),
    });
    assert_eq!(removed.sum::<u64>(), 3000 + 7 + 1 + 1);
    assert!(!directory.path().join("tree").exists() && outside.path().join("stays").exists());
    assert_eq!(self::pages(&mut client, request).1.unwrap().errno, Errno(2));
}

#[test]
fn nothing_is_removed_from_an_export_that_is_only_read() {
    let directory = tempdir().unwrap();
    write(directory.path(), "tree/file", b"");
    let mut client = Client::attach_with(directory.path(), true);
    let request =
        FileRequest::RemoveTree { directory: client.root.clone(), name: name("tree"), window: NO_LIMIT };
    assert_eq!(pages(&mut client, request).1.unwrap().errno, Errno(30));
    assert!(directory.path().join("tree/file").exists());
}

#[test]
fn a_search_tells_lines_and_where_in_them() {
    let directory = tempdir().unwrap();
    write(directory.path(), "a", b"one\ntwo two\n");
    write(directory.path(), "b/c", b"\xfftwo\n");
    write(directory.path(), "long", &[b"two".as_slice(), &[b'x'; 100_000]].concat());
    write(directory.path(), "binary", b"\0two\n");
    std::os::unix::fs::symlink("a", directory.path().join("link")).unwrap();
    let mut client = Client::attach(directory.path());
    let root = client.root.clone();
    let (mut hits, totals) = searched(&mut client, root.clone(), query("two"));
    hits.sort_by(|one, other| one.path.cmp(&other.path));
    let shown: Vec<_> = hits
        .iter()
        .map(|hit| {
            let line = hit.line.as_ref().unwrap();
            (hit.path.to_string(), line.number, line.text.len(), line.cut, line.spans.clone())
        })
        .collect();
    assert_eq!(
        shown,
        [
            ("a".to_owned(), 2, 7, false, vec![(0, 3), (4, 7)]),
            ("b/c".to_owned(), 1, 4, false, vec![(1, 4)]),
            ("long".to_owned(), 1, LINE_BYTES_MAX, true, vec![(0, 3)]),
        ]
    );
    assert_eq!((totals.files, totals.limited), (4, false));
    let limited = SearchQuery { hits_max: 1, ..query("two") };
    let (hits, totals) = searched(&mut client, root, limited);
    assert_eq!((hits.len(), totals.limited), (1, true));
    let file = client.place("a");
    let (hits, _) = searched(&mut client, file, SearchQuery { tell: Tell::Files, ..query("two") });
    assert_eq!(hits.len(), 1);
    assert!(hits[0].path.is_root() && hits[0].line.is_none());
}

#[test]
fn a_search_that_is_cancelled_makes_room_for_another() {
    let directory = tempdir().unwrap();
    write(directory.path(), "much", &b"two\n".repeat(2_000_000));
    let mut client = Client::attach(directory.path());
    for _ in 0..20 {
        let place = client.root.clone();
        let id =
            client.send(Request::File(FileRequest::Search { place, query: query("two"), window: 1 }), &[]);
        assert!(matches!(client.reply(id), (false, Ok(_), _)), "the first page needs no more credit");
        client.send_frame(&ClientFrame::Cancel { id }, &[]);
        loop {
            match client.reply(id) {
                (true, answer, _) => {
                    assert_eq!(errno(answer.map(|_| ())), 4);
                    break;
                }
                (false, answer, _) => drop(answer.unwrap()),
            }
        }
    }
}

#[test]
fn digests_are_of_blocks_and_say_what_is_zeros() {
    let directory = tempdir().unwrap();
    let content: Vec<u8> = [vec![7; 20_000], vec![0; 40_000]].concat();
    write(directory.path(), "file", &content);
    let mut client = Client::attach(directory.path());
    let place = client.place("file");
    let handle = client.open(&place, OpenFlags { read: true, ..OpenFlags::default() });
    let digest = |offset, length, block| FileRequest::Digest { handle, offset, length, block };
    let FileReply::Digested { blocks } = client.file(digest(0, 1 << 20, 20_000)).unwrap() else { panic!() };
    let told: Vec<_> = blocks.iter().map(|block| (block.bytes, block.zeros)).collect();
    assert_eq!(told, [(20_000, false), (20_000, true), (20_000, true)]);
    assert_eq!(blocks[1].digest, blocks[2].digest);
    assert_eq!(blocks[0].digest, *blake3::hash(&content[..20_000]).as_bytes());
    let FileReply::Digested { blocks } = client.file(digest(60_000, 20_000, 20_000)).unwrap() else {
        panic!()
    };
    assert!(blocks.is_empty());
    for wrong in [digest(0, DIGEST_BYTES_MAX + 1, 1 << 20), digest(0, 1 << 20, 1)] {
        assert_eq!(errno(client.file(wrong)), 22);
    }
}
