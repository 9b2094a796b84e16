//! Many threads at once.

use std::sync::Arc;

use crate::{Bench, text};

/// How many: as many processes make them, write to them and capture them.
const COUNT: usize = 10;

/// The environment variable that says another number.
const COUNT_VARIABLE: &str = "STEAD_TEST_THREADS";

#[test]
fn threads_that_are_captured_at_once_are_all_captured() {
    let count = std::env::var(COUNT_VARIABLE).ok().and_then(|count| count.parse().ok()).unwrap_or(COUNT);
    let bench = Arc::new(Bench::new());
    bench.name_the_author();
    // Before there are many who would start it.
    bench.stead.status();
    let workers: Vec<_> = (0..count)
        .map(|number| {
            let bench = bench.clone();
            std::thread::spawn(move || work(&bench, number))
        })
        .collect();
    let captured: Vec<String> =
        workers.into_iter().map(|worker| worker.join().expect("it has captured")).collect();
    let main = bench.git(&["rev-parse", "main"]);
    for (number, commit) in captured.iter().enumerate() {
        let name = format!("t{number}");
        assert_eq!(bench.git(&["rev-parse", &format!("refs/stead/threads/{name}")]).trim(), commit);
        assert_eq!(bench.git(&["rev-parse", &format!("{commit}~2"), &name]), main.repeat(2));
        let diff = bench.git(&["diff", "--name-only", "main", commit]);
        assert_eq!(diff, format!("README\nof-{name}\n"));
        assert_eq!(bench.git(&["show", &format!("{commit}:README")]), format!("second of {name}\n"));
    }
    assert_eq!(bench.git(&["for-each-ref", "refs/stead"]).lines().count(), count);
    assert_eq!(bench.git(&["fsck", "--no-dangling", "--strict"]), "");
}

/// Makes a thread, and captures what is written to it twice. Returns the last commit.
fn work(bench: &Bench, number: usize) -> String {
    let name = format!("t{number}");
    let dir = bench.thread(&name);
    let capture = |message| text(&bench.json(&["thread", "capture", &name, "-m", message])["commit"]);
    bench.write(&dir.join(format!("of-{name}")), "new\n");
    bench.write(&dir.join("README"), &format!("first of {name}\n"));
    capture("first");
    bench.write(&dir.join("README"), &format!("second of {name}\n"));
    capture("second")
}
