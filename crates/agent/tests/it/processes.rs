use wire::agent::process::*;
use wire::agent::*;

use crate::client::*;

struct Program {
    process: ProcessId,
    id: RequestId,
}

fn spawn(client: &mut Client, words: &[&str], terminal: Option<TerminalSize>, window: u32) -> Program {
    let process = ProcessId(client.handle().0);
    let request = ProcessRequest::Spawn {
        process,
        words: words.iter().map(|word| word.as_bytes().to_vec().into()).collect(),
        environment: vec![(b"GREETING".to_vec().into(), b"hello".to_vec().into())],
        directory: Some(b"/".to_vec().into()),
        terminal,
        detached: false,
        window,
    };
    let id = client.send(Request::Process(request), &[]);
    Program { process, id }
}

fn started(client: &mut Client, program: &Program) -> u32 {
    match client.reply(program.id) {
        (false, Ok(Reply::Process(ProcessReply::Started { pid, .. })), _) => pid,
        other => panic!("{other:?}"),
    }
}

/// All output until the end, as (stdout, stderr, status).
fn finish(client: &mut Client, program: &Program) -> (Vec<u8>, Vec<u8>, ExitStatus) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    loop {
        match client.reply(program.id) {
            (false, Ok(Reply::Process(ProcessReply::Output(Output::Stdout))), bytes) => out.extend(bytes),
            (false, Ok(Reply::Process(ProcessReply::Output(Output::Stderr))), bytes) => err.extend(bytes),
            (true, Ok(Reply::Process(ProcessReply::Ended(status))), _) => return (out, err, status),
            other => panic!("{other:?}"),
        }
    }
}

