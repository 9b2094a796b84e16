//! The parts of bringing a workspace back.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::SystemTime;

use machine::capability::{Capabilities, Capability};
use machine::course::Course;
use machine::vm::Places;
use store::workspace::back::{self, Arrived, Claim, Moved};
use store::workspace::{self, Found};
use store::{Hash, Oid};
use tokio::runtime::Handle;
use wire::api::status;
use wire::api::time::Timestamp;
use wire::api::workspace::Exported;
use wire::bytestring::ByteString;

use super::guest::{Guest, SEAL, Script};
use super::{WorkspaceContext, from_object, from_workspace, kept, lost};
use crate::database::workspaces::WorkspaceRow;
use crate::failure::failure;

/// What comes of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A branch of this name.
    Branch(String),
    /// A file.
    Patch(PathBuf),
}

/// What is brought back, and what has come of it.
pub struct Exporting {
    /// What it takes.
    pub context: WorkspaceContext,
    /// The guest.
    pub guest: Guest,
    /// Whose it is.
    pub vm: status::Vm,
    /// What is known of the workspace.
    pub row: WorkspaceRow,
    /// A directory in a working copy of the repository that it is brought to.
    pub dir: PathBuf,
    /// What comes of it.
    pub target: Target,
    /// Where it can be waited.
    pub runtime: Handle,
    /// What comes of it.
    pub made: Made,
}

/// What each part leaves to those after it.
#[derive(Default)]
pub struct Made {
    here: OnceLock<Found>,
    claim: OnceLock<Claim>,
    /// What is checked out there.
    head: OnceLock<Oid>,
    arrived: OnceLock<Came>,
    moved: Mutex<Vec<Moved>>,
    patch: OnceLock<PathBuf>,
}

/// What came, and what is to be said of it.
struct Came {
    arrived: Arrived,
    is_nothing: bool,
    commits: u64,
    onto: Option<String>,
    /// None if they cannot be told.
    conflicts: Option<Vec<Vec<u8>>>,
}

impl Exporting {
    /// What is done, in that order.
    pub fn parts(self) -> Capabilities {
        let this = Arc::new(self);
        let last: Box<dyn Capability> = match &this.target {
            Target::Branch(name) => Box::new(Branch(Arc::clone(&this), name.clone())),
            Target::Patch(path) => Box::new(Patch(Arc::clone(&this), path.clone())),
        };
        vec![
            Box::new(Packed(Arc::clone(&this))),
            Box::new(Checked(Arc::clone(&this))),
            last,
            Box::new(Recorded(this)),
        ]
    }

    fn here(&self) -> machine::Result<&Found> {
        self.made.here.get().ok_or_else(|| lost("the repository was not looked at"))
    }

    fn came(&self) -> machine::Result<&Came> {
        self.made.arrived.get().ok_or_else(|| lost("what came was not looked at"))
    }

    fn pack(&self) -> PathBuf {
        self.context.scratch(&self.vm.id).join("comes.pack")
    }

    fn began(&self) -> machine::Result<(Oid, Oid)> {
        let named = |hex: &str| {
            Oid::from_hex(hex.as_bytes())
                .map_err(|error| lost(format!("a workspace is written down wrongly: {error}")))
        };
        Ok((named(&self.row.shown.head)?, named(&self.row.worked)?))
    }
}

/// The guest's pack of what was done.
struct Packed(Arc<Exporting>);

impl Capability for Packed {
    fn name(&self) -> &'static str {
        "guest"
    }

    /// git itself says whose the repository is.
    fn prepare(&self, _: &Places, course: &Course) -> machine::Result<()> {
        let here = workspace::look_around(&self.0.dir, &|| course.check().is_ok())
            .map_err(|error| from_workspace(&error))?;
        if here.hash.to_string() != self.0.row.hash {
            return Err(lost(format!("`{}` is another repository", here.root.display())));
        }
        self.0.made.here.get_or_init(|| here);
        Ok(())
    }

    fn apply(&self, _: &Places, course: &Course) -> machine::Result<()> {
        let this = &self.0;
        let (base, worked) = this.began()?;
        let variables = vec![
            ("W_PLACE", this.row.shown.place.as_bytes().to_vec()),
            ("W_WORKED", worked.to_string().into_bytes()),
            ("W_BASE", base.to_string().into_bytes()),
        ];
        let pack = this.pack();
        let script = Script { text: SEAL, variables, input: None, output: Some(&pack) };
        let said = this.runtime.block_on(this.guest.run(script, course));
        let said = said.map_err(|error| from_object(&error))?;
        let named = |at: usize| {
            let oid = said.split(|byte| *byte == b' ').nth(at).and_then(|hex| Oid::from_hex(hex).ok());
            let oid = oid.filter(|oid| oid.kind() == base.kind());
            oid.ok_or_else(|| lost("a guest says what nobody understands"))
        };
        let (head, tip) = (named(0)?, named(2)?);
        this.made.head.get_or_init(|| head);
        this.made.claim.get_or_init(|| Claim { base, worked, tip });
        Ok(())
    }

    fn verify(&self, _: &Places, _: &Course) -> machine::Result<()> {
        match self.0.pack().is_file() {
            true => Ok(()),
            false => Err(lost("nothing came from the guest")),
        }
    }

    fn undo(&self, _: &Places) -> machine::Result<()> {
        // It is in a directory that is removed.
        Ok(())
    }
}

