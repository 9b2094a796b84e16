//! A bounded map that drops what has not been used for longest, near enough: second chance on a ring.

use std::collections::HashMap;
use std::hash::Hash;

pub(crate) struct Clock<K, V> {
    slots: Vec<Slot<K, V>>,
    index: HashMap<K, usize>,
    hand: usize,
    entries_max: usize,
}

struct Slot<K, V> {
    key: K,
    value: V,
    used: bool,
}

impl<K: Clone + Eq + Hash, V> Clock<K, V> {
    pub fn new(entries_max: usize) -> Clock<K, V> {
        Clock { slots: Vec::new(), index: HashMap::new(), hand: 0, entries_max: entries_max.max(1) }
    }

    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    pub fn get(&mut self, key: &K) -> Option<&mut V> {
        let slot = &mut self.slots[*self.index.get(key)?];
        slot.used = true;
        Some(&mut slot.value)
    }

    pub fn entries_max(&self) -> usize {
        self.entries_max
    }

    /// Puts `value` under `key`, and returns what had to go for it.
    pub fn insert(&mut self, key: K, value: V) -> Option<(K, V)> {
        self.insert_within(key, value, self.entries_max)
    }

    /// The same, where something goes already when there are `entries_max`, at least 1 and at most as many as there may be.
    pub fn insert_within(&mut self, key: K, value: V, entries_max: usize) -> Option<(K, V)> {
        if let Some(at) = self.index.get(&key) {
            let slot = &mut self.slots[*at];
            slot.used = true;
            return Some((key, std::mem::replace(&mut slot.value, value)));
        }
        if self.slots.len() < entries_max.clamp(1, self.entries_max) {
            self.index.insert(key.clone(), self.slots.len());
            self.slots.push(Slot { key, value, used: false });
            return None;
        }
        let at = self.victim();
        self.index.insert(key.clone(), at);
        let old = std::mem::replace(&mut self.slots[at], Slot { key, value, used: false });
        self.index.remove(&old.key);
        Some((old.key, old.value))
    }

    pub fn remove(&mut self, key: &K) -> Option<V> {
        let at = self.index.remove(key)?;
        let slot = self.slots.swap_remove(at);
        if let Some(moved) = self.slots.get(at) {
            self.index.insert(moved.key.clone(), at);
        }
        Some(slot.value)
    }

    /// Drops what `keep` refuses, and tells of each.
    pub fn retain(&mut self, mut keep: impl FnMut(&K, &V) -> bool) {
        self.slots.retain(|slot| keep(&slot.key, &slot.value));
        self.index = self.slots.iter().enumerate().map(|(at, slot)| (slot.key.clone(), at)).collect();
        self.hand = 0;
    }

    /// Drops what has not been used since the last time.
    pub fn age(&mut self) {
        self.slots.retain_mut(|slot| std::mem::take(&mut slot.used));
        self.index = self.slots.iter().enumerate().map(|(at, slot)| (slot.key.clone(), at)).collect();
        self.hand = 0;
    }

    /// Moves the hand to the first slot that was not used since the hand last passed. Ends within two rounds.
    fn victim(&mut self) -> usize {
        loop {
            let at = self.hand % self.slots.len();
            self.hand = at + 1;
            if !std::mem::take(&mut self.slots[at].used) {
                return at;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_stays_and_what_is_not_goes() {
        let mut clock = Clock::new(2);
        clock.insert(1, 'a');
        clock.insert(2, 'b');
        clock.get(&1);
        assert_eq!(clock.insert(3, 'c'), Some((2, 'b')));
        assert_eq!(clock.get(&1), Some(&mut 'a'));
        assert_eq!(clock.get(&2), None);
    }

    #[test]
    fn what_is_put_in_within_less_room_takes_no_more() {
        let mut clock = Clock::new(4);
        for n in 0..10 {
            clock.insert_within(n, n, 2);
        }
        assert_eq!((clock.get(&8).copied(), clock.get(&9).copied(), clock.get(&7)), (Some(8), Some(9), None));
        assert!(clock.insert(10, 10).is_none() && clock.insert(11, 11).is_none());
        assert!(clock.insert_within(12, 12, 2).is_some());
    }

    #[test]
    fn a_removal_keeps_the_others_findable() {
        let mut clock = Clock::new(4);
        (0..4).for_each(|n| assert!(clock.insert(n, n * 10).is_none()));
        assert_eq!(clock.remove(&0), Some(0));
        clock.retain(|key, _| *key != 2);
        assert_eq!(
            (clock.get(&1).copied(), clock.get(&2).copied(), clock.get(&3).copied()),
            (Some(10), None, Some(30))
        );
    }

    #[test]
    fn what_was_not_used_between_two_looks_goes() {
        let mut clock = Clock::new(4);
        clock.insert(1, 'a');
        clock.insert(2, 'b');
        clock.get(&1);
        clock.age();
        assert_eq!((clock.remove(&2), clock.get(&1).copied()), (None, Some('a')));
    }
}
