//! Who rings the bell. What has changed is found by looking: a bell that is rung once too often costs a look, and one that was not
//! rung, a wait.

use std::ops::ControlFlow;
use std::os::windows::io::AsRawHandle;
use std::path::Path;
use std::ptr;
use std::sync::mpsc::{SyncSender, TrySendError};
use std::time::Duration;

use windows_sys::Win32::Storage::FileSystem as fs;
use wire::agent::file::{FileReply, FileRequest, Place};

use super::serve::{Dial, thread};
use super::system::{Access, last, open_path};
use crate::far::{Line, LineError, StreamLine};

/// What Windows keeps of changes until they are read; beyond it, it says that there were too many, which is a change too.
const CHANGES_BYTES: usize = 64 << 10;

/// Credit for the machine's changes.
const WINDOW_BYTES: u32 = 256 << 10;

/// How long to wait until the machine is asked again to tell of changes.
const AGAIN: Duration = Duration::from_secs(15);

/// Whether there is anybody who hears it.
fn ring(bell: &SyncSender<()>) -> bool {
    !matches!(bell.try_send(()), Err(TrySendError::Disconnected(())))
}

/// Rings when something changes below a directory here, until nobody hears it any more.
pub(super) fn here(directory: &Path, bell: SyncSender<()>) -> std::io::Result<()> {
    let root = open_path(directory, Access::READ).map_err(std::io::Error::other)?;
    thread("stead-changes", move || {
        let mut changes = vec![0_u32; CHANGES_BYTES / 4];
        let filter = fs::FILE_NOTIFY_CHANGE_FILE_NAME
            | fs::FILE_NOTIFY_CHANGE_DIR_NAME
            | fs::FILE_NOTIFY_CHANGE_ATTRIBUTES
            | fs::FILE_NOTIFY_CHANGE_SIZE
            | fs::FILE_NOTIFY_CHANGE_LAST_WRITE;
        loop {
            let mut read = 0;
            // SAFETY: the buffer has as many bytes as is said, is aligned, and outlives the call, which is not overlapped.
            let is_read = unsafe {
                fs::ReadDirectoryChangesW(
                    root.as_raw_handle(),
                    changes.as_mut_ptr().cast(),
                    CHANGES_BYTES as u32,
                    1,
                    filter,
                    &mut read,
                    ptr::null_mut(),
                    None,
                )
            };
            if is_read == 0 {
                tracing::warn!(error = %last(), "changes are not told any more, and are looked for");
                return;
            }
            if !ring(&bell) {
                return;
            }
        }
    })
}

/// Rings when the machine tells of a change, until nobody hears it any more.
pub(super) fn there(dial: Dial, path: Vec<u8>, bell: SyncSender<()>) -> std::io::Result<()> {
    thread("stead-watch", move || {
        while ring(&bell) {
            if let Err(error) = dial().and_then(|line| watch(line, &path, &bell)) {
                tracing::debug!(%error, "the machine tells of no changes");
            }
            std::thread::park_timeout(AGAIN);
        }
    })
}

fn watch(mut line: StreamLine, path: &[u8], bell: &SyncSender<()>) -> Result<(), LineError> {
    let request = FileRequest::Attach { path: path.to_vec(), read_only: true };
    let FileReply::Attached { root, .. } = line.ask(request, &[])?.0 else { return Ok(()) };
    let directory = Place { id: root.id, ..Place::default() };
    let request = FileRequest::Watch { directory, recursive: true, window: WINDOW_BYTES };
    line.pages(request, &mut |_, _| match ring(bell) {
        true => ControlFlow::Continue(()),
        false => ControlFlow::Break(()),
    })
}
