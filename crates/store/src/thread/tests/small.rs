//! Small contents of the base.

use super::*;

fn read(thread: &Thread, ino: Ino, offset: u64, bytes: usize) -> Option<Vec<u8>> {
    let mut buffer = vec![0xee; bytes];
    let filled = thread.read_small(ino, offset, &mut buffer).expect("read")?;
    buffer.truncate(filled);
    Some(buffer)
}

#[test]
fn a_small_content_is_read_without_making_a_file_of_it() {
    let bench = Bench::new();
    let thread = bench.begin("t");
    let file = ino(&thread, "dir/deep/er/c");
    assert_eq!(read(&thread, file, 0, 100).expect("small"), b"c, deep");
    assert_eq!(read(&thread, file, 3, 2).expect("small"), b"de");
    assert_eq!(read(&thread, file, 5, 100).expect("small"), b"ep");
    assert_eq!(read(&thread, file, 7, 100).expect("small"), b"");
    assert_eq!(read(&thread, file, u64::MAX, 100).expect("small"), b"");
    let oid = bench.repository.git(&["rev-parse", "HEAD:dir/deep/er/c"]);
    let oid = crate::Oid::from_hex(oid.trim().as_bytes()).expect("a number");
    let kept = bench.blobs.find(&oid, std::time::SystemTime::now());
    assert!(kept.is_none(), "a file was made");
}

#[test]
fn what_is_larger_written_or_no_file_is_not_read_so() {
    let bench = Bench::new();
    let large = usize::try_from(SMALL_BYTES_MAX).expect("small") + 1;
    bench.repository.write("large", &vec![b'l'; large]);
    bench.repository.write("most", &vec![b'm'; large - 1]);
    bench.repository.commit("second");
    let thread = bench.begin("t");
    assert_eq!(read(&thread, ino(&thread, "large"), 0, 1), None);
    assert_eq!(read(&thread, ino(&thread, "most"), 0, large), Some(vec![b'm'; large - 1]));
    assert_eq!(read(&thread, ino(&thread, "link"), 0, 1), None);
    assert_eq!(read(&thread, ino(&thread, "dir"), 0, 1), None);
    let file = ino(&thread, "file");
    assert_eq!(read(&thread, file, 0, 3).expect("small"), b"con");
    write(&thread, file, 0, b"C");
    assert_eq!(read(&thread, file, 3, 100), None);
    assert_eq!(content(&thread, file), b"Content\n");
}

#[test]
fn of_what_is_read_in_pieces_no_more_than_a_few_stay_in_memory() {
    let bench = Bench::new();
    for number in 0..40 {
        bench.repository.write(&format!("many/{number}"), format!("the content of {number}").as_bytes());
    }
    bench.repository.commit("second");
    let thread = bench.begin("t");
    let kept = || thread.recent.lock().len();
    for number in 0..40 {
        assert_eq!(read(&thread, ino(&thread, &format!("many/{number}")), 0, 3).expect("small"), b"the");
    }
    assert_eq!(kept(), 16);
    for number in 0..40 {
        let rest = format!(" content of {number}").into_bytes();
        assert_eq!(read(&thread, ino(&thread, &format!("many/{number}")), 3, 100), Some(rest));
    }
    assert_eq!(kept(), 0);
}
