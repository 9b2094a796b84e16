use super::*;

const AHEAD_MAX: u64 = 16 << 10;

/// A part that is all of a directory.
fn whole(directory: u64, entries: usize, found: &[u64]) -> Brought {
    Brought { directory: Ino(directory), entries, found: inos(found), end: true }
}

fn inos(numbers: &[u64]) -> Vec<Ino> {
    numbers.iter().copied().map(Ino).collect()
}

fn begun(walker: &mut Walker, directories: &[u64]) -> WalkId {
    walker.begin(inos(directories)).expect("nobody else is about to bring them")
}

#[test]
fn what_lies_above_a_directory_that_comes_was_left_out() {
    let mut walker = Walker::new(AHEAD_MAX);
    walker.listed(Ino(1));
    let id = begun(&mut walker, &[2, 3, 4]);
    assert!(walker.brought(id, whole(2, 10, &[20, 21])));
    for expected in [20, 21, 3, 4] {
        assert!(walker.expects(Ino(expected)), "{expected}");
    }
    assert!(walker.brought(id, whole(21, 10, &[])));
    assert!(!walker.expects(Ino(20)) && !walker.expects(Ino(21)) && walker.expects(Ino(3)));
    assert!(!walker.brought(id, whole(20, 10, &[])), "it comes too late");
    walker.end(id, true);
    assert!(!walker.is_worth_walking(Ino(1), Ino(4)), "the walk has left it out");
    assert!(walker.is_worth_walking(Ino(1), Ino(5)));
}

#[test]
fn a_walk_that_nobody_uses_stops_soon_and_one_that_is_used_goes_on() {
    let mut walker = Walker::new(AHEAD_MAX);
    let children: Vec<_> = (2..10_000).collect();
    let id = begun(&mut walker, &children);
    let mut brought = 2;
    while walker.next(id) == Next::Take {
        walker.brought(id, whole(brought, 99, &[]));
        brought += 1;
    }
    assert!((brought - 2) * 100 <= UNPROVEN_ENTRIES + 100, "{brought}");
    // The reader uses each directory as soon as it is there: the walk is ever further ahead, up to the limit.
    let mut furthest = 0;
    for used in 2..8000 {
        walker.listed(Ino(used));
        while walker.next(id) == Next::Take {
            walker.brought(id, whole(brought, 99, &[]));
            brought += 1;
        }
        furthest = furthest.max((brought - used) * 100);
    }
    assert!((AHEAD_MAX - 200..AHEAD_MAX + 200).contains(&furthest), "{furthest}");
}

#[test]
fn a_reader_waits_for_what_is_about_to_come_but_not_for_long() {
    let mut walker = Walker::new(AHEAD_MAX);
    let id = begun(&mut walker, &[2, 3, 4]);
    let (mut since, mut other) = (None, None);
    assert!(!walker.is_worth_waiting(Ino(9), &mut other) && other.is_none());
    assert!(walker.is_worth_waiting(Ino(4), &mut since));
    assert_eq!(walker.next(id), Next::Take);
    let part = |directory, end| Brought { end, ..whole(directory, 2000, &[]) };
    walker.brought(id, part(2, false));
    assert!(walker.is_worth_waiting(Ino(4), &mut since));
    walker.brought(id, part(2, false));
    walker.brought(id, part(2, true));
    assert!(!walker.is_worth_waiting(Ino(4), &mut since), "6000 entries of others have come");
    // Of the directory itself any number is waited for.
    let mut since = None;
    assert!(walker.is_worth_waiting(Ino(3), &mut since));
    for _ in 0..10 {
        walker.brought(id, part(3, false));
        assert!(walker.is_worth_waiting(Ino(3), &mut since));
        assert_eq!(walker.next(id), Next::Take);
    }
    walker.brought(id, part(3, true));
    assert!(!walker.is_worth_waiting(Ino(3), &mut since));
}

#[test]
fn the_walk_that_was_of_use_least_lately_goes_for_another() {
    let mut walker = Walker::new(AHEAD_MAX);
    let ids: Vec<_> = (1..=WALKS_MAX as u64).map(|n| begun(&mut walker, &[n * 10, n * 10 + 1])).collect();
    walker.brought(ids[0], whole(10, 5, &[]));
    walker.entered(Ino(10));
    begun(&mut walker, &[1000]);
    assert_eq!(walker.next(ids[0]), Next::Take);
    assert_eq!(walker.next(ids[1]), Next::End);
    assert!(walker.begin(inos(&[1000])).is_none(), "it is about to come");
}

#[test]
fn a_walk_is_trusted_as_far_as_the_one_before_was_of_use() {
    let mut walker = Walker::new(AHEAD_MAX);
    let id = begun(&mut walker, &[2]);
    walker.brought(id, whole(2, 4999, &[]));
    walker.listed(Ino(2));
    walker.end(id, true);
    let id = begun(&mut walker, &[3, 4]);
    walker.brought(id, whole(3, 4000, &[]));
    assert_eq!(walker.next(id), Next::Take);
    walker.end(id, false);
    let id = begun(&mut walker, &[5, 6]);
    walker.brought(id, whole(5, 1100, &[]));
    assert_eq!(walker.next(id), Next::Wait, "the last one was of no use");
}

#[test]
fn nothing_is_walked_where_nobody_has_listed_or_nothing_may_be_ahead() {
    let mut walker = Walker::new(AHEAD_MAX);
    assert!(!walker.is_worth_walking(Ino(1), Ino(2)));
    walker.listed(Ino(1));
    assert!(walker.is_worth_walking(Ino(1), Ino(2)));
    (10..10 + LISTED_MAX as u64).for_each(|ino| walker.listed(Ino(ino)));
    assert!(!walker.is_worth_walking(Ino(1), Ino(2)), "that was long ago");
    let mut walker = Walker::new(0);
    walker.listed(Ino(1));
    assert!(!walker.is_worth_walking(Ino(1), Ino(2)));
}
