//! Bytes that programs wait for.

use std::ops::Range;
use std::os::windows::io::AsRawHandle;
use std::ptr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use vfs::replica::side::{Answer, Refusal, There};
use windows_sys::Win32::Storage::CloudFilters as cf;

use super::here::Folder;
use super::root::{Asker, Desk, Request};
use super::serve::{Dial, Options, SharedCatalog, thread};
use super::system::{Access, checked};
use super::translate::{Blob, identity_of, piece, status, status_of};
use crate::far::{Directories, Far, LineError, StreamLine};

/// Transfers at once. Each has a line of its own: more of them share what one link carries.
const TRANSFERS_MAX: usize = 4;

/// One piece: how soon a transfer can end when nobody wants it any more.
const PIECE_BYTES: u32 = 1 << 20;

/// The smallest piece on a slow link.
const PIECE_BYTES_MIN: u32 = 64 << 10;

/// A piece that takes longer is followed by one of half its size: Windows gives up after 60 s without any.
const PIECE_TIME: Duration = Duration::from_secs(10);

/// Files to be fetched or freed as their users want; those without room are found again later.
const PINS_MAX: usize = 64;

/// The threads that serve what is asked. They end when it is dropped, each with what it is at.
pub(super) struct Transfers {
    pins: SyncSender<Vec<(i64, bool)>>,
    desk: Arc<Desk>,
}

impl Drop for Transfers {
    fn drop(&mut self) {
        self.desk.close();
    }
}

impl Transfers {
    pub(super) fn start(
        requests: Receiver<Request>,
        desk: &Arc<Desk>,
        catalog: &SharedCatalog,
        options: &Options,
    ) -> std::io::Result<Transfers> {
        let (pins, wanted) = sync_channel::<Vec<(i64, bool)>>(1);
        // Whatever fails below, those who have been started end.
        let transfers = Transfers { pins, desk: Arc::clone(desk) };
        let requests = Arc::new(Mutex::new(requests));
        for _ in 0..TRANSFERS_MAX {
            let mut server = Server {
                far: None,
                dial: Arc::clone(&options.dial),
                path: options.path.clone(),
                desk: Arc::clone(desk),
                catalog: Arc::clone(catalog),
                known: Arc::default(),
            };
            let requests = Arc::clone(&requests);
            thread("stead-transfer", move || {
                loop {
                    let request = requests.lock().recv();
                    let Ok(request) = request else { return };
                    server.serve(request);
                }
            })?;
        }
        let folder = Folder::open(&options.directory).map_err(std::io::Error::other)?;
        thread("stead-pins", move || {
            for (number, is_here) in wanted.iter().flatten() {
                let done = if is_here { fetch(&folder, number) } else { folder.free(number) };
                if let Err(error) = done {
                    tracing::info!(%error, number, is_here, "a file is not where it is wanted");
                }
            }
        })?;
        Ok(transfers)
    }

    /// Has files fetched or freed, while nothing else is done about others.
    pub(super) fn pin(&self, mut files: Vec<(i64, bool)>) {
        files.truncate(PINS_MAX);
        if !files.is_empty() {
            // When there is no room, they are found again.
            let _ = self.pins.try_send(files);
        }
    }
}

/// Has all bytes of a file come.
fn fetch(folder: &Folder, number: i64) -> Answer<()> {
    let file = folder.number(number, Access::READ)?;
    // SAFETY: the handle is open; a length of -1 is the whole file; the call is not overlapped.
    checked(unsafe {
        cf::CfHydratePlaceholder(file.as_raw_handle(), 0, -1, cf::CF_HYDRATE_FLAG_NONE, ptr::null_mut())
    })
}

struct Server {
    far: Option<Far<StreamLine>>,
    dial: Dial,
    path: Vec<u8>,
    desk: Arc<Desk>,
    catalog: SharedCatalog,
    /// Where the line knows directories to be.
    known: Arc<Directories>,
}

impl Server {
    fn serve(&mut self, request: Request) {
        let Request { asker, number, blob, wanted } = request;
        let served = self.data(asker, number, blob, wanted);
        self.desk.done(&asker);
        if let Err(refusal) = served {
            tracing::info!(%refusal, "a program has not got what it asked for");
            if matches!(refusal, Refusal::Changed) {
                self.desk.ring();
            }
        }
    }

    /// The line of this thread, or another if it is lost.
    fn far(&mut self) -> Result<&mut Far<StreamLine>, LineError> {
        let directories = self.catalog.lock().directories();
        let (mut far, is_new) = match self.far.take() {
            Some(far) => (far, false),
            None => (Far::attach((self.dial)()?, &self.path)?, true),
        };
        if is_new || !Arc::ptr_eq(&directories, &self.known) {
            far.know(&directories);
            self.known = directories;
        }
        Ok(self.far.insert(far))
    }

    fn data(&mut self, asker: Asker, number: i64, blob: Option<Blob>, wanted: Range<u64>) -> Answer<()> {
        let mut rest = wanted;
        let done = self.pieces(asker, number, blob, &mut rest);
        if let Err(refusal) = &done {
            if matches!(refusal, Refusal::Cut) {
                self.far = None;
            }
            asker.fail_data(&rest, status_of(refusal))?;
        }
        done
    }

    fn pieces(&mut self, asker: Asker, number: i64, blob: Option<Blob>, rest: &mut Range<u64>) -> Answer<()> {
        let content = blob.ok_or(Refusal::Changed)?.content;
        let (total, start) = (rest.end - rest.start, rest.start);
        let mut most = PIECE_BYTES;
        while !rest.is_empty() {
            if self.desk.is_cancelled(&asker) {
                return asker.fail_data(rest, status::REQUEST_CANCELED);
            }
            // It may be renamed on the machine meanwhile.
            let origin = self.catalog.lock().origin(&identity_of(number), &content).cloned();
            let origin = origin.ok_or(Refusal::Changed)?;
            let next = piece(rest, most);
            let length = u32::try_from(next.end - next.start).unwrap_or(PIECE_BYTES);
            let begun = Instant::now();
            let bytes = self.far()?.read(&origin.at, &content, next.start, length)?;
            if bytes.len() != length as usize {
                return Err(Refusal::Changed);
            }
            asker.data(next.start, &bytes)?;
            rest.start = next.end;
            asker.progress(rest.start - start, total);
            if begun.elapsed() > PIECE_TIME {
                most = (most / 2).max(PIECE_BYTES_MIN);
            }
        }
        Ok(())
    }
}
