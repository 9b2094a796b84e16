//! A tree of a machine's, through the daemon's API.
//!
//! The API goes by paths, a [catalogue](vfs::replica::catalogue) by identity: so each file is asked for before it is changed, and what
//! cannot be done at a path without a moment in between is done in steps that lose nothing if somebody else is there in that moment:
//!
//! - *Making*: under a [name of a moment](SENDING), then renamed where nothing is yet.
//! - *Replacing*: the new file, under such a name, changes places with the old one. If what has come out is not the old version, they change
//!   places again.
//! - *Removing*: renamed to such a name. If that is not the old version, it is renamed back.
//!
//! Whoever dies in between leaves a file with such a name. It is shown as any other, for it may have bytes that are nowhere else;
//! only those that this process is at work with are not.
//!
//! | | bytes, little endian |
//! |---|---|
//! | identity | device (8), inode (8), time of birth (8); of a file with several names also FNV-1a of its directory's identity and its name (16) |
//! | content version | inode (8), time of birth (8), length (8), last change of content: seconds (8), nanoseconds (4) |
//!
//! So two contents are one version if they have one length and the same time of change in one file, as make, rsync and git have it.
//! The device is no part of a version, for it may have another number when the machine has started again.
//!
//! What is sent is known by the version that it got under its name of a moment, not by what is there once it has its own: by then
//! somebody may have written to it. Its time of change is set a [`TICK`] into the past, so that whoever writes to it next, be it in
//! the same tick of the machine's clock, makes another version of it.

use std::collections::HashMap;
use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

use vfs::replica::catalogue;
use vfs::replica::item::{self, Identity, Kind, Token};
use vfs::replica::side::{Answer, At, Facts, Refusal, Side, There};
use wire::api::file::{
    CHUNK_BYTES_MAX, Close, Content, Creation, Entry, FileKind, FileTime, Links, List, MakeDirectory,
    MakeLink, Open, OpenDirectory, Progress, Purpose, Read, Remove, Rename, SetAttributes, Stat, Sync, Taken,
    Write,
};
use wire::api::id::HandleId;
use wire::api::machine::{Caller, Machine as MachineName, Source};
use wire::api::{ErrorKind, ErrorObject};
use wire::bytestring::ByteString;

use crate::client::Client;

/// How the names of a moment begin; a number in hexadecimal follows.
pub const SENDING: &[u8] = b".stead-sending-";

/// Chunks under way at once: four megabytes of content, with which a link of 100 MB/s and 40 ms is full.
const CHUNKS_MAX: usize = 16;

/// The most directories whose paths are remembered: those of the request under way matter, the rest saves nothing but telling again.
const PLACES_MAX: usize = 10_000;

/// The most links whose targets are remembered, for the listings in which they came.
const TARGETS_MAX: usize = 10_000;

/// Longer than one tick of any kernel's clock of files, which is 10 ms at most.
const TICK: Duration = Duration::from_millis(20);

/// How many bytes say which file it is: device, inode, birth.
const FILE_ID_BYTES: usize = 24;

/// The longest target of a link.
const TARGET_BYTES_MAX: usize = 4096;

/// A tree, from one directory of a machine down.
pub struct Machine {
    client: Client,
    machine: MachineName,
    root: Vec<u8>,
    caller: Caller,
    places: HashMap<Identity, Vec<u8>>,
    targets: HashMap<Token, Vec<u8>>,
    /// Names of a moment of this process.
    sending: Vec<Vec<u8>>,
    last: u64,
}

impl Machine {
    /// What `source` names. None if that is no tree of files.
    pub fn new(socket: &Path, source: &Source, caller: Caller) -> Option<Machine> {
        let Source::Files { machine, path } = source else { return None };
        Some(Machine {
            client: Client::new(socket),
            machine: machine.clone(),
            root: path.as_bytes().to_vec(),
            caller,
            places: HashMap::new(),
            targets: HashMap::new(),
            sending: Vec::new(),
            last: u64::from(std::process::id()) << 32,
        })
    }

    /// What the root is known by.
    pub fn root(&mut self) -> Answer<Identity> {
        let root = self.root.clone();
        Ok(plain_identity(&self.stat_followed(&root)?))
    }

    fn source(&self, path: &[u8]) -> Answer<Source> {
        Source::files(self.machine.clone(), ByteString::from(path))
            .map_err(|error| Refusal::Refused(error.to_string()))
    }

