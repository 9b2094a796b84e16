//! A root file system as ext4, written at once from a [`Tree`].
//!
//! All sizes are known before the first byte is written, so everything has its place from the beginning ([`Layout`]), and nothing
//! is ever moved. Blocks have 4096 bytes, groups 32768 blocks, and every group is whole. In each group:
//!
//! | blocks | content |
//! |---|---|
//! | 1, and those of the group descriptors | the superblock and all descriptors; in groups 0, 1, and the powers of 3, 5 and 7 |
//! | 1 | which blocks are taken |
//! | 1 | which inodes are taken |
//! | inodes / 16 | the inodes, of 256 bytes |
//! | the others | journal, directories, contents: one after the other, over all groups |
//!
//! A file's blocks are as many extents as groups that they lie in, four of them in the inode, and up to 340 in a block of their
//! own for each of up to four others. Directories are lists: the kernel makes a hashed one of one that outgrows its first block,
//! and those that are longer from the beginning stay lists. Blocks of zeros are not written: the file on this computer stays
//! sparse, however long the contents are. Names and numbers are those of the kernel's `Documentation/filesystems/ext4`. There are
//! no checksums of metadata.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;

use wire::api::ErrorKind;

use super::tree::{Kind, Node, NodeId, ROOT, Tree};
use crate::error::{Error, Result};

const BLOCK_BYTES: u64 = 4096;
const GROUP_BLOCKS: u32 = 32_768;
const INODE_BYTES: u64 = 256;
const INODES_PER_BLOCK: u32 = (BLOCK_BYTES / INODE_BYTES) as u32;
const DESCRIPTOR_BYTES: usize = 32;

/// The most inodes of a group: as many as bits of a block.
const GROUP_INODES_MAX: u32 = 32_768;

/// The first inode that is not the file system's own.
const FIRST_INODE: u32 = 11;
const ROOT_INODE: u32 = 2;
const JOURNAL_INODE: u32 = 8;

/// The most extents of a file: four blocks of them.
const EXTENTS_MAX: usize = 4 * EXTENTS_PER_BLOCK;
const EXTENTS_PER_BLOCK: usize = 340;

/// The longest target of a link that is in its inode.
const FAST_LINK_BYTES: usize = 59;

/// Blocks of a journal: one for each of so many others, within the limits that `mke2fs` has.
const JOURNAL_SHARE: u32 = 64;
const JOURNAL_BLOCKS: std::ops::RangeInclusive<u32> = 1024..=16_384;

/// The most subdirectories that are counted.
const LINKS_MAX: u32 = 65_000;

/// The longest `security.capability`: the kernel has three forms, of 12, 20 and 24 bytes.
pub const CAPABILITY_BYTES_MAX: usize = 24;

const ZEROS: [u8; BLOCK_BYTES as usize] = [0; BLOCK_BYTES as usize];

/// How much is written at once.
const CHUNK_BYTES: usize = 1 << 20;

/// Blocks that follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Extent {
    start: u32,
    blocks: u32,
}

/// The places of everything.
#[derive(Debug)]
pub struct Layout {
    groups: u32,
    /// Of each group.
    inodes: u32,
    journal: Vec<Extent>,
    /// In the order of their inodes, from [`FIRST_INODE`] on. The root is not among them.
    files: Vec<Placed>,
    root: Placed,
    /// How many blocks of each group are taken.
    taken: Vec<u32>,
}

/// A file with its blocks.
#[derive(Debug)]
struct Placed {
    node: NodeId,
    extents: Vec<Extent>,
    /// The blocks that list the extents, if these are too many for the inode.
    lists: Vec<u32>,
}

/// Where the next block is.
struct Allocator<'a> {
    layout: &'a mut Layout,
    group: u32,
}

