//! Where a command runs: the environment, the current directory, the streams.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use wire::api::ErrorKind;
use wire::api::machine::{CALLER_VARIABLES, Caller, ENGINE_VARIABLES, Machine, Prompts, Source};
use wire::bytestring::ByteString;
use wire::paths::Paths;

use crate::client::Client;
use crate::config::{self, Config};
use crate::error::{Error, Result};
use crate::output::Output;
use crate::prompt::Prompter;

/// Everything a command takes from its process, so that a test can give it something else.
pub struct Context {
    /// The streams.
    pub output: Output,
    /// The current directory, absolute.
    pub cwd: PathBuf,
    /// This program, to start the daemon with.
    pub program: PathBuf,
    /// Who can be asked.
    pub prompter: Prompter,
    variables: Variables,
    config: OnceLock<Result<Config>>,
}

/// Looks up environment variables.
pub type Variables = Box<dyn Fn(&str) -> Option<OsString> + Send + Sync>;

impl Context {
    /// A context with this environment.
    pub fn new(
        output: Output,
        cwd: PathBuf,
        program: PathBuf,
        prompter: Prompter,
        variables: Variables,
    ) -> Context {
        Context { output, cwd, program, prompter, variables, config: OnceLock::new() }
    }

    /// That of this process.
    pub fn of_process(output: Output, prompter: Prompter) -> Context {
        // A command without relative names works in a directory that was removed.
        let cwd = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
        let program = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("stead"));
        Context::new(output, cwd, program, prompter, Box::new(|name| std::env::var_os(name)))
    }

    /// The value of an environment variable that is set and not empty.
    pub fn variable(&self, name: &str) -> Option<OsString> {
        (self.variables)(name).filter(|value| !value.is_empty())
    }

    /// Where the configuration is, whether there is one or not.
    pub fn config_path(&self) -> Option<PathBuf> {
        config::path(|name| self.variable(name))
    }

    /// The configuration, which is read once. Fails for as long as it says what is not known.
    pub fn config(&self) -> Result<&Config> {
        let read = || match self.config_path() {
            Some(path) => Config::read(&path, self.variable("HOME").as_ref().map(Path::new)),
            None => Ok(Config::default()),
        };
        self.config.get_or_init(read).as_ref().map_err(Clone::clone)
    }

    /// Where the daemon's files are.
    pub fn paths(&self) -> Result<Paths> {
        let uid = rustix::process::geteuid().as_raw();
        Paths::new(uid, &self.variables).map_err(|error| Error::new(ErrorKind::Failure, error.to_string()))
    }

    /// Who asks, for the daemon.
    pub fn caller(&self) -> Caller {
        let environment = CALLER_VARIABLES
            .iter()
            .chain(ENGINE_VARIABLES)
            .filter_map(|name| Some((name.to_string(), ByteString::from(self.variable(name)?))))
            .collect();
        Caller {
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            cwd: ByteString::from(self.cwd.clone()),
            environment,
            prompts: match self.prompter.is_there() {
                true => Prompts::Answered,
                false => Prompts::Refused,
            },
        }
    }

    /// A connection to the daemon, which is started when it does not run.
    pub fn daemon(&self) -> Result<Client> {
        crate::client::start::connect_or_start(self)
    }

    /// A connection to the daemon if it runs.
    pub fn running_daemon(&self) -> Result<Option<Client>> {
        let Some(client) = Client::connect(&self.paths()?, self.prompter)? else {
            return Ok(None);
        };
        client.agree()
    }

    /// Reads `MACHINE/path` as a person writes it.
    pub fn source(&self, text: &OsStr) -> Result<Source> {
        Source::parse(text.as_bytes(), self.cwd.as_os_str().as_bytes()).map_err(Error::usage)
    }

    /// Reads the name of a machine.
    pub fn machine(&self, text: &OsStr) -> Result<Machine> {
        Machine::parse(text.as_bytes()).map_err(Error::usage)
    }
}
