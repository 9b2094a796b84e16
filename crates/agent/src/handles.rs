//! Open files of a session.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};

use rustix::io::Errno;
use wire::agent::HandleId;
use wire::agent::file::{FileId, Kind};

use crate::file::writeback::Run;
use crate::sync::lock;

/// An open file.
pub(crate) struct Handle {
    pub file: OwnedFd,
    pub id: FileId,
    pub kind: Kind,
    pub write: bool,
    /// It was opened to be read and to be appended to, and may not be written otherwise.
    pub only_appends: bool,
    pub run: Mutex<Run>,
}

/// The open files, by the client's ids.
pub(crate) struct Handles {
    table: Mutex<Table>,
    handles_max: usize,
}

#[derive(Default)]
struct Table {
    handles: HashMap<HandleId, Arc<Handle>>,
    /// How many handles each file has.
    files: HashMap<FileId, usize>,
}

impl Handles {
    pub fn new(handles_max: usize) -> Handles {
        Handles { table: Mutex::default(), handles_max }
    }

    pub fn get(&self, id: HandleId) -> Result<Arc<Handle>, Errno> {
        lock(&self.table).handles.get(&id).cloned().ok_or(Errno::BADF)
    }

    /// Refuses an id that is in use, and one more than the limit. To be asked before the machine is changed.
    pub fn check(&self, id: HandleId) -> Result<(), Errno> {
        let table = lock(&self.table);
        if table.handles.contains_key(&id) {
            return Err(Errno::INVAL);
        }
        if table.handles.len() >= self.handles_max {
            return Err(Errno::NFILE);
        }
        Ok(())
    }

    pub fn insert(&self, id: HandleId, handle: Handle) -> Arc<Handle> {
        let handle = Arc::new(handle);
        let mut table = lock(&self.table);
        *table.files.entry(handle.id).or_default() += 1;
        table.handles.insert(id, handle.clone());
        handle
    }

    /// Takes a handle out, and says whether it was the last of its file.
    pub fn remove(&self, id: HandleId) -> Result<(Arc<Handle>, bool), Errno> {
        let mut table = lock(&self.table);
        let handle = table.handles.remove(&id).ok_or(Errno::BADF)?;
        let count = table.files.entry(handle.id).or_default();
        *count = count.saturating_sub(1);
        let last = *count == 0;
        if last {
            table.files.remove(&handle.id);
        }
        Ok((handle, last))
    }

    /// Whether a handle of the file is open.
    pub fn holds(&self, id: FileId) -> bool {
        lock(&self.table).files.contains_key(&id)
    }
}
