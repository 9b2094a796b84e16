//! A sync root: its registration, and what Windows asks of it.
//!
//! Windows calls us on threads of its own, with pointers that are good for the call alone. A callback copies what it needs, puts
//! a [`Request`] into a queue with room for [`REQUESTS_MAX`], and returns: it never waits, and never unwinds. What has
//! no room is refused at once, so that no program waits for what nobody does.

use std::collections::HashMap;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::ptr;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, TrySendError};

use parking_lot::Mutex;
use vfs::replica::side::Answer;
use windows_sys::Win32::Storage::CloudFilters as cf;
use windows_sys::core::GUID;

use super::system::{checked, wide_path};
use super::translate::{Blob, status, wide};

/// Requests that wait for a thread: more than a busy desktop has open at once.
pub(super) const REQUESTS_MAX: usize = 256;

/// Which program keeps a sync root. Never to be changed: Windows knows our sync roots by it.
const PROVIDER: GUID = GUID::from_u128(0x5d1b_6c0e_8a43_4f0b_9b57_2f7e_6a19_c3d4);

/// Makes a directory a sync root, also one that is already. `identity` is which mount it is, for us.
pub fn register(path: &Path, identity: &[u8]) -> Answer<()> {
    let (path, name, version) = (wide_path(path), wide(b"Stead")?, wide(wire::RELEASE.as_bytes())?);
    let registration = cf::CF_SYNC_REGISTRATION {
        StructSize: size_of::<cf::CF_SYNC_REGISTRATION>() as u32,
        ProviderName: name.as_ptr(),
        ProviderVersion: version.as_ptr(),
        SyncRootIdentity: identity.as_ptr().cast(),
        SyncRootIdentityLength: identity.len() as u32,
        FileIdentity: ptr::null(),
        FileIdentityLength: 0,
        ProviderId: PROVIDER,
    };
    let policies = cf::CF_SYNC_POLICIES {
        StructSize: size_of::<cf::CF_SYNC_POLICIES>() as u32,
        // A file is all here before a program writes to it: what is written to must not need bytes that the machine may not have
        // any more.
        Hydration: cf::CF_HYDRATION_POLICY {
            Primary: cf::CF_HYDRATION_POLICY_FULL,
            Modifier: cf::CF_HYDRATION_POLICY_MODIFIER_AUTO_DEHYDRATION_ALLOWED,
        },
        Population: cf::CF_POPULATION_POLICY {
            // The replica makes every placeholder: nobody is asked for names, who would wait for whoever is making them.
            Primary: cf::CF_POPULATION_POLICY_ALWAYS_FULL,
            Modifier: cf::CF_POPULATION_POLICY_MODIFIER_NONE,
        },
        InSync: cf::CF_INSYNC_POLICY_TRACK_FILE_LAST_WRITE_TIME
            | cf::CF_INSYNC_POLICY_PRESERVE_INSYNC_FOR_SYNC_ENGINE,
        HardLink: cf::CF_HARDLINK_POLICY_NONE,
        PlaceholderManagement: cf::CF_PLACEHOLDER_MANAGEMENT_POLICY_DEFAULT,
    };
    // SAFETY: the texts end with zeros; they and the structures, of the sizes that they say, outlive the call.
    checked(unsafe {
        cf::CfRegisterSyncRoot(path.as_ptr(), &registration, &policies, cf::CF_REGISTER_FLAG_UPDATE)
    })
}

/// Takes a sync root away. Placeholders whose bytes are not here go; everything else stays as plain files.
pub fn unregister(path: &Path) -> Answer<()> {
    let path = wide_path(path);
    // SAFETY: the text ends with a zero and outlives the call.
    checked(unsafe { cf::CfUnregisterSyncRoot(path.as_ptr()) })
}

/// What an answer is addressed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Asker {
    connection: cf::CF_CONNECTION_KEY,
    transfer: i64,
    request: i64,
}

/// What Windows asks for: bytes of a file.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) asker: Asker,
    pub(super) number: i64,
    pub(super) blob: Option<Blob>,
    pub(super) wanted: Range<u64>,
}

/// What callbacks share with those who serve them.
pub(super) struct Desk {
    /// `None` when nobody serves any more.
    requests: Mutex<Option<SyncSender<Request>>>,
    /// Rings when something may have changed here.
    changed: SyncSender<()>,
    under_way: Mutex<UnderWay>,
}

/// Requests that wait or are served, and whether nobody wants them any more. One transfer may have several.
type UnderWay = HashMap<(i64, i64), bool>;

impl Desk {
    pub(super) fn new(requests: SyncSender<Request>, changed: SyncSender<()>) -> Arc<Desk> {
        Arc::new(Desk { requests: Mutex::new(Some(requests)), changed, under_way: Mutex::default() })
    }

