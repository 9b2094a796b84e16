//! A data cache in memory that does what a test tells it to.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;

use crate::cache::{Block, DataCache};

/// How a [`MemoryCache`] fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CacheFault {
    #[default]
    None,
    /// It finds nothing.
    Blind,
    /// It keeps nothing.
    Full,
    /// What it finds is one byte short.
    Short,
    /// It panics when it is looked into.
    Panics,
}

/// See the module's documentation. Everything is kept at once.
#[derive(Debug, Default)]
pub struct MemoryCache {
    kept: Mutex<HashMap<Block, Bytes>>,
    fault: Mutex<CacheFault>,
    found: AtomicUsize,
}

impl MemoryCache {
    pub fn fail(&self, fault: CacheFault) {
        *self.fault.lock() = fault;
    }

    /// How many blocks it has.
    pub fn blocks(&self) -> usize {
        self.kept.lock().len()
    }

    /// How many blocks were found.
    pub fn found(&self) -> usize {
        self.found.load(Ordering::Relaxed)
    }
}

impl DataCache for MemoryCache {
    fn find(&self, block: &Block) -> Option<Bytes> {
        let fault = *self.fault.lock();
        assert_ne!(fault, CacheFault::Panics, "as it was told to");
        let bytes = self.kept.lock().get(block).filter(|_| fault != CacheFault::Blind)?.clone();
        self.found.fetch_add(1, Ordering::Relaxed);
        match fault {
            CacheFault::Short => Some(bytes.slice(1..)),
            _ => Some(bytes),
        }
    }

    fn keep(&self, block: Block, bytes: Bytes) {
        assert_eq!(bytes.len(), block.length() as usize, "{block:?}");
        if *self.fault.lock() != CacheFault::Full {
            self.kept.lock().insert(block, bytes);
        }
    }
}