impl Layout {
    /// Places a tree, with room for `spare` bytes more. `None` if that takes more than `bytes_max`.
    pub fn of(tree: &Tree, spare: u64, bytes_max: u64) -> Option<Layout> {
        let nodes: Vec<NodeId> = tree.walk().into_iter().filter(|&id| id != ROOT).collect();
        let blocks = |id: NodeId| content_bytes(tree, id).div_ceil(BLOCK_BYTES);
        let contents = nodes.iter().chain([&ROOT]).map(|&id| blocks(id));
        // The lists of extents are among the spare blocks: there is one for each 340 groups that a file lies in.
        let needed = contents.fold(spare / BLOCK_BYTES, u64::saturating_add);
        let mut groups = u32::try_from(needed.div_ceil(u64::from(GROUP_BLOCKS)).max(1)).ok()?;
        let mut layout = loop {
            let layout = Layout::empty(groups, nodes.len() as u64);
            if layout.bytes() > bytes_max {
                return None;
            }
            if layout.inodes <= GROUP_INODES_MAX
                && layout.room() >= needed + u64::from(layout.journal_blocks())
            {
                break layout;
            }
            groups += 1;
        };
        let mut allocator = Allocator { group: 0, layout: &mut layout };
        let journal = allocator.layout.journal_blocks();
        let journal = allocator.take(u64::from(journal))?;
        let root = allocator.place(ROOT, blocks(ROOT))?;
        let files: Option<Vec<Placed>> = nodes.iter().map(|&id| allocator.place(id, blocks(id))).collect();
        (layout.journal, layout.root, layout.files) = (journal, root, files?);
        Some(layout)
    }

    /// With nothing in it, and inodes for so many files and those that are added later.
    fn empty(groups: u32, files: u64) -> Layout {
        let later = u64::from(groups) * u64::from(GROUP_BLOCKS) * BLOCK_BYTES / super::root::BYTES_PER_FILE;
        let inodes = (files + u64::from(FIRST_INODE) + later).div_ceil(u64::from(groups));
        let inodes = u32::try_from(inodes).unwrap_or(u32::MAX / 2).next_multiple_of(INODES_PER_BLOCK);
        let root = Placed { node: ROOT, extents: Vec::new(), lists: Vec::new() };
        let (journal, files) = (Vec::new(), Vec::new());
        let mut layout = Layout { groups, inodes, journal, files, root, taken: Vec::new() };
        layout.taken = (0..groups).map(|group| layout.overhead(group)).collect();
        layout
    }

    /// The length of the file system.
    pub fn bytes(&self) -> u64 {
        u64::from(self.groups) * u64::from(GROUP_BLOCKS) * BLOCK_BYTES
    }

    /// How much of it is written at the most, zeros that are not written included.
    pub fn written_bytes_max(&self) -> u64 {
        self.taken.iter().map(|&blocks| u64::from(blocks)).sum::<u64>() * BLOCK_BYTES
    }

    fn room(&self) -> u64 {
        self.taken.iter().map(|&taken| u64::from(GROUP_BLOCKS - taken)).sum()
    }

    fn journal_blocks(&self) -> u32 {
        (self.groups * (GROUP_BLOCKS / JOURNAL_SHARE)).clamp(*JOURNAL_BLOCKS.start(), *JOURNAL_BLOCKS.end())
    }

    fn descriptor_blocks(&self) -> u32 {
        (self.groups as usize * DESCRIPTOR_BYTES).div_ceil(BLOCK_BYTES as usize) as u32
    }

    /// The blocks at the beginning of a group that are no content.
    fn overhead(&self, group: u32) -> u32 {
        self.tables(group) + 2 + self.inodes / INODES_PER_BLOCK
    }

    /// The blocks of the superblock and the descriptors in a group.
    fn tables(&self, group: u32) -> u32 {
        if has_superblock(group) { 1 + self.descriptor_blocks() } else { 0 }
    }
}

impl Allocator<'_> {
    fn place(&mut self, node: NodeId, blocks: u64) -> Option<Placed> {
        let extents = self.take(blocks)?;
        if extents.len() > EXTENTS_MAX {
            return None;
        }
        let lists = if extents.len() <= 4 { 0 } else { extents.len().div_ceil(EXTENTS_PER_BLOCK) };
        let lists = self.take(lists as u64)?.into_iter().flat_map(Extent::each).collect();
        Some(Placed { node, extents, lists })
    }

    fn take(&mut self, mut blocks: u64) -> Option<Vec<Extent>> {
        let mut extents = Vec::new();
        while blocks > 0 {
            let taken = self.layout.taken.get_mut(self.group as usize)?;
            let free = GROUP_BLOCKS - *taken;
            if free == 0 {
                self.group += 1;
                continue;
            }
            let now = u64::from(free).min(blocks) as u32;
            extents.push(Extent { start: self.group * GROUP_BLOCKS + *taken, blocks: now });
            *taken += now;
            blocks -= u64::from(now);
        }
        Some(extents)
    }
}

