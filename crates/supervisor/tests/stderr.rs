//! Standard error in a log. One test, because it points the standard error of its whole process elsewhere.

#![allow(clippy::unwrap_used, reason = "a failure of a test's own means is a failure of the test")]

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use supervisor::log::RotatingFile;

/// Past the test's own capture of output, as a library does.
fn complain(words: &str) {
    rustix::io::write(rustix::stdio::stderr(), words.as_bytes()).unwrap();
}

fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

#[test]
fn standard_error_follows_its_log_into_the_next_file() {
    let before = rustix::io::dup(rustix::stdio::stderr()).unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let (path, aside) = (scratch.path().join("log"), scratch.path().join("log.1"));
    rustix::stdio::dup2_stderr(File::options().append(true).create(true).open(&path).unwrap()).unwrap();
    let log = Arc::new(RotatingFile::of_stderr(100).unwrap().unwrap());

    complain("from a library\n");
    (&*log).write_all(&[b'x'; 90]).unwrap();
    complain("and again\n");
    assert_eq!((text(&aside), text(&path)), ("from a library\n".into(), "x".repeat(90) + "and again\n"));

    // Panics alone keep to the limit too; their messages go where this process's standard error goes.
    let told = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| complain("a panic of about thirty bytes\n")));
    log.bound_panics();
    for _ in 0..20 {
        std::panic::catch_unwind(|| panic!("on purpose")).unwrap_err();
    }
    let (now, then) = (text(&path), text(&aside));
    std::panic::set_hook(told);

    // Without a name there is nothing to put aside.
    std::fs::remove_file(&path).unwrap();
    let nameless = RotatingFile::of_stderr(100).unwrap().is_none();
    rustix::stdio::dup2_stderr(before).unwrap();
    assert!(nameless);
    assert!(now.starts_with("a panic of") && now.len() <= 130, "{now}");
    assert!(then.starts_with("a panic of") && then.len() <= 130, "{then}");
}