    fn stat_followed(&mut self, path: &[u8]) -> Answer<Entry> {
        let stat = Stat { source: self.source(path)?, links: Links::Follow, caller: self.caller.clone() };
        self.client.call(stat).map_err(|error| refusal(&error))
    }

    fn stat(&mut self, path: &[u8]) -> Answer<Entry> {
        let stat = Stat { source: self.source(path)?, links: Links::Keep, caller: self.caller.clone() };
        self.client.call(stat).map_err(|error| refusal(&error))
    }

    /// Where a directory is, if it still is.
    fn directory(&mut self, identity: &Identity) -> Answer<Vec<u8>> {
        let path = self.places.get(identity).cloned().ok_or(Refusal::Changed)?;
        let entry = self.stat_followed(&path)?;
        if plain_identity(&entry) == *identity { Ok(path) } else { Err(Refusal::Changed) }
    }

    /// Where a file is, if it still is.
    fn find(&mut self, at: &At) -> Answer<(Vec<u8>, Vec<u8>, Entry)> {
        let directory = self.directory(&at.parent)?;
        let path = join(&directory, &at.name);
        let entry = self.stat(&path)?;
        if identity_of(&entry, &at.parent, &at.name) != at.identity {
            return Err(Refusal::Changed);
        }
        Ok((directory, path, entry))
    }

    fn entry(&mut self, entry: &Entry, directory: &Identity, name: &[u8]) -> Option<item::Entry> {
        let kind = match entry.kind {
            FileKind::File => Kind::File,
            FileKind::Directory => Kind::Directory,
            FileKind::Link => Kind::Symlink,
            FileKind::Fifo | FileKind::Socket | FileKind::CharacterDevice | FileKind::BlockDevice => {
                return None;
            }
        };
        let content = if kind == Kind::Directory { Token::default() } else { version(entry) };
        if let Some(target) = &entry.target
            && self.targets.len() < TARGETS_MAX
        {
            self.targets.insert(content.clone(), target.as_bytes().to_vec());
        }
        Some(item::Entry {
            identity: identity_of(entry, directory, name),
            name: name.into(),
            kind,
            mode: (entry.mode & 0o7777) as u16,
            size: if kind == Kind::Directory { 0 } else { entry.size },
            content,
            edit: None,
        })
    }

    /// What is under a name now, of which no content was sent.
    fn made(&mut self, directory: &Identity, path: &[u8], name: &[u8]) -> Answer<item::Entry> {
        let entry = self.stat(path)?;
        self.entry(&entry, directory, name).ok_or(Refusal::Changed)
    }

    fn rename_to(&mut self, from: &[u8], to: &[u8], taken: Taken) -> Answer<()> {
        let (source, to) = (self.source(from)?, self.source(to)?);
        let rename = Rename { source, to, taken, caller: self.caller.clone() };
        self.client.call(rename).map(drop).map_err(|error| refusal(&error))
    }

    fn remove_at(&mut self, path: &[u8]) -> Answer<()> {
        let remove = Remove { source: self.source(path)?, caller: self.caller.clone() };
        self.client.call(remove).map(drop).map_err(|error| refusal(&error))
    }

    /// Does something with a name of a moment, which is not shown meanwhile.
    fn for_a_moment<T>(&mut self, work: impl FnOnce(&mut Machine, &[u8]) -> Answer<T>) -> Answer<T> {
        self.last += 1;
        let name = [SENDING, format!("{:016x}", self.last).as_bytes()].concat();
        self.sending.push(name.clone());
        let answer = work(self, &name);
        self.sending.retain(|other| *other != name);
        answer
    }

    /// Writes a file that is not there yet: as it is then. One that could not be written to its end does not stay.
    fn send(&mut self, path: &[u8], mode: u16, content: &mut dyn std::io::Read) -> Answer<Entry> {
        let purpose = Purpose::Write { create: Creation::New, mode: u32::from(mode) };
        let open = Open { source: self.source(path)?, purpose, caller: self.caller.clone() };
        let opened = self.client.call(open).map_err(|error| refusal(&error))?;
        let sent = self.send_all(opened.handle, content);
        let closed = self.client.call(Close { handle: opened.handle }).map_err(|error| refusal(&error));
        let answer = sent.and_then(|length| closed.and_then(|_| self.complete(path, mode, length)));
        if answer.is_err() {
            // The name of a moment is nobody's: one that stays is found by whoever lists the directory.
            let _removed = self.remove_at(path);
        }
        answer
    }

