use super::*;
use crate::fuse::abi::{darwin, fattr, flag, linux};
use proptest::prelude::*;
use zerocopy::IntoBytes;

/// A message: header, then these pieces, with this many extension words declared at its end.
fn message(opcode: u32, pieces: &[&[u8]], extension_words: u16) -> Vec<u8> {
    let body = pieces.concat();
    let header = abi::InHeader {
        len: (size_of::<abi::InHeader>() + body.len()) as u32,
        opcode,
        unique: 0x8,
        nodeid: 1,
        uid: 1000,
        gid: 100,
        pid: 42,
        total_extlen: extension_words,
        padding: 0,
    };
    [header.as_bytes(), &body].concat()
}

fn plain(opcode: Opcode, pieces: &[&[u8]]) -> Vec<u8> {
    message(opcode as u32, pieces, 0)
}

const DARWIN: Dialect = Dialect { flavour: &darwin::FLAVOUR, setxattr_ext: false };

fn dialect(is_darwin: bool, setxattr_ext: bool) -> Dialect {
    let flavour = if is_darwin { &darwin::FLAVOUR } else { &linux::FLAVOUR };
    Dialect { flavour, setxattr_ext }
}

fn malformed(bytes: &[u8]) -> Malformed {
    Request::parse(bytes).unwrap_err().cause
}

#[test]
fn a_lookup_says_who_asks_for_what() {
    let bytes = plain(Opcode::Lookup, &[b"na me\xff\0"]);
    let request = Request::parse(&bytes).unwrap();
    assert_eq!((request.header.uid, request.header.gid, request.header.pid), (1000, 100, 42));
    assert_eq!((request.header.unique, request.header.resent, request.header.node), (8, false, 1));
    assert!(matches!(request.operation, Operation::Lookup { name: b"na me\xff" }));
}

#[test]
fn a_resent_request_keeps_its_number_and_has_the_identity_of_the_first() {
    let mut bytes = plain(Opcode::Statfs, &[]);
    bytes[8..16].copy_from_slice(&(8 | abi::UNIQUE_RESEND).to_ne_bytes());
    let header = Request::parse(&bytes).unwrap().header;
    assert!(header.resent);
    assert_eq!((header.unique, header.identity()), (8 | 1 << 63, 8));
}

#[test]
fn names_that_are_none_are_refused() {
    for opcode in [Opcode::Lookup, Opcode::Unlink, Opcode::Rmdir] {
        assert_eq!(malformed(&plain(opcode, &[b"\0"])), Malformed::Empty("name"));
        assert_eq!(malformed(&plain(opcode, &[b"abc"])), Malformed::Unterminated("name"));
        assert_eq!(malformed(&plain(opcode, &[])), Malformed::Unterminated("name"));
        assert_eq!(malformed(&plain(opcode, &[b"a/b\0"])), Malformed::NotAName("name"));
        assert_eq!(malformed(&plain(opcode, &[b"abc\0rest"])), Malformed::Trailing(4));
    }
    for name in [&b".\0"[..], b"..\0"] {
        assert_eq!(malformed(&plain(Opcode::Unlink, &[name])), Malformed::NotAName("name"));
        assert!(Request::parse(&plain(Opcode::Lookup, &[name])).is_ok());
    }
}

#[test]
fn a_malformed_request_still_says_which_one_it_was() {
    let error = Request::parse(&plain(Opcode::Unlink, &[b"\0"])).unwrap_err();
    assert_eq!(error.header.unwrap().unique, 8);
    assert_eq!(error.to_string(), "request 0x8 (Unlink) is malformed");
    assert_eq!(Request::parse(b"short").unwrap_err().header, None);
}

#[test]
fn the_length_of_the_header_is_the_length_of_the_message() {
    let mut bytes = plain(Opcode::Readlink, &[]);
    bytes.push(0);
    assert_eq!(malformed(&bytes), Malformed::Length { declared: 40, received: 41 });
}

