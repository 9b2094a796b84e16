//! What a replica does to a machine's files.

use std::io::Read;
use std::time::Duration;

use vfs::errno::Errno;
use vfs::replica::item::{Entry, Identity, Token};
use vfs::replica::side::{Answer, At, Facts, Refusal, Side, There};
use wire::agent::HandleId;
use wire::agent::file::{
    self, AttributeChanges, FileReply, FileRequest, Kind, OpenFlags, Place, RenameMode, SetTime, Target,
    Time, WriteAt,
};
use wire::agent::name::Name;
use wire::frame::PAYLOAD_BYTES_MAX;

use super::leftovers::{kept, removing, sending, sending_new};
use super::looking::{is_known, tick_of};
use super::reading::read_part;
use super::token::{file_id, version_of};
use super::{Far, Line, LineError, entry_of, misanswered, name};

/// The longest target of a symlink that any system takes.
const TARGET_BYTES_MAX: usize = 4096;

/// New content on the machine, whole and on its disk.
struct Sent {
    /// As it was when it was whole. What anybody writes to it afterwards is another version.
    entry: file::Entry,
    /// Until it is closed a file without a name is there.
    handle: Option<HandleId>,
    /// Its name of the moment, if it has one.
    under: Option<Name>,
}

impl<L: Line> Side for Far<L> {
    fn list(&mut self, directory: &Identity) -> Answer<Vec<Entry>> {
        self.show(directory)
    }

    fn is_gone(&mut self, identity: &Identity) -> Answer<bool> {
        is_known(identity)?;
        self.is_nowhere(identity)
    }

    fn make_directory(&mut self, parent: &Identity, new: &[u8], mode: u16) -> Answer<Entry> {
        let (directory, new, caller) = (self.directory(parent)?, name(new)?, self.caller);
        let request =
            FileRequest::MakeDirectory { directory: directory.clone(), name: new.clone(), mode, caller };
        let made = entry(self.ask(request)?)?;
        self.directories.insert(super::plain_identity(&made.id), (parent.clone(), new.clone()));
        let made =
            if made.attributes.mode == mode { made } else { self.change_mode(&directory, &new, mode)? };
        self.sync(Target::Place(directory))?;
        shown(&made, parent, &new)
    }

    fn rename(&mut self, from: &At, parent: &Identity, new: &[u8]) -> Answer<Entry> {
        let (directory, to) = (self.directory(&from.parent)?, self.directory(parent)?);
        let (old, new) = (name(&from.name)?, name(new)?);
        self.expect(&directory, from)?;
        self.move_name((&directory, &old), (&to, &new), RenameMode::NoReplace)?;
        // If it was another's file by then, that one is not lost either: whoever looks finds it.
        let found = self.look_up(&to, &new)?.filter(|found| Some(found.id) == file_id(&from.identity));
        let found = found.ok_or(Refusal::Changed)?;
        if found.attributes.kind == Kind::Directory {
            self.directories.insert(from.identity.clone(), (parent.clone(), new.clone()));
        }
        self.sync(Target::Place(to))?;
        if from.parent != *parent {
            self.sync(Target::Place(directory))?;
        }
        self.shown_settled(found, parent, &new)
    }

    fn set_mode(&mut self, at: &At, mode: u16) -> Answer<Entry> {
        let (directory, at_name) = (self.directory(&at.parent)?, name(&at.name)?);
        self.expect(&directory, at)?;
        let changed = self.change_mode(&directory, &at_name, mode)?;
        if Some(changed.id) != file_id(&at.identity) {
            return Err(Refusal::Changed);
        }
        self.sync(Target::Place(self.place(at)?))?;
        self.shown_settled(changed, &at.parent, &at_name)
    }