impl Extent {
    fn each(self) -> impl Iterator<Item = u32> {
        self.start..self.start + self.blocks
    }
}

fn has_superblock(group: u32) -> bool {
    let is_power = |of: u32| {
        let mut power = of;
        while power < group {
            power *= of;
        }
        power == group
    };
    group <= 1 || is_power(3) || is_power(5) || is_power(7)
}

/// How many bytes a file's blocks hold.
fn content_bytes(tree: &Tree, id: NodeId) -> u64 {
    match &tree.node(id).kind {
        Kind::File { bytes, .. } => *bytes,
        Kind::Link(target) if target.len() > FAST_LINK_BYTES => target.len() as u64,
        Kind::Directory(_) => directory(tree, id, (0, 0), |_| 0).len() as u64,
        _ => 0,
    }
}

/// The blocks of a directory: of each entry the inode, its own length, that of its name, its kind, and its name, filled up to four
/// bytes. The last one of a block has all that is left of it. `numbers` are its own inode and that of the directory above.
fn directory(tree: &Tree, id: NodeId, numbers: (u32, u32), inode: impl Fn(NodeId) -> u32) -> Vec<u8> {
    const KIND_DIRECTORY: u8 = 2;
    let children = tree.children(id).into_iter().flatten();
    let children = children.map(|(name, &id)| (inode(id), kind_byte(&tree.node(id).kind), &name[..]));
    let own = [(numbers.0, KIND_DIRECTORY, &b"."[..]), (numbers.1, KIND_DIRECTORY, b"..")];
    let (mut bytes, mut last) = (Vec::new(), 0);
    for (inode, kind, name) in own.into_iter().chain(children) {
        let length = (8 + name.len()).next_multiple_of(4);
        let left = bytes.len().next_multiple_of(BLOCK_BYTES as usize) - bytes.len();
        if left < length && left > 0 {
            stretch(&mut bytes, last);
        }
        last = bytes.len();
        bytes.extend(inode.to_le_bytes());
        bytes.extend((length as u16).to_le_bytes());
        bytes.extend([name.len() as u8, kind]);
        bytes.extend(name);
        bytes.resize(last + length, 0);
    }
    stretch(&mut bytes, last);
    bytes
}

/// Has the entry at `last`, which is in the last block, end with that block.
fn stretch(bytes: &mut Vec<u8>, last: usize) {
    let end = bytes.len().next_multiple_of(BLOCK_BYTES as usize);
    // A block is shorter than what two bytes say.
    bytes[last + 4..last + 6].copy_from_slice(&((end - last) as u16).to_le_bytes());
    bytes.resize(end, 0);
}

/// What an entry of a directory says of a file.
fn kind_byte(kind: &Kind) -> u8 {
    match kind {
        Kind::File { .. } => 1,
        Kind::Directory(_) => 2,
        Kind::Characters(..) => 3,
        Kind::Blocks(..) => 4,
        Kind::Pipe => 5,
        Kind::Link(_) => 7,
    }
}

/// The highest bits of a file's mode.
fn mode_bits(kind: &Kind) -> u16 {
    match kind {
        Kind::File { .. } => 0o100_000,
        Kind::Directory(_) => 0o040_000,
        Kind::Characters(..) => 0o020_000,
        Kind::Blocks(..) => 0o060_000,
        Kind::Pipe => 0o010_000,
        Kind::Link(_) => 0o120_000,
    }
}

/// What a file system is told from others by.
#[derive(Debug, Clone, Copy)]
pub struct Identity {
    /// Sixteen bytes at random.
    pub uuid: [u8; 16],
    /// When it was made, in seconds since 1970.
    pub created: u64,
}

