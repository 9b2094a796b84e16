//! Small files of one directory, many in one request: all are asked for before the first is waited for.

use std::sync::Arc;

use ::remote::client::{CallError, Looked, Opened, Renamed, TypedCall};
use bytes::Bytes;
use wire::agent::HandleId;
use wire::agent::file::{AttributeChanges, Entry, Kind, OpenFlags, Place, RenameMode};
use wire::agent::name::Name;
use wire::api::file::{
    CHUNK_BYTES_MAX, Content, Done, Each, FILES_MAX, GetMany, GotMany, MadeMany, NewFile, PutMany,
};
use wire::api::machine::{Caller, Machine, Source};
use wire::api::{ErrorKind, ErrorObject};
use wire::bytestring::ByteString;

use super::{
    FarSession, Subject, UNFINISHED, far_caller, finish_later, is_gone, mode_bits, refused, set_time, usage,
};
use crate::rpc::Daemon;
use crate::session::ClientContext;

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
        let is_whole = self.path.is_empty() || self.path.ends_with(b"/");
        [self.path, if is_whole { b"" } else { b"/" }, name.as_bytes()].concat()
    }

    fn shown(&self, name: &ByteString) -> String {
        let path = ByteString::from(self.path_of(name));
        Source::Files { machine: self.machine.clone(), path }.to_string()
    }

    fn refused(&self, name: &ByteString, error: &CallError) -> ErrorObject {
        if is_gone(error) {
            // Whoever asks again is told where it is now.
            self.session.forget(self.path);
        }
        refused(self.what, &self.shown(name), error)
    }

    fn conflict(&self, name: &ByteString, why: &str) -> ErrorObject {
        let message = format!("could not {} `{}` with others: {why}", self.what, self.shown(name));
        ErrorObject::new(ErrorKind::Conflict, message)
    }

    fn name(&self, name: &ByteString) -> Result<Name, ErrorObject> {
        Name::new(name.as_bytes())
            .map_err(|error| usage(format!("could not {} `{}`: {error}", self.what, self.shown(name))))
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
    let looked: Vec<_> = get.names.iter().map(|name| look(&within, name)).collect();
    let mut opened = Vec::with_capacity(looked.len());
    let mut left = CHUNK_BYTES_MAX as u64;
    for (name, looking) in get.names.iter().zip(looked) {
        opened.push(match looking {
            Ok((far_name, looking)) => {
                let entry = looking.await.map_err(|error| within.refused(name, &error));
                entry.and_then(|looked| open(&within, (name, &far_name), looked.entry, &mut left))
            }
            Err(error) => Err(error),
        });
    }
    let mut files = Vec::with_capacity(opened.len());
    for (name, opening) in get.names.iter().zip(opened) {
        files.push(each(match opening {
            Ok(opening) => opening.content(&within, name).await,
            Err(error) => Err(error),
        }));
    }
    Ok(GotMany { files })
}

fn look(within: &Within<'_>, name: &ByteString) -> Result<(Name, TypedCall<Looked>), ErrorObject> {
    let far_name = within.name(name)?;
    let looking = within.session.client().lookup(within.place.clone(), far_name.clone());
    Ok((far_name, looking))
}

/// A file that is being opened, with all that is in it.
struct Opening {
    far: HandleId,
    opening: TypedCall<Opened>,
}

/// Opens one that was looked up, if it is small enough for what may be sent with the others.
fn open(
    within: &Within<'_>,
    (name, far_name): (&ByteString, &Name),
    entry: Option<Entry>,
    left: &mut u64,
) -> Result<Opening, ErrorObject> {
    let Some(entry) = entry else {
        let message = format!("could not {} `{}`: there is no such file", within.what, within.shown(name));
        return Err(ErrorObject::new(ErrorKind::NotFound, message));
    };
    if entry.attributes.kind != Kind::File {
        return Err(within.conflict(name, "it is not a regular file"));
    }
    let Some(rest) = left.checked_sub(entry.attributes.size) else {
        return Err(within.conflict(name, &format!("they have more than {CHUNK_BYTES_MAX} bytes")));
    };
    *left = rest;
    let flags = OpenFlags { read: true, ..OpenFlags::default() };
    let client = within.session.client();
    let far = client.new_handle();
    let place = Place { id: entry.id, path: within.place.path.join(far_name) };
    // One that has grown since is not whole, and does not take the others' room.
    let opening = client.open(place, flags, far, entry.attributes.size as u32);
    Ok(Opening { far, opening })
}