#[test]
fn the_payload_of_a_write_is_a_slice_of_the_buffer() {
    let fixed = abi::WriteIn {
        fh: 7,
        offset: 4096,
        size: 5,
        write_flags: flag::WRITE_CACHE | flag::WRITE_LOCKOWNER,
        lock_owner: 9,
        ..Default::default()
    };
    let bytes = plain(Opcode::Write, &[fixed.as_bytes(), b"hello"]);
    let Operation::Write(write) = Request::parse(&bytes).unwrap().operation else { panic!("not a write") };
    assert_eq!(write.data, b"hello");
    assert!(std::ptr::eq(write.data, &bytes[bytes.len() - 5..]));
    assert_eq!((write.handle, write.offset, write.lock_owner), (7, 4096, Some(9)));
    assert!(write.from_cache && !write.kill_suid_sgid);
    let short = plain(Opcode::Write, &[fixed.as_bytes(), b"hell"]);
    assert_eq!(malformed(&short), Malformed::Payload { declared: 5, available: 4 });
    let long = plain(Opcode::Write, &[fixed.as_bytes(), b"hello!"]);
    assert_eq!(malformed(&long), Malformed::Trailing(1));
}

#[test]
fn a_batch_of_forgets_is_as_long_as_it_says() {
    let one = abi::ForgetOne { nodeid: 3, nlookup: 4 };
    let count = |count| abi::BatchForgetIn { count, dummy: 0 };
    let bytes = plain(Opcode::BatchForget, &[count(2).as_bytes(), one.as_bytes(), one.as_bytes()]);
    let Operation::BatchForget(forgets) = Request::parse(&bytes).unwrap().operation else { panic!() };
    assert_eq!(forgets.len(), 2);
    assert!(forgets.eq([Forget { node: 3, lookups: 4 }; 2]));
    let lying = plain(Opcode::BatchForget, &[count(u32::MAX).as_bytes(), one.as_bytes()]);
    assert!(matches!(malformed(&lying), Malformed::Payload { available: 16, .. }));
}

#[test]
fn setattr_changes_only_what_it_says() {
    let fixed = abi::SetattrIn {
        valid: fattr::SIZE | fattr::ATIME | fattr::ATIME_NOW | fattr::MTIME | fattr::FH,
        fh: 5,
        size: 10,
        mtime: (-1_i64).cast_unsigned(),
        mtimensec: 999_999_999,
        mode: 0o777,
        ..Default::default()
    };
    let bytes = plain(Opcode::Setattr, &[fixed.as_bytes()]);
    let Operation::Setattr(change) = Request::parse(&bytes).unwrap().operation else { panic!() };
    let mtime = Some(SetTime::At(Timestamp { seconds: -1, nanoseconds: 999_999_999 }));
    let expected =
        Setattr { handle: Some(5), size: Some(10), atime: Some(SetTime::Now), mtime, ..Default::default() };
    assert_eq!(change, expected);
    let late = abi::SetattrIn { mtimensec: 1_000_000_000, ..fixed };
    let cause = malformed(&plain(Opcode::Setattr, &[late.as_bytes()]));
    assert_eq!(cause, Malformed::Range { field: "mtime", value: 1_000_000_000 });
}

#[test]
fn both_renames_are_one_operation() {
    let old = plain(Opcode::Rename, &[abi::RenameIn { newdir: 2 }.as_bytes(), b"a\0b\0"]);
    let fixed = abi::Rename2In { newdir: 2, flags: libc::RENAME_EXCHANGE, padding: 0 };
    let new = plain(Opcode::Rename2, &[fixed.as_bytes(), b"a\0b\0"]);
    for (bytes, expected) in [(old, 0), (new, libc::RENAME_EXCHANGE)] {
        let Operation::Rename { name, new_parent, new_name, flags } =
            Request::parse(&bytes).unwrap().operation
        else {
            panic!("not a rename")
        };
        assert_eq!((name, new_parent, new_name, flags), (&b"a"[..], 2, &b"b"[..], expected));
    }
}

#[test]
fn both_layouts_of_setxattr_are_read() {
    let long = abi::SetxattrIn { size: 2, flags: 1, setxattr_flags: 1, padding: 0 };
    let short = abi::SetxattrCompatIn { size: 2, flags: 1 };
    for (fixed, setxattr_ext) in [(long.as_bytes(), true), (short.as_bytes(), false)] {
        let bytes = plain(Opcode::Setxattr, &[fixed, b"user.x\0", b"v\0"]);
        let request = Request::parse_as(&bytes, dialect(false, setxattr_ext)).unwrap();
        let Operation::Setxattr { name, value, flags, acl_kill_sgid, position: 0 } = request.operation else {
            panic!()
        };
        assert_eq!((name, value, flags, acl_kill_sgid), (&b"user.x"[..], &b"v\0"[..], 1, setxattr_ext));
    }
}

