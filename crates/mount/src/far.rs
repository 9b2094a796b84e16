//! A machine as a side of a replica, for the backends that keep two trees the same: [`There`] in the words of the agent's
//! protocol, over any [`Line`]. It is the same on every system.
//!
//! **Where things are.** The agent finds a file by identity and path ([`Place`]); a replica tells of it by identity, its directory's
//! identity and its name. The path in between is known from listings, so a tree has to be looked at, or
//! [learned](Far::learn) from what the replica knows, before anything else is asked. What is not known is
//! [`Refusal::Changed`]: look at it.
//!
//! **Which content.** A version is the file, its size and the time of its last change ([`token`]). Two changes in one tick of the
//! machine's clock may have one time. So a file that was written to in the last [`TICK`] is looked at again behind it, and if that
//! never comes, it has a version that nothing is read or replaced as; and what is sent from here gets a time that lies a tick in
//! the past, which no later write has. A time without a part of a second may be one of a file system that counts whole seconds,
//! or every other one: its tick is [`TICK_OF_SECONDS`].
//!
//! **Nothing is written over.** What is sent becomes a file without a name, is put on the disk, and gets its name when it is
//! whole. A new name is given by `link`, which replaces nothing. Other content for a name takes two steps that can each be
//! looked at afterwards: the new file and the old exchange their names, and what was the old one has to be the version
//! that was expected before it goes; else they exchange their names again. A removal renames first, for the same
//! reason. Only a file system that says that it has no such renaming is asked for a plain one.
//!
//! **What a cut leaves behind** are names that say what they are, in the directory itself:
//!
//! | name | is | then |
//! |---|---|---|
//! | `.stead-removing-VERSION` | that version of a file | it goes |
//! | | another version of it | it is shown: somebody wrote to it meanwhile |
//! | `.stead-sending-VERSION-NEW-NUMBER` | that version of a file, replaced | it goes |
//! | | the version `NEW`: what was to be sent, and is still here | it goes after [`LEFTOVER_AGE`] |
//! | | anything else | it is shown: somebody saved it meanwhile, or wrote to it |
//! | `.stead-sending-new-NUMBER` | as much as was sent of a new file, where files have to have names; it was never another's name | it goes after [`LEFTOVER_AGE`] |
//!
//! `VERSION` is in hexadecimal digits, as are `NEW`, a digest of the new file's version, and `NUMBER`, which is another each time:
//! two computers that send to one tree have two names.
//!
//! What it cannot do: a directory that the machine shows in two places (a bind mount below the root) is seen as one that is being
//! moved, so that nobody is done with looking. A directory that may not be read is shown as empty. Owners other than the agent's
//! user, extended attributes and other names of a file that is replaced from here are not kept.

mod changes;
mod leftovers;
mod line;
mod looking;
mod reading;
pub mod ssh;
#[cfg(test)]
#[cfg(unix)]
mod tests;
mod token;

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use bytes::Bytes;
use vfs::replica::Replica;
use vfs::replica::item::{Entry, Identity, ItemId, Kind, SideName, Token};
use vfs::replica::side::{Answer, At, Refusal};
use wire::agent::file::{self, Caller, FileReply, FileRequest, Place};
use wire::agent::name::{Name, RelativePath};

pub use line::{Ender, Line, LineError, StreamLine};

use reading::OpenFile;
use token::{file_id, identity_of, plain_identity, version_of};

/// Longer than one tick of any kernel's clock of files, which is 10 ms at most.
pub const TICK: Duration = Duration::from_millis(20);

/// The same of file systems whose times have no part of a second. FAT counts every other second.
pub const TICK_OF_SECONDS: Duration = Duration::from_secs(2);

/// How old something unfinished is that nobody goes on with: no file takes so long to send.
pub const LEFTOVER_AGE: Duration = Duration::from_secs(24 * 60 * 60);

/// The deepest directory. A chain that is longer is one of names that are not so any more.
const DEPTH_MAX: usize = 4096;

/// Where each directory of a machine is: in which other one, and its name.
pub type Directories = HashMap<Identity, (Identity, Name)>;

/// The files of one machine below one root.
#[derive(Debug)]
pub struct Far<L> {
    line: L,
    path: Vec<u8>,
    root: Identity,
    /// For whom files are made: the user of the agent.
    caller: Caller,
    /// Whether files can be made for others.
    is_privileged: bool,
    directories: Directories,
    /// What was found of directories that are about to be listed.
    walked: HashMap<Identity, Vec<Entry>>,
    /// All that was there when it was first asked what is gone.
    present: Option<HashSet<Identity>>,
    /// The file that was read last: its next bytes are usually wanted next.
    open: Option<OpenFile>,
}

impl<L: Line> Far<L> {
    /// The files below a directory, absolute or from the home of the agent's user. The line must not have been asked for
    /// anything before.
    pub fn attach(mut line: L, path: &[u8]) -> Result<Far<L>, LineError> {
        let attached = attach(&mut line, path)?;
        Ok(Far {
            line,
            path: path.to_vec(),
            root: attached.root,
            caller: attached.caller,
            is_privileged: attached.is_privileged,
            directories: HashMap::new(),
            walked: HashMap::new(),
            present: None,
            open: None,
        })
    }

    /// Goes on with another line where one is lost. Whether the root is the directory that it was: if not, nothing must be asked.
    pub fn go_on_with(&mut self, mut line: L) -> Result<bool, LineError> {
        let attached = attach(&mut line, &self.path)?;
        (self.line, self.open, self.present) = (line, None, None);
        self.walked.clear();
        (self.caller, self.is_privileged) = (attached.caller, attached.is_privileged);
        Ok(attached.root == self.root)
    }

