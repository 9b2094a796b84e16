//! Small files of one directory, many in one request, of the client's as of the machine's: one round trip for all of them.

use std::sync::Arc;

use ::remote::client::CallError;
use bytes::BytesMut;
use wire::agent::Errno as FarErrno;
use wire::agent::file::{AttributeChanges, NewFile as FarFile, Place};
use wire::agent::name::Name;
use wire::api::file::{
    CHUNK_BYTES_MAX, Content, Done, Each, FILES_MAX, FileTime, GetMany, GotMany, MadeMany, NewFile, PutMany,
};
use wire::api::machine::{Machine, Source};
use wire::api::{ErrorKind, ErrorObject};
use wire::bytestring::ByteString;

use super::{
    FarSession, Subject, UNFINISHED, far_caller, is_gone, joined, mode_bits, refused, set_time, usage,
};
use crate::failure::from_io;
use crate::rpc::Daemon;
use crate::session::ClientContext;

/// What a machine has said of a file that it has said nothing of.
const UNANSWERED: FarErrno = FarErrno(71);

/// A file that does not fit with those before.
const TOO_MUCH: FarErrno = FarErrno(27);

/// The directory that the files are in, and what is done with them there.
struct Within<'a> {
    what: &'static str,
    machine: &'a Machine,
    path: &'a [u8],
    session: Arc<FarSession>,
    place: Place,
}

