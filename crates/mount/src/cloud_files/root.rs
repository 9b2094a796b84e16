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
use std::sync::mpsc::SyncSender;

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
            Primary: cf::CF_POPULATION_POLICY_FULL,
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
    pub(super) transfer: i64,
    request: i64,
}

/// What Windows asks for.
#[derive(Debug)]
pub(super) enum Request {
    /// Bytes of a file.
    Data { asker: Asker, number: i64, blob: Option<Blob>, wanted: Range<u64> },
    /// What is in a directory.
    Names { asker: Asker, number: i64 },
}

/// What callbacks share with those who serve them.
pub(super) struct Desk {
    pub(super) requests: SyncSender<Request>,
    /// Rings when something may have changed here.
    pub(super) changed: SyncSender<()>,
    /// Transfers that wait or are under way, and whether nobody wants them any more.
    under_way: Mutex<HashMap<i64, bool>>,
}

impl Desk {
    pub(super) fn new(requests: SyncSender<Request>, changed: SyncSender<()>) -> Arc<Desk> {
        Arc::new(Desk { requests, changed, under_way: Mutex::default() })
    }

    pub(super) fn is_cancelled(&self, transfer: i64) -> bool {
        self.under_way.lock().get(&transfer).copied().unwrap_or_default()
    }

    pub(super) fn done(&self, transfer: i64) {
        self.under_way.lock().remove(&transfer);
    }

    /// Whoever is told already is not told again.
    pub(super) fn ring(&self) {
        let _ = self.changed.try_send(());
    }

    fn put(&self, request: Request) {
        let (Request::Data { asker, .. } | Request::Names { asker, .. }) = &request;
        let asker = *asker;
        self.under_way.lock().insert(asker.transfer, false);
        let Err(error) = self.requests.try_send(request) else { return };
        self.done(asker.transfer);
        let (std::sync::mpsc::TrySendError::Full(request)
        | std::sync::mpsc::TrySendError::Disconnected(request)) = error;
        let refused = match request {
            Request::Data { wanted, .. } => asker.fail_data(&wanted, status::INSUFFICIENT_RESOURCES),
            Request::Names { .. } => asker.names(&mut [], status::INSUFFICIENT_RESOURCES),
        };
        log(refused);
    }
}

fn log(answer: Answer<()>) {
    if let Err(error) = answer {
        tracing::warn!(%error, "Windows did not take an answer");
    }
}

impl Asker {
    fn execute(&self, what: cf::CF_OPERATION_TYPE, parameters: cf::CF_OPERATION_PARAMETERS_0) -> Answer<()> {
        self.execute_mut(
            what,
            &mut cf::CF_OPERATION_PARAMETERS {
                ParamSize: size_of::<cf::CF_OPERATION_PARAMETERS>() as u32,
                Anonymous: parameters,
            },
        )
    }

    fn execute_mut(
        &self,
        what: cf::CF_OPERATION_TYPE,
        parameters: &mut cf::CF_OPERATION_PARAMETERS,
    ) -> Answer<()> {
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
        checked(unsafe { cf::CfExecute(&operation, parameters) })
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

    /// Hands over what is in a directory. With it Windows asks no more: from now on it is kept the same.
    pub(super) fn names(&self, names: &mut [cf::CF_PLACEHOLDER_CREATE_INFO], status: i32) -> Answer<()> {
        let part = cf::CF_OPERATION_PARAMETERS_0_4 {
            Flags: cf::CF_OPERATION_TRANSFER_PLACEHOLDERS_FLAG_DISABLE_ON_DEMAND_POPULATION,
            CompletionStatus: status,
            PlaceholderTotalCount: names.len() as i64,
            PlaceholderArray: names.as_mut_ptr(),
            PlaceholderCount: names.len() as u32,
            EntriesProcessed: 0,
        };
        self.execute(
            cf::CF_OPERATION_TYPE_TRANSFER_PLACEHOLDERS,
            cf::CF_OPERATION_PARAMETERS_0 { TransferPlaceholders: part },
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

fn table() -> [cf::CF_CALLBACK_REGISTRATION; 10] {
    let entry =
        |kind, callback: Callback| cf::CF_CALLBACK_REGISTRATION { Type: kind, Callback: Some(callback) };
    [
        entry(cf::CF_CALLBACK_TYPE_FETCH_DATA, fetch_data),
        entry(cf::CF_CALLBACK_TYPE_CANCEL_FETCH_DATA, cancel),
        entry(cf::CF_CALLBACK_TYPE_FETCH_PLACEHOLDERS, fetch_names),
        entry(cf::CF_CALLBACK_TYPE_CANCEL_FETCH_PLACEHOLDERS, cancel),
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
            asked.desk.put(Request::Data { asker: asked.asker, number: asked.number, blob, wanted });
        });
    }
}

unsafe extern "system" fn fetch_names(
    info: *const cf::CF_CALLBACK_INFO,
    _: *const cf::CF_CALLBACK_PARAMETERS,
) {
    // SAFETY: these are Windows' own arguments.
    unsafe {
        answer(info, |asked| asked.desk.put(Request::Names { asker: asked.asker, number: asked.number }));
    }
}

unsafe extern "system" fn cancel(info: *const cf::CF_CALLBACK_INFO, _: *const cf::CF_CALLBACK_PARAMETERS) {
    // SAFETY: these are Windows' own arguments.
    unsafe {
        answer(info, |asked| {
            if let Some(is_cancelled) = asked.desk.under_way.lock().get_mut(&asked.asker.transfer) {
                *is_cancelled = true;
            }
        });
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