#[test]
fn setattr_of_macos_has_more_behind_it() {
    let shared = abi::SetattrIn {
        valid: fattr::SIZE | fattr::KILL_SUIDGID | darwin::fattr::FLAGS | darwin::fattr::CRTIME,
        size: 10,
        ..Default::default()
    };
    let fixed = darwin::SetattrIn { shared, crtime: 5, crtimensec: u32::MAX, flags: 2, ..Default::default() };
    let bytes = plain(Opcode::Setattr, &[fixed.as_bytes()]);
    let Operation::Setattr(change) = Request::parse_as(&bytes, DARWIN).unwrap().operation else { panic!() };
    assert_eq!(change, Setattr { size: Some(10), file_flags: Some(2), ..Default::default() });
    let short = plain(Opcode::Setattr, &[shared.as_bytes()]);
    let cause = Request::parse_as(&short, DARWIN).unwrap_err().cause;
    assert!(matches!(cause, Malformed::Short { needed: 128, available: 88, .. }));
}

#[test]
fn attributes_of_macos_have_positions() {
    let fixed = darwin::SetxattrIn { size: 2, flags: 2, position: 7, setxattr_flags: 1 };
    let bytes = plain(Opcode::Setxattr, &[fixed.as_bytes(), b"x\0", b"v\0"]);
    let set = Request::parse_as(&bytes, DARWIN).unwrap().operation;
    let Operation::Setxattr { name, value, flags, acl_kill_sgid: false, position } = set else { panic!() };
    assert_eq!((name, value, flags, position), (&b"x"[..], &b"v\0"[..], 2, 7));
    let fixed = darwin::GetxattrIn { size: 64, position: 9, ..Default::default() };
    let bytes = plain(Opcode::Getxattr, &[fixed.as_bytes(), b"x\0"]);
    let get = Request::parse_as(&bytes, DARWIN).unwrap().operation;
    assert!(matches!(get, Operation::Getxattr { name: b"x", size: 64, position: 9 }));
    let bytes = plain(Opcode::Listxattr, &[fixed.as_bytes()]);
    let list = Request::parse_as(&bytes, DARWIN).unwrap().operation;
    assert!(matches!(list, Operation::Listxattr { size: 64 }));
}

#[test]
fn what_macos_sends_besides_is_no_error() {
    let bytes = message(Opcode::Rmdir as u32, &[b"dir\0", b"\0\0\0\0"], 100);
    let operation = Request::parse_as(&bytes, DARWIN).unwrap().operation;
    assert!(matches!(operation, Operation::Rmdir { name: b"dir" }));
    let node = abi::MknodIn { mode: abi::mode::CHAR_DEVICE, rdev: 3 << 24 | 0x1234, umask: 0, padding: 0 };
    let bytes = plain(Opcode::Mknod, &[node.as_bytes(), b"tty\0"]);
    let operation = Request::parse_as(&bytes, DARWIN).unwrap().operation;
    assert!(matches!(operation, Operation::Mknod { rdev: 0x0120_0334, .. }), "{operation:?}");
}

#[test]
fn the_group_of_a_created_file_follows_its_name() {
    let fixed = abi::MkdirIn { mode: 0o755, umask: 0o22 };
    let header = abi::ExtHeader { size: 16, kind: abi::extension::GROUPS };
    let groups = [1_u32, 4711];
    let pieces: [&[u8]; 4] = [fixed.as_bytes(), b"dir\0", header.as_bytes(), groups.as_bytes()];
    let bytes = message(Opcode::Mkdir as u32, &pieces, 2);
    let request = Request::parse(&bytes).unwrap();
    assert!(matches!(request.operation, Operation::Mkdir { name: b"dir", mode: 0o755, umask: 0o22 }));
    assert!(request.extensions.groups().eq([4711]));
    let lying = message(Opcode::Mkdir as u32, &pieces, 100);
    assert_eq!(malformed(&lying), Malformed::Payload { declared: 800, available: 28 });
    let empty = abi::ExtHeader { size: 0, kind: 1 };
    let endless = message(Opcode::Mkdir as u32, &[fixed.as_bytes(), b"dir\0", empty.as_bytes()], 1);
    assert_eq!(malformed(&endless), Malformed::Payload { declared: 0, available: 8 });
}

