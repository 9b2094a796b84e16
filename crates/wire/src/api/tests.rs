use super::*;
use crate::api::file::Content;
use crate::api::id::{HandleId, MountId, ProcessId, PromptId};
use crate::api::machine::{Caller, Machine, Source};
use crate::api::prompt::Secret;
use crate::bytestring::ByteString;

fn decode_client(line: &str) -> Result<ClientMessage, ErrorObject> {
    ClientMessage::decode(line.as_bytes()).map_err(|response| response.outcome.unwrap_err())
}

fn body(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\n").expect("a line ends in a newline")
}

#[test]
fn a_request_reads_back_as_it_was_written() {
    let calls: Vec<Call> = vec![
        daemon::Hello::ours().into(),
        status::Get {}.into(),
        mount::Create {
            source: Source::parse(b"ssh://me@[::1]:22/a\xffb", b"/").unwrap(),
            dir: Some(ByteString::from(&b"/x\xfe"[..])),
            backend: mount::Backend::Nfs,
            access: mount::Access::ReadOnly,
            sync: mount::SyncMode::Strict,
            reconnect: machine::Reconnect::Never,
            heartbeat_interval_ms: None,
            max_heartbeat_failures: None,
            options: [("a".to_owned(), "b".to_owned())].into(),
            caller: Caller { uid: 1, gid: 2, cwd: "/".into(), ..Caller::default() },
        }
        .into(),
        mount::Remove { target: mount::Target::All, force: mount::Force::Always }.into(),
        mount::Remove { target: mount::Target::Id(MountId::new(3)), force: mount::Force::Never }.into(),
        file::Write { handle: HandleId::new(1), offset: u64::MAX, content: Content(vec![0, 1, 255]) }.into(),
    ];
    for call in calls {
        let request = Request { id: RequestId::Number(7), call };
        let line = request.to_line().unwrap();
        assert_eq!(ClientMessage::decode(body(&line)), Ok(ClientMessage::Request(Box::new(request))));
    }
}

#[test]
fn notifications_read_back_as_they_were_written() {
    let note =
        ServerNotification::from(process::Stdout { process: ProcessId::new(1), bytes: Content(vec![10]) });
    let line = note.to_line().unwrap();
    assert_eq!(ServerMessage::decode(body(&line)), Ok(ServerMessage::Notification(note)));

    let note = ClientNotification::from(prompt::Answer {
        prompt: PromptId::new(1),
        answer: Some(Secret::new("x".into())),
    });
    let line = note.to_line().unwrap();
    assert_eq!(ClientMessage::decode(body(&line)), Ok(ClientMessage::Notification(note)));
}

#[test]
fn a_response_reads_back_as_it_was_written() {
    let id = RequestId::Text("a".into());
    let success = Response::success(id.clone(), &mount::Removed::default()).unwrap();
    let failure =
        Response::failure(Some(id), ErrorObject::new(ErrorKind::Refused, "no").with_hint("ask for it"));
    let unknown = Response::failure(None, ErrorObject::internal("no"));
    for response in [success, failure, unknown] {
        let line = response.to_line().unwrap();
        assert_eq!(ServerMessage::decode(body(&line)), Ok(ServerMessage::Response(response)));
    }
}

#[test]
fn messages_look_as_json_rpc_has_it() {
    let request = Request { id: RequestId::Number(1), call: mount::List {}.into() };
    assert_eq!(
        String::from_utf8(request.to_line().unwrap()).unwrap(),
        "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"mount.list\",\"params\":{}}\n"
    );
    let failure = Response::failure(None, ErrorObject::new(ErrorKind::NotFound, "no"));
    assert_eq!(
        String::from_utf8(failure.to_line().unwrap()).unwrap(),
        "{\"jsonrpc\":\"2.0\",\"id\":null,\"error\":{\"code\":-32003,\"message\":\"no\",\
         \"data\":{\"kind\":\"not_found\"}}}\n"
    );
}