impl<'a> Within<'a> {
    async fn find(subject: &Subject<'a>) -> Result<Within<'a>, ErrorObject> {
        let session = subject.session().await?;
        let (directory, _) = subject.directory(&session, subject.path).await?;
        let Subject { what, machine, path, .. } = *subject;
        Ok(Within { what, machine, path, session, place: directory.place })
    }

    fn path_of(&self, name: &ByteString) -> Vec<u8> {
        joined(self.path, name.as_bytes())
    }

    fn shown(&self, name: &ByteString) -> String {
        let path = ByteString::from(self.path_of(name));
        Source::Files { machine: self.machine.clone(), path }.to_string()
    }

    /// The machine has refused all of it: because of the directory.
    fn refused(&self, error: &CallError) -> ErrorObject {
        if is_gone(error) {
            // Whoever asks again is told where it is now.
            self.session.forget(self.path);
        }
        let path = ByteString::from(self.path);
        let directory = Source::Files { machine: self.machine.clone(), path };
        refused(&format!("{} files in", self.what), &directory.to_string(), error)
    }

    /// The machine has refused one of the files, and the number means what it always does.
    fn failed(&self, name: &ByteString, errno: FarErrno) -> ErrorObject {
        from_io(&format!("could not {} `{}`", self.what, self.shown(name)), &::remote::errno::here(errno))
    }

    /// The machine has not read one of the files.
    fn unread(&self, name: &ByteString, errno: FarErrno) -> ErrorObject {
        match why_unread(errno) {
            Some(why) => {
                let message = format!("could not {} `{}` with others: {why}", self.what, self.shown(name));
                ErrorObject::new(ErrorKind::Conflict, message)
            }
            None => self.failed(name, errno),
        }
    }

    fn name(&self, name: &ByteString) -> Result<Name, ErrorObject> {
        Name::new(name.as_bytes())
            .map_err(|error| usage(format!("could not {} `{}`: {error}", self.what, self.shown(name))))
    }
}

/// What [`FileRequest::GetMany`](wire::agent::file::FileRequest::GetMany) alone means by some numbers.
fn why_unread(errno: FarErrno) -> Option<String> {
    const EAGAIN: FarErrno = FarErrno(11);
    const EMEDIUMTYPE: FarErrno = FarErrno(124);
    match errno {
        EMEDIUMTYPE => Some("it is not a regular file".to_owned()),
        EAGAIN => Some("it changes".to_owned()),
        TOO_MUCH => Some(format!("they have more than {CHUNK_BYTES_MAX} bytes")),
        _ => None,
    }
}

fn each<T>(outcome: Result<T, ErrorObject>) -> Each<T> {
    match outcome {
        Ok(done) => Each::Done(done),
        Err(error) => Each::Failed(error),
    }
}

fn check_count(count: usize) -> Result<(), ErrorObject> {
    match count > FILES_MAX {
        true => Err(usage(format!("at most {FILES_MAX} files are read or made at once"))),
        false => Ok(()),
    }
}

/// `file.get_many`
pub async fn get(daemon: &Daemon, context: &ClientContext, get: GetMany) -> Result<GotMany, ErrorObject> {
    check_count(get.names.len())?;
    let subject = Subject::new(daemon, context, "read", &get.directory, &get.caller)?;
    let within = Within::find(&subject).await?;
    let asked: Vec<_> = get.names.iter().map(|name| within.name(name)).collect();
    let far_names = asked.iter().filter_map(|name| name.as_ref().ok().cloned()).collect();
    let client = within.session.client();
    let got = client.get_many(within.place.clone(), far_names, CHUNK_BYTES_MAX as u32).await;
    let mut got = got.map_err(|error| within.refused(&error))?.files.into_iter();
    let mut left = CHUNK_BYTES_MAX;
    let files = get.names.iter().zip(asked).map(|(name, asked)| {
        asked?;
        let content = got.next().unwrap_or(Err(UNANSWERED)).map_err(|errno| within.unread(name, errno))?;
        // A machine that sends more than it was asked for must not fill this one's memory.
        left = left.checked_sub(content.len()).ok_or_else(|| within.unread(name, TOO_MUCH))?;
        Ok(Content(content.into()))
    });
    Ok(GotMany { files: files.map(each).collect() })
}

/// `file.put_many`
pub async fn put(daemon: &Daemon, context: &ClientContext, put: PutMany) -> Result<MadeMany, ErrorObject> {
    check_count(put.files.len())?;
    let bytes = put.files.iter().map(|file| file.content.0.len()).sum::<usize>();
    if bytes > CHUNK_BYTES_MAX {
        return Err(usage(format!("at most {CHUNK_BYTES_MAX} bytes are written at once")));
    }
    let subject = Subject::new(daemon, context, "write", &put.directory, &put.caller)?;
    let within = Within::find(&subject).await?;
    let (mut asked, mut far_files) = (Vec::with_capacity(put.files.len()), Vec::new());
    let mut contents = BytesMut::with_capacity(bytes);
    for NewFile { name, beside, mode, modified, content } in put.files {
        let far = far_file(&within, (&name, &beside), (mode, modified), content.0.len());
        asked.push((name, far.as_ref().map(drop).map_err(Clone::clone)));
        if let Ok(far) = far {
            far_files.push(far);
            contents.extend_from_slice(&content.0);
        }
    }
    let (client, caller) = (within.session.client(), far_caller(&put.caller));
    let made = client.put_many(within.place.clone(), far_files, caller, contents.freeze()).await;
    // What had such a name may have led to a directory.
    within.session.forget_in(within.path, &asked.iter().map(|(name, _)| name.as_bytes()).collect());
    let mut failures = made.map_err(|error| within.refused(&error))?.failures.into_iter();
    let files = asked.into_iter().map(|(name, asked)| {
        asked?;
        match failures.next().unwrap_or(Some(UNANSWERED)) {
            Some(errno) => Err(within.failed(&name, errno)),
            None => Ok(Done {}),
        }
    });
    Ok(MadeMany { files: files.map(each).collect() })
}

/// What the machine is asked for, to make one of them.
fn far_file(
    within: &Within<'_>,
    (name, beside): (&ByteString, &ByteString),
    (mode, modified): (u32, Option<FileTime>),
    bytes: usize,
) -> Result<FarFile, ErrorObject> {
    let (name, beside) = (within.name(name)?, within.name(beside)?);
    let modified = set_time(modified)?;
    let changes = AttributeChanges { mode: Some(mode_bits(mode)), modified, ..AttributeChanges::default() };
    Ok(FarFile { name, beside, mode: UNFINISHED, changes, bytes: bytes as u32 })
}