/// A file system whose directories, links and tables are written, and whose contents are yet to come.
#[derive(Debug)]
pub struct Ext4<'a> {
    tree: &'a Tree,
    layout: &'a Layout,
    file: File,
    path: &'a Path,
    /// Of each file of the tree; zero of one that has no name.
    inodes: Vec<u32>,
}

impl<'a> Ext4<'a> {
    /// Writes all but contents to an empty file.
    pub fn write(
        file: File,
        path: &'a Path,
        tree: &'a Tree,
        layout: &'a Layout,
        identity: Identity,
    ) -> Result<Ext4<'a>> {
        let mut inodes = vec![0; tree.numbers()];
        inodes[ROOT] = ROOT_INODE;
        for (at, placed) in layout.files.iter().enumerate() {
            inodes[placed.node] = FIRST_INODE + at as u32;
        }
        let ext4 = Ext4 { tree, layout, file, path, inodes };
        ext4.file.set_len(layout.bytes()).map_err(|error| ext4.failed(&error))?;
        ext4.write_inodes(identity)?;
        ext4.write_journal(identity)?;
        ext4.write_groups(identity)?;
        for placed in layout.files.iter().chain([&layout.root]) {
            ext4.write_lists(placed)?;
            match &tree.node(placed.node).kind {
                Kind::Directory(_) => {
                    let above = ext4.inodes[tree.above(placed.node)];
                    let numbers = (ext4.inodes[placed.node], above);
                    let bytes = directory(tree, placed.node, numbers, |id| ext4.inodes[id]);
                    ext4.write_content(placed, &mut &bytes[..], bytes.len() as u64)?;
                }
                Kind::Link(target) if target.len() > FAST_LINK_BYTES => {
                    ext4.write_content(placed, &mut &target[..], target.len() as u64)?;
                }
                _ => {}
            }
        }
        Ok(ext4)
    }

    /// Writes the content of a regular file that has a name. It has to be as long as the tree says.
    pub fn fill(&self, id: NodeId, content: &mut dyn Read) -> Result<()> {
        let at = self.inodes[id].checked_sub(FIRST_INODE).map(|at| at as usize);
        let Some(placed) = at.and_then(|at| self.layout.files.get(at)) else { return Ok(()) };
        self.write_content(placed, content, content_bytes(self.tree, id))
    }

    fn failed(&self, error: &std::io::Error) -> Error {
        Error::file("write", self.path, error)
    }

    fn put(&self, bytes: &[u8], at: u64) -> Result<()> {
        self.file.write_all_at(bytes, at).map_err(|error| self.failed(&error))
    }

    /// Blocks of zeros are left out.
    fn write_content(&self, placed: &Placed, content: &mut dyn Read, mut bytes: u64) -> Result<()> {
        let mut chunk = vec![0; CHUNK_BYTES.min(bytes as usize)];
        for extent in &placed.extents {
            let mut at = u64::from(extent.start) * BLOCK_BYTES;
            let end = at + u64::from(extent.blocks) * BLOCK_BYTES;
            while at < end && bytes > 0 {
                let length = (chunk.len() as u64).min(bytes).min(end - at) as usize;
                let read = content.read_exact(&mut chunk[..length]);
                read.map_err(|error| {
                    Error::new(ErrorKind::Failure, format!("the content of a file cannot be read: {error}"))
                })?;
                for (number, block) in chunk[..length].chunks(BLOCK_BYTES as usize).enumerate() {
                    if *block != ZEROS[..block.len()] {
                        self.put(block, at + number as u64 * BLOCK_BYTES)?;
                    }
                }
                at += length as u64;
                bytes -= length as u64;
            }
        }
        Ok(())
    }

    fn write_lists(&self, placed: &Placed) -> Result<()> {
        let mut before = 0;
        for (extents, &at) in placed.extents.chunks(EXTENTS_PER_BLOCK).zip(&placed.lists) {
            let block = extent_list(extents, before, EXTENTS_PER_BLOCK as u16);
            before += extents.iter().map(|extent| extent.blocks).sum::<u32>();
            self.put(&block, u64::from(at) * BLOCK_BYTES)?;
        }
        Ok(())
    }

    fn write_inodes(&self, identity: Identity) -> Result<()> {
        let own =
            [(ROOT_INODE, self.inode(&self.layout.root)), (JOURNAL_INODE, self.journal_inode(identity))];
        let files = self.layout.files.iter().enumerate();
        let files = files.map(|(at, placed)| (FIRST_INODE + at as u32, self.inode(placed)));
        for (number, inode) in own.into_iter().chain(files) {
            let (group, at) = ((number - 1) / self.layout.inodes, (number - 1) % self.layout.inodes);
            let table = group * GROUP_BLOCKS + self.layout.tables(group) + 2;
            self.put(&inode.0, u64::from(table) * BLOCK_BYTES + u64::from(at) * INODE_BYTES)?;
        }
        Ok(())
    }

    fn inode(&self, placed: &Placed) -> Inode {
        let node = self.tree.node(placed.node);
        let mut inode = Inode::new(mode_bits(&node.kind) | (node.owner.mode & 0o7777), node.owner.modified);
        inode.own(node);
        let children = self.tree.children(placed.node).into_iter().flatten();
        let directories = children.filter(|(_, id)| self.tree.children(**id).is_some()).count() as u32;
        let links = match &node.kind {
            Kind::Directory(_) if directories + 2 > LINKS_MAX => 1,
            Kind::Directory(_) => directories + 2,
            _ => node.names,
        };
        inode.half(26, links as u16);
        match &node.kind {
            Kind::Characters(major, minor) | Kind::Blocks(major, minor) => inode.device(*major, *minor),
            Kind::Link(target) if target.len() <= FAST_LINK_BYTES => {
                inode.size(target.len() as u64);
                inode.bytes(40, target);
            }
            Kind::Pipe => {}
            _ => {
                inode.size(content_bytes(self.tree, placed.node));
                inode.extents(&placed.extents, &placed.lists);
            }
        }
        inode
    }

    fn journal_inode(&self, identity: Identity) -> Inode {
        let mut inode = Inode::new(0o100_600, identity.created);
        inode.half(26, 1);
        inode.size(u64::from(self.layout.journal_blocks()) * BLOCK_BYTES);
        inode.extents(&self.layout.journal, &[]);
        inode
    }

    /// The journal's own superblock, whose numbers have their highest byte first: its mark, its kind, the blocks' length, how many
    /// there are, the first one of the log, and the first number of a commit.
    fn write_journal(&self, identity: Identity) -> Result<()> {
        let mut block = vec![0; 1024];
        let numbers = [0xc03b_3998, 4, 0, BLOCK_BYTES as u32, self.layout.journal_blocks(), 1, 1];
        for (at, number) in numbers.into_iter().enumerate() {
            block[at * 4..at * 4 + 4].copy_from_slice(&number.to_be_bytes());
        }
        block[48..64].copy_from_slice(&identity.uuid);
        block[64..68].copy_from_slice(&1_u32.to_be_bytes());
        let first = self.layout.journal.first().map_or(0, |extent| extent.start);
        self.put(&block, u64::from(first) * BLOCK_BYTES)
    }

    /// What is taken, and the superblock with its copies.
    fn write_groups(&self, identity: Identity) -> Result<()> {
        let layout = self.layout;
        let taken_inodes = FIRST_INODE - 1 + layout.files.len() as u32;
        let mut directories = vec![0_u16; layout.groups as usize];
        for placed in layout.files.iter().chain([&layout.root]) {
            if self.tree.children(placed.node).is_some() {
                directories[((self.inodes[placed.node] - 1) / layout.inodes) as usize] += 1;
            }
        }
        let mut descriptors = Vec::new();
        for group in 0..layout.groups {
            let first = group * GROUP_BLOCKS + layout.tables(group);
            let blocks = layout.taken[group as usize];
            let inodes = taken_inodes.saturating_sub(group * layout.inodes).min(layout.inodes);
            let mut descriptor = [0; DESCRIPTOR_BYTES];
            for (number, block) in [first, first + 1, first + 2].into_iter().enumerate() {
                descriptor[number * 4..number * 4 + 4].copy_from_slice(&block.to_le_bytes());
            }
            let counts = [GROUP_BLOCKS - blocks, layout.inodes - inodes, directories[group as usize].into()];
            for (number, count) in counts.into_iter().enumerate() {
                descriptor[12 + number * 2..14 + number * 2].copy_from_slice(&(count as u16).to_le_bytes());
            }
            descriptors.extend(descriptor);
            self.put(&bits(blocks, GROUP_BLOCKS), u64::from(first) * BLOCK_BYTES)?;
            self.put(&bits(inodes, layout.inodes), u64::from(first + 1) * BLOCK_BYTES)?;
        }
        for group in (0..layout.groups).filter(|&group| has_superblock(group)) {
            let start = u64::from(group) * u64::from(GROUP_BLOCKS) * BLOCK_BYTES;
            let superblock = self.superblock(identity, group, taken_inodes);
            // That of the first group is behind a place for a boot loader.
            self.put(&superblock.0, start + if group == 0 { 1024 } else { 0 })?;
            self.put(&descriptors, start + BLOCK_BYTES)?;
        }
        Ok(())
    }

    fn superblock(&self, identity: Identity, group: u32, taken_inodes: u32) -> Record<1024> {
        const JOURNAL: u32 = 0x4;
        const ATTRIBUTES: u32 = 0x8;
        const INDEX: u32 = 0x20;
        const KINDS_AND_EXTENTS: u32 = 0x2 | 0x40;
        // Few superblocks, large files, huge files, many subdirectories, larger inodes.
        const WRITERS: u32 = 0x1 | 0x2 | 0x8 | 0x20 | 0x40;
        const USER_ATTRIBUTES_AND_ACLS: u32 = 0x4 | 0x8;
        let layout = self.layout;
        let created = identity.created as u32;
        let mut block = Record([0; 1024]);
        let words = [
            (0, layout.groups * layout.inodes),
            (4, layout.groups * GROUP_BLOCKS),
            (12, layout.room() as u32),
            (16, layout.groups * layout.inodes - taken_inodes),
            (24, 2),
            (28, 2),
            (32, GROUP_BLOCKS),
            (36, GROUP_BLOCKS),
            (40, layout.inodes),
            (48, created),
            (64, created),
            (76, 1),
            (84, FIRST_INODE),
            (92, JOURNAL | ATTRIBUTES | INDEX),
            (96, KINDS_AND_EXTENTS),
            (100, WRITERS),
            (224, JOURNAL_INODE),
            (256, USER_ATTRIBUTES_AND_ACLS),
            (264, created),
            // Names are hashed as signed bytes.
            (352, 1),
        ];
        words.into_iter().for_each(|(at, word)| block.word(at, word));
        let halves = [(54, u16::MAX), (56, 0xef53), (58, 1), (60, 1), (88, INODE_BYTES as u16)];
        let halves = halves.into_iter().chain([(90, group as u16), (348, 32), (350, 32)]);
        halves.for_each(|(at, half)| block.half(at, half));
        block.bytes(104, &identity.uuid);
        block.bytes(120, b"stead-root");
        block.bytes(236, &identity.uuid);
        // Names are hashed by half of MD4; and the journal's inode is written down once more.
        block.bytes(252, &[1, 1]);
        let journal = self.journal_inode(identity);
        block.bytes(268, &journal.0[40..100]);
        block.word(332, layout.journal_blocks() * BLOCK_BYTES as u32);
        block
    }
}

