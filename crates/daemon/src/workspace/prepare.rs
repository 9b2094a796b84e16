//! The parts of preparing a workspace.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use machine::capability::{Capabilities, Capability};
use machine::course::Course;
use machine::vm::Places;
use store::workspace::{self, Found, PATHS_TOLD_MAX, Packed};
use tokio::runtime::Handle;
use wire::api::status;
use wire::api::time::Timestamp;
use wire::api::workspace::{Went, Workspace};
use wire::bytestring::ByteString;

use super::guest::{Guest, IMPORT, SEAL, Script};
use super::{WorkspaceContext, from_object, from_workspace, lost};
use crate::database::workspaces::{WorkspacePhase, WorkspaceRow};
use crate::failure::failure;

/// The longest path in a guest.
const PLACE_BYTES_MAX: usize = 4096;

/// What is prepared, and what has come of it.
pub struct Preparing {
    /// What it takes.
    pub context: WorkspaceContext,
    /// The guest.
    pub guest: Guest,
    /// Whose it is.
    pub vm: status::Vm,
    /// A number that no other workspace has had.
    pub id: String,
    /// A directory in the working copy.
    pub dir: PathBuf,
    /// The thread that this is.
    pub thread: Option<String>,
    /// Where it is to be in the guest, if not where it is usually.
    pub place: Option<ByteString>,
    /// Whether secrets go along that git knows.
    pub with_secrets: bool,
    /// What is left in the guest of one that was not prepared to its end.
    pub left: Option<WorkspaceRow>,
    /// Where it can be waited.
    pub runtime: Handle,
    /// What comes of it.
    pub made: Made,
}

/// What each part leaves to those after it.
#[derive(Default)]
pub struct Made {
    found: OnceLock<Found>,
    packed: OnceLock<Packed>,
    place: OnceLock<ByteString>,
    /// Whether something may be left in the guest.
    stays: AtomicBool,
}

impl Preparing {
    /// What is done, in that order.
    pub fn parts(self) -> Capabilities {
        let this = Arc::new(self);
        vec![
            Box::new(Copied(Arc::clone(&this))),
            Box::new(Imported(Arc::clone(&this))),
            Box::new(Recorded(this)),
        ]
    }

    /// The error that a client sees, with the whole command where another one would do it.
    fn refused(&self, error: &workspace::Error) -> machine::Error {
        let refused = from_workspace(error);
        if !matches!(error, workspace::Error::Secrets { .. }) {
            return refused;
        }
        let what = match &self.thread {
            Some(thread) => format!("thread:{thread}"),
            None => format!("'{}'", self.dir.display().to_string().replace('\'', r"'\''")),
        };
        let at =
            self.place.as_ref().map(|place| format!(" --at '{}'", place.to_string().replace('\'', r"'\''")));
        refused.hint(format!(
            "git rm --cached and git commit, or to let them go along: stead workspace prepare {} {what}{} --with-secrets",
            self.vm.name,
            at.unwrap_or_default()
        ))
    }

    fn found(&self) -> machine::Result<&Found> {
        self.made.found.get().ok_or_else(|| lost("the working copy was not looked at"))
    }

    fn packed(&self) -> machine::Result<&Packed> {
        self.made.packed.get().ok_or_else(|| lost("the working copy was not packed"))
    }

    fn name(&self) -> Vec<u8> {
        let name = self.made.found.get().and_then(|found| found.root.file_name());
        name.map_or_else(|| b"workspace".to_vec(), |name| name.as_encoded_bytes().to_vec())
    }

