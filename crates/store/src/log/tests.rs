use proptest::prelude::*;

use super::*;

type Contents = Vec<Vec<u8>>;

fn records(contents: &[Vec<u8>]) -> Records {
    let mut records = Records::default();
    contents.iter().for_each(|bytes| records.push(|to| to.extend_from_slice(bytes)));
    records
}

fn read(path: &Path) -> (Contents, Log) {
    let mut contents = Contents::new();
    let opened = Log::open::<LogError>(path, |bytes| {
        contents.push(bytes.to_vec());
        Ok(())
    });
    (contents, opened.expect("readable").expect("there"))
}

fn some() -> impl Strategy<Value = Contents> {
    prop::collection::vec(prop::collection::vec(any::<u8>(), 1..24), 0..6)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]
    #[test]
    fn a_log_cut_at_any_byte_is_a_prefix_and_is_gone_on_with(contents in some(), more in some()) {
        let scratch = tempfile::tempdir().expect("a directory");
        let path = scratch.path().join("log");
        Log::create(&path, &records(&contents)).expect("begun");
        let whole = std::fs::read(&path).expect("read");
        for cut in HEADER_BYTES..=whole.len() {
            std::fs::write(&path, &whole[..cut]).expect("written");
            let (found, mut log) = read(&path);
            prop_assert_eq!(&found[..], &contents[..found.len()]);
            let next = contents.get(found.len()).map_or(whole.len(), |next| FRAME_BYTES + next.len());
            prop_assert!(log.length() as usize + next > cut, "a whole record was lost");
            log.append(&records(&more)).expect("appended");
            let expected: Vec<_> = found.into_iter().chain(more.iter().cloned()).collect();
            prop_assert_eq!(read(&path).0, expected);
        }
    }

    #[test]
    fn a_damaged_byte_is_never_read_as_a_record(contents in some(), at in any::<prop::sample::Index>(), to in 1..=255u8) {
        let mut bytes = records(&contents).to_file();
        prop_assume!(bytes.len() > HEADER_BYTES);
        let at = HEADER_BYTES + at.index(bytes.len() - HEADER_BYTES);
        bytes[at] ^= to;
        let (found, _) = parse(&bytes).expect("a log");
        prop_assert_eq!(&found[..], &contents[..found.len()]);
        prop_assert!(found.len() < contents.len());
    }
}

#[test]
fn another_programs_file_is_refused_and_left_alone() {
    let scratch = tempfile::tempdir().expect("a directory");
    let path = scratch.path().join("log");
    for foreign in [&b"these are sixteen bytes and more"[..], b"steadlog\x01\0\0\0\0\0\0\0", b"short", b""] {
        std::fs::write(&path, foreign).expect("written");
        let opened = Log::open::<LogError>(&path, |_| Ok(()));
        assert!(matches!(opened, Err(LogError::Foreign { .. })), "{foreign:?}");
        assert_eq!(std::fs::read(&path).expect("read"), foreign);
    }
    let none = Log::open::<LogError>(&scratch.path().join("none"), |_| Ok(()));
    assert!(none.expect("no error").is_none());
}

#[test]
fn a_log_that_cannot_be_replaced_stays_and_leaves_nothing_beside() {
    let scratch = tempfile::tempdir().expect("a directory");
    let path = scratch.path().join("log");
    std::fs::create_dir(&path).expect("made");
    assert!(Log::create(&path, &records(&[b"one".to_vec()])).is_err());
    assert!(!path.with_extension("new").exists());
}

#[test]
fn a_log_that_cannot_be_written_says_so_and_stays_as_it_was() {
    let scratch = tempfile::tempdir().expect("a directory");
    let path = scratch.path().join("log");
    let contents = vec![b"one".to_vec()];
    Log::create(&path, &records(&contents)).expect("begun");
    let file = Arc::new(File::open(&path).expect("opened for reading only"));
    let length = file.metadata().expect("there").len();
    let mut log = Log { path: path.clone(), file, length, is_broken: false };
    assert!(matches!(log.append(&records(&contents)), Err(LogError::Access { .. })));
    assert!(log.is_broken(), "what cannot be cut is written to no more");
    assert!(matches!(log.append(&records(&contents)), Err(LogError::Broken { .. })));
    assert!(matches!(log.sync().wait(), Err(LogError::Broken { .. })));
    assert_eq!(read(&path).0, contents);
}