    pub(super) fn is_cancelled(&self, asker: &Asker) -> bool {
        self.under_way.lock().get(&asker.key()).copied().unwrap_or_default()
    }

    pub(super) fn done(&self, asker: &Asker) {
        self.under_way.lock().remove(&asker.key());
    }

    /// Whoever is told already is not told again.
    pub(super) fn ring(&self) {
        let _ = self.changed.try_send(());
    }

    /// Takes no more requests: those who serve end, after at most one piece of what they are at.
    pub(super) fn close(&self) {
        self.requests.lock().take();
        self.under_way.lock().values_mut().for_each(|is_cancelled| *is_cancelled = true);
    }

    fn put(&self, request: Request) {
        let asker = request.asker;
        self.under_way.lock().insert(asker.key(), false);
        let refused = match &*self.requests.lock() {
            Some(requests) => match requests.try_send(request) {
                Ok(()) => return,
                Err(TrySendError::Full(request) | TrySendError::Disconnected(request)) => request,
            },
            None => request,
        };
        self.done(&asker);
        log(asker.fail_data(&refused.wanted, status::INSUFFICIENT_RESOURCES));
    }

    /// Windows says which request, or only which transfer: it is cancelled where that leaves no doubt.
    fn cancel(&self, asker: &Asker) {
        let mut under_way = self.under_way.lock();
        let mut of_transfer = under_way.keys().filter(|(transfer, _)| *transfer == asker.transfer).copied();
        let only = of_transfer.next().filter(|_| of_transfer.next().is_none());
        let key = if under_way.contains_key(&asker.key()) { Some(asker.key()) } else { only };
        if let Some(is_cancelled) = key.and_then(|key| under_way.get_mut(&key)) {
            *is_cancelled = true;
        }
    }
}

fn log(answer: Answer<()>) {
    if let Err(error) = answer {
        tracing::warn!(%error, "Windows did not take an answer");
    }
}

impl Asker {
    fn key(&self) -> (i64, i64) {
        (self.transfer, self.request)
    }

    fn execute(&self, what: cf::CF_OPERATION_TYPE, parameters: cf::CF_OPERATION_PARAMETERS_0) -> Answer<()> {
        let mut parameters = cf::CF_OPERATION_PARAMETERS {
            ParamSize: size_of::<cf::CF_OPERATION_PARAMETERS>() as u32,
            Anonymous: parameters,
        };
        let operation = cf::CF_OPERATION_INFO {
            StructSize: size_of::<cf::CF_OPERATION_INFO>() as u32,
            Type: what,
            ConnectionKey: self.connection,
            TransferKey: self.transfer,
            CorrelationVector: ptr::null(),
            SyncStatus: ptr::null(),
            RequestKey: self.request,
        };
        // SAFETY: both structures say their sizes and outlive the call, and so does what they point to: callers lend it.
        checked(unsafe { cf::CfExecute(&operation, &mut parameters) })
    }

    /// Hands bytes over: whole blocks, or to the end of the file.
    pub(super) fn data(&self, offset: u64, bytes: &[u8]) -> Answer<()> {
        let part = cf::CF_OPERATION_PARAMETERS_0_0 {
            Flags: cf::CF_OPERATION_TRANSFER_DATA_FLAG_NONE,
            CompletionStatus: status::SUCCESS,
            Buffer: bytes.as_ptr().cast(),
            Offset: offset.cast_signed(),
            Length: bytes.len() as i64,
        };
        self.execute(
            cf::CF_OPERATION_TYPE_TRANSFER_DATA,
            cf::CF_OPERATION_PARAMETERS_0 { TransferData: part },
        )
    }

    /// Says that these bytes do not come.
    pub(super) fn fail_data(&self, range: &Range<u64>, status: i32) -> Answer<()> {
        let part = cf::CF_OPERATION_PARAMETERS_0_0 {
            Flags: cf::CF_OPERATION_TRANSFER_DATA_FLAG_NONE,
            CompletionStatus: status,
            Buffer: ptr::null(),
            Offset: range.start.cast_signed(),
            Length: (range.end - range.start).cast_signed(),
        };
        self.execute(
            cf::CF_OPERATION_TYPE_TRANSFER_DATA,
            cf::CF_OPERATION_PARAMETERS_0 { TransferData: part },
        )
    }

    /// Says how far a transfer is; by it Windows also knows that somebody works on it, and waits on.
    pub(super) fn progress(&self, done: u64, total: u64) {
        // SAFETY: it takes numbers alone.
        let result = unsafe {
            cf::CfReportProviderProgress(
                self.connection,
                self.transfer,
                total.cast_signed(),
                done.cast_signed(),
            )
        };
        if let Err(error) = checked(result) {
            tracing::debug!(%error, "Windows did not take a progress");
        }
    }