/// Numbers with their lowest byte first, at their places.
#[derive(Debug, Clone)]
struct Record<const BYTES: usize>([u8; BYTES]);

type Inode = Record<{ INODE_BYTES as usize }>;

impl<const BYTES: usize> Record<BYTES> {
    fn bytes(&mut self, at: usize, bytes: &[u8]) {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn word(&mut self, at: usize, word: u32) {
        self.bytes(at, &word.to_le_bytes());
    }

    fn half(&mut self, at: usize, half: u16) {
        self.bytes(at, &half.to_le_bytes());
    }
}

impl Inode {
    fn new(mode: u16, modified: u64) -> Inode {
        /// The last moment that an inode can tell.
        const MODIFIED_MAX: u64 = (1 << 31) - 1 + (3 << 32);
        let modified = modified.min(MODIFIED_MAX);
        // The lower half is a signed number, to which the others are added.
        let epoch = ((modified + (1 << 31)) >> 32) as u32;
        let mut inode = Record([0; INODE_BYTES as usize]);
        inode.half(0, mode);
        inode.half(128, 32);
        [8, 12, 16, 144].into_iter().for_each(|at| inode.word(at, modified as u32));
        [132, 136, 140, 148].into_iter().for_each(|at| inode.word(at, epoch));
        inode
    }