fn ask(client: &mut Client, request: ProcessRequest, payload: &[u8]) -> Result<(), Failure> {
    let id = client.send(Request::Process(request), payload);
    match client.reply(id) {
        (true, body, _) => body.map(|reply| assert_eq!(reply, Reply::Process(ProcessReply::Done))),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_program_gets_its_environment_and_directory_and_ends_with_its_status() {
    let mut client = Client::connect();
    let program =
        spawn(&mut client, &["sh", "-c", "echo $GREETING; pwd; echo oops >&2; exit 7"], None, NO_LIMIT);
    started(&mut client, &program);
    let (out, err, status) = finish(&mut client, &program);
    assert_eq!(out, b"hello\n/\n");
    assert_eq!(err, b"oops\n");
    assert_eq!(status, ExitStatus::Exited(7));
}

#[test]
fn no_words_are_the_login_shell() {
    let mut client = Client::connect();
    let program = spawn(&mut client, &[], None, NO_LIMIT);
    started(&mut client, &program);
    let input = ProcessRequest::Input { process: program.process, from: 0, end: true };
    ask(&mut client, input, b"echo $0 $GREETING\n").unwrap();
    assert_eq!(finish(&mut client, &program).0, b"-sh hello\n");
}

#[test]
fn input_arrives_in_order_and_its_end_too() {
    let mut client = Client::connect();
    let program = spawn(&mut client, &["cat"], None, NO_LIMIT);
    started(&mut client, &program);
    let big = vec![b'x'; 300_000];
    let mut from = 0;
    for (bytes, end) in [(b"first ".as_slice(), false), (&big, false), (b" last", true)] {
        ask(&mut client, ProcessRequest::Input { process: program.process, from, end }, bytes).unwrap();
        from += bytes.len() as u64;
    }
    let (out, _, status) = finish(&mut client, &program);
    assert!(out == [b"first ".as_slice(), &big, b" last"].concat());
    assert_eq!(status, ExitStatus::Exited(0));
}

#[test]
fn input_for_a_program_that_does_not_read_is_refused_when_it_ends() {
    let mut client = Client::connect();
    let program = spawn(&mut client, &["sh", "-c", "exec <&-; echo ready; sleep 1000"], None, NO_LIMIT);
    started(&mut client, &program);
    assert_eq!(client.reply(program.id).2, b"ready\n");
    let input = ProcessRequest::Input { process: program.process, from: 0, end: false };
    assert_eq!(errno(ask(&mut client, input.clone(), b"x")), libc::EPIPE);
    ask(&mut client, ProcessRequest::Signal { process: program.process, signal: 9 }, &[]).unwrap();
    assert_eq!(finish(&mut client, &program).2, ExitStatus::Signalled(9));
    assert_eq!(errno(ask(&mut client, input, b"x")), libc::ESRCH);
}

#[test]
fn a_program_without_credit_waits() {
    let mut client = Client::connect();
    let program = spawn(&mut client, &["sh", "-c", "head -c 1000000 /dev/zero"], None, 100_000);
    started(&mut client, &program);
    let mut received = 0;
    while received < 100_000 {
        received += client.reply(program.id).2.len();
    }
    assert!(received < 300_000, "{received}");
    assert!(!client.has_reply(program.id));
    client.send_frame(&ClientFrame::Credit { id: program.id, bytes: NO_LIMIT }, &[]);
    let (out, _, status) = finish(&mut client, &program);
    assert_eq!((received + out.len(), status), (1_000_000, ExitStatus::Exited(0)));
}

#[test]
fn a_signal_goes_to_the_whole_group() {
    let mut client = Client::connect();
    let program = spawn(&mut client, &["sh", "-c", "sleep 1000 & echo up; wait"], None, NO_LIMIT);
    started(&mut client, &program);
    assert_eq!(client.reply(program.id).2, b"up\n");
    ask(&mut client, ProcessRequest::Signal { process: program.process, signal: 15 }, &[]).unwrap();
    assert_eq!(finish(&mut client, &program).2, ExitStatus::Signalled(15));
}

#[test]
fn a_terminal_has_a_size_and_can_be_resized() {
    let mut client = Client::connect();
    let size = TerminalSize { rows: 31, columns: 97 };
    let words = ["sh", "-c", "stty -echo; stty size; read line; stty size; tty >/dev/null && echo tty"];
    let program = spawn(&mut client, &words, Some(size), NO_LIMIT);
    started(&mut client, &program);
    let mut shown = Vec::new();
    while !shown.ends_with(b"\n") {
        shown.extend(client.reply(program.id).2);
    }
    assert_eq!(shown, b"31 97\r\n");
    let size = TerminalSize { rows: 40, columns: 120 };
    ask(&mut client, ProcessRequest::Resize { process: program.process, size }, &[]).unwrap();
    ask(&mut client, ProcessRequest::Input { process: program.process, from: 0, end: false }, b"go\n")
        .unwrap();
    let (out, _, status) = finish(&mut client, &program);
    assert_eq!(out, b"40 120\r\ntty\r\n");
    assert_eq!(status, ExitStatus::Exited(0));
}

#[test]
fn the_end_of_input_ends_a_terminals_reader() {
    let mut client = Client::connect();
    let size = TerminalSize { rows: 24, columns: 80 };
    let program = spawn(&mut client, &["cat"], Some(size), NO_LIMIT);
    started(&mut client, &program);
    ask(&mut client, ProcessRequest::Input { process: program.process, from: 0, end: true }, b"").unwrap();
    assert_eq!(finish(&mut client, &program).2, ExitStatus::Exited(0));
}

#[test]
fn an_end_of_input_that_comes_again_ends_one_reader_of_a_terminal() {
    let mut client = Client::connect();
    let size = TerminalSize { rows: 24, columns: 80 };
    let script = "stty -echo; echo up; cat; echo first; cat; echo second";
    let program = spawn(&mut client, &["sh", "-c", script], Some(size), NO_LIMIT);
    started(&mut client, &program);
    let mut shown = Vec::new();
    let input = |client: &mut Client, from, end, bytes: &[u8]| {
        ask(client, ProcessRequest::Input { process: program.process, from, end }, bytes).unwrap();
    };
    while !shown.ends_with(b"up\r\n") {
        shown.extend(client.reply(program.id).2);
    }
    // As after a cut.
    input(&mut client, 0, true, b"");
    input(&mut client, 0, true, b"");
    while !shown.ends_with(b"first\r\n") {
        shown.extend(client.reply(program.id).2);
    }
    input(&mut client, 0, false, b"more\n");
    input(&mut client, 5, true, b"");
    let (out, _, status) = finish(&mut client, &program);
    assert_eq!((out.as_slice(), status), (&b"more\r\nsecond\r\n"[..], ExitStatus::Exited(0)));
}

#[test]
fn what_cannot_be_started_says_why() {
    let mut client = Client::connect();
    let program = spawn(&mut client, &["/no/such/program"], None, NO_LIMIT);
    let (last, body, _) = client.reply(program.id);
    let failure = body.unwrap_err();
    assert!(last && i32::from(failure.errno.0) == libc::ENOENT, "{failure:?}");
    // Which program it was, the client knows; that it was not the directory, it does not.
    assert_eq!(failure.detail, "");

    let nowhere = ProcessRequest::Spawn {
        process: ProcessId(2),
        words: vec![b"true".to_vec().into()],
        environment: Vec::new(),
        directory: Some(b"/no/such/directory".to_vec().into()),
        terminal: None,
        detached: false,
        window: NO_LIMIT,
    };
    let failure = ask(&mut client, nowhere, &[]).unwrap_err();
    assert!(i32::from(failure.errno.0) == libc::ENOENT, "{failure:?}");
    assert!(failure.detail.contains("/no/such/directory"), "{failure:?}");
}

#[test]
fn a_cancelled_program_is_hung_up_and_one_that_ignores_it_is_killed() {
    let mut client = Client::connect();
    for (script, signal) in [("echo up; sleep 1000", 1), ("trap '' HUP; echo up; sleep 1000", 9)] {
        let program = spawn(&mut client, &["sh", "-c", script], None, NO_LIMIT);
        started(&mut client, &program);
        assert_eq!(client.reply(program.id).2, b"up\n");
        client.send_frame(&ClientFrame::Cancel { id: program.id }, &[]);
        assert_eq!(finish(&mut client, &program).2, ExitStatus::Signalled(signal));
    }
}

#[test]
fn programs_end_with_the_stream() {
    let mut client = Client::connect();
    let words = ["sh", "-c", "trap '' HUP; echo up; while :; do sleep 1000; done"];
    let program = spawn(&mut client, &words, None, NO_LIMIT);
    let pid = started(&mut client, &program);
    assert_eq!(client.reply(program.id).2, b"up\n");
    client.close();
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
}

#[test]
fn a_program_is_started_with_the_umask_of_the_agent() {
    // Before an agent's threads may have none of their own.
    let umask = current_umask();
    let mut client = Client::connect();
    let program = spawn(&mut client, &["sh", "-c", "umask"], None, NO_LIMIT);
    started(&mut client, &program);
    let (out, _, _) = finish(&mut client, &program);
    assert_eq!(out, format!("{umask:04o}\n").as_bytes());
}

fn current_umask() -> u32 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("Umask:")).unwrap();
    u32::from_str_radix(line.trim(), 8).unwrap()
}