    /// Gives what was sent its permissions, and a time of change at which nobody has written to it.
    fn complete(&mut self, path: &[u8], mode: u16, length: u64) -> Answer<Entry> {
        let written = self.stat(path)?;
        let entry = self.set_attributes(path, mode, Some(earlier(written.modified)))?;
        if entry.size != length { Err(Refusal::Changed) } else { Ok(entry) }
    }

    /// Sends everything: how many bytes that was.
    fn send_all(&mut self, handle: HandleId, content: &mut dyn std::io::Read) -> Answer<u64> {
        let mut tickets = std::collections::VecDeque::new();
        let mut offset = 0;
        loop {
            let mut chunk = Vec::new();
            let read = content.take(CHUNK_BYTES_MAX as u64).read_to_end(&mut chunk);
            read.map_err(|error| Refusal::Refused(format!("could not read what is to be sent: {error}")))?;
            if chunk.is_empty() {
                break;
            }
            let length = chunk.len() as u64;
            let write = Write { handle, offset, content: Content(chunk) };
            tickets.push_back(self.client.send(write).map_err(|error| refusal(&error))?);
            offset += length;
            if tickets.len() >= CHUNKS_MAX
                && let Some(ticket) = tickets.pop_front()
            {
                self.client.wait(ticket).map_err(|error| refusal(&error))?;
            }
        }
        for ticket in tickets {
            self.client.wait(ticket).map_err(|error| refusal(&error))?;
        }
        self.client.call(Sync { handle }).map(|_| offset).map_err(|error| refusal(&error))
    }

    fn set_permissions(&mut self, path: &[u8], mode: u16) -> Answer<Entry> {
        self.set_attributes(path, mode, None)
    }

    fn set_attributes(&mut self, path: &[u8], mode: u16, modified: Option<FileTime>) -> Answer<Entry> {
        let change = SetAttributes {
            source: self.source(path)?,
            links: Links::Keep,
            mode: Some(u32::from(mode)),
            size: None,
            modified,
            accessed: None,
            caller: self.caller.clone(),
        };
        self.client.call(change).map_err(|error| refusal(&error))
    }

    /// Opens a file of this version for reading, does something with it, and closes it.
    fn with_open<T>(
        &mut self,
        at: &At,
        content: &Token,
        work: impl FnOnce(&mut Client, HandleId) -> Answer<T>,
    ) -> Answer<T> {
        let (_, path, _) = self.find(at)?;
        let open = Open { source: self.source(&path)?, purpose: Purpose::Read, caller: self.caller.clone() };
        let opened = self.client.call(open).map_err(|error| refusal(&error))?;
        let answer = if version(&opened.entry) == *content {
            work(&mut self.client, opened.handle)
        } else {
            Err(Refusal::Changed)
        };
        self.client.call(Close { handle: opened.handle }).map_err(|error| refusal(&error))?;
        // What was written to meanwhile may be read in part as it was, and in part as it is.
        if answer.is_ok() && version(&self.stat(&path)?) != *content {
            return Err(Refusal::Changed);
        }
        answer
    }

    fn target(&mut self, at: &At, content: &Token) -> Answer<Vec<u8>> {
        if let Some(target) = self.targets.get(content) {
            return Ok(target.clone());
        }
        let (_, _, entry) = self.find(at)?;
        match entry.target.as_ref().filter(|_| version(&entry) == *content) {
            Some(target) => Ok(target.as_bytes().to_vec()),
            None => Err(Refusal::Changed),
        }
    }

    fn list_all(&mut self, handle: HandleId) -> Answer<Vec<Entry>> {
        let mut entries = Vec::new();
        loop {
            let listed = self.client.call(List { handle }).map_err(|error| refusal(&error))?;
            entries.extend(listed.entries);
            if listed.progress == Progress::End {
                return Ok(entries);
            }
        }
    }
}

impl catalogue::Machine for Machine {
    fn place(&mut self, directory: &Identity, path: &[Box<[u8]>]) {
        if self.places.len() >= PLACES_MAX {
            self.places.clear();
        }
        let path = path.iter().fold(self.root.clone(), |path, name| join(&path, name));
        self.places.insert(directory.clone(), path);
    }
}