    fn acknowledge_removal(&self) -> Answer<()> {
        let part =
            cf::CF_OPERATION_PARAMETERS_0_7 { CompletionStatus: status::SUCCESS, ..Default::default() };
        self.execute(cf::CF_OPERATION_TYPE_ACK_DELETE, cf::CF_OPERATION_PARAMETERS_0 { AckDelete: part })
    }

    fn acknowledge_renaming(&self) -> Answer<()> {
        let part =
            cf::CF_OPERATION_PARAMETERS_0_6 { CompletionStatus: status::SUCCESS, ..Default::default() };
        self.execute(cf::CF_OPERATION_TYPE_ACK_RENAME, cf::CF_OPERATION_PARAMETERS_0 { AckRename: part })
    }

    /// What is in sync is on the machine, so its bytes may go. What is not is refused by Windows before it asks.
    fn acknowledge_freeing(&self, blob: Option<&[u8]>) -> Answer<()> {
        let (status, blob) = match blob {
            Some(blob) => (status::SUCCESS, blob),
            None => (status::DEHYDRATION_DISALLOWED, &[][..]),
        };
        let part = cf::CF_OPERATION_PARAMETERS_0_5 {
            Flags: cf::CF_OPERATION_ACK_DEHYDRATE_FLAG_NONE,
            CompletionStatus: status,
            FileIdentity: blob.as_ptr().cast(),
            FileIdentityLength: blob.len() as u32,
        };
        self.execute(
            cf::CF_OPERATION_TYPE_ACK_DEHYDRATE,
            cf::CF_OPERATION_PARAMETERS_0 { AckDehydrate: part },
        )
    }
}

/// Windows asks us as long as this is there.
pub(super) struct Connection {
    key: cf::CF_CONNECTION_KEY,
    desk: *const Desk,
}

impl Connection {
    pub(super) fn open(path: &Path, desk: &Arc<Desk>) -> Answer<Connection> {
        let (path, mut key) = (wide_path(path), 0);
        let desk = Arc::into_raw(Arc::clone(desk));
        let table = table();
        let flags = cf::CF_CONNECT_FLAG_BLOCK_SELF_IMPLICIT_HYDRATION;
        // SAFETY: the text ends with a zero and the table with its mark; both outlive the call. The desk outlives the connection.
        let result =
            unsafe { cf::CfConnectSyncRoot(path.as_ptr(), table.as_ptr(), desk.cast(), flags, &mut key) };
        let connection = Connection { key, desk };
        if let Err(refusal) = checked(result) {
            connection.release();
            return Err(refusal);
        }
        Ok(connection)
    }

    /// Says how it goes, to Explorer.
    pub(super) fn report(&self, status: cf::CF_SYNC_PROVIDER_STATUS) {
        // SAFETY: it takes numbers alone.
        if let Err(error) = checked(unsafe { cf::CfUpdateSyncProviderStatus(self.key, status) }) {
            tracing::debug!(%error, "Windows did not take a status");
        }
    }

    fn release(self) {
        // SAFETY: it came from `Arc::into_raw`, once, and no callback was or will be made with it.
        drop(unsafe { Arc::from_raw(self.desk) });
        let _not_dropped = std::mem::ManuallyDrop::new(self);
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // SAFETY: it takes a number alone, and returns when no callback runs any more.
        let result = unsafe { cf::CfDisconnectSyncRoot(self.key) };
        match checked(result) {
            // SAFETY: it came from `Arc::into_raw`, once, and nobody is called with it any more.
            Ok(()) => drop(unsafe { Arc::from_raw(self.desk) }),
            // Somebody may still be called: it stays.
            Err(error) => tracing::warn!(%error, "a sync root stays connected"),
        }
    }
}

fn table() -> [cf::CF_CALLBACK_REGISTRATION; 8] {
    let entry =
        |kind, callback: Callback| cf::CF_CALLBACK_REGISTRATION { Type: kind, Callback: Some(callback) };
    [
        entry(cf::CF_CALLBACK_TYPE_FETCH_DATA, fetch_data),
        entry(cf::CF_CALLBACK_TYPE_CANCEL_FETCH_DATA, cancel),
        entry(cf::CF_CALLBACK_TYPE_NOTIFY_DEHYDRATE, free),
        entry(cf::CF_CALLBACK_TYPE_NOTIFY_DELETE, removing),
        entry(cf::CF_CALLBACK_TYPE_NOTIFY_RENAME, renaming),
        entry(cf::CF_CALLBACK_TYPE_NOTIFY_FILE_CLOSE_COMPLETION, done),
        entry(cf::CF_CALLBACK_TYPE_NOTIFY_RENAME_COMPLETION, done),
        cf::CF_CALLBACK_REGISTRATION { Type: cf::CF_CALLBACK_TYPE_NONE, Callback: None },
    ]
}