    fn remove(&mut self, at: &At, content: &Token, _: Option<&Token>) -> Answer<()> {
        let (directory, at_name) = (self.directory(&at.parent)?, name(&at.name)?);
        let found = self.expect_version(&directory, at, content)?;
        if found.attributes.kind == Kind::Directory {
            self.ask(FileRequest::RemoveDirectory { directory: directory.clone(), name: at_name })?;
            self.directories.remove(&at.identity);
        } else {
            self.remove_version(&directory, &at_name, content)?;
        }
        self.sync(Target::Place(directory))
    }
}

impl<L: Line> There for Far<L> {
    fn make_file(
        &mut self,
        parent: &Identity,
        new: &[u8],
        facts: &Facts,
        content: &mut dyn Read,
    ) -> Answer<Entry> {
        let (directory, new) = (self.directory(parent)?, name(new)?);
        if facts.is_symlink {
            let made = self.make_symlink(&directory, &new, content)?;
            self.sync(Target::Place(directory))?;
            return shown(&made, parent, &new);
        }
        let sent = self.send(&directory, facts, None, content)?;
        let made = sent.entry;
        let named = self.give_name(&directory, &sent, &new);
        let under = sent.under.clone().filter(|_| named.is_err());
        self.let_go(&directory, Sent { under, ..sent })?;
        named?;
        self.sync(Target::Place(directory))?;
        shown(&made, parent, &new)
    }

    fn replace(&mut self, at: &At, old: &Token, facts: &Facts, content: &mut dyn Read) -> Answer<Entry> {
        let (directory, at_name) = (self.directory(&at.parent)?, name(&at.name)?);
        let before = self.expect_version(&directory, at, old)?;
        let (made, under) = if facts.is_symlink {
            let first = sending_new();
            let made = self.make_symlink(&directory, &first, content)?;
            let under = sending(old, &version_of(&made));
            self.move_name((&directory, &first), (&directory, &under), RenameMode::NoReplace)?;
            (made, under)
        } else {
            let sent = self.send(&directory, facts, Some(&before), content)?;
            let (made, under) = (sent.entry, sending(old, &version_of(&sent.entry)));
            let named = self.give_name(&directory, &sent, &under);
            let first = sent.under.clone().filter(|_| named.is_err());
            self.let_go(&directory, Sent { under: first, ..sent })?;
            named?;
            (made, under)
        };
        self.take_place(&directory, &under, &made, at, old)?;
        self.sync(Target::Place(directory))?;
        shown(&made, &at.parent, &at_name)
    }

    fn read(&mut self, at: &At, content: &Token, offset: u64, length: u32) -> Answer<Vec<u8>> {
        self.read_version(at, content, offset, length)
    }

    fn is_same(&mut self, at: &At, content: &Token, other: &mut dyn Read) -> Answer<bool> {
        self.is_version_same(at, content, other)
    }
}

impl<L: Line> Far<L> {
    /// Gives what was sent a name that nobody has.
    fn give_name(&mut self, directory: &Place, sent: &Sent, new: &Name) -> Answer<()> {
        match (&sent.under, sent.handle) {
            (Some(under), _) => self.move_name((directory, under), (directory, new), RenameMode::NoReplace),
            (None, Some(handle)) => self.link(handle, directory, new),
            (None, None) => Err(Refusal::Changed),
        }
    }

    /// Gives a file that was made for it the name of another, which has to be of this version and goes.
    fn take_place(
        &mut self,
        directory: &Place,
        under: &Name,
        made: &file::Entry,
        at: &At,
        old: &Token,
    ) -> Answer<()> {
        let at_name = name(&at.name)?;
        let expected = self.expect_version(directory, at, old);
        self.or_clear(expected, directory, under, made)?;
        match self.rename_as((directory, under), (directory, &at_name), RenameMode::Exchange) {
            Err(error) if is_no_such_renaming(&error) => {
                return self.replace_plainly(directory, under, made, at, old);
            }
            exchanged => self.or_clear(exchanged.map_err(Refusal::from), directory, under, made)?,
        }
        let was = self.look_up(directory, under)?;
        if was.is_none_or(|was| version_of(&was) == *old) {
            self.unlink(directory, under)?;
            return self.expect_id(directory, &at_name, made);
        }
        // Somebody wrote to it, or gave the name to another file: that one has it again.
        match self.rename_as((directory, under), (directory, &at_name), RenameMode::Exchange) {
            Err(error) if error.errno() == Some(Errno::ENOENT) => {
                self.move_name((directory, under), (directory, &at_name), RenameMode::NoReplace)?;
            }
            exchanged => exchanged?,
        }
        self.clear(directory, under, made)?;
        Err(Refusal::Changed)
    }

