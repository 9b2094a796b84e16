//! A command that writes all the time, through cuts of its line.

use std::fs::File;
use std::process::Stdio;
use std::time::{Duration, Instant};

use e2e::program::wait_readable;
use e2e::wait::holds_within;
use e2e::{Far, eventually, is_long};
use rustix::process::Pid;

use super::SOON;

/// Prints a number a line and a millisecond until there is a file, writes the last one to another, and exits with 7.
const COUNTING: &str = "$| = 1; for ($i = 1; $i % 100 || !-e $ARGV[0]; $i++) { print \"$i\\n\"; \
                        select(undef, undef, undef, 0.001) } print \"$i\\n\"; open(F, '>', $ARGV[1]); print F $i; exit 7";

#[test]
fn every_line_of_a_command_comes_once_and_in_order_through_cuts() {
    let (least, cuts) = if is_long() { (Duration::from_secs(60), 20) } else { (Duration::from_secs(3), 3) };
    let far = Far::new();
    let [out, stop, last] = ["out", "stop", "last"].map(|name| far.stead.root().join(name));
    let began = Instant::now();
    let mut exec = far
        .command(&["exec", "box", "--", "perl", "-e", COUNTING])
        .args([&stop, &last])
        .stdin(Stdio::null())
        .stdout(File::create(&out).unwrap())
        .spawn()
        .unwrap();
    let printed = || std::fs::metadata(&out).map_or(0, |out| out.len());
    let mut seed = std::time::UNIX_EPOCH.elapsed().unwrap().subsec_nanos() | 1;
    println!("seed {seed}");
    for cut in 1..=cuts {
        let before = printed();
        assert!(holds_within(SOON, || printed() > before), "nothing arrives before cut {cut}");
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        // In the middle of whatever comes then, a frame more often than not.
        far.proxy.cut_after(1 + seed as usize % 5000);
        assert!(holds_within(SOON, || far.proxy.is_cut()), "nothing is sent before cut {cut}");
        let down_until = Instant::now() + Duration::from_millis(u64::from(seed >> 8) % 400);
        assert!(holds_within(SOON, || Instant::now() >= down_until));
        far.proxy.mend();
    }
    assert!(holds_within(SOON, || began.elapsed() >= least));
    std::fs::write(&stop, "").unwrap();
    assert!(wait_readable(Pid::from_child(&exec), 2 * SOON), "it does not end: {} bytes", printed());
    assert_eq!(exec.wait().unwrap().code(), Some(7));
    let text = std::fs::read_to_string(&out).unwrap();
    let lines: usize = std::fs::read_to_string(&last).unwrap().parse().unwrap();
    let wrong = text.lines().zip(1..).find(|(line, number)| *line != number.to_string());
    assert_eq!((wrong, text.lines().count()), (None, lines));
}

#[test]
fn a_build_goes_on_while_nobody_can_read_what_it_prints() {
    let far = Far::new();
    let done = far.stead.root().join("done");
    let out = far.stead.root().join("out");
    // More than pipes and windows hold, and no more than is kept.
    let script = "echo begun; read go; head -c 900000 /dev/zero | tr '\\0' x; echo; echo end; : > \"$0\"";
    let mut exec = far
        .command(&["exec", "box", "--", "sh", "-c", script])
        .arg(&done)
        .stdin(Stdio::piped())
        .stdout(File::create(&out).unwrap())
        .spawn()
        .unwrap();
    assert!(holds_within(SOON, || std::fs::read(&out).is_ok_and(|text| text == b"begun\n")), "it runs");
    far.proxy.cut_after(2000);
    std::io::Write::write_all(exec.stdin.as_mut().unwrap(), b"go\n").unwrap();
    assert!(holds_within(SOON, || far.proxy.is_cut()), "it is cut while it prints");
    assert!(holds_within(SOON, || done.exists()), "it waits for who cannot read");
    far.proxy.mend();
    assert!(wait_readable(Pid::from_child(&exec), SOON), "it does not end");
    assert!(exec.wait().unwrap().success());
    let text = std::fs::read_to_string(&out).unwrap();
    assert!(text == format!("begun\n{}\nend\n", "x".repeat(900_000)), "{} bytes", text.len());
}

#[test]
fn a_command_whose_client_dies_while_the_line_is_cut_is_hung_up_when_it_is_back() {
    let far = Far::new();
    let pid = far.stead.root().join("pid");
    let script = format!("echo $$ > {}; exec sleep 600", pid.display());
    let mut exec =
        far.command(&["exec", "box", "--", "sh", "-c", &script]).stdin(Stdio::null()).spawn().unwrap();
    eventually(SOON, "it runs", || std::fs::read(&pid).is_ok_and(|text| text.ends_with(b"\n")));
    let pid = std::fs::read_to_string(&pid).unwrap().trim().to_owned();
    let runs = || std::fs::exists(format!("/proc/{pid}")).unwrap();
    assert!(runs());
    far.proxy.cut();
    eventually(SOON, "the cut is noticed", || !far.is_connected());
    exec.kill().unwrap();
    exec.wait().unwrap();
    let listed = || far.stead.json(&["ps"])["processes"].as_array().unwrap().len();
    eventually(SOON, "nobody has it any more", || listed() == 0);
    far.proxy.mend();
    eventually(SOON, "it is hung up", || !runs());
}
