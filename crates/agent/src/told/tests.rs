use super::*;
use wire::agent::file::Kind;

const DIRECTORY: FileId = FileId { device: 1, inode: 2, birth: 3 };

fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).unwrap()
}

fn entry(inode: u64, changed: i64) -> Entry {
    let time = Time { seconds: changed, nanoseconds: 0 };
    let attributes = Attributes {
        kind: Kind::File,
        mode: 0o644,
        links: 1,
        uid: 0,
        gid: 0,
        device: 0,
        size: 1,
        blocks: 8,
        block_size: 4096,
        accessed: time,
        modified: time,
        changed: time,
        xattrs: false,
    };
    Entry { id: FileId { device: 1, inode, birth: 0 }, attributes }
}

fn precise() -> Told {
    let told = Told::default();
    told.device_is_precise(1, true);
    told
}

fn create(told: &Told, text: &str, entry: &Entry) {
    let _changing = told.changing([DIRECTORY]);
    told.name(DIRECTORY, &name(text), Some(entry.id));
    told.file(entry);
}

#[test]
fn only_the_very_state_that_was_told_is_silent() {
    let told = precise();
    create(&told, "a", &entry(10, 1));
    let judge = |now: Option<&Entry>| told.judge(DIRECTORY, &name("a"), now, true);
    assert_eq!(judge(Some(&entry(10, 1))), Verdict::Silent);
    assert_eq!(judge(Some(&entry(10, 2))), Verdict::Tell);
    assert_eq!(judge(Some(&entry(11, 1))), Verdict::Tell);
    assert_eq!(judge(None), Verdict::Tell);
    assert_eq!(told.judge(DIRECTORY, &name("b"), Some(&entry(10, 1)), true), Verdict::Tell);
    told.name(DIRECTORY, &name("a"), None);
    assert_eq!(judge(None), Verdict::Silent);
    assert_eq!(judge(Some(&entry(10, 1))), Verdict::Tell);
}

#[test]
fn reading_and_settling_are_no_changes() {
    let told = precise();
    create(&told, "a", &entry(10, 1));
    let mut now = entry(10, 1);
    now.attributes.accessed.seconds = 9;
    now.attributes.blocks = 0;
    assert_eq!(told.judge(DIRECTORY, &name("a"), Some(&now), false), Verdict::Silent);
}

#[test]
fn a_coarse_clock_tells_every_change_of_a_file() {
    let told = Told::default();
    create(&told, "a", &entry(10, 1));
    assert_eq!(told.judge(DIRECTORY, &name("a"), Some(&entry(10, 1)), true), Verdict::Tell);
    told.name(DIRECTORY, &name("a"), None);
    assert_eq!(told.judge(DIRECTORY, &name("a"), None, true), Verdict::Silent);
}

#[test]
fn what_is_being_changed_is_judged_later() {
    let told = precise();
    let judge = || told.judge(DIRECTORY, &name("a"), Some(&entry(10, 1)), false);
    let directory = told.changing([DIRECTORY]);
    let file = told.changing([entry(10, 1).id]);
    assert_eq!(judge(), Verdict::Later);
    drop(directory);
    assert_eq!(judge(), Verdict::Later);
    drop(file);
    assert_eq!(judge(), Verdict::Tell);
}

#[test]
fn a_reply_that_may_tell_otherwise_ends_what_was_told() {
    for read in [Some(name("a")), None] {
        let told = precise();
        create(&told, "a", &entry(10, 1));
        create(&told, "b", &entry(11, 1));
        drop(told.reading(DIRECTORY, read.as_ref()));
        let judge = |text, inode| told.judge(DIRECTORY, &name(text), Some(&entry(inode, 1)), true);
        assert_eq!(judge("a", 10), Verdict::Tell);
        let other = if read.is_some() { Verdict::Silent } else { Verdict::Tell };
        assert_eq!(judge("b", 11), other);
    }
}

#[test]
fn nothing_is_recorded_while_such_a_reply_is_made() {
    let told = precise();
    let reading = told.reading(DIRECTORY, Some(&name("other")));
    create(&told, "a", &entry(10, 1));
    drop(reading);
    assert_eq!(told.judge(DIRECTORY, &name("a"), Some(&entry(10, 1)), true), Verdict::Tell);
}

#[test]
fn what_is_remembered_is_bounded() {
    let told = precise();
    for n in 0..3 * TOLD_MAX as u64 {
        create(&told, &n.to_string(), &entry(n, 1));
    }
    let state = lock(&told.state);
    assert_eq!(state.names_of[&DIRECTORY], TOLD_MAX);
    assert!(state.changing.is_empty() && state.reading.is_empty());
}