#[test]
fn init_of_an_old_kernel_is_shorter() {
    let full = abi::InitIn { major: 7, minor: 31, max_readahead: 1, flags: 2, flags2: 3, unused: [0; 11] };
    let short = plain(Opcode::Init, &[&full.as_bytes()[..16]]);
    let Operation::Init(init) = Request::parse(&short).unwrap().operation else { panic!() };
    assert_eq!((init.minor, init.flags, init.flags2), (31, 2, 0));
    let long = plain(Opcode::Init, &[full.as_bytes(), b"what a newer kernel adds"]);
    let Operation::Init(init) = Request::parse(&long).unwrap().operation else { panic!() };
    assert_eq!(init.flags2, 3);
    assert!(matches!(malformed(&plain(Opcode::Init, &[b"short"])), Malformed::Short { needed: 16, .. }));
}

#[test]
fn an_unknown_operation_is_no_error() {
    let bytes = message(4711, &[b"whatever"], 0xffff);
    let request = Request::parse(&bytes).unwrap();
    assert!(matches!(request.operation, Operation::Unknown(4711)));
    assert!(request.header.expects_reply());
}

#[test]
fn only_four_operations_expect_no_reply() {
    let silent = [Opcode::Forget, Opcode::BatchForget, Opcode::Interrupt, Opcode::NotifyReply];
    for opcode in (0..64).filter_map(Opcode::from_number) {
        let raw = abi::InHeader { opcode: opcode as u32, ..Default::default() };
        assert_eq!(Header::read(&raw).expects_reply(), !silent.contains(&opcode), "{}", opcode.name());
    }
}

#[test]
fn a_temporary_file_has_no_name_of_its_own() {
    let fixed = abi::CreateIn { flags: 2, mode: 0o600, umask: 0, open_flags: 0 };
    let bytes = plain(Opcode::Tmpfile, &[fixed.as_bytes(), b"/\0"]);
    let Operation::Tmpfile(create) = Request::parse(&bytes).unwrap().operation else { panic!() };
    assert_eq!((create.name, create.mode), (&b""[..], 0o600));
}

#[test]
fn locks_that_make_no_sense_are_refused() {
    let lock = |kind, start, end| {
        let lk = abi::FileLock { start, end, kind, pid: 1 };
        let fixed = abi::LkIn { fh: 1, owner: 2, lk, lk_flags: flag::LK_FLOCK, padding: 0 };
        plain(Opcode::Setlk, &[fixed.as_bytes()])
    };
    let bytes = lock(1, 0, 10);
    let Operation::Setlk(parsed) = Request::parse(&bytes).unwrap().operation else { panic!() };
    assert!(parsed.kind == LockKind::Exclusive && parsed.flock);
    assert!(matches!(malformed(&lock(3, 0, 10)), Malformed::Range { field: "lock type", value: 3 }));
    assert!(matches!(malformed(&lock(0, 11, 10)), Malformed::Range { value: 11, .. }));
}

/// Reads everything that borrows from the buffer, as a dispatcher would.
fn touch(bytes: &[u8], dialect: Dialect) {
    match Request::parse_as(bytes, dialect) {
        Ok(request) => {
            let described = format!("{request:?} {}", request.header.operation_name());
            assert!(!described.is_empty());
            assert!(request.extensions.groups().count() <= bytes.len());
            if let Operation::BatchForget(forgets) = request.operation {
                assert_eq!(forgets.len(), forgets.count());
            }
        }
        Err(error) => assert!(!format!("{error}: {}", error.cause).is_empty()),
    }
}

proptest! {
    #[test]
    fn random_bytes_never_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..512),
        is_darwin: bool,
        setxattr_ext: bool,
    ) {
        touch(&bytes, dialect(is_darwin, setxattr_ext));
    }

    /// With a header that is believed, so that every operation's parser sees nonsense.
    #[test]
    fn random_bodies_never_panic(
        opcode in 0_u32..56,
        extension_words in prop_oneof![3 => Just(0_u16), 1 => any::<u16>(), 1 => 0_u16..32],
        body in proptest::collection::vec(prop_oneof![2 => Just(0_u8), 1 => 0_u8..40, 1 => any::<u8>()], 0..256),
        is_darwin: bool,
        setxattr_ext: bool,
    ) {
        touch(&message(opcode, &[&body], extension_words), dialect(is_darwin, setxattr_ext));
    }

    /// What is cut short is refused and never read beyond its end.
    #[test]
    fn a_prefix_of_a_request_is_no_request(
        name in proptest::collection::vec(1_u8..=255, 1..64),
        keep in 0.0..1.0_f64,
    ) {
        let fixed = abi::CreateIn::default();
        let whole = plain(Opcode::Create, &[fixed.as_bytes(), &name, b"\0"]);
        let cut = &whole[..(whole.len() as f64 * keep) as usize];
        prop_assert!(Request::parse(cut).is_err());
    }
}