    fn row(&self, phase: WorkspacePhase) -> machine::Result<WorkspaceRow> {
        let found = self.found()?;
        let packed = self.made.packed.get();
        let first = |paths: &[Vec<u8>]| {
            paths.iter().take(PATHS_TOLD_MAX).map(|path| ByteString::from(path.clone())).collect()
        };
        let place = self.made.place.get().or(self.place.as_ref()).cloned().unwrap_or_else(|| "".into());
        Ok(WorkspaceRow {
            vm_id: self.vm.id.clone(),
            phase,
            hash: found.hash.to_string(),
            worked: packed.map(|packed| packed.worked.to_string()).unwrap_or_default(),
            shown: Workspace {
                vm: self.vm.name.clone(),
                id: self.id.clone(),
                dir: ByteString::from(found.root.as_path()),
                thread: self.thread.clone(),
                place,
                branch: found.branch.clone(),
                head: found.head.to_string(),
                since: Timestamp::from(SystemTime::now()),
                went: Went {
                    staged: found.staged as u64,
                    unstaged: found.unstaged as u64,
                    untracked: found.untracked.len() as u64,
                    bytes: packed.map_or(0, |packed| packed.bytes),
                    left_out: first(&found.left_out),
                    secrets: first(&found.secrets),
                    submodules: first(&found.submodules),
                    large: found.large as u64,
                },
                exported: None,
            },
        })
    }

    fn put(&self, phase: WorkspacePhase) -> machine::Result<()> {
        let row = self.row(phase)?;
        let put = self.runtime.block_on(self.context.database.put_workspace(row));
        put.map_err(|error| from_object(&failure(&error)))
    }

    fn run(&self, script: Script<'_>, course: &Course) -> machine::Result<Vec<u8>> {
        self.runtime.block_on(self.guest.run(script, course)).map_err(|error| from_object(&error))
    }

    fn remove_there(&self, id: &str, place: &[u8], name: &[u8]) -> machine::Result<()> {
        self.runtime.block_on(self.guest.undo(id, place, name)).map_err(|error| from_object(&error))
    }
}

/// The pack of what goes, and that something may be in the guest from now on.
struct Copied(Arc<Preparing>);

impl Capability for Copied {
    fn name(&self) -> &'static str {
        "copy"
    }

    fn prepare(&self, _: &Places, course: &Course) -> machine::Result<()> {
        let found = workspace::look(&self.0.dir, &|| course.check().is_ok())
            .map_err(|error| from_workspace(&error))?;
        if !self.0.with_secrets {
            found.check_secrets().map_err(|error| self.0.refused(&error))?;
        }
        self.0.made.found.get_or_init(|| found);
        Ok(())
    }

    fn apply(&self, _: &Places, course: &Course) -> machine::Result<()> {
        let this = &self.0;
        if let Some(left) = &this.left {
            let Workspace { id, place, dir, .. } = &left.shown;
            let name = dir.as_path().file_name().unwrap_or_default().as_encoded_bytes().to_vec();
            this.remove_there(id, place.as_bytes(), &name)?;
        }
        this.put(WorkspacePhase::Preparing)?;
        let scratch = this.context.scratch(&this.vm.id);
        let packed = this.found()?.pack(&scratch, &|| course.check().is_ok());
        let packed = packed.map_err(|error| this.refused(&error))?;
        this.made.packed.get_or_init(|| packed);
        Ok(())
    }

    fn verify(&self, _: &Places, _: &Course) -> machine::Result<()> {
        let packed = self.0.packed()?;
        match packed.file.metadata().is_ok_and(|found| found.len() == packed.bytes) {
            true => Ok(()),
            false => Err(lost(format!("`{}` is not there", packed.file.display()))),
        }
    }

    fn undo(&self, _: &Places) -> machine::Result<()> {
        if self.0.made.stays.load(Ordering::Relaxed) {
            // Whoever prepares the next one looks for it.
            return Ok(());
        }
        let found = self.0.runtime.block_on(self.0.context.find(&self.0.vm.id));
        let found = found.map_err(|error| from_object(&error))?;
        if found.is_none_or(|row| row.shown.id != self.0.id) {
            // What is known of one that was left before, which could not be removed, is needed for that.
            return Ok(());
        }
        let removed = self.0.runtime.block_on(self.0.context.database.remove_workspace(self.0.vm.id.clone()));
        removed.map_err(|error| from_object(&failure(&error)))
    }
}

