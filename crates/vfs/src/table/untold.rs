//! What was learnt and is on its way to the kernel.
//!
//! Whoever learns something changes the table, and then has the kernel told. In between he may lose the processor, and the table
//! is ahead of the kernel: who opens a file then, and finds that it is as the table had it, must not conclude that the kernel has it so.

use crate::file::Attributes;

use super::{Ino, Moment, Notice, Table, UNLEASED_MS};

impl Table {
    /// The kernel is about to be told.
    pub(crate) fn begin_telling(&mut self, notices: &[Notice], now: Moment) {
        for notice in notices {
            match notice {
                Notice::Name { parent, name } | Notice::Replaced { parent, name } => {
                    self.record_taken_back(*parent, name);
                }
                Notice::Attributes(ino) | Notice::Content(ino) | Notice::Listing(ino) => {
                    if let Ok(node) = self.known_mut(*ino) {
                        node.untold += 1;
                        if matches!(notice, Notice::Content(_)) {
                            node.retold = Some(now);
                        }
                    }
                }
            }
        }
    }

    /// It has been told of these.
    pub(crate) fn end_telling(&mut self, nodes: &[Ino]) {
        for ino in nodes {
            if let Ok(node) = self.known_mut(*ino) {
                node.untold = node.untold.saturating_sub(1);
            }
        }
    }

    /// Whether the kernel was told of late that the content is another, and so may be told again: the word of one change comes
    /// in several pieces. After [`UNLEASED_MS`] none is expected.
    pub(crate) fn was_retold_lately(&self, ino: Ino, now: Moment) -> bool {
        let retold = self.node(ino).ok().and_then(|node| node.retold);
        retold.is_some_and(|at| now.0.saturating_sub(at.0) < u64::from(UNLEASED_MS))
    }

    /// The last attributes that were seen, if the kernel has been told that those before are not believed any more.
    pub(crate) fn last_told(&self, ino: Ino) -> Option<Attributes> {
        let node = self.node(ino).ok()?;
        (node.untold == 0).then_some(node.attributes)
    }
}
