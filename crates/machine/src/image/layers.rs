//! Layers: archives of which each says what is different of all below it, as images of containers have them.
//!
//! The file systems of the layers are never there one after the other. All layers are read once, from the lowest, and put together
//! as one [`Tree`] without contents, in which each file knows the layer and the entry that have its content. Then the file system is
//! laid out, and the layers are read again: of each, the contents go to their places that are left of it. So nothing is unpacked but
//! into the new file system, a name is only ever a name in the tree, and no content is written that a later layer replaces.
//!
//! What a layer takes away of those below it (the OCI image specification, "layer.md"; the names are those of AUFS):
//!
//! | entry | takes away |
//! |---|---|
//! | `DIR/.wh.NAME` | `DIR/NAME`, with all below it |
//! | `DIR/.wh..wh..opq` | all that is in `DIR` |
//! | others with `.wh..wh.` | nothing; they are passed over |
//!
//! These hold for the layers below only, wherever they are in their own. So the entries of a layer are kept until all of it has been
//! read: first it takes away, then it adds. An entry of a directory leaves in it what is there; any other replaces what has its
//! name. Hard links lead to whatever has that path by then, in whichever layer it came.
//!
//! A layer is told by the digest of its archive as it is unpacked, all of which is read for it, also what is behind the end of the
//! archive. What all of them unpack to together has a limit, and so has what is kept of one.

use std::path::PathBuf;

use wire::api::ErrorKind;

use super::archive::{self, Archive, Entry, Item, UNPACKED_BYTES_MAX};
use super::digest::Digest;
use super::tree::{ENTRIES_MAX, Kind, TEXT_BYTES_MAX, Tree};
use crate::course::Course;
use crate::error::{Error, Result};

/// What the name of an entry begins with that takes something away.
const WHITEOUT: &[u8] = b".wh.";

/// The same for what is only between programs.
const PRIVATE: &[u8] = b".wh..wh.";

/// That nothing of the layers below is in its directory.
const OPAQUE: &[u8] = b".wh..wh..opq";

/// A layer.
#[derive(Debug, Clone)]
pub struct Layer {
    /// Its file: a tar, as it is or packed.
    pub path: PathBuf,
    /// The digest of its tar.
    pub unpacked: Digest,
}

/// What all layers are together, of which each is what it says to be. Blocks.
pub fn merge(layers: &[Layer], course: &Course) -> Result<Tree> {
    merge_within(layers, UNPACKED_BYTES_MAX, course)
}

fn merge_within(layers: &[Layer], mut left: u64, course: &Course) -> Result<Tree> {
    let mut tree = Tree::default();
    for (number, layer) in layers.iter().enumerate() {
        let told = |error: Error| Error {
            message: format!("layer {} of {}: {}", number + 1, layers.len(), error.message),
            ..error
        };
        left = apply(&mut tree, number as u32, layer, left, course).map_err(told)?;
    }
    Ok(tree)
}

/// Takes away and adds what a layer says. Returns how much the others may unpack to.
fn apply(tree: &mut Tree, number: u32, layer: &Layer, left: u64, course: &Course) -> Result<u64> {
    let mut archive = archive::open_layer(&layer.path, number, left, course)?;
    let entries = read(&mut archive)?;
    let (digest, left) = archive.end()?;
    if digest != layer.unpacked {
        let message = format!("it unpacks to {digest}, and should to {}", layer.unpacked);
        return Err(Error::new(ErrorKind::Refused, message));
    }
    let (taken, added): (Vec<Entry>, Vec<Entry>) = entries.into_iter().partition(is_whiteout);
    for entry in &taken {
        take_away(tree, &entry.path)?;
    }
    for entry in added {
        match entry.item {
            Item::File(kind) => tree.put(&entry.path, kind, entry.owner)?,
            Item::Name(of) => tree.link(&entry.path, &of)?,
        }
    }
    Ok(left)
}

fn read(archive: &mut Archive<archive::Bounded<'_>>) -> Result<Vec<Entry>> {
    let (mut entries, mut text_bytes) = (Vec::new(), 0);
    while let Some(entry) = archive.next()? {
        let target = match &entry.item {
            Item::File(Kind::Link(target)) => target.len(),
            Item::Name(of) => of.len(),
            Item::File(_) => 0,
        };
        text_bytes += entry.path.len() + target;
        entries.push(entry);
        if entries.len() > ENTRIES_MAX || text_bytes > TEXT_BYTES_MAX {
            return Err(Error::new(ErrorKind::Usage, "it has too many entries for a root file system"));
        }
    }
    Ok(entries)
}

/// A path's directory and last name.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    let end = path.iter().rposition(|&byte| byte != b'/').map_or(0, |last| last + 1);
    let start = path[..end].iter().rposition(|&byte| byte == b'/').map_or(0, |slash| slash + 1);
    (&path[..start], &path[start..end])
}

fn is_whiteout(entry: &Entry) -> bool {
    split(&entry.path).1.starts_with(WHITEOUT) || is_private(&entry.path)
}

fn is_private(path: &[u8]) -> bool {
    path.split(|&byte| byte == b'/').any(|name| name.starts_with(PRIVATE) && name != OPAQUE)
}

fn take_away(tree: &mut Tree, path: &[u8]) -> Result<()> {
    let (directory, name) = split(path);
    if is_private(path) {
        return Ok(());
    }
    if name == OPAQUE {
        return tree.clear(directory);
    }
    match &name[WHITEOUT.len()..] {
        b"" | b"." | b".." => {
            Err(Error::new(ErrorKind::Usage, "it takes away what is no file: an entry is called `.wh.`"))
        }
        gone => tree.erase(&[directory, gone].concat()),
    }
}

#[cfg(test)]
mod tests;
