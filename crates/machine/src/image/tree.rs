//! A root file system in memory, without the contents of its files.
//!
//! What an archive says is put together here, where no name leads anywhere but within: a symbolic link on the way to a name is
//! followed as the guest would follow it, with the tree's root as the end of all `..`. Nothing of it is ever a file of this
//! computer.

use std::collections::BTreeMap;

use wire::api::ErrorKind;

use crate::error::{Error, Result};

/// The longest name in a directory.
pub const NAME_BYTES_MAX: usize = 255;

/// The longest path, and the longest target of a link.
pub const PATH_BYTES_MAX: usize = 4095;

/// The most files of one tree. A distribution has some ten thousand; each takes memory of the daemon while an image is made.
pub const ENTRIES_MAX: usize = 1_000_000;

/// The most that names and targets have together.
pub const TEXT_BYTES_MAX: usize = 128 << 20;

/// The most links that are followed on the way to one name, as in the kernel.
const LINKS_MAX: usize = 40;

/// The most names that are gone through on all ways to names, those that links lead through included. A distribution takes some
/// hundred thousand.
const STEPS_MAX: u64 = 50_000_000;

/// The most names that a file has.
const NAMES_MAX: u32 = 65_000;

/// A place in [`Tree::nodes`].
pub type NodeId = usize;

/// The root.
pub const ROOT: NodeId = 0;

/// A root file system.
#[derive(Debug)]
pub struct Tree {
    /// All that were ever put into it. What has no name any more stays here.
    nodes: Vec<Node>,
    text_bytes: usize,
    /// How many names may be gone through yet.
    steps_left: u64,
}

/// A file of any kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// What it is.
    pub kind: Kind,
    /// Who may do what with it.
    pub owner: Owner,
    /// How many names it has. Of a directory, zero or one.
    pub names: u32,
    /// The directory that it was put into; of the root, the root.
    above: NodeId,
}

/// Who may do what with a file, and when it was changed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Owner {
    /// The twelve lowest bits of its mode.
    pub mode: u16,
    /// Its user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// When its content was changed, in seconds since 1970.
    pub modified: u64,
    /// The kernel's `security.capability`, as it is.
    pub capability: Option<Box<[u8]>>,
}

/// What a file is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// With what is in it, by name.
    Directory(BTreeMap<Box<[u8]>, NodeId>),
    /// A regular file.
    File {
        /// Its length.
        bytes: u64,
        /// Which entry of which layer has its content.
        content: Content,
    },
    /// A symbolic link, with its target.
    Link(Box<[u8]>),
    /// A character device: major and minor number.
    Characters(u32, u32),
    /// A block device.
    Blocks(u32, u32),
    /// A named pipe.
    Pipe,
}

/// The place of a content: the layer's number, and the entry's number in it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Content {
    /// The layer.
    pub layer: u32,
    /// The entry.
    pub entry: u64,
}

impl Default for Tree {
    fn default() -> Tree {
        let owner = Owner { mode: 0o755, ..Owner::default() };
        let root = Node { kind: Kind::Directory(BTreeMap::new()), owner, names: 1, above: ROOT };
        Tree { nodes: vec![root], text_bytes: 0, steps_left: STEPS_MAX }
    }
}

