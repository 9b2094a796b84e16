//! Who rings the bell. What has changed is found by looking: a bell that is rung once too often costs a look, and one that was not
//! rung, a wait.

use std::fs::File;
use std::ops::ControlFlow;
use std::os::windows::io::AsRawHandle;
use std::path::Path;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use windows_sys::Win32::Storage::FileSystem as fs;
use windows_sys::Win32::System::IO::CancelIoEx;
use wire::agent::file::{FileReply, FileRequest, Place};

use super::serve::{Dial, thread};
use super::system::{Access, last, open_path};
use crate::far::{Ender, Line, LineError, StreamLine};

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

/// A watch, until it is dropped: its thread has ended then.
pub(super) struct Watch {
    is_ended: Arc<AtomicBool>,
    /// Ends what the thread waits for. What it is about to wait for may be missed, so it is called until the thread has ended.
    interrupt: Box<dyn Fn() + Send>,
    thread: JoinHandle<()>,
}

/// How long to wait until a watch's thread is interrupted again.
const INTERRUPT_AGAIN: Duration = Duration::from_millis(10);

/// How often. A line whose opener has not said how it is ended ends by itself, or not: the thread is left to it.
const INTERRUPTS_MAX: usize = 500;

impl Drop for Watch {
    fn drop(&mut self) {
        self.is_ended.store(true, Ordering::SeqCst);
        for _ in 0..INTERRUPTS_MAX {
            if self.thread.is_finished() {
                return;
            }
            (self.interrupt)();
            self.thread.thread().unpark();
            std::thread::park_timeout(INTERRUPT_AGAIN);
        }
        tracing::warn!(thread = self.thread.thread().name(), "a watch does not end");
    }
}

/// Rings when something changes below a directory here.
pub(super) fn here(directory: &Path, bell: SyncSender<()>) -> std::io::Result<Watch> {
    let root = Arc::new(open_path(directory, Access::READ).map_err(std::io::Error::other)?);
    let is_ended = Arc::new(AtomicBool::new(false));
    let (watched, is_to_end) = (Arc::clone(&root), Arc::clone(&is_ended));
    let thread = thread("stead-changes", move || {
        let mut changes = vec![0_u32; CHANGES_BYTES / 4];
        while !is_to_end.load(Ordering::SeqCst) && ring(&bell) {
            if !wait_for_change(&watched, &mut changes) {
                break;
            }
        }
    })?;
    let interrupt = Box::new(move || {
        // SAFETY: the handle is open; without a structure every call that waits on it is meant.
        unsafe { CancelIoEx(root.as_raw_handle(), ptr::null()) };
    });
    Ok(Watch { is_ended, interrupt, thread })
}

/// Whether there may be more.
fn wait_for_change(root: &File, changes: &mut [u32]) -> bool {
    let filter = fs::FILE_NOTIFY_CHANGE_FILE_NAME
        | fs::FILE_NOTIFY_CHANGE_DIR_NAME
        | fs::FILE_NOTIFY_CHANGE_ATTRIBUTES
        | fs::FILE_NOTIFY_CHANGE_SIZE
        | fs::FILE_NOTIFY_CHANGE_LAST_WRITE;
    let mut read = 0;
    // SAFETY: the buffer has as many bytes as is said, is aligned, and outlives the call, which is not overlapped.
    let is_read = unsafe {
        fs::ReadDirectoryChangesW(
            root.as_raw_handle(),
            changes.as_mut_ptr().cast(),
            size_of_val(changes) as u32,
            1,
            filter,
            &mut read,
            ptr::null_mut(),
            None,
        )
    };
    if is_read == 0 {
        tracing::info!(error = %last(), "changes are not told any more, and are looked for");
    }
    is_read != 0
}

/// What ends the line that a watch waits for now.
type Current = Arc<Mutex<Option<Ender>>>;

/// Rings when the machine tells of a change.
pub(super) fn there(dial: Dial, path: Vec<u8>, bell: SyncSender<()>) -> std::io::Result<Watch> {
    let (is_ended, current) = (Arc::new(AtomicBool::new(false)), Current::default());
    let (is_to_end, waiting) = (Arc::clone(&is_ended), Arc::clone(&current));
    let thread = thread("stead-watch", move || {
        while !is_to_end.load(Ordering::SeqCst) && ring(&bell) {
            let watched = dial().and_then(|line| {
                *waiting.lock() = line.ender();
                watch(line, &path, &bell, &is_to_end)
            });
            *waiting.lock() = None;
            if let Err(error) = watched {
                tracing::debug!(%error, "the machine tells of no changes");
            }
            if !is_to_end.load(Ordering::SeqCst) {
                std::thread::park_timeout(AGAIN);
            }
        }
    })?;
    let interrupt = Box::new(move || {
        let ender = current.lock().clone();
        if let Some(ender) = ender {
            ender();
        }
    });
    Ok(Watch { is_ended, interrupt, thread })
}

fn watch(
    mut line: StreamLine,
    path: &[u8],
    bell: &SyncSender<()>,
    is_to_end: &AtomicBool,
) -> Result<(), LineError> {
    let request = FileRequest::Attach { path: path.to_vec(), read_only: true };
    let FileReply::Attached { root, .. } = line.ask(request, &[])?.0 else { return Ok(()) };
    let directory = Place { id: root.id, ..Place::default() };
    let request = FileRequest::Watch { directory, recursive: true, window: WINDOW_BYTES };
    line.pages(request, &mut |_, _| match ring(bell) && !is_to_end.load(Ordering::SeqCst) {
        true => ControlFlow::Continue(()),
        false => ControlFlow::Break(()),
    })
}
