//! One daemon, from its start to its end, and its clients.

use super::*;

/// A daemon in a state directory of its own. Killed when it is dropped, with the processes of its mounts. That panics when
/// others are left.
pub struct Life {
    pub home: tempfile::TempDir,
    pub daemon: Child,
}

impl Life {
    pub fn begin() -> Life {
        Life::begin_with(&[])
    }

    pub fn begin_with(variables: &[(&str, &str)]) -> Life {
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir(home.path().join("src")).unwrap();
        let daemon = start_daemon(home.path(), variables);
        let life = Life { home, daemon };
        life.wait_until_it_listens();
        life
    }

    /// Ends this life as a crash would and begins the next.
    pub fn kill_and_begin_again(&mut self) {
        self.daemon.kill().unwrap();
        self.daemon.wait().unwrap();
        self.daemon = start_daemon(self.home.path(), &[]);
        self.wait_until_it_listens();
    }

    pub fn wait_until_it_listens(&self) {
        eventually("the daemon listens", || UnixStream::connect(self.paths().socket()).is_ok());
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.home.path().canonicalize().unwrap().join(name)
    }

    pub fn paths(&self) -> Paths {
        Paths::new(0, |name| (name == "STEAD_HOME").then(|| self.home.path().into())).unwrap()
    }

    pub fn client(&self) -> Client {
        let stream = UnixStream::connect(self.paths().socket()).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        Client { reader: BufReader::new(stream), last: 0 }
    }

    pub fn create(&self, role: &str, dir: Option<&str>) -> Create {
        Create {
            source: Source::files(Machine::Host, self.path("src").as_path()).unwrap(),
            dir: dir.map(ByteString::from),
            backend: Backend::Auto,
            access: Access::ReadWrite,
            sync: SyncMode::Close,
            reconnect: Reconnect::Automatic,
            heartbeat_interval_ms: None,
            max_heartbeat_failures: None,
            options: BTreeMap::from([("play".to_owned(), role.to_owned())]),
            caller: self.caller(),
        }
    }

    pub fn caller(&self) -> Caller {
        Caller {
            uid: rustix::process::getuid().as_raw(),
            gid: rustix::process::getgid().as_raw(),
            cwd: self.path("").into(),
            ..Caller::default()
        }
    }

    pub fn mount(&self, role: &str, dir: &str) -> Mount {
        self.client().call(self.create(role, Some(dir))).unwrap()
    }

    pub fn unmount(&self, mount: &Mount, force: Force) -> Result<Removed, ErrorObject> {
        self.client().call(Remove { target: Target::Id(mount.id), force })
    }

    pub fn document(&self) -> Document {
        self.client().call(api::status::Get {}).unwrap()
    }

    /// What is in the state directory, but for what a daemon always has there.
    pub fn leftovers(&self) -> Vec<String> {
        let usual =
            ["src", "run", "state.db", "state.db-wal", "state.db-shm", "daemon.log", "stderr", "mounts"];
        let names = |dir: &Path| -> Vec<String> {
            let entries = std::fs::read_dir(dir).into_iter().flatten();
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
        };
        let mut left: Vec<String> =
            names(self.home.path()).into_iter().filter(|name| !usual.contains(&name.as_str())).collect();
        left.extend(names(&self.home.path().join("mounts")));
        left
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
        let mounts = std::fs::read_dir(self.home.path().join("mounts"));
        mounts.into_iter().flatten().for_each(|entry| end_processes(&entry.unwrap().path()));
        let left = self.outlive();
        assert!(left.is_empty() || std::thread::panicking(), "left behind: {left:?}");
        if std::thread::panicking()
            && let Ok(log) = std::fs::read_to_string(self.paths().log())
        {
            eprintln!("the daemon's log:\n{log}");
        }
    }
}

impl Life {
    /// Kills what is still there after a while: they have the state directory in their environment. Says what that was.
    pub fn outlive(&self) -> Vec<String> {
        let mut left = Vec::new();
        holds_within(LEAVE_TIME, || {
            left = self.processes();
            left.is_empty()
        });
        for (pid, _) in &left {
            // One that has gone meanwhile is as good.
            let pid = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
        left.into_iter().map(|(pid, command)| format!("{pid}: {command}")).collect()
    }

    pub fn processes(&self) -> Vec<(u32, String)> {
        let mine = format!("STEAD_HOME={}", self.home.path().display());
        let entries = std::fs::read_dir("/proc").unwrap().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        let is_mine = |pid: &u32| {
            let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environment.split(|byte| *byte == 0).any(|variable| variable == mine.as_bytes()) && exists(*pid)
        };
        let command = |pid| {
            let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            (pid, String::from_utf8_lossy(&command).replace('\0', " "))
        };
        pids.filter(is_mine).map(command).collect()
    }
}

/// Ends the keeper of a mount, and its worker with it, and waits until they have ended.
fn end_processes(state_dir: &Path) {
    Plan::withdraw(state_dir).unwrap();
    let Ok(stream) = supervisor::socket::connect_in(state_dir, KEEPER_SOCKET) else { return };
    let _ = (&stream).write_all(b"{\"do\":\"end\"}\n");
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let _ended = std::io::copy(&mut &stream, &mut std::io::sink());
}

pub fn start_daemon(home: &Path, variables: &[(&str, &str)]) -> Child {
    let (program, arguments) = again("play_daemon");
    let stderr = std::fs::File::options().append(true).create(true).open(home.join("stderr")).unwrap();
    Command::new(program)
        .args(arguments)
        .env("STEAD_HOME", home)
        .env("STEAD_LOG", "debug")
        .envs(variables.iter().copied())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(stderr)
        .spawn()
        .unwrap()
}

pub struct Client {
    pub reader: BufReader<UnixStream>,
    last: u64,
}

impl Client {
    pub fn send(&mut self, call: impl Into<Call>) -> RequestId {
        self.last += 1;
        let request = Request { id: RequestId::Number(self.last), call: call.into() };
        self.write(&request.to_line().unwrap());
        request.id
    }

    pub fn write(&self, bytes: &[u8]) {
        self.reader.get_ref().write_all(bytes).unwrap();
    }

    pub fn read(&mut self) -> ServerMessage {
        let mut line = Vec::new();
        self.reader.read_until(b'\n', &mut line).unwrap();
        assert!(!line.is_empty(), "the daemon hung up");
        ServerMessage::decode(&line).unwrap()
    }

    pub fn response(&mut self) -> Response {
        match self.read() {
            ServerMessage::Response(response) => response,
            other => panic!("not a response: {other:?}"),
        }
    }

    pub fn call<M: api::Method>(&mut self, params: M) -> Result<M::Reply, ErrorObject>
    where
        Call: From<M>,
    {
        let id = self.send(params);
        let response = self.response();
        assert_eq!(response.id, Some(id));
        response.outcome.map(|reply| serde_json::from_value(reply).unwrap())
    }
}

impl Life {
    pub fn shown(&self, mount: &Mount) -> Mount {
        self.document().mounts.into_iter().find(|other| other.id == mount.id).unwrap()
    }

    /// The keeper's process: the parent of the first worker.
    pub fn keeper(&self, mount: &Mount) -> u32 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", worker(mount))).unwrap();
        stat.rsplit(") ").next().unwrap().split(' ').nth(1).unwrap().parse().unwrap()
    }
}
