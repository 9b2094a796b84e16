//! What was learnt and is on its way to the kernel.
//!
//! Whoever learns something changes the table, and then has the kernel told. In between he may lose the processor, and the table
//! is ahead of the kernel: who opens a file then, and finds that it is as the table had it, must not conclude that the kernel has it so.

use crate::file::Attributes;

use super::{Ino, Notice, Table};

impl Table {
    /// The kernel is about to be told.
    pub(crate) fn begin_telling(&mut self, notices: &[Notice]) {
        for notice in notices {
            match notice {
                Notice::Name { parent, name } | Notice::Replaced { parent, name } => {
                    self.record_taken_back(*parent, name);
                }
                Notice::Attributes(ino) | Notice::Content(ino) | Notice::Listing(ino) => {
                    if let Ok(node) = self.known_mut(*ino) {
                        node.untold += 1;
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

    /// The last attributes that were seen, if the kernel has been told that those before are not believed any more.
    pub(crate) fn last_told(&self, ino: Ino) -> Option<Attributes> {
        let node = self.node(ino).ok()?;
        (node.untold == 0).then_some(node.attributes)
    }
}
