use super::*;

fn hello(versions: (u16, u16), schema: u64) -> Hello {
    Hello { versions, schema, ..Hello::new(0, SessionId::default()) }
}

#[test]
fn the_newest_common_version_is_spoken() {
    let cases = [((1, 1), (1, 1), Some(1)), ((1, 3), (2, 5), Some(3)), ((2, 5), (1, 3), Some(3))];
    for (ours, theirs, version) in cases {
        assert_eq!(hello(ours, 7).agree(&hello(theirs, 7)).ok(), version);
    }
}

#[test]
fn two_sides_without_a_common_version_name_both() {
    for (ours, theirs) in [((1, 2), (3, 4)), ((3, 4), (1, 2)), ((1, 2), (9, 0))] {
        let mismatch = hello(ours, 7).agree(&hello(theirs, 7)).unwrap_err();
        assert!(matches!(mismatch, Mismatch::Version { .. }));
        let text = mismatch.to_string();
        assert!(text.contains(&ours.0.to_string()) && text.contains(&theirs.0.to_string()), "{text}");
    }
}

#[test]
fn one_version_from_differing_sources_is_refused() {
    let mismatch = hello((1, 1), 0xab).agree(&hello((1, 1), 0xcd)).unwrap_err();
    let text = mismatch.to_string();
    assert!(text.contains("00000000000000ab") && text.contains("00000000000000cd"), "{text}");
}

#[test]
fn a_session_is_the_same_after_its_text() {
    let session = SessionId([0, 1, 0xab, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 0xff]);
    let text = session.to_string();
    assert_eq!(text, "0001ab030405060708090a0b0c0d0eff");
    assert_eq!(text.parse(), Ok(session));
    for wrong in
        ["", "0001AB030405060708090a0b0c0d0eff", "+001ab030405060708090a0b0c0d0eff", "../x", &text[1..]]
    {
        assert_eq!(wrong.parse::<SessionId>(), Err(NotASession), "{wrong}");
    }
}