impl Side for Machine {
    fn list(&mut self, directory: &Identity) -> Answer<Vec<item::Entry>> {
        let path = self.places.get(directory).cloned().ok_or(Refusal::Changed)?;
        let open = OpenDirectory { source: self.source(&path)?, caller: self.caller.clone() };
        let opened = self.client.call(open).map_err(|error| refusal(&error))?;
        let listed = match plain_identity(&opened.entry) == *directory {
            true => self.list_all(opened.handle),
            false => Err(Refusal::Changed),
        };
        self.client.call(Close { handle: opened.handle }).map_err(|error| refusal(&error))?;
        if self.targets.len() >= TARGETS_MAX {
            self.targets.clear();
        }
        let mut entries: Vec<item::Entry> = Vec::new();
        for entry in listed? {
            let name = entry.name.as_bytes().to_vec();
            if !self.sending.contains(&name) {
                entries.extend(self.entry(&entry, directory, &name));
            }
        }
        Ok(entries)
    }

    fn is_gone(&mut self, _: &Identity) -> Answer<bool> {
        Ok(true)
    }

    fn make_directory(&mut self, parent: &Identity, name: &[u8], mode: u16) -> Answer<item::Entry> {
        let path = join(&self.directory(parent)?, name);
        let make =
            MakeDirectory { source: self.source(&path)?, mode: u32::from(mode), caller: self.caller.clone() };
        self.client.call(make).map_err(|error| refusal(&error))?;
        self.set_permissions(&path, mode)?;
        self.made(parent, &path, name)
    }

    fn rename(&mut self, from: &At, parent: &Identity, name: &[u8]) -> Answer<item::Entry> {
        let (_, path, _) = self.find(from)?;
        let to = join(&self.directory(parent)?, name);
        self.rename_to(&path, &to, Taken::Kept)?;
        let entry = self.stat(&to)?;
        if from.identity.get(..FILE_ID_BYTES) != Some(&plain_identity(&entry)[..]) {
            return Err(Refusal::Changed);
        }
        self.entry(&entry, parent, name).ok_or(Refusal::Changed)
    }

    fn set_mode(&mut self, at: &At, mode: u16) -> Answer<item::Entry> {
        let (_, path, entry) = self.find(at)?;
        if entry.kind == FileKind::Link {
            return Err(Refusal::Refused("a symbolic link has no permissions of its own".to_owned()));
        }
        self.set_permissions(&path, mode)?;
        self.made(&at.parent, &path, &at.name)
    }

    fn remove(&mut self, at: &At, content: &Token, _: Option<&Token>) -> Answer<()> {
        let (directory, path, entry) = self.find(at)?;
        if entry.kind == FileKind::Directory {
            return self.remove_at(&path);
        }
        if version(&entry) != *content {
            return Err(Refusal::Changed);
        }
        self.for_a_moment(|machine, name| {
            let aside = join(&directory, name);
            machine.rename_to(&path, &aside, Taken::Kept)?;
            if version(&machine.stat(&aside)?) == *content {
                return machine.remove_at(&aside);
            }
            machine.rename_to(&aside, &path, Taken::Kept)?;
            Err(Refusal::Changed)
        })
    }
}

impl There for Machine {
    fn make_file(
        &mut self,
        parent: &Identity,
        name: &[u8],
        facts: &Facts,
        content: &mut dyn std::io::Read,
    ) -> Answer<item::Entry> {
        let directory = self.directory(parent)?;
        let path = join(&directory, name);
        if facts.is_symlink {
            let mut target = Vec::new();
            let read = content.take(TARGET_BYTES_MAX as u64 + 1).read_to_end(&mut target);
            read.map_err(|error| Refusal::Refused(error.to_string()))?;
            if target.len() > TARGET_BYTES_MAX {
                return Err(Refusal::Refused("what the link points to is too long".to_owned()));
            }
            let target = ByteString::from(target);
            let make = MakeLink { source: self.source(&path)?, target, caller: self.caller.clone() };
            self.client.call(make).map_err(|error| refusal(&error))?;
            return self.made(parent, &path, name);
        }
        let sent = self.for_a_moment(|machine, moment| {
            let sending = join(&directory, moment);
            let sent = machine.send(&sending, facts.mode, content)?;
            if let Err(refusal) = machine.rename_to(&sending, &path, Taken::Kept) {
                machine.remove_at(&sending)?;
                return Err(refusal);
            }
            Ok(sent)
        })?;
        self.entry(&sent, parent, name).ok_or(Refusal::Changed)
    }

