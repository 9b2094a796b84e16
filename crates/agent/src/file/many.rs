//! Several small files of one directory in one request: the directory is found once, and nothing is said beside their contents.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::io::Errno;
use wire::agent::file::{Caller, FILES_MAX, FileReply, Kind, NewFile, OpenFlags, Place};
use wire::agent::name::Name;
use wire::frame::PAYLOAD_BYTES_MAX;

use crate::export::Why;
use crate::failure::number;
use crate::file::Making;
use crate::file::content::{PutHow, handle_of, read_whole, remove_if_still};
use crate::file::names::open_regular;
use crate::session::{Replied, Session, plain};
use crate::stat;

/// How each is made: its name beside the final one is the copy's own, and what is there is what an earlier one has left.
const FLAGS: OpenFlags = OpenFlags {
    read: false,
    write: true,
    append: false,
    truncate: true,
    sync: false,
    direct: false,
    exclusive: false,
};

impl Session {
    pub(crate) fn put_many(
        &self,
        place: &Place,
        files: &[NewFile],
        caller: &Caller,
        payload: &[u8],
    ) -> Replied {
        let bytes: u64 = files.iter().map(|file| u64::from(file.bytes)).sum();
        if files.len() > FILES_MAX || bytes != payload.len() as u64 {
            return Err(Errno::INVAL);
        }
        let directory = self.export_to_change()?.directory(place)?;
        let mut failures = Vec::with_capacity(files.len());
        let mut rest = payload;
        for file in files {
            let (content, behind) = rest.split_at(file.bytes as usize);
            rest = behind;
            failures.push(self.put_named(&directory, file, caller, content).err().map(number));
        }
        plain(FileReply::MadeMany { failures })
    }

    /// Makes one of them beside its name, and gives it that.
    fn put_named(
        &self,
        directory: &OwnedFd,
        new: &NewFile,
        caller: &Caller,
        content: &[u8],
    ) -> Result<(), Errno> {
        let making = Making { mode: new.mode, caller: *caller };
        let (file, _) = self.create_or_open(directory, &new.beside, making, FLAGS)?;
        let entry = stat::entry_of_open(&file)?;
        let handle = Arc::new(handle_of(file, &entry, FLAGS));
        let how = PutHow { making, exclusive: false, sync: false };
        let named = self.fill(&handle, how, &new.changes, content).and_then(|_| {
            let replaced = open_regular(directory, &new.name);
            rustix::fs::renameat(directory, new.beside.as_bytes(), directory, new.name.as_bytes())?;
            if let Some((id, file)) = replaced {
                self.export()?.keep(id, file, Why::Replaced);
            }
            Ok(())
        });
        if named.is_err() {
            remove_if_still(directory, &new.beside, &handle);
        }
        named
    }

    pub(crate) fn get_many(&self, place: &Place, names: &[Name], bytes_max: u32) -> Replied {
        if names.len() > FILES_MAX {
            return Err(Errno::INVAL);
        }
        let directory = self.export()?.directory(place)?;
        let room = bytes_max.min(PAYLOAD_BYTES_MAX) as usize;
        let mut payload = Vec::new();
        let mut files = Vec::with_capacity(names.len());
        for name in names {
            let content = read_small(&directory, name, room - payload.len());
            files.push(match content {
                Ok(content) => {
                    payload.extend_from_slice(&content);
                    Ok(content.len() as u32)
                }
                Err(errno) => Err(number(errno)),
            });
        }
        Ok((FileReply::GotMany { files }, payload))
    }
}

fn read_small(directory: &OwnedFd, name: &Name, room: usize) -> Result<Vec<u8>, Errno> {
    let entry = stat::entry_at(directory, name.as_bytes())?;
    match entry.attributes.kind {
        Kind::File if entry.attributes.size <= room as u64 => read_whole(directory, name, &entry),
        Kind::File => Err(Errno::FBIG),
        _ => Err(Errno::MEDIUMTYPE),
    }
}