impl Opening {
    async fn content(self, within: &Within<'_>, name: &ByteString) -> Result<Content, ErrorObject> {
        let opened = self.opening.await.map_err(|error| within.refused(name, &error))?;
        finish_later(within.session.client().close(self.far));
        match opened.whole {
            true => Ok(Content(opened.content.into())),
            false => Err(within.conflict(name, "it changes")),
        }
    }
}

/// `file.put_many`
pub async fn put(daemon: &Daemon, context: &ClientContext, put: PutMany) -> Result<MadeMany, ErrorObject> {
    check_count(put.files.len())?;
    if put.files.iter().map(|file| file.content.0.len()).sum::<usize>() > CHUNK_BYTES_MAX {
        return Err(usage(format!("at most {CHUNK_BYTES_MAX} bytes are written at once")));
    }
    let subject = Subject::new(daemon, context, "write", &put.directory, &put.caller)?;
    let within = Within::find(&subject).await?;
    let making: Vec<_> =
        put.files.into_iter().map(|file| Making::begin(&within, file, &put.caller)).collect();
    let mut naming = Vec::with_capacity(making.len());
    for making in making {
        naming.push(match making {
            Ok(making) => making.made(&within).await,
            Err(error) => Err(error),
        });
    }
    let mut files = Vec::with_capacity(naming.len());
    for naming in naming {
        files.push(each(match naming {
            Ok(naming) => naming.named(&within).await,
            Err(error) => Err(error),
        }));
    }
    Ok(MadeMany { files })
}

/// A file that is being made under the name beside its own.
struct Making {
    name: ByteString,
    far_name: Name,
    beside: Name,
    making: TypedCall<Entry>,
}

impl Making {
    fn begin(within: &Within<'_>, file: NewFile, caller: &Caller) -> Result<Making, ErrorObject> {
        let NewFile { name, beside, mode, modified, content } = file;
        let (far_name, beside) = (within.name(&name)?, within.name(&beside)?);
        let modified = set_time(modified)?;
        let changes =
            AttributeChanges { mode: Some(mode_bits(mode)), modified, ..AttributeChanges::default() };
        let (place, caller, content) = (within.place.clone(), far_caller(caller), Bytes::from(content.0));
        let client = within.session.client();
        let making = client.put(place, beside.clone(), UNFINISHED, changes, false, false, caller, content);
        Ok(Making { name, far_name, beside, making })
    }

    async fn made(self, within: &Within<'_>) -> Result<Naming, ErrorObject> {
        let Making { name, far_name, beside, making } = self;
        making.await.map_err(|error| within.refused(&name, &error))?;
        let place = || within.place.clone();
        let client = within.session.client();
        let naming = client.rename(place(), beside.clone(), place(), far_name, RenameMode::Replace);
        Ok(Naming { name, beside, naming })
    }
}

/// A file that is complete, and gets its name.
struct Naming {
    name: ByteString,
    beside: Name,
    naming: TypedCall<Renamed>,
}

impl Naming {
    async fn named(self, within: &Within<'_>) -> Result<Done, ErrorObject> {
        if let Err(error) = self.naming.await {
            // What keeps it from being removed is what keeps it from being named.
            let _left = within.session.client().unlink(within.place.clone(), self.beside).await;
            return Err(within.refused(&self.name, &error));
        }
        within.session.forget(&within.path_of(&self.name));
        Ok(Done {})
    }
}
