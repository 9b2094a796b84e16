//! The first bytes of a link.

use remote::client::{ConnectError, LinkLost};
use wire::frame::{NOISE_BYTES_MAX, PREFACE};
use wire::hello::{Hello, SessionId};

use super::fake::{connect_to, encoded, greeting, soon};

#[tokio::test]
async fn what_a_login_prints_is_skipped() {
    for noise in [&b""[..], b"Welcome!\r\n", b"\0STEAD/AGN\0STEAD/", &[b'x'; NOISE_BYTES_MAX]] {
        let stream = [noise, &greeting()].concat();
        let client = soon(connect_to(&stream, false)).await.unwrap();
        assert_eq!(client.peer().session, SessionId([7; 16]));
    }
}

#[tokio::test]
async fn a_peer_that_is_no_agent_is_shown_escaped() {
    let error = soon(connect_to(b"\x1b[1mThis account\nis not available.\n", true)).await.unwrap_err();
    assert!(matches!(error, ConnectError::NotAnAgent { ended: true, .. }));
    assert_eq!(
        error.to_string(),
        "the other side is not an agent; it said: \\x1b[1mThis account\\nis not available."
    );
    let error = soon(connect_to(b"", true)).await.unwrap_err();
    assert_eq!(error.to_string(), "the stream ended before an agent answered");
}

#[tokio::test]
async fn a_flood_before_the_preface_is_given_up() {
    let mut flood = vec![b'x'; 2 * NOISE_BYTES_MAX];
    flood.extend(greeting());
    let error = soon(connect_to(&flood, false)).await.unwrap_err();
    assert!(matches!(error, ConnectError::NotAnAgent { ended: false, .. }), "{error}");
    assert!(error.to_string().len() < 1000);
}

#[tokio::test]
async fn a_peer_that_says_nothing_is_given_up() {
    let error = soon(connect_to(b"Password:", false)).await.unwrap_err();
    assert!(matches!(&error, ConnectError::TimedOut { noise, .. } if noise.0 == b"Password:"), "{error}");
}

#[tokio::test]
async fn a_mismatch_names_both_versions() {
    let theirs = Hello { versions: (5, 6), release: "9.9.9".into(), ..Hello::new(0, SessionId::default()) };
    let error = soon(connect_to(&[&PREFACE[..], &encoded(&theirs, b"")].concat(), false)).await.unwrap_err();
    let ours = wire::RELEASE;
    assert_eq!(
        error.to_string(),
        format!("stead {ours} speaks protocol 1 to 1, the other side (9.9.9) 5 to 6")
    );
    let theirs = Hello { schema: 1, ..Hello::new(0, SessionId::default()) };
    let error = soon(connect_to(&[&PREFACE[..], &encoded(&theirs, b"")].concat(), false)).await.unwrap_err();
    assert!(error.to_string().contains("0000000000000001"), "{error}");
}

#[tokio::test]
async fn a_greeting_cut_anywhere_is_an_error() {
    let whole = greeting();
    for end in 0..whole.len() {
        let error = soon(connect_to(&whole[..end], true)).await.unwrap_err();
        let expected = match end < PREFACE.len() {
            true => matches!(error, ConnectError::NotAnAgent { ended: true, .. }),
            false => matches!(error, ConnectError::Lost(LinkLost::Ended | LinkLost::Cut)),
        };
        assert!(expected, "{end}: {error:?}");
    }
}

#[tokio::test]
async fn a_hello_that_cannot_be_read_shows_its_bytes() {
    let stream = [&PREFACE[..], &[3, 0, 0, 0, 0, 0, 0, 0, 0xaa, 0xbb, 0xcc]].concat();
    let error = soon(connect_to(&stream, false)).await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains("could not decode Hello from 3 bytes") && text.contains("aabbcc"), "{text}");
}
