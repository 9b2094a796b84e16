//! What the kernel refers to, and what goes when nobody does.

use super::node::Meaning;
use super::{Ino, Table};

impl Table {
    /// The kernel was given the node once more.
    pub fn add_lookup(&mut self, ino: Ino) {
        if let Ok(node) = self.known_mut(ino) {
            node.lookups += 1;
            self.record_lookup(ino);
        }
    }

    /// The kernel gave back `count` of what it was given.
    pub fn forget(&mut self, ino: Ino, count: u64) {
        if ino == Ino::ROOT {
            return;
        }
        let Ok(node) = self.known_mut(ino) else { return };
        debug_assert!(node.lookups >= count, "{ino:?} forgotten more often than looked up");
        node.lookups = node.lookups.saturating_sub(count);
        self.record_forget(ino, count);
        self.consider_idle(ino);
        self.let_go();
    }

    /// How often the kernel has been given the node.
    pub fn lookups(&self, ino: Ino) -> u64 {
        self.node(ino).map_or(0, |node| node.lookups)
    }

    /// The node is open once more.
    pub fn opened(&mut self, ino: Ino) {
        if let Ok(node) = self.known_mut(ino) {
            node.opens += 1;
        }
    }

    /// The node is open once less.
    pub fn closed(&mut self, ino: Ino) {
        self.released(ino);
        self.let_go();
    }

    /// As [`Table::closed`], while numbers of nodes are held.
    pub(super) fn released(&mut self, ino: Ino) {
        let Ok(node) = self.known_mut(ino) else { return };
        node.opens = node.opens.saturating_sub(1);
        self.consider_idle(ino);
    }

    /// Queues the node if nobody refers to it.
    pub(super) fn consider_idle(&mut self, ino: Ino) {
        let Ok(node) = self.known_mut(ino) else { return };
        if ino == Ino::ROOT || !node.is_idle() {
            return;
        }
        if node.names.is_empty() {
            self.nameless.push(ino);
        } else if !std::mem::replace(&mut node.queued, true) {
            self.idle.push_back(ino);
        }
    }

    /// Lets go of nodes that nothing leads to, and of idle ones beyond the limit, oldest first, those used meanwhile last.
    pub(super) fn let_go(&mut self) {
        let mut second_chances = self.idle.len();
        loop {
            self.let_go_of_nameless();
            if self.idle.len() <= self.limits.idle_nodes {
                return;
            }
            let Some(ino) = self.idle.pop_front() else { return };
            let Some(node) = self.nodes.get_mut(&ino) else { continue };
            node.queued = false;
            if !node.is_idle() {
                continue;
            }
            if node.used && second_chances > 0 {
                second_chances -= 1;
                node.used = false;
                node.queued = true;
                self.idle.push_back(ino);
                continue;
            }
            self.remove(ino);
        }
    }

    fn let_go_of_nameless(&mut self) {
        while let Some(ino) = self.nameless.pop() {
            if self.nodes.get(&ino).is_some_and(|node| node.is_idle() && node.names.is_empty()) {
                self.remove(ino);
            }
        }
    }

    pub(super) fn remove(&mut self, ino: Ino) {
        let Some(node) = self.nodes.remove(&ino) else { return };
        self.record_gone(ino, &node);
        if let Some(directory) = &node.directory {
            self.walks.gone(node.id, directory.changed_at);
        }
        if self.by_id.get(&node.id) == Some(&ino) {
            self.by_id.remove(&node.id);
        }
        for (parent, name) in node.names {
            let Ok(directory) = self.directory_mut(parent) else { continue };
            // What a walk under way says of the node may be older.
            directory.changed_at = directory.changed_at.max(node.stamp);
            if directory.names.get(&name).is_some_and(|slot| slot.what == Meaning::Present(ino)) {
                directory.names.remove(&name);
                directory.present -= 1;
                directory.complete = 0;
                directory.let_go += 1;
            }
            self.consider_idle(parent);
        }
    }
}
