//! The program `client.c`, built on first use, and a conversation with it.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::OnceLock;

use e2e::Program;

const SOURCE: &str = include_str!("client.c");

/// Builds the client, once in this process, and returns where it is.
pub fn build_client() -> &'static Path {
    static BUILT: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    let (_, program) = BUILT.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let (source, program) = (dir.path().join("client.c"), dir.path().join("client"));
        std::fs::write(&source, SOURCE).unwrap();
        Program::new("cc")
            .args(["-Wall", "-Werror", "-O1", "-o"])
            .arg(&program)
            .arg(&source)
            .arg("-lnfs")
            .ok();
        (dir, program)
    });
    program
}

/// A running client.
pub struct Client {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    scratch: tempfile::TempDir,
}

/// What `stat` answers.
pub struct Described {
    pub mode: u32,
    pub size: u64,
    pub links: u64,
    pub mtime: i64,
    pub inode: u64,
}

impl Client {
    pub fn connect(url: &str) -> Client {
        let mut child = Command::new(build_client())
            .arg(url)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let (to, from) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Client { child, to, from, scratch: tempfile::tempdir().unwrap() }
    }

    /// Gives a command and returns its answer.
    #[track_caller]
    pub fn ask(&mut self, command: &str) -> String {
        writeln!(self.to, "{command}").unwrap();
        let mut answer = String::new();
        self.from.read_line(&mut answer).unwrap();
        assert!(!answer.is_empty(), "the client ended at: {command}");
        answer.trim_end_matches('\n').to_owned()
    }

    /// Gives a command that must succeed.
    #[track_caller]
    pub fn ok(&mut self, command: &str) {
        let answer = self.ask(command);
        assert!(answer.starts_with("ok"), "{command}: {answer}");
    }

    #[track_caller]
    pub fn put(&mut self, path: &str, contents: &[u8]) {
        let local = self.scratch.path().join("put");
        std::fs::write(&local, contents).unwrap();
        self.ok(&format!("put\t{}\t{path}", local.display()));
    }

    #[track_caller]
    pub fn get(&mut self, path: &str) -> Vec<u8> {
        let local = self.scratch.path().join("get");
        self.ok(&format!("get\t{path}\t{}", local.display()));
        std::fs::read(local).unwrap()
    }

    #[track_caller]
    pub fn list(&mut self, path: &str) -> Vec<String> {
        let answer = self.ask(&format!("ls\t{path}"));
        let mut fields = answer.split('\t');
        assert_eq!(fields.next(), Some("ok"), "{answer}");
        fields.map(str::to_owned).collect()
    }

    #[track_caller]
    pub fn stat(&mut self, path: &str) -> Described {
        let answer = self.ask(&format!("lstat\t{path}"));
        let fields: Vec<&str> = answer.split(' ').collect();
        assert_eq!(fields.len(), 9, "{answer}");
        let number = |at: usize| fields[at].parse::<u64>().unwrap();
        Described {
            mode: u32::from_str_radix(fields[1], 8).unwrap(),
            size: number(2),
            links: number(3),
            mtime: fields[4].parse().unwrap(),
            inode: number(8),
        }
    }

    /// Copies the tree at `path` to the new directory `local`, owners and modes included.
    #[track_caller]
    pub fn fetch_tree(&mut self, path: &str, local: &Path) {
        use std::os::unix::fs::PermissionsExt;
        std::fs::create_dir(local).unwrap();
        for name in self.list(path).into_iter().filter(|name| name != "." && name != "..") {
            let (there, here) = (format!("{path}/{name}"), local.join(&name));
            let is = self.stat(&there);
            match rustix::fs::FileType::from_raw_mode(is.mode) {
                rustix::fs::FileType::Directory => self.fetch_tree(&there, &here),
                rustix::fs::FileType::Symlink => {
                    let target = self.ask(&format!("readlink\t{there}"));
                    std::os::unix::fs::symlink(target.strip_prefix("ok\t").unwrap(), &here).unwrap();
                    continue;
                }
                _ => self.ok(&format!("get\t{there}\t{}", here.display())),
            }
            std::fs::set_permissions(&here, std::fs::Permissions::from_mode(is.mode & 0o7777)).unwrap();
        }
        let mode = self.stat(path).mode & 0o7777;
        std::fs::set_permissions(local, std::fs::Permissions::from_mode(mode)).unwrap();
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // It ends at the end of its input; a server that hangs must not hang the test too.
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}