    fn replace(
        &mut self,
        at: &At,
        old: &Token,
        facts: &Facts,
        content: &mut dyn std::io::Read,
    ) -> Answer<item::Entry> {
        let (directory, path, entry) = self.find(at)?;
        if version(&entry) != *old {
            return Err(Refusal::Changed);
        }
        if facts.is_symlink {
            return Err(Refusal::Refused("a symbolic link is made anew to point elsewhere".to_owned()));
        }
        let sent = self.for_a_moment(|machine, moment| {
            let sending = join(&directory, moment);
            let sent = machine.send(&sending, facts.mode, content)?;
            if let Err(refusal) = machine.rename_to(&sending, &path, Taken::Exchanged) {
                machine.remove_at(&sending)?;
                return Err(refusal);
            }
            if version(&machine.stat(&sending)?) == *old {
                return machine.remove_at(&sending).map(|()| sent);
            }
            machine.rename_to(&sending, &path, Taken::Exchanged)?;
            machine.remove_at(&sending)?;
            Err(Refusal::Changed)
        })?;
        self.entry(&sent, &at.parent, &at.name).ok_or(Refusal::Changed)
    }

    fn read(&mut self, at: &At, content: &Token, offset: u64, length: u32) -> Answer<Vec<u8>> {
        if let Some(target) = self.targets.get(content) {
            return Ok(piece(target, offset, length));
        }
        match self.find(at)?.2.kind {
            FileKind::Link => self.target(at, content).map(|target| piece(&target, offset, length)),
            _ => self.with_open(at, content, |client, handle| read_range(client, handle, offset, length)),
        }
    }

    fn is_same(&mut self, at: &At, content: &Token, other: &mut dyn std::io::Read) -> Answer<bool> {
        if self.find(at)?.2.kind == FileKind::Link {
            let mut given = Vec::new();
            let read = other.take(TARGET_BYTES_MAX as u64 + 1).read_to_end(&mut given);
            read.map_err(|error| Refusal::Refused(error.to_string()))?;
            return Ok(self.target(at, content)? == given);
        }
        self.with_open(at, content, |client, handle| {
            let mut offset = 0;
            loop {
                let far = read_range(client, handle, offset, CHUNK_BYTES_MAX as u32)?;
                let mut near = Vec::new();
                let read = other.take(CHUNK_BYTES_MAX as u64).read_to_end(&mut near);
                read.map_err(|error| {
                    Refusal::Refused(format!("could not read what is to be sent: {error}"))
                })?;
                if far != near || far.is_empty() {
                    return Ok(far == near);
                }
                offset += far.len() as u64;
            }
        })
    }
}

/// Bytes of an opened file, fewer only at its end.
fn read_range(client: &mut Client, handle: HandleId, offset: u64, length: u32) -> Answer<Vec<u8>> {
    let (mut bytes, end) = (Vec::new(), offset.saturating_add(u64::from(length)));
    while offset + (bytes.len() as u64) < end {
        let at = offset + bytes.len() as u64;
        let want = (end - at).min(CHUNK_BYTES_MAX as u64) as u32;
        let chunk = client.call(Read { handle, offset: at, bytes: want }).map_err(|error| refusal(&error))?;
        if chunk.content.0.is_empty() {
            break;
        }
        bytes.extend(chunk.content.0);
    }
    Ok(bytes)
}

fn piece(bytes: &[u8], offset: u64, length: u32) -> Vec<u8> {
    let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
    let end = start.saturating_add(length as usize).min(bytes.len());
    bytes[start..end].to_vec()
}

/// Below a home directory, which has no path of its own, a path is not absolute.
fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    match directory {
        b"" => name.to_vec(),
        directory if directory.ends_with(b"/") => [directory, name].concat(),
        directory => [directory, b"/", name].concat(),
    }
}

/// Of what has one name.
fn plain_identity(entry: &Entry) -> Identity {
    [entry.device, entry.inode, entry.birth].iter().flat_map(|number| number.to_le_bytes()).collect()
}

