use super::*;
use wire::agent::file::Kind;

const DIRECTORY: FileId = FileId { device: 1, inode: 2, birth: 3 };

fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).unwrap()
}

fn entry(inode: u64, changed: i64) -> Entry {
    let time = Time { seconds: changed, nanoseconds: 0 };
    let attributes = Attributes {
        mode: 0o644,
        size: 1,
        blocks: 8,
        accessed: time,
        modified: time,
        changed: time,
        ..Attributes::new(Kind::File)
    };
    Entry { id: FileId { device: 1, inode, birth: 0 }, attributes }
}

fn precise() -> Arc<Told> {
    let told = Arc::new(Told::default());
    told.device_is_precise(1, true);
    told
}

fn create(told: &Arc<Told>, text: &str, entry: &Entry) {
    let _changing = told.changing(&[(DIRECTORY, &name(text))], &[]);
    told.name(DIRECTORY, &name(text), Some(entry.id));
    told.file(entry);
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Silent,
    Tell,
    Later,
}

fn judge(told: &Told, text: &str, now: Option<Entry>, renamed: bool) -> Verdict {
    let name = name(text);
    let event = Event { directory: DIRECTORY, name: &name, renamed, at_once: false };
    let mut verdict = Verdict::Silent;
    match told.settle(&event, || Ok::<_, ()>(now), || None, |_, _| verdict = Verdict::Tell) {
        Ok(Settled::Later) => Verdict::Later,
        Ok(Settled::Done) => verdict,
        Err(()) => panic!("looking cannot fail"),
    }
}

#[test]
fn only_the_very_state_that_was_told_is_silent() {
    let cases = [
        (Some(entry(10, 1)), Verdict::Silent),
        (Some(entry(10, 2)), Verdict::Tell),
        (Some(entry(11, 1)), Verdict::Tell),
        (None, Verdict::Tell),
    ];
    for (now, expected) in cases {
        let told = precise();
        create(&told, "a", &entry(10, 1));
        assert_eq!(judge(&told, "a", now, true), expected, "{now:?}");
        assert_eq!(judge(&told, "b", Some(entry(10, 1)), true), Verdict::Tell);
    }
    let told = precise();
    told.name(DIRECTORY, &name("a"), None);
    assert_eq!(judge(&told, "a", None, true), Verdict::Silent);
    assert_eq!(judge(&told, "a", Some(entry(10, 1)), true), Verdict::Tell);
    assert_eq!(judge(&told, "a", None, true), Verdict::Tell, "the event has replaced what was told");
}

#[test]
fn reading_and_settling_are_no_changes() {
    let told = precise();
    create(&told, "a", &entry(10, 1));
    let mut now = entry(10, 1);
    now.attributes.accessed.seconds = 9;
    now.attributes.blocks = 0;
    assert_eq!(judge(&told, "a", Some(now), false), Verdict::Silent);
}

#[test]
fn a_coarse_clock_tells_every_change_of_a_file() {
    let told = Arc::new(Told::default());
    create(&told, "a", &entry(10, 1));
    assert_eq!(judge(&told, "a", Some(entry(10, 1)), true), Verdict::Tell);
    told.name(DIRECTORY, &name("a"), None);
    assert_eq!(judge(&told, "a", None, true), Verdict::Silent);
}

#[test]
fn what_is_being_changed_is_settled_later_and_nothing_else_is() {
    let told = precise();
    let (a, id) = (name("a"), entry(10, 1).id);
    let named = told.changing(&[(DIRECTORY, &a)], &[]);
    let file = told.changing(&[], &[id]);
    assert_eq!(judge(&told, "a", Some(entry(10, 1)), false), Verdict::Later);
    assert_eq!(judge(&told, "b", Some(entry(11, 1)), true), Verdict::Tell);
    let now = Entry { id: DIRECTORY, ..entry(0, 1) };
    assert_eq!(told.settle_directory(DIRECTORY, false, || Some(now), |_| panic!()), Settled::Later);
    drop(named);
    assert_eq!(judge(&told, "a", Some(entry(10, 1)), false), Verdict::Later);
    drop(file);
    assert_eq!(judge(&told, "a", Some(entry(10, 1)), false), Verdict::Tell);
    let mut tellings = 0;
    for _ in 0..2 {
        assert_eq!(told.settle_directory(DIRECTORY, false, || Some(now), |_| tellings += 1), Settled::Done);
    }
    assert_eq!(tellings, 1, "the client knows the second time");
}

#[test]
fn what_was_put_off_long_enough_is_told_all_the_same() {
    let told = precise();
    let a = name("a");
    let _changing = told.changing(&[(DIRECTORY, &a)], &[]);
    let event = Event { directory: DIRECTORY, name: &a, renamed: true, at_once: true };
    let mut tellings = 0;
    let settled = told.settle(&event, || Ok::<_, ()>(None), || None, |_, _| tellings += 1);
    assert_eq!((settled, tellings), (Ok(Settled::Done), 1));
}

#[test]
fn a_changed_name_is_told_with_its_directory() {
    let told = precise();
    let a = name("a");
    let event = Event { directory: DIRECTORY, name: &a, renamed: true, at_once: false };
    let around = Entry { id: DIRECTORY, ..entry(0, 1) };
    let mut tellings = Vec::new();
    for now in [Some(entry(10, 1)), None] {
        let tell = |_, around: Option<Entry>| tellings.push(around);
        told.settle(&event, || Ok::<_, ()>(now), || Some(around), tell).unwrap();
    }
    assert_eq!(tellings, [Some(around), None], "unless the client knows it");
}

#[test]
fn no_mutation_begins_while_an_event_is_settled() {
    let told = precise();
    let a = name("a");
    let event = Event { directory: DIRECTORY, name: &a, renamed: true, at_once: false };
    let began = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let look = || {
            scope.spawn(|| {
                let _changing = told.changing(&[(DIRECTORY, &a)], &[]);
                began.store(true, std::sync::atomic::Ordering::SeqCst);
            });
            Ok::<_, ()>(None)
        };
        let tell = |_, _| assert!(!began.load(std::sync::atomic::Ordering::SeqCst));
        told.settle(&event, look, || None, tell).unwrap();
    });
}

#[test]
fn a_reply_that_may_tell_otherwise_ends_what_was_told() {
    for read in [Some(name("a")), None] {
        let told = precise();
        create(&told, "a", &entry(10, 1));
        create(&told, "b", &entry(11, 1));
        drop(told.reading(DIRECTORY, read.as_ref()));
        assert_eq!(judge(&told, "a", Some(entry(10, 1)), true), Verdict::Tell);
        let other = if read.is_some() { Verdict::Silent } else { Verdict::Tell };
        assert_eq!(judge(&told, "b", Some(entry(11, 1)), true), other);
    }
}

#[test]
fn nothing_is_recorded_while_such_a_reply_is_made() {
    let told = precise();
    let reading = told.reading(DIRECTORY, Some(&name("other")));
    create(&told, "a", &entry(10, 1));
    drop(reading);
    assert_eq!(judge(&told, "a", Some(entry(10, 1)), true), Verdict::Tell);
}

#[test]
fn what_is_remembered_is_bounded() {
    let told = precise();
    for n in 0..3 * TOLD_MAX as u64 {
        create(&told, &n.to_string(), &entry(n, 1));
    }
    let state = lock(&told.state);
    assert_eq!(state.names_of[&DIRECTORY], TOLD_MAX);
    assert!(state.changing.is_empty() && state.changing_names.is_empty() && state.reading.is_empty());
}
