//! How many descriptors this process may have, and what the programs are given that it starts for others.
//!
//! The usual first limit, 1024, is what programs expect that cannot handle more. A process that needs more raises its own,
//! and gives the usual one back to those of its children that start programs of users.

use std::sync::OnceLock;

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit, setrlimit};

/// What is enough for any number of clients, tunnels and logins that have limits of their own.
const FILES_WANTED: u64 = 65_536;

/// What was there before.
static USUAL: OnceLock<Rlimit> = OnceLock::new();

/// Allows this process as many descriptors as it may have, up to 65,536. What the system does not allow stays.
pub fn raise_files() -> rustix::io::Result<()> {
    let usual = getrlimit(Resource::Nofile);
    let raised = usual.maximum.map_or(FILES_WANTED, |maximum| maximum.min(FILES_WANTED));
    if usual.current.is_none_or(|current| current >= raised) {
        return Ok(());
    }
    setrlimit(Resource::Nofile, Rlimit { current: Some(raised), maximum: usual.maximum })?;
    // Who comes second has nothing to raise.
    let _ = USUAL.set(usual);
    Ok(())
}

/// Gives a child the limit that this process was given, before the child starts anything: it still waits to be told what.
pub fn restore_files(child: u32) -> rustix::io::Result<()> {
    let Some(usual) = USUAL.get() else { return Ok(()) };
    let Some(child) = i32::try_from(child).ok().and_then(Pid::from_raw) else { return Ok(()) };
    prlimit(Some(child), Resource::Nofile, *usual).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_raised_is_not_given_on() {
        let usual = getrlimit(Resource::Nofile);
        raise_files().unwrap();
        raise_files().unwrap();
        let raised = getrlimit(Resource::Nofile);
        assert!(raised.current >= usual.current);
        let piped = std::process::Stdio::piped;
        let mut shell = std::process::Command::new("sh");
        let child =
            shell.args(["-c", "read line; ulimit -n"]).stdin(piped()).stdout(piped()).spawn().unwrap();
        restore_files(child.id()).unwrap();
        let said = child.wait_with_output().unwrap();
        let limit = String::from_utf8(said.stdout).unwrap();
        assert_eq!(limit.trim(), usual.current.map_or("unlimited".to_owned(), |limit| limit.to_string()));
    }
}