    /// The file system does not exchange names: what is written between these two is lost to it as to any program there.
    fn replace_plainly(
        &mut self,
        directory: &Place,
        under: &Name,
        made: &file::Entry,
        at: &At,
        old: &Token,
    ) -> Answer<()> {
        let at_name = name(&at.name)?;
        let replaced = self
            .expect_version(directory, at, old)
            .and_then(|_| self.move_name((directory, under), (directory, &at_name), RenameMode::Replace));
        self.or_clear(replaced, directory, under, made)?;
        self.expect_id(directory, &at_name, made)
    }

    /// Clears away what was made when there is no use for it. Of what was cut nobody knows whether there was: it is found under its
    /// name later.
    fn or_clear<T>(
        &mut self,
        answer: Answer<T>,
        directory: &Place,
        under: &Name,
        made: &file::Entry,
    ) -> Answer<T> {
        if matches!(answer, Err(Refusal::Changed | Refusal::Refused(_))) {
            self.clear(directory, under, made)?;
        }
        answer
    }

    /// Whether a name is this file's, whatever was written to it.
    fn expect_id(&mut self, directory: &Place, at: &Name, made: &file::Entry) -> Answer<()> {
        let is_it = self.look_up(directory, at)?.is_some_and(|found| found.id == made.id);
        if is_it { Ok(()) } else { Err(Refusal::Changed) }
    }

    /// Takes what was made away from under its name. Anything else that came to be there is found under a name that is nobody's.
    fn clear(&mut self, directory: &Place, under: &Name, made: &file::Entry) -> Answer<()> {
        match self.look_up(directory, under)? {
            None => Ok(()),
            Some(found) if version_of(&found) == version_of(made) => self.unlink(directory, under),
            Some(_) => self.move_name((directory, under), (directory, &kept()), RenameMode::NoReplace),
        }
    }

    /// Removes a file that has been found to be of this version, if it still is.
    fn remove_version(&mut self, directory: &Place, at: &Name, version: &Token) -> Answer<()> {
        let aside = removing(version);
        match self.rename_as((directory, at), (directory, &aside), RenameMode::NoReplace) {
            Ok(()) => {}
            // The file system replaces or does not rename: what is written between these two is lost, as by `rm` there.
            Err(error) if is_no_such_renaming(&error) => return self.unlink(directory, at),
            Err(error) => return Err(error.into()),
        }
        let found = self.look_up(directory, &aside)?.ok_or(Refusal::Changed)?;
        if version_of(&found) == *version {
            return self.unlink(directory, &aside);
        }
        self.move_name((directory, &aside), (directory, at), RenameMode::NoReplace)?;
        Err(Refusal::Changed)
    }

    /// Writes content to a new file, and has it on the disk. It is to be let go of.
    fn send(
        &mut self,
        directory: &Place,
        facts: &Facts,
        before: Option<&file::Entry>,
        content: &mut dyn Read,
    ) -> Answer<Sent> {
        let (sent, handle) = self.create(directory)?;
        match self.fill(handle, facts, before, content, sent.entry.attributes.modified) {
            Ok(entry) => Ok(Sent { entry, ..sent }),
            Err(Refusal::Cut) => Err(Refusal::Cut),
            Err(refusal) => {
                self.let_go(directory, sent)?;
                Err(refusal)
            }
        }
    }