#[test]
fn parameters_may_be_left_out_when_all_have_defaults() {
    let message = decode_client(r#"{"jsonrpc":"2.0","id":"x","method":"status.get"}"#).unwrap();
    let ClientMessage::Request(request) = message else { panic!("not a request") };
    assert_eq!(request.id, RequestId::Text("x".into()));
    assert_eq!(request.call, Call::StatusGet(status::Get {}));
}

#[test]
fn what_is_not_a_message_is_answered_with_the_right_code() {
    let long_id =
        format!(r#"{{"jsonrpc":"2.0","id":"{}","method":"status.get"}}"#, "x".repeat(ID_BYTES_MAX + 1));
    let cases = [
        ("", error::PARSE),
        ("HTTP/1.1 200", error::PARSE),
        ("[]", error::PARSE),
        (r#"{"jsonrpc":"2.0","id":1.5,"method":"status.get"}"#, error::PARSE),
        (r#"{"jsonrpc":"2.0","id":-1,"method":"status.get"}"#, error::PARSE),
        (r#"{"id":1,"method":"status.get"}"#, error::INVALID_REQUEST),
        (r#"{"jsonrpc":"1.0","id":1,"method":"status.get"}"#, error::INVALID_REQUEST),
        (r#"{"jsonrpc":"2.0","id":1}"#, error::INVALID_REQUEST),
        (&long_id, error::INVALID_REQUEST),
        (r#"{"jsonrpc":"2.0","id":1,"method":"status.set"}"#, error::METHOD_NOT_FOUND),
        (r#"{"jsonrpc":"2.0","id":1,"method":"prompt.answer"}"#, error::METHOD_NOT_FOUND),
        (r#"{"jsonrpc":"2.0","method":"status.get"}"#, error::METHOD_NOT_FOUND),
        (r#"{"jsonrpc":"2.0","id":1,"method":"status.get","params":{"x":1}}"#, error::INVALID_PARAMS),
        (r#"{"jsonrpc":"2.0","id":1,"method":"mount.remove"}"#, error::INVALID_PARAMS),
    ];
    for (line, code) in cases {
        assert_eq!(decode_client(line).unwrap_err().code, code, "{line}");
    }
}

#[test]
fn an_error_in_a_request_is_answered_under_its_id() {
    let line = br#"{"jsonrpc":"2.0","id":9,"method":"nope"}"#;
    assert_eq!(ClientMessage::decode(line).unwrap_err().id, Some(RequestId::Number(9)));
}

#[test]
fn a_line_over_the_limit_is_neither_written_nor_read() {
    let call =
        file::Write { handle: HandleId::new(1), offset: 0, content: Content(vec![0; LINE_BYTES_MAX]) }.into();
    let error = Request { id: RequestId::Number(1), call }.to_line().unwrap_err();
    assert!(matches!(error, EncodeError::TooLong { what: "file.write", .. }), "{error}");
    assert!(ServerMessage::decode(&vec![b' '; LINE_BYTES_MAX + 1]).is_err());
}

#[test]
fn the_largest_chunk_and_the_largest_listing_fit_a_line() {
    let content = Content(vec![0xff; file::CHUNK_BYTES_MAX]);
    let write = file::Write { handle: HandleId::new(u64::MAX), offset: u64::MAX, content };
    let id = RequestId::Text("\u{1}".repeat(ID_BYTES_MAX));
    assert!(Request { id: id.clone(), call: write.into() }.to_line().is_ok());

    let time = file::FileTime { seconds: i64::MIN, nanoseconds: 999_999_999 };
    let entry = file::Entry {
        name: ByteString::new(vec![0xff; 255]),
        kind: file::FileKind::CharacterDevice,
        mode: u32::MAX,
        uid: u32::MAX,
        gid: u32::MAX,
        size: u64::MAX,
        blocks: u64::MAX,
        links: u64::MAX,
        inode: u64::MAX,
        device: u64::MAX,
        birth: u64::MAX,
        modified: time,
        changed: time,
        accessed: time,
        target: None,
    };
    let listed = file::Listed { entries: vec![entry; file::ENTRIES_MAX], progress: file::Progress::More };
    assert!(Response::success(id, &listed).unwrap().to_line().is_ok());
}

#[test]
fn a_secret_is_never_quoted() {
    let secret = Secret::new("hunter2".into());
    assert_eq!(format!("{secret:?}"), "Secret(redacted)");
    let answer = prompt::Answer { prompt: PromptId::new(1), answer: Some(secret) };
    assert!(!format!("{:?}", ClientNotification::from(answer)).contains("hunter2"));

    let damaged = [
        r#"{"jsonrpc":"2.0","method":"prompt.answer","params":{"prompt":"q1","answer":"hunter2""#,
        r#"{"jsonrpc":"2.0","method":"prompt.answer","params":{"prompt":"hunter2","answer":"x"}}"#,
        r#"{"jsonrpc":"2.0","method":"prompt.answer","params":"hunter2"}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"prompt.request","params":{"ticket":"t","kind":"hunter2"}}"#,
        r#"{"answer":"hunter2","method":"prompt.answer"#,
    ];
    for line in damaged {
        let error = decode_client(line).unwrap_err();
        let shown = format!("{error:?}");
        assert!(!shown.contains("hunter2") && !shown.contains("68756e746572"), "{shown}");
    }
}

#[test]
fn notifications_of_a_newer_daemon_are_recognised_as_unknown() {
    let message = ServerMessage::decode(br#"{"jsonrpc":"2.0","method":"event.mount","params":{}}"#).unwrap();
    assert_eq!(message, ServerMessage::Unknown { method: "event.mount".into() });
}

#[test]
fn method_names_are_noun_dot_verb_and_distinct() {
    let mut names = Call::NAMES.to_vec();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), Call::NAMES.len());
    for name in names {
        let parts: Vec<_> = name.split('.').collect();
        assert_eq!(parts.len(), 2, "{name}");
        assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'.' || byte == b'_'), "{name}");
    }
}

#[test]
fn the_status_document_has_the_fields_that_checks_read() {
    let document = status::Document {
        daemon: status::Daemon { pid: 1, version: "0.1.0".into() },
        machines: vec![status::MachineStatus {
            machine: Machine::parse(b"ssh://box").unwrap(),
            state: status::ConnectionState::Connected,
            agent: Some(status::Agent { version: "0.1.0".into() }),
        }],
        connections: vec![status::Connection {
            id: id::ConnectionId::new(1),
            machine: Machine::parse(b"ssh://box").unwrap(),
            state: status::ConnectionState::Connected,
            since: "2026-01-01T00:00:00Z".parse().unwrap(),
            pids: vec![123],
            reason: None,
            hint: None,
        }],
        mounts: vec![status::Mount {
            id: MountId::new(1),
            source: Source::parse(b"ssh://box/src", b"/").unwrap(),
            dir: "/home/u/src".into(),
            backend: mount::BackendName::Fuse,
            status: status::MountStatus::Active,
            worker: Some(status::Worker { pid: 124, restarts: 0 }),
            journal: status::Journal::default(),
            counters: status::Counters::default(),
            operations: Default::default(),
            access: mount::Access::ReadWrite,
            sync: mount::SyncMode::Close,
            degraded: None,
            reason: None,
            health: status::Health::Healthy,
            crash: None,
            port: None,
            nfs: None,
            replayed: None,
        }],
        threads: vec![],
        vms: vec![],
        tunnels: vec![],
        processes: vec![],
        operations: vec![],
    };
    let expected: Value = serde_json::from_str(
        r#"{"daemon":{"pid":1,"version":"0.1.0"},
            "machines":[{"machine":"ssh://box","state":"connected","agent":{"version":"0.1.0"}}],
            "connections":[{"id":"c1","machine":"ssh://box","state":"connected","since":"2026-01-01T00:00:00Z",
                            "pids":[123]}],
            "mounts":[{"id":"m1","source":"ssh://box/src","dir":"/home/u/src","backend":"fuse",
                       "status":{"state":"active"},"worker":{"pid":124,"restarts":0},
                       "journal":{"operations":0,"bytes":0},
                       "counters":{"requests":0,"hits":0,"round_trips":0,"bytes_read":0,"bytes_written":0,"bytes_cached":0,
                                   "retries":0,"reconnects":0},
                       "access":"read_write","sync":"close","health":{"state":"healthy"}}],
            "threads":[],"vms":[],"tunnels":[],"processes":[],"operations":[]}"#,
    )
    .unwrap();
    assert_eq!(serde_json::to_value(&document).unwrap(), expected);
    assert_eq!(serde_json::from_value::<status::Document>(expected).unwrap(), document);
}

#[test]
fn a_failed_mount_says_why() {
    let failed = status::MountStatus::Failed { reason: "the worker died".into() };
    assert_eq!(serde_json::to_string(&failed).unwrap(), r#"{"state":"failed","reason":"the worker died"}"#);
}

mod any_bytes {
    use proptest::prelude::*;

    use super::*;

    /// Bytes that come near to being a message.
    fn nearly_json() -> impl Strategy<Value = Vec<u8>> {
        let pieces = prop::sample::select(vec![
            "{",
            "}",
            "[",
            "]",
            ":",
            ",",
            "\"jsonrpc\"",
            "\"2.0\"",
            "\"id\"",
            "1",
            "null",
            "\"method\"",
            "\"mount.create\"",
            "\"prompt.answer\"",
            "\"params\"",
            "\"source\"",
            "\"hex\"",
            "\"ff\"",
            "\"answer\"",
            "1e999",
            "\"\\ud800\"",
            "\n",
            "\u{0}",
            " ",
        ]);
        prop::collection::vec(pieces, 0..40).prop_map(|pieces| pieces.concat().into_bytes())
    }

    proptest! {
        #[test]
        fn never_make_a_decoder_panic(bytes in prop_oneof![any::<Vec<u8>>(), nearly_json()]) {
            let _client = ClientMessage::decode(&bytes);
            let _server = ServerMessage::decode(&bytes);
            let mut decoder = LineDecoder::new();
            decoder.push(&bytes);
            while let Ok(Some(_)) = decoder.next_line() {}
        }

        #[test]
        fn that_are_a_source_read_back_from_its_canonical_text(
            text in prop_oneof![
                any::<Vec<u8>>(),
                "(ssh://|host:|docker://|vm://|thread:|host/)?[a-z@:./~\\[\\]%-]{0,20}".prop_map(String::into_bytes),
            ]
        ) {
            if let Ok(source) = Source::parse(&text, b"/home/u") {
                prop_assert_eq!(Source::parse_absolute(&source.to_bytes()), Ok(source));
            }
        }

        #[test]
        fn that_are_a_machine_name_no_option_and_no_shell_word(text in "[ -~]{0,24}") {
            if let Ok(Machine::Ssh(target)) = Machine::parse(text.as_bytes()) {
                let words = [Some(target.host()), target.user()];
                for word in words.into_iter().flatten() {
                    prop_assert!(!word.is_empty() && !word.starts_with('-'), "{word}");
                    prop_assert!(!word.contains(|c: char| " '\"`$;&|<>(){}*?!#\n".contains(c)), "{word}");
                }
                let printed = Machine::Ssh(target.clone()).to_string();
                prop_assert_eq!(Machine::parse(printed.as_bytes()), Ok(Machine::Ssh(target)));
            }
        }
    }
}