/// What came, looked at aside.
struct Checked(Arc<Exporting>);

impl Capability for Checked {
    fn name(&self) -> &'static str {
        "check"
    }

    fn prepare(&self, _: &Places, _: &Course) -> machine::Result<()> {
        Ok(())
    }

    fn apply(&self, _: &Places, course: &Course) -> machine::Result<()> {
        let came = self.look(&|| course.check().is_ok()).map_err(|error| match error {
            Failed::Store(error) => from_workspace(&error),
            Failed::Other(error) => error,
        })?;
        self.0.made.arrived.get_or_init(|| came);
        Ok(())
    }

    fn verify(&self, _: &Places, _: &Course) -> machine::Result<()> {
        self.0.came().map(drop)
    }

    fn undo(&self, _: &Places) -> machine::Result<()> {
        // It is in a directory that is removed.
        Ok(())
    }
}

enum Failed {
    Store(workspace::Error),
    Other(machine::Error),
}

impl From<workspace::Error> for Failed {
    fn from(error: workspace::Error) -> Failed {
        Failed::Store(error)
    }
}

impl Checked {
    fn look(&self, is_wanted: workspace::IsWanted<'_>) -> Result<Came, Failed> {
        let this = &self.0;
        let here = this.here().map_err(Failed::Other)?;
        let claim = *this.made.claim.get().ok_or_else(|| Failed::Other(lost("a guest has said nothing")))?;
        let scratch = this.context.scratch(&this.vm.id);
        let repository = (here.repository.as_path(), here.hash);
        let arrived = back::receive(repository, &this.pack(), claim, &scratch, is_wanted)?;
        // Whoever has committed there what went there has done something.
        let has_committed = this.made.head.get() != Some(&claim.base);
        let is_nothing = !has_committed && arrived.is_nothing(is_wanted)?;
        let commits = arrived.commits(is_wanted)?;
        let onto = match &this.row.shown.branch {
            Some(branch) => {
                back::branch_tip(&here.repository, here.hash, branch)?.map(|at| (branch.clone(), at))
            }
            None => None,
        };
        let conflicts = match &onto {
            _ if is_nothing => Some(Vec::new()),
            Some((_, at)) => arrived.conflicts(at, &scratch, is_wanted)?,
            // Nothing was tried.
            None => None,
        };
        let onto = onto.map(|(branch, _)| branch);
        Ok(Came { arrived, is_nothing, commits, onto, conflicts })
    }
}

/// The branch that is at what came.
struct Branch(Arc<Exporting>, String);

impl Branch {
    fn repository(&self) -> machine::Result<(PathBuf, Hash)> {
        self.0.here().map(|here| (here.repository.clone(), here.hash))
    }
}