impl Tree {
    /// A file.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id]
    }

    /// How many numbers of files there are: files without a name have one too.
    pub fn numbers(&self) -> usize {
        self.nodes.len()
    }

    /// The directory that another one is in; of the root, the root.
    pub fn above(&self, id: NodeId) -> NodeId {
        self.nodes[id].above
    }

    /// All files that have a name, each once: directories before what is in them, and in one directory by name.
    pub fn walk(&self) -> Vec<NodeId> {
        let mut seen = vec![false; self.nodes.len()];
        let (mut found, mut ahead) = (Vec::new(), vec![ROOT]);
        while let Some(id) = ahead.pop() {
            if std::mem::replace(&mut seen[id], true) {
                continue;
            }
            found.push(id);
            ahead.extend(self.children(id).into_iter().flat_map(|children| children.values().rev()));
        }
        found
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.children(ROOT).is_none_or(BTreeMap::is_empty)
    }

    /// What is in a directory.
    pub fn children(&self, id: NodeId) -> Option<&BTreeMap<Box<[u8]>, NodeId>> {
        match &self.nodes[id].kind {
            Kind::Directory(children) => Some(children),
            _ => None,
        }
    }

    /// Puts a file there, in the place of what was there. A directory keeps what is in it.
    pub fn put(&mut self, path: &[u8], kind: Kind, owner: Owner) -> Result<()> {
        if let Kind::Link(target) = &kind {
            check_target(path, target)?;
        }
        let is_directory = matches!(kind, Kind::Directory(_));
        let (above, name) = match self.place(path)? {
            (above, Some(name)) => (above, name),
            (root, None) if is_directory => {
                self.nodes[root].owner = owner;
                return Ok(());
            }
            (_, None) => return Err(refused("the root is no directory")),
        };
        let there = self.child(above, name);
        if let Some(there) = there.filter(|&there| is_directory && self.children(there).is_some()) {
            self.nodes[there].owner = owner;
            return Ok(());
        }
        self.remove(above, name);
        self.add(above, name, kind, owner).map(drop)
    }

    /// Gives a file that is there another name.
    pub fn link(&mut self, path: &[u8], to: &[u8]) -> Result<()> {
        let file = self.find(to)?;
        let file = file.filter(|&file| self.children(file).is_none());
        let Some(file) = file else {
            let (path, to) = (shown(path), shown(to));
            return Err(refused(format!("`{path}` is another name of `{to}`, which is no file before it")));
        };
        let (above, name) = match self.place(path)? {
            (above, Some(name)) => (above, name),
            (_, None) => return Err(refused("the root is no directory")),
        };
        if self.child(above, name) == Some(file) {
            return Ok(());
        }
        if self.nodes[file].names >= NAMES_MAX {
            return Err(refused(format!("`{}` has more than {NAMES_MAX} names", shown(to))));
        }
        // It may be the last other name that goes.
        self.nodes[file].names += 1;
        self.remove(above, name);
        self.name(above, name, file)
    }

    /// Takes a file away, with all that is below it. What is not there is not missed.
    pub fn erase(&mut self, path: &[u8]) -> Result<()> {
        let names = names(path)?;
        let Some((last, parents)) = names.split_last() else { return Ok(()) };
        let (mut at, mut links) = (ROOT, 0);
        for name in parents {
            let Some(next) = self.step(at, name, &mut links)? else { return Ok(()) };
            at = next;
        }
        self.remove(at, last);
        Ok(())
    }

    /// Takes all away that is in a directory. What is none has nothing in it.
    pub fn clear(&mut self, path: &[u8]) -> Result<()> {
        let Some(directory) = self.find(path)? else { return Ok(()) };
        let names: Vec<Box<[u8]>> =
            self.children(directory).into_iter().flatten().map(|(name, _)| name.clone()).collect();
        for name in names {
            self.remove(directory, &name);
        }
        Ok(())
    }

    /// The file of this path, if there is one. Links are followed on the way to it, and not at its end.
    fn find(&mut self, path: &[u8]) -> Result<Option<NodeId>> {
        let names = names(path)?;
        let Some((last, parents)) = names.split_last() else { return Ok(Some(ROOT)) };
        let (mut at, mut links) = (ROOT, 0);
        for name in parents {
            let Some(next) = self.step(at, name, &mut links)? else { return Ok(None) };
            at = next;
        }
        Ok(self.child(at, last))
    }

    /// The directory that is to have the last name of a path, and that name; none for the root. Directories that nobody has
    /// mentioned are made.
    fn place<'a>(&mut self, path: &'a [u8]) -> Result<(NodeId, Option<&'a [u8]>)> {
        let names = names(path)?;
        let Some((last, parents)) = names.split_last() else { return Ok((ROOT, None)) };
        let (mut at, mut links) = (ROOT, 0);
        for name in parents {
            at = match self.step(at, name, &mut links)? {
                Some(next) => next,
                None if self.child(at, name).is_some() => {
                    let path = shown(path);
                    return Err(refused(format!("`{path}` is below something that is no directory")));
                }
                None => {
                    let owner = Owner { mode: 0o755, ..Owner::default() };
                    self.add(at, name, Kind::Directory(BTreeMap::new()), owner)?
                }
            };
        }
        Ok((at, Some(last)))
    }

    /// The directory that is reached by a name, through whatever links there are. `None` if that leads to none.
    fn step(&mut self, from: NodeId, name: &[u8], links: &mut usize) -> Result<Option<NodeId>> {
        let (mut at, mut ahead) = (from, vec![name]);
        while let Some(name) = ahead.pop() {
            self.steps_left = self.steps_left.checked_sub(1).ok_or_else(|| {
                refused("the ways to its names, with the links on them, are too long together")
            })?;
            match name {
                b"" | b"." => continue,
                b".." => {
                    at = self.nodes[at].above;
                    continue;
                }
                _ => {}
            }
            let Some(next) = self.child(at, name) else { return Ok(None) };
            match &self.nodes[next].kind {
                Kind::Directory(_) => at = next,
                Kind::Link(target) => {
                    *links += 1;
                    if *links > LINKS_MAX {
                        return Err(refused(format!("too many links lead on from `{}`", shown(name))));
                    }
                    if target.starts_with(b"/") {
                        at = ROOT;
                    }
                    ahead.extend(target.split(|&byte| byte == b'/').rev());
                }
                _ => return Ok(None),
            }
        }
        Ok(Some(at))
    }

    fn child(&self, of: NodeId, name: &[u8]) -> Option<NodeId> {
        self.children(of)?.get(name).copied()
    }

    fn add(&mut self, above: NodeId, name: &[u8], kind: Kind, owner: Owner) -> Result<NodeId> {
        let id = self.nodes.len();
        if id > ENTRIES_MAX {
            return Err(refused(format!("a root file system has no more than {ENTRIES_MAX} files")));
        }
        if let Kind::Link(target) = &kind {
            self.text_bytes += target.len();
        }
        self.nodes.push(Node { kind, owner, names: 1, above });
        self.name(above, name, id)?;
        Ok(id)
    }

    fn name(&mut self, above: NodeId, name: &[u8], file: NodeId) -> Result<()> {
        self.text_bytes += name.len();
        if self.text_bytes > TEXT_BYTES_MAX {
            return Err(refused(format!("its names have more than {} MiB together", TEXT_BYTES_MAX >> 20)));
        }
        if let Kind::Directory(children) = &mut self.nodes[above].kind {
            children.insert(name.into(), file);
        }
        Ok(())
    }

    /// Takes a name away, with all that is below it.
    fn remove(&mut self, above: NodeId, name: &[u8]) {
        let Kind::Directory(children) = &mut self.nodes[above].kind else { return };
        let mut gone: Vec<NodeId> = children.remove(name).into_iter().collect();
        while let Some(id) = gone.pop() {
            self.nodes[id].names -= 1;
            if let Kind::Directory(children) = &mut self.nodes[id].kind {
                gone.extend(std::mem::take(children).into_values());
            }
        }
    }
}

