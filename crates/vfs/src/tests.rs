//! Behaviour of the whole file system over a source in memory.

mod beliefs;