impl Capability for Branch {
    fn name(&self) -> &'static str {
        "branch"
    }

    /// What can be told before anything has come. A branch that is where it was put may stay there, whoever has it.
    fn prepare(&self, _: &Places, _: &Course) -> machine::Result<()> {
        let (repository, hash) = self.repository()?;
        let checked = back::check_target(&repository, hash, &self.1, &kept(&self.0.row));
        checked.map_err(|error| from_workspace(&error))
    }

    fn apply(&self, _: &Places, course: &Course) -> machine::Result<()> {
        let this = &self.0;
        let came = this.came()?;
        if came.is_nothing {
            return Ok(());
        }
        let scratch = this.context.scratch(&this.vm.id);
        let moved = came.arrived.publish(&self.1, &kept(&this.row), &scratch, &|| course.check().is_ok());
        let moved = moved.map_err(|error| from_workspace(&error))?;
        *this.made.moved.lock().unwrap_or_else(PoisonError::into_inner) = moved;
        Ok(())
    }

    fn verify(&self, _: &Places, _: &Course) -> machine::Result<()> {
        let this = &self.0;
        if this.came()?.is_nothing {
            return Ok(());
        }
        let (repository, hash) = self.repository()?;
        let at = back::branch_tip(&repository, hash, &self.1).map_err(|error| from_workspace(&error))?;
        match at.is_some() && at == this.made.claim.get().map(|claim| claim.tip) {
            true => Ok(()),
            false => Err(lost(format!("the branch `{}` is not where it was put", self.1))),
        }
    }

    fn undo(&self, _: &Places) -> machine::Result<()> {
        let (repository, hash) = self.repository()?;
        let moved = self.0.made.moved.lock().unwrap_or_else(PoisonError::into_inner);
        back::take_back(&repository, hash, &moved).map_err(|error| from_workspace(&error))
    }
}

/// The file of what was done.
struct Patch(Arc<Exporting>, PathBuf);

impl Capability for Patch {
    fn name(&self) -> &'static str {
        "patch"
    }

    fn prepare(&self, _: &Places, _: &Course) -> machine::Result<()> {
        match self.1.symlink_metadata() {
            Ok(_) => Err(from_workspace(&workspace::Error::Exists { path: self.1.clone() })),
            Err(_) => Ok(()),
        }
    }

    fn apply(&self, _: &Places, course: &Course) -> machine::Result<()> {
        let came = self.0.came()?;
        if came.is_nothing {
            return Ok(());
        }
        let written = came.arrived.write_patch(&self.1, &|| course.check().is_ok());
        written.map_err(|error| from_workspace(&error))?;
        self.0.made.patch.get_or_init(|| self.1.clone());
        Ok(())
    }

    fn verify(&self, _: &Places, _: &Course) -> machine::Result<()> {
        match self.0.came()?.is_nothing || self.1.is_file() {
            true => Ok(()),
            false => Err(lost(format!("`{}` is not there", self.1.display()))),
        }
    }

    /// Only of what it has made: one that was there before is somebody's.
    fn undo(&self, _: &Places) -> machine::Result<()> {
        match self.0.made.patch.get().map(std::fs::remove_file) {
            Some(Err(error)) => Err(lost(format!("could not remove `{}`: {error}", self.1.display()))),
            _ => Ok(()),
        }
    }
}

/// What it came to.
struct Recorded(Arc<Exporting>);

impl Recorded {
    fn exported(&self) -> machine::Result<Exported> {
        let this = &self.0;
        let came = this.came()?;
        let claim = this.made.claim.get().ok_or_else(|| lost("a guest has said nothing"))?;
        let (branch, patch) = match &this.target {
            _ if came.is_nothing => (None, None),
            Target::Branch(name) => (Some(name.clone()), None),
            Target::Patch(path) => (None, Some(ByteString::from(path.as_path()))),
        };
        Ok(Exported {
            at: Timestamp::from(SystemTime::now()),
            dir: ByteString::from(this.here()?.root.as_path()),
            commit: claim.tip.to_string(),
            commits: if came.is_nothing { 0 } else { came.commits },
            branch,
            patch,
            onto: came.onto.clone(),
            conflicts: came
                .conflicts
                .as_ref()
                .map(|paths| paths.iter().cloned().map(ByteString::from).collect()),
        })
    }

    fn put(&self, exported: Option<Exported>) -> machine::Result<()> {
        let mut row = self.0.row.clone();
        row.shown.exported = exported;
        let put = self.0.runtime.block_on(self.0.context.database.put_workspace(row));
        put.map_err(|error| from_object(&failure(&error)))
    }
}

impl Capability for Recorded {
    fn name(&self) -> &'static str {
        "record"
    }

    fn prepare(&self, _: &Places, _: &Course) -> machine::Result<()> {
        Ok(())
    }

    fn apply(&self, _: &Places, _: &Course) -> machine::Result<()> {
        self.put(Some(self.exported()?))
    }

    fn verify(&self, _: &Places, _: &Course) -> machine::Result<()> {
        let found = self.0.runtime.block_on(self.0.context.ready(&self.0.vm));
        found.map(drop).map_err(|error| from_object(&error))
    }

    fn undo(&self, _: &Places) -> machine::Result<()> {
        self.put(self.0.row.shown.exported.clone())
    }
}