    fn own(&mut self, node: &Node) {
        let (uid, gid) = (node.owner.uid.to_le_bytes(), node.owner.gid.to_le_bytes());
        for (at, half) in [(2, &uid[..2]), (120, &uid[2..]), (24, &gid[..2]), (122, &gid[2..])] {
            self.bytes(at, half);
        }
        if let Some(capability) = &node.owner.capability {
            self.capability(capability);
        }
    }

    /// The one attribute, behind the inode: a mark, the entry (length of the name, its prefix, the value's place after the mark
    /// and its length, the name), and at the end the value.
    fn capability(&mut self, value: &[u8]) {
        const MARK_AT: usize = 160;
        const SECURITY: u8 = 6;
        const NAME: &[u8] = b"capability";
        let at = INODE_BYTES as usize - CAPABILITY_BYTES_MAX;
        self.word(MARK_AT, 0xea02_0000);
        self.bytes(MARK_AT + 4, &[NAME.len() as u8, SECURITY]);
        self.half(MARK_AT + 6, (at - MARK_AT - 4) as u16);
        self.word(MARK_AT + 12, value.len() as u32);
        self.bytes(MARK_AT + 20, NAME);
        self.bytes(at, value);
    }

    fn size(&mut self, bytes: u64) {
        self.word(4, bytes as u32);
        self.word(108, (bytes >> 32) as u32);
    }