    /// What the root is known by, for [`Replica::set_root`].
    pub fn root(&self) -> &Identity {
        &self.root
    }

    /// Whom it asks.
    pub fn line(&mut self) -> &mut L {
        &mut self.line
    }

    /// Takes over where a replica has last seen each directory, so that files can be read before the tree is looked at.
    pub fn learn(&mut self, replica: &mut Replica) -> vfs::replica::Result<()> {
        let mut waiting = vec![ItemId::ROOT];
        while let Some(directory) = waiting.pop() {
            for item in replica.children(directory)? {
                if item.kind != Kind::Directory {
                    continue;
                }
                waiting.push(item.id);
                let Some(there) = item.on(SideName::There) else { continue };
                let parent = replica.item(there.parent)?;
                let parent = parent.as_ref().and_then(|parent| parent.on(SideName::There));
                if let (Some(parent), Ok(name)) = (parent, Name::new(&there.name[..])) {
                    self.directories.insert(there.identity.clone(), (parent.identity.clone(), name));
                }
            }
        }
        Ok(())
    }

    /// Takes over from somebody else where directories are.
    pub fn know(&mut self, directories: &Directories) {
        self.directories.clone_from(directories);
    }

    /// A directory with its path, as far as it is known.
    fn directory(&self, directory: &Identity) -> Answer<Place> {
        let id = file_id(directory).ok_or(Refusal::Changed)?;
        let (mut names, mut at) = (Vec::new(), directory);
        while *at != self.root {
            let (parent, name) = self.directories.get(at).ok_or(Refusal::Changed)?;
            names.push(name.as_bytes());
            if names.len() > DEPTH_MAX {
                return Err(Refusal::Changed);
            }
            at = parent;
        }
        names.reverse();
        let path = RelativePath::new(names.join(&b'/'));
        let path = path.map_err(|error| Refusal::Refused(format!("its path on the machine: {error}")))?;
        Ok(Place { id, path })
    }

    /// A file where it is expected to be.
    fn place(&self, at: &At) -> Answer<Place> {
        let id = file_id(&at.identity).ok_or(Refusal::Changed)?;
        Ok(Place { id, path: self.directory(&at.parent)?.path.join(&name(&at.name)?) })
    }

    fn ask(&mut self, request: FileRequest) -> Result<FileReply, LineError> {
        self.ask_with(request, &[]).map(|(reply, _)| reply)
    }

    fn ask_with(&mut self, request: FileRequest, payload: &[u8]) -> Result<(FileReply, Bytes), LineError> {
        self.line.ask(request, payload)
    }

    /// What has a name now.
    fn look_up(&mut self, directory: &Place, name: &Name) -> Result<Option<file::Entry>, LineError> {
        match self.ask(FileRequest::Lookup { directory: directory.clone(), name: name.clone() })? {
            FileReply::Looked { entry, .. } => Ok(entry),
            reply => Err(misanswered(&reply)),
        }
    }

    /// What is at a place if it is the file that is expected there.
    fn expect(&mut self, directory: &Place, at: &At) -> Answer<file::Entry> {
        let found = self.look_up(directory, &name(&at.name)?)?.ok_or(Refusal::Changed)?;
        if Some(found.id) == file_id(&at.identity) { Ok(found) } else { Err(Refusal::Changed) }
    }

    /// The same, with this content.
    fn expect_version(&mut self, directory: &Place, at: &At, version: &Token) -> Answer<file::Entry> {
        let found = self.expect(directory, at)?;
        if version_of(&found) == *version { Ok(found) } else { Err(Refusal::Changed) }
    }
}

struct Attached {
    root: Identity,
    caller: Caller,
    is_privileged: bool,
}

fn attach(line: &mut impl Line, path: &[u8]) -> Result<Attached, LineError> {
    let request = FileRequest::Attach { path: path.to_vec(), read_only: false };
    match line.ask(request, &[])?.0 {
        FileReply::Attached { root, uid, gid, privileged, .. } => Ok(Attached {
            root: plain_identity(&root.id),
            caller: Caller { uid, gid, umask: 0 },
            is_privileged: privileged,
        }),
        reply => Err(misanswered(&reply)),
    }
}

fn misanswered(reply: &FileReply) -> LineError {
    let reply = format!("{reply:?}");
    let name = reply.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
    LineError::Lost(format!("the agent answers {name} to something else"))
}

fn name(bytes: &[u8]) -> Answer<Name> {
    Name::new(bytes).map_err(|error| Refusal::Refused(format!("on the machine: {error}")))
}

/// A file as a replica sees it; `None` of what is not replicated.
fn entry_of(entry: &file::Entry, directory: &Identity, name: &Name) -> Option<Entry> {
    let attributes = &entry.attributes;
    let kind = match attributes.kind {
        file::Kind::Directory => Kind::Directory,
        file::Kind::File => Kind::File,
        file::Kind::Symlink => Kind::Symlink,
        file::Kind::Fifo | file::Kind::Socket | file::Kind::CharDevice | file::Kind::BlockDevice => {
            return None;
        }
    };
    Some(Entry {
        identity: identity_of(entry, directory, name.as_bytes()),
        name: name.as_bytes().into(),
        kind,
        mode: attributes.mode,
        size: if kind == Kind::Directory { 0 } else { attributes.size },
        content: version_of(entry),
        edit: None,
    })
}
