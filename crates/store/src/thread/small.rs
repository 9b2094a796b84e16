//! Small contents of the base, which are decoded for each read and put into no file.
//!
//! To make a file, put it in place, open it and close it costs several times what it costs to decode a few kilobytes, and the kernel keeps
//! what it has read. So only what is larger is put into the [cache of contents](crate::blobs), where other threads find it decoded.
//!
//! The kernel may ask for one content in pieces, a few at once: the last that were not read to their end at once stay in memory.

use std::collections::VecDeque;
use std::sync::Arc;

use super::Thread;
use crate::node::{Content, Ino};
use crate::{Oid, Result};

/// A content of up to so many bytes is small.
pub const SMALL_BYTES_MAX: u64 = 64 << 10;

/// Contents that stay in memory: with those of all readers of a directory at once it is 1 MiB.
const RECENT_MAX: usize = 16;

/// The small contents that were asked for last, the latest behind.
#[derive(Debug, Default)]
pub(super) struct Recent(VecDeque<(Oid, Arc<[u8]>)>);

impl Recent {
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    fn find(&self, oid: &Oid) -> Option<Arc<[u8]>> {
        self.0.iter().find(|(known, _)| known == oid).map(|(_, content)| content.clone())
    }

    fn keep(&mut self, oid: Oid, content: Arc<[u8]>) {
        self.forget(&oid);
        if self.0.len() >= RECENT_MAX {
            self.0.pop_front();
        }
        self.0.push_back((oid, content));
    }

    fn forget(&mut self, oid: &Oid) {
        self.0.retain(|(known, _)| known != oid);
    }
}

impl Thread {
    /// Fills `buffer` from a place in a file whose content is the base's and [small](SMALL_BYTES_MAX), and says how many bytes that is:
    /// fewer than fit only at the end of the file. `None` for any other file.
    pub fn read_small(&self, ino: Ino, offset: u64, buffer: &mut [u8]) -> Result<Option<usize>> {
        let Some(oid) = self.small(ino)? else { return Ok(None) };
        let known = self.recent.lock().find(&oid);
        let content = match known {
            Some(content) => content,
            None => Arc::from(self.objects.blob(&oid)?),
        };
        let from = usize::try_from(offset).map_or(content.len(), |offset| offset.min(content.len()));
        let to = content.len().min(from.saturating_add(buffer.len()));
        buffer[..to - from].copy_from_slice(&content[from..to]);
        let is_last = to == content.len();
        let mut recent = self.recent.lock();
        match (is_last, from) {
            (true, 0) => {}
            (true, _) => recent.forget(&oid),
            (false, _) => recent.keep(oid, content),
        }
        Ok(Some(to - from))
    }

    fn small(&self, ino: Ino) -> Result<Option<Oid>> {
        Ok(match self.locked().node(ino)?.content {
            Content::Base { is_link: false, oid, size } if size <= SMALL_BYTES_MAX => Some(oid),
            _ => None,
        })
    }
}