/// The copy in the guest.
struct Imported(Arc<Preparing>);

impl Capability for Imported {
    fn name(&self) -> &'static str {
        "guest"
    }

    fn prepare(&self, _: &Places, _: &Course) -> machine::Result<()> {
        Ok(())
    }

    fn apply(&self, _: &Places, course: &Course) -> machine::Result<()> {
        let this = &self.0;
        let (found, packed) = (this.found()?, this.packed()?);
        let text = |text: &dyn std::fmt::Display| text.to_string().into_bytes();
        let maybe = |text: &Option<String>| text.clone().unwrap_or_default().into_bytes();
        let variables = vec![
            ("W_ID", this.id.clone().into_bytes()),
            ("W_PLACE", this.place.as_ref().map(|place| place.as_bytes().to_vec()).unwrap_or_default()),
            ("W_NAME", this.name()),
            ("W_FORMAT", text(&found.hash)),
            ("W_HEAD", text(&found.head)),
            ("W_CUT", if found.is_cut { b"1".to_vec() } else { Vec::new() }),
            ("W_STAGED", text(&packed.staged)),
            ("W_WORKED", text(&packed.worked)),
            ("W_BRANCH", maybe(&found.branch)),
            ("W_USER", maybe(&found.identity.0)),
            ("W_EMAIL", maybe(&found.identity.1)),
        ];
        let script = Script { text: IMPORT, variables, input: Some(&packed.file), output: None };
        let place = this.run(script, course)?;
        if place.first() != Some(&b'/') || place.len() > PLACE_BYTES_MAX || place.contains(&0) {
            return Err(lost("a guest says what nobody understands"));
        }
        this.made.place.get_or_init(|| ByteString::from(place));
        Ok(())
    }

    /// By what the guest's git says of the files, once more.
    fn verify(&self, _: &Places, course: &Course) -> machine::Result<()> {
        let this = &self.0;
        let place = this.made.place.get().ok_or_else(|| lost("the workspace is nowhere"))?;
        let variables = vec![
            ("W_PLACE", place.as_bytes().to_vec()),
            ("W_WORKED", Vec::new()),
            // What the guest ignores of itself is there, too.
            ("GIT_CONFIG_GLOBAL", b"/dev/null".to_vec()),
        ];
        let said = this.run(Script { text: SEAL, variables, input: None, output: None }, course)?;
        let expected = format!("{} {} ", this.found()?.head, this.packed()?.tree);
        match said.starts_with(expected.as_bytes()) {
            true => Ok(()),
            false => Err(lost(format!("the files in the vm `{}` are not as they are here", this.vm.name))),
        }
    }

    fn undo(&self, _: &Places) -> machine::Result<()> {
        let this = &self.0;
        let place = this.place.as_ref().map(|place| place.as_bytes().to_vec()).unwrap_or_default();
        let undone = this.remove_there(&this.id, &place, &this.name());
        this.made.stays.store(undone.is_err(), Ordering::Relaxed);
        undone
    }
}

/// That it is there.
struct Recorded(Arc<Preparing>);

impl Capability for Recorded {
    fn name(&self) -> &'static str {
        "record"
    }

    fn prepare(&self, _: &Places, _: &Course) -> machine::Result<()> {
        Ok(())
    }

    fn apply(&self, _: &Places, _: &Course) -> machine::Result<()> {
        self.0.put(WorkspacePhase::Ready)
    }

    fn verify(&self, _: &Places, _: &Course) -> machine::Result<()> {
        let found = self.0.runtime.block_on(self.0.context.ready(&self.0.vm));
        found.map(drop).map_err(|error| from_object(&error))
    }

    fn undo(&self, _: &Places) -> machine::Result<()> {
        self.0.put(WorkspacePhase::Preparing)
    }
}
