//! A command sees what was saved before it was started.

use std::time::Duration;

use e2e::Kind;
use e2e::faults::field::Field;

#[test]
fn what_was_saved_before_a_command_is_what_it_sees() {
    // Nothing waits for the machine, which is far: what is written is on its way for a while.
    let field = Field::at_distance(Kind::Ssh, Duration::from_millis(80), &["--sync", "async"]);
    for number in 0..5 {
        let text = format!("{number}").repeat(300_000);
        std::fs::write(field.dir.join("program"), &text).unwrap();
        let there = field.far.join("program");
        let seen = field.stead().ok(&["exec", "box", "--", "cat", there.to_str().unwrap()]);
        assert!(seen.text() == text, "version {number}: {} bytes of {}", seen.text().len(), text.len());
        assert_eq!(seen.errors(), "");
    }
}
