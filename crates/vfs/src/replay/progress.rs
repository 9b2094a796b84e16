//! How far a replay has come, in a log in the mount's directory.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use crate::file::{Content, Name, Time};
use crate::log::{Log, LogError, Records};
use crate::table::Ino;

/// The log's name.
pub(super) const FILE: &str = "replay";

mod kind {
    pub(super) const WRITTEN: u8 = 1;
    pub(super) const ASIDE: u8 = 2;
    pub(super) const OVER: u8 = 3;
}

/// How far a file has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Written {
    /// Pieces that are in it.
    pub(super) pieces: u64,
    /// What it held then.
    pub(super) content: Content,
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Progress {
    log: Log,
    spare: Records,
    written: HashMap<Ino, Written>,
    aside: HashMap<Ino, Name>,
    over: HashSet<Ino>,
}

impl Progress {
    pub(super) fn open(directory: &Path) -> Result<Progress, LogError> {
        let path = directory.join(FILE);
        let (mut written, mut aside, mut over) = (HashMap::new(), HashMap::new(), HashSet::new());
        let opened = Log::open(&path, |kind, content| {
            let Some((ino, rest)) = number(content) else { return };
            match kind {
                kind::WRITTEN => written.extend(read_written(rest).map(|read| (Ino(ino), read))),
                kind::ASIDE => drop(aside.insert(Ino(ino), rest.into())),
                kind::OVER => drop(over.insert(Ino(ino))),
                _ => {}
            }
        })?;
        let log = match opened {
            Some((log, _)) => log,
            None => Log::create(&path, &Records::default())?,
        };
        Ok(Progress { log, spare: Records::default(), written, aside, over })
    }

    pub(super) fn written(&self, ino: Ino) -> Option<Written> {
        self.written.get(&ino).copied()
    }

    pub(super) fn aside(&self, ino: Ino) -> Option<Name> {
        self.aside.get(&ino).cloned()
    }

    pub(super) fn is_over(&self, ino: Ino) -> bool {
        self.over.contains(&ino)
    }

    pub(super) fn wrote(&mut self, ino: Ino, written: Written) -> Result<(), LogError> {
        let Content { size, modified: Time { seconds, nanoseconds } } = written.content;
        let numbers = [written.pieces, size, seconds.cast_unsigned(), nanoseconds.into()];
        self.append(kind::WRITTEN, ino, &numbers.map(u64::to_le_bytes).concat())?;
        self.written.insert(ino, written);
        Ok(())
    }

    pub(super) fn put_aside(&mut self, ino: Ino, name: Name) -> Result<(), LogError> {
        self.append(kind::ASIDE, ino, &name)?;
        self.aside.insert(ino, name);
        Ok(())
    }

    pub(super) fn over(&mut self, ino: Ino) -> Result<(), LogError> {
        self.append(kind::OVER, ino, &[])?;
        self.over.insert(ino);
        Ok(())
    }

    fn append(&mut self, kind: u8, ino: Ino, rest: &[u8]) -> Result<(), LogError> {
        self.spare.clear(usize::MAX);
        self.spare.push(kind, |to| {
            to.extend_from_slice(&ino.0.to_le_bytes());
            to.extend_from_slice(rest);
        });
        self.log.append(&self.spare)
    }
}

fn number(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (first, rest) = bytes.split_first_chunk()?;
    Some((u64::from_le_bytes(*first), rest))
}

fn read_written(bytes: &[u8]) -> Option<Written> {
    let (pieces, rest) = number(bytes)?;
    let (size, rest) = number(rest)?;
    let (seconds, rest) = number(rest)?;
    let (nanoseconds, _) = number(rest)?;
    let modified = Time { seconds: seconds.cast_signed(), nanoseconds: u32::try_from(nanoseconds).ok()? };
    Some(Written { pieces, content: Content { size, modified } })
}
