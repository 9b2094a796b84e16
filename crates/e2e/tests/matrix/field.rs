//! A machine with a directory, and what others do in that directory.

use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};

use e2e::guest::GUEST_DEADLINE;
use e2e::stead::is_root;
use e2e::{Engine, Finished, Mount, Program, Sshd, Stead, leftovers};

/// The machine as it is written.
pub const HOST: &str = "host";
const SSH: &str = "ssh://box";
const DOCKER: &str = "docker://box";
const VM: &str = "vm://dev";

/// A machine with a directory.
pub struct Field {
    // In the order in which they have to go.
    pub stead: Stead,
    _sshd: Option<Sshd>,
    _engine: Option<Engine>,
    pub machine: &'static str,
    /// The directory as the machine calls it. But for a vm it has the same name on this computer.
    pub far: PathBuf,
    /// How often what a vm has there was looked at.
    looks: Cell<usize>,
}

impl Field {
    fn of(stead: Stead, machine: &'static str, far: PathBuf) -> Field {
        Field { stead, _sshd: None, _engine: None, machine, far, looks: Cell::new(0) }
    }

    pub fn host() -> Field {
        let stead = Stead::new();
        let far = stead.dir("far");
        Field::of(stead, HOST, far)
    }

    pub fn ssh() -> Field {
        let sshd = Sshd::start();
        let stead = Stead::with_ssh(&sshd);
        let far = stead.dir("far");
        Field { _sshd: Some(sshd), ..Field::of(stead, SSH, far) }
    }

    /// `None` without root, who alone can start an engine.
    pub fn docker() -> Option<Field> {
        if !is_root() {
            eprintln!("not tried: an engine needs root");
            return None;
        }
        let engine = Engine::start();
        let far = engine.dir().join("far");
        fs::create_dir(&far).unwrap();
        engine.run("box", &["--volume", &format!("{0}:{0}", far.display())]);
        let stead = engine.stead();
        Some(Field { _engine: Some(engine), ..Field::of(stead, DOCKER, far) })
    }

    /// A guest, for all checks: it takes longer to boot than they take together.
    pub fn vm() -> Field {
        let stead = Stead::new();
        stead.boot();
        Field::of(stead, VM, PathBuf::from("/"))
    }

    /// Has the next check begin as the first one did: with an empty directory, and nothing mounted.
    pub fn begin(&mut self, check: &str) {
        self.stead.ok(&["unmount", "--all"]);
        self.far = Path::new("/root").join(check);
        self.stead.ok(&["exec", VM, "--", "mkdir", self.far.to_str().unwrap()]);
    }

    /// After the last check.
    pub fn end(self) {
        self.stead.ok(&["unmount", "--all"]);
        self.stead.vm(&["delete", "--force", "dev"]);
    }

    /// Whether its processor may be one that a program plays.
    pub fn is_emulated(&self) -> bool {
        self.machine == VM
    }

    pub fn source(&self, path: &Path) -> String {
        format!("{}{}", self.machine, path.display())
    }

    pub fn mount(&self, name: &str, args: &[&str]) -> (Mount, PathBuf) {
        let dir = self.stead.dir(name);
        (self.stead.mount(self.source(&self.far), &dir, args), dir)
    }

    /// Has somebody else do this in the directory, in a shell, and past all mounts.
    #[track_caller]
    pub fn others(&self, script: &str) -> Finished {
        let words = ["sh", "-c", script];
        let program = match self.machine {
            VM => self.stead.program().args(["exec", VM, "--cwd"]).arg(&self.far).arg("--").args(words),
            _ => Program::new(words[0]).args(&words[1..]).cwd(&self.far),
        };
        program.deadline(GUEST_DEADLINE).ok()
    }

    /// What is in the directory now, past all mounts: the directory itself, or a copy of it.
    #[track_caller]
    pub fn there(&self) -> PathBuf {
        if self.machine != VM {
            return self.far.clone();
        }
        let packed = self.others("tar -cf - .").stdout;
        self.looks.set(self.looks.get() + 1);
        let copy = self.stead.dir(&format!("look{}", self.looks.get()));
        Program::new("tar").args(["-xpf", "-", "-C"]).arg(&copy).input(packed).ok();
        copy
    }

    /// What this program runs to reach the machine. What the machine itself is, or runs in, is not among it.
    pub fn processes(&self) -> Vec<leftovers::Process> {
        let is_of_a_vm =
            |command: &str| ["qemu-system", "console.log"].iter().any(|part| command.contains(part));
        let all = self.stead.processes().into_iter();
        all.filter(|process| !is_of_a_vm(&process.command)).collect()
    }
}

/// Makes of each check three tests, and one of all of them in one guest.
#[macro_export]
macro_rules! on_every_machine {
    ($(fn $name:ident($field:ident) $body:block)*) => {
        $(
            mod $name {
                use super::*;

                pub fn check($field: &Field) $body

                #[test]
                fn host() {
                    check(&Field::host());
                }

                #[test]
                fn ssh() {
                    check(&Field::ssh());
                }

                #[test]
                fn docker() {
                    Field::docker().iter().for_each(check);
                }
            }
        )*

        #[test]
        fn vm() {
            let mut field = Field::vm();
            $(
                eprintln!("{}", stringify!($name));
                field.begin(stringify!($name));
                $name::check(&field);
            )*
            field.end();
        }
    };
}
