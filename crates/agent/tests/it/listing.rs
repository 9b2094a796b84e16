use std::collections::{HashMap, HashSet};

use tempfile::tempdir;
use wire::agent::file::*;
use wire::agent::*;

use crate::client::*;

fn listing(client: &mut Client, id: RequestId) -> (bool, Vec<Listed>, Option<Lease>, Option<Attributes>) {
    match client.reply(id) {
        (last, Ok(Reply::File(FileReply::Listing { entries, end, lease, directory })), _) => {
            assert_eq!(last, end);
            (end, entries, lease, directory)
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_name_is_listed_once_with_its_attributes() {
    let directory = tempdir().unwrap();
    for n in 0..1000 {
        std::fs::write(directory.path().join(format!("file{n}")), vec![0; n]).unwrap();
    }
    std::fs::create_dir(directory.path().join("sub")).unwrap();
    let mut client = Client::attach(directory.path());
    let root = client.root.clone();
    let listed = client.list(&root);
    let by_name: HashMap<String, Entry> =
        listed.iter().map(|listed| (listed.name.to_string(), listed.entry.unwrap())).collect();
    assert_eq!((listed.len(), by_name.len()), (1001, 1001));
    for n in [0, 1, 999] {
        assert_eq!(by_name[&format!("file{n}")].attributes.size, n);
    }
    assert_eq!(by_name["sub"], client.lookup(&root, "sub").0.unwrap());
}

#[test]
fn an_empty_directory_is_one_page_that_tells_of_itself() {
    let directory = tempdir().unwrap();
    let mut client = Client::attach(directory.path());
    let request = FileRequest::List { directory: client.root.clone(), from: 0, window: NO_LIMIT };
    let id = client.send(Request::File(request), &[]);
    let (end, entries, lease, attributes) = listing(&mut client, id);
    assert!(end && entries.is_empty() && lease.is_some());
    assert_eq!(attributes.unwrap().kind, Kind::Directory);
}

#[test]
fn a_cookie_stays_right_while_names_come_and_go() {
    let directory = tempdir().unwrap();
    for n in 0..2000 {
        std::fs::write(directory.path().join(format!("kept{n}")), b"").unwrap();
        std::fs::write(directory.path().join(format!("gone{n}")), b"").unwrap();
    }
    let mut client = Client::attach(directory.path());
    let root = client.root.clone();
    let first = client.list(&root);
    let half = &first[..first.len() / 2];
    for n in 0..2000 {
        std::fs::remove_file(directory.path().join(format!("gone{n}"))).unwrap();
        std::fs::write(directory.path().join(format!("came{n}")), b"").unwrap();
    }
    let request = FileRequest::List { directory: root, from: half.last().unwrap().cookie, window: NO_LIMIT };
    let id = client.send(Request::File(request), &[]);
    let mut rest = Vec::new();
    loop {
        let (end, entries, ..) = listing(&mut client, id);
        rest.extend(entries);
        if end {
            break;
        }
    }
    let kept = |listed: &Listed| listed.name.as_bytes().starts_with(b"kept").then(|| listed.name.clone());
    let all: Vec<_> = half.iter().chain(&rest).filter_map(kept).collect();
    assert_eq!(all.len(), 2000, "no kept name is missing or told twice");
    assert_eq!(all.iter().collect::<HashSet<_>>().len(), 2000);
}

/// What a process has allocated.
fn resident_kilobytes(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn a_huge_directory_streams_at_the_pace_of_its_reader() {
    const NAMES: usize = 300_000;
    let directory = tempdir().unwrap();
    let target = directory.path().join("target");
    std::fs::write(&target, b"").unwrap();
    for n in 0..NAMES {
        // Links to few files are made faster than files, and listed alike; a file may have 65,000 on ext4.
        let source = directory.path().join(format!("n{}", n - n % 50_000));
        let path = directory.path().join(format!("n{n}"));
        if n % 50_000 == 0 { std::fs::write(path, b"") } else { std::fs::hard_link(source, path) }.unwrap();
    }
    let (mut client, process) = Client::spawned();
    client.export(directory.path(), false);
    let request = FileRequest::List { directory: client.root.clone(), from: 0, window: 1 };
    let id = client.send(Request::File(request), &[]);
    let before = resident_kilobytes(process);
    let (mut pages, mut highest) = (1, 0);
    let mut names = listing(&mut client, id).1.len();
    assert!(!client.has_reply(id), "a page came without credit");
    client.send_frame(&ClientFrame::Credit { id, bytes: 200 << 10 }, &[]);
    loop {
        let (end, entries, ..) = listing(&mut client, id);
        names += entries.len();
        pages += 1;
        highest = highest.max(resident_kilobytes(process));
        if end {
            break;
        }
        client.send_frame(&ClientFrame::Credit { id, bytes: 200 << 10 }, &[]);
    }
    assert_eq!(names, NAMES + 1);
    assert!(pages > 100, "{pages}");
    let grown = highest.saturating_sub(before);
    assert!(grown < 8 << 10, "the process grew by {grown} kB");
}

#[test]
fn a_stat_is_answered_while_a_listing_waits_for_credit() {
    let directory = tempdir().unwrap();
    for n in 0..2000 {
        std::fs::write(directory.path().join(n.to_string()), b"").unwrap();
    }
    let mut client = Client::attach(directory.path());
    let root = client.root.clone();
    let ids: Vec<_> = (0..200)
        .map(|_| {
            let request = FileRequest::List { directory: root.clone(), from: 0, window: 0 };
            client.send(Request::File(request), &[])
        })
        .collect();
    client.stat(&root).unwrap();
    for id in &ids {
        assert!(!client.has_reply(*id));
    }
    for id in ids {
        client.send_frame(&ClientFrame::Cancel { id }, &[]);
        let (last, body, _) = client.reply(id);
        assert!(last);
        assert_eq!(errno(body), libc::EINTR);
    }
}

struct Walked {
    names: Vec<String>,
    contents: HashMap<String, Vec<u8>>,
    /// Directories, in the order in which they came.
    ended: Vec<String>,
}

fn walk(client: &mut Client, budget: WalkBudget) -> Walked {
    walk_from(client, WalkFrom::Itself, budget)
}

fn walk_from(client: &mut Client, from: WalkFrom, budget: WalkBudget) -> Walked {
    let request = FileRequest::Walk { directory: client.root.clone(), from, budget, window: 1000 };
    let id = client.send(Request::File(request), &[]);
    let mut walked = Walked { names: Vec::new(), contents: HashMap::new(), ended: Vec::new() };
    loop {
        let (last, body, payload) = client.reply(id);
        let (place, entries, end, contents) = match body.unwrap() {
            Reply::File(FileReply::Walked {
                directory,
                entries,
                end,
                lease: Some(_),
                attributes,
                contents,
            }) => {
                assert_eq!(attributes.is_some(), end);
                (directory, entries, end, contents)
            }
            Reply::File(FileReply::Done) if last => return walked,
            other => panic!("{other:?}"),
        };
        assert!(!last);
        let text = |listed: &Listed| place.path.join(&listed.name).to_string();
        let mut rest = payload.as_slice();
        for (index, length) in contents {
            let (content, behind) = rest.split_at(length as usize);
            walked.contents.insert(text(&entries[index as usize]), content.to_vec());
            rest = behind;
        }
        assert!(rest.is_empty());
        walked.names.extend(entries.iter().map(text));
        if end {
            walked.ended.push(place.path.to_string());
        }
        client.send_frame(&ClientFrame::Credit { id, bytes: 512 << 10 }, &[]);
    }
}

const EVERYTHING: WalkBudget =
    WalkBudget { entries: u32::MAX, depth: u16::MAX, file_bytes: 1 << 20, content_bytes: u64::MAX };

fn tree() -> tempfile::TempDir {
    let directory = tempdir().unwrap();
    for a in 0..5 {
        let sub = directory.path().join(format!("a{a}/b/c"));
        std::fs::create_dir_all(&sub).unwrap();
        for n in 0..300 {
            std::fs::write(sub.join(n.to_string()), vec![b'x'; n * 10]).unwrap();
        }
    }
    std::os::unix::fs::symlink("/", directory.path().join("link")).unwrap();
    directory
}

#[test]
fn a_walk_tells_a_tree_with_its_small_files() {
    let directory = tree();
    let mut client = Client::attach(directory.path());
    let walked = walk(&mut client, EVERYTHING);
    assert_eq!(walked.names.len(), 5 * 303 + 1);
    assert_eq!(walked.ended.len(), 16);
    let chains: Vec<_> = walked.ended[1..].chunks(3).map(|chain| chain.join(" ")).collect();
    let chain = |chain: &String| {
        let top = chain.split(' ').next().unwrap();
        *chain == format!("{top} {top}/b {top}/b/c")
    };
    assert!(chains.iter().all(chain), "subtree after subtree: {chains:?}");
    assert_eq!(walked.contents.len(), 5 * 299, "all but the empty ones");
    assert!(walked.contents.iter().all(|(name, content)| {
        let n: usize = name.rsplit('/').next().unwrap().parse().unwrap();
        *content == vec![b'x'; n * 10]
    }));
}

#[test]
fn a_walk_below_a_directory_begins_with_the_name_it_is_given_and_leaves_none_out() {
    let directory = tree();
    let mut client = Client::attach(directory.path());
    for first in ["a0", "a1", "a2", "a3", "a4", "gone"] {
        let from = WalkFrom::Below(name(first));
        let walked = walk_from(&mut client, from, EVERYTHING);
        assert_eq!(walked.ended.len(), 15);
        assert_eq!(walked.names.len(), 5 * 302);
        assert!(first == "gone" || walked.ended[0] == first, "{first}: {:?}", walked.ended);
    }
    let walked = walk_from(&mut client, WalkFrom::Below(name("a3")), WalkBudget { depth: 0, ..EVERYTHING });
    assert!(walked.names.is_empty());
}

#[test]
fn a_walk_keeps_to_its_budget() {
    let directory = tree();
    let mut client = Client::attach(directory.path());
    let walked = walk(&mut client, WalkBudget { depth: 1, ..EVERYTHING });
    assert_eq!(walked.names.len(), 6 + 5);
    let walked = walk(&mut client, WalkBudget { entries: 6 + 1 + 1 + 299, ..EVERYTHING });
    assert_eq!(walked.names.len(), 6 + 5 + 5, "a directory is listed whole or not at all");
    let walked = walk(&mut client, WalkBudget { content_bytes: 1000, ..EVERYTHING });
    assert!(walked.contents.values().map(Vec::len).sum::<usize>() <= 1000);
    let walked = walk(&mut client, WalkBudget { file_bytes: 50, ..EVERYTHING });
    assert_eq!(walked.contents.len(), 5 * 5);
    let walked = walk(&mut client, WalkBudget { entries: 0, ..EVERYTHING });
    assert!(walked.names.is_empty());
}
