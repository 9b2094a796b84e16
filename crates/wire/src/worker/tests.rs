use super::*;
use crate::api::machine::Machine;
use crate::api::status::{Aside, Left};

fn config() -> MountConfig {
    MountConfig {
        id: MountId::new(7),
        source: Source::files(Machine::parse(b"ssh://me@box").unwrap(), &b"/src/\xff"[..]).unwrap(),
        dir: "/home/u/src".into(),
        backend: Backend::Auto,
        access: Access::ReadWrite,
        sync: SyncMode::Close,
        heartbeat: Heartbeat::default(),
        reconnect: Reconnect::Automatic,
        options: BTreeMap::from([("allow-other".to_owned(), String::new())]),
        state_dir: "/var/lib/stead/mounts/m7".into(),
        cache_dir: Some("/home/u/.cache/stead/data".into()),
        place: Place::Machine(Dial::Ssh(SshDial {
            program: "ssh".into(),
            control_path: "/run/stead/c1".into(),
            user: Some("me".into()),
            host: "box".into(),
            port: None,
            config: None,
            agent: ".cache/stead/agent".into(),
        })),
        owner: Owner { uid: 1000, gid: 1000 },
        unsaved: vec!["/var/lib/stead/mounts/m3".into()],
    }
}

fn messages() -> Vec<FromWorker> {
    vec![
        FromWorker::Ready(Ready {
            backend: BackendName::Fuse,
            connection: Some(42),
            port: None,
            nfs: None,
            degraded: None,
            agent_version: Some("0.1.0".into()),
            pid: Some(4711),
            restarts: Some(2),
            replayed: Some(Replayed {
                writes: 2,
                bytes: 9,
                aside: vec![Aside { of: "/m/f".into(), path: "/m/f.stead-conflict-20260101-m3-7".into() }],
                left: vec![Left { path: "/var/lib/stead/mounts/m2".into(), reason: "ENOSPC".into() }],
                saving: vec!["/var/lib/stead/mounts/m4".into()],
                more: 1,
            }),
        }),
        FromWorker::Status(Box::new(WorkerStatus {
            status: MountStatus::Failed { reason: "no".into() },
            reason: Some("the stream ended".into()),
            journal: Journal { operations: 1, bytes: 2 },
            counters: Counters { requests: u64::MAX, ..Counters::default() },
            operations: BTreeMap::from([("Lookup".to_owned(), u64::MAX)]),
            degraded: Some("kernel too old for takeover".into()),
            kept_aside: vec!["/x".into()],
            replayed: Some(Replayed { writes: 1, ..Replayed::default() }),
        })),
        FromWorker::Error(WorkerError { kind: ErrorKind::Conflict, message: "busy".into(), hint: None }),
        FromWorker::Stopping(Stopping::default()),
    ]
}

#[test]
fn frames_are_the_same_however_the_stream_is_cut() {
    let stream: Vec<u8> = messages().iter().flat_map(|message| encode(message).unwrap()).collect();
    for size in [1, 2, 3, 5, 64, stream.len()] {
        let mut decoder = Decoder::new();
        let mut decoded = Vec::new();
        for chunk in stream.chunks(size) {
            decoder.push(chunk);
            while let Some(message) = decoder.next_frame::<FromWorker>().unwrap() {
                decoded.push(message);
            }
        }
        assert_eq!(decoded, messages(), "chunks of {size}");
        assert!(decoder.is_empty());
    }
}

#[test]
fn a_configuration_survives_with_names_that_are_not_text() {
    let text = serde_json::to_vec(&config()).unwrap();
    assert_eq!(serde_json::from_slice::<MountConfig>(&text).unwrap(), config());
}

#[test]
fn a_length_outside_the_limits_is_refused_before_its_body_arrives() {
    for length in [0, FRAME_BYTES_MAX + 1, u32::MAX] {
        let mut decoder = Decoder::new();
        decoder.push(&length.to_le_bytes());
        let error = decoder.next_frame::<FromWorker>().unwrap_err();
        assert_eq!(error.type_name, "FromWorker");
        assert!(error.to_string().contains(&length.to_string()), "{error}");
    }
}

#[test]
fn a_body_that_is_no_message_names_the_type_and_shows_its_beginning() {
    let mut decoder = Decoder::new();
    decoder.push(&[5, 0, 0, 0]);
    decoder.push(b"HTTP/");
    let error = decoder.next_frame::<ToWorker>().unwrap_err();
    assert_eq!((error.type_name, error.bytes, error.preview.as_str()), ("ToWorker", 5, "485454502f"));
}

#[test]
fn a_message_that_is_too_long_is_not_sent() {
    let kept_aside = vec!["k".repeat(1000).as_str().into(); 100];
    let error = encode(&FromWorker::Stopping(Stopping { kept_aside })).unwrap_err();
    assert!(matches!(error, EncodeError::TooLong { .. }), "{error}");
}

#[test]
fn frames_look_as_documented() {
    let frame = encode(&ToWorker::Stop { force: Force::Never }).unwrap();
    let (prefix, body) = frame.split_at(PREFIX_BYTES);
    assert_eq!(prefix, (body.len() as u32).to_le_bytes());
    assert_eq!(body, br#"{"type":"stop","force":"never"}"#);
}

proptest::proptest! {
    #[test]
    fn no_bytes_make_the_decoder_panic(length in 0u32..200, body: Vec<u8>) {
        let mut decoder = Decoder::new();
        decoder.push(&length.to_le_bytes());
        decoder.push(&body);
        while let Ok(Some(_)) = decoder.next_frame::<FromWorker>() {}
    }
}