    /// A new file for its owner's eyes, without a name where that can be.
    fn create(&mut self, directory: &Place) -> Answer<(Sent, HandleId)> {
        const MODE: u16 = 0o600;
        let (handle, caller) = (self.line.new_handle(), self.caller);
        let flags = OpenFlags { write: true, ..OpenFlags::default() };
        let unnamed =
            FileRequest::CreateUnnamed { directory: directory.clone(), mode: MODE, flags, handle, caller };
        match self.ask(unnamed) {
            Ok(reply) => {
                let entry = opened(reply)?;
                return Ok((Sent { entry, handle: Some(handle), under: None }, handle));
            }
            Err(error) if !is_unsupported(&error) => return Err(error.into()),
            Err(_) => {}
        }
        let (handle, under) = (self.line.new_handle(), sending_new());
        let flags = OpenFlags { exclusive: true, ..flags };
        let (directory, name) = (directory.clone(), under.clone());
        let reply = self.ask(FileRequest::Create { directory, name, mode: MODE, flags, handle, caller })?;
        let entry = opened(reply)?;
        Ok((Sent { entry, handle: Some(handle), under: Some(under) }, handle))
    }

    fn fill(
        &mut self,
        handle: HandleId,
        facts: &Facts,
        before: Option<&file::Entry>,
        content: &mut dyn Read,
        mut modified: Time,
    ) -> Answer<file::Entry> {
        let mut offset = 0;
        loop {
            let part = read_part(content, PAYLOAD_BYTES_MAX as usize)?;
            if part.is_empty() {
                break;
            }
            let request = FileRequest::Write { handle, at: WriteAt::Offset(offset), clear_set_id: false };
            match self.ask_with(request, &part)?.0 {
                FileReply::Written { bytes, attributes } if bytes == part.len() as u64 => {
                    modified = attributes.modified;
                }
                FileReply::Written { .. } => return Err(LineError::Lost("a short write".to_owned()).into()),
                reply => return Err(misanswered(&reply).into()),
            }
            offset += part.len() as u64;
        }
        if offset != facts.size {
            return Err(Refusal::Changed);
        }
        let owner = before.filter(|_| self.is_privileged).map(|before| before.attributes);
        let changes = AttributeChanges {
            uid: owner.map(|owner| owner.uid),
            gid: owner.map(|owner| owner.gid),
            mode: Some(facts.mode),
            modified: SetTime::To(earlier(modified, tick_of(modified))),
            ..AttributeChanges::default()
        };
        let target = Target::Handle(handle);
        let whole = entry(self.ask(FileRequest::SetAttributes { target: target.clone(), changes })?)?;
        self.sync(target)?;
        Ok(whole)
    }

    /// Closes what was sent, and takes its name of the moment away if it has one.
    fn let_go(&mut self, directory: &Place, sent: Sent) -> Answer<()> {
        if let Some(handle) = sent.handle {
            self.ask(FileRequest::Close { handle })?;
        }
        match &sent.under {
            Some(under) => self.unlink(directory, under),
            None => Ok(()),
        }
    }

    fn make_symlink(&mut self, directory: &Place, new: &Name, content: &mut dyn Read) -> Answer<file::Entry> {
        let target = read_part(content, TARGET_BYTES_MAX + 1)?;
        if target.is_empty() || target.len() > TARGET_BYTES_MAX || target.contains(&0) {
            return Err(Refusal::Refused("a symlink cannot point there on the machine".to_owned()));
        }
        let (directory, name, caller) = (directory.clone(), new.clone(), self.caller);
        entry(self.ask_with(FileRequest::Symlink { directory, name, caller }, &target)?.0)
    }