fn refused(why: impl Into<String>) -> Error {
    Error::new(ErrorKind::Usage, why)
}

fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(&path[..path.len().min(200)]).escape_debug().to_string()
}

fn check_target(path: &[u8], target: &[u8]) -> Result<()> {
    match target.is_empty() || target.len() > PATH_BYTES_MAX || target.contains(&0) {
        true => Err(refused(format!("the link `{}` leads to what is no path", shown(path)))),
        false => Ok(()),
    }
}

/// The names of a path. What leads upwards is refused, and so is what no kernel takes.
fn names(path: &[u8]) -> Result<Vec<&[u8]>> {
    let names = path.split(|&byte| byte == b'/').filter(|name| !name.is_empty() && *name != b".");
    let names: Vec<&[u8]> = names.collect();
    if names.contains(&&b".."[..]) {
        return Err(refused(format!("`{}` leads out of the root file system", shown(path))));
    }
    let is_short = path.len() <= PATH_BYTES_MAX && names.iter().all(|name| name.len() <= NAME_BYTES_MAX);
    match is_short && !path.contains(&0) {
        true => Ok(names),
        false => Err(refused(format!("`{}` is no name that a kernel takes", shown(path)))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory() -> Kind {
        Kind::Directory(BTreeMap::new())
    }

    fn file(entry: u64) -> Kind {
        Kind::File { bytes: 1, content: Content { entry, ..Content::default() } }
    }

    fn link(to: &str) -> Kind {
        Kind::Link(to.as_bytes().into())
    }

    /// What an archive with these entries has, as paths.
    fn tree(entries: &[(&str, Kind)]) -> Result<Tree> {
        let mut tree = Tree::default();
        for (path, kind) in entries {
            tree.put(path.as_bytes(), kind.clone(), Owner::default())?;
        }
        Ok(tree)
    }

    fn entry_of(tree: &mut Tree, path: &str) -> Option<u64> {
        let file = tree.find(path.as_bytes()).unwrap()?;
        match tree.node(file).kind {
            Kind::File { content, .. } => Some(content.entry),
            _ => None,
        }
    }

    #[test]
    fn no_name_and_no_link_leads_out_of_the_tree() {
        for path in ["../etc/passwd", "a/../../b", "..", "a/..", &"a/".repeat(3000), &"n".repeat(256), "a\0b"]
        {
            let path = path.replace("\\0", "\0");
            assert!(tree(&[(&path, file(0))]).is_err(), "{path}");
        }
        let mut inside = tree(&[
            ("/etc", directory()),
            ("out", link("../../../../etc")),
            ("absolute", link("/etc")),
            ("out/one", file(1)),
            ("absolute/two", file(2)),
        ])
        .unwrap();
        assert_eq!((entry_of(&mut inside, "etc/one"), entry_of(&mut inside, "etc/two")), (Some(1), Some(2)));
        assert_eq!(inside.walk().len(), 6);
    }

    #[test]
    fn links_that_lead_in_circles_or_nowhere_are_refused() {
        for to in ["a", "b", "none", "file", ""] {
            let made = tree(&[("b", link("a")), ("file", file(0)), ("a", link(to)), ("a/x", file(1))]);
            assert!(made.is_err(), "{to}");
        }
    }

    #[test]
    fn ways_that_are_too_long_together_are_refused() {
        let far = "a/../".repeat(500) + "a";
        let mut tree = tree(&[("a", directory()), ("far", link(&far))]).unwrap();
        tree.steps_left = 5000;
        let put =
            |tree: &mut Tree, at: u64| tree.put(format!("far/{at}").as_bytes(), file(at), Owner::default());
        for at in 0..4 {
            put(&mut tree, at).unwrap();
        }
        let error = put(&mut tree, 4).unwrap_err();
        assert!(error.kind == ErrorKind::Usage && error.message.contains("too long"), "{error}");
        assert!(tree.link(b"b", b"far/1").is_err());
    }

    #[test]
    fn what_comes_later_is_in_the_place_of_what_was_there() {
        let mut tree = tree(&[
            ("a/b/c", file(1)),
            ("a", directory()),
            ("x", file(2)),
            ("x", file(3)),
            ("l", link("a")),
            ("l", directory()),
        ])
        .unwrap();
        assert_eq!((entry_of(&mut tree, "a/b/c"), entry_of(&mut tree, "x")), (Some(1), Some(3)));
        assert_eq!(entry_of(&mut tree, "l/b/c"), None);
        tree.put(b"a", file(4), Owner::default()).unwrap();
        assert_eq!(entry_of(&mut tree, "a"), Some(4));
        assert_eq!(tree.walk().len(), 4);
    }

    #[test]
    fn another_name_is_of_a_file_that_is_there() {
        let mut tree = tree(&[("a/b", file(1)), ("l", link("a"))]).unwrap();
        tree.link(b"c", b"l/b").unwrap();
        tree.link(b"a/b", b"/c").unwrap();
        let file = tree.find(b"c").unwrap().unwrap();
        assert_eq!(tree.node(file).names, 2);
        tree.put(b"a/b", directory(), Owner::default()).unwrap();
        assert_eq!((tree.node(file).names, entry_of(&mut tree, "c")), (1, Some(1)));
        for to in ["a", "", "none", "../c", "c/d"] {
            assert!(tree.link(b"d", to.as_bytes()).is_err(), "{to}");
        }
    }
}
