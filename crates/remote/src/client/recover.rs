//! A new session of the agent, made equal to the old one: the export, the open files, the locks; then the mutations of
//! which it is not known whether they were carried out.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use wire::agent::file::{FileId, FileRequest, WriteAt};
use wire::agent::{HandleId, Request, RequestId};

use super::held::{Corrections, HeldFile, HeldLock};
use super::pending::Doubt;
use super::repeat::{Known, Settled, settle};
use super::session::Session;
use super::{AgentClient, CallError, LinkLost};

/// How many requests of the recovery are under way at once: enough for a far machine, and with all that waits for the
/// recovery still fewer than an agent takes.
const AT_ONCE: usize = 32;

/// What could not be had again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Losses {
    /// Open files: what is asked of them fails with `ESTALE`.
    pub files: Vec<HandleId>,
    /// Locks, which others may have now.
    pub locks: Vec<(HandleId, HeldLock)>,
}

/// Why a session could not be made equal to the old one.
#[derive(Debug, thiserror::Error)]
pub(super) enum RecoverError {
    #[error(transparent)]
    Lost(#[from] LinkLost),
    #[error("could not export the tree again: {0}")]
    Export(CallError),
    #[error("the exported path is another directory than it was ({was:?}, and now {now:?})")]
    OtherRoot { was: FileId, now: FileId },
}

/// Exports the tree, opens the files and takes the locks again.
pub(super) async fn hold_again(session: &Arc<Session>) -> Result<Losses, RecoverError> {
    let client = AgentClient::recovering(session);
    let Some(held) = session.held() else { return Ok(Losses::default()) };
    let (export, files) = {
        let held = held.lock();
        (held.export(), held.files())
    };
    let Some(export) = export else { return Ok(Losses::default()) };
    let attached = client.attach(export.path, export.read_only).await.map_err(|error| match error {
        CallError::Lost(lost) => RecoverError::Lost(lost),
        error => RecoverError::Export(error),
    })?;
    if attached.root.id != export.root {
        return Err(RecoverError::OtherRoot { was: export.root, now: attached.root.id });
    }
    let mut losses = Losses::default();
    for files in files.chunks(AT_ONCE) {
        open_again(&client, session, files, &mut losses).await?;
    }
    let gone: HashSet<_> = losses.files.iter().copied().collect();
    for file in files.iter().filter(|file| !gone.contains(&file.handle)) {
        lock_again(&client, session, file, &mut losses).await?;
    }
    Ok(losses)
}

async fn open_again(
    client: &AgentClient,
    session: &Session,
    files: &[HeldFile],
    losses: &mut Losses,
) -> Result<(), LinkLost> {
    let open = |file: &HeldFile| {
        client.call(
            Request::File(FileRequest::Open {
                place: file.place.clone(),
                flags: file.flags,
                handle: file.handle,
                inline_bytes: 0,
            }),
            Bytes::new(),
        )
    };
    let calls: Vec<_> = files.iter().map(open).collect();
    for (file, call) in files.iter().zip(calls) {
        match call.await {
            Ok(_) => {}
            Err(CallError::Lost(lost)) => return Err(lost),
            Err(error) => {
                tracing::warn!(path = ?file.place.path, %error, "an open file could not be opened again");
                losses.files.push(file.handle);
                if let Some(held) = session.held() {
                    held.lock().lose_file(file.handle);
                }
            }
        }
    }
    Ok(())
}

async fn lock_again(
    client: &AgentClient,
    session: &Session,
    file: &HeldFile,
    losses: &mut Losses,
) -> Result<(), LinkLost> {
    for lock in &file.locks {
        match client.lock(file.handle, lock.owner, lock.lock, false).await {
            Ok(()) => {}
            Err(CallError::Lost(lost)) => return Err(lost),
            Err(error) => {
                tracing::warn!(path = ?file.place.path, %error, "a lock could not be had again");
                losses.locks.push((file.handle, *lock));
                if let Some(held) = session.held() {
                    held.lock().lose_lock(file.handle, *lock);
                }
            }
        }
    }
    Ok(())
}

/// Gives back what nobody has any more, before anybody may ask for it again.
pub(super) async fn give_back(session: &Arc<Session>) -> Result<(), LinkLost> {
    let client = AgentClient::recovering(session);
    let Some(held) = session.held() else { return Ok(()) };
    loop {
        // What is not given back over this stream stays owed.
        let Corrections { count, requests } = held.lock().corrections();
        if count == 0 {
            return Ok(());
        }
        for requests in requests.chunks(AT_ONCE) {
            let ask = |request: &Request| client.call(request.clone(), Bytes::new());
            let calls: Vec<_> = requests.iter().map(ask).collect();
            for call in calls {
                match call.await {
                    Ok(_) => {}
                    Err(CallError::Lost(lost)) => return Err(lost),
                    // What is not there need not be given back.
                    Err(error) => tracing::debug!(%error, "what nobody has any more could not be given back"),
                }
            }
        }
        held.lock().corrected(count);
    }
}

/// The writes in doubt, by the handles that they went to.
struct Written(HashMap<HandleId, Vec<(RequestId, u64, Bytes)>>);

impl Written {
    fn of(doubts: &[Doubt]) -> Written {
        let mut written: HashMap<_, Vec<_>> = HashMap::new();
        for Doubt { id, again, .. } in doubts {
            if let Request::File(FileRequest::Write { handle, at: WriteAt::Offset(offset), .. }) =
                &again.request
            {
                written.entry(*handle).or_default().push((*id, *offset, again.payload.clone()));
            }
        }
        Written(written)
    }

    /// Those that were sent behind the making of a file.
    fn behind(&self, making: RequestId, request: &FileRequest) -> Vec<(u64, Bytes)> {
        let FileRequest::Create { handle, .. } = request else { return Vec::new() };
        let writes = self.0.get(handle).into_iter().flatten();
        let behind = writes.filter(|(id, ..)| *id > making);
        behind.map(|(_, offset, bytes)| (*offset, bytes.clone())).collect()
    }
}

/// Settles the mutations in doubt, one after the other: a later one may rest on an earlier.
pub(super) async fn settle_doubts(session: &Arc<Session>) -> Result<(), LinkLost> {
    let client = AgentClient::recovering(session);
    let doubts = session.pending().doubts();
    let written = Written::of(&doubts);
    for Doubt { id, sequence, again } in doubts {
        let Request::File(request) = again.request else { continue };
        let is_inherited = session.is_inherited(sequence);
        let held = session.held();
        let known = held.map(|held| held.lock().known_for(id, &request, is_inherited)).unwrap_or_default();
        let known = Known { written: written.behind(id, &request), ..known };
        let client = client.with_sequence(sequence);
        let Settled { answer, claim } = match settle(&client, request, again.payload, known).await {
            Ok(settled) => settled,
            Err(CallError::Lost(lost)) => return Err(lost),
            Err(error) => Err(error).into(),
        };
        if let (Some(held), Some((file, bytes))) = (held, claim) {
            held.lock().claim(file, bytes);
        }
        // Whoever waited may have gone meanwhile.
        if let Some(entry) = session.pending().take(id)
            && let Err(lost) = session.answer(id, entry, answer, 0)
        {
            session.lose(None, lost);
        }
    }
    Ok(())
}
