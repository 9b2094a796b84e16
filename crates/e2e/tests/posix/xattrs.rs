use rustix::fs::{XattrFlags, getxattr, lgetxattr, listxattr, lsetxattr, removexattr, setxattr};

use crate::call::*;

probes! {
    fn attributes_of_any_bytes_are_kept(p) {
        let path = p.file("f", "");
        let value: Vec<u8> = (0..=255).collect();
        setxattr(&path, "user.bytes", &value, XattrFlags::empty()).unwrap();
        setxattr(&path, "user.empty", b"", XattrFlags::empty()).unwrap();
        assert_eq!(get(&path, "user.bytes").unwrap(), value);
        assert_eq!(get(&path, "user.empty").unwrap(), b"");
        assert_eq!(get(&p.far_path("f"), "user.bytes").unwrap(), value);
    }

    fn attributes_are_listed(p) {
        let path = p.file("f", "");
        for name in ["user.one", "user.two", "user.three"] {
            setxattr(&path, name, b"x", XattrFlags::empty()).unwrap();
        }
        let mut listed: Vec<String> = e2e::tree::xattrs(&path).into_keys().map(|name| name.into_string().unwrap()).collect();
        listed.sort();
        assert_eq!(listed, ["user.one", "user.three", "user.two"]);
    }

    fn create_and_replace_are_told_apart(p) {
        let path = p.file("f", "");
        assert_eq!(setxattr(&path, "user.a", b"1", XattrFlags::REPLACE).unwrap_err(), Errno::NODATA);
        setxattr(&path, "user.a", b"1", XattrFlags::CREATE).unwrap();
        assert_eq!(setxattr(&path, "user.a", b"2", XattrFlags::CREATE).unwrap_err(), Errno::EXIST);
        setxattr(&path, "user.a", b"2", XattrFlags::REPLACE).unwrap();
        assert_eq!(get(&path, "user.a").unwrap(), b"2");
    }

    fn removed_and_absent_attributes_are_absent(p) {
        let path = p.file("f", "");
        assert_eq!(get(&path, "user.a").unwrap_err(), Errno::NODATA);
        assert_eq!(removexattr(&path, "user.a").unwrap_err(), Errno::NODATA);
        setxattr(&path, "user.a", b"1", XattrFlags::empty()).unwrap();
        removexattr(&path, "user.a").unwrap();
        assert_eq!(get(&path, "user.a").unwrap_err(), Errno::NODATA);
    }

    fn a_buffer_too_small_is_said_to_be(p) {
        let path = p.file("f", "");
        setxattr(&path, "user.a", b"12345", XattrFlags::empty()).unwrap();
        assert_eq!(getxattr(&path, "user.a", &mut [0_u8; 2][..]).unwrap_err(), Errno::RANGE);
        assert_eq!(listxattr(&path, &mut [0_u8; 2][..]).unwrap_err(), Errno::RANGE);
        assert_eq!(rustix::fs::getxattr_query(&path, "user.a").unwrap(), 5);
        assert_eq!(rustix::fs::listxattr_query(&path).unwrap(), 7);
    }

    fn directories_have_attributes_too(p) {
        let dir = p.subdir("d");
        setxattr(&dir, "user.a", b"dir", XattrFlags::empty()).unwrap();
        assert_eq!(get(&p.far_path("d"), "user.a").unwrap(), b"dir");
    }

    fn a_symlink_refuses_user_attributes_and_is_not_followed(p) {
        p.file("f", "");
        symlink("f", p.path("l")).unwrap();
        assert_eq!(lsetxattr(p.path("l"), "user.a", b"x", XattrFlags::empty()).unwrap_err(), Errno::PERM);
        setxattr(p.path("l"), "user.a", b"x", XattrFlags::empty()).unwrap();
        assert_eq!(get(&p.path("f"), "user.a").unwrap(), b"x");
        assert!(lgetxattr(p.path("l"), "user.a", &mut [0_u8; 10][..]).is_err());
    }

    fn unknown_namespaces_are_refused(p) {
        let path = p.file("f", "");
        assert_eq!(setxattr(&path, "nonsense.a", b"x", XattrFlags::empty()).unwrap_err(), Errno::OPNOTSUPP);
    }

    fn attributes_stay_with_a_renamed_file(p) {
        let path = p.file("f", "");
        setxattr(&path, "user.a", b"x", XattrFlags::empty()).unwrap();
        fs::rename(&path, p.path("g")).unwrap();
        assert_eq!(get(&p.path("g"), "user.a").unwrap(), b"x");
    }

    fn an_open_file_has_its_attributes(p) {
        let file = read_write(&p.path("f"));
        rustix::fs::fsetxattr(&file, "user.a", b"x", XattrFlags::empty()).unwrap();
        assert_eq!(get(&p.path("f"), "user.a").unwrap(), b"x");
        rustix::fs::fremovexattr(&file, "user.a").unwrap();
        assert_eq!(rustix::fs::fgetxattr(&file, "user.a", &mut [0_u8; 10][..]).unwrap_err(), Errno::NODATA);
    }
}

fn get(path: &Path, name: &str) -> rustix::io::Result<Vec<u8>> {
    let mut value = vec![0; 64 << 10];
    let count = getxattr(path, name, &mut value[..])?;
    value.truncate(count);
    Ok(value)
}