type Callback = unsafe extern "system" fn(*const cf::CF_CALLBACK_INFO, *const cf::CF_CALLBACK_PARAMETERS);

/// What every callback is told, copied.
struct Asked<'a> {
    desk: &'a Desk,
    asker: Asker,
    number: i64,
    size: u64,
    blob: Vec<u8>,
}

/// Runs a callback's part that is safe. A panic ends there: Windows cannot be unwound into.
///
/// # Safety
///
/// `info` is what Windows has called us with, and this call has not returned.
unsafe fn answer(info: *const cf::CF_CALLBACK_INFO, serve: impl FnOnce(Asked<'_>)) {
    // SAFETY: it is what Windows has called us with.
    let Some(info) = (unsafe { info.as_ref() }) else { return };
    // SAFETY: the context is the desk's address, which outlives the connection, and no callback outlives that.
    let Some(desk) = (unsafe { info.CallbackContext.cast::<Desk>().as_ref() }) else { return };
    let blob = if info.FileIdentity.is_null() {
        Vec::new()
    } else {
        let length = info.FileIdentityLength.min(cf::CF_PLACEHOLDER_MAX_FILE_IDENTITY_LENGTH) as usize;
        // SAFETY: Windows lends so many bytes for the call.
        unsafe { std::slice::from_raw_parts(info.FileIdentity.cast::<u8>(), length) }.to_vec()
    };
    let asker =
        Asker { connection: info.ConnectionKey, transfer: info.TransferKey, request: info.RequestKey };
    let size = u64::try_from(info.FileSize).unwrap_or_default();
    let asked = Asked { desk, asker, number: info.FileId, size, blob };
    if catch_unwind(AssertUnwindSafe(|| serve(asked))).is_err() {
        tracing::error!("a callback of Windows' panicked");
    }
}

unsafe extern "system" fn fetch_data(
    info: *const cf::CF_CALLBACK_INFO,
    parameters: *const cf::CF_CALLBACK_PARAMETERS,
) {
    // SAFETY: for this callback Windows fills this part of the union, for the call.
    let Some(fetch) = (unsafe { parameters.as_ref().map(|all| all.Anonymous.FetchData) }) else { return };
    // SAFETY: these are Windows' own arguments.
    unsafe {
        answer(info, |asked| {
            let start = u64::try_from(fetch.RequiredFileOffset).unwrap_or_default();
            let end = start.saturating_add(u64::try_from(fetch.RequiredLength).unwrap_or_default());
            let wanted = super::translate::blocks(start..end, asked.size);
            let blob = Blob::decode(&asked.blob);
            asked.desk.put(Request { asker: asked.asker, number: asked.number, blob, wanted });
        });
    }
}

unsafe extern "system" fn cancel(info: *const cf::CF_CALLBACK_INFO, _: *const cf::CF_CALLBACK_PARAMETERS) {
    // SAFETY: these are Windows' own arguments.
    unsafe {
        answer(info, |asked| asked.desk.cancel(&asked.asker));
    }
}

unsafe extern "system" fn free(info: *const cf::CF_CALLBACK_INFO, _: *const cf::CF_CALLBACK_PARAMETERS) {
    // SAFETY: these are Windows' own arguments.
    unsafe {
        answer(info, |asked| {
            let is_ours = Blob::decode(&asked.blob).is_some_and(|blob| !blob.content.is_empty());
            log(asked.asker.acknowledge_freeing(is_ours.then_some(&asked.blob)));
        });
    }
}

unsafe extern "system" fn removing(info: *const cf::CF_CALLBACK_INFO, _: *const cf::CF_CALLBACK_PARAMETERS) {
    // SAFETY: these are Windows' own arguments.
    unsafe {
        answer(info, |asked| {
            log(asked.asker.acknowledge_removal());
            asked.desk.ring();
        });
    }
}

unsafe extern "system" fn renaming(info: *const cf::CF_CALLBACK_INFO, _: *const cf::CF_CALLBACK_PARAMETERS) {
    // SAFETY: these are Windows' own arguments.
    unsafe { answer(info, |asked| log(asked.asker.acknowledge_renaming())) };
}

unsafe extern "system" fn done(info: *const cf::CF_CALLBACK_INFO, _: *const cf::CF_CALLBACK_PARAMETERS) {
    // SAFETY: these are Windows' own arguments.
    unsafe { answer(info, |asked| asked.desk.ring()) };
}
