//! Content of a version.

use std::io::Read;

use bytes::Bytes;
use vfs::replica::item::{Identity, Token};
use vfs::replica::side::{Answer, At, Refusal};
use wire::agent::HandleId;
use wire::agent::file::{self, FileReply, FileRequest, OpenFlags, Target};
use wire::frame::PAYLOAD_BYTES_MAX;

use super::token::{file_id, version_of};
use super::{Far, Line, LineError, misanswered};

/// A file that is open on the machine, as one version.
#[derive(Debug)]
pub(super) struct OpenFile {
    identity: Identity,
    version: Token,
    content: Content,
}

#[derive(Clone, Debug)]
enum Content {
    File(HandleId),
    /// What a symlink points to.
    Target(Bytes),
}

impl<L: Line> Far<L> {
    pub(super) fn read_version(
        &mut self,
        at: &At,
        version: &Token,
        offset: u64,
        length: u32,
    ) -> Answer<Vec<u8>> {
        let read = match self.open_version(at, version)? {
            Content::Target(target) => {
                let start = usize::try_from(offset).unwrap_or(usize::MAX).min(target.len());
                let end = start.saturating_add(length as usize).min(target.len());
                return Ok(target[start..end].to_vec());
            }
            Content::File(handle) => self.read_handle(handle, version, offset, length),
        };
        if matches!(read, Err(Refusal::Changed)) {
            self.close()?;
        }
        read
    }

    /// What is read is of the version if the file still is when it has been.
    fn read_handle(
        &mut self,
        handle: HandleId,
        version: &Token,
        offset: u64,
        length: u32,
    ) -> Answer<Vec<u8>> {
        let mut bytes = Vec::new();
        while bytes.len() < length as usize {
            let part =
                u32::try_from(length as usize - bytes.len()).unwrap_or(u32::MAX).min(PAYLOAD_BYTES_MAX);
            let from = offset.saturating_add(bytes.len() as u64);
            let (reply, payload) =
                self.ask_with(FileRequest::Read { handle, offset: from, length: part }, &[])?;
            if reply != FileReply::Data || payload.len() > part as usize {
                return Err(misanswered(&reply).into());
            }
            let is_end = payload.len() < part as usize;
            bytes.extend_from_slice(&payload);
            if is_end {
                break;
            }
        }
        match self.ask(FileRequest::Stat { target: Target::Handle(handle) })? {
            FileReply::Entry(entry) if version_of(&entry) == *version => Ok(bytes),
            FileReply::Entry(_) => Err(Refusal::Changed),
            reply => Err(misanswered(&reply).into()),
        }
    }

    pub(super) fn is_version_same(&mut self, at: &At, version: &Token, other: &mut dyn Read) -> Answer<bool> {
        let mut offset = 0;
        loop {
            let there = self.read_version(at, version, offset, PAYLOAD_BYTES_MAX)?;
            let here = read_part(other, PAYLOAD_BYTES_MAX as usize)?;
            if here != there {
                return Ok(false);
            }
            if there.len() < PAYLOAD_BYTES_MAX as usize {
                return Ok(true);
            }
            offset += there.len() as u64;
        }
    }

    fn open_version(&mut self, at: &At, version: &Token) -> Answer<Content> {
        if let Some(open) = &self.open
            && open.identity == at.identity
            && open.version == *version
        {
            return Ok(open.content.clone());
        }
        self.close()?;
        let (directory, place) = (self.directory(&at.parent)?, self.place(at)?);
        let content = match self.expect_version(&directory, at, version)?.attributes.kind {
            file::Kind::Symlink => match self.ask_with(FileRequest::ReadLink { place }, &[])? {
                (FileReply::Data, target) => Content::Target(target),
                (reply, _) => return Err(misanswered(&reply).into()),
            },
            _ => {
                let handle = self.line.new_handle();
                let flags = OpenFlags { read: true, ..OpenFlags::default() };
                match self.ask(FileRequest::Open { place, flags, handle, inline_bytes: 0 })? {
                    FileReply::Opened { entry, .. }
                        if Some(entry.id) == file_id(&at.identity) && version_of(&entry) == *version =>
                    {
                        Content::File(handle)
                    }
                    FileReply::Opened { .. } => {
                        self.ask(FileRequest::Close { handle })?;
                        return Err(Refusal::Changed);
                    }
                    reply => return Err(misanswered(&reply).into()),
                }
            }
        };
        let (identity, version) = (at.identity.clone(), version.clone());
        self.open = Some(OpenFile { identity, version, content: content.clone() });
        Ok(content)
    }

    /// Closes what was read last.
    pub(super) fn close(&mut self) -> Answer<()> {
        let Some(OpenFile { content: Content::File(handle), .. }) = self.open.take() else { return Ok(()) };
        match self.ask(FileRequest::Close { handle }) {
            Err(error @ LineError::Lost(_)) => Err(error.into()),
            // It was read only: there is nothing that a failure could lose.
            Ok(_) | Err(LineError::Failed(_)) => Ok(()),
        }
    }
}

/// As many bytes, fewer only at the end.
pub(super) fn read_part(content: &mut dyn Read, bytes: usize) -> Answer<Vec<u8>> {
    let mut part = Vec::new();
    match content.take(bytes as u64).read_to_end(&mut part) {
        Ok(_) => Ok(part),
        // A side's content cannot be read to its end if it is written to meanwhile.
        Err(error) => {
            tracing::debug!(%error, "what was to be sent cannot be read");
            Err(Refusal::Changed)
        }
    }
}