    fn device(&mut self, major: u32, minor: u32) {
        match major < 256 && minor < 256 {
            true => self.word(40, (major << 8) | minor),
            false => self.word(44, (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)),
        }
    }

    fn extents(&mut self, extents: &[Extent], lists: &[u32]) {
        const USES_EXTENTS: u32 = 0x8_0000;
        let blocks: u64 = extents.iter().map(|extent| u64::from(extent.blocks)).sum();
        // In sectors.
        let sectors = (blocks + lists.len() as u64) * (BLOCK_BYTES / 512);
        self.word(28, sectors as u32);
        self.half(116, (sectors >> 32) as u16);
        self.word(32, USES_EXTENTS);
        if lists.is_empty() {
            self.bytes(40, &extent_list(extents, 0, 4));
            return;
        }
        let mut root = extent_header(lists.len(), 4, 1);
        let mut before = 0_u32;
        for (extents, list) in extents.chunks(EXTENTS_PER_BLOCK).zip(lists) {
            root.extend([before.to_le_bytes(), list.to_le_bytes(), [0; 4]].concat());
            before += extents.iter().map(|extent| extent.blocks).sum::<u32>();
        }
        self.bytes(40, &root);
    }
}

fn extent_header(entries: usize, most: u16, depth: u16) -> Vec<u8> {
    let halves = [0xf30a, entries as u16, most, depth, 0, 0];
    halves.into_iter().flat_map(u16::to_le_bytes).collect()
}

/// Extents behind their header: of each the first block of the file, how many there are, and where.
fn extent_list(extents: &[Extent], mut before: u32, most: u16) -> Vec<u8> {
    let mut list = extent_header(extents.len(), most, 0);
    for extent in extents {
        list.extend(before.to_le_bytes());
        list.extend([extent.blocks as u16, 0].into_iter().flat_map(u16::to_le_bytes));
        list.extend(extent.start.to_le_bytes());
        before += extent.blocks;
    }
    list
}

/// A block of bits, of which the first `taken` are set, and all that stand for nothing.
fn bits(taken: u32, of: u32) -> Vec<u8> {
    let is_set = |bit: u32| bit < taken || bit >= of;
    let byte = |at: u32| (0..8).filter(|bit| is_set(at * 8 + bit)).fold(0, |byte, bit| byte | 1 << bit);
    (0..BLOCK_BYTES as u32).map(byte).collect()
}
