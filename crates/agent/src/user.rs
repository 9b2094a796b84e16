//! Who runs the agent, without the C library's name services, which a static program cannot use.

use std::ffi::OsString;

/// What an agent is told when it starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The user's home directory, from which relative paths start.
    pub home: Vec<u8>,
    /// The user's login shell.
    pub shell: Vec<u8>,
}

/// What every system has, for a user whom nothing names.
const HOME_DEFAULT: &[u8] = b"/";
const SHELL_DEFAULT: &[u8] = b"/bin/sh";

impl Options {
    /// From the environment, else from the system's list of users.
    pub fn of_user() -> Options {
        let users = std::fs::read("/etc/passwd").unwrap_or_default();
        let listed = find_user(&users, rustix::process::getuid().as_raw());
        let (listed_home, listed_shell) = listed.unwrap_or((HOME_DEFAULT, SHELL_DEFAULT));
        Options {
            home: absolute(std::env::var_os("HOME")).unwrap_or_else(|| listed_home.to_vec()),
            shell: absolute(std::env::var_os("SHELL")).unwrap_or_else(|| listed_shell.to_vec()),
        }
    }
}

fn absolute(path: Option<OsString>) -> Option<Vec<u8>> {
    path.map(OsString::into_encoded_bytes).filter(|path| path.starts_with(b"/"))
}

/// Home and shell of a user, from lines `name:password:uid:gid:comment:home:shell`.
fn find_user(users: &[u8], uid: u32) -> Option<(&[u8], &[u8])> {
    let uid = uid.to_string();
    users.split(|b| *b == b'\n').find_map(|line| {
        let fields: Vec<&[u8]> = line.split(|b| *b == b':').collect();
        let [_, _, id, _, _, home, shell] = fields[..] else {
            return None;
        };
        let shell = if shell.is_empty() { SHELL_DEFAULT } else { shell };
        (id == uid.as_bytes() && home.starts_with(b"/")).then_some((home, shell))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_found_by_number() {
        let users = b"root:x:0:0:root:/root:/bin/bash\nbroken:x:7\nann:x:1000:1000::/home/ann:\n";
        assert_eq!(find_user(users, 0), Some((b"/root".as_slice(), b"/bin/bash".as_slice())));
        assert_eq!(find_user(users, 1000), Some((b"/home/ann".as_slice(), SHELL_DEFAULT)));
        assert_eq!(find_user(users, 7), None);
    }
}