    fn link(&mut self, handle: HandleId, directory: &Place, new: &Name) -> Answer<()> {
        let (target, directory, name) = (Target::Handle(handle), directory.clone(), new.clone());
        self.ask(FileRequest::Link { target, directory, name })?;
        Ok(())
    }

    fn unlink(&mut self, directory: &Place, old: &Name) -> Answer<()> {
        match self.ask(FileRequest::Unlink { directory: directory.clone(), name: old.clone() }) {
            Err(error) if error.errno() == Some(Errno::ENOENT) => Ok(()),
            answer => answer.map(|_| ()).map_err(Refusal::from),
        }
    }

    fn move_name(&mut self, from: (&Place, &Name), to: (&Place, &Name), mode: RenameMode) -> Answer<()> {
        self.rename_as(from, to, mode).map_err(Refusal::from)
    }

    /// Renames. A file system that cannot do it in this way refuses, by [`is_no_such_renaming`].
    fn rename_as(
        &mut self,
        from: (&Place, &Name),
        to: (&Place, &Name),
        mode: RenameMode,
    ) -> Result<(), LineError> {
        let request = FileRequest::Rename {
            from: from.0.clone(),
            from_name: from.1.clone(),
            to: to.0.clone(),
            to_name: to.1.clone(),
            mode,
        };
        self.ask(request)?;
        Ok(())
    }

    fn change_mode(&mut self, directory: &Place, at: &Name, mode: u16) -> Answer<file::Entry> {
        let id = self.look_up(directory, at)?.ok_or(Refusal::Changed)?.id;
        let target = Target::Place(Place { id, path: directory.path.join(at) });
        let changes = AttributeChanges { mode: Some(mode), ..AttributeChanges::default() };
        entry(self.ask(FileRequest::SetAttributes { target, changes })?)
    }

    /// Has it on the machine's disk. What cannot be synced has been done, and is not known to last.
    fn sync(&mut self, target: Target) -> Answer<()> {
        match self.ask(FileRequest::Sync { target, data_only: false }) {
            Ok(_) => Ok(()),
            // A directory that may not be opened for reading; or a file system without it.
            Err(error)
                if matches!(error.errno(), Some(Errno::EACCES | Errno::EINVAL | Errno::EOPNOTSUPP)) =>
            {
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }
}

fn entry(reply: FileReply) -> Answer<file::Entry> {
    match reply {
        FileReply::Entry(entry) => Ok(entry),
        reply => Err(misanswered(&reply).into()),
    }
}

fn opened(reply: FileReply) -> Answer<file::Entry> {
    match reply {
        FileReply::Opened { entry, .. } => Ok(entry),
        reply => Err(misanswered(&reply).into()),
    }
}

fn shown(entry: &file::Entry, directory: &Identity, at: &Name) -> Answer<Entry> {
    entry_of(entry, directory, at).ok_or(Refusal::Changed)
}

/// Whether the file system has no files without a name, or the kernel does not know of them.
fn is_unsupported(error: &LineError) -> bool {
    matches!(error.errno(), Some(Errno::EOPNOTSUPP | Errno::EISDIR | Errno::EINVAL | Errno::ENOSYS))
}

/// Whether the file system cannot rename in the way that was asked for, rather than not now or not this file.
fn is_no_such_renaming(error: &LineError) -> bool {
    matches!(error.errno(), Some(Errno::EINVAL | Errno::EOPNOTSUPP | Errno::ENOSYS))
}

fn earlier(time: Time, by: Duration) -> Time {
    let (whole, part) = (by.as_secs().cast_signed(), i64::from(by.subsec_nanos()));
    let seconds = time.seconds.saturating_sub(whole);
    match i64::from(time.nanoseconds) - part {
        rest @ 0.. => Time { seconds, nanoseconds: u32::try_from(rest).unwrap_or_default() },
        rest => Time {
            seconds: seconds.saturating_sub(1),
            nanoseconds: u32::try_from(rest + 1_000_000_000).unwrap_or_default(),
        },
    }
}