fn identity_of(entry: &Entry, directory: &Identity, name: &[u8]) -> Identity {
    let plain = plain_identity(entry);
    if entry.links <= 1 || entry.kind == FileKind::Directory {
        return plain;
    }
    let place = [&directory[..], b"/", name].concat();
    plain.iter().copied().chain(fnv1a(&place).to_le_bytes()).collect()
}

/// 128 bits of it. Only one file's own names are told apart by it.
fn fnv1a(bytes: &[u8]) -> u128 {
    bytes.iter().fold(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d, |hash, byte| {
        (hash ^ u128::from(*byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b)
    })
}

fn version(entry: &Entry) -> Token {
    let FileTime { seconds, nanoseconds } = entry.modified;
    let numbers = [entry.inode, entry.birth, entry.size, seconds.cast_unsigned()];
    let mut token: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
    token.extend(nanoseconds.to_le_bytes());
    token.into()
}

/// When a version of content was written, which is a part of it.
pub fn modified(version: &[u8]) -> Option<FileTime> {
    let seconds = version.get(24..32)?.try_into().ok().map(i64::from_le_bytes)?;
    let nanoseconds = version.get(32..36)?.try_into().ok().map(u32::from_le_bytes)?;
    Some(FileTime { seconds, nanoseconds })
}

/// A [`TICK`] before.
fn earlier(time: FileTime) -> FileTime {
    let tick = TICK.subsec_nanos();
    match time.nanoseconds.checked_sub(tick) {
        Some(nanoseconds) => FileTime { nanoseconds, ..time },
        None => FileTime {
            seconds: time.seconds.saturating_sub(1),
            nanoseconds: (time.nanoseconds + 1_000_000_000).saturating_sub(tick),
        },
    }
}

fn refusal(error: &ErrorObject) -> Refusal {
    match error.kind() {
        ErrorKind::NotFound | ErrorKind::Conflict => Refusal::Changed,
        ErrorKind::Unreachable | ErrorKind::TimedOut | ErrorKind::Interrupted => Refusal::Cut,
        ErrorKind::Usage | ErrorKind::Refused | ErrorKind::Failure => Refusal::Refused(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(device: u64, inode: u64, birth: u64, links: u64) -> Entry {
        let time = FileTime { seconds: 7, nanoseconds: 9 };
        Entry {
            name: "f".into(),
            kind: FileKind::File,
            mode: 0o644,
            uid: 0,
            gid: 0,
            size: 3,
            blocks: 8,
            links,
            inode,
            device,
            birth,
            modified: time,
            changed: time,
            accessed: time,
            target: None,
        }
    }

    #[test]
    fn files_of_two_file_systems_and_of_two_times_are_told_apart() {
        let root = plain_identity(&entry(1, 2, 3, 1));
        let identity = |device, inode, birth| identity_of(&entry(device, inode, birth, 1), &root, b"f");
        let one = identity(1, 5, 9);
        assert_eq!(one, identity(1, 5, 9));
        assert!(![identity(2, 5, 9), identity(1, 6, 9), identity(1, 5, 8)].contains(&one));
        let [a, b] = [b"a", b"b"].map(|name| identity_of(&entry(1, 5, 9, 2), &root, name));
        assert_ne!(a, b);
        assert_eq!((&a[..FILE_ID_BYTES], &b[..FILE_ID_BYTES]), (&one[..], &one[..]));
        assert!(a.len() <= item::TOKEN_BYTES_MAX);
    }

    #[test]
    fn a_version_says_when_it_was_written() {
        let before = version(&entry(1, 5, 9, 1));
        assert_eq!(modified(&before), Some(FileTime { seconds: 7, nanoseconds: 9 }));
        assert_eq!(version(&entry(2, 5, 9, 1)), before, "the number of a device may change");
        assert_ne!(version(&entry(1, 5, 8, 1)), before);
        assert_eq!(modified(b"-"), None);
    }

    #[test]
    fn a_tick_earlier_may_be_in_the_second_before() {
        let at = |seconds, nanoseconds| FileTime { seconds, nanoseconds };
        assert_eq!(earlier(at(5, 20_000_000)), at(5, 0));
        assert_eq!(earlier(at(0, 19_999_999)), at(-1, 999_999_999));
    }
}
